"""Bundles as files: written whole or not at all, and read again before anybody relies on them."""

from __future__ import annotations

import os
import re
import secrets as random_source
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hub import __version__
from hub.bundle import End, Head, Part, Reader, Writer
from hub.files import sync_folder
from hub.secrets import Secrets, fingerprint
from hub.store import Row, Store

PIECE_BYTES = 1_048_576
ROWS_TOGETHER = 500
OWN_NAME = re.compile(r"hub-\d{8}-\d{6}\.bundle")

Tell = Callable[[int], None]
"""Called now and then with the sealed bytes that are done."""


def own_name(now: float) -> str:
    """How a backup of this moment is called in a folder of backups, in UTC."""
    return time.strftime("hub-%Y%m%d-%H%M%S.bundle", time.gmtime(now))


def older_ones(folder: Path, keep: int) -> list[Path]:
    """The backups in this folder but the newest ``keep``; files of other names are nobody's business."""
    found = sorted(path for path in folder.iterdir() if OWN_NAME.fullmatch(path.name) and path.is_file())
    return found[: max(0, len(found) - keep)]


async def head_of(store: Store, secrets: Secrets, now: float) -> Head:
    """The head of a bundle of the whole hub."""
    generation = max(1, await store.tag_generation())
    return Head(
        "hub", now, __version__, await store.incarnation(), fingerprint(secrets, generation), generation=generation
    )


async def write(store: Store, head: Head, path: Path, tell: Tell) -> End:
    """Write the whole hub, as it is at one moment, to ``path``, in place of what was there.

    The file has mode 0600, is durable, and was read again from its first byte to its
    last when this returns.  Before that it has another name, and when something fails
    it is gone.  Raises ``OSError``, ``StoreUnavailable``, ``BadBundle``.
    """
    with _beside(path) as (file, beside):
        writer = Writer(head)
        file.write(writer.start())
        async with store.dump() as rows:
            async for some in together(rows):
                file.write(writer.rows(some))
                tell(writer.sealed_bytes)
        file.write(writer.end())
        file.flush()
        os.fsync(file.fileno())
        end = check(beside)
        beside.replace(path)
    sync_folder(path.parent)
    return end


def read(path: Path) -> Iterator[Part]:
    """The parts of a bundle; the last one is its end.  Raises ``BadBundle``, ``OSError``."""
    reader = Reader()
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield from reader.feed(piece)
    reader.close()


def check(path: Path) -> End:
    """Read a bundle to its end, which is what this returns.  Raises ``BadBundle``, ``OSError``."""
    (last,) = deque(read(path), maxlen=1)
    assert isinstance(last, End), "a reader is not content before"
    return last


async def together(rows: AsyncIterator[Row]) -> AsyncIterator[Sequence[Row]]:
    """The same rows, many at a time."""
    some: list[Row] = []
    size = 0
    async for row in rows:
        some.append(row)
        size += sum(len(value) for value in row[1] if isinstance(value, bytes))
        if size >= PIECE_BYTES or len(some) == ROWS_TOGETHER:
            yield some
            some, size = [], 0
    if some:
        yield some


@contextmanager
def _beside(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file in the same folder, for this user alone; gone afterwards unless it was renamed."""
    beside = path.with_name(f".{path.name}.{random_source.token_hex(4)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file, beside
    finally:
        beside.unlink(missing_ok=True)
