/**
 * AccountClient against the real hub, and the memory hub where that knows the matter: signing in with the rights of the
 * account, devices, spaces, what happened, deletions, the way in with a key, names, and the line that is kept up.
 */

import "fake-indexeddb/auto";
import assert from "node:assert/strict";
import { afterEach } from "node:test";

import { AccountClient, Closed, ConnectionError, hex, Refusal } from "../src/account.js";
import { unhex } from "../src/bytes.js";
import { HubClient, MemoryStorage } from "../src/index.js";
import { parseKeyCode, qrText } from "../src/keycode.js";
import { keyWords } from "../src/words.js";
import { HUBS, onEachHub } from "./hubs.js";

const APP = "org.example.notes";
const ANNA = "anna@example.org";
const BERT = "bert@example.org";
const WEEK_S = 7 * 86_400;

/** @type {any} */
let hub;
/** @type {{stop: () => unknown}[]} */
let running = [];
let databases = 0;

/** @param {any} started */
const begin = (started) => (hub = started);
const test = onEachHub(begin);
/** For what only the real hub does. */
const testReal = onEachHub(begin, HUBS.slice(0, 1));
/** For what only the memory hub does at the push of a button. */
const testMemory = onEachHub(begin, HUBS.slice(1));

afterEach(async () => {
  for (const one of running) await one.stop();
  running = [];
  await hub?.end();
  hub = null;
});

/** @param {Partial<import("../src/account.js").AccountOptions>} [more] */
async function opened(more = {}) {
  databases += 1;
  const name = `account-${process.pid}-${databases}`;
  const account = await AccountClient.open({ url: hub.url, WebSocket: hub.WebSocket, name, ...more });
  running.push(account);
  return account;
}

/** A signed-in dashboard.  @param {string} [address] @param {Partial<import("../src/account.js").AccountOptions>} [more] */
async function dashboard(address = ANNA, more = {}) {
  const account = await opened(more);
  account.start();
  const sent = await account.requestCode(address);
  const mail = await hub.nextMail();
  assert.equal(sent.phrase, mail.phrase);
  await account.enrol(mail.code);
  return account;
}

/** A running device of the app.  @param {{key?: string, appId?: string, address?: string}} [how] */
async function app({ key = "", appId = APP, address = ANNA } = {}) {
  const about = { appId, hubUrl: hub.url, WebSocket: hub.WebSocket };
  const client = await HubClient.open({ storage: new MemoryStorage(), ...about });
  running.push(client);
  await client.requestCode(address);
  await client.enrol(await hub.nextCode());
  if (key) await client.importKey(key);
  else await client.createKey();
  client.start();
  await client.synced(10);
  return client;
}

/** Hand in a fresh code.  @param {AccountClient} account */
async function freshCode(account) {
  await account.requestConfirm(ANNA);
  await account.confirm(await hub.nextCode());
}

/** @param {AccountClient} account @param {import("../src/account.js").AccountPhase} phase */
async function phase(account, phase, withinMs = 10_000) {
  await new Promise((done, fail) => {
    const late = setTimeout(() => fail(new Error(`${JSON.stringify(account.status.value)} and not ${phase}`)), withinMs);
    const stop = account.status.subscribe((status) => {
      if (status.phase !== phase) return;
      clearTimeout(late);
      queueMicrotask(() => stop());
      done(undefined);
    });
  });
}

/** The next notice of that kind.  @param {AccountClient} account @param {string} what */
async function notice(account, what) {
  return new Promise((done) => {
    const stop = account.onNotice((heard) => {
      if (heard.what !== what) return;
      stop();
      done(heard);
    });
  });
}

/** @param {string} code */
const refused = (code) => (/** @type {any} */ error) => error instanceof Refusal && error.code === code;

test("a code makes it a device with the rights of the account", async () => {
  const account = await opened();
  assert.equal(account.status.value.phase, "signed-out");
  account.start();
  const sent = await account.requestCode(ANNA);
  assert.ok(sent.expiresInS > 60);
  await account.enrol(` ${(await hub.nextCode()).replace(/(?=....$)/, " ")} `);
  await phase(account, "ready");
  assert.equal(account.signedIn, true);
  assert.equal(account.ready?.scope, "account");
  const [me, ...others] = await account.devices();
  assert.deepEqual(others, []);
  assert.deepEqual([hex(me.deviceId), me.scope, me.enrolledVia], [hex(account.deviceId), "account", "first"]);
});

test("a wrong code is refused, and the right one works after it", async () => {
  const account = await opened();
  account.start();
  await assert.rejects(account.enrol("12345678"), refused("enrol_failed"));
  await account.requestCode(ANNA);
  const code = await hub.nextCode();
  await assert.rejects(account.enrol(code === "00000000" ? "00000001" : "00000000"), refused("enrol_failed"));
  await account.enrol(code);
  await phase(account, "ready");
});

testMemory("a mail that did not come is sent once more, with the same code", async () => {
  const account = await opened();
  const { again, phrase } = await account.requestCode(ANNA);
  const code = await hub.nextCode();
  assert.equal((await again()).phrase, phrase);
  assert.equal(await hub.nextCode(), code);
  await account.enrol(code);
});

testReal("a mail is not sent again at once, and the refusal says when", async () => {
  const account = await opened();
  const { again } = await account.requestCode(ANNA);
  await assert.rejects(again(), (/** @type {any} */ error) => error.code === "slow_down" && error.retryAfterS > 0);
});

test("what was asked for and who it is outlive the page", async () => {
  const name = `kept-${process.pid}`;
  const first = await opened({ name });
  await first.requestCode(ANNA);
  first.stop();
  const second = await opened({ name });
  assert.deepEqual(second.deviceId, first.deviceId);
  await second.enrol(await hub.nextCode());
  second.stop();
  const third = await opened({ name });
  assert.equal(third.signedIn, true);
  assert.equal(third.status.value.phase, "offline");
  third.start();
  await phase(third, "ready");
  assert.deepEqual(third.deviceId, first.deviceId);
});

test("it sees the devices of all apps, approves them, and revokes them at once", async () => {
  const account = await dashboard();
  const notes = await app();
  const tasks = await app({ appId: "org.example.tasks" });
  const devices = await account.devices();
  assert.deepEqual(devices.map(({ appId }) => appId).sort(), [APP, "org.example.tasks", "sync-hub.dashboard"]);
  const probation = async () => {
    const found = (await account.devices()).find(({ deviceId }) => hex(deviceId) === hex(notes.deviceId));
    return found?.probationUntil;
  };
  assert.ok(/** @type {number} */ (await probation()) > 0);
  const approved = notice(account, "device_approved");
  await account.approve(notes.deviceId);
  assert.deepEqual((await approved).deviceId, notes.deviceId);
  assert.equal(await probation(), 0);
  const closed = new Promise((done) => tasks.onStatus((status) => status.phase === "blocked" && done(Date.now())));
  const before = Date.now();
  await account.revoke([tasks.deviceId]);
  assert.ok(/** @type {number} */ (await closed) - before < 1_000);
  assert.equal((await account.devices()).length, 2);
});

test("what the hub ended is said, and a new code begins anew", async () => {
  const account = await dashboard();
  const other = await dashboard();
  await account.approve(other.deviceId);
  await phase(other, "ready");
  await account.revoke([other.deviceId]);
  await phase(other, "ended");
  assert.deepEqual(other.status.value.closing, { code: 4503, name: "revoked", message: "this device was revoked" });
  await assert.rejects(other.devices(), (error) => error instanceof Closed && error.code === 4503);
  const before = hex(other.deviceId);
  await other.requestCode(ANNA);
  assert.equal(other.status.value.phase, "signed-out");
  await other.enrol(await hub.nextCode());
  await phase(other, "ready");
  assert.notEqual(hex(other.deviceId), before);
});

test("it sees every app's space with what it takes", async () => {
  const account = await dashboard();
  assert.deepEqual(await account.spaces(), []);
  const notes = await app();
  await notes.collection("notes").put("a", "x".repeat(1_000));
  await notes.collection("notes").put("b", 1);
  await notes.synced(10);
  const [space, ...more] = await account.spaces();
  assert.deepEqual(more, []);
  assert.deepEqual([space.appId, space.collections, space.changes, space.deletedAt], [APP, 1, 2, 0]);
  assert.ok(space.usedBytes > 1_000);
  for (const at of [space.createdAt, space.lastChangeAt]) assert.ok(Math.abs(at - Date.now() / 1000) < 60);
  for (const { day, usedBytes } of space.growth) assert.ok(day > 19_000 && usedBytes > 0);
});

test("what happened is listed, newest first, a page after the other", async () => {
  const account = await dashboard();
  const notes = await app();
  await account.approve(notes.deviceId);
  await account.revoke([notes.deviceId]);
  const { entries, more } = await account.audit();
  assert.equal(more, false);
  const whats = entries.map(({ what }) => what).filter((what) => what.startsWith("device_"));
  assert.deepEqual(whats, ["device_revoked", "device_approved", "device_enrolled", "device_enrolled"]);
  assert.deepEqual(entries.find(({ what }) => what === "device_revoked")?.subjectId, notes.deviceId);
  const first = await account.audit({ limit: 1 });
  assert.deepEqual([first.entries.length, first.more], [1, true]);
  const rest = await account.audit({ before: first.entries[0].number, limit: 200 });
  assert.deepEqual([...first.entries, ...rest.entries].map(({ number }) => number), entries.map(({ number }) => number));
});

test("a space is deleted later, and that is taken back by any device of the app", async () => {
  const account = await dashboard();
  const notes = await app();
  await account.approve(notes.deviceId);
  const [{ spaceId }] = await account.spaces();
  for (const how of [{ later: true }, {}]) {
    const when = await account.deleteSpace(spaceId, how);
    assert.ok(when && Math.abs(when.getTime() / 1000 - Date.now() / 1000 - WEEK_S) < 60);
    assert.ok((await account.spaces())[0].deletedAt > 0);
    await account.cancelDeletion(spaceId);
    assert.equal((await account.spaces())[0].deletedAt, 0);
  }
  await notes.synced(10);
});

test("a space is deleted at once after a fresh code, and with its key", async () => {
  const account = await dashboard();
  const notes = await app();
  const other = await app({ appId: "org.example.tasks" });
  const gone = notice(account, "space_deleted");
  await account.enterWithKey(notes.keyCode());
  const [first, second] = await account.spaces();
  const [mine, theirs] = first.appId === APP ? [first, second] : [second, first];
  assert.equal(await account.deleteSpace(mine.spaceId), null);
  assert.deepEqual((await gone).spaceId, mine.spaceId);
  await freshCode(account);
  assert.equal(await account.deleteSpace(theirs.spaceId), null);
  assert.deepEqual(await account.spaces(), []);
  await Promise.all([notes.stop(), other.stop()]);
});

test("with its key a space is deleted at once, also on a later line", async () => {
  const account = await dashboard();
  const notes = await app();
  const { spaceId } = await account.enterWithKey(notes.keyCode());
  await notes.stop();
  await hub.stop();
  await phase(account, "offline");
  await hub.restart();
  assert.equal(await account.deleteSpace(spaceId), null);
});

testReal("an account is deleted only after a fresh code, and can be kept", async () => {
  const account = await dashboard();
  await assert.rejects(account.deleteAccount(), refused("fresh_code_needed"));
  await freshCode(account);
  const set = notice(account, "account_deletion_set");
  const when = await account.deleteAccount();
  assert.ok(when && when.getTime() / 1000 - Date.now() / 1000 > WEEK_S - 60);
  await set; // it may come behind the answer
  const told = notice(account, "account_deletion_cancelled");
  assert.ok(/** @type {any} */ (account.ready).accountDeletedAt > 0);
  await account.cancelDeletion();
  await told;
  assert.equal(account.ready?.accountDeletedAt, 0);
});

testReal("the address changes with a fresh code of the old one and one of the new", async () => {
  const account = await dashboard();
  await account.requestChange(BERT);
  const { code, address } = await hub.nextMail();
  assert.equal(address, BERT);
  await assert.rejects(account.changeAddress(code), refused("fresh_code_needed"));
  await freshCode(account);
  await account.requestChange(BERT);
  await account.changeAddress(await hub.nextCode());
  const other = await dashboard(BERT);
  assert.equal(hex(/** @type {any} */ (other.ready).accountId), hex(/** @type {any} */ (account.ready).accountId));
});

testReal("a key of the account ends probation", async () => {
  const notes = await app();
  await notes.collection("notes").put("a", 1);
  await notes.synced(10);
  const account = await dashboard();
  assert.ok(/** @type {any} */ (account.ready).probationUntil > 0);
  await assert.rejects(account.approve(notes.deviceId), refused("probation"));
  const told = notice(account, "device_approved");
  const { appId, spaceId } = await account.enterWithKey(notes.keyCode());
  assert.equal(appId, APP);
  assert.deepEqual((await account.spaces())[0].spaceId, spaceId);
  await told;
  assert.equal(account.ready?.probationUntil, 0);
  await account.approve(notes.deviceId);
});

test("a key goes in as its code, as the text of its QR code and as words, and another account's does not", async () => {
  const account = await dashboard();
  const notes = await app();
  const code = notes.keyCode();
  const { appKey } = parseKeyCode(code);
  for (const text of [code, code.toLowerCase().replace(/(.{5})/g, "$1 "), qrText(code, "https://h.test"), keyWords(appKey)]) {
    assert.equal((await account.enterWithKey(text)).appId, APP, text);
  }
  await assert.rejects(account.enterWithKey("HUBKEY1QQ"), { name: "WrongKeyCode" });
  const stranger = await HubClient.open({ storage: new MemoryStorage(), appId: APP, hubUrl: hub.url });
  await assert.rejects(account.enterWithKey(await stranger.createKey()), refused("not_found"));
  await stranger.stop();
});

test("with the key the devices' names are read, and without it they are not", async () => {
  const account = await dashboard();
  const laptop = await app();
  const phone = await app({ key: laptop.keyCode() });
  await laptop.nameDevice("  Laptop <b>& more</b> ");
  await phone.nameDevice("Phone");
  await phone.nameDevice("Anna's phone");
  await laptop.collection("_devices").put(hex(unhex("00".repeat(16))), { name: "Gone" });
  await laptop.collection("_devices").delete(hex(unhex("00".repeat(16))));
  await Promise.all([laptop.synced(10), phone.synced(10)]);
  const [{ spaceId }] = await account.spaces();
  await assert.rejects(account.names(spaceId), refused("no_space_proof"));
  await account.enterWithKey(laptop.keyCode());
  const expected = new Map([[hex(laptop.deviceId), "Laptop <b>& more</b>"], [hex(phone.deviceId), "Anna's phone"]]);
  assert.deepEqual(sorted(await account.names(spaceId)), sorted(expected));
  assert.deepEqual(sorted(await account.names(spaceId)), sorted(expected));
  account.forgetKeys();
  await assert.rejects(account.names(spaceId), refused("no_space_proof"));
});

test("a space without names has none", async () => {
  const account = await dashboard();
  const laptop = await app();
  const { spaceId } = await account.enterWithKey(laptop.keyCode());
  assert.deepEqual(await account.names(spaceId), new Map());
});

testReal("everything is exported in pieces, as one file", async () => {
  const account = await dashboard();
  const notes = await app();
  const values = Object.fromEntries(Array.from({ length: 40 }, (_, n) => [`n${n}`, crypto.getRandomValues(new Uint8Array(60_000))]));
  await notes.collection("notes").putMany(values);
  await notes.synced(30);
  /** @type {import("../src/account.js").ExportProgress[]} */
  const told = [];
  const all = await account.exportBundle({ onProgress: (progress) => told.push(progress) });
  assert.ok(all.size > 40 * 60_000, `${all.size}`);
  assert.ok(told.length > 1);
  assert.equal(told.at(-1)?.doneBytes, told.at(-1)?.totalBytes);
  const [{ spaceId }] = await account.spaces();
  const one = await account.exportBundle({ spaceId });
  assert.deepEqual(new Uint8Array(await one.slice(0, 4).arrayBuffer()), new Uint8Array(await all.slice(0, 4).arrayBuffer()));
});

test("it comes back by itself when the line was lost, and enters again with the key it has", async () => {
  const account = await dashboard();
  const laptop = await app();
  await laptop.nameDevice("Laptop");
  await laptop.synced(10);
  const { spaceId } = await account.enterWithKey(laptop.keyCode());
  await hub.stop();
  await phase(account, "offline");
  await hub.restart();
  const names = await account.names(spaceId); // waits for the line
  assert.equal(names.get(hex(laptop.deviceId)), "Laptop");
  await phase(account, "ready");
});

test("what is asked while it is stopped is refused at once, and it can be started again", async () => {
  const account = await dashboard();
  await phase(account, "ready");
  account.stop();
  assert.equal(account.status.value.phase, "offline");
  await assert.rejects(account.devices(), ConnectionError);
  account.start();
  assert.equal((await account.devices()).length, 1);
});

test("a device that leaves is off the account, and nobody here", async () => {
  const name = `leaves-${process.pid}-${(databases += 1)}`;
  const account = await dashboard(ANNA, { name });
  const other = await dashboard();
  await phase(other, "ready");
  const revoked = notice(other, "device_revoked");
  const before = account.deviceId;
  await account.forget();
  assert.deepEqual((await revoked).deviceId, before);
  assert.equal(account.status.value.phase, "signed-out");
  assert.notEqual(hex(account.deviceId), hex(before));
  const again = await opened({ name });
  assert.equal(again.signedIn, false);
});

test("a device that cannot tell the hub leaves only by force", async () => {
  const account = await dashboard();
  await phase(account, "ready");
  await hub.stop();
  await phase(account, "offline");
  await account.forget({ force: true });
  assert.equal(account.status.value.phase, "signed-out");
});

testReal("a hub that restarts is waited for without alarm", async () => {
  const account = await dashboard();
  await phase(account, "ready");
  /** @type {string[]} */
  const seen = [];
  account.status.subscribe(({ phase: now }) => seen.push(now));
  await hub.stop();
  assert.equal(seen.includes("ended"), false);
  await hub.restart();
  await phase(account, "ready");
});

testMemory("a hub that moved is not followed by itself, and says where to", async () => {
  const account = await dashboard();
  await phase(account, "ready");
  hub.move("https://new.test");
  await phase(account, "ended");
  assert.equal(account.status.value.movedTo, "wss://new.test/v1/ws");
  assert.equal(account.status.value.closing?.name, "moved");
});

/** @param {Map<string, string>} map */
function sorted(map) {
  return [...map].sort();
}
