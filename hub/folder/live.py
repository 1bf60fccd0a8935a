"""``hub folder DIR``: runs the sync, tells the person how it goes, and knows when to end."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from hub.client import HubClient, Status
from hub.errors import CLOSINGS
from hub.folder.command import (
    ALARMED,
    FAILED,
    FOR_EVER_S,
    MOVED,
    NOT_IN_TIME,
    NOT_SIGNED_IN,
    OK,
    SIGN_IN,
    SWITCHED_OFF,
    Stop,
    opened_client,
    shown_url,
)
from hub.folder.control import CarryOut, listening
from hub.folder.disk import Disk
from hub.folder.home import Home
from hub.folder.progress import Progress
from hub.folder.state import State
from hub.folder.sync import FolderSync

CommandInClient = Callable[[HubClient, Home], CarryOut]

SUSPENDED = CLOSINGS["suspended"].message
STATUS_EVERY_S = 1.0
SAID_PHASES = {
    "synced": "In step.",
    "offline": "Offline; changes are kept and sent later.",
    "off": SWITCHED_OFF,
    "blocked": "The hub does not let this device in any more; to sign it in anew: hub folder login",
    "signed-out": SIGN_IN,
}
HOPELESS_PHASES = {"off", "blocked", "signed-out", "needs-key"}


class Terminal:
    """Tells the person, on standard error, what is worth telling; and other terminals by the home."""

    def __init__(self, home: Home, folder: Path, stream: TextIO, verbose: bool) -> None:
        self._home = home
        self._folder = folder
        self._progress = Progress(stream, stream.isatty())
        self._verbose = verbose
        self._phase = ""
        self._said_phase = ""
        self._told: set[str] = set()
        self._written_at = float("-inf")
        self.trouble: asyncio.Event = asyncio.Event()  # something that waiting does not cure

    def say(self, line: str) -> None:
        """One plain line."""
        self._progress.line(line)

    def status(self, status: Status) -> None:
        """The client's state changed."""
        now = asyncio.get_running_loop().time()
        self._progress.update(status.progress.done, status.progress.remaining, now)
        for alarm in status.alarms:
            self._tell_once(
                f"ALARM: {alarm.name}: {alarm.detail}. The hub does not keep to its promises; see the docs."
            )
        if status.moved_to:
            self._tell_once(MOVED.format(url=shown_url(status.moved_to)))
        elif status.error and status.phase != "offline":
            self._tell_once(f"{status.error[:1].upper()}{status.error[1:]}.")
        if status.error == SUSPENDED:
            self._tell_once("When it is let in again: hub folder on")
        elif not status.moved_to and (status.phase != "offline" or status.error or self._said_phase):
            self._tell_phase(status.phase)
        if status.alarms or status.phase in HOPELESS_PHASES:
            self.trouble.set()
        if status.phase != self._phase or now - self._written_at >= STATUS_EVERY_S:
            self._written_at = now
            self._home.say_running(
                {
                    "folder": str(self._folder),
                    "phase": status.phase,
                    "unsynced": status.unsynced,
                    "alarms": [f"{alarm.name}: {alarm.detail}" for alarm in status.alarms],
                }
            )
        self._phase = status.phase

    def done(self) -> None:
        """Nothing more comes."""
        self._progress.clear()

    def _tell_phase(self, phase: str) -> None:
        """Coming and going; that an edit is on its way and has arrived is worth a line only to those who ask."""
        if self._verbose and phase != self._phase:
            self.say(SAID_PHASES.get(phase, phase))
        elif phase in SAID_PHASES and phase != self._said_phase:
            self._said_phase = phase
            self.say(SAID_PHASES[phase])

    def _tell_once(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self.say(line)


async def sync(home: Home, options: argparse.Namespace, carry_out: CommandInClient) -> int:
    """Keep the folder in step; ``carry_out`` does the short commands that other terminals send meanwhile."""
    root: Path = options.dir
    shown = await asyncio.to_thread(root.resolve)
    async with opened_client(home) as client:
        folder_id = home.join(root)
        terminal = Terminal(home, shown, sys.stderr, options.verbose)
        state = State(home.state_path(folder_id))
        try:
            folder = FolderSync(
                Disk(root, options.max_size * 1_048_576),
                state,
                client,
                folder_id=folder_id,
                device_name=home.settings().get("device_name", "device"),
                say=terminal.say,
            )
            client.on_status(terminal.status)
            with _told_to_stop() as told:
                await folder.begin()
                await client.start()
                async with listening(home.path, carry_out(client, home)):
                    status = await _until(folder, client, terminal, told, options)
                # A clean end: what is known to both sides now is remembered.
                await client.stop()
                return status
        finally:
            terminal.done()
            state.close()
            home.stopped()


async def _until(
    folder: FolderSync, client: HubClient, terminal: Terminal, told: asyncio.Event, options: argparse.Namespace
) -> int:
    """Sync until done, told to stop, or in trouble; the exit status."""
    if options.once:
        work = asyncio.create_task(folder.in_step(options.timeout or FOR_EVER_S))
    else:
        work = asyncio.create_task(folder.run(told))
    ends = [work, asyncio.create_task(told.wait()), asyncio.create_task(terminal.trouble.wait())]
    while True:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if work.done() or told.is_set() or options.once or client.status.phase in HOPELESS_PHASES:
            break
        # An alarm stops what it is about; the rest of a live sync goes on.
        ends = [end for end in ends if not end.done()]
    told.set()
    try:
        return await _ended(work, client, options)
    finally:
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)


async def _ended(work: asyncio.Task[None], client: HubClient, options: argparse.Namespace) -> int:
    status = client.status
    if not work.done() and options.once:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
    else:
        try:
            await work
        except TimeoutError:
            if not status.alarms:
                raise Stop(f"Not in step within {options.timeout:g} s.", NOT_IN_TIME) from None
    if status.alarms:
        return ALARMED
    if status.moved_to:
        return FAILED
    if status.phase in ("blocked", "signed-out", "needs-key"):
        return NOT_SIGNED_IN
    return FAILED if status.phase in HOPELESS_PHASES else OK


@contextmanager
def _told_to_stop() -> Iterator[asyncio.Event]:
    """Set by Ctrl-C or SIGTERM."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, told.set)
    try:
        yield told
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
