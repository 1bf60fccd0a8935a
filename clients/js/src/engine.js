/**
 * A device's side of the protocol, without I/O: the twin of `hub/client/engine.py`.
 *
 * Frames, local edits and the time go in; effects come out, and the shell
 * (`connection.js`) carries them out: `Send` a frame, `Sign` a proof, `Hangup`, tell
 * the app.  The engine keeps everything it must not forget in local storage, in the
 * same transaction as what it belongs to.  A transaction is durable when the storage's
 * `committed()` has resolved, so effects are carried out only then; the program may be
 * killed at any moment.
 *
 * What a step means for the records is in `collection.js`, for what is sent in
 * `outbox.js`, for what is received in `intake.js`; `conversation.js` is one
 * connection, and `device.js` what outlives it.
 */

import { Conversation, inOrder } from "./conversation.js";
import { Device } from "./device.js";
import { Moved } from "./effects.js";
import { REFUSALS } from "./errors.js";
import { sealSignal } from "./signals.js";
import { State } from "./storage.js";
import { UnknownMessage, decodeFromHub } from "./wire/codec.js";
import { NONCE_BYTES } from "./wire/header.js";

/** @typedef {import("./collection.js").LocalCollection} LocalCollection */
/** @typedef {import("./effects.js").Effect} Effect */
/** @typedef {import("./device.js").Identity} Identity */
/** @typedef {import("./keys.js").SpaceKeys} SpaceKeys */
/** @typedef {import("./storage.js").Storage} Storage */
/** @typedef {import("./storage.js").StoredAlarm} StoredAlarm */
/** @typedef {import("./terms.js").Now} Now */

/**
 * The catch-up or upload under way, in changes; `remaining` is an upper bound.
 * @typedef {{ done: number, remaining: number }} Progress
 */

/** @typedef {"off" | "signed-out" | "needs-key" | "offline" | "connecting" | "catching-up" | "sending" | "synced"
 *   | "blocked" | "alarm"} Phase */

/**
 * Where sync stands, honestly.  Times are this device's clock, 0 for never.
 *
 * `connecting` is also while the hub restarts and this device moves on; with `blocked` the
 * `error` says why, and a person must act; with `alarm` see `alarms`.
 * @typedef {object} Status
 * @property {Phase} phase
 * @property {number} unsynced edits that are not in the log
 * @property {number} parked edits that wait for a person
 * @property {number} oldestUnsyncedAgeS
 * @property {number} lastAppendedAt
 * @property {number} headSeenAt
 * @property {Progress} progress
 * @property {StoredAlarm[]} alarms
 * @property {string} error
 * @property {string} movedTo where the account lives now, as `wss://host/v1/ws`; empty: where this device dials.  A
 *   person says whether to go there, see `HubClient.follow`
 */

/** There is no session with the hub to ask anything on. */
export class NotConnected extends Error {
  constructor() {
    super("not connected to the hub");
    this.name = "NotConnected";
  }
}

/** One device, one space.  Calls that end in effects return those to carry out, in order. */
export class Engine {
  /**
   * @param {Storage} storage
   * @param {Identity} identity
   * @param {SpaceKeys | null} keys
   * @param {(size: number) => Uint8Array} fresh gives that many random bytes
   */
  constructor(storage, identity, keys, fresh) {
    this.device = new Device(storage, identity, fresh);
    /** @type {Conversation | null} */
    this._talk = null;
    if (keys !== null) this.device.setKeys(keys);
  }

  // --- collections and edits ---

  /**
   * The app's collection of this name; from now on its conflicts are settled by `strategy`.
   * @param {string} name
   * @param {import("./strategies.js").Strategy} strategy
   * @param {Now} now
   * @returns {[LocalCollection, Effect[]]}
   */
  openCollection(name, strategy, now) {
    const { device } = this;
    const local = device.transaction(() => {
      const found = device.findOrAdd(name);
      found.strategy = strategy;
      found.settle(now.wall);
      return found;
    });
    device.admit(local);
    this._talk?.follow([local]);
    this._talk?.flush(now);
    return [local, device.takeEffects()];
  }

  /**
   * Do edits of one collection in one transaction, and send what can be sent.
   * @template T
   * @param {LocalCollection} local
   * @param {() => T} work synchronous
   * @param {Now} now
   * @returns {[T, Effect[]]}
   */
  edit(local, work, now) {
    return this.editAll([local], work, now);
  }

  /**
   * Do edits of several collections in one transaction, and send what can be sent.
   * @template T
   * @param {LocalCollection[]} locals
   * @param {() => T} work synchronous
   * @param {Now} now
   * @param {() => void} [settled] called at the end of the transaction, when every conflict that can be is settled
   * @returns {[T, Effect[]]}
   */
  editAll(locals, work, now, settled = () => {}) {
    const result = this.device.transaction(() => {
      const made = work();
      for (const local of locals) local.settle(now.wall);
      settled();
      return made;
    });
    this._talk?.flush(now);
    this.device.effects.push(new Moved());
    return [result, this.device.takeEffects(locals)];
  }

  // --- on and off ---

  /**
   * Stop syncing; edits go on into the outbox.
   * @returns {Effect[]}
   */
  turnOff() {
    this.device.setMode("off");
    this.device.hangUp("sync is off", { retry: false });
    return this.device.takeEffects();
  }

  /**
   * Sync again; what the log has not got any more is appended anew.
   * @param {Now} now
   * @returns {Effect[]}
   */
  turnOn(now) {
    const { device } = this;
    const { storage } = device;
    device.transaction(() => {
      // What else of that wipe is still to be read changes the person's answer no more.
      if (storage.setting("wiped") !== null) storage.setSetting("resuming", new Uint8Array([0x31]));
      storage.setSetting("wiped", null);
      storage.setSetting("blocked", null);
      device.setMode("on");
      for (const local of device.collections.values()) {
        local.requeueUnsent(now.wall);
        local.settle(now.wall);
      }
    });
    this._talk?.begin();
    device.effects.push(new Moved());
    return device.takeEffects();
  }

  /**
   * Drop the remote copies: one sealed wipe for each collection.  Local data stays.  See `wipingDone`.
   * @param {Now} now
   * @returns {Effect[]}
   */
  startWipe(now) {
    const { device } = this;
    device.transaction(() => {
      device.setMode("wiping");
      for (const local of device.collections.values()) local.addWipe(now.wall);
    });
    this._talk?.flush(now);
    return device.takeEffects();
  }

  /** Whether every wipe is in the log, and everything the hub told of has been wiped. */
  get wipingDone() {
    const { storage, collections } = this.device;
    const talk = this._talk;
    const caughtUp = talk !== null && talk.entered && !talk.isCatchingUp;
    return caughtUp && [...collections.keys()].every((n) => !storage.rowsOf(n, "").length);
  }

  /**
   * A person has seen the alarms and wants to go on: see `Device.forgetAlarms`.
   * @returns {Effect[]}
   */
  forgetAlarms() {
    this.device.forgetAlarms();
    this.device.hangUp("read anew");
    return this.device.takeEffects();
  }

  /**
   * Go where the account has moved to, with the same device, keys and outbox.  Throws RangeError when it has not.
   * @returns {Effect[]}
   */
  follow() {
    if (!this.device.movedTo) throw new RangeError("the account has not moved");
    this.device.follow();
    this.device.hangUp("the account has moved");
    return this.device.takeEffects();
  }

  // --- the connection ---

  /**
   * The line stands.  `heartbeatS` asks the hub for another pace of pings (15 to 300).
   * @param {Now} now
   * @param {{ heartbeatS?: number }} [wish]
   * @returns {Effect[]}
   */
  connected(now, { heartbeatS = 0 } = {}) {
    this.device.lineStands();
    this.device.outbox?.sessionBegan();
    this._talk = new Conversation(this.device, now, heartbeatS);
    this.device.effects.push(new Moved());
    return this.device.takeEffects();
  }

  /**
   * The signature that `Sign` asked for.  One of a connection that is gone is passed over.
   * @param {number} token
   * @param {Uint8Array} signature
   * @returns {Effect[]}
   */
  signed(token, signature) {
    this._talk?.signed(token, signature);
    return this.device.takeEffects();
  }

  /**
   * The line is gone, or there was none.  What had no answer is sent again on the next one.
   *
   * `blocked` says why the hub wants this device not to come back by itself;
   * `restarting` that it only goes for a moment.
   * @param {string} [blocked]
   * @param {{ restarting?: boolean }} [how]
   * @returns {Effect[]}
   */
  disconnected(blocked = "", { restarting = false } = {}) {
    this.device.leaving = this._talk !== null && (this.device.leaving || restarting);
    const here = this._talk === null || this._talk.hubUrl === this.device.identity.hubUrl;
    this._talk = null;
    if (blocked && here) this.device.block(blocked); // what a hub that was left says last stops nothing
    this.device.effects.push(new Moved());
    return this.device.takeEffects();
  }

  /**
   * A frame has come.
   * @param {Uint8Array} frame
   * @param {Now} now
   * @returns {Effect[]}
   */
  received(frame, now) {
    if (this._talk === null || this.device.hungUp) return [];
    let message;
    try {
      message = decodeFromHub(frame);
    } catch (error) {
      if (error instanceof UnknownMessage) return []; // a later hub may say more than this program understands
      if (!(error instanceof RangeError)) throw error;
      this.device.hangUp(`the hub sent what is no message: ${error.message}`);
      return this.device.takeEffects();
    }
    this._talk.received(message, frame, now);
    return this.device.takeEffects();
  }

  /**
   * A clean stop is near: state what this device has.
   * @param {Now} now
   * @returns {Effect[]}
   */
  farewell(now) {
    if (this._talk?.entered && this.device.mode === "on") {
      for (const n of inOrder(this._talk.following)) this._talk.witness(n, now);
    }
    return this.device.takeEffects();
  }

  /**
   * When `timerFired` wants to be called, in steady time; null without a connection.
   * @returns {number | null}
   */
  timer() {
    return this._talk && !this.device.hungUp ? this._talk.timer() : null;
  }

  /**
   * Something is due.
   * @param {Now} now
   * @returns {Effect[]}
   */
  timerFired(now) {
    if (!this.device.hungUp) this._talk?.timerFired(now);
    return this.device.takeEffects();
  }

  // --- what the app asks of the hub ---

  /** Whether the hub knows this device on the line that stands, and answers come. */
  get inSession() {
    return this._talk !== null && this._talk.ready;
  }

  /**
   * Ask the hub something; the answer comes as `Answered`.  Throws `NotConnected` when not in session.
   * @param {import("./conversation.js").Make} make
   * @returns {[number, Effect[]]}
   */
  request(make) {
    if (this._talk === null || !this.inSession || !this._talk.mayAsk) throw new NotConnected();
    const number = this._talk.ask(make);
    return [number, this.device.takeEffects()];
  }

  /**
   * Hand an ephemeral message to the space's other devices that are connected now, or to one of them.
   *
   * Throws `NotConnected` when not in session.
   * @param {Uint8Array} body
   * @param {Uint8Array | null} to
   * @returns {Effect[]}
   */
  sendSignal(body, to) {
    const { keys, identity, fresh } = this.device;
    if (!this._talk?.entered || !this._talk.mayAsk || keys === null) throw new NotConnected();
    const sealed = sealSignal(keys, identity.deviceId, body, fresh(NONCE_BYTES));
    this._talk.say((request) => ({ type: "signal", request, spaceId: keys.spaceId, body: sealed, to }));
    return this.device.takeEffects();
  }

  /**
   * Hand a frame to the device that this one pairs with.  Throws `NotConnected` when not in session.
   * @param {Uint8Array} channel
   * @param {Uint8Array} body
   * @returns {Effect[]}
   */
  handPairing(channel, body) {
    if (this._talk === null || !this.inSession || !this._talk.mayAsk) throw new NotConnected();
    this._talk.say((request) => ({ type: "pairing", request, channel, body }));
    return this.device.takeEffects();
  }

  /**
   * Have the hub tell its heads, to be sure that nothing is missing here; see `Device.confirmations`.
   * @returns {Effect[]}
   */
  askHeads() {
    if (this._talk?.entered) this._talk.askHeads();
    return this.device.takeEffects();
  }

  // --- what the app is told ---

  /**
   * Where sync stands.
   * @param {Now} now
   * @returns {Status}
   */
  status(now) {
    const { device } = this;
    const talk = this._talk;
    const { unsynced, parked, oldestAt } = device.storage.backlog();
    const alarms = device.storage.alarms();
    const overQuota = device.outbox?.overQuota ? REFUSALS.quota_exceeded.message : "";
    return {
      phase: this._phase(unsynced, alarms.length > 0),
      unsynced,
      parked,
      oldestUnsyncedAgeS: unsynced ? Math.max(0, now.wall - oldestAt) : 0,
      lastAppendedAt: device.lastAppendedAt,
      headSeenAt: device.headSeenAt,
      progress: { done: talk ? talk.done : 0, remaining: (talk ? talk.remaining : 0) + unsynced },
      alarms,
      error: device.blocked || device.error || overQuota,
      movedTo: device.movedTo,
    };
  }

  /**
   * Whether the edit is in the log, or was settled without needing to be.
   * @param {Uint8Array} changeId
   * @returns {boolean}
   */
  isAppended(changeId) {
    const row = this.device.storage.rowOfChange(changeId);
    return row === null || row.state === State.ACKED;
  }

  /**
   * How far the other devices have said that they have a collection, by the device id in hex.
   * @param {number} collection
   * @returns {Map<string, number>}
   */
  witnessedSeqs(collection) {
    return this.device.intakes.get(collection)?.witnessedSeqs() ?? new Map();
  }

  /**
   * @param {number} unsynced
   * @param {boolean} alarmed
   * @returns {Phase}
   */
  _phase(unsynced, alarmed) {
    const { device } = this;
    const talk = this._talk;
    if (device.mode === "off") return "off";
    if (device.blocked) return "blocked";
    if (!device.signedIn) return "signed-out";
    if (device.keys === null) return "needs-key";
    if (alarmed) return "alarm";
    if (talk === null && !device.leaving) return "offline";
    if (talk === null || device.leaving || !talk.entered) return "connecting";
    if (talk.isCatchingUp) return "catching-up";
    return unsynced ? "sending" : "synced";
  }
}
