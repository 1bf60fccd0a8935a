"""A device's side of the protocol, without I/O: the twin of ``clients/js/src/engine.js``.

Frames, local edits and the time go in; effects come out, and the shell
(``connection.py``) carries them out: ``Send`` a frame, ``Hangup``, tell the app.
The engine keeps everything it must not forget in local storage, in the same
transaction as what it belongs to, so it may be killed between any two calls.

What a step means for the records is in ``collection.py``, for what is sent in
``outbox.py``, for what is received in ``intake.py``; ``conversation.py`` is one
connection, and ``device.py`` what outlives it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from hub.client.collection import LocalCollection
from hub.client.conversation import Conversation
from hub.client.device import Device, Effect, Identity, Moved, Now
from hub.client.keys import SpaceKeys
from hub.client.signals import seal_signal
from hub.client.storage import State, Storage, StoredAlarm
from hub.client.strategies import Strategy
from hub.errors import REFUSALS
from hub.terms import ChangeId, DeviceId, Seq
from hub.wire import messages as m
from hub.wire.codec import UnknownMessage, decode_from_hub
from hub.wire.header import NONCE_BYTES

T = TypeVar("T")


class Progress(NamedTuple):
    """The catch-up or upload under way, in changes; ``remaining`` is an upper bound."""

    done: int = 0
    remaining: int = 0


@dataclass(frozen=True, slots=True)
class Status:
    """Where sync stands, honestly.  Times are this device's clock, 0.0 for never.

    Phases: off, signed-out, needs-key, offline, connecting (also while the hub
    restarts and this device moves on), catching-up, sending, synced, blocked
    (``error`` says why; a person must act), alarm (see ``alarms``).
    """

    phase: str
    unsynced: int  # edits that are not in the log
    parked: int  # edits that wait for a person
    oldest_unsynced_age_s: float
    last_appended_at: float
    head_seen_at: float
    progress: Progress
    alarms: tuple[StoredAlarm, ...]
    error: str
    moved_to: str = ""  # where the account lives now, when the hub said that it has left; see ``HubClient.follow``


class Engine:
    """One device, one space.  Calls that end in effects return those to carry out, in order."""

    def __init__(
        self, storage: Storage, identity: Identity, keys: SpaceKeys | None, fresh: Callable[[int], bytes]
    ) -> None:
        """``fresh`` gives that many random bytes."""
        self.device = Device(storage, identity, fresh)
        self._talk: Conversation | None = None
        if keys is not None:
            self.device.set_keys(keys)

    # --- collections and edits ---

    def open_collection(self, name: str, strategy: Strategy, now: Now) -> tuple[LocalCollection, list[Effect]]:
        """The app's collection of this name; from now on its conflicts are settled by ``strategy``."""
        device = self.device
        with device.transaction():
            local = device.find_or_add(name)
            local.strategy = strategy
            local.settle(now.wall)
        device.admit(local)
        if self._talk:
            self._talk.follow([local])
            self._talk.flush(now)
        return local, device.take_effects()

    def edit(self, local: LocalCollection, work: Callable[[], T], now: Now) -> tuple[T, list[Effect]]:
        """Do edits of one collection in one transaction, durable on return, and send what can be sent."""
        with self.device.transaction():
            result = work()
            local.settle(now.wall)
        if self._talk:
            self._talk.flush(now)
        self.device.effects.append(Moved())
        return result, self.device.take_effects([local])

    # --- on and off ---

    def turn_off(self) -> list[Effect]:
        """Stop syncing; edits go on into the outbox."""
        self.device.set_mode("off")
        self.device.hang_up("sync is off", retry=False)
        return self.device.take_effects()

    def turn_on(self, now: Now) -> list[Effect]:
        """Sync again; what the log has not got any more is appended anew."""
        device = self.device
        with device.transaction():
            if device.storage.setting("wiped"):
                # What else of that wipe is still to be read changes the person's answer no more.
                device.storage.set_setting("resuming", b"1")
            device.storage.set_setting("wiped", None)
            device.storage.set_setting("blocked", None)
            device.set_mode("on")
            for local in device.collections.values():
                local.requeue_unsent(now.wall)
                local.settle(now.wall)
        if self._talk:
            self._talk.begin()
        device.effects.append(Moved())
        return device.take_effects()

    def start_wipe(self, now: Now) -> list[Effect]:
        """Drop the remote copies: one sealed wipe for each collection.  Local data stays.  See ``wiping_done``."""
        device = self.device
        with device.transaction():
            device.set_mode("wiping")
            for local in device.collections.values():
                local.add_wipe(now.wall)
        if self._talk:
            self._talk.flush(now)
        return device.take_effects()

    @property
    def wiping_done(self) -> bool:
        """Whether every wipe is in the log, and everything the hub told of has been wiped."""
        talk, storage = self._talk, self.device.storage
        caught_up = talk is not None and talk.entered and not talk.is_catching_up
        return caught_up and all(not storage.rows_of(n, "") for n in self.device.collections)

    def forget_alarms(self) -> list[Effect]:
        """A person has seen the alarms and wants to go on: see ``Device.forget_alarms``."""
        self.device.forget_alarms()
        self.device.hang_up("read anew")
        return self.device.take_effects()

    def follow(self, hub_url: str) -> list[Effect]:
        """The account lives at ``hub_url`` now, and the person wants to go there."""
        self.device.follow(hub_url)
        return self.device.take_effects()

    # --- the connection ---

    def connected(self, now: Now, *, heartbeat_s: int = 0) -> list[Effect]:
        """The line stands.  ``heartbeat_s`` asks the hub for another pace of pings (15 to 300)."""
        self.device.line_stands()
        if self.device.outbox:
            self.device.outbox.session_began()
        self._talk = Conversation(self.device, now, heartbeat_s)
        self.device.effects.append(Moved())
        return self.device.take_effects()

    def disconnected(self, blocked: str = "", *, restarting: bool = False) -> list[Effect]:
        """The line is gone, or there was none.  What had no answer is sent again on the next one.

        ``blocked`` says why the hub wants this device not to come back by itself;
        ``restarting`` that it only goes for a moment.
        """
        self.device.leaving = self._talk is not None and (self.device.leaving or restarting)
        # What a hub said at last is no reason to stop when the person has gone on to another one meanwhile.
        left = self._talk is not None and self._talk.hub_url != self.device.identity.hub_url
        self._talk = None
        if blocked and not left:
            self.device.block(blocked)
        self.device.effects.append(Moved())
        return self.device.take_effects()

    def received(self, frame: bytes, now: Now) -> list[Effect]:
        """A frame has come."""
        if self._talk is None or self.device.hung_up:
            return []
        try:
            message = decode_from_hub(frame)
        except UnknownMessage:
            return []  # a later hub may say more than this program understands
        except ValueError as exc:
            self.device.hang_up(f"the hub sent what is no message: {exc}")
            return self.device.take_effects()
        self._talk.received(message, frame, now)
        return self.device.take_effects()

    def farewell(self, now: Now) -> list[Effect]:
        """A clean stop is near: state what this device has."""
        if self._talk and self._talk.entered and self.device.mode == "on":
            for n in sorted(self._talk.following):
                self._talk.witness(n, now)
        return self.device.take_effects()

    def timer(self) -> float | None:
        """When ``timer_fired`` wants to be called, in steady time; None without a connection."""
        return self._talk.timer() if self._talk and not self.device.hung_up else None

    def timer_fired(self, now: Now) -> list[Effect]:
        """Something is due."""
        if self._talk and not self.device.hung_up:
            self._talk.timer_fired(now)
        return self.device.take_effects()

    # --- what the app asks of the hub ---

    @property
    def in_session(self) -> bool:
        """Whether the hub knows this device on the line that stands, and answers come."""
        return self._talk is not None and self._talk.ready

    def request(self, make: Callable[[int], m.Message]) -> tuple[int, list[Effect]]:
        """Ask the hub something; the answer comes as ``Answered``.  Raises ``ConnectionError`` when not in session."""
        if self._talk is None or not self.in_session or not self._talk.may_ask:
            raise ConnectionError("not connected to the hub")
        number = self._talk.ask(make)
        return number, self.device.take_effects()

    def send_signal(self, body: bytes, to: DeviceId | None) -> list[Effect]:
        """Hand an ephemeral message to the space's other devices that are connected now, or to one of them.

        Raises ``ConnectionError`` when not in session.
        """
        device = self.device
        if self._talk is None or not self._talk.entered or not self._talk.may_ask or device.keys is None:
            raise ConnectionError("not connected to the hub")
        sealed = seal_signal(device.keys, device.identity.device_id, body, device.fresh(NONCE_BYTES))
        self._talk.say(lambda number: m.Signal(number, device.space_id, sealed, to))
        return device.take_effects()

    def hand_pairing(self, channel: bytes, body: bytes) -> list[Effect]:
        """Hand a frame to the device that this one pairs with.  Raises ``ConnectionError`` when not in session."""
        if self._talk is None or not self.in_session or not self._talk.may_ask:
            raise ConnectionError("not connected to the hub")
        self._talk.say(lambda number: m.Pairing(number, channel, body))
        return self.device.take_effects()

    def ask_heads(self) -> list[Effect]:
        """Have the hub tell its heads, to be sure that nothing is missing here; see ``Device.confirmations``."""
        if self._talk and self._talk.entered:
            self._talk.ask_heads()
        return self.device.take_effects()

    # --- what the app is told ---

    def status(self, now: Now) -> Status:
        """Where sync stands."""
        device, talk = self.device, self._talk
        backlog = device.storage.backlog()
        alarms = tuple(device.storage.alarms())
        over_quota = device.outbox is not None and device.outbox.over_quota
        error = device.blocked or device.error or (REFUSALS["quota_exceeded"].message if over_quota else "")
        remaining = (talk.remaining if talk else 0) + backlog.unsynced
        return Status(
            phase=self._phase(backlog.unsynced, alarms),
            unsynced=backlog.unsynced,
            parked=backlog.parked,
            oldest_unsynced_age_s=max(0.0, now.wall - backlog.oldest_at) if backlog.unsynced else 0.0,
            last_appended_at=device.last_appended_at,
            head_seen_at=device.head_seen_at,
            progress=Progress(talk.done if talk else 0, remaining),
            alarms=alarms,
            error=error,
            moved_to=device.moved_to,
        )

    def is_appended(self, change_id: ChangeId) -> bool:
        """Whether the edit is in the log, or was settled without needing to be."""
        row = self.device.storage.row_of_change(change_id)
        return row is None or row.state is State.ACKED

    def witnessed_seqs(self, collection: int) -> dict[DeviceId, Seq]:
        """How far the other devices have said that they have a collection."""
        intake = self.device.intakes.get(collection)
        return intake.witnessed_seqs() if intake else {}

    def _phase(self, unsynced: int, alarms: Sequence[StoredAlarm]) -> str:
        device, talk = self.device, self._talk
        standing = [
            ("off", device.mode == "off"),
            ("blocked", bool(device.blocked)),
            ("signed-out", not device.signed_in),
            ("needs-key", device.keys is None),
            ("alarm", bool(alarms)),
        ]
        for phase, holds in standing:
            if holds:
                return phase
        if talk is None and not device.leaving:
            return "offline"
        if talk is None or device.leaving or not talk.entered:
            return "connecting"
        if talk.is_catching_up:
            return "catching-up"
        return "sending" if unsynced else "synced"
