"""The header: where each field lies, and what is refused without a key."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.terms import ZERO_ID, Kind
from hub.wire.header import HEADER_BYTES, SEALED_BYTES_MIN, Header, parse_header
from tests.test_vectors import vectors

PARTS = {
    name: bytes([number]) * 16 for number, name in enumerate(("space", "collection", "record", "change", "device"), 1)
}
REST = bytes(SEALED_BYTES_MIN - HEADER_BYTES)


def header(**fields: Any) -> Header:
    """A put; ``fields`` replace what it has."""
    space, collection, record, change, device = PARTS.values()
    put = Header(
        1, 1, Kind.PUT, 1, 0x01020304, space, collection, record, change, device, 0x0102030405060708, b"b" * 16
    )
    return put._replace(**fields)


def about_all(kind: Kind, **fields: Any) -> Header:
    return header(kind=kind, record_id=ZERO_ID, **fields)


def test_every_field_lies_where_the_protocol_says() -> None:
    packed = header().pack()
    assert packed[:4] == bytes([1, 1, 1, 1])
    assert packed[4:8] == bytes([1, 2, 3, 4])
    assert [packed[at : at + 16] for at in (8, 24, 40, 56, 72)] == list(PARTS.values())
    assert packed[88:96] == bytes([1, 2, 3, 4, 5, 6, 7, 8])
    assert packed[96:] == b"b" * 16
    assert len(packed) == HEADER_BYTES == 112


def test_the_smallest_sealed_change_is_read_and_one_byte_less_is_not() -> None:
    assert parse_header(header().pack() + REST) == header()
    with pytest.raises(ValueError, match="at least 152 bytes"):
        parse_header((header().pack() + REST)[:-1])


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_is_read_back(kind: Kind) -> None:
    bare = kind in (Kind.PURGE, Kind.WIPE, Kind.WITNESS)
    given = about_all(kind, base=bytes(16)) if bare else header(kind=kind, base=ZERO_ID)
    read = parse_header(given.pack() + REST)
    assert read == given and read.kind is kind


@pytest.mark.parametrize("flags", [0, 1, 2, 3])
def test_the_known_flags_are_read(flags: int) -> None:
    assert parse_header(header(flags=flags).pack() + REST).conditional == (flags >= 2)


def test_a_purge_says_up_to_which_seq() -> None:
    assert parse_header(about_all(Kind.PURGE, base=(2**53 - 1).to_bytes(16, "big")).pack() + REST).upto == 2**53 - 1


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (header(version=0), "version or suite"),
        (header(version=2), "version or suite"),
        (header(suite=0), "version or suite"),
        (header(suite=2), "version or suite"),
        (header(kind=0), "unknown kind"),
        (header(kind=7), "unknown kind"),
        (header(kind=9), "unknown kind"),
        (header(kind=255), "unknown kind"),
        (header(flags=4), "unknown flag"),
        (header(flags=0x81), "unknown flag"),
        (header(counter=0), "counters start at 1"),
        (header(kind=Kind.WIPE), "record id zero"),
        (header(kind=Kind.PURGE, base=ZERO_ID), "record id zero"),
        (header(kind=Kind.WITNESS), "record id zero"),
        (about_all(Kind.WIPE, flags=3), "not conditional"),
        (about_all(Kind.PURGE, flags=3, base=ZERO_ID), "not conditional"),
        (about_all(Kind.WITNESS, flags=2), "not conditional"),
        (about_all(Kind.PURGE, base=b"\0" * 7 + b"\1" + bytes(8)), "eight zero bytes"),
        (header(kind=Kind.DELTA), "no base"),
        (header(kind=Kind.DELTA, flags=3, base=ZERO_ID), "no base"),
    ],
)
def test_a_header_against_the_rules_is_refused_with_its_fault(given: Header, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        parse_header(given.pack() + REST)


@settings(max_examples=500, deadline=None)
@given(sealed=st.one_of(st.binary(max_size=200), st.binary(min_size=148, max_size=148).map(b"\1\1\1\1".__add__)))
def test_any_bytes_are_read_back_exactly_or_refused(sealed: bytes) -> None:
    try:
        read = parse_header(sealed)
    except ValueError:
        return
    assert read.pack() == sealed[:HEADER_BYTES]


@pytest.mark.parametrize("vector", vectors("crypto")["sealed"], ids=lambda vector: vector["name"])
def test_the_published_headers_are_read(vector: dict[str, Any]) -> None:
    read = parse_header(bytes.fromhex(vector["sealed"]))
    names = ("collection_id", "record_id", "change_id", "device_id", "base")
    assert {name: getattr(read, name).hex() for name in names} == {name: vector[name] for name in names}
    assert (read.kind, read.counter, read.conditional) == (vector["kind"], vector["counter"], vector["conditional"])


@pytest.mark.parametrize("place", range(4))
def test_of_the_first_four_bytes_those_the_protocol_names_pass_and_no_other(place: int) -> None:
    start = [1, 1, int(Kind.PUT), 0]
    known: list[set[int]] = [{1}, {1}, {int(kind) for kind in Kind}, {0, 1, 2, 3}]
    faults = ["unknown version or suite", "unknown version or suite", "unknown kind", "unknown flag"]
    rest = header(record_id=ZERO_ID, base=ZERO_ID).pack()[4:] + REST
    for byte in range(256):
        first = bytes(start[:place]) + bytes([byte]) + bytes(start[place + 1 :])
        if byte in known[place]:
            assert parse_header(first + rest).pack() == first + rest[:108]
        else:
            with pytest.raises(ValueError, match=faults[place]):
                parse_header(first + rest)
