"""A session that reads a long log: always a page ahead of itself, never more, and nothing lost or told twice by it.

The session and the services are real, the store is the model that answers after a few turns of the loop; what the
device reads of its queue the test says.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any, cast

import msgspec
import pytest

from hub.appender import Appender
from hub.bus import HeadMoved
from hub.bus.local import LocalBus
from hub.effects import Ask, ReadHeads, ReadPage, ReadStates, ReadWitnesses
from hub.errors import StoreUnavailable
from hub.following import PAGES_AHEAD
from hub.metrics import Metrics
from hub.services import PAGE_CALLS_MAX, Services
from hub.store import Append, Draft, Page
from hub.store.memory import MemoryStore
from hub.terms import CollectionKey, Limits
from hub.wire import messages as m
from hub.wire.codec import encode
from hub.wire.header import parse_header
from tests.session_rig import COLLECTION, Person, Rig, person

PAGE_CHANGES = 3
LIMITS = Limits(page_changes=PAGE_CHANGES, page_bytes=1_000, queued_bytes_max=10_000, messages_burst=10**6)


class SlowStore(MemoryStore):
    """Answers a page after some turns of the loop; knows what is being read, and fails when it shall."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[int] = []  # behind which seq, in the order of asking
        self.under_way = self.most = 0
        self.chance = random.Random(0)
        self.turns_min, self.turns_max = 0, 12
        self.fails = 0.0

    async def read(self, key: CollectionKey, after: int, *, live_only: bool, changes_max: int, bytes_max: int) -> Page:
        self.reads.append(after)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        page = await super().read(key, after, live_only=live_only, changes_max=changes_max, bytes_max=bytes_max)
        for _ in range(self.chance.randint(self.turns_min, self.turns_max)):
            await asyncio.sleep(0)
        self.under_way -= 1
        if self.chance.random() < self.fails:
            raise StoreUnavailable("away")
        return page


class Shell:
    """Carries out what one session asks for, as its peer does."""

    def __init__(self, someone: Person, store: SlowStore) -> None:
        self.store = store
        self.rig = Rig(someone, LIMITS)
        bus, metrics = LocalBus(), Metrics()
        self.services = Services(
            store=store,
            bus=bus,
            accounts=cast("Any", None),
            appender=Appender(store, bus, metrics, wall=time.time),
            metrics=metrics,
            limits=LIMITS,
            quota_bytes=1 << 40,
            wall=time.time,
        )
        self.going_on: list[bool] = []  # of each page: whether it said that the next one will be asked for
        self.under_way: list[int] = []  # of each page: how many were being read when its changes were handed out

    async def begin(self, seq: int = 0, *, live_only: bool = False) -> None:
        await self.rig.enter()
        self.rig.sent.clear()
        self.follow(seq, self.rig.session.incarnation or b"", live_only=live_only)

    def follow(self, seq: int, incarnation: bytes, *, live_only: bool = False) -> None:
        cursor = m.CursorPart(COLLECTION, incarnation, seq, live_only)
        self.say(m.Subscribe(2, self.rig.person.space_id, [cursor]))

    def say(self, message: m.Message) -> None:
        self.take(self.rig.session.received(encode(message), self.rig.now))

    def take(self, effects: list[Any]) -> None:
        before = len(self.rig.sent)
        self.rig.take(effects)
        for message in self.rig.sent[before:]:
            if isinstance(message, m.Changes):
                self.under_way.append(self.store.under_way)
        asked, self.rig.asked[:] = list(self.rig.asked), []
        for ask in asked:
            self.ask(ask)

    def ask(self, ask: Ask) -> None:
        assert isinstance(ask.what, ReadPage | ReadHeads | ReadStates | ReadWitnesses), ask
        if isinstance(ask.what, ReadPage):
            self.going_on.append(ask.what.goes_on)

        def answered(result: Any) -> None:
            self.take(self.rig.session.answered(ask.token, result, self.rig.now))

        assert self.services.ask(ask.what, self.rig.session, answered)

    def drain(self) -> None:
        """The device has read all there is."""
        if self.rig.session.queued_bytes:
            self.take(self.rig.session.sent(self.rig.session.queued_bytes, self.rig.now))

    def noticed(self, notice: HeadMoved) -> None:
        self.take(self.rig.session.noticed(notice, self.rig.now))

    @property
    def idle(self) -> bool:
        pages = self.services._pages
        return not (pages._calls or pages._waiting or self.rig.session._desk.waiting)


async def append(store: MemoryStore, someone: Person, count: int, records: int = 0) -> HeadMoved:
    """So many changes, each of a record of its own or of one of so many; the notice of them."""
    drafts = [
        someone.draft(**({"record_id": b"%016d" % random.randrange(records)} if records else {})) for _ in range(count)
    ]
    (done,) = await store.append(
        [Append(someone.account_id, someone.space_id, someone.device_id, [Draft(parse_header(x), x) for x in drafts])],
        1.0,
    )
    assert not any(answer.code for answer in done.answers), done.answers
    changes = tuple(change for _, change in done.fresh)
    life = await store.incarnation()
    return HeadMoved(
        someone.space_id, COLLECTION, life, changes[0].seq - 1, changes[-1].seq, cast("Any", tuple(changes))
    )


async def shell(changes: int) -> Shell:
    store = SlowStore()
    await store.open()
    someone = await person(store)
    if changes:
        await append(store, someone, changes)
    return Shell(someone, store)


async def until_idle(*shells: Shell) -> None:
    async with asyncio.timeout(5):
        while not all(each.idle for each in shells):
            await asyncio.sleep(0)


def seqs(sent: list[m.Message]) -> list[int]:
    return [change.seq for message in sent if isinstance(message, m.Changes) for change in message.changes]


async def test_the_next_page_is_read_before_the_one_at_hand_is_handed_out() -> None:
    one = await shell(30)
    one.store.turns_min = one.store.turns_max = 10
    await one.begin()
    while not one.idle:
        one.drain()
        await asyncio.sleep(0)
    assert seqs(one.rig.sent) == list(range(1, 31))
    # Each page once, the last one with nothing behind it.
    assert one.store.reads == list(range(0, 30, PAGE_CHANGES))
    assert one.under_way == [1] * 9 + [0] and one.store.most == 1
    assert one.going_on == [True] * 10


async def test_a_store_that_reads_with_our_own_processor_is_not_asked_ahead() -> None:
    one = await shell(30)
    one.store.reads_apart = False
    await one.begin()
    while not one.idle:
        one.drain()
        await asyncio.sleep(0)
    assert seqs(one.rig.sent) == list(range(1, 31))
    assert one.store.reads == list(range(0, 30, PAGE_CHANGES)) and one.under_way == [0] * 10


async def test_a_session_whose_queue_fills_reads_no_page_that_it_does_not_send() -> None:
    one = await shell(60)
    await one.begin()
    await until_idle(one)
    # Nothing leaves: so it reads on until its queue is crowded, and has thrown nothing away.
    assert one.rig.session.queued_bytes > LIMITS.queued_bytes_max // 2
    pages = [message for message in one.rig.sent if isinstance(message, m.Changes)]
    assert one.store.reads == [page.after for page in pages]
    assert one.going_on[0] and not one.going_on[-1]
    before = len(one.store.reads)
    one.drain()
    await until_idle(one)
    assert len(one.store.reads) > before


@pytest.mark.parametrize(("more", "goes_on"), [(0, True), (1, False)])
async def test_a_page_is_read_ahead_while_the_queue_has_room_for_two(more: int, goes_on: bool) -> None:
    one = await shell(1)
    await one.begin()
    await until_idle(one)
    notice = await append(one.store, one.rig.person, 1)
    one.rig.session._desk.queued_bytes = LIMITS.queued_bytes_max // 2 - PAGES_AHEAD * LIMITS.page_bytes + more
    one.noticed(msgspec.structs.replace(notice, changes=()))
    assert one.going_on[1:] == [goes_on]


async def test_many_that_read_at_once_share_their_calls_and_each_gets_its_own_log() -> None:
    store = SlowStore()
    await store.open()
    shells = []
    for count in range(1, 9):
        someone = await person(store)
        await append(store, someone, 5 * count)
        shells.append(Shell(someone, store))
    services = shells[0].services
    for each in shells:
        each.services = services
        await each.begin()
    async with asyncio.timeout(5):
        while not all(each.idle for each in shells):
            for each in shells:
                each.drain()
            await asyncio.sleep(0)
    for count, each in enumerate(shells, 1):
        assert seqs(each.rig.sent) == list(range(1, 5 * count + 1))
    assert store.most <= PAGE_CALLS_MAX


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("live_only", [False, True])
async def test_whatever_happens_while_pages_are_read_ahead_each_seq_comes_once_and_in_order(
    seed: int, live_only: bool
) -> None:
    world = random.Random(seed)
    one = await shell(0)
    someone, store = one.rig.person, one.store
    await append(store, someone, world.randint(1, 40), records=6)
    store.chance = random.Random(seed + 1)
    store.fails = 0.1
    await one.begin(live_only=live_only)
    life = one.rig.session.incarnation or b""

    def upto() -> int:
        """How far the device is by what it was sent."""
        pages = [message for message in one.rig.sent if isinstance(message, m.Changes)]
        return max([page.upto for page in pages], default=0)

    for _ in range(60):
        deed = world.random()
        if deed < 0.2:
            notice = await append(store, someone, world.randint(1, 7), records=6)
            if world.random() < 0.7:
                one.noticed(notice)
        elif deed < 0.3:
            one.say(m.Unsubscribe(4, someone.space_id, [COLLECTION]))
            one.follow(upto(), life, live_only=live_only)
        elif deed < 0.5:
            one.drain()
        elif deed < 0.6:
            one.rig.now += 4
            one.take(one.rig.session.timer_fired(one.rig.now))
        for _ in range(world.randint(0, 8)):
            await asyncio.sleep(0)
    store.fails = 0.0
    async with asyncio.timeout(5):
        while upto() < (await store.heads([CollectionKey(someone.account_id, someone.space_id, COLLECTION)]))[0]:
            one.drain()
            one.rig.now += 4
            one.take(one.rig.session.timer_fired(one.rig.now))
            one.take(one.rig.session.compare(one.rig.now))
            await until_idle(one)
    await check(one, live_only=live_only)


async def check(one: Shell, *, live_only: bool) -> None:
    someone, store = one.rig.person, one.store
    key = CollectionKey(someone.account_id, someone.space_id, COLLECTION)
    kept = (await MemoryStore.read(store, key, 0, live_only=False, changes_max=9_999, bytes_max=1 << 40)).changes
    at, held = 0, dict[bytes, int]()
    for page in [message for message in one.rig.sent if isinstance(message, m.Changes)]:
        assert page.after == at, "a page out of place"
        at = page.upto
        inside = [change.seq for change in kept if page.after < change.seq <= page.upto]
        told = [change.seq for change in page.changes]
        assert told == inside or (live_only and set(told) <= set(inside) and told == sorted(told))
        for change in page.changes:
            held[parse_header(change.sealed).record_id] = change.seq
    assert at == kept[-1].seq
    newest = {parse_header(change.sealed).record_id: change.seq for change in kept}
    assert held == newest
