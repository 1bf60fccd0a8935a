/**
 * A handful of settings in a database of their own, for a device that keeps no data: who it is, and what it waits for.
 *
 * Each call opens the database, does its work in one transaction and lets go, so nothing stands in the way of another
 * tab.  What `keep` wrote is on the disk when its promise resolves.  All reject with StorageFailed.
 */

import { asFailure } from "./disk.js";

const STORE = "settings";

/**
 * All settings; none when there is no database yet.
 *
 * @param {string} name of the database @param {IDBFactory} [factory]
 * @returns {Promise<Map<string, any>>}
 */
export async function kept(name, factory = globalThis.indexedDB) {
  return within(name, factory, "readonly", async (store) => {
    const [keys, values] = [answered(store.getAllKeys()), answered(store.getAll())];
    const held = await values;
    return new Map((await keys).map((key, at) => [String(key), held[at]]));
  });
}

/**
 * Set these, null removes; all of them or none.
 *
 * @param {string} name @param {Record<string, any>} settings @param {IDBFactory} [factory]
 */
export async function keep(name, settings, factory = globalThis.indexedDB) {
  await within(name, factory, "readwrite", async (store) => {
    for (const [key, value] of Object.entries(settings)) {
      if (value === null) store.delete(key);
      else store.put(value, key);
    }
  });
}

/** Delete the database.  @param {string} name @param {IDBFactory} [factory] */
export async function drop(name, factory = globalThis.indexedDB) {
  await answered(factory.deleteDatabase(name)).catch((error) => {
    throw asFailure(error);
  });
}

/**
 * @template T
 * @param {string} name @param {IDBFactory} factory @param {IDBTransactionMode} mode
 * @param {(store: IDBObjectStore) => Promise<T>} work may await the answers of its own requests and nothing else
 * @returns {Promise<T>}
 */
async function within(name, factory, mode, work) {
  /** @type {IDBDatabase | null} */
  let database = null;
  try {
    const opening = factory.open(name, 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore(STORE);
    database = await answered(opening);
    const transaction = database.transaction(STORE, mode, { durability: "strict" });
    const ended = new Promise((done, fail) => {
      transaction.oncomplete = () => done(undefined);
      transaction.onabort = () => fail(transaction.error ?? new DOMException("it was aborted", "AbortError"));
    });
    const [result] = await Promise.all([work(transaction.objectStore(STORE)), ended]);
    return result;
  } catch (error) {
    throw asFailure(error);
  } finally {
    database?.close();
  }
}

/**
 * @template T
 * @param {IDBRequest<T>} request
 * @returns {Promise<T>}
 */
function answered(request) {
  return new Promise((done, fail) => {
    request.onsuccess = () => done(request.result);
    request.onerror = () => fail(request.error);
  });
}
