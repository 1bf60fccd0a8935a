"""Slow reader: a device that stops reading, while others write.  What it costs them and the hub, and how it ends.

    python -m loadtest slow_reader
    python -m loadtest slow_reader --store sqlite --without-closing

One account writes large changes (two of its devices, open loop) while its third does not read; the devices of many
other accounts go on as ever (open loop, 256-byte bodies).  Three intervals of theirs: before, meanwhile, and after it
reads again and has caught up.  Then it stops once more and stays so, until the hub closes it.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from loadtest import driving
from loadtest.dial import dial_all
from loadtest.figures import Figures
from loadtest.pump import Found, Pump
from loadtest.sealed import seal_drafts

SHORT = "--seconds 6 --without-closing"

LARGE_BYTES = 30_000
LARGE_PER_S = 30.0  # of both writers together: below what one device may send
KERNEL_BYTES = 16_384  # what the kernel takes for a device that does not read: the hub shall feel it
CLOSED_WITHIN_S = 90.0
CATCH_UP_S = 30.0
SLOW = 2  # the third device of its account
LOOK_S = 2.0
# A device that reads nothing does not read the ping either: what comes first closes it.
CLOSINGS = [f'hub_closings_total{{closing="{closing}"}}' for closing in ("slow_consumer", "heartbeat_lost")]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    driving.add_arguments(parser)
    parser.set_defaults(accounts=50, warm=1.0)
    parser.add_argument("--rate", type=float, default=1_000.0, help="appends a second of all other accounts")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each interval")
    parser.add_argument("--without-closing", action="store_true", help="do not wait until the hub closes it")


async def run(options: argparse.Namespace) -> list[Figures]:
    """One ``Figures``."""
    figures = Figures("slow_reader", driving.settings_of(options, "rate", "seconds"))
    async with driving.ground(store=options.store, accounts=options.accounts + 1, devices=3) as here:
        account, others = here.devices[:3], here.devices[3:]
        count = driving.drafts_for(options.rate * (options.warm + 4 * options.seconds), len(others))
        small = await asyncio.to_thread(seal_drafts, others, count)
        large_count = int(LARGE_PER_S / 2 * (3 * options.seconds + CLOSED_WITHIN_S))
        large = await asyncio.to_thread(seal_drafts, account, large_count, value_bytes=LARGE_BYTES)
        with (
            Pump(await dial_all(here.urls, others), small) as crowd,
            Pump(await dial_all(here.urls, account, receive_buffer=KERNEL_BYTES), large) as slow,
        ):
            await _Slow(options, here, crowd, slow, figures).through()
    return [figures]


class _Slow:
    """The run, interval by interval."""

    def __init__(
        self, options: argparse.Namespace, here: driving.Ground, crowd: Pump, slow: Pump, figures: Figures
    ) -> None:
        self.options, self.here, self.crowd, self.slow, self.figures = options, here, crowd, slow, figures

    async def through(self) -> None:
        """All of it."""
        values, seconds = self.figures.values, self.options.seconds
        await asyncio.to_thread(self.crowd.run, self.options.warm, rate=self.options.rate)
        await self._interval("before")
        idle = self.here.resident_kib()
        self.slow.set_reading(SLOW, False)
        await self._interval("meanwhile")
        values["hub_grew_kib"] = self.here.resident_kib() - idle
        values["hub_queued_kib"] = await asyncio.to_thread(self.here.read, "hub_queued_bytes") / 1024
        values["slow_behind_changes"] = self.slow.upto(0) - self.slow.upto(SLOW)
        self.slow.set_reading(SLOW, True)
        began = time.monotonic()
        whole = await asyncio.to_thread(self.slow.drain, CATCH_UP_S)
        values["caught_up_s"] = time.monotonic() - began
        if not whole:
            self.figures.notes.append(f"FAULT: it did not catch up within {CATCH_UP_S:.0f} s")
        await self._interval("after")
        self.figures.notes += [f"FAULT: {each}" for pump in (self.crowd, self.slow) for each in pump.faults()]
        if not self.options.without_closing:
            await self._until_closed()
        self.figures.notes.append(
            f"{LARGE_PER_S:.0f} changes of {LARGE_BYTES:,} bytes a second to it; intervals of {seconds:g} s"
        )

    async def _interval(self, name: str) -> None:
        """Everybody writes; what the others felt."""
        found, _ = await asyncio.gather(
            asyncio.to_thread(self.crowd.run, self.options.seconds, rate=self.options.rate), self._write_large()
        )
        await asyncio.to_thread(self.crowd.drain, driving.DRAIN_S)
        times = self.crowd.times("delivery")
        self.figures.values[f"others_{name}_per_s"] = found.per_s("acked")
        self.figures.values |= {f"others_{name}_delivery_p{step}_ms": times.ms(step) for step in (50, 99)}
        # The fast device of the same account and the writers themselves.
        self.figures.values[f"account_{name}_ack_p99_ms"] = self.slow.times("ack").ms(99)

    async def _write_large(self) -> Found:
        # A device that does not read does not write: the rate is that of the two others.
        return await asyncio.to_thread(self.slow.run, self.options.seconds, rate=LARGE_PER_S)

    async def _until_closed(self) -> None:
        """It stops reading for good; what it finds when it looks again."""
        self.slow.set_reading(SLOW, False)
        began = time.monotonic()
        closed = 0.0
        while not closed and time.monotonic() - began < CLOSED_WITHIN_S:
            await asyncio.to_thread(self.slow.run, LOOK_S, rate=LARGE_PER_S)
            await asyncio.to_thread(self.crowd.rest, 0.01)  # their pings
            closed = await asyncio.to_thread(lambda: sum(map(self.here.read, CLOSINGS)))
        self.figures.values["closed_after_s"] = time.monotonic() - began
        self.slow.set_reading(SLOW, True)
        await asyncio.to_thread(self.slow.drain, LOOK_S)
        self.figures.values["closing_code"] = self.slow.closing(SLOW)
        if not closed:
            self.figures.notes.append(f"FAULT: the hub did not close it within {CLOSED_WITHIN_S:.0f} s")
