"""What Python's sync check and strategies say, for the other client to say again.

Prints one JSON document: random schedules of devices around a hub that now and then
lies, with every call to the check, its verdict and the state after it; and random
conflicts with each strategy's answer.  Bytes are hex.  Run from the repository's root:

    python clients/js/test/cross/check_schedules.py SEED SCHEDULES CONFLICTS
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))

from hub.client.check import CheckFailed, SyncCheck
from hub.client.keys import SpaceKeys
from hub.client.strategies import (
    MISSING,
    Conflict,
    Merged,
    counter_sum,
    per_field,
    set_union,
    three_way_text,
)
from hub.terms import Kind
from tests.model_hub import LyingHub, ModelDevice

APP_KEY = bytes(range(32))
KEYS = SpaceKeys.derive(APP_KEY)
WRITES = {"put": Kind.PUT, "delete": Kind.DELETE, "delta": Kind.DELTA, "keyring": Kind.KEYRING}
OFTEN = {
    "put": 5, "delete": 2, "delta": 2, "keyring": 1, "purge": 1, "wipe": 1, "push": 3, "look_up": 2, "deliver": 2,
    "hear": 2, "sync": 4, "testify": 3, "told": 2, "compact": 1, "join": 1, "restart": 1, "new_life": 1, "lie": 5,
    "mangle": 5,
}  # fmt: skip
NAMES = [name for name, times in OFTEN.items() for _ in range(times)]


class RecordingCheck(SyncCheck):
    """A check that writes down what it was asked and what it said."""

    log: list[dict[str, Any]]
    _inside = False

    def page(self, after: int, upto: int, head: int, entries: Any) -> None:
        """See ``SyncCheck``."""
        packed = [[seq, header.pack().hex()] for seq, header in entries]
        with self._recorded("page", after, upto, head, packed):
            super().page(after, upto, head, entries)

    def head_seen(self, head: int) -> None:
        """See ``SyncCheck``."""
        with self._recorded("headSeen", head):
            super().head_seen(head)

    def caught_up(self, head: int) -> None:
        """See ``SyncCheck``."""
        with self._recorded("caughtUp", head):
            super().caught_up(head)

    def witness_seen(self, sealed: bytes, own_counter: int | None = None) -> None:
        """See ``SyncCheck``."""
        with self._recorded("witnessSeen", sealed.hex(), own_counter):
            super().witness_seen(sealed, own_counter)

    def make_witness(self, counter: int, change_id: bytes, nonce: bytes, now_ms: int) -> bytes | None:
        """See ``SyncCheck``."""
        with self._recorded("makeWitness", counter, change_id.hex(), nonce.hex(), now_ms) as said:
            sealed = super().make_witness(counter, change_id, nonce, now_ms)
            said["sealed"] = sealed and sealed.hex()
        return sealed

    def new_life(self, incarnation: bytes) -> None:
        """See ``SyncCheck``."""
        with self._recorded("newLife", incarnation.hex()):
            super().new_life(incarnation)

    def start_over(self) -> None:
        """See ``SyncCheck``."""
        with self._recorded("startOver"):
            super().start_over()

    def restarted(self) -> None:
        """Another process goes on with what was saved."""
        with self._recorded("restart"):
            pass

    @contextlib.contextmanager
    def _recorded(self, name: str, *arguments: Any) -> Iterator[dict[str, Any]]:
        said: dict[str, Any] = {"call": name, "arguments": arguments, "alarm": None}
        outermost, self._inside = not self._inside, True
        try:
            yield said
        except CheckFailed as failed:
            said["alarm"] = [failed.alarm.name, failed.alarm.detail, failed.alarm.seq]
            raise
        finally:
            if outermost:
                self._inside = False
                self.log.append(said | {"state": summary(self)})


def summary(check: SyncCheck) -> dict[str, Any]:
    """All that the state holds; of the ring the last two points."""
    state = check.state
    return {
        "incarnation": state.incarnation.hex(),
        "place": [state.seq, state.reached, state.cold_head],
        "flags": [state.exact, state.whole, state.must_start_over],
        "digest": state.digest.hex(),
        "live": [state.n_live, check._live.count()],
        "counters": [[device_id.hex(), *counter] for device_id, counter in state.counters.items()],
        "ring": [len(state.ring), [[point.seq, point.digest.hex(), point.n_live] for point in state.ring[-2:]]],
        "witnesses": [[device_id.hex(), *witnessed] for device_id, witnessed in state.witnesses.items()],
        "pending": [[device_id.hex(), said.seq, said.told] for device_id, said in state.pending.items()],
        "alarms": [[alarm.name, alarm.detail, alarm.seq] for alarm in state.alarms],
    }


class World:
    """Some devices whose checks are recorded, and one hub."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.hub = LyingHub(rng.randbytes(16))
        self.devices = [self.device() for _ in range(2)]
        self.statements: list[bytes | None] = []

    def device(self) -> ModelDevice:
        """Another device."""
        device = ModelDevice(KEYS, "notes", self.rng)
        check = RecordingCheck(KEYS, device.collection_id, device.device_id, device.state, device.live)
        check.log = []
        device.check = check
        return device

    def step(self, name: str) -> None:
        """One thing happens; whatever alarm it raises is in the log."""
        device, number = self.rng.choice(self.devices), self.rng.randrange(8)
        with contextlib.suppress(CheckFailed):
            if name in WRITES:
                device.draft(WRITES[name], f"record {number % 4}", b"body")
            elif name == "purge":
                device.draft(Kind.PURGE, upto=max(0, device.state.seq + number - 4))
            elif name == "wipe" and number == 0:
                device.draft(Kind.WIPE)
            elif name in ("push", "hear"):
                getattr(device, name)(self.hub)
            elif name == "testify":
                self.statements.append(device.testify(self.hub))
            elif name in ("look_up", "sync"):
                self._read(device, name, number)
            elif name == "deliver":
                device.deliver()
            else:
                self._happen(name, device, number)

    def _read(self, device: ModelDevice, name: str, number: int) -> None:
        if name == "look_up":
            device.look_up(self.hub, 1 + number)
            return
        device.push(self.hub)
        for _ in range(20):  # a state that a lie has touched may never reach the head
            device.look_up(self.hub, 1 + number)
            device.deliver()
            if device.state.seq == self.hub.head and not device.reads_live_only:
                break
        device.hear(self.hub)

    def _happen(self, name: str, device: ModelDevice, number: int) -> None:
        if name == "told":
            device.check.caught_up([device.state.seq, self.hub.head, device.state.seq - 1][number // 3])
        elif name == "compact":
            self.hub.compact()
        elif name == "join" and len(self.devices) < 4:
            self.devices.append(self.device())
        elif name == "restart":
            device.check.restarted()
        elif name == "new_life" and number == 0:
            self.hub.restore(self.hub.snapshot(), self.rng.randbytes(16))
        elif name == "lie":
            self._lie(device)
        elif name == "mangle":
            self._mangle(device)

    def _lie(self, device: ModelDevice) -> None:
        """The hub shows this device, once, something that is not so."""
        if device.state.incarnation != self.hub.incarnation or not self.hub.kept:
            return
        shown, rng = self.hub.fork(), self.rng
        some = [rng.choice(list(shown.kept)) for _ in range(2)]
        lies: list[Callable[[], object]] = [
            lambda: shown.omit(some[0]),
            lambda: shown.omit_and_close_up(some[0]),
            lambda: shown.roll_back(some[0]),
            lambda: shown.swap(*some),
            lambda: shown.replay(some[0]),
            lambda: shown.serve_old(some[0]),
            lambda: self._show_altered_witness(shown),
            lambda: self._hear_something_said_before(device),
            lambda: self._hear_something_said_before(device),
            lambda: self._hold_the_head_down(device),
            lambda: self._hold_the_head_down(device),
        ]
        rng.choice(lies)()
        device.held = None
        device.look_up(shown, rng.choice([2, 500]))
        device.deliver()
        device.hear(shown)

    def _hear_something_said_before(self, device: ModelDevice) -> None:
        """And this device may have forgotten how much it has made."""
        device.hear(self.hub)
        if sealed := self.rng.choice([None, *self.statements[-6:]]):
            device.check.witness_seen(sealed, self.rng.choice([None, device.counter, 0]))

    def _hold_the_head_down(self, device: ModelDevice) -> None:
        device.hear(self.hub)
        for _ in range(3):
            device.check.caught_up(device.state.seq)

    def _show_altered_witness(self, shown: LyingHub) -> None:
        for _, sealed in list(shown.kept_witnesses.values()):
            altered = bytearray(sealed)
            places = [at for at in range(len(altered)) if at not in (88, 89)]  # counters stay below 2^53
            altered[self.rng.choice(places)] ^= 1 << self.rng.randrange(8)
            with contextlib.suppress(ValueError):
                shown.show_witness(bytes(altered))

    def _mangle(self, device: ModelDevice) -> None:
        """A frame with one thing wrong, as no store would give it."""
        rng, shown = self.rng, self.hub
        frame = shown.read(device.state.seq, changes_max=rng.choice([3, 500]))
        after, upto, head = (number + rng.choice([0] * 6 + [-1, 1]) for number in frame[:3])
        entries = [(seq, device._open(seq, sealed).header) for seq, sealed in frame.changes]
        for _ in range(rng.choice([0, 1, 1, 2])):
            if not entries:
                break
            at = rng.randrange(len(entries))
            seq, header = entries[at]
            entries[at : at + 1] = rng.choice(
                [
                    [],
                    [(seq, header)] * 2,
                    [(seq + rng.choice([-1, 1]), header)],
                    [(seq, header._replace(counter=max(1, header.counter + rng.choice([-1, 1]))))],
                    [(seq, header._replace(kind=rng.choice(list(Kind))))],
                    [(seq, header._replace(device_id=rng.choice(self.devices).device_id))],
                ]
            )
        device.held = None
        device.check.page(max(0, after), max(0, upto), max(0, head), entries)


def schedule(rng: random.Random) -> list[dict[str, Any]]:
    """What the check of each device was asked and said."""
    world = World(rng)
    for _ in range(rng.randrange(30, 120)):
        world.step(rng.choice(NAMES))
    return [{"device_id": device.device_id.hex(), "log": device.check.log} for device in world.devices]


# --- strategies ------------------------------------------------------------------------------

STRATEGIES = {
    "perField": per_field,
    "counterSum a b": counter_sum("a", "b"),
    "counterSum": counter_sum(),
    "setUnion": set_union,
    "threeWayText": three_way_text,
}


def conflicts(rng: random.Random, count: int) -> list[dict[str, Any]]:
    """Conflicts with what each strategy answers; a side that is left out is MISSING."""
    return [conflict(rng) for _ in range(count)]


def conflict(rng: random.Random) -> dict[str, Any]:
    """One conflict, most often of a kind that a strategy is for."""
    draw = rng.choice([mapping, mapping, number, items, text, text, anything])
    base = draw(rng)
    sides = [base if rng.random() < 0.15 else edited(rng, base, draw) for _ in range(2)]
    if rng.random() < 0.1:
        sides[rng.randrange(2)] = anything(rng)
    if rng.random() < 0.1:
        base = MISSING
    if rng.random() < 0.05:
        sides[rng.randrange(2)] = MISSING
    met = Conflict("key", base, *sides)
    told = {name: side for name, side in zip(("base", "mine", "theirs"), met[1:], strict=True) if side is not MISSING}
    return {"sides": told, "answers": {name: answer(strategy(met)) for name, strategy in STRATEGIES.items()}}


def answer(given: Any) -> Any:
    """As JSON."""
    return {"merged": given.value} if isinstance(given, Merged) else given.name


def number(rng: random.Random) -> Any:
    """A counter's value."""
    return rng.choice([rng.randrange(-9, 10), rng.randrange(-9, 10) / 4, rng.uniform(-1, 1)])


def mapping(rng: random.Random) -> Any:
    """A record of fields."""
    return {field: rng.choice([number, number, anything])(rng) for field in "abcd" if rng.random() < 0.7}


def items(rng: random.Random) -> Any:
    """A list."""
    return [
        rng.choice([rng.randrange(6), {"id": rng.randrange(4)}, [rng.randrange(3)]]) for _ in range(rng.randrange(7))
    ]


def text(rng: random.Random) -> Any:
    """Lines, with all that ends a line."""
    ends = rng.choice(
        [["\n"], ["\n"], ["\r\n"], ["\n", "\r", "\x0b", "\x0c", "\x1c", "\x1e", "\x85", "\u2028", "\r\n"]]
    )
    lines = [rng.choice(["a", "b", "c", "d", "e", ""]) + rng.choice(ends) for _ in range(rng.randrange(14))]
    return "".join(lines) + rng.choice(["", "", "f"])


def anything(rng: random.Random) -> Any:
    """A value of no kind in particular."""
    return rng.choice([None, "text", 3, -0.5, [], [1, "b"], {}, {"a": {"b": [1]}}])


def edited(rng: random.Random, base: Any, draw: Callable[[random.Random], Any]) -> Any:
    """The value after somebody has worked on it."""
    other = draw(rng)
    if type(other) is not type(base):
        return other
    if isinstance(base, dict):
        return {**base, **dict(rng.sample(list(other.items()), len(other) // 2))}
    if isinstance(base, str):
        return "".join(spliced(rng, base.splitlines(keepends=True), other.splitlines(keepends=True)))
    return spliced(rng, base, other) if isinstance(base, list) else other


def spliced(rng: random.Random, parts: list[Any], others: list[Any]) -> list[Any]:
    """Some parts replaced by some others, at one place or two."""
    parts = list(parts)
    for _ in range(rng.randrange(1, 3)):
        at = rng.randrange(len(parts) + 1)
        parts[at : at + rng.randrange(2)] = others[: rng.randrange(3)]
    return parts


def main(seed: str, schedules: str, conflicts_count: str) -> None:
    """Print everything that follows from the seed."""
    rng = random.Random(int(seed))
    print(
        json.dumps(
            {
                "app_key": APP_KEY.hex(),
                "collection": "notes",
                "schedules": [schedule(rng) for _ in range(int(schedules))],
                "conflicts": conflicts(rng, int(conflicts_count)),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
