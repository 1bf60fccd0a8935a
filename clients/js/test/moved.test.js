/**
 * A device whose account goes elsewhere: it is told, waits for a person, follows with everything it has, and stays; and
 * what else an operator's hand does to a line.
 */

import "fake-indexeddb/auto";
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, test } from "node:test";
import { promisify } from "node:util";

import { hex } from "../src/bytes.js";
import { readReport } from "../src/dexie/facts.js";
import { HubClient, MemoryStorage } from "../src/index.js";
import { MemoryHub } from "../src/testing/index.js";
import { ANNA, APP, Profile, until } from "./addon_rig.js";
import { HubProcess, PYTHON, ROOT, whyNoHub } from "./hub_process.js";
import { MemoryProcess } from "./hubs.js";

const OLD = "https://hub.test";
const NEW = "https://new.test";
const DIALLED = "wss://new.test/v1/ws";
const options = { timeout: 30_000 };

/** @type {{stop: () => unknown}[]} */
let running = [];

afterEach(async () => {
  for (const one of running) await one.stop();
  running = [];
});

/** @param {MemoryHub} memory @param {any} [more] */
async function opened(memory, more = {}) {
  const client = await HubClient.open({
    storage: new MemoryStorage(), appId: APP, hubUrl: OLD, ...memory.surroundings, ...more,
  });
  running.push(client);
  return client;
}

/** A running device, in step.  @param {MemoryHub} memory @param {string} [key] @param {any} [more] */
async function device(memory, key = "", more = {}) {
  const client = await opened(memory, more);
  await client.requestCode(ANNA);
  await client.enrol(memory.lastCode(ANNA));
  if (key) await client.importKey(key);
  else await client.createKey();
  client.start();
  client.collection("notes");
  await client.synced(10);
  return client;
}

/** @param {HubClient} client @param {string} phase */
const phase = (client, phase) => until(() => client.status.phase === phase);

test("a device is told where its account has gone, and goes there when a person says so", options, async () => {
  const memory = new MemoryHub();
  const a = await device(memory);
  const b = await device(memory, a.keyCode());
  await a.collection("notes").put("before", 1);
  await Promise.all([a.synced(10), b.synced(10)]);
  memory.move(NEW);
  await Promise.all([phase(a, "blocked"), phase(b, "blocked")]);
  assert.equal(a.status.movedTo, DIALLED);
  assert.equal(a.status.error, "the account lives at another hub now");
  await a.collection("notes").put("meanwhile", 2);
  assert.equal(a.status.unsynced, 1);
  assert.deepEqual(memory.lines, []);
  const { deviceId } = a;
  await Promise.all([a.follow(), b.follow()]);
  await a.synced(10);
  await b.synced(10);
  assert.equal(a.status.movedTo, "");
  assert.equal(hex(a.deviceId), hex(deviceId));
  assert.deepEqual([...b.collection("notes").items()].sort(), [["before", 1], ["meanwhile", 2]]);
});

test("what was left is not gone back to when the app names it again, unless the account returns", options, async () => {
  const memory = new MemoryHub();
  const [storage] = [new MemoryStorage()];
  const a = await device(memory, "", { storage });
  memory.move(NEW);
  await phase(a, "blocked");
  await a.follow();
  await a.synced(10);
  const again = await opened(memory, { storage });
  assert.equal(again._engine.device.identity.hubUrl, DIALLED);
  memory.move(OLD);
  await phase(a, "blocked");
  await a.follow();
  await a.synced(10);
  const back = await opened(memory, { storage });
  assert.equal(back._engine.device.identity.hubUrl, "wss://hub.test/v1/ws");
  for (const hubUrl of ["https://third.test", OLD]) {
    const there = await opened(memory, { storage, hubUrl });
    assert.equal(there._engine.device.identity.hubUrl, `wss://${new URL(hubUrl).host}/v1/ws`);
  }
});

test("where another account answers nothing is sent", options, async () => {
  const memory = new MemoryHub();
  const thief = new MemoryHub({ url: NEW });
  /** Whoever dials the new address reaches the thief. */
  const Either = function (/** @type {string} */ url, /** @type {string[]} */ protocols) {
    const { WebSocket } = url === DIALLED ? thief : memory;
    return new WebSocket(url, protocols);
  };
  const a = await device(memory, "", { WebSocket: Either });
  const known = memory.known(a.deviceId)?.device;
  assert.ok(known);
  thief.addDevice(thief.addAccount("thief@example.org"), known);
  memory.move(NEW);
  await phase(a, "blocked");
  await a.collection("notes").put("secret", 1);
  await a.follow();
  await until(() => a.status.error === "the hub took this device into another account");
  assert.equal(a.status.phase, "blocked");
  assert.deepEqual(thief.appended, []);
  assert.deepEqual(thief.heard.map(({ message }) => message.type).filter((type) => /enter|create|append/.test(type)), []);
});

test("an address that is none of a hub's is no place to go", options, async () => {
  for (const url of ["javascript:alert(1)", "http://elsewhere.test", "https://elsewhere.test/path", ""]) {
    const memory = new MemoryHub();
    const a = await device(memory);
    memory._left.add(memory.dialled);
    memory.liveAt(url);
    await phase(a, "blocked");
    assert.equal(a.status.movedTo, "", url);
    await assert.rejects(a.follow(), RangeError);
  }
});

test("a device that does not sync at present learns of it when it asks", options, async () => {
  const memory = new MemoryHub();
  const a = await device(memory);
  await a.turnOff();
  memory.move(NEW);
  await assert.rejects(a.devices(), { name: "Closed", code: 4506 });
  assert.equal(a.status.movedTo, DIALLED);
  await a.follow();
  assert.equal((await a.devices()).length, 1);
});

test("without a move there is nowhere to follow to", options, async () => {
  const a = await device(new MemoryHub());
  await assert.rejects(a.follow(), /has not moved/);
  await a.synced(10);
});

test("an account that is being moved is waited for, one that is suspended is not", options, async () => {
  const memory = new MemoryHub();
  const a = await device(memory);
  memory.lines[0].end("moving");
  await until(() => a.status.phase !== "synced");
  await a.synced(10);
  memory.lines[0].end("suspended");
  await phase(a, "blocked");
  assert.equal(a.status.error, "the operator has suspended the account");
  assert.equal(a.status.movedTo, "");
  await a.turnOn();
  await a.synced(10);
});

test("a name is seen by the person's other devices and by nobody else", options, async () => {
  const memory = new MemoryHub();
  const a = await device(memory);
  const b = await device(memory, a.keyCode());
  await a.nameDevice(" Anna's laptop ");
  await b.nameDevice("Phone");
  await b.nameDevice("Pocket");
  await a.synced(10);
  await b.synced(10);
  await until(() => a.deviceNames().size === 2 && a.deviceNames().get(hex(b.deviceId)) === "Pocket");
  assert.deepEqual(b.deviceNames(), new Map([[hex(a.deviceId), "Anna's laptop"], [hex(b.deviceId), "Pocket"]]));
  for (const secret of ["laptop", "Pocket", "_devices", hex(a.deviceId)]) assert.equal(memory.hasSeen(secret), false);
});

test("a name has one to 64 characters", options, async () => {
  const a = await device(new MemoryHub());
  for (const name of ["x", "🦦".repeat(64)]) {
    await a.nameDevice(name);
    assert.equal(a.deviceNames().get(hex(a.deviceId)), name);
  }
  for (const name of ["", "  ", "🦦".repeat(65)]) await assert.rejects(a.nameDevice(name), RangeError);
});

test("an app on Dexie is told, follows, and stays; in every tab", options, async () => {
  const memory = new MemoryProcess();
  const profile = new Profile(memory);
  const tab = await profile.open();
  await tab.signIn();
  await tab.db.chapters.put({ id: "one", order: 1 });
  await tab.hub.whenSynced();
  await tab.hub.nameDevice("Laptop");
  assert.deepEqual(await tab.hub.deviceNames(), new Map([[tab.hub.deviceId, "Laptop"]]));
  const second = await profile.open();
  await until(() => second.status.phase === "synced");
  memory.move(NEW);
  await until(() => second.status.movedTo === DIALLED && second.status.phase === "blocked");
  await tab.db.chapters.put({ id: "two", order: 2 });
  await second.hub.follow();
  await second.hub.whenSynced();
  await until(() => tab.status.movedTo === "" && tab.status.pending === 0);
  await profile.end();
  const later = await profile.open(); // the app still names the hub that was left
  await later.hub.whenSynced();
  assert.deepEqual((await later.db.chapters.toArray()).map(({ id }) => id), ["one", "two"]);
  assert.deepEqual([...(await later.hub.deviceNames()).values()], ["Laptop"]);
  await profile.end();
});

test("a move is known in a tab that opens before any line stands", options, async () => {
  const memory = new MemoryProcess();
  const profile = new Profile(memory);
  const tab = await profile.open();
  await tab.signIn();
  memory.move(NEW);
  await until(() => tab.status.movedTo === DIALLED);
  await tab.db.open();
  assert.equal((await readReport(tab.db)).movedTo, DIALLED);
  await profile.end();
  memory.cut();
  const later = await profile.open();
  await until(() => later.status.movedTo === DIALLED);
  assert.equal(later.status.phase, "blocked");
  await profile.end();
});

test("the collection of names is no app's table", async () => {
  const profile = new Profile(new MemoryProcess());
  await assert.rejects(profile.open({ tables: { _devices: {} } }), /taken by sync itself/);
});

test("devices follow a real hub's move, and nothing is lost", { timeout: 120_000, skip: whyNoHub }, async () => {
  const [here, there] = await Promise.all([HubProcess.start(), HubProcess.start()]);
  await there.stop(); // a folder has one owner at a time
  const about = { appId: APP, hubUrl: here.url, WebSocket: here.WebSocket };
  const client = await HubClient.open({ storage: new MemoryStorage(), ...about });
  running.push(client);
  await client.requestCode(ANNA);
  await client.enrol(await here.nextCode());
  await client.createKey();
  client.start();
  await client.collection("notes").put("before", 1);
  await client.nameDevice("Laptop");
  await client.synced(20);
  const into = join(there.dataDir, "into.toml");
  await writeFile(into, `data_dir = "${there.dataDir}"\n`);
  const words = ["-m", "hub", "move", "--data-dir", here.dataDir, "--all", "--to", there.url, "--into", into];
  const moved = promisify(execFile)(PYTHON, words, { cwd: ROOT });
  await until(() => client.status.movedTo !== "" && client.status.phase === "blocked", 60_000);
  await moved;
  await client.collection("notes").put("meanwhile", 2);
  await there.restart();
  await client.follow();
  await client.synced(30);
  assert.equal(client.status.movedTo, "");
  assert.deepEqual([...client.collection("notes").items()].sort(), [["before", 1], ["meanwhile", 2]]);
  await client.stop();
  await Promise.all([here.end(), there.end()]);
});
