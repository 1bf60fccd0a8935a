"""Steady: every device keeps appends in flight, each delivered to the account's other devices (closed loop).

    python -m loadtest steady                                    300 accounts of 3 devices, Postgres, 8 s
    python -m loadtest steady --store sqlite --seconds 4
    python -m loadtest steady --repeat 5 --with-floor            in turn with pgbench; medians, also of the ratios
    python -m loadtest steady --accounts 4 --seconds 1 --check   a real client opens everything and compares

The processor times are per append, of all processes of a kind; an append is answered to its device and delivered to the
others of its account.  When the sealed drafts do not last the run ends early and says so: ``--rate-max``.
"""

from __future__ import annotations

import argparse

from loadtest import driving
from loadtest.figures import Figures

SHORT = "--seconds 4 --warm 1"
FULL = "--with-floor --repeat 5"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    driving.add_arguments(parser)
    parser.add_argument("--replicas", type=int, default=1, choices=(1, 2, 3))
    parser.add_argument("--in-flight", type=int, default=1, choices=(1, 2, 3, 4), help="appends, of each device")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--check", action="store_true", help="open everything of one account with a real client")


async def run(options: argparse.Namespace) -> list[Figures]:
    """One ``Figures``."""
    return [await closed_loop("steady", options)]


async def closed_loop(name: str, options: argparse.Namespace, *, replicas: int = 0, through: str = "direct") -> Figures:
    """A ground of its own, and one interval on it."""
    replicas = replicas or options.replicas
    figures = Figures(name, driving.settings_of(options, "in_flight", "seconds") | {"replicas": replicas})
    if through != "direct":
        figures.settings["through"] = through
    async with driving.ground(
        store=options.store,
        accounts=options.accounts,
        devices=options.devices,
        replicas=replicas,
        through=through,
        check=options.check,
    ) as here:
        floor = await driving.floor(here, options.floor_seconds) if options.with_floor else {}
        count = driving.drafts_for(options.rate_max * (options.warm + options.seconds), len(here.devices))
        async with driving.driven(here, count, records=options.records) as pump:
            stored = await here.stored_bytes()
            interval = await driving.measured(
                here, pump, options.seconds, in_flight=options.in_flight, warm_s=options.warm
            )
            grown = await here.stored_bytes() - stored
            figures.values = interval.values(pump) | {"stored_bytes_a_change": grown / max(1, pump.total["acked"])}
            figures.notes = [*interval.notes, driving.how_sealed(pump.drafts)]
            figures.curves = interval.curves(pump)
            if options.check:
                figures.notes += await driving.check(here, pump, options.records)
    if floor:
        driving.add_floor(figures, floor)
    return figures
