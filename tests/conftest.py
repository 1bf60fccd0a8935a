"""What every test run shares: skips that count, nothing left behind, and a last word on what was used.

``HUB_TEST_REQUIRE`` turns skips into failures: ``all``, or a list of names with
commas; a skip whose reason has one of the names fails.  Continuous integration
sets it, so that a test which quietly stopped running is noticed there.
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
    terminalreporter.write_line("used: " + ", ".join(used))


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
