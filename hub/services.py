"""Carries out what sessions ask for: from a session's question to the store, the accounts, the bus.

Every store call of the hot path and every account verb passes here with the
account id taken from the session, never from a message, so no message can name
another account's data.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from hub.accounts import Accounts, Standing
from hub.appender import Appender
from hub.audit import Tallied
from hub.bus import Bus, Witnessed
from hub.effects import (
    AppendDrafts,
    EnrolDevice,
    JoinPairing,
    KeepWitness,
    Known,
    ListSpaces,
    LookUp,
    MakeSpace,
    Noticed,
    PassOn,
    PassPairing,
    ReadHeads,
    ReadKept,
    ReadPage,
    ReadStates,
    ReadWitnesses,
    Serve,
    Served,
    TrustForKey,
)
from hub.errors import Refusal
from hub.inquiries import Together
from hub.meeting import place_of
from hub.metrics import Metrics
from hub.rights import Caller
from hub.session import Session
from hub.store import MovedDevice, Page, PageOf, StatesOf, Store
from hub.terms import Change, CollectionKey, DeviceId, Incarnation, Limits, Seq
from hub.wire import messages as m

# In one call to the store.  Larger ones cost each question no less, and hold up who comes after them.
LOOK_UPS_MAX = 128
HEADS_MAX = 2_000  # keys; a session has at most 1,000
STATES_MAX = 512  # collections
PAGES_MAX = 32  # so that a call's answers are 4 MiB; where sizes differ much, eight times that while it is made
PAGE_CALLS_MAX = 3  # a long page holds nobody up who wants a short one
WITNESSES_MAX = 64  # collections, each with one of every device


@dataclass(frozen=True, slots=True)
class Visitor:
    """Where a connection comes from, for limits only; never kept."""

    ip: str
    origin: str


class Operating(Protocol):
    """What an operator may have done."""

    async def do(self, verb: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Do it, durable on return; what the verb gives back.  Raises ``Refusal``."""


class Services:
    """What a session may ask for, in one place."""

    def __init__(
        self,
        *,
        store: Store,
        bus: Bus,
        accounts: Accounts,
        appender: Appender,
        metrics: Metrics,
        limits: Limits,
        quota_bytes: int,
        wall: Callable[[], float],
        operating: Operating | None = None,
    ) -> None:
        self._store = store
        self._bus = bus
        self._accounts = accounts
        self._appender = appender
        self.life = appender.life
        self._metrics = metrics
        self._limits = limits
        self._quota_bytes = quota_bytes
        self._wall = wall
        self._operating = operating
        self._look_ups = Together(self._look_up, at_once_max=LOOK_UPS_MAX, calls_max=2)
        self._heads = Together(self._read_heads, at_once_max=HEADS_MAX, size=len)
        self._states = Together(store.states_of, at_once_max=STATES_MAX, size=lambda each: len(each.collection_ids))
        self._pages = Together(self._read_pages, at_once_max=PAGES_MAX, calls_max=PAGE_CALLS_MAX)
        self._witnesses = Together(store.witnesses_of, at_once_max=WITNESSES_MAX)

    def append(self, what: AppendDrafts, on_done: Callable[[Any], None]) -> None:
        """Queue drafts for the next batch; ``on_done`` is called with the result or the error."""
        try:
            self._appender.submit(what.append, on_done)
        except Refusal as exc:
            on_done(exc)

    def noticed(self, what: Noticed, session: Session) -> None:
        """Count it for the audit list of the session's account."""
        assert session.facts is not None, "noticed before the session was ready"
        device = session.facts.device
        self._accounts.audit.tally(Tallied(device.account_id, what.what, device.device_id, what.space_id))

    def ask(self, what: Any, session: Session, on_done: Callable[[Any], None]) -> bool:
        """Ask together with all who ask the like at this moment; False, and nothing is asked, when it is none of that.

        ``on_done`` is called later with the answer or the error.  No task is made: of 5,000 devices that come at
        once each asks five such questions.
        """
        crowd = self._crowd(what, session)
        if crowd is None:
            return False
        together, question = crowd
        goes_on = isinstance(what, ReadPage) and what.goes_on and self._store.reads_apart
        together.put(question, on_done, _behind(question) if goes_on else None)
        return True

    async def answer(self, what: Any, session: Session, visitor: Visitor) -> Any:
        """The answer to any question but ``AppendDrafts``, as its class describes it."""
        if crowd := self._crowd(what, session):
            together, question = crowd
            return await together.get(question)
        match what:
            case EnrolDevice():
                device = await self._accounts.enrol(
                    what.message, device_id=what.device_id, signature_ok=what.proof_ok, ip=visitor.ip
                )
                return self._known(await self._accounts.enrolled(device), await self.life.now())
            case Serve(message=message):
                return await self._serve(message, self._caller(session, visitor), visitor)
            case JoinPairing():
                await self._accounts.rights.open_pairing(self._caller(session, visitor), visitor.ip)
                return None
            case PassPairing(notice=handed):
                self._bus.publish(place_of(handed.channel), handed)
                return None
            case MakeSpace(message=message, proof_ok=proof_ok):
                return await self._accounts.rights.create_space(message, self._require(session, visitor), proof_ok)
        return await self._about_spaces(what, self._require(session, visitor))

    async def _about_spaces(self, what: Any, caller: Caller) -> Any:
        match what:
            case ListSpaces():
                return await self._store.spaces(caller.account_id)
            case TrustForKey(space_ids=space_ids):
                return await self._accounts.rights.trust_for_key(space_ids, caller)
            case ReadStates(space_id=space_id):
                return await self._store.states(caller.account_id, space_id, caller.device_id, None)
            case ReadKept(message=message):
                return await self._kept(message, caller)
            case KeepWitness(message=message, counter=counter):
                return await self._keep_witness(message, counter, caller)
            case PassOn(notice=notice):
                self._bus.publish(caller.account_id, notice)
                return None
        raise AssertionError(f"no service for {type(what).__name__}")

    # --- what many ask at once ---

    def _crowd(self, what: Any, session: Session) -> tuple[Together[Any, Any], Any] | None:
        """Whom a question is put to with others of its kind, and in what words."""
        if isinstance(what, LookUp):
            return self._look_ups, what.device_id
        facts = session.facts
        if facts is None:
            return None
        device = facts.device
        match what:
            case ReadHeads(keys=keys):
                return self._heads, [CollectionKey(device.account_id, *key) for key in keys]
            case ReadPage():
                key = CollectionKey(device.account_id, what.space_id, what.collection_id)
                return self._pages, PageOf(key, what.after, what.live_only)
            case ReadStates(space_id=space_id, collection_ids=ids) if ids is not None:
                return self._states, StatesOf(device.account_id, space_id, device.device_id, ids)
            case ReadWitnesses(space_id=space_id, collection_id=collection_id):
                return self._witnesses, CollectionKey(device.account_id, space_id, collection_id)
        return None

    async def _look_up(self, device_ids: Sequence[DeviceId]) -> list[Known | MovedDevice | None]:
        found, incarnation = await asyncio.gather(self._accounts.look_up(device_ids), self.life.now())
        return [self._known(each, incarnation) if isinstance(each, Standing) else each for each in found]

    async def _read_heads(self, asked: Sequence[Sequence[CollectionKey]]) -> list[list[Seq]]:
        heads = iter(await self._store.heads([key for keys in asked for key in keys]))
        return [list(islice(heads, len(keys))) for keys in asked]

    async def _read_pages(self, asked: Sequence[PageOf]) -> list[Page]:
        bounds = {"changes_max": self._limits.page_changes, "bytes_max": self._limits.page_bytes}
        if len(asked) > 1:
            pages = await self._store.read_each(asked, **bounds)
        else:
            ((key, after, live_only),) = asked
            pages = [await self._store.read(key, after, live_only=live_only, **bounds)]
        self._metrics.pages.add(len(pages))
        return pages

    # --- who ---

    def _known(self, found: Standing, incarnation: Incarnation) -> Known:
        device, account, spaces, operator = found
        now = self._wall()
        own_quota = account.own_quota(now)
        return Known(
            device=device,
            spaces=spaces,
            incarnation=incarnation,
            server_time=now,
            quota_bytes=own_quota if own_quota is not None else self._quota_bytes,
            used_bytes=account.used_bytes,
            account_deleted_at=account.deleted_at or 0.0,
            closing=account.closing(),
            address_known=account.address_known,
            plan=account.plan,
            paid_until=account.paid_until or 0.0,
            operator=operator and self._operating is not None,
        )

    def _caller(self, session: Session, visitor: Visitor) -> Caller | None:
        facts = session.facts
        if facts is None:
            return None
        device = facts.device
        return Caller(
            account_id=device.account_id,
            device_id=device.device_id,
            scope=device.scope,
            app_id=device.app_id,
            probation_until=device.probation_until,
            fresh_code_until=facts.fresh_code_until,
            operator_until=facts.operator_until,
            entered=frozenset(facts.entered),
            ip=visitor.ip,
            origin=visitor.origin,
        )

    def _require(self, session: Session, visitor: Visitor) -> Caller:
        caller = self._caller(session, visitor)
        assert caller is not None, "asked before the session was ready"
        return caller

    # --- account verbs ---

    async def _serve(self, message: m.Message, caller: Caller | None, visitor: Visitor) -> Served:
        if isinstance(message, m.RequestCode):
            return Served(
                await self._accounts.request_code(message, ip=visitor.ip, origin=visitor.origin, caller=caller)
            )
        assert caller is not None, "an account verb before auth"
        rights = self._accounts.rights
        match message:
            case m.ListDevices():
                return Served(m.DeviceList(message.request, await rights.list_devices(caller)))
            case m.RevokeDevices():
                return Served(await rights.revoke_devices(message, caller))
            case m.ApproveDevice():
                return Served(await rights.approve_device(message, caller))
            case m.Vouch():
                return Served(await rights.vouch(message, caller))
            case m.ListSpaces():
                return Served(m.SpaceList(message.request, await rights.list_spaces(caller)))
            case m.ListAudit():
                return Served(await rights.list_audit(message, caller))
            case m.DeleteSpace():
                return Served(await rights.delete_space(message, caller))
            case m.DeleteAccount():
                return Served(await rights.delete_account(message, caller))
            case m.CancelDeletion():
                return Served(await rights.cancel_deletion(message, caller))
        return await self._serve_with_proof(message, caller)

    async def _serve_with_proof(self, message: m.Message, caller: Caller) -> Served:
        """The verbs of codes, and those that a mailbox alone must not open."""
        match message:
            case m.Confirm():
                return Served(m.Done(message.request), await self._accounts.confirm(message, caller))
            case m.ChangeAddress():
                return Served(await self._accounts.change_address(message, caller))
            case m.Export():
                return Served(await self._accounts.export(message, caller))
            case m.OperatorCode():
                until = await self._accounts.operator_code(message, caller)
                return Served(m.Done(message.request), operator_until=until)
            case m.Operate():
                return await self._operate(message, caller)
        raise AssertionError(f"no account verb {type(message).__name__}")

    async def _operate(self, message: m.Operate, caller: Caller) -> Served:
        until = await self._accounts.may_operate(caller)
        if self._operating is None:
            raise Refusal("forbidden")
        result = await self._operating.do(message.verb, message.arguments)
        return Served(m.Operated(message.request, result), operator_until=until)

    # --- reading and witnessing ---

    async def _kept(self, message: m.ReadHistory, caller: Caller) -> tuple[Sequence[Change], bool]:
        changes, more = await self._store.history(
            CollectionKey(caller.account_id, message.space_id, message.collection_id),
            message.record_id,
            before=message.before,
            limit=min(message.limit, self._limits.history_changes_max),
        )
        return _within(changes, self._limits.queued_bytes_max // 4, more)

    async def _keep_witness(self, message: m.Witness, counter: int, caller: Caller) -> bool:
        key = CollectionKey(caller.account_id, message.space_id, message.collection_id)
        kept = await self._store.put_witness(key, caller.device_id, counter, message.witness)
        if kept:
            notice = Witnessed(message.space_id, message.collection_id, caller.device_id, message.witness)
            self._bus.publish(caller.account_id, notice)
        return kept


def _behind(question: PageOf) -> Callable[[Page], PageOf | None]:
    """What a session asks for when it has this page, unless that reaches the head."""

    def behind(page: Page) -> PageOf | None:
        return PageOf(question.key, page.upto, question.live_only) if page.upto < page.head else None

    return behind


def _within(changes: Sequence[Change], bytes_max: int, more: bool) -> tuple[Sequence[Change], bool]:
    """As many of the first changes as fit into ``bytes_max``, at least one; and whether any were left out."""
    total = 0
    for count, change in enumerate(changes):
        total += len(change.sealed)
        if total > bytes_max and count:
            return changes[:count], True
    return changes, more
