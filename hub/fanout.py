"""Who on this replica belongs to which account: from one notice to the sessions it concerns.

The bus is followed with an account's first session and left with its last.  A
notice is handed over by a plain call, so nothing queues here: each session bounds
its own queue, and one that fails is closed without costing the others anything.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from hub.bus import Bus, Notice
from hub.errors import Refusal
from hub.terms import AccountId, DeviceId

LOCKS = 64


class Member(Protocol):
    """A session as the fan-out sees it."""

    device_id: DeviceId

    def notice(self, notice: Notice) -> None:
        """Take a notice; must not block, must not raise."""


class Fanout:
    """The members of every account that has a session here."""

    def __init__(self, bus: Bus, *, sessions_per_account_max: int) -> None:
        self._bus = bus
        self._max = sessions_per_account_max
        self._members: dict[AccountId, set[Member]] = {}
        # Following and leaving the bus must not overtake each other for one account; a few
        # locks shared by all accounts do that without growing with them.
        self._locks = [asyncio.Lock() for _ in range(LOCKS)]

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
                await self._bus.subscribe(account_id, lambda notice: self._receive(account_id, notice))

    async def leave(self, account_id: AccountId, member: Member) -> None:
        """``member`` hears nothing more.  Leaving twice, or without having joined, does nothing."""
        async with self._lock(account_id):
            members = self._members.get(account_id, set())
            members.discard(member)
            if not members and self._members.pop(account_id, None) is not None:
                await self._bus.unsubscribe(account_id)

    def device_ids(self) -> set[DeviceId]:
        """The devices of all sessions here, for the revocation re-check."""
        return {member.device_id for members in self._members.values() for member in members}

    def members_of_devices(self, device_ids: set[DeviceId]) -> list[Member]:
        """The sessions of these devices."""
        return [member for members in self._members.values() for member in members if member.device_id in device_ids]

    def _lock(self, account_id: AccountId) -> asyncio.Lock:
        return self._locks[account_id[0] % LOCKS]

    def _receive(self, account_id: AccountId, notice: Notice) -> None:
        for member in list(self._members.get(account_id, ())):
            member.notice(notice)
