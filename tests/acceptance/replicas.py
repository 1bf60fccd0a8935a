"""Three replicas under load, while everything they stand on is killed: nothing may be lost.

    python -m tests.acceptance.replicas --seed 1

Real ``hub serve`` processes behind HAProxy, with Redis and a Postgres that has a
synchronous standby.  60 devices of 20 accounts write all the time.  Meanwhile Redis
and replicas are killed and started again, Postgres is restarted without a
checkpoint, and once its primary is killed and the standby promoted.  At the end the
history checker reads what all devices saw.  The exit status is 1 when it finds
anything, or when a replica logged an error.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster_rig import Cluster, Crowd, cluster, start, until
from tests.history import Violation, violations
from tests.services import Postgres, RedisServer, Standby, postgres, redis_server, standby, url_of_any, used_services

WARM_UP_S = 2.0
REVOKED = 4503
REVOKED_WITHOUT_REDIS_WITHIN_S = 35.0


@dataclass(frozen=True)
class Plan:
    """What one run does."""

    seed: int = 1
    accounts: int = 20
    devices_each: int = 3
    redis_kills: int = 5
    replica_kills: int = 5
    postgres_restarts: int = 3
    promotions: int = 1
    seconds_between: float = 1.0  # two edits of one device, in the mean
    pause_s: tuple[float, float] = (1.0, 4.0)  # between two faults
    down_s: tuple[float, float] = (0.2, 3.0)
    overlap: float = 0.3  # the share of faults that begin while the one before is still going on
    settle_within_s: float = 120.0
    fsync: bool = True
    revoke_without_redis: bool = True

    def faults(self, chance: random.Random) -> list[str]:
        """Their order."""
        kinds = {
            "redis killed": self.redis_kills,
            "replica killed": self.replica_kills,
            "postgres restarted": self.postgres_restarts,
            "standby promoted": self.promotions,
        }
        order = [kind for kind, count in kinds.items() for _ in range(count)]
        chance.shuffle(order)
        return order


@dataclass
class Report:
    """What happened."""

    counts: dict[str, int] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    closings: Counter[int] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    revoked_after_s: float = 0.0
    settled_after_s: float = 0.0

    def lines(self) -> list[str]:
        """For a person."""
        counts = ", ".join(f"{name} {count}" for name, count in self.counts.items())
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        closings = ", ".join(f"{code or 'lost'} {count}" for code, count in sorted(self.closings.items()))
        return [
            f"counts: {counts}, violations {len(self.violations)}",
            f"faults: {faults}",
            f"ends of connections: {closings}",
            f"all in step {self.settled_after_s:.1f} s after the last edit",
            *([f"revoked without Redis after {self.revoked_after_s:.1f} s"] if self.revoked_after_s else []),
            *(f"VIOLATION {name}: {text}" for name, text in self.violations[:20]),
            *(f"the hub complained: {line}" for line in self.complaints[:20]),
        ]


class Havoc:
    """Does one fault after the other."""

    def __init__(
        self, plan: Plan, chance: random.Random, place: Cluster, redis: RedisServer, database: Postgres, spare: Standby
    ) -> None:
        self._plan = plan
        self._chance = chance
        self._place = place
        self._redis = redis
        self._database = database
        self._spare = spare
        self._at_database = asyncio.Lock()
        self._at_redis = asyncio.Lock()
        self._at_replica = {replica.port: asyncio.Lock() for replica in place.replicas}

    async def run(self, report: Report, say: Callable[[str], None]) -> None:
        """All faults of the plan; everything is up again on return."""
        acts: dict[str, Callable[[], Awaitable[None]]] = {
            "redis killed": self._kill_redis,
            "replica killed": self._kill_replica,
            "postgres restarted": self._restart_database,
            "standby promoted": self._promote,
        }
        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for kind in self._plan.faults(self._chance):
                say(f"{time.monotonic() - begun:5.1f} s  {kind}")
                task = group.create_task(acts[kind]())  # type: ignore[arg-type]
                report.faults[kind] += 1
                if self._chance.random() >= self._plan.overlap:
                    await task
                await asyncio.sleep(self._chance.uniform(*self._plan.pause_s))

    async def _kill_redis(self) -> None:
        async with self._at_redis:
            self._redis.kill()
            await self._away()
            await start(self._redis)

    async def _kill_replica(self) -> None:
        replica = self._chance.choice(self._place.replicas)
        async with self._at_replica[replica.port]:
            replica.kill()
            await self._away()
            await start(replica)

    async def _restart_database(self) -> None:
        async with self._at_database:
            await asyncio.to_thread(self._database.stop, "immediate")
            await self._away()
            await start(self._database)

    async def _promote(self) -> None:
        async with self._at_database:
            self._database.kill()
            await self._away()
            await asyncio.to_thread(self._spare.promote)
            self._database = self._spare

    async def _away(self) -> None:
        await asyncio.sleep(self._chance.uniform(*self._plan.down_s))


async def run(plan: Plan, base: Path, say: Callable[[str], None] = print) -> Report:
    """One run in the empty folder ``base``."""
    chance = random.Random(plan.seed)
    report = Report()
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(postgres(fsync=plan.fsync))
        primary.sql("create database hub")
        spare = stack.enter_context(standby(primary))
        redis = stack.enter_context(redis_server())
        url = url_of_any("hub", primary, spare)
        async with cluster(base, database_url=url, redis_url=redis.url) as place:
            crowd = Crowd(place)
            begun = time.monotonic()
            await crowd.enrol(plan.accounts, plan.devices_each)
            say(f"{len(crowd.devices)} devices enrolled after {time.monotonic() - begun:.1f} s")
            try:
                await _write_through(
                    plan, chance, crowd, Havoc(plan, chance, place, redis, primary, spare), report, say
                )
                if plan.revoke_without_redis:
                    redis.kill()
                    report.revoked_after_s = await _revoke(crowd)
            finally:
                await crowd.stop()
            report.complaints = place.complaints()
    return report


async def _write_through(
    plan: Plan, chance: random.Random, crowd: Crowd, havoc: Havoc, report: Report, say: Callable[[str], None]
) -> None:
    writing = asyncio.create_task(crowd.write(plan.seconds_between, random.Random(plan.seed)))
    try:
        await asyncio.sleep(WARM_UP_S)
        await havoc.run(report, say)
        await asyncio.sleep(WARM_UP_S)
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    ended = time.monotonic()
    with contextlib.suppress(TimeoutError, AssertionError):  # the checker tells in what they differ
        await crowd.settle(plan.settle_within_s)
    report.settled_after_s = time.monotonic() - ended
    report.counts = crowd.counts()
    report.closings = crowd.closings()
    report.violations = violations([device.recorded() for device in crowd.devices])


async def _revoke(crowd: Crowd) -> float:
    """Take devices off their accounts while no notice passes; seconds until the last one was sent away."""
    gone = [device for device in crowd.devices if device.name.endswith("-1")]
    owners = {device.recorder.space: device for device in crowd.devices if device.name.endswith("-0")}
    begun = time.monotonic()
    await asyncio.gather(*(owners[each.recorder.space].client.revoke([each.client.device_id]) for each in gone))
    await until(
        lambda: all(device.closings[4503] for device in gone),
        REVOKED_WITHOUT_REDIS_WITHIN_S,
        "revoked devices are gone",
    )
    return time.monotonic() - begun


def main() -> int:
    """Read the words of the command line, run, tell; 1 when a promise was broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--accounts", type=int, default=20)
    parser.add_argument("--devices-each", type=int, default=3)
    parser.add_argument("--seconds-between", type=float, default=1.0, help="two edits of one device, in the mean")
    parser.add_argument("--no-fsync", action="store_true", help="spare the disk; the processes are killed all the same")
    options = parser.parse_args()
    plan = Plan(
        seed=options.seed,
        accounts=options.accounts,
        devices_each=options.devices_each,
        seconds_between=options.seconds_between,
        fsync=not options.no_fsync,
    )
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(run(plan, Path(folder)))
    print("used: " + ", ".join(used_services()))
    print("\n".join(report.lines()))
    return 1 if report.violations or report.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
