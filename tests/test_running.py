"""What a hub does beside serving goes on, whatever one round of it meets."""

from __future__ import annotations

import asyncio
import contextlib
import io

import pytest

from hub import log
from hub.errors import StoreUnavailable
from hub.running import _every


@pytest.mark.parametrize(
    "failure, level", [(StoreUnavailable("restarting"), "warning"), (RuntimeError("a fault of ours"), "error")]
)
async def test_a_round_that_fails_is_told_and_the_next_one_comes(failure, level):
    lines = io.StringIO()
    log.set_up(form="text", level="warning", key=b"k", stream=lines)
    rounds = []
    third = asyncio.Event()

    async def work():
        rounds.append(True)
        if len(rounds) == 3:
            third.set()
        raise failure

    task = asyncio.create_task(_every(0.001, work))
    async with asyncio.timeout(10):
        await third.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    told = lines.getvalue().splitlines()
    assert len(told) >= 2 and all(f" {level} " in line for line in told), told
    assert "restarting" not in lines.getvalue()
