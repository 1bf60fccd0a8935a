"""What the commands of ``hub folder`` share: exit statuses, the sentence that ends one, the opened client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from hub.client import HubClient
from hub.folder import APP_ID
from hub.folder.home import Home
from hub.folder.sync import CHUNKS, FILES
from hub.terms import PATH

OK, FAILED, MISUSED, ALARMED, NOT_SIGNED_IN, NOT_IN_TIME = range(6)
ONLINE_WITHIN_S = 30.0  # how long a short command waits for the hub
FOR_EVER_S = 10 * 365 * 86_400.0
SIGN_IN = "This device is not signed in: hub folder login --hub URL --email ADDRESS"
UNANSWERED = f"The hub did not answer within {ONLINE_WITHIN_S:.0f} s; try again later."
MOVED = "The account lives at another hub now, {url}. To go on there: hub folder follow"
SWITCHED_OFF = "Sync is off here; hub folder on switches it on again."

Say = Callable[[str], None]


class Stop(Exception):
    """The command ends here: a sentence for the person and the exit status."""

    def __init__(self, sentence: str, status: int = FAILED) -> None:
        super().__init__(sentence)
        self.status = status


def shown_url(url: str) -> str:
    """A hub's URL as a person writes it."""
    return url.replace("ws", "http", 1).removesuffix(PATH)


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
    if url := client.status.moved_to:
        raise Stop(MOVED.format(url=shown_url(url)))
    await client.start()
    try:
        await client.synced(ONLINE_WITHIN_S)
    except TimeoutError:
        raise Stop(UNANSWERED) from None


async def answered(client: HubClient) -> None:
    """The hub has taken this device in, or told why it does not."""
    if client.status.phase == "off":
        raise Stop(SWITCHED_OFF)
    changed = asyncio.Event()
    client.on_status(lambda status: changed.set())
    await client.start()
    try:
        async with asyncio.timeout(ONLINE_WITHIN_S):
            while client.status.phase in ("offline", "connecting"):
                changed.clear()
                await changed.wait()
    except TimeoutError:
        raise Stop(UNANSWERED) from None
