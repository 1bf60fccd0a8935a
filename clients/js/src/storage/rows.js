/**
 * The rows of local storage and the ways in which it fails: plain data, frozen, without I/O.
 *
 * Bodies are the opened bytes of `encodeBody` in `values.js`; null stands for no value.
 * Bytes handed over must not be altered afterwards.
 */

import { ZERO_ID } from "../terms.js";

const NOTHING = new Uint8Array(0);
const SHORT_BYTES = 64; // up to there a copy costs less than to ask for the buffer, which V8 makes only then

/** Where an outbox row stands. */
export const State = Object.freeze({
  WAITING: 0, // not sealed; a further edit replaces its value
  SEALED: 1, // its bytes are fixed and may be at the hub
  ACKED: 2, // in the log; kept until the cursor covers it
  CONFLICT: 3, // another change, or a wipe, came first; settled once the cursor covers that one
  PARKED: 4, // waits for a person
});

/** How this device has one collection.  `n` is its number here and nowhere else. */
export class CollectionRow {
  /** @param {{n: number} & Partial<CollectionRow>} fields */
  constructor(fields) {
    /** @type {number} */
    this.n = fields.n;
    /** @type {string | null} null: the hub told of it, and no app has opened it by name yet */
    this.name = fields.name ?? null;
    /** @type {Uint8Array | null} null: the name is known, the app key not yet */
    this.collectionId = ownOrNull(fields.collectionId);
    this.incarnation = own(fields.incarnation ?? ZERO_ID);
    /** @type {number} the cursor: everything up to here is in the records */
    this.seq = fields.seq ?? 0;
    /** @type {boolean} reached the head at least once in this incarnation */
    this.caughtUp = fields.caughtUp ?? false;
    /** @type {boolean} a new life; what is missing there is appended after catching up */
    this.healing = fields.healing ?? false;
    /** @type {number} the last counter given to a sealed draft */
    this.counter = fields.counter ?? 0;
    /** @type {number} the last counter known to be in the log */
    this.answered = fields.answered ?? 0;
    /** @type {number} */
    this.witnessCounter = fields.witnessCounter ?? 0;
    /** @type {number} what our last witness spoke about */
    this.witnessSeq = fields.witnessSeq ?? 0;
    /** the packed CheckState */
    this.check = own(fields.check ?? NOTHING);
    /** @type {string} the alarm that stopped this collection */
    this.alarm = fields.alarm ?? "";
    Object.freeze(this);
  }
}

/** One record: what the log confirmed up to the cursor, and what the person sees. */
export class RecordRow {
  /** @param {{key: string} & Partial<RecordRow>} fields */
  constructor(fields) {
    /** @type {string} */
    this.key = fields.key;
    /** @type {Uint8Array | null} the confirmed body */
    this.value = ownOrNull(fields.value);
    /** its newest change in the log; zero: the log has none */
    this.changeId = own(fields.changeId ?? ZERO_ID);
    /** @type {number} */
    this.seq = fields.seq ?? 0;
    /** the last changes it went through, 16 bytes each */
    this.ancestors = own(fields.ancestors ?? NOTHING);
    /** @type {Uint8Array | null} what the person sees instead of `value` when `dirty` */
    this.local = ownOrNull(fields.local);
    /** @type {boolean} */
    this.dirty = fields.dirty ?? false;
    /** while healing: its newest change in the log's former life */
    this.former = own(fields.former ?? NOTHING);
    /** while healing: the changes and bases the new life showed of it */
    this.seen = own(fields.seen ?? NOTHING);
    Object.freeze(this);
  }

  /** The body the person sees. */
  get view() {
    return this.dirty ? this.local : this.value;
  }
}

/** A delta since the record's last put; seq 0 while healing: not yet seen in the new life. */
export class DeltaRow {
  /**
   * @param {Uint8Array} changeId
   * @param {number} seq
   * @param {Uint8Array} body
   */
  constructor(changeId, seq, body) {
    this.changeId = own(changeId);
    this.seq = seq;
    this.body = own(body);
    Object.freeze(this);
  }
}

/** One local edit on its way into the log. */
export class OutboxRow {
  /** @param {{collection: number, key: string, changeId: Uint8Array, kind: number} & Partial<OutboxRow>} fields */
  constructor(fields) {
    /** @type {number} its place; given by `addRow` */
    this.n = fields.n ?? 0;
    /** @type {number} */
    this.collection = fields.collection;
    /** @type {string} empty for a wipe */
    this.key = fields.key;
    this.changeId = own(fields.changeId);
    /** @type {number} of `Kind` */
    this.kind = fields.kind;
    /** @type {number} of `State` */
    this.state = fields.state ?? State.WAITING;
    /** @type {boolean} */
    this.conditional = fields.conditional ?? true;
    /** @type {boolean} a put of what is in the log already; dropped when it conflicts */
    this.snapshot = fields.snapshot ?? false;
    /** @type {Uint8Array | null} the body the edit was made on */
    this.baseValue = ownOrNull(fields.baseValue);
    /** @type {Uint8Array | null} */
    this.value = ownOrNull(fields.value);
    /** @type {number} */
    this.counter = fields.counter ?? 0;
    this.sealed = own(fields.sealed ?? NOTHING);
    /** @type {number} with ACKED: its own; with SEALED: of the last wipe read while it was out */
    this.seq = fields.seq ?? 0;
    /** @type {number} with CONFLICT: the cursor must cover this first */
    this.needSeq = fields.needSeq ?? 0;
    /** @type {string} with PARKED: why */
    this.reason = fields.reason ?? "";
    /** change ids of edits that were folded into this one */
    this.standsFor = own(fields.standsFor ?? NOTHING);
    /** @type {number} this device's clock, for the status only */
    this.writtenAt = fields.writtenAt ?? 0;
    Object.freeze(this);
  }
}

/**
 * One live change of a record, as it is held.
 *
 * @param {import("../check.js").LiveEntry} entry
 * @returns {import("../check.js").LiveEntry}
 */
export function liveEntry({ changeId, seq, kind }) {
  return Object.freeze({ changeId: own(changeId), seq, kind });
}

/** How much waits in the outbox; `oldestAt` is 0 when nothing does. */
export class Backlog {
  /**
   * @param {number} unsynced
   * @param {number} parked
   * @param {number} oldestAt
   */
  constructor(unsynced, parked, oldestAt) {
    this.unsynced = unsynced;
    this.parked = parked;
    this.oldestAt = oldestAt;
    Object.freeze(this);
  }
}

/** An alarm of the sync check, with when this device raised it. */
export class StoredAlarm {
  /**
   * @param {string} name
   * @param {string} collection
   * @param {string} detail
   * @param {number} seq
   * @param {number} raisedAt
   */
  constructor(name, collection, detail, seq, raisedAt) {
    this.name = name;
    this.collection = collection;
    this.detail = detail;
    this.seq = seq;
    this.raisedAt = raisedAt;
    Object.freeze(this);
  }
}

/**
 * The row with other values in some fields.  Throws TypeError for a field it does not have.
 *
 * @template {object} Row
 * @param {Row} row
 * @param {Partial<Row>} fields
 * @returns {Row}
 */
export function replace(row, fields) {
  const other = Object.assign(Object.create(Object.getPrototypeOf(row)), row);
  for (const [name, value] of Object.entries(fields)) {
    if (!Object.hasOwn(row, name)) throw new TypeError(`${row.constructor.name} has no field ${name}`);
    other[name] = value instanceof Uint8Array ? own(value) : value;
  }
  return Object.freeze(other);
}

/**
 * The bytes in a buffer of their own: a view would keep the whole frame alive that it was cut from, in memory and,
 * copied by the database, on the disk.
 *
 * @param {Uint8Array} bytes
 */
export function own(bytes) {
  if (bytes.length <= SHORT_BYTES) return bytes.length ? new Uint8Array(bytes) : NOTHING;
  const alone = bytes.byteLength === bytes.buffer.byteLength && bytes.constructor === Uint8Array;
  return alone ? bytes : new Uint8Array(bytes);
}

/** @param {Uint8Array | null | undefined} bytes */
function ownOrNull(bytes) {
  return bytes == null ? null : own(bytes);
}

// --- errors ----------------------------------------------------------------------------------

/** The database did not keep what was written; `final` when trying again cannot help. */
export class StorageFailed extends Error {
  /**
   * @param {string} message
   * @param {{final?: boolean, cause?: unknown}} [options]
   */
  constructor(message, { final = false, cause } = {}) {
    super(message, { cause });
    this.name = new.target.name;
    this.final = final;
  }
}

/** The database was written by a newer program. */
export class StorageTooNew extends StorageFailed {}

/** The database holds something else than a device's storage. */
export class StorageForeign extends StorageFailed {}

/** Another tab has opened the database for writing; what this one holds in memory may be old. */
export class StorageTaken extends StorageFailed {}

/** The database was deleted under way. */
export class StorageGone extends StorageFailed {}
