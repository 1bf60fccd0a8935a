"""One frame for all sessions that are sent the same changes: byte for byte what each would encode for itself.

And the fast path of delivering (hub/delivery.py) against the rule it stands for.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from hub.bus import HeadMoved
from hub.delivery import Delivery
from hub.effects import Ask, Effect, ReadHeads, ReadPage, ReadStates, Send
from hub.errors import StoreUnavailable
from hub.store import CollectionState, Page
from hub.terms import Change, CollectionKey, Limits
from hub.wire import messages as m
from hub.wire.codec import encode
from tests.session_rig import COLLECTION, Person, Rig, person

OTHER = b"o" * 16


async def following(someone: Person, *collections: bytes, limits: Limits | None = None, **hello: bool) -> Rig:
    rig = await Rig(someone, limits).enter(**hello)
    cursors = [m.CursorPart(each, await someone.store.incarnation(), 0) for each in collections or (COLLECTION,)]
    await rig.say(m.Subscribe(2, someone.space_id, cursors))
    return rig


async def append(rig: Rig, *drafts: bytes) -> tuple[Change, ...]:
    """What this session has appended; nobody is noticed."""
    appended = await rig.append(*drafts)
    key = CollectionKey(rig.person.account_id, rig.person.space_id, COLLECTION)
    after = appended.answers[0].seq - 1
    return tuple((await rig.person.store.read(key, after, live_only=False, changes_max=99, bytes_max=9_999)).changes)


async def notice_of(someone: Person, changes: Sequence[Change], collection_id: bytes = COLLECTION) -> HeadMoved:
    after, head = changes[0].seq - 1, changes[-1].seq
    life = await someone.store.incarnation()
    return HeadMoved(someone.space_id, collection_id, life, after, head, tuple(changes))


def told(rig: Rig, notice: HeadMoved | Delivery) -> bytes:
    if isinstance(notice, Delivery):
        return rig.session.deliver(notice)
    (send,) = rig.session.noticed(notice, rig.now)
    assert isinstance(send, Send)
    return send.frame


def plain(
    someone: Person,
    changes: Sequence[Change],
    head: int = 0,
    collection_id: bytes = COLLECTION,
    own: Sequence[int] = (),
) -> bytes:
    """The frame as one session would make it, part by part."""
    parts = [m.ChangePart(c.seq, c.appended_at_ms, b"" if c.seq in own else c.sealed) for c in changes]
    after, upto = changes[0].seq - 1, changes[-1].seq
    return encode(m.Changes(someone.space_id, collection_id, after, upto, head or upto, parts))


async def test_sessions_that_follow_are_sent_one_and_the_same_frame_and_the_writer_its_own() -> None:
    someone = await person()
    writer, second, third = [await following(someone) for _ in range(3)]
    changes = await append(writer, someone.draft(), someone.draft())
    delivery = Delivery(await notice_of(someone, changes))
    frames = [told(rig, delivery) for rig in (second, writer, third)]
    assert frames[0] is frames[2] and frames[0] == plain(someone, changes)
    assert frames[1] == plain(someone, changes, own=[1, 2])


async def test_of_a_batch_of_two_writers_each_is_spared_its_own_bytes_only() -> None:
    someone = await person()
    one, other, third = [await following(someone) for _ in range(3)]
    first = await append(one, someone.draft())
    changes = (*first, *await append(other, someone.draft()))
    notice = Delivery(await notice_of(someone, changes))
    assert told(one, notice) == plain(someone, changes, own=[1])
    assert told(other, notice) == plain(someone, changes, own=[2])
    assert told(third, notice) == plain(someone, changes)


async def test_a_session_that_knows_a_higher_head_is_told_that_one() -> None:
    someone = await person()
    writer, ahead, third = [await following(someone) for _ in range(3)]
    first = await append(writer, someone.draft())
    second = await append(writer, someone.draft())
    early, late = await notice_of(someone, first), await notice_of(someone, second)
    frame = told(third, early)
    asked = ahead.session.noticed(late, ahead.now)  # the notices overtook one another: it reads
    assert isinstance(asked[0], Ask)
    answered = ahead.session.answered(asked[0].token, Page(first, 1, 2), ahead.now)
    assert isinstance(answered[0], Send)
    assert (frame, answered[0].frame) == (plain(someone, first), plain(someone, first, head=2))


# --- the fast path ---


class Twins:
    """Two sessions that live through the same; one is offered the fast path, the other has the rule alone."""

    def __init__(self, fast: Rig, slow: Rig) -> None:
        self.fast, self.slow = fast, slow
        self.taken = self.declined = 0
        self.asked: list[tuple[Ask, Ask]] = []
        self.frames: tuple[list[bytes], list[bytes]] = ([], [])

    def notice(self, notice: HeadMoved) -> None:
        if notice.changes and (frame := self.fast.session.deliver(Delivery(notice))):
            self.taken += 1
            self.frames[0].append(frame)
            self._both([], self.slow.session.noticed(notice, self.slow.now))
            return
        self.declined += 1
        self._both(*(each.session.noticed(notice, each.now) for each in (self.fast, self.slow)))

    def append(self, changes: Sequence[Change]) -> None:
        for each in (self.fast, self.slow):
            assert each.session.facts is not None
            each.session.facts.following.appended(each.person.space_id, [(COLLECTION, change) for change in changes])

    def answer(self, result: object) -> None:
        """The oldest question."""
        if self.asked:
            asks = self.asked.pop(0)
            self._both(
                *(
                    each.session.answered(ask.token, result, each.now)
                    for each, ask in zip((self.fast, self.slow), asks, strict=True)
                )
            )

    def say(self, message: m.Message) -> None:
        self._both(*(each.session.received(encode(message), each.now) for each in (self.fast, self.slow)))

    def sent(self, share: float) -> None:
        for each in (self.fast, self.slow):
            each.now += 0.01
        count = int(self.slow.session.queued_bytes * share)
        self._both(*(each.session.sent(count, each.now) for each in (self.fast, self.slow)))

    def sent_to(self) -> int:
        """Up to where they were sent the collection."""
        sent, other = [
            [(each.sent, each.head) for each in twin.session.facts.following._subscriptions.values()]  # type: ignore[union-attr]
            for twin in (self.fast, self.slow)
        ]
        assert sent == other
        return sent[0][0] if sent else 0

    def _both(self, of_fast: list[Effect], of_slow: list[Effect]) -> None:
        asked = []
        for effects, frames in zip((of_fast, of_slow), self.frames, strict=True):
            frames += [each.frame for each in effects if isinstance(each, Send)]
            asked.append([each for each in effects if isinstance(each, Ask)])
        assert [ask.what for ask in asked[0]] == [ask.what for ask in asked[1]]
        self.asked += zip(*asked, strict=True)
        assert self.frames[0] == self.frames[1]
        for frames in self.frames:
            frames.clear()
        self.sent_to()
        assert self.fast.session.queued_bytes == self.slow.session.queued_bytes
        assert self.fast.session.timer() == self.slow.session.timer()


CROWDED = replace(Limits(), queued_bytes_max=4_096)  # half of it crowds a session


@pytest.mark.parametrize("heads_only", [False, True])
@pytest.mark.parametrize("seed", range(12))
async def test_the_fast_path_sends_and_asks_what_the_rule_does(seed: int, heads_only: bool) -> None:
    chance = random.Random(seed)
    someone = await person()
    fast, slow = [await following(someone, limits=CROWDED, heads_only=heads_only) for _ in range(2)]
    slow.session.session_id = fast.session.session_id  # it has a say in when something is asked again
    twins = Twins(fast, slow)
    life, head = await someone.store.incarnation(), 0
    log: list[Change] = []
    for _ in range(400):
        what = chance.choices(
            ["next", "own", "late", "gap", "empty", "other life", "sent", "answer", "fail", "again", "leave"],
            [30, 10, 5, 1, 2, 2, 40, 40, 1, 1, 2],
        )[0]
        if what in ("next", "own", "empty", "other life"):
            fresh = [
                Change(len(log) + n, 7, chance.randbytes(chance.choice([40, 300])))
                for n in range(1, chance.randint(2, 4))
            ]
            if what == "own":
                twins.append(chance.sample(fresh, chance.randint(1, len(fresh))))
            log += fresh
        if what in ("next", "own", "late", "gap", "empty", "other life"):
            after = {"late": twins.sent_to(), "gap": head + 1}.get(what, head)
            changes = tuple(log[after:])
            if changes:
                head = len(log)
                twins.notice(
                    HeadMoved(
                        someone.space_id,
                        COLLECTION,
                        b"?" * 16 if what == "other life" else life,
                        after,
                        head,
                        () if what == "empty" else changes,
                    )
                )
        elif what == "sent":
            twins.sent(chance.choice([0.5, 1.0]))
        elif what == "fail":
            twins.answer(StoreUnavailable("restarting"))
        elif what == "again":
            cursor = m.CursorPart(COLLECTION, life, chance.randint(0, len(log)))
            twins.say(m.Subscribe(9, someone.space_id, [cursor]))
        elif what == "leave":
            twins.say(m.Unsubscribe(9, someone.space_id, [COLLECTION]))
            twins.say(m.Subscribe(9, someone.space_id, [m.CursorPart(COLLECTION, life, 0)]))
        elif twins.asked:
            twins.answer(_answer(twins.asked[0][0], log))
    assert (twins.taken > 10 and twins.declined > 10) if not heads_only else twins.taken == 0


def _answer(ask: Ask, log: list[Change]) -> object:
    match ask.what:
        case ReadPage(after=after):
            changes = log[after : after + 50]
            return Page(changes, changes[-1].seq if changes else len(log), len(log))
        case ReadStates():
            return [CollectionState(COLLECTION, len(log), 0)]
        case ReadHeads():
            return [len(log)]
    return []  # witnesses


# --- heads ---


def heads_asked(effects: Sequence[Effect]) -> Ask:
    (ask,) = effects
    assert isinstance(ask, Ask) and isinstance(ask.what, ReadHeads)
    return ask


async def test_the_heads_of_all_spaces_are_one_question() -> None:
    someone = await person()
    rig = await following(someone, COLLECTION, OTHER)
    second = Person(someone.store, someone.account_id, device_id=someone.device_id)
    await second.make_space()
    await rig.say(m.Enter(4, [m.SpaceProof(second.space_id, 0, rig.space_proof(second))]))
    await rig.say(m.Subscribe(5, second.space_id, [m.CursorPart(COLLECTION, await someone.store.incarnation(), 0)]))
    await append(rig, someone.draft())
    ask = heads_asked(rig.session.received(encode(m.Ping()), rig.now))
    keys = ((someone.space_id, COLLECTION), (someone.space_id, OTHER), (second.space_id, COLLECTION))
    assert ask.what == ReadHeads(keys)
    *asked, pong = rig.session.answered(ask.token, [1, 0, 0], rig.now)
    assert isinstance(pong, Send) and [type(each) for each in asked] == [Ask]  # it reads what it had not heard of
    assert pong.frame == encode(m.Pong([m.HeadPart(*key, head) for key, head in zip(keys, [1, 0, 0], strict=True)]))


async def test_a_ping_goes_out_without_heads_when_the_store_does_not_answer() -> None:
    rig = await following(await person())
    rig.now += rig.limits.heartbeat_s
    ask = heads_asked(rig.session.timer_fired(rig.now))
    (ping,) = rig.session.answered(ask.token, StoreUnavailable("restarting"), rig.now)
    assert isinstance(ping, Send) and ping.frame == encode(m.Ping())
    due = rig.session.timer()
    assert due is not None and due < rig.now + 2  # and it is asked again


async def test_a_collection_left_while_its_head_is_asked_for_is_not_followed_again() -> None:
    someone = await person()
    rig = await following(someone)
    ask = heads_asked(rig.session.received(encode(m.Ping()), rig.now))
    await rig.say(m.Unsubscribe(6, someone.space_id, [COLLECTION]))
    (pong,) = rig.session.answered(ask.token, [7], rig.now)
    assert isinstance(pong, Send)
    assert CollectionState(COLLECTION, 0, 0) in await someone.store.states(
        someone.account_id, someone.space_id, someone.device_id, [COLLECTION]
    )
