"""Values: every type of the table both ways, and a clear no to the rest."""

from __future__ import annotations

import math
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.client.values import DEPTH_MAX, Blob, Body, TypedArray, decode_body, encode_body
from tests.test_vectors import vectors

VALUES = vectors("values")


def untagged(value: Any) -> Any:
    """A value from the tagged notation of vectors/values.json."""
    if isinstance(value, list):
        return [untagged(item) for item in value]
    if not isinstance(value, dict):
        return value
    of: Any = value.get("of")
    match value.get("$"):
        case "float":
            return float(of)
        case "int":
            return int(of)
        case "bytes":
            return bytes.fromhex(of)
        case "time":
            return datetime.fromisoformat(of)
        case "set":
            return {hashable(item) for item in of}
        case "map":
            return {hashable(key): untagged(item) for key, item in of}
        case "blob":
            return Blob(value["type"], bytes.fromhex(of), value["name"])
        case "array":
            return TypedArray(value["kind"], bytes.fromhex(of))
    return {key: untagged(item) for key, item in value.items()}


def hashable(value: Any) -> Any:
    read = untagged(value)
    return frozenset(read) if isinstance(read, set) else tuple(read) if isinstance(read, list) else read


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types all the way down; NaN equals itself."""
    return repr(one) == repr(other) if isinstance(one, float) else type(one) is type(other) and one == other


@pytest.mark.parametrize("vector", VALUES["bodies"], ids=lambda vector: vector["name"])
def test_a_body_is_the_published_bytes_both_ways(vector: dict[str, Any]) -> None:
    value = untagged(vector["value"])
    body = encode_body(value, schema=vector["schema"], at_ms=vector["at_ms"])
    assert body.hex() == vector["body"]
    read = decode_body(body)
    assert same(read.value, value)
    assert (read.schema, read.at_ms) == (vector["schema"], vector["at_ms"])


@pytest.mark.parametrize("vector", VALUES["refused"], ids=lambda vector: vector["name"])
def test_what_is_no_body_is_refused(vector: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="not a body"):
        decode_body(bytes.fromhex(vector["body"]))


def test_every_extension_of_the_table_has_a_vector() -> None:
    bodies = b"".join(bytes.fromhex(vector["body"]) for vector in VALUES["bodies"])
    codes = {data[-1] for data in (bodies[at : at + 3] for at in range(len(bodies) - 3)) if data[0] == 0xC7}
    assert {1, 2, 3, 4, 5, 0xFF} <= codes


PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary(),
    st.datetimes(timezones=st.just(UTC), min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)),
)  # fmt: skip
ANY = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4),
        st.dictionaries(st.one_of(st.integers(), st.binary()), inner, max_size=4), st.sets(st.text(), max_size=4),
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(value=ANY)
def test_any_value_comes_back_as_it_went(value: Any) -> None:
    assert same(decode_body(encode_body(value)).value, value)


@settings(max_examples=300, deadline=None)
@given(body=st.one_of(st.binary(max_size=60), st.binary(max_size=40).map(b"\x81\xa1v".__add__)))
def test_any_bytes_are_read_or_refused_and_nothing_else_happens(body: bytes) -> None:
    with suppress(ValueError):
        assert isinstance(decode_body(body), Body)


class Colour(IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), "value: a object"),
        ({"a": [1, Decimal("1.5")]}, r"value\['a'\]\[1\]: a Decimal"),
        (date(2024, 1, 1), "a date"),
        (timedelta(1), "a timedelta"),
        (1j, "a complex"),
        (bytearray(b"x"), "a bytearray"),
        (Colour.RED, "a Colour"),
        ({1: object()}, r"value\[1\]: a object"),
        ({(object(),): 1}, r"a key of value\[0\]: a object"),
        ({frozenset({Colour.RED})}, "a Colour"),
        (Blob("a/b", "text"), "a str, not bytes"),  # type: ignore[arg-type]
    ],
)
def test_a_type_without_a_place_in_the_table_is_refused_by_name_and_place(value: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        encode_body(value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("\ud800", "lone surrogate"),
        ({"\udfff": 1}, "lone surrogate"),
        ([{"a": "x\ud83d"}], r"value\[0\]\['a'\]: half a character"),
        (Blob("a/b", b"", "\ud800"), "lone surrogate"),
        (datetime(2024, 1, 1), "without a time zone"),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=1))), "before the year 1"),
        (10**4096, "more than 4096 digits"),
        (-(10**4096), "more than 4096 digits"),
    ],
)
def test_a_value_that_would_not_come_back_is_refused(value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        encode_body(value)


def test_the_largest_whole_number_comes_back() -> None:
    for number in (10**4096 - 1, 1 - 10**4096):
        assert decode_body(encode_body(number)).value == number


def test_a_moment_in_any_zone_comes_back_in_utc() -> None:
    there = datetime(2024, 7, 1, 12, 0, tzinfo=timezone(timedelta(hours=2)))
    back = decode_body(encode_body(there)).value
    assert back == there and back.tzinfo == UTC


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def test_nesting_is_bounded() -> None:
    assert decode_body(encode_body(nested(DEPTH_MAX))).value == nested(DEPTH_MAX)
    with pytest.raises(ValueError, match="nested deeper"):
        encode_body(nested(DEPTH_MAX + 1))


def test_a_value_that_holds_itself_is_refused() -> None:
    ring: list[Any] = []
    ring.append(ring)
    with pytest.raises(ValueError, match="nested deeper"):
        encode_body(ring)


@pytest.mark.parametrize("wrapped", [b"\x91", b"\xc7\x05\x01\x91", b"\x81\xa1v"])
def test_hostile_nesting_is_refused(wrapped: bytes) -> None:
    with pytest.raises(ValueError):
        decode_body(b"\x81\xa1v" + wrapped * 50_000)


def test_hostile_extensions_inside_extensions_are_refused() -> None:
    data = msgspec.msgpack.encode([])
    for _ in range(3000):
        data = msgspec.msgpack.encode([msgspec.msgpack.Ext(1, data)])
    with pytest.raises(ValueError):
        decode_body(b"\x81\xa1v" + data)


def test_elements_that_are_equal_in_python_are_refused_rather_than_lost() -> None:
    both = msgspec.msgpack.encode([1, True])
    with pytest.raises(ValueError, match="equal in Python"):
        decode_body(b"\x81\xa1v" + msgspec.msgpack.encode(msgspec.msgpack.Ext(1, both)))
    pairs = msgspec.msgpack.encode([[0, "zero"], [False, "no"]])
    with pytest.raises(ValueError, match="equal in Python"):
        decode_body(b"\x81\xa1v" + msgspec.msgpack.encode(msgspec.msgpack.Ext(2, pairs)))


def test_a_map_as_an_element_of_a_set_is_refused() -> None:
    elements = msgspec.msgpack.encode([{"a": 1}])
    with pytest.raises(ValueError, match="no element of a set"):
        decode_body(b"\x81\xa1v" + msgspec.msgpack.encode(msgspec.msgpack.Ext(1, elements)))


def test_equal_sets_are_equal_bytes() -> None:
    one, other = {0, 8}, {8, 0}
    assert list(one) != list(other)  # Python keeps them in different orders
    assert encode_body(one) == encode_body(other)


def test_unknown_keys_beside_the_value_are_ignored() -> None:
    assert decode_body(msgspec.msgpack.encode({"v": 1, "later": [1]})) == Body(1)


def test_a_typed_array_of_half_an_item_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="no typed array"):
        TypedArray("Float64", bytes(12))
    with pytest.raises(ValueError, match="no typed array"):
        TypedArray("Int7", b"")


def test_not_a_number_comes_back() -> None:
    assert math.isnan(decode_body(encode_body(math.nan)).value)
