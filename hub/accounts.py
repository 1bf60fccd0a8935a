"""Accounts: signing in by a mailed code, what a session is told, and what the hub does by itself.

The codes themselves are ``hub.codes``; what a device may see, change and end is
``hub.rights``; both are parts of the one ``Accounts``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from hub.audit import Audit
from hub.bus import Bus
from hub.codes import MAILS_UNDER_WAY_MAX, Codes, SignUp
from hub.errors import Closing, Refusal
from hub.export import next_piece
from hub.limiter import CodeLimits
from hub.mail import Mailer
from hub.rights import DAY_S, Caller, Rights
from hub.secrets import Secrets
from hub.signing import is_valid_public_key
from hub.store import Account, Arrival, Device, MovedDevice, Space, Store
from hub.terms import ID_BYTES, AccountId, DeviceId, Limits, Policy
from hub.totp import matching_step, operator_secret
from hub.wire.messages import ChangeAddress, CodeSent, Confirm, Done, Enrol, Export, Exported, OperatorCode, RequestCode

CLOCKS_APART_S = 3_600.0  # replicas' clocks are never that far apart
AUDIT_KEPT_S = 180 * DAY_S
GROWTH_KEPT_DAYS = 400  # a year, and the same month of the year before beside it
MOVED_KEPT_S = 180 * DAY_S  # a device that was away for longer is told nothing of where its account went
OPERATOR_S = 900.0  # how long an operator's code lets a session operate, from its last use
_GROWTH_NOTED = "growth noted"  # under this name the store remembers the last day that was


class Standing(NamedTuple):
    """What a session is told of its device and account when it begins."""

    device: Device
    account: Account
    spaces: list[Space]
    operator: bool


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
        self._secrets = secrets
        self._policy = policy
        self._limits = limits
        self._sign_up = sign_up
        self._clock = clock
        self._random = random
        self._code_limits = code_limits or CodeLimits()
        self.audit = Audit(store, bus, clock=clock)
        self._codes = Codes(
            store,
            mailer,
            secrets,
            policy=policy,
            sign_up=sign_up,
            clock=clock,
            random=random,
            code_limits=self._code_limits,
            mailed=mailed,
            mails_under_way_max=mails_under_way_max,
        )
        self._limiter = self._codes.limiter
        self.rights = Rights(store, bus, self.audit, self._limiter, policy=policy, limits=limits, clock=clock)

    async def open(self) -> None:
        """Make sure that these are the database's secrets, as ``Codes.open``.  Raises ``BadSecrets``."""
        await self._codes.open()

    async def close(self, within_s: float = 5.0) -> None:
        """Let the mails under way go out for so long, then drop them."""
        await self._codes.close(within_s)

    # --- codes -------------------------------------------------------------------------------

    async def request_code(self, msg: RequestCode, *, ip: str, origin: str, caller: Caller | None) -> CodeSent:
        """Have a code mailed, as ``Codes.request``; besides, ``forbidden`` and ``probation`` for a new address."""
        if msg.purpose == "change" and caller is not None:
            await self._may_change_address(caller)
        return await self._codes.request(msg, ip=ip, origin=origin, mine=caller.account_id if caller else None)

    # --- enrolling and confirming ------------------------------------------------------------

    async def enrol(self, msg: Enrol, *, device_id: DeviceId, signature_ok: bool, ip: str) -> Device:
        """The device this code enrols, durable on return; the account's other sessions are told.

        Raises ``Refusal``: ``bad_device_key``; ``enrol_failed`` for whatever is wrong
        with code, attempt, proof or sign-up, one try being spent; ``device_exists``;
        ``too_many``; ``slow_down`` for too many new accounts from ``ip``.  Raises
        ``Closing`` for an account that no device may come into.
        """
        if not is_valid_public_key(msg.device_pk):
            raise Refusal("bad_device_key")
        now = self._clock()
        attempt = await self._codes.check(msg.attempt_id, msg.code, msg.device_pk, "enrol", now, proved=signature_ok)
        account = await self._store.find_account(attempt.address_tag)
        if account and (closing := account.closing()):
            raise Closing(closing)
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
        await self.audit.tell(device.account_id, "device_enrolled", by=device_id, device_id=device_id, at=now)
        return device

    async def confirm(self, msg: Confirm, caller: Caller) -> float:
        """Until when destructive account operations are open to this session, in Unix seconds.

        Raises ``Refusal("enrol_failed")`` for whatever is wrong, one try being spent.
        """
        device = await self.rights.device_of(caller)
        now = self._clock()
        attempt = await self._codes.check(msg.attempt_id, msg.code, device.device_pk, "confirm", now, proved=True)
        account = await self._store.find_account(attempt.address_tag)
        mine = account is not None and account.account_id == caller.account_id
        if not mine or not await self._store.consume_attempt(attempt.attempt_id, now):
            raise Refusal("enrol_failed")
        await self.audit.note(caller.account_id, "code_confirmed", by=caller.device_id)
        return now + self._policy.fresh_code_s

    async def _new_account(self, ip: str, now: float) -> Account:
        if wait := await self._store.spend([self._limiter.account(ip)], now):
            raise Refusal("slow_down", "too many new accounts from there; wait and try again", retry_after_s=wait)
        return Account(self._random(ID_BYTES), quota_bytes=None, used_bytes=0, created_day=int(now // DAY_S))

    async def _probation(self, account: Account | None, now: float) -> float | None:
        """When a device that a code enrols now is trusted; None = at once, nobody being there to approve it."""
        others = await self._store.devices(account.account_id) if account else []
        seen_since = (now - self._policy.probation_lookback_s) // DAY_S
        return now + self._policy.probation_s if any(d.last_seen_day >= seen_since for d in others) else None

    # --- another address ---------------------------------------------------------------------

    async def change_address(self, msg: ChangeAddress, caller: Caller) -> Done:
        """Give the account the address that this code was mailed to, durable on return.

        Where no address is known, any trusted device may; otherwise it takes account
        scope and a fresh code of the old one.  Raises ``Refusal``: ``forbidden``,
        ``probation``, ``fresh_code_needed``; ``enrol_failed`` for whatever is wrong
        with the code, one try being spent, and for an address that is another account's.
        """
        me, known = await self._may_change_address(caller)
        now = self._clock()
        if known and now >= caller.fresh_code_until:
            raise Refusal("fresh_code_needed")
        attempt = await self._codes.check(msg.attempt_id, msg.code, me.device_pk, "change", now, proved=True)
        await self._store.change_address(attempt.attempt_id, me.account_id, now)
        await self.audit.tell(me.account_id, "address_changed", by=me.device_id, at=now)
        return Done(msg.request)

    async def _may_change_address(self, caller: Caller) -> tuple[Device, bool]:
        """The caller's device, if it may, and whether the account has an address."""
        account = await self._store.account(caller.account_id)
        known = account is None or account.address_known
        return await self.rights.trusted(caller, scope="account" if known else "app"), known

    # --- the operator's second proof ---------------------------------------------------------

    async def operator_code(self, msg: OperatorCode, caller: Caller) -> float:
        """Until when this session may operate the hub, in Unix seconds.

        Raises ``Refusal``: ``forbidden`` for an account that is no operator's,
        ``probation``, ``slow_down``, ``wrong_code`` also for one that was used before.
        """
        me = await self.rights.trusted(caller, scope="account")
        operator = next((one for one in await self._store.operators() if one.account_id == me.account_id), None)
        if operator is None:
            raise Refusal("forbidden")
        now = self._clock()
        # Counted before the code is looked at, so that parallel guesses cannot share one try.
        if wait := await self._store.spend([self._limiter.operator(me.account_id)], now):
            raise Refusal("slow_down", "too many codes were typed; wait and try again", retry_after_s=wait)
        secret = operator_secret(self._secrets.otp_key, me.account_id, operator.salt)
        step = matching_step(secret, msg.code, now)
        if step is None or not await self._store.take_step(me.account_id, step):
            raise Refusal("wrong_code")
        await self.audit.note(me.account_id, "operator_entered", by=me.device_id)
        return now + OPERATOR_S

    async def may_operate(self, caller: Caller) -> float:
        """Until when the session may go on operating: each use renews it.

        Raises ``Refusal``: ``forbidden``, ``probation``, ``operator_code_needed``.
        """
        me = await self.rights.trusted(caller, scope="account")
        now = self._clock()
        if not await self._is_operator(me):
            raise Refusal("forbidden")
        if now >= caller.operator_until:
            raise Refusal("operator_code_needed")
        return now + OPERATOR_S

    async def _is_operator(self, device: Device) -> bool:
        return any(one.account_id == device.account_id for one in await self._store.operators())

    # --- taking everything home --------------------------------------------------------------

    async def export(self, msg: Export, caller: Caller) -> Exported:
        """The next piece of a bundle of the account, or of one space.

        Raises ``Refusal``: ``forbidden``, ``probation``, and as ``hub.export``.
        """
        me = await self.rights.trusted(caller, scope="account")
        piece = await next_piece(self._store, msg, me.account_id, me.device_id, clock=self._clock)
        if not msg.cursor:
            await self.audit.note(me.account_id, "exported", by=me.device_id, subject_id=msg.space_id or b"")
        return piece

    # --- sessions ----------------------------------------------------------------------------

    async def look_up(self, device_ids: Sequence[DeviceId]) -> list[Standing | MovedDevice | None]:
        """The devices with these ids, as asked, or where they live now; None for unknown and revoked ones.

        What each says must still be proved by its key: so it writes nothing.
        """
        found = await self._store.arrivals(device_ids)
        # Only there it can be used; and a storm of reconnecting apps asks one question less.
        scopes = {each.device.scope for each in found if isinstance(each, Arrival)}
        operators = {one.account_id for one in await self._store.operators()} if "account" in scopes else set()
        return [_standing(each, operators) if isinstance(each, Arrival) else each for each in found]

    async def enrolled(self, device: Device) -> Standing:
        """As ``look_up``, for a device that has just come to be.  Raises ``Closing`` when it is gone already."""
        (found,) = await self.look_up([device.device_id])
        if isinstance(found, Standing):
            return found
        raise Closing("revoked" if await self._store.account(device.account_id) else "account_deleted")

    # --- by itself ---------------------------------------------------------------------------

    async def upkeep(self, now: float) -> None:
        """Carry out the deletions that are due; keep what was counted; forget what is old.

        Call it every minute or so, on every replica.
        """
        await self.audit.flush()
        accounts, spaces = await self._store.due_deletions(now)
        for account_id in accounts:
            if await self._store.delete_account(account_id):
                await self.audit.tell(account_id, "account_deleted", at=now)
        for account_id, space_id in spaces:
            if await self._store.delete_space(account_id, space_id):
                await self.audit.tell(account_id, "space_deleted", space_id=space_id, at=now)
        await self._store.forget_attempts(now - self._policy.attempts_kept_s)
        await self._store.forget_spent(now - self._code_limits.longest_s() - CLOCKS_APART_S)
        await self._daily(now)

    async def _daily(self, now: float) -> None:
        """Once a day, on whichever replica comes first: how every space ended the day before; what is too old."""
        ended = int(now // DAY_S) - 1
        noted = await self._store.recall(_GROWTH_NOTED)
        if noted is not None and int.from_bytes(noted) >= ended:
            return
        await self._store.note_growth(ended)
        await self._store.forget_growth(ended - GROWTH_KEPT_DAYS)
        await self._store.forget_audit(now - AUDIT_KEPT_S)
        await self._store.forget_moved(now - MOVED_KEPT_S)
        await self._store.remember(_GROWTH_NOTED, ended.to_bytes(4))


def _standing(found: Arrival, operators: Collection[AccountId]) -> Standing:
    device, account, spaces = found
    return Standing(device, account, spaces, device.scope == "account" and account.account_id in operators)
