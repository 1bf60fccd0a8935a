"""docs/protocol.md says what the code does: tables, codes and frames."""

from __future__ import annotations

import ast
import hashlib
import re
from pathlib import Path

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


# --- what points here ------------------------------------------------------------------------

ROOT = DOCUMENT.parent.parent
SOURCES = [*sorted((ROOT / "hub").rglob("*.py")), *sorted((ROOT / "clients/js/src").rglob("*.js"))]


def test_every_section_that_the_code_cites_is_there() -> None:
    headings = {heading.strip("`") for heading in re.findall(r"^#+ (.*)$", TEXT, re.M)}
    cited = {
        (path.name, title)
        for path in SOURCES
        for citation in re.findall(r'docs/protocol\.md\W+((?:"[^"]+"(?: and )?)+)', _on_one_line(path))
        for title in re.findall(r'"([^"]+)"', citation)
    }
    assert len(cited) > 20
    assert {(name, title) for name, title in cited if title not in headings} == set()


def _on_one_line(path: Path) -> str:
    """The text of a module, its comments without the marks at the beginning of their lines."""
    return re.sub(r"\s*\n\s*(?:\*(?!/)|#|//)?\s*", " ", path.read_text("utf-8"))


def test_the_words_of_an_account_notice_are_those_that_the_hub_says() -> None:
    section = TEXT.split("### `account_notice`\n")[1].split("\n### ")[0]
    documented = re.findall(r"^\| `([a-z_]+)` \| (?:`[a-z_]+`|–) \| ", section, re.M)
    assert len(documented) == len(set(documented)) >= 9
    tellers = ["accounts", "rights", "operating"]
    told = [_words_told(ast.parse((ROOT / f"hub/{room}.py").read_text("utf-8"))) for room in tellers]
    assert set(documented) == set().union(*told)


def _words_told(tree: ast.AST) -> set[str]:
    """What the calls of ``tell`` say happened, by its name or by a variable that holds one; and bare notices."""
    told: set[str] = set()
    for function in ast.walk(tree):
        if isinstance(function, ast.AsyncFunctionDef | ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "tell":
                    told |= _strings(node.args[1]) or _assigned(function, ast.unparse(node.args[1]))
                elif isinstance(node, ast.Call) and ast.unparse(node.func) == "AccountChanged":
                    told |= _strings(node.args[0])
    return told


def _assigned(function: ast.AST, name: str) -> set[str]:
    values = (node.value for node in ast.walk(function) if isinstance(node, ast.Assign) and _targets(node) == [name])
    return {text for value in values for text in _strings(value)}


def _targets(node: ast.Assign) -> list[str]:
    return [ast.unparse(target) for target in node.targets]


def _strings(node: ast.AST) -> set[str]:
    return {one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)}
