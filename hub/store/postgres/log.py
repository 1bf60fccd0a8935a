"""The log in Postgres: appending and reading it, and the spaces it stands in.

Appends have a connection of their own, so that reads never starve them; one is
enough, since a batch gathers while the one before commits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import cast

import asyncpg

from hub.errors import Refusal
from hub.store import Append, Appended, CollectionState, Page, Space, SpaceFacts
from hub.store.postgres.batch import COUNTER_MAX, batch_of
from hub.store.postgres.calls import Calls, changed, columns, insert, lock_account, lock_log
from hub.store.postgres.pages import READ, READ_LIVE, Filling
from hub.store.postgres.pool import Connection
from hub.terms import AccountId, Change, CollectionId, CollectionKey, DeviceId, RecordId, Seq, SpaceId


class Log(Calls):
    """The part of the promise that is about the log and its spaces."""

    async def append(self, appends: Sequence[Append], now: float) -> list[Appended]:
        """As promised; one round trip."""
        batch = batch_of(appends)
        arguments = batch.arguments(now, self._limits.collections_per_space_max, self._quota_bytes)
        row = await self._appends.run(lambda db: db.fetchrow(batch.query, *arguments))
        return batch.appended(row, now)

    async def read(self, key: CollectionKey, after: Seq, *, live_only: bool, changes_max: int, bytes_max: int) -> Page:
        """As promised; mostly one statement."""
        filling = Filling(min(after, COUNTER_MAX), changes_max, bytes_max)
        query = READ_LIVE if live_only else READ
        while True:
            rows = await self._rows(query, *key, filling.after, filling.changes_left, filling.bytes_left)
            if filling.add(rows[0] if rows else None):
                return filling.page()

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
        kept: bool | None = await self._value(query, *key, device_id, counter, sealed)
        if kept is None:
            raise Refusal("unavailable")
        return kept

    async def witnesses(self, key: CollectionKey) -> list[tuple[DeviceId, bytes]]:
        """As promised, by device id."""
        return [(device_id, sealed) for device_id, sealed in await self._rows(WITNESSES, *key)]

    async def compact(self, replaced_before: float, limit: int) -> int:
        """As promised, the longest replaced first; what another replica drops meanwhile is not counted.

        An account that is moving stays as it is.
        """
        return cast(int, await self._value("select compact($1, $2)", replaced_before, limit))

    # --- spaces ---

    async def create_space(self, space: Space, spaces_max: int, now: float) -> Space:
        """As promised; ``not_found`` when the account has gone meanwhile."""
        return await self._transact(lambda db: _create_space(db, space, spaces_max, now))

    async def spaces(self, account_id: AccountId) -> list[Space]:
        """As promised."""
        query = f"select {columns(Space)} from space where account_id = $1 order by created_at, space_id"
        return [Space(*row) for row in await self._rows(query, account_id)]

    async def schedule_space_deletion(self, account_id: AccountId, space_id: SpaceId, at: float | None) -> bool:
        """As promised."""
        query = "update space set deleted_at = $3 where account_id = $1 and space_id = $2"
        return await self._change_staying(query, account_id, space_id, at)

    async def delete_space(self, account_id: AccountId, space_id: SpaceId) -> bool:
        """As promised.  The changes go in several transactions; the rest with the space in the last one.

        When it raises some of the changes may be gone; calling again goes on.
        """
        await self._delete_changes(account_id, space_id, leaving=False)
        return await self._transact(lambda db: _delete_space(db, account_id, space_id))

    # --- how it grows ---

    async def space_facts(self, account_id: AccountId) -> list[SpaceFacts]:
        """As promised; one statement."""
        rows = await self._rows(SPACE_FACTS, account_id)
        return [
            SpaceFacts(
                Space(*row[:-6]),
                row["created_at"],
                row["collections"],
                row["changes"],
                row["last_change_at_ms"] / 1000,
                list(zip(row["days"] or (), row["used"] or (), strict=True)),
            )
            for row in rows
        ]

    async def note_growth(self, day: int) -> int:
        """As promised; a space that goes at this very moment has it begin again."""

        async def work(db: Connection) -> int:
            for _ in range(GROWTH_TRIES - 1):
                with contextlib.suppress(asyncpg.ForeignKeyViolationError):
                    return await changed(db, NOTE_GROWTH, day)
            return await changed(db, NOTE_GROWTH, day)

        return await self._calls.run(work)

    async def forget_growth(self, before_day: int) -> int:
        """As promised."""
        return await self._execute("delete from growth where day < $1", before_day)


# --- statements ---------------------------------------------------------------------------------

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

# The newest change of a collection is always kept: nothing replaces or purges it but a newer one.
SPACE_FACTS = f"""
select {columns(Space)}, created_at,
       (select count(*) from collection as c where c.account_id = s.account_id and c.space_id = s.space_id)
           as collections,
       (select coalesce(sum(head), 0)::bigint from collection as c
        where c.account_id = s.account_id and c.space_id = s.space_id) as changes,
       (select coalesce(max(newest.appended_at_ms), 0) from collection as c
        join change as newest on newest.account_id = c.account_id and newest.collection = c.number
            and newest.seq = c.head
        where c.account_id = s.account_id and c.space_id = s.space_id) as last_change_at_ms,
       (select array_agg(day order by day) from growth as g
        where g.account_id = s.account_id and g.space_id = s.space_id) as days,
       (select array_agg(g.used_bytes order by day) from growth as g
        where g.account_id = s.account_id and g.space_id = s.space_id) as used
from space as s where account_id = $1 order by created_at, space_id
"""
# In the order in which the spaces of an account are deleted, so that nobody waits in a circle.
NOTE_GROWTH = """
insert into growth (account_id, space_id, day, used_bytes)
select s.account_id, s.space_id, $1, s.used_bytes
from space as s join account as a on a.account_id = s.account_id and a.moving_to = ''
left join lateral (
    select g.used_bytes from growth as g where g.account_id = s.account_id and g.space_id = s.space_id
    order by g.day desc limit 1
) as kept on true
where s.used_bytes is distinct from kept.used_bytes order by s.account_id, s.space_id
on conflict (account_id, space_id, day) do update set used_bytes = excluded.used_bytes
"""
GROWTH_TRIES = 3


# --- parts of several calls ---------------------------------------------------------------------


async def _create_space(db: Connection, space: Space, spaces_max: int, now: float) -> Space:
    account = await lock_account(db, "account_id", space.account_id)
    if account is None:
        raise Refusal("not_found")
    account.must_stay()
    await lock_log(db, space.account_id)
    query = f"select {columns(Space)} from space where account_id = $1"
    spaces = [Space(*row) for row in await db.fetch(query, space.account_id)]
    there = next((each for each in spaces if each.space_id == space.space_id), None)
    if there is not None and there.space_pk != space.space_pk:
        raise Refusal("bad_space_proof")
    if there is not None:
        return there
    if len(spaces) >= spaces_max:
        raise Refusal("too_many")
    new = replace(space, used_bytes=0, deleted_at=None)
    await insert(db, "space", new, created_at=now)
    return new


async def _delete_space(db: Connection, account_id: AccountId, space_id: SpaceId) -> bool:
    account = await lock_account(db, "account_id", account_id)
    if account is None:
        return False
    await lock_log(db, account_id)
    gone = cast(bool, await db.fetchval("select delete_space($1, $2)", account_id, space_id))
    if gone:
        account.must_stay()
    return gone
