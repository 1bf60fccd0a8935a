/** What the add-on asks of a schema, in sentences; and primary keys as text. */

import "fake-indexeddb/auto";

import assert from "node:assert/strict";
import { test } from "node:test";

import { Dexie, cmp } from "dexie";
import { IDBFactory, IDBKeyRange } from "fake-indexeddb";

import { HIDDEN, keyOfText, keyText, newId } from "../src/dexie/schema.js";
import { recordPlaintext } from "../src/sealing.js";
import { TABLES } from "../src/storage/tables.js";
import { perField } from "../src/strategies.js";
import { database } from "./dexie_rig.js";
import { always } from "./seeded.js";

const isSchemaError = (words) => (error) => error instanceof Dexie.SchemaError && words.test(error.message);

// --- the hidden tables -----------------------------------------------------------------------

test("the hidden tables are the engine's own by the same keys", () => {
  for (const [name, path] of Object.entries(TABLES)) {
    const spec = Array.isArray(path) ? `[${path.join("+")}]` : path;
    assert.equal(HIDDEN[`$hub_${name}`], spec, name);
  }
});

test("the hidden tables join every version an app declares", async () => {
  const factory = new IDBFactory();
  const db = database(factory, { tables: { notes: {} }, stores: { notes: "id" } });
  db.version(2).stores({ notes: "id, at", old: null });
  db.version(3).stores({});
  await db.open();
  const there = [...db.backendDB().objectStoreNames];
  assert.deepEqual(there, [...Object.keys(HIDDEN), "notes"].sort());
  db.close();
});

test("an app sees only its own tables", async () => {
  const db = database(new IDBFactory(), { tables: { notes: {} }, stores: { notes: "id", drafts: "++id" } });
  await db.open();
  assert.deepEqual(db.tables.map((table) => table.name).sort(), ["drafts", "notes"]);
  await db.transaction("rw", db.tables, async () => {
    for (const table of db.tables) await table.clear();
  });
  await db.table("$hub_meta").put({ name: "still", value: 1 });
  assert.equal((await db.table("$hub_meta").get("still")).value, 1);
  db.close();
});

test("a database from before the add-on gets the hidden tables also without a new version", async () => {
  const factory = new IDBFactory();
  const plain = new Dexie("app", { indexedDB: factory, IDBKeyRange, addons: [] });
  plain.version(1).stores({ notes: "id" });
  await plain.table("notes").put({ id: "a" });
  plain.close();
  const db = database(factory, { tables: { notes: {} }, stores: { notes: "id" } });
  assert.deepEqual(await db.table("notes").toArray(), [{ id: "a" }]);
  assert.equal(await db.table("$hub_edits").count(), 0);
  await db.table("notes").put({ id: "b" });
  db.close();
});

test("an app cannot take a name of the hidden tables", () => {
  assert.throws(() => database(new IDBFactory(), { stores: { $hub_meta: "id" } }), isSchemaError(/is taken/));
});

// --- what is refused -------------------------------------------------------------------------

for (const [stores, words] of /** @type {[Record<string, string>, RegExp][]} */ ([
  [{ notes: "++id" }, /table "notes" counts its keys up.*"id, \.\.\."/],
  [{ notes: "" }, /rows of table "notes" do not contain their key/],
  [{ notes: "++" }, /counts its keys up/],
  [{ other: "id" }, /table "notes" is to sync, but no version of database "app" declares it/],
])) {
  test(`a table that cannot be synced is refused at open with advice (${JSON.stringify(stores)})`, async () => {
    const db = database(new IDBFactory(), { tables: { notes: {} }, stores });
    await assert.rejects(db.open(), isSchemaError(words));
    assert.equal(db.isOpen(), false);
    await assert.rejects(db.table(Object.keys(stores)[0]).toArray(), words, "nor does it open by itself");
    db.close();
  });
}

for (const [tables, words] of /** @type {[any, RegExp][]} */ ([
  [undefined, /name the tables/],
  [{ notes: { conflcit: perField } }, /no option "conflcit" of table "notes"; there is "conflict"/],
  [{ notes: { conflict: "manual" } }, /is a function/],
  [{ notes: null }, /are an object, or \{\}/],
  [{ $hub_meta: {} }, /taken by sync/],
])) {
  test(`a wrong option is refused at once (${words})`, () => {
    assert.throws(() => database(new IDBFactory(), { tables: tables ?? null }), isSchemaError(words));
  });
}

for (const [key, value] of /** @type {[string, any][]} */ ([
  ["id", { id: "a" }],
  ["[a+b]", { a: 1, b: new Date(5) }],
  ["a.b", { a: { b: 3.5 } }],
  ["&id, *tags", { id: "a", tags: ["x"] }],
])) {
  test(`tables by other keys are welcome (${key})`, async () => {
    const db = database(new IDBFactory(), { tables: { notes: {} }, stores: { notes: key } });
    await db.table("notes").put(value);
    assert.deepEqual(await db.table("notes").toArray(), [value]);
    db.close();
  });
}

// --- keys as text ----------------------------------------------------------------------------

test("a plain string is its own text and all else is recognised", () => {
  assert.equal(keyText("first"), "first");
  assert.equal(keyText("é \u{1f600}"), "é \u{1f600}");
  assert.equal(keyText(5), "=5");
  assert.equal(keyText(-0), "=0");
  assert.equal(keyText("=5"), '="=5"');
  assert.equal(keyText(""), '=""');
  assert.equal(keyText([1, "a", new Date(5)]), '=[1,"a",{"date":5}]');
  assert.equal(keyText(Infinity), '={"number":"Infinity"}');
  assert.equal(keyText(Uint8Array.of(1, 255)), '={"bytes":"01ff"}');
  assert.equal(keyText(Uint8Array.of(9, 1, 255).subarray(1).buffer.slice(1)), '={"bytes":"01ff"}');
});

test("what is no key has no text and what is no text no key", () => {
  for (const bad of [undefined, null, NaN, {}, true, new Date(NaN), [null]]) {
    assert.throws(() => keyText(/** @type {any} */ (bad)), TypeError);
  }
  for (const bad of ["=", "={", "=null", "=true", '={"date":"x"}', '={"bytes":"0"}', '={"number":"1"}', "=[{}]"]) {
    assert.throws(() => keyOfText(bad), RangeError, bad);
  }
});

/** @param {import("./seeded.js").Seeded} random */
function anyKey(random, depth = 0) {
  const units = ["a", "b", "=", "\0", '"', "\\", "é", "\ud800", "\udc00", "\u{1f600}", "[1]", "5", "{", " "];
  const kinds = [
    () => random.list(4, () => random.choice(units)).join(""),
    () => random.choice([0, -0, 1, -1, 0.1, 1e21, 1e-7, 2 ** 53, Infinity, -Infinity, random.random()]),
    () => new Date(random.choice([0, 5, -62135596800000, random.below(1e12)])),
    () => random.bytes(random.below(4)),
    () => random.bytes(random.below(4)).buffer,
    () => random.list(3, () => anyKey(random, depth + 1)),
  ];
  return random.choice(depth > 3 ? kinds.slice(0, 5) : kinds)();
}

test("any keys have the same text only when they are the same key and come back from it", () => {
  always(3_000, (random) => {
    const [one, other] = [anyKey(random), anyKey(random)];
    assert.equal(keyText(one) === keyText(other), cmp(one, other) === 0, `${keyText(one)} ${keyText(other)}`);
    assert.equal(cmp(keyOfText(keyText(one)), one), 0, keyText(one));
    assert.equal(keyText(keyOfText(keyText(one))), keyText(one));
    recordPlaintext(keyText(one), new Uint8Array(0)); // it can be sealed
  });
});

// --- ids -------------------------------------------------------------------------------------

test("new ids are UUIDs of version 7 that sort by when they were made", () => {
  const ids = Array.from({ length: 20_000 }, newId);
  assert.ok(ids.every((id) => /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(id)));
  assert.deepEqual([...ids].sort(), ids);
  assert.equal(new Set(ids.map((id) => id.slice(19))).size, ids.length, "what other devices make is another");
  const real = Date.now;
  try {
    Date.now = () => 2_000_000_000_000; // the clock stands still
    const more = Array.from({ length: 20_000 }, newId);
    assert.deepEqual([...more].sort(), more);
  } finally {
    Date.now = real;
  }
  const ms = parseInt(ids[0].replace("-", "").slice(0, 12), 16);
  assert.ok(Math.abs(ms - Date.now()) < 60_000);
});
