"""Takes accounts to another hub, one after the other, so that each is away for its own time only.

An account goes through these steps, and what was interrupted at any of them is found
in the two stores and gone on with:

1. *here* it begins to move: its devices are sent away and come back later
2. its rows are loaded *there*, where it is still closed
3. the rows that arrived are compared with those that were sent
4. *there* it is let in
5. *here* its rows go; what stays is where each of its devices shall dial
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

from hub.admin.way import Do
from hub.backup.files import Tell, together
from hub.backup.restoring import PAGE, NotPossible, stranger
from hub.bundle import Tally
from hub.errors import Refusal
from hub.store import ARRIVING, Account, Happening, Row, Store
from hub.terms import AccountId


class Carried(NamedTuple):
    """What one account took along."""

    devices: int
    changes: int
    away_s: float  # how long its devices were kept out; 0.0 when it had arrived before


@dataclass(frozen=True, slots=True)
class Move:
    """One move: from ``here``, which is only read, and operated through ``do``, to ``there``.

    ``url`` is where devices dial there.  ``same_secrets``: both hubs have the same, so
    address tags and operators go along.
    """

    here: Store
    do: Do
    there: Store
    url: str
    same_secrets: bool
    tell: Tell

    async def all_accounts(self) -> list[AccountId]:
        """The accounts here, but for those that are just arriving from elsewhere."""
        found: list[AccountId] = []
        after = b""
        while page := await self.here.accounts(after=after, limit=PAGE):
            found += [facts.account.account_id for facts in page if facts.account.moving_to != ARRIVING]
            after = page[-1].account.account_id
        return found

    async def carry(self, account_id: AccountId) -> Carried | None:
        """Take one account all the way; None when it had gone all the way before.

        Raises ``NotPossible``, ``StoreUnavailable``, ``Refusal``; then it is where it was, or closed at both
        ends until this is called again or ``cancel`` is.
        """
        mine, theirs = await self.here.account(account_id), await self.there.account(account_id)
        if mine is None:
            if theirs is None or theirs.moving_to == ARRIVING:
                raise NotPossible(f"There is no account {account_id.hex()} here.")
            return None
        self._refuse(mine, theirs)
        if theirs is not None and theirs.moving_to != ARRIVING:
            await self._end(account_id)
            return Carried(0, 0, 0.0)
        begun = time.monotonic()
        await self.do("begin_move", {"account_id": account_id.hex(), "url": self.url})
        if theirs is not None:
            await self.there.delete_account(account_id)
        sent = await self._load(account_id)
        if sent != await self._arrived(account_id):
            await self._take_back(account_id)
            raise NotPossible(
                f"Account {account_id.hex()} did not arrive as it was sent. It is back here; nothing is lost."
            )
        await self.there.note([Happening(account_id, time.time(), "moved_here", "operator")])
        await self.there.end_load([account_id])
        await self._end(account_id)
        return Carried(sent.rows.get("device", 0), sent.rows.get("change", 0), time.monotonic() - begun)

    async def cancel(self, account_id: AccountId) -> bool:
        """Let an account in here again, and remove what arrived there; False when it was not moving.

        Raises ``NotPossible`` when it has arrived already.
        """
        mine, theirs = await self.here.account(account_id), await self.there.account(account_id)
        if mine is None:
            raise NotPossible(f"There is no account {account_id.hex()} here.")
        if mine.moving_to in ("", ARRIVING):
            return False
        if theirs is not None and theirs.moving_to != ARRIVING:
            raise NotPossible(
                f"Account {account_id.hex()} is open at the other hub already, and may have changed there. "
                "Run the same hub move as before: it only has to be ended here."
            )
        await self._take_back(account_id)
        return True

    def _refuse(self, mine: Account, theirs: Account | None) -> None:
        name = mine.account_id.hex()
        if mine.moving_to == ARRIVING:
            raise NotPossible(f"Account {name} is still arriving here itself.")
        if mine.moving_to not in ("", self.url):
            raise NotPossible(f"Account {name} is moving to {mine.moving_to} already; end that, or take it back first.")
        if not mine.moving_to and theirs is not None and theirs.moving_to != ARRIVING:
            raise NotPossible(f"There is an account {name} at the other hub already; nothing was moved.")

    async def _load(self, account_id: AccountId) -> Tally:
        """Send its rows there; what was sent."""
        sent, done = Tally(), 0
        async with self._rows(account_id) as rows:
            async for some in together(rows):
                try:
                    await self.there.load(some)
                except Refusal as refusal:
                    await self._take_back(account_id)
                    raise NotPossible(
                        f"The other hub cannot take account {account_id.hex()}: {refusal.message}. It is back here."
                    ) from refusal
                for row in some:
                    sent.add(row)
                    done += sum(len(value) for value in row[1] if isinstance(value, bytes))
                self.tell(done)
        return sent

    @asynccontextmanager
    async def _rows(self, account_id: AccountId) -> AsyncIterator[AsyncIterator[Row]]:
        """Its rows, as the hub there can take them."""

        async def fitting(rows: AsyncIterator[Row]) -> AsyncIterator[Row]:
            async for row in rows:
                fits = row if self.same_secrets else stranger(row)
                if fits is not None:
                    yield fits

        async with self.here.dump([account_id]) as rows:
            yield fitting(rows)

    async def _arrived(self, account_id: AccountId) -> Tally:
        tally = Tally()
        async with self.there.dump([account_id]) as rows:
            async for row in rows:
                tally.add(row)
        return tally

    async def _take_back(self, account_id: AccountId) -> None:
        """First it goes there, then it is let in here: it is never open twice."""
        await self.there.delete_account(account_id)
        await self.do("cancel_move", {"account_id": account_id.hex()})

    async def _end(self, account_id: AccountId) -> None:
        await self.do("end_move", {"account_id": account_id.hex()})
