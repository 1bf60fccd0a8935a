"""A dump out of SQLite, row by row, and a load into it; each runs in its caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from hub.errors import Refusal
from hub.store import ARRIVING, Account, Device, Row
from hub.store.loading import CLAIM, OF_COLLECTION, Loading
from hub.store.rows import TABLES
from hub.store.sqlite import queries
from hub.terms import AccountId

MEMO = "memo "  # stands before the name of what is remembered, so that no claim is meant
_OF_ITSELF = frozenset({"incarnation", "tag_generation"})
_KEYS = {
    "device": "device_id",
    "space": "space_id",
    "growth": "space_id, day",
    "audit": "number",
    "counter": "device_id",
    "receipt": "device_id, counter",
    "witness": "device_id",
}


def rows(db: sqlite3.Connection, account_ids: Collection[AccountId] | None) -> Iterator[Row]:
    """The rows of a dump, in its order.  Holds one row at a time; the caller holds the snapshot."""
    if account_ids is None:
        yield from _hub_rows(db)
        found = db.execute("select account_id from account order by account_id").fetchall()
        account_ids = [account_id for (account_id,) in found]
    for account_id in sorted(set(account_ids)):
        yield from _account_rows(db, account_id)


def _hub_rows(db: sqlite3.Connection) -> Iterator[Row]:
    said = {}
    for key, value in db.execute("select key, value from hub where key <> 'schema_version'"):
        if not key.startswith(MEMO):
            said[key if key in _OF_ITSELF else CLAIM + key] = value
    for row in sorted(said.items()):
        yield "hub", row
    for table, key in (("invite", "token_hash"), ("listed", "address_tag")):
        for row in db.execute(f"select {', '.join(TABLES[table])} from {table} order by {key}"):
            yield table, row


def _account_rows(db: sqlite3.Connection, account_id: AccountId) -> Iterator[Row]:
    columns = ", ".join(TABLES["account"])
    for row in db.execute(f"select {columns} from account where account_id = ?", (account_id,)):
        known = TABLES["account"].index("address_known")
        yield "account", (*row[:known], bool(row[known]), *row[known + 1 :])
    for table in ("operator", "device", "space", "growth"):
        yield from _table_rows(db, table, "account_id", account_id)
    columns = ", ".join(("number", *TABLES["collection"]))
    query = f"select {columns} from collection where account_id = ? order by space_id, collection_id"
    for number, *row in db.execute(query, (account_id,)):
        yield "collection", tuple(row)
        yield from _change_rows(db, number)
        for table in ("counter", "receipt", "witness"):
            yield from _table_rows(db, table, "collection", number)
    yield from _table_rows(db, "audit", "account_id", account_id)


def _change_rows(db: sqlite3.Connection, number: int) -> Iterator[Row]:
    half = f"select {', '.join(TABLES['change'])} from change indexed by"
    where = "where collection = ?1 and replaced_at is"
    query = f"{half} change_live {where} null union all {half} change_replaced_by_seq {where} not null order by seq"
    for row in db.execute(query, (number,)):
        yield "change", row


def _table_rows(db: sqlite3.Connection, table: str, column: str, owner: bytes | int) -> Iterator[Row]:
    order = _KEYS.get(table, column)
    for row in db.execute(
        f"select {', '.join(TABLES[table])} from {table} where {column} = ? order by {order}", (owner,)
    ):
        yield table, row


class Load:
    """One call of ``load``: keeps the rows, and where the load stands is in ``loading`` afterwards."""

    def __init__(self, db: sqlite3.Connection, loading: Loading) -> None:
        self.loading = loading.copy()
        self._db = db
        self._number = 0  # of the collection whose rows are coming

    def keep(self, rows: Sequence[Row]) -> None:
        """Keep them all; refuses as the store promises, and the caller then rolls back."""
        self._find_number()
        for row in rows:
            values = self.loading.take(row)
            try:
                self._keep(row[0], values)
            except sqlite3.IntegrityError:
                raise _cannot_load(row[0]) from None

    def _keep(self, table: str, values: dict[str, Any]) -> None:
        if table in ("hub", "invite", "listed"):
            return self._keep_of_hub(table, values)
        if table == "account":
            return self._keep_account(values)
        if table == "device":
            return self._keep_device(Device(**values))
        account = queries.find_account(self._db, self.loading.account_id) if table not in OF_COLLECTION else None
        if table not in OF_COLLECTION and (account is None or account.moving_to != ARRIVING):
            raise _cannot_load(table)
        if table in OF_COLLECTION:
            values |= {"account_id": self.loading.account_id, "collection": self._number}
        queries.insert_values(self._db, table, values)
        if table == "collection":
            self._find_number()
        if table == "change":
            key = self.loading.collection
            assert key is not None, "checked with the row"
            queries.add_used_bytes(self._db, key.account_id, key.space_id, len(values["sealed"]))

    def _keep_of_hub(self, table: str, values: dict[str, Any]) -> None:
        if queries.count_accounts(self._db):
            raise Refusal("bad_request", "a whole hub can only be loaded into a store without accounts")
        if table == "hub":
            queries.set_hub_value(self._db, values["key"].removeprefix(CLAIM), values["value"])
            return
        names, places = ", ".join(values), ", ".join("?" * len(values))
        query = f"insert or replace into {table} ({names}) values ({places})"
        queries.changed(self._db, query, *values.values())

    def _keep_account(self, values: dict[str, Any]) -> None:
        tag = values.pop("address_tag")
        queries.keep_account(self._db, Account(used_bytes=0, moving_to=ARRIVING, **values), tag)

    def _keep_device(self, device: Device) -> None:
        account = queries.find_account(self._db, device.account_id)
        if account is None or account.moving_to != ARRIVING:
            raise _cannot_load("device")
        query = "select 1 from device where device_id = ? or device_pk = ?"
        if self._db.execute(query, (device.device_id, device.device_pk)).fetchone():
            raise Refusal("device_exists")
        queries.insert(self._db, "device", device)
        queries.changed(self._db, "delete from moved where device_id = ?", device.device_id)  # it came back

    def _find_number(self) -> None:
        """The collection's short number, and that its account is still arriving."""
        key = self.loading.collection
        if key is None:
            return
        found = queries.find_collection(self._db, key)
        account = queries.find_account(self._db, key.account_id)
        if found is not None and account is not None and account.moving_to == ARRIVING:
            self._number = found[0]
        else:
            self._number = 0  # what belongs to it cannot be kept: the foreign key refuses it


def end_load(db: sqlite3.Connection, account_ids: Collection[AccountId]) -> None:
    """Let the devices of accounts in that have arrived."""
    query = "update account set moving_to = '' where account_id = ? and moving_to = ?"
    for account_id in account_ids:
        queries.changed(db, query, account_id, ARRIVING)


def _cannot_load(table: str) -> Refusal:
    return Refusal("bad_request", f"a row of {table} is here already, or what it belongs to is not")
