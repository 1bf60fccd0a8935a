"""The WebSocket shell: pumps frames between sockets and sessions, and carries out what sessions want.

One ``Peer`` is one socket: it reads a frame, gives it to its ``Session``, carries
out the effects, and stops reading while the session's queue is full.  One
``HubServer`` is the listening socket and the background work; whatever of that
dies takes the server down loudly instead of leaving it half alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from hub import log
from hub.bus import Bus, Notice, SessionOpened
from hub.effects import AppendDrafts, Ask, Close, Effect, LetIn, Opened, Send
from hub.errors import HubError
from hub.fanout import Fanout, Member
from hub.http import Door, Http
from hub.metrics import Metrics
from hub.services import Services, Visitor
from hub.session import Session
from hub.store import Device, Store
from hub.terms import SUBPROTOCOL, DeviceId, Limits, Policy

FLUSH_WITHIN_S = 2.0  # how long queued frames may take to leave before a closing
CLOSE_WITHIN_S = 5.0  # how long the closing handshake may take
REQUEST_WITHIN_S = 5.0  # how long a client may take to send its HTTP request
FRAMES_READ_AHEAD = 4  # bounds what one socket holds in memory before its session looks at it
WRITE_LIMIT = 65_536  # bytes handed to the socket before the writer waits


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
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
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
        self._schedule()
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

    def notice(self, notice: Notice) -> None:
        """The bus has something for this session."""
        self._apply(self.session.noticed(notice, self._loop.time()))

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
                    await asyncio.wait([self._joining])
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

    def _ask(self, token: int, what: Any) -> None:
        if isinstance(what, AppendDrafts):
            self._server.services.append(what, lambda result: self._answered(token, result))
        else:
            self._spawn(self._answer(token, what))

    async def _answer(self, token: int, what: Any) -> None:
        try:
            result = await self._server.services.answer(what, self.session, self._visitor)
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
        except HubError:
            self._apply(self.session.end("overloaded"))
            return
        self._server.bus.publish(device.account_id, SessionOpened(device.device_id, self.session.session_id))
        # A revocation between the look-up and this moment was published to nobody here.
        if await self._server.store.revoked_among([device.device_id]):
            self._apply(self.session.revoked())
        self._server.seen.add(device.device_id)

    # --- closing ---

    def _close(self, close: Close) -> None:
        if self._closed:
            return
        self._closed = True
        self._progress.set()
        self._server.metrics.closings.add(close.name)
        log.get().debug("session closed", closing=close.name, device=self.device_id)
        self._spawn(self._shut(close.code, close.reason))

    async def _shut(self, code: int, reason: str) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_WITHIN_S):
                while self._out:
                    self._flushed.clear()
                    await self._flushed.wait()
        await self._socket.close(code, reason)

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
        self.metrics = metrics
        self.hub_urls: Sequence[str] = ()  # known once the port is bound
        self.sign_up = sign_up
        self.limits = limits
        self.policy = policy
        self.seen: set[DeviceId] = set()
        self._http = http
        self._door = Door(sessions_max=sessions_max)
        self._peers: set[Peer] = set()
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
        )
        bound = int(next(iter(self._server.sockets)).getsockname()[1])
        # No await since the port was bound, so nobody was answered before this.
        self.hub_urls = self._http.hub_urls = urls(bound)
        return bound

    def refuse_new(self) -> None:
        """Say no to new sockets; those inside go on."""
        self._http.draining = True

    async def close(self) -> None:
        """Stop listening and tell every session that the hub is going away."""
        self.refuse_new()
        if self._server is None:
            return
        self._server.close(close_connections=False)
        for peer in list(self._peers):
            peer.apply(peer.session.end("going_away"))
        await self._server.wait_closed()

    async def recheck_revocations(self) -> None:
        """Close sessions whose device is revoked: the net under a lost notice."""
        devices = self.fanout.device_ids()
        if not devices:
            return
        for member in self.fanout.members_of_devices(await self.store.revoked_among(devices)):
            assert isinstance(member, Peer)
            member.apply(member.session.revoked())

    async def note_seen(self, day: int) -> None:
        """Write down which devices were here since the last call, or still are."""
        seen, self.seen = self.seen | self.fanout.device_ids(), set()
        await self.store.note_seen(seen, day)

    async def _serve_socket(self, socket: ServerConnection) -> None:
        visitor = self._http.visitor(socket)
        ticket = self._door.enter(visitor.ip, asyncio.get_running_loop().time())
        if ticket is None:
            await socket.close(4013, "overloaded")
            return
        peer = Peer(self, socket, visitor)
        self._peers.add(peer)
        self.metrics.connections.add()
        self.metrics.sessions.set(len(self._peers))
        try:
            await peer.run()
        finally:
            self._peers.discard(peer)
            self._door.leave(ticket)
            self.metrics.sessions.set(len(self._peers))
