"""Hocuspocus with SQLite: a Yjs document an account, each change an item of the device's own list in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from loadtest.peers import dial
from loadtest.peers.marker import BODY_BYTES, PADDED, PADDED_BEFORE, Device, Request, body
from loadtest.peers.measure import EACH, Options, Running, Server, Variant, exact, folder, node_env
from tests.services import free_port

HERE = Path(__file__).parent
SYNC, AUTH, STATUS = 0, 2, 8  # Hocuspocus' messages
STEP_1, UPDATE = 0, 2  # those of Yjs within SYNC
NOTES = [
    "the answer (SyncStatus) says that the server's memory has it; a store that fails is not told to the device",
    "one Node process, SQLite within it; each store writes the account's whole document",
]


def variants(options: Options) -> list[Variant]:
    """As it comes (a document is stored two to ten seconds after an edit), and stored at once."""
    place, version = options.cache.node("hocuspocus", HERE), exact(HERE, "@hocuspocus/server")
    later = "none before the answer: stored 2 s after the last edit, 10 s at most (the default); SQLite then syncs"
    at_once = "none before the answer: a store of the whole document begins with every edit (debounce 0); SQLite syncs"
    return [
        Variant("hocuspocus", version, later, partial(_start, place, {}), NOTES),
        Variant("hocuspocus at once", version, at_once, partial(_start, place, {"PEER_DEBOUNCE": "0"}), NOTES),
    ]


@contextlib.contextmanager
def _start(place: Path, settings: dict[str, str], accounts: int) -> Iterator[Running]:
    with folder() as base:
        port = free_port()
        env = node_env(PEER_PORT=str(port), PEER_FILE=str(base / "documents.sqlite"), **settings)
        server = Server(["/usr/bin/env", "node", place / "server.mjs"], base, env, port)
        try:
            server.start()
            yield Running(partial(_devices, port), lambda: [server.pid], list)
        finally:
            server.kill()


def _devices(port: int, accounts: int) -> list[Device]:
    return dial.many(partial(_device, port), range(EACH * accounts))


def _device(port: int, n: int) -> Device:
    """Signed in to its account's document, in step with it, its own list begun."""
    name = text(f"account-{n // EACH}")
    line = dial.WebSocket(port, "/")
    line.say(name + bytes([AUTH, 0]) + text("token"))
    line.hear_until(name + bytes([AUTH, 2]))
    line.say(name + bytes([SYNC, STEP_1]) + sized(b"\0"))
    line.hear_until(name + bytes([SYNC, STEP_1]))
    line.say(name + bytes([SYNC, UPDATE]) + sized(first_item(n + 1, f"device-{n}", b"begun")))
    status = name + bytes([STATUS, 1])
    line.hear_until(status)
    item, holes = next_item(n + 1, body(n))
    head = name + bytes([SYNC, UPDATE]) + sized(item)
    frame = dial.frame(head, 2)
    begin = len(frame) - len(item)
    return Device(line.line, Request([frame], [(begin + at, kind) for at, kind in holes]), pattern=status)


# --- the bytes of Yjs ------------------------------------------------------------------------


def varint(number: int) -> bytes:
    """Seven bits a byte, little end first."""
    out = b""
    while number > 127:
        out += bytes([128 | number & 127])
        number >>= 7
    return out + bytes([number])


def sized(data: bytes) -> bytes:
    """Bytes after their number."""
    return varint(len(data)) + data


def text(words: str) -> bytes:
    """A string after its number of bytes."""
    return sized(words.encode())


def first_item(client: int, key: str, content: bytes) -> bytes:
    """An update with one item: the first of the list ``key``, by this client, whose clock it begins."""
    binary, of_a_root = 3, 1
    item = bytes([binary, of_a_root]) + text(key) + sized(content)
    return bytes([1, 1]) + varint(client) + varint(0) + item + bytes([0])


def next_item(client: int, content: bytes) -> tuple[bytes, list[tuple[int, int]]]:
    """An update with one item after the client's last; where its clock and that of the item before it belong."""
    binary, has_origin = 3, 128
    head = bytes([1, 1]) + varint(client)
    origin = bytes([binary | has_origin]) + varint(client)
    out = head + bytes(5) + origin + bytes(5) + sized(content) + bytes([0])
    assert len(content) == BODY_BYTES
    return out, [(len(head), PADDED), (len(head) + 5 + len(origin), PADDED_BEFORE)]
