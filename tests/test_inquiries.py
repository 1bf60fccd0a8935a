"""Many who ask at the same moment cost the store one question, and nobody gets an older answer than promised."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence

import pytest

from hub import inquiries as room
from hub.errors import StoreUnavailable
from hub.inquiries import DEVICES_PER_QUESTION_MAX, Life, Orders, Shared, Stopped, Together
from hub.store.memory import MemoryStore
from hub.terms import DeviceId
from tests.session_rig import person


class Oracle:
    """Answers with the number of the question, when it is let."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.failure: Exception | None = None

    async def ask(self) -> int:
        self.asked += 1
        number = self.asked
        await self.may_answer.wait()
        if self.failure:
            raise self.failure
        return number


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# --- Shared ---


async def test_who_asks_while_a_question_is_on_its_way_gets_its_answer() -> None:
    oracle = Oracle()
    oracle.may_answer.clear()
    shared = Shared(oracle.ask, within_s=5)
    asking = [asyncio.create_task(shared.get()) for _ in range(100)]
    await turns()
    oracle.may_answer.set()
    assert await asyncio.gather(*asking) == [1] * 100
    assert await shared.get() == 2


async def test_an_answer_is_given_again_while_it_is_fresh() -> None:
    oracle = Oracle()
    shared = Shared(oracle.ask, within_s=5)
    assert [await shared.get(fresh_s=60) for _ in range(3)] == [1, 1, 1]
    assert await shared.get(fresh_s=0) == 2
    assert await shared.get(fresh_s=60) == 2


async def test_a_failure_is_an_answer_too() -> None:
    oracle = Oracle()
    oracle.failure = StoreUnavailable("away")
    shared = Shared(oracle.ask, within_s=5)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await shared.get(fresh_s=60)
    assert oracle.asked == 1
    oracle.failure = None
    assert await shared.get(fresh_s=0) == 2


async def test_without_an_answer_in_time_the_store_is_away() -> None:
    oracle = Oracle()
    oracle.may_answer.clear()
    shared = Shared(oracle.ask, within_s=0.05)
    started = asyncio.get_running_loop().time()
    with pytest.raises(StoreUnavailable):
        await shared.get()
    assert asyncio.get_running_loop().time() - started < 1


async def test_who_gives_up_waiting_does_not_spoil_it_for_the_others() -> None:
    oracle = Oracle()
    oracle.may_answer.clear()
    shared = Shared(oracle.ask, within_s=5)
    impatient, patient = asyncio.create_task(shared.get()), asyncio.create_task(shared.get())
    await turns()
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    oracle.may_answer.set()
    assert await patient == 1


# --- Together ---


class Doubler:
    """Answers each number with its double, when it is let; knows what was asked in one call."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.failure: Exception | None = None

    async def ask(self, numbers: Sequence[int]) -> list[int]:
        self.calls.append(list(numbers))
        await self.may_answer.wait()
        if self.failure:
            raise self.failure
        return [2 * number for number in numbers]


async def test_what_is_asked_within_a_turn_goes_together_and_each_gets_its_own_answer() -> None:
    doubler = Doubler()
    together = Together(doubler.ask, at_once_max=100)
    assert await asyncio.gather(*(together.get(number) for number in range(50))) == list(range(0, 100, 2))
    assert doubler.calls == [list(range(50))]


async def test_while_a_call_is_under_way_the_next_one_collects_itself() -> None:
    doubler = Doubler()
    doubler.may_answer.clear()
    together = Together(doubler.ask, at_once_max=100)
    first = asyncio.create_task(together.get(1))
    await turns()
    later = [asyncio.create_task(together.get(number)) for number in (2, 3)]
    await turns()
    assert doubler.calls == [[1]]
    doubler.may_answer.set()
    assert await asyncio.gather(first, *later) == [2, 4, 6]
    assert doubler.calls == [[1], [2, 3]]


@pytest.mark.parametrize(
    ("sizes", "calls"),
    [([4, 6], [[4, 6]]), ([4, 7], [[4], [7]]), ([11, 1], [[11], [1]]), ([1] * 11, [[1] * 10, [1]])],
)
async def test_a_call_has_no_more_than_its_size_and_at_least_one_question(
    sizes: list[int], calls: list[list[int]]
) -> None:
    doubler = Doubler()
    together = Together(doubler.ask, at_once_max=10, size=lambda number: number)
    await asyncio.gather(*(together.get(size) for size in sizes))
    assert doubler.calls == calls


async def test_no_more_calls_are_under_way_than_may_be() -> None:
    doubler = Doubler()
    doubler.may_answer.clear()
    together = Together(doubler.ask, at_once_max=1, calls_max=2)
    asking = [asyncio.create_task(together.get(number)) for number in range(4)]
    await turns(10)
    assert doubler.calls == [[0], [1]]
    doubler.may_answer.set()
    assert await asyncio.gather(*asking) == [0, 2, 4, 6]


async def test_who_gives_up_a_question_or_fails_at_its_answer_costs_the_others_nothing() -> None:
    doubler = Doubler()
    doubler.may_answer.clear()
    together = Together(doubler.ask, at_once_max=10)
    impatient, patient = asyncio.create_task(together.get(1)), asyncio.create_task(together.get(2))

    def fails(answer: object) -> None:
        raise RuntimeError

    together.put(3, fails)
    await turns()
    last = asyncio.create_task(together.get(4))
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    doubler.may_answer.set()
    assert [await patient, await last] == [4, 8]


async def test_a_fault_in_a_call_is_told_to_those_in_it_and_the_next_call_is_made() -> None:
    doubler = Doubler()
    doubler.failure = RuntimeError("a fault")
    together = Together(doubler.ask, at_once_max=10)
    answers = await asyncio.gather(together.get(1), together.get(2), return_exceptions=True)
    assert [type(answer) for answer in answers] == [RuntimeError, RuntimeError]
    doubler.failure = None
    assert await together.get(3) == 6


async def test_who_waited_long_when_the_store_fails_waits_for_no_other_call(monkeypatch: pytest.MonkeyPatch) -> None:
    for after_s, told in ((0.0, 3), (3600.0, 1)):
        monkeypatch.setattr(room, "GIVEN_UP_AFTER_S", after_s)
        doubler = Doubler()
        doubler.may_answer.clear()
        doubler.failure = StoreUnavailable("away")
        together = Together(doubler.ask, at_once_max=1)
        answers: list[object] = []
        put_all(together, range(3), answers.append)
        await turns()
        calls = doubler.calls
        doubler.may_answer.set()
        while not answers:
            await asyncio.sleep(0)
        assert len(answers) == told and {type(each) for each in answers} == {StoreUnavailable}
        while len(answers) < 3:
            await asyncio.sleep(0)
        assert len(calls) == (1 if told == 3 else 3)


class Reading:
    """Asks for 1, then for what follows the answer, as long as ``goes_on`` lets it; and knows the order of things."""

    def __init__(self, together: Together[int, int], last: int, *, goes_on: Callable[[int], bool] = bool) -> None:
        self._together = together
        self._last = last
        self._goes_on = goes_on
        self.heard: list[object] = []
        self.ended = asyncio.Event()

    def ask(self, number: int) -> None:
        self._together.put(number, self._hear, lambda answer: answer // 2 + 1 if answer // 2 < self._last else None)

    def _hear(self, answer: object) -> None:
        self.heard.append(answer)
        number = answer // 2 if isinstance(answer, int) else self._last
        if number < self._last and self._goes_on(number):
            self.ask(number + 1)
        else:
            self.ended.set()


async def test_what_is_asked_next_has_left_before_the_answer_is_handed_out() -> None:
    doubler = Doubler()
    left: list[int] = []

    def goes_on(number: int) -> bool:
        left.append(len(doubler.calls))
        return True

    reading = Reading(Together(doubler.ask, at_once_max=10), 5, goes_on=goes_on)
    reading.ask(1)
    await asyncio.wait_for(reading.ended.wait(), 1)
    assert reading.heard == [2, 4, 6, 8, 10] and doubler.calls == [[1], [2], [3], [4], [5]]
    # An answer that was there before it was asked for is not looked beyond; with a store that takes time none is.
    assert left[0] == 2


async def test_a_store_that_takes_its_time_is_always_one_question_ahead() -> None:
    under_way, most, told = 0, 0, list[int]()

    async def ask(numbers: Sequence[int]) -> list[int]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.002)
        under_way -= 1
        return [2 * number for number in numbers]

    def goes_on(number: int) -> bool:
        told.append(under_way)
        return True

    reading = Reading(Together(ask, at_once_max=10), 6, goes_on=goes_on)
    reading.ask(1)
    await asyncio.wait_for(reading.ended.wait(), 1)
    assert reading.heard == [2, 4, 6, 8, 10, 12]
    assert told == [1] * 5 and most == 1


async def test_who_does_not_ask_on_is_sent_nothing_more_and_what_was_read_ahead_is_forgotten() -> None:
    doubler = Doubler()
    together = Together(doubler.ask, at_once_max=10)
    reading = Reading(together, 9, goes_on=lambda number: number != 1)
    reading.ask(1)
    await asyncio.wait_for(reading.ended.wait(), 1)
    await turns(10)
    assert reading.heard == [2] and doubler.calls == [[1], [2]]
    reading.ask(2)  # later: the answer is a new one
    while len(reading.heard) < 9:
        await asyncio.sleep(0)
    assert reading.heard == list(range(2, 20, 2)) and doubler.calls[:3] == [[1], [2], [2]]
    assert not together._calls and together._ahead is None


async def test_who_asks_something_else_than_it_said_gets_the_answer_to_that() -> None:
    doubler = Doubler()
    together = Together(doubler.ask, at_once_max=10)
    heard: list[object] = []

    def on_done(answer: object) -> None:
        heard.append(answer)
        if len(heard) == 1:
            together.put(7, on_done)

    together.put(1, on_done, lambda answer: 2)
    await turns(20)
    assert heard == [2, 14] and doubler.calls == [[1], [2], [7]]


async def test_nobody_is_read_ahead_for_while_others_wait() -> None:
    doubler = Doubler()
    doubler.may_answer.clear()
    together = Together(doubler.ask, at_once_max=10)
    readings = [Reading(together, 4) for _ in range(3)]
    for reading in readings:
        reading.ask(1)
        await turns()
    doubler.may_answer.set()
    await asyncio.gather(*(asyncio.wait_for(reading.ended.wait(), 1) for reading in readings))
    assert [reading.heard for reading in readings] == [[2, 4, 6, 8]] * 3
    # The first was alone, but others had come meanwhile: what it asks next goes with theirs.
    assert doubler.calls == [[1], [1, 1, 2], [2, 2, 3], [3, 3, 4], [4, 4]]


@pytest.mark.parametrize("takes_s", [0.0, 0.002])
async def test_a_question_asked_ahead_that_fails_is_told_to_who_asks_it(takes_s: float) -> None:
    async def ask(numbers: Sequence[int]) -> list[int]:
        if takes_s:
            await asyncio.sleep(takes_s)
        if numbers != [1]:
            raise StoreUnavailable("away")
        return [2]

    reading = Reading(Together(ask, at_once_max=10), 3)
    reading.ask(1)
    await asyncio.wait_for(reading.ended.wait(), 1)
    assert [type(each) for each in reading.heard] == [int, StoreUnavailable]


async def test_no_more_calls_are_under_way_than_may_be_when_some_are_ahead() -> None:
    under_way, most = 0, 0

    async def ask(numbers: Sequence[int]) -> list[int]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.0005)
        under_way -= 1
        return [2 * number for number in numbers]

    together = Together(ask, at_once_max=2, calls_max=3)
    readings = [Reading(together, 10) for _ in range(5)]
    for reading in readings:
        reading.ask(1)
    await asyncio.gather(*(asyncio.wait_for(reading.ended.wait(), 2) for reading in readings))
    assert [reading.heard for reading in readings] == [list(range(2, 22, 2))] * 5
    assert most <= 3


async def test_more_questions_than_may_wait_are_answered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "WAITING_MAX", 3)
    doubler = Doubler()
    together = Together(doubler.ask, at_once_max=10)
    answers: list[object] = []
    put_all(together, range(3), answers.append)
    with pytest.raises(StoreUnavailable):
        await together.get(3)
    while len(answers) < 3:
        await asyncio.sleep(0)
    assert answers == [0, 2, 4] and doubler.calls == [[0, 1, 2]]


def put_all(together: Together[int, int], numbers: Sequence[int], on_done: Callable[[object], None]) -> None:
    for number in numbers:
        together.put(number, on_done)


# --- Orders ---


async def test_the_orders_of_a_thousand_sessions_are_one_call_and_rise() -> None:
    counts = []

    class Counting(MemoryStore):
        async def session_orders(self, count: int) -> list[int]:
            counts.append(count)
            return await super().session_orders(count)

    store = Counting()
    await store.open()
    orders = Orders(store)
    first = await asyncio.gather(*(orders.next() for _ in range(DEVICES_PER_QUESTION_MAX)))
    assert first == sorted(set(first)) and await orders.next() > first[-1]
    assert counts == [DEVICES_PER_QUESTION_MAX, 1]


# --- Life ---


async def test_the_name_of_the_log_is_read_seldom_and_a_new_one_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(MemoryStore):
        reads = 0

        async def incarnation(self) -> bytes:
            self.reads += 1
            return await super().incarnation()

    store = Counting()
    await store.open()
    life = Life(store)
    first = [await life.lately() for _ in range(50)]
    assert store.reads == 1 and len(set(first)) == 1
    renewed = await store.renew_incarnation()
    assert await life.lately() == first[0]  # for a while
    monkeypatch.setattr(room, "LIFE_FRESH_S", 0.0)
    assert await life.lately() == renewed != first[0]
    assert await life.now() == renewed


async def test_while_the_store_is_away_the_last_name_is_used_and_without_one_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "LIFE_FRESH_S", 0.0)
    store = MemoryStore()
    await store.open()
    known, unknown = Life(store), Life(store)
    name = await known.lately()
    await store.close()
    assert await known.lately() == name
    with pytest.raises(StoreUnavailable):
        await known.now()
    with pytest.raises(StoreUnavailable):
        await unknown.lately()


# --- Stopped ---


class Slow(MemoryStore):
    """Counts the questions and answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.questions: list[int] = []
        self.may_answer = asyncio.Event()
        self.under_way = 0
        self.most_under_way = 0

    async def stopped_among(self, device_ids: Collection[DeviceId]) -> dict[DeviceId, str]:
        self.questions.append(len(device_ids))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.may_answer.wait()
            return await super().stopped_among(device_ids)
        finally:
            self.under_way -= 1


async def test_a_thousand_devices_that_open_at_once_are_two_questions() -> None:
    store = Slow()
    await store.open()
    someone = await person(store)
    stopped = Stopped(store)
    ids = [someone.device_id, *(number.to_bytes(16, "big") for number in range(999))]
    asking = [asyncio.create_task(stopped.closing(device_id)) for device_id in ids]
    await turns()
    store.may_answer.set()
    answers = await asyncio.gather(*asking)
    assert answers == [""] + ["revoked"] * 999  # unknown ones are gone
    assert store.questions in ([1, 999], [1000]) and store.most_under_way == 1


async def test_a_revocation_before_the_question_is_always_seen() -> None:
    store = Slow()
    await store.open()
    someone = await person(store)
    stopped = Stopped(store)
    early = asyncio.create_task(stopped.closing(someone.device_id))
    await turns()
    assert store.questions == [1]  # and it has not been answered
    await store.revoke(someone.account_id, [someone.device_id], 1.0)
    late = asyncio.create_task(stopped.closing(someone.device_id))
    await turns()
    store.may_answer.set()
    await early
    assert await late == "revoked" and store.questions == [1, 1]


async def test_a_store_that_fails_is_told_to_everybody_who_asked_and_asked_again_later() -> None:
    store = Slow()
    await store.open()
    stopped = Stopped(store)
    asking = [asyncio.create_task(stopped.closing(bytes([n]) * 16)) for n in range(5)]
    await turns()
    await store.close()
    store.may_answer.set()
    assert {type(answer) for answer in await asyncio.gather(*asking, return_exceptions=True)} == {StoreUnavailable}
    with pytest.raises(StoreUnavailable):
        await stopped.closing(bytes(16))


@pytest.mark.parametrize(
    ("count", "questions"),
    [
        (0, []),
        (DEVICES_PER_QUESTION_MAX, [DEVICES_PER_QUESTION_MAX]),
        (DEVICES_PER_QUESTION_MAX + 1, [DEVICES_PER_QUESTION_MAX, 1]),
    ],
)
async def test_many_devices_are_asked_for_a_thousand_at_a_time(count: int, questions: list[int]) -> None:
    store = Slow()
    await store.open()
    store.may_answer.set()
    ids = {number.to_bytes(16, "big") for number in range(count)}
    assert await Stopped(store).among(ids) == dict.fromkeys(ids, "revoked")
    assert store.questions == questions
