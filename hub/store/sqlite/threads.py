"""The threads of the SQLite keeper: each has its own connection and carries out calls, one transaction each.

No exception of the driver leaves them: it becomes ``StoreUnavailable``.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from hub.errors import StoreUnavailable

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

WAITING_MAX = 1_024  # calls in a queue; beyond it the store is not keeping up and says so


@dataclass(slots=True)
class _Call:
    """What a thread shall do; without ``work`` it shall end."""

    work: Work[Any] | None
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]

    @classmethod
    def new(cls, work: Work[Any] | None) -> _Call:
        loop = asyncio.get_running_loop()
        return cls(work, loop, loop.create_future())

    def settle(self, result: object, error: BaseException | None) -> None:
        """Answer, from whatever thread; nobody may be waiting any more."""
        # RuntimeError: the loop was closed meanwhile.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._settle, result, error)

    def _settle(self, result: object, error: BaseException | None) -> None:
        if self.answer.done():
            return
        if error is None:
            self.answer.set_result(result)
        else:
            self.answer.set_exception(error)


class Crew:
    """Threads, each with its own connection, that take calls from one queue, first come first served."""

    def __init__(
        self,
        name: str,
        size: int,
        connect: Callable[[], sqlite3.Connection],
        released: Callable[[], None],
        transact: Callable[[sqlite3.Connection, Work[Any]], Any],
    ) -> None:
        self._name = name
        self._size = size
        self._connect = connect
        self._released = released
        self._transact = transact
        self._open = False
        self._threads: list[threading.Thread] = []
        self._calls: queue.SimpleQueue[_Call] = queue.SimpleQueue()

    async def start(self) -> None:
        """Connect; raises what that raises, and then no thread is left."""
        assert not self._threads, "started twice"
        try:
            for _ in range(self._size):
                await self._start_one()
        except BaseException:
            await self.stop()
            raise
        self._open = True

    async def _start_one(self) -> None:
        started = _Call.new(None)
        # Daemon: a program that dies without close need not wait; what was answered is durable.
        thread = threading.Thread(target=self._main, args=(started,), name=self._name, daemon=True)
        thread.start()
        try:
            await started.answer
        except Exception:
            thread.join()
            raise
        self._threads.append(thread)

    async def stop(self) -> None:
        """Carry out what was called before, then end the threads."""
        self._open = False
        ends = [_Call.new(None) for _ in self._threads]
        for end in ends:
            self._calls.put(end)
        for end in ends:
            await end.answer
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def must_be_open(self) -> None:
        """Raises ``StoreUnavailable`` when not open."""
        if not self._open:
            raise StoreUnavailable("the store is not open")

    async def run(self, work: Work[T]) -> T:
        """Have ``work`` carried out in one transaction.

        Raises what it raises, after a rollback; ``StoreUnavailable`` when the
        database fails, when too many calls are waiting, or when not open.
        """
        self.must_be_open()
        if self._calls.qsize() >= WAITING_MAX:
            raise StoreUnavailable("too many calls are waiting for the store")
        call = _Call.new(work)
        self._calls.put(call)
        return cast(T, await call.answer)

    def _main(self, started: _Call) -> None:
        db, error = _attempted(self._connect)
        if error is not None:
            self._released()
            return started.settle(None, error)
        started.settle(None, None)
        while (call := self._calls.get()).work is not None:
            self._carry_out(db, call)
        db.close()
        self._released()
        call.settle(None, None)

    def _carry_out(self, db: sqlite3.Connection, call: _Call) -> None:
        work = call.work
        assert work is not None
        if not call.answer.cancelled():
            call.settle(*_attempted(lambda: self._transact(db, work)))


def read_in_one(db: sqlite3.Connection, work: Work[T]) -> T:
    """Carry out ``work`` on one snapshot."""
    db.execute("begin")
    try:
        return work(db)
    finally:
        db.execute("commit")


def _attempted(deed: Callable[[], T]) -> tuple[T, None] | tuple[Any, BaseException]:
    """What a deed returned, and what it raised; the driver's exceptions end here."""
    try:
        return deed(), None
    except (sqlite3.Error, OSError) as exc:
        error = StoreUnavailable(f"the database failed: {exc}")
        error.__cause__ = exc
        return None, error
    except BaseException as exc:
        return None, exc
