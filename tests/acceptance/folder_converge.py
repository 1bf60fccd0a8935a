"""Two folders, edited on both sides at once, with the line cut and the hub killed: nothing may be lost.

    python -m tests.acceptance.folder_converge --seed 1

runs a real hub and two real ``hub folder`` processes.  First a whole tree (by
default the standard library's .py files) goes from one device to the other.  Then
edits, new files, renames and deletions happen on both sides, one device is cut off
for half of them, and the hub is killed with SIGKILL several times.  In the end both
folders must hold the same files.

What "nothing lost" means: every edit writes a word nobody wrote before.  The driver
saves as an editor does, in one step that also tells it what it replaced
(``renameat2``), so it knows exactly which words a person has overwritten or deleted.
All others must be in the folders at the end, in the file or in a conflict copy.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import sys
import sysconfig
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hub.folder.disk import _exchange
from tests.folder_rig import command_line, differences, newest_code, tree_of, until

ADDRESS = "person@example.org"
WORD = re.compile(rb"word-[0-9]+-[0-9]+-end")
SETTLED_S = 2.0  # both folders stay the same for so long


@dataclass
class Plan:
    """What one run does."""

    seed: int = 1
    files: int | None = None  # of the standard library; None = all
    edits: int = 500
    kills: int = 10
    pause_s: float = 0.03  # between two edits, on average
    within_s: float = 600.0


@dataclass
class Report:
    """What one run saw."""

    files: int = 0
    first_sync_s: float = 0.0
    edits: int = 0
    cut_off: int = 0
    kills: int = 0
    words: int = 0
    overwritten: int = 0
    acknowledged: int = 0
    conflicts: int = 0
    conflict_copies: int = 0
    settled_s: float = 0.0
    lost: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.files} files at first, on the other device after {self.first_sync_s:.1f} s\n"
            f"{self.edits} edits, {self.cut_off} of them with one device cut off; hub killed {self.kills} times\n"
            f"{self.acknowledged} acknowledged changes; in step {self.settled_s:.1f} s after the last edit\n"
            f"{self.words} words written, {self.overwritten} overwritten or deleted by the person\n"
            f"{self.conflicts} conflicts became files, {self.conflict_copies} still have that name; "
            f"{len(self.lost)} words lost"
        )


class Process:
    """One child with its output in a file."""

    def __init__(self, words: list[str], output: Path, **environment: str) -> None:
        self._words = words
        self._environment = {**os.environ, **environment}
        self.output = output
        self._child: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self.output.open("ab") as file:
            self._child = await asyncio.create_subprocess_exec(
                *self._words, stdin=asyncio.subprocess.DEVNULL, stdout=file, stderr=file, env=self._environment
            )

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.returncode is None

    async def end(self, number: int = signal.SIGTERM) -> int:
        if self._child is None:
            return 0
        if self._child.returncode is None:
            self._child.send_signal(number)
        return await self._child.wait()

    async def wait(self) -> int:
        assert self._child is not None
        return await self._child.wait()

    def said(self) -> str:
        return self.output.read_text(errors="replace") if self.output.exists() else ""


class Hub:
    """``hub serve``, killed and started again on the same port."""

    def __init__(self, where: Path, *also_known_as: int) -> None:
        self.port = free_port()
        words = [sys.executable, "-m", "hub", "serve", "--port", str(self.port), "--data-dir", str(where / "hub")]
        urls = [f"http://127.0.0.1:{port}" for port in (self.port, *also_known_as)]
        self._process = Process(
            words, where / "hub.txt", HUB_SIGN_UP="open", HUB_PUBLIC_URLS=",".join(urls), HUB_LOG_LEVEL="warning"
        )
        self._database = where / "hub" / "hub.sqlite3"

    async def start(self) -> None:
        mark = len(self._process.said())
        await self._process.start()
        await until(lambda: "is up on" in self._process.said()[mark:] or not self._process.running)
        assert self._process.running, self._process.said()

    async def kill(self) -> None:
        await self._process.end(signal.SIGKILL)

    async def stop(self) -> None:
        await self._process.end()

    def said(self) -> str:
        return self._process.said()

    def acknowledged(self) -> int:
        """How many changes all logs have had."""
        with contextlib.closing(sqlite3.connect(f"file:{self._database}?mode=ro", uri=True)) as db:
            return int(db.execute("select sum(head) from collection").fetchone()[0])


class Line:
    """The way of one device to the hub, which can be cut."""

    def __init__(self, to_port: int) -> None:
        self.port = free_port()
        self.to_port = to_port
        self.cut = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        try:
            yield
        finally:
            server.close()
            self.set_cut(True)
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def set_cut(self, cut: bool) -> None:
        self.cut = cut
        if cut:
            for writer in self._writers:
                writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.cut:
            writer.transport.abort()
            return
        try:
            hub_reader, hub_writer = await asyncio.open_connection("127.0.0.1", self.to_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, hub_writer}
        try:
            await asyncio.gather(_copy(reader, hub_writer), _copy(hub_reader, writer))
        finally:
            self._writers -= {writer, hub_writer}


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()
    writer.transport.abort()


class Device:
    """One ``hub folder`` process with its home and folder."""

    def __init__(self, where: Path, name: str, url: str) -> None:
        self.name = name
        self.url = url
        self.home = where / f"home-{name}"
        self.root = where / f"folder-{name}"
        self.scratch = where / f"scratch-{name}"
        self.key_file = where / f"{name}.key"
        self.root.mkdir()
        self.scratch.mkdir()
        self.process = Process(command_line(str(self.root), "--home", str(self.home)), where / f"{name}.txt")

    async def login(self, hub: Hub, where: Path, *words: str) -> None:
        code = where / f"{self.name}.code"
        mark = len(hub.said())
        words = ("--email", ADDRESS, "--code-from", str(code), "--device-name", self.name, *words)
        login = Process(
            command_line("login", "--home", str(self.home), "--hub", self.url, *words),
            where / f"{self.name}-login.txt",
        )
        await login.start()
        await until(lambda: "Your code:" in hub.said()[mark:] or not login.running)
        code.write_text(newest_code(hub.said()))
        assert await login.wait() == 0, login.said()

    async def once(self, within_s: float) -> int:
        """``hub folder DIR --once``: its exit status."""
        process = Process(
            command_line(str(self.root), "--home", str(self.home), "--once", "--timeout", str(within_s)),
            self.process.output,
        )
        await process.start()
        return await process.wait()

    def in_step(self) -> bool:
        """Whether the running process says so."""
        with contextlib.suppress(OSError, ValueError):
            said = json.loads((self.home / "running.json").read_text())
            return said["phase"] == "synced" and said["unsynced"] == 0
        return False


class Person:
    """Edits the files of one device as an editor would, and remembers what was overwritten knowingly."""

    def __init__(self, device: Device, chance: random.Random, number: int, overwritten: set[bytes]) -> None:
        self._device = device
        self._chance = chance
        self._number = number
        self._count = 0
        self._overwritten = overwritten
        self.words: set[bytes] = set()

    def act(self) -> bool:
        """One edit, new file, rename or deletion; False when there was nothing to do it to."""
        paths = sorted(tree_paths(self._device.root))
        what = self._chance.random()
        if not paths or what < 0.12:
            return self._create()
        path = self._device.root / self._chance.choice(paths)
        if what < 0.75:
            # A few files are hot, so that both people meet in them: the first by name, among them new ones.
            if self._chance.random() < 0.5:
                path = self._device.root / paths[self._chance.randrange(min(5, len(paths)))]
            return self._edit(path)
        return self._rename(path) if what < 0.9 else self._delete(path)

    def _word(self) -> bytes:
        self._count += 1
        word = f"word-{self._number}-{self._count}-end".encode()
        self.words.add(word)
        return word

    def _create(self) -> bool:
        binary = self._chance.random() < 0.3
        word = self._word()
        path = self._device.root / f"0-new-{self._chance.randrange(6)}" / f"{self._count:04}-{self._number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((b"\0" if binary else b"") + word + b"\n" + b"text\n" * self._chance.randrange(40))
        return True

    def _edit(self, path: Path) -> bool:
        try:
            content = path.read_bytes()
        except OSError:
            return False
        word = self._word()
        lines = content.splitlines(keepends=True)
        # At the very top two people meet, and what they write there does not merge.
        at = 0 if self._chance.random() < 0.3 else self._chance.randrange(len(lines) + 1)
        lines.insert(at, b"# " + word + b"\n")
        if not self._save(path, b"".join(lines)):
            self.words.discard(word)
            return False
        return True

    def _save(self, path: Path, content: bytes) -> bool:
        """Swap the new file with the old, so that it is known what was replaced."""
        temp = path.with_name(f".hubfolder-tmp-person-{self._number}-{self._count}")
        try:
            temp.write_bytes(content)
            with open_folder(path.parent) as fd:
                assert _exchange(fd, temp.name, path.name), "this file system cannot exchange two files"
        except OSError:
            temp.unlink(missing_ok=True)
            return False
        replaced = temp.read_bytes()
        temp.unlink()
        self._overwritten |= set(WORD.findall(replaced)) - set(WORD.findall(content))
        return True

    def _rename(self, path: Path) -> bool:
        target = path.with_name(f"renamed-{self._number}-{self._count}-{self._chance.randrange(10**6)}{path.suffix}")
        try:
            path.rename(target)
        except OSError:
            return False
        return True

    def _delete(self, path: Path) -> bool:
        aside = self._device.scratch / f"deleted-{self._count}-{self._chance.randrange(10**9)}"
        try:
            path.rename(aside)
        except OSError:
            return False
        self._overwritten |= set(WORD.findall(aside.read_bytes()))
        return True


def tree_paths(root: Path) -> list[str]:
    return [
        (Path(folder) / name).relative_to(root).as_posix()
        for folder, _, names in os.walk(root)
        for name in names
        if not name.startswith(".hubfolder")
    ]


@contextlib.contextmanager
def open_folder(path: Path):  # type: ignore[no-untyped-def]
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def copy_library(root: Path, files: int | None) -> int:
    """The standard library's .py files, or the first of them."""
    library = Path(sysconfig.get_paths()["stdlib"])
    found = sorted(p for p in library.rglob("*.py") if "site-packages" not in p.parts and p.is_file())
    for path in found[:files]:
        target = root / path.relative_to(library)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return len(found[:files])


async def run(plan: Plan, where: Path, say: Callable[[str], None] = print) -> Report:
    """One run in the empty folder ``where``.  Raises ``AssertionError`` when the folders do not end the same."""
    report = Report()
    line = Line(0)
    hub = Hub(where, line.port)
    line.to_port = hub.port
    async with line.open():
        await hub.start()
        devices = [Device(where, "attic", f"http://127.0.0.1:{hub.port}")]
        devices.append(Device(where, "cellar", f"http://127.0.0.1:{line.port}"))
        try:
            await _converge(plan, where, hub, line, devices, report, say)
        finally:
            for device in devices:
                await device.process.end(signal.SIGKILL)
            await hub.stop()
    return report


async def _converge(
    plan: Plan,
    where: Path,
    hub: Hub,
    line: Line,
    devices: list[Device],
    report: Report,
    say: Callable[[str], None],
) -> None:
    attic, cellar = devices
    await attic.login(hub, where, "--key-out", str(attic.key_file))
    await cellar.login(hub, where, "--key", f"@{attic.key_file}")
    report.files = copy_library(attic.root, plan.files)
    begun = time.monotonic()
    for device in devices:
        await device.process.start()
    await _the_same(devices, plan.within_s, settled_s=0)
    report.first_sync_s = time.monotonic() - begun
    say(f"{report.files} files arrived after {report.first_sync_s:.1f} s")

    overwritten: set[bytes] = set()
    people = [Person(d, random.Random(plan.seed * 10 + n), n, overwritten) for n, d in enumerate(devices)]
    await _edit(plan, hub, line, people, report, say)
    last = time.monotonic()
    tree = await _the_same(devices, plan.within_s, settled_s=SETTLED_S)
    report.settled_s = time.monotonic() - last - SETTLED_S

    for device in devices:
        assert device.process.running, device.process.said()
        assert await device.process.end() == 0, device.process.said()
        assert "ALARM" not in device.process.said(), device.process.said()
    for device in (attic, cellar, attic):
        assert await device.once(plan.within_s) == 0, device.process.said()
    for device in devices:
        assert tree_of(device.root) == tree, differences(tree_of(device.root), tree)

    words = set().union(*(person.words for person in people))
    there = set(WORD.findall(b"\n".join(tree.values())))
    report.words, report.overwritten = len(words), len(words & overwritten)
    report.lost = sorted(word.decode() for word in words - overwritten - there)
    report.conflicts = sum(device.process.said().count("both kept:") for device in devices)
    report.conflict_copies = sum("(conflict " in path for path in tree)
    report.acknowledged = hub.acknowledged()


async def _edit(
    plan: Plan, hub: Hub, line: Line, people: list[Person], report: Report, say: Callable[[str], None]
) -> None:
    chance = random.Random(plan.seed)
    kills = set(chance.sample(range(1, plan.edits), plan.kills))
    quarter = max(1, plan.edits // 4)
    for number in range(plan.edits):
        line.set_cut(number // quarter % 2 == 1)
        if number in kills:
            await hub.kill()
            await hub.start()
            report.kills += 1
            say(f"edit {number}: hub killed and started again ({report.kills})")
        await until(lambda: chance.choice(people).act())
        report.edits += 1
        report.cut_off += line.cut
        await asyncio.sleep(chance.random() * 2 * plan.pause_s)
    line.set_cut(False)


async def _the_same(devices: list[Device], within_s: float, settled_s: float) -> dict[str, bytes]:
    """Wait until both say that they are in step and hold the same files for a while; the files."""
    deadline = time.monotonic() + within_s
    since = time.monotonic()
    while True:
        trees = [tree_of(device.root) for device in devices]
        if trees[0] != trees[1] or not all(device.in_step() for device in devices):
            since = time.monotonic()
        elif time.monotonic() - since >= settled_s:
            return trees[0]
        for device in devices:
            assert device.process.running, device.process.said()
        said = "\n".join(f"{device.name}: {device.process.said()[-2000:]}" for device in devices)
        assert time.monotonic() < deadline, f"{differences(*trees)[:20]}\n{said}"
        await asyncio.sleep(0.2)


def main() -> int:
    """Read the words of the command line, run, tell; 1 when something was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--files", type=int, default=None, help="only so many of the standard library's files")
    parser.add_argument("--edits", type=int, default=500)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--keep", type=Path, default=None, help="an empty folder to work in, kept afterwards")
    options = parser.parse_args()
    plan = Plan(seed=options.seed, files=options.files, edits=options.edits, kills=options.kills)
    with contextlib.ExitStack() as stack:
        where = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        where.mkdir(parents=True, exist_ok=True)
        report = asyncio.run(run(plan, where))
    print(report)
    for word in report.lost:
        print(f"LOST {word}")
    return 1 if report.lost else 0


if __name__ == "__main__":
    sys.exit(main())
