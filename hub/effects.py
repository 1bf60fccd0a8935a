"""What a session gives out and asks for: the whole vocabulary between it and its shell, without I/O.

A session returns lists of effects.  ``Ask`` carries one of the questions below;
the shell answers it exactly once, with what its docstring says or with an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from msgspec import Struct

from hub.bus import PairingPassed, Signalled
from hub.store import Append, Device, Space
from hub.terms import CollectionId, DeviceId, Incarnation, Seq, SpaceId
from hub.wire import messages as m
from hub.wire.codec import encode


class _Plain(Struct, frozen=True, gc=False):
    """Base of what is made for nearly every frame: built in a third of the time a NamedTuple takes."""


# --- effects ---------------------------------------------------------------------------------


class Began(_Plain, frozen=True):
    """A device begins to follow a collection: how much of what it has still counts, and what it has to catch up."""

    how: Literal["kept", "new_incarnation", "from_start"]
    behind: int  # seqs, not all of which have a change any more


class Send(_Plain, frozen=True):
    """Put this frame into the session's queue; the rest is for the metrics."""

    frame: bytes
    refusal: str = ""
    changes: int = 0
    appended_at: float = 0.0  # the newest of the changes, when the device was following before it came
    began: tuple[Began, ...] = ()


class Close(_Plain, frozen=True):
    """Close the connection; nothing more will come."""

    name: str
    code: int
    reason: str


class LetIn(_Plain, frozen=True):
    """The device is known by id: larger frames may follow its auth at once."""


class Opened(_Plain, frozen=True):
    """The session is ready: register it, and look once more whether the device was revoked meanwhile."""

    device: Device


class Ask(_Plain, frozen=True):
    """Do ``what`` and call ``answered(token, result)``, an exception being a result too."""

    token: int
    what: Any


class LeavePairing(_Plain, frozen=True):
    """The pairing is over: hear nothing more of its channel."""


class Noticed(_Plain, frozen=True):
    """Something for the account's audit list, which adds up: "key_refused" or "proof_refused"."""

    what: str
    space_id: SpaceId


Effect = Send | Close | LetIn | Opened | Ask | LeavePairing | Noticed


# --- what a session asks for -----------------------------------------------------------------


class LookUp(_Plain, frozen=True):
    """The device by its id, with its account.

    Answer: ``Known``, ``MovedDevice`` when its account lives elsewhere, or None when it is unknown or revoked.
    """

    device_id: DeviceId


class EnrolDevice(_Plain, frozen=True):
    """Answer: ``Known``."""

    message: m.Enrol
    device_id: DeviceId
    proof_ok: bool


class Serve(_Plain, frozen=True):
    """An account verb.  Answer: ``Served``."""

    message: m.Message


class MakeSpace(_Plain, frozen=True):
    """Answer: ``Space``."""

    message: m.CreateSpace
    proof_ok: bool


class ListSpaces(_Plain, frozen=True):
    """Answer: the account's spaces."""


class TrustForKey(_Plain, frozen=True):
    """The device, on probation, has proved the keys of these spaces.  Answer: None."""

    space_ids: tuple[SpaceId, ...]


class ReadStates(_Plain, frozen=True):
    """Answer: a list of ``CollectionState``; None asks for all collections of the space."""

    space_id: SpaceId
    collection_ids: tuple[CollectionId, ...] | None


class ReadHeads(_Plain, frozen=True):
    """Where these collections stand, however many.  Answer: a list of seqs in their order; 0 where there is none."""

    keys: tuple[tuple[SpaceId, CollectionId], ...]


class ReadPage(_Plain, frozen=True):
    """Answer: ``Page``.  ``goes_on``: there is room for the page behind it, too, which will be asked for at once."""

    space_id: SpaceId
    collection_id: CollectionId
    after: Seq
    live_only: bool
    goes_on: bool


class ReadKept(_Plain, frozen=True):
    """Answer: (changes newest first, whether older ones are kept)."""

    message: m.ReadHistory


class ReadWitnesses(_Plain, frozen=True):
    """Answer: a list of (device_id, sealed)."""

    space_id: SpaceId
    collection_id: CollectionId


class KeepWitness(_Plain, frozen=True):
    """Answer: whether it was kept."""

    message: m.Witness
    counter: int


class AppendDrafts(_Plain, frozen=True):
    """Answer: ``Appended``."""

    append: Append


class PassOn(_Plain, frozen=True):
    """Hand an ephemeral message to the space's other devices.  Answer: None."""

    notice: Signalled


class JoinPairing(_Plain, frozen=True):
    """Hear what is handed over at a pairing's channel, and of no other.  Answer: None."""

    channel: bytes


class PassPairing(_Plain, frozen=True):
    """Hand a frame to the other session at a pairing's channel.  Answer: None."""

    notice: PairingPassed


class Known(NamedTuple):
    """A device and what it is told when its session begins."""

    device: Device
    spaces: Sequence[Space]
    incarnation: Incarnation
    server_time: float
    quota_bytes: int
    used_bytes: int
    account_deleted_at: float
    closing: str = ""  # why no device of the account may come in
    address_known: bool = True
    plan: str = ""
    paid_until: float = 0.0
    operator: bool = False


class Served(_Plain, frozen=True):
    """The answer to an account verb, and until when a fresh code and an operator's code hold (0 = unchanged)."""

    message: m.Message
    fresh_code_until: float = 0.0
    operator_until: float = 0.0


# --- the desk --------------------------------------------------------------------------------

Then = Callable[[Any], list[Effect]]
Failed = Callable[[], list[Effect]]
Waiting = tuple[int | None, Then, Failed | None]
"""A question without an answer: which request it is for, what to do then, and what when there is none."""


class Desk:
    """The questions one session has asked, and the bytes of its queue."""

    __slots__ = ("_crowded_bytes", "_on_crowded", "_tokens", "queued_bytes", "waiting")

    def __init__(self, crowded_bytes: int, on_crowded: Callable[[], None]) -> None:
        self.queued_bytes = 0  # handed out by Send and not yet reported as sent
        self.waiting: dict[int, Waiting] = {}
        self._crowded_bytes = crowded_bytes
        self._on_crowded = on_crowded
        self._tokens = 0

    def ask(self, what: Any, request: int | None, then: Then, failed: Failed | None = None) -> Ask:
        """Ask ``what``; ``then`` gets the answer, ``failed`` hears that there was none."""
        self._tokens += 1
        self.waiting[self._tokens] = (request, then, failed)
        return Ask(self._tokens, what)

    @property
    def room_bytes(self) -> int:
        """How much may be queued before it is crowded; negative when it is."""
        return self._crowded_bytes - self.queued_bytes

    def take_in(self, frame: bytes) -> bool:
        """Queue a frame that somebody else sends, unless that crowds the queue."""
        queued_bytes = self.queued_bytes + len(frame)
        if queued_bytes > self._crowded_bytes:
            return False
        self.queued_bytes = queued_bytes
        return True

    def send(self, message: m.Message) -> Send:
        """Queue a message."""
        return self.send_frame(encode(message))

    def send_frame(self, frame: bytes, changes: int = 0, appended_at: float = 0.0) -> Send:
        """Queue a frame that is encoded already; the rest as of ``Send``."""
        self.queued_bytes += len(frame)
        if self.queued_bytes > self._crowded_bytes:
            self._on_crowded()
        return Send(frame, "", changes, appended_at)
