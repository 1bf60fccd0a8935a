/**
 * The promise of local storage kept in one IndexedDB database: all rows in memory, every write-set in the database.
 *
 * One object store a table.  A batch of write-sets is one transaction with durability "strict", so that a crash leaves
 * whole transactions of the storage.  What can go wrong under way, and what happens then:
 *
 * - The connection is lost (WebKit does that to an app that comes back from the background): the batch is written
 *   again over a new connection.  Writing it twice does no harm.
 * - The disk is full, or the database stays away: `failure`, until `retry()` succeeds.
 * - A newer program wants the database: what was handed over is committed, then the connection is given up, for good.
 * - Another tab has opened the database: `StorageTaken`.  Each opening leaves its mark in the database, and each commit
 *   first looks whether the mark is still its own, so a frozen tab that wakes up cannot write over its successor.
 * - The database was deleted: `StorageGone`.  It is not made anew from half a memory.
 */

import { hex } from "../bytes.js";
import { HOLDER, PAUSES_MS, PIECE, asFailure, gone, isFull, lastOfEach, put, taken, tooNew } from "./disk.js";
import { Journal } from "./journal.js";
import { MemoryStorage } from "./memory.js";
import { StorageForeign, StorageGone } from "./rows.js";
import { TABLES, keyOf } from "./tables.js";

/** @typedef {import("./tables.js").TableName} TableName */
/** @typedef {import("./rows.js").StorageFailed} StorageFailed */
/** @typedef {import("./tables.js").WriteSet} WriteSet */

export const SCHEMA_VERSION = 1;
const STORES = /** @type {TableName[]} */ (Object.keys(TABLES));

/**
 * What a keeper in IndexedDB needs of its surroundings, each with the browser's as its default.
 *
 * @typedef {object} Options
 * @property {IDBFactory} [indexedDB]
 * @property {typeof IDBKeyRange} [IDBKeyRange]
 * @property {(progress: {done: number, total: number}) => void} [onProgress] rows loaded so far, of how many
 * @property {() => void} [onBlocked] another tab runs an older program and does not let go of the database; opening
 *   goes on as soon as it does
 * @property {(failure: StorageFailed) => void} [onFailure] the moment to stop sending, also when nothing was written
 * @property {(ms: number) => Promise<void>} [sleep]
 */

/** The promises in IndexedDB.  Made by `open`. */
export class IndexedDbStorage extends MemoryStorage {
  /**
   * Open or make the database and load all rows.  Throws `StorageTooNew`, `StorageForeign` or `StorageFailed`.
   * Whoever opens it takes it over: a storage that had it open before is refused from here on.
   *
   * @param {string} name
   * @param {Options} [options]
   */
  static async open(name, options = {}) {
    const storage = new IndexedDbStorage(name, options);
    await storage._open(options.onProgress);
    return storage;
  }

  /**
   * @private
   * @param {string} name
   * @param {Options} options
   */
  constructor(name, options) {
    super();
    /** @private */
    this._database = new Database(name, options, (left) => this._leave(left));
    /** @private */
    this._journal = new Journal((writeSets) => this._database.commit(writeSets), options.onFailure);
    /** @private @type {StorageFailed | null} why it is about to fail: nothing more is taken */
    this._leaving = null;
  }

  /** @returns {StorageFailed | null} */
  get failure() {
    return this._journal.failure ?? this._leaving;
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

  async close() {
    await super.close();
    try {
      await this._journal.durable();
    } finally {
      this._database.close();
    }
  }

  /**
   * @protected
   * @param {WriteSet} writes
   */
  _keep(writes) {
    this._journal.add(writes);
  }

  /**
   * @private
   * @param {Options["onProgress"]} [onProgress]
   */
  async _open(onProgress) {
    await this._database.takeOver((table, kept) => this._load(table, kept), onProgress);
  }

  /**
   * The database must be given up.  A newer program can wait until all is written; one that is deleted cannot be.
   *
   * @private
   * @param {StorageFailed} left why
   */
  _leave(left) {
    this._leaving = left;
    const finished = left instanceof StorageGone ? Promise.resolve() : this._journal.durable();
    finished.catch(() => {}).finally(() => {
      this._database.close();
      this._journal.fail(left);
    });
  }
}

// --- the database ----------------------------------------------------------------------------

/** One database, its connection, and the proof that it is still ours. */
class Database {
  /**
   * @param {string} name
   * @param {Options} options
   * @param {(why: StorageFailed) => void} leave called when another wants to change or delete the database
   */
  constructor(name, options, leave) {
    this._name = name;
    this._factory = options.indexedDB ?? globalThis.indexedDB;
    this._KeyRange = options.IDBKeyRange ?? globalThis.IDBKeyRange;
    this._onBlocked = options.onBlocked ?? (() => {});
    this._sleep = options.sleep ?? ((ms) => new Promise((resolve) => setTimeout(resolve, ms)));
    this._leave = leave;
    /** @type {IDBDatabase | null} */
    this._connection = null;
    this._mark = ""; // left in the database; empty: not yet
  }

  /** Let go of the connection; a running transaction ends first. */
  close() {
    this._connection?.close();
    this._connection = null;
  }

  /**
   * Make the database ours and read all of it, in one transaction: nothing can be written in between.
   *
   * @param {(table: TableName, kept: any) => void} load
   * @param {Options["onProgress"]} [onProgress]
   */
  async takeOver(load, onProgress = () => {}) {
    const connection = await this._connect();
    try {
      await this._transact(connection, STORES, async (store) => {
        const counts = await Promise.all(STORES.map((table) => answered(store(table).count())));
        const progress = { done: 0, total: counts.reduce((sum, count) => sum + count, 0) };
        for (const table of STORES) {
          for await (const piece of this._pieces(store(table), table)) {
            for (const kept of piece) load(table, kept);
            progress.done += piece.length;
            onProgress({ ...progress });
          }
        }
        this._mark = hex(crypto.getRandomValues(new Uint8Array(16)));
        store("meta").put({ name: HOLDER, value: this._mark });
      });
    } catch (error) {
      this.close();
      throw asFailure(error);
    }
  }

  /**
   * Write a batch as a whole or not at all.  Rejects with `StorageFailed`.
   *
   * @param {WriteSet[]} writeSets
   */
  async commit(writeSets) {
    const writes = lastOfEach(writeSets);
    const tables = [...new Set(writes.map(({ table }) => table)).add("meta")];
    for (let tries = 0; ; tries += 1) {
      try {
        const connection = this._connection ?? (await this._connect());
        return await this._transact(connection, tables, async (store) => {
          const holder = await answered(store("meta").get(HOLDER));
          if (holder?.value !== this._mark) throw taken();
          for (const write of writes) put(store(write.table), write);
        });
      } catch (error) {
        const failure = asFailure(error);
        if (failure.final || isFull(error) || tries === PAUSES_MS.length) throw failure;
        this.close();
        await this._sleep(PAUSES_MS[tries]);
      }
    }
  }

  /**
   * @private
   * @returns {Promise<IDBDatabase>}
   */
  async _connect() {
    const again = this._mark !== "";
    const request = this._factory.open(this._name, SCHEMA_VERSION);
    request.onblocked = () => this._onBlocked();
    request.onupgradeneeded = ({ oldVersion }) => {
      // Only a first opening may make the database: one that is gone is not refilled with later writes alone.
      if (again) request.transaction?.abort();
      else if (oldVersion < 1) makeStores(request.result);
    };
    const connection = await answered(request).catch((error) => {
      throw again && error?.name === "AbortError" ? gone() : asFailure(error);
    });
    if (STORES.some((table) => !connection.objectStoreNames.contains(table))) {
      connection.close();
      throw new StorageForeign(`the database "${this._name}" holds something else`, { final: true });
    }
    connection.onclose = () => {
      if (this._connection === connection) this._connection = null;
    };
    connection.onversionchange = ({ newVersion }) => {
      if (this._connection !== connection) connection.close();
      else this._leave(newVersion === null ? gone() : tooNew());
    };
    return (this._connection = connection);
  }

  /**
   * Do `work` in one transaction.  It may await the answers of its own requests and nothing else.
   *
   * @private
   * @param {IDBDatabase} connection
   * @param {TableName[]} tables
   * @param {(store: (table: TableName) => IDBObjectStore) => Promise<void>} work
   */
  async _transact(connection, tables, work) {
    const transaction = connection.transaction(tables, "readwrite", { durability: "strict" });
    const ended = endOf(transaction);
    try {
      await work((table) => transaction.objectStore(table));
      transaction.commit?.();
    } catch (error) {
      ended.catch(() => {}); // it failed for this very reason
      abort(transaction);
      throw error;
    }
    await ended;
  }

  /**
   * All rows of a table, some at a time.
   *
   * @private
   * @param {IDBObjectStore} store
   * @param {TableName} table
   */
  async *_pieces(store, table) {
    let range;
    for (;;) {
      /** @type {any[]} */
      const piece = await answered(store.getAll(range, PIECE));
      if (piece.length > 0) yield piece;
      if (piece.length < PIECE) return;
      range = this._KeyRange.lowerBound(keyOf(table, piece[PIECE - 1]), true);
    }
  }
}

/** @param {IDBDatabase} database */
function makeStores(database) {
  for (const table of STORES) database.createObjectStore(table, { keyPath: TABLES[table] });
}

/**
 * @template Result
 * @param {IDBRequest<Result>} request
 * @returns {Promise<Result>}
 */
function answered(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/**
 * @param {IDBTransaction} transaction
 * @returns {Promise<void>}
 */
function endOf(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error ?? new DOMException("it was aborted", "AbortError"));
  });
}

/** @param {IDBTransaction} transaction */
function abort(transaction) {
  try {
    transaction.abort();
  } catch {
    // it has ended already
  }
}
