"""One connection from hello to close: each stage, each message, each limit, by name."""

from __future__ import annotations

import itertools
import secrets
from dataclasses import replace
from typing import Any

import pytest
from nacl.signing import SigningKey

from hub import signing
from hub.bus import AccountChanged, DevicesRevoked, HeadMoved, SessionOpened, Signalled, Witnessed
from hub.effects import AppendDrafts, EnrolDevice, Known, ReadHeads, ReadPage, ReadStates, ReadWitnesses
from hub.errors import CLOSINGS, Refusal, StoreUnavailable
from hub.session import ASKS_IN_FLIGHT_MAX, LEAVE_WITHIN_S, READ_AGAIN_AFTER_S_MAX
from hub.store import Append, Draft
from hub.terms import ZERO_ID, CollectionKey, Kind, Limits
from hub.wire import messages as m
from hub.wire.codec import encode
from hub.wire.header import parse_header
from tests.session_rig import APP, COLLECTION, HUB_URL, POLICY, Person, Rig, person


def code(name: str) -> int:
    return CLOSINGS[name].code


def refused(answers: list[m.Message]) -> str:
    (answer,) = answers
    assert isinstance(answer, m.Refused), answer
    return answer.code


async def commit(someone: Person, *drafts: bytes) -> HeadMoved:
    """Another device's append: durable, and the notice it causes."""
    parsed = [Draft(parse_header(sealed), sealed) for sealed in drafts]
    append = Append(someone.account_id, someone.space_id, parsed[0].header.device_id, parsed)
    (done,) = await someone.store.append([append], 1.0)
    changes = tuple(change for _, change in done.fresh)
    incarnation = await someone.store.incarnation()
    return HeadMoved(someone.space_id, COLLECTION, incarnation, changes[0].seq - 1, changes[-1].seq, changes)


# --- handshake ---


async def test_a_known_device_that_signs_is_ready() -> None:
    rig = await Rig(await person()).ready()
    ready = rig.sent[-1]
    assert isinstance(ready, m.Ready)
    assert ready.account_id == rig.person.account_id
    assert [space.space_id for space in ready.spaces] == [rig.person.space_id]


async def test_anything_but_hello_first_is_malformed() -> None:
    rig = Rig(await person())
    await rig.say(m.Ping())
    assert rig.closed and rig.closed.code == code("malformed")


async def test_a_hello_without_our_version_is_told_so() -> None:
    rig = Rig(await person())
    await rig.say(m.Hello([2, 3], rig.person.device_id, bytes(32)))
    assert rig.closed and rig.closed.code == code("version")


@pytest.mark.parametrize(("surplus", "closes"), [(0, False), (1, True)])
async def test_a_hello_may_have_2048_bytes(surplus: int, closes: bool) -> None:
    rig = Rig(await person())
    features = ["x" * 32] * 16
    base = len(encode(m.Hello([1], rig.person.device_id, bytes(32), features)))
    # Unknown keys are ignored, so one of them fills the frame to the byte.
    frame = encode(m.Hello([1], rig.person.device_id, bytes(32), features))
    filler = rig.limits.hello_bytes_max + surplus - base - 8
    padded = bytes([frame[0] + 1]) + frame[1:] + b"\xa4fill" + b"\xda" + filler.to_bytes(2, "big") + b"x" * filler
    assert len(padded) == rig.limits.hello_bytes_max + surplus
    await rig.say(padded)
    assert (rig.closed is not None) is closes


@pytest.mark.parametrize("case", ["unknown", "revoked", "signature", "url", "purpose", "other_connection"])
async def test_every_failed_auth_gets_the_same_closing(case: str) -> None:
    someone = await person()
    rig = Rig(someone)
    if case == "unknown":
        someone.device_id = secrets.token_bytes(16)
    if case == "revoked":
        await someone.store.revoke(someone.account_id, [someone.device_id], 5.0)
    await rig.greet()
    proof = rig.proof()
    if case == "signature":
        proof = rig.proof(key=SigningKey.generate())
    if case == "url":
        proof = rig.proof(url="wss://evil.example.org/v1/ws")
    if case == "purpose":
        proof = rig.proof("enrol")
    if case == "other_connection":
        other = Rig(someone)
        await other.greet()
        proof = other.proof()
    await rig.say(m.Auth(proof))
    assert rig.closed and (rig.closed.code, rig.closed.reason) == (code("auth_failed"), "auth_failed")
    assert rig.opened is None


@pytest.mark.parametrize("which", ["hello", "challenge"])
async def test_a_handshake_altered_on_the_way_does_not_verify(which: str) -> None:
    rig = Rig(await person())
    await rig.greet(features=["later"])
    if which == "hello":
        rig.hello = rig.hello.replace(b"later", b"eaten")
    else:
        rig.challenge = rig.challenge.replace(b"closed", b"opened")
    await rig.say(m.Auth(rig.proof()))
    assert rig.closed and rig.closed.name == "auth_failed"


async def test_a_device_may_dial_any_of_the_hubs_urls() -> None:
    rig = Rig(await person())
    await rig.greet()
    await rig.say(m.Auth(rig.proof(url="wss://other.example.org/v1/ws")))
    assert rig.opened


async def test_server_nonces_differ_between_connections() -> None:
    someone = await person()
    challenges = set()
    for _ in range(100):
        rig = Rig(someone)
        await rig.greet()
        challenges.add(rig.challenge)
    assert len(challenges) == 100


async def test_a_second_auth_is_out_of_turn() -> None:
    rig = await Rig(await person()).ready()
    assert refused(await rig.say(m.Auth(rig.proof()))) == "out_of_turn"


@pytest.mark.parametrize("stage", ["new", "greeted"])
async def test_hello_and_auth_have_their_time(stage: str) -> None:
    rig = Rig(await person())
    within = POLICY.hello_within_s
    if stage == "greeted":
        await rig.greet()
        within = POLICY.auth_within_s
    rig.wait(within - 0.01)
    assert rig.closed is None
    rig.wait(0.02)
    assert rig.closed and rig.closed.name == "too_slow"


@pytest.mark.parametrize(
    ("looked_up_after", "within"), [(1.0, POLICY.auth_within_s - 1.0), (60.0, POLICY.hello_within_s)]
)
async def test_the_time_a_look_up_takes_is_not_the_devices(looked_up_after: float, within: float) -> None:
    rig = Rig(await person())
    hello = m.Hello(v=[1], device_id=rig.person.device_id, client_nonce=secrets.token_bytes(32))
    rig.take(rig.session.received(encode(hello), rig.now))
    rig.wait(looked_up_after)
    assert rig.closed is None
    await rig.answer()
    rig.wait(within - 0.01)
    assert rig.closed is None
    rig.wait(0.02)
    assert rig.closed and rig.closed.name == "too_slow"


async def test_a_store_that_fails_during_hello_closes_the_connection() -> None:
    from hub.effects import LookUp

    rig = Rig(await person())
    rig.fail_with[LookUp] = StoreUnavailable("gone")
    await rig.greet()
    assert rig.closed and rig.closed.name == "internal"


async def test_the_heartbeat_a_phone_asks_for_is_kept_within_its_bounds() -> None:
    someone = await person()
    got = []
    for wish in (0, 14, 15, 300, 301):
        rig = await Rig(someone).ready(heartbeat_s=wish)
        ready = rig.sent[-1]
        assert isinstance(ready, m.Ready)
        got.append(ready.heartbeat_s)
    assert got == [25, 15, 15, 300, 300]


# --- spaces ---


async def test_a_space_is_entered_with_its_proof() -> None:
    rig = await Rig(await person()).enter()
    assert rig.person.space_id in rig.session.facts.entered  # type: ignore[union-attr]


async def test_a_wrong_space_proof_is_refused() -> None:
    rig = await Rig(await person()).ready()
    bad = signing.sign(SigningKey.generate(), "space", HUB_URL, rig.hello, rig.challenge + rig.person.space_id)
    answer = await rig.say(m.Enter(1, [m.SpaceProof(rig.person.space_id, 0, bad)]))
    assert refused(answer) == "bad_space_proof"


async def test_a_space_proof_for_another_space_is_refused() -> None:
    rig = await Rig(await person()).ready()
    proof = signing.sign(rig.person.space_key, "space", HUB_URL, rig.hello, rig.challenge + bytes(16))
    assert refused(await rig.say(m.Enter(1, [m.SpaceProof(rig.person.space_id, 0, proof)]))) == "bad_space_proof"


async def test_an_unknown_space_and_a_strangers_space_are_the_same_to_the_asker() -> None:
    someone = await person()
    stranger = await person(someone.store)
    rig = await Rig(someone).ready()
    for space_id in (secrets.token_bytes(16), stranger.space_id):
        answer = await rig.say(m.Enter(1, [m.SpaceProof(space_id, 0, rig.space_proof(stranger))]))
        assert refused(answer) == "not_found"


async def test_a_space_of_another_app_is_not_there_for_an_app_device() -> None:
    someone = await person()
    someone.space_id = secrets.token_bytes(16)
    await someone.make_space("org.example.other")
    rig = await Rig(someone).ready()
    answer = await rig.say(m.Enter(1, [m.SpaceProof(someone.space_id, 0, rig.space_proof())]))
    assert refused(answer) == "not_found"


async def test_a_space_made_since_the_session_began_can_be_entered() -> None:
    someone = await person()
    rig = await Rig(someone).ready()
    someone.space_id, someone.space_key = secrets.token_bytes(16), SigningKey.generate()
    await someone.make_space()
    (entered,) = await rig.say(m.Enter(1, [m.SpaceProof(someone.space_id, 0, rig.space_proof())]))
    assert isinstance(entered, m.Entered)


async def test_an_app_device_makes_spaces_of_its_own_app_only() -> None:
    someone = await person()
    rig = await Rig(someone).ready()
    someone.space_id = secrets.token_bytes(16)
    pk = bytes(someone.space_key.verify_key)
    message = m.CreateSpace(4, someone.space_id, "org.example.other", pk, rig.space_proof())
    assert refused(await rig.say(message)) == "forbidden"
    (entered,) = await rig.say(m.CreateSpace(5, someone.space_id, APP, pk, rig.space_proof()))
    assert isinstance(entered, m.Entered)


def about_a_space(rig: Rig) -> list[m.Message]:
    space_id = rig.person.space_id
    cursor = m.CursorPart(COLLECTION, bytes(16), 0)
    return [
        m.Collections(9, space_id),
        m.Subscribe(9, space_id, [cursor]),
        m.Unsubscribe(9, space_id, [COLLECTION]),
        m.Append(9, space_id, [rig.person.draft()]),
        m.Witness(9, space_id, COLLECTION, rig.person.draft()),
        m.ReadHistory(9, space_id, COLLECTION, bytes(16)),
        m.Signal(9, space_id, b"x"),
    ]


async def test_without_the_proof_nothing_of_a_space_can_be_touched() -> None:
    rig = await Rig(await person()).ready()
    for message in about_a_space(rig):
        assert refused(await rig.say(message)) == "no_space_proof", message


async def test_a_strangers_space_is_not_found_by_any_verb() -> None:
    someone = await person()
    stranger = await person(someone.store)
    rig = await Rig(someone).enter()
    someone.space_id = stranger.space_id
    for message in about_a_space(rig):
        assert refused(await rig.say(message)) == "not_found", message


# --- following ---


async def test_catch_up_joins_live_with_nothing_between() -> None:
    someone = await person()
    rig = await Rig(someone).enter()
    other = Person(someone.store, someone.account_id, space_id=someone.space_id)
    await someone.store.add_device(
        replace(
            (await someone.store.devices(someone.account_id))[0],
            device_id=other.device_id,
            device_pk=bytes(other.device_key.verify_key),
        ),
        per_account_max=60,
        per_app_max=20,
    )
    await commit(other, other.draft(), other.draft())
    answers = await rig.follow()
    assert isinstance(answers[0], m.Subscribed) and answers[0].collections[0].head == 2
    page = answers[1]
    assert isinstance(page, m.Changes) and (page.after, page.upto, page.head) == (0, 2, 2)
    notice = await commit(other, other.draft())
    rig.take(rig.session.noticed(notice, rig.now))
    live = rig.sent[-1]
    assert isinstance(live, m.Changes) and (live.after, live.upto) == (2, 3)


async def test_a_commit_between_the_question_and_the_answer_of_subscribe_is_not_missed() -> None:
    someone = await person()
    rig = await Rig(someone).enter()
    cursor = m.CursorPart(COLLECTION, await someone.store.incarnation(), 0)
    rig.take(rig.session.received(encode(m.Subscribe(2, someone.space_id, [cursor])), rig.now))
    states = await rig._result(rig.asked[0].what)  # the store is read now, before the commit
    notice = await commit(someone, someone.draft())
    rig.take(rig.session.noticed(notice, rig.now))
    rig.take(rig.session.answered(rig.asked.pop(0).token, states, rig.now))
    await rig.answer()
    pages = [message for message in rig.sent if isinstance(message, m.Changes)]
    assert [(page.after, page.upto) for page in pages] == [(0, 1)]


async def test_a_cursor_of_another_life_starts_from_nothing() -> None:
    someone = await person()
    rig = await Rig(someone).enter()
    await commit(someone, someone.draft())
    subscribed, page, *_ = await rig.follow(seq=7, incarnation=b"o" * 16)
    assert isinstance(subscribed, m.Subscribed) and subscribed.collections[0].after == 0
    assert isinstance(page, m.Changes) and page.after == 0


async def test_ones_own_draft_comes_back_as_its_place_without_its_bytes() -> None:
    someone = await person()
    rig = await Rig(someone).enter()
    await rig.follow()
    append = m.Append(3, someone.space_id, [someone.draft()])
    (appended,) = await rig.say(append)
    assert isinstance(appended, m.Appended) and appended.answers[0].seq == 1
    (change,) = (
        await someone.store.read(
            CollectionKey(someone.account_id, someone.space_id, COLLECTION),
            0,
            live_only=False,
            changes_max=9,
            bytes_max=9999,
        )
    ).changes
    notice = HeadMoved(someone.space_id, COLLECTION, await someone.store.incarnation(), 0, 1, (change,))
    rig.take(rig.session.noticed(notice, rig.now))
    live = rig.sent[-1]
    assert isinstance(live, m.Changes) and live.changes[0].sealed == b"" and live.changes[0].seq == 1


async def test_ones_own_draft_of_an_earlier_connection_comes_whole() -> None:
    someone = await person()
    sealed = someone.draft()
    await commit(someone, sealed)
    rig = await Rig(someone).enter()
    page = (await rig.follow())[1]
    assert isinstance(page, m.Changes) and page.changes[0].sealed == sealed


async def test_a_lost_notice_is_repaired_by_the_next_ping() -> None:
    someone = await person()
    rig = await Rig(someone).enter()
    await rig.follow()
    await commit(someone, someone.draft())  # and nobody tells the session
    rig.wait(rig.limits.heartbeat_s + 0.1)
    await rig.answer()
    kinds = [type(message) for message in rig.sent[-3:]]
    assert m.Changes in kinds and m.Ping in kinds
    ping = next(message for message in rig.sent if isinstance(message, m.Ping))
    assert ping.heads[0].head == 1


async def test_a_ping_from_the_device_is_answered_with_heads() -> None:
    rig = await Rig(await person()).enter()
    await rig.follow()
    (pong,) = await rig.say(m.Ping())
    assert isinstance(pong, m.Pong) and len(pong.heads) == 1


@pytest.mark.parametrize(
    ("ready_at", "pinged_at"),
    [(1_000.0, 1_025.0), (1_000.001, 1_025.0), (1_000.499, 1_025.0), (1_000.5, 1_025.5), (1_000.999, 1_025.5)],
)
async def test_pings_fall_on_whole_ticks_of_the_clock(ready_at: float, pinged_at: float) -> None:
    rig = Rig(await person())
    rig.now = ready_at
    await rig.ready()
    rig.wait(pinged_at - ready_at - 0.001)
    assert not any(isinstance(message, m.Ping) for message in rig.sent)
    rig.wait(0.001)
    assert isinstance(rig.sent[-1], m.Ping)
    await rig.say(m.Pong())
    assert rig.session.timer() == pinged_at + rig.limits.heartbeat_s


@pytest.mark.parametrize(("fired_at", "due"), [(1_025.003, 1_050.0), (1_025.499, 1_050.0), (1_031.7, 1_056.5)])
async def test_a_ping_that_fires_late_by_less_than_a_tick_does_not_put_off_the_next(
    fired_at: float, due: float
) -> None:
    rig = await Rig(await person()).ready()
    rig.now = fired_at  # it was due at 1,025
    rig.take(rig.session.timer_fired(rig.now))
    await rig.say(m.Pong())
    assert rig.session.timer() == due


async def test_a_device_that_does_not_answer_the_ping_is_closed() -> None:
    rig = await Rig(await person()).ready()
    rig.wait(rig.limits.heartbeat_s + POLICY.pong_within_s - 0.1)
    assert rig.closed is None
    rig.wait(0.2)
    assert rig.closed and rig.closed.name == "heartbeat_lost"


async def test_a_device_that_answers_the_ping_lives_on() -> None:
    rig = await Rig(await person()).ready()
    for _ in range(5):
        rig.wait(rig.limits.heartbeat_s + 1)
        await rig.say(m.Pong())
    assert rig.closed is None


async def test_a_session_that_wants_heads_only_gets_no_bodies() -> None:
    someone = await person()
    rig = Rig(someone)
    await rig.ready(heads_only=True)
    await rig.say(m.Enter(1, [m.SpaceProof(someone.space_id, 0, rig.space_proof())]))
    await rig.follow()
    rig.take(rig.session.noticed(await commit(someone, someone.draft()), rig.now))
    assert isinstance(rig.sent[-1], m.Heads) and rig.sent[-1].heads[0].head == 1
    assert not any(isinstance(message, m.Changes) for message in rig.sent)


async def test_a_page_the_store_did_not_answer_is_read_again() -> None:
    someone = await person()
    await commit(someone, someone.draft())
    rig = await Rig(someone).enter()
    rig.fail_with[ReadPage] = StoreUnavailable("busy")
    await rig.follow()
    assert not any(isinstance(message, m.Changes) for message in rig.sent)
    rig.fail_with.clear()
    rig.wait(1.1)
    await rig.answer()
    assert any(isinstance(message, m.Changes) for message in rig.sent)


async def test_after_unsubscribe_nothing_more_comes() -> None:
    someone = await person()
    rig = await Rig(someone).enter()
    await rig.follow()
    await rig.say(m.Unsubscribe(5, someone.space_id, [COLLECTION]))
    before = len(rig.sent)
    rig.take(rig.session.noticed(await commit(someone, someone.draft()), rig.now))
    assert len(rig.sent) == before


async def test_a_page_read_for_an_earlier_cursor_is_not_sent_for_the_later_one() -> None:
    someone = await person()
    await commit(someone, someone.draft(), someone.draft())
    rig = await Rig(someone).enter()
    cursor = m.CursorPart(COLLECTION, await someone.store.incarnation(), 0)
    rig.take(rig.session.received(encode(m.Subscribe(2, someone.space_id, [cursor])), rig.now))
    states = rig.asked.pop(0)
    rig.take(rig.session.answered(states.token, await rig._result(states.what), rig.now))
    early = list(rig.asked)
    rig.asked.clear()
    await rig.follow(seq=1)
    for ask in early:
        rig.take(rig.session.answered(ask.token, await rig._result(ask.what), rig.now))
    pages = [message for message in rig.sent if isinstance(message, m.Changes)]
    assert [(page.after, page.upto) for page in pages] == [(1, 2)]


async def test_a_subscribe_the_store_did_not_answer_leaves_no_subscription() -> None:
    rig = await Rig(await person()).enter()
    rig.fail_with[ReadStates] = StoreUnavailable("busy")
    assert refused(await rig.follow()) == "unavailable"
    rig.fail_with.clear()
    (pong,) = await rig.say(m.Ping())
    assert isinstance(pong, m.Pong) and pong.heads == []


@pytest.mark.parametrize(("count", "fits"), [(256, True), (257, False)])
async def test_one_subscribe_names_256_collections(count: int, fits: bool) -> None:
    rig = await Rig(await person()).enter()
    cursors = [m.CursorPart(number.to_bytes(16, "big"), bytes(16), 0) for number in range(count)]
    answers = await rig.say(m.Subscribe(2, rig.person.space_id, cursors))
    assert isinstance(answers[0], m.Subscribed) is fits


async def test_a_session_follows_its_most_collections_and_no_more() -> None:
    rig = await Rig(await person(), Limits(subscriptions_per_session_max=3)).enter()
    cursors = [m.CursorPart(number.to_bytes(16, "big"), bytes(16), 0) for number in range(4)]
    assert refused(await rig.say(m.Subscribe(2, rig.person.space_id, cursors))) == "too_many"
    assert isinstance((await rig.say(m.Subscribe(2, rig.person.space_id, cursors[:3])))[0], m.Subscribed)
    assert refused(await rig.say(m.Subscribe(2, rig.person.space_id, cursors[3:]))) == "too_many"


# --- a store that does not answer, and notices that were lost ---


async def witness_of_another(someone: Person, counter: int = 1) -> bytes:
    """Another device of the account gave a witness, and nobody was told."""
    other = b"o" * 16
    template = (await someone.store.devices(someone.account_id))[0]
    if counter == 1:
        await someone.store.add_device(
            replace(template, device_id=other, device_pk=secrets.token_bytes(32)), per_account_max=60, per_app_max=20
        )
    key = CollectionKey(someone.account_id, someone.space_id, COLLECTION)
    sealed = someone.draft(kind=Kind.WITNESS, record_id=ZERO_ID, device_id=other, counter=counter)
    assert await someone.store.put_witness(key, other, counter, sealed)
    return sealed


async def compare(rig: Rig) -> list[m.Message]:
    """Tell the session that notices were lost, and let it find out; what it sent."""
    before = len(rig.sent)
    rig.take(rig.session.compare(rig.now))
    await rig.answer()
    while ask := rig.session.ask_witness():
        rig.take([ask])
        await rig.answer()
    return rig.sent[before:]


async def test_after_lost_notices_a_session_reads_what_it_missed_and_says_nothing_else() -> None:
    someone = await person()
    rig = await Rig(someone).enter()
    await rig.follow()
    assert await compare(rig) == []
    await commit(someone, someone.draft())
    (changes,) = await compare(rig)
    assert isinstance(changes, m.Changes) and (changes.after, changes.upto) == (0, 1)
    assert await compare(rig) == []


async def test_after_lost_notices_a_session_is_sent_the_witnesses_it_missed_and_no_other() -> None:
    someone = await person()
    rig = await Rig(someone).enter()
    await commit(someone, someone.draft())
    first = await witness_of_another(someone)
    assert [message.witnesses for message in await rig.follow() if isinstance(message, m.Witnesses)] == [[first]]
    assert await compare(rig) == []
    second = await witness_of_another(someone, 2)
    (witnesses,) = await compare(rig)
    assert isinstance(witnesses, m.Witnesses) and witnesses.witnesses == [second]


async def test_who_subscribes_again_is_sent_the_witnesses_again() -> None:
    someone = await person()
    rig = await Rig(someone).enter()
    await commit(someone, someone.draft())
    sealed = await witness_of_another(someone)
    for _ in range(2):
        assert [message.witnesses for message in await rig.follow() if isinstance(message, m.Witnesses)] == [[sealed]]


async def test_after_lost_notices_a_slow_session_asks_for_witnesses_when_it_has_room() -> None:
    someone = await person()
    rig = await Rig(someone, Limits(queued_bytes_max=2_000)).enter()
    await commit(someone, someone.draft())
    await rig.follow()
    while not rig.session._is_paused():
        rig.take(rig.session.received(b"\x82\xa4type\xa1x\xa7request\x01", rig.now))
    sealed = await witness_of_another(someone)
    assert await compare(rig) == []
    before = len(rig.sent)
    rig.take(rig.session.sent(rig.session.queued_bytes, rig.now))
    await rig.answer()
    assert [message.witnesses for message in rig.sent[before:] if isinstance(message, m.Witnesses)] == [[sealed]]


async def test_comparing_asks_for_witnesses_one_collection_at_a_time() -> None:
    rig = await Rig(await person()).enter()
    cursors = [m.CursorPart(number.to_bytes(16, "big"), bytes(16), 0) for number in range(200)]
    await rig.say(m.Subscribe(2, rig.person.space_id, cursors))
    rig.take(rig.session.compare(rig.now))
    assert len(rig.asked) == 1 and rig.session.has_room()
    await rig.answer()
    asked = 0
    while ask := rig.session.ask_witness():
        rig.take([ask])
        asked += len(rig.asked)
        await rig.answer()
    assert asked == 200


async def test_a_session_that_is_not_ready_compares_nothing() -> None:
    rig = Rig(await person())
    await rig.greet()
    assert rig.session.compare(rig.now) == [] and rig.session.ask_witness() is None


@pytest.mark.parametrize("question", [ReadPage, ReadHeads, ReadWitnesses])
async def test_what_the_store_left_unanswered_is_asked_again_until_it_answers(question: type) -> None:
    someone = await person()
    rig = await Rig(someone).enter()
    await rig.follow()
    await commit(someone, someone.draft())
    sealed = await witness_of_another(someone)
    rig.fail_with[question] = StoreUnavailable("restarting")
    await compare(rig)
    asked_at: list[float] = []
    while rig.now < 1_000 + 20:  # less than a heartbeat: no ping helps
        rig.wait(0.1)
        if rig.asked:
            asked_at.append(rig.now)
        await rig.answer()
    pauses = [later - earlier for earlier, later in itertools.pairwise([1_000.0, *asked_at])]
    assert pauses[0] <= 1.2 and max(pauses) <= READ_AGAIN_AFTER_S_MAX + 0.2 and len(pauses) <= 20
    rig.fail_with.clear()
    before = len(rig.sent)
    rig.wait(READ_AGAIN_AFTER_S_MAX + 0.1)
    await rig.answer()
    if question is ReadWitnesses:
        assert [message.witnesses for message in rig.sent[before:] if isinstance(message, m.Witnesses)] == [[sealed]]
    else:
        assert [message.upto for message in rig.sent[before:] if isinstance(message, m.Changes)] == [1]
    rig.wait(1.5)
    assert rig.asked == []  # and then no more


async def test_sessions_do_not_ask_again_at_the_same_moment() -> None:
    someone = await person()
    await commit(someone, someone.draft())
    moments = set()
    for _ in range(20):
        rig = await Rig(someone).enter()
        rig.fail_with[ReadPage] = StoreUnavailable("restarting")
        await rig.follow()
        due = rig.session.timer()
        assert due is not None and rig.now + 0.5 <= due <= rig.now + 1
        moments.add(round(due, 3))
    assert len(moments) > 10


async def test_a_request_that_fails_again_and_again_does_not_put_off_the_reading() -> None:
    from hub.effects import Serve

    someone = await person()
    await commit(someone, someone.draft())
    rig = await Rig(someone).enter()
    rig.fail_with = {ReadPage: StoreUnavailable("restarting"), Serve: StoreUnavailable("restarting")}
    await rig.follow()
    del rig.fail_with[ReadPage]
    for _ in range(12):
        rig.wait(0.1)
        await rig.say(m.ListDevices(3))
    assert any(isinstance(message, m.Changes) for message in rig.sent)


# --- the slow device ---


async def test_a_device_that_does_not_read_is_not_fed_and_reads_on_later() -> None:
    someone = await person()
    limits = Limits(queued_bytes_max=4_000)
    rig = await Rig(someone, limits).enter()
    await rig.follow()
    seqs: list[int] = []
    most = 0
    for _ in range(60):
        rig.take(rig.session.noticed(await commit(someone, someone.draft()), rig.now))
        most = max(most, rig.session.queued_bytes)
    assert most < limits.queued_bytes_max
    while rig.session.queued_bytes:
        rig.take(rig.session.sent(rig.session.queued_bytes, rig.now))
        await rig.answer()
    for message in rig.sent:
        if isinstance(message, m.Changes):
            assert message.after == (seqs[-1] if seqs else 0)
            seqs += [change.seq for change in message.changes]
    assert seqs == list(range(1, 61))


async def test_a_device_that_takes_nothing_for_30_seconds_is_closed() -> None:
    rig = await Rig(await person(), Limits(queued_bytes_max=2_000, messages_burst=10_000)).ready()
    while rig.session.queued_bytes <= 1_000:
        rig.take(rig.session.received(b"\x82\xa4type\xa1x\xa7request\x01", rig.now))
    await_ping = rig.limits.heartbeat_s
    rig.wait(POLICY.stalled_within_s - 0.1 if await_ping > POLICY.stalled_within_s else await_ping - 0.1)
    assert rig.closed is None
    rig.take(rig.session.received(encode(m.Pong()), rig.now))
    rig.wait(POLICY.stalled_within_s - await_ping + 0.2)
    assert rig.closed and rig.closed.name == "slow_consumer"


async def test_a_device_that_takes_a_little_has_another_30_seconds() -> None:
    rig = await Rig(await person(), Limits(queued_bytes_max=2_000, messages_burst=10_000)).ready()
    while rig.session.queued_bytes <= 1_000:
        rig.take(rig.session.received(b"\x82\xa4type\xa1x\xa7request\x01", rig.now))
    for _ in range(2):
        rig.wait(20.0)
        rig.take(rig.session.received(encode(m.Pong()), rig.now))
        rig.take(rig.session.sent(1, rig.now))
        assert rig.closed is None and rig.session._is_paused()
    for _ in range(2):
        rig.wait(14.9)
        rig.take(rig.session.received(encode(m.Pong()), rig.now))
    assert rig.closed is None
    rig.wait(0.3)
    assert rig.closed and rig.closed.name == "slow_consumer"


async def test_a_device_that_does_not_read_is_not_read_either() -> None:
    rig = await Rig(await person(), Limits(queued_bytes_max=2_000)).ready()
    assert rig.session.has_room()
    while rig.session.queued_bytes <= 2_000:
        rig.take(rig.session.received(b"\x82\xa4type\xa1x\xa7request\x01", rig.now))
    assert not rig.session.has_room()
    rig.take(rig.session.sent(rig.session.queued_bytes, rig.now))
    assert rig.session.has_room()


async def test_witnesses_missed_while_slow_are_sent_afterwards() -> None:
    someone = await person()
    rig = await Rig(someone, Limits(queued_bytes_max=2_000)).enter()
    await rig.follow()
    while not rig.session._is_paused():
        rig.take(rig.session.received(b"\x82\xa4type\xa1x\xa7request\x01", rig.now))
    await commit(someone, someone.draft())
    other = secrets.token_bytes(16)
    template = (await someone.store.devices(someone.account_id))[0]
    await someone.store.add_device(
        replace(template, device_id=other, device_pk=secrets.token_bytes(32)), per_account_max=60, per_app_max=20
    )
    key = CollectionKey(someone.account_id, someone.space_id, COLLECTION)
    sealed = someone.draft(kind=Kind.WITNESS, record_id=ZERO_ID, device_id=other, counter=1)
    assert await someone.store.put_witness(key, other, 1, sealed)
    before = len(rig.sent)
    rig.take(rig.session.noticed(Witnessed(someone.space_id, COLLECTION, other, sealed), rig.now))
    assert len(rig.sent) == before
    rig.take(rig.session.sent(rig.session.queued_bytes, rig.now))
    await rig.answer()
    assert any(isinstance(message, m.Witnesses) and message.witnesses == [sealed] for message in rig.sent[before:])


async def test_an_older_witness_is_not_sent_after_a_newer_one() -> None:
    someone = await person()
    rig = await Rig(someone).enter()
    await commit(someone, someone.draft())
    other = secrets.token_bytes(16)
    template = (await someone.store.devices(someone.account_id))[0]
    await someone.store.add_device(
        replace(template, device_id=other, device_pk=secrets.token_bytes(32)), per_account_max=60, per_app_max=20
    )
    key = CollectionKey(someone.account_id, someone.space_id, COLLECTION)
    older, newer = (
        someone.draft(kind=Kind.WITNESS, record_id=ZERO_ID, device_id=other, counter=counter) for counter in (1, 2)
    )
    await someone.store.put_witness(key, other, 1, older)
    cursor = m.CursorPart(COLLECTION, await someone.store.incarnation(), 1)
    rig.take(rig.session.received(encode(m.Subscribe(2, someone.space_id, [cursor])), rig.now))
    states = rig.asked.pop(0)
    rig.take(rig.session.answered(states.token, await rig._result(states.what), rig.now))
    # The notice of the newer one overtakes the answer that has read the older one.
    rig.take(rig.session.noticed(Witnessed(someone.space_id, COLLECTION, other, newer), rig.now))
    await rig.answer()
    sent = [message.witnesses for message in rig.sent if isinstance(message, m.Witnesses)]
    assert sent == [[newer]]


# --- writing ---


async def test_drafts_are_answered_one_by_one_in_their_order() -> None:
    someone = await person()
    rig = await Rig(someone).enter()
    good, foreign = someone.draft(), someone.draft(counter=2, device_id=bytes(16))
    appended = await rig.append(good, foreign)
    assert [(a.seq, a.code) for a in appended.answers] == [(1, ""), (0, "bad_draft")]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"device_id": b"x" * 16}, "bad_draft"),
        ({"space_id": b"x" * 16}, "bad_draft"),
        ({"kind": Kind.WITNESS, "record_id": ZERO_ID}, "bad_draft"),
        ({"key_epoch": 1}, "bad_draft"),
        ({"version": 2}, "bad_draft"),
        ({"suite": 2}, "bad_draft"),
        ({"flags": 4}, "bad_draft"),
        ({"counter": 0}, "bad_draft"),
    ],
)
async def test_a_header_that_does_not_fit_the_session_is_refused(fields: dict[str, object], expected: str) -> None:
    someone = await person()
    rig = await Rig(someone).enter()
    appended = await rig.append(someone.draft(**fields))
    assert appended.answers[0].code == expected


@pytest.mark.parametrize(("surplus", "expected"), [(0, ""), (1, "too_large")])
async def test_a_draft_may_have_192_kib(surplus: int, expected: str) -> None:
    someone = await person()
    rig = await Rig(someone).enter()
    size = rig.limits.draft_bytes_max + surplus - 112 - 24 - 16
    appended = await rig.append(someone.draft(body=b"b" * size))
    assert appended.answers[0].code == expected


async def test_an_all_or_nothing_append_with_one_bad_header_writes_nothing() -> None:
    someone = await person()
    rig = await Rig(someone).enter()
    appended = await rig.append(someone.draft(), someone.draft(device_id=bytes(16)), atomic=True)
    assert [a.code for a in appended.answers] == ["atomic_refused", "bad_draft"]
    states = await someone.store.states(someone.account_id, someone.space_id, someone.device_id, [COLLECTION])
    assert states[0].head == 0


@pytest.mark.parametrize(("count", "fits"), [(4, True), (5, False)])
async def test_four_appends_may_wait_for_their_answers(count: int, fits: bool) -> None:
    someone = await person()
    rig = await Rig(someone).enter()
    for _ in range(count):
        rig.take(rig.session.received(encode(m.Append(3, someone.space_id, [someone.draft()])), rig.now))
    assert any(isinstance(message, m.Refused) for message in rig.sent) is not fits


async def test_a_failed_append_frees_its_place_in_the_window() -> None:
    someone = await person()
    rig = await Rig(someone).enter()
    rig.fail_with[AppendDrafts] = StoreUnavailable("busy")
    for _ in range(10):
        assert refused(await rig.say(m.Append(3, someone.space_id, [someone.draft(counter=1)]))) == "unavailable"


async def test_an_append_of_a_revoked_device_closes_the_session() -> None:
    someone = await person()
    rig = await Rig(someone).enter()
    await someone.store.revoke(someone.account_id, [someone.device_id], 5.0)
    await rig.say(m.Append(3, someone.space_id, [someone.draft()]))
    assert rig.closed and rig.closed.name == "revoked"


async def test_a_witness_must_fit_the_session_like_a_draft() -> None:
    someone = await person()
    rig = await Rig(someone).enter()
    await commit(someone, someone.draft())
    good = someone.draft(kind=Kind.WITNESS, record_id=ZERO_ID, counter=1)
    assert isinstance((await rig.say(m.Witness(7, someone.space_id, COLLECTION, good)))[0], m.Done)
    for fields in ({"kind": Kind.PUT}, {"device_id": bytes(16)}, {"collection_id": bytes(16)}, {"key_epoch": 3}):
        bad = someone.draft(**({"kind": Kind.WITNESS, "record_id": ZERO_ID, "counter": 2} | fields))
        assert refused(await rig.say(m.Witness(7, someone.space_id, COLLECTION, bad))) == "bad_draft", fields


async def test_history_is_answered_newest_first() -> None:
    someone = await person()
    rig = await Rig(someone).enter()
    await rig.append(someone.draft(), someone.draft(), someone.draft())
    (history,) = await rig.say(m.ReadHistory(8, someone.space_id, COLLECTION, b"r" * 16, limit=2))
    assert isinstance(history, m.History) and [change.seq for change in history.changes] == [3, 2] and history.more


# --- signals ---


async def test_a_signal_reaches_the_others_and_not_its_sender() -> None:
    someone = await person()
    rig = await Rig(someone).enter()
    await rig.say(m.Signal(6, someone.space_id, b"hello"))
    assert rig.published == [Signalled(someone.space_id, someone.device_id, None, b"hello")]
    before = len(rig.sent)
    rig.take(rig.session.noticed(rig.published[0], rig.now))
    assert len(rig.sent) == before
    rig.take(rig.session.noticed(Signalled(someone.space_id, b"o" * 16, None, b"hi"), rig.now))
    got = rig.sent[-1]
    assert isinstance(got, m.Signal) and (got.body, got.device_id) == (b"hi", b"o" * 16)
    rig.take(rig.session.noticed(Signalled(someone.space_id, b"o" * 16, b"p" * 16, b"not for us"), rig.now))
    assert rig.sent[-1] is got


async def test_a_signal_of_a_space_that_was_not_entered_is_not_told() -> None:
    someone = await person()
    rig = await Rig(someone).ready()
    before = len(rig.sent)
    rig.take(rig.session.noticed(Signalled(someone.space_id, b"o" * 16, None, b"hi"), rig.now))
    assert len(rig.sent) == before


@pytest.mark.parametrize(("size", "fits"), [(4_096, True), (4_097, False)])
async def test_a_signal_may_have_4096_bytes(size: int, fits: bool) -> None:
    someone = await person()
    rig = await Rig(someone).enter()
    answers = await rig.say(m.Signal(6, someone.space_id, b"x" * size))
    assert (answers == []) is fits


# --- notices about the account ---


async def test_a_revoked_device_is_closed_and_told_to_stop() -> None:
    rig = await Rig(await person()).ready()
    rig.take(rig.session.noticed(DevicesRevoked((b"z" * 16,)), rig.now))
    assert rig.closed is None
    rig.take(rig.session.noticed(DevicesRevoked((rig.person.device_id,)), rig.now))
    assert rig.closed and rig.closed.code == code("revoked") >= 4500


@pytest.mark.parametrize(("order", "other", "closes"), [(5, 6, True), (5, 5, False), (5, 4, False), (5, 0, False)])
@pytest.mark.parametrize("heard_before_ordered", [True, False])
async def test_of_two_sessions_of_a_device_the_one_of_the_higher_order_stays(
    order: int, other: int, closes: bool, heard_before_ordered: bool
) -> None:
    rig = await Rig(await person()).ready()
    notice = SessionOpened(rig.person.device_id, b"n" * 16, other)
    if heard_before_ordered:
        rig.take(rig.session.noticed(notice, rig.now))
        assert rig.closed is None  # it does not know yet which is older
        rig.take(rig.session.ordered(order, rig.now))
    else:
        rig.take(rig.session.ordered(order, rig.now))
        rig.take(rig.session.noticed(notice, rig.now))
    assert (rig.closed.name if rig.closed else None) == ("replaced" if closes else None)


async def test_a_session_is_not_replaced_by_itself_nor_by_another_device() -> None:
    rig = await Rig(await person()).ready()
    rig.take(rig.session.ordered(3, rig.now))
    rig.take(rig.session.noticed(SessionOpened(rig.person.device_id, rig.session.session_id, 9), rig.now))
    rig.take(rig.session.noticed(SessionOpened(b"o" * 16, b"n" * 16, 9), rig.now))
    assert rig.closed is None


@pytest.mark.parametrize("steps", sorted(set(itertools.permutations("aabbxy"))), ids="".join)
async def test_whatever_overtakes_what_of_two_sessions_the_newer_stays_alone(steps: tuple[str, ...]) -> None:
    """a, b: a session learns its order (a gets 1), then announces it; x, y: a hears b, b hears a."""
    someone = await person()
    sessions = {"a": await Rig(someone).ready(), "b": await Rig(someone).ready()}
    orders, on_the_way = {"a": 1, "b": 2}, {"a": [], "b": []}
    hears = {"x": ("a", "b"), "y": ("b", "a")}
    for step in [*steps, "x", "y"]:  # what is on the way at last arrives
        if step in hears:
            rig, from_other = sessions[hears[step][0]], on_the_way[hears[step][1]]
            for notice in from_other:
                rig.take(rig.session.noticed(notice, rig.now))
            from_other.clear()
        elif not sessions[step].session.order:
            sessions[step].take(sessions[step].session.ordered(orders[step], sessions[step].now))
        elif sessions[step].closed is None:
            session = sessions[step].session
            on_the_way[step].append(SessionOpened(someone.device_id, session.session_id, session.order))
    assert [name for name, rig in sessions.items() if rig.closed is None] == ["b"]


async def test_a_deleted_space_is_forgotten_by_its_sessions() -> None:
    rig = await Rig(await person()).enter()
    await rig.follow()
    rig.take(rig.session.noticed(AccountChanged("space_deleted", space_id=rig.person.space_id), rig.now))
    assert isinstance(rig.sent[-1], m.AccountNotice)
    assert refused(await rig.say(m.Append(3, rig.person.space_id, [rig.person.draft()]))) == "not_found"


async def test_a_deleted_account_ends_its_sessions() -> None:
    rig = await Rig(await person()).ready()
    rig.take(rig.session.noticed(AccountChanged("account_deleted"), rig.now))
    assert rig.closed and rig.closed.name == "account_deleted"


async def test_an_approved_device_is_off_probation_at_once() -> None:
    rig = await Rig(await person(probation_until=2e9)).ready()
    assert rig.session.facts and rig.session.facts.device.probation_until
    rig.take(rig.session.noticed(AccountChanged("device_approved", device_id=rig.person.device_id), rig.now))
    assert rig.session.facts.device.probation_until is None


# --- going away ---


def go_away(rig: Rig, **options: Any) -> list[m.Message]:
    """The hub sends the session away; what it tells the device."""
    before = len(rig.sent)
    rig.take(rig.session.go_away(2.5, rig.now, **options))
    return rig.sent[before:]


async def test_a_device_is_told_when_to_come_back_and_closed_when_it_knows() -> None:
    rig = await Rig(await person()).enter()
    told = go_away(rig)
    assert told == [m.GoingAway(2.5), m.Ping()]
    assert rig.closed is None
    assert await rig.say(m.Pong()) == []
    assert rig.closed and rig.closed.code == 4000


async def test_an_append_that_crossed_the_message_is_kept_and_answered() -> None:
    rig = await Rig(await person()).enter()
    go_away(rig)
    rig.take(rig.session.received(encode(m.Append(3, rig.person.space_id, [rig.person.draft()])), rig.now))
    rig.take(rig.session.received(encode(m.Pong()), rig.now))
    assert rig.closed is None
    await rig.answer()
    assert isinstance(rig.sent[-1], m.Appended) and rig.sent[-1].answers[0].seq == 1
    assert rig.closed and rig.closed.name == "going_away"


async def test_what_a_device_begins_after_it_was_told_is_refused_and_undone() -> None:
    rig = await Rig(await person()).enter()
    rig.take(rig.session.received(encode(m.Append(3, rig.person.space_id, [rig.person.draft()])), rig.now))
    go_away(rig)
    rig.take(rig.session.received(encode(m.Pong()), rig.now))
    rig.take(rig.session.received(encode(m.Append(4, rig.person.space_id, [rig.person.draft()])), rig.now))
    refusal = rig.sent[-1]
    assert isinstance(refusal, m.Refused) and (refusal.request, refusal.code) == (4, "unavailable")
    assert refusal.retry and refusal.retry_after_s == 2.5
    await rig.answer()
    assert isinstance(rig.sent[-1], m.Appended) and rig.closed
    states = await rig.person.store.states(
        rig.person.account_id, rig.person.space_id, rig.person.device_id, [COLLECTION]
    )
    assert states[0].head == 1


async def test_the_pong_to_an_earlier_ping_is_no_sign_that_the_device_knows() -> None:
    rig = await Rig(await person()).enter()
    rig.wait(rig.limits.heartbeat_s + 0.1)
    assert isinstance(rig.sent[-1], m.Ping)
    go_away(rig)
    await rig.say(m.Pong())
    assert rig.closed is None
    await rig.append(rig.person.draft())
    await rig.say(m.Pong())
    assert rig.closed


@pytest.mark.parametrize("within_s", [1.0, LEAVE_WITHIN_S])
async def test_a_device_that_gives_no_sign_is_closed_all_the_same(within_s: float) -> None:
    rig = await Rig(await person()).enter()
    rig.take(rig.session.received(encode(m.Append(3, rig.person.space_id, [rig.person.draft()])), rig.now))
    go_away(rig, within_s=within_s)
    rig.wait(within_s - 0.01)
    assert rig.closed is None
    rig.wait(0.02)
    assert rig.closed and rig.closed.name == "going_away"


@pytest.mark.parametrize("stage", ["new", "looking", "greeted"])
async def test_who_is_not_let_in_in_time_is_closed(stage: str) -> None:
    rig = Rig(await person())
    if stage == "looking":
        rig.take(rig.session.received(encode(m.Hello([1], rig.person.device_id, bytes(32))), rig.now))
    if stage == "greeted":
        await rig.greet()
    assert rig.session.stage == stage
    assert go_away(rig, within_s=2.0) == []
    rig.wait(1.99)
    assert rig.closed is None
    rig.wait(0.02)
    assert rig.closed and rig.closed.name == "going_away"


async def test_who_is_let_in_while_the_hub_goes_down_is_told_then() -> None:
    rig = Rig(await person())
    go_away(rig, within_s=3.0)
    await rig.greet()
    rig.wait(2.9)
    await rig.say(m.Auth(rig.proof()))
    assert [type(message) for message in rig.sent[-3:]] == [m.Ready, m.GoingAway, m.Ping]
    rig.wait(0.95)  # it came late, and still has a moment
    assert rig.closed is None
    await rig.say(m.Pong())
    assert rig.closed and rig.closed.name == "going_away"


async def test_an_enrolment_under_way_is_finished_before_the_device_is_sent_away() -> None:
    someone = await person()
    rig = Rig(someone)
    await rig.greet()
    enrol = m.Enrol(2, bytes(16), "12345678", bytes(someone.device_key.verify_key), rig.proof("enrol"))
    rig.take(rig.session.received(encode(enrol), rig.now))
    (ask,) = rig.asked
    assert isinstance(ask.what, EnrolDevice)
    assert go_away(rig) == [] and rig.closed is None
    known: Known = await rig.known((await someone.store.devices(someone.account_id))[0])
    rig.now += 1
    rig.take(rig.session.answered(ask.token, known, rig.now))
    assert [type(message) for message in rig.sent[-3:]] == [m.Ready, m.GoingAway, m.Ping]
    assert rig.closed is None
    await rig.say(m.Pong())
    assert rig.closed and rig.closed.name == "going_away"


async def test_who_was_sent_away_and_is_back_elsewhere_is_not_told_to_stop() -> None:
    rig = await Rig(await person()).enter()
    rig.take(rig.session.ordered(1, rig.now))
    go_away(rig)
    rig.take(rig.session.noticed(SessionOpened(rig.person.device_id, b"n" * 16, 2), rig.now))
    assert rig.closed and rig.closed.name == "going_away"


async def test_a_session_is_sent_away_once() -> None:
    rig = await Rig(await person()).enter()
    assert go_away(rig) and go_away(rig) == []
    rig.take(rig.session.end("going_away"))
    assert go_away(rig) == []


# --- rates and refusals ---


async def test_beyond_the_burst_messages_are_refused_and_then_the_session_is_closed() -> None:
    rig = await Rig(await person(), Limits(messages_per_s=1, messages_burst=5)).ready()  # hello and auth used two
    answers = [await rig.say(m.ListDevices(number)) for number in range(3)]
    assert all(isinstance(answer[0], m.Done) for answer in answers)
    for number in range(3):
        (answer,) = await rig.say(m.ListDevices(number))
        assert isinstance(answer, m.Refused) and (answer.code, answer.request) == ("rate_limited", number)
        assert answer.retry and answer.retry_after_s > 0
    await rig.say(m.ListDevices(9))
    assert rig.closed and rig.closed.name == "rate_limited"


async def test_who_waits_as_told_is_heard_again() -> None:
    rig = await Rig(await person(), Limits(messages_per_s=1, messages_burst=3)).ready()
    await rig.say(m.ListDevices(1))
    (answer,) = await rig.say(m.ListDevices(2))
    assert isinstance(answer, m.Refused)
    rig.now += answer.retry_after_s
    assert isinstance((await rig.say(m.ListDevices(2)))[0], m.Done)


async def test_questions_in_flight_are_bounded() -> None:
    rig = await Rig(await person(), Limits(messages_burst=1_000)).ready()
    for number in range(ASKS_IN_FLIGHT_MAX):
        rig.take(rig.session.received(encode(m.ListDevices(number)), rig.now))
    assert not any(isinstance(message, m.Refused) for message in rig.sent)
    rig.take(rig.session.received(encode(m.ListDevices(99)), rig.now))
    assert isinstance(rig.sent[-1], m.Refused) and rig.sent[-1].code == "overloaded"


async def test_an_unknown_message_is_refused_and_the_session_lives() -> None:
    rig = await Rig(await person()).ready()
    assert refused(await rig.say(b"\x82\xa4type\xa4nope\xa7request\x05")) == "unknown_message"
    assert rig.closed is None


async def test_unknown_keys_are_ignored() -> None:
    rig = await Rig(await person()).ready()
    (answer,) = await rig.say(b"\x83\xa4type\xaclist_devices\xa7request\x05\xa5later\xc3")
    assert isinstance(answer, m.Done)


async def test_a_text_frame_is_malformed() -> None:
    rig = await Rig(await person()).ready()
    rig.take(rig.session.received('{"type": "ping"}', rig.now))
    assert rig.closed and rig.closed.name == "malformed"


async def test_what_fails_inside_is_told_without_detail() -> None:
    rig = await Rig(await person()).enter()
    rig.fail_with[ReadStates] = ValueError("secret detail")
    (answer,) = await rig.follow()
    assert isinstance(answer, m.Refused) and answer.code == "internal"
    assert "secret" not in answer.message


async def test_a_refusal_from_a_service_reaches_the_device_with_its_wait() -> None:
    from hub.effects import Serve

    rig = await Rig(await person()).ready()
    rig.fail_with[Serve] = Refusal("slow_down", retry_after_s=42.0)
    (answer,) = await rig.say(m.ListDevices(5))
    assert isinstance(answer, m.Refused) and (answer.code, answer.retry_after_s) == ("slow_down", 42.0)


async def test_after_closing_nothing_is_heard_or_said() -> None:
    rig = await Rig(await person()).enter()
    rig.take(rig.session.end("going_away"))
    assert rig.session.received(encode(m.Ping()), rig.now) == []
    assert rig.session.noticed(DevicesRevoked((rig.person.device_id,)), rig.now) == []
    assert rig.session.timer() is None
