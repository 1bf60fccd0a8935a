"""What this device has of its space, without I/O: collections, outbox, settings, alarms.

Everything that must not be forgotten lies in local storage; what is in memory here
is read from there and follows it, also when a transaction is rolled back.  The
effects to carry out gather here too, in order, until the engine hands them out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
from nacl.signing import SigningKey

from hub.client.check import CheckFailed
from hub.client.collection import LocalCollection, RecordChanged
from hub.client.intake import DraftMissing, Intake
from hub.client.keys import SpaceKeys
from hub.client.outbox import Outbox, unsealed
from hub.client.storage import State, Storage, StoredAlarm
from hub.terms import ZERO_ID, ChangeId, CollectionId, DeviceId, Incarnation, Seq, SpaceId
from hub.wire import messages as m

RECENT_ACKS_KEPT = 10_000


class Now(NamedTuple):
    """The time, twice: ``steady`` for deadlines, ``wall`` (Unix) for what people see.  Neither orders anything."""

    steady: float
    wall: float


class Identity(NamedTuple):
    """What this device is to the hub."""

    device_id: DeviceId
    signing_key: SigningKey
    app_id: str
    hub_url: str  # canonical, as dialled


# --- effects ---------------------------------------------------------------------------------


class Usage(NamedTuple):
    """What the account takes on the hub, and may take: all its apps together."""

    used_bytes: int
    quota_bytes: int


class Send(NamedTuple):
    """Put this frame on the line."""

    frame: bytes


class Hangup(NamedTuple):
    """Close the connection; come back later, or (``retry`` false) only when asked to.

    ``politely`` lets what was sent before arrive; otherwise the line may be dead, and is cut.
    """

    reason: str
    retry: bool = True
    after_s: float = 0.0
    politely: bool = False


class Changed(NamedTuple):
    """Records of a collection look different now."""

    collection: str
    changes: list[RecordChanged]


class Answered(NamedTuple):
    """The answer to a ``request``: a message, ``Refused`` among them."""

    number: int
    message: m.Message


class Wiped(NamedTuple):
    """Another device dropped the remote copies; local data is kept and sync is off."""


class SignalCame(NamedTuple):
    """An ephemeral message of another device of the space."""

    device_id: DeviceId
    body: bytes


class PairingCame(NamedTuple):
    """A frame of the device this one pairs with, or of somebody who says so."""

    channel: bytes
    body: bytes


class AccountChanged(NamedTuple):
    """Something happened on the account."""

    notice: m.AccountNotice


class Moved(NamedTuple):
    """Something that a status, or somebody who waits, may depend on has moved."""


Effect = Send | Hangup | Changed | Answered | Wiped | SignalCame | PairingCame | AccountChanged | Moved


class Device:
    """One device, one space."""

    def __init__(self, storage: Storage, identity: Identity, fresh: Callable[[int], bytes]) -> None:
        """``fresh`` gives that many random bytes."""
        self.storage = storage
        self.identity = identity
        self.fresh = fresh
        self.keys: SpaceKeys | None = None
        self.outbox: Outbox | None = None
        self.collections = {row.n: LocalCollection(storage, row, fresh) for row in storage.collections()}
        self.intakes: dict[int, Intake] = {}
        self.effects: list[Effect] = []
        self.error = ""  # what the person should know and nothing else shows
        self.last_appended_at = 0.0
        self.head_seen_at = 0.0
        self.confirmations = 0  # how often the hub has told all its heads
        self.usage: Usage | None = None  # as the hub last told
        self.witness_due: dict[int, float] = {}  # steady time, by collection
        self.hung_up = False  # it is decided that the line goes: nothing more is sealed or sent on it
        self.leaving = False  # the hub asked to come back in a moment: no reason to call that offline
        self._acked: dict[ChangeId, tuple[int, Seq]] = {}

    # --- settings ---

    @property
    def mode(self) -> str:
        """``on``, ``off`` or ``wiping``."""
        return (self.storage.setting("mode") or b"on").decode()

    def set_mode(self, mode: str) -> None:
        """Keep the mode."""
        with self.transaction():
            self.storage.set_setting("mode", mode.encode())
        if self.outbox:
            self.outbox.wipe_only(mode == "wiping")

    @property
    def blocked(self) -> str:
        """Why nothing but a person can go on, or empty."""
        return (self.storage.setting("blocked") or b"").decode()

    def block(self, reason: str) -> None:
        """Nothing but a person can go on."""
        with self.transaction():
            self.storage.set_setting("blocked", reason.encode() or None)
        self.effects.append(Moved())

    @property
    def moved_to(self) -> str:
        """Where the account lives now, as the hub said that it has left; empty = here."""
        return (self.storage.setting("moved_to") or b"").decode()

    def has_moved(self, url: str) -> None:
        """The hub says that the account lives elsewhere now; whether to go there is the person's to say."""
        with self.transaction():
            self.storage.set_setting("moved_to", url.encode())
        self.effects.append(Moved())

    def follow(self, hub_url: str) -> None:
        """Dial another hub from now on, as the same device: key, counters and outbox stay."""
        self.identity = self.identity._replace(hub_url=hub_url)
        with self.transaction():
            self.storage.set_setting("hub_url", hub_url.encode())
            self.storage.set_setting("moved_to", None)
            self.storage.set_setting("blocked", None)
        self.hang_up("the account lives at another hub")

    @property
    def signed_in(self) -> bool:
        """Whether the hub knows this device, as far as we have been told."""
        return self.storage.setting("account_id") is not None

    @property
    def known_spaces(self) -> list[m.SpaceInfo]:
        """The account's spaces when the hub last told."""
        packed = self.storage.setting("spaces")
        return msgspec.msgpack.decode(packed, type=list[m.SpaceInfo]) if packed else []

    def is_ready(self, ready: m.Ready) -> bool:
        """The hub knows this device.

        False, and a person must act, when it knows it as another account's: what is here is no business of that one.
        """
        if self.storage.setting("account_id") not in (None, ready.account_id):
            self.block(f"{self.identity.hub_url} has this device under another account")
            return False
        with self.transaction():
            self.storage.set_setting("account_id", ready.account_id)
            self.storage.set_setting("spaces", msgspec.msgpack.encode(ready.spaces))
            self.storage.set_setting("moved_to", None)
        self.usage = Usage(ready.used_bytes, ready.quota_bytes)
        self.effects.append(Moved())
        return True

    def know_spaces(self, spaces: Sequence[m.SpaceInfo]) -> None:
        """The hub told of these spaces; those it told of before stay known.  Part of the caller's transaction."""
        told = {space.space_id: space for space in [*self.known_spaces, *spaces]}
        self.storage.set_setting("spaces", msgspec.msgpack.encode(list(told.values())))

    @property
    def heads(self) -> tuple[Incarnation, list[tuple[CollectionId, Seq]]]:
        """How far this device has the life of the log that it knows; the longest collections first."""
        incarnation = self.storage.setting("incarnation") or b""
        rows = sorted((local.row for local in self.collections.values()), key=lambda row: -row.seq)
        return incarnation, [
            (row.collection_id, row.seq)
            for row in rows
            if row.collection_id is not None and row.seq and row.incarnation == incarnation
        ]

    def keep_granted(self, incarnation: Incarnation, heads: Sequence[tuple[CollectionId, Seq]]) -> None:
        """The device that added this one stood there, so the hub's log reaches at least so far."""
        with self.transaction():
            self.storage.set_setting("granted", msgspec.msgpack.encode((incarnation, dict(heads))))

    def granted_seq(self, incarnation: Incarnation, collection_id: CollectionId) -> Seq:
        """How far a collection reached for the device that added this one; 0 when it did not say."""
        packed = self.storage.setting("granted")
        if not packed:
            return 0
        life, heads = msgspec.msgpack.decode(packed, type=tuple[bytes, dict[bytes, int]])
        return heads.get(collection_id, 0) if life == incarnation else 0

    @property
    def space_id(self) -> SpaceId:
        """The space of the app key; there must be one."""
        assert self.keys is not None, "asked for the space without an app key"
        return self.keys.space_id

    # --- who we are ---

    def set_keys(self, keys: SpaceKeys) -> None:
        """The app key is known: names become ids, and edits can be sealed."""
        self.keys = keys
        with self.transaction():
            for local in self.collections.values():
                if local.name and local.row.collection_id is None:
                    local.save(collection_id=keys.collection_id(local.name))
        self.outbox = Outbox(self.storage, keys, self.identity.device_id, self.collections, self.fresh)
        self.outbox.wipe_only(self.mode == "wiping")
        self.intakes.clear()
        for local in self.collections.values():
            self.admit(local)

    def set_identity(self, identity: Identity) -> None:
        """The device is another to the hub: its counters begin anew, and what was sealed is sealed again."""
        self.identity = identity
        with self.transaction():
            for local in self.collections.values():
                for row in self.storage.rows_in(local.n, State.SEALED):
                    self.storage.save_row(unsealed(row))
                local.save(counter=0, answered=0, witness_counter=0, witness_seq=0)
        if self.keys is not None:
            self.set_keys(self.keys)

    # --- collections ---

    def find_or_add(self, name: str) -> LocalCollection:
        """The collection the app calls so; the hub may have told of it before."""
        collection_id = self.keys.collection_id(name) if self.keys else None
        for local in self.collections.values():
            if local.name == name:
                return local
            if collection_id is not None and local.row.collection_id == collection_id:
                local.save(name=name)
                return local
        return self.add(name, collection_id)

    def add(self, name: str | None, collection_id: CollectionId | None) -> LocalCollection:
        """A new collection."""
        row = self.storage.add_collection(name, collection_id)
        self.collections[row.n] = LocalCollection(self.storage, row, self.fresh)
        return self.collections[row.n]

    def admit(self, local: LocalCollection) -> None:
        """Once a collection has an id, it can be received."""
        if self.keys is not None and local.row.collection_id is not None and local.n not in self.intakes:
            self.intakes[local.n] = Intake(local, self.keys, self.identity.device_id)

    def number(self, space_id: SpaceId, collection_id: CollectionId) -> int | None:
        """The collection's number here; None for what is none of ours."""
        if self.keys is None or space_id != self.keys.space_id:
            return None
        found = (n for n, intake in self.intakes.items() if intake.collection_id == collection_id)
        return next(found, None)

    # --- acknowledged edits ---

    def remember_ack(self, change_id: ChangeId, collection: int, seq: Seq) -> None:
        """An edit of this device is in the log; the last ten thousand are remembered."""
        self._acked[change_id] = (collection, seq)
        if len(self._acked) > RECENT_ACKS_KEPT:
            del self._acked[next(iter(self._acked))]

    def place_of(self, change_id: ChangeId) -> tuple[int, Seq] | None:
        """(collection number, seq) of an edit that is in the log; None when it is not known here."""
        return self._acked.get(change_id) or self.storage.find_change(change_id)

    def witness_soon(self, n: int, due: float) -> None:
        """State what this device has of a collection at ``due`` or before."""
        self.witness_due[n] = min(due, self.witness_due.get(n, due))

    # --- the line ---

    def draw(self) -> float:
        """A uniform draw in [0, 1)."""
        return int.from_bytes(self.fresh(4)) / 2**32

    def hang_up(self, reason: str, *, retry: bool = True, after_s: float = 0.0, politely: bool = False) -> None:
        """Close the line.  From here on nothing is sealed or sent, and what still comes is not read."""
        self.hung_up = True
        self.effects += [Hangup(reason, retry, after_s, politely), Moved()]

    def line_stands(self) -> None:
        """A new line; what was said of the last one is over."""
        self.hung_up = self.leaving = False

    # --- transactions and alarms ---

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """A storage transaction; after a rollback what is held in memory is taken from storage again."""
        try:
            with self.storage.transaction():
                yield
        except BaseException:
            self._take_back()
            raise

    def guarded(self, n: int, now: Now, work: Callable[[Intake], None]) -> bool:
        """Do ``work`` in one transaction; a failed check rolls it back, is kept as an alarm and stops the collection.

        False when it was rolled back.
        """
        intake = self.intakes[n]
        try:
            with self.transaction():
                work(intake)
        except CheckFailed as exc:
            self.raise_alarm(exc.alarm.name, intake.local, exc.alarm.detail, exc.alarm.seq, now)
            return False
        except DraftMissing as exc:
            self.hang_up(f"the hub left out a change that this device does not hold: {exc}")
            return False
        return True

    def raise_alarm(self, name: str, local: LocalCollection | None, detail: str, seq: Seq, now: Now) -> None:
        """Keep an alarm for the person; its collection takes nothing over and sends nothing until they decide."""
        with self.transaction():
            self.storage.add_alarm(StoredAlarm(name, local.name if local else "", detail, seq, now.wall))
            if local is not None:
                local.save(alarm=name)
        self.effects.append(Moved())

    def forget_alarms(self) -> None:
        """A person wants to go on: what was stopped is read anew, and what the hub lacks is appended."""
        emptied = any(alarm.name == "emptied" for alarm in self.storage.alarms())
        with self.transaction():
            self.storage.clear_alarms()
            self.storage.set_setting("incarnation", None)
            self.storage.set_setting("granted", None)
            for local in self.collections.values():
                if local.row.alarm or emptied:
                    local.new_life(ZERO_ID)
                    local.save(alarm="", check=b"")
        for intake in self.intakes.values():
            intake.reload()

    def take_effects(self, locals_: Iterable[LocalCollection] | None = None) -> list[Effect]:
        """What gathered since the last call, with what changed in these collections (None: in all)."""
        for local in self.collections.values() if locals_ is None else locals_:
            if changes := local.take_changed():
                self.effects.append(Changed(local.name, changes))
        effects, self.effects = self.effects, []
        return effects

    def _take_back(self) -> None:
        rows = {row.n: row for row in self.storage.collections()}
        for n, local in list(self.collections.items()):
            if n not in rows:
                del self.collections[n]
                continue
            local.row = rows[n]
            local.forget_changed()
        for intake in self.intakes.values():
            intake.reload()
