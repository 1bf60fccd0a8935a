"""What tests in the browser stand on: a hub process, the origins it is reached by, Chromium, and profiles in it.

A ``Site`` is one origin of an app: the pages of ``pages/``, and everything else passed on to
the hub, over a line that can be cut.  Each profile has a site of its own, so that one
device is cut off while the other is not; the hub knows all of them by name.

    async with hub_on_sqlite(base) as rig:
        anna = await rig.profile(chromium)
        page = await anna.open("core.html")
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.client
import json
import os
import re
import secrets
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hub.secrets import make as make_secrets
from tests.services import HOST, FaultProxy, Program, free_port, used_service, version_of

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PAGES = HERE / "pages"
SITES = 4
WITHIN_MS = 20_000

# --- the hub ---------------------------------------------------------------------------------

_MAIL = re.compile(r"To: (\S+)\nSubject: .*?the words: {2}(.+?)\n.*?Your code: {2}(\d{4}) (\d{4})\n", re.S)


class Hub(Program):
    """One ``hub serve`` process, which may be killed, stopped and started again on the same port and data."""

    name = "hub"
    signal_when_orphaned = signal.SIGKILL

    def __init__(self, base: Path, ways: list[str], settings: Mapping[str, str]) -> None:
        self.port = free_port()
        self.data = base / "data"
        base.mkdir(parents=True, exist_ok=True)
        mine = {name: value for name, value in os.environ.items() if not name.startswith("HUB_")}
        common = {
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "HUB_PORT": str(self.port),
            "HUB_HOST": HOST,
            "HUB_DATA_DIR": str(self.data),
            "HUB_PUBLIC_URLS": ",".join([f"http://{HOST}:{self.port}", *ways]),
            "HUB_BEHIND_PROXY": "true",
            "HUB_SIGN_UP": "open",
            "HUB_LOG_LEVEL": "warning",
        }
        super().__init__([sys.executable, HERE / "serve.py", "serve"], base, mine | common | dict(settings))

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def is_ready(self) -> bool:
        return self.get("/readyz")[0] == 200

    def get(self, path: str) -> tuple[int, Mapping[str, str], bytes]:
        """A page of the hub itself; status 0 when nobody answers."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=2.0)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        except (OSError, http.client.HTTPException):
            return 0, {}, b""
        finally:
            connection.close()

    def mails(self) -> list[tuple[str, str, str]]:
        """Every mail it printed: address, phrase, code."""
        return [(to, phrase.strip(), code + more) for to, phrase, code, more in _MAIL.findall(self.said())]


async def until(holds: Callable[[], Any], within_s: float = 15.0, what: str = "") -> Any:
    """What ``holds`` gives as soon as it is true."""
    deadline = time.monotonic() + within_s
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {within_s} s: {what or holds}"
        await asyncio.sleep(0.01)
    return found


# --- origins ---------------------------------------------------------------------------------

_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".json": "application/json"}


class Site:
    """One origin: local files first, then the hub over a line that can be cut."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.folders = {"/pages/": PAGES, "/repository/": ROOT}
        self.csp = ""
        self.sockets = 0  # that were ever asked for
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @asynccontextmanager
    async def open(self, hub_port: int) -> AsyncIterator[None]:
        async with FaultProxy(HOST, hub_port) as self.line:
            server = await asyncio.start_server(self._connected, HOST, self.port)
            try:
                yield
            finally:
                server.close()
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
                await server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            path = urlsplit(head.split(b" ", 2)[1].decode()).path
            if file := self._file(path):
                writer.write(self._answer(file))
                await writer.drain()
            else:
                await self._pass_on(head, path, reader, writer)
        writer.close()

    def _file(self, path: str) -> Path | None:
        for prefix, folder in self.folders.items():
            if path.startswith(prefix):
                file = (folder / path.removeprefix(prefix)).resolve()
                return file if file.is_relative_to(folder.resolve()) and file.is_file() else None
        return None

    def _answer(self, file: Path) -> bytes:
        body = file.read_bytes()
        lines = [
            "HTTP/1.1 200 OK",
            f"Content-Type: {_TYPES.get(file.suffix, 'application/octet-stream')}; charset=utf-8",
            f"Content-Length: {len(body)}",
            f"Content-Security-Policy: {self.csp}",
            "Cache-Control: no-cache",  # no-store would keep the page out of the back/forward cache
            "Connection: close",
        ]
        return "\r\n".join([*lines, "", ""]).encode() + body

    async def _pass_on(
        self, head: bytes, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.sockets += path.startswith("/v1/")
        far_reader, far_writer = await asyncio.open_connection(HOST, self.line.port)
        try:
            far_writer.write(head)
            both = [asyncio.ensure_future(_copy(reader, far_writer)), asyncio.ensure_future(_copy(far_reader, writer))]
            try:
                # What one side ends, or cuts, ends the other.
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in both:
                    one.cancel()
                await asyncio.gather(*both, return_exceptions=True)
        finally:
            far_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(65_536):
        writer.write(piece)
        await writer.drain()
    await writer.drain()


# --- the rig ---------------------------------------------------------------------------------

_addresses = (f"person{number}@example.org" for number in range(1, 1_000_000))


@dataclass
class Rig:
    """A hub (or two replicas of one), and the origins that lead to it."""

    hubs: list[Hub]
    sites: list[Site]
    profiles: list[Profile] = field(default_factory=list)
    _read: set[tuple[Hub, int]] = field(default_factory=set)  # the mails whose codes were given out

    def address(self) -> str:
        """An e-mail address that nobody had."""
        return next(_addresses)

    async def code(self, address: str, phrase: str) -> str:
        """The code of the next mail with this phrase; there are 4,096, so two mails of a test may have the same."""

        def found() -> tuple[Hub, int, str] | None:
            mails = [(hub, at, *mail) for hub in self.hubs for at, mail in enumerate(hub.mails())]
            asked = ((hub, at, code) for hub, at, to, words, code in mails if (to, words) == (address, phrase))
            return next((mail for mail in asked if mail[:2] not in self._read), None)

        hub, at, code = await until(found, what=f"a code for {address} ({phrase})")
        self._read.add((hub, at))
        return code

    async def profile(self, browser: Any, site: Site | None = None, **options: Any) -> Profile:
        """A fresh browser profile; unless told otherwise, with an origin that no other open profile has."""
        used = {profile.site.port for profile in self.profiles}
        site = site or next(site for site in self.sites if site.port not in used)
        profile = Profile(self, site, await browser.new_context(**options))
        self.profiles.append(profile)
        return profile

    def at(self, context: Any, site: Site) -> Profile:
        """A profile that was opened elsewhere, or is opened again."""
        profile = Profile(self, site, context)
        self.profiles.append(profile)
        return profile

    async def close_profiles(self) -> None:
        profiles, self.profiles = self.profiles, []
        for profile in profiles:
            profile.site.line.resume()
            await profile.context.close()
        faults = [fault for profile in profiles for fault in profile.faults]
        assert not faults, "\n".join(faults)

    def complaints(self) -> list[str]:
        """Lines of the hubs' logs that tell of a mistake in the hub itself."""
        lines = [line for hub in self.hubs for line in hub.said().splitlines()]
        return [line for line in lines if line.startswith("Traceback") or re.match(r"\S+ error ", line)]


@asynccontextmanager
async def hub_rig(
    base: Path, *, replicas: int = 1, heartbeat_s: int = 0, lost: float = 0.0, **settings: str
) -> AsyncIterator[Rig]:
    """A hub on SQLite, or replicas with ``HUB_DATABASE_URL`` and ``HUB_REDIS_URL``; sites take turns among them."""
    sites = [Site(free_port()) for _ in range(SITES)]
    more = dict(settings)
    if heartbeat_s:
        more["TEST_HEARTBEAT_S"] = str(heartbeat_s)
    if lost:
        more["TEST_LOST_NOTICES"] = str(lost)
    if replicas > 1:
        make_secrets(base / "secrets.toml", secrets.token_bytes)
        more["HUB_SECRETS_FILE"] = str(base / "secrets.toml")
    hubs = [Hub(base / f"hub-{number}", [site.url for site in sites], more) for number in range(replicas)]
    rig = Rig(hubs, sites)
    try:
        await asyncio.gather(*(asyncio.to_thread(hub.start) for hub in hubs))
        csp = _csp_of(hubs[0])
        async with contextlib.AsyncExitStack() as stack:
            for number, site in enumerate(sites):
                site.csp = csp
                await stack.enter_async_context(site.open(hubs[number % replicas].port))
            try:
                yield rig
            finally:
                with contextlib.suppress(Exception):
                    await rig.close_profiles()
    finally:
        for hub in hubs:
            hub.signal(signal.SIGCONT)
            hub.kill()


def _csp_of(hub: Hub) -> str:
    """The policy that the hub gives its own pages."""
    status, headers, _ = hub.get("/client/hub-client.js")
    policy = {name.lower(): value for name, value in headers.items()}.get("content-security-policy", "")
    assert status == 200, f"the hub serves no client: {status}"
    assert "unsafe" not in policy and "default-src 'none'" in policy, policy
    return policy


# --- Chromium --------------------------------------------------------------------------------


@functools.cache
def chromium_program() -> str:
    """Chromium or a browser made of it; empty when none is here."""
    if chosen := os.environ.get("HUB_TEST_CHROMIUM"):
        return chosen
    names = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
    return next((found for name in names if (found := shutil.which(name))), "")


ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]


def used_chromium() -> None:
    used_service("Chromium", version_of(chromium_program(), "--version"))


class Profile:
    """One browser profile: its own storage, any number of tabs, and an eye on what its pages do."""

    def __init__(self, rig: Rig, site: Site, context: Any) -> None:
        self.rig = rig
        self.site = site
        self.context = context
        self.faults: list[str] = []
        self._sockets = site.sockets
        context.set_default_timeout(WITHIN_MS)
        context.on("request", self._request)
        context.on("console", self._console)
        context.on("page", lambda page: page.on("websocket", self._socket))
        context.on("weberror", lambda error: self.faults.append(f"a page's error: {error.error}"))

    @property
    def sockets(self) -> int:
        """How many it has asked for."""
        return self.site.sockets - self._sockets

    async def open(self, path: str) -> Any:
        """A new tab with this page."""
        page = await self.context.new_page()
        await page.goto(f"{self.site.url}/pages/{path}")
        return page

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.site.url + "/", f"blob:{self.site.url}/", "data:")):
            self.faults.append(f"asked another origin: {request.url}")

    def _socket(self, socket: Any) -> None:
        if socket.url != f"{self.site.url.replace('http', 'ws')}/v1/ws":
            self.faults.append(f"a socket to another place: {socket.url}")

    def _console(self, message: Any) -> None:
        if "Content Security Policy" in message.text or "Content-Security-Policy" in message.text:
            self.faults.append(f"breaks the policy: {message.text}")


async def wait(page: Any, condition: str, argument: Any = None, within_s: float = 20.0) -> Any:
    """Wait in the page until this function gives something true; it is asked on every task of the page.

    The browser's own ``wait_for_function`` evaluates text in the page, which the policy forbids, rightly.
    """
    asked = f"""async ([argument, withinMs]) => {{
      const holds = {condition};
      const end = performance.now() + withinMs;
      for (;;) {{
        const found = await holds(argument);
        if (found) return typeof found === "function" ? true : found;
        if (performance.now() > end) return null;
        await new Promise((done) => setTimeout(done, 5));
      }}
    }}"""
    found = await page.evaluate(asked, [argument, within_s * 1000])
    assert found is not None, f"not within {within_s} s: {condition} {json.dumps(argument, default=str)}"
    return found
