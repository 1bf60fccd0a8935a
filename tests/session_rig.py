"""A session without a socket: a device that speaks, and answers to what the session asks, given by hand.

Used by the tests of ``hub.session``; the answers come from a real ``MemoryStore``.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from typing import Any

from nacl.signing import SigningKey

from hub import signing
from hub.effects import (
    AppendDrafts,
    Ask,
    Close,
    Effect,
    JoinPairing,
    KeepWitness,
    Known,
    LeavePairing,
    ListSpaces,
    LookUp,
    MakeSpace,
    Noticed,
    Opened,
    PassOn,
    PassPairing,
    ReadHeads,
    ReadKept,
    ReadPage,
    ReadStates,
    ReadWitnesses,
    Send,
    Serve,
    Served,
    TrustForKey,
)
from hub.session import Session
from hub.store import Account, Attempt, Device, Space
from hub.store.memory import MemoryStore
from hub.terms import ZERO_ID, CollectionKey, Kind, Limits, Policy
from hub.wire import messages as m
from hub.wire.codec import decode_from_hub, encode
from hub.wire.header import FLAG_CONDITIONAL, FLAG_PADDED, Header

HUB_URL = "wss://hub.example.org/v1/ws"
APP = "org.example.notes"
COLLECTION = b"c" * 16
POLICY = Policy()


@dataclass
class Person:
    """An account with one device and one space, in a store."""

    store: MemoryStore
    account_id: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    device_id: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    device_key: SigningKey = field(default_factory=SigningKey.generate)
    space_key: SigningKey = field(default_factory=SigningKey.generate)
    space_id: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    counter: int = 0

    async def settle(self, *, scope: str = "app", probation_until: float | None = None) -> None:
        """Put the account, the device and the space into the store."""
        device = Device(
            self.device_id,
            self.account_id,
            bytes(self.device_key.verify_key),
            scope,
            APP,
            "first",
            0.0,
            0,
            probation_until,
        )
        tag = secrets.token_bytes(32)
        attempt = Attempt(secrets.token_bytes(16), tag, device.device_pk, "enrol", APP, 0.0, 600.0)
        await self.store.add_attempt(attempt)
        account = Account(self.account_id, None, 0, 0)
        await self.store.enrol(
            attempt.attempt_id, device, account, tag, per_account_max=60, per_app_max=20, first_only=False, now=1.0
        )
        await self.make_space()

    async def make_space(self, app_id: str = APP) -> None:
        """Register this person's space."""
        space = Space(self.account_id, self.space_id, app_id, 0, bytes(self.space_key.verify_key))
        await self.store.create_space(space, 50, 1.0)

    def draft(self, **fields: Any) -> bytes:
        """The next draft of this device: sealed bytes with a valid header and a random body."""
        body = fields.pop("body", None) or secrets.token_bytes(64)
        conditional = fields.pop("conditional", False)
        if "counter" not in fields:
            self.counter += 1
        header = Header(
            1,
            1,
            Kind.PUT,
            FLAG_PADDED | (FLAG_CONDITIONAL if conditional else 0),
            0,
            self.space_id,
            COLLECTION,
            b"r" * 16,
            secrets.token_bytes(16),
            self.device_id,
            self.counter,
            ZERO_ID,
        )
        return header._replace(**fields).pack() + secrets.token_bytes(24) + body + bytes(16)


class Rig:
    """Drives one session; collects what it sends."""

    def __init__(self, person: Person, limits: Limits | None = None) -> None:
        self.person = person
        self.limits = limits or Limits()
        self.now = 1000.0
        self.sent: list[m.Message] = []
        self.closed: Close | None = None
        self.opened: Opened | None = None
        self.asked: list[Ask] = []
        self.published: list[Any] = []
        self.noticed: list[Noticed] = []
        self.pairing = b""  # the channel that is heard
        self.hello = b""
        self.challenge = b""
        self.fail_with: dict[type, Exception] = {}
        self.session = Session(
            session_id=secrets.token_bytes(16),
            hub_urls=["wss://other.example.org/v1/ws", HUB_URL],
            server_nonce=secrets.token_bytes(32),
            sign_up="closed",
            limits=self.limits,
            policy=POLICY,
            now=self.now,
        )

    # --- carrying out ---

    def take(self, effects: list[Effect]) -> None:
        """Note effects without answering what is asked."""
        for effect in effects:
            match effect:
                case Send(frame=frame):
                    self.sent.append(decode_from_hub(frame))
                    if isinstance(self.sent[-1], m.Challenge):
                        self.challenge = frame
                case Close():
                    assert self.closed is None, "closed twice"
                    self.closed = effect
                case Opened():
                    self.opened = effect
                case LeavePairing():
                    self.pairing = b""
                case Noticed():
                    self.noticed.append(effect)
                case Ask():
                    self.asked.append(effect)

    async def answer(self) -> None:
        """Answer everything asked, until nothing is."""
        while self.asked:
            ask = self.asked.pop(0)
            failure = self.fail_with.get(type(ask.what))
            try:
                result = failure if failure else await self._result(ask.what)
            except Exception as exc:
                result = exc
            self.take(self.session.answered(ask.token, result, self.now))

    async def _result(self, what: Any) -> Any:
        store, account_id = self.person.store, self.person.account_id
        match what:
            case LookUp(device_id=device_id):
                device = await store.device(device_id)
                if device is None or device.revoked_at:
                    return await store.moved_device(device_id)
                return await self.known(device)
            case ListSpaces():
                return await store.spaces(account_id)
            case MakeSpace(message=msg, proof_ok=True):
                space = Space(account_id, msg.space_id, msg.app_id, 0, msg.space_pk)
                return await store.create_space(space, 50, 1.0)
            case ReadStates(space_id=space_id, collection_ids=ids):
                return await store.states(account_id, space_id, self.person.device_id, ids)
            case ReadHeads(keys=keys):
                return await store.heads([CollectionKey(account_id, *key) for key in keys])
            case ReadPage(space_id=space_id, collection_id=collection_id, after=after, live_only=live_only):
                key = CollectionKey(account_id, space_id, collection_id)
                return await store.read(key, after, live_only=live_only, changes_max=500, bytes_max=131_072)
            case ReadKept(message=msg):
                key = CollectionKey(account_id, msg.space_id, msg.collection_id)
                return await store.history(key, msg.record_id, before=msg.before, limit=msg.limit)
            case ReadWitnesses(space_id=space_id, collection_id=collection_id):
                return await store.witnesses(CollectionKey(account_id, space_id, collection_id))
            case KeepWitness(message=msg, counter=counter):
                key = CollectionKey(account_id, msg.space_id, msg.collection_id)
                return await store.put_witness(key, self.person.device_id, counter, msg.witness)
            case AppendDrafts(append=append):
                return (await store.append([append], self.now))[0]
            case PassOn(notice=notice):
                self.published.append(notice)
                return None
            case JoinPairing(channel=channel):
                self.pairing = channel
                return None
            case PassPairing(notice=handed):
                self.published.append(handed)
                return None
            case TrustForKey():
                self.published.append(what)
                return None
            case Serve(message=msg):
                return Served(m.Done(msg.request))
        raise AssertionError(what)

    async def known(self, device: Device) -> Known:
        """What the session is told of the device."""
        spaces = await self.person.store.spaces(device.account_id)
        account = await self.person.store.account(device.account_id)
        assert account is not None
        incarnation = await self.person.store.incarnation()
        return Known(device, spaces, incarnation, 1.7e9, 1 << 30, 0, 0.0, closing=account.closing())

    # --- speaking ---

    async def say(self, message: m.Message | bytes) -> list[m.Message]:
        """Send a message or raw bytes; what came back."""
        before = len(self.sent)
        frame = message if isinstance(message, bytes) else encode(message)
        self.take(self.session.received(frame, self.now))
        await self.answer()
        # The queue drains at once, as with a device that reads.
        self.take(self.session.sent(self.session.queued_bytes, self.now))
        await self.answer()
        return self.sent[before:]

    async def greet(self, **fields: Any) -> list[m.Message]:
        """Say hello."""
        hello = m.Hello(v=[1], device_id=self.person.device_id, client_nonce=secrets.token_bytes(32), **fields)
        self.hello = encode(hello)
        return await self.say(self.hello)

    def proof(self, purpose: signing.Purpose = "auth", *, url: str = HUB_URL, key: SigningKey | None = None) -> bytes:
        """The device's proof for this connection."""
        return signing.sign(key or self.person.device_key, purpose, url, self.hello, self.challenge)

    def space_proof(self, person: Person | None = None) -> bytes:
        """The proof of a space for this connection."""
        whose = person or self.person
        return signing.sign(whose.space_key, "space", HUB_URL, self.hello, self.challenge + whose.space_id)

    async def ready(self, **fields: Any) -> Rig:
        """Go through the handshake."""
        await self.greet(**fields)
        await self.say(m.Auth(self.proof()))
        assert self.opened is not None, self.closed
        return self

    async def enter(self, **fields: Any) -> Rig:
        """Go through the handshake and enter the person's space."""
        await self.ready(**fields)
        (entered,) = await self.say(m.Enter(1, [m.SpaceProof(self.person.space_id, 0, self.space_proof())]))
        assert isinstance(entered, m.Entered), entered
        return self

    async def follow(
        self, *, seq: int = 0, live_only: bool = False, incarnation: bytes | None = None
    ) -> list[m.Message]:
        """Subscribe to the collection."""
        incarnation = incarnation or await self.person.store.incarnation()
        cursor = m.CursorPart(COLLECTION, incarnation, seq, live_only)
        return await self.say(m.Subscribe(2, self.person.space_id, [cursor]))

    async def append(self, *drafts: bytes, atomic: bool = False) -> m.Appended:
        """Append; the answer."""
        answers = await self.say(m.Append(3, self.person.space_id, list(drafts), atomic))
        appended = answers[0]
        assert isinstance(appended, m.Appended), appended
        return appended

    def wait(self, seconds: float) -> None:
        """Let time pass, firing timers as they come due."""
        until = self.now + seconds
        while (due := self.session.timer()) is not None and due <= until:
            self.now = max(self.now, due)
            self.take(self.session.timer_fired(self.now))
        self.now = until


async def person(store: MemoryStore | None = None, **settled: Any) -> Person:
    """A person with a device and a space, in a new store or a given one."""
    if store is None:
        store = MemoryStore()
        await store.open()
    someone = Person(store)
    await someone.settle(**settled)
    return someone


def approved(device: Device) -> Device:
    """The device after its probation."""
    return replace(device, probation_until=None)
