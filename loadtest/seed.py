"""Accounts and devices made straight in a hub's store, so that a measurement begins with a thousand signed-in devices.

A code by mail costs a slow hash and is limited; what is measured here begins after
it.  The accounts come in as those of a bundle do: the hub knows no difference.
"""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass

from nacl.signing import SigningKey

from hub.client.keys import SpaceKeys
from hub.client.storage import MemoryStorage
from hub.store import Row, Store

APP = "org.example.loadtest"
DAY_S = 86_400
AT_ONCE = 500  # accounts in one transaction


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
    seeded: list[SeededDevice] = []
    for start in range(0, accounts, AT_ONCE):
        made = [_account(devices_each) for _ in range(min(AT_ONCE, accounts - start))]
        await store.load([row for _, rows in made for row in rows])
        seeded += [device for devices, _ in made for device in devices]
    await store.end_load({device.account_id for device in seeded})
    return seeded


def _account(devices: int) -> tuple[list[SeededDevice], list[Row]]:
    """An account's devices, and its rows as a bundle would bring them."""
    account_id, app_key, now = os.urandom(16), secrets.token_bytes(32), time.time()
    day, keys = int(now // DAY_S), SpaceKeys.derive(app_key)
    seeded = [SeededDevice(account_id, os.urandom(16), secrets.token_bytes(32), app_key) for _ in range(devices)]
    rows: list[Row] = [("account", (account_id, os.urandom(32), True, None, day, None, "", None, 0.0, None))]
    for each in seeded:
        device_pk = bytes(SigningKey(each.device_seed).verify_key)
        rows.append(("device", (account_id, each.device_id, device_pk, "app", APP, "pairing", now, day, None, None)))
    rows.append(("space", (account_id, keys.space_id, APP, 0, keys.space_pk, now, None)))
    return seeded, rows
