"""How fast it is, on this machine: printed, kept in the file that HUB_MEASURES names, and held against wide bounds.

The goals are those of a quiet machine; the bounds leave room for one that is shared.
"""

from __future__ import annotations

import statistics
from typing import Any

import pytest

from tests.browser.devices import Device, device, open_tab, sign_in, two_devices
from tests.browser.rig import wait

PUTS = 240
LIVE_P50_MS, LIVE_P95_MS = 15.0, 40.0
PUSH_S = 1.5
NOISE = 6.0  # how much slower than the goal a shared machine may be
ROUNDS = 3  # the best counts: others use this machine too, now and then


@pytest.fixture(params=["SQLite", "Postgres and Redis"])
def either(request):
    """The rig on one store and the other; on the second each device is on a replica of its own."""
    return request.getfixturevalue("rig" if request.param == "SQLite" else "cluster")


@pytest.fixture
def store(request):
    return request.node.callspec.params["either"]


_DELAYS = """(name) => {
  const seen = new Map();
  for (const { at, value } of app.emissions[name]) {
    for (const row of value) if (!seen.has(row.order)) seen.set(row.order, at - row.at);
  }
  return [...seen.values()];
}"""
_BEAT = """async ([name, puts]) => {
  // A person does not write all at once; the pace is what the hub takes from one device for long.
  for (let n = 0; n < puts; n += 1) {
    await app.db.notes.put({ id: `${name}-${n % 8}`, order: n, at: app.clock() });
    await new Promise((done) => setTimeout(done, 25));
  }
}"""


async def test_a_put_is_soon_seen_by_the_other_device(either, store, chromium, measures):
    one, other = await two_devices(either, chromium)
    best = (float("inf"), float("inf"))
    for number in range(ROUNDS):
        best = min(best, await measured(one, other, f"round-{number}", measures, store))
        if best[0] <= LIVE_P50_MS * NOISE and best[1] <= LIVE_P95_MS * NOISE:
            return
    p50, p95 = best
    pytest.fail(f"{store}: p50 {p50:.1f} ms, p95 {p95:.1f} ms; the goal is {LIVE_P50_MS} and {LIVE_P95_MS} ms")


async def measured(one: Device, other: Device, name: str, measures: Any, store: str) -> tuple[float, float]:
    """How long puts of the one take to the other's live query: p50 and p95, in milliseconds."""
    await other.run("name => app.watch(name, () => app.db.notes.where('id').startsWith(name).toArray())", name)
    await other.wait("name => app.emissions[name].length === 1", name)
    await one.run(_BEAT, [name, PUTS])
    last = "([name, last]) => app.emissions[name].at(-1).value.some(({ order }) => order === last)"
    await other.wait(last, [name, PUTS - 1])
    delays = await other.run(_DELAYS, name)
    assert len(delays) >= 200, f"only {len(delays)} of {PUTS} were seen one by one"
    p50, p95 = statistics.median(delays), statistics.quantiles(delays, n=20)[18]
    measures(f"put on A to liveQuery on B, {store}", p50_ms=p50, p95_ms=p95, puts=len(delays))
    return p50, p95


_PUSH = """async () => {
  const began = app.clock();
  await app.bulkPut('notes', app.rows(0, 2000));
  const written = app.clock();
  await app.db.hub.whenSynced(60);
  return { began, written: written - began, sent: app.clock() - began };
}"""


async def test_two_thousand_rows_are_soon_on_the_hub(either, store, chromium, measures):
    one = await device(either, chromium, either.address())
    await one.quiet()
    took = await one.run(_PUSH)
    measures(f"push of 2,000 rows of 200 B, {store}", written_ms=took["written"], sent_ms=took["sent"])
    assert took["sent"] <= PUSH_S * 1000 * NOISE, f"{store}: {took['sent']:.0f} ms; the goal is {PUSH_S} s"


async def test_two_thousand_rows_are_soon_on_a_device_that_looks_on(either, store, chromium, measures):
    """Both devices share this machine's processors, with the hub."""
    one, other = await two_devices(either, chromium)
    await other.run("() => app.watch('count', () => app.db.notes.count())")
    took = await one.run(_PUSH)
    await other.wait("() => app.emissions.count.at(-1)?.value === 2000", within_s=30)
    arrived = await other.run("() => app.emissions.count.find(({ value }) => value === 2000).at")
    seen = arrived - took["began"]
    measures(f"push of 2,000 rows while a device looks on, {store}", sent_ms=took["sent"], seen_ms=seen)
    assert seen <= PUSH_S * 1000 * NOISE, f"{store}: {seen:.0f} ms; the goal is {PUSH_S} s"


async def test_a_new_device_reads_ten_thousand_rows_and_shows_how_far_it_is(either, store, chromium, measures):
    one, _ = await two_devices(either, chromium)
    for part in range(5):
        await one.run("part => app.bulkPut('notes', app.rows(part * 2000, part * 2000 + 2000))", part)
    await one.quiet(60)
    profile = await either.profile(chromium)
    page = await open_tab(profile)
    await sign_in(page, either, one.address, one.key)
    began = await page.evaluate("() => app.clock()")
    done = await wait(page, "async () => (await app.db.notes.count()) === 10000 && app.clock()", within_s=60)
    await wait(page, "() => app.quiet()")
    progress = await page.evaluate("() => app.progress")
    measures(f"a new device reads 10,000 rows, {store}", ms=done - began, progress_shown=len(progress))
    under_way = [step for step in progress if step["remaining"] > 0]
    assert len(under_way) >= 5, f"progress was shown {len(under_way)} times: {progress}"
    counted = [step["done"] for step in under_way]
    assert counted == sorted(counted) and max(counted) >= 5_000, "it goes forward and gets far"
    assert max(step["done"] + step["remaining"] for step in under_way) <= 11_000, "and it knows about how much there is"
    assert done - began <= 20_000, f"{done - began:.0f} ms"
