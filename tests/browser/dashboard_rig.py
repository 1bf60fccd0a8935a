"""A person at the dashboard in Chromium, through HAProxy, and devices of apps that stand on the same hub.

Whatever a page does wrong fails the test that opened it: a request to another origin,
something the policy forbids, an error, a dialog.  Pictures of each page are made when
``DASHBOARD_PICTURES`` names a folder.
"""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hub.client import HubClient
from tests.browser.demo_rig import NOBODY_THERE
from tests.browser.rig import ROOT, Hub, Rig, until, wait
from tests.cluster_rig import HAPROXY_FILE
from tests.services import HOST, free_port, haproxy, haproxy_bin

AXE = ROOT / "clients" / "js" / "node_modules" / "axe-core" / "axe.min.js"
DESK = {"viewport": {"width": 1180, "height": 800}}
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True}
LOADED = "() => !document.querySelector('#main [aria-busy]') && document.querySelector('#main h1')"
WITHIN_MS = 15_000


class Person:
    """One browser with the dashboard open."""

    def __init__(self, stage: Stage, context: Any) -> None:
        self.stage = stage
        self.context = context
        self.page: Any = None
        self.faults: list[str] = []
        context.set_default_timeout(WITHIN_MS)
        context.on("request", self._request)
        context.on("console", self._console)
        context.on("dialog", lambda dialog: self.faults.append(f"a dialog: {dialog.message}"))
        context.on("weberror", lambda error: self.faults.append(f"an error of the page: {error.error}"))

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.stage.url + "/", f"blob:{self.stage.url}/", "data:")):
            self.faults.append(f"asked another origin: {request.url}")

    def _console(self, message: Any) -> None:
        if re.search("Content.Security.Policy|TrustedScript|TrustedHTML", message.text):
            self.faults.append(f"breaks the policy: {message.text}")
        elif message.type == "error" and not NOBODY_THERE.search(message.text):
            self.faults.append(f"console: {message.text}")

    async def open(self) -> Person:
        self.page = await self.context.new_page()
        await self.page.goto(f"{self.stage.url}/dashboard/")
        await self.loaded()
        return self

    async def go(self, name: str = "") -> None:
        """To the page of this name, and wait until all of it is there."""
        await self.page.evaluate("hash => { location.hash = hash }", f"#/{name}")
        await wait(self.page, "hash => location.hash === hash", f"#/{name}")
        await self.loaded()

    async def loaded(self) -> None:
        await wait(self.page, LOADED)

    def button(self, name: str | re.Pattern[str]) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)

    def field(self, name: str) -> Any:
        return self.page.get_by_role("textbox", name=name, exact=True)

    def inside(self, name: str) -> Any:
        """The article or dialog with this heading."""
        return self.page.locator("article, dialog").filter(has=self.page.get_by_role("heading", name=name, exact=True))

    async def see(self, text: str | re.Pattern[str]) -> None:
        await self.page.get_by_text(text).first.wait_for()

    async def gone(self, text: str) -> None:
        await self.page.get_by_text(text).first.wait_for(state="detached")

    # --- what the person does ---

    async def sign_in(self, address: str) -> None:
        await self.field("E-mail address").fill(address)
        await self.button("Send me a code").click()
        await self.type_code(address, "Sign in")
        await self.page.get_by_role("navigation", name="Pages").wait_for()
        await self.loaded()

    async def type_code(self, address: str, go: str) -> None:
        """The code of the mail with the words that are shown."""
        phrase = (await self.page.locator(".phrase").inner_text()).strip()
        code = await self.stage.rig.code(address, phrase)
        await self.page.get_by_label("Code from the mail").fill(f"{code[:4]} {code[4:]}")
        await self.button(go).last.click()

    async def fresh_code(self, address: str) -> None:
        """Prove the address in the dialog that asks for it."""
        dialog = self.inside("A fresh code first")
        await dialog.get_by_role("textbox", name="E-mail address").fill(address)
        await dialog.get_by_role("button", name="Send me a code").click()
        await self.type_code(address, "Go on")
        await dialog.wait_for(state="detached")

    async def give_key(self, key: str) -> None:
        await self.page.get_by_label("Key of an app").fill(key)
        await self.button("Use this key").click()

    # --- looking at it ---

    async def violations(self) -> list[str]:
        """What axe-core finds on the page as it stands."""
        await self.page.evaluate(AXE.read_text("utf-8"))
        found = await self.page.evaluate("async () => (await axe.run()).violations")
        return [f"{each['id']}: {[node['html'][:160] for node in each['nodes'][:3]]}" for each in found]

    async def theme(self, name: str) -> None:
        detail = "name => dispatchEvent(new CustomEvent('hub-theme', { detail: name }))"
        await self.page.evaluate(detail, name)

    async def look(self, name: str) -> None:
        """No fault for axe in light and dark, nothing wider than the screen at 360 pixels; pictures, if wanted."""
        folder = os.environ.get("DASHBOARD_PICTURES")
        faults = []
        if await (close := self.button("Close this notice")).count():
            await close.click()
        for theme in ("light", "dark"):
            await self.theme(theme)
            faults += [f"{name}, {theme}: {fault}" for fault in await self.violations()]
            await self.picture(folder, f"{name}-{theme}")
        await self.theme("light")
        size = self.page.viewport_size
        await self.page.set_viewport_size(PHONE["viewport"])
        beyond = await self.page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
        if beyond > 0:
            faults.append(f"{name} is {beyond} pixels wider than a phone")
        await self.picture(folder, f"{name}-phone")
        await self.page.set_viewport_size(size)
        assert not faults, "\n".join(faults)

    async def picture(self, folder: str | None, name: str) -> None:
        if folder:
            await asyncio.to_thread(Path(folder).mkdir, parents=True, exist_ok=True)
            await self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True, animations="disabled")


@dataclass
class AppDevice:
    """A device of an app, and what it was told."""

    client: HubClient
    told: list[str] = field(default_factory=list)
    wiped: list[float] = field(default_factory=list)
    phases: list[tuple[float, str]] = field(default_factory=list)

    def watch(self) -> None:
        self.client.on_account(lambda notice: self.told.append(notice.what))
        self.client.on_wiped(lambda: self.wiped.append(time.monotonic()))
        self.client.on_status(lambda status: self.phases.append((time.monotonic(), status.phase)))

    def since(self, phase: str) -> float | None:
        """When it came to be in this phase, in which it still is."""
        return next((at for at, now in reversed(self.phases[-1:]) if now == phase), None)


class Stage:
    """One hub behind HAProxy, a browser, and devices."""

    def __init__(self, hub: Hub, url: str, browser: Any, folder: Path, stack: AsyncExitStack) -> None:
        self.hub = hub
        self.url = url
        self.rig = Rig([hub], [])
        self.people: list[Person] = []
        self._browser = browser
        self._folder = folder
        self._stack = stack

    async def person(self, **options: Any) -> Person:
        """A fresh profile with the dashboard open."""
        person = Person(self, await self._browser.new_context(**({"locale": "en-GB"} | DESK | options)))
        self.people.append(person)
        return await person.open()

    async def device(self, address: str, app_id: str, *, key: str = "", name: str = "") -> AppDevice:
        """One more device of the account, signed in by mail, in step; with a new key when none is given."""
        path = self._folder / f"device-{len(list(self._folder.glob('device-*')))}.db"
        client = await HubClient.open(path, app_id=app_id, hub_url=self.url)
        self._stack.push_async_callback(client.stop)
        sent = await client.request_code(address)
        await client.enrol(await self.rig.code(address, sent.phrase))
        client.import_key(key) if key else client.create_key()
        device = AppDevice(client)
        device.watch()
        await client.start()
        if name:
            client.name_device(name)
        await client.synced(15)
        return device


@asynccontextmanager
async def dashboard_stage(folder: Path, browser: Any, **settings: str) -> AsyncIterator[Stage]:
    """A hub with these settings behind HAProxy; at the end no page may have done wrong, nor the hub."""
    bind = f"{HOST}:{free_port()}"
    hub = Hub(folder / "hub", [f"http://{bind}"], settings)
    assert haproxy_bin(), "HAProxy is not on this machine"
    try:
        hub.start()
        with haproxy(HAPROXY_FILE, {"HUB_LB_BIND": bind, "HUB_REPLICA_1": f"{HOST}:{hub.port}"}):
            async with AsyncExitStack() as stack:
                stage = Stage(hub, f"http://{bind}", browser, folder, stack)
                yield stage
                for person in stage.people:
                    await person.context.close()
                faults = [fault for person in stage.people for fault in person.faults] + stage.rig.complaints()
                assert not faults, "\n".join(faults)
    finally:
        hub.kill()


# --- the tables ------------------------------------------------------------------------------


# In these every row belongs to a space, also where its id is not written in it.
OF_SPACES = ("space", "collection", "change", "counter", "receipt", "witness", "growth")


def _rows_of(table: str, rows: list[Any], id: bytes) -> int:
    """How many of these rows belong to the space, which is the only one there is."""
    if table in OF_SPACES:
        return len(rows)
    return sum(any(isinstance(cell, bytes) and id in cell for cell in row) for row in rows)


def sqlite_mentions(file: Path, id: bytes) -> dict[str, int]:
    """In which tables of the SQLite file how many rows belong to the hub's only space, or have its id."""
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as connection:
        tables = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        found = {}
        for table in tables:
            rows = connection.execute(f'select * from "{table}"').fetchall()
            found[table] = _rows_of(table, rows, id)
    return {table: count for table, count in found.items() if count}


async def postgres_mentions(url: str, id: bytes) -> dict[str, int]:
    """The same for a Postgres database."""
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        whole = "relkind in ('r', 'p') and not relispartition and relnamespace = current_schema()::regnamespace"
        query = f"select relname from pg_class where {whole}"
        found = {}
        for (table,) in await connection.fetch(query):
            rows = await connection.fetch(f'select * from "{table}"')
            found[table] = _rows_of(table, rows, id)
    finally:
        await connection.close()
    return {table: count for table, count in found.items() if count}


__all__ = ["PHONE", "AppDevice", "Person", "Stage", "dashboard_stage", "postgres_mentions", "sqlite_mentions", "until"]
