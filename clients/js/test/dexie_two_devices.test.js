/** Apps on Dexie, two devices and the real hub: whatever the order of things, they end alike and no word is lost. */

import "fake-indexeddb/auto";

import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";

import { Dexie } from "dexie";
import { WebSocket } from "ws";

import { readConflicts, resolveConflict } from "../src/dexie/conflicts.js";
import { counterSum, manual, perField } from "../src/strategies.js";
import { App, until } from "./dexie_rig.js";
import { HubProcess, whyNoHub } from "./hub_process.js";
import { Seeded } from "./seeded.js";

const options = { skip: whyNoHub };
const TABLES = {
  tags: {},
  notes: { conflict: perField },
  chapters: { conflict: manual },
  days: { conflict: counterSum("words") },
};
const STORES = { tags: "id", notes: "id", chapters: "id", days: "id" };
const SEEDS = Number(process.env.DEXIE_SEEDS ?? 3);
const FIRST_SEED = Number(process.env.DEXIE_FIRST_SEED ?? 1);

/** @type {HubProcess} */
let hub;
/** @type {App[]} */
let apps = [];
let people = 0;

before(async () => {
  if (!whyNoHub) hub = await HubProcess.start();
});

afterEach(async () => {
  for (const app of apps) await app.close();
  apps = [];
});

after(async () => {
  await hub?.end();
});



/** @param {App} app */
async function lead(app) {
  apps.push(app);
  await app.lead({ hubUrl: hub.url, WebSocket });
  return app;
}

/** An app of this person that is signed in and syncs. */
async function device(person, key = "", more = {}) {
  const app = await lead(new App({ tables: TABLES, stores: STORES, ...more }));
  await app.client.requestCode(person);
  await app.client.enrol(await hub.nextCode());
  if (key) await app.client.importKey(key);
  else await app.client.createKey();
  app.client.start();
  return app;
}

/** The tab is gone at once, whatever was under way; another one leads. */
async function crashed(app) {
  app.db.close();
  const next = app.tab();
  apps = apps.filter((other) => other !== app);
  const gone = app.mirror.stop().then(() => app.client.stop()).catch(() => {});
  await lead(next);
  next.client.start();
  await gone;
  return next;
}

/** Everything of both is on the hub and with both. */
async function inStep(...all) {
  const end = Date.now() + 30_000;
  for (;;) {
    for (const app of all) {
      await app.settled();
      await app.client.synced(20);
      await app.settled();
    }
    const conflicts = (await Promise.all(all.map((app) => readConflicts(app.db)))).flat();
    const held = new Set(conflicts.map(({ table, key }) => `${table} ${key}`));
    const found = await Promise.all(all.map((app) => everything(app, held)));
    const busy = all.some((app) => app.client.status.phase !== "synced" || app.storage.pending);
    if (!busy && found.every((one) => JSON.stringify(one) === JSON.stringify(found[0]))) return;
    if (Date.now() > end) assert.deepEqual(found[0], found[1], "they are in step");
    await new Promise((done) => setTimeout(done, 20));
  }
}

/** All rows of all tables, but those in conflict, with their keys in one order. */
async function everything(app, held) {
  const tables = {};
  for (const table of Object.keys(STORES)) {
    const rows = (await app.db.table(table).toArray()).filter(({ id }) => !held.has(`${table} ${id}`));
    tables[table] = rows.map((row) => Object.fromEntries(Object.entries(row).sort(([a], [b]) => (a < b ? -1 : 1))));
  }
  return tables;
}

async function assertAlike(app) {
  for (const table of Object.keys(STORES)) {
    const rows = Object.fromEntries((await app.db.table(table).toArray()).map((row) => [row.id, row]));
    assert.deepEqual(rows, app.shown(table), table);
  }
}

test("what one device writes is in the tables of the other", options, async () => {
  const a = await device(`p${(people += 1)}@example.org`);
  const b = await device(`p${people}@example.org`, a.client.keyCode());
  const seen = [];
  const watching = Dexie.liveQuery(() => b.db.table("notes").toArray()).subscribe((rows) => seen.push(rows));
  await a.db.table("notes").put({ id: "n", text: "hello", at: new Date(5), tags: new Set(["x"]) });
  await until(() => seen.at(-1)?.length === 1);
  assert.deepEqual(seen.at(-1), [{ id: "n", text: "hello", at: new Date(5), tags: new Set(["x"]) }]);
  await b.db.table("notes").delete("n");
  await until(async () => (await a.db.table("notes").count()) === 0);
  watching.unsubscribe();
  await inStep(a, b);
});

test("a new device has all rows after one reading and sends none of them back", options, async () => {
  const a = await device(`p${(people += 1)}@example.org`);
  await a.db.table("tags").bulkPut(Array.from({ length: 900 }, (_, n) => ({ id: `k${n}`, n })));
  await a.settled();
  await a.client.synced(30);
  const b = await device(`p${people}@example.org`, a.client.keyCode());
  await until(async () => (await b.db.table("tags").count()) === 900, 30_000);
  await inStep(a, b);
  assert.equal(b.storage.backlog().unsynced, 0);
  const [{ counter }] = b.storage.collections().filter(({ name }) => name === "tags");
  assert.equal(counter, 0, "b has written nothing");
});

test("a hub that dies in the middle of a push gets each row once", options, async () => {
  const a = await device(`p${(people += 1)}@example.org`);
  const b = await device(`p${people}@example.org`, a.client.keyCode());
  const write = a.db.table("tags").bulkPut(Array.from({ length: 700 }, (_, n) => ({ id: `k${n}`, n })));
  await write;
  await until(() => a.client.status.lastAppendedAt > 0);
  await hub.kill();
  await a.db.table("days").put({ id: "d", words: 3 });
  await b.db.table("days").put({ id: "d", words: 4 });
  await hub.restart();
  await inStep(a, b);
  assert.equal(await b.db.table("tags").count(), 700);
  assert.equal((await a.db.table("days").get("d")).words, 7);
  const [{ seq }] = a.storage.collections().filter(({ name }) => name === "tags");
  assert.equal(seq, 700);
});

test("a tab that a newer version of the app has put aside lets go of its line", options, async () => {
  const a = await device(`p${(people += 1)}@example.org`);
  await a.db.table("tags").put({ id: "a" });
  await inStep(a);
  a.storage._onVersionChange({ newVersion: 20 });
  await assert.rejects(a.client.stop(), { name: "StorageTooNew" });
  assert.equal(a.client._running, null);
});

// --- any order -------------------------------------------------------------------------------

/** What was written, in words that are never used twice. */
class World {
  /** @param {number} seed */
  constructor(seed) {
    this.random = new Seeded(seed);
    this.words = new Map(); // of each chapter
    this.sums = new Map(); // of each day
    this.fields = new Map(); // of each note: the last word each device has written into its own field
    this.n = 0;
  }

  word() {
    return `w${(this.n += 1)}`;
  }
}

/** @type {Record<string, (app: App, world: World, at: number) => Promise<unknown>>} */
const EDITS = {
  async chapter({ db }, world) {
    const id = `c${world.random.below(3)}`;
    const word = world.word();
    await db.transaction("rw", "chapters", async () => {
      const row = (await db.table("chapters").get(id)) ?? { id, text: "" };
      await db.table("chapters").put({ id, text: `${row.text} ${word}`.trim() });
    });
    world.words.set(id, [...(world.words.get(id) ?? []), word]);
  },
  async day({ db }, world) {
    const id = `d${world.random.below(3)}`;
    const more = world.random.below(1, 50);
    await db.transaction("rw", "days", async () => {
      const changed = await db.table("days").where("id").equals(id).modify((row) => void (row.words += more));
      if (!changed) await db.table("days").add({ id, words: more });
    });
    world.sums.set(id, (world.sums.get(id) ?? 0) + more);
  },
  async note({ db }, world, at) {
    const id = `n${world.random.below(3)}`;
    const word = world.word();
    await db.table("notes").upsert(id, { [`by${at}`]: word });
    world.fields.set(`${id} by${at}`, word);
  },
  async tag({ db }, world) {
    const id = `t${world.random.below(4)}`;
    if (world.random.below(4) === 0) await db.table("tags").delete(id);
    else await db.table("tags").put({ id, word: world.word() });
  },
  async tags({ db }, world) {
    const ids = world.random.list(5, () => `t${world.random.below(30)}`);
    await db.table("tags").bulkPut(ids.map((id) => ({ id, word: world.word() })));
    if (world.random.below(5) === 0) await db.table("tags").where("id").above("t2").delete();
  },
};

/** A person merges by hand: the words of both. */
async function resolveSome(app, world, all = false) {
  for (const conflict of await readConflicts(app.db)) {
    const { table, key, mine, theirs } = conflict;
    if (!all && world.random.below(2)) continue;
    const words = new Set([mine, theirs].flatMap((row) => (row?.text ?? "").split(" ")).filter(Boolean));
    const value = { id: key, text: [...words].join(" ") };
    await resolveConflict(app.db, table, key, value, conflict).catch((error) => {
      if (!(error instanceof RangeError)) throw error; // it was settled meanwhile
    });
  }
}

for (let seed = FIRST_SEED; seed < FIRST_SEED + SEEDS; seed++) {
  const limits = { ...options, timeout: 60_000 };
  test(`two devices converge on random edits and lose no word (seed ${seed})`, limits, async () => {
    const world = new World(seed);
    const { random } = world;
    const person = `p${(people += 1)}@example.org`;
    const devices = [await device(person)];
    devices.push(await device(person, devices[0].client.keyCode()));
    for (let step = 0; step < 120; step++) {
      const at = random.below(2);
      const app = devices[at];
      const what = random.below(100);
      if (what < 70) {
        const edit = EDITS[random.choice(Object.keys(EDITS))](app, world, at);
        if (random.below(3)) await edit;
        else await Promise.all([edit, EDITS[random.choice(Object.keys(EDITS))](devices[1 - at], world, 1 - at)]);
      } else if (what < 76) await app.client.turnOff();
      else if (what < 84) await app.client.turnOn();
      else if (what < 88) devices[at] = await crashed(app);
      else if (what < 93) await resolveSome(app, world);
      else await new Promise((done) => setTimeout(done, random.below(30)));
    }
    for (const app of devices) await app.client.turnOn();
    for (let rounds = 0; ; rounds++) {
      await inStep(...devices);
      const waiting = await Promise.all(devices.map((app) => readConflicts(app.db)));
      if (!waiting.flat().length) break;
      assert.ok(rounds < 20, "conflicts come to an end");
      await resolveSome(devices[rounds % 2], world, true);
    }
    for (const app of devices) await assertAlike(app);
    const [{ db, client }] = devices;
    for (const [id, words] of world.words) {
      const found = new Set((await db.table("chapters").get(id)).text.split(" "));
      assert.deepEqual(words.filter((word) => !found.has(word)), [], `words of ${id} were lost`);
    }
    for (const [id, sum] of world.sums) assert.equal((await db.table("days").get(id)).words, sum, `sum of ${id}`);
    for (const [place, word] of world.fields) {
      const [id, field] = place.split(" ");
      assert.equal((await db.table("notes").get(id))[field], word, place);
    }
    assert.deepEqual(client.status.alarms, []);
  });
}
