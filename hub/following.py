"""All collections one session follows, without I/O: from store answers and notices to frames.

Each collection has its ``Subscription``, which decides; this room carries the
decisions out, speaks to the store through the session's desk, and pauses them all
while the device does not read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Literal

from hub.bus import HeadMoved, Witnessed
from hub.delivery import Delivery, Key, changes_frame, without
from hub.effects import Ask, Began, Desk, Effect, ReadHeads, ReadPage, ReadStates, ReadWitnesses, Send
from hub.errors import Refusal
from hub.store import CollectionState, Page
from hub.subscription import Deliver, DeliverHead, Read, Step, Subscription
from hub.terms import Change, CollectionId, DeviceId, Incarnation, Limits, Seq, SpaceId
from hub.wire import messages as m
from hub.wire.codec import encode
from hub.wire.header import parse_header

PAGES_AHEAD = 2  # there must be room for: the one that is asked for, and one more that the store may begin
WITNESSES_AGAIN_MAX = 16  # asked for at once when the store had left them unanswered


class Following:
    """The subscriptions of one session."""

    __slots__ = (
        "_desk",
        "_device_id",
        "_heads_only",
        "_heads_owed",
        "_incarnation",
        "_limits",
        "_own_seqs",
        "_pages_owed",
        "_subscriptions",
        "_witness_counters",
        "_witnesses_in_doubt",
        "_witnesses_missed",
        "_witnesses_owed",
        "paused",
    )

    def __init__(
        self, desk: Desk, limits: Limits, *, device_id: DeviceId, incarnation: Incarnation, heads_only: bool
    ) -> None:
        self.paused = False
        self._pages_owed = False  # a page got no answer
        self._heads_owed = False  # likewise a question about heads
        self._desk = desk
        self._limits = limits
        self._device_id = device_id
        self._incarnation = incarnation
        self._heads_only = heads_only
        self._subscriptions: dict[Key, Subscription] = {}
        self._own_seqs: dict[Key, set[Seq]] = {}
        # Three sets; an empty dict takes a third of an empty set's memory, and they mostly are.
        self._witnesses_missed: dict[Key, None] = {}  # while paused
        self._witnesses_owed: dict[Key, None] = {}  # the store did not answer
        self._witnesses_in_doubt: dict[Key, None] = {}  # a notice may have been lost
        # What a device was told may not go backwards: a notice can overtake the answer to a read.
        self._witness_counters: dict[tuple[Key, DeviceId], int] = {}

    def __len__(self) -> int:
        return len(self._subscriptions)

    # --- beginning and ending ---

    def subscribe(self, message: m.Subscribe) -> list[Effect]:
        """Follow more collections, or the same from another cursor.  Raises ``Refusal("too_many")``."""
        space_id = message.space_id
        keys = {(space_id, cursor.collection_id) for cursor in message.cursors}
        if len(message.cursors) > self._limits.collections_per_subscribe_max or len(keys) != len(message.cursors):
            raise Refusal("too_many", "each collection once, within the limit of this hub")
        if len(self._subscriptions.keys() | keys) > self._limits.subscriptions_per_session_max:
            raise Refusal("too_many")
        # Made before the store is asked: a head that moves meanwhile is remembered.
        opening = [self._open(space_id, cursor) for cursor in message.cursors]
        return [
            self._desk.ask(
                ReadStates(space_id, tuple(cursor.collection_id for cursor in message.cursors)),
                message.request,
                lambda states: self._subscribed(message, opening, states),
                lambda: self._forget_all(opening),
            )
        ]

    def unsubscribe(self, message: m.Unsubscribe) -> list[Effect]:
        """Follow these no more."""
        for collection_id in message.collection_ids:
            subscription = self._subscriptions.get((message.space_id, collection_id))
            if subscription:
                self._forget(subscription)
        return [self._desk.send(m.Done(message.request))]

    def leave_space(self, space_id: SpaceId) -> None:
        """Follow nothing of this space any more."""
        self._forget_all([each for each in self._subscriptions.values() if each.key[0] == space_id])

    def _open(self, space_id: SpaceId, cursor: m.CursorPart) -> Subscription:
        subscription = Subscription(
            space_id, cursor.collection_id, live_only=cursor.live_only, heads_only=self._heads_only
        )
        if self.paused:
            subscription.paused()
        self._subscriptions[subscription.key] = subscription
        return subscription

    def _subscribed(
        self, message: m.Subscribe, opening: Sequence[Subscription], states: Sequence[CollectionState]
    ) -> list[Effect]:
        parts: list[m.SubscribedPart] = []
        began: list[Began] = []
        effects: list[Effect] = []
        for cursor, subscription, state in zip(message.cursors, opening, states, strict=True):
            kept = cursor.incarnation == self._incarnation
            after = cursor.seq if kept else 0
            how: Literal["kept", "new_incarnation", "from_start"] = (
                "from_start" if cursor.seq == 0 else "kept" if kept else "new_incarnation"
            )
            began.append(Began(how, max(0, state.head - after)))
            parts.append(m.SubscribedPart(state.collection_id, state.head, after, state.counter))
            if self._follows(subscription):
                effects += self._carry(subscription, subscription.opened(after, state.head))
                effects.append(self._send_witnesses((message.space_id, state.collection_id), again=True))
        subscribed = m.Subscribed(message.request, message.space_id, self._incarnation, parts)
        send = self._desk.send_frame(encode(subscribed))
        return [Send(send.frame, began=tuple(began)), *effects]

    def _follows(self, subscription: Subscription) -> bool:
        return self._subscriptions.get(subscription.key) is subscription

    def _forget_all(self, subscriptions: Sequence[Subscription]) -> list[Effect]:
        for subscription in subscriptions:
            self._forget(subscription)
        return []

    def _forget(self, subscription: Subscription) -> None:
        if self._follows(subscription):
            key = subscription.key
            del self._subscriptions[key]
            self._own_seqs.pop(key, None)
            self._witnesses_missed.pop(key, None)
            self._witnesses_owed.pop(key, None)
            self._witnesses_in_doubt.pop(key, None)
            for known in [known for known in self._witness_counters if known[0] == key]:
                del self._witness_counters[known]

    # --- room in the queue ---

    def pause(self) -> None:
        """The queue is crowded: read nothing more for now."""
        if not self.paused:
            self.paused = True
            for subscription in self._subscriptions.values():
                subscription.paused()

    def resume(self) -> list[Effect]:
        """There is room again: go on where each stopped."""
        self.paused = False
        effects: list[Effect] = []
        for key, subscription in list(self._subscriptions.items()):
            effects += self._carry(subscription, subscription.resumed())
            if key in self._witnesses_missed:
                del self._witnesses_missed[key]
                effects.append(self._send_witnesses(key))
        return effects

    # --- changes ---

    def deliver(self, delivery: Delivery) -> bytes:
        """The frame of changes that follow on directly, queued; empty, with nothing done, when there is more to it."""
        notice = delivery.notice
        subscription = self._subscriptions.get(delivery.key)
        if subscription is None or notice.incarnation != self._incarnation or not subscription.awaits(notice.after):
            return b""
        own = self._own_seqs.get(delivery.key) if self._own_seqs else None
        frame = delivery.frame_without(own) if own else delivery.frame()
        if not self._desk.take_in(frame):
            return b""
        subscription.sent = subscription.head = notice.head
        if own:
            self._forget_own(delivery.key, own, notice.head)
        return frame

    def head_moved(self, notice: HeadMoved) -> list[Effect]:
        """A collection has new changes."""
        subscription = self._subscriptions.get((notice.space_id, notice.collection_id))
        if subscription is None or notice.incarnation != self._incarnation:
            return []
        return self._carry(subscription, subscription.committed(notice.after, notice.head, notice.changes))

    def appended(self, space_id: SpaceId, fresh: Sequence[tuple[CollectionId, Change]]) -> None:
        """This session appended these; it still holds their bytes."""
        for collection_id, change in fresh:
            key = (space_id, collection_id)
            subscription = self._subscriptions.get(key)
            if subscription and subscription.delivers and change.seq > subscription.sent:
                self._own_seqs.setdefault(key, set()).add(change.seq)

    @property
    def owes(self) -> bool:
        """Whether the store left a question unanswered; ``read_again`` asks it anew."""
        return self._pages_owed or self._heads_owed or bool(self._witnesses_owed)

    def read_again(self) -> list[Effect]:
        """Try once more what the store did not answer."""
        effects: list[Effect] = []
        if self._pages_owed:
            for subscription in list(self._subscriptions.values()):
                effects += self._carry(subscription, subscription.head_seen(subscription.head))
        if self._heads_owed:
            effects += self.ask_heads(lambda _heads: [])
        self._pages_owed = self._heads_owed = False
        some = list(islice(self._witnesses_owed, WITNESSES_AGAIN_MAX))
        for key in some:
            del self._witnesses_owed[key]
        return effects + [self._send_witnesses(key) for key in some]

    def _carry(self, subscription: Subscription, steps: Sequence[Step]) -> list[Effect]:
        """Turn a subscription's steps into effects."""
        if len(steps) == 1 and type(steps[0]) is Deliver:  # what a notice mostly comes to
            return [self._deliver(subscription, steps[0])]
        effects: list[Effect] = []
        for step in steps:
            if type(step) is Deliver:
                effects.append(self._deliver(subscription, step))
            elif type(step) is Read:
                effects.append(self._read(subscription, step))
            elif type(step) is DeliverHead:
                part = m.HeadPart(*subscription.key, step.head)
                effects.append(self._desk.send(m.Heads([part])))
        return effects

    def _read(self, subscription: Subscription, step: Read) -> Effect:
        def read(page: Page) -> list[Effect]:
            if not self._follows(subscription):
                return []
            return self._carry(subscription, subscription.read_done(page.changes, page.upto, page.head))

        def failed() -> list[Effect]:
            subscription.read_failed()
            self._pages_owed = True
            return []

        goes_on = self._desk.room_bytes >= PAGES_AHEAD * self._limits.page_bytes
        what = ReadPage(*subscription.key, step.after, step.live_only, goes_on)
        return self._desk.ask(what, None, read, failed)

    def _deliver(self, subscription: Subscription, step: Deliver) -> Send:
        key, changes = subscription.key, step.changes
        if own := self._own_seqs.get(key):
            self._forget_own(key, own, step.upto)
            changes = without(own, changes)
        frame = changes_frame(key, step.after, step.upto, step.head, changes)
        if changes and changes[-1].seq > subscription.caught_up_at:
            return self._desk.send_frame(frame, len(changes), changes[-1].appended_at_ms / 1_000)
        return self._desk.send_frame(frame, len(changes))

    def _forget_own(self, key: Key, own: set[Seq], upto: Seq) -> None:
        """The session's device was told the place of its own changes up to ``upto``."""
        del self._own_seqs[key]
        if max(own) > upto:
            self._own_seqs[key] = {seq for seq in own if seq > upto}

    # --- heads ---

    def compare(self) -> list[Effect]:
        """Notices may have been lost: ask the store where all collections stand, and read on.

        Afterwards ``ask_witness`` asks for the witnesses, a collection a call.
        """
        self._witnesses_in_doubt.update(dict.fromkeys(self._subscriptions))
        return self.ask_heads(lambda _heads: [])

    def ask_heads(self, tell: Callable[[list[m.HeadPart]], list[Effect]]) -> list[Effect]:
        """Ask the store where all collections stand, then ``tell`` it: a lost last notice ends here.

        When the store does not answer, nothing is told of them, and it is asked again.
        """
        keys = tuple(self._subscriptions)
        if not keys:
            return tell([])

        def told(heads: Sequence[Seq]) -> list[Effect]:
            effects: list[Effect] = []
            for key, head in zip(keys, heads, strict=True):
                if subscription := self._subscriptions.get(key):
                    effects += self._carry(subscription, subscription.head_seen(head))
            return effects + tell([m.HeadPart(*key, head) for key, head in zip(keys, heads, strict=True)])

        def failed() -> list[Effect]:
            self._heads_owed = True
            return tell([])

        return [self._desk.ask(ReadHeads(keys), None, told, failed)]

    # --- witnesses ---

    def witnessed(self, notice: Witnessed) -> list[Effect]:
        """A device gave a new witness."""
        key = (notice.space_id, notice.collection_id)
        if key not in self._subscriptions or notice.device_id == self._device_id:
            return []
        if self.paused:
            self._witnesses_missed[key] = None
            return []
        if not self._is_news(key, notice.device_id, notice.sealed):
            return []
        return [self._desk.send(m.Witnesses(*key, [notice.sealed]))]

    def ask_witness(self) -> Ask | None:
        """Send what this session was not sent of one collection's witnesses; None when none is in doubt."""
        if self.paused:
            self._witnesses_missed |= self._witnesses_in_doubt
            self._witnesses_in_doubt.clear()
        return self._send_witnesses(self._witnesses_in_doubt.popitem()[0]) if self._witnesses_in_doubt else None

    def _is_news(self, key: Key, device_id: DeviceId, sealed: bytes, *, again: bool = False) -> bool:
        """Whether this session was not sent this or a newer witness of the device; from now on it was sent this one.

        With ``again`` the one it was sent last is news once more.
        """
        counter = parse_header(sealed).counter
        known = self._witness_counters.get((key, device_id), 0)
        if counter < known or (counter == known and not again):
            return False
        self._witness_counters[key, device_id] = counter
        return True

    def _send_witnesses(self, key: Key, *, again: bool = False) -> Ask:
        """Ask for the witnesses of a collection and send those that are news."""

        def failed() -> list[Effect]:
            if key in self._subscriptions:
                self._witnesses_owed[key] = None
            return []

        def answer(witnesses: Sequence[tuple[DeviceId, bytes]]) -> list[Effect]:
            if key not in self._subscriptions:
                return []
            others = [
                sealed
                for device_id, sealed in witnesses
                if device_id != self._device_id and self._is_news(key, device_id, sealed, again=again)
            ]
            return [self._desk.send(m.Witnesses(*key, others))] if others else []

        return self._desk.ask(ReadWitnesses(*key), None, answer, failed)
