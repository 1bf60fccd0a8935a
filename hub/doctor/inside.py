"""What this machine can tell of its hub: settings, keys, disk, database, Redis, mail server, backup."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets as random_source
import shutil
import tempfile
from typing import TYPE_CHECKING, Any

from hub.bus import SessionOpened
from hub.config import Settings
from hub.doctor.patient import ANSWER_WITHIN_S, Patient
from hub.doctor.report import Finding, Shown, bad, ok, warn
from hub.errors import StoreUnavailable
from hub.insight import BACKUP_WITHIN_S
from hub.keepers import DATABASE_FILE
from hub.mail import MailFailed
from hub.operating import LAST_BACKUP
from hub.secrets import BadSecrets, Secrets, fingerprint, load
from hub.store.look import Look

if TYPE_CHECKING:
    from hub.bus.redis_link import Target

FREE_BYTES_MIN = 268_435_456  # below it a checkpoint or a copy before an upgrade may fail
FREE_BYTES_FEW = 1_073_741_824
SLOW_S = 0.05  # a question that touches nothing; an append asks twice
SKEW_S_MAX = 30.0  # a code of an operator's app is good for half a minute more or less
SKEW_S_MUCH = 5.0
BACKUP_DAYS_MAX = BACKUP_WITHIN_S / 86_400.0  # as hub admin insight has it
BACK_UP = "hub backup, once a day by a timer: docs/self-hosting.md"
POSTGRES_MIN = 15
DAY_S = 86_400.0
MIB = 1_048_576


# --- settings and keys -----------------------------------------------------------------------


def of_settings(patient: Patient) -> list[Finding]:
    """What ``hub check`` would say."""
    found = []
    for fault in patient.faults:
        name, _, _ = fault.partition(":")
        written = Shown(name) if name.removeprefix("HUB_").lower() in Settings.__dataclass_fields__ else name
        found.append(
            bad("settings", "{setting} is wrong: {fault}.", setting=written, fault=fault.removeprefix(f"{name}: "))
        )
    return found or [ok("settings", "all settings fit together.")]


def of_keys(patient: Patient, look: Look | None) -> tuple[list[Finding], Secrets | None]:
    """The secrets file: there, closed to others, whole, and the one this database was made with."""
    path = patient.settings.secrets_path()
    if not path.exists():
        return [_of_no_keys(patient.settings, look)], None
    try:
        keys = load(path)
    except BadSecrets as fault:
        # Its sentence quotes nothing but the path, which is a fact.
        sentence = str(fault).replace("{", "{{").replace("}", "}}").replace(str(path), "{path}")
        return [bad("keys", sentence, path=path)], None
    status = path.stat()
    days = max(0, int((patient.clock() - status.st_mtime) // DAY_S))
    mode = Shown(f"{status.st_mode & 0o777:04o}")
    found = [ok("keys", "the secrets file has mode {mode} and was written {days} days ago.", mode=mode, days=days)]
    return found + _of_match(keys, look), keys


def _of_no_keys(settings: Settings, look: Look | None) -> Finding:
    path = settings.secrets_path()
    if look is not None and look.accounts:
        what = "there is no secrets file {path}, and the database holds accounts made with one: the hub does not start."
        return bad("keys", what, "restore the file from its own backup", path=path)
    if look is None and settings.database_url:
        return warn("keys", "there is no secrets file {path}; does the database know one?", path=path)
    return ok("keys", "there is no secrets file yet; the first start makes it.")


def _of_match(keys: Secrets, look: Look | None) -> list[Finding]:
    if look is None or not look.schema:
        return []
    generation = int(look.values.get("tag_generation", b"0"))
    if generation > len(keys.peppers):
        what = "the secrets file is older than the database: it has {have} peppers, and {need} were used."
        return [bad("keys", what, "restore the newest copy of it", have=len(keys.peppers), need=generation)]
    known = {number: look.claimed(f"secrets {number}") for number in range(1, max(1, generation) + 1)}
    if any(mine is not None and mine != fingerprint(keys, number) for number, mine in known.items()):
        what = "the secrets file is not the one this database was made with, so the hub does not start."
        return [bad("keys", what, "put back the file that belongs to this database, or this file's database")]
    return [ok("keys", "the secrets and the database belong together.")]


# --- disk ------------------------------------------------------------------------------------


def of_disk(settings: Settings) -> list[Finding]:
    """Whether the hub can write into its folder, and how much room is left there."""
    if settings.database_url:
        return []  # its data is elsewhere, and it writes nothing here
    folder = settings.data_dir
    while not folder.exists():
        folder = folder.parent.absolute()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError as exc:
        why = Shown(os.strerror(exc.errno)) if exc.errno else Shown(type(exc).__name__)
        what = "the folder {path} cannot be written to ({why})."
        return [
            bad("disk", what, "let it belong to the user the hub runs as, on a disk with room", path=folder, why=why)
        ]
    database = settings.data_dir / DATABASE_FILE
    size = database.stat().st_size if database.exists() else 0
    return [room(shutil.disk_usage(folder).free, size)]


def room(free: int, database_bytes: int) -> Finding:
    """What to say of so many free bytes beside a database of that size, which an upgrade copies."""
    facts = {"free": free // MIB, "size": database_bytes // MIB}
    if free < FREE_BYTES_MIN:
        return bad("disk", "only {free} MiB are free where the data is.", "make room before writes fail", **facts)
    if free < max(FREE_BYTES_FEW, 2 * database_bytes):
        what = "{free} MiB are free beside a database of {size} MiB, which is copied before an upgrade."
        return warn("disk", what, "make room before the next upgrade", **facts)
    return ok("disk", "the data folder takes writes; {free} MiB are free.", **facts)


# --- database --------------------------------------------------------------------------------


async def of_database(settings: Settings) -> tuple[list[Finding], Look | None]:
    """Reachable, of a version and schema this program knows, quick, with its clock right."""
    kind = Shown("Postgres" if settings.database_url else "SQLite")
    try:
        look = await _look(settings)
    except StoreUnavailable as exc:
        if not settings.database_url and not (settings.data_dir / DATABASE_FILE).exists():
            return [ok("database", "there is no database file yet; the first start makes it.")], None
        what = "{kind} does not answer: {why}."
        why = str(exc).removeprefix("the database failed: ").rstrip(".")
        return [bad("database", what, "start it, and check database_url", kind=kind, why=why)], None
    facts: dict[str, Any] = {
        "kind": kind, "version": Shown(look.version), "schema": look.schema, "known": look.schema_known,
        "ms": round(look.latency_s * 1_000, 3), "skew": round(look.skew_s, 1), "standbys": look.standbys,
    }  # fmt: skip
    return [*_of_version(facts, look, postgres=bool(settings.database_url)), *_of_pace(facts, look)], look


async def _look(settings: Settings) -> Look:
    if settings.database_url:
        from hub.store.postgres.look import look as look_at_postgres

        return await look_at_postgres(settings.database_url)
    from hub.store.sqlite.look import look as look_at_sqlite

    return await asyncio.to_thread(look_at_sqlite, settings.data_dir / DATABASE_FILE)


def _of_version(facts: dict[str, Any], look: Look, *, postgres: bool) -> list[Finding]:
    found = []
    if postgres and int(look.version.partition(".")[0]) < POSTGRES_MIN:
        found.append(bad("database", "Postgres {version} is too old; 15 or newer is needed.", **facts))
    if look.too_new:
        what = "the database was made by a newer hub (schema version {schema}; this one knows {known})."
        found.append(bad("database", what, "start the newer hub, or restore the copy from before the upgrade", **facts))
    elif postgres and look.schema < look.schema_known:
        what = "the tables are at schema version {schema} and this hub needs {known}."
        found.append(bad("database", what, "hub migrate", **facts))
    if not look.takes_writes:
        what = "the database takes no writes; it is a standby, or was set to read only."
        found.append(bad("database", what, "add ?target_session_attrs=read-write to database_url, or promote it"))
    if not found:
        found.append(ok("database", "{kind} {version} answers, at schema version {schema}.", **facts))
    return found


def _of_pace(facts: dict[str, Any], look: Look) -> list[Finding]:
    found = []
    if look.latency_s > SLOW_S:
        what = "a question that touches nothing takes {ms} ms at the median of five; every append waits for two."
        found.append(warn("latency", what, "put the hub near its database", **facts))
    else:
        found.append(ok("latency", "the database answers in {ms} ms, the median of five.", **facts))
    if abs(look.skew_s) > SKEW_S_MUCH:
        found.append(skewed("database clock", "the database's clock", look.skew_s))
    if facts["kind"] == "Postgres":
        found.append(ok("standby", "{standbys} standbys confirm a commit before it is answered.", **facts))
    return found


def skewed(name: str, whose: str, skew_s: float) -> Finding:
    """A clock that is not this machine's is so many seconds ahead of it."""
    say = bad if abs(skew_s) > SKEW_S_MAX else warn
    what = f"{whose} is {{skew}} s away from this machine's."
    return say(name, what, "let both take their time from NTP", skew=round(skew_s, 1))


# --- Redis -----------------------------------------------------------------------------------


async def of_redis(settings: Settings, keys: Secrets | None) -> list[Finding]:
    """Whether a notice goes out on one connection and comes in on another, and how long that takes."""
    from hub.bus.redis_link import Target

    if not settings.redis_url:
        return []
    try:
        target = Target(settings.redis_url)
    except ValueError as fault:
        return [bad("redis", "{why}", why=str(fault))]
    took_s = await _round_trip(settings.redis_url, keys.internal_key if keys else random_source.token_bytes(32))
    if took_s is None:
        what = "Redis does not carry a notice from one connection to another; devices learn by their pings meanwhile."
        remedy = ("start it, and check redis_url: host, port, password, TLS",)
        return [bad("redis", what, *remedy)]
    version = await _redis_version(target)
    what = "Redis {version} carries a notice in {ms} ms."
    return [ok("redis", what, version=Shown(version), ms=round(took_s * 1_000, 2))]


async def _round_trip(url: str, internal_key: bytes) -> float | None:
    """Seconds from publishing on one connection to hearing on another; None when nothing is heard in time."""
    from hub.bus.redis import RedisBus

    account_id, heard = random_source.token_bytes(16), asyncio.Event()
    # Of a device and session that nobody has: it is told from what a bus says by itself after a gap.
    said = SessionOpened(random_source.token_bytes(16), random_source.token_bytes(16), 1)
    mouth, ear = RedisBus(url, internal_key), RedisBus(url, internal_key)
    loop = asyncio.get_running_loop()
    try:
        await asyncio.gather(mouth.open(), ear.open())
        await ear.subscribe(account_id, lambda notice: heard.set() if notice == said else None)
        started = loop.time()
        mouth.publish(account_id, said)
        async with asyncio.timeout(ANSWER_WITHIN_S):
            await heard.wait()
        return loop.time() - started
    except TimeoutError:
        return None
    finally:
        await asyncio.gather(mouth.close(), ear.close())


async def _redis_version(target: Target) -> str:
    from hub.bus.redis_link import BROKEN, ask_once

    with contextlib.suppress(*BROKEN):
        async with asyncio.timeout(ANSWER_WITHIN_S):
            answer = await ask_once(target.connection(target.seeds[0]), b"INFO", b"server")
        text = answer.decode(errors="replace") if isinstance(answer, bytes) else str(answer)
        for name in ("valkey_version:", "redis_version:"):
            if match := re.search(rf"{name}([0-9][0-9.]*)", text):
                return match[1]
    return "of unknown version"


# --- mail ------------------------------------------------------------------------------------

MAIL_FAILED = {
    "not-reached": ("nothing answers at {server}.", "check smtp_host and smtp_port; hosters often close port 25"),
    "no-answer-in-time": ("{server} takes the connection and says nothing.", "check smtp_port and smtp_security"),
    "certificate-not-trusted": ("the certificate of {server} is not one for that name that this machine trusts.",
                                "write the name that stands in it into smtp_host, or have the server renew it"),
    "not-supported": ("{server} does not know the encryption or the login that is set.",
                      "starttls goes with port 587, tls with 465"),
    "login-refused": ("{server} refuses the name or the password.", "check smtp_username and smtp_password"),
    "mail-refused": ("{server} takes no mail from this sender.", "check smtp_from, SPF and the login"),
    "address-refused": ("{server} takes no mail for that address.", "try another address"),
}  # fmt: skip


async def of_mail(patient: Patient, test_to: str = "") -> list[Finding]:
    """Whether the mail server lets this hub in; with ``test_to`` also whether it takes a letter to there."""
    from hub.mail.smtp import SmtpMailer

    s = patient.settings
    if not s.smtp_host:
        if s.public_urls:
            what = "no mail server is set: codes appear in this hub's output, and nobody else can sign in."
            return [warn("mail", what, "set smtp_host, smtp_from, and what your mail provider names")]
        return [ok("mail", "no mail server is set; codes are printed on the terminal.")]
    mailer = SmtpMailer(
        s.smtp_host,
        s.smtp_port,
        security=s.smtp_security,
        sender=s.smtp_from,
        username=s.smtp_username,
        password=s.smtp_password,
        hub_name=s.hub_name,
        tls_context=patient.tls,
        deadline_s=2 * ANSWER_WITHIN_S,
    )
    server = f"{s.smtp_host}:{s.smtp_port}"
    try:
        await mailer.knock(test_to)
    except MailFailed as exc:
        what, remedy = MAIL_FAILED[str(exc)]
        return [bad("mail", what, remedy, server=server)]
    if test_to:
        return [ok("mail", "{server} took a test mail to {address}.", server=server, address=test_to)]
    logged_in = Shown(" and the login" if s.smtp_username else "")
    return [ok("mail", "{server} takes the connection{login}.", server=server, login=logged_in)]


# --- backup ----------------------------------------------------------------------------------


def of_backup(patient: Patient, look: Look | None) -> list[Finding]:
    """When the last one was made."""
    if look is None or not look.schema or not look.accounts:
        return []
    made_at = backup_time(look)
    if made_at is None:
        what = "no backup was ever made with hub backup."
        if patient.settings.database_url:
            return [ok("backup", what + " Postgres may have one of its own.")]
        return [warn("backup", what, BACK_UP)]
    days = round((patient.clock() - made_at) / DAY_S, 1)
    if days > BACKUP_DAYS_MAX:
        return [
            warn("backup", "the last backup is {days} days old.", "hub backup, once a day: docs/backup.md", days=days)
        ]
    return [ok("backup", "the last backup is {days} days old.", days=days)]


def backup_time(look: Look) -> float | None:
    """Unix time of the last backup as the database remembers it; None when there was none."""
    kept = look.remembered(LAST_BACKUP)
    try:
        return float(kept) if kept else None
    except ValueError:
        return None
