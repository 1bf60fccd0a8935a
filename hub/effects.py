"""What a session gives out and asks for: the whole vocabulary between it and its shell, without I/O.

A session returns lists of effects.  ``Ask`` carries one of the questions below;
the shell answers it exactly once, with what its docstring says or with an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from hub.bus import PairingPassed, Signalled
from hub.store import Append, Device, Space
from hub.terms import CollectionId, DeviceId, Incarnation, Seq, SpaceId
from hub.wire import messages as m
from hub.wire.codec import encode

# --- effects ---------------------------------------------------------------------------------


class Began(NamedTuple):
    """A device begins to follow a collection: how much of what it has still counts, and what it has to catch up."""

    how: Literal["kept", "new_incarnation", "from_start"]
    behind: int  # seqs, not all of which have a change any more


class Send(NamedTuple):
    """Put this frame into the session's queue; the rest is for the metrics."""

    frame: bytes
    refusal: str = ""
    changes: int = 0
    appended_at: float = 0.0  # the newest of the changes, when the device was following before it came
    began: tuple[Began, ...] = ()


class Close(NamedTuple):
    """Close the connection; nothing more will come."""

    name: str
    code: int
    reason: str


class LetIn(NamedTuple):
    """The device is known by id: larger frames may follow its auth at once."""


class Opened(NamedTuple):
    """The session is ready: register it, and look once more whether the device was revoked meanwhile."""

    device: Device


class Ask(NamedTuple):
    """Do ``what`` and call ``answered(token, result)``, an exception being a result too."""

    token: int
    what: Any


class LeavePairing(NamedTuple):
    """The pairing is over: hear nothing more of its channel."""


class Noticed(NamedTuple):
    """Something for the account's audit list, which adds up: "key_refused" or "proof_refused"."""

    what: str
    space_id: SpaceId


Effect = Send | Close | LetIn | Opened | Ask | LeavePairing | Noticed


# --- what a session asks for -----------------------------------------------------------------


class LookUp(NamedTuple):
    """The device by its id, with its account.

    Answer: ``Known``, ``MovedDevice`` when its account lives elsewhere, or None when it is unknown or revoked.
    """

    device_id: DeviceId


class EnrolDevice(NamedTuple):
    """Answer: ``Known``."""

    message: m.Enrol
    device_id: DeviceId
    proof_ok: bool


class Serve(NamedTuple):
    """An account verb.  Answer: ``Served``."""

    message: m.Message


class MakeSpace(NamedTuple):
    """Answer: ``Space``."""

    message: m.CreateSpace
    proof_ok: bool


class ListSpaces(NamedTuple):
    """Answer: the account's spaces."""


class TrustForKey(NamedTuple):
    """The device, on probation, has proved the keys of these spaces.  Answer: None."""

    space_ids: tuple[SpaceId, ...]


class ReadStates(NamedTuple):
    """Answer: a list of ``CollectionState``; None asks for all collections of the space."""

    space_id: SpaceId
    collection_ids: tuple[CollectionId, ...] | None


class ReadPage(NamedTuple):
    """Answer: ``Page``."""

    space_id: SpaceId
    collection_id: CollectionId
    after: Seq
    live_only: bool


class ReadKept(NamedTuple):
    """Answer: (changes newest first, whether older ones are kept)."""

    message: m.ReadHistory


class ReadWitnesses(NamedTuple):
    """Answer: a list of (device_id, sealed)."""

    space_id: SpaceId
    collection_id: CollectionId


class KeepWitness(NamedTuple):
    """Answer: whether it was kept."""

    message: m.Witness
    counter: int


class AppendDrafts(NamedTuple):
    """Answer: ``Appended``."""

    append: Append


class PassOn(NamedTuple):
    """Hand an ephemeral message to the space's other devices.  Answer: None."""

    notice: Signalled


class JoinPairing(NamedTuple):
    """Hear what is handed over at a pairing's channel, and of no other.  Answer: None."""

    channel: bytes


class PassPairing(NamedTuple):
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


class Served(NamedTuple):
    """The answer to an account verb, and until when a fresh code and an operator's code hold (0 = unchanged)."""

    message: m.Message
    fresh_code_until: float = 0.0
    operator_until: float = 0.0


# --- the desk --------------------------------------------------------------------------------


@dataclass(slots=True)
class Waiting:
    """A question without an answer: which request it is for, and what to do then."""

    request: int | None
    then: Callable[[Any], list[Effect]]
    failed: Callable[[], list[Effect]] | None = None


class Desk:
    """The questions one session has asked, and the bytes of its queue."""

    __slots__ = ("_crowded_bytes", "_on_crowded", "_tokens", "queued_bytes", "waiting")

    def __init__(self, crowded_bytes: int, on_crowded: Callable[[], None]) -> None:
        self.queued_bytes = 0  # handed out by Send and not yet reported as sent
        self.waiting: dict[int, Waiting] = {}
        self._crowded_bytes = crowded_bytes
        self._on_crowded = on_crowded
        self._tokens = 0

    def ask(
        self,
        what: Any,
        request: int | None,
        then: Callable[[Any], list[Effect]],
        failed: Callable[[], list[Effect]] | None = None,
    ) -> Ask:
        """Ask ``what``; ``then`` gets the answer, ``failed`` hears that there was none."""
        self._tokens += 1
        self.waiting[self._tokens] = Waiting(request, then, failed)
        return Ask(self._tokens, what)

    def send(self, message: m.Message) -> Send:
        """Queue a message."""
        return self.send_frame(encode(message))

    def send_frame(self, frame: bytes) -> Send:
        """Queue a frame that is encoded already."""
        self.queued_bytes += len(frame)
        if self.queued_bytes > self._crowded_bytes:
            self._on_crowded()
        return Send(frame)
