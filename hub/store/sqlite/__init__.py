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
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from operator import itemgetter
from pathlib import Path

from hub.errors import Refusal
from hub.store import (
    Account,
    AccountFacts,
    Append,
    Appended,
    Attempt,
    Audited,
    Charge,
    CollectionState,
    Device,
    Happening,
    Invite,
    MovedDevice,
    Operator,
    Page,
    Row,
    SilentDevice,
    Space,
    SpaceFacts,
    Store,
    Terms,
    Totals,
)
from hub.store.loading import Loading
from hub.store.sqlite import crowd, dump, operators, queries
from hub.store.sqlite.batch import Batch, Known
from hub.store.sqlite.crowd import Crowd
from hub.store.sqlite.file import BUSY_TIMEOUT_MS, MIGRATIONS, File
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
ROWS_PER_PIECE_MAX = 256  # of a dump
PIECE_BYTES_MAX = 1_048_576
SCRUB_WITHIN_MS = 250  # writes wait meanwhile
SCRUB_AGAIN_S = 1.0  # after a try that a long reader, such as a dump, was in the way of


class SqliteStore(Crowd):
    """Keeps everything in the file ``path``; its folder must exist."""

    def __init__(
        self,
        path: str | Path,
        *,
        limits: Limits | None = None,
        quota_bytes: int | None = None,
        migrations: Sequence[Sequence[str]] = MIGRATIONS,
        read_only: bool = False,
    ) -> None:
        """With ``read_only`` it takes no lock and reads beside a running hub; a write raises ``StoreUnavailable``."""
        self._read_only = read_only
        self._file = File(Path(path), migrations)
        self._limits = limits or Limits()
        self._quota_bytes = Policy().quota_bytes if quota_bytes is None else quota_bytes
        self._scrub_due = False  # removed bytes may still stand in the WAL; the writer's alone
        self._scrub_at = 0.0  # not before that
        self._known = Known()  # the writer's alone
        self._batched = False  # the write under way is one of a batch; the writer's alone
        self._loading = Loading()  # the writer's alone
        self._dumps: set[Crew] = set()
        self._writer = Crew("hub-store-writer", 1, self._file.open, self._file.release, self._write)
        self._session_orders = itertools.count(1)
        connect = self._file.open_to_read if read_only else self._file.open_reader
        self._readers = Crew("hub-store-reader", READERS, connect, lambda: None, read_in_one)

    # --- life ---

    async def open(self) -> None:
        """Lock the file, make or migrate it, start the threads.

        Raises ``StoreUnavailable`` when another program holds the file.  To read only
        it does none of that, and also raises ``SchemaTooOld`` for a file that a start would migrate.
        """
        if self._read_only:
            return await self._readers.start()
        await self._writer.start()
        try:
            await self._readers.start()
        except BaseException:
            await self._writer.stop()
            raise

    async def close(self) -> None:
        """Finish what is under way; the file is then whole by itself, without a WAL beside it."""
        while self._dumps:
            await self._dumps.pop().stop()
        await self._readers.stop()
        await self._writer.stop()

    async def ping(self) -> None:
        """Answers when both a writer and a reader do."""
        await self._readers.run(lambda db: None)
        if not self._read_only:
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

    async def session_orders(self, count: int) -> list[int]:
        """As promised, for the life of this program: no other has the file, and no session outlives it."""
        self._writer.must_be_open()
        return list(itertools.islice(self._session_orders, count))

    async def remember(self, name: str, value: bytes) -> None:
        """As promised."""
        await self._writer.run(lambda db: queries.set_hub_value(db, dump.MEMO + name, value))

    async def recall(self, name: str) -> bytes | None:
        """As promised."""
        query = "select value from hub where key = ?"
        row = await self._readers.run(lambda db: db.execute(query, (dump.MEMO + name,)).fetchone())
        return row[0] if row else None

    def _write(self, db: sqlite3.Connection, work: Work[T]) -> T:
        self._batched = False
        db.execute("begin immediate")
        try:
            result = work(db)
            db.commit()  # takes the interpreter's lock back once; a statement three times
        except BaseException:
            self._batched = False
            raise
        finally:
            if db.in_transaction:
                db.execute("rollback")
            if not self._batched:
                self._known.forget()
        if (self._scrub_due or self._file.wal_is_long()) and time.monotonic() >= self._scrub_at:
            self._scrub(db)
        return result

    def _scrub(self, db: sqlite3.Connection) -> None:
        # Busy only while a reader takes longer than that, as a dump does; then a later write tries again.
        db.execute(f"pragma busy_timeout = {SCRUB_WITHIN_MS}")
        busy, _, _ = db.execute("pragma wal_checkpoint(truncate)").fetchone()
        db.execute(f"pragma busy_timeout = {BUSY_TIMEOUT_MS}")
        self._scrub_due = bool(busy)
        self._scrub_at = time.monotonic() + SCRUB_AGAIN_S if busy else 0.0

    # --- the log ---

    async def append(self, appends: Sequence[Append], now: float) -> list[Appended]:
        """As promised."""

        def work(db: sqlite3.Connection) -> list[Appended]:
            self._batched = True
            batch = Batch(db, self._known, now, self._limits, self._quota_bytes)
            appended = batch.append_all(appends)
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
        asked = (account_id, space_id, device_id, collection_ids)
        return await self._readers.run(lambda db: crowd.states(db, *asked))

    async def heads(self, keys: Sequence[CollectionKey]) -> list[Seq]:
        """As promised."""

        def work(db: sqlite3.Connection) -> list[Seq]:
            query = "select head from collection where account_id = ? and space_id = ? and collection_id = ?"
            rows = (db.execute(query, key).fetchone() for key in keys)
            return [head for (head,) in (row or (0,) for row in rows)]

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
            if found is None or counter >= 2**63 or operators.stopped(db, device_id) in ("revoked", "suspended"):
                return False
            if not queries.is_alive(db, key.account_id, device_id):
                return False
            queries.must_stay(db, key.account_id)
            query = (
                "insert into witness (account_id, collection, device_id, counter, sealed) values (?, ?, ?, ?, ?)"
                " on conflict do update set counter = excluded.counter, sealed = excluded.sealed"
                " where excluded.counter > witness.counter"
            )
            return queries.changed(db, query, key.account_id, found[0], device_id, counter, sealed) == 1

        return await self._writer.run(work)

    async def witnesses(self, key: CollectionKey) -> list[tuple[DeviceId, bytes]]:
        """As promised, by device id."""
        return await self._readers.run(lambda db: crowd.witnesses(db, key))

    async def compact(self, replaced_before: float, limit: int) -> int:
        """As promised, the longest replaced first."""

        def work(db: sqlite3.Connection) -> int:
            old = db.execute(
                "select collection, rowid from change indexed by change_replaced"
                " where replaced_at is not null and replaced_at < ?"
                " and account_id not in (select account_id from account where moving_to <> '')"
                " order by replaced_at, rowid limit ?",
                (replaced_before, limit),
            ).fetchall()
            for number, of_number in itertools.groupby(sorted(old), key=itemgetter(0)):
                freed = queries.drop_changes(db, [rowid for _, rowid in of_number])
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
        return await self._readers.run(lambda db: crowd.spaces(db, account_id))

    async def schedule_space_deletion(self, account_id: AccountId, space_id: SpaceId, at: float | None) -> bool:
        """As promised."""
        query = "update space set deleted_at = ? where account_id = ? and space_id = ?"
        return await self._change(account_id, query, at, account_id, space_id)

    async def _change(self, account_id: AccountId, query: str, *values: object) -> bool:
        """Whether a statement changed a row of an account that stays; refuses when it is moving."""

        def work(db: sqlite3.Connection) -> bool:
            if not queries.changed(db, query, *values):
                return False
            queries.must_stay(db, account_id)
            return True

        return await self._writer.run(work)

    async def delete_space(self, account_id: AccountId, space_id: SpaceId) -> bool:
        """As promised; the bytes are overwritten when it returns."""

        def work(db: sqlite3.Connection) -> bool:
            if queries.find_space(db, account_id, space_id) is None:
                return False
            queries.must_stay(db, account_id)
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
        return await self._readers.run(lambda db: crowd.find_device(db, device_id))

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
            queries.must_stay(db, account_id)
            return [each for each in device_ids if queries.changed(db, query, now, account_id, each) == 1]

        return await self._writer.run(work)

    async def stopped_among(self, device_ids: Collection[DeviceId]) -> dict[DeviceId, str]:
        """As promised."""

        def work(db: sqlite3.Connection) -> dict[DeviceId, str]:
            closings = ((device_id, operators.stopped(db, device_id)) for device_id in device_ids)
            return {device_id: closing for device_id, closing in closings if closing}

        return await self._readers.run(work)

    async def approve(self, account_id: AccountId, device_id: DeviceId) -> bool:
        """As promised; a revoked device is no device."""
        query = "update device set probation_until = null where account_id = ? and device_id = ? and revoked_at is null"
        return await self._change(account_id, query, account_id, device_id)

    async def note_seen(self, device_ids: Collection[DeviceId], day: int) -> None:
        """As promised; an earlier day changes nothing, nor does any for an account that is moving."""
        query = (
            "update device set last_seen_day = ?1 where device_id = ?2 and last_seen_day < ?1"
            " and account_id not in (select account_id from account where moving_to <> '')"
        )
        await self._writer.run(lambda db: [queries.changed(db, query, day, device_id) for device_id in device_ids])

    async def schedule_account_deletion(self, account_id: AccountId, at: float | None) -> bool:
        """As promised."""
        query = "update account set deleted_at = ? where account_id = ?"
        return await self._change(account_id, query, at, account_id)

    async def delete_account(self, account_id: AccountId) -> bool:
        """As promised; the attempts of its address go with it, and the bytes are overwritten when it returns."""

        def work(db: sqlite3.Connection) -> bool:
            if queries.find_account(db, account_id) is None:
                return False
            operators.must_be_free(db, account_id)
            queries.delete_account(db, account_id)
            self._scrub_due = True
            return True

        return await self._writer.run(work)

    async def due_deletions(self, now: float) -> tuple[list[AccountId], list[tuple[AccountId, SpaceId]]]:
        """As promised, the longest due first; an account that is moving is not due, nor are its spaces."""
        accounts = (
            "select account_id from account where deleted_at <= ? and moving_to = '' order by deleted_at, account_id"
        )
        spaces = (
            "select account_id, space_id from space where deleted_at <= ?"
            " and account_id not in (select account_id from account where moving_to <> '')"
            " order by deleted_at, account_id, space_id"
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

    async def invites(self) -> list[Invite]:
        """As promised."""
        query = "select token_hash, expires_at, used_at from invite order by expires_at desc, token_hash"
        return await self._readers.run(lambda db: [Invite(*row) for row in db.execute(query)])

    async def withdraw_invite(self, token_hash: bytes) -> bool:
        """As promised."""
        query = "delete from invite where token_hash = ? and used_at is null"
        return await self._writer.run(lambda db: queries.changed(db, query, token_hash) == 1)

    async def list_address(self, address_tag: bytes, kind: str | None, day: int) -> None:
        """As promised."""
        await self._writer.run(lambda db: operators.list_address(db, address_tag, kind, day))

    async def listed(self, address_tag: bytes) -> str | None:
        """As promised."""
        query = "select kind from listed where address_tag = ?"
        row = await self._readers.run(lambda db: db.execute(query, (address_tag,)).fetchone())
        return row[0] if row else None

    async def count_listed(self) -> dict[str, int]:
        """As promised."""
        query = "select kind, count(*) from listed group by kind"
        return {"allowed": 0, "blocked": 0} | dict(await self._readers.run(lambda db: db.execute(query).fetchall()))

    async def change_address(self, attempt_id: bytes, account_id: AccountId, now: float) -> None:
        """As promised; the attempts of the old address go."""
        await self._writer.run(lambda db: operators.change_address(db, attempt_id, account_id, now))

    # --- for the operator ---

    async def accounts(self, *, after: AccountId = b"", limit: int, matching: str = "") -> list[AccountFacts]:
        """As promised."""
        return await self._readers.run(lambda db: operators.accounts(db, after, limit, matching))

    async def totals(self) -> Totals:
        """As promised."""
        return await self._readers.run(operators.totals)

    async def set_terms(self, account_id: AccountId, terms: Terms) -> bool:
        """As promised."""
        return await self._writer.run(lambda db: operators.set_terms(db, account_id, terms))

    async def suspend(self, account_id: AccountId, at: float | None) -> bool:
        """As promised."""
        query = "update account set suspended_at = ? where account_id = ?"
        return await self._writer.run(lambda db: queries.changed(db, query, at, account_id) == 1)

    async def near_quota(self, share: float, default_quota: int, now: float, limit: int) -> list[Account]:
        """As promised."""
        return await self._readers.run(lambda db: operators.near_quota(db, share, default_quota, now, limit))

    async def silent_devices(self, seen_before_day: int, limit: int) -> list[SilentDevice]:
        """As promised."""
        return await self._readers.run(lambda db: operators.silent_devices(db, seen_before_day, limit))

    async def make_operator(self, account_id: AccountId, salt: bytes, now: float) -> bool:
        """As promised."""
        query = (
            "insert or replace into operator (account_id, salt, since, last_step)"
            " select account_id, ?, ?, 0 from account where account_id = ?"
        )
        return await self._writer.run(lambda db: queries.changed(db, query, salt, now, account_id) == 1)

    async def drop_operator(self, account_id: AccountId) -> bool:
        """As promised."""
        query = "delete from operator where account_id = ?"
        return await self._writer.run(lambda db: queries.changed(db, query, account_id) == 1)

    async def operators(self) -> list[Operator]:
        """As promised."""
        query = "select account_id, salt, since, last_step from operator order by since, account_id"
        return await self._readers.run(lambda db: [Operator(*row) for row in db.execute(query)])

    async def take_step(self, account_id: AccountId, step: int) -> bool:
        """As promised."""
        query = "update operator set last_step = ?1 where account_id = ?2 and last_step < ?1"
        return await self._writer.run(lambda db: queries.changed(db, query, step, account_id) == 1)

    # --- what happened, and how it grew ---

    async def note(self, happenings: Sequence[Happening]) -> None:
        """As promised."""
        await self._writer.run(lambda db: operators.note_all(db, happenings))

    async def audit(self, account_id: AccountId, *, before: int, limit: int) -> list[Audited]:
        """As promised."""
        return await self._readers.run(lambda db: operators.audit(db, account_id, before, limit))

    async def audit_counts(self, what: str, since: float, limit: int) -> list[tuple[AccountId, int]]:
        """As promised."""
        return await self._readers.run(lambda db: operators.audit_counts(db, what, since, limit))

    async def forget_audit(self, before: float) -> int:
        """As promised."""
        return await self._writer.run(lambda db: operators.forget(db, "audit", "at", before))

    async def space_facts(self, account_id: AccountId) -> list[SpaceFacts]:
        """As promised."""
        return await self._readers.run(lambda db: operators.space_facts(db, account_id))

    async def note_growth(self, day: int) -> int:
        """As promised."""
        return await self._writer.run(lambda db: operators.note_growth(db, day))

    async def forget_growth(self, before_day: int) -> int:
        """As promised."""
        return await self._writer.run(lambda db: operators.forget(db, "growth", "day", before_day))

    # --- moving, backing up ---

    async def begin_move(self, account_id: AccountId, url: str) -> bool:
        """As promised; one that is only arriving is none yet."""
        return await self._writer.run(lambda db: operators.begin_move(db, account_id, url))

    async def end_move(self, account_id: AccountId, now: float) -> bool:
        """As promised; the bytes are overwritten when it returns."""

        def work(db: sqlite3.Connection) -> bool:
            ended = operators.end_move(db, account_id, now)
            self._scrub_due |= ended
            return ended

        return await self._writer.run(work)

    async def moved_device(self, device_id: DeviceId) -> MovedDevice | None:
        """As promised."""
        return await self._readers.run(lambda db: crowd.find_moved(db, device_id))

    async def forget_moved(self, before: float) -> int:
        """As promised."""
        return await self._writer.run(lambda db: operators.forget(db, "moved", "moved_at", before))

    @asynccontextmanager
    async def dump(self, account_ids: Collection[AccountId] | None = None) -> AsyncIterator[AsyncIterator[Row]]:
        """As promised, from a snapshot that a thread of its own holds; the rows of a table come by their keys.

        What is removed meanwhile is overwritten when the block has been left.
        """
        self._readers.must_be_open()
        crew = Crew("hub-store-dump", 1, self._file.open_reader, lambda: None, lambda db, work: work(db))
        self._dumps.add(crew)
        try:
            await crew.start()
            rows = await crew.run(lambda db: _snapshot(db, account_ids))
            yield _pieces(crew, rows)
        finally:
            await crew.stop()
            if crew in self._dumps and not self._read_only:
                self._dumps.discard(crew)
                await self._writer.run(self._scrub_now)

    def _scrub_now(self, db: sqlite3.Connection) -> None:
        """Have what a dump was in the way of scrubbed with this very write."""
        self._scrub_at = 0.0

    async def load(self, rows: Sequence[Row]) -> None:
        """As promised."""

        def work(db: sqlite3.Connection) -> Loading:
            call = dump.Load(db, self._loading)
            call.keep(rows)
            return call.loading

        self._loading = await self._writer.run(work)

    async def end_load(self, account_ids: Collection[AccountId]) -> None:
        """As promised."""
        await self._writer.run(lambda db: dump.end_load(db, account_ids))
        self._loading = Loading()

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


def _snapshot(db: sqlite3.Connection, account_ids: Collection[AccountId] | None) -> Iterator[Row]:
    db.execute("begin")
    queries.hub_value(db, "incarnation")  # the first read takes the snapshot
    return dump.rows(db, account_ids)


def _piece(rows: Iterator[Row]) -> list[Row]:
    """The next rows, as many as should be held at once; empty at the end."""
    piece, held = [], 0
    for row in rows:
        piece.append(row)
        held += sum(len(value) for value in row[1] if isinstance(value, bytes))
        if len(piece) == ROWS_PER_PIECE_MAX or held >= PIECE_BYTES_MAX:
            break
    return piece


async def _pieces(crew: Crew, rows: Iterator[Row]) -> AsyncIterator[Row]:
    while piece := await crew.run(lambda db: _piece(rows)):
        for row in piece:
            yield row


_: type[Store] = SqliteStore
