"""Which store and which bus the settings name; a driver is imported only when its keeper is wanted.

So the hub of one folder starts without the libraries of Postgres and Redis, and
needs neither installed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from hub import log
from hub.bus import Bus
from hub.config import Settings
from hub.errors import StoreUnavailable
from hub.metrics import Metrics
from hub.secrets import Secrets
from hub.store import Store

DATABASE_FILE = "hub.sqlite3"
DATABASE_WITHIN_S = 60.0  # a database may start after its hubs; beyond this whoever started the hub is told
ASK_AGAIN_S = 1.0


class BadSetting(Exception):
    """A setting that its keeper cannot use; the text is a sentence for the operator.  Do not start."""


def make_store(settings: Settings) -> Store:
    """The store the settings name, not yet opened."""
    limits, quota_bytes = settings.limits(), settings.policy().quota_bytes
    if settings.database_url:
        from hub.store.postgres import PostgresStore

        return PostgresStore(
            settings.database_url,
            migration_url=settings.migration_url,
            connections=settings.database_connections,
            limits=limits,
            quota_bytes=quota_bytes,
        )
    from hub.store.sqlite import SqliteStore

    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return SqliteStore(settings.data_dir / DATABASE_FILE, limits=limits, quota_bytes=quota_bytes)


async def open_store(settings: Settings, *, within_s: float = 0.0) -> Store:
    """The store the settings name, open.

    A Postgres that does not answer is asked again for ``within_s``.  Raises
    ``StoreUnavailable``, ``SchemaTooNew`` or ``SchemaTooOld`` with a sentence, and leaves nothing open.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + (within_s if settings.database_url else 0.0)
    while True:
        store = make_store(settings)
        try:
            await store.open()
        except StoreUnavailable:
            if loop.time() >= deadline:
                raise
            log.get().warning("the database does not answer yet; asking again", store="postgres")
            await asyncio.sleep(ASK_AGAIN_S * random.uniform(0.5, 1.5))  # so that replicas do not all ask at once
        else:
            return store


async def open_to_read(settings: Settings) -> Store:
    """The store the settings name, open for reading; on SQLite also beside the hub that owns the file.

    On SQLite a write raises ``StoreUnavailable``; on Postgres nothing keeps you from writing.  Raises as
    ``open_store``.
    """
    if settings.database_url:
        return await open_store(settings)
    from hub.store.sqlite import SqliteStore

    store = SqliteStore(
        settings.data_dir / DATABASE_FILE,
        limits=settings.limits(),
        quota_bytes=settings.policy().quota_bytes,
        read_only=True,
    )
    await store.open()
    return store


def make_bus(settings: Settings, secrets: Secrets, metrics: Metrics) -> Bus:
    """The bus the settings name, not yet opened.  Raises ``BadSetting``."""
    if not settings.redis_url:
        from hub.bus.local import LocalBus

        return LocalBus()
    from hub.bus.redis import RedisBus

    connected: Callable[[bool], None] = metrics.bus_connected.set
    try:
        return RedisBus(
            settings.redis_url,
            secrets.internal_key,
            connected=connected,
            counted=metrics.notices.add,
            took=metrics.bus_seconds.observe_all,
        )
    except ValueError as fault:
        raise BadSetting(f"redis_url: {fault}") from None
