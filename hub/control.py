"""A word with the hub that is running on this machine: one verb in, what it gives back out.

On SQLite the running hub owns the database file, so whoever operates it from a
terminal asks it over a socket in its folder, which only its own user can enter.
One JSON line each way::

    {"verb": "suspend", "arguments": {"account_id": "3f…"}}
    {"result": {…}}   or   {"refused": "not_found", "sentence": "…"}
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from hub import log
from hub.errors import REFUSALS, Refusal, StoreUnavailable
from hub.files import reachable

SOCKET = "hub.sock"
QUESTION_BYTES_MAX = 65_536
ANSWER_BYTES_MAX = 16 * 1_048_576
QUESTION_WITHIN_S = 10.0

Question = tuple[str, dict[str, Any]]
HUNG_UP: Question = ("", {})  # whoever connected only looked whether somebody listens

CarryOut = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]]


class NobodyThere(Exception):
    """No hub listens in that folder."""


@asynccontextmanager
async def listening(data_dir: Path, carry_out: CarryOut) -> AsyncIterator[None]:
    """While inside, ``carry_out(verb, arguments)`` answers what is asked in ``data_dir``; afterwards no socket is left.

    The caller owns the folder: a socket that a killed hub left behind is replaced.  Raises ``OSError``.
    """
    under_way: set[asyncio.Task[None]] = set()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_converse(reader, writer, carry_out))
        under_way.add(task)
        task.add_done_callback(under_way.discard)

    with reachable(data_dir, SOCKET) as path:
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(begin, sock=_bound(path), limit=QUESTION_BYTES_MAX)
    try:
        yield
    finally:
        server.close()
        (data_dir / SOCKET).unlink(missing_ok=True)
        # The store closes after this block: nobody may be half-way into it.
        for task in list(under_way):
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


async def ask(data_dir: Path, verb: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What the hub that runs on ``data_dir`` gives back.

    Raises ``NobodyThere`` when none does; ``Refusal`` as the verb does; ``StoreUnavailable``, also when the hub went
    away before it answered: what was asked for may have been done or not.
    """
    try:
        with reachable(data_dir, SOCKET) as path:
            reader, writer = await asyncio.open_unix_connection(path, limit=ANSWER_BYTES_MAX)
    except OSError:
        raise NobodyThere(f"no hub is running on {data_dir}") from None
    try:
        writer.write(json.dumps({"verb": verb, "arguments": dict(arguments)}).encode() + b"\n")
        answer = json.loads(await reader.readline())
    except (OSError, ValueError):
        raise StoreUnavailable("the hub went away before it answered; look whether it was done") from None
    finally:
        writer.close()
    if "result" in answer:
        result: dict[str, Any] = answer["result"]
        return result
    code = answer.get("refused")
    if code == "unavailable":
        raise StoreUnavailable(answer.get("sentence", ""))
    raise Refusal(code if code in REFUSALS else "internal", answer.get("sentence", ""))


async def somebody_listens(data_dir: Path) -> bool:
    """Whether a hub that runs on ``data_dir`` can be asked."""
    try:
        with reachable(data_dir, SOCKET) as path:
            _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    writer.close()
    return True


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, carry_out: CarryOut) -> None:
    try:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(QUESTION_WITHIN_S):
                question = await _question(reader)
            if question == HUNG_UP:
                return
            answer = await _answered(question, carry_out)
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
    finally:
        writer.close()


async def _question(reader: asyncio.StreamReader) -> Question | None:
    """What was asked; None when it makes no sense."""
    try:
        line = await reader.readline()
        if not line:
            return HUNG_UP
        asked = json.loads(line)
        verb, arguments = asked["verb"], asked["arguments"]
    except (ValueError, KeyError, TypeError):
        return None
    return (verb, arguments) if isinstance(verb, str) and isinstance(arguments, dict) else None


async def _answered(question: Question | None, carry_out: CarryOut) -> dict[str, Any]:
    try:
        if question is None:
            raise Refusal("bad_request", "that is no verb with its arguments")
        return {"result": await carry_out(*question)}
    except Refusal as refusal:
        return {"refused": refusal.code, "sentence": refusal.message}
    except StoreUnavailable as exc:
        return {"refused": "unavailable", "sentence": str(exc)}
    except Exception as exc:
        log.get().error("what was asked at the control socket failed", exc_info=exc)
        return {"refused": "internal", "sentence": REFUSALS["internal"].message}


def _bound(path: Path) -> socket.socket:
    """A socket that only this user can connect to, from its first moment on."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        made.bind(str(path))
    except BaseException:
        made.close()
        raise
    finally:
        os.umask(before)
    return made
