"""A Python device that does what it is told, line by line, for tests of other clients against this one.

Each line of stdin is ``{"n": 1, "do": "put", "with": [...]}``; its answer, on stdout,
``{"n": 1, "value": ...}`` or ``{"n": 1, "error": "Refusal", "message": "..."}``.  Ids are hex, and
values travel as the hex of their body, so that both sides' codecs meet and JSON bends nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import uuid
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

from natives import NATIVES, same

from hub.client import MANUAL, MISSING, HubClient, PairingHandle, strategies
from hub.client.values import decode_body, encode_body

STRATEGIES: dict[str, Callable[..., Any]] = {
    "manual": lambda conflict: MANUAL,
    "last_writer_wins": strategies.last_writer_wins,
    "per_field": strategies.per_field,
    "counter_sum": strategies.counter_sum("n"),
    "set_union": strategies.set_union,
    "three_way_text": strategies.three_way_text,
}
NATIVE: dict[str, Any] = {
    "a date": datetime(2024, 2, 29, 12, 30, 15, 250_000, UTC),
    "a set": {"a", 1, b"x"},
    "bytes": bytes(range(256)),
    "a large number": 2**70 + 1,
    "nested": {"list": [1, 2.5, None, True, "ü🎉"], "map": {"b": {"c": [b"", ""]}}},
    "text": str(uuid.UUID(int=7)),
}


class _Device:
    """Every public method is a command."""

    client: HubClient
    pairing: PairingHandle
    wiped = 0

    def __init__(self) -> None:
        self._pairings = contextlib.AsyncExitStack()

    async def open(self, path: str, app_id: str, hub_url: str) -> str:
        self.client = await HubClient.open(path, app_id=app_id, hub_url=hub_url)
        self.client.on_wiped(self._on_wiped)
        return self.client.device_id.hex()

    def _on_wiped(self) -> None:
        self.wiped += 1

    async def times_wiped(self) -> int:
        return self.wiped

    async def request_code(self, address: str) -> str:
        return (await self.client.request_code(address)).phrase

    async def enrol(self, code: str) -> None:
        await self.client.enrol(code)

    async def create_key(self) -> str:
        return self.client.create_key()

    async def import_key(self, code: str) -> None:
        self.client.import_key(code)

    async def key_code(self) -> str:
        return self.client.key_code()

    async def signed_in(self) -> bool:
        return self.client.signed_in

    async def has_key(self) -> bool:
        return self.client.has_key

    async def device_id(self) -> str:
        return self.client.device_id.hex()

    async def pair(self, scanned: str, name: str) -> dict[str, str]:
        """As a person begins it; the next one ends the one before."""
        await self._pairings.aclose()
        self.pairing = await self._pairings.enter_async_context(self.client.pair(scanned, name=name))
        return {"role": "giver" if self.pairing.gives else "taker", "code": "" if scanned else self.pairing.code}

    async def pair_digits(self) -> str:
        return await self.pairing.digits()

    async def pair_name(self) -> str:
        return await self.pairing.name()

    async def pair_confirm(self, digits: str) -> None:
        await self.pairing.confirm(digits)

    async def pair_cancel(self) -> None:
        self.pairing.cancel()

    async def pair_done(self) -> None:
        await self.pairing.done()

    async def devices(self) -> list[tuple[str, str, bool]]:
        listed = await self.client.devices()
        return [(info.device_id.hex(), info.enrolled_via, bool(info.probation_until)) for info in listed]

    async def start(self) -> None:
        await self.client.start()

    async def stop(self) -> None:
        await self.client.stop()

    async def status(self) -> dict[str, Any]:
        status = self.client.status
        alarms = [alarm.name for alarm in status.alarms]
        return {"phase": status.phase, "unsynced": status.unsynced, "error": status.error, "alarms": alarms}

    async def synced(self, timeout_s: float) -> None:
        await self.client.synced(timeout_s)

    async def turn_off(self) -> None:
        await self.client.turn_off()

    async def turn_on(self) -> None:
        await self.client.turn_on()

    async def turn_off_and_wipe(self) -> None:
        await self.client.turn_off_and_wipe()

    async def revoke(self, device_ids: list[str]) -> None:
        await self.client.revoke([bytes.fromhex(device_id) for device_id in device_ids])

    async def collection(self, name: str, strategy: str) -> None:
        self.client.collection(name, strategy=STRATEGIES[strategy])

    async def put(self, name: str, key: str, body: str) -> str:
        return self.client.collection(name).put(key, _value(body)).hex()

    async def put_native(self, name: str) -> list[str]:
        self.client.collection(name).put_many(NATIVE)
        return list(NATIVE)

    async def is_native(self, name: str, key: str) -> bool:
        value = self.client.collection(name).get(key, MISSING)
        return type(value) is type(NATIVE[key]) and bool(value == NATIVE[key])

    async def put_natives(self, name: str, edited: int) -> None:
        self.client.collection(name).put_many({key: pair[edited] for key, pair in NATIVES.items()})

    async def unlike_natives(self, name: str, edited: int) -> dict[str, str]:
        """What is not as Python calls it, by its key."""
        collection = self.client.collection(name)
        found = {key: collection.get(key, MISSING) for key in NATIVES}
        return {key: repr(found[key])[:200] for key, pair in NATIVES.items() if not same(found[key], pair[edited])}

    async def undo(self, name: str, key: str) -> list[bool]:
        """Put back what the record was before its last edit; whether `at` gives that as well."""
        collection = self.client.collection(name)
        versions = await collection.history(key)
        then = await collection.at(key, versions[1].appended_at)
        now = await collection.at(key, datetime.now(UTC))
        collection.put(key, versions[1].value)
        return [same(then, versions[1].value), same(now, versions[0].value)]

    async def delete(self, name: str, key: str) -> str:
        return self.client.collection(name).delete(key).hex()

    async def append_delta(self, name: str, key: str, body: str) -> str:
        return self.client.collection(name).append_delta(key, _value(body)).hex()

    async def get(self, name: str, key: str) -> str | None:
        return _body(self.client.collection(name).get(key, MISSING))

    async def deltas(self, name: str, key: str) -> list[str | None]:
        return [_body(value) for value in self.client.collection(name).deltas(key)]

    async def items(self, name: str) -> list[tuple[str, str | None]]:
        return [(key, _body(value)) for key, value in self.client.collection(name).items()]

    async def conflicts(self, name: str) -> list[list[str | None]]:
        conflicts = self.client.collection(name).conflicts()
        return [[one.key, _body(one.base), _body(one.mine), _body(one.theirs)] for one in conflicts]

    async def resolve(self, name: str, key: str, body: str) -> str:
        return self.client.collection(name).resolve(key, _value(body)).hex()

    async def history(self, name: str, key: str) -> list[str | None]:
        return [_body(version.value) for version in await self.client.collection(name).history(key)]


def _value(body: str) -> Any:
    return decode_body(bytes.fromhex(body)).value


def _body(value: Any) -> str | None:
    return None if value is MISSING else encode_body(value).hex()


async def main() -> None:
    """Answer until stdin ends."""
    device, loop = _Device(), asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        asked = json.loads(line)
        work: Coroutine[Any, Any, Any] = getattr(device, asked["do"])(*asked["with"])
        task = asyncio.create_task(_answer(asked["n"], work))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def _answer(n: int, work: Coroutine[Any, Any, Any]) -> None:
    try:
        answer = {"n": n, "value": await work}
    except Exception as exc:
        answer = {"n": n, "error": type(exc).__name__, "message": str(exc)}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
