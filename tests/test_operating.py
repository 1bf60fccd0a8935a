"""The operator's verbs: what they give back, whom they tell, what they refuse, and what a blind hub still notices."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import urllib.parse
from dataclasses import replace

import pytest

from hub import __version__
from hub.address import slow_hash, tag_of
from hub.bus import AccountChanged, AccountStopped, DevicesRevoked
from hub.errors import Refusal
from hub.operating import HOST_VERBS, VERBS, Operating
from hub.store import Happening
from hub.store.memory import MemoryStore
from hub.totp import operator_secret
from tests.desk import DELAY, MIB, QUOTA, Desk, person_with
from tests.store_exam import DAY, NOW, a_space, dumped, new_account, new_writer
from tests.store_exam import a_device as device_of

ADDRESS = "maria@example.org"
OF_ACCOUNTS = {
    "account_id": str, "created_day": int, "used_bytes": int, "quota_bytes": int, "own_quota_bytes": int | None,
    "plan": str, "billing_ref": str | None, "paid_until": float | None, "suspended_at": float | None,
    "deleted_at": float | None, "moving_to": str, "address_known": bool, "operator": bool, "devices": int,
    "spaces": int, "last_seen_day": int,
}  # fmt: skip


@pytest.fixture
async def desk():
    desk = Desk()
    await desk.store.open()
    yield desk
    await desk.store.close()


@pytest.fixture
async def writer(desk):
    writer = await new_writer(desk.store)
    await desk.listen(writer.account_id)
    return writer


def refused(code, text=""):
    return pytest.raises(Refusal, check=lambda exc: exc.code == code and text in exc.message)


# --- arguments -------------------------------------------------------------------------------

SOME_ID = "0f" * 16
WRONG = [
    ("fly", {}),
    ("", {}),
    ("stats", {"all": True}),
    ("account", {}),
    ("account", {"account_id": SOME_ID[:-2]}),
    ("account", {"account_id": SOME_ID + "00"}),
    ("account", {"account_id": "zz" * 16}),
    ("account", {"account_id": b"0" * 16}),
    ("account", {"account_id": None}),
    ("account", {"account_id": "0f " * 16}),
    ("accounts", {"limit": 0}),
    ("accounts", {"limit": 201}),
    ("accounts", {"limit": True}),
    ("accounts", {"limit": 5.0}),
    ("accounts", {"matching": "a" * 129}),
    ("set_terms", {"account_id": SOME_ID, "quota_mib": -1}),
    ("set_terms", {"account_id": SOME_ID, "quota_mib": 1_000_000_001}),
    ("set_terms", {"account_id": SOME_ID, "plan": None}),
    ("set_terms", {"account_id": SOME_ID, "plan": "p" * 65}),
    ("set_terms", {"account_id": SOME_ID, "plan": "two\nlines"}),
    ("set_terms", {"account_id": SOME_ID, "billing_ref": ""}),
    ("set_terms", {"account_id": SOME_ID, "billing_ref": "b" * 129}),
    ("set_terms", {"account_id": SOME_ID, "paid_until": "2027-01-01"}),
    ("set_terms", {"account_id": SOME_ID, "paid_until": float("nan")}),
    ("set_terms", {"account_id": SOME_ID, "paid_until": 1e18}),
    ("delete", {"account_id": SOME_ID, "now": 1}),
    ("invite", {"days": 0}),
    ("invite", {"days": 366}),
    ("withdraw_invite", {"invite": ""}),
    ("withdraw_invite", {"invite": "0F0F0F0F"}),
    ("withdraw_invite", {"invite": "0f0f0f0"}),
    ("revoke", {"account_id": SOME_ID}),
    ("allow", {"address": ""}),
    ("allow", {"address": "a" * 513}),
]


@pytest.mark.parametrize("verb, arguments", WRONG, ids=[f"{number}-{verb}" for number, (verb, _) in enumerate(WRONG)])
async def test_a_wrong_verb_or_argument_is_a_bad_request(desk, verb, arguments):
    with refused("bad_request"):
        await desk.operating.do(verb, arguments)


@pytest.mark.parametrize("verb", [name for name, verb in (VERBS | HOST_VERBS).items() if "account_id" in verb.fields])
async def test_an_unknown_account_is_not_found(desk, verb):
    more = {"device_id": SOME_ID} if verb == "revoke" else {"url": "wss://there/v1/ws"} if verb == "begin_move" else {}
    with refused("not_found"):
        await desk.here(verb, account_id=SOME_ID, **more)


@pytest.mark.parametrize("verb", HOST_VERBS)
async def test_what_is_for_the_host_alone_no_session_can_ask_for(desk, writer, verb):
    with refused("bad_request", "no such verb"):
        await desk.do(verb, account_id=writer.account_id.hex())


async def test_an_address_that_is_none_is_refused(desk):
    for verb in ("allow", "block", "unlist", "find_account"):
        with refused("bad_address"):
            await desk.do(verb, address="maria")


# --- looking ---------------------------------------------------------------------------------


async def test_the_hub_in_numbers(desk, writer):
    await writer.put()
    await desk.do("suspend", account_id=(await new_account(desk.store))[0].hex())
    await desk.do("block", address=ADDRESS)
    assert await desk.do("stats") == {
        "accounts": 2,
        "suspended": 1,
        "operators": 0,
        "devices": 2,
        "spaces": 1,
        "collections": 1,
        "used_bytes": await writer.used_bytes(),
        "sessions": 3,
        "version": __version__,
        "sign_up": "closed",
        "quota_bytes": QUOTA,
        "last_backup_at": None,
        "allowed": 0,
        "blocked": 1,
    }
    await desk.here("note_backup", at=NOW - 5.5)
    assert (await desk.do("stats"))["last_backup_at"] == NOW - 5.5


async def test_accounts_come_in_pages_and_say_whether_there_are_more(desk):
    ids = sorted([(await new_account(desk.store))[0].hex() for _ in range(5)])
    first = await desk.do("accounts", limit=3)
    assert [a["account_id"] for a in first["accounts"]] == ids[:3] and first["more"]
    rest = await desk.do("accounts", limit=3, after=ids[2])
    assert [a["account_id"] for a in rest["accounts"]] == ids[3:] and not rest["more"]
    assert not (await desk.do("accounts", limit=5))["more"]
    assert len((await desk.do("accounts", limit=200, after=""))["accounts"]) == 5


async def test_an_account_is_shown_in_numbers_alone(desk, writer):
    await writer.put(size=1_000)
    await desk.store.note_seen([writer.device_id], DAY + 2)
    await desk.here("make_operator", account_id=writer.account_id.hex())
    (listed,) = (await desk.do("accounts"))["accounts"]
    shown = await desk.do("account", account_id=writer.account_id.hex())
    assert {name: value for name, value in shown.items() if not name.endswith("_list")} == listed
    assert listed.keys() == OF_ACCOUNTS.keys()
    assert all(isinstance(listed[name], kind) for name, kind in OF_ACCOUNTS.items())
    assert listed["used_bytes"] == await writer.used_bytes() and listed["quota_bytes"] == QUOTA
    assert listed["operator"] and listed["last_seen_day"] == DAY + 2
    (device,) = shown["device_list"]
    assert device.keys() == {
        "device_id", "app_id", "scope", "enrolled_via", "enrolled_at", "last_seen_day", "probation_until",
    }  # fmt: skip
    (space,) = shown["space_list"]
    assert space == {
        "space_id": writer.space_id.hex(),
        "app_id": "notes.example",
        "used_bytes": listed["used_bytes"],
        "collections": 1,
        "changes": 1,
        "last_change_at": space["last_change_at"],
        "deleted_at": None,
    }


async def test_an_account_is_found_by_id_by_its_beginning_and_by_its_billing_ref(desk):
    ids = [(await new_account(desk.store))[0].hex() for _ in range(3)]
    await desk.do("set_terms", account_id=ids[1], billing_ref="customer-7")
    for text in (ids[1], ids[1][:12], "customer-7"):
        assert [a["account_id"] for a in (await desk.do("accounts", matching=text))["accounts"]] == [ids[1]]


async def test_an_address_leads_to_its_account_however_it_is_written(desk):
    account_id = await person_with(desk, ADDRESS)
    assert await desk.do("find_account", address=" Maria@Example.ORG ") == {"account_id": account_id.hex()}
    assert await desk.do("find_account", address="mario@example.org") == {"account_id": None}


async def test_a_pepper_that_the_hub_has_not_wrapped_yet_does_not_hide_an_address(desk):
    account_id = await person_with(desk, ADDRESS)
    desk.secrets = replace(desk.secrets, peppers=(*desk.secrets.peppers, os.urandom(32)))
    assert (await desk.verbs().do("find_account", {"address": ADDRESS}))["account_id"] == account_id.hex()


# --- accounts --------------------------------------------------------------------------------


async def test_terms_are_changed_one_by_one_and_the_rest_stays(desk, writer):
    who = writer.account_id.hex()
    shown = await desk.do(
        "set_terms", account_id=who, quota_mib=20, plan="family", billing_ref="c7", paid_until=NOW + 9
    )
    assert shown == {
        name: value for name, value in (await desk.do("account", account_id=who)).items() if not name.endswith("_list")
    }
    terms = [shown[name] for name in ("quota_bytes", "own_quota_bytes", "plan", "billing_ref", "paid_until")]
    assert terms == [20 * MIB, 20 * MIB, "family", "c7", NOW + 9]
    shown = await desk.do("set_terms", account_id=who, plan="")
    assert (shown["plan"], shown["own_quota_bytes"], shown["billing_ref"]) == ("", 20 * MIB, "c7")
    desk.now += 9  # no longer paid
    assert (await desk.do("account", account_id=who))["quota_bytes"] == QUOTA
    shown = await desk.do("set_terms", account_id=who, quota_mib=None, billing_ref=None, paid_until=None)
    assert [shown[name] for name in ("own_quota_bytes", "billing_ref", "paid_until")] == [None] * 3
    assert (await desk.do("set_terms", account_id=who, quota_mib=0))["quota_bytes"] == 0
    assert await desk.audit(writer.account_id) == [("terms_changed", "operator", b"")] * 4
    assert await desk.heard() == [AccountChanged("terms_changed")] * 4


async def test_a_billing_ref_belongs_to_one_account(desk, writer):
    other, _, _ = await new_account(desk.store)
    await desk.do("set_terms", account_id=other.hex(), billing_ref="c7")
    with refused("bad_request"):
        await desk.do("set_terms", account_id=writer.account_id.hex(), billing_ref="c7")
    assert (await desk.do("account", account_id=writer.account_id.hex()))["billing_ref"] is None


async def test_suspending_keeps_devices_out_and_loses_nothing(desk, writer):
    who = writer.account_id.hex()
    await writer.put()
    assert (await desk.do("suspend", account_id=who))["suspended_at"] == NOW
    assert await desk.heard() == [AccountStopped("suspended")]
    assert (await writer.append(writer.draft())).closing == "suspended"
    desk.now += 5
    assert (await desk.do("suspend", account_id=who))["suspended_at"] == NOW
    assert await desk.heard() == [AccountStopped("suspended")]  # the first notice may have been lost
    assert (await desk.do("resume", account_id=who))["suspended_at"] is None
    await desk.do("resume", account_id=who)
    assert await writer.seqs() == [1]
    writer.counters.clear()
    await writer.write(counter=2)
    assert await desk.audit(writer.account_id) == [("suspended", "operator", b""), ("resumed", "operator", b"")]


async def test_a_deletion_waits_keeps_its_time_and_can_be_cancelled(desk, writer):
    who = writer.account_id.hex()
    assert await desk.do("delete", account_id=who) == {"deleted_at": NOW + DELAY}
    desk.now += 60
    assert await desk.do("delete", account_id=who, now=False) == {"deleted_at": NOW + DELAY}
    assert await desk.heard() == [AccountChanged("account_deletion_set", at=NOW + DELAY)] * 2
    assert await desk.do("keep", account_id=who) == {}
    assert await desk.do("keep", account_id=who) == {}
    assert (await desk.do("account", account_id=who))["deleted_at"] is None
    assert await desk.heard() == [AccountChanged("account_deletion_cancelled")]
    assert [what for what, *_ in await desk.audit(writer.account_id)] == [
        "account_deletion_set",
        "account_deletion_cancelled",
    ]


async def test_a_deletion_can_be_cancelled_until_a_minute_before_it_happens(desk, writer):
    who = writer.account_id.hex()
    await desk.do("delete", account_id=who)
    desk.now = NOW + DELAY - 59
    with refused("not_found", "too late"):
        await desk.do("keep", account_id=who)
    assert (await desk.do("account", account_id=who))["deleted_at"] == NOW + DELAY
    desk.now = NOW + DELAY - 60
    assert await desk.do("keep", account_id=who) == {}
    assert (await desk.do("account", account_id=who))["deleted_at"] is None


async def test_a_deletion_at_once_leaves_nothing(desk, writer):
    assert await desk.do("delete", account_id=writer.account_id.hex(), now=True) == {"deleted_at": 0}
    assert await desk.heard() == [AccountChanged("account_deleted", at=NOW)]
    assert await desk.store.account(writer.account_id) is None
    with refused("not_found"):
        await desk.do("delete", account_id=writer.account_id.hex(), now=True)


async def test_one_device_is_revoked_and_only_of_its_own_account(desk, writer):
    who, other = writer.account_id.hex(), await new_writer(desk.store)
    with refused("not_found"):
        await desk.do("revoke", account_id=who, device_id=other.device_id.hex())
    assert (await desk.store.device(other.device_id)).revoked_at is None
    assert await desk.do("revoke", account_id=who, device_id=writer.device_id.hex()) == {}
    assert await desk.do("revoke", account_id=who, device_id=writer.device_id.hex()) == {}
    gone = DevicesRevoked((writer.device_id,))
    assert await desk.heard() == [gone, AccountChanged("device_revoked", writer.device_id, at=NOW), gone]
    assert await desk.audit(writer.account_id) == [("device_revoked", "operator", writer.device_id)]


# --- who may come ----------------------------------------------------------------------------


async def test_an_invitation_is_made_listed_and_withdrawn(desk):
    made = await desk.do("invite")
    assert made["expires_at"] == NOW + 7 * 86_400
    token_hash = hashlib.sha256(made["token"].encode()).digest()
    assert await desk.store.invite_is_open(token_hash, NOW)
    longest = await desk.do("invite", days=365)
    (first, second) = (await desk.do("invites"))["invites"]
    assert second == {"invite": token_hash.hex()[:8], "expires_at": made["expires_at"], "used_at": None}
    assert first["expires_at"] == longest["expires_at"]
    assert made["token"] not in str([first, second])
    assert await desk.do("withdraw_invite", invite=second["invite"]) == {}
    assert not await desk.store.invite_is_open(token_hash, NOW)
    with refused("not_found"):
        await desk.do("withdraw_invite", invite=second["invite"])
    assert (await desk.do("invites"))["invites"] == [first]


async def test_an_address_is_allowed_blocked_and_forgotten_and_never_kept(desk):
    hashed = await asyncio.to_thread(slow_hash, ADDRESS, desk.secrets.hub_salt)
    tag = tag_of(hashed, desk.secrets.peppers)
    for verb, kind in (("allow", "allowed"), ("block", "blocked"), ("unlist", None), ("unlist", None)):
        assert await desk.do(verb, address="Maria@example.org") == {}
        assert await desk.store.listed(tag) == kind
    assert "maria" not in str(vars(desk.store)).lower()


# --- for the host alone ----------------------------------------------------------------------


async def test_an_operator_gets_a_secret_that_is_nowhere_kept_and_a_new_one_each_time(desk, writer):
    who = writer.account_id.hex()
    assert await desk.here("operators") == {"operators": []}
    first = await desk.here("make_operator", account_id=who)
    (operator,) = await desk.store.operators()
    secret = operator_secret(desk.secrets.otp_key, writer.account_id, operator.salt)
    assert base64.b32decode(first["secret"]) == secret
    assert urllib.parse.urlsplit(first["uri"]).scheme == "otpauth" and "issuer=family" in first["uri"]
    assert secret not in repr(vars(desk.store)).encode("latin-1", "replace")
    assert (await desk.here("make_operator", account_id=who))["secret"] != first["secret"]
    assert await desk.here("operators") == {"operators": [{"account_id": who, "since": NOW}]}
    assert await desk.here("drop_operator", account_id=who) == {}
    with refused("not_found"):
        await desk.here("drop_operator", account_id=who)


async def test_a_move_closes_the_sessions_and_can_be_cancelled_or_ended(desk, writer):
    who, url = writer.account_id.hex(), "wss://there.example.org/v1/ws"
    with refused("not_found"):
        await desk.here("end_move", account_id=who)  # it is not moving
    await desk.here("begin_move", account_id=who, url=url)
    assert await desk.heard() == [AccountStopped("moving")]
    assert (await desk.do("account", account_id=who))["moving_to"] == url
    await desk.here("cancel_move", account_id=who)
    assert (await desk.do("account", account_id=who))["moving_to"] == ""
    await desk.here("begin_move", account_id=who, url=url)
    assert await desk.here("end_move", account_id=who) == {}
    assert await desk.heard() == [AccountStopped("moving"), AccountStopped("moved")]
    assert (await desk.store.moved_device(writer.device_id)).url == url
    assert await desk.store.account(writer.account_id) is None


@pytest.mark.parametrize("verb", ["set_terms", "suspend", "resume", "delete", "keep", "revoke"])
async def test_an_account_that_is_moving_is_left_alone(desk, writer, verb):
    who = writer.account_id.hex()
    more = {"device_id": writer.device_id.hex()} if verb == "revoke" else {}
    await desk.here("begin_move", account_id=who, url="wss://there/v1/ws")
    before = await desk.do("account", account_id=who)
    with refused("bad_request", "being moved"):
        await desk.do(verb, account_id=who, **more)
    assert await desk.do("account", account_id=who) == before
    await desk.here("cancel_move", account_id=who)
    await desk.do(verb, account_id=who, **more)


async def test_what_is_left_of_a_move_that_failed_can_be_deleted(desk, writer):
    await writer.put()
    there = MemoryStore()
    await there.open()
    await there.load(await dumped(desk.store, [writer.account_id]))
    operating = Operating(there, desk.bus, desk.secrets, desk.house, random=os.urandom, clock=lambda: NOW)
    who = {"account_id": writer.account_id.hex()}
    with refused("bad_request", "being moved"):
        await operating.do("delete", who)
    assert await operating.do("delete", {**who, "now": True}) == {"deleted_at": 0}
    assert await there.account(writer.account_id) is None
    await there.close()


# --- insight ---------------------------------------------------------------------------------


async def backed_up(desk):
    await desk.here("note_backup", at=desk.now)


async def test_a_hub_in_order_has_nothing_to_tell(desk, writer):
    await backed_up(desk)
    await writer.put()
    assert await desk.findings() == []


async def test_a_missing_or_old_backup_is_told(desk):
    (finding,) = await desk.findings()
    assert (finding["kind"], finding["weight"]) == ("no_backup", "warn")
    await backed_up(desk)
    desk.now += 7 * 86_400
    assert await desk.findings() == []
    desk.now += 1
    (finding,) = await desk.findings()
    assert (finding["kind"], finding["days"], finding["weight"]) == ("old_backup", 7, "warn")
    assert finding["sentence"] == "The last backup is 7 days old; run: hub backup FILE"
    # On Postgres others may look after the data.
    (finding,) = (await desk.verbs(keeps_own_file=False).do("insight", {}))["findings"]
    assert finding["weight"] == "note"


async def filled(desk, writer, share):
    """Bring the account to exactly this share of the hub's quota."""
    size = 100_000
    while (left := int(QUOTA * share) - await writer.used_bytes()) > 2 * size:
        await writer.put(size=size)
    await writer.put(size=left)
    assert await writer.used_bytes() == int(QUOTA * share)


async def test_an_account_near_its_quota_is_told_from_90_percent_on_and_full_at_100(desk, writer):
    await backed_up(desk)
    await filled(desk, writer, 0.8999)
    assert await desk.findings() == []
    await filled(desk, writer, 0.905)
    (finding,) = await desk.findings()
    short = writer.account_id.hex()[:8]
    assert finding == {
        "kind": "near_quota",
        "weight": "note",
        "sentence": f"Account {short}… uses 90 % of its 10 MiB.",
        "account_id": writer.account_id.hex(),
        "used_bytes": int(QUOTA * 0.905),
        "quota_bytes": QUOTA,
        "percent": 90,
    }
    await filled(desk, writer, 1)
    (finding,) = await desk.findings()
    assert (finding["kind"], finding["weight"]) == ("over_quota", "warn")
    assert finding["sentence"] == f"Account {short}… is full: 10 MiB of 10 MiB."
    await desk.do("set_terms", account_id=writer.account_id.hex(), quota_mib=0)
    assert [finding["kind"] for finding in await desk.findings()] == ["over_quota"]


async def test_who_no_longer_pays_and_holds_more_than_the_default_is_told(desk, writer):
    who = writer.account_id.hex()
    await desk.do("set_terms", account_id=who, quota_mib=40, paid_until=NOW + 100)
    await filled(desk, writer, 1.5)
    await backed_up(desk)
    assert await desk.findings() == []
    desk.now = NOW + 100
    (finding,) = await desk.findings()
    assert (finding["kind"], finding["paid_until"], finding["account_id"]) == ("unpaid", NOW + 100, who)
    assert "was paid until 2025-06-15 and holds 15 MiB" in finding["sentence"]


async def test_a_device_that_is_silent_for_30_days_and_holds_deletions_back_is_told(desk, writer):
    other = device_of(writer.account_id)
    await desk.store.add_device(other, per_account_max=9, per_app_max=9)
    await writer.put()
    await writer.delete(size=200_000)
    desk.now = (DAY + 29) * 86_400.0
    await backed_up(desk)
    await desk.store.note_seen([writer.device_id], DAY + 29)
    assert await desk.findings() == []
    desk.now = (DAY + 34) * 86_400.0
    (finding,) = await desk.findings("silent_device")
    assert finding["device_id"] == other.device_id.hex() and finding["days"] == 34 and finding["weight"] == "note"
    assert finding["tombstone_bytes"] >= 200_000
    short = writer.account_id.hex()[:8]
    size = f"{finding['tombstone_bytes'] / 1024:.0f} KiB"
    assert finding["sentence"] == (
        f"A device of account {short}… was last seen 34 days ago; {size} of deletions wait for it."
    )
    await desk.store.note_seen([other.device_id], DAY + 5)
    assert await desk.findings("silent_device") == []
    await desk.store.note_seen([other.device_id], DAY + 4)


async def test_a_device_is_silent_from_the_30th_day_on(desk, writer):
    await desk.store.add_device(device_of(writer.account_id), per_account_max=9, per_app_max=9)
    await writer.put()
    await writer.delete()
    await desk.store.note_seen([writer.device_id], DAY + 30)
    for days, told in ((29, 0), (30, 1)):
        desk.now = (DAY + days) * 86_400.0
        assert len(await desk.findings("silent_device")) == told


async def test_a_silent_device_that_holds_nothing_back_is_nobodys_business(desk, writer):
    await writer.put()
    desk.now += 90 * 86_400
    assert await desk.findings("silent_device") == []


async def test_refused_keys_and_proofs_are_counted_for_30_days(desk, writer):
    await backed_up(desk)
    for what, times in (("key_refused", 12), ("proof_refused", 1)):
        await desk.store.note([Happening(writer.account_id, NOW, what, "device", adds_up=True)] * times)
    short = writer.account_id.hex()[:8]
    assert [(f["kind"], f["count"], f["sentence"]) for f in await desk.findings()] == [
        (
            "old_key_refused",
            12,
            f"An old key was refused 12 times on account {short}…: a device has not learnt the new one (last 30 days).",
        ),
        (
            "proof_refused",
            1,
            f"A wrong key was tried once on account {short}…: a mistake, or somebody guessing (last 30 days).",
        ),
    ]
    desk.now += 31 * 86_400
    await backed_up(desk)
    assert [f["kind"] for f in await desk.findings() if f["kind"].endswith("refused")] == []


async def test_deletions_that_wait_are_told(desk, writer):
    await backed_up(desk)
    other = await new_writer(desk.store)
    await desk.do("delete", account_id=writer.account_id.hex())
    space = await desk.store.create_space(a_space(other.account_id), 9, NOW)
    await desk.store.schedule_space_deletion(other.account_id, space.space_id, NOW + DELAY)
    first, second = await desk.findings()
    assert (first["kind"], first["account_id"], first["deleted_at"]) == (
        "deletion_due", writer.account_id.hex(), NOW + DELAY,
    )  # fmt: skip
    assert first["sentence"].endswith("will be deleted on 2025-06-22.")
    assert second["space_id"] == space.space_id.hex()


async def test_warnings_come_before_notes(desk, writer):
    await backed_up(desk)
    await filled(desk, writer, 0.95)
    await desk.store.note([Happening(writer.account_id, NOW, "key_refused", "device", adds_up=True)])
    assert [finding["kind"] for finding in await desk.findings()] == ["old_key_refused", "near_quota"]
