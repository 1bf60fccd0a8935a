"""A newcomer's hands and eyes for tests of the demo: devices that click and type, and an eye on what pages do.

The demo is opened where a newcomer opens it, at the hub's own address.  Pictures go
into the folder that ``DEMO_PICTURES`` names, else into the test's own.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.browser.rig import ARGUMENTS, Rig, chromium_program, hub_rig, wait

WITHIN_MS = 20_000
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True}
DESK = {"viewport": {"width": 1280, "height": 860}}
# What the browser itself writes when nobody answers; not a fault of the page.
NOBODY_THERE = re.compile(r"WebSocket connection to .* failed|net::ERR_(CONNECTION_|EMPTY_RESPONSE|SOCKET)")
STATUS = "async () => (await import('/demo/js/db.js')).db.hub.status.value"


class Newcomer:
    """One browser profile with the demo open, used as a person would."""

    def __init__(self, name: str, origin: str, context: Any, pictures: Path) -> None:
        self.name = name
        self.origin = origin
        self.context = context
        self.pictures = pictures
        self.page: Any = None
        self.faults: list[str] = []
        context.set_default_timeout(WITHIN_MS)
        context.on("request", self._request)
        context.on("console", self._console)
        context.on("weberror", lambda error: self.faults.append(f"an error of the page: {error.error}"))

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.origin + "/", f"blob:{self.origin}/", "data:")):
            self.faults.append(f"asked another origin: {request.url}")

    def _console(self, message: Any) -> None:
        if "Content Security Policy" in message.text or "Content-Security-Policy" in message.text:
            self.faults.append(f"breaks the policy: {message.text}")
        elif message.type == "error" and not NOBODY_THERE.search(message.text):
            self.faults.append(f"console: {message.text} ({message.location.get('url')})")

    # --- going about ---

    async def open(self, path: str = "") -> Newcomer:
        self.page = await self.tab(path)
        return self

    async def tab(self, path: str = "") -> Any:
        """One more tab; this person's hands stay where they are."""
        page = await self.context.new_page()
        await page.goto(f"{self.origin}/demo/{path}")
        await page.locator("#side .badge").wait_for(state="attached")
        return page

    async def go(self, hash: str) -> None:
        await self.page.evaluate("hash => { location.hash = hash }", hash)

    async def picture(self, what: str, *, whole: bool = False) -> None:
        await self.page.wait_for_timeout(150)  # for what rises or fades
        await self.page.screenshot(path=self.pictures / f"{what}-{self.name}.png", full_page=whole)

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)

    async def see(self, text: str) -> None:
        await self.page.get_by_text(text).first.wait_for()

    async def badge(self, text: str) -> None:
        """Wait until the badge says so."""
        await wait(
            self.page, "text => document.querySelector('.badge .badge-text')?.textContent === text", text, within_s=30
        )

    async def status(self) -> dict[str, Any]:
        return await self.page.evaluate(STATUS)

    async def settled(self) -> None:
        """Wait until all that was written here is on the hub, and what the hub has is here."""
        await self.page.evaluate("async () => (await import('/demo/js/db.js')).db.hub.whenSynced(20)")

    async def ready_for_offline(self) -> None:
        """Wait until the service worker has everything."""
        await wait(self.page, "() => document.documentElement.dataset.offline === 'ready'")

    # --- writing ---

    async def write_chapter(self, title: str, text: str) -> None:
        await self.go("#/new")
        await wait(self.page, "() => location.hash.startsWith('#/chapter/')")
        field = self.page.get_by_role("textbox", name="Title", exact=True)
        await wait(self.page, "() => document.querySelector('.title')?.value === ''")
        await field.fill(title)
        await self.page.get_by_role("textbox", name="Text", exact=True).fill(text)
        await self.kept(title, text)

    async def open_chapter(self, title: str) -> None:
        chapter = (await self.chapters())[title]
        await self.go(f"#/chapter/{chapter['id']}")
        await wait(self.page, "title => document.querySelector('.title')?.value === title", title)

    async def rewrite(self, text: str) -> None:
        """The text of the chapter that is open becomes this."""
        title = await self.page.locator(".title").input_value()
        await self.page.get_by_role("textbox", name="Text", exact=True).fill(text)
        await self.kept(title, text)

    async def kept(self, title: str, text: str) -> None:
        await wait(
            self.page,
            """async ([title, text]) => {
              const { db } = await import('/demo/js/db.js');
              return (await db.chapters.toArray()).some((one) => one.title === title && one.text === text);
            }""",
            [title, text],
        )

    async def chapters(self) -> dict[str, Any]:
        rows = await self.page.evaluate("async () => (await import('/demo/js/db.js')).db.chapters.toArray()")
        return {row["title"]: row for row in rows}

    async def has_text(self, title: str, text: str) -> None:
        await self.kept(title, text)

    async def words_today(self) -> int:
        words = await self.page.evaluate(
            """async () => {
              const [{ db }, { dayOf }] = [await import('/demo/js/db.js'), await import('/demo/js/words.js')];
              return (await db.days.get(dayOf()))?.words ?? 0;
            }"""
        )
        return int(words)

    # --- signing in ---

    async def ask_for_code(self, rig: Rig, address: str) -> str:
        """Type the address; the code that came with the words that are shown."""
        await self.go("#/sync")
        await self.page.get_by_label("E-mail address").fill(address)
        await self.button("Send me a code").click()
        phrase = (await self.page.locator(".phrase").inner_text()).strip()
        return await rig.code(address, phrase)

    async def type_code(self, code: str) -> None:
        await self.page.get_by_label("Code from the mail").fill(f"{code[:4]} {code[4:]}")
        await self.button("Sign in").click()


@asynccontextmanager
async def demo_browser(driver: Any, *, camera: Path | None = None) -> AsyncIterator[Any]:
    """Chromium; with ``camera`` it has one that shows this film (MJPEG), read when it is switched on."""
    more = []
    if camera:
        more = [
            "--use-fake-ui-for-media-stream",
            "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-video-capture={camera}",
        ]
    browser = await driver.chromium.launch(executable_path=chromium_program(), args=[*ARGUMENTS, *more])
    try:
        yield browser
    finally:
        await browser.close()


@asynccontextmanager
async def demo_stage(folder: Path, driver: Any) -> AsyncIterator[Stage]:
    """A hub, a browser, and whoever opens the demo; what their pages did wrong fails the test."""
    camera = folder / "camera.mjpeg"
    async with hub_rig(folder / "hub") as rig, demo_browser(driver, camera=camera) as browser:
        stage = Stage(rig, browser, camera, pictures_in(folder))
        yield stage
        for person in stage.people:
            await person.picture("99-last")
            await person.context.close()
        assert not [fault for person in stage.people for fault in person.faults]
        assert not rig.complaints()


@dataclass
class Stage:
    """Where a story happens."""

    rig: Rig
    browser: Any
    camera: Path
    pictures: Path
    people: list[Newcomer] = field(default_factory=list)

    @property
    def hub(self) -> Any:
        return self.rig.hubs[0]

    async def newcomer(self, name: str, path: str = "", *, origin: str = "", **options: Any) -> Newcomer:
        """A fresh profile with the demo open; its origin is the hub's, unless another is named."""
        context = await self.browser.new_context(**(DESK | options))
        person = Newcomer(name, origin or self.hub.url, context, self.pictures)
        self.people.append(person)
        return await person.open(path)


def pictures_in(folder: Path) -> Path:
    """Where pictures go."""
    chosen = Path(os.environ.get("DEMO_PICTURES") or folder / "pictures")
    chosen.mkdir(parents=True, exist_ok=True)
    return chosen


async def film(picture: Any, to: Path) -> None:
    """Make a film of this picture of a page, as a camera before the screen would see it."""
    source = await picture.get_attribute("src")
    context = await picture.page.context.browser.new_context(viewport={"width": 640, "height": 480})
    page = await context.new_page()
    style = "margin: 60px 140px; width: 360px"
    await page.set_content(f"<body style='margin: 0; background: #ddd'><img style='{style}' src='{source}'>")
    frame = await page.screenshot(type="jpeg", quality=90)
    await context.close()
    # One JPEG after the other is MJPEG; the browser shows it again and again.
    await asyncio.to_thread(to.write_bytes, frame * 30)
