"""Devices that are connected and do nothing: what does each hold of memory, and what do all of them take of a core?

    python -m loadtest idle                           8,000 devices, 75 seconds: three heartbeats of each
    python -m loadtest idle --devices 1000 --seconds 25
    python -m loadtest idle --store sqlite

Each device is signed in, has entered its space and follows three collections of which each holds one change.  The
share of a core is the hub's processor time over the seconds, in which every device answers its pings.  Memory is what
the hub's process has resident after that, less what it had before the first device, divided by the devices.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from hub.store import Store
from loadtest.alone import STORES, Alone, alone, raise_open_files
from loadtest.crowd import Crowd
from loadtest.figures import Figures
from loadtest.filling import append_all, sealed_puts
from loadtest.place import resident_kib
from loadtest.seed import SeededDevice

SHORT = "--devices 500 --seconds 25"
DEVICES_EACH = 16
SETTLE_S = 3.0  # so that what arriving made is done


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``run``."""
    parser.add_argument("--devices", type=int, default=8_000)
    parser.add_argument("--collections", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=75.0, help="whole heartbeats of 25 seconds")
    parser.add_argument("--store", choices=STORES, default="postgres")


async def run(options: argparse.Namespace) -> list[Figures]:
    """One ``Figures``.  Raises ``RuntimeError`` when this machine lets no process open so many files."""
    if raise_open_files() < options.devices + 100:
        raise RuntimeError(f"{options.devices} devices need as many open files: raise ulimit -n")
    names = ("devices", "collections", "seconds", "store")
    figures = Figures("idle", {name: getattr(options, name) for name in names})

    async def fill(store: Store, devices: list[SeededDevice]) -> None:
        for device in devices[::DEVICES_EACH]:
            for collection in range(options.collections):
                await append_all(store, device, sealed_puts(device, 1, collection=collection))

    accounts = -(-options.devices // DEVICES_EACH)
    async with alone(store=options.store, accounts=accounts, devices_each=DEVICES_EACH, fill=fill) as here:
        crowd = Crowd(here.url, here.devices[: options.devices], collections=options.collections)
        try:
            await asyncio.to_thread(_measure, here, crowd, options.seconds, figures)
        finally:
            crowd.close()
    return [figures]


def _measure(here: Alone, crowd: Crowd, seconds: float, figures: Figures) -> None:
    pid, count = here.hub.pid, len(crowd.links)
    # Two come and go first: what the very first session loads is not a session's.
    visitors = Crowd(here.url, here.devices[:2])
    visitors.bring_in()
    visitors.close()
    before = resident_kib(pid)
    began = time.perf_counter()
    crowd.bring_in()
    arrived = time.perf_counter() - began
    crowd.run(lambda: False, SETTLE_S)
    arrived_kib = resident_kib(pid)
    cpu, database, own, began = *here.cpu_s(), time.process_time(), time.perf_counter()
    crowd.run(lambda: False, seconds)
    took = time.perf_counter() - began
    hub_s, database_s = here.cpu_s()
    after = max(arrived_kib, resident_kib(pid))  # with what pings and their answers left
    figures.values |= {
        "session_kib": (after - before) / count,
        "hub_before_mib": before / 1024,
        "hub_after_mib": after / 1024,
        "hub_core_percent": 100 * (hub_s - cpu) / took,
        "hub_us_per_session_and_s": 1e6 * (hub_s - cpu) / took / count,
        "postgres_core_percent": 100 * (database_s - database) / took,
        "driver_core_percent": 100 * (time.process_time() - own) / took,
        "arrivals_per_s": count / arrived,
        "lost": sum(crowd.counts.values()),
        "pings": crowd.pings,
    }
    figures.notes += [f"{why}: {often}" for why, often in crowd.counts.most_common()]
