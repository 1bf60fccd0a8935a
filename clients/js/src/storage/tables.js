/**
 * The tables of local storage in memory, without I/O: what is held of each, by which key, found by which index.
 *
 * A keeper keeps the objects held here, or what `slim` leaves of them, and gives them back to `revived`.
 */

import { hex } from "../bytes.js";
import { ID_BYTES } from "../terms.js";
import { CollectionRow, DeltaRow, OutboxRow, RecordRow, StoredAlarm, liveEntry } from "./rows.js";

/** @typedef {import("../check.js").LiveEntry} LiveEntry */
/** @typedef {"meta" | "settings" | "collections" | "records" | "deltas" | "outbox" | "live" | "alarms"} TableName */
/** @typedef {string | number | (string | number | Uint8Array)[]} Key the primary key of what is held */
/** @typedef {string | number} Id the primary key as one text or number, see `idOf` */
/**
 * What is held there after a transaction, null for nothing; and what was `before` it.
 * @typedef {{table: TableName, key: Key, held: any, before?: any}} Write
 */
/** @typedef {Write[]} WriteSet what one transaction wrote, each key once */

/** @typedef {{name: string, value: any}} HeldSetting */
/** @typedef {{collection: number, row: RecordRow}} HeldRecord */
/** @typedef {{collection: number, key: string, delta: DeltaRow}} HeldDelta */
/** @typedef {{collection: number, recordId: Uint8Array, entries: readonly LiveEntry[]}} HeldLive */
/** @typedef {{n: number, alarm: StoredAlarm}} HeldAlarm */

/**
 * The primary key of each table as a path into what is held, in the order of `Write.key`.
 * A live set is kept by record, not by entry: it is read and written by record only.
 *
 * @type {Readonly<Record<TableName, string | string[]>>}
 */
export const TABLES = Object.freeze({
  meta: "name",
  settings: "name",
  collections: "n",
  records: ["collection", "row.key"],
  deltas: ["collection", "key", "delta.changeId"],
  outbox: "n",
  live: ["collection", "recordId"],
  alarms: "n",
});

/** @type {Readonly<Record<TableName, (kept: any) => any>>} */
const REVIVED = Object.freeze({
  meta: (held) => held,
  settings: (held) => held,
  collections: (row) => new CollectionRow(row),
  records: ({ collection, row }) => ({ collection, row: new RecordRow(row) }),
  deltas: ({ collection, key, delta }) => {
    return { collection, key, delta: new DeltaRow(delta.changeId, delta.seq, delta.body) };
  },
  outbox: (row) => new OutboxRow(row),
  live: ({ collection, recordId, entries }) => ({ collection, recordId, entries: entries.map(liveEntry) }),
  alarms: ({ n, alarm }) => {
    return { n, alarm: new StoredAlarm(alarm.name, alarm.collection, alarm.detail, alarm.seq, alarm.raisedAt) };
  },
});

/** The tables of a storage, each with its indexes. */
export function emptyTables() {
  return {
    /** @type {Table<HeldSetting>} what the keepers themselves must remember */
    meta: new Table(),
    /** @type {Table<HeldSetting>} */
    settings: new Table(),
    /** @type {Table<CollectionRow>} */
    collections: new Table(),
    /** @type {Table<HeldRecord>} */
    records: new Table({
      collection: (held) => [held.collection],
      change: (held) => (held.row.seq > 0 ? [hex(held.row.changeId)] : []),
    }),
    /** @type {Table<HeldDelta>} */
    deltas: new Table({ record: (held) => [placeOf(held.collection, held.key)] }),
    /** @type {Table<OutboxRow>} */
    outbox: new Table({
      record: (row) => [placeOf(row.collection, row.key)],
      state: (row) => [placeOf(row.collection, row.state)],
      change: (row) => [row.changeId, ...idsIn(row.standsFor)].map(hex),
    }),
    /** @type {Table<HeldLive>} */
    live: new Table({ collection: (held) => [held.collection] }),
    /** @type {Table<HeldAlarm>} */
    alarms: new Table(),
  };
}

/**
 * One table: rows by primary key, and indexes that give the rows of a group.
 *
 * @template Held
 */
export class Table {
  /** @param {Record<string, (held: Held) => (string | number)[]>} groupings for each index the row's groups */
  constructor(groupings = {}) {
    /** @type {Map<string | number, Held>} */
    this.rows = new Map();
    this._indexes = Object.entries(groupings).map(([name, groupsOf]) => new Index(name, groupsOf));
  }

  /**
   * Put a row in the place of another; null takes it away.
   *
   * @param {string | number} id
   * @param {Held | null} held
   */
  set(id, held) {
    const before = this.rows.get(id) ?? null;
    if (held === null) this.rows.delete(id);
    else this.rows.set(id, held);
    for (const index of this._indexes) index.moved(id, before, held);
  }

  /**
   * The rows of a group, in any order.
   *
   * @param {string} name the index
   * @param {string | number} group
   * @returns {Held[]}
   */
  group(name, group) {
    const ids = this._indexes.find((one) => one.name === name)?.groups.get(group);
    if (ids === undefined) return [];
    if (!(ids instanceof Set)) return [/** @type {Held} */ (this.rows.get(ids))];
    /** @type {Held[]} */
    const found = [];
    for (const id of ids) found.push(/** @type {Held} */ (this.rows.get(id)));
    return found;
  }
}

/** @template Held */
class Index {
  /**
   * @param {string} name
   * @param {(held: Held) => (string | number)[]} groupsOf
   */
  constructor(name, groupsOf) {
    this.name = name;
    /** @type {Map<string | number, Id | Set<Id>>} most groups have one row, and a Set is large */
    this.groups = new Map();
    this._groupsOf = groupsOf;
  }

  /**
   * A row has another's place; null: none.
   *
   * @param {Id} id
   * @param {Held | null} before
   * @param {Held | null} held
   */
  moved(id, before, held) {
    const left = before === null ? [] : this._groupsOf(before);
    const joined = held === null ? [] : this._groupsOf(held);
    if (left.length === joined.length && left.every((group, at) => group === joined[at])) return;
    for (const group of left) this._remove(id, group);
    for (const group of joined) this._add(id, group);
  }

  /**
   * @param {Id} id
   * @param {string | number} group
   */
  _add(id, group) {
    const ids = this.groups.get(group);
    if (ids === undefined) this.groups.set(group, id);
    else if (ids instanceof Set) ids.add(id);
    else if (ids !== id) this.groups.set(group, new Set([ids, id]));
  }

  /**
   * @param {Id} id
   * @param {string | number} group
   */
  _remove(id, group) {
    const ids = this.groups.get(group);
    if (ids instanceof Set) {
      ids.delete(id);
      if (ids.size > 0) return;
    }
    this.groups.delete(group);
  }
}

/**
 * What a keeper gives back, as rows again; a field that its program did not know yet gets its default.
 *
 * @param {TableName} table
 * @param {any} kept
 */
export function revived(table, kept) {
  return REVIVED[table](kept);
}

/** The fields whose bytes are none as long as there is nothing to say: `revived` brings them back. */
const MOSTLY_EMPTY = new Set(["ancestors", "former", "seen", "sealed", "standsFor", "check"]);

/**
 * What is held without what comes back by itself: a browser takes longer to copy an array of bytes, also an empty one,
 * than all the rest of a row.
 *
 * @param {TableName} table
 * @param {any} held
 */
export function slim(table, held) {
  if (table === "records") return { collection: held.collection, row: slimRow(held.row) };
  return table === "outbox" ? slimRow(held) : held;
}

/** @param {any} row */
function slimRow(row) {
  /** @type {any} */
  const slimmer = {};
  for (const name of Object.keys(row)) {
    const value = row[name];
    if (value !== null && !(MOSTLY_EMPTY.has(name) && value.length === 0)) slimmer[name] = value;
  }
  return slimmer;
}

// --- keys ------------------------------------------------------------------------------------

/**
 * One text for a primary key; unambiguous because only the second of the parts can hold a space, and it is the last
 * or comes before an id of fixed length.
 *
 * @param {Key} key
 * @returns {string | number}
 */
export function idOf(key) {
  if (!Array.isArray(key)) return key;
  return key.map((part) => (part instanceof Uint8Array ? hex(part) : part)).join(" ");
}

/**
 * The primary key of what is held.
 *
 * @param {TableName} table
 * @param {any} held
 * @returns {Key}
 */
export function keyOf(table, held) {
  const at = (/** @type {string} */ path) => path.split(".").reduce((inner, name) => inner[name], held);
  const paths = TABLES[table];
  return Array.isArray(paths) ? paths.map(at) : at(paths);
}

/**
 * @param {number} collection
 * @param {string | number} rest
 */
export function placeOf(collection, rest) {
  return `${collection} ${rest}`;
}

/** @param {Uint8Array} joined */
function idsIn(joined) {
  const ids = [];
  for (let at = 0; at < joined.length; at += ID_BYTES) ids.push(joined.subarray(at, at + ID_BYTES));
  return ids;
}
