/**
 * HubClient against the real hub and the memory hub: signing in, both directions, offline, history, switching off,
 * healing; and against the real one what dies, stands still, or is written in Python.
 */

import "fake-indexeddb/auto";
import assert from "node:assert/strict";
import { once } from "node:events";
import { join } from "node:path";
import { afterEach } from "node:test";

import { hex } from "../src/bytes.js";
import { Closed, counterSum, HubClient, Leader, manual, MISSING, TimeoutError, WrongKeyCode } from "../src/index.js";
import { keyCode, parseKeyCode } from "../src/keycode.js";
import { IndexedDbStorage } from "../src/storage/indexeddb.js";
import { FakePage, Locks } from "../src/testing/index.js";
import { encodeBody } from "../src/values.js";
import { PythonDevice, valueOf } from "./cross/python_device.js";
import { HUBS, onEachHub } from "./hubs.js";

const APP = "org.example.notes";
const ANNA = "anna@example.org";

/** @type {any} */
let hub;
/** @type {HubClient[]} */
let clients = [];
/** @type {PythonDevice[]} */
let pythons = [];
let databases = 0;

/** @param {any} started */
const begin = (started) => (hub = started);
const test = onEachHub(begin);
/** For what only the real hub does. */
const testReal = onEachHub(begin, HUBS.slice(0, 1));

afterEach(async () => {
  for (const client of clients) await client.stop();
  for (const python of pythons) await python.end();
  clients = [];
  pythons = [];
  await hub?.end();
  hub = null;
});

/** The name of a database that no other test has. */
function file() {
  databases += 1;
  return `client-${process.pid}-${databases}`;
}

/** @param {string} name @param {Partial<Parameters<typeof HubClient.open>[0]>} [more] */
async function opened(name, more = {}) {
  const storage = await IndexedDbStorage.open(name);
  const { url: hubUrl, WebSocket } = hub;
  const client = await HubClient.open({ storage, appId: APP, hubUrl, WebSocket, ...more });
  clients.push(client);
  return client;
}

/**
 * A signed-in, running client; the same again when the file is there.
 *
 * @param {string} name @param {string} [key] @param {Partial<Parameters<typeof HubClient.open>[0]>} [more]
 */
async function device(name, key = "", more = {}) {
  const client = await opened(name, more);
  if (!client.signedIn) {
    const sent = await client.requestCode(ANNA);
    const mail = await hub.nextMail();
    assert.equal(sent.phrase, mail.phrase);
    await client.enrol(mail.code);
    if (key) await client.importKey(key);
    else await client.createKey();
  }
  client.start();
  return client;
}

/** Two devices of one person. */
async function two() {
  const a = await device(file());
  return { a, b: await device(file(), a.keyCode()) };
}

/** A running device of the Python client.  @param {string} [key] */
async function pythonDevice(key = "") {
  const python = new PythonDevice();
  pythons.push(python);
  await python.do("open", join(python.folder, "db"), APP, hub.url);
  await python.do("request_code", ANNA);
  await python.do("enrol", await hub.nextCode());
  if (key) await python.do("import_key", key);
  else await python.do("create_key");
  await python.do("start");
  return python;
}

/** @param {HubClient} client */
async function closed(client) {
  clients = clients.filter((other) => other !== client);
  await client.stop();
}

/** @param {() => boolean | Promise<boolean>} holds */
async function until(holds, withinMs = 10_000) {
  const end = Date.now() + withinMs;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`it did not come about: ${holds}`);
    await new Promise((done) => setTimeout(done, 10));
  }
}

/** @param {[string, any][]} items */
function sorted(items) {
  return [...items].sort(([one], [other]) => (one < other ? -1 : 1));
}

test("what one device writes the other reads", async () => {
  const { a, b } = await two();
  const changeId = await a.collection("notes").put("first", { text: "Hello" });
  const notes = b.collection("notes");
  await a.whenAppended(changeId);
  await b.synced(10);
  assert.deepEqual(notes.get("first"), { text: "Hello" });
  await notes.delete("first");
  await b.synced(10);
  await until(() => a.collection("notes").get("first") === undefined);
});

test("what was put is seen by the next line", async () => {
  const a = await device(file());
  const notes = a.collection("notes");
  const promise = notes.put("k", 1);
  assert.equal(notes.get("k"), 1);
  await promise;
  await assert.rejects(notes.put("", 1), RangeError);
});

test("edits made offline arrive later in both directions", async () => {
  const { a, b } = await two();
  await b.turnOff();
  await b.collection("notes").put("from b", 1);
  await a.collection("notes").put("from a", 2);
  await a.synced(10);
  assert.deepEqual([b.status.phase, b.status.unsynced], ["off", 1]);
  await b.turnOn();
  await b.synced(10);
  const both = [["from a", 2], ["from b", 1]];
  await until(() => a.collection("notes").items().length === 2);
  assert.deepEqual(sorted(a.collection("notes").items()), both);
  assert.deepEqual(sorted(b.collection("notes").items()), both);
});

test("unsent edits survive a restart of the device", async () => {
  const name = file();
  const a = await device(name);
  const key = a.keyCode();
  await a.synced(10);
  await a.turnOff();
  await a.collection("notes").put("k", "v");
  const { deviceId } = a;
  await closed(a);
  const again = await device(name);
  assert.deepEqual(again.deviceId, deviceId);
  assert.equal(again.keyCode(), key);
  const b = await device(file(), key);
  await again.turnOn();
  await again.synced(10);
  const notes = b.collection("notes");
  await until(() => notes.get("k") === "v");
});

test("counters merge by themselves and prose waits for a person", async () => {
  const { a, b } = await two();
  for (const each of [a, b]) {
    each.collection("words", { strategy: counterSum("n") });
    each.collection("prose", { strategy: manual });
  }
  await a.collection("words").put("monday", { n: 10 });
  await a.collection("prose").put("chapter", "base");
  await a.synced(10);
  await b.synced(10);
  await a.turnOff();
  await b.turnOff();
  await a.collection("words").put("monday", { n: 15 });
  await b.collection("words").put("monday", { n: 13 });
  await a.collection("prose").put("chapter", "from a");
  await b.collection("prose").put("chapter", "from b");
  await a.turnOn();
  await a.synced(10);
  await b.turnOn();
  await until(() => b.collection("prose").conflicts().length === 1);
  await until(() => a.collection("words").get("monday").n === 18);
  const [conflict] = b.collection("prose").conflicts();
  assert.deepEqual([conflict.base, conflict.mine, conflict.theirs], ["base", "from b", "from a"]);
  await b.collection("prose").resolve("chapter", "from a and b");
  await until(() => a.collection("prose").get("chapter") === "from a and b");
});

test("a strategy given later replaces the first", async () => {
  const { a, b } = await two();
  for (const each of [a, b]) {
    const handle = each.collection("words");
    assert.equal(each.collection("words", { strategy: counterSum("n") }), handle);
    assert.equal(each.collection("words"), handle);
  }
  await a.collection("words").put("monday", { n: 10 });
  await a.synced(10);
  await b.synced(10);
  await b.turnOff();
  await b.collection("words").put("monday", { n: 12 });
  await a.whenAppended(await a.collection("words").put("monday", { n: 15 }));
  await b.turnOn();
  await until(() => a.collection("words").get("monday").n === 17);
});

test("an earlier state of a record can be read and put back", async () => {
  const a = await device(file());
  const notes = a.collection("notes");
  const before = new Date(Date.now() - 1000);
  for (const text of ["one", "two", "three"]) await a.whenAppended(await notes.put("k", text));
  await a.whenAppended(await notes.delete("k"));
  const versions = await notes.history("k");
  assert.deepEqual(versions.map((version) => version.value), [MISSING, "three", "two", "one"]);
  assert.deepEqual(versions.map((version) => version.isFirst), [false, false, false, true]);
  assert.ok(["two", "three"].includes(await notes.at("k", versions[2].appendedAt))); // milliseconds may coincide
  assert.equal(await notes.at("k", before), MISSING);
  assert.equal(notes.get("k"), undefined);
  await notes.put("k", versions[1].value);
  assert.equal(notes.get("k"), "three");
});

test("a wipe empties the hub and no device", async () => {
  const { a, b } = await two();
  let wiped = 0;
  b.onWiped(() => (wiped += 1));
  b.collection("notes");
  await a.collection("notes").put("k", "v".repeat(1000));
  await a.synced(10);
  await until(() => b.collection("notes").get("k") !== undefined);
  await a.turnOffAndWipe();
  await until(() => wiped === 1);
  const cold = await device(file(), a.keyCode());
  await cold.synced(10);
  assert.deepEqual(cold.collection("notes").items(), []);
  assert.ok((await cold.spaces())[0].usedBytes < 1000);
  assert.deepEqual([a.status.phase, b.status.phase], ["off", "off"]);
  for (const each of [a, b]) assert.equal(each.collection("notes").get("k"), "v".repeat(1000));
  await b.turnOn();
  await b.synced(10);
  await a.turnOn();
  await a.synced(10);
  await cold.synced(10);
  for (const each of [a, cold]) assert.equal(each.collection("notes").get("k"), "v".repeat(1000));
  assert.deepEqual([...a.status.alarms, ...b.status.alarms, ...cold.status.alarms], []);
});

test("everywhere means that the others have said so", async () => {
  const { a, b } = await two();
  b.collection("notes");
  await b.synced(10);
  await b.turnOff();
  const changeId = await a.collection("notes").put("k", "v");
  await a.whenAppended(changeId);
  let everywhere = false;
  a.whenEverywhere(changeId).then(() => (everywhere = true));
  await new Promise((done) => setTimeout(done, 500));
  assert.equal(everywhere, false);
  await b.turnOn();
  await until(() => everywhere, 15_000);
  assert.equal(b.collection("notes").get("k"), "v");
});

test("a hub that was emptied is filled again by its devices", async () => {
  const name = file();
  const a = await device(name);
  const key = a.keyCode();
  await a.collection("notes").putMany(new Map(Array.from({ length: 100 }, (_, n) => [`k${n}`, n])));
  await a.synced(10);
  await closed(a);
  await hub.empty();
  const client = await opened(name);
  client.start();
  await until(() => client.status.phase === "blocked"); // the new hub knows nobody
  assert.equal(client.collection("notes").get("k7"), 7);
  await client.requestCode(ANNA);
  await client.enrol(await hub.nextCode());
  await client.synced(10);
  const b = await device(file(), key);
  await until(() => b.collection("notes").keys().length === 100);
  assert.deepEqual(client.status.alarms, []);
});

test("a hub restored to yesterday is healed by its devices", async () => {
  const [nameA, nameB] = [file(), file()];
  let a = await device(nameA);
  let b = await device(nameB, a.keyCode());
  b.collection("notes");
  await a.collection("notes").putMany(Object.fromEntries(Array.from({ length: 20 }, (_, n) => [`old${n}`, n])));
  await a.synced(10);
  await b.synced(10);
  await closed(b);
  await closed(a);
  const backup = await hub.backup();
  a = await device(nameA);
  await a.collection("notes").putMany({ old3: "changed", new: "written after the backup" });
  await a.synced(10);
  await closed(a);
  await hub.restore(backup);
  b = await device(nameB);
  a = await device(nameA);
  const notes = b.collection("notes");
  await until(() => notes.get("old3") === "changed" && notes.get("new") === "written after the backup");
  await a.synced(10);
  await b.synced(10);
  assert.deepEqual(a.collection("notes").items(), notes.items());
  assert.equal(notes.items().length, 21);
  assert.deepEqual([...a.status.alarms, ...b.status.alarms], []);
});

test("a key of no space of the account is refused before harm", async () => {
  const a = await device(file());
  await a.synced(10);
  const b = await device(file(), keyCode(new Uint8Array(32).fill(0x78), 0));
  await until(() => b.status.phase === "blocked");
  assert.match(b.status.error, /this key belongs to none/);
  assert.equal((await a.spaces()).length, 1);
  await b.importKey(a.keyCode());
  await b.synced(10);
});

test("a device that makes a key of its own begins a space of its own", async () => {
  const a = await device(file());
  await a.whenAppended(await a.collection("notes").put("k", "a's"));
  const b = await device(file());
  await b.synced(10);
  assert.deepEqual(b.collection("notes").items(), []);
  assert.equal((await b.spaces()).length, 2);
});

test("a mistyped key code is refused with a sentence", async () => {
  const code = keyCode(new Uint8Array(32), 0);
  const wrong = code.slice(0, -1) + (code.endsWith("Q") ? "P" : "Q");
  assert.throws(() => parseKeyCode(wrong), WrongKeyCode);
  const client = await opened(file());
  await assert.rejects(client.importKey(wrong), WrongKeyCode);
  const later = keyCode(new Uint8Array(32), 1);
  await assert.rejects(client.importKey(later), { name: "WrongKeyCode", message: /later kind/ });
  assert.equal(client.hasKey, false);
});

test("a wrong code is refused", async () => {
  const client = await opened(file());
  await assert.rejects(client.enrol("12345678"), { code: "enrol_failed" });
  await client.requestCode(ANNA);
  const right = await hub.nextCode();
  const wrong = String((Number(right) + 1) % 10 ** 8).padStart(8, "0");
  await assert.rejects(client.enrol(wrong), { code: "enrol_failed" });
  assert.equal(client.signedIn, false);
  await client.enrol(right);
  assert.equal(client.signedIn, true);
});

test("a code that was asked for before a restart is taken after it", async () => {
  const name = file();
  const client = await opened(name);
  await client.requestCode(ANNA);
  await closed(client);
  const again = await opened(name);
  await again.enrol(await hub.nextCode());
  assert.equal(again.signedIn, true);
});

test("a device that asks for a code while it runs becomes a new one and keeps its edits", async () => {
  const a = await device(file());
  await a.synced(10);
  const before = hex(a.deviceId);
  await a.requestCode(ANNA);
  assert.notEqual(hex(a.deviceId), before);
  await a.collection("notes").put("k", "written in between");
  await new Promise((done) => setTimeout(done, 300));
  await a.enrol(await hub.nextCode());
  await a.synced(10);
  assert.deepEqual([a.status.parked, a.status.error], [0, ""]);
  assert.equal((await a.collection("notes").history("k")).length, 1);
});

test("one tab after the other runs the client on one database", async () => {
  const name = file();
  await closed(await device(name));
  /** @type {any} */
  const tabs = [0, 1].map(() => ({ page: new FakePage(), client: null }));
  const locks = new Locks();
  const leaders = tabs.map((/** @type {any} */ tab) => {
    const lead = async (/** @type {AbortSignal} */ signal) => {
      tab.client = await opened(name, { page: tab.page });
      tab.client.start();
      if (!signal.aborted) await once(signal, "abort");
      await closed(tab.client);
      tab.client = null;
    };
    return new Leader(name, lead, { locks, channel: null, page: tab.page });
  });
  leaders.forEach((leader) => leader.start());
  await until(() => tabs[0].client?.status.phase === "synced");
  assert.equal(tabs[1].client, null);
  await tabs[0].client.collection("notes").put("k", "from the first");
  tabs[0].page.tell("leaving");
  await until(() => tabs[1].client?.status.phase === "synced");
  const notes = tabs[1].client.collection("notes");
  assert.equal(notes.get("k"), "from the first");
  await notes.put("k", "from the second");
  tabs[0].page.tell("back");
  await leaders[1].stop();
  await until(() => tabs[0].client?.status.phase === "synced");
  await until(() => tabs[0].client.collection("notes").get("k") === "from the second");
  await leaders[0].stop();
});

test("a revoked device stops and says why", async () => {
  const a = await device(file());
  await a.synced(10);
  await a.revoke([a.deviceId]);
  await until(() => a.status.phase === "blocked");
  assert.match(a.status.error, /revoked/);
  await a.collection("notes").put("k", "still works here");
  assert.equal(a.collection("notes").get("k"), "still works here");
});

test("ten thousand records arrive with progress", async () => {
  const a = await device(file());
  for (let start = 0; start < 10_000; start += 1_000) {
    const part = Array.from({ length: 1_000 }, (_, n) => [`k${start + n}`, start + n]);
    await a.collection("notes").putMany(Object.fromEntries(part));
  }
  await a.synced(60);
  /** @type {{done: number, remaining: number}[]} */
  const seen = [];
  const b = await device(file(), a.keyCode());
  b.onStatus((status) => seen.push(status.progress));
  const notes = b.collection("notes");
  await b.synced(60);
  assert.equal(notes.keys().length, 10_000);
  assert.ok(seen.some(({ done, remaining }) => done && remaining));
});

test("whoever taps the line sees what is sent and received", async () => {
  const name = file();
  const a = await device(name);
  await a.synced(10);
  await closed(a);
  /** @type {[string, any][]} */
  const seen = [];
  const client = await opened(name, { tap: (what, message) => seen.push([what, message]) });
  client.start();
  await client.whenAppended(await client.collection("notes").put("k", "v"));
  await closed(client);
  const types = seen.map(([what, message]) => `${what} ${message.type ?? message.constructor.name}`);
  assert.deepEqual(types.slice(0, 3), ["sent hello", "received challenge", "sent auth"]);
  assert.ok(types.indexOf("sent append") < types.indexOf("received appended"));
  assert.equal(types.at(-1), "closed Closed");
  assert.ok(seen.at(-1)?.[1] instanceof Closed);
});

test("a signal reaches the other device", async () => {
  const { a, b } = await two();
  /** @type {[string, number[]][]} */
  const heard = [];
  b.onSignal((deviceId, body) => heard.push([hex(deviceId), [...body]]));
  await a.synced(10);
  await b.synced(10);
  await a.sendSignal(Uint8Array.of(1, 2, 3));
  await until(() => heard.length === 1);
  assert.deepEqual(heard, [[hex(a.deviceId), [1, 2, 3]]]);
});

test("whoever waits is told when the client is stopped or the time is up", async () => {
  const a = await device(file());
  await a.turnOff();
  await assert.rejects(a.synced(0.05), TimeoutError);
  const waiting = assert.rejects(a.synced(60), /the client was stopped/);
  await closed(a);
  await waiting;
});

// --- a hub that goes away --------------------------------------------------------------------

testReal("a hub killed in the middle of a push has everything once at the end", async () => {
  const { a, b } = await two();
  await a.synced(10);
  await b.synced(10);
  const [notes, theirs] = [a.collection("notes"), b.collection("notes")];
  for (let round = 0; round < 3; round++) {
    const part = Array.from({ length: 1_000 }, (_, n) => [`${round}-${n}`, { n, pad: "x".repeat(200) }]);
    await notes.putMany(Object.fromEntries(part));
    await until(() => a.status.unsynced < 900);
    assert.ok(a.status.unsynced > 0, "the push was over too soon");
    await hub.kill();
    await theirs.put(`from b ${round}`, round);
    await hub.restart();
  }
  await a.synced(60);
  await b.synced(60);
  await a.synced(60);
  assert.equal(notes.keys().length, 3_003);
  assert.deepEqual(theirs.items(), notes.items());
  assert.deepEqual([...a.status.alarms, ...b.status.alarms], []);
  assert.equal((await notes.history("0-1")).length, 1);
  assert.equal((await notes.history("2-999")).length, 1);
});

testReal("what was written while the hub stood still for a moment arrives", async () => {
  const { a, b } = await two();
  await a.synced(10);
  await b.synced(10);
  hub.freeze();
  await a.collection("notes").put("k", "v");
  await new Promise((done) => setTimeout(done, 1_000));
  hub.thaw();
  await b.synced(30);
  await until(() => b.collection("notes").get("k") === "v");
});

// --- with Python -----------------------------------------------------------------------------

testReal("a Python device and two of ours converge both ways", async () => {
  const { a, b } = await two();
  const python = await pythonDevice(a.keyCode());
  await a.collection("notes").put("from js", { text: "Hello", words: 2 });
  await python.put("notes", "from python", { text: "Hallo", words: 1 });
  await python.put("notes", "gone", 1);
  const notes = b.collection("notes");
  await until(() => notes.keys().length === 3);
  await notes.delete("gone");
  await notes.put("from python", { text: "Hallo!", words: 1 });
  const all = [["from js", { text: "Hello", words: 2 }], ["from python", { text: "Hallo!", words: 1 }]];
  await until(async () => (await python.items("notes")).length === 2);
  await python.do("synced", 10);
  await a.synced(10);
  assert.deepEqual(sorted(await python.items("notes")), all);
  assert.deepEqual(sorted(a.collection("notes").items()), all);
  assert.deepEqual((await python.do("status")).alarms, []);
  assert.deepEqual([...a.status.alarms, ...b.status.alarms], []);
});

testReal("every kind of value comes to Python and back as it was", async () => {
  const a = await device(file());
  const python = await pythonDevice(a.keyCode());
  const notes = a.collection("values");
  /** @type {Record<string, any>} */
  const values = {
    date: new Date(1_700_000_000_123),
    set: new Set(["a", 1]),
    map: new Map([[1, "one"]]),
    bytes: Uint8Array.of(0, 1, 255),
    floats: Float32Array.of(0.5, -1),
    large: 2n ** 80n,
    nested: { list: [1, 2.5, null, true, "ü🎉"], deep: { when: new Date(0), tags: new Set() } },
    fraction: 0.1,
    nothing: null,
  };
  await notes.putMany(values);
  await a.synced(10);
  await python.do("collection", "values", "last_writer_wins");
  await python.do("synced", 10);
  for (const [key, value] of Object.entries(values)) assert.deepEqual(await python.get("values", key), value, key);
  for (const key of Object.keys(values)) await python.put("back", key, await python.get("values", key));
  const back = a.collection("back");
  await until(() => back.keys().length === Object.keys(values).length);
  for (const [key, value] of Object.entries(values)) assert.deepEqual(back.get(key), value, key);
});

testReal("what Python calls its own comes here and goes back as that", async () => {
  const a = await device(file());
  const python = await pythonDevice(a.keyCode());
  const names = await python.do("put_native", "native");
  const native = a.collection("native");
  await until(() => native.keys().length === names.length);
  assert.ok(native.get("a date") instanceof Date);
  assert.ok(native.get("a set") instanceof Set);
  assert.ok(native.get("bytes") instanceof Uint8Array);
  assert.equal(native.get("a large number"), 2n ** 70n + 1n);
  for (const key of names) await a.collection("returned").put(key, native.get(key));
  await a.synced(10);
  await python.do("collection", "returned", "last_writer_wins");
  await python.do("synced", 10);
  for (const key of names) assert.equal(await python.do("is_native", "returned", key), true, key);
});

testReal("conflicts between Python and JavaScript are settled alike on both", async () => {
  const a = await device(file());
  const python = await pythonDevice(a.keyCode());
  a.collection("words", { strategy: counterSum("n") });
  await python.do("collection", "words", "counter_sum");
  a.collection("prose", { strategy: manual });
  await python.do("collection", "prose", "manual");
  await a.collection("words").put("monday", { n: 10 });
  await a.collection("prose").put("chapter", "base");
  await a.synced(10);
  await until(async () => (await python.get("prose", "chapter")) === "base");
  await a.turnOff();
  await python.do("turn_off");
  await a.collection("words").put("monday", { n: 15 });
  await python.put("words", "monday", { n: 13 });
  await a.collection("prose").put("chapter", "from js");
  await python.put("prose", "chapter", "from python");
  await python.do("turn_on");
  await python.do("synced", 10);
  await a.turnOn();
  await until(() => a.collection("prose").conflicts().length === 1);
  const [conflict] = a.collection("prose").conflicts();
  assert.deepEqual([conflict.base, conflict.mine, conflict.theirs], ["base", "from js", "from python"]);
  await until(async () => (await python.get("words", "monday")).n === 18);
  await a.collection("prose").resolve("chapter", "from both");
  await until(async () => (await python.get("prose", "chapter")) === "from both");
  assert.deepEqual(await python.do("conflicts", "prose"), []);
});

testReal("each side can undo the other's edit", async () => {
  const a = await device(file());
  const python = await pythonDevice(a.keyCode());
  const notes = a.collection("notes");
  await a.whenAppended(await notes.put("k", "written in js"));
  await python.do("synced", 10);
  await python.put("notes", "k", "overwritten in python");
  await until(() => notes.get("k") === "overwritten in python");
  const versions = await notes.history("k");
  await a.whenAppended(await notes.put("k", versions[1].value));
  await until(async () => (await python.get("notes", "k")) === "written in js");
  const seen = (await python.do("history", "notes", "k")).map(valueOf);
  assert.deepEqual(seen, ["written in js", "overwritten in python", "written in js"]);
  await python.put("notes", "k", seen[1]);
  await until(() => notes.get("k") === "overwritten in python");
});

testReal("deltas of both sides come in one order", async () => {
  const a = await device(file());
  const python = await pythonDevice(a.keyCode());
  const text = a.collection("text");
  await a.whenAppended(await text.appendDelta("doc", "one"));
  await python.do("synced", 10);
  await python.do("append_delta", "text", "doc", hex(encodeBody("two")));
  await until(() => text.deltas("doc").length === 2);
  await a.whenAppended(await text.appendDelta("doc", "three"));
  await until(async () => (await python.do("deltas", "text", "doc")).length === 3);
  assert.deepEqual((await python.do("deltas", "text", "doc")).map(valueOf), ["one", "two", "three"]);
  assert.deepEqual(text.deltas("doc"), ["one", "two", "three"]);
});

testReal("a wipe by Python is heard here and one by us there", async () => {
  const a = await device(file());
  const python = await pythonDevice(a.keyCode());
  let wiped = 0;
  a.onWiped(() => (wiped += 1));
  await a.collection("notes").put("k", "v");
  await a.synced(10);
  await until(async () => (await python.get("notes", "k")) === "v");
  await python.do("turn_off_and_wipe");
  await until(() => wiped === 1 && a.status.phase === "off");
  assert.equal(a.collection("notes").get("k"), "v");
  await a.turnOn();
  await a.synced(10);
  await python.do("turn_on");
  await python.do("synced", 10);
  await a.turnOffAndWipe();
  await until(async () => (await python.do("times_wiped")) === 1 && (await python.do("status")).phase === "off");
  assert.equal(await python.get("notes", "k"), "v");
  assert.deepEqual((await python.do("status")).alarms, []);
});

testReal("a device that takes itself off the account is heard of and listed no more", async () => {
  const a = await device(file());
  const python = await pythonDevice(a.keyCode());
  await a.synced(10);
  /** @type {string[]} */
  const told = [];
  a.onAccount((notice) => told.push(`${notice.what} ${hex(notice.deviceId)}`));
  const [other] = (await a.devices()).filter((info) => hex(info.deviceId) !== hex(a.deviceId));
  await python.do("revoke", [hex(other.deviceId)]);
  await until(async () => (await python.do("status")).phase === "blocked");
  assert.match((await python.do("status")).error, /revoked/);
  await until(() => told.length === 1);
  assert.match(told[0], new RegExp(`revoked ${hex(other.deviceId)}$`));
  assert.deepEqual((await a.devices()).map((info) => hex(info.deviceId)), [hex(a.deviceId)]);
});

testReal("a Python device that began the space takes us in by its key", async () => {
  const python = await pythonDevice();
  await python.put("notes", "k", "v");
  const a = await device(file(), await python.do("key_code"));
  const notes = a.collection("notes");
  await until(() => notes.get("k") === "v");
  await a.whenAppended(await notes.put("k", "w"));
  await until(async () => (await python.get("notes", "k")) === "w");
});
