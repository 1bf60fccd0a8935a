"""The bus of many replicas: Redis or Valkey carries notices from each replica to the others.

One channel an account, heard while the account has a session here; in a cluster the
channels are spread over its nodes (sharded pub/sub).  The promises, with Redis or without:

* This replica's own receivers hear a notice as on the local bus, a turn of the loop
  later; Redis is not in their way.  What comes back from Redis of our own is dropped.
* ``publish`` only queues.  What does not fit, cannot be sent or gets no answer is
  dropped; the account is remembered, and when Redis carries again the other replicas
  are told ``NoticesLost``.
* After every gap in the hearing - a new connection, a moved slot, a ``subscribe`` that
  Redis confirms late - the account's receiver here gets ``NoticesLost``.
* Whatever is not a parcel of this hub (``bus/parcel.py``) is dropped and counted.

Nothing here waits for Redis longer than its deadlines, and nothing fails without it.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import RedisError, ResponseError

from hub import log
from hub.bus import Bus, Notice, NoticesLost, Receiver
from hub.bus.local import LocalBus
from hub.bus.parcel import ORIGIN_BYTES, Parcels, Refused
from hub.bus.redis_link import (
    BROKEN,
    CONNECT_WITHIN_S,
    PLAIN,
    SHARDED,
    Address,
    Asked,
    Link,
    Target,
    ask_once,
)
from hub.terms import AccountId

OPEN_WITHIN_S = 2.0
SUBSCRIBE_WITHIN_S = 1.0  # a session waits this long before it goes on and hears the rest later
CLOSE_WITHIN_S = 1.0  # for what is still to be sent: the last notices of a replica that goes away
SUBSCRIBE_BATCH = 500
DELIVER_BATCH = 200
LOST_ACCOUNTS_MAX = 2_000  # remembered one by one; beyond it every account is told
TELL_LOST_AFTER_S = 0.5
LOOK_AGAIN_S = 5.0  # at a cluster's slots, when nothing says that they moved
LOOK_AGAIN_S_MIN = 0.25
WARN_EVERY_S = 60.0

SlotRange = tuple[int, int, Address]


@dataclass(slots=True, eq=False)
class _Channel:
    """A channel this replica wants to hear."""

    name: bytes
    account_id: AccountId | None  # None: the channel of every account
    link: Link | None = None
    asked: bool = False  # on ``link``, since it is up
    confirmed: bool = False
    waiters: list[asyncio.Future[None]] = field(default_factory=list)

    def release(self) -> None:
        """Let those go on who wait for the confirmation."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.waiters.clear()


class RedisBus:
    """The bus of one replica.  ``connected`` hears whether Redis carries; ``counted`` hears what became of a notice:
    "sent", "dropped", "received" or "refused", and of how many; ``took`` hears how many seconds Redis needed to take
    each of some.  All are plain calls."""

    def __init__(
        self,
        url: str,
        internal_key: bytes,
        *,
        connected: Callable[[bool], None] = lambda carries: None,
        counted: Callable[[str, int], None] = lambda outcome, number: None,
        took: Callable[[Sequence[float]], None] = lambda seconds: None,
    ) -> None:
        """Raises ``ValueError`` with a sentence, free of secrets, when the URL cannot be used."""
        self._target = Target(url)
        self._parcels = Parcels(internal_key, os.urandom(ORIGIN_BYTES))
        self._tell_connected = connected
        self._count = counted
        self._took = took
        self._local = LocalBus()
        self._channels: dict[bytes, _Channel] = {}
        self._followed: dict[AccountId, _Channel] = {}  # of these, those of one account each
        self._links: dict[Address, Link] = {}
        self._ready: set[Link] = set()  # up, and everything asked for is heard there
        self._ranges: list[SlotRange] = []  # of a cluster only, as it last said
        self._owners: list[Link | None] = []  # the same by slot
        self._adrift: set[bytes] = set()  # channels that the node which had them refused
        self._owners_doubtful = asyncio.Event()
        self._tasks: dict[object, asyncio.Task[None]] = {}
        self._carries = asyncio.Event()
        self._lost: set[AccountId] = set()
        self._lost_all = False
        self._lost_told_soon: asyncio.TimerHandle | None = None
        self._warned_at: dict[str, float] = {}
        self._why: Exception | None = None  # the last thing that went wrong
        self._closed = False

    @property
    def connected(self) -> bool:
        """Whether Redis carries every account's notices now."""
        return self._carries.is_set()

    # --- the promise of a bus ---

    async def open(self) -> None:
        """Ready to carry; or, when Redis does not answer in time, ready to go on alone until it does."""
        self._closed = False
        self._tell_connected(False)
        self._want(self._parcels.everyone, None)
        if self._target.cluster:
            self._ranges, self._owners = [], [None] * REDIS_CLUSTER_HASH_SLOTS
            self._tasks["owners"] = asyncio.create_task(self._follow_owners())
        else:
            self._add_link(self._target.seeds[0])
            self._place(self._channels.values())
        try:
            async with asyncio.timeout(OPEN_WITHIN_S):
                await self._carries.wait()
        except TimeoutError:
            log.get().warning("Redis does not answer; this replica goes on alone", bus="redis", exc_info=self._why)
        except asyncio.CancelledError:
            await self.close()
            raise

    async def close(self) -> None:
        """Send what waits, as far as there is time; then stop.  Receivers hear no more; no task or socket is left."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await asyncio.gather(*(link.settled() for link in self._links.values()))
        self._closed = True
        self._carries.clear()
        self._tell_connected(False)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._lost_told_soon:
            self._lost_told_soon.cancel()
            self._lost_told_soon = None
        for channel in self._channels.values():
            channel.release()
        for state in (self._tasks, self._links, self._channels, self._followed, self._ready, self._lost):
            state.clear()
        await self._local.close()

    def publish(self, account_id: AccountId, notice: Notice) -> None:
        """Deliver here in the next turn of the loop; send to the other replicas soon, or remember that it was lost."""
        self._local.publish(account_id, notice)
        # Whoever publishes mostly follows the account too: then the name need not be made again.
        followed = self._followed.get(account_id)
        channel = followed.name if followed else self._parcels.channel(account_id)
        link = followed.link if followed and followed.link else self._owner(channel)
        if not (link and link.up and link.publish(channel, self._parcels.wrap(channel, notice), account_id)):
            self._lose(account_id, tell=link is not None and link.up)

    async def subscribe(self, account_id: AccountId, receiver: Receiver) -> None:
        """Deliver to ``receiver`` from now on.  When Redis does not confirm in time, what the other replicas publish
        is heard later, and ``NoticesLost`` first."""
        await self._local.subscribe(account_id, receiver)
        channel = self._followed[account_id] = self._want(self._parcels.channel(account_id), account_id)
        self._place([channel])
        if channel.confirmed or not channel.asked:
            return
        waiter = asyncio.get_running_loop().create_future()
        channel.waiters.append(waiter)
        try:
            await asyncio.wait([waiter], timeout=SUBSCRIBE_WITHIN_S)
        finally:
            if waiter in channel.waiters:
                channel.waiters.remove(waiter)

    async def unsubscribe(self, account_id: AccountId) -> None:
        """Deliver no more."""
        await self._local.unsubscribe(account_id)
        channel = self._followed.pop(account_id, None)
        if channel:
            del self._channels[channel.name]
            channel.release()
            self._leave(channel)

    # --- which channel is heard on which link ---

    def _want(self, name: bytes, account_id: AccountId | None) -> _Channel:
        return self._channels.setdefault(name, _Channel(name, account_id))

    def _owner(self, name: bytes) -> Link | None:
        if self._target.cluster:
            return self._owners[key_slot(name)] if self._owners else None
        return self._links.get(self._target.seeds[0])

    def _place(self, channels: Iterable[_Channel]) -> None:
        """Hear each channel on the link that owns it now, and nowhere else."""
        for channel in channels:
            owner = self._owner(channel.name)
            if owner is not channel.link:
                self._leave(channel)
                channel.link = owner
            if owner and owner.up and not channel.asked:
                channel.asked = True
                owner.subscribe(channel.name)

    def _leave(self, channel: _Channel) -> None:
        if channel.link and channel.link.up and channel.asked:
            channel.link.unsubscribe(channel.name)
        channel.link, channel.asked, channel.confirmed = None, False, False

    def _add_link(self, address: Address) -> None:
        words = SHARDED if self._target.cluster else PLAIN
        link = self._links[address] = Link(address, lambda: self._target.connection(address), words, self)
        self._tasks[address] = asyncio.create_task(link.run())

    def _show_connected(self, why: Exception | None = None) -> None:
        carries = bool(self._links) and self._ready.issuperset(self._links.values()) and None not in self._owners
        if carries == self._carries.is_set() or self._closed:
            return
        if carries:
            self._carries.set()
            log.get().info("Redis carries notices", bus="redis")
        else:
            self._carries.clear()
            log.get().warning("Redis does not carry notices; devices learn by their pings", bus="redis", exc_info=why)
        self._tell_connected(carries)

    # --- what a link tells ---

    async def came_up(self, link: Link) -> None:
        """Hear everything again, in batches so that the rest of the hub gets its turns; then tell what was lost."""
        mine = [channel for channel in self._channels.values() if channel.link is link]
        mine.sort(key=lambda channel: channel.account_id is not None)  # what is for every account comes first
        for start in range(0, len(mine), SUBSCRIBE_BATCH):
            wanted = [one for one in mine[start : start + SUBSCRIBE_BATCH] if self._channels.get(one.name) is one]
            self._place(wanted)
            await link.settled()
        await link.settled()
        self._ready.add(link)
        self._show_connected()
        self._tell_lost()

    def went_down(self, link: Link, unsure: list[Asked], why: Exception) -> None:
        """Forget what was heard there, and remember whose notices perhaps did not get through."""
        self.failed(link, why)
        self._ready.discard(link)
        for channel in self._channels.values():
            if channel.link is link:
                channel.asked = channel.confirmed = False
                channel.release()
        for asked in unsure:
            self._lose(asked.account_id, tell=False)
        self._show_connected(why)

    def failed(self, link: Link, why: Exception) -> None:
        """In a cluster somebody else may have its slots by now."""
        self._note(why)
        self._owners_doubtful.set()

    def _note(self, why: Exception) -> None:
        self._why = why
        if isinstance(why, BROKEN):
            why.with_traceback(None)  # where in the library an ordinary failure came up says nothing
        else:
            log.get().error("the bus met a surprise; it tries again", bus="redis", exc_info=why)

    def message(self, channel: bytes, parcel: bytes) -> None:
        """Hand a notice of another replica to the receivers here."""
        wanted = self._channels.get(channel)
        if wanted is None or self._parcels.is_own(parcel):
            return
        try:
            notice = self._parcels.unwrap(channel, parcel)
        except Refused:
            self._count("refused", 1)
            if self._may_warn("forged"):
                log.get().warning("a notice that is none of this hub's was refused", bus="redis")
            return
        self._count("received", 1)
        if wanted.account_id is None:
            self._deliver_to_all(list(self._channels.values()), notice)
        else:
            self._local.publish(wanted.account_id, notice)

    def confirmed(self, link: Link, channel: bytes) -> None:
        """Let the subscriber go on; when none waits, this is a later confirmation, and there was a gap."""
        heard = self._channels.get(channel)
        if heard is None or heard.link is not link:
            return
        first = bool(heard.waiters)
        heard.confirmed = True
        heard.release()
        if heard.account_id is None:
            # Those on this link are confirmed after it, each by itself.
            self._deliver_to_all([one for one in self._channels.values() if one.link is not link], NoticesLost())
        elif not first:
            self._local.publish(heard.account_id, NoticesLost())

    def taken_away(self, link: Link, channel: bytes) -> None:
        """The slot has moved: ask the cluster where to."""
        heard = self._channels.get(channel)
        if heard and heard.link is link:
            heard.link, heard.asked, heard.confirmed = None, False, False
            self._adrift.add(channel)
            self._owners_doubtful.set()

    def published(self, notices: Sequence[Asked]) -> None:
        """Count them."""
        self._count("sent", len(notices))
        now = asyncio.get_running_loop().time()
        self._took([now - asked.at for asked in notices])

    def refused(self, link: Link, asked: Asked, error: ResponseError) -> None:
        """In a cluster the slot has another owner, or none for the moment; elsewhere a right is missing."""
        if asked.size:
            self._lose(asked.account_id, tell=True)
        if self._target.cluster:
            if not asked.size:
                self.taken_away(link, asked.channel)
            self._owners_doubtful.set()
        elif not asked.size:
            raise error
        if self._may_warn("refused"):
            log.get().warning("Redis refused a command", bus="redis", exc_info=error.with_traceback(None))

    def _deliver_to_all(self, channels: list[_Channel], notice: Notice, start: int = 0) -> None:
        """A few in each turn of the loop: with thousands of accounts the rest of the hub would notice."""
        for channel in channels[start : start + DELIVER_BATCH]:
            if channel.account_id is not None:
                self._local.publish(channel.account_id, notice)
        if start + DELIVER_BATCH < len(channels):
            asyncio.get_running_loop().call_soon(self._deliver_to_all, channels, notice, start + DELIVER_BATCH)

    # --- what was lost ---

    def _lose(self, account_id: AccountId | None, *, tell: bool) -> None:
        """Remember that the other replicas miss a notice of this account (None: of any)."""
        self._count("dropped", 1)
        if account_id is None or len(self._lost) >= LOST_ACCOUNTS_MAX:
            self._lost_all = self._lost_all or account_id not in self._lost
        elif not self._lost_all:
            self._lost.add(account_id)
        if self._lost_all:
            self._lost.clear()
        if tell:
            self._tell_lost_soon()

    def _tell_lost_soon(self) -> None:
        if not self._lost_told_soon and not self._closed:
            loop = asyncio.get_running_loop()
            self._lost_told_soon = loop.call_later(TELL_LOST_AFTER_S, self._tell_lost_again)

    def _tell_lost_again(self) -> None:
        self._lost_told_soon = None
        self._tell_lost()
        if self._ready and (self._lost or self._lost_all):
            self._tell_lost_soon()

    def _tell_lost(self) -> None:
        """Tell the other replicas, as far as Redis takes it; what it does not take stays remembered."""
        if self._lost_all:
            self._lost_all = not self._say_lost(self._parcels.everyone, None)
        self._lost = {one for one in self._lost if not self._say_lost(self._parcels.channel(one), one)}

    def _say_lost(self, channel: bytes, account_id: AccountId | None) -> bool:
        link = self._owner(channel)
        return bool(link and link.up and link.publish(channel, self._parcels.wrap(channel, NoticesLost()), account_id))

    def _may_warn(self, about: str) -> bool:
        """Whether a line about this is due: one a minute, however many there would be."""
        now = asyncio.get_running_loop().time()
        due = now - self._warned_at.get(about, -WARN_EVERY_S) >= WARN_EVERY_S
        if due:
            self._warned_at[about] = now
        return due

    # --- a cluster's slots ---

    async def _follow_owners(self) -> None:
        """Keep the links and the places of the channels as the cluster has its slots."""
        while True:
            self._owners_doubtful.clear()
            ranges = await self._ask_owners()
            if ranges:
                self._own(ranges)
            await asyncio.sleep(LOOK_AGAIN_S_MIN * random.uniform(0.5, 1.0))
            if ranges:  # else nobody answered, and somebody is asked again
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_AGAIN_S):
                        await self._owners_doubtful.wait()

    async def _ask_owners(self) -> list[SlotRange]:
        """Who owns which slots, from the first node that answers; empty when none does."""
        known = list(dict.fromkeys([*self._links, *self._target.seeds]))
        random.shuffle(known)
        known.sort(key=lambda address: not (address in self._links and self._links[address].up))
        for address in known:
            try:
                async with asyncio.timeout(CONNECT_WITHIN_S):
                    answer = await ask_once(self._target.connection(address), b"CLUSTER", b"SLOTS")
                return _slot_ranges(answer, address)
            except Exception as exc:  # of any kind: a cluster that nobody follows would be lost for ever
                self._note(exc)
        return []

    def _own(self, ranges: list[SlotRange]) -> None:
        adrift, self._adrift = self._adrift, set()
        if ranges == self._ranges:
            self._place(self._channels[name] for name in adrift if name in self._channels)
            return
        self._ranges = ranges
        wanted = {address for _, _, address in ranges}
        for address in self._links.keys() - wanted:
            self._ready.discard(self._links.pop(address))
            self._tasks.pop(address).cancel()
        for address in wanted - self._links.keys():
            self._add_link(address)
        self._owners = [None] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, address in ranges:
            self._owners[first : last + 1] = [self._links[address]] * (last + 1 - first)
        self._place(self._channels.values())
        self._show_connected()


def _slot_ranges(answer: object, asked: Address) -> list[SlotRange]:
    """What a node says of CLUSTER SLOTS: first and last slot, and the primary that owns them."""
    try:
        return [
            # A node that does not know its own name says nothing; it is the one that was asked.
            (int(first), int(last), Address((primary[0] or b"").decode() or asked.host, int(primary[1])))
            for first, last, primary, *_ in cast(Iterable[Any], answer)
        ]
    except (TypeError, ValueError, IndexError):
        raise RedisError("no list of slots") from None


_: type[Bus] = RedisBus
