"""Accounts and devices made straight in a hub's store, so that a measurement begins with a thousand signed-in devices.

A code by mail costs a slow hash and is limited; what is measured here begins after
it.  What is made is what signing in makes: the hub knows no difference.
"""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass

from nacl.signing import SigningKey

from hub.client.keys import SpaceKeys
from hub.client.storage import MemoryStorage
from hub.store import Account, Attempt, Device, Space, Store

APP = "org.example.loadtest"
DAY_S = 86_400
NO_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True)
class SeededDevice:
    """A device that is signed in and holds its account's app key."""

    account_id: bytes
    device_id: bytes
    device_seed: bytes
    app_key: bytes

    def storage(self, hub_url: str) -> MemoryStorage:
        """What this device keeps, before its first connection to ``hub_url`` (as it is dialled)."""
        storage = MemoryStorage()
        settings = {
            "hub_url": hub_url.encode(),
            "device_id": self.device_id,
            "device_seed": self.device_seed,
            "account_id": self.account_id,
            "app_key": self.app_key,
        }
        with storage.transaction():
            for name, value in settings.items():
                storage.set_setting(name, value)
        return storage


async def seed(store: Store, accounts: int, devices_each: int) -> list[SeededDevice]:
    """So many accounts with one space and so many devices each, durable on return; grouped by account."""
    return [device for _ in range(accounts) for device in await _seed_account(store, devices_each)]


async def _seed_account(store: Store, devices: int) -> list[SeededDevice]:
    account_id, app_key, now = os.urandom(16), secrets.token_bytes(32), time.time()
    seeded = [SeededDevice(account_id, os.urandom(16), secrets.token_bytes(32), app_key) for _ in range(devices)]
    rows = [_device(each, now) for each in seeded]
    address_tag = os.urandom(32)
    attempt = Attempt(os.urandom(16), address_tag, rows[0].device_pk, "enrol", APP, now, now + 600)
    await store.add_attempt(attempt)
    await store.enrol(
        attempt.attempt_id,
        rows[0],
        Account(account_id, quota_bytes=None, used_bytes=0, created_day=int(now // DAY_S)),
        address_tag,
        per_account_max=NO_LIMIT,
        per_app_max=NO_LIMIT,
        first_only=False,
        now=now,
    )
    for row in rows[1:]:
        await store.add_device(row, per_account_max=NO_LIMIT, per_app_max=NO_LIMIT)
    keys = SpaceKeys.derive(app_key)
    await store.create_space(Space(account_id, keys.space_id, APP, 0, keys.space_pk), NO_LIMIT, now)
    return seeded


def _device(seeded: SeededDevice, now: float) -> Device:
    return Device(
        device_id=seeded.device_id,
        account_id=seeded.account_id,
        device_pk=bytes(SigningKey(seeded.device_seed).verify_key),
        scope="app",
        app_id=APP,
        enrolled_via="pairing",
        enrolled_at=now,
        last_seen_day=int(now // DAY_S),
    )
