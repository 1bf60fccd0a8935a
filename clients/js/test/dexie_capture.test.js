/** Every way to write with Dexie is written down, in the app's own transaction, and nothing else is. */

import "fake-indexeddb/auto";

import assert from "node:assert/strict";
import { afterEach, describe, test } from "node:test";

import { Dexie } from "dexie";
import { IDBFactory } from "fake-indexeddb";

import { beneath, setCapturing } from "../src/dexie/capture.js";
import { manual, perField } from "../src/strategies.js";
import { database } from "./dexie_rig.js";

const TABLES = { tags: {}, notes: { conflict: perField }, pairs: { conflict: manual } };
const STORES = { tags: "id, name", notes: "id, &title, at", pairs: "[a+b]", deep: "x.id", drafts: "++id" };

/** @type {Dexie[]} */
let opened = [];

afterEach(() => {
  for (const db of opened) db.close();
  opened = [];
});

/** A database that writes down, with some rows from before. */
async function writing({ on = true, factory = new IDBFactory(), tables = TABLES, ...more } = {}) {
  const db = database(factory, { tables, stores: STORES, ...more });
  opened.push(db);
  await db.open();
  await db.table("tags").bulkPut(["a", "b", "c"].map((id) => ({ id, name: id })));
  await db.table("notes").bulkPut(["a", "b", "c"].map((id, at) => ({ id, title: id, at })));
  if (on) await setCapturing(db, true);
  return db;
}

/** The edits, without their places and times. */
async function edits(db) {
  const rows = await db.table("$hub_edits").toArray();
  return rows.map(({ n, at, ...row }) => {
    assert.ok(n > 0 && Math.abs(at - Date.now()) < 60_000);
    return row;
  });
}

const title = (id, words, at) => ({ id, title: words, at });

/** @type {Record<string, [(db: Dexie) => any, any[]]>} what is done, and what is written down */
const WAYS = {
  "add": [(db) => db.table("tags").add({ id: "n" }), [{ table: "tags", keys: ["n"] }]],
  "put": [(db) => db.table("tags").put({ id: "a", name: "x" }), [{ table: "tags", keys: ["a"] }]],
  "update": [(db) => db.table("tags").update("a", { name: "x" }), [{ table: "tags", keys: ["a"] }]],
  "upsert of a new row": [(db) => db.table("tags").upsert("n", { name: "x" }), [{ table: "tags", keys: ["n"] }]],
  "modify": [
    (db) => db.table("tags").where("name").anyOf("a", "c").modify({ name: "x" }),
    [{ table: "tags", keys: ["a", "c"] }],
  ],
  "bulkAdd": [
    (db) => db.table("tags").bulkAdd([{ id: "n" }, { id: "m" }]),
    [{ table: "tags", keys: ["n", "m"] }],
  ],
  "bulkPut": [
    (db) => db.table("tags").bulkPut([{ id: "n" }, { id: "a" }]),
    [{ table: "tags", keys: ["n", "a"] }],
  ],
  "bulkUpdate": [
    (db) => db.table("tags").bulkUpdate([{ key: "a", changes: { name: "x" } }, { key: "no", changes: { name: "x" } }]),
    [{ table: "tags", keys: ["a"] }],
  ],
  "delete": [(db) => db.table("tags").delete("a"), [{ table: "tags", keys: ["a"] }]],
  "bulkDelete": [(db) => db.table("tags").bulkDelete(["a", "b"]), [{ table: "tags", keys: ["a", "b"] }]],
  "where().delete()": [
    (db) => db.table("tags").where("name").above("a").delete(),
    [{ table: "tags", keys: ["b", "c"] }],
  ],
  "a range of keys deleted": [
    (db) => db.table("tags").where("id").between("a", "b", true, true).delete(),
    [{ table: "tags", keys: ["a", "b"] }],
  ],
  "clear()": [(db) => db.table("tags").clear(), [{ table: "tags", keys: ["a", "b", "c"] }]],
  "clear() of nothing": [(db) => db.table("pairs").clear(), []],
  "add with a base wanted": [
    (db) => db.table("notes").add(title("n", "new", 9)),
    [{ table: "notes", keys: ["n"], bases: [undefined] }],
  ],
  "put with a base wanted": [
    (db) => db.table("notes").bulkPut([title("n", "new", 9), title("a", "x", 0)]),
    [{ table: "notes", keys: ["n", "a"], bases: [undefined, title("a", "a", 0)] }],
  ],
  "modify with a base wanted": [
    (db) => db.table("notes").where("at").above(0).modify((row) => void (row.title += "!")),
    [{ table: "notes", keys: ["b", "c"], bases: [title("b", "b", 1), title("c", "c", 2)] }],
  ],
  "delete with a base wanted": [
    (db) => db.table("notes").bulkDelete(["a", "no"]),
    [{ table: "notes", keys: ["a", "no"], bases: [title("a", "a", 0), undefined] }],
  ],
  "clear() with a base wanted": [
    (db) => db.table("notes").clear(),
    [{ table: "notes", keys: ["a", "b", "c"], bases: ["a", "b", "c"].map((id, at) => title(id, id, at)) }],
  ],
  "a compound key": [
    (db) => db.table("pairs").put({ a: 1, b: new Date(5) }),
    [{ table: "pairs", keys: [[1, new Date(5)]], bases: [undefined] }],
  ],
  "one row twice": [
    async (db) => {
      await db.table("notes").put(title("a", "x", 0));
      await db.table("notes").put(title("a", "y", 0));
    },
    [
      { table: "notes", keys: ["a"], bases: [title("a", "a", 0)] },
      { table: "notes", keys: ["a"], bases: [title("a", "x", 0)] },
    ],
  ],
  "a table that stays local": [(db) => db.table("drafts").add({ words: 1 }), []],
};

for (const [how, [write, expected]] of Object.entries(WAYS)) {
  test(`what the app writes is written down (${how})`, async () => {
    const db = await writing();
    await write(db);
    assert.deepEqual(await edits(db), expected);
  });

  test(`in a transaction of the app over its own tables alone too (${how})`, async () => {
    const db = await writing();
    await db.transaction("rw", ["tags", "notes", "pairs", "drafts"], async () => {
      await write(db);
    });
    assert.deepEqual(await edits(db), expected);
  });

  test(`an aborted transaction leaves nothing (${how})`, async () => {
    const db = await writing();
    const aborted = db.transaction("rw", ["tags", "notes", "pairs", "drafts"], async (tx) => {
      await write(db);
      tx.abort();
    });
    await assert.rejects(aborted);
    assert.deepEqual(await edits(db), []);
  });

  test(`nothing is written down before it is switched on (${how})`, async () => {
    const db = await writing({ on: false });
    await write(db);
    assert.deepEqual(await edits(db), []);
  });
}

test("items of a bulk operation that failed are not written down", async () => {
  const db = await writing();
  const rows = [title("n", "new", 9), title("m", "a", 9), title("o", "other", 9)];
  await assert.rejects(db.table("notes").bulkAdd(rows), { name: "BulkError" });
  assert.deepEqual(await edits(db), [{ table: "notes", keys: ["n", "o"], bases: [undefined, undefined] }]);
  await assert.rejects(db.table("tags").add({ id: "a" }), { name: "ConstraintError" });
  assert.equal((await edits(db)).length, 1);
});

test("a row that has no id is given one and the app is told", async () => {
  const db = await writing();
  const note = { title: "mine", at: 0 };
  const id = await db.table("notes").add(note);
  assert.match(id, /^[0-9a-f-]{36}$/);
  assert.equal(note.id, id);
  const ids = await db.table("tags").bulkAdd([{ name: "x" }, { id: "given" }], { allKeys: true });
  assert.equal(ids[1], "given");
  assert.deepEqual((await db.table("tags").bulkGet(ids)).map((row) => row.name), ["x", undefined]);
  assert.deepEqual((await edits(db)).map(({ keys }) => keys), [[id], ids]);
});

test("a row without an id is given one also with hooks and while nothing is written down", async () => {
  const db = await writing({ on: false });
  db.table("tags").hook("creating", (_key, row) => void (row.made = true));
  const id = await db.table("tags").put({ name: "x" });
  assert.deepEqual(await db.table("tags").get(id), { id, name: "x", made: true });
});

test("what hooks make of a write is what is written down", async () => {
  const db = await writing();
  db.table("tags").hook("creating", () => {});
  db.table("tags").hook("deleting", () => {});
  await db.table("tags").clear();
  await db.table("tags").add({ id: "n" });
  assert.deepEqual((await edits(db)).map(({ keys }) => keys), [["a", "b", "c"], ["n"]]);
});

test("more rows than one entry takes are several entries", async () => {
  const db = await writing();
  await db.table("tags").bulkPut(Array.from({ length: 1_203 }, (_, n) => ({ id: `k${n}` })));
  assert.deepEqual((await edits(db)).map(({ keys }) => keys.length), [500, 500, 203]);
});

test("what is written beneath the capture is no edit and live queries see it", async () => {
  const db = await writing();
  const seen = [];
  const watching = Dexie.liveQuery(() => db.table("tags").toArray()).subscribe((rows) => seen.push(rows.length));
  while (!seen.length) await new Promise((done) => setTimeout(done, 1));
  await db.transaction("rw", "tags", (tx) => {
    const { idbtrans: trans } = /** @type {any} */ (tx);
    return beneath(db).table("tags").mutate({ type: "put", trans, values: [{ id: "x" }, { id: "y" }] });
  });
  while (seen.length < 2) await new Promise((done) => setTimeout(done, 1));
  watching.unsubscribe();
  assert.deepEqual(seen, [3, 5]);
  assert.deepEqual(await edits(db), []);
});

test("an upgrade writes nothing down", async () => {
  const factory = new IDBFactory();
  (await writing({ factory })).close();
  const upgrade = (tx) => tx.table("tags").toCollection().modify({ name: "upgraded" });
  const db = database(factory, { tables: TABLES, stores: STORES, version: 2, upgrade });
  opened.push(db);
  assert.equal((await db.table("tags").get("a")).name, "upgraded");
  assert.deepEqual(await edits(db), []);
  await db.table("tags").put({ id: "a" });
  assert.equal((await edits(db)).length, 1);
});

test("a read that is asked for right after a write sees it", async () => {
  for (const on of [true, false]) {
    const db = await writing({ on });
    const found = await db.transaction("rw", "notes", () => {
      db.table("notes").put(title("a", "new", 0));
      const read = db.table("notes").get("a");
      db.table("notes").where("id").above("a").delete();
      return Dexie.Promise.all([read, db.table("notes").count()]);
    });
    assert.deepEqual(found, [title("a", "new", 0), 1]);
  }
});

test("an update after an update in one transaction is made on the first", async () => {
  const db = await writing();
  await db.transaction("rw", "notes", async () => {
    for (let n = 0; n < 3; n++) await db.table("notes").update("a", (row) => void (row.at += 1));
    await db.table("notes").where("id").equals("a").modify((row) => void (row.at += 1));
  });
  assert.equal((await db.table("notes").get("a")).at, 4);
  assert.deepEqual((await edits(db)).map(({ bases }) => bases[0].at), [0, 1, 2, 3]);
});

describe("several tabs", () => {
  test("the first edit of a tab after another tab switched it on is written down", async () => {
    const factory = new IDBFactory();
    const one = await writing({ factory, on: false });
    const other = await writing({ factory, on: false });
    await setCapturing(one, true);
    await other.table("notes").put(title("a", "x", 0)); // no message between the tabs is waited for
    assert.deepEqual(await edits(one), [{ table: "notes", keys: ["a"], bases: [title("a", "a", 0)] }]);
  });

  test("a transaction that runs while another tab switches it on is before or after", async () => {
    const factory = new IDBFactory();
    const one = await writing({ factory, on: false });
    const other = await writing({ factory, on: false });
    await Promise.all([
      other.transaction("rw", "tags", async () => {
        for (let n = 0; n < 20; n++) await other.table("tags").put({ id: `k${n}` });
      }),
      setCapturing(one, true),
    ]);
    const count = (await edits(one)).length;
    assert.ok(count === 0 || count === 20, `${count} of 20`);
  });

  test("a tab that has seen it on learns when it is switched off", async () => {
    const factory = new IDBFactory();
    const one = await writing({ factory });
    const other = await writing({ factory, on: false });
    await other.table("tags").put({ id: "a" });
    assert.equal((await edits(one)).length, 3, "it was on while the second tab wrote its rows");
    await setCapturing(one, false);
    await other.table("tags").put({ id: "a" });
    assert.equal((await edits(one)).length, 3);
  });
});

test("the switch is part of a transaction around it", async () => {
  const db = await writing({ on: false });
  const aborted = db.transaction("rw", "$hub_meta", async (tx) => {
    await setCapturing(db, true);
    tx.abort();
  });
  await assert.rejects(aborted);
  await db.table("tags").put({ id: "a" });
  assert.deepEqual(await edits(db), []);
});
