"""Accounts: what a session is told, another address, operators, upkeep, and two replicas at one moment."""

from __future__ import annotations

import asyncio
import dataclasses

import pyotp
import pytest
from nacl.signing import SigningKey

from hub.bus import AccountChanged
from hub.codes import add_invite
from hub.errors import Closing, Refusal
from hub.totp import operator_secret, text_of
from hub.wire import messages as m
from hub.wire.messages import (
    CancelDeletion,
    ChangeAddress,
    CodeSent,
    Confirm,
    DeleteAccount,
    DeleteSpace,
    Done,
    OperatorCode,
    RevokeDevices,
)
from tests.accounts_rig import (
    ANNA,
    BEN,
    DAY,
    EVE,
    HOUR,
    Watched,
    a_space,
    accounts_hub,
    append,
    ask,
    asked_and_mailed,
    enrol,
    family_of,
    fresh_code,
    mailed_number,
    pk,
    refused,
)
from tests.hub_rig import Wire, hub_in

# Where the store's own care is what makes the test pass.
on_every_store = pytest.mark.parametrize("hub_here", ["memory", "sqlite"], indirect=True)


@pytest.fixture
async def hub_here(request, tmp_path):
    async with accounts_hub(getattr(request, "param", "memory"), tmp_path) as hub:
        yield hub


@pytest.fixture
async def family(hub_here):
    return await family_of(hub_here)


# --- sessions ---


@on_every_store
async def test_a_session_is_told_its_account_and_spaces_and_nothing_is_written(hub_here):
    """Anybody can name a device; only afterwards the device proves that it is the one."""
    accounts = hub_here.replica()
    anna = await hub_here.sign_in(accounts, ANNA)
    space_id = await a_space(accounts, anna)
    watched = accounts._store = Watched(hub_here.store)
    (found,) = await accounts.look_up([anna.device.device_id])
    device, account, spaces, _ = found
    assert device == anna.device and account.account_id == anna.device.account_id
    assert [space.space_id for space in spaces] == [space_id]
    assert spaces == await hub_here.store.spaces(account.account_id)
    assert watched.calls == ["arrivals"]
    hub_here.clock.now += DAY
    assert await accounts.look_up([anna.device.device_id]) == [found]
    assert await accounts.rights.authenticate(anna.device.device_id) == anna.device


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
    assert await accounts.rights.authenticate(anna.device.device_id) is None
    assert await accounts.look_up([anna.device.device_id]) == [None]
    with pytest.raises(Closing, match="account_deleted"):
        await accounts.enrolled(anna.device)


async def test_a_device_that_is_revoked_as_soon_as_it_is_enrolled_is_closed(hub_here, family):
    device = family.app.device
    assert (await family.accounts.enrolled(device)).device == device
    await hub_here.store.revoke(device.account_id, [device.device_id], hub_here.clock.now)
    with pytest.raises(Closing, match="revoked"):
        await family.accounts.enrolled(device)


async def test_unknown_and_revoked_devices_are_not_authenticated(hub_here):
    accounts = hub_here.replica()
    anna = await hub_here.sign_in(accounts, ANNA)
    await accounts.rights.revoke_devices(RevokeDevices(1, [anna.device.device_id]), anna.caller())
    assert await accounts.rights.authenticate(anna.device.device_id) is None
    assert await accounts.rights.authenticate(bytes(16)) is None


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
    token = await add_invite(hub_here.store, DAY, clock=hub_here.clock)
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
    at = (await family.accounts.rights.delete_space(asked, family.board.caller())).deleted_at
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
            return accounts.rights.delete_account(DeleteAccount(1), caller)
        return accounts.rights.delete_space(DeleteSpace(1, family.space_id, later=True), caller)

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
        await family.accounts.rights.delete_account(DeleteAccount(1), caller)
    else:
        await family.accounts.rights.delete_space(DeleteSpace(1, family.space_id, later=True), caller)
    await hub_here.told()
    hub_here.notices.clear()
    late = hub_here.replica(store=CarriedOutMeanwhile(hub_here.store))
    cancel = CancelDeletion(2, None if of_account else family.space_id)
    assert await refused(late.rights.cancel_deletion(cancel, family.app.caller())) == "not_found"
    assert await hub_here.told() == []


# --- an account that is stopped ---


@pytest.mark.parametrize("closing", ["suspended", "moving"])
async def test_no_device_comes_into_an_account_that_is_stopped(hub_here, family, closing):
    store, account_id = hub_here.store, family.app.device.account_id
    sent, code = await asked_and_mailed(hub_here, family.accounts, ANNA)
    if closing == "suspended":
        await store.suspend(account_id, hub_here.clock.now)
    else:
        await store.begin_move(account_id, "wss://new.example.org/v1/ws")
    with pytest.raises(Closing, match=closing):
        await enrol(family.accounts, sent, code)
    assert len(await store.devices(account_id)) == 3
    (facts,) = await family.accounts.look_up([family.app.device.device_id])
    assert facts.account.closing() == closing


async def test_a_device_whose_account_moved_is_looked_up_with_the_key_that_it_must_prove(hub_here, family):
    account_id, url = family.app.device.account_id, "wss://new.example.org/v1/ws"
    await hub_here.store.begin_move(account_id, url)
    await hub_here.store.end_move(account_id, hub_here.clock.now)
    asked = [family.app.device.device_id]
    (moved,) = await family.accounts.look_up(asked)
    assert (moved.url, moved.device_pk) == (url, pk(family.app.key))
    assert await family.accounts.look_up([bytes(16)]) == [None]
    await family.accounts.upkeep(hub_here.clock.now + 180 * DAY)
    assert await family.accounts.look_up(asked) == [moved]
    await family.accounts.upkeep(hub_here.clock.now + 181 * DAY + 1)
    assert await family.accounts.look_up(asked) == [None]


# --- addresses that the operator lists ---


async def list_address(hub, accounts, address, kind):
    tag = accounts._codes._tag(await accounts._codes._slow_hash(address))
    await hub.store.list_address(tag, kind, 1)


@on_every_store
async def test_a_blocked_address_gets_the_same_answer_and_no_mail_for_whatever_purpose(hub_here, family):
    await list_address(hub_here, family.accounts, ANNA, "blocked")
    await list_address(hub_here, family.accounts, EVE, "blocked")
    mails = len(hub_here.mailbox.mails)
    caller = family.board.caller()
    answers = [
        await ask(family.accounts, ANNA),
        await ask(family.accounts, EVE),
        await ask(family.accounts, ANNA, purpose="confirm", caller=caller, key=family.board.key),
        await ask(family.accounts, EVE, purpose="change", caller=caller, key=family.board.key),
    ]
    assert all(isinstance(answer, CodeSent) and answer.expires_in_s == 600.0 for answer in answers)
    assert await mailed_number(hub_here, family.accounts) == mails


@on_every_store
async def test_an_allowed_address_is_welcome_where_a_list_decides_and_nowhere_else(hub_here):
    by_list, closed = hub_here.replica("allowlist"), hub_here.replica("closed")
    await hub_here.sign_in(hub_here.replica("open"), BEN)
    for accounts in (by_list, closed):
        await list_address(hub_here, accounts, ANNA, "allowed")
    await ask(closed, ANNA)
    await ask(by_list, EVE)
    assert await mailed_number(hub_here, closed) == await mailed_number(hub_here, by_list) == 1
    by_list = hub_here.replica("allowlist")
    sent, code = await asked_and_mailed(hub_here, by_list, ANNA)
    assert (await enrol(by_list, sent, code)).enrolled_via == "first"


# --- another address ---


async def new_address(hub, family, person, address=EVE):
    sent = await ask(family.accounts, address, purpose="change", caller=person.caller(), key=person.key)
    return ChangeAddress(5, sent.attempt_id, (await hub.mailbox.next()).code)


@on_every_store
async def test_an_account_gets_another_address_by_a_code_from_each(hub_here, family):
    accounts, now = family.accounts, hub_here.clock.now
    change = await new_address(hub_here, family, family.board)
    assert "address of an account" in hub_here.mailbox.mails[-1].text
    for until in (0.0, now):
        stale = accounts.change_address(change, family.board.caller(fresh_code_until=until))
        assert await refused(stale) == "fresh_code_needed"
    fresh = family.board.caller(fresh_code_until=now + 1)
    assert await accounts.change_address(change, fresh) == Done(5)
    assert await hub_here.told() == [AccountChanged("address_changed", at=now)]
    (newest,) = await hub_here.store.audit(fresh.account_id, before=0, limit=1)
    assert (newest.what, newest.device_id) == ("address_changed", fresh.device_id)
    assert await refused(accounts.change_address(change, fresh)) == "enrol_failed"  # used up
    assert (await hub_here.sign_in(accounts, EVE)).device.account_id == fresh.account_id
    assert (await hub_here.sign_in(accounts, ANNA)).device.account_id != fresh.account_id


async def test_only_a_trusted_device_with_account_scope_changes_the_address(hub_here, family):
    change = await new_address(hub_here, family, family.board)
    for person, code in ((family.app, "forbidden"), (family.mailed, "probation")):
        fresh = person.caller(fresh_code_until=float("inf"))
        assert await refused(ask(family.accounts, EVE, purpose="change", caller=fresh, key=person.key)) == code
        assert await refused(family.accounts.change_address(change, fresh)) == code
    other = family.stranger.caller(fresh_code_until=float("inf"))
    assert await refused(family.accounts.change_address(change, other)) == "enrol_failed"  # another device's code


async def test_a_code_for_the_new_address_is_good_for_nothing_else_and_no_other_code_for_it(hub_here, family):
    fresh = family.board.caller(fresh_code_until=float("inf"))
    change = await new_address(hub_here, family, family.board)
    confirm = Confirm(1, change.attempt_id, change.code)
    assert await refused(family.accounts.confirm(confirm, fresh)) == "enrol_failed"
    assert await refused(enrol(family.accounts, change, change.code, family.board.key)) == "enrol_failed"
    sent, code = await fresh_code(hub_here, family, family.board)
    asked = family.accounts.change_address(ChangeAddress(1, sent.attempt_id, code), fresh)
    assert await refused(asked) == "enrol_failed"


@on_every_store
async def test_the_address_of_another_account_is_not_mailed_and_cannot_be_taken(hub_here, family):
    accounts = family.accounts
    mails = len(hub_here.mailbox.mails)
    caller = family.board.caller(fresh_code_until=float("inf"))
    sent = await ask(accounts, BEN, purpose="change", caller=caller, key=family.board.key)
    assert sent.expires_in_s == 600.0 and len(hub_here.mailbox.mails) == mails
    change = await new_address(hub_here, family, family.board)
    await hub_here.sign_in(accounts, EVE)  # somebody else was faster
    assert await refused(accounts.change_address(change, caller)) == "enrol_failed"
    assert (await hub_here.sign_in(accounts, ANNA)).device.account_id == caller.account_id


async def test_where_no_address_is_known_any_trusted_device_gives_one_without_a_code_of_it(
    hub_here, family, monkeypatch
):
    find = hub_here.store.account

    async def account(account_id):
        return dataclasses.replace(await find(account_id), address_known=False)

    monkeypatch.setattr(hub_here.store, "account", account)
    assert await refused(ask(family.accounts, EVE, purpose="change", caller=family.mailed.caller())) == "probation"
    change = await new_address(hub_here, family, family.app)
    assert await family.accounts.change_address(change, family.app.caller()) == Done(5)


# --- operators ---


@pytest.fixture
async def operator(hub_here, family):
    """Anna operates; what makes the digits of her authenticator app."""
    salt = b"s" * 16
    await hub_here.store.make_operator(family.board.device.account_id, salt, hub_here.clock.now)
    secret = operator_secret(hub_here.secrets.otp_key, family.board.device.account_id, salt)
    return pyotp.TOTP(text_of(secret))


@on_every_store
async def test_an_operators_code_works_once_and_for_fifteen_minutes(hub_here, family, operator):
    accounts, now = family.accounts, hub_here.clock.now
    typed = OperatorCode(1, operator.at(int(now)))
    until = await accounts.operator_code(typed, family.board.caller())
    assert until == now + 900
    assert await refused(accounts.operator_code(typed, family.board.caller())) == "wrong_code"
    assert await refused(hub_here.replica().operator_code(typed, family.board.caller())) == "wrong_code"
    entered = family.board.caller(operator_until=until)
    hub_here.clock.now = until - 1
    assert await accounts.may_operate(entered) == until - 1 + 900  # each use renews it
    hub_here.clock.now = until
    assert await refused(accounts.may_operate(entered)) == "operator_code_needed"
    (newest,) = await hub_here.store.audit(entered.account_id, before=0, limit=1)
    assert (newest.what, newest.device_id) == ("operator_entered", entered.device_id)


async def test_five_operators_codes_are_looked_at_in_fifteen_minutes(hub_here, family, operator):
    accounts = family.accounts
    wrong = OperatorCode(1, other_than_digits(operator.at(int(hub_here.clock.now))))
    for _ in range(5):
        assert await refused(accounts.operator_code(wrong, family.board.caller())) == "wrong_code"
    right = OperatorCode(1, operator.at(int(hub_here.clock.now)))
    assert await refused(accounts.operator_code(right, family.board.caller())) == "slow_down"
    hub_here.clock.now += 900
    right = OperatorCode(1, operator.at(int(hub_here.clock.now)))
    assert await accounts.operator_code(right, family.board.caller())


def other_than_digits(code):
    return f"{(int(code) + 1) % 10**6:06d}"


async def test_only_a_trusted_device_with_account_scope_of_an_operator_operates(hub_here, family, operator):
    typed = OperatorCode(1, operator.at(int(hub_here.clock.now)))
    for person, code in ((family.app, "forbidden"), (family.mailed, "probation"), (family.stranger, "forbidden")):
        caller = person.caller(operator_until=float("inf"))
        assert await refused(family.accounts.operator_code(typed, caller)) == code
        assert await refused(family.accounts.may_operate(caller)) == code
    entered = family.board.caller(operator_until=float("inf"))
    assert await family.accounts.may_operate(entered)
    await hub_here.store.drop_operator(entered.account_id)
    assert await refused(family.accounts.may_operate(entered)) == "forbidden"


async def test_a_device_with_account_scope_is_told_that_its_account_operates(family, operator):
    people = (family.board, family.app, family.stranger)
    found = await family.accounts.look_up([person.device.device_id for person in people])
    assert [standing.operator for standing in found] == [True, False, False]


# --- what is kept for how long ---


@on_every_store
async def test_what_every_space_uses_is_noted_once_for_each_day_that_ended(hub_here, family):
    accounts, account_id = family.accounts, family.app.device.account_id
    midnight = (hub_here.clock.now // DAY + 2) * DAY
    day = int(midnight // DAY) - 1
    first = await append(hub_here.store, family.app, family.space_id)
    await accounts.upkeep(midnight)
    second = await append(hub_here.store, family.app, family.space_id, counter=2)
    await accounts.upkeep(midnight + DAY - 1)  # the day goes on
    await hub_here.replica().upkeep(midnight + 60)

    async def growth():
        return [tuple(each) for each in (await hub_here.store.space_facts(account_id))[0].growth]

    assert await growth() == [(day, len(first))]
    await hub_here.replica().upkeep(midnight + DAY)
    assert await growth() == [(day, len(first)), (day + 1, len(first) + len(second))]
    await accounts.upkeep(midnight + 400 * DAY)
    assert (await growth())[0][0] == day
    await accounts.upkeep(midnight + 401 * DAY)
    assert (await growth())[0][0] == day + 1


@on_every_store
async def test_the_audit_list_goes_back_a_hundred_and_eighty_days(hub_here, family):
    now = hub_here.clock.now
    account_id = family.app.device.account_id
    newest = (await hub_here.store.audit(account_id, before=0, limit=1))[0].at
    await family.accounts.upkeep(newest + 180 * DAY)
    assert [each.at for each in await hub_here.store.audit(account_id, before=0, limit=9)] == [now, now]
    await family.accounts.upkeep(newest + 181 * DAY)
    assert await hub_here.store.audit(account_id, before=0, limit=9) == []
