"""Ed25519 challenge and proof, both sides of the handshake, without I/O.

What is signed is a hash over the exact bytes of the hello and the challenge and
over the hub's URL as the device dialled it, so nothing can be stripped, replayed
on another connection or relayed through another hub.  docs/protocol.md
"Handshake".  The primitives are libsodium's; only the composition is ours.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Literal

from nacl.bindings import crypto_core_ed25519_is_valid_point
from nacl.exceptions import CryptoError
from nacl.signing import SigningKey, VerifyKey

LABEL = b"hub/v1/"
Purpose = Literal["auth", "enrol", "space", "account"]


def lp(*parts: bytes) -> bytes:
    """Length-prefixed concatenation: u32be length ‖ bytes, for each part; unambiguous."""
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def transcript_hash(purpose: Purpose, hub_url: str, hello: bytes, challenge: bytes) -> bytes:
    """SHA-256 over the label, the purpose and the raw handshake; 32 bytes.

    For a space proof ``challenge`` is the raw challenge followed by the space id.
    """
    return hashlib.sha256(LABEL + purpose.encode() + b"\0" + lp(hub_url.encode(), hello, challenge)).digest()


def sign(key: SigningKey, purpose: Purpose, hub_url: str, hello: bytes, challenge: bytes) -> bytes:
    """The 64-byte proof for ``purpose`` on this connection."""
    return bytes(key.sign(_message(purpose, hub_url, hello, challenge)).signature)


def verify(public_key: bytes, signature: bytes, purpose: Purpose, hub_url: str, hello: bytes, challenge: bytes) -> bool:
    """Whether ``signature`` proves ``purpose`` on this connection.  Never raises for bad input."""
    try:
        VerifyKey(public_key).verify(_message(purpose, hub_url, hello, challenge), signature)
    except (CryptoError, ValueError, TypeError):
        return False
    return True


def is_valid_public_key(public_key: bytes) -> bool:
    """Whether ``public_key`` is a canonical point of prime order, so that all verifiers agree on it."""
    return len(public_key) == 32 and bool(crypto_core_ed25519_is_valid_point(public_key))


def _message(purpose: Purpose, hub_url: str, hello: bytes, challenge: bytes) -> bytes:
    return LABEL + purpose.encode() + b"-sig\0" + transcript_hash(purpose, hub_url, hello, challenge)
