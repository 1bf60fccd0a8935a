"""Codes in the mail: who may ask for one, how often, and whether the one that is typed is right.

The hub knows a person by an address tag, never by an address.  To a stranger every
address looks the same: known, unknown, blocked and unwelcome ones get the same answer
after the same work, and what is mailed is mailed after the answer.  docs/protocol.md
"Signing in".
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
from hub.errors import Refusal
from hub.limiter import CodeLimiter, CodeLimits, Waiting, prefixes_of
from hub.mail import CodeMail, Mailer, MailFailed
from hub.otp import attempt_secret, code_of, matches, phrase_of
from hub.secrets import BadSecrets, Secrets, fingerprint
from hub.signing import is_valid_public_key
from hub.store import Account, Attempt, Charge, Store
from hub.terms import ID_BYTES, AccountId, Policy
from hub.wire.messages import CodeSent, RequestCode

SIGN_UP_MODES = ("closed", "invite", "allowlist", "open")
INVITE_BYTES = 24
ARGON2_THREADS = 2  # 19 MiB and one core each
MAILS_UNDER_WAY_MAX = 100
# The answer leaves first, so that connecting to a mail server cannot be felt in it.
MAIL_AFTER_S = 0.02
WARN_EVERY_S = 3_600.0  # that the limit of the whole hub is reached


@dataclass(frozen=True, slots=True)
class SignUp:
    """Who may make an account.

    "closed" lets the first person in, then nobody; "invite" whoever has an unused
    token; "allowlist" the addresses and "@domain"s in ``allowed``, and the addresses that the
    operator's list allows; "open" everybody.
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

    def welcomes(self, address: str, *, listed: str | None, hub_is_empty: bool, invite_is_open: bool) -> bool:
        """Whether a normalised address without an account may make one; ``listed`` as of ``Store.listed``."""
        match self.mode:
            case "closed":
                return hub_is_empty
            case "invite":
                return invite_is_open
            case "allowlist":
                if listed == "allowed":
                    return True
                return address in self._allowed or "@" + address.partition("@")[2] in self._allowed
            case _:
                return True


async def settle_secrets(store: Store, secrets: Secrets) -> None:
    """Make sure that these are the database's secrets; wrap its tags in every pepper that was added meanwhile.

    No replica with the older secrets may be running: it would make tags that
    nobody finds again.  Raises ``BadSecrets`` when a hub with other secrets was
    here first, or one with more peppers; then do not go on.
    """
    peppers = secrets.peppers
    if (known := await store.tag_generation()) > len(peppers):
        raise BadSecrets(
            f"The secrets file is older than the database: it has {len(peppers)} peppers, and the addresses are"
            f" tagged with {known}. Restore the newest one from its backup."
        )
    await _claim(store, secrets, 1)
    for generation, pepper in enumerate(peppers[1:], start=2):
        # Before the tags are wrapped: of two replicas with different new peppers one shall wrap, the other stop.
        await _claim(store, secrets, generation)
        await store.rewrap_addresses(functools.partial(wrap, pepper=pepper), generation)


async def _claim(store: Store, secrets: Secrets, generation: int) -> None:
    mine = fingerprint(secrets, generation)
    if await store.claim(f"secrets {generation}", mine) != mine:
        raise BadSecrets(
            "These secrets are not the ones of this database: nobody could sign in on a new device. Copy the"
            " secrets file of the hub that was started first, or restore it from its backup."
        )


class Codes:
    """The service.  ``clock`` gives Unix seconds, ``random(n)`` n unpredictable bytes.

    ``mailed`` is told what became of each mail: "sent" or "failed".
    """

    def __init__(
        self,
        store: Store,
        mailer: Mailer,
        secrets: Secrets,
        *,
        policy: Policy,
        sign_up: SignUp,
        clock: Callable[[], float],
        random: Callable[[int], bytes],
        code_limits: CodeLimits,
        mailed: Callable[[str], None],
        mails_under_way_max: int,
    ) -> None:
        self._store = store
        self._mailer = mailer
        self._secrets = secrets
        self._policy = policy
        self._sign_up = sign_up
        self._clock = clock
        self._random = random
        self.limiter = CodeLimiter(code_limits, secrets.internal_key)
        self._waiting = Waiting()
        self._waiting_key = random(32)  # of this process: its memory shall hold no address
        self._warn_after = 0.0
        self._mailed = mailed
        self._mails: set[asyncio.Task[None]] = set()
        self._mails_max = mails_under_way_max
        self._argon2 = ThreadPoolExecutor(ARGON2_THREADS, "argon2")
        self._hashing = asyncio.Semaphore(ARGON2_THREADS)

    async def open(self) -> None:
        """Make sure that these are the database's secrets: see ``settle_secrets``."""
        await settle_secrets(self._store, self._secrets)

    async def close(self, within_s: float = 5.0) -> None:
        """Let the mails under way go out for so long, then drop them."""
        if self._mails:
            _, late = await asyncio.wait(self._mails, timeout=within_s)
            for mail in late:
                mail.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._argon2.shutdown(cancel_futures=True)

    # --- codes -------------------------------------------------------------------------------

    async def request(self, msg: RequestCode, *, ip: str, origin: str, mine: AccountId | None) -> CodeSent:
        """Begin an attempt, or send the code of one again; the answer never tells what the hub knows.

        ``mine`` is the account of the device that asks; None before it is known.

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
            await self._spend(self.limiter.sender(ip, origin), now)
            attempt = await self._resend(msg.attempt_id, msg, self._tag(await self._slow_hash(address)), now)
        else:
            hashed = await self._admit(address, ip, origin, now)
            attempt = await self._begin(msg, address, self._tag(hashed), mine, now)
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
            charges = self.limiter.mailbox(ip, mailbox_hashed)
            try:
                await self._spend([*self.limiter.sender(ip, origin), *charges], now)
            except Refusal:
                self._waiting.tell(known, now + await self._store.spend(charges, now, count=False))
                raise
        return hashed

    async def _refuse_known(self, known: bytes, ip: str, origin: str, now: float) -> None:
        """Refuse what is over a limit that needs no slow hash to be known; count nothing."""
        if wait := self._waiting.wait(known, now):
            raise Refusal("slow_down", retry_after_s=wait)
        await self._spend(self.limiter.sender(ip, origin), now, count=False)

    async def _spend(self, charges: Sequence[Charge], now: float, *, count: bool = True) -> None:
        if wait := await self._store.spend(charges, now, count=count):
            await self._warn_when_full(now)
            raise Refusal("slow_down", retry_after_s=wait)

    async def _warn_when_full(self, now: float) -> None:
        """Tell the operator, once an hour, that the limit of the whole hub keeps people out."""
        if now < self._warn_after:
            return
        wait = await self._store.spend([self.limiter.hub()], now, count=False)
        if wait and now >= self._warn_after:  # nobody else has told meanwhile
            self._warn_after = now + WARN_EVERY_S
            log.get().warning("the hub mails no more codes for now: codes_per_hour is reached", retry_after_s=wait)

    async def _slow_hash(self, address: str) -> bytes:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._argon2, slow_hash, address, self._secrets.hub_salt)

    def _tag(self, hashed: bytes) -> bytes:
        return tag_of(hashed, self._secrets.peppers)

    async def _begin(self, msg: RequestCode, address: str, tag: bytes, mine: AccountId | None, now: float) -> Attempt:
        # Every address takes this same way through the store; only the setting decides what is asked.
        account = await self._store.find_account(tag)
        listed = await self._store.listed(tag)
        mode = self._sign_up.mode
        invite = hashlib.sha256(msg.invite.encode()).digest()
        invite_is_open = mode == "invite" and await self._store.invite_is_open(invite, now)
        hub_is_empty = mode == "closed" and await self._store.count_accounts() == 0
        stranger_is_welcome = self._sign_up.welcomes(
            address, listed=listed, hub_is_empty=hub_is_empty, invite_is_open=invite_is_open
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
            welcome=listed != "blocked" and _is_welcome(msg.purpose, account, mine, stranger_is_welcome),
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

    async def check(
        self, attempt_id: bytes, code: str, device_pk: bytes, purpose: str, now: float, *, proved: bool
    ) -> Attempt:
        """The attempt whose code ``code`` is, one try being spent; it still has to be consumed.

        ``proved``: whether the device showed that it has ``device_pk``.  Raises
        ``Refusal("enrol_failed")`` for whatever is wrong.
        """
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


async def add_invite(
    store: Store,
    lifetime_s: float,
    *,
    clock: Callable[[], float] = time.time,
    random: Callable[[int], bytes] = random_source.token_bytes,
) -> str:
    """A token that lets one person make an account; only its hash is kept."""
    token = base64.urlsafe_b64encode(random(INVITE_BYTES)).decode()
    await store.add_invite(hashlib.sha256(token.encode()).digest(), clock() + lifetime_s)
    return token


def _is_welcome(purpose: str, account: Account | None, mine: AccountId | None, stranger_is_welcome: bool) -> bool:
    """Whether a code for ``purpose`` may go to the address of ``account``, None being nobody's."""
    is_mine = account is not None and account.account_id == mine
    match purpose:
        case "confirm":
            return is_mine
        case "change":
            return mine is not None and (account is None or is_mine)
        case _:
            return account is not None or stranger_is_welcome
