"""Feathers with Postgres and Socket.IO: a row a change, a channel an account."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from loadtest.peers import dial
from loadtest.peers.marker import Device, Request, body
from loadtest.peers.measure import EACH, Options, Running, Server, Variant, exact, folder, node_env, postgres_pids
from tests.services import free_port, postgres

HERE = Path(__file__).parent
DURABILITY = "every change is a committed row of Postgres before its answer: fsync and synchronous_commit on"
NOTES = ["one Node process; the sender hears its own change as an event too, and the first of event and answer counts"]


def variants(options: Options) -> list[Variant]:
    """As its guide makes it."""
    place = options.cache.node("feathers", HERE)
    return [Variant("feathers", exact(HERE, "@feathersjs/feathers"), DURABILITY, partial(_start, place), NOTES)]


@contextlib.contextmanager
def _start(place: Path, accounts: int) -> Iterator[Running]:
    with folder() as base, postgres(fsync=True) as database:
        port = free_port()
        env = node_env(PEER_DATABASE=database.url, PEER_PORT=str(port))
        server = Server(["/usr/bin/env", "node", place / "server.cjs"], base, env, port)
        try:
            server.start()
            pids = partial(postgres_pids, database)
            yield Running(partial(_devices, port), lambda: [server.pid], pids, own_is_ack=True, error=b'[{"name":"')
        finally:
            server.kill()


def _devices(port: int, accounts: int) -> list[Device]:
    return dial.many(partial(_device, port), range(EACH * accounts))


def _device(port: int, n: int) -> Device:
    """Engine.IO opens, Socket.IO connects; its account stands in the query, as a token's would."""
    line = dial.WebSocket(port, f"/socket.io/?EIO=4&transport=websocket&account={n // EACH}")
    line.hear_until(b"0{")
    line.say("40")
    line.hear_until(b"40{")
    # 0 is the number of the answer that is wanted: the answer names the change by its mark.
    words = b'420["create","changes",{"body":"%s"},{}]' % body(n)
    return Device(line.line, Request([dial.frame(words)]))
