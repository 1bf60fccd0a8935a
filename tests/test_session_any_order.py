"""Any frames in any order at any stage: no undeclared exception, nothing said before auth, bounded memory."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hub.bus import AccountChanged, DevicesRevoked, HeadMoved, PairingPassed, SessionOpened, Signalled, Witnessed
from hub.errors import StoreUnavailable
from hub.session import ASKS_IN_FLIGHT_MAX, READ_AGAIN_AFTER_S_MAX
from hub.store import Append, Draft
from hub.terms import Limits
from hub.wire import messages as m
from hub.wire.codec import encode
from hub.wire.header import parse_header
from tests.session_rig import COLLECTION, Person, Rig, person
from tests.test_bad_input import EVERY, GOOD, whole

BEFORE_AUTH = (m.Challenge, m.CodeSent, m.Refused, m.Ready, m.Done, m.Pairing, m.Pong)
SMALL = Limits(queued_bytes_max=20_000, messages_burst=100_000, messages_per_s=10_000)


class AnyOrder(RuleBasedStateMachine):
    """A session, a store, a clock, and a device that does whatever it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()

    def teardown(self) -> None:
        self.loop.close()

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    @initialize(stage=st.sampled_from(["new", "greeted", "ready", "entered", "following"]))
    def begin(self, stage: str) -> None:
        self.person: Person = self.run(person())
        self.rig = Rig(self.person, SMALL)
        if stage == "greeted":
            self.run(self.rig.greet())
        elif stage == "ready":
            self.run(self.rig.ready())
        elif stage != "new":
            self.run(self.rig.enter())
        if stage == "following":
            self.run(self.rig.follow())

    def send(self, frame: bytes | str) -> None:
        self.rig.take(self.rig.session.received(frame, self.rig.now))

    @rule()
    def hello(self) -> None:
        hello = m.Hello([1], self.person.device_id, secrets.token_bytes(32))
        self.rig.hello = encode(hello)
        self.send(self.rig.hello)

    @rule(right=st.booleans())
    def auth(self, right: bool) -> None:
        self.send(encode(m.Auth(self.rig.proof() if right else bytes(64))))

    @rule(right=st.booleans())
    def enter(self, right: bool) -> None:
        proof = self.rig.space_proof() if right else bytes(64)
        self.send(encode(m.Enter(1, [m.SpaceProof(self.person.space_id, 0, proof)])))

    @rule(seq=st.integers(0, 5), life=st.booleans())
    def subscribe(self, seq: int, life: bool) -> None:
        incarnation = self.run(self.person.store.incarnation()) if life else bytes(16)
        cursor = m.CursorPart(COLLECTION, incarnation, seq)
        self.send(encode(m.Subscribe(2, self.person.space_id, [cursor])))

    @rule(count=st.integers(1, 5), atomic=st.booleans(), spoil=st.booleans())
    def append(self, count: int, atomic: bool, spoil: bool) -> None:
        drafts = [self.person.draft() for _ in range(count)]
        if spoil:
            drafts[0] = drafts[0][:100]
        self.send(encode(m.Append(3, self.person.space_id, drafts, atomic)))

    @rule(cls=st.sampled_from(list(GOOD)))
    def any_message(self, cls: type[m.Message]) -> None:
        self.send(msgspec.msgpack.encode(whole(cls)))

    @rule(bad=st.sampled_from(EVERY))
    def spoilt_message(self, bad: Any) -> None:
        self.send(msgspec.msgpack.encode(bad[1].message))

    @rule(frame=st.binary(max_size=60))
    def noise(self, frame: bytes) -> None:
        self.send(frame)

    @rule(text=st.text(max_size=5))
    def text(self, text: str) -> None:
        self.send(text)

    @rule(order=st.randoms(use_true_random=False), fail=st.sampled_from([None, StoreUnavailable("x"), KeyError("x")]))
    def answer_one(self, order: Any, fail: Exception | None) -> None:
        if not self.rig.asked:
            return
        ask = self.rig.asked.pop(order.randrange(len(self.rig.asked)))
        try:
            result = fail if fail else self.run(self.rig._result(ask.what))
        except Exception as exc:
            result = exc
        self.rig.take(self.rig.session.answered(ask.token, result, self.rig.now))

    @rule()
    def answer_all(self) -> None:
        self.run(self.rig.answer())

    @rule(part=st.floats(0, 1))
    def read(self, part: float) -> None:
        count = int(self.rig.session.queued_bytes * part)
        self.rig.take(self.rig.session.sent(count, self.rig.now))

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.rig.wait(seconds)

    @rule()
    def another_appends(self) -> None:
        sealed = self.person.draft()
        append = Append(
            self.person.account_id, self.person.space_id, self.person.device_id, [Draft(parse_header(sealed), sealed)]
        )
        (done,) = self.run(self.person.store.append([append], 1.0))
        changes = tuple(change for _, change in done.fresh)
        if changes:
            incarnation = self.run(self.person.store.incarnation())
            seq = changes[0].seq
            notice = HeadMoved(self.person.space_id, COLLECTION, incarnation, seq - 1, seq, changes)
            self.rig.take(self.rig.session.noticed(notice, self.rig.now))

    @rule(order=st.integers(1, 3))
    def ordered(self, order: int) -> None:
        if self.rig.opened and not self.rig.session.order:
            self.rig.take(self.rig.session.ordered(order, self.rig.now))

    @rule(retry_after_s=st.floats(0, 10), within_s=st.floats(0.1, 5))
    def go_away(self, retry_after_s: float, within_s: float) -> None:
        self.rig.take(self.rig.session.go_away(retry_after_s, self.rig.now, within_s=within_s))

    @rule()
    def compare(self) -> None:
        self.rig.take(self.rig.session.compare(self.rig.now))
        ask = self.rig.session.ask_witness()
        self.rig.take([ask] if ask else [])

    @rule(which=st.sampled_from(["witness", "signal", "changed", "revoked", "opened", "reopened", "paired"]))
    def notice(self, which: str) -> None:
        space_id, other = self.person.space_id, b"o" * 16
        notice = {
            "witness": Witnessed(
                space_id, COLLECTION, other, bytes([1, 1, 5, 1]) + bytes(84) + b"\0\0\0\0\0\0\0\x01" + bytes(100)
            ),
            "signal": Signalled(space_id, other, None, b"body"),
            "changed": AccountChanged("device_approved", device_id=self.person.device_id),
            "revoked": DevicesRevoked((other,)),
            "opened": SessionOpened(other, other, 9),
            "reopened": SessionOpened(self.person.device_id, other, 2),
            "paired": PairingPassed(b"i" * 16, other, True, None, b"body"),
        }[which]
        self.rig.take(self.rig.session.noticed(notice, self.rig.now))

    @invariant()
    def nothing_of_an_account_is_said_before_auth(self) -> None:
        if hasattr(self, "rig") and self.rig.opened is None:
            assert all(isinstance(message, BEFORE_AUTH) for message in self.rig.sent), self.rig.sent

    @invariant()
    def nothing_is_heard_of_a_pairing_that_is_over(self) -> None:
        if hasattr(self, "rig") and self.rig.session._meeting and not self.rig.closed:
            assert self.rig.session.timer() is not None and self.rig.now <= self.rig.session._meeting.until

    @invariant()
    def memory_is_bounded(self) -> None:
        if not hasattr(self, "rig"):
            return
        session = self.rig.session
        follows = len(session.facts.following) if session.facts else 0
        assert len(session._desk.waiting) <= ASKS_IN_FLIGHT_MAX + 2 * follows + 1
        assert follows <= SMALL.subscriptions_per_session_max
        assert session.queued_bytes >= 0

    @invariant()
    def who_was_sent_away_goes_in_time(self) -> None:
        if not hasattr(self, "rig") or self.rig.closed:
            return
        leaving, times = self.rig.session._leaving, self.rig.session.times
        assert leaving is None or (times.leave is not None and self.rig.now <= times.leave)
        if leaving and leaving.heard and self.rig.session.stage == "ready":
            assert any(request is not None for request, _, _ in self.rig.session._desk.waiting.values())

    @invariant()
    def the_timer_knows_the_earliest_of_all_times(self) -> None:
        if hasattr(self, "rig") and not self.rig.closed:
            times = self.rig.session.times
            paused = self.rig.session._is_paused()
            every = {name: getattr(times, name) for name in type(times).__slots__ if name != "next"}
            assert self.rig.session.timer() == min((at for at in every.values() if at is not None), default=None)
            assert (every["stalled"] is not None) == paused
            assert (every["meeting"] is not None) == (self.rig.session._meeting is not None)

    @invariant()
    def what_the_store_owes_is_planned(self) -> None:
        facts = self.rig.session.facts if hasattr(self, "rig") and not self.rig.closed else None
        if facts and facts.following.owes:
            due = self.rig.session.timer()
            assert due is not None and due <= self.rig.now + READ_AGAIN_AFTER_S_MAX

    @invariant()
    def changes_never_skip_repeat_or_swap(self) -> None:
        if not hasattr(self, "rig"):
            return
        upto: dict[bytes, int] = {}
        for message in self.rig.sent:
            if isinstance(message, m.Subscribed):
                upto |= {part.collection_id: part.after for part in message.collections}
            if isinstance(message, m.Changes):
                assert message.after == upto[message.collection_id]
                seqs = [change.seq for change in message.changes]
                assert seqs == sorted(set(seqs)) and all(message.after < seq <= message.upto for seq in seqs)
                upto[message.collection_id] = message.upto


AnyOrder.TestCase.settings = settings(
    max_examples=2_000, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
TestAnyOrder = pytest.mark.timeout(240)(AnyOrder.TestCase)  # two thousand examples, also on a busy machine
