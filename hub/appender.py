"""Group commit: gather drafts of all sessions, one transaction, answer each, then publish heads.

No timer gathers a batch.  While one transaction is being made durable the next
batch collects itself, so at low load a batch is one draft and costs nothing, and
at high load the price of a sync to disk is shared by hundreds.

Two batches are in flight: while the store makes one durable, the answers and notices
of the one before are handed out.  So neither waits for the other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from msgspec import Struct

from hub.bus import Bus, HeadMoved
from hub.errors import HubError, Refusal, StoreUnavailable
from hub.inquiries import Life
from hub.metrics import Metrics
from hub.store import Append, Appended, Store
from hub.terms import AccountId, Change, CollectionId, SpaceId

DRAFTS_PER_BATCH_MAX = 512  # beyond this a batch's latency grows faster than its throughput
QUEUED_BYTES_MAX = 64 * 1_048_576  # of drafts waiting for a transaction, all sessions together
INLINE_BYTES_MAX = 131_072  # of changes carried by one notice; larger ones are read from the store

TURNS_TO_SEND = 3  # of the loop, until a batch is with the database whatever tasks its keeper makes for it

OnDone = Callable[[Appended | HubError], None]


class _Queued(Struct, frozen=True):
    append: Append
    size: int
    on_done: OnDone
    submitted_at: float


_Results = Sequence[Appended] | StoreUnavailable


class Appender:
    """One batch at a time with the store, in the order of submission."""

    def __init__(self, store: Store, bus: Bus, metrics: Metrics, *, wall: Callable[[], float]) -> None:
        self._store = store
        self._bus = bus
        self._metrics = metrics
        self._wall = wall
        self.life = Life(store)
        self._monotonic = asyncio.get_running_loop().time
        self._queue: deque[_Queued] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def submit(self, append: Append, on_done: OnDone) -> None:
        """Queue drafts; ``on_done`` is called once, in the loop, when they are durable or refused.

        Raises ``Refusal("overloaded")``, and queues nothing, when 64 MiB are waiting already.
        """
        drafts = append.drafts
        size = len(drafts[0].sealed) if len(drafts) == 1 else sum(len(draft.sealed) for draft in drafts)
        if self._queued_bytes + size > QUEUED_BYTES_MAX:
            raise Refusal("overloaded", retry_after_s=1.0)
        self._queued_bytes += size
        if not self._queue:
            self._idle.clear()
            self._wake.set()
        self._queue.append(_Queued(append, size, on_done, self._monotonic()))

    async def run(self) -> None:
        """Commit batches until cancelled; a batch under way is finished by the store."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                await self._commit_on()
            self._idle.set()

    async def drain(self) -> None:
        """Returns when everything submitted so far has been answered."""
        await self._idle.wait()

    async def _commit_on(self) -> None:
        """Commit what has queued, batch after batch, and hand out each while the next is with the store."""
        batch = self._take()
        results = await self._commit(batch)
        while self._queue:
            following = self._take()
            committing = asyncio.create_task(self._commit(following))
            try:
                for _ in range(TURNS_TO_SEND):
                    await asyncio.sleep(0)
                await self._hand_out(batch, results)
                batch, results = following, await committing
            finally:
                committing.cancel()
        await self._hand_out(batch, results)

    def _take(self) -> list[_Queued]:
        queue = self._queue
        batch: list[_Queued] = []
        drafts = size = 0
        while queue and (not batch or drafts + len(queue[0].append.drafts) <= DRAFTS_PER_BATCH_MAX):
            queued = queue.popleft()
            batch.append(queued)
            drafts += len(queued.append.drafts)
            size += queued.size
        self._queued_bytes -= size
        self._metrics.append_batch.observe(drafts)
        return batch

    async def _commit(self, batch: list[_Queued]) -> _Results:
        started = self._monotonic()
        try:
            results = await self._store.append([queued.append for queued in batch], self._wall())
        except StoreUnavailable as exc:
            return exc
        self._metrics.store_seconds.observe(self._monotonic() - started)
        return results

    async def _hand_out(self, batch: list[_Queued], results: _Results) -> None:
        """Answer everybody, then publish: a session learns its seqs before it is sent the changes."""
        if isinstance(results, StoreUnavailable):
            for queued in batch:
                queued.on_done(results)
            return
        for queued, result in zip(batch, results, strict=True):
            queued.on_done(result)
        self._count(batch, results)
        await self._publish(batch, results)

    def _count(self, batch: list[_Queued], results: Sequence[Appended]) -> None:
        now = self._monotonic()
        self._metrics.append_seconds.observe_all([now - queued.submitted_at for queued in batch])
        appended = 0
        for result in results:
            for answer in result.answers:
                if answer.code:
                    self._metrics.drafts.add(answer.code)
                else:
                    appended += 1
        self._metrics.drafts.add("appended", appended)

    async def _publish(self, batch: list[_Queued], results: Sequence[Appended]) -> None:
        """One notice a collection; notices of a collection go out in the order of its seqs."""
        changes_by_key: dict[tuple[AccountId, SpaceId, CollectionId], list[Change]] = {}
        for queued, result in zip(batch, results, strict=True):
            for collection_id, change in result.fresh:
                key = (queued.append.account_id, queued.append.space_id, collection_id)
                changes = changes_by_key.get(key)
                if changes is None:
                    changes_by_key[key] = [change]
                else:
                    changes.append(change)
        if not changes_by_key:
            return
        try:
            incarnation = await self.life.lately()
        except StoreUnavailable:
            return  # answered and durable; the others read it with their next ping
        for (account_id, space_id, collection_id), changes in changes_by_key.items():
            carried: tuple[Change, ...] = tuple(changes)
            if sum([len(change.sealed) for change in carried]) > INLINE_BYTES_MAX:
                carried = ()
            after, head = changes[0].seq - 1, changes[-1].seq
            self._bus.publish(account_id, HeadMoved(space_id, collection_id, incarnation, after, head, carried))
