"""The way to the hub that the settings name: through the one that runs, or straight to its database.

Where one process serves all devices, a hub that runs is asked over its control
socket: it owns the file of SQLite, and only it can close a session at once.  Where
several replicas serve, the database is opened beside them and the bus tells them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from hub import control
from hub import secrets as hub_secrets
from hub.config import Settings
from hub.keepers import DATABASE_FILE, BadSetting, make_bus, open_store
from hub.metrics import Metrics

Do = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]]


@asynccontextmanager
async def operating_for(settings: Settings) -> AsyncIterator[Do]:
    """All of the operator's verbs, as ``do(verb, arguments)``, whether a hub is running or not.

    What ``do`` raises is what ``Operating.do_here`` raises.  Raises ``BadSetting`` where no hub has ever run,
    ``BadSecrets``, ``SchemaTooNew``, ``SchemaTooOld`` or ``StoreUnavailable``, each with a sentence.
    """
    if not settings.redis_url and await control.somebody_listens(settings.data_dir):

        async def asked(verb: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
            return await control.ask(settings.data_dir, verb, arguments)

        yield asked
        return
    from hub.running import operating_of  # all of the server: not needed where a hub is asked

    if not settings.database_url and not _has_database(settings.data_dir):
        raise BadSetting(
            f"There is no hub in {settings.data_dir}; start one with hub serve, or name its folder in HUB_DATA_DIR."
        )
    async with AsyncExitStack() as stack:
        store = await open_store(settings)
        stack.push_async_callback(store.close)
        # Loaded, never made: a second file of keys beside the hub's own would be the wrong one.
        secrets = hub_secrets.load(settings.secrets_path())
        bus = make_bus(settings, secrets, Metrics())
        stack.push_async_callback(bus.close)
        await bus.open()
        yield operating_of(settings, store, bus, secrets).do_here


def _has_database(data_dir: Path) -> bool:
    return (data_dir / DATABASE_FILE).exists()
