"""Both keepers of a device's storage sit the exam, and the file answers for what only a file can do wrong."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat

import pytest

from hub.client.storage import SCHEMA_VERSION, MemoryStorage, SqliteStorage, StorageTooNew
from tests.client_storage_exam import ClientStorageExam, Stop, change_everything, everything, fill


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def pragma(storage, name):
    return storage._db.execute(f"pragma {name}").fetchone()[0]


def after_a_crash(path, folder):
    """A storage over the bytes as they lie in the files now, as if the program had died here."""
    folder.mkdir()
    for part in ("", "-wal"):
        shutil.copyfile(f"{path}{part}", f"{folder / path.name}{part}")
    return contextlib.closing(SqliteStorage(folder / path.name))


class TestMemoryStorage(ClientStorageExam):
    def make(self):
        return MemoryStorage()


class TestSqliteStorage(ClientStorageExam):
    @pytest.fixture(autouse=True)
    def _path(self, tmp_path):
        self.path = tmp_path / "device.db"

    def make(self):
        return SqliteStorage(self.path)

    def test_the_file_and_its_log_are_for_the_owner_alone_whatever_the_umask(self):
        before = os.umask(0)
        try:
            with contextlib.closing(self.make()) as storage:
                storage.set_setting("name", b"secret")
                modes = {path.name: mode_of(path) for path in self.path.parent.iterdir()}
        finally:
            os.umask(before)
        assert {"device.db", "device.db-wal"} <= modes.keys()
        assert set(modes.values()) == {0o600}

    def test_every_transaction_is_flushed_to_the_disk(self, storage):
        assert pragma(storage, "synchronous") == 2
        assert pragma(storage, "journal_mode") == "wal"

    def test_everything_is_there_after_reopening(self, storage):
        fill(storage)
        with storage.transaction():
            change_everything(storage)
        before = everything(storage)
        storage.close()
        with contextlib.closing(self.make()) as again:
            assert everything(again) == before

    def test_what_a_transaction_wrote_survives_a_crash_once_its_block_has_ended(self, storage, tmp_path):
        with storage.transaction():
            fill(storage)
        with after_a_crash(self.path, tmp_path / "crashed") as again:
            assert everything(again) == everything(storage)

    def test_a_crash_inside_a_transaction_leaves_nothing_of_it(self, storage, tmp_path):
        fill(storage)
        before = everything(storage)
        with storage.transaction():
            change_everything(storage)
            with after_a_crash(self.path, tmp_path / "crashed") as again:
                assert everything(again) == before

    def test_closing_inside_a_transaction_leaves_nothing_of_it(self):
        storage = self.make()
        with pytest.raises(Stop), storage.transaction():
            storage.set_setting("name", b"lost")
            storage.close()
            raise Stop
        with contextlib.closing(self.make()) as again:
            assert again.setting("name") is None

    def test_a_place_is_not_given_again_after_reopening(self, storage):
        fill(storage)
        (row,) = storage.rows_of(1, "a")
        storage.drop_row(row.n)
        storage.close()
        with contextlib.closing(self.make()) as again:
            assert again.add_row(row).n > row.n

    def test_a_file_of_a_newer_program_is_refused_and_left_as_it_is(self):
        with contextlib.closing(self.make()) as storage:
            storage.set_setting("name", b"kept")
            storage._db.execute(f"pragma user_version = {SCHEMA_VERSION + 1}")
        with pytest.raises(StorageTooNew):
            self.make()
        with contextlib.closing(sqlite3.connect(self.path)) as db:
            assert db.execute("select value from settings").fetchall() == [(b"kept",)]

    def test_a_file_that_is_no_storage_is_refused_and_left_as_it_is(self):
        self.path.write_bytes(b"a letter to a friend " * 100)
        with pytest.raises(sqlite3.DatabaseError):
            self.make()
        assert self.path.read_bytes() == b"a letter to a friend " * 100


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path):
    path = tmp_path / "copied.db"
    path.touch(mode=0o644)
    path.chmod(0o644)
    SqliteStorage(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
