"""The promises of the store in one SQLite file on one machine.

One thread writes, two read, each with a connection of its own; nobody else ever
touches the file.  A call is a function of a connection that is handed to such a
thread and carried out there in one transaction: ``begin immediate`` for a write,
one snapshot for a read.  So writes happen one after another, in the order they were
called, and nothing below needs a lock.

* Durable: WAL with ``synchronous=FULL``; the answer is given after the commit.
* Deleted means deleted: ``secure_delete`` overwrites what is removed, and after a
  wipe or a deletion the WAL is emptied into the file before the answer is given.
* One program at a time: the writer holds a lock file beside the database.
* A database is made under another name and renamed when it is whole; it is copied
  beside itself before a newer program changes its schema.

No exception of the driver leaves this room: it becomes ``StoreUnavailable``.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import queue
import secrets
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from hub.errors import Refusal, StoreUnavailable
from hub.store import (
    Account,
    Answer,
    Append,
    Appended,
    Attempt,
    CollectionState,
    Device,
    Draft,
    Page,
    SchemaTooNew,
    Space,
    Store,
)
from hub.terms import (
    FREEING_KINDS,
    ID_BYTES,
    LOG_KINDS,
    ZERO_ID,
    AccountId,
    Change,
    CollectionId,
    CollectionKey,
    DeviceId,
    Incarnation,
    Kind,
    Limits,
    Policy,
    RecordId,
    Seq,
    SpaceId,
)
from hub.wire.header import Header

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
D = TypeVar("D", bound="DataclassInstance")
Work = Callable[[sqlite3.Connection], T]

SCHEMA = Path(__file__).with_name("sqlite_schema.sql")
# The statements that bring a database from one schema version to the next: the first
# entry leads from version 1 to 2.  SCHEMA is always what all of them together lead to.
MIGRATIONS: tuple[tuple[str, ...], ...] = ()

READERS = 2  # more would not read faster: the file is in the page cache and Python has one core
WAITING_MAX = 1_024  # calls in a queue; beyond it the store is not keeping up and says so
BUSY_TIMEOUT_MS = 5_000
WAL_BYTES_MAX = 64 * 1_048_576  # readers that never pause could let it grow for ever
HASH_BYTES = 16

CONTENT = "(1, 2, 8)"  # put, delete, delta
# What a change replaces: live changes of the same record and of these kinds.
REPLACES = {Kind.PUT: CONTENT, Kind.DELETE: CONTENT, Kind.KEYRING: "(6)", Kind.PURGE: "(3)"}


class SqliteStore:
    """Keeps everything in the file ``path``; its folder must exist."""

    def __init__(
        self,
        path: str | Path,
        *,
        limits: Limits | None = None,
        quota_bytes: int | None = None,
        migrations: Sequence[Sequence[str]] = MIGRATIONS,
    ) -> None:
        self._file = _File(Path(path), migrations)
        self._limits = limits or Limits()
        self._quota_bytes = Policy().quota_bytes if quota_bytes is None else quota_bytes
        self._scrub_due = False  # removed bytes may still stand in the WAL; the writer's alone
        self._writer = _Crew("hub-store-writer", 1, self._file.open, self._file.release, self._write)
        self._readers = _Crew("hub-store-reader", READERS, self._file.open_reader, lambda: None, _read)

    # --- life ---

    async def open(self) -> None:
        """Lock the file, make or migrate it, start the threads.

        Raises ``StoreUnavailable`` when another program holds the file.
        """
        await self._writer.start()
        try:
            await self._readers.start()
        except BaseException:
            await self._writer.stop()
            raise

    async def close(self) -> None:
        """Finish what is under way; the file is then whole by itself, without a WAL beside it."""
        await self._readers.stop()
        await self._writer.stop()

    async def ping(self) -> None:
        """Answers when both a writer and a reader do."""
        await self._readers.run(lambda db: None)
        await self._writer.run(lambda db: None)

    async def incarnation(self) -> Incarnation:
        """The name of this life of the log."""
        return await self._readers.run(lambda db: _hub_value(db, "incarnation"))

    async def renew_incarnation(self) -> Incarnation:
        """A new name for it."""
        incarnation = secrets.token_bytes(ID_BYTES)
        await self._writer.run(lambda db: _set_hub_value(db, "incarnation", incarnation))
        return incarnation

    def _write(self, db: sqlite3.Connection, work: Work[T]) -> T:
        db.execute("begin immediate")
        try:
            result = work(db)
            db.execute("commit")
        finally:
            if db.in_transaction:
                db.execute("rollback")
        if self._scrub_due or self._file.wal_bytes() > WAL_BYTES_MAX:
            self._scrub(db)
        return result

    def _scrub(self, db: sqlite3.Connection) -> None:
        # Busy only while a reader takes longer than the busy timeout; then the next write tries again.
        busy, _, _ = db.execute("pragma wal_checkpoint(truncate)").fetchone()
        self._scrub_due = bool(busy)

    # --- the log ---

    async def append(self, appends: Sequence[Append], now: float) -> list[Appended]:
        """As promised."""

        def work(db: sqlite3.Connection) -> list[Appended]:
            batch = _Batch(db, now, self._limits, self._quota_bytes)
            appended = [batch.append(append) for append in appends]
            batch.flush()
            self._scrub_due |= batch.wiped
            return appended

        return await self._writer.run(work)

    async def read(self, key: CollectionKey, after: Seq, *, live_only: bool, changes_max: int, bytes_max: int) -> Page:
        """As promised."""
        return await self._readers.run(lambda db: _read_page(db, key, after, live_only, changes_max, bytes_max))

    async def states(
        self,
        account_id: AccountId,
        space_id: SpaceId,
        device_id: DeviceId,
        collection_ids: Collection[CollectionId] | None,
    ) -> list[CollectionState]:
        """As promised."""

        def work(db: sqlite3.Connection) -> list[CollectionState]:
            query = (
                "select collection_id, head, coalesce(last, 0) from collection"
                " left join counter on counter.collection = collection.number and device_id = ?"
                " where collection.account_id = ? and space_id = ?"
            )
            if collection_ids is None:
                return [CollectionState(*row) for row in db.execute(query, (device_id, account_id, space_id))]
            query += " and collection_id = ?"
            rows = (db.execute(query, (device_id, account_id, space_id, each)).fetchone() for each in collection_ids)
            return [CollectionState(*(row or (each, 0, 0))) for each, row in zip(collection_ids, rows, strict=True)]

        return await self._readers.run(work)

    async def history(
        self, key: CollectionKey, record_id: RecordId, *, before: Seq, limit: int
    ) -> tuple[list[Change], bool]:
        """As promised."""

        def work(db: sqlite3.Connection) -> tuple[list[Change], bool]:
            found = _find(db, key)
            if found is None:
                return [], False
            number, head = found
            ends = (number, record_id, before or head + 1)
            half = "select seq, appended_at_ms, sealed from change indexed by"
            where = "where collection = ? and record_id = ? and seq < ? and replaced_at is"
            rows = db.execute(
                f"{half} change_live_of_record {where} null union all"
                f" {half} change_replaced_of_record {where} not null order by seq desc limit ?",
                (*ends, *ends, limit + 1),
            ).fetchall()
            return [Change(*row) for row in rows[:limit]], len(rows) > limit

        return await self._readers.run(work)

    async def put_witness(self, key: CollectionKey, device_id: DeviceId, counter: int, sealed: bytes) -> bool:
        """As promised."""

        def work(db: sqlite3.Connection) -> bool:
            found = _find(db, key)
            if found is None or counter >= 2**63 or not _is_alive(db, key.account_id, device_id):
                return False
            query = (
                "insert into witness (account_id, collection, device_id, counter, sealed) values (?, ?, ?, ?, ?)"
                " on conflict do update set counter = excluded.counter, sealed = excluded.sealed"
                " where excluded.counter > witness.counter"
            )
            return _changed(db, query, key.account_id, found[0], device_id, counter, sealed) == 1

        return await self._writer.run(work)

    async def witnesses(self, key: CollectionKey) -> list[tuple[DeviceId, bytes]]:
        """As promised, by device id."""

        def work(db: sqlite3.Connection) -> list[tuple[DeviceId, bytes]]:
            found = _find(db, key)
            query = "select device_id, sealed from witness where collection = ? order by device_id"
            return db.execute(query, found[:1]).fetchall() if found else []

        return await self._readers.run(work)

    async def compact(self, replaced_before: float, limit: int) -> int:
        """As promised, the longest replaced first."""

        def work(db: sqlite3.Connection) -> int:
            old = db.execute(
                "select collection, seq from change indexed by change_replaced"
                " where replaced_at is not null and replaced_at < ? order by replaced_at, collection, seq limit ?",
                (replaced_before, limit),
            ).fetchall()
            for number, of_number in groupby(sorted(old), key=itemgetter(0)):
                freed = _drop(db, number, [seq for _, seq in of_number])
                query = "select account_id, space_id from collection where number = ?"
                account_id, space_id = db.execute(query, (number,)).fetchone()
                _add_used_bytes(db, account_id, space_id, -freed)
            return len(old)

        return await self._writer.run(work)

    # --- spaces ---

    async def create_space(self, space: Space, spaces_max: int, now: float) -> Space:
        """As promised; ``not_found`` when the account has gone meanwhile."""
        return await self._writer.run(lambda db: _create_space(db, space, spaces_max, now))

    async def spaces(self, account_id: AccountId) -> list[Space]:
        """As promised."""
        query = f"select {_columns(Space)} from space where account_id = ? order by created_at, space_id"
        return await self._readers.run(lambda db: [Space(*row) for row in db.execute(query, (account_id,))])

    async def schedule_space_deletion(self, account_id: AccountId, space_id: SpaceId, at: float | None) -> bool:
        """As promised."""
        query = "update space set deleted_at = ? where account_id = ? and space_id = ?"
        return await self._writer.run(lambda db: _changed(db, query, at, account_id, space_id) == 1)

    async def delete_space(self, account_id: AccountId, space_id: SpaceId) -> bool:
        """As promised; the bytes are overwritten when it returns."""

        def work(db: sqlite3.Connection) -> bool:
            space = _space(db, account_id, space_id)
            if space is None:
                return False
            _delete_space(db, account_id, space_id)
            query = "update account set used_bytes = used_bytes - ? where account_id = ?"
            _changed(db, query, space.used_bytes, account_id)
            self._scrub_due = True
            return True

        return await self._writer.run(work)

    # --- accounts and devices ---

    async def add_attempt(self, attempt: Attempt) -> None:
        """As promised."""
        await self._writer.run(lambda db: _insert(db, "attempt", attempt))

    async def attempts_since(self, address_tag: bytes, since: float) -> list[float]:
        """As promised."""
        query = "select created_at from attempt where address_tag = ? and created_at > ? order by created_at"
        return await self._readers.run(lambda db: [at for (at,) in db.execute(query, (address_tag, since))])

    async def note_resend(
        self, attempt_id: bytes, device_pk: bytes, now: float, *, not_before_s: float, sends_max: int
    ) -> Attempt | None:
        """As promised."""

        def work(db: sqlite3.Connection) -> Attempt | None:
            attempt = _live_attempt(db, attempt_id, now)
            if attempt is None or attempt.device_pk != device_pk:
                return None
            if attempt.sends >= sends_max or now - attempt.sent_at < not_before_s:
                return None
            _changed(db, "update attempt set sends = sends + 1, sent_at = ? where attempt_id = ?", now, attempt_id)
            return _attempt(db, attempt_id)

        return await self._writer.run(work)

    async def charge_attempt(self, attempt_id: bytes, now: float, tries_max: int) -> Attempt | None:
        """As promised."""

        def work(db: sqlite3.Connection) -> Attempt | None:
            attempt = _live_attempt(db, attempt_id, now)
            if attempt is None or attempt.tries >= tries_max:
                return None
            _changed(db, "update attempt set tries = tries + 1 where attempt_id = ?", attempt_id)
            return _attempt(db, attempt_id)

        return await self._writer.run(work)

    async def consume_attempt(self, attempt_id: bytes, now: float) -> bool:
        """As promised."""
        return await self._writer.run(lambda db: _consume(db, attempt_id, now) is not None)

    async def enrol(
        self,
        attempt_id: bytes,
        device: Device,
        new_account: Account | None,
        address_tag: bytes,
        *,
        per_account_max: int,
        per_app_max: int,
        first_only: bool,
        now: float,
    ) -> None:
        """As promised: a refusal rolls everything back, the consumed attempt too."""

        def work(db: sqlite3.Connection) -> None:
            attempt = _consume(db, attempt_id, now)
            if attempt is None:
                raise Refusal("enrol_failed")
            if new_account is not None:
                _add_account(db, attempt, new_account, address_tag, first_only=first_only, now=now)
            elif _account_of(db, address_tag) != device.account_id:
                raise Refusal("enrol_failed")
            _add_device(db, device, per_account_max, per_app_max)

        await self._writer.run(work)

    async def add_device(self, device: Device, *, per_account_max: int, per_app_max: int) -> None:
        """As promised."""

        def work(db: sqlite3.Connection) -> None:
            if _account(db, device.account_id) is None:
                raise Refusal("enrol_failed")
            _add_device(db, device, per_account_max, per_app_max)

        await self._writer.run(work)

    async def find_account(self, address_tag: bytes) -> Account | None:
        """As promised."""

        def work(db: sqlite3.Connection) -> Account | None:
            account_id = _account_of(db, address_tag)
            return _account(db, account_id) if account_id else None

        return await self._readers.run(work)

    async def account(self, account_id: AccountId) -> Account | None:
        """As promised."""
        return await self._readers.run(lambda db: _account(db, account_id))

    async def count_accounts(self) -> int:
        """As promised."""
        return await self._readers.run(_count_accounts)

    async def device(self, device_id: DeviceId) -> Device | None:
        """As promised."""
        query = f"select {_columns(Device)} from device where device_id = ?"
        return await self._readers.run(lambda db: _one(Device, db.execute(query, (device_id,))))

    async def devices(self, account_id: AccountId) -> list[Device]:
        """As promised."""
        query = (
            f"select {_columns(Device)} from device where account_id = ? and revoked_at is null"
            " order by enrolled_at, device_id"
        )
        return await self._readers.run(lambda db: [Device(*row) for row in db.execute(query, (account_id,))])

    async def revoke(self, account_id: AccountId, device_ids: Collection[DeviceId], now: float) -> list[DeviceId]:
        """As promised."""
        query = "update device set revoked_at = ? where account_id = ? and device_id = ? and revoked_at is null"

        def work(db: sqlite3.Connection) -> list[DeviceId]:
            return [each for each in device_ids if _changed(db, query, now, account_id, each) == 1]

        return await self._writer.run(work)

    async def revoked_among(self, device_ids: Collection[DeviceId]) -> set[DeviceId]:
        """As promised."""
        query = "select 1 from device where device_id = ? and revoked_at is null"

        def work(db: sqlite3.Connection) -> set[DeviceId]:
            return {each for each in device_ids if db.execute(query, (each,)).fetchone() is None}

        return await self._readers.run(work)

    async def approve(self, account_id: AccountId, device_id: DeviceId) -> bool:
        """As promised; a revoked device is no device."""
        query = "update device set probation_until = null where account_id = ? and device_id = ? and revoked_at is null"
        return await self._writer.run(lambda db: _changed(db, query, account_id, device_id) == 1)

    async def note_seen(self, device_ids: Collection[DeviceId], day: int) -> None:
        """As promised; an earlier day changes nothing."""
        query = "update device set last_seen_day = ?1 where device_id = ?2 and last_seen_day < ?1"
        await self._writer.run(lambda db: [_changed(db, query, day, device_id) for device_id in device_ids])

    async def schedule_account_deletion(self, account_id: AccountId, at: float | None) -> bool:
        """As promised."""
        query = "update account set deleted_at = ? where account_id = ?"
        return await self._writer.run(lambda db: _changed(db, query, at, account_id) == 1)

    async def delete_account(self, account_id: AccountId) -> bool:
        """As promised; the attempts of its address go with it, and the bytes are overwritten when it returns."""

        def work(db: sqlite3.Connection) -> bool:
            if _account(db, account_id) is None:
                return False
            _delete_account(db, account_id)
            self._scrub_due = True
            return True

        return await self._writer.run(work)

    async def due_deletions(self, now: float) -> tuple[list[AccountId], list[tuple[AccountId, SpaceId]]]:
        """As promised, the longest due first."""
        accounts = "select account_id from account where deleted_at <= ? order by deleted_at, account_id"
        spaces = (
            "select account_id, space_id from space where deleted_at <= ? order by deleted_at, account_id, space_id"
        )

        def work(db: sqlite3.Connection) -> tuple[list[AccountId], list[tuple[AccountId, SpaceId]]]:
            due = [account_id for (account_id,) in db.execute(accounts, (now,))]
            return due, db.execute(spaces, (now,)).fetchall()

        return await self._readers.run(work)

    async def add_invite(self, token_hash: bytes, expires_at: float) -> None:
        """As promised; one that is there stays as it is."""
        query = "insert into invite (token_hash, expires_at) values (?, ?) on conflict do nothing"
        await self._writer.run(lambda db: _changed(db, query, token_hash, expires_at))

    async def invite_is_open(self, token_hash: bytes, now: float) -> bool:
        """As promised."""
        query = "select 1 from invite where token_hash = ? and used_at is null and expires_at > ?"
        return await self._readers.run(lambda db: db.execute(query, (token_hash, now)).fetchone() is not None)

    async def rewrap_addresses(self, wrap: Callable[[bytes], bytes], generation: int) -> int:
        """As promised.  ``wrap`` is called in the writer's thread."""
        return await self._writer.run(lambda db: _rewrap(db, wrap, generation))

    async def forget_attempts(self, created_before: float) -> int:
        """As promised."""

        def work(db: sqlite3.Connection) -> int:
            attempts = _changed(db, "delete from attempt where created_at < ?", created_before)
            over = "min(expires_at, coalesce(used_at, expires_at))"
            return attempts + _changed(db, f"delete from invite where {over} < ?", created_before)

        return await self._writer.run(work)


# --- one batch of appends -----------------------------------------------------------------------


@dataclass(slots=True)
class _Log:
    """A collection, as the batch under way sees it."""

    number: int
    head: Seq
    counters: dict[DeviceId, int] = field(default_factory=dict)
    moved: bool = False  # not yet written


@dataclass(slots=True)
class _Space:
    """A space, as the batch under way sees it."""

    collections: int
    more_bytes: int = 0  # not yet written


class _Batch:
    """The appends of one transaction.

    Heads, counters and used bytes are looked up once a batch and written once, by
    ``flush``.  When an append is undone the batch forgets all it has looked up, so
    nothing of that append is left in it.
    """

    def __init__(self, db: sqlite3.Connection, now: float, limits: Limits, quota_bytes: int) -> None:
        self.wiped = False
        self._db = db
        self._now = now
        self._collections_max = limits.collections_per_space_max
        self._default_quota_bytes = quota_bytes
        self._forget()

    def _forget(self) -> None:
        self._alive: dict[tuple[AccountId, DeviceId], bool] = {}
        self._used_bytes: dict[AccountId, int] = {}
        self._quota_bytes: dict[AccountId, int] = {}
        self._spaces: dict[tuple[AccountId, SpaceId], _Space | None] = {}
        self._logs: dict[CollectionKey, _Log | None] = {}

    def flush(self) -> None:
        """Write what the appends so far have moved."""
        for key, log in self._logs.items():
            if log is not None and log.moved:
                self._write_log(key.account_id, log)
        for (account_id, space_id), space in self._spaces.items():
            if space is not None and space.more_bytes:
                _add_used_bytes(self._db, account_id, space_id, space.more_bytes)
                space.more_bytes = 0

    def _write_log(self, account_id: AccountId, log: _Log) -> None:
        _changed(self._db, "update collection set head = ? where number = ?", log.head, log.number)
        self._db.executemany(
            "insert into counter (account_id, collection, device_id, last) values (?, ?, ?, ?)"
            " on conflict do update set last = excluded.last where excluded.last > counter.last",
            [(account_id, log.number, device_id, last) for device_id, last in log.counters.items() if last],
        )
        log.moved = False

    def append(self, append: Append) -> Appended:
        """Judge one request's drafts and keep the good ones."""
        if not self._is_alive(append.account_id, append.device_id):
            return Appended([], revoked=True)
        self._look_up_account(append.account_id)
        appended = self._append_whole(append) if append.atomic else self._append_each(append)
        self._look_up_account(append.account_id)
        return Appended(appended.answers, appended.fresh, self._used_bytes[append.account_id])

    def _append_each(self, append: Append) -> Appended:
        fresh: list[tuple[CollectionId, Change]] = []
        return Appended([self._judge(append, draft, fresh) for draft in append.drafts], fresh)

    def _append_whole(self, append: Append) -> Appended:
        self.flush()
        wiped_before = self.wiped
        self._db.execute("savepoint whole")
        appended = self._append_each(append)
        if any(answer.code for answer in appended.answers):
            self._db.execute("rollback to whole")
            self._forget()
            self.wiped = wiped_before
            appended = Appended(_undone(append, appended))
        self._db.execute("release whole")
        return appended

    def _judge(self, append: Append, draft: Draft, fresh: list[tuple[CollectionId, Change]]) -> Answer:
        header = draft.header
        assert header.kind in LOG_KINDS, "witnesses are not appended"
        space = self._space(append.account_id, append.space_id)
        if space is None:
            return Answer(code="not_found")
        key = CollectionKey(append.account_id, append.space_id, header.collection_id)
        log = self._log(key)
        last = self._last(log, header.device_id) if log else 0
        if log is not None and header.counter <= last:
            return self._first_answer(log, draft)
        if header.counter > last + 1:
            return Answer(code="out_of_order")
        if header.conditional and (conflict := self._conflict(log, header)):
            return conflict
        if log is None and space.collections >= self._collections_max:
            return Answer(code="too_many")
        if header.kind not in FREEING_KINDS and self._is_full(append.account_id, len(draft.sealed)):
            return Answer(code="quota_exceeded")
        change = self._keep(key, log or self._add_log(key, space), space, draft)
        fresh.append((header.collection_id, change))
        return Answer(change.seq)

    def _is_full(self, account_id: AccountId, more_bytes: int) -> bool:
        return self._used_bytes[account_id] + more_bytes > self._quota_bytes[account_id]

    def _first_answer(self, log: _Log, draft: Draft) -> Answer:
        """What a draft with a used counter gets."""
        once = (log.number, draft.header.device_id, draft.header.counter)
        where = "where collection = ? and device_id = ? and counter = ?"
        if kept := self._db.execute(f"select seq, sealed from change {where}", once).fetchone():
            return Answer(kept[0]) if kept[1] == draft.sealed else Answer(code="device_cloned")
        if dropped := self._db.execute(f"select seq, hash16 from receipt {where}", once).fetchone():
            return Answer(dropped[0]) if dropped[1] == _hash(draft.sealed) else Answer(code="device_cloned")
        return Answer(code="wiped")

    def _conflict(self, log: _Log | None, header: Header) -> Answer | None:
        """The refusal of a conditional draft whose base is not its record's newest change."""
        # Only live changes count: after a purge the record does not exist, though older changes are still kept.
        newest = (
            log
            and self._db.execute(
                "select seq, change_id from change indexed by change_live_of_record where collection = ?"
                f" and record_id = ? and replaced_at is null and kind in {REPLACES[header.kind]}"
                " order by seq desc limit 1",
                (log.number, header.record_id),
            ).fetchone()
        )
        seq, change_id = newest or (0, ZERO_ID)
        return None if change_id == header.base else Answer(0, "conflict", seq, change_id)

    def _keep(self, key: CollectionKey, log: _Log, space: _Space, draft: Draft) -> Change:
        """Give the draft the next seq and let it do to the log what its kind says."""
        header = draft.header
        more_bytes = len(draft.sealed)
        if header.kind in REPLACES:
            self._replace(log, header)
        if header.kind is Kind.PURGE:
            more_bytes -= self._purge(log, header.upto)
        if header.kind is Kind.WIPE:
            more_bytes -= self._wipe(log)
        log.head += 1
        log.counters[header.device_id] = header.counter
        log.moved = True
        space.more_bytes += more_bytes
        self._used_bytes[key.account_id] += more_bytes
        change = Change(log.head, int(self._now * 1000), draft.sealed)
        self._insert(key.account_id, log.number, header, change)
        return change

    def _insert(self, account_id: AccountId, number: int, header: Header, change: Change) -> None:
        self._db.execute(
            "insert into change (account_id, collection, seq, kind, record_id, change_id, device_id, counter,"
            " appended_at_ms, sealed) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                account_id,
                number,
                change.seq,
                int(header.kind),
                header.record_id,
                header.change_id,
                header.device_id,
                header.counter,
                change.appended_at_ms,
                change.sealed,
            ),
        )

    def _replace(self, log: _Log, header: Header) -> None:
        self._db.execute(
            "update change indexed by change_live_of_record set replaced_at = ? where collection = ?"
            f" and record_id = ? and replaced_at is null and kind in {REPLACES[header.kind]}",
            (self._now, log.number, header.record_id),
        )

    def _purge(self, log: _Log, upto: Seq) -> int:
        tombstones = self._db.execute(
            "select seq from change indexed by change_tombstone"
            " where collection = ? and seq <= ? and kind = 2 and replaced_at is null",
            # The wire carries 64 bits without a sign, SQLite takes 63.
            (log.number, min(upto, log.head)),
        )
        return _drop(self._db, log.number, [seq for (seq,) in tombstones.fetchall()])

    def _wipe(self, log: _Log) -> int:
        self.wiped = True
        query = "select coalesce(sum(length(sealed)), 0) from change where collection = ?"
        (freed,) = self._db.execute(query, (log.number,)).fetchone()
        for table in ("change", "receipt", "witness"):
            self._db.execute(f"delete from {table} where collection = ?", (log.number,))
        return cast(int, freed)

    # What the batch looks up, and remembers.

    def _is_alive(self, account_id: AccountId, device_id: DeviceId) -> bool:
        if (account_id, device_id) not in self._alive:
            self._alive[account_id, device_id] = _is_alive(self._db, account_id, device_id)
        return self._alive[account_id, device_id]

    def _look_up_account(self, account_id: AccountId) -> None:
        if account_id not in self._used_bytes:
            account = _account(self._db, account_id)
            assert account is not None, "a device belongs to an account"
            self._used_bytes[account_id] = account.used_bytes
            own = account.quota_bytes
            self._quota_bytes[account_id] = self._default_quota_bytes if own is None else own

    def _space(self, account_id: AccountId, space_id: SpaceId) -> _Space | None:
        if (account_id, space_id) not in self._spaces:
            found = _space(self._db, account_id, space_id)
            query = "select count(*) from collection where account_id = ? and space_id = ?"
            (collections,) = self._db.execute(query, (account_id, space_id)).fetchone()
            self._spaces[account_id, space_id] = _Space(collections) if found else None
        return self._spaces[account_id, space_id]

    def _log(self, key: CollectionKey) -> _Log | None:
        if key not in self._logs:
            found = _find(self._db, key)
            self._logs[key] = _Log(*found) if found else None
        return self._logs[key]

    def _add_log(self, key: CollectionKey, space: _Space) -> _Log:
        query = "insert into collection (account_id, space_id, collection_id, head) values (?, ?, ?, 0)"
        number = self._db.execute(query, key).lastrowid
        assert number is not None, "an insert has a rowid"
        space.collections += 1
        log = self._logs[key] = _Log(number, 0)
        return log

    def _last(self, log: _Log, device_id: DeviceId) -> int:
        if device_id not in log.counters:
            query = "select last from counter where collection = ? and device_id = ?"
            (log.counters[device_id],) = self._db.execute(query, (log.number, device_id)).fetchone() or (0,)
        return log.counters[device_id]


def _undone(append: Append, appended: Appended) -> list[Answer]:
    """The answers of an all-or-nothing append that came to nothing."""
    taken_back = {(collection_id, change.seq) for collection_id, change in appended.fresh}
    return [
        Answer(code="atomic_refused") if (draft.header.collection_id, answer.seq) in taken_back else answer
        for draft, answer in zip(append.drafts, appended.answers, strict=True)
    ]


# --- parts of several calls ---------------------------------------------------------------------


def _read_page(
    db: sqlite3.Connection, key: CollectionKey, after: Seq, live_only: bool, changes_max: int, bytes_max: int
) -> Page:
    found = _find(db, key)
    if found is None:
        return Page([], 0, 0)
    number, head = found
    # Without statistics SQLite would not choose the partial index by itself.
    source = "change indexed by change_live where replaced_at is null and" if live_only else "change where"
    query = f"select seq, appended_at_ms, sealed from {source} collection = ? and seq > ? order by seq limit ?"
    page: list[Change] = []
    page_bytes = 0
    with contextlib.closing(db.execute(query, (number, after, changes_max + 1))) as rows:
        for change in map(Change._make, rows):
            page_bytes += len(change.sealed)
            if len(page) == changes_max or (page and page_bytes > bytes_max):
                return Page(page, page[-1].seq, head)
            page.append(change)
    return Page(page, head, head)


def _find(db: sqlite3.Connection, key: CollectionKey) -> tuple[int, Seq] | None:
    """The number and head of a collection."""
    query = "select number, head from collection where account_id = ? and space_id = ? and collection_id = ?"
    return cast("tuple[int, Seq] | None", db.execute(query, key).fetchone())


def _drop(db: sqlite3.Connection, number: int, seqs: Iterable[Seq]) -> int:
    """Remove changes of a collection but keep what answers their retries; the bytes it freed."""
    freed = 0
    for seq in seqs:
        query = "select account_id, device_id, counter, sealed from change where collection = ? and seq = ?"
        account_id, device_id, counter, sealed = db.execute(query, (number, seq)).fetchone()
        db.execute(
            "insert into receipt (account_id, collection, device_id, counter, seq, hash16) values (?, ?, ?, ?, ?, ?)",
            (account_id, number, device_id, counter, seq, _hash(sealed)),
        )
        db.execute("delete from change where collection = ? and seq = ?", (number, seq))
        freed += len(sealed)
    return freed


def _add_used_bytes(db: sqlite3.Connection, account_id: AccountId, space_id: SpaceId, more: int) -> None:
    _changed(db, "update account set used_bytes = used_bytes + ? where account_id = ?", more, account_id)
    query = "update space set used_bytes = used_bytes + ? where account_id = ? and space_id = ?"
    _changed(db, query, more, account_id, space_id)


def _space(db: sqlite3.Connection, account_id: AccountId, space_id: SpaceId) -> Space | None:
    query = f"select {_columns(Space)} from space where account_id = ? and space_id = ?"
    return _one(Space, db.execute(query, (account_id, space_id)))


def _create_space(db: sqlite3.Connection, space: Space, spaces_max: int, now: float) -> Space:
    if _account(db, space.account_id) is None:
        raise Refusal("not_found")
    there = _space(db, space.account_id, space.space_id)
    if there is not None and there.space_pk != space.space_pk:
        raise Refusal("bad_space_proof")
    if there is not None:
        return there
    (spaces,) = db.execute("select count(*) from space where account_id = ?", (space.account_id,)).fetchone()
    if spaces >= spaces_max:
        raise Refusal("too_many")
    new = replace(space, used_bytes=0, deleted_at=None)
    _insert(db, "space", new, created_at=now)
    return new


def _delete_space(db: sqlite3.Connection, account_id: AccountId, space_id: SpaceId) -> None:
    """Remove a space and all below it; the account's used bytes are left to the caller."""
    space = (account_id, space_id)
    of_space = "in (select number from collection where account_id = ? and space_id = ?)"
    for table in ("change", "counter", "receipt", "witness"):
        db.execute(f"delete from {table} where collection {of_space}", space)
    for table in ("collection", "space"):
        db.execute(f"delete from {table} where account_id = ? and space_id = ?", space)


def _delete_account(db: sqlite3.Connection, account_id: AccountId) -> None:
    for (space_id,) in db.execute("select space_id from space where account_id = ?", (account_id,)).fetchall():
        _delete_space(db, account_id, space_id)
    tag = "(select address_tag from account where account_id = ?)"
    db.execute(f"delete from attempt where address_tag = {tag}", (account_id,))
    for table in ("device", "account"):
        db.execute(f"delete from {table} where account_id = ?", (account_id,))


def _attempt(db: sqlite3.Connection, attempt_id: bytes) -> Attempt | None:
    query = f"select {_columns(Attempt)} from attempt where attempt_id = ?"
    attempt = _one(Attempt, db.execute(query, (attempt_id,)))
    return attempt and replace(attempt, welcome=bool(attempt.welcome))


def _live_attempt(db: sqlite3.Connection, attempt_id: bytes, now: float) -> Attempt | None:
    attempt = _attempt(db, attempt_id)
    if attempt is None or attempt.consumed_at is not None or attempt.expires_at <= now:
        return None
    return attempt


def _consume(db: sqlite3.Connection, attempt_id: bytes, now: float) -> Attempt | None:
    """Use a live attempt up, and return it."""
    attempt = _live_attempt(db, attempt_id, now)
    if attempt is not None:
        _changed(db, "update attempt set consumed_at = ? where attempt_id = ?", now, attempt_id)
    return attempt


def _add_account(
    db: sqlite3.Connection, attempt: Attempt, account: Account, address_tag: bytes, *, first_only: bool, now: float
) -> None:
    if _account_of(db, address_tag) or _account(db, account.account_id) or (first_only and _count_accounts(db)):
        raise Refusal("enrol_failed")
    if attempt.invite is not None:
        query = "update invite set used_at = ? where token_hash = ? and used_at is null and expires_at > ?"
        if _changed(db, query, now, attempt.invite, now) != 1:
            raise Refusal("enrol_failed")
    _insert(db, "account", replace(account, used_bytes=0), address_tag=address_tag)


def _add_device(db: sqlite3.Connection, device: Device, per_account_max: int, per_app_max: int) -> None:
    query = "select 1 from device where device_id = ? or device_pk = ?"
    if db.execute(query, (device.device_id, device.device_pk)).fetchone():
        raise Refusal("device_exists")
    query = "select count(*), coalesce(sum(app_id = ?), 0) from device where account_id = ? and revoked_at is null"
    of_account, of_app = db.execute(query, (device.app_id, device.account_id)).fetchone()
    if of_account >= per_account_max or of_app >= per_app_max:
        raise Refusal("too_many")
    _insert(db, "device", device)


def _is_alive(db: sqlite3.Connection, account_id: AccountId, device_id: DeviceId) -> bool:
    query = "select 1 from device where account_id = ? and device_id = ? and revoked_at is null"
    return db.execute(query, (account_id, device_id)).fetchone() is not None


def _account(db: sqlite3.Connection, account_id: AccountId) -> Account | None:
    return _one(Account, db.execute(f"select {_columns(Account)} from account where account_id = ?", (account_id,)))


def _account_of(db: sqlite3.Connection, address_tag: bytes) -> AccountId | None:
    row = db.execute("select account_id from account where address_tag = ?", (address_tag,)).fetchone()
    return cast(AccountId, row[0]) if row else None


def _count_accounts(db: sqlite3.Connection) -> int:
    return cast(int, db.execute("select count(*) from account").fetchone()[0])


def _rewrap(db: sqlite3.Connection, wrap: Callable[[bytes], bytes], generation: int) -> int:
    if generation <= int(_hub_value(db, "tag_generation")):
        return 0
    _rewrap_table(db, "attempt", wrap)
    _set_hub_value(db, "tag_generation", b"%d" % generation)
    return _rewrap_table(db, "account", wrap)


def _rewrap_table(db: sqlite3.Connection, table: str, wrap: Callable[[bytes], bytes]) -> int:
    rows = db.execute(f"select {table}_id, address_tag from {table}").fetchall()
    for id_, tag in rows:
        _changed(db, f"update {table} set address_tag = ? where {table}_id = ?", wrap(tag), id_)
    return len(rows)


def _hub_value(db: sqlite3.Connection, key: str) -> bytes:
    return cast(bytes, db.execute("select value from hub where key = ?", (key,)).fetchone()[0])


def _set_hub_value(db: sqlite3.Connection, key: str, value: bytes) -> None:
    db.execute("insert or replace into hub (key, value) values (?, ?)", (key, value))


def _columns(kind: type[DataclassInstance]) -> str:
    """The columns of a dataclass, which are named like its fields and stand in their order."""
    return ", ".join(each.name for each in fields(kind))


def _one(kind: type[D], rows: sqlite3.Cursor) -> D | None:
    row = rows.fetchone()
    return kind(*row) if row else None


def _insert(db: sqlite3.Connection, table: str, kept: DataclassInstance, **more: object) -> None:
    values = {each.name: getattr(kept, each.name) for each in fields(kept)} | more
    places = ", ".join("?" * len(values))
    db.execute(f"insert into {table} ({', '.join(values)}) values ({places})", tuple(values.values()))


def _changed(db: sqlite3.Connection, query: str, *values: object) -> int:
    """Run a writing statement; how many rows it changed."""
    return db.execute(query, values).rowcount


def _hash(sealed: bytes) -> bytes:
    return hashlib.sha256(sealed).digest()[:HASH_BYTES]


# --- the file -----------------------------------------------------------------------------------


class _File:
    """The database file: its lock, its making, its versions, its connections."""

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

    def open_reader(self) -> sqlite3.Connection:
        """A connection that reads."""
        return self._connect("query_only = on")

    def release(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def wal_bytes(self) -> int:
        """Size of the WAL."""
        try:
            return self._beside("-wal").stat().st_size
        except FileNotFoundError:
            return 0

    def _beside(self, suffix: str) -> Path:
        return self._path.with_name(self._path.name + suffix)

    def _connect(self, *pragmas: str) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None)
        # FULL syncs the WAL at every commit; NORMAL would lose the last commits in a power cut.
        wal = ("journal_mode = wal", "wal_autocheckpoint = 4000", f"journal_size_limit = {WAL_BYTES_MAX}")
        for pragma in (f"busy_timeout = {BUSY_TIMEOUT_MS}", *wal, "foreign_keys = on", "temp_store = memory", *pragmas):
            db.execute(f"pragma {pragma}")
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
            _set_hub_value(db, "schema_version", b"%d" % (1 + len(MIGRATIONS)))
            _set_hub_value(db, "incarnation", secrets.token_bytes(ID_BYTES))
            _set_hub_value(db, "tag_generation", b"0")
            db.execute("commit")
        _rename(unfinished, self._path)

    def _migrate(self, db: sqlite3.Connection) -> None:
        version = int(_hub_value(db, "schema_version"))
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
            _set_hub_value(db, "schema_version", b"%d" % known)
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
    if os.name == "posix":  # elsewhere a folder cannot be opened, and need not be
        folder = os.open(to.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


# --- the threads --------------------------------------------------------------------------------


@dataclass(slots=True)
class _Call:
    """What a thread shall do; without ``work`` it shall end."""

    work: Work[Any] | None
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]

    @classmethod
    def new(cls, work: Work[Any] | None) -> _Call:
        loop = asyncio.get_running_loop()
        return cls(work, loop, loop.create_future())

    def settle(self, result: object, error: BaseException | None) -> None:
        """Answer, from whatever thread; nobody may be waiting any more."""
        # RuntimeError: the loop was closed meanwhile.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._settle, result, error)

    def _settle(self, result: object, error: BaseException | None) -> None:
        if self.answer.done():
            return
        if error is None:
            self.answer.set_result(result)
        else:
            self.answer.set_exception(error)


class _Crew:
    """Threads, each with its own connection, that take calls from one queue, first come first served."""

    def __init__(
        self,
        name: str,
        size: int,
        connect: Callable[[], sqlite3.Connection],
        released: Callable[[], None],
        transact: Callable[[sqlite3.Connection, Work[Any]], Any],
    ) -> None:
        self._name = name
        self._size = size
        self._connect = connect
        self._released = released
        self._transact = transact
        self._open = False
        self._threads: list[threading.Thread] = []
        self._calls: queue.SimpleQueue[_Call] = queue.SimpleQueue()

    async def start(self) -> None:
        """Connect; raises what that raises, and then no thread is left."""
        assert not self._threads, "started twice"
        try:
            for _ in range(self._size):
                await self._start_one()
        except BaseException:
            await self.stop()
            raise
        self._open = True

    async def _start_one(self) -> None:
        started = _Call.new(None)
        # Daemon: a program that dies without close need not wait; what was answered is durable.
        thread = threading.Thread(target=self._main, args=(started,), name=self._name, daemon=True)
        thread.start()
        try:
            await started.answer
        except Exception:
            thread.join()
            raise
        self._threads.append(thread)

    async def stop(self) -> None:
        """Carry out what was called before, then end the threads."""
        self._open = False
        ends = [_Call.new(None) for _ in self._threads]
        for end in ends:
            self._calls.put(end)
        for end in ends:
            await end.answer
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    async def run(self, work: Work[T]) -> T:
        """Have ``work`` carried out in one transaction.

        Raises what it raises, after a rollback; ``StoreUnavailable`` when the
        database fails, when too many calls are waiting, or when not open.
        """
        if not self._open:
            raise StoreUnavailable("the store is not open")
        if self._calls.qsize() >= WAITING_MAX:
            raise StoreUnavailable("too many calls are waiting for the store")
        call = _Call.new(work)
        self._calls.put(call)
        return cast(T, await call.answer)

    def _main(self, started: _Call) -> None:
        db, error = _attempted(self._connect)
        if error is not None:
            self._released()
            return started.settle(None, error)
        started.settle(None, None)
        while (call := self._calls.get()).work is not None:
            self._carry_out(db, call)
        db.close()
        self._released()
        call.settle(None, None)

    def _carry_out(self, db: sqlite3.Connection, call: _Call) -> None:
        work = call.work
        assert work is not None
        if not call.answer.cancelled():
            call.settle(*_attempted(lambda: self._transact(db, work)))


def _read(db: sqlite3.Connection, work: Work[T]) -> T:
    db.execute("begin")
    try:
        return work(db)
    finally:
        db.execute("commit")


def _attempted(deed: Callable[[], T]) -> tuple[T, None] | tuple[Any, BaseException]:
    """What a deed returned, and what it raised; the driver's exceptions end here."""
    try:
        return deed(), None
    except (sqlite3.Error, OSError) as exc:
        error = StoreUnavailable(f"the database failed: {exc}")
        error.__cause__ = exc
        return None, error
    except BaseException as exc:
        return None, exc


_: type[Store] = SqliteStore
