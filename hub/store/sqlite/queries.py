"""The queries that several calls of the SQLite keeper share; each runs in its caller's transaction."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from functools import lru_cache
from itertools import chain, starmap
from typing import TYPE_CHECKING, Any, TypeVar, cast

from hub.errors import Refusal
from hub.store import Account, Attempt, Charge, Device, Page, Space
from hub.terms import AccountId, Change, CollectionKey, DeviceId, Seq, SpaceId, Span

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

D = TypeVar("D", bound="DataclassInstance")

HASH_BYTES = 16
# How many rows one statement is for: no more than a third of them does nothing.
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
ROWS_AT_ONCE_MAX = SIZES[-1]
PAGE_ROWS = 16  # looked at together; so many more than a page holds may be read, 3 MiB at most

_PAGE = "select seq, appended_at_ms, sealed from change indexed by"
_HALF = "where collection = ?1 and seq > ?2 and replaced_at is"
# Without statistics SQLite would not choose a partial index by itself.  The two halves are merged as they are read.
LIVE = f"{_PAGE} change_live {_HALF} null order by seq limit ?3"
EVERY = (
    f"{_PAGE} change_live {_HALF} null union all {_PAGE} change_replaced_by_seq {_HALF} not null order by seq limit ?3"
)

# Of many rows: what stands before them, each row, what follows, and the values of a row that does nothing.
Statement = tuple[str, str, str, tuple[object, ...]]


def read_page(
    db: sqlite3.Connection, key: CollectionKey, after: Seq, live_only: bool, changes_max: int, bytes_max: int
) -> Page:
    """The next page of a collection, from one snapshot."""
    found = find_collection(db, key)
    if found is None:
        return Page([], 0, 0)
    number, head = found
    query = LIVE if live_only else EVERY
    page: list[Change] = []
    page_bytes = 0
    with contextlib.closing(db.execute(query, (number, after, changes_max + 1))) as rows:
        while some := rows.fetchmany(PAGE_ROWS):
            some_bytes = sum([len(sealed) for _, _, sealed in some])
            if len(page) + len(some) <= changes_max and page_bytes + some_bytes <= bytes_max:
                page += starmap(Change, some)
                page_bytes += some_bytes
                continue
            for row in some:
                page_bytes += len(row[2])
                if len(page) == changes_max or (page and page_bytes > bytes_max):
                    return Page(page, page[-1].seq, head)
                page.append(Change(*row))
    return Page(page, head, head)


def find_collection(db: sqlite3.Connection, key: CollectionKey) -> tuple[int, Seq] | None:
    """The number and head of a collection."""
    query = "select number, head from collection where account_id = ? and space_id = ? and collection_id = ?"
    return cast("tuple[int, Seq] | None", db.execute(query, key).fetchone())


def drop_changes(db: sqlite3.Connection, rowids: Iterable[int]) -> int:
    """Remove changes but keep what answers their retries; the bytes it freed."""
    freed = 0
    for rowid in rowids:
        query = "select account_id, collection, device_id, counter, seq, sealed from change where rowid = ?"
        *receipt, sealed = db.execute(query, (rowid,)).fetchone()
        db.execute(
            "insert into receipt (account_id, collection, device_id, counter, seq, hash16) values (?, ?, ?, ?, ?, ?)",
            (*receipt, hash_of(sealed)),
        )
        db.execute("delete from change where rowid = ?", (rowid,))
        freed += len(sealed)
    return freed


def add_used_bytes(db: sqlite3.Connection, account_id: AccountId, space_id: SpaceId, more: int) -> None:
    """Count what a space keeps more than before, or less."""
    query = "update space set used_bytes = used_bytes + ? where account_id = ? and space_id = ?"
    changed(db, query, more, account_id, space_id)


def find_space(db: sqlite3.Connection, account_id: AccountId, space_id: SpaceId) -> Space | None:
    """The space, with what it uses."""
    query = f"select {columns(Space)} from space where account_id = ? and space_id = ?"
    return one(Space, db.execute(query, (account_id, space_id)))


def create_space(db: sqlite3.Connection, space: Space, spaces_max: int, now: float) -> Space:
    """Keep a new space, or return the one with the same key; refuses as the store promises."""
    if find_account(db, space.account_id) is None:
        raise Refusal("not_found")
    must_stay(db, space.account_id)
    there = find_space(db, space.account_id, space.space_id)
    if there is not None and there.space_pk != space.space_pk:
        raise Refusal("bad_space_proof")
    if there is not None:
        return there
    (spaces,) = db.execute("select count(*) from space where account_id = ?", (space.account_id,)).fetchone()
    if spaces >= spaces_max:
        raise Refusal("too_many")
    new = replace(space, used_bytes=0, deleted_at=None)
    insert(db, "space", new, created_at=now)
    return new


def delete_space(db: sqlite3.Connection, account_id: AccountId, space_id: SpaceId) -> None:
    """Remove a space and all below it."""
    space = (account_id, space_id)
    of_space = "in (select number from collection where account_id = ? and space_id = ?)"
    for table in ("change", "counter", "receipt", "witness"):
        db.execute(f"delete from {table} where collection {of_space}", space)
    for table in ("collection", "growth", "space"):
        db.execute(f"delete from {table} where account_id = ? and space_id = ?", space)


def delete_account(db: sqlite3.Connection, account_id: AccountId) -> None:
    """Remove an account and all that belongs to it."""
    for (space_id,) in db.execute("select space_id from space where account_id = ?", (account_id,)).fetchall():
        delete_space(db, account_id, space_id)
    tag = "(select address_tag from account where account_id = ?)"
    db.execute(f"delete from attempt where address_tag = {tag}", (account_id,))
    for table in ("operator", "audit", "device", "account"):
        db.execute(f"delete from {table} where account_id = ?", (account_id,))


def find_attempt(db: sqlite3.Connection, attempt_id: bytes) -> Attempt | None:
    """The attempt, live or not."""
    query = f"select {columns(Attempt)} from attempt where attempt_id = ?"
    attempt = one(Attempt, db.execute(query, (attempt_id,)))
    return attempt and replace(attempt, welcome=bool(attempt.welcome))


def wait(db: sqlite3.Connection, charges: Iterable[Charge], now: float) -> float:
    """Seconds until one more would fit every charge."""
    return max((_wait_in(db, charge.key, span, now) for charge in charges for span in charge.spans), default=0.0)


def _wait_in(db: sqlite3.Connection, key: bytes, span: Span, now: float) -> float:
    # The most-th newest must have left the span.
    query = "select at from spent where key = ? order by at desc limit 1 offset ?"
    row = db.execute(query, (key, span.most - 1)).fetchone()
    return max(0.0, row[0] + span.seconds - now) if row else 0.0


def find_live_attempt(db: sqlite3.Connection, attempt_id: bytes, now: float) -> Attempt | None:
    """The attempt, unless it is expired or consumed."""
    attempt = find_attempt(db, attempt_id)
    if attempt is None or attempt.consumed_at is not None or attempt.expires_at <= now:
        return None
    return attempt


def consume_attempt(db: sqlite3.Connection, attempt_id: bytes, now: float) -> Attempt | None:
    """Use a live attempt up, and return it."""
    attempt = find_live_attempt(db, attempt_id, now)
    if attempt is not None:
        changed(db, "update attempt set consumed_at = ? where attempt_id = ?", now, attempt_id)
    return attempt


def add_account(
    db: sqlite3.Connection, attempt: Attempt, account: Account, address_tag: bytes, *, first_only: bool, now: float
) -> None:
    """Keep an account that an attempt makes, and use up its invite; refuses as the store promises."""
    if account_with(db, address_tag) or find_account(db, account.account_id) or (first_only and count_accounts(db)):
        raise Refusal("enrol_failed")
    if attempt.invite is not None:
        query = "update invite set used_at = ? where token_hash = ? and used_at is null and expires_at > ?"
        if changed(db, query, now, attempt.invite, now) != 1:
            raise Refusal("enrol_failed")
    keep_account(db, account, address_tag)


def keep_account(db: sqlite3.Connection, account: Account, address_tag: bytes) -> None:
    """Keep an account as it is."""
    values = {each.name: getattr(account, each.name) for each in fields(account)} | {"address_tag": address_tag}
    del values["used_bytes"]  # the sum of its spaces
    insert_values(db, "account", values)


def add_device(db: sqlite3.Connection, device: Device, per_account_max: int, per_app_max: int) -> None:
    """Keep a device; refuses as the store promises."""
    must_stay(db, device.account_id)
    query = "select 1 from device where device_id = ? or device_pk = ?"
    if db.execute(query, (device.device_id, device.device_pk)).fetchone():
        raise Refusal("device_exists")
    query = "select count(*), coalesce(sum(app_id = ?), 0) from device where account_id = ? and revoked_at is null"
    of_account, of_app = db.execute(query, (device.app_id, device.account_id)).fetchone()
    if of_account >= per_account_max or of_app >= per_app_max:
        raise Refusal("too_many")
    insert(db, "device", device)


def is_alive(db: sqlite3.Connection, account_id: AccountId, device_id: DeviceId) -> bool:
    """Whether the account has this device, and it is not revoked."""
    query = "select 1 from device where account_id = ? and device_id = ? and revoked_at is null"
    return db.execute(query, (account_id, device_id)).fetchone() is not None


ACCOUNT = (
    "account_id, quota_bytes,"
    " (select coalesce(sum(used_bytes), 0) from space where space.account_id = account.account_id),"
    " created_day, deleted_at, plan, billing_ref, paid_until, suspended_at, moving_to, address_known"
)
"""The columns of ``Account``, in its order."""


def to_account(row: Iterable[Any]) -> Account:
    """An account from the columns of ``ACCOUNT``."""
    account = Account(*row)
    return replace(account, address_known=bool(account.address_known))


def find_account(db: sqlite3.Connection, account_id: AccountId) -> Account | None:
    """The account, with what all its spaces use."""
    row = db.execute(f"select {ACCOUNT} from account where account_id = ?", (account_id,)).fetchone()
    return to_account(row) if row else None


def must_stay(db: sqlite3.Connection, account_id: AccountId) -> None:
    """Nothing of an account that is moving may change: then it raises ``Refusal("unavailable")``."""
    query = "select 1 from account where account_id = ? and moving_to <> ''"
    if db.execute(query, (account_id,)).fetchone():
        raise Refusal("unavailable")


def account_with(db: sqlite3.Connection, address_tag: bytes) -> AccountId | None:
    """The account with this address tag."""
    row = db.execute("select account_id from account where address_tag = ?", (address_tag,)).fetchone()
    return cast(AccountId, row[0]) if row else None


def count_accounts(db: sqlite3.Connection) -> int:
    """How many accounts there are."""
    return cast(int, db.execute("select count(*) from account").fetchone()[0])


def rewrap(db: sqlite3.Connection, wrap: Callable[[bytes], bytes], generation: int) -> int:
    """Wrap every address tag, unless that generation was wrapped before; how many accounts were."""
    if generation <= int(hub_value(db, "tag_generation")):
        return 0
    _rewrap_table(db, "attempt", "attempt_id", wrap)
    for tag, kind, day in db.execute("delete from listed returning address_tag, kind, listed_day").fetchall():
        changed(db, "insert into listed (address_tag, kind, listed_day) values (?, ?, ?)", wrap(tag), kind, day)
    set_hub_value(db, "tag_generation", b"%d" % generation)
    return _rewrap_table(db, "account", "account_id", wrap)


def _rewrap_table(db: sqlite3.Connection, table: str, key: str, wrap: Callable[[bytes], bytes]) -> int:
    rows = db.execute(f"select {key}, address_tag from {table}").fetchall()
    for id_, tag in rows:
        changed(db, f"update {table} set address_tag = ? where {key} = ?", wrap(tag), id_)
    return len(rows)


def hub_value(db: sqlite3.Connection, key: str) -> bytes:
    """What the database says of itself under this key, which must be there."""
    return cast(bytes, db.execute("select value from hub where key = ?", (key,)).fetchone()[0])


def claim(db: sqlite3.Connection, name: str, value: bytes) -> bytes:
    """Keep a value unless there is one; the one that is kept."""
    changed(db, "insert into hub (key, value) values (?, ?) on conflict do nothing", name, value)
    return hub_value(db, name)


def set_hub_value(db: sqlite3.Connection, key: str, value: bytes) -> None:
    """Have the database say this of itself."""
    db.execute("insert or replace into hub (key, value) values (?, ?)", (key, value))


def run_for_all(
    db: sqlite3.Connection, statement: Statement, rows: Sequence[Sequence[object]], *first: object
) -> list[tuple[Any, ...]]:
    """Run a statement for all rows at once, the values of ``first`` before theirs; what it selects.

    Rows that do nothing fill the statement up, so that only a few lengths ever need to be prepared and one is enough
    for a batch: each takes the interpreter's lock back three times.
    """
    selected: list[tuple[Any, ...]] = []
    for start in range(0, len(rows), ROWS_AT_ONCE_MAX):
        some = rows[start : start + ROWS_AT_ONCE_MAX]
        text, size = _text(statement, len(some))
        values = (*first, *chain.from_iterable(some), *statement[3] * (size - len(some)))
        selected += db.execute(text, values).fetchall()
    return selected


@lru_cache(maxsize=4_096)
def _text(statement: Statement, rows: int) -> tuple[str, int]:
    before, row, after, _ = statement
    size = next(size for size in SIZES if size >= rows)
    return f"{before} {', '.join([row] * size)}{after}", size


def columns(kind: type[DataclassInstance]) -> str:
    """The columns of a dataclass, which are named like its fields and stand in their order."""
    return ", ".join(each.name for each in fields(kind))


def one(kind: type[D], rows: sqlite3.Cursor) -> D | None:
    """The first row as a dataclass."""
    row = rows.fetchone()
    return kind(*row) if row else None


def insert(db: sqlite3.Connection, table: str, kept: DataclassInstance, **more: object) -> None:
    """Keep a dataclass as a row; its fields are named like the columns."""
    insert_values(db, table, {each.name: getattr(kept, each.name) for each in fields(kept)} | more)


def insert_values(db: sqlite3.Connection, table: str, values: Mapping[str, object]) -> None:
    """Keep a row; the values by their columns."""
    places = ", ".join("?" * len(values))
    db.execute(f"insert into {table} ({', '.join(values)}) values ({places})", tuple(values.values()))


def changed(db: sqlite3.Connection, query: str, *values: object) -> int:
    """Run a writing statement; how many rows it changed."""
    return db.execute(query, values).rowcount


def hash_of(sealed: bytes) -> bytes:
    """What a receipt keeps of sealed bytes."""
    return hashlib.sha256(sealed).digest()[:HASH_BYTES]
