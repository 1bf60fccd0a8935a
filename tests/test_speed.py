"""The five paths that every append and every catch-up take, held to what they cost.

Time on a shared machine says little; steps (tests/steps.py) say the same each time.  A path that needs a tenth more
of them than it did fails here, and so does one that needs a tenth less: then its number below is to be lowered, so
that the next loss is noticed.  What C code does inside a step is not seen here but in ``python -m loadtest``.
"""

from __future__ import annotations

import sys

import pytest

from hub.bus import HeadMoved
from hub.bus.local import LocalBus
from hub.effects import Send
from hub.fanout import Fanout, Member
from hub.metrics import Metrics
from hub.store import Append, Draft, Page
from hub.store.postgres.batch import Batch
from hub.terms import Change
from hub.wire import messages as m
from hub.wire.codec import encode
from hub.wire.header import parse_header
from tests.session_rig import COLLECTION, Rig, person
from tests.steps import steps

TOLERANCE = 0.10
BODY_BYTES = 256
BATCH = 100
PAGE = 500

# Steps of each path by Python's version, which has a say in how many instructions a line becomes.
STEPS = {
    (3, 11): {"append": 448, "header": 56, "batch": 432, "fan-out": 696, "page": 492},
    (3, 12): {"append": 425, "header": 58, "batch": 400, "fan-out": 673, "page": 477},
    (3, 13): {"append": 417, "header": 58, "batch": 382, "fan-out": 707, "page": 480},
}


def held(path: str, counted: int, per: int = 1) -> None:
    """``counted`` steps for ``per`` things are what the table says, give or take ``TOLERANCE``."""
    known = STEPS.get(sys.version_info[:2], STEPS[max(STEPS)])[path]
    now = counted / per
    assert now <= known * (1 + TOLERANCE), (
        f"{path}: {now:.1f} steps, {now / known - 1:.0%} more than the {known} it took; make it cheaper, or say in the"
        " commit why it is worth that and raise the number"
    )
    assert now >= known * (1 - TOLERANCE), (
        f"{path}: {now:.1f} steps, {1 - now / known:.0%} fewer than the {known} it took: well done, lower the number"
    )


@pytest.mark.parametrize("now", [89, 111])
def test_a_tenth_more_or_less_is_noticed(monkeypatch, now):
    monkeypatch.setitem(STEPS, sys.version_info[:2], {"a path": 100})
    held("a path", 90)
    held("a path", 110)
    with pytest.raises(AssertionError, match=r"a path: .* steps"):
        held("a path", now)


def test_steps_are_counted_the_same_each_time():
    numbers = list(range(100))
    assert steps(lambda: [n + 1 for n in numbers]) == steps(lambda: [n + 1 for n in numbers])
    assert steps(lambda: [n + 1 for n in numbers]) > steps(lambda: [n + 1 for n in numbers[:50]])


class Listener(Member):
    """A session that follows, as the fan-out sees it."""

    def __init__(self, rig: Rig) -> None:
        self.device_id = rig.person.device_id
        self.sent: list[bytes] = []
        self._rig = rig

    def deliver(self, delivery) -> bool:
        frame = self._rig.session.deliver(delivery)
        self.sent.append(frame)
        return bool(frame)

    def notice(self, notice) -> None:
        raise AssertionError("it follows on directly")

    async def compare(self) -> None: ...

    async def compare_witnesses(self) -> None: ...


async def following() -> Rig:
    """A session that follows an empty collection."""
    rig = await Rig(await person()).enter()
    await rig.follow()
    return rig


@pytest.fixture(name="warm")
def once_before():
    """What is looked up or compiled at the first time is not counted."""

    def count(work) -> int:
        work()
        return steps(work)

    return count


async def test_taking_in_an_append_costs_what_it_did(warm):
    rig = await following()
    frames = iter(
        [encode(m.Append(n, rig.person.space_id, [rig.person.draft(body=bytes(BODY_BYTES))])) for n in (8, 9)]
    )
    held("append", warm(lambda: rig.session.received(next(frames), rig.now)))


async def test_reading_a_header_costs_what_it_did(warm):
    sealed = (await person()).draft()
    held("header", warm(lambda: parse_header(sealed)))


async def test_building_a_batch_costs_what_it_did(warm):
    appends = []
    for _ in range(BATCH):
        someone = await person()
        sealed = someone.draft(body=bytes(BODY_BYTES))
        drafts = [Draft(parse_header(sealed), sealed)]
        appends.append(Append(someone.account_id, someone.space_id, someone.device_id, drafts, False))
    held("batch", warm(lambda: Batch(appends).arguments(1.0, 1_000, 1 << 30)), BATCH)


async def test_handing_a_change_to_three_sessions_costs_what_it_did(warm):
    bus = LocalBus()
    fanout = Fanout(bus, Metrics(), sessions_per_account_max=32)
    someone = await person()
    listeners = [Listener(await Rig(someone).enter()) for _ in range(3)]
    for listener in listeners:
        await listener._rig.follow()
        await fanout.join(someone.account_id, listener)
    incarnation = await someone.store.incarnation()
    changes = [Change(seq, 1, someone.draft(body=bytes(BODY_BYTES))) for seq in (1, 2)]
    notices = iter(
        [HeadMoved(someone.space_id, COLLECTION, incarnation, each.seq - 1, each.seq, (each,)) for each in changes]
    )
    counted = warm(lambda: fanout._receive(someone.account_id, next(notices)))
    assert [len(listener.sent) for listener in listeners] == [2, 2, 2]
    held("fan-out", counted)


async def test_a_page_of_catching_up_costs_what_it_did(warm):
    pages = iter(
        [
            Page([Change(n, 1, bytes(408)) for n in range(first, first + PAGE)], first + PAGE - 1, 10_000)
            for first in (1, 1 + PAGE)
        ]
    )
    rig = await following()
    rig.session.noticed(
        HeadMoved(rig.person.space_id, COLLECTION, await rig.person.store.incarnation(), 9_999, 10_000, ()), rig.now
    )

    def page() -> None:
        sent = rig.session.answered(max(rig.session._desk.waiting), next(pages), rig.now)
        assert any(isinstance(each, Send) and each.changes == PAGE for each in sent)

    held("page", warm(page))
