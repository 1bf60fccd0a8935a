"""The Postgres keeper sits the exam of all stores, and answers for what only a server for many can do wrong."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import random
import re
import secrets
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from hub.errors import Refusal, StoreUnavailable
from hub.store import (
    Account,
    Answer,
    Append,
    Appended,
    Draft,
    Happening,
    PageOf,
    SchemaTooNew,
    SchemaTooOld,
    StatesOf,
    Store,
    Terms,
)
from hub.store.postgres import MIGRATIONS, Migration, PostgresStore, migrate
from hub.store.postgres import calls as calls_room
from hub.store.postgres import log as log_room
from hub.store.postgres import pool as pool_room
from hub.store.postgres.batch import APPEND, APPEND_ONE, COUNTER_MAX, Alone, Batch, batch_of
from hub.store.postgres.log import HISTORY, STATES, WITNESSES
from hub.store.postgres.operators import ADD_ENTRY
from hub.store.postgres.pages import READ, READ_LIVE
from hub.terms import Kind, Limits
from tests.services import FaultProxy, Postgres, postgres, standby, url_of_any
from tests.store_exam import (
    DAY,
    NO_BOUND,
    NOTES,
    NOW,
    PHOTOS,
    StoreExam,
    Writer,
    a_charge,
    a_device,
    a_space,
    an_attempt,
    another,
    enrol,
    new_account,
    new_id,
    new_writer,
    rid,
)
from tests.test_store_any_order import LIMITS, QUOTA_BYTES, SameAnswers

THERE = "wss://there.example/v1/ws"
KNOWN = 1 + len(MIGRATIONS)
ROOT = Path(__file__).parent.parent
GROWING = ("space", "collection", "change", "counter", "receipt", "witness", "audit", "growth")
# Each before those that refer to it.
SMALL = ("hub", "account", "operator", "device", "spent", "attempt", "invite", "listed", "moved")

# --- databases ----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    db = await asyncpg.connect(url)
    try:
        yield db
    finally:
        await db.close()


@contextlib.asynccontextmanager
async def as_the_hub(url: str) -> AsyncIterator[Any]:
    """Connected with the settings that the store uses."""
    db = await pool_room.connect(url)
    try:
        yield db
    finally:
        await db.close()


async def execute(url: str, *statements: str) -> None:
    async with connected(url) as db:
        for statement in statements:
            await db.execute(statement)


class Databases:
    """Databases with our tables and nothing in them; emptied and used again, which is quicker than making them."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._empty: list[str] = []

    async def take(self) -> str:
        """The URL of one, whose log has a name that no other had."""
        if not self._empty:
            self._empty.append(await new_database(self._server))
            async with opened(self._empty[-1]):
                pass
        url = self._empty.pop()
        await execute(url, f"update hub set value = '\\x{secrets.token_hex(16)}' where key = 'incarnation'")
        return url

    async def give_back(self, url: str) -> None:
        tables = [*SMALL, *GROWING][::-1]
        own = "'schema_version', 'schema_compatible', 'incarnation', 'tag_generation'"
        statements = [
            *(f"delete from {table}" for table in tables if table != "hub"),
            f"delete from hub where key not in ({own})",
            "update hub set value = '0' where key = 'tag_generation'",
        ]
        await execute(url, "; ".join(statements))
        self._empty.append(url)


async def new_database(server: Postgres) -> str:
    """The URL of an empty database."""
    name = f"test_{secrets.token_hex(6)}"
    await execute(server.url, f"create database {name}")
    return server.url_of(name)


async def drop_database(server: Postgres, url: str) -> None:
    await execute(server.url, f"drop database {url.rpartition('/')[2]} with (force)")


@contextlib.asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(url, **options)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture(scope="session")
def databases(pg_server: Postgres) -> Databases:
    return Databases(pg_server)


@pytest.fixture
async def url(databases: Databases) -> AsyncIterator[str]:
    """A database with our tables and nothing in them."""
    url = await databases.take()
    yield url
    await databases.give_back(url)


@pytest.fixture
async def empty_url(pg_server: Postgres) -> AsyncIterator[str]:
    """A database without any table."""
    url = await new_database(pg_server)
    yield url
    await drop_database(pg_server, url)


async def every_row(url: str) -> list[tuple[object, ...]]:
    async with connected(url) as db:
        tables = await db.fetch(
            "select relname from pg_class where relkind in ('r', 'p') and not relispartition"
            " and relnamespace = current_schema()::regnamespace"
        )
        return [(table, *row) for (table,) in tables for row in await db.fetch(f"select * from {table}")]


class TestPostgresStore(StoreExam):
    @pytest.fixture(autouse=True)
    async def _databases(self, databases: Databases) -> AsyncIterator[None]:
        self.databases = databases
        self.opened: dict[Store, tuple[str, dict[str, Any]]] = {}
        yield
        for url in {url for url, _ in self.opened.values()}:
            await databases.give_back(url)

    async def make(self, *, limits: Limits | None = None, quota_bytes: int = NO_BOUND) -> Store:
        return await self.open(await self.databases.take(), limits=limits, quota_bytes=quota_bytes)

    async def restart(self, store: Store) -> Store:
        await store.close()
        return await self.beside(store)

    async def beside(self, store: Store) -> Store:
        url, options = self.opened[store]
        return await self.open(url, **options)

    async def rows(self, store: Store) -> list[tuple[object, ...]]:
        return await every_row(self.opened[store][0])

    async def open(self, url: str, **options: Any) -> PostgresStore:
        store = PostgresStore(url, **options)
        self.opened[store] = (url, options)
        await store.open()
        return store


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresStore]:
    async with opened(url) as store:
        yield store


@pytest.fixture
async def replica(url: str) -> AsyncIterator[PostgresStore]:
    """Another program's store on the same database."""
    async with opened(url) as store:
        yield store


@pytest.fixture
async def writer(store: PostgresStore) -> Writer:
    return await new_writer(store)


async def until(condition: Callable[[], Awaitable[bool]], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not await condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.01)


# --- the same as the model ------------------------------------------------------------------------


def test_whatever_is_called_in_whatever_order_it_answers_like_the_model(databases: Databases) -> None:
    class PostgresAnswers(SameAnswers):
        def keeper(self) -> Store:
            self.url = self.loop.run_until_complete(databases.take())
            return PostgresStore(self.url, limits=LIMITS, quota_bytes=QUOTA_BYTES)

        def teardown(self) -> None:
            for store in self.stores:
                self.loop.run_until_complete(store.close())
            self.loop.run_until_complete(databases.give_back(self.url))
            super().teardown()

    run_state_machine_as_test(
        PostgresAnswers,
        settings=settings(
            max_examples=8, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


# --- many at once -----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def holding(url: str, account_id: bytes) -> AsyncIterator[Any]:
    """A transaction, as of another replica, that holds the account's lock until it is told to commit."""
    async with connected(url) as db, db.transaction():
        await db.fetchval("select lock_spaces(array[$1::bytea])", account_id)
        yield db


async def somebody_waits(url: str) -> None:
    """Returns when a statement waits for a lock."""
    async with connected(url) as db:
        query = "select exists (select from pg_stat_activity where wait_event_type = 'Lock' and datname = $1)"
        name = urlsplit(url).path[1:]
        await until(lambda: db.fetchval(query, name))


async def append_in(db: Any, *requests: Any) -> None:
    """Append as the store does."""
    batch = batch_of(requests)
    await db.fetchrow(batch.query, *batch.arguments(NOW, 1_000, NO_BOUND))


@pytest.mark.parametrize("accounts", [1, 3])
async def test_a_draft_that_waited_for_the_lock_is_judged_by_what_it_finds_then(
    url: str, store: PostgresStore, writer: Writer, accounts: int
) -> None:
    others = [await new_writer(store) for _ in range(accounts - 1)]
    other = await another(writer)
    base = (await writer.put()).header.change_id
    newest = other.draft(base=base)
    stale = [writer.request(writer.draft(base=base)), *(each.request(each.draft()) for each in others)]
    random.shuffle(stale)
    async with holding(url, writer.account_id) as db:
        waiting = asyncio.create_task(store.append(stale, NOW))
        await somebody_waits(url)
        await append_in(db, other.request(newest))
    answers = {append.account_id: appended.answers for append, appended in zip(stale, await waiting, strict=True)}
    assert answers.pop(writer.account_id) == [Answer(0, "conflict", 2, newest.header.change_id)]
    assert list(answers.values()) == [[Answer(1)]] * (accounts - 1)


async def test_a_draft_that_waited_behind_its_own_copy_gets_the_same_seq(
    url: str, store: PostgresStore, writer: Writer
) -> None:
    draft = writer.draft()
    async with holding(url, writer.account_id) as db:
        waiting = asyncio.create_task(writer.answer(draft))
        await somebody_waits(url)
        await append_in(db, writer.request(draft))
    assert await waiting == Answer(1)
    assert await writer.seqs() == [1]


@pytest.mark.parametrize("drafts", [1, 2])
async def test_an_append_that_waited_behind_a_revocation_appends_nothing(
    url: str, store: PostgresStore, writer: Writer, drafts: int
) -> None:
    await writer.put()
    request = writer.request(*(writer.draft() for _ in range(drafts)))
    async with holding(url, writer.account_id) as db:
        waiting = asyncio.create_task(store.append([request], NOW))
        await somebody_waits(url)
        await db.execute("update device set revoked_at = 1 where device_id = $1", writer.device_id)
    assert await waiting == [Appended([], closing="revoked")]
    assert await writer.seqs() == [1]


async def test_a_revocation_waits_for_the_append_that_is_under_way(
    url: str, store: PostgresStore, writer: Writer
) -> None:
    async with holding(url, writer.account_id) as db:
        await append_in(db, writer.request(writer.draft()))
        revocation = asyncio.create_task(store.revoke(writer.account_id, [writer.device_id], NOW))
        witness = asyncio.create_task(store.put_witness(writer.key(), writer.device_id, 1, b"w"))
        await somebody_waits(url)
        assert not revocation.done() and not witness.done()
    assert await revocation == [writer.device_id]
    await witness
    assert await writer.seqs() == [1]


@pytest.mark.parametrize(
    "stop, closing",
    [("suspended_at = 1", "suspended"), ("moving_to = 'wss://there.example'", "moving")],
)
async def test_an_append_that_waited_while_its_account_was_stopped_appends_nothing(
    url: str, store: PostgresStore, writer: Writer, stop: str, closing: str
) -> None:
    other = await new_writer(store)
    await other.put()
    among = [writer.request(writer.draft(2), writer.draft(3)), other.request(other.draft())]
    alone = [writer.request(writer.draft(2, counter=2))]
    kept = await writer.put(counter=1)
    for requests in (among, alone):
        async with holding(url, writer.account_id) as db:
            waiting = asyncio.create_task(store.append(requests, NOW))
            await somebody_waits(url)
            await db.execute(f"update account set {stop} where account_id = $1", writer.account_id)
        stopped, *appended = await waiting
        assert stopped == Appended([], closing=closing)
        assert [each.answers for each in appended] == [[Answer(2)]] * (len(requests) - 1)
        assert await writer.seqs() == [1] and await writer.used_bytes() == len(kept.sealed)
        await execute(url, "update account set suspended_at = null, moving_to = ''")


@pytest.mark.parametrize("stops", ["suspend", "begin_move"])
async def test_stopping_an_account_waits_for_the_append_that_is_under_way(
    url: str, store: PostgresStore, writer: Writer, stops: str
) -> None:
    stopping = {
        "suspend": lambda: store.suspend(writer.account_id, NOW),
        "begin_move": lambda: store.begin_move(writer.account_id, THERE),
    }
    async with holding(url, writer.account_id) as db:
        await append_in(db, writer.request(writer.draft()))
        waiting = asyncio.create_task(stopping[stops]())
        await somebody_waits(url)
        assert not waiting.done()
    assert await waiting is True
    assert await writer.seqs() == [1]


async def test_what_waited_while_a_move_began_changes_nothing(url: str, store: PostgresStore, writer: Writer) -> None:
    other = await another(writer)
    await writer.put()
    _, _, made = await new_account(store)
    attempt, change = an_attempt(made.address_tag), an_attempt()
    await store.add_attempt(attempt)
    await store.add_attempt(change)
    before = await every_row(url)
    deeds: list[Awaitable[Any]] = [
        store.create_space(a_space(writer.account_id), 50, NOW),
        store.add_device(a_device(writer.account_id), per_account_max=999, per_app_max=999),
        store.put_witness(writer.key(), writer.device_id, 1, b"w"),
        store.revoke(writer.account_id, [other.device_id], NOW),
        store.approve(writer.account_id, other.device_id),
        store.schedule_account_deletion(writer.account_id, NOW),
        store.schedule_space_deletion(writer.account_id, writer.space_id, NOW),
        store.change_address(change.attempt_id, writer.account_id, NOW),
    ]
    async with connected(url) as db, db.transaction():
        await db.execute("update account set moving_to = $2 where account_id = $1", writer.account_id, THERE)
        await db.fetchval("select lock_spaces(array[$1::bytea])", writer.account_id)
        waiting = [asyncio.create_task(_code_of(deed)) for deed in deeds]
        query = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        async with connected(url) as watcher:
            await until(lambda: _at_least(watcher.fetchval(query), len(deeds)))
    assert await asyncio.gather(*waiting) == ["unavailable"] * len(deeds)
    assert await store.begin_move(writer.account_id, "")
    assert sorted(map(repr, await every_row(url))) == sorted(map(repr, before))


async def _code_of(deed: Awaitable[Any]) -> str:
    try:
        await deed
    except Refusal as refusal:
        return refusal.code
    return ""


async def test_a_space_that_waited_to_go_stays_whole_when_a_move_began_first(
    url: str, store: PostgresStore, writer: Writer
) -> None:
    await writer.append(*(writer.draft(number) for number in range(9)))
    async with connected(url) as db, db.transaction():
        await db.execute("update account set moving_to = $2 where account_id = $1", writer.account_id, THERE)
        deeds = [
            store.delete_space(writer.account_id, writer.space_id),
            store.delete_account(writer.account_id),
        ]
        waiting = [asyncio.create_task(_code_of(deed)) for deed in deeds]
        await somebody_waits(url)
    assert await asyncio.gather(*waiting) == ["unavailable"] * 2
    assert len(await writer.seqs()) == 9


async def test_no_step_is_accepted_twice_by_two_replicas(store: PostgresStore, replica: PostgresStore) -> None:
    account_id, *_ = await new_account(store)
    assert await store.make_operator(account_id, new_id(), NOW)
    for step in (7, 8):
        taken = await asyncio.gather(*((store, replica)[number % 2].take_step(account_id, step) for number in range(8)))
        assert sum(taken) == 1
    assert not await replica.take_step(account_id, 7)


async def test_what_adds_up_joins_the_entry_that_came_while_it_waited(
    url: str, store: PostgresStore, writer: Writer
) -> None:
    refused = Happening(writer.account_id, NOW, "key_refused", "device", writer.device_id, adds_up=True)
    async with connected(url) as db, db.transaction():
        await db.execute("select from account where account_id = $1 for no key update", writer.account_id)
        waiting = [asyncio.create_task(store.note([refused, refused])) for _ in range(3)]
        await somebody_waits(url)
        await db.execute(ADD_ENTRY, *refused[:-1])
    await asyncio.gather(*waiting)
    (entry,) = await store.audit(writer.account_id, before=0, limit=9)
    assert entry.count == 7


async def test_of_two_accounts_that_want_one_address_at_once_one_gets_it(
    store: PostgresStore, replica: PostgresStore
) -> None:
    made = [(await new_account(store))[0] for _ in range(2)]
    for _ in range(10):
        first = an_attempt()
        changes = [first, replace(first, attempt_id=new_id())]
        for change in changes:
            await store.add_attempt(change)
        deeds = [
            keeper.change_address(change.attempt_id, account_id, NOW)
            for keeper, change, account_id in zip((store, replica), changes, made, strict=True)
        ]
        codes = await asyncio.gather(*map(_code_of, deeds))
        assert sorted(codes) == ["", "enrol_failed"]
        account = await store.find_account(changes[0].address_tag)
        assert account is not None and account.account_id == made[codes.index("")]


async def test_growth_is_noted_of_the_other_spaces_when_one_goes_meanwhile(
    url: str, store: PostgresStore, writer: Writer
) -> None:
    other = await new_writer(store)
    async with holding(url, writer.account_id) as db:
        await db.fetchval("select delete_space($1, $2)", writer.account_id, writer.space_id)
        waiting = asyncio.create_task(store.note_growth(DAY))
        await somebody_waits(url)
    assert await waiting == 1
    (facts,) = await store.space_facts(other.account_id)
    assert facts.growth == [(DAY, 0)]


async def test_compaction_goes_round_accounts_that_are_moving(url: str, store: PostgresStore, writer: Writer) -> None:
    other, third = await new_writer(store), await new_writer(store)
    for number, each in enumerate((writer, other, third)):
        for _ in range(2):
            await store.append([each.request(each.draft(1))], NOW + number)
    assert await store.begin_move(writer.account_id, THERE)
    assert await store.compact(NOW + 9, 1) == 1
    assert len((await other.read()).changes) == 1
    async with holding(url, third.account_id) as db:
        waiting = asyncio.create_task(store.compact(NOW + 9, 9))
        await somebody_waits(url)
        await db.execute("update account set moving_to = $2 where account_id = $1", third.account_id, THERE)
    assert await waiting == 0
    assert len((await third.read()).changes) == len((await writer.read()).changes) == 2


async def test_a_space_that_came_while_a_batch_waited_is_not_written_without_its_lock(
    url: str, store: PostgresStore, replica: PostgresStore
) -> None:
    made = sorted([(await new_account(store))[:2] for _ in range(2)], key=lambda pair: pair[0])
    (first_id, first), (second_id, second) = made  # in the order in which they are locked
    space, held = a_space(first_id), await store.create_space(a_space(second_id), 50, NOW)
    early = Writer(store, first_id, space.space_id, first.device_id)
    late = Writer(store, second_id, held.space_id, second.device_id)
    draft = early.draft()
    async with holding(url, second_id):
        waiting = asyncio.create_task(store.append([early.request(draft), late.request(late.draft())], NOW))
        await somebody_waits(url)
        await replica.create_space(space, 50, NOW)
    answered = await waiting
    assert [appended.answers for appended in answered] == [[Answer(code="not_found")], [Answer(1)]]
    assert await early.answer(draft) == Answer(1)


async def test_eight_writers_over_two_replicas_in_batches_of_many_accounts_leave_no_gap(
    store: PostgresStore, replica: PostgresStore
) -> None:
    """Their batches name the same accounts in different orders: nobody may wait in a circle."""
    writers = [await new_writer(store) for _ in range(4)]
    devices = [[await another(writer) for writer in writers] for _ in range(8)]

    async def write(number: int, own: list[Writer]) -> list[tuple[bytes, int]]:
        pick = random.Random(number)
        seqs = []
        for _ in range(15):
            some = pick.sample(own, pick.randint(1, 4))
            appended = await (store, replica)[number % 2].append(
                [each.request(each.draft(pick.randrange(5)), each.draft(9, kind=Kind.DELTA)) for each in some], NOW
            )
            for each, result in zip(some, appended, strict=True):
                seqs += [(each.account_id, answer.seq) for answer in result.answers]
        return seqs

    given = [pair for seqs in await asyncio.gather(*map(write, range(8), devices)) for pair in seqs]
    assert len(given) == len(set(given))
    for writer in writers:
        seqs = sorted(seq for account_id, seq in given if account_id == writer.account_id)
        assert seqs == list(range(1, len(seqs) + 1)) == await writer.seqs()


async def test_whatever_happens_at_once_nobody_waits_in_a_circle(store: PostgresStore, replica: PostgresStore) -> None:
    """Postgres would end a circle with an error after a second; every call here must be answered."""
    both = (store, replica)
    writers = [await new_writer(store) for _ in range(3)]
    spares = {writer: [await another(writer) for _ in range(12)] for writer in writers}
    tags = {writer: secrets.token_bytes(32) for writer in writers}

    async def deed(number: int) -> None:
        pick = random.Random(number)
        keeper, writer = both[number % 2], pick.choice(writers)
        some = pick.sample(writers, 3)
        everyone = [each.device_id for writer in writers for each in spares[writer]]
        pick.shuffle(everyone)
        attempt = an_attempt(tags[writer])
        space = a_space(writer.account_id)
        deeds: list[Callable[[], Awaitable[Any]]] = [
            lambda: keeper.append([each.request(each.draft(1), each.draft(2)) for each in some], NOW),
            lambda: keeper.append([each.request(each.draft(kind=Kind.WIPE)) for each in some[:1]], NOW),
            lambda: keeper.compact(NOW + 1, 50),
            lambda: keeper.create_space(space, 50, NOW),
            lambda: keeper.delete_space(writer.account_id, pick.choice([space.space_id, new_id()])),
            lambda: keeper.note_seen(everyone, DAY + number),
            lambda: keeper.revoke(writer.account_id, everyone[:8], NOW),
            lambda: keeper.put_witness(writer.key(), writer.device_id, number + 1, b"w"),
            lambda: keeper.schedule_space_deletion(writer.account_id, writer.space_id, None),
            lambda: enrols(keeper, attempt, number),
            lambda: keeper.forget_attempts(NOW + 1),
            lambda: keeper.spend([a_charge(b"a", (99, 9)), a_charge(b"b", (99, 9))][:: pick.choice([1, -1])], NOW),
            lambda: keeper.add_device(a_device(writer.account_id), per_account_max=999, per_app_max=999),
            lambda: keeper.suspend(writer.account_id, None),
            lambda: moves(keeper, writer),
            lambda: keeper.note([Happening(each.account_id, NOW, "proof_refused", "device") for each in some]),
            lambda: keeper.note_growth(DAY + number),
            lambda: changes_address(keeper, writer),
            lambda: keeper.set_terms(writer.account_id, Terms(billing_ref=pick.choice("ab"))),
            lambda: keeper.make_operator(writer.account_id, new_id(), NOW),
        ]
        with contextlib.suppress(Refusal):
            await pick.choice(deeds)()

    async def moves(keeper: Store, writer: Writer) -> None:
        await keeper.begin_move(writer.account_id, THERE)
        await keeper.begin_move(writer.account_id, "")

    async def changes_address(keeper: Store, writer: Writer) -> None:
        attempt = an_attempt(tags[writer])
        await keeper.add_attempt(attempt)
        await keeper.change_address(attempt.attempt_id, writer.account_id, NOW)

    async def enrols(keeper: Store, attempt: Any, number: int) -> None:
        await keeper.add_attempt(attempt)
        account = Account(new_id(), None, 0, DAY)
        await enrol(keeper, attempt, a_device(account.account_id), account)
        if number % 2:
            await both[number // 2 % 2].delete_account(account.account_id)

    await asyncio.gather(*map(deed, range(400)))
    for writer in writers:
        heads = await store.states(writer.account_id, writer.space_id, writer.device_id, [NOTES])
        assert (await writer.read()).head == heads[0].head
        await writer.used_bytes()


async def test_what_spaces_say_they_use_is_what_is_kept(url: str, store: PostgresStore, replica: PostgresStore) -> None:
    writer = await new_writer(store)
    others = [writer, *[await another(writer) for _ in range(3)]]
    for number, each in enumerate(others):
        each.store = (store, replica)[number % 2]

    async def write(each: Writer, seed: int) -> None:
        pick = random.Random(seed)
        for number in range(12):
            kind = pick.choice([Kind.PUT, Kind.DELTA, Kind.DELETE, Kind.PURGE, Kind.WIPE])
            draft = each.draft(pick.randrange(3), kind=kind, upto=number, size=pick.randint(160, 5_000))
            await each.append(draft, atomic=pick.random() < 0.3)
            if number % 4 == 0:
                await each.store.compact(NOW + 1, 3)

    await asyncio.gather(*map(write, others, range(4)))
    async with connected(url) as db:
        kept = await db.fetchval("select sum(length(sealed)) from change")
    assert await writer.used_bytes() == kept


async def test_four_replicas_that_start_at_once_make_one_schema_and_one_log(empty_url: str) -> None:
    stores = [PostgresStore(empty_url) for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    try:
        assert len({await store.incarnation() for store in stores}) == 1
        writer = await new_writer(stores[0])
        for store in stores:
            writer.store = store
            await writer.put()
        assert await writer.seqs() == [1, 2, 3, 4]
    finally:
        await asyncio.gather(*(store.close() for store in stores))


async def test_the_first_account_is_one_over_two_replicas(store: PostgresStore, replica: PostgresStore) -> None:
    attempts = [an_attempt() for _ in range(10)]
    for attempt in attempts:
        await store.add_attempt(attempt)

    async def joins(number: int) -> bool:
        account = Account(new_id(), None, 0, DAY)
        with contextlib.suppress(Refusal):
            keeper = (store, replica)[number % 2]
            await enrol(keeper, attempts[number], a_device(account.account_id), account, first_only=True)
            return True
        return False

    assert sum(await asyncio.gather(*map(joins, range(10)))) == 1
    assert await replica.count_accounts() == 1


async def test_addresses_are_wrapped_once_by_two_replicas(store: PostgresStore, replica: PostgresStore) -> None:
    _, _, made = await new_account(store)

    def wrap(tag: bytes) -> bytes:
        return bytes(byte ^ 0xFF for byte in tag)

    assert sorted(await asyncio.gather(*(each.rewrap_addresses(wrap, 1) for each in (store, replica)))) == [0, 1]
    assert await replica.find_account(wrap(made.address_tag)) is not None


# --- the tables -------------------------------------------------------------------------------------


async def test_what_grows_is_whole_and_keeps_bodies_outside_and_uncompressed(url: str) -> None:
    async with connected(url) as db:
        tables = await db.fetch(
            "select relname, relkind, reloptions::text as options from pg_class where relkind in ('r', 'p')"
            " and relnamespace = 'public'::regnamespace"
        )
        assert {row["relname"] for row in tables} == {*SMALL, *GROWING}
        assert {bytes(row["relkind"]) for row in tables} == {b"r"}
        filled = {row["relname"] for row in tables if row["options"] == "{fillfactor=70}"}
        assert filled == {"space", "collection", "counter"}
        storage = await db.fetch(
            "select relname, attstorage from pg_attribute join pg_class on attrelid = pg_class.oid"
            " where attname = 'sealed' and relkind in ('r', 'p')"
        )
        assert len(storage) == 2 and {bytes(row["attstorage"]) for row in storage} == {b"e"}


async def test_every_key_of_what_grows_has_the_account_in_it(url: str) -> None:
    """So that the tables can be spread over machines by account."""
    async with connected(url) as db:
        keys = await db.fetch(
            "select relname, (select attnum from pg_attribute where attrelid = indrelid"
            " and attname = 'account_id') = any(indkey::int2[]) as has from pg_index join pg_class on"
            " indrelid = pg_class.oid where indisunique and relname = any($1)",
            list(GROWING),
        )
        assert {row["relname"] for row in keys} == set(GROWING)
        assert all(row["has"] for row in keys)
        references = await db.fetch(
            "select conrelid::regclass::text, confrelid::regclass::text, pg_get_constraintdef(oid) as text"
            " from pg_constraint where contype = 'f' and conparentid = 0"
        )
        assert len(references) == 8
        assert all(row["text"].startswith("FOREIGN KEY (account_id") for row in references)


async def test_bodies_come_back_equal_whatever_their_size(writer: Writer) -> None:
    drafts = [await writer.put(number, size=size) for number, size in enumerate((160, 1_900, 2_100, 9_000, 196_608))]
    page = await writer.read()
    assert [change.sealed for change in page.changes] == [draft.sealed for draft in drafts]
    assert (await writer.read(bytes_max=160 + 1_900 + 2_100)).upto == 3
    assert [change.seq for change in (await writer.read(3, bytes_max=1)).changes] == [4]


async def test_a_stretch_of_bodies_is_bounded_whatever_comes_after_the_first(url: str, writer: Writer) -> None:
    for _ in range(9):
        await writer.put(size=1_000)
    for _ in range(40):
        await writer.put(size=8_001)  # more than the first eight together
    async with as_the_hub(url) as db:
        ((head, seqs, _, bodies),) = await db.fetch(READ, *writer.key(), 0, 500, 40_000)
        assert head == 49 and seqs == list(range(1, 42))
        assert [len(body) for body in bodies[:9]] == [1_000] * 9 and set(bodies[9:]) == {None}
        ((_, _, _, bodies),) = await db.fetch(READ, *writer.key(), 9, 500, 40_000)
        assert [len(body) for body in bodies] == [8_001] * 5
        ((_, _, _, bodies),) = await db.fetch(READ, *writer.key(), 9, 500, 1)
        assert [len(body) for body in bodies] == [8_001]
        ((head, *nothing),) = await db.fetch(READ, *writer.key(), 49, 500, 40_000)
        assert (head, nothing) == (49, [None] * 3)


async def plan_of(db: Any, query: str, *values: object) -> str:
    return "\n".join(line for (line,) in await db.fetch(f"explain (analyze, costs off) {query}", *values))


async def test_every_look_at_the_log_is_by_index(url: str, store: PostgresStore) -> None:
    writer = await new_writer(store)
    bystanders = [await new_writer(store) for _ in range(8)]
    for number in range(12):
        drafts = [writer.draft(record, kind=Kind.DELETE if record % 9 == 5 else Kind.PUT) for record in range(200)]
        await writer.append(*drafts)
        await store.append(
            [each.request(*(each.draft(record) for record in range(30))) for each in bystanders], NOW + number
        )
    key = writer.key()
    looks = {
        "read": (READ, *key, 1_000, 100, 100_000),
        "read live": (READ_LIVE, *key, 1_000, 100, 100_000),
        "history": (HISTORY, *key, rid(3), 2_000, 10),
        "states": (STATES, *key[:2], writer.device_id, [NOTES, PHOTOS]),
        "witnesses": (WITNESSES, *key),
    }
    plans = {}
    async with connected(url) as db:
        await db.execute("analyze")
        for name, look in looks.items():
            plans[f"{name}, with no setting of ours"] = await plan_of(db, *look)
    async with as_the_hub(url) as db:
        for name, look in looks.items():
            plans[name] = await plan_of(db, *look)
        said: list[str] = []
        db.add_log_listener(lambda _, message: said.append(message.message))
        await db.execute(
            "load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;"
            " set auto_explain.log_level = notice; set auto_explain.log_analyze = on; set auto_explain.log_timing = off"
        )
        deeds = {
            "compact": lambda: db.fetchval("select compact($1, $2)", NOW + 5.0, 50),
            "append": lambda: append_in(db, writer.request(writer.draft(1), writer.draft(2, base=new_id()))),
            "plain append": lambda: append_in(db, *(each.request(each.draft(1)) for each in bystanders[:2])),
            "append alone": lambda: append_in(db, bystanders[0].request(bystanders[0].draft(2))),
            "purge": lambda: append_in(db, bystanders[1].request(bystanders[1].draft(kind=Kind.PURGE, upto=9))),
            "wipe": lambda: append_in(db, bystanders[2].request(bystanders[2].draft(kind=Kind.WIPE))),
            "delete": lambda: db.fetchval("select delete_some($1, $2, 10)", *bystanders[3].key()[:2]),
        }
        for name, do in deeds.items():
            said.clear()
            await do()
            plans[name] = "\n".join(said)
    for name, plan in plans.items():
        assert "Seq Scan on change" not in plan and "Seq Scan on receipt" not in plan, f"{name}: {plan}"
    indexes = {
        "read": "change_pkey",
        "read live": "change_live ",
        "history": "change_replaced_of_record",
        "append alone": "change_live_of_record",
        "compact": "change_replaced ",
        "purge": "change_tombstone",
        "delete": "change_pkey",
    }
    assert "Sort" not in plans["read live"].partition("Limit")[2], plans["read live"]
    for name, index in indexes.items():
        assert index in plans[name], f"{name}: {plans[name]}"
    found = [float(rows) for rows in re.findall(r"Scan using change_\S*pkey on change.*rows=([\d.]+)", plans["read"])]
    assert sorted(found) == [8, 100], plans["read"]
    # What was replaced before the first live change is walked through once, not twice.
    assert plans["read live"].count("seq >= (min(") == 1, plans["read live"]


@pytest.mark.parametrize("version", [3, KNOWN])
@pytest.mark.parametrize("count", [1, 5])
async def test_an_append_finds_its_rows_by_their_keys_also_with_plans_made_for_empty_tables(
    empty_url: str, version: int, count: int
) -> None:
    """Plans are made once on a connection: what is the shortest way through a table of one row must not be its way."""
    if version < KNOWN:
        await make_version(version, empty_url)
    said: list[str] = []
    async with opened(empty_url) as store, as_the_hub(empty_url) as db:
        writers = [await new_writer(store) for _ in range(count)]
        await db.execute("vacuum analyze")
        db.add_log_listener(lambda _, message: said.append(message.message))
        await db.execute(
            "load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;"
            " set auto_explain.log_level = notice; set auto_explain.log_analyze = on; set auto_explain.log_timing = off"
        )
        for record in (1, 2, 1, 2):
            said.clear()
            if count == 1:
                await append_in(db, writers[0].request(writers[0].draft(record)))
            else:
                await append_in(db, *(each.request(each.draft(1), each.draft(1), each.draft(2)) for each in writers))
        plans = "\n".join(said)
        assert "Rows Removed by Join Filter" not in plans
        assert "Index Cond: ((collection = " in plans and "AND (record_id >= " in plans
        for table in ("collection", "change", "counter", "space"):
            assert f"Seq Scan on {table}" not in plans
        for line in plans.splitlines():
            if found := re.search(r"Rows Removed by Filter: (\d+)", line):
                assert int(found[1]) <= 1, plans
        if version == KNOWN:
            assert "collection_by_name on collection" in plans
            assert "change_live_of_record on change" in plans
            assert "change_live on change" not in plans and "change_once on change" not in plans
        assert "Tid Scan on change" in plans and "Tid Scan on collection" in plans
        for each in writers:
            assert await each.seqs(live_only=True) == ([3, 4] if count == 1 else [11, 12])


async def test_an_append_moves_what_is_its_own_and_nothing_at_the_same_place_of_another_partition(
    empty_url: str,
) -> None:
    """Databases that were made before version 4 have partitions."""
    await make_version(3, empty_url)
    async with opened(empty_url) as store:
        writers = [await new_writer(store) for _ in range(8)]
        for size in (4, 4, 4, 1, 1, 1):
            some = random.sample(writers, size)
            batch = [each.request(*(each.draft(record) for record in range(size))) for size, each in enumerate(some, 1)]
            results = await store.append(batch, NOW)
            assert all(answer.seq for result in results for answer in result.answers)
    moved = """
        select (select sum(head) from collection), (select sum(last) from counter),
               (select count(*) from change where replaced_at is not null),
               (select sum(used_bytes) from space)
    """
    told = """
        select count(*), count(*), count(*) - count(distinct (collection, record_id)), sum(length(sealed)) from change
    """
    per_log = (
        "select count(*) from collection as c where head <> (select count(*) from change where collection = number)"
    )
    async with connected(empty_url) as db:
        assert list(await db.fetchrow(moved)) == list(await db.fetchrow(told))
        assert await db.fetchval(per_log) == 0


def a_wild_draft(writer: Writer, rng: random.Random, kept: Sequence[Draft]) -> Draft:
    """Mostly the right one of its kind; ``kept`` is what is in the log."""
    if kept and rng.random() < 0.1:
        return rng.choice(kept)
    collection_id = rng.choice([NOTES] * 6 + [PHOTOS] * 2 + [bytes(15) + b"x"])
    counters = [each.header.counter for each in kept if each.header.collection_id == collection_id]
    record = rng.randrange(4)
    older = [each.header.change_id for each in kept if each.header.record_id == rid(record)]
    bases = [None] * 3 + [bytes(16)] + older[-3:]
    kind = rng.choice([Kind.PUT] * 6 + [Kind.DELTA, Kind.DELETE, Kind.KEYRING] * 2 + [Kind.PURGE, Kind.WIPE])
    if kind in (Kind.PURGE, Kind.WIPE):
        header = {"upto": rng.randrange(len(kept) + 1)} if kind is Kind.PURGE else {}
    else:
        header = {"base": None if kind is Kind.DELTA else rng.choice(bases), "size": rng.choice([160, 170, 900])}
    return writer.draft(
        record,
        collection_id=collection_id,
        counter=max(1, len(set(counters)) + rng.choice([1] * 12 + [0, 2, COUNTER_MAX])),
        kind=kind,
        **header,
    )


async def test_a_draft_alone_in_its_batch_is_judged_and_kept_as_it_is_among_others(
    pg_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is said alone to one database is said to another as many are."""
    roads: list[Callable[[Sequence[Append]], Any]] = [lambda appends: Alone(appends[0]), Batch]
    rng, codes, kept = random.Random(4), set(), list[Draft]()
    urls = [await new_database(pg_server) for _ in roads]
    limits = Limits(collections_per_space_max=2)
    async with contextlib.AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(opened(url, limits=limits, quota_bytes=12_000)) for url in urls]
        writer = await new_writer(stores[0])
        here, there = [await stack.enter_async_context(connected(url)) for url in urls]
        for table in ("account", "device", "space"):
            (row,) = await here.fetch(f"select * from {table}")
            await there.execute(
                f"insert into {table} values ({', '.join(f'${place}' for place in range(1, len(row) + 1))})", *row
            )
        for _ in range(600):
            draft = a_wild_draft(writer, rng, kept)
            request = writer.request(draft, atomic=rng.random() < 0.2)
            said = []
            for store, road in zip(stores, roads, strict=True):
                monkeypatch.setattr(log_room, "batch_of", road)
                said += await store.append([request], NOW)
            assert said[0] == said[1], draft.header
            codes |= {answer.code for answer in said[0].answers}
            if said[0].fresh:
                kept.append(draft)
        assert codes == {"", "out_of_order", "device_cloned", "wiped", "conflict", "too_many", "quota_exceeded"}
        for table in ("change", "counter", "receipt", "collection", "space"):
            # The short numbers of collections may differ: some are drawn and not used.
            look = f"""
                select to_jsonb(t) - 'collection' - 'number' as kept, (
                    select collection_id from collection where number = (to_jsonb(t) ->> 'collection')::bigint
                ) from {table} as t order by kept
            """
            assert await here.fetch(look) == await there.fetch(look)
    for url in urls:
        await drop_database(pg_server, url)


async def test_an_append_is_one_round_trip_and_a_full_batch_too(writer: Writer, url: str) -> None:
    for counted in (1, 2):  # the driver asks for the types of a statement's columns once
        await writer.append(*(writer.draft(number) for number in range(counted)))
    said: list[str] = []
    async with contextlib.AsyncExitStack() as stack:
        for counted in (1, 200):
            db = writer.store._appends._free[-1][0]
            stack.callback(db.add_query_logger, lambda record: said.append(record.query))
            with db.query_logger(lambda record: said.append(record.query)):
                await writer.append(*(writer.draft(number) for number in range(counted)))
        assert said == [APPEND_ONE, APPEND]
        stack.pop_all()


async def test_a_large_space_is_deleted_in_small_steps_and_nothing_else(
    url: str, store: PostgresStore, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls_room, "DELETED_AT_ONCE", 7)
    await writer.put(7)
    before = await every_row(url)
    space = await store.create_space(a_space(writer.account_id), 50, NOW)
    doomed = Writer(store, writer.account_id, space.space_id, writer.device_id)
    for collection_id in (NOTES, PHOTOS):
        await doomed.append(*(doomed.draft(1, collection_id=collection_id) for _ in range(20)))
    assert await store.compact(NOW + 1, 15) == 15
    assert await store._value("select delete_some($1, $2, 7)", *doomed.key()[:2]) == 7
    async with connected(url) as db:
        query = "select (select sum(length(sealed)) from change), (select sum(used_bytes) from space)"
        kept, used = await db.fetchrow(query)
        assert kept == used
        assert await store.delete_space(writer.account_id, space.space_id) is True
        assert sorted(map(repr, await every_row(url))) == sorted(map(repr, before))


# --- dumps ------------------------------------------------------------------------------------------


async def test_a_dump_is_of_one_moment_however_slowly_it_is_read(
    url: str, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writers go on meanwhile; nor does the server end a reader that pauses for longer than it lets others."""
    monkeypatch.setitem(pool_room.SETTINGS, "idle_in_transaction_session_timeout", "50")
    store = writer.store
    await writer.append(*(writer.draft(number) for number in range(200)))
    async with store.dump() as rows:
        before = [row async for row in rows]
    async with store.dump() as rows:
        read = [await anext(rows), await anext(rows)]
        others = [await new_writer(store) for _ in range(2)]
        await others[0].put()
        await writer.append(writer.draft(kind=Kind.WIPE))
        await store.delete_space(writer.account_id, writer.space_id)
        await store._value("select pg_sleep(0.2)")
        read += [row async for row in rows]
    assert read == before
    assert sum(table == "change" for table, _ in before) == 200


async def test_a_dump_takes_a_few_rows_at_a_time_from_the_server(writer: Writer) -> None:
    for number in range(3):
        await writer.append(*(writer.draft(number * 100 + each, size=100_000) for each in range(100)))
    gc.collect()
    async with writer.store.dump() as rows:
        tracemalloc.start()
        try:
            total = sum([len(values[-1]) async for table, values in rows if table == "change"])
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert total == 300 * 100_000
    assert peak < total / 2


async def test_a_dump_takes_none_of_the_stores_connections_and_lets_go_of_its_own(url: str) -> None:
    query = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    async with opened(url, connections=2) as store, connected(url) as watcher:
        await new_writer(store)
        there = await watcher.fetchval(query)
        with pytest.raises(OSError, match="disk full"):
            async with store.dump() as rows:
                await anext(rows)
                assert await store.count_accounts() == 1
                assert await watcher.fetchval(query) == there + 1
                raise OSError("disk full")
        await until(lambda: _is(watcher.fetchval(query), there))


async def _is(number: Awaitable[int], wanted: int) -> bool:
    return await number == wanted


async def test_a_dump_whose_line_breaks_is_unavailable(url: str, writer: Writer) -> None:
    await writer.append(*(writer.draft(number) for number in range(200)))
    async with writer.store.dump() as rows, connected(url) as db:
        await anext(rows)
        idle = "state = 'idle in transaction' and datname = current_database()"
        assert await db.fetchval(f"select pg_terminate_backend(pid) from pg_stat_activity where {idle}")
        with pytest.raises(StoreUnavailable):
            [row async for row in rows]


async def test_a_load_that_cannot_be_kept_whole_is_not_kept_at_all(url: str, store: PostgresStore) -> None:
    writer = await new_writer(store)
    await writer.append(*(writer.draft(number) for number in range(20)))
    async with store.dump([writer.account_id]) as dump:
        rows = [row async for row in dump]
    taken = await every_row(url)
    with pytest.raises(Refusal) as refused:
        await store.load(rows)
    assert refused.value.code == "bad_request"
    assert sorted(map(repr, await every_row(url))) == sorted(map(repr, taken))
    assert await store.delete_account(writer.account_id)
    bare = await every_row(url)
    table, values = rows[0]
    wide = [(table, (*values[:4], 2**40, *values[5:])), *rows[1:]]  # a day that no column takes
    for broken in ([*rows, rows[-1]], wide):
        with pytest.raises(Refusal, match="a row of"):
            await store.load(broken)
        assert sorted(map(repr, await every_row(url))) == sorted(map(repr, bare))
    await store.load(rows)
    await store.end_load([writer.account_id])
    writer.store = store
    assert await writer.seqs() == list(range(1, 21))
    async with connected(url) as db:
        assert await db.fetchval("select sum(length(sealed)) from change") == await writer.used_bytes()


# --- when the database fails ----------------------------------------------------------------------


async def test_a_lock_that_is_not_let_go_makes_the_append_unavailable_and_unwritten(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pool_room.SETTINGS, "lock_timeout", "50")
    async with opened(url) as store:
        writer = await new_writer(store)
        draft = writer.draft()
        async with holding(url, writer.account_id):
            with pytest.raises(StoreUnavailable, match="LockNotAvailable"):
                await writer.answer(draft)
        assert await writer.seqs() == []
        assert await writer.answer(draft) == Answer(1)


async def test_a_statement_that_takes_too_long_is_unavailable_and_its_connection_serves_on(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pool_room.SETTINGS, "statement_timeout", "50")
    async with opened(url, connections=2) as store:
        pid = await store._value("select pg_backend_pid()")
        with pytest.raises(StoreUnavailable, match="canceling statement due to statement timeout"):
            await store._value("select pg_sleep(20)")
        assert await store._value("select pg_backend_pid()") == pid


async def test_a_transaction_that_its_program_forgot_is_ended(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pool_room.SETTINGS, "idle_in_transaction_session_timeout", "50")
    async with opened(url) as store, connected(url) as watcher:

        async def forget(db: Any) -> None:
            await db.execute("begin; select 1")
            query = "select count(*) = 0 from pg_stat_activity where pid = $1"
            pid = db.get_server_pid()
            await until(lambda: watcher.fetchval(query, pid))
            await db.execute("commit")

        with pytest.raises(StoreUnavailable):
            await store._calls.run(forget)
        await store.ping()


async def test_a_transaction_that_was_left_open_is_not_handed_on(store: PostgresStore) -> None:
    await store._calls.run(lambda db: db.execute("begin; create temporary table half (n integer)"))
    assert await store._value("select to_regclass('half')") is None


async def test_deadlines_isolation_and_durability_are_set_on_every_connection(url: str) -> None:
    async with opened(url) as store:
        for pool in (store._appends, store._calls):
            shown = await pool.run(
                lambda db: db.fetchrow(
                    "select current_setting('statement_timeout'), current_setting('lock_timeout'),"
                    " current_setting('idle_in_transaction_session_timeout'), current_setting('transaction_isolation'),"
                    " current_setting('synchronous_commit')"
                )
            )
            assert tuple(shown) == ("15s", "5s", "15s", "read committed", "on")


async def test_a_server_that_does_not_sync_is_told_to_and_a_stricter_one_is_left_alone(
    pg_server: Postgres, empty_url: str
) -> None:
    name = urlsplit(empty_url).path[1:]
    for chosen, found in (("off", "on"), ("remote_apply", "remote_apply"), ("local", "local")):
        await execute(pg_server.url, f"alter database {name} set synchronous_commit = {chosen}")
        await execute(pg_server.url, f"alter database {name} set default_transaction_isolation = 'serializable'")
        async with opened(empty_url) as store:
            assert await store._value("select current_setting('synchronous_commit')") == found
            assert await store._value("select current_setting('transaction_isolation')") == "read committed"


@pytest.mark.parametrize(
    "url, sentence",
    [
        ("postgresql://postgres@127.0.0.1:1/hub", "database failed"),
        ("postgresql://postgres@no-such-host.invalid/hub", "database failed"),
        ("postgresql://postgres@127.0.0.1:notaport/hub", "database failed"),
    ],
)
async def test_a_database_that_is_not_there_is_unavailable(url: str, sentence: str) -> None:
    store = PostgresStore(url)
    with pytest.raises(StoreUnavailable, match=sentence):
        await store.open()
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.ping()


async def test_an_error_of_the_server_is_told_without_the_rows_it_quotes(url: str, store: PostgresStore) -> None:
    account_id, *_ = await new_account(store)
    query = "insert into account (account_id, address_tag, created_day) select account_id, '\\x01', 0 from account"
    with pytest.raises(StoreUnavailable) as failed:
        await store._execute(query)
    assert "UniqueViolation" in str(failed.value)
    assert account_id.hex() not in str(failed.value)
    assert failed.value.__cause__ is None and failed.value.__suppress_context__


async def test_too_many_waiting_calls_are_turned_away_at_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_room, "WAITING_MAX", 3)
    async with opened(url, connections=2) as store:
        calls = [asyncio.create_task(store._value("select pg_sleep(0.2)")) for _ in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable, match="too many calls are waiting"):
            await store.count_accounts()
        await asyncio.gather(*calls)
        assert await store.count_accounts() == 0


async def test_a_call_waits_only_so_long_for_a_connection(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_room, "ACQUIRE_S", 0.05)
    async with opened(url, connections=2) as store:
        slow = asyncio.create_task(store._value("select pg_sleep(0.4)"))
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable, match="no connection to the database became free"):
            await store.count_accounts()
        await slow
        assert await store.count_accounts() == 0


async def test_reads_never_starve_appends_and_connections_are_bounded(url: str) -> None:
    async with opened(url, connections=4) as store, connected(url) as watcher:
        writer = await new_writer(store)
        slow = [asyncio.create_task(store._value("select pg_sleep(1.5)")) for _ in range(20)]
        query = (
            "select count(*) from pg_stat_activity where datname = current_database() and query like '%pg_sleep(1.5)%'"
        )
        await until(lambda: _at_least(watcher.fetchval(query), 3))
        assert await writer.answer(writer.draft()) == Answer(1)
        assert not any(task.done() for task in slow[3:])
        query = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        assert await watcher.fetchval(query) == 4
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)


async def _at_least(number: Awaitable[int], least: int) -> bool:
    return await number >= least


async def test_a_call_whose_caller_has_gone_is_carried_to_its_end(url: str, writer: Writer) -> None:
    pid = await writer.store._appends.run(lambda db: db.fetchval("select pg_backend_pid()"))
    async with holding(url, writer.account_id):
        gone = asyncio.create_task(writer.append(writer.draft()))
        await somebody_waits(url)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
    await writer.put(2)
    assert await writer.seqs() == [1, 2]
    assert await writer.store._appends.run(lambda db: db.fetchval("select pg_backend_pid()")) == pid


async def test_connections_that_nobody_used_for_long_are_hung_up(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(url, connections=4) as store:
        await asyncio.gather(*(store._value("select pg_sleep(0.1)") for _ in range(3)))
        assert len(store._calls._free) == 3
        monkeypatch.setattr(pool_room, "IDLE_S", -1.0)
        await store.count_accounts()
        assert len(store._calls._free) == 1


async def test_closing_finishes_what_is_under_way(url: str, writer: Writer) -> None:
    store = PostgresStore(url)
    await store.open()
    writer.store = store
    async with holding(url, writer.account_id):
        append = asyncio.create_task(writer.append(writer.draft()))
        await somebody_waits(url)
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0)
        assert not closing.done()
    assert (await append).answers == [Answer(1)]
    await closing
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.ping()


@pytest.fixture
def own_server() -> Iterator[Postgres]:
    """A server of this test's own, which it may kill."""
    with postgres() as server:
        yield server


async def test_a_restart_of_the_database_is_survived_in_silence(
    own_server: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    url = await new_database(own_server)
    async with opened(url) as store:
        writer = await new_writer(store)
        for how in ("immediate", "fast"):
            draft = await writer.put()
            await asyncio.gather(*(store.count_accounts() for _ in range(9)))
            await asyncio.to_thread(own_server.stop, how)
            for call in (store.ping(), store.count_accounts(), writer.append(writer.draft(counter=99))):
                with pytest.raises(StoreUnavailable):
                    await call
            await asyncio.to_thread(own_server.start)
            # The first call to each pool may meet a connection that nobody has told yet.
            await until(lambda: _answers(store))
            assert (await writer.append(draft)).fresh == []
            await writer.put()
        assert await writer.seqs() == [1, 2, 3, 4]
    assert caplog.records == []


async def _answers(store: Store) -> bool:
    with contextlib.suppress(StoreUnavailable):
        await store.ping()
        return True
    return False


async def test_a_failover_is_survived_and_loses_nothing(own_server: Postgres) -> None:
    url = await new_database(own_server)
    with standby(own_server) as second:
        async with opened(url_of_any(urlsplit(url).path[1:], own_server, second)) as store:
            writer = await new_writer(store)
            drafts = [await writer.put(number) for number in range(5)]
            await asyncio.to_thread(own_server.kill)
            with pytest.raises(StoreUnavailable):
                await writer.answer(writer.draft(counter=6))
            await asyncio.to_thread(second.promote)
            await until(lambda: _answers(store))
            assert [change.sealed for change in (await writer.read()).changes] == [draft.sealed for draft in drafts]
            assert await writer.answer(writer.draft(7)) == Answer(6)


async def test_a_server_that_takes_no_writes_is_left_for_one_that_does(own_server: Postgres) -> None:
    url = await new_database(own_server)
    async with opened(url) as store:
        writer = await new_writer(store)
    with standby(own_server) as second:
        async with opened(second.url_of(urlsplit(url).path[1:])) as store:
            writer.store = store
            await asyncio.gather(*(store.count_accounts() for _ in range(5)))
            with pytest.raises(StoreUnavailable, match="ReadOnly"):
                await store.add_invite(b"token", NOW)
            assert store._calls._free == []
            await asyncio.to_thread(second.promote)
            await until(lambda: _answers(store))
            assert await writer.answer(writer.draft()) == Answer(1)


async def test_a_line_that_has_gone_dead_is_noticed_and_replaced(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_room, "COMMAND_S", 0.3)
    monkeypatch.setattr(pool_room, "CONNECT_S", 0.3)
    parts = urlsplit(url)
    async with FaultProxy(str(parts.hostname), int(parts.port or 0)) as line:
        through = url.replace(f":{parts.port}/", f":{line.port}/")
        async with opened(through) as store:
            writer = await new_writer(store)
            await asyncio.gather(*(store.count_accounts() for _ in range(5)))
            line.stall()
            began = time.monotonic()
            draft = writer.draft()
            for call in (writer.append(draft), store.count_accounts()):
                with pytest.raises(StoreUnavailable):
                    await call
            assert time.monotonic() - began < 3
            line.reset()
            line.resume()
            await until(lambda: _answers(store))
            assert await writer.answer(draft) == Answer(1)
            assert await writer.seqs() == [1]


# --- when the program dies ------------------------------------------------------------------------

WORKER = """
import asyncio, sys
from hub.store.postgres import PostgresStore
from tests.store_exam import Writer, NOW, draft_of

url, account_id, space_id, device_id = sys.argv[1:]

async def main():
    store = PostgresStore(url)
    await store.open()
    writer = Writer(store, *[bytes.fromhex(each) for each in (account_id, space_id, device_id)])
    todo = [draft_of(bytes.fromhex(each)) for each in sys.stdin.read().split()]
    for at in range(0, len(todo), 3):
        for draft, answer in zip(todo[at:at + 3], (await writer.append(*todo[at:at + 3])).answers):
            print(draft.header.counter, answer.seq, flush=True)

asyncio.run(main())
"""


async def test_what_was_answered_before_a_kill_is_there_once(url: str, writer: Writer) -> None:
    drafts = [writer.draft(number % 20) for number in range(300)]
    worker = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", WORKER, url, writer.account_id.hex(), writer.space_id.hex(), writer.device_id.hex()],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert worker.stdin and worker.stdout
    worker.stdin.write("\n".join(draft.sealed.hex() for draft in drafts))
    worker.stdin.close()
    acknowledged = [await asyncio.to_thread(worker.stdout.readline) for _ in range(40)]
    worker.send_signal(signal.SIGKILL)
    rest = worker.stdout.read()
    worker.stdout.close()
    assert worker.wait() == -signal.SIGKILL
    pairs = [tuple(map(int, line.split())) for line in "".join([*acknowledged, rest]).splitlines() if " " in line]
    assert 40 <= len(pairs) < 300 and all(counter == seq for counter, seq in pairs)
    there = [change.sealed for change in (await writer.read()).changes]
    assert there == [draft.sealed for draft in drafts[: len(there)]] and len(there) >= len(pairs)
    answers = (await writer.append(*drafts[:256])).answers + (await writer.append(*drafts[256:])).answers
    assert answers == [Answer(seq) for seq in range(1, 301)]
    assert [change.sealed for change in (await writer.read()).changes] == [draft.sealed for draft in drafts]


# --- roles ------------------------------------------------------------------------------------------


class Roles:
    """Two roles of one database: ``owner`` has the tables, ``hub`` uses them."""

    def __init__(self, server: Postgres, database: str) -> None:
        self.owner = f"owner_{secrets.token_hex(4)}"
        self.hub = f"hub {secrets.token_hex(4)}"  # a name that must be quoted
        self._server, self._database = server, database

    def url(self, role: str) -> str:
        at = f"{self._server.url_of(self._database).partition('@')[2]}"
        return f"postgresql://{role.replace(' ', '%20')}@{at}"


@pytest.fixture
async def roles(pg_server: Postgres) -> AsyncIterator[Roles]:
    url = await new_database(pg_server)
    roles = Roles(pg_server, urlsplit(url).path[1:])
    await execute(pg_server.url, f'create role "{roles.owner}" login', f'create role "{roles.hub}" login')
    await execute(pg_server.url, f'alter database {urlsplit(url).path[1:]} owner to "{roles.owner}"')
    await execute(url, "revoke all on schema public from public")
    await execute(url, f'grant all on schema public to "{roles.owner}"', "create table of_others (n integer)")
    yield roles
    await drop_database(pg_server, url)
    await execute(pg_server.url, f'drop role "{roles.owner}"', f'drop role "{roles.hub}"')


async def test_a_role_without_ddl_stops_at_an_empty_database_and_says_what_to_run(roles: Roles) -> None:
    store = PostgresStore(roles.url(roles.hub))
    with pytest.raises(SchemaTooOld, match="hub migrate"):
        await store.open()


async def test_a_role_that_was_granted_nothing_yet_is_granted_it_by_the_owner(roles: Roles) -> None:
    hub_url, owner_url = roles.url(roles.hub), roles.url(roles.owner)
    await migrate(owner_url)
    with pytest.raises(SchemaTooOld, match="hub migrate"):
        await PostgresStore(hub_url).open()
    async with opened(hub_url, migration_url=owner_url) as store:
        assert await store.count_accounts() == 0
    async with opened(hub_url) as store:
        assert await store.count_accounts() == 0


async def test_the_hubs_role_lives_a_whole_life_and_changes_no_table(roles: Roles) -> None:
    hub_url, owner_url = roles.url(roles.hub), roles.url(roles.owner)
    async with opened(hub_url, migration_url=owner_url) as store:
        await a_whole_life(store)
    async with connected(hub_url) as db:
        for ddl in (
            "create table mine (n integer)",
            "create function mine() returns integer language sql as 'select 1'",
            "alter table change add column mine integer",
            "alter table hub owner to current_user",
            "drop table change",
            "drop function compact",
            "truncate change",
            "create index on change (kind)",
            "alter role current_user superuser",
            "select * from of_others",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await db.execute(ddl)


async def a_whole_life(store: PostgresStore) -> None:
    """Every call of the promise, each doing something."""
    accounts = await store.count_accounts()
    await store.ping()
    await store.renew_incarnation()
    assert await store.claim("secrets", b"mine") == b"mine"
    assert await store.session_orders(1) < await store.session_orders(1)
    await store.remember("backup", b"today")
    assert await store.recall("backup") == b"today"
    assert await store.spend([a_charge(b"anna", (1, 60))], NOW) == 0
    assert await store.forget_spent(NOW + 99) == 1
    await store.add_invite(b"token", NOW + 9)
    account_id, device, made = await new_account(store)
    attempt = an_attempt(made.address_tag)
    await store.add_attempt(attempt)
    assert await store.charge_attempt(attempt.attempt_id, NOW, 5)
    assert await store.rewrap_addresses(lambda tag: tag[::-1], 1) == accounts + 1
    assert await store.forget_attempts(NOW + 99) == accounts + 3
    space = await store.create_space(a_space(account_id), 50, NOW)
    writer = Writer(store, account_id, space.space_id, device.device_id)
    other = await another(writer)
    for _ in range(3):
        await writer.put()
    assert await store.put_witness(writer.key(), writer.device_id, 1, b"w")
    assert await store.witnesses(writer.key()) == [(writer.device_id, b"w")]
    assert await store.arrivals([device.device_id, new_id()]) != [None, None]
    assert await store.heads([writer.key()]) == [3]
    assert await store.states_of([StatesOf(account_id, space.space_id, device.device_id, [writer.key().collection_id])])
    for live_only in (False, True):
        assert await store.read_each([PageOf(writer.key(), 0, live_only)], changes_max=9, bytes_max=9_999)
    assert await store.witnesses_of([writer.key()]) == [[(writer.device_id, b"w")]]
    assert await store.compact(NOW + 1, 100) >= 2
    await writer.delete()
    await writer.purge(4)
    assert len((await store.history(writer.key(), rid(1), before=0, limit=9))[0]) == 1
    await other.wipe()
    await store.note_seen([device.device_id], DAY + 1)
    await an_operators_day(store, writer)
    assert await store.revoke(account_id, [other.device_id], NOW) == [other.device_id]
    assert await store.schedule_space_deletion(account_id, space.space_id, NOW)
    assert await store.due_deletions(NOW) == ([], [(account_id, space.space_id)])
    assert await store.delete_space(account_id, space.space_id)
    assert await store.delete_account(account_id)
    assert await store.count_accounts() == accounts


async def an_operators_day(store: PostgresStore, writer: Writer) -> None:
    """Every call that is for the operator."""
    account_id, device_id = writer.account_id, writer.device_id
    assert await store.set_terms(account_id, Terms(1_000_000, "family", new_id().hex(), NOW + 9))
    assert await store.suspend(account_id, NOW)
    assert await store.stopped_among([device_id]) == {device_id: "suspended"}
    assert await store.suspend(account_id, None)
    assert await store.make_operator(account_id, new_id(), NOW)
    assert await store.take_step(account_id, 1)
    assert await store.drop_operator(account_id)
    await store.note([Happening(account_id, NOW, "exported", "device", device_id)])
    assert len(await store.audit(account_id, before=0, limit=9)) == 1
    assert (account_id, 1) in await store.audit_counts("exported", NOW, 99)
    assert await store.note_growth(DAY)
    assert len(await store.space_facts(account_id)) == 1
    await store.list_address(b"tag", "blocked", DAY)
    assert await store.listed(b"tag") == "blocked" and (await store.count_listed())["blocked"] == 1
    await store.list_address(b"tag", None, DAY)
    await store.add_invite(b"another token", NOW + 9)
    assert len(await store.invites()) == 1
    assert await store.withdraw_invite(b"another token")
    assert account_id in [facts.account.account_id for facts in await store.accounts(limit=99)]
    assert (await store.totals()).devices >= 2
    await store.near_quota(0.9, 1_000, NOW, 9)
    await store.silent_devices(DAY + 99, 9)
    change = an_attempt()
    await store.add_attempt(change)
    await store.change_address(change.attempt_id, account_id, NOW)
    assert await store.forget_attempts(NOW + 99) == 1
    async with store.dump([account_id]) as rows:
        dumped = [row async for row in rows]
    assert await store.begin_move(account_id, THERE)
    assert await store.end_move(account_id, NOW)
    assert await store.moved_device(device_id) is not None
    await store.load(dumped)
    await store.end_load([account_id])
    assert await store.forget_moved(NOW + 1) == 0, "it came back"
    async with store.dump([account_id]) as rows:
        assert [row async for row in rows] == dumped
    assert await store.forget_audit(NOW + 1) == 1
    assert await store.forget_growth(DAY + 1) >= 1


async def test_the_functions_find_their_tables_whatever_the_caller_looks_through(url: str, writer: Writer) -> None:
    await writer.put()
    async with connected(url) as db:
        await db.execute("create temporary table space (like space); set search_path = pg_temp, pg_catalog")
        assert await db.fetchval("select public.lock_spaces(array[$1::bytea])", writer.account_id) == [True]
        functions = await db.fetch(
            "select proname, proconfig, prosecdef from pg_proc where pronamespace = 'public'::regnamespace"
            " and prolang = (select oid from pg_language where lanname = 'plpgsql')"
        )
        assert len(functions) >= 9
        for name, config, definer in functions:
            assert "search_path=public, pg_temp" in config, name
            assert not definer


# --- versions ---------------------------------------------------------------------------------------

NEXT = (
    *MIGRATIONS,
    Migration(
        pre=("alter table invite add column note text", "create index invite_by_age on invite (expires_at)"),
        post=("drop index spent_by_age",),
    ),
)
BROKEN = (
    *MIGRATIONS,
    Migration(pre=("alter table invite add column note text", "alter table nothing add column n integer")),
)


async def columns_of(url: str, table: str) -> set[str]:
    async with connected(url) as db:
        query = (
            "select attname from pg_attribute where attrelid = $1::text::regclass and attnum > 0 and not attisdropped"
        )
        return {name for (name,) in await db.fetch(query, table)}


async def has(url: str, relation: str) -> bool:
    async with connected(url) as db:
        return await db.fetchval("select to_regclass($1) is not null", relation)


# What the hubs of older versions said to the database.
_OF_2 = ", ".join(f"${number}" for number in range(1, 28))
APPEND_OF = {1: f"select * from append_batch({_OF_2})", 2: f"select * from append_all({_OF_2})"}
OLD_SCHEMAS = Path(__file__).parent / "schemas"
LOOKS = (
    # columns, with their types, defaults and storage, in their order
    "select c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attstorage::text,"
    " pg_get_expr(d.adbin, d.adrelid) from pg_attribute as a join pg_class as c on c.oid = a.attrelid"
    " left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum"
    " where c.relnamespace = 'public'::regnamespace and a.attnum > 0 and not a.attisdropped and not relispartition",
    # tables, indexes and sequences; what grows is in partitions in an older database, and keeps what it was made with
    "select relname, replace(lower(relkind::text), 'p', 'r'), case when relname <> all(array['space', 'collection',"
    " 'counter']) then reloptions::text end from pg_class"
    " where relnamespace = 'public'::regnamespace and not relispartition",
    "select replace(pg_get_indexdef(oid), ' ON ONLY ', ' ON ') from pg_class where relkind in ('i', 'I')"
    " and not relispartition and relnamespace = 'public'::regnamespace",
    "select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint"
    " where connamespace = 'public'::regnamespace and contype <> 'n' and conparentid = 0",
    "select proname, pg_get_function_arguments(oid), pg_get_function_result(oid) from pg_proc"
    " where pronamespace = 'public'::regnamespace",
    # and what the functions do
    "select pg_get_functiondef(oid) from pg_proc where pronamespace = 'public'::regnamespace",
)


async def looks(url: str) -> list[list[str]]:
    """Everything that a schema is."""
    async with connected(url) as db:
        return [sorted(repr(tuple(row)) for row in await db.fetch(query)) for query in LOOKS]


async def make_version(version: int, url: str) -> None:
    """A database as the hub of an older schema version made it."""
    text = (OLD_SCHEMAS / f"postgres_{version}.sql").read_text("utf-8")
    await execute(url, "set search_path = public, pg_temp; " + text)
    values = "('schema_version', $1), ('schema_compatible', $1), ('incarnation', $2), ('tag_generation', '0')"
    async with connected(url) as db:
        await db.execute(f"insert into hub (key, value) values {values}", b"%d" % version, new_id())


def arguments_of_2(requests: Sequence[Append]) -> list[Any]:
    """What hubs of versions 1 and 2 said of requests that are each of another account, and into its notes."""
    places = list(range(1, len(requests) + 1))
    lasts = list(itertools.accumulate(len(each.drafts) for each in requests))
    drafts = [(place, draft) for place, each in zip(places, requests, strict=True) for draft in each.drafts]
    headers = [draft.header for _, draft in drafts]
    return [
        [each.account_id for each in requests],
        *([each.device_id for each in requests], places),
        *([each.space_id for each in requests], places),
        *([NOTES for _ in requests], places),
        *(places, places, places, places),
        *([last - len(each.drafts) + 1 for last, each in zip(lasts, requests, strict=True)], lasts),
        [each.atomic for each in requests],
        [place for place, _ in drafts],
        [header.kind for header in headers],
        [header.conditional for header in headers],
        [header.record_id for header in headers],
        [header.change_id for header in headers],
        [header.counter for header in headers],
        [header.base for header in headers],
        [min(header.upto, COUNTER_MAX) for header in headers],
        [draft.sealed for _, draft in drafts],
        *(NOW, int(NOW * 1000), 1_000, NO_BOUND),
    ]


@pytest.mark.parametrize("version", [1, 2, 3])
async def test_a_migrated_database_is_the_same_as_a_new_one(pg_server: Postgres, empty_url: str, version: int) -> None:
    await make_version(version, empty_url)
    assert await migrate(empty_url, post=True) == (
        f"the database was brought from schema version {version} to {KNOWN};"
        f" what hubs older than schema version {KNOWN} needed was removed"
    )
    new_url = await new_database(pg_server)
    await migrate(new_url)
    try:
        for migrated, new in zip(await looks(empty_url), await looks(new_url), strict=True):
            assert migrated == new
    finally:
        await drop_database(pg_server, new_url)


@pytest.mark.parametrize("version", [1, 2, 3])
async def test_the_half_before_only_adds(empty_url: str, version: int) -> None:
    await make_version(version, empty_url)
    before = await looks(empty_url)
    await migrate(empty_url)
    after = await looks(empty_url)
    for looked, found in zip(before[:-1], after[:-1], strict=True):
        assert set(looked) <= set(found)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("post", [False, True])
async def test_a_migrated_database_lives_a_whole_life(empty_url: str, version: int, post: bool) -> None:
    """What grows is in partitions there."""
    await make_version(version, empty_url)
    await migrate(empty_url, post=post)
    async with opened(empty_url) as store:
        await a_whole_life(store)
        writers = [await new_writer(store) for _ in range(9)]
        for number in range(3):
            base = writers[0].draft(2, base=bytes(16)) if number == 0 else writers[0].draft(2)
            requests = [writers[0].request(base), *(each.request(each.draft(1)) for each in writers[1:])]
            assert [each.answers for each in await store.append(requests, NOW)] == [[Answer(number + 1)]] * 9
        for each in writers:
            assert await each.seqs(live_only=True) == [3] and await each.seqs() == [1, 2, 3]


@pytest.mark.parametrize("version", [1, 2])
async def test_an_older_hub_goes_on_beside_a_newer_one(empty_url: str, version: int) -> None:
    await make_version(version, empty_url)
    async with opened(empty_url) as store, as_the_hub(empty_url) as old:
        writers = [await new_writer(store) for _ in range(4)]
        plain, suspended, moving, gone = writers
        await store.suspend(suspended.account_id, NOW)
        if version == 1:
            with pytest.raises(Refusal, match="older hub"):
                await store.begin_move(moving.account_id, THERE)
        await old.execute("update account set moving_to = $2 where account_id = $1", moving.account_id, THERE)
        await store.revoke(gone.account_id, [gone.device_id], NOW)
        requests = [writer.request(writer.draft(), writer.draft(2, kind=Kind.DELETE)) for writer in writers]
        row = await old.fetchrow(APPEND_OF[version], *arguments_of_2(requests))
        if version == 1:
            assert row["alive"] == [True, True, True, False]
            assert row["codes"] == [None, None, *["quota_exceeded"] * 4, None, None]
        else:
            assert row["closings"] == [None, "suspended", "moving", "revoked"]
            assert row["codes"] == [None] * 8
        assert row["seqs"] == [1, 2, *[0] * 6] and row["used_before"] == [0] * 4
        assert row["mores"] == [*(len(draft.sealed) for draft in requests[0].drafts), *[None] * 6]
        assert await plain.seqs() == [1, 2]
        assert await suspended.seqs() == await moving.seqs() == await gone.seqs() == []
        assert await plain.answer(plain.draft()) == Answer(3)
        stale = [plain.request(plain.draft(base=new_id()))]
        row = await old.fetchrow(APPEND_OF[version], *arguments_of_2(stale))
        assert row["codes"] == ["conflict"] and row["newest_seqs"] == [3]
        await old_hub_deletes(old, store, plain)
        await migrate(empty_url, post=True)
        with pytest.raises(asyncpg.UndefinedFunctionError):
            await old.fetchrow(APPEND_OF[version], *arguments_of_2(stale))
        assert await store.begin_move(suspended.account_id, THERE)


async def test_a_hub_of_version_3_says_everything_as_many_and_goes_on_beside_a_newer_one(empty_url: str) -> None:
    await make_version(3, empty_url)
    async with opened(empty_url) as store, as_the_hub(empty_url) as old:
        writer = await new_writer(store)
        other = await another(writer)

        async def of_3(draft: Draft) -> int:
            row = await old.fetchrow(APPEND, *Batch([other.request(draft)]).arguments(NOW, 1_000, NO_BOUND))
            return int(row["heads"][0]) + 1

        for post in (False, True):
            if post:
                await migrate(empty_url, post=True)
            at_once = [writer.answer(writer.draft(number)) for number in range(10)]
            answers = asyncio.gather(*at_once)
            seqs = [await of_3(other.draft(number)) for number in range(10)]
            seqs += [answer.seq for answer in await answers]
            assert sorted(seqs) == list(range(1 + 20 * post, 21 + 20 * post))
        assert await writer.seqs() == list(range(1, 41))


async def old_hub_deletes(old: Any, store: PostgresStore, writer: Writer) -> None:
    """What it says to delete an account, which now has rows that it knows nothing of."""
    account_id = writer.account_id
    await store.make_operator(account_id, new_id(), NOW)
    await store.note([Happening(account_id, NOW, "exported", "device")])
    assert await store.note_growth(DAY)
    async with old.transaction():
        await old.fetchval("select lock_spaces(array[$1::bytea])", account_id)
        await old.fetchval("select delete_space($1, $2)", account_id, writer.space_id)
        await old.execute("delete from device where account_id = $1", account_id)
        await old.execute("delete from account where account_id = $1", account_id)
    for table in ("operator", "audit", "growth"):
        assert await old.fetchval(f"select count(*) from {table} where account_id = $1", account_id) == 0


async def test_two_versions_run_together_between_pre_and_post(empty_url: str) -> None:
    async with opened(empty_url) as old:
        writer = await new_writer(old)
        await writer.delta()
        async with opened(empty_url, migrations=NEXT) as new:
            assert "note" in await columns_of(empty_url, "invite") and await has(empty_url, "spent_by_age")
            for store in (old, new, old, new):
                writer.store = store
                await writer.delta()
            await a_whole_life(old)
            async with opened(empty_url) as another_old:
                await another_old.ping()
            there = f"the database is at schema version {KNOWN + 1}; nothing to do"
            assert await migrate(empty_url, migrations=NEXT) == there
            said = await migrate(empty_url, post=True, migrations=NEXT)
            assert said == f"what hubs older than schema version {KNOWN + 1} needed was removed"
            assert not await has(empty_url, "spent_by_age")
            assert await migrate(empty_url, post=True, migrations=NEXT) == there
            assert await writer.seqs() == [1, 2, 3, 4, 5]
    with pytest.raises(SchemaTooNew, match="Start the newer hub"):
        await PostgresStore(empty_url).open()
    with pytest.raises(SchemaTooNew):
        await migrate(empty_url)


async def test_four_new_replicas_at_once_migrate_once(empty_url: str) -> None:
    assert await migrate(empty_url) == f"the database was made, at schema version {KNOWN}"
    stores = [PostgresStore(empty_url, migrations=NEXT) for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    await asyncio.gather(*(store.close() for store in stores))
    assert "note" in await columns_of(empty_url, "invite")


async def test_a_new_database_is_what_all_migrations_lead_to(empty_url: str) -> None:
    assert await migrate(empty_url, migrations=NEXT) == f"the database was made, at schema version {KNOWN + 1}"
    assert "note" in await columns_of(empty_url, "invite") and not await has(empty_url, "spent_by_age")
    with pytest.raises(SchemaTooNew):
        await PostgresStore(empty_url).open()


async def test_a_migration_that_fails_changes_nothing(empty_url: str) -> None:
    async with opened(empty_url) as store:
        incarnation = await store.incarnation()
    with pytest.raises(StoreUnavailable, match="UndefinedTable"):
        await PostgresStore(empty_url, migrations=BROKEN).open()
    assert "note" not in await columns_of(empty_url, "invite")
    async with opened(empty_url) as store:
        assert await store.incarnation() == incarnation


async def test_a_migration_gives_up_rather_than_hold_up_everybody(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hub.store.postgres import migrations

    monkeypatch.setitem(migrations.DDL_SETTINGS, "lock_timeout", "100")
    await migrate(empty_url)
    async with connected(empty_url) as reader:
        async with reader.transaction():
            await reader.fetch("select * from invite")
            with pytest.raises(StoreUnavailable, match="LockNotAvailable"):
                await migrate(empty_url, migrations=NEXT)
        assert f"version {KNOWN} to {KNOWN + 1}" in await migrate(empty_url, migrations=NEXT)


async def test_a_hub_whose_role_may_not_migrate_says_what_to_run(roles: Roles) -> None:
    hub_url, owner_url = roles.url(roles.hub), roles.url(roles.owner)
    await migrate(owner_url, serving_url=hub_url)
    async with opened(hub_url) as store:
        await a_whole_life(store)
    with pytest.raises(SchemaTooOld, match="hub migrate"):
        await PostgresStore(hub_url, migrations=NEXT).open()
    later = Migration(pre=("create table later (n integer primary key)", "create sequence later_number"))
    with_table = (*MIGRATIONS, later)
    assert f"{KNOWN} to {KNOWN + 1}" in await migrate(owner_url, serving_url=hub_url, migrations=with_table)
    async with opened(hub_url, migrations=with_table) as store:
        await store._execute("insert into later select nextval('later_number')")
