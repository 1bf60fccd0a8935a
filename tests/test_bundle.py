"""The bundle: what is written is read again, and nothing that was cut, altered or reordered is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub import bundle
from hub.bundle import FRAME_BYTES, MAGIC, VERSION, BadBundle, End, Head, Reader, Tally, Writer
from hub.store import Row
from hub.store.rows import TABLES

ANNA, BEN = b"A" * 16, b"B" * 16
SPACE, NOTES, DEVICE = b"s" * 16, b"n" * 16, b"d" * 16
HEAD = Head("hub", 1_700_000_000.5, "1.2.3", b"i" * 16, b"f" * 16, 1)
DOCUMENT = Path(__file__).parent.parent / "docs" / "bundle.md"


def account(account_id: bytes = ANNA, *, tag: bytes = b"t" * 32, known: bool = True) -> Row:
    return "account", (account_id, tag, known, None, 19_000, None, "family", None, 5.5, None)


def device(account_id: bytes = ANNA) -> Row:
    return "device", (account_id, DEVICE, b"k" * 32, "app", "org.example.notes", "mail", 1.5, 19_000, None, None)


def space(account_id: bytes = ANNA) -> Row:
    return "space", (account_id, SPACE, "org.example.notes", 0, b"p" * 32, 2.5, None)


def collection(account_id: bytes = ANNA, *, head: int = 9) -> Row:
    return "collection", (account_id, SPACE, NOTES, head)


def change(seq: int, sealed: bytes = b"sealed") -> Row:
    return "change", (seq, 1, b"r" * 16, b"c" * 16, DEVICE, seq, 1_700_000_000_000, None, sealed)


AUDIT: Row = "audit", (ANNA, 3.5, "device_enrolled", "device", DEVICE, b"", 1)
INCARNATION: Row = "hub", ("incarnation", b"i" * 16)
ALL: list[Row] = [
    INCARNATION,
    ("invite", (b"h" * 32, 9.5, None)),
    ("listed", (b"l" * 32, "allowed", 19_000)),
    account(),
    ("operator", (ANNA, b"o" * 16, 4.5, 0)),
    device(),
    space(),
    ("growth", (ANNA, SPACE, 19_000, 12)),
    collection(),
    change(1),
    change(3),
    ("counter", (DEVICE, 3)),
    ("receipt", (DEVICE, 2, 2, b"h" * 16)),
    ("witness", (DEVICE, 3, b"seen")),
    AUDIT,
    account(BEN, tag=b"u" * 32),
]


def file_of(rows: Sequence[Row], head: Head = HEAD) -> bytes:
    """A whole bundle, one row a frame, so that there are many."""
    writer = Writer(head)
    return writer.start() + b"".join(writer.rows([row]) for row in rows) + writer.end()


def read(data: bytes, piece: int = 2**20) -> tuple[Head, list[Row], End]:
    reader = Reader()
    parts = [part for at in range(0, len(data), piece) for part in reader.feed(data[at : at + piece])]
    end = reader.close()
    assert isinstance(parts[0], Head) and parts[-1] is end
    return parts[0], [row for part in parts[1:-1] if isinstance(part, list) for row in part], end


def frames(data: bytes) -> list[bytes]:
    at, found = len(MAGIC), []
    while at < len(data):
        size = 20 + int.from_bytes(data[at : at + 4])
        found.append(data[at : at + size])
        at += size
    return found


def signed(bodies: Sequence[bytes]) -> bytes:
    """A file of these bodies with right hashes, as somebody could write it on purpose."""
    chain, data = bundle._hash(b"", MAGIC), MAGIC
    for body in bodies:
        length = len(body).to_bytes(4)
        chain = bundle._hash(chain, length + body)
        data += length + chain + body
    return data


# --- what is written is read -----------------------------------------------------------------


@pytest.mark.parametrize("piece", [1, 7, 4_096])
def test_what_is_written_is_read_again_in_pieces_of_any_size(piece: int) -> None:
    head, rows, end = read(file_of(ALL), piece)
    assert head == HEAD and rows == ALL
    assert end == End({table: sum(row[0] == table for row in ALL) for table in TABLES}, 16)


def test_a_bundle_without_rows_is_whole() -> None:
    assert read(file_of([])) == (HEAD, [], End({}, 0))


def test_numbers_keep_their_kind_on_the_way() -> None:
    values = read(file_of([account()]))[1][0][1]
    assert [type(value) for value in values[2:9:2]] == [bool, int, str, float]


def test_a_frame_is_cut_before_it_grows_beyond_its_size() -> None:
    sealed = FRAME_BYTES // 4
    rows = [account(), space(), collection(), *(change(seq, bytes(sealed)) for seq in range(1, 9))]
    writer = Writer(HEAD)
    written = writer.start() + writer.rows(rows) + writer.end()
    sizes = [len(frame) for frame in frames(written)]
    assert len(sizes) == 1 + 3 + 1 and max(sizes) <= FRAME_BYTES + 64
    assert read(written)[1] == rows


def test_a_row_larger_than_a_frame_stands_alone() -> None:
    rows = [account(), space(), collection(), change(1, bytes(FRAME_BYTES + 1)), change(2)]
    assert read(file_of(rows))[1] == rows


def test_a_writer_goes_on_where_another_left_off() -> None:
    whole, pieces = file_of(ALL), []
    writer = Writer(HEAD)
    pieces.append(writer.start())
    for row in ALL:
        writer = Writer.resume(HEAD, writer.state())
        pieces.append(writer.rows([row]))
    pieces.append(Writer.resume(HEAD, writer.state()).end())
    assert b"".join(pieces) == whole


def test_a_writers_state_is_small() -> None:
    writer = Writer(HEAD)
    writer._sum = bundle._Sum(2**45, dict.fromkeys(TABLES, 2**16 - 1))
    assert len(writer.state()) <= 80


@pytest.mark.parametrize("state", [b"", b"\x93", b"\x93\xc4\x01a\x00\x90", msgspec.msgpack.encode([bytes(16), 0, [1]])])
def test_what_is_no_state_resumes_nothing(state: bytes) -> None:
    with pytest.raises(ValueError, match="no state"):
        Writer.resume(HEAD, state)


# --- what is not whole is refused ------------------------------------------------------------


def test_a_file_that_is_cut_at_any_frame_is_not_whole() -> None:
    parts = frames(file_of(ALL))
    for count in range(len(parts)):
        with pytest.raises(BadBundle, match="cut short"):
            read(MAGIC + b"".join(parts[:count]))


@pytest.mark.parametrize("length", [0, 1, 15, 16, 19, 36, -1])
def test_a_file_that_is_cut_within_a_frame_is_not_whole(length: int) -> None:
    with pytest.raises(BadBundle, match="cut short"):
        read(file_of(ALL)[:length])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_byte_that_was_altered_anywhere_is_noticed(data: st.DataObject) -> None:
    whole = file_of(ALL)
    at = data.draw(st.integers(0, len(whole) - 1))
    altered = bytearray(whole)
    altered[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadBundle):
        read(bytes(altered))


def test_frames_in_another_order_are_noticed() -> None:
    parts = frames(file_of(ALL))
    for at in range(len(parts) - 1):
        mixed = [*parts[:at], parts[at + 1], parts[at], *parts[at + 2 :]]
        with pytest.raises(BadBundle, match=r"altered"):
            read(MAGIC + b"".join(mixed))


def test_a_frame_that_was_left_out_or_doubled_is_noticed() -> None:
    parts = frames(file_of(ALL))
    for at in range(1, len(parts) - 1):
        for other in ([*parts[:at], *parts[at + 1 :]], [*parts[:at], parts[at], *parts[at:]]):
            with pytest.raises(BadBundle, match="altered"):
                read(MAGIC + b"".join(other))


def test_nothing_may_follow_the_end() -> None:
    with pytest.raises(BadBundle, match="goes on"):
        read(file_of(ALL) + b"x")


def test_the_end_must_count_the_rows_that_came() -> None:
    bodies = [frame[20:] for frame in frames(file_of(ALL))]
    with pytest.raises(BadBundle, match="counts other rows"):
        read(signed([*bodies[:-2], bodies[-1]]))


def test_a_frame_larger_than_any_is_not_waited_for() -> None:
    largest = bundle.FRAME_BYTES_MAX.to_bytes(4) + bytes(16)
    assert Reader().feed(MAGIC + largest) == []
    with pytest.raises(BadBundle, match="larger than any"):
        Reader().feed(MAGIC + (bundle.FRAME_BYTES_MAX + 1).to_bytes(4) + bytes(16))


# --- what is not ours is refused -------------------------------------------------------------


@pytest.mark.parametrize("data", [b"x", b"PK\x03\x04" + bytes(100), MAGIC[:-1] + b"\r" + bytes(100)])
def test_another_kind_of_file_is_called_so_at_once(data: bytes) -> None:
    with pytest.raises(BadBundle, match="no bundle"):
        Reader().feed(data)


def test_a_file_of_a_newer_format_is_called_so_whatever_else_it_says() -> None:
    body = msgspec.msgpack.encode({"frame": "head", "version": VERSION + 1, "what": "galaxy"})
    with pytest.raises(BadBundle, match="Update the hub first"):
        read(signed([body]))


@pytest.mark.parametrize("tables", [{"comet": ("tail",)}, {"invite": (*TABLES["invite"], "more")}])
def test_tables_and_columns_that_are_not_known_are_called_so(tables: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(BadBundle, match="does not know"):
        read(file_of([], msgspec.structs.replace(HEAD, tables=tables)))


def test_more_fields_in_a_frame_than_this_program_knows_are_ignored() -> None:
    bodies = [frame[20:] for frame in frames(file_of(ALL))]
    head = {**msgspec.msgpack.decode(bodies[0]), "mood": "good"}
    assert read(signed([msgspec.msgpack.encode(head), *bodies[1:]]))[1] == ALL


WRONG: dict[str, list[Row]] = {
    "a device before its account": [device()],
    "a device of another account": [account(), device(BEN)],
    "a collection before its space": [account(), collection()],
    "a change before its collection": [account(), space(), change(1)],
    "a change after the next account": [account(), space(), collection(), account(BEN), change(1)],
    "a change after what ends its collection": [account(), space(), collection(), AUDIT, change(1)],
    "changes against the order of their seqs": [account(), space(), collection(), change(2), change(1)],
    "a seq twice": [account(), space(), collection(), change(2), change(2)],
    "a seq above the head": [account(), space(), collection(head=2), change(3)],
    "rows of the hub after an account": [account(), INCARNATION],
    "too few values": [("account", (ANNA,))],
    "no such table": [("comet", (ANNA,))],
    "a value that is a list": [("hub", ("k", [1]))],
}


@pytest.mark.parametrize("what", WRONG)
def test_a_row_where_it_does_not_belong_is_refused(what: str) -> None:
    writer = Writer(HEAD)
    packed = [bundle._encode(bundle._Rows([row])) for row in WRONG[what]]
    with pytest.raises(BadBundle, match="A row of"):
        read(signed([frames(writer.start())[0][20:], *packed]))


def test_rows_of_the_hub_are_refused_in_a_persons_export() -> None:
    with pytest.raises(BadBundle, match="does not belong"):
        read(file_of([INCARNATION], Head("account", 1.0, "1", b"i" * 16)))


# --- comparing two dumps ---------------------------------------------------------------------


def tally(rows: Sequence[Row]) -> Tally:
    result = Tally()
    for row in rows:
        result.add(row)
    return result


def test_equal_rows_have_an_equal_tally_in_another_order_and_with_another_address() -> None:
    once = tally([account(), device(), space(), collection(), change(1), change(2)])
    again = tally([account(tag=b"?" * 32, known=False), space(), device(), collection(), change(2), change(1)])
    assert once == again and once.digest() == again.digest()


@pytest.mark.parametrize(
    "other",
    [
        [account(), space(), collection(), change(1)],
        [account(), space(), collection(), change(1), change(2, b"other!")],
        [account(), space(), collection(head=8), change(1), change(2)],
        [account(BEN), space(BEN), collection(BEN), change(1), change(2)],
    ],
)
def test_other_rows_have_another_tally(other: list[Row]) -> None:
    assert tally(other) != tally([account(), space(), collection(), change(1), change(2)])


def test_a_change_in_another_collection_is_another_row() -> None:
    first, second = ("collection", (ANNA, SPACE, b"1" * 16, 2)), ("collection", (ANNA, SPACE, b"2" * 16, 2))
    assert tally([account(), space(), first, change(1), second]) != tally(
        [account(), space(), first, second, change(1)]
    )


# --- the document ----------------------------------------------------------------------------


def test_the_document_names_every_table_and_column_in_its_order() -> None:
    section = DOCUMENT.read_text().partition("## Tables\n")[2].partition("\n## ")[0]
    found = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, flags=re.M))
    assert [(table, tuple(re.findall(r"`(\w+)`", columns))) for table, columns in found.items()] == list(TABLES.items())


def test_the_documents_reader_reads_what_is_written(tmp_path: Path) -> None:
    [source] = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.S)
    path = tmp_path / "one.bundle"
    path.write_bytes(file_of(ALL))
    named: dict[str, object] = {}
    exec(source, named)
    frames_read = list(named["frames"](path))  # type: ignore[operator]
    rows = [tuple(row) for frame in frames_read if frame["frame"] == "rows" for row in frame["rows"]]
    assert [(table, tuple(values)) for table, values in rows] == ALL
    altered = bytearray(path.read_bytes())
    altered[-1] ^= 1
    path.write_bytes(altered)
    with pytest.raises(ValueError, match="altered"):
        list(named["frames"](path))  # type: ignore[operator]
