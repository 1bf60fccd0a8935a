"""Whatever is called in whatever order, the SQLite keeper answers like the model."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from hub.errors import Refusal
from hub.store import Account, Append, Attempt, Device, Draft, Space, Store
from hub.store.memory import MemoryStore
from hub.store.sqlite import SqliteStore
from hub.terms import ZERO_ID, CollectionKey, Kind, Limits
from tests.store_exam import draft_of, sealed

Call = Callable[[Store], Coroutine[Any, Any, Any]]

LIMITS = Limits(collections_per_space_max=2)
QUOTA_BYTES = 4_000
DEVICES_MAX = 4
SPACES_MAX = 2

ACCOUNTS = [b"account%09d" % number for number in range(2)]
DEVICES = [b"device%010d" % number for number in range(6)]
SPACES = [b"space%011d" % number for number in range(3)]
COLLECTIONS = [b"collection%06d" % number for number in range(3)]
RECORDS = [b"record%010d" % number for number in range(3)]
TAGS = [b"tag%029d" % number for number in range(2)]
INVITES = [b"invite%026d" % number for number in range(2)]

accounts = st.sampled_from(ACCOUNTS)
devices = st.sampled_from(DEVICES)
spaces = st.sampled_from(SPACES)
records = st.sampled_from(RECORDS)
tags = st.sampled_from(TAGS)
# Most calls go to the first of each, so that they meet.
mostly = st.sampled_from([0, 0, 0, 0, 1, 1, 2])
kinds = st.sampled_from(
    [
        Kind.PUT,
        Kind.PUT,
        Kind.PUT,
        Kind.DELTA,
        Kind.DELTA,
        Kind.DELETE,
        Kind.DELETE,
        Kind.KEYRING,
        Kind.PURGE,
        Kind.WIPE,
    ]
)


class SameAnswers(RuleBasedStateMachine):
    """Two stores side by side; every call goes to both."""

    drafts: Bundle[tuple[bytes, bytes, Draft]] = Bundle("drafts")
    attempts: Bundle[bytes] = Bundle("attempts")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.stores: list[Store] = [
            MemoryStore(limits=LIMITS, quota_bytes=QUOTA_BYTES),
            SqliteStore(Path(self.folder.name) / "hub.db", limits=LIMITS, quota_bytes=QUOTA_BYTES),
        ]
        self.now = 1_000.0
        self.random = 0
        self.counters: dict[tuple[bytes, ...], int] = {}
        self.newest = ZERO_ID
        for store in self.stores:
            self.loop.run_until_complete(store.open())
        # Enough to write at once; the rules add the rest.
        self.make_account(0, 0, None)
        for number in (1, 2):
            self.add_device(number, 0)
        self.create_space(0, 0)

    def teardown(self) -> None:
        for store in self.stores:
            self.loop.run_until_complete(store.close())
        self.loop.close()
        self.folder.cleanup()

    def both(self, call: Call) -> Any:
        """The answer, which both gave."""
        model, sqlite = (self.loop.run_until_complete(answer(call(store))) for store in self.stores)
        assert model == sqlite
        return model

    def fresh_id(self) -> bytes:
        self.random += 1
        return b"fresh%011d" % self.random

    # --- writing ---

    @rule(
        target=drafts,
        device=mostly,
        space=st.sampled_from([0, 0, 0, 0, 0, 1]),
        collection=mostly,
        record=records,
        kind=kinds,
        base=st.sampled_from([None, None, "zero", "newest", "newest", "other"]),
        skip=st.sampled_from([0, 0, 0, 0, 0, 0, 1, -1]),
        upto=st.integers(0, 30),
        size=st.sampled_from([160, 160, 200, 900]),
    )
    def seal(
        self,
        device: int,
        space: int,
        collection: int,
        record: bytes,
        kind: Kind,
        base: str | None,
        skip: int,
        upto: int,
        size: int,
    ) -> tuple[bytes, bytes, Draft]:
        """A draft, which later rules append, once or often."""
        key = CollectionKey(ACCOUNTS[0], SPACES[space], COLLECTIONS[collection])
        device_id = DEVICES[device]
        counter = max(1, self.counters.get((device_id, *key), 0) + 1 + skip)
        if skip == 0:
            self.counters[(device_id, *key)] = counter
        if kind in (Kind.PURGE, Kind.WIPE):
            record = ZERO_ID
        bases = {"zero": ZERO_ID, "newest": self.newest, "other": self.fresh_id()}
        conditional = base is not None and kind in (Kind.PUT, Kind.DELETE, Kind.KEYRING)
        change_id = self.fresh_id()
        self.newest = change_id
        sealed_bytes = sealed(
            key,
            device_id,
            counter,
            kind=kind,
            record_id=record,
            change_id=change_id,
            base=bases[base] if conditional and base else None,
            upto=upto,
            size=size,
        )
        return device_id, key.space_id, draft_of(sealed_bytes)

    @rule(chosen=st.lists(drafts, min_size=1, max_size=6), atomic=st.booleans(), account=st.sampled_from([0, 0, 0, 1]))
    def append(self, chosen: list[tuple[bytes, bytes, Draft]], atomic: bool, account: int) -> None:
        """Drafts of one device and space make one request; all of them are one batch."""
        self.now += 1
        together: dict[tuple[bytes, bytes], list[Draft]] = {}
        for device_id, space_id, draft in chosen:
            together.setdefault((device_id, space_id), []).append(draft)
        batch = [
            Append(ACCOUNTS[account], space_id, device_id, drafts, atomic)
            for (device_id, space_id), drafts in together.items()
        ]
        answered = self.both(lambda store: store.append(batch, self.now))
        for request, appended in zip(batch, answered, strict=True):
            # A refused draft uses up no counter: count on from what the hub has.
            for draft in request.drafts:
                key = (request.device_id, request.account_id, request.space_id, draft.header.collection_id)
                if appended.answers and account == 0:
                    self.counters[key] = self.counter_of(*key)

    def counter_of(self, device_id: bytes, account_id: bytes, space_id: bytes, collection_id: bytes) -> int:
        (state,) = self.both(lambda store: store.states(account_id, space_id, device_id, [collection_id]))
        return int(state.counter)

    @rule(seconds=st.integers(0, 5))
    def compact(self, seconds: int) -> None:
        # No small limit: which of equally old changes goes first is not promised.
        self.both(lambda store: store.compact(self.now - seconds, 1_000))

    @rule(device=mostly, collection=mostly, counter=st.integers(1, 4))
    def put_witness(self, device: int, collection: int, counter: int) -> None:
        key = CollectionKey(ACCOUNTS[0], SPACES[0], COLLECTIONS[collection])
        witness = b"witness %d" % counter
        self.both(lambda store: store.put_witness(key, DEVICES[device], counter, witness))

    # --- accounts, devices, spaces ---

    @rule(account=st.sampled_from([0, 1]), tag=st.sampled_from([0, 1]), invite=st.sampled_from([None, None, *INVITES]))
    def make_account(self, account: int, tag: int, invite: bytes | None) -> None:
        device = a_device(self.random % len(DEVICES), account)
        self.enrol(device, Account(ACCOUNTS[account], None, 0, 0), TAGS[tag], invite)

    @rule(number=st.integers(0, 5), account=st.sampled_from([0, 1]), tag=tags)
    def enrol_device(self, number: int, account: int, tag: bytes) -> None:
        self.enrol(a_device(number, account), None, tag, None)

    def enrol(self, device: Device, new: Account | None, tag: bytes, invite: bytes | None) -> None:
        attempt_id = self.new_attempt(tag, invite)
        self.both(
            lambda store: store.enrol(
                attempt_id,
                device,
                new,
                tag,
                per_account_max=DEVICES_MAX,
                per_app_max=DEVICES_MAX - 1,
                first_only=False,
                now=self.now,
            )
        )

    @rule(number=st.integers(0, 5), account=st.sampled_from([0, 1]))
    def add_device(self, number: int, account: int) -> None:
        device = a_device(number, account)
        self.both(lambda store: store.add_device(device, per_account_max=DEVICES_MAX, per_app_max=DEVICES_MAX - 1))

    @rule(chosen=st.lists(devices, max_size=2), account=accounts)
    def revoke(self, chosen: list[bytes], account: bytes) -> None:
        self.both(lambda store: store.revoke(account, chosen, self.now))

    @rule(device_id=devices, account=accounts, day=st.integers(0, 3))
    def approve_and_note(self, device_id: bytes, account: bytes, day: int) -> None:
        self.both(lambda store: store.approve(account, device_id))
        self.both(lambda store: store.note_seen([device_id], day))

    @rule(space=st.integers(0, 2), account=st.sampled_from([0, 0, 1]), key=st.sampled_from([b"k", b"k", b"other"]))
    def create_space(self, space: int, account: int, key: bytes = b"k") -> None:
        new = Space(ACCOUNTS[account], SPACES[space], "app", 0, key)
        self.both(lambda store: store.create_space(new, SPACES_MAX, self.now))

    @rule(space=spaces, account=accounts)
    def delete_space(self, space: bytes, account: bytes) -> None:
        self.both(lambda store: store.delete_space(account, space))
        self.forget_counters()

    @rule(account=st.sampled_from([ACCOUNTS[1], ACCOUNTS[1], ACCOUNTS[0]]))
    def delete_account(self, account: bytes) -> None:
        self.both(lambda store: store.delete_account(account))
        self.forget_counters()

    def forget_counters(self) -> None:
        self.counters = {key: self.counter_of(*key) for key in self.counters}

    @rule(at=st.sampled_from([None, 1_003.0, 1_010.0]), account=accounts, space=spaces)
    def schedule(self, at: float | None, account: bytes, space: bytes) -> None:
        self.both(lambda store: store.schedule_account_deletion(account, at))
        self.both(lambda store: store.schedule_space_deletion(account, space, at))

    # --- attempts and invites ---

    @rule(target=attempts, tag=tags)
    def add_attempt(self, tag: bytes) -> bytes:
        return self.new_attempt(tag, None)

    def new_attempt(self, tag: bytes, invite: bytes | None) -> bytes:
        attempt_id = self.fresh_id()
        attempt = Attempt(attempt_id, tag, b"pk", "enrol", "app", self.now, self.now + 5, invite, sent_at=self.now)
        self.both(lambda store: store.add_attempt(attempt))
        return attempt_id

    @rule(attempt_id=attempts, deed=st.sampled_from(["charge", "consume", "resend"]))
    def use_attempt(self, attempt_id: bytes, deed: str) -> None:
        calls: dict[str, Call] = {
            "charge": lambda store: store.charge_attempt(attempt_id, self.now, 3),
            "consume": lambda store: store.consume_attempt(attempt_id, self.now),
            "resend": lambda store: store.note_resend(attempt_id, b"pk", self.now, not_before_s=2, sends_max=3),
        }
        self.both(calls[deed])

    @rule(token=st.sampled_from(INVITES), expires_at=st.sampled_from([1_001.0, 2_000.0]))
    def add_invite(self, token: bytes, expires_at: float) -> None:
        self.both(lambda store: store.add_invite(token, expires_at))

    @rule(created_before=st.sampled_from([1_001.0, 1_005.0]))
    def forget(self, created_before: float) -> None:
        self.both(lambda store: store.forget_attempts(created_before))

    @rule(generation=st.integers(0, 3))
    def rewrap(self, generation: int) -> None:
        self.both(lambda store: store.rewrap_addresses(lambda tag: tag[::-1], generation))

    # --- what must be equal after every step ---

    @invariant()
    def what_stands_is_equal(self) -> None:
        self.both(lambda store: what_stands(store, self.now))

    @rule(after=st.integers(0, 12), changes_max=st.integers(1, 5), bytes_max=st.sampled_from([1, 400, 100_000]))
    def read_pages(self, after: int, changes_max: int, bytes_max: int) -> None:
        bounds = {"changes_max": changes_max, "bytes_max": bytes_max}
        self.both(lambda store: everywhere(lambda key: store.read(key, after, live_only=False, **bounds)))
        self.both(lambda store: everywhere(lambda key: store.read(key, after, live_only=True, **bounds)))

    @rule(record=records, before=st.integers(0, 12), limit=st.integers(1, 3))
    def read_history(self, record: bytes, before: int, limit: int) -> None:
        self.both(lambda store: everywhere(lambda key: store.history(key, record, before=before, limit=limit)))


KEYS = [
    *(CollectionKey(ACCOUNTS[0], SPACES[0], collection_id) for collection_id in COLLECTIONS),
    CollectionKey(ACCOUNTS[0], SPACES[1], COLLECTIONS[0]),
]


def a_device(number: int, account: int) -> Device:
    return Device(DEVICES[number], ACCOUNTS[account], b"key %d" % number, "app", "app", "mail", float(number), 0)


async def answer(call: Coroutine[Any, Any, Any]) -> Any:
    """What the call returned, or the code it was refused with."""
    try:
        return await call
    except Refusal as refusal:
        return refusal.code


async def everywhere(read: Callable[[CollectionKey], Coroutine[Any, Any, Any]]) -> list[Any]:
    return await asyncio.gather(*map(read, KEYS))


async def what_stands(store: Store, now: float) -> list[Any]:
    """Every list a store can give, and every log as a warm and as a cold device reads it."""
    no_bound = {"changes_max": 10_000, "bytes_max": 1 << 40}
    return await asyncio.gather(
        everywhere(lambda key: store.read(key, 0, live_only=False, **no_bound)),
        everywhere(lambda key: store.read(key, 0, live_only=True, **no_bound)),
        everywhere(store.witnesses),
        *(store.account(account_id) for account_id in ACCOUNTS),
        *(store.devices(account_id) for account_id in ACCOUNTS),
        *(store.spaces(account_id) for account_id in ACCOUNTS),
        *(store.find_account(tag) for tag in TAGS),
        *(store.attempts_since(tag, 0) for tag in TAGS),
        *(store.invite_is_open(token, now) for token in INVITES),
        store.revoked_among(DEVICES),
        store.due_deletions(now),
    )


TestSameAnswers = SameAnswers.TestCase
TestSameAnswers.settings = settings(
    max_examples=100,
    stateful_step_count=30,
    deadline=None,  # the disk decides
    suppress_health_check=list(HealthCheck),
)
