"""The SQLite keeper sits the exam of all stores, and answers for what only a file can do wrong."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from hub.errors import StoreUnavailable
from hub.store import Answer, Happening, Row, SchemaTooNew, SchemaTooOld, Store
from hub.store import sqlite as sqlite_room
from hub.store.sqlite import SqliteStore
from hub.store.sqlite import batch as batch_room
from hub.store.sqlite import file as file_room
from hub.store.sqlite import queries as queries_room
from hub.store.sqlite import threads as threads_room
from hub.store.sqlite.file import MIGRATIONS
from hub.terms import Kind, Limits
from tests.store_exam import (
    DAY,
    NO_BOUND,
    NOTES,
    NOW,
    StoreExam,
    Writer,
    a_charge,
    a_full_account,
    an_attempt,
    another,
    draft_of,
    dumped,
    new_account,
    new_id,
    new_writer,
    rid,
)

ROOT = Path(__file__).parent.parent


def every_row(path: Path) -> Iterator[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        for (table,) in db.execute("select name from sqlite_master where type = 'table'").fetchall():
            for row in db.execute(f"select * from {table}"):
                yield (table, *row)


class TestSqliteStore(StoreExam):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.paths: dict[int, Path] = {}

    async def make(self, *, limits: Limits | None = None, quota_bytes: int = NO_BOUND) -> Store:
        path = self.folder / f"{len(self.paths)}.db"
        store = SqliteStore(path, limits=limits, quota_bytes=quota_bytes)
        await store.open()
        self.paths[id(store)] = path
        return store

    async def restart(self, store: Store) -> Store:
        await store.close()
        again = SqliteStore(self.paths[id(store)], quota_bytes=NO_BOUND)
        await again.open()
        self.paths[id(again)] = self.paths[id(store)]
        return again

    async def rows(self, store: Store) -> list[tuple[object, ...]]:
        return list(every_row(self.paths[id(store)]))


def contents(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def fill(path: Path, content: bytes) -> None:
    path.write_bytes(content)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hub.db"


@contextlib.asynccontextmanager
async def opened(path: Path, **options: Any) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, **options)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    async with opened(path) as store:
        yield store


# --- durable ------------------------------------------------------------------------------------


async def pragma(store: SqliteStore, name: str) -> object:
    return await store._writer.run(lambda db: db.execute(f"pragma {name}").fetchone()[0])


async def test_the_writer_syncs_every_commit_and_overwrites_what_it_removes(store: SqliteStore) -> None:
    assert await pragma(store, "synchronous") == 2  # FULL
    assert await pragma(store, "journal_mode") == "wal"
    assert await pragma(store, "secure_delete") == 1
    assert await pragma(store, "foreign_keys") == 1


WORKER = """
import asyncio, os, signal, sys
from hub.store.sqlite import SqliteStore, batch, queries
from tests.store_exam import Writer, draft_of

run_for_all = queries.run_for_all
path, account_id, space_id, device_id, how, *drafts = sys.argv[1:]

def deadly(db, statement, *rows):
    if statement is batch.MOVE_HEADS:  # the changes are written, the heads are not
        os.kill(os.getpid(), signal.SIGKILL)
    return run_for_all(db, statement, *rows)

async def main():
    store = SqliteStore(path)
    await store.open()
    ids = [bytes.fromhex(each) for each in (account_id, space_id, device_id)]
    writer = Writer(store, *ids)
    todo = [draft_of(bytes.fromhex(each)) for each in sys.stdin.read().split()]
    if how == "kill in the middle":
        queries.run_for_all = deadly
        await writer.append(*todo)
    if how == "kill after the commit":
        asyncio.get_running_loop().call_soon_threadsafe = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
        await writer.append(*todo)
    for at in range(0, len(todo), 3):
        for draft, answer in zip(todo[at:at + 3], (await writer.append(*todo[at:at + 3])).answers):
            print(draft.header.counter, answer.seq, flush=True)

asyncio.run(main())
"""


def start(path: Path, writer: Writer, how: str, drafts: list[Any]) -> subprocess.Popen[str]:
    ids = [each.hex() for each in (writer.account_id, writer.space_id, writer.device_id)]
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(path), *ids, how],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(" ".join(draft.sealed.hex() for draft in drafts))
    process.stdin.close()
    return process


async def test_what_was_acknowledged_is_there_once_after_a_crash_at_any_moment(path: Path) -> None:
    choose = random.Random()
    async with opened(path) as store:
        writer = await new_writer(store)
    for _ in range(10):
        drafts = [writer.draft(record, kind=Kind.DELTA) for record in range(60)]
        process = start(path, writer, "kill from outside", drafts)
        assert process.stdout is not None
        with process, process.stdout as lines:
            acknowledged = [lines.readline().split() for _ in range(choose.randrange(1, 60))]
            process.kill()
            acknowledged += [line.split() for line in lines if line.endswith("\n")]
        by_counter = {draft.header.counter: draft.sealed for draft in drafts}
        async with opened(path) as store:
            writer.store = store
            kept = (await writer.read()).changes
            assert [change.seq for change in kept] == list(range(1, len(kept) + 1))
            for counter, seq in acknowledged:
                assert kept[int(seq) - 1].sealed == by_counter[int(counter)]
            answers = (await writer.append(*drafts)).answers
            assert [answer.seq for answer in answers[: len(acknowledged)]] == [int(seq) for _, seq in acknowledged]
            assert (await writer.append(*drafts)).answers == answers
            kept = (await writer.read()).changes
            assert len({change.sealed for change in kept}) == len(kept) == writer.counters[NOTES]


@pytest.mark.parametrize("how, kept", [("kill in the middle", 0), ("kill after the commit", 6)])
async def test_a_crash_leaves_a_batch_whole_or_not_at_all(path: Path, how: str, kept: int) -> None:
    async with opened(path) as store:
        writer = await new_writer(store)
    drafts = [writer.draft(record) for record in range(6)]
    process = start(path, writer, how, drafts)
    with process:
        assert process.wait() == -signal.SIGKILL
    async with opened(path) as store:
        writer.store = store
        assert await writer.seqs() == list(range(1, kept + 1))
        assert [answer.seq for answer in (await writer.append(*drafts)).answers] == [1, 2, 3, 4, 5, 6]
        assert await writer.seqs() == [1, 2, 3, 4, 5, 6]


# --- deleted ------------------------------------------------------------------------------------


def pieces_left(folder: Path, bodies: list[bytes]) -> int:
    """How many of the bodies have one of seven pieces, of 12 bytes each, left in any file."""
    files = b"\0".join(path.read_bytes() for path in sorted(folder.iterdir()))
    return sum(any(body[at : at + 12] in files for at in range(0, len(body) - 12, len(body) // 7)) for body in bodies)


@pytest.mark.parametrize("deed", ["wipe", "delete_space", "delete_account"])
@pytest.mark.parametrize("size", [200, 2_000])  # within a page, and over several
async def test_deleted_bytes_are_in_no_file(path: Path, store: SqliteStore, deed: str, size: int) -> None:
    """Also of changes that had been replaced, compacted and purged before."""
    writer, bystander = await new_writer(store), await new_writer(store)
    choose = random.Random(3)
    bodies = []
    for number in range(120):
        draft = await writer.put(choose.randrange(40), size=size, now=NOW + number)
        await bystander.put(choose.randrange(40), size=choose.randrange(160, 2 * size), now=NOW + number)
        bodies.append(draft.sealed[112:])
        if number % 50 == 49:
            await store.compact(NOW + number - 40, 1_000)
    assert pieces_left(path.parent, bodies) >= 40
    if deed == "wipe":
        await writer.wipe()
    elif deed == "delete_space":
        await store.delete_space(writer.account_id, writer.space_id)
    else:
        await store.delete_account(writer.account_id)
    assert pieces_left(path.parent, bodies) == 0
    assert pieces_left(path.parent, [change.sealed for change in (await bystander.read()).changes]) > 40


# --- the file -----------------------------------------------------------------------------------


async def test_a_second_program_is_told_that_the_file_is_in_use(store: SqliteStore, path: Path) -> None:
    program = (
        "import asyncio, sys; from hub.store.sqlite import SqliteStore\n"
        "try: asyncio.run(SqliteStore(sys.argv[1]).open())\n"
        "except Exception as exc: print(type(exc).__name__, exc)"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(path), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert said.decode() == f"StoreUnavailable {path} is in use by another running hub\n"
    second = SqliteStore(path)
    with pytest.raises(StoreUnavailable, match="in use"):
        await second.open()
    await store.ping()


async def test_the_file_is_free_again_after_close(path: Path) -> None:
    for _ in range(3):
        async with opened(path) as store:
            await store.ping()
    assert not path.with_name("hub.db-wal").exists()


async def test_a_store_that_did_not_open_can_be_opened_later(path: Path) -> None:
    async with opened(path):
        second = SqliteStore(path)
        with pytest.raises(StoreUnavailable):
            await second.open()
    await second.open()
    await second.ping()
    await second.close()
    await second.close()


async def test_only_the_owner_can_read_the_files(store: SqliteStore, path: Path) -> None:
    writer = await new_writer(store)
    await writer.put()
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir() if each.stat().st_size}
    assert modes == dict.fromkeys(("hub.db", "hub.db-wal", "hub.db-shm"), 0o600)


async def test_a_crash_while_the_database_is_made_leaves_nothing_half_made(path: Path) -> None:
    path.with_name("hub.db.new").write_bytes(b"half a database")
    path.with_name("hub.db.new-journal").write_bytes(b"half a journal")
    async with opened(path) as store:
        await store.ping()
    assert {each.name for each in path.parent.iterdir()} == {"hub.db", "hub.db.lock"}


async def test_a_schema_that_fails_makes_no_database(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = path.with_name("broken.sql")
    broken.write_text(file_room.SCHEMA.read_text("utf-8") + "create table hub (key);\n")
    monkeypatch.setattr(file_room, "SCHEMA", broken)
    with pytest.raises(StoreUnavailable, match="already exists"):
        await SqliteStore(path).open()
    assert not contents(path)


async def test_a_file_that_is_no_database_is_left_alone(path: Path) -> None:
    letter = b"a letter to grandmother, not a database" * 100
    fill(path, letter)
    with pytest.raises(StoreUnavailable, match="not a database"):
        await SqliteStore(path).open()
    assert contents(path) == letter


async def test_a_folder_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        await SqliteStore(tmp_path / "nowhere" / "hub.db").open()


# --- versions -----------------------------------------------------------------------------------

NOW_KNOWN = 1 + len(MIGRATIONS)
NEXT = (*MIGRATIONS, ("alter table space add column colour text", "create table stamp (number integer)"))


async def test_a_database_of_a_newer_program_stops_the_start_with_a_sentence(path: Path) -> None:
    async with opened(path, migrations=NEXT):
        pass
    before = contents(path)
    said = rf"written by a newer hub \(schema version {NOW_KNOWN + 1}; this one knows {NOW_KNOWN}\)"
    with pytest.raises(SchemaTooNew, match=said):
        await SqliteStore(path).open()
    assert contents(path) == before
    async with opened(path, migrations=NEXT) as store:
        await store.ping()


async def test_an_older_database_is_copied_and_then_migrated(path: Path) -> None:
    async with opened(path) as store:
        writer = await new_writer(store)
        draft = await writer.put()
        incarnation = await store.incarnation()
    async with opened(path, migrations=NEXT) as store:
        writer.store = store
        assert (await writer.read()).changes[0].sealed == draft.sealed
        assert await store.incarnation() == incarnation
        assert await store._writer.run(lambda db: db.execute("select count(*) from stamp").fetchone()) == (0,)
    copy = path.with_name(f"hub.db.v{NOW_KNOWN}")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    async with opened(copy) as store:
        writer.store = store
        assert (await writer.read()).changes[0].sealed == draft.sealed


async def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    async with opened(path) as store:
        writer = await new_writer(store)
    rows = sorted(map(repr, every_row(path)))
    with pytest.raises(StoreUnavailable, match="no such table"):
        await SqliteStore(path, migrations=(*NEXT, ("delete from nowhere",))).open()
    assert sorted(map(repr, every_row(path))) == rows
    assert path.with_name(f"hub.db.v{NOW_KNOWN}").exists()
    async with opened(path) as store:
        writer.store = store
        await writer.put()


async def test_migrations_run_once_and_in_order(path: Path) -> None:
    steps = (*NEXT, ("insert into stamp values (3)",), ("update stamp set number = number * 7",))
    for known in (NEXT, steps, steps):
        async with opened(path, migrations=known) as store:
            await store.ping()
    assert [row for row in every_row(path) if row[0] == "stamp"] == [("stamp", 21)]
    assert all(path.with_name(f"hub.db.v{version}").exists() for version in (NOW_KNOWN, NOW_KNOWN + 1))


async def test_a_copy_that_a_crash_cut_short_is_made_again(path: Path) -> None:
    async with opened(path):
        pass
    path.with_name("hub.db.copy").write_bytes(b"half a copy")
    async with opened(path, migrations=NEXT):
        pass
    copied = list(every_row(path.with_name(f"hub.db.v{NOW_KNOWN}")))
    assert ("hub", "schema_version", b"%d" % NOW_KNOWN) in copied


# The schema as version 1 had it.
SCHEMA_1 = """
create table hub (
    key text primary key,
    value blob not null
) without rowid;
create table account (
    account_id blob primary key,
    address_tag blob not null unique,
    quota_bytes integer,
    used_bytes integer not null default 0,
    created_day integer not null,
    deleted_at real
) without rowid;
create index account_due on account (deleted_at) where deleted_at is not null;
create table device (
    account_id blob not null references account,
    device_id blob not null,
    device_pk blob not null,
    scope text not null,
    app_id text not null,
    enrolled_via text not null,
    enrolled_at real not null,
    last_seen_day integer not null,
    probation_until real,
    revoked_at real,
    primary key (account_id, device_id)
) without rowid;
create unique index device_by_id on device (device_id);
create unique index device_by_key on device (device_pk);
create table attempt (
    attempt_id blob primary key,
    address_tag blob not null,
    device_pk blob not null,
    purpose text not null,
    app_id text not null,
    created_at real not null,
    expires_at real not null,
    invite blob,
    welcome integer not null,
    tries integer not null,
    sends integer not null,
    sent_at real not null,
    consumed_at real
) without rowid;
create index attempt_by_address on attempt (address_tag, created_at);
create index attempt_by_age on attempt (created_at);
create table invite (
    token_hash blob primary key,
    expires_at real not null,
    used_at real
) without rowid;
create table space (
    account_id blob not null references account,
    space_id blob not null,
    app_id text not null,
    key_epoch integer not null,
    space_pk blob not null,
    created_at real not null,
    used_bytes integer not null default 0,
    deleted_at real,
    primary key (account_id, space_id)
) without rowid;
create index space_due on space (deleted_at) where deleted_at is not null;
create table collection (
    account_id blob not null,
    number integer primary key,
    space_id blob not null,
    collection_id blob not null,
    head integer not null,
    foreign key (account_id, space_id) references space
);
create unique index collection_by_name on collection (account_id, space_id, collection_id);
create table change (
    account_id blob not null,
    collection integer not null references collection (number),
    seq integer not null,
    kind integer not null,
    record_id blob not null,
    change_id blob not null,
    device_id blob not null,
    counter integer not null,
    appended_at_ms integer not null,
    replaced_at real,
    sealed blob not null,
    primary key (collection, seq)
) without rowid;
create unique index change_once on change (collection, device_id, counter);
create index change_live on change (collection, seq) where replaced_at is null;
create index change_live_of_record on change (collection, record_id, seq) where replaced_at is null;
create index change_replaced_of_record on change (collection, record_id, seq) where replaced_at is not null;
create index change_replaced on change (replaced_at) where replaced_at is not null;
create index change_tombstone on change (collection, seq) where kind = 2 and replaced_at is null;
create table counter (
    account_id blob not null,
    collection integer not null references collection (number),
    device_id blob not null,
    last integer not null,
    primary key (collection, device_id)
) without rowid;
create table receipt (
    account_id blob not null,
    collection integer not null references collection (number),
    device_id blob not null,
    counter integer not null,
    seq integer not null,
    hash16 blob not null,
    primary key (collection, device_id, counter)
) without rowid;
create table witness (
    account_id blob not null,
    collection integer not null references collection (number),
    device_id blob not null,
    counter integer not null,
    sealed blob not null,
    primary key (collection, device_id)
) without rowid;
"""


def as_version_1(path: Path, to: Path) -> None:
    """What a program that knew version 1 would have written for what is in ``path``."""
    with contextlib.closing(sqlite3.connect(to)) as db:
        db.executescript(SCHEMA_1)
        db.execute("attach ? as new", (str(path),))
        for (table,) in db.execute("select name from main.sqlite_master where type = 'table'").fetchall():
            columns = [name for _, name, *_ in db.execute(f"pragma main.table_info({table})")]
            if table == "account":
                columns.remove("used_bytes")
            db.execute(f"insert into main.{table} ({', '.join(columns)}) select {', '.join(columns)} from new.{table}")
        used = "select coalesce(sum(used_bytes), 0) from main.space where space.account_id = account.account_id"
        db.execute(f"update main.account set used_bytes = ({used})")
        db.execute("update main.hub set value = ? where key = 'schema_version'", (b"1",))
        db.commit()


def shape(path: Path) -> dict[str, object]:
    """Every table's columns and every index, without the words they were made with."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        names = db.execute("select type, name from sqlite_master where name not like 'sqlite_%'").fetchall()
        return {
            name: db.execute(f"pragma {'table' if kind == 'table' else 'index'}_info({name})").fetchall()
            for kind, name in names
        }


async def test_a_database_of_version_1_is_migrated_and_serves(path: Path, tmp_path: Path) -> None:
    made = tmp_path / "made.db"
    async with opened(made) as store:
        writer = await new_writer(store)
        other, stranger = await another(writer), await new_writer(store)
        for number in range(20):
            await (writer, other, stranger)[number % 3].put(number % 4, size=200 + number)
        await writer.delete(1)
        await store.compact(NOW + 1, 3)
        await store.put_witness(writer.key(), other.device_id, 1, b"witness")
        await store.add_invite(b"token", NOW + 10)
        waiting = an_attempt()
        await store.add_attempt(waiting)
        account = await store.account(writer.account_id)
    as_version_1(made, path)
    was = sorted(map(repr, every_row(path)))

    async with opened(path) as store:
        assert sorted(map(repr, every_row(path))) == sorted(map(repr, every_row(made)))
        assert await store.account(writer.account_id) == account
        writer.store = other.store = store
        await other.put(9, size=300)
        assert account is not None and await writer.used_bytes() == account.used_bytes + 300
        assert await store.charge_attempt(waiting.attempt_id, NOW, 5)
        charges = [a_charge(b"anna", (1, 60))]
        assert [await store.spend(charges, NOW) for _ in range(2)] == [0, 60]
        assert await store.delete_account(stranger.account_id)
    assert shape(path) == shape(made)
    assert sorted(map(repr, every_row(path.with_name("hub.db.v1")))) == was


# --- cost ---------------------------------------------------------------------------------------


async def steps_of(store: SqliteStore, crew: str, call: Any) -> int:
    """How many steps of SQLite's machine a call takes."""
    counted = [0]

    def count() -> None:
        counted[0] += 1

    def listen(db: sqlite3.Connection) -> None:
        db.set_progress_handler(count, 1)

    def deafen(db: sqlite3.Connection) -> None:
        db.set_progress_handler(None, 0)

    threads = getattr(store, crew)
    await asyncio.gather(*(threads.run(listen) for _ in range(20)))
    await call
    await asyncio.gather(*(threads.run(deafen) for _ in range(20)))
    return counted[0]


async def test_no_call_on_the_hot_path_costs_more_in_a_longer_log(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_room, "READERS", 1)
    async with opened(path) as store:
        writer = await new_writer(store)

        async def costs() -> dict[str, int]:
            head = (await writer.read(changes_max=1)).head
            retry, newest = await writer.put(5), await writer.put(5)
            key = writer.key()
            return {
                "append": await steps_of(store, "_writer", writer.append(writer.draft(5))),
                "conditional": await steps_of(
                    store, "_writer", writer.append(writer.draft(6, base=newest.header.change_id, counter=head + 4))
                ),
                "retry": await steps_of(store, "_writer", writer.append(retry)),
                "purge": await steps_of(store, "_writer", writer.append(writer.draft(kind=Kind.PURGE, upto=head))),
                "read": await steps_of(store, "_readers", writer.read(head - 9)),
                "read live": await steps_of(store, "_readers", writer.read(live_only=True, changes_max=2)),
                "history": await steps_of(store, "_readers", store.history(key, rid(5), before=0, limit=3)),
                "states": await steps_of(
                    store, "_readers", store.states(writer.account_id, writer.space_id, writer.device_id, [NOTES])
                ),
                "compact": await steps_of(store, "_writer", store.compact(NOW - 1, 100)),
            }

        for batch in range(2):
            await writer.append(*(writer.draft(record % 20) for record in range(60)))
            await writer.append(writer.draft(kind=Kind.PURGE, upto=0))
            if batch == 0:
                await costs()  # the first of each kind also makes rows that later ones only change
        short = await costs()
        for _ in range(20):
            await writer.append(*(writer.draft(record % 20) for record in range(256)))
        long = await costs()
    for call, steps in long.items():
        assert steps <= short[call] * 1.2 + 20, (call, short[call], steps)


async def test_what_batches_know_is_bounded_and_asked_again_when_it_was_forgotten(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_room, "KNOWN_MAX", 3)
    writer = await new_writer(store)
    known = []
    for number in range(9):
        await writer.put(collection_id=b"collection%06d" % (number % 5))
        known.append(len(store._known.asked))
    assert known == [1, 2, 3, 4, 1, 2, 3, 4, 1]
    heads = await store.heads([writer.key(b"collection%06d" % number) for number in range(5)])
    assert heads == [2, 2, 2, 2, 1]


async def test_a_batch_after_a_batch_looks_nothing_up_and_after_another_write_it_does(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[int] = []
    run_for_all = queries_room.run_for_all

    def counted(db: Any, statement: Any, rows: Any, *first: object) -> Any:
        if statement is batch_room.LOOK_UP:
            looked_up.append(len(rows))
        return run_for_all(db, statement, rows, *first)

    monkeypatch.setattr(queries_room, "run_for_all", counted)
    writer = await new_writer(store)
    for record in (1, 2):
        await writer.put(record)
    assert looked_up == [1, 0]
    await store.note_seen([writer.device_id], DAY + 1)
    for record in (3, 4):
        await writer.put(record)
    assert looked_up == [1, 0, 1, 0]
    await writer.append(writer.draft(5), writer.draft(5, counter=99), atomic=True)  # nothing of it stays known
    assert (await writer.answer(writer.draft(6, counter=5))).seq == 5
    assert await writer.seqs() == [1, 2, 3, 4, 5]


# --- what a batch writes at once ------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 5, 7, 13, 511, 512, 513, 700])
async def test_a_batch_of_any_length_is_kept_whole(store: SqliteStore, path: Path, count: int) -> None:
    writers = [await new_writer(store) for _ in range(3)]
    drafts = [writers[at % 3].draft(at) for at in range(count)]
    await store.append([writers[at % 3].request(draft) for at, draft in enumerate(drafts)], NOW)
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert {sealed for (sealed,) in db.execute("select sealed from change")} == {each.sealed for each in drafts}
        for table, column in (("collection", "head"), ("counter", "last")):
            values = [value for (value,) in db.execute(f"select {column} from {table}")]
            assert sum(values) == count and len(values) == min(count, 3)
        used = db.execute("select sum(used_bytes) from space").fetchone()
        assert used == (sum(len(each.sealed) for each in drafts),)


async def test_a_change_is_kept_under_the_ids_of_its_header(store: SqliteStore, path: Path) -> None:
    writer = await new_writer(store)
    drafts = [writer.draft(1), writer.draft(2, kind=Kind.DELTA), writer.draft(kind=Kind.WIPE), writer.draft(3)]
    for draft in drafts:
        await writer.append(draft)
    columns = "account_id, seq, kind, record_id, change_id, device_id, counter, appended_at_ms, sealed"
    with contextlib.closing(sqlite3.connect(path)) as db:
        kept = db.execute(f"select {columns} from change order by seq").fetchall()
    for row, draft, seq in zip(kept, drafts[2:], (3, 4), strict=True):
        header = draft.header
        ids = header.record_id, header.change_id, writer.device_id
        expected = (writer.account_id, seq, header.kind, *ids, header.counter, int(NOW * 1000), draft.sealed)
        assert row == expected


async def test_collections_that_come_to_be_in_one_batch_all_count_for_their_space(store: SqliteStore) -> None:
    writer = await new_writer(store)
    drafts = [writer.draft(collection_id=b"collection%06d" % number) for number in range(3)]
    (appended,) = await store.append([writer.request(*drafts)], NOW)
    (space,) = await store.spaces(writer.account_id)
    assert space.used_bytes == appended.used_bytes == sum(len(each.sealed) for each in drafts)


@pytest.mark.parametrize("bytes_handed, held", [(1_048_576, True), (1_048_577, False)])
async def test_the_writer_holds_no_more_than_a_mebibyte_of_a_batch_that_is_kept(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, bytes_handed: int, held: bool
) -> None:
    handed: list[Any] = []
    run_for_all = queries_room.run_for_all

    def noted(db: Any, statement: Any, rows: Any, *first: object) -> Any:
        if statement is batch_room.INSERT:
            handed[:] = [row[-1] for row in rows]  # a prepared statement keeps the values it was run with last
        return run_for_all(db, statement, rows, *first)

    monkeypatch.setattr(queries_room, "run_for_all", noted)
    writer = await new_writer(store)
    small = [writer.draft(number) for number in range(8)]
    drafts = [draft_of(draft.sealed + bytes(130_000)) for draft in small]
    missing = bytes_handed - sum(len(draft.sealed) for draft in drafts)
    drafts[-1] = draft_of(drafts[-1].sealed + bytes(missing))
    await writer.append(*drafts)
    assert any(handed) is held and len(await writer.seqs()) == 8


# --- the threads --------------------------------------------------------------------------------


async def test_close_finishes_what_was_called_before_and_leaves_no_thread(path: Path) -> None:
    before = set(threading.enumerate())
    store = SqliteStore(path)
    await store.open()
    writer = await new_writer(store)
    assert len(set(threading.enumerate()) - before) == 3
    drafts = [writer.draft(record) for record in range(50)]
    appends = [asyncio.ensure_future(writer.answer(draft)) for draft in drafts]
    await asyncio.sleep(0)  # each has called
    await store.close()
    assert [(await append).seq for append in appends] == list(range(1, 51))
    assert set(threading.enumerate()) == before
    async with opened(path) as store:
        writer.store = store
        assert len(await writer.seqs()) == 50


async def test_a_full_queue_says_so_at_once(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads_room, "WAITING_MAX", 3)
    gate, reached = threading.Event(), threading.Event()

    def block(db: sqlite3.Connection) -> None:
        reached.set()
        gate.wait(30)

    blocking = asyncio.ensure_future(store._writer.run(block))
    await store._readers.run(lambda db: reached.wait(30))
    waiting = [asyncio.ensure_future(store.note_seen([], DAY)) for _ in range(3)]
    await asyncio.sleep(0)
    try:
        with pytest.raises(StoreUnavailable, match="too many calls"):
            await asyncio.wait_for(store.note_seen([], DAY), 5)
    finally:
        gate.set()
    await asyncio.gather(blocking, *waiting)
    await store.note_seen([], DAY)


async def test_a_failing_database_is_unavailable_and_writes_nothing(store: SqliteStore, path: Path) -> None:
    account_id, *_ = await new_account(store)
    rows = sorted(map(repr, every_row(path)))

    def fail(db: sqlite3.Connection) -> None:
        db.execute("delete from device")
        db.execute("insert into account (account_id) values (?)", (account_id,))

    with pytest.raises(StoreUnavailable) as unavailable:
        await store._writer.run(fail)
    assert isinstance(unavailable.value.__cause__, sqlite3.Error)
    assert sorted(map(repr, every_row(path))) == rows


async def test_a_full_disk_is_unavailable_and_later_writes_work(store: SqliteStore) -> None:
    writer = await new_writer(store)
    pages = await pragma(store, "page_count")
    await pragma(store, f"max_page_count = {pages}")
    draft = writer.draft(size=100_000)
    with pytest.raises(StoreUnavailable, match="full"):
        await writer.append(draft)
    assert await writer.read() == ([], 0, 0)
    await pragma(store, "max_page_count = 1000000")
    assert (await writer.answer(draft)).seq == 1


async def test_a_call_nobody_waits_for_any_more_harms_nobody(store: SqliteStore) -> None:
    writer = await new_writer(store)
    doomed = asyncio.ensure_future(writer.append(writer.draft(counter=1)))
    await asyncio.sleep(0)
    doomed.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await doomed
    await store.ping()
    assert await writer.seqs() in ([], [1])


async def test_a_call_reads_one_snapshot(store: SqliteStore) -> None:
    """Else a page could miss changes below the head it reports."""
    writer = await new_writer(store)
    await writer.put(1)
    reached, gate = threading.Event(), threading.Event()

    def look_twice(db: sqlite3.Connection) -> list[int]:
        first = db.execute("select head from collection").fetchone()
        reached.set()
        assert gate.wait(30)
        return [*first, *db.execute("select count(*) from change").fetchone()]

    looking = asyncio.ensure_future(store._readers.run(look_twice))
    await store._readers.run(lambda db: reached.wait(30))
    try:
        await writer.put(2)
    finally:
        gate.set()
    assert await looking == [1, 1]


async def test_a_reader_cannot_write(store: SqliteStore) -> None:
    with pytest.raises(StoreUnavailable, match="readonly"):
        await store._readers.run(lambda db: db.execute("delete from hub"))


async def test_rows_cannot_outlive_what_they_belong_to(store: SqliteStore) -> None:
    """A deletion that forgets a table fails instead of leaving rows."""
    writer = await new_writer(store)
    await writer.put()
    for table in ("collection", "space", "account"):
        with pytest.raises(StoreUnavailable, match="FOREIGN KEY"):
            await store._writer.run(lambda db, table=table: db.execute(f"delete from {table}"))  # type: ignore[misc]


async def test_the_wal_does_not_grow_without_end(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that never pauses keeps SQLite's own checkpoint from starting the WAL anew."""
    monkeypatch.setattr(file_room, "WAL_BYTES_MAX", 200_000)
    writer = await new_writer(store)
    for record in range(20):
        await writer.put(record, size=50_000)
        assert path.with_name("hub.db-wal").stat().st_size < 300_000


async def test_a_slow_reader_delays_the_scrubbing_to_a_later_write(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = await new_writer(store)
    body = (await writer.put(size=500)).sealed[112:]
    monkeypatch.setattr(sqlite_room, "SCRUB_WITHIN_MS", 1)
    monkeypatch.setattr(sqlite_room, "SCRUB_AGAIN_S", 0.0)
    gate, reached = threading.Event(), threading.Event()

    def linger(db: sqlite3.Connection) -> None:
        db.execute("select count(*) from change").fetchone()
        reached.set()
        gate.wait(30)

    lingering = asyncio.ensure_future(store._readers.run(linger))
    await store._readers.run(lambda db: reached.wait(30))
    try:
        await writer.wipe()
        assert pieces_left(path.parent, [body]) == 1
    finally:
        gate.set()
    await lingering
    await store.note_seen([writer.device_id], DAY)
    assert pieces_left(path.parent, [body]) == 0


async def test_a_wipe_that_a_crash_left_in_the_wal_is_finished_at_the_next_start(path: Path, tmp_path: Path) -> None:
    async with opened(path) as store:
        writer = await new_writer(store)
        body = (await writer.put(size=500)).sealed[112:]
        image = tmp_path / "crashed"
        image.mkdir()
        for each in path.parent.glob("hub.db*"):
            (image / each.name).write_bytes(each.read_bytes())
    crashed = image / "hub.db"
    with contextlib.closing(sqlite3.connect(crashed)) as db:
        db.execute("pragma secure_delete = on")
        db.execute("delete from change")
        db.commit()
        again = tmp_path / "again"
        again.mkdir()
        for each in image.iterdir():
            (again / each.name).write_bytes(each.read_bytes())
    assert pieces_left(again, [body]) == 1
    async with opened(again / "hub.db") as store:
        assert pieces_left(again, [body]) == 0


async def test_two_calls_read_at_once(store: SqliteStore) -> None:
    both = threading.Barrier(2, timeout=30)
    await asyncio.gather(*(store._readers.run(lambda db: both.wait()) for _ in range(2)))


# --- beside a running hub -----------------------------------------------------------------------


async def test_a_store_that_only_reads_reads_beside_a_running_hub_and_takes_no_lock(
    store: SqliteStore, path: Path
) -> None:
    writer = await a_full_account(store)
    async with opened(path, read_only=True) as reader:
        await reader.ping()
        assert await dumped(reader) == await dumped(store)
        await writer.put(7)
        assert await reader.account(writer.account_id) == await store.account(writer.account_id)
        for write in (
            reader.append([writer.request(writer.draft())], NOW),
            reader.claim("name", b"value"),
            reader.renew_incarnation(),
            reader.session_orders(1),
            reader.load([]),
        ):
            with pytest.raises(StoreUnavailable):
                await write
        assert "hub-store-writer" in [thread.name for thread in threading.enumerate()]
    await store.ping()
    with pytest.raises(StoreUnavailable):
        await SqliteStore(path).open()  # the hub still has its lock


async def test_a_store_that_only_reads_needs_no_hub_and_leaves_the_file_alone(path: Path) -> None:
    async with opened(path) as store:
        await a_full_account(store)
        rows = await dumped(store)
    before = contents(path)
    async with opened(path, read_only=True) as reader:
        assert await dumped(reader) == rows
    assert contents(path) == before
    async with opened(path, read_only=True) as reader:
        async with opened(path) as store:  # a hub starts and ends meanwhile
            await new_account(store)
        assert await reader.count_accounts() == 2


async def test_a_store_that_only_reads_refuses_what_it_does_not_know(path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="is not there"):
        await SqliteStore(path, read_only=True).open()
    assert contents(path) == b""
    async with opened(path):
        pass
    before = contents(path)
    with pytest.raises(SchemaTooOld, match="older hub"):
        await SqliteStore(path, read_only=True, migrations=NEXT).open()
    with pytest.raises(SchemaTooNew, match="newer hub"):
        await SqliteStore(path, read_only=True, migrations=MIGRATIONS[:-1]).open()
    assert contents(path) == before
    fill(path, b"no database at all, whatever its name says")
    with pytest.raises(StoreUnavailable):
        await SqliteStore(path, read_only=True).open()


async def test_what_is_wiped_during_a_dump_is_in_no_file_after_it(store: SqliteStore, path: Path) -> None:
    writer = await new_writer(store)
    body = (await writer.put(size=500)).sealed[112:]
    async with store.dump() as rows:
        await anext(rows)
        await writer.wipe()
        assert pieces_left(path.parent, [body]) == 1
    assert pieces_left(path.parent, [body]) == 0


async def test_writes_do_not_wait_for_a_dump(store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = await new_writer(store)
    await writer.put()
    monkeypatch.setattr(sqlite_room, "SCRUB_AGAIN_S", 3_600.0)
    tries = [0]

    def counted(db: sqlite3.Connection) -> None:
        tries[0] += 1
        scrub(db)

    scrub = store._scrub
    monkeypatch.setattr(store, "_scrub", counted)
    async with store.dump() as rows:
        await anext(rows)
        await writer.wipe()
        for record in range(5):
            await writer.put(record)
        assert tries == [1]  # each try may wait for the dump, so there is one
    assert tries == [2] and not store._scrub_due


async def test_a_dump_is_held_a_piece_at_a_time(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = await new_writer(store)
    for record in range(40):
        await writer.put(record, size=100_000)
    held: list[int] = []
    piece = sqlite_room._piece

    def weighed(rows: Iterator[Row]) -> list[Row]:
        taken = piece(rows)
        held.append(sum(len(value) for _, values in taken for value in values if isinstance(value, bytes)))
        return taken

    monkeypatch.setattr(sqlite_room, "_piece", weighed)
    assert sum(row[0] == "change" for row in await dumped(store)) == 40
    assert sum(held) > 4_000_000 and max(held) < sqlite_room.PIECE_BYTES_MAX + 101_000


async def test_a_database_of_version_3_is_migrated_and_its_log_serves_as_before(path: Path, tmp_path: Path) -> None:
    made = tmp_path / "made.db"
    async with opened(made) as store:
        writer = await a_full_account(store)
        for record in (1, 2, 1):
            await writer.put(record, size=300)
        retry, newest = await writer.put(1), await writer.delete(3)
        rows, page, live = await dumped(store), await writer.read(), await writer.read(live_only=True)
        history = await store.history(writer.key(), rid(1), before=0, limit=50)
    as_version_1(made, path)
    async with opened(path, migrations=MIGRATIONS[:2]):
        pass  # now it is what a program that knew version 3 left
    async with opened(path) as store:
        writer.store = store
        # The way there keeps only what version 1 knew of accounts; below a space nothing may differ.
        below = ("collection", "change", "counter", "receipt", "witness")
        assert [row for row in await dumped(store) if row[0] in below] == [row for row in rows if row[0] in below]
        assert (await writer.read(), await writer.read(live_only=True)) == (page, live)
        assert await store.history(writer.key(), rid(1), before=0, limit=50) == history
        assert await writer.answer(retry) == Answer(page.head - 1)
        stale = writer.draft(3, base=new_id(), counter=writer.counters[NOTES] + 1)
        assert await writer.answer(stale) == Answer(0, "conflict", page.head, newest.header.change_id)
        await writer.purge(page.head)
        assert newest.sealed not in [change.sealed for change in (await writer.read()).changes]
        assert await store.compact(NOW + 1, 100) > 0
        assert (await writer.read()).changes == (await writer.read(live_only=True)).changes
    assert shape(path) == shape(made)


async def test_a_database_of_version_2_is_migrated_and_has_known_addresses(path: Path, tmp_path: Path) -> None:
    made = tmp_path / "made.db"
    async with opened(made) as store:
        writer = await new_writer(store)
        await writer.put()
    as_version_1(made, path)
    async with opened(path, migrations=MIGRATIONS[:1]):
        pass  # now it is what a program that knew version 2 left
    async with opened(path) as store:
        account = await store.account(writer.account_id)
        assert account is not None and account.address_known and account.plan == "" and account.closing() == ""
        writer.store = store
        await writer.put(2)
        await store.note([Happening(writer.account_id, NOW, "exported", "device")])
    assert shape(path) == shape(made)
