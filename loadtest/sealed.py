"""Drafts sealed before a measurement begins, by the product's own sealing under the account's real keys.

A real client of the account opens what came of them.  Each is an append message of one draft, made by the product's own
codec and ready to be framed; unless told otherwise the body is 256 bytes sealed, 408 with header, nonce and tag.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from hub.client.keys import SpaceKeys
from hub.client.sealing import record_plaintext, seal
from hub.client.values import encode_body
from hub.terms import ZERO_ID, Kind
from hub.wire import messages as m
from hub.wire.codec import encode
from loadtest.dial import collection_id
from loadtest.seed import SeededDevice

REQUEST_FIRST = 65_536  # so that every request number, and with it every frame, has the same size
DRAFTS_MAX = 10_000_000  # of one device: as many as the record keys have digits for
VALUE_BYTES = 220
SEALED_BYTES = 408  # of such a value
FEW = 5_000  # so many are sealed here; more by all cores
_PLACE = struct.Struct(">8sII")


@dataclass(frozen=True, slots=True)
class Drafts:
    """One pool a device, each of ``count`` payloads of ``stride`` bytes, and what sealing them took on all cores."""

    pools: list[bytes]
    count: int
    stride: int
    took_s: float


def seal_drafts(
    devices: Sequence[SeededDevice],
    count: int,
    *,
    records: int = 0,
    value_bytes: int = VALUE_BYTES,
    first: Sequence[int] = (),
) -> Drafts:
    """``count`` drafts for each device, whose index is its place in ``devices``.

    Each is of a new record, or, with ``records``, of one of so many that the whole account overwrites in turn.
    ``first``: how many drafts each device has sent before.
    """
    assert 0 < count < DRAFTS_MAX
    began = time.perf_counter()
    before = first or [0] * len(devices)
    work = [(device, n, before[n], count, records, value_bytes) for n, device in enumerate(devices)]
    if len(work) * count <= FEW:
        pools = [_pool(*each) for each in work]
    else:
        with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as cores:
            pools = list(cores.map(_pool, *zip(*work, strict=True), chunksize=max(1, len(work) // 50)))
    stride = len(pools[0]) // count
    assert all(len(pool) == stride * count for pool in pools)
    return Drafts(pools, count, stride, time.perf_counter() - began)


def record_key(index: int, draft: int, records: int) -> str:
    """The record that a device's n-th draft is about."""
    return f"shared/{draft % records:07}" if records else f"{index:06}/{draft:07}"


def value(device_id: bytes, draft: int, size: int = VALUE_BYTES) -> bytes:
    """What a device's n-th draft says."""
    return hashlib.shake_128(device_id + draft.to_bytes(4, "big")).digest(size)


def _pool(device: SeededDevice, index: int, first: int, count: int, records: int, value_bytes: int) -> bytes:
    keys = SpaceKeys.derive(device.app_key)
    collection = collection_id(keys)
    payloads = []
    for place in range(count):
        draft = first + place
        key, chance = record_key(index, draft, records), os.urandom(32)
        sealed = seal(
            keys,
            kind=Kind.PUT,
            flags_conditional=False,
            collection_id=collection,
            record_id=keys.record_id(collection, key),
            # The last eight bytes say to the pump whose draft this is; ids stay spread by the first eight.
            change_id=_PLACE.pack(chance[:8], index, place),
            device_id=device.device_id,
            counter=draft + 1,
            base=ZERO_ID,
            plaintext=record_plaintext(key, encode_body(value(device.device_id, draft, value_bytes))),
            nonce=chance[8:],
        )
        payloads.append(encode(m.Append(REQUEST_FIRST + place, keys.space_id, [sealed])))
    return b"".join(payloads)
