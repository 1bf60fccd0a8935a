"""Redis carries notices between replicas: the exam, and what must hold when it fails or lies."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import io
import itertools
import json
import logging
import os
import ssl
import time
import traceback
from collections import Counter
from pathlib import Path

import pytest
import redis.asyncio
import structlog
import trustme
from redis.crc import key_slot

from hub import log
from hub.bus import Bus, HeadMoved, NoticesLost, SessionOpened, Signalled
from hub.bus.parcel import INLINE_BYTES_MAX, Parcels
from hub.bus.redis import DELIVER_BATCH, LOST_ACCOUNTS_MAX, RedisBus
from hub.bus.redis_link import UNANSWERED_BYTES_MAX, UNANSWERED_MAX
from tests.bus_exam import WITHIN_S, BusExam, Hearer, head_moved, new_id
from tests.services import FaultProxy, free_port, redis_bins, redis_cluster, redis_server

KEY = os.urandom(32)
NAMES = Parcels(KEY, bytes(16))
LOST = NoticesLost()


class Told:
    """What a bus says of itself."""

    def __init__(self):
        self.outcomes = Counter()
        self.connected = []

    def counted(self, outcome, number):
        self.outcomes[outcome] += number


@contextlib.asynccontextmanager
async def opened(url, key=KEY):
    told = Told()
    bus = RedisBus(url, key, connected=told.connected.append, counted=told.counted)
    bus.told = told
    await bus.open()
    try:
        yield bus
    finally:
        await bus.close()


async def until(holds, within_s=WITHIN_S):
    """Wait until ``holds()``; how many seconds that took."""
    started = time.monotonic()
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.005)
    return time.monotonic() - started


def through(line):
    return f"redis://127.0.0.1:{line.port}"


@contextlib.asynccontextmanager
async def beside_a_line(port):
    """A line that can be cut, the bus behind it, and the bus of another replica that has its own."""
    url = f"redis://127.0.0.1:{port}"
    async with FaultProxy("127.0.0.1", port) as line, opened(through(line)) as behind, opened(url) as direct:
        yield line, behind, direct


def port_of(url):
    return int(url.rpartition(":")[2].partition("/")[0])


def program(name):
    binary = redis_bins().get(name)
    if binary is None:
        pytest.skip(f"{name}-server is not on this machine, and not tested in this run")
    return binary


@pytest.fixture(params=["valkey", "redis"])
def server(request):
    """A server of the test's own, to do with what it likes."""
    with redis_server(program(request.param)) as server:
        yield server


@pytest.fixture
def one_server():
    """The same, where it does not matter which one."""
    if not redis_bins():
        pytest.skip("neither valkey nor redis is on this machine")
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module", params=["valkey", "redis"])
def cluster(request):
    with redis_cluster(program(request.param)) as nodes:
        yield nodes


@pytest.fixture(autouse=True)
def lines():
    """What the hub logs, as a list of lines; and nothing that is slower than the hub's own log."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    log.set_up(form="json", level="debug", key=b"k" * 32, stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


class ManyReplicasExam(BusExam):
    """What a bus of one process cannot be asked."""

    async def make(self) -> tuple[Bus, Bus]:
        here, there = RedisBus(self.url, KEY), RedisBus(self.url, KEY)
        await here.open()
        await there.open()
        assert here.connected and there.connected
        return here, there

    async def test_what_is_published_before_the_close_is_still_carried(self, replicas):
        here, there = replicas
        account, ear = new_id(), Hearer()
        await there.subscribe(account, ear)
        # More than a socket takes at once.
        notices = [head_moved(number, os.urandom(16_000)) for number in range(1, 501)]
        for notice in notices:
            here.publish(account, notice)
        await here.close()
        assert [await ear.next() for _ in notices] == notices

    async def test_changes_go_along_up_to_the_bound_and_no_byte_further(self, replicas):
        here, there = replicas
        account, near, far = new_id(), Hearer(), Hearer()
        await here.subscribe(account, near)
        await there.subscribe(account, far)
        whole, large = head_moved(1, os.urandom(INLINE_BYTES_MAX)), head_moved(2, os.urandom(INLINE_BYTES_MAX + 1))
        here.publish(account, whole)
        here.publish(account, large)
        assert [await far.next(), await far.next()] == [
            whole,
            HeadMoved(large.space_id, large.collection_id, large.incarnation, large.after, large.head, ()),
        ]
        assert [await near.next(), await near.next()] == [whole, large], "here nothing has to travel"

    async def test_a_bus_can_be_closed_and_opened_again(self, replicas):
        here, there = replicas
        account, ear = new_id(), Hearer()
        await there.close()
        assert not there.connected
        await there.open()
        assert there.connected
        await there.subscribe(account, ear)
        here.publish(account, notice := head_moved(1))
        assert await ear.next() == notice


class TestOneServer(ManyReplicasExam):
    @pytest.fixture(autouse=True)
    def server(self, redis_url):
        self.url = redis_url


class TestCluster(ManyReplicasExam):
    @pytest.fixture(autouse=True)
    def server(self, cluster):
        self.url = cluster.url


# --- a Redis that lies -----------------------------------------------------------------------


async def test_a_parcel_without_the_right_mac_is_dropped_counted_and_logged_once(redis_url, lines):
    account, ear = new_id(), Hearer()
    stranger = redis.asyncio.Redis.from_url(redis_url)
    async with opened(redis_url) as bus, stranger:
        await bus.subscribe(account, ear)
        channel = NAMES.channel(account)
        forged = Parcels(os.urandom(32), os.urandom(16)).wrap(channel, LOST)
        good = Parcels(KEY, os.urandom(16)).wrap(channel, head_moved(1))
        for payload in (forged, b"", b"\x01", b"hello", good[:-1], good + b"\0", b"\x02" + good[1:]):
            assert await stranger.publish(channel, payload) == 1
        assert await stranger.publish(channel, good) == 1
        assert (await ear.next()).head == 1
        assert ear.rest() == []
        assert bus.told.outcomes == {"refused": 7, "received": 1}
    refused = [line for line in lines() if "refused" in line["event"]]
    assert len(refused) == 1
    assert refused[0].keys() == {"time", "level", "event", "bus"}


async def test_a_parcel_repeated_on_another_accounts_channel_is_refused(redis_url):
    mine, other, ear = new_id(), new_id(), Hearer()
    stranger = redis.asyncio.Redis.from_url(redis_url)
    async with opened(redis_url) as here, opened(redis_url) as there, stranger:
        await there.subscribe(other, ear)
        seen = stranger.pubsub()
        await seen.subscribe(NAMES.channel(mine))
        assert (await seen.get_message(timeout=WITHIN_S))["type"] == "subscribe"
        here.publish(mine, head_moved(1))
        parcel = (await seen.get_message(timeout=WITHIN_S))["data"]
        for channel in (NAMES.channel(other), NAMES.everyone):
            assert await stranger.publish(channel, parcel) >= 1
        here.publish(other, fence := head_moved(2))
        assert await ear.until(fence) == [fence]
        assert there.told.outcomes["refused"] == 2
        await seen.aclose()


async def test_two_hubs_share_one_redis_and_hear_nothing_of_each_other(redis_url):
    account, ear = new_id(), Hearer()
    async with opened(redis_url) as ours, opened(redis_url, os.urandom(32)) as theirs, opened(redis_url) as there:
        await there.subscribe(account, ear)
        theirs.publish(account, head_moved(1))
        await until(lambda: theirs.told.outcomes["sent"] == 1)
        ours.publish(account, fence := head_moved(2))
        assert await ear.until(fence) == [fence]
        assert there.told.outcomes == {"received": 1}


def _as_sent(line):
    """A line of MONITOR with its escapes undone."""
    return codecs.escape_decode(line)[0]


async def _monitored(server):
    """Everything the server is asked, from the return on, until the task is cancelled."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"MONITOR\r\n")
    assert await reader.readline() == b"+OK\r\n"
    seen = []

    async def collect():
        try:
            while line := await reader.readline():
                seen.append(_as_sent(line))
        finally:
            writer.transport.abort()

    return seen, asyncio.create_task(collect())


async def test_redis_sees_no_account_and_no_key(server):
    accounts, ears = [new_id() for _ in range(5)], []
    seen, task = await _monitored(server)
    async with opened(server.url) as here, opened(server.url) as there:
        for account in accounts:
            ears.append(Hearer())
            await there.subscribe(account, ears[-1])
            here.publish(account, head_moved(1, b"sealed bytes may be seen"))
            here.publish(account, SessionOpened(new_id(), new_id(), 1))
        for ear in ears:
            assert [type(await ear.next()) for _ in range(2)] == [HeadMoved, SessionOpened]
            await there.unsubscribe(accounts[ears.index(ear)])
        await until(lambda: sum(b'"UNSUBSCRIBE"' in line for line in seen) == 5)
    task.cancel()
    await asyncio.wait([task])
    everything = b"".join(seen)
    assert everything.count(b"sealed bytes may be seen") == 5, "the capture is real"
    assert all(NAMES.channel(account) in everything for account in accounts)
    for secret in (*accounts, KEY):
        assert secret not in everything
        assert secret.hex().encode() not in everything.lower()


async def test_the_fewest_rights_are_enough(server):
    rules = ["on", ">secret", "resetchannels", "&hub:*", "-@all", "+publish", "+subscribe", "+unsubscribe", "+ping"]
    server.ask("ACL", "SETUSER", "hub", *rules)
    url = f"redis://hub:secret@127.0.0.1:{server.port}"
    account, ear = new_id(), Hearer()
    async with opened(url) as here, opened(url) as there:
        assert here.connected
        await there.subscribe(account, ear)
        here.publish(account, notice := head_moved(1))
        assert await ear.next() == notice
        await there.unsubscribe(account)


async def test_without_the_right_to_subscribe_the_bus_says_so_and_comes_when_it_is_given(
    one_server, lines, monkeypatch
):
    monkeypatch.setattr("hub.bus.redis.OPEN_WITHIN_S", 0.3)
    one_server.ask("ACL", "SETUSER", "hub", "on", ">secret", "resetchannels", "&hub:*", "-@all", "+publish", "+ping")
    async with opened(f"redis://hub:secret@127.0.0.1:{one_server.port}") as bus:
        assert not bus.connected
        assert any(line.get("error") == "NoPermissionError" for line in lines())
        one_server.ask("ACL", "SETUSER", "hub", "+subscribe")
        await until(lambda: bus.connected)


async def test_over_tls(tmp_path, monkeypatch):
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    port = free_port()
    options = ["--tls-port", str(port), "--tls-auth-clients", "no", "--tls-ca-cert-file", tmp_path / "ca.pem"]
    options += ["--tls-cert-file", tmp_path / "cert.pem", "--tls-key-file", tmp_path / "key.pem"]
    with redis_server(program("redis"), *map(str, options)):
        good = f"rediss://127.0.0.1:{port}?ssl_ca_certs={tmp_path / 'ca.pem'}"
        account, ear = new_id(), Hearer()
        async with opened(good) as here, opened(good) as there:
            await there.subscribe(account, ear)
            here.publish(account, notice := head_moved(1))
            assert await ear.next() == notice
        monkeypatch.setattr("hub.bus.redis.OPEN_WITHIN_S", 0.3)
        async with opened(f"rediss://127.0.0.1:{port}") as bus:
            await until(lambda: bus._why)
            assert not bus.connected, "a certificate of an unknown authority was taken"
            assert isinstance(bus._why.__context__, ssl.SSLCertVerificationError)


# --- a Redis that dies -----------------------------------------------------------------------


async def test_redis_dies_and_comes_back_and_live_is_live_within_two_seconds(server):
    account, near, far = new_id(), Hearer(), Hearer()
    async with opened(server.url) as here, opened(server.url) as there:
        await here.subscribe(account, near)
        await there.subscribe(account, far)
        for _ in range(3):
            server.kill()
            await until(lambda: not here.connected and not there.connected, within_s=1.0)
            here.publish(account, missed := head_moved(1))
            assert await near.until(missed) == [missed], "its own replica hears it without Redis"
            server.start()
            await until(lambda: here.connected and there.connected, within_s=2.0)
            assert await far.until(LOST, within_s=2.0) == [LOST]
            here.publish(account, live := head_moved(2))
            assert (await far.until(live, within_s=1.0))[-1] == live
            assert missed not in near.rest()
        assert here.told.connected == [False, True] + 3 * [False, True]


async def test_after_an_outage_nothing_is_heard_twice_here_and_the_others_know_that_they_missed_it(one_server):
    account, near, far = new_id(), Hearer(), Hearer()
    async with beside_a_line(one_server.port) as (line, here, there):
        await here.subscribe(account, near)
        await there.subscribe(account, far)
        notices = [head_moved(number) for number in range(1, 31)]
        for number, notice in enumerate(notices):
            if number == 10:
                line.refuse()
            if number == 20:
                await until(lambda: not here.connected)
            here.publish(account, notice)
            await asyncio.sleep(0)
        line.resume()
        await until(lambda: here.connected, within_s=2.0)
        here.publish(account, last := head_moved(99))
        heard_here, heard_there = await near.until(last), await far.until(last)
    assert [notice for notice in heard_here if notice != LOST] == [*notices, last]
    assert heard_there.count(LOST) == 1
    missed = [notice for notice in notices if notice not in heard_there]
    assert missed and set(notices[20:]) <= set(missed)
    assert heard_there.index(LOST) == len(heard_there) - 2, "it comes after what got through"


async def test_a_notice_that_was_sent_and_never_answered_counts_as_lost(one_server):
    account, ear = new_id(), Hearer()
    async with beside_a_line(one_server.port) as (line, here, there):
        await there.subscribe(account, ear)
        line.stall()
        here.publish(account, head_moved(1))
        await asyncio.sleep(0.05)  # it is out, and stays on the line
        line.refuse()
        await until(lambda: not here.connected)
        assert here.told.outcomes == {"dropped": 1}
        line.resume()
        assert await ear.next() == LOST


async def test_only_the_accounts_whose_notices_were_lost_are_told(one_server):
    lucky, unlucky, lucky_ear, unlucky_ear = new_id(), new_id(), Hearer(), Hearer()
    async with beside_a_line(one_server.port) as (line, here, there):
        await there.subscribe(lucky, lucky_ear)
        await there.subscribe(unlucky, unlucky_ear)
        line.refuse()
        await until(lambda: not here.connected)
        for _ in range(10):
            here.publish(unlucky, head_moved(1))
        line.resume()
        assert await unlucky_ear.next() == LOST
        here.publish(lucky, fence := head_moved(2))
        assert await lucky_ear.until(fence) == [fence]
        assert unlucky_ear.rest() == []


@pytest.mark.parametrize("accounts", [LOST_ACCOUNTS_MAX, LOST_ACCOUNTS_MAX + 1])
async def test_beyond_the_accounts_that_can_be_remembered_all_are_told(one_redis_url, accounts):
    unlucky, lost_ear = [new_id() for _ in range(accounts)], Hearer()
    bystanders = {new_id(): Hearer() for _ in range(2 * DELIVER_BATCH + 1)}
    async with beside_a_line(port_of(one_redis_url)) as (line, here, there):
        await there.subscribe(unlucky[0], lost_ear)
        await asyncio.gather(*(there.subscribe(account, ear) for account, ear in bystanders.items()))
        line.refuse()
        await until(lambda: not here.connected)
        for account in unlucky:
            here.publish(account, head_moved(1))
        line.resume()
        assert await lost_ear.next() == LOST
        for account, ear in bystanders.items():
            if accounts > LOST_ACCOUNTS_MAX:
                assert await ear.next() == LOST
            here.publish(account, fence := head_moved(2))
            assert await ear.until(fence) == [fence]


async def test_a_line_that_swallows_everything_is_noticed_within_five_seconds(one_server):
    account, ear = new_id(), Hearer()
    async with beside_a_line(one_server.port) as (line, there, here):
        await there.subscribe(account, ear)
        line.stall()
        here.publish(account, head_moved(1))
        assert await until(lambda: not there.connected) < 5.0
        assert here.connected
        line.resume()
        await until(lambda: there.connected, within_s=2.0)
        heard = await ear.until(LOST, within_s=1.0)
        here.publish(account, live := head_moved(2))
        assert (heard + await ear.until(live))[-2:] == [LOST, live]


async def test_a_short_pause_of_redis_costs_nothing(one_server):
    account, ear = new_id(), Hearer()
    async with beside_a_line(one_server.port) as (line, here, there):
        await there.subscribe(account, ear)
        line.stall()
        here.publish(account, late := head_moved(1))
        await asyncio.sleep(1.0)  # that long it pauses
        line.resume()
        assert await ear.until(late) == [late]
        assert here.told.connected == [False, True]


async def test_a_process_that_was_held_up_itself_does_not_blame_redis(one_redis_url, monkeypatch):
    monkeypatch.setattr("hub.bus.redis_link.TICK_S", 0.1)
    monkeypatch.setattr("hub.bus.redis_link.ANSWER_WITHIN_S", 0.3)
    account = new_id()
    async with opened(one_redis_url) as bus:
        for _ in range(2):
            bus.publish(account, head_moved(1))
            await asyncio.sleep(0)  # it is written, and its answer comes while nobody reads
            time.sleep(0.6)  # noqa: ASYNC251 - it is what this is about
            await asyncio.sleep(0.3)
        assert bus.told.outcomes == {"sent": 2}
        assert bus.told.connected == [False, True]


async def test_publishing_without_redis_costs_no_time(one_server):
    account, ear = new_id(), Hearer()
    async with opened(one_server.url) as bus:
        await bus.subscribe(account, ear)
        for state in ("up", "killed", "down"):
            if state == "killed":
                one_server.kill()
            if state == "down":
                await until(lambda: not bus.connected)
            notices = [head_moved(number, os.urandom(200)) for number in range(1_000)]
            started = time.perf_counter()
            for notice in notices:
                bus.publish(account, notice)
            took = time.perf_counter() - started
            assert took < 0.25, f"{state}: {took:.3f} s"
            assert (await ear.until(notices[-1]))[-1_000:] == notices


async def test_without_redis_a_session_joins_without_waiting_and_hears_when_it_is_back(server):
    account, ear = new_id(), Hearer()
    async with opened(server.url) as here, opened(server.url) as there:
        server.kill()
        await until(lambda: not there.connected and not here.connected)
        started = time.monotonic()
        await there.subscribe(account, ear)
        assert time.monotonic() - started < 0.1
        there.publish(account, own := head_moved(1))
        assert await ear.next() == own
        server.start()
        assert await ear.until(LOST, within_s=2.0) == [LOST]
        await until(lambda: here.connected)
        here.publish(account, live := head_moved(2))
        assert (await ear.until(live))[-1] == live


async def test_on_a_silent_line_a_session_waits_a_second_and_is_told_when_it_hears(one_server):
    account, ear = new_id(), Hearer()
    async with FaultProxy("127.0.0.1", one_server.port) as line, opened(through(line)) as there:
        line.stall()
        started = time.monotonic()
        await there.subscribe(account, ear)
        assert 0.9 < time.monotonic() - started < 1.5
        line.resume()
        assert await ear.next() == LOST


async def test_a_session_that_waits_on_a_line_goes_on_when_the_line_is_cut(one_server):
    account, ear = new_id(), Hearer()
    async with FaultProxy("127.0.0.1", one_server.port) as line, opened(through(line)) as there:
        line.stall()
        joining = asyncio.create_task(there.subscribe(account, ear))
        await asyncio.sleep(0)
        started = time.monotonic()
        line.refuse()
        await joining
        assert time.monotonic() - started < 0.5
        line.resume()
        assert await ear.next() == LOST


async def test_whoever_left_during_the_outage_is_not_subscribed_again(server):
    gone, back, ear = new_id(), new_id(), Hearer()
    async with opened(server.url) as bus:
        await bus.subscribe(gone, Hearer())
        await bus.subscribe(back, ear)
        server.kill()
        await until(lambda: not bus.connected)
        await bus.unsubscribe(gone)
        server.start()
        assert await ear.next() == LOST
        await until(lambda: bus.connected)
        stranger = redis.asyncio.Redis.from_url(server.url)
        async with stranger:
            assert set(await stranger.pubsub_channels()) == {NAMES.channel(back), NAMES.everyone}


async def test_nothing_is_kept_of_accounts_that_have_left(one_redis_url):
    async with opened(one_redis_url) as bus:
        for _ in range(100):
            account = new_id()
            await bus.subscribe(account, Hearer())
            bus.publish(account, head_moved(1))
            await bus.unsubscribe(account)
        await until(lambda: bus.told.outcomes["sent"] == 100)
        assert bus._channels.keys() == {NAMES.everyone}
        assert bus._local._receivers == {}
        assert not bus._lost and not bus._adrift


async def test_thousands_of_accounts_hear_again_after_one_reset(one_redis_url):
    ears = {new_id(): Hearer() for _ in range(3_000)}
    async with beside_a_line(port_of(one_redis_url)) as (line, there, here):
        await asyncio.gather(*(there.subscribe(account, ear) for account, ear in ears.items()))
        line.reset()
        for ear in ears.values():
            assert await ear.next() == LOST
        await until(lambda: there.connected)
        for number, (account, ear) in enumerate(ears.items()):
            here.publish(account, notice := head_moved(number))
            if number % 100 == 0:
                assert await ear.next() == notice
        assert here.told.connected == [False, True]


async def test_the_hub_starts_without_redis_and_takes_it_when_it_comes(one_server, lines):
    account, ear = new_id(), Hearer()
    one_server.kill()
    started = time.monotonic()
    async with opened(one_server.url) as bus:
        assert time.monotonic() - started < 2.5
        assert not bus.connected
        assert [line["event"] for line in lines()] == ["Redis does not answer; this replica goes on alone"]
        assert lines()[0]["error"] == "ConnectionError"
        await bus.subscribe(account, ear)
        one_server.start()
        assert await ear.until(LOST, within_s=2.0) == [LOST]
        await until(lambda: bus.connected)
    assert bus.told.connected == [False, True, False]


async def test_redis_is_dialled_steadily_however_long_it_is_away(monkeypatch):
    monkeypatch.setattr("hub.bus.redis.OPEN_WITHIN_S", 2.5)
    dialled = []

    def hang_up(_, writer):
        dialled.append(time.monotonic())
        writer.transport.abort()

    port = free_port()
    async with await asyncio.start_server(hang_up, "127.0.0.1", port), opened(f"redis://127.0.0.1:{port}") as bus:
        assert not bus.connected
    gaps = [later - earlier for earlier, later in itertools.pairwise(dialled)]
    assert max(gaps) < 0.8, "live again within two seconds"
    assert min(gaps[3:]) > 0.2, "and no storm of connections"


async def test_a_start_that_is_given_up_leaves_nothing(one_server):
    one_server.kill()
    tasks = asyncio.all_tasks()
    opening = asyncio.create_task(RedisBus(one_server.url, KEY).open())
    await until(lambda: len(asyncio.all_tasks()) > len(tasks) + 1)
    opening.cancel()
    await asyncio.wait([opening])
    assert opening.cancelled()
    await until(lambda: asyncio.all_tasks() == tasks)


# --- bounds ----------------------------------------------------------------------------------


async def test_the_queue_takes_as_many_notices_as_it_says_and_not_one_more(one_redis_url):
    account, other, ear, other_ear = new_id(), new_id(), Hearer(), Hearer()
    async with opened(one_redis_url) as here, opened(one_redis_url) as there:
        await there.subscribe(account, ear)
        await there.subscribe(other, other_ear)
        for number in range(UNANSWERED_MAX):
            here.publish(account, Signalled(b"", b"", None, b"%d" % number))
        assert here.told.outcomes["dropped"] == 0
        here.publish(other, head_moved(1))
        assert here.told.outcomes["dropped"] == 1
        for number in range(UNANSWERED_MAX):
            assert (await ear.next()).body == b"%d" % number
        assert await other_ear.next() == LOST, "the one that was dropped"
        here.publish(other, fence := head_moved(2))
        assert await other_ear.next() == fence
        assert ear.rest() == []
        await until(lambda: here.told.outcomes["sent"] == UNANSWERED_MAX + 2)


async def test_the_queue_takes_as_many_bytes_as_it_says_and_not_one_more(one_redis_url):
    account = new_id()
    large = Signalled(new_id(), new_id(), None, os.urandom(16_000))
    size = len(NAMES.wrap(NAMES.channel(account), large))
    room = UNANSWERED_BYTES_MAX % size
    base = len(NAMES.wrap(NAMES.channel(account), Signalled(b"", b"", None, bytes(1_000)))) - 1_000
    assert 1_000 < room - base < 60_000, "else the last notice would need another header"
    for beyond in (0, 1):
        async with opened(one_redis_url) as here:
            for _ in range(UNANSWERED_BYTES_MAX // size):
                here.publish(account, large)
            assert here.told.outcomes["dropped"] == 0
            here.publish(account, Signalled(b"", b"", None, bytes(room - base + beyond)))
            assert here.told.outcomes["dropped"] == beyond


async def test_nothing_is_left_open_after_a_close_though_much_is_unsent(one_server):
    def sockets():
        return [fd for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink() and "socket" in str(fd.readlink())]

    tasks = asyncio.all_tasks()
    async with FaultProxy("127.0.0.1", one_server.port) as line:
        before = len(sockets())
        bus = RedisBus(through(line), KEY)
        await bus.open()
        await asyncio.gather(*(bus.subscribe(new_id(), Hearer()) for _ in range(50)))
        assert len(sockets()) == before + 3, "one is the bus's, two are the line's"
        line.stall()
        for _ in range(500):
            bus.publish(new_id(), head_moved(1, os.urandom(16_000)))
        started = time.monotonic()
        await bus.close()
        assert time.monotonic() - started < 1.5
        await until(lambda: len(sockets()) == before + 2, within_s=1.0)
    await until(lambda: asyncio.all_tasks() == tasks)


# --- a cluster -------------------------------------------------------------------------------


def has(cluster, node, channel):
    """Whether the node has this channel."""
    first, last = (16_384 * (cluster.nodes.index(node) + step) // len(cluster.nodes) for step in (0, 1))
    return first <= key_slot(channel) < last


def account_on(cluster, node):
    """An account whose channel this node has."""
    while not has(cluster, node, NAMES.channel(account := new_id())):
        pass
    return account


async def test_a_node_dies_and_comes_back_and_costs_the_others_nothing(cluster):
    victim = next(node for node in cluster.nodes if has(cluster, node, NAMES.everyone))
    other_node = next(node for node in cluster.nodes if node is not victim)
    mine, others, ear, other_ear = account_on(cluster, victim), account_on(cluster, other_node), Hearer(), Hearer()
    # Named by the nodes that stay: the one that dies is found by itself.
    url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in cluster.nodes if node is not victim)
    async with opened(url) as here, opened(url) as there:
        assert here.connected
        await there.subscribe(mine, ear)
        await there.subscribe(others, other_ear)
        here.publish(mine, notice := head_moved(1))
        assert await ear.next() == notice
        victim.kill()
        await until(lambda: not here.connected and not there.connected)
        here.publish(mine, head_moved(2))
        for number in range(3, 6):
            here.publish(others, notice := head_moved(number))
            assert await other_ear.until(notice, within_s=1.0) == [notice]
        victim.start()
        cluster.wait_whole()
        assert await ear.until(LOST, within_s=2.0) == [LOST]
        await until(lambda: here.connected and there.connected, within_s=2.0)
        here.publish(mine, live := head_moved(6))
        assert (await ear.until(live))[-1] == live
        # What was for every account would have come over the node that was away.
        assert await other_ear.next() == LOST


async def test_a_channel_follows_its_slot_to_another_node(cluster):
    source, target = cluster.nodes[1], cluster.nodes[2]
    account, ear = account_on(cluster, source), Hearer()
    slot = str(key_slot(NAMES.channel(account)))

    def move(node):
        name = node.ask("CLUSTER", "MYID")
        for one in (node, *(one for one in cluster.nodes if one is not node)):
            one.ask("CLUSTER", "SETSLOT", slot, "NODE", name)

    async with opened(cluster.url) as here, opened(cluster.url) as there:
        await there.subscribe(account, ear)
        for node in (target, source):
            move(node)
            assert await ear.until(LOST, within_s=2.0) == [LOST]
            # The publisher finds out by being refused, and says that this one was lost.
            here.publish(account, notice := head_moved(1))
            heard = [await ear.next(within_s=2.0)]
            assert heard in ([notice], [LOST])
            async with asyncio.timeout(WITHIN_S):
                while notice not in heard:
                    here.publish(account, notice := head_moved(2))
                    with contextlib.suppress(TimeoutError):
                        heard.append(await ear.next(within_s=0.3))
            assert here.connected and there.connected
            ear.rest()


async def test_a_slot_that_leaves_and_comes_back_is_heard_again(cluster):
    node, other = cluster.nodes[:2]
    account, ear = account_on(cluster, node), Hearer()
    slot = str(key_slot(NAMES.channel(account)))
    async with opened(cluster.url) as here, opened(cluster.url) as there:
        await there.subscribe(account, ear)
        for owner in (other, node):  # so quickly that nobody sees it at another place
            for one in (owner, *(one for one in cluster.nodes if one is not owner)):
                one.ask("CLUSTER", "SETSLOT", slot, "NODE", owner.ask("CLUSTER", "MYID"))
        assert await ear.next() == LOST
        here.publish(account, notice := head_moved(1))
        assert await ear.until(notice) == [notice]


async def test_a_node_that_refuses_for_a_while_is_asked_again(cluster):
    node = cluster.nodes[0]
    account, ear = account_on(cluster, node), Hearer()
    async with opened(cluster.url) as here, opened(cluster.url) as there:
        node.ask("ACL", "SETUSER", "default", "-ssubscribe")
        try:
            await there.subscribe(account, ear)
        finally:
            node.ask("ACL", "SETUSER", "default", "+ssubscribe")
        assert await ear.next() == LOST
        here.publish(account, notice := head_moved(1))
        assert await ear.until(notice) == [notice]


async def test_sharded_channels_are_heard_on_the_node_that_has_them(cluster):
    async with opened(cluster.url) as there:
        for node in cluster.nodes:
            account = account_on(cluster, node)
            await there.subscribe(account, Hearer())
            stranger = redis.asyncio.Redis.from_url(node.url)
            async with stranger:
                assert NAMES.channel(account) in await stranger.pubsub_shardchannels()
                assert await stranger.pubsub_channels() == [], "those would be sent to every node"


# --- the URL ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://:hunter2@example.org",
        "unix:///tmp/hunter2",
        "redis+sentinel://:hunter2@example.org",
        "redis://",
        "redis://:hunter2@",
        "redis://:hunter2@[::1",
        "redis://:hunter2@example.org:many",
        "redis://:hunter2@example.org:99999",
        "redis://:hunter2@one.example.org,two.example.org",
        "redis://:hunter2@example.org/first",
        "redis://:hunter2@example.org?colour=hunter2",
        "redis://:hunter2@example.org?health_check_interval=hunter2",
        "redis+cluster://:hunter2@one.example.org:1,two.example.org:x",
        "redis+cluster://:hunter2@one.example.org,,",
        "redis+cluster://:hunter2@example.org/3",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_a_sentence_that_hides_the_password(url):
    with pytest.raises(ValueError) as refused:
        RedisBus(url, KEY)
    sentence = str(refused.value)
    assert sentence.startswith("The URL of Redis ") and sentence.endswith(".")
    assert "hunter2" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize(
    ("url", "seeds", "cluster"),
    [
        ("redis://example.org", [("example.org", 6379)], False),
        ("rediss://hub:p%40ss@example.org:1/2?ssl_check_hostname=no", [("example.org", 1)], False),
        ("redis://[::1]:7000", [("::1", 7000)], False),
        ("redis+cluster://:pass@a.example,b.example:7001", [("a.example", 6379), ("b.example", 7001)], True),
        ("rediss+cluster://a.example.org:7000/0", [("a.example.org", 7000)], True),
    ],
)  # fmt: skip
def test_a_url_that_can_be_used_says_where_redis_is(url, seeds, cluster):
    target = RedisBus(url, KEY)._target
    assert (list(target.seeds), target.cluster) == (seeds, cluster)
