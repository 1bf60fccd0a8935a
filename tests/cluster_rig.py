"""Replicas of the hub as an operator runs them: processes behind a load balancer, and many real devices.

``cluster()`` starts them with one database, one Redis, one secrets file and the very
``deploy/haproxy.cfg``.  ``Crowd`` enrols devices of many accounts through the hub's
own protocol and lets each of them write; a ``Recorder`` beside each notes what passes.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import os
import random
import re
import secrets
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hub.client import Closed, HubClient
from hub.client.connection import canonical_url
from hub.client.storage import MemoryStorage
from hub.secrets import make as make_secrets
from hub.wire import messages as m
from tests.history import Frame, Recorder
from tests.mailbox import Mail, Mailbox
from tests.services import HOST, Balancer, Program, free_port, haproxy

ROOT = Path(__file__).parent.parent
HAPROXY_FILE = ROOT / "deploy" / "haproxy.cfg"
APP = "org.example.notes"
NOTES = "notes"
REPLICAS_MAX = 3
OWN_KEYS = 40  # each device writes so many records of its own, again and again
SHARED_KEYS = 5  # and these are written by all devices of an account
GOING_AWAY = 4000


async def until(holds: Callable[[], object], within_s: float = 10.0, what: str = "") -> None:
    """Wait for a condition that nobody tells us of."""
    try:
        async with asyncio.timeout(within_s):
            while not holds():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {within_s} s: {what or holds}") from None


# --- the hub ---------------------------------------------------------------------------------


class Replica(Program):
    """One ``hub serve`` process."""

    name = "hub"
    signal_when_orphaned = signal.SIGKILL

    def __init__(self, base: Path, number: int, settings: Mapping[str, str]) -> None:
        self.port = free_port()
        folder = base / f"replica-{number}"
        folder.mkdir(exist_ok=True)
        mine = {name: value for name, value in os.environ.items() if not name.startswith("HUB_")}
        env = mine | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "error"}
        own = {"HUB_PORT": str(self.port), "HUB_DATA_DIR": str(folder / "data"), "HUB_HOST": HOST}
        super().__init__([sys.executable, "-m", "hub", "serve"], folder, env | own | settings)

    @property
    def url(self) -> str:
        """Past the load balancer."""
        return f"http://{HOST}:{self.port}"

    def is_ready(self) -> bool:
        """Whether it says that it can serve."""
        return self.get("/readyz")[0] == 200

    def get(self, path: str) -> tuple[int, str]:
        """A page; status 0 when nobody answers."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=2.0)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()


async def start(program: Program) -> None:
    """Start a server and wait for it, while everything else goes on."""
    await asyncio.to_thread(program.start)


async def end(program: Program, number: int = signal.SIGTERM) -> int:
    """Send this signal; its exit status when it has ended."""
    program.signal(number)
    return await asyncio.to_thread(program.wait)


@dataclass
class Cluster:
    """What runs, and how it is reached."""

    replicas: list[Replica]
    balancer: Balancer
    mailbox: Mailbox
    enrol_url: str

    @property
    def url(self) -> str:
        """Where devices dial: the load balancer."""
        return f"http://{HOST}:{self.balancer.port}"

    def complaints(self) -> list[str]:
        """Lines of the replicas' logs that tell of a mistake in the hub itself."""
        lines = [line for replica in self.replicas for line in replica.said().splitlines()]
        return [line for line in lines if line.startswith("Traceback") or re.match(r"\S+ error ", line)]


@asynccontextmanager
async def cluster(
    base: Path, *, replicas: int = REPLICAS_MAX, database_url: str = "", redis_url: str = "", **settings: str
) -> AsyncIterator[Cluster]:
    """Run that many replicas behind the load balancer.  ``settings`` are more of the hub's, as HUB_PORT="1"."""
    async with Mailbox() as mailbox:
        bind = f"{HOST}:{free_port()}"
        door = Door()
        async with door.open():
            common = {
                "HUB_DATABASE_URL": database_url,
                "HUB_REDIS_URL": redis_url,
                "HUB_SECRETS_FILE": str(base / "secrets.toml"),
                "HUB_SMTP_HOST": HOST,
                "HUB_SMTP_PORT": str(mailbox.port),
                "HUB_SMTP_SECURITY": "none",
                "HUB_SMTP_FROM": "hub@example.org",
                "HUB_SIGN_UP": "open",
                "HUB_CODES_PER_HOUR": "100000",
                "HUB_BEHIND_PROXY": "true",
                "HUB_LOG_LEVEL": "warning",
            }
            make_secrets(base / "secrets.toml", secrets.token_bytes)
            running = [Replica(base, number, common | settings) for number in range(1, replicas + 1)]
            # A device signs the address it dials, so every way in must be one of the hub's own.
            ways = [f"http://{bind}", f"http://{HOST}:{door.port}", *(replica.url for replica in running)]
            for replica in running:
                replica.env["HUB_PUBLIC_URLS"] = ",".join(ways)
            addresses = {f"HUB_REPLICA_{number}": f"{HOST}:{each.port}" for number, each in enumerate(running, 1)}
            try:
                await asyncio.gather(*map(start, running))
                door.targets = itertools.cycle([replica.port for replica in running])
                with haproxy(HAPROXY_FILE, {"HUB_LB_BIND": bind, **addresses}) as balancer:
                    yield Cluster(running, balancer, mailbox, ways[1])
            finally:
                for replica in running:
                    replica.kill()


class Door:
    """A trusted proxy that says of every connection that it comes from a network of its own.

    The limits on codes by network have tests of their own; here a crowd signs up in seconds.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.targets: Iterator[int] = iter(())
        self._visitors = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._connected, HOST, self.port)
        try:
            yield
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            hub_reader, hub_writer = await asyncio.open_connection(HOST, next(self.targets))
            try:
                await self._introduce(reader, hub_writer)
                await asyncio.gather(_copy(reader, hub_writer), _copy(hub_reader, writer))
            finally:
                hub_writer.transport.abort()
        writer.transport.abort()

    async def _introduce(self, reader: asyncio.StreamReader, hub: asyncio.StreamWriter) -> None:
        visitor = next(self._visitors)
        request = await reader.readuntil(b"\r\n")
        hub.write(request + f"X-Forwarded-For: 10.{visitor // 256 % 256}.{visitor % 256}.1\r\n".encode())


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(65_536):
        writer.write(piece)
        await writer.drain()
    writer.write_eof()


# --- its devices -----------------------------------------------------------------------------


class Device:
    """One real client that keeps its data in memory, and what it saw and wrote."""

    def __init__(self, name: str, space: str, storage: MemoryStorage) -> None:
        self.name = name
        self.storage = storage
        self.client = HubClient(storage, APP)
        self.recorder = Recorder(name, self.client.device_id, space)
        self.closings: Counter[int] = Counter()  # close codes of the hub; 0 = the line was lost or hung up here
        self.told_to_go = 0
        self.surprises: list[int] = []  # close codes of connections that ended without a word before
        self.written: dict[str, int] = {}
        self.edits = 0
        self._was_told = False

    async def enrol(self, attempt_id: bytes, code: str, scope: Literal["app", "account"]) -> None:
        """As ``HubClient.enrol``, which knows one scope only."""
        public_key = bytes(self.client._identity.signing_key.verify_key)
        async with self.client._errand() as talk:
            ready = await talk.ask(m.Enrol(1, attempt_id, code, public_key, talk.proof("enrol"), scope), m.Ready)
        self.client._engine.device.is_ready(ready)

    async def start(self, url: str) -> None:
        """Run against this address from now on."""
        with self.storage.transaction():
            self.storage.set_setting("hub_url", canonical_url(url).encode())
        self.client = HubClient(self.storage, APP, self._tap)
        self.client.collection(NOTES)
        await self.client.start()

    async def stop(self) -> None:
        """Hang up and stop."""
        await self.client.stop()

    def put(self, key: str, value: int) -> bytes:
        """Write one record."""
        self.edits += 1
        return self.client.collection(NOTES).put(key, value)

    def put_own(self, chance: random.Random) -> None:
        """Write one of the records that only this device writes."""
        key = f"{self.name}/{chance.randrange(OWN_KEYS)}"
        self.put(key, self.edits)
        self.written[f"{NOTES}/{key}"] = self.edits - 1

    def get(self, key: str) -> object:
        return self.client.collection(NOTES).get(key)

    def contents(self) -> dict[str, Any]:
        """Everything it holds now, by collection and key."""
        return {f"{NOTES}/{key}": value for key, value in self.client.collection(NOTES).items()}

    def recorded(self) -> Recorder:
        """What it saw, with what it holds and wrote."""
        self.recorder.contents = self.contents()
        self.recorder.written = dict(self.written)
        return self.recorder

    def _tap(self, direction: str, message: object) -> None:
        self.recorder.tap(direction, message)
        if isinstance(message, m.Hello):
            self._was_told = False
        elif isinstance(message, m.GoingAway):
            self.told_to_go += 1
            self._was_told = True
        elif isinstance(message, Closed):
            self.closings[message.code] += 1
            if not self._was_told or message.code not in (0, GOING_AWAY):
                self.surprises.append(message.code)


@dataclass
class Crowd:
    """Devices of many accounts, so many an account."""

    cluster: Cluster
    devices: list[Device] = field(default_factory=list)

    async def enrol(self, accounts: int, devices_each: int) -> None:
        """Sign them all up; the first device of an account makes the key that the others take."""
        each = [self._account(f"person{number}", devices_each) for number in range(accounts)]
        self.devices += [device for devices in await asyncio.gather(*each) for device in devices]

    async def _account(self, person: str, count: int) -> list[Device]:
        devices = []
        key = ""
        for number in range(count):
            device = await self.sign_up(person, f"{person}-{number}", scope="app" if devices else "account")
            if key:
                device.client.import_key(key)
            else:
                key = device.client.create_key()
                # The space must be there before the next device asks for it.
                await device.start(self.cluster.url)
                await device.client.synced(30.0)
            devices.append(device)
        for device in devices[1:]:
            await device.start(self.cluster.url)
        return devices

    async def sign_up(self, person: str, name: str, scope: Literal["app", "account"] = "app") -> Device:
        """A device that the hub knows, without a key; with account scope it may revoke others."""
        storage = MemoryStorage()
        with storage.transaction():
            storage.set_setting("hub_url", canonical_url(self.cluster.enrol_url).encode())
        device = Device(name, person, storage)
        address = f"{person}@example.org"
        sent = await device.client.request_code(address)
        await device.enrol(sent.attempt_id, await self._code(address, sent.phrase), scope)
        return device

    async def _code(self, address: str, phrase: str, *, after: int = 0) -> str:
        """The code of a mail that came as one of those ``after`` the first so many."""

        def found() -> list[Mail]:
            # The two words alone are not enough: in a crowd some are drawn twice.
            mails = self.cluster.mailbox.mails[after:]
            return [mail for mail in mails if mail.recipient == address and phrase in mail.text]

        await until(found, what="a code in the mail")
        return found()[-1].code

    async def write(self, seconds_between: float, chance: random.Random, *, shared: bool = True) -> None:
        """All of them write at random times, each so often in the mean, until cancelled."""
        await asyncio.gather(*(self._one_writes(d, seconds_between, chance, shared) for d in self.devices))

    async def _one_writes(self, device: Device, seconds: float, chance: random.Random, shared: bool) -> None:
        while True:
            await asyncio.sleep(chance.uniform(0.0, 2.0 * seconds))
            if shared and chance.random() < 0.1:
                device.put(f"shared/{chance.randrange(SHARED_KEYS)}", device.edits)
            else:
                device.put_own(chance)

    async def settle(self, within_s: float = 60.0) -> None:
        """Wait until every device has sent everything and has everything."""
        async with asyncio.timeout(within_s):
            await asyncio.gather(*(device.client.synced(within_s) for device in self.devices))
            # What one device learnt last may have made it write: a merge is an edit.
            await until(self._agree, within_s, "all devices of each account hold the same")

    def _agree(self) -> bool:
        first: dict[str, dict[str, Any]] = {}
        return all(
            device.contents() == first.setdefault(device.recorder.space, device.contents()) for device in self.devices
        )

    async def stop(self) -> None:
        """Stop all of them."""
        await asyncio.gather(*(device.stop() for device in self.devices))

    def counts(self) -> dict[str, int]:
        """What they did, in numbers."""
        recorders = [device.recorder for device in self.devices]
        return {
            "devices": len(recorders),
            "edits": sum(device.edits for device in self.devices),
            "acknowledged": sum(recorder.acknowledged for recorder in recorders),
            "frames": sum(recorder.count(Frame) for recorder in recorders),
            "connections": sum(recorder.connections for recorder in recorders),
        }

    def closings(self) -> Counter[int]:
        """How their connections ended."""
        return sum((device.closings for device in self.devices), Counter())
