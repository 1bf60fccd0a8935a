"""One-time codes: derived the same everywhere, bound to everything, and strict about what is typed."""

from __future__ import annotations

import hashlib

import pyotp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.otp import attempt_secret, code_of, matches, phrase_of, tidy

# vectors/crypto.json, "otp", "email" and "auth"
OTP_KEY = bytes.fromhex("03" * 32)
ATTEMPT_ID = bytes.fromhex("a1" * 16)
TAG = bytes.fromhex("2e6e3321a0112faef337cd687bec04273122ebb4d20028fa06528ef299219e0c")
DEVICE_PK = bytes.fromhex("29acbae141bccaf0b22e1a94d34d0bc7361e526d0bfe12c89794bc9322966dd7")
SECRET = attempt_secret(OTP_KEY, ATTEMPT_ID, TAG, DEVICE_PK)


def test_the_code_is_the_published_vector():
    assert code_of(SECRET) == "41239346"


def test_the_library_counts_as_rfc_4226_says():
    hotp = pyotp.HOTP("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ", digits=6, digest=hashlib.sha1)  # appendix D
    assert [hotp.at(n) for n in range(3)] == ["755224", "287082", "359152"]


@pytest.mark.parametrize("changed", range(4))
def test_another_key_attempt_address_or_device_has_another_code(changed):
    parts = [OTP_KEY, ATTEMPT_ID, TAG, DEVICE_PK]
    parts[changed] = bytes([parts[changed][0] ^ 1]) + parts[changed][1:]
    assert code_of(attempt_secret(*parts)) != code_of(SECRET)


def test_bytes_cannot_move_from_one_part_to_the_next():
    assert attempt_secret(OTP_KEY, b"ab", b"c", DEVICE_PK) != attempt_secret(OTP_KEY, b"a", b"bc", DEVICE_PK)


@pytest.mark.parametrize("typed", ["41239346", "4123 9346", "4123-9346", " 41 23 93 46 ", "4123 - 9346"])
def test_spaces_and_hyphens_are_no_matter(typed):
    assert tidy(typed) == "41239346"
    assert matches(SECRET, typed)


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "4123934",
        "412393460",
        "41239347",
        "4123934a",
        "\uff14\uff11\uff12\uff13\uff19\uff13\uff14\uff16",  # full-width digits
        "\u0664\u0661\u0662\u0663\u0669\u0663\u0664\u0666",  # Arabic digits
        "41239346\n",
        "\t41239346",
        "4123\u00a09346",
        "+41239346",
    ],
)
def test_anything_but_the_eight_ascii_digits_is_refused(typed):
    assert not matches(SECRET, typed)


@given(st.text(max_size=40))
def test_only_eight_ascii_digits_come_out_of_tidy(typed):
    tidied = tidy(typed)
    assert tidied == "" or (len(tidied) == 8 and tidied.isascii() and tidied.isdigit())


def test_the_phrase_is_two_words_and_belongs_to_the_attempt():
    other = attempt_secret(OTP_KEY, bytes(16), TAG, DEVICE_PK)
    assert phrase_of(SECRET) == phrase_of(SECRET)
    assert phrase_of(SECRET) != phrase_of(other)
    phrases = {phrase_of(hashlib.sha256(bytes([n % 256, n // 256])).digest()) for n in range(3_000)}
    assert all(len(phrase.split()) == 2 for phrase in phrases)
    assert len({phrase.split()[0] for phrase in phrases}) == len({phrase.split()[1] for phrase in phrases}) == 64


def test_the_phrase_does_not_tell_the_code():
    assert not any(part.isdigit() for part in phrase_of(SECRET))
