"""Sealing and opening changes, without I/O: the only code that can read a body.

A sealed change is ``header(112) ‖ nonce(24) ‖ ciphertext ‖ tag(16)``, sealed with
XChaCha20-Poly1305; the header is its associated data, so neither a bit of it nor
the place it belongs to can be changed.  What is sealed is padded, so that the
size tells little: ``u32 length ‖ plaintext ‖ zeros``.  docs/protocol.md "Sealed change".

The plaintext of a record's change repeats the record's key, ``utf8(key) ‖ 0x00 ‖
body``; whoever opens it derives the record id anew and compares.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt as _decrypt,
)
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_encrypt as _encrypt,
)
from nacl.exceptions import CryptoError

from hub.client.keys import SpaceKeys
from hub.terms import ID_BYTES, Kind
from hub.wire.header import (
    FLAG_CONDITIONAL,
    FLAG_PADDED,
    HEADER_BYTES,
    NONCE_BYTES,
    SUITE,
    VERSION,
    Header,
    parse_header,
)

PADDED_BYTES_MIN = 128
RECORD_KEY_BYTES_MAX = 1024

_LENGTH = struct.Struct(">I")
_CIPHERTEXT_AT = HEADER_BYTES + NONCE_BYTES


class Unopenable(ValueError):
    """These bytes are no change that a holder of the keys sealed for this place."""


class WrongRecord(Unopenable):
    """The change was sealed by a holder of the keys, but the key inside is not that of its record id."""


class Opened(NamedTuple):
    """What was sealed, and the header it was sealed with."""

    header: Header
    plaintext: bytes


def seal(
    keys: SpaceKeys,
    *,
    kind: Kind,
    flags_conditional: bool,
    collection_id: bytes,
    record_id: bytes,
    change_id: bytes,
    device_id: bytes,
    counter: int,
    base: bytes,
    plaintext: bytes,
    nonce: bytes,
) -> bytes:
    """The sealed change.  ``nonce`` is 24 random bytes, never used before under these keys."""
    # struct would pad or cut a wrong length without a word.
    assert all(len(part) == ID_BYTES for part in (collection_id, record_id, change_id, device_id, base))
    assert len(nonce) == NONCE_BYTES
    flags = FLAG_PADDED | (FLAG_CONDITIONAL if flags_conditional else 0)
    header = Header(
        VERSION, SUITE, kind, flags, keys.key_epoch, keys.space_id,
        collection_id, record_id, change_id, device_id, counter, base,
    ).pack()  # fmt: skip
    return header + nonce + _encrypt(_padded(plaintext), header, nonce, _key(keys, kind))


def open_sealed(keys: SpaceKeys, sealed: bytes, *, collection_id: bytes) -> Opened:
    """What was sealed for this collection.  Raises ``Unopenable`` for everything else, and nothing but it."""
    header = _expected_header(keys, sealed, collection_id)
    associated, nonce, ciphertext = sealed[:HEADER_BYTES], sealed[HEADER_BYTES:_CIPHERTEXT_AT], sealed[_CIPHERTEXT_AT:]
    try:
        opened = _decrypt(ciphertext, associated, nonce, _key(keys, header.kind))
    except CryptoError as exc:
        raise Unopenable("the seal is broken") from exc
    return Opened(header, _unpadded(opened) if header.flags & FLAG_PADDED else opened)


def record_plaintext(key: str, body: bytes) -> bytes:
    """What is sealed of a record.  Raises ``ValueError`` unless ``key`` is 1 to 1024 bytes of UTF-8 without NUL."""
    encoded = key.encode()
    if not 1 <= len(encoded) <= RECORD_KEY_BYTES_MAX or b"\0" in encoded:
        raise ValueError(f"a record's key is 1 to {RECORD_KEY_BYTES_MAX} bytes of UTF-8 without NUL")
    return encoded + b"\0" + body


def split_record(keys: SpaceKeys, opened: Opened) -> tuple[str, bytes]:
    """The record's key and its body.  Raises ``WrongRecord`` when the key is not the one of the record id."""
    encoded, separator, body = opened.plaintext.partition(b"\0")
    if not separator or not 1 <= len(encoded) <= RECORD_KEY_BYTES_MAX:
        raise WrongRecord("there is no record key inside")
    try:
        key = encoded.decode()
    except UnicodeDecodeError as exc:
        raise WrongRecord("the record key inside is not UTF-8") from exc
    if keys.record_id(opened.header.collection_id, key) != opened.header.record_id:
        raise WrongRecord("the record key inside is that of another record")
    return key, body


def padded_bytes(plaintext_bytes: int) -> int:
    """How long a plaintext of that length is once padded: PADME, at least 128 bytes, at most 12 % more."""
    size = plaintext_bytes + _LENGTH.size
    exponent = size.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return max(PADDED_BYTES_MIN, (size + mask) & ~mask)


def _expected_header(keys: SpaceKeys, sealed: bytes, collection_id: bytes) -> Header:
    try:
        header = parse_header(sealed)
    except ValueError as exc:
        raise Unopenable(str(exc)) from exc
    if header.space_id != keys.space_id:
        raise Unopenable("sealed for another space")
    if header.key_epoch != keys.key_epoch:
        raise Unopenable("sealed under another app key of the space")
    if header.collection_id != collection_id:
        raise Unopenable("sealed for another collection")
    return header


def _key(keys: SpaceKeys, kind: Kind) -> bytes:
    return keys.witness_key if kind is Kind.WITNESS else keys.content_key


def _padded(plaintext: bytes) -> bytes:
    return (_LENGTH.pack(len(plaintext)) + plaintext).ljust(padded_bytes(len(plaintext)), b"\0")


def _unpadded(padded: bytes) -> bytes:
    end = _LENGTH.size + int.from_bytes(padded[: _LENGTH.size], "big")
    if end > len(padded) or padded[end:].strip(b"\0"):
        raise Unopenable("the padding is wrong")
    return padded[_LENGTH.size : end]
