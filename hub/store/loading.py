"""What may come next in a load: the order, types and belonging of the rows of a dump, without I/O.

Every keeper's ``load`` puts its rows through one ``Loading``, so that all refuse the same.
What only the keeper can know it checks itself: whether an account, address, device or
billing_ref is there already.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hub.errors import Refusal
from hub.store import Row
from hub.store.rows import TABLES
from hub.terms import ID_BYTES, LOG_KINDS, AccountId, CollectionKey
from hub.wire.header import parse_header

_ORDER = {table: place for place, table in enumerate(TABLES)}
_SAID = frozenset({"incarnation", "tag_generation"})
_OF_HUB = frozenset({"hub", "invite", "listed"})
OF_COLLECTION = frozenset({"change", "counter", "receipt", "witness"})
CLAIM = "claim "  # stands before the name of what was claimed, among the rows of ``hub``

# One name means one type in every table; ids have 16 bytes.
_TEXTS = frozenset({"key", "plan", "scope", "app_id", "enrolled_via", "what", "actor", "billing_ref"})
_NUMBERS = frozenset(
    {"quota_bytes", "created_day", "listed_day", "last_step", "last_seen_day", "key_epoch", "day", "used_bytes"}
    | {"head", "seq", "kind", "counter", "appended_at_ms", "last", "count"}
)
_TIMES = frozenset(
    {"expires_at", "used_at", "deleted_at", "paid_until", "suspended_at", "since", "enrolled_at", "probation_until"}
    | {"revoked_at", "created_at", "replaced_at", "at"}
)
_MAY_BE_EMPTY = frozenset(
    {"used_at", "quota_bytes", "deleted_at", "billing_ref", "paid_until", "suspended_at", "probation_until"}
    | {"revoked_at", "replaced_at"}
)
_BYTES = {"address_tag": 32, "token_hash": 32, "device_pk": 32, "space_pk": 32, "salt": ID_BYTES, "hash16": 16}
_ANY_BYTES = frozenset({"value", "sealed"})


@dataclass(slots=True)
class Loading:
    """Where a load stands.  ``copy`` it before a call and drop the copy when the call came to nothing."""

    last: str = "hub"
    account_id: AccountId = b""  # whose rows are coming
    spaces: set[bytes] = field(default_factory=set)  # of that account, so far
    collection: CollectionKey | None = None  # whose rows are coming
    head: int = 0
    seq: int = 0  # of the last change

    def copy(self) -> Loading:
        """Another one that stands at the same place."""
        return Loading(self.last, self.account_id, set(self.spaces), self.collection, self.head, self.seq)

    def take(self, row: Row) -> dict[str, Any]:
        """The values of the next row by their columns.

        Raises ``Refusal("bad_request", sentence)`` when it is no row of a dump, comes out of order, or
        belongs to nothing that came before it.  Whether rows of the whole hub may be taken is the caller's.
        """
        table, values = _named(row)
        if not self._may_come(table):
            raise _refusal(f"a row of {table} cannot come after one of {self.last}")
        if table == "hub" and values["key"] not in _SAID and not values["key"].startswith(CLAIM):
            raise _refusal("a hub says no such thing of itself")
        if table == "account":
            self.account_id, self.spaces, self.collection = values["account_id"], set(), None
        elif values.get("account_id", self.account_id) != self.account_id:
            raise _refusal(f"a row of {table} is of another account than the rows before it")
        elif table == "space":
            if values["space_id"] in self.spaces:
                raise _refusal("one space came twice")
            self.spaces.add(values["space_id"])
        elif "space_id" in values and values["space_id"] not in self.spaces:
            raise _refusal(f"a row of {table} is of a space that did not come before it")
        if table == "collection":
            self.collection = CollectionKey(self.account_id, values["space_id"], values["collection_id"])
            self.head, self.seq = values["head"], 0
        if table == "change":
            self._take_change(values)
        self.last = table
        return values

    def _may_come(self, table: str) -> bool:
        if table == "account" or (table == "collection" and self.last in OF_COLLECTION):
            return True
        if table not in _OF_HUB and not self.account_id:
            return False
        if table in OF_COLLECTION and self.collection is None:
            return False
        return _ORDER[table] >= _ORDER[self.last]

    def _take_change(self, values: dict[str, Any]) -> None:
        """A change stands in its collection by its seq, and its columns say what its header says."""
        assert self.collection is not None, "its collection came before it"
        if not self.seq < values["seq"] <= self.head:
            raise _refusal("the changes of a collection come in the order of their seqs, up to its head")
        try:
            header = parse_header(values["sealed"])
        except ValueError as exc:
            raise _refusal(f"a sealed change cannot be one: {exc}") from None
        said: tuple[object, ...] = (self.collection.space_id, self.collection.collection_id)
        said += tuple(values[name] for name in ("kind", "record_id", "change_id", "device_id", "counter"))
        if said != (
            header.space_id,
            header.collection_id,
            int(header.kind),
            header.record_id,
            header.change_id,
            header.device_id,
            header.counter,
        ):
            raise _refusal("a sealed change is not the one its row says")
        if header.kind not in LOG_KINDS:
            raise _refusal("a witness is no change")
        self.seq = values["seq"]


def _named(row: Row) -> tuple[str, dict[str, Any]]:
    """The table and the values by column, each of its type."""
    table, values = row
    if table not in TABLES:
        raise _refusal("a row of an unknown table")
    if len(values) != len(TABLES[table]):
        raise _refusal(f"a row of {table} has {len(TABLES[table])} values")
    named = dict(zip(TABLES[table], values, strict=True))
    for column, value in named.items():
        if not _fits(table, column, value):
            raise _refusal(f"{table}.{column} cannot be this")
    return table, named


def _fits(table: str, column: str, value: object) -> bool:
    if value is None:
        return column in _MAY_BE_EMPTY
    if column == "address_known":
        return isinstance(value, bool)
    if column in _TEXTS or (table, column) == ("listed", "kind"):
        return isinstance(value, str)
    if column in _NUMBERS:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
    if column in _TIMES:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if not isinstance(value, bytes):
        return False
    if column in _ANY_BYTES:
        return True
    if table == "audit" and column != "account_id":
        return len(value) in (0, ID_BYTES)
    return len(value) == _BYTES.get(column, ID_BYTES)


def _refusal(sentence: str) -> Refusal:
    return Refusal("bad_request", sentence)
