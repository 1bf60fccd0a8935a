"""The numbers of the hub: their names, what they count, and their units, without I/O.

``Metrics.__init__`` is the whole table.  Whoever produces a number holds the
``Metrics`` it was given and calls ``add``, ``set`` or ``observe``; ``render`` gives
the text that Prometheus reads (exposition format 0.0.4).

No number has an account, a device or an address in a label: label values are
words of our own tables, so the count of series is fixed from the start.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence

from hub.errors import CLOSINGS, REFUSALS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SEQS = (0.0, 1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0)
COUNTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)


class Counter:
    """Only ever grows."""

    kind = "counter"

    def __init__(self, name: str, help: str) -> None:
        self.name, self.help = name, help
        self._number: float = 0

    def add(self, number: float = 1) -> None:
        """Count ``number`` more."""
        assert number >= 0, f"{self.name} only grows"
        self._number += number

    def get(self) -> float:
        """How many so far."""
        return self._number

    def lines(self) -> Iterator[str]:
        """The sample as text."""
        yield f"{self.name} {_shown(self._number)}"


class CounterBy:
    """One counter for each value of a label."""

    kind = "counter"

    def __init__(self, name: str, help: str, label: str, values: Iterable[str]) -> None:
        self.name, self.help, self._label = name, help, label
        # Every series is there from the start at 0, so that the first step is seen as one.
        self._numbers: dict[str, float] = dict.fromkeys(values, 0)

    def add(self, value: str, number: float = 1) -> None:
        """Count ``number`` more under ``value``."""
        assert value in self._numbers and number >= 0, f"{self.name} has no {self._label} {value!r}"
        self._numbers[value] += number

    def get(self, value: str) -> float:
        """How many so far."""
        return self._numbers[value]

    def lines(self) -> Iterator[str]:
        """The samples as text."""
        for value, number in self._numbers.items():
            yield f"{self.name}{_labels({self._label: value})} {_shown(number)}"


class Gauge:
    """Goes up and down."""

    kind = "gauge"

    def __init__(self, name: str, help: str, labels: dict[str, str] | None = None) -> None:
        self.name, self.help, self._labels = name, help, labels or {}
        self._number: float = 0
        self._read: Callable[[], float] | None = None

    def set(self, number: float) -> None:
        """It is this now."""
        self._number = number

    def read_from(self, read: Callable[[], float]) -> None:
        """Ask ``read`` each time it is shown, instead of being told."""
        self._read = read

    def get(self) -> float:
        """What it is now."""
        return self._read() if self._read else self._number

    def lines(self) -> Iterator[str]:
        """The sample as text."""
        yield f"{self.name}{_labels(self._labels)} {_shown(self.get())}"


class Histogram:
    """How often a number lay below each bound; with the sum and the count."""

    kind = "histogram"

    def __init__(self, name: str, help: str, bounds: tuple[float, ...]) -> None:
        self.name, self.help, self._bounds = name, help, bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, number: float, times: int = 1) -> None:
        """One more such number, or ``times`` more."""
        self._counts[bisect_left(self._bounds, number)] += times
        self._sum += number * times

    def observe_all(self, numbers: Sequence[float]) -> None:
        """So many at once, at half the cost of one call for each."""
        bounds, counts = self._bounds, self._counts
        for number in numbers:
            counts[bisect_left(bounds, number)] += 1
        self._sum += sum(numbers)

    def get(self) -> tuple[int, float]:
        """How many numbers so far, and their sum."""
        return sum(self._counts), self._sum

    def lines(self) -> Iterator[str]:
        """The samples as text; Prometheus' buckets add up."""
        below = 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            below += count
            yield f"{self.name}_bucket{_labels({'le': _shown(bound)})} {below}"
        yield f"{self.name}_sum {_shown(self._sum)}"
        yield f"{self.name}_count {below}"


Metric = Counter | CounterBy | Gauge | Histogram


class Metrics:
    """All numbers of one running hub."""

    def __init__(self, *, version: str = "", python: str = "", started_at: float = 0.0) -> None:
        self.build_info = Gauge("hub_build_info", "Always 1.", {"version": version, "python": python})
        self.build_info.set(1)
        self.started_at = Gauge("hub_start_time_seconds", "When this process started, Unix time.")
        self.started_at.set(started_at)

        self.sessions = Gauge("hub_sessions", "Devices connected now.")
        self.connections = Counter("hub_connections_total", "Connections accepted, signed in or not.")
        self.received_bytes = Counter("hub_received_bytes_total", "Bytes of messages from devices.")
        self.sent_bytes = Counter("hub_sent_bytes_total", "Bytes of messages to devices.")
        self.queued_bytes = Gauge("hub_queued_bytes", "Bytes waiting in the queues of all sessions.")

        self.drafts = CounterBy("hub_drafts_total", "Drafts answered, by answer.", "answer", ["appended", *REFUSALS])
        self.append_batch = Histogram("hub_append_batch_drafts", "Drafts in one transaction.", COUNTS)
        self.append_seconds = Histogram("hub_append_seconds", "From an append's arrival to its answer.", SECONDS)
        self.delivery_seconds = Histogram(
            "hub_delivery_seconds", "From a change's append to the queue of a device that was following.", SECONDS
        )
        self.store_seconds = Histogram("hub_store_seconds", "One transaction of the store, append or page.", SECONDS)
        self.changes_delivered = Counter("hub_changes_delivered_total", "Changes sent to devices, live or not.")
        self.recoveries = CounterBy(
            "hub_recoveries_total",
            "Collections that devices began to follow, by what became of their cursor.",
            "result",
            ["kept", "new_incarnation", "from_start"],
        )
        self.behind = Histogram("hub_catch_up_seqs", "How far behind a device was when it began to follow.", SEQS)
        self.pages = Counter("hub_pages_total", "Pages read from the store for devices that were behind.")
        self.compacted = Counter("hub_changes_compacted_total", "Replaced changes dropped after the history window.")

        self.refusals = CounterBy("hub_refusals_total", "Requests refused, by code.", "code", REFUSALS)
        self.closings = CounterBy(
            "hub_closings_total", "Connections closed by the hub, by closing.", "closing", CLOSINGS
        )
        self.codes = CounterBy("hub_codes_total", "Mails with a code, by outcome.", "outcome", ["sent", "failed"])

        self.bus_connected = Gauge("hub_bus_connected", "1 while Redis carries notices, 0 while it does not.")
        self.notices = CounterBy(
            "hub_notices_total",
            "Notices over Redis, by outcome.",
            "outcome",
            ["sent", "dropped", "received", "refused"],
        )
        self.bus_seconds = Histogram("hub_bus_seconds", "From handing a notice to Redis to its answer.", SECONDS)

        self.last_backup = Gauge(
            "hub_last_backup_timestamp_seconds", "When hub backup was last carried out, Unix time; 0: never."
        )
        self.disk_free = Gauge("hub_disk_free_bytes", "Free room where data_dir is.")

    def all(self) -> list[Metric]:
        """Every metric, in the order of the table."""
        return [metric for metric in vars(self).values() if isinstance(metric, Metric)]

    def render(self) -> str:
        """The page that ``/metrics`` answers with."""
        return "".join(
            f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind}\n"
            + "\n".join(metric.lines())
            + "\n"
            for metric in self.all()
        )


def _labels(pairs: dict[str, str]) -> str:
    escaped = (f'{name}="{_escaped(value)}"' for name, value in pairs.items())
    return "{" + ",".join(escaped) + "}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _shown(number: float) -> str:
    if number == float("inf"):
        return "+Inf"
    return str(int(number)) if number == int(number) else repr(float(number))
