"""The nouns of the hub as types: ids, positions, changes, limits.

Everything here is plain data.  Ids are raw bytes of a fixed length; a seq is an
int from 1 (0 means "none"); times are floats in seconds since the Unix epoch
unless a name says otherwise.  The words are those of docs/vocabulary.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from msgspec import Struct

AccountId = bytes  # 16 random bytes, given by the hub
DeviceId = bytes  # 16 random bytes, chosen by the device
SpaceId = bytes  # 16 bytes, derived from the app key, self-certifying
CollectionId = bytes  # 16 bytes, keyed name; only devices know the name
RecordId = bytes  # 16 bytes, keyed name; only devices know the key
ChangeId = bytes  # 16 random bytes, chosen by the device
Incarnation = bytes  # 16 random bytes, names one life of the hub's log
Seq = int  # 1, 2, 3 ... without gaps within a collection and incarnation; 0 = none

ID_BYTES = 16
ZERO_ID = bytes(ID_BYTES)
SUBPROTOCOL = "hub.v1"
PROTOCOL_VERSION = 1
PATH = "/v1/ws"


class Kind(IntEnum):
    """What a change does to its record, or to the whole collection."""

    PUT = 1  # replaces the record
    DELETE = 2  # empties the record; stays as a tombstone until purged
    PURGE = 3  # drops the tombstones up to a seq
    WIPE = 4  # drops every earlier change of the collection
    WITNESS = 5  # a device's statement about the collection; never in the log
    KEYRING = 6  # older app keys, sealed under a newer one
    DELTA = 8  # adds to the record (CRDT updates)


# 7 is reserved for chunks of large bodies (docs/protocol.md "Kinds").
LOG_KINDS = frozenset({Kind.PUT, Kind.DELETE, Kind.PURGE, Kind.WIPE, Kind.KEYRING, Kind.DELTA})
# These free room or mark it free, so they pass even when the quota is full.
FREEING_KINDS = frozenset({Kind.DELETE, Kind.PURGE, Kind.WIPE})
# These speak about the whole collection; their record id is zero.
COLLECTION_KINDS = frozenset({Kind.PURGE, Kind.WIPE, Kind.WITNESS})


class CollectionKey(NamedTuple):
    """Names one log: account, then space, then collection."""

    account_id: AccountId
    space_id: SpaceId
    collection_id: CollectionId


class Cursor(NamedTuple):
    """How far a device has a collection.  Numbers of two lives are never compared."""

    incarnation: Incarnation
    seq: Seq


class Change(Struct, frozen=True, array_like=True, gc=False):
    """A draft that has its place in the log; written as an array, so that on the wire it is its ``ChangePart``."""

    seq: Seq
    appended_at_ms: int  # the hub's clock when it was appended, for undo only; orders nothing
    sealed: bytes  # the sealed bytes, exactly as the device sent them


class Span(NamedTuple):
    """At most ``most`` times within ``seconds``."""

    most: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Limits:
    """Every number the protocol bounds, sent in the challenge and tested at n and n+1."""

    frame_bytes_max: int = 262_144  # one WebSocket message, device to hub, after auth
    frame_bytes_before_auth_max: int = 4_096
    hello_bytes_max: int = 2_048
    draft_bytes_max: int = 196_608  # one sealed change, header included
    drafts_per_append_max: int = 256
    appends_in_flight_max: int = 4  # append requests without an answer, per session
    collections_per_subscribe_max: int = 256
    subscriptions_per_session_max: int = 1_000
    spaces_per_enter_max: int = 50
    spaces_per_account_max: int = 50
    collections_per_space_max: int = 1_000
    devices_per_account_max: int = 60
    devices_per_app_max: int = 20
    sessions_per_account_max: int = 32
    signal_bytes_max: int = 4_096
    witness_bytes_max: int = 4_096
    pairing_bytes_max: int = 2_048  # one frame between two devices that pair; fits before auth
    pairing_frames_max: int = 8  # both ways together, in one pairing
    page_bytes: int = 131_072  # a changes frame stops growing beyond this
    page_changes: int = 500
    queued_bytes_max: int = 1_048_576  # to one session; beyond it the session is sent heads only
    history_changes_max: int = 200  # in one answer to `read_history`
    messages_per_s: int = 50
    messages_burst: int = 200
    bytes_per_s: int = 1_048_576
    bytes_burst: int = 8_388_608
    heartbeat_s_min: int = 15
    heartbeat_s_max: int = 300
    heartbeat_s: int = 25


@dataclass(frozen=True, slots=True)
class Policy:
    """Times and counts that are policy rather than protocol, in one table."""

    hello_within_s: float = 5.0
    auth_within_s: float = 10.0
    pong_within_s: float = 20.0
    stalled_within_s: float = 30.0  # no byte leaves a full queue: the session is closed
    history_window_s: float = 30 * 86_400.0
    probation_s: float = 72 * 3_600.0
    probation_lookback_s: float = 90 * 86_400.0  # other devices seen within this put a mailed one on probation
    deletion_delay_s: float = 7 * 86_400.0
    pairing_s: float = 180.0  # from opening to the end of a pairing
    fresh_code_s: float = 600.0  # how recent a code must be for destructive account operations
    code_lifetime_s: float = 600.0
    code_tries_max: int = 5
    code_sends_max: int = 3
    code_resend_after_s: float = 60.0
    attempts_kept_s: float = 86_400.0
    revocation_recheck_s: float = 30.0
    quota_bytes: int = 1_073_741_824
