"""One hub by itself, on Postgres with fsync or on SQLite, with devices that are signed in; gone afterwards.

On Linux it can be kept to one core, and what is beside it, the databases and whoever measures, to the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import secrets
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from hub.client.connection import canonical_url
from hub.keepers import DATABASE_FILE
from hub.secrets import make as make_secrets
from hub.store import Store
from hub.store.postgres import PostgresStore
from hub.store.sqlite import SqliteStore
from loadtest.place import cpu_s, tree_cpu_s
from loadtest.seed import SeededDevice, seed
from tests.cluster_rig import Replica
from tests.services import Postgres, database, postgres

PLENTY = "1000000"
STORES = ("postgres", "sqlite")
Fill = Callable[[Store, list[SeededDevice]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Alone:
    """The hub, its store's address, and the devices it knows, grouped by account."""

    hub: Replica
    devices: list[SeededDevice]
    postgres: Postgres | None
    database_url: str  # empty with SQLite
    file: Path  # SQLite's

    @property
    def url(self) -> str:
        """Where devices dial, and what they sign."""
        return canonical_url(self.hub.url)

    def cpu_s(self) -> tuple[float, float]:
        """Processor time so far of the hub and of Postgres."""
        return cpu_s(self.hub.pid), tree_cpu_s(self.postgres.pid) if self.postgres else 0.0


@asynccontextmanager
async def alone(
    *,
    store: str = "postgres",
    accounts: int,
    devices_each: int,
    hub_core: int | None = None,
    fill: Fill | None = None,
    **settings: str,
) -> AsyncIterator[Alone]:
    """Start it; ``fill`` puts into the store what shall be there before.  ``settings`` are more of the hub's.

    With ``hub_core`` the hub runs on that core only, everything else on the others.
    """
    raise_open_files()
    with _beside(hub_core), tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        base = Path(folder)
        server = None
        if store == "postgres":
            server = stack.enter_context(postgres(None, "-c", "max_connections=500", fsync=True))
        async with contextlib.AsyncExitStack() as urls:
            url = await urls.enter_async_context(database(server)) if server else ""
            hub = _replica(base, url, settings)
            file = Path(hub.env["HUB_DATA_DIR"]) / DATABASE_FILE
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            keeper: Store = PostgresStore(url) if url else SqliteStore(file)
            await keeper.open()
            try:
                devices = await seed(keeper, accounts, devices_each)
                if fill is not None:
                    await fill(keeper, devices)
            finally:
                await keeper.close()
            with _only_on(hub_core):
                hub.launch()
            try:
                await asyncio.to_thread(hub.wait_ready)
                yield Alone(hub, devices, server, url, file)
            finally:
                hub.kill()


def _replica(base: Path, database_url: str, settings: dict[str, str]) -> Replica:
    make_secrets(base / "secrets.toml", secrets.token_bytes)
    common = {
        "HUB_DATABASE_URL": database_url,
        "HUB_SECRETS_FILE": str(base / "secrets.toml"),
        "HUB_LOG_LEVEL": "warning",
        "HUB_SESSIONS_MAX": PLENTY,
        # Codes are printed, and nobody asks for one.
        "HUB_SIGN_UP": "closed",
    }
    hub = Replica(base, 1, common | settings)
    if database_url:
        hub.env["HUB_PUBLIC_URLS"] = hub.url
    return hub


def raise_open_files() -> int:
    """Let this process and those it starts open as many files as they may; how many that is."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


@contextlib.contextmanager
def _only_on(core: int | None) -> Iterator[None]:
    """What is started inside runs on this core only; None: wherever it likes."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _beside(core: int | None) -> Iterator[None]:
    """This thread and what is started inside keep off that core."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        raise RuntimeError("there is no second core for what is beside the hub")
    os.sched_setaffinity(0, before - {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
