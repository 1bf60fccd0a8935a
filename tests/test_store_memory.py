"""The model sits the exam of all stores."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from hub.store import Store
from hub.store.memory import MemoryStore
from hub.terms import Limits
from tests.store_exam import NO_BOUND, StoreExam


class TestMemoryStore(StoreExam):
    async def make(self, *, limits: Limits | None = None, quota_bytes: int = NO_BOUND) -> Store:
        store = MemoryStore(limits=limits, quota_bytes=quota_bytes)
        await store.open()
        return store

    async def restart(self, store: Store) -> Store:
        await store.close()
        await store.open()
        return store

    async def rows(self, store: Store) -> list[tuple[object, ...]]:
        return list(leaves(vars(store)))


def leaves(value: object, path: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """Every value that stands anywhere in ``value``, with the keys that lead to it."""
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, *(key if isinstance(key, tuple) else (key,))))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from leaves(inner, (*path, number))
    else:
        yield (*path, value)
