"""One collection on this device, without I/O: what the person edits, and what the log says.

A record has two layers.  *Confirmed* is what the log says up to the cursor.  On top
lie the record's outbox rows, the person's own edits on their way into the log; the
person sees the last of them.  Everything here is one of four moves:

* an **edit** puts a row on top, or replaces the top one while it is not sealed;
* a **change** from the log renews the confirmed layer, and takes away the row it
  is the arrival of; when it is another's, conditional rows on top are in *conflict*;
* a conflict is **settled** by the strategy, once the cursor covers the change it
  lost against: the rows become one that is based on the confirmed layer, or none;
* a **new life** of the log (restored, lost, wiped) empties the confirmed layer and
  keeps what the person sees; when the new life has been read, what it lacks is
  put on top again.  Nothing a person sees goes away because a hub is empty.

The caller wraps every call in a storage transaction and afterwards takes the
``RecordChanged`` with ``take_changed`` or, when it was rolled back, ``forget_changed``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from msgspec.structs import replace

from hub.client.sealing import record_plaintext
from hub.client.storage import CollectionRow, DeltaRow, OutboxRow, RecordRow, State, Storage
from hub.client.strategies import (
    MANUAL,
    MINE,
    MISSING,
    THEIRS,
    Conflict,
    Merged,
    Strategy,
    Verdict,
    last_writer_wins,
)
from hub.client.values import decode_body, encode_body
from hub.terms import ID_BYTES, ZERO_ID, ChangeId, Incarnation, Kind, Seq
from hub.wire.header import Header

ANCESTORS_KEPT = 32  # how many changes back a restored hub is recognised as merely older
_SEEN_KEPT = 64
_WHOLE = (Kind.PUT, Kind.DELETE)  # kinds that say all of a record; a delta says only what is added
_OPEN = (State.WAITING, State.CONFLICT, State.PARKED)  # states in which a row's value may still change
PARKED_BY_CONFLICT = "conflict"
# As the base of an edit: the person made the record. None says that nobody knows, as after a wipe, when devices append
# again what all of them have: two such edits of one value are one.
WAS_NOT_THERE = b""


class RecordChanged(NamedTuple):
    """A record looks different now: its value, who changed it, and the values of new deltas."""

    key: str
    value: Any  # MISSING when it is gone
    by_me: bool
    deltas: tuple[Any, ...] = ()


class _Noted(NamedTuple):
    body: bytes | None
    by_me: bool
    deltas: tuple[bytes, ...]


class LocalCollection:
    """The records of one collection and their rows in the outbox."""

    def __init__(self, storage: Storage, row: CollectionRow, fresh: Callable[[int], bytes]) -> None:
        """``fresh`` gives random bytes, for change ids."""
        self.storage = storage
        self.row = row
        self.strategy: Strategy | None = None  # None: no app has opened it in this run; conflicts wait
        self._fresh = fresh
        self._changed: dict[str, _Noted] = {}

    @property
    def n(self) -> int:
        """Its number in local storage."""
        return self.row.n

    @property
    def name(self) -> str:
        """The app's name for it; empty when only the hub has told of it."""
        return self.row.name or ""

    def save(self, **fields: Any) -> None:
        """Keep these fields of the collection's own row."""
        self.row = replace(self.row, **fields)
        self.storage.save_collection(self.row)

    def take_changed(self) -> list[RecordChanged]:
        """What changed since the last call, each record once.  A value this device cannot read is left out."""
        noted, self._changed = self._changed, {}
        return list(_readable(noted))

    def forget_changed(self) -> None:
        """The transaction was rolled back."""
        self._changed = {}

    # --- what the person sees ---

    def get(self, key: str) -> Any:
        """The record's value, or MISSING.  Raises ``ValueError`` for a value this device cannot read."""
        record = self.storage.record(self.n, key)
        return _value(record.view) if record else MISSING

    def keys(self) -> list[str]:
        """The keys of all records that are there."""
        return [record.key for record in self.storage.records(self.n) if self._is_there(record)]

    def items(self) -> list[tuple[str, Any]]:
        """All records that are there, with their values; MISSING for one of deltas alone."""
        return [(record.key, _value(record.view)) for record in self.storage.records(self.n) if self._is_there(record)]

    def deltas(self, key: str) -> list[Any]:
        """The values added to the record since its last put: those of the log in its order, then this device's."""
        rows = self.storage.rows_of(self.n, key)
        tops = [index for index, row in enumerate(rows) if row.kind in _WHOLE]
        bodies = [] if tops else [delta.body for delta in self.storage.deltas(self.n, key)]
        bodies += [row.value for row in rows[tops[-1] + 1 if tops else 0 :] if row.value is not None]
        return [_value(body) for body in bodies]

    def conflicts(self) -> list[Conflict]:
        """The conflicts that wait for a person."""
        rows = [row for row in self.storage.rows_in(self.n, State.PARKED) if row.reason.startswith(PARKED_BY_CONFLICT)]
        return [self._conflict(row) for row in rows]

    # --- edits ---

    def put(self, key: str, value: Any, wall: float) -> ChangeId:
        """Replace the record.  Raises ``ValueError`` or ``TypeError`` for a key or value that cannot travel."""
        record_plaintext(key, b"")
        return self._edit(key, Kind.PUT, _body(value, wall), wall)

    def delete(self, key: str, wall: float) -> ChangeId:
        """Empty the record; the zero id when there is nothing to delete."""
        record = self.storage.record(self.n, key)
        if record is None or not self._is_there(record):
            return ZERO_ID
        return self._edit(key, Kind.DELETE, None, wall)

    def snapshot(self, key: str, value: Any, wall: float) -> ChangeId:
        """Replace the record and its deltas by a value that contains them.

        Only saves room: when another delta came first it is dropped, and nothing is lost.
        """
        record_plaintext(key, b"")
        return self._edit(key, Kind.PUT, _body(value, wall), wall, snapshot=True)

    def append_delta(self, key: str, value: Any, wall: float) -> ChangeId:
        """Add to the record; a delta never conflicts."""
        record_plaintext(key, b"")
        body = _body(value, wall)
        record = self.storage.record(self.n, key) or RecordRow(key=key)
        self.storage.save_record(self.n, record)
        row = self._add_row(key, Kind.DELTA, body, wall, conditional=False)
        self._note(key, record.view, by_me=True, delta=body)
        return row.change_id

    def resolve(self, key: str, value: Any, wall: float) -> ChangeId:
        """A person settles a parked conflict with this value or MISSING.  Raises ``KeyError`` when none is parked."""
        rows = [r for r in self.storage.rows_of(self.n, key) if r.state is State.PARKED and r.kind in _WHOLE]
        if not rows:
            raise KeyError(key)
        record = self._record(key)
        body = None if value is MISSING else _body(value, wall)
        kind = Kind.DELETE if body is None else Kind.PUT
        row = replace(rows[-1], state=State.WAITING, kind=kind, value=body, base_value=record.value, reason="")
        self.storage.save_row(row)
        self._layer(record, by_me=True)
        return row.change_id

    def add_wipe(self, wall: float) -> None:
        """Have the remote copies dropped, unless the log never had any."""
        if not self.storage.rows_of(self.n, "") and (self.row.seq or not self.row.caught_up):
            self._add_row("", Kind.WIPE, None, wall, conditional=False)

    def _edit(self, key: str, kind: Kind, body: bytes | None, wall: float, *, snapshot: bool = False) -> ChangeId:
        record = self.storage.record(self.n, key) or RecordRow(key=key)
        rows = self.storage.rows_of(self.n, key)
        top = rows[-1] if rows else None
        if top and top.state in _OPEN and top.kind in _WHOLE:
            if body is None and len(rows) == 1 and self._is_unheard_of(record, top):
                return self._take_back(record, top)
            row = self._replace_top(top, kind, body, snapshot)
        else:
            conditional = snapshot or self.strategy is not last_writer_wins
            row = self._add_row(
                key,
                kind,
                body,
                wall,
                base=WAS_NOT_THERE if record.view is None else record.view,
                conditional=conditional,
                snapshot=snapshot,
            )
        self._save(replace(record, local=body, dirty=True))
        self._note(key, body, by_me=True)
        return row.change_id

    def _replace_top(self, top: OutboxRow, kind: Kind, body: bytes | None, snapshot: bool) -> OutboxRow:
        row = replace(top, kind=kind, value=body, snapshot=top.snapshot and snapshot)
        if top.state is State.PARKED and not top.reason.startswith(PARKED_BY_CONFLICT):
            # It was refused for what it was, and is another now. The log may have moved on meanwhile.
            row = replace(row, state=State.CONFLICT, reason="")
        self.storage.save_row(row)
        return row

    def _take_back(self, record: RecordRow, top: OutboxRow) -> ChangeId:
        """What never left this device needs no tombstone."""
        self.storage.drop_row(top.n)
        self.storage.drop_record(self.n, record.key)
        self._note(record.key, None, by_me=True)
        return top.change_id

    def _is_unheard_of(self, record: RecordRow, top: OutboxRow) -> bool:
        return record.change_id == ZERO_ID and not record.former and top.state is State.WAITING

    # --- what the log says ---

    def change(self, seq: Seq, header: Header, key: str, body: bytes | None, *, by_me: bool) -> None:
        """A put, delete or delta of the log, in seq order."""
        record = self._record(key)
        if seq <= record.seq:
            return  # read a second time after ``start_over``
        rows = self.storage.rows_of(self.n, key)
        held = bool(record.former) or (record.dirty and not rows)  # what the person sees stays as it is
        arrived = next((row for row in rows if row.change_id == header.change_id), None)
        if arrived:
            rows = self._without_arrived(rows, arrived)
        record = self._confirm(record, seq, header, body)
        if not arrived and not record.former:
            self._collide(rows, seq)
        if held:
            self._save(record)
        else:
            fresh_delta = body if header.kind is Kind.DELTA and not arrived else None
            self._layer(record, by_me=by_me, delta=fresh_delta)

    def _without_arrived(self, rows: list[OutboxRow], arrived: OutboxRow) -> list[OutboxRow]:
        """What is left on top: neither the edit that came back nor what it had replaced when it was made."""
        gone = [arrived]
        if arrived.kind in _WHOLE:
            gone += [row for row in rows if row.n < arrived.n and row.kind in _WHOLE]
        for row in gone:
            self.storage.drop_row(row.n)
        return [row for row in rows if row not in gone]

    def wipe(self, seq: Seq) -> None:
        """The log dropped everything before ``seq``: it has no record now, and the person keeps them all."""
        for row in self.storage.rows_in(self.n, State.ACKED):
            if row.seq < seq:
                if row.kind is Kind.DELTA and row.value is not None:
                    self.storage.save_delta(self.n, row.key, DeltaRow(row.change_id, 0, row.value))
                self.storage.drop_row(row.n)
        self._unbase_rows(seq)
        for record in self.storage.records(self.n):
            self._unconfirm_deltas(record.key)
            empty = replace(record, value=None, change_id=ZERO_ID, seq=0, ancestors=b"", former=b"", seen=b"")
            self._save(replace(empty, local=record.view, dirty=True))

    def wiped_away(self, row: OutboxRow) -> None:
        """The log had this draft and dropped it in a wipe: the edit stays, and goes out again when the person says so.

        When the wipe has not been read yet it waits for that, since only then is the person asked.
        """
        unread = 0 if row.seq else self.row.seq + 1
        behind = [other for other in self.storage.rows_of(self.n, row.key) if other.n > row.n and other.kind in _WHOLE]
        if row.kind is Kind.WIPE:
            self.storage.drop_row(row.n)
        elif row.kind in _WHOLE and behind:
            # The next edit says all of the record. This one, sent again, would come after it and undo it.
            self.storage.drop_row(row.n)
            self.storage.save_row(_delayed(_folded([row, behind[0]]), row.base_value, unread))
        else:
            self.storage.save_row(_delayed(_unsealed(row), row.base_value, unread))

    def _unbase_rows(self, seq: Seq) -> None:
        """A wipe at ``seq`` took what these edits were made on: they are edits of nothing now, no conflicts."""
        for row in self.storage.rows_in(self.n, State.CONFLICT):
            self.storage.save_row(replace(row, state=State.WAITING, need_seq=0, base_value=None))
        for row in self.storage.rows_in(self.n, State.SEALED):
            self.storage.save_row(replace(row, seq=seq, need_seq=0, base_value=None))
        for state in (State.WAITING, State.PARKED):
            for row in self.storage.rows_in(self.n, state):
                self.storage.save_row(replace(row, base_value=None))

    def purge(self, upto: Seq) -> None:
        """The log forgot its tombstones up to there."""
        for record in self.storage.tombstones(self.n, upto):
            if not self.storage.deltas(self.n, record.key):
                self._save(replace(record, change_id=ZERO_ID, seq=0))

    def covered(self) -> None:
        """The cursor has moved: rows it covers are done, also when a later change hid their arrival."""
        for row in self.storage.rows_in(self.n, State.ACKED):
            if row.seq <= self.row.seq:
                self.done_with(row)

    def done_with(self, row: OutboxRow) -> None:
        """The log has, or never will have, this edit; what the person sees follows the log again."""
        self.storage.drop_row(row.n)
        if row.kind is not Kind.WIPE:
            self._layer(self._record(row.key), by_me=False)

    def sweep(self, is_live: Callable[[str], bool]) -> None:
        """Everything was read once more from 0: a confirmed record that did not come back was deleted."""
        for record in self.storage.records(self.n):
            if record.change_id == ZERO_ID or is_live(record.key):
                continue
            self.storage.drop_deltas(self.n, record.key, confirmed_only=True)
            self._collide(self.storage.rows_of(self.n, record.key), self.row.seq)
            self._layer(replace(record, value=None, change_id=ZERO_ID, seq=0), by_me=False)

    def _confirm(self, record: RecordRow, seq: Seq, header: Header, body: bytes | None) -> RecordRow:
        if header.kind is Kind.DELTA:
            assert body is not None
            self.storage.save_delta(self.n, record.key, DeltaRow(header.change_id, seq, body))
        else:
            self.storage.drop_deltas(self.n, record.key, confirmed_only=True)
            record = replace(record, value=body)
        if record.former:
            seen = (record.seen + header.base + header.change_id)[-_SEEN_KEPT * ID_BYTES :]
            return replace(record, change_id=header.change_id, seq=seq, seen=seen)
        base = b"" if header.base == ZERO_ID or record.ancestors.endswith(header.base) else header.base
        ancestors = _with_ancestors(record.ancestors, base + header.change_id)
        return replace(record, change_id=header.change_id, seq=seq, ancestors=ancestors)

    def _collide(self, rows: list[OutboxRow], seq: Seq) -> None:
        """Another's change came between the base of these rows and their arrival."""
        first = next((row for row in rows if row.kind in _WHOLE and row.state is not State.ACKED), None)
        if first is None or not first.conditional or first.state is State.PARKED:
            return
        # A sealed row may be at the hub already, which will refuse it; what for is kept here, since the hub
        # says so only when no other refusal came first.
        state = State.SEALED if first.state is State.SEALED else State.CONFLICT
        self.storage.save_row(replace(first, state=state, need_seq=seq))

    # --- conflicts ---

    def settle(self, wall: float) -> None:
        """Settle every conflict that can be settled now."""
        rows = self.storage.rows_in(self.n, State.CONFLICT)
        for row in rows:
            if row.kind is Kind.DELTA and row.need_seq <= self.row.seq:
                self.storage.save_row(_unsealed(row))  # it only waited for the log to be read
        for key in dict.fromkeys(row.key for row in rows if row.kind in _WHOLE):
            self._settle(key, wall)

    def _settle(self, key: str, wall: float) -> None:
        rows = [r for r in self.storage.rows_of(self.n, key) if r.kind in _WHOLE and r.state is not State.ACKED]
        waits = any(row.state is State.SEALED or row.need_seq > self.row.seq for row in rows)
        only_snapshots = all(row.snapshot for row in rows)
        if waits or (self.strategy is None and not only_snapshots):
            return
        record = self._record(key)
        top = _unsealed(_folded(rows))
        for row in rows[:-1]:
            self.storage.drop_row(row.n)
        if only_snapshots:
            answer: Merged | Verdict | str = THEIRS
        elif _same(top.value, rows[0].base_value) and _is_known_again(record):
            answer = MINE
        else:
            answer = self._judge(key, rows[0].base_value, top.value, record.value)
        self._carry_out(answer, replace(top, base_value=rows[0].base_value), record, wall)
        self._layer(self._record(key), by_me=False)

    def _carry_out(self, answer: Merged | Verdict | str, top: OutboxRow, record: RecordRow, wall: float) -> None:
        rebased = replace(top, state=State.WAITING, base_value=record.value, need_seq=0)
        match answer:
            case Verdict.THEIRS:
                self.storage.drop_row(top.n)
            case Verdict.MINE:
                self.storage.save_row(rebased)
            case Merged(value=value, also=also):
                body = None if value is MISSING else _body(value, wall)
                if _same(body, record.value):
                    self.storage.drop_row(top.n)
                else:
                    self.storage.save_row(replace(rebased, value=body, kind=Kind.PUT if body else Kind.DELETE))
                for key, other in also.items():
                    self.put(key, other, wall)
            case _:
                reason = PARKED_BY_CONFLICT if answer is MANUAL else f"{PARKED_BY_CONFLICT}: {answer}"
                self.storage.save_row(replace(top, state=State.PARKED, reason=reason, need_seq=0))

    def _judge(self, key: str, base: bytes | None, mine: bytes | None, theirs: bytes | None) -> Merged | Verdict | str:
        """The strategy's answer, or a sentence why there is none; asked only about a real conflict."""
        assert self.strategy is not None
        equal = _same(mine, theirs)
        counts = getattr(self.strategy, "counts", False) and base is not None
        if _same(mine, base) or (equal and not counts):
            return THEIRS
        if (not equal and _same(theirs, base)) or self.strategy is last_writer_wins:
            return MINE
        try:
            answer = self.strategy(Conflict(key, _value(base), _value(mine), _value(theirs)))
            return _sendable(answer) if isinstance(answer, Merged) else answer
        except Exception as exc:
            # The app's own code. Its fault must cost neither edit, nor hold up the other records.
            return f"the strategy raised {type(exc).__name__}"

    def _conflict(self, row: OutboxRow) -> Conflict:
        theirs = self._record(row.key).value
        return Conflict(row.key, _value(row.base_value), _value(row.value), _value(theirs))

    # --- a new life of the log ---

    def new_life(self, incarnation: Incarnation) -> None:
        """The log begins anew: nothing is confirmed, every row waits again, and what the person sees is held."""
        for state in (State.SEALED, State.ACKED, State.CONFLICT):
            for row in self.storage.rows_in(self.n, state):
                self.storage.save_row(_unsealed(row))
        for record in self.storage.records(self.n):
            self._unconfirm_deltas(record.key)
            former = record.former or (b"" if record.change_id == ZERO_ID else record.change_id)
            held = replace(record, local=record.view, dirty=record.dirty or bool(former), former=former, seen=b"")
            self.storage.save_record(self.n, replace(held, value=None, change_id=ZERO_ID, seq=0))
        self.save(incarnation=incarnation, seq=0, caught_up=False, healing=True)

    def heal(self, wall: float) -> None:
        """The new life has been read to its head: put on top what it lacks of what the person sees."""
        for record in self.storage.formers(self.n):
            self._heal_record(record, wall)
        self.save(healing=False)

    def _heal_record(self, record: RecordRow, wall: float) -> None:
        rows = [row for row in self.storage.rows_of(self.n, record.key) if row.kind in _WHOLE]
        relation = _relation(record)
        former = record.former
        ancestors = _with_ancestors(record.ancestors, record.seen)
        record = replace(record, former=b"", seen=b"", ancestors=ancestors)
        self._save(record)
        if relation == "lacking":
            self._requeue(record, rows, former, wall)
        elif relation == "ahead" or (relation == "apart" and not rows and self.strategy is last_writer_wins):
            # Without an edit of its own a device does not overrule what others have written since.
            self._collide(rows, record.seq)
        elif relation == "apart":
            self._oppose(record, rows, wall)
        self._heal_deltas(record.key, wall, keep=relation != "ahead")
        if current := self.storage.record(self.n, record.key):
            self._layer(current, by_me=False)

    def requeue_unsent(self, wall: float) -> None:
        """Put on top every record the log has not got and no row brings there: after a wipe, when sync goes on."""
        for record in self.storage.records(self.n):
            rows = [row for row in self.storage.rows_of(self.n, record.key) if row.kind in _WHOLE]
            if record.dirty and not rows:
                if record.change_id == ZERO_ID:
                    self._requeue(record, rows, b"", wall)
                else:
                    self._oppose(record, rows, wall)
            self._heal_deltas(record.key, wall, keep=True)

    def _requeue(self, record: RecordRow, rows: list[OutboxRow], change_id: bytes, wall: float) -> None:
        """What the person sees goes onto what the log has, which is older or nothing."""
        if rows:
            return  # the edit that waits brings all of the record along
        if record.view is None and record.change_id == ZERO_ID:
            self._save(replace(record, local=None, dirty=False))
            return
        kind = Kind.DELETE if record.view is None else Kind.PUT
        base = record.value
        if change_id:
            # It brings back what the log had, and edits nothing: whatever somebody wrote meanwhile stands.
            base = WAS_NOT_THERE if record.view is None else record.view
        self._add_row(record.key, kind, record.view, wall, base=base, change_id=change_id)

    def _oppose(self, record: RecordRow, rows: list[OutboxRow], wall: float) -> None:
        """What the person sees and what the log has share no known base: unless they are equal the strategy decides."""
        if _same(rows[-1].value if rows else record.view, record.value):
            for row in rows:
                self.storage.drop_row(row.n)
            self._layer(record, by_me=False)
        elif rows:
            first = replace(rows[0], base_value=None, state=State.CONFLICT, need_seq=record.seq, conditional=True)
            self.storage.save_row(first)
        else:
            kind = Kind.DELETE if record.view is None else Kind.PUT
            row = self._add_row(record.key, kind, record.view, wall)
            self.storage.save_row(replace(row, state=State.CONFLICT, need_seq=record.seq))

    def _heal_deltas(self, key: str, wall: float, *, keep: bool) -> None:
        """Deltas the new life did not show are appended again, under their own ids."""
        for delta in self.storage.deltas(self.n, key):
            if delta.seq == 0 and keep:
                self._add_row(key, Kind.DELTA, delta.body, wall, conditional=False, change_id=delta.change_id)
        confirmed = [delta for delta in self.storage.deltas(self.n, key) if delta.seq]
        self.storage.drop_deltas(self.n, key, confirmed_only=False)
        for delta in confirmed:
            self.storage.save_delta(self.n, key, delta)

    def _unconfirm_deltas(self, key: str) -> None:
        for delta in self.storage.deltas(self.n, key):
            self.storage.save_delta(self.n, key, delta._replace(seq=0))

    # --- small things ---

    def _record(self, key: str) -> RecordRow:
        return self.storage.record(self.n, key) or RecordRow(key=key)

    def _is_there(self, record: RecordRow) -> bool:
        return record.view is not None or bool(self.deltas(record.key))

    def _layer(self, record: RecordRow, *, by_me: bool, delta: bytes | None = None) -> None:
        """Keep the record with what the person sees now; note it when that is new."""
        before = self.storage.record(self.n, record.key)
        rows = [row for row in self.storage.rows_of(self.n, record.key) if row.kind in _WHOLE]
        top = rows[-1].value if rows else None
        record = replace(record, local=top, dirty=bool(rows))
        self._save(record)
        if delta is not None or (before.view if before else None) != record.view:
            self._note(record.key, record.view, by_me=by_me, delta=delta)

    def _save(self, record: RecordRow) -> None:
        """Keep the record, or forget it when neither the log nor the person knows anything of it."""
        empty = record.change_id == ZERO_ID and record.view is None and not record.former
        if empty and not self.storage.rows_of(self.n, record.key) and not self.storage.deltas(self.n, record.key):
            self.storage.drop_record(self.n, record.key)
        else:
            self.storage.save_record(self.n, record)

    def _add_row(
        self,
        key: str,
        kind: Kind,
        body: bytes | None,
        wall: float,
        *,
        base: bytes | None = None,
        conditional: bool = True,
        snapshot: bool = False,
        change_id: bytes = b"",
    ) -> OutboxRow:
        return self.storage.add_row(
            OutboxRow(
                collection=self.n,
                key=key,
                change_id=change_id or self._fresh(ID_BYTES),
                kind=kind,
                value=body,
                base_value=base,
                conditional=conditional,
                snapshot=snapshot,
                written_at=wall,
            )
        )

    def _note(self, key: str, body: bytes | None, *, by_me: bool, delta: bytes | None = None) -> None:
        before = self._changed.get(key)
        deltas = (before.deltas if before else ()) + ((delta,) if delta is not None else ())
        self._changed[key] = _Noted(body, by_me, deltas)


def _relation(record: RecordRow) -> str:
    """How the new life's newest change of a record stands to the one this device had."""
    if record.change_id == record.former:
        return "same"
    if record.change_id == ZERO_ID or record.change_id in _ids(record.ancestors):
        return "lacking"
    return "ahead" if record.former in _ids(record.seen) else "apart"


def _is_known_again(record: RecordRow) -> bool:
    """Whether the log's newest change of a record is one that was replaced in a former life of it.

    Another device brought it back that had heard of nothing newer.
    """
    return _ids(record.ancestors).count(record.change_id) > 1


def _folded(rows: list[OutboxRow]) -> OutboxRow:
    """The last row, standing for all of them."""
    ids = b"".join(row.change_id + row.stands_for for row in rows[:-1])
    return replace(rows[-1], stands_for=rows[-1].stands_for + ids)


def _delayed(row: OutboxRow, base_value: bytes | None, need_seq: Seq) -> OutboxRow:
    """The edit, made on this value, not to be sent before the cursor covers ``need_seq``."""
    state = State.CONFLICT if need_seq and row.state is State.WAITING else row.state
    return replace(row, state=state, base_value=base_value, need_seq=max(row.need_seq, need_seq))


def _unsealed(row: OutboxRow) -> OutboxRow:
    return replace(row, state=State.WAITING, sealed=b"", counter=0, seq=0, need_seq=0)


def _with_ancestors(ancestors: bytes, ids: bytes) -> bytes:
    return (ancestors + ids)[-ANCESTORS_KEPT * ID_BYTES :]


def _ids(joined: bytes) -> list[bytes]:
    return [joined[at : at + ID_BYTES] for at in range(0, len(joined), ID_BYTES)]


def _body(value: Any, wall: float) -> bytes:
    return encode_body(value, at_ms=int(wall * 1000))


def _value(body: bytes | None) -> Any:
    return MISSING if not body else decode_body(body).value


def _sendable(merged: Merged) -> Merged:
    """Raises what ``put`` would raise, while nothing is written yet."""
    for key, value in merged.also.items():
        record_plaintext(key, encode_body(value))
    if merged.value is not MISSING:
        encode_body(merged.value)
    return merged


def _same(one: bytes | None, other: bytes | None) -> bool:
    """Whether two bodies hold the same value; the writing device's clock does not count."""
    if not one or not other or one == other:
        return (not one and not other) or one == other
    try:
        return encode_body(decode_body(one).value) == encode_body(decode_body(other).value)
    except (ValueError, TypeError):
        return False


def _readable(noted: dict[str, _Noted]) -> Iterator[RecordChanged]:
    for key, (body, by_me, deltas) in noted.items():
        try:
            yield RecordChanged(key, _value(body), by_me, tuple(_value(delta) for delta in deltas))
        except ValueError:
            continue
