"""The audit list: what happened is kept although the store is away for a moment, and floods stay small."""

from __future__ import annotations

import pytest

from hub.audit import TALLIES_MAX, TALLY_MAX, WAITING_MAX, Audit, Tallied
from hub.bus.local import LocalBus
from hub.errors import StoreUnavailable
from tests.session_rig import Person, person

NOW = 1_800_000_000.0


class Away:
    """A store that does not take notes for now."""

    def __init__(self, store):
        self.store = store
        self.is_away = False

    async def note(self, happenings):
        if self.is_away:
            raise StoreUnavailable
        await self.store.note(happenings)


@pytest.fixture
async def someone() -> Person:
    return await person()


@pytest.fixture
def store(someone):
    return Away(someone.store)


@pytest.fixture
def audit(store):
    return Audit(store, LocalBus(), clock=lambda: NOW)


async def kept(someone):
    return [(e.what, e.count) for e in await someone.store.audit(someone.account_id, before=0, limit=2_000)]


async def test_what_the_store_did_not_take_is_kept_with_the_next_flush(someone, store, audit):
    store.is_away = True
    await audit.note(someone.account_id, "address_changed", by=someone.device_id)
    await audit.tell(someone.account_id, "device_revoked", by=someone.device_id, device_id=b"d" * 16)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await audit.flush()
    assert await kept(someone) == []
    store.is_away = False
    await audit.flush()
    await audit.flush()
    assert await kept(someone) == [("device_revoked", 1), ("address_changed", 1)]


async def test_what_waits_is_bounded(someone, store, audit):
    store.is_away = True
    for _ in range(WAITING_MAX + 1):
        await audit.note(someone.account_id, "address_changed", by=someone.device_id)
    store.is_away = False
    await audit.flush()
    assert len(await kept(someone)) == WAITING_MAX


async def test_what_comes_in_floods_is_counted_and_written_by_the_flush_only(someone, store, audit):
    refused = Tallied(someone.account_id, "key_refused", someone.device_id, someone.space_id)
    for _ in range(3):
        audit.tally(refused)
    assert await kept(someone) == []
    store.is_away = True
    with pytest.raises(StoreUnavailable):
        await audit.flush()
    audit.tally(refused)
    store.is_away = False
    await audit.flush()
    assert await kept(someone) == [("key_refused", 4)]
    audit.tally(refused)
    await audit.flush()
    assert await kept(someone) == [("key_refused", 5)]
    (entry,) = await someone.store.audit(someone.account_id, before=0, limit=9)
    assert (entry.actor, entry.device_id, entry.subject_id) == ("device", someone.device_id, someone.space_id)


async def test_a_flood_is_counted_up_to_a_bound_between_two_flushes(someone, audit):
    refused = Tallied(someone.account_id, "proof_refused", someone.device_id, someone.space_id)
    for _ in range(TALLY_MAX + 1):
        audit.tally(refused)
    await audit.flush()
    assert await kept(someone) == [("proof_refused", TALLY_MAX)]


async def test_no_more_than_so_many_are_counted_at_one_time(someone, audit):
    for number in range(TALLIES_MAX + 1):
        audit.tally(Tallied(someone.account_id, "key_refused", number.to_bytes(16), someone.space_id))
    audit.tally(Tallied(someone.account_id, "key_refused", (0).to_bytes(16), someone.space_id))  # those go on
    await audit.flush()
    counts = await kept(someone)
    assert len(counts) == TALLIES_MAX and sorted(counts)[-1] == ("key_refused", 2)
