/**
 * A small app that keeps its data with Dexie, and the add-on in it; the test does the rest through `app`.
 */

import { Dexie, liveQuery } from "/client/dexie.js";
import { counterSum, hub, manual } from "/client/hub-dexie.js";
import { tagged, untagged } from "./tagged.js";

const db = new Dexie("notes", {
  addons: [
    hub({
      app: "org.example.notes",
      tables: { notes: {}, days: { conflict: counterSum("words") }, chapters: { conflict: manual }, pairs: {}, things: {} },
    }),
  ],
});
db.version(1).stores({
  notes: "id, order",
  days: "id",
  chapters: "id, order",
  pairs: "[a+b]",
  things: "id",
  drafts: "++id",
});

/** The time, the same in all tabs of this machine, in milliseconds. */
const clock = () => performance.timeOrigin + performance.now();

globalThis.app = {
  db,
  Dexie,
  liveQuery,
  tagged,
  untagged,
  clock,
  /** Every phase and every progress this tab was shown. */
  phases: /** @type {string[]} */ ([]),
  progress: /** @type {{done: number, remaining: number}[]} */ ([]),
  /** What each watched query gave, and when. */
  emissions: /** @type {Record<string, {at: number, value: any}[]>} */ ({}),
  /** What this tab wrote: the last value by table and key, null for a delete. */
  written: /** @type {Record<string, any>} */ ({}),

  get status() {
    return db.hub.status.value;
  },

  /** Whether the tab may be asked anything. */
  async ready() {
    await db.open();
    return true;
  },

  /** Keep what a query gives, each time it does. */
  watch(name, query) {
    app.emissions[name] = [];
    liveQuery(query).subscribe((value) => app.emissions[name].push({ at: clock(), value }));
  },

  /** How many edits the engine has not taken. */
  edits: () => db.table("$hub_edits").count(),

  /** Write, and remember it. */
  async put(table, row) {
    await db.table(table).put(row);
    app.written[`${table} ${row.id}`] = row;
  },

  async delete(table, id) {
    await db.table(table).delete(id);
    app.written[`${table} ${id}`] = null;
  },

  /** Rows of about 200 bytes. */
  rows(from, to, prefix = "row") {
    const text = "It was a bright cold day in April, and the clocks were striking thirteen. ".repeat(3).slice(0, 160);
    return Array.from({ length: to - from }, (_, at) => {
      const number = from + at;
      return { id: `${prefix}-${String(number).padStart(5, "0")}`, order: number, text };
    });
  },

  async bulkPut(table, rows) {
    await db.table(table).bulkPut(rows);
    for (const row of rows) app.written[`${table} ${row.id}`] = row;
  },

  /** All that is synced, by table and key, as text that can be compared. */
  async contents() {
    const all = {};
    for (const table of ["notes", "days", "chapters", "pairs", "things"]) {
      for (const row of await db.table(table).toArray()) {
        const key = row.id ?? JSON.stringify([row.a, row.b]);
        all[`${table} ${key}`] = JSON.stringify(await tagged(row), (_, value) =>
          value && typeof value === "object" && !Array.isArray(value)
            ? Object.fromEntries(Object.entries(value).sort(([one], [other]) => (one < other ? -1 : 1)))
            : value,
        );
      }
    }
    return all;
  },

  /** What the hub has not got, or this tab does not know yet. */
  async quiet() {
    const { phase, pending } = app.status;
    return phase === "synced" && pending === 0 && (await app.edits()) === 0;
  },
};

db.hub.status.subscribe(({ phase, progress }) => {
  if (phase !== app.phases.at(-1)) app.phases.push(phase);
  const last = app.progress.at(-1);
  if (progress.done !== last?.done || progress.remaining !== last?.remaining) app.progress.push({ ...progress });
});
document.documentElement.dataset.ready = "yes";
