"""Calls of one statement or one transaction, which the rooms of the Postgres keeper are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from hub.errors import Refusal
from hub.store import ARRIVING, Account
from hub.store.postgres.pool import Connection, Pool, Work
from hub.terms import AccountId, Limits, SpaceId

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
K = TypeVar("K")

DELETED_AT_ONCE = 5_000  # rows of a space that goes, in one transaction: nobody waits long for it


class Calls:
    """What every room has: two pools, and what the keeper was told when it was made."""

    _url: str
    _limits: Limits
    _quota_bytes: int
    _appends: Pool
    _calls: Pool

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
        return await self._calls.run(lambda db: changed(db, query, *values))

    async def _transact(self, work: Work[T]) -> T:
        """Have ``work`` done in one transaction; what it raises undoes it."""

        async def transaction(db: Connection) -> T:
            async with db.transaction():
                return await work(db)

        return await self._calls.run(transaction)

    async def _change_staying(self, query: str, account_id: AccountId, *values: object) -> bool:
        """Change one row of an account, whether there was one; ``Refusal("unavailable")`` when the account is moving.

        The account is the query's first value.
        """

        async def work(db: Connection) -> bool:
            account = await lock_account(db, "account_id", account_id)
            if account is None or await changed(db, query, account_id, *values) != 1:
                return False
            account.must_stay()
            return True

        return await self._transact(work)

    async def _space_ids(self, account_id: AccountId) -> list[SpaceId]:
        query = "select space_id from space where account_id = $1 order by space_id"
        return [space_id for (space_id,) in await self._rows(query, account_id)]

    async def _delete_changes(self, account_id: AccountId, space_id: SpaceId, *, leaving: bool) -> None:
        """Remove the changes of a space in several transactions.

        Raises ``Refusal("unavailable")`` when the account is moving, unless that is why they go (``leaving``).
        """

        async def work(db: Connection) -> int:
            account = await lock_account(db, "account_id", account_id)
            if account is not None and not leaving:
                account.must_stay()
            query = "select delete_some($1, $2, $3)"
            return cast(int, await db.fetchval(query, account_id, space_id, DELETED_AT_ONCE))

        while await self._transact(work) == DELETED_AT_ONCE:
            pass


class Locked(NamedTuple):
    """An account whose row is locked."""

    account_id: AccountId
    moving_to: str

    def must_stay(self) -> None:
        """Nothing of an account that is moving may change."""
        if self.moving_to:
            raise Refusal("unavailable")

    def may_leave(self) -> bool:
        """Whether it is moving to another hub."""
        return self.moving_to not in ("", ARRIVING)


async def lock_account(db: Connection, by: str, value: bytes) -> Locked | None:
    """Lock an account: its devices and spaces are counted, added and revoked by one at a time."""
    row = await db.fetchrow(f"select account_id, moving_to from account where {by} = $1 for no key update", value)
    return Locked(*row) if row else None


async def lock_log(db: Connection, account_id: AccountId) -> None:
    """Wait for the appends of the account that are under way, and keep others out; the account is locked."""
    await db.fetchval("select lock_spaces(array[$1::bytea])", account_id)


# What an account uses is what its spaces do.
_USED = "(select coalesce(sum(used_bytes), 0)::bigint from space where space.account_id = account.account_id)"
ACCOUNT_COLUMNS = ", ".join(
    f"{_USED} as used_bytes" if each.name == "used_bytes" else f"account.{each.name}" for each in fields(Account)
)


def columns(kind: type[DataclassInstance]) -> str:
    """The columns of a dataclass, which are named like its fields and stand in their order."""
    return ", ".join(each.name for each in fields(kind))


async def insert(db: Connection, table: str, kept: DataclassInstance, **more: object) -> int:
    """Keep it; 0 when something with one of its keys is there."""
    return await insert_values(db, table, {each.name: getattr(kept, each.name) for each in fields(kept)} | more)


async def insert_values(db: Connection, table: str, values: dict[str, object]) -> int:
    """Keep a row, given by column; 0 when something with one of its keys is there."""
    places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    query = f"insert into {table} ({', '.join(values)}) values ({places}) on conflict do nothing"
    return await changed(db, query, *values.values())


async def changed(db: Connection, query: str, *values: object) -> int:
    """Run a writing statement; how many rows it changed."""
    status = await db.execute(query, *values)  # like "UPDATE 1" or "INSERT 0 1"
    return int(status.rpartition(" ")[2])
