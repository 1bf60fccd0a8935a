"""Moving accounts and backing up in Postgres: what is dumped, and what is loaded.

A dump reads at its reader's pace, on a connection of its own beside the pools: it holds
one snapshot, and until it ends VACUUM keeps every row that the snapshot can see.  A load
writes the rows of a call with one COPY a table, in one transaction.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from hub.errors import Refusal
from hub.store import ARRIVING, MovedDevice, Row
from hub.store.loading import CLAIM, OF_COLLECTION, Loading
from hub.store.postgres.accounts import delete_locked_account, lock_whole_account
from hub.store.postgres.calls import Calls, changed, lock_account, lock_log
from hub.store.postgres.pool import DRIVER_ERRORS, Connection, connect, unavailable
from hub.store.rows import TABLES
from hub.terms import AccountId, CollectionKey, DeviceId, SpaceId

ROWS_AT_ONCE = 50  # that a dump takes from the server; each may have the largest body there is
ALONE_SINCE = 2  # the first schema version whose hubs know of moving


class Moving(Calls):
    """The part of the promise that is about moving and backing up."""

    _loading: Loading  # where a load stands; of this store alone

    async def begin_move(self, account_id: AccountId, url: str) -> bool:
        """As promised; one that is only arriving is none yet.

        Raises ``Refusal("unavailable")`` while a hub that knows nothing of moving may run beside this one.
        """
        query = "update account set moving_to = $2 where account_id = $1"

        async def work(db: Connection) -> bool:
            compatible = await db.fetchval("select value from hub where key = 'schema_compatible'")
            if url and int(compatible) < ALONE_SINCE:
                raise Refusal("unavailable", "an older hub may be running beside this one: run hub migrate --post")
            account = await lock_account(db, "account_id", account_id)
            if account is None or account.moving_to == ARRIVING:
                return False
            await lock_log(db, account_id)
            return await changed(db, query, account_id, url) == 1

        return await self._transact(work)

    async def end_move(self, account_id: AccountId, now: float) -> bool:
        """As promised.  The changes go in several transactions; the rest with the account in the last one.

        When it raises some of the changes may be gone; calling again goes on.
        """
        if not await self._transact(lambda db: _may_leave(db, account_id)):
            return False
        for space_id in await self._space_ids(account_id):
            await self._delete_changes(account_id, space_id, leaving=True)

        async def work(db: Connection) -> bool:
            account = await lock_whole_account(db, account_id)
            if account is None or not account.may_leave():
                return False
            await db.execute(LEAVE, account_id, now)
            await delete_locked_account(db, account_id)
            return True

        return await self._transact(work)

    async def moved_device(self, device_id: DeviceId) -> MovedDevice | None:
        """As promised."""
        query = "select device_id, device_pk, url, moved_at from moved where device_id = $1"
        return await self._one(MovedDevice, query, device_id)

    async def forget_moved(self, before: float) -> int:
        """As promised."""
        return await self._execute("delete from moved where moved_at < $1", before)

    @asynccontextmanager
    async def dump(self, account_ids: Collection[AccountId] | None = None) -> AsyncIterator[AsyncIterator[Row]]:
        """As promised; the rows of a table come by their keys."""
        self._calls.must_be_open()
        db = await _connect_for_dump(self._url)
        try:
            yield self._dumped(db, account_ids)
        finally:
            with contextlib.suppress(*DRIVER_ERRORS):
                await db.close(timeout=5)

    async def _dumped(self, db: Connection, account_ids: Collection[AccountId] | None) -> AsyncIterator[Row]:
        try:
            if account_ids is None:
                for table, query in HUB_ROWS.items():
                    async for row in _stream(db, query):
                        yield table, tuple(row)
            query = "select account_id from account where $1::bytea[] is null or account_id = any($1)"
            asked = None if account_ids is None else list(account_ids)
            for (account_id,) in await db.fetch(f"{query} order by account_id", asked):
                async for dumped in _account_rows(db, account_id):
                    self._calls.must_be_open()
                    yield dumped
        except DRIVER_ERRORS as exc:
            raise unavailable(exc) from None

    async def load(self, rows: Sequence[Row]) -> None:
        """As promised."""
        loading = self._loading.copy()
        batch = _Rows(loading)
        for row in rows:
            batch.take(row)
        await self._transact(batch.write)
        self._loading = loading

    async def end_load(self, account_ids: Collection[AccountId]) -> None:
        """As promised."""
        await self._execute(END_LOAD, list(account_ids), ARRIVING)
        self._loading = Loading()


# --- what is dumped -------------------------------------------------------------------------------

HUB_ROWS = {
    "hub": f"""
        select key, value from hub where key like '{CLAIM}%' or key in ('incarnation', 'tag_generation')
        order by key collate "C"
    """,
    "invite": "select token_hash, expires_at, used_at from invite order by token_hash",
    "listed": "select address_tag, kind, listed_day from listed order by address_tag",
}
ORDER = {
    "account": "account_id",
    "operator": "account_id",
    "device": "device_id",
    "space": "space_id",
    "growth": "space_id, day",
    "audit": "number",
    "change": "seq",
    "counter": "device_id",
    "receipt": "device_id, counter",
    "witness": "device_id",
}


def _rows_of(table: str) -> str:
    """The query for the rows of an account (or with ``OF_COLLECTION``, of a collection) in one table."""
    below = " and collection = $2" if table in OF_COLLECTION else ""
    return f"select {', '.join(TABLES[table])} from {table} where account_id = $1{below} order by {ORDER[table]}"


COLLECTIONS = """
select number, account_id, space_id, collection_id, head from collection where account_id = $1
order by space_id, collection_id
"""


async def _connect_for_dump(url: str) -> Connection:
    """A connection that holds a snapshot; closing it lets that go."""
    try:
        db = await connect(url)
    except DRIVER_ERRORS as exc:
        raise unavailable(exc) from None
    try:
        await db.transaction(isolation="repeatable_read", readonly=True).start()
        # The reader may take its time.  This is also the first statement, which takes the snapshot.
        await db.execute("set local idle_in_transaction_session_timeout = 0")
        await db.fetchval("select count(*) from hub")
    except DRIVER_ERRORS as exc:
        db.terminate()
        raise unavailable(exc) from None
    except BaseException:
        db.terminate()
        raise
    return db


async def _stream(db: Connection, query: str, *values: object) -> AsyncIterator[Any]:
    async for row in db.cursor(query, *values, prefetch=ROWS_AT_ONCE):
        yield row


async def _account_rows(db: Connection, account_id: AccountId) -> AsyncIterator[Row]:
    for table in ("account", "operator", "device", "space", "growth"):
        async for row in _stream(db, _rows_of(table), account_id):
            yield table, tuple(row)
    # Fetched at once: they are few and small, and the cursors below stay one at a time.
    for number, *collection in await db.fetch(COLLECTIONS, account_id):
        yield "collection", tuple(collection)
        for table in ("change", "counter", "receipt", "witness"):
            async for row in _stream(db, _rows_of(table), account_id, number):
                yield table, tuple(row)
    async for row in _stream(db, _rows_of("audit"), account_id):
        yield "audit", tuple(row)


# --- what is loaded -------------------------------------------------------------------------------

LOAD_HUB = "insert into hub (key, value) values ($1, $2) on conflict (key) do update set value = excluded.value"
LOAD_INVITE = """
insert into invite (token_hash, expires_at, used_at) values ($1, $2, $3)
on conflict (token_hash) do update set expires_at = excluded.expires_at, used_at = excluded.used_at
"""
LOAD_LISTED = """
insert into listed (address_tag, kind, listed_day) values ($1, $2, $3)
on conflict (address_tag) do update set kind = excluded.kind, listed_day = excluded.listed_day
"""
END_LOAD = """
with arrived as (
    select account_id from account where account_id = any($1) and moving_to = $2 order by account_id for no key update
)
update account set moving_to = '' from arrived where account.account_id = arrived.account_id
"""
LEAVE = """
insert into moved (device_id, device_pk, url, moved_at)
select device_id, device_pk, moving_to, $2 from device join account using (account_id)
where account_id = $1 and revoked_at is null order by device_id
on conflict (device_id) do update
set device_pk = excluded.device_pk, url = excluded.url, moved_at = excluded.moved_at
"""
ADD_USED = """
update space set used_bytes = used_bytes + $3 where account_id = $1 and space_id = $2
"""


async def _may_leave(db: Connection, account_id: AccountId) -> bool:
    account = await lock_account(db, "account_id", account_id)
    return account is not None and account.may_leave()


class _Rows:
    """The rows of one call of ``load``, by table."""

    def __init__(self, loading: Loading) -> None:
        self._loading = loading
        self._before = loading.account_id  # whose rows came in the call before
        self._rows: dict[str, list[tuple[CollectionKey | None, dict[str, Any]]]] = {table: [] for table in TABLES}

    def take(self, row: Row) -> None:
        """Check the next row and keep it for ``write``; raises ``Refusal("bad_request", sentence)``."""
        values = self._loading.take(row)
        self._rows[row[0]].append((self._loading.collection, values))

    async def write(self, db: Connection) -> None:
        """Keep them all; raises ``Refusal`` as promised of ``load``."""
        try:
            await self._write_of_hub(db)
            await self._write_of_accounts(db)
        except asyncpg.UniqueViolationError as exc:
            if exc.table_name == "device":
                raise Refusal("device_exists") from None
            raise _cannot_load(exc) from None
        except (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError, OverflowError, UnicodeError) as exc:
            raise _cannot_load(exc) from None

    async def _write_of_hub(self, db: Connection) -> None:
        if not any(self._rows[table] for table in ("hub", "invite", "listed")):
            return
        # Whoever wants to be the first account waits here, as in ``enrol``.
        await db.execute("select from hub where key = 'incarnation' for no key update")
        if await db.fetchval("select exists (select from account)"):
            raise Refusal("bad_request", "a whole hub can only be loaded into a store without accounts")
        for _, values in self._rows["hub"]:
            await db.execute(LOAD_HUB, values["key"], values["value"])
        for table, query in (("invite", LOAD_INVITE), ("listed", LOAD_LISTED)):
            await db.executemany(query, [tuple(values.values()) for _, values in self._rows[table]])

    async def _write_of_accounts(self, db: Connection) -> None:
        await self._must_be_arriving(db)
        await self._copy(db, "account", moving_to=ARRIVING)
        for table in ("operator", "device", "space", "growth"):
            await self._copy(db, table)
        devices = [values["device_id"] for _, values in self._rows["device"]]
        if devices:  # they came back
            await db.execute("delete from moved where device_id = any($1)", devices)
        numbers = await self._numbers(db)
        await self._copy_collections(db, numbers)
        for table in ("change", "counter", "receipt", "witness"):
            await self._copy_below(db, table, numbers)
        await self._add_used(db)
        await self._copy_audit(db)

    async def _must_be_arriving(self, db: Connection) -> None:
        """The account whose rows came in the call before is still the one that this load has made."""
        own = {values["account_id"] for _, values in self._rows["account"]}
        account_ids = {self._loading.account_id, self._before} - own - {b""}
        if not any(self._rows[table] for table in TABLES if table not in HUB_ROWS):
            return
        for account_id in account_ids:
            account = await lock_account(db, "account_id", account_id)
            if account is None or account.moving_to != ARRIVING:
                raise Refusal("bad_request", "the account these rows are of is not being loaded")

    async def _copy(self, db: Connection, table: str, **more: object) -> None:
        columns = (*TABLES[table], *more)
        await _copy(db, table, columns, [(*values.values(), *more.values()) for _, values in self._rows[table]])

    async def _numbers(self, db: Connection) -> dict[CollectionKey, int]:
        """The short number of every collection that these rows are of: a new one for each that comes with them."""
        new = [key for key, _ in self._rows["collection"] if key is not None]
        numbers = await db.fetch("select nextval('collection_number') from generate_series(1, $1)", len(new))
        found = {key: number for key, (number,) in zip(new, numbers, strict=True)}
        others = {key for table in OF_COLLECTION for key, _ in self._rows[table] if key is not None} - set(found)
        query = "select number from collection where account_id = $1 and space_id = $2 and collection_id = $3"
        for key in others:  # the one that the call before ended in
            found[key] = await db.fetchval(query, *key)
        return found

    async def _copy_collections(self, db: Connection, numbers: dict[CollectionKey, int]) -> None:
        rows = [(*values.values(), numbers[key]) for key, values in self._rows["collection"] if key is not None]
        await _copy(db, "collection", (*TABLES["collection"], "number"), rows)

    async def _copy_below(self, db: Connection, table: str, numbers: dict[CollectionKey, int]) -> None:
        rows = [
            (key.account_id, numbers[key], *values.values()) for key, values in self._rows[table] if key is not None
        ]
        await _copy(db, table, ("account_id", "collection", *TABLES[table]), rows)

    async def _add_used(self, db: Connection) -> None:
        used: Counter[tuple[AccountId, SpaceId]] = Counter()
        for key, values in self._rows["change"]:
            if key is not None:
                used[key.account_id, key.space_id] += len(values["sealed"])
        for (account_id, space_id), more in sorted(used.items()):
            await db.execute(ADD_USED, account_id, space_id, more)

    async def _copy_audit(self, db: Connection) -> None:
        rows = [tuple(values.values()) for _, values in self._rows["audit"]]
        numbers = await db.fetch("select nextval('audit_number') from generate_series(1, $1)", len(rows))
        numbered = [(*row, number) for row, (number,) in zip(rows, numbers, strict=True)]
        await _copy(db, "audit", (*TABLES["audit"], "number"), numbered)


async def _copy(db: Connection, table: str, columns: Sequence[str], rows: Sequence[tuple[object, ...]]) -> None:
    if rows:
        await db.copy_records_to_table(table, records=rows, columns=columns)


def _cannot_load(exc: BaseException) -> Refusal:
    """Without the server's details, which may quote rows."""
    table = str(getattr(exc, "table_name", None) or "").partition("_")[0] or "account"
    return Refusal("bad_request", f"a row of {table} is here already, or what it belongs to is not")
