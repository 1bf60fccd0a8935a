"""The disk: never outside the folder, never half a file, never over what somebody just wrote."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from hub.folder import disk as disk_module
from hub.folder.disk import Blocked, Busy, Disk, FolderGone, Skipped
from hub.folder.files import MARKER, MTIME_UNKNOWN, TEMP_PREFIX, Stamp


def stamp(content: bytes, executable: bool = False) -> Stamp:
    return Stamp(hashlib.sha256(content).digest(), executable)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


@pytest.fixture
def disk(root: Path) -> Disk:
    return Disk(root, 1_000_000)


def put(disk: Disk, path: str, content: bytes, expected: Stamp | None = None, executable: bool = False) -> None:
    disk.place(path, disk.stage(path, content, executable), expected)


def leftovers(root: Path) -> list[Path]:
    return list(root.rglob(TEMP_PREFIX + "*"))


def test_a_file_is_written_with_its_folders_and_read_back(disk: Disk, root: Path) -> None:
    put(disk, "a/b/c.txt", b"hello", executable=True)
    assert (root / "a/b/c.txt").read_bytes() == b"hello"
    assert os.access(root / "a/b/c.txt", os.X_OK)
    content, file = disk.read("a/b/c.txt", 100)
    assert (content, file.stamp) == (b"hello", stamp(b"hello", True))
    assert not leftovers(root)


def test_a_file_larger_than_asked_is_hashed_but_not_read(disk: Disk) -> None:
    put(disk, "a", b"x" * 11)
    assert disk.read("a", 11)[0] == b"x" * 11
    content, file = disk.read("a", 10)
    assert content is None and file.stamp == stamp(b"x" * 11)


def test_what_somebody_wrote_meanwhile_is_not_overwritten(disk: Disk, root: Path) -> None:
    (root / "a").write_bytes(b"old")
    staged = disk.stage("a", b"new", False)
    (root / "a").write_bytes(b"mine")
    with pytest.raises(Busy):
        disk.place("a", staged, stamp(b"old"))
    assert (root / "a").read_bytes() == b"mine"
    assert not leftovers(root)


def test_a_file_that_appeared_meanwhile_is_not_overwritten(disk: Disk, root: Path) -> None:
    staged = disk.stage("a", b"new", False)
    (root / "a").write_bytes(b"mine")
    with pytest.raises(Busy):
        disk.place("a", staged, None)
    assert (root / "a").read_bytes() == b"mine"
    assert not leftovers(root)


def test_what_somebody_wrote_meanwhile_is_not_removed(disk: Disk, root: Path) -> None:
    (root / "a").write_bytes(b"mine")
    with pytest.raises(Busy):
        disk.remove("a", stamp(b"old"))
    assert (root / "a").exists()


@pytest.mark.parametrize("saves", [1, 2])
def test_what_is_saved_in_the_very_moment_of_the_rename_is_not_lost(
    disk: Disk, root: Path, monkeypatch: pytest.MonkeyPatch, saves: int
) -> None:
    exchange, left = disk_module._exchange, [b"first", b"second"][:saves]

    def save_then_exchange(fd: int, one: str, other: str) -> bool:
        if left:
            (root / "saved").write_bytes(left.pop(0))
            (root / "saved").replace(root / "a")
        return exchange(fd, one, other)

    monkeypatch.setattr(disk_module, "_exchange", save_then_exchange)
    (root / "a").write_bytes(b"old")
    staged = disk.stage("a", b"new", False)
    with pytest.raises(Busy):
        disk.place("a", staged, stamp(b"old"))
    assert (root / "a").read_bytes() == (b"first" if saves == 1 else b"second")
    assert not leftovers(root)


def test_a_save_and_a_deletion_around_the_very_rename_keep_the_save(
    disk: Disk, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange, calls = disk_module._exchange, []

    def save_exchange_delete(fd: int, one: str, other: str) -> bool:
        if not calls:
            (root / "a").write_bytes(b"saved")
        calls.append(exchange(fd, one, other))
        if len(calls) == 1:
            (root / "a").unlink()
        return calls[-1]

    monkeypatch.setattr(disk_module, "_exchange", save_exchange_delete)
    (root / "a").write_bytes(b"old")
    staged = disk.stage("a", b"new", False)
    with pytest.raises(Busy):
        disk.place("a", staged, stamp(b"old"))
    assert (root / "a").read_bytes() == b"saved"
    assert not leftovers(root)


def test_what_is_saved_in_the_very_moment_of_the_removal_is_not_lost(
    disk: Disk, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = disk._check

    def check_then_save(fd: int, name: str, path: str, expected: Stamp) -> None:
        check(fd, name, path, expected)
        if name == "a":
            (root / "saved").write_bytes(b"saved")
            (root / "saved").replace(root / "a")

    monkeypatch.setattr(disk, "_check", check_then_save)
    (root / "a").write_bytes(b"old")
    with pytest.raises(Busy):
        disk.remove("a", stamp(b"old"))
    assert (root / "a").read_bytes() == b"saved"
    assert not leftovers(root)


@pytest.mark.parametrize("without", ["exchange", "links"])
def test_a_file_system_that_cannot_do_everything_still_serves(
    disk: Disk, root: Path, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    def no_link(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if without == "exchange":
        monkeypatch.setattr(disk_module, "_renameat2", None)
    else:
        monkeypatch.setattr(os, "link", no_link)
    put(disk, "a", b"1")
    put(disk, "a", b"2", stamp(b"1"))
    disk.move_aside("a", "b")
    (root / "a").write_bytes(b"mine")
    for expected in (None, stamp(b"2")):
        with pytest.raises(Busy):
            put(disk, "a", b"3", expected)
    with pytest.raises(Busy):
        disk.move_aside("b", "a")
    assert {p.name: p.read_bytes() for p in root.iterdir()} == {"a": b"mine", "b": b"2"}


def test_removing_the_last_file_removes_the_folders_it_leaves_empty(disk: Disk, root: Path) -> None:
    put(disk, "a/b/c", b"x")
    put(disk, "a/d", b"y")
    disk.remove("a/b/c", stamp(b"x"))
    assert not (root / "a/b").exists() and (root / "a/d").exists()
    disk.remove("a/d", stamp(b"y"))
    assert list(root.iterdir()) == [] and root.exists()


def test_the_permissions_of_a_replaced_file_stay(disk: Disk, root: Path) -> None:
    (root / "a").write_bytes(b"old")
    (root / "a").chmod(0o640)
    put(disk, "a", b"new", stamp(b"old"), executable=True)
    assert (root / "a").stat().st_mode & 0o777 == 0o750
    put(disk, "a", b"newer", stamp(b"new", True))
    assert (root / "a").stat().st_mode & 0o777 == 0o640


def test_a_path_below_a_symbolic_link_is_never_followed(disk: Disk, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_bytes(b"v")
    (root / "link").symlink_to(outside)
    for work in (
        lambda: disk.stage("link/new", b"x", False),
        lambda: disk.stage("link/deeper/new", b"x", False),
        lambda: disk.remove("link/victim", stamp(b"v")),
        lambda: disk.read("link/victim", 10),
        lambda: disk.look("link/victim"),
        lambda: disk.reader("link/victim"),
    ):
        with pytest.raises(Skipped):
            work()
    assert [p.name for p in outside.iterdir()] == ["victim"]
    assert not disk.missing("link/victim")


def test_a_folder_swapped_for_a_link_while_a_file_is_staged_is_noticed(disk: Disk, root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    staged = disk.stage("a/b", b"x", False)
    (root / "a").rename(tmp_path / "moved")
    (root / "a").symlink_to(tmp_path / "outside")
    with pytest.raises(Skipped):
        disk.place("a/b", staged, None)
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_link_in_the_place_of_a_file_is_not_replaced(disk: Disk, root: Path, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"t")
    (root / "a").symlink_to(tmp_path / "target")
    staged = disk.stage("a", b"x", False)
    with pytest.raises(Skipped):
        disk.place("a", staged, None)
    assert (root / "a").is_symlink() and (tmp_path / "target").read_bytes() == b"t"
    with pytest.raises(Skipped):
        disk.read("a", 10)
    assert not leftovers(root)


def test_a_file_where_a_folder_is_needed_is_named(disk: Disk, root: Path) -> None:
    (root / "a").write_bytes(b"x")
    with pytest.raises(Blocked) as blocked:
        disk.stage("a/b/c", b"y", False)
    assert (blocked.value.path, blocked.value.by_folder) == ("a", False)
    assert disk.look("a/b/c") is None and disk.missing("a/b/c")


def test_a_folder_where_a_file_is_needed_is_named_unless_it_is_empty(disk: Disk, root: Path) -> None:
    (root / "a").mkdir()
    put(disk, "a", b"x")
    assert (root / "a").read_bytes() == b"x"
    put(disk, "b/c", b"x")
    staged = disk.stage("b", b"y", False)
    with pytest.raises(Blocked) as blocked:
        disk.place("b", staged, None)
    assert (blocked.value.path, blocked.value.by_folder) == ("b", True)
    assert not leftovers(root)


def test_moving_aside_never_overwrites(disk: Disk, root: Path) -> None:
    (root / "a").write_bytes(b"1")
    (root / "b").write_bytes(b"2")
    with pytest.raises(Busy):
        disk.move_aside("a", "b")
    disk.move_aside("a", "c")
    assert {p.name: p.read_bytes() for p in root.iterdir()} == {"b": b"2", "c": b"1"}


def test_a_scan_finds_files_and_names_what_it_leaves_out(disk: Disk, root: Path) -> None:
    put(disk, "a/b", b"x")
    (root / "run").write_bytes(b"#!")
    (root / "run").chmod(0o755)
    (root / MARKER).write_text("id")
    (root / "big").write_bytes(b"x" * 1_000_001)
    (root / "just").write_bytes(b"x" * 1_000_000)
    (root / "link").symlink_to("a")
    os.mkfifo(root / "pipe")
    found = disk.scan({})
    assert {p: f.stamp for p, f in found.files.items()} == {
        "a/b": stamp(b"x"),
        "run": stamp(b"#!", True),
        "just": stamp(b"x" * 1_000_000),
    }
    assert found.skipped == {
        "big": "larger than 1,000,000 bytes",
        "link": "symbolic links are not synced",
        "pipe": "only files are synced",
    }


def test_a_name_that_is_no_unicode_is_left_out(disk: Disk, root: Path) -> None:
    (Path(os.fsdecode(os.fsencode(root) + b"/\xff"))).write_bytes(b"x")
    found = disk.scan({})
    assert found.files == {} and list(found.skipped.values()) == ["the name is not valid Unicode"]


def test_a_name_in_another_unicode_form_has_the_key_in_nfc_and_is_found_by_it(disk: Disk, root: Path) -> None:
    (root / "o\u0308").mkdir()
    (root / "o\u0308/u\u0308").write_bytes(b"x")
    assert set(disk.scan({}).files) == {"ö/ü"}
    assert disk.read("ö/ü", 10)[0] == b"x"
    put(disk, "ö/ü", b"y", stamp(b"x"))
    put(disk, "ö/new", b"z")
    assert (root / "o\u0308/u\u0308").read_bytes() == b"y"
    assert [p.name for p in root.iterdir()] == ["o\u0308"]


def test_of_two_spellings_of_one_name_the_other_is_left_out(disk: Disk, root: Path) -> None:
    (root / "ö").write_bytes(b"nfc")
    (root / "o\u0308").write_bytes(b"nfd")
    found = disk.scan({})
    assert {p: f.stamp for p, f in found.files.items()} == {"ö": stamp(b"nfc")}
    assert list(found.skipped) == ["o\u0308"]
    assert disk.read("ö", 10)[0] == b"nfc"


def test_a_scan_reads_only_what_looks_different(disk: Disk, root: Path) -> None:
    (root / "a").write_bytes(b"old")
    os.utime(root / "a", ns=(10**18, 10**18))
    known = disk.scan({}).files
    assert known["a"].mtime_ns == 10**18
    (root / "a").write_bytes(b"new")
    os.utime(root / "a", ns=(10**18, 10**18))
    assert disk.scan(known).files == known
    os.utime(root / "a", ns=(10**18, 10**18 + 1))
    assert disk.scan(known).files["a"].stamp == stamp(b"new")


def test_the_time_of_a_file_changed_just_now_is_not_trusted(disk: Disk, root: Path) -> None:
    (root / "a").write_bytes(b"old")
    known = disk.scan({}).files
    assert known["a"].mtime_ns == MTIME_UNKNOWN
    status = (root / "a").stat()
    (root / "a").write_bytes(b"new")
    os.utime(root / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert disk.scan(known).files["a"].stamp == stamp(b"new")


def test_only_the_first_scan_tidies_up_after_a_killed_process(disk: Disk, root: Path) -> None:
    put(disk, "a/b", b"x")
    (root / "a" / (TEMP_PREFIX + "dead")).write_bytes(b"half")
    assert set(disk.scan({}).files) == {"a/b"}
    assert leftovers(root)
    disk.scan({}, tidy=True)
    assert not leftovers(root)


def test_a_folder_that_cannot_be_read_hides_what_is_in_it_rather_than_deleting_it(
    disk: Disk, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(disk, "a/b", b"x")
    really_open = os.open

    # The tests may run as the superuser, whom no mode keeps out.
    def open_(path: str, flags: int, *rest: int, **more: int) -> int:
        if path == "a":
            raise PermissionError(13, "Permission denied")
        return really_open(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", open_)
    assert disk.scan({}).skipped == {"a": "Permission denied"}
    assert not disk.missing("a/b")


def test_a_folder_without_its_marker_is_gone(disk: Disk, root: Path) -> None:
    (root / MARKER).write_text("id\n")
    disk.check_marker("id")
    with pytest.raises(FolderGone):
        disk.check_marker("other")
    (root / MARKER).unlink()
    with pytest.raises(FolderGone):
        disk.check_marker("id")
    root.rmdir()
    with pytest.raises(FolderGone):
        disk.scan({})


def test_a_large_file_is_read_in_pieces(disk: Disk, root: Path) -> None:
    content = bytes(range(256)) * 1000
    (root / "a").write_bytes(content)
    reader = disk.reader("a")
    pieces = []
    while batch := reader.take(3, 10_000):
        assert len(batch) <= 3
        pieces += batch
    assert b"".join(pieces) == content and {len(p) for p in pieces[:-1]} == {10_000}
    assert reader.finish().stamp == stamp(content)
    reader.close()


def test_a_large_file_written_while_it_is_read_is_noticed(disk: Disk, root: Path) -> None:
    (root / "a").write_bytes(b"x" * 100)
    reader = disk.reader("a")
    reader.take(1, 10)
    with (root / "a").open("ab") as file:
        file.write(b"more")
    with pytest.raises(Busy):
        reader.finish()
    reader.close()


def test_a_file_that_is_not_finished_leaves_nothing(disk: Disk, root: Path) -> None:
    with pytest.raises(KeyError), disk.writer("a/b", False) as writer:
        writer.write(b"half")
        raise KeyError
    assert not leftovers(root)


def test_the_executable_bit_alone_can_be_set(disk: Disk, root: Path) -> None:
    (root / "a").write_bytes(b"x")
    (root / "a").chmod(0o644)
    disk.set_executable("a", True)
    assert (root / "a").stat().st_mode & 0o777 == 0o755
    disk.set_executable("a", False)
    assert (root / "a").stat().st_mode & 0o777 == 0o644


def test_flushing_is_safe_when_folders_have_gone(disk: Disk) -> None:
    put(disk, "a/b/c", b"x")
    disk.remove("a/b/c", stamp(b"x"))
    disk.flush()
