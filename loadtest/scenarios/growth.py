"""Does a longer log cost more?  Appending, catching up and compacting with 10,000 to 10,000,000 changes in the log.

    python -m loadtest growth                                    to 10,000,000; takes about 15 GB and half an hour
    python -m loadtest growth --sizes 10000 100000 1000000
    python -m loadtest growth --store sqlite --sizes 10000 100000

The calls are the store's own, without a hub around them; the log is spread over 300 accounts, each record written
twice.  At every size they are made in turn on the log of that size and on one of ``--base`` changes beside it, in the
same process and moment, so that the ratio (``_x``) is of the size and not of the hour.  Processor time is that of this
process and of Postgres together.

All but the first changes of each log are written as rows (COPY, or ``executemany``), equal to what the store's append
leaves, with fsync off meanwhile; then vacuum and checkpoint, so that no measurement pays for the filling.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from hub.store import Append, Store
from hub.store.postgres import PostgresStore
from hub.store.sqlite import SqliteStore
from hub.terms import Limits
from loadtest.alone import STORES
from loadtest.figures import Figures
from loadtest.filling import WRITES_EACH, Filler, Log, begin, fill_postgres, fill_sqlite, logs_of
from loadtest.place import tree_cpu_s
from loadtest.seed import seed
from tests.services import Postgres, database, postgres

SHORT = "--sizes 10000 40000 --base 10000 --accounts 100 --rounds 2"
FULL = ("", "--store sqlite --sizes 10000 100000 1000000")
BATCH = 400
BATCHES, SINGLES, PAGES, COMPACTIONS = 3, 30, 30, 2  # of a round
BYTES_EACH = 1_500  # of disk, for one change with its indexes, its share of the WAL and some room
KINDS = ("append_400", "append_1", "page", "tail_page", "compact")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``run``."""
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--base", type=int, default=100_000, help="changes of the log that all are compared with")
    parser.add_argument("--accounts", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--store", choices=STORES, default="postgres")


@dataclass(slots=True)
class Ground:
    """One database, its log, and how it is opened and filled."""

    store: Store
    logs: list[Log]
    filler: Filler
    url: str  # empty: SQLite
    file: Path
    filled_at: float

    async def fill(self, changes: int) -> None:
        """Bring the whole log to so many changes."""
        upto = changes // len(self.logs) // WRITES_EACH * WRITES_EACH
        if upto <= max(log.head for log in self.logs):
            return
        await self.even()
        self.filled_at = time.time()
        if self.url:
            await fill_postgres(self.url, self.logs, upto, self.filler, self.filled_at)
            return
        await self.store.close()
        await asyncio.to_thread(fill_sqlite, self.file, self.logs, upto, self.filler, self.filled_at)
        self.store = SqliteStore(self.file)
        await self.store.open()

    async def append(self, count: int, start: int) -> None:
        """So many drafts in one transaction, each of the next log in turn."""
        appends = []
        for log in itertools.islice(itertools.cycle(self.logs), start % len(self.logs), start % len(self.logs) + count):
            log.head += 1
            draft = self.filler.draft(log, log.head)
            appends.append(Append(log.key.account_id, log.key.space_id, log.device.device_id, [draft]))
        for appended in await self.store.append(appends, time.time()):
            assert not appended.closing and not appended.answers[0].code, appended

    async def even(self) -> None:
        """Write every record of the log a last time."""
        for log in self.logs:
            if log.head % WRITES_EACH:
                log.head += 1
                draft = self.filler.draft(log, log.head)
                append = Append(log.key.account_id, log.key.space_id, log.device.device_id, [draft])
                await self.store.append([append], time.time())

    async def page(self, chance: random.Random, *, tail: bool) -> int:
        """A page from anywhere in some log, or its last few changes."""
        log, limits = chance.choice(self.logs), Limits()
        after = log.head - 5 if tail else chance.randrange(max(1, log.head - limits.page_changes))
        page = await self.store.read(
            log.key, after, live_only=False, changes_max=limits.page_changes, bytes_max=limits.page_bytes
        )
        return len(page.changes)


async def run(options: argparse.Namespace) -> list[Figures]:
    """One ``Figures`` a size.  Raises ``RuntimeError`` when the disk has no room for the largest."""
    need = BYTES_EACH * (max(options.sizes) + options.base)
    if shutil.disk_usage(tempfile.gettempdir()).free < need:
        raise RuntimeError(f"{need / 1e9:.0f} GB of room are needed in {tempfile.gettempdir()}")
    found = []
    with ExitStack() as stack:
        server = None
        if options.store == "postgres":
            server = stack.enter_context(
                postgres(None, "-c", "max_wal_size=8GB", "-c", "shared_buffers=512MB", fsync=True)
            )
        async with _ground(server, options) as base, _ground(server, options) as grown:
            await _fill(server, base, options.base)
            for size in sorted(options.sizes):
                took = await _fill(server, grown, size)
                names = {"store": options.store, "changes": size, "base": options.base, "accounts": options.accounts}
                figures = Figures("growth", {**names, "rounds": options.rounds})
                figures.values["fill_s"] = took
                await _compare(server, grown, base, options.rounds, figures)
                figures.values["changes_after"] = sum(log.head for log in grown.logs)
                figures.values["base_after"] = sum(log.head for log in base.logs)
                found.append(figures)
    return found


@asynccontextmanager
async def _ground(server: Postgres | None, options: argparse.Namespace) -> AsyncIterator[Ground]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = await stack.enter_async_context(database(server)) if server else ""
        file = folder / "hub.sqlite3"
        store: Store = PostgresStore(url) if url else SqliteStore(file)
        await store.open()
        filler = Filler()
        logs = logs_of(await seed(store, options.accounts, 1))
        await begin(store, logs, filler, time.time())
        ground = Ground(store, logs, filler, url, file, time.time())
        try:
            yield ground
        finally:
            await ground.store.close()


async def _fill(server: Postgres | None, ground: Ground, changes: int) -> float:
    """Fill it, and leave nothing of that to do; seconds."""
    began = time.perf_counter()
    if server:
        await _execute(ground.url, "alter system set fsync = off", "select pg_reload_conf()")
    await ground.fill(changes)
    if server:
        await _execute(ground.url, "vacuum (analyze, freeze) change", "alter system reset fsync")
        await _execute(ground.url, "select pg_reload_conf()", "checkpoint")
    return time.perf_counter() - began


async def _execute(url: str, *statements: str) -> None:
    """Each by itself, however long it takes."""
    db = await asyncpg.connect(url)
    try:
        for statement in statements:
            await db.execute(statement)
    finally:
        await db.close()


async def _compare(server: Postgres | None, grown: Ground, base: Ground, rounds: int, figures: Figures) -> None:
    """The same calls on both in turn: ``{kind}_us`` and ``_cpu_us`` for one change, ``_x`` and ``_cpu_x`` to base."""
    seconds: dict[tuple[bool, str], list[float]] = defaultdict(list)
    cpu: dict[tuple[bool, str], list[float]] = defaultdict(list)
    for ground in (base, grown):
        await _round(server, ground, defaultdict(list), defaultdict(list), False)  # so that both are warm
    for number in range(rounds):
        for ground in (base, grown) if number % 2 else (grown, base):
            await _round(server, ground, seconds, cpu, ground is grown)
    for kind in KINDS:
        both = [statistics.median(seconds[which, kind]) for which in (True, False) if seconds[which, kind]]
        spent = [sum(cpu[which, kind]) / max(1, len(cpu[which, kind])) for which in (True, False)]
        if len(both) < 2:
            figures.notes.append(f"{kind}: nothing was left to measure it with")
            continue
        figures.values |= {
            f"{kind}_us": 1e6 * both[0],
            f"{kind}_x": both[0] / both[1],
            f"{kind}_cpu_us": 1e6 * spent[0],
            f"{kind}_cpu_x": spent[0] / spent[1] if spent[1] else 1.0,
        }


async def _round(
    server: Postgres | None,
    ground: Ground,
    seconds: dict[tuple[bool, str], list[float]],
    cpu: dict[tuple[bool, str], list[float]],
    is_grown: bool,
) -> None:
    """Every kind of call some times; seconds for one change go into both, one entry a call or a kind."""
    chance = random.Random(5)

    async def many(kind: str, times: int, call: Callable[[int], Awaitable[int]]) -> None:
        # Only whole ticks of a process's time can be read: so one entry for all calls of the round.
        before, changes = _cpu_s(server), 0
        for n in range(times):
            began = time.perf_counter()
            done = await call(n)
            if not done:
                break
            seconds[is_grown, kind].append((time.perf_counter() - began) / done)
            changes += done
        if changes:
            cpu[is_grown, kind].append((_cpu_s(server) - before) / changes)

    async def append(count: int, n: int) -> int:
        await ground.append(count, n * count)
        return count

    # As few as leave enough for all rounds on the smallest log.
    limit = max(20, min(1_000, sum(log.head for log in ground.logs) // 200))
    await many("append_400", BATCHES, lambda n: append(BATCH, n))
    await many("append_1", SINGLES, lambda n: append(1, n))
    await many("page", PAGES, lambda n: ground.page(chance, tail=False))
    await many("tail_page", PAGES, lambda n: ground.page(chance, tail=True))
    await many("compact", COMPACTIONS, lambda n: ground.store.compact(ground.filled_at + 0.001, limit))


def _cpu_s(server: Postgres | None) -> float:
    return time.process_time() + (tree_cpu_s(server.pid) if server else 0.0)
