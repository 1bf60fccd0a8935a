/**
 * Writes down, in the app's own transaction, which rows of a synced table the app has edited.
 *
 * One row of `$hub_edits` for each request that changes rows, whatever call of Dexie's it comes from: the keys, and
 * where a conflict is to be merged later the values they had before.  New values are not copied; the mirror reads them
 * when it takes the edit.  So a transaction that is aborted leaves nothing, and what was committed is never missed.
 *
 * This is a middleware of Dexie's, above its own and below its hooks: it sees what hooks made of a value.  All of its
 * requests are handed over in one turn and in the app's order, so that a read the app asks for right after a write
 * still sees it.  There is no native promise and no `await` in here: that would leave the zone in which Dexie knows
 * the transaction.
 *
 * Whether to write down is said by a row of `$hub_meta`, the same for all tabs.  A tab that has seen it on remembers
 * that; before, it looks in each transaction, so that no edit slips through while another tab signs in.
 */

import { Dexie } from "dexie";

import { lastWriterWins } from "../strategies.js";
import { HIDDEN, newId } from "./schema.js";

/** @typedef {import("dexie").DBCore} DBCore */
/** @typedef {import("dexie").DBCoreTable} DBCoreTable */
/** @typedef {import("dexie").DBCoreMutateRequest} MutateRequest */
/** @typedef {import("dexie").DBCoreMutateResponse} MutateResponse */
/** @typedef {import("./schema.js").SyncedTables} SyncedTables */

/**
 * Edits of one table, as `$hub_edits` has them.  A key may be there more than once, and is unchanged perhaps.
 *
 * @typedef {object} EditsRow
 * @property {number} [n] its place, given by the database
 * @property {string} table
 * @property {any[]} keys
 * @property {any[]} [bases] in the order of `keys`: what was there before, undefined for nothing; absent where the
 *   table's strategy never asks
 * @property {number} at this device's clock, in ms
 * @property {boolean} [first] rows from before this device's first sync: nobody knows what they were made from
 * @property {{theirs: any}} [resolve] a person's decision about the conflict of the one key, with what they saw
 */

const SWITCH = "capturing"; // the row in $hub_meta
const KEYS_MAX = 500; // in one row: what the engine takes at once
const EDITS = "$hub_edits";
const META = "$hub_meta";

/** What lies below the hooks and the capture, for each open database. @type {WeakMap<Dexie, DBCore>} */
const BENEATH = new WeakMap();

/**
 * Watch the app's writes from now on; called once, before the database is opened.
 *
 * @param {Dexie} db
 * @param {{tables: SyncedTables}} options
 */
export function installCapture(db, options) {
  const capture = new Capture(db, options.tables);
  db.use({ stack: "dbcore", name: "hubCapture", level: 1, create: (core) => capture.middleware(core) });
}

/**
 * Have edits written down from now on, or no more, in all tabs.  Joins the caller's transaction when there is one.
 *
 * @param {Dexie} db
 * @param {boolean} on
 * @returns {Promise<void>}
 */
export async function setCapturing(db, on) {
  await db.table(META).put({ name: SWITCH, value: on });
}

/**
 * The tables as the database has them: what is read and written here passes neither hooks nor the capture, but
 * live queries see it.  Only within a transaction of Dexie's, while the database is open.
 *
 * @param {Dexie} db
 * @returns {DBCore}
 */
export function beneath(db) {
  const core = BENEATH.get(db);
  if (!core) throw new /** @type {any} */ (Dexie).DatabaseClosedError();
  return core;
}

/**
 * Whether conflicts of the table are merged from what both sides came from.
 * @param {import("./schema.js").TableOptions} options
 */
export function needsBase({ conflict }) {
  return conflict !== undefined && conflict !== lastWriterWins;
}

class Capture {
  /** @param {Dexie} db @param {SyncedTables} tables */
  constructor(db, tables) {
    this._db = db;
    this._named = tables;
    /** @type {Map<string, import("./schema.js").TableOptions>} as named when the database is opened */
    this._tables = new Map();
    this._on = false; // false: not known to be on
    const heard = (/** @type {any} */ parts) => this._heard(parts);
    db.on("ready", () => {
      this._on = false;
      Dexie.on("storagemutated").unsubscribe(heard);
      Dexie.on("storagemutated", heard);
    }, true);
    db.on("close", () => Dexie.on("storagemutated").unsubscribe(heard));
  }

  /** @param {any} parts what changed in any database, in any tab */
  _heard(parts) {
    if (parts.all || `idb://${this._db.name}/${META}/` in parts) this._on = false;
  }

  /**
   * @param {DBCore} core
   * @returns {DBCore}
   */
  middleware(core) {
    BENEATH.set(this._db, core);
    this._tables = new Map(Object.entries(this._named));
    const here = new Set(core.schema.tables.map((table) => table.name));
    if (!Object.keys(HIDDEN).every((name) => here.has(name))) return core; // an upgrade is about to make them
    this._revealHidden(core);
    return {
      ...core,
      transaction: (tables, mode, options) => core.transaction(...this._widened(tables, mode, options)),
      table: (name) => (this._tables.has(name) ? this._watched(core, core.table(name)) : core.table(name)),
    };
  }

  /**
   * Dexie gives a table its core only where `db.tables` shows it.
   * @param {DBCore} core
   */
  _revealHidden(core) {
    const db = /** @type {any} */ (this._db);
    for (const name of Object.keys(HIDDEN)) {
      for (const table of [db._allTables[name], db[name]]) if (table) table.core = core.table(name);
    }
  }

  /**
   * The tables of a transaction with those that the capture needs; and the engine's own is on the disk when it is over.
   *
   * @param {string[]} tables @param {"readonly" | "readwrite"} mode @param {any} options
   * @returns {[string[], "readonly" | "readwrite", any]}
   */
  _widened(tables, mode, options) {
    if (mode !== "readwrite") return [tables, mode, options];
    if (tables.includes("$hub_settings")) return [tables, mode, { ...options, durability: "strict" }];
    if (!tables.some((name) => this._tables.has(name))) return [tables, mode, options];
    return [[...new Set([...tables, EDITS, META])], mode, options];
  }

  /**
   * @param {DBCore} core
   * @param {DBCoreTable} table
   * @returns {DBCoreTable}
   */
  _watched(core, table) {
    const mutate = (/** @type {MutateRequest} */ request) => {
      // In an upgrade nothing is written down: the mirror compares all rows afterwards.
      if (/** @type {any} */ (request.trans).mode === "versionchange") return table.mutate(request);
      return this._mutate(core, table, withIds(table, request));
    };
    return { ...table, mutate };
  }

  /**
   * @param {DBCore} core
   * @param {DBCoreTable} table
   * @param {MutateRequest} request
   */
  _mutate(core, table, request) {
    const { trans } = request;
    const edited = this._editedBy(table, request);
    const looked = this._on ? null : core.table(META).get({ trans, key: SWITCH });
    const done = table.mutate(request);
    const written = (/** @type {boolean} */ on) => {
      if (!on) return done;
      return edited((edits) => {
        const rows = rowsOf(table.name, edits);
        return rows.length ? core.table(EDITS).mutate({ type: "add", trans, values: rows }).then(() => done) : done;
      }, done);
    };
    if (looked === null) return written(true);
    return looked.then((row) => {
      this._on ||= row?.value === true;
      return written(row?.value === true);
    });
  }

  /**
   * Ask now for what is there before the request; later, what it edited.
   *
   * @param {DBCoreTable} table
   * @param {MutateRequest} request
   * @returns {(then: (edits: Edits) => PromiseLike<MutateResponse>, done: PromiseLike<MutateResponse>) => any}
   */
  _editedBy(table, request) {
    const wanted = needsBase(this._tables.get(table.name) ?? {});
    if (request.type === "deleteRange") return editedRange(table, request, wanted);
    const asked = request.type === "delete" ? request.keys : keysOf(table, request);
    const before = wanted && request.type !== "add" && asked.length ? getMany(table, request, asked) : null;
    return (then, done) =>
      done.then((response) => {
        const keys = request.type === "delete" ? request.keys : response.results ?? asked;
        const alive = [...keys.keys()].filter((at) => !(at in response.failures));
        const edits = { keys: alive.map((at) => keys[at]), bases: /** @type {any[] | null} */ (null) };
        if (!wanted) return then(edits);
        if (before === null) return then({ ...edits, bases: alive.map(() => undefined) });
        return before.then((values) => then({ ...edits, bases: alive.map((at) => values[at]) }));
      });
  }
}

/** @typedef {{keys: any[], bases: any[] | null}} Edits */

/**
 * @param {DBCoreTable} table
 * @param {import("dexie").DBCoreDeleteRangeRequest} request
 * @param {boolean} wanted
 * @returns {(then: (edits: Edits) => PromiseLike<MutateResponse>, done: PromiseLike<MutateResponse>) => any}
 */
function editedRange(table, request, wanted) {
  const { trans, range } = request;
  const { primaryKey } = table.schema;
  const nothing = /** @type {number} */ (range.type) === 4; // what no key is in
  const found = nothing ? null : table.query({ trans, values: wanted, query: { index: primaryKey, range } });
  return (then, done) => {
    if (found === null) return done;
    return done.then((response) => {
      if (response.numFailures) return done;
      return found.then(({ result }) => {
        const extract = /** @type {(value: any) => any} */ (primaryKey.extractKey);
        return then(wanted ? { keys: result.map(extract), bases: result } : { keys: result, bases: null });
      });
    });
  };
}

/**
 * Not from Dexie's cache, which would be filled behind the write that is on its way.
 *
 * @param {DBCoreTable} table
 * @param {MutateRequest} request
 * @param {any[]} keys
 */
function getMany(table, { trans }, keys) {
  return table.getMany({ trans, keys });
}

/**
 * @param {DBCoreTable} table
 * @param {import("dexie").DBCoreAddRequest | import("dexie").DBCorePutRequest} request
 * @returns {any[]}
 */
function keysOf(table, { values }) {
  return values.map(/** @type {any} */ (table.schema.primaryKey.extractKey));
}

/**
 * @param {string} table
 * @param {Edits} edits
 * @returns {EditsRow[]}
 */
function rowsOf(table, { keys, bases }) {
  const at = Date.now();
  const rows = [];
  for (let from = 0; from < keys.length; from += KEYS_MAX) {
    const [some, were] = [keys, bases].map((list) => list && list.slice(from, from + KEYS_MAX));
    rows.push(/** @type {EditsRow} */ ({ table, keys: some, ...(were && { bases: were }), at }));
  }
  return rows;
}

/**
 * The request with an id for each new row that has none.
 *
 * @param {DBCoreTable} table
 * @param {MutateRequest} request
 * @returns {MutateRequest}
 */
function withIds(table, request) {
  if (request.type !== "add" && request.type !== "put") return request;
  const { keyPath, autoIncrement } = table.schema.primaryKey;
  if (typeof keyPath !== "string" || autoIncrement) return request;
  const lacks = (/** @type {any} */ value) => Dexie.getByKeyPath(value, keyPath) === undefined;
  if (!request.values.some(lacks)) return request;
  const values = request.values.map((value) => (lacks(value) ? withId(value, keyPath) : value));
  const keys = request.keys && values.map((value) => Dexie.getByKeyPath(value, keyPath));
  return /** @type {MutateRequest} */ ({ ...request, values, ...(keys && { keys }) });
}

/** @param {any} value @param {string} keyPath */
function withId(value, keyPath) {
  const copy = keyPath.includes(".") ? Dexie.deepClone(value) : { ...value };
  Dexie.setByKeyPath(copy, keyPath, newId());
  return copy;
}

