"""Plain sockets of signed-in devices: WebSocket, proof, entry and subscription done, for whoever drives them.

What a session says from here on is the holder's: nothing here reads, answers pings or closes.
"""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

from nacl.signing import SigningKey

from hub import signing
from hub.client.connection import canonical_url
from hub.client.keys import SpaceKeys
from hub.terms import PROTOCOL_VERSION, SUBPROTOCOL
from hub.wire import messages as m
from hub.wire.codec import decode_from_hub, encode
from loadtest.seed import SeededDevice

AT_ONCE = 100  # that are on their way in at the same moment
WITHIN_S = 60.0
BINARY, CLOSE = 2, 8
NOTES = "notes"  # the first collection's name

M = TypeVar("M", bound=m.Message)


@dataclass(slots=True)
class Line:
    """One device's open socket (non-blocking), and the bytes that came behind the answer to subscribe."""

    device: SeededDevice
    socket: socket.socket
    ready: m.Ready
    subscribed: m.Subscribed | None
    left: bytes


async def dial_all(
    urls: Sequence[str], devices: Sequence[SeededDevice], *, collections: int = 1, receive_buffer: int = 0
) -> list[Line]:
    """Every device on the next of these addresses in turn; lines in the order of the devices."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, device: SeededDevice) -> Line:
        async with turn:
            url = urls[number % len(urls)]
            return await dial(url, device, collections=collections, receive_buffer=receive_buffer)

    return await asyncio.gather(*(one(number, device) for number, device in enumerate(devices)))


async def dial(url: str, device: SeededDevice, *, collections: int = 1, receive_buffer: int = 0) -> Line:
    """Connect, prove the device, enter its space, follow that many collections from the beginning.

    ``receive_buffer`` (bytes, 0: the system's) bounds what the kernel takes for a device that does not read.
    Raises ``ConnectionError`` or ``TimeoutError``; nothing is left open then.
    """
    url = canonical_url(url)
    where = urlsplit(url)
    line = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    line.setblocking(False)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if receive_buffer:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        async with asyncio.timeout(WITHIN_S):
            await asyncio.get_running_loop().sock_connect(line, (where.hostname, where.port))
            return await _sign_in(_Talk(line), url, device, collections)
    except BaseException:
        line.close()
        raise


def collection_id(keys: SpaceKeys, number: int = 0) -> bytes:
    """The id of a device's ``number``-th collection."""
    return keys.collection_id(f"{NOTES}{number or ''}")


async def _sign_in(talk: _Talk, url: str, device: SeededDevice, collections: int) -> Line:
    await talk.upgrade(url)
    keys = SpaceKeys.derive(device.app_key)
    hello = encode(m.Hello([PROTOCOL_VERSION], device.device_id, secrets.token_bytes(32)))
    await talk.say(hello)
    challenge = await talk.frame()
    proof = signing.sign(SigningKey(device.device_seed), "auth", url, hello, challenge)
    entry = signing.sign(keys.signing_key, "space", url, hello, challenge + keys.space_id)
    await talk.say(encode(m.Auth(proof)), encode(m.Enter(1, [m.SpaceProof(keys.space_id, keys.key_epoch, entry)])))
    ready = await talk.hear(m.Ready)
    await talk.hear(m.Entered)
    subscribed = None
    if collections:
        cursors = [m.CursorPart(collection_id(keys, n), ready.incarnation, 0, False) for n in range(collections)]
        await talk.say(encode(m.Subscribe(2, keys.space_id, cursors)))
        subscribed = await talk.hear(m.Subscribed)
    return Line(device, talk.socket, ready, subscribed, bytes(talk.buffer))


class _Talk:
    """Frames over one socket, as far as signing in needs them."""

    def __init__(self, line: socket.socket) -> None:
        self.socket = line
        self.buffer = bytearray()

    async def upgrade(self, url: str) -> None:
        where = urlsplit(url)
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        await self._send(
            f"GET {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n".encode()
        )
        while (end := self.buffer.find(b"\r\n\r\n")) < 0:
            await self._more()
        answer = bytes(self.buffer[:end])
        del self.buffer[: end + 4]
        if not answer.startswith(b"HTTP/1.1 101 "):
            raise ConnectionError(answer.partition(b"\r\n")[0].decode("latin-1"))

    async def say(self, *messages: bytes) -> None:
        await self._send(b"".join(map(_masked, messages)))

    async def frame(self) -> bytes:
        """The payload of the next binary frame."""
        while (found := _next_frame(self.buffer)) is None:
            await self._more()
        opcode, payload, size = found
        del self.buffer[:size]
        if opcode == CLOSE:
            raise ConnectionError(f"closed: {int.from_bytes(payload[:2], 'big')} {payload[2:].decode()}")
        if opcode != BINARY:
            raise ConnectionError(f"a frame with opcode {opcode}")
        return payload

    async def hear(self, answer: type[M]) -> M:
        """The next message of this type; others before it are dropped."""
        while not isinstance(message := decode_from_hub(await self.frame()), answer):
            if isinstance(message, m.Refused):
                raise ConnectionError(f"refused: {message.code} {message.message}")
        return message

    async def _send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def _more(self) -> None:
        data = await asyncio.get_running_loop().sock_recv(self.socket, 65_536)
        if not data:
            raise ConnectionError("the hub hung up")
        self.buffer += data


def _next_frame(buffer: bytearray) -> tuple[int, bytes, int] | None:
    """Opcode, payload and size of the whole frame that a server's bytes begin with; None: not all is there."""
    if len(buffer) < 2:
        return None
    length, at = buffer[1] & 127, 2
    if length >= 126:
        at = 4 if length == 126 else 10
        length = int.from_bytes(buffer[2:at], "big") if len(buffer) >= at else len(buffer)
    if len(buffer) < at + length:
        return None
    return buffer[0] & 15, bytes(buffer[at : at + length]), at + length


def _masked(payload: bytes) -> bytes:
    mask = os.urandom(4)
    size = len(payload)
    head = bytes([0x80 | BINARY, 0x80 | size]) if size < 126 else b"\x82\xfe" + size.to_bytes(2, "big")
    assert size < 65_536, "what is said while signing in is small"
    wide = (mask * (size // 4 + 1))[:size]
    return head + mask + (int.from_bytes(payload, "big") ^ int.from_bytes(wide, "big")).to_bytes(size, "big")
