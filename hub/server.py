"""The listening socket, every device's ``Peer``, and the work that goes on beside them.

Whatever of that work dies takes the server down loudly instead of leaving it half alive.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable, Sequence
from functools import partial

from websockets.asyncio.server import Server, serve
from websockets.protocol import State

from hub import log
from hub.bus import Bus
from hub.errors import StoreUnavailable
from hub.fanout import Fanout
from hub.http import Door, Http
from hub.inquiries import Orders, Stopped
from hub.metrics import Metrics
from hub.peer import Peer
from hub.services import Services
from hub.session import LEAVE_WITHIN_S
from hub.socket import WRITE_BYTES_MAX, Socket, Sockets
from hub.store import Store
from hub.terms import SUBPROTOCOL, DeviceId, Limits, Policy

CLOSE_WITHIN_S = 5.0  # how long the closing handshake may take
REQUEST_WITHIN_S = 5.0  # how long a client may take to send its HTTP request
BACKLOG = 4_096  # sockets that wait to be accepted: when all devices come back at once none may have to dial twice
LOOK_EVERY_S = 3.0  # how often a running hub looks whether the log was restored under it
SESSIONS_PER_PAIRING_MAX = 4  # on one replica: the two that pair, and who may be told that they come too late
RETRY_AFTER_S = (1.0, 4.0)  # between these a device that is sent away comes back


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
        self.pairings = Fanout(bus, metrics, sessions_per_account_max=SESSIONS_PER_PAIRING_MAX)
        self.metrics = metrics
        self.hub_urls: Sequence[str] = ()  # known once the port is bound
        self.sign_up = sign_up
        self.limits = limits
        self.policy = policy
        self.stopped = Stopped(store)
        self.orders = Orders(store)
        self.seen: set[DeviceId] = set()
        self._http = http
        self._door = Door(sessions_max=sessions_max)
        self._sockets = Sockets()
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
            self._serve_socket,  # type: ignore[arg-type]
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
            write_limit=WRITE_BYTES_MAX,
            backlog=BACKLOG,
            create_connection=partial(Socket, sockets=self._sockets),  # type: ignore[arg-type]
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
        self._sockets.closed = True
        self._server.close(close_connections=False)
        for peer in list(self._peers):
            peer.apply(peer.session.end("going_away"))
        for socket in self._sockets.all:
            # Who has not even asked yet is not waited for; a page under way is answered.
            if socket.protocol.state is State.CONNECTING and socket.request is None:
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

    async def note_seen(self, day: int) -> None:
        """Write down which devices were here since the last call, or still are."""
        seen, self.seen = self.seen | self.fanout.device_ids(), set()
        await self.store.note_seen(seen, day)

    async def _serve_socket(self, socket: Socket) -> None:
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
