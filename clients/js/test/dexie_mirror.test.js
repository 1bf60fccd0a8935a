/** The app's rows and the engine's records are alike, whoever edits what while whatever is under way. */

import "fake-indexeddb/auto";

import assert from "node:assert/strict";
import { afterEach, describe, test } from "node:test";

import { Dexie } from "dexie";
import { IDBFactory, IDBObjectStore as FDBObjectStore } from "fake-indexeddb";

import { setCapturing } from "../src/dexie/capture.js";
import { readConflicts, resolveConflict } from "../src/dexie/conflicts.js";
import { State } from "../src/storage.js";
import { MANUAL, MINE, MISSING, Merged, THEIRS, counterSum, manual, perField } from "../src/strategies.js";
import { BlobValue } from "../src/values.js";
import { App, until } from "./dexie_rig.js";

const TABLES = {
  tags: {},
  notes: { conflict: perField },
  chapters: { conflict: manual },
  days: { conflict: counterSum("words") },
};
const STORES = { tags: "id", notes: "id", chapters: "id", days: "id", drafts: "++id" };

/** @type {App[]} */
let apps = [];

afterEach(async () => {
  for (const app of apps) await app.close();
  apps = [];
});

/** @param {any} [more] */
function app(more = {}) {
  const made = new App({ tables: TABLES, stores: STORES, ...more });
  apps.push(made);
  return made;
}

/** An app that leads and has been read to the head of all its collections. */
async function leading(more = {}) {
  const made = await app(more).lead();
  made.caughtUp(...Object.keys(made.tables));
  await made.settled();
  return made;
}

/** The tab crashes; the next one leads. */
async function crashed(one) {
  const next = await one.crash();
  apps.push(next);
  await next.lead();
  await next.settled();
  return next;
}

const rows = (one, table) => one.db.table(table).toArray();

/** Both sides are alike in each table, and nothing waits. */
async function assertAlike(one) {
  await one.settled();
  for (const table of Object.keys(one.tables)) {
    const found = Object.fromEntries((await rows(one, table)).map((row) => [row.id, row]));
    assert.deepEqual(found, one.shown(table), table);
  }
  assert.deepEqual(await one.edits(), []);
}

describe("edits of the app", () => {
  test("every edit reaches the engine and leaves no entry behind", async () => {
    const one = await leading();
    const { db } = one;
    await db.table("tags").bulkAdd([{ id: "a", name: "x" }, { id: "b" }]);
    await db.table("notes").put({ id: "n", text: "first" });
    await db.table("notes").update("n", { text: "second" });
    await db.table("tags").delete("b");
    await db.table("drafts").add({ words: "stay here" });
    await assertAlike(one);
    assert.deepEqual(one.shown("tags"), { a: { id: "a", name: "x" } });
    assert.deepEqual(one.shown("notes"), { n: { id: "n", text: "second" } });
    assert.deepEqual(one.storage.collections().map(({ name }) => name).sort(), Object.keys(TABLES).sort());
  });

  test("edits made while no tab leads are taken when one does", async () => {
    const one = await leading();
    const two = await one.crash();
    apps.push(two);
    await one.mirror.stop();
    await two.db.table("notes").bulkPut([{ id: "a", t: 1 }, { id: "b", t: 1 }]);
    await two.db.table("notes").delete("a");
    assert.equal((await two.edits()).length, 2);
    await two.lead();
    await assertAlike(two);
    assert.deepEqual(Object.keys(two.shown("notes")), ["b"]);
  });

  test("keys of all kinds come back to their rows", async () => {
    const one = await leading({ tables: { things: {} }, stores: { things: "id" } });
    const keys = ["plain", "=odd", "", 5, -1.5, new Date(7), Uint8Array.of(1, 2), ["a", [2, new Date(0)]], Infinity];
    await one.db.table("things").bulkPut(keys.map((id) => ({ id, at: 1 })));
    await one.settled();
    assert.deepEqual(one.shown("things").plain, { id: "plain", at: 1 });
    assert.deepEqual(one.shown("things")["=5"], { id: 5, at: 1 });
    const texts = Object.keys(one.shown("things"));
    assert.equal(texts.length, keys.length);
    one.arrive("things");
    one.remote("things", Object.fromEntries(texts.map((text) => [text, { ...one.shown("things")[text], at: 2 }])));
    await one.settled();
    const after = await rows(one, "things");
    assert.ok(after.length === texts.length && after.every(({ at }) => at === 2), JSON.stringify(after));
    one.remote("things", Object.fromEntries(texts.map((text) => [text, undefined])));
    await one.settled();
    assert.deepEqual(await rows(one, "things"), []);
  });

  test("values of all kinds come back as what they were", async () => {
    const one = await leading({ tables: { things: {} }, stores: { things: "id" } });
    const value = {
      id: "a", date: new Date(5), set: new Set([1, "x"]), map: new Map([[1, { deep: [null, true] }]]), big: 2n ** 70n,
      bytes: Uint8Array.of(1, 2), floats: Float32Array.of(1.5), text: "é\u{1f600}",
    };
    await one.db.table("things").put({ ...value, gone: undefined });
    await one.settled();
    assert.deepEqual(one.shown("things").a, value);
    one.remote("things", { b: { ...value, id: "b" } });
    await one.settled();
    assert.deepEqual(await one.db.table("things").get("b"), { ...value, id: "b" });
  });

  test("the bytes of Blobs are read on the way in and Blobs come out", async () => {
    const one = await leading();
    const file = new Blob(["words"], { type: "text/plain" });
    await one.db.table("notes").put({ id: "a", file, all: [new Blob(["x"])] });
    await one.settled();
    const shown = one.shown("notes").a;
    assert.ok(shown.file instanceof BlobValue && shown.all[0] instanceof BlobValue);
    assert.deepEqual([shown.file.type, new TextDecoder().decode(shown.file.data)], ["text/plain", "words"]);
    const theirs = { id: "b", blob: new BlobValue("image/png", Uint8Array.of(1, 2, 3)) };
    one.remote("notes", { b: theirs });
    await one.settled();
    const { blob } = await one.db.table("notes").get("b");
    assert.deepEqual([blob.type, new Uint8Array(await blob.arrayBuffer())], ["image/png", Uint8Array.of(1, 2, 3)]);
    await one.db.table("notes").update("b", { title: "kept" });
    await one.settled();
    assert.deepEqual(one.shown("notes").b, { ...theirs, title: "kept" });
    assert.deepEqual(await one.conflicts(), []);
  });

  test("the app's own edits are not written back to it", async () => {
    const one = await leading();
    const seen = [];
    const query = Dexie.liveQuery(() => one.db.table("notes").count());
    const watching = query.subscribe((count) => seen.push(count));
    await until(() => seen.length === 1);
    await one.db.table("notes").put({ id: "a", t: 1 });
    await one.settled();
    one.arrive("notes");
    await one.settled();
    await one.db.table("notes").put({ id: "b", t: 1 });
    await until(() => seen.at(-1) === 2);
    watching.unsubscribe();
    assert.deepEqual(seen, [0, 1, 2]);
  });

  test("what is written again as it was changes nothing for the others", async () => {
    const one = await leading();
    await one.db.table("notes").put({ id: "a", t: 1 });
    one.remote("notes", { b: { id: "b", t: 1 } });
    await one.settled();
    const before = one.storage.backlog().unsynced;
    await one.db.table("notes").bulkPut([{ t: 1, id: "a" }, { id: "b", t: 1 }]);
    await one.db.table("notes").delete("never there");
    await assertAlike(one);
    assert.equal(one.storage.backlog().unsynced, before);
  });

  test("many rows are given to the engine in portions", async () => {
    const one = await leading();
    await one.db.table("tags").bulkPut(Array.from({ length: 2_100 }, (_, n) => ({ id: `k${n}`, n })));
    await assertAlike(one);
    assert.equal(Object.keys(one.shown("tags")).length, 2_100);
    await one.mirror.stop();
    for (let n = 0; n < 60; n++) await one.db.table("tags").put({ id: `s${n}` });
    const two = await one.crash();
    apps.push(two);
    await two.lead();
    let calls = 0;
    const { _engine: engine } = two.client;
    const editAll = engine.editAll.bind(engine);
    engine.editAll = (...asked) => ((calls += 1), editAll(...asked));
    await assertAlike(two);
    assert.equal(calls, 1);
  });

  test("an entry of a table that syncs no more is dropped", async () => {
    const one = await leading();
    await one.db.table("$hub_edits").add({ table: "former", keys: ["a"], at: 1 });
    await one.settled();
    await one.db.table("tags").put({ id: "a" });
    await until(async () => !(await one.edits()).length);
  });
});

describe("changes of other devices", () => {
  test("they are in the app's tables and live queries tell of each commit once", async () => {
    const one = await leading();
    const seen = [];
    const query = Dexie.liveQuery(() => one.db.table("notes").count());
    const watching = query.subscribe((count) => seen.push(count));
    await until(() => seen.length === 1);
    one.remote("notes", Object.fromEntries(Array.from({ length: 120 }, (_, n) => [`k${n}`, { id: `k${n}` }])));
    await until(() => seen.at(-1) === 120);
    one.remote("notes", { k0: undefined, k1: { id: "k1", t: 2 } });
    await until(() => seen.at(-1) === 119);
    await one.settled();
    watching.unsubscribe();
    assert.deepEqual(seen, [0, 120, 119]);
    await assertAlike(one);
  });

  test("they are no edits of the app and pass no hook", async () => {
    const one = await leading();
    let hooked = 0;
    one.db.table("notes").hook("creating", () => void (hooked += 1));
    one.remote("notes", { a: { id: "a" } });
    await one.settled();
    assert.deepEqual([hooked, one.storage.backlog().unsynced], [0, 0]);
    assert.deepEqual(await rows(one, "notes"), [{ id: "a" }]);
  });

  test("a value without its key gets it and one that is no row is passed over", async () => {
    const one = await leading();
    const reported = [];
    globalThis.reportError = (error) => reported.push(error.message);
    one.remote("notes", { a: { t: 1 }, b: 7, c: { id: "other" } });
    await one.settled();
    delete globalThis.reportError;
    assert.deepEqual(await rows(one, "notes"), [{ id: "a", t: 1 }]);
    assert.equal(reported.length, 2);
  });

  test("collections and deltas that no table is named for are left alone", async () => {
    const one = await leading();
    await one.client.collection("drawings").put("a", { id: "a" });
    await one.client.collection("notes").appendDelta("d", { stroke: 1 });
    await assert.rejects(async () => one.db.table("drawings").toArray());
    await one.settled();
    assert.deepEqual(await rows(one, "notes"), []);
    const two = await crashed(one);
    assert.deepEqual(two.client.collection("notes").deltas("d"), [{ stroke: 1 }]);
  });

  test("a row that another row's unique index keeps out is held as a conflict until it fits", async () => {
    const one = await leading({ tables: { notes: {} }, stores: { notes: "id, &title" } });
    await one.db.table("notes").put({ id: "a", title: "same" });
    await one.settled();
    one.remote("notes", { b: { id: "b", title: "same" }, c: { id: "c", title: "other" } });
    await one.settled();
    assert.deepEqual((await rows(one, "notes")).map(({ id }) => id), ["a", "c"]);
    const [conflict] = await readConflicts(one.db);
    assert.deepEqual([conflict.key, conflict.theirs], ["b", { id: "b", title: "same" }]);
    assert.match(conflict.reason, /cannot keep/);
    await one.db.table("notes").update("a", { title: "mine" });
    await one.settled();
    const two = await crashed(one);
    await until(async () => (await rows(two, "notes")).length === 3);
    assert.deepEqual(await two.conflicts(), []);
  });
});

describe("edits on an older value", () => {
  test("a change that comes while the person edits is merged with the base both had", async () => {
    const one = await leading();
    one.remote("notes", { a: { id: "a", title: "t", text: "x" } });
    await one.settled();
    const typed = one.db.table("notes").update("a", { text: "mine" });
    one.remote("notes", { a: { id: "a", title: "theirs", text: "x" } });
    await typed;
    await assertAlike(one);
    assert.deepEqual(await rows(one, "notes"), [{ id: "a", title: "theirs", text: "mine" }]);
  });

  test("counts are added up however edits and changes fall", async () => {
    const one = await leading();
    await one.db.table("days").add({ id: "d", words: 100 });
    let theirs = 0;
    for (let n = 0; n < 25; n++) {
      const edited = one.db.table("days").where("id").equals("d").modify((row) => void (row.words += 1));
      // The other device counts on what the log has; what this one counted never gets there.
      if (n % 3 === 0) one.remote("days", { d: { id: "d", words: (theirs += 10) } });
      await edited;
    }
    await assertAlike(one);
    assert.deepEqual(await rows(one, "days"), [{ id: "d", words: 100 + 25 + theirs }]);
  });

  test("an edit on a merge that was not seen yet is merged with it", async () => {
    const one = await leading();
    one.remote("days", { d: { id: "d", words: 10 } });
    await one.settled();
    await one.db.table("days").put({ id: "d", words: 15 });
    await one.settled();
    one.remote("days", { d: { id: "d", words: 110 } }); // both: 115, on its way to the app
    await one.db.table("days").put({ id: "d", words: 16 });
    await assertAlike(one);
    assert.equal((await rows(one, "days"))[0].words, 116);
  });

  test("the last writer wins where nobody wants to know the base", async () => {
    const one = await leading();
    one.remote("tags", { a: { id: "a", by: "them" } });
    await one.settled();
    const typed = one.db.table("tags").put({ id: "a", by: "me" });
    one.remote("tags", { a: { id: "a", by: "them again" } });
    await typed;
    await assertAlike(one);
    assert.deepEqual(one.shown("tags").a, { id: "a", by: "me" });
  });

  for (const [name, answer, expected] of /** @type {[string, any, any][]} */ ([
    ["mine", MINE, { id: "a", by: "me" }],
    ["theirs", THEIRS, { id: "a", by: "them" }],
    ["merged", new Merged({ id: "a", by: "both" }, { b: { id: "b", by: "copy" } }), { id: "a", by: "both" }],
    ["merged to nothing", new Merged(MISSING), undefined],
  ])) {
    test(`what the strategy answers is in the app's table (${name})`, async () => {
      const asked = [];
      const conflict = (found) => {
        asked.push([found.base, found.mine, found.theirs]);
        return answer;
      };
      const one = await leading({ tables: { notes: { conflict } } });
      one.remote("notes", { a: { id: "a", by: "first" } });
      await one.settled();
      const typed = one.db.table("notes").put({ id: "a", by: "me" });
      one.remote("notes", { a: { id: "a", by: "them" } });
      await typed;
      await assertAlike(one);
      assert.deepEqual(asked, [[{ id: "a", by: "first" }, { id: "a", by: "me" }, { id: "a", by: "them" }]]);
      assert.deepEqual(await one.db.table("notes").get("a"), expected);
      assert.equal(await one.db.table("notes").count(), (expected ? 1 : 0) + (name === "merged" ? 1 : 0));
    });
  }

  test("a person's typing is not written over while it is on its way", async () => {
    const one = await leading();
    one.remote("chapters", { a: { id: "a", text: "one" } });
    await one.settled();
    for (let n = 0; n < 20; n++) {
      const typed = one.db.table("chapters").put({ id: "a", text: `mine ${n}` });
      if (n === 10) one.remote("chapters", { a: { id: "a", text: "theirs" } });
      await typed;
      assert.equal((await one.db.table("chapters").get("a")).text, `mine ${n}`);
    }
    await one.settled();
    assert.equal((await one.db.table("chapters").get("a")).text, "mine 19");
    const [conflict] = await readConflicts(one.db);
    assert.deepEqual([conflict.mine.text, conflict.theirs.text], ["mine 19", "theirs"]);
  });

  test("an edit that a person must judge waits until what it was not made on is in the log", async () => {
    const answers = [new Merged({ id: "a", v: "merged" }), MANUAL, MANUAL];
    const one = await leading({ tables: { notes: { conflict: () => answers.shift() ?? MANUAL } } });
    one.remote("notes", { a: { id: "a", v: 0 } });
    await one.settled();
    await one.db.table("notes").put({ id: "a", v: 1 });
    await one.settled();
    const typed = one.db.table("notes").put({ id: "a", v: 2 });
    one.remote("notes", { a: { id: "a", v: 100 } });
    await typed;
    await until(() => one.mirror._later);
    assert.equal((await one.edits()).length, 1);
    assert.deepEqual(await one.db.table("notes").get("a"), { id: "a", v: 2 }, "what the person typed stays");
    const local = one.local("notes");
    const [row] = one.storage.rowsOf(local.n, "a");
    assert.deepEqual(one.shown("notes").a, { id: "a", v: "merged" });
    one.client._engine.device.transaction(() => local.doneWith(row)); // it has come back from the hub
    one.remote("notes", { a: { id: "a", v: "merged" } });
    await one.settled();
    const [conflict] = await readConflicts(one.db);
    assert.deepEqual([conflict.base.v, conflict.mine.v, conflict.theirs.v], [1, 2, "merged"]);
    assert.deepEqual(await one.db.table("notes").get("a"), { id: "a", v: 2 });
  });
});

describe("conflicts that wait for a person", () => {
  /** One conflict: base "b", mine "m", theirs "t". */
  async function inConflict() {
    const one = await leading();
    one.remote("chapters", { a: { id: "a", text: "b" } });
    await one.settled();
    await one.db.table("chapters").put({ id: "a", text: "m" });
    await one.settled();
    one.remote("chapters", { a: { id: "a", text: "t" } });
    await one.settled();
    return one;
  }

  test("they are told with all three values and the app's row stays the person's", async () => {
    const one = await inConflict();
    const expected = { table: "chapters", key: "a", base: { id: "a", text: "b" }, mine: { id: "a", text: "m" } };
    const [{ stamp, ...found }] = await readConflicts(one.db);
    assert.deepEqual(found, { ...expected, theirs: { id: "a", text: "t" }, reason: "conflict" });
    assert.deepEqual(await rows(one, "chapters"), [{ id: "a", text: "m" }]);
    const counts = [];
    one.mirror.onConflicts((count) => counts.push(count));
    assert.deepEqual(counts, [1]);
    await one.db.table("chapters").put({ id: "a", text: "m2" });
    one.remote("chapters", { a: { id: "a", text: "t2" } });
    await one.settled();
    const [conflict] = await readConflicts(one.db);
    assert.deepEqual([conflict.base.text, conflict.mine.text, conflict.theirs.text], ["b", "m2", "t2"]);
  });

  test("the hub's value in them is its newest", async () => {
    const one = await inConflict();
    one.remote("chapters", { a: { id: "a", text: "t2" } });
    await one.settled();
    const [{ mine, theirs }] = await readConflicts(one.db);
    assert.deepEqual([mine.text, theirs.text], ["m", "t2"]);
  });

  test("they are told again after a crash", async () => {
    const two = await crashed(await inConflict());
    assert.equal((await readConflicts(two.db)).length, 1);
    assert.deepEqual(two.mirror._conflicts, 1);
  });

  test("what the database says of conflicts is put right at the start", async () => {
    const one = await inConflict();
    await one.db.table("$hub_conflicts").clear();
    await one.db.table("$hub_conflicts").put({ table: "chapters", id: "x", key: "x", reason: "conflict" });
    const two = await crashed(one);
    assert.deepEqual((await readConflicts(two.db)).map(({ key }) => key), ["a"]);
  });

  for (const value of [{ id: "a", text: "decided" }, undefined]) {
    test(`any tab settles one at once and for good (${JSON.stringify(value)})`, async () => {
      const one = await inConflict();
      const other = one.tab();
      apps.push(other);
      await resolveConflict(other.db, "chapters", "a", value);
      assert.deepEqual(await other.db.table("chapters").get("a"), value);
      assert.deepEqual(await other.conflicts(), []);
      await assertAlike(one);
      const [row] = one.storage.rowsOf(one.local("chapters").n, "a");
      assert.equal(row.state, State.WAITING);
      assert.deepEqual(one.shown("chapters").a, value);
    });
  }

  test("one that is settled while no tab leads is settled", async () => {
    const one = await inConflict();
    const two = await one.crash();
    apps.push(two);
    await one.mirror.stop();
    await resolveConflict(two.db, "chapters", "a", { id: "a", text: "decided" });
    await two.db.table("chapters").update("a", { text: "decided, and typed on" });
    await two.lead();
    await assertAlike(two);
    assert.deepEqual(two.shown("chapters").a, { id: "a", text: "decided, and typed on" });
    assert.equal(two.storage.rowsOf(two.local("chapters").n, "a")[0].state, State.WAITING);
  });

  test("one that another change makes anew while it is settled is a conflict again", async () => {
    const one = await inConflict();
    await one.mirror.stop();
    await resolveConflict(one.db, "chapters", "a", { id: "a", text: "m and t" });
    one.remote("chapters", { a: { id: "a", text: "t, and more" } });
    const two = await crashed(one);
    const [conflict] = await readConflicts(two.db);
    assert.deepEqual([conflict.base.text, conflict.mine.text, conflict.theirs.text], ["t", "m and t", "t, and more"]);
  });

  test("a decision about what is another by now writes nothing over", async () => {
    const one = await inConflict();
    const [seen] = await readConflicts(one.db);
    one.remote("chapters", { a: { id: "a", text: "t, and more" } });
    await one.settled();
    await resolveConflict(one.db, "chapters", "a", { id: "a", text: "m and t" }, seen);
    await one.settled();
    const [again] = await readConflicts(one.db);
    assert.deepEqual([again.base.text, again.mine.text, again.theirs.text], ["t", "m and t", "t, and more"]);
    await one.mirror.stop();
    await one.db.table("chapters").put({ id: "a", text: "m and t, typed on" });
    const decided = { id: "a", text: "all" };
    await assert.rejects(resolveConflict(one.db, "chapters", "a", decided), /edited just now/);
    const two = await crashed(one);
    await assert.rejects(resolveConflict(two.db, "chapters", "a", decided, again), /edited just now/);
    const [newest] = await readConflicts(two.db);
    assert.equal(newest.mine.text, "m and t, typed on");
    await resolveConflict(two.db, "chapters", "a", decided, newest);
    await assertAlike(two);
    assert.deepEqual(await two.conflicts(), []);
  });

  test("what is no conflict is refused as one", async () => {
    const one = await inConflict();
    await assert.rejects(resolveConflict(one.db, "chapters", "b", { id: "b" }), RangeError);
    await assert.rejects(resolveConflict(one.db, "chapters", "a", { id: "b" }), RangeError);
    assert.equal((await one.conflicts()).length, 1);
  });

  test("an edit that cannot travel waits as one and holds up nobody", async () => {
    const one = await leading();
    const before = { id: "bad", t: 1, old: 1 };
    one.remote("notes", { bad: before });
    await one.settled();
    await one.db.table("notes").bulkPut([{ id: "a", t: 1 }, { ...before, t: 2, re: /x/ }, { id: "b", t: 1 }]);
    await one.settled();
    assert.deepEqual(Object.keys(one.shown("notes")).sort(), ["a", "b", "bad"]);
    assert.deepEqual(one.shown("notes").bad, before);
    const [conflict] = await readConflicts(one.db);
    assert.match(conflict.reason, /RegExp cannot be synced/);
    assert.deepEqual([conflict.key, conflict.base, conflict.theirs, conflict.mine.t], ["bad", before, before, 2]);
    one.remote("notes", { bad: { id: "bad", t: 1, more: 1 } });
    const two = await crashed(one);
    assert.ok((await two.db.table("notes").get("bad")).re, "the app's row is not written over");
    assert.equal((await readConflicts(two.db)).length, 1);
    await two.db.table("notes").put({ id: "bad", t: 3, old: 1 });
    await assertAlike(two);
    assert.deepEqual(two.shown("notes").bad, { id: "bad", t: 3, more: 1 }, "merged with the base it was made on");
    assert.deepEqual(await two.conflicts(), []);
  });
});

describe("the first sync of a device", () => {
  /** An app with rows from before it was signed in. */
  async function settledIn(more = {}) {
    const one = app(more);
    for (const table of ["tags", "notes", "days"]) {
      const mine = { words: 5, by: "me" };
      await one.db.table(table).bulkPut([{ id: "old", ...mine }, { id: "same", words: 1 }, { id: "both", ...mine }]);
    }
    return one.lead();
  }

  test("rows from before wait until the collection has been read and then go out", async () => {
    const one = await settledIn();
    const theirs = { same: { id: "same", words: 1 }, both: { id: "both", words: 7, also: 1 }, new: { id: "new" } };
    for (const table of ["tags", "notes", "days"]) one.remote(table, theirs);
    await one.settled();
    assert.deepEqual(Object.keys(one.shown("tags")).sort(), ["both", "new", "same"]);
    const before = { both: { id: "both", words: 5, by: "me" }, new: { id: "new" } };
    for (const [key, row] of Object.entries(before)) assert.deepEqual(await one.db.table("tags").get(key), row, key);
    one.caughtUp(...Object.keys(TABLES));
    await assertAlike(one);
    assert.deepEqual(one.shown("tags").both, { id: "both", words: 7, also: 1 }, "the last writer's wins");
    assert.deepEqual(one.shown("notes").both, { id: "both", words: 5, also: 1, by: "me" }, "field by field");
    assert.deepEqual(one.shown("days").both, { id: "both", words: 12, also: 1, by: "me" }, "counted up");
    for (const table of ["tags", "notes", "days"]) {
      assert.deepEqual(one.shown(table).old, { id: "old", words: 5, by: "me" });
      assert.deepEqual(one.shown(table).same, { id: "same", words: 1 });
    }
    assert.equal(one.storage.rowsOf(one.local("tags").n, "same").length, 0, "what was the same is not sent");
  });

  test("an edit made before the collection has been read counts with all of the row", async () => {
    const one = await settledIn();
    for (const table of ["tags", "days"]) one.remote(table, { both: { id: "both", words: 7 } });
    for (const table of ["tags", "days"]) await one.db.table(table).put({ id: "both", words: 8, by: "me" });
    await one.settled();
    one.caughtUp(...Object.keys(TABLES));
    await assertAlike(one);
    assert.deepEqual(one.shown("tags").both, { id: "both", words: 8, by: "me" });
    assert.equal(one.shown("days").both.words, 15);
  });

  test("an edit made while it happens is an edit and not from before", async () => {
    const one = await settledIn();
    for (const table of ["tags", "days"]) one.remote(table, { both: { id: "both", words: 7 } });
    const take = one.mirror._take.bind(one.mirror);
    one.mirror._take = async () => {
      one.mirror._take = take;
      for (const table of ["tags", "days"]) await one.db.table(table).put({ id: "both", words: 8 });
      return take();
    };
    one.caughtUp(...Object.keys(TABLES));
    await assertAlike(one);
    assert.deepEqual(one.shown("tags").both, { id: "both", words: 8 });
    assert.equal(one.shown("days").both.words, 15);
  });

  test("it happens once", async () => {
    const one = await settledIn();
    one.remote("days", { both: { id: "both", words: 7 } });
    one.caughtUp(...Object.keys(TABLES));
    await assertAlike(one);
    const two = await crashed(one);
    await assertAlike(two);
    assert.equal(two.shown("days").both.words, 12);
  });

  test("an empty table needs not wait", async () => {
    const one = await app().lead();
    await one.db.table("days").put({ id: "d", words: 3 });
    await one.settled();
    assert.deepEqual(one.shown("days").d, { id: "d", words: 3 });
    one.remote("days", { d: { id: "d", words: 10 } });
    one.caughtUp(...Object.keys(TABLES));
    await assertAlike(one);
    assert.equal(one.shown("days").d.words, 13);
  });

  test("a table that is named later is compared then", async () => {
    const one = await leading({ tables: { notes: { conflict: perField } } });
    await one.db.table("tags").put({ id: "mine" });
    await one.client.collection("tags").put("theirs", { id: "theirs" });
    one.client._engine.device.transaction(() => one.local("tags").save({ caughtUp: true }));
    await one.settled();
    const two = app({ factory: one.factory });
    await two.lead();
    await assertAlike(two);
    assert.deepEqual((await rows(two, "tags")).map(({ id }) => id), ["mine", "theirs"]);
  });
});

describe("an upgrade of the app", () => {
  test("what version().upgrade() changed goes out and what the engine has comes back", async () => {
    const one = await leading();
    for (const table of ["tags", "notes"]) {
      await one.db.table(table).bulkPut(["a", "b", "c"].map((id) => ({ id, t: 1 })));
    }
    await one.settled();
    await one.mirror.stop();
    const upgrade = async (tx) => {
      for (const table of ["tags", "notes"]) {
        await tx.table(table).where("id").equals("a").modify({ t: 2 });
        await tx.table(table).delete("c");
        await tx.table(table).add({ id: "d", t: 2 });
      }
    };
    const two = app({ factory: one.factory, version: 2, upgrade });
    await two.lead();
    await assertAlike(two);
    for (const table of ["tags", "notes"]) {
      assert.deepEqual(two.shown(table), Object.fromEntries(
        [["a", 2], ["b", 1], ["c", 1], ["d", 2]].map(([id, t]) => [id, { id, t }]),
      ));
      assert.equal(two.storage.rowsOf(two.local(table).n, "b").length, 1, "untouched since the first edit");
    }
  });

  test("edits that were on their way before it are still what they were made on", async () => {
    const one = await leading();
    one.remote("days", { d: { id: "d", words: 10 } });
    await one.settled();
    await one.mirror.stop();
    await one.db.table("days").put({ id: "d", words: 12 });
    const upgrade = (tx) => tx.table("days").toCollection().modify((row) => void (row.words += 100));
    const two = app({ factory: one.factory, version: 2, upgrade });
    await two.lead();
    await assertAlike(two);
    assert.equal(two.shown("days").d.words, 112);
  });

  test("without one the rows are not read", async () => {
    const one = await leading();
    await one.db.table("tags").put({ id: "a" });
    await one.settled();
    const two = await one.crash();
    apps.push(two);
    await two.db.open();
    let reads = 0;
    const { getAll } = FDBObjectStore.prototype;
    FDBObjectStore.prototype.getAll = function (...asked) {
      if (this.name === "tags") reads += 1;
      return getAll.apply(this, asked);
    };
    await two.lead();
    await two.settled();
    FDBObjectStore.prototype.getAll = getAll;
    assert.equal(reads, 0);
  });
});
