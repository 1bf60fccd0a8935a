"""The dashboard as a person and an operator use it: real Chromium, a real hub behind HAProxy, real devices of apps."""

from __future__ import annotations

import re
import time

import pyotp
import pytest

from hub.bundle import End, Reader
from hub.control import ask
from tests.browser.dashboard_rig import dashboard_stage, postgres_mentions, sqlite_mentions, until

NOTES = "org.example.notes"
TEXT = "The last ferry had gone."
# What stays of a deleted space: that it was deleted, in the audit list of its person.
REMEMBERS = {"audit"}

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(params=["SQLite", "Postgres"])
async def either(request, tmp_path, chromium):
    """A stage on each database, and what tells in which tables some bytes are."""
    if request.param == "SQLite":
        async with dashboard_stage(tmp_path, chromium) as stage:
            yield stage, lambda id: _at_once(sqlite_mentions(stage.hub.data / "hub.sqlite3", id))
        return
    from tests.services import database

    async with database(request.getfixturevalue("one_pg_server")) as url:
        redis = request.getfixturevalue("one_redis_url")
        async with dashboard_stage(tmp_path, chromium, HUB_DATABASE_URL=url, HUB_REDIS_URL=redis) as stage:
            yield stage, lambda id: postgres_mentions(url, id)


async def _at_once(found):
    return found


@pytest.fixture
async def stage(tmp_path, chromium):
    async with dashboard_stage(tmp_path, chromium) as stage:
        yield stage


async def test_a_person_sees_and_ends_what_is_stored(either, measures):
    stage, mentions = either
    address = stage.rig.address()

    # Two devices of one app; the second came by mail and waits for a word, and so does a third.
    desk = await stage.device(address, NOTES, name="The desk")
    desk.client.collection("notes").put("first", {"text": TEXT})
    await desk.client.synced(15)
    key = desk.client.key_code()
    phone = await stage.device(address, NOTES, key=key, name="The phone")
    lost = await stage.device(address, NOTES, key=key)

    # Sign in: the account is there, the page is new to it, and the key of the app ends that.
    person = await stage.person()
    await person.look("signin")
    await person.sign_in(address)
    await person.see("This dashboard is new here")
    await person.look("overview-new")
    row = person.page.locator(".rows li").filter(has_text=NOTES)
    assert re.search(r"[1-9][\d.]* (B|KiB)", await row.first.inner_text())
    await person.page.get_by_text("Paste or scan a key").click()
    await person.give_key("HUBKEY1 QQQQ")
    await person.page.locator(".fault:not(:empty)").wait_for()
    await person.give_key(key)
    await person.gone("This dashboard is new here")

    # With the key the devices have their names; one is approved, one is cut off.
    await person.go("devices")
    await person.inside("The phone").get_by_text("waits for approval").wait_for()
    assert await person.page.locator("article").count() == 4
    await person.look("devices")
    await person.inside("The phone").get_by_role("button", name=re.compile("^Approve")).click()
    await person.inside("The phone").get_by_text("waits for approval").wait_for(state="detached")
    await until(lambda: "device_approved" in phone.told, what="the phone knows that it is approved")

    await person.page.locator(f"#revoke-{lost.client.device_id.hex()}").click()
    await person.see("is cut off at once")
    assert not await person.violations()
    asked = time.monotonic()
    await person.inside("Reject this device?").get_by_role("button", name="Reject").click()
    ended = await until(lambda: lost.since("blocked"), what="the lost device is cut off")
    measures("a device revoked in the dashboard is cut off", within_ms=(ended - asked) * 1000)
    assert ended - asked < 1.0
    await person.page.locator(f"#revoke-{lost.client.device_id.hex()}").wait_for(state="detached")

    # Everything as one file, which has this space and can be read to its end.
    await person.go("export")
    await person.button("Make the file").click()
    async with person.page.expect_download() as download:
        await person.page.get_by_role("link", name=re.compile("^Save the file")).click()
    bundle = Reader()
    parts = bundle.feed(await _bytes_of(await download.value))
    assert isinstance(bundle.close(), End)
    assert len(parts) > 2 and TEXT not in repr(parts)
    await person.look("export")

    # The copies shall go in seven days; every device is told, and the person undoes it.
    await person.go("apps")
    card = person.inside(NOTES)
    space = bytes.fromhex((await card.get_by_role("heading", name=NOTES).get_attribute("id")).removeprefix("app-"))
    assert {"space", "collection", "change"} <= set(await mentions(space))
    await person.look("apps")
    await card.get_by_role("button", name=re.compile("^Delete remote copies")).click()
    assert not await person.violations()
    await person.button("Go on").click()
    await person.button("Delete in seven days").click()
    await person.see("Copies are about to be deleted")
    await until(lambda: "space_deletion_set" in desk.told, what="the desk was told of the deletion")
    await person.go()
    await person.look("overview-deleting")
    await person.button("Undo: keep it").click()
    await person.gone("Copies are about to be deleted")
    await until(lambda: "space_deletion_cancelled" in desk.told, what="the desk was told that it stays")
    assert await mentions(space)

    # Then for good, with a fresh code: the page has forgotten the key.
    await person.go("apps")
    await person.button("Forget the keys").click()
    await card.get_by_role("button", name=re.compile("^Delete remote copies")).click()
    await person.page.get_by_role("radio", name="At once").check()
    await person.button("Go on").click()
    await person.fresh_code(address)
    await person.button("Delete for good").click()
    await person.see("Type “delete”")
    await person.page.get_by_label("Type “delete”").fill("delete")
    await person.button("Delete for good").click()
    await person.see("Nothing of it is left on this hub")
    await person.see("No app keeps anything here")

    # No row of it is left; the devices were told, stopped, and kept what they have.
    left = await mentions(space)
    assert set(left) <= REMEMBERS, left
    for device in (desk, phone):
        await until(lambda device=device: device.wiped or "space_deleted" in device.told, what="the devices were told")
        assert device.client.collection("notes").get("first") == {"text": TEXT}
    await person.go("history")
    for what in ("A device was approved", "A device was revoked", "An export was made", "An app's copies were deleted"):
        await person.see(what)
    await person.look("history")
    await person.go("account")
    await person.look("account")


async def _bytes_of(download):
    return (await download.path()).read_bytes()


async def test_the_account_can_change_its_address_and_be_deleted(stage):
    address, other = stage.rig.address(), stage.rig.address()
    person = await stage.person()
    await person.sign_in(address)
    await person.go("account")
    await person.button("Change the address").click()
    await person.fresh_code(address)
    await person.page.get_by_label("New address").fill(other)
    await person.button("Send me a code").click()
    await person.type_code(other, "Change the address")
    await person.see("From now on codes go to the new address")

    await person.button("Delete the account").click()
    await person.inside("Delete the account").get_by_role("button", name="Go on").click()
    await person.fresh_code(other)
    await person.see("This account is about to be deleted")
    await person.go()
    await person.button("Undo: keep it").click()
    await person.gone("This account is about to be deleted")

    await person.go("account")
    await person.button("Sign out here").click()
    await person.inside("Sign out").get_by_role("button", name="Sign out here").click()
    await person.field("E-mail address").wait_for()
    await person.sign_in(other)
    await person.see("Room on the hub")


async def test_an_app_is_stopped_and_keeps_its_copies(stage):
    address = stage.rig.address()
    person = await stage.person()
    await person.sign_in(address)
    device = await stage.device(address, NOTES)
    device.client.collection("notes").put("first", {"text": TEXT})
    await device.client.synced(15)
    await person.go("apps")
    await person.inside(NOTES).get_by_role("button", name=re.compile("^Stop here")).click()
    await person.inside("Stop this app here?").get_by_role("button", name="Stop it here").click()
    await until(lambda: device.since("blocked"), what="the device is cut off")
    await person.see("Its copies are still on the hub")
    assert await person.inside(NOTES).count() == 1


async def test_the_whole_way_in_goes_by_keyboard_and_in_german(stage):
    address = stage.rig.address()
    person = await stage.person(locale="de-DE", color_scheme="dark", viewport={"width": 360, "height": 740})
    keys, page = person.page.keyboard, person.page
    assert await page.evaluate("() => [document.documentElement.lang, document.documentElement.dataset.theme]") == [
        "de",
        "dark",
    ]
    await keys.press("Tab")
    assert await page.evaluate("() => document.activeElement.id") == "skip"
    await keys.press("Enter")
    assert await page.evaluate("() => document.activeElement.id") == "main"
    await keys.press("Tab")
    await keys.type(address)
    await keys.press("Enter")
    phrase = (await page.locator(".phrase").inner_text()).strip()
    await keys.type(await stage.rig.code(address, phrase))  # the field for it has the focus
    await keys.press("Enter")
    await page.get_by_role("navigation", name="Seiten").wait_for()
    await page.get_by_role("link", name="Konto", exact=True).press("Enter")
    await page.get_by_role("heading", name="Konto", exact=True).wait_for()
    assert await page.evaluate("() => document.activeElement.closest('#main, #nav') !== null")
    await page.get_by_role("button", name="Hier abmelden").press("Enter")
    await page.get_by_role("dialog").wait_for()
    await keys.press("Escape")
    await page.get_by_role("dialog").wait_for(state="detached")
    assert await page.evaluate("() => document.activeElement.textContent") == "Hier abmelden"
    await page.get_by_label("Sprache").select_option("en")
    await page.get_by_role("heading", name="Account", exact=True).wait_for()
    assert await page.evaluate("() => [document.documentElement.lang, document.activeElement.id]") == ["en", "language"]


FOCUSED = "() => document.activeElement.id"


async def test_what_the_hub_tells_takes_nothing_from_under_the_persons_hands(stage):
    address = stage.rig.address()
    await stage.device(address, NOTES)
    person = await stage.person()
    await person.sign_in(address)
    page = person.page
    field = page.get_by_label("Key of an app")

    # On the overview the field is in what is drawn again, on the others beside it.
    for name in ("", "devices", "apps"):
        await person.go(name)
        if not name:
            await page.get_by_text("Paste or scan a key").click()
        await field.fill("HALF A KEY")
        newcomer = await stage.device(address, f"app of {name}")
        id = newcomer.client.device_id.hex()
        await person.see(f"app of {name}" if name == "apps" else f"{id[:4]} {id[4:8]}")
        assert await field.input_value() == "HALF A KEY", name
        assert await page.evaluate(FOCUSED) == "key", name

    await page.get_by_role("link", name="Account", exact=True).focus()
    stage.hub.kill()
    await person.see("No connection, trying again")
    stage.hub.start()
    await person.see("Connected")
    await page.keyboard.press("Enter")
    await page.get_by_role("heading", name="Account", exact=True).wait_for()


async def test_a_page_goes_on_by_itself_after_the_hub_was_away(stage):
    person = await stage.person()
    await person.sign_in(stage.rig.address())
    stage.hub.kill()
    await person.see("No connection, trying again")
    stage.hub.start()
    await person.see("Connected")
    await person.page.reload()
    await person.see("Room on the hub")


async def test_a_second_tab_takes_over_and_the_first_can_take_it_back(stage):
    person = await stage.person()
    await person.sign_in(stage.rig.address())
    first = person.page
    await person.open()
    await first.get_by_text("opened in another tab").wait_for()
    await first.get_by_role("button", name="Go on here").click()
    await first.get_by_text("Room on the hub").wait_for()
    await person.see("opened in another tab")


# --- the operator ---


ACCOUNT = """async () => {
  const { client, hex } = await import('/dashboard/js/session.js');
  return hex(client.ready.accountId);
}"""


async def operator_of(stage):
    """Somebody signed in whose account may operate the hub, and who has typed the code; its id and address."""
    person, address = await stage.person(), stage.rig.address()
    await person.sign_in(address)
    account = await person.page.evaluate(ACCOUNT)
    made = await ask(stage.hub.data, "make_operator", {"account_id": account})
    await person.page.reload()
    await person.page.get_by_role("link", name="The hub").wait_for()
    await person.go("operator")
    await person.look("operator-code")
    await person.page.get_by_label("Code of the authenticator app").fill("000000")
    await person.button("Enter").click()
    await person.page.locator(".fault:not(:empty)").wait_for()
    await person.page.get_by_label("Code of the authenticator app").fill(pyotp.TOTP(made["secret"]).now())
    await person.button("Enter").click()
    await person.see("What deserves a look")
    return person, account, address


async def test_an_operator_runs_the_hub_from_pages(stage):
    address = stage.rig.address()
    device = await stage.device(address, NOTES)
    device.client.collection("notes").put("first", {"text": TEXT})
    await device.client.synced(15)
    person, *_ = await operator_of(stage)
    await person.loaded()
    await person.look("operator-hub")

    await person.go("operator/accounts")
    await person.look("operator-accounts")
    find = person.field("E-mail address")
    await find.fill("nobody@example.org")
    await person.button("Find").click()
    await person.see("There is no account with this address")
    await find.fill(address)
    await person.button("Find").click()
    await person.page.get_by_label("Billing reference").wait_for()
    await person.page.get_by_label("Quota in MiB").fill("7")
    await person.page.get_by_label("Plan").fill("family")
    await person.page.get_by_label("Billing reference").fill("customer 12")
    await person.page.get_by_label("Paid until").fill("2031-02-03")
    await person.button("Save the terms").click()
    await person.see("of 7 MiB")
    await person.look("operator-account")

    await person.button("Suspend").click()
    await person.inside("Suspend").get_by_role("button", name="Suspend").click()
    await until(lambda: device.since("blocked"), what="the device of the suspended account is cut off")
    await person.button("Resume").click()
    await person.inside("Resume").get_by_role("button", name="Resume").click()
    await person.button("Suspend").wait_for()
    await person.button("Delete the account").click()
    await person.inside("Delete the account").get_by_role("button", name="Delete the account").click()
    await person.button("Cancel the deletion").click()
    await person.inside("Cancel the deletion").get_by_role("button", name="Cancel the deletion").click()
    await person.button("Delete the account").wait_for()

    await person.go("operator/invites")
    await person.button("Make an invitation").click()
    await person.see("Shown once")
    await person.look("operator-invites")
    await person.button(re.compile("^Withdraw")).click()
    await person.see("None.")

    await person.go("operator/addresses")
    await person.field("E-mail address").fill("bad@example.org")
    await person.page.get_by_label("What").select_option("block")
    await person.button("Do it").click()
    await person.see("Done.")
    await person.page.locator(".facts div").filter(has_text="Blocked").get_by_text("1", exact=True).wait_for()
    await person.look("operator-addresses")


async def test_who_is_no_operator_sees_no_such_pages(stage):
    person = await stage.person()
    await person.sign_in(stage.rig.address())
    assert await person.page.get_by_role("link", name="The hub").count() == 0
    await person.go("operator")
    await person.see("Room on the hub")


# --- what others wrote ---

MARKUP = [
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "<svg onload=alert(1)>",
    '"><img src=x onerror=alert(1)>',
    "'-alert(1)-'",
    "javascript:alert(1)",
    "</title><script>alert(1)</script>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<a href=javascript:alert(1)>x</a>",
    "{{constructor.constructor('alert(1)')()}}{subject}${alert(1)}",
    "<math><mtext><style><img src=x onerror=alert(1)></style>",
]
STRANGERS = """() => document.querySelectorAll(
  "img, iframe, math, style, body script, [onerror], [onload], [srcdoc], a[href^='javascript']").length"""


async def test_what_others_wrote_stays_text_on_every_page(stage):
    person, account, address = await operator_of(stage)
    devices = [await stage.device(address, text, name=text[:64]) for text in MARKUP]
    await person.go("devices")
    for device, text in zip(devices, MARKUP, strict=True):
        await person.give_key(device.client.key_code())
        await person.page.locator("#notice").get_by_text(f"The key fits: {text}.", exact=True).wait_for()

    async def stands(page: str):
        """Every one of them is on this page, as it was written, and nothing came of it."""
        await person.go(page)
        seen = await person.page.locator("#main").evaluate("main => main.textContent")
        assert not [text for text in MARKUP if text not in seen], page
        assert await person.page.evaluate(STRANGERS) == 0, page

    for page in ("", "devices", "apps", "export", "history", f"operator/accounts/{account}"):
        await stands(page)
    for page, button in (("devices", "revoke"), ("apps", "stop"), ("apps", "delete")):
        await person.go(page)
        for index in range(len(MARKUP)):
            await person.page.locator(f"[id^='{button}-']").nth(index).click()
            await person.page.get_by_role("dialog").wait_for()
            assert await person.page.evaluate(STRANGERS) == 0
            await person.page.keyboard.press("Escape")
            await person.page.get_by_role("dialog").wait_for(state="detached")
    await person.go("devices")
    await person.look("devices-markup")

    for number, text in enumerate(MARKUP):
        terms = {"plan": text[:64], "billing_ref": f"{number}{text}"[:128]}
        await ask(stage.hub.data, "set_terms", {"account_id": account, **terms})
        await person.page.reload()
        await person.go("account")
        await person.see(text[:64])
        assert await person.page.evaluate(STRANGERS) == 0
