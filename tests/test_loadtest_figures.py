"""What a measurement says is what was measured, and the logs it makes are those a hub would have."""

import asyncio
import importlib
import random
import select
import sys
from contextlib import asynccontextmanager
from types import ModuleType

import pytest

from hub.store import Append
from hub.store.postgres import PostgresStore
from hub.store.sqlite import SqliteStore
from loadtest import __main__ as command
from loadtest import figures, flame
from loadtest.alone import alone
from loadtest.crowd import Crowd
from loadtest.figures import Figures
from loadtest.filling import WRITES_EACH, Filler, append_all, begin, fill_postgres, fill_sqlite, logs_of, sealed_puts
from loadtest.seed import seed
from tests.services import database

needs_epoll = pytest.mark.skipif(not hasattr(select, "epoll"), reason="epoll is not on this machine: Linux has it")
NOW = 1_800_000_000.5
ACCOUNTS, UPTO = 3, 10


# --- percentiles -------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 99, 100, 101, 999, 1_000, 1_001])
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(count):
    chance = random.Random(count)
    values = [chance.uniform(0, 1_000) for _ in range(count)]
    for percent in (0.1, 1, 50, 90, 99, 99.9, 100):
        smallest = min(
            each for each in values if sum(other <= each for other in values) * 100 >= percent * count - 1e-9
        )
        assert figures.percentile(sorted(values), percent) == smallest


def test_of_a_thousand_values_999_percent_is_the_one_before_the_last():
    values = list(range(1, 1_001))
    found = figures.percentiles(values, "ack", "ms")
    assert found == {
        "ack_p50_ms": 500, "ack_p90_ms": 900, "ack_p95_ms": 950, "ack_p99_ms": 990, "ack_p99.9_ms": 999,
        "ack_last_ms": 1_000,
    }  # fmt: skip


def test_a_percentile_is_not_moved_by_what_floats_cannot_say():
    # 41,000 * 99.9 / 100 is a hair above 40,959.
    assert figures.percentile(range(1, 41_001), 99.9) == 40_959


def test_nothing_measured_has_no_percentiles_and_no_curve():
    assert figures.percentiles([], "ack", "ms") == {}
    assert figures.distribution([]) == []


def test_a_curve_ends_with_the_largest_value_and_never_has_more_points_than_asked_for():
    for count in (1, 5, 200, 201, 5_000):
        curve = figures.distribution(list(range(count)), points=200)
        assert len(curve) == min(count, 200)
        assert curve[-1] == (count - 1, 1.0)
        assert all(share == (value + 1) / count for value, share in curve)


def test_of_several_runs_each_value_is_the_median_of_its_own():
    runs = [Figures("x", {"n": 1}, {"a": a, "b": b}, [note]) for a, b, note in ((1, 9, "p"), (5, 2, "q"), (3, 4, "p"))]
    found = figures.medians(runs)
    assert found.values == {"a": 3, "b": 4}
    assert found.notes == ["medians of 3 runs", "p", "q"]
    assert figures.medians(runs[:1]).notes == ["p"]


# --- what is written ---------------------------------------------------------------------------


def test_what_was_written_is_read_back(tmp_path):
    sitting = [
        Figures("steady", {"store": "postgres", "replicas": 2, "check": False, "floor": None}, {"a_ms": 0.125}, ["so"]),
        Figures("storm", values={"b": 3.0}, curves={"back": [(0.25, 0.5), (1.5, 0.99995), (2.0, 1.0)]}),
    ]
    figures.write(tmp_path / "new", sitting, {"commit": "abc"})
    assert figures.read(tmp_path / "new") == ({"commit": "abc"}, sitting)
    text = (tmp_path / "new" / "figures.txt").read_text()
    for said in ("commit: abc", "steady  [store=postgres, replicas=2, check=False]", "0.125", "* so"):
        assert said in text


def test_the_head_names_machine_commit_and_date():
    head = figures.head()
    assert all(head[name] for name in ("date", "commit", "cores", "processor", "memory", "system", "python"))


def test_no_figure_that_is_no_number_is_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        figures.write(tmp_path, [Figures("x", values={"a": float("nan")})])


def test_every_scenario_has_its_options_and_a_sentence(capsys):
    for name in command.modules():
        with pytest.raises(SystemExit) as ended:
            command.main([name, "--help"])
        assert ended.value.code == 0
        assert "--into" in capsys.readouterr().out


def test_one_failing_scenario_does_not_keep_the_others_from_being_measured(monkeypatch, capsys, tmp_path):
    class Good(ModuleType):
        """A scenario."""

        @staticmethod
        def add_arguments(parser):
            parser.add_argument("--seconds", type=float, default=5.0)

        @staticmethod
        async def run(options):
            return [Figures("good", {"seconds": options.seconds}, {"a": 1.0})]

        SHORT = "--seconds 2 --repeat 3"
        FULL = ("", "--seconds 7")

    class Bad(Good):
        @staticmethod
        async def run(options):
            raise RuntimeError("no disk")

    monkeypatch.setattr(command, "modules", lambda: {"bad": "bad", "good": "good"})
    monkeypatch.setitem(sys.modules, "bad", Bad("bad"))
    monkeypatch.setitem(sys.modules, "good", Good("good"))
    assert command.main(["short", "--into", str(tmp_path)]) == 1
    assert [each.scenario for each in figures.read(tmp_path)[1]] == ["good"]
    assert figures.read(tmp_path)[1][0].settings == {"seconds": 2.0}
    assert "no disk" in capsys.readouterr().err
    assert command.main(["full", "--without", "bad", "--into", str(tmp_path)]) == 0
    assert [each.settings for each in figures.read(tmp_path)[1]] == [{"seconds": 5.0}, {"seconds": 7.0}]


@pytest.mark.parametrize("name", command.modules())
def test_the_sittings_ask_for_nothing_a_scenario_does_not_know(name):
    module = importlib.import_module(command.modules()[name])
    for said in (getattr(module, "SHORT", ""), getattr(module, "FULL", "")):
        for words in (said,) if isinstance(said, str) else said:
            options = command._parser(command.modules(), name).parse_args([name, *words.split()])
            assert options.repeat >= 1 and options.into is None


# --- devices that come and go ------------------------------------------------------------------


async def one_change_each(store, devices):
    for device in devices[::2]:
        await append_all(store, device, sealed_puts(device, 1))


@needs_epoll
async def test_devices_that_were_cut_off_come_back_where_they_were():
    async with alone(store="sqlite", accounts=2, devices_each=2, fill=one_change_each) as here:
        crowd = Crowd(here.url, here.devices)
        try:
            await asyncio.to_thread(crowd.bring_in)
            assert (crowd.caught_up, crowd.changes, crowd.dials) == (4, 4, 4)
            crowd.cut()
            assert crowd.caught_up == 0
            crowd.dial()
            assert await asyncio.to_thread(crowd.run, lambda: crowd.caught_up == 4, 20.0)
            assert (crowd.changes, crowd.dials, dict(crowd.counts)) == (4, 8, {})
            assert all(list(link.cursors.values()) == [1] for link in crowd.links)
        finally:
            crowd.close()


@needs_epoll
async def test_a_device_that_is_sent_away_is_counted_as_told_and_comes_again():
    async with alone(store="sqlite", accounts=1, devices_each=2, HUB_SESSIONS_MAX="1") as here:
        crowd = Crowd(here.url, here.devices)
        try:
            crowd.dial()
            assert await asyncio.to_thread(crowd.run, lambda: crowd.dials > 2, 20.0)
            assert crowd.caught_up <= 1
            assert set(crowd.counts) <= {"HTTP 503", "closing 4013 overloaded"} and crowd.counts
            assert crowd.announced == sum(crowd.counts.values())
        finally:
            crowd.close()


@needs_epoll
async def test_a_device_the_hub_does_not_know_was_not_told_to_come_back():
    async with alone(store="sqlite", accounts=1, devices_each=1) as here:
        crowd = Crowd(here.url, _devices())
        try:
            crowd.dial()
            assert await asyncio.to_thread(crowd.run, lambda: bool(crowd.counts), 20.0)
            assert [why.split()[:2] for why in crowd.counts] == [["closing", "4501"]]
            assert crowd.announced == 0
        finally:
            crowd.close()


@needs_epoll
@pytest.mark.parametrize(
    ("name", "words", "found"),
    [
        ("cold_sync", "--store sqlite --changes 2000 --rounds 1", {"changes_per_s", "of_raw_percent", "few_of_many_x"}),
        ("idle", "--store sqlite --devices 20 --seconds 1", {"session_kib", "hub_core_percent"}),
        (
            "growth",
            "--store sqlite --sizes 400 800 --base 400 --accounts 10 --rounds 1",
            {"append_400_x", "append_1_x", "page_x", "tail_page_x", "compact_x"},
        ),
        ("floors", "--only sqlite --rows 2000", {"inserts_per_s", "rows_per_s"}),
        ("floors", "--only websockets --seconds 0.2 --connections 6", {"messages_per_s", "server_us"}),
    ],
)
async def test_a_small_run_has_the_figures_it_is_read_for(name, words, found):
    module = importlib.import_module(command.modules()[name])
    options = command._parser(command.modules(), name).parse_args([name, *words.split()])
    for each in await module.run(options):
        assert found <= each.values.keys()
        assert all(value >= 0 for value in each.values.values())


# --- logs that were filled ---------------------------------------------------------------------


@asynccontextmanager
async def two_stores(kind, tmp_path, request):
    """Two stores that hold the same accounts and devices; how the second is filled."""
    if kind == "postgres":
        server = request.getfixturevalue("one_pg_server")
        async with database(server) as one, database(server) as other:
            yield PostgresStore(one), PostgresStore(other), other
    else:
        other = tmp_path / "other.sqlite3"
        yield SqliteStore(tmp_path / "one.sqlite3"), SqliteStore(other), other


async def everything(store, devices):
    """All rows, and what is derived from them."""
    async with store.dump() as rows:
        found = [row async for row in rows]
    for device in devices:
        log = logs_of([device])[0]
        found.append(await store.spaces(device.account_id))
        found.append(await store.states(device.account_id, log.key.space_id, device.device_id, None))
        for live_only in (True, False):
            found.append(await store.read(log.key, 0, live_only=live_only, changes_max=500, bytes_max=10**6))
    return found


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_a_filled_log_is_the_one_that_the_store_would_have_written(kind, tmp_path, request):
    async with two_stores(kind, tmp_path, request) as (one, other, where):
        await one.open()
        await other.open()
        devices = await seed(one, ACCOUNTS, 1)
        async with one.dump() as rows:
            await other.load([row async for row in rows])
        await other.end_load({device.account_id for device in devices})

        appended, noise = logs_of(devices), random.Random(1).randbytes(100_000)
        filler = Filler(noise)
        await begin(one, appended, filler, NOW)
        for first in range(WRITES_EACH + 1, UPTO + 1, WRITES_EACH):
            for log in appended:
                for seq in range(first, first + WRITES_EACH):
                    draft = filler.draft(log, seq)
                    append = Append(log.key.account_id, log.key.space_id, log.device.device_id, [draft])
                    assert [answer.seq for answer in (await one.append([append], NOW))[0].answers] == [seq]

        filled, filler = logs_of(devices), Filler(noise)
        await begin(other, filled, filler, NOW)
        if kind == "postgres":
            await fill_postgres(where, filled, UPTO, filler, NOW)
        else:
            await other.close()
            fill_sqlite(where, filled, UPTO, filler, NOW)
            other = SqliteStore(where)
            await other.open()
        assert await everything(other, devices) == await everything(one, devices)

        # And the log goes on from there: the record written last is replaced, and compaction finds what was.
        append = Append(
            filled[0].key.account_id, filled[0].key.space_id, devices[0].device_id, [filler.draft(filled[0], UPTO + 1)]
        )
        assert [answer.seq for answer in (await other.append([append], NOW))[0].answers] == [UPTO + 1]
        assert await other.compact(NOW + 1, 1_000) == ACCOUNTS * UPTO // WRITES_EACH
        await one.close()
        await other.close()


def test_changes_sealed_for_a_log_are_of_so_many_records():
    (device,) = _devices()
    drafts = sealed_puts(device, 6, records=2)
    assert len({draft.header.record_id for draft in drafts}) == 2
    assert [draft.header.counter for draft in drafts] == [1, 2, 3, 4, 5, 6]
    assert {len(draft.sealed) for draft in drafts} == {408}
    assert len({draft.header.record_id for draft in sealed_puts(device, 6)}) == 6


def _devices():
    from loadtest.seed import SeededDevice

    return [SeededDevice(b"a" * 16, b"d" * 16, b"s" * 32, b"k" * 32)]


def test_a_flame_graph_gives_each_call_its_share_of_the_samples():
    stacks = [
        "main (a.py:1);read (b.py:7) 3",
        "main (a.py:2);read (b.py:9);parse (c.py:1) 1",
        "main (a.py:2);write (b.py:9) 4",
    ]
    assert flame.calls(stacks) == [
        flame.Call("main (a.py)", 0, 0.0, 1.0),
        flame.Call("read (b.py)", 1, 0.0, 0.5),
        flame.Call("parse (c.py)", 2, 0.0, 0.125),
        flame.Call("write (b.py)", 1, 0.5, 0.5),
    ]
    assert flame.calls(stacks, "read (b.py)") == [flame.Call("parse (c.py)", 0, 0.0, 1.0)]
    with pytest.raises(ValueError, match="no stack has"):
        flame.calls(stacks, "gone (x.py)")
    assert flame.drawn(flame.calls(["<a> & b (x.py:1) 1"])).count("&lt;a&gt; &amp; b") == 2


def test_a_number_is_shown_with_as_many_digits_as_it_deserves():
    shown = figures.table([Figures("x", values={"a": 12_345.6, "b": 0.01234, "c": 250.26, "d": 7.0})], {})
    assert [line.split()[1] for line in shown.splitlines() if line.startswith("  ")] == [
        "12,346",
        "0.0123",
        "250.3",
        "7",
    ]
