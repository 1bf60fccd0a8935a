"""What goes wrong on the way, and what has to be true after it: all devices hold the same, and nothing is lost.

Every write is remembered by the tab that made it; a Python device beside them notes
all that passes and finds any gap, repeat or swap in the order that the hub gave.
"""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

import asyncpg
import pytest

from hub.keepers import DATABASE_FILE
from tests.browser.devices import (
    Device,
    device,
    nothing_lost,
    same_in_the_end,
    sign_in,
    two_devices,
    watched,
)
from tests.browser.raw import raw_chromium
from tests.browser.rig import Rig, hub_rig, wait

AWAY = "() => ['offline', 'connecting'].includes(app.status.phase)"


@pytest.fixture
async def short(tmp_path):
    """A hub of the test's own, with a heartbeat of a second."""
    async with hub_rig(tmp_path / "hub", heartbeat_s=1) as rig:
        yield rig
        await rig.close_profiles()
        assert not rig.complaints()


async def write_some(where: Device | Any, name: str, count: int = 20) -> None:
    """Rows of its own, some written again, some deleted, a few in one transaction."""
    page = where.page if isinstance(where, Device) else where
    await page.evaluate(
        """async ([name, count]) => {
          await app.bulkPut('notes', app.rows(0, count, name));
          const id = (n) => `${name}-again-${n}`;
          for (let n = 0; n < count; n += 3) await app.put('notes', { id: id(n), order: n, text: 'first' });
          for (let n = 0; n < count; n += 6) await app.put('notes', { id: id(n), order: n, text: 'then' });
          for (let n = 3; n < count; n += 6) await app.delete('notes', id(n));
        }""",
        [name, count],
    )


async def test_both_sides_offline_then_together(short, chromium):
    one, other = await two_devices(short, chromium)
    await one.run("() => app.db.days.put({ id: 'monday', words: 10 })")
    await other.wait("() => app.db.days.get('monday')")
    async with watched(short, one.address, one.key):
        for where in (one, other):
            where.line.refuse()
            await where.wait(AWAY)
        for where, name, words in ((one, "one", 5), (other, "other", 7)):
            await write_some(where, name, 60)
            more = "(words) => app.db.days.where('id').equals('monday').modify((day) => { day.words += words; })"
            await where.run(more, words)
        for where in (one, other):
            where.line.resume()
        held = await same_in_the_end(one, other)
    assert '"words":22' in held["days monday"]
    await nothing_lost(one, other)


async def test_the_leading_tab_is_closed_while_both_write(short, chromium, measures):
    one, other = await two_devices(short, chromium)
    second = await one.tab()
    await wait(second, "() => app.status.phase === 'synced' && !app.status.leader")
    async with watched(short, one.address, one.key):
        await asyncio.gather(write_some(one, "leader"), write_some(other, "other"))
        written = await one.run("() => app.written")
        await one.run("() => void app.bulkPut('notes', app.rows(0, 300, 'unheard'))")
        await one.wait("async () => (await app.db.notes.where('id').startsWith('unheard').count()) === 300")
        began = await second.evaluate("() => app.clock()")
        await one.page.close()
        one.page = second
        await second.evaluate("written => Object.assign(app.written, written)", written)
        await second.evaluate("() => app.put('notes', { id: 'follower', order: 1 })")
        arrived = await other.wait("async () => (await app.db.notes.get('follower')) && app.clock()")
        measures("leading tab closed, a follower's edit arrives", ms=arrived - began)
        await wait(second, "() => app.status.leader")
        held = await same_in_the_end(one, other)
    assert sum(key.startswith("notes unheard") for key in held) == 300, "durable is durable, whoever wrote it"
    await nothing_lost(one, other)


async def test_the_leading_tab_is_frozen(short, chromium, tmp_path):
    other = await device(short, chromium, short.address())
    site = short.sites[-1]
    async with watched(short, other.address, other.key), raw_chromium(tmp_path / "raw") as browser:
        first = await browser.tab(f"{site.url}/pages/notes.html")
        await wait(first, "() => globalThis.app?.ready()")
        await sign_in(first, short, other.address, other.key)
        await wait(first, "() => app.quiet() && app.status.leader")
        second = await browser.tab(f"{site.url}/pages/notes.html")
        await second.show()
        await wait(second, "() => globalThis.app?.ready()")
        await wait(second, "() => app.status.phase === 'synced' && !app.status.leader")
        # What it wrote is durable and on nobody else's disk.  No transaction is open: with one the whole database would
        # stand still, which is why browsers do not freeze a tab that has one.
        site.line.refuse()
        await first.run("() => app.bulkPut('notes', app.rows(0, 100, 'frozen'))")
        await wait(first, "async () => app.status.pending === 100 && (await app.edits()) === 0")
        await first.run("() => app.db.transaction('rw', 'notes', '$hub_meta', '$hub_outbox', () => {})")
        await first.freeze()
        site.line.resume()
        await write_some(second, "second")
        await write_some(other, "other")
        await wait(second, "() => app.status.leader", within_s=25)
        await wait(second, "() => app.quiet()")
        await first.freeze(False)
        await first.show()
        await wait(first, "() => !app.status.leader && app.status.phase === 'synced'")
        await write_some(first, "woken", 5)
        await wait(first, "() => app.quiet()")
        written = await first.run("() => app.written")
        await second.run("written => Object.assign(app.written, written)", written)
        tabs = [Device(other.profile, tab, other.address, other.key) for tab in (first, second)]
        await same_in_the_end(other, *tabs)
        await nothing_lost(other, tabs[1])


async def test_a_half_open_line_is_noticed_and_left(short, chromium):
    one, other = await two_devices(short, chromium)
    async with watched(short, one.address, one.key):
        one.line.stall()
        await write_some(one, "one")
        await write_some(other, "other")
        await other.quiet()
        await one.wait(AWAY, within_s=30)
        assert await one.run("() => app.status.pending") > 0
        # What was in the dead line comes late, too.
        one.line.resume()
        await same_in_the_end(one, other)
    await nothing_lost(one, other)


async def test_the_hub_is_killed_while_a_device_sends(short, chromium):
    [hub] = short.hubs
    one, other = await two_devices(short, chromium)
    third = await other.tab()
    async with watched(short, one.address, one.key):
        for kill in range(2):
            await one.run("kill => app.bulkPut('notes', app.rows(0, 1500, `push-${kill}`))", kill)
            await one.wait(
                "() => app.status.phase === 'sending' && app.status.pending > 0 && app.status.pending < 1450"
            )
            hub.kill()
            await write_some(other, f"meanwhile-{kill}")
            await one.wait(AWAY)
            assert await one.run("() => app.status.pending") > 0, "it was killed in the midst of it"
            await asyncio.to_thread(hub.start)
        held = await same_in_the_end(one, other, within_s=40)
    assert sum(key.startswith("notes push-") for key in held) == 3_000
    await nothing_lost(one, other)
    assert await third.evaluate("() => app.contents()") == held


async def test_a_fifth_of_the_notices_is_lost(tmp_path, chromium, measures):
    """The bus forgets and does not know it; what it forgot last comes with the next ping."""
    async with hub_rig(tmp_path, heartbeat_s=1, lost=0.2) as rig:
        one, other = await two_devices(rig, chromium)
        await other.run("() => app.watch('notes', () => app.db.notes.toArray())")
        async with watched(rig, one.address, one.key):
            for burst in range(4):
                await asyncio.gather(
                    write_some(one, f"one-{burst}", 12), write_some(other, f"other-{burst}", 12)
                )  # fmt: skip
                await one.run("burst => app.db.days.put({ id: `day-${burst}`, words: 1 })", burst)
                await other.wait("burst => app.db.days.get(`day-${burst}`)", burst)
            for where in (one, other):
                where.line.reset()
            await write_some(one, "after", 12)
            await same_in_the_end(one, other)
        await nothing_lost(one, other)
        # The very last notice of a burst, again and again: only the ping can repair that.
        for number in range(12):
            await one.run("number => app.put('notes', { id: `last-${number}`, order: number })", number)
            await other.wait("number => app.db.notes.get(`last-${number}`)", number, within_s=10)
        alarms = [await where.run("() => app.status.alarms.length") for where in (one, other)]
        assert alarms == [0, 0]
        await rig.close_profiles()
        assert not rig.complaints()


# --- what the hub holds ----------------------------------------------------------------------

SNIPPETS = {
    "a text": "The pelican keeps a brass key under its tongue.",
    "a name of a table": "chapters",
    "a key of a row": "pelican-in-the-key-of-a-row",
    "bytes": "blob with a pelican in it",
    "a field's name": "secretFieldOfPelicans",
    "a number's digits": "987654321987654321",
}
PLANT = """async (s) => {
  await app.db.chapters.put({ id: s['a key of a row'], order: 1, text: s['a text'], [s["a field's name"]]: 1 });
  await app.db.things.put({ id: 'thing', blob: new Blob([s['bytes']]), big: BigInt(s["a number's digits"]) });
}"""


def forms(text: str) -> list[bytes]:
    """How it would stand in a file: as text, as wide text, as hex."""
    plain = text.encode()
    return [plain, text.encode("utf-16-le"), plain.hex().encode(), plain.hex().upper().encode()]


def leaked(contents: dict[str, bytes], secrets: dict[str, str]) -> list[str]:
    """Which secrets are found where."""
    return [
        f"{what} in {where}"
        for where, held in contents.items()
        for what, secret in secrets.items()
        if any(form in held for form in forms(secret))
    ]


async def plant(rig: Rig, chromium: Any) -> tuple[dict[str, str], str, Device]:
    """Two devices that hold the snippets; everything that may not be found, the device's id in hex, which must be."""
    one, other = await two_devices(rig, chromium)
    await one.run(PLANT, SNIPPETS)
    await other.wait("key => app.db.chapters.get(key)", SNIPPETS["a key of a row"])
    await other.wait("() => app.db.things.get('thing')")
    await other.run("key => app.db.chapters.update(key, { order: 2 })", SNIPPETS["a key of a row"])
    await same_in_the_end(one, other)
    words = await one.run("() => app.db.hub.exportKey('words')")
    secrets = SNIPPETS | {"the key's code": one.key, "the key's words": words, "the address": one.address}
    return secrets, await one.run("() => app.db.hub.deviceId"), one


async def test_sqlite_holds_sealed_bytes_only(short, chromium):
    secrets, device_id, _ = await plant(short, chromium)
    [hub] = short.hubs
    files = {file.name: file.read_bytes() for file in hub.data.iterdir() if file.is_file()}
    assert any(name.endswith("-wal") and held for name, held in files.items()), "what was written last is searched"
    assert any(bytes.fromhex(device_id) in held for held in files.values()), "the search finds what is there"
    assert not leaked(files, secrets)
    assert not leaked({"the log": hub.said().replace(secrets["the address"], "").encode()}, secrets)
    # And once more as whole values, should a page of the file have cut one in two.
    with sqlite3.connect(f"file:{hub.data / DATABASE_FILE}?mode=ro", uri=True) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = {table: _bytes_of(database.execute(f'SELECT * FROM "{table}"')) for table in tables}
    database.close()
    assert any(bytes.fromhex(device_id) in held for held in rows.values())
    assert not leaked(rows, secrets)


async def test_postgres_holds_sealed_bytes_only(cluster, chromium):
    secrets, device_id, _ = await plant(cluster, chromium)
    url = cluster.hubs[0].env["HUB_DATABASE_URL"]
    database = await asyncpg.connect(url)
    try:
        names = "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE'"
        tables = [tuple(row) for row in await database.fetch(names)]
        own = [(schema, name) for schema, name in tables if schema not in ("pg_catalog", "information_schema")]
        rows = {name: _bytes_of(await database.fetch(f'SELECT * FROM "{schema}"."{name}"')) for schema, name in own}
    finally:
        await database.close()
    assert len(rows) > 5 and any(bytes.fromhex(device_id) in held for held in rows.values())
    assert not leaked(rows, secrets)


def _bytes_of(rows: Any) -> bytes:
    """Every value of these rows, bytes as they are."""
    values = (value for row in rows for value in tuple(row))
    return b"\0".join(bytes(v) if isinstance(v, bytes | memoryview) else str(v).encode() for v in values)


# --- a cluster -------------------------------------------------------------------------------


async def test_devices_on_two_replicas_converge_while_one_is_killed(cluster, chromium):
    """The sites take turns among the replicas; the device whose replica dies goes to the other one."""
    other, one = await two_devices(cluster, chromium)
    assert one.line.target != other.line.target
    async with watched(cluster, one.address, one.key):
        await write_some(one, "one", 60)
        await write_some(other, "other", 60)
        await one.run("() => app.bulkPut('notes', app.rows(0, 600, 'push'))")
        await one.wait("() => app.status.pending > 0 && app.status.pending < 590")
        killed = next(hub for hub in cluster.hubs if hub.port == one.line.target[1])
        survivor = next(hub for hub in cluster.hubs if hub is not killed)
        killed.kill()
        one.line.target = ("127.0.0.1", survivor.port)
        held = await same_in_the_end(one, other, within_s=40)
        await asyncio.to_thread(killed.start)
    assert sum(key.startswith("notes push-") for key in held) == 600
    await nothing_lost(one, other)
