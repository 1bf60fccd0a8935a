"""Whatever is called in whatever order, the SQLite keeper answers like the model."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hub.errors import Refusal
from hub.store import Account, Append, Attempt, Charge, Device, Draft, Happening, Row, Space, Store, Terms
from hub.store.memory import MemoryStore
from hub.store.sqlite import SqliteStore
from hub.terms import COLLECTION_KINDS, ZERO_ID, CollectionKey, Kind, Limits, Span
from tests.store_exam import draft_of, dumped, sealed

Call = Callable[[Store], Coroutine[Any, Any, Any]]

LIMITS = Limits(collections_per_space_max=2)
QUOTA_BYTES = 6_000
DEVICES_MAX = 5
SPACES_MAX = 2

ACCOUNTS = [b"account%09d" % number for number in range(2)]
DEVICES = [b"device%010d" % number for number in range(6)]
SPACES = [b"space%011d" % number for number in range(3)]
COLLECTIONS = [b"collection%06d" % number for number in range(3)]
RECORDS = [b"record%010d" % number for number in range(3)]
TAGS = [b"tag%029d" % number for number in range(2)]
SPANS = (Span(2, 3.0), Span(3, 8.0))
KEYS_OF_LIMITS = [b"limited%09d" % number for number in range(2)]
INVITES = [b"invite%026d" % number for number in range(2)]

accounts = st.sampled_from(ACCOUNTS)
# Most calls go to the first of each, so that they meet.
mostly_first = st.sampled_from([0, 0, 0, 0, 1, 1, 2])
records = st.sampled_from(RECORDS)
KINDS = [Kind.PUT] * 5 + [Kind.DELTA] * 4 + [Kind.DELETE] * 3 + [Kind.KEYRING] * 2 + [Kind.PURGE] * 2 + [Kind.WIPE]


class Edit(NamedTuple):
    """What a device wants to write; the machine knows the counter and the newest change."""

    kind: Kind
    record: bytes
    device: int
    collection: int
    base: str  # "" = last writer wins
    skip: int  # 0 = the right counter
    upto: int
    size: int


edits = st.builds(
    Edit,
    st.sampled_from(KINDS),
    records,
    mostly_first,
    mostly_first,
    st.sampled_from(["", "", "", "zero", "newest", "newest"]),
    st.sampled_from([0] * 12 + [1, -1]),
    st.integers(0, 12),
    st.sampled_from([160, 160, 170, 900]),
)


class SameAnswers(RuleBasedStateMachine):
    """Two stores side by side; every call goes to both."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.stores: list[Store] = [
            MemoryStore(limits=LIMITS, quota_bytes=QUOTA_BYTES),
            self.keeper(),
        ]
        self.now = 1_000.0
        self.ids = 0
        self.sent: list[Draft] = []
        self.attempts: list[bytes] = []
        self.newest: dict[bytes, bytes] = {}  # the last change_id sealed for a record
        for store in self.stores:
            self.loop.run_until_complete(store.open())
        self.enrol(0, 0, Account(ACCOUNTS[0], None, 0, 0), 0, None)
        self.add_device(1, 0)
        self.add_device(2, 0)
        self.create_space(0, 0, b"k")

    def keeper(self) -> Store:
        """The store that is compared with the model."""
        return SqliteStore(Path(self.folder.name) / "hub.db", limits=LIMITS, quota_bytes=QUOTA_BYTES)

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
        self.ids += 1
        return b"fresh%011d" % self.ids

    # --- the log ---

    @rule(chosen=st.lists(edits, min_size=1, max_size=8), space=st.sampled_from([0] * 7 + [1]), atomic=st.booleans())
    def write(self, chosen: list[Edit], space: int, atomic: bool) -> None:
        """New edits of several devices, as one batch."""
        ahead: Counter[tuple[int, int]] = Counter()
        drafts = []
        for edit in chosen:
            key = CollectionKey(ACCOUNTS[0], SPACES[space], COLLECTIONS[edit.collection])
            ahead[edit.device, edit.collection] += edit.skip == 0
            counter = self.counter(key, DEVICES[edit.device]) + ahead[edit.device, edit.collection] + edit.skip
            drafts.append(self.seal(key, edit, max(1, counter)))
        self.sent += drafts
        self.append(drafts, atomic)

    @rule(chosen=st.lists(st.integers(0, 1_000), min_size=1, max_size=6), atomic=st.booleans())
    def send_again(self, chosen: list[int], atomic: bool) -> None:
        """Drafts of any age, in any order."""
        if self.sent:
            self.append([self.sent[-1 - number % len(self.sent)] for number in chosen], atomic)

    def counter(self, key: CollectionKey, device_id: bytes) -> int:
        (state,) = self.both(lambda store: store.states(key.account_id, key.space_id, device_id, [key.collection_id]))
        return int(state.counter)

    def seal(self, key: CollectionKey, edit: Edit, counter: int) -> Draft:
        record_id = ZERO_ID if edit.kind in COLLECTION_KINDS else edit.record
        base = {"": None, "zero": ZERO_ID, "newest": self.newest.get(record_id, ZERO_ID)}[edit.base]
        change_id = self.newest[record_id] = self.fresh_id()
        return draft_of(
            sealed(
                key,
                DEVICES[edit.device],
                counter,
                kind=edit.kind,
                record_id=record_id,
                change_id=change_id,
                base=None if edit.kind in COLLECTION_KINDS | {Kind.DELTA} else base,
                upto=edit.upto,
                size=edit.size,
            )
        )

    def append(self, drafts: list[Draft], atomic: bool) -> None:
        self.now += 1
        requests: dict[tuple[bytes, bytes], list[Draft]] = {}
        for draft in drafts:
            requests.setdefault((draft.header.space_id, draft.header.device_id), []).append(draft)
        batch = [Append(ACCOUNTS[0], *names, of_one, atomic) for names, of_one in requests.items()]
        self.both(lambda store: store.append(batch, self.now))

    @rule(seconds=st.integers(-1, 6))
    def compact(self, seconds: int) -> None:
        # No small limit: which of equally old changes goes first is not promised.
        self.both(lambda store: store.compact(self.now - seconds, 1_000))

    @rule(device=mostly_first, collection=mostly_first, counter=st.integers(1, 4))
    def put_witness(self, device: int, collection: int, counter: int) -> None:
        key = CollectionKey(ACCOUNTS[0], SPACES[0], COLLECTIONS[collection])
        self.both(lambda store: store.put_witness(key, DEVICES[device], counter, b"witness %d" % counter))

    @rule(after=st.integers(0, 12), changes_max=st.integers(1, 5), bytes_max=st.sampled_from([1, 400, 100_000]))
    def read_pages(self, after: int, changes_max: int, bytes_max: int) -> None:
        bounds = {"changes_max": changes_max, "bytes_max": bytes_max}
        self.both(lambda store: everywhere(lambda key: store.read(key, after, live_only=False, **bounds)))
        self.both(lambda store: everywhere(lambda key: store.read(key, after, live_only=True, **bounds)))
        self.both(lambda store: store.heads(KEYS))

    @rule(record=records, before=st.integers(0, 12), limit=st.integers(1, 3))
    def read_history(self, record: bytes, before: int, limit: int) -> None:
        self.both(lambda store: everywhere(lambda key: store.history(key, record, before=before, limit=limit)))

    @rule(number=st.sampled_from([1, 2, 2, 5]), account=st.sampled_from([0, 0, 0, 1]))
    def revoke(self, number: int, account: int) -> None:
        self.both(lambda store: store.revoke(ACCOUNTS[account], [DEVICES[number], DEVICES[5]], self.now))

    # --- people: one rule, so that most steps are about the log ---

    @rule(data=st.data())
    def people(self, data: st.DataObject) -> None:
        deeds = [
            self.any_enrolment,
            self.any_device,
            self.any_attempt,
            self.any_space,
            self.any_deletion,
            self.any_limit,
            self.any_operation,
            self.any_happening,
        ]
        data.draw(st.sampled_from(deeds))(data)

    def any_enrolment(self, data: st.DataObject) -> None:
        account, tag = data.draw(st.sampled_from([0, 1])), data.draw(st.sampled_from([0, 1]))
        new = Account(ACCOUNTS[account], None, 0, 0) if data.draw(st.booleans()) else None
        invite = data.draw(st.sampled_from([None, None, *INVITES]))
        self.enrol(data.draw(st.integers(0, 5)), account, new, tag, invite)

    def enrol(self, number: int, account: int, new: Account | None, tag: int, invite: bytes | None) -> None:
        attempt_id, device = self.add_attempt(TAGS[tag], invite), a_device(number, account)
        limits = {"per_account_max": DEVICES_MAX, "per_app_max": DEVICES_MAX - 1}
        self.both(
            lambda store: store.enrol(attempt_id, device, new, TAGS[tag], first_only=False, now=self.now, **limits)
        )

    def any_device(self, data: st.DataObject) -> None:
        number, account = data.draw(st.integers(2, 5)), data.draw(st.sampled_from([0, 0, 1]))
        deeds: dict[str, Call] = {
            "approve": lambda store: store.approve(ACCOUNTS[account], DEVICES[number]),
            "note": lambda store: store.note_seen([DEVICES[number]], number),
        }
        if data.draw(st.booleans()):
            self.add_device(number, account)
        else:
            self.both(deeds[data.draw(st.sampled_from(sorted(deeds)))])

    def add_device(self, number: int, account: int) -> None:
        device = a_device(number, account)
        self.both(lambda store: store.add_device(device, per_account_max=DEVICES_MAX, per_app_max=DEVICES_MAX - 1))

    def any_attempt(self, data: st.DataObject) -> None:
        if data.draw(st.booleans()):
            self.add_attempt(data.draw(st.sampled_from(TAGS)), None)
        attempt_id = data.draw(st.sampled_from(self.attempts[-3:]))
        token, at = data.draw(st.sampled_from(INVITES)), self.now + data.draw(st.sampled_from([-2, 0, 2, 50]))
        deeds: dict[str, Call] = {
            "charge": lambda store: store.charge_attempt(attempt_id, self.now, 2),
            "consume": lambda store: store.consume_attempt(attempt_id, self.now),
            "resend": lambda store: store.note_resend(attempt_id, b"pk", self.now, not_before_s=2, sends_max=3),
            "invite": lambda store: store.add_invite(token, at),
            "forget": lambda store: store.forget_attempts(at - 5),
            "rewrap": lambda store: store.rewrap_addresses(
                lambda tag: hashlib.sha256(tag).digest(), len(self.sent) // 9
            ),
        }
        self.both(deeds[data.draw(st.sampled_from(sorted(deeds)))])

    def any_limit(self, data: st.DataObject) -> None:
        keys = data.draw(st.sampled_from([KEYS_OF_LIMITS, KEYS_OF_LIMITS[:1], KEYS_OF_LIMITS[1:]]))
        charges = [Charge(key, data.draw(st.sampled_from([SPANS, SPANS[:1]]))) for key in keys]
        at = self.now + data.draw(st.sampled_from([-1, 0, 0, 0, 1]))
        value = data.draw(st.sampled_from([b"one", b"other"]))
        deeds: dict[str, Call] = {
            "spend": lambda store: store.spend(charges, at),
            "spend again": lambda store: store.spend(charges, at),
            "forget": lambda store: store.forget_spent(at - 8),
            "claim": lambda store: store.claim("name", value),
        }
        self.both(deeds[data.draw(st.sampled_from(sorted(deeds)))])

    def any_operation(self, data: st.DataObject) -> None:
        account, at = data.draw(accounts), data.draw(st.sampled_from([None, None, self.now]))
        terms = Terms(
            data.draw(st.sampled_from([None, 500, 9_000])),
            data.draw(st.sampled_from(["", "family"])),
            data.draw(st.sampled_from([None, "no. 5"])),
            data.draw(st.sampled_from([None, self.now + 2])),
        )
        tag, kind = data.draw(st.sampled_from(TAGS)), data.draw(st.sampled_from([None, "allowed", "blocked"]))
        url = data.draw(st.sampled_from(["", "", "wss://there.example"]))
        attempt_id, step = data.draw(st.sampled_from(self.attempts[-3:])), data.draw(st.integers(0, 3))
        deeds: dict[str, Call] = {
            "terms": lambda store: store.set_terms(account, terms),
            "suspend": lambda store: store.suspend(account, at),
            "list": lambda store: store.list_address(tag, kind, 1),
            "withdraw": lambda store: store.withdraw_invite(INVITES[0]),
            "address": lambda store: store.change_address(attempt_id, account, self.now),
            "operator": lambda store: store.make_operator(account, bytes(16), self.now),
            "no operator": lambda store: store.drop_operator(account),
            "step": lambda store: store.take_step(account, step),
            "move": lambda store: store.begin_move(account, url),
            "moved": lambda store: store.end_move(ACCOUNTS[1], self.now),
            "forget moved": lambda store: store.forget_moved(self.now - 3),
        }
        self.both(deeds[data.draw(st.sampled_from(sorted(deeds)))])

    def any_happening(self, data: st.DataObject) -> None:
        account, day = data.draw(accounts), data.draw(st.integers(0, 4))
        what, adds_up = data.draw(st.sampled_from([("exported", False), ("key_refused", True)]))
        at = self.now + data.draw(st.sampled_from([0, 0, 86_400]))
        happenings = [Happening(account, at, what, "device", DEVICES[0], adds_up=adds_up)] * 2
        deeds: dict[str, Call] = {
            "note": lambda store: store.note(happenings),
            "forget": lambda store: store.forget_audit(self.now - 3),
            "grow": lambda store: store.note_growth(day),
            "forget growth": lambda store: store.forget_growth(day),
        }
        self.both(deeds[data.draw(st.sampled_from(sorted(deeds)))])

    def add_attempt(self, tag: bytes, invite: bytes | None) -> bytes:
        self.attempts.append(self.fresh_id())
        attempt = Attempt(
            self.attempts[-1], tag, b"pk", "enrol", "app", self.now, self.now + 5, invite, sent_at=self.now
        )
        self.both(lambda store: store.add_attempt(attempt))
        return self.attempts[-1]

    def any_space(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from([b"k", b"k", b"k", b"other"]))
        self.create_space(data.draw(st.integers(0, 2)), data.draw(st.sampled_from([0, 0, 1])), key)

    def create_space(self, number: int, account: int, key: bytes) -> None:
        space = Space(ACCOUNTS[account], SPACES[number], "app", 0, key)
        self.both(lambda store: store.create_space(space, SPACES_MAX, self.now))

    def any_deletion(self, data: st.DataObject) -> None:
        account, number = data.draw(accounts), data.draw(st.sampled_from([0, 1, 1, 2, 2]))
        at = data.draw(st.sampled_from([None, self.now, self.now + 2]))
        deeds: dict[str, Call] = {
            "later": lambda store: store.schedule_account_deletion(account, at),
            "later, a space": lambda store: store.schedule_space_deletion(account, SPACES[number], at),
            "space": lambda store: store.delete_space(account, SPACES[number]),
            "account": lambda store: store.delete_account(ACCOUNTS[1]),
        }
        self.both(deeds[data.draw(st.sampled_from(sorted(deeds)))])

    # --- what must be equal after every step ---

    @invariant()
    def what_stands_is_equal(self) -> None:
        self.both(lambda store: what_stands(store, self.now))


KEYS = [
    *(CollectionKey(ACCOUNTS[0], SPACES[0], collection_id) for collection_id in COLLECTIONS),
    CollectionKey(ACCOUNTS[0], SPACES[1], COLLECTIONS[0]),
]


def a_device(number: int, account: int) -> Device:
    key = b"key %d" % number
    return Device(DEVICES[number], ACCOUNTS[account], key, "app", "app", "mail", float(number), 0, probation_until=9.0)


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
        *(store.spend([Charge(key, SPANS)], now, count=False) for key in KEYS_OF_LIMITS),
        store.tag_generation(),
        *(store.invite_is_open(token, now) for token in INVITES),
        store.stopped_among(DEVICES),
        store.due_deletions(now),
        dumped_but_its_name(store),
        store.accounts(limit=9),
        store.totals(),
        store.operators(),
        store.invites(),
        store.count_listed(),
        store.near_quota(0.5, QUOTA_BYTES, now, 9),
        store.silent_devices(3, 9),
        *(store.moved_device(device_id) for device_id in DEVICES),
        *(store.space_facts(account_id) for account_id in ACCOUNTS),
        *(store.audit_counts(what, 0.0, 9) for what in ("exported", "key_refused")),
    )


async def dumped_but_its_name(store: Store) -> list[Row]:
    """A dump of everything but the incarnation, which is drawn at random."""
    return [row for row in await dumped(store) if row[1][0] != "incarnation"]


TestSameAnswers = SameAnswers.TestCase
TestSameAnswers.settings = settings(
    max_examples=100,
    stateful_step_count=25,
    deadline=None,  # the disk decides
    suppress_health_check=list(HealthCheck),
)
