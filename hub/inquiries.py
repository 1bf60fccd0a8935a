"""Questions to the store that many ask at the same moment, put to it once.

When a replica goes, its devices come to the others within seconds, and each brings
nearly the same questions; and of many idle sessions some are always due for a ping.
``Shared`` gives everybody the one answer that is on its way or fresh enough;
``Together`` puts the questions of many into one call, and asks ahead for one who reads on
alone; ``Life`` remembers the name of the log's life; ``Stopped`` and ``Orders`` ask for a
thousand devices in one call.  A question is a task of its own: who gives up waiting does
not spoil it for the others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from itertools import islice
from typing import Generic, TypeVar

from hub import log
from hub.errors import HubError, StoreUnavailable
from hub.store import Store
from hub.terms import DeviceId, Incarnation

DEVICES_PER_QUESTION_MAX = 1_000  # larger questions hold a connection too long
WAITING_MAX = 20_000  # questions of one kind; beyond it the store is not keeping up, and that is the answer
TURNS_TO_LEAVE = 2  # of the loop: a call's task, and the store's own
GIVEN_UP_AFTER_S = 2.0  # who has waited so long when a call fails is told so, rather than wait for the next to fail
LIFE_WITHIN_S = 5.0
LIFE_FRESH_S = 5.0  # a renewed incarnation is noticed by a running hub after this time

T = TypeVar("T")
Q = TypeVar("Q")


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


class _Waiting(Generic[Q, T]):
    """A question, and who wants to hear the answer."""

    __slots__ = ("_answer", "on_done", "question", "since", "then")

    def __init__(
        self, question: Q, on_done: Callable[[T | Exception], None] | None, then: Callable[[T], Q | None] | None
    ) -> None:
        self.question = question
        self.on_done = on_done  # None: nobody yet
        self.then = then
        self.since = asyncio.get_running_loop().time()
        self._answer: T | Exception | None = None  # what nobody has heard yet

    def tell(self, answer: T | Exception) -> None:
        """One session's failure costs the others nothing."""
        if self.on_done is None:
            self._answer = answer
            return
        try:
            self.on_done(answer)
        except Exception as exc:
            log.get().error("a session could not take an answer", exc_info=exc)

    def taken_over(self, on_done: Callable[[T | Exception], None], then: Callable[[T], Q | None] | None) -> None:
        """Somebody asks just this."""
        self.on_done, self.then = on_done, then
        if self._answer is not None:
            asyncio.get_running_loop().call_soon(self.tell, self._answer)
            self._answer = None


class Together(Generic[Q, T]):
    """Many questions of one kind in one call; while it is under way the next one collects itself.

    No timer gathers them: what is asked within one turn of the loop goes together, and
    under load what was asked while a call was under way.  So alone a question waits for
    nobody, and a storm costs a call for hundreds.

    Who asks may say what it will ask ``then``.  When nobody else is waiting, that is on its
    way before the answer is handed out: so the store works on a page while the one before
    is encoded and sent.  At most one answer is so made beside the one that is handed out,
    and it is forgotten at once when it is not asked for in the same breath.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[Q]], Awaitable[Sequence[T]]],
        *,
        at_once_max: int,
        size: Callable[[Q], int] = lambda question: 1,
        calls_max: int = 1,
    ) -> None:
        """``ask`` answers each question, in their order.  A call has questions of at most ``at_once_max`` together, at
        least one; at most ``calls_max`` calls are under way."""
        self._ask = ask
        self._at_once_max = at_once_max
        self._size = size
        self._calls_max = calls_max
        self._waiting: deque[_Waiting[Q, T]] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._starting = False
        self._ahead: _Waiting[Q, T] | None = None  # while an answer is handed out: what may be asked next

    def put(
        self,
        question: Q,
        on_done: Callable[[T | Exception], None],
        then: Callable[[T], Q | None] | None = None,
    ) -> None:
        """Ask; ``on_done`` is called once, in a later turn of the loop, with the answer or with what the call raised:
        ``StoreUnavailable`` also when too many are waiting.

        ``then`` tells from the answer what ``on_done`` will ask, None when nothing.
        """
        if (ahead := self._ahead) is not None and ahead.question == question:
            self._ahead = None
            ahead.taken_over(on_done, then)
            return
        loop = asyncio.get_running_loop()
        if len(self._waiting) >= WAITING_MAX:
            loop.call_soon(on_done, StoreUnavailable("too many questions are waiting for the store"))
            return
        self._waiting.append(_Waiting(question, on_done, then))
        if not self._starting and len(self._calls) < self._calls_max:
            self._starting = True
            loop.call_soon(self._start)

    async def get(self, question: Q) -> T:
        """The answer.  Raises what the call raised, and as ``put``."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def on_done(result: T | Exception) -> None:
            if answer.done():
                return
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)

        self.put(question, on_done)
        return await answer

    def _start(self) -> None:
        self._starting = False
        while self._waiting and len(self._calls) < self._calls_max:
            self._begin(self._take())

    def _begin(self, some: Sequence[_Waiting[Q, T]]) -> None:
        call = asyncio.create_task(self._call(some))
        self._calls.add(call)
        call.add_done_callback(self._ended)

    def _take(self) -> list[_Waiting[Q, T]]:
        some = [self._waiting.popleft()]
        size = self._size(some[0].question)
        while self._waiting and (size := size + self._size(self._waiting[0].question)) <= self._at_once_max:
            some.append(self._waiting.popleft())
        return some

    async def _call(self, some: Sequence[_Waiting[Q, T]]) -> None:
        try:
            answers: Sequence[T | Exception] = await self._ask([each.question for each in some])
        except HubError as exc:
            answers = [exc] * len(some)
        except Exception as exc:
            log.get().error("a question of many sessions failed", exc_info=exc)
            answers = [exc] * len(some)
        ahead = await self._look_ahead(some[0], answers[0]) if len(some) == 1 else None
        self._ahead = ahead  # no longer than the answer is being handed out
        for each, answer in zip(some, answers, strict=True):
            each.tell(answer)
        self._ahead = None
        if isinstance(answers[0], StoreUnavailable):
            self._give_up(answers[0])

    async def _look_ahead(self, only: _Waiting[Q, T], answer: T | Exception) -> _Waiting[Q, T] | None:
        """Ask what will be asked next; on return that has left for the store."""
        if only.then is None or self._waiting or isinstance(answer, Exception):
            return None
        question = only.then(answer)
        if question is None:
            return None
        ahead: _Waiting[Q, T] = _Waiting(question, None, None)
        self._begin([ahead])  # in the place of the call that ends with this answer
        for _ in range(TURNS_TO_LEAVE):
            await asyncio.sleep(0)
        return ahead

    def _give_up(self, why: StoreUnavailable) -> None:
        latest = asyncio.get_running_loop().time() - GIVEN_UP_AFTER_S
        while self._waiting and self._waiting[0].since <= latest:
            self._waiting.popleft().tell(why)

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            self._start()


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
        self._together = Together(self._ask, at_once_max=DEVICES_PER_QUESTION_MAX)

    async def closing(self, device_id: DeviceId) -> str:
        """What the store says of the device, asked after this call began; empty when it may be here.

        Raises ``StoreUnavailable``.
        """
        return await self._together.get(device_id)

    async def among(self, device_ids: Collection[DeviceId]) -> dict[DeviceId, str]:
        """Those that may not be here, however many are named, each with its closing.  Raises ``StoreUnavailable``."""
        left = iter(device_ids)
        stopped: dict[DeviceId, str] = {}
        while some := list(islice(left, DEVICES_PER_QUESTION_MAX)):
            stopped |= await self._store.stopped_among(some)
        return stopped

    async def _ask(self, device_ids: Sequence[DeviceId]) -> list[str]:
        stopped = await self._store.stopped_among(device_ids)
        return [stopped.get(device_id, "") for device_id in device_ids]


class Orders:
    """The numbers that tell which of a device's sessions is newer, fetched for a thousand sessions in one call."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._together = Together(self._ask, at_once_max=DEVICES_PER_QUESTION_MAX)

    async def next(self) -> int:
        """As ``Store.session_orders``, asked after this call began.  Raises ``StoreUnavailable``."""
        return await self._together.get(None)

    async def _ask(self, asked: Sequence[None]) -> list[int]:
        return await self._store.session_orders(len(asked))
