/**
 * The promise of local storage kept in the app's own Dexie database, in hidden tables: all rows in memory, every
 * write-set in the database.
 *
 * What the engine wrote and what the app's rows must look like for it are one transaction of the database: cursor and
 * rows move together, or not at all.  The app's side is done by a companion, see `rows.js`.
 *
 * What can go wrong is what `storage/indexeddb.js` says.  The connection is Dexie's here: it opens it again when it
 * was lost.  When a newer program, or a newer version of the app, wants the database, what was not committed is given
 * up; the edits it came from are in the database still.
 */

import { Dexie } from "dexie";

import { hex } from "../bytes.js";
import { HOLDER, PAUSES_MS, PIECE, asFailure, gone, isFull, lastOfEach, put, taken, tooNew } from "../storage/disk.js";
import { Journal } from "../storage/journal.js";
import { MemoryStorage } from "../storage/memory.js";
import { StorageForeign } from "../storage/rows.js";
import { TABLES, keyOf } from "../storage/tables.js";
import { beneath } from "./capture.js";

/** @typedef {import("dexie").DBCore} DBCore */
/** @typedef {import("../storage/rows.js").StorageFailed} StorageFailed */
/** @typedef {import("../storage/tables.js").TableName} TableName */
/** @typedef {import("../storage/tables.js").Write} Write */
/** @typedef {import("../storage/tables.js").WriteSet} WriteSet */

/**
 * What takes part in the storage's commits: it says what each transaction of the storage means for the app's rows, and
 * writes them when that transaction is committed.
 *
 * @template Note
 * @typedef {object} Companion
 * @property {(writes: WriteSet) => Note[]} follow
 * @property {(notes: Note[]) => string[]} tables the further tables to have in the commit
 * @property {(notes: Note[], core: DBCore, trans: any) => Promise<void>} commit waits for nothing but the database
 * @property {(notes: Note[]) => void} committed it is durable
 */

/**
 * @typedef {object} Options
 * @property {(progress: {done: number, total: number}) => void} [onProgress] rows loaded so far, of how many
 * @property {(failure: StorageFailed) => void} [onFailure] the moment to stop sending, also when nothing was written
 * @property {(ms: number) => Promise<void>} [sleep]
 */

export const FORMAT = 1; // of the hidden tables
const FORMAT_ROW = "format"; // in meta
const STORES = /** @type {TableName[]} */ (Object.keys(TABLES));
const HIDDEN_STORES = STORES.map(hiddenName);

/** The promises in a Dexie database.  Made by `open`. */
export class DexieStorage extends MemoryStorage {
  /**
   * Open the database when it is not, take it over, and load all rows of the engine.  Throws `StorageTooNew`,
   * `StorageForeign` or `StorageFailed`.  A storage that had it open before is refused from here on.
   *
   * @param {Dexie} db with the schema of `installSchema`
   * @param {Options} [options]
   * @returns {Promise<DexieStorage>}
   */
  static async open(db, options = {}) {
    const storage = new DexieStorage(db, options);
    try {
      await storage._takeOver(options.onProgress);
    } catch (error) {
      storage._letGo();
      throw asFailure(error);
    }
    return storage;
  }

  /**
   * @private
   * @param {Dexie} db
   * @param {Options} options
   */
  constructor(db, { onFailure, sleep }) {
    super();
    /** @private */
    this._db = db;
    /** @private */
    this._sleep = sleep ?? ((/** @type {number} */ ms) => new Promise((done) => setTimeout(done, ms)));
    /** @private @type {Journal<{writes: WriteSet, notes: any[]}>} */
    this._journal = new Journal((batch) => this._commit(batch), onFailure);
    /** @private @type {Companion<any> | null} */
    this._companion = null;
    /** @private @type {any[] | null} inside a transaction: what its companion is told beside what was written */
    this._notes = null;
    /** @private */
    this._mark = hex(crypto.getRandomValues(new Uint8Array(16)));
    /** @private */
    this._onVersionChange = (/** @type {IDBVersionChangeEvent} */ event) => {
      this._journal.fail(event.newVersion ? tooNew() : gone());
    };
    db.on("versionchange", this._onVersionChange);
  }

  /** @returns {StorageFailed | null} */
  get failure() {
    return this._journal.failure;
  }

  get pending() {
    return this._journal.pending;
  }

  async committed() {
    await this._journal.durable();
  }

  async retry() {
    await this._journal.retry();
  }

  /** Let go of the database once all is durable; the app's connection stays open. */
  async close() {
    await super.close();
    try {
      await this._journal.durable();
    } finally {
      this._letGo();
    }
  }

  // --- the companion ---

  /**
   * From now on this takes part in every commit.
   * @param {Companion<any> | null} companion
   */
  accompany(companion) {
    this._companion = companion;
  }

  /**
   * Inside a transaction: the companion is to carry this out in its commit too, after what follows from its writes.
   * @param {any} note
   */
  beside(note) {
    this._notes?.push(note);
  }

  /**
   * Do `work` of the companion's in one transaction of the database, after checking that it is still ours.
   *
   * @template Result
   * @param {string[]} tables
   * @param {(core: DBCore, trans: any) => PromiseLike<Result>} work waits for nothing but the database
   * @returns {Promise<Result>}
   */
  async write(tables, work) {
    const db = this._db;
    return db.transaction("rw!", [...new Set([...tables, "$hub_meta"])], async (tx) => {
      const { idbtrans } = /** @type {any} */ (tx);
      await this._checkHolder(idbtrans);
      return work(beneath(db), idbtrans);
    });
  }

  // --- transactions ---

  /**
   * @template Result
   * @param {() => Result} work
   * @returns {Result}
   */
  transaction(work) {
    if (this._notes !== null) return super.transaction(work);
    this._notes = [];
    try {
      const result = super.transaction(work);
      // When nothing was written, only the companion has something to do.
      if (this._notes.length) this._journal.add({ writes: [], notes: this._notes });
      return result;
    } finally {
      this._notes = null;
    }
  }

  /**
   * @protected
   * @param {WriteSet} writes
   */
  _keep(writes) {
    const notes = [...(this._companion?.follow(writes) ?? []), ...(this._notes ?? [])];
    if (this._notes) this._notes = [];
    this._journal.add({ writes, notes });
  }

  // --- the database ---

  /**
   * Write a batch as a whole or not at all.  Rejects with `StorageFailed`.
   *
   * @private
   * @param {{writes: WriteSet, notes: any[]}[]} batch
   */
  async _commit(batch) {
    const writes = lastOfEach(batch.map((one) => one.writes));
    const notes = batch.flatMap((one) => one.notes);
    for (let tries = 0; ; tries += 1) {
      try {
        await this._writeBatch(writes, notes);
        break;
      } catch (error) {
        const failure = asFailure(error);
        if (failure.final || isFull(error) || tries === PAUSES_MS.length) throw failure;
        await this._sleep(PAUSES_MS[tries]);
      }
    }
    this._companion?.committed(notes);
  }

  /**
   * @private
   * @param {Write[]} writes
   * @param {any[]} notes
   */
  async _writeBatch(writes, notes) {
    const further = notes.length ? (this._companion?.tables(notes) ?? []) : [];
    // The settings are among them so that the commit is on the disk when it is done, see `capture.js`.
    const engine = [...writes.map((write) => hiddenName(write.table)), "$hub_meta", "$hub_settings"];
    await this._db.transaction("rw!", [...new Set([...engine, ...further])], async (tx) => {
      const { idbtrans } = /** @type {any} */ (tx);
      await this._checkHolder(idbtrans);
      for (const write of writes) put(idbtrans.objectStore(hiddenName(write.table)), write);
      if (notes.length) await this._companion?.commit(notes, beneath(this._db), idbtrans);
    });
  }

  /**
   * @private
   * @param {any} trans
   */
  async _checkHolder(trans) {
    const holder = await beneath(this._db).table("$hub_meta").get({ trans, key: HOLDER });
    if (!holder) throw gone();
    if (holder.value !== this._mark) throw taken();
  }

  /**
   * Make the database ours and read all of it, in one transaction: nothing can be written in between.
   *
   * @private
   * @param {Options["onProgress"]} [onProgress]
   */
  async _takeOver(onProgress = () => {}) {
    const db = this._db;
    if (!db.isOpen()) await db.open();
    const { core } = /** @type {any} */ (db);
    const here = new Set(core.schema.tables.map((/** @type {{name: string}} */ table) => table.name));
    if (!HIDDEN_STORES.every((name) => here.has(name))) {
      throw new StorageForeign(`the database "${db.name}" was opened without sync`, { final: true });
    }
    await db.transaction("rw!", HIDDEN_STORES, async (tx) => {
      const { idbtrans } = /** @type {any} */ (tx);
      const format = await beneath(db).table("$hub_meta").get({ trans: idbtrans, key: FORMAT_ROW });
      if (format?.value > FORMAT) throw tooNew();
      await this._loadAll(idbtrans, onProgress);
      const meta = idbtrans.objectStore("$hub_meta");
      meta.put({ name: HOLDER, value: this._mark });
      meta.put({ name: FORMAT_ROW, value: FORMAT });
    });
  }

  /**
   * @private
   * @param {any} trans
   * @param {(progress: {done: number, total: number}) => void} onProgress
   */
  async _loadAll(trans, onProgress) {
    const progress = { done: 0, total: 0 };
    for (const table of STORES) progress.total += await this._count(trans, table);
    for (const table of STORES) {
      for (let after; ; ) {
        const piece = await this._piece(trans, table, after);
        for (const kept of piece) this._load(table, kept);
        progress.done += piece.length;
        if (piece.length) onProgress({ ...progress });
        if (piece.length < PIECE) break;
        after = keyOf(table, piece[PIECE - 1]);
      }
    }
  }

  /**
   * @private
   * @param {any} trans
   * @param {TableName} table
   */
  async _count(trans, table) {
    const core = beneath(this._db).table(hiddenName(table));
    return core.count({ trans, query: { index: core.schema.primaryKey, range: above() } });
  }

  /**
   * @private
   * @param {any} trans
   * @param {TableName} table
   * @param {any} [after]
   * @returns {Promise<any[]>}
   */
  async _piece(trans, table, after) {
    const core = beneath(this._db).table(hiddenName(table));
    const query = { index: core.schema.primaryKey, range: above(after) };
    return (await core.query({ trans, values: true, limit: PIECE, query })).result;
  }

  /** @private */
  _letGo() {
    this._db.on("versionchange").unsubscribe(this._onVersionChange);
  }
}

/** @param {TableName} table */
function hiddenName(table) {
  return `$hub_${table}`;
}

/**
 * All keys behind this one; without one all there are.
 * @param {any} [key]
 * @returns {any}
 */
function above(key) {
  return key === undefined ? { type: 3 } : { type: 2, lower: key, lowerOpen: true };
}
