"""A word with the process that is running: one command in, its exit status and what it says out.

A socket in the home, which only its person can enter.  One JSON line each way.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from hub.files import reachable
from hub.folder.home import InUse

SOCKET = "control"
LINE_BYTES_MAX = 1_048_576

CarryOut = Callable[[list[str], str], Awaitable[tuple[int, str]]]


@asynccontextmanager
async def listening(home: Path, carry_out: CarryOut) -> AsyncIterator[None]:
    """While inside, ``carry_out(words, working folder)`` answers what others ask."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ValueError, KeyError):
            asked = json.loads(await reader.readline())
            status, said = await carry_out(asked["words"], asked["cwd"])
            writer.write(json.dumps({"status": status, "said": said}).encode() + b"\n")
            await writer.drain()
        writer.close()

    with reachable(home, SOCKET) as path:
        # A socket left behind by a process that was killed is replaced; we hold the home's lock.
        server = await asyncio.start_unix_server(answer, path, limit=LINE_BYTES_MAX)
    try:
        yield
    finally:
        server.close()
        (home / SOCKET).unlink(missing_ok=True)


async def ask(home: Path, words: list[str]) -> tuple[int, str]:
    """Have the running process carry out a command.  Raises ``InUse`` when it does not listen."""
    try:
        with reachable(home, SOCKET) as path:
            reader, writer = await asyncio.open_unix_connection(path, limit=LINE_BYTES_MAX)
        try:
            writer.write(json.dumps({"words": words, "cwd": str(Path.cwd())}).encode() + b"\n")
            answer = json.loads(await reader.readline())
        finally:
            writer.close()
        return answer["status"], answer["said"]
    except (OSError, ValueError):
        raise InUse(f"another hub folder is running with {home}, and does not answer") from None
