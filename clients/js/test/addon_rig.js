/**
 * Browser profiles of one person with tabs of one app, as far as Node has them: one fake IndexedDB, Node's own
 * BroadcastChannel, locks and a page for each tab.
 */

import "fake-indexeddb/auto";
import Dexie from "dexie";

import { counterSum, hub, manual } from "../src/dexie/index.js";
import { FakePage, Locks } from "../src/testing/index.js";

export const APP = "org.example.notes";
export const ANNA = "anna@example.org";

const TABLES = { chapters: { conflict: manual }, days: { conflict: counterSum("words") }, tags: {} };
const STORES = { chapters: "id, order", days: "id", tags: "id", drafts: "++id" };

let profiles = 0;

/** One browser profile: what its tabs share. */
export class Profile {
  /** @param {any} hubProcess of `hubs.js` @param {any} [more] options of the add-on */
  constructor(hubProcess, more = {}) {
    this.hub = hubProcess;
    this.name = `addon-${process.pid}-${(profiles += 1)}`;
    this.locks = new Locks();
    this.more = more;
    /** @type {Tab[]} */
    this.tabs = [];
  }

  /** A tab whose database is open.  @param {any} [surroundings] */
  async open(surroundings = {}) {
    const tab = new Tab(this, surroundings);
    this.tabs.push(tab);
    await tab.db.open();
    return tab;
  }

  async end() {
    for (const tab of this.tabs) await tab.close();
  }
}

/** One tab of the app. */
export class Tab {
  /** @param {Profile} profile @param {any} surroundings */
  constructor(profile, surroundings) {
    this.profile = profile;
    this.page = new FakePage();
    const { locks, hub: hubProcess } = profile;
    const { WebSocket } = hubProcess;
    const tables = surroundings.tables ?? TABLES;
    const around = { WebSocket, page: this.page, locks, ...surroundings };
    const options = { app: APP, url: profile.hub.url, tables, ...profile.more, surroundings: around };
    /** @type {any} */
    this.db = new Dexie(profile.name, { addons: [hub(options)] });
    this.db.version(1).stores(STORES);
  }

  get hub() {
    return this.db.hub;
  }

  /** What `status` says now. */
  get status() {
    return this.hub.status.value;
  }

  /** Sign in with the code that the hub mails. */
  async signIn() {
    return this.hub.signIn({ email: ANNA, code: async () => (await this.profile.hub.nextMail()).code });
  }

  /** The tab is closed, and whatever it did has ended. */
  async close() {
    this.db.close();
    await this.hub._ended;
  }

  /** The rows of a table, each time they change.  @param {string} table */
  watch(table) {
    /** @type {any[][]} */
    const seen = [];
    const watching = Dexie.liveQuery(() => this.db.table(table).toArray()).subscribe((rows) => seen.push(rows));
    return { seen, end: () => watching.unsubscribe() };
  }
}

/** @param {() => unknown | Promise<unknown>} holds */
export async function until(holds, withinMs = 15_000) {
  const end = Date.now() + withinMs;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`it did not come about: ${holds}`);
    await new Promise((done) => setTimeout(done, 10));
  }
}
