"""The commands ``hub backup``, ``hub restore`` and ``hub move``: words in, exit status out.

0  done    1  not done; a sentence says why, and what to do    2  the words make no command
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TextIO

from hub.admin.way import operating_for
from hub.backup import files
from hub.backup.moving import Move
from hub.backup.restoring import NotPossible, head_of, restore, secrets_for
from hub.bundle import BadBundle
from hub.codes import settle_secrets
from hub.commands import MISUSED, OK, fail, loaded, run
from hub.config import Settings, canonical_url, load
from hub.errors import StoreUnavailable
from hub.keepers import open_store, open_to_read
from hub.secrets import Secrets, fingerprint
from hub.store import Store
from hub.terms import ID_BYTES, AccountId

TOLD_EVERY_S = 0.2
Work = Callable[[Settings, argparse.Namespace], Coroutine[object, object, int]]


def main(argv: Sequence[str]) -> int:
    """Run one of the commands; its name is the first word.  The exit status."""
    name, *words = argv
    options = _parsers()[name].parse_args(words)
    settings = loaded({"data_dir": getattr(options, "data_dir", None)})
    if settings is None:
        return MISUSED
    work: Work = options.work

    async def told(settings: Settings) -> int:
        try:
            return await work(settings, options)
        except (BadBundle, NotPossible) as exc:
            return fail(str(exc))

    return run(settings, told)


def _parsers() -> dict[str, argparse.ArgumentParser]:
    def command(name: str, work: Work, about: str) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(prog=f"hub {name}", description=about, allow_abbrev=False)
        parser.add_argument("--data-dir", help="the folder the hub keeps its data in")
        parser.set_defaults(work=work)
        return parser

    parsers = {
        "backup": command("backup", _backup, "Write everything the hub keeps into one file, also while it runs."),
        "restore": command("restore", _restore, "Fill an empty hub from such a file; the devices bring what is newer."),
        "move": command("move", _move, "Take accounts to another hub; their devices ask the person and follow."),
    }
    out, back, move = parsers.values()
    out.add_argument(
        "target", type=Path, nargs="?", default=Path(), metavar="FILE|FOLDER", help="default: the current folder"
    )
    out.add_argument("--keep", type=_count, metavar="N", help="in a folder: remove all but the newest N")
    back.add_argument("file", type=Path, metavar="FILE")
    back.add_argument(
        "--new-secrets",
        action="store_true",
        help="the secrets are lost: leave the addresses behind; devices stay signed in and give one again",
    )
    who = move.add_mutually_exclusive_group(required=True)
    who.add_argument("--account", type=_account_id, metavar="ID", help="32 hex digits, as hub admin accounts shows")
    who.add_argument("--all", action="store_true", help="every account")
    move.add_argument("--to", type=_url, metavar="URL", help="where devices dial there, as https://hub.example.org")
    move.add_argument(
        "--into", type=Path, required=True, metavar="OTHER.toml", help="the settings of the other hub, as HUB_CONFIG"
    )
    move.add_argument("--cancel", action="store_true", help="let accounts that were on their way in here again")
    return parsers


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number from 1")
    return int(text)


def _account_id(text: str) -> AccountId:
    try:
        account_id = bytes.fromhex(text)
    except ValueError:
        account_id = b""
    if len(account_id) != ID_BYTES:
        raise argparse.ArgumentTypeError(f"{text!r} is no account id of {2 * ID_BYTES} hex digits")
    return account_id


def _url(text: str) -> str:
    try:
        return canonical_url(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


# --- backup ----------------------------------------------------------------------------------


async def _backup(settings: Settings, options: argparse.Namespace) -> int:
    now, begun = time.time(), time.monotonic()
    path = _place(options.target, now)
    if options.keep and path == options.target:
        return fail("--keep needs a folder, in which the backups get names of their own.", MISUSED)
    store = await open_to_read(settings)
    try:
        secrets = secrets_for(settings.secrets_path(), what="There is no hub here to back up.")
        progress = Progress("written", (await store.totals()).used_bytes)
        end = await files.write(store, await files.head_of(store, secrets, now), path, progress.tell)
    finally:
        await store.close()
    progress.done()
    print(
        f"Wrote {path}, and read it again: {_of(end.rows.get('account', 0), 'account')}, "
        f"{_of(end.rows.get('change', 0), 'change')}, {_size(_bytes_of(path))}, in {_seconds(begun)}."
    )
    print(f"The secrets are not in it; keep a copy of {settings.secrets_path()} in another place.")
    for old in files.older_ones(path.parent, options.keep) if options.keep else []:
        old.unlink()
        print(f"Removed {old}.")
    return await _noted(settings, now)


def _place(target: Path, now: float) -> Path:
    return target / files.own_name(now) if target.is_dir() else target


def _bytes_of(path: Path) -> int:
    return path.stat().st_size


async def _noted(settings: Settings, now: float) -> int:
    """Have the hub know when it was backed up; the backup is good without."""
    try:
        async with operating_for(settings) as do:
            await do("note_backup", {"at": now})
    except StoreUnavailable as exc:
        print(f"The backup is good; only its time could not be noted in the hub: {exc}", file=sys.stderr)
    return OK


# --- restore ---------------------------------------------------------------------------------


async def _restore(settings: Settings, options: argparse.Namespace) -> int:
    begun = time.monotonic()
    path: Path = options.file
    head = head_of(path)
    help_ = "Put the one there that the hub had when the backup was made; if it is lost, see hub restore --new-secrets."
    if options.new_secrets:
        help_ = "Make one with hub make-secrets."
    secrets = secrets_for(settings.secrets_path(), what=help_)
    store = await open_store(settings)
    try:
        progress = Progress("read", _bytes_of(path))
        came = await restore(store, secrets, path, new_secrets=options.new_secrets, tell=progress.tell)
    finally:
        await store.close()
    progress.done()
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(head.made_at))
    print(
        f"Restored the hub as of {made}: {_of(came.accounts, 'account')} with {_of(came.devices, 'device')}, "
        f"{_of(came.changes, 'change')}, {_size(came.sealed_bytes)} sealed, in {_seconds(begun)}."
    )
    print("Start it: devices that come compare what they hold with the hub and append what is missing here.")
    return OK


# --- move ------------------------------------------------------------------------------------


async def _move(settings: Settings, options: argparse.Namespace) -> int:
    other, faults = load({}, options.into)
    if faults:
        return fail("\n".join(f"{options.into}: {fault}" for fault in faults), MISUSED)
    if options.to is None and not options.cancel:
        return fail("--to is missing: where devices dial the other hub.", MISUSED)
    if options.to and other.public_urls and options.to not in other.public_urls:
        return fail(f"The other hub is not known as {options.to}; its public_urls: {', '.join(other.public_urls)}.")
    if _same_place(settings, other):
        return fail("Both settings name the same database.", MISUSED)
    async with _moving(settings, other, options.to or "") as move:
        ids = await move.all_accounts() if options.all else [options.account]
        return await (_cancel(move, ids) if options.cancel else _carry(move, ids))


async def _carry(move: Move, ids: Sequence[AccountId]) -> int:
    for number, account_id in enumerate(ids, 1):
        place = f"{number} of {len(ids)}: account {account_id.hex()}"
        carried = await move.carry(account_id)
        if carried is None:
            print(f"{place} is there already")
        else:
            what = f"{_of(carried.devices, 'device')}, {_of(carried.changes, 'change')}"
            print(f"{place} moved ({what}; away for {carried.away_s:.1f} s)" if carried.away_s else f"{place} moved")
    print(f"Done. Devices that come here are told {move.url}, and follow when the person says so.")
    return OK


async def _cancel(move: Move, ids: Sequence[AccountId]) -> int:
    for account_id in ids:
        if await move.cancel(account_id):
            print(f"Account {account_id.hex()} is here again.")
    print("Done. No account is on its way any more.")
    return OK


def _same_place(settings: Settings, other: Settings) -> bool:
    if settings.database_url or other.database_url:
        return str(settings.database_url) == str(other.database_url)
    return settings.data_dir.resolve() == other.data_dir.resolve()


@asynccontextmanager
async def _moving(settings: Settings, other: Settings, url: str) -> AsyncIterator[Move]:
    mine = secrets_for(settings.secrets_path(), what="There is no hub here.")
    theirs = secrets_for(
        other.secrets_path(),
        what="It is the other hub's: copy this hub's there, so that people sign in with their addresses as before.",
    )
    here = await open_to_read(settings)
    try:
        there = await open_store(other)
        try:
            await settle_secrets(there, theirs)
            same = await _same_secrets(here, mine, there, theirs)
            async with operating_for(settings) as do:
                progress = Progress("sent", 0)
                yield Move(here, do, there, url, same, progress.tell)
                progress.done()
        finally:
            await there.close()
    finally:
        await here.close()


async def _same_secrets(here: Store, mine: Secrets, there: Store, theirs: Secrets) -> bool:
    """Whether an address has the same tag at both, and an operator's authenticator app the same secret."""
    marks = [fingerprint(keys, max(1, await store.tag_generation())) for store, keys in ((here, mine), (there, theirs))]
    return marks[0] == marks[1] and mine.otp_key == theirs.otp_key


# --- small things ----------------------------------------------------------------------------


class Progress:
    """One line on a terminal that says how far a work is; nothing when nobody looks on."""

    def __init__(self, what: str, total: int, out: TextIO | None = None) -> None:
        """``total`` in bytes; 0 = unknown."""
        self._what = what
        self._total = total
        self._out = out or sys.stderr
        self._next = 0.0
        self._shown = False

    def tell(self, done: int) -> None:
        """So many bytes are done."""
        if not self._out.isatty() or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + TOLD_EVERY_S
        share = f"{min(100, 100 * done // self._total):3d} % " if self._total else ""
        print(f"\r{share}{_size(done)} {self._what} \x1b[K", end="", file=self._out, flush=True)
        self._shown = True

    def done(self) -> None:
        """The line goes."""
        if self._shown:
            print("\r\x1b[K", end="", file=self._out, flush=True)


def _of(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _size(count: int) -> str:
    if count < 1_024:
        return _of(count, "byte")
    return f"{count / 1_024:,.1f} KiB" if count < 1_048_576 else f"{count / 1_048_576:,.1f} MiB"


def _seconds(begun: float) -> str:
    return f"{time.monotonic() - begun:.1f} s"
