"""The clear header of a sealed change: the only part of it the hub reads.

A sealed change is ``header(112) ‖ nonce(24) ‖ ciphertext ‖ tag(16)``; the header
is the AEAD's associated data, so nobody without the app key can alter it.
Layout (docs/protocol.md "Sealed change"), big-endian:

      0  u8  version = 1     1  u8 suite = 1
      2  u8  kind            3  u8 flags (bit 0 padded, bit 1 conditional)
      4  u32 key_epoch       8  space_id(16)       24 collection_id(16)
     40  record_id(16)      56  change_id(16)      72 device_id(16)
     88  u64 counter        96  base(16)
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from hub.terms import COLLECTION_KINDS, ZERO_ID, Kind

VERSION = 1
SUITE = 1  # XChaCha20-Poly1305, HKDF/HMAC-SHA256, Ed25519
FLAG_PADDED = 0x01
FLAG_CONDITIONAL = 0x02

HEADER = struct.Struct(">BBBBI16s16s16s16s16sQ16s")
HEADER_BYTES = HEADER.size
NONCE_BYTES = 24
TAG_BYTES = 16
SEALED_BYTES_MIN = HEADER_BYTES + NONCE_BYTES + TAG_BYTES

_REST = struct.Struct(">I16s16s16s16s16sQ16s")
_FLAGS = (0, FLAG_PADDED, FLAG_CONDITIONAL, FLAG_PADDED | FLAG_CONDITIONAL)
# The first four bytes of every header there can be: one look-up instead of three checks, and the kind with it.
_STARTS = {bytes((VERSION, SUITE, kind, flags)): (VERSION, SUITE, kind, flags) for kind in Kind for flags in _FLAGS}
_BOUND_KINDS = COLLECTION_KINDS | {Kind.DELTA}
_header = tuple.__new__  # of a Header whose fields are one tuple already: half the time of naming them


class Header(NamedTuple):
    """The header's fields in their order on the wire."""

    version: int
    suite: int
    kind: Kind
    flags: int
    key_epoch: int
    space_id: bytes
    collection_id: bytes
    record_id: bytes
    change_id: bytes
    device_id: bytes
    counter: int
    base: bytes

    @property
    def conditional(self) -> bool:
        """Whether the hub must refuse this draft when the record's newest change is not ``base``."""
        return bool(self.flags & FLAG_CONDITIONAL)

    @property
    def upto(self) -> int:
        """The seq up to which a purge drops tombstones: its base is eight zero bytes and a u64."""
        return int.from_bytes(self.base[8:], "big")

    def pack(self) -> bytes:
        """The 112 bytes of this header."""
        return HEADER.pack(*self)


def parse_header(sealed: bytes) -> Header:
    """The header of ``sealed``, checked as far as it can be without a session or a key.

    Raises ``ValueError`` with a sentence naming the first fault.
    """
    if len(sealed) < SEALED_BYTES_MIN:
        raise ValueError(f"a sealed change has at least {SEALED_BYTES_MIN} bytes")
    start = _STARTS.get(sealed[:4])
    if start is None:
        raise ValueError(_fault_of_start(sealed))
    header = _header(Header, start + _REST.unpack_from(sealed, 4))
    if header.counter == 0:
        raise ValueError("counters start at 1")
    if header.kind in _BOUND_KINDS:
        _check_bound(header)
    return header


def _check_bound(header: Header) -> None:
    """The kinds of which some fields have to be zero."""
    if header.kind in COLLECTION_KINDS and (header.record_id != ZERO_ID or header.conditional):
        raise ValueError("this kind speaks about the collection: record id zero, not conditional")
    if header.kind is Kind.PURGE and header.base[:8] != bytes(8):
        raise ValueError("a purge's base is eight zero bytes and a u64 seq")
    if header.kind is Kind.DELTA and (header.base != ZERO_ID or header.conditional):
        raise ValueError("a delta carries no base")


def _fault_of_start(sealed: bytes) -> str:
    if (sealed[0], sealed[1]) != (VERSION, SUITE):
        return "unknown version or suite"
    return "unknown kind" if all(sealed[2] != kind for kind in Kind) else "unknown flag"
