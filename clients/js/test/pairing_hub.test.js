/** Pairing against the real hub: both directions, with the Python client on either side, and what the hub is asked. */

import "fake-indexeddb/auto";
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, mock, test } from "node:test";
import { WebSocket } from "ws";

import { PairingHandle, SIGN_OF_LIFE_EVERY_S } from "../src/adding.js";
import { equal, hex } from "../src/bytes.js";
import { ConnectionError, HubClient, MemoryStorage, PairingFailed, Refusal, WrongKeyCode } from "../src/index.js";
import { Giver, Hand, parsePairingCode, Taker, WITHIN_S } from "../src/pairing.js";
import { IndexedDbStorage } from "../src/storage/indexeddb.js";
import { decodeFromDevice, decodeFromHub, encode } from "../src/wire/codec.js";
import { PythonDevice } from "./cross/python_device.js";
import { HubProcess, whyNoHub } from "./hub_process.js";

const APP = "org.example.notes";
const ANNA = "anna@example.org";
const BEN = "ben@example.org";
const PHONE = "Anna's phone 🦦";
const options = { skip: whyNoHub, timeout: 120_000 };
const BOTH = /** @type {const} */ (["giver", "taker"]);

/** @type {HubProcess} */
let hub;
/** @type {{ end: () => Promise<unknown> }[]} */
let ending = [];
let databases = 0;

beforeEach(async () => {
  if (!whyNoHub) hub = await HubProcess.start();
});

afterEach(async () => {
  for (const each of ending) await each.end();
  ending = [];
  if (!whyNoHub) await hub.end();
});

/** A client that is not signed in. @param {Partial<Parameters<typeof HubClient.open>[0]>} [more] */
async function opened(more = {}) {
  databases += 1;
  const storage = more.storage ?? (await IndexedDbStorage.open(`pairing-${process.pid}-${databases}`));
  const client = await HubClient.open({ appId: APP, hubUrl: hub.url, WebSocket, ...more, storage });
  ending.push({ end: () => client.stop() });
  return client;
}

/** @param {HubClient} client */
async function signIn(client, address = ANNA) {
  await client.requestCode(address);
  await client.enrol(await hub.nextCode());
}

/** Anna's first device, running, with a note. @param {Partial<Parameters<typeof HubClient.open>[0]>} [more] */
async function first(more = {}) {
  const client = await opened(more);
  await signIn(client);
  await client.createKey();
  client.start();
  await client.collection("notes").put("first", "Hello");
  await client.synced(10);
  return client;
}

async function python() {
  const device = new PythonDevice();
  ending.push(device);
  await device.do("open", join(device.folder, "db"), APP, hub.url);
  return device;
}

/** @param {() => unknown} holds */
async function until(holds, withinMs = 10_000) {
  const end = Date.now() + withinMs;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`it did not come about: ${holds}`);
    await new Promise((done) => setTimeout(done, 10));
  }
}

/**
 * [giver's, taker's] handles: one shows its code and the other has scanned it.
 * @param {HubClient} old @param {HubClient} neu @param {"giver" | "taker"} shownBy
 */
async function scanned(old, neu, shownBy) {
  const [shower, scanner] = shownBy === "giver" ? [old, neu] : [neu, old];
  const shown = await shower.pair({ name: PHONE });
  const other = await scanner.pair({ scanned: shown.code, name: PHONE });
  return shownBy === "giver" ? [shown, other] : [other, shown];
}

/** As a person does it. @param {HubClient} old @param {HubClient} neu @param {"giver" | "taker"} shownBy */
async function pair(old, neu, shownBy) {
  const [giving, taking] = await scanned(old, neu, shownBy);
  const digits = await taking.digits;
  assert.equal(await giving.digits, digits);
  if (shownBy === "giver") await giving.confirm(digits);
  else await Promise.all([giving.agree(), taking.confirm(digits)]);
  assert.equal(await giving.takerName, PHONE);
  await Promise.all([giving.done, taking.done]);
}

/** @param {Promise<unknown>} promise */
async function faultOf(promise) {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof PairingFailed, String(error));
    return error.fault;
  }
  return "";
}

/** A WebSocket whose messages, from the hub or to it, a test may bend; null holds one back. */
function bent({ came = (/** @type {any} */ message) => message, sent = (/** @type {any} */ message) => message }) {
  return class extends WebSocket {
    /** @param {any} listener */
    set onmessage(listener) {
      super.onmessage = (event) => {
        const message = came(decodeFromHub(new Uint8Array(/** @type {ArrayBuffer} */ (event.data))));
        if (message) listener({ data: Uint8Array.from(encode(message)).buffer });
      };
    }

    /** @param {any} frame */
    send(frame) {
      const message = decodeFromDevice(frame);
      const instead = sent(message);
      if (instead) super.send(instead === message ? frame : encode(instead));
    }
  };
}

// --- with the real hub -----------------------------------------------------------------------

for (const shownBy of BOTH) {
  test(`one scan signs a device in and gives it the key: shown by the ${shownBy}`, options, async () => {
    const a = await first();
    /** @type {string[]} */
    const told = [];
    a.onAccount((notice) => told.push(notice.what));
    const b = await opened();
    await pair(a, b, shownBy);
    assert.ok(b.signedIn);
    assert.equal(b.keyCode(), a.keyCode());
    b.start();
    await b.synced(10);
    assert.equal(b.collection("notes").get("first"), "Hello");
    await b.collection("notes").put("second", "from b");
    await b.synced(10);
    await until(() => a.collection("notes").get("second") === "from b");
    const info = (await a.devices()).find((one) => equal(one.deviceId, b.deviceId));
    assert.deepEqual([info?.enrolledVia, info?.scope, info?.probationUntil], ["pairing", "app", 0]);
    assert.deepEqual(told, ["device_enrolled"]);
  });

  test(`wrong digits leave the new device outside: shown by the ${shownBy}`, options, async () => {
    const [a, b] = [await first(), await opened()];
    const [giving, taking] = await scanned(a, b, shownBy);
    const wrong = String((Number(await taking.digits) + 1) % 1_000_000).padStart(6, "0");
    await giving.digits;
    if (shownBy === "taker") await giving.agree();
    await (shownBy === "giver" ? giving : taking).confirm(wrong);
    const faults = [await faultOf(giving.done), await faultOf(taking.done)];
    assert.deepEqual(faults.sort(), ["cancelled", "wrong_digits"]);
    assert.ok(!b.signedIn && !b.hasKey);
    assert.equal((await a.devices()).length, 1);
    await pair(a, b, shownBy); // and a new code works
  });

  for (const who of BOTH) {
    test(`the ${who} may give up and the other is told: shown by the ${shownBy}`, options, async () => {
      const [a, b] = [await first(), await opened()];
      const [giving, taking] = await scanned(a, b, shownBy);
      await Promise.all([giving.digits, taking.digits]);
      (who === "giver" ? giving : taking).cancel();
      assert.deepEqual([await faultOf(giving.done), await faultOf(taking.done)], ["cancelled", "cancelled"]);
      assert.ok(!b.hasKey);
      assert.equal((await a.devices()).length, 1);
    });

    test(`a ${who} that stops gives up its pairing: shown by the ${shownBy}`, options, async () => {
      const [a, b] = [await first(), await opened()];
      const [giving, taking] = await scanned(a, b, shownBy);
      await Promise.all([giving.digits, taking.digits]);
      await (who === "giver" ? a : b).stop();
      assert.deepEqual([await faultOf(giving.done), await faultOf(taking.done)], ["cancelled", "cancelled"]);
    });
  }

  for (const [old, neu] of [["JavaScript", "Python"], ["Python", "JavaScript"], ["Python", "Python"]]) {
    test(`a ${old} device adds a ${neu} one: shown by the ${shownBy}`, options, async () => {
      const givers = old === "Python" ? await firstPython() : new Here(await first());
      const takers = neu === "Python" ? new There(await python()) : new Here(await opened());
      const [shower, scanner] = shownBy === "giver" ? [givers, takers] : [takers, givers];
      const { code, role } = await shower.pair("");
      assert.equal(role, shownBy);
      await scanner.pair(code);
      const digits = await scanner.digits();
      assert.match(digits, /^\d{6}$/);
      assert.equal(await shower.digits(), digits);
      await scanner.agree();
      await shower.confirm(digits);
      assert.equal(await givers.name(), PHONE);
      await Promise.all([givers.done(), takers.done()]);
      assert.equal(await takers.keyCode(), await givers.keyCode());
      await takers.syncedNotes(); // both ways
      assert.equal(await takers.get("first"), "Hello");
      await takers.put("second", "from the new one");
      await until(async () => (await givers.get("second")) === "from the new one");
    });

    test(`wrong digits between ${old} and ${neu}: shown by the ${shownBy}`, options, async () => {
      const givers = old === "Python" ? await firstPython() : new Here(await first());
      const takers = neu === "Python" ? new There(await python()) : new Here(await opened());
      const [shower, scanner] = shownBy === "giver" ? [givers, takers] : [takers, givers];
      await scanner.pair((await shower.pair("")).code);
      const digits = await scanner.digits();
      await shower.digits();
      await scanner.agree();
      await shower.confirm(digits === "000000" ? "000001" : "000000");
      await assert.rejects(shower.done(), /not the six digits/);
      await assert.rejects(scanner.done(), /was cancelled/);
      assert.ok(!(await takers.hasKey()));
    });
  }
}

/** A device of this client, spoken to as the Python one is. */
class Here {
  /** @param {HubClient} client */
  constructor(client) {
    this.client = client;
    /** @type {any} */
    this.handle = null;
  }

  /** @param {string} scannedCode */
  async pair(scannedCode) {
    this.handle = await this.client.pair({ scanned: scannedCode, name: PHONE });
    return { code: this.handle.code, role: this.handle.role };
  }

  digits = () => this.handle.digits;
  name = () => this.handle.takerName;
  agree = () => this.handle.agree();
  /** @param {string} digits */
  confirm = (digits) => this.handle.confirm(digits);
  done = () => this.handle.done;
  keyCode = async () => this.client.keyCode();
  hasKey = async () => this.client.hasKey;
  /** @param {string} key */
  get = async (key) => this.client.collection("notes").get(key);
  /** @param {string} key @param {any} value */
  put = (key, value) => this.client.collection("notes").put(key, value);

  async syncedNotes() {
    this.client.start();
    this.client.collection("notes");
    await this.client.synced(10);
  }
}

/** A device of the Python client. */
class There {
  /** @param {PythonDevice} device */
  constructor(device) {
    this.device = device;
  }

  /** @param {string} scannedCode */
  pair = (scannedCode) => this.device.do("pair", scannedCode, PHONE);
  digits = () => this.device.do("pair_digits");
  name = () => this.device.do("pair_name");
  agree = () => this.device.do("pair_confirm", "");
  /** @param {string} digits */
  confirm = (digits) => this.device.do("pair_confirm", digits);
  done = () => this.device.do("pair_done");
  keyCode = () => this.device.do("key_code");
  hasKey = () => this.device.do("has_key");
  /** @param {string} key */
  get = (key) => this.device.get("notes", key);
  /** @param {string} key @param {any} value */
  put = (key, value) => this.device.put("notes", key, value);

  async syncedNotes() {
    await this.device.do("collection", "notes", "manual");
    await this.device.do("start");
    await this.device.do("synced", 10);
  }
}

async function firstPython() {
  const device = await python();
  await device.do("request_code", ANNA);
  await device.do("enrol", await hub.nextCode());
  await device.do("create_key");
  const there = new There(device);
  await there.syncedNotes();
  await device.put("notes", "first", "Hello");
  await device.do("synced", 10);
  return there;
}

test("a device that was added stays so after a restart and adds the next", options, async () => {
  const a = await first();
  const name = `pairing-again-${process.pid}`;
  const b = await opened({ storage: await IndexedDbStorage.open(name) });
  await pair(a, b, "giver");
  await b.stop();
  const again = await opened({ storage: await IndexedDbStorage.open(name) });
  assert.ok(again.signedIn && again.hasKey);
  again.start();
  await again.synced(10);
  const c = await opened();
  await pair(again, c, "taker");
  assert.equal(c.keyCode(), a.keyCode());
});

test("two devices at one code: the second is told and the first goes on", options, async () => {
  const [a, b, c] = [await first(), await opened(), await opened()];
  const [giving, taking] = await scanned(a, b, "giver");
  const digits = await taking.digits;
  await giving.digits;
  const late = await c.pair({ scanned: giving.code });
  await assert.rejects(late.done, (error) => error instanceof Refusal && /another device uses/.test(error.message));
  await giving.confirm(digits);
  await Promise.all([giving.done, taking.done]);
  assert.ok(b.hasKey && !c.hasKey);
  assert.equal((await a.devices()).length, 2);
});

test("a second device that would add the same one is told", options, async () => {
  const [a, b, c] = [await first(), await opened(), await opened()];
  await pair(a, b, "giver");
  b.start();
  await b.synced(10);
  const [giving, taking] = await scanned(a, c, "taker");
  const digits = await giving.digits;
  await taking.digits;
  const late = await b.pair({ scanned: taking.code });
  await assert.rejects(late.done, (error) => error instanceof Refusal && /another device uses/.test(error.message));
  await giving.agree();
  await taking.confirm(digits);
  await Promise.all([giving.done, taking.done]);
  assert.ok(c.hasKey);
});

test("who has photographed the code and comes first does not get in without the digits", options, async () => {
  const [a, thief, b] = [await first(), await opened(), await opened()];
  const giving = await a.pair();
  const stolen = await thief.pair({ scanned: giving.code, name: PHONE });
  const theirs = await stolen.digits;
  await giving.digits; // so far the giver cannot tell
  const honest = await b.pair({ scanned: giving.code, name: PHONE });
  await assert.rejects(honest.digits, Refusal); // the hub sends the second one away: its screen shows no digits to type
  await giving.confirm(String((Number(theirs) + 1) % 1_000_000).padStart(6, "0"));
  assert.equal(await faultOf(giving.done), "wrong_digits");
  assert.equal(await faultOf(stolen.done), "cancelled");
  assert.ok(!thief.hasKey && (await a.devices()).length === 1);
});

test("a lost line ends the pairing on both sides", options, async () => {
  const [a, b] = [await first(), await opened()];
  const [giving, taking] = await scanned(a, b, "giver");
  await Promise.all([giving.digits, taking.digits]);
  await hub.kill();
  await assert.rejects(giving.done, ConnectionError);
  await assert.rejects(taking.done, ConnectionError);
  await hub.restart();
  await a.synced(20);
  assert.ok(!b.hasKey);
  await pair(a, b, "taker");
});

test("a device that the mail enrolled gets the key and is trusted", options, async () => {
  const [a, b] = [await first(), await opened()];
  await signIn(b);
  const me = b.deviceId;
  const found = async () => (await a.devices()).find((one) => equal(one.deviceId, me));
  assert.ok((await found())?.probationUntil);
  await pair(a, b, "giver");
  assert.deepEqual(b.deviceId, me);
  const info = await found();
  assert.deepEqual([info?.enrolledVia, info?.probationUntil], ["mail", 0]);
});

test("a device on probation adds none", options, async () => {
  const [a, b, c] = [await first(), await opened(), await opened()];
  await signIn(b);
  await b.importKey(a.keyCode());
  b.start();
  await b.synced(10);
  await assert.rejects(b.pair(), (error) => error instanceof Refusal && error.code === "probation");
  await a.approve(b.deviceId);
  await pair(b, c, "giver");
});

test("a device of another account is not taken over", options, async () => {
  const [a, b] = [await first(), await opened()];
  await signIn(b, BEN);
  const [giving, taking] = await scanned(a, b, "giver");
  await giving.confirm(await taking.digits);
  await assert.rejects(giving.done, (error) => error instanceof Refusal && error.code === "device_exists");
  assert.equal(await faultOf(taking.done), "cancelled");
  assert.ok(!b.hasKey);
});

test("a revoked device can be added again with the data it has", options, async () => {
  const [a, b] = [await first(), await opened()];
  await pair(a, b, "giver");
  b.start();
  await b.synced(10);
  await b.collection("notes").put("mine", 1);
  await b.synced(10);
  const old = b.deviceId;
  await b.revoke([old]);
  await until(() => b.status.phase === "blocked");
  await b.collection("notes").put("offline", 2);
  await pair(a, b, "taker");
  assert.notDeepEqual(b.deviceId, old);
  await b.synced(10);
  assert.equal(b.collection("notes").get("mine"), 1);
  await until(() => a.collection("notes").get("offline") === 2);
});

test("a device with other data takes no other key", options, async () => {
  const [a, b] = [await first(), await opened()];
  const mine = await b.createKey();
  await assert.rejects(b.pair(), /has a key of its own/);
  b._engine.device.block("revoked");
  const [giving, taking] = await scanned(a, b, "giver");
  await giving.confirm(await taking.digits);
  assert.equal(await faultOf(taking.done), "other_key");
  assert.equal(b.keyCode(), mine);
});

test("who is not running cannot add a device, and no hub is guessed", options, async () => {
  const a = await opened();
  await signIn(a);
  await a.createKey();
  await assert.rejects(a.pair(), (error) => error instanceof ConnectionError && /start the client/.test(error.message));
  const b = await HubClient.open({ storage: new MemoryStorage(), appId: APP, WebSocket });
  await assert.rejects(b.pair(), /no hub is known/);
});

test("only one pairing at a time, and a code of another kind is refused with a sentence", options, async () => {
  const a = await first();
  const handle = await a.pair();
  assert.deepEqual([handle.role, handle.code.length > 120], ["giver", true]);
  await assert.rejects(a.pair(), /under way/);
  await assert.rejects(a.pair({ scanned: a.keyCode() }), WrongKeyCode);
  await assert.rejects(a.pair({ scanned: handle.code }), (error) => error instanceof RangeError);
  handle.cancel();
  assert.equal(await faultOf(handle.done), "cancelled");
  (await a.pair()).cancel();
});

// --- a hub that lies -------------------------------------------------------------------------

for (const shownBy of BOTH) {
  test(`a hub that swaps the keys of the two is noticed: shown by the ${shownBy}`, options, async () => {
    // It answers each device with an offer of its own, as one who has not seen the code can.
    const swapped = bent({
      came(message) {
        if (message.type === "pairing" && message.body[0] <= 2) message.body[1] ^= 1;
        return message;
      },
    });
    const [a, b] = [await first(), await opened({ WebSocket: swapped })];
    const [giving, taking] = await scanned(a, b, shownBy);
    if (shownBy === "taker") {
      // It showed its code, and cannot tell yet; but no digits are the same, and no name opens.
      assert.notEqual(await taking.digits, await giving.digits);
      await taking.confirm(await taking.digits);
      await giving.agree();
    }
    const faults = [await faultOf(giving.done), await faultOf(taking.done)];
    assert.deepEqual(faults.sort(), ["cancelled", "interfered"]);
    assert.ok(!b.hasKey && (await a.devices()).length === 1);
  });

  test(`a hub that swaps the account of the giver is noticed: shown by the ${shownBy}`, options, async () => {
    const swapped = bent({
      came(message) {
        if (message.type === "pairing" && message.body[0] === 1) message.body[33] ^= 1;
        return message;
      },
    });
    const [a, b] = [await first(), await opened({ WebSocket: swapped })];
    const [giving, taking] = await scanned(a, b, shownBy);
    const digits = await taking.digits;
    if (shownBy === "taker") {
      assert.notEqual(await giving.digits, digits);
      await taking.confirm(digits);
      await giving.agree();
    }
    const faults = [await faultOf(giving.done), await faultOf(taking.done)];
    assert.deepEqual(faults.sort(), ["cancelled", "interfered"]);
    assert.ok(!b.hasKey && (await a.devices()).length === 1);
  });
}

test("a hub that puts the device into another account is noticed", options, async () => {
  const lying = bent({
    came: (message) => (message.type === "ready" ? { ...message, accountId: new Uint8Array(16).fill(0xee) } : message),
  });
  const [a, b] = [await first(), await opened({ WebSocket: lying })];
  const [giving, taking] = await scanned(a, b, "giver");
  await giving.confirm(await taking.digits);
  assert.equal(await faultOf(taking.done), "other_account");
  assert.equal(await faultOf(giving.done), "cancelled");
  assert.ok(!b.hasKey && !b.signedIn);
});

test("frames of an earlier pairing, played again, get no key", options, async () => {
  /** @type {any[]} */
  const seen = [];
  const listening = bent({
    came(message) {
      if (message.type === "pairing") seen.push(message);
      return message;
    },
  });
  const [a, b] = [await first(), await opened({ WebSocket: listening })];
  await pair(a, b, "giver");
  assert.ok(seen.some(({ body }) => body[0] === 4));
  const replaying = bent({
    came(message) {
      const earlier = message.type === "pairing" && seen.find(({ body }) => body[0] === message.body[0]);
      return earlier ? { ...message, body: earlier.body } : message;
    },
  });
  const c = await opened({ WebSocket: replaying });
  const [giving, taking] = await scanned(a, c, "giver");
  assert.equal(await faultOf(taking.done), "interfered");
  assert.equal(await faultOf(giving.done), "cancelled");
  assert.ok(!c.hasKey && (await a.devices()).length === 2);
});

test("a hub that hides what the giver had is noticed by a brand-new device", options, async () => {
  const a = await first();
  await a.collection("notes").put("second", 2);
  await a.synced(10);
  const b = await opened();
  await pair(a, b, "giver");
  const { incarnation, heads } = a._engine.device.heads;
  const [[collectionId, seq]] = heads;
  const { device } = b._engine;
  assert.deepEqual([seq, device.grantedSeq(incarnation, collectionId)], [2, 2]);
  assert.equal(device.grantedSeq(new Uint8Array(16), collectionId), 0); // another life of the log
  assert.equal(device.grantedSeq(incarnation, new Uint8Array(16)), 0);
  // As if the giver had stood one further than what the hub shows.
  device.keepGranted(incarnation, [[collectionId, 3]]);
  b.collection("notes");
  b.start();
  await until(() => b.status.alarms.length);
  assert.deepEqual([b.status.alarms[0].name, b.status.phase], ["rollback", "alarm"]);
  assert.equal(b.collection("notes").get("first"), undefined);
  await b.forgetAlarms(); // a person has seen it, and wants what there is
  await until(() => b.status.phase === "synced");
  assert.equal(b.collection("notes").get("first"), "Hello");
  assert.deepEqual(b.status.alarms, []);
});

test("a device that waits shows that it lives", options, async () => {
  // A proxy between it and the hub cuts a line on which nothing passes.
  let pings = 0;
  const counting = bent({ sent: (message) => ((pings += message.type === "ping" ? 1 : 0), message) });
  mock.timers.enable({ apis: ["setInterval"] });
  try {
    const b = await opened({ WebSocket: counting });
    const handle = await b.pair();
    mock.timers.tick(SIGN_OF_LIFE_EVERY_S * 3000);
    assert.equal(pings, 3);
    handle.cancel();
    await assert.rejects(handle.done);
    mock.timers.tick(SIGN_OF_LIFE_EVERY_S * 3000);
    assert.equal(pings, 3);
  } finally {
    mock.timers.reset();
  }
});

// --- the handle alone ------------------------------------------------------------------------

const HUB_URL = "wss://hub.example.org/v1/ws";
const ME = { deviceId: new Uint8Array(16).fill(1), devicePk: new Uint8Array(32).fill(2), appId: APP, hubUrl: HUB_URL };
const HIM = { ...ME, deviceId: new Uint8Array(16).fill(3) };
const fresh = (/** @type {number} */ size) => crypto.getRandomValues(new Uint8Array(size));

/** A handle on a line that only notes; its time is `steady`. */
function alone({ steady = 0, vouch = async () => undefined } = {}) {
  const ids = { spaceId: fresh(16), keyId: fresh(16), incarnation: fresh(16) };
  const grant = { ...ids, keyEpoch: 0, appKey: fresh(32), heads: [] };
  const giver = new Giver(ME, fresh(16), grant, { fresh, now: 0 });
  /** @type {Uint8Array[]} */
  const handed = [];
  const line = { hand: (/** @type {Uint8Array} */ body) => void handed.push(body), vouch, take: async () => undefined };
  const handle = new PairingHandle(giver, line, () => steady);
  handle.begin();
  const taker = new Taker(HIM, PHONE, { fresh, now: 0, scanned: parsePairingCode(handle.code) });
  const offer = () => {
    const [hand] = taker.begin();
    assert.ok(hand instanceof Hand);
    handle.came(hand.body);
  };
  const name = async () => {
    await until(() => handed.length);
    const [hand] = taker.received(handed[0]);
    assert.ok(hand instanceof Hand);
    handle.came(hand.body);
  };
  return { handle, handed, taker, offer, name };
}

test("time runs out for a code that nobody scans", async () => {
  const { handle, handed } = alone({ steady: WITHIN_S - 0.05 });
  await assert.rejects(handle.digits, /took too long/);
  assert.equal(await faultOf(handle.done), "expired");
  assert.deepEqual(handed.map(hex), ["06"]); // the other device is told
  await assert.rejects(handle.takerName, /took too long/);
});

test("who gives up while the hub enrols the other device gives it no key", async () => {
  /** @type {() => void} */
  let enrolled = () => undefined;
  const under = { way: false };
  const vouch = () => new Promise((done) => ((under.way = true), (enrolled = () => done(undefined))));
  const { handle, handed, offer, name } = alone({ vouch });
  offer();
  await name();
  await handle.confirm(await handle.digits);
  await until(() => under.way);
  handle.cancel();
  enrolled();
  assert.equal(await faultOf(handle.done), "cancelled");
  await handle._work;
  assert.deepEqual(handed.map((body) => body[0]), [1, 6]);
});

test("a line that fails ends the pairing with what it said", async () => {
  const refused = new Refusal("too_many");
  const { handle, handed, offer, name } = alone({ vouch: () => Promise.reject(refused) });
  offer();
  await name();
  await handle.confirm(await handle.digits);
  await assert.rejects(handle.done, (error) => error === refused);
  assert.deepEqual(handed.map((body) => body[0]), [1, 6]);
});

test("agreeing needs no digits only where the code was scanned", async () => {
  const { handle } = alone();
  await assert.rejects(handle.agree(), /the digits are typed/);
  handle.cancel();
  await assert.rejects(handle.confirm("123456"), /was cancelled/);
});

test("the curves are loaded for a pairing alone", () => {
  const seen = new Set();
  const look = (/** @type {string} */ path) => {
    if (seen.has(path)) return;
    seen.add(path);
    const text = readFileSync(new URL(path, import.meta.url), "utf8");
    for (const [, name] of text.matchAll(/^(?:import|export)\b[^;]*?\bfrom "([^"]+)";/gm)) {
      if (name.startsWith(".")) look(new URL(name, new URL(path, import.meta.url)).href);
      else seen.add(name);
    }
  };
  look(new URL("../src/index.js", import.meta.url).href);
  const names = [...seen].map((path) => path.split("/src/").at(-1));
  assert.ok(names.includes("engine.js") && names.includes("@noble/hashes/sha2.js"));
  const lazy = names.filter((name) => /curves|^pairing\.js|^adding\.js/.test(name));
  assert.deepEqual(lazy, []);
});
