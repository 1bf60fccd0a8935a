"""What the scenarios that append have in common: a hub, many devices on its sockets, and one interval measured.

``ground`` starts hub, stores and devices; ``driven`` connects the devices; ``measured`` drives them for an interval and
says what that cost everybody.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from hub.client import HubClient
from hub.client.connection import canonical_url
from loadtest import floors
from loadtest.alone import STORES, alone, raise_open_files
from loadtest.dial import NOTES, dial_all
from loadtest.figures import Figures, Setting
from loadtest.place import cpu_s, place, resident_kib, tree_cpu_s
from loadtest.pump import Found, Pump
from loadtest.sealed import Drafts, record_key, seal_drafts, value
from loadtest.seed import APP, SeededDevice
from tests.cluster_rig import Replica
from tests.services import Balancer, Postgres, RedisServer, postgres

WAYS = ("direct", "haproxy")
STEPS = (50.0, 90.0, 99.0, 99.9)
DRAIN_S = 20.0
CHECK_S = 60.0
SPARE = 1.3  # of a closed loop: no two devices get the same share of it
RANDOM_SPARE = 1.15  # of an open loop, where each gets its turn
FLOOR_CLIENTS = 64
BATCH = "hub_append_batch_drafts"


@dataclass(frozen=True, slots=True)
class Ground:
    """What runs; the last of each account's ``devices`` is kept back when there is one to check with."""

    hubs: list[Replica]
    urls: list[str]
    devices: list[SeededDevice]
    checkers: list[SeededDevice]
    database_url: str
    file: Path  # SQLite's, without a database_url
    postgres: Postgres | None = None
    redis: RedisServer | None = None
    balancer: Balancer | None = None

    def cpu_s(self) -> dict[str, float]:
        """Processor time so far, in seconds, of each kind of process."""
        found = {"hub": cpu_s(*(hub.pid for hub in self.hubs))}
        if self.postgres:
            found["postgres"] = tree_cpu_s(self.postgres.pid)
        if self.redis:
            found["redis"] = cpu_s(self.redis.pid)
        if self.balancer:
            found["haproxy"] = cpu_s(self.balancer.pid)
        return found

    def resident_kib(self) -> int:
        """Memory of all replicas."""
        return sum(resident_kib(hub.pid) for hub in self.hubs)

    def read(self, metric: str) -> float:
        """The sum of one number of /metrics over all replicas."""
        lines = [line for hub in self.hubs for line in hub.get("/metrics")[1].splitlines()]
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{metric} "))

    async def stored_bytes(self) -> int:
        """What the database takes now, with its indexes; of SQLite with what waits in its WAL."""
        if not self.database_url:
            return sum(each.stat().st_size for each in self.file.parent.glob(f"{self.file.name}*"))
        connection = await asyncpg.connect(self.database_url)
        try:
            return int(await connection.fetchval("select pg_database_size(current_database())"))
        finally:
            await connection.close()


@asynccontextmanager
async def ground(
    *,
    store: str,
    accounts: int,
    devices: int,
    replicas: int = 1,
    through: str = "direct",
    check: bool = False,
    **settings: str,
) -> AsyncIterator[Ground]:
    """One hub by itself, or replicas with Redis, and signed-in devices.

    ``through``: devices dial HAProxy, or each account's devices one replica after another.  ``check``: one more device
    an account, that is not driven.
    """
    raise_open_files()
    each = devices + check
    async with AsyncExitStack() as stack:
        if replicas == 1 and through == "direct":
            one = await stack.enter_async_context(alone(store=store, accounts=accounts, devices_each=each, **settings))
            here = Ground([one.hub], [one.hub.url], one.devices, [], one.database_url, one.file, one.postgres)
        else:
            if store != "postgres":
                raise ValueError("several replicas, or a balancer, need Postgres")
            many = await stack.enter_async_context(
                place(accounts=accounts, devices_each=each, replicas=replicas, **settings)
            )
            running, balanced = many.cluster, through == "haproxy"
            urls = [running.url] if balanced else [replica.url for replica in running.replicas]
            balancer = running.balancer if balanced else None
            where = many.database_url, Path(), many.postgres
            here = Ground(running.replicas, urls, many.devices, [], *where, many.redis, balancer)
        if check:
            here.checkers.extend(here.devices[devices::each])
            del here.devices[devices::each]
        yield here


@asynccontextmanager
async def driven(here: Ground, count: int, *, records: int = 0) -> AsyncIterator[Pump]:
    """All devices connected and following, with ``count`` sealed drafts each."""
    drafts = await asyncio.to_thread(seal_drafts, here.devices, count, records=records)
    with Pump(await dial_all(here.urls, here.devices), drafts) as pump:
        yield pump


@dataclass(slots=True)
class Interval:
    """What one interval found and cost."""

    found: Found
    cpu_s: dict[str, float]
    batches: float
    batched: float
    notes: list[str] = field(default_factory=list)

    def values(self, pump: Pump) -> dict[str, float]:
        """The figures of this interval, which is the pump's last."""
        found, counts = self.found, self.found.counts
        appends = max(1, counts["acked"])
        said = {"appends_per_s": found.per_s("acked"), "deliveries_per_s": found.per_s("delivered")}
        for name in ("ack", "delivery"):
            times = pump.times(name)
            said |= {f"{name}_p{step:g}_ms": times.ms(step) for step in STEPS}
            said[f"{name}_last_ms"] = times.max_ns / 1e6
        said |= {f"{name}_cpu_us": 1e6 * each / appends for name, each in self.cpu_s.items()}
        said["driver_cpu_us"] = 1e6 * found.cpu_s / appends
        said["driver_cpu_percent"] = 100 * found.cpu_s / found.seconds
        said["drafts_a_batch"] = self.batched / max(1.0, self.batches)
        for name, frames, size in (("to_hub", "frames_out", "bytes_out"), ("from_hub", "frames_in", "bytes_in")):
            said[f"frames_{name}_per_s"] = found.per_s(frames)
            said[f"{name}_mib_s"] = found.per_s(size) / 2**20
        return said

    def curves(self, pump: Pump) -> dict[str, list[tuple[float, float]]]:
        """Both distributions, for the plots."""
        return {name: pump.times(name).curve() for name in ("ack", "delivery")}


async def measured(
    here: Ground, pump: Pump, seconds: float, *, rate: float = 0.0, in_flight: int = 1, warm_s: float = 0.0
) -> Interval:
    """Warm up, measure for so long, then wait until everything is delivered.

    What the warm-up left in flight goes on in the interval, so a closed loop does not start anew.
    """
    if warm_s:
        await asyncio.to_thread(pump.run, warm_s, rate=rate, in_flight=in_flight)
    batches, cpu = await _batches(here), here.cpu_s()
    found = await asyncio.to_thread(pump.run, seconds, rate=rate, in_flight=in_flight)
    used = {name: after - cpu[name] for name, after in here.cpu_s().items()}
    after = await _batches(here)
    interval = Interval(found, used, after[0] - batches[0], after[1] - batches[1])
    if not await asyncio.to_thread(pump.drain, DRAIN_S):
        interval.notes.append(f"FAULT: not everything was delivered within {DRAIN_S:.0f} s")
    if found.dry:
        interval.notes.append(f"ended after {found.seconds:.1f} s: a device's sealed drafts were used up")
    interval.notes += [f"FAULT: {fault}" for fault in pump.faults()]
    return interval


async def check(here: Ground, pump: Pump, records: int) -> list[str]:
    """A real client of the first account opens everything; sentences about what is not as it was sent."""
    checker = here.checkers[0]
    client = HubClient(checker.storage(canonical_url(here.urls[0])), APP)
    held = client.collection(NOTES)
    await client.start()
    try:
        await client.synced(CHECK_S)
        found, alarms = dict(held.items()), client.status.alarms
    finally:
        await client.stop()
    sent: dict[str, set[bytes]] = {}
    for index, line in enumerate(pump.lines):
        if line.device.account_id == checker.account_id:
            for draft in range(pump.written(index)):
                sent.setdefault(record_key(index, draft, records), set()).add(value(line.device.device_id, draft))
    said = [*differences(found, sent), *(f"FAULT: the client raises an alarm: {alarm}" for alarm in alarms)]
    return said or [f"a client of one account opened all of its {len(sent)} records, and they are what was sent"]


def differences(found: Mapping[str, object], sent: Mapping[str, set[bytes]]) -> list[str]:
    """Sentences about records that hold nothing of what was sent for them, or that nobody sent; empty: none."""
    wrong = sum(found.get(key) not in values for key, values in sent.items())
    more = len(found.keys() - sent.keys())
    said = [f"FAULT: {wrong} of {len(sent)} records are not what was sent"] if wrong else []
    return said + ([f"FAULT: {more} records that nobody sent"] if more else [])


async def floor(here: Ground, seconds: float) -> dict[str, float]:
    """pgbench's rows a second in this sitting, on the ground's own Postgres or on one of its own."""
    if here.postgres:
        return (await floors.pgbench(here.postgres, seconds)).values
    with postgres(None, "-c", "max_connections=500", fsync=True) as server:
        return (await floors.pgbench(server, seconds)).values


def add_floor(figures: Figures, floor: dict[str, float]) -> None:
    """The floor's rows a second, and how many times that the appends are."""
    for name in ("one_row", "one_statement"):
        rows = floor[f"{name}_{FLOOR_CLIENTS}_per_s"]
        figures.values[f"pgbench_{name}_{FLOOR_CLIENTS}_per_s"] = rows
        figures.values[f"appends_by_{name}_x"] = figures.values["appends_per_s"] / rows


def drafts_for(appends: float, devices: int, *, spare: float = SPARE) -> int:
    """How many drafts each device needs for so many appends of all."""
    return int(appends / devices * spare) + 8


def how_sealed(drafts: Drafts) -> str:
    """What sealing beforehand took: a driver that sealed as it went would need that much more."""
    made = drafts.count * len(drafts.pools)
    return f"{made} drafts were sealed beforehand, in {drafts.took_s:.1f} s, {1e6 * drafts.took_s / made:.0f} us each"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which hub, how many devices, what they write."""
    parser.add_argument("--store", choices=STORES, default="postgres")
    parser.add_argument("--accounts", type=int, default=300)
    parser.add_argument("--devices", type=int, default=3, help="of each account, which all follow its one collection")
    parser.add_argument(
        "--records", type=_records, default=0, help="new (each change a new record, default) or so many"
    )
    parser.add_argument("--warm", type=float, default=2.0, help="seconds before what is measured")
    parser.add_argument("--rate-max", type=int, default=40_000, help="appends a second that the sealed drafts last for")
    parser.add_argument("--with-floor", action="store_true", help="pgbench in the same sitting, and the ratio to it")
    parser.add_argument("--floor-seconds", type=float, default=4.0, help="of each of pgbench's measurements")


def settings_of(options: argparse.Namespace, *names: str) -> dict[str, Setting]:
    """These options as the settings of figures."""
    given: dict[str, Setting] = {name: getattr(options, name) for name in ("store", "accounts", "devices", *names)}
    return given | {"records": options.records or "new"}


def _records(text: str) -> int:
    return 0 if text == "new" else int(text)


async def _batches(here: Ground) -> Sequence[float]:
    """How many batches the hubs have written, and how many drafts were in them."""
    return await asyncio.to_thread(lambda: [here.read(f"{BATCH}_{what}") for what in ("count", "sum")])
