"""PouchDB Server: a database an account, a document a change, a continuous feed of changes a device."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from loadtest.peers import dial
from loadtest.peers.marker import REACHING, Device, Request, body, mark
from loadtest.peers.measure import EACH, Options, Running, Server, Variant, exact, folder, node_env
from tests.services import free_port

HERE = Path(__file__).parent
DURABILITY = "none for a change: LevelDB writes its log without a sync (PouchDB asks for none)"
NOTES = [
    "one Node process, LevelDB within it; a device has two connections, one for its PUTs and one for its feed",
    "its request log is set to errors only",
    "closed loop: the next one when the last has reached both others, because answers run away from deliveries",
]


def variants(options: Options) -> list[Variant]:
    """As it comes, on LevelDB."""
    place = options.cache.node("pouchdb", HERE)
    version = exact(HERE, "pouchdb-server")
    return [Variant("pouchdb", version, DURABILITY, partial(_start, place), NOTES, loop=REACHING)]


@contextlib.contextmanager
def _start(place: Path, accounts: int) -> Iterator[Running]:
    with folder() as base:
        port, config = free_port(), base / "config.json"
        config.write_text(json.dumps({"log": {"level": "error"}}))
        (base / "data").mkdir()
        words = ["/usr/bin/env", "node", place / "node_modules/pouchdb-server/bin/pouchdb-server"]
        options = ["--port", str(port), "--dir", base / "data", "--config", config, "--no-stdout-logs"]
        server = Server([*words, *options], base, node_env(), port)
        try:
            server.start()
            yield Running(partial(_devices, port), lambda: [server.pid], list, error=b'"error":')
        finally:
            server.kill()


def _devices(port: int, accounts: int) -> list[Device]:
    for account in range(accounts):
        for path in (f"/a{account}", f"/a{account}/begun"):
            said = dial.http(port, "PUT", path, {})
            if b" 201 " not in said.partition(b"\r\n")[0]:
                raise RuntimeError(f"PUT {path}: {said[-300:]!r}")
    return dial.many(partial(_device, port), range(EACH * accounts))


def _device(port: int, n: int) -> Device:
    """Its feed runs when the document that is there already has come."""
    account = n // EACH
    feed = dial.connect(port)
    asked = "feed=continuous&include_docs=true&since=0&heartbeat=600000"
    feed.sendall(dial.http_request("GET", f"/a{account}/_changes?{asked}", b"", port))
    dial.read_until(feed, b'"begun"')
    data = b'{"body":"%s"}' % body(n)
    request = dial.http_request("PUT", f"/a{account}/{mark('A', n).decode()}", data, port)
    return Device(dial.connect(port), Request([request]), feed)
