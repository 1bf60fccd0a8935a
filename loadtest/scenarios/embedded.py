"""Embedded: the same as steady on the hub's own SQLite (WAL, synchronous=FULL), without any server beside it.

python -m loadtest embedded --repeat 5 --with-floor
"""

from __future__ import annotations

import argparse

from loadtest.figures import Figures
from loadtest.scenarios import steady

SHORT = steady.SHORT
FULL = steady.FULL


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of steady, but for the store."""
    steady.add_arguments(parser)
    parser.set_defaults(store="sqlite")


async def run(options: argparse.Namespace) -> list[Figures]:
    """One ``Figures``."""
    return [await steady.closed_loop("embedded", options)]
