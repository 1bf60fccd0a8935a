"""One Chromium and one hub for all tests of this folder; each test has profiles of its own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.browser.rig import ARGUMENTS, chromium_program, hub_rig, used_chromium


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(120))


@pytest.fixture(scope="session")
async def playwright_driver():
    """The browser's driver; tests that need a browser with other switches start one of their own."""
    api = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
    if not chromium_program():
        pytest.skip("chromium is not on this machine")
    used_chromium()
    async with api.async_playwright() as driver:
        yield driver


@pytest.fixture(scope="session")
async def chromium(playwright_driver):
    browser = await playwright_driver.chromium.launch(executable_path=chromium_program(), args=ARGUMENTS)
    yield browser
    await browser.close()


@pytest.fixture(scope="session")
async def sqlite_rig(tmp_path_factory):
    """A hub on SQLite that goes on for the whole run."""
    async with hub_rig(tmp_path_factory.mktemp("hub")) as rig:
        yield rig


@pytest.fixture
async def rig(sqlite_rig):
    """The hub on SQLite; the test's profiles are closed, and looked at, after it."""
    yield sqlite_rig
    await sqlite_rig.close_profiles()
    assert not sqlite_rig.complaints()


@pytest.fixture
async def cluster(tmp_path, one_pg_server, one_redis_url):
    """Two replicas on Postgres and Redis, each with sites of its own."""
    from tests.services import database

    async with (
        database(one_pg_server) as url,
        hub_rig(tmp_path, replicas=2, HUB_DATABASE_URL=url, HUB_REDIS_URL=one_redis_url) as rig,
    ):
        yield rig
        await rig.close_profiles()
        assert not rig.complaints()


@pytest.fixture(scope="session")
def measures():
    """``measures(name, **figures)`` prints them, and keeps them in the file that HUB_MEASURES names."""

    def tell(name: str, **figures: float) -> None:
        line = {"what": name} | {key: round(value, 1) for key, value in figures.items()}
        print(json.dumps(line))
        if file := os.environ.get("HUB_MEASURES"):
            with Path(file).open("a") as log:
                log.write(json.dumps(line) + "\n")

    return tell
