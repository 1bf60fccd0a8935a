"""Group commit: batches form by themselves, everybody is answered once, notices follow answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from hub import appender as room
from hub import inquiries
from hub.appender import Appender
from hub.bus import HeadMoved, Notice
from hub.bus.local import LocalBus
from hub.errors import Refusal, StoreUnavailable
from hub.inquiries import Life
from hub.metrics import Metrics
from hub.store import Append, Appended, Draft
from hub.store.memory import MemoryStore
from hub.store.sqlite import SqliteStore
from hub.wire.header import parse_header
from tests.session_rig import COLLECTION, Person


class Gate(MemoryStore):
    """The model store, whose transactions wait until they are let through."""

    def __init__(self) -> None:
        super().__init__()
        self.open_gate = asyncio.Event()
        self.batches: list[int] = []
        self.broken = False
        self._through = asyncio.Semaphore(0)

    def let_through(self, count: int) -> None:
        """So many transactions, and no more."""
        for _ in range(count):
            self._through.release()

    async def append(self, appends: Sequence[Append], now: float) -> list[Appended]:
        self.batches.append(sum(len(append.drafts) for append in appends))
        await self._turn()
        if self.broken:
            raise StoreUnavailable("the disk is gone")
        return await super().append(appends, now)

    async def _turn(self) -> None:
        ways = [asyncio.ensure_future(self.open_gate.wait()), asyncio.ensure_future(self._through.acquire())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()


class Bench:
    """An appender at work, and what came of it."""

    def __init__(self, store: Gate | SqliteStore, person: Person) -> None:
        self.store, self.person = store, person
        self.bus = LocalBus()
        self.metrics = Metrics()
        self.appender = Appender(store, self.bus, self.metrics, wall=lambda: 1.0)
        self.results: list[Appended | Exception] = []
        self.heard: list[Notice] = []
        self.order: list[str] = []

    def submit(self, *drafts: bytes) -> None:
        parsed = [Draft(parse_header(sealed), sealed) for sealed in drafts]
        append = Append(self.person.account_id, self.person.space_id, self.person.device_id, parsed)

        def done(result: Appended | Exception) -> None:
            self.results.append(result)
            self.order.append("answer")

        self.appender.submit(append, done)

    def receive(self, notice: Notice) -> None:
        self.heard.append(notice)
        self.order.append("notice")


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    store = Gate()
    await store.open()
    person = Person(store)
    await person.settle()
    bench = Bench(store, person)
    await bench.bus.subscribe(person.account_id, bench.receive)
    task = asyncio.create_task(bench.appender.run())
    yield bench
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def seqs(bench: Bench) -> list[int]:
    return [result.answers[0].seq for result in bench.results if isinstance(result, Appended)]


def store_of(bench: Bench) -> Gate:
    assert isinstance(bench.store, Gate)
    return bench.store


async def test_the_next_batch_collects_while_one_is_made_durable(bench: Bench) -> None:
    bench.submit(bench.person.draft())
    await turns()
    for _ in range(10):
        bench.submit(bench.person.draft())
    await turns()
    assert store_of(bench).batches == [1]
    store_of(bench).open_gate.set()
    await bench.appender.drain()
    assert store_of(bench).batches == [1, 10]
    assert bench.metrics.append_batch.get() == (2, 11)


async def test_a_batch_holds_512_drafts_and_no_more(bench: Bench) -> None:
    bench.submit(bench.person.draft())
    await turns()
    for _ in range(3):
        bench.submit(*[bench.person.draft() for _ in range(256)])
    store_of(bench).open_gate.set()
    await bench.appender.drain()
    assert store_of(bench).batches == [1, 512, 256]


async def test_each_request_is_answered_once_and_before_its_notice(bench: Bench) -> None:
    store_of(bench).open_gate.set()
    bench.submit(bench.person.draft())
    bench.submit(bench.person.draft())
    await bench.appender.drain()
    await turns()
    seqs = [result.answers[0].seq for result in bench.results if isinstance(result, Appended)]
    assert seqs == [1, 2]
    assert bench.order == ["answer", "answer", "notice"]


async def test_one_notice_a_collection_carries_all_changes_of_the_batch(bench: Bench) -> None:
    store_of(bench).open_gate.set()
    drafts = [bench.person.draft() for _ in range(3)]
    bench.submit(drafts[0])
    bench.submit(*drafts[1:])
    await bench.appender.drain()
    await turns()
    (notice,) = bench.heard
    assert isinstance(notice, HeadMoved)
    assert (notice.collection_id, notice.after, notice.head) == (COLLECTION, 0, 3)
    assert [change.sealed for change in notice.changes] == drafts


async def test_a_retry_causes_no_notice(bench: Bench) -> None:
    store_of(bench).open_gate.set()
    draft = bench.person.draft()
    bench.submit(draft)
    await bench.appender.drain()
    await turns()
    bench.submit(draft)
    await bench.appender.drain()
    await turns()
    assert len(bench.heard) == 1 and len(bench.results) == 2


@pytest.mark.parametrize(("surplus", "inline"), [(0, True), (1, False)])
async def test_a_notice_carries_up_to_128_kib(bench: Bench, surplus: int, inline: bool) -> None:
    store_of(bench).open_gate.set()
    bench.submit(bench.person.draft(body=bytes(room.INLINE_BYTES_MAX - 152 + surplus)))
    await bench.appender.drain()
    await turns()
    (notice,) = bench.heard
    assert isinstance(notice, HeadMoved) and notice.head == 1
    assert bool(notice.changes) is inline


async def test_a_batch_is_handed_out_while_the_next_is_with_the_store(bench: Bench) -> None:
    store = store_of(bench)
    bench.submit(bench.person.draft())
    await turns()
    bench.submit(bench.person.draft())
    store.let_through(1)
    await turns(10)
    assert store.batches == [1, 1]  # the second is there, and waits
    assert bench.order == ["answer", "notice"] and seqs(bench) == [1]
    bench.submit(bench.person.draft())
    store.let_through(1)
    await turns(10)
    assert store.batches == [1, 1, 1] and seqs(bench) == [1, 2]
    store.open_gate.set()
    await bench.appender.drain()
    await turns()
    assert seqs(bench) == [1, 2, 3] and bench.order == ["answer", "notice"] * 3
    assert [(notice.after, notice.head) for notice in bench.heard if isinstance(notice, HeadMoved)] == [
        (0, 1), (1, 2), (2, 3),
    ]  # fmt: skip


async def test_the_store_has_the_next_batch_before_the_one_before_is_answered(bench: Bench) -> None:
    store = store_of(bench)
    with_the_store: list[int] = []

    def note(_: object) -> None:
        with_the_store.append(len(store.batches))

    for _ in range(3):
        parsed = [Draft(parse_header(sealed), sealed) for sealed in [bench.person.draft()]]
        person = bench.person
        bench.appender.submit(Append(person.account_id, person.space_id, person.device_id, parsed), note)
        await turns()
        store.let_through(len(store.batches) - 1)
    store.open_gate.set()
    await bench.appender.drain()
    assert with_the_store[0] == 2 and len(with_the_store) == 3


async def test_a_store_that_fails_while_a_batch_is_handed_out_costs_the_next_batch_only(bench: Bench) -> None:
    store = store_of(bench)
    bench.submit(bench.person.draft())
    await turns()
    bench.submit(draft := bench.person.draft())
    store.let_through(1)
    await turns(10)
    store.broken = True
    store.let_through(1)
    await bench.appender.drain()
    await turns()
    first, second = bench.results
    assert isinstance(first, Appended) and isinstance(second, StoreUnavailable)
    assert bench.order == ["answer", "notice", "answer"]
    store.broken = False
    store.open_gate.set()
    bench.submit(draft)
    await bench.appender.drain()
    assert seqs(bench) == [1, 2]


async def test_a_drain_waits_for_both_batches(bench: Bench) -> None:
    store = store_of(bench)
    bench.submit(bench.person.draft())
    await turns()
    bench.submit(bench.person.draft())
    store.let_through(1)
    drained = asyncio.create_task(bench.appender.drain())
    await turns(10)
    assert len(bench.results) == 1 and not drained.done()
    store.let_through(1)
    await drained
    assert len(bench.results) == 2


async def test_a_fault_of_the_store_ends_the_appender_loudly_after_the_batch_before_was_answered() -> None:
    class Faulty(Gate):
        async def append(self, appends: Sequence[Append], now: float) -> list[Appended]:
            if self.batches:
                raise ValueError("a fault, not an outage")
            return await super().append(appends, now)

    store = Faulty()
    await store.open()
    person = Person(store)
    await person.settle()
    bench = Bench(store, person)
    task = asyncio.create_task(bench.appender.run())
    bench.submit(person.draft())
    await turns()
    bench.submit(person.draft())
    store.open_gate.set()
    with pytest.raises(ValueError, match="a fault"):
        await task
    assert seqs(bench) == [1]


@pytest.mark.parametrize("handing_out", [True, False])
async def test_an_appender_that_is_cancelled_leaves_no_task_behind(handing_out: bool) -> None:
    class NoLife:
        async def lately(self) -> bytes:
            return await asyncio.get_running_loop().create_future()

    store = Gate()
    await store.open()
    person = Person(store)
    await person.settle()
    bench, before = Bench(store, person), asyncio.all_tasks()
    if handing_out:
        bench.appender.life = NoLife()  # type: ignore[assignment]
    task = asyncio.create_task(bench.appender.run())
    bench.submit(person.draft())
    await turns()
    bench.submit(person.draft())
    store.let_through(1)
    await turns(10)
    assert store.batches == [1, 1] and seqs(bench) == [1]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await turns()
    assert asyncio.all_tasks() == before


async def test_a_store_that_fails_is_told_to_everybody_and_the_next_batch_is_tried(bench: Bench) -> None:
    store = store_of(bench)
    store.open_gate.set()
    store.broken = True
    draft = bench.person.draft()
    bench.submit(draft)
    bench.submit(bench.person.draft())
    await bench.appender.drain()
    assert [type(result) for result in bench.results] == [StoreUnavailable] * 2
    store.broken = False
    bench.submit(draft)
    await bench.appender.drain()
    result = bench.results[-1]
    assert isinstance(result, Appended) and result.answers[0].seq == 1


async def test_drafts_waiting_for_a_transaction_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = bench.person.draft()
    monkeypatch.setattr(room, "QUEUED_BYTES_MAX", 3 * len(draft))
    bench.submit(draft)
    await turns()  # taken for the batch under way: it waits no more
    for _ in range(3):
        bench.submit(bench.person.draft())
    with pytest.raises(Refusal) as refused:
        bench.submit(bench.person.draft())
    assert refused.value.code == "overloaded" and refused.value.retry_after_s
    store_of(bench).open_gate.set()
    await bench.appender.drain()
    bench.submit(bench.person.draft(counter=5))
    await bench.appender.drain()
    assert len(bench.results) == 5


async def test_many_sessions_appending_at_once_to_sqlite_leave_no_gap(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "hub.sqlite3")
    await store.open()
    person = Person(store)  # type: ignore[arg-type]
    await person.settle()
    bench = Bench(store, person)
    task = asyncio.create_task(bench.appender.run())
    for _ in range(300):
        bench.submit(person.draft())
        if person.counter % 7 == 0:
            await asyncio.sleep(0)
    await bench.appender.drain()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await store.close()
    seqs = [result.answers[0].seq for result in bench.results if isinstance(result, Appended)]
    assert seqs == list(range(1, 301))
    count, total = bench.metrics.append_batch.get()
    assert total == 300 and count < 150  # several drafts shared a transaction


async def test_the_name_of_the_log_is_not_read_with_every_batch(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    store, reads = store_of(bench), 0
    incarnation = store.incarnation

    async def counted() -> bytes:
        nonlocal reads
        reads += 1
        return await incarnation()

    monkeypatch.setattr(store, "incarnation", counted)
    monkeypatch.setattr(bench.appender, "life", Life(store))
    store.open_gate.set()
    for _ in range(20):
        bench.submit(bench.person.draft())
        await bench.appender.drain()
    await turns()
    assert len(bench.heard) == 20 and reads == 1


async def test_a_log_that_got_a_new_name_is_announced_under_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(bench)
    store.open_gate.set()
    bench.submit(bench.person.draft())
    await bench.appender.drain()
    renewed = await store.renew_incarnation()
    monkeypatch.setattr(inquiries, "LIFE_FRESH_S", 0.0)
    bench.submit(bench.person.draft())
    await bench.appender.drain()
    await turns()
    first, second = bench.heard
    assert isinstance(first, HeadMoved) and isinstance(second, HeadMoved)
    assert second.incarnation == renewed != first.incarnation


async def test_a_store_that_goes_away_between_commit_and_notice_costs_the_notice_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(bench)
    store.open_gate.set()

    async def away() -> bytes:
        raise StoreUnavailable("restarting")

    with monkeypatch.context() as patch:
        patch.setattr(store, "incarnation", away)
        patch.setattr(bench.appender, "life", Life(store))
        bench.submit(bench.person.draft())
        await bench.appender.drain()
    result = bench.results[0]
    assert isinstance(result, Appended) and result.answers[0].seq == 1 and bench.heard == []
    monkeypatch.setattr(bench.appender, "life", Life(store))
    bench.submit(bench.person.draft())
    await bench.appender.drain()
    await turns()
    assert len(bench.heard) == 1
