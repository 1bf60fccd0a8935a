"""Two things the system does with folders that its library does not offer: a durable entry, and a short name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Durable on return: what was made, renamed or removed in ``folder`` before.  Raises ``OSError``."""
    if os.name != "posix":  # elsewhere a folder cannot be opened, and need not be
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def reachable(folder: Path, socket: str) -> Iterator[Path]:
    """A short name for a socket in ``folder``, whose path may have 107 bytes and no more.  Raises ``OSError``."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        short = Path(f"/proc/self/fd/{descriptor}")
        yield (short if short.exists() else folder) / socket
    finally:
        os.close(descriptor)
