"""Backups: whole and verified or not there at all; restored into an empty hub, where nobody gets in half-way."""

from __future__ import annotations

import io
import secrets as random_source
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hub.backup import files
from hub.backup.cli import Progress, _size
from hub.backup.restoring import NotPossible, restore
from hub.bundle import BadBundle, Head, Writer
from hub.codes import settle_secrets
from hub.errors import StoreUnavailable
from hub.secrets import BadSecrets, Secrets, new_secrets
from hub.store import Row
from hub.store.memory import MemoryStore
from tests.acceptance.restore import Plan, run
from tests.house_rig import house
from tests.store_exam import a_full_account, account_of, dumped, new_account, values

NOW = 1_800_000_000.0


@pytest.fixture
def keys() -> Secrets:
    return new_secrets(random_source.token_bytes)


@pytest.fixture
async def store(keys: Secrets) -> AsyncIterator[MemoryStore]:
    """A hub's store with two accounts, an invitation and a list."""
    one = MemoryStore()
    await one.open()
    await settle_secrets(one, keys)
    await a_full_account(one)
    await a_full_account(one)
    await one.add_invite(b"h" * 32, NOW)
    await one.list_address(b"l" * 32, "blocked", 20_000)
    yield one


@pytest.fixture
async def empty() -> AsyncIterator[MemoryStore]:
    one = MemoryStore()
    await one.open()
    yield one


async def backup(store: MemoryStore, keys: Secrets, path: Path) -> Path:
    await files.write(store, await files.head_of(store, keys, NOW), path, lambda done: None)
    return path


async def restored(store: MemoryStore, keys: Secrets, path: Path, **more: Any) -> Any:
    return await restore(store, keys, path, **({"new_secrets": False, "tell": lambda done: None} | more))


def inside(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def of_accounts(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row[0] not in ("hub", "invite", "listed")]


# --- writing ---------------------------------------------------------------------------------


async def test_a_backup_is_for_its_owner_alone_and_leaves_nothing_beside_it(
    store: MemoryStore, keys: Secrets, tmp_path: Path
) -> None:
    path = await backup(store, keys, tmp_path / "hub.bundle")
    assert path.stat().st_mode & 0o777 == 0o600
    assert inside(tmp_path) == [path]
    assert files.check(path).rows["account"] == 2


async def test_a_backup_that_fails_leaves_the_older_one_as_it_was(
    store: MemoryStore, keys: Secrets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await backup(store, keys, tmp_path / "hub.bundle")
    before = path.read_bytes()

    monkeypatch.setattr(files, "ROWS_TOGETHER", 5)

    def tell(done: int) -> None:
        store._opened = False  # the database goes away half-way

    with pytest.raises(StoreUnavailable):
        await files.write(store, Head("hub", NOW, "1", b"i" * 16), path, tell)
    assert path.read_bytes() == before and inside(tmp_path) == [path]


async def test_a_backup_that_cannot_be_read_again_is_none(
    store: MemoryStore, keys: Secrets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Writer.end
    monkeypatch.setattr(Writer, "end", lambda writer: whole(writer)[:-1])
    with pytest.raises(BadBundle, match="cut short"):
        await backup(store, keys, tmp_path / "hub.bundle")
    assert inside(tmp_path) == []


def test_of_older_backups_only_those_of_our_own_naming_go(tmp_path: Path) -> None:
    ours = [tmp_path / files.own_name(NOW + 86_400 * day) for day in range(4)]
    for path in [*ours, tmp_path / "hub.bundle", tmp_path / "hub-20260101-000000.bundle.txt"]:
        path.touch()
    assert files.older_ones(tmp_path, 2) == ours[:2]
    assert files.older_ones(tmp_path, 4) == files.older_ones(tmp_path, 5) == []


# --- restoring -------------------------------------------------------------------------------


async def test_everything_comes_back_under_a_new_incarnation(
    store: MemoryStore, empty: MemoryStore, keys: Secrets, tmp_path: Path
) -> None:
    came = await restored(empty, keys, await backup(store, keys, tmp_path / "b"))
    before, after = await dumped(store), await dumped(empty)
    assert of_accounts(after) == of_accounts(before)
    assert [row for row in after if row[0] != "hub"] == [row for row in before if row[0] != "hub"]
    assert await empty.incarnation() != await store.incarnation()
    changes = sum(row[0] == "change" for row in before)
    assert (came.accounts, came.devices, came.changes) == (2, 4, changes)
    for facts in await empty.accounts(limit=9):
        assert facts.account.closing() == ""
    await settle_secrets(empty, keys)


async def test_a_hub_with_accounts_is_not_restored_into(
    store: MemoryStore, empty: MemoryStore, keys: Secrets, tmp_path: Path
) -> None:
    path = await backup(store, keys, tmp_path / "b")
    await new_account(empty)
    before = await dumped(empty)
    with pytest.raises(NotPossible, match="has accounts"):
        await restored(empty, keys, path)
    assert await dumped(empty) == before


async def test_a_restore_that_was_interrupted_lets_nobody_in_and_ends_well_when_it_is_run_again(
    store: MemoryStore, keys: Secrets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cut(Exception):
        pass

    class Cutting(MemoryStore):
        async def end_load(self, account_ids: Any) -> None:
            raise Cut

    path = await backup(store, keys, tmp_path / "b")
    half = Cutting()
    await half.open()
    with pytest.raises(Cut):
        await restored(half, keys, path)
    assert all(facts.account.closing() == "moving" for facts in await half.accounts(limit=9))
    half._loading = type(half._loading)()  # the next run is another process
    monkeypatch.setattr(Cutting, "end_load", MemoryStore.end_load)
    await restored(half, keys, path)
    assert of_accounts(await dumped(half)) == of_accounts(await dumped(store))
    assert all(facts.account.closing() == "" for facts in await half.accounts(limit=9))


async def test_other_secrets_are_refused_before_anything_is_written(
    store: MemoryStore, empty: MemoryStore, keys: Secrets, tmp_path: Path
) -> None:
    path = await backup(store, keys, tmp_path / "b")
    before = await dumped(empty)
    with pytest.raises(BadSecrets, match="--new-secrets"):
        await restored(empty, new_secrets(random_source.token_bytes), path)
    assert await dumped(empty) == before


async def test_with_new_secrets_devices_come_back_and_addresses_do_not(
    store: MemoryStore, empty: MemoryStore, keys: Secrets, tmp_path: Path
) -> None:
    others = new_secrets(random_source.token_bytes)
    path = await backup(store, keys, tmp_path / "b")
    await restored(empty, others, path, new_secrets=True)
    [first, _] = [values(row) for row in await dumped(store) if row[0] == "account"]
    assert await empty.find_account(first["address_tag"]) is None
    assert not (await account_of(empty, first["account_id"])).address_known
    assert len(await empty.devices(first["account_id"])) == 1
    assert await empty.operators() == [] and await empty.count_listed() == {"allowed": 0, "blocked": 0}
    await settle_secrets(empty, others)


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-1], lambda data: data[:900] + b"!" + data[901:]], ids=["cut", "altered"]
)
async def test_a_bad_file_is_refused_before_anything_is_written(
    spoil: Any, store: MemoryStore, empty: MemoryStore, keys: Secrets, tmp_path: Path
) -> None:
    path = await backup(store, keys, tmp_path / "b")
    path.write_bytes(spoil(path.read_bytes()))
    before = await dumped(empty)
    with pytest.raises(BadBundle):
        await restored(empty, keys, path)
    assert await dumped(empty) == before


async def test_a_persons_export_is_no_backup(empty: MemoryStore, keys: Secrets, tmp_path: Path) -> None:
    writer = Writer(Head("account", NOW, "1", b"i" * 16))
    (tmp_path / "b").write_bytes(writer.start() + writer.end())
    with pytest.raises(NotPossible, match="a person's export"):
        await restored(empty, keys, tmp_path / "b")


# --- showing ---------------------------------------------------------------------------------


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_one_line_on_a_terminal_and_nothing_elsewhere() -> None:
    screen, file = Screen(), io.StringIO()
    for out in (screen, file):
        progress = Progress("written", 4_096, out)
        progress.tell(1_024)
        progress.done()
    assert " 25 % 1.0 KiB written" in screen.getvalue() and "\n" not in screen.getvalue()
    assert screen.getvalue().endswith("\r\x1b[K") and file.getvalue() == ""


@pytest.mark.parametrize(
    ("count", "shown"), [(1, "1 byte"), (1_023, "1,023 bytes"), (1_024, "1.0 KiB"), (2**21, "2.0 MiB")]
)
def test_sizes_are_told_in_a_persons_units(count: int, shown: str) -> None:
    assert _size(count) == shown


# --- a real hub and its commands -------------------------------------------------------------


@pytest.mark.timeout(180)
async def test_a_hub_that_lost_everything_is_restored_and_its_devices_bring_what_is_newer(tmp_path: Path) -> None:
    report = await run(
        Plan(accounts=2, devices_each=2, before_s=1.0, after_s=1.0, down_s=0.5), tmp_path, lambda line: None
    )
    assert report.faults == [], report.lines


async def test_the_commands_say_what_is_wrong_and_end_so(tmp_path: Path) -> None:
    async with house(tmp_path) as place:
        backups = tmp_path / "backups"
        backups.mkdir()
        said = await place.command("backup", tmp_path / "one.bundle", "--keep", "1")
        assert (said.status, said.text) == (2, "--keep needs a folder, in which the backups get names of their own.\n")
        for name in ("hub-20200101-000000.bundle", "hub-20210101-000000.bundle", "mine.bundle"):
            (backups / name).touch()
        said = await place.command("backup", backups, "--keep", "2")
        assert said.status == 0 and "0 accounts" in said.text and "The secrets are not in it" in said.text
        kept, new, other = sorted(inside(backups))
        assert (kept.name, other.name) == ("hub-20210101-000000.bundle", "mine.bundle")
        assert await place.hub_remembers() == pytest.approx(time.time(), abs=60)
        said = await place.command("restore", new)
        assert said.status == 1 and "running" in said.text
        said = await place.command("restore", other)
        assert (said.status, said.text) == (1, "The file is cut short: it has no end frame.\n")
