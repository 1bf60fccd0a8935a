"""The appends of one transaction, as arrays for ``append_all`` of schema.sql and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hub.store import Answer, Append, Appended
from hub.terms import LOG_KINDS, Change, CollectionId

COUNTER_MAX = 2**63 - 1  # the wire carries 64 bits without a sign, Postgres takes 63; no counter or seq gets there


class _Places(dict[Any, int]):
    """Gives each new key the next place, from 1."""

    def __missing__(self, key: Any) -> int:
        place = self[key] = len(self) + 1
        return place

    def column(self, at: int) -> list[Any]:
        """One part of all keys, in the order of their places."""
        return [key[at] for key in self]


class Batch:
    """What repeats is sent once: a draft names its writer, a writer its log and device, and so on by place."""

    def __init__(self, appends: Sequence[Append]) -> None:
        self._appends = appends
        self._accounts = _Places()
        self._devices = _Places()  # (account, device id)
        self._spaces = _Places()  # (account, space id)
        self._logs = _Places()  # (space, collection id)
        self._writers = _Places()  # (log, device)
        self._requests = [self._request(append) for append in appends]
        self._draft_writers = self._place_drafts()

    def _request(self, append: Append) -> tuple[int, int, int]:
        account = self._accounts[append.account_id]
        return account, self._spaces[account, append.space_id], self._devices[account, append.device_id]

    def _place_drafts(self) -> list[int]:
        places = []
        for append, (_, space, device) in zip(self._appends, self._requests, strict=True):
            for draft in append.drafts:
                assert draft.header.kind in LOG_KINDS, "witnesses are not appended"
                log = self._logs[space, draft.header.collection_id]
                places.append(self._writers[log, device])
        return places

    def arguments(self, now: float, collections_max: int, quota_bytes: int) -> list[object]:
        """The arguments of ``append_all``, in its order."""
        drafts = [draft for append in self._appends for draft in append.drafts]
        headers = [draft.header for draft in drafts]
        lasts = self._lasts()
        firsts = [1, *(last + 1 for last in lasts[:-1])]
        return [
            list(self._accounts),
            *(self._devices.column(1), self._devices.column(0)),
            *(self._spaces.column(1), self._spaces.column(0)),
            *(self._logs.column(1), self._logs.column(0)),
            *(self._writers.column(0), self._writers.column(1)),
            *([space for _, space, _ in self._requests], [device for _, _, device in self._requests]),
            *(firsts, lasts, [append.atomic for append in self._appends]),
            self._draft_writers,
            [int(header.kind) for header in headers],
            [header.conditional for header in headers],
            [header.record_id for header in headers],
            [header.change_id for header in headers],
            [min(header.counter, COUNTER_MAX) for header in headers],
            [header.base for header in headers],
            [min(header.upto, COUNTER_MAX) for header in headers],
            [draft.sealed for draft in drafts],
            *(now, int(now * 1000), collections_max, quota_bytes),
        ]

    def _lasts(self) -> list[int]:
        """The place of the last draft of each append."""
        lasts, last = [], 0
        for append in self._appends:
            last += len(append.drafts)
            lasts.append(last)
        return lasts

    def appended(self, row: Mapping[str, Any], now: float) -> list[Appended]:
        """What became of each append, from the row that ``append_all`` gave."""
        used_bytes: list[int] = list(row["used_before"])
        results, first = [], 0
        for append, (account, _, device) in zip(self._appends, self._requests, strict=True):
            end = first + len(append.drafts)
            closing = row["closings"][device - 1]
            if closing is None:
                fresh = _fresh(append, row, first, int(now * 1000))
                used_bytes[account - 1] += sum(more or 0 for more in (row["mores"] or ())[first:end])
                answers = [_answer(row, number) for number in range(first, end)]
                results.append(Appended(answers, fresh, used_bytes[account - 1]))
            else:
                results.append(Appended([], closing=closing))
            first = end
        return results


def _answer(row: Mapping[str, Any], number: int) -> Answer:
    code = row["codes"] and row["codes"][number]
    if not code:
        return Answer(row["seqs"][number])
    if code == "conflict":
        return Answer(0, code, row["newest_seqs"][number], row["newest_ids"][number])
    return Answer(code=code)


def _fresh(append: Append, row: Mapping[str, Any], first: int, now_ms: int) -> list[tuple[CollectionId, Change]]:
    """The drafts that are newly in the log."""
    return [
        (draft.header.collection_id, Change(row["seqs"][number], now_ms, draft.sealed))
        for number, draft in enumerate(append.drafts, first)
        if row["mores"][number] is not None
    ]
