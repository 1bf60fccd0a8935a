"""App values ⇄ the bytes of a body, without I/O.

A body is a MessagePack map ``{"v": value, "s": schema, "t": at_ms}``, the last two
left out when 0.  Values are what JSON has, and bytes.  What Python and JavaScript
have beyond that travels in MessagePack extensions.  This table is frozen; both
clients read and write the same bytes:

    -1  timestamp (of MessagePack itself)   a datetime with a time zone, read back in UTC
     1  set                                 array of the elements
     2  map that is no object               array of [key, value] pairs
     3  blob                                [type, bytes, name]
     4  typed array                         [kind, bytes], little-endian
     5  whole number of 2^53 or beyond      decimal digits in ASCII

What has no place in it is refused where it is written, never bent to fit.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta, Struct
from msgspec.msgpack import Ext

SET, MAP, BLOB, TYPED_ARRAY, BIG_INT = 1, 2, 3, 4, 5
DEPTH_MAX = 64
BIG_INT_DIGITS_MAX = 4096  # below the 4300 that Python reads and writes at most
INT_MAX = 2**53 - 1  # JavaScript's Number.MAX_SAFE_INTEGER

_BIG_INT_END = 10**BIG_INT_DIGITS_MAX

TYPED_ARRAY_ITEM_BYTES = {
    "Int8": 1, "Uint8": 1, "Uint8Clamped": 1, "Int16": 2, "Uint16": 2, "Int32": 4, "Uint32": 4,
    "Float32": 4, "Float64": 8, "BigInt64": 8, "BigUint64": 8,
}  # fmt: skip


class Body(NamedTuple):
    """An app's value, its schema's version and the writer's clock in ms (which orders nothing); 0 = none."""

    value: Any
    schema: int = 0
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Blob:
    """A file-like value: MIME type, bytes, and a name or nothing; JavaScript's Blob and File."""

    type: str
    data: bytes
    name: str = ""


@dataclass(frozen=True, slots=True)
class TypedArray:
    """Numbers in little-endian bytes; ``kind`` is JavaScript's class name without "Array"."""

    kind: str
    data: bytes

    def __post_init__(self) -> None:
        item_bytes = TYPED_ARRAY_ITEM_BYTES.get(self.kind)
        if item_bytes is None or len(self.data) % item_bytes:
            raise ValueError(f"{len(self.data)} bytes are no typed array of kind {self.kind!r}")


class Map(dict[Any, Any]):
    """JavaScript's Map where a dict would be written as an object: all its keys are text, or it has none."""


class BigInt(int):
    """JavaScript's BigInt where an int would be written as a number: it is below 2^53.  Sums of it are plain ints."""


def encode_body(value: Any, *, schema: int = 0, at_ms: int = 0) -> bytes:
    """The body's bytes.  Raises ``TypeError`` or ``ValueError`` with a sentence that names the place in the value."""
    return _encoder.encode(_Wire(_to_wire(value, "value", 0), schema, at_ms))


def decode_body(body: bytes) -> Body:
    """The body; sets, tuples as keys and the like come back as Python's own.  Raises ``ValueError``."""
    try:
        wire = _decoder.decode(body)
    except (ValueError, TypeError, OverflowError, RecursionError) as exc:
        raise ValueError(f"not a body of this format: {exc}") from exc
    return Body(wire.v, wire.s, wire.t)


class _Wire(Struct, omit_defaults=True):
    v: Any
    s: Annotated[int, Meta(ge=0, le=INT_MAX)] = 0
    t: Annotated[int, Meta(ge=0, le=INT_MAX)] = 0


# --- from Python -----------------------------------------------------------------------------


def _to_wire(value: Any, place: str, depth: int) -> Any:
    if depth > DEPTH_MAX:
        raise ValueError(f"{place}: nested deeper than {DEPTH_MAX}")
    # The exact type: a subclass would come back as something else.
    write = _WRITERS.get(type(value))
    if write is None:
        raise TypeError(f"{place}: a {type(value).__name__} cannot be synced")
    return write(value, place, depth)


def _plain(value: Any, place: str, depth: int) -> Any:
    return value


def _str(value: str, place: str, depth: int) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise ValueError(f"{place}: half a character (a lone surrogate) cannot be synced") from exc
    return value


def _int(value: int, place: str, depth: int) -> int | Ext:
    if -INT_MAX <= value <= INT_MAX:
        return value
    return _big_int(value, place, depth)


def _big_int(value: int, place: str, depth: int) -> Ext:
    if abs(value) >= _BIG_INT_END:
        raise ValueError(f"{place}: a whole number of more than {BIG_INT_DIGITS_MAX} digits cannot be synced")
    return Ext(BIG_INT, str(int(value)).encode())


def _datetime(value: datetime, place: str, depth: int) -> datetime:
    if value.utcoffset() is None:
        raise ValueError(f"{place}: a datetime without a time zone is no point in time")
    try:
        return value.astimezone(UTC)
    except OverflowError as exc:
        raise ValueError(f"{place}: a datetime before the year 1 or after 9999 in UTC cannot be synced") from exc


def _list(value: list[Any] | tuple[Any, ...], place: str, depth: int) -> list[Any]:
    return [_to_wire(item, f"{place}[{index}]", depth + 1) for index, item in enumerate(value)]


def _set(value: set[Any] | frozenset[Any], place: str, depth: int) -> Ext:
    # A set has no order of its own; the elements' bytes give it one, so equal sets are equal bytes.
    items = sorted(_encoder.encode(_to_wire(item, f"an element of {place}", depth + 1)) for item in value)
    return Ext(SET, _encoder.encode([msgspec.Raw(item) for item in items]))


def _dict(value: dict[Any, Any], place: str, depth: int) -> dict[str, Any] | Ext:
    if all(type(key) is str for key in value):
        return {_str(key, place, depth): _to_wire(item, f"{place}[{key!r}]", depth + 1) for key, item in value.items()}
    return _map(value, place, depth)


def _map(value: dict[Any, Any], place: str, depth: int) -> Ext:
    pairs = [
        (_to_wire(key, f"a key of {place}", depth + 1), _to_wire(item, f"{place}[{key!r}]", depth + 1))
        for key, item in value.items()
    ]
    return Ext(MAP, _encoder.encode(pairs))


def _blob(value: Blob, place: str, depth: int) -> Ext:
    parts = (_str(value.type, place, depth), _bytes(value.data, place), _str(value.name, place, depth))
    return Ext(BLOB, _encoder.encode(parts))


def _typed_array(value: TypedArray, place: str, depth: int) -> Ext:
    return Ext(TYPED_ARRAY, _encoder.encode((value.kind, _bytes(value.data, place))))


def _bytes(data: bytes, place: str) -> bytes:
    if type(data) is not bytes:
        raise TypeError(f"{place}: its data is a {type(data).__name__}, not bytes")
    return data


_WRITERS: dict[type, Callable[[Any, str, int], Any]] = {
    type(None): _plain, bool: _plain, float: _plain, bytes: _plain, int: _int, str: _str, datetime: _datetime,
    list: _list, tuple: _list, set: _set, frozenset: _set, dict: _dict, Map: _map, BigInt: _big_int, Blob: _blob,
    TypedArray: _typed_array,
}  # fmt: skip


# --- to Python -------------------------------------------------------------------------------


def _from_ext(code: int, data: memoryview) -> Any:
    read = _READERS.get(code)
    if read is None:
        raise ValueError(f"extension {code} is not in the table")
    return read(bytes(data))


def _read_set(data: bytes) -> set[Hashable]:
    items = _array_decoder.decode(data)
    found = {_hashable(item) for item in items}
    if len(found) != len(items):
        raise ValueError("a set holds elements that are equal in Python")
    return found


def _read_map(data: bytes) -> dict[Hashable, Any]:
    pairs = _pairs_decoder.decode(data)
    found = {_hashable(key): item for key, item in pairs}
    if len(found) != len(pairs):
        raise ValueError("a map holds keys that are equal in Python")
    return Map(found) if all(type(key) is str for key in found) else found


def _read_blob(data: bytes) -> Blob:
    return Blob(*_blob_decoder.decode(data))


def _read_typed_array(data: bytes) -> TypedArray:
    return TypedArray(*_typed_array_decoder.decode(data))


def _read_big_int(data: bytes) -> int:
    if len(data) > 1 + BIG_INT_DIGITS_MAX:
        raise ValueError(f"a whole number has more than {BIG_INT_DIGITS_MAX} digits")
    number = int(data)
    # int() also takes spaces, underscores, plus signs and leading zeros, which no client writes.
    if str(number).encode() != data:
        raise ValueError("a whole number is not written in plain digits")
    return BigInt(number) if -INT_MAX <= number <= INT_MAX else number


def _hashable(value: Any) -> Hashable:
    if isinstance(value, list):
        return tuple(_hashable(item) for item in value)
    if isinstance(value, set):
        return frozenset(value)
    if not isinstance(value, Hashable):
        raise ValueError(f"a {type(value).__name__} is no element of a set and no key of a map in Python")
    return value


_READERS: dict[int, Callable[[bytes], Any]] = {
    SET: _read_set, MAP: _read_map, BLOB: _read_blob, TYPED_ARRAY: _read_typed_array, BIG_INT: _read_big_int,
}  # fmt: skip

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Wire, ext_hook=_from_ext)
_array_decoder = msgspec.msgpack.Decoder(list[Any], ext_hook=_from_ext)
_pairs_decoder = msgspec.msgpack.Decoder(list[tuple[Any, Any]], ext_hook=_from_ext)
_blob_decoder = msgspec.msgpack.Decoder(tuple[str, bytes, str])
_typed_array_decoder = msgspec.msgpack.Decoder(tuple[str, bytes])
