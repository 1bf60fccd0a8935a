"""Django Channels with Redis: a consumer that inserts a row of Postgres, a group an account."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from loadtest.peers import dial
from loadtest.peers.marker import REACHING, Device, Request, body, mark
from loadtest.peers.measure import EACH, Options, Running, Server, Variant, folder, postgres_pids
from loadtest.place import children
from tests.services import free_port, postgres, redis_server

HERE = Path(__file__).parent
WORKERS = 2
WANTED = [
    "channels==4.3.2",
    "channels_redis==4.3.0",
    "django==5.2.19",
    "psycopg[binary,pool]==3.3.9",
    "redis==6.4.0",  # 8 gives every read five seconds, as long as the channel layer waits: its reads then fail
    "uvicorn[standard]==0.54.0",
]
DURABILITY = "every change is a committed row of Postgres before its answer: fsync and synchronous_commit on"
NOTES = [
    f"uvicorn with {WORKERS} workers, uvloop and httptools; what Redis carries may be lost there",
    "the database's processor time is Postgres' and Redis'",
    "closed loop: the next one when the last has reached both others, because answers run away from deliveries",
]


def variants(options: Options) -> list[Variant]:
    """As the tutorial makes it; and as fast as its documents say it can be: many threads, Redis Pub/Sub."""
    bins = options.cache.python("django", WANTED)
    version = "Channels 4.3.2, Django 5.2.19"

    def one(name: str, threads: str, layer: str) -> Variant:
        notes = [*NOTES, f"{layer}, {threads} for the ORM in each worker"]
        return Variant(name, version, DURABILITY, partial(_start, bins, threads, layer), notes, loop=REACHING)

    return [
        one("django channels", "one thread", "RedisChannelLayer"),
        one("django channels pubsub", "many threads", "RedisPubSubChannelLayer"),
    ]


@contextlib.contextmanager
def _start(bins: Path, threads: str, layer: str, accounts: int) -> Iterator[Running]:
    with folder() as base, postgres(fsync=True) as database, redis_server() as redis:
        shutil.copy(HERE / "place.py", base)
        port = free_port()
        env = {
            "PATH": os.environ["PATH"],
            "PEER_DATABASE_PORT": str(database.port),
            "PEER_REDIS": redis.url,
            "PEER_THREADS": threads,
            "PEER_LAYER": "core." + layer if layer == "RedisChannelLayer" else "pubsub." + layer,
        }
        subprocess.run([bins / "python", "place.py"], cwd=base, env=env, check=True)
        words = [bins / "uvicorn", "place:application", "--host", dial.HOST, "--port", str(port)]
        quiet = ["--workers", str(WORKERS), "--log-level", "warning", "--lifespan", "off", "--ws-ping-interval", "600"]
        server = Server([*words, *quiet, "--backlog", "4096"], base, env, port)
        try:
            server.start()
            yield Running(
                partial(_devices, port),
                lambda: [server.pid, *children(server.pid)],
                lambda: [*postgres_pids(database), redis.pid],
            )
        finally:
            server.stop()


def _devices(port: int, accounts: int) -> list[Device]:
    return dial.many(partial(_device, port), range(EACH * accounts))


def _device(port: int, n: int) -> Device:
    """Connected, and in its account's group when the consumer says so."""
    line = dial.WebSocket(port, f"/account/{n // EACH}")
    line.hear_until(b"ready")
    words = b'{"number":"%s","body":"%s"}' % (mark("A", n), body(n))
    return Device(line.line, Request([dial.frame(words)]))
