"""Which store and which bus a hub gets, and what a start does while its database is not there yet."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys

import pytest

from hub.bus.local import LocalBus
from hub.bus.redis import RedisBus
from hub.config import Secret, Settings
from hub.errors import StoreUnavailable
from hub.keepers import BadSetting, make_bus, make_store, open_store, open_to_read
from hub.metrics import Metrics
from hub.secrets import new_secrets
from hub.store.postgres import PostgresStore
from hub.store.sqlite import SqliteStore
from tests.services import database, free_port, postgres, postgres_bins

KEYS = new_secrets(bytes)
NOWHERE = Secret(f"postgresql://hub@127.0.0.1:{free_port()}/hub")


def settings(**changed):
    return dataclasses.replace(Settings(), **changed)


def test_without_urls_a_hub_is_one_folder(tmp_path):
    folder = tmp_path / "data"
    assert isinstance(make_store(settings(data_dir=folder)), SqliteStore)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert isinstance(make_bus(settings(), KEYS, Metrics()), LocalBus)


def test_with_urls_it_is_a_replica_and_makes_no_folder(tmp_path):
    chosen = settings(data_dir=tmp_path / "data", database_url=NOWHERE, redis_url=Secret("redis://127.0.0.1:1"))
    assert isinstance(make_store(chosen), PostgresStore)
    assert isinstance(make_bus(chosen, KEYS, Metrics()), RedisBus)
    assert not (tmp_path / "data").exists()


def test_a_url_that_redis_cannot_use_is_a_sentence_without_its_password():
    chosen = settings(redis_url=Secret("redis://:hunter2@cache/nine"))
    with pytest.raises(BadSetting, match="redis_url: ") as told:
        make_bus(chosen, KEYS, Metrics())
    assert "hunter2" not in str(told.value)


def test_the_hub_of_one_folder_loads_no_driver_of_postgres_and_redis():
    program = "import sys, hub.running; print(sorted({'asyncpg', 'redis'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


async def test_beside_a_running_hub_its_database_can_be_read_and_not_written(tmp_path):
    chosen = settings(data_dir=tmp_path / "data")
    owner = await open_store(chosen)
    try:
        with pytest.raises(StoreUnavailable, match="in use"):
            await open_store(chosen)
        reader = await open_to_read(chosen)
        try:
            await owner.add_invite(b"h" * 32, 2.0)
            assert [invite.token_hash for invite in await reader.invites()] == [b"h" * 32]
            with pytest.raises(StoreUnavailable):
                await reader.add_invite(b"i" * 32, 2.0)
        finally:
            await reader.close()
        assert len(await owner.invites()) == 1
    finally:
        await owner.close()


async def test_a_start_waits_for_its_database():
    if not postgres_bins():
        pytest.skip("postgres is not on this machine")
    with postgres() as server:
        async with database(server) as url:
            server.stop()
            chosen = settings(database_url=Secret(url))
            opening = asyncio.create_task(open_store(chosen, within_s=30.0))
            with pytest.raises(StoreUnavailable):
                await open_store(chosen)  # the same, by one that does not wait
            assert not opening.done()
            await asyncio.to_thread(server.start)
            store = await opening
            await store.ping()
            await store.close()


async def test_a_start_does_not_wait_for_ever():
    began = asyncio.get_running_loop().time()
    with pytest.raises(StoreUnavailable):
        await open_store(settings(database_url=NOWHERE), within_s=1.0)
    assert asyncio.get_running_loop().time() - began >= 1.0
