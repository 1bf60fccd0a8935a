/**
 * Local edits on their way into the log, without I/O: sealed in order, sent in batches, answered one by one.
 *
 * An edit is sealed at the last moment: only then are its base and its counter known.
 * From then on its bytes are fixed, and the very same bytes are sent until they are
 * answered, over any number of connections and restarts; so it is in the log at most once.
 *
 * A refused draft uses up no counter, and what was in flight behind it comes back
 * `out_of_order`.  Those rows, and only those, lose their seal and are sealed anew with
 * new counters, once nothing of their collection is in flight any more.
 */

import { equal } from "./bytes.js";
import { isWhole } from "./collection.js";
import { assert } from "./errors.js";
import { paddedBytes, recordPlaintext, seal } from "./sealing.js";
import { State, replace } from "./storage.js";
import { COLLECTION_KINDS, Kind, ZERO_ID } from "./terms.js";
import { NONCE_BYTES, SEALED_BYTES_MIN } from "./wire/header.js";

/** @typedef {import("./collection.js").LocalCollection} LocalCollection */
/** @typedef {import("./keys.js").SpaceKeys} SpaceKeys */
/** @typedef {import("./storage.js").OutboxRow} OutboxRow */
/** @typedef {import("./storage.js").Storage} Storage */
/** @typedef {import("./terms.js").Limits} Limits */
/** @typedef {import("./wire/messages.js").DraftAnswer} DraftAnswer */

/** @typedef {{ n: number, collection: number, counter: number }} InFlight one draft of a request without an answer */
/** @typedef {{ drafts: Uint8Array[], flights: InFlight[] }} Batch the drafts of one request, in order */

export const BATCH_BYTES_MAX = 200 * 1024; // below a frame, above the largest draft
const NOTHING = new Uint8Array(0);

/** The outbox of one space.  Calls that write belong into a storage transaction of the caller. */
export class Outbox {
  /**
   * @param {Storage} storage
   * @param {SpaceKeys} keys
   * @param {Uint8Array} deviceId
   * @param {Map<number, LocalCollection>} collections
   * @param {(size: number) => Uint8Array} fresh
   */
  constructor(storage, keys, deviceId, collections, fresh) {
    this._storage = storage;
    this._keys = keys;
    this._deviceId = deviceId;
    this._collections = collections;
    this._fresh = fresh;
    /** @type {Map<number, number>} how many drafts, by collection */
    this._inFlight = new Map();
    /** @type {Set<number>} the rows of those drafts */
    this._sent = new Set();
    /** @type {Set<number>} collections that may hold sealed rows not in flight */
    this._resend = new Set(collections.keys());
    /** @type {Set<number>} collections whose next counter is not certain after a refusal */
    this._refused = new Set();
    this._overQuota = false;
    this._wiping = false;
  }

  /** Nothing is in flight on a new connection, and what the last one left sealed is sent again. */
  sessionBegan() {
    this._inFlight.clear();
    this._sent.clear();
    this._resend = new Set(this._collections.keys());
    this._overQuota = false;
  }

  /**
   * From now on send wipes and what is sealed already, and nothing else.
   * @param {boolean} on
   */
  wipeOnly(on) {
    this._wiping = on;
  }

  /** The account may have room: try again what was over quota. */
  roomAgain() {
    this._overQuota = false;
  }

  /** Whether edits wait because the account is full. */
  get overQuota() {
    return this._overQuota;
  }

  // --- sending ---

  /**
   * The next drafts of these collections, sealed and kept; null when there is nothing to send.
   * @param {number[]} eligible
   * @param {Limits} limits
   * @returns {Batch | null}
   */
  nextBatch(eligible, limits) {
    const filling = new Filling(limits);
    for (const n of eligible.filter((n) => this._resend.has(n))) {
      if (!this._sendAgain(n, filling)) return this._depart(filling);
      this._resend.delete(n);
    }
    const ready = eligible.filter((n) => this._maySeal(n));
    if (ready.length) this._sealWaiting(ready, filling, limits);
    return this._depart(filling);
  }

  /**
   * Whether a draft of the collection has no answer yet.
   * @param {number} collection
   */
  isInFlight(collection) {
    return Boolean(this._inFlight.get(collection));
  }

  /**
   * Add the collection's sealed rows that are not in flight; false when the batch is full.
   * @param {number} n
   * @param {Filling} filling
   */
  _sendAgain(n, filling) {
    const rows = this._storage.rowsIn(n, State.SEALED).filter((row) => !this._sent.has(row.n));
    return rows.sort((one, other) => one.counter - other.counter).every((row) => filling.add(row));
  }

  /** @param {number} n */
  _maySeal(n) {
    if (!this._refused.has(n)) return true;
    if (this.isInFlight(n)) return false;
    // The refused counters are free again; those of rows that are still sealed are not.
    const local = this._local(n);
    const taken = this._storage.rowsIn(n, State.SEALED).map((row) => row.counter);
    local.save({ counter: taken.reduce((most, counter) => Math.max(most, counter), local.row.answered) });
    this._refused.delete(n);
    return true;
  }

  /**
   * @param {number[]} ready
   * @param {Filling} filling
   * @param {Limits} limits
   */
  _sealWaiting(ready, filling, limits) {
    const counters = new Map(ready.map((n) => [n, this._local(n).row.counter]));
    let after = 0;
    for (;;) {
      const rows = this._storage.waiting(ready, limits.draftsPerAppendMax, { after, freeingOnly: this._overQuota });
      if (!rows.length) break;
      after = rows[rows.length - 1].n;
      // A false end: the batch is full. Rows that must wait are passed by, so that they hold up nobody.
      if (!rows.every((row) => this._sealInto(row, counters, filling, limits))) break;
    }
    for (const [n, counter] of counters) {
      if (counter !== this._local(n).row.counter) this._local(n).save({ counter });
    }
  }

  /**
   * Seal one row into the batch, or pass it by; false when the batch is full.
   * @param {OutboxRow} row
   * @param {Map<number, number>} counters
   * @param {Filling} filling
   * @param {Limits} limits
   */
  _sealInto(row, counters, filling, limits) {
    if (this._wiping && row.kind !== Kind.WIPE) return true;
    const before = this._before(row);
    if (!mayFollow(row, before)) return true;
    const base = this._base(row, before);
    if (row.kind === Kind.DELETE && equal(base, ZERO_ID)) {
      this._local(row.collection).doneWith(row); // the log has nothing to delete
      return true;
    }
    const plaintext = row.kind === Kind.WIPE ? NOTHING : recordPlaintext(row.key, row.value ?? NOTHING);
    const size = SEALED_BYTES_MIN + paddedBytes(plaintext.length);
    if (size > limits.draftBytesMax) {
      this._storage.saveRow(replace(row, { state: State.PARKED, reason: "too_large" }));
      return true;
    }
    if (!filling.hasRoom(size)) return false;
    const counter = /** @type {number} */ (counters.get(row.collection)) + 1;
    counters.set(row.collection, counter);
    const sealed = this._seal(row, base, counter, plaintext);
    const departing = replace(row, { state: State.SEALED, counter, sealed });
    this._storage.saveRow(departing);
    return filling.add(departing);
  }

  /**
   * The record's rows before this one, in order.
   * @param {OutboxRow} row
   */
  _before(row) {
    return this._storage.rowsOf(row.collection, row.key).filter((other) => other.n < row.n);
  }

  /**
   * @param {OutboxRow} row
   * @param {OutboxRow[]} before
   */
  _base(row, before) {
    if (!isWhole(row)) return ZERO_ID;
    if (before.length) return before[before.length - 1].changeId;
    return this._storage.record(row.collection, row.key)?.changeId ?? ZERO_ID;
  }

  /**
   * @param {OutboxRow} row
   * @param {Uint8Array} base
   * @param {number} counter
   * @param {Uint8Array} plaintext
   */
  _seal(row, base, counter, plaintext) {
    const { collectionId } = this._local(row.collection).row;
    assert(collectionId !== null, "a collection without an id was let in");
    return seal(this._keys, {
      kind: row.kind,
      flagsConditional: row.conditional && isWhole(row),
      collectionId,
      recordId: COLLECTION_KINDS.has(row.kind) ? ZERO_ID : this._keys.recordId(collectionId, row.key),
      changeId: row.changeId,
      deviceId: this._deviceId,
      counter,
      base,
      plaintext,
      nonce: this._fresh(NONCE_BYTES),
    });
  }

  /**
   * @param {Filling} filling
   * @returns {Batch | null}
   */
  _depart(filling) {
    for (const flight of filling.flights) {
      this._sent.add(flight.n);
      this._inFlight.set(flight.collection, (this._inFlight.get(flight.collection) ?? 0) + 1);
    }
    return filling.drafts.length ? { drafts: filling.drafts, flights: filling.flights } : null;
  }

  // --- answers ---

  /**
   * Take the hub's word on each draft; the refusal codes that somebody must hear of, in order.
   * @param {InFlight[]} flights
   * @param {DraftAnswer[]} answers
   * @returns {string[]}
   */
  answered(flights, answers) {
    assert(flights.length === answers.length, "an answer for each draft");
    this._landed(flights);
    /** @type {string[]} */
    const codes = [];
    flights.forEach((flight, at) => {
      const answer = answers[at];
      const row = this._storage.row(flight.n);
      if (answer.code === "" || answer.code === "wiped") {
        this._accepted(flight, row, answer);
        return;
      }
      this._refused.add(flight.collection);
      // The row is gone when its change arrived under another device's name.
      if (row !== null && row.state === State.SEALED) this._refuse(row, answer);
      if (answer.code !== "conflict" && answer.code !== "out_of_order") codes.push(answer.code);
    });
    return codes;
  }

  /**
   * The request was refused as a whole: the same bytes go again, since they may be in the log.
   * @param {InFlight[]} flights
   */
  unanswered(flights) {
    this._landed(flights);
    for (const flight of flights) this._resend.add(flight.collection);
  }

  /**
   * @param {InFlight} flight
   * @param {OutboxRow | null} row
   * @param {DraftAnswer} answer
   */
  _accepted(flight, row, answer) {
    const local = this._local(flight.collection);
    if (flight.counter > local.row.answered) local.save({ answered: flight.counter });
    if (row === null) return;
    if (answer.code) local.wipedAway(row);
    else if (answer.seq <= local.row.seq) local.doneWith(row); // the log has replaced it since, and will not show it
    else this._storage.saveRow(replace(row, { state: State.ACKED, seq: answer.seq }));
  }

  /**
   * @param {OutboxRow} row
   * @param {DraftAnswer} answer
   */
  _refuse(row, answer) {
    let loose = unsealed(row);
    if (answer.code === "conflict") {
      loose = replace(loose, { state: State.CONFLICT, needSeq: Math.max(row.needSeq, this._lostAgainst(row, answer)) });
    } else if (answer.code === "quota_exceeded") {
      this._overQuota = true;
    } else if (answer.code === "too_large" || answer.code === "bad_draft") {
      loose = replace(loose, { state: State.PARKED, reason: answer.code });
    }
    this._storage.saveRow(loose);
  }

  /**
   * The seq that must be read before this conflict can be settled.
   * @param {OutboxRow} row
   * @param {DraftAnswer} answer
   */
  _lostAgainst(row, answer) {
    if (answer.newestSeq === 0 && !equal(this._base(row, this._before(row)), ZERO_ID)) {
      // The log has not got the base any more, and a wipe or purge that says so has not been read.
      return this._local(row.collection).row.seq + 1;
    }
    return answer.newestSeq;
  }

  /** @param {InFlight[]} flights */
  _landed(flights) {
    for (const flight of flights) {
      this._sent.delete(flight.n);
      this._inFlight.set(flight.collection, (this._inFlight.get(flight.collection) ?? 0) - 1);
    }
  }

  /** @param {number} n */
  _local(n) {
    return /** @type {LocalCollection} */ (this._collections.get(n));
  }
}

/**
 * A sealed row that is not in the log and may be sealed anew; one that collided meanwhile is in conflict.
 * @param {OutboxRow} row
 * @returns {OutboxRow}
 */
export function unsealed(row) {
  return replace(row, { state: row.needSeq ? State.CONFLICT : State.WAITING, sealed: NOTHING, counter: 0, seq: 0 });
}

/**
 * Whether the row may be sealed behind those before it.
 * @param {OutboxRow} row
 * @param {OutboxRow[]} before
 */
function mayFollow(row, before) {
  if (before.some((other) => other.state !== State.SEALED && other.state !== State.ACKED)) return false;
  // A delta is taken whatever came before it, so it proves nothing about the log; wait until it is seen there.
  return !(isWhole(row) && before.some((other) => other.kind === Kind.DELTA));
}

/** A request that is being filled, within the bounds of a frame. */
class Filling {
  /** @param {Limits} limits */
  constructor(limits) {
    /** @type {Uint8Array[]} */
    this.drafts = [];
    /** @type {InFlight[]} */
    this.flights = [];
    this._draftsLeft = limits.draftsPerAppendMax;
    this._bytesLeft = Math.min(BATCH_BYTES_MAX, limits.frameBytesMax - 1024);
  }

  /** @param {number} size */
  hasRoom(size) {
    return this._draftsLeft > 0 && (size <= this._bytesLeft || !this.drafts.length);
  }

  /**
   * False, and nothing added, when it does not fit.
   * @param {OutboxRow} row
   */
  add(row) {
    if (!this.hasRoom(row.sealed.length)) return false;
    this.drafts.push(row.sealed);
    this.flights.push({ n: row.n, collection: row.collection, counter: row.counter });
    this._draftsLeft -= 1;
    this._bytesLeft -= row.sealed.length;
    return true;
  }
}
