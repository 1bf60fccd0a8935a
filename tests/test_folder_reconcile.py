"""The decision table, every combination of it, and the merge."""

from __future__ import annotations

from itertools import product
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.client.strategies import MINE, MISSING, THEIRS, Conflict, Merged
from hub.folder.files import INLINE_BYTES, FileValue, Stamp, chunked_value, inline_value
from hub.folder.reconcile import Action, decide, file_conflicts, merged_bit, merged_content

ONE, TWO, THREE = (Stamp(bytes([n]) * 32, False) for n in (1, 2, 3))

TABLE = {
    # agreed, disk, record
    (None, None, None): Action.NOTHING,
    (None, None, ONE): Action.WRITE,
    (None, ONE, None): Action.PUT,
    (None, ONE, ONE): Action.AGREE,
    (None, ONE, TWO): Action.MERGE,
    (ONE, None, None): Action.AGREE,
    (ONE, None, ONE): Action.ERASE,
    (ONE, None, TWO): Action.WRITE,
    (ONE, ONE, None): Action.REMOVE,
    (ONE, ONE, ONE): Action.NOTHING,
    (ONE, ONE, TWO): Action.WRITE,
    (ONE, TWO, None): Action.PUT,
    (ONE, TWO, ONE): Action.PUT,
    (ONE, TWO, TWO): Action.AGREE,
    (ONE, TWO, THREE): Action.MERGE,
}


@pytest.mark.parametrize(("states", "action"), list(TABLE.items()))
def test_each_row_of_the_table(states: tuple[Stamp | None, Stamp | None, Stamp | None], action: Action) -> None:
    assert decide(*states) is action


def _shape(states: tuple[Stamp | None, ...]) -> tuple[Stamp | None, ...]:
    """The same states with their values renamed in the order of their first appearance."""
    names: dict[Stamp, Stamp] = {}
    return tuple(None if s is None else names.setdefault(s, (ONE, TWO, THREE)[len(names)]) for s in states)


def test_the_table_has_every_combination() -> None:
    shapes = {_shape(states) for states in product((None, ONE, TWO, THREE), repeat=3)}
    assert shapes == {_shape(states) for states in TABLE}
    for states in product((None, ONE, TWO, THREE), repeat=3):
        by_shape = {_shape(row): action for row, action in TABLE.items()}
        assert decide(*states) is by_shape[_shape(states)]


def test_the_executable_bit_is_a_difference() -> None:
    assert decide(ONE, ONE._replace(executable=True), ONE) is Action.PUT


@pytest.mark.parametrize(("base", "mine", "theirs"), list(product((None, False, True), (False, True), (False, True))))
def test_the_bit_that_was_changed_wins(base: bool | None, mine: bool, theirs: bool) -> None:
    merged = merged_bit(base, mine, theirs)
    if mine == theirs:
        assert merged == mine
    else:
        assert merged == (True if base is None else not base)


PROSE = b"one\ntwo\nthree\nfour\nfive\nsix\nseven\n"


def test_edits_at_two_places_are_merged() -> None:
    mine, theirs = PROSE.replace(b"two", b"2"), PROSE.replace(b"six", b"6")
    assert merged_content(PROSE, mine, theirs) == PROSE.replace(b"two", b"2").replace(b"six", b"6")


def test_edits_of_the_same_line_are_not() -> None:
    assert merged_content(PROSE, PROSE.replace(b"two", b"2"), PROSE.replace(b"two", b"II")) is None


@pytest.mark.parametrize("side", [b"\0", b"\xff", b"x" * (INLINE_BYTES + 1)])
def test_what_is_no_small_text_is_not_merged(side: bytes) -> None:
    assert merged_content(PROSE, PROSE, PROSE) == PROSE
    assert merged_content(side, PROSE, PROSE) is None
    assert merged_content(PROSE, side, PROSE) is None
    assert merged_content(PROSE, PROSE, side) is None


def test_without_a_base_nothing_is_merged() -> None:
    assert merged_content(None, PROSE, PROSE) is None


def test_a_merge_that_grows_too_large_is_no_merge() -> None:
    half = b"x" * (INLINE_BYTES // 2)
    base = b"a\nb\nc\n"
    assert merged_content(base, half + b"\n" + base[2:], base + b"y\n") is not None
    assert merged_content(base, half + b"\n" + base[2:], base + half + b"\n") is None


def test_many_equal_lines_give_up_rather_than_hold_up_the_session() -> None:
    base = b"\n" * INLINE_BYTES
    started = perf_counter()
    assert merged_content(base[2:], b"a\n" + base[2:], base[4:] + b"b\n") is None
    assert perf_counter() - started < 2


LINES = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"\n", b"d\r\n", b"no end"]), max_size=12).map(b"".join)


@given(LINES, LINES)
def test_a_side_that_did_not_change_yields_to_the_other(base: bytes, side: bytes) -> None:
    assert merged_content(base, side, base) == side
    assert merged_content(base, base, side) == side
    assert merged_content(base, side, side) == side


@given(LINES, LINES, LINES)
def test_a_merge_is_the_same_from_both_sides_and_merging_again_changes_nothing(
    base: bytes, mine: bytes, theirs: bytes
) -> None:
    merged = merged_content(base, mine, theirs)
    assert merged == merged_content(base, theirs, mine)
    if merged is not None:
        assert merged_content(theirs, merged, theirs) == merged


def _copy(path: str, mine: FileValue) -> str:
    return path + " (copy)"


resolve = file_conflicts(_copy)
BIG = {n: chunked_value(bytes([n]) * 32, 200_000, False, f"{n:032x}") for n in (1, 2, 3)}


def test_the_hook_merges_texts() -> None:
    mine, theirs = PROSE.replace(b"two", b"2"), PROSE.replace(b"six", b"6")
    answer = resolve(Conflict("p", *(inline_value(side, False) for side in (PROSE, mine, theirs))))
    both = inline_value(PROSE.replace(b"two", b"2").replace(b"six", b"6"), False)
    assert answer == Merged(both)


def test_the_hook_merges_content_and_bit_apart() -> None:
    base, theirs = inline_value(PROSE, False), inline_value(PROSE + b"more\n", False)
    assert resolve(Conflict("p", base, inline_value(PROSE, True), theirs)) == Merged({**theirs, "x": True})


def test_the_hook_keeps_both_where_nothing_merges() -> None:
    mine, theirs = inline_value(b"\0mine", False), inline_value(b"\0theirs", False)
    assert resolve(Conflict("p", MISSING, mine, theirs)) == Merged(theirs, {"p (copy)": mine})
    assert resolve(Conflict("p", inline_value(b"\0", False), mine, theirs)) == Merged(theirs, {"p (copy)": mine})
    assert resolve(Conflict("p", BIG[1], BIG[2], BIG[3])) == Merged(BIG[3], {"p (copy)": BIG[2]})
    assert resolve(Conflict("p", inline_value(PROSE, False), BIG[2], theirs)) == Merged(theirs, {"p (copy)": BIG[2]})


def test_the_hook_lets_an_edit_survive_a_deletion() -> None:
    value = inline_value(b"x", False)
    assert resolve(Conflict("p", value, MISSING, inline_value(b"y", False))) is THEIRS
    assert resolve(Conflict("p", value, inline_value(b"y", False), MISSING)) is MINE


def test_the_hook_makes_no_copy_of_what_is_equal() -> None:
    other = {**BIG[1], "v": f"{9:032x}"}
    assert resolve(Conflict("p", MISSING, BIG[1], other)) is THEIRS
    assert resolve(Conflict("p", MISSING, inline_value(b"a", False), inline_value(b"a", False))) is THEIRS


def test_the_hook_never_names_a_version_of_chunks_twice() -> None:
    answer = resolve(Conflict("p", BIG[1], {**BIG[1], "x": True}, BIG[2]))
    assert answer is THEIRS


def test_a_value_nobody_can_read_gives_way() -> None:
    assert resolve(Conflict("p", MISSING, inline_value(b"a", False), {"future": 1})) is MINE
