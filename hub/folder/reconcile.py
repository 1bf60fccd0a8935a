"""What to do about one path, without I/O.

Three states decide: *agreed* (what this folder and the record last had in
common), *disk* (what lies there now) and *record* (what the collection holds
now).  None means: no such file.

    disk = record                      nothing, or remember that they agree
    only the disk changed              put it, or delete the record
    only the record changed            write it, or remove the file
    both changed, one to nothing       the edit stays
    both changed                       merge; where that fails, keep both

The same merge serves twice: here, where a folder meets its own records, and in
the client's conflict hook, where this device's record meets another device's.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from hub.client.strategies import MINE, MISSING, THEIRS, Conflict, Merged, Strategy, Verdict, merge_in_time
from hub.folder.files import INLINE_BYTES, BadValue, FileValue, Stamp, as_text, inline_value, parse_value


class Action(Enum):
    """What one path needs; in the order in which a group of paths is worked off."""

    NOTHING = 0
    REMOVE = 1  # the file goes: another device deleted it
    ERASE = 2  # the record goes: the person deleted the file
    AGREE = 3  # both are the same already: remember it
    PUT = 4  # the record becomes what the disk has
    MERGE = 5  # both changed
    WRITE = 6  # the disk becomes what the record has


def decide(agreed: Stamp | None, disk: Stamp | None, record: Stamp | None) -> Action:
    """The one table everything follows from."""
    if disk == record:
        return Action.NOTHING if agreed == disk else Action.AGREE
    if record == agreed:
        return Action.ERASE if disk is None else Action.PUT
    if disk == agreed:
        return Action.REMOVE if record is None else Action.WRITE
    if disk is None:
        return Action.WRITE
    if record is None:
        return Action.PUT
    return Action.MERGE


def merged_bit(base: bool | None, mine: bool, theirs: bool) -> bool:
    """Three-way merge of the executable bit; without a base, runnable if either says so."""
    if base is None:
        return mine or theirs
    return theirs if mine == base else mine


def merged_content(base: bytes | None, mine: bytes, theirs: bytes) -> bytes | None:
    """Three-way merge by lines, or None: no base, not all text, too large, or the same lines changed."""
    if base is None:
        return None
    texts = [as_text(content) for content in (base, mine, theirs)]
    present = [text for text in texts if text is not None]
    merged = merge_in_time(*present) if len(present) == 3 else None
    content = None if merged is None else merged.encode()
    return content if content is not None and len(content) <= INLINE_BYTES else None


def file_conflicts(copy_name: Callable[[str, FileValue], str]) -> Strategy:
    """The conflict hook of the collection ``files``: merge, else their version stays and mine becomes a copy.

    ``copy_name`` gives the path of that copy, one that no record has.
    """

    def resolve(conflict: Conflict) -> Merged | Verdict:
        base, mine, theirs = (_parsed(side) for side in (conflict.base, conflict.mine, conflict.theirs))
        if mine is None:
            return THEIRS
        if theirs is None:
            return MINE
        if base is not None and theirs.stamp == base.stamp:
            return MINE
        if mine.hash == theirs.hash or (base is not None and mine.hash == base.hash):
            return _their_content(base, mine, theirs)
        merged = _merged_value(base, mine, theirs)
        if merged is not None:
            return Merged(merged)
        return Merged(conflict.theirs, {copy_name(conflict.key, mine): conflict.mine})

    return resolve


def _parsed(side: object) -> FileValue | None:
    """A value this program cannot read gives way like a deletion; history still has it."""
    if side is MISSING:
        return None
    try:
        return parse_value(side)
    except BadValue:
        return None


def _their_content(base: FileValue | None, mine: FileValue, theirs: FileValue) -> Merged | Verdict:
    """The content is theirs; what remains is the executable bit."""
    bit = merged_bit(None if base is None else base.executable, mine.executable, theirs.executable)
    if bit == theirs.executable or theirs.content is None:
        # A version of chunks is never used twice, and the bit alone is not worth sending a large file again.
        return THEIRS
    return Merged(inline_value(theirs.content, bit))


def _merged_value(base: FileValue | None, mine: FileValue, theirs: FileValue) -> dict[str, Any] | None:
    if base is None or mine.content is None or theirs.content is None:
        return None
    content = merged_content(base.content, mine.content, theirs.content)
    if content is None:
        return None
    return inline_value(content, merged_bit(base.executable, mine.executable, theirs.executable))
