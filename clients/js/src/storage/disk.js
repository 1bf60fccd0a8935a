/**
 * What every keeper in IndexedDB does alike, over its own connection or over Dexie's: which writes count, how one is
 * put, and what a failure of the database is called.
 */

import { StorageFailed, StorageGone, StorageTaken, StorageTooNew } from "./rows.js";
import { idOf, slim } from "./tables.js";

/** @typedef {import("./tables.js").Write} Write */
/** @typedef {import("./tables.js").WriteSet} WriteSet */

export const PIECE = 1_000; // rows loaded at once
export const PAUSES_MS = [0, 100, 1_000]; // before each further try to commit
export const HOLDER = "holder"; // in meta: the mark of who opened the database last

/**
 * Of several writes to one place only the last counts.
 *
 * @param {WriteSet[]} writeSets
 */
export function lastOfEach(writeSets) {
  /** @type {Map<string, Write>} */
  const last = new Map();
  for (const writeSet of writeSets) for (const write of writeSet) last.set(`${write.table} ${idOf(write.key)}`, write);
  return [...last.values()];
}

/**
 * @param {IDBObjectStore} store
 * @param {Write} write
 */
export function put(store, { table, key, held }) {
  if (held === null) store.delete(/** @type {IDBValidKey} */ (key));
  else store.put(slim(table, held));
}

/** @param {any} error of IndexedDB, or Dexie's with that one inside */
export function isFull(error) {
  return [error?.name, error?.inner?.name].includes("QuotaExceededError");
}

/**
 * @param {any} error
 * @returns {StorageFailed}
 */
export function asFailure(error) {
  if (error instanceof StorageFailed) return error;
  if (error?.name === "VersionError") return tooNew(error);
  const why = isFull(error) ? "there is no room left on this device" : "the database of this device does not answer";
  return new StorageFailed(why, { cause: error });
}

/** @param {unknown} [cause] */
export function tooNew(cause) {
  const message = "a newer version of this app has changed the data on this device; load the page again";
  return new StorageTooNew(message, { final: true, cause });
}

export function taken() {
  return new StorageTaken("another tab of this app has taken over", { final: true });
}

export function gone() {
  return new StorageGone("the data of this app was deleted from this device", { final: true });
}
