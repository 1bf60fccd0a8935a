"""Fills docs/protocol.md with what the code knows: message tables, limits, codes; and checks its frames.

``python -m tests.protocol_doc`` rewrites the document; test_protocol_doc.py fails
when that would change anything.
"""

from __future__ import annotations

import re
import sys
import typing
from pathlib import Path

import msgspec

from hub.errors import CLOSINGS, REFUSALS
from hub.terms import Limits
from hub.wire import messages
from hub.wire.codec import decode_from_device, decode_from_hub, message_classes
from hub.wire.messages import Message

DOCUMENT = Path(__file__).parent.parent / "docs" / "protocol.md"
MARK = re.compile(r"<!-- (\w+): ?(\S*) -->\n.*?<!-- end -->", re.S)
FRAME = re.compile(r"```frame\n(→|←) (.*?)\n((?:[0-9a-f ]+\n)+)```", re.S)


def filled(text: str) -> str:
    """The document with every marked part made anew."""

    def part(match: re.Match[str]) -> str:
        kind, name = match.groups()
        return f"<!-- {kind}: {name} -->\n{_PARTS[kind](name)}\n<!-- end -->"

    return MARK.sub(part, text)


def _fields(name: str) -> str:
    cls = message_classes().get(name) or getattr(messages, name)
    return fields_table(cls)


def fields_table(cls: type) -> str:
    """The fields of a message or part as a table."""
    hints = typing.get_type_hints(cls, include_extras=True)
    rows = ["| field | type | bounds | default |", "|---|---|---|---|"]
    for field in msgspec.structs.fields(cls):
        shown, bounds = _type(hints[field.name])
        default = "required" if field.required else _default(field)
        rows.append(f"| `{field.encode_name}` | {shown} | {bounds} | {default} |")
    return "\n".join(rows)


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default is msgspec.NODEFAULT:
        return "`{}`" if field.default_factory is dict else "`[]`"
    if field.default is True:
        return "`true`"
    return "`" + {None: "nil", False: "false", b"": "empty", "": '""'}.get(field.default, str(field.default)) + "`"


def _type(hint: object) -> tuple[str, str]:
    """How a type reads in the document, and its bounds."""
    if typing.get_origin(hint) is typing.Annotated:
        inner, *metas = typing.get_args(hint)
        shown, bounds = _type(inner)
        return shown, "; ".join(filter(None, [bounds, *[_bounds(meta) for meta in metas]]))
    if typing.get_origin(hint) is list:
        shown, bounds = _type(typing.get_args(hint)[0])
        return f"array of {shown}", f"each {bounds}" if bounds else ""
    if typing.get_origin(hint) is typing.Literal:
        return "str", " or ".join(f"`{word}`" for word in typing.get_args(hint))
    if typing.get_origin(hint) is dict:
        return ("map of int by str" if typing.get_args(hint)[1] is int else "map by str"), ""
    if type(None) in typing.get_args(hint):
        return _type(typing.get_args(hint)[0])
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return f"[{hint.__name__}](#{hint.__name__.lower()})", ""
    return {bytes: "bin", str: "str", int: "int", float: "float", bool: "bool"}[hint], ""  # type: ignore[index]


def _bounds(meta: msgspec.Meta) -> str:
    low, high = meta.min_length, meta.max_length
    if low is not None and low == high:
        return f"length {low}"
    if low is not None or high is not None:
        return f"length {low or 0} to {high}"
    most = meta.le if meta.le is not None else None if meta.lt is None else int(meta.lt) - 1
    return f"{meta.ge} to {_power(most)}"


def _power(number: object) -> str:
    return {2**53 - 1: "2^53-1", 2**32 - 1: "2^32-1"}.get(number, str(number))  # type: ignore[call-overload,no-any-return]


def _about(name: str) -> str:
    return (message_classes()[name].__doc__ or "").split("\n\n")[0]


def _limits(_: str) -> str:
    default = Limits()
    rows = [f"| `{name}` | {getattr(default, name):,} |" for name in Limits.__dataclass_fields__]
    return "\n".join(["| limit | default |", "|---|---|", *rows])


def _refusals(_: str) -> str:
    rows = [f"| `{code}` | {'yes' if kind.retry else 'no'} | {kind.message} |" for code, kind in REFUSALS.items()]
    return "\n".join(["| code | retry | meaning |", "|---|---|---|", *rows])


def _closings(_: str) -> str:
    kinds = sorted(CLOSINGS.items(), key=lambda item: item[1].code)
    rows = [f"| {kind.code} | `{name}` | {'yes' if kind.retry else 'no'} | {kind.message} |" for name, kind in kinds]
    return "\n".join(["| code | name | come back | meaning |", "|---|---|---|---|", *rows])


_PARTS = {"fields": _fields, "about": _about, "limits": _limits, "refusals": _refusals, "closings": _closings}


# --- frames ----------------------------------------------------------------------------------


def frame_block(from_device: bool, frame: bytes) -> str:
    """A frame as it stands in the document: direction and meaning, then its bytes."""
    digits = frame.hex(" ", 1)
    lines = "\n".join(digits[at : at + 96].rstrip() for at in range(0, len(digits), 96))
    return f"```frame\n{'→' if from_device else '←'} {meaning(from_device, frame)}\n{lines}\n```"


def meaning(from_device: bool, frame: bytes) -> str:
    """What a frame says, on one line; long bytes shortened."""
    message = decode_from_device(frame) if from_device else decode_from_hub(frame)
    return shown(message)


def shown(message: Message) -> str:
    """A message in words."""
    fields = msgspec.structs.asdict(message)
    parts = [f"{name}={_value(value)}" for name, value in fields.items() if value not in (None, [], "", b"", False, 0)]
    return " ".join([str(message.__struct_config__.tag), *parts])


def _value(value: object) -> str:
    if isinstance(value, bytes):
        return f"{value[:4].hex()}…({len(value)})" if len(value) > 8 else value.hex()
    if isinstance(value, msgspec.Struct):
        inner = [
            f"{name}={_value(v)}" for name, v in msgspec.structs.asdict(value).items() if v not in (0, b"", "", False)
        ]
        return "{" + " ".join(inner) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + f"{len(value)} numbers" + "}"
    return str(value)


def frames_in(text: str) -> list[tuple[bool, str, bytes]]:
    """Every frame of the document: from the device?, its stated meaning, its bytes."""
    return [
        (arrow == "→", stated, bytes.fromhex(digits.replace("\n", " ")))
        for arrow, stated, digits in FRAME.findall(text)
    ]


if __name__ == "__main__":
    DOCUMENT.write_text(filled(DOCUMENT.read_text("utf-8")), "utf-8")
    sys.exit(0)
