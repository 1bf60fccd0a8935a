"""A person's export: a bundle of everything kept for an account, made piece by piece.

No piece is remembered: each is made from the cursor that the piece before gave out, by
whichever replica is asked.  The cursor says how far the file is, and carries the state
of its writer; whoever forges one spoils a file of their own.  What is appended to a
collection after its row was written is not in the file.

The rows are those of ``hub.store.rows``, with what a device of the account may know: no
address tag, no counters, no receipts.  A change that was replaced has the time of the
export as its ``replaced_at``.  docs/bundle.md describes the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from hub import __version__
from hub.bundle import Head, Writer
from hub.errors import Closing, Refusal
from hub.store import Account, Device, Row, SpaceFacts, Store
from hub.store.rows import TABLES
from hub.terms import ID_BYTES, ZERO_ID, AccountId, CollectionId, CollectionKey, DeviceId, Seq, SpaceId
from hub.wire.header import parse_header
from hub.wire.messages import Export, Exported

PIECE_BYTES = 262_144  # of sealed changes in one piece; a quarter of what may wait for a session
PIECE_CHANGES = 1_000
READS_PER_PIECE_MAX = 64  # of many small collections
TABLES_TOLD = ("account", "device", "space", "growth", "collection", "change")
_SEQ_BYTES = 7
_PLACE_BYTES = 2 * ID_BYTES + 2 * _SEQ_BYTES


class _Place(NamedTuple):
    """How far the file is: ``after`` of a collection of a space, whose row said ``head``.

    A ``collection_id`` of zeros: the space's row has been written and none of its collections.
    """

    space_id: SpaceId
    collection_id: CollectionId = ZERO_ID
    after: Seq = 0
    head: Seq = 0

    def pack(self) -> bytes:
        numbers = self.after.to_bytes(_SEQ_BYTES) + self.head.to_bytes(_SEQ_BYTES)
        return self.space_id + self.collection_id + numbers


def _unpack(data: bytes) -> _Place:
    numbers = data[2 * ID_BYTES :]
    return _Place(
        data[:ID_BYTES],
        data[ID_BYTES : 2 * ID_BYTES],
        int.from_bytes(numbers[:_SEQ_BYTES]),
        int.from_bytes(numbers[_SEQ_BYTES:]),
    )


async def next_piece(
    store: Store, msg: Export, account_id: AccountId, device_id: DeviceId, *, clock: Callable[[], float]
) -> Exported:
    """The next piece; an empty cursor in the answer says that it was the last one.

    Raises ``Refusal``: ``not_found`` for a space that is not the account's, or that
    went since the export began; ``bad_request`` for a cursor that is none.
    """
    spaces = await store.space_facts(account_id)
    if msg.space_id is not None:
        spaces = [facts for facts in spaces if facts.space.space_id == msg.space_id]
        if not spaces:
            raise Refusal("not_found")
    tables = {table: TABLES[table] for table in TABLES_TOLD}
    head = Head("account", clock(), __version__, await store.incarnation(), tables=tables)
    piece = _Piece(store, account_id, device_id, clock())
    if msg.cursor:
        place: _Place | None = _unpack(msg.cursor[:_PLACE_BYTES])
        piece.resume(head, msg.cursor[_PLACE_BYTES:])
    else:
        place = None
        await piece.begin(head)
    place = await piece.fill(spaces, place)
    total_bytes = sum(facts.space.used_bytes for facts in spaces)
    try:
        bundle = piece.bytes(ended=place is None)
        cursor = place.pack() + piece.writer.state() if place else b""
    except OverflowError as exc:  # a forged one counts beyond every number
        raise Refusal("bad_request", "that is no cursor of an export") from exc
    return Exported(msg.request, bundle, cursor, piece.writer.sealed_bytes, total_bytes)


class _Piece:
    """The piece that is being made."""

    def __init__(self, store: Store, account_id: AccountId, device_id: DeviceId, now: float) -> None:
        self.writer: Writer
        self._store = store
        self._account_id = account_id
        self._device_id = device_id
        self._now = now
        self._out: list[bytes] = []
        self._rows: list[Row] = []
        self._sealed_bytes = 0
        self._reads = 0

    async def begin(self, head: Head) -> None:
        """What stands before the spaces."""
        self.writer = Writer(head)
        self._out.append(self.writer.start())
        account = await self._store.account(self._account_id)
        if account is None:
            raise Closing("account_deleted")
        self._rows.append(_account_row(account))
        self._rows += [_device_row(device) for device in await self._store.devices(self._account_id)]

    def resume(self, head: Head, state: bytes) -> None:
        """Go on after the piece that gave out this state."""
        try:
            self.writer = Writer.resume(head, state)
        except ValueError as exc:
            raise Refusal("bad_request", "that is no cursor of an export") from exc

    async def fill(self, spaces: list[SpaceFacts], place: _Place | None) -> _Place | None:
        """Put in as much as fits; where the next piece goes on, None when this was everything."""
        for facts in _from_place(spaces, place):
            space_id = facts.space.space_id
            if place is None or place.space_id != space_id:
                place = _Place(space_id)
                self._put_space(facts)
            place = await self._fill_space(place)
            if self._is_full():
                return place
        return None

    async def _fill_space(self, place: _Place) -> _Place:
        if place.after < place.head:
            place = await self._fill_collection(place)
        self._reads += 1
        states = await self._store.states(self._account_id, place.space_id, self._device_id, None)
        heads = {state.collection_id: state.head for state in states if state.collection_id > place.collection_id}
        for collection_id in sorted(heads):
            if self._is_full():
                break
            place = _Place(place.space_id, collection_id, 0, heads[collection_id])
            self._rows.append(("collection", (self._account_id, place.space_id, collection_id, place.head)))
            place = await self._fill_collection(place)
        return place

    async def _fill_collection(self, place: _Place) -> _Place:
        key = CollectionKey(self._account_id, place.space_id, place.collection_id)
        while place.after < place.head and not self._is_full():
            room = PIECE_BYTES - self._sealed_bytes
            page = await self._store.read(key, place.after, live_only=False, changes_max=PIECE_CHANGES, bytes_max=room)
            # The same bounds let through fewer of more, so this reaches at least as far.
            live = await self._store.read(key, place.after, live_only=True, changes_max=PIECE_CHANGES, bytes_max=room)
            live_seqs = {change.seq for change in live.changes}
            for change in page.changes:
                seq, appended_at_ms, sealed = change.seq, change.appended_at_ms, change.sealed
                if seq <= place.head:
                    replaced_at = None if seq in live_seqs else self._now
                    self._rows.append(_change_row(seq, appended_at_ms, sealed, replaced_at))
                    self._sealed_bytes += len(sealed)
            self._reads += 2
            place = place._replace(after=page.upto)
            if page.head < place.head:  # wiped away with its log, or the space has gone
                return place._replace(after=place.head)
        return place

    def _put_space(self, facts: SpaceFacts) -> None:
        space = facts.space
        self._rows.append(
            (
                "space",
                (
                    self._account_id,
                    space.space_id,
                    space.app_id,
                    space.key_epoch,
                    space.space_pk,
                    facts.created_at,
                    space.deleted_at,
                ),
            )
        )
        self._rows += [("growth", (self._account_id, space.space_id, day, used)) for day, used in facts.growth]

    def _is_full(self) -> bool:
        return self._sealed_bytes >= PIECE_BYTES or self._reads >= READS_PER_PIECE_MAX

    def bytes(self, *, ended: bool) -> bytes:
        """The piece."""
        self._out.append(self.writer.rows(self._rows))
        if ended:
            self._out.append(self.writer.end())
        return b"".join(self._out)


def _from_place(spaces: list[SpaceFacts], place: _Place | None) -> Iterator[SpaceFacts]:
    """The spaces from the one that was begun on.  Raises ``Refusal("not_found")`` when it has gone."""
    ids = [facts.space.space_id for facts in spaces]
    if place is not None and place.space_id not in ids:
        raise Refusal("not_found", "the space has gone since the export began; begin again")
    yield from spaces[ids.index(place.space_id) if place else 0 :]


def _account_row(account: Account) -> Row:
    values = (
        account.account_id,
        b"",  # the address tag stays with the hub
        False,
        account.quota_bytes,
        account.created_day,
        account.deleted_at,
        account.plan,
        account.billing_ref,
        account.paid_until,
        account.suspended_at,
    )
    return "account", values


def _device_row(device: Device) -> Row:
    values = (
        device.account_id,
        device.device_id,
        device.device_pk,
        device.scope,
        device.app_id,
        device.enrolled_via,
        device.enrolled_at,
        device.last_seen_day,
        device.probation_until,
        device.revoked_at,
    )
    return "device", values


def _change_row(seq: Seq, appended_at_ms: int, sealed: bytes, replaced_at: float | None) -> Row:
    header = parse_header(sealed)
    values = (
        seq,
        int(header.kind),
        header.record_id,
        header.change_id,
        header.device_id,
        header.counter,
        appended_at_ms,
        replaced_at,
        sealed,
    )
    return "change", values
