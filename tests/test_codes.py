"""Codes in the mail: they prove a mailbox and nothing else, and tell a stranger nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import logging
import secrets as random_source

import pytest
import structlog
from nacl.signing import SigningKey

import hub.codes
from hub import log
from hub.address import slow_hash
from hub.bus import AccountChanged
from hub.codes import SignUp, add_invite
from hub.errors import Refusal
from hub.limiter import CodeLimiter, CodeLimits
from hub.secrets import BadSecrets, new_secrets
from hub.terms import Limits, Span
from hub.wire.messages import (
    CodeSent,
)
from tests.accounts_rig import (
    ANNA,
    BEN,
    DAY,
    EVE,
    HOUR,
    START,
    UNLIMITED,
    Hub,
    Watched,
    accounts_hub,
    ask,
    asked_and_mailed,
    bad_keys,
    enrol,
    mailed_number,
    other_than,
    refused,
    sqlite,
)
from tests.mailbox import HOST, Mailbox

# Where the store's own care is what makes the test pass.
on_every_store = pytest.mark.parametrize("hub_here", ["memory", "sqlite"], indirect=True)


@pytest.fixture
async def hub_here(request, tmp_path):
    async with accounts_hub(getattr(request, "param", "memory"), tmp_path) as hub:
        yield hub


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
    assert await accounts.rights.authenticate(device.device_id) == device
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


async def test_known_unknown_and_unwelcome_addresses_get_the_same_answer_after_the_same_work(hub_here, monkeypatch):
    """O-ENUM.  The work is compared, not the clock: the same slow hashes, and the same calls in the same order."""
    await hub_here.sign_in(hub_here.replica(), ANNA)
    hashes = []
    slow = hub.codes.slow_hash
    monkeypatch.setattr(hub.codes, "slow_hash", lambda *args: hashes.append(1) or slow(*args))
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
    make = hub.codes.code_of
    monkeypatch.setattr(hub.codes, "code_of", lambda secret: codes.append(make(secret)) or codes[-1])
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
    assert not accounts._codes._mails
    server.close()
    for writer in writers:
        writer.transport.abort()
    await server.wait_closed()


async def test_a_mail_that_fails_is_counted_and_logged_without_address_or_code(hub_here, lines, monkeypatch):
    codes = []
    make = hub.codes.code_of
    monkeypatch.setattr(hub.codes, "code_of", lambda secret: codes.append(make(secret)) or codes[-1])
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
    watched = accounts._codes._store = Watched(hub_here.store)
    monkeypatch.setattr(hub.codes, "slow_hash", None)
    with pytest.raises(Refusal) as caught:
        await ask(accounts, ANNA, ip="192.0.2.1")
    assert (caught.value.code, caught.value.retry_after_s) == ("slow_down", HOUR)
    assert set(watched.calls) == {"spend"}


async def test_a_mailbox_that_has_to_wait_costs_one_slow_hash_and_no_more(hub_here, monkeypatch):
    """Or whoever knows an address could have the hub hash it without end: what is refused is not counted."""
    accounts = hub_here.replica(code_limits=CodeLimits())
    hashes = []
    slow = hub.codes.slow_hash
    monkeypatch.setattr(hub.codes, "slow_hash", lambda *args: hashes.append(1) or slow(*args))
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
    slow = hub.codes.slow_hash
    monkeypatch.setattr(hub.codes, "slow_hash", lambda *args: hashes.append(1) or slow(*args))
    asked = (ask(accounts, f"person{i}@example.org", ip="192.0.2.1") for i in range(100))
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(outcome, CodeSent) for outcome in outcomes) == 10
    assert {outcome.code for outcome in outcomes if not isinstance(outcome, CodeSent)} == {"slow_down"}
    assert len(hashes) <= 10 + hub.codes.ARGON2_THREADS


async def test_sending_a_code_again_is_taken_from_the_senders_budget_before_the_slow_hash(hub_here, monkeypatch):
    limits = dataclasses.replace(UNLIMITED, near=(Span(2, HOUR),))
    accounts = hub_here.replica(code_limits=limits)
    sent = await ask(accounts, ANNA, ip="192.0.2.1")
    hub_here.clock.now += 60.0
    assert await ask(accounts, ANNA, ip="192.0.2.1", attempt_id=sent.attempt_id)
    hub_here.clock.now += 60.0
    other = hub_here.replica(code_limits=limits)
    monkeypatch.setattr(hub.codes, "slow_hash", None)
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
    assert SignUp(mode, allowed).welcomes(address, listed=None, hub_is_empty=empty, invite_is_open=invited) is welcome


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
    token = await add_invite(hub_here.store, DAY, clock=hub_here.clock)
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
    first = await add_invite(hub_here.store, DAY, clock=hub_here.clock)
    sent, code = await asked_and_mailed(hub_here, accounts, ANNA, invite=first)
    await enrol(accounts, sent, code)
    second = await add_invite(hub_here.store, DAY, clock=hub_here.clock)
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
