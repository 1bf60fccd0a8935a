"""What the operator asks the SQLite keeper and tells it; each runs in its caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import cast

from hub.errors import Refusal
from hub.store import (
    ARRIVING,
    Account,
    AccountFacts,
    Audited,
    Happening,
    SilentDevice,
    Space,
    SpaceFacts,
    Terms,
    Totals,
)
from hub.store.sqlite import queries
from hub.terms import AccountId, DeviceId

# One transaction sees no other's rows, so a look and a write are one step.


def stopped(db: sqlite3.Connection, device_id: DeviceId) -> str:
    """The closing that keeps a device out."""
    query = (
        "select suspended_at, moving_to from device join account using (account_id)"
        " where device_id = ? and revoked_at is null"
    )
    row = db.execute(query, (device_id,)).fetchone()
    if row is None:
        return "revoked"
    return "suspended" if row[0] is not None else "moving" if row[1] else ""


def change_address(db: sqlite3.Connection, attempt_id: bytes, account_id: AccountId, now: float) -> None:
    """Give an account the address of an attempt; the attempts of the old address go."""
    attempt = queries.consume_attempt(db, attempt_id, now)
    if attempt is None:
        raise Refusal("enrol_failed")
    if queries.find_account(db, account_id) is None:
        raise Refusal("not_found")
    queries.must_stay(db, account_id)
    if queries.account_with(db, attempt.address_tag) not in (None, account_id):
        raise Refusal("enrol_failed")
    (old,) = db.execute("select address_tag from account where account_id = ?", (account_id,)).fetchone()
    if old != attempt.address_tag:
        queries.changed(db, "delete from attempt where address_tag = ?", old)
    query = "update account set address_tag = ?, address_known = 1 where account_id = ?"
    queries.changed(db, query, attempt.address_tag, account_id)


def accounts(db: sqlite3.Connection, after: AccountId, limit: int, matching: str) -> list[AccountFacts]:
    """Accounts by their ids, each with its counts."""
    devices = "from device where device.account_id = account.account_id and revoked_at is null"
    query = (
        f"select (select count(*) {devices}), (select count(*) from space where space.account_id = account.account_id),"
        f" (select coalesce(max(last_seen_day), 0) {devices}), {queries.ACCOUNT} from account where account_id > ?1"
        " and (?3 = '' or substr(lower(hex(account_id)), 1, length(?3)) = lower(?3) or billing_ref = ?3)"
        " order by account_id limit ?2"
    )
    rows = db.execute(query, (after, limit, matching)).fetchall()
    return [AccountFacts(queries.to_account(rest), devs, spaces, day) for devs, spaces, day, *rest in rows]


def totals(db: sqlite3.Connection) -> Totals:
    """The hub in numbers."""
    row = db.execute(
        "select (select count(*) from account), (select count(*) from account where suspended_at is not null),"
        " (select count(*) from device where revoked_at is null), (select count(*) from space),"
        " (select count(*) from collection), (select coalesce(sum(used_bytes), 0) from space)"
    ).fetchone()
    return Totals(*row)


def set_terms(db: sqlite3.Connection, account_id: AccountId, terms: Terms) -> bool:
    """Replace what the operator grants."""
    query = "select 1 from account where billing_ref = ? and account_id <> ?"
    if queries.find_account(db, account_id) and db.execute(query, (terms.billing_ref, account_id)).fetchone():
        raise Refusal("bad_request", "another account has this billing_ref")
    query = "update account set quota_bytes = ?, plan = ?, billing_ref = ?, paid_until = ? where account_id = ?"
    values = (terms.quota_bytes, terms.plan, terms.billing_ref, terms.paid_until)
    return queries.changed(db, query, *values, account_id) == 1


def near_quota(db: sqlite3.Connection, share: float, default_quota: int, now: float, limit: int) -> list[Account]:
    """The accounts that use so much of their quota, the fullest first."""
    query = (
        "with used as (select account_id, sum(used_bytes) as bytes from space group by account_id),"
        " full as (select account.account_id, coalesce(bytes, 0) as bytes,"
        "  coalesce(case when paid_until <= ?1 then null else quota_bytes end, ?2) as quota"
        "  from account left join used using (account_id))"
        " select account_id from full where bytes >= ?3 * quota"
        " order by 1.0 * bytes / max(quota, 1) desc, account_id limit ?4"
    )
    full = [queries.find_account(db, each) for (each,) in db.execute(query, (now, default_quota, share, limit))]
    return [account for account in full if account is not None]


def silent_devices(db: sqlite3.Connection, seen_before_day: int, limit: int) -> list[SilentDevice]:
    """Devices that were not here for long, those with the most waiting bytes first."""
    query = (
        "with silent as (select account_id, device_id, app_id, last_seen_day from device"
        "  where revoked_at is null and last_seen_day < ?1),"
        " waiting as (select apps.account_id, apps.app_id, sum(length(sealed)) as bytes"
        "  from (select distinct account_id, app_id from silent) as apps join space using (account_id, app_id)"
        "  join collection using (account_id, space_id)"
        "  join change indexed by change_tombstone on change.collection = collection.number"
        "  and kind = 2 and replaced_at is null group by apps.account_id, apps.app_id)"
        " select account_id, device_id, app_id, last_seen_day, coalesce(bytes, 0) as bytes"
        " from silent left join waiting using (account_id, app_id)"
        " order by bytes desc, last_seen_day, device_id limit ?2"
    )
    return [SilentDevice(*row) for row in db.execute(query, (seen_before_day, limit))]


def note(db: sqlite3.Connection, happening: Happening) -> None:
    """Keep a happening, or let it join the entry of its day."""
    account_id, at, what, actor, device_id, subject_id, adds_up = happening
    if queries.find_account(db, account_id) is None:
        return
    told = (what, actor, device_id, subject_id)
    if adds_up:
        day = at // 86_400 * 86_400
        same = (
            "(select max(number) from audit where account_id = ? and what = ? and actor = ? and device_id = ?"
            " and subject_id = ? and at >= ? and at < ?)"
        )
        query = f"update audit set at = max(at, ?), count = count + 1 where number = {same}"
        if queries.changed(db, query, at, account_id, *told, day, day + 86_400):
            return
    query = "insert into audit (account_id, at, what, actor, device_id, subject_id, count) values (?, ?, ?, ?, ?, ?, 1)"
    queries.changed(db, query, account_id, at, *told)


def audit(db: sqlite3.Connection, account_id: AccountId, before: int, limit: int) -> list[Audited]:
    """Entries of an account, newest first."""
    query = (
        "select number, at, what, actor, device_id, subject_id, count from audit"
        " where account_id = ?1 and (?2 = 0 or number < ?2) order by number desc limit ?3"
    )
    return [Audited(*row) for row in db.execute(query, (account_id, before, limit))]


def audit_counts(db: sqlite3.Connection, what: str, since: float, limit: int) -> list[tuple[AccountId, int]]:
    """How often it happened, by account."""
    query = (
        "select account_id, sum(count) from audit where at >= ? and what = ?"
        " group by account_id order by 2 desc, account_id limit ?"
    )
    return cast("list[tuple[AccountId, int]]", db.execute(query, (since, what, limit)).fetchall())


def space_facts(db: sqlite3.Connection, account_id: AccountId) -> list[SpaceFacts]:
    """The account's spaces with what they hold, oldest first."""
    spaces = (
        f"select created_at, {queries.columns(Space)} from space where account_id = ? order by created_at, space_id"
    )
    # The change at the head is always kept, and live: only something later replaces it.
    counts = (
        "select count(*), coalesce(sum(head), 0), coalesce(max(appended_at_ms), 0) / 1000.0 from collection"
        " left join change indexed by change_live"
        " on change.collection = collection.number and seq = head and replaced_at is null"
        " where collection.account_id = ? and collection.space_id = ?"
    )
    growth = "select day, used_bytes from growth where account_id = ? and space_id = ? order by day"
    found = []
    for created_at, *values in db.execute(spaces, (account_id,)).fetchall():
        space = Space(*values)
        key = (account_id, space.space_id)
        collections, changes, last_change_at = db.execute(counts, key).fetchone()
        grown = db.execute(growth, key).fetchall()
        found.append(SpaceFacts(space, created_at, collections, changes, last_change_at, grown))
    return found


def note_growth(db: sqlite3.Connection, day: int) -> int:
    """Keep what every space uses, where it differs from what is kept last."""
    last = (
        "(select used_bytes from growth where growth.account_id = space.account_id"
        " and growth.space_id = space.space_id order by growth.day desc limit 1)"
    )
    query = (
        "insert into growth (account_id, space_id, day, used_bytes) select account_id, space_id, ?, used_bytes"
        f" from space where used_bytes is not {last}"
        " and account_id not in (select account_id from account where moving_to <> '')"
        " on conflict do update set used_bytes = excluded.used_bytes"
    )
    return queries.changed(db, query, day)


def begin_move(db: sqlite3.Connection, account_id: AccountId, url: str) -> bool:
    """Keep an account's devices out; one that is only arriving is none yet."""
    query = "update account set moving_to = ? where account_id = ? and moving_to <> ?"
    return queries.changed(db, query, url, account_id, ARRIVING) == 1


def end_move(db: sqlite3.Connection, account_id: AccountId, now: float) -> bool:
    """Remove a moving account but for where its devices find it."""
    account = queries.find_account(db, account_id)
    if account is None or account.moving_to in ("", ARRIVING):
        return False
    queries.changed(
        db,
        "insert or replace into moved (device_id, device_pk, url, moved_at)"
        " select device_id, device_pk, ?, ? from device where account_id = ? and revoked_at is null",
        account.moving_to,
        now,
        account_id,
    )
    queries.delete_account(db, account_id)
    return True


def must_be_free(db: sqlite3.Connection, account_id: AccountId) -> None:
    """An account that leaves cannot be deleted meanwhile; one that only half arrived can."""
    account = queries.find_account(db, account_id)
    if account is not None and account.moving_to not in ("", ARRIVING):
        raise Refusal("unavailable")


def forget(db: sqlite3.Connection, table: str, column: str, before: float) -> int:
    """Drop the rows that are older than that; how many."""
    return queries.changed(db, f"delete from {table} where {column} < ?", before)


def list_address(db: sqlite3.Connection, address_tag: bytes, kind: str | None, day: int) -> None:
    """Put an address on the list, or take it off."""
    queries.changed(db, "delete from listed where address_tag = ?", address_tag)
    if kind is not None:
        query = "insert into listed (address_tag, kind, listed_day) values (?, ?, ?)"
        queries.changed(db, query, address_tag, kind, day)


def note_all(db: sqlite3.Connection, happenings: Sequence[Happening]) -> None:
    """Keep all of them."""
    for happening in happenings:
        note(db, happening)
