"""The command ``hub admin``: words in, a verb done, a table or JSON out; and the way from it to a hub that runs."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import pyotp
import pytest

from hub.admin.cli import COMMANDS, OPERATOR_COMMANDS, _carried_out, _parser, main
from hub.admin.tables import table
from hub.errors import CLOSINGS, Refusal
from hub.operating import HOST_VERBS, VERBS
from hub.store import ARRIVING, Happening
from hub.wire import messages as m
from tests.cluster_rig import Replica, end, start
from tests.desk import DELAY, Desk, person_with
from tests.hub_rig import Wire
from tests.mailbox import HOST, Mailbox
from tests.services import database
from tests.store_exam import DAY, NOW, new_account, new_writer

ADDRESS = "maria@example.org"


@pytest.fixture
async def desk():
    desk = Desk()
    await desk.store.open()
    yield desk
    await desk.store.close()


@pytest.fixture
async def writer(desk):
    writer = await new_writer(desk.store)
    await writer.put(size=300_000)
    return writer


@pytest.fixture
def said(desk, monkeypatch, capsys):
    """What one command prints; ``typed`` is what the person types."""

    async def said(*words, typed="", status=0):
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        options = _parser().parse_args(words)
        assert await _carried_out(options.the_command, options, desk.operating.do_here) == status
        return capsys.readouterr().out.rstrip("\n")

    return said


# --- words -----------------------------------------------------------------------------------


def test_every_verb_but_those_of_moves_and_backups_has_a_command_and_the_other_way_round():
    verbs = [command.verb for command in (*COMMANDS.values(), *OPERATOR_COMMANDS.values())]
    others = {"begin_move", "cancel_move", "end_move", "note_backup"}
    assert sorted(verbs) == sorted((VERBS | HOST_VERBS).keys() - others)


@pytest.mark.parametrize("name", [*COMMANDS, *(f"operator {name}" for name in OPERATOR_COMMANDS)])
def test_every_command_takes_json_and_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*name.split(), "--help"])
    assert ended.value.code == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["allow", "block", "unlist", "find-account"])
def test_an_address_is_never_an_argument(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, ADDRESS])
    assert ended.value.code == 2


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["fly"],
        ["operator"],
        ["account"],
        ["set", "3f", "--quota", "much"],
        ["set", "3f", "--quota", "-1"],
        ["set", "3f", "--paid-until", "tomorrow"],
        ["set", "3f", "--paid-until", "2027-02-30"],
        ["set", "3f", "--paid-until", "20270101"],
        ["invite", "--days", "many"],
    ],
    ids=" ".join,
)
def test_words_that_make_no_command_end_with_2(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert capsys.readouterr().err


# --- for programs ----------------------------------------------------------------------------


async def test_json_is_the_result_of_the_verb_as_it_is(desk, writer, said):
    who = writer.account_id.hex()
    assert json.loads(await said("accounts", "--json")) == await desk.do("accounts")
    assert json.loads(await said("account", who, "--json")) == await desk.do("account", account_id=who)
    assert json.loads(await said("stats", "--json")) == await desk.do("stats")
    assert json.loads(await said("insight", "--json")) == await desk.do("insight")
    assert json.loads(await said("suspend", who, "--json"))["suspended_at"] == NOW
    assert json.loads(await said("keep", who, "--json")) == {}
    made = json.loads(await said("invite", "--days", "2", "--json"))
    assert made["expires_at"] == NOW + 2 * 86_400
    assert json.loads(await said("invites", "--json")) == await desk.do("invites")
    assert json.loads(await said("find-account", "--json", typed=f"{ADDRESS}\n")) == {"account_id": None}
    assert json.loads(await said("operator", "add", who, "--json"))["uri"].startswith("otpauth://totp/")
    assert json.loads(await said("operator", "list", "--json"))["operators"][0]["account_id"] == who


async def test_a_billing_system_sets_terms_by_its_own_name_of_the_account(desk, writer, said):
    who = writer.account_id.hex()
    await said("set", who[:8], "--billing-ref", "customer-7", "--plan", "family")
    words = ("set", "customer-7", "--quota", "2048", "--paid-until", "2027-01-31", "--json")
    result = json.loads(await said(*words))
    assert (result["account_id"], result["plan"], result["own_quota_bytes"]) == (who, "family", 2048 * 1_048_576)
    assert result["paid_until"] == 1_801_353_600  # 2027-01-31 00:00 UTC
    words = ("set", "customer-7", "--quota", "default", "--paid-until", "never", "--billing-ref", "none", "--json")
    result = json.loads(await said(*words))
    assert [result[name] for name in ("own_quota_bytes", "paid_until", "billing_ref")] == [None] * 3


# --- for people ------------------------------------------------------------------------------


async def test_accounts_are_a_table_and_say_how_to_go_on(desk, writer, said):
    other, _, _ = await new_account(desk.store)
    lines = (await said("accounts")).splitlines()
    assert lines[0].split() == ["account", "MiB", "devices", "spaces", "last", "seen", "plan", "billing_ref", "state"]
    mine = next(line for line in lines if line.startswith(writer.account_id.hex()))
    assert re.fullmatch(r"\S{32}  0\.3 of 10 +1 +1 +2025-06-15 +- +- +active", mine)
    first = min(writer.account_id, other).hex()
    text = await said("accounts", "--limit", "1")
    assert text.endswith(f"More: --after {first}")
    assert first not in await said("accounts", "--after", first)
    assert await said("accounts", "--matching", "nobody") == "No account."


async def test_one_account_is_shown_with_its_devices_and_spaces(desk, writer, said):
    who = writer.account_id.hex()
    await desk.do("set_terms", account_id=who, quota_mib=20, plan="family", billing_ref="c7", paid_until=NOW + 86_400)
    await desk.here("make_operator", account_id=who)
    text = await said("account", "c7")
    for fact in (
        f"account      {who}",
        "state        operator",
        "used         0.3 MiB of 20 MiB",
        "own quota    20 MiB",
        "plan         family",
        "paid until   2025-06-16",
        f"{writer.device_id.hex()}  notes.example  app    mail  2025-06-15  2025-06-15  -",
        f"{writer.space_id.hex()}  notes.example  0.3  1            1        2025-06-15   -",
    ):
        assert fact in text.splitlines() or fact in text, text


async def test_every_state_of_an_account_is_said_in_words(desk, writer, said):
    who = writer.account_id.hex()
    await said("suspend", who)
    await said("delete", who, "--yes")
    await desk.here("begin_move", account_id=who, url="wss://there/v1/ws")
    state = next(line for line in (await said("account", who)).splitlines() if line.startswith("state"))
    assert state.split(maxsplit=1)[1] == ("suspended since 2025-06-15, goes on 2025-06-22, moving to wss://there/v1/ws")
    assert ARRIVING == "*"


async def test_suspend_and_resume_say_what_they_did(desk, writer, said):
    who = writer.account_id.hex()
    assert await said("suspend", who[:6]) == f"Suspended {who}. Its devices are told; its data stays."
    assert (await said("resume", who)).startswith(f"Resumed {who}.")
    assert (await desk.do("account", account_id=who))["suspended_at"] is None


async def test_a_deletion_is_asked_for_and_anything_but_yes_is_no(desk, writer, said, capsys):
    who = writer.account_id.hex()
    for typed in ("no\n", "\n", "", "y\n"):
        await said("delete", who, typed=typed, status=1)
    assert (await desk.do("account", account_id=who))["deleted_at"] is None
    assert "It will be deleted on 2025-06-22 15:06 UTC" in await said("delete", who, typed="yes\n")
    assert (await desk.do("account", account_id=who))["deleted_at"] == NOW + DELAY
    assert await said("keep", who) == "The account stays."
    assert await said("delete", who, "--now", "--yes") == "Deleted: no row of it is left."
    assert await desk.store.account(writer.account_id) is None


async def test_a_device_is_named_by_its_first_digits(desk, writer, said):
    who = writer.account_id.hex()
    with pytest.raises(Refusal, match="no device is called zz"):
        await said("revoke", who, "zz")
    assert await said("revoke", who, writer.device_id.hex()[:10]) == "Revoked. Its connection is closed."
    assert (await desk.store.device(writer.device_id)).revoked_at == NOW


async def test_a_name_that_fits_several_accounts_or_none_is_refused(desk, writer, said):
    while True:
        other, _, _ = await new_account(desk.store)
        if other.hex()[0] == writer.account_id.hex()[0]:
            break
    with pytest.raises(Refusal, match="several accounts are called"):
        await said("suspend", other.hex()[0])
    with pytest.raises(Refusal, match="no account is called customer-9"):
        await said("suspend", "customer-9")


async def test_invitations_are_made_listed_and_withdrawn(desk, said):
    assert await said("invites") == "No invitation."
    token = await said("invite")
    assert re.fullmatch(r"[A-Za-z0-9_-]{32}", token)
    head, line = (await said("invites")).splitlines()
    assert head.split() == ["invite", "until", "used"]
    name = line.split()[0]
    assert re.fullmatch(rf"{name}  2025-06-22 15:06 UTC  -", line)
    assert await said("withdraw", name) == "Withdrawn."
    assert await said("invites") == "No invitation."


async def test_an_address_is_read_from_standard_input(desk, said):
    account_id = await person_with(desk, ADDRESS)
    assert await said("find-account", typed=f"{ADDRESS}\n") == account_id.hex()
    assert await said("find-account", typed="else@example.org\n") == "No account has this address."
    for name, answer in (("allow", "Allowed."), ("block", "Blocked."), ("unlist", "Off the list.")):
        assert await said(name, typed=f"{ADDRESS}\n") == answer
    with pytest.raises(Refusal, match="not one e-mail address"):
        await said("allow", typed="maria\n")


async def test_insight_is_a_sentence_a_line_the_pressing_first(desk, writer, said):
    await desk.store.note([Happening(writer.account_id, NOW, "key_refused", "device", adds_up=True)])
    await desk.do("delete", account_id=writer.account_id.hex())
    lines = (await said("insight")).splitlines()
    assert [line[0] for line in lines] == ["!", "!", "-"]
    await desk.do("keep", account_id=writer.account_id.hex())
    desk.now += 40 * 86_400
    await desk.here("note_backup", at=desk.now)
    await desk.store.note_seen([writer.device_id], DAY + 40)
    assert await said("insight") == "Nothing to tell: all is well as far as a blind hub can see."


async def test_stats_are_a_line_a_number(desk, writer, said):
    text = await said("stats")
    assert re.search(r"^accounts +1 \(0 suspended\)$", text, re.M)
    assert re.search(r"^connected +3$", text, re.M)
    assert re.search(r"^last backup +none$", text, re.M)


async def test_an_operator_gets_a_code_to_scan_and_the_secret_in_fours(desk, writer, said):
    who = writer.account_id.hex()
    assert "No account operates" in await said("operator", "list")
    text = await said("operator", "add", who)
    uri = re.search(r"^otpauth://\S+$", text, re.M)[0]
    assert max(len(line) for line in text.splitlines() if "█" in line) <= 79
    secret = urllib.parse.parse_qs(urllib.parse.urlsplit(uri).query)["secret"][0]
    assert " ".join(secret[at : at + 4] for at in range(0, len(secret), 4)) in text
    assert who in await said("operator", "list")
    assert await said("operator", "drop", who) == "It operates no more."
    with pytest.raises(Refusal):
        await said("operator", "drop", who)


def test_a_table_is_as_wide_as_it_must_be():
    assert table(("a", "long"), [("wider", "b"), ("c", "d")]) == "a      long\nwider  b\nc      d"


# --- the way to a hub ------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def serving(base: Path, mailbox: Mailbox, **settings: str):
    """``hub serve`` as a process; codes go to the mailbox."""
    common = {
        "HUB_SMTP_HOST": HOST,
        "HUB_SMTP_PORT": str(mailbox.port),
        "HUB_SMTP_SECURITY": "none",
        "HUB_SMTP_FROM": "hub@example.org",
        "HUB_SIGN_UP": "open",
        "HUB_LOG_LEVEL": "warning",
    }
    hub = Replica(base, 1, common | settings)
    try:
        await start(hub)
        yield hub
    finally:
        hub.kill()


async def admin(hub: Replica, *words: str, typed: str = "", status: int = 0) -> str:
    """What ``hub admin`` says as a process of its own, with the hub's settings."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hub", "admin", *words,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=hub.env, cwd=hub.base,
    )  # fmt: skip
    out, err = await process.communicate(typed.encode())
    assert process.returncode == status, (out, err)
    return (out if status == 0 else err).decode().rstrip("\n")


async def device_of(hub: Replica, mailbox: Mailbox, address: str = ADDRESS) -> Wire:
    wire = Wire(f"ws://{HOST}:{hub.port}/v1/ws")
    await wire.sign_up(mailbox, address)
    await wire.make_space()
    return wire


async def suspends_at_once(hub: Replica, mailbox: Mailbox) -> float:
    """Suspend a connected device's account; how long after the answer its socket was closed."""
    wire = await device_of(hub, mailbox)
    who = await admin(hub, "find-account", typed=f"{ADDRESS}\n")
    closing = asyncio.create_task(wire.closing(30))
    closing.add_done_callback(lambda task: closed.append(time.monotonic()))
    closed: list[float] = []
    await admin(hub, "suspend", who)
    answered = time.monotonic()
    assert await closing == CLOSINGS["suspended"].code
    await asyncio.sleep(0)
    assert "No backup was made" in await admin(hub, "insight")  # every look of it at this database
    await admin(hub, "resume", who)
    await wire.sign_in()
    await wire.hang_up()
    return closed[0] - answered


async def test_beside_a_hub_on_sqlite_the_hub_is_asked_and_closes_sockets_within_a_second(tmp_path):
    async with Mailbox() as mailbox, serving(tmp_path, mailbox) as hub:
        assert await suspends_at_once(hub, mailbox) < 1.0
        wire = await device_of(hub, mailbox, "other@example.org")
        stats = json.loads(await admin(hub, "stats", "--json"))
        assert (stats["accounts"], stats["sessions"]) == (2, 1)
        who = await admin(hub, "find-account", typed="other@example.org\n")
        closing = asyncio.create_task(wire.closing())
        await admin(hub, "revoke", who, wire.device_id.hex())
        assert await closing == CLOSINGS["revoked"].code
        assert "no account is called" in await admin(hub, "account", "ffff", status=1)
        assert await end(hub) == 0
        # And where no hub runs any more, the database is opened.
        stats = json.loads(await admin(hub, "stats", "--json"))
        assert (stats["accounts"], stats["sessions"]) == (2, None)
        assert not (tmp_path / "replica-1" / "data" / "hub.sock").exists()


async def test_after_a_crash_the_socket_that_was_left_is_no_obstacle(tmp_path):
    async with Mailbox() as mailbox, serving(tmp_path, mailbox) as hub:
        hub.kill()
        assert (tmp_path / "replica-1" / "data" / "hub.sock").exists()
        assert json.loads(await admin(hub, "stats", "--json"))["sessions"] is None
        await start(hub)
        assert json.loads(await admin(hub, "stats", "--json"))["sessions"] == 0


async def test_beside_replicas_on_postgres_and_redis_a_socket_is_closed_within_a_second(
    tmp_path, one_pg_server, one_redis_url
):
    async with database(one_pg_server) as url, Mailbox() as mailbox:
        settings = {
            "HUB_DATABASE_URL": url, "HUB_REDIS_URL": one_redis_url, "HUB_SECRETS_FILE": str(tmp_path / "secrets.toml"),
        }  # fmt: skip
        async with serving(tmp_path, mailbox, **settings) as hub:
            assert await suspends_at_once(hub, mailbox) < 1.0
            assert json.loads(await admin(hub, "stats", "--json"))["sessions"] is None


async def test_beside_a_hub_alone_on_postgres_the_hub_is_asked(tmp_path, one_pg_server):
    async with (
        database(one_pg_server) as url,
        Mailbox() as mailbox,
        serving(tmp_path, mailbox, HUB_DATABASE_URL=url) as hub,
    ):
        assert await suspends_at_once(hub, mailbox) < 1.0


async def test_a_folder_that_takes_no_socket_keeps_nobody_from_serving(tmp_path):
    (tmp_path / "replica-1" / "data" / "hub.sock" / "in the way").mkdir(parents=True)
    async with Mailbox() as mailbox, serving(tmp_path, mailbox, HUB_LOG_LEVEL="warning") as hub:
        await device_of(hub, mailbox)
        assert "hub admin cannot ask this hub" in hub.said()
        assert "in use by another running hub" in await admin(hub, "stats", status=1)


def test_the_page_for_operators_shows_every_command():
    page = (Path(__file__).parent.parent / "docs/admin.md").read_text("utf-8")
    names = [*COMMANDS, *(f"operator {name}" for name in OPERATOR_COMMANDS)]
    assert [name for name in names if f"\n$ hub admin {name}" not in page] == []


async def test_the_account_that_the_page_shows_is_of_the_shape_that_is_printed(desk, writer):
    page = (Path(__file__).parent.parent / "docs/admin.md").read_text("utf-8")
    shown = json.loads(re.search(r"^\{\n.*?^\}", page, re.M | re.S)[0])
    (account,) = (await desk.do("accounts"))["accounts"]
    assert list(shown) == list(account)
    rows = re.findall(r"^\| `hub admin .*", page, re.M)
    named = {verb for row in rows for verb in re.findall(r"`([a-z_]+)`", row.split("|")[2].partition(":")[0])}
    assert named == VERBS.keys()


def test_where_no_hub_ever_ran_nothing_is_made(tmp_path, monkeypatch, capsys):
    for name in [name for name in os.environ if name.startswith("HUB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HUB_DATA_DIR", str(tmp_path / "data"))
    assert main(["accounts"]) == 1
    assert f"There is no hub in {tmp_path}/data;" in capsys.readouterr().err
    assert main(["accounts", "--data-dir", str(tmp_path / "other")]) == 1
    assert f"There is no hub in {tmp_path}/other;" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


async def test_an_operator_operates_from_a_device_with_the_codes_of_the_app_that_scanned(tmp_path):
    async with Mailbox() as mailbox, serving(tmp_path, mailbox) as hub:
        wire = Wire(f"ws://{HOST}:{hub.port}/v1/ws")
        await wire.sign_up(mailbox, ADDRESS, scope="account")
        who = await admin(hub, "find-account", typed=f"{ADDRESS}\n")
        made = json.loads(await admin(hub, "operator", "add", who, "--json"))
        assert who in await admin(hub, "operator", "list")
        await wire.sign_in()
        assert await wire.refusal(m.Operate(wire.number(), "stats")) == "operator_code_needed"
        code = pyotp.parse_uri(made["uri"]).now()
        await wire.ask(m.OperatorCode(wire.number(), code), m.Done)
        stats = (await wire.ask(m.Operate(wire.number(), "stats"), m.Operated)).result
        assert stats == json.loads(await admin(hub, "stats", "--json"))
        named = await wire.ask(m.Operate(wire.number(), "account", {"account_id": who}), m.Operated)
        assert named.result == json.loads(await admin(hub, "account", who, "--json"))
        assert await wire.refusal(m.Operate(wire.number(), "operators")) == "bad_request"
        assert await wire.refusal(m.OperatorCode(wire.number(), code)) == "wrong_code"
        await wire.hang_up()
