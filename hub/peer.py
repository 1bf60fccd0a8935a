"""One device's session and its socket: messages in, effects carried out, messages out.

A ``Peer`` gives each message to its ``Session``, carries out what the session wants, calls it when a
timer is due, and lets nothing more be read while the session has no room.  All of that are plain calls
out of the transport and the loop: an idle peer costs one task, the one that waits for its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Coroutine, Sequence
from math import inf
from typing import Any, Protocol

from hub import log
from hub.bus import Bus, Notice, SessionOpened
from hub.delivery import Delivery
from hub.effects import AppendDrafts, Ask, Close, Effect, JoinPairing, LeavePairing, LetIn, Noticed, Opened, Send
from hub.errors import CLOSINGS, HubError, Refusal, StoreUnavailable
from hub.fanout import Fanout, Member
from hub.inquiries import Orders, Stopped
from hub.meeting import place_of
from hub.metrics import Metrics
from hub.services import Services, Visitor
from hub.session import Session
from hub.socket import Socket
from hub.store import Device, Store
from hub.terms import DeviceId, Limits, Policy

FLUSH_WITHIN_S = 2.0  # how long queued messages may take to leave before a closing


class Home(Protocol):
    """What a peer needs of the server it belongs to."""

    hub_urls: Sequence[str]
    sign_up: str
    limits: Limits
    policy: Policy
    store: Store
    bus: Bus
    services: Services
    fanout: Fanout
    pairings: Fanout
    metrics: Metrics
    stopped: Stopped
    orders: Orders
    seen: set[DeviceId]

    def recheck_soon(self) -> None:
        """Ask soon which devices are stopped."""


class Peer:
    """One session and its socket."""

    __slots__ = (
        "_account_id",
        "_at_pairing",
        "_closed",
        "_ended",
        "_home",
        "_joining",
        "_loop",
        "_pairing_place",
        "_socket",
        "_tasks",
        "_timer",
        "_visitor",
        "_wakes_at",
        "device_id",
        "session",
    )

    def __init__(self, home: Home, socket: Socket, visitor: Visitor) -> None:
        self._home = home
        self._socket = socket
        self._visitor = visitor
        self._loop = asyncio.get_running_loop()
        self.device_id: DeviceId = b""
        self._account_id = b""
        self._joining = False
        self._ended: asyncio.Future[None] = self._loop.create_future()  # the connection is gone
        self._tasks: list[asyncio.Task[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_at = inf
        self._closed = False
        self._at_pairing: AtPairing | None = None
        self._pairing_place = b""
        self.session = Session(
            session_id=secrets.token_bytes(16),
            hub_urls=home.hub_urls,
            server_nonce=secrets.token_bytes(32),
            sign_up=home.sign_up,
            limits=home.limits,
            policy=home.policy,
            now=self._loop.time(),
        )

    async def run(self) -> None:
        """Serve the socket until it is gone; leaves no task and no registration behind.

        Raises what went wrong in the session, when that is why it ends.
        """
        self._apply([])
        try:
            self._socket.start(self)
            await self._ended
        finally:
            self._closed = True
            if self._timer:
                self._timer.cancel()
            self.session.end("going_away")
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._account_id:
                await self._home.fanout.leave(self._account_id, self)
            await self._leave_pairing()

    def notice(self, notice: Notice) -> None:
        """The bus has something for this session."""
        self._apply(self.session.noticed(notice, self._loop.time()))

    def deliver(self, delivery: Delivery) -> bool:
        """New changes; False when ``notice`` has to look at them."""
        frame = self.session.deliver(delivery)
        if frame:
            self._socket.send_soon(frame)
            return True
        return False

    def send_away(self, retry_after_s: float, within_s: float) -> None:
        """The hub is about to stop: let the session finish and close it, at the latest ``within_s`` from now."""
        self._apply(self.session.go_away(retry_after_s, self._loop.time(), within_s=within_s))

    async def compare(self) -> None:
        """Be heard by an older session of the device, and catch up with the store.

        One question at a time; what the store does not answer the session asks again by itself.
        """
        if self._closed:
            return
        self._announce()
        await self._recheck()
        for effect in self.session.compare(self._loop.time()):
            assert isinstance(effect, Ask)
            await self._answer(effect.token, effect.what)

    async def compare_witnesses(self) -> None:
        """Ask for the witnesses this session was not told of, a collection at a time."""
        while ask := self.session.ask_witness():
            await self._answer(ask.token, ask.what)

    def apply(self, effects: list[Effect]) -> None:
        """Carry out effects the server itself caused."""
        self._apply(effects)

    # --- what the socket tells ---

    def received(self, message: bytes | str) -> None:
        """A message has come."""
        self._home.metrics.received_bytes.add(len(message))
        self._apply(self.session.received(message, self._loop.time()))
        if not self.session.has_room():
            self._socket.held = not self._closed

    def sent(self, count: int) -> None:
        """So many bytes of messages have left."""
        self._home.metrics.sent_bytes.add(count)
        if effects := self.session.sent(count, self._loop.time()):
            self._apply(effects)

    def failed(self, exc: Exception) -> None:
        """The session has a fault: ``run`` raises it, and the library closes with 1011."""
        self._closed = True
        if not self._ended.done():
            self._ended.set_exception(exc)

    def lost(self) -> None:
        """The connection is gone."""
        if not self._ended.done():
            self._ended.set_result(None)

    def _read_on(self) -> None:
        """Take messages again if nothing stands against it any more."""
        if not self._joining and (self._closed or self.session.has_room()):
            self._socket.release()

    # --- effects ---

    def _apply(self, effects: list[Effect]) -> None:
        for effect in effects:
            if type(effect) is Send:  # nearly all are
                self._send(effect)
            else:
                self._carry_out(effect)
        if self._socket.held:
            self._read_on()
        # Timers mostly move later; a handle that fires too early costs one look and no cancellation.
        due = self.session.times.next
        if due is not None and due < self._wakes_at and not self._closed:
            self._wake_at(due)

    def _send(self, send: Send) -> None:
        self._socket.send_soon(send.frame)
        metrics = self._home.metrics
        if send.changes:
            metrics.changes_delivered.add(send.changes)
            if send.appended_at:
                metrics.delivery_seconds.observe(max(0.0, time.time() - send.appended_at))
        elif send.refusal:
            metrics.refusals.add(send.refusal)
        elif send.began:
            for began in send.began:
                metrics.recoveries.add(began.how)
                metrics.behind.observe(began.behind)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Ask(token=token, what=what):
                self._ask(token, what)
            case Close():
                self._close(effect)
            case Opened(device=device):
                # What follows may subscribe; the bus must be followed first.
                self._joining = self._socket.held = True
                self._spawn(self._join(device))
            case Noticed():
                self._home.services.noticed(effect, self.session)
            case LeavePairing():
                self._spawn(self._leave_pairing())
            case LetIn():
                self._socket.allow(self._home.limits.frame_bytes_max)

    def _ask(self, token: int, what: Any) -> None:
        if isinstance(what, AppendDrafts):
            self._home.services.append(what, lambda result: self._answered(token, result))
        elif not self._home.services.ask(what, self.session, lambda result: self._answered(token, result)):
            self._spawn(self._answer(token, what))

    async def _answer(self, token: int, what: Any) -> None:
        try:
            result = await self._home.services.answer(what, self.session, self._visitor)
            if isinstance(what, JoinPairing):
                await self._join_pairing(place_of(what.channel))
        except HubError as exc:
            result = exc
        except Exception as exc:
            # The peer is told nothing of it; the operator finds it under this line.
            log.get().error("a question of a session failed", message_type=type(what).__name__, exc_info=exc)
            result = exc
        self._answered(token, result)

    def _answered(self, token: int, result: Any) -> None:
        if not self._closed:
            self._apply(self.session.answered(token, result, self._loop.time()))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)

    async def _join(self, device: Device) -> None:
        self.device_id, self._account_id = device.device_id, device.account_id
        try:
            await self._home.fanout.join(device.account_id, self)
            # Asked when every later session of the device is heard: so of two that open at once, on
            # whatever replicas, the one with the lower order hears the other.
            order = await self._home.orders.next()
            self._apply(self.session.ordered(order, self._loop.time()))
            self._announce()
            # What stopped the device between the look-up and this moment was published to nobody here.
            if closing := await self._home.stopped.closing(device.device_id):
                self._apply(self.session.end(closing))
        except Refusal:
            self._apply(self.session.end("overloaded"))
        except StoreUnavailable:
            self._apply(self.session.end("internal"))
        except Exception as exc:
            log.get().error("a session could not begin", exc_info=exc)
            self._apply(self.session.end("internal"))
        self._home.seen.add(device.device_id)
        self._joining = False
        self._read_on()

    async def _join_pairing(self, place: bytes) -> None:
        await self._leave_pairing()
        self._pairing_place, self._at_pairing = place, AtPairing(self)
        await self._home.pairings.join(place, self._at_pairing)

    async def _leave_pairing(self) -> None:
        place, self._pairing_place = self._pairing_place, b""
        if place and self._at_pairing:
            await self._home.pairings.leave(place, self._at_pairing)

    def _announce(self) -> None:
        """Tell the device's other sessions which is the newest; one that is closed itself tells nothing."""
        if self.session.order and not self._closed:
            opened = SessionOpened(self.device_id, self.session.session_id, self.session.order)
            self._home.bus.publish(self._account_id, opened)

    async def _recheck(self) -> None:
        try:
            if closing := await self._home.stopped.closing(self.device_id):
                self._apply(self.session.end(closing))
        except StoreUnavailable:
            self._home.recheck_soon()

    # --- closing ---

    def _close(self, close: Close) -> None:
        if self._closed:
            return
        self._closed = True
        self._joining = False
        self._home.metrics.closings.add(close.name)
        log.get().debug("session closed", closing=close.name, device=self.device_id)
        self._spawn(self._shut(close))

    async def _shut(self, close: Close) -> None:
        if close.name == "revoked" and await self._has_moved():
            close = Close("moving", CLOSINGS["moving"].code, "moving")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_WITHIN_S):
                await self._socket.emptied()
        await self._socket.close(close.code, close.reason)

    async def _has_moved(self) -> bool:
        """Whether the device is gone from here because its account moved: it shall come back and be told where to."""
        try:
            async with asyncio.timeout(FLUSH_WITHIN_S):
                return bool(self.device_id) and await self._home.store.moved_device(self.device_id) is not None
        except (StoreUnavailable, TimeoutError):
            return False

    # --- time ---

    def _wake_at(self, due: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._wakes_at = due
        self._timer = self._loop.call_at(due, self._fire)

    def _fire(self) -> None:
        self._timer, self._wakes_at = None, inf
        now = self._loop.time()
        due = self.session.timer()
        self._apply(self.session.timer_fired(now) if due is not None and due <= now else [])


class AtPairing(Member):
    """A peer where a pairing's frames are handed over; of its account it hears elsewhere."""

    def __init__(self, peer: Peer) -> None:
        self.device_id: DeviceId = b""
        self._peer = peer

    def notice(self, notice: Notice) -> None:
        """A frame."""
        self._peer.notice(notice)

    def deliver(self, delivery: Delivery) -> bool:
        """Nobody appends here."""
        return False

    async def compare(self) -> None:
        """A lost frame is lost; the people who wait for it try again."""

    async def compare_witnesses(self) -> None:
        """There are none."""
