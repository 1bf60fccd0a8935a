/**
 * From write-sets to the disk, in order: while one batch is being committed, the next one gathers.
 *
 * A write-set that is handed over is durable when the promise of `durable()`, asked for after it, has resolved.  When
 * a commit fails, nothing is lost and nothing is skipped: its write-sets stay first in line, and all wait for
 * `retry()`.  How a batch is committed, the keeper says; it commits a batch as a whole or not at all.
 */

/** @typedef {import("./rows.js").StorageFailed} StorageFailed */
/** @typedef {import("./tables.js").WriteSet} WriteSet */

/** @template [Item=WriteSet] what one transaction hands over */
export class Journal {
  /**
   * @param {(batch: Item[]) => Promise<void>} commit rejects with `StorageFailed`, never with anything else
   * @param {(failure: StorageFailed) => void} [failed] told of each failure once
   */
  constructor(commit, failed = () => {}) {
    /** @type {StorageFailed | null} why nothing is committed at the moment */
    this.failure = null;
    this._commit = commit;
    this._failed = failed;
    /** @type {Item[]} handed over and not yet durable */
    this._waiting = [];
    this._handed = 0;
    this._durable = 0;
    this._running = false;
    /** @type {{upto: number, resolve: () => void, reject: (failure: StorageFailed) => void}[]} in order of `upto` */
    this._watchers = [];
  }

  /** How many write-sets are not yet durable. */
  get pending() {
    return this._handed - this._durable;
  }

  /** @param {Item} writeSet */
  add(writeSet) {
    this._handed += 1;
    this._waiting.push(writeSet);
    this._run();
  }

  /**
   * Resolves when all that was added until now is durable; rejects with `failure`, also when that was there before.
   *
   * @returns {Promise<void>}
   */
  durable() {
    if (this.failure) return Promise.reject(this.failure);
    if (this.pending === 0) return Promise.resolve();
    return new Promise((resolve, reject) => this._watchers.push({ upto: this._handed, resolve, reject }));
  }

  /** Go on after a failure that is not final; as `durable`. */
  retry() {
    if (this.failure && !this.failure.final) this.failure = null;
    this._run();
    return this.durable();
  }

  /**
   * Commit nothing any more.  A final failure is never replaced.
   *
   * @param {StorageFailed} failure
   */
  fail(failure) {
    if (this.failure?.final) return;
    this.failure = failure;
    for (const { reject } of this._watchers.splice(0)) reject(failure);
    this._failed(failure);
  }

  /** @private */
  async _run() {
    if (this._running) return;
    this._running = true;
    await null; // what is added in the same turn goes along
    try {
      while (this._waiting.length > 0 && !this.failure) await this._commitBatch(this._waiting.splice(0));
    } finally {
      this._running = false;
    }
  }

  /**
   * @private
   * @param {Item[]} batch
   */
  async _commitBatch(batch) {
    try {
      await this._commit(batch);
    } catch (failure) {
      this._waiting = [...batch, ...this._waiting];
      this.fail(/** @type {StorageFailed} */ (failure));
      return;
    }
    this._settle(batch.length);
  }

  /**
   * @private
   * @param {number} count
   */
  _settle(count) {
    this._durable += count;
    while (this._watchers.length > 0 && this._watchers[0].upto <= this._durable) this._watchers.shift()?.resolve();
  }
}
