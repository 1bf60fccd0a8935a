"""The home: private, one process at a time, folders known by their marker."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hub.folder.files import MARKER
from hub.folder.home import BadFolder, Home, InUse, write_private


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def test_the_home_is_where_the_person_says(tmp_path: Path) -> None:
    chosen, config = str(tmp_path / "chosen"), str(tmp_path / "config")
    assert Home.default({"HUB_FOLDER_HOME": chosen, "XDG_CONFIG_HOME": config}).path == Path(chosen)
    assert Home.default({"XDG_CONFIG_HOME": config}).path == Path(config) / "sync-hub/folder"


def test_only_its_person_can_read_it(home: Home) -> None:
    home.remember(hub="x")
    assert home.path.stat().st_mode & 0o777 == 0o700
    assert (home.path / "settings.json").stat().st_mode & 0o777 == 0o600


def test_a_private_file_is_private_from_its_first_byte_and_replaces_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("old")
    (tmp_path / "key").chmod(0o644)
    write_private(tmp_path / "key", "new")
    assert (tmp_path / "key").read_text() == "new"
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["key"]


def test_two_processes_cannot_use_one_home(home: Home) -> None:
    with home.locked():
        with pytest.raises(InUse), Home(home.path).locked():
            pass
        home.say_running({"phase": "synced"})
        assert Home(home.path).running()["phase"] == "synced"
    assert home.running() == {}
    with home.locked():
        pass


def test_a_folder_keeps_its_id_also_when_it_is_moved(home: Home, root: Path) -> None:
    folder_id = home.join(root)
    assert home.join(root) == folder_id
    moved = root.rename(root.with_name("moved"))
    assert home.join(moved) == folder_id
    assert home.settings()["folders"] == {folder_id: str(moved)}


def test_a_copied_folder_is_another_one(home: Home, root: Path) -> None:
    folder_id = home.join(root)
    copy = Path(shutil.copytree(root, root.with_name("copy")))
    assert home.join(copy) != folder_id
    assert home.join(root) == folder_id


def test_a_folder_that_lost_its_marker_is_a_new_one(home: Home, root: Path) -> None:
    folder_id = home.join(root)
    (root / MARKER).unlink()
    assert home.join(root) != folder_id
    (root / MARKER).write_text("rubbish")
    assert home.join(root) != "rubbish"


def test_a_folder_that_is_none_or_holds_the_home_is_refused(home: Home, root: Path, tmp_path: Path) -> None:
    with pytest.raises(BadFolder, match="not a folder"):
        home.join(root / "missing")
    with pytest.raises(BadFolder, match="own state"):
        home.join(tmp_path)
    with pytest.raises(BadFolder, match="own state"):
        home.join(home.path)


def test_after_a_logout_nothing_is_left(home: Home, root: Path) -> None:
    folder_id = home.join(root)
    home.state_path(folder_id).write_text("x")
    home.client_path.write_text("x")
    home.say_running({})
    home.forget()
    assert [p for p in home.path.rglob("*") if p.is_file()] == []
