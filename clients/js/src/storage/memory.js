/**
 * The promise of local storage kept in memory: the model, and what every keeper reads and writes.
 *
 * Nothing survives the process by itself.  A keeper is a subclass that loads what it kept with `_load`, takes over
 * the write-set of each finished transaction with `_keep`, and says when it is durable.
 */

import { compare, equal, hex } from "../bytes.js";
import { FREEING_KINDS, Kind } from "../terms.js";
import { Backlog, CollectionRow, State, StorageFailed, liveEntry, own, replace } from "./rows.js";
import { emptyTables, idOf, keyOf, placeOf, revived } from "./tables.js";

/** @typedef {import("../check.js").LiveEntry} LiveEntry */
/** @typedef {import("../check.js").LiveSet} LiveSet */
/** @typedef {import("./rows.js").DeltaRow} DeltaRow */
/** @typedef {import("./rows.js").OutboxRow} OutboxRow */
/** @typedef {import("./rows.js").RecordRow} RecordRow */
/** @typedef {import("./rows.js").StoredAlarm} StoredAlarm */
/** @typedef {import("./tables.js").HeldLive} HeldLive */
/** @typedef {import("./tables.js").HeldRecord} HeldRecord */
/** @typedef {import("./tables.js").Key} Key */
/** @typedef {import("./tables.js").TableName} TableName */
/** @typedef {import("./tables.js").Write} Write */
/** @typedef {import("./tables.js").WriteSet} WriteSet */
/** @typedef {[collection: number, seq: number]} Place where a change stands in the log */

/** @type {readonly number[]} */
const UNSYNCED = [State.WAITING, State.SEALED, State.CONFLICT];

/** The promises in memory.  By itself nothing survives the process; a keeper takes over `_keep`. */
export class MemoryStorage {
  constructor() {
    /** @private */
    this._tables = emptyTables();
    /** @private @type {Map<number, (string | number)[]>} the ids of each collection's records by key, once asked for */
    this._sorted = new Map();
    /** @private @type {Write[] | null} inside a transaction: what stood in each row that was written, in order */
    this._undo = null;
    /** @private */
    this._closed = false;
  }

  /** @returns {StorageFailed | null} why nothing can be written any more */
  get failure() {
    return null;
  }

  /**
   * Do `work`, which is synchronous, and keep what it writes as a whole; or, when it throws, not at all.
   * A transaction inside another joins it.  Throws `failure` without beginning when there is one.
   *
   * @template Result
   * @param {() => Result} work
   * @returns {Result}
   */
  transaction(work) {
    if (this._undo !== null) return synchronous(work());
    this._mayWrite();
    /** @type {Write[]} */
    const undo = (this._undo = []);
    /** @type {Result} */
    let result;
    try {
      result = synchronous(work());
      this._mayWrite();
    } catch (error) {
      for (const { table, key, held } of undo.reverse()) this._put(table, idOf(key), held);
      throw error;
    } finally {
      this._undo = null;
    }
    if (undo.length > 0) this._keep(this._written(undo));
    return result;
  }

  /** How many transactions are not yet durable; for a watchdog. */
  get pending() {
    return 0;
  }

  /** Resolves when all that was written until now is durable; rejects with `failure`. */
  async committed() {
    if (this.failure) throw this.failure;
  }

  /** Try once more to keep what the database did not; as `committed`.  A `final` failure stays. */
  async retry() {
    await this.committed();
  }

  /** Let go of the database once all is durable; no call may follow. */
  async close() {
    this._closed = true;
  }

  // --- settings and collections ---

  /**
   * The setting, or null.
   *
   * @param {string} name
   * @returns {Uint8Array | null}
   */
  setting(name) {
    return this._tables.settings.rows.get(name)?.value ?? null;
  }

  /**
   * Keep a setting; null forgets it.  A key that no script can read is kept as it is.
   *
   * @param {string} name
   * @param {Uint8Array | CryptoKey | null} value
   */
  setSetting(name, value) {
    const held = value instanceof Uint8Array ? own(value) : value;
    this._write("settings", name, held === null ? null : { name, value: held });
  }

  /** All collections, in the order they were added. */
  collections() {
    return [...this._tables.collections.rows.values()].sort(byPlace);
  }

  /**
   * A new collection.  Throws `RangeError` when another has the name or the id.
   *
   * @param {string | null} name
   * @param {Uint8Array | null} collectionId
   */
  addCollection(name, collectionId) {
    const row = new CollectionRow({ n: this._tables.collections.rows.size + 1, name, collectionId });
    this.saveCollection(row);
    return row;
  }

  /**
   * Keep this state of a collection.  Throws `RangeError` when another has the name or the id.
   *
   * @param {CollectionRow} row
   */
  saveCollection(row) {
    for (const other of this._tables.collections.rows.values()) {
      if (other.n !== row.n && overlap(row, other)) throw new RangeError("another collection has this name or id");
    }
    this._write("collections", row.n, row);
  }

  // --- records and deltas ---

  /**
   * One record, also when it is empty but still known to the log.
   *
   * @param {number} collection
   * @param {string} key
   * @returns {RecordRow | null}
   */
  record(collection, key) {
    return this._tables.records.rows.get(placeOf(collection, key))?.row ?? null;
  }

  /**
   * Keep this state of a record.
   *
   * @param {number} collection
   * @param {RecordRow} row
   */
  saveRecord(collection, row) {
    this._write("records", [collection, row.key], { collection, row });
  }

  /**
   * Forget a record and its deltas.
   *
   * @param {number} collection
   * @param {string} key
   */
  dropRecord(collection, key) {
    this.transaction(() => {
      this._write("records", [collection, key], null);
      this.dropDeltas(collection, key, { confirmedOnly: false });
    });
  }

  /**
   * All records, empty ones too, by key.
   *
   * @param {number} collection
   */
  records(collection) {
    const { rows } = this._tables.records;
    return this._ids(collection).map((id) => /** @type {HeldRecord} */ (rows.get(id)).row);
  }

  /**
   * The records with a `former`.
   *
   * @param {number} collection
   */
  formers(collection) {
    return this.records(collection).filter((row) => row.former.length > 0);
  }

  /**
   * The records whose confirmed state is a delete at or before `upto`.
   *
   * @param {number} collection
   * @param {number} upto
   */
  tombstones(collection, upto) {
    return this.records(collection).filter((row) => row.value === null && 0 < row.seq && row.seq <= upto);
  }

  /**
   * Number of the collection, and seq, of the record whose newest confirmed change this is.
   *
   * @param {Uint8Array} changeId
   * @returns {Place | null}
   */
  findChange(changeId) {
    const [found] = this._tables.records.group("change", hex(changeId));
    return found ? [found.collection, found.row.seq] : null;
  }

  /**
   * The record's deltas since its last put, in seq order.
   *
   * @param {number} collection
   * @param {string} key
   */
  deltas(collection, key) {
    const found = this._tables.deltas.group("record", placeOf(collection, key)).map(({ delta }) => delta);
    return found.sort((a, b) => a.seq - b.seq || compare(a.changeId, b.changeId));
  }

  /**
   * Keep a delta; one with the same change id is replaced.
   *
   * @param {number} collection
   * @param {string} key
   * @param {DeltaRow} delta
   */
  saveDelta(collection, key, delta) {
    this._write("deltas", [collection, key, delta.changeId], { collection, key, delta });
  }

  /**
   * Forget the record's deltas; with `confirmedOnly` those with a seq.
   *
   * @param {number} collection
   * @param {string} key
   * @param {{confirmedOnly: boolean}} which
   */
  dropDeltas(collection, key, { confirmedOnly }) {
    this.transaction(() => {
      for (const { changeId, seq } of this.deltas(collection, key)) {
        if (seq || !confirmedOnly) this._write("deltas", [collection, key, changeId], null);
      }
    });
  }

  // --- the outbox ---

  /**
   * Put an edit at the end of the outbox; the row with its place.
   *
   * @param {OutboxRow} row
   */
  addRow(row) {
    return this.transaction(() => {
      const n = (this._tables.meta.rows.get("places")?.value ?? 0) + 1;
      this._write("meta", "places", { name: "places", value: n }); // places are never given twice
      const added = replace(row, { n });
      this.saveRow(added);
      return added;
    });
  }

  /**
   * Keep this state of an outbox row.
   *
   * @param {OutboxRow} row
   */
  saveRow(row) {
    this._write("outbox", row.n, row);
  }

  /**
   * Take a row out of the outbox.
   *
   * @param {number} n
   */
  dropRow(n) {
    this._write("outbox", n, null);
  }

  /**
   * The row at this place, or null.
   *
   * @param {number} n
   */
  row(n) {
    return this._tables.outbox.rows.get(n) ?? null;
  }

  /**
   * The row that has, or stands for, this change; or null.
   *
   * @param {Uint8Array} changeId
   */
  rowOfChange(changeId) {
    const rows = this._tables.outbox.group("change", hex(changeId)).sort(byPlace);
    return rows.find((row) => equal(row.changeId, changeId)) ?? rows[0] ?? null;
  }

  /**
   * The record's rows, in order.
   *
   * @param {number} collection
   * @param {string} key
   */
  rowsOf(collection, key) {
    return this._tables.outbox.group("record", placeOf(collection, key)).sort(byPlace);
  }

  /**
   * The collection's rows in this state, in order.
   *
   * @param {number} collection
   * @param {number} state
   */
  rowsIn(collection, state) {
    return this._tables.outbox.group("state", placeOf(collection, state)).sort(byPlace);
  }

  /**
   * The first waiting rows of these collections behind `after`; `freeingOnly`: those that free room.
   *
   * @param {Iterable<number>} collections
   * @param {number} limit
   * @param {{after?: number, freeingOnly?: boolean}} [which]
   */
  waiting(collections, limit, { after = 0, freeingOnly = false } = {}) {
    /** @type {OutboxRow[]} */
    const found = [];
    for (const n of new Set(collections)) {
      for (const row of this._tables.outbox.group("state", placeOf(n, State.WAITING))) {
        if (row.n > after && (!freeingOnly || FREEING_KINDS.has(row.kind))) found.push(row);
      }
    }
    return found.sort(byPlace).slice(0, limit);
  }

  /** Rows that are neither acked nor parked; parked rows; when the oldest of the former was written. */
  backlog() {
    let unsynced = 0;
    let parked = 0;
    let oldestAt = Infinity;
    for (const row of this._tables.outbox.rows.values()) {
      if (row.state === State.PARKED) parked += 1;
      if (!UNSYNCED.includes(row.state)) continue;
      unsynced += 1;
      oldestAt = Math.min(oldestAt, row.writtenAt);
    }
    return new Backlog(unsynced, parked, unsynced ? oldestAt : 0);
  }

  // --- live sets and alarms ---

  /**
   * The collection's live set; it takes part in transactions.
   *
   * @param {number} collection
   * @returns {LiveSet}
   */
  liveSet(collection) {
    const all = () => this._tables.live.group("collection", collection);
    /** @type {LiveSet["put"]} */
    const put = (recordId, entries) => {
      const inOrder = entries.map(liveEntry).sort((a, b) => a.seq - b.seq);
      const held = inOrder.length ? { collection, recordId: own(recordId), entries: inOrder } : null;
      this._write("live", [collection, recordId], held);
    };
    return {
      get: (recordId) => [...(this._tables.live.rows.get(placeOf(collection, hex(recordId)))?.entries ?? [])],
      put,
      tombstones: (upto) => all().flatMap((one) => tombstonesOf(one, upto)),
      clear: () => this.transaction(() => all().forEach((one) => put(one.recordId, []))),
      count: () => all().reduce((count, one) => count + one.entries.length, 0),
    };
  }

  /**
   * Keep an alarm.
   *
   * @param {StoredAlarm} alarm
   */
  addAlarm(alarm) {
    const n = this._tables.alarms.rows.size + 1;
    this._write("alarms", n, { n, alarm });
  }

  /** All alarms, oldest first. */
  alarms() {
    return [...this._tables.alarms.rows.values()].sort(byPlace).map(({ alarm }) => alarm);
  }

  /** Forget the alarms: a person has seen to them. */
  clearAlarms() {
    this.transaction(() => {
      for (const n of [...this._tables.alarms.rows.keys()]) this._write("alarms", n, null);
    });
  }

  // --- for keepers ---

  /**
   * A transaction is over: keep its write-set.  Called in the order of the transactions, and must not throw.
   *
   * @protected
   * @param {WriteSet} _writes
   */
  _keep(_writes) {}

  /**
   * Throws when nothing may be written (any more).
   *
   * @protected
   */
  _mayWrite() {
    if (this.failure) throw this.failure;
    if (this._closed) throw new StorageFailed("the storage is closed", { final: true });
  }

  /**
   * Take over a row as a keeper kept it, before the storage is used.
   *
   * @protected
   * @param {TableName} table
   * @param {any} kept
   */
  _load(table, kept) {
    const held = revived(table, kept);
    this._put(table, idOf(keyOf(table, held)), held);
  }

  /**
   * Every change goes through here, so that a transaction can be taken back and its write-set is whole.
   *
   * @private
   * @param {TableName} table
   * @param {Key} key
   * @param {any} held
   */
  _write(table, key, held) {
    if (this._undo === null) {
      this.transaction(() => this._write(table, key, held));
      return;
    }
    const id = idOf(key);
    const before = this._rows(table).rows.get(id) ?? null;
    if (before === null && held === null) return;
    this._undo.push({ table, key, held: before });
    this._put(table, id, held);
  }

  /**
   * @private
   * @param {TableName} table
   * @param {string | number} id
   * @param {any} held
   */
  _put(table, id, held) {
    const rows = this._rows(table);
    const before = rows.rows.get(id);
    if (table === "records" && (before === undefined) !== (held === null)) {
      this._sorted.delete((held ?? before).collection);
    }
    rows.set(id, held);
  }

  /**
   * The write-set of a transaction that wrote over these rows.
   *
   * @private
   * @param {Write[]} undo
   * @returns {WriteSet}
   */
  _written(undo) {
    /** @type {Map<string, Write>} */
    const writes = new Map();
    for (const { table, key, held: before } of undo) {
      const id = idOf(key);
      const place = `${table} ${id}`;
      if (!writes.has(place)) writes.set(place, { table, key, held: this._rows(table).rows.get(id) ?? null, before });
    }
    return [...writes.values()];
  }

  /**
   * @private
   * @param {TableName} table
   * @returns {import("./tables.js").Table<any>}
   */
  _rows(table) {
    return this._tables[table];
  }

  /**
   * The ids of a collection's records by key.
   *
   * @private
   * @param {number} collection
   */
  _ids(collection) {
    const known = this._sorted.get(collection);
    if (known) return known;
    const rows = this._tables.records.group("collection", collection).map((held) => held.row);
    const ids = rows.sort((a, b) => inUtf8Order(a.key, b.key)).map((row) => placeOf(collection, row.key));
    this._sorted.set(collection, ids);
    return ids;
  }
}

/**
 * The work of a transaction must not go on after it.
 *
 * @template Result
 * @param {Result} result
 * @returns {Result}
 */
function synchronous(result) {
  if (typeof (/** @type {any} */ (result)?.then) === "function") {
    throw new TypeError("a transaction is synchronous; its work returned a promise");
  }
  return result;
}

/**
 * @param {{n: number}} one
 * @param {{n: number}} other
 */
function byPlace(one, other) {
  return one.n - other.n;
}

/**
 * The order of the texts' UTF-8 bytes, as SQLite sorts them.  JavaScript compares UTF-16 units, where the two halves
 * of a pair stand before U+E000 to U+FFFF; here they come after.
 *
 * @param {string} one
 * @param {string} other
 */
function inUtf8Order(one, other) {
  const length = Math.min(one.length, other.length);
  for (let at = 0; at < length; at += 1) {
    const a = one.charCodeAt(at);
    const b = other.charCodeAt(at);
    if (a !== b) return behindPairs(a) - behindPairs(b);
  }
  return one.length - other.length;
}

/** @param {number} unit */
function behindPairs(unit) {
  if (unit < 0xd800) return unit;
  return unit < 0xe000 ? unit + 0x2000 : unit - 0x800;
}

/**
 * @param {CollectionRow} one
 * @param {CollectionRow} other
 */
function overlap(one, other) {
  const sameName = one.name !== null && one.name === other.name;
  if (one.collectionId === null || other.collectionId === null) return sameName;
  return sameName || equal(one.collectionId, other.collectionId);
}

/**
 * @param {HeldLive} held
 * @param {number} upto
 * @returns {[Uint8Array, LiveEntry][]}
 */
function tombstonesOf({ recordId, entries }, upto) {
  const deletes = entries.filter((entry) => entry.kind === Kind.DELETE && entry.seq <= upto);
  return deletes.map((entry) => [recordId, entry]);
}
