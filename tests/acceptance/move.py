"""All accounts move from a hub on SQLite to one on Postgres while their devices write: they follow, nothing is lost.

    python -m tests.acceptance.move

Two real ``hub serve`` processes with the same secrets.  ``hub move --all`` runs while
devices of several accounts write; each follows when it is told, as a person would say so.
At the end all devices agree, one more device of each account that signs in at the new
hub gets everything, and in the old hub's tables there is nothing left but where each
device shall dial.  The exit status is 1 when anything is missing or left.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from hub.keepers import DATABASE_FILE
from tests.cluster_rig import Crowd, Device, until
from tests.house_rig import House, house, missing, newcomers
from tests.services import Postgres, database, postgres, used_services

# What a hub keeps of itself, and of nobody.
OF_NOBODY = {"hub", "meta", "schema_version", "spent", "attempt"}


@dataclass(frozen=True)
class Plan:
    """What one run does."""

    seed: int = 1
    accounts: int = 4
    devices_each: int = 3
    seconds_between: float = 0.1  # two edits of one device, in the mean
    before_s: float = 10.0  # writing before the move
    after_s: float = 5.0  # writing after it
    settle_within_s: float = 60.0


@dataclass
class Report:
    """What happened."""

    lines: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


async def run(plan: Plan, base: Path, server: Postgres, say: Callable[[str], None] = print) -> Report:
    """One run in the empty folder ``base``, with a database of its own on ``server``."""
    report = Report()
    old_base, new_base = base / "old", base / "new"
    for folder in (old_base, new_base):
        folder.mkdir()
    async with (
        database(server) as url,
        house(old_base) as old,
        house(new_base, secrets_file=old.secrets_file, HUB_DATABASE_URL=url) as new,
    ):
        crowd = Crowd(old)  # type: ignore[arg-type]
        await crowd.enrol(plan.accounts, plan.devices_each)
        try:
            await _move(plan, old, new, crowd, base / "new.toml", report, say)
        finally:
            await crowd.stop()
    return report


async def _move(
    plan: Plan, old: House, new: House, crowd: Crowd, other: Path, report: Report, say: Callable[[str], None]
) -> None:
    def tell(line: str) -> None:
        report.lines.append(line)
        say(line)

    tell(f"{len(crowd.devices)} devices of {plan.accounts} accounts")
    writing = asyncio.create_task(crowd.write(plan.seconds_between, random.Random(plan.seed)))
    following = [asyncio.create_task(_follow(device)) for device in crowd.devices]
    try:
        await asyncio.sleep(plan.before_s)
        before = sum(device.edits for device in crowd.devices)
        said = await old.command("move", "--all", "--to", new.url, "--into", new.settings_file(other))
        during = sum(device.edits for device in crowd.devices) - before
        for line in said.text.splitlines():
            tell(f"  {line}")
        tell(f"hub move took {said.seconds:.1f} s; {during} edits were made meanwhile, {before} before")
        if said.status:
            report.faults.append(f"hub move ended with {said.status}")
            return
        begun = time.monotonic()
        await asyncio.wait_for(asyncio.gather(*following), plan.settle_within_s)
        tell(f"all devices were told and followed within {time.monotonic() - begun:.1f} s after that")
        await asyncio.sleep(plan.after_s)
    finally:
        for task in [writing, *following]:
            task.cancel()
        await asyncio.gather(writing, *following, return_exceptions=True)
    crowd.cluster = new  # type: ignore[assignment]
    begun = time.monotonic()
    try:
        await crowd.settle(plan.settle_within_s)
    except (TimeoutError, AssertionError) as exc:
        report.faults.append(f"the devices did not converge: {exc!r}")
        report.faults += [f"{device.name}: {device.client.status}" for device in crowd.devices]
        return
    edits = sum(device.edits for device in crowd.devices)
    tell(f"all devices in step {time.monotonic() - begun:.1f} s after the last of {edits} edits")
    added = await newcomers(crowd)
    for newcomer in added:
        report.faults += [f"{newcomer.name} misses {key}" for key in missing(crowd.devices, newcomer)]
    tell(f"a new device of each account has all {sum(len(each.contents()) for each in added)} records")
    await asyncio.gather(*(newcomer.stop() for newcomer in added))
    kept = rows_in(old.data_dir / DATABASE_FILE)
    tell(f"in the old hub's tables: {', '.join(f'{table} {count}' for table, count in kept.items()) or 'nothing'}")
    if kept != {"moved": len(crowd.devices)}:
        report.faults.append(f"the old hub keeps {dict(kept)}")


async def _follow(device: Device) -> None:
    """As a person who reads where the account is now, and says yes."""
    await until(lambda: device.client.status.moved_to, 120.0, "the hub says where the account is")
    await device.client.follow()


def rows_in(path: Path) -> Counter[str]:
    """How many rows each table of a hub's file has, but those that are about nobody."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
        tables = [name for (name,) in file.execute("select name from sqlite_master where type = 'table'")]
        counts = {name: file.execute(f'select count(*) from "{name}"').fetchone()[0] for name in tables}
    return Counter({name: count for name, count in counts.items() if count and name not in OF_NOBODY})


def main() -> int:
    """Read the words of the command line, run, tell; 1 when something was lost or left."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--accounts", type=int, default=Plan.accounts)
    parser.add_argument("--devices-each", type=int, default=Plan.devices_each)
    parser.add_argument("--seconds-between", type=float, default=Plan.seconds_between)
    options = parser.parse_args()
    plan = Plan(
        seed=options.seed,
        accounts=options.accounts,
        devices_each=options.devices_each,
        seconds_between=options.seconds_between,
    )
    with tempfile.TemporaryDirectory() as folder, postgres() as server:
        report = asyncio.run(run(plan, Path(folder), server))
    print("used: " + ", ".join(used_services()))
    for fault in report.faults[:20]:
        print(f"FAULT {fault}")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
