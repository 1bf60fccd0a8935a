"""The core of the client in Chromium: what is proven in Node holds there, and what only a browser can do wrong."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

from tests.browser.raw import raw_chromium
from tests.browser.rig import ARGUMENTS, Profile, Rig, Site, chromium_program, hub_rig, wait
from tests.browser.suite import NOT_FOR_A_PAGE, build, why_no_suite

READY = "() => document.documentElement?.dataset.ready"
SYNCED = "() => core.client.status.phase === 'synced'"


async def sign_up(page: Any, rig: Rig, address: str, key: str = "") -> str:
    """The client of this page is in; its key code."""
    await wait(page, READY)
    await page.evaluate("() => core.open()")
    phrase = await page.evaluate("address => core.request(address)", address)
    code = await rig.code(address, phrase)
    key = await page.evaluate("([code, key]) => core.enter(code, key)", [code, key])
    await wait(page, SYNCED)
    return key


async def device(rig: Rig, browser: Any, address: str, key: str = "") -> tuple[Profile, Any, str]:
    """A profile with one tab whose client is in, and the key code."""
    profile = await rig.profile(browser)
    page = await profile.open("core.html")
    return profile, page, await sign_up(page, rig, address, key)


async def holds(page: Any, records: dict[str, Any], within_s: float = 20.0) -> None:
    """Wait until the page has these records and no others."""
    both = "wanted => JSON.stringify(Object.entries(wanted).sort()) === JSON.stringify(core.notes().items().sort())"
    await wait(page, both, records, within_s)


async def test_two_profiles_converge(rig, chromium):
    address = rig.address()
    anna, one, key = await device(rig, chromium, address)
    berta, other, _ = await device(rig, chromium, address, key)
    await one.evaluate("() => core.notes().put('first', { text: 'from one' })")
    await other.evaluate("() => core.notes().put('second', { text: 'from the other' })")
    for page in (one, other):
        await holds(page, {"first": {"text": "from one"}, "second": {"text": "from the other"}})
    assert (anna.sockets, berta.sockets) == (3, 3), "one for the code, one to hand it in, one to stay"


async def test_the_clients_own_tests_hold_in_chromium(rig, chromium, tmp_path):
    """Every published vector, checked by what a page runs; and the exam of storage in a real IndexedDB."""
    if reason := why_no_suite():
        pytest.skip(reason)
    await asyncio.to_thread(build, tmp_path)
    profile = await rig.profile(chromium)
    profile.site.folders = {"/suite/": tmp_path, **profile.site.folders}
    page = await profile.open("suite.html")
    await wait(page, "() => globalThis.run")
    result = await page.evaluate("except => run(except)", NOT_FOR_A_PAGE)
    assert not result["failures"], "\n\n".join(result["failures"])[:6000]
    assert len(result["left"]) == len(NOT_FOR_A_PAGE) and result["count"] > 300, result


async def test_a_page_that_breaks_the_policy_is_noticed(rig, chromium):
    """Every other test stands on this eye."""
    profile = await rig.profile(chromium)
    page = await profile.open("inline.html")
    assert await page.title() == "what a page must not do"
    faults, profile.faults = "\n".join(profile.faults), []
    assert faults.count("breaks the policy") >= 2 and "script-src" in faults and "img-src" in faults, faults
    await page.evaluate("() => fetch('https://elsewhere.example/').catch(() => 0)")
    faults, profile.faults = "\n".join(profile.faults), []
    assert "connect-src" in faults, faults


# --- the device's key ------------------------------------------------------------------------

_STORED_KEY = """async () => {
  const answer = (request) => new Promise((done) => (request.onsuccess = () => done(request.result)));
  const database = await answer(indexedDB.open('core'));
  const { value } = await answer(database.transaction('settings').objectStore('settings').get('device_key'));
  database.close();
  const refused = (form) => crypto.subtle.exportKey(form, value).then(() => 'exported', ({ name }) => name);
  const exports = await Promise.all(['pkcs8', 'jwk', 'raw'].map(refused));
  return { kind: value.constructor.name, extractable: value.extractable, exports };
}"""


async def test_the_devices_key_cannot_be_read_and_survives_a_restart_of_the_browser(rig, playwright_driver, tmp_path):
    site = rig.sites[0]

    async def start() -> tuple[Profile, Any]:
        context = await playwright_driver.chromium.launch_persistent_context(
            tmp_path / "profile", executable_path=chromium_program(), args=ARGUMENTS
        )
        profile = rig.at(context, site)
        page = await profile.open("core.html")
        await wait(page, READY)
        return profile, page

    profile, page = await start()
    await sign_up(page, rig, rig.address())
    kept = await page.evaluate(_STORED_KEY)
    assert (kept["kind"], kept["extractable"]) == ("CryptoKey", False)
    assert all(name in ("InvalidAccessError", "NotSupportedError") for name in kept["exports"]), kept
    await page.evaluate("() => core.notes().put('first', 'before the restart')")
    await wait(page, "() => core.client.status.unsynced === 0")
    device_id = await page.evaluate("() => core.hub && [...core.client.deviceId].join()")
    mails = len(rig.hubs[0].mails())
    await profile.context.close()

    profile, page = await start()
    assert await page.evaluate("() => core.open()") == {"signedIn": True, "hasKey": True}
    await page.evaluate("() => core.client.start()")
    await wait(page, SYNCED)
    await holds(page, {"first": "before the restart"})
    await page.evaluate("() => core.notes().put('first', 'after the restart')")
    await wait(page, "() => core.client.status.unsynced === 0 && core.client.status.phase === 'synced'")
    assert await page.evaluate("() => [...core.client.deviceId].join()") == device_id
    assert len(rig.hubs[0].mails()) == mails, "no code was needed"


# --- one tab leads ---------------------------------------------------------------------------


async def two_tabs(rig: Rig, chromium: Any) -> tuple[Profile, Any, Any]:
    """Two tabs that stand for election; the first leads."""
    profile = await rig.profile(chromium)
    tabs = [await profile.open("core.html") for _ in range(2)]
    for tab in tabs:
        await wait(tab, READY)
        await tab.evaluate("() => core.stand('notes')")
        await wait(tabs[0], "() => core.leader.leading")
    return profile, *tabs


async def test_the_next_tab_leads_when_the_leader_is_closed(rig, chromium):
    _, first, second = await two_tabs(rig, chromium)
    assert not await second.evaluate("() => core.leader.leading")
    await first.close()
    await wait(second, "() => core.leader.leading", within_s=2)


async def frozen_behind(browser: Any, site: Site, *, told: bool) -> tuple[Any, Any]:
    """A leader that was hidden by a second tab and then frozen, and the second tab."""
    first = await browser.tab(f"{site.url}/pages/core.html")
    await wait(first, READY)
    await first.run("() => core.stand('notes')")
    await wait(first, "() => core.leader.leading")
    if not told:
        # What the page would do at its last moment does not come to pass.
        stop = "() => addEventListener('freeze', (event) => event.stopImmediatePropagation(), { capture: true })"
        await first.run(stop)
    second = await browser.tab(f"{site.url}/pages/core.html")
    await second.show()
    await wait(first, "() => document.visibilityState === 'hidden'")
    await wait(second, READY)
    await second.run("() => core.stand('notes')")
    await first.freeze()
    return first, second


async def test_a_leader_that_is_told_of_its_freezing_hands_over(rig, chromium, tmp_path):
    async with raw_chromium(tmp_path) as browser:
        first, second = await frozen_behind(browser, rig.sites[0], told=True)
        await wait(second, "() => core.leader.leading", within_s=2)
        await first.freeze(False)
        await wait(first, "() => core.events.includes('freeze') && core.lost === 1 && !core.leader.leading")
        await second.close()
        await wait(first, "() => core.leader.leading && core.led === 2")


async def test_a_leader_that_stands_still_without_a_word_is_followed(rig, chromium, tmp_path):
    held = "async () => (await navigator.locks.query()).held.map(({ clientId }) => clientId)"
    async with raw_chromium(tmp_path) as browser:
        first, second = await frozen_behind(browser, rig.sites[0], told=False)
        before = await second.run(held)
        assert not await second.run("() => core.leader.leading")
        # It asks by itself every ten seconds; here it is in a hurry.
        await wait(second, "() => (core.leader.ask(), core.leader.leading)", within_s=10)
        after = await second.run(held)
        assert len(before) == len(after) == 1 and before != after, "it had kept the lock, and it was taken"
        await first.freeze(False)
        await wait(first, "() => core.lost === 1 && !core.leader.leading")


async def test_a_leader_whose_lock_is_taken_stands_behind(rig, chromium):
    _, first, second = await two_tabs(rig, chromium)
    await second.evaluate("() => core.leader.claim()")
    await wait(second, "() => core.leader.leading")
    await wait(first, "() => core.lost === 1 && !core.leader.leading")
    await second.close()
    await wait(first, "() => core.leader.leading && core.led === 2")


# --- what a page goes through ----------------------------------------------------------------


async def test_a_page_that_comes_back_from_the_cache_goes_on(rig, chromium, tmp_path):
    address = rig.address()
    _, other, key = await device(rig, chromium, address)
    site = rig.sites[-1]
    async with raw_chromium(tmp_path) as browser:
        tab = await browser.tab(f"{site.url}/pages/core.html")
        await sign_up(tab, rig, address, key)
        await tab.run("() => { core.same = 'page'; }")
        sockets = site.line.connections
        await tab.go(f"{site.url}/pages/inline.html")
        await wait(tab, "() => document.title === 'what a page must not do'")
        await other.evaluate("() => core.notes().put('meanwhile', 'written')")
        assert site.line.connections < sockets, "a page in the cache keeps no socket"
        await tab.back()
        await wait(tab, "() => globalThis.core?.events.includes('pageshow persisted')")
        assert await tab.run("() => core.same") == "page"
        await wait(tab, "() => core.notes().get('meanwhile') === 'written'", within_s=5)
        await tab.run("() => core.notes().put('back', 'again')")
        await wait(other, "() => core.notes().get('back') === 'again'")


async def test_a_hidden_tab_hears_and_sends(rig, chromium, tmp_path):
    address = rig.address()
    _, other, key = await device(rig, chromium, address)
    site = rig.sites[-1]
    async with raw_chromium(tmp_path) as browser:
        tab = await browser.tab(f"{site.url}/pages/core.html")
        await sign_up(tab, rig, address, key)
        front = await browser.tab("about:blank")
        await front.show()
        await wait(tab, "() => document.visibilityState === 'hidden'")
        for number in range(20):
            await other.evaluate("number => core.notes().put(`note-${number}`, number)", number)
        heard = "() => document.visibilityState === 'hidden' && core.notes().keys().length === 20"
        await wait(tab, heard, within_s=5)
        await tab.run("() => core.notes().put('hidden', 'sent')")
        await wait(other, "() => core.notes().get('hidden') === 'sent'", within_s=5)
        assert await tab.run("() => core.closings") == 0
        await tab.show()
        await wait(tab, SYNCED)


async def test_a_socket_that_died_while_nobody_looked_is_not_believed(chromium, tmp_path):
    """A person comes back to a page whose hub stood still meanwhile; it need not wait for the heartbeat to know."""
    async with hub_rig(tmp_path / "hub") as rig, raw_chromium(tmp_path) as browser:
        [hub], site = rig.hubs, rig.sites[0]
        tab = await browser.tab(f"{site.url}/pages/core.html")
        await sign_up(tab, rig, rig.address())
        front = await browser.tab("about:blank")
        await front.show()
        hidden_since = "() => (core.hiddenAt ??= document.visibilityState === 'hidden' ? performance.now() : undefined)"
        await wait(tab, hidden_since)
        hub.signal(signal.SIGSTOP)
        await wait(tab, "() => performance.now() - core.hiddenAt > 5_500")
        assert await tab.run("() => core.client.status.phase") == "synced", "nobody could know yet"
        await tab.show()
        await wait(tab, "() => core.client.status.phase !== 'synced'", within_s=8)
        hub.signal(signal.SIGCONT)
        await wait(tab, SYNCED)


async def test_a_hub_that_stands_still_is_noticed(tmp_path, chromium):
    async with hub_rig(tmp_path, heartbeat_s=1) as rig:
        [hub] = rig.hubs
        _, page, _ = await device(rig, chromium, rig.address())
        hub.signal(signal.SIGSTOP)
        await page.evaluate("() => core.notes().put('first', 'into the void')")
        await wait(page, "() => ['offline', 'connecting'].includes(core.client.status.phase)")
        assert await page.evaluate("() => core.client.status.unsynced") == 1
        hub.signal(signal.SIGCONT)
        await wait(page, "() => core.client.status.phase === 'synced' && core.client.status.unsynced === 0")
        await rig.close_profiles()
