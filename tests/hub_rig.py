"""A real hub on a real socket, and a device that speaks the raw protocol with it.

``hub()`` runs the hub as ``hub serve`` does, on SQLite in a fresh folder, with a real
mail server beside it.  ``Wire`` knows messages and proofs but no engine, so tests
can say what no honest client would.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nacl.signing import SigningKey
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from hub import signing
from hub.config import Settings
from hub.limiter import CodeLimits, Span
from hub.rights import space_id_of
from hub.running import RunningHub, running_hub
from hub.terms import SUBPROTOCOL, ZERO_ID, Kind
from hub.wire import messages as m
from hub.wire.codec import decode_from_hub, encode
from hub.wire.header import FLAG_CONDITIONAL, FLAG_PADDED, Header
from tests.mailbox import HOST, Mailbox

APP = "org.example.notes"
COLLECTION = b"c" * 16
PLENTY = (Span(100_000, 3_600.0),)
# All of a test's devices come from one address; the limits themselves have tests of their own.
WIDE = CodeLimits(address=PLENTY, near=PLENTY, wide=PLENTY, origin=PLENTY, hub=PLENTY, accounts=PLENTY)

M = TypeVar("M", bound=m.Message)


@dataclass
class Place:
    """A running hub, where its data is, and the mailbox its codes go to."""

    hub: RunningHub
    mailbox: Mailbox
    data_dir: Path

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.hub.port}/v1/ws"


@asynccontextmanager
async def hub_in(data_dir: Path, *, mailbox: Mailbox | None = None, **settings: Any) -> AsyncIterator[Place]:
    """Run a hub on a folder until the block ends."""
    async with mailbox or Mailbox() as box:
        changed = {"sign_up": "open", "port": 0, "log_level": "error"} | settings
        chosen = dataclasses.replace(
            Settings(),
            data_dir=data_dir,
            smtp_host=HOST,
            smtp_port=box.port,
            smtp_security="none",
            smtp_from="hub@example.org",
            **changed,
        )
        async with running_hub(chosen, code_limits=WIDE) as hub:
            yield Place(hub, box, data_dir)


class Wire:
    """One device: its keys, and at most one connection."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.device_id = secrets.token_bytes(16)
        self.device_key = SigningKey.generate()
        self.space_key = SigningKey.generate()
        self.counter = 0
        self.request = 100
        self.unread: list[m.Message] = []
        self.incarnation = b""
        self._socket: ClientConnection | None = None

    @property
    def space_id(self) -> bytes:
        return space_id_of(bytes(self.space_key.verify_key))

    @property
    def socket(self) -> ClientConnection:
        assert self._socket is not None
        return self._socket

    async def dial(self, **options: Any) -> Wire:
        """Open a connection; nothing is said yet."""
        await self.hang_up()
        self.unread.clear()
        self._socket = await connect(
            self.url,
            subprotocols=[SUBPROTOCOL],
            compression=None,
            proxy=None,
            max_size=2**21,
            ping_interval=None,
            **options,
        )
        return self

    async def hang_up(self) -> None:
        if self._socket:
            await self._socket.close()

    async def greet(self, **fields: Any) -> m.Challenge:
        """Dial and say hello."""
        await self.dial()
        self.hello = encode(m.Hello([1], self.device_id, secrets.token_bytes(32), **fields))
        await self.socket.send(self.hello)
        self.challenge = await self.socket.recv()
        challenge = decode_from_hub(self.challenge)
        assert isinstance(challenge, m.Challenge)
        return challenge

    def proof(self, purpose: signing.Purpose = "auth", *, url: str | None = None) -> bytes:
        return signing.sign(self.device_key, purpose, url or self.url, self.hello, self.challenge)

    def space_proof(self) -> bytes:
        return signing.sign(self.space_key, "space", self.url, self.hello, self.challenge + self.space_id)

    async def sign_up(self, mailbox: Mailbox, address: str, *, scope: str = "app", app_id: str = APP) -> m.Ready:
        """Ask for a code, read the mail, enrol."""
        await self.greet()
        sent = await self.ask(
            m.RequestCode(self.number(), address, bytes(self.device_key.verify_key), app_id), m.CodeSent
        )
        mail = await mailbox.next()
        return await self.enrol(sent.attempt_id, mail.code, scope=scope)

    async def enrol(self, attempt_id: bytes, code: str, *, scope: str = "app") -> m.Ready:
        enrol = m.Enrol(self.number(), attempt_id, code, bytes(self.device_key.verify_key), self.proof("enrol"), scope)  # type: ignore[arg-type]
        ready = await self.ask(enrol, m.Ready)
        self.incarnation = ready.incarnation
        return ready

    async def sign_in(self, **fields: Any) -> m.Ready:
        """Connect with the enrolled key."""
        await self.greet(**fields)
        ready = await self.ask(m.Auth(self.proof()), m.Ready)
        self.incarnation = ready.incarnation
        return ready

    async def make_space(self, app_id: str = APP) -> m.Entered:
        create = m.CreateSpace(
            self.number(), self.space_id, app_id, bytes(self.space_key.verify_key), self.space_proof()
        )
        return await self.ask(create, m.Entered)

    async def enter(self) -> m.Entered:
        return await self.ask(m.Enter(self.number(), [m.SpaceProof(self.space_id, 0, self.space_proof())]), m.Entered)

    async def follow(self, seq: int = 0, *, live_only: bool = False) -> m.Subscribed:
        cursor = m.CursorPart(COLLECTION, self.incarnation, seq, live_only)
        return await self.ask(m.Subscribe(self.number(), self.space_id, [cursor]), m.Subscribed)

    def draft(self, **fields: Any) -> bytes:
        """The next draft: a valid header over random bytes."""
        body = fields.pop("body", None) or secrets.token_bytes(64)
        conditional = FLAG_CONDITIONAL if fields.pop("conditional", False) else 0
        if "counter" not in fields:
            self.counter += 1
        header = Header(
            1, 1, Kind.PUT, FLAG_PADDED | conditional, 0, self.space_id, COLLECTION, b"r" * 16,
            secrets.token_bytes(16), self.device_id, self.counter, ZERO_ID,
        )  # fmt: skip
        return header._replace(**fields).pack() + secrets.token_bytes(24) + body + bytes(16)

    async def append(self, *drafts: bytes, atomic: bool = False) -> m.Appended:
        return await self.ask(m.Append(self.number(), self.space_id, list(drafts), atomic), m.Appended)

    def number(self) -> int:
        self.request += 1
        return self.request

    async def say(self, message: m.Message | bytes) -> None:
        await self.socket.send(message if isinstance(message, bytes) else encode(message))

    async def ask(self, message: m.Message | bytes, answer: type[M]) -> M:
        """Send, and wait for the next message of this type; others are kept in ``unread``."""
        await self.say(message)
        return await self.hear(answer)

    async def refusal(self, message: m.Message | bytes) -> str:
        return (await self.ask(message, m.Refused)).code

    async def hear(self, answer: type[M], within_s: float = 5.0) -> M:
        """The next message of this type, read before or coming now."""
        for message in self.unread:
            if isinstance(message, answer):
                self.unread.remove(message)
                return message
        async with asyncio.timeout(within_s):
            while True:
                message = decode_from_hub(await self.socket.recv())
                if isinstance(message, answer):
                    return message
                if isinstance(message, m.Refused) and answer is not m.Refused:
                    raise AssertionError(f"refused: {message}")
                if isinstance(message, m.Ping):
                    await self.say(m.Pong())
                self.unread.append(message)

    async def changes(self, count: int, within_s: float = 5.0) -> list[m.ChangePart]:
        """The next ``count`` changes, in their order."""
        got: list[m.ChangePart] = []
        while len(got) < count:
            got += (await self.hear(m.Changes, within_s)).changes
        return got

    async def closing(self, within_s: float = 5.0) -> int:
        """The code the hub closes with; everything that still comes is read."""
        async with asyncio.timeout(within_s):
            try:
                while True:
                    self.unread.append(decode_from_hub(await self.socket.recv()))
            except ConnectionClosed as closed:
                assert closed.rcvd is not None, closed
                return closed.rcvd.code
