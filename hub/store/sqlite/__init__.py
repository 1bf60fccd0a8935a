"""The promises of the store in one SQLite file on one machine.

One thread writes, two read, each with a connection of its own; nobody else ever
touches the file.  A call is a function of a connection that is handed to such a
thread and carried out there in one transaction: ``begin immediate`` for a write,
one snapshot for a read.  So writes happen one after another, in the order they were
called, and nothing below needs a lock.

* Durable: WAL with ``synchronous=FULL``; the answer is given after the commit.
* Deleted means deleted: ``secure_delete`` overwrites what is removed, and after a
  wipe or a deletion the WAL is emptied into the file before the answer is given.
* One program at a time; a database is made whole or not at all, and copied before its
  schema changes (``file``).

No exception of the driver leaves this room: it becomes ``StoreUnavailable``.
"""

from __future__ import annotations

import itertools
import secrets
import sqlite3
from collections.abc import Callable, Collection, Sequence
from operator import itemgetter
from pathlib import Path

from hub.errors import Refusal
from hub.store import Account, Append, Appended, Attempt, Charge, CollectionState, Device, Page, Space, Store
from hub.store.sqlite import queries
from hub.store.sqlite.batch import Batch
from hub.store.sqlite.file import MIGRATIONS, File
from hub.store.sqlite.threads import Crew, T, Work, read_in_one
from hub.terms import (
    ID_BYTES,
    AccountId,
    Change,
    CollectionId,
    CollectionKey,
    DeviceId,
    Incarnation,
    Limits,
    Policy,
    RecordId,
    Seq,
    SpaceId,
)

READERS = 2  # more would not read faster: the file is in the page cache and Python has one core


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
        self._file = File(Path(path), migrations)
        self._limits = limits or Limits()
        self._quota_bytes = Policy().quota_bytes if quota_bytes is None else quota_bytes
        self._scrub_due = False  # removed bytes may still stand in the WAL; the writer's alone
        self._writer = Crew("hub-store-writer", 1, self._file.open, self._file.release, self._write)
        self._session_orders = itertools.count(1)
        self._readers = Crew("hub-store-reader", READERS, self._file.open_reader, lambda: None, read_in_one)

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
        return await self._readers.run(lambda db: queries.hub_value(db, "incarnation"))

    async def renew_incarnation(self) -> Incarnation:
        """A new name for it."""
        incarnation = secrets.token_bytes(ID_BYTES)
        await self._writer.run(lambda db: queries.set_hub_value(db, "incarnation", incarnation))
        return incarnation

    async def claim(self, name: str, value: bytes) -> bytes:
        """As promised."""
        return await self._writer.run(lambda db: queries.claim(db, name, value))

    async def session_order(self) -> int:
        """As promised, for the life of this program: no other has the file, and no session outlives it."""
        self._writer.must_be_open()
        return next(self._session_orders)

    def _write(self, db: sqlite3.Connection, work: Work[T]) -> T:
        db.execute("begin immediate")
        try:
            result = work(db)
            db.execute("commit")
        finally:
            if db.in_transaction:
                db.execute("rollback")
        if self._scrub_due or self._file.wal_is_long():
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
            batch = Batch(db, now, self._limits, self._quota_bytes)
            appended = [batch.append(append) for append in appends]
            batch.flush()
            self._scrub_due |= batch.wiped
            return appended

        return await self._writer.run(work)

    async def read(self, key: CollectionKey, after: Seq, *, live_only: bool, changes_max: int, bytes_max: int) -> Page:
        """As promised."""
        return await self._readers.run(lambda db: queries.read_page(db, key, after, live_only, changes_max, bytes_max))

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
            found = queries.find_collection(db, key)
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
            found = queries.find_collection(db, key)
            if found is None or counter >= 2**63 or not queries.is_alive(db, key.account_id, device_id):
                return False
            query = (
                "insert into witness (account_id, collection, device_id, counter, sealed) values (?, ?, ?, ?, ?)"
                " on conflict do update set counter = excluded.counter, sealed = excluded.sealed"
                " where excluded.counter > witness.counter"
            )
            return queries.changed(db, query, key.account_id, found[0], device_id, counter, sealed) == 1

        return await self._writer.run(work)

    async def witnesses(self, key: CollectionKey) -> list[tuple[DeviceId, bytes]]:
        """As promised, by device id."""

        def work(db: sqlite3.Connection) -> list[tuple[DeviceId, bytes]]:
            found = queries.find_collection(db, key)
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
            for number, of_number in itertools.groupby(sorted(old), key=itemgetter(0)):
                freed = queries.drop_changes(db, number, [seq for _, seq in of_number])
                query = "select account_id, space_id from collection where number = ?"
                account_id, space_id = db.execute(query, (number,)).fetchone()
                queries.add_used_bytes(db, account_id, space_id, -freed)
            return len(old)

        return await self._writer.run(work)

    # --- spaces ---

    async def create_space(self, space: Space, spaces_max: int, now: float) -> Space:
        """As promised; ``not_found`` when the account has gone meanwhile."""
        return await self._writer.run(lambda db: queries.create_space(db, space, spaces_max, now))

    async def spaces(self, account_id: AccountId) -> list[Space]:
        """As promised."""
        query = f"select {queries.columns(Space)} from space where account_id = ? order by created_at, space_id"
        return await self._readers.run(lambda db: [Space(*row) for row in db.execute(query, (account_id,))])

    async def schedule_space_deletion(self, account_id: AccountId, space_id: SpaceId, at: float | None) -> bool:
        """As promised."""
        query = "update space set deleted_at = ? where account_id = ? and space_id = ?"
        return await self._writer.run(lambda db: queries.changed(db, query, at, account_id, space_id) == 1)

    async def delete_space(self, account_id: AccountId, space_id: SpaceId) -> bool:
        """As promised; the bytes are overwritten when it returns."""

        def work(db: sqlite3.Connection) -> bool:
            if queries.find_space(db, account_id, space_id) is None:
                return False
            queries.delete_space(db, account_id, space_id)
            self._scrub_due = True
            return True

        return await self._writer.run(work)

    # --- accounts and devices ---

    async def spend(self, charges: Sequence[Charge], now: float, *, count: bool = True) -> float:
        """As promised; without ``count`` it waits for no writer."""
        if not count:
            return await self._readers.run(lambda db: queries.wait(db, charges, now))

        def work(db: sqlite3.Connection) -> float:
            wait = queries.wait(db, charges, now)
            if not wait:
                db.executemany("insert into spent (key, at) values (?, ?)", [(charge.key, now) for charge in charges])
            return wait

        return await self._writer.run(work)

    async def forget_spent(self, before: float) -> int:
        """As promised."""
        return await self._writer.run(lambda db: queries.changed(db, "delete from spent where at < ?", before))

    async def add_attempt(self, attempt: Attempt) -> None:
        """As promised."""
        await self._writer.run(lambda db: queries.insert(db, "attempt", attempt))

    async def note_resend(
        self, attempt_id: bytes, device_pk: bytes, now: float, *, not_before_s: float, sends_max: int
    ) -> Attempt | None:
        """As promised."""

        def work(db: sqlite3.Connection) -> Attempt | None:
            attempt = queries.find_live_attempt(db, attempt_id, now)
            if attempt is None or attempt.device_pk != device_pk:
                return None
            if attempt.sends >= sends_max or now - attempt.sent_at < not_before_s:
                return None
            query = "update attempt set sends = sends + 1, sent_at = ? where attempt_id = ?"
            queries.changed(db, query, now, attempt_id)
            return queries.find_attempt(db, attempt_id)

        return await self._writer.run(work)

    async def charge_attempt(self, attempt_id: bytes, now: float, tries_max: int) -> Attempt | None:
        """As promised."""

        def work(db: sqlite3.Connection) -> Attempt | None:
            attempt = queries.find_live_attempt(db, attempt_id, now)
            if attempt is None or attempt.tries >= tries_max:
                return None
            queries.changed(db, "update attempt set tries = tries + 1 where attempt_id = ?", attempt_id)
            return queries.find_attempt(db, attempt_id)

        return await self._writer.run(work)

    async def consume_attempt(self, attempt_id: bytes, now: float) -> bool:
        """As promised."""
        return await self._writer.run(lambda db: queries.consume_attempt(db, attempt_id, now) is not None)

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
            attempt = queries.consume_attempt(db, attempt_id, now)
            if attempt is None:
                raise Refusal("enrol_failed")
            if new_account is not None:
                queries.add_account(db, attempt, new_account, address_tag, first_only=first_only, now=now)
            elif queries.account_with(db, address_tag) != device.account_id:
                raise Refusal("enrol_failed")
            queries.add_device(db, device, per_account_max, per_app_max)

        await self._writer.run(work)

    async def add_device(self, device: Device, *, per_account_max: int, per_app_max: int) -> None:
        """As promised."""

        def work(db: sqlite3.Connection) -> None:
            if queries.find_account(db, device.account_id) is None:
                raise Refusal("enrol_failed")
            queries.add_device(db, device, per_account_max, per_app_max)

        await self._writer.run(work)

    async def find_account(self, address_tag: bytes) -> Account | None:
        """As promised."""

        def work(db: sqlite3.Connection) -> Account | None:
            account_id = queries.account_with(db, address_tag)
            return queries.find_account(db, account_id) if account_id else None

        return await self._readers.run(work)

    async def account(self, account_id: AccountId) -> Account | None:
        """As promised."""
        return await self._readers.run(lambda db: queries.find_account(db, account_id))

    async def count_accounts(self) -> int:
        """As promised."""
        return await self._readers.run(queries.count_accounts)

    async def device(self, device_id: DeviceId) -> Device | None:
        """As promised."""
        query = f"select {queries.columns(Device)} from device where device_id = ?"
        return await self._readers.run(lambda db: queries.one(Device, db.execute(query, (device_id,))))

    async def devices(self, account_id: AccountId) -> list[Device]:
        """As promised."""
        query = (
            f"select {queries.columns(Device)} from device where account_id = ? and revoked_at is null"
            " order by enrolled_at, device_id"
        )
        return await self._readers.run(lambda db: [Device(*row) for row in db.execute(query, (account_id,))])

    async def revoke(self, account_id: AccountId, device_ids: Collection[DeviceId], now: float) -> list[DeviceId]:
        """As promised."""
        query = "update device set revoked_at = ? where account_id = ? and device_id = ? and revoked_at is null"

        def work(db: sqlite3.Connection) -> list[DeviceId]:
            return [each for each in device_ids if queries.changed(db, query, now, account_id, each) == 1]

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
        return await self._writer.run(lambda db: queries.changed(db, query, account_id, device_id) == 1)

    async def note_seen(self, device_ids: Collection[DeviceId], day: int) -> None:
        """As promised; an earlier day changes nothing."""
        query = "update device set last_seen_day = ?1 where device_id = ?2 and last_seen_day < ?1"
        await self._writer.run(lambda db: [queries.changed(db, query, day, device_id) for device_id in device_ids])

    async def schedule_account_deletion(self, account_id: AccountId, at: float | None) -> bool:
        """As promised."""
        query = "update account set deleted_at = ? where account_id = ?"
        return await self._writer.run(lambda db: queries.changed(db, query, at, account_id) == 1)

    async def delete_account(self, account_id: AccountId) -> bool:
        """As promised; the attempts of its address go with it, and the bytes are overwritten when it returns."""

        def work(db: sqlite3.Connection) -> bool:
            if queries.find_account(db, account_id) is None:
                return False
            queries.delete_account(db, account_id)
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
        await self._writer.run(lambda db: queries.changed(db, query, token_hash, expires_at))

    async def invite_is_open(self, token_hash: bytes, now: float) -> bool:
        """As promised."""
        query = "select 1 from invite where token_hash = ? and used_at is null and expires_at > ?"
        return await self._readers.run(lambda db: db.execute(query, (token_hash, now)).fetchone() is not None)

    async def rewrap_addresses(self, wrap: Callable[[bytes], bytes], generation: int) -> int:
        """As promised.  ``wrap`` is called in the writer's thread."""
        return await self._writer.run(lambda db: queries.rewrap(db, wrap, generation))

    async def tag_generation(self) -> int:
        """As promised."""
        return int(await self._readers.run(lambda db: queries.hub_value(db, "tag_generation")))

    async def forget_attempts(self, created_before: float) -> int:
        """As promised."""

        def work(db: sqlite3.Connection) -> int:
            attempts = queries.changed(db, "delete from attempt where created_at < ?", created_before)
            over = "min(expires_at, coalesce(used_at, expires_at))"
            return attempts + queries.changed(db, f"delete from invite where {over} < ?", created_before)

        return await self._writer.run(work)


_: type[Store] = SqliteStore
