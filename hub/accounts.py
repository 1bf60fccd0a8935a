"""Accounts: signing in by a mailed code, the devices and spaces of a person, and their end.

The hub knows a person by an address tag, never by an address.  To a stranger every
address looks the same: known, unknown and unwelcome ones get the same answer after
the same work, and what is mailed is mailed after the answer.  docs/protocol.md
"Signing in".

What a device may do depends on three things: its *scope* (one app, or the
account), its *probation* (a device that only a mailbox vouches for destroys
nothing), and, for ending the account, a *fresh code*.  Each right is judged by the
device's row as it is now, not by what was true when its session began.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import hmac
import secrets as random_source
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from hub import log
from hub.address import normalise, normalise_domain, slow_hash, tag_of, without_tag_and_dots, wrap
from hub.bus import AccountChanged, Bus, DevicesRevoked
from hub.errors import Closing, Refusal
from hub.limiter import CodeLimiter, CodeLimits, Waiting, prefixes_of
from hub.mail import CodeMail, Mailer, MailFailed
from hub.otp import attempt_secret, code_of, matches, phrase_of
from hub.secrets import BadSecrets, Secrets, fingerprint
from hub.signing import LABEL, is_valid_public_key
from hub.store import Account, Attempt, Charge, Device, Space, Store
from hub.terms import ID_BYTES, AccountId, DeviceId, Limits, Policy, SpaceId
from hub.wire.messages import (
    ApproveDevice,
    CancelDeletion,
    CodeSent,
    Confirm,
    CreateSpace,
    DeleteAccount,
    Deleted,
    DeleteSpace,
    DeviceInfo,
    Done,
    Enrol,
    RequestCode,
    RevokeDevices,
    Vouch,
)

DAY_S = 86_400
SIGN_UP_MODES = ("closed", "invite", "allowlist", "open")
INVITE_BYTES = 24
ARGON2_THREADS = 2  # 19 MiB and one core each
MAILS_UNDER_WAY_MAX = 100
# The answer leaves first, so that connecting to a mail server cannot be felt in it.
MAIL_AFTER_S = 0.02
# A deletion is carried out when it was promised, by whichever replica looks first; a cancellation must be
# committed before that one looks.
CANCEL_BEFORE_S = 60.0
WARN_EVERY_S = 3_600.0  # that the limit of the whole hub is reached
CLOCKS_APART_S = 3_600.0  # replicas' clocks are never that far apart


@dataclass(frozen=True, slots=True)
class SignUp:
    """Who may make an account.

    "closed" lets the first person in, then nobody; "invite" whoever has an unused
    token; "allowlist" the addresses and "@domain"s in ``allowed``; "open" everybody.
    Raises ``ValueError`` for another mode, ``Refusal("bad_address")`` for a bad entry.
    """

    mode: str = "closed"
    allowed: Sequence[str] = ()
    _allowed: frozenset[str] = field(init=False, repr=False, default=frozenset())

    def __post_init__(self) -> None:
        if self.mode not in SIGN_UP_MODES:
            raise ValueError(f"sign-up is one of {', '.join(SIGN_UP_MODES)}")
        normalised = ("@" + normalise_domain(a[1:]) if a.startswith("@") else normalise(a) for a in self.allowed)
        object.__setattr__(self, "_allowed", frozenset(normalised))

    def welcomes(self, address: str, *, hub_is_empty: bool, invite_is_open: bool) -> bool:
        """Whether a normalised address without an account may make one."""
        match self.mode:
            case "closed":
                return hub_is_empty
            case "invite":
                return invite_is_open
            case "allowlist":
                return address in self._allowed or "@" + address.partition("@")[2] in self._allowed
            case _:
                return True


@dataclass(frozen=True, slots=True)
class Caller:
    """What a session knows of itself when it asks.

    ``probation_until`` is for showing only: the store's row decides, since another
    device may have approved this one meanwhile.
    """

    account_id: AccountId
    device_id: DeviceId
    scope: str
    app_id: str
    probation_until: float | None = None
    fresh_code_until: float = 0.0
    entered: frozenset[SpaceId] = frozenset()
    ip: str = ""
    origin: str = ""


class Accounts:
    """The service.  ``clock`` gives Unix seconds, ``random(n)`` n unpredictable bytes.

    ``mailed`` is told what became of each mail: "sent" or "failed".

    Call ``open`` before the first request and ``close`` after the last.
    """

    def __init__(
        self,
        store: Store,
        bus: Bus,
        mailer: Mailer,
        secrets: Secrets,
        *,
        policy: Policy,
        limits: Limits,
        sign_up: SignUp,
        clock: Callable[[], float],
        random: Callable[[int], bytes],
        code_limits: CodeLimits | None = None,
        mailed: Callable[[str], None] = lambda outcome: None,
        mails_under_way_max: int = MAILS_UNDER_WAY_MAX,
    ) -> None:
        self._store = store
        self._bus = bus
        self._mailer = mailer
        self._secrets = secrets
        self._policy = policy
        self._limits = limits
        self._sign_up = sign_up
        self._clock = clock
        self._random = random
        self._code_limits = code_limits or CodeLimits()
        self._limiter = CodeLimiter(self._code_limits, secrets.internal_key)
        self._waiting = Waiting()
        self._waiting_key = random(32)  # of this process: its memory shall hold no address
        self._warn_after = 0.0
        self._mailed = mailed
        self._mails: set[asyncio.Task[None]] = set()
        self._mails_max = mails_under_way_max
        self._argon2 = ThreadPoolExecutor(ARGON2_THREADS, "argon2")
        self._hashing = asyncio.Semaphore(ARGON2_THREADS)

    async def open(self) -> None:
        """Make sure that these are the database's secrets; wrap its tags in every pepper that was added meanwhile.

        No replica with the older secrets may be running: it would make tags that
        nobody finds again.  Raises ``BadSecrets`` when a hub with other secrets was
        here first, or one with more peppers; then do not go on.
        """
        peppers = self._secrets.peppers
        if (known := await self._store.tag_generation()) > len(peppers):
            raise BadSecrets(
                f"The secrets file is older than the database: it has {len(peppers)} peppers, and the addresses are"
                f" tagged with {known}. Restore the newest one from its backup."
            )
        await self._claim(1)
        for generation, pepper in enumerate(peppers[1:], start=2):
            # Before the tags are wrapped: of two replicas with different new peppers one shall wrap, the other stop.
            await self._claim(generation)
            await self._store.rewrap_addresses(functools.partial(wrap, pepper=pepper), generation)

    async def _claim(self, generation: int) -> None:
        mine = fingerprint(self._secrets, generation)
        if await self._store.claim(f"secrets {generation}", mine) != mine:
            raise BadSecrets(
                "These secrets are not the ones of this database: nobody could sign in on a new device. Copy the"
                " secrets file of the hub that was started first, or restore it from its backup."
            )

    async def close(self, within_s: float = 5.0) -> None:
        """Let the mails under way go out for so long, then drop them."""
        if self._mails:
            _, late = await asyncio.wait(self._mails, timeout=within_s)
            for mail in late:
                mail.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._argon2.shutdown(cancel_futures=True)

    # --- codes -------------------------------------------------------------------------------

    async def request_code(self, msg: RequestCode, *, ip: str, origin: str, caller: Caller | None) -> CodeSent:
        """Begin an attempt, or send the code of one again; the answer never tells what the hub knows.

        Raises ``Refusal``: ``bad_address``, ``bad_device_key``, ``bad_request``, or
        ``slow_down`` with nothing counted.
        """
        address = normalise(msg.address)
        if not is_valid_public_key(msg.device_pk):
            raise Refusal("bad_device_key")
        if not msg.app_id.isprintable():
            raise Refusal("bad_request", "an app id has printable characters only")
        now = self._clock()
        if msg.attempt_id is not None:
            await self._spend(self._limiter.sender(ip, origin), now)
            attempt = await self._resend(msg.attempt_id, msg, self._tag(await self._slow_hash(address)), now)
        else:
            hashed = await self._admit(address, ip, origin, now)
            attempt = await self._begin(msg, address, self._tag(hashed), caller, now)
        secret = self._secret(attempt)
        self._post(address, attempt, secret, now)
        return CodeSent(msg.request, attempt.attempt_id, max(0.0, attempt.expires_at - now), phrase_of(secret))

    async def _admit(self, address: str, ip: str, origin: str, now: float) -> bytes:
        """Take one more code from every budget, or from none; the slow hash of the address."""
        mailbox = without_tag_and_dots(address)
        known = hashlib.blake2b(mailbox.encode() + prefixes_of(ip).wide, key=self._waiting_key).digest()
        # Before the slow hash, so that a flood costs next to nothing; and again when it is this one's turn, since
        # those that came at the same moment have used up their budget by then.
        await self._refuse_known(known, ip, origin, now)
        async with self._hashing:
            await self._refuse_known(known, ip, origin, now)
            hashed = await self._slow_hash(address)
            mailbox_hashed = hashed if mailbox == address else await self._slow_hash(mailbox)
            charges = self._limiter.mailbox(ip, mailbox_hashed)
            try:
                await self._spend([*self._limiter.sender(ip, origin), *charges], now)
            except Refusal:
                self._waiting.tell(known, now + await self._store.spend(charges, now, count=False))
                raise
        return hashed

    async def _refuse_known(self, known: bytes, ip: str, origin: str, now: float) -> None:
        """Refuse what is over a limit that needs no slow hash to be known; count nothing."""
        if wait := self._waiting.wait(known, now):
            raise Refusal("slow_down", retry_after_s=wait)
        await self._spend(self._limiter.sender(ip, origin), now, count=False)

    async def _spend(self, charges: Sequence[Charge], now: float, *, count: bool = True) -> None:
        if wait := await self._store.spend(charges, now, count=count):
            await self._warn_when_full(now)
            raise Refusal("slow_down", retry_after_s=wait)

    async def _warn_when_full(self, now: float) -> None:
        """Tell the operator, once an hour, that the limit of the whole hub keeps people out."""
        if now < self._warn_after:
            return
        wait = await self._store.spend([self._limiter.hub()], now, count=False)
        if wait and now >= self._warn_after:  # nobody else has told meanwhile
            self._warn_after = now + WARN_EVERY_S
            log.get().warning("the hub mails no more codes for now: codes_per_hour is reached", retry_after_s=wait)

    async def _slow_hash(self, address: str) -> bytes:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._argon2, slow_hash, address, self._secrets.hub_salt)

    def _tag(self, hashed: bytes) -> bytes:
        return tag_of(hashed, self._secrets.peppers)

    async def _begin(self, msg: RequestCode, address: str, tag: bytes, caller: Caller | None, now: float) -> Attempt:
        # Every address takes this same way through the store; only the setting decides what is asked.
        account = await self._store.find_account(tag)
        mode = self._sign_up.mode
        invite = hashlib.sha256(msg.invite.encode()).digest()
        invite_is_open = mode == "invite" and await self._store.invite_is_open(invite, now)
        hub_is_empty = mode == "closed" and await self._store.count_accounts() == 0
        if msg.purpose == "confirm":
            welcome = caller is not None and account is not None and account.account_id == caller.account_id
        else:
            welcome = account is not None or self._sign_up.welcomes(
                address, hub_is_empty=hub_is_empty, invite_is_open=invite_is_open
            )
        attempt = Attempt(
            attempt_id=self._random(ID_BYTES),
            address_tag=tag,
            device_pk=msg.device_pk,
            purpose=msg.purpose,
            app_id=msg.app_id,
            created_at=now,
            expires_at=now + self._policy.code_lifetime_s,
            # Also beside an account: should it be gone by then, the store asks for the invite.
            invite=invite if mode == "invite" else None,
            welcome=welcome,
            sent_at=now,
        )
        await self._store.add_attempt(attempt)
        return attempt

    async def _resend(self, attempt_id: bytes, msg: RequestCode, tag: bytes, now: float) -> Attempt:
        policy = self._policy
        attempt = await self._store.note_resend(
            attempt_id, msg.device_pk, now, not_before_s=policy.code_resend_after_s, sends_max=policy.code_sends_max
        )
        # Without the second half a code could be begun for one address and fetched at another.
        if attempt is None or not hmac.compare_digest(attempt.address_tag, tag):
            raise Refusal("slow_down", retry_after_s=policy.code_resend_after_s)
        return attempt

    def _secret(self, attempt: Attempt) -> bytes:
        return attempt_secret(self._secrets.otp_key, attempt.attempt_id, attempt.address_tag, attempt.device_pk)

    # --- mail --------------------------------------------------------------------------------

    def _post(self, address: str, attempt: Attempt, secret: bytes, now: float) -> None:
        """Have the code mailed, soon, if the address is welcome.  The mail exists in memory only."""
        mail = CodeMail(
            address=address,
            code=code_of(secret),
            phrase=phrase_of(secret),
            app_id=attempt.app_id,
            minutes=max(1, int((attempt.expires_at - now) // 60)),
            purpose=attempt.purpose,
        )
        if not attempt.welcome:
            return
        if len(self._mails) >= self._mails_max:
            self._not_mailed("too-many-under-way", retry=True)
            return
        task = asyncio.create_task(self._send(mail))
        self._mails.add(task)
        task.add_done_callback(self._mails.discard)

    async def _send(self, mail: CodeMail) -> None:
        await asyncio.sleep(MAIL_AFTER_S)
        try:
            await self._mailer.send(mail)
        except MailFailed as failure:
            self._not_mailed(str(failure), retry=failure.retry)
        except Exception as exc:  # a fault of ours; nobody awaits this task, so it must be told here
            self._not_mailed("fault", retry=False, exc_info=exc)
        else:
            self._mailed("sent")

    def _not_mailed(self, reason: str, *, retry: bool, exc_info: Exception | None = None) -> None:
        log.get().warning("a code was not mailed", reason=reason, retry=retry, exc_info=exc_info)
        self._mailed("failed")

    # --- enrolling and confirming ------------------------------------------------------------

    async def enrol(self, msg: Enrol, *, device_id: DeviceId, signature_ok: bool, ip: str) -> Device:
        """The device this code enrols, durable on return; the account's other sessions are told.

        Raises ``Refusal``: ``bad_device_key``; ``enrol_failed`` for whatever is wrong
        with code, attempt, proof or sign-up, one try being spent; ``device_exists``;
        ``too_many``; ``slow_down`` for too many new accounts from ``ip``.
        """
        if not is_valid_public_key(msg.device_pk):
            raise Refusal("bad_device_key")
        now = self._clock()
        attempt = await self._try(msg.attempt_id, msg.code, msg.device_pk, "enrol", now, proved=signature_ok)
        account = await self._store.find_account(attempt.address_tag)
        new_account = None if account else await self._new_account(ip, now)
        known = account or new_account
        assert known is not None
        device = Device(
            device_id=device_id,
            account_id=known.account_id,
            device_pk=msg.device_pk,
            scope=msg.scope,
            app_id=attempt.app_id,
            enrolled_via="mail" if account else "first",
            enrolled_at=now,
            last_seen_day=int(now // DAY_S),
            probation_until=await self._probation(account, now),
        )
        await self._store.enrol(
            attempt.attempt_id,
            device,
            new_account,
            attempt.address_tag,
            per_account_max=self._limits.devices_per_account_max,
            per_app_max=self._limits.devices_per_app_max,
            first_only=self._sign_up.mode == "closed",
            now=now,
        )
        self._tell(device.account_id, "device_enrolled", device_id=device_id, at=now)
        return device

    async def confirm(self, msg: Confirm, caller: Caller) -> float:
        """Until when destructive account operations are open to this session, in Unix seconds.

        Raises ``Refusal("enrol_failed")`` for whatever is wrong, one try being spent.
        """
        device = await self._device_of(caller)
        now = self._clock()
        attempt = await self._try(msg.attempt_id, msg.code, device.device_pk, "confirm", now, proved=True)
        account = await self._store.find_account(attempt.address_tag)
        mine = account is not None and account.account_id == caller.account_id
        if not mine or not await self._store.consume_attempt(attempt.attempt_id, now):
            raise Refusal("enrol_failed")
        return now + self._policy.fresh_code_s

    async def _try(
        self, attempt_id: bytes, code: str, device_pk: bytes, purpose: str, now: float, *, proved: bool
    ) -> Attempt:
        # Charged before the code is looked at, so that parallel guesses cannot share one try.
        attempt = await self._store.charge_attempt(attempt_id, now, self._policy.code_tries_max)
        if attempt is None:
            raise Refusal("enrol_failed")
        right = (
            matches(self._secret(attempt), code),
            hmac.compare_digest(attempt.device_pk, device_pk),
            attempt.purpose == purpose,
            attempt.welcome,
            proved,
        )
        if not all(right):
            raise Refusal("enrol_failed")
        return attempt

    async def _new_account(self, ip: str, now: float) -> Account:
        if wait := await self._store.spend([self._limiter.account(ip)], now):
            raise Refusal("slow_down", "too many new accounts from there; wait and try again", retry_after_s=wait)
        return Account(self._random(ID_BYTES), quota_bytes=None, used_bytes=0, created_day=int(now // DAY_S))

    async def _probation(self, account: Account | None, now: float) -> float | None:
        """When a device that a code enrols now is trusted; None = at once, nobody being there to approve it."""
        others = await self._store.devices(account.account_id) if account else []
        seen_since = (now - self._policy.probation_lookback_s) // DAY_S
        return now + self._policy.probation_s if any(d.last_seen_day >= seen_since for d in others) else None

    # --- sessions ----------------------------------------------------------------------------

    async def authenticate(self, device_id: DeviceId) -> Device | None:
        """The device with this id, unless it is revoked; what it says must still be proved by its key."""
        device = await self._store.device(device_id)
        return device if device and device.revoked_at is None else None

    async def ready_facts(self, device: Device) -> tuple[Account, list[Space]]:
        """What a device is told when its session begins.  Writes nothing: the device has proved nothing yet.

        Raises ``Closing("account_deleted")``.
        """
        account = await self._store.account(device.account_id)
        if account is None:
            raise Closing("account_deleted")
        return account, await self._store.spaces(device.account_id)

    # --- spaces ------------------------------------------------------------------------------

    async def create_space(self, msg: CreateSpace, caller: Caller, proof_ok: bool) -> Space:
        """The space, new or as it was.  ``proof_ok``: the session checked the signature under ``space_pk``.

        Raises ``Refusal``: ``forbidden`` for another app's space, ``bad_space_proof``,
        ``too_many``.
        """
        if caller.scope != "account" and msg.app_id != caller.app_id:
            raise Refusal("forbidden")
        # An id that names its key cannot be taken by somebody else first.
        names_key = hmac.compare_digest(space_id_of(msg.space_pk), msg.space_id)
        if not (proof_ok and names_key and is_valid_public_key(msg.space_pk)):
            raise Refusal("bad_space_proof")
        await self._device_of(caller)
        wanted = Space(caller.account_id, msg.space_id, msg.app_id, key_epoch=0, space_pk=msg.space_pk)
        space = await self._store.create_space(wanted, self._limits.spaces_per_account_max, self._clock())
        if caller.scope != "account" and space.app_id != caller.app_id:
            raise Refusal("forbidden")
        return space

    async def spaces(self, account_id: AccountId) -> list[Space]:
        """All spaces of an account, oldest first."""
        return await self._store.spaces(account_id)

    # --- devices -----------------------------------------------------------------------------

    async def list_devices(self, caller: Caller) -> list[DeviceInfo]:
        """The devices that are not revoked, oldest first; to an app only its own."""
        devices = await self._store.devices(caller.account_id)
        return [_info(d) for d in devices if caller.scope == "account" or d.app_id == caller.app_id]

    async def revoke_devices(self, msg: RevokeDevices, caller: Caller) -> Done:
        """Revoke all of these or none, durable on return; their sessions are closed soon after, the caller's own too.

        Itself is always allowed; an app revokes its own app's devices, and none with more rights than itself.
        Raises ``Refusal``: ``probation``, ``not_found``, ``forbidden``.
        """
        me = await self._device_of(caller)
        now = self._clock()
        if set(msg.device_ids) != {me.device_id}:
            _refuse_on_probation(me, now)
            for device_id in msg.device_ids:
                other = await self._store.device(device_id)
                if other is None or other.account_id != me.account_id:
                    raise Refusal("not_found")
                _refuse_beyond(me, other)
        revoked = await self._store.revoke(caller.account_id, msg.device_ids, now)
        # All that were asked for: the answer to an earlier request may have been lost before its notice went out.
        self._bus.publish(caller.account_id, DevicesRevoked(tuple(msg.device_ids)))
        for device_id in revoked:
            self._tell(caller.account_id, "device_revoked", device_id=device_id, at=now)
        return Done(msg.request)

    async def approve_device(self, msg: ApproveDevice, caller: Caller) -> Done:
        """End a device's probation.  An app approves its own app's devices, and none with more rights than itself.

        Raises ``Refusal``: ``probation``, ``not_found``, ``forbidden``.
        """
        me = await self._device_of(caller)
        now = self._clock()
        _refuse_on_probation(me, now)
        other = await self._store.device(msg.device_id)
        if other is None or other.account_id != me.account_id or other.revoked_at is not None:
            raise Refusal("not_found")
        _refuse_beyond(me, other)
        if not await self._store.approve(me.account_id, msg.device_id):
            raise Refusal("not_found")
        self._tell(me.account_id, "device_approved", device_id=msg.device_id, at=now)
        return Done(msg.request)

    # --- pairing -----------------------------------------------------------------------------

    async def open_pairing(self, caller: Caller | None, ip: str) -> None:
        """Count a device that comes to a pairing: one of the account's, or with ``caller`` None a newcomer.

        Raises ``Refusal``: ``probation``, ``slow_down``.
        """
        now = self._clock()
        if caller is None:
            charge = self._limiter.newcomer(ip)
        else:
            me = await self._device_of(caller)
            _refuse_on_probation(me, now)
            charge = self._limiter.pairing(me.account_id)
        if wait := await self._store.spend([charge], now):
            raise Refusal("slow_down", "too many pairings; wait and try again", retry_after_s=wait)

    async def vouch(self, msg: Vouch, caller: Caller) -> Done:
        """Enrol a device on the caller's word, durable on return: an app device of the caller's app, trusted at once.

        Asked again for the same key it changes nothing, but ends the device's probation.
        Raises ``Refusal``: ``bad_device_key``, ``probation``, ``device_exists``, ``too_many``.
        """
        me = await self._device_of(caller)
        now = self._clock()
        _refuse_on_probation(me, now)
        if not is_valid_public_key(msg.device_pk):
            raise Refusal("bad_device_key")
        if other := await self._store.device(msg.device_id):
            return await self._vouch_again(msg, me, other, now)
        device = Device(
            device_id=msg.device_id,
            account_id=me.account_id,
            device_pk=msg.device_pk,
            scope="app",
            app_id=me.app_id,
            enrolled_via="pairing",
            enrolled_at=now,
            last_seen_day=int(now // DAY_S),
        )
        await self._store.add_device(
            device, per_account_max=self._limits.devices_per_account_max, per_app_max=self._limits.devices_per_app_max
        )
        self._tell(me.account_id, "device_enrolled", device_id=msg.device_id, at=now)
        return Done(msg.request)

    async def _vouch_again(self, msg: Vouch, me: Device, other: Device, now: float) -> Done:
        same = (
            other.account_id == me.account_id
            and hmac.compare_digest(other.device_pk, msg.device_pk)
            and (other.scope, other.app_id, other.revoked_at) == ("app", me.app_id, None)
        )
        if not same:
            raise Refusal("device_exists")
        if other.probation_until is not None and await self._store.approve(me.account_id, other.device_id):
            self._tell(me.account_id, "device_approved", device_id=other.device_id, at=now)
        return Done(msg.request)

    # --- deletions ---------------------------------------------------------------------------

    async def delete_space(self, msg: DeleteSpace, caller: Caller) -> Deleted:
        """Remove a space: at once for a session that entered it, else after the delay, for account scope only.

        Asked again, a delayed deletion keeps its time.  Raises ``Refusal``:
        ``not_found``, ``no_space_proof``, ``probation``.
        """
        me = await self._device_of(caller)
        now = self._clock()
        space = await self._space(me.account_id, msg.space_id)
        if space is None or (me.scope != "account" and space.app_id != me.app_id):
            raise Refusal("not_found")
        entered = msg.space_id in caller.entered
        if not entered and me.scope != "account":
            raise Refusal("no_space_proof")
        _refuse_on_probation(me, now)
        if entered:
            await self._store.delete_space(me.account_id, msg.space_id)
            self._tell(me.account_id, "space_deleted", space_id=msg.space_id, at=now)
            return Deleted(msg.request)
        at = space.deleted_at
        if at is None:  # else nothing is written: it could undo what another replica was told meanwhile
            at = now + self._policy.deletion_delay_s
            if not await self._store.schedule_space_deletion(me.account_id, msg.space_id, at):
                raise Refusal("not_found")
        self._tell(me.account_id, "space_deletion_set", space_id=msg.space_id, at=at)
        return Deleted(msg.request, at)

    async def delete_account(self, msg: DeleteAccount, caller: Caller) -> Deleted:
        """Remove the account after the delay; asked again, it keeps its time.

        Raises ``Refusal``: ``forbidden``, ``probation``, ``fresh_code_needed``.
        """
        me = await self._device_of(caller)
        now = self._clock()
        if me.scope != "account":
            raise Refusal("forbidden")
        _refuse_on_probation(me, now)
        if now >= caller.fresh_code_until:
            raise Refusal("fresh_code_needed")
        account = await self._store.account(me.account_id)
        at = account.deleted_at if account else None
        if at is None:  # as above
            at = now + self._policy.deletion_delay_s
            if not await self._store.schedule_account_deletion(me.account_id, at):
                raise Closing("account_deleted")
        self._tell(me.account_id, "account_deletion_set", at=at)
        return Deleted(msg.request, at)

    async def cancel_deletion(self, msg: CancelDeletion, caller: Caller) -> Done:
        """Keep the space, or the account: any device may say so, until a minute before it happens.

        Done also when no deletion is under way.  Raises ``Refusal("not_found")``.
        """
        me = await self._device_of(caller)
        owner = await self._owner_of_deletion(me.account_id, msg.space_id)
        if owner is None:
            raise Refusal("not_found")
        if owner.deleted_at is None:
            return Done(msg.request)
        if owner.deleted_at - self._clock() < CANCEL_BEFORE_S:
            raise Refusal("not_found", "it is too late: the deletion is being carried out")
        if not await self._keep(me.account_id, msg.space_id):
            raise Refusal("not_found", "it is too late: the deletion was carried out")
        what = "account_deletion_cancelled" if msg.space_id is None else "space_deletion_cancelled"
        self._tell(me.account_id, what, space_id=msg.space_id or b"")
        return Done(msg.request)

    async def _keep(self, account_id: AccountId, space_id: SpaceId | None) -> bool:
        if space_id is None:
            return await self._store.schedule_account_deletion(account_id, None)
        return await self._store.schedule_space_deletion(account_id, space_id, None)

    async def _owner_of_deletion(self, account_id: AccountId, space_id: SpaceId | None) -> Account | Space | None:
        if space_id is None:
            return await self._store.account(account_id)
        return await self._space(account_id, space_id)

    async def _space(self, account_id: AccountId, space_id: SpaceId) -> Space | None:
        return next((s for s in await self._store.spaces(account_id) if s.space_id == space_id), None)

    # --- for the operator --------------------------------------------------------------------

    async def upkeep(self, now: float) -> None:
        """Carry out the deletions that are due; forget old attempts and what was counted long ago.

        Call it every minute or so, on any replica.
        """
        accounts, spaces = await self._store.due_deletions(now)
        for account_id in accounts:
            if await self._store.delete_account(account_id):
                self._tell(account_id, "account_deleted", at=now)
        for account_id, space_id in spaces:
            if await self._store.delete_space(account_id, space_id):
                self._tell(account_id, "space_deleted", space_id=space_id, at=now)
        await self._store.forget_attempts(now - self._policy.attempts_kept_s)
        await self._store.forget_spent(now - self._code_limits.longest_s() - CLOCKS_APART_S)

    async def make_invite(self, lifetime_s: float) -> str:
        """A token that lets one person make an account; only its hash is kept."""
        return await add_invite(self._store, lifetime_s, clock=self._clock, random=self._random)

    # --- small things ------------------------------------------------------------------------

    async def _device_of(self, caller: Caller) -> Device:
        """The caller's device as it is now.  A revoked one, whose socket still lives, gets nothing done."""
        device = await self.authenticate(caller.device_id)
        if device is None:
            raise Closing("revoked")
        assert device.account_id == caller.account_id, "a session speaks for its own device"
        return device

    def _tell(
        self, account_id: AccountId, what: str, *, device_id: bytes = b"", space_id: bytes = b"", at: float = 0.0
    ) -> None:
        self._bus.publish(account_id, AccountChanged(what, device_id, space_id, at))


async def add_invite(
    store: Store,
    lifetime_s: float,
    *,
    clock: Callable[[], float] = time.time,
    random: Callable[[int], bytes] = random_source.token_bytes,
) -> str:
    """As ``Accounts.make_invite``, where only a store is open."""
    token = base64.urlsafe_b64encode(random(INVITE_BYTES)).decode()
    await store.add_invite(hashlib.sha256(token.encode()).digest(), clock() + lifetime_s)
    return token


def space_id_of(space_pk: bytes) -> SpaceId:
    """The id that a space's first public key gives it; docs/protocol.md "Spaces"."""
    return hashlib.sha256(LABEL + b"space-id\0" + space_pk).digest()[:ID_BYTES]


def _refuse_beyond(me: Device, other: Device) -> None:
    """An app decides about devices of the same app, and about none that may do more than itself."""
    if me.scope != "account" and (other.scope, other.app_id) != (me.scope, me.app_id):
        raise Refusal("forbidden")


def _refuse_on_probation(device: Device, now: float) -> None:
    if device.probation_until is not None and now < device.probation_until:
        raise Refusal("probation")


def _info(device: Device) -> DeviceInfo:
    return DeviceInfo(
        device_id=device.device_id,
        device_pk=device.device_pk,
        scope=device.scope,
        app_id=device.app_id,
        enrolled_via=device.enrolled_via,
        enrolled_at=device.enrolled_at,
        last_seen_day=device.last_seen_day,
        probation_until=device.probation_until or 0.0,
    )
