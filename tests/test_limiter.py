"""Limits: each lets n through and refuses n+1, says how long to wait, and stays within its memory."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.limiter import CodeLimiter, CodeLimits, FrameBudget, SlidingWindow, Waiting, prefixes_of, wait_within
from hub.store.memory import MemoryStore
from hub.terms import Limits, Span

HOUR, DAY = 3_600.0, 86_400.0


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
    for now in range(0, 10_000, 10):
        window.take(b"k", float(now))
    assert len(window._times_by_key[b"k"]) == 5


def test_who_was_told_to_wait_is_known_until_then():
    waiting = Waiting()
    waiting.tell(b"anna", 100.0)
    assert [waiting.wait(b"anna", now) for now in (0.0, 99.5, 100.0, 101.0)] == [100.0, 0.5, 0.0, 0.0]
    assert waiting.wait(b"ben", 0.0) == 0.0
    waiting.tell(b"anna", 40.0)
    assert waiting.wait(b"anna", 0.0) == 40.0


def test_only_so_many_are_known_to_wait_and_those_told_long_ago_are_forgotten():
    waiting = Waiting(keys_max=2)
    for key in (b"a", b"b", b"a", b"c"):
        waiting.tell(key, 60.0)
    assert len(waiting) == 2
    assert [waiting.wait(key, 0.0) for key in (b"a", b"b", b"c")] == [60.0, 0.0, 60.0]


SMALL = Limits(messages_per_s=2, messages_burst=4, bytes_per_s=100, bytes_burst=1_000)


def test_a_connection_has_its_burst_of_frames_and_then_its_rate():
    budget = FrameBudget(SMALL, now=0.0)
    assert [budget.take(0.0, 1) for _ in range(4)] == [0.0] * 4
    assert budget.take(0.0, 1) == 0.5
    assert budget.take(0.5, 1) == 0.0
    assert budget.take(0.5, 1) == 0.5
    assert [budget.take(100.0, 1) for _ in range(5)] == [0.0, 0.0, 0.0, 0.0, 0.5]


@pytest.mark.parametrize(("size", "wait_s"), [(600, 0.0), (601, 0.01)])
def test_a_connection_has_its_burst_of_bytes_and_then_its_rate(size, wait_s):
    budget = FrameBudget(SMALL, now=0.0)
    assert budget.take(0.0, 400) == 0.0
    assert budget.take(0.0, size) == pytest.approx(wait_s)


def test_bytes_come_back_at_their_rate_and_never_beyond_the_burst():
    budget = FrameBudget(SMALL, now=0.0)
    assert budget.take(0.0, 1_000) == 0.0
    assert budget.take(1.0, 100) == 0.0
    assert budget.take(1.0, 100) == 1.0
    assert budget.take(500.0, 1_000) == 0.0
    assert budget.take(500.0, 1) == 0.01


def test_a_frame_waits_for_the_longer_of_the_two():
    budget = FrameBudget(SMALL, now=0.0)
    for _ in range(4):
        assert budget.take(0.0, 250) == 0.0
    assert budget.take(0.0, 10) == 0.5
    assert budget.take(0.0, 200) == 2.0


def test_a_frame_of_more_than_the_burst_counts_as_the_burst():
    budget = FrameBudget(SMALL, now=0.0)
    assert budget.take(0.0, 100_000) == 0.0
    assert budget.take(0.0, 100_000) == 10.0


def test_a_clock_that_goes_back_gives_nothing_away():
    budget = FrameBudget(SMALL, now=100.0)
    assert budget.take(100.0, 1_000) == 0.0
    assert budget.take(50.0, 100) == 1.0
    assert budget.take(100.0, 100) == 1.0


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


class Door:
    """Asks for codes as the accounts service does: every charge in one call."""

    def __init__(self, limits=None):
        self.limiter = CodeLimiter(limits or CodeLimits(), b"k" * 32)
        self.store = MemoryStore()

    async def send(self, ip, origin, now):
        return await self.store.spend(self.limiter.sender(ip, origin), now)

    async def attempt(self, ip, origin, mailbox, now):
        return await self.store.spend([*self.limiter.sender(ip, origin), *self.limiter.mailbox(ip, mailbox)], now)

    async def account(self, ip, now):
        return await self.store.spend([self.limiter.account(ip)], now)


@pytest.fixture
async def door():
    return await opened(Door())


async def opened(door):
    await door.store.open()
    return door


async def times_it_passes(ask, every_s=0.0, tries=200):
    """How often ``ask(i, now)`` is let through in a row."""
    for i in range(tries):
        if await ask(i, START + i * every_s):
            return i
    raise AssertionError("never refused")


START = 1_000_000.0
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
        (ANYWHERE, "", "anna", 5),  # one mailbox in 15 minutes
        ("192.0.2.{i}", "", "anna", 3),  # of one network: half of it
    ],
)
async def test_codes_at_once(door, ip, origin, mailbox, passes):
    async def ask(i, now):
        return await door.attempt(ip.format(i=i), origin.format(i=i), mailbox.format(i=i).encode(), now)

    assert await times_it_passes(ask) == passes


@pytest.mark.parametrize(
    ("ip", "every_s", "passes"),
    [
        (ANYWHERE, 310.0, 6),  # an hour, five in 15 minutes kept
        (ANYWHERE, 1_000.0, 10),  # a day
        ("192.0.2.1", 460.0, 3),  # of one network, an hour
        ("192.0.2.1", 1_300.0, 5),  # of one network, a day
    ],
)
async def test_codes_for_one_mailbox_over_time(door, ip, every_s, passes):
    async def ask(i, now):
        return await door.attempt(ip.format(i=i), "", b"anna", now)

    assert await times_it_passes(ask, every_s) == passes


async def test_one_address_of_the_network_gets_thirty_codes_a_day(door):
    async def ask(i, now):
        return await door.attempt("192.0.2.1", "", b"%d" % i, now)

    assert await times_it_passes(ask, every_s=400.0) == 30


async def test_a_stranger_cannot_lock_the_owner_out_from_another_network(door):
    while not await door.attempt("198.51.100.7", "", b"anna", START):
        pass
    assert await door.attempt("198.51.100.8", "", b"anna", START) > 0.0
    assert await door.attempt("192.0.2.1", "", b"anna", START) == 0.0


def test_half_is_rounded_up():
    assert [span.most for span in CodeLimits().stranger()] == [3, 3, 5]


async def test_sending_again_is_counted_by_sender_and_hub_but_not_by_mailbox():
    door = await opened(Door(CodeLimits(hub=(Span(12, HOUR),))))
    assert [await door.send("192.0.2.1", "", START) for _ in range(10)] == [0.0] * 10
    assert await door.send("192.0.2.1", "", START) == HOUR
    assert await door.attempt("192.0.2.1", "", b"anna", START) == HOUR
    assert [await door.attempt("203.0.113.1", "", b"anna", START) for _ in range(2)] == [0.0] * 2
    assert await door.send("198.51.100.1", "", START) == HOUR  # the hub's twelve


async def test_new_accounts_are_five_a_day_from_one_place(door):
    async def ask(i, now):
        return await door.account("192.0.2.1", now)

    assert await times_it_passes(ask, every_s=60.0) == 5
    assert await door.account("192.0.2.2", START) == 0.0
    assert await door.account("192.0.2.1", START + DAY) == 0.0


async def test_what_is_refused_in_one_row_is_counted_in_none():
    door = await opened(Door(CodeLimits(hub=(Span(5, HOUR),))))
    for _ in range(50):
        await door.attempt("192.0.2.1", "", b"anna", START)
    assert [await door.attempt("203.0.113.1", "", b"ben%d" % i, START) for i in range(2)] == [0.0, 0.0]


# --- what the store sees ---


def keys_of(limiter, ip="192.0.2.1", origin="https://app.example", mailbox=b"m" * 32):
    charges = [*limiter.sender(ip, origin), *limiter.mailbox(ip, mailbox), limiter.account(ip)]
    return [charge.key for charge in charges]


def test_the_keys_are_the_same_on_every_replica_and_tell_nothing_without_the_secret():
    one, other, stranger = (CodeLimiter(CodeLimits(), key) for key in (b"k" * 32, b"k" * 32, b"x" * 32))
    assert keys_of(one) == keys_of(other)
    assert all(len(key) == 16 for key in keys_of(one))
    assert not set(keys_of(one)) & set(keys_of(stranger))


def test_one_kind_of_budget_is_never_taken_for_another():
    """Though a mailbox's hash, an origin and an address may be the same bytes."""
    limiter = CodeLimiter(CodeLimits(), b"k" * 32)
    keys = keys_of(limiter, ip="a", origin="?a", mailbox=b"?a")
    assert len(set(keys)) == len(keys) == 7
    assert limiter.hub().key in keys


def test_pairings_are_counted_by_account_and_newcomers_by_network():
    limiter = CodeLimiter(CodeLimits(), b"k" * 32)
    assert limiter.pairing(b"a" * 16) != limiter.pairing(b"b" * 16)
    assert limiter.newcomer("192.0.2.1") == limiter.newcomer("::ffff:192.0.2.1") != limiter.newcomer("192.0.2.2")
    packed = prefixes_of("192.0.2.1").near
    keys = {limiter.pairing(packed).key, limiter.newcomer("192.0.2.1").key, *keys_of(limiter, ip="192.0.2.1")}
    assert len(keys) == 2 + len(keys_of(limiter, ip="192.0.2.1"))
    wide = CodeLimits(pairings=(Span(1, 3 * DAY),))
    assert wide.longest_s() == 3 * DAY and CodeLimits(newcomers=(Span(1, 2 * DAY),)).longest_s() == 2 * DAY


def test_what_is_older_than_the_longest_span_decides_nothing():
    assert CodeLimits().longest_s() == DAY
    assert CodeLimits(near=(Span(1, 2 * DAY), Span(1, HOUR))).longest_s() == 2 * DAY
