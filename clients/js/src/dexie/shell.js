/**
 * `db.hub`: what the add-on offers to an app.
 *
 *     await db.hub.signIn({ email, code: async ({ phrase }) => prompt(`The code from the mail (${phrase}):`) });
 *     db.hub.status.subscribe(({ phase, pending }) => badge(phase, pending));
 *
 * Every tab has all of it.  What only the leading tab can do makes this tab lead.  It begins when the database is open
 * and ends when it is closed, by whomever; when it is opened again, it goes on.
 */

import { Page } from "../page.js";
import { unhex } from "../bytes.js";
import { resolveConflict } from "./conflicts.js";
import { Opening } from "./opening.js";
import { newId } from "./schema.js";
import { call, Observable, StatusBoard } from "./status.js";

/** @typedef {import("dexie").Dexie} Dexie */
/** @typedef {import("../strategies.js").Strategy} Strategy */
/** @typedef {import("./leading.js").AccountNotice} AccountNotice */
/** @typedef {import("./leading.js").HubDevice} HubDevice */
/** @typedef {import("./leading.js").Leading} Leading */
/** @typedef {import("./conflicts.js").WaitingConflict} WaitingConflict */

/**
 * What is synced, with which hub.
 *
 * @typedef {object} HubOptions
 * @property {string} app the app's name on the hub, like `org.example.notes`; never change it
 * @property {string} [url] of the hub; else that of the sign-in, else where the page comes from
 * @property {Record<string, {conflict?: Strategy}>} tables the tables that are synced; all others stay on this device
 * @property {HubSurroundings} [surroundings] for tests
 */

/**
 * What the add-on needs of its surroundings; each has the browser's as its default.
 *
 * @typedef {import("../connection.js").Surroundings & Pick<import("../leader.js").Surroundings, "locks">
 *   & {stale?: {afterS?: number, lookEveryMs?: number}}} HubSurroundings
 */

/**
 * One kept change of a row.
 *
 * @typedef {object} RowVersion
 * @property {number} seq
 * @property {Date} appendedAt the hub's clock
 * @property {number} kind
 * @property {any} value the row; MISSING for a delete
 * @property {string} deviceId in hex
 * @property {boolean} isFirst nothing of the row was there before
 */

/**
 * A device being added.  Show `svg()` or `code`, or scan the other's; then the person compares the six digits.
 *
 * @typedef {object} Pairing
 * @property {"giver" | "taker"} role whether this device has the key, or is the one that gets it
 * @property {string} code what the other device scans, or where the two met already
 * @property {() => Promise<string>} svg the code as a picture
 * @property {Promise<string>} digits the six digits, once the other device is there
 * @property {Promise<string>} name to the device that adds: what the other one calls itself
 * @property {(digits: string) => Promise<void>} confirm where the code was shown: these are the other device's digits
 * @property {() => Promise<void>} agree where the code was scanned: the person wants it
 * @property {Promise<void>} done both devices have the key
 * @property {() => void} cancel
 */

/**
 * Sealed messages between the devices that are connected at the moment; each may be lost.
 *
 * @typedef {object} HubChannel
 * @property {(value: any) => Promise<void>} send to the other devices; in the leading tab throws ConnectionError when
 *   they cannot be reached now
 * @property {(fn: (value: any, from: {device: string}) => void) => () => void} onMessage
 * @property {() => void} close
 */

const REOPEN_AFTER_MS = 1_000; // a database whose connection was lost

/** One app's database and its hub.  Made by the add-on. */
export class Hub {
  /** @param {Dexie} db @param {HubOptions} options */
  constructor(db, options) {
    const { page = new Page(), now } = options.surroundings ?? {};
    this._db = db;
    this._options = { ...options, surroundings: { ...options.surroundings, page } };
    this._board = new StatusBoard(now && (() => now().wall));
    /** @type {Map<string, Set<{fn: (value: any, from: {device: string}) => void}>>} */
    this._channels = new Map();
    /** @type {Set<{fn: (notice: AccountNotice) => void}>} */
    this._noticed = new Set();
    /** @type {Opening | null} */
    this._opening = null;
    /** @type {Promise<unknown>} */
    this._ended = Promise.resolve();
    this._leaving = () => {};
    /** Where sync stands: `value`, and `subscribe(fn)`, which calls `fn` at once.
     * @type {Observable<import("./status.js").HubStatus>} */
    this.status = this._board;
    /** The conflicts that wait for a person: `value`, and `subscribe(fn)`.
     * @type {Observable<WaitingConflict[]>} */
    this.conflicts = new Observable(/** @type {WaitingConflict[]} */ ([]));
    this._follow(page);
  }

  // --- signing in ---

  /**
   * Have a code mailed.
   *
   * A device that is signed in already becomes a new one.  Throws Refusal, ConnectionError.
   *
   * @param {{email: string, url?: string, invite?: string}} who
   * @returns {Promise<{phrase: string, expiresInS: number}>} the two words of the mail, and how long its code works
   */
  async requestCode({ email, url = "", invite = "" }) {
    const at = url || (!this.deviceId && this._options.url) || "";
    return this._act((leading) => leading.requestCode(email, invite), at);
  }

  /**
   * Hand in the code from the mail.
   *
   * On an account that has no space of this app yet a key is made: `newKey`, show it.  Otherwise this device needs the
   * key of another one: `needsKey`, see `importKey` and `pair`.  Throws Refusal `enrol_failed` when the code is not
   * right.
   *
   * @param {string} code
   * @returns {Promise<{needsKey: boolean, newKey: boolean}>}
   */
  async enrol(code) {
    askToStay();
    return this._act((leading) => leading.enrol(code));
  }

  /**
   * Both in one: `code` is called with the words of the mail, and returns what the person typed.
   *
   * @param {{email: string, url?: string, invite?: string,
   *   code: (sent: {phrase: string, expiresInS: number}) => string | Promise<string>}} who
   * @returns {Promise<{needsKey: boolean, newKey: boolean}>}
   */
  async signIn({ code, ...who }) {
    const sent = await this.requestCode(who);
    return this.enrol(await code(sent));
  }

  /**
   * Sign this device out: the hub forgets it, and this device everything that was for the hub.
   *
   * The app's rows stay unless `wipeLocal`.  Refused with the code `unsynced` while the hub has not everything, and a
   * ConnectionError when the hub cannot be reached; `force` does it anyway.
   *
   * @param {{wipeLocal?: boolean, force?: boolean}} [how]
   */
  async signOut({ wipeLocal = false, force = false } = {}) {
    const opening = await this._opened();
    const leading = await opening.lead();
    try {
      await leading.signOut({ wipeLocal, force });
    } finally {
      if (leading.closed) await opening.engineGone();
      else leading.tell();
    }
  }

  // --- the key ---

  /**
   * Make the key of a new space; its code.  Show it: nobody can bring it back.
   *
   * @returns {Promise<string>}
   */
  async createKey() {
    return this._act((leading) => leading.createKey());
  }

  /**
   * Take the key of another device: its code, the text of its QR code, or its words.  Throws WrongKeyCode.
   *
   * @param {string} text
   */
  async importKey(text) {
    await this._act((leading) => leading.importKey(text));
  }

  /**
   * The key, to be shown, printed or scanned: as `code`, as `words`, or as the QR code's `svg`.
   *
   * @param {"code" | "words" | "svg"} [form]
   * @returns {Promise<string>}
   */
  async exportKey(form = "code") {
    return this._act((leading) => leading.exportKey(form));
  }

  /**
   * Add a device by one scan, or have this one added; which of both follows from whether it has the key.
   *
   * Without `scanned` show the code; with it, it is what the camera read from the other device.
   *
   * @param {{scanned?: string, name?: string}} [how] `name` is what this device is called on the other one
   * @returns {Promise<Pairing>}
   */
  async pair({ scanned = "", name = "" } = {}) {
    askToStay();
    const url = scanned && !this.deviceId && !this._options.url ? hubIn(scanned) : "";
    return this._act((leading) => leading.pair(scanned, name), url);
  }

  // --- on and off ---

  /**
   * Sync again, also after the remote copies were deleted: what the hub has not got is sent anew.  Refused with the
   * code `wiping` while the hub has not been told to delete them.
   */
  async enable() {
    await this._act((leading) => leading.turnOn());
  }

  /** Sync no more, until `enable`; edits wait. */
  async disable() {
    await this._act((leading) => leading.turnOff());
  }

  /**
   * Delete the remote copies, and sync no more; what is here stays, and other devices keep theirs.
   *
   * Throws TimeoutError when the hub cannot be reached; then it is told as soon as it can be.
   */
  async deleteRemote() {
    await this._act((leading) => leading.deleteRemote());
  }

  /** A person has seen the alarms and wants to go on: what was stopped is read anew and compared. */
  async forgetAlarms() {
    await this._act((leading) => leading.forgetAlarms());
  }

  /**
   * Go where the account has moved to, `status.value.movedTo`, with the same device, key and edits, and stay there.
   *
   * A hub that moved an account says so and answers no more (`blocked`); this device goes to the new one only with
   * this, once a person wants it.  Throws RangeError when the account has not moved.
   */
  async follow() {
    await this._act((leading) => leading.follow());
  }

  // --- the account ---

  /** This device, as the hub lists it, in hex; empty while it is nobody yet. */
  get deviceId() {
    return this._board.report.deviceId;
  }

  /** The devices of this app on the account.  @returns {Promise<HubDevice[]>} */
  async devices() {
    return this._act((leading) => leading.devices());
  }

  /**
   * Take a device off the account.
   *
   * @param {string} id
   */
  async revoke(id) {
    await this._act((leading) => leading.revoke([unhex(id)]));
  }

  /**
   * End another device's probation.
   *
   * @param {string} id
   */
  async approve(id) {
    await this._act((leading) => leading.approve(unhex(id)));
  }

  /**
   * Call this device so, for the person's other devices to see, 1 to 64 characters; sealed, so the hub does not know.
   * Throws RangeError.
   *
   * @param {string} text
   */
  async nameDevice(text) {
    await this._act((leading) => leading.nameDevice(text));
  }

  /** What the devices of this app are called, by device id in hex.  @returns {Promise<Map<string, string>>} */
  async deviceNames() {
    return this._act((leading) => leading.deviceNames());
  }

  /**
   * How much of the hub the account takes, and may take, in bytes: all its apps together, as the hub last told.
   *
   * @returns {Promise<{usedBytes: number, quotaBytes: number}>}
   */
  async usage() {
    return this._act((leading) => leading.usage());
  }

  /**
   * Call back when something happens on the account, a device that is added above all; returns what ends that.
   *
   * @param {(notice: AccountNotice) => void} fn
   * @returns {() => void}
   */
  onAccount(fn) {
    const watcher = { fn };
    this._noticed.add(watcher);
    return () => void this._noticed.delete(watcher);
  }

  // --- data ---

  /**
   * Settle a conflict that waits for a person with this row; undefined deletes it.  Durable here when it resolves; the
   * other devices get it when the hub is told.  Throws RangeError when no such conflict waits.  `seen` is the conflict
   * as the person saw it: should the row have changed since, here or there, none of that is written over.
   *
   * @param {string} table @param {any} key @param {any} value @param {WaitingConflict} [seen]
   */
  async resolve(table, key, value, seen) {
    await this._opened();
    await resolveConflict(this._db, table, key, value, seen);
  }

  /**
   * The changes of a row that the hub still keeps, newest first.  Put one back to undo what came after it:
   * `await db.chapters.put(version.value)`.
   *
   * @param {string} table @param {any} key
   * @returns {Promise<RowVersion[]>}
   */
  async history(table, key) {
    return this._act((leading) => leading.history(table, key));
  }

  /**
   * The row at an earlier time; MISSING when it was not there.  Throws RangeError when the hub does not keep it that
   * far back.
   *
   * @param {string} table @param {any} key @param {Date} date
   */
  async at(table, key, date) {
    return this._act((leading) => leading.at(table, key, date));
  }

  /**
   * Returns when everything here is on the hub, and everything the hub tells of is here.  Throws TimeoutError.
   *
   * @param {number} [timeoutS]
   */
  async whenSynced(timeoutS = 30) {
    await (await this._opened()).whenSynced(timeoutS);
  }

  /** An id for a new row, which no other device makes: a UUIDv7, so ids sort by when they were made. */
  newId() {
    return newId();
  }

  /**
   * Messages to the same channel of the person's other devices, as long as they are connected: who is there, where
   * the cursor is.
   *
   * @param {string} name
   * @returns {HubChannel}
   */
  channel(name) {
    /** @type {Set<{fn: (value: any, from: {device: string}) => void}>} */
    const mine = new Set();
    const all = this._channels.get(name) ?? new Set();
    this._channels.set(name, all);
    const drop = (/** @type {{fn: any}} */ watcher) => void (mine.delete(watcher), all.delete(watcher));
    return {
      send: async (value) => (await this._opened()).sendSignal(name, value),
      onMessage: (fn) => {
        const watcher = { fn };
        mine.add(watcher);
        all.add(watcher);
        return () => drop(watcher);
      },
      close: () => [...mine].forEach(drop),
    };
  }

  // --- inside ---

  /**
   * Do what only the leader can do.
   *
   * @template T
   * @param {(leading: Leading) => Promise<T>} work @param {string} [url]
   * @returns {Promise<T>}
   */
  async _act(work, url) {
    const leading = await (await this._opened()).lead(url);
    try {
      return await work(leading);
    } finally {
      leading.tell();
    }
  }

  /** @returns {Promise<Opening>} */
  async _opened() {
    if (!this._db.isOpen()) await this._db.open();
    return this._begin();
  }

  _begin() {
    if (this._opening) return this._opening;
    const opening = new Opening(this._db, this._options, this._owner(), this._ended);
    this._opening = opening;
    opening.begin();
    // Last of all who hear it, the leader among them.  A page that stands still must have nothing open: what another
    // tab writes makes its live queries begin transactions that never end, and all other tabs' would wait behind them.
    this._leaving = this._options.surroundings.page.on("leaving", () => this._db.close({ disableAutoOpen: false }));
    return opening;
  }

  /** @returns {import("./opening.js").Owner} */
  _owner() {
    return {
      board: this._board,
      conflicts: (conflicts) => this.conflicts._set(conflicts),
      signal: (name, value, device) => {
        for (const { fn } of [...(this._channels.get(name) ?? [])]) call(fn, value, { device });
      },
      notice: (notice) => {
        for (const { fn } of [...this._noticed]) call(fn, notice);
      },
    };
  }

  _end() {
    const opening = this._opening;
    if (!opening) return;
    this._opening = null;
    this._leaving();
    this._ended = opening.end();
    this._board.forget();
    if (this.conflicts.value.length) this.conflicts._set([]);
  }

  /**
   * Begin and end with the database, whoever opens and closes it.
   *
   * @param {import("../page.js").PageLike} page
   */
  _follow(page) {
    const db = this._db;
    let wanted = false; // it was open, and nobody meant to close it
    let changing = false; // another tab has a newer version of it, or deletes it
    const again = () => {
      if (wanted && page.visible && !db.isOpen()) db.open().catch(() => undefined); // the app finds out by itself
    };
    // Out of the zone of the opening, which is a transaction's to Dexie.
    db.on("ready", () => void setTimeout(() => db.isOpen() && this._begin()), true);
    db.on("ready", () => void (changing = wanted = false), true);
    db.on("versionchange", () => void (changing = true));
    db.on("close", () => this._end());
    const { close } = db;
    db.close = (/** @type {any} */ how = { disableAutoOpen: true }) => {
      wanted = Boolean(this._opening) && !how.disableAutoOpen && !changing;
      close.call(db, how);
      if (wanted) setTimeout(again, REOPEN_AFTER_MS);
    };
    // Dexie closes what a page that is about to stand still has open, and waits for the app to use it again.
    page.on("leaving", () => (wanted ||= db.isOpen()));
    page.on("back", again);
    page.on("shown", again);
  }
}

/** Where the hub of a code `CODE/HOST` is; empty when it does not say.  @param {string} scanned */
function hubIn(scanned) {
  const host = scanned.split("/")[1]?.trim().toLowerCase();
  if (!host) return "";
  return `${/^(localhost|127\.|\[::1\])/.test(host) ? "http" : "https"}://${host}`;
}

/** Ask the browser not to clear this origin's data when room gets short; it may say no. */
function askToStay() {
  globalThis.navigator?.storage?.persist?.().catch(() => undefined);
}
