"""Every message of the protocol, both directions, as frozen structs.

A message is a MessagePack map; the key ``type`` names it.  Requests carry the
device's own ``request`` number, and their answer repeats it.  Unknown keys are
ignored, so either side may add fields.  docs/protocol.md describes each with its
rights, bounds and answers; the types here are what the decoder enforces.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

# Bounds that are part of a field's type.  Those that a hub may set are in terms.Limits.
Id = Annotated[bytes, Meta(min_length=16, max_length=16)]
Key32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
SeqInt = Annotated[int, Meta(ge=0, lt=2**53)]
RequestInt = Annotated[int, Meta(ge=0, lt=2**53)]
EpochInt = Annotated[int, Meta(ge=0, lt=2**32)]
AppId = Annotated[str, Meta(min_length=1, max_length=128)]
Address = Annotated[str, Meta(min_length=3, max_length=320)]
Code = Annotated[str, Meta(min_length=1, max_length=32)]
Token = Annotated[str, Meta(max_length=128)]
Bytes = Annotated[bytes, Meta(max_length=262_144)]
ScopeName = Literal["app", "account"]
Purpose = Literal["enrol", "confirm", "change"]


class Message(Struct, frozen=True, tag_field="type", omit_defaults=True, gc=False):
    """Base of all messages; ``type`` on the wire is the tag given to each class."""


class Part(Struct, frozen=True, omit_defaults=True, gc=False):
    """Base of the maps inside messages."""


# --- handshake -------------------------------------------------------------------------------


class Hello(Message, frozen=True, tag="hello"):
    """Device: the first frame; its raw bytes are signed."""

    v: Annotated[list[int], Meta(min_length=1, max_length=8)]
    device_id: Id
    client_nonce: Key32
    features: Annotated[list[Annotated[str, Meta(max_length=32)]], Meta(max_length=16)] = []
    heartbeat_s: Annotated[int, Meta(ge=0, le=86_400)] = 0
    heads_only: bool = False


class Challenge(Message, frozen=True, tag="challenge"):
    """Hub: answers hello; its raw bytes are signed."""

    v: int
    server_nonce: Key32
    features: list[str]
    limits: dict[str, int]
    sign_up: str


class Auth(Message, frozen=True, tag="auth"):
    """Device: proves its key.  One attempt a connection."""

    signature: Signature


class SpaceInfo(Part, frozen=True):
    """What the hub knows of one space."""

    space_id: Id
    app_id: str
    key_epoch: int
    used_bytes: int
    deleted_at: float = 0.0  # when a delayed deletion takes effect; 0 = none is under way


class Ready(Message, frozen=True, tag="ready"):
    """Hub: the device is known; the session begins."""

    account_id: Id
    incarnation: Id
    server_time: float
    heartbeat_s: int
    scope: ScopeName
    app_id: str
    quota_bytes: int
    used_bytes: int
    spaces: list[SpaceInfo]
    probation_until: float = 0.0
    account_deleted_at: float = 0.0
    address_known: bool = True  # False after a move: nobody can sign in by mail until an address is given
    plan: str = ""
    paid_until: float = 0.0
    operator: bool = False  # the account may operate this hub, after ``operator_code``


class RequestCode(Message, frozen=True, tag="request_code"):
    """Device: mail a code to this address, to enrol this device key.  Before auth; for other purposes after it."""

    request: RequestInt
    address: Address
    device_pk: Key32
    app_id: AppId
    purpose: Purpose = "enrol"
    attempt_id: Id | None = None  # given again to have the same code sent once more
    invite: Token = ""


class CodeSent(Message, frozen=True, tag="code_sent"):
    """Hub: the same answer whether or not anything was mailed."""

    request: RequestInt
    attempt_id: Id
    expires_in_s: float
    phrase: str


class Enrol(Message, frozen=True, tag="enrol"):
    """Device: the code from the mail, with a proof of the key it was asked for.  Answered by ready."""

    request: RequestInt
    attempt_id: Id
    code: Code
    device_pk: Key32
    signature: Signature
    scope: ScopeName = "app"


class Confirm(Message, frozen=True, tag="confirm"):
    """Device: a fresh code, before a destructive account operation.  Answered by done."""

    request: RequestInt
    attempt_id: Id
    code: Code


# --- pairing ---------------------------------------------------------------------------------


class OpenPairing(Message, frozen=True, tag="open_pairing"):
    """Device: meet another device at this channel; the one that has the key after auth, the other before it."""

    request: RequestInt
    channel: Id


class Pairing(Message, frozen=True, tag="pairing"):
    """Both: a frame between the two devices that pair; never kept, not answered when it passes."""

    request: RequestInt
    channel: Id
    body: Annotated[bytes, Meta(min_length=1, max_length=262_144)]


class Vouch(Message, frozen=True, tag="vouch"):
    """Device: enrol another device of this app, on this one's word.  Answered by done, after the commit."""

    request: RequestInt
    device_id: Id
    device_pk: Key32


# --- spaces and collections ------------------------------------------------------------------


class CreateSpace(Message, frozen=True, tag="create_space"):
    """Device: register a space by its public key, with its proof.  Idempotent.  Answered by entered."""

    request: RequestInt
    space_id: Id
    app_id: AppId
    space_pk: Key32
    signature: Signature


class SpaceProof(Part, frozen=True):
    """One space to enter: the proof is a signature by the key derived from the app key."""

    space_id: Id
    key_epoch: EpochInt
    signature: Signature


class Enter(Message, frozen=True, tag="enter"):
    """Device: prove that it holds the keys of these spaces.  Answered by entered, or refused as a whole."""

    request: RequestInt
    spaces: Annotated[list[SpaceProof], Meta(min_length=1, max_length=50)]


class Entered(Message, frozen=True, tag="entered"):
    """Hub: the session may read and write these spaces."""

    request: RequestInt
    spaces: list[SpaceInfo]


class Collections(Message, frozen=True, tag="collections"):
    """Device: which collections does this space have?"""

    request: RequestInt
    space_id: Id


class CollectionInfo(Part, frozen=True):
    """One collection: its head and this device's last counter in it."""

    collection_id: Id
    head: SeqInt
    counter: SeqInt = 0


class CollectionList(Message, frozen=True, tag="collection_list"):
    """Hub: all collections of the space that hold at least one change."""

    request: RequestInt
    space_id: Id
    collections: list[CollectionInfo]


class CursorPart(Part, frozen=True):
    """How far the device has one collection; ``live_only`` asks to leave out what was replaced."""

    collection_id: Id
    incarnation: Id
    seq: SeqInt
    live_only: bool = False


class Subscribe(Message, frozen=True, tag="subscribe"):
    """Device: send me everything after these cursors, now and from now on.  Answered by subscribed."""

    request: RequestInt
    space_id: Id
    cursors: Annotated[list[CursorPart], Meta(min_length=1, max_length=256)]


class SubscribedPart(Part, frozen=True):
    """Where a subscription starts: ``after`` is the cursor's seq, or 0 when its incarnation is not the hub's."""

    collection_id: Id
    head: SeqInt
    after: SeqInt
    counter: SeqInt = 0  # the hub's last counter of this device in this collection


class Subscribed(Message, frozen=True, tag="subscribed"):
    """Hub: the subscriptions stand; changes follow, then the witnesses."""

    request: RequestInt
    space_id: Id
    incarnation: Id
    collections: list[SubscribedPart]


class Unsubscribe(Message, frozen=True, tag="unsubscribe"):
    """Device: no more of these collections.  Answered by done; frames already queued may still arrive."""

    request: RequestInt
    space_id: Id
    collection_ids: Annotated[list[Id], Meta(min_length=1, max_length=256)]


class ChangePart(Struct, frozen=True, array_like=True, gc=False):
    """``[seq, appended_at_ms, sealed]``; ``sealed`` is empty for the session's own draft, which it still holds."""

    seq: SeqInt
    appended_at_ms: int
    sealed: Bytes


class Changes(Message, frozen=True, tag="changes"):
    """Hub: what a collection holds after ``after`` up to ``upto``; the next frame's after equals this upto."""

    space_id: Id
    collection_id: Id
    after: SeqInt
    upto: SeqInt
    head: SeqInt
    changes: list[ChangePart]


class HeadPart(Struct, frozen=True, array_like=True, gc=False):
    """``[space_id, collection_id, head]``."""

    space_id: Id
    collection_id: Id
    head: SeqInt


class Heads(Message, frozen=True, tag="heads"):
    """Hub: heads without changes, to a session that asked for them or reads too slowly."""

    heads: list[HeadPart]


# --- writing ---------------------------------------------------------------------------------


class Append(Message, frozen=True, tag="append"):
    """Device: order and keep these drafts.  Answered by appended; with ``atomic`` all of them or none."""

    request: RequestInt
    space_id: Id
    drafts: Annotated[list[Bytes], Meta(min_length=1, max_length=256)]
    atomic: bool = False


class DraftAnswer(Part, frozen=True):
    """One draft's answer: a seq, or a refusal code; with ``conflict`` the newest change of the record."""

    seq: SeqInt = 0
    code: str = ""
    newest_seq: SeqInt = 0
    newest_id: bytes = b""


class Appended(Message, frozen=True, tag="appended"):
    """Hub: one answer a draft, in their order; sent only after the commit."""

    request: RequestInt
    space_id: Id
    answers: list[DraftAnswer]
    used_bytes: int = 0


class Witness(Message, frozen=True, tag="witness"):
    """Device: keep and hand on this sealed witness of one collection.  Answered by done."""

    request: RequestInt
    space_id: Id
    collection_id: Id
    witness: Bytes


class Witnesses(Message, frozen=True, tag="witnesses"):
    """Hub: the newest witness of each other device, or one that has just come."""

    space_id: Id
    collection_id: Id
    witnesses: list[Bytes]


class ReadHistory(Message, frozen=True, tag="read_history"):
    """Device: the kept changes of one record before a seq, newest first.  Answered by history."""

    request: RequestInt
    space_id: Id
    collection_id: Id
    record_id: Id
    before: SeqInt = 0  # 0 = from the newest
    limit: Annotated[int, Meta(ge=1, le=200)] = 200


class History(Message, frozen=True, tag="history"):
    """Hub: changes of one record, newest first; ``more`` when older ones are kept."""

    request: RequestInt
    changes: list[ChangePart]
    more: bool = False


class Signal(Message, frozen=True, tag="signal"):
    """Both: a sealed ephemeral message between the devices of a space; never kept, not answered when it passes."""

    request: RequestInt
    space_id: Id
    body: Annotated[bytes, Meta(min_length=1, max_length=262_144)]
    to: Id | None = None
    device_id: Id | None = None  # set by the hub: who sent it


# --- account ---------------------------------------------------------------------------------


class ListDevices(Message, frozen=True, tag="list_devices"):
    """Device: the account's devices; with app scope only those of the same app."""

    request: RequestInt


class DeviceInfo(Part, frozen=True):
    """What the hub knows of one device."""

    device_id: Id
    device_pk: Key32
    scope: str
    app_id: str
    enrolled_via: str
    enrolled_at: float
    last_seen_day: int  # days since the Unix epoch
    probation_until: float = 0.0


class DeviceList(Message, frozen=True, tag="device_list"):
    """Hub: the devices that are not revoked."""

    request: RequestInt
    devices: list[DeviceInfo]


class RevokeDevices(Message, frozen=True, tag="revoke_devices"):
    """Device: revoke these; itself is always allowed.  Answered by done, after the commit."""

    request: RequestInt
    device_ids: Annotated[list[Id], Meta(min_length=1, max_length=60)]


class ApproveDevice(Message, frozen=True, tag="approve_device"):
    """Device: end another's probation.  Answered by done."""

    request: RequestInt
    device_id: Id


class ChangeAddress(Message, frozen=True, tag="change_address"):
    """Device: the code mailed to the account's new address (purpose ``change``).  Answered by done."""

    request: RequestInt
    attempt_id: Id
    code: Code


class ListSpaces(Message, frozen=True, tag="list_spaces"):
    """Device: the account's spaces with what they take; with app scope only those of the same app."""

    request: RequestInt


class GrowthPart(Struct, frozen=True, array_like=True, gc=False):
    """``[day, used_bytes]``: what a space took at the end of a day (days since the Unix epoch)."""

    day: int
    used_bytes: int


class SpaceStats(Part, frozen=True):
    """What the hub knows of one space, for the person to see."""

    space_id: Id
    app_id: str
    key_epoch: int
    used_bytes: int
    created_at: float
    collections: int
    changes: int  # ever appended: the sum of the heads
    last_change_at: float = 0.0  # 0 = none
    deleted_at: float = 0.0  # when a delayed deletion takes effect; 0 = none is under way
    growth: list[GrowthPart] = []  # oldest first; days on which nothing moved are left out


class SpaceList(Message, frozen=True, tag="space_list"):
    """Hub: the spaces, oldest first."""

    request: RequestInt
    spaces: list[SpaceStats]


class ListAudit(Message, frozen=True, tag="list_audit"):
    """Device with account scope: what happened on the account, newest first.  Answered by audit_list."""

    request: RequestInt
    before: SeqInt = 0  # 0 = from the newest
    limit: Annotated[int, Meta(ge=1, le=200)] = 50


class AuditPart(Part, frozen=True):
    """One thing that happened; ``number`` grows, and names the entry to go on from."""

    number: SeqInt
    at: float
    what: str
    actor: str  # "device", "operator" or "hub"
    device_id: bytes = b""  # the device that did it
    subject_id: bytes = b""  # the device or space it was done to
    count: int = 1  # how often, on that day


class AuditList(Message, frozen=True, tag="audit_list"):
    """Hub: entries, newest first; ``more`` when older ones are kept."""

    request: RequestInt
    entries: list[AuditPart]
    more: bool = False


class Export(Message, frozen=True, tag="export"):
    """Device with account scope: the next piece of a bundle of everything kept for the account, sealed as it is."""

    request: RequestInt
    space_id: Id | None = None  # of this space only
    cursor: Annotated[bytes, Meta(max_length=128)] = b""  # as the piece before said; empty = from the start


class Exported(Message, frozen=True, tag="exported"):
    """Hub: a piece of the bundle; the pieces one after the other are the file.  An empty ``cursor`` ends it."""

    request: RequestInt
    bundle: bytes
    cursor: bytes = b""
    done_bytes: int = 0  # sealed bytes so far
    total_bytes: int = 0  # sealed bytes in all, as far as known


class DeleteSpace(Message, frozen=True, tag="delete_space"):
    """Device: remove a space and all it holds: at once when entered or with a fresh code, else after a delay.

    With ``later`` after the delay in any case.  Answered by deleted.
    """

    request: RequestInt
    space_id: Id
    later: bool = False


class DeleteAccount(Message, frozen=True, tag="delete_account"):
    """Device: remove the account after a delay; needs account scope and a fresh code.  Answered by deleted."""

    request: RequestInt


class CancelDeletion(Message, frozen=True, tag="cancel_deletion"):
    """Device: keep the space, or without ``space_id`` the account.  Answered by done."""

    request: RequestInt
    space_id: Id | None = None


class Deleted(Message, frozen=True, tag="deleted"):
    """Hub: when the deletion takes effect; 0 = it has, and no row is left."""

    request: RequestInt
    deleted_at: float = 0.0


class AccountNotice(Message, frozen=True, tag="account_notice"):
    """Hub: something happened on the account: a device was enrolled, revoked, approved, a deletion set or cancelled."""

    what: str
    device_id: bytes = b""
    space_id: bytes = b""
    at: float = 0.0


class Moved(Message, frozen=True, tag="moved"):
    """Hub: the account lives at another hub now; ``url`` is where devices dial.  The connection ends with 4506."""

    url: str


# --- operator --------------------------------------------------------------------------------


class OperatorCode(Message, frozen=True, tag="operator_code"):
    """Device of an operator's account: the six digits of the authenticator app.  Answered by done."""

    request: RequestInt
    code: Code


class Operate(Message, frozen=True, tag="operate"):
    """Operator's device: do this; the verbs and their arguments are those of ``hub admin``.  Answered by operated."""

    request: RequestInt
    verb: Annotated[str, Meta(min_length=1, max_length=32)]
    arguments: dict[str, str | int | float | bool | None] = {}


class Operated(Message, frozen=True, tag="operated"):
    """Hub: it was done, and is durable; what the verb gives back."""

    request: RequestInt
    result: dict[str, Any]


# --- both ------------------------------------------------------------------------------------


class Ping(Message, frozen=True, tag="ping"):
    """Both: is somebody there?  The hub's carries the heads of the session's subscriptions."""

    heads: list[HeadPart] = []


class Pong(Message, frozen=True, tag="pong"):
    """Both: the answer to ping; the hub's carries heads."""

    heads: list[HeadPart] = []


class GoingAway(Message, frozen=True, tag="going_away"):
    """Hub: this replica is about to stop; send nothing new, take the answers, come back after ``retry_after_s``."""

    retry_after_s: float


class Done(Message, frozen=True, tag="done"):
    """Hub: the request was carried out and is durable."""

    request: RequestInt


class Refused(Message, frozen=True, tag="refused"):
    """Hub: the request was not carried out; the session lives."""

    request: RequestInt
    code: str
    message: str
    retry: bool = False
    retry_after_s: float = 0.0


FromDevice = (
    Hello
    | Auth
    | RequestCode
    | Enrol
    | Confirm
    | OpenPairing
    | Pairing
    | Vouch
    | CreateSpace
    | Enter
    | Collections
    | Subscribe
    | Unsubscribe
    | Append
    | Witness
    | ReadHistory
    | Signal
    | ListDevices
    | RevokeDevices
    | ApproveDevice
    | ListSpaces
    | ListAudit
    | Export
    | ChangeAddress
    | DeleteSpace
    | DeleteAccount
    | CancelDeletion
    | OperatorCode
    | Operate
    | Ping
    | Pong
)
FromHub = (
    Challenge
    | Ready
    | CodeSent
    | Pairing
    | Entered
    | CollectionList
    | Subscribed
    | Changes
    | Heads
    | Appended
    | Witnesses
    | History
    | Signal
    | DeviceList
    | SpaceList
    | AuditList
    | Exported
    | Deleted
    | AccountNotice
    | Moved
    | Operated
    | Ping
    | Pong
    | GoingAway
    | Done
    | Refused
)
