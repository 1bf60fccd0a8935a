"""The database file of the SQLite keeper: its lock, its making, its versions, its connections.

* One program at a time: whoever writes holds a lock file beside the database.
* A database is made under another name and renamed when it is whole; it is copied
  beside itself before a newer program changes its schema.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

from hub.errors import StoreUnavailable
from hub.files import sync_folder
from hub.store import SchemaTooNew, SchemaTooOld
from hub.store.sqlite import queries
from hub.terms import ID_BYTES

SCHEMA = Path(__file__).parents[1] / "sqlite_schema.sql"
# The statements that bring a database from one schema version to the next: the first
# entry leads from version 1 to 2.  SCHEMA is always what all of them together lead to.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # What an account uses is the sum of its spaces.
        "alter table account drop column used_bytes",
        # Limits on codes are counted in a table of their own.
        "create table spent (key blob not null, at real not null)",
        "create index spent_by_key on spent (key, at)",
        "create index spent_by_age on spent (at)",
        "drop index attempt_by_address",
        "create index attempt_by_address on attempt (address_tag)",
    ),
    (
        # What an operator grants, who operates, what happened, how spaces grew, who moved away.
        "alter table account add column plan text not null default ''",
        "alter table account add column billing_ref text",
        "alter table account add column paid_until real",
        "alter table account add column suspended_at real",
        "alter table account add column moving_to text not null default ''",
        "alter table account add column address_known integer not null default 1",
        "create unique index account_by_billing_ref on account (billing_ref)",
        "create index account_moving on account (account_id) where moving_to <> ''",
        "create table operator (account_id blob primary key references account, salt blob not null,"
        " since real not null, last_step integer not null) without rowid",
        "create table listed (address_tag blob primary key, kind text not null, listed_day integer not null)"
        " without rowid",
        "create table audit (account_id blob not null references account, number integer primary key, at real not null,"
        " what text not null, actor text not null, device_id blob not null, subject_id blob not null,"
        " count integer not null)",
        "create index audit_of_account on audit (account_id, number)",
        "create index audit_by_age on audit (at)",
        "create table moved (device_id blob primary key, device_pk blob not null, url text not null,"
        " moved_at real not null) without rowid",
        "create table growth (account_id blob not null, space_id blob not null, day integer not null,"
        " used_bytes integer not null, primary key (account_id, space_id, day),"
        " foreign key (account_id, space_id) references space) without rowid",
    ),
    (
        # Changes lie in the order of their commits, no longer by collection; what is replaced has indexes of its own.
        "create table change_by_commit (account_id blob not null,"
        " collection integer not null references collection (number), seq integer not null, kind integer not null,"
        " record_id blob not null, change_id blob not null, device_id blob not null, counter integer not null,"
        " appended_at_ms integer not null, replaced_at real, sealed blob not null)",
        "insert into change_by_commit (account_id, collection, seq, kind, record_id, change_id, device_id, counter,"
        " appended_at_ms, replaced_at, sealed) select account_id, collection, seq, kind, record_id, change_id,"
        " device_id, counter, appended_at_ms, replaced_at, sealed from change order by collection, seq",
        "drop table change",
        "alter table change_by_commit rename to change",
        "create unique index change_once on change (collection, counter, device_id)",
        "create unique index change_live on change (collection, seq) where replaced_at is null",
        "create unique index change_replaced_by_seq on change (collection, seq) where replaced_at is not null",
        "create index change_live_of_record on change (collection, record_id, seq) where replaced_at is null",
        "create index change_replaced_of_record on change (collection, record_id, seq) where replaced_at is not null",
        "create index change_replaced on change (replaced_at) where replaced_at is not null",
        "create index change_tombstone on change (collection, seq) where kind = 2 and replaced_at is null",
    ),
)

BUSY_TIMEOUT_MS = 5_000
WAL_BYTES_MAX = 64 * 1_048_576  # readers that never pause could let it grow for ever


class File:
    """The file at ``path``; its folder must exist."""

    def __init__(self, path: Path, migrations: Sequence[Sequence[str]]) -> None:
        self._path = path
        self._migrations = migrations
        self._lock: sqlite3.Connection | None = None

    def open(self) -> sqlite3.Connection:
        """The one connection that writes; ``release`` must follow, in the same thread, when it is closed."""
        self._lock = self._take_lock()
        if not self._path.exists() or self._path.stat().st_size == 0:
            self._make()
        db = self._connect("synchronous = full", "fullfsync = on", "secure_delete = on", "cache_size = -16384")
        try:
            self._migrate(db)
            # A crash may have come between a wipe's commit and the emptying of the WAL.
            db.execute("pragma wal_checkpoint(truncate)")
        except BaseException:
            db.close()
            raise
        return db

    def open_to_read(self) -> sqlite3.Connection:
        """A connection that reads, beside whoever writes; the file is not locked, made or migrated.

        Raises ``StoreUnavailable`` when there is no file, ``SchemaTooNew`` and ``SchemaTooOld``.
        """
        if not self._path.exists():
            raise StoreUnavailable(f"{self._path} is not there")
        db = self.open_reader()
        try:
            version, known = int(queries.hub_value(db, "schema_version")), 1 + len(self._migrations)
            if version > known:
                raise SchemaTooNew(f"{self._path} was written by a newer hub (schema version {version}, not {known})")
            if version < known:
                raise SchemaTooOld(
                    f"{self._path} was written by an older hub; start this one once to bring it up to date"
                )
        except BaseException:
            db.close()
            raise
        return db

    def open_reader(self) -> sqlite3.Connection:
        """A connection that reads."""
        return self._connect("query_only = on")

    def release(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def wal_is_long(self) -> bool:
        """Whether the WAL is longer than it ever should be."""
        try:
            return self._beside("-wal").stat().st_size > WAL_BYTES_MAX
        except FileNotFoundError:
            return False

    def _beside(self, suffix: str) -> Path:
        return self._path.with_name(self._path.name + suffix)

    def _connect(self, *pragmas: str) -> sqlite3.Connection:
        # A batch's statements come in eighteen lengths each; to prepare a long one takes a millisecond.
        db = sqlite3.connect(self._path, isolation_level=None, cached_statements=512)
        # FULL syncs the WAL at every commit; NORMAL would lose the last commits in a power cut.
        # 8,000 pages before they go into the file: pages that every batch changes are copied once for many.
        wal = ("journal_mode = wal", "wal_autocheckpoint = 8000", f"journal_size_limit = {WAL_BYTES_MAX}")
        try:
            for pragma in (
                f"busy_timeout = {BUSY_TIMEOUT_MS}",
                *wal,
                "foreign_keys = on",
                "temp_store = memory",
                *pragmas,
            ):
                db.execute(f"pragma {pragma}")
        except sqlite3.Error:  # what is no database shows here
            db.close()
            raise
        return db

    def _take_lock(self) -> sqlite3.Connection:
        """A transaction on an empty file beside the database: SQLite's own lock, let go by the system on any death."""
        lock = sqlite3.connect(self._beside(".lock"), isolation_level=None, timeout=0)
        try:
            lock.execute("pragma journal_mode = memory")  # nothing is ever written: no journal beside it
            lock.execute("begin exclusive")
        except sqlite3.OperationalError as exc:
            lock.close()
            raise StoreUnavailable(f"{self._path} is in use by another running hub") from exc
        return lock

    def _make(self) -> None:
        """A new database, under another name until it is whole."""
        unfinished = self._new_file(".new")
        with contextlib.closing(sqlite3.connect(unfinished, isolation_level=None)) as db:
            db.execute("begin")
            for statement in _statements(SCHEMA.read_text("utf-8")):
                db.execute(statement)
            queries.set_hub_value(db, "schema_version", b"%d" % (1 + len(MIGRATIONS)))
            queries.set_hub_value(db, "incarnation", secrets.token_bytes(ID_BYTES))
            queries.set_hub_value(db, "tag_generation", b"0")
            db.execute("commit")
        _rename(unfinished, self._path)

    def _migrate(self, db: sqlite3.Connection) -> None:
        version = int(queries.hub_value(db, "schema_version"))
        known = 1 + len(self._migrations)
        if version > known:
            raise SchemaTooNew(
                f"{self._path} was written by a newer hub (schema version {version}; this one knows {known})."
                " Start the newer hub, or put back the copy that it made before the upgrade."
            )
        if version == known:
            return
        self._copy(db, version)
        db.execute("begin immediate")
        try:
            for statement in (each for migration in self._migrations[version - 1 :] for each in migration):
                db.execute(statement)
            queries.set_hub_value(db, "schema_version", b"%d" % known)
            db.execute("commit")
        finally:
            if db.in_transaction:
                db.execute("rollback")

    def _copy(self, db: sqlite3.Connection, version: int) -> None:
        """What the file holds, beside it: ``hub.db.v1`` before the upgrade from version 1."""
        unfinished = self._new_file(".copy")
        with contextlib.closing(sqlite3.connect(unfinished)) as copy:
            db.backup(copy)
        _rename(unfinished, self._beside(f".v{version}"))

    def _new_file(self, suffix: str) -> Path:
        """An empty file only the owner can read, whatever a crash has left under that name."""
        path = self._beside(suffix)
        for leftover in (path, path.with_name(path.name + "-journal")):
            leftover.unlink(missing_ok=True)
        path.touch(mode=0o600)
        return path


def _statements(script: str) -> Iterable[str]:
    """The statements of a script, so that they can run in one transaction (``executescript`` commits)."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _rename(path: Path, to: Path) -> None:
    """Durably give a whole file its name."""
    path.replace(to)
    sync_folder(to.parent)
