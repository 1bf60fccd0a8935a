"""One session following one collection: the rule, by name and in any order."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from hub.subscription import Deliver, DeliverHead, Read, Subscription
from hub.terms import Change

SPACE, COLLECTION = bytes(16), bytes([1]) * 16


def following(*, after: int = 0, head: int = 0, live_only: bool = False, heads_only: bool = False) -> Subscription:
    subscription = Subscription(SPACE, COLLECTION, live_only=live_only, heads_only=heads_only)
    subscription.opened(after, head)
    return subscription


def changes(*seqs: int) -> list[Change]:
    return [Change(seq, 0, b"sealed") for seq in seqs]


def test_a_device_that_is_behind_reads_on_from_where_it_is() -> None:
    subscription = Subscription(SPACE, COLLECTION, live_only=False, heads_only=False)
    assert subscription.opened(3, 7) == [Read(3, False)]


def test_a_device_that_has_everything_reads_nothing() -> None:
    assert Subscription(SPACE, COLLECTION, live_only=False, heads_only=False).opened(7, 7) == []


def test_a_page_is_delivered_and_the_next_one_read() -> None:
    subscription = following(after=0, head=5)
    assert subscription.read_done(changes(1, 2), upto=2, head=5) == [
        Deliver(0, 2, 5, changes(1, 2)),
        Read(2, False),
    ]


def test_a_second_notice_does_not_start_a_second_read() -> None:
    subscription = following(after=0, head=1)
    assert subscription.head_seen(2) == []


def test_a_head_that_moved_before_the_subscription_opened_is_not_forgotten() -> None:
    subscription = Subscription(SPACE, COLLECTION, live_only=False, heads_only=False)
    assert subscription.head_seen(9) == []
    assert subscription.opened(4, 8) == [Read(4, False)]
    assert subscription.head == 9


def test_an_older_head_carries_no_news() -> None:
    subscription = following(after=5, head=5)
    subscription.head_seen(3)
    assert subscription.head == 5


def test_a_notice_that_follows_on_is_delivered_without_a_read() -> None:
    subscription = following(after=5, head=5)
    assert subscription.committed(5, 7, changes(6, 7)) == [Deliver(5, 7, 7, changes(6, 7))]


def test_a_notice_after_a_lost_one_is_read_not_delivered() -> None:
    subscription = following(after=5, head=5)
    assert subscription.committed(6, 7, changes(7)) == [Read(5, False)]


def test_a_notice_during_a_read_waits_for_it() -> None:
    subscription = following(after=0, head=2)
    assert subscription.committed(0, 3, changes(1, 2, 3)) == []
    assert subscription.read_done(changes(1, 2), upto=2, head=2) == [Deliver(0, 2, 2, changes(1, 2)), Read(2, False)]


def test_a_repeated_notice_is_not_delivered_twice() -> None:
    subscription = following(after=5, head=5)
    subscription.committed(5, 6, changes(6))
    assert subscription.committed(5, 6, changes(6)) == []


def test_a_notice_without_changes_is_read() -> None:
    assert following(after=5, head=5).committed(5, 6, []) == [Read(5, False)]


def test_a_paused_session_is_neither_read_for_nor_delivered_to() -> None:
    subscription = following(after=5, head=5)
    subscription.paused()
    assert subscription.committed(5, 6, changes(6)) == []
    assert subscription.head_seen(8) == []
    assert subscription.resumed() == [Read(5, False)]


def test_a_compacted_range_is_delivered_empty_and_says_so() -> None:
    subscription = following(after=0, head=4)
    assert subscription.read_done([], upto=4, head=4) == [Deliver(0, 4, 4, [])]


def test_a_failed_read_can_be_tried_again() -> None:
    subscription = following(after=0, head=4)
    subscription.read_failed()
    assert subscription.head_seen(4) == [Read(0, False)]


def test_live_only_ends_when_the_head_was_reached_once() -> None:
    subscription = following(after=0, head=4, live_only=True)
    subscription.read_done(changes(2), upto=2, head=4)
    assert subscription.read_done(changes(4), upto=4, head=4) == [Deliver(2, 4, 4, changes(4))]
    assert subscription.head_seen(6) == [Read(4, False)]


def test_live_only_goes_on_while_the_head_runs_ahead() -> None:
    subscription = following(after=0, head=4, live_only=True)
    assert subscription.read_done(changes(2), upto=2, head=9)[-1] == Read(2, True)


def test_a_page_at_its_own_head_says_so_even_when_a_newer_head_is_known() -> None:
    subscription = following(after=0, head=4, live_only=True)
    subscription.head_seen(6)
    delivered = subscription.read_done(changes(4), upto=4, head=4)[0]
    assert isinstance(delivered, Deliver) and (delivered.upto, delivered.head) == (4, 4)


def test_a_session_that_wants_heads_gets_heads() -> None:
    subscription = following(heads_only=True)
    assert subscription.committed(0, 3, changes(1, 2, 3)) == [DeliverHead(3)]
    assert subscription.head_seen(4) == [DeliverHead(4)]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_whatever_happens_to_notices_and_reads_the_session_gets_every_seq_once_in_order(seed: int, length: int) -> None:
    world = random.Random(seed)
    log: list[Change] = []
    subscription = Subscription(SPACE, COLLECTION, live_only=False, heads_only=False)
    got: list[int] = []
    reads: list[Read] = []
    notices: list[tuple[int, int]] = []

    def carry(steps: list[Read | Deliver | DeliverHead]) -> None:
        for step in steps:
            if isinstance(step, Read):
                reads.append(step)
            elif isinstance(step, Deliver):
                assert step.after == (got[-1] if got else 0)
                assert [change.seq for change in step.changes] == list(range(step.after + 1, step.upto + 1))
                got.extend(change.seq for change in step.changes)

    def answer() -> None:
        read = reads.pop()
        if world.random() < 0.1:
            subscription.read_failed()
            return
        page = log[read.after : read.after + world.randint(1, 4)]
        upto = page[-1].seq if page else len(log)
        carry(subscription.read_done(page, upto, len(log)))

    carry(subscription.opened(0, 0))
    for _ in range(length):
        before = len(log)
        log.extend(changes(*range(before + 1, before + 1 + world.randint(1, 3))))
        notices.append((before, len(log)))
        for _ in range(world.randint(0, 4)):
            if notices and world.random() < 0.7:
                after, head = notices[world.randrange(len(notices))]
                carry(subscription.committed(after, head, log[after:head] if world.random() < 0.7 else []))
            elif reads:
                answer()
            elif world.random() < 0.2:
                subscription.paused()
            else:
                carry(subscription.resumed())
    # One head at the end, as the ping brings it, repairs whatever was lost.
    carry(subscription.resumed())
    carry(subscription.head_seen(len(log)))
    while reads:
        answer()
        carry(subscription.head_seen(len(log)))
    assert got == list(range(1, len(log) + 1))
