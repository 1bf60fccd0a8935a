"""Ephemeral messages between the devices of a space, sealed, without I/O.

``nonce(24) ‖ ciphertext ‖ tag(16)``, XChaCha20-Poly1305 under a key of its own; the
space and the sending device are associated data, so the hub can neither read a
signal nor put another sender's name on it.  docs/protocol.md "Signals".
"""

from __future__ import annotations

from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt as _decrypt
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt as _encrypt
from nacl.exceptions import CryptoError

from hub.client.keys import SpaceKeys, hkdf
from hub.signing import LABEL
from hub.terms import DeviceId
from hub.wire.header import NONCE_BYTES, TAG_BYTES


def seal_signal(keys: SpaceKeys, device_id: DeviceId, body: bytes, nonce: bytes) -> bytes:
    """The sealed signal of this device.  ``nonce`` is 24 random bytes, never used before."""
    assert len(nonce) == NONCE_BYTES
    return nonce + _encrypt(body, _associated(keys, device_id), nonce, _key(keys))


def open_signal(keys: SpaceKeys, device_id: DeviceId, sealed: bytes) -> bytes | None:
    """What ``device_id`` sealed; None when it did not."""
    if len(sealed) < NONCE_BYTES + TAG_BYTES:
        return None
    nonce, ciphertext = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
    try:
        return bytes(_decrypt(ciphertext, _associated(keys, device_id), nonce, _key(keys)))
    except CryptoError:
        return None


def _key(keys: SpaceKeys) -> bytes:
    return hkdf(keys.content_key, keys.space_id, LABEL + b"signal")


def _associated(keys: SpaceKeys, device_id: DeviceId) -> bytes:
    return LABEL + b"signal\0" + keys.space_id + device_id
