"""A thousand idle devices lose their connection at the same moment: how soon are they back, at what cost?

    python -m loadtest.reconnect --devices 1000 --accounts 250 --replicas 2

Starts Postgres, Redis or Valkey, replicas and HAProxy on loopback, connects real
clients through the load balancer, kills it and starts it again ``--down-s`` later.
Meanwhile every account gets one change, from a device that dials a replica past it.
A device is back when it holds that change and says "synced".

All clients share one process and one core with nothing else, and the hubs share
the rest of the machine with the databases: on two cores this measures a machine
that is full, not a hub that waits.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import statistics
import time
from collections.abc import AsyncIterator, Sequence

import asyncpg

from hub.client import HubClient
from hub.client.connection import canonical_url
from loadtest.place import Place, cpu_s, place
from loadtest.seed import APP
from tests.cluster_rig import end, start
from tests.services import Postgres

COLLECTION = "notes"
WITHIN_S = 120.0
SAMPLE_EVERY_S = 0.02


async def measure(devices: int, accounts: int, replicas: int, connections: int, down_s: float) -> None:
    """Run it once and print the figures."""
    each = devices // accounts + 1  # one of them writes
    limit = {"HUB_DATABASE_CONNECTIONS": str(connections)}
    async with place(accounts=accounts, devices_each=each, replicas=replicas, **limit) as here:
        await _storm(here, each, down_s)


async def _storm(here: Place, devices_each: int, down_s: float) -> None:
    running = here.cluster
    url = canonical_url(running.url)
    idle = [HubClient(each.storage(url), APP) for n, each in enumerate(here.devices) if n % devices_each]
    past = canonical_url(running.replicas[0].url)
    writers = [HubClient(each.storage(past), APP) for each in here.devices[::devices_each]]
    print(f"{len(idle)} idle devices of {len(writers)} accounts, {len(running.replicas)} replicas")
    began = time.perf_counter()
    await _connect(idle)
    await _connect(writers)
    print(f"all connected and synced after {time.perf_counter() - began:.1f} s")
    cpu_before = [cpu_s(replica.pid) for replica in running.replicas]

    async with _peak_connections(here.postgres) as peak:
        await end(running.balancer, signal.SIGKILL)
        cut = time.perf_counter()
        writing = asyncio.gather(*(_write(writer) for writer in writers))
        await asyncio.sleep(down_s)
        await start(running.balancer)
        up = time.perf_counter()
        back = await asyncio.gather(*(_back(client, up) for client in idle))
        await writing
    cpu = [cpu_s(replica.pid) - before for replica, before in zip(running.replicas, cpu_before, strict=True)]
    back.sort()
    print(
        f"cut off for {up - cut:.2f} s; back and caught up, seconds after that: p50 {statistics.median(back):.2f}"
        f"  p99 {back[len(back) * 99 // 100 - 1]:.2f}  last {back[-1]:.2f}"
    )
    print(f"database connections at the peak: {max(peak)} (of all replicas, {len(peak)} samples)")
    print(f"cpu seconds by replica: {[round(seconds, 1) for seconds in cpu]}")
    for client in [*idle, *writers]:
        assert client.collection(COLLECTION).get("news") == "after the cut", "a device did not catch up"
        assert not client.status.alarms, client.status.alarms
    await asyncio.gather(*(client.stop() for client in [*idle, *writers]))


async def _connect(clients: Sequence[HubClient]) -> None:
    for client in clients:
        client.collection(COLLECTION)
        await client.start()
    await asyncio.gather(*(client.synced(WITHIN_S) for client in clients))


async def _write(writer: HubClient) -> None:
    await writer.when_appended(writer.collection(COLLECTION).put("news", "after the cut"))


async def _back(client: HubClient, since: float) -> float:
    """Seconds from ``since`` until the device holds the news and says that it is in step."""
    handle = client.collection(COLLECTION)
    changed = asyncio.Event()
    handle.on_change(lambda changes: changed.set())
    client.on_status(lambda status: changed.set())
    async with asyncio.timeout(WITHIN_S):
        while handle.get("news") is None or client.status.phase != "synced":
            changed.clear()
            await changed.wait()
    return time.perf_counter() - since


@contextlib.asynccontextmanager
async def _peak_connections(server: Postgres) -> AsyncIterator[list[int]]:
    """The number of client connections to Postgres, sampled until the block ends; the sampler's own is left out."""
    samples: list[int] = []
    watcher = await asyncpg.connect(server.url_of("postgres"))

    async def watch() -> None:
        query = (
            "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
        )
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


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.reconnect", description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", type=int, default=1_000)
    parser.add_argument("--accounts", type=int, default=250)
    parser.add_argument("--replicas", type=int, default=2, choices=(1, 2, 3))
    parser.add_argument("--down-s", type=float, default=0.0, help="how long the load balancer stays away")
    parser.add_argument("--connections", type=int, default=10, help="to Postgres, of one replica at most")
    options = parser.parse_args()
    asyncio.run(measure(options.devices, options.accounts, options.replicas, options.connections, options.down_s))


if __name__ == "__main__":
    main()
