"""What a hub that cannot read still notices: full accounts, silent devices, refused keys, missing backups.

Each finding is a sentence for a person, with the numbers it was made from beside it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from hub.store import Account, Store

MIB = 1_048_576
DAY_S = 86_400.0
NEAR_QUOTA = 0.9
SILENT_DAYS = 30
REFUSED_WITHIN_S = 30 * DAY_S
BACKUP_WITHIN_S = 7 * DAY_S
DUE_WITHIN_S = 7 * DAY_S
OF_A_KIND_MAX = 100
ID_DIGITS = 8  # of an id, in a sentence


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was noticed.  ``facts`` are JSON values; ids are 32 hex digits."""

    kind: str
    weight: Literal["warn", "note"]
    sentence: str
    facts: dict[str, Any] = field(default_factory=dict)


async def findings(
    store: Store, *, quota_bytes: int, last_backup_at: float | None, keeps_own_file: bool, now: float
) -> list[Finding]:
    """All findings at ``now``, the warnings first; of each kind no more than ``OF_A_KIND_MAX``.

    ``quota_bytes`` is the hub's default; ``keeps_own_file``: on SQLite, where a missing backup is a warning.
    """
    found = [
        *_backup(last_backup_at, keeps_own_file, now),
        *[_full(account, quota_bytes, now) for account in await _near(store, quota_bytes, now)],
        *[finding async for finding in _refused(store, now)],
        *[finding async for finding in _silent(store, now)],
        *[finding async for finding in _due(store, now)],
    ]
    return sorted(found, key=lambda finding: finding.weight != "warn")


def _backup(last_backup_at: float | None, keeps_own_file: bool, now: float) -> Iterator[Finding]:
    weight: Literal["warn", "note"] = "warn" if keeps_own_file else "note"
    remedy = "run: hub backup FILE"
    if last_backup_at is None:
        yield Finding("no_backup", weight, f"No backup was made with hub backup yet; {remedy}")
    elif now - last_backup_at > BACKUP_WITHIN_S:
        days = int((now - last_backup_at) // DAY_S)
        sentence = f"The last backup is {days} days old; {remedy}"
        yield Finding("old_backup", weight, sentence, {"days": days, "last_backup_at": last_backup_at})


async def _near(store: Store, quota_bytes: int, now: float) -> list[Account]:
    return await store.near_quota(NEAR_QUOTA, quota_bytes, now, OF_A_KIND_MAX)


def _full(account: Account, default_bytes: int, now: float) -> Finding:
    own = account.own_quota(now)
    quota = default_bytes if own is None else own
    facts = {"account_id": account.account_id.hex(), "used_bytes": account.used_bytes, "quota_bytes": quota}
    who = f"Account {_short(account.account_id)}"
    unpaid = account.paid_until is not None and account.paid_until <= now
    if unpaid and account.used_bytes > default_bytes:
        assert account.paid_until is not None
        sentence = (
            f"{who} was paid until {_day(account.paid_until)} and holds {_size(account.used_bytes)}, more than the"
            f" {_size(default_bytes)} it has now; it can read and delete, not add."
        )
        return Finding("unpaid", "warn", sentence, {**facts, "paid_until": account.paid_until})
    if account.used_bytes >= quota:
        return Finding("over_quota", "warn", f"{who} is full: {_size(account.used_bytes)} of {_size(quota)}.", facts)
    percent = account.used_bytes * 100 // quota
    sentence = f"{who} uses {percent} % of its {_size(quota)}."
    return Finding("near_quota", "note", sentence, {**facts, "percent": percent})


async def _refused(store: Store, now: float) -> AsyncIterator[Finding]:
    for what, kind in (("key_refused", "old_key_refused"), ("proof_refused", "proof_refused")):
        for account_id, count in await store.audit_counts(what, now - REFUSED_WITHIN_S, OF_A_KIND_MAX):
            times, who = "once" if count == 1 else f"{count:,} times", _short(account_id)
            if kind == "old_key_refused":
                why = f"An old key was refused {times} on account {who}: a device has not learnt the new one"
            else:
                why = f"A wrong key was tried {times} on account {who}: a mistake, or somebody guessing"
            yield Finding(kind, "warn", f"{why} (last 30 days).", {"account_id": account_id.hex(), "count": count})


async def _silent(store: Store, now: float) -> AsyncIterator[Finding]:
    today = int(now // DAY_S)
    for device in await store.silent_devices(today - SILENT_DAYS + 1, OF_A_KIND_MAX):
        if not device.tombstone_bytes:
            continue
        days = today - device.last_seen_day
        sentence = (
            f"A device of account {_short(device.account_id)} was last seen {days} days ago; "
            f"{_size(device.tombstone_bytes)} of deletions wait for it."
        )
        facts = {
            "account_id": device.account_id.hex(),
            "device_id": device.device_id.hex(),
            "days": days,
            "tombstone_bytes": device.tombstone_bytes,
        }
        yield Finding("silent_device", "note", sentence, facts)


async def _due(store: Store, now: float) -> AsyncIterator[Finding]:
    accounts, spaces = await store.due_deletions(now + DUE_WITHIN_S)
    for account_id in accounts[:OF_A_KIND_MAX]:
        account = await store.account(account_id)
        if account is None or account.deleted_at is None:
            continue  # cancelled, or done, a moment ago
        sentence = f"Account {_short(account_id)} will be deleted on {_day(account.deleted_at)}."
        yield Finding(
            "deletion_due", "note", sentence, {"account_id": account_id.hex(), "deleted_at": account.deleted_at}
        )
    for account_id, space_id in spaces[:OF_A_KIND_MAX]:
        sentence = f"A space of account {_short(account_id)} will be deleted within 7 days."
        yield Finding("deletion_due", "note", sentence, {"account_id": account_id.hex(), "space_id": space_id.hex()})


def _short(account_id: bytes) -> str:
    return account_id.hex()[:ID_DIGITS] + "…"


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def _size(count: int) -> str:
    """Bytes as people say them: 120 MiB, 3.4 GiB, 800 KiB."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            share = count / unit
            return f"{share:.0f} {name}" if share >= 100 or share == int(share) else f"{share:.1f} {name}"
    return f"{count} bytes"
