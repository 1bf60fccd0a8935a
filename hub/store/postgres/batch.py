"""The appends of one transaction, as arguments for ``append_all`` or ``append_one`` of schema.sql and back.

This runs for every draft there is, so it is written for that: lists that grow together
instead of an object a draft, and few, large values: ids and sealed bytes go joined, and
numbers as the text of an array.  With the driver's own arrays, which took 0.2 to 0.8 us
an element, a draft cost 10.4 us of the hub from here to the answers; it costs 5.9.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from hub.store import Answer, Append, Appended, Draft
from hub.terms import LOG_KINDS, Change, CollectionId, Kind
from hub.wire.header import FLAG_CONDITIONAL

COUNTER_MAX = 2**63 - 1  # the wire carries 64 bits without a sign, Postgres takes 63; no counter or seq gets there
PLAIN_KINDS = frozenset((Kind.PUT, Kind.DELETE, Kind.KEYRING, Kind.DELTA))
NEVER_PLAIN = 0  # as a writer's first counter: counters start at 1

# Each argument of ``append_all``, in its order; a list of numbers travels as text.
_TYPES = """
bytea bigint[] bytea integer[] bytea integer[] bigint[] bytea integer[] integer[]
integer[] integer[] bigint[] bigint[] integer[] boolean[]
integer[] integer[] bigint[] boolean[] integer[] integer[] bytea boolean boolean
double bigint integer bigint
""".replace("double", "float8").split()
_ARGUMENTS = [f"${n}::text::{each}" if each.endswith("[]") else f"${n}::{each}" for n, each in enumerate(_TYPES, 1)]
APPEND = f"select * from append_all({', '.join(_ARGUMENTS)})"
APPEND_ONE = "select * from append_one($1, $2, $3, $4, $5, $6, $7, $8, $9)"


class Alone:
    """A batch of one draft: what is told and answered without a list, as most batches of a calm hub are.

    A batch of one took 0.86 ms by ``append_all`` and takes 0.58 ms by ``append_one``, commit and round trip included.
    """

    query = APPEND_ONE

    def __init__(self, append: Append) -> None:
        self._append = append

    def arguments(self, now: float, collections_max: int, quota_bytes: int) -> list[object]:
        """The arguments of ``APPEND_ONE``, in its order."""
        append = self._append
        draft = append.drafts[0]
        counter = min(draft.header.counter, COUNTER_MAX)
        return [
            *(append.account_id, append.space_id, append.device_id, counter, draft.sealed),
            *(now, int(now * 1000), collections_max, quota_bytes),
        ]

    def appended(self, row: Sequence[Any], now: float) -> list[Appended]:
        """What became of it, from the row that ``append_one`` gave."""
        closing, code, seq, newest_seq, newest_id, more_bytes, used_bytes = row
        if closing is not None:
            return [Appended([], closing=closing)]
        if code is None:
            answer = Answer(seq)
        elif code == "conflict":
            answer = Answer(0, code, newest_seq, newest_id)
        else:
            answer = Answer(code=code)
        fresh: list[tuple[CollectionId, Change]] = []
        if more_bytes is not None:
            draft = self._append.drafts[0]
            fresh.append((draft.header.collection_id, Change(seq, int(now * 1000), draft.sealed)))
        return [Appended([answer], fresh, used_bytes)]


class Batch:
    """What repeats is sent once: a draft names its writer, a writer its log and device, and so on by place, from 1."""

    query = APPEND

    def __init__(self, appends: Sequence[Append]) -> None:
        self._appends = appends
        self._accounts: dict[bytes, int] = {}
        self._account_bytes: list[int] = []
        self._spaces: dict[tuple[bytes, bytes], int] = {}  # (account id, space id)
        self._space_account: list[int] = []
        self._space_bytes: list[int] = []
        self._devices: dict[tuple[bytes, bytes], int] = {}  # (account id, device id)
        self._device_space: list[int] = []
        self._logs: dict[tuple[int, bytes], int] = {}  # (space, collection id)
        self._log_drafts: list[int] = []
        self._writers: dict[tuple[int, int], int] = {}  # (log, device)
        self._writer_log: list[int] = []
        self._writer_first: list[int] = []
        self._writer_last: list[int] = []
        self._append_space: list[int] = []
        self._append_device: list[int] = []
        self._append_last: list[int] = []
        self._drafts: list[Draft] = []
        self._writer: list[int] = []  # this and the next two: one for each draft
        self._step: list[int] = []
        self._counter: list[int] = []
        self._conditional = self._idle = self._atomic = False
        for append in appends:
            self._take(append)
        self._replaced: list[bool] | None = None
        if len(self._logs) < len(self._drafts):
            self._look_within()

    def _take(self, append: Append) -> None:
        account_id = append.account_id
        key = (account_id, append.space_id)
        space = self._spaces.get(key)
        if space is None:
            space = self._spaces[key] = len(self._spaces) + 1
            account = self._accounts.get(account_id)
            if account is None:
                account = self._accounts[account_id] = len(self._accounts) + 1
                self._account_bytes.append(0)
            self._space_account.append(account)
            self._space_bytes.append(0)
        key = (account_id, append.device_id)
        device = self._devices.get(key)
        if device is None:
            device = self._devices[key] = len(self._devices) + 1
            self._device_space.append(space)
        size = 0
        for draft in append.drafts:
            self._take_draft(draft, space, device)
            size += len(draft.sealed)
        self._space_bytes[space - 1] += size
        self._account_bytes[self._space_account[space - 1] - 1] += size
        self._append_space.append(space)
        self._append_device.append(device)
        self._append_last.append(len(self._drafts))
        if append.atomic:
            self._atomic = True
        if not size:
            self._idle = True

    def _take_draft(self, draft: Draft, space: int, device: int) -> None:
        _, _, kind, flags, _, _, collection_id, _, _, _, counter, _ = draft.header
        log = self._logs.get((space, collection_id))
        if log is None:
            log = self._logs[space, collection_id] = len(self._logs) + 1
            self._log_drafts.append(0)
        if counter > COUNTER_MAX:
            counter = COUNTER_MAX
        writer = self._writers.get((log, device))
        if writer is None:
            writer = self._writers[log, device] = len(self._writers) + 1
            self._writer_log.append(log)
            self._writer_first.append(counter)
            self._writer_last.append(counter)
        elif counter == self._writer_last[writer - 1] + 1:
            self._writer_last[writer - 1] = counter
        else:
            self._writer_first[writer - 1] = NEVER_PLAIN
        if kind not in PLAIN_KINDS:
            assert kind in LOG_KINDS, "witnesses are not appended"
            self._writer_first[writer - 1] = NEVER_PLAIN
        if flags & FLAG_CONDITIONAL:
            self._conditional = True
        self._log_drafts[log - 1] = step = self._log_drafts[log - 1] + 1
        self._drafts.append(draft)
        self._writer.append(writer)
        self._step.append(step)
        self._counter.append(counter)

    def _look_within(self) -> None:
        """Which drafts a later one of the batch replaces; and no conditional one is plain whose base may be here."""
        headers = [draft.header for draft in self._drafts]
        records = [
            (self._writer_log[writer - 1], header.record_id, header.kind is Kind.KEYRING)
            for header, writer in zip(headers, self._writer, strict=True)
        ]
        if len(set(records)) == len(records):
            return
        seen = set()
        for header, writer, record in zip(headers, self._writer, records, strict=True):
            if record in seen and header.conditional:
                self._writer_first[writer - 1] = NEVER_PLAIN
            seen.add(record)
        replaced, later = [], set()
        for header, record in zip(reversed(headers), reversed(records), strict=True):
            replaced.append(record in later)
            if header.kind is not Kind.DELTA:
                later.add(record)
        self._replaced = replaced[::-1]

    def arguments(self, now: float, collections_max: int, quota_bytes: int) -> list[object]:
        """The arguments of ``APPEND``, in its order."""
        sealed = [draft.sealed for draft in self._drafts]
        sizes = list(map(len, sealed))
        return [
            *(b"".join(self._accounts), _text(self._account_bytes)),
            *(b"".join([device_id for _, device_id in self._devices]), _text(self._device_space)),
            b"".join([space_id for _, space_id in self._spaces]),
            *(_text(self._space_account), _text(self._space_bytes)),
            b"".join([collection_id for _, collection_id in self._logs]),
            *(_text([space for space, _ in self._logs]), _text(self._log_drafts)),
            *(_text(self._writer_log), _text([device for _, device in self._writers])),
            *(_text(self._writer_first), _text(self._writer_last)),
            _text(self._append_last),
            _text([append.atomic for append in self._appends]) if self._atomic else None,
            *(_text(self._writer), _text(self._step), _text(self._counter)),
            None if self._replaced is None else _text(self._replaced),
            *(_text([0, *accumulate(sizes)][:-1]), _text(sizes), b"".join(sealed)),
            *(self._conditional, self._idle),
            *(now, int(now * 1000), collections_max, quota_bytes),
        ]

    def appended(self, row: Sequence[Any], now: float) -> list[Appended]:
        """What became of each append, from the row that ``append_all`` gave."""
        used_before, heads, closings, codes, seqs, newest_seqs, newest_ids, mores = row
        used = dict(zip(self._space_account, used_before or (), strict=True))
        now_ms = int(now * 1000)
        if codes is None:
            seqs = [
                heads[self._writer_log[writer - 1] - 1] + step
                for writer, step in zip(self._writer, self._step, strict=True)
            ]
        results, number = [], 0
        for append, space, device in zip(self._appends, self._append_space, self._append_device, strict=True):
            if closings is not None and closings[device - 1] is not None:
                results.append(Appended([], closing=closings[device - 1]))
                number += len(append.drafts)
                continue
            answers: list[Answer] = []
            fresh: list[tuple[CollectionId, Change]] = []
            account = self._space_account[space - 1]
            for draft in append.drafts:
                sealed = draft.sealed
                if codes is None or codes[number] is None:
                    answers.append(Answer(seqs[number]))
                elif codes[number] == "conflict":
                    answers.append(Answer(0, "conflict", newest_seqs[number], newest_ids[number]))
                else:
                    answers.append(Answer(code=codes[number]))
                more = len(sealed) if codes is None else mores[number]
                if more is not None:
                    fresh.append((draft.header.collection_id, Change(seqs[number], now_ms, sealed)))
                    used[account] += more
                number += 1
            results.append(Appended(answers, fresh, used[account]))
        return results


def _text(values: Sequence[int]) -> str:
    """An array of numbers or booleans as Postgres reads it."""
    return f"{{{str(values)[1:-1]}}}"


def batch_of(appends: Sequence[Append]) -> Alone | Batch:
    """What to ask, and how to read what comes back."""
    return Alone(appends[0]) if len(appends) == 1 and len(appends[0].drafts) == 1 else Batch(appends)
