"""Moving accounts: all of it arrives, nothing stays, and what was interrupted ends well when it is run again."""

from __future__ import annotations

import secrets as random_source
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from hub.backup.moving import Move
from hub.backup.restoring import NotPossible
from hub.errors import StoreUnavailable
from hub.store import ARRIVING, Row
from hub.store.memory import MemoryStore
from tests.acceptance.move import Plan, run
from tests.services import Postgres
from tests.store_exam import a_full_account, account_of, dumped, new_account, values, with_value

URL = "wss://new.example.org/v1/ws"
NOW = 1_800_000_000.0


class Cut(Exception):
    """The power went."""


class Here:
    """A hub that accounts leave: its store, and the verbs that a move asks for."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.asked: list[str] = []
        self.cut_before = ""
        self.cut_after = ""

    async def do(self, verb: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if verb == self.cut_before:
            raise Cut
        account_id = bytes.fromhex(arguments["account_id"])
        match verb:
            case "begin_move":
                assert await self.store.begin_move(account_id, arguments["url"])
            case "cancel_move":
                assert await self.store.begin_move(account_id, "")
            case "end_move":
                assert await self.store.end_move(account_id, NOW)
        self.asked.append(verb)
        if verb == self.cut_after:
            raise Cut
        return {}


class There(MemoryStore):
    """The other hub's store, which can stop anywhere in the load."""

    cut_before = ""
    loads_left = 10**9
    spoils = False

    async def load(self, rows: Any) -> None:
        self.loads_left -= 1
        if self.loads_left < 0:
            raise Cut
        if self.spoils:
            rows = [_spoilt(row) for row in rows]
        await super().load(rows)

    async def note(self, happenings: Any) -> None:
        if self.cut_before == "note":
            raise Cut
        await super().note(happenings)

    async def end_load(self, account_ids: Any) -> None:
        if self.cut_before == "end_load":
            raise Cut
        await super().end_load(account_ids)


def _spoilt(row: Row) -> Row:
    return with_value(row, "last", 7) if row[0] == "counter" else row


@pytest.fixture
async def here() -> AsyncIterator[Here]:
    hub = Here()
    await hub.store.open()
    yield hub


@pytest.fixture
async def there() -> AsyncIterator[There]:
    store = There()
    await store.open()
    yield store


def move(here: Here, there: MemoryStore, *, same_secrets: bool = True, url: str = URL) -> Move:
    return Move(here.store, here.do, there, url, same_secrets, lambda done: None)


def without_arrival(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row[0] != "audit" or values(row)["what"] != "moved_here"]


# --- the whole way ---------------------------------------------------------------------------


async def test_everything_of_an_account_arrives_and_nothing_stays(here: Here, there: There) -> None:
    mine, other = await a_full_account(here.store), await a_full_account(here.store)
    before, other_before = await dumped(here.store, [mine.account_id]), await dumped(here.store, [other.account_id])
    carried = await move(here, there).carry(mine.account_id)
    assert carried is not None and carried.devices == 2 and carried.changes > 0
    after = await dumped(there, [mine.account_id])
    assert without_arrival(after) == before
    assert [values(row)["what"] for row in after if row[0] == "audit"][-1] == "moved_here"
    assert await dumped(here.store, [mine.account_id]) == [] and await here.store.account(mine.account_id) is None
    assert await dumped(here.store, [other.account_id]) == other_before
    moved = await here.store.moved_device(mine.device_id)
    assert moved is not None and moved.url == URL
    assert (await account_of(there, mine.account_id)).closing() == ""
    assert here.asked == ["begin_move", "end_move"]


async def test_a_hub_with_other_secrets_learns_no_tag_and_gets_no_operator(here: Here, there: There) -> None:
    mine = await a_full_account(here.store)
    tag = values((await dumped(here.store, [mine.account_id]))[0])["address_tag"]
    await move(here, there, same_secrets=False).carry(mine.account_id)
    account = await account_of(there, mine.account_id)
    assert not account.address_known
    assert await there.find_account(tag) is None and await there.operators() == []
    assert len(await there.devices(mine.account_id)) == 1


async def test_a_suspended_account_arrives_suspended(here: Here, there: There) -> None:
    mine = await a_full_account(here.store)
    await here.store.suspend(mine.account_id, NOW)
    await move(here, there).carry(mine.account_id)
    assert (await account_of(there, mine.account_id)).closing() == "suspended"


async def test_the_second_time_nothing_is_done(here: Here, there: There) -> None:
    mine = await a_full_account(here.store)
    await move(here, there).carry(mine.account_id)
    rows = await dumped(there)
    assert await move(here, there).carry(mine.account_id) is None
    assert await dumped(there) == rows


# --- interrupted -----------------------------------------------------------------------------

IN_BETWEEN = ["after begin_move", "load 0", "load 1", "note", "end_load"]
CUTS = ["before begin_move", *IN_BETWEEN, "before end_move", "after end_move"]


async def cut_at(point: str, here: Here, there: There, account_id: bytes) -> None:
    """A move that stops at this point."""
    when, _, what = point.partition(" ")
    if when == "load":
        there.loads_left = int(what)
    elif what:
        setattr(here, f"cut_{when}", what)
    else:
        there.cut_before = point
    with pytest.raises(Cut):
        await move(here, there).carry(account_id)
    here.cut_before = here.cut_after = there.cut_before = ""
    there.loads_left = 10**9
    there._loading = type(there._loading)()  # the next run is another process


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.backup.files.ROWS_TOGETHER", 5)


@pytest.mark.parametrize("point", CUTS)
async def test_a_move_that_was_interrupted_ends_well_when_it_is_run_again(
    point: str, here: Here, there: There, small_pieces: None
) -> None:
    mine = await a_full_account(here.store)
    before = await dumped(here.store, [mine.account_id])
    await cut_at(point, here, there, mine.account_id)
    await move(here, there).carry(mine.account_id)
    assert without_arrival(await dumped(there, [mine.account_id])) == before
    assert await here.store.account(mine.account_id) is None
    assert await here.store.moved_device(mine.device_id) is not None
    assert (await account_of(there, mine.account_id)).closing() == ""


@pytest.mark.parametrize("point", CUTS)
async def test_an_account_is_never_open_at_both_ends(point: str, here: Here, there: There, small_pieces: None) -> None:
    mine = await a_full_account(here.store)
    await cut_at(point, here, there, mine.account_id)
    ends = [await here.store.account(mine.account_id), await there.account(mine.account_id)]
    assert sum(account is not None and account.closing() == "" for account in ends) <= 1


@pytest.mark.parametrize("point", IN_BETWEEN)
async def test_a_cancelled_move_leaves_everything_as_it_was(
    point: str, here: Here, there: There, small_pieces: None
) -> None:
    mine = await a_full_account(here.store)
    before = await dumped(here.store)
    await cut_at(point, here, there, mine.account_id)
    assert await move(here, there, url="").cancel(mine.account_id)
    assert await dumped(here.store) == before and (await account_of(here.store, mine.account_id)).closing() == ""
    assert await there.count_accounts() == 0
    assert not await move(here, there, url="").cancel(mine.account_id)


async def test_what_has_arrived_cannot_be_cancelled_only_ended(here: Here, there: There) -> None:
    mine = await a_full_account(here.store)
    await cut_at("before end_move", here, there, mine.account_id)
    with pytest.raises(NotPossible, match="Run the same hub move"):
        await move(here, there).cancel(mine.account_id)
    assert (await account_of(there, mine.account_id)).closing() == ""


# --- refused ---------------------------------------------------------------------------------


async def test_rows_that_arrive_otherwise_than_sent_bring_the_account_back(here: Here, there: There) -> None:
    mine = await a_full_account(here.store)
    before = await dumped(here.store)
    there.spoils = True
    with pytest.raises(NotPossible, match="did not arrive as it was sent"):
        await move(here, there).carry(mine.account_id)
    assert await dumped(here.store) == before and await there.count_accounts() == 0
    assert (await account_of(here.store, mine.account_id)).closing() == ""


async def test_an_address_that_the_other_hub_knows_brings_the_account_back(here: Here, there: There) -> None:
    mine = await a_full_account(here.store)
    row = values((await dumped(here.store, [mine.account_id]))[0])
    theirs = with_value(
        (await dumped(here.store, [mine.account_id]))[0], "account_id", other := random_source.token_bytes(16)
    )
    await there.load([with_value(theirs, "billing_ref", None)])
    await there.end_load([other])
    assert row["address_tag"]
    with pytest.raises(NotPossible, match="cannot take"):
        await move(here, there).carry(mine.account_id)
    assert (await account_of(here.store, mine.account_id)).closing() == ""
    assert await there.count_accounts() == 1


async def test_an_account_that_is_nowhere_or_on_another_way_is_called_so(here: Here, there: There) -> None:
    account_id, _, _ = await new_account(here.store)
    with pytest.raises(NotPossible, match="no account"):
        await move(here, there).carry(random_source.token_bytes(16))
    await here.store.begin_move(account_id, "wss://third.example.org/v1/ws")
    with pytest.raises(NotPossible, match=r"moving to wss://third\.example\.org"):
        await move(here, there).carry(account_id)


async def test_an_account_that_is_at_the_other_hub_by_itself_is_left_alone(here: Here, there: There) -> None:
    account_id, _, _ = await new_account(here.store)
    rows = await dumped(here.store, [account_id])
    await there.load(rows)
    await there.end_load([account_id])
    with pytest.raises(NotPossible, match="nothing was moved"):
        await move(here, there).carry(account_id)
    assert (await account_of(here.store, account_id)).closing() == ""


async def test_all_accounts_are_those_that_are_not_just_arriving(here: Here, there: There) -> None:
    ids = sorted([(await new_account(here.store))[0] for _ in range(3)])
    await there.load(await dumped(here.store, ids[:1]))
    assert (await account_of(there, ids[0])).moving_to == ARRIVING
    assert await move(here, there).all_accounts() == ids
    back = Here()
    back.store = there
    assert await move(back, here.store).all_accounts() == []


async def test_a_store_that_goes_away_leaves_an_account_that_can_be_moved_later(here: Here, there: There) -> None:
    mine = await a_full_account(here.store)
    await there.close()
    with pytest.raises(StoreUnavailable):
        await move(here, there).carry(mine.account_id)
    await there.open()
    assert await move(here, there).carry(mine.account_id) is not None


# --- real hubs -------------------------------------------------------------------------------


@pytest.mark.timeout(180)
async def test_devices_follow_from_sqlite_to_postgres_and_nothing_is_lost_or_left(
    tmp_path: Path, one_pg_server: Postgres
) -> None:
    plan = Plan(accounts=2, devices_each=2, before_s=1.0, after_s=0.5)
    report = await run(plan, tmp_path, one_pg_server, lambda line: None)
    assert report.faults == [], report.lines
