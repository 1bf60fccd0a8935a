"""New changes on their way to the sessions of this replica: what they are all sent is made once, without I/O.

This is the fast path of delivering.  Nearly every session that a notice reaches stands exactly where
the notice begins, has room, and waits for nothing; it is then sent a frame, and that is all there is
to do.  ``Session.deliver`` does just this, and says no to everything else, which ``Session.noticed``
does by the one rule of subscription.py.  A receiver costs a third so of what it costs there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from hub.bus import HeadMoved
from hub.terms import Change, CollectionId, Seq, SpaceId
from hub.wire import messages as m
from hub.wire.codec import encode

Key = tuple[SpaceId, CollectionId]


class Delivery:
    """A notice that carries its changes."""

    __slots__ = ("_frame", "key", "notice")

    def __init__(self, notice: HeadMoved) -> None:
        self.notice = notice
        self.key: Key = (notice.space_id, notice.collection_id)
        self._frame = b""

    def frame(self) -> bytes:
        """What a session is sent that has none of the changes yet; the same object each time."""
        if not self._frame:
            notice = self.notice
            self._frame = changes_frame(self.key, notice.after, notice.head, notice.head, notice.changes)
        return self._frame

    def frame_without(self, own: set[Seq]) -> bytes:
        """What a session is sent that holds the bytes of ``own`` until it is told their place."""
        notice = self.notice
        return changes_frame(self.key, notice.after, notice.head, notice.head, without(own, notice.changes))


def without(own: set[Seq], changes: Sequence[Change]) -> list[Change]:
    """The changes, and of those in ``own`` the place alone."""
    return [Change(each.seq, each.appended_at_ms, b"") if each.seq in own else each for each in changes]


def changes_frame(key: Key, after: Seq, upto: Seq, head: Seq, changes: Sequence[Change]) -> bytes:
    """The frame of all that is kept of a collection in (after, upto]."""
    parts = cast("list[m.ChangePart]", changes)  # a Change is written as its ChangePart is
    return encode(m.Changes(*key, after, upto, head, parts))
