"""Two devices, two folders, one real hub: what the tests of the running folder share.

``Devices`` signs in as a person would, through the command itself; ``syncing`` then
runs a folder inside the test's own loop, so that a test can look into it.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from hub.client import HubClient
from hub.config import Settings
from hub.folder import APP_ID
from hub.folder.cli import main
from hub.folder.disk import Disk
from hub.folder.files import MARKER, TEMP_PREFIX
from hub.folder.home import Home
from hub.folder.state import State
from hub.folder.sync import FolderSync
from hub.limiter import CodeLimits, Span
from hub.running import RunningHub, running_hub

ADDRESS = "person@example.org"
WITHIN_S = 20.0
SIZE_MAX = 100 * 1_048_576
EASY = CodeLimits(address=(Span(1_000, 1.0),), near=(Span(1_000, 1.0),), hub=(Span(1_000, 1.0),))


class Terminal(io.StringIO):
    """The hub's terminal, on which the codes are printed."""

    def code(self) -> str:
        """The newest code."""
        return newest_code(self.getvalue())


def newest_code(printed: str) -> str:
    """The last code in what a hub without a mail server printed."""
    found = re.findall(r"Your code: +([0-9]{4}) ([0-9]{4})", printed)
    assert found, printed
    return "".join(found[-1])


def settings(tmp_path: Path, port: int = 0, **more: object) -> Settings:
    return Settings(data_dir=tmp_path / "hub", port=port, sign_up="open", log_level="error", **more)  # type: ignore[arg-type]


@asynccontextmanager
async def serving(tmp_path: Path, port: int = 0) -> AsyncIterator[tuple[RunningHub, Terminal]]:
    terminal = Terminal()
    async with running_hub(settings(tmp_path, port), terminal=terminal, code_limits=EASY) as hub:
        yield hub, terminal


class Device:
    """One device: its home, its folder."""

    def __init__(self, tmp_path: Path, name: str) -> None:
        self.name = name
        self.home = tmp_path / f"home-{name}"
        self.root = tmp_path / f"folder-{name}"
        self.root.mkdir(exist_ok=True)

    def write(self, path: str, content: bytes | str) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def tree(self) -> dict[str, bytes]:
        """Every file a person sees, with its content."""
        return tree_of(self.root)

    async def command(self, *words: str) -> int:
        """Run ``hub folder`` in this process, in a thread of its own."""
        return await asyncio.to_thread(main, [*words, "--home", str(self.home)])

    async def login(self, hub_url: str, terminal: Terminal, *words: str) -> int:
        """Sign in with the code that the hub prints."""
        code_file = self.home.with_suffix(".code")
        code_file.unlink(missing_ok=True)
        mark = len(terminal.getvalue())
        more = ["--email", ADDRESS, "--code-from", str(code_file), "--device-name", self.name, *words]
        login = asyncio.create_task(self.command("login", "--hub", hub_url, *more))
        await until(lambda: login.done() or "Your code:" in terminal.getvalue()[mark:])
        if not login.done():
            code_file.write_text(terminal.code() + "\n")
        return await login

    @property
    def key_file(self) -> Path:
        return self.home.with_suffix(".key")

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[tuple[HubClient, FolderSync, list[str]]]:
        """The client and the folder, looked at once but not running; and what the person is told."""
        home = Home(self.home)
        folder_id = home.join(self.root)
        lines: list[str] = []
        with home.locked():
            client = await HubClient.open(home.client_path, app_id=APP_ID)
            state = State(home.state_path(folder_id))
            disk = Disk(self.root, SIZE_MAX)
            sync = FolderSync(disk, state, client, folder_id=folder_id, device_name=self.name, say=lines.append)
            try:
                await sync.begin()
                yield client, sync, lines
            finally:
                await client.stop()
                state.close()

    async def once(self) -> None:
        """What ``--once`` does."""
        async with self.opened() as (client, sync, _):
            await client.start()
            await sync.in_step(WITHIN_S)

    @asynccontextmanager
    async def syncing(self, online: bool = True) -> AsyncIterator[Syncing]:
        """The folder kept in sync while inside."""
        async with self.opened() as (client, sync, lines):
            stop = asyncio.Event()
            if online:
                await client.start()
            running = asyncio.create_task(sync.run(stop))
            try:
                yield Syncing(self, client, sync, lines, running)
            finally:
                stop.set()
                await running


class Syncing:
    """A device whose folder is being synced."""

    def __init__(
        self, device: Device, client: HubClient, sync: FolderSync, lines: list[str], running: asyncio.Task[None]
    ) -> None:
        self.device = device
        self.client = client
        self.sync = sync
        self.lines = lines
        self.running = running


async def signed_in(tmp_path: Path, hub: RunningHub, terminal: Terminal, *names: str) -> list[Device]:
    """Devices of one person; the first makes the key, the others are given it."""
    devices = [Device(tmp_path, name) for name in names]
    first = devices[0]
    assert await first.login(hub.url, terminal, "--key-out", str(first.key_file)) == 0
    for device in devices[1:]:
        assert await device.login(hub.url, terminal, "--key", f"@{first.key_file}") == 0
    return devices


async def until(holds: Callable[[], bool], within_s: float = WITHIN_S) -> None:
    """Return as soon as it holds; the disk tells nobody, so this looks again and again."""
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.02)


async def same(*devices: Device, within_s: float = WITHIN_S) -> dict[str, bytes]:
    """Wait until all folders hold the same files, and say which."""
    try:
        await until(lambda: all(device.tree() == devices[0].tree() for device in devices[1:]), within_s)
    except TimeoutError:
        trees = [device.tree() for device in devices]
        raise AssertionError(f"not the same: {differences(trees[0], trees[-1])}") from None
    return devices[0].tree()


def differences(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    paths = sorted(path for path in one.keys() | other.keys() if one.get(path) != other.get(path))
    return [f"{path}: {_short(one.get(path))} / {_short(other.get(path))}" for path in paths]


def _short(content: bytes | None) -> str:
    return "none" if content is None else repr(content[:40]) + (f" ({len(content)})" if len(content) > 40 else "")


def tree_of(root: Path) -> dict[str, bytes]:
    """Every file a person sees below ``root``.  Files that come and go meanwhile are left out."""
    found: dict[str, bytes] = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder) / name
            if name == MARKER or name.startswith(TEMP_PREFIX) or path.is_symlink():
                continue
            try:
                found[path.relative_to(root).as_posix()] = path.read_bytes()
            except FileNotFoundError:
                continue
    return found


def command_line(*words: str) -> list[str]:
    """``hub folder`` as a process of its own."""
    return [sys.executable, "-m", "hub", "folder", *words]
