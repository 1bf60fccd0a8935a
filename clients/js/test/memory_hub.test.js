/**
 * The memory hub answers as the real one does: the same words from a device that keeps to no rule, and the same
 * answers, refusals and closings from both.  And what the memory hub alone offers to tests.
 */

import assert from "node:assert/strict";
import { test } from "node:test";

import { equal, hex, utf8 } from "../src/bytes.js";
import { canonicalUrl } from "../src/connection.js";
import { HubClient, MemoryStorage } from "../src/index.js";
import { SpaceKeys } from "../src/keys.js";
import { pack } from "../src/msgpack.js";
import { recordPlaintext, seal } from "../src/sealing.js";
import { SigningKey } from "../src/signing.js";
import { Kind, LIMITS, ZERO_ID } from "../src/terms.js";
import { MemoryHub } from "../src/testing/index.js";
import { encodeBody } from "../src/values.js";
import { decodeFromHub, encode } from "../src/wire/codec.js";
import { HUBS } from "./hubs.js";

const APP = "org.example.notes";
const ANNA = "anna@example.org";
const fresh = (/** @type {number} */ size) => crypto.getRandomValues(new Uint8Array(size));

// --- a device that says what it likes --------------------------------------------------------

/** One device, its key and one connection at a time; what it hears is kept in order. */
class Raw {
  /** @param {any} hub */
  static async make(hub) {
    const raw = new Raw();
    return Object.assign(raw, { hub, key: await SigningKey.generate(fresh), deviceId: fresh(16) });
  }

  /** @type {any} */ hub;
  /** @type {any} */ key;
  /** @type {any} */ deviceId;
  /** @type {any} */ socket;
  /** @type {any[]} */ heard = [];
  request = 0;
  closedWith = 0;
  /** @type {(() => void)[]} */
  waiting = [];

  get url() {
    return canonicalUrl(this.hub.url);
  }

  /** Dial, and say hello.  @param {any} [hello] */
  async greet(hello = {}) {
    await this.dial();
    this.hello = encode({ type: "hello", v: [1], deviceId: this.deviceId, clientNonce: fresh(32), ...hello });
    this.socket.send(this.hello);
    await this.until(() => this.challenge || this.closedWith);
    return this;
  }

  async dial() {
    Object.assign(this, { heard: [], challenge: null, closedWith: 0 });
    const socket = new this.hub.WebSocket(this.url, ["hub.v1"]);
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onmessage = (/** @type {any} */ event) => this.hear(new Uint8Array(event.data));
    socket.onclose = (/** @type {any} */ event) => {
      if (socket === this.socket) this.closedWith = event.code;
      this.ring();
    };
    await new Promise((done) => (socket.onopen = done));
  }

  /** @param {Uint8Array} frame */
  hear(frame) {
    const message = decodeFromHub(frame);
    if (message.type === "challenge") this.challenge = frame;
    else this.heard.push(message);
    this.ring();
  }

  ring() {
    for (const done of this.waiting.splice(0)) done();
  }

  /** @param {() => unknown} holds */
  async until(holds) {
    while (!holds()) await new Promise((done) => this.waiting.push(() => done(undefined)));
  }

  /** @param {"auth" | "enrol"} purpose */
  proof(purpose) {
    return this.key.proof(purpose, this.url, this.hello, this.challenge);
  }

  /** @param {SpaceKeys} keys @param {Uint8Array} [spaceId] */
  spaceProof(keys, spaceId = keys.spaceId) {
    const about = new Uint8Array([...this.challenge, ...spaceId]);
    return keys.signingKey.proof("space", this.url, /** @type {any} */ (this.hello), about);
  }

  /** What the hub answers, or how it ends the connection.  @param {any} message */
  async ask(message) {
    this.request += 1;
    const { request } = this;
    this.socket.send(encode({ request, ...message }));
    const isAnswer = (/** @type {any} */ one) => one.request === request || ["ready", "pong"].includes(one.type);
    await this.until(() => this.closedWith || this.heard.some(isAnswer));
    const at = this.heard.findIndex(isAnswer);
    return at < 0 ? { type: "closed", code: this.closedWith } : this.heard.splice(at, 1)[0];
  }

  /** Enrol by mail.  @param {string} address */
  async enrol(address) {
    await this.greet();
    const asked = { type: "request_code", address, devicePk: this.key.publicKey, appId: APP };
    const { attemptId } = await this.ask(asked);
    const signature = await this.proof("enrol");
    const { publicKey: devicePk } = this.key;
    return this.ask({ type: "enrol", attemptId, code: await this.hub.nextCode(), devicePk, signature });
  }

  /** Make the space of this key, or enter it.  @param {SpaceKeys} keys */
  async createSpace(keys) {
    const { spaceId, spacePk } = keys;
    return this.ask({ type: "create_space", spaceId, appId: APP, spacePk, signature: await this.spaceProof(keys) });
  }

  close() {
    this.socket.onclose = null;
    this.socket.close();
  }
}

/** What can be told apart in an answer from either hub. */
function told(/** @type {any} */ message) {
  const { type, code, seq, newestSeq, newestId, answers, collections, changes, spaces, more, days } = message;
  const known = { type, code, seq, newestSeq, newestId: newestId && hex(newestId), more, days };
  const parts = {
    answers: answers?.map(told),
    collections: collections?.map((/** @type {any} */ one) => [one.head, one.after, one.counter]),
    changes: changes?.map((/** @type {any} */ one) => one.seq),
    spaces: spaces?.map((/** @type {any} */ one) => [one.appId, one.usedBytes, one.changes, one.collections, one.deletedAt > 0]),
  };
  return Object.fromEntries(Object.entries({ ...known, ...parts }).filter(([, value]) => value !== undefined));
}

/**
 * What both hubs answer to the same words; they must not differ.
 *
 * @param {string} name
 * @param {(hub: any, say: (what: string, answer: any) => void) => Promise<void>} script
 */
function alike(name, script) {
  const skip = HUBS.some((kind) => kind.skip) && "there is no real hub to compare with";
  test(name, { skip, timeout: 60_000 }, async () => {
    const [real, memory] = await Promise.all(
      HUBS.map(async ({ start }) => {
        const hub = await start();
        /** @type {any[]} */
        const said = [];
        await script(hub, (what, answer) => said.push([what, told(answer)]));
        await hub.end();
        return said;
      }),
    );
    assert.ok(real.length > 2);
    assert.deepEqual(memory, real);
  });
}

alike("strangers are closed on by the same numbers", async (hub, say) => {
  const raw = await Raw.make(hub);
  await raw.greet();
  say("a device nobody knows", await raw.ask({ type: "auth", signature: await raw.proof("auth") }));
  await raw.greet({ v: [99] });
  say("another version", { type: "closed", code: raw.closedWith });
  await raw.greet();
  say("an append before auth", await raw.ask({ type: "append", spaceId: ZERO_ID, drafts: [new Uint8Array(1)] }));
  await raw.dial();
  say("no hello", await raw.ask({ type: "list_devices" }));
  await raw.greet();
  raw.socket.send(pack(["no", "map"]));
  await raw.until(() => raw.closedWith);
  say("no message", { type: "closed", code: raw.closedWith });
});

alike("codes are right once, by the device that asked, before they are used up", async (hub, say) => {
  const raw = await Raw.make(hub);
  await raw.greet();
  const { publicKey: devicePk } = raw.key;
  say("no address", await raw.ask({ type: "request_code", address: "nobody", devicePk, appId: APP }));
  const low = new Uint8Array(32);
  say("no key", await raw.ask({ type: "request_code", address: ANNA, devicePk: low, appId: APP }));
  const sent = await raw.ask({ type: "request_code", address: ANNA, devicePk, appId: APP });
  say("a code", sent);
  const code = await hub.nextCode();
  const { attemptId } = sent;
  const signature = await raw.proof("enrol");
  const wrong = String((Number(code) + 1) % 10 ** 8).padStart(8, "0");
  say("wrong", await raw.ask({ type: "enrol", attemptId, code: wrong, devicePk, signature }));
  say("unproved", await raw.ask({ type: "enrol", attemptId, code, devicePk, signature: fresh(64) }));
  say("no attempt", await raw.ask({ type: "enrol", attemptId: fresh(16), code, devicePk, signature }));
  const spaced = `${code.slice(0, 4)} ${code.slice(4)}`;
  say("right", await raw.ask({ type: "enrol", attemptId, code: spaced, devicePk, signature }));
  const again = await Raw.make(hub);
  Object.assign(again, { key: raw.key });
  await again.greet();
  say("used", await again.ask({ type: "enrol", attemptId, code, devicePk, signature: await again.proof("enrol") }));
  const more = await again.ask({ type: "request_code", address: ANNA, devicePk, appId: APP });
  const proof = await again.proof("enrol");
  const used = { attemptId: more.attemptId, code: await hub.nextCode(), devicePk, signature: proof };
  say("a key that is taken", await again.ask({ type: "enrol", ...used }));
  again.close();
  raw.close();
});

alike("spaces are entered by their own key", async (hub, say) => {
  const raw = await Raw.make(hub);
  await raw.enrol(ANNA);
  const [keys, others] = await Promise.all([SpaceKeys.derive(fresh(32)), SpaceKeys.derive(fresh(32))]);
  const { spaceId, spacePk } = keys;
  const cursor = { collectionId: fresh(16), incarnation: ZERO_ID, seq: 0 };
  const enter = { type: "enter", spaces: [{ spaceId, keyEpoch: 0, signature: await raw.spaceProof(keys) }] };
  say("before it is there", await raw.ask(enter));
  say("following it", await raw.ask({ type: "subscribe", spaceId, cursors: [cursor] }));
  const signature = await raw.spaceProof(others);
  say("another's proof", await raw.ask({ type: "create_space", spaceId, appId: APP, spacePk, signature }));
  const mine = await raw.spaceProof(keys);
  const taken = { spaceId: others.spaceId, spacePk, signature: await raw.spaceProof(keys, others.spaceId) };
  say("another's id", await raw.ask({ type: "create_space", appId: APP, ...taken }));
  say("another app", await raw.ask({ type: "create_space", spaceId, appId: "org.other", spacePk, signature: mine }));
  say("made", await raw.createSpace(keys));
  say("made again", await raw.createSpace(keys));
  await raw.greet();
  await raw.ask({ type: "auth", signature: await raw.proof("auth") });
  say("not entered on this line", await raw.ask({ type: "collections", spaceId }));
  const bad = { type: "enter", spaces: [{ spaceId, keyEpoch: 0, signature: fresh(64) }] };
  say("entering without the key", await raw.ask(bad));
  const later = { spaceId, keyEpoch: 1, signature: await raw.spaceProof(keys) };
  say("a later key", await raw.ask({ type: "enter", spaces: [later] }));
  say("entering", await raw.ask({ type: "enter", spaces: [{ ...later, keyEpoch: 0 }] }));
  say("its collections", await raw.ask({ type: "collections", spaceId }));
  say("following", await raw.ask({ type: "subscribe", spaceId, cursors: [cursor] }));
  say("no more", await raw.ask({ type: "unsubscribe", spaceId, collectionIds: [cursor.collectionId] }));
  say("listed", await raw.ask({ type: "list_spaces" }));
  say("what happened", await raw.ask({ type: "list_audit" }));
  const { deletedAt, ...later_ } = await raw.ask({ type: "delete_space", spaceId, later: true });
  say("deleted later", { ...later_, days: Math.round((deletedAt - Date.now() / 1000) / 86_400) });
  say("listed", await raw.ask({ type: "list_spaces" }));
  say("kept", await raw.ask({ type: "cancel_deletion", spaceId }));
  say("kept already", await raw.ask({ type: "cancel_deletion", spaceId }));
  say("nothing to keep", await raw.ask({ type: "cancel_deletion", spaceId: fresh(16) }));
  say("deleted", await raw.ask({ type: "delete_space", spaceId }));
  say("gone", await raw.ask({ type: "collections", spaceId }));
  raw.close();
});

alike("drafts are judged alike", async (hub, say) => {
  const raw = await Raw.make(hub);
  await raw.enrol(ANNA);
  const keys = await SpaceKeys.derive(utf8("k".repeat(32)));
  await raw.createSpace(keys);
  const { spaceId } = keys;
  const collectionId = keys.collectionId("notes");
  const recordId = keys.recordId(collectionId, "x");
  const draft = (/** @type {any} */ { n = 0, key = "x", ...more }) =>
    seal(keys, {
      kind: Kind.PUT, flagsConditional: false, collectionId, recordId, changeId: new Uint8Array(16).fill(n),
      deviceId: raw.deviceId, counter: n, base: ZERO_ID, plaintext: recordPlaintext(key, encodeBody(n)),
      nonce: new Uint8Array(24), ...more,
    });
  const append = (/** @type {Uint8Array[]} */ drafts, atomic = false) =>
    raw.ask({ type: "append", spaceId, drafts, atomic });
  const first = draft({ n: 1 });
  say("no draft", await append([new Uint8Array(200)]));
  say("another device's", await append([draft({ n: 1, deviceId: fresh(16) })]));
  say("another key's", await append([seal(await SpaceKeys.derive(fresh(32)), headerOf(first, keys))]));
  say("too large", await append([new Uint8Array(LIMITS.draftBytesMax + 1)]));
  say("the second first", await append([draft({ n: 2 })]));
  say("the first", await append([first]));
  say("once more", await append([first]));
  say("other bytes", await append([draft({ n: 1, plaintext: recordPlaintext("x", encodeBody("other")) })]));
  const conditional = { flagsConditional: true, base: fresh(16) };
  say("a wrong base", await append([draft({ n: 2, ...conditional })]));
  const second = draft({ n: 2, flagsConditional: true, base: new Uint8Array(16).fill(1) });
  const third = draft({ n: 3, ...conditional });
  say("all or nothing", await append([second, third], true));
  say("where it stands", await raw.ask({ type: "collections", spaceId }));
  say("each for itself", await append([second, third, draft({ n: 3, kind: Kind.DELTA })]));
  const empty = recordPlaintext("x", new Uint8Array(0));
  say("a tombstone", await append([draft({ n: 4, kind: Kind.DELETE, plaintext: empty })]));
  say("where it stands", await raw.ask({ type: "collections", spaceId }));
  say("history", await raw.ask({ type: "read_history", spaceId, collectionId, recordId, limit: 3 }));
  say("older", await raw.ask({ type: "read_history", spaceId, collectionId, recordId, before: 2, limit: 3 }));
  const about = { recordId: ZERO_ID, plaintext: new Uint8Array(0) };
  const purge = draft({ n: 5, kind: Kind.PURGE, base: new Uint8Array([...new Uint8Array(15), 9]), ...about });
  say("a purge", await append([purge]));
  const cursor = { collectionId, incarnation: ZERO_ID, seq: 0, liveOnly: true };
  say("a cold reader", await raw.ask({ type: "subscribe", spaceId, cursors: [cursor] }));
  await raw.until(() => raw.heard.some(({ type }) => type === "changes"));
  say("what it reads", raw.heard.find(({ type }) => type === "changes"));
  say("a wipe", await append([draft({ n: 6, kind: Kind.WIPE, ...about })]));
  say("what was wiped", await append([first]));
  say("after it", await append([draft({ n: 7 })]));
  say("no witness", await raw.ask({ type: "witness", spaceId, collectionId, witness: first }));
  raw.close();
});

/** The fields of a sealed change, to be sealed once more.  @param {Uint8Array} sealed @param {SpaceKeys} keys */
function headerOf(sealed, keys) {
  const id = (/** @type {number} */ at) => sealed.slice(at, at + 16);
  assert.ok(equal(id(8), keys.spaceId));
  return {
    kind: Kind.PUT, flagsConditional: false, collectionId: id(24), recordId: id(40), changeId: id(56),
    deviceId: id(72), counter: 1, base: ZERO_ID, plaintext: recordPlaintext("x", encodeBody(1)), nonce: fresh(24),
  };
}

alike("devices have the same rights", async (hub, say) => {
  const [first, second] = [await Raw.make(hub), await Raw.make(hub)];
  say("the first", await first.enrol(ANNA));
  say("the second", await second.enrol(ANNA));
  const { deviceId } = second;
  const listed = async () => {
    const { devices } = await first.ask({ type: "list_devices" });
    const shown = (/** @type {any} */ one) => [one.enrolledVia, one.probationUntil > 0, one.scope];
    return devices.map(shown);
  };
  say("listed", { type: JSON.stringify(await listed()) });
  say("on probation", await second.ask({ type: "revoke_devices", deviceIds: [first.deviceId] }));
  say("approving itself", await second.ask({ type: "approve_device", deviceId }));
  say("nobody", await first.ask({ type: "approve_device", deviceId: fresh(16) }));
  say("approved", await first.ask({ type: "approve_device", deviceId }));
  say("listed", { type: JSON.stringify(await listed()) });
  say("the account", await second.ask({ type: "delete_account" }));
  const elsewhere = await Raw.make(hub);
  Object.assign(elsewhere, { key: second.key, deviceId });
  await elsewhere.greet();
  say("the same device elsewhere", await elsewhere.ask({ type: "auth", signature: await elsewhere.proof("auth") }));
  await second.until(() => second.closedWith);
  say("the former line", { type: "closed", code: second.closedWith });
  say("revoked", await first.ask({ type: "revoke_devices", deviceIds: [deviceId] }));
  await elsewhere.until(() => elsewhere.closedWith);
  say("its line", { type: "closed", code: elsewhere.closedWith });
  await second.greet();
  say("come back", await second.ask({ type: "auth", signature: await second.proof("auth") }));
  const refusal = async (/** @type {Uint8Array} */ frame) => {
    first.heard = [];
    first.socket.send(frame);
    await first.until(() => first.heard.some(({ type }) => type === "refused"));
    return first.heard.find(({ type }) => type === "refused");
  };
  say("a message of a later device", await refusal(pack({ type: "of a later device", request: 77 })));
  say("a field out of bounds", await refusal(pack({ type: "revoke_devices", request: 78, device_ids: [] })));
  say("out of turn", await refusal(encode({ type: "auth", signature: fresh(64) })));
  first.close();
});

// --- what it offers to tests -----------------------------------------------------------------

const options = { timeout: 20_000 };

/** @param {MemoryHub} memory @param {{ key?: string, address?: string }} [how] */
async function device(memory, { key = "", address = ANNA } = {}) {
  const around = { appId: APP, hubUrl: memory.url, ...memory.surroundings };
  const client = await HubClient.open({ storage: new MemoryStorage(), ...around });
  await client.requestCode(address);
  await client.enrol(memory.lastCode(address));
  if (key) await client.importKey(key);
  else await client.createKey();
  client.start();
  return client;
}

test("it has seen the address and the names of nothing, and never a text", options, async () => {
  const memory = new MemoryHub();
  const a = await device(memory);
  await a.collection("chapters").put("first", { title: "Dusk" });
  await a.synced(5);
  assert.equal(memory.hasSeen(ANNA), true);
  assert.equal(memory.hasSeen(APP), true);
  for (const secret of ["Dusk", "title", "first", "chapters"]) assert.equal(memory.hasSeen(secret), false, secret);
  await a.stop();
});

test("while it is cut nobody reaches it, and mended everybody comes back at once", options, async () => {
  const memory = new MemoryHub();
  const a = await device(memory);
  const b = await device(memory, { key: a.keyCode() });
  const notes = b.collection("notes");
  await Promise.all([a.synced(5), b.synced(5)]);
  let online = 0;
  memory.surroundings.page.on("online", () => (online += 1));
  memory.cut();
  assert.deepEqual(memory.lines, []);
  await a.collection("notes").put("k", 1);
  await assert.rejects(a.requestCode("else@example.org"), { name: "ConnectionError" });
  assert.equal(a.status.unsynced, 1);
  const before = performance.now();
  memory.mend();
  await Promise.all([a.stop(), b.synced(5)]);
  assert.ok(performance.now() - before < 2_000);
  assert.equal(online, 1);
  assert.equal(notes.get("k"), undefined); // a became a new device, and has not enrolled
  await b.stop();
});

test("locks of two names are two locks, and each is passed on in turn", options, async () => {
  const { locks } = new MemoryHub().surroundings;
  /** @type {string[]} */
  const held = [];
  const turn = () => new Promise((done) => setImmediate(done));
  const hold = (/** @type {string} */ name, /** @type {string} */ who) =>
    locks.request(name, {}, () => (held.push(who), new Promise((done) => void (release[who] = done))));
  /** @type {Record<string, (value?: unknown) => void>} */
  const release = {};
  const ends = [hold("laptop", "one"), hold("laptop", "two"), hold("phone", "three")];
  await turn();
  assert.deepEqual(held, ["one", "three"]);
  release.one();
  await turn();
  assert.deepEqual(held, ["one", "three", "two"]);
  release.two();
  release.three();
  await Promise.all(ends);
});

test("people do not meet", options, async () => {
  const memory = new MemoryHub();
  const a = await device(memory);
  const b = await device(memory, { address: "Bert@Example.org" });
  await a.collection("notes").put("k", 1);
  await Promise.all([a.synced(5), b.synced(5)]);
  assert.deepEqual(b.collection("notes").items(), []);
  assert.equal((await b.devices()).length, 1);
  assert.equal(memory.lastMail("bert@example.org").address, "bert@example.org");
  assert.throws(() => memory.lastCode("nobody@example.org"), /no code was mailed/);
  await Promise.all([a.stop(), b.stop()]);
});

test("a full account takes deletes only, and everything again when there is room", options, async () => {
  const memory = new MemoryHub();
  const a = await device(memory);
  const notes = a.collection("notes");
  await a.whenAppended(await notes.put("k", "v".repeat(5_000)));
  memory.quotaBytes = 6_000;
  const waits = await notes.put("l", "v".repeat(5_000));
  await a.whenAppended(await notes.delete("k"));
  assert.equal(a.status.unsynced, 1);
  memory.quotaBytes = 60_000;
  await a.turnOff();
  await a.turnOn();
  await a.whenAppended(waits);
  await a.stop();
});
