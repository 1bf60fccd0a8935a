"""The command ``hub folder``: words in, exit status out.

0  done, or stopped by the person        3  the hub was caught lying: an alarm
1  something failed; a sentence says what  4  this device is not signed in, or has no key
2  the words make no command             5  not in step within --timeout
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import re
import sys
import unicodedata
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from hub.client import HubClient, PairingFailed
from hub.errors import HubError
from hub.folder import files as paths
from hub.folder.command import (
    ALARMED,
    FAILED,
    FOR_EVER_S,
    MISUSED,
    MOVED,
    OK,
    Say,
    Stop,
    answered,
    online,
    opened_client,
    shown_url,
)
from hub.folder.control import CarryOut, ask
from hub.folder.disk import FolderGone
from hub.folder.history import NotRestorable, moments, restore
from hub.folder.home import BadFolder, Home, InUse, write_private
from hub.folder.live import sync
from hub.folder.login import login, pair, show_key, wrong_words

SIZE_MAX_MIB = 100
# What a sentence is enough for; anything else is a mistake of ours and shows where it was made.
FAULTS = (InUse, BadFolder, FolderGone, NotRestorable, HubError, PairingFailed, OSError, ValueError)


def main(argv: Sequence[str]) -> int:
    """Run ``hub folder`` with these words; the exit status."""
    options = _parse(argv)
    home = Home(Path(options.home)) if options.home else Home.default(os.environ)
    command: Callable[[Home, argparse.Namespace], Awaitable[int]] = options.command
    try:
        return asyncio.run(_awaited(command(home, options)))
    except Stop as stop:
        return _fail(str(stop), stop.status)
    except FAULTS as fault:
        return _fail(str(fault))
    except KeyboardInterrupt:
        return FAILED


async def _awaited(command: Awaitable[int]) -> int:
    return await command


def _fail(sentence: str, status: int = FAILED) -> int:
    print(sentence, file=sys.stderr)
    return status


# --- words -----------------------------------------------------------------------------------


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """``hub folder DIR`` syncs; a first word that is a command's name is that command."""
    general = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    general.add_argument("--home", metavar="DIR", help="where this device keeps its keys and memory")
    found, words = general.parse_known_args(list(argv))
    commands = _commands()
    name = words[0] if words and words[0] in commands else ""
    options = commands[name].parse_args(words[1:] if name else words)
    if name == "login" and (wrong := wrong_words(options)):
        commands[name].error(wrong)
    options.home, options.words, options.cwd = found.home, words, str(Path.cwd())
    return options


def _commands() -> dict[str, argparse.ArgumentParser]:
    def command(name: str, run: Callable[..., Awaitable[int]], about: str) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(prog=f"hub folder {name}".strip(), description=about, allow_abbrev=False)
        parser.epilog = "Every command takes --home DIR: several devices on one machine, each with its own."
        parser.set_defaults(command=run)
        return parser

    parsers = {
        "": command("", _sync, "Keep a folder the same on all your devices. Commands: " + ", ".join(_NAMES)),
        "login": command("login", login, "Sign this device in, with the code that is mailed to you."),
        "pair": command("pair", pair, "Add another device at one scan: it is signed in and gets the key."),
        "key": command("key", _with_client(_key), "Show the key code: the only thing that opens your files."),
        "status": command("status", _status, "Tell how things stand."),
        "off": command("off", _with_client(_off), "Switch sync off; your files stay."),
        "on": command("on", _on, "Switch sync on again."),
        "follow": command("follow", _with_client(_follow), "Go on at the hub that the account was moved to."),
        "logout": command("logout", _logout, "Sign this device out and forget its keys; your files stay."),
        "history": command("history", _with_client(_history), "List the kept versions of a file."),
        "restore": command("restore", _with_client(_restore), "Bring a file back as it was at a time."),
    }
    assert set(parsers) == {"", *_NAMES}
    live, enter = parsers[""], parsers["login"]
    live.add_argument("dir", type=Path, metavar="DIR")
    live.add_argument("--once", action="store_true", help="sync until everything is in step, then end")
    live.add_argument("--timeout", type=float, default=None, metavar="S", help="with --once: give up after S seconds")
    live.add_argument("--max-size", type=int, default=SIZE_MAX_MIB, metavar="MIB", help="leave out larger files")
    live.add_argument("--verbose", action="store_true", help="tell also when the connection comes and goes")
    enter.add_argument("--hub", metavar="URL", help="where the hub is; a pairing code may tell")
    enter.add_argument("--email", metavar="ADDRESS", help="have a code mailed to you")
    enter.add_argument(
        "--pair",
        nargs="?",
        const="",
        metavar="CODE",
        help="or be added by a device that is signed in: its code, if any",
    )
    enter.add_argument("--invite", default="", metavar="TOKEN", help="where the hub asks for an invitation")
    enter.add_argument(
        "--code-from", metavar="FILE", help="read the mailed code or the six digits from FILE (waits for it), or -"
    )
    enter.add_argument("--key", metavar="CODE", help="the key code shown on another device")
    enter.add_argument("--key-out", type=Path, metavar="FILE", help="also write the key code to FILE, for you alone")
    enter.add_argument(
        "--device-name", default=platform.node(), metavar="NAME", help="how conflict copies call this one"
    )
    enter.add_argument("--name", metavar="NAME", help="what your other devices call this one; the hub cannot read it")
    other = parsers["pair"]
    other.add_argument(
        "code", nargs="?", default="", metavar="CODE", help="the code that the other device shows, if any"
    )
    other.add_argument("--code-from", metavar="FILE", help="read the six digits from FILE (waits for it), or -")
    parsers["key"].add_argument("--key-out", type=Path, metavar="FILE", help="write it to FILE, for you alone")
    parsers["off"].add_argument("--wipe", action="store_true", help="also delete everything the hub keeps of it")
    parsers["history"].add_argument("path", metavar="PATH", help="as seen from the folder")
    parsers["restore"].add_argument("path", metavar="PATH", help="as seen from the folder")
    parsers["restore"].add_argument(
        "--at", required=True, type=_time, metavar="TIME", help="2026-11-23T09:00, or so long ago: 90m, 2h, 3d"
    )
    return parsers


_NAMES = ("login", "pair", "key", "status", "off", "on", "follow", "logout", "history", "restore")


def _time(text: str) -> datetime:
    now = datetime.now().astimezone()
    if ago := re.fullmatch(r"(\d+)([smhd])", text):
        unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[ago[2]]
        return now - timedelta(**{unit: int(ago[1])})
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 2026-11-23T09:00 or 2h") from None


# --- short commands --------------------------------------------------------------------------


async def _key(client: HubClient, home: Home, options: argparse.Namespace, say: Say) -> int:
    show_key(client.key_code(), home.settings().get("hub", ""), say)
    if options.key_out:
        write_private(Path(options.cwd) / options.key_out, client.key_code() + "\n")
    return OK


ClientCommand = Callable[[HubClient, Home, argparse.Namespace, Say], Awaitable[int]]


def _with_client(command: ClientCommand) -> Callable[[Home, argparse.Namespace], Awaitable[int]]:
    """A command that needs the client: it opens it, or has the process that has it open carry it out."""

    async def run(home: Home, options: argparse.Namespace) -> int:
        try:
            async with opened_client(home) as client:
                return await command(client, home, options, print)
        except InUse:
            status, said = await ask(home.path, options.words)
            print(said, file=sys.stdout if status == OK else sys.stderr)
            return status

    run.client_command = command  # type: ignore[attr-defined]
    return run


async def _sync(home: Home, options: argparse.Namespace) -> int:
    return await sync(home, options, _carrying_out)


def _carrying_out(client: HubClient, home: Home) -> CarryOut:
    """Short commands in the process that has the client open, for a terminal that asks."""
    return lambda words, cwd: _carry_out(client, home, words, cwd)


async def _carry_out(client: HubClient, home: Home, words: list[str], cwd: str) -> tuple[int, str]:
    try:
        options = _parse(words)
    except SystemExit:
        return MISUSED, ""
    options.cwd = cwd
    command: ClientCommand | None = getattr(options.command, "client_command", None)
    said: list[str] = []
    if command is None:
        return FAILED, f"another hub folder is running with {home.path}"
    try:
        return await command(client, home, options, said.append), "\n".join(said)
    except Stop as stop:
        return stop.status, str(stop)
    except FAULTS as fault:
        return FAILED, str(fault)


async def _status(home: Home, options: argparse.Namespace) -> int:
    if running := home.running():
        print(f"running    yes, process {running.get('pid')}, in {running.get('folder')}")
        print(f"state      {running.get('phase')}")
        print(f"unsent     {running.get('unsynced')} changes")
        for alarm in running.get("alarms", []):
            print(f"ALARM      {alarm}")
        return ALARMED if running.get("alarms") else OK
    async with opened_client(home) as client:
        settings = home.settings()
        print("running    no")
        print(f"hub        {settings.get('hub')}")
        print(f"device     {settings.get('device_name')}")
        for root in settings.get("folders", {}).values():
            print(f"folder     {root}")
        print(f"unsent     {client.status.unsynced} changes")
        if url := client.status.moved_to:
            print(MOVED.format(url=shown_url(url)))
        for alarm in client.status.alarms:
            print(f"ALARM      {alarm.name}: {alarm.detail}")
        return ALARMED if client.status.alarms else OK


async def _off(client: HubClient, home: Home, options: argparse.Namespace, say: Say) -> int:
    if options.wipe:
        await online(client)
        await client.turn_off_and_wipe()
        say("Off. What the hub kept of your files is deleted; the files on your devices stay.")
    else:
        await client.turn_off()
        say("Off. Your files stay here and on the hub; hub folder on goes on.")
    return OK


async def _on(home: Home, options: argparse.Namespace) -> int:
    async with opened_client(home) as client:
        await client.turn_on()
    print("On. Now: hub folder DIR")
    return OK


async def _follow(client: HubClient, home: Home, options: argparse.Namespace, say: Say) -> int:
    if not client.status.moved_to:
        await answered(client)  # perhaps this device was not here when the account moved
    if not client.status.moved_to:
        raise Stop("The account has not moved.")
    url = shown_url(await client.follow())
    home.remember(hub=url)
    say(f"Going on at {url}. Now: hub folder DIR")
    return OK


async def _logout(home: Home, options: argparse.Namespace) -> int:
    async with opened_client(home) as client:
        await online(client)
        await client.revoke([client.device_id])
    home.forget()
    print("Signed out. This device's keys are forgotten; the files in your folder stay.")
    return OK


async def _history(client: HubClient, home: Home, options: argparse.Namespace, say: Say) -> int:
    await online(client)
    for moment in await moments(client, _key_of(home, options)):
        what = "deleted" if moment.file is None else f"{moment.file.size:,} bytes"
        say(f"{moment.at.astimezone():%Y-%m-%d %H:%M:%S}  {what}")
    return OK


async def _restore(client: HubClient, home: Home, options: argparse.Namespace, say: Say) -> int:
    await online(client)
    path = _key_of(home, options)
    file = await restore(client, path, options.at)
    await client.synced(FOR_EVER_S)
    say(f"Restored {paths.printable(path)} as it was ({file.size:,} bytes); your folders take it up when they sync.")
    return OK


def _key_of(home: Home, options: argparse.Namespace) -> str:
    """A path as the records know it: relative to the folder, however the person wrote it."""
    path: str = options.path
    given = Path(os.path.normpath(Path(options.cwd) / path))
    for root in home.settings().get("folders", {}).values():
        if given.is_relative_to(root):
            path = given.relative_to(root).as_posix()
            break
    key = unicodedata.normalize("NFC", path)
    paths.check_path(key)
    return key
