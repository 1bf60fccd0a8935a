"""The mailer that hands codes to a mail server, by SMTP (RFC 5321) with STARTTLS or TLS.

One connection a mail: codes are rare, and a kept connection would be one more thing
that can be stale.  A failure is told in our own words, since servers repeat the address
in theirs.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

import aiosmtplib

from hub.mail import CodeMail, Mailer, MailFailed
from hub.mail.letter import body, subject

DEADLINE_S = 30.0
QUIT_WITHIN_S = 2.0
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class SmtpMailer:
    """Sends through one server.

    ``security`` is "starttls" (demanded, not merely tried), "tls" or "none".  The
    certificate is checked against ``tls_context``, or the system's authorities.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        security: str,
        sender: str,
        username: str = "",
        password: str = "",
        hub_name: str = "sync-hub",
        tls_context: ssl.SSLContext | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        if security not in ("starttls", "tls", "none"):
            raise ValueError("security is starttls, tls or none")
        if password and security == "none" and host not in LOOPBACK:
            raise ValueError("a password goes to another machine by TLS only")
        self._host = host
        self._port = port
        self._security = security
        self._sender = sender
        self._username = username
        self._password = password
        self._hub_name = hub_name
        # Made once: reading the system's authorities takes tens of milliseconds.
        self._tls_context = tls_context or ssl.create_default_context()
        self._deadline_s = deadline_s

    def __repr__(self) -> str:
        return f"SmtpMailer({self._host}:{self._port}, {self._security})"

    async def send(self, mail: CodeMail) -> None:
        """Returns when the server took the mail over; raises ``MailFailed`` within the deadline otherwise."""
        # Raised out here, so that no chained error carries what the server said about the address.
        if failure := await self._try(self._letter(mail)):
            raise failure

    async def knock(self, test_to: str = "") -> None:
        """Connect and log in as for a mail, and mail nothing, or a test letter to one address.

        Raises ``MailFailed`` like ``send``.
        """
        if failure := await self._try(self._test_letter(test_to) if test_to else None):
            raise failure

    async def _try(self, letter: EmailMessage | None) -> MailFailed | None:
        client = self._client()
        try:
            async with asyncio.timeout(self._deadline_s):
                await client.connect()
                if letter:
                    await client.send_message(letter)
        except (aiosmtplib.SMTPException, OSError) as exc:  # TimeoutError and ssl.SSLError are OSErrors
            return _failure(exc)
        else:
            # The mail is the server's; how the connection ends changes nothing.
            with suppress(aiosmtplib.SMTPException, OSError):
                async with asyncio.timeout(QUIT_WITHIN_S):
                    await client.quit()
        finally:
            client.close()
        return None

    def _client(self) -> aiosmtplib.SMTP:
        return aiosmtplib.SMTP(
            hostname=self._host,
            port=self._port,
            username=self._username or None,
            password=self._password or None,
            local_hostname=self._domain,  # not this machine's own name
            timeout=self._deadline_s,
            use_tls=self._security == "tls",
            start_tls=self._security == "starttls",
            tls_context=self._tls_context,
        )

    @property
    def _domain(self) -> str:
        return self._sender.rpartition("@")[2].rstrip("> ") or "localhost"

    def _letter(self, mail: CodeMail) -> EmailMessage:
        return self._letter_of(mail.address, subject(mail), body(mail, self._hub_name))

    def _test_letter(self, address: str) -> EmailMessage:
        text = f"This is a test of {self._hub_name}: its mails arrive. No code is in it; nothing is to be done.\n"
        return self._letter_of(address, "Test", text)

    def _letter_of(self, address: str, about: str, text: str) -> EmailMessage:
        letter = EmailMessage()
        letter["From"] = self._sender
        letter["To"] = address
        letter["Subject"] = about
        letter["Date"] = formatdate()
        letter["Message-ID"] = make_msgid(domain=self._domain)
        letter["Auto-Submitted"] = "auto-generated"  # RFC 3834 5: nobody's holiday notice comes back
        letter.set_content(text)
        return letter


def _failure(exc: BaseException) -> MailFailed:
    """What went wrong, without a word of the server's."""
    if isinstance(exc, aiosmtplib.SMTPRecipientsRefused):
        return MailFailed("address-refused", retry=all(_later(each.code) for each in exc.recipients))
    if isinstance(exc, aiosmtplib.SMTPAuthenticationError):
        return MailFailed("login-refused", retry=_later(exc.code))
    if isinstance(exc, aiosmtplib.SMTPResponseException):
        return MailFailed("mail-refused", retry=_later(exc.code))
    # With TLS from the start the library wraps what the handshake raised.
    if any(isinstance(each, ssl.SSLCertVerificationError) for each in (exc, exc.__cause__)):
        return MailFailed("certificate-not-trusted", retry=False)
    if isinstance(exc, TimeoutError):
        return MailFailed("no-answer-in-time", retry=True)
    if isinstance(exc, OSError):
        return MailFailed("not-reached", retry=True)
    return MailFailed("not-supported", retry=False)  # the server knows no STARTTLS, or no login


def _later(code: int) -> bool:
    return 400 <= code < 500  # RFC 5321 4.2.1: 4yz is transient


_: type[Mailer] = SmtpMailer
