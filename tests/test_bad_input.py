"""Every message with each field missing, mistyped, out of bounds, and at each wrong moment.

The rule of docs/protocol.md "Errors": once a session is ready, a known message with
a bad field is refused with ``bad_request``, one out of place with ``out_of_turn``, an
unknown one with ``unknown_message``; before that, everything unexpected closes the
connection with 4500.  Nothing else may happen, and nothing may be written.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import pytest

from hub.errors import CLOSINGS, REFUSALS
from hub.terms import Limits
from hub.wire import messages as m
from hub.wire.codec import BadMessage, NotAMessage, UnknownMessage, decode_from_device, decode_from_hub
from tests.session_rig import Rig, person

ID, KEY, SIGNATURE = b"i" * 16, b"k" * 32, b"s" * 64
PATIENT = Limits(messages_per_s=10**9, messages_burst=10**9, bytes_per_s=10**12, bytes_burst=10**12)

GOOD: dict[type[m.Message], dict[str, Any]] = {
    m.Hello: {
        "v": [1], "device_id": ID, "client_nonce": KEY, "features": ["x"], "heartbeat_s": 30, "heads_only": False,
    },
    m.Auth: {"signature": SIGNATURE},
    m.RequestCode: {
        "request": 7, "address": "anna@example.org", "device_pk": KEY, "app_id": "org.example.notes",
        "purpose": "confirm", "attempt_id": ID, "invite": "token",
    },
    m.Enrol: {
        "request": 7, "attempt_id": ID, "code": "12345678", "device_pk": KEY, "signature": SIGNATURE, "scope": "app",
    },
    m.Confirm: {"request": 7, "attempt_id": ID, "code": "12345678"},
    m.OpenPairing: {"request": 7, "channel": ID},
    m.Pairing: {"request": 7, "channel": ID, "body": b"b"},
    m.Vouch: {"request": 7, "device_id": ID, "device_pk": KEY},
    m.CreateSpace: {"request": 7, "space_id": ID, "app_id": "a", "space_pk": KEY, "signature": SIGNATURE},
    m.Enter: {"request": 7, "spaces": [{"space_id": ID, "key_epoch": 0, "signature": SIGNATURE}]},
    m.Collections: {"request": 7, "space_id": ID},
    m.Subscribe: {
        "request": 7, "space_id": ID,
        "cursors": [{"collection_id": ID, "incarnation": ID, "seq": 0, "live_only": True}],
    },
    m.Unsubscribe: {"request": 7, "space_id": ID, "collection_ids": [ID]},
    m.Append: {"request": 7, "space_id": ID, "drafts": [b"d"], "atomic": True},
    m.Witness: {"request": 7, "space_id": ID, "collection_id": ID, "witness": b"w"},
    m.ReadHistory: {"request": 7, "space_id": ID, "collection_id": ID, "record_id": ID, "before": 3, "limit": 5},
    m.Signal: {"request": 7, "space_id": ID, "body": b"b", "to": ID, "device_id": ID},
    m.ListDevices: {"request": 7},
    m.RevokeDevices: {"request": 7, "device_ids": [ID]},
    m.ApproveDevice: {"request": 7, "device_id": ID},
    m.ChangeAddress: {"request": 7, "attempt_id": ID, "code": "12345678"},
    m.ListSpaces: {"request": 7},
    m.ListAudit: {"request": 7, "before": 3, "limit": 5},
    m.Export: {"request": 7, "space_id": ID, "cursor": b"c"},
    m.DeleteSpace: {"request": 7, "space_id": ID, "later": True},
    m.DeleteAccount: {"request": 7},
    m.CancelDeletion: {"request": 7, "space_id": ID},
    m.OperatorCode: {"request": 7, "code": "123456"},
    m.Operate: {"request": 7, "verb": "stats", "arguments": {"a": 1}},
    m.Ping: {"heads": [[ID, ID, 3]]},
    m.Pong: {"heads": [[ID, ID, 3]]},
}  # fmt: skip


class Bad(NamedTuple):
    what: str
    message: dict[str, Any]


def tag(cls: type[m.Message]) -> str:
    return str(cls.__struct_config__.tag)


def whole(cls: type[m.Message]) -> dict[str, Any]:
    return {"type": tag(cls), **GOOD[cls]}


def spoilt(cls: type[m.Message]) -> Iterator[Bad]:
    """The message with one field spoilt, in every way."""
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in msgspec.structs.fields(cls):
        name, good = field.name, GOOD[cls][field.name]
        if field.required:
            yield Bad(f"{name} missing", {key: value for key, value in whole(cls).items() if key != name})
        for wrong in _wrong_types(good):
            yield Bad(f"{name} is {type(wrong).__name__}", whole(cls) | {name: wrong})
        for out in _out_of_bounds(hints[name], good):
            yield Bad(f"{name} out of bounds", whole(cls) | {name: out})


def _wrong_types(good: object) -> list[object]:
    every: list[object] = [1.5, "text", b"bytes" * 5, [1], {"a": 1}, True, -1, 2**64 - 1]
    alike: tuple[type, ...] = (type(good),)
    # A whole number fits nowhere else, -1 and 2**64-1 fit no number of ours; a bool is no int.
    return [wrong for wrong in every if type(wrong) not in alike or (type(good) is int and wrong in (-1, 2**64 - 1))]


def _out_of_bounds(hint: object, good: object) -> Iterator[object]:
    for meta in _metas(hint):
        if isinstance(good, bytes | str) and meta.max_length is not None:
            yield type(good)() + (good[:1] or good[0:1]) * (meta.max_length + 1)
        if isinstance(good, bytes | str | list) and meta.min_length:
            yield good[: meta.min_length - 1] if not isinstance(good, list) else []
        if isinstance(good, list) and meta.max_length is not None:
            yield good[:1] * (meta.max_length + 1)
        if isinstance(good, int) and not isinstance(good, bool):
            most = meta.le if meta.le is not None else int(meta.lt or 0) - 1
            yield int(most) + 1
            yield int(meta.ge or 0) - 1


def _metas(hint: object) -> list[msgspec.Meta]:
    if typing.get_origin(hint) is typing.Annotated:
        inner, *metas = typing.get_args(hint)
        return [*metas, *_metas(inner)]
    if type(None) in typing.get_args(hint):
        return _metas(typing.get_args(hint)[0])
    return []


EVERY = [(cls, bad) for cls in GOOD for bad in spoilt(cls)]
NAMES = [f"{tag(cls)}: {bad.what}" for cls, bad in EVERY]


def test_the_examples_name_every_message_of_a_device() -> None:
    assert {tag(cls) for cls in GOOD} == {tag(cls) for cls in typing.get_args(m.FromDevice)}
    for cls in GOOD:
        assert isinstance(decode_from_device(msgspec.msgpack.encode(whole(cls))), cls)
        assert set(GOOD[cls]) == {field.name for field in msgspec.structs.fields(cls)}


def test_each_spoilt_message_is_found_bad_by_the_decoder() -> None:
    assert len(EVERY) > 500
    for cls, bad in EVERY:
        with pytest.raises(BadMessage) as found:
            decode_from_device(msgspec.msgpack.encode(bad.message))
        request = bad.message.get("request")
        readable = isinstance(request, int) and not isinstance(request, bool) and 0 <= request < 2**53
        assert found.value.request == (request if readable else None), (tag(cls), bad.what)


async def test_a_ready_session_refuses_each_spoilt_message_and_lives() -> None:
    rig = await Rig(await person(), PATIENT).enter()
    for cls, bad in EVERY:
        answers = await rig.say(msgspec.msgpack.encode(bad.message))
        assert rig.closed is None, (tag(cls), bad.what)
        (answer,) = answers
        assert isinstance(answer, m.Refused) and answer.code == "bad_request", (tag(cls), bad.what, answer)
    assert isinstance((await rig.say(m.ListDevices(1)))[0], m.Done)


@pytest.mark.parametrize("stage", ["new", "greeted"])
async def test_before_auth_each_spoilt_message_closes_the_connection(stage: str) -> None:
    someone = await person()
    for cls, bad in EVERY:
        rig = Rig(someone)
        if stage == "greeted":
            await rig.greet()
        await rig.say(msgspec.msgpack.encode(bad.message))
        assert rig.closed and rig.closed.name == "malformed", (tag(cls), bad.what)


@pytest.mark.parametrize("cls", GOOD, ids=tag)
async def test_out_of_turn_messages_get_what_the_protocol_says(cls: type[m.Message]) -> None:
    someone = await person()
    frame = msgspec.msgpack.encode(whole(cls))
    first = Rig(someone)
    await first.say(frame)
    assert (first.closed is None) is (cls is m.Hello)
    greeted = Rig(someone)
    await greeted.greet()
    await greeted.say(frame)
    may_come = dict.fromkeys((m.Enrol, m.OpenPairing, m.Pairing))
    expected = {m.Auth: "auth_failed", **may_come}.get(cls, "malformed")
    assert (greeted.closed.name if greeted.closed else None) == expected
    ready = await Rig(someone, PATIENT).ready()
    answers = await ready.say(frame)
    assert ready.closed is None
    if cls in (m.Hello, m.Auth, m.Enrol):
        assert isinstance(answers[0], m.Refused) and answers[0].code == "out_of_turn"
    else:
        assert all(not isinstance(a, m.Refused) or a.code in REFUSALS for a in answers)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc0",
        b"\x01",
        b"\x80",
        b"\x90",
        b"\x81\xa4type\x01",
        b"\x81\xa4type",
        b"\xc1",
        b"\xff" * 50,
        b"\x81\xa4type\xa1\xff",
    ],
)
async def test_what_is_no_message_closes_the_connection(frame: bytes) -> None:
    with pytest.raises(NotAMessage):
        decode_from_device(frame)
    rig = await Rig(await person()).ready()
    await rig.say(frame)
    assert rig.closed and rig.closed.code == CLOSINGS["malformed"].code


def test_deep_nesting_does_not_exhaust_the_decoder() -> None:
    bomb = b"\x82\xa4type\xa4ping\xa5later" + b"\x91" * 100_000 + b"\xc0"
    with pytest.raises((NotAMessage, BadMessage)):
        decode_from_device(bomb)


def test_a_message_of_the_hub_is_unknown_when_a_device_sends_it() -> None:
    with pytest.raises(UnknownMessage):
        decode_from_device(msgspec.msgpack.encode({"type": "ready", "request": 3}))
    with pytest.raises(UnknownMessage):
        decode_from_hub(msgspec.msgpack.encode({"type": "append", "request": 3}))
