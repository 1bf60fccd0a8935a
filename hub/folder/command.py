"""What the commands of ``hub folder`` share: exit statuses, the sentence that ends one, the opened client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from hub.client import HubClient
from hub.folder import APP_ID
from hub.folder.home import Home
from hub.folder.sync import CHUNKS, FILES

OK, FAILED, MISUSED, ALARMED, NOT_SIGNED_IN, NOT_IN_TIME = range(6)
ONLINE_WITHIN_S = 30.0  # how long a short command waits for the hub
FOR_EVER_S = 10 * 365 * 86_400.0
SIGN_IN = "This device is not signed in: hub folder login --hub URL --email ADDRESS"
SWITCHED_OFF = "Sync is off here; hub folder on switches it on again."

Say = Callable[[str], None]


class Stop(Exception):
    """The command ends here: a sentence for the person and the exit status."""

    def __init__(self, sentence: str, status: int = FAILED) -> None:
        super().__init__(sentence)
        self.status = status


@asynccontextmanager
async def opened_client(home: Home) -> AsyncIterator[HubClient]:
    """This device's client, signed in and with its key, not connected.  Raises ``Stop``, ``InUse``."""
    with home.locked():
        if not home.client_path.exists():
            raise Stop(SIGN_IN, NOT_SIGNED_IN)
        client = await HubClient.open(home.client_path, app_id=APP_ID)
        try:
            if not client.signed_in or not client.has_key:
                raise Stop(SIGN_IN, NOT_SIGNED_IN)
            client.collection(FILES)
            client.collection(CHUNKS)
            yield client
        finally:
            await client.stop()


async def online(client: HubClient) -> None:
    """Connected and up to date, also when it was before."""
    if client.status.phase == "off":
        raise Stop(SWITCHED_OFF)
    await client.start()
    try:
        await client.synced(ONLINE_WITHIN_S)
    except TimeoutError:
        raise Stop(f"The hub did not answer within {ONLINE_WITHIN_S:.0f} s; try again later.") from None
