"""The client of sync-hub: local data first, sealed copies on the hub, the same on all of a person's devices.

    client = await HubClient.open(path, app_id="org.example.notes", hub_url="https://hub.example.org")
    sent = await client.request_code("anna@example.org")
    await client.enrol(input(f"The code from the mail ({sent.phrase}): "))
    client.create_key()                      # or import_key, with the code of another device
    await client.start()
    notes = client.collection("notes")
    notes.put("first", {"text": "Hello"})    # durable here at once, on the hub when it can be

Everything works offline.  Edits are kept in the same local transaction as their place
in the outbox; sync can be switched on, off, and off with a wipe of the remote copies.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from nacl.signing import SigningKey

from hub.client.adding import PairingHandle
from hub.client.collection import LocalCollection, RecordChanged
from hub.client.connection import (
    UNREACHABLE,
    Closed,
    Connection,
    Errand,
    Tap,
    as_refusal,
    canonical_url,
    errand,
    now,
)
from hub.client.device import (
    AccountChanged,
    Answered,
    Changed,
    Effect,
    Hangup,
    Identity,
    Moved,
    PairingCame,
    Send,
    SignalCame,
    Usage,
    Wiped,
)
from hub.client.engine import Engine, Progress, Status
from hub.client.keycode import WrongKeyCode, key_code, parse_key_code
from hub.client.keys import SpaceKeys
from hub.client.names import DEVICES, device_name
from hub.client.pairing import HEADS_MAX, Giver, Grant, Me, PairingFailed, Scan, Taker, parse_pairing_code
from hub.client.sealing import open_sealed, split_record
from hub.client.storage import SqliteStorage, Storage
from hub.client.strategies import MANUAL, MINE, MISSING, THEIRS, Conflict, Merged, Strategy, last_writer_wins
from hub.client.values import decode_body
from hub.errors import Refusal
from hub.terms import ZERO_ID, AccountId, ChangeId, DeviceId, Kind, Seq
from hub.wire import messages as m

__all__ = [
    "MANUAL",
    "MINE",
    "MISSING",
    "THEIRS",
    "Closed",
    "CollectionHandle",
    "Conflict",
    "HubClient",
    "Merged",
    "PairingFailed",
    "PairingHandle",
    "Progress",
    "RecordChanged",
    "Refusal",
    "Status",
    "Usage",
    "Version",
    "WrongKeyCode",
]

T = TypeVar("T")
M = TypeVar("M", bound=m.Message)
ANSWER_WITHIN_S = 30.0
SIGN_OF_LIFE_EVERY_S = 25.0  # while a device waits for its pairing; proxies cut silent lines


class CodeRequest(NamedTuple):
    """A code is on its way: the two words its mail repeats, and how long it works, in seconds."""

    attempt_id: bytes
    phrase: str
    expires_in_s: float


class Version(NamedTuple):
    """One kept change of a record, opened."""

    seq: Seq
    appended_at: datetime  # the hub's clock; for showing, it orders nothing
    kind: Kind
    value: Any  # MISSING for a delete; what was added for a delta
    device_id: DeviceId
    is_first: bool  # nothing of the record was there before


class HubClient:
    """One app on one device.  All methods are for the event loop it was opened in."""

    def __init__(self, storage: Storage, app_id: str, tap: Tap | None = None) -> None:
        """Use ``open``."""
        self._storage = storage
        self._app_id = app_id
        self._engine = Engine(storage, _identity(storage, app_id), _keys(storage), secrets.token_bytes)
        self._connection = Connection(self._engine, self._carry, self._wanted, tap)
        self._running: asyncio.Task[None] | None = None
        self._handles: dict[str, CollectionHandle] = {}
        self._answers: dict[int, asyncio.Future[m.Message]] = {}
        self._pairing: PairingHandle | None = None  # on the line that is kept up
        self._pairing_request = 0  # by which it was opened
        self._moved = asyncio.Event()
        self._status_told: Status | None = None
        self._telling = False
        self._on_status: list[Callable[[Status], None]] = []
        self._on_signal: list[Callable[[DeviceId, bytes], None]] = []
        self._on_wiped: list[Callable[[], None]] = []
        self._on_account: list[Callable[[m.AccountNotice], None]] = []

    @classmethod
    async def open(
        cls, path: Path | str, *, app_id: str, hub_url: str | None = None, tap: Tap | None = None
    ) -> HubClient:
        """The client that keeps its data in the file ``path``, made when missing with mode 0600.

        ``hub_url`` is remembered; one that the person has followed away from changes nothing.
        ``tap`` is shown every message of the line, for tests and tools that watch; see
        ``connection.Tap``.  Raises ``ValueError`` for what is no hub's address.
        """
        storage = SqliteStorage(Path(path))
        if hub_url is not None and (url := canonical_url(hub_url).encode()) not in _left(storage):
            with storage.transaction():
                storage.set_setting("hub_url", url)
        return cls(storage, app_id, tap)

    # --- signing in ---

    @property
    def device_id(self) -> DeviceId:
        """This device, as the hub lists it."""
        return self._engine.device.identity.device_id

    @property
    def signed_in(self) -> bool:
        """Whether the hub has taken this device in."""
        return self._engine.device.signed_in

    async def request_code(self, address: str, *, invite: str = "") -> CodeRequest:
        """Have a code mailed.  It is remembered, so ``enrol`` may come after a restart.

        A device that is signed in already, or that the hub no longer takes, becomes a
        new one.  Raises ``Refusal``, ``OSError`` when the hub cannot be reached.
        """
        if self.signed_in or self._engine.device.blocked:
            self._become_new_device()
        async with self._errand() as talk:
            public_key = bytes(self._identity.signing_key.verify_key)
            request = m.RequestCode(1, address, public_key, self._app_id, invite=invite)
            sent = await talk.ask(request, m.CodeSent)
        self._set(attempt=sent.attempt_id)
        return CodeRequest(sent.attempt_id, sent.phrase, sent.expires_in_s)

    async def enrol(self, code: str) -> None:
        """Hand in the code from the mail.  Raises ``Refusal("enrol_failed")`` when it is not right."""
        attempt_id = self._storage.setting("attempt")
        if attempt_id is None:
            raise Refusal("enrol_failed", "ask for a code first")
        async with self._errand() as talk:
            public_key = bytes(self._identity.signing_key.verify_key)
            ready = await talk.ask(m.Enrol(1, attempt_id, code, public_key, talk.proof("enrol")), m.Ready)
        self._set(attempt=None)
        self._engine.device.is_ready(ready)
        self._connection.poke()

    async def spaces(self) -> list[m.SpaceInfo]:
        """The account's spaces of this app, as the hub tells them now."""
        if self._running is None or not self._wanted():
            async with self._session_errand():
                pass
        return self._engine.device.known_spaces

    async def usage(self) -> Usage:
        """How much of the hub the account takes, and may take: all its apps together, as the hub last told."""
        if self._engine.device.usage is None:
            async with self._session_errand():
                pass
        assert self._engine.device.usage is not None, "a session has begun"
        return self._engine.device.usage

    # --- the key ---

    @property
    def has_key(self) -> bool:
        """Whether this device holds the app key."""
        return self._engine.device.keys is not None

    def create_key(self) -> str:
        """Make the app key of a new space; its key code.  Show it: nobody can bring it back."""
        self._set(may_create=b"1")
        self._take_key(secrets.token_bytes(32), 0)
        return self.key_code()

    def import_key(self, code: str) -> None:
        """Take the app key of another device.  Raises ``WrongKeyCode`` with a sentence."""
        app_key, key_epoch = parse_key_code(code)
        if key_epoch:
            raise WrongKeyCode("This key code is of a later kind than this program understands.")
        self._take_key(app_key, key_epoch)

    def key_code(self) -> str:
        """The key code, to be shown, printed or scanned.  Raises ``LookupError`` without a key."""
        app_key = self._storage.setting("app_key")
        if app_key is None:
            raise LookupError("this device has no key")
        return key_code(app_key, 0)

    # --- pairing ---

    @asynccontextmanager
    async def pair(self, scanned: str = "", *, name: str = "") -> AsyncIterator[PairingHandle]:
        """Add a device, or have this one added: enrolment and key in one, without mail.

        With the key and signed in this device is the one that adds, and must be
        running; otherwise it is the one that is added, and afterwards it is signed in and has the
        key.  ``scanned`` is the other device's code; without it, show ``code``.  ``name``
        is what this device is called on the other one.  Leaving the block ends the
        pairing.  Raises ``WrongKeyCode``, ``Refusal``, ``ConnectionError``.
        """
        scan = parse_pairing_code(scanned) if scanned else None
        gives = self.signed_in and self.has_key and not self._engine.device.blocked
        pairing = self._giving(scan) if gives else self._taking(scan, name)
        async with pairing as handle:
            work = asyncio.create_task(handle.run())
            try:
                yield handle
            finally:
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)

    @asynccontextmanager
    async def _giving(self, scan: Scan | None) -> AsyncIterator[PairingHandle]:
        account_id, app_key = self._storage.setting("account_id"), self._storage.setting("app_key")
        keys = self._engine.device.keys
        assert account_id is not None and app_key is not None and keys is not None
        if self._running is None or not self._wanted():
            raise ConnectionError("start the client first, with sync switched on")
        if self._pairing:
            raise ValueError("a pairing is under way")
        incarnation, heads = self._engine.device.heads
        grant = Grant(keys.space_id, keys.key_epoch, app_key, keys.key_id, incarnation, heads[:HEADS_MAX])
        giver = Giver(self._me, account_id, grant, secrets.token_bytes, now().steady, scan)
        await self._ask(lambda number: self._opening(number, giver.channel), m.Done)
        self._pairing = handle = PairingHandle(giver, _GivingLine(self, giver.channel))
        try:
            yield handle
        finally:
            self._pairing = None

    def _opening(self, number: int, channel: bytes) -> m.OpenPairing:
        self._pairing_request = number
        return m.OpenPairing(number, channel)

    @asynccontextmanager
    async def _taking(self, scan: Scan | None, name: str) -> AsyncIterator[PairingHandle]:
        if self._engine.device.blocked:
            self._become_new_device()
        elif self.has_key:
            raise ValueError("this device has a key of its own already")
        taker = Taker(self._me, name, secrets.token_bytes, now().steady, scan)
        async with self._errand() as talk:
            await talk.ask(m.OpenPairing(1, taker.channel), m.Done)
            handle = PairingHandle(taker, _TakingLine(self, talk, taker.channel))
            hearing = asyncio.create_task(_hear_pairing(talk, handle))
            living = asyncio.create_task(_show_life(talk))
            try:
                yield handle
            finally:
                hearing.cancel()
                living.cancel()
                await asyncio.gather(hearing, living, return_exceptions=True)

    @property
    def _me(self) -> Me:
        identity = self._identity
        return Me(identity.device_id, bytes(identity.signing_key.verify_key), identity.app_id, identity.hub_url)

    async def _take_grant(self, grant: Grant, account_id: AccountId) -> None:
        if self._storage.setting("app_key") not in (None, grant.app_key):
            raise PairingFailed("other_key")
        async with self._errand() as talk:
            ready = await talk.ask(m.Auth(talk.proof("auth")), m.Ready)
        if ready.account_id != account_id:
            raise PairingFailed("other_account")
        # Signed in first: a device that stops here without the key can be added once more, one with a key cannot.
        self._engine.device.is_ready(ready)
        self._engine.device.keep_granted(grant.incarnation, grant.heads)
        self._set(attempt=None)
        self._take_key(grant.app_key, grant.key_epoch)

    # --- running ---

    async def start(self) -> None:
        """Sync in the background from now on; comes back by itself whatever happens to the line."""
        if self._running is None:
            self._running = asyncio.create_task(self._connection.run())
            self._running.add_done_callback(_tell_loop)

    async def stop(self) -> None:
        """Stop and close the file; nothing is lost, and what is unsent is sent when it is opened again."""
        if self._running is not None:
            self._carry(self._engine.farewell(now()))
            await self._connection.flush()
            self._running.remove_done_callback(_tell_loop)
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            self._running = None
        self._storage.close()

    @property
    def status(self) -> Status:
        """Where sync stands."""
        return self._engine.status(now())

    def on_status(self, callback: Callable[[Status], None]) -> None:
        """Call back when the status looks different, soon after it does."""
        self._on_status.append(callback)

    async def synced(self, timeout_s: float) -> None:
        """Returns when everything here is on the hub and everything the hub tells of is here.

        Raises ``TimeoutError``.
        """
        async with asyncio.timeout(timeout_s):
            while True:
                await self._until(lambda: self.status.phase == "synced")
                told = self._engine.device.confirmations
                self._carry(self._engine.ask_heads())
                await self._until(
                    lambda told=told: self._engine.device.confirmations > told or self.status.phase != "synced"  # type: ignore[misc]
                )
                if self.status.phase == "synced":
                    return

    async def when_appended(self, change_id: ChangeId) -> None:
        """Returns when this edit is durable on the hub, or was settled without needing to be."""
        await self._until(lambda: self._engine.is_appended(change_id))

    async def when_everywhere(self, change_id: ChangeId) -> None:
        """Returns when every other device of this app has said that it holds this edit.

        Devices say so in their witnesses, some seconds after they have it.
        """
        await self.when_appended(change_id)
        others = {info.device_id for info in await self.devices()} - {self.device_id}

        def is_everywhere() -> bool:
            place = self._engine.device.place_of(change_id)
            if place is None:
                return False
            seqs = self._engine.witnessed_seqs(place[0])
            return all(seqs.get(device_id, 0) >= place[1] for device_id in others)

        await self._until(is_everywhere)

    # --- on, off, off with a wipe ---

    async def turn_off(self) -> None:
        """Sync no more; edits go on and wait in the outbox."""
        self._carry(self._engine.turn_off())

    async def turn_on(self) -> None:
        """Sync again; what the hub has not got any more is appended anew."""
        self._carry(self._engine.turn_on(now()))
        self._connection.poke()

    async def turn_off_and_wipe(self) -> None:
        """Drop the remote copies, then sync no more.  Local data stays.

        Returns when the hub has dropped them; needs a running client and a hub that can be reached.
        """
        self._carry(self._engine.start_wipe(now()))
        self._connection.poke()
        await self._until(lambda: self._engine.wiping_done)
        self._carry(self._engine.turn_off())

    def on_wiped(self, callback: Callable[[], None]) -> None:
        """Another device dropped the remote copies: sync is off here, local data is kept; ask the person."""
        self._on_wiped.append(callback)

    async def follow(self) -> str:
        """Go on at the hub where the account lives now (``status.moved_to``), with the person's consent; its URL.

        This device stays the same one, with its key and all that is unsent; the hub there
        must know it as the same account's, else it stops, blocked.  Raises
        ``LookupError`` when the account has not moved, ``ValueError`` for an address that is no hub's.
        """
        if not self.status.moved_to:
            raise LookupError("the account has not moved")
        hub_url = canonical_url(self.status.moved_to)
        left = [*_left(self._storage), self._identity.hub_url.encode()]
        self._set(left=b"\n".join(url for url in left if url != hub_url.encode()))
        self._carry(self._engine.follow(hub_url))
        self._connection.poke()
        return hub_url

    async def forget_alarms(self) -> None:
        """A person has seen the alarms and wants to go on: what was stopped is read anew and compared."""
        self._carry(self._engine.forget_alarms())
        self._connection.poke()

    # --- data ---

    def collection(self, name: str, strategy: Strategy | None = None) -> CollectionHandle:
        """The collection of this name.  Conflicts in it are settled by ``strategy`` from now on.

        Without one they are settled as they were, at first by ``last_writer_wins``.
        """
        handle = self._handles.get(name)
        if handle is None or strategy is not None:
            local, effects = self._engine.open_collection(name, strategy or last_writer_wins, now())
            handle = handle or CollectionHandle(self, local)
            self._handles[name] = handle
            self._carry(effects)
        return handle

    async def send_signal(self, body: bytes, to: DeviceId | None = None) -> None:
        """Hand a sealed ephemeral message to the other devices that are connected.  Raises ``ConnectionError``."""
        self._carry(self._engine.send_signal(body, to))

    def on_signal(self, callback: Callable[[DeviceId, bytes], None]) -> None:
        """Call back with (device_id, body) of each signal."""
        self._on_signal.append(callback)

    # --- account ---

    def on_account(self, callback: Callable[[m.AccountNotice], None]) -> None:
        """Call back when something happens on the account."""
        self._on_account.append(callback)

    async def devices(self) -> list[m.DeviceInfo]:
        """The devices of this app on the account."""
        return (await self._ask(m.ListDevices, m.DeviceList)).devices

    def name_device(self, text: str) -> ChangeId:
        """Call this device so, for whoever has the key; the hub learns nothing.  1 to 64 characters.

        Raises ``ValueError``; ``LookupError`` before this device has a key.
        """
        if not self.has_key:
            raise LookupError("this device has no key")
        value = {"name": device_name(text), "since": now().wall}
        return self.collection(DEVICES).put(self.device_id.hex(), value)

    def device_names(self) -> dict[str, str]:
        """What the devices of the space are called, by device id in hex; those without a name are left out."""
        named = self.collection(DEVICES).items()
        return {key: str(value["name"]) for key, value in named if isinstance(value, dict) and "name" in value}

    async def revoke(self, device_ids: Collection[DeviceId]) -> None:
        """Take devices off the account.  This device may always take itself off."""
        await self._ask(lambda number: m.RevokeDevices(number, list(device_ids)), m.Done)

    async def approve(self, device_id: DeviceId) -> None:
        """End another device's probation."""
        await self._ask(lambda number: m.ApproveDevice(number, device_id), m.Done)

    async def delete_space(self) -> datetime | None:
        """Remove the space from the hub; when it will be gone, None = it is."""
        space_id = self._engine.device.space_id
        return _when(await self._ask(lambda number: m.DeleteSpace(number, space_id), m.Deleted))

    # --- inside ---

    @property
    def _identity(self) -> Identity:
        return self._engine.device.identity

    @property
    def _in_session(self) -> bool:
        return self.status.phase in ("catching-up", "sending", "synced")

    def _wanted(self) -> bool:
        device = self._engine.device
        may = device.signed_in and device.keys is not None and not device.blocked
        return may and device.mode != "off" and bool(device.identity.hub_url)

    def _set(self, **settings: bytes | None) -> None:
        with self._storage.transaction():
            for name, value in settings.items():
                self._storage.set_setting(name, value)

    def _take_key(self, app_key: bytes, key_epoch: int) -> None:
        keys = SpaceKeys.derive(app_key, key_epoch)
        self._set(app_key=app_key, blocked=None, space_known=None)
        self._engine.device.set_keys(keys)
        self._connection.poke()

    def _become_new_device(self) -> None:
        self._set(
            device_id=None, device_seed=None, account_id=None, blocked=None, spaces=None, attempt=None, moved_to=None
        )
        self._engine.device.set_identity(_identity(self._storage, self._app_id))
        # A line that stands was proved by the older device: what the new one seals would be refused on it.
        self._carry([Hangup("this is a new device")])

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._moved.clear()
            await self._moved.wait()

    @asynccontextmanager
    async def _errand(self) -> AsyncIterator[Errand]:
        if not self._identity.hub_url:
            raise ValueError("no hub is known; open the client with hub_url")
        try:
            async with errand(self._identity) as talk:
                try:
                    yield talk
                finally:
                    if talk.moved_to:
                        self._engine.device.has_moved(talk.moved_to)
        except UNREACHABLE as exc:
            if isinstance(exc, Closed):
                raise
            raise ConnectionError(f"the hub cannot be reached: {exc or type(exc).__name__}") from exc

    @asynccontextmanager
    async def _session_errand(self) -> AsyncIterator[Errand]:
        """A short connection on which this device has proved itself, and its space when it has one."""
        async with self._errand() as talk:
            ready = await talk.ask(m.Auth(talk.proof("auth")), m.Ready)
            if not self._engine.device.is_ready(ready):
                raise Refusal("forbidden", self._engine.device.blocked)
            yield talk

    async def _ask(self, make: Callable[[int], m.Message], answer: type[M]) -> M:
        """Ask the hub on the line that stands, or on one of its own.  Raises ``Refusal``, ``ConnectionError``."""
        if self._running is None or not self._wanted():
            async with self._session_errand() as talk:
                return await talk.ask(make(1), answer)
        # A second line of this device would replace the one that is kept up.
        async with asyncio.timeout(ANSWER_WITHIN_S):
            await self._until(lambda: self._in_session)
        number, effects = self._engine.request(make)
        future = self._answers[number] = asyncio.get_running_loop().create_future()
        self._carry(effects)
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                message = await future
        finally:
            self._answers.pop(number, None)
        if isinstance(message, m.Refused):
            raise as_refusal(message)
        assert isinstance(message, answer), message
        return message

    def _carry(self, effects: list[Effect]) -> None:
        """Carry out what the engine wants, in order."""
        for effect in effects:
            match effect:
                case Send() | Hangup():
                    self._connection.carry_out(effect)
                case Changed(collection=name, changes=changes):
                    if name in self._handles:
                        self._handles[name].tell(changes)
                case Answered(number=number, message=message):
                    future = self._answers.get(number)
                    if future and not future.done():
                        future.set_result(message)
                    elif self._pairing and number == self._pairing_request and isinstance(message, m.Refused):
                        self._pairing.lost(as_refusal(message))  # the other side talks to another device
                case Wiped():
                    _call(self._on_wiped)
                case SignalCame(device_id=device_id, body=body):
                    _call(self._on_signal, device_id, body)
                case PairingCame(channel=channel, body=body):
                    if self._pairing and self._pairing.channel == channel:
                        self._pairing.came(body)
                case AccountChanged(notice=notice):
                    _call(self._on_account, notice)
                case Moved():
                    self._has_moved()
        self._connection.schedule()

    def _has_moved(self) -> None:
        self._moved.set()
        if not self._engine.in_session:
            if self._pairing:
                self._pairing.lost(ConnectionError("the connection was lost"))
            # Their answers went with the line.
            for future in self._answers.values():
                if not future.done():
                    future.set_exception(ConnectionError("the connection was lost"))
        if self._on_status and not self._telling:
            self._telling = True
            asyncio.get_running_loop().call_soon(self._tell_status)

    def _tell_status(self) -> None:
        self._telling = False
        if self._running is None:
            return  # stopped meanwhile; the file is closed
        status = self.status
        if status != self._status_told:
            self._status_told = status
            _call(self._on_status, status)


class _GivingLine:
    """The line that is kept up, for the device that has the key."""

    def __init__(self, client: HubClient, channel: bytes) -> None:
        self._client = client
        self._channel = channel

    async def hand(self, body: bytes) -> None:
        self._client._carry(self._client._engine.hand_pairing(self._channel, body))

    async def vouch(self, device_id: DeviceId, device_pk: bytes) -> None:
        await self._client._ask(lambda number: m.Vouch(number, device_id, device_pk), m.Done)

    async def take(self, grant: Grant, account_id: AccountId) -> None:
        raise AssertionError("this device has the key")


class _TakingLine:
    """A short connection, for the device that wants the key."""

    def __init__(self, client: HubClient, talk: Errand, channel: bytes) -> None:
        self._client = client
        self._talk = talk
        self._channel = channel
        self._number = 1

    async def hand(self, body: bytes) -> None:
        self._number += 1
        await self._talk.say(m.Pairing(self._number, self._channel, body))

    async def vouch(self, device_id: DeviceId, device_pk: bytes) -> None:
        raise AssertionError("this device has no key")

    async def take(self, grant: Grant, account_id: AccountId) -> None:
        await self._client._take_grant(grant, account_id)


class CollectionHandle:
    """One collection of the app: its records as they are here, now."""

    def __init__(self, client: HubClient, local: LocalCollection) -> None:
        """Use ``HubClient.collection``."""
        self._client = client
        self._local = local
        self._on_change: list[Callable[[list[RecordChanged]], None]] = []

    def put(self, key: str, value: Any) -> ChangeId:
        """Set a record; durable here on return."""
        return self._edit(lambda local, wall: local.put(key, value, wall))

    def put_many(self, values: Mapping[str, Any]) -> list[ChangeId]:
        """Set many records in one transaction."""
        return self._edit(lambda local, wall: [local.put(key, value, wall) for key, value in values.items()])

    def delete(self, key: str) -> ChangeId:
        """Remove a record; deleting what is not there changes nothing."""
        return self._edit(lambda local, wall: local.delete(key, wall))

    def append_delta(self, key: str, value: Any) -> ChangeId:
        """Add to a record, as a CRDT update is added; conflicts with nothing."""
        return self._edit(lambda local, wall: local.append_delta(key, value, wall))

    def snapshot(self, key: str, value: Any) -> ChangeId:
        """Replace a record's deltas by one value that contains them."""
        return self._edit(lambda local, wall: local.snapshot(key, value, wall))

    def get(self, key: str, default: Any = None) -> Any:
        """The record's value, or ``default``."""
        value = self._local.get(key)
        return default if value is MISSING else value

    def deltas(self, key: str) -> list[Any]:
        """What was added to the record since its last put."""
        return self._local.deltas(key)

    def keys(self) -> list[str]:
        """The keys of all records."""
        return self._local.keys()

    def items(self) -> list[tuple[str, Any]]:
        """All records."""
        return self._local.items()

    def on_change(self, callback: Callable[[list[RecordChanged]], None]) -> None:
        """Call back after each transaction that changed records, by whomever."""
        self._on_change.append(callback)

    def conflicts(self) -> list[Conflict]:
        """The conflicts that wait for a person: both values and what they came from."""
        return self._local.conflicts()

    def resolve(self, key: str, value: Any) -> ChangeId:
        """Settle a record's conflict with this value; MISSING deletes it."""
        return self._edit(lambda local, wall: local.resolve(key, value, wall))

    async def history(self, key: str) -> list[Version]:
        """The record's changes that the hub still keeps, newest first."""
        return await self._versions(key)

    async def at(self, key: str, when: datetime) -> Any:
        """The record's value at an earlier time, MISSING when it was not there.

        Of a record of deltas, the last put.  Raises ``LookupError`` when the hub does
        not keep the record that far back.
        """
        for version in (versions := await self._versions(key)):
            if version.kind is not Kind.DELTA and version.appended_at <= when:
                return version.value
        if versions and not versions[-1].is_first:
            raise LookupError("the hub does not keep this record that far back")
        return MISSING

    async def _versions(self, key: str) -> list[Version]:
        device = self._client._engine.device
        assert device.keys is not None and self._local.row.collection_id is not None
        keys, collection_id = device.keys, self._local.row.collection_id
        record_id = keys.record_id(collection_id, key)
        versions: list[Version] = []
        more = True
        while more:
            before = versions[-1].seq if versions else 0
            page = await self._client._ask(
                partial(_read_history, keys.space_id, collection_id, record_id, before), m.History
            )
            versions += [_opened(keys, collection_id, change) for change in page.changes]
            more = page.more and bool(page.changes)
        return versions

    def tell(self, changes: list[RecordChanged]) -> None:
        """Called by the client: records look different now."""
        _call(self._on_change, changes)

    def _edit(self, work: Callable[[LocalCollection, float], T]) -> T:
        moment = now()
        engine = self._client._engine
        result, effects = engine.edit(self._local, lambda: work(self._local, moment.wall), moment)
        self._client._carry(effects)
        return result


# --- small things ----------------------------------------------------------------------------


def _identity(storage: Storage, app_id: str) -> Identity:
    """Who this device is to the hub; made and kept when it is nobody yet."""
    device_id, seed = storage.setting("device_id"), storage.setting("device_seed")
    if device_id is None or seed is None:
        device_id, seed = secrets.token_bytes(16), secrets.token_bytes(32)
        with storage.transaction():
            storage.set_setting("device_id", device_id)
            storage.set_setting("device_seed", seed)
    return Identity(device_id, SigningKey(seed), app_id, (storage.setting("hub_url") or b"").decode())


def _left(storage: Storage) -> list[bytes]:
    """The hubs that the account has left, as an app may still have them in its settings."""
    return (storage.setting("left") or b"").split()


def _keys(storage: Storage) -> SpaceKeys | None:
    app_key = storage.setting("app_key")
    return SpaceKeys.derive(app_key) if app_key else None


def _opened(keys: SpaceKeys, collection_id: bytes, change: m.ChangePart) -> Version:
    opened = open_sealed(keys, change.sealed, collection_id=collection_id)
    _, body = split_record(keys, opened)
    kind = opened.header.kind
    value = MISSING if kind is Kind.DELETE else decode_body(body).value
    appended_at = datetime.fromtimestamp(change.appended_at_ms / 1000, UTC)
    header = opened.header
    return Version(change.seq, appended_at, kind, value, header.device_id, header.base == ZERO_ID)


def _read_history(space_id: bytes, collection_id: bytes, record_id: bytes, before: Seq, number: int) -> m.ReadHistory:
    return m.ReadHistory(number, space_id, collection_id, record_id, before)


def _when(deleted: m.Deleted) -> datetime | None:
    return datetime.fromtimestamp(deleted.deleted_at, UTC) if deleted.deleted_at else None


async def _hear_pairing(talk: Errand, handle: PairingHandle) -> None:
    try:
        while True:
            message = await talk.hear(m.Pairing)
            if message.channel == handle.channel:
                handle.came(message.body)
    except (Refusal, ConnectionError, ValueError) as exc:
        handle.lost(exc)


async def _show_life(talk: Errand) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            await asyncio.sleep(SIGN_OF_LIFE_EVERY_S)
            await talk.say(m.Ping())


def _call(callbacks: list[Callable[..., None]], *arguments: Any) -> None:
    """Call the app back; its mistakes are its own and reach the loop's exception handler, not the engine."""
    for callback in callbacks:
        try:
            callback(*arguments)
        except Exception as exc:
            asyncio.get_running_loop().call_exception_handler({"message": "a callback failed", "exception": exc})


def _tell_loop(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception():
        message = {"message": "the client's connection died", "exception": task.exception(), "task": task}
        task.get_loop().call_exception_handler(message)
