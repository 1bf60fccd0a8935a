"""The promise of the mailer: carries one code to one address, and keeps nothing.

A mail lives in memory until it is handed over; a crash loses it and the person
asks for the code again.  No mailer logs an address or a code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, repr=False)
class CodeMail:
    """One mail: whom to, the code, and what lets the person see that it is theirs."""

    address: str  # normalised; never what was typed
    code: str  # 8 digits
    phrase: str  # two words, also shown on the asking device
    app_id: str
    minutes: int  # how long the code works
    purpose: str = "enrol"  # or "confirm" or "change", which the mail must tell apart


class MailFailed(Exception):
    """The mail was not handed over; ``retry`` tells whether a later try may succeed.

    ``reason`` is one of our own words, as "login-refused": it may stand in a log.
    """

    def __init__(self, reason: str, *, retry: bool) -> None:
        super().__init__(reason)
        self.retry = retry


class Mailer(Protocol):
    """Hands codes over to people."""

    async def send(self, mail: CodeMail) -> None:
        """Returns when the mail was handed over; raises ``MailFailed`` within 30 seconds otherwise."""
