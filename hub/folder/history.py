"""Undo inside the hub's history window: what a file was, and making it so again.

A restored file is a new edit like any other, so it reaches all devices and can
itself be undone.
"""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import NamedTuple

from hub.client import CollectionHandle, HubClient
from hub.client.strategies import MISSING
from hub.folder.files import VERSION_BYTES, BadValue, FileValue, chunk_key, chunk_keys, chunked_value, parse_value
from hub.folder.sync import CHUNKS, FILES


class NotRestorable(Exception):
    """That state of the file cannot be brought back; the text says why."""


class Moment(NamedTuple):
    """One kept version of a file: None when it was deleted then."""

    seq: int
    at: datetime
    file: FileValue | None
    device_id: bytes


async def moments(client: HubClient, path: str) -> list[Moment]:
    """The kept versions of ``path``, newest first."""
    versions = await client.collection(FILES).history(path)
    return [Moment(v.seq, v.appended_at, _parsed(v.value), v.device_id) for v in versions]


async def restore(client: HubClient, path: str, when: datetime) -> FileValue:
    """Make the record what it was at ``when``, and say what that is.  Raises ``NotRestorable``; nothing is changed.

    The folders take it up the next time they sync.
    """
    files, chunks = client.collection(FILES), client.collection(CHUNKS)
    value = await files.at(path, when)
    file = _parsed(value)
    if file is None:
        raise NotRestorable(f"there was no {path} at that time, or it is older than the hub keeps")
    if file.content is not None:
        files.put(path, value)
        return file
    # A version of chunks is never used twice: whoever replaces this one must be free to delete its chunks.
    version = secrets.token_hex(VERSION_BYTES)
    pieces = [await _chunk(chunks, key) for key in chunk_keys(file.version, file.chunks)]
    for index, piece in enumerate(pieces):
        chunks.put(chunk_key(version, index), piece)
    files.put(path, chunked_value(file.hash, file.size, file.executable, version))
    return file


async def _chunk(chunks: CollectionHandle, key: str) -> bytes:
    """A chunk that is there, or the last one there was."""
    value = chunks.get(key, MISSING)
    if isinstance(value, bytes):
        return value
    for version in await chunks.history(key):
        if isinstance(version.value, bytes):
            return version.value
    raise NotRestorable("a part of that version is older than the hub keeps")


def _parsed(value: object) -> FileValue | None:
    if value is MISSING:
        return None
    try:
        return parse_value(value)
    except BadValue as fault:
        raise NotRestorable(f"that version was written by a program this one does not understand: {fault}") from None
