/**
 * One leader among the tabs of an origin: one tab keeps the storage and the socket, the others wait to follow it.
 *
 *     const leader = new Leader("notes", async (signal) => { ...work until signal is aborted... });
 *     leader.start();
 *
 * A Web Lock decides, so a tab that is closed or crashes is followed at once by the next.
 * A tab that is about to stand still (frozen, kept in the back/forward cache) gives the
 * lock back by itself, since the browser would not take it from it.
 *
 * One that stood still without notice holds the lock for ever.  So a tab that the person
 * sees asks now and then; a leader answers only after a round trip to storage, because
 * messages reach a frozen page but storage does not answer it.  When two questions in a
 * row stay unanswered, and storage does answer the tab that asked, it takes the lock.
 * The former leader is told by its signal as soon as it can be told anything: until then
 * it may still run, so whatever keeps the data must itself refuse two writers.
 *
 * A tab in which the person does something that only the leader can do claims the lead: `claim`
 * takes the lock in the same way, and the former leader stands behind again.
 */

import { Page } from "./page.js";
import { report } from "./report.js";
import { Bell } from "./waiting.js";

export const ASK_EVERY_MS = 10_000;
export const ANSWER_WITHIN_MS = 1_200;
export const QUESTIONS = 2; // a leader that is only busy for a moment keeps the lock
export const AGAIN_AFTER_MS = 5_000; // after leading failed: others first

/** @typedef {import("./page.js").PageLike} PageLike */
/** @typedef {(signal: AbortSignal) => Promise<void> | void} Lead */
/** @typedef {{request(name: string, options: any, callback: () => any): Promise<any>}} LocksLike */
/**
 * What a leader needs of its surroundings; each has the browser's as its default.
 *
 * @typedef {object} Surroundings
 * @property {LocksLike | null} [locks] navigator.locks, or what does as they do; null: nobody to share with,
 *   this tab leads at once
 * @property {{postMessage: (message: unknown) => void, onmessage: ((event: any) => void) | null, close: () => void}
 *   | null} [channel] reaches the other tabs of this name
 * @property {() => Promise<unknown>} [roundTrip] settles when storage has answered
 * @property {PageLike} [page]
 * @property {(error: unknown) => void} [failed] told when leading failed; the lock is given to the next
 */

/**
 * One candidature: from asking for the lock until it is given back, lost or no longer wanted.
 *
 * @typedef {object} Bid
 * @property {AbortController} waiting withdraws it while others lead
 * @property {AbortController | null} leading aborted when leading ends; null: not yet
 * @property {boolean} claims takes the lock instead of waiting for it
 * @property {() => void} release gives the lock back
 */

export class Leader {
  /**
   * @param {string} name of what is led, the same in all tabs
   * @param {Lead} lead called each time this tab begins to lead; it may work until the signal is aborted, and the
   *   tab leads until then, also when `lead` has returned; when it throws, another tab's turn has come
   * @param {Surroundings} [surroundings]
   */
  constructor(name, lead, surroundings = {}) {
    const { locks, channel, roundTrip, page, failed } = surroundings;
    this._name = `sync-hub:${name}`;
    this._lead = lead;
    this._locks = locks === undefined ? (globalThis.navigator?.locks ?? null) : locks;
    this._channel = channel === undefined ? openChannel(`${this._name}:leader`) : channel;
    this._roundTrip = roundTrip ?? askStorage;
    this._page = page ?? new Page();
    this._failed = failed ?? report;
    /** @type {Bid | null} */
    this._bid = null;
    this._heard = 0;
    this._asking = false;
    /** @type {(() => void)[]} */
    this._undo = [];
    /** @type {Promise<void>} */
    this._led = Promise.resolve();
    this._moved = new Bell();
    this._away = false; // the page stands still, or is about to
  }

  /** Whether this tab leads. */
  get leading() {
    return Boolean(this._bid?.leading);
  }

  /** Stand for election from now on. */
  start() {
    if (this._undo.length) return;
    if (this._channel) this._channel.onmessage = (/** @type {any} */ event) => this._hear(event.data);
    const interval = setInterval(() => this.ask(), ASK_EVERY_MS);
    this._undo = [
      () => clearInterval(interval),
      this._page.on("leaving", () => this._leave()),
      this._page.on("back", () => this._back()),
      this._page.on("shown", () => this._seen()),
    ];
    this._stand();
    this.ask();
  }

  /** Lead no more; returns when the work has ended, and gives the lock back then. */
  async stop() {
    this._undo.forEach((undo) => undo());
    this._undo = [];
    this._moved.ring();
    const bid = this._bid;
    if (bid?.leading) bid.leading.abort();
    else this._withdraw();
    await this._led.catch(() => undefined);
    if (bid && bid === this._bid) this._withdraw();
    this._channel?.close();
  }

  /**
   * Take the lead from whichever tab has it; returns when this one leads, and its work has begun.  Of two tabs that
   * claim it at once both have led, the later one leads on.  Throws Error when the leader was not started, or stops.
   */
  async claim() {
    while (!this.leading) {
      if (!this._undo.length) throw new Error("this tab does not stand for election");
      if (!this._bid?.claims && !this._away) this._stand(true);
      await this._moved.wait();
    }
  }

  /**
   * Ask whether the leader still lives, and follow it when not.  Does nothing in a tab that is not seen:
   * such a tab could be frozen next.
   */
  async ask() {
    if (this._asking || !this._mayFollow()) return;
    this._asking = true;
    try {
      for (let question = 0; question < QUESTIONS; question++) {
        if (await this._answered()) return;
        if (!this._mayFollow()) return;
      }
      this._stand(true);
    } finally {
      this._asking = false;
    }
  }

  _mayFollow() {
    return Boolean(this._locks && this._channel && this._bid && !this._bid.leading && this._page.visible);
  }

  /** Whether a leader answered, or this tab has no right to know: its own storage is as silent. */
  async _answered() {
    const heard = this._heard;
    this._channel?.postMessage("ask");
    let mine = false;
    this._roundTrip().then(() => (mine = true), () => undefined);
    await new Promise((done) => setTimeout(done, ANSWER_WITHIN_MS));
    return this._heard > heard || !mine;
  }

  /** @param {unknown} message */
  _hear(message) {
    if (message === "here") this._heard += 1;
    if (message !== "ask" || !this.leading) return;
    this._roundTrip().then(() => this.leading && this._channel?.postMessage("here"), () => undefined);
  }

  _leave() {
    this._away = true;
    this._withdraw();
  }

  _back() {
    this._away = false;
    this._stand();
    this._moved.ring();
  }

  _seen() {
    this._back();
    this.ask();
  }

  // --- the lock ---

  _stand(steal = false) {
    if (this._bid && !steal) return;
    this._withdraw();
    /** @type {Bid} */
    const bid = { waiting: new AbortController(), leading: null, claims: steal, release: () => undefined };
    this._bid = bid;
    if (!this._locks) {
      this._begin(bid);
      return;
    }
    const options = steal ? { steal: true } : { signal: bid.waiting.signal };
    this._locks.request(this._name, options, () => this._hold(bid)).then(
      () => undefined,
      () => this._over(bid),
    );
  }

  /** @param {Bid} bid */
  _hold(bid) {
    if (bid !== this._bid) return undefined; // withdrawn at the moment it was granted
    return new Promise((done) => {
      bid.release = () => done(undefined);
      this._begin(bid);
    });
  }

  /** @param {Bid} bid */
  _begin(bid) {
    bid.leading = new AbortController();
    this._channel?.postMessage("here");
    const { signal } = bid.leading;
    this._led = Promise.resolve().then(() => this._lead(signal));
    this._led.catch((error) => {
      this._failed(error);
      if (bid === this._bid) this._giveWay();
    });
    this._moved.ring();
  }

  /** Let another lead, and be there again later. */
  _giveWay() {
    this._withdraw();
    if (!this._undo.length) return; // it has stopped meanwhile
    const later = setTimeout(() => this._undo.length && this._stand(), AGAIN_AFTER_MS);
    this._undo.push(() => clearTimeout(later));
  }

  /** The lock was taken, or could not be had.  @param {Bid} bid */
  _over(bid) {
    if (bid !== this._bid) return;
    if (bid.leading) {
      this._withdraw();
      if (this._undo.length) this._stand();
    } else {
      this._giveWay();
    }
  }

  _withdraw() {
    const bid = this._bid;
    this._bid = null;
    bid?.leading?.abort();
    bid?.waiting.abort();
    bid?.release();
    this._moved.ring();
  }
}

/** @param {string} name */
function openChannel(name) {
  return typeof BroadcastChannel === "undefined" ? null : new BroadcastChannel(name);
}

/** A round trip to IndexedDB. */
async function askStorage() {
  if (typeof indexedDB === "undefined") return;
  await new Promise((done, fail) => {
    const request = indexedDB.open("sync-hub:alive", 1);
    request.onsuccess = () => {
      request.result.close();
      done(undefined);
    };
    request.onerror = () => fail(request.error);
  });
}
