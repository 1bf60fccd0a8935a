"""The promises of the store in dictionaries: the model the other keepers are compared with.

It is meant to be obviously right rather than fast.  No method awaits anything, so
each is one transaction by itself.  Nothing survives the process; ``close`` and
``open`` keep what is there, as a restart would.
"""

from __future__ import annotations

import bisect
import copy
import hashlib
import itertools
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

from hub.errors import Refusal, StoreUnavailable
from hub.store import (
    ARRIVING,
    Account,
    AccountFacts,
    Answer,
    Append,
    Appended,
    Arrival,
    Attempt,
    Audited,
    Charge,
    CollectionState,
    Device,
    Draft,
    Happening,
    Invite,
    MovedDevice,
    Operator,
    Page,
    PageOf,
    Row,
    SilentDevice,
    Space,
    SpaceFacts,
    StatesOf,
    Store,
    Terms,
    Totals,
)
from hub.store.loading import CLAIM, Loading
from hub.store.rows import TABLES
from hub.terms import (
    FREEING_KINDS,
    ID_BYTES,
    LOG_KINDS,
    ZERO_ID,
    AccountId,
    Change,
    CollectionId,
    CollectionKey,
    DeviceId,
    Incarnation,
    Kind,
    Limits,
    Policy,
    RecordId,
    Seq,
    SpaceId,
    Span,
)
from hub.wire.header import Header, parse_header

K = TypeVar("K")
V = TypeVar("V")

CONTENT = frozenset({Kind.PUT, Kind.DELETE, Kind.DELTA})
# What a change replaces: live changes of the same record and these kinds.
REPLACES = {
    Kind.PUT: CONTENT,
    Kind.DELETE: CONTENT,
    Kind.DELTA: frozenset[Kind](),
    Kind.KEYRING: frozenset({Kind.KEYRING}),
    Kind.PURGE: frozenset({Kind.PURGE}),
    Kind.WIPE: frozenset[Kind](),  # it removes everything anyway
}


class _Kept(NamedTuple):
    change: Change
    header: Header
    replaced_at: float | None  # None = live


@dataclass
class _Log:
    head: Seq = 0
    used_bytes: int = 0
    changes: dict[Seq, _Kept] = field(default_factory=dict)  # in seq order
    records: dict[RecordId, list[Seq]] = field(default_factory=dict)  # the kept changes of each, in seq order
    counters: dict[DeviceId, int] = field(default_factory=dict)
    # Of every change ever appended and not wiped, kept or not: its seq and hash.
    answers: dict[tuple[DeviceId, int], tuple[Seq, bytes]] = field(default_factory=dict)
    witnesses: dict[DeviceId, tuple[int, bytes]] = field(default_factory=dict)

    def add(self, kept: _Kept) -> None:
        self.changes[kept.change.seq] = kept
        self.records.setdefault(kept.header.record_id, []).append(kept.change.seq)
        self.used_bytes += len(kept.change.sealed)

    def drop(self, seq: Seq) -> None:
        kept = self.changes.pop(seq)
        self.records[kept.header.record_id].remove(seq)
        if not self.records[kept.header.record_id]:
            del self.records[kept.header.record_id]
        self.used_bytes -= len(kept.change.sealed)

    def of_record(self, record_id: RecordId) -> list[_Kept]:
        return [self.changes[seq] for seq in self.records.get(record_id, ())]

    def live(self, record_id: RecordId, kinds: Collection[Kind]) -> list[_Kept]:
        return [kept for kept in self.of_record(record_id) if kept.replaced_at is None and kept.header.kind in kinds]


@dataclass
class _Space:
    space: Space
    created_at: float
    logs: dict[CollectionId, _Log] = field(default_factory=dict)

    def used_bytes(self) -> int:
        return sum(log.used_bytes for log in self.logs.values())

    def seen(self) -> Space:
        return replace(self.space, used_bytes=self.used_bytes())


class MemoryStore:
    """Keeps everything in this process."""

    reads_apart = True  # as the keeper that it stands for in tests

    def __init__(self, *, limits: Limits | None = None, quota_bytes: int | None = None) -> None:
        self._limits = limits or Limits()
        self._quota_bytes = Policy().quota_bytes if quota_bytes is None else quota_bytes
        self._opened = False
        self._incarnation: Incarnation = secrets.token_bytes(ID_BYTES)
        self._claims: dict[str, bytes] = {}
        self._memos: dict[str, bytes] = {}
        self._session_orders = itertools.count(1)
        self._tag_generation = 0
        self._accounts: dict[AccountId, Account] = {}
        self._tags: dict[AccountId, bytes] = {}
        self._devices: dict[DeviceId, Device] = {}
        self._spaces: dict[tuple[AccountId, SpaceId], _Space] = {}
        self._spent: dict[bytes, list[float]] = {}  # when, oldest first
        self._attempts: dict[bytes, Attempt] = {}
        self._invites: dict[bytes, tuple[float, float | None]] = {}  # expires_at, used_at
        self._listed: dict[bytes, tuple[str, int]] = {}  # kind, day
        self._operators: dict[AccountId, Operator] = {}
        self._audit: dict[AccountId, list[Audited]] = {}  # by number
        self._growth: dict[tuple[AccountId, SpaceId], dict[int, int]] = {}
        self._moved: dict[DeviceId, MovedDevice] = {}
        self._loading = Loading()

    # --- life ---

    async def open(self) -> None:
        """Ready to serve what was there before."""
        self._opened = True

    async def close(self) -> None:
        """Answer no more until opened again."""
        self._opened = False

    async def ping(self) -> None:
        """Answers while open."""
        self._must_be_open()

    async def incarnation(self) -> Incarnation:
        """The name of this life of the log."""
        self._must_be_open()
        return self._incarnation

    async def renew_incarnation(self) -> Incarnation:
        """A new name for it."""
        self._must_be_open()
        self._incarnation = secrets.token_bytes(ID_BYTES)
        return self._incarnation

    async def claim(self, name: str, value: bytes) -> bytes:
        """As promised."""
        self._must_be_open()
        return self._claims.setdefault(name, value)

    async def session_orders(self, count: int) -> list[int]:
        """As promised."""
        self._must_be_open()
        return list(itertools.islice(self._session_orders, count))

    async def remember(self, name: str, value: bytes) -> None:
        """As promised."""
        self._must_be_open()
        self._memos[name] = value

    async def recall(self, name: str) -> bytes | None:
        """As promised."""
        self._must_be_open()
        return self._memos.get(name)

    def _must_be_open(self) -> None:
        if not self._opened:
            raise StoreUnavailable("the store is not open")

    # --- the log ---

    async def append(self, appends: Sequence[Append], now: float) -> list[Appended]:
        """As promised; the batch is one transaction because nothing here awaits."""
        self._must_be_open()
        return [self._append(append, now) for append in appends]

    def _append(self, append: Append, now: float) -> Appended:
        device = self._own_device(append.account_id, append.device_id)
        if device is None:
            return Appended([], closing="revoked")
        if closing := self._accounts[append.account_id].closing():
            return Appended([], closing=closing)
        space = self._spaces.get((append.account_id, append.space_id))
        if space is None:
            refused = [Answer(code="not_found") for _ in append.drafts]
            return Appended(refused, used_bytes=self._used_bytes(append.account_id))
        before = copy.deepcopy(space.logs) if append.atomic else {}
        fresh: list[tuple[CollectionId, Change]] = []
        answers = [self._judge(space, draft, now, fresh) for draft in append.drafts]
        if append.atomic and any(answer.code for answer in answers):
            space.logs = before
            answers = _undone(append, answers, fresh)
            fresh = []
        return Appended(answers, fresh, self._used_bytes(append.account_id))

    def _judge(self, space: _Space, draft: Draft, now: float, fresh: list[tuple[CollectionId, Change]]) -> Answer:
        header = draft.header
        assert header.kind in LOG_KINDS, "witnesses are not appended"
        log = space.logs.get(header.collection_id) or _Log()
        last = log.counters.get(header.device_id, 0)
        if header.counter <= last:
            return _first_answer(log, draft)
        if header.counter > last + 1:
            return Answer(code="out_of_order")
        if header.conditional and (conflict := _conflict(log, header)):
            return conflict
        if log.head == 0 and len(space.logs) >= self._limits.collections_per_space_max:
            return Answer(code="too_many")
        if header.kind not in FREEING_KINDS and self._is_full(space.space.account_id, len(draft.sealed), now):
            return Answer(code="quota_exceeded")
        space.logs[header.collection_id] = log
        change = _keep(log, draft, now)
        fresh.append((header.collection_id, change))
        return Answer(change.seq)

    def _is_full(self, account_id: AccountId, more_bytes: int, now: float) -> bool:
        own = self._accounts[account_id].own_quota(now)
        quota = self._quota_bytes if own is None else own
        return self._used_bytes(account_id) + more_bytes > quota

    def _used_bytes(self, account_id: AccountId) -> int:
        return sum(space.used_bytes() for space in self._spaces_of(account_id))

    def _log(self, key: CollectionKey) -> _Log | None:
        space = self._spaces.get((key.account_id, key.space_id))
        return space.logs.get(key.collection_id) if space else None

    async def read(self, key: CollectionKey, after: Seq, *, live_only: bool, changes_max: int, bytes_max: int) -> Page:
        """As promised."""
        self._must_be_open()
        log = self._log(key) or _Log()
        page: list[Change] = []
        page_bytes = 0
        for kept in log.changes.values():
            if kept.change.seq <= after or (live_only and kept.replaced_at is not None):
                continue
            page_bytes += len(kept.change.sealed)
            if len(page) == changes_max or (page and page_bytes > bytes_max):
                return Page(page, page[-1].seq, log.head)
            page.append(kept.change)
        return Page(page, log.head, log.head)

    async def states(
        self,
        account_id: AccountId,
        space_id: SpaceId,
        device_id: DeviceId,
        collection_ids: Collection[CollectionId] | None,
    ) -> list[CollectionState]:
        """As promised."""
        self._must_be_open()
        space = self._spaces.get((account_id, space_id))
        logs = space.logs if space else {}
        asked = logs if collection_ids is None else collection_ids
        return [_state(collection_id, logs.get(collection_id), device_id) for collection_id in asked]

    async def states_of(self, asked: Sequence[StatesOf]) -> list[list[CollectionState]]:
        """As promised."""
        return [await self.states(*each) for each in asked]

    async def read_each(self, asked: Sequence[PageOf], *, changes_max: int, bytes_max: int) -> list[Page]:
        """As promised."""
        return [
            await self.read(key, after, live_only=live_only, changes_max=changes_max, bytes_max=bytes_max)
            for key, after, live_only in asked
        ]

    async def heads(self, keys: Sequence[CollectionKey]) -> list[Seq]:
        """As promised."""
        self._must_be_open()
        return [log.head if (log := self._log(key)) else 0 for key in keys]

    async def history(
        self, key: CollectionKey, record_id: RecordId, *, before: Seq, limit: int
    ) -> tuple[list[Change], bool]:
        """As promised."""
        self._must_be_open()
        log = self._log(key) or _Log()
        older = [kept.change for kept in reversed(log.of_record(record_id)) if before == 0 or kept.change.seq < before]
        return older[:limit], len(older) > limit

    async def put_witness(self, key: CollectionKey, device_id: DeviceId, counter: int, sealed: bytes) -> bool:
        """As promised."""
        self._must_be_open()
        log = self._log(key)
        if log is None or counter >= 2**63 or self._own_device(key.account_id, device_id) is None:
            return False
        if self._accounts[key.account_id].suspended_at is not None:
            return False
        self._must_stay(key.account_id)
        if device_id in log.witnesses and counter <= log.witnesses[device_id][0]:
            return False
        log.witnesses[device_id] = (counter, sealed)
        return True

    async def witnesses(self, key: CollectionKey) -> list[tuple[DeviceId, bytes]]:
        """As promised, by device id."""
        self._must_be_open()
        log = self._log(key) or _Log()
        return [(device_id, sealed) for device_id, (_, sealed) in sorted(log.witnesses.items())]

    async def witnesses_of(self, keys: Sequence[CollectionKey]) -> list[list[tuple[DeviceId, bytes]]]:
        """As promised, each by device id."""
        return [await self.witnesses(key) for key in keys]

    async def compact(self, replaced_before: float, limit: int) -> int:
        """As promised, the longest replaced first."""
        self._must_be_open()
        old = [
            (kept.replaced_at, log, seq)
            for space in self._spaces.values()
            if not self._accounts[space.space.account_id].moving_to
            for log in space.logs.values()
            for seq, kept in log.changes.items()
            if kept.replaced_at is not None and kept.replaced_at < replaced_before
        ]
        old.sort(key=lambda entry: entry[0])
        for _, log, seq in old[:limit]:
            log.drop(seq)
        return len(old[:limit])

    # --- spaces ---

    async def create_space(self, space: Space, spaces_max: int, now: float) -> Space:
        """As promised."""
        self._must_be_open()
        if space.account_id not in self._accounts:
            raise Refusal("not_found")
        self._must_stay(space.account_id)
        there = self._spaces.get((space.account_id, space.space_id))
        if there is not None:
            if there.space.space_pk != space.space_pk:
                raise Refusal("bad_space_proof")
            return there.seen()
        if len(self._spaces_of(space.account_id)) >= spaces_max:
            raise Refusal("too_many")
        kept = _Space(replace(space, used_bytes=0, deleted_at=None), now)
        self._spaces[space.account_id, space.space_id] = kept
        return kept.seen()

    async def spaces(self, account_id: AccountId) -> list[Space]:
        """As promised."""
        self._must_be_open()
        oldest_first = sorted(self._spaces_of(account_id), key=lambda each: (each.created_at, each.space.space_id))
        return [space.seen() for space in oldest_first]

    def _spaces_of(self, account_id: AccountId) -> list[_Space]:
        return [space for (owner, _), space in self._spaces.items() if owner == account_id]

    async def schedule_space_deletion(self, account_id: AccountId, space_id: SpaceId, at: float | None) -> bool:
        """As promised."""
        self._must_be_open()
        space = self._spaces.get((account_id, space_id))
        if space is None:
            return False
        self._must_stay(account_id)
        space.space = replace(space.space, deleted_at=at)
        return True

    async def delete_space(self, account_id: AccountId, space_id: SpaceId) -> bool:
        """As promised."""
        self._must_be_open()
        if (account_id, space_id) not in self._spaces:
            return False
        self._must_stay(account_id)
        del self._spaces[account_id, space_id]
        self._growth.pop((account_id, space_id), None)
        return True

    async def space_facts(self, account_id: AccountId) -> list[SpaceFacts]:
        """As promised."""
        self._must_be_open()
        return [self._facts_of(self._spaces[account_id, space.space_id]) for space in await self.spaces(account_id)]

    def _facts_of(self, space: _Space) -> SpaceFacts:
        heads = [log.changes[log.head] for log in space.logs.values() if log.head in log.changes]
        return SpaceFacts(
            space.seen(),
            space.created_at,
            len(space.logs),
            sum(log.head for log in space.logs.values()),
            max((kept.change.appended_at_ms / 1000 for kept in heads), default=0.0),
            sorted(self._growth.get((space.space.account_id, space.space.space_id), {}).items()),
        )

    async def note_growth(self, day: int) -> int:
        """As promised."""
        self._must_be_open()
        noted = 0
        for key, space in self._spaces.items():
            kept = self._growth.get(key, {})
            if self._accounts[key[0]].moving_to or (kept and kept[max(kept)] == space.used_bytes()):
                continue
            self._growth.setdefault(key, {})[day] = space.used_bytes()
            noted += 1
        return noted

    async def forget_growth(self, before_day: int) -> int:
        """As promised."""
        self._must_be_open()
        kept = {key: _without(days, lambda day, _: day < before_day) for key, days in self._growth.items()}
        forgotten = sum(map(len, self._growth.values())) - sum(map(len, kept.values()))
        self._growth = _without(kept, lambda _, days: not days)
        return forgotten

    # --- accounts and devices ---

    async def spend(self, charges: Sequence[Charge], now: float, *, count: bool = True) -> float:
        """As promised."""
        self._must_be_open()
        wait = max((_wait(self._spent.get(charge.key, []), charge.spans, now) for charge in charges), default=0.0)
        if count and not wait:
            for charge in charges:
                bisect.insort(self._spent.setdefault(charge.key, []), now)
        return wait

    async def forget_spent(self, before: float) -> int:
        """As promised."""
        self._must_be_open()
        kept = {key: [at for at in times if at >= before] for key, times in self._spent.items()}
        forgotten = sum(map(len, self._spent.values())) - sum(map(len, kept.values()))
        self._spent = _without(kept, lambda _, times: not times)
        return forgotten

    async def add_attempt(self, attempt: Attempt) -> None:
        """As promised."""
        self._must_be_open()
        self._attempts[attempt.attempt_id] = attempt

    async def note_resend(
        self, attempt_id: bytes, device_pk: bytes, now: float, *, not_before_s: float, sends_max: int
    ) -> Attempt | None:
        """As promised."""
        attempt = self._live_attempt(attempt_id, now)
        if attempt is None or attempt.device_pk != device_pk:
            return None
        if attempt.sends >= sends_max or now - attempt.sent_at < not_before_s:
            return None
        return self._put_attempt(replace(attempt, sends=attempt.sends + 1, sent_at=now))

    async def charge_attempt(self, attempt_id: bytes, now: float, tries_max: int) -> Attempt | None:
        """As promised."""
        attempt = self._live_attempt(attempt_id, now)
        if attempt is None or attempt.tries >= tries_max:
            return None
        return self._put_attempt(replace(attempt, tries=attempt.tries + 1))

    async def consume_attempt(self, attempt_id: bytes, now: float) -> bool:
        """As promised."""
        attempt = self._live_attempt(attempt_id, now)
        if attempt is None:
            return False
        self._put_attempt(replace(attempt, consumed_at=now))
        return True

    def _live_attempt(self, attempt_id: bytes, now: float) -> Attempt | None:
        self._must_be_open()
        attempt = self._attempts.get(attempt_id)
        if attempt is None or attempt.consumed_at is not None or attempt.expires_at <= now:
            return None
        return attempt

    def _put_attempt(self, attempt: Attempt) -> Attempt:
        self._attempts[attempt.attempt_id] = attempt
        return attempt

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
        """As promised."""
        attempt = self._live_attempt(attempt_id, now)
        if attempt is None:
            raise Refusal("enrol_failed")
        if new_account is None:
            if self._tags.get(device.account_id) != address_tag:
                raise Refusal("enrol_failed")
        else:
            self._check_new_account(attempt, new_account, address_tag, first_only=first_only, now=now)
        self._must_stay(device.account_id)
        self._check_device(device, per_account_max, per_app_max)
        if new_account is not None:
            self._accounts[new_account.account_id] = new_account
            self._tags[new_account.account_id] = address_tag
            if attempt.invite is not None:
                self._invites[attempt.invite] = (self._invites[attempt.invite][0], now)
        self._devices[device.device_id] = device
        self._put_attempt(replace(attempt, consumed_at=now))

    def _check_new_account(
        self, attempt: Attempt, account: Account, address_tag: bytes, *, first_only: bool, now: float
    ) -> None:
        if account.account_id in self._accounts or address_tag in self._tags.values():
            raise Refusal("enrol_failed")
        if first_only and self._accounts:
            raise Refusal("enrol_failed")
        if attempt.invite is not None and not self._invite_is_open(attempt.invite, now):
            raise Refusal("enrol_failed")

    def _check_device(self, device: Device, per_account_max: int, per_app_max: int) -> None:
        taken = (other.device_pk == device.device_pk for other in self._devices.values())
        if device.device_id in self._devices or any(taken):
            raise Refusal("device_exists")
        others = self._devices_of(device.account_id)
        of_app = [other for other in others if other.app_id == device.app_id]
        if len(others) >= per_account_max or len(of_app) >= per_app_max:
            raise Refusal("too_many")

    async def add_device(self, device: Device, *, per_account_max: int, per_app_max: int) -> None:
        """As promised."""
        self._must_be_open()
        if device.account_id not in self._accounts:
            raise Refusal("enrol_failed")
        self._must_stay(device.account_id)
        self._check_device(device, per_account_max, per_app_max)
        self._devices[device.device_id] = device

    async def find_account(self, address_tag: bytes) -> Account | None:
        """As promised."""
        self._must_be_open()
        for account_id, tag in self._tags.items():
            if tag == address_tag:
                return await self.account(account_id)
        return None

    async def account(self, account_id: AccountId) -> Account | None:
        """As promised."""
        self._must_be_open()
        account = self._accounts.get(account_id)
        return account and replace(account, used_bytes=self._used_bytes(account_id))

    async def count_accounts(self) -> int:
        """As promised."""
        self._must_be_open()
        return len(self._accounts)

    async def device(self, device_id: DeviceId) -> Device | None:
        """As promised."""
        self._must_be_open()
        return self._devices.get(device_id)

    async def arrivals(self, device_ids: Sequence[DeviceId]) -> list[Arrival | MovedDevice | None]:
        """As promised."""
        return [await self._arrival(device_id) for device_id in device_ids]

    async def _arrival(self, device_id: DeviceId) -> Arrival | MovedDevice | None:
        device = await self.device(device_id)
        if device is None or device.revoked_at is not None:
            return await self.moved_device(device_id)
        account = await self.account(device.account_id)
        assert account is not None
        return Arrival(device, account, await self.spaces(device.account_id))

    async def devices(self, account_id: AccountId) -> list[Device]:
        """As promised."""
        self._must_be_open()
        return sorted(self._devices_of(account_id), key=lambda device: (device.enrolled_at, device.device_id))

    def _devices_of(self, account_id: AccountId) -> list[Device]:
        return [each for each in self._devices.values() if each.account_id == account_id and each.revoked_at is None]

    def _own_device(self, account_id: AccountId, device_id: DeviceId) -> Device | None:
        device = self._devices.get(device_id)
        return device if device and device.account_id == account_id and device.revoked_at is None else None

    async def revoke(self, account_id: AccountId, device_ids: Collection[DeviceId], now: float) -> list[DeviceId]:
        """As promised."""
        self._must_be_open()
        self._must_stay(account_id)
        revoked = []
        for device_id in device_ids:
            device = self._own_device(account_id, device_id)
            if device is not None:
                self._devices[device_id] = replace(device, revoked_at=now)
                revoked.append(device_id)
        return revoked

    async def stopped_among(self, device_ids: Collection[DeviceId]) -> dict[DeviceId, str]:
        """As promised."""
        self._must_be_open()
        closings = {device_id: self._closing(device_id) for device_id in device_ids}
        return _without(closings, lambda _, closing: not closing)

    def _closing(self, device_id: DeviceId) -> str:
        device = self._devices.get(device_id)
        if device is None or device.revoked_at is not None:
            return "revoked"
        return self._accounts[device.account_id].closing()

    async def approve(self, account_id: AccountId, device_id: DeviceId) -> bool:
        """As promised; a revoked device is no device."""
        self._must_be_open()
        device = self._own_device(account_id, device_id)
        if device is None:
            return False
        self._must_stay(account_id)
        self._devices[device_id] = replace(device, probation_until=None)
        return True

    async def note_seen(self, device_ids: Collection[DeviceId], day: int) -> None:
        """As promised; an earlier day changes nothing, nor does any for an account that is moving."""
        self._must_be_open()
        for device_id in device_ids:
            device = self._devices.get(device_id)
            if device is not None and device.last_seen_day < day and not self._accounts[device.account_id].moving_to:
                self._devices[device_id] = replace(device, last_seen_day=day)

    async def schedule_account_deletion(self, account_id: AccountId, at: float | None) -> bool:
        """As promised."""
        self._must_be_open()
        if account_id not in self._accounts:
            return False
        self._must_stay(account_id)
        self._accounts[account_id] = replace(self._accounts[account_id], deleted_at=at)
        return True

    async def delete_account(self, account_id: AccountId) -> bool:
        """As promised; the attempts of its address go with it.  One that only half arrived can be deleted too."""
        self._must_be_open()
        if account_id not in self._accounts:
            return False
        if self._accounts[account_id].moving_to != ARRIVING:
            self._must_stay(account_id)
        self._remove(account_id)
        return True

    def _remove(self, account_id: AccountId) -> None:
        del self._accounts[account_id]
        tag = self._tags.pop(account_id)
        self._operators.pop(account_id, None)
        self._audit.pop(account_id, None)
        self._devices = _without(self._devices, lambda _, device: device.account_id == account_id)
        self._spaces = _without(self._spaces, lambda key, _: key[0] == account_id)
        self._growth = _without(self._growth, lambda key, _: key[0] == account_id)
        self._attempts = _without(self._attempts, lambda _, attempt: attempt.address_tag == tag)

    def _must_stay(self, account_id: AccountId) -> None:
        """Nothing of an account that is moving may change."""
        if account_id in self._accounts and self._accounts[account_id].moving_to:
            raise Refusal("unavailable")

    async def due_deletions(self, now: float) -> tuple[list[AccountId], list[tuple[AccountId, SpaceId]]]:
        """As promised, the longest due first; an account that is moving is not due, nor are its spaces."""
        self._must_be_open()
        accounts = [
            (each.deleted_at, each.account_id)
            for each in self._accounts.values()
            if _due(each.deleted_at, now) and not each.moving_to
        ]
        spaces = [
            (each.space.deleted_at, key)
            for key, each in self._spaces.items()
            if _due(each.space.deleted_at, now) and not self._accounts[key[0]].moving_to
        ]
        return [account_id for _, account_id in sorted(accounts)], [key for _, key in sorted(spaces)]

    async def add_invite(self, token_hash: bytes, expires_at: float) -> None:
        """As promised; one that is there stays as it is."""
        self._must_be_open()
        self._invites.setdefault(token_hash, (expires_at, None))

    async def invite_is_open(self, token_hash: bytes, now: float) -> bool:
        """As promised."""
        self._must_be_open()
        return self._invite_is_open(token_hash, now)

    def _invite_is_open(self, token_hash: bytes, now: float) -> bool:
        if token_hash not in self._invites:
            return False
        expires_at, used_at = self._invites[token_hash]
        return used_at is None and expires_at > now

    async def invites(self) -> list[Invite]:
        """As promised."""
        self._must_be_open()
        kept = [Invite(token_hash, *times) for token_hash, times in sorted(self._invites.items())]
        return sorted(kept, key=lambda invite: -invite.expires_at)

    async def withdraw_invite(self, token_hash: bytes) -> bool:
        """As promised."""
        self._must_be_open()
        if self._invites.get(token_hash, (0.0, 0.0))[1] is not None:
            return False
        del self._invites[token_hash]
        return True

    async def list_address(self, address_tag: bytes, kind: str | None, day: int) -> None:
        """As promised."""
        self._must_be_open()
        self._listed.pop(address_tag, None)
        if kind is not None:
            self._listed[address_tag] = (kind, day)

    async def listed(self, address_tag: bytes) -> str | None:
        """As promised."""
        self._must_be_open()
        return self._listed.get(address_tag, (None, 0))[0]

    async def count_listed(self) -> dict[str, int]:
        """As promised."""
        self._must_be_open()
        kinds = [kind for kind, _ in self._listed.values()]
        return {kind: kinds.count(kind) for kind in ("allowed", "blocked")}

    async def change_address(self, attempt_id: bytes, account_id: AccountId, now: float) -> None:
        """As promised; the attempts of the old address go."""
        attempt = self._live_attempt(attempt_id, now)
        if attempt is None:
            raise Refusal("enrol_failed")
        if account_id not in self._accounts:
            raise Refusal("not_found")
        self._must_stay(account_id)
        if any(tag == attempt.address_tag and owner != account_id for owner, tag in self._tags.items()):
            raise Refusal("enrol_failed")
        self._put_attempt(replace(attempt, consumed_at=now))
        old = self._tags[account_id]
        if old != attempt.address_tag:
            self._attempts = _without(self._attempts, lambda _, each: each.address_tag == old)
        self._tags[account_id] = attempt.address_tag
        self._accounts[account_id] = replace(self._accounts[account_id], address_known=True)

    # --- for the operator ---

    async def accounts(self, *, after: AccountId = b"", limit: int, matching: str = "") -> list[AccountFacts]:
        """As promised."""
        self._must_be_open()
        found = [
            account_id
            for account_id, account in sorted(self._accounts.items())
            if account_id > after and (account_id.hex().startswith(matching.lower()) or account.billing_ref == matching)
        ]
        return [self._account_facts(account_id) for account_id in found[:limit]]

    def _account_facts(self, account_id: AccountId) -> AccountFacts:
        account = replace(self._accounts[account_id], used_bytes=self._used_bytes(account_id))
        devices = self._devices_of(account_id)
        last_seen_day = max((device.last_seen_day for device in devices), default=0)
        return AccountFacts(account, len(devices), len(self._spaces_of(account_id)), last_seen_day)

    async def totals(self) -> Totals:
        """As promised."""
        self._must_be_open()
        return Totals(
            len(self._accounts),
            sum(account.suspended_at is not None for account in self._accounts.values()),
            sum(device.revoked_at is None for device in self._devices.values()),
            len(self._spaces),
            sum(len(space.logs) for space in self._spaces.values()),
            sum(space.used_bytes() for space in self._spaces.values()),
        )

    async def set_terms(self, account_id: AccountId, terms: Terms) -> bool:
        """As promised."""
        self._must_be_open()
        if account_id not in self._accounts:
            return False
        self._must_be_free(terms.billing_ref, account_id)
        self._accounts[account_id] = replace(
            self._accounts[account_id],
            quota_bytes=terms.quota_bytes,
            plan=terms.plan,
            billing_ref=terms.billing_ref,
            paid_until=terms.paid_until,
        )
        return True

    def _must_be_free(self, billing_ref: str | None, account_id: AccountId) -> None:
        others = (each for each in self._accounts.values() if each.account_id != account_id)
        if billing_ref is not None and any(other.billing_ref == billing_ref for other in others):
            raise Refusal("bad_request", "another account has this billing_ref")

    async def suspend(self, account_id: AccountId, at: float | None) -> bool:
        """As promised."""
        self._must_be_open()
        if account_id not in self._accounts:
            return False
        self._accounts[account_id] = replace(self._accounts[account_id], suspended_at=at)
        return True

    async def near_quota(self, share: float, default_quota: int, now: float, limit: int) -> list[Account]:
        """As promised."""
        self._must_be_open()
        full = []
        for account_id in self._accounts:
            account = self._account_facts(account_id).account
            own = account.own_quota(now)
            quota = default_quota if own is None else own
            if account.used_bytes >= share * quota:
                full.append((-account.used_bytes / max(quota, 1), account_id, account))
        return [account for _, _, account in sorted(full)[:limit]]

    async def silent_devices(self, seen_before_day: int, limit: int) -> list[SilentDevice]:
        """As promised."""
        self._must_be_open()
        silent = [
            SilentDevice(
                device.account_id,
                device.device_id,
                device.app_id,
                device.last_seen_day,
                self._tombstone_bytes(device.account_id, device.app_id),
            )
            for device in self._devices.values()
            if device.revoked_at is None and device.last_seen_day < seen_before_day
        ]
        return sorted(silent, key=lambda each: (-each.tombstone_bytes, each.last_seen_day, each.device_id))[:limit]

    def _tombstone_bytes(self, account_id: AccountId, app_id: str) -> int:
        return sum(
            len(kept.change.sealed)
            for space in self._spaces_of(account_id)
            if space.space.app_id == app_id
            for log in space.logs.values()
            for kept in log.changes.values()
            if kept.header.kind is Kind.DELETE and kept.replaced_at is None
        )

    async def make_operator(self, account_id: AccountId, salt: bytes, now: float) -> bool:
        """As promised."""
        self._must_be_open()
        if account_id not in self._accounts:
            return False
        self._operators[account_id] = Operator(account_id, salt, now, 0)
        return True

    async def drop_operator(self, account_id: AccountId) -> bool:
        """As promised."""
        self._must_be_open()
        return self._operators.pop(account_id, None) is not None

    async def operators(self) -> list[Operator]:
        """As promised."""
        self._must_be_open()
        return sorted(self._operators.values(), key=lambda each: (each.since, each.account_id))

    async def take_step(self, account_id: AccountId, step: int) -> bool:
        """As promised."""
        self._must_be_open()
        operator = self._operators.get(account_id)
        if operator is None or step <= operator.last_step:
            return False
        self._operators[account_id] = operator._replace(last_step=step)
        return True

    # --- what happened ---

    async def note(self, happenings: Sequence[Happening]) -> None:
        """As promised."""
        self._must_be_open()
        for happening in happenings:
            if happening.account_id in self._accounts:
                self._note(happening)

    def _note(self, happening: Happening) -> None:
        _, at, what, actor, device_id, subject_id, adds_up = happening
        entries = self._audit.setdefault(happening.account_id, [])
        for place in reversed(range(len(entries) if adds_up else 0)):
            there = entries[place]
            if there[2:6] == (what, actor, device_id, subject_id) and there.at // 86_400 == at // 86_400:
                entries[place] = there._replace(at=max(there.at, at), count=there.count + 1)
                return
        entries.append(Audited(self._next_number(), at, what, actor, device_id, subject_id, 1))

    def _next_number(self) -> int:
        return 1 + max((entries[-1].number for entries in self._audit.values() if entries), default=0)

    async def audit(self, account_id: AccountId, *, before: int, limit: int) -> list[Audited]:
        """As promised."""
        self._must_be_open()
        entries = self._audit.get(account_id, [])
        return [entry for entry in reversed(entries) if before == 0 or entry.number < before][:limit]

    async def audit_counts(self, what: str, since: float, limit: int) -> list[tuple[AccountId, int]]:
        """As promised."""
        self._must_be_open()
        counts: Counter[AccountId] = Counter()
        for account_id, entries in self._audit.items():
            for entry in entries:
                if entry.what == what and entry.at >= since:
                    counts[account_id] += entry.count
        return sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:limit]

    async def forget_audit(self, before: float) -> int:
        """As promised."""
        self._must_be_open()
        kept = {
            account_id: [each for each in entries if each.at >= before] for account_id, entries in self._audit.items()
        }
        forgotten = sum(map(len, self._audit.values())) - sum(map(len, kept.values()))
        self._audit = _without(kept, lambda _, entries: not entries)
        return forgotten

    # --- moving, backing up ---

    async def begin_move(self, account_id: AccountId, url: str) -> bool:
        """As promised; one that is only arriving is none yet."""
        self._must_be_open()
        if account_id not in self._accounts or self._accounts[account_id].moving_to == ARRIVING:
            return False
        self._accounts[account_id] = replace(self._accounts[account_id], moving_to=url)
        return True

    async def end_move(self, account_id: AccountId, now: float) -> bool:
        """As promised."""
        self._must_be_open()
        url = self._accounts[account_id].moving_to if account_id in self._accounts else ""
        if url in ("", ARRIVING):
            return False
        for device in self._devices_of(account_id):
            self._moved[device.device_id] = MovedDevice(device.device_id, device.device_pk, url, now)
        self._remove(account_id)
        return True

    async def moved_device(self, device_id: DeviceId) -> MovedDevice | None:
        """As promised."""
        self._must_be_open()
        return self._moved.get(device_id)

    async def forget_moved(self, before: float) -> int:
        """As promised."""
        self._must_be_open()
        kept = _without(self._moved, lambda _, moved: moved.moved_at < before)
        forgotten = len(self._moved) - len(kept)
        self._moved = kept
        return forgotten

    @asynccontextmanager
    async def dump(self, account_ids: Collection[AccountId] | None = None) -> AsyncIterator[AsyncIterator[Row]]:
        """As promised, from a copy of everything; the rows of a table come by their keys."""
        self._must_be_open()
        rows = [] if account_ids is not None else list(self._hub_rows())
        for account_id in sorted(self._accounts if account_ids is None else set(account_ids) & set(self._accounts)):
            rows += self._account_rows(account_id)

        async def one_by_one() -> AsyncIterator[Row]:
            for row in rows:
                self._must_be_open()
                yield row

        yield one_by_one()

    def _hub_rows(self) -> Iterator[Row]:
        of_itself = {"incarnation": self._incarnation, "tag_generation": b"%d" % self._tag_generation}
        for key, value in sorted(
            (of_itself | {f"{CLAIM}{name}": value for name, value in self._claims.items()}).items()
        ):
            yield "hub", (key, value)
        for token_hash, times in sorted(self._invites.items()):
            yield "invite", (token_hash, *times)
        for address_tag, (kind, day) in sorted(self._listed.items()):
            yield "listed", (address_tag, kind, day)

    def _account_rows(self, account_id: AccountId) -> Iterator[Row]:
        yield _row("account", self._accounts[account_id], address_tag=self._tags[account_id])
        if account_id in self._operators:
            yield "operator", tuple(self._operators[account_id])
        for device in sorted(self._devices.values(), key=lambda each: each.device_id):
            if device.account_id == account_id:
                yield _row("device", device)
        spaces = sorted(self._spaces_of(account_id), key=lambda each: each.space.space_id)
        for space in spaces:
            yield _row("space", space.space, created_at=space.created_at)
        for space in spaces:
            key = (account_id, space.space.space_id)
            for growth in sorted(self._growth.get(key, {}).items()):
                yield "growth", (*key, *growth)
        for space in spaces:
            for collection_id, log in sorted(space.logs.items()):
                yield "collection", (account_id, space.space.space_id, collection_id, log.head)
                yield from _log_rows(log)
        for entry in self._audit.get(account_id, []):
            yield "audit", (account_id, *entry[1:])

    async def load(self, rows: Sequence[Row]) -> None:
        """As promised; every row that was taken can be taken back."""
        self._must_be_open()
        loading = self._loading.copy()
        undo: list[Callable[[], object]] = []
        try:
            for row in rows:
                undo.append(self._load(loading, row[0], loading.take(row)))
        except Refusal:
            for take_back in reversed(undo):
                take_back()
            raise
        self._loading = loading

    def _load(self, loading: Loading, table: str, values: dict[str, Any]) -> Callable[[], object]:
        """Keep one row; what takes it back."""
        if table in ("hub", "invite", "listed"):
            return self._load_of_hub(table, values)
        if table == "account":
            return self._load_account(values)
        account_id = loading.account_id
        if account_id not in self._accounts or self._accounts[account_id].moving_to != ARRIVING:
            raise _cannot_load(table)
        if table == "operator":
            return _put(self._operators, account_id, Operator(**values), table)
        if table == "device":
            return self._load_device(Device(**values))
        if table == "space":
            space = Space(**_without(values, lambda column, _: column == "created_at"))
            return _put(self._spaces, (account_id, space.space_id), _Space(space, values["created_at"]), table)
        if table == "growth":
            days = self._growth.setdefault((account_id, values["space_id"]), {})
            return _put(days, values["day"], values["used_bytes"], table)
        if table == "audit":
            del values["account_id"]
            entries = self._audit.setdefault(account_id, [])
            entries.append(Audited(self._next_number(), **values))
            return entries.pop
        assert loading.collection is not None, "checked with the row"
        key = loading.collection
        logs = self._spaces[account_id, key.space_id].logs
        if table == "collection":
            return _put(logs, key.collection_id, _Log(head=loading.head), table)
        return _load_below(logs[key.collection_id], table, values)

    def _load_of_hub(self, table: str, values: dict[str, Any]) -> Callable[[], object]:
        if self._accounts:
            raise Refusal("bad_request", "a whole hub can only be loaded into a store without accounts")
        before = (self._incarnation, self._tag_generation, dict(self._claims), dict(self._invites), dict(self._listed))
        if table == "invite":
            self._invites[values["token_hash"]] = (values["expires_at"], values["used_at"])
        elif table == "listed":
            self._listed[values["address_tag"]] = (values["kind"], values["listed_day"])
        elif values["key"] == "incarnation":
            self._incarnation = values["value"]
        elif values["key"] == "tag_generation":
            self._tag_generation = int(values["value"])
        else:
            self._claims[values["key"].removeprefix(CLAIM)] = values["value"]

        def take_back() -> None:
            self._incarnation, self._tag_generation, self._claims, self._invites, self._listed = before

        return take_back

    def _load_account(self, values: dict[str, Any]) -> Callable[[], object]:
        account_id, tag = values["account_id"], values.pop("address_tag")
        if account_id in self._accounts or tag in self._tags.values():
            raise _cannot_load("account")
        self._must_be_free(values["billing_ref"], account_id)
        self._accounts[account_id] = Account(used_bytes=0, moving_to=ARRIVING, **values)
        self._tags[account_id] = tag

        def take_back() -> None:
            del self._accounts[account_id], self._tags[account_id]

        return take_back

    def _load_device(self, device: Device) -> Callable[[], object]:
        self._check_device(device, len(self._devices) + 1, len(self._devices) + 1)
        self._devices[device.device_id] = device
        moved = self._moved.pop(device.device_id, None)  # it came back

        def take_back() -> None:
            del self._devices[device.device_id]
            if moved is not None:
                self._moved[device.device_id] = moved

        return take_back

    async def end_load(self, account_ids: Collection[AccountId]) -> None:
        """As promised."""
        self._must_be_open()
        for account_id in account_ids:
            if account_id in self._accounts and self._accounts[account_id].moving_to == ARRIVING:
                self._accounts[account_id] = replace(self._accounts[account_id], moving_to="")
        self._loading = Loading()

    async def rewrap_addresses(self, wrap: Callable[[bytes], bytes], generation: int) -> int:
        """As promised."""
        self._must_be_open()
        if generation <= self._tag_generation:
            return 0
        tags = {account_id: wrap(tag) for account_id, tag in self._tags.items()}
        attempts = {
            attempt_id: replace(attempt, address_tag=wrap(attempt.address_tag))
            for attempt_id, attempt in self._attempts.items()
        }
        listed = {wrap(tag): of_tag for tag, of_tag in self._listed.items()}
        self._tags, self._attempts, self._listed, self._tag_generation = tags, attempts, listed, generation
        return len(tags)

    async def tag_generation(self) -> int:
        """As promised."""
        self._must_be_open()
        return self._tag_generation

    async def forget_attempts(self, created_before: float) -> int:
        """As promised."""
        self._must_be_open()
        attempts = _without(self._attempts, lambda _, attempt: attempt.created_at < created_before)
        invites = _without(self._invites, lambda _, times: min(times[0], times[1] or times[0]) < created_before)
        forgotten = len(self._attempts) - len(attempts) + len(self._invites) - len(invites)
        self._attempts, self._invites = attempts, invites
        return forgotten


def _keep(log: _Log, draft: Draft, now: float) -> Change:
    """Give the draft the next seq and let it do to the log what its kind says."""
    header = draft.header
    for kept in log.live(header.record_id, REPLACES[header.kind]):
        log.changes[kept.change.seq] = kept._replace(replaced_at=now)
    if header.kind is Kind.PURGE:
        _purge(log, header.upto)
    if header.kind is Kind.WIPE:
        for seq in list(log.changes):
            log.drop(seq)
        log.answers.clear()
        log.witnesses.clear()
    log.head += 1
    change = Change(log.head, int(now * 1000), draft.sealed)
    log.add(_Kept(change, header, None))
    log.counters[header.device_id] = header.counter
    log.answers[header.device_id, header.counter] = (log.head, _hash(draft.sealed))
    return change


def _purge(log: _Log, upto: Seq) -> None:
    for seq, kept in list(log.changes.items()):
        if seq <= upto and kept.header.kind is Kind.DELETE and kept.replaced_at is None:
            log.drop(seq)


def _first_answer(log: _Log, draft: Draft) -> Answer:
    """What a draft with a used counter gets."""
    known = log.answers.get((draft.header.device_id, draft.header.counter))
    if known is None:
        return Answer(code="wiped")
    seq, hash_ = known
    return Answer(seq) if hash_ == _hash(draft.sealed) else Answer(code="device_cloned")


def _conflict(log: _Log, header: Header) -> Answer | None:
    """The refusal of a conditional draft whose base is not its record's newest change."""
    live = log.live(header.record_id, REPLACES[header.kind])
    newest_seq = live[-1].change.seq if live else 0
    newest_id = live[-1].header.change_id if live else ZERO_ID
    return None if newest_id == header.base else Answer(0, "conflict", newest_seq, newest_id)


def _undone(append: Append, answers: Iterable[Answer], fresh: Iterable[tuple[CollectionId, Change]]) -> list[Answer]:
    """The answers of an all-or-nothing append that came to nothing."""
    taken_back = {(collection_id, change.seq) for collection_id, change in fresh}
    return [
        Answer(code="atomic_refused") if (draft.header.collection_id, answer.seq) in taken_back else answer
        for draft, answer in zip(append.drafts, answers, strict=True)
    ]


def _state(collection_id: CollectionId, log: _Log | None, device_id: DeviceId) -> CollectionState:
    if log is None:
        return CollectionState(collection_id, 0, 0)
    return CollectionState(collection_id, log.head, log.counters.get(device_id, 0))


def _row(table: str, kept: object, **more: object) -> Row:
    """A dataclass as a row of a dump: its fields are named like the columns."""
    return table, tuple(more[column] if column in more else getattr(kept, column) for column in TABLES[table])


def _log_rows(log: _Log) -> Iterator[Row]:
    """What stands below a collection."""
    for seq, (change, header, replaced_at) in log.changes.items():
        ids = (header.record_id, header.change_id, header.device_id)
        yield "change", (seq, int(header.kind), *ids, header.counter, change.appended_at_ms, replaced_at, change.sealed)
    for device_id, last in sorted(log.counters.items()):
        yield "counter", (device_id, last)
    for (device_id, counter), (seq, hash16) in sorted(log.answers.items()):
        if seq not in log.changes:
            yield "receipt", (device_id, counter, seq, hash16)
    for device_id, (counter, sealed) in sorted(log.witnesses.items()):
        yield "witness", (device_id, counter, sealed)


def _load_below(log: _Log, table: str, values: dict[str, Any]) -> Callable[[], object]:
    """Keep one row below a collection; what takes it back."""
    if table == "counter":
        return _put(log.counters, values["device_id"], values["last"], table)
    if table == "witness":
        return _put(log.witnesses, values["device_id"], (values["counter"], values["sealed"]), table)
    key = (values["device_id"], values["counter"])
    if table == "receipt":
        return _put(log.answers, key, (values["seq"], values["hash16"]), table)
    seq, sealed = values["seq"], values["sealed"]
    take_back = _put(log.answers, key, (seq, _hash(sealed)), table)
    log.add(_Kept(Change(seq, values["appended_at_ms"], sealed), parse_header(sealed), values["replaced_at"]))

    def take_back_both() -> None:
        log.drop(seq)
        take_back()

    return take_back_both


def _put(kept: dict[K, V], key: K, value: V, table: str) -> Callable[[], object]:
    """Keep what is not there yet; what takes it back."""
    if key in kept:
        raise _cannot_load(table)
    kept[key] = value
    return lambda: kept.pop(key)


def _cannot_load(table: str) -> Refusal:
    return Refusal("bad_request", f"a row of {table} is here already, or what it belongs to is not")


def _wait(times: Sequence[float], spans: Iterable[Span], now: float) -> float:
    """Seconds until one more fits all spans, given the earlier times, oldest first."""
    # The most-th newest must have left the span.
    waits = (times[-span.most] + span.seconds - now for span in spans if len(times) >= span.most)
    return max(0.0, max(waits, default=0.0))


def _due(deleted_at: float | None, now: float) -> bool:
    return deleted_at is not None and deleted_at <= now


def _hash(sealed: bytes) -> bytes:
    return hashlib.sha256(sealed).digest()[:16]


def _without(kept: dict[K, V], unwanted: Callable[[K, V], bool]) -> dict[K, V]:
    return {key: value for key, value in kept.items() if not unwanted(key, value)}


_: type[Store] = MemoryStore
