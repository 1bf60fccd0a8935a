"""Some thousand devices lose their connection at the same moment and dial again at once: how soon is each caught up?

    python -m loadtest storm                                        5,000 devices of 1,250 accounts, a hub on one core
    python -m loadtest storm --devices 1000 --accounts 250
    python -m loadtest storm --through haproxy --replicas 2         behind the load balancer, on all cores

Every device is signed in, has entered its space and follows one collection.  All sockets are cut without a word, each
account gets one change, and all dial within ``--spread`` seconds (0: at the same moment).  A device is back when it
holds that change.  The hub has core 0 to itself and nothing else; Postgres and the devices share the others.  The
devices are one process with plain sockets and real proofs (loadtest/crowd.py); its share of a core stands beside the
figures, and near 100 percent it is what was measured.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import asyncpg

from hub.client.connection import canonical_url
from hub.store import Append
from hub.store.postgres import PostgresStore
from loadtest.alone import PLENTY, alone, raise_open_files
from loadtest.crowd import Crowd
from loadtest.figures import Figures, distribution, percentiles
from loadtest.filling import Filler, Log, logs_of
from loadtest.place import cpu_s, place, tree_cpu_s
from loadtest.seed import SeededDevice
from tests.services import Postgres

SHORT = "--devices 500 --accounts 125"
FULL = ("--repeat 3", "--through haproxy --replicas 2 --repeat 3")
WITHIN_S = 120.0
SAMPLE_EVERY_S = 0.05
BEFORE = 3  # changes of each account that all its devices hold before


@dataclass(frozen=True, slots=True)
class Scene:
    """Where the devices dial, who serves them, and the database behind."""

    url: str
    hubs: list[int]  # process ids
    postgres: Postgres
    database_url: str
    devices: list[SeededDevice]  # grouped by account, the first of each group stays away and writes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``run``."""
    parser.add_argument("--devices", type=int, default=5_000)
    parser.add_argument("--accounts", type=int, default=1_250)
    parser.add_argument("--spread", type=float, default=0.0, help="seconds over which they dial")
    parser.add_argument("--through", choices=("nothing", "haproxy"), default="nothing")
    parser.add_argument("--replicas", type=int, default=2, choices=(1, 2, 3), help="behind haproxy")
    parser.add_argument("--connections", type=int, default=10, help="to Postgres, of one replica at most")


async def run(options: argparse.Namespace) -> list[Figures]:
    """One ``Figures``, with the times of all devices as the curve ``back``."""
    names = ("devices", "accounts", "spread", "through", "connections")
    figures = Figures("storm", {name: getattr(options, name) for name in names})
    if options.through == "haproxy":
        figures.settings["replicas"] = options.replicas
    async with _scene(options) as scene:
        await _storm(scene, options, figures)
    return [figures]


@contextlib.asynccontextmanager
async def _scene(options: argparse.Namespace) -> AsyncIterator[Scene]:
    each = options.devices // options.accounts + 1
    settings = {"HUB_DATABASE_CONNECTIONS": str(options.connections), "HUB_SESSIONS_MAX": PLENTY}
    if options.through == "haproxy":
        raise_open_files()
        async with place(accounts=options.accounts, devices_each=each, replicas=options.replicas, **settings) as here:
            pids = [replica.pid for replica in here.cluster.replicas]
            url = canonical_url(here.cluster.url)
            yield Scene(url, pids, here.postgres, here.database_url, here.devices)
    else:
        async with alone(accounts=options.accounts, devices_each=each, hub_core=0, **settings) as here_alone:
            assert here_alone.postgres
            yield Scene(
                here_alone.url,
                [here_alone.hub.pid],
                here_alone.postgres,
                here_alone.database_url,
                here_alone.devices,
            )


def _writers(devices: Sequence[SeededDevice]) -> list[SeededDevice]:
    """The first device of each account."""
    return [each for n, each in enumerate(devices) if not n or each.account_id != devices[n - 1].account_id]


async def _write(scene: Scene, logs: Sequence[Log], first: int, last: int) -> None:
    """One change after another of each account, many accounts in a transaction; no hub is told."""
    store, filler = PostgresStore(scene.database_url), Filler()
    await store.open()
    try:
        for seq in range(first, last + 1):
            for start in range(0, len(logs), 250):
                appends = [
                    Append(log.key.account_id, log.key.space_id, log.device.device_id, [filler.draft(log, seq)])
                    for log in logs[start : start + 250]
                ]
                for appended in await store.append(appends, time.time()):
                    assert not appended.closing and not appended.answers[0].code, appended
    finally:
        await store.close()


async def _storm(scene: Scene, options: argparse.Namespace, figures: Figures) -> None:
    writers = _writers(scene.devices)
    logs, away = logs_of(writers), {writer.device_id for writer in writers}
    await _write(scene, logs, 1, BEFORE)
    crowd = Crowd(scene.url, [each for each in scene.devices if each.device_id not in away])
    count = len(crowd.links)
    try:
        began = time.perf_counter()
        await asyncio.to_thread(crowd.bring_in)
        figures.values["first_arrival_s"] = time.perf_counter() - began
        crowd.counts.clear()
        crowd.announced = crowd.dials = 0
        hub_before, database_before = cpu_s(*scene.hubs), tree_cpu_s(scene.postgres.pid)
        crowd.cut()
        await _write(scene, logs, BEFORE + 1, BEFORE + 1)
        async with _connections(scene.postgres) as connections:
            own, began = time.process_time(), time.perf_counter()
            crowd.dial(spread_s=options.spread)
            await asyncio.to_thread(crowd.run, lambda: crowd.caught_up == count, WITHIN_S)
            took, own = time.perf_counter() - began, time.process_time() - own
        back = [link.caught_up_at - began for link in crowd.links if link.caught_up_at]
        figures.values |= percentiles(back, "back", "s", (50.0, 90.0, 99.0))
        figures.values |= {
            "not_back": count - len(back),
            "without_the_change": sum(max(link.cursors.values()) != BEFORE + 1 for link in crowd.links),
            "dials": crowd.dials,
            "errors_announced": crowd.announced,
            "errors_unannounced": sum(crowd.counts.values()) - crowd.announced,
            "database_connections_max": max(connections, default=0),
            "hub_us_per_device": 1e6 * (cpu_s(*scene.hubs) - hub_before) / count,
            "postgres_us_per_device": 1e6 * (tree_cpu_s(scene.postgres.pid) - database_before) / count,
            "driver_core_percent": 100 * own / took,
        }
        figures.curves["back"] = distribution(back)
        figures.notes += [f"{why}: {often}" for why, often in crowd.counts.most_common()]
    finally:
        crowd.close()


@contextlib.asynccontextmanager
async def _connections(server: Postgres) -> AsyncIterator[list[int]]:
    """How many connections the hubs have to Postgres, sampled until the block ends."""
    samples: list[int] = []
    watcher = await asyncpg.connect(server.url)
    query = "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"

    async def watch() -> None:
        while True:
            samples.append(await watcher.fetchval(query))
            await asyncio.sleep(SAMPLE_EVERY_S)

    task = asyncio.create_task(watch())
    try:
        yield samples
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await watcher.close()
