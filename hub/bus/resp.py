"""What a Redis server says, taken apart many answers at a time, without I/O (RESP3).

The library's own parser awaits every line of every answer, which costs 20 microseconds a
notice.  Nearly all that comes here are two things, and they have a fast path of about one:
a message on one of the hub's channels, and the number that answers a PUBLISH.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

ITEM_BYTES_MAX = 4_194_304  # of one answer or message; a parcel is a hundred times smaller
DEPTH_MAX = 4  # lists within lists; pub/sub needs one

_END = b"\r\n"
_NUMBER = ord(":")
# How a message on a channel of the hub begins: its name has 36 bytes.
_MESSAGES = (b">3\r\n$7\r\nmessage\r\n$36\r\n", b">3\r\n$8\r\nsmessage\r\n$36\r\n")
_NAME_BYTES = 36
_WORDS = (b"message", b"smessage")


class Message(Struct, frozen=True, gc=False):
    """Something came over a channel."""

    channel: bytes
    body: bytes


class Push(NamedTuple):
    """The server says something else that nobody asked for at this moment."""

    parts: list[object]


class Failure(NamedTuple):
    """The server refused a command; the sentence begins with a word for why, such as NOPERM."""

    sentence: str


class NotRedis(Exception):
    """The bytes are not what a server says."""


class _Cut(Exception):
    """The rest has not come yet."""


class Answers:
    """Takes in bytes as they come, gives out whole answers and messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[object]:
        """Everything that is whole by now, in order: ``Message``, ``Push``, or an answer: an int, bytes, None, a list,
        or a ``Failure``.  Raises ``NotRedis``.
        """
        data = self._rest + data if self._rest else data
        heard: list[object] = []
        at, size = 0, len(data)
        try:
            while at < size:
                item: object
                if data[at] == _NUMBER:
                    item, after = _number(data, at)
                elif (whole := _message(data, at)) is not None:
                    item, after = whole
                else:
                    item, after = _any(data, at, 0)
                heard.append(item)
                at = after
        except _Cut:
            if size - at > ITEM_BYTES_MAX:
                raise NotRedis("an answer without end") from None
        except ValueError:
            raise NotRedis from None
        self._rest = data[at:]
        return heard


def _message(data: bytes, at: int) -> tuple[Message, int] | None:
    """The fast path: a message on a channel of the hub, if it is that and whole."""
    if data.startswith(_MESSAGES[0], at):
        name = at + len(_MESSAGES[0])
    elif data.startswith(_MESSAGES[1], at):
        name = at + len(_MESSAGES[1])
    else:
        return None
    end = name + _NAME_BYTES
    line = data.find(_END, end + 3)
    if line < 0 or not data.startswith(b"\r\n$", end):
        return None
    start = line + 2
    length = int(data[end + 3 : line])
    stop = start + length
    if length < 0 or not data.startswith(_END, stop):
        return None
    return Message(data[name:end], data[start:stop]), stop + 2


def _line(data: bytes, at: int) -> tuple[bytes, int]:
    """What follows the first byte, up to the end of the line; and where the next one begins."""
    end = data.find(_END, at)
    if end < 0:
        raise _Cut
    return data[at + 1 : end], end + 2


def _number(data: bytes, at: int) -> tuple[int, int]:
    end = data.find(_END, at)
    if end < 0:
        raise _Cut
    return int(data[at + 1 : end]), end + 2


def _text(data: bytes, at: int) -> tuple[bytes, int]:
    """A text that begins with its length."""
    length, start = _number(data, at)
    end = start + length
    if length < 0 or length > ITEM_BYTES_MAX or data[end : end + 2] not in (_END, b"\r", b""):
        raise ValueError
    if len(data) < end + 2:
        raise _Cut
    return data[start:end], end + 2


def _any(data: bytes, at: int, depth: int) -> tuple[object, int]:
    kind = data[at : at + 1]
    if not kind:
        raise _Cut
    if kind in b"*~>%|" and depth <= DEPTH_MAX:
        return _many(data, at, kind, depth)
    if kind in b"$=!":
        if data.startswith(b"$-1\r\n", at):
            return None, at + 5
        text, after = _text(data, at)
        return _failure(text) if kind == b"!" else text, after
    line, after = _line(data, at)
    if kind == b":":
        return int(line), after
    if kind == b"-":
        return _failure(line), after
    if kind == b"_":
        return None, after
    if kind in b"+,#(":
        return line, after
    raise ValueError


def _many(data: bytes, at: int, kind: bytes, depth: int) -> tuple[object, int]:
    count, at = _number(data, at)
    if count > ITEM_BYTES_MAX:
        raise ValueError
    parts: list[object] = []
    for _ in range(2 * count if kind in b"%|" else count):
        part, at = _any(data, at, depth + 1)
        parts.append(part)
    if kind == b"|":  # remarks on what comes next
        return _any(data, at, depth + 1)
    return _push(parts) if kind == b">" else parts, at


def _push(parts: list[object]) -> Message | Push:
    match parts:
        case [word, bytes(channel), bytes(body)] if word in _WORDS:
            return Message(channel, body)
    return Push(parts)


def _failure(text: bytes) -> Failure:
    return Failure(text.decode("utf-8", "replace"))
