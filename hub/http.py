"""What the hub answers to plain GETs, and who may come through the door.

The port speaks WebSocket; a few read-only pages stand beside it: health,
readiness, metrics, discovery, and the files of ``static``.  Everything that writes goes over the WebSocket.
Before any upgrade the Host header is held against the hub's own addresses, which
stops a web page from reaching a hub on a private network under a foreign name.
No cookie is read or set anywhere: there is no ambient credential to ride on.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from socket import SO_SNDBUF, SOL_SOCKET
from typing import NamedTuple
from urllib.parse import urlsplit

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from hub.errors import StoreUnavailable
from hub.inquiries import Shared
from hub.limiter import SlidingWindow, prefixes_of
from hub.metrics import CONTENT_TYPE, Metrics
from hub.services import Visitor
from hub.static import UNDER_WAY_BYTES_MAX, Pages
from hub.terms import PATH, PROTOCOL_VERSION, Limits, Span

SOCKETS_PER_NETWORK_MAX = 64  # one IPv4 address or IPv6 /64; this machine itself is not counted
HANDSHAKES_PER_MINUTE_MAX = 30  # likewise
PING_WITHIN_S = 2.0  # a store that answers later than this is none to send devices to
PING_FRESH_S = 0.5  # so that many probes cost one question
RETRY_AFTER_S = 2  # told to who knocks while the hub goes down: a load balancer has noticed by then
SMALL_BYTES = 4_096  # an answer up to this size is not counted: any socket takes it at once
HEAD_BYTES = 2_048  # at least what stands before a body
FULL_SHARE = 0.95  # of sessions_max: beyond it new sockets are refused, so that the known ones can come back

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Ticket(NamedTuple):
    """One place inside; give it back to ``Door.leave``."""

    network: bytes


class Door:
    """Counts who is inside, per network and in all."""

    def __init__(self, *, sessions_max: int) -> None:
        self._max = max(1, int(sessions_max * FULL_SHARE))
        self._inside = 0
        self._sockets_by_network: dict[bytes, int] = {}
        self._handshakes = SlidingWindow([Span(HANDSHAKES_PER_MINUTE_MAX, 60.0)])

    def enter(self, ip: str, now: float) -> Ticket | None:
        """A ticket, or None when the hub or the visitor's network has its most sockets."""
        network = network_of(ip)
        if self._inside >= self._max:
            return None
        if network:
            if self._sockets_by_network.get(network, 0) >= SOCKETS_PER_NETWORK_MAX:
                return None
            if self._handshakes.take(network, now) > 0:
                return None
            self._sockets_by_network[network] = self._sockets_by_network.get(network, 0) + 1
        self._inside += 1
        return Ticket(network)

    def leave(self, ticket: Ticket) -> None:
        """The place is free again."""
        self._inside -= 1
        if ticket.network:
            left = self._sockets_by_network[ticket.network] - 1
            if left:
                self._sockets_by_network[ticket.network] = left
            else:
                del self._sockets_by_network[ticket.network]


def network_of(ip: str) -> bytes:
    """The IPv4 address or IPv6 /64 that is counted together; empty for this machine itself."""
    return b"" if not _is_ip(ip) or ipaddress.ip_address(ip).is_loopback else prefixes_of(ip).near


class Http:
    """Answers GETs and decides which requests may become WebSockets."""

    def __init__(
        self,
        *,
        metrics: Metrics,
        store_ping: Callable[[], Awaitable[None]],
        limits: Limits,
        sign_up: str,
        metrics_for: str,
        trusted_proxies: Sequence[str],
        allowed_origins: Sequence[str],
        pages: Pages | None = None,
        mark: str = "",
    ) -> None:
        self.draining = False
        self.hub_urls: Sequence[str] = ()  # known once the port is bound
        self._metrics = metrics
        self._ping = Shared(store_ping, within_s=PING_WITHIN_S)
        self._limits = limits
        self._sign_up = sign_up
        self._metrics_for = metrics_for
        self._trusted: list[Network] = [ipaddress.ip_network(proxy) for proxy in trusted_proxies]
        self._origins = set(allowed_origins)
        self._pages = pages or Pages(None, None)
        self._mark = mark
        self._under_way = 0  # bytes of files that sockets have not taken yet

    def visitor(self, socket: ServerConnection) -> Visitor:
        """Where a connection comes from: the peer, or what a trusted proxy says of it."""
        request = socket.request
        headers = request.headers if request else Headers()
        return Visitor(self._client_ip(socket, headers), headers.get("Origin", "")[:256])

    async def process_request(self, socket: ServerConnection, request: Request) -> Response | None:
        """None lets the WebSocket handshake go on; a response ends the request."""
        if request.path == PATH:
            return self._may_upgrade(request)
        if request.method not in ("GET", "HEAD"):
            return _text(HTTPStatus.METHOD_NOT_ALLOWED, "only GET\n", {"Allow": "GET, HEAD"})
        response = await self._page(socket, request)
        if request.method == "HEAD":
            response.body = b""
        return self._sending(socket, response)

    async def _page(self, socket: ServerConnection, request: Request) -> Response:
        match request.path.partition("?")[0]:
            case "/healthz":
                return _text(HTTPStatus.OK, "ok\n")
            case "/readyz":
                return await self._readiness()
            case "/metrics":
                return self._numbers(socket, request)
            case "/.well-known/sync-hub":
                return self._discovery()
        return self._file(request)

    def _file(self, request: Request) -> Response:
        answer = self._pages.answer(
            request.path.partition("?")[0],
            if_none_match=", ".join(request.headers.get_all("If-None-Match")),
            accept_encoding=", ".join(request.headers.get_all("Accept-Encoding")),
            hub_urls=self.hub_urls,
        )
        if answer is None:
            return _text(HTTPStatus.NOT_FOUND, "nothing here\n")
        return _response(answer.status, answer.body, answer.headers.pop("Content-Type", ""), answer.headers)

    def _sending(self, socket: ServerConnection, response: Response) -> Response:
        """``response``, when what is under way leaves room for it; the kernel is asked to hold all of it.

        The library gives a visitor a few seconds and then hangs up; what the kernel holds still arrives on a slow line.
        """
        size = len(response.body)
        if size <= SMALL_BYTES:
            return response
        if self._under_way + size > UNDER_WAY_BYTES_MAX:
            return _text(HTTPStatus.SERVICE_UNAVAILABLE, "too many visitors\n", {"Retry-After": str(RETRY_AFTER_S)})
        self._under_way += size
        socket.connection_lost_waiter.add_done_callback(lambda _: self._has_left(size))
        with contextlib.suppress(OSError, AttributeError):
            socket.transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_SNDBUF, size + HEAD_BYTES)
        return response

    def _has_left(self, size: int) -> None:
        self._under_way -= size

    def _may_upgrade(self, request: Request) -> Response | None:
        if self.draining:
            return _text(HTTPStatus.SERVICE_UNAVAILABLE, "the hub is restarting\n", {"Retry-After": str(RETRY_AFTER_S)})
        hosts = {urlsplit(url).netloc for url in self.hub_urls}
        if _single(request.headers, "Host").lower() not in hosts:
            return _text(HTTPStatus.MISDIRECTED_REQUEST, "this hub does not go by that name; see public_urls\n")
        if self._origins and _single(request.headers, "Origin") not in self._origins:
            return _text(HTTPStatus.FORBIDDEN, "this hub does not take connections from that origin\n")
        return None

    async def _readiness(self) -> Response:
        # 404 while draining: load balancers take it as "leave" rather than "broken".
        if self.draining:
            return _text(HTTPStatus.NOT_FOUND, "draining\n")
        try:
            await self._ping.get(PING_FRESH_S)
        except StoreUnavailable:
            return _text(HTTPStatus.SERVICE_UNAVAILABLE, "the store does not answer\n")
        return _text(HTTPStatus.OK, "ready\n")

    def _numbers(self, socket: ServerConnection, request: Request) -> Response:
        ip = self._client_ip(socket, request.headers)
        local = _is_ip(ip) and ipaddress.ip_address(ip).is_loopback
        if self._metrics_for == "off" or (self._metrics_for == "loopback" and not local):
            return _text(HTTPStatus.NOT_FOUND, "nothing here\n")
        return _response(HTTPStatus.OK, self._metrics.render().encode(), CONTENT_TYPE)

    def _discovery(self) -> Response:
        known = {
            "urls": list(self.hub_urls),
            "mark": self._mark,
            "protocol": [PROTOCOL_VERSION],
            "sign_up": self._sign_up,
            "limits": {name: getattr(self._limits, name) for name in Limits.__dataclass_fields__},
        }
        # Any web app may read this: it holds nothing of anybody.
        return _response(
            HTTPStatus.OK,
            json.dumps(known, indent=1).encode() + b"\n",
            "application/json",
            {"Access-Control-Allow-Origin": "*", "Cache-Control": "max-age=300"},
        )

    def _client_ip(self, socket: ServerConnection, headers: Headers) -> str:
        peer = str(socket.remote_address[0]) if socket.remote_address else ""
        if not self._is_trusted(peer):
            return peer
        hops = [hop.strip() for value in headers.get_all("X-Forwarded-For") for hop in value.split(",")]
        # The rightmost hop that is not ours is the one our own proxy saw.
        for hop in reversed(hops):
            if not _is_ip(hop):
                return peer
            if not self._is_trusted(hop):
                return hop
        return peer

    def _is_trusted(self, ip: str) -> bool:
        return _is_ip(ip) and any(ipaddress.ip_address(ip) in network for network in self._trusted)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _single(headers: Headers, name: str) -> str:
    """The header's value; empty when it is missing or given more than once."""
    values = headers.get_all(name)
    return values[0] if len(values) == 1 else ""


def _text(status: HTTPStatus, text: str, more: dict[str, str] | None = None) -> Response:
    return _response(status, text.encode(), "text/plain; charset=utf-8", more)


def _response(status: HTTPStatus, body: bytes, content_type: str, more: dict[str, str] | None = None) -> Response:
    headers = Headers(
        {
            **({"Content-Type": content_type} if content_type else {}),
            **({} if status == HTTPStatus.NOT_MODIFIED else {"Content-Length": str(len(body))}),
            "X-Content-Type-Options": "nosniff",
            "Connection": "close",
            **(more or {}),
        }
    )
    return Response(status.value, status.phrase, headers, body)
