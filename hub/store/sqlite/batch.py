"""Judges the drafts of one batch and keeps the good ones: the appends of one transaction in SQLite."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from typing import cast

from hub.store import Answer, Append, Appended, Draft
from hub.store.sqlite import queries
from hub.terms import (
    FREEING_KINDS,
    LOG_KINDS,
    ZERO_ID,
    AccountId,
    Change,
    CollectionId,
    CollectionKey,
    DeviceId,
    Kind,
    Limits,
    Seq,
    SpaceId,
)
from hub.wire.header import Header

CONTENT = "(1, 2, 8)"  # put, delete, delta
# What a change replaces: live changes of the same record and of these kinds.
REPLACES = {Kind.PUT: CONTENT, Kind.DELETE: CONTENT, Kind.KEYRING: "(6)", Kind.PURGE: "(3)"}


@dataclass(slots=True)
class _Log:
    """A collection, as the batch under way sees it."""

    number: int
    head: Seq
    counters: dict[DeviceId, int] = field(default_factory=dict)
    moved: bool = False  # not yet written


@dataclass(slots=True)
class _Space:
    """A space, as the batch under way sees it."""

    collections: int
    more_bytes: int = 0  # not yet written


class Batch:
    """The appends of one transaction.

    Heads, counters and used bytes are looked up once a batch and written once, by
    ``flush``.  When an append is undone the batch forgets all it has looked up, so
    nothing of that append is left in it.
    """

    def __init__(self, db: sqlite3.Connection, now: float, limits: Limits, quota_bytes: int) -> None:
        self.wiped = False
        self._db = db
        self._now = now
        self._collections_max = limits.collections_per_space_max
        self._default_quota_bytes = quota_bytes
        self._forget()

    def _forget(self) -> None:
        self._alive: dict[tuple[AccountId, DeviceId], bool] = {}
        self._used_bytes: dict[AccountId, int] = {}
        self._quota_bytes: dict[AccountId, int] = {}
        self._closings: dict[AccountId, str] = {}
        self._spaces: dict[tuple[AccountId, SpaceId], _Space | None] = {}
        self._logs: dict[CollectionKey, _Log | None] = {}

    def flush(self) -> None:
        """Write what the appends so far have moved."""
        for key, log in self._logs.items():
            if log is not None and log.moved:
                self._write_log(key.account_id, log)
        for (account_id, space_id), space in self._spaces.items():
            if space is not None and space.more_bytes:
                queries.add_used_bytes(self._db, account_id, space_id, space.more_bytes)
                space.more_bytes = 0

    def _write_log(self, account_id: AccountId, log: _Log) -> None:
        queries.changed(self._db, "update collection set head = ? where number = ?", log.head, log.number)
        self._db.executemany(
            "insert into counter (account_id, collection, device_id, last) values (?, ?, ?, ?)"
            " on conflict do update set last = excluded.last where excluded.last > counter.last",
            [(account_id, log.number, device_id, last) for device_id, last in log.counters.items() if last],
        )
        log.moved = False

    def append(self, append: Append) -> Appended:
        """Judge one request's drafts and keep the good ones."""
        if not self._is_alive(append.account_id, append.device_id):
            return Appended([], closing="revoked")
        self._look_up_account(append.account_id)
        if closing := self._closings[append.account_id]:
            return Appended([], closing=closing)
        appended = self._append_whole(append) if append.atomic else self._append_each(append)
        self._look_up_account(append.account_id)
        return Appended(appended.answers, appended.fresh, self._used_bytes[append.account_id])

    def _append_each(self, append: Append) -> Appended:
        fresh: list[tuple[CollectionId, Change]] = []
        return Appended([self._judge(append, draft, fresh) for draft in append.drafts], fresh)

    def _append_whole(self, append: Append) -> Appended:
        self.flush()
        wiped_before = self.wiped
        self._db.execute("savepoint whole")
        appended = self._append_each(append)
        if any(answer.code for answer in appended.answers):
            self._db.execute("rollback to whole")
            self._forget()
            self.wiped = wiped_before
            appended = Appended(_undone(append, appended))
        self._db.execute("release whole")
        return appended

    def _judge(self, append: Append, draft: Draft, fresh: list[tuple[CollectionId, Change]]) -> Answer:
        header = draft.header
        assert header.kind in LOG_KINDS, "witnesses are not appended"
        space = self._space(append.account_id, append.space_id)
        if space is None:
            return Answer(code="not_found")
        key = CollectionKey(append.account_id, append.space_id, header.collection_id)
        log = self._log(key)
        last = self._last(log, header.device_id) if log else 0
        if log is not None and header.counter <= last:
            return self._first_answer(log, draft)
        if header.counter > last + 1:
            return Answer(code="out_of_order")
        if header.conditional and (conflict := self._conflict(log, header)):
            return conflict
        if log is None and space.collections >= self._collections_max:
            return Answer(code="too_many")
        if header.kind not in FREEING_KINDS and self._is_full(append.account_id, len(draft.sealed)):
            return Answer(code="quota_exceeded")
        change = self._keep(key, log or self._add_log(key, space), space, draft)
        fresh.append((header.collection_id, change))
        return Answer(change.seq)

    def _is_full(self, account_id: AccountId, more_bytes: int) -> bool:
        return self._used_bytes[account_id] + more_bytes > self._quota_bytes[account_id]

    def _first_answer(self, log: _Log, draft: Draft) -> Answer:
        """What a draft with a used counter gets."""
        once = (log.number, draft.header.device_id, draft.header.counter)
        where = "where collection = ? and device_id = ? and counter = ?"
        if kept := self._db.execute(f"select seq, sealed from change {where}", once).fetchone():
            return Answer(kept[0]) if kept[1] == draft.sealed else Answer(code="device_cloned")
        if dropped := self._db.execute(f"select seq, hash16 from receipt {where}", once).fetchone():
            return Answer(dropped[0]) if dropped[1] == queries.hash_of(draft.sealed) else Answer(code="device_cloned")
        return Answer(code="wiped")

    def _conflict(self, log: _Log | None, header: Header) -> Answer | None:
        """The refusal of a conditional draft whose base is not its record's newest change."""
        # Only live changes count: after a purge the record does not exist, though older changes are still kept.
        newest = (
            log
            and self._db.execute(
                "select seq, change_id from change indexed by change_live_of_record where collection = ?"
                f" and record_id = ? and replaced_at is null and kind in {REPLACES[header.kind]}"
                " order by seq desc limit 1",
                (log.number, header.record_id),
            ).fetchone()
        )
        seq, change_id = newest or (0, ZERO_ID)
        return None if change_id == header.base else Answer(0, "conflict", seq, change_id)

    def _keep(self, key: CollectionKey, log: _Log, space: _Space, draft: Draft) -> Change:
        """Give the draft the next seq and let it do to the log what its kind says."""
        header = draft.header
        more_bytes = len(draft.sealed)
        if header.kind in REPLACES:
            self._replace(log, header)
        if header.kind is Kind.PURGE:
            more_bytes -= self._purge(log, header.upto)
        if header.kind is Kind.WIPE:
            more_bytes -= self._wipe(log)
        log.head += 1
        log.counters[header.device_id] = header.counter
        log.moved = True
        space.more_bytes += more_bytes
        self._used_bytes[key.account_id] += more_bytes
        change = Change(log.head, int(self._now * 1000), draft.sealed)
        self._insert(key.account_id, log.number, header, change)
        return change

    def _insert(self, account_id: AccountId, number: int, header: Header, change: Change) -> None:
        self._db.execute(
            "insert into change (account_id, collection, seq, kind, record_id, change_id, device_id, counter,"
            " appended_at_ms, sealed) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                account_id,
                number,
                change.seq,
                int(header.kind),
                header.record_id,
                header.change_id,
                header.device_id,
                header.counter,
                change.appended_at_ms,
                change.sealed,
            ),
        )

    def _replace(self, log: _Log, header: Header) -> None:
        self._db.execute(
            "update change indexed by change_live_of_record set replaced_at = ? where collection = ?"
            f" and record_id = ? and replaced_at is null and kind in {REPLACES[header.kind]}",
            (self._now, log.number, header.record_id),
        )

    def _purge(self, log: _Log, upto: Seq) -> int:
        tombstones = self._db.execute(
            "select seq from change indexed by change_tombstone"
            " where collection = ? and seq <= ? and kind = 2 and replaced_at is null",
            # The wire carries 64 bits without a sign, SQLite takes 63.
            (log.number, min(upto, log.head)),
        )
        return queries.drop_changes(self._db, log.number, [seq for (seq,) in tombstones.fetchall()])

    def _wipe(self, log: _Log) -> int:
        self.wiped = True
        query = "select coalesce(sum(length(sealed)), 0) from change where collection = ?"
        (freed,) = self._db.execute(query, (log.number,)).fetchone()
        for table in ("change", "receipt", "witness"):
            self._db.execute(f"delete from {table} where collection = ?", (log.number,))
        return cast(int, freed)

    # What the batch looks up, and remembers.

    def _is_alive(self, account_id: AccountId, device_id: DeviceId) -> bool:
        if (account_id, device_id) not in self._alive:
            self._alive[account_id, device_id] = queries.is_alive(self._db, account_id, device_id)
        return self._alive[account_id, device_id]

    def _look_up_account(self, account_id: AccountId) -> None:
        if account_id not in self._used_bytes:
            account = queries.find_account(self._db, account_id)
            assert account is not None, "a device belongs to an account"
            self._used_bytes[account_id] = account.used_bytes
            self._closings[account_id] = account.closing()
            own = account.own_quota(self._now)
            self._quota_bytes[account_id] = self._default_quota_bytes if own is None else own

    def _space(self, account_id: AccountId, space_id: SpaceId) -> _Space | None:
        if (account_id, space_id) not in self._spaces:
            found = queries.find_space(self._db, account_id, space_id)
            query = "select count(*) from collection where account_id = ? and space_id = ?"
            (collections,) = self._db.execute(query, (account_id, space_id)).fetchone()
            self._spaces[account_id, space_id] = _Space(collections) if found else None
        return self._spaces[account_id, space_id]

    def _log(self, key: CollectionKey) -> _Log | None:
        if key not in self._logs:
            found = queries.find_collection(self._db, key)
            self._logs[key] = _Log(*found) if found else None
        return self._logs[key]

    def _add_log(self, key: CollectionKey, space: _Space) -> _Log:
        query = "insert into collection (account_id, space_id, collection_id, head) values (?, ?, ?, 0)"
        number = self._db.execute(query, key).lastrowid
        assert number is not None, "an insert has a rowid"
        space.collections += 1
        log = self._logs[key] = _Log(number, 0)
        return log

    def _last(self, log: _Log, device_id: DeviceId) -> int:
        if device_id not in log.counters:
            query = "select last from counter where collection = ? and device_id = ?"
            (log.counters[device_id],) = self._db.execute(query, (log.number, device_id)).fetchone() or (0,)
        return log.counters[device_id]


def _undone(append: Append, appended: Appended) -> list[Answer]:
    """The answers of an all-or-nothing append that came to nothing."""
    taken_back = {(collection_id, change.seq) for collection_id, change in appended.fresh}
    return [
        Answer(code="atomic_refused") if (draft.header.collection_id, answer.seq) in taken_back else answer
        for draft, answer in zip(append.drafts, appended.answers, strict=True)
    ]
