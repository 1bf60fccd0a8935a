"""A hub and a device small enough to be believed, and a hub that lies.

``ModelHub`` is one collection's log in dictionaries: what an honest hub does, and
nothing else.  ``ModelDevice`` seals, reads and checks as a client must, without a
local store.  ``LyingHub`` is a ModelHub whose keeper is hostile: each lie is one
method, to be called between honest steps.
"""

from __future__ import annotations

import copy
import random
from typing import NamedTuple

import msgspec

from hub.client.check import Alarm, CheckFailed, CheckState, LiveEntry, MemoryLiveSet, SyncCheck, term
from hub.client.keys import SpaceKeys
from hub.client.sealing import Opened, Unopenable, WrongRecord, open_sealed, record_plaintext, seal, split_record
from hub.errors import Refusal
from hub.terms import COLLECTION_KINDS, ZERO_ID, Kind
from hub.wire.header import Header, parse_header

REPLACED_BY = {
    Kind.PUT: {Kind.PUT, Kind.DELETE, Kind.DELTA},
    Kind.DELETE: {Kind.PUT, Kind.DELETE, Kind.DELTA},
    Kind.KEYRING: {Kind.KEYRING},
    Kind.PURGE: {Kind.PURGE},
    Kind.DELTA: set(),
}
RECORD_KINDS = {Kind.PUT, Kind.DELETE, Kind.DELTA}


class Frame(NamedTuple):
    """Every kept change in (after, upto], and the head of the moment it was read."""

    after: int
    upto: int
    head: int
    changes: list[tuple[int, bytes]]


class ModelHub:
    """One collection's log, kept honestly."""

    def __init__(self, incarnation: bytes) -> None:
        self.incarnation = incarnation
        self.head = 0
        self.kept: dict[int, bytes] = {}  # in seq order
        self.replaced: set[int] = set()  # kept for history, no longer live
        self.counters: dict[bytes, int] = {}
        self.receipts: dict[tuple[bytes, int], tuple[int, bytes]] = {}
        self.kept_witnesses: dict[bytes, tuple[int, bytes]] = {}

    def append(self, sealed: bytes) -> int:
        """The seq of this draft, the same one each time it comes.  Raises ``Refusal``."""
        header = parse_header(sealed)
        if header.counter <= self.counters.get(header.device_id, 0):
            return self._answer_again(header, sealed)
        if header.counter != self.counters.get(header.device_id, 0) + 1:
            raise Refusal("out_of_order")
        if header.conditional and self._newest_id(header) != header.base:
            raise Refusal("conflict")
        self.head += 1
        self._make_room(header)
        self.kept[self.head] = sealed
        self.counters[header.device_id] = header.counter
        self.receipts[header.device_id, header.counter] = (self.head, sealed)
        return self.head

    def compact(self) -> None:
        """Drop all that was replaced: the history window has passed."""
        for seq in self.replaced:
            del self.kept[seq]
        self.replaced.clear()

    def read(self, after: int, *, live_only: bool = False, changes_max: int = 500) -> Frame:
        """The next frame after ``after``."""
        found = [
            (seq, sealed)
            for seq, sealed in self.kept.items()
            if seq > after and not (live_only and seq in self.replaced)
        ]
        page = found[:changes_max]
        upto = page[-1][0] if len(found) > changes_max else self.head
        return Frame(after, upto, self.head, page)

    def put_witness(self, sealed: bytes) -> bool:
        """Keep a device's newest witness; False when it is not newer."""
        header = parse_header(sealed)
        if header.counter <= self.kept_witnesses.get(header.device_id, (0, b""))[0]:
            return False
        self.kept_witnesses[header.device_id] = (header.counter, sealed)
        return True

    def witnesses(self, besides: bytes) -> list[bytes]:
        """The newest witness of each other device."""
        return [sealed for device_id, (_, sealed) in self.kept_witnesses.items() if device_id != besides]

    def live_digest(self, keys: SpaceKeys) -> bytes:
        """What the digest at the head must be, computed afresh from the live rows."""
        total = 0
        for seq, sealed in self.kept.items():
            header = parse_header(sealed)
            if seq not in self.replaced and header.kind not in COLLECTION_KINDS:
                total += term(keys.set_key, header.collection_id, header.record_id, header.change_id, seq)
        return (total % 2**256).to_bytes(32, "big")

    def snapshot(self) -> ModelHub:
        """A backup."""
        return copy.deepcopy(self)

    def restore(self, backup: ModelHub, incarnation: bytes) -> None:
        """The operator puts a backup back and says so: another life of the log begins."""
        self.__dict__.update(copy.deepcopy(backup).__dict__)
        self.incarnation = incarnation

    def _answer_again(self, header: Header, sealed: bytes) -> int:
        seq, first = self.receipts.get((header.device_id, header.counter), (0, b""))
        if not seq:
            raise Refusal("wiped")
        if first != sealed:
            raise Refusal("device_cloned")
        return seq

    def _newest_id(self, header: Header) -> bytes:
        same = RECORD_KINDS if header.kind in RECORD_KINDS else {header.kind}
        for sealed in reversed(self.kept.values()):
            other = parse_header(sealed)
            if other.record_id == header.record_id and other.kind in same:
                return other.change_id
        return ZERO_ID

    def _make_room(self, header: Header) -> None:
        if header.kind is Kind.WIPE:
            for gone in (self.kept, self.replaced, self.receipts, self.kept_witnesses):
                gone.clear()
            return
        for seq, sealed in list(self.kept.items()):
            other = parse_header(sealed)
            if other.record_id == header.record_id and other.kind in REPLACED_BY[header.kind]:
                self.replaced.add(seq)
            elif header.kind is Kind.PURGE and other.kind is Kind.DELETE and self._is_live_upto(seq, header.upto):
                del self.kept[seq]

    def _is_live_upto(self, seq: int, upto: int) -> bool:
        return seq <= upto and seq not in self.replaced


class ModelDevice:
    """A device that writes, reads and checks one collection; all its randomness comes from ``rng``."""

    def __init__(self, keys: SpaceKeys, collection: str, rng: random.Random) -> None:
        self.keys = keys
        self.rng = rng
        self.collection_id = keys.collection_id(collection)
        self.device_id = rng.randbytes(16)
        self.live = MemoryLiveSet()
        self.check = SyncCheck(keys, self.collection_id, self.device_id, CheckState(), self.live)
        self.counter = 0
        self.witness_counter = 0
        self.outbox: list[bytes] = []
        self.held: Frame | None = None  # on its way from the hub
        self.reads_live_only = True

    @property
    def state(self) -> CheckState:
        """What the check remembers."""
        return self.check.state

    def draft(self, kind: Kind, key: str = "", body: bytes = b"", *, upto: int = 0) -> bytes:
        """Seal one change and put it into the outbox; ``upto`` is a purge's."""
        about_all = kind in COLLECTION_KINDS
        record_id = ZERO_ID if about_all else self.keys.record_id(self.collection_id, key)
        self.counter += 1
        sealed = seal(
            self.keys, kind=kind, flags_conditional=False, collection_id=self.collection_id, record_id=record_id,
            change_id=self.rng.randbytes(16), device_id=self.device_id, counter=self.counter,
            base=self._base(kind, record_id, upto), plaintext=b"" if about_all else record_plaintext(key, body),
            nonce=self.rng.randbytes(24),
        )  # fmt: skip
        self.outbox.append(sealed)
        return sealed

    def write(self, hub: ModelHub, kind: Kind, key: str = "", body: bytes = b"", *, upto: int = 0) -> int:
        """Draft and push; the seq of the change."""
        self.draft(kind, key, body, upto=upto)
        return self.push(hub)

    def push(self, hub: ModelHub) -> int:
        """Have the outbox appended; the seq of its last change."""
        self.greet(hub)
        seq = 0
        for sealed in self.outbox:
            seq = hub.append(sealed)
        self.outbox.clear()
        return seq

    def greet(self, hub: ModelHub) -> None:
        """Connect: learn which life of the log this is."""
        if hub.incarnation == self.state.incarnation:
            return
        if self.state.incarnation:  # numbers of another life mean nothing now
            self.outbox.clear()
            self.counter = hub.counters.get(self.device_id, 0)
        self.check.new_life(hub.incarnation)
        self.held, self.reads_live_only = None, True

    def look_up(self, hub: ModelHub, changes_max: int = 500) -> None:
        """The hub reads a frame for this device; it arrives with ``deliver``."""
        self.greet(hub)
        if self.held is None:
            self.held = hub.read(self.state.seq, live_only=self.reads_live_only, changes_max=changes_max)

    def deliver(self) -> None:
        """The frame arrives: open, check, take over.  Raises ``CheckFailed``."""
        frame, self.held = self.held, None
        if frame is None:
            return
        entries = [(seq, self._open(seq, sealed).header) for seq, sealed in frame.changes]
        self.check.page(frame.after, frame.upto, frame.head, entries)
        if self.state.must_start_over:
            self.check.start_over()
            self.reads_live_only = True
        elif frame.upto == frame.head:
            self.reads_live_only = False
            self.check.caught_up(frame.head)

    def hear(self, hub: ModelHub) -> None:
        """The witnesses of the others arrive.  Raises ``CheckFailed``."""
        self.greet(hub)
        for sealed in hub.witnesses(besides=self.device_id):
            self.check.witness_seen(sealed, self.counter)

    def sync(self, hub: ModelHub, changes_max: int = 500) -> None:
        """Push, read on until the end, hear the witnesses.  Raises ``CheckFailed``."""
        self.push(hub)
        while True:
            self.look_up(hub, changes_max)
            self.deliver()
            if self.state.seq == hub.head and not self.reads_live_only:
                break
        self.hear(hub)

    def testify(self, hub: ModelHub) -> bytes | None:
        """Make a witness and have it kept; None when there is nothing exact to state."""
        change_id, nonce = self.rng.randbytes(16), self.rng.randbytes(24)
        sealed = self.check.make_witness(self.witness_counter + 1, change_id, nonce, 0)
        if sealed is not None and hub.incarnation == self.state.incarnation:
            self.witness_counter += 1
            hub.put_witness(sealed)
        return sealed

    def restart(self) -> None:
        """The process ends and another begins with what was saved."""
        saved = msgspec.msgpack.encode(self.state)
        state = msgspec.msgpack.decode(saved, type=CheckState)
        self.check = SyncCheck(self.keys, self.collection_id, self.device_id, state, self.live)
        self.held = None

    def record(self, key: str) -> list[LiveEntry]:
        """The live changes of one record."""
        return self.live.get(self.keys.record_id(self.collection_id, key))

    def _base(self, kind: Kind, record_id: bytes, upto: int) -> bytes:
        if kind is Kind.PURGE:
            return upto.to_bytes(16, "big")
        entries = self.live.get(record_id)
        return entries[-1].change_id if entries and kind is not Kind.DELTA else ZERO_ID

    def _open(self, seq: int, sealed: bytes) -> Opened:
        try:
            opened = open_sealed(self.keys, sealed, collection_id=self.collection_id)
            if opened.header.kind in RECORD_KINDS:
                split_record(self.keys, opened)
        except Unopenable as exc:
            name = "record_mismatch" if isinstance(exc, WrongRecord) else "forged"
            raise CheckFailed(Alarm(name, self.collection_id, str(exc), seq)) from exc
        return opened


class LyingHub(ModelHub):
    """A hub whose keeper alters what it shows.  It holds no key: it can only move bytes about."""

    def omit(self, seq: int) -> None:
        """Leave a change out, as if it had been compacted."""
        del self.kept[seq]
        self.replaced.discard(seq)

    def omit_and_close_up(self, seq: int) -> None:
        """Leave a change out and renumber what follows, so that no hole shows."""
        self.omit(seq)
        self.kept = {other - (other > seq): sealed for other, sealed in self.kept.items()}
        self.replaced = {other - (other > seq) for other in self.replaced}
        self.head -= 1

    def roll_back(self, head: int) -> None:
        """Forget the changes above ``head``; the witnesses stay."""
        self.kept = {seq: sealed for seq, sealed in self.kept.items() if seq <= head}
        self.head = head

    def swap(self, one: int, other: int) -> None:
        """Show two changes in each other's place."""
        self.kept[one], self.kept[other] = self.kept[other], self.kept[one]

    def insert(self, sealed: bytes) -> int:
        """Put bytes into the log that nobody appended here."""
        self.head += 1
        self.kept[self.head] = sealed
        return self.head

    def replay(self, seq: int) -> int:
        """Show an old change once more, as a new one."""
        return self.insert(self.kept[seq])

    def flip(self, seq: int, bit: int) -> None:
        """Turn one bit of a sealed change."""
        altered = bytearray(self.kept[seq])
        altered[bit // 8] ^= 1 << bit % 8
        self.kept[seq] = bytes(altered)

    def serve_old(self, seq: int) -> None:
        """Show a replaced change as the live one: everything of its record after it is left out."""
        record_id = parse_header(self.kept[seq]).record_id
        for other in [other for other in self.kept if other > seq]:
            if parse_header(self.kept[other]).record_id == record_id:
                self.omit(other)
        self.replaced.discard(seq)

    def fork(self) -> LyingHub:
        """From here on, tell some devices another story."""
        return copy.deepcopy(self)

    def show_witness(self, sealed: bytes) -> None:
        """Hand on this witness of a device instead of its newest."""
        header = parse_header(sealed)
        self.kept_witnesses[header.device_id] = (header.counter, sealed)
