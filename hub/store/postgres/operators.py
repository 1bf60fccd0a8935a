"""What the operator sees and sets in Postgres, and what happened on an account.

These calls read whole tables where there is no other way; none of them happens often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import asyncpg

from hub.errors import Refusal
from hub.store import Account, AccountFacts, Audited, Happening, Operator, SilentDevice, Terms, Totals
from hub.store.postgres.batch import COUNTER_MAX
from hub.store.postgres.calls import ACCOUNT_COLUMNS, Calls, changed, lock_account, lock_log
from hub.store.postgres.pool import Connection
from hub.terms import AccountId


class Operators(Calls):
    """The part of the promise that is for the operator, and the audit."""

    async def accounts(self, *, after: AccountId = b"", limit: int, matching: str = "") -> list[AccountFacts]:
        """As promised."""
        rows = await self._rows(ACCOUNTS, after, matching, limit)
        return [AccountFacts(Account(*row[:-3]), *row[-3:]) for row in rows]

    async def totals(self) -> Totals:
        """As promised; one statement."""
        row = await self._calls.run(lambda db: db.fetchrow(TOTALS))
        return Totals(*row)

    async def set_terms(self, account_id: AccountId, terms: Terms) -> bool:
        """As promised."""

        async def work(db: Connection) -> bool:
            query = (
                "update account set quota_bytes = $2, plan = $3, billing_ref = $4, paid_until = $5"
                " where account_id = $1"
            )
            values = (getattr(terms, each.name) for each in fields(Terms))
            try:
                return await changed(db, query, account_id, *values) == 1
            except asyncpg.UniqueViolationError:
                raise Refusal("bad_request", "another account has this billing_ref") from None

        return await self._calls.run(work)

    async def suspend(self, account_id: AccountId, at: float | None) -> bool:
        """As promised: it waits for the appends under way, and those after it see it."""
        query = "update account set suspended_at = $2 where account_id = $1"

        async def work(db: Connection) -> bool:
            if await lock_account(db, "account_id", account_id) is None:
                return False
            await lock_log(db, account_id)
            return await changed(db, query, account_id, at) == 1

        return await self._transact(work)

    async def near_quota(self, share: float, default_quota: int, now: float, limit: int) -> list[Account]:
        """As promised."""
        return [Account(*row) for row in await self._rows(NEAR_QUOTA, share, default_quota, now, limit)]

    async def silent_devices(self, seen_before_day: int, limit: int) -> list[SilentDevice]:
        """As promised; then those that are silent for longest."""
        return [SilentDevice(*row) for row in await self._rows(SILENT_DEVICES, seen_before_day, limit)]

    async def make_operator(self, account_id: AccountId, salt: bytes, now: float) -> bool:
        """As promised; under a new salt no step was accepted yet."""
        return await self._execute(MAKE_OPERATOR, account_id, salt, now) == 1

    async def drop_operator(self, account_id: AccountId) -> bool:
        """As promised."""
        return await self._execute("delete from operator where account_id = $1", account_id) == 1

    async def operators(self) -> list[Operator]:
        """As promised."""
        query = "select account_id, salt, since, last_step from operator order by since, account_id"
        return [Operator(*row) for row in await self._rows(query)]

    async def take_step(self, account_id: AccountId, step: int) -> bool:
        """As promised."""
        query = "update operator set last_step = $2 where account_id = $1 and last_step < $2"
        return await self._execute(query, account_id, step) == 1

    # --- what happened ---

    async def note(self, happenings: Sequence[Happening]) -> None:
        """As promised; one transaction."""

        async def work(db: Connection) -> None:
            # Locked, so that of two entries of an account the later has the higher number, and no day has two
            # entries of what adds up.
            query = "select account_id from account where account_id = any($1) order by account_id for no key update"
            there = {each for (each,) in await db.fetch(query, [each.account_id for each in happenings])}
            for happening in happenings:
                if happening.account_id in there:
                    await _note(db, happening)

        if happenings:
            await self._transact(work)

    async def audit(self, account_id: AccountId, *, before: int, limit: int) -> list[Audited]:
        """As promised."""
        rows = await self._rows(AUDIT, account_id, min(before or COUNTER_MAX, COUNTER_MAX), limit)
        return [Audited(*row) for row in rows]

    async def audit_counts(self, what: str, since: float, limit: int) -> list[tuple[AccountId, int]]:
        """As promised."""
        return [(account_id, count) for account_id, count in await self._rows(AUDIT_COUNTS, what, since, limit)]

    async def forget_audit(self, before: float) -> int:
        """As promised."""
        return await self._execute("delete from audit where at < $1", before)


# --- statements ---------------------------------------------------------------------------------

ACCOUNTS = f"""
select {ACCOUNT_COLUMNS},
       (select count(*) from device where device.account_id = account.account_id and revoked_at is null),
       (select count(*) from space where space.account_id = account.account_id),
       (select coalesce(max(last_seen_day), 0) from device
        where device.account_id = account.account_id and revoked_at is null)
from account
where account_id > $1 and ($2 = '' or starts_with(encode(account_id, 'hex'), lower($2)) or billing_ref = $2)
order by account_id limit $3
"""
TOTALS = """
select (select count(*) from account), (select count(*) from account where suspended_at is not null),
       (select count(*) from device where revoked_at is null), (select count(*) from space),
       (select count(*) from collection), (select coalesce(sum(used_bytes), 0)::bigint from space)
"""
NEAR_QUOTA = f"""
select {", ".join(each.name for each in fields(Account))}
from (
    select {ACCOUNT_COLUMNS},
           coalesce(case when paid_until <= $3 then null else quota_bytes end, $2::bigint) as quota
    from account
) as a
where used_bytes >= $1::double precision * quota
order by used_bytes / greatest(quota, 1)::double precision desc, account_id limit $4
"""
SILENT_DEVICES = """
select d.account_id, d.device_id, d.app_id, d.last_seen_day, waiting.bytes
from device as d cross join lateral (
    select coalesce(sum(length(c.sealed)), 0)::bigint as bytes
    from space as s join collection as l on l.account_id = s.account_id and l.space_id = s.space_id
    join change as c on c.account_id = l.account_id and c.collection = l.number
        and c.kind = 2 and c.replaced_at is null
    where s.account_id = d.account_id and s.app_id = d.app_id
) as waiting
where d.revoked_at is null and d.last_seen_day < $1
order by waiting.bytes desc, d.last_seen_day, d.device_id limit $2
"""
MAKE_OPERATOR = """
insert into operator (account_id, salt, since, last_step)
select account_id, $2, $3, 0 from account where account_id = $1 for key share
on conflict (account_id) do update set salt = excluded.salt, since = excluded.since, last_step = 0
"""
ADD_UP = """
update audit set at = greatest(at, $2), count = count + 1
where account_id = $1 and number = (
    select max(number) from audit
    where account_id = $1 and floor(at / 86400) = floor($2 / 86400::double precision)
    and what = $3 and actor = $4 and device_id = $5 and subject_id = $6
)
"""
ADD_ENTRY = """
insert into audit (account_id, at, what, actor, device_id, subject_id, number, count)
values ($1, $2, $3, $4, $5, $6, nextval('audit_number'), 1)
"""
AUDIT = """
select number, at, what, actor, device_id, subject_id, count from audit
where account_id = $1 and number < $2 order by number desc limit $3
"""
AUDIT_COUNTS = """
select account_id, sum(count)::bigint as counted from audit where what = $1 and at >= $2
group by account_id order by counted desc, account_id limit $3
"""


async def _note(db: Connection, happening: Happening) -> None:
    """Keep one; its account is locked."""
    *values, adds_up = happening
    if not adds_up or await changed(db, ADD_UP, *values) == 0:
        await db.execute(ADD_ENTRY, *values)
