"""Judges a run by what its devices saw, without I/O: what a hub promises can be checked from outside.

A ``Recorder`` beside each device notes, as things pass on the wire, which drafts it
sent, what was answered, and each frame of changes it got.  ``violations`` reads
the notes of all devices and what they hold in the end, and names every breach:

    lost       a device passed over a change that the hub had
    gap        a seq that nobody ever saw
    twice      one change has two seqs, or one counter two changes
    moved      where a draft was acknowledged, another change stands
    swap       one seq, two contents
    forged     a change that the device it names never sent
    kept       a change that was refused as a conflict is in the log
    jump       a frame does not begin where the last one ended
    order      seqs inside a frame, or a device's counters along the log, do not rise
    life       the log began anew
    behind     a device did not get to the end
    content    two devices of a space do not hold the same in the end
    expected   a device does not hold what was written last
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hub.wire import messages as m
from hub.wire.header import parse_header

CONFLICT = "conflict"


class Change(NamedTuple):
    """What can be told of a sealed change without opening it."""

    change_id: bytes
    device_id: bytes
    counter: int
    digest: bytes


class Sent(NamedTuple):
    """A draft left this device, for the first time or again."""

    collection_id: bytes
    change: Change


class Answer(NamedTuple):
    """The hub's answer to one draft: a seq, or a refusal's code."""

    collection_id: bytes
    change: Change
    seq: int
    code: str = ""


class Start(NamedTuple):
    """A subscription stands: frames follow from here."""

    collection_id: bytes
    incarnation: bytes
    after: int
    live_only: bool = False


class Place(NamedTuple):
    """One change in a frame; None for one of the device's own, which comes without its bytes."""

    seq: int
    change: Change | None


class Frame(NamedTuple):
    """A frame of changes arrived."""

    collection_id: bytes
    after: int
    upto: int
    places: tuple[Place, ...]


Note = Sent | Answer | Start | Frame


class Violation(NamedTuple):
    """One breach: its name from the list above, and where."""

    name: str
    text: str


@dataclass
class Recorder:
    """The notes of one device, in the order in which things happened; ``tap`` is what a client wants."""

    name: str
    device_id: bytes
    space: str = ""  # devices with the same one must hold the same in the end
    notes: list[Note] = field(default_factory=list)
    contents: Mapping[str, Any] = field(default_factory=dict)  # at the end, by collection and key
    written: Mapping[str, Any] = field(default_factory=dict)  # what must be among the contents of the whole space
    connections: int = 0
    _appends: dict[int, list[Sent]] = field(default_factory=dict)
    _live_only: dict[bytes, bool] = field(default_factory=dict)

    def tap(self, direction: str, message: object) -> None:
        """Called with everything that passes, before the device acts on it."""
        if direction == "closed" or isinstance(message, m.Hello):
            self.connections += direction != "closed"
            self._appends.clear()
        elif direction == "sent":
            self._sent(message)
        else:
            self._received(message)

    def _sent(self, message: object) -> None:
        if isinstance(message, m.Append):
            drafts = [_sent_draft(sealed) for sealed in message.drafts]
            self._appends[message.request] = drafts
            self.notes += drafts
        elif isinstance(message, m.Subscribe):
            self._live_only.update({cursor.collection_id: cursor.live_only for cursor in message.cursors})

    def _received(self, message: object) -> None:
        if isinstance(message, m.Appended):
            drafts = self._appends.pop(message.request)
            for draft, answer in zip(drafts, message.answers, strict=True):
                self.notes.append(Answer(*draft, answer.seq, answer.code))
        elif isinstance(message, m.Refused):
            self._appends.pop(message.request, None)
        elif isinstance(message, m.Subscribed):
            for part in message.collections:
                live_only = self._live_only.get(part.collection_id, False)
                self.notes.append(Start(part.collection_id, message.incarnation, part.after, live_only))
        elif isinstance(message, m.Changes):
            places = tuple(Place(part.seq, change_of(part.sealed) if part.sealed else None) for part in message.changes)
            self.notes.append(Frame(message.collection_id, message.after, message.upto, places))

    def count(self, kind: type[Note]) -> int:
        """How many notes of this kind there are."""
        return sum(isinstance(note, kind) for note in self.notes)

    @property
    def acknowledged(self) -> int:
        """How many different changes the hub said it keeps."""
        return len({note.change.change_id for note in self.notes if isinstance(note, Answer) and note.seq})


def change_of(sealed: bytes) -> Change:
    """What these bytes say of themselves."""
    header = parse_header(sealed)
    return Change(header.change_id, header.device_id, header.counter, hashlib.blake2b(sealed, digest_size=16).digest())


def _sent_draft(sealed: bytes) -> Sent:
    return Sent(parse_header(sealed).collection_id, change_of(sealed))


def violations(devices: Iterable[Recorder]) -> list[Violation]:
    """Every breach in what these devices saw: all devices of the spaces they belong to."""
    judge = _Judge(list(devices))
    judge.read_everything()
    judge.look_at_logs()
    judge.look_at_readers()
    judge.look_at_ends()
    return judge.found


class _Judge:
    def __init__(self, devices: list[Recorder]) -> None:
        self._devices = devices
        self._known = {device.device_id for device in devices}
        self._logs: dict[bytes, dict[int, Change]] = defaultdict(dict)
        self._sent: dict[bytes, set[Change]] = defaultdict(set)
        self._lives: dict[bytes, set[bytes]] = defaultdict(set)
        self._readers: dict[tuple[str, bytes], _Reader] = {}
        self.found: list[Violation] = []

    def say(self, name: str, collection_id: bytes, text: str) -> None:
        self.found.append(Violation(name, f"collection {collection_id.hex()[:8]}: {text}"))

    # --- the logs, as all devices together saw them ---

    def read_everything(self) -> None:
        for device in self._devices:
            for note in device.notes:
                if isinstance(note, Sent):
                    self._sent[note.collection_id].add(note.change)
                elif isinstance(note, Answer):
                    self._place_answer(device, note)
                elif isinstance(note, Start):
                    self._lives[note.collection_id].add(note.incarnation)
                    self._reader(device, note.collection_id).start(note)
                else:
                    self._place_frame(device, note)

    def _place_answer(self, device: Recorder, answer: Answer) -> None:
        if not answer.seq:
            return
        there = self._logs[answer.collection_id].setdefault(answer.seq, answer.change)
        if there.digest != answer.change.digest:
            name = "swap" if there.change_id == answer.change.change_id else "moved"
            self.say(name, answer.collection_id, f"seq {answer.seq}, as acknowledged to {device.name}, is another")

    def _place_frame(self, device: Recorder, frame: Frame) -> None:
        log = self._logs[frame.collection_id]
        for seq, change in frame.places:
            if change and log.setdefault(seq, change).digest != change.digest:
                self.say("swap", frame.collection_id, f"seq {seq} is another to {device.name}")
        self._reader(device, frame.collection_id).take(frame)

    def look_at_logs(self) -> None:
        for collection_id, lives in self._lives.items():
            if len(lives) > 1:
                self.say("life", collection_id, f"{len(lives)} incarnations")
        for collection_id, log in self._logs.items():
            self._once(collection_id, log)
            self._from_their_devices(collection_id, log)
            self._counters_rise(collection_id, log)
            if missing := sorted(set(range(1, max(log) + 1)) - log.keys()):
                self.say("gap", collection_id, f"nobody saw {missing[:5]} of {max(log)}")
        self._refused_is_refused()

    def _once(self, collection_id: bytes, log: dict[int, Change]) -> None:
        by_id: dict[bytes, int] = {}
        by_counter: dict[tuple[bytes, int], int] = {}
        for seq, change in sorted(log.items()):
            if (first := by_id.setdefault(change.change_id, seq)) != seq:
                self.say("twice", collection_id, f"change {change.change_id.hex()[:8]} has seqs {first} and {seq}")
            elif (first := by_counter.setdefault((change.device_id, change.counter), seq)) != seq:
                self.say("twice", collection_id, f"counter {change.counter} of a device has seqs {first} and {seq}")

    def _from_their_devices(self, collection_id: bytes, log: dict[int, Change]) -> None:
        for seq, change in sorted(log.items()):
            if change.device_id in self._known and change not in self._sent[collection_id]:
                self.say("forged", collection_id, f"seq {seq} was never sent by the device it names")

    def _counters_rise(self, collection_id: bytes, log: dict[int, Change]) -> None:
        last: dict[bytes, int] = {}
        for seq, change in sorted(log.items()):
            if change.counter < last.get(change.device_id, 0):
                self.say("order", collection_id, f"seq {seq} has counter {change.counter} after a higher one")
            last[change.device_id] = change.counter

    def _refused_is_refused(self) -> None:
        for device in self._devices:
            for note in device.notes:
                if not isinstance(note, Answer) or note.code != CONFLICT:
                    continue
                if note.change in self._logs[note.collection_id].values():
                    self.say("kept", note.collection_id, f"a conflict of {device.name} is in the log")

    # --- each device's way through them ---

    def _reader(self, device: Recorder, collection_id: bytes) -> _Reader:
        key = (device.name, collection_id)
        if key not in self._readers:
            self._readers[key] = _Reader(self, device, collection_id)
        return self._readers[key]

    def look_at_readers(self) -> None:
        for reader in self._readers.values():
            log = self._logs[reader.collection_id]
            reader.look_at_own(log)
            if log and reader.upto < max(log):
                self.say("behind", reader.collection_id, f"{reader.device.name} is at {reader.upto} of {max(log)}")

    def look_at_ends(self) -> None:
        spaces: dict[str, list[Recorder]] = defaultdict(list)
        for device in self._devices:
            spaces[device.space].append(device)
        for space, devices in spaces.items():
            for other in devices[1:]:
                if differing := _differing(devices[0].contents, other.contents):
                    text = f"{space}: {devices[0].name} and {other.name} differ in {differing[:5]}"
                    self.found.append(Violation("content", text))
            written = {key: value for device in devices for key, value in device.written.items()}
            there = devices[0].contents
            if wrong := [key for key in written if there.get(key) != written[key]]:
                self.found.append(Violation("expected", f"{space}: not as written last: {sorted(wrong)[:5]}"))


class _Reader:
    """One device in one collection: where it is, and what came on the way."""

    def __init__(self, judge: _Judge, device: Recorder, collection_id: bytes) -> None:
        self.device = device
        self.collection_id = collection_id
        self.upto = 0
        self._judge = judge
        self._next = -1  # where the next frame must begin
        self._live_only = False
        self._own: list[int] = []

    def start(self, start: Start) -> None:
        if start.after > self.upto:
            self._say("jump", f"starts at {start.after}, and had {self.upto}")
        self._next = start.after
        self._live_only = start.live_only

    def take(self, frame: Frame) -> None:
        if frame.after != self._next:
            self._say("jump", f"a frame begins at {frame.after}, not at {self._next}")
        seqs = [place.seq for place in frame.places]
        if seqs != sorted(set(seqs)) or (seqs and not frame.after < seqs[0] <= seqs[-1] <= frame.upto):
            self._say("order", f"a frame of {frame.after}..{frame.upto} holds {seqs[:10]}")
        elif not self._live_only and len(seqs) != frame.upto - frame.after:
            missing = sorted({*range(frame.after + 1, frame.upto + 1)} - {*seqs})
            self._say("lost", f"a frame of {frame.after}..{frame.upto} leaves out {missing[:5]}")
        self._own += [place.seq for place in frame.places if place.change is None]
        self._next = frame.upto
        self.upto = max(self.upto, frame.upto)

    def look_at_own(self, log: dict[int, Change]) -> None:
        for seq in self._own:
            if seq in log and log[seq].device_id != self.device.device_id:
                self._say("swap", f"seq {seq} came as its own and is another device's")

    def _say(self, name: str, text: str) -> None:
        self._judge.say(name, self.collection_id, f"{self.device.name} {text}")


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    missing = object()
    return sorted(key for key in one.keys() | other.keys() if one.get(key, missing) != other.get(key, missing))
