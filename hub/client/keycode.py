"""The app key as text and as a QR code, without I/O.

A key code is what a person prints, keeps, types and scans: ``HUBKEY1`` and 67
letters, bech32m (BIP-350) over ``u8 version ‖ u8 type ‖ u32 key_epoch ‖ app_key(32)``.
Its checksum finds every mistyped letter and every swap of neighbours; reading
forgives spaces, dashes, line breaks and lower case, and says in a sentence what
is wrong.  docs/protocol.md "Key code".
"""

from __future__ import annotations

import io
import struct
from urllib.parse import urlsplit

import segno

from hub.client.keys import APP_KEY_BYTES, KEY_EPOCH_MAX

GROUP_CHARS = 5

_PAYLOAD = struct.Struct(f">BBI{APP_KEY_BYTES}s")
_VERSION = 1
_APP_KEY = 0  # the only type so far
_LETTERS = "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L"
_VALUES = {letter: value for value, letter in enumerate(_LETTERS)}
_CHECKSUM_LETTERS = 6
_BECH32M = 0x2BC830A3
_GENERATORS = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
# What people and printers put between groups: blanks of all kinds, hyphens, dashes, the minus sign.
_BETWEEN_GROUPS = dict.fromkeys(map(ord, "-\u00ad\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u200b\ufeff"))


class WrongKeyCode(ValueError):
    """The text is no code of the kind asked for; the message is a sentence for the person who typed it."""


class CodeKind:
    """One kind of code: how it begins, what people call it, and how many bytes it carries."""

    def __init__(self, prefix: str, name: str, payload_bytes: int) -> None:
        self.prefix = prefix
        self.name = name
        self.chars = len(prefix) + 1 - (-8 * payload_bytes // 5) + _CHECKSUM_LETTERS
        self._payload_bytes = payload_bytes

    def write(self, payload: bytes) -> str:
        """The code, upper case, that ``read`` reads back."""
        assert len(payload) == self._payload_bytes
        values = _to_fives(payload)
        checksum = _polymod(self._expanded_prefix() + values + [0] * _CHECKSUM_LETTERS) ^ _BECH32M
        values += [checksum >> 5 * place & 31 for place in reversed(range(_CHECKSUM_LETTERS))]
        return self.prefix + "1" + "".join(_LETTERS[value] for value in values)

    def read(self, text: str) -> bytes:
        """The payload; a ``/HOST`` behind the code is left out.  Raises ``WrongKeyCode``."""
        values = self._checked_values(self._tidy(text))[:-_CHECKSUM_LETTERS]
        number = 0
        for value in values:
            number = number << 5 | value
        filled = 5 * len(values) - 8 * self._payload_bytes
        if number & ((1 << filled) - 1):
            raise WrongKeyCode(
                f"The {self.name} is not in the form that apps write; please compare it with the original."
            )
        return (number >> filled).to_bytes(self._payload_bytes, "big")

    def _tidy(self, text: str) -> str:
        code = "".join(text.partition("/")[0].translate(_BETWEEN_GROUPS).split()).upper()
        if not code:
            raise WrongKeyCode(f"There is no {self.name} here.")
        if not code.startswith(self.prefix + "1"):
            raise WrongKeyCode(f"A {self.name} begins with {self.prefix}1; this is something else.")
        return code

    def _checked_values(self, code: str) -> list[int]:
        letters = code[len(self.prefix) + 1 :]
        for place, letter in enumerate(letters, start=len(self.prefix) + 2):
            if letter not in _VALUES:
                raise WrongKeyCode(
                    f"Character {place} of the {self.name} is {letter!r}, which no {self.name} contains."
                )
        if len(code) != self.chars:
            many = "few" if len(code) < self.chars else "many"
            raise WrongKeyCode(f"The {self.name} has too {many} characters: {len(code)} instead of {self.chars}.")
        values = [_VALUES[letter] for letter in letters]
        if _polymod(self._expanded_prefix() + values) != _BECH32M:
            raise WrongKeyCode(f"A character of the {self.name} is wrong; please compare it with the original.")
        return values

    def _expanded_prefix(self) -> list[int]:
        prefix = self.prefix.lower().encode()
        return [byte >> 5 for byte in prefix] + [0] + [byte & 31 for byte in prefix]


KEY_CODE = CodeKind("HUBKEY", "key code", _PAYLOAD.size)
PREFIX, CODE_CHARS = KEY_CODE.prefix, KEY_CODE.chars


def key_code(app_key: bytes, key_epoch: int) -> str:
    """The 74 characters, upper case, that ``parse_key_code`` reads back."""
    assert len(app_key) == APP_KEY_BYTES and 0 <= key_epoch <= KEY_EPOCH_MAX
    return KEY_CODE.write(_PAYLOAD.pack(_VERSION, _APP_KEY, key_epoch, app_key))


def parse_key_code(text: str) -> tuple[bytes, int]:
    """The app key and its key_epoch; a ``/HOST`` behind the code is left out.  Raises ``WrongKeyCode``."""
    version, kind, key_epoch, app_key = _PAYLOAD.unpack(KEY_CODE.read(text))
    if (version, kind) != (_VERSION, _APP_KEY):
        raise WrongKeyCode("This key code was made by a newer app; please update this one.")
    return app_key, key_epoch


def printable(code: str) -> str:
    """The code in groups of five, as it is printed and read aloud."""
    return " ".join(code[start : start + GROUP_CHARS] for start in range(0, len(code), GROUP_CHARS))


def qr_text(code: str, hub_url: str) -> str:
    """``CODE/HOST``: what a QR code carries, so that one scan tells the key and where the hub is.

    All upper case: then the QR is in alphanumeric mode, which is smaller and which
    scanners do not mangle.  HOST has its port when ``hub_url`` has one.
    """
    return f"{code}/{urlsplit(hub_url).netloc.rpartition('@')[2]}".upper()


def terminal_qr(text: str) -> str:
    """The QR code of ``text`` in half blocks, for a terminal with light text on dark ground."""
    out = io.StringIO()
    segno.make(text, error="m", micro=False).terminal(out=out, compact=True)
    return out.getvalue()


def _polymod(values: list[int]) -> int:
    """The checksum of BIP-173, whose last constant BIP-350 replaced."""
    state = 1
    for value in values:
        top = state >> 25
        state = (state & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATORS):
            if top >> bit & 1:
                state ^= generator
    return state


def _to_fives(payload: bytes) -> list[int]:
    bits = 8 * len(payload)
    filled = -bits % 5
    number = int.from_bytes(payload, "big") << filled
    return [number >> shift & 31 for shift in range(bits + filled - 5, -1, -5)]
