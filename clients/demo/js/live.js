/**
 * Calls back with what a query gives, now and whenever its answer changes, wherever the change came from.
 */

import { liveQuery } from "/client/dexie.js";

/**
 * @template T
 * @param {() => Promise<T>} query  reads the database
 * @param {(value: T) => any} then
 * @returns {() => void}  stops it
 */
export function watch(query, then) {
  const seen = liveQuery(query).subscribe({
    next: then,
    error: (/** @type {unknown} */ error) => console.error(error),
  });
  return () => seen.unsubscribe();
}
