"""Drives many signed-in devices from one thread of C (pump.c), compiled when it is first wanted.

    with Pump(lines, drafts) as pump:
        pump.run(2.0, in_flight=1)              # closed loop, to warm up
        found = pump.run(8.0, rate=500)         # open loop: 500 a second of all devices together
        pump.drain(5.0)

Sockets come from ``dial.py``, drafts from ``sealed.py``.  Times are in nanoseconds, from the moment an append was to
begin until its answer was read (``ack``) and until another device has read the change (``delivery``).
"""

from __future__ import annotations

import ctypes
import functools
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hub.client.keys import SpaceKeys
from hub.wire import messages as m
from hub.wire.codec import decode_from_hub, encode
from loadtest.dial import Line, collection_id
from loadtest.sealed import Drafts

SOURCE = Path(__file__).with_name("pump.c")
STEPS = 128
BUCKETS = STEPS * 36
KEPT = 512
_COUNTED = (
    "sent", "acked", "refused", "delivered", "placed", "gaps", "duplicates", "mismatched", "unknown", "others", "pings",
    "closed", "frames_in", "frames_out", "bytes_in", "bytes_out", "reads", "writes", "wall_ns", "cpu_ns",
)  # fmt: skip
FAULTS = ("refused", "gaps", "duplicates", "mismatched", "unknown", "others", "closed")


class NoCompiler(Exception):
    """There is no C compiler on this machine, so nothing can be driven; a sentence."""


class _Counts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in _COUNTED]


class _Histogram(ctypes.Structure):
    _fields_ = [
        ("count", ctypes.c_uint64),
        ("max_ns", ctypes.c_uint64),
        ("sum_ns", ctypes.c_uint64),
        ("bucket", ctypes.c_uint32 * BUCKETS),
    ]


class _Pump(ctypes.Structure):
    """The beginning of pump_t."""

    _fields_ = [
        ("counts", _Counts),
        ("ack", _Histogram),
        ("delivery", _Histogram),
        ("lag", _Histogram),
        ("odd", ctypes.c_uint8 * KEPT),
        ("odd_bytes", ctypes.c_uint32),
        ("dry", ctypes.c_uint32),
    ]


@dataclass(frozen=True, slots=True)
class Times:
    """A distribution of times, within 0.8 percent each."""

    count: int
    max_ns: int
    mean_ns: float
    buckets: dict[int, int]

    def ms(self, percent: float) -> float:
        """The time that so many percent do not exceed, in milliseconds; 0 of none."""
        below, wanted = 0, self.count * percent / 100
        for at, count in self.buckets.items():
            below += count
            if below >= wanted:
                return min(_middle_ns(at), self.max_ns) / 1e6
        return self.max_ns / 1e6

    def curve(self, points: int = 200) -> list[tuple[float, float]]:
        """At most so many points (milliseconds, share of the times not above it)."""
        found, below = [], 0
        for at, count in self.buckets.items():
            below += count
            found.append((_middle_ns(at) / 1e6, below / self.count))
        step = max(1, -(-len(found) // points))
        return found[step - 1 :: step] + found[-1:]


@dataclass(frozen=True, slots=True)
class Found:
    """What one run found: counts of that run alone (names of ``pump.c``), and times."""

    counts: dict[str, int]
    dry: bool

    @property
    def seconds(self) -> float:
        return self.counts["wall_ns"] / 1e9

    def per_s(self, name: str) -> float:
        """So many of these a second."""
        return self.counts[name] / self.seconds

    @property
    def cpu_s(self) -> float:
        """Processor time of the driver's thread."""
        return self.counts["cpu_ns"] / 1e9


class Pump:
    """All sockets of a measurement, grouped by account as the lines are.  Closes the sockets at its end."""

    def __init__(self, lines: Sequence[Line], drafts: Drafts) -> None:
        library = _library()
        self._library, self.lines, self.drafts = library, lines, drafts
        pong = encode(m.Pong())
        self._pump = library.pump_new(len(lines), drafts.stride, secrets.randbits(63), pong, len(pong))
        if not self._pump:
            raise MemoryError("no memory or no descriptor is left for the pump")
        self._seen = ctypes.cast(self._pump, ctypes.POINTER(_Pump)).contents
        accounts: dict[bytes, int] = {}
        for line, pool in zip(lines, drafts.pools, strict=True):
            account = accounts.setdefault(line.device.account_id, len(accounts))
            collection = collection_id(SpaceKeys.derive(line.device.app_key))
            left = line.left, len(line.left)
            if (
                library.pump_add(self._pump, line.socket.fileno(), account, collection, 0, pool, drafts.count, *left)
                < 0
            ):
                self.close()
                raise MemoryError("no memory is left for another device")
        self._written = [0] * len(lines)
        self.followers = len(lines) // len(accounts)
        self._before = self._counts()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free everything and hang up."""
        if self._pump:
            self._seen = _Pump.from_buffer_copy(self._seen)  # the numbers can still be read
            self._library.pump_free(self._pump)
            self._pump = None
        for line in self.lines:
            line.socket.close()

    def refill(self, drafts: Drafts) -> None:
        """Give every device more drafts, after a ``drain`` that was whole; what is left of the old ones is dropped."""
        assert drafts.stride == self.drafts.stride
        self._written = [self.written(index) for index in range(len(self.lines))]
        for index, pool in enumerate(drafts.pools):
            if self._library.pump_refill(self._pump, index, pool, drafts.count):
                raise MemoryError("no memory is left for more drafts")
        self.drafts = drafts

    def run(self, seconds: float, *, rate: float = 0.0, in_flight: int = 1) -> Found:
        """Append for so long; blocks its thread and lets others run.

        ``rate`` 0: each device keeps ``in_flight`` (1 to 4) appends in flight.  Else: so many appends a second begin,
        of all devices together, at random moments.  Ends early, and says so, when a device's pool is dry.
        """
        dry = self._library.pump_run(self._pump, seconds, rate, in_flight)
        return self._found(bool(dry))

    def drain(self, seconds: float) -> bool:
        """Wait at most so long until everything is answered and delivered; whether it is."""
        whole = bool(self._library.pump_drain(self._pump, seconds, self.followers))
        self._before = self._counts()
        return whole

    def rest(self, seconds: float) -> Found:
        """Only read and answer pings for so long."""
        self._library.pump_drain(self._pump, seconds, 0)
        return self._found(False)

    def set_reading(self, index: int, reads: bool) -> None:
        """Let one device read or not; while it does not it writes nothing either."""
        self._library.pump_read(self._pump, index, int(reads))

    def closing(self, index: int) -> int:
        """The closing that the hub gave a device; 1006: the line was lost without one; 0: it is connected."""
        return int(self._library.pump_closing(self._pump, index))

    def upto(self, index: int) -> int:
        """The seq up to which a device has its collection."""
        return int(self._library.pump_upto(self._pump, index))

    def written(self, index: int) -> int:
        """How many drafts a device has sent since the beginning."""
        return self._written[index] + int(self._library.pump_sent(self._pump, index))

    @property
    def total(self) -> dict[str, int]:
        """The counts since the beginning."""
        return self._counts()

    def times(self, name: str) -> Times:
        """``ack``, ``delivery``, or ``lag`` (how late the driver itself was) of what began in the last run.

        Whole only after ``drain``: what was under way when the run ended is in it from then on.
        """
        seen: _Histogram = getattr(self._seen, name)
        buckets = {at: count for at, count in enumerate(seen.bucket) if count}
        return Times(seen.count, seen.max_ns, seen.sum_ns / max(1, seen.count), buckets)

    @property
    def odd(self) -> str:
        """The first refusal or unexpected message, for a person to read; empty when there was none."""
        raw = bytes(self._seen.odd[: self._seen.odd_bytes])
        try:
            return str(decode_from_hub(raw)) if raw else ""
        except ValueError:
            return raw.hex(" ")

    def faults(self) -> list[str]:
        """What must not have happened since the beginning, as sentences."""
        said = [f"{count} {name}" for name, count in self._counts().items() if count and name in FAULTS]
        return [*said, *([f"the first odd message: {self.odd}"] if self.odd else [])]

    def _counts(self) -> dict[str, int]:
        return {name: getattr(self._seen.counts, name) for name in _COUNTED}

    def _found(self, dry: bool) -> Found:
        counts = self._counts()
        before, self._before = self._before, counts
        return Found({name: counts[name] - before[name] for name in _COUNTED}, dry)


def _middle_ns(at: int) -> float:
    """The middle of a histogram's bucket."""
    if at < STEPS:
        return float(at)
    shift = at // STEPS - 1
    return float(((STEPS + at % STEPS) << shift) + (1 << shift) / 2)


@functools.cache
def _library() -> ctypes.CDLL:
    """pump.c, compiled.  Raises ``NoCompiler``."""
    compiler = os.environ.get("CC") or shutil.which("cc")
    if not compiler:
        raise NoCompiler("the load generator is written in C, and no C compiler (cc) is on this machine")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "pump.so"
        words = ["-O3", "-shared", "-fPIC", "-o", made, SOURCE, "-lm"]
        done = subprocess.run([compiler, *words], capture_output=True, text=True)
        if done.returncode:
            raise NoCompiler(f"the load generator does not compile here: {done.stderr.strip()}")
        library = ctypes.CDLL(str(made))
    pointer, u32, bytes_ = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_char_p
    for name, result, *arguments in (
        ("pump_new", pointer, u32, u32, ctypes.c_uint64, bytes_, u32),
        ("pump_add", ctypes.c_int, pointer, ctypes.c_int, u32, bytes_, ctypes.c_uint64, bytes_, u32, bytes_, u32),
        ("pump_refill", ctypes.c_int, pointer, u32, bytes_, u32),
        ("pump_run", ctypes.c_int, pointer, ctypes.c_double, ctypes.c_double, u32),
        ("pump_drain", ctypes.c_int, pointer, ctypes.c_double, u32),
        ("pump_read", None, pointer, u32, ctypes.c_int),
        ("pump_closing", ctypes.c_int, pointer, u32),
        ("pump_upto", ctypes.c_uint64, pointer, u32),
        ("pump_sent", u32, pointer, u32),
        ("pump_free", None, pointer),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
