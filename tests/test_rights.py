"""Rights: what a device sees, changes and ends, and what it must not."""

from __future__ import annotations

import msgspec
import pytest
from nacl.signing import SigningKey

from hub.bus import AccountChanged, DevicesRevoked
from hub.errors import Closing
from hub.limiter import CodeLimits
from hub.rights import space_id_of
from hub.terms import Limits
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
    ListAudit,
    RevokeDevices,
)
from tests.accounts_rig import (
    ANNA,
    BEN,
    DAY,
    EVE,
    HOUR,
    START,
    a_space,
    accounts_hub,
    append,
    ask,
    asked_and_mailed,
    bad_keys,
    enrol,
    family_of,
    fresh_code,
    mailed_number,
    other_than,
    pk,
    refused,
)

# Where the store's own care is what makes the test pass.
on_every_store = pytest.mark.parametrize("hub_here", ["memory", "sqlite"], indirect=True)


@pytest.fixture
async def hub_here(request, tmp_path):
    async with accounts_hub(getattr(request, "param", "memory"), tmp_path) as hub:
        yield hub


@pytest.fixture
async def family(hub_here):
    return await family_of(hub_here)


# --- spaces ---


@on_every_store
async def test_a_space_is_made_once_by_whoever_proves_its_key(hub_here):
    accounts = hub_here.replica()
    anna = await hub_here.sign_in(accounts, ANNA)
    key = pk(SigningKey.generate())
    msg = CreateSpace(9, space_id_of(key), "notes", key, bytes(64))
    made = await accounts.rights.create_space(msg, anna.caller(), True)
    assert (made.space_id, made.app_id, made.key_epoch, made.space_pk) == (msg.space_id, "notes", 0, key)
    assert await accounts.rights.create_space(msg, anna.caller(), True) == made
    assert len(await hub_here.store.spaces(anna.device.account_id)) == 1


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
        assert await refused(accounts.rights.create_space(msg, anna.caller(), proof_ok)) == "bad_space_proof"
    assert await hub_here.store.spaces(anna.device.account_id) == []


async def test_an_app_makes_and_finds_spaces_of_its_own_only(hub_here):
    accounts = hub_here.replica()
    notes = await hub_here.sign_in(accounts, ANNA)
    board = await hub_here.sign_in(accounts, ANNA, app_id="board", scope="account")
    key = pk(SigningKey.generate())
    tasks = CreateSpace(9, space_id_of(key), "tasks", key, bytes(64))
    assert await refused(accounts.rights.create_space(tasks, notes.caller(), True)) == "forbidden"
    assert await accounts.rights.create_space(tasks, board.caller(), True)
    disguised = CreateSpace(9, space_id_of(key), "notes", key, bytes(64))
    assert await refused(accounts.rights.create_space(disguised, notes.caller(), True)) == "forbidden"


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
    listed = await accounts.rights.list_devices(notes.caller())
    assert [info.device_id for info in listed] == [notes.device.device_id]
    assert (listed[0].device_pk, listed[0].enrolled_via, listed[0].probation_until) == (pk(notes.key), "first", 0.0)
    everything = await accounts.rights.list_devices(board.caller())
    assert [info.device_id for info in everything] == [p.device.device_id for p in (notes, tasks, board)]
    assert everything[1].probation_until == START + 1 + 72 * HOUR


def verbs(f, person, other):
    """Every verb that needs a right, as this person's session would ask."""
    accounts, caller = f.accounts, person.caller(fresh_code_until=float("inf"))
    return {
        "revoke": lambda: accounts.rights.revoke_devices(RevokeDevices(1, [other.device.device_id]), caller),
        "revoke with itself": lambda: accounts.rights.revoke_devices(
            RevokeDevices(1, [person.device.device_id, other.device.device_id]), caller
        ),
        "delete space": lambda: accounts.rights.delete_space(DeleteSpace(1, f.space_id), caller),
        "delete entered space": lambda: accounts.rights.delete_space(
            DeleteSpace(1, f.space_id), f.space_of(person, True)
        ),
        "delete account": lambda: accounts.rights.delete_account(DeleteAccount(1), caller),
        "approve": lambda: accounts.rights.approve_device(ApproveDevice(1, other.device.device_id), caller),
    }


async def test_a_device_on_probation_destroys_nothing_and_changes_nothing(hub_here, family):
    for name, verb in verbs(family, family.mailed, family.app).items():
        assert await refused(verb()) == "probation", name
    assert await hub_here.told() == []
    assert len(await hub_here.store.devices(family.app.device.account_id)) == 3
    ((_, account, spaces, _),) = await family.accounts.look_up([family.app.device.device_id])
    assert account.deleted_at is None and [s.deleted_at for s in spaces] == [None]


async def test_a_device_on_probation_may_still_go_and_keep_things(family):
    cancel = CancelDeletion(1, family.space_id)
    assert await family.accounts.rights.cancel_deletion(cancel, family.mailed.caller()) == Done(1)
    gone = RevokeDevices(1, [family.mailed.device.device_id])
    assert await family.accounts.rights.revoke_devices(gone, family.mailed.caller()) == Done(1)


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
    assert await refused(accounts.rights.revoke_devices(RevokeDevices(1, ids), phone.caller())) == "forbidden"
    assert len(await hub_here.store.devices(phone.device.account_id)) == 3
    assert await accounts.rights.revoke_devices(RevokeDevices(1, ids[:1]), phone.caller()) == Done(1)
    assert [info.device_id for info in await accounts.rights.list_devices(phone.caller())] == [phone.device.device_id]
    assert not await accounts.rights.authenticate(ids[0]) and await accounts.rights.authenticate(ids[1])


async def test_of_another_account_nothing_is_found_or_told(hub_here, family):
    accounts, eve = family.accounts, family.stranger.caller(entered=frozenset({family.space_id}))
    victim = family.app.device.device_id
    for attack in (
        accounts.rights.revoke_devices(RevokeDevices(1, [victim]), eve),
        accounts.rights.revoke_devices(RevokeDevices(1, [family.stranger.device.device_id, victim]), eve),
        accounts.rights.revoke_devices(RevokeDevices(1, [bytes(16)]), eve),
        accounts.rights.approve_device(ApproveDevice(1, family.mailed.device.device_id), eve),
        accounts.rights.approve_device(ApproveDevice(1, bytes(16)), eve),
        accounts.rights.delete_space(DeleteSpace(1, family.space_id), eve),
        accounts.rights.delete_space(DeleteSpace(1, bytes(16)), eve),
        accounts.rights.cancel_deletion(CancelDeletion(1, family.space_id), eve),
        accounts.rights.cancel_deletion(CancelDeletion(1, bytes(16)), eve),
    ):
        assert await refused(attack) == "not_found"
    assert await hub_here.told() == []
    assert await accounts.rights.authenticate(victim) and await accounts.rights.authenticate(
        family.stranger.device.device_id
    )


async def test_an_app_does_not_learn_of_other_apps_spaces(family):
    other = await a_space(family.accounts, family.board, app_id="tasks")
    asked = family.accounts.rights.delete_space(DeleteSpace(1, other), family.app.caller())
    assert await refused(asked) == "not_found"


async def test_a_revoked_device_whose_socket_still_lives_gets_nothing_done(hub_here, family):
    """Or a thief could revoke the owner's devices in the seconds before his own session is closed."""
    gone = family.board.device.device_id
    await family.accounts.rights.revoke_devices(RevokeDevices(1, [gone]), family.board.caller())
    await hub_here.told()
    hub_here.notices.clear()
    asked = verbs(family, family.board, family.app) | {
        "cancel": lambda: family.accounts.rights.cancel_deletion(CancelDeletion(1), family.board.caller()),
        "confirm": lambda: family.accounts.confirm(Confirm(1, bytes(16), "12345678"), family.board.caller()),
        "create": lambda: a_space(family.accounts, family.board),
        "itself": lambda: family.accounts.rights.revoke_devices(RevokeDevices(1, [gone]), family.board.caller()),
    }
    for name, verb in asked.items():
        with pytest.raises(Closing, match="revoked"):
            await verb()
        assert await hub_here.told() == [], name


@on_every_store
async def test_revoking_is_durable_then_told_and_may_be_asked_again(hub_here, family):
    ids = [family.app.device.device_id, family.mailed.device.device_id]
    assert await family.accounts.rights.revoke_devices(RevokeDevices(5, ids), family.board.caller()) == Done(5)
    now = hub_here.clock.now
    assert await hub_here.told() == [
        DevicesRevoked(tuple(ids)),
        AccountChanged("device_revoked", ids[0], b"", now),
        AccountChanged("device_revoked", ids[1], b"", now),
    ]
    assert await hub_here.store.stopped_among(ids) == dict.fromkeys(ids, "revoked")
    hub_here.notices.clear()
    assert await family.accounts.rights.revoke_devices(RevokeDevices(6, ids), family.board.caller()) == Done(6)
    assert await hub_here.told() == [DevicesRevoked(tuple(ids))]


async def test_one_unknown_device_and_none_is_revoked(hub_here, family):
    ids = [family.app.device.device_id, bytes(16)]
    asked = family.accounts.rights.revoke_devices(RevokeDevices(1, ids), family.board.caller())
    assert await refused(asked) == "not_found"
    assert await family.accounts.rights.authenticate(ids[0])


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
    assert await refused(accounts.rights.delete_space(DeleteSpace(1, space_id), entered)) == "probation"
    hub_here.clock.now = START + 72 * HOUR
    assert await accounts.rights.delete_space(DeleteSpace(1, space_id), entered) == Deleted(1)

    third = await hub_here.sign_in(accounts, ANNA)
    space_id = await a_space(accounts, third)
    assert await refused(accounts.rights.approve_device(ApproveDevice(1, third.device.device_id), third.caller())) == (
        "probation"
    )
    approve = ApproveDevice(4, third.device.device_id)
    assert await accounts.rights.approve_device(approve, first.caller()) == Done(4)
    approved = AccountChanged("device_approved", third.device.device_id, b"", hub_here.clock.now)
    assert (await hub_here.told())[-1] == approved
    entered = third.caller(entered=frozenset({space_id}), probation_until=third.device.probation_until)
    assert await accounts.rights.delete_space(DeleteSpace(1, space_id), entered) == Deleted(1)


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
    await accounts.rights.revoke_devices(RevokeDevices(1, [first.device.device_id]), first.caller())
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
        asked = accounts.rights.approve_device(ApproveDevice(1, other.device.device_id), notes.caller())
        assert await refused(asked) == "forbidden"
    assert await accounts.rights.approve_device(ApproveDevice(1, same.device.device_id), notes.caller())
    hub_here.clock.now += 72 * HOUR
    assert await accounts.rights.approve_device(ApproveDevice(1, tasks.device.device_id), board.caller())
    await hub_here.store.revoke(board.device.account_id, [tasks.device.device_id], START)
    asked = accounts.rights.approve_device(ApproveDevice(1, tasks.device.device_id), board.caller())
    assert await refused(asked) == "not_found"


# --- fresh codes ---


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
    asked = family.accounts.rights.delete_space(DeleteSpace(3, family.space_id), family.space_of(family.app, True))
    assert await asked == Deleted(3)
    assert await hub_here.store.spaces(family.app.device.account_id) == []
    assert await hub_here.told() == [AccountChanged("space_deleted", b"", family.space_id, hub_here.clock.now)]


@on_every_store
async def test_a_space_nobody_entered_goes_after_seven_days_unless_any_device_keeps_it(hub_here, family):
    accounts, store = family.accounts, hub_here.store
    asked = DeleteSpace(3, family.space_id)
    at = hub_here.clock.now + 7 * DAY
    assert await accounts.rights.delete_space(asked, family.board.caller()) == Deleted(3, at)
    assert await hub_here.told() == [AccountChanged("space_deletion_set", b"", family.space_id, at)]
    hub_here.clock.now += HOUR
    assert await accounts.rights.delete_space(asked, family.board.caller()) == Deleted(3, at)  # keeps its time
    assert await accounts.rights.cancel_deletion(CancelDeletion(4, family.space_id), family.app.caller()) == Done(4)
    assert (await hub_here.told())[-1] == AccountChanged("space_deletion_cancelled", b"", family.space_id)
    await accounts.upkeep(at + DAY)
    assert len(await store.spaces(family.app.device.account_id)) == 1

    at = (await accounts.rights.delete_space(asked, family.board.caller())).deleted_at
    await accounts.upkeep(at - 1)
    assert len(await store.spaces(family.app.device.account_id)) == 1
    await accounts.upkeep(at)
    assert await store.spaces(family.app.device.account_id) == []
    assert (await hub_here.told())[-1] == AccountChanged("space_deleted", b"", family.space_id, at)


@on_every_store
async def test_an_account_goes_seven_days_after_a_fresh_code(hub_here, family):
    accounts, account_id = family.accounts, family.board.device.account_id
    now = hub_here.clock.now
    for until in (0.0, now - 1, now):
        asked = accounts.rights.delete_account(DeleteAccount(1), family.board.caller(fresh_code_until=until))
        assert await refused(asked) == "fresh_code_needed"
    fresh = family.board.caller(fresh_code_until=now + 600)
    assert await accounts.rights.delete_account(DeleteAccount(1), fresh) == Deleted(1, now + 7 * DAY)
    assert await hub_here.told() == [AccountChanged("account_deletion_set", at=now + 7 * DAY)]
    hub_here.clock.now += 60
    assert await accounts.rights.delete_account(DeleteAccount(1), fresh) == Deleted(1, now + 7 * DAY)  # keeps its time

    await accounts.upkeep(now + 7 * DAY - 1)
    assert await hub_here.store.account(account_id)
    await accounts.upkeep(now + 7 * DAY)
    assert await hub_here.store.account(account_id) is None
    assert await accounts.rights.authenticate(family.app.device.device_id) is None
    assert (await hub_here.told())[-1] == AccountChanged("account_deleted", at=now + 7 * DAY)
    assert await accounts.rights.authenticate(family.stranger.device.device_id)


async def test_any_device_keeps_the_account_until_the_last_minute(hub_here, family):
    accounts = family.accounts
    fresh = family.board.caller(fresh_code_until=float("inf"))
    at = (await accounts.rights.delete_account(DeleteAccount(1), fresh)).deleted_at
    hub_here.clock.now = at - 60
    assert await accounts.rights.cancel_deletion(CancelDeletion(2), family.app.caller()) == Done(2)
    assert (await hub_here.told())[-1] == AccountChanged("account_deletion_cancelled")
    await accounts.upkeep(at + DAY)
    assert await accounts.rights.authenticate(family.app.device.device_id)

    at = (await accounts.rights.delete_account(DeleteAccount(1), fresh)).deleted_at
    hub_here.clock.now = at - 59
    assert await refused(accounts.rights.cancel_deletion(CancelDeletion(2), family.app.caller())) == "not_found"


async def test_cancelling_what_was_never_asked_for_is_done_and_told_to_nobody(hub_here, family):
    for space_id in (None, family.space_id):
        asked = family.accounts.rights.cancel_deletion(CancelDeletion(2, space_id), family.app.caller())
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


# --- what is deleted when ---


async def test_a_fresh_code_deletes_a_space_at_once_while_it_lasts(hub_here, family):
    now = hub_here.clock.now
    asked = DeleteSpace(3, family.space_id)
    late = await family.accounts.rights.delete_space(asked, family.board.caller(fresh_code_until=now))
    assert late.deleted_at == now + 7 * DAY
    fresh = family.board.caller(fresh_code_until=now + 1)
    assert await family.accounts.rights.delete_space(asked, fresh) == Deleted(3)
    assert await hub_here.store.spaces(family.app.device.account_id) == []


async def test_a_fresh_code_deletes_nothing_for_an_app_that_has_not_entered(family):
    fresh = family.app.caller(fresh_code_until=float("inf"))
    assert (
        await refused(family.accounts.rights.delete_space(DeleteSpace(3, family.space_id), fresh)) == "no_space_proof"
    )


@pytest.mark.parametrize("who", ["app", "board"])
async def test_whoever_asks_for_later_gets_the_delay(hub_here, family, who):
    person = getattr(family, who)
    caller = person.caller(entered=frozenset({family.space_id}), fresh_code_until=float("inf"))
    deleted = await family.accounts.rights.delete_space(DeleteSpace(3, family.space_id, later=True), caller)
    assert deleted == Deleted(3, hub_here.clock.now + 7 * DAY)
    assert len(await hub_here.store.spaces(family.app.device.account_id)) == 1


# --- a key ends probation ---


async def trusts(family, person):
    """Whether the key of the family's space makes this device trusted."""
    await family.accounts.rights.trust_for_key([family.space_id], person.caller())
    return (await family.accounts.rights.authenticate(person.device.device_id)).probation_until is None


@on_every_store
async def test_the_key_of_a_space_that_a_trusted_device_uses_ends_the_probation_of_a_dashboard(hub_here, family):
    await append(hub_here.store, family.app, family.space_id)
    assert await trusts(family, family.mailed)
    device_id = family.mailed.device.device_id
    now = hub_here.clock.now
    assert await hub_here.told() == [AccountChanged("device_approved", device_id, b"", now)]
    (entry, *_) = await hub_here.store.audit(family.mailed.device.account_id, before=0, limit=1)
    assert (entry.what, entry.actor, entry.device_id, entry.subject_id) == (
        "device_approved", "device", device_id, device_id,
    )  # fmt: skip
    await family.accounts.rights.trust_for_key([family.space_id], family.mailed.caller())  # and once only
    assert len(await hub_here.told()) == 1


async def test_the_key_of_a_space_that_no_trusted_device_uses_proves_nothing(hub_here, family):
    """A thief of the mailbox could make the space, and write into it with other devices that a mailbox vouches for."""
    assert not await trusts(family, family.mailed)
    await append(hub_here.store, family.mailed, family.space_id)
    assert not await trusts(family, family.mailed)
    thief = await hub_here.sign_in(family.accounts, ANNA)
    await append(hub_here.store, thief, family.space_id)
    assert not await trusts(family, family.mailed)
    assert await hub_here.told() == [AccountChanged("device_enrolled", thief.device.device_id, b"", hub_here.clock.now)]


async def test_an_app_device_stays_on_probation_whatever_key_it_has(hub_here, family):
    app = await hub_here.sign_in(family.accounts, ANNA)
    await append(hub_here.store, family.app, family.space_id)
    assert not await trusts(family, app)


# --- what is there ---


@on_every_store
async def test_a_person_sees_what_every_space_holds_and_an_app_its_own(hub_here, family):
    rights, now = family.accounts.rights, hub_here.clock.now
    sealed = await append(hub_here.store, family.app, family.space_id)
    hub_here.clock.now += 1
    tasks = await a_space(family.accounts, family.board, app_id="tasks")
    await hub_here.store.note_growth(20_000)
    listed = await rights.list_spaces(family.board.caller())
    assert [space.space_id for space in listed] == [family.space_id, tasks]
    notes = listed[0]
    assert (notes.app_id, notes.used_bytes, notes.collections, notes.changes) == ("notes", len(sealed), 1, 1)
    assert (notes.created_at, notes.last_change_at, notes.deleted_at) == (now, START, 0.0)
    assert [tuple(msgspec.to_builtins(part)) for part in notes.growth] == [(20_000, len(sealed))]
    assert [space.space_id for space in await rights.list_spaces(family.app.caller())] == [family.space_id]
    assert await rights.list_spaces(family.stranger.caller()) == []


async def test_an_account_makes_a_hundred_new_spaces_a_day(hub_here):
    accounts = hub_here.replica(code_limits=CodeLimits(), limits=Limits(spaces_per_account_max=1_000))
    anna = await hub_here.sign_in(accounts, ANNA)
    for _ in range(100):
        last = await a_space(accounts, anna)
    assert await refused(a_space(accounts, anna)) == "slow_down"
    await hub_here.store.delete_space(anna.device.account_id, last)
    assert await refused(a_space(accounts, anna)) == "slow_down"
    hub_here.clock.now += DAY
    assert await a_space(accounts, anna)


# --- the audit list ---


async def entries(hub, person):
    return await hub.store.audit(person.device.account_id, before=0, limit=100)


@on_every_store
async def test_what_happened_on_the_account_is_in_its_audit_list(hub_here, family):
    accounts, rights = family.accounts, family.accounts.rights
    board, app = family.board.device.device_id, family.app.device.device_id
    later = DeleteSpace(1, family.space_id, later=True)
    await rights.delete_space(later, family.board.caller())
    await rights.cancel_deletion(CancelDeletion(1, family.space_id), family.app.caller())
    await rights.delete_account(DeleteAccount(1), family.board.caller(fresh_code_until=float("inf")))
    await rights.cancel_deletion(CancelDeletion(1), family.app.caller())
    sent, code = await fresh_code(hub_here, family, family.board)
    await accounts.confirm(Confirm(1, sent.attempt_id, code), family.board.caller())
    await rights.delete_space(DeleteSpace(1, family.space_id), family.space_of(family.app, True))
    await rights.revoke_devices(RevokeDevices(1, [family.mailed.device.device_id]), family.board.caller())
    happened = [(each.what, each.device_id, each.subject_id) for each in await entries(hub_here, family.app)]
    mailed = family.mailed.device.device_id
    assert happened == [
        ("device_revoked", board, mailed),
        ("space_deleted", app, family.space_id),
        ("code_confirmed", board, b""),
        ("account_deletion_cancelled", app, b""),
        ("account_deletion_set", board, b""),
        ("space_deletion_cancelled", app, family.space_id),
        ("space_deletion_set", board, family.space_id),
        ("space_created", app, family.space_id),
        ("device_enrolled", mailed, mailed),
        ("device_approved", app, app),
        ("device_enrolled", board, board),
        ("device_enrolled", app, app),
    ]
    assert {each.actor for each in await entries(hub_here, family.app)} == {"device"}


async def test_the_audit_list_comes_in_pieces_newest_first_and_to_the_account_only(hub_here, family):
    rights = family.accounts.rights
    assert await refused(rights.list_audit(ListAudit(1), family.app.caller())) == "forbidden"
    first = await rights.list_audit(ListAudit(1, limit=2), family.board.caller())
    assert [each.what for each in first.entries] == ["space_created", "device_enrolled"] and first.more
    rest = await rights.list_audit(ListAudit(2, before=first.entries[-1].number, limit=3), family.mailed.caller())
    assert [each.what for each in rest.entries] == ["device_approved", "device_enrolled", "device_enrolled"]
    assert not rest.more
    assert [each.what for each in (await rights.list_audit(ListAudit(3), family.stranger.caller())).entries] == [
        "device_enrolled"
    ]


async def test_what_a_device_may_do_without_end_adds_up_to_one_entry_a_day(hub_here, family):
    for _ in range(3):
        await family.accounts.rights.delete_space(DeleteSpace(1, family.space_id, later=True), family.board.caller())
        await family.accounts.rights.cancel_deletion(CancelDeletion(1, family.space_id), family.board.caller())
    newest = (await entries(hub_here, family.board))[:2]
    assert {(each.what, each.count) for each in newest} == {("space_deletion_set", 3), ("space_deletion_cancelled", 3)}


async def test_a_deletion_that_the_hub_carries_out_is_its_own_deed(hub_here, family):
    await family.accounts.rights.delete_space(DeleteSpace(1, family.space_id), family.board.caller())
    await family.accounts.upkeep(hub_here.clock.now + 7 * DAY)
    newest = (await entries(hub_here, family.board))[0]
    assert (newest.what, newest.actor, newest.device_id, newest.subject_id) == (
        "space_deleted",
        "hub",
        b"",
        family.space_id,
    )
