"""Local edits on their way into the log, without I/O: sealed in order, sent in batches, answered one by one.

An edit is sealed at the last moment: only then are its base and its counter known.
From then on its bytes are fixed, and the very same bytes are sent until they are
answered, over any number of connections and restarts; so it is in the log at most once.

A refused draft uses up no counter, and what was in flight behind it comes back
``out_of_order``.  Those rows, and only those, lose their seal and are sealed anew with
new counters, once nothing of their collection is in flight any more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from hub.client.collection import LocalCollection
from hub.client.keys import SpaceKeys
from hub.client.sealing import padded_bytes, record_plaintext, seal
from hub.client.storage import OutboxRow, State, Storage
from hub.terms import COLLECTION_KINDS, ZERO_ID, DeviceId, Kind, Limits, RecordId, Seq
from hub.wire.header import NONCE_BYTES, SEALED_BYTES_MIN
from hub.wire.messages import DraftAnswer

BATCH_BYTES_MAX = 200 * 1024  # below a frame, above the largest draft
_SENT = (State.SEALED, State.ACKED)
_WHOLE = (Kind.PUT, Kind.DELETE)


class InFlight(NamedTuple):
    """One draft of a request that has no answer yet."""

    n: int
    collection: int
    counter: int


class Batch(NamedTuple):
    """The drafts of one request, in order."""

    drafts: list[bytes]
    flights: list[InFlight]


class Outbox:
    """The outbox of one space.  Calls that write belong into a storage transaction of the caller."""

    def __init__(
        self,
        storage: Storage,
        keys: SpaceKeys,
        device_id: DeviceId,
        collections: dict[int, LocalCollection],
        fresh: Callable[[int], bytes],
    ) -> None:
        self._storage = storage
        self._keys = keys
        self._device_id = device_id
        self._collections = collections
        self._fresh = fresh
        self._in_flight: dict[int, int] = {}  # how many drafts, by collection
        self._sent: set[int] = set()  # the rows of those drafts
        self._resend: set[int] = set(collections)  # collections that may hold sealed rows not in flight
        self._refused: set[int] = set()  # collections whose next counter is not certain after a refusal
        self._over_quota = False
        self._wiping = False

    def session_began(self) -> None:
        """Nothing is in flight on a new connection, and what the last one left sealed is sent again."""
        self._in_flight.clear()
        self._sent.clear()
        self._resend = set(self._collections)
        self._over_quota = False

    def wipe_only(self, on: bool) -> None:
        """From now on send wipes and what is sealed already, and nothing else."""
        self._wiping = on

    def room_again(self) -> None:
        """The account may have room: try again what was over quota."""
        self._over_quota = False

    @property
    def over_quota(self) -> bool:
        """Whether edits wait because the account is full."""
        return self._over_quota

    # --- sending ---

    def next_batch(self, eligible: Collection[int], limits: Limits) -> Batch | None:
        """The next drafts of these collections, sealed and kept; None when there is nothing to send."""
        filling = _Filling(limits)
        for n in [n for n in eligible if n in self._resend]:
            if not self._send_again(n, filling):
                return self._depart(filling)
            self._resend.discard(n)
        if ready := [n for n in eligible if self._may_seal(n)]:
            self._seal_waiting(ready, filling, limits)
        return self._depart(filling)

    def is_in_flight(self, collection: int) -> bool:
        """Whether a draft of the collection has no answer yet."""
        return bool(self._in_flight.get(collection))

    def _send_again(self, n: int, filling: _Filling) -> bool:
        """Add the collection's sealed rows that are not in flight; False when the batch is full."""
        rows = [row for row in self._storage.rows_in(n, State.SEALED) if row.n not in self._sent]
        return all(filling.add(row) for row in sorted(rows, key=lambda row: row.counter))

    def _may_seal(self, n: int) -> bool:
        if n not in self._refused:
            return True
        if self.is_in_flight(n):
            return False
        # The refused counters are free again; those of rows that are still sealed are not.
        local = self._collections[n]
        local.save(counter=max([local.row.answered, *(row.counter for row in self._storage.rows_in(n, State.SEALED))]))
        self._refused.discard(n)
        return True

    def _seal_waiting(self, ready: Sequence[int], filling: _Filling, limits: Limits) -> None:
        after = 0
        counters = {n: self._collections[n].row.counter for n in ready}
        while rows := self._storage.waiting(
            ready, limits.drafts_per_append_max, after=after, freeing_only=self._over_quota
        ):
            after = rows[-1].n
            # A false end: the batch is full. Rows that must wait are passed by, so that they hold up nobody.
            if not all(self._seal_into(row, counters, filling, limits) for row in rows):
                break
        for n, counter in counters.items():
            if counter != self._collections[n].row.counter:
                self._collections[n].save(counter=counter)

    def _seal_into(self, row: OutboxRow, counters: dict[int, int], filling: _Filling, limits: Limits) -> bool:
        """Seal one row into the batch, or pass it by; False when the batch is full."""
        if self._wiping and row.kind is not Kind.WIPE:
            return True
        before = [other for other in self._storage.rows_of(row.collection, row.key) if other.n < row.n]
        if any(other.state not in _SENT for other in before):
            return True
        if row.kind in _WHOLE and any(other.kind is Kind.DELTA for other in before):
            # A delta is taken whatever came before it, so it proves nothing about the log; wait until it is seen there.
            return True
        base = self._base(row, before)
        if row.kind is Kind.DELETE and base == ZERO_ID:
            self._collections[row.collection].done_with(row)  # the log has nothing to delete
            return True
        plaintext = b"" if row.kind is Kind.WIPE else record_plaintext(row.key, row.value or b"")
        size = SEALED_BYTES_MIN + padded_bytes(len(plaintext))
        if size > limits.draft_bytes_max:
            self._storage.save_row(replace(row, state=State.PARKED, reason="too_large"))
            return True
        if not filling.has_room(size):
            return False
        counters[row.collection] += 1
        sealed = self._seal(row, base, counters[row.collection], plaintext)
        row = replace(row, state=State.SEALED, counter=counters[row.collection], sealed=sealed)
        self._storage.save_row(row)
        return filling.add(row)

    def _base(self, row: OutboxRow, before: Sequence[OutboxRow]) -> bytes:
        if row.kind not in _WHOLE:
            return ZERO_ID
        if before:
            return before[-1].change_id
        record = self._storage.record(row.collection, row.key)
        return record.change_id if record else ZERO_ID

    def _seal(self, row: OutboxRow, base: bytes, counter: int, plaintext: bytes) -> bytes:
        collection_id = self._collections[row.collection].row.collection_id
        assert collection_id is not None, "a collection without an id was let in"
        return seal(
            self._keys,
            kind=row.kind,
            flags_conditional=row.conditional and row.kind in _WHOLE,
            collection_id=collection_id,
            record_id=self._record_id(row, collection_id),
            change_id=row.change_id,
            device_id=self._device_id,
            counter=counter,
            base=base,
            plaintext=plaintext,
            nonce=self._fresh(NONCE_BYTES),
        )

    def _record_id(self, row: OutboxRow, collection_id: bytes) -> RecordId:
        return ZERO_ID if row.kind in COLLECTION_KINDS else self._keys.record_id(collection_id, row.key)

    def _depart(self, filling: _Filling) -> Batch | None:
        for flight in filling.flights:
            self._sent.add(flight.n)
            self._in_flight[flight.collection] = self._in_flight.get(flight.collection, 0) + 1
        return Batch(filling.drafts, filling.flights) if filling.drafts else None

    # --- answers ---

    def answered(self, flights: Sequence[InFlight], answers: Sequence[DraftAnswer]) -> list[str]:
        """Take the hub's word on each draft; the refusal codes that somebody must hear of, in order."""
        self._landed(flights)
        codes: list[str] = []
        for flight, answer in zip(flights, answers, strict=True):
            local = self._collections[flight.collection]
            row = self._storage.row(flight.n)
            if answer.code in ("", "wiped"):
                self._accepted(local, flight, row, answer)
                continue
            self._refused.add(flight.collection)
            # The row is gone when its change arrived under another device's name.
            if row is not None and row.state is State.SEALED:
                self._refuse(row, answer)
            if answer.code not in ("conflict", "out_of_order"):
                codes.append(answer.code)
        return codes

    def unanswered(self, flights: Sequence[InFlight]) -> None:
        """The request was refused as a whole: the same bytes go again, since they may be in the log."""
        self._landed(flights)
        self._resend.update(flight.collection for flight in flights)

    def _accepted(self, local: LocalCollection, flight: InFlight, row: OutboxRow | None, answer: DraftAnswer) -> None:
        if flight.counter > local.row.answered:
            local.save(answered=flight.counter)
        if row is None:
            return
        if answer.code:
            local.wiped_away(row)
        elif answer.seq <= local.row.seq:
            # The log has replaced it since, and will not show it any more.
            local.done_with(row)
        else:
            self._storage.save_row(replace(row, state=State.ACKED, seq=answer.seq))

    def _refuse(self, row: OutboxRow, answer: DraftAnswer) -> None:
        loose = unsealed(row)
        match answer.code:
            case "conflict":
                loose = replace(
                    loose, state=State.CONFLICT, need_seq=max(row.need_seq, self._lost_against(row, answer))
                )
            case "quota_exceeded":
                self._over_quota = True
            case "too_large" | "bad_draft":
                loose = replace(loose, state=State.PARKED, reason=answer.code)
        self._storage.save_row(loose)

    def _lost_against(self, row: OutboxRow, answer: DraftAnswer) -> Seq:
        """The seq that must be read before this conflict can be settled."""
        before = [other for other in self._storage.rows_of(row.collection, row.key) if other.n < row.n]
        if answer.newest_seq == 0 and self._base(row, before) != ZERO_ID:
            # The log has not got the base any more, and a wipe or purge that says so has not been read.
            return self._collections[row.collection].row.seq + 1
        return answer.newest_seq

    def _landed(self, flights: Iterable[InFlight]) -> None:
        for flight in flights:
            self._sent.discard(flight.n)
            self._in_flight[flight.collection] -= 1


def unsealed(row: OutboxRow) -> OutboxRow:
    """A sealed row that is not in the log and may be sealed anew; one that collided meanwhile is in conflict."""
    return replace(row, state=State.CONFLICT if row.need_seq else State.WAITING, sealed=b"", counter=0, seq=0)


class _Filling:
    """A request that is being filled, within the bounds of a frame."""

    def __init__(self, limits: Limits) -> None:
        self.drafts: list[bytes] = []
        self.flights: list[InFlight] = []
        self._drafts_left = limits.drafts_per_append_max
        self._bytes_left = min(BATCH_BYTES_MAX, limits.frame_bytes_max - 1024)

    def has_room(self, size: int) -> bool:
        return self._drafts_left > 0 and (size <= self._bytes_left or not self.drafts)

    def add(self, row: OutboxRow) -> bool:
        """False, and nothing added, when it does not fit."""
        if not self.has_room(len(row.sealed)):
            return False
        self.drafts.append(row.sealed)
        self.flights.append(InFlight(row.n, row.collection, row.counter))
        self._drafts_left -= 1
        self._bytes_left -= len(row.sealed)
        return True
