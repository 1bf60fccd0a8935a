"""Where a measurement takes place: real servers and replicas on loopback, with signed-in devices, gone afterwards."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from hub.store.postgres import PostgresStore
from loadtest.seed import SeededDevice, seed
from tests.cluster_rig import Cluster, cluster
from tests.services import Postgres, RedisServer, database, postgres, redis_server


@dataclass(frozen=True, slots=True)
class Place:
    """What runs, and the devices it knows, grouped by account."""

    cluster: Cluster
    postgres: Postgres
    redis: RedisServer
    database_url: str
    devices: list[SeededDevice]


@asynccontextmanager
async def place(*, accounts: int, devices_each: int, replicas: int, **settings: str) -> AsyncIterator[Place]:
    """Postgres with fsync on, Redis or Valkey, replicas behind HAProxy; ``settings`` are more of the hub's."""
    with (
        tempfile.TemporaryDirectory() as base,
        postgres(None, "-c", "max_connections=500", fsync=True) as server,
        redis_server() as redis,
    ):
        async with database(server) as url:
            store = PostgresStore(url)
            await store.open()
            devices = await seed(store, accounts, devices_each)
            await store.close()
            async with cluster(
                Path(base), replicas=replicas, database_url=url, redis_url=redis.url, **settings
            ) as running:
                yield Place(running, server, redis, url, devices)


def cpu_s(*pids: int) -> float:
    """User and system time of these processes so far, in seconds."""
    fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids)
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


def tree_cpu_s(pid: int) -> float:
    """The same of a process, those it started and those that have ended since: of Postgres, with all its backends."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    total = sum(int(each) for each in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    for child in children(pid):
        with contextlib.suppress(OSError):  # it has ended just now
            total += tree_cpu_s(child)
    return total


def children(pid: int) -> list[int]:
    """The processes this one has started: of Postgres, its backends."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def resident_kib(pid: int) -> int:
    """The memory a process holds, in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
