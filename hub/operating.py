"""What an operator may do: verbs with arguments and results, the same from ``hub admin`` and from the dashboard.

The operator sees accounts as numbers: no address, no name, no content, since the hub
holds none.  Each verb checks its arguments by a table, does one thing, and is durable
on return; what happens to an account is noted in its audit list, where its person
reads it.  Ids are 32 hex digits in arguments and results.  docs/admin.md.

A few verbs are for the host alone: they hand out secrets or move data, and no
session can ask for them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from hub import __version__
from hub.address import normalise, slow_hash, tag_of
from hub.bus import AccountChanged, AccountStopped, Bus, DevicesRevoked
from hub.codes import add_invite
from hub.errors import Refusal
from hub.insight import Finding, findings
from hub.rights import CANCEL_BEFORE_S
from hub.secrets import Secrets
from hub.store import ARRIVING, Account, AccountFacts, Device, Happening, SpaceFacts, Store, Terms
from hub.terms import ID_BYTES, AccountId
from hub.totp import SALT_BYTES, operator_secret, text_of, uri_of

MIB = 1_048_576
DAY_S = 86_400.0
ACCOUNTS_MAX = 200
INVITE_DIGITS = 8  # of an invitation's hash: enough to name one, and no help in guessing its token
LAST_BACKUP = "last backup"  # under this name the store remembers when one was made, as decimal Unix seconds

Arguments = Mapping[str, Any]
Result = dict[str, Any]


# --- arguments -------------------------------------------------------------------------------


class Field(NamedTuple):
    """One argument: how it is read, and whether it must be given."""

    parse: Callable[[object], Any]
    needed: bool = True


def _id(value: object) -> bytes:
    try:
        parsed = bytes.fromhex(value) if isinstance(value, str) and value.isalnum() else b""
    except ValueError:
        parsed = b""
    if len(parsed) != ID_BYTES:
        raise ValueError("must be an id: 32 hex digits")
    return parsed


def _id_or_empty(value: object) -> bytes:
    return b"" if value in ("", None) else _id(value)


def _whole(low: int, high: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return parse


def _text(low: int, high: int) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if not isinstance(value, str) or not low <= len(value) <= high or not value.isprintable():
            raise ValueError(f"must be text of {low} to {high} printable characters")
        return value

    return parse


def _time(value: object) -> float:
    # Until the year 9999, so that every program can show it as a date.
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 253_402_300_800:
        raise ValueError("must be a time in Unix seconds")
    return float(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _or_none(parse: Callable[[object], Any]) -> Callable[[object], Any]:
    return lambda value: None if value is None else parse(value)


def _prefix(value: object) -> str:
    text = _text(INVITE_DIGITS, INVITE_DIGITS)(value)
    if any(digit not in "0123456789abcdef" for digit in text):
        raise ValueError(f"must be {INVITE_DIGITS} hex digits, as the list of invitations shows them")
    return text


def _checked(fields: Mapping[str, Field], given: Arguments) -> dict[str, Any]:
    """The arguments, parsed.  Raises ``Refusal("bad_request")`` that names the first at fault."""
    for name in given:
        if name not in fields:
            raise Refusal("bad_request", f"{name}: no such argument")
    parsed = {}
    for name, field in fields.items():
        if name not in given:
            if field.needed:
                raise Refusal("bad_request", f"{name}: is missing")
            continue
        try:
            parsed[name] = field.parse(given[name])
        except ValueError as fault:
            raise Refusal("bad_request", f"{name}: {fault}") from None
    return parsed


_ACCOUNT = {"account_id": Field(_id)}
_ADDRESS = {"address": Field(_text(1, 512))}


@dataclass(frozen=True, slots=True)
class House:
    """What the operator's verbs tell of the hub itself."""

    name: str
    sign_up: str
    quota_bytes: int  # of an account without its own
    deletion_delay_s: float
    keeps_own_file: bool  # True on SQLite: nobody but this hub's own backup looks after the data
    sessions: Callable[[], int | None] = lambda: None  # None where no hub runs


class Operating:
    """The verbs.  ``clock`` gives Unix seconds, ``random(n)`` n unpredictable bytes."""

    def __init__(
        self,
        store: Store,
        bus: Bus,
        secrets: Secrets,
        house: House,
        *,
        random: Callable[[int], bytes],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._bus = bus
        self._secrets = secrets
        self._house = house
        self._random = random
        self._clock = clock
        self._hashing = asyncio.Lock()  # one slow hash at a time: sign-in comes first

    async def do(self, verb: str, arguments: Arguments) -> Result:
        """Carry out a verb for a session; its result, durable.

        Raises ``Refusal``: ``bad_request`` for an unknown verb or a bad argument, ``not_found`` for an unknown id,
        ``bad_address``; ``StoreUnavailable``.
        """
        return await self._do(VERBS, verb, arguments)

    async def do_here(self, verb: str, arguments: Arguments) -> Result:
        """As ``do``, for who operates the host itself: all verbs."""
        return await self._do(VERBS | HOST_VERBS, verb, arguments)

    async def _do(self, verbs: Mapping[str, Verb], verb: str, arguments: Arguments) -> Result:
        known = verbs.get(verb)
        if known is None:
            raise Refusal("bad_request", "there is no such verb")
        return await known.method(self, **_checked(known.fields, arguments))

    # --- looking -----------------------------------------------------------------------------

    async def stats(self) -> Result:
        """The hub in numbers."""
        totals, listed = await self._store.totals(), await self._store.count_listed()
        return {
            **totals._asdict(),
            "operators": len(await self._store.operators()),
            "sessions": self._house.sessions(),
            "version": __version__,
            "sign_up": self._house.sign_up,
            "quota_bytes": self._house.quota_bytes,
            "last_backup_at": await self._last_backup(),
            "allowed": listed["allowed"],
            "blocked": listed["blocked"],
        }

    async def accounts(self, *, after: AccountId = b"", limit: int = 50, matching: str = "") -> Result:
        """Accounts in the order of their ids; ``more`` when there are further ones."""
        found = await self._store.accounts(after=after, limit=limit + 1, matching=matching)
        operators = await self._operators()
        return {"accounts": [self._shown(facts, operators) for facts in found[:limit]], "more": len(found) > limit}

    async def account(self, *, account_id: AccountId) -> Result:
        """One account with its devices and spaces."""
        shown = await self._one(account_id)
        shown["device_list"] = [_device(device) for device in await self._store.devices(account_id)]
        shown["space_list"] = [_space(facts) for facts in await self._store.space_facts(account_id)]
        return shown

    async def find_account(self, *, address: str) -> Result:
        """Which account an address signs in to; the address is forgotten at once."""
        account = await self._store.find_account(await self._tag(address))
        return {"account_id": account.account_id.hex() if account else None}

    async def insight(self) -> Result:
        """What a blind hub can still notice, the pressing first."""
        found = await findings(
            self._store,
            quota_bytes=self._house.quota_bytes,
            last_backup_at=await self._last_backup(),
            keeps_own_file=self._house.keeps_own_file,
            now=self._clock(),
        )
        return {"findings": [_finding(finding) for finding in found]}

    # --- accounts ----------------------------------------------------------------------------

    async def set_terms(self, *, account_id: AccountId, **given: Any) -> Result:
        """Change what the operator grants; what is left out stays.

        Raises ``Refusal("bad_request")`` when the billing_ref is another account's.
        """
        account = await self._settled(account_id)
        terms = Terms(account.quota_bytes, account.plan, account.billing_ref, account.paid_until)
        if "quota_mib" in given:
            quota_mib = given.pop("quota_mib")
            terms = replace(terms, quota_bytes=None if quota_mib is None else quota_mib * MIB)
        terms = replace(terms, **given)
        _found(await self._store.set_terms(account_id, terms))
        self._tell(account_id, "terms_changed")
        await self._note(account_id, "terms_changed")
        return await self._one(account_id)

    async def suspend(self, *, account_id: AccountId) -> Result:
        """Keep the account's devices out; open sessions are closed.  Nothing is lost."""
        account = await self._settled(account_id)
        fresh = account.suspended_at is None
        if fresh:  # else it keeps its time
            _found(await self._store.suspend(account_id, self._clock()))
        # Also when it was suspended: the notice of an earlier call may have been lost.
        self._bus.publish(account_id, AccountStopped("suspended"))
        if fresh:
            await self._note(account_id, "suspended")
        return await self._one(account_id)

    async def resume(self, *, account_id: AccountId) -> Result:
        """Let the account's devices in again."""
        account = await self._settled(account_id)
        if account.suspended_at is not None:
            _found(await self._store.suspend(account_id, None))
            await self._note(account_id, "resumed")
        return await self._one(account_id)

    async def delete(self, *, account_id: AccountId, now: bool = False) -> Result:
        """Remove the account, after the delay or ``now``; asked again, it keeps its time.  0 = it is gone."""
        account = await self._require(account_id)
        if not (now and account.moving_to == ARRIVING):  # what is left of a move that failed may go
            account = await self._settled(account_id)
        if now:
            _found(await self._store.delete_account(account_id))
            self._tell(account_id, "account_deleted", at=self._clock())
            return {"deleted_at": 0}
        at = account.deleted_at
        if at is not None:
            self._tell(account_id, "account_deletion_set", at=at)
            return {"deleted_at": at}
        at = self._clock() + self._house.deletion_delay_s
        _found(await self._store.schedule_account_deletion(account_id, at))
        self._tell(account_id, "account_deletion_set", at=at)
        await self._note(account_id, "account_deletion_set")
        return {"deleted_at": at}

    async def keep(self, *, account_id: AccountId) -> Result:
        """Cancel a deletion that waits, until a minute before it happens; done also when none does."""
        account = await self._settled(account_id)
        if account.deleted_at is not None:
            if account.deleted_at - self._clock() < CANCEL_BEFORE_S:
                raise Refusal("not_found", "it is too late: the deletion is being carried out")
            _found(await self._store.schedule_account_deletion(account_id, None))
            self._tell(account_id, "account_deletion_cancelled")
            await self._note(account_id, "account_deletion_cancelled")
        return {}

    async def revoke(self, *, account_id: AccountId, device_id: bytes) -> Result:
        """Revoke one device; its session is closed."""
        device = await self._store.device(device_id)
        if device is None or device.account_id != account_id:
            raise Refusal("not_found")
        await self._settled(account_id)
        now = self._clock()
        revoked = await self._store.revoke(account_id, [device_id], now)
        self._bus.publish(account_id, DevicesRevoked((device_id,)))
        if revoked:
            self._tell(account_id, "device_revoked", device_id=device_id, at=now)
            await self._note(account_id, "device_revoked", subject_id=device_id)
        return {}

    # --- who may come ------------------------------------------------------------------------

    async def invite(self, *, days: int = 7) -> Result:
        """A token that lets one person make an account; only its hash is kept."""
        now = self._clock()
        token = await add_invite(self._store, days * DAY_S, clock=lambda: now, random=self._random)
        return {"token": token, "expires_at": now + days * DAY_S}

    async def invites(self) -> Result:
        """The invitations that are kept."""
        return {
            "invites": [
                {
                    "invite": invite.token_hash.hex()[:INVITE_DIGITS],
                    "expires_at": invite.expires_at,
                    "used_at": invite.used_at,
                }
                for invite in await self._store.invites()
            ]
        }

    async def withdraw_invite(self, *, invite: str) -> Result:
        """End an unused invitation."""
        named = [kept for kept in await self._store.invites() if kept.token_hash.hex().startswith(invite)]
        withdrawn = [await self._store.withdraw_invite(kept.token_hash) for kept in named]
        _found(any(withdrawn))
        return {}

    async def allow(self, *, address: str) -> Result:
        """Let an address make an account, where sign-up is by allowlist."""
        return await self._list(address, "allowed")

    async def block(self, *, address: str) -> Result:
        """Mail an address no code."""
        return await self._list(address, "blocked")

    async def unlist(self, *, address: str) -> Result:
        """Take an address off the list."""
        return await self._list(address, None)

    async def _list(self, address: str, kind: str | None) -> Result:
        await self._store.list_address(await self._tag(address), kind, int(self._clock() // DAY_S))
        return {}

    # --- for the host alone ------------------------------------------------------------------

    async def operators(self) -> Result:
        """The accounts that may operate."""
        found = await self._store.operators()
        return {"operators": [{"account_id": o.account_id.hex(), "since": o.since} for o in found]}

    async def make_operator(self, *, account_id: AccountId) -> Result:
        """Let an account operate from its dashboard; done again, it gets a new secret and the old one ends."""
        salt = self._random(SALT_BYTES)
        _found(await self._store.make_operator(account_id, salt, self._clock()))
        secret = operator_secret(self._secrets.otp_key, account_id, salt)
        return {"secret": text_of(secret), "uri": uri_of(secret, account_id, self._house.name)}

    async def drop_operator(self, *, account_id: AccountId) -> Result:
        """End that."""
        _found(await self._store.drop_operator(account_id))
        return {}

    async def begin_move(self, *, account_id: AccountId, url: str) -> Result:
        """Keep an account's devices out while its data is taken to the hub at ``url``; they come back by themselves."""
        _found(await self._store.begin_move(account_id, url))
        self._bus.publish(account_id, AccountStopped("moving"))
        return {}

    async def cancel_move(self, *, account_id: AccountId) -> Result:
        """Let them in again, here."""
        _found(await self._store.begin_move(account_id, ""))
        return {}

    async def end_move(self, *, account_id: AccountId) -> Result:
        """Remove the account, and tell its devices from now on where it lives.  ``not_found`` unless it is moving."""
        _found(await self._store.end_move(account_id, self._clock()))
        self._bus.publish(account_id, AccountStopped("moved"))
        return {}

    async def note_backup(self, *, at: float) -> Result:
        """A backup was made, and read again, ``at`` this time."""
        await self._store.remember(LAST_BACKUP, str(at).encode())
        return {}

    # --- small things ------------------------------------------------------------------------

    async def _require(self, account_id: AccountId) -> Account:
        account = await self._store.account(account_id)
        if account is None:
            raise Refusal("not_found")
        return account

    async def _settled(self, account_id: AccountId) -> Account:
        """The account, which is not on its way to or from another hub: what changes now would be lost there."""
        account = await self._require(account_id)
        if account.moving_to:
            raise Refusal("bad_request", "the account is being moved between hubs; end or cancel the move first")
        return account

    async def _one(self, account_id: AccountId) -> Result:
        found = await self._store.accounts(limit=1, matching=account_id.hex())
        if not found:
            raise Refusal("not_found")
        return self._shown(found[0], await self._operators())

    async def _operators(self) -> set[AccountId]:
        return {operator.account_id for operator in await self._store.operators()}

    def _shown(self, facts: AccountFacts, operators: set[AccountId]) -> Result:
        account = facts.account
        own = account.own_quota(self._clock())
        return {
            "account_id": account.account_id.hex(),
            "created_day": account.created_day,
            "used_bytes": account.used_bytes,
            "quota_bytes": self._house.quota_bytes if own is None else own,
            "own_quota_bytes": account.quota_bytes,
            "plan": account.plan,
            "billing_ref": account.billing_ref,
            "paid_until": account.paid_until,
            "suspended_at": account.suspended_at,
            "deleted_at": account.deleted_at,
            "moving_to": account.moving_to,
            "address_known": account.address_known,
            "operator": account.account_id in operators,
            "devices": facts.devices,
            "spaces": facts.spaces,
            "last_seen_day": facts.last_seen_day,
        }

    async def _tag(self, address: str) -> bytes:
        normal = normalise(address)
        async with self._hashing:
            hashed = await asyncio.to_thread(slow_hash, normal, self._secrets.hub_salt)
        # A pepper that was just added counts when the hub has wrapped its tags in it.
        generation = max(1, await self._store.tag_generation())
        return tag_of(hashed, self._secrets.peppers[:generation])

    async def _last_backup(self) -> float | None:
        kept = await self._store.recall(LAST_BACKUP)
        return float(kept) if kept else None

    async def _note(self, account_id: AccountId, what: str, *, subject_id: bytes = b"") -> None:
        await self._store.note([Happening(account_id, self._clock(), what, "operator", subject_id=subject_id)])

    def _tell(self, account_id: AccountId, what: str, *, device_id: bytes = b"", at: float = 0.0) -> None:
        self._bus.publish(account_id, AccountChanged(what, device_id, at=at))


class Verb(NamedTuple):
    """A verb: what carries it out, and its arguments."""

    method: Callable[..., Awaitable[Result]]
    fields: Mapping[str, Field] = {}


VERBS: dict[str, Verb] = {
    "stats": Verb(Operating.stats),
    "accounts": Verb(
        Operating.accounts,
        {
            "after": Field(_id_or_empty, needed=False),
            "limit": Field(_whole(1, ACCOUNTS_MAX), needed=False),
            "matching": Field(_text(0, 128), needed=False),
        },
    ),
    "account": Verb(Operating.account, _ACCOUNT),
    "set_terms": Verb(
        Operating.set_terms,
        {
            **_ACCOUNT,
            "quota_mib": Field(_or_none(_whole(0, 1_000_000_000)), needed=False),
            "plan": Field(_text(0, 64), needed=False),
            "billing_ref": Field(_or_none(_text(1, 128)), needed=False),
            "paid_until": Field(_or_none(_time), needed=False),
        },
    ),
    "suspend": Verb(Operating.suspend, _ACCOUNT),
    "resume": Verb(Operating.resume, _ACCOUNT),
    "delete": Verb(Operating.delete, {**_ACCOUNT, "now": Field(_flag, needed=False)}),
    "keep": Verb(Operating.keep, _ACCOUNT),
    "revoke": Verb(Operating.revoke, {**_ACCOUNT, "device_id": Field(_id)}),
    "invite": Verb(Operating.invite, {"days": Field(_whole(1, 365), needed=False)}),
    "invites": Verb(Operating.invites),
    "withdraw_invite": Verb(Operating.withdraw_invite, {"invite": Field(_prefix)}),
    "allow": Verb(Operating.allow, _ADDRESS),
    "block": Verb(Operating.block, _ADDRESS),
    "unlist": Verb(Operating.unlist, _ADDRESS),
    "find_account": Verb(Operating.find_account, _ADDRESS),
    "insight": Verb(Operating.insight),
}

HOST_VERBS: dict[str, Verb] = {
    "operators": Verb(Operating.operators),
    "make_operator": Verb(Operating.make_operator, _ACCOUNT),
    "drop_operator": Verb(Operating.drop_operator, _ACCOUNT),
    "begin_move": Verb(Operating.begin_move, {**_ACCOUNT, "url": Field(_text(1, 512))}),
    "cancel_move": Verb(Operating.cancel_move, _ACCOUNT),
    "end_move": Verb(Operating.end_move, _ACCOUNT),
    "note_backup": Verb(Operating.note_backup, {"at": Field(_time)}),
}


def _found(there: bool) -> None:
    if not there:
        raise Refusal("not_found")


def _device(device: Device) -> Result:
    return {
        "device_id": device.device_id.hex(),
        "app_id": device.app_id,
        "scope": device.scope,
        "enrolled_via": device.enrolled_via,
        "enrolled_at": device.enrolled_at,
        "last_seen_day": device.last_seen_day,
        "probation_until": device.probation_until,
    }


def _space(facts: SpaceFacts) -> Result:
    return {
        "space_id": facts.space.space_id.hex(),
        "app_id": facts.space.app_id,
        "used_bytes": facts.space.used_bytes,
        "collections": facts.collections,
        "changes": facts.changes,
        "last_change_at": facts.last_change_at,
        "deleted_at": facts.space.deleted_at,
    }


def _finding(finding: Finding) -> Result:
    return {"kind": finding.kind, "weight": finding.weight, "sentence": finding.sentence, **finding.facts}
