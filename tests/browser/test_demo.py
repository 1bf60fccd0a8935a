"""The demo as a newcomer meets it: a hub just started, windows opened, and everything done by hand.

Pictures of each step are saved; see ``demo_rig``.
"""

from __future__ import annotations

import asyncio
import re
import shutil

import pytest

from tests.browser.demo_rig import PHONE, Newcomer, demo_stage, film
from tests.browser.rig import ROOT, wait

FIRST = """The last ferry had gone when Ines came down the steps. Nobody waited.

She read the letter again, though she knew it by heart."""
PARAGRAPH = "The last ferry had gone when Ines came down the steps. Nobody waited."


def count(text: str) -> int:
    return len(re.findall(r"[\w’'-]+", text))


@pytest.fixture
async def stage(tmp_path, playwright_driver):
    async with demo_stage(tmp_path, playwright_driver) as stage:
        yield stage


async def first_device(stage, person: Newcomer, address: str) -> str:
    """Sign in as the first of the account and keep the key; the key code."""
    await person.type_code(await person.ask_for_code(stage.rig, address))
    sheet = person.page.get_by_role("dialog", name="Your key")
    await sheet.wait_for()
    code = await sheet.locator(".key-code").inner_text()
    await sheet.get_by_label("I have kept it").check()
    await sheet.get_by_role("button", name="Go on").click()
    await person.badge("Synced")
    return re.sub(r"\s", "", code)


@pytest.mark.timeout(240)
async def test_a_newcomer_writes_on_three_devices_through_a_power_cut(stage):
    # A desk, and a first chapter before any thought of sync.
    desk = await stage.newcomer("desk")
    await desk.see("A quiet place to write")
    await desk.picture("01-welcome")
    await desk.page.get_by_role("link", name="Begin a chapter").click()
    await wait(desk.page, "() => document.activeElement?.className === 'title'")
    await desk.page.keyboard.type("The harbour")
    await desk.page.keyboard.press("Enter")
    await desk.page.keyboard.type(FIRST)
    await desk.kept("The harbour", FIRST)
    await desk.picture("02-first-chapter")
    assert (await desk.status())["phase"] == "signed-out"

    # Sign in with the printed code, whose mail shows the same two words.
    address = stage.rig.address()
    code = await desk.ask_for_code(stage.rig, address)
    await desk.picture("03-code")
    await desk.type_code("00000000" if code != "00000000" else "11111111")
    await desk.see("That code is not right")
    await desk.type_code(code)
    sheet = desk.page.get_by_role("dialog", name="Your key")
    await sheet.wait_for()
    await desk.picture("04-key-sheet")

    # The key must be kept: neither Escape, nor the button, nor a reload leads past that.
    go_on = sheet.get_by_role("button", name="Go on")
    await desk.page.keyboard.press("Escape")
    await desk.page.keyboard.press("Escape")
    await go_on.click(force=True)
    await desk.see("Print it or write it down first")
    await desk.page.reload()
    await sheet.wait_for()
    key = re.sub(r"\s", "", await sheet.locator(".key-code").inner_text())
    assert re.fullmatch(r"HUBKEY1[A-Z0-9]{67}", key)
    assert len((await sheet.locator(".key-words").inner_text()).split()) >= 24
    await sheet.get_by_label("I have kept it").check()
    await go_on.click()
    await desk.badge("Synced")
    await desk.picture("05-synced")

    # A phone: the same address, and the key typed in.
    phone = await stage.newcomer("phone", **PHONE, color_scheme="dark")
    await phone.type_code(await phone.ask_for_code(stage.rig, address))
    await phone.see("still needs the key")
    await phone.picture("06-needs-key")
    await phone.page.get_by_label("Key code, or the 24 words").fill("HUBKEY1 QQQQ")
    await phone.button("Use this key").click()
    await phone.page.locator(".fault:not(:empty)").wait_for()
    await phone.page.get_by_label("Key code, or the 24 words").fill(" ".join(re.findall(".{1,5}", key.lower())))
    await phone.button("Use this key").click()
    await phone.badge("Synced")
    await phone.has_text("The harbour", FIRST)
    await phone.go("#/")
    await phone.see("The harbour")
    await phone.picture("07-phone-list")

    # A tablet shows a code, the desk scans it with its camera; six digits are compared.
    tablet = await stage.newcomer("tablet", "#/sync", viewport={"width": 768, "height": 1024})
    await tablet.button("Add this device").click()
    await tablet.button("Show a code here").click()
    await tablet.page.locator(".pairing .qr").wait_for()
    await tablet.picture("08-pairing-code")
    await film(tablet.page.locator(".pairing .qr"), stage.camera)
    await desk.go("#/sync")
    await desk.button("Add a device").click()
    await desk.button("Scan the other’s code").click()
    digits = (await desk.page.locator("#shown-digits").inner_text()).replace(" ", "")
    assert re.fullmatch(r"\d{6}", digits)
    await desk.picture("09-digits")
    await tablet.page.get_by_label("Six digits from the other device").fill(digits)
    await tablet.button("Go on").click()
    await desk.button("Add it").click()
    await desk.see("The device is added")
    await tablet.badge("Synced")
    await tablet.has_text("The harbour", FIRST)
    await tablet.picture("10-tablet-added")

    # All write, all read.
    second = "He had known her father, and he had known the house."
    await phone.write_chapter("What Aurel knew", second)
    await desk.has_text("What Aurel knew", second)
    await tablet.has_text("What Aurel knew", second)
    both = FIRST + "\n\nThen she put it away."
    await desk.open_chapter("The harbour")
    await desk.rewrite(both)
    await phone.has_text("The harbour", both)
    written = count(FIRST) + count(second) + count("Then she put it away.")
    for person in (desk, phone, tablet):
        await person.settled()
        assert await person.words_today() == written
    await phone.open_chapter("What Aurel knew")
    await phone.picture("11-phone-chapter")

    # The hub is gone. Everybody writes on: the same paragraph here and there, other ones too.
    stage.hub.kill()
    for person in (desk, phone):
        await person.badge("Offline")
    await desk.open_chapter("The harbour")
    mine = both.replace(PARAGRAPH, "The last ferry had gone when Ines came running down the wet steps. Nobody waited.")
    await desk.rewrite(mine)
    await phone.open_chapter("The harbour")
    theirs = both.replace(PARAGRAPH, "The last ferry had gone when Ines came down the steps, singing. Nobody waited.")
    theirs = theirs.replace("put it away", "burned it on the quay")
    await phone.rewrite(theirs)
    await desk.open_chapter("What Aurel knew")
    await desk.rewrite(second + "\n\nThe desk adds a paragraph.")
    await desk.go("#/sync")
    await desk.see("Write on: all is kept here")
    await desk.picture("12-offline")
    assert count(mine) != count(both) != count(theirs)  # both count words of the day
    written += count(mine) - count(both) + count(theirs) - count(both) + count("The desk adds a paragraph.")

    # The phone's app is closed and opened without any network: it comes from the service worker.
    await phone.page.reload()
    await phone.page.locator(".title").wait_for()
    assert await phone.page.locator(".title").input_value() == "The harbour"
    await phone.badge("Offline")
    assert (await phone.status())["pending"] > 0
    await phone.picture("13-offline-reload")

    # The hub is back: all come together, but for one paragraph that a person must look at.
    await asyncio.to_thread(stage.hub.start)
    for person in (desk, phone, tablet):
        await person.settled()
        await person.has_text("What Aurel knew", second + "\n\nThe desk adds a paragraph.")
        await wait_for_words(person, written)
    judge = await whoever_has_a_conflict([desk, phone])
    await judge.go("#/compare/" + (await judge.chapters())["The harbour"]["id"])
    await judge.see("Two versions of")
    await judge.picture("14-compare", whole=True)
    marks = await judge.page.locator(".version mark").all_inner_texts()
    assert any("running" in mark for mark in marks) and any("singing" in mark for mark in marks)
    assert not any("heart" in mark for mark in marks)
    await judge.see("They fit together")
    by_hand = judge.page.get_by_label("Text", exact=True)
    merged = (await by_hand.input_value()).replace("Nobody waited.", "Nobody waited for her.")
    assert "running" in merged and "singing" in merged and "burned" in merged
    await by_hand.fill(merged)
    await judge.button("Keep this text").click()
    for person in (desk, phone, tablet):
        await person.has_text("The harbour", merged)
        await wait(person.page, "async () => !(await import('/demo/js/db.js')).db.hub.conflicts.value.length")
        await person.settled()
        assert await person.words_today() == written
    await desk.go("#/progress")
    await desk.page.locator(".chart").wait_for()
    await desk.picture("15-words-by-day")

    # The tablet goes on its own for a while.
    await tablet.go("#/sync")
    await tablet.page.get_by_role("switch", name="Sync this device").click()
    await tablet.badge("Sync is off")
    await desk.write_chapter("While you were away", "Nothing happened.")
    await desk.settled()
    assert "While you were away" not in await tablet.chapters()
    await tablet.picture("16-sync-off")
    await tablet.page.get_by_role("switch", name="Sync this device").click()
    await tablet.has_text("While you were away", "Nothing happened.")
    await tablet.badge("Synced")

    # The copies on the hub go; the texts stay everywhere.
    await desk.go("#/sync")
    await desk.page.get_by_role("listitem").filter(has_text="by code").wait_for()
    await desk.picture("17-devices", whole=True)
    await desk.button("Delete the copies on the hub").click()
    await desk.picture("18-delete-copies")
    await desk.button("Delete the copies").click()
    await desk.see("The copies on the hub are deleted")
    for person in (desk, phone, tablet):
        await person.badge("Sync is off")
        assert set(await person.chapters()) == {"The harbour", "What Aurel knew", "While you were away"}
    await phone.go("#/sync")
    await phone.see("Another device deleted the copies on the hub")
    await phone.picture("19-copies-deleted")

    # And one device leaves, with its texts.
    await tablet.go("#/sync")
    await tablet.button("Sign out").click()
    await tablet.page.get_by_role("dialog").get_by_role("button", name=re.compile("^Sign out")).click()
    await tablet.badge("Only on this device")
    assert len(await tablet.chapters()) == 3


async def whoever_has_a_conflict(people: list[Newcomer]) -> Newcomer:
    """The device whose edit came second."""
    for _ in range(400):
        for person in people:
            status = await person.status()
            if status["conflicts"]:
                return person
        await asyncio.sleep(0.05)
    raise AssertionError("nobody has a conflict")


async def wait_for_words(person: Newcomer, words: int) -> None:
    """Until the words of the day are so many."""
    await wait(
        person.page,
        """async (words) => {
          const [{ db }, { dayOf }] = [await import('/demo/js/db.js'), await import('/demo/js/words.js')];
          return (await db.days.get(dayOf()))?.words === words;
        }""",
        words,
    )


# --- the other ways ---


async def test_a_device_is_added_by_a_typed_code_and_nobody_with_the_wrong_digits(stage):
    desk = await stage.newcomer("adds")
    await first_device(stage, desk, stage.rig.address())
    await desk.write_chapter("One", "Some words.")
    phone = await stage.newcomer("added", "#/sync", **PHONE)

    async def shown_and_typed() -> str:
        """The desk shows a code, the phone has it typed in; the digits on the phone."""
        await desk.go("#/sync")
        await desk.button("Add a device").click()
        await desk.button("Show a code here").click()
        await desk.page.get_by_text("No camera?").click()
        code = await desk.page.locator("#shown-code").inner_text()
        assert code.startswith("HUBPAIR1") and code.endswith(stage.hub.url.removeprefix("http://"))
        await phone.button("Add this device").click()
        await phone.button("Type the other’s code").click()
        await phone.page.get_by_label("The code under").fill(code.lower())
        await phone.button("Go on").click()
        return (await phone.page.locator("#shown-digits").inner_text()).replace(" ", "")

    digits = await shown_and_typed()
    wrong = f"{(int(digits) + 1) % 1_000_000:06}"
    await desk.page.get_by_label("Six digits").fill(wrong)
    await desk.button("Add it").click()
    for person in (desk, phone):
        await person.page.locator(".pairing .fault").wait_for()
        await person.picture("20-wrong-digits")
        await person.button("Cancel").click()
    assert (await phone.status())["phase"] == "signed-out"

    digits = await shown_and_typed()
    await phone.picture("21-digits")
    await desk.page.get_by_label("Six digits").fill(f"{digits[:3]} {digits[3:]}")
    await desk.see("Chrome on Linux")
    await desk.picture("22-type-digits")
    await desk.button("Add it").click()
    await desk.see("The device is added")
    await phone.has_text("One", "Some words.")

    # It has a name of its own, and can be removed.
    await desk.page.get_by_role("listitem").filter(has_text="by code").get_by_role("button", name="Rename").click()
    await desk.page.get_by_label("Only your own devices see it.").fill("The red phone")
    await desk.button("Keep").click()
    await phone.see("The red phone")
    await desk.button("Remove The red phone").click()
    await desk.button("Remove").click()
    await phone.badge("Sync stopped")
    await phone.see("Sign in again")
    await phone.picture("23-removed")
    await phone.button("Sign in again").click()
    await phone.button("Go on").click()
    await phone.badge("Only on this device")
    await phone.page.get_by_label("E-mail address").wait_for()
    assert "One" in await phone.chapters()


SEEN = """element => {
  const copy = element.cloneNode(true);
  for (const heard of copy.querySelectorAll(".sr-only")) heard.remove();
  return copy.textContent;
}"""


async def test_one_version_can_simply_be_taken(stage):
    address = stage.rig.address()
    desk, phone = await stage.newcomer("takes"), await stage.newcomer("other", **PHONE)
    key = await first_device(stage, desk, address)
    await phone.type_code(await phone.ask_for_code(stage.rig, address))
    await phone.page.get_by_label("Key code, or the 24 words").fill(key)
    await phone.button("Use this key").click()
    await desk.write_chapter("One", "The sea was calm.")
    await phone.has_text("One", "The sea was calm.")
    stage.hub.kill()
    for person, text in ((desk, "The sea was grey."), (phone, "The sea was wild.")):
        await person.badge("Offline")
        await person.open_chapter("One")
        await person.rewrite(text)
    await asyncio.to_thread(stage.hub.start)
    judge = await whoever_has_a_conflict([desk, phone])
    # The editor says so, and leads there.
    await judge.page.get_by_role("link", name="Compare them").click()
    await judge.see("both changed the same words")
    other = "The sea was wild." if judge is desk else "The sea was grey."
    theirs = judge.page.locator(".version.theirs .version-text")
    assert await theirs.evaluate(SEEN) == other
    assert (await theirs.locator("mark").evaluate(SEEN)) == other[12:16]
    await judge.page.locator(".version.theirs").get_by_role("button", name="Take this one").click()
    for person in (desk, phone):
        await person.has_text("One", other)
        await person.badge("Synced")


async def test_two_tabs_may_write_in_the_same_chapter(stage):
    desk = await stage.newcomer("tabs")
    base = "The first.\n\nThe second.\n\nThe third."
    await desk.write_chapter("One", base)
    second = await desk.tab(f"#/chapter/{(await desk.chapters())['One']['id']}")
    text = "textarea[aria-label=Text]"
    await wait(second, "text => document.querySelector('textarea')?.value === text", base)
    # Both before either has kept anything.
    await asyncio.gather(
        desk.page.locator(text).fill(base.replace("first", "very first")),
        second.locator(text).fill(base.replace("third", "very last")),
    )
    both = base.replace("first", "very first").replace("third", "very last")
    await desk.has_text("One", both)
    for page in (desk.page, second):
        await wait(page, "text => document.querySelector('textarea')?.value === text", both)
    assert await desk.words_today() == count(both)
    # What does not fit together becomes a chapter of its own.
    await asyncio.gather(desk.page.locator(text).fill("Mine alone."), second.locator(text).fill("Yours alone."))
    await wait(desk.page, "async () => (await (await import('/demo/js/db.js')).db.chapters.count()) === 2")
    assert {row["text"] for row in (await desk.chapters()).values()} == {"Mine alone.", "Yours alone."}


async def test_what_comes_in_while_one_writes_leaves_the_cursor_in_its_place(stage):
    desk = await stage.newcomer("cursor")
    await desk.write_chapter("One", "Alpha beta gamma.\n\nOmega.")
    await desk.page.evaluate("document.querySelector('textarea').setSelectionRange(24, 24)")
    chapter = (await desk.chapters())["One"]
    put = "async (row) => (await import('/demo/js/db.js')).db.chapters.put(row)"
    await desk.page.evaluate(put, chapter | {"text": "Alpha NEW WORDS beta gamma.\n\nOmega."})
    await wait(desk.page, "() => document.querySelector('textarea').value.includes('NEW WORDS')")
    assert await desk.page.evaluate("document.querySelector('textarea').selectionStart") == 34
    await desk.page.keyboard.type("!")
    await desk.has_text("One", "Alpha NEW WORDS beta gamma.\n\nOmega!.")


async def test_chapters_are_moved_renamed_deleted_and_brought_back(stage):
    desk = await stage.newcomer("order")
    for title in ("One", "Two", "Three"):
        await desk.write_chapter(title, f"Text of {title}.")
    links = desk.page.locator(".chapter a .chapter-title")

    async def order(*titles: str) -> None:
        await wait(
            desk.page,
            """titles => titles ===
              [...document.querySelectorAll(".chapter-title")].map((one) => one.textContent).join()""",
            ",".join(titles),
        )

    await order("One", "Two", "Three")
    await desk.page.get_by_role("link", name="Three").focus()
    await desk.page.keyboard.press("Alt+ArrowUp")
    await order("One", "Three", "Two")
    await wait(desk.page, "() => document.activeElement.textContent.includes('Three')")
    await links.nth(0).drag_to(links.nth(2), target_position={"x": 10, "y": 20})
    await order("Three", "Two", "One")
    await desk.page.get_by_role("button", name="More for Two").click(force=True)
    await desk.page.keyboard.press("ArrowDown")
    await desk.page.keyboard.press("Enter")  # Move up
    await order("Two", "Three", "One")
    await desk.page.get_by_role("button", name="More for Three").click(force=True)
    await desk.page.get_by_role("menuitem", name="Rename").click()
    await desk.page.keyboard.type("Third")
    await order("Two", "Third", "One")
    await desk.page.get_by_role("button", name="More for Third").click(force=True)
    await desk.page.get_by_role("menuitem", name="Delete").click()
    await order("Two", "One")
    await desk.picture("24-deleted")
    await desk.button("Undo").click()
    await order("Two", "Third", "One")
    assert (await desk.chapters())["Third"]["text"] == "Text of Three."


async def test_all_texts_can_be_taken_along(stage):
    desk = await stage.newcomer("export")
    await desk.write_chapter("One", "# Not a *title*\n\nText.")
    await desk.write_chapter("", "Without a title.")
    async with desk.page.expect_download() as waiting:
        await desk.button("Save all as a text file").first.click()
    download = await waiting.value
    assert re.fullmatch(r"quire-\d{4}-\d\d-\d\d\.md", download.suggested_filename)
    text = (await download.path()).read_text()
    assert text == "# One\n\n# Not a *title*\n\nText.\n\n# Untitled\n\nWithout a title.\n"


async def test_the_preview_shows_marks_and_runs_nothing(stage):
    desk = await stage.newcomer("preview")
    marks = "*soft*\n\n<img src=x onerror=alert(1)>\n\n[bad](javascript:alert(1)) [good](https://example.org)"
    await desk.write_chapter("One", marks)
    await desk.page.keyboard.press("Alt+p")
    paper = desk.page.locator(".preview")
    assert await paper.locator("em").inner_text() == "soft"
    assert await paper.locator("img").count() == 0
    assert [await link.get_attribute("href") for link in await paper.locator("a").all()] == ["https://example.org"]
    await desk.page.keyboard.press("Alt+p")
    assert await paper.is_hidden()


# --- offline and new versions ---


async def test_it_opens_without_a_network_after_the_first_visit(stage):
    desk = await stage.newcomer("first-visit", **PHONE)
    await desk.ready_for_offline()
    browser = await desk.context.new_cdp_session(desk.page)
    manifest = await browser.send("Page.getAppManifest")
    assert manifest["errors"] == [] and "Quire" in manifest["data"]
    against = (await browser.send("Page.getInstallabilityErrors"))["installabilityErrors"]
    assert {one["errorId"] for one in against} <= {"in-incognito"}
    stage.hub.kill()
    await desk.page.reload()
    await desk.see("A quiet place to write")
    await desk.write_chapter("Alone", "On the train.")
    await desk.page.close()
    await desk.open("#/progress")
    await desk.page.locator(".chart").wait_for()
    await desk.go("#/sync")
    await desk.page.get_by_label("E-mail address").fill("a@example.org")
    await desk.button("Send me a code").click()
    await desk.see("The hub cannot be reached")
    await desk.picture("25-offline-sign-in")
    names = await desk.page.evaluate(
        """async () => {
          const cache = await caches.open((await caches.keys())[0]);
          return (await cache.keys()).map((one) => new URL(one.url).pathname);
        }"""
    )
    assert {"/demo/", "/demo/style.css", "/client/dexie.js", "/client/hub-dexie.js", "/client/qr.js"} <= set(names)
    assert any(name.startswith("/client/leading-") for name in names)
    assert "/demo/icons/icon-512.png" in names


async def test_a_new_version_is_offered_and_not_forced(stage, tmp_path):
    site = stage.rig.sites[0]
    copy = tmp_path / "demo"
    shutil.copytree(ROOT / "clients" / "demo", copy)
    site.folders["/demo/"] = copy
    desk = await stage.newcomer("update", origin=site.url)
    await desk.ready_for_offline()
    welcome = copy / "js" / "views" / "welcome.js"
    welcome.write_text(welcome.read_text().replace("A quiet place to write", "A new place to write"))
    await desk.page.reload()
    await desk.see("A new version is ready.")
    await desk.picture("26-new-version")
    assert await desk.page.locator("h1").inner_text() == "A quiet place to write"
    await desk.write_chapter("One", "Nobody is thrown out of a sentence.")
    await desk.button("Use it now").click()
    await desk.has_text("One", "Nobody is thrown out of a sentence.")
    source = "async () => (await (await fetch('/demo/js/views/welcome.js')).text()).includes('A new place')"
    await wait(desk.page, source)
    await desk.ready_for_offline()
    assert await desk.page.locator(".notice").count() == 0


# --- for everybody ---

MUST_HAVE_NAMES = "button|link|textbox|checkbox|switch|spinbutton|menuitem|img|dialog|navigation"
NAMELESS = re.compile(rf"^\s*- ({MUST_HAVE_NAMES})(\s*\[[^]]*\])*:?$", re.M)
TOP = """() => {
  document.body.tabIndex = -1;
  document.body.focus();
  document.body.removeAttribute("tabindex");
}"""
TAB_STOPS = """() => {
  const all = [...document.querySelectorAll("a[href], button, input, textarea, summary, [tabindex]")];
  const open = document.querySelector("dialog[open]");
  return all.filter((one) => one.tabIndex >= 0 && one.checkVisibility({ visibilityProperty: true })
    && (!open || open.contains(one))).map((one) => one.outerHTML.slice(0, 90));
}"""


async def test_every_control_has_a_name_and_is_reached_by_tab_in_order(stage):
    desk = await stage.newcomer("keyboard")
    await desk.write_chapter("One", "Some words.")
    await first_device(stage, desk, stage.rig.address())
    for view in ("#/", "#/progress", "#/sync", "#/help", "#/chapter/none"):
        await desk.go(view)
        await desk.page.wait_for_timeout(300)
        tree = await desk.page.locator("body").aria_snapshot()
        assert not NAMELESS.findall(tree), f"{view}: {[match.group() for match in NAMELESS.finditer(tree)]}"
        assert await desk.page.get_by_role("main").count() == 1
        assert len(await desk.page.locator("h1, .title").all()) == 1
        await desk.page.evaluate(TOP)
        stops = await desk.page.evaluate(TAB_STOPS)
        reached = []
        for _ in stops:
            await desk.page.keyboard.press("Tab")
            reached.append(await desk.page.evaluate("document.activeElement.outerHTML.slice(0, 90)"))
            seen = await desk.page.evaluate(
                """() => {
                  const { outlineStyle } = getComputedStyle(document.activeElement);
                  return outlineStyle !== "none" || document.activeElement.matches(".title, textarea.prose");
                }"""
            )
            assert seen, f"no sign of focus: {reached[-1]}"
        assert reached == stops, view
    await desk.page.keyboard.press("?")
    await desk.see("Keyboard and marks")


async def test_a_dialog_keeps_the_focus_and_gives_it_back(stage):
    desk = await stage.newcomer("dialog")
    await first_device(stage, desk, stage.rig.address())
    await desk.button("Show the key sheet").click()
    tree = await desk.page.get_by_role("dialog").aria_snapshot()
    assert not NAMELESS.findall(tree)
    await desk.page.keyboard.press("Escape")
    await wait(desk.page, "() => document.activeElement.textContent === 'Show the key sheet'")
    assert await desk.page.get_by_role("dialog").count() == 0


# Pairs of colours that text, or a shape that means something, has: what, on what, how much at least (WCAG 2.2 AA).
PAIRS = [
    ("ink", "paper", 4.5), ("ink", "paper-side", 4.5), ("ink", "raised", 4.5), ("ink", "hover", 4.5),
    ("ink-soft", "paper", 4.5), ("ink-soft", "paper-side", 4.5), ("ink-soft", "raised", 4.5),
    ("ink-soft", "hover", 4.5), ("ink-soft", "accent-soft", 4.5), ("ink", "accent-soft", 4.5),
    ("ink", "mine", 4.5), ("ink", "theirs", 4.5),
    ("accent", "paper", 4.5), ("accent", "raised", 4.5), ("accent", "hover", 4.5), ("on-accent", "accent", 4.5),
    ("accent", "paper-side", 3.0), ("good", "paper-side", 3.0), ("good", "paper", 3.0),
    ("quiet-dot", "paper-side", 3.0), ("field-line", "paper", 3.0), ("field-line", "raised", 3.0),
]  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_colours_can_be_told_apart(stage, scheme):
    desk = await stage.newcomer(scheme, color_scheme=scheme)
    names = sorted({name for pair in PAIRS for name in pair[:2]})
    read = """names => names.map((name) =>
      getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim())"""
    colours = dict(zip(names, await desk.page.evaluate(read, names), strict=True))
    weak = {
        (one, other): round(found, 2)
        for one, other, least in PAIRS
        if (found := contrast(colours[one], colours[other])) < least
    }
    assert not weak
    # The switch chooses the other one, and a reload keeps it.
    await desk.page.get_by_role("button", name=f"Use {'dark' if scheme == 'light' else 'light'} colours").click()
    other = {"light": "dark", "dark": "light"}[scheme]
    await desk.page.reload()
    await wait(desk.page, "theme => document.documentElement.dataset.theme === theme", other)


def contrast(one: str, other: str) -> float:
    """WCAG's contrast of two colours like #a1b2c3."""

    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, bright = sorted((light(one), light(other)))
    return (bright + 0.05) / (dark + 0.05)


async def test_nothing_is_wider_than_a_small_phone(stage):
    phone = await stage.newcomer("narrow", **PHONE)
    title = "A title so long that it cannot stand on one line of a phone"
    await phone.write_chapter(title, "Supercalifragilistic" * 12)
    await first_device(stage, phone, stage.rig.address())
    chapter = f"#/chapter/{(await phone.chapters())[title]['id']}"
    for view in ("#/", "#/progress", "#/sync", "#/help", "#/chapter/none", chapter):
        await phone.go(view)
        await phone.page.wait_for_timeout(200)
        assert await phone.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
    await phone.button("Preview").click()
    await phone.page.locator(".preview p").wait_for()
    assert await phone.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # What a finger touches is large enough.
    await phone.go("#/")
    await phone.page.locator(".chapter a").wait_for()
    small = await phone.page.evaluate(
        """() => [...document.querySelectorAll("#side a, #side button")].filter((one) => one.checkVisibility())
          .filter((one) => { const box = one.getBoundingClientRect(); return Math.min(box.width, box.height) < 24; })
          .map((one) => one.outerHTML.slice(0, 80))"""
    )
    assert not small
