"""What a hub serves on: the loop, its read buffer, how soon threads take turns, and the collector of garbage."""

from __future__ import annotations

import asyncio
import gc
import sys
from pathlib import Path

import pytest

from hub.loop import READ_BYTES_MAX, collect_seldom, new_loop, stock_loop, take_turns_soon
from tests.hub_rig import hub_in
from tests.test_server import anna, second_device


def test_where_uvloop_is_installed_a_hub_serves_on_it() -> None:
    uvloop = pytest.importorskip("uvloop")
    made = new_loop()
    assert isinstance(made, uvloop.Loop)
    made.close()


def test_elsewhere_it_is_the_standard_librarys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    made = new_loop()
    assert type(made).__module__.startswith("asyncio.")
    made.close()


def test_the_standard_librarys_reads_at_most_64_kib_at_once() -> None:
    sizes = []

    class Reader(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            sizes.append(len(data))

    async def scenario() -> None:
        server = await asyncio.get_running_loop().create_server(Reader, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(bytes(2_000_000))
        async with asyncio.timeout(5):
            while sum(sizes) < 2_000_000:
                await asyncio.sleep(0.001)
        writer.close()
        await writer.wait_closed()
        server.close()

    with asyncio.Runner(loop_factory=stock_loop) as runner:
        runner.run(scenario())
    assert max(sizes) <= READ_BYTES_MAX == 65_536


def test_a_python_without_that_buffer_is_served_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("asyncio.selector_events._SelectorTransport")
    stock_loop().close()


@pytest.mark.parametrize("make", [stock_loop, new_loop])
def test_a_hub_serves_on_both(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    async def scenario() -> None:
        async with hub_in(tmp_path / "data") as place:
            phone = await anna(place)
            laptop = await second_device(place, phone)
            await laptop.follow()
            draft = phone.draft()
            assert (await phone.append(draft)).answers[0].seq == 1
            assert [change.sealed for change in await laptop.changes(1)] == [draft]
            await laptop.hang_up()
        assert await phone.closing() == 4000

    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(scenario())


def test_a_thread_gets_its_turn_within_a_millisecond() -> None:
    before = sys.getswitchinterval()
    try:
        take_turns_soon()
        assert sys.getswitchinterval() <= 0.001
    finally:
        sys.setswitchinterval(before)


def test_garbage_is_looked_for_seldom_and_still_found() -> None:
    before = gc.get_threshold()
    try:
        collect_seldom()
        assert gc.get_threshold()[0] >= 10_000 and gc.isenabled() and gc.get_freeze_count() > 0
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
