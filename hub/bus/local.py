"""The bus of one process: a notice goes to this replica's own receiver, a turn of the loop later.

The delay is on purpose: the publisher has finished what it was doing, and its
own answer is out, before anybody hears of it.
"""

from __future__ import annotations

import asyncio

from hub.bus import Bus, Notice, Receiver
from hub.terms import AccountId


class LocalBus:
    """Keeps one receiver an account."""

    def __init__(self) -> None:
        self._receivers: dict[AccountId, Receiver] = {}

    async def open(self) -> None:
        """Nothing to prepare."""

    async def close(self) -> None:
        """Forget all receivers."""
        self._receivers.clear()

    def publish(self, account_id: AccountId, notice: Notice) -> None:
        """Deliver in the next turn of the running loop."""
        if account_id in self._receivers:
            asyncio.get_running_loop().call_soon(self._deliver, account_id, notice)

    async def subscribe(self, account_id: AccountId, receiver: Receiver) -> None:
        """Deliver to ``receiver`` from now on."""
        self._receivers[account_id] = receiver

    async def unsubscribe(self, account_id: AccountId) -> None:
        """Deliver no more."""
        self._receivers.pop(account_id, None)

    def _deliver(self, account_id: AccountId, notice: Notice) -> None:
        receiver = self._receivers.get(account_id)
        if receiver:
            receiver(notice)


_: type[Bus] = LocalBus
