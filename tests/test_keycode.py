"""Key codes: what is read, what is forgiven, and what is refused with which sentence."""

from __future__ import annotations

from contextlib import suppress

import pytest
import segno
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.client.keycode import (
    CODE_CHARS,
    WrongKeyCode,
    key_code,
    parse_key_code,
    printable,
    qr_text,
    terminal_qr,
)
from tests.test_vectors import vectors

VECTORS = vectors("crypto")["key_code"]
KEY = bytes(range(32))
CODE = key_code(KEY, 0)
LETTERS = "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L"
PLACES = range(len("HUBKEY1"), CODE_CHARS)


def test_the_code_is_the_published_one() -> None:
    second = VECTORS["second"]
    assert VECTORS["code"] == CODE and len(CODE) == CODE_CHARS
    assert key_code(bytes.fromhex(second["app_key"]), second["key_epoch"]) == second["code"]


@settings(max_examples=50, deadline=None)
@given(app_key=st.binary(min_size=32, max_size=32), key_epoch=st.integers(0, 2**32 - 1))
def test_every_key_comes_back(app_key: bytes, key_epoch: int) -> None:
    assert parse_key_code(key_code(app_key, key_epoch)) == (app_key, key_epoch)


@pytest.mark.parametrize("text", VECTORS["tolerated"])
def test_spaces_dashes_line_breaks_case_and_a_host_are_forgiven(text: str) -> None:
    assert parse_key_code(text) == (KEY, 0)


@pytest.mark.parametrize("name", VECTORS["wrong"])
def test_wrong_codes_are_refused_with_a_sentence(name: str) -> None:
    with pytest.raises(WrongKeyCode) as refused:
        parse_key_code(VECTORS["wrong"][name])
    assert str(refused.value).endswith(".")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty", "no key code"),
        ("something else", "begins with HUBKEY1"),
        ("a pairing code", "begins with HUBKEY1"),
        ("a letter that does not occur", "'B'"),
        ("a digit 1 inside", "Character 21 "),
        ("the last character missing", "too few characters: 73"),
        ("one character too many", "too many characters: 75"),
        ("one character changed", "A character of the key code is wrong"),
        ("two neighbours swapped", "A character of the key code is wrong"),
        ("bech32 instead of bech32m", "A character of the key code is wrong"),
        ("version 2", "newer app"),
        ("type 1", "newer app"),
        ("bits after the payload", "not in the form"),
    ],
)
def test_the_sentence_names_the_fault(name: str, words: str) -> None:
    with pytest.raises(WrongKeyCode, match=words):
        parse_key_code(VECTORS["wrong"][name])


def test_every_single_wrong_character_is_found() -> None:
    for place in PLACES:
        for letter in LETTERS.replace(CODE[place], ""):
            with pytest.raises(WrongKeyCode):
                parse_key_code(CODE[:place] + letter + CODE[place + 1 :])


def test_every_swap_of_neighbours_is_found() -> None:
    for place in PLACES[:-1]:
        one, other = CODE[place], CODE[place + 1]
        if one != other:
            with pytest.raises(WrongKeyCode):
                parse_key_code(CODE[:place] + other + one + CODE[place + 2 :])


@settings(max_examples=300, deadline=None)
@given(
    text=st.one_of(st.text(), st.text(alphabet=LETTERS + "1/ -").map("HUBKEY1".__add__), st.text().map(CODE.__add__))
)
def test_any_text_is_read_or_refused_and_nothing_else_happens(text: str) -> None:
    with suppress(WrongKeyCode):
        assert parse_key_code(text) == (KEY, 0)


def test_the_printed_form_is_in_groups_of_five() -> None:
    assert printable(CODE) == VECTORS["printable"]
    assert {len(group) for group in printable(CODE).split()[:-1]} == {5}


@pytest.mark.parametrize(
    ("hub_url", "host"),
    [
        ("wss://hub.example.org", "HUB.EXAMPLE.ORG"),
        ("https://hub.example.org:8443/v1/ws", "HUB.EXAMPLE.ORG:8443"),
        ("http://127.0.0.1:8080", "127.0.0.1:8080"),
    ],
)
def test_the_qr_text_tells_key_and_hub(hub_url: str, host: str) -> None:
    assert qr_text(CODE, hub_url) == f"{CODE}/{host}"
    assert parse_key_code(qr_text(CODE, hub_url)) == (KEY, 0)


def test_the_qr_text_fits_a_small_alphanumeric_code() -> None:
    made = segno.make(qr_text(CODE, "wss://hub.example.org"), error="m", micro=False)
    assert (made.mode, made.version) == ("alphanumeric", 4)


def test_the_terminal_code_is_the_qr_code_in_half_blocks() -> None:
    text = qr_text(CODE, "wss://hub.example.org")
    shown = terminal_qr(text).rstrip("\n").split("\n")
    dark = [[bool(cell) for cell in row] for row in segno.make(text, error="m", micro=False).matrix_iter(border=4)]
    halves = {"█": (False, False), "▀": (False, True), "▄": (True, False), " ": (True, True)}
    for index, line in enumerate(shown[: len(dark) // 2]):
        assert [halves[char] for char in line] == list(zip(dark[2 * index], dark[2 * index + 1], strict=True))
