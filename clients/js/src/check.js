/**
 * Detecting a hub that lies about a collection, without I/O.
 *
 * The seal stops a hub from inventing or altering a change. It does not stop it from leaving one out, showing it twice,
 * swapping two, going back to yesterday, or telling two devices two stories. Three things do, none of which the hub can
 * read:
 *
 * * **Counters.** Each device numbers its changes in a collection 1, 2, 3 ...; the number is under the seal. A number
 *   that does not rise was shown before; a jump where nothing was compacted is a hole.
 * * **The digest.** A collection's *live set* is, for each record, its last put or delete, every delta after it, and
 *   its last keyring. The digest is the sum, modulo 2^256, of one keyed hash per live change and its seq. Compaction
 *   never alters it, and two devices at the same seq with the same digest hold the same data.
 * * **Witnesses.** A device says, sealed: "at seq S my digest is D, and these are the last counters I saw". One witness
 *   that reaches another device compares all.
 *
 * What follows from compaction: a frame may have holes, and between two frames of one reading the live set is a mixture
 * of two moments. The digest means something only where the state is *exact*: when no seq was missing since an exact
 * point, or when a frame reaches the head of the very snapshot it was read from.
 *
 * A failed check throws `CheckFailed`. It leaves the state and the live set as they were, but for `state.alarms`, where
 * the alarm is noted once. Nothing is repaired here and nothing is ever deleted because of an alarm.
 * docs/protocol.md "Sync check".
 */

import { concat, equal, hex, u32, u64, unhex } from "./bytes.js";
import { assert } from "./errors.js";
import { mac } from "./mac.js";
import { pack, unpack } from "./msgpack.js";
import { Unopenable, openSealed, seal } from "./sealing.js";
import { ID_BYTES, Kind, LOG_KINDS, ZERO_ID } from "./terms.js";

/** @typedef {import("./keys.js").SpaceKeys} SpaceKeys */
/** @typedef {import("./wire/header.js").Header} Header */
/** @typedef {import("./terms.js").Seq} Seq */

export const RING_POINTS = 256;
export const WITNESS_DEVICES_MAX = 128; // keeps a witness below the limit witnessBytesMax
export const DIGEST_BYTES = 32;

const POINT_BYTES = 8 + DIGEST_BYTES + 4;
const STATEMENT_BYTES = POINT_BYTES; // it begins with the point it is about
const COUNTER_BYTES = ID_BYTES + 8;
const TIME_BYTES = 8;

/** Every alarm and what it says to a person. Names are part of the protocol's document. */
export const ALARMS = Object.freeze({
  rollback: "The hub went back to an earlier state.",
  replay: "The hub showed a change a second time or out of order.",
  gap: "The hub left out a change.",
  omission: "Another device has seen a change that the hub did not show here.",
  digest_mismatch: "Another device holds other data at the same place of the log.",
  clone: "Another device uses this device's identity; one of the two is a copy.",
  witness_regressed: "The hub showed an old statement of another device after a newer one.",
  forged: "The hub showed something that no device of this space has sealed.",
  record_mismatch: "A change was shown under the wrong record.",
  withheld: "Another device is ahead of what the hub calls the end.",
  emptied: "The hub lost the data without a word.",
});

/**
 * One finding: a name of `ALARMS`, and where; `detail` is a sentence without any content.
 * @typedef {{ name: string, collectionId: Uint8Array, detail: string, seq: Seq }} Alarm
 */

/** The hub's answer cannot be true; nothing of it was taken over. */
export class CheckFailed extends Error {
  /** @param {Alarm} alarm */
  constructor(alarm) {
    super(`${alarm.name}: ${alarm.detail}`);
    this.name = "CheckFailed";
    this.alarm = alarm;
  }
}

// --- the live set ----------------------------------------------------------------------------

/**
 * One live change of a record.
 * @typedef {{ changeId: Uint8Array, seq: Seq, kind: number }} LiveEntry
 */

/**
 * The live changes of one collection, by record; the caller's transaction covers it.
 * @typedef {object} LiveSet
 * @property {(recordId: Uint8Array) => LiveEntry[]} get
 *   the record's live changes in seq order; empty when there is none
 * @property {(recordId: Uint8Array, entries: LiveEntry[]) => void} put
 *   these and no others are live now; an empty list removes the record
 * @property {(upto: Seq) => [Uint8Array, LiveEntry][]} tombstones
 *   the live deletes with a seq of at most `upto`, by record, in any order
 * @property {() => void} clear  nothing is live
 * @property {() => number} count  how many changes are live
 */

/** @typedef {Map<string, { recordId: Uint8Array, entries: LiveEntry[] }>} EntriesByRecord  by the record id in hex */

/**
 * A live set in a Map.
 * @implements {LiveSet}
 */
export class MemoryLiveSet {
  constructor() {
    /** @type {EntriesByRecord} */
    this._entries = new Map();
  }

  /**
   * See `LiveSet`.
   * @param {Uint8Array} recordId
   */
  get(recordId) {
    return [...(this._entries.get(hex(recordId))?.entries ?? [])];
  }

  /**
   * See `LiveSet`.
   * @param {Uint8Array} recordId
   * @param {LiveEntry[]} entries
   */
  put(recordId, entries) {
    if (entries.length) this._entries.set(hex(recordId), { recordId, entries: [...entries] });
    else this._entries.delete(hex(recordId));
  }

  /**
   * See `LiveSet`.
   * @param {Seq} upto
   */
  tombstones(upto) {
    return tombstonesOf(this._entries, upto);
  }

  /** See `LiveSet`. */
  clear() {
    this._entries.clear();
  }

  /** See `LiveSet`. */
  count() {
    return [...this._entries.values()].reduce((count, { entries }) => count + entries.length, 0);
  }
}

// --- what is remembered ----------------------------------------------------------------------

/**
 * A device's last counter; `strict` when no change of it can have been left out since.
 * @typedef {{ last: number, strict: boolean }} Counter
 */

/**
 * The digest and the number of live changes at one seq.
 * @typedef {{ seq: Seq, digest: Uint8Array, nLive: number }} Point
 */

/**
 * The counter and the seq of a device's newest witness.
 * @typedef {{ counter: number, seq: Seq }} Witnessed
 */

/**
 * What a witness says. `counters` is by the device id in hex. `atMs` is the witnessing device's clock; for people only.
 * `told` is what the device had stated when a head was last told; above the next head, it is withheld.
 * @typedef {object} Statement
 * @property {Seq} seq
 * @property {Uint8Array} digest
 * @property {number} nLive
 * @property {Map<string, number>} counters
 * @property {number} atMs
 * @property {Seq} told
 */

/**
 * What a device remembers of one collection between two pages; kept with the cursor. Maps are by the device id in hex.
 * @typedef {object} CheckState
 * @property {Uint8Array} incarnation
 * @property {Seq} seq
 * @property {Seq} reached  the highest seq ever held in this incarnation
 * @property {Uint8Array} digest
 * @property {number} nLive
 * @property {boolean} exact
 * @property {boolean} whole  no seq was ever missing, so an unknown device has never written
 * @property {Seq | null} coldHead  the head told when this reading began: purges up to it were done before
 * @property {boolean} mustStartOver
 * @property {Map<string, Counter>} counters  the device seen last comes last
 * @property {Point[]} ring
 * @property {Map<string, Witnessed>} witnesses
 * @property {Map<string, Statement>} pending  witnesses of a seq this device has not reached
 * @property {Alarm[]} alarms
 */

/**
 * The state before anything was seen, but for these fields.
 * @param {Partial<CheckState>} [fields]
 * @returns {CheckState}
 */
export function emptyState(fields = {}) {
  return {
    incarnation: new Uint8Array(0), seq: 0, reached: 0, digest: new Uint8Array(DIGEST_BYTES), nLive: 0, exact: true,
    whole: true, coldHead: null, mustStartOver: false, counters: new Map(), ring: [], witnesses: new Map(),
    pending: new Map(), alarms: [], ...fields,
  };
}

/**
 * The state's bytes, for storage.
 * @param {CheckState} state
 * @returns {Uint8Array}
 */
export function packState(state) {
  const pending = [...state.pending].map(([id, said]) => [id, { ...said, counters: [...said.counters] }]);
  return pack({ ...state, counters: [...state.counters], ring: ringOf(state), witnesses: [...state.witnesses], pending });
}

/**
 * The state of such bytes. They are this device's own: what is wrong with them is not looked for.
 * @param {Uint8Array} packed
 * @returns {CheckState}
 */
export function unpackState(packed) {
  const held = /** @type {any} */ (unpack(packed));
  const pending = held.pending.map((/** @type {[string, any]} */ [id, said]) => [
    id, { ...said, counters: new Map(said.counters) },
  ]);
  const [counters, witnesses] = [new Map(held.counters), new Map(held.witnesses)];
  return emptyState({ ...held, counters, ring: pointsOf(held.ring), witnesses, pending: new Map(pending) });
}

/**
 * The ring in one piece: it is packed with every page, and is nearly all of it.
 * @param {CheckState} state
 */
function ringOf({ ring }) {
  const packed = new Uint8Array(ring.length * POINT_BYTES);
  const view = new DataView(packed.buffer);
  ring.forEach(({ seq, digest, nLive }, n) => {
    const [at, digestAt] = [n * POINT_BYTES, n * POINT_BYTES + 8];
    view.setUint32(at, Math.floor(seq / 2 ** 32));
    view.setUint32(at + 4, seq >>> 0);
    packed.set(digest, digestAt);
    view.setUint32(digestAt + DIGEST_BYTES, nLive);
  });
  return packed;
}

/**
 * @param {Uint8Array} packed
 * @returns {Point[]}
 */
function pointsOf(packed) {
  const view = new DataView(packed.buffer, packed.byteOffset, packed.byteLength);
  return Array.from({ length: packed.length / POINT_BYTES }, (_, n) => {
    const [at, digestAt] = [n * POINT_BYTES, n * POINT_BYTES + 8];
    const digest = packed.slice(digestAt, digestAt + DIGEST_BYTES);
    return { seq: Number(view.getBigUint64(at)), digest, nLive: view.getUint32(digestAt + DIGEST_BYTES) };
  });
}

// --- the check -------------------------------------------------------------------------------

/**
 * Judges what the hub says of one collection, page by page.
 *
 * `state` and `live` are the caller's, who saves both in the transaction that stores the page. A reading that begins
 * with `newLife` or `startOver` asks for live changes only, until it has reached the head once.
 *
 * When `state.mustStartOver` is set, a purge may have dropped tombstones that this device had not seen: call
 * `startOver` and read from 0; records that do not come back were deleted. Until then no digest is compared.
 */
export class SyncCheck {
  /**
   * @param {SpaceKeys} keys
   * @param {Uint8Array} collectionId
   * @param {Uint8Array} deviceId
   * @param {CheckState} state
   * @param {LiveSet} live
   */
  constructor(keys, collectionId, deviceId, state, live) {
    this.state = state;
    this._keys = keys;
    this._collectionId = collectionId;
    this._deviceId = deviceId;
    this._live = live;
  }

  /**
   * Every kept change in (after, upto], opened already, as the hub sent it with its `head`.
   *
   * Verifies the frame, then takes it over: the state stands at `upto`. Throws `CheckFailed` and takes nothing over.
   * @param {Seq} after
   * @param {Seq} upto
   * @param {Seq} head
   * @param {readonly (readonly [Seq, Header])[]} entries
   */
  page(after, upto, head, entries) {
    this._verifyFrame(after, upto, head, entries);
    const next = copied(this.state);
    next.seq = upto;
    next.reached = Math.max(upto, next.reached);
    next.coldHead ??= head;
    const contiguous = entries.length === upto - after;
    const complete = contiguous && next.exact;
    this._count(next, entries, contiguous);
    const fold = new Fold(this._keys.setKey, this._collectionId, this._live, this.state);
    this._apply(next, fold, entries, complete);
    next.exact = (complete || upto === head) && !next.mustStartOver;
    if (next.exact && !complete) next.ring.push(fold.point(upto));
    this._verifyPending(next);
    fold.writeDown();
    this._takeOver(next);
  }

  /**
   * The hub says that its head is `head`. Throws `CheckFailed` when it was higher once.
   * @param {Seq} head
   */
  headSeen(head) {
    const { reached } = this.state;
    if (head < reached) throw this._failed("rollback", `the head is ${head} and was ${reached}`, head);
  }

  /**
   * The hub says that its head is `head`, and that is where this device stands. Call once for each telling.
   *
   * A device that had stated a seq above the head before the previous telling is ahead of what the hub admits. One
   * telling is not enough: an honest hub may have looked up the head just before the witness came.
   * @param {Seq} head
   */
  caughtUp(head) {
    this.headSeen(head);
    const { pending } = this.state;
    for (const { told } of pending.values()) {
      if (told > head) throw this._failed("withheld", `a device stood at ${told} when the head was ${head}`, head);
    }
    for (const [author, statement] of pending) pending.set(author, { ...statement, told: statement.seq });
  }

  /**
   * Another device's witness, as the hub handed it on; the same one may come again.
   *
   * `ownCounter` is the last counter this device has sealed with in this collection, whether or not it was answered. A
   * witness of another life of the log says nothing about this one and is passed over. Throws `CheckFailed`.
   * @param {Uint8Array} sealed
   * @param {number | null} [ownCounter]
   */
  witnessSeen(sealed, ownCounter = null) {
    const { state } = this;
    const { header, statement } = this._openWitness(sealed);
    if (equal(header.deviceId, this._deviceId) || !equal(header.base, state.incarnation)) return;
    const author = hex(header.deviceId);
    const witnessed = { counter: header.counter, seq: statement.seq };
    this._verifyNewer(author, witnessed);
    if (ownCounter !== null && (statement.counters.get(hex(this._deviceId)) ?? 0) > ownCounter) {
      throw this._failed("clone", `a device has seen more than the ${ownCounter} changes of this one`);
    }
    if (statement.seq <= state.seq) {
      this._compare(state, statement);
      state.pending.delete(author);
    } else {
      state.pending.set(author, { ...statement, told: state.pending.get(author)?.told ?? 0 });
    }
    state.witnesses.set(author, witnessed);
  }

  /**
   * This device's sealed witness, or null when there is nothing exact to state.
   *
   * The incarnation goes where other kinds have their base.
   * @param {number} counter  the next of this device's witnesses in this collection, from 1
   * @param {Uint8Array} changeId
   * @param {Uint8Array} nonce
   * @param {number} nowMs
   * @returns {Uint8Array | null}
   */
  makeWitness(counter, changeId, nonce, nowMs) {
    const { state } = this;
    // Below `reached` the device is reading once more, and what it stated must not regress.
    const stated = state.exact && state.seq !== 0 && state.seq >= state.reached;
    if (!stated || state.incarnation.length !== ID_BYTES) return null;
    const seenLast = [...state.counters].slice(-WITNESS_DEVICES_MAX);
    const counters = seenLast.flatMap(([deviceId, { last }]) => [unhex(deviceId), u64(last)]);
    return seal(this._keys, {
      kind: Kind.WITNESS,
      flagsConditional: false,
      collectionId: this._collectionId,
      recordId: ZERO_ID,
      changeId,
      deviceId: this._deviceId,
      counter,
      base: state.incarnation,
      plaintext: concat(u64(state.seq), state.digest, u32(state.nLive), ...counters, u64(nowMs)),
      nonce,
    });
  }

  /**
   * The hub's log begins another life, or the first that this device meets: all but the alarms is forgotten.
   * @param {Uint8Array} incarnation
   */
  newLife(incarnation) {
    this._live.clear();
    this._takeOver(emptyState({ incarnation, alarms: this.state.alarms }));
  }

  /** Read the collection once more from 0, in the same life; next comes `page` with `after` 0. */
  startOver() {
    this._live.clear();
    const { incarnation, reached, ring, witnesses, pending, alarms } = this.state;
    this._takeOver(emptyState({ incarnation, reached, ring, witnesses, pending, alarms }));
  }

  // --- a page, step by step ---

  /**
   * @param {Seq} after
   * @param {Seq} upto
   * @param {Seq} head
   * @param {readonly (readonly [Seq, Header])[]} entries
   */
  _verifyFrame(after, upto, head, entries) {
    this.headSeen(head);
    const expected = this.state.seq;
    if (after !== expected) {
      throw this._failed(after > expected ? "gap" : "replay", `a frame began at ${after}, not at ${expected}`);
    }
    let last = expected;
    for (const [seq] of entries) {
      if (seq <= last) throw this._failed("replay", `seq ${seq} came after ${last}`, seq);
      last = seq;
    }
    if (last > upto) throw this._failed("gap", `a frame up to ${upto} reached ${last}`, last);
    if (head < upto) throw this._failed("rollback", `a frame up to ${upto} came with head ${head}`, head);
    // Nothing can have replaced the newest change, so a frame that reaches the head holds it.
    if (upto === head && head !== last) throw this._failed("omission", "the newest change was missing", head);
  }

  /**
   * @param {CheckState} next
   * @param {readonly (readonly [Seq, Header])[]} entries
   * @param {boolean} contiguous
   */
  _count(next, entries, contiguous) {
    for (const [seq, { kind, deviceId, counter }] of entries) {
      if (!LOG_KINDS.has(kind)) throw this._failed("forged", `a ${nameOf(kind)} has no place in the log`, seq);
      const device = hex(deviceId);
      const { last, strict } = next.counters.get(device) ?? { last: 0, strict: next.whole };
      if (counter <= last) throw this._failed("replay", `counter ${counter} of a device came after ${last}`, seq);
      if (contiguous && strict && counter !== last + 1) {
        throw this._failed("gap", `counter ${counter} of a device came after ${last}`, seq);
      }
      next.counters.delete(device); // so that it comes last
      next.counters.set(device, { last: counter, strict: true });
    }
    if (contiguous) return;
    next.whole = false;
    for (const [device, { last }] of next.counters) next.counters.set(device, { last, strict: false });
  }

  /**
   * @param {CheckState} next
   * @param {Fold} fold
   * @param {readonly (readonly [Seq, Header])[]} entries
   * @param {boolean} complete
   */
  _apply(next, fold, entries, complete) {
    for (const [seq, header] of entries) {
      if (header.kind === Kind.WIPE) {
        next.mustStartOver = false; // whatever was missed is gone
      } else if (header.kind === Kind.PURGE && !complete && seq > (next.coldHead ?? 0)) {
        next.mustStartOver = true;
      }
      fold.apply(seq, header);
      if (complete) next.ring.push(fold.point(seq));
    }
    const { digest, nLive } = fold.point(next.seq);
    Object.assign(next, { digest, nLive });
  }

  /** @param {CheckState} next */
  _verifyPending(next) {
    for (const [author, statement] of this.state.pending) {
      if (statement.seq > next.seq) continue;
      this._compare(next, statement);
      next.pending.delete(author);
    }
  }

  /**
   * Hold a witness against `state`, which has reached its seq.
   * @param {CheckState} state
   * @param {Statement} statement
   */
  _compare(state, statement) {
    const own = hex(this._deviceId);
    for (const [device, counter] of statement.counters) {
      const { last, strict } = state.counters.get(device) ?? { last: 0, strict: state.whole };
      if (strict && counter > last) {
        const name = device === own ? "clone" : "omission";
        throw this._failed(name, `counter ${counter} of a device is known elsewhere, here ${last}`);
      }
    }
    for (const point of state.ring.toReversed()) {
      if (point.seq !== statement.seq) continue;
      const agrees = equal(point.digest, statement.digest) && point.nLive === statement.nLive;
      if (!agrees) throw this._failed("digest_mismatch", "the digests differ", statement.seq);
    }
  }

  // --- witnesses ---

  /**
   * @param {Uint8Array} sealed
   * @returns {{ header: Header, statement: Statement }}
   */
  _openWitness(sealed) {
    try {
      const { header, plaintext } = openSealed(this._keys, sealed, { collectionId: this._collectionId });
      if (header.kind !== Kind.WITNESS) throw new Unopenable("not a witness");
      return { header, statement: parseStatement(plaintext) };
    } catch (error) {
      if (error instanceof Unopenable) throw this._failed("forged", `a witness: ${error.message}`);
      throw error;
    }
  }

  /**
   * @param {string} author
   * @param {Witnessed} witnessed
   */
  _verifyNewer(author, { counter, seq }) {
    const newest = this.state.witnesses.get(author);
    if (!newest || (counter === newest.counter && seq === newest.seq)) return;
    if (counter <= newest.counter || seq < newest.seq) {
      const detail = `number ${counter} at seq ${seq} came after ${newest.counter} at ${newest.seq}`;
      throw this._failed("witness_regressed", detail, seq);
    }
  }

  // --- the outcome ---

  /**
   * @param {keyof typeof ALARMS} name
   * @param {string} detail
   * @param {Seq} [seq]
   */
  _failed(name, detail, seq = this.state.seq) {
    const alarm = { name, collectionId: this._collectionId, detail, seq };
    if (!this.state.alarms.some((noted) => sameAlarm(noted, alarm))) this.state.alarms.push(alarm);
    return new CheckFailed(alarm);
  }

  /** @param {CheckState} next */
  _takeOver(next) {
    next.ring = next.ring.slice(-RING_POINTS);
    Object.assign(this.state, next);
  }
}

/** What a page makes of a live set and its digest; written down only when the page has passed. */
class Fold {
  /**
   * @param {Uint8Array} setKey
   * @param {Uint8Array} collectionId
   * @param {LiveSet} live
   * @param {CheckState} state
   */
  constructor(setKey, collectionId, live, state) {
    this._setKey = setKey;
    this._collectionId = collectionId;
    this._live = live;
    this._emptied = false;
    /** @type {EntriesByRecord} */
    this._changed = new Map();
    this._digest = state.digest.slice();
    this._nLive = state.nLive;
  }

  /**
   * The change `header` is next.
   * @param {Seq} seq
   * @param {Header} header
   */
  apply(seq, header) {
    const { kind, recordId, changeId } = header;
    if (kind === Kind.WIPE) {
      this._wipe();
    } else if (kind === Kind.PURGE) {
      for (const [purged, tombstone] of this._tombstonesUpto(header.upto)) this._remove(purged, tombstone);
    } else {
      if (kind !== Kind.DELTA) this._replace(recordId, kind);
      this._add(recordId, { changeId, seq, kind });
    }
  }

  /**
   * The digest after the change with this seq.
   * @param {Seq} seq
   * @returns {Point}
   */
  point(seq) {
    return { seq, digest: this._digest.slice(), nLive: this._nLive };
  }

  /** Carry everything over to the live set that this began with. */
  writeDown() {
    if (this._emptied) this._live.clear();
    for (const { recordId, entries } of this._changed.values()) this._live.put(recordId, entries);
  }

  /** @param {Uint8Array} recordId */
  _own(recordId) {
    const key = hex(recordId);
    let changed = this._changed.get(key);
    if (!changed) {
      changed = { recordId, entries: this._emptied ? [] : [...this._live.get(recordId)] };
      this._changed.set(key, changed);
    }
    return changed.entries;
  }

  /**
   * Drop what a change of this kind takes the place of: a keyring that of a keyring, all others that of the others.
   * @param {Uint8Array} recordId
   * @param {number} kind
   */
  _replace(recordId, kind) {
    for (const other of [...this._own(recordId)]) {
      if ((other.kind === Kind.KEYRING) === (kind === Kind.KEYRING)) this._remove(recordId, other);
    }
  }

  /**
   * @param {Uint8Array} recordId
   * @param {LiveEntry} entry
   */
  _add(recordId, entry) {
    this._own(recordId).push(entry);
    this._nLive += 1;
    addTerm(this._digest, this._term(recordId, entry));
  }

  /**
   * @param {Uint8Array} recordId
   * @param {LiveEntry} entry
   */
  _remove(recordId, entry) {
    const own = this._own(recordId);
    const at = own.findIndex(({ seq }) => seq === entry.seq);
    assert(at >= 0, "what is not live cannot be removed");
    own.splice(at, 1);
    this._nLive -= 1;
    subtractTerm(this._digest, this._term(recordId, entry));
  }

  _wipe() {
    this._emptied = true;
    this._changed.clear();
    this._digest.fill(0);
    this._nLive = 0;
  }

  /**
   * @param {Seq} upto
   * @returns {[Uint8Array, LiveEntry][]}
   */
  _tombstonesUpto(upto) {
    const kept = this._emptied ? [] : this._live.tombstones(upto);
    const untouched = kept.filter(([recordId]) => !this._changed.has(hex(recordId)));
    return [...untouched, ...tombstonesOf(this._changed, upto)];
  }

  /**
   * @param {Uint8Array} recordId
   * @param {LiveEntry} entry
   */
  _term(recordId, { changeId, seq }) {
    return term(this._setKey, this._collectionId, recordId, changeId, seq);
  }
}

/**
 * What one live change adds to the digest: a keyed hash as a 256-bit number, big-endian.
 * @param {Uint8Array} setKey
 * @param {Uint8Array} collectionId
 * @param {Uint8Array} recordId
 * @param {Uint8Array} changeId
 * @param {Seq} seq
 * @returns {Uint8Array}
 */
export function term(setKey, collectionId, recordId, changeId, seq) {
  return mac(setKey, collectionId, recordId, changeId, u64(seq));
}

/**
 * Adds a term to the digest, in place, modulo 2^256.
 * @param {Uint8Array} digest
 * @param {Uint8Array} added
 */
export function addTerm(digest, added) {
  for (let at = DIGEST_BYTES - 1, carry = 0; at >= 0; at--) {
    carry += digest[at] + added[at];
    digest[at] = carry & 0xff;
    carry >>= 8;
  }
}

/**
 * Takes a term from the digest, in place, modulo 2^256.
 * @param {Uint8Array} digest
 * @param {Uint8Array} taken
 */
export function subtractTerm(digest, taken) {
  for (let at = DIGEST_BYTES - 1, borrow = 0; at >= 0; at--) {
    borrow += digest[at] - taken[at];
    digest[at] = borrow & 0xff;
    borrow >>= 8; // stays -1 below zero
  }
}

// --- helpers ---------------------------------------------------------------------------------

/**
 * @param {EntriesByRecord} entriesByRecord
 * @param {Seq} upto
 * @returns {[Uint8Array, LiveEntry][]}
 */
function tombstonesOf(entriesByRecord, upto) {
  /** @type {[Uint8Array, LiveEntry][]} */
  const found = [];
  for (const { recordId, entries } of entriesByRecord.values()) {
    for (const entry of entries) if (entry.kind === Kind.DELETE && entry.seq <= upto) found.push([recordId, entry]);
  }
  return found;
}

/**
 * @param {Uint8Array} plaintext
 * @returns {Statement}
 */
function parseStatement(plaintext) {
  const rest = plaintext.length - STATEMENT_BYTES - TIME_BYTES;
  if (rest < 0 || rest % COUNTER_BYTES) throw new Unopenable("its length is wrong");
  const view = new DataView(plaintext.buffer, plaintext.byteOffset, plaintext.byteLength);
  /** @type {Map<string, number>} */
  const counters = new Map();
  for (let at = STATEMENT_BYTES; at < STATEMENT_BYTES + rest; at += COUNTER_BYTES) {
    counters.set(hex(plaintext.subarray(at, at + ID_BYTES)), whole(view, at + ID_BYTES));
  }
  const digest = plaintext.slice(8, 8 + DIGEST_BYTES);
  const nLive = view.getUint32(8 + DIGEST_BYTES);
  return { seq: whole(view, 0), digest, nLive, counters, atMs: whole(view, plaintext.length - TIME_BYTES), told: 0 };
}

/**
 * The u64 at this place.
 * @param {DataView} view
 * @param {number} at
 */
function whole(view, at) {
  const number = Number(view.getBigUint64(at));
  if (!Number.isSafeInteger(number)) throw new Unopenable("a number of 2^53 or beyond");
  return number;
}

/**
 * A copy to work on; only `alarms` stays the caller's own, so that a failure is noted at once.
 * @param {CheckState} state
 * @returns {CheckState}
 */
function copied(state) {
  return { ...state, counters: new Map(state.counters), ring: [...state.ring], pending: new Map(state.pending) };
}

/**
 * @param {Alarm} one
 * @param {Alarm} other
 */
function sameAlarm(one, other) {
  const samePlace = equal(one.collectionId, other.collectionId) && one.seq === other.seq;
  return samePlace && one.name === other.name && one.detail === other.detail;
}

/** @param {number} kind */
function nameOf(kind) {
  return Object.entries(Kind).find(([, number]) => number === kind)?.[0].toLowerCase() ?? `kind ${kind}`;
}
