"""All collections one session follows, without I/O: from store answers and notices to frames.

Each collection has its ``Subscription``, which decides; this room carries the
decisions out, speaks to the store through the session's desk, and pauses them all
while the device does not read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Literal

from hub.bus import HeadMoved, Witnessed
from hub.effects import Ask, Began, Desk, Effect, ReadPage, ReadStates, ReadWitnesses, Send
from hub.errors import Refusal
from hub.store import CollectionState, Page
from hub.subscription import Deliver, DeliverHead, Read, Step, Subscription
from hub.terms import Change, CollectionId, DeviceId, Incarnation, Limits, Seq, SpaceId
from hub.wire import messages as m
from hub.wire.header import parse_header

WITNESSES_AGAIN_MAX = 16  # asked for at once when the store had left them unanswered

Key = tuple[SpaceId, CollectionId]


class Following:
    """The subscriptions of one session."""

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
        self._witnesses_missed: set[Key] = set()  # while paused
        self._witnesses_owed: set[Key] = set()  # the store did not answer
        self._witnesses_in_doubt: set[Key] = set()  # a notice may have been lost
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
        self._forget_all([each for each in self._subscriptions.values() if each.space_id == space_id])

    def _open(self, space_id: SpaceId, cursor: m.CursorPart) -> Subscription:
        subscription = Subscription(
            space_id, cursor.collection_id, live_only=cursor.live_only, heads_only=self._heads_only
        )
        if self.paused:
            subscription.paused()
        self._subscriptions[space_id, cursor.collection_id] = subscription
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
        return [self._desk.send(subscribed)._replace(began=tuple(began)), *effects]

    def _follows(self, subscription: Subscription) -> bool:
        return self._subscriptions.get((subscription.space_id, subscription.collection_id)) is subscription

    def _forget_all(self, subscriptions: Sequence[Subscription]) -> list[Effect]:
        for subscription in subscriptions:
            self._forget(subscription)
        return []

    def _forget(self, subscription: Subscription) -> None:
        if self._follows(subscription):
            key = (subscription.space_id, subscription.collection_id)
            del self._subscriptions[key]
            self._own_seqs.pop(key, None)
            self._witnesses_missed.discard(key)
            self._witnesses_owed.discard(key)
            self._witnesses_in_doubt.discard(key)
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
                self._witnesses_missed.discard(key)
                effects.append(self._send_witnesses(key))
        return effects

    # --- changes ---

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
        self._witnesses_owed.difference_update(some)
        return effects + [self._send_witnesses(key) for key in some]

    def _carry(self, subscription: Subscription, steps: Sequence[Step]) -> list[Effect]:
        """Turn a subscription's steps into effects."""
        effects: list[Effect] = []
        for step in steps:
            match step:
                case Read():
                    effects.append(self._read(subscription, step))
                case Deliver():
                    effects.append(self._deliver(subscription, step))
                case DeliverHead(head=head):
                    part = m.HeadPart(subscription.space_id, subscription.collection_id, head)
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

        what = ReadPage(subscription.space_id, subscription.collection_id, step.after, step.live_only)
        return self._desk.ask(what, None, read, failed)

    def _deliver(self, subscription: Subscription, step: Deliver) -> Send:
        key = (subscription.space_id, subscription.collection_id)
        own = self._own_seqs.pop(key, set())
        # The device still holds its own draft until this frame has told it the place.
        parts = [m.ChangePart(seq, at, b"" if seq in own else sealed) for seq, at, sealed in step.changes]
        ahead = {seq for seq in own if seq > step.upto}
        if ahead:
            self._own_seqs[key] = ahead
        send = self._desk.send(m.Changes(*key, step.after, step.upto, step.head, parts))
        newest = step.changes[-1] if step.changes else None
        live = newest is not None and newest.seq > subscription.caught_up_at
        return send._replace(changes=len(parts), appended_at=newest.appended_at_ms / 1_000 if newest and live else 0.0)

    # --- heads ---

    def compare(self) -> list[Effect]:
        """Notices may have been lost: ask the store where all collections stand, and read on.

        Afterwards ``ask_witness`` asks for the witnesses, a collection a call.
        """
        self._witnesses_in_doubt |= self._subscriptions.keys()
        return self.ask_heads(lambda _heads: [])

    def ask_heads(self, tell: Callable[[list[m.HeadPart]], list[Effect]]) -> list[Effect]:
        """Ask the store where all collections stand, then ``tell`` it: a lost last notice ends here.

        A space the store does not answer for is left out of what is told.
        """
        ids_by_space: dict[SpaceId, list[CollectionId]] = {}
        for space_id, collection_id in self._subscriptions:
            ids_by_space.setdefault(space_id, []).append(collection_id)
        left = set(ids_by_space)
        heads: list[m.HeadPart] = []

        def done(space_id: SpaceId) -> list[Effect]:
            left.discard(space_id)
            return [] if left else tell(heads)

        def failed(space_id: SpaceId) -> list[Effect]:
            self._heads_owed = True
            return done(space_id)

        def told(space_id: SpaceId, states: Sequence[CollectionState]) -> list[Effect]:
            effects: list[Effect] = []
            for state in states:
                heads.append(m.HeadPart(space_id, state.collection_id, state.head))
                effects += self._head_seen(space_id, state)
            return effects + done(space_id)

        if not ids_by_space:
            return tell(heads)
        return [
            self._desk.ask(ReadStates(space_id, tuple(ids)), None, partial(told, space_id), partial(failed, space_id))
            for space_id, ids in ids_by_space.items()
        ]

    def _head_seen(self, space_id: SpaceId, state: CollectionState) -> list[Effect]:
        subscription = self._subscriptions.get((space_id, state.collection_id))
        return self._carry(subscription, subscription.head_seen(state.head)) if subscription else []

    # --- witnesses ---

    def witnessed(self, notice: Witnessed) -> list[Effect]:
        """A device gave a new witness."""
        key = (notice.space_id, notice.collection_id)
        if key not in self._subscriptions or notice.device_id == self._device_id:
            return []
        if self.paused:
            self._witnesses_missed.add(key)
            return []
        if not self._is_news(key, notice.device_id, notice.sealed):
            return []
        return [self._desk.send(m.Witnesses(*key, [notice.sealed]))]

    def ask_witness(self) -> Ask | None:
        """Send what this session was not sent of one collection's witnesses; None when none is in doubt."""
        if self.paused:
            self._witnesses_missed |= self._witnesses_in_doubt
            self._witnesses_in_doubt.clear()
        return self._send_witnesses(self._witnesses_in_doubt.pop()) if self._witnesses_in_doubt else None

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
                self._witnesses_owed.add(key)
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
