"""What each strategy answers when two devices edited one record, by name and by property."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.client.strategies import (
    COMPARISONS_MAX,
    MANUAL,
    MINE,
    MISSING,
    THEIRS,
    Conflict,
    Merged,
    by_field,
    counter_sum,
    last_writer_wins,
    manual,
    merge_lines,
    per_field,
    same_value,
    set_union,
    three_way_text,
)
from hub.client.values import Map

MERGING = {
    "per_field": (per_field, {"a": 1}),
    "counter_sum of a field": (counter_sum("a"), {"a": 1}),
    "counter_sum of a number": (counter_sum(), 3),
    "set_union of sets": (set_union, {"a"}),
    "set_union of lists": (set_union, ["a"]),
    "three_way_text": (three_way_text, "a\n"),
    "by_field": (by_field({"a": counter_sum()}), {"a": 1}),
}
TEXT = "one\ntwo\nthree\nfour\nfive\n"

numbers = st.integers(-1_000, 1_000)
mappings = st.dictionaries(st.sampled_from("abcde"), numbers)
counters = st.fixed_dictionaries({"n": numbers, "m": numbers})
sets = st.sets(st.integers(0, 9))
lists = st.lists(st.integers(0, 9), unique=True)
texts = st.lists(st.sampled_from(["a", "b", "c", "d", ""]), max_size=8).map("\n".join)


def asked(strategy, base, mine, theirs):
    return strategy(Conflict("key", base, mine, theirs))


# --- the plain ones, and deletes -------------------------------------------------------------


@pytest.mark.parametrize(("mine", "theirs"), [(1, 2), ({"a": 1}, "text"), (MISSING, 2), (1, MISSING)])
def test_manual_leaves_everything_to_a_person(mine, theirs):
    assert asked(manual, 0, mine, theirs) is MANUAL


@pytest.mark.parametrize(("mine", "theirs"), [(1, 2), ({"a": 1}, "text"), (MISSING, 2), (1, MISSING)])
def test_last_writer_wins_lets_mine_stand_because_it_reaches_the_log_last(mine, theirs):
    assert asked(last_writer_wins, 0, mine, theirs) is MINE


@pytest.mark.parametrize(("strategy", "value"), MERGING.values(), ids=MERGING.keys())
def test_an_edit_beats_a_delete_on_either_side(strategy, value):
    assert asked(strategy, value, MISSING, value) is THEIRS
    assert asked(strategy, value, value, MISSING) is MINE


@pytest.mark.parametrize("strategy", [per_field, counter_sum("a"), counter_sum(), set_union])
@pytest.mark.parametrize(("base", "mine", "theirs"), [("x", "y", "z"), (MISSING, "y", 3), (None, {"a": 1}, None)])
def test_values_that_do_not_fit_the_strategy_fall_to_the_last_writer(strategy, base, mine, theirs):
    assert asked(strategy, base, mine, theirs) is MINE


def test_missing_is_false_and_says_its_name():
    assert not MISSING
    assert repr(MISSING) == "MISSING"


def test_a_merge_puts_nothing_beside_the_record_unless_told():
    assert dict(Merged(1).also) == {}


# --- per_field -------------------------------------------------------------------------------


def test_fields_changed_on_different_sides_are_both_kept():
    assert asked(per_field, {"a": 1, "b": 1}, {"a": 2, "b": 1}, {"a": 1, "b": 3}) == Merged({"a": 2, "b": 3})


def test_what_is_a_map_to_javascript_stays_one():
    merged = asked(per_field, Map(a=1), Map(a=2), Map(a=1, b=1)).value
    assert (type(merged), merged) == (Map, {"a": 2, "b": 1})
    assert type(asked(per_field, {"a": 1}, {"a": 2}, {"a": 1, "b": 1}).value) is dict


def test_a_field_both_changed_is_taken_from_mine():
    assert asked(per_field, {"a": 1}, {"a": 2}, {"a": 3}) == Merged({"a": 2})


def test_a_field_only_one_side_removed_is_gone():
    assert asked(per_field, {"a": 1, "b": 1}, {"b": 1}, {"a": 1, "b": 2}) == Merged({"b": 2})
    assert asked(per_field, {"a": 1, "b": 1}, {"a": 1, "b": 2}, {"b": 1}) == Merged({"b": 2})


def test_a_field_mine_removed_and_theirs_changed_is_gone_as_mine_has_it():
    assert asked(per_field, {"a": 1}, {}, {"a": 2}) == Merged({})


def test_two_new_records_are_merged_by_field_too():
    assert asked(per_field, MISSING, {"a": 1, "c": 1}, {"b": 2, "c": 2}) == Merged({"a": 1, "b": 2, "c": 1})


@given(mappings, mappings)
def test_per_field_keeps_an_edit_when_the_other_side_changed_nothing(base, edit):
    assert asked(per_field, base, edit, base) == Merged(edit)
    assert asked(per_field, base, base, edit) == Merged(edit)


@given(mappings, mappings)
def test_per_field_of_the_same_edit_on_both_sides_is_that_edit(base, edit):
    assert asked(per_field, base, edit, edit) == Merged(edit)


# --- counter_sum -----------------------------------------------------------------------------


def test_what_both_sides_counted_is_added_up():
    assert asked(counter_sum(), 10, 13, 8) == Merged(11)
    assert asked(counter_sum("n"), {"n": 10}, {"n": 13}, {"n": 8}) == Merged({"n": 11})


def test_counters_begin_at_zero():
    assert asked(counter_sum(), MISSING, 2, 3) == Merged(5)
    assert asked(counter_sum("n"), MISSING, {"n": 2}, {"n": 3}) == Merged({"n": 5})
    assert asked(counter_sum("n"), {}, {"n": 2}, {}) == Merged({"n": 2})


def test_fields_that_are_no_counters_are_merged_by_field():
    base, mine, theirs = {"n": 1, "a": 0, "b": 0}, {"n": 2, "a": 1, "b": 1}, {"n": 3, "a": 0, "b": 2}
    assert asked(counter_sum("n"), base, mine, theirs) == Merged({"n": 4, "a": 1, "b": 1})


def test_a_counter_that_was_removed_is_a_field_that_was_removed():
    """A removal counts nothing: it must not bring back what the other side left alone, or removed too."""
    strategy = counter_sum("n")
    assert asked(strategy, {"n": 5, "a": 1}, {"a": 1}, {"n": 5, "a": 2}) == Merged({"a": 2})
    assert asked(strategy, {"n": 5, "a": 1}, {"n": 5, "a": 2}, {"a": 1}) == Merged({"a": 2})
    assert asked(strategy, {"n": 5, "a": 1}, {"a": 2}, {"a": 3}) == Merged({"a": 2})
    assert asked(strategy, {"n": 5}, {}, {"n": 7}) == Merged({})  # as any field both changed: from mine
    assert asked(strategy, {"n": 5}, {"n": 7}, {}) == Merged({"n": 7})


def test_several_fields_may_count():
    assert asked(counter_sum("n", "m"), {"n": 0, "m": 5}, {"n": 1, "m": 4}, {"n": 1, "m": 4}) == Merged(
        {"n": 2, "m": 3}
    )


@pytest.mark.parametrize(("mine", "theirs"), [("many", 3), (True, 3)])
def test_a_counter_that_is_no_number_is_merged_as_any_field(mine, theirs):
    assert asked(counter_sum("n"), {"n": 0}, {"n": mine}, {"n": theirs}) == Merged({"n": mine})
    assert asked(counter_sum(), 0, mine, theirs) is MINE


@given(numbers, numbers, numbers)
def test_the_sum_does_not_ask_whose_edit_came_first(base, one, other):
    assert asked(counter_sum(), base, one, other) == asked(counter_sum(), base, other, one)
    assert asked(counter_sum(), base, one, base) == Merged(one)


@given(counters, counters, counters)
def test_counted_fields_do_not_ask_whose_edit_came_first(base, one, other):
    strategy = counter_sum("n", "m")
    assert asked(strategy, base, one, other) == asked(strategy, base, other, one)
    assert asked(strategy, base, one, base) == Merged(one)


# --- set_union -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [set, frozenset])
def test_what_either_added_stays_and_what_either_removed_goes(kind):
    assert asked(set_union, kind("abc"), kind("bcx"), kind("aby")) == Merged(kind("bxy"))


def test_two_new_sets_are_united():
    assert asked(set_union, MISSING, {1, 2}, {2, 3}) == Merged({1, 2, 3})
    assert asked(set_union, MISSING, [1, 2], [2, 3]) == Merged([2, 3, 1])


def test_a_list_keeps_the_order_of_theirs_with_what_mine_added_behind():
    assert asked(set_union, ["a", "b", "c"], ["new", "c", "a"], ["c", "b", "x", "a"]) == Merged(["c", "x", "a", "new"])


def test_elements_of_a_list_need_not_be_hashable():
    one, two, three = {"id": 1}, {"id": 2}, {"id": 3}
    assert asked(set_union, [one], [one, two], [one, three]) == Merged([one, three, two])


@given(sets, sets, sets)
def test_the_union_of_sets_does_not_ask_whose_edit_came_first(base, one, other):
    merged = asked(set_union, base, one, other)
    assert merged == asked(set_union, base, other, one)
    assert asked(set_union, base, one, base) == Merged(one)
    assert merged.value == (base & one & other) | (one - base) | (other - base)


@given(lists, lists, lists)
def test_lists_hold_what_sets_would(base, one, other):
    merged = asked(set_union, base, one, other).value
    assert len(merged) == len(set(merged))
    assert set(merged) == asked(set_union, set(base), set(one), set(other)).value
    assert asked(set_union, base, base, other) == Merged(other)


# --- three_way_text --------------------------------------------------------------------------


def test_lines_changed_in_different_places_are_both_kept():
    mine, theirs = TEXT.replace("one", "ONE"), TEXT.replace("five", "FIVE")
    assert asked(three_way_text, TEXT, mine, theirs) == Merged("ONE\ntwo\nthree\nfour\nFIVE\n")


def test_a_removed_line_and_an_added_one_elsewhere_are_both_kept():
    mine, theirs = TEXT.replace("two\n", ""), TEXT + "six\n"
    assert asked(three_way_text, TEXT, mine, theirs) == Merged("one\nthree\nfour\nfive\nsix\n")


def test_the_same_change_on_both_sides_is_made_once():
    mine = TEXT.replace("two", "TWO").replace("five", "FIVE")
    assert asked(three_way_text, TEXT, mine, TEXT.replace("two", "TWO")) == Merged(mine)


OVERLAPS = {
    "one line changed differently": (TEXT, TEXT.replace("two", "2"), TEXT.replace("two", "zwei")),
    "a line changed and removed": (TEXT, TEXT.replace("two", "2"), TEXT.replace("two\n", "")),
    "two insertions at one place": (TEXT, TEXT + "mine\n", TEXT + "theirs\n"),
    "nothing to stand on": (MISSING, "mine\n", "theirs\n"),
    "no text": ("a", "b", 3),
}


@pytest.mark.parametrize("conflict", OVERLAPS.values(), ids=OVERLAPS.keys())
def test_where_texts_overlap_a_person_decides_unless_a_fallback_does(conflict):
    seen = []

    def fallback(met):
        seen.append(met)
        return Merged("decided")

    assert asked(three_way_text, *conflict) is MANUAL
    assert three_way_text(Conflict("key", *conflict), last_writer_wins) is MINE
    assert three_way_text(Conflict("key", *conflict), fallback) == Merged("decided")
    assert seen == [Conflict("key", *conflict)]


def test_the_fallback_is_not_asked_when_the_merge_is_clean_or_one_side_deleted():
    def fallback(met):
        raise AssertionError("asked")

    assert three_way_text(Conflict("key", "a\n", "a\nb\n", "a\n"), fallback) == Merged("a\nb\n")
    assert three_way_text(Conflict("key", "a\n", MISSING, "b\n"), fallback) is THEIRS
    assert three_way_text(Conflict("key", "a\n", "b\n", MISSING), fallback) is MINE


def test_a_missing_newline_at_the_end_is_kept_missing():
    assert merge_lines("a\nb\nc", "A\nb\nc", "a\nb\nc") == "A\nb\nc"
    assert merge_lines("a\nb\nc\n", "A\nb\nc\n", "a\nb\nc") == "A\nb\nc"


@given(texts, texts)
def test_a_text_only_one_side_changed_is_that_sides_text(base, edit):
    assert merge_lines(base, edit, base) == edit
    assert merge_lines(base, base, edit) == edit
    assert merge_lines(base, edit, edit) == edit


@given(texts, texts, texts)
def test_the_merge_of_texts_does_not_ask_whose_edit_came_first(base, one, other):
    assert merge_lines(base, one, other) == merge_lines(base, other, one)


@given(texts, texts, texts)
def test_a_merged_text_has_no_line_that_nobody_wrote(base, one, other):
    merged = merge_lines(base, one, other)
    if merged is not None:
        written = {*one.splitlines(keepends=True), *other.splitlines(keepends=True)}
        assert set(merged.splitlines(keepends=True)) <= written


def repeated(times: int, first: str, last: str) -> str:
    """Changed at both ends, in between one line again and again."""
    return "\n".join([first, *["same"] * times, last, ""])


def test_texts_that_take_too_long_to_compare_are_left_to_the_fallback():
    def answer(times):
        return asked(three_way_text, repeated(times, "a", "z"), repeated(times, "A", "z"), repeated(times, "a", "Z"))

    most = int((COMPARISONS_MAX / 2) ** 0.5)
    assert answer(most) == Merged(repeated(most, "A", "Z"))
    assert answer(most + 1) is MANUAL


def test_what_all_texts_have_in_common_at_both_ends_is_not_compared():
    around = "same\n" * COMPARISONS_MAX
    base, mine, theirs = (f"{around}{middle}{around}" for middle in ("a\nb\nc\n", "A\nb\nc\n", "a\nb\nC\n"))
    assert asked(three_way_text, base, mine, theirs) == Merged(f"{around}A\nb\nC\n{around}")


# --- each field by its own -------------------------------------------------------------------

chapter = by_field({"text": three_way_text, "tags": set_union, "words": counter_sum()})


def test_each_field_is_merged_by_its_own_strategy_and_the_others_by_whose_changed():
    base = {"text": TEXT, "tags": {"a", "b"}, "words": 10, "title": "old", "order": 1}
    mine = base | {"text": TEXT.replace("one", "ONE"), "tags": {"a", "b", "c"}, "words": 12, "title": "mine"}
    theirs = base | {"text": TEXT.replace("five", "FIVE"), "tags": {"b"}, "words": 15, "order": 2}
    both = {"text": "ONE\ntwo\nthree\nfour\nFIVE\n", "tags": {"b", "c"}, "words": 17, "title": "mine", "order": 2}
    assert asked(chapter, base, mine, theirs) == Merged(both)


def test_a_field_that_counts_counts_two_equal_edits():
    assert chapter.counts
    assert not getattr(by_field({"text": three_way_text}), "counts", False)
    edit = {"text": "same\n", "words": 12}
    assert asked(chapter, {"text": "old\n", "words": 10}, edit, dict(edit)) == Merged({"text": "same\n", "words": 14})


def test_one_field_that_waits_for_a_person_makes_the_whole_wait():
    base = {"text": "one\n", "words": 10}
    mine, theirs = {"text": "mine\n", "words": 11}, {"text": "theirs\n", "words": 12}
    assert asked(chapter, base, mine, theirs) is MANUAL
    sure = by_field({"text": lambda conflict: three_way_text(conflict, last_writer_wins), "words": counter_sum()})
    assert asked(sure, base, mine, theirs) == Merged({"text": "mine\n", "words": 13})
    assert asked(by_field({"text": lambda _: THEIRS}), base, mine, theirs) == Merged({"text": "theirs\n", "words": 11})


def test_a_fields_strategy_is_asked_only_about_what_both_changed_differently():
    seen = []
    asking = by_field({"a": lambda conflict: seen.append(conflict) or MINE, "b": lambda _: pytest.fail("asked")})
    answer = asked(asking, {"a": 1, "b": 1}, {"a": 2, "b": 2, "c": 2}, {"a": 3, "b": 2})
    assert answer == Merged({"a": 2, "b": 2, "c": 2})
    assert seen == [Conflict("key", 1, 2, 3)]
    assert asked(asking, {"b": 1}, {"b": 1, "c": 1}, {}) == Merged({"c": 1})


# --- equality --------------------------------------------------------------------------------


def kinds() -> list:
    """Each call makes them anew; no two of them are the same."""
    plain = [MISSING, None, True, False, 1, 0, "1", b"1", 2**64, 1.5, float("nan"), datetime.fromtimestamp(1, UTC)]
    return [*plain, [], [1], [True], [[1]], {}, {"a": 1}, {"a": True}, {"b": 1}, {"a": 1, "b": 2}, set(), {1}, {True}]


def test_values_are_the_same_by_what_they_hold():
    for i, one in enumerate(kinds()):
        for j, other in enumerate(kinds()):
            assert same_value(one, other) == (i == j), (one, other)
    assert same_value(5, 5.0)
    assert same_value((1, 2), [1, 2])
    assert not same_value([1, 2], [1])


@pytest.mark.parametrize(("base", "mine"), [(1, True), (0, False), ([1], [True])])
def test_a_field_that_became_true_where_it_was_one_has_changed(base, mine):
    answer = asked(per_field, {"a": base}, {"a": mine}, {"a": base, "b": 1})
    assert answer.value["a"] == mine
    assert repr(answer.value["a"]) == repr(mine)


def test_not_a_number_on_two_sides_is_no_change():
    nan = float("nan")
    answer = asked(per_field, {"a": nan}, {"a": float("nan"), "b": 1}, {"a": 5})
    assert answer == Merged({"a": 5, "b": 1})
