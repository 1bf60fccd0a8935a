"""A session's part in one pairing, without I/O: whom it talks to, how much is left, until when.

Two devices pair by handing each other a few frames at a channel whose name only they
know.  One has proved itself, the other need not be known at all.  Each session here
talks to the first session of the other kind that it hears, and to no other, whatever
replica that is on; whoever comes later is told so.  The hub reads none of the frames.
docs/protocol.md "Pairing".
"""

from __future__ import annotations

from hub.bus import PairingPassed
from hub.errors import Refusal
from hub.terms import Limits


def place_of(channel: bytes) -> bytes:
    """Where the bus carries a channel's frames; longer than an account id, so that it can be none."""
    return channel + b"pairing"


class Meeting:
    """One session at one channel.  ``until`` is when it is over, in the session's own time."""

    def __init__(
        self, channel: bytes, session_id: bytes, request: int, *, trusted: bool, limits: Limits, until: float
    ) -> None:
        self.channel = channel
        self.request = request  # by which it was opened
        self.until = until
        self._session_id = session_id
        self._trusted = trusted
        self._limits = limits
        self._frames_left = limits.pairing_frames_max
        self._other: bytes | None = None

    def hand(self, body: bytes) -> PairingPassed:
        """A frame of this session's device.  Raises ``Refusal``: ``too_large``, ``too_many``."""
        if len(body) > self._limits.pairing_bytes_max:
            raise Refusal("too_large", "a pairing's frame is smaller than that")
        if not self._frames_left:
            raise Refusal("too_many", "a pairing has fewer frames than that")
        self._frames_left -= 1
        return PairingPassed(self.channel, self._session_id, self._trusted, self._other, body)

    def hear(self, notice: PairingPassed) -> bytes | PairingPassed | None:
        """What follows from a frame: its body for the device, a frame to answer with, or nothing.

        Raises ``Refusal("too_many")`` when the other side talks to another device.
        """
        mine = notice.channel == self.channel and notice.to in (None, self._session_id)
        if not mine or notice.trusted == self._trusted:
            return None
        if not notice.body:
            if self._other in (None, notice.sender):
                raise Refusal("too_many", "another device uses this pairing code")
            return None
        if self._other not in (None, notice.sender):
            return PairingPassed(self.channel, self._session_id, self._trusted, notice.sender, b"")
        self._other = notice.sender
        if not self._frames_left:
            return None
        self._frames_left -= 1
        return notice.body
