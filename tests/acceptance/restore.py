"""A hub is backed up under load, loses its folder, and is restored; then it loses it again with no backup at all.

    python -m tests.acceptance.restore

A real ``hub serve`` process on SQLite.  Devices of several accounts write all the
time, also while ``hub backup`` runs beside it and while the hub is down.  After
``hub restore`` all devices converge, and one more device of each account, which has only
what the hub has, gets everything: what was written after the backup came back from the
devices.  Then the folder is deleted again; the devices sign in anew, as the same people
with the same keys, and fill the empty hub.  The exit status is 1 when anything is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hub.client.connection import canonical_url
from tests.cluster_rig import Crowd, Device, until
from tests.house_rig import House, house, missing, newcomers


@dataclass(frozen=True)
class Plan:
    """What one run does."""

    seed: int = 1
    accounts: int = 4
    devices_each: int = 3
    seconds_between: float = 0.1  # two edits of one device, in the mean
    before_s: float = 10.0  # writing before the backup
    after_s: float = 10.0  # writing after the backup, until the folder is lost
    down_s: float = 3.0  # writing while there is no hub
    settle_within_s: float = 60.0
    without_backup: bool = True


@dataclass
class Report:
    """What happened."""

    lines: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


async def run(plan: Plan, base: Path, say: Callable[[str], None] = print) -> Report:
    """One run in the empty folder ``base``."""
    report = Report()

    def tell(line: str) -> None:
        report.lines.append(line)
        say(line)

    async with house(base) as place:
        crowd = Crowd(place)  # type: ignore[arg-type]
        await crowd.enrol(plan.accounts, plan.devices_each)
        tell(f"{len(crowd.devices)} devices of {plan.accounts} accounts")
        try:
            await _with_backup(plan, place, crowd, base, report, tell)
            if plan.without_backup:
                await _without_backup(plan, place, crowd, report, tell)
        finally:
            await crowd.stop()
    return report


async def _with_backup(
    plan: Plan, place: House, crowd: Crowd, base: Path, report: Report, tell: Callable[[str], None]
) -> None:
    backups = base / "backups"
    backups.mkdir()
    writing = asyncio.create_task(crowd.write(plan.seconds_between, random.Random(plan.seed)))
    try:
        await asyncio.sleep(plan.before_s)
        during = _edits(crowd)
        said = await place.command("backup", backups)
        at_backup = _edits(crowd)
        tell(f"backup beside the running hub: {said.text.splitlines()[0] if said.text else ''}")
        tell(f"  the process took {said.seconds:.1f} s; {at_backup - during} edits were made meanwhile")
        _expect(said.status == 0, f"hub backup: {said.text}", report)
        await asyncio.sleep(plan.after_s)
        lost = _edits(crowd) - at_backup
        await place.lose_everything()
        tell(f"the folder was deleted {lost} edits after the backup; devices write on")
        await asyncio.sleep(plan.down_s)
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    said = await place.command("restore", *backups.iterdir())
    tell(f"restore: {said.text.splitlines()[0] if said.text else ''}")
    tell(f"  the process took {said.seconds:.1f} s")
    _expect(said.status == 0, f"hub restore: {said.text}", report)
    await place.start()
    await _converge(plan, crowd, report, tell)
    tell(f"  {_edits(crowd) - at_backup} edits made after the backup came back from the devices")


async def _without_backup(plan: Plan, place: House, crowd: Crowd, report: Report, tell: Callable[[str], None]) -> None:
    await place.lose_everything()
    tell("the folder was deleted again, and there is no backup")
    await place.start()
    begun = time.monotonic()
    firsts = [device for device in crowd.devices if device.name.endswith("-0")]
    # Of two that make one account at the same moment one has to type again; here the first is let go first.
    await asyncio.gather(*(_sign_in_again(crowd, device) for device in firsts))
    await asyncio.gather(*(_sign_in_again(crowd, device) for device in crowd.devices if device not in firsts))
    tell(f"all devices were told to sign in again, and did, after {time.monotonic() - begun:.1f} s")
    await _converge(plan, crowd, report, tell)


async def _sign_in_again(crowd: Crowd, device: Device) -> None:
    """As a person who reads that the hub does not know this device: the same address, the same key."""
    await until(lambda: device.client.status.phase == "blocked", 60.0, "the hub sends an unknown device away")
    with device.storage.transaction():  # each from a network of its own, as people are
        device.storage.set_setting("hub_url", canonical_url(crowd.cluster.enrol_url).encode())
    address = f"{device.recorder.space}@example.org"
    had = len(crowd.cluster.mailbox.mails)  # the words of an earlier mail to this person may be the same
    sent = await device.client.request_code(address)
    await device.client.enrol(await crowd._code(address, sent.phrase, after=had))


async def _converge(plan: Plan, crowd: Crowd, report: Report, tell: Callable[[str], None]) -> None:
    begun = time.monotonic()
    try:
        await crowd.settle(plan.settle_within_s)
    except (TimeoutError, AssertionError) as exc:
        report.faults.append(f"the devices did not converge: {exc!r}")
        report.faults += [f"{device.name}: {device.client.status}" for device in crowd.devices]
        return
    tell(f"all devices in step {time.monotonic() - begun:.1f} s after the start")
    begun = time.monotonic()
    added = await newcomers(crowd)
    try:
        for newcomer in added:
            for key in missing(crowd.devices, newcomer):
                report.faults.append(f"{newcomer.name} misses {key}")
        records = sum(len(newcomer.contents()) for newcomer in added)
        tell(f"a new device of each account has all {records} records after {time.monotonic() - begun:.1f} s")
    finally:
        await asyncio.gather(*(newcomer.stop() for newcomer in added))


def _edits(crowd: Crowd) -> int:
    return sum(device.edits for device in crowd.devices)


def _expect(holds: bool, what: str, report: Report) -> None:
    if not holds:
        report.faults.append(what)


def main() -> int:
    """Read the words of the command line, run, tell; 1 when something was lost."""
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
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(run(plan, Path(folder)))
    for fault in report.faults[:20]:
        print(f"FAULT {fault}")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
