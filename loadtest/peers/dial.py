"""How the peers' devices connect: blocking sockets, and the few bytes of WebSocket and HTTP that a request needs."""

from __future__ import annotations

import base64
import json
import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

HOST = "127.0.0.1"
WITHIN_S = 30.0
AT_ONCE = 16

T = TypeVar("T")
Item = TypeVar("Item")


def connect(port: int) -> socket.socket:
    """A connection to this port of loopback, without Nagle's delay."""
    line = socket.create_connection((HOST, port), WITHIN_S)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return line


def many(make: Callable[[Item], T], items: Sequence[Item]) -> list[T]:
    """``make`` of each item, some at the same time, in their order."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(make, items))


def read_until(line: socket.socket, end: bytes, said: bytes = b"") -> bytes:
    """Everything up to and with the first ``end``, and what came with it; ``said`` was read before."""
    while end not in said:
        piece = line.recv(65_536)
        if not piece:
            raise ConnectionError(f"closed after {said[-500:]!r}")
        said += piece
    return said


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """A whole WebSocket message from a client, masked with zeros: the payload stands there as it is."""
    size = len(payload)
    if size < 126:
        head = bytes([0x80 | opcode, 0x80 | size])
    elif size < 65_536:
        head = bytes([0x80 | opcode, 0x80 | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x80 | opcode, 0x80 | 127]) + size.to_bytes(8, "big")
    return head + bytes(4) + payload


def unframe(data: bytes) -> tuple[int, bytes, bytes] | None:
    """Opcode, payload and the rest of what a server sent; None while the frame is not whole."""
    if len(data) < 2:
        return None
    size, at = data[1] & 127, 2
    if size == 126:
        size, at = int.from_bytes(data[2:4], "big"), 4
    elif size == 127:
        size, at = int.from_bytes(data[2:10], "big"), 10
    if len(data) < at or len(data) < at + size:
        return None
    return data[0] & 15, data[at : at + size], data[at + size :]


class WebSocket:
    """A WebSocket that is being set up; its ``line`` is handed to the generator afterwards."""

    def __init__(self, port: int, path: str, *headers: str) -> None:
        self.line = connect(port)
        self._rest = b""
        key = base64.b64encode(os.urandom(16)).decode()
        words = [
            f"GET {path} HTTP/1.1",
            f"Host: {HOST}:{port}",
            f"Origin: http://{HOST}:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
            *headers,
        ]
        self.line.sendall("\r\n".join([*words, "", ""]).encode())
        head, _, self._rest = read_until(self.line, b"\r\n\r\n").partition(b"\r\n\r\n")
        if b" 101 " not in head.partition(b"\r\n")[0]:
            raise ConnectionError(head.decode("latin-1"))

    def say(self, payload: bytes | str, opcode: int | None = None) -> None:
        """One message: text of a ``str``, binary of bytes."""
        data = payload.encode() if isinstance(payload, str) else payload
        self.line.sendall(frame(data, opcode or (1 if isinstance(payload, str) else 2)))

    def hear(self) -> bytes:
        """The next message; pings are answered."""
        while True:
            while not (found := unframe(self._rest)):
                piece = self.line.recv(65_536)
                if not piece:
                    raise ConnectionError("closed")
                self._rest += piece
            opcode, payload, self._rest = found
            if opcode == 9:
                self.say(payload, 10)
            elif opcode == 8:
                raise ConnectionError(f"closed: {payload!r}")
            elif opcode < 8:
                return payload

    def hear_until(self, part: bytes) -> bytes:
        """The next message that has ``part`` in it; what came before is passed over."""
        while part not in (said := self.hear()):
            pass
        return said


def http(port: int, method: str, path: str, value: Any = None) -> bytes:
    """One HTTP request on a connection of its own; the whole answer, head and all."""
    data = b"" if value is None else json.dumps(value).encode()
    with connect(port) as line:
        line.sendall(http_request(method, path, data, port, close=True))
        said = b""
        while piece := line.recv(65_536):
            said += piece
    return said


def http_request(method: str, path: str, data: bytes, port: int, *, close: bool = False) -> bytes:
    """The bytes of a request with a JSON body."""
    words = [
        f"{method} {path} HTTP/1.1",
        f"Host: {HOST}:{port}",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
        *(["Connection: close"] if close else []),
    ]
    return "\r\n".join([*words, "", ""]).encode() + data
