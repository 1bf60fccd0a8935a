"""The promise of local storage, and its two keepers: memory and one SQLite file.

What a device holds: settings, its collections and how far it has each, the records
as the log confirmed them and as the person sees them, the outbox, and the live
sets that the sync check stands on.  The promises, each with a test in
``tests/client_storage_exam.py`` that any keeper can sit:

* **Together or not at all.**  What is written inside one ``transaction`` is kept as
  a whole when the block ends, and not at all when an exception leaves it.
* **Durable.**  What a transaction wrote survives a crash once its block has ended.
* **In order.**  Outbox rows come back in the order they were added, and keep their place.

All calls are synchronous and short; a keeper belongs to one thread.  Bodies are
the opened bytes of ``values.encode_body``; None stands for no value.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
from msgspec import Struct

from hub.client.check import LiveEntry, LiveSet
from hub.terms import FREEING_KINDS, ZERO_ID, Kind


class CollectionRow(Struct, frozen=True, kw_only=True):
    """How this device has one collection.  ``n`` is its number here and nowhere else."""

    n: int
    name: str | None = None  # None: the hub told of it, and no app has opened it by name yet
    collection_id: bytes | None = None  # None: the name is known, the app key not yet
    incarnation: bytes = ZERO_ID
    seq: int = 0  # the cursor: everything up to here is in the records
    caught_up: bool = False  # reached the head at least once in this incarnation
    healing: bool = False  # the log has a new life; what is missing there is appended after catching up
    counter: int = 0  # the last counter given to a sealed draft
    answered: int = 0  # the last counter known to be in the log
    witness_counter: int = 0
    witness_seq: int = 0  # what our last witness spoke about
    check: bytes = b""  # the packed CheckState
    alarm: str = ""  # the alarm that stopped this collection


class RecordRow(Struct, frozen=True, kw_only=True):
    """One record: what the log confirmed up to the cursor, and what the person sees."""

    key: str
    value: bytes | None = None  # the confirmed body
    change_id: bytes = ZERO_ID  # its newest change in the log; zero: the log has none
    seq: int = 0
    ancestors: bytes = b""  # the last changes it went through, 16 bytes each
    local: bytes | None = None  # what the person sees instead of ``value`` when ``dirty``
    dirty: bool = False
    former: bytes = b""  # while healing: its newest change in the log's former life
    seen: bytes = b""  # while healing: the changes and bases the new life showed of it

    @property
    def view(self) -> bytes | None:
        """The body the person sees."""
        return self.local if self.dirty else self.value


class DeltaRow(NamedTuple):
    """A delta since the record's last put; seq 0 while healing: not yet seen in the new life."""

    change_id: bytes
    seq: int
    body: bytes


class State(IntEnum):
    """Where an outbox row stands."""

    WAITING = 0  # not sealed; a further edit replaces its value
    SEALED = 1  # its bytes are fixed and may be at the hub
    ACKED = 2  # in the log; kept until the cursor covers it
    CONFLICT = 3  # another change, or a wipe, came first; settled once the cursor covers that one
    PARKED = 4  # waits for a person


class OutboxRow(Struct, frozen=True, kw_only=True):
    """One local edit on its way into the log."""

    n: int = 0  # its place; given by ``add_row``
    collection: int
    key: str  # empty for a wipe
    change_id: bytes
    kind: Kind
    state: State = State.WAITING
    conditional: bool = True
    snapshot: bool = False  # a put that only contains what is in the log; dropped when it conflicts
    base_value: bytes | None = None  # the body the edit was made on
    value: bytes | None = None
    counter: int = 0
    sealed: bytes = b""
    seq: int = 0  # with ACKED: its own; with SEALED: of the last wipe that was read while it was out
    need_seq: int = 0  # with CONFLICT: the cursor must cover this first
    reason: str = ""  # with PARKED: why
    stands_for: bytes = b""  # change_ids of edits that were folded into this one
    written_at: float = 0.0  # this device's clock, for the status only


class Backlog(NamedTuple):
    """How much waits in the outbox; ``oldest_at`` is 0.0 when nothing does."""

    unsynced: int
    parked: int
    oldest_at: float


class StoredAlarm(NamedTuple):
    """An alarm of the sync check, with when this device raised it."""

    name: str
    collection: str
    detail: str
    seq: int
    raised_at: float


class Storage(Protocol):
    """Keeps what a device holds."""

    def transaction(self) -> AbstractContextManager[None]:
        """Keep what the block writes as a whole or not at all.  A transaction inside another joins it."""

    def close(self) -> None:
        """Let go of the file; no call may follow."""

    def setting(self, name: str) -> bytes | None:
        """The setting, or None."""

    def set_setting(self, name: str, value: bytes | None) -> None:
        """Keep a setting; None forgets it."""

    def collections(self) -> list[CollectionRow]:
        """All collections, in the order they were added."""

    def add_collection(self, name: str | None, collection_id: bytes | None) -> CollectionRow:
        """A new collection.  Raises ``ValueError`` when another has the name or the id."""

    def save_collection(self, row: CollectionRow) -> None:
        """Keep this state of a collection.  Raises ``ValueError`` when another has the name or the id."""

    def record(self, collection: int, key: str) -> RecordRow | None:
        """One record, also when it is empty but still known to the log."""

    def save_record(self, collection: int, row: RecordRow) -> None:
        """Keep this state of a record."""

    def drop_record(self, collection: int, key: str) -> None:
        """Forget a record and its deltas."""

    def records(self, collection: int) -> list[RecordRow]:
        """All records, empty ones too, by key."""

    def formers(self, collection: int) -> list[RecordRow]:
        """The records with a ``former``."""

    def tombstones(self, collection: int, upto: int) -> list[RecordRow]:
        """The records whose confirmed state is a delete at or before ``upto``."""

    def find_change(self, change_id: bytes) -> tuple[int, int] | None:
        """(collection number, seq) of the record whose newest confirmed change this is."""

    def deltas(self, collection: int, key: str) -> list[DeltaRow]:
        """The record's deltas since its last put, in seq order."""

    def save_delta(self, collection: int, key: str, delta: DeltaRow) -> None:
        """Keep a delta; one with the same change_id is replaced."""

    def drop_deltas(self, collection: int, key: str, *, confirmed_only: bool) -> None:
        """Forget the record's deltas; with ``confirmed_only`` those with a seq."""

    def add_row(self, row: OutboxRow) -> OutboxRow:
        """Put an edit at the end of the outbox; the row with its place."""

    def save_row(self, row: OutboxRow) -> None:
        """Keep this state of an outbox row."""

    def drop_row(self, n: int) -> None:
        """Take a row out of the outbox."""

    def row(self, n: int) -> OutboxRow | None:
        """The row at this place."""

    def row_of_change(self, change_id: bytes) -> OutboxRow | None:
        """The row that has, or stands for, this change."""

    def rows_of(self, collection: int, key: str) -> list[OutboxRow]:
        """The record's rows, in order."""

    def rows_in(self, collection: int, state: State) -> list[OutboxRow]:
        """The collection's rows in this state, in order."""

    def waiting(
        self, collections: Collection[int], limit: int, *, after: int = 0, freeing_only: bool = False
    ) -> list[OutboxRow]:
        """The first waiting rows of these collections behind ``after``; ``freeing_only``: those that free room."""

    def backlog(self) -> Backlog:
        """Rows that are neither acked nor parked; parked rows; when the oldest of the former was written."""

    def live_set(self, collection: int) -> LiveSet:
        """The collection's live set; it takes part in transactions."""

    def add_alarm(self, alarm: StoredAlarm) -> None:
        """Keep an alarm."""

    def alarms(self) -> list[StoredAlarm]:
        """All alarms, oldest first."""

    def clear_alarms(self) -> None:
        """Forget the alarms: a person has seen to them."""


_UNSYNCED = (State.WAITING, State.SEALED, State.CONFLICT)


# --- memory ----------------------------------------------------------------------------------


class MemoryStorage:
    """The promises in dictionaries: the model the file is compared with.  Nothing survives the process."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[Any, Any]] = {}
        self._undo: list[Callable[[], None]] | None = None
        self._places = 0

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """See ``Storage.transaction``."""
        if self._undo is not None:
            yield
            return
        undo: list[Callable[[], None]] = []
        self._undo = undo
        try:
            yield
        except BaseException:
            for step in reversed(undo):
                step()
            raise
        finally:
            self._undo = None

    def close(self) -> None:
        """Nothing to let go of."""

    def setting(self, name: str) -> bytes | None:
        """See ``Storage``."""
        return self._table("settings").get(name)

    def set_setting(self, name: str, value: bytes | None) -> None:
        """See ``Storage``."""
        self._write("settings", name, value)

    def collections(self) -> list[CollectionRow]:
        """See ``Storage``."""
        return list(self._table("collections").values())

    def add_collection(self, name: str | None, collection_id: bytes | None) -> CollectionRow:
        """See ``Storage``."""
        row = CollectionRow(n=len(self._table("collections")) + 1, name=name, collection_id=collection_id)
        self.save_collection(row)
        return row

    def save_collection(self, row: CollectionRow) -> None:
        """See ``Storage``."""
        for other in self.collections():
            if other.n != row.n and _overlap(row, other):
                raise ValueError("another collection has this name or id")
        self._write("collections", row.n, row)

    def record(self, collection: int, key: str) -> RecordRow | None:
        """See ``Storage``."""
        return self._table("records").get((collection, key))

    def save_record(self, collection: int, row: RecordRow) -> None:
        """See ``Storage``."""
        self._write("records", (collection, row.key), row)

    def drop_record(self, collection: int, key: str) -> None:
        """See ``Storage``."""
        self._write("records", (collection, key), None)
        self.drop_deltas(collection, key, confirmed_only=False)

    def records(self, collection: int) -> list[RecordRow]:
        """See ``Storage``."""
        # UTF-8 bytes sort as SQLite sorts them.
        keys = sorted((key for n, key in self._table("records") if n == collection), key=str.encode)
        return [self._table("records")[collection, key] for key in keys]

    def formers(self, collection: int) -> list[RecordRow]:
        """See ``Storage``."""
        return [row for row in self.records(collection) if row.former]

    def tombstones(self, collection: int, upto: int) -> list[RecordRow]:
        """See ``Storage``."""
        return [row for row in self.records(collection) if row.value is None and 0 < row.seq <= upto]

    def find_change(self, change_id: bytes) -> tuple[int, int] | None:
        """See ``Storage``."""
        found = ((n, row.seq) for (n, _), row in self._table("records").items() if row.change_id == change_id)
        return next((place for place in found if place[1]), None)

    def deltas(self, collection: int, key: str) -> list[DeltaRow]:
        """See ``Storage``."""
        rows = [row for (n, k, _), row in self._table("deltas").items() if (n, k) == (collection, key)]
        return sorted(rows, key=lambda row: (row.seq, row.change_id))

    def save_delta(self, collection: int, key: str, delta: DeltaRow) -> None:
        """See ``Storage``."""
        self._write("deltas", (collection, key, delta.change_id), delta)

    def drop_deltas(self, collection: int, key: str, *, confirmed_only: bool) -> None:
        """See ``Storage``."""
        for delta in self.deltas(collection, key):
            if delta.seq or not confirmed_only:
                self._write("deltas", (collection, key, delta.change_id), None)

    def add_row(self, row: OutboxRow) -> OutboxRow:
        """See ``Storage``."""
        self._places += 1
        row = msgspec.structs.replace(row, n=self._places)
        self.save_row(row)
        return row

    def save_row(self, row: OutboxRow) -> None:
        """See ``Storage``."""
        self._write("outbox", row.n, row)

    def drop_row(self, n: int) -> None:
        """See ``Storage``."""
        self._write("outbox", n, None)

    def row(self, n: int) -> OutboxRow | None:
        """See ``Storage``."""
        return self._table("outbox").get(n)

    def row_of_change(self, change_id: bytes) -> OutboxRow | None:
        """See ``Storage``."""
        return next((r for r in self._rows() if r.change_id == change_id or change_id in _ids(r.stands_for)), None)

    def rows_of(self, collection: int, key: str) -> list[OutboxRow]:
        """See ``Storage``."""
        return [row for row in self._rows() if (row.collection, row.key) == (collection, key)]

    def rows_in(self, collection: int, state: State) -> list[OutboxRow]:
        """See ``Storage``."""
        return [row for row in self._rows() if row.collection == collection and row.state is state]

    def waiting(
        self, collections: Collection[int], limit: int, *, after: int = 0, freeing_only: bool = False
    ) -> list[OutboxRow]:
        """See ``Storage``."""
        rows = [r for r in self._rows() if r.collection in collections and r.state is State.WAITING and r.n > after]
        return [row for row in rows if not freeing_only or row.kind in FREEING_KINDS][:limit]

    def backlog(self) -> Backlog:
        """See ``Storage``."""
        ages = [row.written_at for row in self._rows() if row.state in _UNSYNCED]
        parked = sum(row.state is State.PARKED for row in self._rows())
        return Backlog(len(ages), parked, min(ages, default=0.0))

    def live_set(self, collection: int) -> LiveSet:
        """See ``Storage``."""
        return _MemoryLiveSet(self, collection)

    def add_alarm(self, alarm: StoredAlarm) -> None:
        """See ``Storage``."""
        self._write("alarms", len(self._table("alarms")), alarm)

    def alarms(self) -> list[StoredAlarm]:
        """See ``Storage``."""
        return [alarm for _, alarm in sorted(self._table("alarms").items())]

    def clear_alarms(self) -> None:
        """See ``Storage``."""
        for n in list(self._table("alarms")):
            self._write("alarms", n, None)

    def _rows(self) -> list[OutboxRow]:
        return [row for _, row in sorted(self._table("outbox").items())]

    def _table(self, name: str) -> dict[Any, Any]:
        return self._tables.setdefault(name, {})

    def _write(self, name: str, key: Any, value: Any) -> None:
        """Every change goes through here, so that a transaction can be taken back."""
        table = self._table(name)
        before = table.get(key)
        _put(table, key, value)
        if self._undo is not None:
            self._undo.append(lambda: _put(table, key, before))


class _MemoryLiveSet:
    def __init__(self, storage: MemoryStorage, collection: int) -> None:
        self._storage = storage
        self._name = f"live {collection}"

    def get(self, record_id: bytes) -> list[LiveEntry]:
        return sorted(self._entries().get(record_id, ()), key=lambda entry: entry.seq)

    def put(self, record_id: bytes, entries: Sequence[LiveEntry]) -> None:
        self._storage._write(self._name, record_id, tuple(entries) or None)

    def tombstones(self, upto: int) -> list[tuple[bytes, LiveEntry]]:
        return [
            (record_id, entry)
            for record_id, entries in self._entries().items()
            for entry in entries
            if entry.kind is Kind.DELETE and entry.seq <= upto
        ]

    def clear(self) -> None:
        for record_id in list(self._entries()):
            self.put(record_id, [])

    def count(self) -> int:
        return sum(len(entries) for entries in self._entries().values())

    def _entries(self) -> dict[bytes, tuple[LiveEntry, ...]]:
        return self._storage._table(self._name)


def _overlap(one: CollectionRow, other: CollectionRow) -> bool:
    same_name = one.name is not None and one.name == other.name
    return same_name or (one.collection_id is not None and one.collection_id == other.collection_id)


def _put(table: dict[Any, Any], key: Any, value: Any) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


def _ids(joined: bytes) -> list[bytes]:
    return [joined[at : at + 16] for at in range(0, len(joined), 16)]


# --- one SQLite file -------------------------------------------------------------------------

SCHEMA_VERSION = 1

_SCHEMA = """
create table settings (name text primary key, value blob not null) without rowid;

create table collections (
    n integer primary key,
    name text unique,            -- null: not yet opened by name
    collection_id blob unique,   -- null: no app key yet
    state blob not null          -- the packed CollectionRow
);

create table records (
    collection integer not null,
    key text not null,
    value blob,                  -- the confirmed body; null: deleted, or not in the log
    change_id blob not null,
    seq integer not null,
    ancestors blob not null,
    local blob,
    dirty integer not null,
    former blob not null,
    seen blob not null,
    primary key (collection, key)
);
-- for healing
create index records_former on records (collection) where former != x'';
-- for purge
create index records_deleted on records (collection, seq) where value is null;
-- for when_everywhere
create index records_change on records (change_id);

create table deltas (
    collection integer not null,
    key text not null,
    change_id blob not null,
    seq integer not null,
    body blob not null,
    primary key (collection, key, change_id)
) without rowid;

create table outbox (
    n integer primary key autoincrement,  -- places are never given twice
    collection integer not null,
    key text not null,
    change_id blob not null,
    kind integer not null,
    state integer not null,
    conditional integer not null,
    snapshot integer not null,
    base_value blob,
    value blob,
    counter integer not null,
    sealed blob not null,
    seq integer not null,
    need_seq integer not null,
    reason text not null,
    stands_for blob not null,
    written_at real not null
);
create index outbox_record on outbox (collection, key, n);
create index outbox_state on outbox (state, collection, n);
create index outbox_change on outbox (change_id);

create table live (
    collection integer not null,
    record_id blob not null,
    seq integer not null,
    change_id blob not null,
    kind integer not null,
    primary key (collection, record_id, seq)
) without rowid;
-- for purge
create index live_tombstones on live (collection, seq) where kind = 2;

create table alarms (
    n integer primary key,
    name text not null,
    collection text not null,
    detail text not null,
    seq integer not null,
    raised_at real not null
);
"""

_RECORD = "key, value, change_id, seq, ancestors, local, dirty, former, seen"
_ROW = (
    "n, collection, key, change_id, kind, state, conditional, snapshot, base_value, value, counter, sealed, seq,"
    " need_seq, reason, stands_for, written_at"
)
_unpack_collection = msgspec.msgpack.Decoder(CollectionRow)


class StorageTooNew(Exception):
    """The file was written by a newer program."""


class SqliteStorage:
    """The promises in one file, readable by its owner alone: WAL, and a flush to disk at every transaction's end."""

    def __init__(self, path: Path) -> None:
        """Open or make the file.  Raises ``StorageTooNew``, or ``sqlite3.DatabaseError`` when it is none."""
        # It holds the app key: nobody else may read it, not even for a moment.
        path.touch(mode=0o600)
        path.chmod(0o600)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._inside = False
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = full")
        self._db.execute("pragma busy_timeout = 5000")
        with self.transaction():
            (version,) = self._db.execute("pragma user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise StorageTooNew(f"the file has format {version}; this program knows {SCHEMA_VERSION}")
            if version == 0:
                for statement in _SCHEMA.split(";\n"):
                    self._db.execute(statement)
                self._db.execute(f"pragma user_version = {SCHEMA_VERSION}")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """See ``Storage.transaction``."""
        if self._inside:
            yield
            return
        self._db.execute("begin immediate")
        self._inside = True
        try:
            yield
            self._db.execute("commit")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("rollback")
            raise
        finally:
            self._inside = False

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def setting(self, name: str) -> bytes | None:
        """See ``Storage``."""
        found = self._db.execute("select value from settings where name = ?", (name,)).fetchone()
        return found[0] if found else None

    def set_setting(self, name: str, value: bytes | None) -> None:
        """See ``Storage``."""
        if value is None:
            self._db.execute("delete from settings where name = ?", (name,))
        else:
            self._db.execute("insert or replace into settings values (?, ?)", (name, value))

    def collections(self) -> list[CollectionRow]:
        """See ``Storage``."""
        return [
            _unpack_collection.decode(state)
            for (state,) in self._db.execute("select state from collections order by n")
        ]

    def add_collection(self, name: str | None, collection_id: bytes | None) -> CollectionRow:
        """See ``Storage``."""
        (last,) = self._db.execute("select coalesce(max(n), 0) from collections").fetchone()
        row = CollectionRow(n=last + 1, name=name, collection_id=collection_id)
        self.save_collection(row)
        return row

    def save_collection(self, row: CollectionRow) -> None:
        """See ``Storage``."""
        packed = msgspec.msgpack.encode(row)
        query = (
            "insert into collections values (?, ?, ?, ?) on conflict (n) do update set"
            " name = excluded.name, collection_id = excluded.collection_id, state = excluded.state"
        )
        try:
            self._db.execute(query, (row.n, row.name, row.collection_id, packed))
        except sqlite3.IntegrityError as exc:
            raise ValueError("another collection has this name or id") from exc

    def record(self, collection: int, key: str) -> RecordRow | None:
        """See ``Storage``."""
        return next(self._records("collection = ? and key = ?", collection, key), None)

    def save_record(self, collection: int, row: RecordRow) -> None:
        """See ``Storage``."""
        self._db.execute(
            "insert or replace into records values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                collection,
                row.key,
                row.value,
                row.change_id,
                row.seq,
                row.ancestors,
                row.local,
                row.dirty,
                row.former,
                row.seen,
            ),
        )

    def drop_record(self, collection: int, key: str) -> None:
        """See ``Storage``."""
        self._db.execute("delete from records where collection = ? and key = ?", (collection, key))
        self.drop_deltas(collection, key, confirmed_only=False)

    def records(self, collection: int) -> list[RecordRow]:
        """See ``Storage``."""
        return list(self._records("collection = ? order by key", collection))

    def formers(self, collection: int) -> list[RecordRow]:
        """See ``Storage``."""
        return list(self._records("collection = ? and former != x'' order by key", collection))

    def tombstones(self, collection: int, upto: int) -> list[RecordRow]:
        """See ``Storage``."""
        return list(
            self._records("collection = ? and value is null and seq > 0 and seq <= ? order by key", collection, upto)
        )

    def find_change(self, change_id: bytes) -> tuple[int, int] | None:
        """See ``Storage``."""
        query = "select collection, seq from records where change_id = ? and seq > 0"
        found: tuple[int, int] | None = self._db.execute(query, (change_id,)).fetchone()
        return found

    def deltas(self, collection: int, key: str) -> list[DeltaRow]:
        """See ``Storage``."""
        query = "select change_id, seq, body from deltas where collection = ? and key = ? order by seq, change_id"
        return [DeltaRow(*found) for found in self._db.execute(query, (collection, key))]

    def save_delta(self, collection: int, key: str, delta: DeltaRow) -> None:
        """See ``Storage``."""
        self._db.execute("insert or replace into deltas values (?, ?, ?, ?, ?)", (collection, key, *delta))

    def drop_deltas(self, collection: int, key: str, *, confirmed_only: bool) -> None:
        """See ``Storage``."""
        query = "delete from deltas where collection = ? and key = ? and seq >= ?"
        self._db.execute(query, (collection, key, 1 if confirmed_only else 0))

    def add_row(self, row: OutboxRow) -> OutboxRow:
        """See ``Storage``."""
        marks = ", ".join("?" * 16)
        added = self._db.execute(f"insert into outbox values (null, {marks})", _values(row)[1:])
        assert added.lastrowid is not None
        return msgspec.structs.replace(row, n=added.lastrowid)

    def save_row(self, row: OutboxRow) -> None:
        """See ``Storage``."""
        marks = ", ".join("?" * 17)
        self._db.execute(f"insert or replace into outbox values ({marks})", _values(row))

    def drop_row(self, n: int) -> None:
        """See ``Storage``."""
        self._db.execute("delete from outbox where n = ?", (n,))

    def row(self, n: int) -> OutboxRow | None:
        """See ``Storage``."""
        return next(self._rows("n = ?", n), None)

    def row_of_change(self, change_id: bytes) -> OutboxRow | None:
        """See ``Storage``."""
        row = next(self._rows("change_id = ?", change_id), None)
        if row is None:
            folded = self._rows("length(stands_for) > 0 and instr(stands_for, ?) > 0", change_id)
            row = next((row for row in folded if change_id in _ids(row.stands_for)), None)
        return row

    def rows_of(self, collection: int, key: str) -> list[OutboxRow]:
        """See ``Storage``."""
        return list(self._rows("collection = ? and key = ? order by n", collection, key))

    def rows_in(self, collection: int, state: State) -> list[OutboxRow]:
        """See ``Storage``."""
        return list(self._rows("state = ? and collection = ? order by n", state, collection))

    def waiting(
        self, collections: Collection[int], limit: int, *, after: int = 0, freeing_only: bool = False
    ) -> list[OutboxRow]:
        """See ``Storage``."""
        marks = ", ".join("?" * len(collections))
        kinds = ", ".join(str(int(kind)) for kind in FREEING_KINDS)
        only = f" and kind in ({kinds})" if freeing_only else ""
        where = f"state = ? and collection in ({marks}) and n > ?{only} order by n limit ?"
        return list(self._rows(where, State.WAITING, *collections, after, limit))

    def backlog(self) -> Backlog:
        """See ``Storage``."""
        states = ", ".join(str(int(state)) for state in _UNSYNCED)
        query = f"select count(*), coalesce(min(written_at), 0.0) from outbox where state in ({states})"
        unsynced, oldest_at = self._db.execute(query).fetchone()
        (parked,) = self._db.execute("select count(*) from outbox where state = ?", (State.PARKED,)).fetchone()
        return Backlog(unsynced, parked, oldest_at)

    def live_set(self, collection: int) -> LiveSet:
        """See ``Storage``."""
        return _SqliteLiveSet(self._db, collection)

    def add_alarm(self, alarm: StoredAlarm) -> None:
        """See ``Storage``."""
        self._db.execute("insert into alarms values (null, ?, ?, ?, ?, ?)", alarm)

    def alarms(self) -> list[StoredAlarm]:
        """See ``Storage``."""
        query = "select name, collection, detail, seq, raised_at from alarms order by n"
        return [StoredAlarm(*found) for found in self._db.execute(query)]

    def clear_alarms(self) -> None:
        """See ``Storage``."""
        self._db.execute("delete from alarms")

    def _records(self, where: str, *arguments: Any) -> Iterator[RecordRow]:
        for key, value, change_id, seq, ancestors, local, dirty, former, seen in self._db.execute(
            f"select {_RECORD} from records where {where}", arguments
        ):
            yield RecordRow(
                key=key, value=value, change_id=change_id, seq=seq, ancestors=ancestors,
                local=local, dirty=bool(dirty), former=former, seen=seen,
            )  # fmt: skip

    def _rows(self, where: str, *arguments: Any) -> Iterator[OutboxRow]:
        for found in self._db.execute(f"select {_ROW} from outbox where {where}", arguments):
            n, collection, key, change_id, kind, state, conditional, snapshot, *rest = found
            base_value, value, counter, sealed, seq, need_seq, reason, stands_for, written_at = rest
            yield OutboxRow(
                n=n, collection=collection, key=key, change_id=change_id, kind=Kind(kind), state=State(state),
                conditional=bool(conditional), snapshot=bool(snapshot), base_value=base_value, value=value,
                counter=counter, sealed=sealed, seq=seq, need_seq=need_seq, reason=reason, stands_for=stands_for,
                written_at=written_at,
            )  # fmt: skip


class _SqliteLiveSet:
    def __init__(self, db: sqlite3.Connection, collection: int) -> None:
        self._db = db
        self._n = collection

    def get(self, record_id: bytes) -> list[LiveEntry]:
        query = "select change_id, seq, kind from live where collection = ? and record_id = ? order by seq"
        return [LiveEntry(c, s, Kind(k)) for c, s, k in self._db.execute(query, (self._n, record_id))]

    def put(self, record_id: bytes, entries: Sequence[LiveEntry]) -> None:
        self._db.execute("delete from live where collection = ? and record_id = ?", (self._n, record_id))
        rows = [(self._n, record_id, entry.seq, entry.change_id, entry.kind) for entry in entries]
        self._db.executemany("insert into live values (?, ?, ?, ?, ?)", rows)

    def tombstones(self, upto: int) -> list[tuple[bytes, LiveEntry]]:
        query = "select record_id, change_id, seq from live where collection = ? and kind = 2 and seq <= ?"
        return [(r, LiveEntry(c, s, Kind.DELETE)) for r, c, s in self._db.execute(query, (self._n, upto))]

    def clear(self) -> None:
        self._db.execute("delete from live where collection = ?", (self._n,))

    def count(self) -> int:
        (count,) = self._db.execute("select count(*) from live where collection = ?", (self._n,)).fetchone()
        return int(count)


def _values(row: OutboxRow) -> tuple[Any, ...]:
    return msgspec.structs.astuple(row)


_memory: type[Storage] = MemoryStorage
_sqlite: type[Storage] = SqliteStorage
