"""Waiting before the next try: full jitter below a doubling ceiling, and never an end to it."""

from __future__ import annotations

import bisect
import heapq
import math
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.client.backoff import ASKED_MAX_S, CEILING_S, FIRST_S, STABLE_AFTER_S, Backoff

ALMOST_ONE = math.nextafter(1.0, 0.0)
DRAWS = st.floats(0.0, ALMOST_ONE)


def failed(times):
    backoff = Backoff()
    for _ in range(times):
        backoff.lost(0.0, 0.5)
    return backoff


def test_the_ceiling_doubles_from_half_a_second_to_thirty():
    backoff = Backoff()
    waits = [backoff.lost(0.0, 0.5) for _ in range(9)]
    assert [2 * wait for wait in waits] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


@given(st.integers(0, 12), DRAWS)
def test_the_wait_is_the_drawn_share_of_the_ceiling(failures, draw):
    ceiling = min(30.0, 0.5 * 2**failures)
    wait = failed(failures).lost(0.0, draw)
    assert wait == draw * ceiling
    assert 0.0 <= wait < ceiling


def test_the_smallest_draw_waits_not_at_all():
    assert failed(20).lost(0.0, 0.0) == 0.0


def test_it_never_gives_up():
    backoff = failed(10_000)
    assert backoff.lost(0.0, ALMOST_ONE) == pytest.approx(CEILING_S)
    assert backoff.lost(1e12, 0.5) == CEILING_S / 2


@pytest.mark.parametrize("stayed", [STABLE_AFTER_S, STABLE_AFTER_S + 0.5, 86_400.0])
def test_it_starts_over_after_a_connection_that_stayed_for_ten_seconds(stayed):
    backoff = failed(20)
    backoff.connected(100.0)
    assert backoff.lost(100.0 + stayed, 0.5) == FIRST_S / 2
    assert backoff.lost(100.0 + stayed, 0.5) == FIRST_S


@pytest.mark.parametrize("stayed", [0.0, 1.0, 9.75])
def test_a_connection_that_is_dropped_sooner_counts_as_a_failure(stayed):
    backoff = failed(2)
    backoff.connected(100.0)
    assert backoff.lost(100.0 + stayed, 0.5) == 1.0
    backoff.connected(200.0)
    assert backoff.lost(200.0 + stayed, 0.5) == 2.0


def test_time_without_a_connection_does_not_start_it_over():
    backoff = failed(3)
    assert backoff.lost(1_000_000.0, 0.5) == 2.0


def test_one_stable_connection_starts_it_over_only_once():
    backoff = Backoff()
    backoff.connected(0.0)
    waits = [backoff.lost(now, 0.5) for now in (10.0, 20.0, 30.0)]
    assert waits == [0.25, 0.5, 1.0]


def test_a_new_session_is_measured_from_its_own_beginning():
    backoff = failed(4)
    backoff.connected(0.0)
    backoff.lost(1.0, 0.5)
    backoff.connected(8.0)
    assert backoff.lost(12.0, 0.5) == 8.0


@given(st.integers(0, 12), DRAWS, st.floats(0.0, 3_600.0))
def test_what_the_hub_asked_for_is_waited_and_the_jitter_comes_on_top(failures, draw, asked):
    wait = failed(failures).lost(0.0, draw, asked)
    assert wait == asked + failed(failures).lost(0.0, draw)
    assert wait >= asked


def test_what_the_hub_asked_for_is_not_held_against_the_next_try():
    backoff = Backoff()
    assert backoff.lost(0.0, 0.5, 600.0) == 600.25
    assert backoff.lost(0.0, 0.5) == 0.5


def test_a_negative_request_shortens_nothing():
    assert Backoff().lost(0.0, 0.5, -5.0) == 0.25


@pytest.mark.parametrize(("asked", "waited"), [(1e9, ASKED_MAX_S), (math.inf, ASKED_MAX_S), (math.nan, 0.0)])
def test_nobody_is_sent_away_for_longer_than_an_hour(asked, waited):
    assert Backoff().lost(0.0, 0.5, asked) == waited + 0.25


# --- many devices ----------------------------------------------------------------------------


def most_in(times, window_s):
    """The most of these moments that lie within one window."""
    times = sorted(times)
    return max(bisect.bisect_left(times, time + window_s) - at for at, time in enumerate(times))


def test_a_thousand_devices_that_are_cut_at_once_come_back_spread_over_the_first_half_second():
    random = Random(1)
    waits = [Backoff().lost(0.0, random.random()) for _ in range(1_000)]
    assert max(waits) < FIRST_S
    assert most_in(waits, 0.05) < 150  # a hundred, were it even
    assert min(waits) < 0.01


def test_a_thousand_devices_that_find_no_hub_for_a_minute_come_back_spread_over_half_a_minute():
    random = Random(2)
    tries = []
    for _ in range(1_000):
        backoff, at = Backoff(), 0.0
        while at < 60.0:
            at += backoff.lost(at, random.random())
            tries.append(at)
    back = [at for at in tries if at >= 60.0]
    assert len(back) == 1_000
    assert max(back) < 60.0 + CEILING_S
    assert most_in(back, 1.0) < 120  # of a thousand
    assert most_in([at for at in tries if at >= 10.0], 1.0) < 220  # what the hub must bear meanwhile


def test_a_hub_that_takes_a_part_of_those_who_come_has_them_all_soon():
    """Five hundred a second come in, the others are turned away: the last is in before the ceiling is reached twice."""
    random = Random(3)
    waiting = [(backoff.lost(0.0, random.random()), n, backoff) for n in range(1_000) for backoff in [Backoff()]]
    heapq.heapify(waiting)
    taken = Counter()
    while waiting:
        at, n, backoff = heapq.heappop(waiting)
        if taken[int(at * 10)] < 50:
            taken[int(at * 10)] += 1
        else:
            heapq.heappush(waiting, (at + backoff.lost(at, random.random()), n, backoff))
    assert sum(taken.values()) == 1_000
    assert max(taken) / 10 < 2 * CEILING_S
