"""From one notice to the sessions it concerns, and to nobody else."""

from __future__ import annotations

import asyncio
import time
from typing import ClassVar

import pytest

from hub import fanout as room_of_fanout
from hub.bus import DevicesRevoked, HeadMoved, Notice, NoticesLost, Receiver
from hub.bus.local import LocalBus
from hub.delivery import Delivery
from hub.errors import Refusal
from hub.fanout import Fanout
from hub.metrics import Metrics
from hub.terms import Change

ANNA, BEN = b"a" * 16, b"b" * 16
NOTICE = DevicesRevoked((b"x" * 16,))


class Session:
    def __init__(self, device_id: bytes = b"d" * 16, *, follows: bool = False) -> None:
        self.device_id = device_id
        self.heard: list[Notice] = []
        self.delivered: list[bytes] = []
        self._follows = follows

    def deliver(self, delivery: Delivery) -> bool:
        if self._follows:
            self.delivered.append(delivery.frame())
        return self._follows

    def notice(self, notice: Notice) -> None:
        self.heard.append(notice)

    async def compare(self) -> None:
        raise AssertionError("nothing was lost")

    async def compare_witnesses(self) -> None:
        raise AssertionError("nothing was lost")


class CountingBus(LocalBus):
    """The local bus, which also remembers who is followed."""

    def __init__(self) -> None:
        super().__init__()
        self.followed: set[bytes] = set()
        self.calls = 0

    async def subscribe(self, account_id: bytes, receiver: Receiver) -> None:
        self.calls += 1
        await asyncio.sleep(0)  # as a bus over the network would
        self.followed.add(account_id)
        await super().subscribe(account_id, receiver)

    async def unsubscribe(self, account_id: bytes) -> None:
        self.calls += 1
        await asyncio.sleep(0)
        self.followed.discard(account_id)
        await super().unsubscribe(account_id)


def fanout(bus: LocalBus | None = None, most: int = 32) -> Fanout:
    return Fanout(bus or LocalBus(), Metrics(), sessions_per_account_max=most)


async def test_a_notice_reaches_every_session_of_the_account_and_no_other() -> None:
    bus = LocalBus()
    room = fanout(bus)
    first, second, stranger = Session(), Session(), Session()
    await room.join(ANNA, first)
    await room.join(ANNA, second)
    await room.join(BEN, stranger)
    bus.publish(ANNA, NOTICE)
    await asyncio.sleep(0)
    assert first.heard == second.heard == [NOTICE] and stranger.heard == []


async def test_who_follows_on_is_sent_one_frame_and_counted_and_the_others_look_for_themselves() -> None:
    bus, metrics = LocalBus(), Metrics()
    room = Fanout(bus, metrics, sessions_per_account_max=9)
    first, behind, second = Session(follows=True), Session(), Session(follows=True)
    for session in (first, behind, second):
        await room.join(ANNA, session)
    at_ms = int(time.time() * 1000) - 300
    notice = HeadMoved(b"s" * 16, b"c" * 16, b"i" * 16, 4, 6, (Change(5, at_ms - 9, b"x"), Change(6, at_ms, b"y")))
    bus.publish(ANNA, notice)
    await asyncio.sleep(0)
    assert behind.heard == [notice] and first.heard == second.heard == []
    assert first.delivered[0] is second.delivered[0] and behind.delivered == []
    assert metrics.changes_delivered.get() == 4
    sessions, seconds = metrics.delivery_seconds.get()
    assert sessions == 2 and 0.6 <= seconds < 10


async def test_new_changes_that_nobody_follows_directly_are_not_counted_as_delivered() -> None:
    bus, metrics = LocalBus(), Metrics()
    room = Fanout(bus, metrics, sessions_per_account_max=9)
    behind, follows = Session(), Session(follows=True)
    await room.join(ANNA, behind)
    bus.publish(ANNA, HeadMoved(b"s" * 16, b"c" * 16, b"i" * 16, 4, 5, (Change(5, 1, b"x"),)))
    await asyncio.sleep(0)
    await room.join(ANNA, follows)
    bus.publish(ANNA, HeadMoved(b"s" * 16, b"c" * 16, b"i" * 16, 5, 6))  # too large to be carried
    await asyncio.sleep(0)
    assert len(behind.heard) == 2 and len(follows.heard) == 1 and follows.delivered == []
    assert metrics.delivery_seconds.get() == (0, 0.0)


async def test_the_publisher_is_finished_before_anybody_hears() -> None:
    bus = LocalBus()
    room = fanout(bus)
    session = Session()
    await room.join(ANNA, session)
    bus.publish(ANNA, NOTICE)
    assert session.heard == []
    await asyncio.sleep(0)
    assert session.heard == [NOTICE]


async def test_who_left_hears_nothing_more() -> None:
    bus = LocalBus()
    room = fanout(bus)
    session = Session()
    await room.join(ANNA, session)
    bus.publish(ANNA, NOTICE)
    await room.leave(ANNA, session)
    await asyncio.sleep(0)
    assert session.heard == []


async def test_the_bus_is_followed_with_the_first_session_and_left_with_the_last() -> None:
    bus = CountingBus()
    room = fanout(bus)
    first, second = Session(), Session()
    await room.join(ANNA, first)
    await room.join(ANNA, second)
    assert bus.followed == {ANNA} and bus.calls == 1
    await room.leave(ANNA, first)
    assert bus.followed == {ANNA}
    await room.leave(ANNA, second)
    assert bus.followed == set() and bus.calls == 2


async def test_joining_and_leaving_at_once_never_leave_a_session_unfollowed() -> None:
    bus = CountingBus()
    room = fanout(bus)
    for _ in range(20):
        leaving, joining = Session(), Session()
        await room.join(ANNA, leaving)
        await asyncio.gather(room.leave(ANNA, leaving), room.join(ANNA, joining))
        bus.publish(ANNA, NOTICE)
        await asyncio.sleep(0)
        assert joining.heard == [NOTICE]
        await room.leave(ANNA, joining)


@pytest.mark.parametrize("most", [1, 32])
async def test_an_account_has_its_most_sessions_and_no_more(most: int) -> None:
    room = fanout(most=most)
    for _ in range(most):
        await room.join(ANNA, Session())
    with pytest.raises(Refusal) as refused:
        await room.join(ANNA, Session())
    assert refused.value.code == "too_many"
    await room.join(BEN, Session())


async def test_leaving_twice_or_without_having_joined_does_nothing() -> None:
    room = fanout()
    session = Session()
    await room.leave(ANNA, session)
    await room.join(ANNA, session)
    await room.leave(ANNA, session)
    await room.leave(ANNA, session)
    assert room.device_ids() == set()


async def test_sessions_are_found_by_their_devices() -> None:
    room = fanout()
    phone, laptop = Session(b"p" * 16), Session(b"l" * 16)
    await room.join(ANNA, phone)
    await room.join(BEN, laptop)
    assert room.device_ids() == {b"p" * 16, b"l" * 16}
    assert room.members_of_devices({b"l" * 16, b"z" * 16}) == [laptop]


async def test_a_joining_that_fails_leaves_nobody_unfollowed() -> None:
    class Failing(CountingBus):
        fails = True

        async def subscribe(self, account_id: bytes, receiver: Receiver) -> None:
            await super().subscribe(account_id, receiver)
            if self.fails:
                await asyncio.Event().wait()

    bus = Failing()
    room = fanout(bus)
    given_up = asyncio.create_task(room.join(ANNA, Session()))
    while not bus.followed:
        await asyncio.sleep(0)
    waiting = asyncio.create_task(room.join(ANNA, session := Session()))
    await asyncio.sleep(0)
    bus.fails = False
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    await waiting
    bus.publish(ANNA, NOTICE)
    await asyncio.sleep(0)
    assert session.heard == [NOTICE]


# --- after lost notices ---


class Comparing(Session):
    """Compares when it is let, and writes down what happens."""

    under_way = 0
    most_under_way = 0
    log: ClassVar[list[str]] = []
    may_go_on: ClassVar[asyncio.Event] = asyncio.Event()

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.compared = 0
        self._fails = fails

    async def compare(self) -> None:
        await self._turn("heads")
        self.compared += 1

    async def compare_witnesses(self) -> None:
        await self._turn("witnesses")

    async def _turn(self, what: str) -> None:
        kind = type(self)
        kind.under_way += 1
        kind.most_under_way = max(kind.most_under_way, kind.under_way)
        await kind.may_go_on.wait()
        await asyncio.sleep(0)
        kind.under_way -= 1
        kind.log.append(what)
        if self._fails:
            raise ValueError("in the middle of it")


@pytest.fixture
def comparing() -> type[Comparing]:
    """A class of its own for each test, since it counts."""
    return type("ComparingHere", (Comparing,), {"log": [], "may_go_on": asyncio.Event()})


async def all_quiet(room: Fanout) -> None:
    while room._comparing:
        await asyncio.sleep(0)


async def test_after_lost_notices_only_a_few_sessions_ask_at_once_and_all_do(comparing: type[Comparing]) -> None:
    bus = LocalBus()
    room = fanout(bus)
    accounts = [number.to_bytes(16, "big") for number in range(1_000)]
    members = [comparing() for _ in accounts]
    for account_id, member in zip(accounts, members, strict=True):
        await room.join(account_id, member)
        bus.publish(account_id, NoticesLost())
    await asyncio.sleep(0)
    comparing.may_go_on.set()
    await all_quiet(room)
    assert comparing.most_under_way == room_of_fanout.COMPARING_AT_ONCE_MAX
    assert [member.compared for member in members] == [1] * 1_000
    assert all(not member.heard for member in members)
    # Witnesses come last; by then the other turns are over, but for the few that were under way.
    last = comparing.log[1_000 - room_of_fanout.COMPARING_AT_ONCE_MAX :]
    assert comparing.log.count("witnesses") == 1_000 == last.count("witnesses")


async def test_witnesses_are_asked_for_by_one_session_at_a_time(comparing: type[Comparing]) -> None:
    bus = LocalBus()
    room = fanout(bus, most=100)
    members = [comparing() for _ in range(50)]
    for member in members:
        await room.join(ANNA, member)
    comparing.may_go_on.set()
    bus.publish(ANNA, NoticesLost())
    while comparing.log.count("heads") < 50 or comparing.under_way > 1:
        await asyncio.sleep(0)
    comparing.most_under_way = 0
    await all_quiet(room)
    assert comparing.most_under_way <= 1 and comparing.log.count("witnesses") == 50


async def test_those_who_missed_notices_do_not_wait_for_the_witnesses_of_others(comparing: type[Comparing]) -> None:
    slow_witness = asyncio.Event()

    class Slow(comparing):  # type: ignore[misc,valid-type]
        async def compare_witnesses(self) -> None:
            await slow_witness.wait()

    bus = LocalBus()
    room = fanout(bus, most=100)
    comparing.may_go_on.set()
    for _ in range(room_of_fanout.COMPARING_AT_ONCE_MAX + 1):
        await room.join(ANNA, Slow())
    bus.publish(ANNA, NoticesLost())
    while len(room._comparing) != 1:
        await asyncio.sleep(0)
    late = comparing()
    await room.join(BEN, late)
    bus.publish(BEN, NoticesLost())
    async with asyncio.timeout(1):
        while not late.compared:
            await asyncio.sleep(0)
    slow_witness.set()
    await all_quiet(room)


async def test_notices_lost_while_a_session_compares_make_it_compare_again(comparing: type[Comparing]) -> None:
    bus = LocalBus()
    room = fanout(bus)
    member = comparing()
    await room.join(ANNA, member)
    bus.publish(ANNA, NoticesLost())
    while not comparing.under_way:
        await asyncio.sleep(0)
    for _ in range(3):
        bus.publish(ANNA, NoticesLost())
    await asyncio.sleep(0)
    comparing.may_go_on.set()
    await all_quiet(room)
    assert member.compared == 2


async def test_a_session_that_fails_while_comparing_costs_the_others_nothing(comparing: type[Comparing]) -> None:
    bus = LocalBus()
    room = fanout(bus, most=100)
    comparing.may_go_on.set()
    members = [comparing(fails=number % 2 == 0) for number in range(40)]
    for member in members:
        await room.join(ANNA, member)
    bus.publish(ANNA, NoticesLost())
    await asyncio.sleep(0)
    await all_quiet(room)
    assert sum(member.compared for member in members) == 20 and comparing.log.count("witnesses") == 40


async def test_after_close_nobody_compares(comparing: type[Comparing]) -> None:
    bus = LocalBus()
    room = fanout(bus)
    await room.join(ANNA, comparing())
    bus.publish(ANNA, NoticesLost())
    await asyncio.sleep(0)
    await room.close()
    comparing.may_go_on.set()
    await asyncio.sleep(0)
    assert comparing.log == [] and not room._comparing
