"""Connections to Postgres: few, reused, each with deadlines, and dropped as soon as they look broken.

* A call waits for a connection no longer than ``ACQUIRE_S``, for an answer no longer
  than ``COMMAND_S``, and not at all when ``WAITING_MAX`` calls wait already.
* A restart or failover of the database costs the calls under way and no more: one
  broken connection has all idle ones replaced, and so has a server that has become
  read-only.  With several hosts and ``target_session_attrs=read-write`` in the URL
  the next connection finds the new primary.
* A call whose caller has gone is carried to its end all the same, so that its
  connection can be used again.
* No exception of the driver leaves this room: it becomes ``StoreUnavailable``, with
  the server's sentence but without its details, which may quote rows.

Statements are prepared, with names: one round trip a call instead of two.  Nothing
else is left on a connection, so PgBouncer may stand between in transaction mode: from
1.21, with ``max_prepared_statements`` above 0, the names of ``SETTINGS`` among its
``ignore_startup_parameters``, and their values set for the role (``alter role ... set``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg

from hub.errors import HubError, StoreUnavailable

T = TypeVar("T")
Connection = Any  # asyncpg's, which has no types that could be checked
Work = Callable[[Connection], Awaitable[T]]

CONNECT_S = 5.0
ACQUIRE_S = 10.0  # for a free connection; includes connecting
LOCK_S = 5.0
STATEMENT_S = 15.0
IDLE_S = 120.0  # unused for longer: hung up, before a firewall does it silently
COMMAND_S = STATEMENT_S + 3.0  # the server's word comes first; this is for a server that says nothing
WAITING_MAX = 1_024  # calls; beyond it the database is not keeping up, and the pool says so

SETTINGS = {
    "application_name": "sync-hub",
    "statement_timeout": f"{STATEMENT_S * 1000:.0f}",
    "lock_timeout": f"{LOCK_S * 1000:.0f}",
    "idle_in_transaction_session_timeout": f"{STATEMENT_S * 1000:.0f}",
    "default_transaction_isolation": "read committed",  # every promise about locks stands on it
    # Every look-up is by index and in its order, also into tables that were empty when the
    # plan was made and in the one collection that is a thousand times larger than the others.
    # And with many partitions planning takes longer than doing: plans are made once.
    "enable_seqscan": "off",
    "enable_sort": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",  # compiling takes longer than any statement here runs
}
# What the driver raises.  It has no common base: the server's errors, its own, the system's.
DRIVER_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    EOFError,
    TimeoutError,
)
READ_ONLY = "25006"
CANCELED = "57014"  # by statement_timeout: the connection is as good as before


def unavailable(exc: BaseException) -> StoreUnavailable:
    """What to raise for an error of the driver: its kind and sentence, without details, which may quote rows."""
    sentence = str(getattr(exc, "message", None) or exc).partition("\n")[0]
    return StoreUnavailable(f"the database failed: {type(exc).__name__}: {sentence}")


def is_broken(exc: BaseException) -> bool:
    """Whether this error says something about the connection rather than about the statement."""
    if not isinstance(exc, asyncpg.PostgresError):
        return True
    sqlstate = str(exc.sqlstate or "")
    return sqlstate == READ_ONLY or (sqlstate[:2] in ("08", "57", "58", "XX") and sqlstate != CANCELED)


async def connect(url: str, **settings: str) -> Connection:
    """A new connection; raises the driver's errors."""
    try:
        db = await asyncpg.connect(
            url, timeout=CONNECT_S, command_timeout=COMMAND_S, server_settings={**SETTINGS, **settings}
        )
    except ValueError:
        # Its sentence may quote what stands beside the fault, such as a password.
        raise ConnectionError("its URL cannot be understood") from None
    try:
        # Answers are promises of durability.  A stricter setting (remote_apply) is the operator's to choose.
        await db.execute(
            "select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') = 'off'"
        )
    except BaseException:
        db.terminate()
        raise
    return db


class Pool:
    """At most ``size`` connections, made when they are needed; the one used last is used first."""

    def __init__(self, url: str, size: int) -> None:
        self._url = url
        self._size = size
        self._open = False
        self._free: list[tuple[Connection, float]] = []  # and since when
        self._room = asyncio.Semaphore(size)
        self._calls = 0  # waiting or under way
        self._generation = 0
        self._idle = asyncio.Event()

    def start(self) -> None:
        """Take calls; nothing is connected yet."""
        self._open = True
        self._idle.set()

    async def stop(self) -> None:
        """Finish what was called before, which the deadlines bound, and hang up."""
        self._open = False
        await self._idle.wait()
        free, self._free = self._free, []
        for db, _ in free:
            with contextlib.suppress(*DRIVER_ERRORS):
                await db.close(timeout=CONNECT_S)

    def must_be_open(self) -> None:
        """Raises ``StoreUnavailable`` unless it takes calls."""
        if not self._open:
            raise StoreUnavailable("the store is not open")

    async def run(self, work: Work[T]) -> T:
        """Have ``work`` done with a connection of its own.

        Raises what it raises; ``StoreUnavailable`` when the database fails or does not
        answer in time, when too many calls are waiting, or when not open.
        """
        self.must_be_open()
        if self._calls >= WAITING_MAX + self._size:
            raise StoreUnavailable("too many calls are waiting for the database")
        self._entered()
        try:
            if self._room.locked():
                async with asyncio.timeout(ACQUIRE_S):
                    await self._room.acquire()
            else:
                await self._room.acquire()
        except BaseException as exc:
            self._left()
            if isinstance(exc, TimeoutError):
                raise StoreUnavailable("no connection to the database became free in time") from None
            raise
        task = asyncio.create_task(self._carry_out(work))
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _entered(self) -> None:
        self._calls += 1
        self._idle.clear()

    def _left(self) -> None:
        self._calls -= 1
        if self._calls == 0:
            self._idle.set()

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._room.release()
        self._left()
        if not task.cancelled():
            task.exception()  # nobody may be waiting for it any more

    async def _carry_out(self, work: Work[T]) -> T:
        try:
            db, generation = await self._take()
        except DRIVER_ERRORS as exc:
            raise unavailable(exc) from None
        try:
            return await work(db)
        except HubError:
            raise
        except DRIVER_ERRORS as exc:
            if is_broken(exc):
                db.terminate()
                self._expire()
            raise unavailable(exc) from None
        finally:
            self._give_back(db, generation)

    async def _take(self) -> tuple[Connection, int]:
        self._hang_up_unused()
        while self._free:
            db, _ = self._free.pop()
            if not db.is_closed():
                return db, self._generation
        generation = self._generation
        return await connect(self._url), generation

    def _give_back(self, db: Connection, generation: int) -> None:
        if db.is_closed():
            return
        if generation != self._generation or db.is_in_transaction():
            db.terminate()
        else:
            self._free.append((db, asyncio.get_running_loop().time()))

    def _hang_up_unused(self) -> None:
        oldest = asyncio.get_running_loop().time() - IDLE_S
        while self._free and self._free[0][1] < oldest:
            self._free.pop(0)[0].terminate()

    def _expire(self) -> None:
        """One connection was broken: the others lead to the same server."""
        self._generation += 1
        free, self._free = self._free, []
        for db, _ in free:
            db.terminate()
