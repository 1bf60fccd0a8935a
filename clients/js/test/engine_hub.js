/**
 * A world of engines around one small honest hub, over lists instead of sockets.
 *
 * `TestHub` is the memory hub with one account; it checks every proof with Node's own Ed25519, which is faster.
 * `World` moves one frame at a time, so that a test may cut any line between any two steps,
 * kill a device and start it again from its storage, or let the hub lie.
 */

import assert from "node:assert/strict";
import { createPrivateKey, createPublicKey, sign, verify } from "node:crypto";

import { concat, hex, utf8 } from "../src/bytes.js";
import { Answered, Changed, Hangup, Send, Sign, SignalCame, Wiped } from "../src/effects.js";
import { Engine } from "../src/engine.js";
import { SpaceKeys, hkdf } from "../src/keys.js";
import { LABEL } from "../src/signing.js";
import { MemoryStorage } from "../src/storage.js";
import { lastWriterWins } from "../src/strategies.js";
import { Hub } from "../src/testing/hub.js";
import { Line } from "../src/testing/line.js";
import { decodeFromHub } from "../src/wire/codec.js";
import { Seeded } from "./seeded.js";

export const HUB_URL = "ws://hub.test/v1/ws";
export const APP_ID = "org.example.notes";
export const ACCOUNT = utf8("A".repeat(16));
const APP_KEY = utf8("k".repeat(32));
export const KEYS = await SpaceKeys.derive(APP_KEY);
const NO_BYTES = new Uint8Array(0);
const ADDRESS = "anna@example.org";
const PKCS8 = Buffer.from("302e020100300506032b657004220420", "hex"); // what precedes the seed, RFC 8410 §7
const SPKI = Buffer.from("302a300506032b6570032100", "hex"); // what precedes a public key, RFC 8410 §4

/** A key of a 32-byte seed that signs at once. */
export class TestKey {
  constructor(seed) {
    this._private = createPrivateKey({ key: Buffer.concat([PKCS8, seed]), format: "der", type: "pkcs8" });
    this.public = new Uint8Array(createPublicKey(this._private).export({ format: "der", type: "spki" })).slice(-32);
  }

  sign(bytes) {
    return new Uint8Array(sign(null, bytes, this._private));
  }
}

const SPACE_KEY = new TestKey(hkdf(APP_KEY, NO_BYTES, concat(LABEL, utf8("space-auth"))));

/** An honest hub for one account, whose devices it knows from the start, and which reads and signs at once. */
export class TestHub extends Hub {
  constructor() {
    super(HUB_URL);
    this.addAccount(ADDRESS, ACCOUNT);
    this.incarnation = utf8("I".repeat(16));
    this.pageChanges = 3;
    this.full = false;
    this.used = 0;
  }

  now() {
    return 1;
  }

  fresh(size) {
    return utf8("n".repeat(size));
  }

  verifies(publicKey, signature, message) {
    const key = createPublicKey({ key: Buffer.concat([SPKI, publicKey]), format: "der", type: "spki" });
    return verify(null, message, key, signature);
  }

  isFull() {
    return this.full;
  }

  usedBytes() {
    return this.used;
  }

  get account() {
    return this.accounts.get(ADDRESS);
  }

  /** The account's spaces by id. */
  get spaces() {
    return this.account.spaces;
  }

  set spaces(spaces) {
    this.account.spaces = spaces;
  }

  /** This device is enrolled. */
  knows(deviceId, devicePk) {
    const how = { scope: "app", appId: APP_ID, enrolledVia: "mail", enrolledAt: 0, probationUntil: 0 };
    this.account.devices.set(hex(deviceId), { deviceId, devicePk, ...how });
  }

  /** The logs of the one space. */
  get logs() {
    return this.spaces.get(hex(KEYS.spaceId)).logs;
  }

  log(collectionId) {
    return this.logIn({ logs: this.logs }, collectionId);
  }

  setLog(collectionId, log) {
    this.logs.set(hex(collectionId), { collectionId, log });
  }

  /** The spaces as they are now. */
  backup() {
    return super.backup().get(ADDRESS).spaces;
  }

  /** An operator puts a backup of the spaces back, and says so by the incarnation. */
  restore(spaces, incarnation) {
    super.restore(new Map([[ADDRESS, { ...this.account, spaces }]]), incarnation);
  }
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
    world.hub.knows(this.deviceId, this.signingKey.public);
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
    this.line = new Line(this.world.hub);
    this.line.onEnd = (code, reason) => this._ended(code, reason);
    this.world.hub.lines.push(this.line);
    this.carryOut(this.engine.connected(this.world.now));
  }

  dropLine() {
    if (this.line === null) return;
    this.line.gone();
    this.line = null;
    this.toHub = [];
  }

  /** The line is cut: what is under way in either direction is lost. */
  cut() {
    if (this.line === null) return;
    this.dropLine();
    this.carryOut(this.engine.disconnected());
  }

  /** No honest device meets a closing that only a person can help. */
  _ended(code, reason) {
    assert.ok(code < 4500, reason);
    this.cut();
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
