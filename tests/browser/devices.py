"""Devices of one person in tests of the add-on: browser profiles with the notes app, and a Python one that watches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from hub.client import HubClient
from hub.client.connection import canonical_url
from hub.client.storage import MemoryStorage
from tests.browser.rig import Profile, Rig, wait
from tests.history import Recorder, violations

APP = "org.example.notes"
READY = "() => globalThis.app?.ready()"
QUIET = "() => app.quiet()"


class Device:
    """A profile whose app is signed in, and its first tab."""

    def __init__(self, profile: Profile, page: Any, address: str, key: str) -> None:
        self.profile = profile
        self.page = page
        self.address = address
        self.key = key

    @property
    def line(self) -> Any:
        """What lies between it and the hub."""
        return self.profile.site.line

    async def run(self, function: str, given: Any = None) -> Any:
        return await self.page.evaluate(function, given)

    async def wait(self, condition: str, given: Any = None, within_s: float = 20.0) -> Any:
        return await wait(self.page, condition, given, within_s)

    async def quiet(self, within_s: float = 20.0) -> None:
        """Wait until everything it wrote is on the hub."""
        await self.wait(QUIET, within_s=within_s)

    async def tab(self) -> Any:
        """One more tab of the app."""
        return await open_tab(self.profile)

    async def contents(self) -> dict[str, str]:
        return await self.run("() => app.contents()")


async def open_tab(profile: Profile, path: str = "notes.html") -> Any:
    page = await profile.open(path)
    await wait(page, READY)
    return page


async def sign_in(page: Any, rig: Rig, address: str, key: str = "") -> str:
    """The app of this tab is signed in, has its key, and has caught up; the key code."""
    sent = await page.evaluate("email => app.db.hub.requestCode({ email })", address)
    code = await rig.code(address, sent["phrase"])
    result = await page.evaluate("code => app.db.hub.enrol(code)", code)
    assert result == {"needsKey": bool(key), "newKey": not key}
    if key:
        await page.evaluate("key => app.db.hub.importKey(key)", key)
    return key or await page.evaluate("() => app.db.hub.exportKey('code')")


async def device(rig: Rig, browser: Any, address: str, key: str = "") -> Device:
    """A new device of this person, which has caught up."""
    profile = await rig.profile(browser)
    page = await open_tab(profile)
    key = await sign_in(page, rig, address, key)
    made = Device(profile, page, address, key)
    await made.quiet()
    return made


async def two_devices(rig: Rig, browser: Any) -> tuple[Device, Device]:
    first = await device(rig, browser, rig.address())
    return first, await device(rig, browser, first.address, first.key)


async def same_in_the_end(*devices: Device, within_s: float = 30.0) -> dict[str, str]:
    """Wait until all have sent everything and hold the same; what they hold."""
    deadline = asyncio.get_running_loop().time() + within_s
    while True:
        for one in devices:
            await one.quiet(max(1.0, deadline - asyncio.get_running_loop().time()))
        held = [await one.contents() for one in devices]
        if all(contents == held[0] for contents in held):
            return held[0]
        if asyncio.get_running_loop().time() > deadline:
            missing = [_difference(held[0], contents) for contents in held[1:]]
            raise AssertionError(f"they differ after {within_s} s: {missing}")
        await asyncio.sleep(0.05)


def _difference(one: dict[str, str], other: dict[str, str]) -> list[str]:
    keys = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
    return [f"{key}: {one.get(key)} / {other.get(key)}" for key in keys[:5]] + [f"{len(keys)} in all"]


async def nothing_lost(*devices: Device) -> None:
    """What each tab wrote last under keys that only it writes is what all hold."""
    contents = await devices[0].contents()
    for one in devices:
        written: dict[str, Any] = await one.run("() => app.written")
        assert written, "the checker knows of no write"
        for key, row in written.items():
            expected = None if row is None else json.loads(json.dumps(row))
            there = json.loads(contents[key]) if key in contents else None
            assert there == expected, f"{key}: {there} is not what was written: {expected}"


# --- a Python device -------------------------------------------------------------------------


@asynccontextmanager
async def python_device(rig: Rig, address: str, key: str, tap: Any = None) -> AsyncIterator[HubClient]:
    """A running Python client on the same space."""
    storage = MemoryStorage()
    with storage.transaction():
        storage.set_setting("hub_url", canonical_url(rig.hubs[0].url).encode())
    client = HubClient(storage, APP, tap)
    sent = await client.request_code(address)
    await client.enrol(await rig.code(address, sent.phrase))
    client.import_key(key)
    await client.start()
    try:
        await client.synced(20)
        yield client
    finally:
        await client.stop()


@asynccontextmanager
async def watched(rig: Rig, address: str, key: str) -> AsyncIterator[HubClient]:
    """A device that writes nothing and notes all that passes; at the end it may not have seen a breach of the order."""
    recorder = Recorder("watch", b"")

    def tap(direction: str, message: object) -> None:
        recorder.tap(direction, message)

    async with python_device(rig, address, key, tap) as client:
        recorder.device_id = client.device_id
        for table in ("notes", "days", "chapters", "pairs", "things"):
            client.collection(table)
        yield client
        await client.synced(40)  # its line may have been cut, and it waits a little longer each time
        # It is no breach that one device saw not every number: what was replaced meanwhile need not be read.
        found = [violation for violation in violations([recorder]) if violation.name != "gap"]
        assert not found, found
