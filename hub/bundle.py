"""The bundle, the file a hub's data travels in, without I/O: rows in, bytes out, and back.

One format for a person's export, ``hub backup`` and ``hub move``; docs/bundle.md
describes it for whoever writes a reader of their own.  After 16 bytes of magic it is a
row of frames: a head, rows as ``hub.store.rows`` names them, an end that counts them.
Each frame carries the hash of itself and of all before it, so a file that was cut,
altered or put together in another order is noticed at that very frame, and a writer
can go on where another left off (``Writer.state``).  The hashes are against accidents:
whoever can write the file can make new ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import msgspec

from hub.store import Row
from hub.store.rows import TABLES

MAGIC = b"sync-hub bundle\n"
VERSION = 1
FRAME_BYTES = 1_048_576  # the rows of a frame take no more, unless one row alone does
FRAME_BYTES_MAX = 16 * 1_048_576  # a reader takes no larger frame; bounds what a file can make it hold
LENGTH_BYTES = 4
HASH_BYTES = 16

What = Literal["account", "hub"]
T = TypeVar("T")

_OF_THE_HUB = frozenset({"hub", "invite", "listed"})
_OF_A_COLLECTION = frozenset({"change", "counter", "receipt", "witness"})
_VALUES = (bytes, str, int, float, type(None))  # bool is an int
_SEALED = {table: columns.index("sealed") for table, columns in TABLES.items() if "sealed" in columns}


class BadBundle(Exception):
    """The bytes are no whole, unaltered bundle that this program understands; the text is a sentence."""


class Head(msgspec.Struct, frozen=True, tag_field="frame", tag="head"):
    """The first frame: what this is a bundle of."""

    what: What
    made_at: float
    hub_version: str
    incarnation: bytes  # of the log the rows are from
    secrets: bytes = b""  # fingerprint of the secrets that the address tags were made with; empty = no tags inside
    generation: int = 0  # how many peppers that fingerprint is of
    version: int = VERSION
    # The columns of each table, in the order of the values of a row.
    tables: dict[str, tuple[str, ...]] = msgspec.field(default_factory=lambda: TABLES)


class End(msgspec.Struct, frozen=True, tag_field="frame", tag="end"):
    """The last frame: what must have come before it."""

    rows: dict[str, int]  # by table; those without rows are left out
    sealed_bytes: int


Part = Head | list[Row] | End
"""What a ``Reader`` gives: the head once, rows, the end once."""


class _Rows(msgspec.Struct, frozen=True, tag_field="frame", tag="rows"):
    rows: list[Row]


class _RawRows(msgspec.Struct, frozen=True, tag_field="frame", tag="rows"):
    rows: list[msgspec.Raw]


class _Version(msgspec.Struct):
    version: int


class _State(msgspec.Struct, array_like=True):
    chain: bytes
    sealed_bytes: int
    counts: list[int]


_encode: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode
_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@dataclass(slots=True)
class _Sum:
    """What the end frame says."""

    sealed_bytes: int = 0
    rows: dict[str, int] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        table, values = row
        self.rows[table] = self.rows.get(table, 0) + 1
        if table in _SEALED:
            self.sealed_bytes += len(values[_SEALED[table]])  # type: ignore[arg-type]

    def end(self) -> End:
        return End({table: self.rows[table] for table in TABLES if table in self.rows}, self.sealed_bytes)


class Writer:
    """Makes a bundle, piece by piece: ``start``, ``rows`` as often as wanted, ``end``.

    The pieces one after the other are the file.  Rows come in the order of ``Store.dump``;
    that is not checked here but by every reader.
    """

    def __init__(self, head: Head) -> None:
        self._head = head
        self._chain = _hash(b"", MAGIC)
        self._sum = _Sum()

    def start(self) -> bytes:
        """The magic and the head."""
        return MAGIC + self._frame(_encode(self._head))

    def rows(self, rows: Sequence[Row]) -> bytes:
        """Frames with these rows, each of ``FRAME_BYTES`` at most; empty without rows."""
        frames: list[bytes] = []
        packed: list[msgspec.Raw] = []
        size = 0
        for row in rows:
            one = _encode(row)
            if packed and size + len(one) > FRAME_BYTES:
                frames.append(self._frame(_encode(_RawRows(packed))))
                packed, size = [], 0
            packed.append(msgspec.Raw(one))
            size += len(one)
            self._sum.add(row)
        if packed:
            frames.append(self._frame(_encode(_RawRows(packed))))
        return b"".join(frames)

    def end(self) -> bytes:
        """The end frame; nothing comes after it."""
        return self._frame(_encode(self._sum.end()))

    @property
    def sealed_bytes(self) -> int:
        """Of the rows so far."""
        return self._sum.sealed_bytes

    def state(self) -> bytes:
        """Where this writer stands, for ``resume``; at most 80 bytes below 2**32 rows a table."""
        return _encode(_State(self._chain, self._sum.sealed_bytes, [self._sum.rows.get(table, 0) for table in TABLES]))

    @classmethod
    def resume(cls, head: Head, state: bytes) -> Writer:
        """The writer that goes on after the pieces another one made.  Raises ``ValueError`` for what is no state."""
        writer = cls(head)
        try:
            kept = msgspec.msgpack.decode(state, type=_State)
        except _FAULTS as exc:
            raise ValueError("no state of a writer") from exc
        if len(kept.chain) != HASH_BYTES or len(kept.counts) != len(TABLES):
            raise ValueError("no state of a writer")
        counted = {table: count for table, count in zip(TABLES, kept.counts, strict=True) if count}
        writer._chain, writer._sum = kept.chain, _Sum(kept.sealed_bytes, counted)
        return writer

    def _frame(self, body: bytes) -> bytes:
        if len(body) > FRAME_BYTES_MAX:
            raise ValueError(f"a row of {len(body)} bytes fits no frame")
        length = len(body).to_bytes(LENGTH_BYTES)
        self._chain = _hash(self._chain, length + body)
        return length + self._chain + body


class Reader:
    """Takes a bundle apart, from pieces of any size, and checks everything that can be checked without a store."""

    def __init__(self) -> None:
        self.head: Head | None = None
        self.end: End | None = None
        self._waiting = bytearray()
        self._chain = b""  # empty before the magic
        self._sum = _Sum()
        self._order = _Order()

    def feed(self, piece: bytes) -> list[Part]:
        """What these bytes complete, in order.  Raises ``BadBundle``; the reader is of no use after that."""
        self._waiting += piece
        parts: list[Part] = []
        if not self._chain and not self._take_magic():
            return parts
        while (body := self._take_frame()) is not None:
            parts.append(self._part(body))
        return parts

    def close(self) -> End:
        """No more bytes come; what the end frame said.  Raises ``BadBundle`` when the file is not whole."""
        if self.end is None or self._waiting:
            raise BadBundle("The file is cut short: it has no end frame.")
        return self.end

    def _take_magic(self) -> bool:
        if not MAGIC.startswith(self._waiting[: len(MAGIC)]):
            raise BadBundle("This is no bundle of a sync-hub.")
        if len(self._waiting) < len(MAGIC):
            return False
        del self._waiting[: len(MAGIC)]
        self._chain = _hash(b"", MAGIC)
        return True

    def _take_frame(self) -> bytes | None:
        if self.end is not None and self._waiting:
            raise BadBundle("The file goes on after its end frame.")
        start = LENGTH_BYTES + HASH_BYTES
        if len(self._waiting) < start:
            return None
        length = int.from_bytes(self._waiting[:LENGTH_BYTES])
        if length > FRAME_BYTES_MAX:
            raise BadBundle("The file was altered: a frame is larger than any.")
        if len(self._waiting) < start + length:
            return None
        told = bytes(self._waiting[LENGTH_BYTES:start])
        body = bytes(self._waiting[start : start + length])
        self._chain = _hash(self._chain, self._waiting[:LENGTH_BYTES] + body)
        if self._chain != told:
            raise BadBundle("The file was altered: the hash of a frame is wrong.")
        del self._waiting[: start + length]
        return body

    def _part(self, body: bytes) -> Part:
        if self.head is None:
            self.head = _read_head(body)
            self._order.of_hub = self.head.what == "hub"
            return self.head
        part = _decode(body, _Rows | End)  # type: ignore[arg-type]
        if isinstance(part, _Rows):
            for row in part.rows:
                self._order.take(row)
                self._sum.add(row)
            return part.rows
        assert isinstance(part, End)
        if part != self._sum.end():
            raise BadBundle("The file is not whole: its end frame counts other rows than there are.")
        self.end = part
        return part


class Tally:
    """Counts and sums up the rows of dumps, so that two of them can be compared.

    Rows of one table may come in any order between one ``collection`` or ``account`` and the next.
    What a move changes is left out: the address tag, and whether the address is known.
    """

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self._digest = 0
        self._account: object = None
        self._collection: tuple[object, ...] = ()

    def add(self, row: Row) -> None:
        """One more row."""
        table, values = row
        named = dict(zip(TABLES[table], values, strict=True))
        if table == "account":
            self._account = named["account_id"]
            del named["address_tag"], named["address_known"]
        elif table == "collection":
            self._collection = tuple(values[:3])
        belongs = self._collection if table in _OF_A_COLLECTION else (self._account,)
        packed = _encode((table, belongs, list(named.values())))
        self.rows[table] = self.rows.get(table, 0) + 1
        self._digest = (self._digest + int.from_bytes(hashlib.sha256(packed).digest())) % 2**256

    def digest(self) -> bytes:
        """32 bytes that are equal for equal rows."""
        return self._digest.to_bytes(32)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tally) and (self.rows, self._digest) == (other.rows, other._digest)

    __hash__ = None  # type: ignore[assignment]


class _Order:
    """Refuses a row that does not belong where it stands."""

    def __init__(self) -> None:
        self.of_hub = False
        self._account: object = None
        self._spaces: set[object] = set()
        self._seq: int | None = None  # of the last change of the collection; None outside of one
        self._head = 0

    def take(self, row: Row) -> None:
        """The next row.  Raises ``BadBundle``."""
        table, values = row
        if len(values) != len(TABLES.get(table, ())):
            raise BadBundle(f"A row of {table!r} has {len(values)} values, which is not what the head says.")
        if not all(isinstance(value, _VALUES) for value in values):
            raise BadBundle(f"A row of {table!r} has a value that is none.")
        if not self._fits(table, dict(zip(TABLES[table], values, strict=True))):
            raise BadBundle(f"A row of {table!r} stands where it does not belong.")

    def _fits(self, table: str, row: dict[str, object]) -> bool:
        if table in _OF_THE_HUB:
            return self.of_hub and self._account is None
        if table == "account":
            self._account, self._spaces, self._seq = row["account_id"], set(), None
            return True
        if table in _OF_A_COLLECTION:
            return self._seq is not None and (table != "change" or self._next_seq(row["seq"]))
        if self._account is None or row["account_id"] != self._account:
            return False
        self._seq = None
        if table == "space":
            self._spaces.add(row["space_id"])
        elif table in ("collection", "growth"):
            if table == "collection":
                self._seq, self._head = 0, row["head"]  # type: ignore[assignment]
            return row["space_id"] in self._spaces
        return True

    def _next_seq(self, seq: object) -> bool:
        assert self._seq is not None
        fits = isinstance(seq, int) and self._seq < seq <= self._head
        self._seq = seq if isinstance(seq, int) else self._seq
        return fits


def _read_head(body: bytes) -> Head:
    # The version first: what else a later head has in it is unknown.
    version = _decode(body, _Version).version
    if version > VERSION:
        raise BadBundle(f"The file is of format {version}, and this hub reads up to {VERSION}. Update the hub first.")
    head = _decode(body, Head)
    if any(TABLES.get(table) != columns for table, columns in head.tables.items()):
        raise BadBundle("The file has tables or columns that this hub does not know. Update it first.")
    return head


def _decode(body: bytes, type_: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(body, type=type_)
    except _FAULTS as exc:
        raise BadBundle(f"A frame is none of a bundle: {exc}.") from exc


def _hash(before: bytes, data: bytes | bytearray) -> bytes:
    return hashlib.sha256(before + data).digest()[:HASH_BYTES]
