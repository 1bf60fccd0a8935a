/** The Dexie add-on against a real hub: signing in, both directions, keys, on and off, signing out, conflicts. */

import "fake-indexeddb/auto";
import assert from "node:assert/strict";
import { afterEach } from "node:test";

import { hub as addon, MISSING } from "../src/dexie/index.js";
import { HubClient, MemoryStorage } from "../src/index.js";
import { APP, Profile, until } from "./addon_rig.js";
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

/** @param {any} [more] */
function profile(more) {
  const made = new Profile(hub, more);
  profiles.push(made);
  return made;
}

/** A tab of a device that is signed in and has a key.  @param {string} [key] */
async function device(key = "") {
  const tab = await profile().open();
  await tab.signIn();
  if (key) await tab.hub.importKey(key);
  return tab;
}

/** Two devices of one person. */
async function two() {
  const a = await device();
  await a.hub.whenSynced(10);
  return { a, b: await device(await a.hub.exportKey()) };
}

test("a first device signs in by a mailed code and makes a key", options, async () => {
  const tab = await profile().open();
  await until(() => tab.status.phase === "signed-out");
  const sent = await tab.hub.requestCode({ email: "anna@example.org" });
  const mail = await hub.nextMail();
  assert.equal(sent.phrase, mail.phrase);
  assert.ok(sent.expiresInS > 60);
  assert.deepEqual(await tab.hub.enrol(mail.code), { needsKey: false, newKey: true });
  await tab.hub.whenSynced(10);
  assert.deepEqual([tab.status.phase, tab.status.pending, tab.status.leader], ["synced", 0, true]);
  assert.match(tab.hub.deviceId, /^[0-9a-f]{32}$/);
});

test("a second device needs the key of the first and then has its rows", options, async () => {
  const a = await device();
  await a.db.chapters.bulkPut([{ id: "one", order: 1 }, { id: "two", order: 2 }]);
  await a.hub.whenSynced(10);
  const b = await profile().open();
  assert.deepEqual(await b.signIn(), { needsKey: true, newKey: false });
  assert.equal(b.status.phase, "needs-key");
  await b.hub.importKey(await a.hub.exportKey());
  await b.hub.whenSynced(10);
  assert.deepEqual(await b.db.chapters.toArray(), [{ id: "one", order: 1 }, { id: "two", order: 2 }]);
});

test("what one device puts comes to a live query of the other", options, async () => {
  const { a, b } = await two();
  const tags = b.watch("tags");
  await a.db.tags.put({ id: "red", n: 1 });
  await until(() => tags.seen.at(-1)?.[0]?.n === 1);
  await b.db.tags.update("red", { n: 2 });
  await until(async () => (await a.db.tags.get("red"))?.n === 2);
  await b.db.tags.delete("red");
  await until(async () => !(await a.db.tags.count()));
  tags.end();
});

test("rows that were there before the sign-in are sent and tables that are not named stay", options, async () => {
  const tab = await profile().open();
  await tab.db.tags.put({ id: "red" });
  await tab.db.drafts.add({ text: "mine alone" });
  await tab.signIn();
  await tab.hub.whenSynced(10);
  const b = await device(await tab.hub.exportKey());
  await until(async () => (await b.db.tags.count()) === 1);
  assert.equal(await b.db.drafts.count(), 0);
});

test("a wrong code is refused with its name and the right one is taken then", options, async () => {
  const tab = await profile().open();
  await tab.hub.requestCode({ email: "anna@example.org" });
  const { code } = await hub.nextMail();
  const wrong = String((Number(code) + 1) % 10 ** 8).padStart(8, "0");
  await assert.rejects(tab.hub.enrol(wrong), { name: "Refusal", code: "enrol_failed" });
  assert.equal(tab.status.phase, "signed-out");
  assert.deepEqual(await tab.hub.enrol(`${code.slice(0, 4)} ${code.slice(4)}`), { needsKey: false, newKey: true });
});

test("the address of the hub may come with the sign-in and is remembered", options, async () => {
  const nowhere = await profile({ url: undefined }).open();
  await assert.rejects(nowhere.hub.requestCode({ email: "anna@example.org" }), /no hub is known/);
  const p = profile({ url: "http://127.0.0.1:9" });
  const tab = await p.open();
  await assert.rejects(tab.hub.requestCode({ email: "a@b.c" }), { name: "ConnectionError" });
  await assert.rejects(tab.hub.requestCode({ email: "a@b.c", url: "ftp://x" }), RangeError);
  await tab.hub.requestCode({ email: "anna@example.org", url: hub.url });
  await tab.close();
  const again = await p.open();
  await again.hub.enrol(await hub.nextCode());
  await again.hub.whenSynced(10);
  await again.close();
  const later = await p.open();
  await later.hub.whenSynced(10);
  await later.hub.signIn({ email: "anna@example.org", url: hub.url, code: () => hub.nextCode() });
  await later.hub.whenSynced(10);
});

test("a key leaves and comes back as a code, as words and as a picture", options, async () => {
  const a = await device();
  const code = await a.hub.exportKey();
  const words = await a.hub.exportKey("words");
  assert.equal(words.split(" ").length, 24);
  assert.match(await a.hub.exportKey("svg"), /^<svg /);
  await assert.rejects(a.hub.exportKey("poem"), TypeError);
  for (const text of [words, `${code}/HUB.EXAMPLE.ORG`, code.match(/.{1,5}/g)?.join(" ")]) {
    const b = await profile().open();
    await b.signIn();
    await assert.rejects(b.hub.importKey("HUBKEY1 but not"), { name: "WrongKeyCode" });
    await b.hub.importKey(text);
    assert.equal(await b.hub.exportKey("code"), code);
    await b.close();
  }
});

test("sync that was switched off stays off over a reload and on again sends what waited", options, async () => {
  const { a, b } = await two();
  await a.hub.disable();
  assert.equal(a.status.phase, "off");
  await a.db.tags.put({ id: "red" });
  await until(() => a.status.pending === 1);
  await a.close();
  const again = await a.profile.open();
  await until(() => again.status.phase === "off" && again.status.pending === 1);
  assert.equal(await b.db.tags.count(), 0);
  await again.hub.enable();
  await until(async () => (await b.db.tags.count()) === 1);
  await again.hub.whenSynced(10);
  assert.deepEqual([again.status.phase, again.status.pending], ["synced", 0]);
});

test("signing out is refused while edits wait and force does it anyway", options, async () => {
  const { a, b } = await two();
  await a.hub.disable();
  await a.db.tags.put({ id: "red" });
  await assert.rejects(a.hub.signOut(), { name: "Refusal", code: "unsynced", message: /1 edit of this device is not/ });
  assert.equal(a.status.phase, "off");
  const { deviceId } = a.hub;
  await a.hub.signOut({ force: true });
  assert.deepEqual([a.status.phase, a.status.pending, a.hub.deviceId], ["signed-out", 0, ""]);
  assert.deepEqual(await a.db.tags.toArray(), [{ id: "red" }]);
  assert.ok(!(await b.hub.devices()).some((/** @type {any} */ { id }) => id === deviceId));
  await a.db.tags.put({ id: "blue" }); // written down no more
  assert.equal(await a.db.table("$hub_edits").count(), 0);
});

test("signing out revokes this device and wipes what is here only when asked to", options, async () => {
  const { a, b } = await two();
  await a.db.tags.put({ id: "red" });
  await a.db.drafts.add({ text: "stays" });
  await a.hub.whenSynced(10);
  await until(async () => (await b.db.tags.count()) === 1);
  assert.equal((await b.hub.devices()).length, 2);
  await a.hub.signOut({ wipeLocal: true });
  assert.equal((await b.hub.devices()).length, 1);
  assert.deepEqual([await a.db.tags.count(), await a.db.drafts.count()], [0, 1]);
  assert.equal(await a.db.table("$hub_edits").count(), 0);
  assert.equal(await b.db.tags.count(), 1); // that was no edit
  await a.signIn();
  await a.hub.importKey(await b.hub.exportKey());
  await until(async () => (await a.db.tags.count()) === 1);
});

test("signing out needs the hub unless it is forced", options, async () => {
  const a = await device();
  await a.hub.whenSynced(10);
  await a.hub.disable();
  await hub.stop();
  await assert.rejects(a.hub.signOut(), { name: "ConnectionError" });
  await a.hub.signOut({ force: true });
  assert.equal(a.status.phase, "signed-out");
});

test("remote copies that are deleted are sent anew when sync is switched on again", options, async () => {
  const { a, b } = await two();
  await a.db.tags.put({ id: "red" });
  await a.hub.whenSynced(10);
  await until(async () => (await b.db.tags.count()) === 1);
  await a.hub.deleteRemote();
  assert.deepEqual([a.status.phase, a.status.wiped], ["off", false]);
  await until(() => b.status.phase === "off" && b.status.wiped);
  for (const each of [a, b]) assert.equal(await each.db.tags.count(), 1);
  const cold = await device(await a.hub.exportKey());
  await cold.hub.whenSynced(10);
  assert.equal(await cold.db.tags.count(), 0);
  await b.hub.enable();
  await b.hub.whenSynced(10);
  assert.equal(b.status.wiped, false);
  await until(async () => (await cold.db.tags.count()) === 1);
  await a.hub.enable();
  await a.hub.whenSynced(10);
});

test("counts of two devices add up and prose waits for a person in every tab", options, async () => {
  const { a, b } = await two();
  await a.db.days.put({ id: "monday", words: 10 });
  await a.db.chapters.put({ id: "one", text: "base" });
  await a.hub.whenSynced(10);
  await b.hub.whenSynced(10);
  await b.hub.disable();
  await b.db.days.update("monday", { words: 13 });
  await b.db.chapters.update("one", { text: "from b" });
  await a.db.days.update("monday", { words: 15 });
  await a.db.chapters.update("one", { text: "from a" });
  await a.hub.whenSynced(10);
  await b.hub.enable();
  await until(async () => (await a.db.days.get("monday")).words === 18);
  const follower = await b.profile.open();
  await until(() => follower.hub.conflicts.value.length === 1 && follower.status.conflicts === 1);
  const [conflict] = follower.hub.conflicts.value;
  assert.deepEqual(
    [conflict.table, conflict.key, conflict.base.text, conflict.mine.text, conflict.theirs.text],
    ["chapters", "one", "base", "from b", "from a"],
  );
  await follower.hub.resolve("chapters", "one", { id: "one", text: "from a and b" });
  await until(async () => (await a.db.chapters.get("one")).text === "from a and b");
  await until(() => !b.hub.conflicts.value.length && !follower.hub.conflicts.value.length);
  assert.equal((await follower.db.chapters.get("one")).text, "from a and b");
});

test("an earlier state of a row can be read and put back", options, async () => {
  const { a, b } = await two();
  const before = new Date(Date.now() - 60_000);
  for (const n of [1, 2]) {
    await a.db.tags.put({ id: "red", n });
    await a.hub.whenSynced(10);
  }
  await a.db.tags.delete("red");
  await a.hub.whenSynced(10);
  const versions = await b.hub.history("tags", "red");
  assert.deepEqual(versions.map((/** @type {any} */ { value }) => value?.n), [undefined, 2, 1]);
  assert.equal(versions[0].value, MISSING);
  assert.equal(versions[0].deviceId, a.hub.deviceId);
  assert.equal(await b.hub.at("tags", "red", before), MISSING);
  assert.equal((await b.hub.at("tags", "red", versions[1].appendedAt)).n, 2);
  await b.db.tags.put(versions[1].value);
  await until(async () => (await a.db.tags.get("red"))?.n === 2);
});

test("what the account takes on the hub is told, also right after a write", options, async () => {
  const { a } = await two();
  await a.hub.whenSynced(10);
  const before = await a.hub.usage();
  assert.ok(before.quotaBytes > 1_000_000);
  await a.db.tags.put({ id: "large", text: "x".repeat(10_000) });
  await a.hub.whenSynced(10);
  const after = await a.hub.usage();
  assert.ok(after.usedBytes - before.usedBytes > 10_000, `${before.usedBytes}, then ${after.usedBytes}`);
});

test("devices are listed and one can take another off the account", options, async () => {
  const { a, b } = await two();
  await b.hub.whenSynced(10);
  const devices = await a.hub.devices();
  assert.deepEqual(devices.map(({ id }) => id).sort(), [a.hub.deviceId, b.hub.deviceId].sort());
  assert.deepEqual(devices.filter(({ current }) => current).map(({ id }) => id), [a.hub.deviceId]);
  assert.ok(devices.every(({ enrolledAt }) => Math.abs(enrolledAt.getTime() - Date.now()) < 60_000));
  await a.hub.revoke(b.hub.deviceId);
  await until(() => b.status.phase === "blocked");
  assert.match(b.status.error, /revoked|unknown device/);
});

test("a device is added by one scan and six digits", options, async () => {
  const a = await device();
  await a.db.tags.put({ id: "red" });
  await a.hub.whenSynced(10);
  const b = await profile({ url: undefined }).open();
  const shown = await a.hub.pair();
  assert.match(await shown.svg(), /^<svg /);
  const scanned = await b.hub.pair({ scanned: shown.code, name: "phone" });
  assert.deepEqual([shown.role, scanned.role], ["giver", "taker"]);
  await shown.confirm(await scanned.digits);
  await Promise.all([shown.done, scanned.done]);
  assert.equal(await shown.name, "phone");
  await b.hub.whenSynced(10);
  assert.deepEqual(await b.db.tags.toArray(), [{ id: "red" }]);
});

test("signals reach the other devices and only the channel they were sent on", options, async () => {
  const { a, b } = await two();
  await b.hub.whenSynced(10);
  /** @type {any[]} */
  const heard = [];
  const channel = b.hub.channel("cursor");
  channel.onMessage((/** @type {any} */ value, /** @type {any} */ { device }) => heard.push([value, device]));
  b.hub.channel("other").onMessage(() => heard.push("wrong"));
  await a.hub.channel("cursor").send({ at: 7, on: new Date(0) });
  await until(() => heard.length);
  assert.deepEqual(heard, [[{ at: 7, on: new Date(0) }, a.hub.deviceId]]);
  channel.close();
  await a.hub.channel("cursor").send(8);
  await b.hub.channel("done").send(1);
  await a.hub.whenSynced(10);
  assert.equal(heard.length, 1);
});

test("a wipe that was begun before the tab was closed is carried out by the next", options, async () => {
  const { a, b } = await two();
  await a.db.tags.put({ id: "red" });
  await a.hub.whenSynced(10);
  await until(async () => (await b.db.tags.count()) === 1);
  await hub.stop();
  await until(() => a.status.phase === "offline");
  const broken = assert.rejects(a.hub.deleteRemote(), { name: "ConnectionError" });
  const mode = async () => (await a.db.table("$hub_settings").get("mode"))?.value;
  await until(async () => new TextDecoder().decode(await mode()) === "wiping");
  await assert.rejects(a.hub.enable(), { name: "Refusal", code: "wiping" });
  await a.hub.disable();
  await a.close();
  await broken;
  await hub.restart();
  const again = await a.profile.open();
  await until(() => again.status.phase === "off");
  await until(() => b.status.wiped);
  assert.deepEqual([await again.db.tags.count(), await b.db.tags.count()], [1, 1]);
});

test("whoever is signed out or has no key yet is told so", options, async () => {
  const a = await device();
  await a.hub.whenSynced(10);
  const b = await profile().open();
  const signedOut = { name: "Refusal", code: "signed_out" };
  await assert.rejects(b.hub.devices(), signedOut);
  await assert.rejects(b.hub.history("tags", "red"), signedOut);
  await b.signIn();
  await assert.rejects(b.hub.at("tags", "red", new Date()), { name: "Refusal", code: "needs_key" });
  await assert.rejects(b.hub.exportKey(), /no key/);
  await assert.rejects(a.hub.history("drafts", 1), /"drafts" is not synced/);
  await assert.rejects(a.hub.resolve("tags", "red", undefined), RangeError);
  await a.hub.disable();
  await assert.rejects(a.hub.whenSynced(0.2), { name: "TimeoutError" });
});

test("the browser is asked to keep the data and other devices hear of a new one", options, async (t) => {
  const asked = t.mock.fn(async () => false);
  const { navigator } = globalThis;
  Object.defineProperty(globalThis, "navigator", { value: { storage: { persist: asked } }, configurable: true });
  t.after(() => Object.defineProperty(globalThis, "navigator", { value: navigator, configurable: true }));
  const a = await profile().open();
  await a.hub.requestCode({ email: "anna@example.org" });
  assert.equal(asked.mock.callCount(), 0);
  await a.hub.enrol(await hub.nextCode());
  assert.equal(asked.mock.callCount(), 1);
  await a.hub.whenSynced(10);
  const follower = await a.profile.open();
  /** @type {any[]} */
  const heard = [];
  for (const tab of [a, follower]) tab.hub.onAccount((/** @type {any} */ notice) => heard.push(notice));
  const b = await profile().open();
  await b.signIn();
  await until(() => heard.length === 2);
  assert.ok(heard.every(({ deviceId }) => deviceId === b.hub.deviceId), JSON.stringify(heard));
  assert.ok(heard.every(({ at }) => Math.abs(at.getTime() - Date.now()) < 60_000), JSON.stringify(heard));
});

test("a line that a late former leader has replaced is taken up again", options, async () => {
  const a = await device();
  await a.hub.whenSynced(10);
  const storage = new MemoryStorage();
  for (const { name, value } of await a.db.table("$hub_settings").toArray()) storage.setSetting(name, value);
  const late = await HubClient.open({ storage, appId: APP, WebSocket: hub.WebSocket });
  late.start();
  await until(() => a.status.phase === "blocked");
  await until(() => a.status.phase === "synced" && late.status.phase === "blocked");
  await late.stop();
});

test("options that make no sense are refused at once", () => {
  assert.throws(() => addon(/** @type {any} */ ({ tables: {} })), TypeError);
});
