"""The command ``hub``, as an operator and a health check use it: words in, one sentence and an exit status out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys

import pytest

from hub.cli import _first_of, main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A hub's folder, and nothing of this machine's settings."""
    for name in [name for name in os.environ if name.startswith("HUB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HUB_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.asynccontextmanager
async def serving(**environment):
    """``hub serve`` as a process that has said that it is up."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hub", "serve", stdout=subprocess.PIPE, env=os.environ | environment
    )
    try:
        async with asyncio.timeout(30):
            while b"is up on" not in await process.stdout.readline():
                assert process.returncode is None
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def said(*words):
    """Exit status and output of one command, run as a process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hub", *words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_health_is_0_while_the_hub_is_ready_and_1_when_nobody_answers(folder, monkeypatch):
    monkeypatch.setenv("HUB_PORT", str(free_port()))
    assert (await said("health"))[0] == 1
    async with serving() as hub:
        assert await said("health") == (0, "ready\n")
        hub.send_signal(signal.SIGTERM)
        assert await hub.wait() == 0
    assert (await said("health"))[0] == 1


def test_secrets_are_made_once_and_never_over_older_ones(folder, capsys):
    folder.mkdir()
    assert main(["make-secrets"]) == 0
    made = (folder / "secrets.toml").read_bytes()
    assert main(["make-secrets"]) == 1
    assert (folder / "secrets.toml").read_bytes() == made
    assert made.split(b'internal_key = "')[1][:64].decode() not in capsys.readouterr().out


def test_migrate_tells_a_hub_on_sqlite_that_it_need_not(folder, capsys):
    assert main(["migrate"]) == 1
    assert "database_url is not set" in capsys.readouterr().err


def test_wrong_settings_end_every_command_with_2_and_a_sentence(folder, monkeypatch, capsys):
    monkeypatch.setenv("HUB_REDIS_URL", "cache:6379")
    for words in ("serve", "check", "health", "make-secrets", "migrate", "admin invite"):
        assert main(words.split()) == 2
        assert "HUB_REDIS_URL" in (error := capsys.readouterr().err) or "redis_url" in error


async def test_the_first_of_two_ends_the_other():
    ended = []

    async def for_ever():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    await _first_of(for_ever(), asyncio.sleep(0))
    assert ended == [True]


async def test_what_the_first_one_raises_is_raised():
    async def fails():
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        await _first_of(fails(), asyncio.Event().wait())
