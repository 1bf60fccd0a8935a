"""Jazz' sync server with SQLite: a feed an account, three sessions of one signer, every change signed beforehand."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from loadtest.peers import dial
from loadtest.peers.marker import Device, Request
from loadtest.peers.measure import EACH, WARM_S, Options, Running, Server, Variant, exact, folder, node_env
from tests.services import free_port

HERE = Path(__file__).parent
KNOWN = b'"action":"known"'
MOST_PER_S = 5_000  # so many changes are made for each second of a run
DURABILITY = (
    "none for a change: SQLite in WAL with synchronous=NORMAL (its driver's default), written as it is answered"
)
NOTES = [
    "one Node process, SQLite within it; it checks every change's signature, as any device would",
    "bodies are in the clear (privacy: trusting): the server does the same work for sealed ones",
    "the devices do not tell the server what they have heard, which saves it work",
]


def variants(options: Options) -> list[Variant]:
    """As ``jazz-run sync`` starts it."""
    place = options.cache.node("jazz", HERE)
    start = partial(_start, place, options.seconds)
    return [Variant("jazz", exact(HERE, "jazz-run"), DURABILITY, start, NOTES)]


@contextlib.contextmanager
def _start(place: Path, seconds: float, accounts: int) -> Iterator[Running]:
    made = _made(place, accounts, 20 + math.ceil(MOST_PER_S * (WARM_S + seconds) / (EACH * accounts)))
    with folder() as base:
        port = free_port()
        words = ["/usr/bin/env", "node", place / "node_modules/jazz-run/dist/index.js", "sync"]
        server = Server([*words, "--port", str(port), "--db", base / "storage.db"], base, node_env(), port)
        try:
            server.start()
            yield Running(partial(_devices, port, made), lambda: [server.pid], list)
        finally:
            server.kill()


@functools.lru_cache(maxsize=1)
def _made(place: Path, accounts: int, count: int) -> list[dict[str, Any]]:
    words = ["node", place / "frames.mjs", str(accounts), str(EACH), str(count)]
    done = subprocess.run(list(map(str, words)), cwd=place, env=node_env(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"making Jazz' changes: {done.stderr[-1000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def _devices(port: int, made: list[dict[str, Any]], accounts: int) -> list[Device]:
    assert len(made) == accounts
    return [device for each in dial.many(partial(_account, port), made) for device in each]


def _account(port: int, made: dict[str, Any]) -> list[Device]:
    """The first device brings group and feed; each asks for the feed, and is told from then on."""
    # The server tells connections apart by address and millisecond, and closes one of two that are the same.
    lines = [dial.WebSocket(port, "/", f"X-Forwarded-For: {made['feed']}-{n}") for n in range(EACH)]
    for piece in made["content"]:
        lines[0].say(json.dumps(piece))
        lines[0].hear_until(KNOWN)
    feed = f'"id":"{made["feed"]}"'.encode()
    for line in lines:
        line.say(json.dumps({"action": "load", "id": made["feed"], "header": False, "sessions": {}}))
        line.hear_until(feed)
    return [
        Device(line.line, Request([dial.frame(each.encode()) for each in frames], made=True), pattern=KNOWN)
        for line, frames in zip(lines, made["devices"], strict=True)
    ]
