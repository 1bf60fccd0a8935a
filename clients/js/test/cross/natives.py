"""What Python calls its own of every type of the codec table: each name with a value and an edit of it.

``natives.js`` has the same names with what JavaScript calls its own; ``cross_values.test.js`` holds the two
against each other.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from typing import Any

from hub.client.values import Blob, TypedArray

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _ms(ms: int) -> datetime:
    return EPOCH + timedelta(milliseconds=ms)


def _deep(levels: int, inside: Any) -> Any:
    return [_deep(levels - 1, inside)] if levels else inside


WHOLE = [0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**31, 2**32 - 1, 2**32, 2**53 - 1]
BELOW = [-1, -32, -33, -128, -129, -32_768, -32_769, -(2**31), -(2**31) - 1, -(2**53) + 1]
PLANES = "\0 a \x7f ü ß € \ufeff \ufffd ｆ 𝄞 🦦 𠀋 𰀀 \U000e0041 \U000f0000 \U0010ffff"
JOINED = "e\u0301 👩\u200d👩\u200d👧 שלום \u202e"
EVERY_BYTE = bytes(range(256))
ARRAYS = [
    TypedArray("Int8", struct.pack("<3b", -128, 0, 127)),
    TypedArray("Uint8Clamped", bytes([0, 128, 255])),
    TypedArray("Int16", struct.pack("<3h", -(2**15), 0, 2**15 - 1)),
    TypedArray("Uint16", struct.pack("<2H", 0, 2**16 - 1)),
    TypedArray("Int32", struct.pack("<2i", -(2**31), 2**31 - 1)),
    TypedArray("Uint32", struct.pack("<2I", 0, 2**32 - 1)),
    TypedArray("Float32", struct.pack("<4f", 0.5, -0.0, float("inf"), float("nan"))),
    TypedArray("Float64", struct.pack("<4d", 0.1, -0.0, float("-inf"), float("nan"))),
    TypedArray("BigInt64", struct.pack("<2q", -(2**63), 2**63 - 1)),
    TypedArray("BigUint64", struct.pack("<2Q", 0, 2**64 - 1)),
]

NATIVES: dict[str, tuple[Any, Any]] = {
    "null": (None, "no more"),
    "a bool": (True, False),
    "whole numbers": (WHOLE, WHOLE[::-1]),
    "whole numbers below zero": (BELOW, BELOW[::-1]),
    "the first large number": (2**53, -(2**53)),
    "large numbers": ([2**63, 2**64, 10**30], [-(2**63), -(2**64), -(10**30)]),
    "the largest number": (10**4096 - 1, -(10**4096) + 1),
    "fractions": ([0.1, -2.5, 1e-300, 5e-324], [1.7976931348623157e308, 0.1 + 0.2]),
    "not a number": (float("nan"), 0.5),
    "infinite": (float("inf"), float("-inf")),
    "minus zero": (-0.0, [-0.0, 0]),
    "no text": ("", " "),
    "text of every plane": (PLANES, PLANES[::-1]),
    "joined text": (JOINED, JOINED * 2),
    "long text": ("ü" * 40_000, "€" * 30_000),
    "no bytes": (b"", b"\0"),
    "every byte": (EVERY_BYTE, EVERY_BYTE[::-1]),
    "many bytes": (EVERY_BYTE * 300, EVERY_BYTE[::-1] * 300),
    "a date": (_ms(1_700_000_000_123), _ms(1_700_000_000_000)),
    "dates far away": ([_ms(0), _ms(-1), _ms(-62_135_596_800_000)], [_ms(2**32 * 1000), _ms(253_402_300_799_999)]),
    "an empty set": (set(), {""}),
    "a set": ({"a", 2, 1.5, None, False, b"x", 2**70}, {"b", "ü🎉"}),
    "a set of more": ({_ms(5), (1, "two", (None,)), frozenset({1, 2})}, {(1,), (1, 1)}),
    "a map": ({1: "one", None: [], b"k": {"a": 1}, 2**60: 0.5}, {1: "uno", "1": "text"}),
    "a map of more": ({(1, "a"): {2: 3}, _ms(7): set(), frozenset({"x"}): b""}, {(): ()}),
    "a blob": (Blob("text/plain", b"Hello"), Blob("", b"")),
    "a file": (Blob("image/png", EVERY_BYTE, "ü.png"), Blob("image/png", EVERY_BYTE, "\U0001f9a6.png")),
    "typed arrays": (ARRAYS, ARRAYS[::-1]),
    "an empty typed array": (TypedArray("Float64", b""), TypedArray("Uint8Clamped", b"")),
    "an empty list": ([], [[]]),
    "an empty object": ({}, {"a": {}}),
    "odd names": ({"": 0, "__proto__": {"a": 1}, "constructor": 2, "ü🎉": 3, "1": 4}, {"__proto__": None}),
    "all at once": (
        {
            "list": [1, 2.5, None, True, "ü", _ms(9), {"s": {1, (2, 3)}}],
            "blob": [Blob("a/b", b"\0")],
            "map": {1: {2: 3}},
        },
        {"list": [], "deep": [{"a": [{"b": [TypedArray("Int8", b"\xff"), b"\xff"]}]}]},
    ),
    "as deep as it goes": (_deep(64, 7), _deep(64, "seven")),
    "ten thousand items": (list(range(10_000)), [None] * 10_000),
}


def same(one: Any, other: Any) -> bool:
    """Whether both are equal and of the same types all the way down; what is no number equals itself here."""
    if type(one) is not type(other):
        # A tuple is written as a list is, and comes back as one where it is no element and no key.
        return isinstance(one, list | tuple) and isinstance(other, list | tuple) and same(list(one), list(other))
    if isinstance(one, float):
        return struct.pack("<d", one) == struct.pack("<d", other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            any(same(key, theirs) and same(value, other[theirs]) for theirs in other if theirs == key)
            for key, value in one.items()
        )
    if isinstance(one, set | frozenset):
        return len(one) == len(other) and all(any(same(item, theirs) for theirs in other) for item in one)
    return bool(one == other)
