"""One session following one collection, without I/O.

There is no "catch-up mode" and no "live mode".  There is one rule: while the
session has been sent less than the head it knows, read on.  A lost, repeated or
late notice can therefore delay a change but never skip one, repeat one or swap
two.  A notice that follows on directly saves the read; that is all it does.

The caller carries out what comes back (``Read``, ``Deliver``) and answers each
``Read`` with exactly one ``read_done`` or ``read_failed``.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from hub.terms import Change, CollectionId, Seq, SpaceId


class Read(Struct, frozen=True, gc=False):
    """Read the next page after ``after``; with ``live_only`` leave out what was replaced."""

    after: Seq
    live_only: bool


class Deliver(Struct, frozen=True, gc=False):
    """Send these changes: all that is kept in (after, upto]; ``head`` is the highest seq known."""

    after: Seq
    upto: Seq
    head: Seq
    changes: Sequence[Change]


class DeliverHead(Struct, frozen=True, gc=False):
    """Tell the head alone, to a session that wants no bodies."""

    head: Seq


Step = Read | Deliver | DeliverHead


class Subscription:
    """Where one session stands in one collection.

    It starts closed to reading: heads are remembered from the first moment on, so
    that no commit falls between asking the store and following the bus, and
    ``opened`` starts the reading.
    """

    __slots__ = (
        "_heads_only",
        "_live_only",
        "_opened",
        "_paused",
        "_reading",
        "caught_up_at",
        "head",
        "key",
        "sent",
    )

    def __init__(self, space_id: SpaceId, collection_id: CollectionId, *, live_only: bool, heads_only: bool) -> None:
        self.key = (space_id, collection_id)
        self.sent: Seq = 0  # everything up to here was handed to the session
        self.head: Seq = 0  # the highest seq anybody told of
        self.caught_up_at: Seq = 0  # what lies beyond was appended while this session followed
        self._live_only = live_only
        self._heads_only = heads_only
        self._opened = False
        self._reading = False
        self._paused = False

    @property
    def delivers(self) -> bool:
        """Whether changes are sent at all, or only heads."""
        return not self._heads_only

    def opened(self, after: Seq, head: Seq) -> list[Step]:
        """The store says where the collection stands; begin after ``after``."""
        self.sent = after
        self.head = max(self.head, head)
        self.caught_up_at = self.head
        self._opened = True
        if self._heads_only:
            return [DeliverHead(self.head)]
        return self._read_on()

    def head_seen(self, head: Seq) -> list[Step]:
        """The store or the bus says the collection reaches ``head``."""
        # Notices overtake one another; an older head carries no news.
        if head <= self.head:
            return self._read_on()
        self.head = head
        if self._heads_only and self._opened and not self._paused:
            return [DeliverHead(head)]
        return self._read_on()

    def awaits(self, after: Seq) -> bool:
        """Whether it was sent all there is up to ``after``, no more is known, and what follows may be sent as it is."""
        # What was sent reaches the head: so no read is under way.
        return self.sent == after == self.head and self._opened and not self._paused and not self._heads_only

    def committed(self, after: Seq, head: Seq, changes: Sequence[Change]) -> list[Step]:
        """A notice that carries its changes: all that were appended in (after, head]."""
        if head > self.head:
            self.head = head
        if not self._opened or self._paused:
            return []
        if self._heads_only:
            return [DeliverHead(head)]
        if not changes or after != self.sent or self._reading:
            return self._read_on()
        self.sent = head
        deliver = Deliver(after, head, self.head, changes)
        return [deliver] if head == self.head else [deliver, *self._read_on()]

    def read_done(self, changes: Sequence[Change], upto: Seq, head: Seq) -> list[Step]:
        """The answer to the one ``Read`` under way: all that is kept in (sent, upto]."""
        assert self._reading, "read_done without a Read"
        assert upto >= self.sent, "a page out of place"
        # In seq order, as the store promises: so its ends speak for all of it.
        assert not changes or (self.sent < changes[0].seq and changes[-1].seq <= upto), "a page out of place"
        self._reading = False
        self.head = max(self.head, head)
        after, self.sent = self.sent, upto
        # Whoever has reached the head once has the live set; from here on every change counts.
        self._live_only = self._live_only and upto < head
        if upto == after:
            return self._read_on() if head > upto else []
        return [Deliver(after, upto, self.head if upto < head else head, changes), *self._read_on()]

    def read_failed(self) -> None:
        """The ``Read`` under way got no answer; ``resumed`` or the next head tries again."""
        self._reading = False

    def paused(self) -> None:
        """The session's queue is full: read nothing more for now."""
        self._paused = True

    def resumed(self) -> list[Step]:
        """There is room again: go on where it stopped."""
        self._paused = False
        if self._heads_only:
            return [DeliverHead(self.head)] if self._opened else []
        return self._read_on()

    def _may_read(self) -> bool:
        return self._opened and not self._paused

    def _read_on(self) -> list[Step]:
        if not self._may_read() or self._reading or self._heads_only or self.sent >= self.head:
            return []
        self._reading = True
        return [Read(self.sent, self._live_only)]
