"""An operator's desk for tests: a store in memory, a bus, and the verbs on them, with a clock that stands."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

from hub.address import slow_hash, tag_of
from hub.bus.local import LocalBus
from hub.operating import House, Operating
from hub.secrets import new_secrets
from hub.store.memory import MemoryStore
from tests.store_exam import NOW, a_device, an_attempt, enrol, new_account

MIB = 1_048_576
QUOTA = 10 * MIB
DELAY = 7 * 86_400.0


class Desk:
    """Open its store first."""

    def __init__(self, **house):
        self.store, self.bus = MemoryStore(quota_bytes=QUOTA), LocalBus()
        self.secrets = new_secrets(os.urandom)
        self.now = NOW
        self.house = House("family", "closed", QUOTA, DELAY, True, lambda: 3)
        self.operating = self.verbs(**house)
        self.told = []

    def verbs(self, **house):
        house = replace(self.house, **house)
        return Operating(self.store, self.bus, self.secrets, house, random=os.urandom, clock=lambda: self.now)

    async def do(self, verb, **arguments):
        return await self.operating.do(verb, arguments)

    async def here(self, verb, **arguments):
        return await self.operating.do_here(verb, arguments)

    async def listen(self, account_id):
        await self.bus.subscribe(account_id, self.told.append)

    async def heard(self):
        await asyncio.sleep(0)
        told, self.told[:] = list(self.told), []
        return told

    async def audit(self, account_id):
        entries = await self.store.audit(account_id, before=0, limit=50)
        return [(entry.what, entry.actor, entry.subject_id) for entry in reversed(entries)]

    async def findings(self, kind=""):
        found = (await self.do("insight"))["findings"]
        return [finding for finding in found if not kind or finding["kind"] == kind]


async def person_with(desk, address):
    """An account that signs in with this address."""
    hashed = await asyncio.to_thread(slow_hash, address, desk.secrets.hub_salt)
    attempt = an_attempt(tag_of(hashed, desk.secrets.peppers))
    account_id, _, _ = await new_account(desk.store)
    account = replace(await desk.store.account(account_id), account_id=os.urandom(16))
    await desk.store.add_attempt(attempt)
    await enrol(desk.store, attempt, a_device(account.account_id), account)
    return account.account_id
