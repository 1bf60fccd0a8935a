"""From one notice to the sessions it concerns, and to nobody else."""

from __future__ import annotations

import asyncio

import pytest

from hub.bus import DevicesRevoked, Notice, Receiver
from hub.bus.local import LocalBus
from hub.errors import Refusal
from hub.fanout import Fanout

ANNA, BEN = b"a" * 16, b"b" * 16
NOTICE = DevicesRevoked((b"x" * 16,))


class Session:
    def __init__(self, device_id: bytes = b"d" * 16) -> None:
        self.device_id = device_id
        self.heard: list[Notice] = []

    def notice(self, notice: Notice) -> None:
        self.heard.append(notice)


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
    return Fanout(bus or LocalBus(), sessions_per_account_max=most)


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
