"""Limits: each lets n through and refuses n+1, says how long to wait, and stays within its memory."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.limiter import (
    CodeLimiter,
    CodeLimits,
    SlidingWindow,
    Span,
    TokenBucket,
    TokenBuckets,
    prefixes_of,
    take_all,
    wait_within,
)

HOUR, DAY = 3_600.0, 86_400.0
UNBOUND = (Span(1_000_000, DAY),)


def test_a_window_lets_n_through_and_says_when_the_next_may():
    window = SlidingWindow([Span(3, 60.0)])
    assert [window.take(b"k", now) for now in (0.0, 10.0, 20.0)] == [0.0, 0.0, 0.0]
    assert window.take(b"k", 21.0) == 39.0
    assert window.take(b"k", 59.0) == 1.0
    assert window.take(b"k", 60.0) == 0.0
    assert window.take(b"k", 60.0) == 10.0


def test_being_refused_costs_nothing():
    window = SlidingWindow([Span(1, 60.0)])
    window.take(b"k", 0.0)
    assert [window.take(b"k", float(now)) for now in range(1, 60)] == [60.0 - now for now in range(1, 60)]
    assert window.take(b"k", 60.0) == 0.0


def test_keys_do_not_touch_one_another():
    window = SlidingWindow([Span(1, 60.0)])
    assert window.take(b"a", 0.0) == window.take(b"b", 0.0) == 0.0
    assert window.take(b"a", 0.0) > 0.0


def test_the_longest_wait_of_several_spans_counts():
    spans = [Span(2, 10.0), Span(3, 100.0)]
    assert wait_within([0.0, 1.0], spans, 1.0) == 9.0
    assert wait_within([0.0, 50.0, 51.0], spans, 51.0) == 49.0
    assert wait_within([], spans, 0.0) == 0.0


@given(
    st.lists(st.floats(0.0, 50.0), max_size=80),
    st.lists(st.tuples(st.integers(1, 5), st.floats(1.0, 60.0)), min_size=1, max_size=3),
)
def test_no_span_is_ever_exceeded_and_every_wait_is_exact(steps, spans):
    window, spans, now, taken = SlidingWindow([Span(*s) for s in spans]), [Span(*s) for s in spans], 0.0, []
    for step in steps:
        now += step
        # The plain definition, for comparison.
        full = any(sum(t + span.seconds > now for t in taken) >= span.most for span in spans)
        wait = window.take(b"k", now)
        assert (wait > 0.0) == full or math.isclose(wait, 0.0, abs_tol=1e-9)
        if wait == 0.0:
            taken.append(now)


def test_all_windows_count_or_none_does():
    tight, loose = SlidingWindow([Span(1, 60.0)]), SlidingWindow([Span(2, 30.0)])
    wanted = [(tight, b"k"), (loose, b"k")]
    assert take_all(wanted, 0.0) == 0.0
    assert take_all(wanted, 1.0) == 59.0
    assert loose.take(b"k", 1.0) == 0.0  # the refused one was not counted here either


def test_a_window_remembers_only_so_many_keys_and_forgets_the_quietest():
    window = SlidingWindow([Span(1, 60.0)], keys_max=2)
    for key in (b"a", b"b", b"c"):
        window.take(key, 0.0)
    assert len(window) == 2
    assert window.take(b"c", 1.0) > 0.0 and window.take(b"b", 1.0) > 0.0
    assert window.take(b"a", 1.0) == 0.0


def test_a_key_that_was_counted_again_is_not_the_quietest():
    window = SlidingWindow([Span(2, 60.0)], keys_max=2)
    for key in (b"a", b"b", b"a", b"c"):
        window.take(key, 0.0)
    assert window.take(b"a", 1.0) > 0.0


def test_a_window_remembers_no_more_times_than_decide():
    window = SlidingWindow([Span(2, 60.0), Span(5, 600.0)])
    for now in range(1_000):
        window.count(b"k", float(now))
    assert len(window._times_by_key[b"k"]) == 5


def test_a_bucket_gives_its_burst_and_then_its_rate():
    bucket = TokenBucket(2.0, 4.0, now=0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [0.0] * 4
    assert bucket.take(0.0) == 0.5
    assert bucket.take(0.5) == 0.0
    assert bucket.take(0.5, 2.0) == 1.0
    assert [bucket.take(100.0) for _ in range(5)] == [0.0, 0.0, 0.0, 0.0, 0.5]


def test_more_than_a_burst_counts_as_the_burst():
    bucket = TokenBucket(1.0, 4.0, now=0.0)
    assert bucket.take(0.0, 100.0) == 0.0
    assert bucket.take(0.0, 100.0) == 4.0


def test_a_clock_that_goes_back_gives_nothing_away():
    bucket = TokenBucket(1.0, 2.0, now=100.0)
    bucket.take(100.0, 2.0)
    assert bucket.take(50.0) == 1.0


def test_buckets_are_one_a_key_and_bounded():
    buckets = TokenBuckets(1.0, 1.0, keys_max=2)
    assert buckets.take(b"a", 0.0) == buckets.take(b"b", 0.0) == 0.0
    assert buckets.take(b"a", 0.0) == 1.0
    assert buckets.take(b"c", 0.0) == 0.0  # forgets b, the quietest
    assert len(buckets) == 2
    assert buckets.take(b"a", 0.0) == 1.0 and buckets.take(b"b", 0.0) == 0.0


@pytest.mark.parametrize(
    ("one", "other", "near", "wide"),
    [
        ("192.0.2.1", "192.0.2.1", True, True),
        ("192.0.2.1", "192.0.2.2", False, True),
        ("192.0.2.1", "192.0.3.1", False, False),
        ("192.0.2.1", "::ffff:192.0.2.1", True, True),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True, True),
        ("2001:db8::1", "2001:db8:0:1::1", False, True),
        ("2001:db8::1", "2001:db8:1::1", False, False),
        ("fe80::1%eth0", "fe80::1", True, True),
        ("", "192.0.2.1", False, False),
        ("not an address", "not an address", True, True),
    ],
)
def test_who_is_counted_together(one, other, near, wide):
    assert (prefixes_of(one).near == prefixes_of(other).near) is near
    assert (prefixes_of(one).wide == prefixes_of(other).wide) is wide


# --- the table of limits on codes; each row at n and n+1 ---


def times_it_passes(limiter, ask, every_s=0.0, tries=200):
    """How often ``ask(limiter, i, now)`` is let through in a row."""
    waits = [ask(limiter, i, 1_000_000.0 + i * every_s) for i in range(tries)]
    return waits.index(next(wait for wait in waits if wait))


ANYWHERE = "10.{i}.0.1"  # each asks from a network of its own


@pytest.mark.parametrize(
    ("ip", "origin", "mailbox", "passes"),
    [
        ("192.0.2.1", "", "{i}", 10),  # one IPv4 address an hour
        ("2001:db8::{i:x}", "", "{i}", 10),  # one /64
        ("192.0.2.{i}", "", "{i}", 60),  # one /24
        ("2001:db8:0:{i:x}::1", "", "{i}", 60),  # one /48
        (ANYWHERE, "https://app.example", "{i}", 60),  # one Origin
        (ANYWHERE, "null", "{i}", 60),  # sandboxed pages are one
        (ANYWHERE, "https://{i}.example", "{i}", 100),  # the hub
        (ANYWHERE, "", "{i}", 100),  # no Origin is no page of its own
        (ANYWHERE, "", "anna", 3),  # one mailbox in 15 minutes
        ("192.0.2.{i}", "", "anna", 2),  # of one network: half of it
    ],
)
def test_codes_at_once(ip, origin, mailbox, passes):
    def ask(limiter, i, now):
        return limiter.take_attempt(ip.format(i=i), origin.format(i=i), mailbox.format(i=i).encode(), now)

    assert times_it_passes(CodeLimiter(CodeLimits()), ask) == passes


@pytest.mark.parametrize(
    ("ip", "every_s", "passes"),
    [
        (ANYWHERE, 310.0, 5),  # an hour, three in 15 minutes kept
        (ANYWHERE, 1_000.0, 10),  # a day
        ("192.0.2.1", 460.0, 3),  # of one network, an hour
        ("192.0.2.1", 1_300.0, 5),  # of one network, a day
    ],
)
def test_codes_for_one_mailbox_over_time(ip, every_s, passes):
    def ask(limiter, i, now):
        return limiter.take_attempt(ip.format(i=i), "", b"anna", now)

    assert times_it_passes(CodeLimiter(CodeLimits()), ask, every_s) == passes


def test_one_address_of_the_network_gets_thirty_codes_a_day():
    def ask(limiter, i, now):
        return limiter.take_attempt("192.0.2.1", "", b"%d" % i, now)

    assert times_it_passes(CodeLimiter(CodeLimits()), ask, every_s=400.0) == 30


def test_a_stranger_cannot_lock_the_owner_out_from_another_network():
    limiter, now = CodeLimiter(CodeLimits()), 1_000_000.0
    while not limiter.take_attempt("198.51.100.7", "", b"anna", now):
        pass
    assert limiter.take_attempt("198.51.100.8", "", b"anna", now) > 0.0
    assert limiter.take_attempt("192.0.2.1", "", b"anna", now) == 0.0


def test_half_is_rounded_up():
    assert [span.most for span in CodeLimits().stranger()] == [2, 3, 5]


def test_sending_again_is_counted_by_sender_and_hub_but_not_by_mailbox():
    limiter, now = CodeLimiter(CodeLimits(hub=(Span(12, HOUR),))), 1_000_000.0
    assert [limiter.take_send("192.0.2.1", "", now) for _ in range(10)] == [0.0] * 10
    assert limiter.take_send("192.0.2.1", "", now) == HOUR
    assert limiter.take_attempt("192.0.2.1", "", b"anna", now) == HOUR
    assert [limiter.take_attempt("203.0.113.1", "", b"anna", now) for _ in range(2)] == [0.0] * 2
    assert limiter.take_send("198.51.100.1", "", now) == HOUR  # the hub's twelve


def test_new_accounts_are_five_a_day_from_one_place():
    limiter = CodeLimiter(CodeLimits())
    assert times_it_passes(limiter, lambda each, i, now: each.take_account("192.0.2.1", now), every_s=60.0) == 5
    assert limiter.take_account("192.0.2.2", 1_000_000.0) == 0.0
    assert limiter.take_account("192.0.2.1", 1_000_000.0 + DAY) == 0.0


def test_what_is_refused_in_one_row_is_counted_in_none():
    limiter, now = CodeLimiter(CodeLimits(hub=(Span(4, HOUR),))), 1_000_000.0
    for _ in range(50):
        limiter.take_attempt("192.0.2.1", "", b"anna", now)
    assert [limiter.take_attempt("203.0.113.1", "", b"ben%d" % i, now) for i in range(2)] == [0.0, 0.0]
