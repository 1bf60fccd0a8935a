"""The hub's own keys, in one small file beside none of its data.

The file is TOML.  It is made once, whole or not at all, and never over an older one:
with another pepper no address would be recognised again.  Keep it outside the backups
of the database, and in a backup of its own; docs/operating.md "Secrets".

Nobody but the hub shall read it.  A file of the hub's own is 0600 or 0400.  One that
belongs to somebody else, as root, may be readable by the hub's group, as 0440.  What a
container was given in /run/secrets keeps the mode it came with, 0444 as a rule: there
is nobody else in the container, and only the system can put a file there; it must not
be writable by others.

All replicas of a hub have the same file.  The salt and the peppers are compared with
the database at each start, since they can never change.  The other two may be replaced,
on all replicas at once: one with another ``internal_key`` hears no notice of the others
and limits codes for itself, with another ``otp_key`` a code works at the replica that
mailed it only.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hub.files import sync_folder

SALT_BYTES = 16
KEY_BYTES = 32
# Where Docker, Podman and Compose put what a container is given as a secret.
GIVEN = Path("/run/secrets")

Random = Callable[[int], bytes]


class BadSecrets(Exception):
    """The secrets cannot be used; the text is a sentence for the operator.  Do not start."""


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """The keys.  None of them opens a person's data."""

    peppers: tuple[bytes, ...]  # 32 bytes each, oldest first: an address tag is made with all of them
    hub_salt: bytes  # 16 bytes; can never change
    otp_key: bytes  # 32 bytes; a new one only ends the codes under way
    internal_key: bytes  # 32 bytes; authenticates what replicas tell one another, hides whom they limit

    def __repr__(self) -> str:
        return "Secrets(hidden)"


def new_secrets(random: Random) -> Secrets:
    """Fresh keys from ``random(length)``."""
    return Secrets((random(KEY_BYTES),), random(SALT_BYTES), random(KEY_BYTES), random(KEY_BYTES))


def fingerprint(secrets: Secrets, generation: int) -> bytes:
    """16 bytes that are equal for those who have the salt and the first ``generation`` peppers alike.

    They tell nothing of them, so they may stand in the database.
    """
    known = secrets.hub_salt + b"".join(secrets.peppers[:generation])
    return hashlib.blake2b(known, digest_size=16, person=b"fingerprint").digest()


def mark(secrets: Secrets) -> str:
    """16 hex digits that tell this hub, all its replicas alike, from every other; the hub shows them to everybody."""
    return hashlib.blake2b(secrets.hub_salt, digest_size=8, person=b"mark").hexdigest()


def load(path: Path) -> Secrets:
    """The secrets in a file.  Raises ``BadSecrets``: missing, readable by others, or damaged."""
    try:
        with path.open("rb") as file:
            _refuse_open_to_others(path, os.fstat(file.fileno()))
            return _parse(file.read().decode())
    except FileNotFoundError:
        raise BadSecrets(f"There is no secrets file {path}.") from None
    except OSError as exc:
        raise BadSecrets(f"The secrets file {path} cannot be read: {exc.strerror}.") from None
    except (ValueError, KeyError, TypeError):  # without the cause: it may quote the file
        raise BadSecrets(f"The secrets file {path} is damaged; restore it from its backup.") from None


def make(path: Path, random: Random) -> Secrets:
    """Fresh secrets in a new file, durable on return; its folder is made too.

    Raises ``BadSecrets`` and changes nothing when there is a file, or when none can be written.
    """
    secrets = new_secrets(random)
    partial = _write_beside(path, secrets, random)
    try:
        os.link(partial, path)  # unlike a rename, never over an older file
    except FileExistsError:
        raise BadSecrets(f"There is a secrets file {path} already.") from None
    finally:
        partial.unlink()
    sync_folder(path.parent)
    return secrets


def load_or_make(path: Path, random: Random, *, store_is_empty: bool) -> Secrets:
    """What a start does: load, or make for a store that holds no account yet.

    Raises ``BadSecrets`` when the file is missing and the store is not empty: new
    secrets would lock every account out of new sign-ins.
    """
    if not path.exists():
        if not store_is_empty:
            raise BadSecrets(
                f"There is no secrets file {path}, but the database holds accounts made with one. Restore it from its "
                "backup; with new secrets nobody could sign in on a new device."
            )
        try:
            return make(path, random)
        except BadSecrets:
            if not path.exists():  # else another replica has made it at the same moment
                raise
    return load(path)


def add_pepper(path: Path, random: Random) -> Secrets:
    """The secrets of a file with one more pepper, durable on return; the hub wraps its tags at the next start.

    Raises ``BadSecrets`` when the file cannot be read or written.
    """
    secrets = load(path)
    secrets = replace(secrets, peppers=(*secrets.peppers, random(KEY_BYTES)))
    _write_beside(path, secrets, random).replace(path)
    sync_folder(path.parent)
    return secrets


def _refuse_open_to_others(path: Path, status: os.stat_result) -> None:
    if os.name != "posix":  # Windows keeps no such bits
        return
    if GIVEN in path.absolute().parents:
        allowed, remedy = 0o755, "chmod 444"
    elif status.st_uid != os.geteuid():
        allowed, remedy = 0o740, "chmod 440"
    else:
        allowed, remedy = 0o700, "chmod 600"
    if stat.S_IMODE(status.st_mode) & ~allowed:
        raise BadSecrets(f"The secrets file {path} is open to others; run: {remedy} {path}")


def _parse(text: str) -> Secrets:
    table = tomllib.loads(text)
    peppers = tuple(_bytes(pepper, KEY_BYTES) for pepper in table["peppers"])
    if not peppers:
        raise ValueError("no pepper")
    return Secrets(
        peppers,
        _bytes(table["hub_salt"], SALT_BYTES),
        _bytes(table["otp_key"], KEY_BYTES),
        _bytes(table["internal_key"], KEY_BYTES),
    )


def _bytes(text: str, length: int) -> bytes:
    value = bytes.fromhex(text)
    if len(value) != length:
        raise ValueError("wrong length")
    return value


def _render(secrets: Secrets) -> str:
    peppers = _toml_list([pepper.hex() for pepper in secrets.peppers])
    return (
        "# The keys of one sync-hub. Whoever has them and the database can test whether an address is in it.\n"
        "# Keep them in a backup of their own. Lost, they stop new sign-ins for ever.\n"
        f"peppers = {peppers}\n"
        f'hub_salt = "{secrets.hub_salt.hex()}"\n'
        f'otp_key = "{secrets.otp_key.hex()}"\n'
        f'internal_key = "{secrets.internal_key.hex()}"\n'
    )


def _toml_list(texts: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{text}"' for text in texts) + "]"


def _write_beside(path: Path, secrets: Secrets, random: Random) -> Path:
    """The whole text, synced, in a file next to ``path`` that nobody else can read."""
    partial = path.with_name(f".{path.name}.{random(8).hex()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as exc:
        raise BadSecrets(f"The secrets file {path} cannot be written: {exc.strerror}.") from None
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(_render(secrets))
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        partial.unlink()
        raise
    return partial
