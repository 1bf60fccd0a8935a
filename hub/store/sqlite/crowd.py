"""The reads of the SQLite keeper that many ask for at the same moment: one call, one snapshot, for all of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

from hub.store import Arrival, CollectionState, Device, MovedDevice, Page, PageOf, Space, StatesOf
from hub.store.sqlite import queries
from hub.store.sqlite.threads import Crew
from hub.terms import AccountId, CollectionId, CollectionKey, DeviceId, SpaceId


class Crowd:
    """The part of the promise that answers many at once."""

    reads_apart = False  # each row wants Python's one lock: a page read ahead cost cold sync 5 %

    _readers: Crew

    async def arrivals(self, device_ids: Sequence[DeviceId]) -> list[Arrival | MovedDevice | None]:
        """As promised."""
        return await self._readers.run(lambda db: [_arrival(db, device_id) for device_id in device_ids])

    async def states_of(self, asked: Sequence[StatesOf]) -> list[list[CollectionState]]:
        """As promised."""
        return await self._readers.run(lambda db: [states(db, *each) for each in asked])

    async def read_each(self, asked: Sequence[PageOf], *, changes_max: int, bytes_max: int) -> list[Page]:
        """As promised."""
        return await self._readers.run(
            lambda db: [queries.read_page(db, *each, changes_max, bytes_max) for each in asked]
        )

    async def witnesses_of(self, keys: Sequence[CollectionKey]) -> list[list[tuple[DeviceId, bytes]]]:
        """As promised, each by device id."""
        return await self._readers.run(lambda db: [witnesses(db, key) for key in keys])


def find_device(db: sqlite3.Connection, device_id: DeviceId) -> Device | None:
    """The device, revoked or not."""
    query = f"select {queries.columns(Device)} from device where device_id = ?"
    return queries.one(Device, db.execute(query, (device_id,)))


def find_moved(db: sqlite3.Connection, device_id: DeviceId) -> MovedDevice | None:
    """Where the device's account lives now."""
    query = "select device_id, device_pk, url, moved_at from moved where device_id = ?"
    row = db.execute(query, (device_id,)).fetchone()
    return MovedDevice(*row) if row else None


def spaces(db: sqlite3.Connection, account_id: AccountId) -> list[Space]:
    """All spaces of an account, oldest first."""
    query = f"select {queries.columns(Space)} from space where account_id = ? order by created_at, space_id"
    return [Space(*row) for row in db.execute(query, (account_id,))]


def states(
    db: sqlite3.Connection,
    account_id: AccountId,
    space_id: SpaceId,
    device_id: DeviceId,
    collection_ids: Collection[CollectionId] | None,
) -> list[CollectionState]:
    """As ``Store.states``."""
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


def witnesses(db: sqlite3.Connection, key: CollectionKey) -> list[tuple[DeviceId, bytes]]:
    """As ``Store.witnesses``, by device id."""
    found = queries.find_collection(db, key)
    query = "select device_id, sealed from witness where collection = ? order by device_id"
    return db.execute(query, found[:1]).fetchall() if found else []


def _arrival(db: sqlite3.Connection, device_id: DeviceId) -> Arrival | MovedDevice | None:
    device = find_device(db, device_id)
    if device is None or device.revoked_at is not None:
        return find_moved(db, device_id)
    account = queries.find_account(db, device.account_id)
    assert account is not None, "a device without its account"
    return Arrival(device, account, spaces(db, device.account_id))
