/**
 * A value that an app may watch, and calling the app back.
 */

import { report } from "./report.js";

/**
 * A value that changes, and whoever watches it; what Svelte calls a store.
 *
 * @template T
 */
export class Observable {
  /** @param {T} value */
  constructor(value) {
    this._value = value;
    /** @type {Set<{fn: (value: T) => void}>} */
    this._watchers = new Set();
  }

  /** The value as it is now. */
  get value() {
    return this._value;
  }

  /**
   * Call back with the value, at once and each time it is another; returns what ends that.
   *
   * @param {(value: T) => void} fn
   * @returns {() => void}
   */
  subscribe(fn) {
    const watcher = { fn };
    this._watchers.add(watcher);
    call(fn, this.value);
    return () => void this._watchers.delete(watcher);
  }

  /** @param {T} value */
  _set(value) {
    this._value = value;
    for (const { fn } of [...this._watchers]) call(fn, value);
  }
}

/**
 * Call the app back; its mistakes are its own.
 *
 * @template {unknown[]} A
 * @param {(...values: A) => void} fn @param {A} values
 */
export function call(fn, ...values) {
  try {
    fn(...values);
  } catch (error) {
    report(error);
  }
}
