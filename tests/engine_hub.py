"""A world of engines around one small honest hub, over lists instead of sockets.

``TestHub`` speaks the protocol's real messages and checks every proof.  ``World``
moves one frame at a time, so that a test may cut any line between any two steps,
kill a device and start it again from its storage, or let the hub lie.
"""

from __future__ import annotations

import random
from collections import deque

from nacl.signing import SigningKey

from hub import signing
from hub.client.collection import LocalCollection
from hub.client.device import Answered, Changed, Hangup, Identity, Now, Send, SignalCame, Wiped
from hub.client.engine import Engine
from hub.client.keys import SpaceKeys
from hub.client.storage import MemoryStorage
from hub.client.strategies import last_writer_wins
from hub.terms import COLLECTION_KINDS, ZERO_ID, Kind, Limits
from hub.wire import messages as m
from hub.wire.codec import decode_from_device, decode_from_hub, encode
from hub.wire.header import parse_header

HUB_URL = "ws://hub.test/v1/ws"
APP_ID = "org.example.notes"
ACCOUNT = b"A" * 16
KEYS = SpaceKeys.derive(b"k" * 32)


class Log:
    """One collection's log."""

    def __init__(self):
        self.head = 0
        self.kept = {}  # sealed by seq
        self.live = {}  # seqs by record id
        self.counters = {}  # last by device
        self.receipts = {}  # (seq, sealed) by (device, counter)
        self.witnesses = {}

    def copy(self):
        twin = Log()
        twin.head = self.head
        twin.kept, twin.counters = dict(self.kept), dict(self.counters)
        twin.receipts, twin.witnesses = dict(self.receipts), dict(self.witnesses)
        twin.live = {record_id: list(seqs) for record_id, seqs in self.live.items()}
        return twin

    def newest(self, record_id):
        seqs = self.live.get(record_id)
        return (seqs[-1], parse_header(self.kept[seqs[-1]]).change_id) if seqs else (0, ZERO_ID)

    def append(self, sealed):
        header = parse_header(sealed)
        if header.counter <= self.counters.get(header.device_id, 0):
            seq, first = self.receipts[header.device_id, header.counter]
            if first != sealed:
                return m.DraftAnswer(code="device_cloned"), False
            return m.DraftAnswer(seq) if seq else m.DraftAnswer(code="wiped"), False
        if header.counter != self.counters.get(header.device_id, 0) + 1:
            return m.DraftAnswer(code="out_of_order"), False
        newest_seq, newest_id = self.newest(header.record_id)
        if header.conditional and header.base != newest_id:
            return m.DraftAnswer(code="conflict", newest_seq=newest_seq, newest_id=newest_id), False
        self.head += 1
        self._make_live(header)
        self.kept[self.head] = sealed
        self.counters[header.device_id] = header.counter
        self.receipts[header.device_id, header.counter] = (self.head, sealed)
        return m.DraftAnswer(self.head), True

    def _make_live(self, header):
        if header.kind is Kind.WIPE:
            self.kept.clear()
            self.live.clear()
            self.receipts = {at: (0, sealed) for at, (_, sealed) in self.receipts.items()}
        elif header.kind is Kind.PURGE:
            for record_id, seqs in list(self.live.items()):
                left = [s for s in seqs if s > header.upto or parse_header(self.kept[s]).kind is not Kind.DELETE]
                self.live[record_id] = left
                for seq in set(seqs) - set(left):
                    del self.kept[seq]
        elif header.kind is Kind.DELTA:
            self.live.setdefault(header.record_id, []).append(self.head)
        else:
            self.live[header.record_id] = [self.head]

    def live_seqs(self):
        collection_wide = {s for s, sealed in self.kept.items() if parse_header(sealed).kind in COLLECTION_KINDS}
        return {seq for seqs in self.live.values() for seq in seqs} | collection_wide

    def compact(self):
        live = self.live_seqs()
        self.kept = {seq: sealed for seq, sealed in self.kept.items() if seq in live}


class Line:
    """The hub's end of one connection."""

    def __init__(self, hub, device_id):
        self.hub = hub
        self.device_id = device_id
        self.out = deque()
        self.hello = self.challenge = b""
        self.entered = set()
        self.subscriptions = {}  # [sent, live_only] by collection id
        self.own = set()
        self.open = True
        self.gone = False  # the last word was said

    def say(self, message):
        self.out.append(encode(message))

    def take(self, frame):
        message = decode_from_device(frame)
        if self.gone:
            return
        if code := self.hub.refuse_once.pop(type(message).__name__, None):
            self.refuse(message, code, True, 1.0)
            return
        getattr(self, f"on_{type(message).__name__.lower()}")(message, frame)

    def on_hello(self, message, frame):
        self.hello = frame
        challenge = m.Challenge(1, b"n" * 32, [], self.hub.limits, "open")
        self.challenge = encode(challenge)
        self.out.append(self.challenge)

    def on_auth(self, message, frame):
        key = self.hub.devices[self.device_id]
        assert signing.verify(key, message.signature, "auth", self.hub.url or HUB_URL, self.hello, self.challenge)
        if self.hub.moved_to:
            self.say(m.Moved(self.hub.moved_to))
            self.gone = True
            return
        spaces = [m.SpaceInfo(space_id, APP_ID, 0, 0) for space_id in self.hub.spaces]
        self.say(m.Ready(self.hub.account_id, self.hub.incarnation, 0.0, 25, "app", APP_ID, 0, 0, spaces))

    def proved(self, space_id, signature):
        challenge = self.challenge + space_id
        return signing.verify(KEYS.space_pk, signature, "space", self.hub.url or HUB_URL, self.hello, challenge)

    def on_createspace(self, message, frame):
        assert self.proved(message.space_id, message.signature)
        self.hub.spaces.setdefault(message.space_id, {})
        self.entered.add(message.space_id)
        self.say(m.Entered(message.request, [m.SpaceInfo(message.space_id, APP_ID, 0, 0)]))

    def on_enter(self, message, frame):
        proof = message.spaces[0]
        if proof.space_id not in self.hub.spaces:
            self.refuse(message, "not_found")
            return
        assert self.proved(proof.space_id, proof.signature)
        self.entered.add(proof.space_id)
        self.say(m.Entered(message.request, [m.SpaceInfo(proof.space_id, APP_ID, 0, 0)]))

    def refuse(self, message, code, retry=False, after=0.0):
        self.say(m.Refused(getattr(message, "request", 0), code, code, retry, after))

    def may(self, message):
        if message.space_id not in self.entered:
            self.refuse(message, "not_found")
        return message.space_id in self.entered

    def on_collections(self, message, frame):
        if self.may(message):
            logs = self.hub.spaces[message.space_id]
            infos = [m.CollectionInfo(cid, log.head) for cid, log in logs.items() if log.head]
            self.say(m.CollectionList(message.request, message.space_id, infos))

    def on_subscribe(self, message, frame):
        if not self.may(message):
            return
        parts = []
        for cursor in message.cursors:
            log = self.hub.log(cursor.collection_id)
            after = cursor.seq if cursor.incarnation == self.hub.incarnation else 0
            counter = log.counters.get(self.device_id, 0)
            parts.append(m.SubscribedPart(cursor.collection_id, log.head, after, counter))
            self.subscriptions[cursor.collection_id] = [after, cursor.live_only]
        self.say(m.Subscribed(message.request, message.space_id, self.hub.incarnation, parts))
        for cursor in message.cursors:
            self.feed(cursor.collection_id)
            self.hand_on_witnesses(cursor.collection_id)

    def hand_on_witnesses(self, collection_id):
        log = self.hub.log(collection_id)
        others = [sealed for device_id, sealed in log.witnesses.items() if device_id != self.device_id]
        if others:
            self.say(m.Witnesses(KEYS.space_id, collection_id, others))

    def feed(self, collection_id):
        """Read on while less than the head has been sent."""
        log = self.hub.log(collection_id)
        subscription = self.subscriptions.get(collection_id)
        while subscription and subscription[0] < log.head:
            after, live_only = subscription
            found = [seq for seq in sorted(log.kept) if seq > after]
            if live_only:
                live = log.live_seqs()
                found = [seq for seq in found if seq in live]
            page = found[: self.hub.page]
            upto = page[-1] if len(found) > len(page) else log.head
            parts = [m.ChangePart(seq, 1000 + seq, self.bytes_of(collection_id, seq)) for seq in page]
            self.say(m.Changes(KEYS.space_id, collection_id, after, upto, log.head, parts))
            subscription[:] = [upto, live_only and upto < log.head]

    def bytes_of(self, collection_id, seq):
        return b"" if (collection_id, seq) in self.own else self.hub.log(collection_id).kept[seq]

    def on_append(self, message, frame):
        if not self.may(message):
            return
        if self.hub.refuse_next:
            self.refuse(message, self.hub.refuse_next.pop(), True, 1.0)
            return
        answers = [self.append_one(sealed) for sealed in message.drafts]
        self.say(m.Appended(message.request, message.space_id, answers, self.hub.used_bytes))
        for line in self.hub.lines:
            for collection_id in {parse_header(sealed).collection_id for sealed in message.drafts}:
                line.feed(collection_id)

    def append_one(self, sealed):
        header = parse_header(sealed)
        if header.kind not in self.hub.free_kinds and self.hub.full:
            return m.DraftAnswer(code="quota_exceeded")
        answer, fresh = self.hub.log(header.collection_id).append(sealed)
        if fresh:
            self.hub.appended.append(header)
            if header.collection_id in self.subscriptions:
                self.own.add((header.collection_id, answer.seq))
        return answer

    def on_witness(self, message, frame):
        if self.may(message):
            self.hub.log(message.collection_id).witnesses[self.device_id] = message.witness
            self.say(m.Done(message.request))
            for line in self.hub.lines:
                if line is not self and message.collection_id in line.subscriptions:
                    line.say(m.Witnesses(message.space_id, message.collection_id, [message.witness]))

    def on_signal(self, message, frame):
        for line in self.hub.lines:
            if line is not self and message.to in (None, line.device_id):
                line.say(m.Signal(0, message.space_id, message.body, message.to, self.device_id))

    def on_ping(self, message, frame):
        self.say(m.Pong(self.heads()))

    def on_pong(self, message, frame):
        pass

    def heads(self):
        return [m.HeadPart(KEYS.space_id, cid, self.hub.log(cid).head) for cid in self.subscriptions]


class TestHub:
    """An honest hub for one account."""

    __test__ = False

    def __init__(self):
        self.incarnation = b"I" * 16
        self.account_id = ACCOUNT
        self.moved_to = ""  # where the account lives now
        self.url = ""  # where it is dialled now, when the account has moved
        self.devices = {}
        self.spaces = {}
        self.lines = []
        self.page = 3
        self.limits = {name: getattr(Limits(), name) for name in Limits.__dataclass_fields__}
        self.appended = []  # headers of everything that ever got a seq, in order
        self.refuse_next = []  # codes for the next append requests as a whole
        self.refuse_once = {}  # a code that says "later", by the message's class name
        self.full = False
        self.free_kinds = {Kind.DELETE, Kind.PURGE, Kind.WIPE}
        self.used_bytes = 0

    def log(self, collection_id):
        return self.spaces[KEYS.space_id].setdefault(collection_id, Log())

    def backup(self):
        return {sid: {cid: log.copy() for cid, log in logs.items()} for sid, logs in self.spaces.items()}

    def restore(self, backup, incarnation):
        """An operator puts a backup back, and says so by the incarnation; every line is cut."""
        self.spaces = {sid: {cid: log.copy() for cid, log in logs.items()} for sid, logs in backup.items()}
        self.incarnation = incarnation

    def compact(self):
        for logs in self.spaces.values():
            for log in logs.values():
                log.compact()


class Peer:
    """One device: an engine, its storage, and the line it may have."""

    def __init__(self, world, name, storage, strategies):
        self.world = world
        self.name = name
        self.storage = storage
        self.strategies = strategies
        self.signing_key = SigningKey(name.encode().ljust(32, b"_"))
        self.device_id = name.encode().ljust(16, b"_")
        self.line = None
        self.to_hub = deque()
        self.changed = []
        self.hangups = []
        self.effects = []
        self.collections: dict[str, LocalCollection] = {}
        world.hub.devices[self.device_id] = bytes(self.signing_key.verify_key)
        storage.set_setting("account_id", ACCOUNT)
        storage.set_setting("may_create", b"1")
        self.start()

    def start(self):
        """Begin from what storage holds, as after a crash."""
        identity = Identity(self.device_id, self.signing_key, APP_ID, HUB_URL)
        self.engine = Engine(self.storage, identity, KEYS, self.world.random.randbytes)
        for name, strategy in self.strategies.items():
            self.collections[name], effects = self.engine.open_collection(name, strategy, self.world.now)
            self.carry_out(effects)

    def crash(self):
        """The process dies; what was not committed is gone, and so is the line."""
        self.drop_line()
        self.start()

    def connect(self):
        if self.line is None:
            self.line = Line(self.world.hub, self.device_id)
            self.world.hub.lines.append(self.line)
            self.carry_out(self.engine.connected(self.world.now))

    def drop_line(self):
        if self.line is not None:
            self.world.hub.lines.remove(self.line)
            self.line = None
            self.to_hub.clear()

    def cut(self):
        """The line is cut: what is under way in either direction is lost."""
        if self.line is not None:
            self.drop_line()
            self.carry_out(self.engine.disconnected())

    def carry_out(self, effects):
        for effect in effects:
            match effect:
                case Send(frame=frame):
                    if self.line is not None:
                        self.to_hub.append(frame)
                case Changed(changes=changes):
                    self.changed += changes
                case Hangup():
                    self.hangups.append(effect)
                    self.cut()
                case Wiped() | SignalCame() | Answered():
                    self.effects.append(effect)

    def step_out(self):
        """One frame reaches the hub."""
        if self.line is not None and self.to_hub:
            self.line.take(self.to_hub.popleft())
            return True
        return False

    def step_in(self):
        """One frame reaches the device."""
        if self.line is not None and self.line.out:
            self.carry_out(self.engine.received(self.line.out.popleft(), self.world.now))
            return True
        return False

    def overtake(self):
        """The hub's answers to appends overtake what it still reads from the log."""
        if self.line is not None:
            is_answer = {frame: isinstance(decode_from_hub(frame), m.Appended) for frame in self.line.out}
            self.line.out = deque(sorted(self.line.out, key=lambda frame: not is_answer[frame]))

    # --- the app's side ---

    def edit(self, collection, work):
        result, effects = self.engine.edit(self.collections[collection], work, self.world.now)
        self.carry_out(effects)
        return result

    def put(self, key, value, collection="notes"):
        return self.edit(collection, lambda: self.collections[collection].put(key, value, self.world.now.wall))

    def delete(self, key, collection="notes"):
        return self.edit(collection, lambda: self.collections[collection].delete(key, self.world.now.wall))

    def delta(self, key, value, collection="notes"):
        return self.edit(collection, lambda: self.collections[collection].append_delta(key, value, self.world.now.wall))

    def snapshot(self, key, value, collection="notes"):
        return self.edit(collection, lambda: self.collections[collection].snapshot(key, value, self.world.now.wall))

    def resolve(self, key, value, collection="notes"):
        return self.edit(collection, lambda: self.collections[collection].resolve(key, value, self.world.now.wall))

    def get(self, key, collection="notes"):
        return self.collections[collection].get(key)

    def items(self, collection="notes"):
        return dict(self.collections[collection].items())

    def status(self):
        return self.engine.status(self.world.now)

    def alarms(self):
        return [alarm.name for alarm in self.status().alarms]


class World:
    """Devices around one hub, and the time."""

    def __init__(self, seed=0):
        self.random = random.Random(seed)
        self.hub = TestHub()
        self.now = Now(1000.0, 1_700_000_000.0)
        self.peers = []

    def peer(self, name, strategy=last_writer_wins, storage=None, **strategies):
        peer = Peer(self, name, storage or MemoryStorage(), {"notes": strategy, **strategies})
        self.peers.append(peer)
        return peer

    def pass_time(self, seconds):
        """Time goes by; whatever falls due on the way is done."""
        end = self.now.steady + seconds
        while True:
            due = [(t, peer) for peer in self.peers if (t := peer.engine.timer()) is not None and t <= end]
            if not due:
                break
            at, peer = min(due, key=lambda pair: pair[0])
            self._set(max(at, self.now.steady))
            peer.carry_out(peer.engine.timer_fired(self.now))
            self.quiesce()
        self._set(end)

    def _set(self, steady):
        self.now = Now(steady, self.now.wall + steady - self.now.steady)

    def quiesce(self):
        """Let every frame arrive."""
        while any([peer.step_out() or peer.step_in() for peer in self.peers]):  # noqa: C419 -- every peer takes a step
            pass

    def settle(self):
        """Everybody connects and everything arrives."""
        for peer in self.peers:
            peer.connect()
        self.quiesce()
