"""What this folder remembers: the agreed state of every path, in one SQLite file.

A row says: at this moment the file on the disk and the record were the same,
and this is what they were.  Losing the newest rows in a power failure is safe by
the table in ``reconcile.py``: disk and record are then found equal and agree
again.  A row that is *ahead* of the disk is not safe, so a row is written only
after the file's directory is on the disk (``sync.py`` does it in that order).
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hub.folder.files import DiskFile

SCHEMA_VERSION = 1

SCHEMA = """
create table agreed (                -- what folder and record last had in common
    path       text primary key,
    hash       blob not null,
    executable integer not null,
    size       integer not null,     -- bytes; with mtime_ns it saves reading the file at every start
    mtime_ns   integer not null,
    base       blob                  -- small texts, deflated: the base of a three-way merge
) without rowid;
create table versions (              -- versions of chunks that are ours to delete once no record names them
    version    text primary key,
    chunks     integer not null
) without rowid;
create table about (name text primary key, value text not null) without rowid;
"""


class State:
    """The agreed states of one folder.  Use it from one thread; write inside ``with state.transaction()``."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        try:
            self._prepare(path)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, path: Path) -> None:
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = normal")
        (version,) = self._db.execute("pragma user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise ValueError(f"{path} was written by a newer version of this program")
        if version == 0:
            self._db.executescript(f"begin; {SCHEMA} pragma user_version = {SCHEMA_VERSION}; commit;")

    def close(self) -> None:
        """Close the file; everything committed stays."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside, or none."""
        self._db.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")

    def all(self) -> dict[str, DiskFile]:
        """Every path with its agreed state; the merge base is read apart, it is large and rarely needed."""
        rows = self._db.execute("select path, hash, executable, size, mtime_ns from agreed")
        return {path: DiskFile(digest, bool(bit), size, mtime_ns) for path, digest, bit, size, mtime_ns in rows}

    def base(self, path: str) -> bytes | None:
        """The agreed content of a small text, or None."""
        row = self._db.execute("select base from agreed where path = ?", (path,)).fetchone()
        return None if row is None or row[0] is None else zlib.decompress(row[0])

    def agree(self, path: str, agreed: DiskFile, base: bytes | None) -> None:
        """Remember that folder and record have this in common; ``base`` is the content where it may be merged."""
        packed = None if base is None else zlib.compress(base)
        row = (path, agreed.hash, agreed.executable, agreed.size, agreed.mtime_ns, packed)
        self._db.execute("insert or replace into agreed values (?, ?, ?, ?, ?, ?)", row)

    def touch(self, path: str, mtime_ns: int) -> None:
        """The same content has a new modification time."""
        self._db.execute("update agreed set mtime_ns = ? where path = ?", (mtime_ns, path))

    def forget(self, path: str) -> None:
        """Folder and record agree that there is no such file."""
        self._db.execute("delete from agreed where path = ?", (path,))

    def watch_version(self, version: str, chunks: int) -> None:
        """Remember a version of chunks before its first chunk is put, or when its record was replaced."""
        self._db.execute("insert or replace into versions values (?, ?)", (version, chunks))

    def versions(self) -> dict[str, int]:
        """The versions that may have to be deleted, with their counts of chunks."""
        return dict(self._db.execute("select version, chunks from versions"))

    def drop_version(self, version: str) -> None:
        """Its chunks are deleted."""
        self._db.execute("delete from versions where version = ?", (version,))

    def about(self, name: str) -> str:
        """A remembered word about the folder itself; empty when there is none."""
        row = self._db.execute("select value from about where name = ?", (name,)).fetchone()
        return "" if row is None else str(row[0])

    def set_about(self, name: str, value: str) -> None:
        """Remember a word about the folder itself."""
        self._db.execute("insert or replace into about values (?, ?)", (name, value))
