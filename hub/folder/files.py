"""What a file is to the hub folder, without I/O: paths, values, chunks, names of conflict copies.

A path is a record's key: relative, POSIX, NFC.  What comes from another device
is checked here before anything touches the disk, because an old or faulty
program of one's own is enough to send ``../`` or half a value.

The value of a record is a map::

    h  SHA-256 of the content      n  its size in bytes      x  may be executed
    c  the content                                 at most INLINE_BYTES
    v  version id,  k  count of chunks             otherwise

A version's chunks are the records ``<version>/<i>`` of the collection
``chunks``.  A version belongs to one put of one path and is never used again:
so whoever replaces it can delete its chunks without asking who else needs them.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

INLINE_BYTES = 131_072  # with header, padding and key well below the hub's draft_bytes_max
CHUNK_BYTES = 131_072
TEXT_BYTES_MAX = 131_072  # a merge base is kept for texts up to this size
PATH_BYTES_MAX = 1_024  # what a record's key may have
NAME_BYTES_MAX = 255  # what file systems take
VERSION_BYTES = 16
MTIME_UNKNOWN = -1  # changed just before it was read: a later edit may leave size and time as they are

MARKER = ".hubfolder"
TEMP_PREFIX = ".hubfolder-tmp-"

_VERSION = re.compile(r"[0-9a-f]{32}")
_DEVICE_CHARACTERS_MAX = 40


class Unsafe(ValueError):
    """A path that must not be used; the text says why."""


class BadValue(ValueError):
    """A record's value is no file of this format."""


class Stamp(NamedTuple):
    """What makes two files the same: content and executable bit."""

    hash: bytes
    executable: bool


class DiskFile(NamedTuple):
    """One regular file as it was when it was last looked at."""

    hash: bytes
    executable: bool
    size: int
    mtime_ns: int  # or MTIME_UNKNOWN

    @property
    def stamp(self) -> Stamp:
        """What is compared."""
        return Stamp(self.hash, self.executable)


class FileValue(NamedTuple):
    """A record's value, checked.  ``content`` is None when it lies in chunks."""

    hash: bytes
    size: int
    executable: bool
    content: bytes | None
    version: str = ""
    chunks: int = 0

    @property
    def stamp(self) -> Stamp:
        """What is compared."""
        return Stamp(self.hash, self.executable)


def inline_value(content: bytes, executable: bool) -> dict[str, Any]:
    """The value of a file of at most ``INLINE_BYTES``."""
    assert len(content) <= INLINE_BYTES, "too large to lie in one record"
    return {"h": hashlib.sha256(content).digest(), "n": len(content), "x": executable, "c": content}


def chunked_value(content_hash: bytes, size: int, executable: bool, version: str) -> dict[str, Any]:
    """The value of a larger file, whose chunks were put as ``chunk_key(version, 0..)``."""
    return {"h": content_hash, "n": size, "x": executable, "k": chunk_count(size), "v": version}


def chunk_count(size: int) -> int:
    """How many chunks ``size`` bytes fill."""
    return -(-size // CHUNK_BYTES)


def chunk_key(version: str, index: int) -> str:
    """The key of one chunk's record."""
    return f"{version}/{index}"


def chunk_keys(version: str, count: int) -> list[str]:
    """The keys of all chunks of a version, in their order."""
    return [chunk_key(version, index) for index in range(count)]


def parse_value(value: object) -> FileValue:
    """Check a record's value, its hash included where the content is at hand; raises ``BadValue``."""
    match value:
        case {"h": bytes(content_hash), "n": int(size), "x": bool(executable), "c": bytes(content)}:
            if len(content) != size or hashlib.sha256(content).digest() != content_hash:
                raise BadValue("size or hash does not fit the content")
            return FileValue(content_hash, size, executable, content)
        case {"h": bytes(content_hash), "n": int(size), "x": bool(executable), "k": int(chunks), "v": str(version)}:
            if len(content_hash) != 32 or chunks != chunk_count(size) or not _VERSION.fullmatch(version):
                raise BadValue("hash, chunks or version is malformed")
            return FileValue(content_hash, size, executable, None, version, chunks)
    raise BadValue("no file of this format")


def as_text(content: bytes) -> str | None:
    """The content as text when it is small UTF-8 without NUL, which is what can be merged by lines."""
    if len(content) > TEXT_BYTES_MAX or b"\0" in content:
        return None
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def check_path(path: str) -> None:
    """Raise ``Unsafe`` unless ``path`` names a file inside the folder on every system we write to."""
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        raise Unsafe("the name is not valid Unicode") from None
    if not 1 <= len(encoded) <= PATH_BYTES_MAX:
        raise Unsafe(f"the path has more than {PATH_BYTES_MAX} bytes" if encoded else "the path is empty")
    if "\0" in path:
        raise Unsafe("the path has a NUL character")
    if path.startswith("/"):
        raise Unsafe("the path is absolute")
    if unicodedata.normalize("NFC", path) != path:
        raise Unsafe("the path is not in Unicode form NFC")
    for name in path.split("/"):
        _check_name(name)


def _check_name(name: str) -> None:
    if name in ("", ".", ".."):
        raise Unsafe("the path leaves the folder or has an empty part")
    if len(name.encode()) > NAME_BYTES_MAX:
        raise Unsafe(f"a name has more than {NAME_BYTES_MAX} bytes")
    if is_reserved(name):
        raise Unsafe("the name is reserved for the hub folder itself")


def is_reserved(name: str) -> bool:
    """Whether a file of this name is the folder's own and never a person's; however it is written."""
    return name.casefold() == MARKER or name.casefold().startswith(TEMP_PREFIX)


def conflict_label(device: str, at: datetime) -> str:
    """What tells a conflict copy from its original: whose it is and from when."""
    cleaned = "".join(c if c.isprintable() and c != "/" else "-" for c in unicodedata.normalize("NFC", device))
    return f"conflict {cleaned[:_DEVICE_CHARACTERS_MAX].strip() or 'device'} {at:%Y-%m-%d %H%M%S}"


def blocked_label(stamp: Stamp) -> str:
    """The same on all devices: a file that gives way to a folder of its name gives way once, not once a device."""
    return f"file {stamp.hash.hex()[:12]}"


def sibling(path: str, label: str, taken: Callable[[str], bool]) -> str:
    """``folder/name (label).ext``, with a number when that path is taken; always a path ``check_path`` accepts."""
    folder, _, name = path.rpartition("/")
    stem, ending = _split_ending(name)
    for number in range(1, 10_000):
        mark = f" ({label}{f' {number}' if number > 1 else ''})"
        room = NAME_BYTES_MAX - len((mark + ending).encode())
        candidate = (_cut(stem, room).rstrip() or "file") + mark + ending
        # At the very bottom of a very deep tree there is no room beside it; the top always has some.
        if folder and len(f"{folder}/{candidate}".encode()) <= PATH_BYTES_MAX:
            candidate = f"{folder}/{candidate}"
        if not taken(candidate):
            return candidate
    raise AssertionError("ten thousand conflict copies of one second")


def _split_ending(name: str) -> tuple[str, str]:
    stem, dot, ending = name.rpartition(".")
    if not stem or not dot or len(ending.encode()) > 16:
        return name, ""
    return stem, dot + ending


def _cut(text: str, room: int) -> str:
    return text.encode()[: max(room, 0)].decode(errors="ignore")


def printable(path: str) -> str:
    """The path as a terminal may see it: a name from another device must not move the cursor."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in path)
