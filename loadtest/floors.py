"""What this machine can do without a hub: the floors that every figure of the hub is held against, in the same sitting.

    python -m loadtest floors
    python -m loadtest floors --only pgbench --only websockets --seconds 5

* ``pgbench``: durable one-row transactions (begin; take the next number; insert 408 bytes; commit), and the same as one
  statement, with 64 clients and with one, whose median is what a single commit takes here;
* ``asyncpg``: fetching the rows of a cold sync in one query;
* ``sqlite``: ``executemany`` of such rows into the hub's own table with its indexes, WAL and synchronous=FULL, a commit
  every 400 rows; and reading them back;
* ``websockets``: echo and fan-out from one to two without any store (loadtest/bare.py), 300 connections in groups of
  three, 256-byte messages, one in flight each: processor time of the server for one message.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import select
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import asyncpg

from hub.store.sqlite.file import SCHEMA
from loadtest.bare import GROUP, LOOPS, MODES, TOLD_BYTES
from loadtest.figures import Figures
from loadtest.place import cpu_s, tree_cpu_s
from tests.services import HOST, Postgres, database, free_port, postgres

SHORT = "--seconds 2 --rows 20000"
FULL = "--repeat 5"
SEALED_BYTES = 408  # a 256-byte body with its record's key, sealed and padded
MESSAGE_BYTES = 256
SQLITE_BATCH = 400
KINDS = ("pgbench", "asyncpg", "sqlite", "websockets")

TABLES = """
create table log(id bigint primary key, head bigint not null) with (fillfactor = 70);
create table ev(log bigint, seq bigint, id uuid not null default gen_random_uuid(), body bytea not null,
                at timestamptz default now(), primary key (log, seq));
create unique index on ev(id);
insert into log select n, 0 from generate_series(1, 300) as n;
"""
_BODY = f"decode(repeat('ab', {SEALED_BYTES}), 'hex')"
ONE_ROW = f"""\\set l random(1, 300)
begin;
update log set head = head + 1 where id = :l returning head \\gset
insert into ev(log, seq, body) values (:l, :head, {_BODY});
commit;
"""
ONE_STATEMENT = f"""\\set l random(1, 300)
with h as (update log set head = head + 1 where id = :l returning head)
insert into ev(log, seq, body) select :l, head, {_BODY} from h;
"""
SCRIPTS = {"one_row": ONE_ROW, "one_statement": ONE_STATEMENT}
ROWS = """
select seq, appended_at_ms, sealed from change
where account_id = $1 and collection = $2 and replaced_at is null order by seq
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``run``."""
    parser.add_argument("--only", action="append", choices=KINDS, help="this floor; may be given again; all by default")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--rows", type=int, default=100_000, help="of the asyncpg and sqlite floors")
    parser.add_argument("--connections", type=int, default=300, help="of the websockets floor")


async def run(options: argparse.Namespace) -> list[Figures]:
    """The floors, one ``Figures`` a kind and, of the sockets, a mode and loop."""
    wanted = options.only or KINDS
    found: list[Figures] = []
    if {"pgbench", "asyncpg"} & set(wanted):
        with postgres(None, "-c", "max_connections=500", fsync=True) as server:
            if "pgbench" in wanted:
                found.append(await pgbench(server, options.seconds))
            if "asyncpg" in wanted:
                found.append(await asyncpg_fetch(server, options.rows))
    if "sqlite" in wanted:
        found.append(await asyncio.to_thread(sqlite_rows, options.rows))
    if "websockets" in wanted:
        for mode in MODES:
            for loop in LOOPS:
                found.append(await asyncio.to_thread(websockets, mode, loop, options.seconds, options.connections))
    return found


# --- Postgres ------------------------------------------------------------------------------------


async def pgbench(server: Postgres, seconds: float = 5.0, clients: Sequence[int] = (64, 1)) -> Figures:
    """Transactions a second of both scripts on a fresh database of that server.

    ``{one_row,one_statement}_{clients}_per_s``, processor time of Postgres for each as ``_postgres_us``, and with one
    client the median as ``one_row_commit_p50_ms``.
    """
    figures = Figures("floor pgbench", {"postgres": server.version, "seconds": seconds, "bytes": SEALED_BYTES})
    async with database(server) as url:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(TABLES)
        finally:
            await connection.close()
        for name, script in SCRIPTS.items():
            for count in clients:
                before = tree_cpu_s(server.pid)
                rate, done, p50_ms = await asyncio.to_thread(_pgbench, server, url, script, count, seconds)
                figures.values[f"{name}_{count}_per_s"] = rate
                figures.values[f"{name}_{count}_postgres_us"] = 1e6 * (tree_cpu_s(server.pid) - before) / done
                if count == 1:
                    figures.values[f"{name}_commit_p50_ms"] = p50_ms
    return figures


def _pgbench(server: Postgres, url: str, script: str, clients: int, seconds: float) -> tuple[float, int, float]:
    """Transactions a second and in all, and the median of one in ms (sampled with many clients)."""
    program = server.bin_dir / "pgbench"
    if not program.exists():
        raise RuntimeError(f"there is no pgbench beside {server.bin_dir}: name another Postgres in HUB_TEST_PG_BIN")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "script.sql"
        file.write_text(script)
        words = ["-n", "-M", "prepared", "-f", file, "-c", clients, "-j", min(clients, 2), "-T", max(1, round(seconds))]
        log = ["-l", "--log-prefix=times", "--sampling-rate=0.2"] if clients > 1 else ["-l", "--log-prefix=times"]
        done = subprocess.run(
            [str(each) for each in (program, *words, *log, url)],
            cwd=folder, env=server.env, capture_output=True, text=True, check=True,
        )  # fmt: skip
        rate = re.search(r"tps = ([\d.]+)", done.stdout)
        count = re.search(r"actually processed: (\d+)", done.stdout)
        assert rate and count, done
        lines = [line for each in Path(folder).glob("times.*") for line in each.read_text().splitlines()]
    return float(rate[1]), int(count[1]), statistics.median(int(line.split()[2]) for line in lines) / 1000


async def asyncpg_fetch(server: Postgres, rows: int) -> Figures:
    """Fetching that many rows of 408 bytes, from a table of their own."""
    figures = Figures("floor asyncpg", {"postgres": server.version, "rows": rows, "bytes": SEALED_BYTES})
    async with database(server) as url:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(
                "create table change(account_id bytea, collection bigint, seq bigint, appended_at_ms bigint,"
                " replaced_at double precision, sealed bytea, primary key (account_id, collection, seq))"
            )
            records = (
                (bytes(16), 1, seq, 1_800_000_000_000, None, os.urandom(SEALED_BYTES)) for seq in range(1, rows + 1)
            )
            await connection.copy_records_to_table("change", records=records)
            await connection.execute("vacuum analyze change")
        finally:
            await connection.close()
        figures.values |= await raw_fetch(url, bytes(16), 1)
    return figures


async def raw_fetch(url: str, account_id: bytes, collection: int, times: int = 3) -> dict[str, float]:
    """What ``fetch`` of a collection's live rows does, the median of so many: ``rows_per_s`` and ``mib_s``.

    The rows are those of the hub's table ``change``; one query, the statement prepared, nothing done with them.
    """
    connection = await asyncpg.connect(url)
    try:
        statement = await connection.prepare(ROWS)
        took, count, size = [], 0, 0
        for _ in range(times):
            began = time.perf_counter()
            rows = await statement.fetch(account_id, collection)
            took.append(time.perf_counter() - began)
            count, size = len(rows), sum(len(row[2]) for row in rows)
    finally:
        await connection.close()
    median = statistics.median(took)
    return {"rows_per_s": count / median, "mib_s": size / median / 2**20}


# --- SQLite --------------------------------------------------------------------------------------


def sqlite_rows(rows: int) -> Figures:
    """Inserting and reading that many rows in the hub's own tables, without the hub."""
    figures = Figures("floor sqlite", {"sqlite": sqlite3.sqlite_version, "rows": rows, "bytes": SEALED_BYTES})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "floor.sqlite3"
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as db:
            for pragma in ("journal_mode = wal", "synchronous = full", "foreign_keys = off"):
                db.execute(f"pragma {pragma}")
            db.executescript(SCHEMA.read_text())
            insert = sqlite_insert(db)
            made = [sqlite_row(1, seq) for seq in range(1, rows + 1)]
            began, cpu = time.perf_counter(), time.thread_time()
            for start in range(0, rows, SQLITE_BATCH):
                db.execute("begin immediate")
                db.executemany(insert, made[start : start + SQLITE_BATCH])
                db.execute("commit")
            took, cpu = time.perf_counter() - began, time.thread_time() - cpu
        figures.values |= {"inserts_per_s": rows / took, "insert_us": 1e6 * cpu / rows}
        figures.values |= sqlite_select(file, "select 1")
    return figures


def sqlite_insert(db: sqlite3.Connection) -> str:
    """The statement that puts a ``sqlite_row`` into ``change``."""
    columns = [name for _, name, *_ in db.execute("pragma table_info(change)")]
    return f"insert into change ({', '.join(columns)}) values ({', '.join(f':{name}' for name in columns)})"


def sqlite_row(collection: int, seq: int) -> dict[str, object]:
    """A live put of one record of its own, column by column."""
    ids = os.urandom(32)
    return {
        "account_id": bytes(16),
        "collection": collection,
        "seq": seq,
        "kind": 1,
        "record_id": ids[:16],
        "change_id": ids[16:],
        "device_id": bytes(16),
        "counter": seq,
        "appended_at_ms": 1_800_000_000_000,
        "replaced_at": None,
        "sealed": os.urandom(SEALED_BYTES),
    }


def sqlite_select(file: Path, which: str, names: Sequence[object] = (), times: int = 3) -> dict[str, float]:
    """What reading a collection's live rows does, the median of so many: ``rows_per_s`` and ``mib_s``.

    ``which`` is a query for the collection's number.
    """
    query = f"select seq, appended_at_ms, sealed from change where collection = ({which})"
    query += " and replaced_at is null order by seq"
    took, count, size = [], 0, 0
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
        for _ in range(times):
            began = time.perf_counter()
            rows = db.execute(query, names).fetchall()
            took.append(time.perf_counter() - began)
            count, size = len(rows), sum(len(row[2]) for row in rows)
    median = statistics.median(took)
    return {"rows_per_s": count / median, "mib_s": size / median / 2**20}


# --- WebSockets ----------------------------------------------------------------------------------


def websockets(mode: str, loop: str, seconds: float = 5.0, connections: int = 300) -> Figures:
    """Messages a second, and the server's processor time for each: ``messages_per_s`` and ``server_us``."""
    settings = {"mode": mode, "loop": loop, "connections": connections, "bytes": MESSAGE_BYTES}
    figures = Figures("floor websockets", {**settings, "seconds": seconds})
    with _bare_server(mode, loop) as (port, pid), contextlib.ExitStack() as stack:
        lines = [stack.enter_context(_upgraded(port, n // GROUP)) for n in range(connections)]
        _pump(lines, mode, 0.3)  # the first turns make what the later ones find
        before, own = cpu_s(pid), time.process_time()
        began = time.perf_counter()
        messages = _pump(lines, mode, seconds)
        took = time.perf_counter() - began
        figures.values["messages_per_s"] = messages / took
        figures.values["server_us"] = 1e6 * (cpu_s(pid) - before) / messages
        figures.values["driver_core_percent"] = 100 * (time.process_time() - own) / took
        figures.values["server_core_percent"] = 100 * (cpu_s(pid) - before) / took
    return figures


@contextlib.contextmanager
def _bare_server(mode: str, loop: str) -> Iterator[tuple[int, int]]:
    port = free_port()
    words = [sys.executable, "-m", "loadtest.bare", "--mode", mode, "--loop", loop, "--port", str(port)]
    here = Path(__file__).parent.parent
    with subprocess.Popen(words, cwd=here, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            if server.stdout.readline() != b"up\n":
                raise RuntimeError(f"the bare server did not start: {' '.join(words)}")
            yield port, server.pid
        finally:
            server.kill()


def _upgraded(port: int, group: int) -> socket.socket:
    line = socket.create_connection((HOST, port))
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line.sendall(
        f"GET /{group} HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += line.recv(1)
    assert head.startswith(b"HTTP/1.1 101"), head
    line.setblocking(False)
    return line


def _pump(lines: Sequence[socket.socket], mode: str, seconds: float) -> int:
    """Keep one message in flight on each line for so long, and hear the last ones out; how many were answered."""
    # Masked with zeros: the same work for the server, none here.
    frame = bytes((0x82, 0xFE)) + MESSAGE_BYTES.to_bytes(2, "big") + bytes(4) + os.urandom(MESSAGE_BYTES)
    whole = 4 + MESSAGE_BYTES
    # Of an answered message come one frame (echo), or one to each of the group.
    answer, frames_each = (whole, 1) if mode == "echo" else (2 + TOLD_BYTES, GROUP)
    by_fd = {line.fileno(): (line, bytearray()) for line in lines}
    with contextlib.closing(select.epoll()) as epoll:
        for fd, (line, _) in by_fd.items():
            epoll.register(fd, select.EPOLLIN)
            line.send(frame)
        answered, heard, in_flight, until = 0, 0, len(lines), time.perf_counter() + seconds
        while in_flight or heard < answered * frames_each:
            for fd, _ in epoll.poll(5.0):
                line, inbox = by_fd[fd]
                inbox += line.recv(65_536)
                at = 0
                while len(inbox) - at >= 2:
                    size = whole if inbox[at + 1] == 126 else answer
                    if len(inbox) - at < size:
                        break
                    at += size
                    heard += 1
                    if size == answer:
                        answered += 1
                        if time.perf_counter() < until:
                            line.send(frame)
                        else:
                            in_flight -= 1
                del inbox[:at]
    return answered
