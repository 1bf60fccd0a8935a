"""The Dexie add-on in Chromium against the real hub: every promise to the author of an app, between two devices."""

from __future__ import annotations

import json

import pytest

from tests.browser.devices import READY, Device, device, open_tab, same_in_the_end, two_devices
from tests.browser.rig import until, wait

# --- one tab leads ---------------------------------------------------------------------------


async def test_of_two_tabs_one_leads_and_they_share_one_socket(rig, chromium):
    one, other = await two_devices(rig, chromium)
    second = await one.tab()
    third = await one.tab()
    for tab in (second, third):
        await wait(tab, "() => app.status.phase === 'synced'")
    tabs = [one.page, second, third]
    assert [await tab.evaluate("() => app.status.leader") for tab in tabs] == [True, False, False]
    await until(lambda: one.line.connections == 1, what="one socket for three tabs")
    for number, tab in enumerate(tabs):
        await tab.evaluate("number => app.put('notes', { id: `tab-${number}`, order: number })", number)
    await other.wait("async () => (await app.db.notes.count()) === 3")
    for tab in tabs:
        await wait(tab, "() => app.quiet()")
    assert one.line.connections == 1 and other.line.connections == 1


async def test_a_tab_that_does_not_lead_shows_the_same_status(rig, chromium):
    one, _ = await two_devices(rig, chromium)
    second = await one.tab()
    await wait(second, "() => app.status.phase === 'synced'")
    one.line.refuse()
    await second.evaluate("() => app.put('notes', { id: 'offline', order: 1 })")
    for tab in (one.page, second):
        await wait(tab, "() => app.status.pending === 1 && ['offline', 'connecting'].includes(app.status.phase)")
    one.line.resume()
    for tab in (one.page, second):
        await wait(tab, "() => app.status.phase === 'synced' && app.status.pending === 0 && !app.status.error")


# --- every way of writing --------------------------------------------------------------------

WAYS = {
    "add": "db => db.notes.add({ id: 'a', order: 1, text: 'added' })",
    "put": "db => db.notes.put({ id: 'b', order: 2, text: 'put' })",
    "put again": "db => db.notes.put({ id: 'b', order: 2, text: 'put again' })",
    "update": "db => db.notes.update('a', { text: 'updated', 'deep.down': 1 })",
    "upsert a new one": "db => db.notes.upsert('u', { order: 9, text: 'upserted' })",
    "upsert an old one": "db => db.notes.upsert('u', { text: 'upserted again' })",
    "bulkAdd": "db => db.notes.bulkAdd([3, 4, 5, 6, 7].map((n) => ({ id: `n${n}`, order: n })))",
    "bulkPut": "db => db.notes.bulkPut([6, 7, 8].map((n) => ({ id: `n${n}`, order: n, text: 'bulk' })))",
    "bulkUpdate": "db => db.notes.bulkUpdate(['n3', 'n4'].map((key) => ({ key, changes: { text: key } })))",
    "modify with an object": "db => db.notes.where('order').above(6).modify({ text: 'modified' })",
    "modify with a function": "db => db.notes.where('id').startsWith('n').modify((row) => { row.order += 100; })",
    "modify that deletes": "db => db.notes.where('id').equals('n5').modify((_, change) => { delete change.value; })",
    "delete": "db => db.notes.delete('a')",
    "bulkDelete": "db => db.notes.bulkDelete(['n6', 'nobody'])",
    "where().delete()": "db => db.notes.where('order').aboveOrEqual(107).delete()",
    "filter().delete()": "db => db.notes.filter((row) => row.text === 'n3').delete()",
    "a transaction": """db => db.transaction('rw', db.notes, db.days, db.drafts, async () => {
      await db.notes.put({ id: 't1', order: 1 });
      await db.days.put({ id: 'monday', words: 1 });
      await db.drafts.add({ text: 'stays here' });
      await db.notes.put({ id: 't2', order: (await db.notes.get('t1')).order + 1 });
    })""",
    "clear": "db => db.notes.clear()",
    "put after clear": "db => db.notes.put({ id: 'b', order: 2, text: 'back' })",
}


async def test_every_way_of_writing_arrives(rig, chromium):
    """From the tab that leads and from the one that does not, in turn."""
    one, other = await two_devices(rig, chromium)
    second = await one.tab()
    tabs = [one.page, second]
    rows = "async () => JSON.stringify([await app.db.notes.orderBy('id').toArray(), await app.db.days.toArray()])"
    seen = set()
    for number, (way, write) in enumerate(WAYS.items()):
        before = await one.run(rows)
        await tabs[number % 2].evaluate(f"async () => {{ await ({write})(app.db); }}")
        after = await one.run(rows)
        assert after != before, f"{way} did nothing"
        seen.add(after)
        reached = f"async (wanted) => (await ({rows})()) === wanted"
        try:
            await other.wait(reached, after, within_s=5)
        except AssertionError:
            raise AssertionError(f"{way} did not arrive: {after} is there as {await other.run(rows)}") from None
    assert len(seen) == len(WAYS)
    assert await same_in_the_end(one, other)
    assert await other.run("() => app.db.drafts.count()") == 0


async def test_an_aborted_transaction_leaves_nothing_to_send(rig, chromium):
    one, other = await two_devices(rig, chromium)
    await one.run("() => app.put('notes', { id: 'kept', order: 1, text: 'before' })")
    await other.wait("async () => await app.db.notes.get('kept')")
    before = sum(_appended(rig))
    aborted = """() => app.db.transaction('rw', app.db.notes, async () => {
      await app.db.notes.put({ id: 'kept', order: 1, text: 'never' });
      await app.db.notes.bulkPut(app.rows(0, 50, 'never'));
      await app.db.notes.delete('kept');
      throw new Error('changed my mind');
    }).catch((error) => error.message)"""
    await one.quiet()
    await one.run("() => app.watch('edits', () => app.edits())")
    await one.wait("() => app.emissions.edits.length === 1")
    assert await one.run(aborted) == "changed my mind"
    # What the next transaction leaves is seen behind whatever that one left.
    await one.run("() => app.db.table('$hub_edits').count()")
    await one.run("() => app.put('notes', { id: 'after', order: 2 })")
    await other.wait("async () => await app.db.notes.get('after')")
    await one.quiet()
    await one.wait("() => app.emissions.edits.at(-1).value === 0")
    seen = await one.run("() => app.emissions.edits.map(({ value }) => value)")
    assert seen in ([0, 1, 0], [0, 0]), f"one edit came and went: {seen}"
    held = await same_in_the_end(one, other)
    assert {key: json.loads(row).get("text") for key, row in held.items()} == {
        "notes kept": "before",
        "notes after": None,
    }
    assert sum(_appended(rig)) - before == 1


def _appended(rig) -> list[float]:
    """How many changes the hubs have appended since they started."""
    found = []
    for hub in rig.hubs:
        lines = hub.get("/metrics")[2].decode().splitlines()
        found += [float(line.split()[-1]) for line in lines if line.startswith('hub_drafts_total{answer="appended"}')]
    assert found, "the hub counts what it appends"
    return found


# --- what comes from other devices -----------------------------------------------------------


async def test_what_comes_is_no_edit_and_is_shown_once(rig, chromium):
    one, other = await two_devices(rig, chromium)
    await other.run("() => app.watch('notes', () => app.db.notes.toArray())")
    await other.run("() => app.watch('edits', () => app.edits())")
    await other.wait("() => app.emissions.notes.length === 1 && app.emissions.edits.length === 1")
    before = sum(_appended(rig))
    await one.run("() => app.bulkPut('notes', app.rows(0, 50))")
    await other.wait("async () => (await app.db.notes.count()) === 50")
    await one.quiet()
    await other.wait("() => app.emissions.notes.at(-1).value.length === 50")
    # One change more, behind it, tells that nothing else is on its way.
    await one.run("() => app.put('days', { id: 'behind', words: 1 })")
    await other.wait("() => app.db.days.get('behind')")
    await other.quiet()
    given = [len(emission["value"]) for emission in await other.run("() => app.emissions.notes")]
    assert given == [0, 50], "fifty rows of one transaction are one change of what the app sees"
    assert sum(_appended(rig)) - before == 51, "each row went to the hub once, and nothing came back"
    edits = await other.run("() => app.emissions.edits.map(({ value }) => value)")
    assert set(edits) == {0}, "what comes from the hub is no edit"


async def test_both_tabs_of_a_device_see_what_comes(rig, chromium):
    one, other = await two_devices(rig, chromium)
    second = await other.tab()
    for tab in (other.page, second):
        await tab.evaluate("() => app.watch('notes', () => app.db.notes.toArray())")
    await one.run("() => app.put('notes', { id: 'news', order: 1 })")
    for tab in (other.page, second):
        await wait(tab, "() => app.emissions.notes.at(-1)?.value.length === 1")


# --- what rows may hold ----------------------------------------------------------------------

RICH = """() => ({
  id: 'rich', when: new Date(1700000000123), tags: new Set(['a', 1]), map: new Map([[1, 'one'], ['k', new Set([2])]]),
  blob: new Blob(['picture'], { type: 'image/png' }), file: new File(['text'], 'notes.txt', { type: 'text/plain' }),
  bytes: new Uint8Array([0, 255, 7]), shorts: new Int16Array([1, -1]), big: 123456789012345678901234567890n,
  list: [null, true, 1.5, [new Date(0)]], nested: { deep: { deeper: new Date(5), bytes: new Uint8Array(0) } },
})"""


async def test_rich_values_arrive_as_what_they_are(rig, chromium):
    one, other = await two_devices(rig, chromium)
    await one.run(f"() => app.db.things.put(({RICH})())")
    await other.wait("() => app.db.things.get('rich')")
    for where in (one, other):
        told = await where.run("async () => app.tagged(await app.db.things.get('rich'))")
        assert told == await one.run(f"async () => app.tagged(({RICH})())")
    kinds = """async () => Object.entries(await app.db.things.get('rich')).map(([name, value]) =>
      [name, Object.prototype.toString.call(value).slice(8, -1)])"""
    assert dict(await other.run(kinds)) == {
        "id": "String", "when": "Date", "tags": "Set", "map": "Map", "blob": "Blob", "file": "File",
        "bytes": "Uint8Array", "shorts": "Int16Array", "big": "BigInt", "list": "Array", "nested": "Object",
    }  # fmt: skip
    await other.run("() => app.db.things.where('id').equals('rich').modify((row) => { row.tags.add('b'); })")
    await one.wait("async () => (await app.db.things.get('rich')).tags.has('b')")


async def test_keys_of_every_kind(rig, chromium):
    """A compound key syncs, a row without an id is given one, and a table that is not named stays here."""
    one, other = await two_devices(rig, chromium)
    pairs = [{"a": 1, "b": "x", "n": 1}, {"a": 1, "b": "y", "n": 2}, {"a": "1", "b": "x", "n": 3}]
    await one.run("pairs => app.db.pairs.bulkPut(pairs)", pairs)
    await other.wait("async () => (await app.db.pairs.count()) === 3")
    await other.run("() => app.db.pairs.update([1, 'y'], { n: 20 })")
    await other.run("() => app.db.pairs.delete(['1', 'x'])")
    await one.wait("async () => (await app.db.pairs.count()) === 2 && (await app.db.pairs.get([1, 'y'])).n === 20")
    ids = await one.run("""async () => {
      const first = await app.db.notes.add({ order: 1 });
      return [first, ...await app.db.notes.bulkAdd([{ order: 2 }, { order: 3 }], { allKeys: true })];
    }""")
    await other.wait("async () => (await app.db.notes.count()) === 3")
    got = await other.run("async () => (await app.db.notes.orderBy('order').toArray()).map(({ id }) => id)")
    assert got == ids == sorted(ids) and all(len(id_) == 36 and id_[14] == "7" for id_ in ids)
    await one.run("() => app.db.drafts.bulkAdd([{ text: 'mine alone' }, { text: 'and this' }])")
    await one.run("() => app.put('notes', { id: 'behind', order: 9 })")
    await other.wait("() => app.db.notes.get('behind')")
    assert await other.run("() => app.db.drafts.count()") == 0
    assert await one.run("() => app.db.drafts.toCollection().keys()") == [1, 2]


# --- two edits of one row --------------------------------------------------------------------


async def apart(one: Device, other: Device, mine: str, theirs: str) -> None:
    """Both write while neither is connected; ``one`` sends first."""
    for where in (one, other):
        where.line.refuse()
        await where.wait("() => app.status.phase === 'offline' || app.status.phase === 'connecting'")
    await one.run(mine)
    await other.run(theirs)
    one.line.resume()
    await one.quiet()
    other.line.resume()


async def test_counters_add_up(rig, chromium):
    one, other = await two_devices(rig, chromium)
    await one.run("() => app.db.days.put({ id: 'monday', words: 100, mood: 'fine' })")
    await other.wait("() => app.db.days.get('monday')")
    await apart(
        one,
        other,
        "() => app.db.days.update('monday', { words: 110 })",
        "() => app.db.days.where('id').equals('monday').modify((day) => { day.words += 7; day.mood = 'better'; })",
    )
    for where in (one, other):
        await where.wait("async () => (await app.db.days.get('monday')).words === 117")
        assert await where.run("async () => (await app.db.days.get('monday')).mood") == "better"
    assert await same_in_the_end(one, other)


async def test_two_equal_counts_add_up(rig, chromium):
    one, other = await two_devices(rig, chromium)
    await one.run("() => app.db.days.put({ id: 'monday', words: 10 })")
    await other.wait("() => app.db.days.get('monday')")
    more = "() => app.db.days.where('id').equals('monday').modify((day) => { day.words += 5; })"
    await apart(one, other, more, more)
    await same_in_the_end(one, other)
    assert await one.run("async () => (await app.db.days.get('monday')).words") == 20


async def test_a_conflict_that_waits_for_a_person_is_held_and_resolved(rig, chromium):
    one, other = await two_devices(rig, chromium)
    chapter = "app.db.chapters"
    await one.run(f"() => {chapter}.put({{ id: 'first', order: 1, text: 'It was night.' }})")
    await other.wait(f"() => {chapter}.get('first')")
    await apart(
        one,
        other,
        f"() => {chapter}.update('first', {{ text: 'It was a dark night.' }})",
        f"() => {chapter}.update('first', {{ text: 'It was a stormy night.' }})",
    )
    await other.wait("() => app.status.conflicts === 1 && app.db.hub.conflicts.value.length === 1")
    second = await other.tab()
    await wait(second, "() => app.status.conflicts === 1 && app.db.hub.conflicts.value.length === 1")
    [conflict] = await second.evaluate("() => app.db.hub.conflicts.value")
    assert (conflict["table"], conflict["key"]) == ("chapters", "first")
    texts = [conflict[side]["text"] for side in ("base", "mine", "theirs")]
    assert texts == ["It was night.", "It was a stormy night.", "It was a dark night."]
    # Held: neither sent, nor in the way of other rows.
    assert await one.run(f"async () => (await {chapter}.get('first')).text") == "It was a dark night."
    await other.run(f"() => {chapter}.put({{ id: 'second', order: 2, text: 'Morning.' }})")
    await one.wait(f"() => {chapter}.get('second')")
    assert await one.run("() => app.status.conflicts") == 0
    # A tab that does not lead settles it.
    merged = {"id": "first", "order": 1, "text": "It was a dark and stormy night."}
    await second.evaluate("row => app.db.hub.resolve('chapters', 'first', row)", merged)
    for where in (one, other):
        await where.wait(f"async () => (await {chapter}.get('first')).text === 'It was a dark and stormy night.'")
    await other.wait("() => app.status.conflicts === 0 && app.db.hub.conflicts.value.length === 0")
    await same_in_the_end(one, other)


async def test_what_was_written_offline_goes_out_when_the_line_is_back(rig, chromium, measures):
    one, other = await two_devices(rig, chromium)
    one.line.refuse()
    await one.wait("() => ['offline', 'connecting'].includes(app.status.phase)")
    await one.run("() => app.bulkPut('notes', app.rows(0, 20))")
    await one.wait("() => app.status.pending === 20 && app.status.oldestPendingAgeS >= 0")
    assert await other.run("() => app.db.notes.count()") == 0
    one.line.resume()
    began = await one.run("() => { dispatchEvent(new Event('online')); return app.clock(); }")
    await one.wait("() => app.quiet()")
    measures("offline edits flushed after online", ms=await one.run("() => app.clock()") - began)
    await other.wait("async () => (await app.db.notes.count()) === 20")
    await same_in_the_end(one, other)


# --- on, off, out ----------------------------------------------------------------------------


async def test_sync_is_switched_off_and_on(rig, chromium):
    one, other = await two_devices(rig, chromium)
    await one.run("() => app.db.hub.disable()")
    await one.wait("() => app.status.phase === 'off'")
    await one.run("() => app.put('notes', { id: 'waits', order: 1 })")
    await other.run("() => app.put('notes', { id: 'news', order: 2 })")
    await other.quiet()
    await one.wait("() => app.status.pending === 1")
    assert await one.run("() => app.db.notes.count()") == 1
    await one.run("() => app.db.hub.enable()")
    for where in (one, other):
        await where.wait("async () => (await app.db.notes.count()) === 2")
    await same_in_the_end(one, other)


async def test_the_remote_copies_are_deleted_and_rows_stay(rig, chromium):
    one, other = await two_devices(rig, chromium)
    await one.run("() => app.bulkPut('notes', app.rows(0, 10))")
    await other.wait("async () => (await app.db.notes.count()) === 10")
    await one.quiet()
    await one.run("() => app.db.hub.deleteRemote()")
    await one.wait("() => app.status.phase === 'off'")
    await other.wait("() => app.status.wiped")
    for where in (one, other):
        assert await where.run("() => app.db.notes.count()") == 10
    await other.run("() => app.db.hub.enable()")
    await one.run("() => app.db.hub.enable()")
    held = await same_in_the_end(one, other)
    assert len(held) == 10


async def test_a_device_signs_out_and_is_gone_from_the_list(rig, chromium):
    one, other = await two_devices(rig, chromium)
    await one.run("() => app.put('notes', { id: 'stays', order: 1 })")
    await other.wait("() => app.db.notes.get('stays')")
    assert len(await one.run("() => app.db.hub.devices()")) == 2
    other.line.refuse()
    await other.run("() => app.put('notes', { id: 'unsent', order: 2 })")
    await other.wait("() => app.status.pending === 1")
    refused = "() => app.db.hub.signOut().then(() => '', (error) => error.message)"
    assert "not on the hub" in await other.run(refused)
    other.line.resume()
    await other.quiet()
    await other.run("() => app.db.hub.signOut()")
    await other.wait("() => app.status.phase === 'signed-out'")
    assert await other.run("() => app.db.notes.count()") == 2, "the app's rows stay"
    devices = await one.run("() => app.db.hub.devices()")
    assert [device["current"] for device in devices] == [True]


async def test_a_reload_goes_on_without_signing_in(rig, chromium):
    one, other = await two_devices(rig, chromium)
    await one.run("() => app.put('notes', { id: 'before', order: 1 })")
    await one.page.reload()
    await one.wait(READY)
    await one.quiet()
    await one.run("() => app.put('notes', { id: 'after', order: 2 })")
    await other.wait("async () => (await app.db.notes.count()) === 2")
    await same_in_the_end(one, other)


async def test_devices_hear_each_others_signals_in_every_tab(rig, chromium):
    one, other = await two_devices(rig, chromium)
    second, listening = await one.tab(), await other.tab()
    for tab in (other.page, listening):
        await wait(tab, "() => app.status.phase === 'synced'")
        await tab.evaluate(
            "() => { app.heard = []; app.db.hub.channel('cursor').onMessage((value) => app.heard.push(value)); }"
        )
    for tab in (one.page, second):
        await wait(tab, "() => app.status.phase === 'synced'")
        await tab.evaluate("() => app.db.hub.channel('cursor').send({ at: new Date(5), who: 'one' })")
    for tab in (other.page, listening):
        await wait(tab, "() => app.heard.length === 2 && app.heard.every(({ at, who }) => +at === 5 && who === 'one')")


@pytest.mark.parametrize("giver_shows", [True, False], ids=["the giver shows", "the taker shows"])
async def test_a_device_is_added_by_one_scan(rig, chromium, giver_shows):
    """Neither a mailed code nor a key is typed; six digits are compared."""
    one = await device(rig, chromium, rig.address())
    await one.run("() => app.put('notes', { id: 'first', order: 1 })")
    profile = await rig.profile(chromium, one.profile.site)  # a hub is known by the address it is dialled at
    new = await open_tab(profile)
    shows, scans = (one.page, new) if giver_shows else (new, one.page)
    begin = """async (scanned) => {
      app.pairing = await app.db.hub.pair({ scanned, name: 'phone' });
      return app.pairing.code;
    }"""
    code = await shows.evaluate(begin, "")
    await scans.evaluate(begin, code)
    assert await one.run("() => app.pairing.role") == "giver"
    assert await new.evaluate("() => app.pairing.role") == "taker"
    digits = await scans.evaluate("() => app.pairing.digits")
    await scans.evaluate("() => app.pairing.agree()")
    await shows.evaluate("digits => app.pairing.confirm(digits)", digits)
    for tab in (one.page, new):
        await tab.evaluate("() => app.pairing.done")
    await wait(new, "() => app.db.notes.get('first')")
    await wait(new, "() => app.quiet()")
    assert await one.run("() => app.db.hub.exportKey()") == await new.evaluate("() => app.db.hub.exportKey()")
