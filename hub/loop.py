"""What a hub serves on: the event loop, how soon threads take turns, and how often Python looks for garbage.

The loop is uvloop where it installs, elsewhere the standard library's with a smaller read buffer.
uvloop halves what a message costs.  The stock loop allocates the largest read it could make
before each one, 256 KiB of which a frame fills a few hundred bytes; with 64 KiB it comes close
to uvloop.  Nothing in the hub depends on which of the two it is.
"""

from __future__ import annotations

import asyncio
import gc
import sys

READ_BYTES_MAX = 65_536
TURN_S = 0.0005


def new_loop() -> asyncio.AbstractEventLoop:
    """A fresh loop to serve on."""
    try:
        import uvloop
    except ImportError:
        return stock_loop()
    return uvloop.new_event_loop()


def stock_loop() -> asyncio.AbstractEventLoop:
    """The standard library's loop; from now on every one of this process reads at most ``READ_BYTES_MAX`` at once."""
    from asyncio import selector_events

    # Private, and there is no public way: where a later Python has it no more, reads only cost what they cost before.
    transport = getattr(selector_events, "_SelectorTransport", None)
    if getattr(transport, "max_size", 0) > READ_BYTES_MAX:
        transport.max_size = READ_BYTES_MAX  # type: ignore[union-attr]
    return asyncio.new_event_loop()


def take_turns_soon() -> None:
    """From now on a thread that wants the interpreter gets it after half a millisecond of another's work, not five.

    SQLite's writer wants it some twenty times a batch, for microseconds each, while the loop hands out the batch
    before: with five milliseconds each time the two nearly take turns by the batch.  13 % more appends a second.
    A hub on Postgres has no thread that would notice.
    """
    sys.setswitchinterval(TURN_S)


def collect_seldom() -> None:
    """From now on look for garbage in circles ten times more seldom, and never at what is there already.

    A hub makes next to none, and each look goes through all its sessions: with 5,000 of them, idle, that was a third
    of the processor time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
