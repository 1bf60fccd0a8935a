/**
 * Dexie databases with the add-on's hidden tables, capture and mirror, but without its shell: on a fake IndexedDB that
 * outlives them, so that a device can be killed and begin anew.
 */

import "fake-indexeddb/auto";

import { Dexie } from "dexie";
import { IDBFactory, IDBKeyRange } from "fake-indexeddb";

import { installCapture, setCapturing } from "../src/dexie/capture.js";
import { Mirror } from "../src/dexie/mirror.js";
import { installSchema } from "../src/dexie/schema.js";
import { DexieStorage } from "../src/dexie/storage.js";
import { HubClient } from "../src/index.js";
import { State } from "../src/storage.js";
import { Kind, ZERO_ID } from "../src/terms.js";
import { encodeBody } from "../src/values.js";

console.warn = () => {}; // Dexie says there what the tests bring about

/** @param {() => boolean | Promise<boolean>} holds */
export async function until(holds, withinMs = 10_000, otherwise = () => "") {
  const end = Date.now() + withinMs;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`it did not come about: ${holds} ${otherwise()}`);
    await new Promise((done) => setTimeout(done, 2));
  }
}

/**
 * A database as the add-on makes it.
 * @param {any} factory
 */
export function database(factory, { tables = {}, stores = {}, version = 1, name = "app", upgrade = null } = {}) {
  const db = new Dexie(name, { indexedDB: factory, IDBKeyRange, addons: [] });
  installSchema(db, { tables });
  installCapture(db, { tables });
  const declared = db.version(version).stores(stores);
  if (upgrade) declared.upgrade(upgrade);
  return db;
}

let nextChange = 1;

/** An app on one device: database, and its engine while it runs. */
export class App {
  constructor({ tables, stores, factory = new IDBFactory(), ...more }) {
    this.tables = tables;
    this.stores = stores;
    this.factory = factory;
    this.more = more;
    this.db = database(factory, { tables, stores, ...more });
    this.seq = 0;
  }

  /** Another tab of the same app. */
  tab(more = {}) {
    return new App({ tables: this.tables, stores: this.stores, factory: this.factory, ...this.more, ...more });
  }

  /** Lead, without a hub; `before` is called while the client is not running. */
  async lead(surroundings = {}) {
    await setCapturing(this.db, true);
    this.storage = await DexieStorage.open(this.db, { sleep: async () => {} });
    this.client = await HubClient.open({ storage: this.storage, appId: "org.example", ...surroundings });
    this.mirror = new Mirror(this.db, this.tables, this.client, this.storage);
    await this.mirror.start();
    return this;
  }

  /** As a tab that crashes: whatever it still does is refused, since the next one takes the database over. */
  async crash() {
    const next = this.tab();
    next.seq = this.seq;
    await next.db.open();
    return next;
  }

  async close() {
    await this.mirror?.stop();
    await this.client?.stop().catch(() => {});
    this.db.close();
  }

  local(table) {
    return this.client.collection(table)._local;
  }

  /** A change of another device comes from the hub; undefined: it was deleted. */
  remote(table, changes) {
    const { device } = this.client._engine;
    const local = this.local(table);
    device.transaction(() => {
      for (const [key, value] of Object.entries(changes)) {
        this.seq += 1;
        const changeId = new Uint8Array(16);
        new DataView(changeId.buffer).setUint32(8, 0xfeed);
        new DataView(changeId.buffer).setUint32(12, (nextChange += 1));
        const kind = value === undefined ? Kind.DELETE : Kind.PUT;
        const base = local.storage.record(local.n, key)?.changeId ?? ZERO_ID;
        const header = { kind, changeId, base, deviceId: new Uint8Array(16).fill(9), counter: 1, flags: 0, upto: 0 };
        const body = value === undefined ? null : encodeBody(value);
        local.change(this.seq, /** @type {any} */ (header), key, body, false);
        local.save({ seq: this.seq });
      }
      local.covered();
      local.settle(1);
    });
    this.client._carry(device.takeEffects());
  }

  /** What this device has edited is in the log and comes back from it. */
  arrive(table) {
    const { device } = this.client._engine;
    const local = this.local(table);
    device.transaction(() => {
      for (const state of Object.values(State)) {
        for (const row of this.storage.rowsIn(local.n, state)) {
          if (state === State.PARKED) continue;
          this.seq += 1;
          const header = { kind: row.kind, changeId: row.changeId, base: ZERO_ID };
          local.change(this.seq, /** @type {any} */ (header), row.key, row.value, true);
          local.save({ seq: this.seq });
        }
      }
    });
    this.client._carry(device.takeEffects());
  }

  /** The collection has been read to its head. */
  caughtUp(...tables) {
    for (const table of tables) {
      const local = this.local(table);
      this.client._engine.device.transaction(() => local.save({ caughtUp: true }));
    }
  }

  /** All edits are with the engine, and what follows from them is in the database. */
  async settled() {
    await until(async () => {
      await this.storage.committed();
      if (this.mirror._running || this.storage.pending) return false;
      const open = await this.db.table("$hub_edits").toArray();
      return open.every((row) => !this.mirror._compared.tables.includes(row.table)) && !this.mirror._running;
    }, 30_000);
    await this.storage.committed();
  }

  /** What is in the engine. */
  shown(table) {
    return Object.fromEntries(this.client.collection(table).items());
  }

  edits() {
    return this.db.table("$hub_edits").toArray();
  }

  conflicts() {
    return this.db.table("$hub_conflicts").toArray();
  }
}
