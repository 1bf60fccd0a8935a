"""What is asked of every peer, in the same way: closed loop at its best number of accounts, then open loop."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from loadtest.figures import Figures
from loadtest.peers.cache import Cache, Missing
from loadtest.peers.marker import BODY_BYTES, CLOSED, COUNTED, DRAIN, OPEN, Crowd, Device, Seen, percentile_ms
from loadtest.place import children, cpu_s, resident_kib
from tests.services import Postgres, Program, answers

EACH = 3  # devices of an account
WARM_S = 1.5
DRAIN_S = 10.0


class Server(Program):
    """A peer's process; ready when its port answers."""

    name = "peer"

    def __init__(self, words: Sequence[str | Path], base: Path, env: dict[str, str], port: int) -> None:
        super().__init__(words, base, env)
        self.port = port

    def is_ready(self) -> bool:
        return self.running and answers(self.port)


@dataclass(frozen=True, slots=True)
class Running:
    """A peer that runs, fresh and empty."""

    devices: Callable[[int], list[Device]]
    """Connect and subscribe the devices of so many accounts, ``EACH`` of one account one after another."""
    server: Callable[[], list[int]]
    database: Callable[[], list[int]]
    """The processes of either; the database's may be none."""
    own_is_ack: bool = False
    error: bytes = b""


@dataclass(frozen=True, slots=True)
class Variant:
    """A peer in one of its settings."""

    name: str
    version: str
    durability: str
    start: Callable[[int], AbstractContextManager[Running]]
    """Start it for so many accounts."""
    notes: Sequence[str] = ()
    most_accounts: int = 300
    loop: int = CLOSED
    """REACHING when its answers run away from its deliveries."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command was asked."""

    cache: Cache
    seconds: float
    accounts: int
    rate: float


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """An empty folder on the disk where temporary files are, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as base:
        yield Path(base)


def exact(place: Path, package: str) -> str:
    """The version of this package that the folder's package.json wants."""
    return str(json.loads((place / "package.json").read_text())["dependencies"][package])


def node_env(**more: str) -> dict[str, str]:
    """The environment of a peer that runs on Node."""
    if not shutil.which("node"):
        raise Missing("Node is not on this machine")
    return {"PATH": os.environ["PATH"], "NODE_ENV": "production", **more}


def postgres_pids(server: Postgres) -> list[int]:
    """All processes of this Postgres."""
    return [server.pid, *children(server.pid)]


def measure(variant: Variant, options: Options) -> Figures:
    """Closed loop with a tenth, a third and all of the accounts; the best of them; then an open loop with that many.

    The open loop runs at half of ``options.rate``, or of the closed loop's best when no rate was given.
    ``RuntimeError`` when it stands none of the numbers of accounts.
    """
    most = min(options.accounts, variant.most_accounts)
    closed: dict[int, dict[str, float]] = {}
    notes = [f"durability: {variant.durability}", *variant.notes]
    for size in sorted({max(1, most // 10), max(1, most // 3), most}):
        try:
            closed[size] = _run(variant, size, options.seconds, variant.loop, 0.0, notes)
        except (OSError, RuntimeError) as why:
            notes.append(f"{size} accounts could not be run: {why}")
    if not closed:
        raise RuntimeError("; ".join(notes))
    best = max(closed, key=lambda size: closed[size]["appends_per_s"])
    rate = (options.rate or closed[best]["appends_per_s"]) / 2
    opened = _run(variant, best, options.seconds, OPEN, rate, notes)
    tried = ", ".join(f"{size}: {found['appends_per_s']:,.0f}/s" for size, found in closed.items())
    settings = {"version": variant.version, "accounts": best, "devices": EACH, "body_bytes": BODY_BYTES}
    values = {**closed[best], "open_rate_per_s": rate, **{f"open_{name}": value for name, value in opened.items()}}
    return Figures(
        f"peer {variant.name}",
        {**settings, "seconds": options.seconds},
        values,
        [f"closed loop by accounts: {tried}", *notes],
    )


def _run(variant: Variant, accounts: int, seconds: float, mode: int, rate: float, notes: list[str]) -> dict[str, float]:
    """One run on a fresh server; what was lost, doubled or refused is added to ``notes``."""
    with variant.start(accounts) as running:
        devices = running.devices(accounts)
        with Crowd(devices, each=EACH, own_is_ack=running.own_is_ack, error=running.error) as crowd:
            warm = crowd.run(WARM_S, mode, rate)
            before = [cpu_s(*pids()) for pids in (running.server, running.database)]
            seen = crowd.run(seconds, mode, rate)
            after = [cpu_s(*pids()) for pids in (running.server, running.database)]
            memory = sum(map(resident_kib, running.server()))
            left = crowd.run(DRAIN_S, DRAIN)
    if wrong := _wrong([warm, seen, left]):
        loop = "open" if mode == OPEN else "closed"
        notes.append(f"{loop} loop with {accounts} accounts, of {warm.sent + seen.sent} sent: {wrong}")
    acks = max(1, seen.acks)
    server_s, database_s = (late - early for early, late in zip(before, after, strict=True))
    found = {
        "appends_per_s": seen.acks / seen.took_s,
        "deliveries_per_append": seen.deliveries / acks,
        "ack_p50_ms": percentile_ms(seen.ack_us, 50),
        "ack_p99_ms": percentile_ms(seen.ack_us, 99),
        "delivery_p50_ms": percentile_ms(seen.delivery_us, 50),
        "delivery_p99_ms": percentile_ms(seen.delivery_us, 99),
        "server_cpu_us": 1e6 * server_s / acks,
        "database_cpu_us": 1e6 * database_s / acks,
        "generator_cpu_us": 1e6 * seen.cpu_s / acks,
        "generator_core_percent": 100 * seen.cpu_s / seen.took_s,
        "server_memory_mib": memory / 1024,
    }
    shown = "  ".join(f"{name}={value:.4g}" for name, value in found.items())
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {variant.name} {accounts} accounts: {shown} {wrong}\n")
    return found


def _wrong(runs: Sequence[Seen]) -> str:
    """Empty when everything sent was answered and reached both other devices once and in order; else what was not."""
    sent, acks, deliveries = (sum(getattr(run, name) for run in runs) for name in ("sent", "acks", "deliveries"))
    wrong = {name: sum(getattr(run, name) for run in runs) for name in COUNTED[3:]}
    wrong |= {"unanswered": sent - acks, "undelivered": (EACH - 1) * sent - deliveries}
    said = next((run.said for run in runs if run.said), "")
    return " ".join([*(f"{number} {name}" for name, number in wrong.items() if number), said]).strip()
