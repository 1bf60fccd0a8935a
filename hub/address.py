"""E-mail addresses: the one form the hub works with, and the tag it keeps instead of them, without I/O.

An address is normalised once, at the door; codes go to the normalised form, never
to what was typed, so two people can never be mistaken for one another by a
look-alike letter.  What is kept is ``HMAC(pepper, Argon2id(address))``: without
the pepper nobody can test a guess, and with it each guess is slow.
docs/protocol.md "Addresses".
"""

from __future__ import annotations

import hmac
import re
import unicodedata
from collections.abc import Sequence

from nacl.pwhash import argon2id

from hub.errors import Refusal
from hub.signing import LABEL

ADDRESS_CHARS_MAX = 254  # RFC 5321 4.5.3.1.3, without the angle brackets
LOCAL_CHARS_MAX = 64  # RFC 5321 4.5.3.1.1
DOMAIN_CHARS_MAX = 253

# OWASP's least Argon2id setting: one look-up a sign-in, some 35 ms of one core.
ARGON2_PASSES = 2
ARGON2_BYTES = 19 * 1_048_576
TAG_BYTES = 32

_ATOM = r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+"  # RFC 5322 3.2.3 atext, after lower-casing
_LOCAL = re.compile(rf"{_ATOM}(?:\.{_ATOM})*", re.ASCII)
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# At least one dot: RFC 5321 2.3.5 knows only fully qualified names; and no IP address in disguise.
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+(?![0-9]+\Z){_LABEL}", re.ASCII)


def normalise(typed: str) -> str:
    """The one form of an address: lower case, domain as A-labels.  Raises ``Refusal("bad_address")``.

    Dots and +tags stay: at most providers they are other people.
    """
    local, at, domain = typed.strip(" ").rpartition("@")
    local = _ascii_lower(local)
    if not at or len(local) > LOCAL_CHARS_MAX or not _LOCAL.fullmatch(local):
        raise Refusal("bad_address")
    address = f"{local}@{normalise_domain(domain)}"
    if len(address) > ADDRESS_CHARS_MAX:
        raise Refusal("bad_address")
    return address


def normalise_domain(typed: str) -> str:
    """The A-labels of a mail domain, lower case.  Raises ``Refusal("bad_address")``."""
    if len(typed) > DOMAIN_CHARS_MAX:
        raise Refusal("bad_address")
    domain = ".".join(_a_label(label) for label in typed.split("."))
    if len(domain) > DOMAIN_CHARS_MAX or not _DOMAIN.fullmatch(domain):
        raise Refusal("bad_address")
    return domain


def without_tag_and_dots(address: str) -> str:
    """The mailbox behind a normalised address, as some providers see it: for counting only, never for identity."""
    local, _, domain = address.partition("@")
    return f"{local.partition('+')[0].replace('.', '')}@{domain}"


def slow_hash(address: str, hub_salt: bytes) -> bytes:
    """Argon2id of a normalised address: 32 bytes.  Takes 35 ms and 19 MiB; call it in a thread."""
    return bytes(
        argon2id.kdf(
            TAG_BYTES, LABEL + b"email\0" + address.encode(), hub_salt, opslimit=ARGON2_PASSES, memlimit=ARGON2_BYTES
        )
    )


def wrap(tag: bytes, pepper: bytes) -> bytes:
    """One more pepper around a tag: how kept tags move to a new pepper, since no address is kept."""
    return hmac.digest(pepper, LABEL + b"email-tag\0" + tag, "sha256")


def tag_of(hashed: bytes, peppers: Sequence[bytes]) -> bytes:
    """The tag of a slow hash under all peppers, oldest first."""
    for pepper in peppers:
        hashed = wrap(hashed, pepper)
    return hashed


def _a_label(label: str) -> str:
    if label.isascii():
        return label.lower()
    # The standard library knows IDNA 2003, which maps letters to others: the Kelvin sign, full-width letters, sharp s
    # (another domain in IDNA 2008, RFC 5894 7.2).  What it would map was not surely meant.
    if unicodedata.normalize("NFKC", label) != label:
        raise Refusal("bad_address")
    try:
        mapped = label.encode("idna")
        faithful = mapped.decode("idna") == label.lower()
    except UnicodeError:
        faithful = False
    if not faithful:
        raise Refusal("bad_address")
    return mapped.decode("ascii")


def _ascii_lower(text: str) -> str:
    # str.lower would fold letters beyond ASCII, as the Kelvin sign, into plain ones.
    return "".join(c.lower() if c.isascii() else c for c in text)
