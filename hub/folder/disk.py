"""The folder on the disk: look, read, write whole files, never leave the folder.

Every path is walked from the folder's own directory, name by name, without
following a symbolic link (POSIX ``openat``).  So a path cannot leave the folder,
not even when somebody swaps a directory for a link between two calls.  A file is
written beside its place, flushed, and renamed into it, so a reader sees the old
content or the new; and only if what lies there is still what the caller thinks.

All calls block; ``sync.py`` makes them in threads.  Keys are those of
``files.py``; a file whose name on the disk is spelled in another Unicode form is
found by its key.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import io
import os
import secrets
import stat
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from hub.folder.files import (
    MARKER,
    MTIME_UNKNOWN,
    TEMP_PREFIX,
    DiskFile,
    Stamp,
    Unsafe,
    check_path,
    is_reserved,
)

_RACY_NS = 1_000_000_000  # well above the coarsest tick of a file system's clock that we know (ext3: 1 s)
_READ_TRIES = 3
_T = TypeVar("_T")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # NONBLOCK: a pipe must not hold us

_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
_RENAME_EXCHANGE = 2


class Scan(NamedTuple):
    """All files of the folder, and what was left out: a path (and all below it) with the reason."""

    files: dict[str, DiskFile]
    skipped: dict[str, str]


class Staged(NamedTuple):
    """A file written beside its place and flushed, not yet in it."""

    temp: str
    hash: bytes
    size: int


class Skipped(Exception):
    """This path is not synced and must be left as it is; the text says why."""


class Busy(Exception):
    """The file changes while it is read, or is not what the caller thinks; look again."""


class Blocked(Exception):
    """A file lies where a folder is needed, or the other way round; ``path`` is where."""

    def __init__(self, path: str, by_folder: bool) -> None:
        super().__init__(path)
        self.path = path
        self.by_folder = by_folder


class FolderGone(Exception):
    """The folder or its marker is not there: nothing that is missing in it was deleted by a person."""


class Reader:
    """One open file, read once from start to end."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._before = os.fstat(file.fileno())
        self._hasher = hashlib.sha256()
        self.size = self._before.st_size

    def take(self, count: int, piece_bytes: int) -> list[bytes]:
        """The next ``count`` pieces; fewer at the end, none after it."""
        block = self._file.read(count * piece_bytes)
        self._hasher.update(block)
        return [block[at : at + piece_bytes] for at in range(0, len(block), piece_bytes)]

    def finish(self) -> DiskFile:
        """What was read; raises ``Busy`` when the file was written meanwhile."""
        after = os.fstat(self._file.fileno())
        if _moment(after) != _moment(self._before):
            raise Busy("changed while it was read")
        return _disk_file(self._hasher.digest(), after)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Writer:
    """One file being staged; use it in a ``with`` block, which removes it unless it was finished."""

    def __init__(self, file: io.BufferedWriter, temp: str, remove: Callable[[], None]) -> None:
        self._file = file
        self._temp = temp
        self._remove: Callable[[], None] | None = remove
        self._hasher = hashlib.sha256()

    def write(self, content: bytes) -> None:
        """The next piece."""
        self._hasher.update(content)
        self._file.write(content)

    def finish(self) -> Staged:
        """Flush it to the disk; it now waits to be placed or discarded."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._remove = None
        return Staged(self._temp, self._hasher.digest(), self._file.tell())

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._file.close()
        finally:
            if self._remove is not None:
                self._remove()


class Disk:
    """The files under ``root``, up to ``size_max`` bytes each."""

    def __init__(self, root: Path, size_max: int) -> None:
        self.root = root.resolve()
        self._size_max = size_max
        self._spelled: dict[str, str] = {}  # key of a path whose last name is spelled in another form -> that name
        self._unflushed: set[str] = set()  # directories whose entries changed, by key; "" is the root
        self._lock = threading.Lock()
        self._tidy = False

    def check_marker(self, folder_id: str) -> None:
        """Raise ``FolderGone`` unless this is still the folder it was; an unmounted disk leaves an empty one."""
        try:
            found = (self.root / MARKER).read_text().strip()
        except OSError:
            found = ""
        if found != folder_id:
            raise FolderGone(f"{self.root} is gone or is another folder now; is its disk mounted?")

    def scan(self, known: Mapping[str, DiskFile], tidy: bool = False) -> Scan:
        """Every file of the folder; content is read only where ``known`` has other size, time or bit.

        ``tidy`` removes what a killed process left half written; only before this process writes itself.
        """
        found = Scan({}, {})
        self._tidy = tidy
        with self._directory("") as root:
            self._scan(root, "", known, found)
        return found

    def _scan(self, fd: int, folder: str, known: Mapping[str, DiskFile], found: Scan) -> None:
        with os.scandir(fd) as entries:
            # Names in form NFC first, so that of two spellings of one name the same one always wins.
            names = sorted((e.name for e in entries), key=lambda n: (unicodedata.normalize("NFC", n) != n, n))
        for name in names:
            if is_reserved(name):
                if self._tidy and name.startswith(TEMP_PREFIX):
                    os.unlink(name, dir_fd=fd)
                continue
            key = f"{folder}/{name}" if folder else name
            try:
                key = self._key_of(folder, name, found)
                self._scan_entry(fd, name, key, known, found)
            except (Skipped, Unsafe) as reason:
                found.skipped[key] = str(reason)
            except (Busy, FileNotFoundError):
                found.skipped[key] = ""  # it is being written this moment; the watcher will tell
            except OSError as fault:
                found.skipped[key] = fault.strerror or str(fault)

    def _key_of(self, folder: str, name: str, found: Scan) -> str:
        normal = unicodedata.normalize("NFC", name)
        key = f"{folder}/{normal}" if folder else normal
        check_path(key)
        if normal == name:
            self._spelled.pop(key, None)
        elif key in found.files or key in found.skipped or any(path.startswith(key + "/") for path in found.files):
            raise Skipped("another file has the same name in another Unicode form")
        else:
            self._spelled[key] = name
        return key

    def _scan_entry(self, fd: int, name: str, key: str, known: Mapping[str, DiskFile], found: Scan) -> None:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            below = os.open(name, _DIRECTORY, dir_fd=fd)
            try:
                self._scan(below, key, known, found)
            finally:
                os.close(below)
            return
        self._check_kind(status)
        before = known.get(key)
        if before is not None and before[1:] == (_executable(status), status.st_size, status.st_mtime_ns):
            found.files[key] = before
        else:
            found.files[key] = self._hash(fd, name)

    def _check_kind(self, status: os.stat_result) -> None:
        if stat.S_ISLNK(status.st_mode):
            raise Skipped("symbolic links are not synced")
        if not stat.S_ISREG(status.st_mode):
            raise Skipped("only files are synced")
        if status.st_size > self._size_max:
            raise Skipped(f"larger than {self._size_max:,} bytes")

    def look(self, path: str) -> DiskFile | None:
        """What lies at ``path`` now, its content read; None when no file does.  Raises ``Skipped``, ``Busy``."""
        try:
            with self._parent(path) as (fd, name):
                return self._look(fd, name)
        except (FileNotFoundError, Blocked):
            return None

    def _look(self, fd: int, name: str) -> DiskFile | None:
        try:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                return None
            self._check_kind(status)
            return self._hash(fd, name)
        except FileNotFoundError:
            return None

    def is_folder(self, path: str) -> bool:
        """Whether a directory lies at ``path``."""
        try:
            with self._parent(path) as (fd, name):
                return stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
        except (OSError, Skipped, Blocked):
            return False

    def missing(self, path: str) -> bool:
        """Whether nothing or a folder lies at ``path``, so that the person must have removed the file."""
        try:
            with self._parent(path) as (fd, name):
                return stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
        except (FileNotFoundError, Blocked):
            return True
        except (OSError, Skipped):
            return False

    def _hash(self, fd: int, name: str) -> DiskFile:
        def digest(file: io.BufferedReader) -> bytes:
            return hashlib.file_digest(file, "sha256").digest()

        content_hash, status = self._steady(fd, name, digest)
        return _disk_file(content_hash, status)

    def read(self, path: str, bytes_max: int) -> tuple[bytes | None, DiskFile]:
        """The content, or None when it has more than ``bytes_max`` bytes, and the file it is of.

        Raises ``FileNotFoundError``, ``Skipped``, ``Busy``.
        """

        def content(file: io.BufferedReader) -> bytes | None:
            return file.read() if os.fstat(file.fileno()).st_size <= bytes_max else None

        with self._parent(path) as (fd, name):
            read, status = self._steady(fd, name, content)
            if read is None or len(read) > bytes_max:
                return None, self._hash(fd, name)
            return read, _disk_file(hashlib.sha256(read).digest(), status)

    def reader(self, path: str) -> Reader:
        """Open a file of any size to be read piece by piece.  Raises ``FileNotFoundError``, ``Skipped``."""
        with self._parent(path) as (fd, name):
            file = self._file(fd, name)
        try:
            self._check_kind(os.fstat(file.fileno()))
        except Skipped:
            file.close()
            raise
        return Reader(file)

    def _steady(self, fd: int, name: str, work: Callable[[io.BufferedReader], _T]) -> tuple[_T, os.stat_result]:
        """Do ``work`` on a file that is not written meanwhile; raises ``Busy`` when it always is."""
        for _ in range(_READ_TRIES):
            with self._file(fd, name) as file:
                before = os.fstat(file.fileno())
                self._check_kind(before)
                result = work(file)
                after = os.fstat(file.fileno())
            if _moment(before) == _moment(after):
                return result, after
        raise Busy(name)

    def _file(self, fd: int, name: str) -> io.BufferedReader:
        def opener(path: str, _: int) -> int:
            try:
                return os.open(path, _FILE, dir_fd=fd)
            except OSError as fault:
                if fault.errno == errno.ELOOP:
                    raise Skipped("symbolic links are not synced") from None
                raise

        return open(name, "rb", opener=opener)

    def stage(self, path: str, content: bytes, executable: bool) -> Staged:
        """Write ``content`` to a flushed file beside ``path``, making its folders.  Raises ``Blocked``, ``Skipped``."""
        with self.writer(path, executable) as writer:
            writer.write(content)
            return writer.finish()

    def writer(self, path: str, executable: bool) -> Writer:
        """The same piece by piece: write, then finish; leaving it unfinished removes it."""
        temp = f"{TEMP_PREFIX}{secrets.token_hex(8)}"
        with self._parent(path, make=True) as (fd, name):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            file = os.open(temp, flags, 0o777 if executable else 0o666, dir_fd=fd)
            self._copy_mode(fd, name, file, executable)
        return Writer(os.fdopen(file, "wb"), temp, lambda: self._unlink_beside(path, temp))

    def _unlink_beside(self, path: str, temp: str) -> None:
        with suppress(OSError, Skipped, Blocked), self._parent(path) as (fd, _):
            os.unlink(temp, dir_fd=fd)

    def _copy_mode(self, fd: int, name: str, temp: int, executable: bool) -> None:
        """Who may read the old file may read the new one."""
        with suppress(FileNotFoundError):
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                _set_bits(temp, status, executable)

    def place(self, path: str, staged: Staged, expected: Stamp | None) -> DiskFile:
        """Rename a staged file to ``path`` if what lies there is still ``expected``.

        Raises ``Busy`` when it is not, ``Blocked`` when a folder that is not empty lies there; the staged file is
        gone then.
        """
        with self._parent(path) as (fd, name):
            try:
                self._rename(fd, staged, name, path, expected)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(staged.temp, dir_fd=fd)
                raise
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        self._changed(path)
        return _disk_file(staged.hash, status)

    def _rename(self, fd: int, staged: Staged, name: str, path: str, expected: Stamp | None) -> None:
        self._remove_empty_folder(fd, name, path)
        if expected is None:
            self._look(fd, name)  # what is skipped must not be taken for a file that was written meanwhile
            _move(fd, staged.temp, fd, name, path)
        elif _exchange(fd, staged.temp, name):
            self._settle_exchange(fd, staged, name, path, expected)
        else:
            self._check(fd, name, path, expected)
            os.rename(staged.temp, name, src_dir_fd=fd, dst_dir_fd=fd)

    def _settle_exchange(self, fd: int, staged: Staged, name: str, path: str, expected: Stamp) -> None:
        """Looking at what was replaced *after* it was leaves no moment in which a person's save could be lost."""
        try:
            self._check(fd, staged.temp, path, expected)
        except (Busy, Skipped):
            try:
                _exchange(fd, staged.temp, name)
            except FileNotFoundError:  # deleted in between: what was saved before stays
                _move(fd, staged.temp, fd, name, path)
                raise Busy(path) from None
            if self._hash(fd, staged.temp).hash != staged.hash:
                _exchange(fd, staged.temp, name)  # saved once more in between: that is the newest
            raise
        os.unlink(staged.temp, dir_fd=fd)

    def _check(self, fd: int, name: str, path: str, expected: Stamp) -> None:
        found = self._look(fd, name)
        if found is None or found.stamp != expected:
            raise Busy(path)

    def _remove_empty_folder(self, fd: int, name: str, path: str) -> None:
        try:
            os.rmdir(name, dir_fd=fd)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as fault:
            raise Blocked(path, by_folder=True) from fault

    def discard(self, path: str, staged: Staged) -> None:
        """Remove a staged file that is not wanted after all."""
        self._unlink_beside(path, staged.temp)

    def set_executable(self, path: str, executable: bool) -> None:
        """Set or clear the executable bits, for those who may read."""
        with self._parent(path) as (fd, name), self._file(fd, name) as file:
            _set_bits(file.fileno(), os.fstat(file.fileno()), executable)

    def remove(self, path: str, expected: Stamp) -> None:
        """Remove the file if it is still ``expected``, and the folders it leaves empty.  Raises ``Busy``."""
        temp = f"{TEMP_PREFIX}{secrets.token_hex(8)}"
        with self._parent(path) as (fd, name):
            self._check(fd, name, path, expected)
            # Taken away first and looked at again: what is saved at this moment is not lost.
            os.rename(name, temp, src_dir_fd=fd, dst_dir_fd=fd)
            try:
                self._check(fd, temp, path, expected)
            except BaseException:
                _move(fd, temp, fd, name, path)
                raise
            os.unlink(temp, dir_fd=fd)
        self._changed(path)
        self._remove_empty_parents(path)

    def _remove_empty_parents(self, path: str) -> None:
        folder = path.rpartition("/")[0]
        while folder:
            try:
                with self._parent(folder) as (fd, name):
                    os.rmdir(name, dir_fd=fd)
            except (OSError, Skipped, Blocked):
                return
            with self._lock:
                self._unflushed.discard(folder)
                self._spelled.pop(folder, None)
            self._changed(folder)
            folder = folder.rpartition("/")[0]

    def move_aside(self, path: str, aside: str) -> None:
        """Rename a file.  Raises ``Busy`` when something lies at ``aside`` already, ``FileNotFoundError``."""
        with self._parent(path) as (fd, name), self._parent(aside) as (aside_fd, aside_name):
            _move(fd, name, aside_fd, aside_name, aside)
        self._changed(path)
        self._changed(aside)

    def flush(self) -> None:
        """Make every rename and removal so far durable."""
        with self._lock:
            folders, self._unflushed = self._unflushed, set()
        for folder in folders:
            with suppress(FileNotFoundError, Blocked, Skipped), self._directory(folder) as fd:
                os.fsync(fd)

    def _changed(self, path: str) -> None:
        with self._lock:
            self._unflushed.add(path.rpartition("/")[0])

    @contextmanager
    def _directory(self, folder: str) -> Iterator[int]:
        if folder:
            with self._parent(f"{folder}/.") as (fd, _):
                yield fd
            return
        try:
            fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as fault:
            raise FolderGone(f"{self.root}: {fault.strerror}") from fault
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _parent(self, path: str, make: bool = False) -> Iterator[tuple[int, str]]:
        """The open directory that ``path`` lies in, and its name there; ``make`` makes what is missing."""
        *folders, last = path.split("/")
        with self._directory("") as root:
            fd = os.dup(root)
        try:
            walked = ""
            for name in folders:
                walked = f"{walked}/{name}" if walked else name
                below = self._enter(fd, walked, make)
                os.close(fd)
                fd = below
            yield fd, self._spelled.get(path, last)
        finally:
            os.close(fd)

    def _enter(self, fd: int, walked: str, make: bool) -> int:
        name = self._spelled.get(walked, walked.rpartition("/")[2])
        if make:
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=fd)
                self._changed(walked)
        try:
            return os.open(name, _DIRECTORY, dir_fd=fd)
        except OSError as fault:
            if fault.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
        if stat.S_ISREG(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            raise Blocked(walked, by_folder=False)
        raise Skipped("it lies below a symbolic link")


def _move(from_fd: int, from_name: str, to_fd: int, to_name: str, path: str) -> None:
    """Rename, but never over something: what plain rename cannot promise, a second link can."""
    try:
        os.link(from_name, to_name, src_dir_fd=from_fd, dst_dir_fd=to_fd, follow_symlinks=False)
    except FileExistsError:
        raise Busy(path) from None
    except OSError as fault:
        if fault.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        # A file system without hard links (FAT): the check and the rename are two steps there.
        with suppress(FileNotFoundError):
            os.stat(to_name, dir_fd=to_fd, follow_symlinks=False)
            raise Busy(path) from None
        os.rename(from_name, to_name, src_dir_fd=from_fd, dst_dir_fd=to_fd)
        return
    os.unlink(from_name, dir_fd=from_fd)


def _set_bits(file: int, status: os.stat_result, executable: bool) -> None:
    mode = stat.S_IMODE(status.st_mode) & ~0o111
    os.fchmod(file, mode | (mode & 0o444) >> 2 if executable else mode)


def _exchange(fd: int, one: str, other: str) -> bool:
    """Swap two names of a directory in one step (Linux ``renameat2``); False where that cannot be done."""
    if _renameat2 is None:
        return False
    if _renameat2(fd, os.fsencode(one), fd, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), other)


def _executable(status: os.stat_result) -> bool:
    return bool(status.st_mode & stat.S_IXUSR)


def _moment(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _disk_file(content_hash: bytes, status: os.stat_result) -> DiskFile:
    racy = time.time_ns() - status.st_mtime_ns < _RACY_NS
    return DiskFile(content_hash, _executable(status), status.st_size, MTIME_UNKNOWN if racy else status.st_mtime_ns)
