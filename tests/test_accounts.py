"""Accounts: codes that prove a mailbox and nothing else, and who may end what."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import itertools
import logging
import secrets as random_source
from dataclasses import dataclass, field

import pytest
import structlog
from nacl.bindings import crypto_core_ed25519_add
from nacl.signing import SigningKey

import hub.accounts
from hub import log
from hub.accounts import Accounts, Caller, SignUp, add_invite, space_id_of
from hub.address import slow_hash
from hub.bus import AccountChanged, DevicesRevoked
from hub.bus.local import LocalBus
from hub.errors import Closing, Refusal
from hub.limiter import CodeLimiter, CodeLimits
from hub.mail.smtp import SmtpMailer
from hub.secrets import BadSecrets, new_secrets
from hub.store.memory import MemoryStore
from hub.store.sqlite import SqliteStore
from hub.terms import Limits, Policy, Span
from hub.wire import messages as m
from hub.wire.messages import (
    ApproveDevice,
    CancelDeletion,
    CodeSent,
    Confirm,
    CreateSpace,
    DeleteAccount,
    Deleted,
    DeleteSpace,
    Done,
    Enrol,
    RequestCode,
    RevokeDevices,
)
from tests.hub_rig import Wire, hub_in
from tests.mailbox import HOST, Mailbox

HOUR, DAY = 3_600.0, 86_400.0
START = 1_800_000_000.0
MANY = (Span(1_000, DAY),)
UNLIMITED = CodeLimits(address=MANY, near=MANY, wide=MANY, origin=MANY, hub=MANY, accounts=MANY)
ANNA, BEN, EVE = "anna@example.org", "ben@example.org", "eve@example.org"


class Clock:
    """Unix seconds that pass when the test says so."""

    def __init__(self):
        self.now = START

    def __call__(self):
        return self.now


@dataclass
class Person:
    """A device and what its session knows."""

    device: object
    key: SigningKey

    def caller(self, **changes):
        d = self.device
        return Caller(d.account_id, d.device_id, d.scope, d.app_id, **changes)


@dataclass
class Hub:
    """One replica of the accounts service over a real store, a real bus and a real mail server."""

    store: object
    mailbox: Mailbox
    clock: Clock = field(default_factory=Clock)
    bus: LocalBus = field(default_factory=LocalBus)
    secrets: object = field(default_factory=lambda: new_secrets(random_source.token_bytes))
    replicas: list = field(default_factory=list)
    mailed: list = field(default_factory=list)
    notices: list = field(default_factory=list)

    def replica(self, mode="open", *, allowed=(), **changes):
        values = {
            "policy": Policy(),
            "limits": Limits(),
            "sign_up": SignUp(mode, allowed),
            "clock": self.clock,
            "random": random_source.token_bytes,
            "code_limits": UNLIMITED,
            "mailed": self.mailed.append,
        } | changes
        mailer = values.pop("mailer", None) or self.mailer()
        secrets = values.pop("secrets", self.secrets)
        self.replicas.append(Accounts(values.pop("store", self.store), self.bus, mailer, secrets, **values))
        return self.replicas[-1]

    def mailer(self, port=None):
        return SmtpMailer(HOST, port or self.mailbox.port, security="none", sender="codes@hub.example")

    async def sign_in(self, accounts, address, *, app_id="notes", scope="app", key=None, ip="192.0.2.1"):
        key = key or SigningKey.generate()
        sent = await ask(accounts, address, key=key, app_id=app_id)
        mail = await self.mailbox.next()
        device = await enrol(accounts, sent, mail.code, key, scope=scope, ip=ip)
        if device.enrolled_via == "first":
            await self.bus.subscribe(device.account_id, self.notices.append)
        return Person(device, key)

    async def told(self):
        """The notices so far."""
        await asyncio.sleep(0)
        return list(self.notices)

    async def close(self):
        for accounts in self.replicas:
            await accounts.close()
        await self.store.close()


# Where the store's own care is what makes the test pass.
on_every_store = pytest.mark.parametrize("hub_here", ["memory", "sqlite"], indirect=True)


@pytest.fixture
async def hub_here(request, tmp_path):
    store = sqlite(tmp_path) if getattr(request, "param", "memory") == "sqlite" else MemoryStore()
    await store.open()
    async with Mailbox() as mailbox:
        hub = Hub(store, mailbox)
        yield hub
        await hub.close()


@pytest.fixture
def lines():
    """What the log writes."""
    root = logging.getLogger()
    handlers, level, lines = root.handlers[:], root.level, io.StringIO()
    log.set_up(form="text", level="debug", key=b"k" * 32, stream=lines)
    yield lines
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def sqlite(folder):
    return SqliteStore(folder / "hub.db", limits=Limits(), quota_bytes=Policy().quota_bytes)


KEY = SigningKey.generate()
_numbers = itertools.count()


async def ask(accounts, address, *, key=KEY, ip=None, origin="", caller=None, **changes):
    number = next(_numbers)
    ip = ip or f"10.{number // 250 % 250}.{number % 250}.1"
    msg = RequestCode(**{"request": 7, "address": address, "device_pk": pk(key), "app_id": "notes"} | changes)
    return await accounts.request_code(msg, ip=ip, origin=origin, caller=caller)


async def enrol(accounts, sent, code, key=KEY, *, scope="app", device_id=None, signature_ok=True, ip="192.0.2.1"):
    msg = Enrol(8, sent.attempt_id, code, key if isinstance(key, bytes) else pk(key), bytes(64), scope)
    device_id = device_id or random_source.token_bytes(16)
    return await accounts.enrol(msg, device_id=device_id, signature_ok=signature_ok, ip=ip)


def pk(key):
    return bytes(key.verify_key)


def other_than(code):
    return f"{(int(code) + 1) % 10**8:08d}"


async def refused(awaitable):
    with pytest.raises(Refusal) as caught:
        await awaitable
    return caught.value.code


async def asked_and_mailed(hub, accounts, address, **changes):
    sent = await ask(accounts, address, **changes)
    return sent, (await hub.mailbox.next()).code


async def a_space(accounts, person, *, app_id="notes"):
    key = pk(SigningKey.generate())
    msg = CreateSpace(9, space_id_of(key), app_id, key, bytes(64))
    return (await accounts.create_space(msg, person.caller(), True)).space_id


async def mailed_number(hub, accounts):
    """How many mails went out, once nothing is under way any more."""
    await accounts.close()
    return len(hub.mailbox.mails)


# --- codes ---


@on_every_store
async def test_a_code_from_the_mail_makes_the_first_device_of_an_account(hub_here):
    accounts = hub_here.replica("closed")
    sent = await ask(accounts, ANNA)
    mail = await hub_here.mailbox.next()
    assert isinstance(sent, CodeSent) and (sent.request, sent.expires_in_s) == (7, 600.0)
    assert mail.recipient == ANNA and sent.phrase in mail.text and "10 minutes" in mail.text
    device = await enrol(accounts, sent, mail.code)
    assert (device.enrolled_via, device.probation_until, device.app_id, device.scope) == ("first", None, "notes", "app")
    assert (device.enrolled_at, device.last_seen_day) == (START, int(START // DAY))
    assert await accounts.authenticate(device.device_id) == device
    assert await mailed_number(hub_here, accounts) == 1
    assert hub_here.mailed == ["sent"]


async def test_the_other_devices_are_told_of_a_new_one(hub_here):
    accounts = hub_here.replica()
    await hub_here.sign_in(accounts, ANNA)
    second = await hub_here.sign_in(accounts, ANNA)
    assert AccountChanged("device_enrolled", second.device.device_id, b"", START) in await hub_here.told()


@on_every_store
async def test_a_right_code_given_many_times_at_once_enrols_once(hub_here):
    replicas = [hub_here.replica(), hub_here.replica()]
    sent, code = await asked_and_mailed(hub_here, replicas[0], ANNA)
    tries = [enrol(replicas[i % 2], sent, code) for i in range(20)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    devices = [outcome for outcome in outcomes if not isinstance(outcome, Refusal)]
    assert len(devices) == 1
    assert {outcome.code for outcome in outcomes if outcome is not devices[0]} == {"enrol_failed"}
    assert len(await hub_here.store.devices(devices[0].account_id)) == 1


@on_every_store
@pytest.mark.parametrize(("wrong", "works"), [(4, True), (5, False), (20, False)])
async def test_five_tries_at_once_or_in_a_row_and_then_the_right_code_is_dead(hub_here, wrong, works):
    replicas = [hub_here.replica(), hub_here.replica()]
    sent, code = await asked_and_mailed(hub_here, replicas[0], ANNA)
    tries = [enrol(replicas[i % 2], sent, other_than(code)) for i in range(wrong)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert {outcome.code for outcome in outcomes} == {"enrol_failed"}
    if works:
        assert await enrol(replicas[0], sent, code)
    else:
        assert await refused(enrol(replicas[0], sent, code)) == "enrol_failed"


async def test_a_code_belongs_to_its_device_key_its_attempt_and_its_proof(hub_here):
    accounts = hub_here.replica()
    sent, code = await asked_and_mailed(hub_here, accounts, ANNA)
    other, _ = await asked_and_mailed(hub_here, accounts, BEN)
    assert await refused(enrol(accounts, sent, code, SigningKey.generate())) == "enrol_failed"
    assert await refused(enrol(accounts, other, code)) == "enrol_failed"
    assert await refused(enrol(accounts, CodeSent(1, bytes(16), 1.0, ""), code)) == "enrol_failed"
    assert await refused(enrol(accounts, sent, code, signature_ok=False)) == "enrol_failed"
    assert await enrol(accounts, sent, code)


async def test_a_bad_proof_costs_a_try(hub_here):
    accounts = hub_here.replica()
    sent, code = await asked_and_mailed(hub_here, accounts, ANNA)
    for _ in range(5):
        await refused(enrol(accounts, sent, code, signature_ok=False))
    assert await refused(enrol(accounts, sent, code)) == "enrol_failed"


@on_every_store
@pytest.mark.parametrize(("after_s", "works"), [(599.9, True), (600.0, False)])
async def test_a_code_works_for_ten_minutes(hub_here, after_s, works):
    accounts = hub_here.replica()
    sent, code = await asked_and_mailed(hub_here, accounts, ANNA)
    hub_here.clock.now += after_s
    if works:
        assert await enrol(accounts, sent, code)
    else:
        assert await refused(enrol(accounts, sent, code)) == "enrol_failed"


async def test_codes_are_typed_with_spaces_but_never_in_other_digits(hub_here):
    accounts = hub_here.replica()
    sent, code = await asked_and_mailed(hub_here, accounts, ANNA)
    full_width = "".join(chr(0xFF10 + int(digit)) for digit in code)
    arabic = "".join(chr(0x0660 + int(digit)) for digit in code)
    for typed in (full_width, arabic, code + "0", code[:7]):
        assert await refused(enrol(accounts, sent, typed)) == "enrol_failed"
    assert await enrol(accounts, sent, f"{code[:4]} {code[4:]}")


@on_every_store
async def test_a_code_is_sent_again_after_a_minute_twice_and_stays_the_same(hub_here):
    accounts = hub_here.replica()
    sent, code = await asked_and_mailed(hub_here, accounts, ANNA)
    for _ in range(2):
        hub_here.clock.now += 59.0
        assert await refused(ask(accounts, ANNA, attempt_id=sent.attempt_id)) == "slow_down"
        hub_here.clock.now += 1.0
        again, same_code = await asked_and_mailed(hub_here, accounts, ANNA, attempt_id=sent.attempt_id)
        assert (again.attempt_id, again.phrase, same_code) == (sent.attempt_id, sent.phrase, code)
        assert again.expires_in_s == START + 600.0 - hub_here.clock.now
    hub_here.clock.now += 60.0
    assert await refused(ask(accounts, ANNA, attempt_id=sent.attempt_id)) == "slow_down"
    assert await mailed_number(hub_here, accounts) == 3
    hub_here.clock.now = START + 599.0
    assert await enrol(accounts, sent, code)


async def test_a_code_begun_for_one_address_cannot_be_fetched_at_another(hub_here):
    accounts = hub_here.replica()
    sent = await ask(accounts, ANNA)
    assert (await hub_here.mailbox.next()).recipient == ANNA
    hub_here.clock.now += 60.0
    assert await refused(ask(accounts, EVE, attempt_id=sent.attempt_id)) == "slow_down"
    assert await mailed_number(hub_here, accounts) == 1


async def test_a_code_cannot_be_sent_again_for_another_device_key(hub_here):
    accounts = hub_here.replica()
    sent, _ = await asked_and_mailed(hub_here, accounts, ANNA)
    hub_here.clock.now += 60.0
    with pytest.raises(Refusal) as caught:
        await ask(accounts, ANNA, attempt_id=sent.attempt_id, key=SigningKey.generate())
    assert (caught.value.code, caught.value.retry_after_s) == ("slow_down", 60.0)
    assert await mailed_number(hub_here, accounts) == 1


async def test_the_mail_goes_to_the_normalised_address(hub_here):
    accounts = hub_here.replica()
    await ask(accounts, "  ANNA@B\u00dcCHER.Example ")
    assert (await hub_here.mailbox.next()).recipient == "anna@xn--bcher-kva.example"


async def test_all_ways_to_write_an_address_are_one_account_and_look_alikes_are_refused(hub_here):
    accounts = hub_here.replica()
    first = await hub_here.sign_in(accounts, "anna@example.org")
    second = await hub_here.sign_in(accounts, " Anna@EXAMPLE.org ")
    tagged = await hub_here.sign_in(accounts, "anna+x@example.org")
    assert second.device.account_id == first.device.account_id != tagged.device.account_id
    for typed in ("ann\u0131@example.org", "anna@example.org\r\nBcc: x@y.org", "anna@example.org, eve@example.org"):
        assert await refused(ask(accounts, typed)) == "bad_address"


async def test_an_app_name_with_control_characters_is_refused(hub_here):
    assert await refused(ask(hub_here.replica(), ANNA, app_id="notes\r\nBcc: x")) == "bad_request"


def bad_keys():
    honest = pk(SigningKey.generate())
    order_8 = bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")
    torsion = [order_8]
    for _ in range(7):
        torsion.append(crypto_core_ed25519_add(torsion[-1], order_8))
    assert len(set(torsion)) == 8
    mixed = [crypto_core_ed25519_add(honest, point) for point in torsion if point != torsion[7]]
    beyond = [(2**255 - 19 + n).to_bytes(32, "little") for n in range(19)]
    # The public keys of the published edge cases (ed25519-speccheck).
    published = [
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
        "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    ]
    off_curve = (2).to_bytes(32, "little")
    return [*torsion, *mixed, *beyond, *map(bytes.fromhex, published), off_curve]


async def test_a_device_key_that_verifiers_could_disagree_on_is_refused_at_both_doors(hub_here):
    accounts = hub_here.replica()
    sent, code = await asked_and_mailed(hub_here, accounts, ANNA)
    for key in bad_keys():
        assert await refused(enrol(accounts, sent, code, key)) == "bad_device_key"
        assert await refused(ask(accounts, ANNA, device_pk=key)) == "bad_device_key"
    assert await enrol(accounts, sent, code)


@on_every_store
async def test_an_id_or_key_that_is_enrolled_already_is_refused(hub_here):
    accounts = hub_here.replica()
    anna = await hub_here.sign_in(accounts, ANNA)
    sent, code = await asked_and_mailed(hub_here, accounts, BEN)
    assert await refused(enrol(accounts, sent, code, device_id=anna.device.device_id)) == "device_exists"
    sent, code = await asked_and_mailed(hub_here, accounts, BEN, key=anna.key)
    assert await refused(enrol(accounts, sent, code, anna.key)) == "device_exists"


@on_every_store
async def test_devices_are_limited_by_app_and_account(hub_here):
    accounts = hub_here.replica(limits=Limits(devices_per_account_max=3, devices_per_app_max=2))
    for app_id in ("notes", "notes", "tasks"):
        if app_id == "tasks":
            sent, code = await asked_and_mailed(hub_here, accounts, ANNA)
            assert await refused(enrol(accounts, sent, code)) == "too_many"
        await hub_here.sign_in(accounts, ANNA, app_id=app_id)
    sent, code = await asked_and_mailed(hub_here, accounts, ANNA, app_id="photos")
    assert await refused(enrol(accounts, sent, code)) == "too_many"


# --- what a stranger can learn ---


class Watched:
    """The real store, noting which of its methods are called."""

    def __init__(self, store):
        self.store = store
        self.calls = []

    def __getattr__(self, name):
        self.calls.append(name)
        return getattr(self.store, name)


async def test_known_unknown_and_unwelcome_addresses_get_the_same_answer_after_the_same_work(hub_here, monkeypatch):
    """O-ENUM.  The work is compared, not the clock: the same slow hashes, and the same calls in the same order."""
    await hub_here.sign_in(hub_here.replica(), ANNA)
    hashes = []
    slow = hub.accounts.slow_hash
    monkeypatch.setattr(hub.accounts, "slow_hash", lambda *args: hashes.append(1) or slow(*args))
    for mode in ("closed", "invite", "allowlist", "open"):
        watched = Watched(hub_here.store)
        accounts = hub_here.replica(mode, store=watched, allowed=["ben@example.org"])
        seen = set()
        for address in (ANNA, BEN, EVE):
            watched.calls.clear()
            hashes.clear()
            sent = await ask(accounts, address)
            fields = (len(sent.attempt_id), sent.expires_in_s, len(sent.phrase.split()))
            hub_here.clock.now += 60.0
            await ask(accounts, address, attempt_id=sent.attempt_id)
            seen.add((tuple(watched.calls), len(hashes), fields))
        assert len(seen) == 1, mode
        calls, slow_hashes, _ = seen.pop()
        assert slow_hashes == 2 and "add_attempt" in calls and "find_account" in calls


async def test_an_unwelcome_address_is_never_mailed_and_no_code_works_for_it(hub_here, monkeypatch):
    accounts = hub_here.replica("allowlist", allowed=[ANNA])
    await hub_here.sign_in(accounts, ANNA)
    codes = []
    make = hub.accounts.code_of
    monkeypatch.setattr(hub.accounts, "code_of", lambda secret: codes.append(make(secret)) or codes[-1])
    sent = await ask(accounts, EVE)
    assert len(codes) == 1  # the right one, as only the hub can know it
    assert await refused(enrol(accounts, sent, codes[0])) == "enrol_failed"
    assert await mailed_number(hub_here, accounts) == 1
    assert hub_here.mailbox.connections == 1


async def test_the_answer_leaves_before_the_mail_server_is_spoken_to(hub_here):
    class Noting:
        begun = asyncio.Event()

        async def send(self, mail):
            self.begun.set()

    accounts = hub_here.replica(mailer=Noting())
    await ask(accounts, ANNA)
    for _ in range(10):  # turns of the loop in which the session writes its answer
        await asyncio.sleep(0)
    assert not Noting.begun.is_set()
    await asyncio.wait_for(Noting.begun.wait(), 5)


async def test_a_mail_server_that_hangs_holds_up_no_answer_and_few_mails(hub_here):
    reached = asyncio.Event()
    writers = []
    server = await asyncio.start_server(lambda _, writer: (writers.append(writer), reached.set()), HOST, 0)
    mailer = hub_here.mailer(server.sockets[0].getsockname()[1])
    accounts = hub_here.replica(mailer=mailer, mails_under_way_max=2)
    await ask(accounts, ANNA)
    await asyncio.wait_for(reached.wait(), 5)
    await ask(accounts, BEN)
    await ask(accounts, EVE)  # the same answer, though no room is left for its mail
    assert hub_here.mailed == ["failed"]
    await accounts.close(within_s=0.0)
    assert not accounts._mails
    server.close()
    for writer in writers:
        writer.transport.abort()
    await server.wait_closed()


async def test_a_mail_that_fails_is_counted_and_logged_without_address_or_code(hub_here, lines, monkeypatch):
    codes = []
    make = hub.accounts.code_of
    monkeypatch.setattr(hub.accounts, "code_of", lambda secret: codes.append(make(secret)) or codes[-1])
    hub_here.mailbox.answers[ANNA] = ["550 5.1.1 anna@example.org is unknown"]
    accounts = hub_here.replica()
    await ask(accounts, ANNA)
    await accounts.close()
    assert hub_here.mailed == ["failed"]
    assert "reason=address-refused" in lines.getvalue()
    assert "anna" not in lines.getvalue() and codes[0] not in lines.getvalue()


async def test_a_fault_in_the_mailer_is_counted_and_logged_too(hub_here, lines):
    class Broken:
        async def send(self, mail):
            raise RuntimeError(f"could not mail {mail.code} to {mail.address}")

    accounts = hub_here.replica(mailer=Broken())
    await ask(accounts, ANNA)
    await accounts.close()
    assert hub_here.mailed == ["failed"]
    assert "RuntimeError" in lines.getvalue() and "anna" not in lines.getvalue()


async def test_the_database_holds_no_address_and_no_code(tmp_path):
    store = sqlite(tmp_path)
    await store.open()
    async with Mailbox() as mailbox:
        hub = Hub(store, mailbox)
        accounts = hub.replica()
        await hub.sign_in(accounts, "canary.anna@example.org")
        _, waiting = await asked_and_mailed(hub, accounts, "canary.anna@example.org")
        files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert files
        for secret in (b"canary", b"example.org", waiting.encode(), mailbox.mails[0].code.encode()):
            assert secret not in files
        await hub.close()


# --- limits ---


async def test_what_is_over_a_limit_costs_neither_a_slow_hash_nor_a_row(hub_here, monkeypatch):
    accounts = hub_here.replica(code_limits=CodeLimits())
    for i in range(10):
        await ask(accounts, f"person{i}@example.org", ip="192.0.2.1")
    watched = accounts._store = Watched(hub_here.store)
    monkeypatch.setattr(hub.accounts, "slow_hash", None)
    with pytest.raises(Refusal) as caught:
        await ask(accounts, ANNA, ip="192.0.2.1")
    assert (caught.value.code, caught.value.retry_after_s) == ("slow_down", HOUR)
    assert set(watched.calls) == {"spend"}


async def test_a_mailbox_that_has_to_wait_costs_one_slow_hash_and_no_more(hub_here, monkeypatch):
    """Or whoever knows an address could have the hub hash it without end: what is refused is not counted."""
    accounts = hub_here.replica(code_limits=CodeLimits())
    hashes = []
    slow = hub.accounts.slow_hash
    monkeypatch.setattr(hub.accounts, "slow_hash", lambda *args: hashes.append(1) or slow(*args))
    for _ in range(3):
        await ask(accounts, ANNA, ip="198.51.100.7")
    waits = []
    for i in range(10):
        with pytest.raises(Refusal) as caught:
            await ask(accounts, ("anna+x@example.org", ANNA)[i % 2], ip=f"198.51.100.{i}")
        waits.append(caught.value.retry_after_s)
        hub_here.clock.now += 1.0
    assert waits == [HOUR - i for i in range(10)]
    assert len(hashes) == 3 + 2
    assert await ask(accounts, ANNA, ip="192.0.2.1")
    hub_here.clock.now = START + HOUR
    assert await ask(accounts, ANNA, ip="198.51.100.7")


async def test_a_wait_of_the_senders_own_is_not_the_mailboxs(hub_here):
    """Asked at once, so that it is the counting which refuses: a neighbour may still ask for the same mailbox."""
    accounts = hub_here.replica(code_limits=dataclasses.replace(UNLIMITED, near=(Span(1, HOUR),)))
    outcomes = await asyncio.gather(*(ask(accounts, ANNA, ip="192.0.2.1") for _ in range(4)), return_exceptions=True)
    assert sorted(isinstance(outcome, Refusal) for outcome in outcomes) == [False, True, True, True]
    assert await ask(accounts, ANNA, ip="192.0.2.2")


async def test_a_flood_at_one_moment_costs_few_slow_hashes(hub_here, monkeypatch):
    accounts = hub_here.replica(code_limits=CodeLimits())
    hashes = []
    slow = hub.accounts.slow_hash
    monkeypatch.setattr(hub.accounts, "slow_hash", lambda *args: hashes.append(1) or slow(*args))
    asked = (ask(accounts, f"person{i}@example.org", ip="192.0.2.1") for i in range(100))
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(outcome, CodeSent) for outcome in outcomes) == 10
    assert {outcome.code for outcome in outcomes if not isinstance(outcome, CodeSent)} == {"slow_down"}
    assert len(hashes) <= 10 + hub.accounts.ARGON2_THREADS


async def test_sending_a_code_again_is_taken_from_the_senders_budget_before_the_slow_hash(hub_here, monkeypatch):
    limits = dataclasses.replace(UNLIMITED, near=(Span(2, HOUR),))
    accounts = hub_here.replica(code_limits=limits)
    sent = await ask(accounts, ANNA, ip="192.0.2.1")
    hub_here.clock.now += 60.0
    assert await ask(accounts, ANNA, ip="192.0.2.1", attempt_id=sent.attempt_id)
    hub_here.clock.now += 60.0
    other = hub_here.replica(code_limits=limits)
    monkeypatch.setattr(hub.accounts, "slow_hash", None)
    with pytest.raises(Refusal) as caught:
        await ask(other, ANNA, ip="192.0.2.1", attempt_id=sent.attempt_id)
    assert (caught.value.code, caught.value.retry_after_s) == ("slow_down", HOUR - 120.0)


async def test_an_address_with_a_tag_is_counted_by_a_slow_hash_too(hub_here):
    """The store sees no key that could be made from an address without it."""
    keys = []

    class Noting(Watched):
        async def spend(self, charges, now, *, count=True):
            keys.extend(charge.key for charge in charges)
            return await self.store.spend(charges, now, count=count)

    accounts = hub_here.replica(store=Noting(hub_here.store))
    await ask(accounts, ANNA, ip="192.0.2.1")
    plain = set(keys)
    keys.clear()
    await ask(accounts, "a.nna+x@example.org", ip="192.0.2.1")
    assert set(keys) == plain and len(plain) == 5  # near, wide, hub, mailbox, stranger
    limiter = CodeLimiter(UNLIMITED, hub_here.secrets.internal_key)
    hashed = slow_hash(ANNA, hub_here.secrets.hub_salt)
    assert {charge.key for charge in limiter.mailbox("192.0.2.1", hashed)} < plain


@on_every_store
async def test_limits_are_one_over_two_replicas_also_at_one_moment(hub_here):
    limits = dataclasses.replace(UNLIMITED, address=CodeLimits().address, near=(Span(4, HOUR),))
    replicas = [hub_here.replica(code_limits=limits) for _ in range(2)]
    outcomes = await asyncio.gather(
        *(ask(replicas[i % 2], ANNA, ip=f"10.0.{i}.1") for i in range(12)), return_exceptions=True
    )
    assert sum(isinstance(outcome, CodeSent) for outcome in outcomes) == 5
    outcomes = await asyncio.gather(
        *(ask(replicas[i % 2], f"person{i}@example.org", ip="192.0.2.1") for i in range(12)), return_exceptions=True
    )
    assert sum(isinstance(outcome, CodeSent) for outcome in outcomes) == 4


async def test_the_operator_is_told_once_an_hour_that_the_hub_mails_no_more_codes(hub_here, lines):
    limits = dataclasses.replace(UNLIMITED, hub=(Span(2, HOUR),), origin=(Span(1, HOUR),))
    accounts = hub_here.replica(code_limits=limits)
    await ask(accounts, ANNA, origin="https://app.example")
    await refused(ask(accounts, BEN, origin="https://app.example"))
    assert "codes_per_hour" not in lines.getvalue()
    await ask(accounts, BEN)
    for _ in range(5):
        await refused(ask(accounts, EVE))
    await asyncio.gather(*(refused(ask(accounts, f"person{i}@example.org")) for i in range(5)))
    assert lines.getvalue().count("codes_per_hour") == 1
    hub_here.clock.now += HOUR
    await ask(accounts, ANNA)
    await ask(accounts, BEN)
    await refused(ask(accounts, EVE))
    assert lines.getvalue().count("codes_per_hour") == 2


@on_every_store
async def test_each_address_gets_five_codes_in_fifteen_minutes_also_over_a_restart(hub_here):
    for _ in range(5):
        await ask(hub_here.replica(code_limits=CodeLimits()), ANNA)
        hub_here.clock.now += 60.0
    accounts = hub_here.replica(code_limits=CodeLimits())
    with pytest.raises(Refusal) as caught:
        await ask(accounts, ANNA)
    assert (caught.value.code, caught.value.retry_after_s) == ("slow_down", 600.0)
    hub_here.clock.now += 600.0
    assert await ask(accounts, ANNA)


async def test_each_address_gets_six_codes_an_hour_and_ten_a_day_also_over_a_restart(hub_here):
    asked = []
    for _ in range(200):
        try:
            await ask(hub_here.replica(code_limits=CodeLimits()), ANNA)
            asked.append(hub_here.clock.now - START)
        except Refusal as refusal:
            hub_here.clock.now += refusal.retry_after_s
        if len(asked) == 11:
            break
    assert asked == [0, 0, 0, 0, 0, 900, 3600, 3600, 3600, 3600, 86400]


async def test_a_stranger_who_spends_his_share_does_not_lock_the_owner_out(hub_here):
    accounts = hub_here.replica(code_limits=CodeLimits())
    anna = await hub_here.sign_in(accounts, ANNA)
    hub_here.clock.now += DAY
    spent = 0
    for address in (ANNA, "anna+x@example.org", "a.nna@example.org", ANNA, "an.na+y@example.org"):
        try:
            await ask(accounts, address, ip="198.51.100.7", key=SigningKey.generate())
            spent += 1
        except Refusal as refusal:
            assert refusal.code == "slow_down"
    assert spent == 3
    await mailed_number(hub_here, accounts)
    accounts = hub_here.replica(code_limits=CodeLimits())
    again = await ask(accounts, ANNA, ip="192.0.2.1")
    while (mail := await hub_here.mailbox.next()).text.find(again.phrase) < 0:
        pass
    device = await enrol(accounts, again, mail.code)
    assert device.account_id == anna.device.account_id


async def test_tags_and_dots_do_not_multiply_the_codes_of_a_mailbox(hub_here):
    accounts = hub_here.replica(code_limits=CodeLimits())
    for address in ("anna@example.org", "anna+1@example.org", "a.nna@example.org", "an.n.a@example.org", ANNA):
        await ask(accounts, address)
    assert await refused(ask(accounts, "an.na+2@example.org")) == "slow_down"
    assert await ask(accounts, BEN)


async def test_one_web_page_and_the_whole_hub_are_limited(hub_here):
    limits = dataclasses.replace(UNLIMITED, origin=(Span(2, HOUR),), hub=(Span(4, HOUR),))
    accounts = hub_here.replica(code_limits=limits)
    for address in (ANNA, BEN):
        await ask(accounts, address, origin="https://app.example")
    assert await refused(ask(accounts, EVE, origin="https://app.example")) == "slow_down"
    await ask(accounts, EVE, origin="https://other.example")
    await ask(accounts, EVE)
    assert await refused(ask(accounts, EVE)) == "slow_down"


async def test_one_place_makes_five_accounts_a_day_and_still_signs_in_to_old_ones(hub_here):
    accounts = hub_here.replica(code_limits=dataclasses.replace(UNLIMITED, accounts=CodeLimits().accounts))
    for i in range(5):
        await hub_here.sign_in(accounts, f"person{i}@example.org", ip="192.0.2.1")
    sent, code = await asked_and_mailed(hub_here, accounts, ANNA)
    later = hub_here.replica(code_limits=accounts._code_limits)  # another replica, or this one after a restart
    assert await refused(enrol(later, sent, code, ip="192.0.2.1")) == "slow_down"
    assert await refused(enrol(accounts, sent, code, ip="192.0.2.1")) == "slow_down"
    assert await hub_here.sign_in(accounts, "person0@example.org", ip="192.0.2.1")
    assert await enrol(accounts, sent, code, ip="192.0.2.2")


# --- who may come ---


@pytest.mark.parametrize(
    ("mode", "allowed", "address", "empty", "invited", "welcome"),
    [
        ("closed", (), ANNA, True, False, True),
        ("closed", (), ANNA, False, True, False),
        ("invite", (), ANNA, True, False, False),
        ("invite", (), ANNA, False, True, True),
        ("allowlist", ("Anna@Example.org",), ANNA, False, True, True),
        ("allowlist", (ANNA,), BEN, True, True, False),
        ("allowlist", ("@EXAMPLE.org",), BEN, False, False, True),
        ("allowlist", ("@example.org",), "ben@sub.example.org", False, False, False),
        ("allowlist", ("@example.org",), "ben@notexample.org", False, False, False),
        ("open", (), EVE, False, False, True),
    ],
)
def test_who_is_welcome(mode, allowed, address, empty, invited, welcome):
    assert SignUp(mode, allowed).welcomes(address, hub_is_empty=empty, invite_is_open=invited) is welcome


def test_a_wrong_mode_or_entry_stops_the_start():
    with pytest.raises(ValueError, match="closed, invite"):
        SignUp("Open")
    for entry in ("anna", "@", "@localhost", "a@b@c.org"):
        with pytest.raises(Refusal, match="address"):
            SignUp("allowlist", (entry,))


@on_every_store
async def test_closed_lets_the_first_person_in_then_nobody_also_when_two_come_at_once(hub_here):
    accounts = hub_here.replica("closed")
    attempts = [await asked_and_mailed(hub_here, accounts, address) for address in (ANNA, BEN)]
    assert await enrol(accounts, *attempts[0])
    assert await refused(enrol(accounts, *attempts[1], SigningKey.generate())) == "enrol_failed"
    assert await refused(enrol(accounts, *attempts[1])) == "enrol_failed"
    assert await hub_here.store.count_accounts() == 1


@on_every_store
async def test_an_invite_lets_one_person_in_once(hub_here):
    accounts = hub_here.replica("invite")
    token = await accounts.make_invite(DAY)
    attempts = [await asked_and_mailed(hub_here, accounts, address, invite=token) for address in (ANNA, BEN)]
    assert await enrol(accounts, *attempts[0])
    assert await refused(enrol(accounts, *attempts[1])) == "enrol_failed"
    mails = len(hub_here.mailbox.mails)
    await ask(accounts, EVE, invite=token)
    await ask(accounts, EVE, invite="guess")
    await ask(accounts, EVE)
    assert await mailed_number(hub_here, accounts) == mails


@on_every_store
async def test_an_account_that_exists_uses_no_invite_up(hub_here):
    accounts = hub_here.replica("invite")
    first = await accounts.make_invite(DAY)
    sent, code = await asked_and_mailed(hub_here, accounts, ANNA, invite=first)
    await enrol(accounts, sent, code)
    second = await accounts.make_invite(DAY)
    key = SigningKey.generate()
    sent, code = await asked_and_mailed(hub_here, accounts, ANNA, invite=second, key=key)
    await enrol(accounts, sent, code, key)
    key = SigningKey.generate()
    sent, code = await asked_and_mailed(hub_here, accounts, BEN, invite=second, key=key)
    assert (await enrol(accounts, sent, code, key)).enrolled_via == "first"


@on_every_store
async def test_an_invite_expires(hub_here):
    accounts = hub_here.replica("invite")
    token = await add_invite(hub_here.store, DAY, clock=hub_here.clock)
    hub_here.clock.now += DAY - 1
    sent, code = await asked_and_mailed(hub_here, accounts, ANNA, invite=token)
    hub_here.clock.now += 1
    assert await refused(enrol(accounts, sent, code)) == "enrol_failed"
    await ask(accounts, BEN, invite=token)
    assert await mailed_number(hub_here, accounts) == 1


@on_every_store
async def test_an_account_that_went_meanwhile_does_not_come_back_without_an_invite(hub_here):
    open_hub, invite_hub = hub_here.replica("open"), hub_here.replica("invite")
    anna = await hub_here.sign_in(open_hub, ANNA)
    sent, code = await asked_and_mailed(hub_here, invite_hub, ANNA)
    await hub_here.store.delete_account(anna.device.account_id)
    assert await refused(enrol(invite_hub, sent, code)) == "enrol_failed"
    assert await hub_here.store.count_accounts() == 0


# --- peppers ---


async def test_after_a_new_pepper_everybody_still_signs_in_to_the_same_account(hub_here):
    accounts = hub_here.replica()
    before = {address: await hub_here.sign_in(accounts, address) for address in (ANNA, BEN)}
    for more in (1, 2):  # one pepper, then another
        peppers = (*hub_here.secrets.peppers, *(bytes([n]) * 32 for n in range(more)))
        rotated = hub_here.replica(secrets=dataclasses.replace(hub_here.secrets, peppers=peppers))
        await rotated.open()
        await rotated.open()  # a second start changes nothing
        for address, person in before.items():
            again = await hub_here.sign_in(rotated, address)
            assert again.device.account_id == person.device.account_id
    assert await hub_here.store.count_accounts() == 2
    assert await hub_here.store.find_account(bytes(32)) is None


@on_every_store
async def test_two_peppers_at_one_start_are_wrapped_one_after_the_other(hub_here):
    anna = await hub_here.sign_in(hub_here.replica(), ANNA)
    peppers = (*hub_here.secrets.peppers, b"1" * 32, b"2" * 32)
    rotated = hub_here.replica(secrets=dataclasses.replace(hub_here.secrets, peppers=peppers))
    await rotated.open()
    assert (await hub_here.sign_in(rotated, ANNA)).device.account_id == anna.device.account_id


@on_every_store
async def test_a_code_asked_for_before_a_new_pepper_makes_no_second_account(hub_here):
    accounts = hub_here.replica()
    await hub_here.sign_in(accounts, ANNA)
    key = SigningKey.generate()
    sent, code = await asked_and_mailed(hub_here, accounts, ANNA, key=key)
    peppers = (*hub_here.secrets.peppers, b"1" * 32)
    rotated = hub_here.replica(secrets=dataclasses.replace(hub_here.secrets, peppers=peppers))
    await rotated.open()
    assert await refused(enrol(rotated, sent, code, key)) == "enrol_failed"
    assert await hub_here.store.count_accounts() == 1


# --- the secrets of one hub ---


OTHER = (
    "another salt",
    "another first pepper",
)


@on_every_store
@pytest.mark.parametrize("what", OTHER)
async def test_a_hub_with_other_secrets_than_the_databases_does_not_start(hub_here, what):
    await hub_here.replica().open()
    changed = {"another salt": {"hub_salt": b"s" * 16}, "another first pepper": {"peppers": (b"p" * 32,)}}[what]
    other = hub_here.replica(secrets=dataclasses.replace(hub_here.secrets, **changed))
    for _ in range(2):
        with pytest.raises(BadSecrets, match="Copy the secrets file of the hub that was started first"):
            await other.open()
    await hub_here.replica().open()


async def test_the_keys_that_may_be_replaced_do_not_stop_a_start(hub_here):
    await hub_here.replica().open()
    renewed = dataclasses.replace(hub_here.secrets, otp_key=b"o" * 32, internal_key=b"i" * 32)
    await hub_here.replica(secrets=renewed).open()


@on_every_store
async def test_of_two_hubs_with_different_secrets_that_start_at_once_one_starts(hub_here):
    replicas = [hub_here.replica(secrets=new_secrets(random_source.token_bytes)) for _ in range(2)]
    outcomes = await asyncio.gather(*(each.open() for each in replicas), return_exceptions=True)
    assert sorted(type(outcome) for outcome in outcomes if outcome is not None) == [BadSecrets]
    started = replicas[outcomes.index(None)]
    await started.open()
    assert await hub_here.sign_in(started, ANNA)


@on_every_store
async def test_secrets_older_than_the_database_stop_the_start(hub_here):
    anna = await hub_here.sign_in(hub_here.replica(), ANNA)
    rotated = dataclasses.replace(hub_here.secrets, peppers=(*hub_here.secrets.peppers, b"1" * 32))
    await hub_here.replica(secrets=rotated).open()
    with pytest.raises(BadSecrets, match="older than the database: it has 1 peppers, and the addresses are"):
        await hub_here.replica().open()
    again = hub_here.replica(secrets=rotated)
    await again.open()
    assert (await hub_here.sign_in(again, ANNA)).device.account_id == anna.device.account_id


@on_every_store
async def test_two_replicas_with_different_new_peppers_do_not_both_start(hub_here):
    anna = await hub_here.sign_in(hub_here.replica(), ANNA)
    replicas = [
        hub_here.replica(secrets=dataclasses.replace(hub_here.secrets, peppers=(*hub_here.secrets.peppers, new)))
        for new in (b"1" * 32, b"2" * 32)
    ]
    outcomes = await asyncio.gather(*(each.open() for each in replicas), return_exceptions=True)
    assert sorted(type(outcome) for outcome in outcomes if outcome is not None) == [BadSecrets]
    again = await hub_here.sign_in(replicas[outcomes.index(None)], ANNA)
    assert again.device.account_id == anna.device.account_id


# --- sessions ---


@on_every_store
async def test_a_session_is_told_its_account_and_spaces_and_nothing_is_written(hub_here):
    """Anybody can name a device; only afterwards the device proves that it is the one."""
    accounts = hub_here.replica()
    anna = await hub_here.sign_in(accounts, ANNA)
    space_id = await a_space(accounts, anna)
    watched = accounts._store = Watched(hub_here.store)
    account, spaces = await accounts.ready_facts(anna.device)
    assert account.account_id == anna.device.account_id
    assert [space.space_id for space in spaces] == [space_id]
    assert spaces == await accounts.spaces(account.account_id)
    assert set(watched.calls) == {"account", "spaces"}
    hub_here.clock.now += DAY
    await accounts.ready_facts(anna.device)
    assert await accounts.authenticate(anna.device.device_id) == anna.device


async def test_a_device_is_noted_as_seen_once_it_has_proved_itself(tmp_path):
    async with hub_in(tmp_path) as place:
        wire = Wire(place.url)
        await wire.sign_up(place.mailbox, ANNA)
        await wire.hang_up()
        device = await place.hub.store.device(wire.device_id)
        day = device.last_seen_day

        async def seen_on(day):
            await place.hub.server.note_seen(day)
            return (await place.hub.store.device(wire.device_id)).last_seen_day

        while place.hub.server.fanout.device_ids():  # its first session is still leaving
            await asyncio.sleep(0.001)
        await seen_on(day)
        stranger = Wire(place.url)
        stranger.device_id = wire.device_id
        await stranger.greet()
        await stranger.say(m.Auth(bytes(64)))
        assert await stranger.closing() == 4501
        assert await seen_on(day + 1) == day
        await wire.sign_in()
        assert await seen_on(day + 2) == day + 2
        await wire.hang_up()


async def test_a_session_of_an_account_that_went_is_closed(hub_here):
    accounts = hub_here.replica()
    anna = await hub_here.sign_in(accounts, ANNA)
    await hub_here.store.delete_account(anna.device.account_id)
    assert await accounts.authenticate(anna.device.device_id) is None
    with pytest.raises(Closing, match="account_deleted"):
        await accounts.ready_facts(anna.device)


async def test_unknown_and_revoked_devices_are_not_authenticated(hub_here):
    accounts = hub_here.replica()
    anna = await hub_here.sign_in(accounts, ANNA)
    await accounts.revoke_devices(RevokeDevices(1, [anna.device.device_id]), anna.caller())
    assert await accounts.authenticate(anna.device.device_id) is None
    assert await accounts.authenticate(bytes(16)) is None


# --- spaces ---


@on_every_store
async def test_a_space_is_made_once_by_whoever_proves_its_key(hub_here):
    accounts = hub_here.replica()
    anna = await hub_here.sign_in(accounts, ANNA)
    key = pk(SigningKey.generate())
    msg = CreateSpace(9, space_id_of(key), "notes", key, bytes(64))
    made = await accounts.create_space(msg, anna.caller(), True)
    assert (made.space_id, made.app_id, made.key_epoch, made.space_pk) == (msg.space_id, "notes", 0, key)
    assert await accounts.create_space(msg, anna.caller(), True) == made
    assert len(await accounts.spaces(anna.device.account_id)) == 1


def test_the_id_of_a_space_is_the_published_vector():
    key = bytes.fromhex("14828fc255b031e670b26f4feb5dcf6f36fed8f8eb4773228b7540788dedc2a3")
    assert space_id_of(key) == bytes.fromhex("27881e9abb149868695f8bf221fec1d1")


async def test_a_space_needs_its_proof_a_sound_key_and_the_id_that_names_it(hub_here):
    accounts = hub_here.replica()
    anna = await hub_here.sign_in(accounts, ANNA)
    key, weak = pk(SigningKey.generate()), bad_keys()[10]
    for msg, proof_ok in (
        (CreateSpace(9, space_id_of(key), "notes", key, bytes(64)), False),
        (CreateSpace(9, bytes(16), "notes", key, bytes(64)), True),
        (CreateSpace(9, space_id_of(weak), "notes", weak, bytes(64)), True),
    ):
        assert await refused(accounts.create_space(msg, anna.caller(), proof_ok)) == "bad_space_proof"
    assert await accounts.spaces(anna.device.account_id) == []


async def test_an_app_makes_and_finds_spaces_of_its_own_only(hub_here):
    accounts = hub_here.replica()
    notes = await hub_here.sign_in(accounts, ANNA)
    board = await hub_here.sign_in(accounts, ANNA, app_id="board", scope="account")
    key = pk(SigningKey.generate())
    tasks = CreateSpace(9, space_id_of(key), "tasks", key, bytes(64))
    assert await refused(accounts.create_space(tasks, notes.caller(), True)) == "forbidden"
    assert await accounts.create_space(tasks, board.caller(), True)
    disguised = CreateSpace(9, space_id_of(key), "notes", key, bytes(64))
    assert await refused(accounts.create_space(disguised, notes.caller(), True)) == "forbidden"


@on_every_store
async def test_an_account_has_a_limited_number_of_spaces(hub_here):
    accounts = hub_here.replica(limits=Limits(spaces_per_account_max=2))
    anna = await hub_here.sign_in(accounts, ANNA)
    await a_space(accounts, anna)
    await a_space(accounts, anna)
    assert await refused(a_space(accounts, anna)) == "too_many"


# --- devices ---


async def test_an_app_sees_its_own_devices_and_the_account_all(hub_here):
    accounts = hub_here.replica()
    notes = await hub_here.sign_in(accounts, ANNA)
    hub_here.clock.now += 1
    tasks = await hub_here.sign_in(accounts, ANNA, app_id="tasks")
    hub_here.clock.now += 1
    board = await hub_here.sign_in(accounts, ANNA, app_id="board", scope="account")
    await hub_here.sign_in(accounts, BEN)
    listed = await accounts.list_devices(notes.caller())
    assert [info.device_id for info in listed] == [notes.device.device_id]
    assert (listed[0].device_pk, listed[0].enrolled_via, listed[0].probation_until) == (pk(notes.key), "first", 0.0)
    everything = await accounts.list_devices(board.caller())
    assert [info.device_id for info in everything] == [p.device.device_id for p in (notes, tasks, board)]
    assert everything[1].probation_until == START + 1 + 72 * HOUR


@dataclass
class Family:
    """Two trusted devices of Anna's, one on probation, one of a stranger; and a space."""

    accounts: Accounts
    app: Person
    board: Person
    mailed: Person
    stranger: Person
    space_id: bytes

    def space_of(self, person, entered):
        return person.caller(entered=frozenset({self.space_id} if entered else ()))


@pytest.fixture
async def family(hub_here):
    accounts = hub_here.replica()
    app = await hub_here.sign_in(accounts, ANNA)
    board = await hub_here.sign_in(accounts, ANNA, app_id="board", scope="account")
    await accounts.approve_device(ApproveDevice(1, app.device.device_id), app.caller())
    hub_here.clock.now += 73 * HOUR  # board is off probation by time
    mailed = await hub_here.sign_in(accounts, ANNA, scope="account")
    stranger = await hub_here.sign_in(accounts, BEN, scope="account")
    space_id = await a_space(accounts, app)
    hub_here.notices.clear()
    await hub_here.told()
    hub_here.notices.clear()
    return Family(accounts, app, board, mailed, stranger, space_id)


def verbs(f, person, other):
    """Every verb that needs a right, as this person's session would ask."""
    accounts, caller = f.accounts, person.caller(fresh_code_until=float("inf"))
    return {
        "revoke": lambda: accounts.revoke_devices(RevokeDevices(1, [other.device.device_id]), caller),
        "revoke with itself": lambda: accounts.revoke_devices(
            RevokeDevices(1, [person.device.device_id, other.device.device_id]), caller
        ),
        "delete space": lambda: accounts.delete_space(DeleteSpace(1, f.space_id), caller),
        "delete entered space": lambda: accounts.delete_space(DeleteSpace(1, f.space_id), f.space_of(person, True)),
        "delete account": lambda: accounts.delete_account(DeleteAccount(1), caller),
        "approve": lambda: accounts.approve_device(ApproveDevice(1, other.device.device_id), caller),
    }


async def test_a_device_on_probation_destroys_nothing_and_changes_nothing(hub_here, family):
    for name, verb in verbs(family, family.mailed, family.app).items():
        assert await refused(verb()) == "probation", name
    assert await hub_here.told() == []
    assert len(await hub_here.store.devices(family.app.device.account_id)) == 3
    account, spaces = await family.accounts.ready_facts(family.app.device)
    assert account.deleted_at is None and [s.deleted_at for s in spaces] == [None]


async def test_a_device_on_probation_may_still_go_and_keep_things(family):
    cancel = CancelDeletion(1, family.space_id)
    assert await family.accounts.cancel_deletion(cancel, family.mailed.caller()) == Done(1)
    gone = RevokeDevices(1, [family.mailed.device.device_id])
    assert await family.accounts.revoke_devices(gone, family.mailed.caller()) == Done(1)


async def test_an_app_device_has_no_rights_of_the_account(hub_here, family):
    expected = {
        "revoke": "forbidden",
        "revoke with itself": "forbidden",
        "delete space": "no_space_proof",
        "delete account": "forbidden",
        "approve": "forbidden",
    }
    asked = verbs(family, family.app, family.board)
    for name, code in expected.items():
        assert await refused(asked[name]()) == code, name
    assert await hub_here.told() == []


@on_every_store
async def test_an_app_device_takes_a_lost_device_of_its_app_off_the_account_and_no_other(hub_here):
    accounts = hub_here.replica()
    phone = await hub_here.sign_in(accounts, ANNA)
    laptop = await hub_here.sign_in(accounts, ANNA)
    tasks = await hub_here.sign_in(accounts, ANNA, app_id="tasks")
    ids = [person.device.device_id for person in (laptop, tasks)]
    assert await refused(accounts.revoke_devices(RevokeDevices(1, ids), phone.caller())) == "forbidden"
    assert len(await hub_here.store.devices(phone.device.account_id)) == 3
    assert await accounts.revoke_devices(RevokeDevices(1, ids[:1]), phone.caller()) == Done(1)
    assert [info.device_id for info in await accounts.list_devices(phone.caller())] == [phone.device.device_id]
    assert not await accounts.authenticate(ids[0]) and await accounts.authenticate(ids[1])


async def test_of_another_account_nothing_is_found_or_told(hub_here, family):
    accounts, eve = family.accounts, family.stranger.caller(entered=frozenset({family.space_id}))
    victim = family.app.device.device_id
    for attack in (
        accounts.revoke_devices(RevokeDevices(1, [victim]), eve),
        accounts.revoke_devices(RevokeDevices(1, [family.stranger.device.device_id, victim]), eve),
        accounts.revoke_devices(RevokeDevices(1, [bytes(16)]), eve),
        accounts.approve_device(ApproveDevice(1, family.mailed.device.device_id), eve),
        accounts.approve_device(ApproveDevice(1, bytes(16)), eve),
        accounts.delete_space(DeleteSpace(1, family.space_id), eve),
        accounts.delete_space(DeleteSpace(1, bytes(16)), eve),
        accounts.cancel_deletion(CancelDeletion(1, family.space_id), eve),
        accounts.cancel_deletion(CancelDeletion(1, bytes(16)), eve),
    ):
        assert await refused(attack) == "not_found"
    assert await hub_here.told() == []
    assert await accounts.authenticate(victim) and await accounts.authenticate(family.stranger.device.device_id)


async def test_an_app_does_not_learn_of_other_apps_spaces(family):
    other = await a_space(family.accounts, family.board, app_id="tasks")
    asked = family.accounts.delete_space(DeleteSpace(1, other), family.app.caller())
    assert await refused(asked) == "not_found"


async def test_a_revoked_device_whose_socket_still_lives_gets_nothing_done(hub_here, family):
    """Or a thief could revoke the owner's devices in the seconds before his own session is closed."""
    gone = family.board.device.device_id
    await family.accounts.revoke_devices(RevokeDevices(1, [gone]), family.board.caller())
    await hub_here.told()
    hub_here.notices.clear()
    asked = verbs(family, family.board, family.app) | {
        "cancel": lambda: family.accounts.cancel_deletion(CancelDeletion(1), family.board.caller()),
        "confirm": lambda: family.accounts.confirm(Confirm(1, bytes(16), "12345678"), family.board.caller()),
        "create": lambda: a_space(family.accounts, family.board),
        "itself": lambda: family.accounts.revoke_devices(RevokeDevices(1, [gone]), family.board.caller()),
    }
    for name, verb in asked.items():
        with pytest.raises(Closing, match="revoked"):
            await verb()
        assert await hub_here.told() == [], name


@on_every_store
async def test_revoking_is_durable_then_told_and_may_be_asked_again(hub_here, family):
    ids = [family.app.device.device_id, family.mailed.device.device_id]
    assert await family.accounts.revoke_devices(RevokeDevices(5, ids), family.board.caller()) == Done(5)
    now = hub_here.clock.now
    assert await hub_here.told() == [
        DevicesRevoked(tuple(ids)),
        AccountChanged("device_revoked", ids[0], b"", now),
        AccountChanged("device_revoked", ids[1], b"", now),
    ]
    assert await hub_here.store.revoked_among(ids) == set(ids)
    hub_here.notices.clear()
    assert await family.accounts.revoke_devices(RevokeDevices(6, ids), family.board.caller()) == Done(6)
    assert await hub_here.told() == [DevicesRevoked(tuple(ids))]


async def test_one_unknown_device_and_none_is_revoked(hub_here, family):
    ids = [family.app.device.device_id, bytes(16)]
    asked = family.accounts.revoke_devices(RevokeDevices(1, ids), family.board.caller())
    assert await refused(asked) == "not_found"
    assert await family.accounts.authenticate(ids[0])


# --- probation ---


@on_every_store
async def test_a_mailed_device_is_on_probation_until_time_or_another_device_lifts_it(hub_here):
    accounts = hub_here.replica()
    first = await hub_here.sign_in(accounts, ANNA)
    second = await hub_here.sign_in(accounts, ANNA)
    assert (second.device.enrolled_via, second.device.probation_until) == ("mail", START + 72 * HOUR)
    space_id = await a_space(accounts, second)  # it may make and enter spaces
    entered = second.caller(entered=frozenset({space_id}))
    hub_here.clock.now = START + 72 * HOUR - 1
    assert await refused(accounts.delete_space(DeleteSpace(1, space_id), entered)) == "probation"
    hub_here.clock.now = START + 72 * HOUR
    assert await accounts.delete_space(DeleteSpace(1, space_id), entered) == Deleted(1)

    third = await hub_here.sign_in(accounts, ANNA)
    space_id = await a_space(accounts, third)
    assert await refused(accounts.approve_device(ApproveDevice(1, third.device.device_id), third.caller())) == (
        "probation"
    )
    approve = ApproveDevice(4, third.device.device_id)
    assert await accounts.approve_device(approve, first.caller()) == Done(4)
    approved = AccountChanged("device_approved", third.device.device_id, b"", hub_here.clock.now)
    assert (await hub_here.told())[-1] == approved
    entered = third.caller(entered=frozenset({space_id}), probation_until=third.device.probation_until)
    assert await accounts.delete_space(DeleteSpace(1, space_id), entered) == Deleted(1)


@pytest.mark.parametrize(("days", "probation"), [(90, True), (91, False)])
async def test_there_is_no_probation_when_no_other_device_was_seen_for_ninety_days(hub_here, days, probation):
    accounts = hub_here.replica()
    await hub_here.sign_in(accounts, ANNA)
    hub_here.clock.now += days * DAY
    late = await hub_here.sign_in(accounts, ANNA)
    assert late.device.enrolled_via == "mail"
    assert (late.device.probation_until is not None) is probation


async def test_a_revoked_device_puts_nobody_on_probation(hub_here):
    accounts = hub_here.replica()
    first = await hub_here.sign_in(accounts, ANNA)
    await accounts.revoke_devices(RevokeDevices(1, [first.device.device_id]), first.caller())
    second = await hub_here.sign_in(accounts, ANNA)
    assert second.device.account_id == first.device.account_id
    assert (second.device.enrolled_via, second.device.probation_until) == ("mail", None)


async def test_an_app_approves_its_own_apps_devices_and_none_with_more_rights(hub_here):
    accounts = hub_here.replica()
    notes = await hub_here.sign_in(accounts, ANNA)
    same = await hub_here.sign_in(accounts, ANNA)
    tasks = await hub_here.sign_in(accounts, ANNA, app_id="tasks")
    board = await hub_here.sign_in(accounts, ANNA, scope="account")
    for other in (tasks, board):
        asked = accounts.approve_device(ApproveDevice(1, other.device.device_id), notes.caller())
        assert await refused(asked) == "forbidden"
    assert await accounts.approve_device(ApproveDevice(1, same.device.device_id), notes.caller())
    hub_here.clock.now += 72 * HOUR
    assert await accounts.approve_device(ApproveDevice(1, tasks.device.device_id), board.caller())
    await hub_here.store.revoke(board.device.account_id, [tasks.device.device_id], START)
    asked = accounts.approve_device(ApproveDevice(1, tasks.device.device_id), board.caller())
    assert await refused(asked) == "not_found"


# --- fresh codes ---


async def fresh_code(hub, family, person, address=ANNA, **changes):
    caller = person.caller()
    values = {"key": person.key, "purpose": "confirm", "caller": caller} | changes
    sent = await ask(family.accounts, address, **values)
    return sent, (await hub.mailbox.next()).code


@on_every_store
async def test_a_fresh_code_opens_ten_minutes_for_its_own_session(hub_here, family):
    sent, code = await fresh_code(hub_here, family, family.board)
    assert "delete your account" in hub_here.mailbox.mails[-1].text
    until = await family.accounts.confirm(Confirm(1, sent.attempt_id, code), family.board.caller())
    assert until == hub_here.clock.now + 600.0
    again = family.accounts.confirm(Confirm(1, sent.attempt_id, code), family.board.caller())
    assert await refused(again) == "enrol_failed"


async def test_a_fresh_code_is_no_sign_in_and_a_sign_in_code_no_fresh_one(hub_here, family):
    sent, code = await fresh_code(hub_here, family, family.board)
    assert await refused(enrol(family.accounts, sent, code, family.board.key)) == "enrol_failed"
    sent, code = await asked_and_mailed(hub_here, family.accounts, ANNA, key=family.board.key)
    confirm = family.accounts.confirm(Confirm(1, sent.attempt_id, code), family.board.caller())
    assert await refused(confirm) == "enrol_failed"


async def test_a_fresh_code_is_bound_to_the_device_that_asked(hub_here, family):
    sent, code = await fresh_code(hub_here, family, family.board)
    confirm = Confirm(1, sent.attempt_id, code)
    assert await refused(family.accounts.confirm(confirm, family.app.caller())) == "enrol_failed"
    assert await refused(family.accounts.confirm(confirm, family.stranger.caller())) == "enrol_failed"
    assert await family.accounts.confirm(confirm, family.board.caller())


async def test_a_fresh_code_is_wrong_five_times_at_most(hub_here, family):
    sent, code = await fresh_code(hub_here, family, family.board)
    for _ in range(5):
        wrong = Confirm(1, sent.attempt_id, other_than(code))
        assert await refused(family.accounts.confirm(wrong, family.board.caller())) == "enrol_failed"
    right = Confirm(1, sent.attempt_id, code)
    assert await refused(family.accounts.confirm(right, family.board.caller())) == "enrol_failed"


async def test_a_fresh_code_is_mailed_to_the_callers_own_address_only(hub_here, family):
    mails = len(hub_here.mailbox.mails)
    caller = family.board.caller()
    answers = [
        await ask(family.accounts, BEN, purpose="confirm", caller=caller, key=family.board.key),
        await ask(family.accounts, EVE, purpose="confirm", caller=caller, key=family.board.key),
        await ask(family.accounts, ANNA, purpose="confirm", key=family.board.key),
    ]
    assert all(isinstance(answer, CodeSent) and answer.expires_in_s == 600.0 for answer in answers)
    assert await mailed_number(hub_here, family.accounts) == mails


# --- deletions ---


async def test_a_space_that_was_entered_goes_at_once(hub_here, family):
    asked = family.accounts.delete_space(DeleteSpace(3, family.space_id), family.space_of(family.app, True))
    assert await asked == Deleted(3)
    assert await family.accounts.spaces(family.app.device.account_id) == []
    assert await hub_here.told() == [AccountChanged("space_deleted", b"", family.space_id, hub_here.clock.now)]


@on_every_store
async def test_a_space_nobody_entered_goes_after_three_days_unless_any_device_keeps_it(hub_here, family):
    accounts, store = family.accounts, hub_here.store
    asked = DeleteSpace(3, family.space_id)
    at = hub_here.clock.now + 72 * HOUR
    assert await accounts.delete_space(asked, family.board.caller()) == Deleted(3, at)
    assert await hub_here.told() == [AccountChanged("space_deletion_set", b"", family.space_id, at)]
    hub_here.clock.now += HOUR
    assert await accounts.delete_space(asked, family.board.caller()) == Deleted(3, at)  # keeps its time
    assert await accounts.cancel_deletion(CancelDeletion(4, family.space_id), family.app.caller()) == Done(4)
    assert (await hub_here.told())[-1] == AccountChanged("space_deletion_cancelled", b"", family.space_id)
    await accounts.upkeep(at + DAY)
    assert len(await store.spaces(family.app.device.account_id)) == 1

    at = (await accounts.delete_space(asked, family.board.caller())).deleted_at
    await accounts.upkeep(at - 1)
    assert len(await store.spaces(family.app.device.account_id)) == 1
    await accounts.upkeep(at)
    assert await store.spaces(family.app.device.account_id) == []
    assert (await hub_here.told())[-1] == AccountChanged("space_deleted", b"", family.space_id, at)


@on_every_store
async def test_an_account_goes_three_days_after_a_fresh_code(hub_here, family):
    accounts, account_id = family.accounts, family.board.device.account_id
    now = hub_here.clock.now
    for until in (0.0, now - 1, now):
        asked = accounts.delete_account(DeleteAccount(1), family.board.caller(fresh_code_until=until))
        assert await refused(asked) == "fresh_code_needed"
    fresh = family.board.caller(fresh_code_until=now + 600)
    assert await accounts.delete_account(DeleteAccount(1), fresh) == Deleted(1, now + 72 * HOUR)
    assert await hub_here.told() == [AccountChanged("account_deletion_set", at=now + 72 * HOUR)]
    hub_here.clock.now += 60
    assert await accounts.delete_account(DeleteAccount(1), fresh) == Deleted(1, now + 72 * HOUR)  # keeps its time

    await accounts.upkeep(now + 72 * HOUR - 1)
    assert await hub_here.store.account(account_id)
    await accounts.upkeep(now + 72 * HOUR)
    assert await hub_here.store.account(account_id) is None
    assert await accounts.authenticate(family.app.device.device_id) is None
    assert (await hub_here.told())[-1] == AccountChanged("account_deleted", at=now + 72 * HOUR)
    assert await accounts.authenticate(family.stranger.device.device_id)


async def test_any_device_keeps_the_account_until_the_last_minute(hub_here, family):
    accounts = family.accounts
    fresh = family.board.caller(fresh_code_until=float("inf"))
    at = (await accounts.delete_account(DeleteAccount(1), fresh)).deleted_at
    hub_here.clock.now = at - 60
    assert await accounts.cancel_deletion(CancelDeletion(2), family.app.caller()) == Done(2)
    assert (await hub_here.told())[-1] == AccountChanged("account_deletion_cancelled")
    await accounts.upkeep(at + DAY)
    assert await accounts.authenticate(family.app.device.device_id)

    at = (await accounts.delete_account(DeleteAccount(1), fresh)).deleted_at
    hub_here.clock.now = at - 59
    assert await refused(accounts.cancel_deletion(CancelDeletion(2), family.app.caller())) == "not_found"


async def test_cancelling_what_was_never_asked_for_is_done_and_told_to_nobody(hub_here, family):
    for space_id in (None, family.space_id):
        asked = family.accounts.cancel_deletion(CancelDeletion(2, space_id), family.app.caller())
        assert await asked == Done(2)
    assert await hub_here.told() == []


@on_every_store
async def test_attempts_are_forgotten_after_a_day(hub_here):
    accounts = hub_here.replica()
    sent, code = await asked_and_mailed(hub_here, accounts, ANNA)
    await accounts.upkeep(START + DAY)
    assert await enrol(accounts, sent, code)  # by the clock of this hub no second has passed
    sent, code = await asked_and_mailed(hub_here, accounts, ANNA)
    await accounts.upkeep(START + DAY + 1)
    assert await refused(enrol(accounts, sent, code, SigningKey.generate())) == "enrol_failed"
    assert await hub_here.store.charge_attempt(sent.attempt_id, START, 5) is None


@on_every_store
async def test_what_was_counted_is_forgotten_when_it_decides_nothing_any_more_on_any_clock(hub_here):
    accounts = hub_here.replica(code_limits=CodeLimits())
    for _ in range(5):
        await ask(accounts, ANNA)
    await accounts.upkeep(START + DAY + HOUR)
    assert await refused(ask(hub_here.replica(code_limits=CodeLimits()), ANNA)) == "slow_down"  # still known
    await accounts.upkeep(START + DAY + HOUR + 1)
    assert await hub_here.store.forget_spent(START + 10 * DAY) == 0
    assert await ask(hub_here.replica(code_limits=CodeLimits()), ANNA)


# --- two replicas at one moment ---


async def outcomes_of(*asked):
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(outcome, Refusal) for outcome in outcomes if isinstance(outcome, BaseException))
    return outcomes, sorted(outcome.code if isinstance(outcome, Refusal) else "" for outcome in outcomes)


@on_every_store
async def test_one_address_at_two_replicas_becomes_one_account(hub_here):
    replicas = [hub_here.replica(), hub_here.replica()]
    keys = [SigningKey.generate() for _ in range(6)]
    asked = [await asked_and_mailed(hub_here, replicas[i % 2], ANNA, key=key) for i, key in enumerate(keys)]
    tries = (enrol(replicas[i % 2], *asked[i], key) for i, key in enumerate(keys))
    _, codes = await outcomes_of(*tries)
    assert codes.count("") >= 1 and set(codes) <= {"", "enrol_failed"}
    assert await hub_here.store.count_accounts() == 1


@on_every_store
@pytest.mark.parametrize("mode", ["closed", "invite"])
async def test_two_people_at_two_replicas_come_in_by_one_door_one_after_the_other(hub_here, mode):
    replicas = [hub_here.replica(mode), hub_here.replica(mode)]
    token = await replicas[0].make_invite(DAY)
    keys = [SigningKey.generate() for _ in range(2)]
    addresses = (ANNA, BEN)
    asked = [await asked_and_mailed(hub_here, replicas[i], addresses[i], key=keys[i], invite=token) for i in range(2)]
    _, codes = await outcomes_of(*(enrol(replicas[i], *asked[i], keys[i]) for i in range(2)))
    assert codes == ["", "enrol_failed"]
    assert await hub_here.store.count_accounts() == 1


@on_every_store
async def test_a_fresh_code_given_at_two_replicas_works_once(hub_here, family):
    other = hub_here.replica()
    sent, code = await fresh_code(hub_here, family, family.board)
    confirm = Confirm(1, sent.attempt_id, code)
    both = (family.accounts, other)
    _, codes = await outcomes_of(*(each.confirm(confirm, family.board.caller()) for each in both * 2))
    assert codes == ["", "enrol_failed", "enrol_failed", "enrol_failed"]


@on_every_store
async def test_a_deletion_that_two_replicas_carry_out_is_told_once(hub_here, family):
    other = hub_here.replica()
    asked = DeleteSpace(3, family.space_id)
    at = (await family.accounts.delete_space(asked, family.board.caller())).deleted_at
    await hub_here.told()
    hub_here.notices.clear()
    await asyncio.gather(*(each.upkeep(at) for each in (family.accounts, other)))
    assert await hub_here.told() == [AccountChanged("space_deleted", b"", family.space_id, at)]


@pytest.mark.parametrize("of_account", [True, False])
async def test_a_deletion_asked_for_again_does_not_undo_what_another_replica_cancels_meanwhile(
    hub_here, family, of_account
):
    caller = family.board.caller(fresh_code_until=float("inf"))

    def delete(accounts):
        if of_account:
            return accounts.delete_account(DeleteAccount(1), caller)
        return accounts.delete_space(DeleteSpace(1, family.space_id), caller)

    class CancelledMeanwhile(Watched):
        """Between what is read and what is written."""

        async def account(self, account_id):
            account = await self.store.account(account_id)
            await self.store.schedule_account_deletion(account_id, None)
            return account

        async def spaces(self, account_id):
            spaces = await self.store.spaces(account_id)
            await self.store.schedule_space_deletion(account_id, spaces[0].space_id, None)
            return spaces

    first = await delete(family.accounts)
    hub_here.clock.now += 70 * HOUR
    assert await delete(hub_here.replica(store=CancelledMeanwhile(hub_here.store))) == first
    assert await hub_here.store.due_deletions(first.deleted_at) == ([], [])


@pytest.mark.parametrize("of_account", [True, False])
async def test_a_cancellation_that_came_too_late_says_so(hub_here, family, of_account):
    """Another replica carried the deletion out between what is read and what is written."""

    class CarriedOutMeanwhile(Watched):
        async def schedule_account_deletion(self, account_id, at):
            await self.store.delete_account(account_id)
            return await self.store.schedule_account_deletion(account_id, at)

        async def schedule_space_deletion(self, account_id, space_id, at):
            await self.store.delete_space(account_id, space_id)
            return await self.store.schedule_space_deletion(account_id, space_id, at)

    caller = family.board.caller(fresh_code_until=float("inf"))
    if of_account:
        await family.accounts.delete_account(DeleteAccount(1), caller)
    else:
        await family.accounts.delete_space(DeleteSpace(1, family.space_id), caller)
    await hub_here.told()
    hub_here.notices.clear()
    late = hub_here.replica(store=CarriedOutMeanwhile(hub_here.store))
    cancel = CancelDeletion(2, None if of_account else family.space_id)
    assert await refused(late.cancel_deletion(cancel, family.app.caller())) == "not_found"
    assert await hub_here.told() == []
