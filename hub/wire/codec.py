"""Bytes ⇄ messages, without I/O.

One frame is one MessagePack map.  The decoder takes apart what a stranger sent:
it never recurses deeper than the message types do, and it tells three faults
apart: not a message at all, a message of an unknown type, and a known message
with a bad field.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, get_args

import msgspec

from hub.wire import messages
from hub.wire.messages import FromDevice, FromHub, Message


class NotAMessage(ValueError):
    """The bytes are no MessagePack map with a string ``type``."""


class UnknownMessage(ValueError):
    """The map's ``type`` is none of this direction's; ``request`` is its number, or None."""

    def __init__(self, type_: str, request: int | None) -> None:
        super().__init__(type_)
        self.request = request


class BadMessage(ValueError):
    """A field is missing, of the wrong type or out of bounds; ``request`` is its number, or None."""

    def __init__(self, detail: str, request: int | None) -> None:
        super().__init__(detail)
        self.request = request


class _Envelope(msgspec.Struct):
    type: str
    request: Any = None


_envelope = msgspec.msgpack.Decoder(_Envelope)
_from_device: msgspec.msgpack.Decoder[FromDevice] = msgspec.msgpack.Decoder(FromDevice)
_from_hub: msgspec.msgpack.Decoder[FromHub] = msgspec.msgpack.Decoder(FromHub)
_encoder = msgspec.msgpack.Encoder()
# msgspec lets the codec's own error through when a text is not UTF-8.
_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def encode(message: Message) -> bytes:
    """The frame of one message."""
    return _encoder.encode(message)


def decode_from_device(frame: bytes) -> FromDevice:
    """What a device sent.  Raises ``NotAMessage``, ``UnknownMessage`` or ``BadMessage``."""
    try:
        return _from_device.decode(frame)
    except _FAULTS as exc:
        raise _fault(frame, _device_types(), exc) from exc


def decode_from_hub(frame: bytes) -> FromHub:
    """What a hub sent.  Raises ``NotAMessage``, ``UnknownMessage`` or ``BadMessage``."""
    try:
        return _from_hub.decode(frame)
    except _FAULTS as exc:
        raise _fault(frame, _hub_types(), exc) from exc


def message_type(message: Message) -> str:
    """The wire name of a message."""
    return str(message.__struct_config__.tag)


def message_classes() -> dict[str, type[Message]]:
    """Every message class by its wire name."""
    return {
        str(cls.__struct_config__.tag): cls
        for cls in vars(messages).values()
        if isinstance(cls, type) and issubclass(cls, Message) and cls is not Message
    }


def _fault(frame: bytes, known: frozenset[str], exc: Exception) -> ValueError:
    try:
        envelope = _envelope.decode(frame)
    except _FAULTS:
        return NotAMessage("not a MessagePack map with a type")
    number = envelope.request
    request = number if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**53 else None
    if envelope.type not in known:
        return UnknownMessage(envelope.type[:64], request)
    return BadMessage(str(exc)[:200], request)


@lru_cache(maxsize=1)
def _device_types() -> frozenset[str]:
    return frozenset(str(cls.__struct_config__.tag) for cls in get_args(FromDevice))


@lru_cache(maxsize=1)
def _hub_types() -> frozenset[str]:
    return frozenset(str(cls.__struct_config__.tag) for cls in get_args(FromHub))
