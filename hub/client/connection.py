"""The client's WebSocket shell: dials, pumps frames between the socket and the engine, and comes back.

It decides nothing but when to dial: the engine says what to send and when to hang
up, the backoff how long to wait.  A half-dead socket is dropped, never waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Literal, TypeVar
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from hub.client.backoff import Backoff
from hub.client.device import Effect, Hangup, Identity, Now, Send
from hub.client.engine import Engine
from hub.errors import CLOSINGS, REFUSALS, Refusal
from hub.signing import Purpose, sign
from hub.terms import PATH, PROTOCOL_VERSION, SUBPROTOCOL
from hub.wire import messages as m
from hub.wire.codec import UnknownMessage, decode_from_device, decode_from_hub, encode

CONNECT_WITHIN_S = 8.0
ANSWER_WITHIN_S = 30.0  # a hub may hash an address slowly before it answers
CLOSE_WITHIN_S = 2.0
FRAME_BYTES_MAX = 2 * 1_048_576  # a changes frame is far smaller; bounds what a hub can make us hold
TOO_BIG = 1009

UNREACHABLE = (OSError, TimeoutError, InvalidHandshake, InvalidURI, ConnectionClosed)
M = TypeVar("M", bound=m.Message)


class Closed(ConnectionError):
    """The hub closed the connection; the text says why, ``code`` is the closing's number (0: none)."""

    def __init__(self, code: int, reason: str) -> None:
        known = {kind.code: kind.message for kind in CLOSINGS.values()}
        super().__init__(known.get(code, reason) or "the connection was lost")
        self.code = code

    @property
    def stop(self) -> bool:
        """Whether coming back by itself would only meet the same again."""
        return 4500 <= self.code < 5000 or self.code == TOO_BIG


Tap = Callable[[Literal["sent", "received", "closed"], m.Message | Closed], None]
"""Called with everything that passes, in order, over all connections of one ``Connection``.

``("sent", message)`` just before its frame is given to the socket, so it may not have
arrived; ``("received", message)`` before the engine acts on it; ``("closed", Closed)``
when a connection that stood has ended, code 0 when it was lost or when this device hung up,
and then its text says why.
Each connection begins with ``("sent", Hello)``.  It must not raise, and must not call the client.
"""


def canonical_url(text: str) -> str:
    """The hub's URL as it is dialled and signed, ``wss://host[:port]/v1/ws``.  Raises ``ValueError``, a sentence."""
    scheme = {"http": "ws", "ws": "ws", "https": "wss", "wss": "wss"}
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        host, port = (parts.hostname or "").encode("idna").decode().lower(), parts.port
    except (ValueError, UnicodeError):
        raise ValueError(f"{text!r} is no URL") from None
    if parts.scheme not in scheme or not host or parts.path not in ("", "/", PATH):
        raise ValueError(f"{text!r} is no address of a hub, like https://hub.example.org")
    if scheme[parts.scheme] == "ws" and not _is_this_machine(host):
        raise ValueError(f"{text!r}: without TLS a hub is dialled on this machine only; write https://")
    shown = f"[{host}]" if ":" in host else host
    default = 443 if scheme[parts.scheme] == "wss" else 80
    return f"{scheme[parts.scheme]}://{shown}{f':{port}' if port and port != default else ''}{PATH}"


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: 127.example.org may lead anywhere
        return host == "localhost"


async def dial(url: str) -> ClientConnection:
    """An open socket.  Raises one of ``UNREACHABLE``."""
    async with asyncio.timeout(CONNECT_WITHIN_S):
        return await connect(
            url,
            subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
            compression=None,
            max_size=FRAME_BYTES_MAX,
            ping_interval=None,  # the protocol has its own, which proves the hub and not only the network
            close_timeout=CLOSE_WITHIN_S,
            open_timeout=CONNECT_WITHIN_S,
            user_agent_header=None,
        )


def now() -> Now:
    """The time, as the engine wants it."""
    return Now(asyncio.get_running_loop().time(), time.time())


# --- one question on a connection of its own -------------------------------------------------


class Errand:
    """A short connection: hello, challenge, and a question or two.  For signing in, and while sync is stopped."""

    def __init__(self, socket: ClientConnection, identity: Identity, hello: bytes, challenge: bytes) -> None:
        self._socket = socket
        self._identity = identity
        self.hello = hello
        self.challenge = challenge
        self.moved_to = ""  # where the account lives now, when the hub said so

    def proof(self, purpose: Purpose) -> bytes:
        """This device's proof on this connection."""
        return sign(self._identity.signing_key, purpose, self._identity.hub_url, self.hello, self.challenge)

    async def ask(self, message: m.Message, answer: type[M]) -> M:
        """Send, and wait for an answer of this type.  Raises ``Refusal``, ``Closed``, ``TimeoutError``."""
        async with asyncio.timeout(ANSWER_WITHIN_S):
            await self.say(message)
            return await self.hear(answer)

    async def say(self, message: m.Message) -> None:
        """Send.  Raises ``Closed``."""
        with _as_closed():
            await self._socket.send(encode(message))

    async def hear(self, answer: type[M]) -> M:
        """Wait for the next message of this type, however long.  Raises ``Refusal``, ``Closed``."""
        while True:
            with _as_closed():
                frame = await self._socket.recv()
            assert isinstance(frame, bytes)
            with contextlib.suppress(UnknownMessage):
                message = decode_from_hub(frame)
                if isinstance(message, answer):
                    return message
                if isinstance(message, m.Refused):
                    raise as_refusal(message)
                if isinstance(message, m.Moved):
                    self.moved_to = message.url


@asynccontextmanager
async def errand(identity: Identity) -> AsyncIterator[Errand]:
    """A short connection up to the challenge.  Raises one of ``UNREACHABLE`` or ``Closed``."""
    socket = await dial(identity.hub_url)
    try:
        hello = encode(m.Hello([PROTOCOL_VERSION], identity.device_id, secrets.token_bytes(32)))
        async with asyncio.timeout(ANSWER_WITHIN_S):
            with _as_closed():
                await socket.send(hello)
                challenge = await socket.recv()
        assert isinstance(challenge, bytes)
        yield Errand(socket, identity, hello, challenge)
    finally:
        await socket.close()


@contextlib.contextmanager
def _as_closed() -> Iterator[None]:
    try:
        yield
    except ConnectionClosed as exc:
        raise Closed(exc.rcvd.code if exc.rcvd else 0, exc.rcvd.reason if exc.rcvd else "") from None


def as_refusal(message: m.Refused) -> Refusal:
    """What the hub refused, as the error an app sees; a code of a later hub counts as ``internal``."""
    code = message.code if message.code in REFUSALS else "internal"
    return Refusal(code, message.message, retry_after_s=message.retry_after_s or None)


# --- the engine's connection -----------------------------------------------------------------


class Connection:
    """Keeps an engine connected while ``wanted`` says so."""

    def __init__(
        self,
        engine: Engine,
        carry: Callable[[list[Effect]], None],
        wanted: Callable[[], bool],
        tap: Tap | None = None,
    ) -> None:
        """``carry`` carries out what the engine wants; ``tap`` is for tests and tools that watch, see ``Tap``."""
        self._tap = tap
        self._engine = engine
        self._carry = carry
        self._wanted = wanted
        self._backoff = Backoff()
        self._poked = asyncio.Event()
        self._halted = False  # the engine hung up for good; a poke takes it back
        self._hangup: Hangup | None = None
        self._socket: ClientConnection | None = None
        self._out: deque[bytes] = deque()
        self._to_send = asyncio.Event()
        self._sent = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def poke(self) -> None:
        """Something changed: try at once."""
        self._halted = False
        self._poked.set()

    def carry_out(self, effect: Send | Hangup) -> None:
        """Send a frame, or hang up."""
        if isinstance(effect, Send):
            self._out.append(effect.frame)
            self._sent.clear()
            self._to_send.set()
            return
        self._hangup = effect
        self._halted = self._halted or not effect.retry
        if effect.politely:
            self._to_send.set()
        elif self._socket:
            self._out.clear()
            # Not closed politely: a line that is hung up on may be dead.
            self._socket.transport.abort()

    async def flush(self, within_s: float = CLOSE_WITHIN_S) -> None:
        """Returns when the frames so far have left for the socket, or after ``within_s``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._out and self._socket:
                    self._sent.clear()
                    await self._sent.wait()

    async def run(self) -> None:
        """Connect again and again until cancelled."""
        while True:
            while self._halted or not self._wanted():
                self._poked.clear()
                await self._poked.wait()
            after_s = await self._one_connection()
            if not self._halted and self._wanted():
                await self._wait(self._backoff.lost(now().steady, random.random(), after_s))

    async def _wait(self, seconds: float) -> None:
        self._poked.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._poked.wait()

    async def _one_connection(self) -> float:
        """Dial, and pump until the line is gone; how long the hub asks to stay away, in seconds."""
        try:
            socket = await dial(self._engine.device.identity.hub_url)
        except UNREACHABLE as exc:
            self._engine.device.error = _unreachable(exc)
            self._carry(self._engine.disconnected())
            return _retry_after_s(exc)
        self._hangup = None
        if self._halted or not self._wanted():  # since the dialling began
            await socket.close()
        else:
            await self._stay(socket)
        return self._hangup.after_s if self._hangup else 0.0

    async def _stay(self, socket: ClientConnection) -> None:
        closed = Closed(0, "")
        self._socket = socket
        try:
            self._engine.device.error = ""
            self._out.clear()
            self._tell(self._engine.connected(now()))
            await self._pump(socket)
        except ConnectionClosed as exc:
            closed = self._closed(exc)
        finally:
            if self._timer:
                self._timer.cancel()
            self._socket = None
            self._out.clear()
            self._sent.set()
            if self._tap:
                self._tap("closed", closed)
            restarting = closed.code == CLOSINGS["going_away"].code
            if closed.code == CLOSINGS["moving"].code:
                self._engine.device.error = str(closed)
            self._carry(self._engine.disconnected(str(closed) if closed.stop else "", restarting=restarting))
            await socket.close()

    def _closed(self, exc: ConnectionClosed) -> Closed:
        code, reason = (exc.rcvd.code, exc.rcvd.reason) if exc.rcvd else (0, "")
        if self._hangup and code < 4000:
            return Closed(0, self._hangup.reason)  # what the hub says then only answers us
        return Closed(code, reason)

    async def _pump(self, socket: ClientConnection) -> None:
        writer = asyncio.create_task(self._write(socket))
        in_session = False
        try:
            async for frame in socket:
                if isinstance(frame, bytes):
                    self._show("received", frame)
                    self._tell(self._engine.received(frame, now()))
                if self._engine.in_session and not in_session:
                    in_session = True
                    self._backoff.connected(now().steady)
            await socket.recv()  # a normal close ends the loop quietly; its code matters
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _write(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self._to_send.wait()
                self._to_send.clear()
                while self._out:
                    self._show("sent", self._out[0])
                    await socket.send(self._out[0])
                    # Taken only now: hanging up in between empties the queue.
                    if self._out:
                        self._out.popleft()
                self._sent.set()
                if self._hangup:
                    await socket.close()

    def _show(self, direction: Literal["sent", "received"], frame: bytes) -> None:
        if not self._tap:
            return
        try:
            message = decode_from_device(frame) if direction == "sent" else decode_from_hub(frame)
        except ValueError:
            return  # the engine cannot read it either
        self._tap(direction, message)

    def _tell(self, effects: list[Effect]) -> None:
        self._carry(effects)
        self.schedule()

    def schedule(self) -> None:
        """Set the timer anew; call after anything that may have moved it."""
        due = self._engine.timer()
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if due is not None and self._socket:
            self._timer = asyncio.get_running_loop().call_at(due, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self._socket:
            self._tell(self._engine.timer_fired(now()))


def _retry_after_s(exc: BaseException) -> float:
    """What an HTTP answer says in ``Retry-After``, a number of seconds or a date; 0.0 when it says nothing."""
    said = exc.response.headers.get_all("Retry-After") if isinstance(exc, InvalidStatus) else []
    if not said:
        return 0.0
    if said[0].strip().isdecimal():
        return float(said[0])
    try:
        return parsedate_to_datetime(said[0]).timestamp() - time.time()
    except ValueError:
        return 0.0


def _unreachable(exc: BaseException) -> str:
    if isinstance(exc, InvalidStatus):
        body = (exc.response.body or b"").decode(errors="replace").strip()
        return f"the hub answered {exc.response.status_code}{': ' + body if body else ''}"
    if isinstance(exc, TimeoutError):
        return "the hub does not answer"
    return "the hub cannot be reached"
