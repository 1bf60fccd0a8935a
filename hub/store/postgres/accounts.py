"""Accounts in Postgres: addresses and the attempts to prove them, devices, invites, limits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from typing import cast

import asyncpg

from hub.errors import Refusal
from hub.store import ARRIVING, Account, Attempt, Charge, Device, Invite
from hub.store.postgres.calls import (
    ACCOUNT_COLUMNS,
    Calls,
    Locked,
    changed,
    columns,
    insert,
    insert_values,
    lock_account,
    lock_log,
)
from hub.store.postgres.pool import Connection
from hub.terms import AccountId, DeviceId, SpaceId

REWRAPPED_AT_ONCE = 10_000


class Accounts(Calls):
    """The part of the promise that is about accounts and devices."""

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
        await self._calls.run(lambda db: insert(db, "attempt", attempt))

    async def note_resend(
        self, attempt_id: bytes, device_pk: bytes, now: float, *, not_before_s: float, sends_max: int
    ) -> Attempt | None:
        """As promised."""
        query = (
            f"update attempt set sends = sends + 1, sent_at = $2 where {LIVE_ATTEMPT} and device_pk = $3"
            f" and $2 - sent_at >= $4 and sends < $5 returning {columns(Attempt)}"
        )
        return await self._one(Attempt, query, attempt_id, now, device_pk, not_before_s, sends_max)

    async def charge_attempt(self, attempt_id: bytes, now: float, tries_max: int) -> Attempt | None:
        """As promised."""
        query = f"update attempt set tries = tries + 1 where {LIVE_ATTEMPT} and tries < $3 returning {columns(Attempt)}"
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
            else:
                account = await lock_account(db, "address_tag", address_tag)
                if account is None or account.account_id != device.account_id:
                    raise Refusal("enrol_failed")
                account.must_stay()
            await _add_device(db, device, per_account_max, per_app_max)

        await self._transact(work)

    async def add_device(self, device: Device, *, per_account_max: int, per_app_max: int) -> None:
        """As promised."""

        async def work(db: Connection) -> None:
            account = await lock_account(db, "account_id", device.account_id)
            if account is None:
                raise Refusal("enrol_failed")
            account.must_stay()
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
        return await self._one(Device, f"select {columns(Device)} from device where device_id = $1", device_id)

    async def devices(self, account_id: AccountId) -> list[Device]:
        """As promised."""
        query = (
            f"select {columns(Device)} from device where account_id = $1 and revoked_at is null"
            " order by enrolled_at, device_id"
        )
        return [Device(*row) for row in await self._rows(query, account_id)]

    async def revoke(self, account_id: AccountId, device_ids: Collection[DeviceId], now: float) -> list[DeviceId]:
        """As promised: it waits for the appends under way, and those after it see it."""

        async def work(db: Connection) -> set[DeviceId]:
            account = await lock_account(db, "account_id", account_id)
            if account is None:
                return set()
            account.must_stay()
            await lock_log(db, account_id)
            return {device_id for (device_id,) in await db.fetch(REVOKE, account_id, list(device_ids), now)}

        revoked = await self._transact(work)
        return [device_id for device_id in dict.fromkeys(device_ids) if device_id in revoked]

    async def stopped_among(self, device_ids: Collection[DeviceId]) -> dict[DeviceId, str]:
        """As promised."""
        closings = dict(await self._rows(CLOSINGS, list(device_ids)))
        found = {device_id: closings.get(device_id, "revoked") for device_id in device_ids}
        return {device_id: closing for device_id, closing in found.items() if closing}

    async def approve(self, account_id: AccountId, device_id: DeviceId) -> bool:
        """As promised; a revoked device is no device."""
        query = (
            "update device set probation_until = null where account_id = $1 and device_id = $2 and revoked_at is null"
        )
        return await self._change_staying(query, account_id, device_id)

    async def note_seen(self, device_ids: Collection[DeviceId], day: int) -> None:
        """As promised; an earlier day changes nothing, nor does any for an account that is moving."""
        await self._execute(NOTE_SEEN, list(device_ids), day)

    async def schedule_account_deletion(self, account_id: AccountId, at: float | None) -> bool:
        """As promised."""
        return await self._change_staying("update account set deleted_at = $2 where account_id = $1", account_id, at)

    async def delete_account(self, account_id: AccountId) -> bool:
        """As promised, as ``delete_space``; the attempts of its address go with it.

        One that only half arrived can be deleted too.
        """
        account = await self.account(account_id)
        if account is None:
            return False
        for space_id in await self._space_ids(account_id):
            await self._delete_changes(account_id, space_id, leaving=account.moving_to == ARRIVING)

        async def work(db: Connection) -> bool:
            account = await lock_whole_account(db, account_id)
            if account is None:
                return False
            if account.moving_to != ARRIVING:
                account.must_stay()
            await delete_locked_account(db, account_id)
            return True

        return await self._transact(work)

    async def due_deletions(self, now: float) -> tuple[list[AccountId], list[tuple[AccountId, SpaceId]]]:
        """As promised, the longest due first; an account that is moving is not due, nor are its spaces."""
        accounts = (
            "select account_id from account where deleted_at <= $1 and moving_to = '' order by deleted_at, account_id"
        )
        spaces = (
            "select account_id, space_id from space join account using (account_id)"
            " where space.deleted_at <= $1 and moving_to = '' order by space.deleted_at, account_id, space_id"
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

    async def invites(self) -> list[Invite]:
        """As promised."""
        query = "select token_hash, expires_at, used_at from invite order by expires_at desc, token_hash"
        return [Invite(*row) for row in await self._rows(query)]

    async def withdraw_invite(self, token_hash: bytes) -> bool:
        """As promised."""
        return await self._execute("delete from invite where token_hash = $1 and used_at is null", token_hash) == 1

    async def list_address(self, address_tag: bytes, kind: str | None, day: int) -> None:
        """As promised."""
        if kind is None:
            await self._execute("delete from listed where address_tag = $1", address_tag)
        else:
            await self._execute(LIST_ADDRESS, address_tag, kind, day)

    async def listed(self, address_tag: bytes) -> str | None:
        """As promised."""
        return cast("str | None", await self._value("select kind from listed where address_tag = $1", address_tag))

    async def count_listed(self) -> dict[str, int]:
        """As promised."""
        counted = dict(await self._rows("select kind, count(*) from listed group by kind"))
        return {kind: counted.get(kind, 0) for kind in ("allowed", "blocked")}

    async def change_address(self, attempt_id: bytes, account_id: AccountId, now: float) -> None:
        """As promised; the attempts of the old address go."""
        await self._transact(lambda db: _change_address(db, attempt_id, account_id, now))

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

ACCOUNT = f"select {ACCOUNT_COLUMNS} from account"

CLOSINGS = """
select device_id, case when suspended_at is not null then 'suspended' when moving_to <> '' then 'moving' else '' end
from device join account using (account_id) where device_id = any($1) and revoked_at is null
"""
LIST_ADDRESS = """
insert into listed (address_tag, kind, listed_day) values ($1, $2, $3)
on conflict (address_tag) do update set kind = excluded.kind, listed_day = excluded.listed_day
"""
# Locked before the account, as everywhere.
ATTEMPTS_OF_CHANGE = """
select attempt_id from attempt
where attempt_id = $1 or address_tag = (select address_tag from account where account_id = $2)
order by attempt_id for update
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
    where device_id = any($1) and last_seen_day < $2
    and exists (select from account where account.account_id = device.account_id and moving_to = '')
    order by device_id for no key update
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


async def lock_whole_account(db: Connection, account_id: AccountId) -> Locked | None:
    """Lock an account that may be about to go, with its attempts and its log."""
    await db.execute(
        "select from attempt where address_tag = (select address_tag from account where account_id = $1)"
        " order by attempt_id for update",
        account_id,
    )
    row = await db.fetchrow("select account_id, moving_to from account where account_id = $1 for update", account_id)
    await lock_log(db, account_id)
    return Locked(*row) if row else None


async def delete_locked_account(db: Connection, account_id: AccountId) -> None:
    """Remove a wholly locked account and every row of it; ``_delete_changes`` has left few."""
    tag = await db.fetchval("select address_tag from account where account_id = $1", account_id)
    # One that came since the lock, and is in use, is forgotten with its age: waiting for it would be a circle.
    await db.execute(
        "delete from attempt where attempt_id in"
        " (select attempt_id from attempt where address_tag = $1 order by attempt_id for update skip locked)",
        tag,
    )
    for (space_id,) in await db.fetch("select space_id from space where account_id = $1 order by space_id", account_id):
        await db.fetchval("select delete_space($1, $2)", account_id, space_id)
    await db.execute("select from device where account_id = $1 order by device_id for update", account_id)
    await db.execute("delete from device where account_id = $1", account_id)
    await db.execute("delete from account where account_id = $1", account_id)


async def _consume(db: Connection, attempt_id: bytes, now: float) -> Attempt | None:
    """Use a live attempt up, and return it."""
    query = f"update attempt set consumed_at = $2 where {LIVE_ATTEMPT} returning {columns(Attempt)}"
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
        if await changed(db, query, attempt.invite, now) != 1:
            raise Refusal("enrol_failed")
    values = {each.name: getattr(account, each.name) for each in fields(Account) if each.name != "used_bytes"}
    if await insert_values(db, "account", {**values, "address_tag": address_tag}) != 1:
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
    if await insert(db, "device", device) != 1:
        raise Refusal("device_exists")


async def _change_address(db: Connection, attempt_id: bytes, account_id: AccountId, now: float) -> None:
    locked = [each for (each,) in await db.fetch(ATTEMPTS_OF_CHANGE, attempt_id, account_id)]
    attempt = await _consume(db, attempt_id, now)
    if attempt is None:
        raise Refusal("enrol_failed")
    account = await lock_account(db, "account_id", account_id)
    if account is None:
        raise Refusal("not_found")
    account.must_stay()
    old = await db.fetchval("select address_tag from account where account_id = $1", account_id)
    try:
        query = "update account set address_tag = $2, address_known = true where account_id = $1"
        await db.execute(query, account_id, attempt.address_tag)
    except asyncpg.UniqueViolationError:
        raise Refusal("enrol_failed") from None
    if old != attempt.address_tag:
        await db.execute("delete from attempt where attempt_id = any($1) and address_tag = $2", locked, old)


async def _rewrap(db: Connection, wrap: Callable[[bytes], bytes], generation: int) -> int:
    query = "select value from hub where key = 'tag_generation' for update"
    if generation <= int(await db.fetchval(query)):
        return 0
    await _rewrap_table(db, "attempt", wrap)
    tags = [tag for (tag,) in await db.fetch("select address_tag from listed for update")]
    query = "update listed set address_tag = t.wrapped from unnest($1::bytea[], $2::bytea[]) as t(tag, wrapped)"
    await db.execute(f"{query} where listed.address_tag = t.tag", tags, [wrap(tag) for tag in tags])
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
