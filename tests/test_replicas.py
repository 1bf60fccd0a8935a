"""Several replicas are one hub: whatever dies, wherever a device comes in, and while they are replaced."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from hub.client import Refusal
from hub.wire import messages as m
from tests.acceptance.replicas import Plan, run
from tests.cluster_rig import NOTES, Crowd, cluster, end, start, until
from tests.history import violations
from tests.hub_rig import Wire
from tests.services import database, haproxy_bin, redis_server

REVOKED, REPLACED = 4503, 4509
HEARTBEAT_S = 15

pytestmark = pytest.mark.skipif(haproxy_bin() is None, reason="haproxy is not on this machine")


class Stage:
    """Three replicas, their Redis, and devices made on demand."""

    def __init__(self, place, redis):
        self.place = place
        self.redis = redis
        self.people = 0

    async def devices(self, *replicas):
        """Devices of a new account, each on the replica of this number."""
        self.people += 1
        crowd = Crowd(self.place)
        devices = []
        for number, replica in enumerate(replicas):
            scope = "app" if devices else "account"
            device = await crowd.sign_up(f"somebody{self.people}", f"device-{number}", scope)
            if devices:
                device.client.import_key(devices[0].client.key_code())
            else:
                device.client.create_key()
            await device.start(self.place.replicas[replica].url)
            await device.client.synced(20)
            devices.append(device)
        return devices


@pytest.fixture(scope="module")
async def stage(one_pg_server, tmp_path_factory):
    async with database(one_pg_server) as url:
        with redis_server() as redis:
            folder = tmp_path_factory.mktemp("replicas")
            async with cluster(folder, database_url=url, redis_url=redis.url, HUB_DRAIN_S="3") as place:
                yield Stage(place, redis)


# --- whatever dies ---------------------------------------------------------------------------


@pytest.mark.timeout(180)  # the machine may be busy; usually it takes 10 s
async def test_nothing_is_lost_when_everything_dies_once(tmp_path):
    plan = Plan(
        accounts=4,
        redis_kills=1,
        replica_kills=1,
        postgres_restarts=1,
        seconds_between=0.2,
        pause_s=(0.5, 1.0),
        down_s=(0.1, 0.5),
        settle_within_s=30.0,
        fsync=False,
        revoke_without_redis=False,
    )
    report = await run(plan, tmp_path, lambda line: None)
    assert report.violations == [], report.lines()
    assert report.complaints == []
    assert sum(report.faults.values()) == 4
    assert report.counts["acknowledged"] > 100
    assert report.counts["connections"] > report.counts["devices"]


# --- wherever a device comes in --------------------------------------------------------------


async def test_what_is_appended_at_one_replica_is_at_the_others_at_once(stage):
    writer, *readers = await stage.devices(0, 1, 2)
    begun = time.monotonic()
    writer.put("k", 1)
    await until(lambda: all(reader.get("k") == 1 for reader in readers))
    assert time.monotonic() - begun < 1.0
    await stop(writer, *readers)


async def test_without_redis_a_change_comes_with_the_next_ping_and_with_it_again_at_once(stage):
    writer, reader = await stage.devices(0, 1)
    await reader.stop()
    # A bare connection does not come back by itself: what it hears, it hears without reconnecting.
    patient = await raw(stage, reader, 2, heartbeat_s=HEARTBEAT_S)
    await follow(patient, reader)

    stage.redis.kill()
    begun = time.monotonic()
    await asyncio.wait_for(writer.client.when_appended(writer.put("without", 1)), 2)
    assert await patient.changes(1, HEARTBEAT_S + 2)
    assert time.monotonic() - begun > 1.0, "something else than the ping told"

    await start(stage.redis)
    begun = time.monotonic()
    writer.put("soon", 2)
    assert await patient.changes(1, 2.0)
    await asyncio.sleep(begun + 2.0 - time.monotonic())
    writer.put("live", 3)
    assert await patient.changes(1, 0.5)
    await patient.hang_up()
    await stop(writer)


async def test_a_revoked_device_is_sent_away_from_every_replica_within_a_second(stage):
    owner, *others = await stage.devices(0, 1, 2)
    await owner.client.revoke([other.client.device_id for other in others])
    begun = time.monotonic()
    await until(lambda: all(other.closings[REVOKED] for other in others))
    assert time.monotonic() - begun < 1.0
    assert owner.closings[REVOKED] == 0
    await stop(owner, *others)


async def test_the_newest_socket_of_a_device_wins_on_whichever_replica_it_is(stage):
    (device,) = await stage.devices(0)
    await device.stop()
    newest = await raw(stage, device, 0)
    for replica in (1, 2, 2, 0):
        older, newest = newest, await raw(stage, device, replica)
        assert await older.closing(1.0) == REPLACED
    await newest.ask(m.Ping(), m.Pong)
    await newest.hang_up()


async def test_codes_for_one_address_are_counted_over_all_replicas(stage):
    crowd = Crowd(stage.place)
    for number in range(5):
        await crowd.sign_up("prey", f"device-{number}")
    with pytest.raises(Refusal) as refused:
        await crowd.sign_up("prey", "device-5")
    assert refused.value.code == "slow_down"


# --- while they are replaced -----------------------------------------------------------------


async def test_a_rolling_restart_under_load_loses_nothing_and_surprises_nobody(stage):
    crowd = Crowd(stage.place)
    await crowd.enrol(4, 3)
    writing = asyncio.create_task(crowd.write(0.3, random.Random(1)))
    try:
        for replica in stage.place.replicas:
            assert await end(replica) == 0
            await start(replica)
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    await crowd.settle(30)
    assert [device.surprises for device in crowd.devices if device.surprises] == []
    assert all(device.told_to_go for device in crowd.devices)
    assert violations([device.recorded() for device in crowd.devices]) == []
    assert stage.place.complaints() == []
    await crowd.stop()


# --- small things ----------------------------------------------------------------------------


async def raw(stage, device, replica, **hello):
    """A bare connection of this device to a replica, following its notes from where they are."""
    identity = device.client._engine.device.identity
    wire = Wire(f"{stage.place.replicas[replica].url.replace('http', 'ws')}/v1/ws")
    wire.device_id, wire.device_key = identity.device_id, identity.signing_key
    wire.space_key = device.client._engine.device.keys.signing_key
    await wire.sign_in(**hello)
    return wire


async def follow(wire, device):
    """Subscribe to the notes of this device's space from their head on."""
    await wire.enter()
    collection_id = device.client._engine.device.keys.collection_id(NOTES)
    listed = await wire.ask(m.Collections(wire.number(), wire.space_id), m.CollectionList)
    head = next((info.head for info in listed.collections if info.collection_id == collection_id), 0)
    cursor = m.CursorPart(collection_id, wire.incarnation, head)
    await wire.ask(m.Subscribe(wire.number(), wire.space_id, [cursor]), m.Subscribed)


async def stop(*devices):
    for device in devices:
        await device.stop()
