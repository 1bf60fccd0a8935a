"""A look at a database file from outside: no lock, no writing, beside a running hub or without one."""

from __future__ import annotations

import sqlite3
import statistics
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from hub.errors import StoreUnavailable
from hub.store.look import PINGS, Look
from hub.store.sqlite.file import MIGRATIONS

WAIT_S = 2.0


def look(path: Path) -> Look:
    """What the file says.  Raises ``StoreUnavailable`` when there is none, or it cannot be read."""
    if not path.exists():
        raise StoreUnavailable("there is no database file yet; the first start makes it")
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=WAIT_S)) as db:
            return _look(db)
    except sqlite3.Error:
        raise StoreUnavailable("the database file cannot be read, or is no database") from None


def _look(db: sqlite3.Connection) -> Look:
    times = []
    for _ in range(PINGS):
        started = time.perf_counter()
        db.execute("select count(*) from sqlite_master").fetchone()
        times.append(time.perf_counter() - started)
    known = 1 + len(MIGRATIONS)
    made = db.execute("select 1 from sqlite_master where name = 'hub'").fetchone()
    values = {str(key): bytes(value) for key, value in db.execute("select key, value from hub")} if made else {}
    version = int(values.get("schema_version", b"0"))
    accounts = int(db.execute("select count(*) from account").fetchone()[0]) if made else 0
    return Look(
        version=sqlite3.sqlite_version,
        schema=version,
        schema_known=known,
        too_new=version > known,
        latency_s=statistics.median(times),
        skew_s=0.0,
        standbys=0,
        takes_writes=True,
        accounts=accounts,
        values=values,
    )
