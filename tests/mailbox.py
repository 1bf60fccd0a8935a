"""A real mail server in this process that keeps the mails it got.

``Mailbox`` speaks SMTP with STARTTLS, TLS or neither, with or without a login, and
refuses addresses on demand.  Other tests use it to read a code as a person would.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import cache

import trustme
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Mail:
    """One mail as it arrived: the envelope's addresses and the parsed message."""

    sender: str
    recipient: str
    message: EmailMessage

    @property
    def text(self) -> str:
        return self.message.get_content()

    @property
    def code(self) -> str:
        """The digits, without the space a person sees."""
        found = re.search(r"\b([0-9]{4}) ([0-9]{4})\b", self.text)
        assert found, self.text
        return found[1] + found[2]


@cache
def authority() -> trustme.CA:
    return trustme.CA()


def server_context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority().issue_cert("localhost", HOST).configure_cert(context)
    return context


def trusting_context() -> ssl.SSLContext:
    """What a client needs to trust the mailbox."""
    context = ssl.create_default_context()
    authority().configure_trust(context)
    return context


@dataclass
class Mailbox:
    """``async with Mailbox(security="starttls", password="pw") as mailbox:`` serves on ``mailbox.port``.

    ``security`` is "starttls", "tls" or "none".  ``answers`` maps an address to the
    replies its next RCPT commands get ("451 ..."); after them it is accepted.
    """

    security: str = "none"
    username: str = ""
    password: str = ""
    answers: dict[str, list[str]] = field(default_factory=dict)
    mails: list[Mail] = field(default_factory=list)
    port: int = 0

    @property
    def connections(self) -> int:
        """How many there were."""
        return len(self._protocols)

    async def __aenter__(self) -> Mailbox:
        self._arrived = asyncio.Condition()
        self._taken = 0
        tls = server_context() if self.security != "none" else None
        self._protocols: list[SMTP] = []
        self._server = await asyncio.get_running_loop().create_server(
            self._protocol(tls), HOST, 0, ssl=tls if self.security == "tls" else None
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        handlers = [each._handler_coroutine for each in self._protocols if each._handler_coroutine]
        for protocol in self._protocols:
            # After a failed STARTTLS aiosmtpd is not told that the connection is lost.
            if protocol.transport is not None:
                protocol.transport.abort()
                protocol._timeout_handle.cancel()
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        await self._server.wait_closed()

    async def next(self, within_s: float = 5.0) -> Mail:
        """The next mail that nobody has asked for yet, in the order they came."""
        async with asyncio.timeout(within_s), self._arrived:
            await self._arrived.wait_for(lambda: len(self.mails) > self._taken)
        self._taken += 1
        return self.mails[self._taken - 1]

    def _protocol(self, tls: ssl.SSLContext | None) -> Callable[[], SMTP]:
        def connect() -> SMTP:
            with warnings.catch_warnings():
                # A login without TLS is what some of the tests are about.
                warnings.filterwarnings("ignore", "Requiring AUTH while not requiring TLS")
                protocol = SMTP(
                    self,
                    hostname="mail.test",
                    tls_context=tls if self.security == "starttls" else None,
                    require_starttls=self.security == "starttls",
                    authenticator=self._authenticate,
                    auth_required=bool(self.password),
                    # aiosmtpd knows only its own TLS, not one from the first byte.
                    auth_require_tls=self.security == "starttls",
                    loop=asyncio.get_running_loop(),
                )
            self._protocols.append(protocol)
            return protocol

        return connect

    def _authenticate(
        self, server: SMTP, session: object, envelope: object, mechanism: str, data: object
    ) -> AuthResult:
        right = (self.username.encode(), self.password.encode())
        success = isinstance(data, LoginPassword) and (data.login, data.password) == right
        # handled=True would mean that the refusal was sent already: the client would wait for ever.
        return AuthResult(success=success, handled=False)

    # --- what aiosmtpd calls ---

    async def handle_RCPT(self, server: SMTP, session: object, envelope: object, address: str, options: object) -> str:
        if self.answers.get(address):
            return self.answers[address].pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: object, envelope: object) -> str:
        message = message_from_bytes(envelope.content, policy=policy.default)
        async with self._arrived:
            self.mails.append(Mail(envelope.mail_from, envelope.rcpt_tos[0], message))
            self._arrived.notify_all()
        return "250 queued"
