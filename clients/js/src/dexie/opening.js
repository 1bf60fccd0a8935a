/**
 * One opening of an app's database in one tab, from `ready` to `close`: this tab's place among the tabs, what it sees
 * in the database, and the terms in which it leads.
 */

import { liveQuery } from "dexie";
import { Leader } from "../leader.js";
import { Page } from "../page.js";
import { TimeoutError, within } from "../waiting.js";
import { readConflicts } from "./conflicts.js";
import { isSignedIn, readReport } from "./facts.js";
import { keyText } from "./schema.js";
import { Tabs } from "./tabs.js";

/** @typedef {import("dexie").Dexie} Dexie */
/** @typedef {import("./conflicts.js").WaitingConflict} WaitingConflict */
/** @typedef {import("./leading.js").Leading} Leading */
/** @typedef {import("./shell.js").HubOptions} HubOptions */
/** @typedef {import("./status.js").Report} Report */
/** @typedef {import("./status.js").StatusBoard} StatusBoard */
/** @typedef {import("./tabs.js").TabMessage} TabMessage */

const LOOK_EVERY_MS = 5_000;
const STALE_AFTER_S = 60; // an edit that waits longer while all is said to be synced has been forgotten
const LEADER_FIRST = 1.5; // how much longer the others wait for what the leader can mend by itself
const SYNC_AGAIN_MS = 2_000; // until a leader answers; the first may have gone
const CLAIMS = 3; // of the lead for one action, when other tabs claim it at the same moment
const ENDED_WITHIN_S = 5;
const COUNTED_MAX = 100; // of the requests that edited something, those whose rows are counted one by one

/**
 * What an opening tells whoever made it.
 *
 * @typedef {object} Owner
 * @property {StatusBoard} board
 * @property {(conflicts: WaitingConflict[]) => void} conflicts those that wait for a person, each time they change
 * @property {(name: string, value: any, deviceId: string) => void} signal
 * @property {(notice: import("./leading.js").AccountNotice) => void} notice
 */

export class Opening {
  /**
   * @param {Dexie} db @param {HubOptions} options @param {Owner} owner
   * @param {Promise<unknown>} before when the former opening's work has ended
   */
  constructor(db, options, owner, before) {
    const { locks, page = new Page(), stale = {} } = options.surroundings ?? {};
    this._db = db;
    this._options = options;
    this._owner = owner;
    this._before = before;
    this._page = page;
    this._staleAfterS = stale.afterS ?? STALE_AFTER_S;
    this._lookEveryMs = stale.lookEveryMs ?? LOOK_EVERY_MS;
    /** @type {Term | null} */
    this._term = null;
    this._ended = false;
    this._staleSince = 0;
    this._anyConflict = false;
    this._tabs = new Tabs(db.name, (message) => this._hear(message));
    this._leader = new Leader(db.name, (signal) => this._lead(signal), {
      locks,
      page,
      roundTrip: () => db.table("$hub_meta").limit(1).primaryKeys(),
      failed: (error) => this._failed(error),
    });
    /** @type {{unsubscribe: () => void}[]} */
    this._watching = [];
    /** @type {Map<string, () => void>} who waits for a leader to say that all is synced */
    this._waiting = new Map();
  }

  begin() {
    this._watch(() => readEdits(this._db), (edits) => this._owner.board.see(edits));
    this._watch(() => readConflicts(this._db), (conflicts) => this._conflicts(conflicts));
    this._timer = setInterval(() => this._look(), this._lookEveryMs);
    this._leader.start();
    this._tabs.say({ kind: "ask" });
    readReport(this._db).then((report) => this._owner.board.told || this._hearReport(report), () => undefined);
  }

  /** The database is closed: do nothing more with it.  Returns when the work has ended. */
  async end() {
    this._ended = true;
    clearInterval(this._timer);
    for (const each of this._watching) each.unsubscribe();
    this._tabs.close();
    this._term?.abandon();
    await this._leader.stop();
  }

  /** Whether this tab leads. */
  get leads() {
    return this._leader.leading;
  }

  /**
   * Take the lead, and open the engine.  Throws what opening it throws.
   *
   * @param {string} [url] of the hub, where it may be another than the one that is remembered
   * @returns {Promise<Leading>}
   */
  async lead(url = "") {
    for (let tries = 1; ; tries++) {
      await this._leader.claim();
      const term = this._term;
      try {
        if (!term) throw new LeadLost();
        return await term.engine(url);
      } catch (error) {
        if (!(error instanceof LeadLost) || tries === CLAIMS) throw error;
      }
    }
  }

  /** The engine was let go of by what it was asked to do: this tab leads on without, if nobody is signed in. */
  async engineGone() {
    await this._term?.dropEngine();
    if (await isSignedIn(this._db)) await this._term?.engine("");
  }

  /**
   * Hand a value to the other devices, by the tab that leads.
   *
   * @param {string} name @param {any} value
   */
  async sendSignal(name, value) {
    if (!this.leads) this._tabs.say({ kind: "signal", name, value });
    else await (await this._term?.opened())?.sendSignal(name, value);
  }

  /**
   * Returns when everything here is on the hub, and everything the hub tells of is here.  Throws TimeoutError.
   *
   * @param {number} timeoutS
   */
  async whenSynced(timeoutS) {
    const end = performance.now() + timeoutS * 1000;
    while (!this._ended && performance.now() < end) {
      const left = (end - performance.now()) / 1000;
      const leading = this.leads ? await this._term?.opened() : null;
      if (leading) return leading.whenSynced(left);
      if (await this._saidSynced(left)) return;
    }
    throw new TimeoutError(`it did not come about in time: sync is ${this._owner.board.value.phase}`);
  }

  /**
   * Ask the leader to say so, and wait a moment; whether it did.
   *
   * @param {number} withinS
   * @returns {Promise<boolean>}
   */
  async _saidSynced(withinS) {
    const token = crypto.randomUUID();
    return new Promise((done) => {
      const settle = (/** @type {boolean} */ said) => {
        clearTimeout(late);
        this._waiting.delete(token);
        done(said);
      };
      const late = setTimeout(() => settle(false), Math.min(withinS * 1000, SYNC_AGAIN_MS));
      this._waiting.set(token, () => settle(true));
      this._tabs.say({ kind: "sync", token, withinS: Math.min(withinS, SYNC_AGAIN_MS / 1000) });
    });
  }

  // --- leading ---

  /** @param {AbortSignal} signal */
  async _lead(signal) {
    const term = new Term(this._db, this._options, this._before, {
      report: (report) => this._term === term && this._reported(report),
      signal: (name, value, deviceId) => {
        this._tabs.say({ kind: "came", name, value, deviceId });
        this._owner.signal(name, value, deviceId);
      },
      notice: (notice) => {
        this._tabs.say({ kind: "notice", notice });
        this._owner.notice(notice);
      },
    });
    this._term = term;
    this._owner.board.see({ leads: true, error: "" });
    signal.addEventListener("abort", () => {
      if (this._term !== term) return;
      this._term = null;
      if (!this._ended) this._owner.board.see({ leads: false });
    });
    this._before = term.ended;
    await term.run(signal);
  }

  /** @param {Report} report */
  _reported(report) {
    if (this._ended) return;
    this._owner.board.hear(report);
    this._tabs.say({ kind: "status", report });
  }

  /** Leading failed; another tab's turn has come.  @param {unknown} error */
  _failed(error) {
    if (!this._ended) this._owner.board.see({ error: error instanceof Error ? error.message : String(error) });
  }

  // --- what other tabs say ---

  /** @param {TabMessage} message */
  _hear(message) {
    if (this._ended) return;
    if (message.kind === "status" && !this.leads) this._hearReport(message.report);
    else if (message.kind === "came") this._owner.signal(message.name, message.value, message.deviceId);
    else if (message.kind === "notice") this._owner.notice(message.notice);
    else if (message.kind === "synced") this._waiting.get(message.token)?.();
    else if (this._term) this._asked(this._term, message);
  }

  /** @param {Report} report */
  _hearReport(report) {
    if (this._ended) return;
    this._owner.board.hear(report);
  }

  /**
   * What is asked of the leader.
   *
   * @param {Term} term @param {TabMessage} message
   */
  async _asked(term, message) {
    try {
      if (message.kind === "ask") return void term.tell();
      const leading = await term.opened();
      if (message.kind === "signal") await leading?.sendSignal(message.name, message.value);
      if (message.kind === "sync" && leading) {
        await leading.whenSynced(message.withinS);
        this._tabs.say({ kind: "synced", token: message.token });
      }
    } catch {
      // Signals may be lost, and whoever waits asks again.
    }
  }

  // --- what this tab sees ---

  /**
   * @template T
   * @param {() => Promise<T>} read @param {(value: T) => void} see
   */
  _watch(read, see) {
    const next = (/** @type {T} */ value) => void (this._ended || see(value));
    this._watching.push(liveQuery(read).subscribe({ next, error: () => undefined }));
  }

  /** @param {WaitingConflict[]} conflicts */
  _conflicts(conflicts) {
    this._owner.board.see({ conflicts: conflicts.length });
    if (conflicts.length || this._anyConflict) this._owner.conflicts(conflicts);
    this._anyConflict = conflicts.length > 0;
  }

  /** Time has passed: ages have grown, and what stands still for too long is looked after. */
  _look() {
    const { board } = this._owner;
    board.look();
    const { pending, oldestPendingAgeS } = board.value;
    const afterS = this._staleAfterS * (this.leads ? 1 : LEADER_FIRST);
    const stale = pending > 0 && oldestPendingAgeS > afterS && board.report.phase === "synced";
    if (!stale) {
      if (this._staleSince) board.see({ error: "" });
      this._staleSince = 0;
    } else if (performance.now() - this._staleSince > this._staleAfterS * 1000 || !this._staleSince) {
      this._staleSince = performance.now();
      this._shake();
    }
  }

  /** Edits were forgotten: begin anew, here when the person sees this tab. */
  _shake() {
    const minutes = Math.max(1, Math.round(this._owner.board.value.oldestPendingAgeS / 60));
    const error = `edits have waited for ${minutes} min though all was said to be synced; connecting anew`;
    this._owner.board.see({ error });
    if (this._term) this._term.restart().catch((failure) => this._failed(failure));
    else if (this._page.visible) this._leader.claim().catch(() => undefined);
  }
}

/** Another tab has taken the lead. */
class LeadLost extends Error {
  constructor() {
    super("another tab of this app has taken over; please try again");
    this.name = "LeadLost";
  }
}

/** One term of leading: with the engine from its first need until the lead is lost. */
class Term {
  /**
   * @param {Dexie} db @param {HubOptions} options
   * @param {Promise<unknown>} before when the former term's work has ended
   * @param {import("./leading.js").Listener} listener
   */
  constructor(db, options, before, listener) {
    this._db = db;
    this._options = options;
    this._before = before;
    this._listener = listener;
    /** @type {Promise<Leading> | null} */
    this._engine = null;
    this._over = false;
    /** @type {() => void} */
    this._end = () => undefined;
    /** @type {Promise<void>} */
    this.ended = new Promise((done) => (this._end = done));
  }

  /** Lead until the signal is aborted.  @param {AbortSignal} signal */
  async run(signal) {
    try {
      const aborted = new Promise((done) => signal.addEventListener("abort", done, { once: true }));
      if (await isSignedIn(this._db)) await this.engine("");
      else await this.tell();
      if (!signal.aborted) await aborted;
    } finally {
      this._over = true;
      await this.dropEngine();
      this._end();
    }
  }

  /** The database is closed: nothing more may be begun. */
  abandon() {
    this._over = true;
  }

  /**
   * The engine, opened when it is not.
   *
   * @param {string} url empty: the hub that is remembered
   * @returns {Promise<Leading>}
   */
  async engine(url) {
    const open = url ? await this.opened() : null;
    if (open && !open.isAt(url)) await this.dropEngine();
    if (this._over) throw new LeadLost();
    const opening = (this._engine ??= this._open(url));
    try {
      return await opening;
    } catch (error) {
      if (this._engine === opening) this._engine = null;
      throw error;
    }
  }

  /** The engine if there is one.  @returns {Promise<Leading | null>} */
  async opened() {
    return this._engine && this._engine.catch(() => null);
  }

  /** @param {string} url */
  async _open(url) {
    // What the former term holds up for longer than that may go on beside this one: the database takes one writer.
    await within(ENDED_WITHIN_S, this._before, "").catch(() => undefined);
    const { Leading } = await import("./leading.js");
    return Leading.open(this._db, this._options, url, this._listener);
  }

  /** Let go of the engine, and lead on without. */
  async dropEngine() {
    const leading = await this.opened();
    this._engine = null;
    await leading?.close();
    if (!this._over) await this.tell();
  }

  /** Open the engine anew. */
  async restart() {
    if (!this._engine) return;
    await this.dropEngine();
    await this.engine("");
  }

  /** Report how things stand. */
  async tell() {
    const leading = await this.opened();
    if (leading) leading.tell();
    else this._listener.report(await readReport(this._db));
  }
}

/**
 * How many rows of the app have edits that the engine has not taken, and since when.
 *
 * @param {Dexie} db
 */
async function readEdits(db) {
  const edits = db.table("$hub_edits");
  const first = await edits.orderBy("n").limit(COUNTED_MAX).toArray();
  if (!first.length) return { edits: 0, oldestEditAt: 0 };
  const rows = new Set(first.flatMap(({ table, keys }) => keys.map((/** @type {any} */ key) => table + keyText(key))));
  const more = first.length < COUNTED_MAX ? 0 : (await edits.count()) - first.length;
  return { edits: rows.size + more, oldestEditAt: first[0].at / 1000 };
}
