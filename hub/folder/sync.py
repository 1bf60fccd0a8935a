"""The running folder: one worker that makes the folder and the records the same.

Everything that may call for work (the watcher, the client, a full look at the
folder) only says *which paths to look at*.  The worker then decides each path
anew from its three states (``reconcile.py``), so a late, doubled or lost hint
can delay a file but never harm one.

Two orders make a crash harmless.  A file is in its place and durable before its
agreed state is; and between reading a record and putting its successor nothing
is awaited, so no change of another device can slip in between and be overwritten.
"""

from __future__ import annotations

import asyncio
import secrets
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import watchfiles

from hub.client import HubClient, RecordChanged
from hub.client.strategies import MISSING
from hub.folder.disk import Blocked, Busy, Disk, Skipped, Staged
from hub.folder.files import (
    CHUNK_BYTES,
    INLINE_BYTES,
    TEMP_PREFIX,
    VERSION_BYTES,
    DiskFile,
    FileValue,
    Stamp,
    Unsafe,
    as_text,
    blocked_label,
    check_path,
    chunk_count,
    chunk_key,
    chunk_keys,
    chunked_value,
    conflict_label,
    inline_value,
    is_reserved,
    parse_value,
    printable,
    sibling,
)
from hub.folder.reconcile import Action, decide, file_conflicts, merged_bit, merged_content
from hub.folder.state import State

FILES = "files"
CHUNKS = "chunks"

_GROUP = 64  # paths worked off together: at most 8 MiB of contents in memory, and one transaction
_PIECES = 16  # chunks read, put or written together: 2 MiB
_LOOK_AGAIN_S = 2.0  # a file that was being written, or a new folder whose watch came late
_SCAN_EVERY_S = 600.0  # a watcher may lose events; what it lost is found within this
_EVENTS_MAX = 200  # beyond this one look at the whole folder is quicker than one at each path


class Record(NamedTuple):
    """What the worker keeps in memory of one record: enough to decide, not the content."""

    stamp: Stamp
    version: str
    chunks: int


class FolderSync:
    """One folder and one client's records, kept the same.  All methods belong to one event loop.

    ``say(text, once)`` tells the person a plain line; with ``once`` the same line is told one time only.
    """

    def __init__(
        self,
        disk: Disk,
        state: State,
        client: HubClient,
        *,
        folder_id: str,
        device_name: str,
        say: Callable[[str], None],
    ) -> None:
        self._disk = disk
        self._state = state
        self._client = client
        self._folder_id = folder_id
        self._device_name = device_name
        self._tell = say
        self._told: set[str] = set()

        self._files = client.collection(FILES, strategy=file_conflicts(self._copy_name))
        self._chunks = client.collection(CHUNKS)
        self._files.on_change(self._records_changed)
        self._chunks.on_change(self._chunks_changed)

        self._agreed = state.all()
        self._found: dict[str, DiskFile] = {}  # what the disk has, as last looked at
        self._records: dict[str, Record] = {}
        self._skipped: dict[str, str] = {}  # a path, and all below it, that is left alone
        self._unreadable: set[str] = set()  # records whose path or value is not safe to use
        self._waiting: dict[
            str, tuple[str, set[str]]
        ] = {}  # path -> the version it needs, the chunks that have not come
        self._dirty: set[str] = set()  # paths to decide
        self._later: set[str] = set()  # paths to look at again when that is due
        self._scan_later = False
        self._due: float | None = None
        self._touched: set[str] = set()  # paths the watcher named
        self._agreements: list[tuple[str, DiskFile | None, bytes | None]] = []  # durable once the disk is flushed
        self._rescan = True
        self._wake = asyncio.Event()

    # --- the worker ----------------------------------------------------------------------------

    async def begin(self) -> None:
        """Look at everything once.  Call it before the client starts, so that nothing arrives unseen."""
        paths = self._files.keys()
        for path in paths:
            self._index(path)
        self._dirty.update(self._records)
        await self._scan(tidy=True)

    async def run(self, stop: asyncio.Event) -> None:
        """Keep folder and records the same until ``stop`` is set.  Raises ``FolderGone``."""
        async with self._watching(), _setting_with(stop, self._wake):
            next_scan = _now() + _SCAN_EVERY_S
            while not stop.is_set():
                if _now() >= next_scan:
                    self._rescan = True
                    next_scan = _now() + _SCAN_EVERY_S
                await self.settle()
                self._sweep_versions()
                await self._wait(next_scan - _now())

    async def in_step(self, timeout_s: float) -> None:
        """Return when folder, records and hub are the same.  Raises ``TimeoutError``, ``FolderGone``."""
        deadline = _now() + timeout_s
        while True:
            await self.settle()
            await self._client.synced(max(deadline - _now(), 0.001))
            if self._sweep_versions() or self._dirty:
                continue
            if not (self._later or self._waiting):
                return
            if _now() >= deadline:
                raise TimeoutError
            await self._wait(deadline - _now())

    @property
    def waiting(self) -> int:
        """How many files wait for parts that have not arrived."""
        return len(self._waiting)

    async def settle(self) -> None:
        """Work off all hints there are."""
        self._wake.clear()
        await self._take_hints()
        while self._dirty:
            paths, self._dirty = self._dirty, set()
            actions = ((self._action(path), path) for path in paths)
            todo = sorted((action.value, path) for action, path in actions if action is not Action.NOTHING)
            for group in _groups([path for _, path in todo], _GROUP):
                await self._work_off(group)
                await self._keep_agreements()

    async def _wait(self, timeout_s: float) -> None:
        if self._due is not None:
            timeout_s = min(timeout_s, self._due - _now())
        with suppress(TimeoutError):
            async with asyncio.timeout(max(timeout_s, 0)):
                await self._wake.wait()

    def _postpone(self, path: str) -> None:
        """Look at this path again in a while: now it cannot be read or written."""
        self._later.add(path)
        self._due = self._due or _now() + _LOOK_AGAIN_S

    # --- hints ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def _watching(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        watcher = watchfiles.awatch(
            self._disk.root,
            watch_filter=_is_persons,
            debounce=400,
            step=40,
            stop_event=stop,
            ignore_permission_denied=True,
        )
        task = asyncio.create_task(self._follow(watcher))
        self._rescan = True  # what changed between the first look and now
        try:
            yield
        finally:
            stop.set()
            await task

    async def _follow(self, watcher: AsyncIterator[set[tuple[watchfiles.Change, str]]]) -> None:
        root = str(self._disk.root)
        try:
            async for changes in watcher:
                self._touched.update(path[len(root) + 1 :] for _, path in changes if path.startswith(root + "/"))
                self._wake.set()
        except OSError as fault:
            self._say(f"Cannot watch the folder ({fault}); looking at all of it every {_SCAN_EVERY_S:.0f} s instead.")

    def _records_changed(self, changes: list[RecordChanged]) -> None:
        for change in changes:
            self._index(change.key)
            self._dirty.add(change.key)
        self._wake.set()

    def _chunks_changed(self, changes: list[RecordChanged]) -> None:
        arrived = {change.key for change in changes if change.value is not MISSING}
        for path, (_, missing) in list(self._waiting.items()):
            missing -= arrived
            if not missing:
                del self._waiting[path]
                self._dirty.add(path)
                self._wake.set()

    async def _take_hints(self) -> None:
        touched, self._touched = self._touched, set()
        if self._due is not None and _now() >= self._due:
            touched |= self._later
            self._rescan = self._rescan or self._scan_later
            self._later, self._scan_later, self._due = set(), False, None
        if self._rescan or len(touched) > _EVENTS_MAX:
            await self._scan()
            return
        for path in touched:
            path = unicodedata.normalize("NFC", path)
            if self._has_below(path) or await asyncio.to_thread(self._disk.is_folder, path):
                # A new folder may have got files before it was watched: look now, and once more in a while.
                self._scan_later = True
                self._due = self._due or _now() + _LOOK_AGAIN_S
                await self._scan()
                return
            await self._look(path)

    def _has_below(self, folder: str) -> bool:
        return any(path.startswith(folder + "/") for path in self._found)

    async def _scan(self, tidy: bool = False) -> None:
        """Look at the whole folder; mark every path whose three states are not one."""
        self._rescan = False
        found = await asyncio.to_thread(self._disk.scan, self._found or self._agreed, tidy)
        self._found = found.files
        self._skipped = found.skipped
        for path, reason in found.skipped.items():
            if reason:
                self._say(f"Not synced: {printable(path)} ({reason})")
            else:
                self._postpone(path)
        self._remember_times()
        paths = self._found.keys() | self._agreed.keys() | self._records.keys()
        self._dirty.update(path for path in paths if self._action(path) is not Action.NOTHING)

    def _remember_times(self) -> None:
        """So that the next start need not read what it has read now."""
        with self._state.transaction():
            for path, file in self._found.items():
                agreed = self._agreed.get(path)
                if agreed is not None and agreed.stamp == file.stamp and agreed.mtime_ns != file.mtime_ns:
                    self._agreed[path] = file
                    self._state.touch(path, file.mtime_ns)

    async def _look(self, path: str) -> None:
        """Look at one path on the disk; it is decided next."""
        if any(is_reserved(name) for name in path.split("/")):
            return
        try:
            check_path(path)
            file = await asyncio.to_thread(self._disk.look, path)
        except Busy:
            self._postpone(path)
        except (Skipped, Unsafe) as reason:
            self._skip(path, str(reason))
        except OSError as fault:
            self._skip(path, fault.strerror or str(fault))
        else:
            self._skipped.pop(path, None)
            self._see(path, file)
            self._dirty.add(path)

    def _see(self, path: str, file: DiskFile | None) -> None:
        if file is None:
            self._found.pop(path, None)
        else:
            self._found[path] = file

    def _skip(self, path: str, reason: str) -> None:
        self._skipped[path] = reason
        self._say(f"Not synced: {printable(path)} ({reason})")

    def _say(self, line: str) -> None:
        """One plain line, once."""
        if line not in self._told:
            self._told.add(line)
            self._tell(line)

    # --- the three states ----------------------------------------------------------------------

    def _index(self, path: str) -> FileValue | None:
        """Read a record and keep in memory what decides about it; None when there is none we may use."""
        self._unreadable.discard(path)
        self._records.pop(path, None)
        try:
            raw = self._files.get(path, MISSING)
            if raw is MISSING:
                self._waiting.pop(path, None)
                return None
            check_path(path)
            value = parse_value(raw)
        except ValueError as fault:
            self._unreadable.add(path)
            self._say(f"Left alone: the record {printable(path)} cannot be used here ({fault})")
            return None
        self._records[path] = Record(value.stamp, value.version, value.chunks)
        if path in self._waiting and self._waiting[path][0] != value.version:
            del self._waiting[path]
            self._dirty.add(path)
        return value

    def _action(self, path: str) -> Action:
        if path in self._unreadable or self._is_skipped(path):
            return Action.NOTHING
        agreed, file, record = self._agreed.get(path), self._found.get(path), self._records.get(path)
        return decide(
            None if agreed is None else agreed.stamp,
            None if file is None else file.stamp,
            None if record is None else record.stamp,
        )

    def _is_skipped(self, path: str) -> bool:
        if not self._skipped:
            return False
        return path in self._skipped or any(folder in self._skipped for folder in _folders_of(path))

    def _agree(self, path: str, file: DiskFile | None, content: bytes | None = None) -> None:
        """Folder and record have this in common; kept durably by ``_keep_agreements``."""
        if file is None:
            self._agreed.pop(path, None)
        else:
            self._agreed[path] = file
        base = content if content is not None and as_text(content) is not None else None
        self._agreements.append((path, file, base))

    async def _keep_agreements(self) -> None:
        agreements, self._agreements = self._agreements, []
        await asyncio.to_thread(self._disk.flush)
        with self._state.transaction():
            for path, file, base in agreements:
                if file is None:
                    self._state.forget(path)
                else:
                    self._state.agree(path, file, base)

    # --- actions -------------------------------------------------------------------------------

    async def _work_off(self, paths: list[str]) -> None:
        """Do what each path of the group needs; a path that proved different is decided again."""
        wanted: dict[Action, list[str]] = {action: [] for action in Action}
        for path in paths:
            wanted[self._action(path)].append(path)
        if wanted[Action.ERASE]:
            self._disk.check_marker(self._folder_id)
        for path in wanted[Action.REMOVE]:
            await self._carefully(path, self._remove(path))
        for path in wanted[Action.ERASE]:
            self._erase(path)
        for path in wanted[Action.AGREE]:
            self._agree_as_found(path)
        await self._put_all(wanted[Action.PUT])
        for path in wanted[Action.MERGE]:
            await self._carefully(path, self._merge(path))
        await asyncio.gather(*(self._carefully(path, self._write(path)) for path in wanted[Action.WRITE]))

    async def _carefully(self, path: str, work: Any) -> None:
        """Do one path's work; what the disk answers about that path must not stop the others."""
        try:
            await work
        except (Busy, FileNotFoundError):
            await self._look(path)
        except Blocked as blocked:
            await self._unblock(path, blocked)
        except Skipped as reason:
            self._skip(path, str(reason))
        except OSError as fault:
            self._say(f"Cannot write or read {printable(path)}: {fault.strerror or fault}; trying again.")
            self._postpone(path)

    async def _remove(self, path: str) -> None:
        await asyncio.to_thread(self._disk.remove, path, self._found[path].stamp)
        self._see(path, None)
        self._agree(path, None)

    def _erase(self, path: str) -> None:
        """The person deleted the file: delete its record, if both are still so."""
        if not self._disk.missing(path):
            self._postpone(path)
            return
        self._index(path)
        if self._action(path) is Action.ERASE:
            self._release(path)
            self._files.delete(path)
            self._records.pop(path, None)
            self._agree(path, None)
        else:
            self._dirty.add(path)

    def _agree_as_found(self, path: str) -> None:
        value = self._index(path)
        file = self._found.get(path)
        if self._action(path) is Action.AGREE:
            self._agree(path, file, None if value is None else value.content)
        else:
            self._dirty.add(path)

    async def _put_all(self, paths: list[str]) -> None:
        """Put the small ones together; the large ones after them, one by one."""
        if not paths:
            return
        large: list[str] = []
        read: list[tuple[str, bytes, DiskFile]] = []

        async def read_one(path: str) -> None:
            content, file = await asyncio.to_thread(self._disk.read, path, INLINE_BYTES)
            self._see(path, file)
            if content is None:
                large.append(path)
            else:
                read.append((path, content, file))

        await asyncio.gather(*(self._carefully(path, read_one(path)) for path in paths))
        self._put_read(read)
        for path in sorted(large):
            await self._carefully(path, self._put_large(path))

    def _put_read(self, read: list[tuple[str, bytes, DiskFile]]) -> None:
        values: dict[str, Any] = {}
        for path, content, file in read:
            self._index(path)
            if self._action(path) is not Action.PUT:
                self._dirty.add(path)
                continue
            self._release(path)
            values[path] = inline_value(content, file.executable)
        if not values:
            return
        self._files.put_many(values)
        for path, content, file in read:
            if path in values:
                self._records[path] = Record(file.stamp, "", 0)
                self._agree(path, file, content)

    async def _put_large(self, path: str) -> None:
        """Put the chunks of a new version, then the record that names it."""
        version = secrets.token_hex(VERSION_BYTES)
        reader = await asyncio.to_thread(self._disk.reader, path)
        try:
            self._watch_version(version, chunk_count(reader.size))
            index = 0
            while pieces := await asyncio.to_thread(reader.take, _PIECES, CHUNK_BYTES):
                if index + len(pieces) > chunk_count(reader.size):
                    raise Busy(path)
                self._chunks.put_many({chunk_key(version, index + i): piece for i, piece in enumerate(pieces)})
                index += len(pieces)
            file = await asyncio.to_thread(reader.finish)
        finally:
            reader.close()
        self._see(path, file)
        self._index(path)
        if self._action(path) is not Action.PUT or file.size <= INLINE_BYTES:
            self._dirty.add(path)  # the version that nobody names is swept up
            return
        self._release(path)
        self._files.put(path, chunked_value(file.hash, file.size, file.executable, version))
        self._records[path] = Record(file.stamp, version, index)
        self._agree(path, file)

    async def _write(self, path: str, executable: bool | None = None) -> None:
        """The disk becomes what the record has; ``executable`` where the person changed the bit meanwhile."""
        value = self._index(path)
        if value is None:
            self._dirty.add(path)
            return
        expected = self._found.get(path)
        staged = await self._stage(path, path, value, value.executable if executable is None else executable)
        if staged is None:
            return
        file = await asyncio.to_thread(self._disk.place, path, staged, None if expected is None else expected.stamp)
        self._see(path, file)
        self._agree(path, file._replace(executable=value.executable), value.content)
        self._dirty.add(path)

    async def _stage(self, path: str, place: str, value: FileValue, executable: bool) -> Staged | None:
        """Write the record's content beside ``place``; None when its chunks have not all come, and it waits."""
        if value.content is not None:
            return await asyncio.to_thread(self._disk.stage, place, value.content, executable)
        missing = {key for key in chunk_keys(value.version, value.chunks) if self._chunks.get(key, MISSING) is MISSING}
        if missing:
            self._waiting[path] = (value.version, missing)
            return None
        writer = await asyncio.to_thread(self._disk.writer, place, executable)
        with writer:
            for keys in _groups(chunk_keys(value.version, value.chunks), _PIECES):
                pieces = [self._chunks.get(key, MISSING) for key in keys]
                if not all(isinstance(piece, bytes) for piece in pieces):
                    raise Busy(path)  # replaced while it was written
                await asyncio.to_thread(writer.write, b"".join(pieces))
            staged = await asyncio.to_thread(writer.finish)
        if (staged.hash, staged.size) != (value.hash, value.size):
            self._disk.discard(place, staged)
            raise Skipped("its parts do not fit together")
        return staged

    # --- both changed --------------------------------------------------------------------------

    async def _merge(self, path: str) -> None:
        """Make the disk hold both edits, or keep both as files; the next decision then puts what is new."""
        value, file, agreed = self._index(path), self._found.get(path), self._agreed.get(path)
        if value is None or file is None:
            self._dirty.add(path)
            return
        bit = merged_bit(None if agreed is None else agreed.executable, file.executable, value.executable)
        if value.hash == file.hash or (agreed is not None and file.hash == agreed.hash):
            await self._write(path, bit)
        elif agreed is not None and value.hash == agreed.hash:
            await self._take_their_bit(path, file, bit, value)
        elif not await self._merge_content(path, file, value, bit):
            await self._keep_both(path, file, value)

    async def _take_their_bit(self, path: str, file: DiskFile, bit: bool, value: FileValue) -> None:
        """They changed the bit alone: take it, and go on as if only the disk had changed."""
        await asyncio.to_thread(self._disk.set_executable, path, bit)
        self._see(path, file._replace(executable=bit))
        self._agree(path, self._agreed[path]._replace(executable=value.executable), self._state.base(path))
        self._dirty.add(path)

    async def _merge_content(self, path: str, file: DiskFile, value: FileValue, bit: bool) -> bool:
        base = self._state.base(path) if path in self._agreed else None
        if base is None or value.content is None or file.size > INLINE_BYTES:
            return False
        mine, read = await asyncio.to_thread(self._disk.read, path, INLINE_BYTES)
        if mine is None or read.stamp != file.stamp:
            raise Busy(path)
        merged = merged_content(base, mine, value.content)
        if merged is None:
            return False
        staged = await asyncio.to_thread(self._disk.stage, path, merged, bit)
        placed = await asyncio.to_thread(self._disk.place, path, staged, file.stamp)
        self._see(path, placed)
        # What they have in common now is the record; that the disk has more makes the next decision a put.
        self._agree(path, placed._replace(hash=value.hash, executable=value.executable), value.content)
        self._dirty.add(path)
        return True

    async def _keep_both(self, path: str, file: DiskFile, value: FileValue) -> None:
        """The record's version takes the path; the disk's moves aside and is a file of its own."""
        staged = await self._stage(path, path, value, value.executable)
        if staged is None:
            return
        aside = sibling(path, conflict_label(self._device_name, datetime.now()), self._is_taken)
        try:
            await asyncio.to_thread(self._disk.move_aside, path, aside)
        except BaseException:
            self._disk.discard(path, staged)
            raise
        self._see(path, None)
        await self._look(aside)
        self._say(f"Changed on two devices, both kept: {printable(path)} and {printable(aside)}")
        placed = await asyncio.to_thread(self._disk.place, path, staged, None)
        self._see(path, placed)
        self._agree(path, placed, value.content)
        self._dirty.add(path)

    def _copy_name(self, path: str, mine: FileValue) -> str:
        """For the client's conflict hook: where this device's version of ``path`` goes."""
        aside = sibling(path, conflict_label(self._device_name, datetime.now()), self._is_taken)
        self._say(f"Changed on two devices, both kept: {printable(path)} and {printable(aside)}")
        self._dirty.update((path, aside))
        self._wake.set()
        return aside

    def _is_taken(self, path: str) -> bool:
        return (
            path in self._records
            or path in self._found
            or self._files.get(path, MISSING) is not MISSING
            or self._disk.is_folder(path)
            or not self._disk.missing(path)
        )

    async def _unblock(self, path: str, blocked: Blocked) -> None:
        """A file and a folder want the same name: the folder has it, the file gets another."""
        if blocked.by_folder:
            await self._carefully(path, self._write_aside(path))
            return
        file = await asyncio.to_thread(self._disk.look, blocked.path)
        if file is not None:
            aside = sibling(blocked.path, blocked_label(file.stamp), self._is_taken)
            await asyncio.to_thread(self._disk.move_aside, blocked.path, aside)
            self._say(f"A folder has the name {printable(blocked.path)}; the file is now {printable(aside)}")
            await self._look(aside)
        await self._look(blocked.path)
        self._dirty.add(path)

    async def _write_aside(self, path: str) -> None:
        value = self._index(path)
        if value is None:
            return
        aside = sibling(path, blocked_label(value.stamp), lambda name: self._is_other(name, value.stamp))
        if await asyncio.to_thread(self._disk.look, aside) is None:
            staged = await self._stage(path, aside, value, value.executable)
            if staged is None:
                return
            self._see(aside, await asyncio.to_thread(self._disk.place, aside, staged, None))
        await asyncio.to_thread(self._disk.flush)
        self._dirty.add(aside)
        if self._index(path) == value:
            self._say(f"A folder has the name {printable(path)}; the file is now {printable(aside)}")
            self._release(path)
            self._files.delete(path)
            self._records.pop(path, None)
            self._agree(path, None)

    def _is_other(self, path: str, stamp: Stamp) -> bool:
        record, found = self._records.get(path), self._found.get(path)
        if record is not None or found is not None:
            return any(side is not None and side.stamp != stamp for side in (record, found))
        return self._disk.is_folder(path) or not self._disk.missing(path)

    # --- versions of chunks --------------------------------------------------------------------

    def _release(self, path: str) -> None:
        """The record's version is about to be replaced by us: its chunks are ours to delete."""
        record = self._records.get(path)
        if record is not None and record.version:
            self._watch_version(record.version, record.chunks)

    def _watch_version(self, version: str, chunks: int) -> None:
        with self._state.transaction():
            self._state.watch_version(version, chunks)

    def _sweep_versions(self) -> bool:
        """Delete the chunks that no record names; whether there were any.

        Only when everything of ours is appended: until then another device may still be told of the version we
        replaced, or we may yet have to put our record again.
        """
        if self._client.status.unsynced or self._dirty:
            return False
        named = {record.version for record in self._records.values()}
        swept = False
        for version, count in self._state.versions().items():
            if version in named:
                continue
            for key in chunk_keys(version, count):
                if self._chunks.get(key, MISSING) is not MISSING:
                    self._chunks.delete(key)
                    swept = True
            with self._state.transaction():
                self._state.drop_version(version)
        return swept


def _is_persons(_: watchfiles.Change, path: str) -> bool:
    return not Path(path).name.startswith(TEMP_PREFIX)


def _folders_of(path: str) -> Iterator[str]:
    folder = path.rpartition("/")[0]
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]


def _groups(items: list[str], size: int) -> Iterable[list[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _now() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def _setting_with(first: asyncio.Event, second: asyncio.Event) -> AsyncIterator[None]:
    """While inside, ``second`` is set as soon as ``first`` is."""

    async def relay() -> None:
        await first.wait()
        second.set()

    task = asyncio.create_task(relay())
    try:
        yield
    finally:
        task.cancel()
