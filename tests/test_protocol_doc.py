"""docs/protocol.md says what the code does: tables, codes and frames."""

from __future__ import annotations

import hashlib

from nacl.signing import VerifyKey

from hub.signing import lp
from hub.wire.codec import decode_from_device, decode_from_hub, message_classes
from hub.wire.messages import Append, Auth, Challenge, Changes, Enter, FromDevice, FromHub, Hello
from tests.protocol_doc import DOCUMENT, filled, frames_in, meaning

TEXT = DOCUMENT.read_text("utf-8")


def test_the_tables_are_those_of_the_code() -> None:
    assert filled(TEXT) == TEXT, "run: python -m tests.protocol_doc"


def test_every_message_has_its_heading_and_table() -> None:
    missing = [
        name for name in message_classes() if f"### `{name}`" not in TEXT or f"<!-- fields: {name} -->" not in TEXT
    ]
    assert not missing


def test_every_frame_decodes_to_what_is_said_of_it() -> None:
    frames = frames_in(TEXT)
    assert len(frames) >= 12
    for from_device, stated, frame in frames:
        assert meaning(from_device, frame) == stated


def test_the_frames_of_the_walk_are_a_real_handshake() -> None:
    frames = frames_in(TEXT)
    messages: list[FromDevice | FromHub] = [
        decode_from_device(frame) if from_device else decode_from_hub(frame) for from_device, _, frame in frames
    ]
    by_type = {type(message): (message, frame) for message, (_, _, frame) in zip(messages, frames, strict=True)}
    hello, challenge = by_type[Hello][1], by_type[Challenge][1]
    auth, enter = by_type[Auth][0], by_type[Enter][0]
    assert isinstance(auth, Auth) and isinstance(enter, Enter)
    url = b"wss://hub.example.org/v1/ws"
    # Checked from the document's own words, with no help of hub.signing's compositions but lp.
    for purpose, public_key, signature, last in (
        (b"auth", _public_key("device"), auth.signature, challenge),
        (b"space", _public_key("space"), enter.spaces[0].signature, challenge + enter.spaces[0].space_id),
    ):
        digest = hashlib.sha256(b"hub/v1/" + purpose + b"\0" + lp(url, hello, last)).digest()
        VerifyKey(public_key).verify(b"hub/v1/" + purpose + b"-sig\0" + digest, signature)


def test_the_change_that_comes_out_is_the_draft_that_went_in() -> None:
    frames = frames_in(TEXT)
    drafts = [d for a, _, f in frames if a and isinstance((m := decode_from_device(f)), Append) for d in m.drafts]
    changes = [c for a, _, f in frames if not a and isinstance((m := decode_from_hub(f)), Changes) for c in m.changes]
    assert drafts and [change.sealed for change in changes] == drafts


def _public_key(whose: str) -> bytes:
    marker = f"{whose} public key `"
    return bytes.fromhex(TEXT.split(marker)[1].split("`")[0])
