"""A look at a Postgres database from outside, on one connection of its own that is closed again."""

from __future__ import annotations

import statistics
import time

import asyncpg

from hub.errors import StoreUnavailable
from hub.store.look import PINGS, Look
from hub.store.postgres.migrations import MIGRATIONS, versions
from hub.store.postgres.pool import DRIVER_ERRORS, Connection, connect, unavailable


async def look(url: str) -> Look:
    """What the database says.  Raises ``StoreUnavailable`` with a sentence when it does not answer."""
    try:
        db = await connect(url)
    except DRIVER_ERRORS as exc:
        raise unavailable(exc) from None
    try:
        return await _look(db)
    except asyncpg.InsufficientPrivilegeError:
        raise StoreUnavailable("the database answers, but its role may not read the hub's tables") from None
    except DRIVER_ERRORS as exc:
        raise unavailable(exc) from None
    finally:
        await db.close(timeout=5)


async def _look(db: Connection) -> Look:
    times = []
    for _ in range(PINGS):
        started = time.perf_counter()
        await db.fetchval("select 1")
        times.append(time.perf_counter() - started)
    before = time.time()
    clock = float(await db.fetchval("select extract(epoch from clock_timestamp())"))
    skew_s = clock - (before + time.time()) / 2
    found, known = await versions(db), 1 + len(MIGRATIONS)
    rows = await db.fetch("select key, value from hub") if found.version else []
    return Look(
        version=str(await db.fetchval("show server_version")).split()[0],
        schema=found.version,
        schema_known=known,
        too_new=found.compatible > known,
        latency_s=statistics.median(times),
        skew_s=skew_s,
        # Without the right to see them all (pg_monitor) the rows are there, and their state is null.
        standbys=await db.fetchval("select count(*) from pg_stat_replication where sync_state in ('sync', 'quorum')"),
        takes_writes=await db.fetchval("show transaction_read_only") == "off",
        accounts=await db.fetchval("select count(*) from account") if found.version else 0,
        values={str(row["key"]): bytes(row["value"]) for row in rows},
    )
