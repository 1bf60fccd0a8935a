"""Pages of the log: how one is read, alone or among those of many.

A page ends before the change that would take it beyond so many bytes, and only the sizes tell which one that is.  A
running sum over the rows cost Postgres as much as reading them (1.7 us a change instead of 0.8).  So a statement
guesses: it tells a stretch, as many changes as would fit if all were as large as the first of them, and one more, which
mostly is the one too many.  What comes back is cut here, exactly; where sizes differ so much that the page is not full
yet, the next stretch is asked for.

A page of several stretches is like several pages that are read one after the other: each stretch is of one snapshot,
the head is that of the last.
"""

from __future__ import annotations

from typing import cast

from hub.store import Page
from hub.terms import Change, Seq

Stretch = tuple[Seq, list[Seq] | None, list[int] | None, list[bytes | None] | None]
"""The head of a collection, and of its next changes the seqs, times and bodies; None for these when there is none."""


class Filling:
    """A page that is being read: what it holds, and what there is room for."""

    __slots__ = ("_changes", "_head", "after", "bytes_left", "changes_left")

    def __init__(self, after: Seq, changes_max: int, bytes_max: int) -> None:
        self.after = after  # what is asked for next is behind this
        self.changes_left = changes_max
        self.bytes_left = bytes_max
        self._changes: list[Change] = []
        self._head: Seq = 0

    def add(self, stretch: Stretch | None) -> bool:
        """Take what the store tells behind ``after``, None when there is no such collection; whether that was all."""
        if stretch is None:
            return True
        self._head, seqs, times, bodies = stretch
        if not seqs or not times or not bodies:
            self.after = self._head
            return True
        told = cast("list[bytes]", bodies[: bodies.index(None)] if None in bodies else bodies)
        fit, size = len(told), sum(map(len, told))
        while size > self.bytes_left and fit > (0 if self._changes else 1):
            fit -= 1
            size -= len(told[fit])
        self._changes += map(Change, seqs[:fit], times, told)
        self.changes_left -= fit
        self.bytes_left -= size
        if fit:
            self.after = seqs[fit - 1]
        full = fit < len(told) or self.changes_left == 0 or self.bytes_left <= 0
        # The newest change of a collection is always kept, so a page that has come to its end holds it.
        return full or self.after == self._head

    def page(self) -> Page:
        """The page."""
        return Page(self._changes, self.after if self._changes else self._head, self._head)


# --- statements ---------------------------------------------------------------------------------

# One row of arrays: it costs Postgres no more than rows would, and the driver half.  A body larger than the first eight
# together is not told unless it is one of them; so a stretch has at most eight times the bytes that are asked for, or
# one body more.
# length() of a body that lies outside the row does not read it, so only those that are told are read.  Nothing sorts
# the rows: a lateral join walks down them in their order, there is no other way to do one.
_KEPT = "from change where account_id = {{account}} and collection = log.number and seq {0}{{live}} order by seq"
# The second look begins at the first's own first: what was replaced before it may be a hundred times more.
_STRETCH = f"""
select array_agg(seq) as seqs, array_agg(appended_at_ms) as times,
       array_agg(case when length(sealed) <= first.bytes then sealed end) as bodies
from (
    select min(seq) as begin, sum(length(sealed)) as bytes,
           least({{changes}}, 1 + {{bytes}} * count(*) / sum(length(sealed))) as changes
    from (select seq, sealed {_KEPT.format("> {after}")} limit 8) as first_eight
) as first
cross join lateral (
    select seq, appended_at_ms, sealed {_KEPT.format(">= first.begin")} limit first.changes
) as kept
"""
_READ = f"""
with log as (select number, head from collection where account_id = $1 and space_id = $2 and collection_id = $3)
select log.head, stretch.seqs, stretch.times, stretch.bodies from log cross join lateral ({_STRETCH}) as stretch
"""
_READ_EACH = f"""
select asked.n, log.head, stretch.seqs, stretch.times, stretch.bodies
from unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[])
    with ordinality as asked(account, space, id, after, changes, bytes, n)
cross join lateral (
    select number, head from collection
    where account_id = asked.account and space_id = asked.space and collection_id = asked.id limit 1
) as log
cross join lateral ({_STRETCH}) as stretch
"""
_LIVE = " and replaced_at is null"
_ONE = {"account": "$1", "after": "$4", "changes": "$5::bigint", "bytes": "$6::bigint"}
_EACH = {name: f"asked.{name}" for name in _ONE}

READ = _READ.format(**_ONE, live="")
READ_LIVE = _READ.format(**_ONE, live=_LIVE)
READ_EACH = _READ_EACH.format(**_EACH, live="")
READ_EACH_LIVE = _READ_EACH.format(**_EACH, live=_LIVE)
