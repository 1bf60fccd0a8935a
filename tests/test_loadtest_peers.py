"""The generator that measures the peers, against a toy server on socket pairs; and the bytes it writes by hand."""

from __future__ import annotations

import contextlib
import selectors
import shutil
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from loadtest.peers import dial
from loadtest.peers.hocuspocus import first_item, next_item, varint
from loadtest.peers.marker import (
    BODY_BYTES,
    BUCKETS,
    CLOSED,
    COUNTED,
    DRAIN,
    OPEN,
    REACHING,
    Crowd,
    Device,
    Request,
    Seen,
    body,
    bucket_us,
    mark,
    percentile_ms,
)

needs_cc = pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")

FIRST = "0101ac02000301086465766963652d3305626567756e00"
NEXT = "0101ac020183ac02008002"

DEVICES = 6  # two accounts of three
REQUEST_BYTES = BODY_BYTES + len(mark("A", 0))
Others = Callable[[int, bytes], list[bytes]]
"""What each of the two others is sent for a device's change."""


@contextlib.contextmanager
def toy(others: Others, *, piece: int = 1 << 20) -> Iterator[list[Device]]:
    """Answers a request with its A mark and sends its body on to the account's others, so many bytes a write."""
    pairs = [socket.socketpair() for _ in range(DEVICES)]
    ours, stop = [theirs for _, theirs in pairs], threading.Event()
    waiting = [b""] * DEVICES

    def send(n: int, data: bytes) -> None:
        for at in range(0, len(data), piece):
            ours[n].sendall(data[at : at + piece])

    def serve() -> None:
        with selectors.DefaultSelector() as ready, contextlib.suppress(OSError):  # the generator may hang up first
            for n, line in enumerate(ours):
                ready.register(line, selectors.EVENT_READ, n)
            while not stop.is_set():
                for key, _ in ready.select(0.01):
                    heard(key.data)

    def heard(n: int) -> None:
        waiting[n] += ours[n].recv(65_536)
        while len(waiting[n]) >= REQUEST_BYTES:
            request, waiting[n] = waiting[n][:REQUEST_BYTES], waiting[n][REQUEST_BYTES:]
            send(n, request[BODY_BYTES:])
            for other in {n // 3 * 3, n // 3 * 3 + 1, n // 3 * 3 + 2} - {n}:
                for each in others(n, request[:BODY_BYTES]):
                    send(other, each)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield [Device(line, Request([body(n) + mark("A", n)])) for n, (line, _) in enumerate(pairs)]
    finally:
        stop.set()
        thread.join()
        for line in ours:
            line.close()


def run(devices: list[Device], mode: int = CLOSED, rate: float = 0.0, *, whole: bool = True) -> Counter[str]:
    """Send until something has been sent often enough, then listen: until all is there, or not when it cannot be."""
    counted: Counter[str] = Counter()
    with Crowd(devices, each=3) as crowd:
        while counted["sent"] < 60 and counted["spent"] < DEVICES:
            counted += tally(crowd.run(0.1, mode, rate))
        counted += tally(crowd.run(30.0 if whole else 0.2, DRAIN))
    return counted


def tally(seen: Seen) -> Counter[str]:
    timed = {"acks timed": sum(seen.ack_us), "deliveries timed": sum(seen.delivery_us)}
    return Counter({name: getattr(seen, name) for name in COUNTED} | timed)


@needs_cc
@pytest.mark.parametrize(("mode", "rate"), [(CLOSED, 0.0), (REACHING, 0.0), (OPEN, 500.0)])
@pytest.mark.parametrize("piece", [1 << 20, 7])
def test_everything_sent_is_seen_answered_and_at_both_others_however_the_bytes_are_cut(
    mode: int, rate: float, piece: int
) -> None:
    with toy(lambda n, change: [change], piece=piece) as devices:
        seen = run(devices, mode, rate)
    assert seen["acks"] == seen["acks timed"] == seen["sent"]
    assert seen["deliveries"] == seen["deliveries timed"] == 2 * seen["sent"]
    assert not seen["skipped"] + seen["repeated"] + seen["strangers"] + seen["dropped"] + seen["late"]


@needs_cc
@pytest.mark.parametrize("mode", [CLOSED, REACHING])
def test_the_closed_loop_has_one_in_flight(mode: int) -> None:
    with toy(lambda n, change: [change]) as devices, Crowd(devices, each=3) as crowd:
        seen = crowd.run(0.3, mode)
    assert seen.acks <= seen.sent <= seen.acks + DEVICES


@needs_cc
def test_a_loop_that_waits_for_the_others_sends_no_more_when_they_hear_nothing() -> None:
    with toy(lambda n, change: []) as devices, Crowd(devices, each=3) as crowd:
        seen = crowd.run(0.3, REACHING)
    assert seen.sent == DEVICES


@needs_cc
def test_a_change_that_comes_twice_is_counted_as_repeated_and_delivered_once() -> None:
    with toy(lambda n, change: [change, change]) as devices:
        seen = run(devices)
    assert seen["deliveries"] == 2 * seen["sent"]
    assert seen["repeated"] > seen["sent"]


@needs_cc
def test_a_change_that_never_comes_is_counted_as_skipped() -> None:
    dropped = mark("B", 4, 2)  # the second of device 4
    with toy(lambda n, change: [] if change.startswith(dropped) else [change]) as devices:
        seen = run(devices)
    assert seen["skipped"] == 2
    assert seen["deliveries"] == 2 * seen["sent"] - 2


@needs_cc
def test_a_change_of_another_account_is_a_stranger() -> None:
    with toy(lambda n, change: [change, mark("B", (n + 3) % DEVICES, 1)]) as devices:
        seen = run(devices)
    assert seen["strangers"] > 0


@needs_cc
def test_requests_made_beforehand_are_sent_in_order_and_then_no_more() -> None:
    with toy(lambda n, change: [change]) as devices:
        for n, device in enumerate(devices):
            frames = [
                body(n).replace(mark("B", n), mark("B", n, count)) + mark("A", n, count) for count in range(1, 11)
            ]
            device.request = Request(frames, made=True)
        seen = run(devices)
    assert seen["sent"] == seen["acks"] == 10 * DEVICES
    assert seen["spent"] == DEVICES


def test_the_middles_of_the_histogram_rise_by_less_than_a_sixtieth() -> None:
    middles = [bucket_us(n) for n in range(BUCKETS)]
    assert middles[:128] == list(range(128))
    assert all(0 < high - low <= high / 60 for low, high in pairwise(middles[127:]))


def test_a_percentile_is_what_so_many_percent_do_not_exceed() -> None:
    histogram = [0] * BUCKETS
    histogram[100], histogram[120] = 99, 1
    assert percentile_ms(histogram, 50) == percentile_ms(histogram, 99) == 0.1
    assert percentile_ms(histogram, 99.5) == 0.12
    assert percentile_ms([0] * BUCKETS, 50) == 0


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_a_hand_written_frame_is_what_a_websocket_library_reads(size: int) -> None:
    payload = bytes(size)
    reader = StreamReader()
    reader.feed_data(dial.frame(payload, 2))
    parsing = Frame.parse(reader.read_exact, mask=True)
    with pytest.raises(StopIteration) as done:
        next(parsing)
    assert done.value.value == Frame(Opcode.BINARY, payload)


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_a_servers_frame_is_read_when_it_is_whole_and_not_before(size: int) -> None:
    sent = Frame(Opcode.TEXT, b"x" * size).serialize(mask=False)
    assert dial.unframe(sent[:-1]) is None
    assert dial.unframe(sent + b"more") == (1, b"x" * size, b"more")


def test_the_items_of_yjs_are_those_of_its_own_library() -> None:
    # Y.Array "device-3" of client 300: one push, then another, as the library encodes the two updates.
    assert first_item(300, "device-3", b"begun").hex() == FIRST
    item, holes = next_item(300, b"B" * BODY_BYTES)
    short = bytearray(item)
    for at, _ in reversed(holes):
        short[at : at + 5] = varint(1 if at == holes[0][0] else 0)
    assert bytes(short).hex() == NEXT + "42" * BODY_BYTES + "00"
