"""Questions to the store that many ask at the same moment, put to it once.

When a replica goes, its devices come to the others within seconds, and each brings
nearly the same questions.  ``Shared`` gives everybody the one answer that is on its way
or fresh enough; ``Life`` remembers the name of the log's life; ``Stopped`` asks
for a thousand devices in one call.  A question is a task of its own: who gives up
waiting does not spoil it for the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from itertools import islice
from typing import Generic, TypeVar

from hub.errors import StoreUnavailable
from hub.store import Store
from hub.terms import DeviceId, Incarnation

DEVICES_PER_QUESTION_MAX = 1_000  # larger questions hold a connection too long
LIFE_WITHIN_S = 5.0
LIFE_FRESH_S = 5.0  # a renewed incarnation is noticed by a running hub after this time

T = TypeVar("T")


class Shared(Generic[T]):
    """One answer for all who ask at about the same time; a failure is an answer too."""

    def __init__(self, ask: Callable[[], Awaitable[T]], *, within_s: float) -> None:
        self._ask = ask
        self._within_s = within_s
        self._asking: asyncio.Task[T] | None = None
        self._answered_at = 0.0

    async def get(self, fresh_s: float = 0.0) -> T:
        """An answer on its way, or one at most ``fresh_s`` old, or else a new one.

        Raises what the question raised, ``StoreUnavailable`` after ``within_s`` without an answer.
        """
        now = asyncio.get_running_loop().time()
        asking = self._asking
        if asking is None or (asking.done() and (asking.cancelled() or now >= self._answered_at + fresh_s)):
            asking = self._asking = asyncio.create_task(self._question())
        return await asyncio.shield(asking)

    async def _question(self) -> T:
        try:
            async with asyncio.timeout(self._within_s):
                return await self._ask()
        except TimeoutError:
            raise StoreUnavailable(f"no answer within {self._within_s:g} s") from None
        finally:
            self._answered_at = asyncio.get_running_loop().time()


class Life:
    """The incarnation of the log, as the store last told it."""

    def __init__(self, store: Store) -> None:
        self._shared = Shared(store.incarnation, within_s=LIFE_WITHIN_S)
        self._last: Incarnation | None = None

    async def now(self) -> Incarnation:
        """What the store says now.  Raises ``StoreUnavailable``."""
        self._last = await self._shared.get()
        return self._last

    async def lately(self) -> Incarnation:
        """What it said at most ``LIFE_FRESH_S`` ago; when it does not answer, what it said last.

        Raises ``StoreUnavailable`` when it never answered.
        """
        try:
            self._last = await self._shared.get(LIFE_FRESH_S)
        except StoreUnavailable:
            if self._last is None:
                raise
        return self._last


class Stopped:
    """Which devices may not be here, and the closing that tells them why."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[DeviceId, asyncio.Future[str]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def closing(self, device_id: DeviceId) -> str:
        """What the store says of the device, asked after this call began; empty when it may be here.

        Raises ``StoreUnavailable``.
        """
        answer = self._waiting.get(device_id)
        if answer is None:
            answer = self._waiting[device_id] = asyncio.get_running_loop().create_future()
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_on())
        return await asyncio.shield(answer)

    async def among(self, device_ids: Collection[DeviceId]) -> dict[DeviceId, str]:
        """Those that may not be here, however many are named, each with its closing.  Raises ``StoreUnavailable``."""
        left = iter(device_ids)
        stopped: dict[DeviceId, str] = {}
        while some := list(islice(left, DEVICES_PER_QUESTION_MAX)):
            stopped |= await self._store.stopped_among(some)
        return stopped

    async def _ask_on(self) -> None:
        """One question at a time; while it is under way the next one collects itself."""
        while self._waiting:
            some = list(islice(self._waiting, DEVICES_PER_QUESTION_MAX))
            answers = {device_id: self._waiting.pop(device_id) for device_id in some}
            try:
                stopped = await self._store.stopped_among(some)
            except Exception as exc:
                for answer in answers.values():
                    answer.set_exception(exc)
            else:
                for device_id, answer in answers.items():
                    answer.set_result(stopped.get(device_id, ""))
