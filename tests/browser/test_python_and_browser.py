"""A Python device and a browser on one space: every value of the table both ways, and each undoes the other's edit."""

from __future__ import annotations

from typing import Any

import pytest

from hub.client import MISSING
from tests.browser.devices import device, python_device
from tests.browser.rig import until
from tests.test_values import VALUES, untagged

# Each in a row of its own; a row is a mapping, and has its key in it.
BODIES = {f"value-{number:02}": vector for number, vector in enumerate(VALUES["bodies"])}


def same(one: Any, other: Any) -> bool:
    """Equal all the way down; NaN equals itself, and 1.0 is 1, as JavaScript has one kind of number."""
    return repr(one) == repr(other) if isinstance(one, float) else one == other


@pytest.fixture
async def both(rig, chromium):
    """A browser device, and a Python one."""
    browser = await device(rig, chromium, rig.address())
    async with python_device(rig, browser.address, browser.key) as client:
        yield browser, client


async def test_every_value_goes_both_ways(both):
    browser, client = both
    things = client.collection("things")
    things.put_many({key: {"id": key, "value": untagged(v["value"])} for key, v in BODIES.items()})
    await browser.wait("async (count) => (await app.db.things.count()) === count", len(BODIES))
    rows = await browser.run("async () => Promise.all((await app.db.things.toArray()).map(app.tagged))")
    read = {row["id"]: row["value"] for row in rows}
    for key, vector in BODIES.items():
        meant = await browser.run("value => app.tagged(app.untagged(value))", vector["value"])
        assert read[key] == meant, f"{vector['name']} came to the browser as {read[key]}"
    # The browser reads each, puts it into a list, and writes it back; and writes rows of its own.
    await browser.run("() => app.db.things.toCollection().modify((row) => { row.value = [row.value, row.value]; })")
    await browser.run(
        "rows => app.db.things.bulkPut(rows.map(([id, value]) => ({ id, value: app.untagged(value) })))",
        [[f"browser-{key}", vector["value"]] for key, vector in BODIES.items()],
    )
    await browser.quiet()
    await client.synced(20)
    for key, vector in BODIES.items():
        value = untagged(vector["value"])
        edited, made = things.get(key), things.get(f"browser-{key}")
        name = vector["name"]
        assert edited["id"] == key and all(same(one, value) for one in edited["value"]), f"{name}: {edited}"
        assert made["id"] == f"browser-{key}" and same(made["value"], value), f"{name}: {made}"
    # And Python edits what the browser made.
    things.put_many({f"browser-{key}": {"id": f"browser-{key}", "value": "edited"} for key in BODIES})
    await browser.wait("async () => (await app.db.things.filter(({ value }) => value === 'edited').count()) > 30")


async def test_each_takes_back_the_others_edit(both):
    browser, client = both
    notes = client.collection("notes")
    await browser.run("() => app.db.notes.put({ id: 'first', order: 1, text: 'as the browser wrote it' })")
    await browser.quiet()
    await client.synced(20)
    await until(lambda: notes.get("first"))
    notes.put("first", {"id": "first", "order": 1, "text": "as Python wrote it"})
    text = "async (text) => (await app.db.notes.get('first'))?.text === text"
    await browser.wait(text, "as Python wrote it")
    # The browser takes back Python's edit.
    versions = await browser.run("() => app.db.hub.history('notes', 'first')")
    assert [version["value"]["text"] for version in versions] == ["as Python wrote it", "as the browser wrote it"]
    assert versions[0]["deviceId"] == client.device_id.hex()
    await browser.run("async () => app.db.notes.put((await app.db.hub.history('notes', 'first'))[1].value)")
    await until(lambda: notes.get("first")["text"] == "as the browser wrote it")
    # The browser deletes; Python takes that back.
    await browser.run("() => app.db.notes.delete('first')")
    await until(lambda: notes.get("first") is None)
    history = await notes.history("first")
    assert history[0].value is MISSING and len(history) == 4
    notes.put("first", history[1].value)
    await browser.wait(text, "as the browser wrote it")
    # Python deletes; the browser takes that back by time.
    row = await browser.run("async () => (await app.db.hub.history('notes', 'first'))[0].appendedAt.getTime()")
    notes.delete("first")
    await browser.wait("async () => (await app.db.notes.get('first')) === undefined")
    await browser.run("async (at) => app.db.notes.put(await app.db.hub.at('notes', 'first', new Date(at)))", row)
    await until(lambda: notes.get("first") == {"id": "first", "order": 1, "text": "as the browser wrote it"})
