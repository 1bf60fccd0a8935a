"""One connection from hello to close, without I/O.

The machine takes in frames, notices, answers and the time, and gives back
effects: ``Send`` a frame, ``Ask`` the services something, ``Close``.  The shell
(``peer.py``) carries them out and answers each ``Ask`` exactly once through
``answered``.  The stages, in order, and what may come in each:

    new      hello                      within ``hello_within_s``
    looking  nothing; the device's key is being looked up
    greeted  auth, enrol, request_code  within ``auth_within_s``
             open_pairing, pairing      within ``pairing_s``
    ready    everything else
    closed   nothing; whatever still arrives is dropped

docs/protocol.md "Handshake" and "Messages" are the specification.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import floor
from typing import Any, Literal, cast

from hub import signing
from hub.bus import (
    AccountChanged,
    AccountStopped,
    DevicesRevoked,
    HeadMoved,
    Notice,
    PairingPassed,
    SessionOpened,
    Signalled,
    Witnessed,
)
from hub.delivery import Delivery
from hub.effects import (
    AppendDrafts,
    Ask,
    Close,
    Desk,
    Effect,
    EnrolDevice,
    JoinPairing,
    KeepWitness,
    Known,
    LeavePairing,
    LetIn,
    ListSpaces,
    LookUp,
    MakeSpace,
    Noticed,
    Opened,
    PassOn,
    PassPairing,
    ReadKept,
    ReadStates,
    Send,
    Serve,
    Served,
    TrustForKey,
)
from hub.errors import CLOSINGS, Closing, Refusal, StoreUnavailable
from hub.following import Following
from hub.limiter import FrameBudget
from hub.meeting import Meeting
from hub.store import Answer, Append, Appended, CollectionState, Device, Draft, MovedDevice, Space
from hub.terms import LOG_KINDS, PROTOCOL_VERSION, Change, DeviceId, Incarnation, Kind, Limits, Policy, SpaceId
from hub.wire import messages as m
from hub.wire.codec import BadMessage, NotAMessage, UnknownMessage, decode_from_device, encode
from hub.wire.header import Header, parse_header

ASKS_IN_FLIGHT_MAX = 64  # questions to the services without an answer, per session
READ_AGAIN_AFTER_S = 1.0  # at most, after the store left a question unanswered; then twice that, and so on
READ_AGAIN_AFTER_S_MAX = 3.0  # so that a session goes on soon after the store is back, and many do not stop it coming
LEAVE_WITHIN_S = 5.0  # how long a device that was told to go may take
FAREWELL_S = 1.0  # at least this long, when its session began at the last moment
RATE_WARNINGS_MAX = 3  # refusals `rate_limited` in a row before the session is closed
TICK_S = 0.5  # pings come at whole ticks of the clock, so that those of many sessions fall into one turn

_What = Literal["deadline", "ping", "pong", "read_again", "stalled", "leave", "meeting"]


class Times:
    """When what is due; ``next`` is the earliest, so that whoever asks after every frame pays for a look only."""

    __slots__ = ("deadline", "leave", "meeting", "next", "ping", "pong", "read_again", "stalled")

    def __init__(self) -> None:
        self.deadline: float | None = None  # for hello, then for auth
        self.ping: float | None = None
        self.pong: float | None = None
        self.read_again: float | None = None
        self.stalled: float | None = None  # a full queue has to have moved by then
        self.leave: float | None = None  # the session is closed, whatever is under way
        self.meeting: float | None = None  # the end of the pairing
        self.next: float | None = None

    def set(self, what: _What, at: float | None) -> None:
        """``what`` is due at ``at``; None: not at all."""
        before, earliest = getattr(self, what), self.next
        setattr(self, what, at)
        if at is not None and (earliest is None or at <= earliest):
            self.next = at
        elif before is not None and before == earliest:
            self.next = self._earliest()

    def _earliest(self) -> float | None:
        earliest = None
        for at in (self.deadline, self.ping, self.pong, self.read_again, self.stalled, self.leave, self.meeting):
            if at is not None and (earliest is None or at < earliest):
                earliest = at
        return earliest


@dataclass(slots=True)
class Facts:
    """What the session knows of itself once it is ready."""

    device: Device
    following: Following
    fresh_code_until: float = 0.0
    operator_until: float = 0.0
    entered: dict[SpaceId, int] = field(default_factory=dict)  # key_epoch by space


@dataclass(slots=True)
class _Leaving:
    """The hub is about to stop, and this session with it."""

    retry_after_s: float
    within_s: float
    pongs_left: int = 1  # until then frames may arrive that crossed the message

    @property
    def heard(self) -> bool:
        """Whether the device knows, and all it sent before it knew has arrived."""
        return self.pongs_left <= 0


class Session:
    """The state of one connection.  ``now`` is monotonic seconds; the session keeps no clock."""

    __slots__ = (
        "_appends_in_flight",
        "_auth_deadline",
        "_budget",
        "_desk",
        "_exporting",
        "_heartbeat_s",
        "_hello",
        "_hello_frame",
        "_hub_url",
        "_hub_urls",
        "_incarnation",
        "_joining",
        "_known",
        "_last_sent_at",
        "_leaving",
        "_limits",
        "_meeting",
        "_newest_order",
        "_now",
        "_pings_out",
        "_policy",
        "_rate_warnings",
        "_read_again_after_s",
        "_server_nonce",
        "_sign_up",
        "_spaces",
        "facts",
        "order",
        "session_id",
        "stage",
        "times",
    )

    def __init__(
        self,
        *,
        session_id: bytes,
        hub_urls: Sequence[str],
        server_nonce: bytes,
        sign_up: str,
        limits: Limits,
        policy: Policy,
        now: float,
    ) -> None:
        self.session_id = session_id
        self.stage = "new"
        self.facts: Facts | None = None
        self.order = 0  # ``Store.session_orders``; 0 until the shell has it
        self._hub_urls = hub_urls
        self._server_nonce = server_nonce
        self._sign_up = sign_up
        self._limits = limits
        self._policy = policy
        self._hello_frame = b""  # its raw bytes are part of every proof
        self._hello: m.Hello | None = None  # until the device is let in
        self._hub_url = ""  # the one of the hub's own URLs the device dialled; known once it has proved itself
        self._known: Known | MovedDevice | None = None  # until then, too
        self._incarnation: Incarnation | None = None
        self._spaces: Sequence[Space] = ()
        # Half of the queue is for what was asked for, so that pausing comes well before the end.
        self._desk = Desk(limits.queued_bytes_max // 2, self._crowded)
        self._appends_in_flight = 0
        self._exporting = False  # a piece is being made
        self._budget = FrameBudget(limits, now)
        self._rate_warnings = 0
        self._heartbeat_s = float(limits.heartbeat_s)
        self._auth_deadline = now + policy.auth_within_s
        self._newest_order = 0  # of the other sessions of this device that opened
        self._pings_out = 0  # without a pong
        self._read_again_after_s = READ_AGAIN_AFTER_S
        self._leaving: _Leaving | None = None
        self._meeting: Meeting | None = None  # the pairing this session takes part in
        self._joining = False  # a pairing is being opened
        self._last_sent_at = now
        self._now = now  # of the call under way; no clock is read
        self.times = Times()
        self.times.set("deadline", now + policy.hello_within_s)

    # --- what the shell tells ---

    def received(self, frame: bytes | str, now: float) -> list[Effect]:
        """A frame has come."""
        self._now = now
        effects = self._received(frame, now)
        return self._then_leave(effects) if self._leaving else effects

    def _received(self, frame: bytes | str, now: float) -> list[Effect]:
        if self.stage == "closed":
            return []
        if self.times.pong is not None:
            self.times.set("pong", None)  # whoever sends is alive
        if isinstance(frame, str):
            return self._close("malformed", "text frames have no meaning here")
        if wait_s := self._budget.take(now, len(frame)):
            return self._too_fast(frame, wait_s)
        self._rate_warnings = 0
        try:
            message = decode_from_device(frame)
        except NotAMessage as exc:
            return self._close("malformed", str(exc))
        except (UnknownMessage, BadMessage) as exc:
            return self._undecodable(exc)
        if self.stage != "ready":
            return self._on_stranger(message, frame)
        try:
            return self._on_request(message)
        except Refusal as exc:
            return [self._refuse(getattr(message, "request", None), exc)]

    def answered(self, token: int, result: Any, now: float) -> list[Effect]:
        """The result of an ``Ask``; exceptions become refusals or closings here and nowhere else."""
        self._now = now
        waiting = self._desk.waiting.pop(token, None)
        if waiting is None or self.stage == "closed":
            return []
        request, then, failed = waiting
        try:
            if isinstance(result, BaseException):
                effects = (failed() if failed else []) + self._failed(request, result)
                self._read_again_later()
            else:
                self._read_again_after_s = READ_AGAIN_AFTER_S
                effects = then(result)
        except Closing as exc:
            effects = self._end(exc)
        except Refusal as exc:
            effects = [self._refuse(request, exc)]
        return self._then_leave(effects) if self._leaving else effects

    def noticed(self, notice: Notice, now: float) -> list[Effect]:
        """The bus carries something about this session's account."""
        self._now = now
        facts = self.facts
        if type(notice) is HeadMoved:  # nearly all are; the rest may take its time
            return facts.following.head_moved(notice) if facts and self.stage == "ready" else []
        if isinstance(notice, PairingPassed):
            return self._pairing_passed(notice)
        if self.stage != "ready" or facts is None:
            return []
        match notice:
            case Witnessed():
                return facts.following.witnessed(notice)
            case Signalled():
                return self._signalled(notice)
            case DevicesRevoked(device_ids=ids):
                return self._close("revoked") if facts.device.device_id in ids else []
            case AccountStopped(closing=closing):
                return self._stopped(closing)
            case SessionOpened():
                return self._another_opened(notice)
            case AccountChanged():
                return self._account_changed(notice)
        return []

    def deliver(self, delivery: Delivery) -> bytes:
        """The frame that new changes come to, queued; empty when ``noticed`` has to look at them (delivery.py)."""
        facts = self.facts
        return facts.following.deliver(delivery) if facts is not None and self.stage == "ready" else b""

    def sent(self, count: int, now: float) -> list[Effect]:
        """``count`` bytes of the queue have left for the socket, in one frame or several."""
        self._now = now
        self._desk.queued_bytes -= count
        self._last_sent_at = now
        facts = self.facts
        if facts is None or not facts.following.paused:
            return []
        if self._desk.queued_bytes > self._limits.queued_bytes_max // 4:
            self.times.set("stalled", now + self._policy.stalled_within_s)
            return []
        self.times.set("stalled", None)
        return facts.following.resume()

    def ordered(self, order: int, now: float) -> list[Effect]:
        """The store gave this session its order among those of its device: of two the higher one stays."""
        self._now = now
        self.order = order
        return self._yield_to_newest()

    def compare(self, now: float) -> list[Effect]:
        """Notices may have been lost: the questions that find out.  Then ``ask_witness`` until it has none."""
        self._now = now
        return self.facts.following.compare() if self.facts and self.stage == "ready" else []

    def ask_witness(self) -> Ask | None:
        """The next question about witnesses after ``compare``; answer it before asking for another."""
        return self.facts.following.ask_witness() if self.facts and self.stage == "ready" else None

    @property
    def incarnation(self) -> Incarnation | None:
        """The life of the log this session belongs to; None until the device is known."""
        return self._incarnation

    def go_away(self, retry_after_s: float, now: float, *, within_s: float = LEAVE_WITHIN_S) -> list[Effect]:
        """The hub is about to stop: tell the device, answer what is under way, and close.

        A device that is not let in yet is told when it is.  At the latest ``within_s``
        from now the session is closed, a moment later when it began only just before.
        """
        self._now = now
        if self.stage == "closed" or self._leaving:
            return []
        self._leaving = _Leaving(retry_after_s, within_s)
        self.times.set("leave", now + within_s)
        return self._farewell() if self.stage == "ready" else []

    def end(self, closing: str) -> list[Effect]:
        """The shell wants the session closed: for a reason of its own, or because the store says so."""
        return self._close(closing) if self.stage != "closed" else []

    @property
    def queued_bytes(self) -> int:
        """Bytes handed out by ``Send`` and not yet reported as sent."""
        return self._desk.queued_bytes

    def has_room(self) -> bool:
        """Whether more frames should be read from the socket: a device that does not read is not read either."""
        return self.queued_bytes <= self._limits.queued_bytes_max and len(self._desk.waiting) < ASKS_IN_FLIGHT_MAX

    # --- time ---

    def timer(self) -> float | None:
        """When ``timer_fired`` wants to be called next."""
        return self.times.next if self.stage != "closed" else None

    def timer_fired(self, now: float) -> list[Effect]:
        """Something is due."""
        self._now = now
        if self.stage == "closed":
            return []
        times = self.times
        if times.leave is not None and now >= times.leave:
            return self._close("going_away")
        if times.deadline is not None and now >= times.deadline:
            return self._close("too_slow")
        if times.pong is not None and now >= times.pong:
            return self._close("heartbeat_lost")
        if times.stalled is not None and now >= times.stalled:
            return self._close("slow_consumer")
        effects = self._end_meeting() if times.meeting is not None and now >= times.meeting else []
        if self.facts and times.read_again is not None and now >= times.read_again:
            times.set("read_again", None)
            effects += self.facts.following.read_again()
            self._read_again_later()  # what was not asked this time
        if times.ping is not None and now >= times.ping:
            self._ping_next(now)
            effects += self._beat(m.Ping)
        return effects

    def _ping_next(self, after: float) -> None:
        """The next ping: a heartbeat after ``after``, at the whole tick before, as a device pings by itself then."""
        self.times.set("ping", floor((after + self._heartbeat_s) / TICK_S) * TICK_S)

    # --- frames ---

    def _too_fast(self, frame: bytes, wait_s: float) -> list[Effect]:
        """What to do instead of reading a frame that the rate does not allow."""
        self._rate_warnings += 1
        if self._rate_warnings > RATE_WARNINGS_MAX:
            return self._close("rate_limited")
        try:
            request = getattr(decode_from_device(frame), "request", None)
        except ValueError as exc:
            request = getattr(exc, "request", None)
        return [self._refuse(request, Refusal("rate_limited", retry_after_s=wait_s))]

    def _undecodable(self, exc: UnknownMessage | BadMessage) -> list[Effect]:
        if self.stage != "ready":
            # Nobody is known yet, so nobody is owed an explanation.
            return self._close("malformed", "not a message for this point of the connection")
        if isinstance(exc, UnknownMessage):
            return [self._refuse(exc.request, Refusal("unknown_message"))]
        return [self._refuse(exc.request, Refusal("bad_request", str(exc)))]

    def _on_stranger(self, message: m.Message, frame: bytes) -> list[Effect]:
        """A message before the device is let in."""
        if self.stage == "new":
            return self._on_hello(message, frame)
        if self.stage == "looking":
            return self._close("malformed", "wait for the challenge")
        return self._on_greeted(message)

    def _on_request(self, message: m.Message) -> list[Effect]:
        if isinstance(message, m.Pong):
            return self._on_pong()
        if isinstance(message, m.Ping):
            return self._beat(m.Pong)
        if len(self._desk.waiting) >= ASKS_IN_FLIGHT_MAX:
            raise Refusal("overloaded", retry_after_s=1.0)
        if self._leaving and self._leaving.heard:
            raise Refusal("unavailable", "this hub is going away; come back", retry_after_s=self._leaving.retry_after_s)
        handle = _HANDLERS.get(type(message))
        if handle is None:
            raise Refusal("out_of_turn")
        return handle(self, message)

    # --- handshake ---

    def _on_hello(self, message: m.Message, frame: bytes) -> list[Effect]:
        if not isinstance(message, m.Hello) or len(frame) > self._limits.hello_bytes_max:
            return self._close("malformed", "a connection begins with hello")
        if PROTOCOL_VERSION not in message.v:
            return self._close("version")
        self.stage = "looking"
        self.times.set("deadline", None)  # now it waits for us; the store's own deadlines bound that
        self._hello, self._hello_frame = message, frame
        return [self._desk.ask(LookUp(message.device_id), None, self._greet)]

    def _greet(self, found: Known | MovedDevice | None) -> list[Effect]:
        self._known = found
        if isinstance(found, Known):
            self._incarnation = found.incarnation
        self.stage = "greeted"
        # When thousands come at once a look-up takes seconds, which are not the device's: it would only come back.
        self._auth_deadline = max(self._auth_deadline, self._now + self._policy.hello_within_s)
        self.times.set("deadline", self._auth_deadline)
        return [*([LetIn()] if found else []), self._desk.send_frame(self._challenge())]

    def _challenge(self) -> bytes:
        """The raw challenge of this connection; made anew for each proof rather than kept for hours."""
        return encode(
            m.Challenge(
                v=PROTOCOL_VERSION,
                server_nonce=self._server_nonce,
                features=[],
                limits={name: getattr(self._limits, name) for name in Limits.__dataclass_fields__},
                sign_up=self._sign_up,
            )
        )

    def _on_greeted(self, message: m.Message) -> list[Effect]:
        if isinstance(message, m.Auth):
            return self._on_auth(message)
        if isinstance(message, m.Enrol):
            return self._on_enrol(message)
        if isinstance(message, m.RequestCode) and message.purpose == "enrol":
            return [self._desk.ask(Serve(message), message.request, lambda served: [self._desk.send(served.message)])]
        if isinstance(message, m.OpenPairing | m.Pairing):
            return self._on_newcomer(message)
        if isinstance(message, m.Ping) and self._meeting:
            return [self._desk.send(m.Pong())]
        return self._close("malformed", "prove the device first")

    def _on_auth(self, message: m.Auth) -> list[Effect]:
        # One answer for unknown, revoked (both are None), wrong signature and wrong URL: nothing else is learnt.
        known = self._known
        public_key = known.device_pk if isinstance(known, MovedDevice) else known.device.device_pk if known else None
        if public_key is None or not self._proved(public_key, message.signature, "auth"):
            return self._close("auth_failed")
        if isinstance(known, MovedDevice):
            return [self._desk.send(m.Moved(known.url)), *self._close("moved")]
        assert known is not None
        return self._begin(known)

    def _on_enrol(self, message: m.Enrol) -> list[Effect]:
        assert self._hello is not None
        proof_ok = self._proved(message.device_pk, message.signature, "enrol")
        what = EnrolDevice(message, self._hello.device_id, proof_ok)
        # A slow store must not cost the person the code: the deadline for auth has been met.
        self.times.set("deadline", None)
        return [self._desk.ask(what, message.request, self._begin)]

    def _proved(self, public_key: bytes, signature: bytes, purpose: signing.Purpose) -> bool:
        hello, challenge = self._hello_frame, self._challenge()
        for url in self._hub_urls:
            if signing.verify(public_key, signature, purpose, url, hello, challenge):
                self._hub_url = url
                return True
        return False

    def _begin(self, known: Known) -> list[Effect]:
        assert self._hello is not None
        if known.closing:
            return self._close(known.closing)
        device = known.device
        self.stage = "ready"
        self._incarnation, self._spaces = known.incarnation, known.spaces
        self.times.set("deadline", None)
        following = Following(
            self._desk,
            self._limits,
            device_id=device.device_id,
            incarnation=known.incarnation,
            heads_only=self._hello.heads_only,
        )
        self.facts = Facts(device, following)
        wanted = self._hello.heartbeat_s or self._limits.heartbeat_s
        self._heartbeat_s = float(min(max(wanted, self._limits.heartbeat_s_min), self._limits.heartbeat_s_max))
        self._ping_next(self._now)
        self._hello = self._known = None
        ready = m.Ready(
            account_id=device.account_id,
            incarnation=known.incarnation,
            server_time=known.server_time,
            heartbeat_s=int(self._heartbeat_s),
            scope="account" if device.scope == "account" else "app",
            app_id=device.app_id,
            quota_bytes=known.quota_bytes,
            used_bytes=known.used_bytes,
            spaces=[_space_info(space) for space in known.spaces if self._sees(space)],
            probation_until=device.probation_until or 0.0,
            account_deleted_at=known.account_deleted_at,
            address_known=known.address_known,
            plan=known.plan,
            paid_until=known.paid_until,
            operator=known.operator,
        )
        begun: list[Effect] = [LetIn(), Opened(device), self._desk.send(ready)]
        return [*begun, *self._farewell()] if self._leaving else begun

    # --- spaces ---

    def _sees(self, space: Space) -> bool:
        device = self._me()
        return device.scope == "account" or space.app_id == device.app_id

    def _following(self) -> Following:
        assert self.facts is not None
        return self.facts.following

    def _me(self) -> Device:
        assert self.facts is not None
        return self.facts.device

    def _on_create_space(self, message: m.CreateSpace) -> list[Effect]:
        device = self._me()
        if device.scope != "account" and message.app_id != device.app_id:
            raise Refusal("forbidden")
        proof_ok = self._space_proved(message.space_pk, message.space_id, message.signature)
        return [
            self._desk.ask(
                MakeSpace(message, proof_ok), message.request, lambda space: self._entered(message.request, {space: 0})
            )
        ]

    def _on_enter(self, message: m.Enter) -> list[Effect]:
        if len(message.spaces) > self._limits.spaces_per_enter_max:
            raise Refusal("too_many")
        known = {space.space_id for space in self._spaces}
        if all(proof.space_id in known for proof in message.spaces):
            return self._enter(message, self._spaces)
        # Another device may have made the space since this session began.
        return [self._desk.ask(ListSpaces(), message.request, lambda spaces: self._enter(message, spaces))]

    def _enter(self, message: m.Enter, spaces: Sequence[Space]) -> list[Effect]:
        self._spaces = spaces
        space_by_id = {space.space_id: space for space in spaces if self._sees(space)}
        entered: dict[Space, int] = {}
        for proof in message.spaces:
            space = space_by_id.get(proof.space_id)
            if space is None:
                raise Refusal("not_found")
            if proof.key_epoch < space.key_epoch:
                return self._refuse_noticed(message.request, "stale_key_epoch", "key_refused", space.space_id)
            if proof.key_epoch > space.key_epoch or not self._space_proved(
                space.space_pk, space.space_id, proof.signature
            ):
                return self._refuse_noticed(message.request, "bad_space_proof", "proof_refused", space.space_id)
            entered[space] = space.key_epoch
        if self._me().scope != "account" or self._me().probation_until is None:
            return self._entered(message.request, entered)
        # Asked before the answer, so that whatever the device asks for next finds it trusted.
        trust = TrustForKey(tuple(space.space_id for space in entered))
        return [self._desk.ask(trust, message.request, lambda _: self._entered(message.request, entered))]

    def _refuse_noticed(self, request: int, code: str, what: str, space_id: SpaceId) -> list[Effect]:
        """Refuse, and have the person find it in the audit list: it may be somebody with an old key."""
        return [Noticed(what, space_id), self._refuse(request, Refusal(code))]

    def _space_proved(self, space_pk: bytes, space_id: SpaceId, signature: bytes) -> bool:
        challenge = self._challenge() + space_id
        return signing.verify(space_pk, signature, "space", self._hub_url, self._hello_frame, challenge)

    def _entered(self, request: int, spaces: dict[Space, int]) -> list[Effect]:
        assert self.facts is not None
        for space, key_epoch in spaces.items():
            self.facts.entered[space.space_id] = key_epoch
        return [self._desk.send(m.Entered(request, [_space_info(space) for space in spaces]))]

    def _require_entered(self, space_id: SpaceId) -> int:
        """The key_epoch of a space this session holds the proof of."""
        assert self.facts is not None
        key_epoch = self.facts.entered.get(space_id)
        if key_epoch is not None:
            return key_epoch
        mine = any(space.space_id == space_id and self._sees(space) for space in self._spaces)
        raise Refusal("no_space_proof" if mine else "not_found")

    # --- following ---

    def _on_subscribe(self, message: m.Subscribe) -> list[Effect]:
        self._require_entered(message.space_id)
        return self._following().subscribe(message)

    def _on_unsubscribe(self, message: m.Unsubscribe) -> list[Effect]:
        self._require_entered(message.space_id)
        return self._following().unsubscribe(message)

    def _on_collections(self, message: m.Collections) -> list[Effect]:
        self._require_entered(message.space_id)

        def answer(states: Sequence[CollectionState]) -> list[Effect]:
            parts = [m.CollectionInfo(s.collection_id, s.head, s.counter) for s in states]
            return [self._desk.send(m.CollectionList(message.request, message.space_id, parts))]

        return [self._desk.ask(ReadStates(message.space_id, None), message.request, answer)]

    # --- writing ---

    def _on_append(self, message: m.Append) -> list[Effect]:
        key_epoch = self._require_entered(message.space_id)
        if len(message.drafts) > self._limits.drafts_per_append_max:
            raise Refusal("too_many")
        if self._appends_in_flight >= self._limits.appends_in_flight_max:
            raise Refusal("overloaded", "wait for the answers to earlier appends", retry_after_s=0.1)
        device = self._me()
        drafts: list[Draft] = []
        refused: dict[int, Answer] = {}  # by place; the store does not see them
        for place, sealed in enumerate(message.drafts):
            judged = self._judge(sealed, message.space_id, device.device_id, key_epoch)
            if isinstance(judged, Draft):
                drafts.append(judged)
            else:
                refused[place] = judged
        noticed: list[Effect] = []
        if refused:
            if any(answer.code == "stale_key_epoch" for answer in refused.values()):
                noticed.append(Noticed("key_refused", message.space_id))
            if message.atomic or not drafts:
                unwritten = [Answer(code="atomic_refused")] * len(drafts)
                return [*noticed, self._appended(message, _merged(refused, unwritten), 0)]
        self._appends_in_flight += 1
        append = Append(device.account_id, message.space_id, device.device_id, drafts, message.atomic)
        done = partial(self._append_done, message, refused)
        return [*noticed, self._desk.ask(AppendDrafts(append), message.request, done, self._append_failed)]

    def _judge(self, sealed: bytes, space_id: SpaceId, device_id: DeviceId, key_epoch: int) -> Draft | Answer:
        """The draft, or its refusal when its header does not fit this session."""
        if len(sealed) > self._limits.draft_bytes_max:
            return Answer(code="too_large")
        try:
            header = parse_header(sealed)
        except ValueError:
            return Answer(code="bad_draft")
        if header.space_id != space_id or header.device_id != device_id or header.kind not in LOG_KINDS:
            return Answer(code="bad_draft")
        if header.key_epoch != key_epoch:
            return Answer(code="stale_key_epoch" if header.key_epoch < key_epoch else "bad_draft")
        return Draft(header, sealed)

    def _append_done(self, message: m.Append, refused: dict[int, Answer], done: Appended) -> list[Effect]:
        self._appends_in_flight -= 1
        if done.closing:
            raise Closing(done.closing)
        assert self.facts is not None
        self.facts.following.appended(message.space_id, done.fresh)
        answers = _merged(refused, done.answers) if refused else done.answers
        return [self._appended(message, answers, done.used_bytes)]

    def _append_failed(self) -> list[Effect]:
        self._appends_in_flight -= 1
        return []

    def _appended(self, message: m.Append, answers: list[Answer], used_bytes: int) -> Send:
        return self._desk.send(m.Appended(message.request, message.space_id, answers, used_bytes))

    def _on_witness(self, message: m.Witness) -> list[Effect]:
        key_epoch = self._require_entered(message.space_id)
        header = self._witness_header(message, key_epoch)
        done = m.Done(message.request)
        # A witness that is not newer than the kept one changes nothing; saying so again is harmless.
        return [
            self._desk.ask(KeepWitness(message, header.counter), message.request, lambda _kept: [self._desk.send(done)])
        ]

    def _witness_header(self, message: m.Witness, key_epoch: int) -> Header:
        if len(message.witness) > self._limits.witness_bytes_max:
            raise Refusal("too_large")
        try:
            header = parse_header(message.witness)
        except ValueError as exc:
            raise Refusal("bad_draft", str(exc)) from exc
        fits = (
            header.kind is Kind.WITNESS
            and header.space_id == message.space_id
            and header.collection_id == message.collection_id
            and header.device_id == self._me().device_id
        )
        if not fits:
            raise Refusal("bad_draft")
        if header.key_epoch != key_epoch:
            raise Refusal("stale_key_epoch" if header.key_epoch < key_epoch else "bad_draft")
        return header

    def _on_read_history(self, message: m.ReadHistory) -> list[Effect]:
        self._require_entered(message.space_id)

        def answer(kept: tuple[Sequence[Change], bool]) -> list[Effect]:
            changes, more = kept
            parts = cast("list[m.ChangePart]", changes)  # which they are once they are written
            return [self._desk.send(m.History(message.request, parts, more))]

        return [self._desk.ask(ReadKept(message), message.request, answer)]

    # --- witnesses and signals ---

    def _on_signal(self, message: m.Signal) -> list[Effect]:
        self._require_entered(message.space_id)
        if len(message.body) > self._limits.signal_bytes_max:
            raise Refusal("too_large")
        notice = Signalled(message.space_id, self._me().device_id, message.to, message.body)
        return [self._desk.ask(PassOn(notice), message.request, lambda _: [])]

    def _signalled(self, notice: Signalled) -> list[Effect]:
        assert self.facts is not None
        me = self._me().device_id
        wanted = notice.from_device != me and notice.to_device in (None, me)
        # Ephemeral: a session that reads too slowly misses it rather than holding it.
        if not wanted or self._is_paused() or notice.space_id not in self.facts.entered:
            return []
        return [self._desk.send(m.Signal(0, notice.space_id, notice.body, notice.to_device, notice.from_device))]

    # --- pairing ---

    def _on_newcomer(self, message: m.OpenPairing | m.Pairing) -> list[Effect]:
        try:
            return self._on_open_pairing(message) if isinstance(message, m.OpenPairing) else self._on_pairing(message)
        except Refusal as exc:
            return [self._refuse(message.request, exc)]

    def _on_open_pairing(self, message: m.OpenPairing) -> list[Effect]:
        if self._joining:
            raise Refusal("overloaded", "wait for the answer to the earlier one", retry_after_s=0.1)
        self._joining = True
        if self.stage == "greeted":
            # A slow store must not cost the newcomer the connection.
            self.times.set("deadline", None)
        trusted = self.stage == "ready"

        def joined(_: None) -> list[Effect]:
            self._joining = False
            until = self._now + self._policy.pairing_s
            self._meeting = Meeting(
                message.channel, self.session_id, message.request, trusted=trusted, limits=self._limits, until=until
            )
            self.times.set("meeting", until)
            if self.stage == "greeted":
                self.times.set("deadline", until)
            return [self._desk.send(m.Done(message.request))]

        def failed() -> list[Effect]:
            self._joining = False
            return []

        return [*self._end_meeting(), self._desk.ask(JoinPairing(message.channel), message.request, joined, failed)]

    def _on_pairing(self, message: m.Pairing) -> list[Effect]:
        if self._meeting is None or self._meeting.channel != message.channel:
            raise Refusal("not_found", "open the pairing first")
        return [self._desk.ask(PassPairing(self._meeting.hand(message.body)), message.request, lambda _: [])]

    def _pairing_passed(self, notice: PairingPassed) -> list[Effect]:
        if self.stage == "closed" or self._meeting is None:
            return []
        try:
            heard = self._meeting.hear(notice)
        except Refusal as exc:
            return [self._refuse(self._meeting.request, exc), *self._end_meeting()]
        if isinstance(heard, PairingPassed):
            return [self._desk.ask(PassPairing(heard), None, lambda _: [])]
        return [self._desk.send(m.Pairing(0, notice.channel, heard))] if heard else []

    def _end_meeting(self) -> list[Effect]:
        met, self._meeting = self._meeting, None
        self.times.set("meeting", None)
        return [LeavePairing()] if met else []

    # --- account ---

    def _on_served(self, message: m.Message) -> list[Effect]:
        def answer(served: Served) -> list[Effect]:
            assert self.facts is not None
            self.facts.fresh_code_until = max(self.facts.fresh_code_until, served.fresh_code_until)
            self.facts.operator_until = max(self.facts.operator_until, served.operator_until)
            return [self._desk.send(served.message)]

        return [self._desk.ask(Serve(message), getattr(message, "request", None), answer)]

    def _on_export(self, message: m.Export) -> list[Effect]:
        # A piece is large: of many asked for at once none would be bounded by what the queue holds.
        if self._exporting:
            raise Refusal("overloaded", "wait for the piece before", retry_after_s=0.1)
        self._exporting = True

        def answer(served: Served) -> list[Effect]:
            self._exporting = False
            return [self._desk.send(served.message)]

        def failed() -> list[Effect]:
            self._exporting = False
            return []

        return [self._desk.ask(Serve(message), message.request, answer, failed)]

    def _account_changed(self, notice: AccountChanged) -> list[Effect]:
        assert self.facts is not None
        if notice.what == "account_deleted":
            return self._close("account_deleted")
        if notice.what == "device_approved" and notice.device_id == self._me().device_id:
            self.facts.device = replace(self.facts.device, probation_until=None)
        if notice.what == "space_deleted":
            self.facts.entered.pop(notice.space_id, None)
            self._spaces = [space for space in self._spaces if space.space_id != notice.space_id]
            self.facts.following.leave_space(notice.space_id)
        return [self._desk.send(m.AccountNotice(notice.what, notice.device_id, notice.space_id, notice.at))]

    def _stopped(self, closing: str) -> list[Effect]:
        # Who is still here when its account has moved comes back, to be told where.
        name = "moving" if closing == "moved" else closing
        return self._close(name) if name in CLOSINGS else []

    def _another_opened(self, notice: SessionOpened) -> list[Effect]:
        if notice.device_id == self._me().device_id and notice.session_id != self.session_id:
            self._newest_order = max(self._newest_order, notice.order)
        return self._yield_to_newest()

    def _yield_to_newest(self) -> list[Effect]:
        # Before this session has its own order it cannot know which is older; ``ordered`` asks again.
        if self.stage == "closed" or not self.order or self._newest_order <= self.order:
            return []
        # A device that was told to go has gone where it was sent.
        return self._close("going_away" if self._leaving else "replaced")

    # --- leaving ---

    def _farewell(self) -> list[Effect]:
        """Tell the device, and ask for a sign that it knows: frames do not overtake one another."""
        assert self._leaving is not None and self.times.leave is not None
        self.times.set("leave", max(self.times.leave, self._now + min(self._leaving.within_s, FAREWELL_S)))
        self._pings_out += 1
        self._leaving.pongs_left = self._pings_out
        return [self._desk.send(m.GoingAway(self._leaving.retry_after_s)), self._desk.send(m.Ping())]

    def _on_pong(self) -> list[Effect]:
        self._pings_out = max(0, self._pings_out - 1)
        if self._leaving:
            self._leaving.pongs_left -= 1
        return []

    def _then_leave(self, effects: list[Effect]) -> list[Effect]:
        """``effects``, and the closing when this session is to leave and owes no answer."""
        leaving = self._leaving
        if leaving is None or self.stage == "closed" or not leaving.heard:
            return effects
        if any(request is not None for request, _, _ in self._desk.waiting.values()):
            return effects
        return [*effects, *self._close("going_away")]

    # --- small things ---

    def _read_again_later(self) -> None:
        """When to ask again what the store left unanswered; sooner for some than for others."""
        if self.times.read_again is None and self.facts and self.facts.following.owes:
            share = 0.5 + self.session_id[0] / 512
            self.times.set("read_again", self._now + self._read_again_after_s * share)
            self._read_again_after_s = min(2 * self._read_again_after_s, READ_AGAIN_AFTER_S_MAX)

    def _crowded(self) -> None:
        if self.facts and not self.facts.following.paused:
            self.facts.following.pause()
            self.times.set("stalled", self._last_sent_at + self._policy.stalled_within_s)

    def _is_paused(self) -> bool:
        return self.facts is not None and self.facts.following.paused

    def _beat(self, message: type[m.Ping] | type[m.Pong]) -> list[Effect]:
        def tell(heads: list[m.HeadPart]) -> list[Effect]:
            if message is m.Ping:
                # The clock runs from the ping itself, not from the question to a store that may be slow.
                self.times.set("pong", self._now + self._policy.pong_within_s)
                self._pings_out += 1
            return [self._desk.send(message(heads))]

        return self._following().ask_heads(tell)

    def _failed(self, request: int | None, exc: BaseException) -> list[Effect]:
        if isinstance(exc, Closing):
            return self._end(exc)
        if self.stage == "looking":
            return self._close("internal")
        if self.stage == "greeted":
            # Whatever was refused before auth, the device has used its one attempt.
            self.times.set("deadline", self._auth_deadline)
        refusal = _as_refusal(exc)
        if request is None:
            return []
        return [self._refuse(request, refusal)]

    def _refuse(self, request: int | None, refusal: Refusal) -> Send:
        retry_after_s = refusal.retry_after_s or 0.0
        send = self._desk.send(m.Refused(request or 0, refusal.code, refusal.message, refusal.retry, retry_after_s))
        return Send(send.frame, refusal.code)

    def _close(self, name: str, reason: str = "") -> list[Effect]:
        return self._end(Closing(name, reason))

    def _end(self, closing: Closing) -> list[Effect]:
        self.stage = "closed"
        self._desk.waiting.clear()
        return [Close(closing.name, closing.code, closing.reason)]


def _merged(refused: dict[int, Answer], answers: Sequence[Answer]) -> list[Answer]:
    """The answers of one append in the order of its drafts: ``refused`` by place, the others in between."""
    others = iter(answers)
    return [refused[place] if place in refused else next(others) for place in range(len(refused) + len(answers))]


def _as_refusal(exc: BaseException) -> Refusal:
    if isinstance(exc, Refusal):
        return exc
    if isinstance(exc, StoreUnavailable):
        return Refusal("unavailable", retry_after_s=1.0)
    return Refusal("internal", retry_after_s=1.0)


def _space_info(space: Space) -> m.SpaceInfo:
    return m.SpaceInfo(space.space_id, space.app_id, space.key_epoch, space.used_bytes, space.deleted_at or 0.0)


_HANDLERS: dict[type[m.Message], Callable[[Session, Any], list[Effect]]] = {
    m.Append: Session._on_append,
    m.Subscribe: Session._on_subscribe,
    m.Unsubscribe: Session._on_unsubscribe,
    m.Enter: Session._on_enter,
    m.CreateSpace: Session._on_create_space,
    m.Collections: Session._on_collections,
    m.Witness: Session._on_witness,
    m.ReadHistory: Session._on_read_history,
    m.Signal: Session._on_signal,
    m.OpenPairing: Session._on_open_pairing,
    m.Pairing: Session._on_pairing,
    m.Export: Session._on_export,
    m.RequestCode: Session._on_served,
    m.Confirm: Session._on_served,
    m.ListDevices: Session._on_served,
    m.RevokeDevices: Session._on_served,
    m.ApproveDevice: Session._on_served,
    m.Vouch: Session._on_served,
    m.ListSpaces: Session._on_served,
    m.ListAudit: Session._on_served,
    m.ChangeAddress: Session._on_served,
    m.DeleteSpace: Session._on_served,
    m.DeleteAccount: Session._on_served,
    m.CancelDeletion: Session._on_served,
    m.OperatorCode: Session._on_served,
    m.Operate: Session._on_served,
}
"""Who answers which request, once the device is let in."""
