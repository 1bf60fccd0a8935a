"""A session and its account: stopped, moved, told of itself, and what opens what."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hub.bus import AccountStopped
from hub.effects import Noticed, Serve, Served, TrustForKey
from hub.errors import StoreUnavailable
from hub.wire import messages as m
from hub.wire.codec import encode
from tests.session_rig import Rig, person

# --- an account that is stopped, or has moved ---

MOVED_TO = "wss://new.example.org/v1/ws"


@pytest.mark.parametrize(("closing", "code"), [("suspended", 4505), ("moving", 4014)])
async def test_a_device_of_a_stopped_account_is_told_so_once_it_has_proved_itself(closing, code):
    rig = Rig(await person())
    if closing == "suspended":
        await rig.person.store.suspend(rig.person.account_id, 1.0)
    else:
        await rig.person.store.begin_move(rig.person.account_id, MOVED_TO)
    await rig.greet()
    await rig.say(m.Auth(rig.proof()))
    assert rig.closed.code == code and rig.opened is None
    stranger = Rig(rig.person)
    await stranger.greet()
    await stranger.say(m.Auth(bytes(64)))
    assert stranger.closed.code == 4501  # nothing is told to whoever has only the id


@pytest.mark.parametrize(
    ("closing", "code"), [("suspended", 4505), ("moving", 4014), ("moved", 4014), ("a newer word", None)]
)
async def test_a_notice_that_the_account_is_stopped_closes_its_sessions(closing, code):
    rig = await Rig(await person()).ready()
    rig.take(rig.session.noticed(AccountStopped(closing), rig.now))
    assert (rig.closed.code if rig.closed else None) == code


@pytest.mark.parametrize(("closing", "code"), [("suspended", 4505), ("moving", 4014)])
async def test_an_append_that_the_store_stops_closes_the_session(closing, code):
    rig = await Rig(await person()).enter()
    if closing == "suspended":
        await rig.person.store.suspend(rig.person.account_id, 1.0)
    else:
        await rig.person.store.begin_move(rig.person.account_id, MOVED_TO)
    assert await rig.say(m.Append(3, rig.person.space_id, [rig.person.draft()])) == []
    assert rig.closed.code == code


async def test_a_device_whose_account_moved_is_told_where_once_it_has_proved_itself():
    rig = Rig(await person())
    store, account_id = rig.person.store, rig.person.account_id
    await store.begin_move(account_id, MOVED_TO)
    await store.end_move(account_id, 1.0)
    (challenge,) = await rig.greet()
    assert isinstance(challenge, m.Challenge)
    assert await rig.say(m.Auth(rig.proof())) == [m.Moved(MOVED_TO)]
    assert rig.closed.code == 4506 and rig.opened is None
    for signature in (bytes(64), None):
        stranger = Rig(rig.person)
        await stranger.greet()
        wrong_url = stranger.proof(url="wss://evil.example.org/v1/ws")
        assert await stranger.say(m.Auth(signature or wrong_url)) == []
        assert stranger.closed.code == 4501


async def test_what_the_account_is_told_of_itself_is_in_ready():
    rig = Rig(await person())
    plain = rig.known

    async def known(device):
        facts = await plain(device)
        return facts._replace(address_known=False, plan="family", paid_until=9.5, operator=True)

    rig.known = known
    await rig.ready()
    ready = next(message for message in rig.sent if isinstance(message, m.Ready))
    assert (ready.address_known, ready.plan, ready.paid_until, ready.operator) == (False, "family", 9.5, True)


# --- what the account's audit list hears of ---


async def test_old_keys_and_wrong_proofs_are_noticed():
    rig = await Rig(await person()).ready()
    space_id = rig.person.space_id
    (refused,) = await rig.say(m.Enter(1, [m.SpaceProof(space_id, 0, bytes(64))]))
    assert refused.code == "bad_space_proof" and rig.noticed == [Noticed("proof_refused", space_id)]
    newer = replace_epoch(await rig.person.store.spaces(rig.person.account_id))
    rig.session._spaces = newer
    (refused,) = await rig.say(m.Enter(2, [m.SpaceProof(space_id, 0, rig.space_proof())]))
    assert refused.code == "stale_key_epoch" and rig.noticed[1:] == [Noticed("key_refused", space_id)]


def replace_epoch(spaces):
    return [replace(space, key_epoch=1) for space in spaces]


@pytest.mark.parametrize("also_good", [False, True])
async def test_a_draft_under_an_old_key_is_noticed_once_an_append(also_good):
    rig = await Rig(await person()).enter()
    rig.session.facts.entered[rig.person.space_id] = 1
    drafts = [rig.person.draft(), rig.person.draft()]
    if also_good:
        drafts.append(rig.person.draft(key_epoch=1, counter=1))
    appended = await rig.append(*drafts)
    assert [answer.code for answer in appended.answers][:2] == ["stale_key_epoch"] * 2
    assert rig.noticed == [Noticed("key_refused", rig.person.space_id)]


async def test_an_unknown_space_is_not_noticed():
    rig = await Rig(await person()).ready()
    await rig.say(m.Enter(1, [m.SpaceProof(bytes(16), 0, bytes(64))]))
    assert rig.noticed == []


# --- a key ends probation ---


async def test_a_dashboard_on_probation_that_proves_a_key_asks_for_trust_before_it_is_answered():
    rig = await Rig(await person(scope="account", probation_until=1e12)).ready()
    enter = m.Enter(1, [m.SpaceProof(rig.person.space_id, 0, rig.space_proof())])
    rig.take(rig.session.received(encode(enter), rig.now))
    assert [ask.what for ask in rig.asked] == [TrustForKey((rig.person.space_id,))]
    assert not any(isinstance(message, m.Entered) for message in rig.sent)
    await rig.answer()
    assert isinstance(rig.sent[-1], m.Entered)


async def test_when_the_trust_cannot_be_asked_for_the_space_is_not_entered():
    rig = await Rig(await person(scope="account", probation_until=1e12)).ready()
    rig.fail_with[TrustForKey] = StoreUnavailable()
    (refused,) = await rig.say(m.Enter(1, [m.SpaceProof(rig.person.space_id, 0, rig.space_proof())]))
    assert refused.code == "unavailable" and rig.session.facts.entered == {}


@pytest.mark.parametrize("settled", [{"scope": "app", "probation_until": 1e12}, {"scope": "account"}])
async def test_nobody_else_asks_for_trust(settled):
    rig = await Rig(await person(**settled)).enter()
    assert rig.published == []


# --- what a code opens ---


async def test_a_fresh_code_and_an_operators_code_hold_for_the_session_that_gave_them():
    rig = await Rig(await person(scope="account")).ready()
    for effects in (
        rig.session.received(encode(m.Confirm(1, b"a" * 16, "12345678")), rig.now),
        rig.session.received(encode(m.OperatorCode(2, "123456")), rig.now),
    ):
        rig.take(effects)
    first, second = rig.asked
    rig.take(rig.session.answered(first.token, Served(m.Done(1), fresh_code_until=5.0), rig.now))
    rig.take(rig.session.answered(second.token, Served(m.Done(2), operator_until=7.0), rig.now))
    assert (rig.session.facts.fresh_code_until, rig.session.facts.operator_until) == (5.0, 7.0)


@pytest.mark.parametrize(
    "message",
    [
        m.ListSpaces(1), m.ListAudit(1), m.Export(1), m.ChangeAddress(1, b"a" * 16, "12345678"),
        m.OperatorCode(1, "123456"), m.Operate(1, "stats"),
    ],
)  # fmt: skip
async def test_account_verbs_have_their_place_after_auth_only(message):
    rig = await Rig(await person(scope="account")).ready()
    assert await rig.say(message) == [m.Done(1)]
    early = Rig(rig.person)
    await early.greet()
    await early.say(message)
    assert early.closed.code == 4500


async def test_a_session_is_made_one_piece_of_an_export_at_a_time():
    rig = await Rig(await person(scope="account")).ready()
    rig.take(rig.session.received(encode(m.Export(1)), rig.now))
    rig.take(rig.session.received(encode(m.Export(2)), rig.now))
    assert rig.sent[-1].code == "overloaded" and len(rig.asked) == 1
    await rig.answer()
    assert rig.sent[-1] == m.Done(1)
    rig.fail_with[Serve] = StoreUnavailable()
    assert [answer.code for answer in await rig.say(m.Export(3))] == ["unavailable"]
    rig.fail_with.clear()
    assert await rig.say(m.Export(4)) == [m.Done(4)]
