"""A Chromium of its own, driven by nothing but its DevTools protocol.

The usual driver keeps every page focused and visible and switches the back/forward
cache off.  Here tabs hide each other, freeze and come back, as with a person.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.browser.rig import ARGUMENTS, chromium_program
from tests.services import HOST, Program

ANSWER_WITHIN_S = 30.0


class RawChromium(Program):
    """One browser process with its profile."""

    name = "chromium"

    def __init__(self, base: Path) -> None:
        base.mkdir(exist_ok=True)
        self._port_file = base / "profile" / "DevToolsActivePort"
        switches = ["--headless", "--remote-debugging-port=0", f"--user-data-dir={base / 'profile'}", "--no-first-run"]
        # Minutes of being hidden are not waited for: throttling and freezing are asked for by the tests.
        words = [chromium_program(), *ARGUMENTS, *switches, "about:blank"]
        super().__init__(words, base, {"HOME": str(base), "PATH": "/usr/bin:/bin"})

    def is_ready(self) -> bool:
        return self.running and self._port_file.exists() and self._port_file.read_text().count("\n") >= 1

    @property
    def url(self) -> str:
        port, path = self._port_file.read_text().strip().split("\n")
        return f"ws://{HOST}:{port}{path}"


class Browser:
    """The connection to it, over which all its tabs are driven."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}

    async def listen(self) -> None:
        async for text in self._socket:
            message = json.loads(text)
            answer = self._answers.pop(message.get("id"), None)
            if answer and not answer.done():
                if "error" in message:
                    answer.set_exception(RuntimeError(message["error"]["message"]))
                else:
                    answer.set_result(message["result"])

    async def send(self, method: str, session: str = "", **given: Any) -> Any:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        to = {"sessionId": session} if session else {}
        await self._socket.send(json.dumps({"id": number, "method": method, "params": given, **to}))
        async with asyncio.timeout(ANSWER_WITHIN_S):
            return await answer

    async def tab(self, url: str, **options: Any) -> Tab:
        """A new tab, in front of the others."""
        target = (await self.send("Target.createTarget", url="about:blank", **options))["targetId"]
        session = (await self.send("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        tab = Tab(self, target, session)
        await tab.go(url)
        return tab


class Tab:
    """One tab."""

    def __init__(self, browser: Browser, target: str, session: str) -> None:
        self._browser = browser
        self._target = target
        self._session = session

    async def run(self, function: str, *given: Any) -> Any:
        """Call this function of the page's, and wait for what it promises."""
        expression = f"({function})(...{json.dumps(given)})"
        done = await self._browser.send(
            "Runtime.evaluate", self._session, expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in done:
            raise AssertionError(done["exceptionDetails"].get("exception", done["exceptionDetails"]))
        return done["result"].get("value")

    async def evaluate(self, function: str, given: Any = None) -> Any:
        """As the usual driver's pages have it, so that both can be waited for; again when the page goes elsewhere."""
        while True:
            try:
                return await self.run(function, given)
            except RuntimeError as error:
                if "context" not in str(error):
                    raise

    async def show(self) -> None:
        """Bring it to the front; what was there is hidden."""
        await self._browser.send("Target.activateTarget", targetId=self._target)

    async def go(self, url: str) -> None:
        await self._browser.send("Page.navigate", self._session, url=url)

    async def back(self) -> None:
        history = await self._browser.send("Page.getNavigationHistory", self._session)
        entry = history["entries"][history["currentIndex"] - 1]
        await self._browser.send("Page.navigateToHistoryEntry", self._session, entryId=entry["id"])

    async def freeze(self, frozen: bool = True) -> None:
        state = "frozen" if frozen else "active"
        await self._browser.send("Page.setWebLifecycleState", self._session, state=state)

    async def crash(self) -> None:
        """The tab's process dies at once."""
        with contextlib.suppress(TimeoutError, RuntimeError):
            async with asyncio.timeout(1):
                await self._browser.send("Page.crash", self._session)

    async def close(self) -> None:
        await self._browser.send("Target.closeTarget", targetId=self._target)


@asynccontextmanager
async def raw_chromium(base: Path) -> AsyncIterator[Browser]:
    """A browser that runs inside the block."""
    program = RawChromium(base)
    try:
        await asyncio.to_thread(program.launch)
        await asyncio.to_thread(program.wait_ready)
        async with connect(program.url, max_size=None, ping_interval=None, proxy=None) as socket:
            browser = Browser(socket)
            listening = asyncio.create_task(browser.listen())
            try:
                yield browser
            finally:
                with contextlib.suppress(Exception):
                    await browser.send("Browser.close")
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
                with contextlib.suppress(Exception):
                    await asyncio.to_thread(program.wait, 10)
    finally:
        program.kill()
