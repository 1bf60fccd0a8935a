/**
 * The exam of a device's storage: every promise of `src/storage.js` as a test that any keeper can sit.
 *
 * A keeper is examined by saying how one is made, and what is to be looked at when a test is over:
 *
 *     describe("MyStorage", () => examineStorage({ make: async () => ..., finish: async (storage) => ... }));
 */

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { hex } from "../src/bytes.js";
import { CollectionRow, DeltaRow, OutboxRow, RecordRow, State, StoredAlarm, replace } from "../src/storage.js";
import { FREEING_KINDS, Kind, ZERO_ID } from "../src/terms.js";

const UTF8 = new TextEncoder();

/** @param {string} ascii */
export function bytes(ascii) {
  return UTF8.encode(ascii);
}

/** @param {number} number */
export function cid(number) {
  const id = new Uint8Array(16);
  new DataView(id.buffer).setUint32(12, number);
  return id;
}

export function edit(number, { collection = 1, key = "a", kind = Kind.PUT, ...fields } = {}) {
  return new OutboxRow({ collection, key, changeId: cid(number), kind, ...fields });
}

function alarm(name, at = 0) {
  return new StoredAlarm(name, "notes", `why ${name}`, 7, at);
}

function numbers(rows) {
  return rows.map((row) => new DataView(row.changeId.buffer).getUint32(12));
}

function keys(rows) {
  return rows.map((row) => row.key);
}

function entry(number, seq, kind) {
  return { changeId: cid(number), seq, kind };
}

/** Something in every table. */
export function fill(storage) {
  storage.setSetting("name", bytes("old"));
  const row = storage.addCollection("notes", cid(900));
  storage.saveRecord(row.n, new RecordRow({ key: "a", value: bytes("old"), changeId: cid(1), seq: 1 }));
  storage.saveDelta(row.n, "a", new DeltaRow(cid(2), 2, bytes("delta")));
  storage.addRow(edit(3, { value: bytes("old"), writtenAt: 5 }));
  storage.liveSet(row.n).put(cid(50), [entry(1, 1, Kind.PUT)]);
  storage.addAlarm(alarm("first"));
}

/** Replace, add and drop in every table that `fill` filled. */
export function changeEverything(storage) {
  const [collection] = storage.collections();
  const [row] = storage.rowsOf(collection.n, "a");
  storage.setSetting("name", bytes("new"));
  storage.setSetting("name", null);
  storage.setSetting("other", bytes("new"));
  storage.saveCollection(replace(collection, { seq: 99 }));
  storage.addCollection("more", null);
  storage.saveRecord(collection.n, new RecordRow({ key: "a", value: bytes("new") }));
  storage.saveRecord(collection.n, new RecordRow({ key: "b" }));
  storage.saveDelta(collection.n, "b", new DeltaRow(cid(4), 4, bytes("delta")));
  storage.dropRecord(collection.n, "a");
  storage.saveRow(replace(row, { state: State.SEALED }));
  storage.dropRow(row.n);
  storage.addRow(edit(5, { key: "b" }));
  storage.liveSet(collection.n).clear();
  storage.liveSet(collection.n).put(cid(51), [entry(4, 4, Kind.DELETE)]);
  storage.clearAlarms();
  storage.addAlarm(alarm("second"));
}

/** All that a storage with the records `a` and `b` can be asked for. */
export function everything(storage) {
  return {
    settings: ["name", "other"].map((name) => storage.setting(name)),
    collections: storage.collections(),
    records: [1, 2].map((n) => storage.records(n)),
    deltas: ["a", "b"].map((key) => storage.deltas(1, key)),
    outbox: ["a", "b"].map((key) => storage.rowsOf(1, key)),
    live: [50, 51].map((n) => storage.liveSet(1).get(cid(n))),
    count: storage.liveSet(1).count(),
    alarms: storage.alarms(),
    backlog: storage.backlog(),
  };
}

/** Leaves a transaction. */
export class Stop extends Error {}

export function stop() {
  throw new Stop();
}

function missesFor(storage, work, error = Stop) {
  assert.throws(() => storage.transaction(work), error);
}

/** @typedef {import("../src/storage.js").Storage} Storage */

/** @param {{make: () => Promise<Storage>, finish?: (storage: Storage) => Promise<void>}} keeper */
export function examineStorage({ make, finish = async () => {} }) {
  /** @type {Storage} */
  let storage;

  beforeEach(async () => {
    storage = await make();
  });

  afterEach(async () => {
    await finish(storage);
    await storage.close();
  });

  // --- transactions ---

  test("a transaction keeps all it wrote", () => {
    storage.transaction(() => fill(storage));
    const before = everything(storage);
    const inside = storage.transaction(() => {
      changeEverything(storage);
      return everything(storage);
    });
    const after = everything(storage);
    assert.deepEqual(after, inside);
    for (const name of Object.keys(before)) {
      if (!["count", "backlog"].includes(name)) assert.notDeepEqual(after[name], before[name], name);
    }
  });

  test("a transaction that an exception leaves changes nothing", () => {
    fill(storage);
    const before = everything(storage);
    missesFor(storage, () => {
      changeEverything(storage);
      stop();
    });
    assert.deepEqual(everything(storage), before);
  });

  test("alarms come back in their order when clearing them is taken back", () => {
    const kept = [alarm("first", 1), alarm("second", 2), alarm("third", 3)];
    for (const one of kept) storage.addAlarm(one);
    missesFor(storage, () => {
      storage.clearAlarms();
      stop();
    });
    assert.deepEqual(storage.alarms(), kept);
  });

  test("a transaction inside another goes when the outer fails", () => {
    fill(storage);
    const before = everything(storage);
    missesFor(storage, () => {
      storage.transaction(() => changeEverything(storage));
      stop();
    });
    assert.deepEqual(everything(storage), before);
  });

  test("a failed transaction inside another is part of the outer which decides", () => {
    storage.transaction(() => {
      storage.setSetting("outer", bytes("1"));
      missesFor(storage, () => {
        storage.setSetting("inner", bytes("2"));
        stop();
      });
      storage.setSetting("later", bytes("3"));
    });
    const found = ["outer", "inner", "later"].map((name) => storage.setting(name));
    assert.deepEqual(found, [bytes("1"), bytes("2"), bytes("3")]);
  });

  test("after a failed transaction the next one works", () => {
    for (let i = 0; i < 2; i++) {
      missesFor(storage, () => {
        storage.setSetting("name", bytes("lost"));
        stop();
      });
    }
    storage.transaction(() => storage.setSetting("other", bytes("kept")));
    assert.deepEqual([storage.setting("name"), storage.setting("other")], [null, bytes("kept")]);
  });

  test("a transaction gives what its work gives", () => {
    assert.equal(storage.transaction(() => storage.transaction(() => 7)), 7);
  });

  test("work that goes on after its transaction is refused and leaves nothing", () => {
    missesFor(
      storage,
      async () => storage.setSetting("name", bytes("lost")),
      TypeError,
    );
    assert.equal(storage.setting("name"), null);
  });

  test("what was written is durable once that is promised", async () => {
    fill(storage);
    await storage.committed();
    assert.equal(storage.pending, 0);
    assert.equal(storage.failure, null);
  });

  test("nothing is taken after closing", async () => {
    await storage.close();
    assert.throws(() => storage.setSetting("name", bytes("late")), /closed/);
    assert.equal(storage.setting("name"), null);
  });

  test("closing inside a transaction leaves nothing of it", async () => {
    let closed;
    assert.throws(() => {
      storage.transaction(() => {
        storage.setSetting("name", bytes("lost"));
        closed = storage.close();
      });
    }, /closed/);
    await closed;
    assert.equal(storage.setting("name"), null);
  });

  // --- settings and collections ---

  test("a setting is kept replaced and forgotten", () => {
    assert.equal(storage.setting("name"), null);
    for (const value of [bytes("one"), bytes(""), Uint8Array.of(0, 255)]) {
      storage.setSetting("name", value);
      assert.deepEqual(storage.setting("name"), value);
    }
    storage.setSetting("name", null);
    storage.setSetting("never set", null);
    assert.equal(storage.setting("name"), null);
  });

  test("collections come back in the order they were added", () => {
    /** @type {[string | null, Uint8Array | null][]} */
    const given = [["z", cid(1)], [null, cid(2)], ["a", null]];
    const added = given.map(([name, id]) => storage.addCollection(name, id));
    assert.deepEqual(added.map((row) => [row.name, row.collectionId]), given);
    assert.equal(new Set(added.map((row) => row.n)).size, 3);
    storage.saveCollection(replace(added[0], { seq: 5 }));
    assert.deepEqual(storage.collections().map((row) => row.n), added.map((row) => row.n));
  });

  for (const [name, number] of /** @type {[string | null, number][]} */ (
    [["notes", 0], [null, 1], ["notes", 2], ["more", 1]]
  )) {
    test(`a name or an id belongs to one collection (${name}, ${number})`, () => {
      const id = number ? cid(number) : null;
      const first = storage.addCollection("notes", cid(1));
      const other = storage.addCollection("other", cid(9));
      missesFor(
        storage,
        () => {
          storage.setSetting("name", bytes("value"));
          storage.addCollection(name, id);
        },
        RangeError,
      );
      assert.throws(() => storage.saveCollection(replace(other, { name: "notes" })), RangeError);
      assert.throws(() => storage.saveCollection(replace(other, { collectionId: cid(1) })), RangeError);
      assert.deepEqual(storage.collections(), [first, other]);
      assert.equal(storage.setting("name"), null);
      assert.ok(![first.n, other.n].includes(storage.addCollection("third", null).n));
    });
  }

  test("many collections may be without a name or an id", () => {
    const added = [0, 1, 2].map(() => storage.addCollection(null, null));
    assert.deepEqual(storage.collections(), added);
  });

  test("every field of a collection is kept", () => {
    const { n } = storage.addCollection(null, null);
    const row = new CollectionRow({
      n, name: "notes", collectionId: cid(1), incarnation: cid(2), seq: 3, caughtUp: true, healing: true, counter: 4,
      answered: 5, witnessCounter: 6, witnessSeq: 7, check: bytes("state"), alarm: "forked",
    });
    storage.saveCollection(row);
    assert.deepEqual(storage.collections(), [row]);
  });

  // --- records and deltas ---

  test("every field of a record is kept", () => {
    const row = new RecordRow({
      key: "a", value: bytes("v"), changeId: cid(1), seq: 2, ancestors: cid(3), local: bytes(""), dirty: true,
      former: cid(4), seen: Uint8Array.of(...cid(5), ...cid(6)),
    });
    storage.saveRecord(1, row);
    assert.deepEqual(storage.record(1, "a"), row);
    storage.saveRecord(1, new RecordRow({ key: "a" }));
    assert.deepEqual(storage.record(1, "a"), new RecordRow({ key: "a" }));
  });

  test("a person sees the local body of a dirty record alone", () => {
    const value = bytes("v");
    const local = bytes("l");
    assert.deepEqual(new RecordRow({ key: "a", value, local }).view, value);
    assert.deepEqual(new RecordRow({ key: "a", value, local, dirty: true }).view, local);
    assert.equal(new RecordRow({ key: "a", value, dirty: true }).view, null);
  });

  test("a row that came back still shows what the person sees", () => {
    storage.saveRecord(1, new RecordRow({ key: "a", value: bytes("v") }));
    assert.deepEqual(storage.record(1, "a")?.view, bytes("v"));
    assert.deepEqual(storage.records(1)[0].view, bytes("v"));
  });

  test("records come back by key and by collection empty ones too", () => {
    const given = ["b", "", "a", "é", "Z", "\u{1f600}", "\uffee", "a b", "\u{1f600}a"];
    for (const key of given) storage.saveRecord(1, new RecordRow({ key }));
    storage.saveRecord(2, new RecordRow({ key: "elsewhere" }));
    const inOrder = [...given].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
    assert.deepEqual(keys(storage.records(1)), inOrder);
    assert.deepEqual(keys(storage.records(2)), ["elsewhere"]);
    assert.deepEqual(storage.records(3), []);
    assert.equal(storage.record(2, "a"), null);
  });

  test("records come back by key also after some were added and dropped", () => {
    for (const key of ["b", "d"]) storage.saveRecord(1, new RecordRow({ key }));
    assert.deepEqual(keys(storage.records(1)), ["b", "d"]);
    for (const key of ["c", "a"]) storage.saveRecord(1, new RecordRow({ key }));
    storage.dropRecord(1, "b");
    assert.deepEqual(keys(storage.records(1)), ["a", "c", "d"]);
    missesFor(storage, () => {
      storage.dropRecord(1, "a");
      storage.saveRecord(1, new RecordRow({ key: "e" }));
      assert.deepEqual(keys(storage.records(1)), ["c", "d", "e"]);
      stop();
    });
    assert.deepEqual(keys(storage.records(1)), ["a", "c", "d"]);
  });

  test("a dropped record takes its deltas along and no others", () => {
    for (const [collection, key] of /** @type {[number, string][]} */ ([[1, "a"], [1, "b"], [2, "a"]])) {
      storage.saveRecord(collection, new RecordRow({ key }));
      storage.saveDelta(collection, key, new DeltaRow(cid(1), 1, bytes("x")));
      storage.saveDelta(collection, key, new DeltaRow(cid(2), 0, bytes("x")));
    }
    storage.dropRecord(1, "a");
    storage.dropRecord(1, "unknown");
    assert.deepEqual([storage.record(1, "a"), storage.deltas(1, "a")], [null, []]);
    assert.deepEqual([storage.deltas(1, "b").length, storage.deltas(2, "a").length], [2, 2]);
    assert.deepEqual(keys(storage.records(1)), ["b"]);
  });

  test("formers are the records with a former", () => {
    storage.saveRecord(1, new RecordRow({ key: "b", former: cid(1) }));
    storage.saveRecord(1, new RecordRow({ key: "a", former: cid(2) }));
    storage.saveRecord(1, new RecordRow({ key: "c" }));
    storage.saveRecord(2, new RecordRow({ key: "d", former: cid(3) }));
    assert.deepEqual(keys(storage.formers(1)), ["a", "b"]);
  });

  test("tombstones are confirmed deletes up to a seq", () => {
    storage.saveRecord(1, new RecordRow({ key: "below", seq: 4 }));
    storage.saveRecord(1, new RecordRow({ key: "at", seq: 5, local: bytes("edited since"), dirty: true }));
    storage.saveRecord(1, new RecordRow({ key: "above", seq: 6 }));
    storage.saveRecord(1, new RecordRow({ key: "full", seq: 3, value: bytes("") }));
    storage.saveRecord(1, new RecordRow({ key: "not in the log", local: bytes("new"), dirty: true }));
    storage.saveRecord(2, new RecordRow({ key: "elsewhere", seq: 1 }));
    assert.deepEqual(keys(storage.tombstones(1, 5)), ["at", "below"]);
  });

  test("a confirmed change is found by its id", () => {
    storage.saveRecord(1, new RecordRow({ key: "a", changeId: cid(1), seq: 4 }));
    storage.saveRecord(2, new RecordRow({ key: "a", changeId: cid(2), seq: 5 }));
    storage.saveRecord(2, new RecordRow({ key: "b" }));
    assert.deepEqual(storage.findChange(cid(1)), [1, 4]);
    assert.deepEqual(storage.findChange(cid(2)), [2, 5]);
    assert.equal(storage.findChange(cid(3)), null);
    assert.equal(storage.findChange(ZERO_ID), null);
    storage.saveRecord(1, new RecordRow({ key: "a", changeId: cid(3), seq: 6 }));
    assert.deepEqual([storage.findChange(cid(1)), storage.findChange(cid(3))], [null, [1, 6]]);
  });

  test("deltas come back in seq order and one with the same change is replaced", () => {
    for (const [number, seq] of [[3, 9], [1, 0], [2, 5]]) {
      storage.saveDelta(1, "a", new DeltaRow(cid(number), seq, bytes("old")));
    }
    assert.deepEqual(storage.deltas(1, "a").map((delta) => delta.seq), [0, 5, 9]);
    storage.saveDelta(1, "a", new DeltaRow(cid(1), 12, bytes("new")));
    assert.deepEqual(storage.deltas(1, "a"), [
      new DeltaRow(cid(2), 5, bytes("old")),
      new DeltaRow(cid(3), 9, bytes("old")),
      new DeltaRow(cid(1), 12, bytes("new")),
    ]);
  });

  test("deltas of one seq come back by their change", () => {
    for (const number of [3, 1, 2]) storage.saveDelta(1, "a", new DeltaRow(cid(number), 0, bytes("x")));
    assert.deepEqual(numbers(storage.deltas(1, "a")), [1, 2, 3]);
  });

  test("deltas not yet seen stay when only confirmed ones are dropped", () => {
    storage.saveDelta(1, "a", new DeltaRow(cid(1), 0, bytes("x")));
    storage.saveDelta(1, "a", new DeltaRow(cid(2), 1, bytes("y")));
    storage.saveDelta(1, "b", new DeltaRow(cid(3), 1, bytes("z")));
    storage.dropDeltas(1, "a", { confirmedOnly: true });
    assert.deepEqual(storage.deltas(1, "a"), [new DeltaRow(cid(1), 0, bytes("x"))]);
    storage.dropDeltas(1, "a", { confirmedOnly: false });
    assert.deepEqual(storage.deltas(1, "a"), []);
    assert.equal(storage.deltas(1, "b").length, 1);
  });

  // --- the outbox ---

  test("every field of an outbox row is kept", () => {
    const row = storage.addRow(
      edit(1, {
        kind: Kind.DELTA, state: State.PARKED, conditional: false, snapshot: true, baseValue: bytes(""),
        value: bytes("v"), counter: 2, sealed: bytes("s"), seq: 3, needSeq: 4, reason: "why", standsFor: cid(5),
        writtenAt: 6.5,
      }),
    );
    assert.ok(row.n > 0);
    assert.deepEqual(storage.row(row.n), row);
  });

  test("rows come back in the order they were added and keep their place", () => {
    const rows = [3, 1, 2].map((number) => storage.addRow(edit(number)));
    storage.saveRow(replace(rows[0], { value: bytes("changed") }));
    assert.deepEqual(numbers(storage.rowsOf(1, "a")), [3, 1, 2]);
    assert.deepEqual(numbers(storage.rowsIn(1, State.WAITING)), [3, 1, 2]);
    assert.deepEqual(storage.row(rows[0].n)?.value, bytes("changed"));
  });

  test("a place is never given twice", () => {
    const [first, second] = [1, 2].map((number) => storage.addRow(edit(number)));
    storage.dropRow(second.n);
    assert.equal(storage.row(second.n), null);
    const third = storage.addRow(edit(3));
    assert.ok(first.n < second.n && second.n < third.n);
  });

  test("rows are found by record", () => {
    const given = /** @type {[number, number, string][]} */ (
      [[1, 1, "a"], [2, 1, "b"], [3, 2, "a"], [4, 1, "a"], [5, 1, ""]]
    );
    for (const [number, collection, key] of given) storage.addRow(edit(number, { collection, key }));
    assert.deepEqual(numbers(storage.rowsOf(1, "a")), [1, 4]);
    assert.deepEqual(numbers(storage.rowsOf(1, "")), [5]);
    assert.deepEqual(storage.rowsOf(3, "a"), []);
  });

  for (const [name, state] of Object.entries(State)) {
    test(`rows are found by state also when they change it (${name})`, () => {
      const states = Object.values(State);
      const rows = states.map((given, number) => storage.addRow(edit(number, { state: given })));
      storage.addRow(edit(90, { collection: 2, state }));
      assert.deepEqual(numbers(storage.rowsIn(1, state)), [state]);
      for (const row of [...rows].reverse()) storage.saveRow(replace(row, { state }));
      assert.deepEqual(numbers(storage.rowsIn(1, state)), [0, 1, 2, 3, 4]);
      assert.ok(storage.rowsIn(1, state).every((row) => row.state === state));
    });
  }

  test("a row is found by its change and by those it stands for", () => {
    const row = storage.addRow(edit(1, { standsFor: Uint8Array.of(...cid(2), ...cid(3)) }));
    const other = storage.addRow(edit(4));
    assert.deepEqual([1, 2, 3, 4].map((number) => storage.rowOfChange(cid(number))), [row, row, row, other]);
    assert.equal(storage.rowOfChange(cid(5)), null);
    storage.dropRow(row.n);
    assert.deepEqual([1, 2].map((number) => storage.rowOfChange(cid(number))), [null, null]);
  });

  test("a row does not stand for what only lies across two ids", () => {
    const joined = Uint8Array.from({ length: 32 }, (_, at) => at);
    storage.addRow(edit(1, { standsFor: joined }));
    assert.equal(storage.rowOfChange(joined.slice(8, 24)), null);
    assert.notEqual(storage.rowOfChange(joined.slice(16, 32)), null);
  });

  test("waiting rows come in order from these collections behind a place up to a limit", () => {
    const given = Array.from({ length: 9 }, (_, number) => edit(number, { collection: 1 + (number % 3) }));
    const rows = given.map((row) => storage.addRow(row));
    storage.saveRow(replace(rows[3], { state: State.SEALED }));
    assert.deepEqual(numbers(storage.waiting([1, 2], 100)), [0, 1, 4, 6, 7]);
    assert.deepEqual(numbers(storage.waiting(new Set([2, 1]), 2)), [0, 1]);
    assert.deepEqual(numbers(storage.waiting([1, 2], 2, { after: rows[1].n })), [4, 6]);
    assert.deepEqual(storage.waiting([], 100), []);
    assert.deepEqual(storage.waiting([1], 0), []);
  });

  test("only waiting rows that free room are given when asked", () => {
    for (const kind of Object.values(Kind)) storage.addRow(edit(kind, { kind }));
    const found = storage.waiting([1], 100, { freeingOnly: true });
    assert.deepEqual(new Set(found.map((row) => row.kind)), FREEING_KINDS);
    assert.equal(storage.waiting([1], 2, { freeingOnly: true }).length, 2);
  });

  test("the backlog counts what is neither acked nor parked and parked rows apart", () => {
    assert.deepEqual({ ...storage.backlog() }, { unsynced: 0, parked: 0, oldestAt: 0 });
    for (const state of Object.values(State)) {
      storage.addRow(edit(state, { state, writtenAt: 10 - state }));
      storage.addRow(edit(10 + state, { collection: 2, state, writtenAt: 20 }));
    }
    assert.deepEqual({ ...storage.backlog() }, { unsynced: 6, parked: 2, oldestAt: 10 - State.CONFLICT });
  });

  // --- live sets and alarms ---

  test("a live set holds what was put last", () => {
    const live = storage.liveSet(1);
    const entries = [entry(1, 4, Kind.PUT), entry(2, 6, Kind.DELTA)];
    live.put(cid(50), [entry(3, 1, Kind.DELETE)]);
    live.put(cid(50), entries);
    live.put(cid(51), [entry(4, 7, Kind.PUT)]);
    assert.deepEqual(live.get(cid(50)), entries);
    assert.equal(live.count(), 3);
    live.put(cid(50), []);
    assert.deepEqual([live.get(cid(50)), live.count()], [[], 1]);
  });

  test("a live set answers in seq order", () => {
    storage.liveSet(1).put(cid(50), [entry(2, 6, Kind.DELTA), entry(1, 4, Kind.PUT)]);
    assert.deepEqual(storage.liveSet(1).get(cid(50)).map(({ seq }) => seq), [4, 6]);
  });

  test("what a live set was given or gave may be altered without altering it", () => {
    const live = storage.liveSet(1);
    const given = [entry(1, 4, Kind.PUT)];
    live.put(cid(50), given);
    given.push(entry(2, 6, Kind.DELTA));
    live.get(cid(50)).pop();
    assert.equal(live.get(cid(50)).length, 1);
  });

  test("a live set knows its tombstones up to a seq", () => {
    const live = storage.liveSet(1);
    for (const seq of [4, 5, 6]) live.put(cid(50 + seq), [entry(seq, seq, Kind.DELETE)]);
    live.put(cid(60), [entry(1, 1, Kind.PUT)]);
    const found = live.tombstones(5).sort(([a], [b]) => Buffer.compare(a, b));
    assert.deepEqual(found, [[cid(54), entry(4, 4, Kind.DELETE)], [cid(55), entry(5, 5, Kind.DELETE)]]);
  });

  test("live sets of two collections do not touch", () => {
    const [one, two] = [storage.liveSet(1), storage.liveSet(2)];
    one.put(cid(50), [entry(1, 1, Kind.DELETE)]);
    two.put(cid(50), [entry(2, 2, Kind.PUT)]);
    one.clear();
    assert.deepEqual([one.count(), one.get(cid(50)), one.tombstones(9)], [0, [], []]);
    assert.deepEqual(storage.liveSet(2).get(cid(50)), [entry(2, 2, Kind.PUT)]);
  });

  test("alarms come oldest first until they are cleared", () => {
    const given = [alarm("z", 1), alarm("a", 2), alarm("a", 2)];
    for (const one of given) storage.addAlarm(one);
    assert.deepEqual(storage.alarms(), given);
    storage.clearAlarms();
    assert.deepEqual(storage.alarms(), []);
    storage.addAlarm(given[1]);
    assert.deepEqual(storage.alarms(), [given[1]]);
  });

  // --- bytes ---

  test("a row does not keep the frame alive that its bytes were cut from", () => {
    const frame = new Uint8Array(1_000_000).fill(7);
    const cut = frame.subarray(100, 110);
    storage.saveRecord(1, replace(new RecordRow({ key: "a", value: cut }), { local: cut }));
    storage.saveDelta(1, "a", new DeltaRow(frame.subarray(0, 16), 1, cut));
    storage.addRow(edit(1, { sealed: cut, standsFor: frame.subarray(0, 16) }));
    storage.setSetting("name", Buffer.from("part of a pool"));
    storage.liveSet(1).put(frame.subarray(0, 16), [{ changeId: frame.subarray(0, 16), seq: 1, kind: Kind.DELETE }]);
    const [[recordId, tombstone]] = storage.liveSet(1).tombstones(1);
    const kept = [storage.record(1, "a"), ...storage.deltas(1, "a"), ...storage.rowsOf(1, "a"), tombstone];
    const found = kept.flatMap((row) => Object.values(row ?? {})).filter((value) => value instanceof Uint8Array);
    found.push(recordId, /** @type {Uint8Array} */ (storage.setting("name")));
    assert.ok(found.length > 10);
    for (const one of found) assert.equal(one.byteLength, one.buffer.byteLength, hex(one));
  });

  test("rows cannot be altered and have no other fields than theirs", () => {
    const row = storage.addRow(edit(1));
    assert.throws(() => Object.assign(row, { seq: 9 }), TypeError);
    assert.throws(() => Object.assign(replace(row, { seq: 9 }), { seq: 10 }), TypeError);
    assert.throws(() => replace(row, /** @type {any} */ ({ sequence: 9 })), TypeError);
  });
}
