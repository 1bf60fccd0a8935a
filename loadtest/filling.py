"""Logs made long before a measurement begins.

Up to some hundred thousand changes go in by the store's own ``append``, really sealed, so that a client can open them.
Beyond, ``Filler`` writes the rows that ``append`` would have left (a test compares them), with random bytes behind a
true header: what the hub can see is the same.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import asyncpg

from hub.client.keys import SpaceKeys
from hub.client.sealing import record_plaintext, seal
from hub.client.values import encode_body
from hub.store import Append, Draft, Store
from hub.terms import ZERO_ID, CollectionKey, Kind
from hub.wire.header import FLAG_PADDED, HEADER_BYTES, Header, parse_header
from loadtest.dial import collection_id
from loadtest.seed import SeededDevice

VALUE_BYTES = 220
SEALED_BYTES = 408
AT_ONCE = 500  # drafts in one transaction
COPY_ROWS = 100_000  # in one transaction
WRITES_EACH = 2  # of a record, one after the other: so half of a filled log is live
NOISE_BYTES = 1 << 20


def sealed_puts(device: SeededDevice, count: int, *, records: int = 0, collection: int = 0) -> list[Draft]:
    """The first drafts of a device in its n-th collection, sealed under its account's keys.

    Each is of a record of its own, or, with ``records``, they overwrite so many in turn.
    """
    keys = SpaceKeys.derive(device.app_key)
    into = collection_id(keys, collection)
    drafts = []
    for n in range(count):
        key = f"{n % records if records else n:014}"  # as long as the driver's
        sealed = seal(
            keys,
            kind=Kind.PUT,
            flags_conditional=False,
            collection_id=into,
            record_id=keys.record_id(into, key),
            change_id=os.urandom(16),
            device_id=device.device_id,
            counter=n + 1,
            base=ZERO_ID,
            plaintext=record_plaintext(key, encode_body(os.urandom(VALUE_BYTES))),
            nonce=os.urandom(24),
        )
        drafts.append(Draft(parse_header(sealed), sealed))
    return drafts


async def append_all(store: Store, device: SeededDevice, drafts: Sequence[Draft]) -> None:
    """Append them in order, some at a time.  ``AssertionError`` when one is refused."""
    for start in range(0, len(drafts), AT_ONCE):
        some = drafts[start : start + AT_ONCE]
        append = Append(device.account_id, some[0].header.space_id, device.device_id, some)
        (appended,) = await store.append([append], time.time())
        assert not appended.closing and not any(answer.code for answer in appended.answers), appended


# --- far more than can be appended ------------------------------------------------------------


@dataclass(slots=True)
class Log:
    """One collection that is filled: whose it is, its number in the database, its head."""

    device: SeededDevice
    key: CollectionKey
    number: int = 0
    head: int = 0


def logs_of(devices: Sequence[SeededDevice]) -> list[Log]:
    """The first collection of each of these devices, one an account."""
    logs = []
    for device in devices:
        keys = SpaceKeys.derive(device.app_key)
        logs.append(Log(device, CollectionKey(device.account_id, keys.space_id, collection_id(keys))))
    return logs


class Filler:
    """Makes the changes of many logs: each record is written ``WRITES_EACH`` times, the last write is live."""

    def __init__(self, noise: bytes = b"") -> None:
        self._noise = noise or os.urandom(NOISE_BYTES)
        self._at = 0

    def draft(self, log: Log, seq: int) -> Draft:
        """The change that becomes ``seq`` of a log that only its own device writes to."""
        header = Header(
            1, 1, Kind.PUT, FLAG_PADDED, 0, log.key.space_id, log.key.collection_id,
            record_id_of(log, seq), self._random(16), log.device.device_id, seq, ZERO_ID,
        )  # fmt: skip
        return Draft(header, header.pack() + self._random(SEALED_BYTES - HEADER_BYTES))

    def rows(self, logs: Sequence[Log], upto: int, now: float) -> Iterator[dict[str, Any]]:
        """The rows of ``change`` that bring every log to ``upto``, in turn through the logs as appends would come.

        What is not the last write of its record is replaced at ``now``; ``upto`` and the heads are whole records.
        """
        for first in range(min(log.head for log in logs) + 1, upto + 1, WRITES_EACH):
            for log in logs:
                if log.head >= first:
                    continue
                for seq in range(first, first + WRITES_EACH):
                    draft = self.draft(log, seq)
                    header = draft.header
                    yield {
                        "account_id": log.key.account_id,
                        "collection": log.number,
                        "seq": seq,
                        "kind": int(header.kind),
                        "record_id": header.record_id,
                        "change_id": header.change_id,
                        "device_id": header.device_id,
                        "counter": header.counter,
                        "appended_at_ms": int(now * 1000),
                        "replaced_at": now if seq % WRITES_EACH else None,
                        "sealed": draft.sealed,
                    }

    def _random(self, size: int) -> bytes:
        """Bytes of the noise, other ones each time though not all of them new."""
        self._at = (self._at + 7_919) % (len(self._noise) - size)
        return self._noise[self._at : self._at + size]


def record_id_of(log: Log, seq: int) -> bytes:
    """The record a filled change is about."""
    # Spread like the keyed hashes that real record ids are.
    return (((seq - 1) // WRITES_EACH + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128).to_bytes(16, "big")


async def begin(store: Store, logs: Sequence[Log], filler: Filler, now: float) -> None:
    """Append the first record of each log through the store, which makes collection and counter."""
    for log in logs:
        drafts = [filler.draft(log, seq) for seq in range(1, WRITES_EACH + 1)]
        for draft in drafts:
            append = Append(log.key.account_id, log.key.space_id, log.device.device_id, [draft])
            (appended,) = await store.append([append], now)
            assert not appended.answers[0].code, appended
        log.head = WRITES_EACH


async def fill_postgres(url: str, logs: Sequence[Log], upto: int, filler: Filler, now: float) -> None:
    """Bring every log (begun) to ``upto`` by COPY; heads, counters and used bytes follow."""
    db = await asyncpg.connect(url)
    try:
        numbers = {tuple(row[:3]): row[3] for row in await db.fetch(f"select {NAMES}, number from collection")}
        for log in logs:
            log.number = numbers[log.key]
        columns = [row[0] for row in await db.fetch(COLUMNS)]
        rows = (tuple(row[name] for name in columns) for row in filler.rows(logs, upto, now))
        while some := list(islice(rows, COPY_ROWS)):
            await db.copy_records_to_table("change", columns=columns, records=some)
        for statement in FOLLOW:
            await db.execute(statement.format(upto="$1"), upto)
    finally:
        await db.close()
    for log in logs:
        log.head = upto


def fill_sqlite(file: Path, logs: Sequence[Log], upto: int, filler: Filler, now: float) -> None:
    """The same for the file of a hub that does not run."""
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("pragma synchronous = off")
        numbers = {row[:3]: row[3] for row in db.execute(f"select {NAMES}, number from collection")}
        for log in logs:
            log.number = numbers[log.key]
        columns = [name for _, name, *_ in db.execute("pragma table_info(change)")]
        values = ", ".join(f":{name}" for name in columns)
        for some in _parts(filler.rows(logs, upto, now)):
            db.execute("begin immediate")
            db.executemany(f"insert into change ({', '.join(columns)}) values ({values})", some)
            db.execute("commit")
        for statement in FOLLOW:
            db.execute(statement.format(upto="?1"), (upto,))
        db.execute("pragma wal_checkpoint(truncate)")
    for log in logs:
        log.head = upto


NAMES = "account_id, space_id, collection_id"
COLUMNS = """
select attname from pg_attribute where attrelid = 'change'::regclass and attnum > 0 and not attisdropped order by attnum
"""
# What an append moves beside the change itself; every log has one writer, and every space one log.
FOLLOW = (
    "update collection set head = {upto}",
    "update counter set last = {upto}",
    f"update space set used_bytes = {SEALED_BYTES} * {{upto}}",
)


def _parts(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while some := list(islice(rows, COPY_ROWS)):
        yield some
