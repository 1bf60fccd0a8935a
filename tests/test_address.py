"""Addresses: one form for each, refused rather than guessed; and the tag kept instead of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.address import normalise, normalise_domain, slow_hash, tag_of, without_tag_and_dots, wrap
from hub.errors import Refusal

# vectors/crypto.json, "email"
PEPPERS = (bytes.fromhex("01" * 32), bytes.fromhex("02" * 32))
TAG_V1 = bytes.fromhex("2e6e3321a0112faef337cd687bec04273122ebb4d20028fa06528ef299219e0c")
TAG_V2 = bytes.fromhex("2ae2e7990fcd06c661da723058d2597c0f7514ee2e895a50ba5c8aaf0162e267")

LONG_DOMAIN = ".".join(["d" * 61] * 3)  # 185 characters


@pytest.mark.parametrize(
    ("typed", "normal"),
    [
        ("anna@example.org", "anna@example.org"),
        ("  anna@example.org ", "anna@example.org"),
        ("Anna@EXAMPLE.Org", "anna@example.org"),
        ("a.n.n.a+hub@example.org", "a.n.n.a+hub@example.org"),  # dots and tags are identity
        ("o'hara_{x}|~@sub.example.co", "o'hara_{x}|~@sub.example.co"),
        ("anna@bücher.example", "anna@xn--bcher-kva.example"),
        ("anna@BÜCHER.example", "anna@xn--bcher-kva.example"),
        ("anna@XN--BCHER-KVA.example", "anna@xn--bcher-kva.example"),
        ("anna@пример.example", "anna@xn--e1afmkfd.example"),
        ("1@2.example", "1@2.example"),
        (f"{'l' * 64}@example.org", f"{'l' * 64}@example.org"),
        (f"{'l' * 64}@{LONG_DOMAIN}.ex", f"{'l' * 64}@{LONG_DOMAIN}.ex"),  # 253 in all
        (f"{'l' * 64}@{LONG_DOMAIN}.exa", f"{'l' * 64}@{LONG_DOMAIN}.exa"),  # 254 in all
    ],
)
def test_an_address_has_one_form(typed, normal):
    assert normalise(typed) == normal
    assert normalise(normal) == normal


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "@",
        "anna",
        "anna@",
        "@example.org",
        "ann\u0131@example.org",  # dotless i
        "an\u212a@example.org",  # Kelvin sign
        "anna@\u212aelvin.example",
        "anna\uff20example.org",  # full-width @
        "anna@\uff45xample.org",  # full-width e
        "anna@example\u3002org",  # ideographic full stop
        "anna@exa\u0301mple.org",  # a letter in two code points
        "anna@fa\u00df.example",  # another domain in IDNA 2003 than in IDNA 2008
        "anna@FA\u1e9e.example",  # and its capital
        "anna@\u03bb\u03cc\u03b3\u03bf\u03c2.example",  # a final sigma, likewise
        "anna@ex\u200dample.org",
        "anna@ex\u200bample.org",
        "anna@\u2488.example",  # "1." as one character
        "anna@ex\u00adample.org",
        "anna@example.org\r\nBcc: eve@example.org",
        "anna@example.org\n",
        "\tanna@example.org",
        "anna\x00@example.org",
        "anna@example.org,eve@example.org",
        "anna@example.org;eve@example.org",
        "anna@example.org eve@example.org",
        "anna@eve@example.org",
        "Anna <anna@example.org>",
        "<anna@example.org>",
        '"anna"@example.org',
        "anna(x)@example.org",
        "an na@example.org",
        "anna @example.org",
        "anna@ example.org",
        ".anna@example.org",
        "anna.@example.org",
        "an..na@example.org",
        "anna@localhost",
        "anna@.example.org",
        "anna@example..org",
        "anna@example.org.",
        "anna@-example.org",
        "anna@example-.org",
        "anna@exam_ple.org",
        "anna@127.0.0.1",
        "anna@[127.0.0.1]",
        "anna@example.123",
        f"{'l' * 65}@example.org",
        f"anna@{'d' * 64}.org",
        f"{'l' * 64}@{LONG_DOMAIN}.exam",  # 255 in all
        "mailto:anna@example.org",
        "ünna@example.org",
    ],
)
def test_what_is_not_surely_one_address_is_refused(typed):
    with pytest.raises(Refusal) as caught:
        normalise(typed)
    assert caught.value.code == "bad_address"


@given(st.text(max_size=80) | st.emails())
def test_whatever_is_typed_the_answer_is_a_plain_ascii_address_or_a_refusal(typed):
    try:
        address = normalise(typed)
    except Refusal as refusal:
        assert refusal.code == "bad_address"
        return
    assert address.isascii() and address.isprintable() and address == address.lower() and address.count("@") == 1
    assert not set(address) & set(' <>,;:"()[]\\') and len(address) <= 254
    assert normalise(address) == address


def test_a_domain_alone_has_the_same_form():
    assert normalise_domain("Bücher.Example") == "xn--bcher-kva.example"
    with pytest.raises(Refusal):
        normalise_domain("anna@example.org")


@pytest.mark.parametrize(
    "address", ["anna.b@example.org", "an.na.b+x@example.org", "annab+a+b@example.org", "annab@example.org"]
)
def test_for_counting_dots_and_tags_are_no_difference(address):
    assert without_tag_and_dots(address) == "annab@example.org"


def test_the_domain_keeps_its_dots():
    assert without_tag_and_dots("a.b@c.d.example") == "ab@c.d.example"


def test_tags_are_the_published_vectors_and_wrapping_one_gives_the_next():
    hashed = slow_hash("anna@example.org", bytes(16))
    assert tag_of(hashed, PEPPERS[:1]) == TAG_V1
    assert tag_of(hashed, PEPPERS) == TAG_V2
    assert wrap(TAG_V1, PEPPERS[1]) == TAG_V2


def test_another_salt_is_another_hash():
    assert slow_hash("anna@example.org", bytes(16)) != slow_hash("anna@example.org", b"1" * 16)
