"""Who on this replica belongs to which account: from one notice to the sessions it concerns.

The bus is followed with an account's first session and left with its last.  A
notice is handed over by a plain call, so nothing queues here: each session bounds
its own queue, and one that fails is closed without costing the others anything.

Only ``NoticesLost`` is no plain call: every session then asks the store, and after an
outage that may be all there are.  They take turns, a few at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from functools import partial
from typing import Protocol

from hub import log
from hub.bus import Bus, HeadMoved, Notice, NoticesLost
from hub.delivery import Delivery
from hub.errors import Refusal
from hub.metrics import Metrics
from hub.terms import AccountId, DeviceId

LOCKS = 64
COMPARING_AT_ONCE_MAX = 8  # sessions that ask the store after lost notices


class Member(Protocol):
    """A session as the fan-out sees it."""

    device_id: DeviceId

    def deliver(self, delivery: Delivery) -> bool:
        """Take new changes; False, with nothing done, when ``notice`` has to look at them."""

    def notice(self, notice: Notice) -> None:
        """Take a notice; must not block, must not raise."""

    async def compare(self) -> None:
        """Notices may have been lost: find out what matters from the store."""

    async def compare_witnesses(self) -> None:
        """The rest of that, which may take its time."""


class Fanout:
    """The members of every account that has a session here."""

    def __init__(self, bus: Bus, metrics: Metrics, *, sessions_per_account_max: int) -> None:
        self._bus = bus
        self._metrics = metrics
        self._max = sessions_per_account_max
        self._members: dict[AccountId, set[Member]] = {}
        # Following and leaving the bus must not overtake each other for one account; a few
        # locks shared by all accounts do that without growing with them.
        self._locks = [asyncio.Lock() for _ in range(LOCKS)]
        # Members that missed notices, in the order of their turn: for what matters, then for the rest.
        self._to_compare: dict[Member, None] = {}
        self._to_compare_witnesses: dict[Member, None] = {}
        self._witness_turn = asyncio.Lock()
        self._comparing: set[asyncio.Task[None]] = set()

    async def join(self, account_id: AccountId, member: Member) -> None:
        """From the return on, ``member`` hears the account's notices.

        Raises ``Refusal("too_many")`` when the account has its most sessions.
        """
        async with self._lock(account_id):
            members = self._members.setdefault(account_id, set())
            if len(members) >= self._max:
                raise Refusal("too_many")
            members.add(member)
            if len(members) == 1:
                await self._follow(account_id)

    async def leave(self, account_id: AccountId, member: Member) -> None:
        """``member`` hears nothing more.  Leaving twice, or without having joined, does nothing."""
        async with self._lock(account_id):
            members = self._members.get(account_id, set())
            members.discard(member)
            if not members and self._members.pop(account_id, None) is not None:
                await self._bus.unsubscribe(account_id)

    async def close(self) -> None:
        """Nobody compares any more."""
        for task in self._comparing:
            task.cancel()
        await asyncio.gather(*self._comparing, return_exceptions=True)

    def device_ids(self) -> set[DeviceId]:
        """The devices of all sessions here, to ask which of them are stopped."""
        return {member.device_id for members in self._members.values() for member in members}

    def members_of_devices(self, device_ids: set[DeviceId]) -> list[Member]:
        """The sessions of these devices."""
        return [member for members in self._members.values() for member in members if member.device_id in device_ids]

    def _lock(self, account_id: AccountId) -> asyncio.Lock:
        return self._locks[account_id[0] % LOCKS]

    async def _follow(self, account_id: AccountId) -> None:
        try:
            await self._bus.subscribe(account_id, partial(self._receive, account_id))
        except BaseException:
            # Also when the joining was given up half-way: the next to join must not think it is followed.
            del self._members[account_id]
            await self._bus.unsubscribe(account_id)
            raise

    def _receive(self, account_id: AccountId, notice: Notice) -> None:
        members = list(self._members.get(account_id, ()))
        if isinstance(notice, NoticesLost):
            self._compare_soon(members)
            return
        if isinstance(notice, HeadMoved) and notice.changes:
            self._deliver(members, notice)
            return
        for member in members:
            member.notice(notice)

    def _deliver(self, members: list[Member], notice: HeadMoved) -> None:
        delivery, sent = Delivery(notice), 0
        for member in members:
            if member.deliver(delivery):
                sent += 1
            else:
                member.notice(notice)
        if sent:
            passed_s = time.time() - notice.changes[-1].appended_at_ms / 1_000
            self._metrics.changes_delivered.add(len(notice.changes) * sent)
            self._metrics.delivery_seconds.observe(max(0.0, passed_s), sent)

    # --- after lost notices ---

    def _compare_soon(self, members: list[Member]) -> None:
        self._to_compare.update(dict.fromkeys(members))
        for _ in range(min(len(members), COMPARING_AT_ONCE_MAX - len(self._comparing))):
            task = asyncio.create_task(self._compare())
            self._comparing.add(task)
            task.add_done_callback(self._comparing.discard)

    async def _compare(self) -> None:
        while self._to_compare:
            member = _take_first(self._to_compare)
            await _turn(member.compare())
            self._to_compare_witnesses[member] = None
        if self._witness_turn.locked():
            return
        # One session at a time, and after all others: a witness is worth no haste.
        async with self._witness_turn:
            while self._to_compare_witnesses:
                await _turn(_take_first(self._to_compare_witnesses).compare_witnesses())


async def _turn(work: Awaitable[None]) -> None:
    """One member's turn; its failure costs the others nothing."""
    try:
        await work
    except Exception as exc:
        log.get().error("a session could not compare", exc_info=exc)


def _take_first(members: dict[Member, None]) -> Member:
    """The one that waits longest."""
    member = next(iter(members))
    del members[member]
    return member
