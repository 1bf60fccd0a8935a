"""What one append, one idle device and one kept change cost: the figures of the capacity formula in docs/scaling.md.

    python -m loadtest.capacity --accounts 60 --devices 3 --seconds 10 --replicas 2

Starts Postgres (fsync on), Redis or Valkey and replicas on loopback; each device
appends one draft after another and hears those of its account's other devices.  The
devices are Python on the same machine, so the appends a second are theirs as much as
the hub's; the processor time of hub and Postgres for each append is not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import statistics
import time

import asyncpg
from nacl.signing import SigningKey

from hub.client.connection import canonical_url
from hub.client.keys import SpaceKeys
from hub.wire import messages as m
from loadtest.place import Place, children, cpu_s, place, resident_kib
from loadtest.seed import SeededDevice
from tests.hub_rig import Wire

BODY_BYTES = 256
WITHIN_S = 30.0
AT_ONCE = 200  # devices that connect at the same moment
PARTS = ("hub", "Postgres", "Redis")


class Appender(Wire):
    """A signed-in device that appends one draft after another."""

    def __init__(self, url: str, seeded: SeededDevice) -> None:
        super().__init__(url)
        self.device_id = seeded.device_id
        self.device_key = SigningKey(seeded.device_seed)
        self.space_key = SpaceKeys.derive(seeded.app_key).signing_key
        self.waits_s: list[float] = []
        self.heard = 0

    async def come(self) -> None:
        """Connect, enter, follow."""
        await self.sign_in()
        await self.enter()
        await self.follow()

    async def rest(self, seconds: float) -> None:
        """Only answer pings for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.hear(m.Appended, 2 * seconds)  # nothing is asked, so none comes
        self.unread.clear()

    async def work(self, until: float) -> None:
        """Append until that moment."""
        while (began := time.perf_counter()) < until:
            record_id = os.urandom(16)
            append = m.Append(
                self.number(), self.space_id, [self.draft(body=os.urandom(BODY_BYTES), record_id=record_id)]
            )
            await self.say(append)
            (answer,) = (await self.hear(m.Appended, WITHIN_S)).answers
            assert not answer.code, answer
            self.waits_s.append(time.perf_counter() - began)
            self.heard += sum(len(each.changes) for each in self.unread if isinstance(each, m.Changes))
            self.unread.clear()


async def measure(accounts: int, devices_each: int, seconds: float, idle_s: float, replicas: int) -> None:
    """Run it once and print the figures."""
    async with place(accounts=accounts, devices_each=devices_each, replicas=replicas) as here:
        devices = await _idle(here, idle_s)
        size_before, cpu_before = await _database_bytes(here), _cpu_s(here)
        began = time.perf_counter()
        await asyncio.gather(*(device.work(began + seconds) for device in devices))
        took = time.perf_counter() - began
        cpu = [after - before for before, after in zip(cpu_before, _cpu_s(here), strict=True)]
        grown = await _database_bytes(here) - size_before
        waits = sorted(itertools.chain.from_iterable(device.waits_s for device in devices))
        appends = len(waits)
        print(
            f"{appends} appends of {BODY_BYTES} bytes in {took:.1f} s: {appends / took:.0f} a second;"
            f" answer p50 {statistics.median(waits) * 1000:.1f} ms, p99 {waits[appends * 99 // 100 - 1] * 1000:.1f} ms;"
            f" {sum(device.heard for device in devices)} places and changes delivered"
        )
        shares = (f"{name} {1e6 * each / appends:.0f}" for name, each in zip(PARTS, cpu, strict=True))
        print(f"processor time for one append, microseconds: {', '.join(shares)}")
        print(f"database: {grown / appends:.0f} bytes for one kept change, with its indexes")
        await asyncio.gather(*(device.hang_up() for device in devices))


async def _idle(here: Place, idle_s: float) -> list[Appender]:
    """Connect all devices; what they cost while they do nothing but answer pings."""
    pids = [replica.pid for replica in here.cluster.replicas]
    before = sum(map(resident_kib, pids))
    doors = itertools.cycle(canonical_url(replica.url) for replica in here.cluster.replicas)
    devices = [Appender(next(doors), each) for each in here.devices]
    for start in range(0, len(devices), AT_ONCE):
        await asyncio.gather(*(device.come() for device in devices[start : start + AT_ONCE]))
    memory = (sum(map(resident_kib, pids)) - before) / len(devices)
    began = cpu_s(*pids)
    await asyncio.gather(*(device.rest(idle_s) for device in devices))
    cpu = 1e6 * (cpu_s(*pids) - began) / idle_s / len(devices)
    print(
        f"{len(devices)} devices, {len(pids)} replicas of {before / len(pids) / 1024:.0f} MiB;"
        f" an idle device: {memory:.0f} KiB, {cpu:.0f} microseconds of processor time a second"
    )
    return devices


async def _database_bytes(here: Place) -> int:
    connection = await asyncpg.connect(here.database_url)
    try:
        return int(await connection.fetchval("select pg_database_size(current_database())"))
    finally:
        await connection.close()


def _cpu_s(here: Place) -> list[float]:
    """Processor time so far of each of ``PARTS``."""
    hubs = [replica.pid for replica in here.cluster.replicas]
    return [cpu_s(*hubs), cpu_s(here.postgres.pid, *children(here.postgres.pid)), cpu_s(here.redis.pid)]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.capacity", description=__doc__.partition("\n")[0])
    parser.add_argument("--accounts", type=int, default=60)
    parser.add_argument("--devices", type=int, default=3, help="of each account")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--idle-seconds", type=float, default=30.0, help="how long they do nothing first")
    parser.add_argument("--replicas", type=int, default=2, choices=(1, 2, 3))
    options = parser.parse_args()
    asyncio.run(measure(options.accounts, options.devices, options.seconds, options.idle_seconds, options.replicas))


if __name__ == "__main__":
    main()
