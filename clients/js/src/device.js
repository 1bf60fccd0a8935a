/**
 * What this device has of its space, without I/O: collections, outbox, settings, alarms.
 *
 * Everything that must not be forgotten lies in local storage; what is in memory here
 * is read from there and follows it, also when a transaction is rolled back.  The
 * effects to carry out gather here too, in order, until the engine hands them out.
 */

import { equal, fromUtf8, hex, utf8 } from "./bytes.js";
import { CheckFailed } from "./check.js";
import { LocalCollection } from "./collection.js";
import { Changed, Hangup, Moved } from "./effects.js";
import { assert } from "./errors.js";
import { DraftMissing, Intake } from "./intake.js";
import { pack, unpack } from "./msgpack.js";
import { Outbox, unsealed } from "./outbox.js";
import { State, StoredAlarm } from "./storage.js";
import { ZERO_ID } from "./terms.js";

/** @typedef {import("./keys.js").SpaceKeys} SpaceKeys */
/** @typedef {import("./storage.js").Storage} Storage */

export const RECENT_ACKS_KEPT = 10_000;

/** @typedef {import("./effects.js").Effect} Effect */
/** @typedef {import("./terms.js").Now} Now */
/** @typedef {[Uint8Array, number][]} Heads collection id and seq, each */
/** @typedef {{ usedBytes: number, quotaBytes: number }} Usage what the account takes on the hub, and may take */

/**
 * What this device is to the hub: `hubUrl` is canonical, as dialled.  Its signing key never comes in here:
 * who carries out `Sign` holds it.
 * @typedef {{ deviceId: Uint8Array, appId: string, hubUrl: string }} Identity
 */

/** One device, one space. */
export class Device {
  /**
   * @param {Storage} storage
   * @param {Identity} identity
   * @param {(size: number) => Uint8Array} fresh gives that many random bytes
   */
  constructor(storage, identity, fresh) {
    this.storage = storage;
    this.identity = identity;
    this.fresh = fresh;
    /** @type {SpaceKeys | null} */
    this.keys = null;
    /** @type {Outbox | null} */
    this.outbox = null;
    /** @type {Map<number, LocalCollection>} */
    this.collections = new Map();
    for (const row of storage.collections()) this.collections.set(row.n, new LocalCollection(storage, row, fresh));
    /** @type {Map<number, Intake>} */
    this.intakes = new Map();
    /** @type {Effect[]} */
    this.effects = [];
    this.error = ""; // what the person should know and nothing else shows
    this.lastAppendedAt = 0;
    this.headSeenAt = 0;
    this.confirmations = 0; // how often the hub has told all its heads
    /** @type {Usage | null} as the hub last told */
    this.usage = null;
    /** @type {Map<number, number>} steady time, by collection */
    this.witnessDue = new Map();
    this.hungUp = false; // it is decided that the line goes: nothing more is sealed or sent on it
    this.leaving = false; // the hub asked to come back in a moment: no reason to call that offline
    this._signatures = 0; // how many were ever asked for: a late one is never taken for another
    /** @type {Map<string, [number, number]>} */
    this._acked = new Map();
  }

  // --- settings ---

  /** `on`, `off` or `wiping`. */
  get mode() {
    return textOf(this.storage.setting("mode")) || "on";
  }

  /**
   * Keep the mode.
   * @param {"on" | "off" | "wiping"} mode
   */
  setMode(mode) {
    this.transaction(() => this.storage.setSetting("mode", utf8(mode)));
    this.outbox?.wipeOnly(mode === "wiping");
  }

  /** Why nothing but a person can go on, or empty. */
  get blocked() {
    return textOf(this.storage.setting("blocked"));
  }

  /**
   * Nothing but a person can go on.
   * @param {string} reason
   */
  block(reason) {
    this.transaction(() => this.storage.setSetting("blocked", reason ? utf8(reason) : null));
    this.effects.push(new Moved());
  }

  /** Where the account lives now, as the hub that was dialled said; empty: there. */
  get movedTo() {
    return textOf(this.storage.setting("moved_to"));
  }

  /**
   * The hub said that the account lives at `url` now; nobody goes there before a person says so.
   * @param {string} url canonical; empty is passed over
   */
  isMoved(url) {
    if (!url) return;
    this.transaction(() => this.storage.setSetting("moved_to", utf8(url)));
    this.effects.push(new Moved());
  }

  /**
   * The hub at `movedTo` is this device's from now on; keys, outbox and cursors stay.  The one that is left is
   * remembered.
   */
  follow() {
    const { movedTo, identity } = this;
    assert(movedTo, "there is nowhere to follow to");
    this.transaction(() => {
      const left = this._left.filter((url) => url !== movedTo && url !== identity.hubUrl);
      this.storage.setSetting("left", utf8([...left, identity.hubUrl].join(" ")));
      this.storage.setSetting("hub_url", utf8(movedTo));
      this.storage.setSetting("moved_to", null);
      this.storage.setSetting("blocked", null);
      this.storage.setSetting("space_known", null); // there nothing is said before it has said whose account it is
    });
    this.identity = { ...identity, hubUrl: movedTo };
    this.effects.push(new Moved());
  }

  /** The hubs that this device has left: whoever names one of them in passing does not lead it back. */
  get _left() {
    return textOf(this.storage.setting("left")).split(" ").filter(Boolean);
  }

  /**
   * Whether this is another account's session: then the hub that was dialled is not the one that was left.
   * @param {import("./wire/messages.js").Received<"ready">} ready
   */
  isAnothers(ready) {
    const known = this.storage.setting("account_id");
    return known !== null && !equal(known, ready.accountId);
  }

  /** Whether the hub knows this device, as far as we have been told. */
  get signedIn() {
    return this.storage.setting("account_id") !== null;
  }

  /**
   * The account's spaces when the hub last told.
   * @returns {import("./wire/messages.js").SpaceInfo[]}
   */
  get knownSpaces() {
    const packed = this.storage.setting("spaces");
    return packed === null ? [] : /** @type {any} */ (unpack(packed));
  }

  /**
   * The hub knows this device.
   * @param {import("./wire/messages.js").Received<"ready">} ready
   */
  isReady(ready) {
    this.transaction(() => {
      this.storage.setSetting("account_id", ready.accountId);
      this.storage.setSetting("moved_to", null);
      this.storage.setSetting("spaces", pack(ready.spaces));
    });
    this.usage = { usedBytes: Number(ready.usedBytes), quotaBytes: Number(ready.quotaBytes) };
    this.effects.push(new Moved());
  }

  /**
   * The hub told of these spaces; those it told of before stay known.  Part of the caller's transaction.
   * @param {import("./wire/messages.js").SpaceInfo[]} spaces
   */
  knowSpaces(spaces) {
    const told = new Map([...this.knownSpaces, ...spaces].map((space) => [hex(space.spaceId), space]));
    this.storage.setSetting("spaces", pack([...told.values()]));
  }

  /**
   * How far this device has the life of the log that it knows; the longest collections first.
   * @returns {{ incarnation: Uint8Array, heads: Heads }}
   */
  get heads() {
    const incarnation = this.storage.setting("incarnation") ?? new Uint8Array(0);
    const rows = [...this.collections.values()].map(({ row }) => row).sort((one, other) => other.seq - one.seq);
    const heads = /** @type {Heads} */ ([]);
    for (const row of rows) {
      if (row.collectionId && row.seq && equal(row.incarnation, incarnation)) heads.push([row.collectionId, row.seq]);
    }
    return { incarnation, heads };
  }

  /**
   * The device that added this one stood there, so the hub's log reaches at least so far.
   * @param {Uint8Array} incarnation
   * @param {Heads} heads
   */
  keepGranted(incarnation, heads) {
    this.transaction(() => this.storage.setSetting("granted", pack([incarnation, heads])));
  }

  /**
   * How far a collection reached for the device that added this one; 0 when it did not say.
   * @param {Uint8Array} incarnation
   * @param {Uint8Array} collectionId
   * @returns {number}
   */
  grantedSeq(incarnation, collectionId) {
    const packed = this.storage.setting("granted");
    if (packed === null) return 0;
    const [life, heads] = /** @type {[Uint8Array, Heads]} */ (unpack(packed));
    if (!equal(life, incarnation)) return 0;
    return heads.find(([granted]) => equal(granted, collectionId))?.[1] ?? 0;
  }

  /** The space of the app key; there must be one. */
  get spaceId() {
    assert(this.keys !== null, "asked for the space without an app key");
    return this.keys.spaceId;
  }

  // --- who we are ---

  /**
   * The app key is known: names become ids, and edits can be sealed.
   * @param {SpaceKeys} keys
   */
  setKeys(keys) {
    this.keys = keys;
    this.transaction(() => {
      for (const local of this.collections.values()) {
        if (local.name && local.row.collectionId === null) local.save({ collectionId: keys.collectionId(local.name) });
      }
    });
    this.outbox = new Outbox(this.storage, keys, this.identity.deviceId, this.collections, this.fresh);
    this.outbox.wipeOnly(this.mode === "wiping");
    this.intakes.clear();
    for (const local of this.collections.values()) this.admit(local);
  }

  /**
   * The device is another to the hub: its counters begin anew, and what was sealed is sealed again.
   * @param {Identity} identity
   */
  setIdentity(identity) {
    this.identity = identity;
    this.transaction(() => {
      for (const local of this.collections.values()) {
        for (const row of this.storage.rowsIn(local.n, State.SEALED)) this.storage.saveRow(unsealed(row));
        local.save({ counter: 0, answered: 0, witnessCounter: 0, witnessSeq: 0 });
      }
    });
    if (this.keys !== null) this.setKeys(this.keys);
  }

  // --- collections ---

  /**
   * The collection the app calls so; the hub may have told of it before.
   * @param {string} name
   * @returns {LocalCollection}
   */
  findOrAdd(name) {
    const collectionId = this.keys ? this.keys.collectionId(name) : null;
    for (const local of this.collections.values()) {
      if (local.name === name) return local;
      const itsId = local.row.collectionId;
      if (collectionId !== null && itsId !== null && equal(itsId, collectionId)) {
        local.save({ name });
        return local;
      }
    }
    return this.add(name, collectionId);
  }

  /**
   * A new collection.
   * @param {string | null} name
   * @param {Uint8Array | null} collectionId
   * @returns {LocalCollection}
   */
  add(name, collectionId) {
    const local = new LocalCollection(this.storage, this.storage.addCollection(name, collectionId), this.fresh);
    this.collections.set(local.n, local);
    return local;
  }

  /**
   * Once a collection has an id, it can be received.
   * @param {LocalCollection} local
   */
  admit(local) {
    if (this.keys !== null && local.row.collectionId !== null && !this.intakes.has(local.n)) {
      this.intakes.set(local.n, new Intake(local, this.keys, this.identity.deviceId));
    }
  }

  /**
   * The collection of this number.
   * @param {number} n
   * @returns {LocalCollection}
   */
  collection(n) {
    return /** @type {LocalCollection} */ (this.collections.get(n));
  }

  /**
   * The receiving side of the collection of this number, which was admitted.
   * @param {number} n
   * @returns {Intake}
   */
  intake(n) {
    return /** @type {Intake} */ (this.intakes.get(n));
  }

  /**
   * The collection's number here; null for what is none of ours.
   * @param {Uint8Array} spaceId
   * @param {Uint8Array} collectionId
   * @returns {number | null}
   */
  number(spaceId, collectionId) {
    if (this.keys === null || !equal(spaceId, this.keys.spaceId)) return null;
    for (const [n, intake] of this.intakes) {
      if (equal(intake.collectionId, collectionId)) return n;
    }
    return null;
  }

  // --- acknowledged edits ---

  /**
   * An edit of this device is in the log; the last ten thousand are remembered.
   * @param {Uint8Array} changeId
   * @param {number} collection
   * @param {number} seq
   */
  rememberAck(changeId, collection, seq) {
    this._acked.set(hex(changeId), [collection, seq]);
    const [oldest] = this._acked.keys();
    if (this._acked.size > RECENT_ACKS_KEPT) this._acked.delete(oldest);
  }

  /**
   * [collection number, seq] of an edit that is in the log; null when it is not known here.
   * @param {Uint8Array} changeId
   * @returns {[number, number] | null}
   */
  placeOf(changeId) {
    return this._acked.get(hex(changeId)) ?? this.storage.findChange(changeId);
  }

  /**
   * State what this device has of a collection at `due` or before.
   * @param {number} n
   * @param {number} due
   */
  witnessSoon(n, due) {
    this.witnessDue.set(n, Math.min(due, this.witnessDue.get(n) ?? due));
  }

  // --- the line ---

  /** A uniform draw in [0, 1). */
  draw() {
    const random = this.fresh(4);
    return new DataView(random.buffer, random.byteOffset).getUint32(0) / 2 ** 32;
  }

  /** The next number for a `Sign`. */
  nextToken() {
    this._signatures += 1;
    return this._signatures;
  }

  /**
   * Close the line.  From here on nothing is sealed or sent, and what still comes is not read.
   * @param {string} reason
   * @param {{ retry?: boolean, afterS?: number, politely?: boolean }} [more]
   */
  hangUp(reason, more = {}) {
    this.hungUp = true;
    this.effects.push(new Hangup(reason, more), new Moved());
  }

  /** A new line; what was said of the last one is over. */
  lineStands() {
    this.hungUp = this.leaving = false;
  }

  // --- transactions and alarms ---

  /**
   * A storage transaction; after a rollback what is held in memory is taken from storage again.
   * @template T
   * @param {() => T} work
   * @returns {T}
   */
  transaction(work) {
    try {
      return this.storage.transaction(work);
    } catch (error) {
      this._takeBack();
      throw error;
    }
  }

  /**
   * Do `work` in one transaction; a failed check rolls it back, is kept as an alarm and stops the collection.
   *
   * False when it was rolled back.
   * @param {number} n
   * @param {Now} now
   * @param {(intake: Intake) => void} work
   * @returns {boolean}
   */
  guarded(n, now, work) {
    const intake = this.intake(n);
    try {
      this.transaction(() => work(intake));
    } catch (error) {
      if (error instanceof CheckFailed) {
        this.raiseAlarm(error.alarm.name, intake.local, error.alarm.detail, error.alarm.seq, now);
      } else if (error instanceof DraftMissing) {
        this.hangUp(`the hub left out a change that this device does not hold: ${error.message}`);
      } else {
        throw error;
      }
      return false;
    }
    return true;
  }

  /**
   * Keep an alarm for the person; its collection takes nothing over and sends nothing until they decide.
   * @param {string} name
   * @param {LocalCollection | null} local
   * @param {string} detail
   * @param {number} seq
   * @param {Now} now
   */
  raiseAlarm(name, local, detail, seq, now) {
    this.transaction(() => {
      this.storage.addAlarm(new StoredAlarm(name, local ? local.name : "", detail, seq, now.wall));
      local?.save({ alarm: name });
    });
    this.effects.push(new Moved());
  }

  /** A person wants to go on: what was stopped is read anew, and what the hub lacks is appended. */
  forgetAlarms() {
    const emptied = this.storage.alarms().some((alarm) => alarm.name === "emptied");
    this.transaction(() => {
      this.storage.clearAlarms();
      this.storage.setSetting("incarnation", null);
      this.storage.setSetting("granted", null);
      for (const local of this.collections.values()) {
        if (!local.row.alarm && !emptied) continue;
        local.newLife(ZERO_ID);
        local.save({ alarm: "", check: new Uint8Array(0) });
      }
    });
    for (const intake of this.intakes.values()) intake.reload();
  }

  /**
   * What gathered since the last call, with what changed in these collections (by default: in all).
   * @param {Iterable<LocalCollection>} [locals]
   * @returns {Effect[]}
   */
  takeEffects(locals = this.collections.values()) {
    for (const local of locals) {
      const changes = local.takeChanged();
      if (changes.length) this.effects.push(new Changed(local.name, changes));
    }
    const effects = this.effects;
    this.effects = [];
    return effects;
  }

  _takeBack() {
    const rows = new Map(this.storage.collections().map((row) => [row.n, row]));
    for (const [n, local] of [...this.collections]) {
      const row = rows.get(n);
      if (!row) {
        this.collections.delete(n);
        continue;
      }
      local.row = row;
      local.forgetChanged();
    }
    for (const intake of this.intakes.values()) intake.reload();
  }
}

/** @param {Uint8Array | null} bytes */
function textOf(bytes) {
  return bytes === null ? "" : fromUtf8(bytes);
}
