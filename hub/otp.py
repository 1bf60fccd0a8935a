"""One-time codes and their match phrase, without I/O.

A code is derived, never kept: HOTP (RFC 4226, with SHA-256) at counter 0 under a
secret made from the hub's otp key, the attempt, the address tag and the device
key.  So any replica can check it, and a copy of the database holds no code and
nothing a code could be guessed from.  docs/protocol.md "Codes".
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

import pyotp

from hub.signing import LABEL, lp

DIGITS = 8  # 26.6 bits; HOTP truncates to 31 bits, so more digits would be biased

_CODE = re.compile(r"[0-9]{8}", re.ASCII)


def attempt_secret(otp_key: bytes, attempt_id: bytes, address_tag: bytes, device_pk: bytes) -> bytes:
    """The 32 bytes that only this hub, for this attempt, address and device key, can make."""
    return hmac.digest(otp_key, LABEL + b"otp\0" + lp(attempt_id, address_tag, device_pk), "sha256")


def code_of(secret: bytes) -> str:
    """The 8 digits of an attempt's secret."""
    return pyotp.HOTP(base64.b32encode(secret).decode().rstrip("="), digits=DIGITS, digest=hashlib.sha256).at(0)


def phrase_of(secret: bytes) -> str:
    """Two words, shown on the asking device and in the mail: they tell a person that the mail is the device's."""
    first, second = hmac.digest(secret, LABEL + b"phrase", "sha256")[:2]
    return f"{_FIRST.split()[first % 64]} {_SECOND.split()[second % 64]}"


def tidy(typed: str) -> str:
    """``typed`` without the spaces and hyphens people put between digits; empty when that is not 8 ASCII digits.

    Other digits (full-width, Arabic) are refused here: pyotp would fold them.
    """
    digits = typed.replace(" ", "").replace("-", "")
    return digits if _CODE.fullmatch(digits) else ""


def matches(secret: bytes, typed: str) -> bool:
    """Whether ``typed`` is the code of this secret; the time taken does not tell how much of it is right."""
    return hmac.compare_digest(code_of(secret).encode(), tidy(typed).encode())


# 64 words each, so that a byte picks them evenly; short, friendly, hard to mistake for one another.
_FIRST = (
    "amber apple autumn birch blue brave bright calm cedar clear cloud copper coral crisp dawn desert "
    "early ember fern forest frost garden gentle golden green happy harbor hazel honey island ivory jade "
    "kind lemon light lilac lucky lunar maple meadow mellow misty mossy night noble ocean olive orange "
    "pearl pine plum polar quiet rapid river rosy ruby silver snowy spring sunny velvet violet winter"
)
_SECOND = (
    "badger bear beaver bison camel canary cat cobra condor crab crane cricket deer dolphin donkey dove "
    "duck eagle falcon ferret finch fox frog gecko giraffe goat goose hamster hare hawk hedgehog heron "
    "horse jaguar kiwi koala lark lemur lion lizard llama lynx magpie mole moose newt otter owl "
    "panda parrot penguin pony puffin rabbit raven robin salmon seal sparrow squirrel swan tiger turtle zebra"
)
