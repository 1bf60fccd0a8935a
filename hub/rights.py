"""Rights: what a device may see, change and end of its account.

What a device may do depends on three things: its *scope* (one app, or the
account), its *probation* (a device that only a mailbox vouches for destroys
nothing), and, for ending the account, a *fresh code*.  Each right is judged by the
device's row as it is now, not by what was true when its session began.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection
from dataclasses import dataclass

from hub.audit import Audit
from hub.bus import AccountChanged, Bus, DevicesRevoked
from hub.errors import Closing, Refusal
from hub.limiter import CodeLimiter
from hub.signing import LABEL, is_valid_public_key
from hub.store import Account, Audited, Device, Space, SpaceFacts, Store
from hub.terms import ID_BYTES, AccountId, DeviceId, Limits, Policy, SpaceId
from hub.wire.messages import (
    ApproveDevice,
    AuditList,
    AuditPart,
    CancelDeletion,
    CreateSpace,
    DeleteAccount,
    Deleted,
    DeleteSpace,
    DeviceInfo,
    Done,
    GrowthPart,
    ListAudit,
    RevokeDevices,
    SpaceStats,
    Vouch,
)

DAY_S = 86_400
# A deletion is carried out when it was promised, by whichever replica looks first; a cancellation must be
# committed before that one looks.
CANCEL_BEFORE_S = 60.0


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
    operator_until: float = 0.0
    entered: frozenset[SpaceId] = frozenset()
    ip: str = ""
    origin: str = ""


class Rights:
    """The service.  ``clock`` gives Unix seconds."""

    def __init__(
        self,
        store: Store,
        bus: Bus,
        audit: Audit,
        limiter: CodeLimiter,
        *,
        policy: Policy,
        limits: Limits,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._bus = bus
        self._audit = audit
        self._limiter = limiter
        self._policy = policy
        self._limits = limits
        self._clock = clock

    # --- who asks ----------------------------------------------------------------------------

    async def authenticate(self, device_id: DeviceId) -> Device | None:
        """The device with this id, unless it is revoked; what it says must still be proved by its key."""
        device = await self._store.device(device_id)
        return device if device and device.revoked_at is None else None

    async def device_of(self, caller: Caller) -> Device:
        """The caller's device as it is now.  A revoked one, whose socket still lives, gets nothing done."""
        device = await self.authenticate(caller.device_id)
        if device is None:
            raise Closing("revoked")
        assert device.account_id == caller.account_id, "a session speaks for its own device"
        return device

    async def trusted(self, caller: Caller, *, scope: str = "app") -> Device:
        """The caller's device, off probation and with at least this scope.

        Raises ``Refusal``: ``forbidden``, ``probation``.
        """
        me = await self.device_of(caller)
        if scope == "account" and me.scope != "account":
            raise Refusal("forbidden")
        _refuse_on_probation(me, self._clock())
        return me

    # --- spaces ------------------------------------------------------------------------------

    async def create_space(self, msg: CreateSpace, caller: Caller, proof_ok: bool) -> Space:
        """The space, new or as it was.  ``proof_ok``: the session checked the signature under ``space_pk``.

        Raises ``Refusal``: ``forbidden`` for another app's space, ``bad_space_proof``,
        ``too_many``, ``slow_down`` for too many new ones in a day.
        """
        if caller.scope != "account" and msg.app_id != caller.app_id:
            raise Refusal("forbidden")
        # An id that names its key cannot be taken by somebody else first.
        names_key = hmac.compare_digest(space_id_of(msg.space_pk), msg.space_id)
        if not (proof_ok and names_key and is_valid_public_key(msg.space_pk)):
            raise Refusal("bad_space_proof")
        await self.device_of(caller)
        is_new = await self._space(caller.account_id, msg.space_id) is None
        if is_new and (wait := await self._store.spend([self._limiter.space(caller.account_id)], self._clock())):
            raise Refusal("slow_down", "too many new spaces; wait and try again", retry_after_s=wait)
        wanted = Space(caller.account_id, msg.space_id, msg.app_id, key_epoch=0, space_pk=msg.space_pk)
        space = await self._store.create_space(wanted, self._limits.spaces_per_account_max, self._clock())
        if is_new:
            await self._audit.note(caller.account_id, "space_created", by=caller.device_id, subject_id=msg.space_id)
        if caller.scope != "account" and space.app_id != caller.app_id:
            raise Refusal("forbidden")
        return space

    async def spaces(self, account_id: AccountId) -> list[Space]:
        """All spaces of an account, oldest first."""
        return await self._store.spaces(account_id)

    async def list_spaces(self, caller: Caller) -> list[SpaceStats]:
        """The spaces with what they hold, oldest first; to an app only its own."""
        me = await self.device_of(caller)
        facts = await self._store.space_facts(me.account_id)
        return [_stats(each) for each in facts if me.scope == "account" or each.space.app_id == me.app_id]

    async def trust_for_key(self, space_ids: Collection[SpaceId], caller: Caller) -> None:
        """End the probation of the caller's device, which has just proved the keys of these spaces.

        For account scope only, and only where a trusted device of the account has
        appended to one of them: a thief of the mailbox could make a space and prove its
        key, but no such device would be in it.
        """
        me = await self.device_of(caller)
        now = self._clock()
        if me.scope != "account" or not _on_probation(me, now) or not await self._are_used(me, space_ids, now):
            return
        if await self._store.approve(me.account_id, me.device_id):
            await self._audit.tell(me.account_id, "device_approved", by=me.device_id, device_id=me.device_id, at=now)

    async def _are_used(self, me: Device, space_ids: Collection[SpaceId], now: float) -> bool:
        """Whether a trusted device of the account has appended to one of these spaces."""
        trusted = [d for d in await self._store.devices(me.account_id) if not _on_probation(d, now)]
        for space_id in space_ids:
            for device in trusted:
                states = await self._store.states(me.account_id, space_id, device.device_id, None)
                if any(state.counter for state in states):
                    return True
        return False

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
        me = await self.device_of(caller)
        now = self._clock()
        if set(msg.device_ids) != {me.device_id}:
            _refuse_on_probation(me, now)
            for device_id in msg.device_ids:
                other = await self._store.device(device_id)
                if other is None or other.account_id != me.account_id:
                    raise Refusal("not_found")
                _refuse_beyond(me, other)
        revoked = await self._store.revoke(caller.account_id, msg.device_ids, now)
        for device_id in revoked:
            await self._audit.note(caller.account_id, "device_revoked", by=me.device_id, subject_id=device_id)
        # From here on nothing is awaited: a device that revokes itself hears the answer before it is closed.
        # All that were asked for: the answer to an earlier request may have been lost before its notice went out.
        self._bus.publish(caller.account_id, DevicesRevoked(tuple(msg.device_ids)))
        for device_id in revoked:
            self._bus.publish(caller.account_id, AccountChanged("device_revoked", device_id, at=now))
        return Done(msg.request)

    async def approve_device(self, msg: ApproveDevice, caller: Caller) -> Done:
        """End a device's probation.  An app approves its own app's devices, and none with more rights than itself.

        Raises ``Refusal``: ``probation``, ``not_found``, ``forbidden``.
        """
        me = await self.device_of(caller)
        now = self._clock()
        _refuse_on_probation(me, now)
        other = await self._store.device(msg.device_id)
        if other is None or other.account_id != me.account_id or other.revoked_at is not None:
            raise Refusal("not_found")
        _refuse_beyond(me, other)
        if not await self._store.approve(me.account_id, msg.device_id):
            raise Refusal("not_found")
        await self._audit.tell(me.account_id, "device_approved", by=me.device_id, device_id=msg.device_id, at=now)
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
            me = await self.device_of(caller)
            _refuse_on_probation(me, now)
            charge = self._limiter.pairing(me.account_id)
        if wait := await self._store.spend([charge], now):
            raise Refusal("slow_down", "too many pairings; wait and try again", retry_after_s=wait)

    async def vouch(self, msg: Vouch, caller: Caller) -> Done:
        """Enrol a device on the caller's word, durable on return: an app device of the caller's app, trusted at once.

        Asked again for the same key it changes nothing, but ends the device's probation.
        Raises ``Refusal``: ``bad_device_key``, ``probation``, ``device_exists``, ``too_many``.
        """
        me = await self.device_of(caller)
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
        await self._audit.tell(me.account_id, "device_enrolled", by=me.device_id, device_id=msg.device_id, at=now)
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
            await self._audit.tell(me.account_id, "device_approved", by=me.device_id, device_id=other.device_id, at=now)
        return Done(msg.request)

    # --- the audit list ----------------------------------------------------------------------

    async def list_audit(self, msg: ListAudit, caller: Caller) -> AuditList:
        """What happened on the account, newest first.  Raises ``Refusal("forbidden")``."""
        me = await self.device_of(caller)
        if me.scope != "account":
            raise Refusal("forbidden")
        entries = await self._store.audit(me.account_id, before=msg.before, limit=msg.limit + 1)
        return AuditList(msg.request, [_part(entry) for entry in entries[: msg.limit]], len(entries) > msg.limit)

    # --- deletions ---------------------------------------------------------------------------

    async def delete_space(self, msg: DeleteSpace, caller: Caller) -> Deleted:
        """Remove a space: at once for a session that entered it or, with account scope, has given a fresh code.

        With account scope alone, and for whoever asks for ``later``, after the delay;
        asked again, a delayed deletion keeps its time.  Raises ``Refusal``:
        ``not_found``, ``no_space_proof``, ``probation``.
        """
        me = await self.device_of(caller)
        now = self._clock()
        space = await self._space(me.account_id, msg.space_id)
        if space is None or (me.scope != "account" and space.app_id != me.app_id):
            raise Refusal("not_found")
        entered = msg.space_id in caller.entered
        if not entered and me.scope != "account":
            raise Refusal("no_space_proof")
        _refuse_on_probation(me, now)
        if not msg.later and (entered or now < caller.fresh_code_until):
            await self._store.delete_space(me.account_id, msg.space_id)
            await self._audit.tell(me.account_id, "space_deleted", by=me.device_id, space_id=msg.space_id, at=now)
            return Deleted(msg.request)
        at = space.deleted_at
        if at is None:  # else nothing is written: it could undo what another replica was told meanwhile
            at = now + self._policy.deletion_delay_s
            if not await self._store.schedule_space_deletion(me.account_id, msg.space_id, at):
                raise Refusal("not_found")
        await self._audit.tell(me.account_id, "space_deletion_set", by=me.device_id, space_id=msg.space_id, at=at)
        return Deleted(msg.request, at)

    async def delete_account(self, msg: DeleteAccount, caller: Caller) -> Deleted:
        """Remove the account after the delay; asked again, it keeps its time.

        Raises ``Refusal``: ``forbidden``, ``probation``, ``fresh_code_needed``.
        """
        me = await self.device_of(caller)
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
        await self._audit.tell(me.account_id, "account_deletion_set", by=me.device_id, at=at)
        return Deleted(msg.request, at)

    async def cancel_deletion(self, msg: CancelDeletion, caller: Caller) -> Done:
        """Keep the space, or the account: any device may say so, until a minute before it happens.

        Done also when no deletion is under way.  Raises ``Refusal("not_found")``.
        """
        me = await self.device_of(caller)
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
        await self._audit.tell(me.account_id, what, by=me.device_id, space_id=msg.space_id or b"")
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


def space_id_of(space_pk: bytes) -> SpaceId:
    """The id that a space's first public key gives it; docs/protocol.md "Spaces"."""
    return hashlib.sha256(LABEL + b"space-id\0" + space_pk).digest()[:ID_BYTES]


def _refuse_beyond(me: Device, other: Device) -> None:
    """An app decides about devices of the same app, and about none that may do more than itself."""
    if me.scope != "account" and (other.scope, other.app_id) != (me.scope, me.app_id):
        raise Refusal("forbidden")


def _on_probation(device: Device, now: float) -> bool:
    return device.probation_until is not None and now < device.probation_until


def _refuse_on_probation(device: Device, now: float) -> None:
    if _on_probation(device, now):
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


def _stats(facts: SpaceFacts) -> SpaceStats:
    space = facts.space
    return SpaceStats(
        space_id=space.space_id,
        app_id=space.app_id,
        key_epoch=space.key_epoch,
        used_bytes=space.used_bytes,
        created_at=facts.created_at,
        collections=facts.collections,
        changes=facts.changes,
        last_change_at=facts.last_change_at,
        deleted_at=space.deleted_at or 0.0,
        growth=[GrowthPart(day, used_bytes) for day, used_bytes in facts.growth],
    )


def _part(entry: Audited) -> AuditPart:
    return AuditPart(
        number=entry.number,
        at=entry.at,
        what=entry.what,
        actor=entry.actor,
        device_id=entry.device_id,
        subject_id=entry.subject_id,
        count=entry.count,
    )
