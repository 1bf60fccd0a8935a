"""The operator's second proof: the six digits of an authenticator app (TOTP, RFC 6238), without I/O.

A secret is derived, never kept: from the hub's otp key, the account and the salt of
its row in the database.  So a copy of the database opens no operator's page, and
being made an operator again, under a new salt, ends the old secret.  Which step a
code belongs to is told, so that the store can accept each step once
(``Store.take_step``).  docs/protocol.md "Operator".
"""

from __future__ import annotations

import base64
import hmac

import pyotp

from hub.signing import LABEL
from hub.terms import AccountId

SECRET_BYTES = 20  # what RFC 4226 recommends and every authenticator app takes
SALT_BYTES = 16
STEP_S = 30
WINDOW_STEPS = 1  # a code may be typed one step late, or come from a clock half a minute ahead
ACCOUNT_DIGITS = 8  # of the account's id, shown in the authenticator app


def operator_secret(otp_key: bytes, account_id: AccountId, salt: bytes) -> bytes:
    """The 20 bytes that this hub and the operator's authenticator app share."""
    return hmac.digest(otp_key, LABEL + b"totp\0" + account_id + salt, "sha256")[:SECRET_BYTES]


def text_of(secret: bytes) -> str:
    """The secret as people type it into an authenticator app: base32."""
    return base64.b32encode(secret).decode().rstrip("=")


def uri_of(secret: bytes, account_id: AccountId, hub_name: str) -> str:
    """The ``otpauth:`` URI that an authenticator app scans.  It holds the secret."""
    name = f"operator {account_id.hex()[:ACCOUNT_DIGITS]}"
    return pyotp.TOTP(text_of(secret)).provisioning_uri(name=name, issuer_name=hub_name.replace(":", " "))


def step_at(now: float) -> int:
    """The number of the step that ``now`` is in."""
    return int(now // STEP_S)


def matching_step(secret: bytes, typed: str, now: float) -> int | None:
    """The step whose code ``typed`` is, of those that may be typed at ``now``; None when it is none of them.

    Spaces and hyphens in ``typed`` do not count.  The time taken does not tell how much of it is right.  A
    step that was accepted before is not known here: ``Store.take_step`` must still say yes.
    """
    digits = typed.replace(" ", "").replace("-", "")
    # Not by pyotp's own check: it takes other digits, full-width or Arabic, for these.
    totp = pyotp.TOTP(text_of(secret))
    found = None
    here = step_at(now)
    for step in range(max(0, here - WINDOW_STEPS), here + WINDOW_STEPS + 1):
        if hmac.compare_digest(totp.generate_otp(step).encode(), digits.encode()):
            found = step  # the newest, should two of them have the same code
    return found
