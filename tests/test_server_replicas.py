"""Several replicas on one store: one session a device, nothing missed for long, revoked means gone."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence

import pytest
from websockets.exceptions import ConnectionClosed

from hub import server as room
from hub.fanout import COMPARING_AT_ONCE_MAX
from hub.http import PING_FRESH_S
from hub.services import PAGE_CALLS_MAX
from hub.store import Append, Draft, Page, PageOf
from hub.store.memory import MemoryStore
from hub.terms import ZERO_ID, CollectionKey, DeviceId, Kind, Policy, Seq
from hub.wire import messages as m
from hub.wire.header import parse_header
from tests.hub_rig import COLLECTION, Wire
from tests.replica_rig import Line, Replica, replica, settled
from tests.session_rig import Person
from tests.test_server_drain import devices, pages


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    store = MemoryStore()
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def line() -> Line:
    return Line()


async def follows(hub: Replica, person: Person) -> Wire:
    """A device that is connected and follows the collection."""
    wire = await hub.sign_in(person)
    await wire.follow()
    return wire


async def still_open(*wires: Wire) -> list[Wire]:
    """Those that still get an answer; the others must have been closed with 4509."""
    left = []
    for wire in wires:
        try:
            await wire.ask(m.ListDevices(wire.number()), m.DeviceList)
            left.append(wire)
        except ConnectionClosed as closed:
            assert closed.rcvd is not None and closed.rcvd.code == 4509, closed
    return left


# --- one session a device ---


@pytest.mark.parametrize("elsewhere", [True, False])
async def test_the_newest_socket_of_a_device_wins_on_whatever_replica(
    store: MemoryStore, line: Line, elsewhere: bool
) -> None:
    person = await settled(store)
    async with replica(store, line) as one, replica(store, line) as two:
        first = await one.sign_in(person)
        second = await (two if elsewhere else one).sign_in(person)
        assert await first.closing(1.0) == 4509
        assert await still_open(second) == [second]
        third = await one.sign_in(person)
        assert await second.closing(1.0) == 4509
        assert await still_open(third) == [third]
        await third.hang_up()


async def test_of_sockets_that_open_at_the_same_moment_exactly_one_stays(line: Line) -> None:
    class Hesitant(MemoryStore):
        """Gives an order at once, and the answer some time later."""

        async def session_orders(self, count: int) -> list[int]:
            orders = await super().session_orders(count)
            await asyncio.sleep(random.uniform(0, 0.02))
            return orders

    store = Hesitant()
    await store.open()
    person = await settled(store)
    async with replica(store, line) as one, replica(store, line) as two:
        for _ in range(10):
            wires = [Wire(hub.url) for hub in (one, two, one, two)]
            for wire in wires:
                wire.device_id, wire.device_key = person.device_id, person.device_key
            await asyncio.gather(*[wire.sign_in() for wire in wires], return_exceptions=True)
            while len([peer for hub in (one, two) for peer in hub.server._peers]) > 1:
                await asyncio.sleep(0.01)
            (stays,) = await still_open(*wires)
            await stays.hang_up()
            while one.server._peers or two.server._peers:
                await asyncio.sleep(0.01)


async def test_an_older_socket_that_missed_the_newer_one_hears_it_when_the_line_is_mended(
    store: MemoryStore, line: Line
) -> None:
    person = await settled(store)
    async with replica(store, line) as one, replica(store, line) as two:
        older = await one.sign_in(person)
        line.is_up = False
        newer = await two.sign_in(person)
        assert await still_open(older, newer) == [older, newer]
        line.mend()
        assert await older.closing(1.0) == 4509
        assert await still_open(newer) == [newer]
        await newer.hang_up()


# --- lost notices ---


async def test_with_the_line_cut_appends_go_on_and_the_others_read_when_it_is_mended(
    store: MemoryStore, line: Line
) -> None:
    phone_of, laptop_of, tablet_of = await devices(await settled(store), 3)
    async with replica(store, line) as one, replica(store, line) as two:
        phone, neighbour, laptop = (
            await one.sign_in(phone_of),
            await follows(one, tablet_of),
            await follows(two, laptop_of),
        )
        line.is_up = False
        drafts = [phone.draft() for _ in range(3)]
        for draft in drafts:
            assert (await phone.append(draft)).answers[0].seq
        assert [change.sealed for change in await neighbour.changes(3, 1.0)] == drafts  # the own replica's hear at once
        with pytest.raises(TimeoutError):
            await laptop.hear(m.Changes, within_s=0.1)
        line.mend()
        assert [change.sealed for change in await laptop.changes(3, 1.0)] == drafts
        last = phone.draft()
        await phone.append(last)
        assert [change.sealed for change in await laptop.changes(1, 1.0)] == [last]
        for wire in (phone, neighbour, laptop):
            await wire.hang_up()


async def test_a_witness_lost_with_the_line_is_sent_when_it_is_mended(store: MemoryStore, line: Line) -> None:
    phone_of, laptop_of = await devices(await settled(store), 2)
    async with replica(store, line) as one, replica(store, line) as two:
        phone, laptop = await one.sign_in(phone_of), await follows(two, laptop_of)
        await phone.append(phone.draft())
        await laptop.changes(1)
        line.is_up = False
        witness = phone.draft(kind=Kind.WITNESS, record_id=ZERO_ID, counter=1)
        await phone.ask(m.Witness(9, phone.space_id, COLLECTION, witness), m.Done)
        line.mend()
        assert (await laptop.hear(m.Witnesses, 1.0)).witnesses == [witness]
        await phone.hang_up()
        await laptop.hang_up()


async def test_a_storm_of_lost_notices_is_no_storm_on_the_store(line: Line) -> None:
    class Counting(MemoryStore):
        """Takes a moment for each question and knows how many wait for an answer at once."""

        under_way, most, asked = 0, 0, 0
        slow = False

        async def heads(self, keys: Sequence[CollectionKey]) -> list[Seq]:
            return await self._counted(super().heads(keys))

        async def read_each(self, asked: Sequence[PageOf], *, changes_max: int, bytes_max: int) -> list[Page]:
            return await self._counted(super().read_each(asked, changes_max=changes_max, bytes_max=bytes_max))

        async def stopped_among(self, device_ids: Collection[DeviceId]) -> dict[DeviceId, str]:
            return await self._counted(super().stopped_among(device_ids))

        async def _counted(self, answer):  # type: ignore[no-untyped-def]
            if self.slow:
                self.asked += 1
                self.under_way += 1
                self.most = max(self.most, self.under_way)
                await asyncio.sleep(0.001)
                self.under_way -= 1
            return await answer

    store = Counting()
    await store.open()
    people = [await settled(store) for _ in range(100)]
    async with replica(store, line) as hub:
        wires = [await follows(hub, person) for person in people]
        line.is_up = False
        for person in people:
            await append_directly(store, person)
        store.slow = True
        started = asyncio.get_running_loop().time()
        line.mend()
        for wire in wires:
            await wire.changes(1)
        assert asyncio.get_running_loop().time() - started < 2
        # A few compare at once, and put each question together: one about heads, one about who is stopped.
        assert 2 <= store.most <= 2 + PAGE_CALLS_MAX
        assert 2 * len(people) / COMPARING_AT_ONCE_MAX <= store.asked <= len(people)
        for wire in wires:
            await wire.hang_up()


async def append_directly(store: MemoryStore, person: Person) -> None:
    """A change that no notice tells of."""
    sealed = person.draft()
    append = Append(person.account_id, person.space_id, person.device_id, [Draft(parse_header(sealed), sealed)])
    (done,) = await store.append([append], 1.0)
    assert done.fresh


# --- revocation ---


async def test_a_revocation_closes_the_device_on_another_replica_within_a_second(
    store: MemoryStore, line: Line
) -> None:
    person = await settled(store)
    phone_of, laptop_of = await devices(person, 2)
    async with replica(store, line) as one, replica(store, line) as two:
        phone, laptop = await one.sign_in(phone_of), await two.sign_in(laptop_of)
        await phone.ask(m.RevokeDevices(7, [phone_of.device_id]), m.Done)
        assert await phone.closing(1.0) == 4503
        await laptop.ask(m.RevokeDevices(7, [laptop_of.device_id]), m.Done)
        assert await laptop.closing(1.0) == 4503


async def test_without_the_line_a_revocation_is_found_by_the_recheck(store: MemoryStore, line: Line) -> None:
    person = await settled(store)
    every_second = Policy(revocation_recheck_s=1.0)
    async with replica(store, line, policy=every_second) as hub:
        wire = await hub.sign_in(person)
        await store.revoke(person.account_id, [person.device_id], 1.0)
        assert await wire.closing(room.LOOK_EVERY_S + 2) == 4503


async def test_a_recheck_that_the_store_did_not_answer_is_repeated_soon(
    store: MemoryStore, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LOOK_EVERY_S", 0.1)
    person = await settled(store)
    async with replica(store, line, policy=Policy(revocation_recheck_s=0.5)) as hub:
        wire = await hub.sign_in(person)
        await store.revoke(person.account_id, [person.device_id], 1.0)
        await store.close()
        with pytest.raises(TimeoutError):
            await wire.hear(m.DeviceList, within_s=1.0)
        await store.open()
        assert await wire.closing(0.5) == 4503


@pytest.mark.parametrize("drawn", [0.0, 0.5, 0.999])
async def test_a_recheck_is_due_within_35_seconds_whatever_is_drawn(
    store: MemoryStore, line: Line, monkeypatch: pytest.MonkeyPatch, drawn: float
) -> None:
    rechecked_at: list[float] = []
    clock = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal clock
        clock += seconds
        if clock > 400:
            raise asyncio.CancelledError

    async def recheck() -> None:
        rechecked_at.append(clock)

    async with replica(store, line, watched=False) as hub:
        with monkeypatch.context() as patch:
            patch.setattr(hub.server, "recheck_stopped", recheck)
            patch.setattr(asyncio.get_running_loop(), "time", lambda: clock)
            patch.setattr(asyncio, "sleep", sleep)
            with pytest.raises(asyncio.CancelledError):
                await hub.server.watch(lambda: drawn)
    between = [later - earlier for earlier, later in itertools.pairwise([0.0, *rechecked_at])]
    assert len(rechecked_at) >= 11 and min(between[1:]) >= 20 and max(between) <= 34


async def test_lost_notices_make_a_replica_ask_for_revocations_at_once(store: MemoryStore, line: Line) -> None:
    person = await settled(store)
    async with replica(store, line, watched=False) as hub:
        wire = await hub.sign_in(person)
        await store.revoke(person.account_id, [person.device_id], 1.0)
        line.mend()
        assert await wire.closing(1.0) == 4503


# --- a store that goes away and comes back ---


async def test_sessions_live_through_a_store_that_is_away_and_go_on_soon_after(store: MemoryStore, line: Line) -> None:
    phone_of, laptop_of = await devices(await settled(store), 2)
    async with replica(store, line) as hub:
        phone, laptop = await hub.sign_in(phone_of), await follows(hub, laptop_of)
        await phone.append(phone.draft())
        await laptop.changes(1)
        phone_of.counter = phone.counter
        await append_directly(store, phone_of)
        await store.close()
        line.mend()  # the laptop compares, and gets no answer
        assert await phone.refusal(m.Append(5, phone.space_id, [phone.draft(counter=3)])) == "unavailable"
        with pytest.raises(TimeoutError):
            await laptop.hear(m.Changes, within_s=2.0)
        await store.open()
        (missed,) = await laptop.changes(1, within_s=3.5)
        assert missed.seq == 2
        assert (await phone.append(phone.draft(counter=3))).answers[0].seq == 3
        assert (await laptop.changes(1))[0].seq == 3
        await phone.hang_up()
        await laptop.hang_up()


async def test_who_connects_while_the_store_is_away_is_asked_to_come_back(store: MemoryStore, line: Line) -> None:
    person = await settled(store)
    async with replica(store, line) as hub:
        await store.close()
        wire = Wire(hub.url)
        wire.device_id, wire.device_key = person.device_id, person.device_key
        with pytest.raises(ConnectionClosed) as closed:
            await wire.greet()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 4011
        await store.open()
        await wire.sign_in()
        await wire.hang_up()


@pytest.mark.parametrize("question", ["session_orders", "stopped_among"])
async def test_a_session_that_cannot_be_counted_in_is_asked_to_come_back(
    store: MemoryStore, line: Line, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = await settled(store)
    really = getattr(store, question)

    async def goes_away(*args: object) -> object:
        await store.close()
        return await really(*args)

    async with replica(store, line) as hub:
        with monkeypatch.context() as patch:
            patch.setattr(store, question, goes_away)
            wire = Wire(hub.url)
            wire.device_id, wire.device_key = person.device_id, person.device_key
            await wire.sign_in()
            assert await wire.closing() == 4011
        await store.open()
        while hub.server.fanout.device_ids():
            await asyncio.sleep(0)
        await wire.sign_in()
        assert await still_open(wire) == [wire]
        await wire.hang_up()


async def test_a_session_that_ends_while_it_is_counted_in_leaves_nothing_behind(line: Line) -> None:
    class Stuck(MemoryStore):
        async def session_orders(self, count: int) -> list[int]:
            await asyncio.Event().wait()
            raise AssertionError

    store = Stuck()
    await store.open()
    person = await settled(store)
    async with replica(store, line) as hub:
        wire = Wire(hub.url)
        wire.device_id, wire.device_key = person.device_id, person.device_key
        await wire.sign_in()
        started = asyncio.get_running_loop().time()
        await asyncio.gather(hub.server.close(), wire.closing())
        assert asyncio.get_running_loop().time() - started < 1
        assert hub.server.fanout.device_ids() == set()


# --- many at once ---


async def test_a_hundred_devices_that_come_at_once_cost_few_calls_and_each_gets_its_own_answers(line: Line) -> None:
    calls: Counter[str] = Counter()

    def counted(name: str) -> Callable[..., Awaitable[object]]:
        async def call(self: MemoryStore, *asked: object, **bounds: object) -> object:
            calls[name] += 1
            return await getattr(MemoryStore, name)(self, *asked, **bounds)

        return call

    many = ("arrivals", "session_orders", "stopped_among", "states_of", "witnesses_of")
    Counting = type("Counting", (MemoryStore,), {name: counted(name) for name in (*many, "read_each", "heads")})
    store = Counting()
    await store.open()
    people = [await settled(store) for _ in range(100)]
    for person in people:
        await append_directly(store, person)
    async with replica(store, line) as hub:
        calls.clear()
        wires = await asyncio.gather(*(follows(hub, person) for person in people))
        for person, wire in zip(people, wires, strict=True):
            (change,) = await wire.changes(1)
            assert parse_header(change.sealed).device_id == person.device_id
        assert all(1 <= calls[name] <= len(people) / 2 for name in many), calls
        assert 1 <= calls["read_each"] <= len(people) / 2
        for wire in wires:
            await wire.ask(m.Ping(), m.Pong)
        pings = calls["heads"]
        await asyncio.gather(*(wire.say(m.Ping()) for wire in wires))
        heads = [(await wire.hear(m.Pong)).heads for wire in wires]
        assert [[head.head for head in each] for each in heads] == [[1]] * len(people)
        assert 1 <= calls["heads"] - pings <= len(people) / 2
        for wire in wires:
            await wire.hang_up()


# --- a log that was restored under a running hub ---


async def test_sessions_of_an_earlier_life_of_the_log_are_ended_and_come_back_to_the_new_one(
    store: MemoryStore, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LOOK_EVERY_S", 0.05)
    person = await settled(store)
    async with replica(store, line) as hub:
        wire = await hub.sign_in(person)
        greeted = await Wire(hub.url).dial()
        before = wire.incarnation
        renewed = await store.renew_incarnation()
        assert await wire.closing(1.0) == 4000
        ready = await wire.sign_in()
        assert ready.incarnation == renewed != before
        await asyncio.sleep(0.2)  # three more looks
        assert await still_open(wire) == [wire]
        await wire.hang_up()
        await greeted.hang_up()


async def test_who_comes_back_after_a_restore_is_told_the_new_name_at_once(store: MemoryStore, line: Line) -> None:
    person = await settled(store)
    async with replica(store, line, watched=False) as hub:
        wire = await hub.sign_in(person)
        await wire.append(wire.draft())  # and the hub has the old name at hand
        renewed = await store.renew_incarnation()
        assert (await wire.sign_in()).incarnation == renewed
        await wire.hang_up()


# --- readiness ---


async def test_many_probes_cost_the_store_one_question(line: Line) -> None:
    class Counting(MemoryStore):
        pings = 0

        async def ping(self) -> None:
            self.pings += 1
            await super().ping()

    store = Counting()
    await store.open()
    async with replica(store, line) as hub:
        started = asyncio.get_running_loop().time()
        answers = await asyncio.gather(*[pages(hub, "/readyz") for _ in range(20)])
        answers += [await pages(hub, "/readyz") for _ in range(10)]
        took = asyncio.get_running_loop().time() - started
        assert answers == [["HTTP/1.1 200 OK"]] * 30 and store.pings <= 1 + took / PING_FRESH_S


async def test_a_hub_whose_store_is_away_is_not_ready_until_it_is_back(store: MemoryStore, line: Line) -> None:
    async with replica(store, line) as hub:
        await store.close()
        assert await pages(hub, "/readyz", "/healthz") == ["HTTP/1.1 503 Service Unavailable", "HTTP/1.1 200 OK"]
        await store.open()
        async with asyncio.timeout(1):
            while await pages(hub, "/readyz") != ["HTTP/1.1 200 OK"]:
                await asyncio.sleep(0.05)


async def test_a_store_that_hangs_makes_the_hub_unready_in_time(line: Line) -> None:
    class Hanging(MemoryStore):
        async def ping(self) -> None:
            await asyncio.Event().wait()

    store = Hanging()
    await store.open()
    async with replica(store, line) as hub:
        started = asyncio.get_running_loop().time()
        assert await pages(hub, "/readyz") == ["HTTP/1.1 503 Service Unavailable"]
        assert 1.9 < asyncio.get_running_loop().time() - started < 3
