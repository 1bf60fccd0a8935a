"""Many devices in one thread: real sockets, real proofs and the product's own codec, and nothing a device keeps.

A link does what the client does when it comes back: it dials, says hello, signs the challenge, and sends auth, enter,
collections and subscribe without waiting for the answers; it answers pings, waits as the client's backoff says when it
is sent away, and gives up a dial that takes longer than the client would wait.  What it does not do is open a change:
of a page it reads where the page stands, and counts.  So one core carries some thousand devices a second, which the
client in Python could not.
"""

from __future__ import annotations

import base64
import contextlib
import heapq
import itertools
import os
import random
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec
from nacl.signing import SigningKey

from hub.client.backoff import Backoff
from hub.client.connection import CONNECT_WITHIN_S
from hub.client.keys import SpaceKeys
from hub.signing import sign
from hub.terms import SUBPROTOCOL, ZERO_ID, CollectionId
from hub.wire import messages as m
from hub.wire.codec import decode_from_hub, encode
from loadtest.dial import collection_id
from loadtest.seed import SeededDevice

READ_BYTES = 262_144
EVENTS_MAX = 512
BINARY, CLOSE, PING, PONG = 0x2, 0x8, 0x9, 0xA
PONG_FRAME = encode(m.Pong())
# A link's way; "away" is without a socket.
AWAY, DIALLING, UPGRADING, GREETING, SIGNING, FOLLOWING = range(6)


class _Stretch(msgspec.Struct, tag_field="type", tag="changes", gc=False):
    """A changes frame without its changes: they are skipped, not made into objects."""

    collection_id: bytes
    after: int
    upto: int
    head: int
    changes: msgspec.Raw


_stretch = msgspec.msgpack.Decoder(_Stretch)


@dataclass(slots=True)
class Keys:
    """What the devices of one account share."""

    space: SpaceKeys
    collection_ids: tuple[CollectionId, ...]


class Link:
    """One device: its socket, and where it stands in each collection it follows."""

    __slots__ = (
        "asked_at",
        "backoff",
        "caught_up_at",
        "challenge",
        "cursors",
        "device_id",
        "dialled",
        "following_at",
        "heads",
        "hello",
        "inbox",
        "incarnation",
        "key",
        "keys",
        "phase",
        "retry_after_s",
        "socket",
    )

    def __init__(self, seeded: SeededDevice, keys: Keys) -> None:
        self.device_id = seeded.device_id
        self.key = SigningKey(seeded.device_seed)
        self.keys = keys
        self.cursors: dict[CollectionId, int] = dict.fromkeys(keys.collection_ids, 0)
        self.incarnation = ZERO_ID
        self.backoff = Backoff()
        self.socket: socket.socket | None = None
        self.phase = AWAY
        self.dialled = 0  # how often
        self.retry_after_s = 0.0
        self.inbox = bytearray()
        self.hello = self.challenge = b""
        self.heads: dict[CollectionId, int] = {}  # as subscribed told them
        self.asked_at = 0.0  # when it said what it follows, on the clock of time.perf_counter
        self.following_at = 0.0  # when subscribed came
        self.caught_up_at = 0.0  # when it held everything up to those heads


class Crowd:
    """Links to one address, driven by ``turn``; times are those of ``time.perf_counter``."""

    def __init__(
        self, url: str, devices: Iterable[SeededDevice], *, collections: int = 1, live_only: bool = True
    ) -> None:
        """``url`` as it is dialled and signed; each device follows so many collections from their beginning."""
        parts = urlsplit(url)
        assert parts.hostname and parts.port, url
        self.url = url
        self._address = (parts.hostname, parts.port)
        self._live_only = live_only
        known: dict[bytes, Keys] = {}
        self.links = [Link(each, _keys(known, each, collections)) for each in devices]
        self.counts: Counter[str] = Counter()  # refusals, closings and errors, by what they were
        self.announced = 0  # of these, what told the device to come back
        self.changes = 0
        self.bytes_in = 0
        self.dials = self.pings = 0
        self.caught_up = 0  # links that are, now
        self._epoll = select.epoll(max(1, len(self.links)))
        self._by_fd: dict[int, Link] = {}
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._request = _upgrade_request(parts.netloc, parts.path)

    # --- what a scenario says ---

    def dial(self, links: Iterable[Link] | None = None, spread_s: float = 0.0) -> None:
        """Connect these (None: all) within the next ``spread_s`` seconds."""
        now = time.perf_counter()
        for link in self.links if links is None else links:
            if spread_s:
                self._at(now + random.random() * spread_s, lambda link=link: self._dial(link))
            else:
                self._dial(link)

    def run(self, until: Callable[[], bool], within_s: float) -> bool:
        """Turn until that holds; False when it did not within so many seconds."""
        deadline = time.perf_counter() + within_s
        while not until():
            left = deadline - time.perf_counter()
            if left <= 0:
                return False
            self.turn(min(left, 0.1))
        return True

    def bring_in(self, within_s: float = 120.0, at_once: int = 200) -> None:
        """Connect all, some at a time, until each follows and is caught up.  ``TimeoutError`` when that fails."""
        for start in range(0, len(self.links), at_once):
            some = self.links[start : start + at_once]
            self.dial(some)
            if not self.run(lambda some=some: all(link.caught_up_at for link in some), within_s):
                raise TimeoutError(f"devices did not come in: {dict(self.counts)}")

    def cut(self) -> None:
        """Lose every connection at the same moment, without a word."""
        for link in self.links:
            if link.socket is not None:
                # A reset: no side waits for the other.
                link.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._hang_up(link)
            self._begin_anew(link)

    def close(self) -> None:
        """Hang up all, for good."""
        self.cut()
        self._due.clear()
        self._epoll.close()

    def turn(self, timeout_s: float) -> None:
        """Wait that long at most for something to happen, and do what follows from it."""
        if self._due:
            timeout_s = max(0.0, min(timeout_s, self._due[0][0] - time.perf_counter()))
        for fd, events in self._epoll.poll(timeout_s, EVENTS_MAX):
            if link := self._by_fd.get(fd):
                self._happened(link, events)
        now = time.perf_counter()
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2]()

    # --- sockets ---

    def _at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when, next(self._numbers), what))

    def _dial(self, link: Link) -> None:
        link.dialled += 1
        self.dials += 1
        link.phase = DIALLING
        self._begin_anew(link)
        link.socket = line = socket.socket()
        line.setblocking(False)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._by_fd[line.fileno()] = link
        line.connect_ex(self._address)
        self._epoll.register(line.fileno(), select.EPOLLOUT)
        dial = link.dialled
        self._at(time.perf_counter() + CONNECT_WITHIN_S, lambda: self._too_late(link, dial))

    def _begin_anew(self, link: Link) -> None:
        self.caught_up -= bool(link.caught_up_at)
        link.caught_up_at = link.following_at = link.retry_after_s = 0.0
        link.inbox.clear()

    def _too_late(self, link: Link, dial: int) -> None:
        if link.dialled == dial and link.phase in (DIALLING, UPGRADING):
            self._lost(link, "no answer to the dial")

    def _happened(self, link: Link, events: int) -> None:
        line = link.socket
        assert line is not None
        try:
            if link.phase == DIALLING:
                if error := line.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(error, os.strerror(error))
                line.send(self._request)
                link.phase = UPGRADING
                self._epoll.modify(line.fileno(), select.EPOLLIN)
                return
            size = line.recv_into(self._buffer)
        except OSError as exc:
            self._lost(link, f"{type(exc).__name__} while {'dialling' if link.phase == DIALLING else 'connected'}")
            return
        if not size:
            self._lost(link, "hung up without a word")
            return
        self.bytes_in += size
        link.inbox += self._buffer[:size]
        with contextlib.suppress(OSError):  # it will be seen as lost when it is read next
            self._read(link)

    def _hang_up(self, link: Link) -> None:
        if link.socket is not None:
            self._by_fd.pop(link.socket.fileno(), None)
            self._epoll.unregister(link.socket.fileno())
            link.socket.close()
        link.socket = None
        link.phase = AWAY

    def _lost(self, link: Link, why: str, *, announced: bool = False) -> None:
        """The connection is gone: come back as the client would."""
        self.counts[why] += 1
        self.announced += announced
        self._hang_up(link)
        now = time.perf_counter()
        self._at(now + link.backoff.lost(now, random.random(), link.retry_after_s), lambda: self._dial(link))

    def _send(self, link: Link, *frames: bytes) -> None:
        assert link.socket is not None
        link.socket.send(b"".join(_masked(frame) for frame in frames))

    # --- what comes in ---

    def _read(self, link: Link) -> None:
        if link.phase == UPGRADING and not self._upgraded(link):
            return
        inbox, at = link.inbox, 0
        while link.socket is not None and len(inbox) - at >= 2:
            size, start = inbox[at + 1], at + 2
            if size == 126:
                size, start = int.from_bytes(inbox[at + 2 : at + 4], "big"), at + 4
            elif size == 127:
                size, start = int.from_bytes(inbox[at + 2 : at + 10], "big"), at + 10
            if len(inbox) < start + size:
                break
            opcode, frame = inbox[at] & 0xF, bytes(memoryview(inbox)[start : start + size])
            at = start + size
            if opcode == BINARY:
                self._received(link, frame)
            elif opcode == CLOSE:
                self._closed(link, frame)
            elif opcode == PING:
                assert link.socket is not None
                link.socket.send(_masked(frame, PONG))
        del inbox[:at]

    def _upgraded(self, link: Link) -> bool:
        head, found, rest = bytes(link.inbox).partition(b"\r\n\r\n")
        if not found:
            return False
        status = head[9:12].decode()
        if status != "101":
            after = [line for line in head.lower().split(b"\r\n") if line.startswith(b"retry-after:")]
            link.retry_after_s = float(after[0].partition(b":")[2]) if after else 0.0
            self._lost(link, f"HTTP {status}", announced=bool(after))
            return False
        link.inbox[:] = rest
        link.phase = GREETING
        link.hello = encode(m.Hello([1], link.device_id, os.urandom(32)))
        self._send(link, link.hello)
        return True

    def _closed(self, link: Link, frame: bytes) -> None:
        code = int.from_bytes(frame[:2], "big") if len(frame) >= 2 else 1005
        self._lost(link, f"closing {code} {frame[2:].decode(errors='replace')}".strip(), announced=4000 <= code < 4500)

    def _received(self, link: Link, frame: bytes) -> None:
        if b"\xa7changes" in frame[:16]:
            self._on_changes(link, frame)
            return
        message = decode_from_hub(frame)
        match message:
            case m.Challenge():
                link.challenge = frame
                link.phase = SIGNING
                self._send(link, *self._coming_back(link))
                link.asked_at = time.perf_counter()
            case m.Ready():
                link.incarnation = message.incarnation
                link.backoff.connected(time.perf_counter())
            case m.Subscribed():
                self._on_subscribed(link, message)
            case m.Ping():
                self.pings += 1
                self._send(link, PONG_FRAME)
            case m.Refused():
                self.counts[f"refused {message.code}"] += 1
                self.announced += message.retry
                # A device whose way in was refused hangs up and tries again.
                if link.phase != FOLLOWING:
                    link.retry_after_s = message.retry_after_s
                    self._lost(link, "came in vain", announced=message.retry)
            case m.GoingAway():
                link.retry_after_s = message.retry_after_s

    def _coming_back(self, link: Link) -> list[bytes]:
        """Everything a device that has been here before says after the challenge."""
        space = link.keys.space
        proof = sign(space.signing_key, "space", self.url, link.hello, link.challenge + space.space_id)
        cursors = [
            m.CursorPart(collection_id, link.incarnation, seq, self._live_only and not seq)
            for collection_id, seq in link.cursors.items()
        ]
        return [
            encode(m.Auth(sign(link.key, "auth", self.url, link.hello, link.challenge))),
            encode(m.Enter(1, [m.SpaceProof(space.space_id, space.key_epoch, proof)])),
            encode(m.Collections(2, space.space_id)),
            encode(m.Subscribe(3, space.space_id, cursors)),
        ]

    def _on_subscribed(self, link: Link, message: m.Subscribed) -> None:
        link.phase = FOLLOWING
        link.following_at = time.perf_counter()
        link.heads = {part.collection_id: part.head for part in message.collections}
        for part in message.collections:
            link.cursors[part.collection_id] = part.after
        self._look(link)

    def _on_changes(self, link: Link, frame: bytes) -> None:
        stretch = _stretch.decode(frame)
        if stretch.after != link.cursors[stretch.collection_id]:
            self.counts["a frame out of place"] += 1
        link.cursors[stretch.collection_id] = stretch.upto
        self.changes += _length(stretch.changes)
        if not link.caught_up_at:
            self._look(link)

    def _look(self, link: Link) -> None:
        if (
            link.following_at
            and not link.caught_up_at
            and all(link.cursors[each] >= head for each, head in link.heads.items())
        ):
            link.caught_up_at = time.perf_counter()
            self.caught_up += 1


def _keys(known: dict[bytes, Keys], seeded: SeededDevice, collections: int) -> Keys:
    if seeded.account_id not in known:
        space = SpaceKeys.derive(seeded.app_key)
        known[seeded.account_id] = Keys(space, tuple(collection_id(space, n) for n in range(collections)))
    return known[seeded.account_id]


def _upgrade_request(host: str, path: str) -> bytes:
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Protocol: {SUBPROTOCOL}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def _masked(payload: bytes, opcode: int = BINARY) -> bytes:
    """A frame of a client, masked with zeros: allowed, the same work for the hub, and none here."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, 0x80 | size)) + bytes(4) + payload
    if size < 65_536:
        return struct.pack(">BBH", 0x80 | opcode, 0x80 | 126, size) + bytes(4) + payload
    return struct.pack(">BBQ", 0x80 | opcode, 0x80 | 127, size) + bytes(4) + payload


def _length(array: msgspec.Raw) -> int:
    """How many elements a MessagePack array has, from its first bytes."""
    first = bytes(memoryview(array)[:5])
    if first[0] & 0xF0 == 0x90:
        return first[0] & 0xF
    return int.from_bytes(first[1:3], "big") if first[0] == 0xDC else int.from_bytes(first[1:5], "big")
