"""The promise of the store: what keeps the log and the accounts, whatever the database.

The promises, each with a test in ``tests/store_exam.py`` that any keeper can sit:

* **Durable.**  When a writing method returns, what it wrote survives a crash.
  When it raises ``StoreUnavailable`` the outcome is unknown, and calling again is safe.
* **Gapless.**  Seqs of a collection are 1, 2, 3 ..., given in commit order, never
  reused within an incarnation, not even after a wipe.
* **Once.**  (collection, device, counter) is in the log at most once.  The same bytes
  get the first answer again for ever; other bytes get ``device_cloned``.
* **No hole.**  A read sees every change up to the ``upto`` it reports that was not
  compacted, purged or wiped, and nothing beyond it.
* **Live set.**  A record's last put or delete and every delta after it are live; what
  they replaced is kept for the history window and may then be compacted.
* **Refused means unwritten.**  A refused draft leaves no trace and uses no counter.
* **Deleted means deleted.**  After a wipe only the wipe itself is left of a
  collection; after ``delete_space`` and ``delete_account`` no row is left at all.
* **Revoked means gone.**  No change of a device commits after its revocation did.
* **One store, many replicas.**  All of this holds also when several programs have the
  same store open, for the keepers that allow it (SQLite's does not).

Ids are 16 raw bytes; times are Unix seconds given by the caller, never read here.
Methods that name a space or device of another account find nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from hub.terms import (
    AccountId,
    Change,
    CollectionId,
    CollectionKey,
    DeviceId,
    Incarnation,
    RecordId,
    Seq,
    SpaceId,
    Span,
)
from hub.wire.header import Header


class Draft(NamedTuple):
    """A sealed change without a seq; its header has been checked against the session."""

    header: Header
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Append:
    """The drafts of one request, all of one device and one space, in the device's order."""

    account_id: AccountId
    space_id: SpaceId
    device_id: DeviceId
    drafts: Sequence[Draft]
    atomic: bool = False


class Answer(NamedTuple):
    """One draft's outcome: a seq with an empty code, or a refusal code of ``errors.REFUSALS``.

    With ``conflict``: the seq and change_id of the record's newest live change (0 and
    ``ZERO_ID`` when the record has none).
    """

    seq: Seq = 0
    code: str = ""
    newest_seq: Seq = 0
    newest_id: bytes = b""


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of one ``Append``."""

    answers: list[Answer]  # one a draft, in their order; empty when revoked
    fresh: list[tuple[CollectionId, Change]] = field(
        default_factory=list
    )  # newly in the log, in seq order a collection
    used_bytes: int = 0  # of the account, after this append
    revoked: bool = False  # the device is revoked or gone; nothing was written


class Page(NamedTuple):
    """A stretch of a collection: every kept change in (after, upto], in seq order.

    ``head`` is the head of the very snapshot the page was read from.  When the page
    was cut by a bound, ``upto`` is the seq of its last change; otherwise it is ``head``.
    """

    changes: list[Change]
    upto: Seq
    head: Seq


class CollectionState(NamedTuple):
    """Where a collection stands, and the last counter one device used in it (0 = none)."""

    collection_id: CollectionId
    head: Seq
    counter: int


@dataclass(frozen=True, slots=True)
class Account:
    """One person's standing with this hub."""

    account_id: AccountId
    quota_bytes: int | None  # None = the hub's default
    used_bytes: int
    created_day: int  # days since the Unix epoch
    deleted_at: float | None = None  # when a delayed deletion takes effect


@dataclass(frozen=True, slots=True)
class Device:
    """One installation holding one Ed25519 key."""

    device_id: DeviceId
    account_id: AccountId
    device_pk: bytes
    scope: str  # "app" or "account"
    app_id: str
    enrolled_via: str  # "mail", "first" (the account's first device) or "pairing"
    enrolled_at: float
    last_seen_day: int
    probation_until: float | None = None
    revoked_at: float | None = None


@dataclass(frozen=True, slots=True)
class Space:
    """What one app key opens: all of one app's data of one account."""

    account_id: AccountId
    space_id: SpaceId
    app_id: str
    key_epoch: int
    space_pk: bytes
    used_bytes: int = 0
    deleted_at: float | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at proving an address.  Neither the code nor a hash of it is kept."""

    attempt_id: bytes
    address_tag: bytes  # 32 bytes
    device_pk: bytes
    purpose: str  # "enrol" or "confirm"
    app_id: str
    created_at: float
    expires_at: float
    invite: bytes | None = None  # SHA-256 of the invite's token
    welcome: bool = True  # False: sign-up is closed to this address; no code was sent and none works
    tries: int = 0
    sends: int = 1
    sent_at: float = 0.0
    consumed_at: float | None = None


class Charge(NamedTuple):
    """One budget that something is taken from: at most so often for one key."""

    key: bytes  # 16 bytes that stand for whoever is limited; the store never learns who that is
    spans: tuple[Span, ...]


class Store(Protocol):
    """Keeps the log and the accounts.  Safe to call from many tasks at once."""

    # --- life ---

    async def open(self) -> None:
        """Ready to serve, schema up to date.  Raises ``SchemaTooNew`` when a newer program wrote it."""

    async def close(self) -> None:
        """Finish what is under way; afterwards every call raises ``StoreUnavailable``."""

    async def ping(self) -> None:
        """Answers when the store does; raises ``StoreUnavailable`` otherwise."""

    async def incarnation(self) -> Incarnation:
        """The name of this life of the log; made with the database."""

    async def renew_incarnation(self) -> Incarnation:
        """Give the log a new name: it was restored, so its numbers must not be compared with older ones."""

    async def claim(self, name: str, value: bytes) -> bytes:
        """Keep ``value`` under ``name`` unless something is kept there already; what is kept now.

        Of many callers at once, on any replica, exactly one's value stays.
        """

    async def session_order(self) -> int:
        """A number above every one this store has given before, to whatever replica: tells which session is newer."""

    # --- the log ---

    async def append(self, appends: Sequence[Append], now: float) -> list[Appended]:
        """Order and keep the drafts of many requests in one transaction; one result an append, in order.

        Each draft is judged in this order: revoked device, unknown space
        (``not_found``), ``device_cloned`` / the first answer again / ``wiped`` for a used
        counter, ``out_of_order``, ``conflict``, ``too_many`` collections,
        ``quota_exceeded`` (deletes, purges and wipes always pass).  An atomic
        append with one refused draft writes nothing: the refused keep their
        codes, the others get ``atomic_refused``, drafts that were in the log
        already keep their seq.
        """

    async def read(self, key: CollectionKey, after: Seq, *, live_only: bool, changes_max: int, bytes_max: int) -> Page:
        """The next page after ``after``; at least one change when there is any, else ``upto == head``.

        With ``live_only`` replaced changes are left out.  Stops before the change
        that would go beyond ``bytes_max`` sealed bytes, unless it is the first.
        A collection without changes has head 0.
        """

    async def states(
        self,
        account_id: AccountId,
        space_id: SpaceId,
        device_id: DeviceId,
        collection_ids: Collection[CollectionId] | None,
    ) -> list[CollectionState]:
        """Head and this device's counter of the named collections, in their order (None: of all, in any order).

        A named collection that does not exist is answered with head 0; the
        device's counter in it is 0.
        """

    async def history(
        self, key: CollectionKey, record_id: RecordId, *, before: Seq, limit: int
    ) -> tuple[list[Change], bool]:
        """Kept changes of one record with a seq below ``before`` (0 = all), newest first; whether older are kept."""

    async def put_witness(self, key: CollectionKey, device_id: DeviceId, counter: int, sealed: bytes) -> bool:
        """Keep this as the device's newest witness.

        False and unwritten when ``counter`` is not above the kept one's, or is 2**63
        or more; when the device is revoked; when the collection does not exist.
        """

    async def witnesses(self, key: CollectionKey) -> list[tuple[DeviceId, bytes]]:
        """The newest witness of every device that gave one."""

    async def compact(self, replaced_before: float, limit: int) -> int:
        """Drop up to ``limit`` changes that were replaced before that time; how many were dropped.

        Their (counter, seq, hash of the bytes) stay, so a retry still gets its first answer.
        """

    # --- spaces ---

    async def create_space(self, space: Space, spaces_max: int, now: float) -> Space:
        """Keep a new space, or return the one that is there with the same key.

        Raises ``Refusal("bad_space_proof")`` when the id is there with another key,
        ``Refusal("too_many")`` beyond ``spaces_max``, ``Refusal("not_found")`` when the
        account has gone meanwhile.
        """

    async def spaces(self, account_id: AccountId) -> list[Space]:
        """All spaces of the account, oldest first."""

    async def schedule_space_deletion(self, account_id: AccountId, space_id: SpaceId, at: float | None) -> bool:
        """Set (or with None cancel) when a space goes; False when there is no such space."""

    async def delete_space(self, account_id: AccountId, space_id: SpaceId) -> bool:
        """Remove the space and every row that belongs to it; False when there is none."""

    # --- accounts and devices ---

    async def spend(self, charges: Sequence[Charge], now: float, *, count: bool = True) -> float:
        """Count one for every key, or for none: the seconds until it would fit all their spans; 0.0 = counted.

        With ``count`` False nothing is counted either way.  Exact over all replicas:
        of calls at the same moment no more get 0.0 than the spans allow.
        """

    async def forget_spent(self, before: float) -> int:
        """Drop what was counted before that time, which must be longer ago than any span; how many."""

    async def add_attempt(self, attempt: Attempt) -> None:
        """Keep an attempt."""

    async def note_resend(
        self, attempt_id: bytes, device_pk: bytes, now: float, *, not_before_s: float, sends_max: int
    ) -> Attempt | None:
        """Count one more sending of a live attempt's code; None (and uncounted) when it is unknown, of another
        device key, expired, consumed, sent ``sends_max`` times, or sent less than ``not_before_s`` ago."""

    async def charge_attempt(self, attempt_id: bytes, now: float, tries_max: int) -> Attempt | None:
        """Count one try, before the code is looked at; None when the attempt is unknown, expired, consumed or spent."""

    async def consume_attempt(self, attempt_id: bytes, now: float) -> bool:
        """Use the attempt up; True for exactly one caller."""

    async def enrol(
        self,
        attempt_id: bytes,
        device: Device,
        new_account: Account | None,
        address_tag: bytes,
        *,
        per_account_max: int,
        per_app_max: int,
        first_only: bool,
        now: float,
    ) -> None:
        """Consume the attempt and keep the device, and its account when ``new_account`` is given, in one transaction.

        Raises and writes nothing: ``Refusal("enrol_failed")`` when the attempt was
        consumed meanwhile, when the account vanished or came to be meanwhile, when
        its invite is used, or when ``first_only`` and the hub has an account;
        ``Refusal("device_exists")``; ``Refusal("too_many")``.
        """

    async def add_device(self, device: Device, *, per_account_max: int, per_app_max: int) -> None:
        """Keep a device that another one vouches for.  Raises as ``enrol``."""

    async def find_account(self, address_tag: bytes) -> Account | None:
        """The account with this address tag."""

    async def account(self, account_id: AccountId) -> Account | None:
        """The account with this id."""

    async def count_accounts(self) -> int:
        """How many accounts there are."""

    async def device(self, device_id: DeviceId) -> Device | None:
        """The device with this id, revoked or not."""

    async def devices(self, account_id: AccountId) -> list[Device]:
        """The account's devices that are not revoked, oldest first."""

    async def revoke(self, account_id: AccountId, device_ids: Collection[DeviceId], now: float) -> list[DeviceId]:
        """Revoke those of the named devices that are the account's and not yet revoked; which they were."""

    async def revoked_among(self, device_ids: Collection[DeviceId]) -> set[DeviceId]:
        """Those of the named devices that are revoked or gone."""

    async def approve(self, account_id: AccountId, device_id: DeviceId) -> bool:
        """End a device's probation; False when the account has no such device, or it is revoked."""

    async def note_seen(self, device_ids: Collection[DeviceId], day: int) -> None:
        """The devices were here on this day (days since the Unix epoch)."""

    async def schedule_account_deletion(self, account_id: AccountId, at: float | None) -> bool:
        """Set (or with None cancel) when an account goes; False when there is none."""

    async def delete_account(self, account_id: AccountId) -> bool:
        """Remove the account and every row that belongs to it; False when there is none."""

    async def due_deletions(self, now: float) -> tuple[list[AccountId], list[tuple[AccountId, SpaceId]]]:
        """Accounts and spaces whose delay has passed."""

    async def add_invite(self, token_hash: bytes, expires_at: float) -> None:
        """Keep an invite: the SHA-256 of its token.  Used up by the ``enrol`` that makes an account."""

    async def invite_is_open(self, token_hash: bytes, now: float) -> bool:
        """Whether this invite exists, is unused and not expired."""

    async def rewrap_addresses(self, wrap: Callable[[bytes], bytes], generation: int) -> int:
        """Replace every address tag below ``generation`` by ``wrap(tag)``, in one transaction; how many were.

        For a new pepper: tags are wrapped, never recomputed, since no address is kept.
        Those of attempts are wrapped with the accounts', uncounted.
        """

    async def tag_generation(self) -> int:
        """The highest generation ``rewrap_addresses`` was called with; 0 in a new store."""

    async def forget_attempts(self, created_before: float) -> int:
        """Drop attempts, and expired or used invites, older than that; how many."""


class SchemaTooNew(Exception):
    """The database was written by a newer program; the start stops with this sentence."""


class SchemaTooOld(Exception):
    """The database must be made or changed first, and not by this role; the start stops with this sentence."""
