"""What the hub shows of one collection, without I/O: opened, checked, and only then taken over.

A page is taken over as a whole or not at all: the records, the cursor and the state
of the sync check change in one transaction of the caller.  Whatever cannot be true
raises ``CheckFailed``; the caller rolls back, keeps the alarm, and shows it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from hub.client.check import Alarm, CheckFailed, CheckState, SyncCheck
from hub.client.collection import LocalCollection
from hub.client.keys import SpaceKeys
from hub.client.sealing import Unopenable, WrongRecord, open_sealed, split_record
from hub.client.storage import State
from hub.terms import ID_BYTES, ZERO_ID, ChangeId, DeviceId, Incarnation, Kind, Seq
from hub.wire.header import NONCE_BYTES, Header
from hub.wire.messages import ChangePart, Changes

_unpack_state = msgspec.msgpack.Decoder(CheckState)
_RECORD_KINDS = (Kind.PUT, Kind.DELETE, Kind.DELTA)


class DraftMissing(Exception):
    """The hub left out the bytes of a change that this device does not hold; a new connection brings them."""


class _Entry(NamedTuple):
    seq: Seq
    header: Header
    key: str
    body: bytes | None


class Intake:
    """The receiving side of one collection, with its sync check."""

    def __init__(self, local: LocalCollection, keys: SpaceKeys, device_id: DeviceId) -> None:
        self.local = local
        self._keys = keys
        self._device_id = device_id
        assert local.row.collection_id is not None, "a collection without an id was let in"
        self.collection_id = local.row.collection_id
        self.reload()

    def reload(self) -> None:
        """Take the check's state from storage: after a start, or after a transaction was rolled back."""
        packed = self.local.row.check
        state = _unpack_state.decode(packed) if packed else CheckState()
        live = self.local.storage.live_set(self.local.n)
        self._live = live
        self.check = SyncCheck(self._keys, self.collection_id, self._device_id, state, live)

    # --- where the log begins ---

    def subscribed(self, incarnation: Incarnation, head: Seq, counter: int, granted: Seq = 0) -> None:
        """The hub's log is this one, reaches ``head``, and holds this device's changes up to ``counter``.

        ``granted`` is how far the device that added this one had it.  Raises
        ``CheckFailed`` when a log this device knows went back, or knows more of this
        device than it did itself.
        """
        row = self.local.row
        if head < granted:
            raise self._alarm("rollback", f"the head is {head} and was {granted} for the device that added this one")
        if row.incarnation != incarnation:
            self._begin_life(incarnation, counter)
            return
        self.check.head_seen(head)
        if counter < row.answered:
            raise self._alarm("rollback", f"the hub has {counter} of {row.answered} changes of this device")
        if counter > row.counter:
            raise self._alarm("clone", f"the hub has {counter} changes of this device, which made {row.counter}")
        if counter > row.answered:
            # Also of drafts whose answer was lost, and whose rows went when another device's copy arrived.
            self._save(answered=counter)

    def caught_up(self, head: Seq) -> None:
        """The hub says that its head is where this device stands.  Raises ``CheckFailed``."""
        self.check.caught_up(head)
        self._save(caught_up=True)

    def _begin_life(self, incarnation: Incarnation, counter: int) -> None:
        if any(self.local.row.incarnation):
            self.local.new_life(incarnation)
        self.check.new_life(incarnation)
        # A log that was restored to an earlier state knows fewer of this device's changes.
        self._save(incarnation=incarnation, counter=counter, answered=counter, witness_seq=0)

    # --- pages ---

    def page(self, frame: Changes, wall: float) -> list[DeviceId]:
        """Take over one frame; the devices that wiped in it what was here, in order.

        Raises ``CheckFailed`` or ``DraftMissing``; the caller rolls back.
        """
        own = self._own_drafts(frame.changes)
        entries = [self._entry(change, change.sealed or own[change.seq]) for change in frame.changes]
        self.check.page(frame.after, frame.upto, frame.head, [(entry.seq, entry.header) for entry in entries])
        wipers = [entry.header.device_id for entry in entries if entry.header.kind is Kind.WIPE]
        had_it = bool(wipers) and self._has_been_read()
        for entry in entries:
            self._take_over(entry)
        self._save(seq=frame.upto)
        self.local.covered()
        self.local.settle(wall)
        return wipers if had_it else []

    def start_over(self) -> bool:
        """Whether the collection must be read again from 0, and if so, be ready for it."""
        if not self.check.state.must_start_over:
            return False
        self.check.start_over()
        self._save(seq=0, caught_up=False)
        return True

    def finish(self, wall: float) -> None:
        """The head is reached for the first time since 0: what did not come back is settled."""
        local = self.local
        if local.row.healing:
            local.heal(wall)
        else:
            local.sweep(lambda key: bool(self._live.get(self._keys.record_id(self.collection_id, key))))
        local.settle(wall)

    def _has_been_read(self) -> bool:
        """A device that never had the collection has nothing to be asked about, and nothing to append again."""
        row = self.local.row
        return row.caught_up or row.healing or any(r.change_id != ZERO_ID for r in self.local.storage.records(row.n))

    def _entry(self, change: ChangePart, sealed: bytes) -> _Entry:
        try:
            opened = open_sealed(self._keys, sealed, collection_id=self.collection_id)
            if opened.header.kind not in _RECORD_KINDS:
                return _Entry(change.seq, opened.header, "", None)
            key, body = split_record(self._keys, opened)
        except WrongRecord as exc:
            raise self._alarm("record_mismatch", str(exc), change.seq) from exc
        except Unopenable as exc:
            raise self._alarm("forged", str(exc), change.seq) from exc
        header = opened.header
        if header.device_id == self._device_id and header.counter > self.local.row.counter:
            detail = f"this device made {self.local.row.counter} changes, the hub shows number {header.counter}"
            raise self._alarm("clone", detail, change.seq)
        return _Entry(change.seq, header, key, None if header.kind is Kind.DELETE else body)

    def _own_drafts(self, changes: list[ChangePart]) -> dict[Seq, bytes]:
        """The drafts of this very connection among them, by seq: the hub does not send their bytes back."""
        wanted = {change.seq for change in changes if not change.sealed}
        if not wanted:
            return {}
        rows = self.local.storage.rows_in(self.local.n, State.ACKED)
        found = {row.seq: row.sealed for row in rows if row.seq in wanted}
        if missing := wanted - found.keys():
            raise DraftMissing(f"seq {min(missing)}")
        return found

    def _take_over(self, entry: _Entry) -> None:
        header = entry.header
        by_me = header.device_id == self._device_id
        if by_me and header.counter > self.local.row.answered:
            self.local.row = msgspec.structs.replace(self.local.row, answered=header.counter)
        match header.kind:
            case Kind.WIPE:
                self.local.wipe(entry.seq)
                self._drop_row(header.change_id)
            case Kind.PURGE:
                self.local.purge(header.upto)
            case Kind.PUT | Kind.DELETE | Kind.DELTA:
                self.local.change(entry.seq, header, entry.key, entry.body, by_me=by_me)
            case _:
                pass  # a keyring speaks to whoever changes app keys; the check has counted it

    def _drop_row(self, change_id: ChangeId) -> None:
        if row := self.local.storage.row_of_change(change_id):
            self.local.storage.drop_row(row.n)

    # --- witnesses ---

    def witnesses(self, sealed: Iterable[bytes]) -> None:
        """What other devices state about this collection.  Raises ``CheckFailed``."""
        for witness in sealed:
            self.check.witness_seen(witness, self.local.row.counter)
        self._save()

    def make_witness(self, random: bytes, now_ms: int) -> bytes | None:
        """This device's next witness, or None when it has nothing exact to state; the counter is kept before."""
        row = self.local.row
        change_id, nonce = random[:ID_BYTES], random[ID_BYTES : ID_BYTES + NONCE_BYTES]
        sealed = self.check.make_witness(row.witness_counter + 1, change_id, nonce, now_ms)
        if sealed is not None:
            self._save(witness_counter=row.witness_counter + 1)
        return sealed

    def witnessed_seqs(self) -> dict[DeviceId, Seq]:
        """How far each other device has said that it is."""
        return {device_id: witnessed.seq for device_id, witnessed in self.check.state.witnesses.items()}

    # --- small things ---

    def _alarm(self, name: str, detail: str, seq: Seq = 0) -> CheckFailed:
        return CheckFailed(Alarm(name, self.collection_id, detail, seq))

    def _save(self, **fields: object) -> None:
        self.local.save(check=msgspec.msgpack.encode(self.check.state), **fields)
