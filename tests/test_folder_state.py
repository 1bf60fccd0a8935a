"""The agreed states: durable, all or nothing, refused when newer than the program."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from hub.folder.files import DiskFile
from hub.folder.state import State

FILE = DiskFile(b"\x01" * 32, True, 12, 1_700_000_000_123_456_789)


def test_what_was_agreed_is_there_after_opening_again(tmp_path: Path) -> None:
    state = State(tmp_path / "s")
    with state.transaction():
        state.agree("a/b.txt", FILE, b"text " * 1000)
        state.agree("c", FILE._replace(executable=False), None)
        state.watch_version("v", 3)
        state.set_about("folder", "x")
    state.close()
    again = State(tmp_path / "s")
    assert again.all() == {"a/b.txt": FILE, "c": FILE._replace(executable=False)}
    assert again.base("a/b.txt") == b"text " * 1000
    assert again.base("c") is None and again.base("nowhere") is None
    assert again.versions() == {"v": 3}
    assert (again.about("folder"), again.about("else")) == ("x", "")
    again.close()


def test_an_empty_base_is_a_base(tmp_path: Path) -> None:
    state = State(tmp_path / "s")
    with state.transaction():
        state.agree("a", FILE, b"")
    assert state.base("a") == b""
    state.close()


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    state = State(tmp_path / "s")
    with pytest.raises(KeyError), state.transaction():
        state.agree("a", FILE, None)
        raise KeyError
    assert state.all() == {}
    state.close()


def test_forgetting_and_touching(tmp_path: Path) -> None:
    state = State(tmp_path / "s")
    with state.transaction():
        state.agree("a", FILE, b"x")
        state.agree("b", FILE, b"x")
        state.forget("a")
        state.touch("b", 5)
        state.watch_version("v", 1)
        state.drop_version("v")
    assert state.all() == {"b": FILE._replace(mtime_ns=5)}
    assert state.base("b") == b"x"
    assert state.versions() == {}
    state.close()


def test_a_file_of_a_newer_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    State(tmp_path / "s").close()
    db = sqlite3.connect(tmp_path / "s")
    db.execute("pragma user_version = 99")
    db.close()
    with pytest.raises(ValueError, match="newer version"):
        State(tmp_path / "s")
