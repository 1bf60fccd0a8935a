"""A hub that goes down in order: everybody is told, everything sent is answered, nobody is left."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from nacl.signing import SigningKey
from websockets.exceptions import ConnectionClosed, InvalidStatus

from hub.server import RETRY_AFTER_S
from hub.store.memory import MemoryStore
from hub.store.sqlite import SqliteStore
from hub.terms import Limits
from hub.wire import messages as m
from hub.wire.codec import decode_from_hub, encode
from tests.hub_rig import COLLECTION, Wire
from tests.replica_rig import Line, Replica, replica, settled
from tests.services import free_port
from tests.session_rig import Person

# Devices that never pause for breath.
BUSY = Limits(messages_per_s=10**6, messages_burst=10**6, bytes_per_s=10**9, bytes_burst=10**9)


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    store = MemoryStore()
    await store.open()
    yield store
    await store.close()


async def devices(person: Person, count: int) -> list[Person]:
    """The person's first device and more of them, ready to sign in."""
    first = await person.store.device(person.device_id)
    assert first
    all_of_them = [person]
    for _ in range(count - 1):
        key = SigningKey.generate()
        one = replace(person, device_id=random.randbytes(16), device_key=key, counter=0)
        device = replace(first, device_id=one.device_id, device_pk=bytes(key.verify_key))
        await person.store.add_device(device, per_account_max=60, per_app_max=60)
        all_of_them.append(one)
    return all_of_them


@dataclass
class Writer:
    """A device that appends all the time, four at once, and leaves as the protocol asks."""

    wire: Wire
    stubborn: bool = False  # does not know ``going_away``
    sent: dict[int, bytes] = field(default_factory=dict)
    seqs: dict[int, int] = field(default_factory=dict)
    refused: list[m.Refused] = field(default_factory=list)
    told: m.GoingAway | None = None
    told_at: float = 0.0
    sent_when_told: int = 0
    code: int = 0

    async def write(self) -> None:
        """Until the connection ends."""
        try:
            for _ in range(4):
                await self._append()
            while True:
                await self._hear(decode_from_hub(await self.wire.socket.recv()))
        except ConnectionClosed as closed:
            assert closed.rcvd is not None, closed
            self.code = closed.rcvd.code

    async def _append(self) -> None:
        if self.told and not self.stubborn:
            return
        number = self.wire.number()
        self.sent[number] = self.wire.draft(body=random.randbytes(200))
        await self.wire.say(m.Append(number, self.wire.space_id, [self.sent[number]]))

    async def _hear(self, message: m.Message) -> None:
        match message:
            case m.Appended(request=request, answers=answers):
                assert not answers[0].code, answers
                self.seqs[request] = answers[0].seq
                await self._append()
            case m.Refused():
                self.refused.append(message)
            case m.GoingAway():
                assert self.told is None, "told twice"
                self.told, self.told_at = message, asyncio.get_running_loop().time()
                self.sent_when_told = len(self.sent)
            case m.Ping():
                await self.wire.say(m.Pong())


async def writers(
    hub: Replica, people: list[Person], *, stubborn: bool = False
) -> tuple[list[Writer], asyncio.Future[list[None]]]:
    """Devices that are appending."""
    writers = [Writer(await hub.sign_in(person), stubborn) for person in people]
    writing = asyncio.gather(*[writer.write() for writer in writers])
    while any(len(writer.seqs) < 5 for writer in writers):
        await asyncio.sleep(0.01)
    return writers, writing


async def test_fifty_devices_that_append_all_the_time_lose_nothing_and_leave_one_after_the_other(
    tmp_path: Path,
) -> None:
    store = SqliteStore(tmp_path / "hub.sqlite3")
    await store.open()
    people: list[Person] = []
    for _ in range(5):
        people += await devices(await settled(store), 10)  # type: ignore[arg-type]
    async with replica(store, Line(), limits=BUSY) as hub:
        every, writing = await writers(hub, people)
        started = asyncio.get_running_loop().time()
        await hub.server.drain(4.0)
        took = asyncio.get_running_loop().time() - started
        await writing
    assert {writer.code for writer in every} == {4000}
    for writer in every:
        assert writer.told and writer.refused == []
        assert len(writer.sent) == writer.sent_when_told == len(writer.seqs), "an append has no answer"
    # Told evenly over the first half of the time; the other half is for finishing.
    # A busy machine may hold some of them up, but none is told before its time.
    told = sorted(writer.told_at - started for writer in every)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        assert -0.1 < told[round(share * 49)] - 2.0 * share < 0.6, (share, told)
    assert 1.9 < took < 4.5
    waits = sorted(writer.told.retry_after_s for writer in every if writer.told)
    assert RETRY_AFTER_S[0] <= waits[0] < 2 and 3 < waits[-1] <= RETRY_AFTER_S[1] and len(set(waits)) > 40
    # Every acknowledged change is in the log, at its place.
    for person in people[::10]:
        mine = [writer for writer in every if writer.wire.space_key is person.space_key]
        seqs = sorted(seq for writer in mine for seq in writer.seqs.values())
        (state,) = await store.states(person.account_id, person.space_id, person.device_id, [COLLECTION])
        assert seqs == list(range(1, state.head + 1))
    await store.close()


async def test_devices_that_do_not_know_the_message_are_closed_all_the_same(store: MemoryStore) -> None:
    async with replica(store, Line(), limits=BUSY) as hub:
        every, writing = await writers(hub, await devices(await settled(store), 10), stubborn=True)
        started = asyncio.get_running_loop().time()
        await hub.server.drain(1.0)
        assert asyncio.get_running_loop().time() - started < 3
        await writing
    assert {writer.code for writer in every} == {4000}
    for writer in every:
        unanswered = len(writer.sent) - len(writer.seqs) - len(writer.refused)
        assert {refusal.code for refusal in writer.refused} <= {"unavailable"} and unanswered <= 4


async def test_a_device_that_hangs_up_itself_is_not_waited_for(store: MemoryStore) -> None:
    async with replica(store, Line()) as hub:
        wire = await hub.sign_in(await settled(store))
        draining = asyncio.create_task(hub.server.drain(30.0))
        assert (await wire.hear(m.GoingAway)).retry_after_s >= RETRY_AFTER_S[0]
        await wire.hang_up()
        await asyncio.wait_for(draining, 2)


async def test_a_device_that_gives_no_sign_has_its_time_and_no_more(store: MemoryStore) -> None:
    async with replica(store, Line()) as hub:
        wire = await hub.sign_in(await settled(store))
        started = asyncio.get_running_loop().time()
        draining = asyncio.create_task(hub.server.drain(1.0))
        assert await wire.closing() == 4000
        await draining
        assert 0.4 < asyncio.get_running_loop().time() - started < 1.5
    assert [type(message) for message in wire.unread] == [m.GoingAway, m.Ping]


async def test_sockets_in_the_middle_of_a_handshake_are_ended(store: MemoryStore) -> None:
    person = await settled(store)
    async with replica(store, Line()) as hub:
        silent = await Wire(hub.url).dial()
        greeted = Wire(hub.url)
        greeted.device_id = person.device_id
        await greeted.greet()
        reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)  # and asks for nothing
        while len(hub.server._peers) < 2:
            await asyncio.sleep(0.01)
        await asyncio.wait_for(hub.server.drain(0.2), 2)
        assert await silent.closing() == await greeted.closing() == 4000
        with pytest.raises((EOFError, ConnectionError)):
            await reader.readexactly(1)
        writer.close()
    assert silent.unread == greeted.unread == []


async def test_a_device_in_the_middle_of_its_handshake_is_let_in_and_told(store: MemoryStore) -> None:
    person = await settled(store)
    async with replica(store, Line()) as hub:
        wire = Wire(hub.url)
        wire.device_id, wire.device_key = person.device_id, person.device_key
        await wire.greet()
        draining = asyncio.create_task(hub.server.drain(20.0))
        while await pages(hub, "/readyz") != ["HTTP/1.1 404 Not Found"]:
            await asyncio.sleep(0)
        await wire.ask(m.Auth(wire.proof()), m.Ready)
        assert (await wire.hear(m.GoingAway)).retry_after_s >= RETRY_AFTER_S[0]
        await wire.say(m.Pong())
        assert await wire.closing() == 4000
        await asyncio.wait_for(draining, 1)


async def test_a_socket_that_slips_in_while_the_hub_goes_down_is_told_too(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_of, second_of = await devices(await settled(store), 2)
    async with replica(store, Line()) as hub:
        first = await hub.sign_in(first_of)
        draining = asyncio.create_task(hub.server.drain(20.0))
        await first.hear(m.GoingAway)
        # Its request was looked at a moment before; only here the order can be had for sure.
        monkeypatch.setattr(hub.server._http, "_may_upgrade", lambda _request: None)
        wire = Wire(hub.url)
        wire.device_id, wire.device_key = second_of.device_id, second_of.device_key
        await wire.sign_in()
        assert (await wire.hear(m.GoingAway)).retry_after_s >= RETRY_AFTER_S[0]
        for each in (first, wire):
            await each.say(m.Pong())
            assert await each.closing() == 4000
        await asyncio.wait_for(draining, 1)


@pytest.mark.parametrize("over_s", [0.0, 0.5])
async def test_a_hub_without_sessions_goes_down_at_once(store: MemoryStore, over_s: float) -> None:
    async with replica(store, Line()) as hub:
        await asyncio.wait_for(hub.server.drain(over_s), 0.3)


async def test_with_no_time_at_all_every_session_is_closed_at_once(store: MemoryStore) -> None:
    async with replica(store, Line()) as hub:
        wire = await hub.sign_in(await settled(store))
        await asyncio.wait_for(asyncio.gather(hub.server.drain(0.0), wire.closing()), 1)
    assert wire.unread == []  # no farewell that nobody has time to obey


async def test_a_drain_that_is_called_off_leaves_the_sessions_to_close(store: MemoryStore) -> None:
    async with replica(store, Line()) as hub:
        first, second = [await hub.sign_in(person) for person in await devices(await settled(store), 2)]
        draining = asyncio.create_task(hub.server.drain(60.0))
        # One of them is told at once, the other after half a minute.
        told = [asyncio.create_task(wire.hear(m.GoingAway)) for wire in (first, second)]
        await asyncio.wait(told, return_when=asyncio.FIRST_COMPLETED)
        draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)
        assert not all(task.done() for task in told)
        for task in told:
            task.cancel()
        await asyncio.gather(*told, return_exceptions=True)
        started = asyncio.get_running_loop().time()
        _, *codes = await asyncio.gather(hub.server.close(), first.closing(), second.closing())
        assert codes == [4000, 4000] and asyncio.get_running_loop().time() - started < 1


async def pages(hub: Replica, *paths: str) -> list[str]:
    """The status lines of some pages."""
    return await pages_of(hub.port, *paths)


async def pages_of(port: int, *paths: str) -> list[str]:
    lines = []
    for path in paths:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        lines.append((await asyncio.wait_for(reader.read(), 5)).decode().split("\r\n")[0])
        writer.close()
        await writer.wait_closed()
    return lines


async def test_a_draining_hub_lives_is_not_ready_and_sends_newcomers_elsewhere(store: MemoryStore) -> None:
    person = await settled(store)
    async with replica(store, Line()) as hub:
        wire = await hub.sign_in(person)
        assert await pages(hub, "/healthz", "/readyz") == ["HTTP/1.1 200 OK"] * 2
        draining = asyncio.create_task(hub.server.drain(20.0))
        await wire.hear(m.GoingAway)
        assert await pages(hub, "/healthz", "/readyz", "/metrics", "/.well-known/sync-hub") == [
            "HTTP/1.1 200 OK",
            "HTTP/1.1 404 Not Found",
            "HTTP/1.1 200 OK",
            "HTTP/1.1 200 OK",
        ]
        with pytest.raises(InvalidStatus) as refused:
            await Wire(hub.url).dial()
        response = refused.value.response
        assert response.status_code == 503 and int(response.headers["Retry-After"]) > 0
        await wire.hang_up()
        await draining


async def test_a_frame_that_is_on_its_way_when_the_hub_says_good_bye_is_answered(store: MemoryStore) -> None:
    async with replica(store, Line()) as hub:
        wire = await hub.sign_in(await settled(store))
        draining = asyncio.create_task(hub.server.drain(10.0))
        # The device has not read the message yet, so it cannot know.
        await wire.say(m.Append(7, wire.space_id, [wire.draft()]))
        await wire.say(m.ListDevices(8))
        assert (await wire.hear(m.GoingAway)).retry_after_s > 0
        await wire.say(encode(m.Pong()))
        assert await wire.closing() == 4000
        await draining
    answers = [message for message in wire.unread if isinstance(message, m.Appended | m.DeviceList | m.Refused)]
    assert {type(answer) for answer in answers} == {m.Appended, m.DeviceList}


async def test_sigterm_drains_a_replica_and_a_second_one_ends_it_at_once(one_database_url: str, tmp_path: Path) -> None:
    port = free_port()
    settings = {
        "HUB_DATABASE_URL": one_database_url,
        "HUB_SECRETS_FILE": str(tmp_path / "secrets.toml"),
        "HUB_DATA_DIR": str(tmp_path / "data"),
        "HUB_PORT": str(port),
        "HUB_DRAIN_S": "60",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hub", "serve", stdout=asyncio.subprocess.PIPE, env=os.environ | settings
    )
    try:
        assert process.stdout
        async with asyncio.timeout(30):
            while b"is up on" not in await process.stdout.readline():
                assert process.returncode is None
        url = f"ws://127.0.0.1:{port}/v1/ws"
        wires = [await Wire(url).dial(), await Wire(url).dial()]
        closings = [asyncio.create_task(wire.closing(10)) for wire in wires]
        process.send_signal(signal.SIGTERM)
        while await pages_of(port, "/healthz", "/readyz") != ["HTTP/1.1 200 OK", "HTTP/1.1 404 Not Found"]:
            await asyncio.sleep(0.01)
        assert process.returncode is None and not any(task.done() for task in closings)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 3) == 0
        assert await asyncio.gather(*closings) == [4000, 4000]
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


# After one turn the connection is in asyncio's own hands, which drop it when the port is closed (Python 3.11).
@pytest.mark.parametrize("turns", [0, 2, 3, 4, 5])
async def test_who_is_accepted_while_the_port_closes_is_cut_off(store: MemoryStore, turns: int) -> None:
    loop = asyncio.get_running_loop()
    async with replica(store, Line()) as hub:
        with socket.create_connection(("127.0.0.1", hub.port)) as late:
            for _ in range(turns):  # of the loop, in which the hub accepts it and makes its transport
                await asyncio.sleep(0)
            await hub.server.close()
            late.setblocking(False)
            async with asyncio.timeout(2.0):
                with pytest.raises((EOFError, ConnectionError)):
                    if not await loop.sock_recv(late, 1):
                        raise EOFError
