"""The bus of one process: a notice goes to this replica's own receiver, a turn of the loop later.

The delay is on purpose: the publisher has finished what it was doing, and its
own answer is out, before anybody hears of it.
"""

from __future__ import annotations

import asyncio
from collections import deque

from hub.bus import Bus, Notice, Receiver
from hub.terms import AccountId


class LocalBus:
    """Keeps one receiver an account."""

    def __init__(self) -> None:
        self._receivers: dict[AccountId, Receiver] = {}
        self._waiting: deque[tuple[AccountId, Notice]] = deque()
        self._is_due = False  # what waits is delivered in the next turn

    async def open(self) -> None:
        """Nothing to prepare."""

    async def close(self) -> None:
        """Forget all receivers."""
        self._receivers.clear()

    def publish(self, account_id: AccountId, notice: Notice) -> None:
        """Deliver in the next turn of the running loop."""
        if account_id in self._receivers:
            self._waiting.append((account_id, notice))
            self._deliver_soon()

    async def subscribe(self, account_id: AccountId, receiver: Receiver) -> None:
        """Deliver to ``receiver`` from now on."""
        self._receivers[account_id] = receiver

    async def unsubscribe(self, account_id: AccountId) -> None:
        """Deliver no more."""
        self._receivers.pop(account_id, None)

    def _deliver_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._deliver_all)

    def _deliver_all(self) -> None:
        self._is_due = False
        try:
            # Only these: what is published meanwhile has its own turn.
            for _ in range(len(self._waiting)):
                self._deliver(*self._waiting.popleft())
        finally:
            if self._waiting:
                self._deliver_soon()  # one receiver that failed costs the others nothing

    def _deliver(self, account_id: AccountId, notice: Notice) -> None:
        receiver = self._receivers.get(account_id)
        if receiver:
            receiver(notice)


_: type[Bus] = LocalBus
