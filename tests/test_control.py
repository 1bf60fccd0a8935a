"""A word with the hub that runs: who may ask, what comes back, and what is left when it ends."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat

import pytest

from hub.control import QUESTION_BYTES_MAX, SOCKET, NobodyThere, ask, listening, somebody_listens
from hub.errors import Refusal, StoreUnavailable


async def echo(verb, arguments):
    return {"verb": verb, "arguments": dict(arguments)}


async def raw(folder, line):
    """What comes back for one line, as bytes."""
    reader, writer = await asyncio.open_unix_connection(folder / SOCKET)
    writer.write(line)
    if not line.endswith(b"\n"):
        writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


async def test_a_verb_goes_in_and_its_result_comes_out(tmp_path):
    async with listening(tmp_path, echo):
        assert await somebody_listens(tmp_path)
        asked = {"account_id": "3f", "plan": "für Familie", "now": True, "paid_until": None, "at": 0.5}
        assert await ask(tmp_path, "set", asked) == {"verb": "set", "arguments": asked}


async def test_many_can_ask_at_once_and_a_slow_one_keeps_nobody_waiting(tmp_path):
    go = asyncio.Event()

    async def carry_out(verb, arguments):
        if verb == "slow":
            await go.wait()
        return {"verb": verb}

    async with listening(tmp_path, carry_out):
        slow = asyncio.create_task(ask(tmp_path, "slow", {}))
        assert await asyncio.gather(*(ask(tmp_path, f"v{n}", {}) for n in range(20)))
        assert not slow.done()
        go.set()
        assert await slow == {"verb": "slow"}


async def test_a_refusal_comes_out_as_one(tmp_path):
    async def refuse(verb, arguments):
        raise Refusal("not_found", "no such account")

    async with listening(tmp_path, refuse):
        with pytest.raises(Refusal, match="no such account") as told:
            await ask(tmp_path, "suspend", {})
    assert told.value.code == "not_found"


async def test_a_store_that_does_not_answer_comes_out_as_that(tmp_path):
    async def fail(verb, arguments):
        raise StoreUnavailable("the database failed")

    async with listening(tmp_path, fail):
        with pytest.raises(StoreUnavailable, match="the database failed"):
            await ask(tmp_path, "suspend", {})


async def test_a_fault_of_ours_tells_nothing_of_itself(tmp_path):
    async def fail(verb, arguments):
        raise RuntimeError("secret detail")

    async with listening(tmp_path, fail):
        with pytest.raises(Refusal, match="something went wrong") as told:
            await ask(tmp_path, "suspend", {})
        assert told.value.code == "internal" and "secret" not in str(told.value)
        with pytest.raises(Refusal):  # and the socket lives
            await ask(tmp_path, "suspend", {})


@pytest.mark.parametrize(
    "line",
    [b"nonsense\n", b"[]\n", b'{"verb": "stats"}\n', b'{"verb": 5, "arguments": {}}\n', b'{"verb": "a"', b"\xff\n"],
)
async def test_what_makes_no_sense_is_refused(tmp_path, line):
    async with listening(tmp_path, echo):
        assert json.loads(await raw(tmp_path, line))["refused"] == "bad_request"


async def test_a_question_longer_than_the_limit_is_refused_and_one_that_fits_is_not(tmp_path):
    around = len(b'{"verb": "a", "arguments": {"t": ""}}')
    async with listening(tmp_path, echo):
        fits = b'{"verb": "a", "arguments": {"t": "%s"}}\n' % (b"x" * (QUESTION_BYTES_MAX - around))
        assert "result" in json.loads(await raw(tmp_path, fits))
        longer = b'{"verb": "a", "arguments": {"t": "%s"}}\n' % (b"x" * (QUESTION_BYTES_MAX - around + 1))
        assert json.loads(await raw(tmp_path, longer))["refused"] == "bad_request"


async def test_an_answer_of_megabytes_arrives(tmp_path):
    async def much(verb, arguments):
        return {"text": "x" * 3_000_000}

    async with listening(tmp_path, much):
        assert len((await ask(tmp_path, "accounts", {}))["text"]) == 3_000_000


async def test_only_its_own_user_can_enter(tmp_path):
    async with listening(tmp_path, echo):
        mode = (tmp_path / SOCKET).stat().st_mode
        assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600


async def test_the_umask_is_as_it_was(tmp_path):
    before = os.umask(0o027)
    try:
        async with listening(tmp_path, echo):
            assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


async def test_after_the_end_no_socket_is_left_and_nobody_is_there(tmp_path):
    async with listening(tmp_path, echo):
        pass
    assert list(tmp_path.iterdir()) == []
    assert not await somebody_listens(tmp_path)
    with pytest.raises(NobodyThere):
        await ask(tmp_path, "stats", {})
    with pytest.raises(NobodyThere):
        await ask(tmp_path / "nowhere", "stats", {})


async def test_a_socket_that_a_killed_hub_left_behind_is_nobody_and_is_replaced(tmp_path):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / SOCKET))
    assert not await somebody_listens(tmp_path)
    with pytest.raises(NobodyThere):
        await ask(tmp_path, "stats", {})
    async with listening(tmp_path, echo):
        assert await ask(tmp_path, "stats", {})


async def test_a_folder_with_a_long_name_is_no_obstacle(tmp_path):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    async with listening(folder, echo):
        assert await ask(folder, "stats", {})
    assert list(folder.iterdir()) == []


async def test_whoever_waits_while_the_hub_goes_down_is_told(tmp_path):
    begun = asyncio.Event()

    async def never(verb, arguments):
        begun.set()
        await asyncio.Event().wait()

    async with listening(tmp_path, never):
        waiting = asyncio.create_task(ask(tmp_path, "accounts", {}))
        await begun.wait()
    with pytest.raises(StoreUnavailable, match="look whether it was done"):
        await waiting


async def test_who_only_looks_whether_somebody_listens_carries_nothing_out(tmp_path):
    carried_out = []

    async def note(verb, arguments):
        carried_out.append(verb)
        return {}

    async with listening(tmp_path, note):
        assert await somebody_listens(tmp_path)
        await ask(tmp_path, "stats", {})
    assert carried_out == ["stats"]
