"""One frame for all sessions that are sent the same changes: byte for byte what each would encode for itself."""

from __future__ import annotations

from collections.abc import Sequence

from hub.bus import HeadMoved
from hub.effects import Ask, Effect, ReadHeads, Send
from hub.errors import StoreUnavailable
from hub.store import CollectionState, Page
from hub.terms import Change, CollectionKey
from hub.wire import messages as m
from hub.wire.codec import encode
from tests.session_rig import COLLECTION, Person, Rig, person

OTHER = b"o" * 16


async def following(someone: Person, *collections: bytes) -> Rig:
    rig = await Rig(someone).enter()
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


def told(rig: Rig, notice: HeadMoved) -> bytes:
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
    notice = await notice_of(someone, changes)
    frames = [told(rig, notice) for rig in (second, writer, third)]
    assert frames[0] is frames[2] and frames[0] == plain(someone, changes)
    assert frames[1] == plain(someone, changes, own=[1, 2])


async def test_of_a_batch_of_two_writers_each_is_spared_its_own_bytes_only() -> None:
    someone = await person()
    one, other, third = [await following(someone) for _ in range(3)]
    first = await append(one, someone.draft())
    changes = (*first, *await append(other, someone.draft()))
    notice = await notice_of(someone, changes)
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


async def test_the_same_changes_of_two_collections_are_two_frames() -> None:
    someone = await person()
    rig, other = await following(someone, COLLECTION, OTHER), await following(someone, COLLECTION, OTHER)
    changes = (Change(1, 5, b"sealed"),)
    for collection_id in (COLLECTION, OTHER):
        notice = await notice_of(someone, changes, collection_id)
        frames = [told(each, notice) for each in (rig, other)]
        assert frames[0] is frames[1] and frames[0] == plain(someone, changes, collection_id=collection_id)


async def test_two_notices_that_differ_in_their_bytes_alone_are_two_frames() -> None:
    someone = await person()
    rig, other = await following(someone), await following(someone)
    for each, sealed in ((rig, b"one"), (other, b"two")):
        changes = (Change(1, 5, sealed),)
        assert told(each, await notice_of(someone, changes)) == plain(someone, changes)


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
