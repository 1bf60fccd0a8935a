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

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from msgspec import Struct

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
from hub.wire.messages import DraftAnswer


class Draft(Struct, frozen=True, gc=False):
    """A sealed change without a seq; its header has been checked against the session."""

    header: Header
    sealed: bytes


class Append(Struct, frozen=True, gc=False):
    """The drafts of one request, all of one device and one space, in the device's order."""

    account_id: AccountId
    space_id: SpaceId
    device_id: DeviceId
    drafts: Sequence[Draft]
    atomic: bool = False


Answer = DraftAnswer
"""One draft's outcome: a seq with an empty code, or a refusal code of ``errors.REFUSALS``; sent as it is.

With ``conflict``: the seq and change_id of the record's newest live change (0 and
``ZERO_ID`` when the record has none).
"""


class Appended(Struct, frozen=True, gc=False):
    """What became of one ``Append``."""

    answers: list[Answer]  # one a draft, in their order; empty with ``closing``
    fresh: list[tuple[CollectionId, Change]] = []  # newly in the log, in seq order a collection
    used_bytes: int = 0  # of the account, after this append
    closing: str = ""  # why the device may not append: "revoked" (or gone), "suspended", "moving"; nothing was written


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
    plan: str = ""  # a word of the operator's
    billing_ref: str | None = None  # how a billing system calls the account; unique
    paid_until: float | None = None  # from then on ``quota_bytes`` counts no more and the hub's default does
    suspended_at: float | None = None  # by the operator: no device gets in, nothing is lost
    moving_to: str = ""  # the URL of the hub it is leaving for, or ``ARRIVING``; no device gets in meanwhile
    address_known: bool = True  # False: its address tag is random, as of an account that came from another hub

    def closing(self) -> str:
        """The closing that keeps its devices out, of ``errors.CLOSINGS``; empty when they may come in."""
        return "suspended" if self.suspended_at is not None else "moving" if self.moving_to else ""

    def own_quota(self, now: float) -> int | None:
        """The quota that counts at ``now``; None = the hub's default."""
        return None if self.paid_until is not None and self.paid_until <= now else self.quota_bytes


@dataclass(frozen=True, slots=True)
class Terms:
    """What the operator grants an account; fields as of ``Account``."""

    quota_bytes: int | None = None
    plan: str = ""
    billing_ref: str | None = None
    paid_until: float | None = None


class AccountFacts(NamedTuple):
    """An account as its operator sees it."""

    account: Account
    devices: int  # that are not revoked
    spaces: int
    last_seen_day: int  # of the device that was here last; 0 = none


class Totals(NamedTuple):
    """The whole hub in numbers."""

    accounts: int
    suspended: int
    devices: int  # that are not revoked
    spaces: int
    collections: int
    used_bytes: int


class SpaceFacts(NamedTuple):
    """What is known of a space beside its row."""

    space: Space
    created_at: float
    collections: int
    changes: int  # ever appended: the sum of the heads
    last_change_at: float  # 0.0 = none
    growth: list[tuple[int, int]]  # (day, used_bytes), oldest first


class Happening(NamedTuple):
    """Something that happened on an account, to be kept in its audit list."""

    account_id: AccountId
    at: float
    what: str
    actor: str  # "device", "operator" or "hub"
    device_id: bytes = b""  # the device that did it
    subject_id: bytes = b""  # the device or space it was done to
    adds_up: bool = False  # one entry a day: its count grows


class Audited(NamedTuple):
    """A happening that is kept.  Numbers grow over the whole hub, so of two entries the later has the higher one."""

    number: int
    at: float  # of the last time, when it adds up
    what: str
    actor: str
    device_id: bytes
    subject_id: bytes
    count: int  # type: ignore[assignment]  # hides the tuple's method of that name, which nobody needs


class SilentDevice(NamedTuple):
    """A device that was not here for long, and what waits for it."""

    account_id: AccountId
    device_id: DeviceId
    app_id: str
    last_seen_day: int
    tombstone_bytes: int  # deletions kept in the spaces of its app, until it has heard of them or is revoked


class Invite(NamedTuple):
    """An invitation; the hub knows the SHA-256 of its token only."""

    token_hash: bytes
    expires_at: float
    used_at: float | None


class Operator(NamedTuple):
    """An account that may operate the hub."""

    account_id: AccountId
    salt: bytes  # 16 bytes: its TOTP secret follows from it and the hub's otp key
    since: float
    last_step: int  # the TOTP step that was accepted last; none up to it is accepted again


class MovedDevice(NamedTuple):
    """A device whose account lives at another hub now."""

    device_id: DeviceId
    device_pk: bytes
    url: str  # where it dials
    moved_at: float


ARRIVING = "*"  # ``Account.moving_to`` while its rows are being loaded

Row = tuple[str, tuple[object, ...]]
"""One row of ``dump``: the name of a table of ``hub.store.rows.TABLES``, and its values in the order given there."""


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


class Arrival(NamedTuple):
    """A device that is not revoked, its account, and the account's spaces, oldest first."""

    device: Device
    account: Account
    spaces: list[Space]


class StatesOf(NamedTuple):
    """One question for ``Store.states_of``."""

    account_id: AccountId
    space_id: SpaceId
    device_id: DeviceId
    collection_ids: Sequence[CollectionId]


class PageOf(NamedTuple):
    """One question for ``Store.read_each``."""

    key: CollectionKey
    after: Seq
    live_only: bool


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

    # Whether it reads while this process does something else: then it pays to ask for a page before it is wanted.
    reads_apart: bool

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

    async def session_orders(self, count: int) -> list[int]:
        """So many numbers, ascending, each above every one this store had given to whatever replica when this was
        called: they tell which session is newer."""

    async def remember(self, name: str, value: bytes) -> None:
        """Keep ``value`` under ``name``, in place of what was there."""

    async def recall(self, name: str) -> bytes | None:
        """What is kept under ``name``."""

    # --- the log ---

    async def append(self, appends: Sequence[Append], now: float) -> list[Appended]:
        """Order and keep the drafts of many requests in one transaction; one result an append, in order.

        Each draft is judged in this order: device or account that may not (``closing``), unknown space
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

    async def heads(self, keys: Sequence[CollectionKey]) -> list[Seq]:
        """Heads of collections of any accounts, as asked and in that order; 0 where there is no collection."""

    async def states_of(self, asked: Sequence[StatesOf]) -> list[list[CollectionState]]:
        """What ``states`` says to each, as asked."""

    async def read_each(self, asked: Sequence[PageOf], *, changes_max: int, bytes_max: int) -> list[Page]:
        """What ``read`` says to each, as asked; the bounds are those of one page."""

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

    async def witnesses_of(self, keys: Sequence[CollectionKey]) -> list[list[tuple[DeviceId, bytes]]]:
        """What ``witnesses`` says to each, as asked."""

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

    async def arrivals(self, device_ids: Sequence[DeviceId]) -> list[Arrival | MovedDevice | None]:
        """What is told of each device when it comes, as asked: itself with its account and spaces, or where it lives
        now; None when it is unknown or revoked."""

    async def devices(self, account_id: AccountId) -> list[Device]:
        """The account's devices that are not revoked, oldest first."""

    async def revoke(self, account_id: AccountId, device_ids: Collection[DeviceId], now: float) -> list[DeviceId]:
        """Revoke those of the named devices that are the account's and not yet revoked; which they were."""

    async def stopped_among(self, device_ids: Collection[DeviceId]) -> dict[DeviceId, str]:
        """Those of the named devices that may not be here, with the closing: "revoked" (or gone), or the account's."""

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

    async def invites(self) -> list[Invite]:
        """All invitations that are kept, the one that expires last first."""

    async def withdraw_invite(self, token_hash: bytes) -> bool:
        """Drop an unused invitation; False when there is none."""

    async def list_address(self, address_tag: bytes, kind: str | None, day: int) -> None:
        """Put an address on the operator's list as "allowed" or "blocked", or with None take it off."""

    async def listed(self, address_tag: bytes) -> str | None:
        """What the operator's list says of an address."""

    async def count_listed(self) -> dict[str, int]:
        """How many addresses are on the list, by kind; both kinds are there."""

    async def change_address(self, attempt_id: bytes, account_id: AccountId, now: float) -> None:
        """Consume the attempt and give the account its address tag, in one transaction; the address is known then.

        Raises and writes nothing: ``Refusal("enrol_failed")`` when the attempt is
        unknown, consumed or expired, or the tag is another account's;
        ``Refusal("not_found")`` when the account has gone.
        """

    # --- for the operator ---

    async def accounts(self, *, after: AccountId = b"", limit: int, matching: str = "") -> list[AccountFacts]:
        """Accounts in the order of their ids, after one; ``matching``: id in hex begins so, or billing_ref is equal."""

    async def totals(self) -> Totals:
        """The hub in numbers."""

    async def set_terms(self, account_id: AccountId, terms: Terms) -> bool:
        """Replace what the operator grants; False when there is no such account.

        Raises ``Refusal("bad_request")`` when the billing_ref is another account's.
        """

    async def suspend(self, account_id: AccountId, at: float | None) -> bool:
        """Keep the account's devices out from now on, or with None let them in again; False when there is none.

        No change of the account commits after this has, while it holds.
        """

    async def near_quota(self, share: float, default_quota: int, now: float, limit: int) -> list[Account]:
        """Accounts that use at least ``share`` of their quota, the fullest (by share) first."""

    async def silent_devices(self, seen_before_day: int, limit: int) -> list[SilentDevice]:
        """Devices, not revoked, last seen before that day, those with the most waiting bytes first."""

    async def make_operator(self, account_id: AccountId, salt: bytes, now: float) -> bool:
        """Let an account operate, under a new salt if it did already; False when there is no such account."""

    async def drop_operator(self, account_id: AccountId) -> bool:
        """End that; False when it did not operate."""

    async def operators(self) -> list[Operator]:
        """The accounts that may operate, oldest first."""

    async def take_step(self, account_id: AccountId, step: int) -> bool:
        """Accept a TOTP step: True for exactly one caller, and only when it is above every one accepted before."""

    # --- what happened, and how it grew ---

    async def note(self, happenings: Sequence[Happening]) -> None:
        """Keep them in the audit lists.  Those of accounts that are gone are dropped silently.

        One that adds up joins the entry of the same account, what, actor, device, subject and UTC day, if there is one.
        """

    async def audit(self, account_id: AccountId, *, before: int, limit: int) -> list[Audited]:
        """Entries of an account with a number below ``before`` (0 = all), newest first."""

    async def audit_counts(self, what: str, since: float, limit: int) -> list[tuple[AccountId, int]]:
        """How often something happened since then, by account, the most first."""

    async def forget_audit(self, before: float) -> int:
        """Drop entries older than that; how many."""

    async def space_facts(self, account_id: AccountId) -> list[SpaceFacts]:
        """The account's spaces with what they hold, oldest first."""

    async def note_growth(self, day: int) -> int:
        """Keep what every space uses as of ``day`` (days since the Unix epoch), where it differs from what is kept
        last or replaces what was kept for that day; for how many."""

    async def forget_growth(self, before_day: int) -> int:
        """Drop what was kept for earlier days; how many."""

    # --- moving, backing up ---

    async def begin_move(self, account_id: AccountId, url: str) -> bool:
        """Keep the account's devices out (``Account.moving_to``), or with "" let them in again; False for no account.

        Once this has committed, nothing of the account changes while it holds: ``append`` answers with the closing
        "moving", ``create_space``, ``enrol`` and ``add_device`` raise ``Refusal("unavailable")``, and so does whatever
        else would write to it on a device's behalf.
        """

    async def end_move(self, account_id: AccountId, now: float) -> bool:
        """Remove the account and every row of it but one ``MovedDevice`` for each device that is not revoked.

        False, and nothing done, unless it is moving (and not arriving).
        """

    async def moved_device(self, device_id: DeviceId) -> MovedDevice | None:
        """Where this device's account lives now."""

    async def forget_moved(self, before: float) -> int:
        """Drop what is known of moves before that time; how many devices."""

    def dump(self, account_ids: Collection[AccountId] | None = None) -> AbstractAsyncContextManager[AsyncIterator[Row]]:
        """Every row of these accounts (None: of the whole hub), of one snapshot, in the order ``load`` takes them.

        Inside the block the rows can be read once, at the reader's pace; writers go on meanwhile.  Derived numbers
        are not in it: a collection has no short number, a space no used_bytes.
        """

    async def load(self, rows: Sequence[Row]) -> None:
        """Keep the next rows of a dump.  Accounts come in as ``ARRIVING`` and stay so until ``end_load``.

        All of one call or none.  Raises ``Refusal("device_exists")`` or
        ``Refusal("bad_request", sentence)`` when a row cannot be taken (an account,
        address, device or billing_ref that is here already; a row out of order).
        """

    async def end_load(self, account_ids: Collection[AccountId]) -> None:
        """Let the devices of loaded accounts in, with ``moving_to`` and ``suspended_at`` as they were dumped
        (``moving_to`` empty for an account that was moving here)."""

    async def rewrap_addresses(self, wrap: Callable[[bytes], bytes], generation: int) -> int:
        """Replace every address tag below ``generation`` by ``wrap(tag)``, in one transaction; how many were.

        For a new pepper: tags are wrapped, never recomputed, since no address is kept.
        Those of attempts and of the operator's list are wrapped with the accounts', uncounted.
        """

    async def tag_generation(self) -> int:
        """The highest generation ``rewrap_addresses`` was called with; 0 in a new store."""

    async def forget_attempts(self, created_before: float) -> int:
        """Drop attempts, and expired or used invites, older than that; how many."""


class SchemaTooNew(Exception):
    """The database was written by a newer program; the start stops with this sentence."""


class SchemaTooOld(Exception):
    """The database must be made or changed first, and not by this role; the start stops with this sentence."""
