"""Honest schedules of all kinds raise no alarm, and every device ends with the same digest."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hub.client.keys import SpaceKeys
from hub.terms import Kind
from tests.model_hub import ModelDevice, ModelHub

KEYS = SpaceKeys.derive(bytes(range(32)))
DEVICES_MAX = 5
WRITES = {"put": Kind.PUT, "delete": Kind.DELETE, "delta": Kind.DELTA, "keyring": Kind.KEYRING}

# How often each step is drawn, roughly as in life.
OFTEN = {
    "put": 4, "delete": 2, "delta": 1, "keyring": 1, "purge": 1, "wipe": 1, "push": 3, "look_up": 2, "deliver": 2,
    "hear": 2, "sync": 3, "testify": 3, "compact": 1, "backup": 1, "restore": 1, "join": 1, "restart": 1,
}  # fmt: skip
NAMES = [name for name, times in OFTEN.items() for _ in range(times)]
STEPS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.integers(0, DEVICES_MAX - 1), st.integers(0, 7)), min_size=5, max_size=80
)


class World:
    """Some devices, one honest hub, and its backups."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.hub = ModelHub(self.rng.randbytes(16))
        self.backups = [self.hub.snapshot()]
        self.devices = [self._device() for _ in range(2)]

    def _device(self) -> ModelDevice:
        return ModelDevice(KEYS, "notes", self.rng)

    def step(self, name: str, who: int, number: int) -> None:
        """One thing happens; ``number`` picks a record, a page size, a backup."""
        device = self.devices[who % len(self.devices)]
        if name in WRITES:
            device.draft(WRITES[name], f"record {number % 4}", b"body")
        elif name in ("purge", "wipe"):
            self._clean_up(device, name, number)
        elif name == "look_up":
            device.look_up(self.hub, changes_max=1 + number)
        elif name == "sync":
            device.sync(self.hub, changes_max=1 + number)
        elif name in ("push", "hear", "testify"):
            getattr(device, name)(self.hub)
        elif name in ("deliver", "restart"):
            getattr(device, name)()
        else:
            self._happen(name, number)

    def _clean_up(self, device: ModelDevice, name: str, number: int) -> None:
        if name == "purge":
            # Up to what it has seen, or beyond it: both are legal.
            device.draft(Kind.PURGE, upto=max(0, device.state.seq + number - 4))
        elif number == 0:
            device.draft(Kind.WIPE)

    def _happen(self, name: str, number: int) -> None:
        if name == "compact":
            self.hub.compact()
        elif name == "backup":
            self.backups.append(self.hub.snapshot())
        elif name == "restore" and number < 3:
            self.hub.restore(self.backups[-1 - number % len(self.backups)], self.rng.randbytes(16))
        elif name == "join" and len(self.devices) < DEVICES_MAX:
            self.devices.append(self._device())


def agree_in_the_end(world: World) -> None:
    """Everybody syncs, a newcomer too; all stand at the head with the digest of the hub's live rows."""
    world.devices.append(world._device())
    for _ in range(2):  # the second round hears the witnesses of the first
        for device in world.devices:
            device.sync(world.hub)
            device.testify(world.hub)
    for device in world.devices:
        device.sync(world.hub)
        device.check.caught_up(world.hub.head)
        assert device.state.exact and device.state.seq == world.hub.head
        assert device.state.digest == world.hub.live_digest(KEYS)
        assert device.state.n_live == device.live.count()
        assert not device.state.alarms and not device.state.pending


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), steps=STEPS)
def test_an_honest_hub_raises_no_alarm(seed: int, steps: list[tuple[str, int, int]]) -> None:
    world = World(seed)
    for step in steps:
        world.step(*step)  # CheckFailed would end the example
    agree_in_the_end(world)


@pytest.mark.parametrize("seed", range(60))
def test_a_long_honest_life_raises_no_alarm_and_every_exact_digest_is_true(seed: int) -> None:
    world, rng = World(seed), random.Random(seed)
    names = [name for name in NAMES if rng.random() < 0.8]
    for _ in range(300):
        world.step(rng.choice(names), rng.randrange(DEVICES_MAX), rng.randrange(8))
        expected = world.hub.live_digest(KEYS)
        for device in world.devices:
            state = device.state
            if state.exact and state.seq == world.hub.head and state.incarnation == world.hub.incarnation:
                assert state.digest == expected
    agree_in_the_end(world)


def test_the_schedules_compare_witnesses_rather_than_pass_them_by() -> None:
    """Guards the property above against being empty."""
    world, compared = World(7), 0
    for _ in range(1000):
        world.step(
            world.rng.choice(["put", "delete", "delta", "sync", "testify", "compact"]), world.rng.randrange(2), 3
        )
        for device in world.devices:
            compared += sum(
                w.seq in {point.seq for point in device.state.ring} for w in device.state.witnesses.values()
            )
    assert compared > 500
