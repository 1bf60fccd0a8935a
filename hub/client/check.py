"""Detecting a hub that lies about a collection, without I/O.

The seal stops a hub from inventing or altering a change.  It does not stop it
from leaving one out, showing it twice, swapping two, going back to yesterday, or
telling two devices two stories.  Three things do, none of which the hub can read:

* **Counters.**  Each device numbers its changes in a collection 1, 2, 3 ...; the
  number is under the seal.  A number that does not rise was shown before; a jump
  where nothing was compacted is a hole.
* **The digest.**  A collection's *live set* is, for each record, its last put or
  delete, every delta after it, and its last keyring.  The digest is the sum, modulo
  2^256, of one keyed hash per live change and its seq.  Compaction never alters it, and
  two devices at the same seq with the same digest hold the same data.
* **Witnesses.**  A device says, sealed: "at seq S my digest is D, and these are the
  last counters I saw".  One witness that reaches another device compares all.

What follows from compaction: a frame may have holes, and between two frames of one
reading the live set is a mixture of two moments.  The digest means something only
where the state is *exact*: when no seq was missing since an exact point, or when a
frame reaches the head of the very snapshot it was read from.

A failed check raises ``CheckFailed``.  It leaves the state and the live set as they
were, but for ``state.alarms``, where the alarm is noted once.  Nothing is repaired
here and nothing is ever deleted because of an alarm.  docs/protocol.md "Sync check".
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import msgspec

from hub.client.keys import SpaceKeys
from hub.client.sealing import Unopenable, open_sealed, seal
from hub.terms import ID_BYTES, LOG_KINDS, ZERO_ID, CollectionId, DeviceId, Incarnation, Kind, RecordId, Seq
from hub.wire.header import Header

RING_POINTS = 256
WITNESS_DEVICES_MAX = 128  # keeps a witness below Limits.witness_bytes_max
DIGEST_BYTES = 32

_DIGEST_END = 1 << 8 * DIGEST_BYTES
_SEQ = struct.Struct(">Q")
_STATEMENT = struct.Struct(f">Q{DIGEST_BYTES}sI")
_COUNTER = struct.Struct(f">{ID_BYTES}sQ")
_TIME = struct.Struct(">Q")

# Every alarm and what it says to a person.  Names are part of the protocol's document.
ALARMS = {
    "rollback": "The hub went back to an earlier state.",
    "replay": "The hub showed a change a second time or out of order.",
    "gap": "The hub left out a change.",
    "omission": "Another device has seen a change that the hub did not show here.",
    "digest_mismatch": "Another device holds other data at the same place of the log.",
    "clone": "Another device uses this device's identity; one of the two is a copy.",
    "witness_regressed": "The hub showed an old statement of another device after a newer one.",
    "forged": "The hub showed something that no device of this space has sealed.",
    "record_mismatch": "A change was shown under the wrong record.",
    "withheld": "Another device is ahead of what the hub calls the end.",
    "emptied": "The hub lost the data without a word.",
}


class Alarm(NamedTuple):
    """One finding: a name of ``ALARMS``, and where; ``detail`` is a sentence without any content."""

    name: str
    collection_id: CollectionId
    detail: str
    seq: Seq


class CheckFailed(Exception):
    """The hub's answer cannot be true; nothing of it was taken over."""

    def __init__(self, alarm: Alarm) -> None:
        super().__init__(f"{alarm.name}: {alarm.detail}")
        self.alarm = alarm


# --- the live set ----------------------------------------------------------------------------


class LiveEntry(NamedTuple):
    """One live change of a record."""

    change_id: bytes
    seq: Seq
    kind: Kind


class LiveSet(Protocol):
    """The live changes of one collection, by record; the caller's transaction covers it."""

    def get(self, record_id: RecordId) -> list[LiveEntry]:
        """The record's live changes in seq order; empty when there is none."""

    def put(self, record_id: RecordId, entries: list[LiveEntry]) -> None:
        """These and no others are live now; an empty list removes the record."""

    def tombstones(self, upto: Seq) -> list[tuple[RecordId, LiveEntry]]:
        """The live deletes with a seq of at most ``upto``, in any order."""

    def clear(self) -> None:
        """Nothing is live."""

    def count(self) -> int:
        """How many changes are live."""


class MemoryLiveSet:
    """A live set in a dictionary."""

    def __init__(self) -> None:
        self._entries: dict[RecordId, list[LiveEntry]] = {}

    def get(self, record_id: RecordId) -> list[LiveEntry]:
        """See ``LiveSet``."""
        return list(self._entries.get(record_id, ()))

    def put(self, record_id: RecordId, entries: list[LiveEntry]) -> None:
        """See ``LiveSet``."""
        if entries:
            self._entries[record_id] = list(entries)
        else:
            self._entries.pop(record_id, None)

    def tombstones(self, upto: Seq) -> list[tuple[RecordId, LiveEntry]]:
        """See ``LiveSet``."""
        return list(_tombstones(self._entries, upto))

    def clear(self) -> None:
        """See ``LiveSet``."""
        self._entries.clear()

    def count(self) -> int:
        """See ``LiveSet``."""
        return sum(map(len, self._entries.values()))


# --- what is remembered ----------------------------------------------------------------------


class Counter(NamedTuple):
    """A device's last counter; ``strict`` when no change of it can have been left out since."""

    last: int
    strict: bool


class Point(NamedTuple):
    """The digest and the number of live changes at one seq."""

    seq: Seq
    digest: bytes
    n_live: int


class Witnessed(NamedTuple):
    """The counter and the seq of a device's newest witness."""

    counter: int
    seq: Seq


class Statement(msgspec.Struct, frozen=True, array_like=True):
    """What a witness says."""

    seq: Seq
    digest: bytes
    n_live: int
    counters: dict[DeviceId, int]
    at_ms: int  # the witnessing device's clock; for people only
    told: Seq = 0  # what the device had stated when a head was last told; above the next head, it is withheld


class CheckState(msgspec.Struct):
    """What a device remembers of one collection between two pages.  Serialisable; kept with the cursor."""

    incarnation: Incarnation = b""
    seq: Seq = 0
    reached: Seq = 0  # the highest seq ever held in this incarnation
    digest: bytes = bytes(DIGEST_BYTES)
    n_live: int = 0
    exact: bool = True
    whole: bool = True  # no seq was ever missing, so an unknown device has never written
    cold_head: Seq | None = None  # the head told when this reading began: purges up to it were done before
    must_start_over: bool = False
    counters: dict[DeviceId, Counter] = {}  # the device seen last comes last
    ring: list[Point] = []
    witnesses: dict[DeviceId, Witnessed] = {}
    pending: dict[DeviceId, Statement] = {}  # witnesses of a seq this device has not reached
    alarms: list[Alarm] = []


# --- the check -------------------------------------------------------------------------------


class SyncCheck:
    """Judges what the hub says of one collection, page by page.

    ``state`` and ``live`` are the caller's, who saves both in the transaction that
    stores the page.  A reading that begins with ``new_life`` or ``start_over`` asks
    for live changes only, until it has reached the head once.

    When ``state.must_start_over`` is set, a purge may have dropped tombstones that
    this device had not seen: call ``start_over`` and read from 0; records that do not
    come back were deleted.  Until then no digest is compared.
    """

    def __init__(
        self, keys: SpaceKeys, collection_id: CollectionId, device_id: DeviceId, state: CheckState, live: LiveSet
    ) -> None:
        self.state = state
        self._keys = keys
        self._collection_id = collection_id
        self._device_id = device_id
        self._live = live

    def page(self, after: Seq, upto: Seq, head: Seq, entries: Sequence[tuple[Seq, Header]]) -> None:
        """Every kept change in (after, upto], opened already, as the hub sent it with its ``head``.

        Verifies the frame, then takes it over: the state stands at ``upto``.
        Raises ``CheckFailed`` and takes nothing over.
        """
        self._verify_frame(after, upto, head, [seq for seq, _ in entries])
        new = _copied(self.state)
        new.seq, new.reached = upto, max(upto, new.reached)
        if new.cold_head is None:
            new.cold_head = head
        contiguous = len(entries) == upto - after
        complete = contiguous and new.exact
        self._count(new, entries, contiguous)
        fold = _Fold(self._keys.set_key, self._collection_id, self._live, self.state)
        self._apply(new, fold, entries, complete)
        new.exact = (complete or upto == head) and not new.must_start_over
        if new.exact and not complete:
            new.ring.append(Point(upto, new.digest, new.n_live))
        self._verify_pending(new)
        fold.write_down()
        self._take_over(new)

    def head_seen(self, head: Seq) -> None:
        """The hub says that its head is ``head``.  Raises ``CheckFailed`` when it was higher once."""
        if head < self.state.reached:
            raise self._failed("rollback", f"the head is {head} and was {self.state.reached}", head)

    def caught_up(self, head: Seq) -> None:
        """The hub says that its head is ``head``, and that is where this device stands.  Call once for each telling.

        A device that had stated a seq above the head before the previous telling is
        ahead of what the hub admits.  One telling is not enough: an honest hub may
        have looked up the head just before the witness came.
        """
        self.head_seen(head)
        pending = self.state.pending
        for statement in pending.values():
            if statement.told > head:
                raise self._failed("withheld", f"a device stood at {statement.told} when the head was {head}", head)
        for author, statement in pending.items():
            pending[author] = msgspec.structs.replace(statement, told=statement.seq)

    def witness_seen(self, sealed: bytes, own_counter: int | None = None) -> None:
        """Another device's witness, as the hub handed it on; the same one may come again.

        ``own_counter`` is the last counter this device has sealed with in this
        collection, whether or not it was answered.  A witness of another life of
        the log says nothing about this one and is passed over.
        """
        header, statement = self._open_witness(sealed)
        author = header.device_id
        if author == self._device_id or header.base != self.state.incarnation:
            return
        self._verify_newer(author, Witnessed(header.counter, statement.seq))
        if own_counter is not None and statement.counters.get(self._device_id, 0) > own_counter:
            raise self._failed("clone", f"a device has seen more than the {own_counter} changes of this one")
        if statement.seq <= self.state.seq:
            self._compare(self.state, statement)
            self.state.pending.pop(author, None)
        else:
            earlier = self.state.pending.get(author)
            self.state.pending[author] = msgspec.structs.replace(statement, told=earlier.told if earlier else 0)
        self.state.witnesses[author] = Witnessed(header.counter, statement.seq)

    def make_witness(self, counter: int, change_id: bytes, nonce: bytes, now_ms: int) -> bytes | None:
        """This device's sealed witness, or None when there is nothing exact to state.

        ``counter`` is the next of this device's witnesses in this collection, from 1.
        The incarnation goes where other kinds have their base.
        """
        state = self.state
        # Below ``reached`` the device is reading once more, and what it stated must not regress.
        if not state.exact or state.seq == 0 or state.seq < state.reached or len(state.incarnation) != ID_BYTES:
            return None
        seen_last = list(state.counters.items())[-WITNESS_DEVICES_MAX:]
        plaintext = _STATEMENT.pack(state.seq, state.digest, state.n_live)
        plaintext += b"".join(_COUNTER.pack(device_id, known.last) for device_id, known in seen_last)
        return seal(
            self._keys, kind=Kind.WITNESS, flags_conditional=False, collection_id=self._collection_id,
            record_id=ZERO_ID, change_id=change_id, device_id=self._device_id, counter=counter,
            base=state.incarnation, plaintext=plaintext + _TIME.pack(now_ms), nonce=nonce,
        )  # fmt: skip

    def new_life(self, incarnation: Incarnation) -> None:
        """The hub's log begins another life, or the first that this device meets: all but the alarms is forgotten."""
        self._live.clear()
        self._take_over(CheckState(incarnation=incarnation, alarms=self.state.alarms))

    def start_over(self) -> None:
        """Read the collection once more from 0, in the same life; next comes ``page`` with ``after`` 0."""
        self._live.clear()
        state = self.state
        fresh = CheckState(incarnation=state.incarnation, reached=state.reached, ring=state.ring)
        fresh.witnesses, fresh.pending, fresh.alarms = state.witnesses, state.pending, state.alarms
        self._take_over(fresh)

    # --- a page, step by step ---

    def _verify_frame(self, after: Seq, upto: Seq, head: Seq, seqs: list[Seq]) -> None:
        self.head_seen(head)
        expected = last = self.state.seq
        if after != expected:
            raise self._failed("gap" if after > expected else "replay", f"a frame began at {after}, not at {expected}")
        for seq in seqs:
            if seq <= last:
                raise self._failed("replay", f"seq {seq} came after {last}", seq)
            last = seq
        if last > upto:
            raise self._failed("gap", f"a frame up to {upto} reached {last}", last)
        if head < upto:
            raise self._failed("rollback", f"a frame up to {upto} came with head {head}", head)
        # Nothing can have replaced the newest change, so a frame that reaches the head holds it.
        if upto == head != last:
            raise self._failed("omission", "the newest change was missing", head)

    def _count(self, new: CheckState, entries: Sequence[tuple[Seq, Header]], contiguous: bool) -> None:
        for seq, header in entries:
            if header.kind not in LOG_KINDS:
                raise self._failed("forged", f"a {header.kind.name.lower()} has no place in the log", seq)
            last, strict = new.counters.pop(header.device_id, Counter(0, new.whole))
            if header.counter <= last:
                raise self._failed("replay", f"counter {header.counter} of a device came after {last}", seq)
            if contiguous and strict and header.counter != last + 1:
                raise self._failed("gap", f"counter {header.counter} of a device came after {last}", seq)
            new.counters[header.device_id] = Counter(header.counter, True)
        if not contiguous:
            new.whole = False
            new.counters = {device_id: Counter(known.last, False) for device_id, known in new.counters.items()}

    def _apply(self, new: CheckState, fold: _Fold, entries: Sequence[tuple[Seq, Header]], complete: bool) -> None:
        for seq, header in entries:
            if header.kind is Kind.WIPE:
                new.must_start_over = False  # whatever was missed is gone
            elif header.kind is Kind.PURGE and not complete and seq > (new.cold_head or 0):
                new.must_start_over = True
            fold.apply(seq, header)
            if complete:
                new.ring.append(fold.point(seq))
        _, new.digest, new.n_live = fold.point(new.seq)

    def _verify_pending(self, new: CheckState) -> None:
        for author, statement in self.state.pending.items():
            if statement.seq <= new.seq:
                self._compare(new, statement)
                del new.pending[author]

    def _compare(self, state: CheckState, statement: Statement) -> None:
        """Hold a witness against ``state``, which has reached its seq."""
        unknown = Counter(0, state.whole)
        for device_id, counter in statement.counters.items():
            known = state.counters.get(device_id, unknown)
            if known.strict and counter > known.last:
                name = "clone" if device_id == self._device_id else "omission"
                raise self._failed(name, f"counter {counter} of a device is known elsewhere, here {known.last}")
        for point in reversed(state.ring):
            if point.seq == statement.seq and point != (statement.seq, statement.digest, statement.n_live):
                raise self._failed("digest_mismatch", "the digests differ", statement.seq)

    # --- witnesses ---

    def _open_witness(self, sealed: bytes) -> tuple[Header, Statement]:
        try:
            opened = open_sealed(self._keys, sealed, collection_id=self._collection_id)
            if opened.header.kind is not Kind.WITNESS:
                raise Unopenable("not a witness")
            return opened.header, _parse_statement(opened.plaintext)
        except Unopenable as exc:
            raise self._failed("forged", f"a witness: {exc}") from exc

    def _verify_newer(self, author: DeviceId, witnessed: Witnessed) -> None:
        newest = self.state.witnesses.get(author)
        if newest is None or witnessed == newest:
            return
        if witnessed.counter <= newest.counter or witnessed.seq < newest.seq:
            detail = f"number {witnessed.counter} at seq {witnessed.seq} came after {newest.counter} at {newest.seq}"
            raise self._failed("witness_regressed", detail, witnessed.seq)

    # --- the outcome ---

    def _failed(self, name: str, detail: str, seq: Seq | None = None) -> CheckFailed:
        assert name in ALARMS
        alarm = Alarm(name, self._collection_id, detail, self.state.seq if seq is None else seq)
        if alarm not in self.state.alarms:
            self.state.alarms.append(alarm)
        return CheckFailed(alarm)

    def _take_over(self, new: CheckState) -> None:
        del new.ring[:-RING_POINTS]
        for field in CheckState.__struct_fields__:
            setattr(self.state, field, getattr(new, field))


class _Fold:
    """What a page makes of a live set and its digest; written down only when the page has passed."""

    def __init__(self, set_key: bytes, collection_id: CollectionId, live: LiveSet, state: CheckState) -> None:
        self._set_key = set_key
        self._collection_id = collection_id
        self._live = live
        self._emptied = False
        self._changed: dict[RecordId, list[LiveEntry]] = {}
        self._digest = int.from_bytes(state.digest, "big")
        self._n_live = state.n_live

    def apply(self, seq: Seq, header: Header) -> None:
        """The change ``header`` is next."""
        entry = LiveEntry(header.change_id, seq, header.kind)
        match header.kind:
            case Kind.WIPE:
                self._wipe()
            case Kind.PURGE:
                for record_id, tombstone in self._tombstones_upto(header.upto):
                    self._remove(record_id, tombstone)
            case Kind.DELTA:
                self._add(header.record_id, entry)
            case _:
                for other in list(self._own(header.record_id)):
                    if (other.kind is Kind.KEYRING) == (header.kind is Kind.KEYRING):
                        self._remove(header.record_id, other)
                self._add(header.record_id, entry)

    def point(self, seq: Seq) -> Point:
        """The digest after the change with this seq."""
        return Point(seq, self._digest.to_bytes(DIGEST_BYTES, "big"), self._n_live)

    def write_down(self) -> None:
        """Carry everything over to the live set that this began with."""
        if self._emptied:
            self._live.clear()
        for record_id, entries in self._changed.items():
            self._live.put(record_id, entries)

    def _own(self, record_id: RecordId) -> list[LiveEntry]:
        if record_id not in self._changed:
            self._changed[record_id] = [] if self._emptied else list(self._live.get(record_id))
        return self._changed[record_id]

    def _add(self, record_id: RecordId, entry: LiveEntry) -> None:
        self._own(record_id).append(entry)
        self._n_live += 1
        self._digest = (self._digest + self._term(record_id, entry)) % _DIGEST_END

    def _remove(self, record_id: RecordId, entry: LiveEntry) -> None:
        self._own(record_id).remove(entry)
        self._n_live -= 1
        self._digest = (self._digest - self._term(record_id, entry)) % _DIGEST_END

    def _wipe(self) -> None:
        self._emptied = True
        self._changed.clear()
        self._digest = self._n_live = 0

    def _tombstones_upto(self, upto: Seq) -> list[tuple[RecordId, LiveEntry]]:
        kept = [] if self._emptied else self._live.tombstones(upto)
        untouched = [found for found in kept if found[0] not in self._changed]
        return [*untouched, *_tombstones(self._changed, upto)]

    def _term(self, record_id: RecordId, entry: LiveEntry) -> int:
        return term(self._set_key, self._collection_id, record_id, entry.change_id, entry.seq)


def term(set_key: bytes, collection_id: CollectionId, record_id: RecordId, change_id: bytes, seq: Seq) -> int:
    """What one live change adds to the digest: a keyed hash as a 256-bit number."""
    where = collection_id + record_id + change_id + _SEQ.pack(seq)
    return int.from_bytes(hmac.digest(set_key, where, "sha256"), "big")


def _tombstones(entries: dict[RecordId, list[LiveEntry]], upto: Seq) -> Iterator[tuple[RecordId, LiveEntry]]:
    for record_id, live in entries.items():
        for entry in live:
            if entry.kind is Kind.DELETE and entry.seq <= upto:
                yield record_id, entry


def _parse_statement(plaintext: bytes) -> Statement:
    rest = len(plaintext) - _STATEMENT.size - _TIME.size
    if rest < 0 or rest % _COUNTER.size:
        raise Unopenable("its length is wrong")
    seq, digest, n_live = _STATEMENT.unpack_from(plaintext)
    counters = dict(_COUNTER.iter_unpack(plaintext[_STATEMENT.size : -_TIME.size]))
    return Statement(seq, digest, n_live, counters, *_TIME.unpack(plaintext[-_TIME.size :]))


def _copied(state: CheckState) -> CheckState:
    """A copy to work on; only ``alarms`` stays the caller's own, so that a failure is noted at once."""
    return msgspec.structs.replace(
        state, counters=dict(state.counters), ring=list(state.ring), pending=dict(state.pending)
    )
