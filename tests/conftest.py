"""What every test run shares: skips that count, nothing left behind, and a last word on what was used.

``HUB_TEST_REQUIRE`` turns skips into failures: ``all``, or a list of names with
commas; a skip whose reason has one of the names fails.  Continuous integration
sets it, so that a test which quietly stopped running is noticed there.

``pg_server`` and ``redis_url`` run a test once with every server that is supported;
the fixtures that begin with ``one_`` are for tests to which it does not matter.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sqlite3
import sys
import threading
from pathlib import Path

import pytest

from tests.services import database, postgres, postgres_bins, redis_bins, redis_server, used_services

REQUIRED = [name.strip().lower() for name in os.environ.get("HUB_TEST_REQUIRE", "").split(",") if name.strip()]


def is_required(reason: str) -> bool:
    """Whether a skip for this reason is a failure."""
    return any(name == "all" or name in reason.lower() for name in REQUIRED)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if is_required(reason):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} was skipped, and HUB_TEST_REQUIRE does not allow that: {reason}"
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    left = _left_behind()
    if left and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    session.config.stash[_LEFT] = left


def pytest_terminal_summary(terminalreporter, config):
    for what in config.stash.get(_LEFT, []):
        terminalreporter.write_line(f"left behind by the tests: {what}", red=True)
    used = [f"Python {platform.python_version()}", f"SQLite {sqlite3.sqlite_version}"]
    for name, module in (("websockets", "websockets"), ("SMTP server aiosmtpd", "aiosmtpd"), ("PyNaCl", "nacl")):
        if module in sys.modules:
            used.append(f"{name} {importlib.metadata.version({'nacl': 'pynacl'}.get(module, module))}")
    terminalreporter.write_line("used: " + ", ".join(used + used_services()))


_LEFT = pytest.StashKey[list[str]]()


def _left_behind() -> list[str]:
    """Processes and threads that outlived the tests."""
    threads = [t.name for t in threading.enumerate() if t is not threading.main_thread() and not t.daemon]
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    pids = children.read_text().split() if children.exists() else []
    return [f"thread {name}" for name in threads] + [f"process {pid} {_command(pid)}" for pid in pids]


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


# --- servers ---------------------------------------------------------------------------------

OLDEST_POSTGRES = "15"


def _postgres_params():
    """The newest that is here and the oldest that is supported, each as (name, folder of programs or None)."""
    found = {name.split()[1]: path for name, path in postgres_bins().items()}
    newest = next(iter(found), "")
    params = [(f"postgres-{newest}", found.get(newest))]
    if "HUB_TEST_PG_BIN" not in os.environ and newest.partition(".")[0] != OLDEST_POSTGRES:
        oldest = next((found[version] for version in found if version.startswith(f"{OLDEST_POSTGRES}.")), None)
        params.append((f"postgres-{OLDEST_POSTGRES}", oldest))
    return [pytest.param(param, id=param[0]) for param in params]


@pytest.fixture(scope="session")
def one_pg_server():
    """A running Postgres, the newest that is here."""
    if not postgres_bins():
        pytest.skip("postgres is not on this machine")
    with postgres() as server:
        yield server


@pytest.fixture(scope="session", params=_postgres_params())
def pg_server(request):
    """A running Postgres: the newest, and again the oldest."""
    name, bin_dir = request.param
    if bin_dir is None:
        pytest.skip(f"{name} is not on this machine: it is the oldest that is supported, and not tested in this run")
    if bin_dir == next(iter(postgres_bins().values())):
        yield request.getfixturevalue("one_pg_server")
        return
    with postgres(bin_dir) as server:
        yield server


@pytest.fixture
async def database_url(pg_server):
    """The URL of a fresh, empty database, once on each ``pg_server``."""
    async with database(pg_server) as url:
        yield url


@pytest.fixture
async def one_database_url(one_pg_server):
    """The URL of a fresh, empty database."""
    async with database(one_pg_server) as url:
        yield url


@pytest.fixture(scope="session")
def one_redis_url():
    """The URL of a running server, for tests to which it does not matter which one."""
    if not redis_bins():
        pytest.skip("neither valkey nor redis is on this machine")
    with redis_server() as server:
        yield server.url


@pytest.fixture(scope="session", params=["valkey", "redis"])
def redis_url(request):
    """The URL of a running server: Valkey, and again Redis.  They are shared: use channels of your own."""
    binary = redis_bins().get(request.param)
    if binary is None:
        pytest.skip(f"{request.param}-server is not on this machine, and not tested in this run")
    with redis_server(binary) as server:
        yield server.url
