"""What stands in deploy/ and compose.yaml, run and read: the very files an operator gets.

Each load balancer runs its shipped configuration in front of real hubs on SQLite;
a device speaks through it over TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.exceptions import ConnectionClosed, InvalidStatus

from hub.terms import SUBPROTOCOL, Limits
from tests import services
from tests.hub_rig import Place, Wire, hub_in
from tests.services import HOST, Balancer, Caddy, FaultProxy, free_port

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
FILES = {"haproxy": "haproxy.cfg", "caddy": "Caddyfile", "nginx": "nginx.conf.template"}
PROGRAMS = {"haproxy": services.haproxy_bin, "caddy": services.caddy_bin, "nginx": services.nginx_bin}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="load balancers are tested on Linux")


# --- a front: one load balancer, the hubs behind it ------------------------------------------


class Device(Wire):
    """A device that comes in through the front, from an address of its own."""

    def __init__(self, front: Front, address: str = HOST) -> None:
        super().__init__(front.url)
        self._options: dict[str, Any] = {"host": HOST, "local_addr": (address, 0)}
        if front.tls:
            self._options["ssl"] = front.tls

    async def dial(self, **options: Any) -> Wire:
        return await super().dial(**self._options, **options)

    async def is_alive(self) -> bool:
        """Whether the other end still answers."""
        with contextlib.suppress(ConnectionClosed):
            async with asyncio.timeout(5.0):
                await (await self.socket.ping())
                return True
        return False


@dataclass
class Front:
    """A load balancer that runs, and how a device gets to it."""

    kind: str
    port: int
    tls: ssl.SSLContext | None
    balancer: Balancer
    devices: list[Device] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{'wss' if self.tls else 'ws'}://localhost:{self.port}/v1/ws"

    def device(self, address: str = HOST) -> Device:
        self.devices.append(Device(self, address))
        return self.devices[-1]

    async def greeted(self, count: int) -> list[Device]:
        """So many devices at once, each with the hub's challenge."""
        devices = [self.device() for _ in range(count)]
        await asyncio.gather(*(device.greet() for device in devices))
        return devices

    async def get(self, path: str, *, address: str = HOST) -> tuple[int, str]:
        """Status and the whole answer of a plain GET."""
        request = f"GET {path} HTTP/1.1\r\nHost: localhost:{self.port}\r\nConnection: close\r\n\r\n"
        answer = await self.say(request.encode(), address=address)
        return int(answer.split()[1]), answer

    async def say(self, request: bytes, *, address: str = HOST) -> str:
        """Send these bytes; everything that comes back until the other end hangs up."""
        name = "localhost" if self.tls else None
        reader, writer = await asyncio.open_connection(
            HOST, self.port, ssl=self.tls, server_hostname=name, local_addr=(address, 0)
        )
        try:
            writer.write(request)
            async with asyncio.timeout(10.0):
                return (await reader.read()).decode()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def front(
    kind: str, port: int, replicas: Sequence[int], folder: Path, *, edit: Callable[[str], str] | None = None
) -> AsyncIterator[Front]:
    """The shipped file in front of hubs on these ports.  ``edit`` changes a copy of it, to make waits short."""
    if not (PROGRAMS[kind]()):
        pytest.skip(f"{kind} is not on this machine, so deploy/{FILES[kind]} is not tested in this run")
    file = DEPLOY / FILES[kind]
    if edit:
        changed = edit(file.read_text("utf-8"))
        assert changed != file.read_text("utf-8"), "the edit found nothing to change"
        file = folder / FILES[kind]
        file.write_text(changed)
    hubs = [f"{HOST}:{replica}" for replica in replicas]
    env = {f"HUB_REPLICA_{number}": hub for number, hub in enumerate(hubs, 1)}
    authority = trustme.CA()
    certificate = folder / "certificate.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    bind = {"HUB_LB_BIND": f"{HOST}:{port}", "HUB_LB_CERTIFICATE": str(certificate)}
    match kind:
        case "haproxy":
            running = services.haproxy(file, env | bind)
        case "caddy":
            running = services.caddy(file, env | {"HUB_LB_NAME": f"localhost:{port}"})
        case _:
            down = {f"HUB_REPLICA_{number}": f"{hubs[0]} down" for number in (2, 3)}
            running = services.nginx(file, down | env | bind)
    with running as balancer:
        if isinstance(balancer, Caddy):
            tls.load_verify_locations(balancer.root)
        found = Front(kind, port, tls, balancer)
        try:
            yield found
        finally:
            for device in found.devices:
                await device.hang_up()


@asynccontextmanager
async def hub_behind(front_port: int, folder: Path, **settings: Any) -> AsyncIterator[Place]:
    """A hub that is reached through a load balancer on ``front_port``."""
    urls = (f"wss://localhost:{front_port}/v1/ws", f"ws://localhost:{front_port}/v1/ws")
    chosen = {"public_urls": urls, "behind_proxy": True, "trusted_proxies": (HOST,)} | settings
    async with hub_in(folder, **chosen) as place:
        yield place


@dataclass
class Pair:
    """Two hubs and the front before them; each hub can be ended by itself."""

    front: Front
    hubs: list[Place]
    stacks: list[AsyncExitStack]

    def sessions(self) -> list[int]:
        return [int(place.hub.metrics.sessions.get()) for place in self.hubs]

    async def end(self, number: int) -> None:
        await self.stacks[number].aclose()


@pytest.fixture(params=FILES)
async def pair(request, tmp_path):
    port = free_port()
    async with AsyncExitStack() as stack:
        stacks, hubs = [], []
        for name in ("a", "b"):
            own = await stack.enter_async_context(AsyncExitStack())
            hubs.append(await own.enter_async_context(hub_behind(port, tmp_path / name, metrics="on")))
            stacks.append(own)
        found = await stack.enter_async_context(
            front(request.param, port, [place.hub.port for place in hubs], tmp_path)
        )
        yield Pair(found, hubs, stacks)


async def until(what: Callable[[], bool], within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not what():
            await asyncio.sleep(0.02)


# --- what passes -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FILES)
async def test_a_device_signs_up_and_appends_through_it_in_front_of_a_single_hub(kind, tmp_path):
    port = free_port()
    async with hub_behind(port, tmp_path / "hub") as place, front(kind, port, [place.hub.port], tmp_path) as found:
        device = found.device()
        # The hub checks the signature over the address that was dialled, so Host came through as it was.
        await device.sign_up(place.mailbox, "ada@example.org")
        assert device.socket.subprotocol == SUBPROTOCOL
        await device.make_space()
        draft = device.draft(body=secrets.token_bytes(50_000))
        await device.append(draft)
        await device.sign_in()
        await device.enter()
        await device.follow()
        assert [change.sealed for change in await device.changes(1)] == [draft]


async def test_a_new_socket_goes_to_the_hub_with_the_fewest(pair):
    on_first = []
    for _ in range(6):
        before = pair.sessions()[0]
        (device,) = await pair.front.greeted(1)
        on_first += [device] * (pair.sessions()[0] - before)
    assert pair.sessions() == [3, 3]
    for device in on_first:
        await device.hang_up()
    await until(lambda: pair.sessions() == [0, 3])
    for _ in range(2):
        await pair.front.greeted(1)
    assert pair.sessions() == [2, 3]


async def test_the_hub_learns_where_a_device_comes_from_and_not_what_it_says(pair):
    device = pair.front.device("127.0.0.2")
    forged = {"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9", "X-Real-IP": "203.0.113.9"}
    await device.dial(additional_headers=forged)
    await until(lambda: sum(pair.sessions()) == 1)
    assert [peer._visitor.ip for place in pair.hubs for peer in place.hub.server._peers] == ["127.0.0.2"]


async def test_numbers_and_readiness_are_not_reached_through_it(pair):
    for path in ("/metrics", "/metrics?name=a", "/metrics/", "/readyz", "/readyz?"):
        status, answer = await pair.front.get(path)
        assert status == 404 and "hub_sessions" not in answer and "ready" not in answer, path
    absolute = f"GET http://localhost:{pair.front.port}/metrics HTTP/1.1\r\nHost: localhost:{pair.front.port}\r\n"
    answer = await pair.front.say(f"{absolute}Connection: close\r\n\r\n".encode())
    assert answer.split()[1] == "404" and "hub_sessions" not in answer


async def test_the_pages_for_everybody_are_reached_through_it(pair):
    for path, text in (("/healthz", "ok"), ("/", "sync-hub"), ("/.well-known/sync-hub", "wss://localhost")):
        status, answer = await pair.front.get(path)
        assert status == 200 and text in answer, path
    assert "strict-transport-security" in answer.lower()
    assert (await pair.front.get("/nothing"))[0] == 404


async def test_the_client_and_the_demo_come_through_it_whole_and_with_their_policy(pair):
    async def ask(path, *more):
        lines = (f"GET {path} HTTP/1.1", f"Host: localhost:{pair.front.port}", "Connection: close", *more)
        answer = await pair.front.say("".join(f"{line}\r\n" for line in (*lines, "")).encode())
        head, _, body = answer.partition("\r\n\r\n")
        return int(answer.split()[1]), dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:]), body

    for path in ("/client/hub-client.js", "/client/dexie.js", "/demo/"):
        status, headers, body = await ask(path, "Accept-Encoding: identity")
        assert (status, len(body.encode())) == (200, int(headers["content-length"])), path
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; "), path
        assert f"connect-src 'self' wss://localhost:{pair.front.port} " in policy, path
        assert (await ask(path, "Accept-Encoding: identity", f"If-None-Match: {headers['etag']}"))[0] == 304
    status, headers, _ = await ask("/demo")
    assert (status, headers["location"]) == (308, "/demo/")


async def test_haproxy_without_a_certificate_speaks_without_tls(tmp_path):
    port = free_port()
    async with hub_behind(port, tmp_path) as place:
        env = {"HUB_LB_BIND": f"{HOST}:{port}", "HUB_REPLICA_1": f"{HOST}:{place.hub.port}", "HUB_REPLICA_2": ""}
        with services.haproxy(DEPLOY / "haproxy.cfg", env) as balancer:
            found = Front("haproxy", port, None, balancer)
            assert "sync-hub" in (answer := (await found.get("/"))[1])
            assert "strict-transport-security" not in answer.lower()
            await found.greeted(1)
            await found.devices[0].hang_up()


async def test_http_is_sent_to_https_by_haproxy(tmp_path):
    port, plain = free_port(), free_port()
    certificate = tmp_path / "certificate.pem"
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
    env = {"HUB_LB_BIND": f"{HOST}:{port}", "HUB_LB_PLAIN_BIND": f"{HOST}:{plain}", "HUB_REPLICA_1": f"{HOST}:1"}
    with services.haproxy(DEPLOY / "haproxy.cfg", env | {"HUB_LB_CERTIFICATE": str(certificate)}) as balancer:
        answer = await Front("haproxy", plain, None, balancer).say(
            b"GET /a HTTP/1.1\r\nHost: hub.example.org\r\nConnection: close\r\n\r\n"
        )
    assert answer.startswith("HTTP/1.1 301") and "location: https://hub.example.org/a" in answer.lower()


# --- hubs that go ----------------------------------------------------------------------------


async def test_a_hub_that_drains_keeps_its_sockets_and_gets_no_new_one(pair):
    old = await pair.front.greeted(6)
    before = pair.sessions()
    assert min(before) > 0
    pair.hubs[0].hub.server.refuse_new()
    # At once, before any check can have noticed: nobody sees the 503 of the hub that drains.
    for _ in range(4):
        await pair.front.greeted(3)
    # And after it has been noticed.
    await asyncio.sleep(0.8)
    await pair.front.greeted(4)
    assert pair.sessions() == [before[0], before[1] + 16]
    assert all([await device.is_alive() for device in old])


# nginx asks no hub whether it is ready.
@pytest.mark.parametrize("pair", ["haproxy", "caddy"], indirect=True)
async def test_a_hub_without_its_database_keeps_its_sockets_and_gets_no_new_one(pair):
    old = await pair.front.greeted(6)
    before = pair.sessions()
    await pair.hubs[0].hub.store.close()
    own = Front("no balancer", pair.hubs[0].hub.port, None, pair.front.balancer)
    async with asyncio.timeout(5.0):
        while (await own.get("/readyz"))[0] == 200:
            await asyncio.sleep(0.05)
    await asyncio.sleep(1.2)  # two checks
    await pair.front.greeted(4)
    assert pair.sessions() == [before[0], before[1] + 4]
    assert all([await device.is_alive() for device in old])


async def test_when_a_hub_is_gone_the_next_device_comes_to_the_other(pair):
    await pair.front.greeted(4)
    await pair.end(0)
    await pair.front.greeted(8)
    await until(lambda: pair.sessions()[1] >= 10)


async def test_when_a_hub_breaks_every_connection_the_next_device_comes_to_the_other(pair, tmp_path):
    port = free_port()
    urls = (f"wss://localhost:{port}/v1/ws", f"ws://localhost:{port}/v1/ws")
    for place in pair.hubs:
        place.hub.server._http.hub_urls = urls
    async with AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(FaultProxy(HOST, place.hub.port)) for place in pair.hubs]
        ports = [line.port for line in lines]
        second = await stack.enter_async_context(front(pair.front.kind, port, ports, tmp_path))
        await second.greeted(4)
        lines[0].refuse()
        await second.greeted(8)
        await until(lambda: pair.sessions()[1] >= 10)


async def test_with_no_hub_left_a_device_is_refused_and_with_one_back_it_is_let_in(pair, tmp_path):
    port = pair.hubs[1].hub.port
    await pair.end(0)
    await pair.end(1)
    with pytest.raises(InvalidStatus) as refused:
        await pair.front.greeted(1)
    assert refused.value.response.status_code in (502, 503)
    async with hub_behind(pair.front.port, tmp_path / "b", port=port):
        async with asyncio.timeout(4.0):
            while True:
                with contextlib.suppress(InvalidStatus):
                    await pair.front.greeted(1)
                    break
                await asyncio.sleep(0.05)


async def test_requests_that_fail_put_no_hub_aside(pair):
    head = f"Host: localhost:{pair.front.port}\r\nConnection: close\r\n"
    many = "".join(f"X-{number}: a\r\n" for number in range(200))
    for start, more in (
        ("POST / ", "Content-Length: 2\r\n\r\nab"),
        ("GET / ", "Content-Length: 2\r\n\r\nab"),
        ("GET / ", many),
    ):
        for _ in range(2):
            answer = await pair.front.say(f"{start}HTTP/1.1\r\n{head}{more}\r\n".encode())
            assert answer == "" or answer.split()[1].startswith(("4", "5"))
            await pair.front.greeted(1)
    assert pair.sessions() == [3, 3]


# --- time ------------------------------------------------------------------------------------

SHORT = {
    "haproxy": {"timeout client 30s": "timeout client 300ms", "timeout server 30s": "timeout server 300ms"},
    "caddy": {"idle 30s": "idle 300ms"},
    "nginx": {"keepalive_timeout 5s": "keepalive_timeout 300ms"},
}
HEADS = {
    "haproxy": {"timeout http-request 5s": "timeout http-request 300ms"},
    "caddy": {"read_header 5s": "read_header 300ms"},
    "nginx": {"client_header_timeout 5s": "client_header_timeout 300ms"},
}
OPEN = {
    "haproxy": {"timeout tunnel 1h": "timeout tunnel 300ms"},
    "nginx": {"proxy_read_timeout 1h": "proxy_read_timeout 300ms", "proxy_send_timeout 1h": "proxy_send_timeout 300ms"},
}


def editing(changes: dict[str, str]) -> Callable[[str], str]:
    def edit(text: str) -> str:
        for old, new in changes.items():
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        return text

    return edit


async def idle_for(kind: str, folder: Path, changes: dict[str, str], seconds: float) -> bool:
    """Whether a socket on which nothing is said for so long is still open."""
    port = free_port()
    async with (
        hub_behind(port, folder / "hub") as place,
        front(kind, port, [place.hub.port], folder, edit=editing(changes)) as found,
    ):
        (device,) = await found.greeted(1)
        await asyncio.sleep(seconds)
        return await device.is_alive()


@pytest.mark.parametrize("kind", SHORT)
async def test_an_open_socket_outlives_the_timeouts_of_requests(kind, tmp_path):
    assert await idle_for(kind, tmp_path, SHORT[kind] | HEADS[kind], 0.8)


@pytest.mark.parametrize("kind", OPEN)
async def test_an_open_socket_may_be_silent_longer_than_the_longest_heartbeat(kind, tmp_path):
    # The one timeout that ends it is the one that is given in hours; Caddy has none.
    assert not await idle_for(kind, tmp_path, OPEN[kind], 0.8)
    assert Limits().heartbeat_s_max < 3_600 / 2


@pytest.mark.parametrize("kind", HEADS)
async def test_who_writes_slowly_is_dropped(kind, tmp_path):
    port = free_port()
    async with (
        hub_behind(port, tmp_path / "hub") as place,
        front(kind, port, [place.hub.port], tmp_path, edit=editing(HEADS[kind])) as found,
    ):
        async with asyncio.timeout(4.0):
            answer = await found.say(b"GET / HTTP/1.1\r\nHost: ")
        assert answer == "" or answer.split()[1] in ("400", "408")


# --- what it writes down ---------------------------------------------------------------------


async def test_what_a_load_balancer_writes_names_no_device_and_no_query(pair):
    device = pair.front.device("127.0.0.2")
    await device.greet()
    await pair.front.get("/?code=12345678", address="127.0.0.2")
    await pair.front.get("/metrics?code=12345678", address="127.0.0.2")
    device.socket.transport.abort()
    await pair.end(0)
    await pair.end(1)
    await pair.front.get("/?code=12345678", address="127.0.0.2")
    said = pair.front.balancer.said()
    assert "127.0.0.2" not in said and "12345678" not in said, said
