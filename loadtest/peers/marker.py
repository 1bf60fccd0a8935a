"""The load generator of the peers: one thread of C (``marker.c``) that finds marks in whatever protocol is spoken.

``Crowd`` takes sockets that are connected and subscribed, and for each device the bytes of its request; ``run`` sends
and listens for a while and says what was seen.  Needs a C compiler.
"""

from __future__ import annotations

import ctypes
import functools
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

BODY_BYTES = 256
COUNT, PADDED, PADDED_BEFORE = 0, 1, 2
"""What stands in a hole: eight hex digits of the device's count; it as a varint of five bytes; the one before it so."""

DRAIN, CLOSED, OPEN, REACHING = 0, 1, 2, 3
"""Send nothing until all is heard; one request in flight a device; a Poisson stream, counted from the intended start;
one in flight a device that must have reached the others too, for peers whose deliveries fall behind their answers."""

_MARK = re.compile(rb"qZ[AB][0-9a-f]{6}([0-9a-f]{8})")
_LETTERS = b"ABCDEFGHIJKLMNOPRSTUVWXYZabcdefghijklmnoprstuvwxyz0123456789-_"  # without q


def mark(letter: str, device: int, count: int = 0) -> bytes:
    """What the generator looks for: A an answer's, B a change's own; 17 bytes."""
    return f"qZ{letter}{device:06x}{count:08x}".encode()


def body(device: int, size: int = BODY_BYTES) -> bytes:
    """A change of so many bytes, random letters after its mark."""
    head = mark("B", device)
    return head + bytes(secrets.choice(_LETTERS) for _ in range(size - len(head)))


@dataclass(frozen=True, slots=True)
class Request:
    """The bytes of a device's request: one frame whose marks are filled in each time, or many made beforehand."""

    frames: Sequence[bytes]
    holes: Sequence[tuple[int, int]] = ()
    """(offset, what stands there); beside those of the marks, which are found."""
    made: bool = False
    """The frames are used one after another as they are; their marks count from 1."""

    def all_holes(self) -> list[tuple[int, int]]:
        if self.made:
            return []
        (frame,) = self.frames
        return [(found.start(1), COUNT) for found in _MARK.finditer(frame)] + list(self.holes)


@dataclass(slots=True)
class Device:
    """One device: its sockets and its request."""

    main: socket.socket
    request: Request
    feed: socket.socket | None = None
    """Where deliveries come, when not on ``main``."""
    pattern: bytes = b""
    """What answers a request, in order, when nothing in the answer names it."""
    first: int = 0
    """The count of its last request so far."""


@dataclass(slots=True)
class Seen:
    """What one ``run`` saw."""

    took_s: float
    sent: int
    acks: int
    deliveries: int
    late: int
    repeated: int
    skipped: int
    errors: int
    dropped: int
    strangers: int
    spent: int
    """Times that nothing made beforehand was left to send."""
    cpu_s: float
    said: str
    ack_us: list[int] = field(repr=False, default_factory=list)
    delivery_us: list[int] = field(repr=False, default_factory=list)


COUNTED = ("sent", "acks", "deliveries", "late", "repeated", "skipped", "errors", "dropped", "strangers", "spent")


class _Result(ctypes.Structure):
    _fields_ = (("took_s", ctypes.c_double), *((name, ctypes.c_uint64) for name in COUNTED))


BUCKETS = 2048


def bucket_us(at: int) -> float:
    """The middle of what is counted in this bucket, in microseconds."""
    if at < 128:
        return float(at)
    shift = at // 64 - 1
    return ((at - 64 * shift) << shift) + (1 << shift) / 2


def percentile_ms(histogram: Sequence[int], percent: float) -> float:
    """The value that so many percent do not exceed, to 1.6 %; 0 of none."""
    left = sum(histogram) * percent / 100
    for at, count in enumerate(histogram):
        left -= count
        if count and left <= 0:
            return bucket_us(at) / 1000
    return 0.0


@functools.cache
def _library() -> ctypes.CDLL:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        raise RuntimeError("the load generator of the peers is C: it needs a C compiler (cc), and there is none here")
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "marker.so"
        source = Path(__file__).with_name("marker.c")
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", built, source, "-lm"], check=True)
        library = ctypes.CDLL(str(built))
    library.crowd_new.restype = ctypes.c_void_p
    library.crowd_said.restype = ctypes.c_char_p
    for name in ("crowd_ack_us", "crowd_delivery_us"):
        getattr(library, name).restype = ctypes.POINTER(ctypes.c_uint32)
    return library


class Crowd:
    """Devices, ``each`` of one account one after another; ``with`` closes their sockets."""

    def __init__(self, devices: Sequence[Device], *, each: int, own_is_ack: bool = False, error: bytes = b"") -> None:
        self._c = _library()
        self.devices = devices
        random = ctypes.c_uint64(secrets.randbits(63))
        self._crowd = ctypes.c_void_p(self._c.crowd_new(len(devices), each, int(own_is_ack), error, len(error), random))
        for n, device in enumerate(devices):
            self._add(n, device)

    def _add(self, n: int, device: Device) -> None:
        for side in (device.main, device.feed):
            if side:
                side.setblocking(False)
        frames = b"".join(device.request.frames)
        ends, so_far = [], 0
        for frame in device.request.frames:
            so_far += len(frame)
            ends.append(so_far)
        holes = [number for hole in device.request.all_holes() for number in hole]
        failed = self._c.crowd_device(
            self._crowd,
            n,
            device.main.fileno(),
            device.feed.fileno() if device.feed else -1,
            frames,
            len(frames),
            (ctypes.c_uint32 * len(ends))(*ends),
            len(ends),
            (ctypes.c_uint32 * max(1, len(holes)))(*holes),
            len(holes) // 2,
            device.pattern,
            len(device.pattern),
            device.first,
        )
        if failed:
            raise OSError(-failed, "the generator does not take this socket")

    def run(self, seconds: float, mode: int, rate: float = 0.0) -> Seen:
        """Send and listen for so long; ``rate`` is of the open loop, requests a second.  Blocks; other threads run."""
        result, cpu_s = _Result(), 0.0

        def work() -> None:
            nonlocal cpu_s
            began = time.thread_time()
            self._c.crowd_run(self._crowd, ctypes.c_double(seconds), mode, ctypes.c_double(rate), ctypes.byref(result))
            cpu_s = time.thread_time() - began

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return Seen(
            *(getattr(result, name) for name, _ in _Result._fields_),
            cpu_s=cpu_s,
            said=(self._c.crowd_said(self._crowd) or b"").decode("utf-8", "replace"),
            ack_us=self._c.crowd_ack_us(self._crowd)[:BUCKETS],
            delivery_us=self._c.crowd_delivery_us(self._crowd)[:BUCKETS],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._c.crowd_free(self._crowd)
        for device in self.devices:
            for side in (device.main, device.feed):
                if side:
                    side.close()
