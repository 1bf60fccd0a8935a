"""What an operator's tools may see of a database from outside, whatever state it is in, without I/O.

A keeper's ``look`` needs no lock, changes nothing, makes no table and works beside a
running hub; it answers also for a database that this program could not serve from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

PINGS = 5


class Look(NamedTuple):
    """One look at a database."""

    version: str  # as "3.45.1"
    schema: int  # the schema version it is at; 0 = it has no tables of ours
    schema_known: int  # the one this program makes
    too_new: bool  # this program must not serve from it
    latency_s: float  # the median of ``PINGS`` questions that touch nothing
    skew_s: float  # its clock less this machine's; 0 when it has none of its own
    standbys: int  # how many copies confirm a commit before it is answered
    takes_writes: bool
    accounts: int
    values: Mapping[str, bytes]  # what it says of itself: the table ``hub``

    def claimed(self, name: str) -> bytes | None:
        """What ``Store.claim`` keeps under this name; SQLite's keeper gives it no word of its own."""
        return self.values.get(f"claim {name}", self.values.get(name))

    def remembered(self, name: str) -> bytes | None:
        """What ``Store.remember`` keeps under this name."""
        return self.values.get(f"memo {name}")
