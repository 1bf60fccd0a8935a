"""A new device reads a whole collection: how many changes a second reach its socket, against reading the rows alone?

    python -m loadtest cold_sync                             100,000 live changes of 408 bytes, on Postgres
    python -m loadtest cold_sync --store sqlite
    python -m loadtest cold_sync --changes 20000 --client    the Python client as well, which opens everything

Beside it in the same sitting, alternating with it: the same rows by one query of asyncpg, or of SQLite.  And once more
with 1,000 live changes of as many as were written, against 1,000 of 1,000: what a record replaced must not be paid for.
The reader of the socket reads of each frame only where it stands, and counts; the client opens and keeps every change.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

import asyncpg

from hub.client import HubClient
from hub.client.keys import SpaceKeys
from hub.store import Store
from loadtest.alone import STORES, Alone, alone
from loadtest.crowd import Crowd
from loadtest.dial import collection_id
from loadtest.figures import Figures
from loadtest.filling import append_all, sealed_puts
from loadtest.floors import raw_fetch, sqlite_select
from loadtest.seed import APP, SeededDevice

SHORT = "--changes 10000 --rounds 3"
FULL = ("--client", "--client --store sqlite")
WITHIN_S = 120.0
FEW = 1_000
ROOM = {"HUB_QUOTA_MIB": "100000"}
# One account each: all live, few live of many written, few live of few.
CASES = ("all_live", "few_of_many", "few_of_few")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``run``."""
    parser.add_argument("--store", choices=STORES, default="postgres")
    parser.add_argument("--changes", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--client", action="store_true", help="also the Python client, which opens every change")


async def run(options: argparse.Namespace) -> list[Figures]:
    """One ``Figures``; its rates are medians of the rounds, and so is the ratio of a round's two rates."""
    figures = Figures("cold sync", {name: getattr(options, name) for name in ("store", "changes", "rounds")})

    async def fill(store: Store, devices: list[SeededDevice]) -> None:
        for device, records in zip(devices[::2], (options.changes, FEW, FEW), strict=True):
            count = FEW if device is devices[4] else options.changes
            await append_all(store, device, sealed_puts(device, count, records=records))

    # Of each account one device has written and another one is new.
    async with alone(store=options.store, accounts=len(CASES), devices_each=2, fill=fill, **ROOM) as here:
        writers, new = here.devices[::2], here.devices[1::2]
        floors, hub, took = [], [], {name: [] for name in CASES}
        cpu: list[list[float]] = []  # of hub and Postgres, microseconds a change
        for _ in range(options.rounds):
            floors.append(await _floor(here, writers[0]))
            for name, device in zip(CASES, new, strict=True):
                before = here.cpu_s()
                seconds, changes = await asyncio.to_thread(_read, here.url, device)
                took[name].append(seconds)
                if name == "all_live":
                    assert changes == options.changes, changes
                    hub.append(changes / seconds)
                    cpu.append([1e6 * (now - then) / changes for now, then in zip(here.cpu_s(), before, strict=True)])
                else:
                    assert changes == FEW, (name, changes)
        _tell(figures, floors, hub, took, cpu)
        if options.client:
            figures.values["client_changes_per_s"] = options.changes / await _client(here, new[0], options.changes)
    return [figures]


def _tell(
    figures: Figures, floors: list[float], hub: list[float], took: dict[str, list[float]], cpu: list[list[float]]
) -> None:
    few = [many / few for many, few in zip(took["few_of_many"], took["few_of_few"], strict=True)]
    figures.values |= {
        "changes_per_s": statistics.median(hub),
        "raw_rows_per_s": statistics.median(floors),
        "of_raw_percent": 100 * statistics.median(each / floor for each, floor in zip(hub, floors, strict=True)),
        "hub_us_per_change": statistics.median(each[0] for each in cpu),
        "postgres_us_per_change": statistics.median(each[1] for each in cpu),
        "few_of_many_ms": 1000 * statistics.median(took["few_of_many"]),
        "few_of_few_ms": 1000 * statistics.median(took["few_of_few"]),
        "few_of_many_x": statistics.median(few),
    }
    figures.notes.append("from subscribe to the last change, connecting and proving left out")


def _read(url: str, device: SeededDevice) -> tuple[float, int]:
    """Read a collection from its beginning with a device that is new; seconds from subscribe, and changes."""
    crowd = Crowd(url, [device])
    try:
        (link,) = crowd.links
        crowd.dial()
        if not crowd.run(lambda: bool(link.caught_up_at), WITHIN_S):
            raise TimeoutError(f"the device did not catch up: {dict(crowd.counts)}")
        assert not crowd.counts, dict(crowd.counts)
        return link.caught_up_at - link.asked_at, crowd.changes
    finally:
        crowd.close()


async def _floor(here: Alone, writer: SeededDevice) -> float:
    """Rows a second of the whole collection without the hub."""
    keys = SpaceKeys.derive(writer.app_key)
    names = (writer.account_id, keys.space_id, collection_id(keys))
    query = "select number from collection where account_id = {} and space_id = {} and collection_id = {}"
    if not here.database_url:
        found = await asyncio.to_thread(sqlite_select, here.file, query.format("?", "?", "?"), names, 1)
        return found["rows_per_s"]
    connection = await asyncpg.connect(here.database_url)
    try:
        number = await connection.fetchval(query.format("$1", "$2", "$3"), *names)
    finally:
        await connection.close()
    return (await raw_fetch(here.database_url, writer.account_id, number, 1))["rows_per_s"]


async def _client(here: Alone, device: SeededDevice, changes: int) -> float:
    """Seconds until the real client, with everything in memory, holds so many records."""
    client = HubClient(device.storage(here.url), APP)
    handle = client.collection("notes")
    began = time.perf_counter()
    await client.start()
    try:
        await client.synced(WITHIN_S)
        took = time.perf_counter() - began
        assert len(list(handle.items())) == changes, "the client does not hold everything"
    finally:
        await client.stop()
    return took
