/**
 * A world of engines around one small honest hub, over lists instead of sockets.
 *
 * `TestHub` speaks the protocol's real messages and checks every proof, with Node's own Ed25519.
 * `World` moves one frame at a time, so that a test may cut any line between any two steps,
 * kill a device and start it again from its storage, or let the hub lie.
 */

import assert from "node:assert/strict";
import { createPrivateKey, createPublicKey, sign, verify } from "node:crypto";

import { concat, equal, hex, utf8 } from "../src/bytes.js";
import { Answered, Changed, Hangup, Send, Sign, SignalCame, Wiped } from "../src/device.js";
import { Engine } from "../src/engine.js";
import { SpaceKeys, hkdf } from "../src/keys.js";
import { LABEL, proofMessage } from "../src/signing.js";
import { MemoryStorage } from "../src/storage.js";
import { lastWriterWins } from "../src/strategies.js";
import { COLLECTION_KINDS, Kind, LIMITS, ZERO_ID, wireName } from "../src/terms.js";
import { decodeFromDevice, decodeFromHub, encode } from "../src/wire/codec.js";
import { parseHeader } from "../src/wire/header.js";
import { Seeded } from "./seeded.js";

export const HUB_URL = "ws://hub.test/v1/ws";
export const APP_ID = "org.example.notes";
export const ACCOUNT = utf8("A".repeat(16));
const APP_KEY = utf8("k".repeat(32));
export const KEYS = await SpaceKeys.derive(APP_KEY);
const NO_BYTES = new Uint8Array(0);
const PKCS8 = Buffer.from("302e020100300506032b657004220420", "hex"); // what precedes the seed, RFC 8410 §7

/** A key of a 32-byte seed that signs at once. */
export class TestKey {
  constructor(seed) {
    this._private = createPrivateKey({ key: Buffer.concat([PKCS8, seed]), format: "der", type: "pkcs8" });
    this.public = createPublicKey(this._private);
  }

  sign(bytes) {
    return new Uint8Array(sign(null, bytes, this._private));
  }
}

const SPACE_KEY = new TestKey(hkdf(APP_KEY, NO_BYTES, concat(LABEL, utf8("space-auth"))));

/** One collection's log. */
export class Log {
  constructor() {
    this.head = 0;
    this.kept = new Map(); // sealed by seq
    this.live = new Map(); // seqs by record id
    this.counters = new Map(); // last by device
    this.receipts = new Map(); // { seq, sealed } by device and counter
    this.witnesses = new Map(); // by device
  }

  copy() {
    const twin = new Log();
    twin.head = this.head;
    for (const table of ["kept", "counters", "receipts", "witnesses"]) twin[table] = new Map(this[table]);
    twin.live = new Map([...this.live].map(([recordId, seqs]) => [recordId, [...seqs]]));
    return twin;
  }

  newest(recordId) {
    const seq = this.live.get(hex(recordId))?.at(-1);
    return seq ? [seq, parseHeader(this.kept.get(seq)).changeId] : [0, ZERO_ID];
  }

  /** The answer, and whether the draft got a place. */
  append(sealed) {
    const header = parseHeader(sealed);
    const device = hex(header.deviceId);
    const receipt = `${device} ${header.counter}`;
    const last = this.counters.get(device) ?? 0;
    if (header.counter <= last) return [this._again(this.receipts.get(receipt), sealed), false];
    if (header.counter !== last + 1) return [{ code: "out_of_order" }, false];
    const [newestSeq, newestId] = this.newest(header.recordId);
    if (header.conditional && !equal(header.base, newestId)) return [{ code: "conflict", newestSeq, newestId }, false];
    this.head += 1;
    this._makeLive(header);
    this.kept.set(this.head, sealed);
    this.counters.set(device, header.counter);
    this.receipts.set(receipt, { seq: this.head, sealed });
    return [{ seq: this.head }, true];
  }

  _again(first, sealed) {
    if (!equal(first.sealed, sealed)) return { code: "device_cloned" };
    return first.seq ? { seq: first.seq } : { code: "wiped" };
  }

  _makeLive(header) {
    if (header.kind === Kind.WIPE) {
      this.kept.clear();
      this.live.clear();
      for (const [at, { sealed }] of this.receipts) this.receipts.set(at, { seq: 0, sealed });
    } else if (header.kind === Kind.PURGE) {
      this._purge(header.upto);
    } else if (header.kind === Kind.DELTA) {
      this.live.set(hex(header.recordId), [...(this.live.get(hex(header.recordId)) ?? []), this.head]);
    } else {
      this.live.set(hex(header.recordId), [this.head]);
    }
  }

  _purge(upto) {
    for (const [recordId, seqs] of this.live) {
      const gone = seqs.filter((seq) => seq <= upto && parseHeader(this.kept.get(seq)).kind === Kind.DELETE);
      this.live.set(recordId, seqs.filter((seq) => !gone.includes(seq)));
      for (const seq of gone) this.kept.delete(seq);
    }
  }

  liveSeqs() {
    const seqs = new Set([...this.live.values()].flat());
    for (const [seq, sealed] of this.kept) if (COLLECTION_KINDS.has(parseHeader(sealed).kind)) seqs.add(seq);
    return seqs;
  }

  compact() {
    const live = this.liveSeqs();
    for (const seq of [...this.kept.keys()]) if (!live.has(seq)) this.kept.delete(seq);
  }
}

/** The hub's end of one connection. */
export class Line {
  constructor(hub, deviceId) {
    this.hub = hub;
    this.deviceId = deviceId;
    this.out = [];
    this.hello = this.challenge = NO_BYTES;
    this.entered = new Set();
    this.subscriptions = new Map(); // { sent, liveOnly } by collection id
    this.own = new Set();
  }

  say(message) {
    this.out.push(encode(message));
  }

  take(frame) {
    const message = decodeFromDevice(frame);
    this.hub.heard.push({ deviceId: this.deviceId, message });
    const code = this.hub.refuseOnce.get(message.type);
    if (code) {
      this.hub.refuseOnce.delete(message.type);
      this.refuse(message, code, true, 1.0);
      return;
    }
    this[`on_${message.type}`](message, frame);
  }

  on_hello(message, frame) {
    this.hello = frame;
    const limits = this.hub.limits;
    const serverNonce = utf8("n".repeat(32));
    this.challenge = encode({ type: "challenge", v: 1, serverNonce, features: [], limits, signUp: "open" });
    this.out.push(this.challenge);
  }

  on_auth(message) {
    const proof = proofMessage("auth", HUB_URL, this.hello, this.challenge);
    assert.ok(verify(null, proof, this.hub.devices.get(hex(this.deviceId)), message.signature), "the device's proof");
    const spaces = [...this.hub.spaces.values()].map(({ spaceId }) => spaceInfo(spaceId));
    const { incarnation } = this.hub;
    this.say({
      type: "ready", accountId: ACCOUNT, incarnation, serverTime: 0, heartbeatS: 25, scope: "app", appId: APP_ID,
      quotaBytes: 0, usedBytes: 0, spaces,
    });
  }

  mustBeProved(spaceId, signature) {
    const proof = proofMessage("space", HUB_URL, this.hello, concat(this.challenge, spaceId));
    assert.ok(verify(null, proof, SPACE_KEY.public, signature), "the space's proof");
  }

  on_create_space({ request, spaceId, signature }) {
    this.mustBeProved(spaceId, signature);
    if (!this.hub.spaces.has(hex(spaceId))) this.hub.spaces.set(hex(spaceId), { spaceId, logs: new Map() });
    this.entered.add(hex(spaceId));
    this.say({ type: "entered", request, spaces: [spaceInfo(spaceId)] });
  }

  on_enter(message) {
    const [{ spaceId, signature }] = message.spaces;
    if (!this.hub.spaces.has(hex(spaceId))) {
      this.refuse(message, "not_found");
      return;
    }
    this.mustBeProved(spaceId, signature);
    this.entered.add(hex(spaceId));
    this.say({ type: "entered", request: message.request, spaces: [spaceInfo(spaceId)] });
  }

  refuse(message, code, retry = false, retryAfterS = 0) {
    this.say({ type: "refused", request: message.request ?? 0, code, message: code, retry, retryAfterS });
  }

  may(message) {
    const entered = this.entered.has(hex(message.spaceId));
    if (!entered) this.refuse(message, "not_found");
    return entered;
  }

  on_collections(message) {
    if (!this.may(message)) return;
    const { request, spaceId } = message;
    const logs = [...this.hub.logs.values()].filter(({ log }) => log.head);
    const collections = logs.map(({ collectionId, log }) => ({ collectionId, head: log.head }));
    this.say({ type: "collection_list", request, spaceId, collections });
  }

  on_subscribe(message) {
    if (!this.may(message)) return;
    const { request, spaceId, cursors } = message;
    const { incarnation } = this.hub;
    const collections = cursors.map((cursor) => {
      const log = this.hub.log(cursor.collectionId);
      const after = equal(cursor.incarnation, incarnation) ? cursor.seq : 0;
      this.subscriptions.set(hex(cursor.collectionId), { ...cursor, sent: after });
      const counter = log.counters.get(hex(this.deviceId)) ?? 0;
      return { collectionId: cursor.collectionId, head: log.head, after, counter };
    });
    this.say({ type: "subscribed", request, spaceId, incarnation, collections });
    for (const { collectionId } of cursors) {
      this.feed(collectionId);
      this.handOnWitnesses(collectionId);
    }
  }

  handOnWitnesses(collectionId) {
    const { witnesses } = this.hub.log(collectionId);
    const others = [...witnesses].filter(([deviceId]) => deviceId !== hex(this.deviceId)).map(([, sealed]) => sealed);
    if (others.length) this.say({ type: "witnesses", spaceId: KEYS.spaceId, collectionId, witnesses: others });
  }

  /** Read on while less than the head has been sent. */
  feed(collectionId) {
    const log = this.hub.log(collectionId);
    const subscription = this.subscriptions.get(hex(collectionId));
    while (subscription && subscription.sent < log.head) {
      const { sent: after, liveOnly } = subscription;
      const live = liveOnly ? log.liveSeqs() : null;
      const found = [...log.kept.keys()].filter((seq) => seq > after && (!live || live.has(seq))).sort((a, b) => a - b);
      const page = found.slice(0, this.hub.page);
      const upto = found.length > page.length ? page.at(-1) : log.head;
      const changes = page.map((seq) => ({ seq, appendedAtMs: 1000 + seq, sealed: this.bytesOf(collectionId, seq) }));
      this.say({ type: "changes", spaceId: KEYS.spaceId, collectionId, after, upto, head: log.head, changes });
      subscription.sent = upto;
      subscription.liveOnly = liveOnly && upto < log.head;
    }
  }

  bytesOf(collectionId, seq) {
    return this.own.has(`${hex(collectionId)} ${seq}`) ? NO_BYTES : this.hub.log(collectionId).kept.get(seq);
  }

  on_append(message) {
    if (!this.may(message)) return;
    if (this.hub.refuseNext.length) {
      this.refuse(message, this.hub.refuseNext.pop(), true, 1.0);
      return;
    }
    const answers = message.drafts.map((sealed) => this.appendOne(sealed));
    const { request, spaceId } = message;
    this.say({ type: "appended", request, spaceId, answers, usedBytes: this.hub.usedBytes });
    const ids = message.drafts.map((sealed) => parseHeader(sealed).collectionId);
    const touched = new Map(ids.map((id) => [hex(id), id]));
    for (const line of this.hub.lines) for (const collectionId of touched.values()) line.feed(collectionId);
  }

  appendOne(sealed) {
    const header = parseHeader(sealed);
    if (!this.hub.freeKinds.has(header.kind) && this.hub.full) return { code: "quota_exceeded" };
    const [answer, fresh] = this.hub.log(header.collectionId).append(sealed);
    if (fresh) {
      this.hub.appended.push(header);
      const id = hex(header.collectionId);
      if (this.subscriptions.has(id)) this.own.add(`${id} ${answer.seq}`);
    }
    return answer;
  }

  on_witness(message) {
    if (!this.may(message)) return;
    const { request, spaceId, collectionId, witness } = message;
    this.hub.log(collectionId).witnesses.set(hex(this.deviceId), witness);
    this.say({ type: "done", request });
    for (const line of this.hub.lines) {
      if (line !== this && line.subscriptions.has(hex(collectionId))) {
        line.say({ type: "witnesses", spaceId, collectionId, witnesses: [witness] });
      }
    }
  }

  on_signal({ spaceId, body, to }) {
    for (const line of this.hub.lines) {
      if (line !== this && (to === null || equal(to, line.deviceId))) {
        line.say({ type: "signal", request: 0, spaceId, body, to, deviceId: this.deviceId });
      }
    }
  }

  on_ping() {
    this.say({ type: "pong", heads: this.heads() });
  }

  on_pong() {}

  heads() {
    const followed = [...this.subscriptions.values()].map(({ collectionId }) => collectionId);
    return followed.map((collectionId) => {
      return { spaceId: KEYS.spaceId, collectionId, head: this.hub.log(collectionId).head };
    });
  }
}

/** An honest hub for one account. */
export class TestHub {
  constructor() {
    this.incarnation = utf8("I".repeat(16));
    this.devices = new Map(); // public keys by device id
    this.spaces = new Map(); // { spaceId, logs }, the logs { collectionId, log } by collection id
    this.lines = [];
    this.page = 3;
    this.limits = Object.fromEntries(Object.entries(LIMITS).map(([name, value]) => [wireName(name), value]));
    this.appended = []; // headers of everything that ever got a seq, in order
    this.heard = []; // every message that reached the hub, with the device it came from
    this.refuseNext = []; // codes for the next append requests as a whole
    this.refuseOnce = new Map(); // a code that says "later", by the message's type
    this.full = false;
    this.freeKinds = new Set([Kind.DELETE, Kind.PURGE, Kind.WIPE]);
    this.usedBytes = 0;
  }

  /** The logs of the one space. */
  get logs() {
    return this.spaces.get(hex(KEYS.spaceId)).logs;
  }

  log(collectionId) {
    const id = hex(collectionId);
    if (!this.logs.has(id)) this.logs.set(id, { collectionId, log: new Log() });
    return this.logs.get(id).log;
  }

  setLog(collectionId, log) {
    this.logs.set(hex(collectionId), { collectionId, log });
  }

  backup() {
    return copied(this.spaces);
  }

  /** An operator puts a backup back, and says so by the incarnation; every line is cut. */
  restore(backup, incarnation) {
    this.spaces = copied(backup);
    this.incarnation = incarnation;
  }

  compact() {
    for (const { logs } of this.spaces.values()) for (const { log } of logs.values()) log.compact();
  }
}

function copied(spaces) {
  const copyOf = ({ collectionId, log }) => ({ collectionId, log: log.copy() });
  const logsOf = (logs) => new Map([...logs].map(([id, one]) => [id, copyOf(one)]));
  return new Map([...spaces].map(([id, { spaceId, logs }]) => [id, { spaceId, logs: logsOf(logs) }]));
}

function spaceInfo(spaceId) {
  return { spaceId, appId: APP_ID, keyEpoch: 0, usedBytes: 0 };
}

/** One device: an engine, its storage, and the line it may have. */
export class Peer {
  constructor(world, name, storage, strategies) {
    this.world = world;
    this.name = name;
    this.storage = storage;
    this.strategies = strategies;
    this.keys = KEYS;
    this.signingKey = new TestKey(utf8(name.padEnd(32, "_")));
    this.deviceId = utf8(name.padEnd(16, "_"));
    this.line = null;
    this.toHub = [];
    this.toSign = []; // what waits for a signature, when signing takes its time
    this.signsLate = false;
    this.changed = [];
    this.hangups = [];
    this.effects = [];
    this.collections = {};
    world.hub.devices.set(hex(this.deviceId), this.signingKey.public);
    storage.setSetting("account_id", ACCOUNT);
    storage.setSetting("may_create", utf8("1"));
    this.start();
  }

  /** Begin from what storage holds, as after a crash. */
  start() {
    const identity = { deviceId: this.deviceId, appId: APP_ID, hubUrl: HUB_URL };
    this.engine = new Engine(this.storage, identity, this.keys, (size) => this.world.random.bytes(size));
    for (const [name, strategy] of Object.entries(this.strategies)) {
      const [local, effects] = this.engine.openCollection(name, strategy, this.world.now);
      this.collections[name] = local;
      this.carryOut(effects);
    }
  }

  /** The process dies; what was not committed is gone, and so is the line. */
  crash() {
    this.dropLine();
    this.toSign = [];
    this.start();
  }

  connect() {
    if (this.line !== null) return;
    this.line = new Line(this.world.hub, this.deviceId);
    this.world.hub.lines.push(this.line);
    this.carryOut(this.engine.connected(this.world.now));
  }

  dropLine() {
    if (this.line === null) return;
    this.world.hub.lines.splice(this.world.hub.lines.indexOf(this.line), 1);
    this.line = null;
    this.toHub = [];
  }

  /** The line is cut: what is under way in either direction is lost. */
  cut() {
    if (this.line === null) return;
    this.dropLine();
    this.carryOut(this.engine.disconnected());
  }

  carryOut(effects) {
    for (const effect of effects) {
      if (effect instanceof Send && this.line !== null) this.toHub.push(effect.frame);
      else if (effect instanceof Sign) this._sign(effect);
      else if (effect instanceof Changed) this.changed.push(...effect.changes);
      else if (effect instanceof Hangup) this._hangUp(effect);
      else if ([Wiped, SignalCame, Answered].some((kind) => effect instanceof kind)) this.effects.push(effect);
    }
  }

  _hangUp(hangup) {
    this.hangups.push(hangup);
    this.cut();
  }

  _sign(effect) {
    this.toSign.push(effect);
    if (!this.signsLate) this.stepSign();
  }

  /** One signature is there. */
  stepSign() {
    if (!this.toSign.length) return false;
    const { purpose, bytes, token } = this.toSign.shift();
    const key = purpose === "auth" ? this.signingKey : SPACE_KEY;
    this.carryOut(this.engine.signed(token, key.sign(bytes)));
    return true;
  }

  /** One frame reaches the hub. */
  stepOut() {
    if (this.line === null || !this.toHub.length) return this.stepSign();
    this.line.take(this.toHub.shift());
    return true;
  }

  /** One frame reaches the device. */
  stepIn() {
    if (this.line === null || !this.line.out.length) return false;
    this.carryOut(this.engine.received(this.line.out.shift(), this.world.now));
    return true;
  }

  /** The hub's answers to appends overtake what it still reads from the log. */
  overtake() {
    if (this.line === null) return;
    const isAnswer = (frame) => decodeFromHub(frame).type === "appended";
    const { out } = this.line;
    this.line.out = [...out.filter(isAnswer), ...out.filter((frame) => !isAnswer(frame))];
  }

  // --- the app's side ---

  edit(collection, work) {
    const [result, effects] = this.engine.edit(this.collections[collection], work, this.world.now);
    this.carryOut(effects);
    return result;
  }

  put(key, value, collection = "notes") {
    return this.edit(collection, () => this.collections[collection].put(key, value, this.world.now.wall));
  }

  delete(key, collection = "notes") {
    return this.edit(collection, () => this.collections[collection].delete(key, this.world.now.wall));
  }

  delta(key, value, collection = "notes") {
    return this.edit(collection, () => this.collections[collection].appendDelta(key, value, this.world.now.wall));
  }

  snapshot(key, value, collection = "notes") {
    return this.edit(collection, () => this.collections[collection].snapshot(key, value, this.world.now.wall));
  }

  resolve(key, value, collection = "notes") {
    return this.edit(collection, () => this.collections[collection].resolve(key, value, this.world.now.wall));
  }

  get(key, collection = "notes") {
    return this.collections[collection].get(key);
  }

  items(collection = "notes") {
    return Object.fromEntries(this.collections[collection].items());
  }

  status() {
    return this.engine.status(this.world.now);
  }

  alarms() {
    return this.status().alarms.map((alarm) => alarm.name);
  }
}

/** Devices around one hub, and the time. */
export class World {
  constructor(seed = 0) {
    this.random = new Seeded(seed);
    this.hub = new TestHub();
    this.now = { steady: 1000, wall: 1_700_000_000 };
    this.peers = [];
  }

  peer(name, strategy = lastWriterWins, storage = new MemoryStorage(), strategies = {}) {
    const peer = new Peer(this, name, storage, { notes: strategy, ...strategies });
    this.peers.push(peer);
    return peer;
  }

  /** Time goes by; whatever falls due on the way is done. */
  passTime(seconds) {
    const end = this.now.steady + seconds;
    for (;;) {
      const timers = this.peers.map((peer) => ({ peer, at: peer.engine.timer() }));
      const due = timers.filter(({ at }) => at !== null && at <= end);
      if (!due.length) break;
      const { peer, at } = due.reduce((one, other) => (other.at < one.at ? other : one));
      this.setTime(Math.max(at, this.now.steady));
      peer.carryOut(peer.engine.timerFired(this.now));
      this.quiesce();
    }
    this.setTime(end);
  }

  setTime(steady) {
    this.now = { steady, wall: this.now.wall + steady - this.now.steady };
  }

  /** Let every frame arrive. */
  quiesce() {
    let moved = true;
    while (moved) {
      moved = false;
      for (const peer of this.peers) if (peer.stepOut() || peer.stepIn()) moved = true;
    }
  }

  /** Everybody connects and everything arrives. */
  settle() {
    for (const peer of this.peers) peer.connect();
    this.quiesce();
  }
}
