"""The reads of the Postgres keeper that many ask for at the same moment: one call for all of them.

A thousand devices that come back within a second would otherwise be seven thousand round trips.
Each look-up within a statement is a lateral one with a limit, so that it stays a walk down one
index however many are asked for and whatever the planner makes of their number.
"""

from __future__ import annotations

from collections.abc import Sequence

from hub.store import Account, Arrival, CollectionState, Device, MovedDevice, Page, PageOf, Space, StatesOf
from hub.store.postgres.batch import COUNTER_MAX
from hub.store.postgres.calls import ACCOUNT_COLUMNS, Calls, columns
from hub.store.postgres.pages import READ_EACH, READ_EACH_LIVE, Filling
from hub.store.postgres.pool import Connection
from hub.terms import AccountId, CollectionKey, DeviceId, Seq


class Crowd(Calls):
    """The part of the promise that answers many at once."""

    reads_apart = True

    async def session_orders(self, count: int) -> list[int]:
        """As promised; not without gaps."""
        return sorted(order for (order,) in await self._rows(ORDERS, count))

    async def arrivals(self, device_ids: Sequence[DeviceId]) -> list[Arrival | MovedDevice | None]:
        """As promised; three statements on one connection, and a fourth for those that are not here."""
        return await self._calls.run(lambda db: _arrivals(db, device_ids))

    async def heads(self, keys: Sequence[CollectionKey]) -> list[Seq]:
        """As promised; one statement."""
        answers = [0] * len(keys)
        for place, head in await self._rows(HEADS, *map(list, zip(*keys, strict=True))) if keys else []:
            answers[place - 1] = head
        return answers

    async def states_of(self, asked: Sequence[StatesOf]) -> list[list[CollectionState]]:
        """As promised; one statement."""
        flat = [(n, each, collection_id) for n, each in enumerate(asked) for collection_id in each.collection_ids]
        rows = await self._rows(
            STATES_OF,
            [each.account_id for _, each, _ in flat],
            [each.space_id for _, each, _ in flat],
            [collection_id for _, _, collection_id in flat],
            [each.device_id for _, each, _ in flat],
        )
        answers: list[list[CollectionState]] = [[] for _ in asked]
        for place, head, last in sorted(rows):
            number, _, collection_id = flat[place - 1]
            answers[number].append(CollectionState(collection_id, head, last))
        return answers

    async def read_each(self, asked: Sequence[PageOf], *, changes_max: int, bytes_max: int) -> list[Page]:
        """As promised; mostly one statement for each kind of page."""
        fillings = [Filling(min(each.after, COUNTER_MAX), changes_max, bytes_max) for each in asked]
        for live_only in (False, True):
            places = [place for place, each in enumerate(asked) if each.live_only is live_only]
            while places:
                rows = await self._rows(
                    READ_EACH_LIVE if live_only else READ_EACH,
                    *map(list, zip(*(asked[place].key for place in places), strict=True)),
                    [fillings[place].after for place in places],
                    [fillings[place].changes_left for place in places],
                    [fillings[place].bytes_left for place in places],
                )
                told = {number: stretch for number, *stretch in rows}
                places = [place for number, place in enumerate(places, 1) if not fillings[place].add(told.get(number))]
        return [filling.page() for filling in fillings]

    async def witnesses_of(self, keys: Sequence[CollectionKey]) -> list[list[tuple[DeviceId, bytes]]]:
        """As promised, each by device id; one statement."""
        answers: list[list[tuple[DeviceId, bytes]]] = [[] for _ in keys]
        rows = await self._rows(WITNESSES_OF, *map(list, zip(*keys, strict=True))) if keys else []
        for place, device_id, sealed in sorted(rows):
            answers[place - 1].append((device_id, sealed))
        return answers


async def _arrivals(db: Connection, device_ids: Sequence[DeviceId]) -> list[Arrival | MovedDevice | None]:
    devices = {device.device_id: device for device in (Device(*row) for row in await db.fetch(DEVICES, device_ids))}
    account_ids = list({device.account_id for device in devices.values()})
    accounts = {row[0]: Account(*row) for row in await db.fetch(ACCOUNTS, account_ids)}
    spaces: dict[AccountId, list[Space]] = {}
    for row in await db.fetch(SPACES, account_ids):
        spaces.setdefault(row[0], []).append(Space(*row[:-1]))
    found: dict[DeviceId, Arrival | MovedDevice] = {
        device.device_id: Arrival(device, accounts[device.account_id], spaces.get(device.account_id, []))
        for device in devices.values()
        if device.account_id in accounts  # it may have gone between two statements
    }
    if missing := [device_id for device_id in device_ids if device_id not in found]:
        found |= {row[0]: MovedDevice(*row) for row in await db.fetch(MOVED, missing)}
    return [found.get(device_id) for device_id in device_ids]


# --- statements ---------------------------------------------------------------------------------

ORDERS = "select nextval('session_order') from generate_series(1, $1::bigint)"
DEVICES = f"select {columns(Device)} from device where device_id = any($1::bytea[]) and revoked_at is null"
ACCOUNTS = f"select {ACCOUNT_COLUMNS} from account where account_id = any($1::bytea[])"
SPACES = (
    f"select {columns(Space)}, created_at from space where account_id = any($1::bytea[]) order by created_at, space_id"
)
MOVED = "select device_id, device_pk, url, moved_at from moved where device_id = any($1::bytea[])"

HEADS = """
select asked.n, log.head
from unnest($1::bytea[], $2::bytea[], $3::bytea[]) with ordinality as asked(account, space, id, n)
cross join lateral (
    select head from collection
    where account_id = asked.account and space_id = asked.space and collection_id = asked.id limit 1
) as log
"""
STATES_OF = """
select asked.n, coalesce(log.head, 0), coalesce(log.last, 0)
from unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::bytea[]) with ordinality as asked(account, space, id, device, n)
left join lateral (
    select head, (
        select last from counter
        where counter.account_id = asked.account and collection = collection.number and device_id = asked.device
    ) as last
    from collection
    where collection.account_id = asked.account and space_id = asked.space and collection_id = asked.id limit 1
) as log on true
"""

WITNESSES_OF = """
select asked.n, kept.device_id, kept.sealed
from unnest($1::bytea[], $2::bytea[], $3::bytea[]) with ordinality as asked(account, space, id, n)
cross join lateral (
    select number from collection
    where account_id = asked.account and space_id = asked.space and collection_id = asked.id limit 1
) as log
cross join lateral (
    select device_id, sealed from witness where account_id = asked.account and collection = log.number offset 0
) as kept
"""
