"""The client's line over real sockets: it comes back from every way to lose it, and no sooner than it was asked to."""

from __future__ import annotations

import asyncio
import contextlib
import http
import time
from email.utils import formatdate

import pytest
from websockets.asyncio.server import serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Response

from hub.client import HubClient, connection
from hub.client.connection import Closed, canonical_url
from hub.client.storage import MemoryStorage
from hub.terms import SUBPROTOCOL
from hub.wire import messages as m
from tests import engine_hub
from tests.engine_hub import ACCOUNT, APP_ID, KEYS, Line, TestHub

SOON_S = 0.05  # what the client waits for a hub that says nothing, in these tests


class Door:
    """A small hub on a real socket.  Whoever dials is met by the next of ``greetings``, without any is let in."""

    def __init__(self):
        self.hub = TestHub()
        self.greetings = []
        self.dialled_at = []
        self.lines = []

    @contextlib.asynccontextmanager
    async def open(self, port=0):
        async with serve(
            self.talk, "127.0.0.1", port, subprotocols=[SUBPROTOCOL], process_request=self.greet, close_timeout=0.2
        ) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.port}/v1/ws"

    async def greet(self, socket, request):
        self.dialled_at.append(asyncio.get_running_loop().time())
        return await self.greetings.pop(0)(socket) if self.greetings else None

    async def talk(self, socket):
        line = Line(self.hub, next(iter(self.hub.devices)))
        line.socket = socket
        self.hub.lines.append(line)
        self.lines.append(line)
        with contextlib.suppress(ConnectionClosed):
            async for frame in socket:
                line.take(frame)
                await self.hand_out()
        self.hub.lines.remove(line)

    async def hand_out(self):
        for line in self.hub.lines:
            while line.out:
                await line.socket.send(line.out.popleft())

    async def say(self, message):
        self.hub.lines[0].say(message)
        await self.hand_out()


async def busy(socket):
    return Response(503, "Service Unavailable", Headers({"Retry-After": "1", "Content-Length": "0"}), b"")


async def silent(socket):
    await socket.wait_closed()


async def reset(socket):
    socket.transport.abort()
    await socket.wait_closed()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(connection.random, "random", lambda: 0.02)
    monkeypatch.setattr(connection, "CONNECT_WITHIN_S", SOON_S)


@pytest.fixture
async def door(monkeypatch):
    door = Door()
    async with door.open():
        monkeypatch.setattr(engine_hub, "HUB_URL", door.url)
        yield door


@contextlib.asynccontextmanager
async def client_of(door, tap=None):
    storage = MemoryStorage()
    app_key = b"k" * 32
    settings = {"account_id": ACCOUNT, "may_create": b"1", "app_key": app_key, "hub_url": door.url.encode()}
    for name, value in settings.items():
        storage.set_setting(name, value)
    client = HubClient(storage, APP_ID, tap)
    assert client._engine.device.keys.space_id == KEYS.space_id
    door.hub.devices[client.device_id] = bytes(client._identity.signing_key.verify_key)
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


async def until(holds, within_s=5.0):
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("greeting", [silent, reset], ids=lambda greeting: greeting.__name__)
async def test_it_comes_back_from_a_handshake_that_fails(door, quick, greeting):
    door.greetings = [greeting, greeting]
    async with client_of(door) as client:
        await client.synced(5)
        assert len(door.dialled_at) == 3
        assert client.status.error == ""


async def test_it_stays_away_as_long_as_a_503_says_and_then_comes_back(door, quick):
    door.greetings = [busy]
    async with client_of(door) as client:
        await until(lambda: client.status.error)
        assert client.status.phase == "offline"
        assert client.status.error.startswith("the hub answered 503")
        await client.synced(5)
        first, second = door.dialled_at
        assert 1.0 <= second - first < 2.0
        assert client.status.error == ""


async def test_it_comes_back_when_nobody_listened(quick, monkeypatch):
    door = Door()
    async with door.open():
        port = door.port
    monkeypatch.setattr(engine_hub, "HUB_URL", door.url)
    async with client_of(door) as client:
        await until(lambda: client.status.error == "the hub cannot be reached")
        async with door.open(port):
            await client.synced(5)


@pytest.mark.parametrize("way", ["close 4000", "close 4011", "reset"])
async def test_it_comes_back_when_the_line_is_lost_and_sends_what_had_no_answer(door, quick, way):
    seen, told = [], []
    async with client_of(door, lambda what, message: seen.append((what, message))) as client:
        client.on_status(told.append)
        notes = client.collection("notes")
        await client.synced(5)
        line = door.hub.lines[0]
        before = list(told)
        line.take = lambda frame: None  # it takes the draft and answers no more
        change_id = notes.put("a", 1)
        await until(lambda: any(what == "sent" and isinstance(message, m.Append) for what, message in seen))
        if way == "reset":
            line.socket.transport.abort()
        else:
            await line.socket.close(int(way.split()[1]))
        await client.when_appended(change_id)
        drafts = [message.drafts for what, message in seen if isinstance(message, m.Append)]
        assert len(drafts) == 2 and drafts[0] == drafts[1]
        assert [header.change_id for header in door.hub.appended] == [change_id]
        (closed,) = [message for what, message in seen if what == "closed"]
        assert closed.code == {"close 4000": 4000, "close 4011": 4011, "reset": 0}[way]
        lost = [status.phase for status in told[len(before) :] if status.phase in ("offline", "connecting")]
        assert lost[0] == ("connecting" if way == "close 4000" else "offline")
        await client.synced(5)
        assert client.status.error == ""


async def test_what_waits_to_be_sent_when_it_hangs_up_is_not_sent(door, quick):
    seen = []
    async with client_of(door, lambda what, message: seen.append((what, message))) as client:
        notes = client.collection("notes")
        await client.synced(5)
        change_id = notes.put("a", 1)
        await client.turn_off()
        await until(lambda: not door.hub.lines)
        assert not [message for what, message in seen if isinstance(message, m.Append)]
        assert door.hub.appended == []
        await client.turn_on()
        await client.when_appended(change_id)


async def test_it_leaves_a_hub_that_goes_away_and_is_back_when_it_was_told_to_be(door, quick):
    seen, told = [], []
    async with client_of(door, lambda what, message: seen.append((what, message))) as client:
        client.on_status(told.append)
        await client.synced(5)
        told.clear()
        await door.say(m.GoingAway(0.5))
        await until(lambda: any(what == "closed" for what, _ in seen))
        change_id = client.collection("notes").put("a", 1)
        left_at = asyncio.get_running_loop().time()
        await client.when_appended(change_id)
        await client.synced(5)
        assert len(door.dialled_at) == 2
        assert 0.4 < door.dialled_at[1] - left_at < 1.5
        (closed,) = [message for what, message in seen if what == "closed"]
        assert (closed.code, str(closed)) == (0, "the hub is restarting")
        assert {status.phase for status in told} <= {"connecting", "catching-up", "sending", "synced"}
        assert {status.error for status in told} == {""}
        # Closed as one hangs up, not cut: what was said before has arrived.
        assert door.lines[0].socket.close_code == 1000


async def test_a_hub_that_takes_the_line_and_says_nothing_counts_as_a_failure(door, quick, monkeypatch):
    monkeypatch.setattr("hub.client.conversation.DEAD_AFTER_S", 0.05)
    waits = []
    lost = connection.Backoff.lost
    monkeypatch.setattr("hub.client.backoff.STABLE_AFTER_S", 0.01)
    monkeypatch.setattr(connection.Backoff, "lost", lambda *a: waits.append(lost(*a)) or waits[-1])
    monkeypatch.setattr(Line, "on_hello", lambda *arguments: None)
    async with client_of(door):
        await until(lambda: len(waits) == 4)
    assert waits == pytest.approx([0.01, 0.02, 0.04, 0.08])


async def test_sync_that_is_turned_off_while_the_hub_is_dialled_stays_off(door, monkeypatch):
    let_in = asyncio.Event()

    async def slow(socket):
        await let_in.wait()

    door.greetings = [slow]
    async with client_of(door) as client:
        await until(lambda: door.dialled_at)
        await client.turn_off()
        let_in.set()
        await until(lambda: door.lines and not door.hub.lines)
        assert client._connection._socket is None
        assert client.status.phase == "off"
        await client.turn_on()
        await client.synced(5)
        assert len(door.dialled_at) == 2


async def test_the_tap_is_shown_both_directions_in_order(door, quick):
    seen = []
    async with client_of(door, lambda what, message: seen.append((what, message))) as client:
        await client.when_appended(client.collection("notes").put("a", 1))
    first = [(what, type(message)) for what, message in seen][:3]
    assert first == [("sent", m.Hello), ("received", m.Challenge), ("sent", m.Auth)]
    (sent,) = [message for what, message in seen if isinstance(message, m.Append)]
    (answer,) = [message for what, message in seen if isinstance(message, m.Appended)]
    assert (answer.request, answer.answers) == (sent.request, [m.DraftAnswer(1)])
    assert seen[-1][0] == "closed" and isinstance(seen[-1][1], Closed)


@pytest.mark.parametrize(
    ("said", "low", "high"),
    [("7", 7.0, 7.0), (" 0 ", 0.0, 0.0), ("soon", 0.0, 0.0), ("-3", 0.0, 0.0), ("date", 15.0, 20.0), (None, 0.0, 0.0)],
)
def test_retry_after_is_seconds_or_a_date(said, low, high):
    headers = Headers()
    if said is not None:
        headers["Retry-After"] = formatdate(time.time() + 20) if said == "date" else said
    response = Response(http.HTTPStatus.SERVICE_UNAVAILABLE, "", headers, b"")
    assert low <= connection._retry_after_s(InvalidStatus(response)) <= high


def test_what_is_no_http_answer_says_nothing_of_when_to_come_back():
    assert connection._retry_after_s(ConnectionRefusedError()) == 0.0


@pytest.mark.parametrize("host", ["127.evil.example", "127.0.0.1.example.org", "127.1", "[::2]", "localhost.example"])
def test_without_tls_a_name_that_looks_like_this_machine_is_not_dialled(host):
    with pytest.raises(ValueError, match="without TLS"):
        canonical_url(f"http://{host}")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "[::1]"])
def test_without_tls_this_machine_is_dialled(host):
    assert canonical_url(f"http://{host}:8080") == f"ws://{host}:8080/v1/ws"
