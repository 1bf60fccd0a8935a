"""Paths, values, chunks and names of conflict copies."""

from __future__ import annotations

import hashlib
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.folder.files import (
    CHUNK_BYTES,
    INLINE_BYTES,
    BadValue,
    Stamp,
    Unsafe,
    as_text,
    blocked_label,
    check_path,
    chunk_count,
    chunk_keys,
    chunked_value,
    conflict_label,
    inline_value,
    is_reserved,
    parse_value,
    printable,
    sibling,
)

VERSION = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    "path",
    ["a", "a/b.txt", "...", "..a/b", "a b", "ö/ü.txt", "con", "a\\b", "-rf", "a/.hidden", "x" * 255, "\u202egnp.exe"],
)
def test_ordinary_paths_are_accepted(path: str) -> None:
    check_path(path)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "empty"),
        ("/etc/passwd", "absolute"),
        ("..", "leaves"),
        ("../a", "leaves"),
        ("a/../b", "leaves"),
        ("a/..", "leaves"),
        (".", "leaves"),
        ("./a", "leaves"),
        ("a//b", "empty part"),
        ("a/", "empty part"),
        ("a\0b", "NUL"),
        ("o\u0308", "NFC"),
        ("\ud800", "Unicode"),
        ("x" * 256, "255"),
        ("ö" * 128, "255"),
        ("/".join(["x" * 200] * 6), "1024"),
        (".hubfolder", "reserved"),
        ("a/.hubfolder", "reserved"),
        (".HubFolder/x", "reserved"),
        (".hubfolder-tmp-1", "reserved"),
    ],
)
def test_a_path_that_could_leave_the_folder_or_disturb_it_is_refused(path: str, why: str) -> None:
    with pytest.raises(Unsafe, match=why):
        check_path(path)


def test_a_path_of_1024_bytes_is_accepted_and_one_more_is_not() -> None:
    path = "/".join(["x" * 255, "x" * 255, "x" * 255, "x" * 256])
    assert len(path) == 1024
    with pytest.raises(Unsafe, match="255"):
        check_path(path)
    path = "/".join(["x" * 255, "x" * 255, "x" * 255, "x" * 253, "y"])
    assert len(path) == 1023
    check_path(path + "y")
    with pytest.raises(Unsafe, match="1024"):
        check_path(path + "yy")


@given(st.text(max_size=40))
def test_no_accepted_path_resolves_outside(path: str) -> None:
    try:
        check_path(path)
    except Unsafe:
        return
    depth = 0
    for name in path.split("/"):
        assert name not in ("", ".", "..")
        depth += 1
    assert depth >= 1 and "\0" not in path


@pytest.mark.parametrize("size", [0, 1, INLINE_BYTES])
def test_a_file_up_to_the_bound_lies_in_one_record(size: int) -> None:
    content = b"x" * size
    parsed = parse_value(inline_value(content, True))
    assert parsed.content == content
    assert parsed.stamp == Stamp(hashlib.sha256(content).digest(), True)


def test_a_file_above_the_bound_does_not() -> None:
    with pytest.raises(AssertionError):
        inline_value(b"x" * (INLINE_BYTES + 1), False)


@pytest.mark.parametrize(
    ("size", "count"),
    [(0, 0), (1, 1), (CHUNK_BYTES, 1), (CHUNK_BYTES + 1, 2), (3 * 1_048_576, 24), (3 * 1_048_576 + 1, 25)],
)
def test_chunks_are_counted_at_n_and_one_more(size: int, count: int) -> None:
    assert chunk_count(size) == count
    assert len(chunk_keys(VERSION, count)) == count


def test_a_chunked_value_comes_back() -> None:
    parsed = parse_value(chunked_value(bytes(32), INLINE_BYTES + 1, False, VERSION))
    assert (parsed.content, parsed.chunks, parsed.version, parsed.size) == (None, 2, VERSION, INLINE_BYTES + 1)


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        {},
        {**inline_value(b"abc", False), "n": 4},
        {**inline_value(b"abc", False), "c": b"abd"},
        {**inline_value(b"abc", False), "x": 1},
        {**chunked_value(bytes(32), 200_000, False, VERSION), "k": 3},
        {**chunked_value(bytes(31), 200_000, False, VERSION)},
        {**chunked_value(bytes(32), 200_000, False, "../../" + VERSION[6:])},
        {**chunked_value(bytes(32), 200_000, False, VERSION.upper())},
    ],
)
def test_half_or_foreign_values_are_refused(value: object) -> None:
    with pytest.raises(BadValue):
        parse_value(value)


def test_only_small_utf8_without_nul_is_text() -> None:
    assert as_text(b"") == ""
    assert as_text("größer".encode()) == "größer"
    assert as_text(b"a\0b") is None
    assert as_text(b"\xff\xfe") is None
    assert as_text(b"x" * INLINE_BYTES) is not None
    assert as_text(b"x" * (INLINE_BYTES + 1)) is None


AT = datetime(2026, 11, 23, 9, 5, 7)


@pytest.mark.parametrize(
    ("path", "copy"),
    [
        ("notes.txt", "notes (conflict attic 2026-11-23 090507).txt"),
        ("a/b/notes.txt", "a/b/notes (conflict attic 2026-11-23 090507).txt"),
        ("Makefile", "Makefile (conflict attic 2026-11-23 090507)"),
        (".bashrc", ".bashrc (conflict attic 2026-11-23 090507)"),
        ("x.tar.gz", "x.tar (conflict attic 2026-11-23 090507).gz"),
    ],
)
def test_a_conflict_copy_tells_whose_it_is_and_from_when(path: str, copy: str) -> None:
    assert sibling(path, conflict_label("attic", AT), lambda _: False) == copy


def test_a_conflict_copy_never_takes_a_name_that_is_taken() -> None:
    taken: set[str] = set()
    for _ in range(3):
        taken.add(sibling("a.txt", "mark", taken.__contains__))
    assert taken == {"a (mark).txt", "a (mark 2).txt", "a (mark 3).txt"}


def test_a_device_name_cannot_make_a_copy_leave_its_folder() -> None:
    label = conflict_label("../..\x1b[2J/\0", AT)
    copy = sibling("a/b.txt", label, lambda _: False)
    check_path(copy)
    assert copy.startswith("a/b (") and copy.count("/") == 1


@given(st.text(min_size=1, max_size=300), st.text(max_size=60))
def test_every_conflict_copy_is_an_ordinary_path(path: str, device: str) -> None:
    try:
        check_path(path)
    except Unsafe:
        return
    check_path(sibling(path, conflict_label(device, AT), lambda _: False))


@pytest.mark.parametrize(
    "path", ["ö" * 127 + "a", "/".join(["x" * 255, "x" * 255, "x" * 255, "x" * 253, "yy"]), "a." + "b" * 200]
)
def test_a_copy_of_a_path_of_greatest_length_still_fits(path: str) -> None:
    check_path(path)
    check_path(sibling(path, conflict_label("d" * 99, AT), lambda _: False))


def test_a_file_that_gives_way_to_a_folder_gets_the_same_name_on_all_devices() -> None:
    assert blocked_label(Stamp(b"\xab" * 32, False)) == "file abababababab"


def test_our_own_files_are_known_however_they_are_written() -> None:
    assert is_reserved(".hubfolder") and is_reserved(".HUBFOLDER") and is_reserved(".hubfolder-tmp-12")
    assert not is_reserved(".hubfolders") and not is_reserved("hubfolder")


def test_a_name_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\n") == "a\\x1b[2Jb\\x0a"
