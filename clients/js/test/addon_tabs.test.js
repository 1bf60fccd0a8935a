/** The Dexie add-on in several tabs of one profile: one leads, all show the same, and any of them may go or act. */

import "fake-indexeddb/auto";
import assert from "node:assert/strict";
import { afterEach } from "node:test";
import Dexie from "dexie";

import { Profile, until } from "./addon_rig.js";
import { onEachHub } from "./hubs.js";

const options = { timeout: 120_000 };

/** @type {any} */
let hub;
/** @type {Profile[]} */
let profiles = [];

const test = onEachHub((started) => (hub = started));

afterEach(async () => {
  for (const each of profiles) await each.end();
  profiles = [];
  await hub?.end();
});

function profile() {
  const made = new Profile(hub);
  profiles.push(made);
  return made;
}

/** A device with two tabs, the first of which leads; and another device of the person.  @param {any} [surroundings] */
async function tabs(surroundings) {
  const p = profile();
  const leader = await p.open(surroundings);
  await leader.signIn();
  await leader.hub.whenSynced(10);
  const other = await profile().open();
  await other.signIn();
  await other.hub.importKey(await leader.hub.exportKey());
  await other.hub.whenSynced(10);
  const follower = await p.open(surroundings);
  await until(() => follower.status.phase === "synced");
  return { leader, follower, other };
}

/** The status but for what is each tab's own.  @param {import("./addon_rig.js").Tab} tab */
function shared(tab) {
  const { leader, oldestPendingAgeS, ...rest } = tab.status;
  return rest;
}

test("one tab leads and a tab that opens late shows the same at once", options, async () => {
  const { leader, follower } = await tabs();
  assert.deepEqual([leader.status.leader, follower.status.leader], [true, false]);
  await until(() => leader.status.headSeenAt > 0);
  await leader.hub.whenSynced(10);
  const late = await leader.profile.open();
  await until(() => late.status.headSeenAt > 0);
  assert.deepEqual(shared(late), shared(leader));
  assert.equal(late.hub.deviceId, leader.hub.deviceId);
});

test("what a tab writes that does not lead arrives and it can wait for that", options, async () => {
  const { leader, follower, other } = await tabs();
  await follower.db.tags.put({ id: "red" });
  await follower.hub.whenSynced(10);
  assert.equal(follower.status.leader, false);
  await until(async () => (await other.db.tags.count()) === 1);
  const tags = follower.watch("tags");
  await other.db.tags.put({ id: "blue" });
  await until(() => tags.seen.at(-1)?.length === 2);
  tags.end();
  await hub.stop();
  await follower.db.tags.put({ id: "green" });
  await assert.rejects(follower.hub.whenSynced(1), { name: "TimeoutError", message: /sync is/ });
  await hub.restart();
  await follower.hub.whenSynced(20);
  await until(async () => (await other.db.tags.count()) === 3);
  assert.equal(leader.status.leader, true);
});

test("when the leading tab is closed the next one leads and goes on", options, async () => {
  const { leader, follower, other } = await tabs();
  await leader.close();
  await until(() => follower.status.leader && follower.status.phase === "synced");
  await follower.db.tags.put({ id: "red" });
  await until(async () => (await other.db.tags.count()) === 1);
});

test("a tab in which the person acts takes the lead and the former leader stands behind", options, async () => {
  const { leader, follower, other } = await tabs();
  await leader.db.tags.put({ id: "red" });
  assert.equal((await follower.hub.devices()).length, 2);
  assert.deepEqual([leader.status.leader, follower.status.leader], [false, true]);
  await leader.db.tags.put({ id: "blue" });
  await until(async () => (await other.db.tags.count()) === 2);
  await until(() => leader.status.phase === "synced");
  await follower.close();
  await until(() => leader.status.leader && leader.status.phase === "synced");
  await other.db.tags.delete("red");
  await until(async () => (await leader.db.tags.count()) === 1);
});

test("tabs that act in turn and at once lose nothing", options, async () => {
  const { leader, follower, other } = await tabs();
  for (let round = 0; round < 4; round++) {
    await leader.db.tags.put({ id: `leader ${round}` });
    await follower.db.tags.put({ id: `follower ${round}` });
    await (round % 2 ? leader : follower).hub.devices();
  }
  await Promise.allSettled([leader.hub.devices(), follower.hub.devices(), leader.hub.disable(), follower.hub.enable()]);
  await follower.hub.enable();
  await until(async () => (await other.db.tags.count()) === 8);
  await until(() => leader.status.phase === "synced" && follower.status.phase === "synced");
  assert.equal([leader, follower].filter((tab) => tab.status.leader).length, 1);
});

test("an edit in one tab while another signs in is sent", options, async () => {
  const p = profile();
  const [a, b] = [await p.open(), await p.open()];
  await until(() => b.status.phase === "signed-out");
  await b.signIn();
  assert.deepEqual([a.status.leader, b.status.leader], [false, true]);
  await a.db.tags.put({ id: "red" });
  await b.hub.whenSynced(10);
  await until(() => a.status.phase === "synced");
  await b.hub.signOut();
  await until(() => a.status.phase === "signed-out");
  for (const each of [a, b]) await each.db.tags.put({ id: "blue" });
  assert.equal(await a.db.table("$hub_edits").count(), 0);
});

test("signals go from and to tabs that do not lead", options, async () => {
  const { leader, follower, other } = await tabs();
  /** @type {any[]} */
  const heard = [];
  for (const tab of [leader, follower, other]) {
    tab.hub.channel("cursor").onMessage((/** @type {any} */ value) => heard.push([tab, value]));
  }
  await follower.hub.channel("cursor").send(1);
  await until(() => heard.length);
  await other.hub.channel("cursor").send(2);
  await until(() => heard.length === 3);
  assert.deepEqual(heard[0], [other, 1]);
  assert.deepEqual(new Set(heard.slice(1).map(([tab]) => tab)), new Set([leader, follower]));
});

test("edits that a dead leader does not take show in every tab and grow old", options, async () => {
  const { leader, follower } = await tabs();
  const { _mirror: mirror } = await leader.hub._opening._term.opened();
  await mirror.stop();
  /** @type {any[]} */
  const seen = [];
  follower.hub.status.subscribe((/** @type {any} */ status) => seen.push(status));
  await follower.db.tags.bulkPut([{ id: "red" }, { id: "blue" }]);
  await follower.db.tags.put({ id: "red", n: 2 });
  await until(() => seen.at(-1).pending === 2 && seen.at(-1).phase === "sending");
  const { oldestPendingAgeS } = follower.status;
  await until(() => follower.status.oldestPendingAgeS > oldestPendingAgeS + 0.1);
  await until(() => seen.at(-1).oldestPendingAgeS > 3); // whoever watches is told, too
});

test("a leader that has forgotten its edits begins anew and says so", options, async () => {
  const { leader, follower, other } = await tabs({ stale: { afterS: 0.5, lookEveryMs: 50 } });
  const leading = await leader.hub._opening._term.opened();
  await leading._mirror.stop();
  /** @type {string[]} */
  const errors = [];
  leader.hub.status.subscribe((/** @type {any} */ { error }) => error && errors.push(error));
  await leader.db.tags.put({ id: "red" });
  await until(async () => (await other.db.tags.count()) === 1);
  assert.match(errors[0], /edits have waited/);
  await until(() => leader.status.error === "" && leader.status.pending === 0);
  assert.deepEqual([leader.status.leader, follower.status.leader], [true, false]);
});

test("a tab that the person sees takes the lead from one that has forgotten its edits", options, async () => {
  const { leader, follower, other } = await tabs({ stale: { afterS: 0.5, lookEveryMs: 50 } });
  clearInterval(leader.hub._opening._timer);
  await (await leader.hub._opening._term.opened())._mirror.stop();
  await follower.db.tags.put({ id: "red" });
  await until(async () => (await other.db.tags.count()) === 1);
  assert.deepEqual([leader.status.leader, follower.status.leader], [false, true]);
});

test("a database that is closed and opened again goes on syncing", options, async () => {
  const { leader, follower, other } = await tabs();
  await follower.close();
  leader.db.close();
  assert.deepEqual([leader.status.leader, leader.status.pending], [false, 0]);
  await other.db.tags.put({ id: "red" });
  await leader.db.open();
  await until(async () => (await leader.db.tags.count()) === 1);
  for (let time = 0; time < 3; time++) {
    leader.db.close();
    await leader.db.open();
  }
  await leader.db.tags.put({ id: "blue" });
  await until(async () => (await other.db.tags.count()) === 2);
});

test("a database that is deleted stays deleted", options, async () => {
  const { leader, follower } = await tabs();
  await leader.db.tags.put({ id: "red" });
  await follower.db.delete();
  await follower.hub._ended;
  await leader.hub._ended;
  assert.ok(!(await Dexie.getDatabaseNames()).includes(leader.profile.name));
  await new Promise((done) => setTimeout(done, 1_500)); // longer than a lost connection waits
  assert.ok(!(await Dexie.getDatabaseNames()).includes(leader.profile.name));
});

test("a newer version of the app takes the database over and goes on", options, async () => {
  const { leader, follower, other } = await tabs();
  await leader.db.tags.put({ id: "red" });
  await other.hub.whenSynced(10);
  const { Tab } = await import("./addon_rig.js");
  const newer = new Tab(leader.profile, {});
  newer.db.version(2).stores({ more: "id" });
  leader.profile.tabs.push(newer);
  await newer.db.open();
  assert.deepEqual([leader.db.isOpen(), follower.db.isOpen()], [false, false]);
  await until(() => newer.status.phase === "synced" && newer.status.leader);
  await newer.db.tags.put({ id: "blue" });
  await until(async () => (await other.db.tags.count()) === 2);
});

test("a page that stands still gives the lead away and comes back with the database it had", options, async () => {
  const { leader, follower, other } = await tabs();
  leader.page.tell("hidden");
  leader.db.close({ disableAutoOpen: false }); // as Dexie does
  leader.page.tell("leaving");
  await until(() => follower.status.leader);
  await new Promise((done) => setTimeout(done, 1_500)); // longer than a lost connection waits
  assert.ok(!leader.db.isOpen());
  leader.page.visible = true;
  leader.page.tell("back");
  await until(() => leader.db.isOpen() && leader.status.phase === "synced");
  await other.db.tags.put({ id: "red" });
  await until(async () => (await leader.db.tags.count()) === 1);
});

test("a database whose connection was lost is opened again", options, async () => {
  const { leader, follower, other } = await tabs();
  await follower.close();
  leader.db.close({ disableAutoOpen: false }); // as Dexie does
  await until(() => leader.db.isOpen());
  await other.db.tags.put({ id: "red" });
  await until(async () => (await leader.db.tags.count()) === 1);
});
