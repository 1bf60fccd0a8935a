"""Replicas of one hub inside the test: real servers on real sockets over one model store, and a bus that can be cut.

The store is ``MemoryStore``; closing it is a database that went away, opening it one that
is back with all it had.  For replicas as processes on Postgres and Redis see
``cluster_rig.py``.
"""

from __future__ import annotations

import asyncio
import io
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from hub.accounts import Accounts
from hub.appender import Appender
from hub.bus import Notice, NoticesLost
from hub.bus.local import LocalBus
from hub.codes import SignUp
from hub.fanout import Fanout
from hub.http import Http
from hub.mail.console import ConsoleMailer
from hub.metrics import Metrics
from hub.rights import space_id_of
from hub.secrets import Secrets, new_secrets
from hub.server import HubServer
from hub.services import Operating, Services
from hub.store import Store
from hub.store.memory import MemoryStore
from hub.terms import Limits, Policy
from tests.hub_rig import Wire
from tests.session_rig import Person


class Line:
    """What lies between the buses of several replicas."""

    def __init__(self) -> None:
        self.buses: list[LineBus] = []
        self.is_up = True
        self.carried: list[Notice] = []

    def mend(self) -> None:
        """Carry again, and say that something may have been lost, as a bus has to."""
        self.is_up = True
        for bus in self.buses:
            for account_id in list(bus._receivers):
                asyncio.get_running_loop().call_soon(bus._deliver, account_id, NoticesLost())


class LineBus(LocalBus):
    """The bus of one replica: its own sessions hear in any case, the others over the line."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self._line = line
        line.buses.append(self)

    def publish(self, account_id: bytes, notice: Notice) -> None:
        super().publish(account_id, notice)
        if self._line.is_up:
            self._line.carried.append(notice)
            for bus in self._line.buses:
                if bus is not self:
                    asyncio.get_running_loop().call_later(0.001, bus._deliver, account_id, notice)


@dataclass
class Replica:
    """One running replica."""

    server: HubServer
    bus: LineBus
    port: int
    accounts: Accounts
    secrets: Secrets

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/ws"

    async def sign_in(self, person: Person, **fields: object) -> Wire:
        """A device of ``person`` connects here and enters its space."""
        wire = Wire(self.url)
        wire.device_id, wire.device_key, wire.space_key = person.device_id, person.device_key, person.space_key
        await wire.sign_in(**fields)
        await wire.enter()
        return wire


@asynccontextmanager
async def replica(
    store: Store,
    line: Line,
    *,
    policy: Policy | None = None,
    limits: Limits | None = None,
    watched: bool = True,
    operating: Operating | None = None,
) -> AsyncIterator[Replica]:
    """A replica that serves inside the block; ``watched`` lets it look after its sessions as ``hub serve`` does."""
    hub_secrets = new_secrets(secrets.token_bytes)
    policy, limits, metrics, bus = policy or Policy(), limits or Limits(), Metrics(), LineBus(line)
    appender = Appender(store, bus, metrics, wall=time.time)
    accounts = Accounts(
        store,
        bus,
        ConsoleMailer(io.StringIO(), "hub"),
        hub_secrets,
        policy=policy,
        limits=limits,
        sign_up=SignUp("closed", ()),
        clock=time.time,
        random=secrets.token_bytes,
    )
    http = Http(
        metrics=metrics,
        store_ping=store.ping,
        limits=limits,
        sign_up="closed",
        metrics_for="loopback",
        trusted_proxies=(),
        allowed_origins=(),
    )
    services = Services(
        store=store,
        bus=bus,
        accounts=accounts,
        appender=appender,
        metrics=metrics,
        limits=limits,
        quota_bytes=policy.quota_bytes,
        wall=time.time,
        operating=operating,
    )
    server = HubServer(
        store=store,
        bus=bus,
        services=services,
        fanout=Fanout(bus, metrics, sessions_per_account_max=limits.sessions_per_account_max),
        http=http,
        metrics=metrics,
        sign_up="closed",
        limits=limits,
        policy=policy,
        sessions_max=5_000,
    )
    port = await server.listen("127.0.0.1", 0, lambda port: [f"ws://127.0.0.1:{port}/v1/ws"], None)
    work = [asyncio.create_task(appender.run())]
    if watched:
        work.append(asyncio.create_task(server.watch()))
    try:
        yield Replica(server, bus, port, accounts, hub_secrets)
    finally:
        await server.close()
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await accounts.close()
        line.buses.remove(bus)


async def settled(store: MemoryStore) -> Person:
    """A person with a device and a space that its key proves."""
    person = Person(store)
    person.space_id = space_id_of(bytes(person.space_key.verify_key))
    await person.settle()
    return person
