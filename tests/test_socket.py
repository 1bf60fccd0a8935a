"""The transport: whatever bytes come in whatever pieces, it hears and answers what the library would."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import socket as sockets_of_the_system
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.asyncio.messages import MAX_FRAGMENTS
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from hub.loop import stock_loop
from hub.socket import EARLY_BYTES_MAX, WRITE_BYTES_MAX, Socket, Sockets

LIMIT = 70_000
MASK = b"\x37\xfa\x21\x3d"
BINARY, TEXT, CONTINUED, CLOSE, PING, PONG = 0x2, 0x1, 0x0, 0x8, 0x9, 0xA
GOOD_BYE = b"\x88\x82" + MASK + bytes(a ^ b for a, b in zip(b"\x03\xe8", MASK, strict=False))


def uv_loop() -> asyncio.AbstractEventLoop:
    uvloop = pytest.importorskip("uvloop")
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


@pytest.fixture(params=[stock_loop, uv_loop])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    """Runs a scenario on each of the loops a hub may serve on."""
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


def frame(payload: bytes, opcode: int = BINARY, *, fin: bool = True, rsv: int = 0, masked: bool = True) -> bytes:
    """One frame as a client sends it."""
    head = bytes(((0x80 if fin else 0) | rsv << 4 | opcode,))
    mask_bit = 0x80 if masked else 0
    if len(payload) < 126:
        head += bytes((mask_bit | len(payload),))
    elif len(payload) < 65_536:
        head += struct.pack("!BH", mask_bit | 126, len(payload))
    else:
        head += struct.pack("!BQ", mask_bit | 127, len(payload))
    if not masked:
        return head + payload
    return head + MASK + bytes(byte ^ MASK[at % 4] for at, byte in enumerate(payload))


def framed(messages: list[bytes]) -> bytes:
    """What a server sends for these."""
    return b"".join(frame(message, masked=False) for message in messages)


def request(port: int) -> bytes:
    lines = ["GET / HTTP/1.1", f"Host: localhost:{port}", "Upgrade: websocket", "Connection: Upgrade"]
    return "\r\n".join([*lines, "Sec-WebSocket-Key: " + "A" * 22 + "==", "Sec-WebSocket-Version: 13", "", ""]).encode()


class Ears:
    """Keeps what a socket tells."""

    def __init__(self, socket: Socket) -> None:
        self.socket = socket
        self.heard: list[bytes | str] = []
        self.left = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.on_message: Callable[[bytes | str], None] = lambda _: None

    def received(self, message: bytes | str) -> None:
        self.heard.append(message)
        self.on_message(message)

    def sent(self, count: int) -> None:
        self.left += count

    def failed(self, exc: Exception) -> None:
        if not self.ended.done():
            self.ended.set_exception(exc)

    def lost(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


class Port:
    """A server of our sockets or of the library's, and the newest connection's ears."""

    def __init__(self) -> None:
        self.sockets = Sockets()
        self.ears: asyncio.Queue[Ears] = asyncio.Queue()
        self.number = 0

    async def dial(
        self, sent: bytes | None = None, **options: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.number, **options)
        writer.write(request(self.number) if sent is None else sent)
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        return reader, writer


@contextlib.asynccontextmanager
async def ours(**options: Any) -> AsyncIterator[Port]:
    port = Port()

    async def handle(socket: ServerConnection) -> None:
        assert isinstance(socket, Socket)
        ears = Ears(socket)
        socket.start(ears)
        port.ears.put_nowait(ears)
        await ears.ended

    create = functools.partial(Socket, sockets=port.sockets)
    async with _serving(handle, port, create_connection=create, write_limit=WRITE_BYTES_MAX, **options):
        yield port


@contextlib.asynccontextmanager
async def the_librarys(**options: Any) -> AsyncIterator[Port]:
    port = Port()

    async def handle(socket: ServerConnection) -> None:
        ears = Ears(socket)  # type: ignore[arg-type]
        port.ears.put_nowait(ears)
        with contextlib.suppress(ConnectionClosed):
            async for message in socket:
                ears.received(message)

    async with _serving(handle, port, **options):
        yield port


@contextlib.asynccontextmanager
async def _serving(handle: Any, port: Port, **options: Any) -> AsyncIterator[None]:
    settings = {"compression": None, "max_size": LIMIT, "ping_interval": None, "close_timeout": 1.0}
    async with serve(handle, "127.0.0.1", 0, **settings | options) as server:
        port.number = next(iter(server.sockets)).getsockname()[1]
        yield


async def heard_and_answered(port: Port, pieces: list[bytes]) -> tuple[list[bytes | str], bytes]:
    """What a connection makes of these reads and then of a good-bye: its messages, and the bytes it answers with."""
    reader, writer = await port.dial()
    ears = await port.ears.get()
    for piece in [*pieces, GOOD_BYE]:
        if ears.socket.protocol.eof_sent:
            break
        ears.socket.data_received(piece)
        for _ in range(3):  # the library hears in a task
            await asyncio.sleep(0)
    answered = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return ears.heard, answered


async def same_as_the_library(pieces: list[bytes], **options: Any) -> tuple[list[bytes | str], bytes]:
    async with ours(**options) as mine, the_librarys(**options) as library:
        expected = await heard_and_answered(library, pieces)
        assert await heard_and_answered(mine, pieces) == expected
    return expected


# --- the same as the library ---

BIG = bytes(range(256)) * 260  # a length in eight bytes
FAULTS = {
    "unmasked": frame(b"x", masked=False),
    "unmasked and large": frame(b"x" * 300, masked=False),
    "reserved bit": frame(b"x", rsv=4),
    "reserved bit on a fragment": frame(b"x", rsv=1, fin=False),
    "unknown opcode": frame(b"x", 0x3),
    "unknown opcode, only its head": frame(b"x" * 1_000, 0xB)[:8],
    "large ping": frame(b"x" * 126, PING),
    "ping in pieces": frame(b"x", PING, fin=False),
    "continuation of nothing": frame(b"x", CONTINUED),
    "too large": frame(b"x" * (LIMIT + 1)),
    "too large, only its head": frame(b"x" * (LIMIT + 1))[:10],
    "length with the highest bit": b"\x82\xff" + b"\xff" * 8 + MASK,
    "too large with its last piece": frame(b"x" * LIMIT, fin=False) + frame(b"xy", CONTINUED),
    "whole message between pieces": frame(b"x", fin=False) + frame(b"y"),
    "close between pieces": frame(b"x", fin=False) + frame(b"", CLOSE),
    "close with one byte": frame(b"\x03", CLOSE),
    "text that is none": frame(b"\xff\xfe", TEXT),
    "text in pieces that is none": frame(b"\xc3", TEXT, fin=False) + frame(b"\x28", CONTINUED),
    "too many pieces": frame(b"x", fin=False) + frame(b"", CONTINUED, fin=False) * MAX_FRAGMENTS,
}
GOOD = {
    "empty": frame(b""),
    "short": frame(b"a" * 125),
    "two length bytes": frame(b"b" * 126) + frame(b"c" * 65_535),
    "eight length bytes": frame(BIG),
    "as large as may be": frame(b"d" * LIMIT),
    "a length in more bytes than it needs": b"\x82\xfe\x00\x01" + MASK + b"\x00",
    "many": b"".join(frame(bytes((n,)) * n) for n in range(200)),
    "text": frame("größer".encode(), TEXT) + frame(b""),
    "pieces, then a whole one": frame(b"a", fin=False) + frame(b"b", CONTINUED) + frame(b"c"),
    "pieces with control frames between": frame(b"a", fin=False)
    + frame(b"now", PING)
    + frame(b"b", CONTINUED, fin=False)
    + frame(b"", PONG)
    + frame(b"c", CONTINUED)
    + frame(b"d"),
    "text in pieces cut within a letter": frame(b"\xc3", TEXT, fin=False) + frame(b"\xa4", CONTINUED),
    "as many pieces as may be": frame(b"x", fin=False)
    + frame(b"", CONTINUED, fin=False) * (MAX_FRAGMENTS - 2)
    + frame(b"", CONTINUED),
    "pings and pongs": frame(b"1", PING) + frame(b"2") + frame(b"3", PONG) + frame(b"", PING) + frame(b"4"),
    "words behind a good-bye": frame(b"1") + frame(b"", CLOSE) + frame(b"2"),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("before", [b"", frame(b"fine")], ids=["alone", "behind a good one"])
async def test_a_fault_ends_the_connection_as_the_library_ends_it(name: str, before: bytes) -> None:
    heard, answered = await same_as_the_library([before + FAULTS[name]])
    assert len(heard) <= 1 and answered[:1] == b"\x88" and answered[2:4] != b"\x03\xe8"


@pytest.mark.parametrize("name", GOOD)
async def test_a_stream_in_one_read_is_heard_as_the_library_hears_it(name: str) -> None:
    heard, answered = await same_as_the_library([GOOD[name]])
    assert heard and answered


@pytest.mark.parametrize("name", [name for name, stream in (GOOD | FAULTS).items() if len(stream) < 3_000])
async def test_a_stream_cut_at_every_byte_is_heard_as_the_library_hears_it(name: str) -> None:
    stream = (GOOD | FAULTS)[name]
    await same_as_the_library([stream[at : at + 1] for at in range(len(stream))])


async def test_a_whole_message_between_pieces_is_a_fault_in_a_read_of_its_own_too() -> None:
    heard, _ = await same_as_the_library([frame(b"x" * 200, fin=False), frame(b"y" * 200)])
    assert heard == []


@pytest.mark.parametrize(("size", "fits"), [(4_096, True), (4_097, False)])
async def test_a_message_in_a_read_of_its_own_is_held_to_the_limit(size: int, fits: bool) -> None:
    heard, _ = await same_as_the_library([frame(b"x" * size)], max_size=4_096)
    assert bool(heard) is fits


async def test_what_stands_behind_the_largest_message_may_be_cut_too() -> None:
    largest, behind = frame(b"d" * LIMIT), frame(b"behind")
    for cut in range(len(behind)):
        heard, _ = await same_as_the_library([largest + behind[:cut], behind[cut:]])
        assert heard[1] == b"behind"


SIZES = st.sampled_from([0, 1, 2, 5, 124, 125, 126, 127, 400, 4_000, 65_535, 65_536])
PAYLOADS = SIZES.map(lambda size: (b"payload " * (size // 8 + 1))[:size])
SMALL = st.sampled_from([b"", b"x", b"y" * 125])
PIECES = st.lists(PAYLOADS, min_size=2, max_size=4).map(
    lambda parts: (
        frame(parts[0], fin=False)
        + b"".join(frame(part, CONTINUED, fin=False) + frame(b"between", PING) for part in parts[1:-1])
        + frame(parts[-1], CONTINUED)
    )
)
STREAMS = st.lists(
    st.one_of(
        PAYLOADS.map(frame),
        PAYLOADS.map(lambda payload: frame(payload, TEXT)),
        SMALL.map(lambda payload: frame(payload, PING)),
        SMALL.map(lambda payload: frame(payload, PONG)),
        PIECES,
        st.sampled_from([fault for name, fault in FAULTS.items() if "text" not in name and len(fault) < 3_000]),
    ),
    max_size=8,
).map(b"".join)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(stream=STREAMS, cuts=st.lists(st.integers(0, 80_000), max_size=12))
def test_any_frames_in_any_pieces_are_heard_as_the_library_hears_them(stream: bytes, cuts: list[int]) -> None:
    ends = sorted({cut % (len(stream) + 1) for cut in cuts} | {0, len(stream)})
    pieces = [stream[start:end] for start, end in itertools.pairwise(ends)]
    with asyncio.Runner() as runner:
        runner.run(same_as_the_library(pieces))


# --- before the connection is one ---


@pytest.mark.parametrize("behind", [frame(b"early") + frame(b"bird"), frame(b"early") + frame(b"bird") + b"\x82"])
async def test_frames_behind_the_request_are_heard_first_of_all(behind: bytes) -> None:
    async with ours() as port:
        _, writer = await port.dial(request(port.number) + behind)
        ears = await port.ears.get()
        assert ears.heard == [b"early", b"bird"]
        writer.write((b"\x82" + frame(b"later")[1:])[len(behind) > len(frame(b"early") + frame(b"bird")) :])
        await _until(lambda: len(ears.heard) == 3)
        assert ears.heard[2] == b"later"
        writer.close()
        await ears.ended


async def test_a_request_may_come_in_pieces() -> None:
    async with ours() as port:
        whole = request(port.number)
        for cut in range(len(whole) - 5, len(whole)):
            reader, writer = await asyncio.open_connection("127.0.0.1", port.number)
            writer.write(whole[:cut])
            await _until(lambda: any(socket._rest for socket in port.sockets.all))
            writer.write(whole[cut:] + frame(b"x"))
            await reader.readuntil(b"\r\n\r\n")
            ears = await port.ears.get()
            await _until(lambda ears=ears: ears.heard == [b"x"])
            writer.close()
            await ears.ended


@pytest.mark.parametrize(("more", "stays"), [(0, True), (1, False)])
async def test_who_floods_before_the_answer_is_cut_off(more: int, stays: bool) -> None:
    answer = asyncio.Event()

    async def wait(*_: object) -> None:
        await answer.wait()

    async with ours(process_request=wait) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port.number)
        writer.write(request(port.number) + bytes(EARLY_BYTES_MAX + more))
        if stays:
            await _until(lambda: any(len(socket._rest) == EARLY_BYTES_MAX for socket in port.sockets.all))
            answer.set()
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        else:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
            answer.set()
        writer.close()


async def test_what_the_opening_needed_is_not_kept() -> None:
    async with ours() as port:
        _, writer = await port.dial()
        ears = await port.ears.get()
        assert ears.socket.request is None and ears.socket.response is None
        writer.close()
        await ears.ended


# --- on both loops, over the network ---


def test_bytes_that_come_one_by_one_are_messages_all_the_same(runner: asyncio.Runner) -> None:
    async def scenario() -> None:
        async with ours() as port:
            _, writer = await port.dial()
            ears = await port.ears.get()
            for byte in frame(b"one") + frame(b"two" * 50) + frame(b"", PING) + frame(b"three"):
                writer.write(bytes((byte,)))
                await asyncio.sleep(0)
            await _until(lambda: len(ears.heard) == 3)
            assert ears.heard == [b"one", b"two" * 50, b"three"]
            writer.close()
            await ears.ended

    runner.run(scenario())


def test_messages_go_out_in_order_and_those_of_a_turn_with_one_write(runner: asyncio.Runner) -> None:
    async def scenario() -> None:
        async with ours() as port:
            reader, writer = await port.dial()
            ears = await port.ears.get()
            writes = Writes(ears.socket)
            messages = [bytes((n,)) * n for n in (0, 1, 125, 126, 200)] + [b"z" * 20_000]
            for message in messages:
                ears.socket.send_soon(message)
            assert writes.sizes == [] and ears.left == 0
            got = await reader.readexactly(len(framed(messages)))
            assert got == framed(messages) and len(writes.sizes) == 1 and ears.left == sum(map(len, messages))
            ears.socket.send_soon(BIG)  # more than one write takes, and it goes out whole
            ears.socket.send_soon(b"behind")
            assert await reader.readexactly(len(framed([BIG, b"behind"]))) == framed([BIG, b"behind"])
            assert len(writes.sizes) == 3
            writer.close()
            await ears.ended

    runner.run(scenario())


class Writes:
    """Notes what is handed to a socket's transport, and hands it on."""

    def __init__(self, socket: Socket) -> None:
        self.sizes: list[int] = []
        self._transport = socket.transport
        socket.transport = self  # type: ignore[assignment]

    def write(self, data: bytes) -> None:
        self.sizes.append(len(data))
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def test_what_a_slow_reader_does_not_take_stays_in_the_queue(runner: asyncio.Runner) -> None:
    async def scenario() -> None:
        async with ours() as port:
            reader, writer = await port.dial(limit=2_000)
            ears = await port.ears.get()
            messages = [bytes((n,)) * 50_000 for n in range(250)]
            for message in messages:
                ears.socket.send_soon(message)
            await _until(lambda: ears.socket.paused)
            handed = ears.left
            await asyncio.sleep(0.05)
            assert ears.left == handed < 8_000_000  # what the system's buffers take, and no more
            assert ears.socket.transport.get_write_buffer_size() <= 2 * WRITE_BYTES_MAX
            assert await reader.readexactly(len(framed(messages))) == framed(messages)
            assert ears.left == 250 * 50_000
            await asyncio.wait_for(ears.socket.emptied(), 1)
            writer.close()
            await ears.ended

    runner.run(scenario())


def test_who_reads_nothing_is_cut_off_in_time(runner: asyncio.Runner) -> None:
    async def scenario() -> None:
        async with ours(close_timeout=0.2) as port:
            reader, writer = await port.dial(limit=2_000)
            ears = await port.ears.get()
            for _ in range(400):
                ears.socket.send_soon(bytes(50_000))
            await _until(lambda: ears.socket.paused)
            await asyncio.wait_for(ears.socket.close(4000, "going_away"), 2)
            await asyncio.wait_for(ears.ended, 2)
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await reader.readexactly(400 * 50_000)
            writer.close()

    runner.run(scenario())


def test_an_abrupt_end_is_told_once_and_nothing_is_left(runner: asyncio.Runner) -> None:
    async def scenario() -> None:
        async with ours() as port:
            _, writer = await port.dial()
            ears = await port.ears.get()
            linger = struct.pack("ii", 1, 0)
            line = writer.get_extra_info("socket")
            line.setsockopt(sockets_of_the_system.SOL_SOCKET, sockets_of_the_system.SO_LINGER, linger)
            writer.transport.abort()
            for n in range(20):
                ears.socket.send_soon(bytes((n,)))
            await asyncio.wait_for(ears.ended, 2)
            ears.socket.send_soon(b"to nobody")
            await asyncio.sleep(0)
            await asyncio.wait_for(ears.socket.emptied(), 1)
            assert port.sockets.all == set()

    runner.run(scenario())


def test_a_half_closed_connection_is_ended(runner: asyncio.Runner) -> None:
    async def scenario() -> None:
        async with ours() as port:
            reader, writer = await port.dial()
            ears = await port.ears.get()
            writer.write(frame(b"last words"))
            writer.write_eof()
            await asyncio.wait_for(ears.ended, 2)
            assert ears.heard == [b"last words"] and await reader.read() == b""
            writer.close()

    runner.run(scenario())


def test_a_held_socket_hands_over_nothing_and_stops_reading(runner: asyncio.Runner) -> None:
    async def scenario() -> None:
        async with ours() as port:
            _, writer = await port.dial()
            ears = await port.ears.get()

            def hold(message: bytes | str) -> None:
                ears.socket.held = message == b"wait"

            ears.on_message = hold
            writer.write(frame(b"wait") + frame(b"1") + frame(b"!", PING) + frame(b"2"))
            await _until(lambda: bool(ears.heard))
            many = [bytes((n,)) * 60_000 for n in range(200)]
            writer.write(b"".join(map(frame, many)))
            with pytest.raises(TimeoutError):  # what the other side sends comes to a halt
                await asyncio.wait_for(writer.drain(), 0.2)
            assert ears.heard == [b"wait"] and len(ears.socket._rest) < 600_000
            ears.socket.release()
            assert ears.heard[:3] == [b"wait", b"1", b"2"]
            await _until(lambda: len(ears.heard) == 203)
            assert ears.heard[3:] == many
            writer.close()
            await ears.ended

    runner.run(scenario())


def test_a_held_socket_still_closes(runner: asyncio.Runner) -> None:
    async def scenario() -> None:
        async with ours() as port:
            reader, writer = await port.dial()
            ears = await port.ears.get()
            ears.socket.held = True
            writer.write(frame(b"unheard") * 3 + GOOD_BYE[:3])
            await _until(lambda: bool(ears.socket._rest))
            closing = asyncio.create_task(ears.socket.close(4013, "overloaded"))
            await _until(lambda: not ears.socket.held)
            writer.write(GOOD_BYE[3:])
            assert await reader.read() == b"\x88\x0c\x0f\xadoverloaded"
            writer.close()
            await asyncio.wait_for(closing, 1)

    runner.run(scenario())


def test_a_fault_of_the_owner_is_told_and_closes_the_connection(runner: asyncio.Runner) -> None:
    async def scenario() -> None:
        async with ours() as port:
            reader, writer = await port.dial()
            ears = await port.ears.get()

            def stumble(message: bytes | str) -> None:
                if message == b"1":
                    raise RuntimeError("a fault of ours")

            ears.on_message = stumble
            writer.write(frame(b"1") + frame(b"2") + GOOD_BYE[:1])
            await _until(ears.ended.done)
            assert ears.heard[:1] == [b"1"]
            assert (await reader.readexactly(4))[2:] == struct.pack("!H", 1011)
            writer.write(GOOD_BYE[1:])
            await asyncio.wait_for(reader.read(), 1)
            writer.close()

    runner.run(scenario())


def test_it_speaks_through_tls(runner: asyncio.Runner) -> None:
    authority = trustme.CA()
    inside, outside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(inside)
    authority.configure_trust(outside)

    async def scenario() -> None:
        async with ours(ssl=inside) as port:
            reader, writer = await port.dial(ssl=outside, server_hostname="localhost")
            ears = await port.ears.get()
            writer.write(frame(b"quiet") + frame(BIG))
            await _until(lambda: len(ears.heard) == 2)
            messages = [bytes((n,)) * 50_000 for n in range(250)]
            for message in messages:
                ears.socket.send_soon(message)
            await _until(lambda: ears.socket.paused)
            assert await reader.readexactly(len(framed(messages))) == framed(messages)
            closing = asyncio.create_task(ears.socket.close(4000))
            assert (await reader.readexactly(4))[2:] == struct.pack("!H", 4000)
            writer.write(GOOD_BYE)
            writer.close()
            await asyncio.wait_for(closing, 3)

    runner.run(scenario())


async def _until(holds: Callable[[], bool], within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.001)
