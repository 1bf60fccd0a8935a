"""The JavaScript client's own tests, as part of this suite: a file of theirs is a test of ours.

Needs Node 20 or newer; its packages are installed from the lock file when they are not there.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.services import used_service

FOLDER = Path(__file__).parent.parent / "clients" / "js"
FILES = sorted((FOLDER / "test").glob("*.test.js"))
DEMO = FOLDER.parent / "demo"
DEMO_FILES = sorted((DEMO / "test").glob("*.test.js"))
DASHBOARD_FILES = sorted((FOLDER.parent / "dashboard" / "test").glob("*.test.js"))
NODE_MAJOR = 20
AT_ONCE = 2
STAMP = FOLDER / "node_modules" / ".package-lock.json"  # npm writes it last

pytestmark = pytest.mark.timeout(300)


@functools.cache
def why_not() -> str:
    """Why the tests cannot run here; empty when they can."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        return "node and npm are not on this machine"
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version[1:].partition(".")[0]) < NODE_MAJOR:
        return f"node {version} is older than {NODE_MAJOR}"
    used_service("Node", version[1:])
    if not STAMP.exists() or STAMP.stat().st_mtime < (FOLDER / "package-lock.json").stat().st_mtime:
        subprocess.run([npm, "ci", "--no-audit", "--no-fund", "--loglevel=error"], cwd=FOLDER, check=True)
        STAMP.touch()
    return ""


@pytest.fixture(autouse=True, scope="module")
def node():
    if reason := why_not():
        pytest.skip(reason)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    # The tests that speak with a Python device or hub use this very interpreter.
    env = os.environ | {"HUB_PYTHON": sys.executable, "NODE_NO_WARNINGS": "1"}
    return subprocess.run(words, cwd=FOLDER, env=env, capture_output=True, text=True)


def test_there_are_tests():
    assert len(FILES) > 15


@pytest.fixture(scope="module")
def runs(request, node):
    """What was asked for, under way: the files wait more than they work, so two at a time."""
    files = [item.callspec.params["file"] for item in request.session.items if item.name.startswith("test_javascript[")]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {file: pool.submit(run, "node", "--test", "--test-reporter=tap", str(file)) for file in files}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_javascript(file, runs):
    done = runs[file].result()
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]
    counts = {
        name: int(number) for name, number in re.findall(r"^# (tests|pass|skipped|todo) (\d+)", done.stdout, re.M)
    }
    assert counts["pass"] == counts["tests"] > 0, f"not all ran: {counts}\n{done.stdout[-4_000:]}"
    assert counts["skipped"] == counts["todo"] == 0


@pytest.mark.parametrize("file", DEMO_FILES, ids=lambda path: path.name)
def test_demo(file):
    done = run("node", "--import", str(DEMO / "test" / "client.js"), "--test", "--test-reporter=tap", str(file))
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]
    assert re.search(r"^# pass [1-9]", done.stdout, re.M)


@pytest.mark.parametrize("file", DASHBOARD_FILES, ids=lambda path: path.name)
def test_dashboard(file):
    done = run("node", "--test", "--test-reporter=tap", str(file))
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]
    assert re.search(r"^# pass [1-9]", done.stdout, re.M)


def test_the_types_hold():
    done = run("npm", "run", "--silent", "types")
    assert done.returncode == 0, done.stdout[-8_000:]
