"""Group commit: gather drafts of all sessions, one transaction, answer each, then publish heads.

No timer gathers a batch.  While one transaction is being made durable the next
batch collects itself, so at low load a batch is one draft and costs nothing, and
at high load the price of a sync to disk is shared by hundreds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from hub.bus import Bus, HeadMoved
from hub.errors import HubError, Refusal, StoreUnavailable
from hub.inquiries import Life
from hub.metrics import Metrics
from hub.store import Append, Appended, Store
from hub.terms import Change, CollectionKey

DRAFTS_PER_BATCH_MAX = 512  # beyond this a batch's latency grows faster than its throughput
QUEUED_BYTES_MAX = 64 * 1_048_576  # of drafts waiting for a transaction, all sessions together
INLINE_BYTES_MAX = 131_072  # of changes carried by one notice; larger ones are read from the store

OnDone = Callable[[Appended | HubError], None]


class _Queued(NamedTuple):
    append: Append
    size: int
    on_done: OnDone
    submitted_at: float


class Appender:
    """One batch at a time, in the order of submission."""

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
        size = sum(len(draft.sealed) for draft in append.drafts)
        if self._queued_bytes + size > QUEUED_BYTES_MAX:
            raise Refusal("overloaded", retry_after_s=1.0)
        self._queued_bytes += size
        self._queue.append(_Queued(append, size, on_done, self._monotonic()))
        self._idle.clear()
        self._wake.set()

    async def run(self) -> None:
        """Commit batches until cancelled; a batch under way is finished by the store."""
        while True:
            await self._wake.wait()
            while self._queue:
                await self._commit(self._take())
            self._wake.clear()
            self._idle.set()

    async def drain(self) -> None:
        """Returns when everything submitted so far has been answered."""
        await self._idle.wait()

    def _take(self) -> list[_Queued]:
        batch = [self._queue.popleft()]
        drafts = len(batch[0].append.drafts)
        while self._queue and drafts + len(self._queue[0].append.drafts) <= DRAFTS_PER_BATCH_MAX:
            batch.append(self._queue.popleft())
            drafts += len(batch[-1].append.drafts)
        self._queued_bytes -= sum(queued.size for queued in batch)
        self._metrics.append_batch.observe(drafts)
        return batch

    async def _commit(self, batch: list[_Queued]) -> None:
        now = self._wall()
        try:
            started = self._monotonic()
            results = await self._store.append([queued.append for queued in batch], now)
            self._metrics.store_seconds.observe(self._monotonic() - started)
        except StoreUnavailable as exc:
            for queued in batch:
                queued.on_done(exc)
            return
        # Answers go out before notices: a session learns its seqs before it is sent the changes.
        for queued, result in zip(batch, results, strict=True):
            self._count(result)
            queued.on_done(result)
            self._metrics.append_seconds.observe(self._monotonic() - queued.submitted_at)
        await self._publish((queued.append, result) for queued, result in zip(batch, results, strict=True))

    def _count(self, result: Appended) -> None:
        for answer in result.answers:
            self._metrics.drafts.add(answer.code or "appended")

    async def _publish(self, results: Iterable[tuple[Append, Appended]]) -> None:
        changes_by_key: dict[CollectionKey, list[Change]] = {}
        for append, result in results:
            for collection_id, change in result.fresh:
                key = CollectionKey(append.account_id, append.space_id, collection_id)
                changes_by_key.setdefault(key, []).append(change)
        if not changes_by_key:
            return
        try:
            incarnation = await self.life.lately()
        except StoreUnavailable:
            return  # answered and durable; the others read it with their next ping
        for key, changes in changes_by_key.items():
            inline = sum(len(change.sealed) for change in changes) <= INLINE_BYTES_MAX
            notice = HeadMoved(
                key.space_id,
                key.collection_id,
                incarnation,
                changes[0].seq - 1,
                changes[-1].seq,
                tuple(changes) if inline else (),
            )
            self._bus.publish(key.account_id, notice)
