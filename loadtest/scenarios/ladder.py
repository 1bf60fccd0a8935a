"""Ladder: appends at given shares of the capacity and at fixed rates (open loop), and how long each takes to arrive.

    python -m loadtest ladder                                    capacity, then 30, 60, 90 percent and 500 a second
    python -m loadtest ladder --percent 30 --percent 60 --rate 500 --with-floor
    python -m loadtest ladder --store sqlite

The capacity is that of a closed loop on the same hub just before.  Appends begin at random moments, whether the hub
keeps up or not, and times count from the moment that was intended: ``lag`` is how late the driver itself was, and is in
them.  ``--with-floor`` also compares with the median commit of a single pgbench client.
"""

from __future__ import annotations

import argparse
import asyncio

from loadtest import driving
from loadtest.figures import Figures
from loadtest.pump import Pump
from loadtest.sealed import seal_drafts

SHORT = "--seconds 4 --warm 0.5 --capacity-seconds 3 --percent 30 --percent 60 --rate 500"
FULL = "--with-floor --repeat 5"
PERCENT = (30, 60, 90)
RATES = (500,)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    driving.add_arguments(parser)
    parser.add_argument("--percent", type=float, action="append", help="of the capacity; may be given again")
    parser.add_argument("--rate", type=float, action="append", help="appends a second; may be given again")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each step")
    parser.add_argument("--capacity-seconds", type=float, default=4.0, help="of the closed loop before")


async def run(options: argparse.Namespace) -> list[Figures]:
    """The capacity, then a ``Figures`` for each step, by rate."""
    steps = {f"{rate:g}/s": rate for rate in options.rate or RATES}
    async with driving.ground(store=options.store, accounts=options.accounts, devices=options.devices) as here:
        floor = await driving.floor(here, options.floor_seconds) if options.with_floor else {}
        count = driving.drafts_for(options.rate_max * (options.warm + options.capacity_seconds), len(here.devices))
        async with driving.driven(here, count, records=options.records) as pump:
            capacity = Figures("ladder", driving.settings_of(options) | {"step": "capacity"})
            interval = await driving.measured(here, pump, options.capacity_seconds, warm_s=options.warm)
            capacity.values, capacity.notes = interval.values(pump), interval.notes
            if floor:
                driving.add_floor(capacity, floor)
            full = interval.found.per_s("acked")
            steps |= {f"{each:g} %": full * each / 100 for each in options.percent or PERCENT}
            return [capacity, *[await _step(options, here, pump, name, rate, floor) for name, rate in steps.items()]]


async def _step(
    options: argparse.Namespace, here: driving.Ground, pump: Pump, name: str, rate: float, floor: dict[str, float]
) -> Figures:
    appends = rate * (options.warm + options.seconds)
    count = driving.drafts_for(appends, len(here.devices), spare=driving.RANDOM_SPARE)
    first = [pump.written(index) for index in range(len(here.devices))]
    drafts = await asyncio.to_thread(seal_drafts, here.devices, count, records=options.records, first=first)
    pump.refill(drafts)
    figures = Figures("ladder", driving.settings_of(options) | {"step": name})
    interval = await driving.measured(here, pump, options.seconds, rate=rate, warm_s=options.warm)
    lag = pump.times("lag")
    figures.values = {
        "intended_per_s": rate,
        **interval.values(pump),
        "lag_p50_ms": lag.ms(50),
        "lag_p99_ms": lag.ms(99),
    }
    figures.notes, figures.curves = interval.notes, interval.curves(pump)
    if floor:
        commit = floor["one_row_commit_p50_ms"]
        figures.values |= {
            "pgbench_commit_p50_ms": commit,
            "delivery_by_commit_x": figures.values["delivery_p50_ms"] / commit,
        }
    return figures
