"""What to do when two devices edited the same record, without I/O.

A strategy is a function of one ``Conflict``: the opened value both edits were made
on, this device's value, and the one that is in the log already.  It answers
``MINE``, ``THEIRS``, ``Merged(value)`` or ``MANUAL`` (keep both; a person decides).
It runs inside a local transaction, so it must be quick, and on every device that
meets the conflict, so it should depend on nothing but its argument.

The engine settles what is no real conflict (equal values, or only one side
changed) before it asks, so a strategy never sees those.  Except one that counts
(``counts`` is true of it, as of ``counter_sum``): to it two equal edits are two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from difflib import SequenceMatcher
from enum import Enum
from typing import Any, Final, NamedTuple

from hub.client.values import Map


class _Missing(Enum):
    MISSING = "MISSING"

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING: Final = _Missing.MISSING
"""Stands for no value: the record was deleted, or did not exist."""


class Conflict(NamedTuple):
    """Two edits of one record; each value may be ``MISSING``."""

    key: str
    base: Any
    mine: Any
    theirs: Any


class Merged(NamedTuple):
    """The value that replaces both, and further records to put beside it (by their keys)."""

    value: Any
    also: Mapping[str, Any] = {}


class Verdict(Enum):
    """The answers that need no new value."""

    MINE = "mine"
    THEIRS = "theirs"
    MANUAL = "manual"


# Comparing texts in which one line is repeated many times takes quadratic time, once for every place they differ, and
# a merge must not hold up the session. Measured: at this bound and with a hundred changed places, half a second.
COMPARISONS_MAX = 100_000

MINE: Final = Verdict.MINE
THEIRS: Final = Verdict.THEIRS
MANUAL: Final = Verdict.MANUAL

Strategy = Callable[[Conflict], Merged | Verdict]


def manual(conflict: Conflict) -> Verdict:
    """Keep both until a person resolves it."""
    return MANUAL


def last_writer_wins(conflict: Conflict) -> Verdict:
    """The edit that reaches the log last stands; the engine does not even ask the hub to compare."""
    return MINE


def per_field(conflict: Conflict) -> Merged | Verdict:
    """Merge mappings field by field; a field both changed is taken from mine.

    An edit beats a delete.  Values that are not mappings fall to ``last_writer_wins``.
    """
    if (lone := _edit_beats_delete(conflict)) is not None:
        return lone
    if not _all(conflict, Mapping):
        return last_writer_wins(conflict)
    return Merged(_merge_fields(conflict, {}))


def counter_sum(*fields: str) -> Strategy:
    """Add up what both sides counted: of these fields of a mapping, or without fields of a plain number.

    Other fields are merged as ``per_field`` does.
    """
    if not fields:
        return _Counting(_sum_plain)
    adders = dict.fromkeys(fields, _sum)

    def strategy(conflict: Conflict) -> Merged | Verdict:
        if (lone := _edit_beats_delete(conflict)) is not None:
            return lone
        if not _all(conflict, Mapping):
            return last_writer_wins(conflict)
        return Merged(_merge_fields(conflict, adders))

    return _Counting(strategy)


def set_union(conflict: Conflict) -> Merged | Verdict:
    """Keep what either side added, drop what either side removed; for sets and lists.

    A list keeps the order of theirs, with what mine added behind it.
    """
    if (lone := _edit_beats_delete(conflict)) is not None:
        return lone
    if _all(conflict, set | frozenset):
        base = set() if conflict.base is MISSING else conflict.base
        mine, theirs = conflict.mine, conflict.theirs
        return Merged((mine & theirs) | (mine - base) | (theirs - base))
    if _all(conflict, list):
        return Merged(_merge_lists([] if conflict.base is MISSING else conflict.base, conflict.mine, conflict.theirs))
    return last_writer_wins(conflict)


def three_way_text(conflict: Conflict, fallback: Strategy = manual) -> Merged | Verdict:
    """Merge texts line by line; where both changed the same lines, ``fallback`` decides about the whole.

    It decides too about texts that would take too long to compare, see ``COMPARISONS_MAX``.
    """
    if (lone := _edit_beats_delete(conflict)) is not None:
        return lone
    if conflict.base is MISSING or not _all(conflict, str):
        return fallback(conflict)
    merged = merge_in_time(conflict.base, conflict.mine, conflict.theirs)
    return fallback(conflict) if merged is None else Merged(merged)


def by_field(strategies: Mapping[str, Strategy]) -> Strategy:
    """Merge mappings field by field, each field by its own strategy; fields that are not named as ``per_field`` does.

        by_field({"text": three_way_text, "tags": set_union, "words": counter_sum()})

    A strategy of a field sees the field's values, and only when both sides changed it; differently, unless it counts.
    When it leaves its field to a person, the whole is left to a person.
    """

    def merged(conflict: Conflict) -> Merged | Verdict:
        if (lone := _edit_beats_delete(conflict)) is not None:
            return lone
        if not _all(conflict, Mapping):
            return last_writer_wins(conflict)
        merges = {field: _of_field(conflict.key, strategy) for field, strategy in strategies.items()}
        fields = _merge_fields(conflict, merges)
        return MANUAL if any(value is MANUAL for value in fields.values()) else Merged(fields)

    counts = any(getattr(strategy, "counts", False) for strategy in strategies.values())
    return _Counting(merged) if counts else merged


def merge_lines(base: str, mine: str, theirs: str) -> str | None:
    """The diff3 merge of three texts by lines; None when both changed the same place differently.

    Two insertions at one place are such a case: no order of them is right.
    """
    merged = _merge_split([text.splitlines(keepends=True) for text in (base, mine, theirs)])
    return None if merged is None else "".join(merged)


def merge_in_time(base: str, mine: str, theirs: str) -> str | None:
    """``merge_lines``, None too when comparing takes too long even without what all have in common at both ends."""
    whole = [text.splitlines(keepends=True) for text in (base, mine, theirs)]
    head = tail = 0
    if not _in_time(whole):
        head = _same_lines(whole)
        tail = _same_lines([lines[head:][::-1] for lines in whole])
    middle = [lines[head : len(lines) - tail] for lines in whole]
    merged = _merge_split(middle) if _in_time(middle) else None
    lines = whole[0]
    return None if merged is None else "".join([*lines[:head], *merged, *lines[len(lines) - tail :]])


def same_value(one: Any, other: Any) -> bool:
    """Whether two values of an app are the same value: True is not 1, and what is no number equals itself."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if _is_number(one) and _is_number(other):
        return bool(one == other or (one != one and other != other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same_value(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same_value, one, other))
    if isinstance(one, set | frozenset) and isinstance(other, set | frozenset):
        return len(one) == len(other) and all(_holds(other, item) for item in one)
    return type(one) is type(other) and bool(one == other)


# --- helpers ---------------------------------------------------------------------------------


class _Counting:
    """A strategy to which two equal edits are two edits."""

    counts = True

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy

    def __call__(self, conflict: Conflict) -> Merged | Verdict:
        return self._strategy(conflict)


def _edit_beats_delete(conflict: Conflict) -> Verdict | None:
    if conflict.mine is MISSING:
        return THEIRS
    return MINE if conflict.theirs is MISSING else None


def _all(conflict: Conflict, kind: Any) -> bool:
    """Whether the present values are all of this kind; the base may be missing."""
    sides = (conflict.mine, conflict.theirs) if conflict.base is MISSING else conflict[1:]
    return all(isinstance(value, kind) for value in sides)


def _merge_fields(conflict: Conflict, special: Mapping[str, Callable[[Any, Any, Any], Any]]) -> dict[Any, Any]:
    base = {} if conflict.base is MISSING else conflict.base
    mine, theirs = conflict.mine, conflict.theirs
    merged: dict[Any, Any] = {}
    for field in [*theirs, *(name for name in mine if name not in theirs)]:
        merge = special.get(field, _pick)
        value = merge(base.get(field, MISSING), mine.get(field, MISSING), theirs.get(field, MISSING))
        if value is not MISSING:
            merged[field] = value
    return Map(merged) if isinstance(mine, Map) or isinstance(theirs, Map) else merged


def _of_field(key: str, strategy: Strategy) -> Callable[[Any, Any, Any], Any]:
    """The field's value as the strategy has it, or MANUAL."""

    def merge(base: Any, mine: Any, theirs: Any) -> Any:
        if same_value(mine, base):
            return theirs
        equal = same_value(mine, theirs) and not getattr(strategy, "counts", False)
        if equal or same_value(theirs, base):
            return mine
        answer = strategy(Conflict(key, base, mine, theirs))
        if isinstance(answer, Merged):
            return answer.value
        return {MINE: mine, THEIRS: theirs, MANUAL: MANUAL}[answer]

    return merge


def _pick(base: Any, mine: Any, theirs: Any) -> Any:
    return theirs if same_value(mine, base) else mine


def _sum(base: Any, mine: Any, theirs: Any) -> Any:
    if not all(value is MISSING or _is_number(value) for value in (base, mine, theirs)):
        return _pick(base, mine, theirs)
    if base is not MISSING and (mine is MISSING or theirs is MISSING):
        return _pick(base, mine, theirs)  # removed: that counts nothing
    start = 0 if base is MISSING else base
    return start + sum(value - start for value in (mine, theirs) if value is not MISSING)


def _sum_plain(conflict: Conflict) -> Merged | Verdict:
    if (lone := _edit_beats_delete(conflict)) is not None:
        return lone
    if not all(_is_number(value) for value in (conflict.mine, conflict.theirs)):
        return last_writer_wins(conflict)
    return Merged(_sum(conflict.base, conflict.mine, conflict.theirs))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _merge_lists(base: list[Any], mine: list[Any], theirs: list[Any]) -> list[Any]:
    kept = [item for item in theirs if _holds(mine, item) or not _holds(base, item)]
    return kept + [item for item in mine if not _holds(base, item) and not _holds(theirs, item)]


def _holds(items: Iterable[Any], item: Any) -> bool:
    # Elements may be unhashable, so membership is looked up one by one.
    return any(same_value(other, item) for other in items)


def _merge_split(sides: list[list[str]]) -> list[str] | None:
    lines, ours, others = sides
    kept_mine, kept_theirs = _kept(lines, ours), _kept(lines, others)
    merged: list[str] = []
    b = m = t = 0  # where the next region begins in base, mine and theirs
    for b_end, m_end, t_end in [*_common(kept_mine, kept_theirs), (len(lines), len(ours), len(others))]:
        region = _merge_region(lines[b:b_end], ours[m:m_end], others[t:t_end])
        if region is None:
            return None
        merged += region
        if b_end < len(lines):
            merged.append(lines[b_end])
        b, m, t = b_end + 1, m_end + 1, t_end + 1
    return merged


def _in_time(sides: list[list[str]]) -> bool:
    base, mine, theirs = sides
    return _comparisons(base, mine) + _comparisons(base, theirs) <= COMPARISONS_MAX


def _comparisons(one: list[str], other: list[str]) -> int:
    """How many pairs of equal lines there are: what comparing them line by line costs."""
    counts = Counter(one)
    return sum(counts[line] for line in other)


def _same_lines(sides: list[list[str]]) -> int:
    """How many lines at the start are the same in all of them."""
    for count, lines in enumerate(zip(*sides, strict=False)):
        if len(set(lines)) > 1:
            return count
    return min(len(side) for side in sides)


def _kept(base: list[str], other: list[str]) -> dict[int, int]:
    """Which line of ``base`` stands at which line of ``other``."""
    blocks = SequenceMatcher(None, base, other, autojunk=False).get_matching_blocks()
    return {a + i: b + i for a, b, size in blocks for i in range(size)}


def _common(mine: dict[int, int], theirs: dict[int, int]) -> list[tuple[int, int, int]]:
    """The lines both sides kept, as (base, mine, theirs), rising in all three."""
    return [(line, mine[line], theirs[line]) for line in sorted(mine.keys() & theirs.keys())]


def _merge_region(base: list[str], mine: list[str], theirs: list[str]) -> list[str] | None:
    if mine in (base, theirs):
        return theirs
    return mine if theirs == base else None
