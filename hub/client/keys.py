"""From one app key to every key of a space, without I/O.

A person's app key is 32 random bytes that never leave their devices.  Everything
else is derived from it: the signing key that proves to the hub that a device
holds the app key, the id of the space (a hash of the first signing key, so that
nobody can claim another's space), the keys that seal, and the keys that turn
names into the ids the hub sees.  docs/protocol.md "Keys".

A new app key (a higher key_epoch) changes what signs and seals.  Names and the
digest keep the keys of the first one, so ids stay what they were.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass

from nacl.signing import SigningKey

from hub.signing import LABEL
from hub.terms import ID_BYTES, CollectionId, RecordId, SpaceId

APP_KEY_BYTES = 32
KEY_EPOCH_MAX = 2**32 - 1
HASH_BYTES = 32


@dataclass(frozen=True, slots=True)
class SpaceKeys:
    """The keys of one space under one app key.  Its ``repr`` shows ids only."""

    key_epoch: int
    space_id: SpaceId
    signing_key: SigningKey
    space_pk: bytes
    content_key: bytes
    witness_key: bytes
    name_key: bytes
    set_key: bytes
    key_id: bytes

    @classmethod
    def derive(cls, app_key: bytes, key_epoch: int = 0, first_key: bytes | None = None) -> SpaceKeys:
        """All keys that follow from ``app_key``; both keys are 32 bytes.

        ``first_key`` is the app key of key_epoch 0.  It is needed from key_epoch 1
        on, since the space id and the names stand on it.  Raises ``ValueError``.
        """
        first_key = _first_key(app_key, key_epoch, first_key)
        signing_key = _signing_key(app_key)
        space_id = _space_id(bytes(_signing_key(first_key).verify_key))
        key_epoch_bytes = struct.pack(">I", key_epoch)
        return cls(
            key_epoch=key_epoch,
            space_id=space_id,
            signing_key=signing_key,
            space_pk=bytes(signing_key.verify_key),
            content_key=hkdf(app_key, space_id, LABEL + b"enc" + key_epoch_bytes),
            witness_key=hkdf(app_key, space_id, LABEL + b"head" + key_epoch_bytes),
            name_key=hkdf(first_key, space_id, LABEL + b"name"),
            set_key=hkdf(first_key, space_id, LABEL + b"set"),
            key_id=hkdf(app_key, space_id, LABEL + b"key-id" + key_epoch_bytes, ID_BYTES),
        )

    def collection_id(self, name: str) -> CollectionId:
        """The id the hub sees instead of ``name``; the same on every device of the space."""
        return hmac.digest(self.name_key, b"c\0" + name.encode(), "sha256")[:ID_BYTES]

    def record_id(self, collection_id: CollectionId, key: str) -> RecordId:
        """The id the hub sees instead of the record's ``key``; another in each collection."""
        return hmac.digest(self.name_key, b"r\0" + collection_id + key.encode(), "sha256")[:ID_BYTES]

    def __repr__(self) -> str:
        return f"SpaceKeys(space {self.space_id.hex()}, key_epoch {self.key_epoch}, key_id {self.key_id.hex()})"


def hkdf(input_key: bytes, salt: bytes, info: bytes, length: int = 32) -> bytes:
    """HKDF-SHA256 (RFC 5869): ``length`` bytes, at most 8160.  An empty salt is that of the RFC, 32 zero bytes."""
    assert 0 < length <= 255 * HASH_BYTES
    extracted = hmac.digest(salt, input_key, "sha256")
    block = output = b""
    for index in range(1, -(-length // HASH_BYTES) + 1):
        block = hmac.digest(extracted, block + info + bytes([index]), "sha256")
        output += block
    return output[:length]


def _first_key(app_key: bytes, key_epoch: int, first_key: bytes | None) -> bytes:
    if not 0 <= key_epoch <= KEY_EPOCH_MAX:
        raise ValueError("a key_epoch is a number from 0 to 2^32 - 1")
    if key_epoch == 0:
        if first_key not in (None, app_key):
            raise ValueError("the app key of key_epoch 0 is the first key itself")
        first_key = app_key
    if first_key is None:
        raise ValueError("from key_epoch 1 on the first app key is needed as well")
    if len(app_key) != APP_KEY_BYTES or len(first_key) != APP_KEY_BYTES:
        raise ValueError("an app key has 32 bytes")
    return first_key


def _signing_key(app_key: bytes) -> SigningKey:
    # No space id goes in: a device must find the space of a typed key by this public key.
    return SigningKey(hkdf(app_key, b"", LABEL + b"space-auth"))


def _space_id(first_space_pk: bytes) -> SpaceId:
    return hashlib.sha256(LABEL + b"space-id\0" + first_space_pk).digest()[:ID_BYTES]
