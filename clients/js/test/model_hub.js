/**
 * A hub and a device small enough to be believed, and a hub that lies.
 *
 * `ModelHub` is one collection's log in Maps: what an honest hub does, and nothing else. `ModelDevice` seals, reads and
 * checks as a client must, without a local store. `LyingHub` is a ModelHub whose keeper is hostile: each lie is one
 * method, to be called between honest steps.
 */

import { concat, equal, hex, u64 } from "../src/bytes.js";
import {
  CheckFailed, MemoryLiveSet, SyncCheck, addTerm, emptyState, packState, term, unpackState,
} from "../src/check.js";
import { Unopenable, WrongRecord, openSealed, recordPlaintext, seal, splitRecord } from "../src/sealing.js";
import { COLLECTION_KINDS, Kind, ZERO_ID } from "../src/terms.js";
import { parseHeader } from "../src/wire/header.js";

/** @typedef {import("../src/keys.js").SpaceKeys} SpaceKeys */
/** @typedef {import("../src/wire/header.js").Header} Header */
/** @typedef {import("./seeded.js").Seeded} Seeded */
/** @typedef {{ after: number, upto: number, head: number, changes: [number, Uint8Array][] }} Frame */

/** @type {Set<number>} */
const RECORD_KINDS = new Set([Kind.PUT, Kind.DELETE, Kind.DELTA]);
/** @type {Record<number, Set<number>>} */
const REPLACED_BY = {
  [Kind.PUT]: RECORD_KINDS,
  [Kind.DELETE]: RECORD_KINDS,
  [Kind.KEYRING]: new Set([Kind.KEYRING]),
  [Kind.PURGE]: new Set([Kind.PURGE]),
  [Kind.DELTA]: new Set(),
};

/** @type {WeakMap<Uint8Array, Header>} */
const HEADERS = new WeakMap();

/** The header of a sealed change, parsed once. @param {Uint8Array} sealed */
function headerOf(sealed) {
  const header = HEADERS.get(sealed) ?? parseHeader(sealed);
  HEADERS.set(sealed, header);
  return header;
}

/** One collection's log, kept honestly. */
export class ModelHub {
  /** @param {Uint8Array} incarnation */
  constructor(incarnation) {
    this.incarnation = incarnation;
    this.head = 0;
    /** @type {Map<number, Uint8Array>} */
    this.kept = new Map(); // in seq order
    /** @type {Set<number>} */
    this.replaced = new Set(); // kept for history, no longer live
    /** @type {Map<string, number>} */
    this.counters = new Map();
    /** @type {Map<string, { seq: number, sealed: Uint8Array }>} */
    this.receipts = new Map();
    /** @type {Map<string, { counter: number, sealed: Uint8Array }>} */
    this.keptWitnesses = new Map();
  }

  /**
   * The seq of this draft, the same one each time it comes. Throws an Error with the refusal's code.
   * @param {Uint8Array} sealed
   */
  append(sealed) {
    const header = headerOf(sealed);
    const device = hex(header.deviceId);
    const known = this.counters.get(device) ?? 0;
    if (header.counter <= known) return this._answerAgain(header, sealed);
    if (header.counter !== known + 1) throw new Error("out_of_order");
    if (header.conditional && !equal(this._newestId(header), header.base)) throw new Error("conflict");
    this.head += 1;
    this._makeRoom(header);
    this.kept.set(this.head, sealed);
    this.counters.set(device, header.counter);
    this.receipts.set(`${device} ${header.counter}`, { seq: this.head, sealed });
    return this.head;
  }

  /** Drop all that was replaced: the history window has passed. */
  compact() {
    for (const seq of this.replaced) this.kept.delete(seq);
    this.replaced.clear();
  }

  /**
   * The next frame after `after`.
   * @param {number} after
   * @param {{ liveOnly?: boolean, changesMax?: number }} [how]
   * @returns {Frame}
   */
  read(after, { liveOnly = false, changesMax = 500 } = {}) {
    const found = [...this.kept].filter(([seq]) => seq > after && !(liveOnly && this.replaced.has(seq)));
    const page = found.slice(0, changesMax);
    const upto = found.length > changesMax ? page[page.length - 1][0] : this.head;
    return { after, upto, head: this.head, changes: page };
  }

  /**
   * Keep a device's newest witness; false when it is not newer.
   * @param {Uint8Array} sealed
   */
  putWitness(sealed) {
    const { counter, deviceId } = headerOf(sealed);
    if (counter <= (this.keptWitnesses.get(hex(deviceId))?.counter ?? 0)) return false;
    this.keptWitnesses.set(hex(deviceId), { counter, sealed });
    return true;
  }

  /**
   * The newest witness of each other device.
   * @param {Uint8Array} besides
   */
  witnesses(besides) {
    return [...this.keptWitnesses].filter(([device]) => device !== hex(besides)).map(([, { sealed }]) => sealed);
  }

  /**
   * What the digest at the head must be, computed afresh from the live rows.
   * @param {SpaceKeys} keys
   */
  liveDigest(keys) {
    const total = new Uint8Array(32);
    for (const [seq, sealed] of this.kept) {
      const { kind, collectionId, recordId, changeId } = headerOf(sealed);
      if (this.replaced.has(seq) || COLLECTION_KINDS.has(kind)) continue;
      addTerm(total, term(keys.setKey, collectionId, recordId, changeId, seq));
    }
    return total;
  }

  /** A backup. */
  snapshot() {
    return /** @type {this} */ (Object.assign(Object.create(Object.getPrototypeOf(this)), copyOf(this)));
  }

  /**
   * The operator puts a backup back and says so: another life of the log begins.
   * @param {ModelHub} backup
   * @param {Uint8Array} incarnation
   */
  restore(backup, incarnation) {
    Object.assign(this, copyOf(backup), { incarnation });
  }

  /**
   * @param {Header} header
   * @param {Uint8Array} sealed
   */
  _answerAgain(header, sealed) {
    const receipt = this.receipts.get(`${hex(header.deviceId)} ${header.counter}`);
    if (!receipt) throw new Error("wiped");
    if (!equal(receipt.sealed, sealed)) throw new Error("device_cloned");
    return receipt.seq;
  }

  /** @param {Header} header */
  _newestId(header) {
    const same = RECORD_KINDS.has(header.kind) ? RECORD_KINDS : new Set([header.kind]);
    const headers = [...this.kept.values()].map(headerOf);
    const newest = headers.findLast((other) => equal(other.recordId, header.recordId) && same.has(other.kind));
    return newest?.changeId ?? ZERO_ID;
  }

  /** @param {Header} header */
  _makeRoom(header) {
    if (header.kind === Kind.WIPE) {
      for (const gone of [this.kept, this.replaced, this.receipts, this.keptWitnesses]) gone.clear();
      return;
    }
    for (const [seq, sealed] of [...this.kept]) {
      const other = headerOf(sealed);
      if (equal(other.recordId, header.recordId) && REPLACED_BY[header.kind].has(other.kind)) {
        this.replaced.add(seq);
      } else if (header.kind === Kind.PURGE && other.kind === Kind.DELETE && this._isLiveUpto(seq, header.upto)) {
        this.kept.delete(seq);
      }
    }
  }

  /**
   * @param {number} seq
   * @param {number} upto
   */
  _isLiveUpto(seq, upto) {
    return seq <= upto && !this.replaced.has(seq);
  }
}

/** A device that writes, reads and checks one collection; all its randomness comes from `random`. */
export class ModelDevice {
  /**
   * @param {SpaceKeys} keys
   * @param {string} collection
   * @param {Seeded} random
   */
  constructor(keys, collection, random) {
    this.keys = keys;
    this.random = random;
    this.collectionId = keys.collectionId(collection);
    this.deviceId = random.bytes(16);
    this.live = new MemoryLiveSet();
    this.check = new SyncCheck(keys, this.collectionId, this.deviceId, emptyState(), this.live);
    this.counter = 0;
    this.witnessCounter = 0;
    /** @type {Uint8Array[]} */
    this.outbox = [];
    /** @type {Frame | null} */
    this.held = null; // on its way from the hub
    this.readsLiveOnly = true;
  }

  /** What the check remembers. */
  get state() {
    return this.check.state;
  }

  /**
   * Seal one change and put it into the outbox; `upto` is a purge's.
   * @param {number} kind
   * @param {string} [key]
   * @param {Uint8Array} [body]
   * @param {{ upto?: number }} [how]
   */
  draft(kind, key = "", body = new Uint8Array(0), { upto = 0 } = {}) {
    const aboutAll = COLLECTION_KINDS.has(kind);
    const recordId = aboutAll ? ZERO_ID : this.keys.recordId(this.collectionId, key);
    this.counter += 1;
    const sealed = seal(this.keys, {
      kind, flagsConditional: false, collectionId: this.collectionId, recordId, changeId: this.random.bytes(16),
      deviceId: this.deviceId, counter: this.counter, base: this._base(kind, recordId, upto),
      plaintext: aboutAll ? new Uint8Array(0) : recordPlaintext(key, body), nonce: this.random.bytes(24),
    });
    this.outbox.push(sealed);
    return sealed;
  }

  /**
   * Draft and push; the seq of the change.
   * @param {ModelHub} hub
   * @param {number} kind
   * @param {string} [key]
   */
  write(hub, kind, key = "") {
    this.draft(kind, key);
    return this.push(hub);
  }

  /**
   * Have the outbox appended; the seq of its last change.
   * @param {ModelHub} hub
   */
  push(hub) {
    this.greet(hub);
    let seq = 0;
    for (const sealed of this.outbox) seq = hub.append(sealed);
    this.outbox = [];
    return seq;
  }

  /**
   * Connect: learn which life of the log this is.
   * @param {ModelHub} hub
   */
  greet(hub) {
    if (equal(hub.incarnation, this.state.incarnation)) return;
    if (this.state.incarnation.length) { // numbers of another life mean nothing now
      this.outbox = [];
      this.counter = hub.counters.get(hex(this.deviceId)) ?? 0;
    }
    this.check.newLife(hub.incarnation);
    this.held = null;
    this.readsLiveOnly = true;
  }

  /**
   * The hub reads a frame for this device; it arrives with `deliver`.
   * @param {ModelHub} hub
   * @param {number} [changesMax]
   */
  lookUp(hub, changesMax = 500) {
    this.greet(hub);
    this.held ??= hub.read(this.state.seq, { liveOnly: this.readsLiveOnly, changesMax });
  }

  /** The frame arrives: open, check, take over. Throws `CheckFailed`. */
  deliver() {
    const frame = this.held;
    this.held = null;
    if (!frame) return;
    /** @type {[number, Header][]} */
    const entries = frame.changes.map(([seq, sealed]) => [seq, this._open(seq, sealed)]);
    this.check.page(frame.after, frame.upto, frame.head, entries);
    if (this.state.mustStartOver) {
      this.check.startOver();
      this.readsLiveOnly = true;
    } else if (frame.upto === frame.head) {
      this.readsLiveOnly = false;
      this.check.caughtUp(frame.head);
    }
  }

  /**
   * The witnesses of the others arrive. Throws `CheckFailed`.
   * @param {ModelHub} hub
   */
  hear(hub) {
    this.greet(hub);
    for (const sealed of hub.witnesses(this.deviceId)) this.check.witnessSeen(sealed, this.counter);
  }

  /**
   * Push, read on until the end, hear the witnesses. Throws `CheckFailed`.
   * @param {ModelHub} hub
   * @param {number} [changesMax]
   */
  sync(hub, changesMax = 500) {
    this.push(hub);
    do {
      this.lookUp(hub, changesMax);
      this.deliver();
    } while (this.state.seq !== hub.head || this.readsLiveOnly);
    this.hear(hub);
  }

  /**
   * Make a witness and have it kept; null when there is nothing exact to state.
   * @param {ModelHub} hub
   */
  testify(hub) {
    const [changeId, nonce] = [this.random.bytes(16), this.random.bytes(24)];
    const sealed = this.check.makeWitness(this.witnessCounter + 1, changeId, nonce, 0);
    if (sealed && equal(hub.incarnation, this.state.incarnation)) {
      this.witnessCounter += 1;
      hub.putWitness(sealed);
    }
    return sealed;
  }

  /** The process ends and another begins with what was saved. */
  restart() {
    const state = unpackState(packState(this.state));
    this.check = new SyncCheck(this.keys, this.collectionId, this.deviceId, state, this.live);
    this.held = null;
  }

  /**
   * @param {number} kind
   * @param {Uint8Array} recordId
   * @param {number} upto
   */
  _base(kind, recordId, upto) {
    if (kind === Kind.PURGE) return concat(u64(0), u64(upto));
    const newest = this.live.get(recordId).at(-1);
    return newest && kind !== Kind.DELTA ? newest.changeId : ZERO_ID;
  }

  /**
   * @param {number} seq
   * @param {Uint8Array} sealed
   */
  _open(seq, sealed) {
    try {
      const opened = openSealed(this.keys, sealed, { collectionId: this.collectionId });
      if (RECORD_KINDS.has(opened.header.kind)) splitRecord(this.keys, opened);
      return opened.header;
    } catch (error) {
      if (!(error instanceof Unopenable)) throw error;
      const name = error instanceof WrongRecord ? "record_mismatch" : "forged";
      throw new CheckFailed({ name, collectionId: this.collectionId, detail: error.message, seq });
    }
  }
}

/** A hub whose keeper alters what it shows. It holds no key: it can only move bytes about. */
export class LyingHub extends ModelHub {
  /**
   * Leave a change out, as if it had been compacted.
   * @param {number} seq
   */
  omit(seq) {
    this.kept.delete(seq);
    this.replaced.delete(seq);
  }

  /**
   * Leave a change out and renumber what follows, so that no hole shows.
   * @param {number} seq
   */
  omitAndCloseUp(seq) {
    this.omit(seq);
    const closed = (/** @type {number} */ other) => other - Number(other > seq);
    const kept = new Map([...this.kept].map(([other, sealed]) => [closed(other), sealed]));
    Object.assign(this, { kept, replaced: new Set([...this.replaced].map(closed)), head: this.head - 1 });
  }

  /**
   * Forget the changes above `head`; the witnesses stay.
   * @param {number} head
   */
  rollBack(head) {
    Object.assign(this, { kept: new Map([...this.kept].filter(([seq]) => seq <= head)), head });
  }

  /**
   * Show two changes in each other's place.
   * @param {number} one
   * @param {number} other
   */
  swap(one, other) {
    const [first, second] = [this.shown(one), this.shown(other)];
    this.kept.set(one, second).set(other, first);
  }

  /**
   * Put bytes into the log that nobody appended here.
   * @param {Uint8Array} sealed
   */
  insert(sealed) {
    this.head += 1;
    this.kept.set(this.head, sealed);
    return this.head;
  }

  /**
   * Show an old change once more, as a new one.
   * @param {number} seq
   */
  replay(seq) {
    return this.insert(this.shown(seq));
  }

  /**
   * Turn one bit of a sealed change.
   * @param {number} seq
   * @param {number} bit
   */
  flip(seq, bit) {
    const altered = this.shown(seq).slice();
    altered[bit >> 3] ^= 1 << (bit & 7);
    this.kept.set(seq, altered);
  }

  /**
   * Show a replaced change as the live one: everything of its record after it is left out.
   * @param {number} seq
   */
  serveOld(seq) {
    const { recordId } = headerOf(this.shown(seq));
    for (const [other, sealed] of [...this.kept]) {
      if (other > seq && equal(headerOf(sealed).recordId, recordId)) this.omit(other);
    }
    this.replaced.delete(seq);
  }

  /** From here on, tell some devices another story. */
  fork() {
    return this.snapshot();
  }

  /**
   * Hand on this witness of a device instead of its newest.
   * @param {Uint8Array} sealed
   */
  showWitness(sealed) {
    const { counter, deviceId } = headerOf(sealed);
    this.keptWitnesses.set(hex(deviceId), { counter, sealed });
  }

  /**
   * The device's newest witness.
   * @param {ModelDevice} device
   */
  witnessOf(device) {
    const kept = this.keptWitnesses.get(hex(device.deviceId));
    if (!kept) throw new Error("the device has made no witness");
    return kept.sealed;
  }

  /** @param {number} seq */
  shown(seq) {
    const sealed = this.kept.get(seq);
    if (!sealed) throw new Error(`seq ${seq} is not kept`);
    return sealed;
  }
}

/** @param {ModelHub} hub */
function copyOf({ incarnation, head, kept, replaced, counters, receipts, keptWitnesses }) {
  return {
    incarnation, head, kept: new Map(kept), replaced: new Set(replaced), counters: new Map(counters),
    receipts: new Map(receipts), keptWitnesses: new Map(keptWitnesses),
  };
}
