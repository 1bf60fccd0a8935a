"""The WebSocket shell: pumps frames between sockets and sessions, and carries out what sessions want.

One ``Peer`` is one socket: it reads a frame, gives it to its ``Session``, carries
out the effects, and stops reading while the session's queue is full.  One
``HubServer`` is the listening socket and the background work; whatever of that
dies takes the server down loudly instead of leaving it half alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakSet

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from hub import log
from hub.bus import Bus, Notice, SessionOpened
from hub.effects import AppendDrafts, Ask, Close, Effect, JoinPairing, LeavePairing, LetIn, Noticed, Opened, Send
from hub.errors import CLOSINGS, HubError, Refusal, StoreUnavailable
from hub.fanout import Fanout, Member
from hub.http import Door, Http
from hub.inquiries import Stopped
from hub.meeting import place_of
from hub.metrics import Metrics
from hub.services import Services, Visitor
from hub.session import LEAVE_WITHIN_S, Session
from hub.store import Device, Store
from hub.terms import SUBPROTOCOL, DeviceId, Limits, Policy

FLUSH_WITHIN_S = 2.0  # how long queued frames may take to leave before a closing
CLOSE_WITHIN_S = 5.0  # how long the closing handshake may take
REQUEST_WITHIN_S = 5.0  # how long a client may take to send its HTTP request
FRAMES_READ_AHEAD = 4  # bounds what one socket holds in memory before its session looks at it
WRITE_LIMIT = 65_536  # bytes handed to the socket before the writer waits
LOOK_EVERY_S = 3.0  # how often a running hub looks whether the log was restored under it
SESSIONS_PER_PAIRING_MAX = 4  # on one replica: the two that pair, and who may be told that they come too late
RETRY_AFTER_S = (1.0, 4.0)  # between these a device that is sent away comes back


class Peer(Member):
    """One socket and its session."""

    def __init__(self, server: HubServer, socket: ServerConnection, visitor: Visitor) -> None:
        self._server = server
        self._socket = socket
        self._visitor = visitor
        self._loop = asyncio.get_running_loop()
        self.device_id: DeviceId = b""
        self._account_id = b""
        self._out: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()
        self._flushed = asyncio.Event()
        self._joining: asyncio.Task[None] | None = None
        self._gone: asyncio.Future[None] = self._loop.create_future()  # done when the session is closed
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._at_pairing = AtPairing(self)
        self._pairing_place = b""
        self.session = Session(
            session_id=secrets.token_bytes(16),
            hub_urls=server.hub_urls,
            server_nonce=secrets.token_bytes(32),
            sign_up=server.sign_up,
            limits=server.limits,
            policy=server.policy,
            now=self._loop.time(),
        )

    async def run(self) -> None:
        """Serve the socket until it is gone; leaves no task and no registration behind."""
        writer = asyncio.create_task(self._write())
        self._reschedule()
        try:
            await self._read()
        finally:
            if self._timer:
                self._timer.cancel()
            self.session.end("going_away")
            for task in (writer, *self._tasks):
                task.cancel()
            await asyncio.gather(writer, *self._tasks, return_exceptions=True)
            if self._account_id:
                await self._server.fanout.leave(self._account_id, self)
            await self._leave_pairing()

    def notice(self, notice: Notice) -> None:
        """The bus has something for this session."""
        self._apply(self.session.noticed(notice, self._loop.time()))

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

    # --- the two pumps ---

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for frame in self._socket:
                self._server.metrics.received_bytes.add(len(frame))
                self._apply(self.session.received(frame, self._loop.time()))
                if self._joining:
                    # What follows may subscribe; the bus must be followed first.
                    await asyncio.wait([self._joining, self._gone], return_when=asyncio.FIRST_COMPLETED)
                    self._joining = None
                while not self.session.has_room() and not self._closed:
                    self._progress.clear()
                    await self._progress.wait()

    async def _write(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._out:
                    frame = self._out.popleft()
                    await self._socket.send(frame)
                    self._server.metrics.sent_bytes.add(len(frame))
                    self._apply(self.session.sent(len(frame), self._loop.time()))
                self._flushed.set()

    # --- effects ---

    def _apply(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(frame=frame):
                    self._count(effect)
                    self._out.append(frame)
                    self._flushed.clear()
                    self._wake.set()
                case Ask(token=token, what=what):
                    self._ask(token, what)
                case Close():
                    self._close(effect)
                case Opened(device=device):
                    self._joining = self._spawn(self._join(device))
                case Noticed():
                    self._server.services.noticed(effect, self.session)
                case LeavePairing():
                    self._spawn(self._leave_pairing())
                case LetIn():
                    # Semi-private in websockets 17; a test pins that it works.
                    self._socket.protocol.max_message_size = self._server.limits.frame_bytes_max
        self._progress.set()
        self._reschedule()

    def _count(self, send: Send) -> None:
        metrics = self._server.metrics
        metrics.changes_delivered.add(send.changes)
        if send.refusal:
            metrics.refusals.add(send.refusal)
        if send.appended_at:
            metrics.delivery_seconds.observe(max(0.0, time.time() - send.appended_at))
        for began in send.began:
            metrics.recoveries.add(began.how)
            metrics.behind.observe(began.behind)

    def _ask(self, token: int, what: Any) -> None:
        if isinstance(what, AppendDrafts):
            self._server.services.append(what, lambda result: self._answered(token, result))
        else:
            self._spawn(self._answer(token, what))

    async def _answer(self, token: int, what: Any) -> None:
        try:
            result = await self._server.services.answer(what, self.session, self._visitor)
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

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _join(self, device: Device) -> None:
        self.device_id, self._account_id = device.device_id, device.account_id
        try:
            await self._server.fanout.join(device.account_id, self)
            # Asked when every later session of the device is heard: so of two that open at once, on
            # whatever replicas, the one with the lower order hears the other.
            order = await self._server.store.session_order()
            self._apply(self.session.ordered(order, self._loop.time()))
            self._announce()
            # What stopped the device between the look-up and this moment was published to nobody here.
            if closing := await self._server.stopped.closing(device.device_id):
                self._apply(self.session.end(closing))
        except Refusal:
            self._apply(self.session.end("overloaded"))
        except StoreUnavailable:
            self._apply(self.session.end("internal"))
        except Exception as exc:
            log.get().error("a session could not begin", exc_info=exc)
            self._apply(self.session.end("internal"))
        self._server.seen.add(device.device_id)

    async def _join_pairing(self, place: bytes) -> None:
        await self._leave_pairing()
        self._pairing_place = place
        await self._server.pairings.join(place, self._at_pairing)

    async def _leave_pairing(self) -> None:
        place, self._pairing_place = self._pairing_place, b""
        if place:
            await self._server.pairings.leave(place, self._at_pairing)

    def _announce(self) -> None:
        """Tell the device's other sessions which is the newest; one that is closed itself tells nothing."""
        if self.session.order and not self._closed:
            opened = SessionOpened(self.device_id, self.session.session_id, self.session.order)
            self._server.bus.publish(self._account_id, opened)

    async def _recheck(self) -> None:
        try:
            if closing := await self._server.stopped.closing(self.device_id):
                self._apply(self.session.end(closing))
        except StoreUnavailable:
            self._server.recheck_soon()

    # --- closing ---

    def _close(self, close: Close) -> None:
        if self._closed:
            return
        self._closed = True
        self._gone.set_result(None)
        self._progress.set()
        self._server.metrics.closings.add(close.name)
        log.get().debug("session closed", closing=close.name, device=self.device_id)
        self._spawn(self._shut(close))

    async def _shut(self, close: Close) -> None:
        if close.name == "revoked" and await self._has_moved():
            close = Close("moving", CLOSINGS["moving"].code, "moving")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_WITHIN_S):
                while self._out:
                    self._flushed.clear()
                    await self._flushed.wait()
        await self._socket.close(close.code, close.reason)

    async def _has_moved(self) -> bool:
        """Whether the device is gone from here because its account moved: it shall come back and be told where to."""
        try:
            async with asyncio.timeout(FLUSH_WITHIN_S):
                return bool(self.device_id) and await self._server.store.moved_device(self.device_id) is not None
        except (StoreUnavailable, TimeoutError):
            return False

    # --- time ---

    def _schedule(self) -> None:
        due = self.session.timer()
        self._timer = self._loop.call_at(due, self._fire) if due is not None else None

    def _reschedule(self) -> None:
        """Timers mostly move later; a handle that fires too early costs one look and no cancellation."""
        due = self.session.timer()
        if due is not None and (self._timer is None or due < self._timer.when()):
            if self._timer:
                self._timer.cancel()
            self._timer = self._loop.call_at(due, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._loop.time()
        due = self.session.timer()
        if due is not None and due <= now:
            self._apply(self.session.timer_fired(now))
        if self._timer is None:
            self._schedule()


class AtPairing(Member):
    """A peer where a pairing's frames are handed over; of its account it hears elsewhere."""

    def __init__(self, peer: Peer) -> None:
        self.device_id: DeviceId = b""
        self._peer = peer

    def notice(self, notice: Notice) -> None:
        """A frame."""
        self._peer.notice(notice)

    async def compare(self) -> None:
        """A lost frame is lost; the people who wait for it try again."""

    async def compare_witnesses(self) -> None:
        """There are none."""


class HubServer:
    """The listening socket, the sessions, and the work that goes on beside them."""

    def __init__(
        self,
        *,
        store: Store,
        bus: Bus,
        services: Services,
        fanout: Fanout,
        http: Http,
        metrics: Metrics,
        sign_up: str,
        limits: Limits,
        policy: Policy,
        sessions_max: int,
    ) -> None:
        self.store = store
        self.bus = bus
        self.services = services
        self.fanout = fanout
        self.pairings = Fanout(bus, sessions_per_account_max=SESSIONS_PER_PAIRING_MAX)
        self.metrics = metrics
        self.hub_urls: Sequence[str] = ()  # known once the port is bound
        self.sign_up = sign_up
        self.limits = limits
        self.policy = policy
        self.stopped = Stopped(store)
        self.seen: set[DeviceId] = set()
        self._http = http
        self._door = Door(sessions_max=sessions_max)
        self._sockets: WeakSet[ServerConnection] = WeakSet()  # also those that have not asked for anything yet
        self._peers: set[Peer] = set()
        self._send_away: Callable[[Peer], None] | None = None  # while a drain is under way
        self._nobody = asyncio.Event()  # set while there is no peer
        self._nobody.set()
        self._recheck_at = 0.0
        self._server: Server | None = None
        metrics.queued_bytes.read_from(lambda: sum(peer.session.queued_bytes for peer in self._peers))

    async def listen(
        self, host: str, port: int, urls: Callable[[int], Sequence[str]], tls: ssl.SSLContext | None
    ) -> int:
        """Accept connections; the port, which matters when 0 was asked for.

        ``urls`` tells the hub's own addresses for a port.  Raises ``OSError`` when the port cannot be had.
        """
        self._server = await serve(
            self._serve_socket,
            host,
            port,
            ssl=tls,
            subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
            process_request=self._http.process_request,
            compression=None,
            server_header=None,
            open_timeout=REQUEST_WITHIN_S,
            ping_interval=None,  # the protocol's own ping carries heads and proves the app, not the network
            close_timeout=CLOSE_WITHIN_S,
            max_size=self.limits.frame_bytes_before_auth_max,
            max_queue=FRAMES_READ_AHEAD,
            write_limit=WRITE_LIMIT,
            create_connection=self._make_socket,  # type: ignore[arg-type]
        )
        bound = int(next(iter(self._server.sockets)).getsockname()[1])
        # No await since the port was bound, so nobody was answered before this.
        self.hub_urls = self._http.hub_urls = urls(bound)
        return bound

    def refuse_new(self) -> None:
        """Say no to new sockets; those inside go on."""
        self._http.draining = True

    async def drain(self, over_s: float, draw: Callable[[], float] = random.random) -> None:
        """Send everybody away, spread over ``over_s`` seconds, and return when nobody is left.

        From the first moment on ``/readyz`` says no and new sockets are refused.  What a
        device sent before it heard is answered, the appends among it when they are durable.  ``draw`` gives
        numbers in [0, 1).  With 0 seconds, or when this is cancelled, ``close`` ends the sessions at once.
        """
        self.refuse_new()
        loop = asyncio.get_running_loop()
        within_s = min(LEAVE_WITHIN_S, over_s / 2)  # the last one told has this long
        begun, telling_s = loop.time(), over_s - within_s
        low, high = RETRY_AFTER_S
        peers = list(self._peers) if over_s else []
        self._send_away = lambda peer: peer.send_away(low + (high - low) * draw(), within_s)
        for place, peer in enumerate(peers):
            await asyncio.sleep(max(0.0, begun + telling_s * place / len(peers) - loop.time()))
            self._send_away(peer)
        if peers:
            await self._nobody.wait()
        await self.close()

    async def close(self) -> None:
        """Stop listening and tell every session that the hub is going away."""
        self.refuse_new()
        self._send_away = None
        if self._server is None:
            return
        self._server.close(close_connections=False)
        for peer in list(self._peers):
            peer.apply(peer.session.end("going_away"))
        for socket in self._sockets:
            # Who has not even asked yet is not waited for; a page under way is answered.
            if socket.protocol.state is State.CONNECTING and socket.request is None and hasattr(socket, "transport"):
                socket.transport.abort()
        await self._server.wait_closed()
        await self.fanout.close()
        await self.pairings.close()

    async def watch(self, draw: Callable[[], float] = random.random) -> None:
        """For ever: close sessions of devices that may not be here, and those of an earlier life of the log.

        The net under lost notices.  Who is stopped is asked for every ``revocation_recheck_s``
        less up to twice ``LOOK_EVERY_S``, so that replicas do not all ask at once; a look
        that failed is repeated with the next, ``LOOK_EVERY_S`` later.
        """
        loop = asyncio.get_running_loop()
        self._recheck_at = loop.time() + self.policy.revocation_recheck_s * draw()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self.end_earlier_lives()
                if loop.time() >= self._recheck_at:
                    await self.recheck_stopped()
                    self._recheck_at = loop.time() + self.policy.revocation_recheck_s - 2 * LOOK_EVERY_S * draw()
            except StoreUnavailable:
                log.get().debug("the store does not answer; looking again soon")
            except Exception as exc:
                log.get().error("looking after the sessions failed", exc_info=exc)

    async def recheck_stopped(self) -> None:
        """Close sessions whose device is revoked, or whose account is stopped.  Raises ``StoreUnavailable``."""
        closing_by_device = await self.stopped.among(self.fanout.device_ids())
        for member in self.fanout.members_of_devices(set(closing_by_device)):
            assert isinstance(member, Peer)
            member.apply(member.session.end(closing_by_device[member.device_id]))

    def recheck_soon(self) -> None:
        """Let ``watch`` ask which devices are stopped with its next look."""
        self._recheck_at = 0.0

    async def end_earlier_lives(self) -> None:
        """Close sessions that began before the log got a new incarnation: their devices have to compare.

        Raises ``StoreUnavailable``.
        """
        life = await self.services.life.now()
        for peer in list(self._peers):
            if peer.session.incarnation not in (None, life):
                peer.apply(peer.session.end("going_away"))

    def _make_socket(self, *args: Any, **options: Any) -> ServerConnection:
        socket = ServerConnection(*args, **options)
        self._sockets.add(socket)
        return socket

    async def note_seen(self, day: int) -> None:
        """Write down which devices were here since the last call, or still are."""
        seen, self.seen = self.seen | self.fanout.device_ids(), set()
        await self.store.note_seen(seen, day)

    async def _serve_socket(self, socket: ServerConnection) -> None:
        if self._http.draining and self._send_away is None:
            # It was let through a moment before.
            await socket.close(4000, "going_away")
            return
        visitor = self._http.visitor(socket)
        ticket = self._door.enter(visitor.ip, asyncio.get_running_loop().time())
        if ticket is None:
            await socket.close(4013, "overloaded")
            return
        peer = Peer(self, socket, visitor)
        self._peers.add(peer)
        self._nobody.clear()
        if self._send_away:
            self._send_away(peer)  # likewise, and there is time to say it in words
        self.metrics.connections.add()
        self.metrics.sessions.set(len(self._peers))
        try:
            await peer.run()
        finally:
            self._peers.discard(peer)
            if not self._peers:
                self._nobody.set()
            self._door.leave(ticket)
            self.metrics.sessions.set(len(self._peers))
