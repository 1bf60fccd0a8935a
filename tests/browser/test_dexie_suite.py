"""Dexie's own unit tests, in Chromium, plain and with the add-on capturing every table it can sync.

The tests are those of the last release of Dexie whose package has them, and are some years
older than the Dexie they run on; so they fail here and there without the add-on too.  What
counts is that the add-on makes none fail that passes without it, but for those that
``clients/js/suites/dexie/expected.json`` names with the reason.
"""

from __future__ import annotations

import functools
import http.server
import json
import threading
from urllib.parse import quote

import pytest

from tests.browser.rig import HOST
from tests.services import used_service
from tests.test_js import FOLDER, run, why_not

SUITE = FOLDER / "suites" / "dexie"
EXPECTED = json.loads((SUITE / "expected.json").read_text("utf-8"))
NOT_TO_BE_HAD = 3  # how build.mjs ends without the tests
TESTS_MIN = 220
EDITS_MIN = 2_000
WITHIN_S = 240.0

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """Where the pages of the suite are served."""
    if reason := why_not():
        pytest.skip(reason)
    pages = tmp_path_factory.mktemp("dexie")
    built = run("node", str(SUITE / "build.mjs"), str(pages))
    if built.returncode == NOT_TO_BE_HAD:
        pytest.skip(f"the registry does not give Dexie's unit tests: {built.stderr.strip()}")
    assert built.returncode == 0, built.stderr
    version = json.loads((SUITE / "node_modules/dexie-tests/package.json").read_text("utf-8"))["version"]
    used_service("Dexie's unit tests", version)
    with http.server.ThreadingHTTPServer((HOST, 0), functools.partial(_Quiet, directory=str(pages))) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://{HOST}:{server.server_port}"
        server.shutdown()
        serving.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


async def played(chromium, origin: str, asked: str) -> dict:
    """How one run ends: how many tests, which failed and what they said, and what the add-on captured."""
    context = await chromium.new_context()
    try:
        page = await context.new_page()
        await page.goto(f"{origin}/index.html?{asked}")
        await page.wait_for_function("window.finished", timeout=WITHIN_S * 1_000)
        return await page.evaluate("({ tests, failures, captured: captured() })")
    finally:
        await context.close()


async def test_the_add_on_makes_none_of_dexies_own_tests_fail(chromium, origin):
    plain = await played(chromium, origin, "")
    synced = await played(chromium, origin, "with=hub")
    assert plain["tests"] == synced["tests"] >= TESTS_MIN
    assert plain["captured"]["edits"] == 0
    assert synced["captured"]["edits"] >= EDITS_MIN, synced["captured"]
    failed = {failure["test"]: failure["said"] for failure in synced["failures"]}
    more = failed.keys() - {failure["test"] for failure in plain["failures"]}
    assert EXPECTED.keys() <= more, f"these do not fail any more: {EXPECTED.keys() - more}"
    faults = [name for name in sorted(more - EXPECTED.keys()) if await fails_again(chromium, origin, name)]
    assert not faults, "\n\n".join(f"{name}\n{failed[name]}" for name in faults)
    print(
        f"{synced['tests']} tests, {len(failed)} failed, {len(plain['failures'])} without the add-on; captured:",
        synced["captured"],
    )


async def fails_again(chromium, origin: str, name: str) -> bool:
    """Whether a test that fails only with the add-on does so by itself too; some go by the clock of a quiet machine."""
    module, _, test = name.partition(": ")
    asked = f"module={quote(module)}&filter={quote(test)}"
    runs = [await played(chromium, origin, asked + more) for more in ("", "&with=hub")]
    plain, synced = ({failure["test"] for failure in one["failures"]} for one in runs)
    return name in synced - plain


def test_every_expected_failure_has_its_reason():
    assert EXPECTED and all(len(reason) > 20 for reason in EXPECTED.values())
