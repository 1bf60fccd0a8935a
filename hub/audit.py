"""What happened on an account: told to its sessions at once, and kept in its audit list.

An entry has an account, a word, a device and what it was done to; never a text, an
address or where somebody came from.  Keeping it must not undo what has happened, so an
entry that the store does not take now waits in memory and goes with the next ``flush``.
What comes in floods, refused keys and proofs, is only counted here and written by
``flush``.  Both are bounded: what is beyond is dropped, oldest first kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from hub.bus import AccountChanged, Bus
from hub.errors import StoreUnavailable
from hub.store import Happening, Store
from hub.terms import AccountId, DeviceId, SpaceId

WAITING_MAX = 1_000  # entries that the store did not take yet
TALLIES_MAX = 1_000  # of (account, word, device, space) that are counted at one time
TALLY_MAX = 60  # counted of one of them between two flushes

# Of these a device may make as many as it likes: they add up to one entry a day.
_ADD_UP = frozenset(
    {
        "space_deletion_set",
        "space_deletion_cancelled",
        "account_deletion_set",
        "account_deletion_cancelled",
        "exported",
        "code_confirmed",
        "operator_entered",
    }
)


class Tallied(NamedTuple):
    """Something that adds up: one entry a day."""

    account_id: AccountId
    what: str  # "key_refused" or "proof_refused"
    device_id: DeviceId
    space_id: SpaceId


class Audit:
    """Tells and keeps what happens.  ``clock`` gives Unix seconds."""

    def __init__(self, store: Store, bus: Bus, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._bus = bus
        self._clock = clock
        self._waiting: list[Happening] = []
        self._tallies: Counter[Tallied] = Counter()

    async def tell(
        self,
        account_id: AccountId,
        what: str,
        *,
        by: DeviceId = b"",
        device_id: DeviceId = b"",
        space_id: SpaceId = b"",
        at: float = 0.0,
    ) -> None:
        """Keep it, and tell every session of the account (``at`` as ``AccountNotice`` has it).

        ``by`` is the device that did it; without it the hub did.  Nothing is awaited after
        the notice is on its way, so whoever answers next is heard before it.
        """
        await self.note(account_id, what, by=by, subject_id=device_id or space_id)
        self._bus.publish(account_id, AccountChanged(what, device_id, space_id, at))

    async def note(self, account_id: AccountId, what: str, *, by: DeviceId = b"", subject_id: bytes = b"") -> None:
        """Keep it, and tell nobody.  Never raises ``StoreUnavailable``: then it is kept later."""
        actor = "device" if by else "hub"
        happening = Happening(account_id, self._clock(), what, actor, by, subject_id, what in _ADD_UP)
        try:
            await self._store.note([happening])
        except StoreUnavailable:
            self._wait([happening])

    def tally(self, what: Tallied) -> None:
        """Count it until the next ``flush``."""
        if what not in self._tallies and len(self._tallies) >= TALLIES_MAX:
            return
        self._tallies[what] = min(self._tallies[what] + 1, TALLY_MAX)

    async def flush(self) -> None:
        """Keep what waits and what was counted.  Raises ``StoreUnavailable``, and loses nothing by it."""
        now = self._clock()
        counted = [
            Happening(each.account_id, now, each.what, "device", each.device_id, each.space_id, adds_up=True)
            for each in self._tallies.elements()
        ]
        tallies, self._tallies = self._tallies, Counter()
        waiting, self._waiting = self._waiting, []
        try:
            if waiting or counted:
                await self._store.note([*waiting, *counted])
        except StoreUnavailable:
            later, self._waiting = self._waiting, []
            self._wait([*waiting, *later])
            for each, count in tallies.items():
                self._tallies[each] = min(self._tallies[each] + count, TALLY_MAX)
            raise

    def _wait(self, happenings: list[Happening]) -> None:
        self._waiting += happenings[: WAITING_MAX - len(self._waiting)]
