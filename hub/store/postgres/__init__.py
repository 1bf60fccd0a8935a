"""The promises of the store in Postgres, 15 or newer, for many replicas at once.

What happens often is one statement or one function of schema.sql, so one round trip:
``append`` keeps the drafts of a whole batch of requests that way.  What happens
seldom is a transaction of a few statements.  Everything runs at READ COMMITTED: the
first statement locks, the ones after it see what the lock's holder before left.
schema.sql says who waits for whom, and why nobody waits in a circle.

* Durable: the answer is given after the commit, with ``synchronous_commit`` on.
* Appends have a connection of their own, so that reads never starve them; one is
  enough, since a batch gathers while the one before commits.
* The hub's role reads and writes rows and makes no tables; ``migration_url`` belongs
  to the role that does.
* Deleted means deleted as far as a table can tell; what VACUUM, WAL and backups keep
  for how long is the operator's (docs/operating.md).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from hub.errors import Refusal
from hub.store import (
    Account,
    Append,
    Appended,
    Attempt,
    Charge,
    CollectionState,
    Device,
    Page,
    Space,
    Store,
)
from hub.store.postgres.batch import COUNTER_MAX, Batch
from hub.store.postgres.migrations import MIGRATIONS, Migration, is_current, migrate, versions
from hub.store.postgres.pool import Connection, Pool, Work
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

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["MIGRATIONS", "Migration", "PostgresStore", "migrate"]

T = TypeVar("T")
K = TypeVar("K")

DELETED_AT_ONCE = 5_000  # rows of a space that goes, in one transaction: nobody waits long for it
REWRAPPED_AT_ONCE = 10_000


class PostgresStore:
    """Keeps everything in the database at ``url``.

    It opens at most ``connections``.  Without ``migration_url`` the role of ``url``
    must be able to make tables in an empty database, or find them made.
    """

    def __init__(
        self,
        url: str,
        *,
        migration_url: str = "",
        connections: int = 10,
        limits: Limits | None = None,
        quota_bytes: int | None = None,
        migrations: Sequence[Migration] = MIGRATIONS,
    ) -> None:
        assert connections >= 2, "one for appends and one for the rest"
        self._url = url
        self._migration_url = migration_url
        self._limits = limits or Limits()
        self._quota_bytes = Policy().quota_bytes if quota_bytes is None else quota_bytes
        self._migrations = migrations
        self._appends = Pool(url, 1)
        self._calls = Pool(url, connections - 1)

    # --- life ---

    async def open(self) -> None:
        """Ready to serve; makes the tables in an empty database, or runs what may run beside older hubs.

        Raises ``StoreUnavailable`` when the database does not answer (opening again is
        safe), ``SchemaTooNew``, or ``SchemaTooOld`` when the tables have to be made or
        changed and no role was given that may.
        """
        self._calls.start()
        self._appends.start()
        try:
            if not is_current(await self._calls.run(versions), self._migrations):
                await self._migrate()
        except BaseException:
            await self.close()
            raise

    async def _migrate(self) -> None:
        url = self._migration_url or self._url
        await migrate(url, serving_url=self._url, migrations=self._migrations)

    async def close(self) -> None:
        """Finish what is under way, and hang up."""
        await self._appends.stop()
        await self._calls.stop()

    async def ping(self) -> None:
        """Answers when the database does, on the connection of the appends too."""
        await self._calls.run(lambda db: db.fetchval("select 1"))
        await self._appends.run(lambda db: db.fetchval("select 1"))

    async def incarnation(self) -> Incarnation:
        """The name of this life of the log."""
        return cast(bytes, await self._value("select value from hub where key = 'incarnation'"))

    async def renew_incarnation(self) -> Incarnation:
        """A new name for it."""
        query = "update hub set value = $1 where key = 'incarnation' returning value"
        return cast(bytes, await self._value(query, secrets.token_bytes(ID_BYTES)))

    async def claim(self, name: str, value: bytes) -> bytes:
        """As promised."""
        key = f"claim {name}"
        # Two statements: the second one sees whom the first one waited for.
        await self._execute("insert into hub (key, value) values ($1, $2) on conflict do nothing", key, value)
        return cast(bytes, await self._value("select value from hub where key = $1", key))

    async def session_order(self) -> int:
        """As promised; not without gaps."""
        return cast(int, await self._value("select nextval('session_order')"))

    # Calls of one statement.

    async def _value(self, query: str, *values: object) -> Any:
        """The first column of the first row; None when there is none."""
        return await self._calls.run(lambda db: db.fetchval(query, *values))

    async def _rows(self, query: str, *values: object) -> list[Any]:
        return cast("list[Any]", await self._calls.run(lambda db: db.fetch(query, *values)))

    async def _one(self, kind: Callable[..., K], query: str, *values: object) -> K | None:
        row = await self._calls.run(lambda db: db.fetchrow(query, *values))
        return kind(*row) if row else None

    async def _execute(self, query: str, *values: object) -> int:
        """Run a writing statement; how many rows it changed."""
        return await self._calls.run(lambda db: _changed(db, query, *values))

    # --- the log ---

    async def append(self, appends: Sequence[Append], now: float) -> list[Appended]:
        """As promised; one round trip."""
        batch = Batch(appends)
        arguments = batch.arguments(now, self._limits.collections_per_space_max, self._quota_bytes)
        row = await self._appends.run(lambda db: db.fetchrow(APPEND, *arguments))
        return batch.appended(row, now)

    async def read(self, key: CollectionKey, after: Seq, *, live_only: bool, changes_max: int, bytes_max: int) -> Page:
        """As promised; one statement, so one snapshot."""
        rows = await self._rows(READ_LIVE if live_only else READ, *key, min(after, COUNTER_MAX), changes_max, bytes_max)
        if not rows:
            return Page([], 0, 0)
        head, found = rows[0]["head"], rows[0]["found"]
        changes = [Change(seq, at, sealed) for _, seq, at, sealed, _ in rows if seq is not None]
        return Page(changes, changes[-1].seq if found and found > len(changes) else head, head)

    async def states(
        self,
        account_id: AccountId,
        space_id: SpaceId,
        device_id: DeviceId,
        collection_ids: Collection[CollectionId] | None,
    ) -> list[CollectionState]:
        """As promised."""
        values = (account_id, space_id, device_id)
        if collection_ids is None:
            return [CollectionState(*row) for row in await self._rows(STATES_OF_ALL, *values)]
        return [CollectionState(*row) for row in await self._rows(STATES, *values, list(collection_ids))]

    async def history(
        self, key: CollectionKey, record_id: RecordId, *, before: Seq, limit: int
    ) -> tuple[list[Change], bool]:
        """As promised."""
        rows = await self._rows(HISTORY, *key, record_id, min(before or COUNTER_MAX, COUNTER_MAX), limit + 1)
        return [Change(*row) for row in rows[:limit]], len(rows) > limit

    async def put_witness(self, key: CollectionKey, device_id: DeviceId, counter: int, sealed: bytes) -> bool:
        """As promised."""
        if counter > COUNTER_MAX:
            return False
        query = "select put_witness($1, $2, $3, $4, $5, $6)"
        return cast(bool, await self._value(query, *key, device_id, counter, sealed))

    async def witnesses(self, key: CollectionKey) -> list[tuple[DeviceId, bytes]]:
        """As promised, by device id."""
        return [(device_id, sealed) for device_id, sealed in await self._rows(WITNESSES, *key)]

    async def compact(self, replaced_before: float, limit: int) -> int:
        """As promised, the longest replaced first; what another replica drops meanwhile is not counted."""
        return cast(int, await self._value("select compact($1, $2)", replaced_before, limit))

    # --- spaces ---

    async def create_space(self, space: Space, spaces_max: int, now: float) -> Space:
        """As promised; ``not_found`` when the account has gone meanwhile."""
        return await self._transact(lambda db: _create_space(db, space, spaces_max, now))

    async def spaces(self, account_id: AccountId) -> list[Space]:
        """As promised."""
        query = f"select {_columns(Space)} from space where account_id = $1 order by created_at, space_id"
        return [Space(*row) for row in await self._rows(query, account_id)]

    async def schedule_space_deletion(self, account_id: AccountId, space_id: SpaceId, at: float | None) -> bool:
        """As promised."""
        query = "update space set deleted_at = $3 where account_id = $1 and space_id = $2"
        return await self._execute(query, account_id, space_id, at) == 1

    async def delete_space(self, account_id: AccountId, space_id: SpaceId) -> bool:
        """As promised.  The changes go in several transactions; the rest with the space in the last one.

        When it raises some of the changes may be gone; calling again goes on.
        """
        await self._delete_changes(account_id, space_id)
        return await self._transact(lambda db: _delete_space(db, account_id, space_id))

    async def _delete_changes(self, account_id: AccountId, space_id: SpaceId) -> None:
        query = "select delete_some($1, $2, $3)"
        while await self._value(query, account_id, space_id, DELETED_AT_ONCE) == DELETED_AT_ONCE:
            pass

    async def _transact(self, work: Work[T]) -> T:
        """Have ``work`` done in one transaction; what it raises undoes it."""

        async def transaction(db: Connection) -> T:
            async with db.transaction():
                return await work(db)

        return await self._calls.run(transaction)

    # --- accounts and devices ---

    async def spend(self, charges: Sequence[Charge], now: float, *, count: bool = True) -> float:
        """As promised."""
        spans = [(charge.key, span.most, span.seconds) for charge in charges for span in charge.spans]
        columns = [list(column) for column in zip(*spans, strict=True)] or [[], [], []]
        query = "select spend($1, $2, $3, $4, $5, $6)"
        return cast(float, await self._value(query, [charge.key for charge in charges], *columns, now, count))

    async def forget_spent(self, before: float) -> int:
        """As promised."""
        return await self._execute("delete from spent where at < $1", before)

    async def add_attempt(self, attempt: Attempt) -> None:
        """As promised."""
        await self._calls.run(lambda db: _insert(db, "attempt", attempt))

    async def note_resend(
        self, attempt_id: bytes, device_pk: bytes, now: float, *, not_before_s: float, sends_max: int
    ) -> Attempt | None:
        """As promised."""
        query = (
            f"update attempt set sends = sends + 1, sent_at = $2 where {LIVE_ATTEMPT} and device_pk = $3"
            f" and $2 - sent_at >= $4 and sends < $5 returning {_columns(Attempt)}"
        )
        return await self._one(Attempt, query, attempt_id, now, device_pk, not_before_s, sends_max)

    async def charge_attempt(self, attempt_id: bytes, now: float, tries_max: int) -> Attempt | None:
        """As promised."""
        query = (
            f"update attempt set tries = tries + 1 where {LIVE_ATTEMPT} and tries < $3 returning {_columns(Attempt)}"
        )
        return await self._one(Attempt, query, attempt_id, now, tries_max)

    async def consume_attempt(self, attempt_id: bytes, now: float) -> bool:
        """As promised."""
        return await self._calls.run(lambda db: _consume(db, attempt_id, now)) is not None

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

        async def work(db: Connection) -> None:
            attempt = await _consume(db, attempt_id, now)
            if attempt is None:
                raise Refusal("enrol_failed")
            if new_account is not None:
                await _add_account(db, attempt, new_account, address_tag, first_only=first_only, now=now)
            elif await _lock_account(db, "address_tag", address_tag) != device.account_id:
                raise Refusal("enrol_failed")
            await _add_device(db, device, per_account_max, per_app_max)

        await self._transact(work)

    async def add_device(self, device: Device, *, per_account_max: int, per_app_max: int) -> None:
        """As promised."""

        async def work(db: Connection) -> None:
            if await _lock_account(db, "account_id", device.account_id) is None:
                raise Refusal("enrol_failed")
            await _add_device(db, device, per_account_max, per_app_max)

        await self._transact(work)

    async def find_account(self, address_tag: bytes) -> Account | None:
        """As promised."""
        return await self._one(Account, f"{ACCOUNT} where address_tag = $1", address_tag)

    async def account(self, account_id: AccountId) -> Account | None:
        """As promised."""
        return await self._one(Account, f"{ACCOUNT} where account_id = $1", account_id)

    async def count_accounts(self) -> int:
        """As promised."""
        return cast(int, await self._value("select count(*) from account"))

    async def device(self, device_id: DeviceId) -> Device | None:
        """As promised."""
        return await self._one(Device, f"select {_columns(Device)} from device where device_id = $1", device_id)

    async def devices(self, account_id: AccountId) -> list[Device]:
        """As promised."""
        query = (
            f"select {_columns(Device)} from device where account_id = $1 and revoked_at is null"
            " order by enrolled_at, device_id"
        )
        return [Device(*row) for row in await self._rows(query, account_id)]

    async def revoke(self, account_id: AccountId, device_ids: Collection[DeviceId], now: float) -> list[DeviceId]:
        """As promised: it waits for the appends under way, and those after it see it."""

        async def work(db: Connection) -> set[DeviceId]:
            await _lock_account(db, "account_id", account_id)
            await db.fetchval("select lock_spaces(array[$1::bytea])", account_id)
            return {device_id for (device_id,) in await db.fetch(REVOKE, account_id, list(device_ids), now)}

        revoked = await self._transact(work)
        return [device_id for device_id in dict.fromkeys(device_ids) if device_id in revoked]

    async def revoked_among(self, device_ids: Collection[DeviceId]) -> set[DeviceId]:
        """As promised."""
        query = "select device_id from device where device_id = any($1) and revoked_at is null"
        return set(device_ids) - {device_id for (device_id,) in await self._rows(query, list(device_ids))}

    async def approve(self, account_id: AccountId, device_id: DeviceId) -> bool:
        """As promised; a revoked device is no device."""
        query = (
            "update device set probation_until = null where account_id = $1 and device_id = $2 and revoked_at is null"
        )
        return await self._execute(query, account_id, device_id) == 1

    async def note_seen(self, device_ids: Collection[DeviceId], day: int) -> None:
        """As promised; an earlier day changes nothing."""
        await self._execute(NOTE_SEEN, list(device_ids), day)

    async def schedule_account_deletion(self, account_id: AccountId, at: float | None) -> bool:
        """As promised."""
        return await self._execute("update account set deleted_at = $2 where account_id = $1", account_id, at) == 1

    async def delete_account(self, account_id: AccountId) -> bool:
        """As promised, as ``delete_space``; the attempts of its address go with it."""
        for space in await self.spaces(account_id):
            await self._delete_changes(account_id, space.space_id)
        return cast(bool, await self._transact(lambda db: _delete_account(db, account_id)))

    async def due_deletions(self, now: float) -> tuple[list[AccountId], list[tuple[AccountId, SpaceId]]]:
        """As promised, the longest due first."""
        accounts = "select account_id from account where deleted_at <= $1 order by deleted_at, account_id"
        spaces = (
            "select account_id, space_id from space where deleted_at <= $1 order by deleted_at, account_id, space_id"
        )
        due = [account_id for (account_id,) in await self._rows(accounts, now)]
        return due, [(account_id, space_id) for account_id, space_id in await self._rows(spaces, now)]

    async def add_invite(self, token_hash: bytes, expires_at: float) -> None:
        """As promised; one that is there stays as it is."""
        query = "insert into invite (token_hash, expires_at) values ($1, $2) on conflict do nothing"
        await self._execute(query, token_hash, expires_at)

    async def invite_is_open(self, token_hash: bytes, now: float) -> bool:
        """As promised."""
        query = "select exists (select from invite where token_hash = $1 and used_at is null and expires_at > $2)"
        return cast(bool, await self._value(query, token_hash, now))

    async def rewrap_addresses(self, wrap: Callable[[bytes], bytes], generation: int) -> int:
        """As promised.  ``wrap`` is called in the loop; of several replicas one does it, and the others wait."""
        return cast(int, await self._transact(lambda db: _rewrap(db, wrap, generation)))

    async def tag_generation(self) -> int:
        """As promised."""
        return int(await self._value("select value from hub where key = 'tag_generation'"))

    async def forget_attempts(self, created_before: float) -> int:
        """As promised; an attempt that is in use at this moment is forgotten the next time."""
        forgotten = [await self._execute(query, created_before) for query in (FORGET_ATTEMPTS, FORGET_INVITES)]
        return sum(forgotten)


# --- statements ---------------------------------------------------------------------------------

APPEND = f"select * from append_batch({', '.join(f'${number}' for number in range(1, 28))})"

# One row a change of the page, or one with nulls when there is none; found = how many a larger page could have.
# length() of a body that lies outside the row does not read it, so only the page's own bodies are.
_READ = """
with log as (select number, head from collection where account_id = $1 and space_id = $2 and collection_id = $3)
select log.head, page.seq, page.appended_at_ms, page.sealed, page.found
from log left join lateral (
    select *, count(*) over () as found, row_number() over (order by seq) as place,
           sum(length(sealed)) over (order by seq) as bytes
    from (
        select seq, appended_at_ms, sealed from change
        where account_id = $1 and collection = log.number and seq > $4{live}
        order by seq limit $5::bigint + 1
    ) as stretch
) as page on page.place = 1 or (page.place <= $5 and page.bytes <= $6)
order by page.seq
"""
READ = _READ.format(live="")
READ_LIVE = _READ.format(live=" and replaced_at is null")

_STATE = """
left join counter on counter.account_id = collection.account_id and counter.collection = collection.number
    and counter.device_id = $3
"""
STATES_OF_ALL = f"""
select collection_id, head, coalesce(last, 0) from collection {_STATE}
where collection.account_id = $1 and collection.space_id = $2
"""
STATES = f"""
select asked.id, coalesce(head, 0), coalesce(last, 0) from unnest($4::bytea[]) with ordinality as asked(id, n)
left join collection on collection.account_id = $1 and collection.space_id = $2 and collection.collection_id = asked.id
{_STATE} order by asked.n
"""

# Two halves, each with an index of its own.
_HALF = """
(select seq, appended_at_ms, sealed from change
where account_id = $1 and collection = (
    select number from collection where account_id = $1 and space_id = $2 and collection_id = $3
) and record_id = $4 and seq < $5 and replaced_at is {state} order by seq desc limit $6)
"""
HISTORY = f"{_HALF.format(state='null')} union all {_HALF.format(state='not null')} order by seq desc limit $6"

WITNESSES = """
select device_id, sealed from witness where account_id = $1 and collection = (
    select number from collection where account_id = $1 and space_id = $2 and collection_id = $3
) order by device_id
"""

ACCOUNT = """
select account_id, quota_bytes,
       (select coalesce(sum(used_bytes), 0)::bigint from space where space.account_id = account.account_id),
       created_day, deleted_at
from account
"""

# What locks several rows locks them by id.
REVOKE = """
with theirs as (
    select account_id, device_id from device
    where account_id = $1 and device_id = any($2) and revoked_at is null order by device_id for no key update
)
update device set revoked_at = $3 from theirs
where device.account_id = theirs.account_id and device.device_id = theirs.device_id returning device.device_id
"""
NOTE_SEEN = """
with seen as (
    select account_id, device_id from device
    where device_id = any($1) and last_seen_day < $2 order by device_id for no key update
)
update device set last_seen_day = $2 from seen
where device.account_id = seen.account_id and device.device_id = seen.device_id
"""
FORGET_ATTEMPTS = """
delete from attempt where attempt_id in (
    select attempt_id from attempt where created_at < $1 order by attempt_id for update skip locked
)
"""
FORGET_INVITES = """
delete from invite where token_hash in (
    select token_hash from invite where least(expires_at, used_at) < $1 order by token_hash for update skip locked
)
"""
LIVE_ATTEMPT = "attempt_id = $1 and consumed_at is null and expires_at > $2"


# --- parts of several calls ---------------------------------------------------------------------


async def _lock_account(db: Connection, by: str, value: bytes) -> AccountId | None:
    """Its id, and the account locked: its devices and spaces are counted, added and revoked by one at a time."""
    query = f"select account_id from account where {by} = $1 for no key update"
    return cast("AccountId | None", await db.fetchval(query, value))


async def _create_space(db: Connection, space: Space, spaces_max: int, now: float) -> Space:
    if await _lock_account(db, "account_id", space.account_id) is None:
        raise Refusal("not_found")
    await db.fetchval("select lock_spaces(array[$1::bytea])", space.account_id)
    query = f"select {_columns(Space)} from space where account_id = $1"
    spaces = [Space(*row) for row in await db.fetch(query, space.account_id)]
    there = next((each for each in spaces if each.space_id == space.space_id), None)
    if there is not None and there.space_pk != space.space_pk:
        raise Refusal("bad_space_proof")
    if there is not None:
        return there
    if len(spaces) >= spaces_max:
        raise Refusal("too_many")
    new = replace(space, used_bytes=0, deleted_at=None)
    await _insert(db, "space", new, created_at=now)
    return new


async def _delete_space(db: Connection, account_id: AccountId, space_id: SpaceId) -> bool:
    await db.fetchval("select lock_spaces(array[$1::bytea])", account_id)
    return cast(bool, await db.fetchval("select delete_space($1, $2)", account_id, space_id))


async def _delete_account(db: Connection, account_id: AccountId) -> bool:
    tag = await db.fetchval("select address_tag from account where account_id = $1", account_id)
    await db.execute(
        "delete from attempt where attempt_id in"
        " (select attempt_id from attempt where address_tag = $1 order by attempt_id for update)",
        tag,
    )
    await db.execute("select from account where account_id = $1 for update", account_id)
    await db.fetchval("select lock_spaces(array[$1::bytea])", account_id)
    for (space_id,) in await db.fetch("select space_id from space where account_id = $1", account_id):
        await db.fetchval("select delete_space($1, $2)", account_id, space_id)
    await db.execute("select from device where account_id = $1 order by device_id for update", account_id)
    await db.execute("delete from device where account_id = $1", account_id)
    return await _changed(db, "delete from account where account_id = $1", account_id) == 1


async def _consume(db: Connection, attempt_id: bytes, now: float) -> Attempt | None:
    """Use a live attempt up, and return it."""
    query = f"update attempt set consumed_at = $2 where {LIVE_ATTEMPT} returning {_columns(Attempt)}"
    row = await db.fetchrow(query, attempt_id, now)
    return Attempt(*row) if row else None


async def _add_account(
    db: Connection, attempt: Attempt, account: Account, address_tag: bytes, *, first_only: bool, now: float
) -> None:
    if first_only:
        # Whoever wants to be the first waits here for the others who do.
        await db.execute("select from hub where key = 'incarnation' for no key update")
        if await db.fetchval("select exists (select from account)"):
            raise Refusal("enrol_failed")
    if attempt.invite is not None:
        query = "update invite set used_at = $2 where token_hash = $1 and used_at is null and expires_at > $2"
        if await _changed(db, query, attempt.invite, now) != 1:
            raise Refusal("enrol_failed")
    query = (
        "insert into account (account_id, address_tag, quota_bytes, created_day, deleted_at)"
        " values ($1, $2, $3, $4, $5) on conflict do nothing"
    )
    values = (account.account_id, address_tag, account.quota_bytes, account.created_day, account.deleted_at)
    if await _changed(db, query, *values) != 1:
        raise Refusal("enrol_failed")


async def _add_device(db: Connection, device: Device, per_account_max: int, per_app_max: int) -> None:
    """The account is locked, or new."""
    query = "select exists (select from device where device_id = $1 or device_pk = $2)"
    if await db.fetchval(query, device.device_id, device.device_pk):
        raise Refusal("device_exists")
    query = (
        "select count(*), count(*) filter (where app_id = $2) from device where account_id = $1 and revoked_at is null"
    )
    of_account, of_app = await db.fetchrow(query, device.account_id, device.app_id)
    if of_account >= per_account_max or of_app >= per_app_max:
        raise Refusal("too_many")
    if await _insert(db, "device", device) != 1:
        raise Refusal("device_exists")


async def _rewrap(db: Connection, wrap: Callable[[bytes], bytes], generation: int) -> int:
    query = "select value from hub where key = 'tag_generation' for update"
    if generation <= int(await db.fetchval(query)):
        return 0
    await _rewrap_table(db, "attempt", wrap)
    await db.execute("update hub set value = $1 where key = 'tag_generation'", b"%d" % generation)
    return await _rewrap_table(db, "account", wrap)


async def _rewrap_table(db: Connection, table: str, wrap: Callable[[bytes], bytes]) -> int:
    rows = await db.fetch(f"select {table}_id, address_tag from {table} order by {table}_id for update")
    for first in range(0, len(rows), REWRAPPED_AT_ONCE):
        some = rows[first : first + REWRAPPED_AT_ONCE]
        await db.execute(
            f"update {table} set address_tag = t.tag from unnest($1::bytea[], $2::bytea[]) as t(id, tag)"
            f" where {table}_id = t.id",
            [id_ for id_, _ in some],
            [wrap(tag) for _, tag in some],
        )
    return len(rows)


def _columns(kind: type[DataclassInstance]) -> str:
    """The columns of a dataclass, which are named like its fields and stand in their order."""
    return ", ".join(each.name for each in fields(kind))


async def _insert(db: Connection, table: str, kept: DataclassInstance, **more: object) -> int:
    """Keep it; 0 when something with one of its keys is there."""
    values = {each.name: getattr(kept, each.name) for each in fields(kept)} | more
    places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    query = f"insert into {table} ({', '.join(values)}) values ({places}) on conflict do nothing"
    return await _changed(db, query, *values.values())


async def _changed(db: Connection, query: str, *values: object) -> int:
    """Run a writing statement; how many rows it changed."""
    status = await db.execute(query, *values)  # like "UPDATE 1" or "INSERT 0 1"
    return int(status.rpartition(" ")[2])


_: type[Store] = PostgresStore
