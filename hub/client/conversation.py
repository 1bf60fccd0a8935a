"""One connection with the hub from hello until the line is cut, without I/O.

It goes: hello, challenge, then at once auth, enter and subscribe without waiting
for the answers; then changes come in and drafts go out, both at the same time.
Nothing here outlives the connection; what must is the ``Device``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from hub.client.backoff import Backoff
from hub.client.check import ALARMS
from hub.client.collection import LocalCollection
from hub.client.device import AccountChanged, Answered, Device, Moved, Now, PairingCame, Send, SignalCame, Wiped
from hub.client.intake import Intake
from hub.client.outbox import InFlight
from hub.client.signals import open_signal
from hub.client.storage import CollectionRow
from hub.errors import REFUSALS
from hub.signing import sign
from hub.terms import ID_BYTES, PROTOCOL_VERSION, CollectionId, Limits, Seq
from hub.wire import messages as m
from hub.wire.codec import encode
from hub.wire.header import NONCE_BYTES

APPENDS_IN_FLIGHT_MAX = 2  # one being committed, one on the way; more only fills queues
DEAD_AFTER_S = 10.0  # a ping of ours, or hello, without any frame in answer
STALLED_AFTER_S = 60.0  # work to do, and none done
LAGGING_AFTER_S = 15.0  # the hub told a higher head and sends nothing: ask again
WITNESS_AFTER_ACKS_S = 2.0
WITNESS_AFTER_CHANGES_S = 5.0  # later than the writer's own, so that a burst costs each device one
HOLD_S = 2.0  # after a refusal that says "later" without saying when
HOLD_LONG_S = 60.0  # after a refusal that only time or a person can help
LEAVE_WITHIN_S = 10.0  # what a hub that goes away has not answered by then is sent again to another


class Handler(Protocol):
    """What to do with the answer to a request."""

    def __call__(self, answer: m.Message, now: Now) -> None:
        """``answer`` may be ``Refused``."""


class Conversation:
    """What is known of one connection and forgotten with it."""

    def __init__(self, device: Device, now: Now, heartbeat_s: int) -> None:
        self.entered = False
        self.done = 0  # changes received and appended since there was nothing to do
        self.following: set[int] = set()
        self.hub_url = device.identity.hub_url
        self._device = device
        self._hello = encode(
            m.Hello([PROTOCOL_VERSION], device.identity.device_id, device.fresh(32), heartbeat_s=heartbeat_s)
        )
        self._challenge = b""
        self._limits = Limits()
        self._ready: m.Ready | None = None
        self._entering = False  # enter or create_space is sent and not answered
        self._requests = 0
        self._waiting: dict[int, Handler] = {}
        self._appends = 0
        self._asked: set[int] = set()  # collections with a subscribe on the way
        self._listing = False  # the hub has been asked what there is
        self._heads: dict[int, Seq] = {}
        self._told: dict[int, Seq] = {}  # heads to be confirmed once reached
        self._floors: dict[int, Seq] = {}  # our cursors at the hub's last ping
        self._heartbeat_s = float(heartbeat_s or Limits().heartbeat_s)
        self._last_received = now.steady
        self._last_progress = now.steady
        self._ping_sent_at: float | None = None
        self._lagging_since: float | None = None
        self._hold_until = 0.0  # nothing is appended before
        self._quota_until = 0.0  # what was over quota is not tried again before
        self._used_bytes = 0  # of the account, when it was full
        self._witnessing: set[int] = set()  # collections with a witness on the way
        self._refusals = Backoff()  # of append requests in a row
        self._leave_by: float | None = None  # the hub goes away: nothing new is asked, and this is the end
        self._come_back_after_s = 0.0
        self._send(self._hello)

    @property
    def ready(self) -> bool:
        """Whether the hub knows the device and answers it."""
        return self._ready is not None and not self._device.hung_up

    @property
    def may_ask(self) -> bool:
        """Whether anything new may be asked: not of a hub that goes away."""
        return self._leave_by is None and not self._device.hung_up

    @property
    def is_catching_up(self) -> bool:
        """Whether there is more in the log than here, or may be."""
        return self._listing or bool(self._asked) or any(self._is_behind(n) for n in self.following)

    @property
    def remaining(self) -> int:
        """How many changes are still to come, at most."""
        return sum(max(0, head - self._row(n).seq) for n, head in self._heads.items())

    def received(self, message: m.Message, frame: bytes, now: Now) -> None:
        """A message has come, in this frame."""
        self._last_received = now.steady
        self._ping_sent_at = None
        if not self._has_work():
            self._last_progress = now.steady
            self.done = 0
        self._dispatch(message, frame, now)
        self.flush(now)
        self._leave_when_answered()

    def begin(self) -> None:
        """Sync is wanted, perhaps on a line that came up without."""
        if self.ready and self.may_ask and not self.entered and not self._entering and self._wants_to_sync():
            self._enter_or_create()

    def ask(self, make: Callable[[int], m.Message], handle: Handler | None = None) -> int:
        """Send a request; its number.  Without ``handle`` its answer becomes the effect ``Answered``.

        Nothing is sent while ``may_ask`` is false: the line is about to end, and the next one asks anew.
        """
        self._requests += 1
        number = self._requests
        if self.may_ask:
            self._waiting[number] = handle or partial(self._hand_to_app, number)
            self._send(encode(make(number)))
        return number

    def say(self, make: Callable[[int], m.Message]) -> None:
        """Send what is answered only when it is refused."""
        self._requests += 1
        if self.may_ask:
            self._send(encode(make(self._requests)))

    def ask_heads(self) -> None:
        """Have the hub tell its heads."""
        self._send(encode(m.Ping()))

    # --- time ---

    def timer(self) -> float:
        """When ``timer_fired`` wants to be called, in steady time."""
        times = [self._silence_ends()]
        if self._leave_by is not None:
            times.append(self._leave_by)
        elif self.entered:
            times += self._device.witness_due.values()
            times += [due for due in (self._hold_until, self._quota_until) if due]
            times += [self._last_progress + STALLED_AFTER_S] if self._has_work() else []
            times += [self._lagging_since + LAGGING_AFTER_S] if self._lagging_since is not None else []
        return min(times)

    def timer_fired(self, now: Now) -> None:
        """Something is due."""
        if self._silence_ends() <= now.steady:
            if self._ping_sent_at is not None or self._ready is None:
                self._device.hang_up("the hub does not answer")
                return
            self._ping_sent_at = now.steady
            self.ask_heads()
        if self._leave_by is not None and self._leave_by <= now.steady:
            self._leave()
        if not self.entered or not self.may_ask:
            return
        if self._has_work() and self._last_progress + STALLED_AFTER_S <= now.steady:
            self._device.hang_up("there is work and nothing moves")
            return
        self._end_waits(now)
        for n in [n for n, due in self._device.witness_due.items() if due <= now.steady]:
            self.witness(n, now)
        self.flush(now)

    def _end_waits(self, now: Now) -> None:
        if self._hold_until <= now.steady:
            self._hold_until = 0.0
        if self._quota_until and self._quota_until <= now.steady:
            self._room_again()
        if self._lagging_since is not None and self._lagging_since + LAGGING_AFTER_S <= now.steady:
            behind = [self._device.collections[n] for n in sorted(self.following) if self._is_behind(n)]
            self._lagging_since = now.steady if behind else None
            self._subscribe(behind)

    def _silence_ends(self) -> float:
        if self._ping_sent_at is not None:
            return self._ping_sent_at + DEAD_AFTER_S
        return self._last_received + (self._heartbeat_s if self._ready else DEAD_AFTER_S)

    def _leave_when_answered(self) -> None:
        if self._leave_by is not None and not self._waiting and not self._device.hung_up:
            self._leave()

    def _leave(self) -> None:
        self._device.hang_up("the hub is restarting", after_s=self._come_back_after_s, politely=True)

    def _has_work(self) -> bool:
        return bool(self._appends) or self.is_catching_up

    # --- messages ---

    def _dispatch(self, message: m.Message, frame: bytes, now: Now) -> None:
        match message:
            case m.Challenge():
                self._on_challenge(message, frame)
            case m.Ready():
                self._on_ready(message)
            case m.Changes():
                self._on_changes(message, now)
            case m.Ping():
                self._send(encode(m.Pong()))
                self._on_heads(message.heads, now, paced=True)
            case m.Pong() | m.Heads():
                self._on_heads(message.heads, now)
            case m.Witnesses():
                self._on_witnesses(message, now)
            case m.Signal():
                self._on_signal(message)
            case m.Pairing():
                self._device.effects.append(PairingCame(message.channel, message.body))
            case m.AccountNotice():
                self._device.effects.append(AccountChanged(message))
            case m.Moved():
                self._device.has_moved(message.url)
            case m.GoingAway():
                self._on_going_away(message, now)
            case _:
                self._on_answer(message, now)

    def _on_answer(self, message: m.Message, now: Now) -> None:
        number: int = getattr(message, "request", 0)
        handle = self._waiting.pop(number, None)
        if handle is not None:
            handle(message, now)
        elif isinstance(message, m.Refused) and self._ready is None:
            # Auth has no number.
            self._device.hang_up(message.message, after_s=message.retry_after_s)
        elif isinstance(message, m.Refused):
            # Of a request that was answered before, or needed no answer: a pairing may end so.
            self._hand_to_app(number, message, now)

    def _hand_to_app(self, number: int, answer: m.Message, now: Now) -> None:
        self._device.effects.append(Answered(number, answer))

    def _on_going_away(self, message: m.GoingAway, now: Now) -> None:
        if self._leave_by is None:
            self._leave_by = now.steady + LEAVE_WITHIN_S
            self._come_back_after_s = message.retry_after_s
            self._device.leaving = True
            self._device.effects.append(Moved())

    # --- handshake ---

    def _on_challenge(self, message: m.Challenge, frame: bytes) -> None:
        self._challenge = frame
        self._limits = _limits(message.limits)
        me = self._device.identity
        self._send(encode(m.Auth(sign(me.signing_key, "auth", me.hub_url, self._hello, frame))))
        if self._wants_to_sync() and self._device.storage.setting("space_known"):
            self._enter()

    def _wants_to_sync(self) -> bool:
        return self._device.keys is not None and self._device.mode != "off"

    def _on_ready(self, message: m.Ready) -> None:
        if not self._device.is_ready(message):
            self._device.hang_up("another account", retry=False)
            return
        self._ready = message
        self._heartbeat_s = float(message.heartbeat_s or self._heartbeat_s)
        self.begin()

    def _enter_or_create(self) -> None:
        device = self._device
        spaces = self._ready.spaces if self._ready else []
        others = any(space.app_id == device.identity.app_id for space in spaces)
        if any(space.space_id == device.space_id for space in spaces):
            self._enter()
        elif others and device.storage.setting("may_create") is None:
            device.block("this key belongs to none of the account's spaces of this app")
            self._device.hang_up("wrong key", retry=False)
        else:
            self._create()

    def _enter(self) -> None:
        keys = self._device.keys
        assert keys is not None
        self._entering = True
        proof = m.SpaceProof(keys.space_id, keys.key_epoch, self._space_proof())
        self.ask(lambda number: m.Enter(number, [proof]), self._on_entered)
        # Without waiting for the answer: coming back costs one round trip, however many collections there are.
        self._ask_what_there_is()
        self._subscribe(list(self._device.collections.values()))

    def _create(self) -> None:
        keys = self._device.keys
        assert keys is not None
        self._entering = True
        proof, app_id = self._space_proof(), self._device.identity.app_id
        self.ask(lambda number: m.CreateSpace(number, keys.space_id, app_id, keys.space_pk, proof), self._on_entered)

    def _space_proof(self) -> bytes:
        device = self._device
        assert device.keys is not None
        challenge = self._challenge + device.space_id
        return sign(device.keys.signing_key, "space", device.identity.hub_url, self._hello, challenge)

    def _on_entered(self, answer: m.Message, now: Now) -> None:
        device = self._device
        assert self._ready is not None
        self._entering = False
        if isinstance(answer, m.Refused):
            self._not_entered(answer, now)
            return
        self.entered = True
        self._last_progress = now.steady
        device.error = ""
        with device.transaction():
            device.storage.set_setting("space_known", b"1")
            device.storage.set_setting("incarnation", self._ready.incarnation)
            if isinstance(answer, m.Entered):
                device.know_spaces(answer.spaces)
        # Those that were asked for before the space was there.
        self.follow(list(device.collections.values()))
        device.effects.append(Moved())

    def _not_entered(self, refused: m.Refused, now: Now) -> None:
        device = self._device
        assert self._ready is not None
        if refused.code == "not_found" and device.storage.setting("incarnation") == self._ready.incarnation:
            device.raise_alarm("emptied", None, ALARMS["emptied"], 0, now)
            self._device.hang_up("the space is gone", retry=False)
        elif refused.code == "not_found":
            # The log was lost, or restored to a time before the space: begin it anew and heal it.
            self._asked.clear()
            self._create()
        elif refused.retry:
            self._device.hang_up(refused.message, after_s=refused.retry_after_s)
        else:
            device.block(f"{refused.code}: {refused.message}")
            self._device.hang_up(refused.code, retry=False)

    # --- following ---

    def follow(self, locals_: Sequence[LocalCollection]) -> None:
        """Subscribe to those of these collections that are not followed yet."""
        if self.entered:
            self._subscribe([one for one in locals_ if one.n not in self.following | self._asked])

    def _ask_what_there_is(self) -> None:
        self._listing = True
        self.ask(lambda number: m.Collections(number, self._device.space_id), self._on_listed)

    def _on_listed(self, answer: m.Message, now: Now) -> None:
        self._listing = False
        self._device.effects.append(Moved())
        if not isinstance(answer, m.CollectionList):
            self._not_subscribed(answer)
            return
        device = self._device
        known = {local.row.collection_id for local in device.collections.values()}
        with device.transaction():
            added = [
                device.add(None, one.collection_id) for one in answer.collections if one.collection_id not in known
            ]
            for local in added:
                if device.mode == "wiping":
                    local.add_wipe(now.wall)
        for local in added:
            device.admit(local)
        self.follow(added)

    def _subscribe(self, locals_: Sequence[LocalCollection]) -> None:
        wanted = [local for local in locals_ if local.n in self._device.intakes and not local.row.alarm]
        size = self._limits.collections_per_subscribe_max
        for at in range(0, len(wanted), size):
            self._subscribe_part(wanted[at : at + size])

    def _subscribe_part(self, locals_: Sequence[LocalCollection]) -> None:
        cursors = [_cursor(local) for local in locals_]
        asked = {_cursor(local).collection_id: (local.n, local.row.answered) for local in locals_}
        # Until the answer is here, frames of an earlier subscription do not count.
        self._asked |= {local.n for local in locals_}
        self.following -= {local.n for local in locals_}
        self.ask(
            lambda number: m.Subscribe(number, self._device.space_id, cursors), partial(self._on_subscribed, asked)
        )

    def _on_subscribed(self, asked: dict[CollectionId, tuple[int, int]], answer: m.Message, now: Now) -> None:
        self._asked -= {n for n, _ in asked.values()}
        if not isinstance(answer, m.Subscribed):
            self._not_subscribed(answer)
            return
        self._device.head_seen_at = now.wall
        self._last_progress = now.steady
        for part in answer.collections:
            if part.collection_id in asked:
                self._begin(answer.incarnation, part, *asked[part.collection_id], now)
        self._confirmed()

    def _begin(self, incarnation: bytes, part: m.SubscribedPart, n: int, answered_then: int, now: Now) -> None:
        counter = part.counter
        if counter >= answered_then:
            # What was answered since the question was asked may be missing in the hub's number; it is not lost.
            counter = max(counter, self._row(n).answered)
        granted = self._device.granted_seq(incarnation, part.collection_id)
        if self._device.guarded(n, now, lambda intake: intake.subscribed(incarnation, part.head, counter, granted)):
            self.following.add(n)
            self._heads[n] = self._told[n] = part.head
            self._arrived(n, now)

    def _not_subscribed(self, answer: m.Message) -> None:
        # Before the space is entered it was refused along with the enter, and is asked for again after it.
        if self.entered and isinstance(answer, m.Refused):
            self._device.error = answer.message
            self._device.hang_up(answer.message, after_s=answer.retry_after_s or HOLD_S)

    def _on_changes(self, frame: m.Changes, now: Now) -> None:
        device = self._device
        n = device.number(frame.space_id, frame.collection_id)
        if n is None or n not in self.following:
            return
        if not device.guarded(n, now, lambda intake: self._take_over(intake, frame, now)):
            self.following.discard(n)
            return
        self._last_progress = self._lagging_since = now.steady
        self.done += len(frame.changes)
        self._heads[n] = max(self._heads.get(n, 0), frame.head)
        device.witness_soon(n, now.steady + WITNESS_AFTER_CHANGES_S)
        if device.mode == "off":
            device.effects.append(Wiped())
            self._device.hang_up("another device dropped the remote copies", retry=False)
        elif self._row(n).seq >= self._heads[n]:
            self._arrived(n, now)
        device.effects.append(Moved())

    def _take_over(self, intake: Intake, frame: m.Changes, now: Now) -> None:
        wipers = intake.page(frame, now.wall)
        device = self._device
        if not wipers or device.mode != "on":
            return
        by_another = any(device_id != device.identity.device_id for device_id in wipers)
        if by_another and not device.storage.setting("resuming"):
            # In the same transaction: whoever has seen the wipe does not write again before a person says so.
            device.storage.set_setting("mode", b"off")
            device.storage.set_setting("wiped", b"1")
        else:
            # The person knows of this wipe, and has switched sync on again since.
            intake.local.requeue_unsent(now.wall)
            intake.local.settle(now.wall)

    def _arrived(self, n: int, now: Now) -> None:
        """The cursor may have reached the head that was told."""
        local = self._device.collections[n]
        if local.row.seq < self._heads[n] or self._starts_over(n, now):
            return
        told = self._told.pop(n, None)
        first = not local.row.caught_up or local.row.healing

        def arrive(intake: Intake) -> None:
            if told == local.row.seq:
                intake.caught_up(told)
            local.save(caught_up=True)
            if first:
                intake.finish(now.wall)

        if not self._device.guarded(n, now, arrive):
            self.following.discard(n)
        elif local.row.seq != local.row.witness_seq:
            # Whoever waits for this device to say so must not wait for the next change.
            self._device.witness_soon(n, now.steady + WITNESS_AFTER_CHANGES_S)
        if not any(self._is_behind(other) for other in self.following):
            self._lagging_since = None

    def _starts_over(self, n: int, now: Now) -> bool:
        again: list[bool] = []
        self._device.guarded(n, now, lambda intake: again.append(intake.start_over()))
        if any(again):
            self._subscribe([self._device.collections[n]])
        return any(again)

    def _is_behind(self, n: int) -> bool:
        row = self._row(n)
        return not row.alarm and (row.seq < self._heads.get(n, 0) or not row.caught_up)

    def _on_heads(self, heads: Sequence[m.HeadPart], now: Now, *, paced: bool = False) -> None:
        for part in heads:
            n = self._device.number(part.space_id, part.collection_id)
            if n is not None and n in self.following:
                self._on_head(n, part.head, now, paced=paced)
        self._device.head_seen_at = now.wall
        self._confirmed()

    def _on_head(self, n: int, head: Seq, now: Now, *, paced: bool) -> None:
        seq = self._row(n).seq
        # The hub looked the head up a while ago; only what we had at its last ping is surely older than that.
        if paced and head < self._floors.get(n, 0):
            if not self._device.guarded(n, now, lambda intake: intake.check.head_seen(head)):
                self.following.discard(n)
            return
        if paced:
            self._floors[n] = seq
        self._heads[n] = max(self._heads.get(n, 0), head)
        if head == seq:
            self._told[n] = head
            self._arrived(n, now)
        elif head > seq and self._lagging_since is None:
            self._lagging_since = now.steady

    def _confirmed(self) -> None:
        if not self._asked:
            self._device.confirmations += 1
        if not self.is_catching_up and self._device.storage.setting("resuming"):
            with self._device.transaction():
                self._device.storage.set_setting("resuming", None)
        self._device.effects.append(Moved())

    # --- sending ---

    def flush(self, now: Now) -> None:
        """Keep the window of append requests full."""
        device = self._device
        if not self.entered or not self.may_ask or device.outbox is None or device.mode == "off":
            return
        if self._hold_until > now.steady:
            return
        while self._appends < APPENDS_IN_FLIGHT_MAX:
            eligible = [n for n in device.collections if self._may_send(n)]
            with device.transaction():
                batch = device.outbox.next_batch(eligible, self._limits) if eligible else None
            if batch is None:
                return
            if not self._has_work():
                self._last_progress = now.steady
            self._appends += 1
            self._append(batch.drafts, batch.flights)

    def _append(self, drafts: list[bytes], flights: Sequence[InFlight]) -> None:
        self.ask(lambda number: m.Append(number, self._device.space_id, drafts), partial(self._on_appended, flights))

    def _may_send(self, n: int) -> bool:
        """Whether a collection's edits may go out: the log is known, so that conflicts are met here and not there."""
        row = self._row(n)
        if row.alarm or n not in self._device.intakes or not row.caught_up or row.healing:
            return False
        # In the life of the log we know, nothing that subscribe answers can change what is sent.
        same_life = self._ready is not None and self._ready.incarnation == row.incarnation
        return n in self.following or (n in self._asked and same_life)

    def _on_appended(self, flights: Sequence[InFlight], answer: m.Message, now: Now) -> None:
        device = self._device
        assert device.outbox is not None
        self._appends -= 1
        self._last_progress = now.steady
        if not isinstance(answer, m.Appended) or len(answer.answers) != len(flights):
            device.outbox.unanswered(flights)
            self._append_refused(answer, now)
            return
        self._refusals = Backoff()
        self._note_acks(flights, answer, now)
        with device.transaction():
            codes = device.outbox.answered(flights, answer.answers)
            for n in {flight.collection for flight in flights}:
                device.collections[n].settle(now.wall)
        if device.usage:
            device.usage = device.usage._replace(used_bytes=answer.used_bytes)
        if device.outbox.over_quota and answer.used_bytes < self._used_bytes:
            self._room_again()
        for code in dict.fromkeys(codes):
            self._draft_refused(code, answer, now)
        device.effects.append(Moved())

    def _note_acks(self, flights: Sequence[InFlight], answer: m.Appended, now: Now) -> None:
        device = self._device
        for flight, one in zip(flights, answer.answers, strict=True):
            if not one.seq:
                continue
            self.done += 1
            device.last_appended_at = now.wall
            device.witness_soon(flight.collection, now.steady + WITNESS_AFTER_ACKS_S)
            if row := device.storage.row(flight.n):
                device.remember_ack(row.change_id, flight.collection, one.seq)

    def _append_refused(self, answer: m.Message, now: Now) -> None:
        if not isinstance(answer, m.Refused):
            self._device.hang_up("the hub answered something else than was asked")
            return
        wait_s = HOLD_LONG_S
        if answer.retry:
            # Many devices were refused at the same moment; they should not all be back at the next.
            wait_s = self._refusals.lost(now.steady, self._device.draw(), answer.retry_after_s or HOLD_S)
        self._device.error = "" if answer.retry else answer.message
        self._hold_until = max(self._hold_until, now.steady + wait_s)

    def _draft_refused(self, code: str, answer: m.Appended, now: Now) -> None:
        if code == "quota_exceeded":
            self._quota_until, self._used_bytes = now.steady + HOLD_LONG_S, answer.used_bytes
            return
        self._device.error = REFUSALS[code].message if code in REFUSALS else code
        if code in ("device_cloned", "stale_key_epoch"):
            self._device.block(f"{code}: {self._device.error}")
            self._device.hang_up(code, retry=False)
        elif code not in ("too_large", "bad_draft"):
            self._hold_until = now.steady + HOLD_LONG_S

    def _room_again(self) -> None:
        assert self._device.outbox is not None
        self._quota_until = 0.0
        self._device.outbox.room_again()

    # --- witnesses and signals ---

    def witness(self, n: int, now: Now) -> None:
        """State what this device has of a collection, when there is something new to state."""
        device = self._device
        device.witness_due.pop(n, None)
        intake = device.intakes[n]
        row = intake.local.row
        if not self.may_ask or row.alarm or n not in self.following or n in self._witnessing:
            return
        if row.seq == row.witness_seq:
            return
        with device.transaction():
            sealed = intake.make_witness(device.fresh(ID_BYTES + NONCE_BYTES), int(now.wall * 1000))
        if sealed is not None:
            self._witnessing.add(n)
            self._hand_in(intake.collection_id, sealed, partial(self._on_handed_in, n, row.seq))

    def _hand_in(self, collection_id: CollectionId, sealed: bytes, handle: Handler) -> None:
        self.ask(lambda number: m.Witness(number, self._device.space_id, collection_id, sealed), handle)

    def _on_handed_in(self, n: int, seq: Seq, answer: m.Message, now: Now) -> None:
        self._witnessing.discard(n)
        local = self._device.collections[n]
        if isinstance(answer, m.Done):
            with self._device.transaction():
                local.save(witness_seq=seq)
        elif isinstance(answer, m.Refused) and not answer.retry:
            return
        if local.row.seq > seq or not isinstance(answer, m.Done):
            # Moved on meanwhile, or not kept: another one, in a moment.
            self._device.witness_soon(n, now.steady + WITNESS_AFTER_CHANGES_S)

    def _on_witnesses(self, message: m.Witnesses, now: Now) -> None:
        n = self._device.number(message.space_id, message.collection_id)
        if n is None or n not in self.following:
            return
        if not self._device.guarded(n, now, lambda intake: intake.witnesses(message.witnesses)):
            self.following.discard(n)
        self._device.effects.append(Moved())

    def _on_signal(self, message: m.Signal) -> None:
        keys = self._device.keys
        if keys is None or message.device_id is None or message.space_id != keys.space_id:
            return
        body = open_signal(keys, message.device_id, message.body)
        if body is not None:
            self._device.effects.append(SignalCame(message.device_id, body))

    # --- small things ---

    def _row(self, n: int) -> CollectionRow:
        return self._device.collections[n].row

    def _send(self, frame: bytes) -> None:
        if not self._device.hung_up:
            self._device.effects.append(Send(frame))


def _limits(told: dict[str, int]) -> Limits:
    known = {name: value for name, value in told.items() if name in Limits.__dataclass_fields__ and value > 0}
    return Limits(**known)


def _cursor(local: LocalCollection) -> m.CursorPart:
    row = local.row
    assert row.collection_id is not None, "a collection without an id was let in"
    # Whoever has not reached the head yet needs what counts now, and none of what it has replaced.
    return m.CursorPart(row.collection_id, row.incarnation, row.seq, live_only=not row.caught_up)
