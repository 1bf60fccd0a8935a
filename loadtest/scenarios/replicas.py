"""Replicas: the same as steady on one, two and three replicas with Redis, an account's devices spread over them.

    python -m loadtest replicas                                  1, 2 and 3, dialled directly
    python -m loadtest replicas --through haproxy --only 2
    python -m loadtest replicas --only 2 --repeat 5 --with-floor

All replicas, Postgres, Redis and the driver share the machine: on two cores more replicas are not faster, they say what
the way from one replica to another costs.
"""

from __future__ import annotations

import argparse

from loadtest import driving
from loadtest.figures import Figures
from loadtest.scenarios import steady

SHORT = "--only 2 --seconds 4 --warm 1"
FULL = "--with-floor --repeat 5"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of steady, but for the number."""
    steady.add_arguments(parser)
    parser.add_argument("--only", type=int, action="append", choices=(1, 2, 3), help="so many; may be given again")
    parser.add_argument("--through", choices=driving.WAYS, default="direct", help="what the devices dial")


async def run(options: argparse.Namespace) -> list[Figures]:
    """One ``Figures`` for each number of replicas."""
    numbers = options.only or (1, 2, 3)
    return [await steady.closed_loop("replicas", options, replicas=n, through=options.through) for n in numbers]
