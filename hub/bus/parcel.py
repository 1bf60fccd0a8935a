"""What a stranger sees of a notice between replicas, without I/O: the channel's name, and a parcel with a MAC.

A channel's name is a keyed hash of the account id, so whoever carries parcels learns
no account, and two hubs can share one carrier.  A parcel is

    version(1) ‖ mac(32) ‖ origin(16) ‖ body

where the body is the notice as MessagePack and the MAC covers the channel's name, the
version, the origin and the body: nobody without the hub's internal key can make a
parcel, alter it, or move it to another account's channel.  It is not encrypted; what
a body carries of a person's data was sealed on the device.
"""

from __future__ import annotations

import hmac
from hashlib import blake2b

import msgspec

from hub.bus import (
    AccountChanged,
    AccountStopped,
    DevicesRevoked,
    HeadMoved,
    Notice,
    NoticesLost,
    PairingPassed,
    SessionOpened,
    Signalled,
    Witnessed,
)
from hub.terms import AccountId

VERSION = b"\x01"
MAC_BYTES = 32
ORIGIN_BYTES = 16
HEAD_BYTES = len(VERSION) + MAC_BYTES + ORIGIN_BYTES
INLINE_BYTES_MAX = 16_384  # of all changes of a notice together; larger ones are read from the store
PREFIX = b"hub:"

_Any = (
    HeadMoved
    | Witnessed
    | Signalled
    | PairingPassed
    | DevicesRevoked
    | AccountStopped
    | SessionOpened
    | AccountChanged
    | NoticesLost
)


class Refused(Exception):
    """The bytes are no parcel of this hub for this channel."""


class Parcels:
    """Makes and checks the parcels of one replica."""

    def __init__(self, internal_key: bytes, origin: bytes) -> None:
        """``internal_key`` is secret and shared by all replicas; ``origin`` names this one, 16 random bytes."""
        assert len(origin) == ORIGIN_BYTES
        self._origin = origin
        self._names = blake2b(key=internal_key, digest_size=16, person=b"hub/v1/bus-name")
        self._macs = blake2b(key=internal_key, digest_size=MAC_BYTES, person=b"hub/v1/bus-mac")
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(_Any)
        self.everyone = self.channel(b"every account")  # no account has an id of this length

    def channel(self, account_id: AccountId) -> bytes:
        """The name of the account's channel: "hub:" and 32 hex digits."""
        name = self._names.copy()
        name.update(account_id)
        return PREFIX + name.hexdigest().encode()

    def wrap(self, channel: bytes, notice: Notice) -> bytes:
        """The notice as a parcel for ``channel``; without its changes when they are too large to go along."""
        encoded = self._encoder.encode(notice)
        if len(encoded) > INLINE_BYTES_MAX:  # no smaller one can have too much
            encoded = self._encoder.encode(_lightened(notice))
        body = self._origin + encoded
        return VERSION + self._mac(channel, body) + body

    def is_own(self, parcel: bytes) -> bool:
        """Whether it says it is this replica's own; unchecked, as nothing but silence follows from it."""
        return parcel[HEAD_BYTES - ORIGIN_BYTES : HEAD_BYTES] == self._origin

    def unwrap(self, channel: bytes, parcel: bytes) -> Notice:
        """The notice in a parcel that came over ``channel``.  Raises ``Refused``."""
        body = parcel[len(VERSION) + MAC_BYTES :]
        mac = parcel[len(VERSION) : len(VERSION) + MAC_BYTES]
        if not parcel.startswith(VERSION) or not hmac.compare_digest(mac, self._mac(channel, body)):
            raise Refused
        try:
            notice: Notice = self._decoder.decode(body[ORIGIN_BYTES:])
        except (msgspec.DecodeError, UnicodeDecodeError):  # a newer replica's, which knows more notices
            raise Refused from None
        return notice

    def _mac(self, channel: bytes, body: bytes) -> bytes:
        mac = self._macs.copy()
        mac.update(b"%d:%b%b" % (len(channel), channel, VERSION))
        mac.update(body)
        return mac.digest()


def _lightened(notice: Notice) -> Notice:
    if isinstance(notice, HeadMoved) and sum(len(change.sealed) for change in notice.changes) > INLINE_BYTES_MAX:
        return msgspec.structs.replace(notice, changes=())
    return notice
