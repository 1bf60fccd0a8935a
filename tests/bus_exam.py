"""The exam of a bus: every promise of ``hub.bus`` as a test that any keeper can sit.

A bus is examined by a class that says how two replicas of one hub get theirs:

    class TestMyBus(BusExam):
        async def make(self): ...

A bus of one process gives the same bus twice.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator

import pytest

from hub.bus import (
    AccountChanged,
    AccountStopped,
    Bus,
    DevicesRevoked,
    HeadMoved,
    Notice,
    NoticesLost,
    PairingPassed,
    SessionOpened,
    Signalled,
    Witnessed,
)
from hub.terms import Change

WITHIN_S = 5.0


def new_id() -> bytes:
    return os.urandom(16)


def head_moved(head: int, *sealed: bytes) -> HeadMoved:
    """A notice that a collection reaches ``head``, with these sealed bytes as its last changes."""
    after = head - len(sealed)
    changes = tuple(Change(after + number, 1_750_000_000_000, body) for number, body in enumerate(sealed, start=1))
    return HeadMoved(new_id(), new_id(), new_id(), after, head, changes)


def one_of_each() -> list[Notice]:
    """Every kind of notice, every field different from its default."""
    return [
        head_moved(7, os.urandom(300), os.urandom(1), b""),
        head_moved(2**53),
        Witnessed(new_id(), new_id(), new_id(), os.urandom(200)),
        Signalled(new_id(), new_id(), new_id(), os.urandom(4_096)),
        Signalled(new_id(), new_id(), None, b""),
        PairingPassed(new_id(), new_id(), True, new_id(), os.urandom(2_048)),
        PairingPassed(new_id(), new_id(), False, None, b""),
        DevicesRevoked(tuple(new_id() for _ in range(60))),
        AccountStopped("suspended"),
        SessionOpened(new_id(), new_id(), 2**62),
        AccountChanged("space_deleted", new_id(), new_id(), 1_750_000_000.25),
        NoticesLost(),
    ]


class Hearer:
    """A receiver that keeps what it hears until it is asked."""

    def __init__(self) -> None:
        self._heard: asyncio.Queue[Notice] = asyncio.Queue()

    def __call__(self, notice: Notice) -> None:
        self._heard.put_nowait(notice)

    async def next(self, within_s: float = WITHIN_S) -> Notice:
        async with asyncio.timeout(within_s):
            return await self._heard.get()

    async def until(self, notice: Notice, within_s: float = WITHIN_S) -> list[Notice]:
        """What it hears up to this notice, that one included."""
        heard = [await self.next(within_s)]
        while heard[-1] != notice:
            heard.append(await self.next(within_s))
        return heard

    def rest(self) -> list[Notice]:
        """What it has heard beyond that."""
        return [self._heard.get_nowait() for _ in range(self._heard.qsize())]


class BusExam:
    """Inherit, say how it is made, and pytest finds the rest."""

    async def make(self) -> tuple[Bus, Bus]:
        """The open buses of two replicas of one hub."""
        raise NotImplementedError

    @pytest.fixture
    async def replicas(self) -> AsyncIterator[tuple[Bus, Bus]]:
        here, there = await self.make()
        yield here, there
        await here.close()
        await there.close()

    async def test_every_kind_of_notice_arrives_whole_on_both_replicas(self, replicas):
        here, there = replicas
        account, ears = new_id(), [Hearer() for _ in set(replicas)]
        for bus, ear in zip(dict.fromkeys(replicas), ears, strict=True):
            await bus.subscribe(account, ear)
        notices = one_of_each()
        for notice in notices:
            here.publish(account, notice)
        for ear in ears:
            assert [await ear.next() for _ in notices] == notices
        there.publish(account, last := head_moved(1))
        for ear in ears:
            assert await ear.until(last) == [last]

    async def test_the_publishers_own_receiver_hears_in_a_later_turn_of_the_loop(self, replicas):
        account, ear = new_id(), Hearer()
        await replicas[0].subscribe(account, ear)
        replicas[0].publish(account, NoticesLost())
        assert ear.rest() == []
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert ear.rest() == [NoticesLost()]

    async def test_a_notice_is_heard_once(self, replicas):
        here, there = replicas
        account, ear, far = new_id(), Hearer(), Hearer()
        await there.subscribe(account, far)
        await here.subscribe(account, ear)  # with a bus of one process the only one
        notices = [head_moved(number) for number in range(1, 51)]
        for notice in notices:
            here.publish(account, notice)
        if here is not there:
            await far.until(notices[-1])  # so whatever comes back from a carrier is on its way back
        there.publish(account, last := head_moved(99))
        assert await ear.until(last) == [*notices, last]
        assert ear.rest() == []

    async def test_only_the_accounts_own_receiver_hears_it(self, replicas):
        here, there = replicas
        mine, other, my_ear, other_ear = new_id(), new_id(), Hearer(), Hearer()
        await there.subscribe(mine, my_ear)
        await there.subscribe(other, other_ear)
        for _ in range(20):
            here.publish(mine, head_moved(1))
        here.publish(mine, last := head_moved(2))
        here.publish(other, fence := head_moved(3))
        assert len(await my_ear.until(last)) == 21
        assert await other_ear.until(fence) == [fence]
        assert my_ear.rest() == []

    async def test_notices_of_one_publisher_keep_their_order(self, replicas):
        here, there = replicas
        account, ear = new_id(), Hearer()
        await there.subscribe(account, ear)
        notices = [head_moved(number, os.urandom(random.randrange(0, 3_000))) for number in range(1, 301)]
        for number, notice in enumerate(notices):
            here.publish(account, notice)
            if number % 7 == 0:
                await asyncio.sleep(0)
        assert [await ear.next() for _ in notices] == notices

    async def test_whoever_has_subscribed_misses_nothing_from_then_on(self, replicas):
        here, there = replicas
        for _ in range(50):
            account, ear = new_id(), Hearer()
            await there.subscribe(account, ear)
            here.publish(account, notice := head_moved(1))
            assert await ear.next() == notice

    async def test_whoever_has_unsubscribed_hears_no_more(self, replicas):
        here, there = replicas
        account, fence_account, ear, fence_ear = new_id(), new_id(), Hearer(), Hearer()
        await there.subscribe(account, ear)
        here.publish(account, first := head_moved(1))
        assert await ear.next() == first
        await there.unsubscribe(account)
        here.publish(account, head_moved(2))
        there.publish(account, head_moved(3))
        await there.subscribe(fence_account, fence_ear)
        here.publish(fence_account, fence := head_moved(4))
        await fence_ear.until(fence)
        assert ear.rest() == []

    async def test_a_notice_under_way_to_a_receiver_that_leaves_is_dropped(self, replicas):
        account, ear = new_id(), Hearer()
        await replicas[0].subscribe(account, ear)
        replicas[0].publish(account, head_moved(1))
        await replicas[0].unsubscribe(account)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert ear.rest() == []

    async def test_unsubscribing_what_was_not_subscribed_does_nothing(self, replicas):
        account, ear = new_id(), Hearer()
        await replicas[1].unsubscribe(account)
        await replicas[1].subscribe(account, ear)
        await replicas[1].unsubscribe(new_id())
        replicas[0].publish(account, notice := head_moved(1))
        assert await ear.next() == notice

    async def test_an_account_can_leave_and_come_back(self, replicas):
        here, there = replicas
        account = new_id()
        for number in range(1, 11):
            ear = Hearer()
            await there.subscribe(account, ear)
            here.publish(account, notice := head_moved(number))
            assert await ear.next() == notice
            await there.unsubscribe(account)
            assert ear.rest() == []

    async def test_a_second_receiver_of_an_account_takes_the_place_of_the_first(self, replicas):
        here, there = replicas
        account, first, second = new_id(), Hearer(), Hearer()
        await there.subscribe(account, first)
        await there.subscribe(account, second)
        here.publish(account, notice := head_moved(1))
        assert await second.next() == notice
        assert first.rest() == []

    async def test_many_accounts_subscribe_at_once_and_each_hears_its_own(self, replicas):
        here, there = replicas
        ears = {new_id(): Hearer() for _ in range(500)}
        await asyncio.gather(*(there.subscribe(account, ear) for account, ear in ears.items()))
        notices = {account: head_moved(number) for number, account in enumerate(ears)}
        for account, notice in notices.items():
            here.publish(account, notice)
        for account, ear in ears.items():
            assert await ear.next() == notices[account]
        assert [ear for ear in ears.values() if ear.rest()] == []

    async def test_a_receiver_that_raises_costs_the_others_nothing(self, replicas):
        here, there = replicas
        reported = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
        try:
            bad, good, ear = new_id(), new_id(), Hearer()

            def raising(notice: Notice) -> None:
                raise ZeroDivisionError

            await there.subscribe(bad, raising)
            await there.subscribe(good, ear)
            here.publish(bad, head_moved(1))
            there.publish(bad, head_moved(2))
            here.publish(good, one := head_moved(3))
            assert await ear.next() == one
            async with asyncio.timeout(WITHIN_S):
                while len(reported) < 2:
                    await asyncio.sleep(0.01)
            here.publish(good, two := head_moved(4))
            assert await ear.next() == two
            assert {type(error) for error in reported} == {ZeroDivisionError}
        finally:
            loop.set_exception_handler(None)

    async def test_publishing_to_nobody_and_before_anybody_is_no_error(self, replicas):
        here, there = replicas
        account, ear = new_id(), Hearer()
        here.publish(account, head_moved(1))
        await asyncio.sleep(0)
        await there.subscribe(account, ear)
        here.publish(account, notice := head_moved(2))
        # One published before the subscription may come as well: a notice may be late.
        assert (await ear.until(notice))[-1] == notice

    async def test_a_closed_bus_is_silent_and_raises_nothing(self, replicas):
        here, _ = replicas
        account, ear = new_id(), Hearer()
        await here.subscribe(account, ear)
        here.publish(account, head_moved(1))
        await here.close()
        heard = len(ear.rest())
        assert heard <= 1
        here.publish(account, head_moved(2))
        await asyncio.sleep(0.05)
        assert ear.rest() == []
        await here.unsubscribe(account)
        await here.close()
