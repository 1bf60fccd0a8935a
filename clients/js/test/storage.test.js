/** Both keepers of a device's storage sit the exam, and IndexedDB answers for what only a database can do wrong. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { IDBFactory, IDBKeyRange } from "fake-indexeddb";

import {
  DeltaRow,
  MemoryStorage,
  RecordRow,
  State,
  StorageFailed,
  StorageForeign,
  StorageGone,
  StorageTaken,
  StorageTooNew,
  replace,
} from "../src/storage.js";
import { IndexedDbStorage, SCHEMA_VERSION } from "../src/storage/indexeddb.js";
import { Journal } from "../src/storage/journal.js";
import { Kind } from "../src/terms.js";
import { Seeded, always } from "./seeded.js";
import { Stop, bytes, changeEverything, cid, edit, everything, examineStorage, fill, stop } from "./storage_exam.js";

const NAME = "notes";

/** A promise with its handles outside. */
function pledge() {
  /** @type {{resolve: (value?: any) => void, reject: (error: unknown) => void}} */
  const handles = { resolve: () => {}, reject: () => {} };
  const promise = new Promise((resolve, reject) => Object.assign(handles, { resolve, reject }));
  return { promise, ...handles };
}

/** Until the promises that are under way have gone as far as they can. */
function aWhile() {
  return new Promise((resolve) => setTimeout(resolve, 20));
}

/** All that is held, table by table, in any order made one. */
function dump(storage) {
  const tables = Object.entries(storage._tables).map(([name, { rows }]) => {
    const kept = [...rows].filter(([id]) => id !== "holder").sort(([a], [b]) => (a < b ? -1 : 1));
    return [name, kept];
  });
  return Object.fromEntries(tables);
}

// --- memory ----------------------------------------------------------------------------------

describe("MemoryStorage", () => examineStorage({ make: async () => new MemoryStorage() }));

// --- the journal -----------------------------------------------------------------------------

/** A journal whose commits end when the test says so. */
function slowJournal() {
  const batches = /** @type {{sets: any[], resolve: () => void, reject: (error: unknown) => void}[]} */ ([]);
  const failures = /** @type {Error[]} */ ([]);
  const commit = (sets) => {
    const { promise, resolve, reject } = pledge();
    batches.push({ sets, resolve, reject });
    return promise;
  };
  return { journal: new Journal(commit, (failure) => failures.push(failure)), batches, failures };
}

function set(name) {
  return /** @type {any} */ ([{ table: "settings", key: name, held: { name, value: bytes(name) } }]);
}

function namesIn(batches) {
  return batches.map(({ sets }) => sets.map(([{ key }]) => key).join(""));
}

describe("the journal", () => {
  test("what is added in one turn is one batch and what is added meanwhile is the next", async () => {
    const { journal, batches } = slowJournal();
    for (const name of ["a", "b"]) journal.add(set(name));
    await aWhile();
    for (const name of ["c", "d"]) journal.add(set(name));
    await aWhile();
    assert.deepEqual(namesIn(batches), ["ab"]);
    batches[0].resolve();
    await aWhile();
    assert.deepEqual(namesIn(batches), ["ab", "cd"]);
  });

  test("it is durable when the batch that holds it is and not before", async () => {
    const { journal, batches } = slowJournal();
    const told = /** @type {string[]} */ ([]);
    journal.add(set("a"));
    journal.durable().then(() => told.push("a"));
    await aWhile();
    journal.add(set("b"));
    journal.durable().then(() => told.push("b"));
    await aWhile();
    assert.deepEqual([told.join(""), journal.pending], ["", 2]);
    batches[0].resolve();
    await aWhile();
    assert.deepEqual([told.join(""), journal.pending], ["a", 1]);
    batches[1].resolve();
    await aWhile();
    assert.deepEqual([told.join(""), journal.pending], ["ab", 0]);
    await journal.durable();
  });

  test("after a failure nothing is committed or promised until it is tried again in the same order", async () => {
    const { journal, batches, failures } = slowJournal();
    journal.add(set("a"));
    const first = journal.durable();
    await aWhile();
    journal.add(set("b"));
    const second = journal.durable();
    const failure = new StorageFailed("full");
    batches[0].reject(failure);
    await assert.rejects(first, failure);
    await assert.rejects(second, failure);
    await assert.rejects(journal.durable(), failure);
    journal.add(set("c"));
    await aWhile();
    assert.deepEqual([namesIn(batches), failures, journal.pending], [["a"], [failure], 3]);
    const again = journal.retry();
    await aWhile();
    assert.deepEqual(namesIn(batches), ["a", "abc"]);
    batches[1].resolve();
    await again;
    assert.deepEqual([journal.failure, journal.pending], [null, 0]);
  });

  test("a final failure stays whatever comes after it", async () => {
    const { journal, batches, failures } = slowJournal();
    journal.add(set("a"));
    await aWhile();
    const failure = new StorageTaken("taken", { final: true });
    journal.fail(failure);
    batches[0].reject(new StorageFailed("later"));
    await aWhile();
    await assert.rejects(journal.retry(), failure);
    assert.deepEqual([journal.failure, failures, batches.length], [failure, [failure], 1]);
  });
});

// --- IndexedDB -------------------------------------------------------------------------------

/** A database factory whose transactions and openings the test can watch and spoil. */
class SpoiltFactory {
  constructor() {
    this.real = new IDBFactory();
    this.transactions = /** @type {{mode: string, durability: string, stores: string[]}[]} */ ([]);
    this.connections = /** @type {any[]} */ ([]);
    this.openings = 0;
    /** @type {(connection: any) => void} called before each transaction; may throw */
    this.beforeTransaction = () => {};
    /** @type {(transaction: any) => void} */
    this.afterTransaction = () => {};
  }

  open(name, version) {
    this.openings += 1;
    const request = this.real.open(name, version);
    request.addEventListener("success", () => this._watch(request.result));
    return request;
  }

  _watch(connection) {
    this.connections.push(connection);
    const begin = connection.transaction.bind(connection);
    connection.transaction = (stores, mode, options) => {
      this.beforeTransaction(connection);
      const transaction = begin(stores, mode, options);
      this.transactions.push({ mode, durability: options?.durability, stores: [...stores].sort() });
      this.afterTransaction(transaction);
      return transaction;
    };
  }
}

/** @param {any} [factory] */
function open(factory = new IDBFactory(), options = {}) {
  return IndexedDbStorage.open(NAME, { indexedDB: factory, IDBKeyRange, sleep: async () => {}, ...options });
}

/** A connection of another program to the same database. */
function otherProgram(factory, version, upgrade = (_database) => {}) {
  return new Promise((resolve, reject) => {
    const request = factory.open(NAME, version);
    request.onupgradeneeded = () => upgrade(request.result);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function failure(name) {
  return Object.assign(new Error(`spoilt: ${name}`), { name });
}

describe("IndexedDbStorage", () => {
  let factory = new IDBFactory();
  examineStorage({
    make: () => {
      factory = new IDBFactory();
      return open(factory);
    },
    finish: async (storage) => {
      await storage.committed();
      const again = await open(factory);
      assert.deepEqual(dump(again), dump(storage), "after reopening all is as it was");
      await again.close();
    },
  });
});

describe("the database", () => {
  test("everything is there after reopening", async () => {
    const factory = new IDBFactory();
    const storage = await open(factory);
    fill(storage);
    storage.transaction(() => changeEverything(storage));
    const before = everything(storage);
    await storage.close();
    const again = await open(factory);
    assert.deepEqual(everything(again), before);
    assert.ok(again.records(1)[0] instanceof RecordRow);
  });

  test("a key that no script can read still signs after reopening", async () => {
    const factory = new IDBFactory();
    const { privateKey } = /** @type {any} */ (await crypto.subtle.generateKey({ name: "Ed25519" }, false, ["sign"]));
    const storage = await open(factory);
    storage.setSetting("device_key", privateKey);
    await storage.close();
    const kept = /** @type {any} */ ((await open(factory)).setting("device_key"));
    const sign = (/** @type {CryptoKey} */ key) => crypto.subtle.sign("Ed25519", key, bytes("a"));
    const signatures = await Promise.all([sign(kept), sign(privateKey)]);
    assert.deepEqual(signatures[0], signatures[1]);
    assert.equal(kept.extractable, false);
  });

  test("every transaction is flushed to the disk and only the tables it wrote are locked", async () => {
    const factory = new SpoiltFactory();
    const storage = await open(factory);
    factory.transactions = [];
    storage.setSetting("name", bytes("value"));
    await storage.committed();
    storage.transaction(() => fill(storage));
    await storage.committed();
    const stores = ["alarms", "collections", "deltas", "live", "meta", "outbox", "records", "settings"];
    assert.deepEqual(factory.transactions, [
      { mode: "readwrite", durability: "strict", stores: ["meta", "settings"] },
      { mode: "readwrite", durability: "strict", stores },
    ]);
  });

  test("transactions that end while another is being committed share the next one", async () => {
    const factory = new SpoiltFactory();
    const storage = await open(factory);
    factory.transactions = [];
    storage.setSetting("first", bytes("value"));
    while (factory.transactions.length === 0) await null;
    for (let n = 0; n < 100; n++) storage.saveRecord(1, new RecordRow({ key: `${n}` }));
    assert.equal(storage.pending, 101);
    await storage.committed();
    assert.equal(factory.transactions.length, 2);
  });

  test("a transaction that was rolled back reaches the database in no part", async () => {
    const factory = new SpoiltFactory();
    const storage = await open(factory);
    factory.transactions = [];
    const work = () => {
      fill(storage);
      stop();
    };
    assert.throws(() => storage.transaction(work), Stop);
    await storage.committed();
    assert.equal(factory.transactions.length, 0);
  });

  test("a transaction that changes nothing reaches the database in no part", async () => {
    const factory = new SpoiltFactory();
    const storage = await open(factory);
    factory.transactions = [];
    storage.transaction(() => storage.setting("name"));
    storage.dropRow(7);
    storage.dropRecord(1, "never there");
    storage.setSetting("never set", null);
    assert.equal(storage.pending, 0);
    await storage.committed();
    assert.equal(factory.transactions.length, 0);
  });

  test("a place is not given again after reopening", async () => {
    const factory = new IDBFactory();
    const storage = await open(factory);
    fill(storage);
    const [row] = storage.rowsOf(1, "a");
    storage.dropRow(row.n);
    await storage.close();
    const again = await open(factory);
    assert.ok(again.addRow(row).n > row.n);
  });

  test("more rows than are loaded at once come back and the progress is told to its end", async () => {
    const factory = new IDBFactory();
    const storage = await open(factory);
    storage.transaction(() => {
      for (let n = 0; n < 2_500; n++) storage.saveRecord(1, new RecordRow({ key: `${n}`, value: bytes("v") }));
      for (let n = 0; n < 1_000; n++) storage.saveDelta(1, "0", new DeltaRow(cid(n), n, bytes("v")));
      for (let n = 0; n < 1_001; n++) storage.liveSet(1).put(cid(n), [{ changeId: cid(n), seq: n, kind: Kind.PUT }]);
    });
    await storage.close();
    const told = /** @type {any[]} */ ([]);
    const again = await open(factory, { onProgress: (progress) => told.push(progress) });
    assert.deepEqual(dump(again), dump(storage));
    const total = 4_502; // one is the mark of the holder
    assert.deepEqual(told.at(-1), { done: total, total });
    assert.ok(told.length > 5);
    assert.ok(told.every(({ done }, at) => at === 0 || done > told[at - 1].done));
  });

  test("a database of a newer program is refused and left as it is", async () => {
    const factory = new IDBFactory();
    const storage = await open(factory);
    storage.setSetting("name", bytes("kept"));
    await storage.close();
    (await otherProgram(factory, SCHEMA_VERSION + 1)).close();
    await assert.rejects(open(factory), StorageTooNew);
    await assert.rejects(open(factory), /newer version/);
    const connection = await otherProgram(factory, SCHEMA_VERSION + 1);
    const kept = connection.transaction("settings").objectStore("settings").getAll();
    await new Promise((resolve) => (kept.onsuccess = resolve));
    assert.deepEqual(kept.result, [{ name: "name", value: bytes("kept") }]);
  });

  test("a database that is no storage is refused and left as it is", async () => {
    const factory = new IDBFactory();
    const letter = (database) => database.createObjectStore("letters");
    (await otherProgram(factory, SCHEMA_VERSION, letter)).close();
    await assert.rejects(open(factory), StorageForeign);
    const connection = await otherProgram(factory, SCHEMA_VERSION);
    assert.deepEqual([...connection.objectStoreNames], ["letters"]);
  });

  test("a newer program gets the database once all is written and this one takes nothing more", async () => {
    const factory = new IDBFactory();
    const failures = /** @type {Error[]} */ ([]);
    const storage = await open(factory, { onFailure: (error) => failures.push(error) });
    storage.setSetting("name", bytes("kept"));
    const connection = await otherProgram(factory, SCHEMA_VERSION + 1);
    const kept = connection.transaction("settings").objectStore("settings").getAll();
    await new Promise((resolve) => (kept.onsuccess = resolve));
    assert.deepEqual(kept.result, [{ name: "name", value: bytes("kept") }]);
    assert.throws(() => storage.setSetting("name", bytes("lost")), StorageTooNew);
    await assert.rejects(storage.committed(), StorageTooNew);
    await assert.rejects(storage.retry(), StorageTooNew);
    assert.deepEqual(storage.setting("name"), bytes("kept"));
    assert.ok(failures.length === 1 && failures[0] instanceof StorageTooNew);
  });

  test("what waits in line is written before a newer program gets the database and nothing joins it", async () => {
    const factory = new SpoiltFactory();
    const storage = await open(factory);
    factory.transactions = [];
    storage.setSetting("first", bytes("kept"));
    while (factory.transactions.length === 0) await null;
    storage.setSetting("second", bytes("kept"));
    const written = storage.committed();
    factory.connections[0].onversionchange({ newVersion: SCHEMA_VERSION + 1 });
    assert.throws(() => storage.setSetting("third", bytes("lost")), StorageTooNew);
    await written;
    await aWhile();
    await assert.rejects(storage.committed(), StorageTooNew);
    const again = await open(factory);
    assert.deepEqual(["first", "second"].map((name) => again.setting(name)), [bytes("kept"), bytes("kept")]);
  });

  test("an older program that does not let go is told of and waited for", async () => {
    const factory = new IDBFactory();
    const storage = await open(factory);
    fill(storage);
    await storage.close();
    const older = await otherProgram(factory, SCHEMA_VERSION);
    const newer = { open: (name) => factory.open(name, SCHEMA_VERSION + 1) };
    const told = pledge();
    const opening = open(newer, { onBlocked: told.resolve });
    await told.promise;
    older.close();
    assert.deepEqual(dump(await opening), dump(storage));
  });

  test("a database that was deleted is not made anew from half a memory", async () => {
    const factory = new IDBFactory();
    const storage = await open(factory);
    fill(storage);
    await storage.committed();
    await new Promise((resolve) => (factory.deleteDatabase(NAME).onsuccess = resolve));
    assert.throws(() => storage.setSetting("name", bytes("lost")), StorageGone);
    await assert.rejects(storage.committed(), StorageGone);
    assert.deepEqual(await factory.databases(), []);
  });

  test("a database that was deleted without a word is not made anew either", async () => {
    const factory = new SpoiltFactory();
    const storage = await open(factory);
    fill(storage);
    await storage.committed();
    factory.connections[0].close(); // as a connection that was lost: no one is told
    factory.connections[0].onversionchange = null;
    await new Promise((resolve) => (factory.real.deleteDatabase(NAME).onsuccess = resolve));
    storage.setSetting("name", bytes("lost"));
    await assert.rejects(storage.committed(), StorageGone);
    assert.deepEqual(await factory.real.databases(), []);
  });

  test("a connection that is known to be lost is not tried once more", async () => {
    const factory = new SpoiltFactory();
    const pauses = /** @type {number[]} */ ([]);
    const storage = await open(factory, { sleep: async (ms) => void pauses.push(ms) });
    const [connection] = factory.connections;
    connection.close();
    connection.onclose();
    storage.setSetting("name", bytes("kept"));
    await storage.committed();
    assert.deepEqual([pauses, factory.openings], [[], 2]);
  });

  for (const how of ["the connection was closed", "the next transaction cannot begin", "the next transaction aborts"]) {
    test(`it is opened again and nothing is lost when ${how}`, async () => {
      const factory = new SpoiltFactory();
      const storage = await open(factory);
      fill(storage);
      await storage.committed();
      let times = 2;
      const [connection] = factory.connections;
      if (how.includes("closed")) {
        connection.close();
      } else if (how.includes("begin")) {
        factory.beforeTransaction = () => {
          if (times-- > 0) throw failure("InvalidStateError");
        };
      } else {
        factory.afterTransaction = (transaction) => {
          if (times-- > 0) transaction.commit = () => transaction.abort();
        };
      }
      storage.transaction(() => changeEverything(storage));
      await storage.committed();
      assert.ok(factory.openings > 1);
      assert.equal(storage.failure, null);
      const again = await open(factory);
      assert.deepEqual(dump(again), dump(storage));
    });
  }

  test("a database that stays away is a failure and trying again later loses nothing", async () => {
    const factory = new SpoiltFactory();
    const failures = /** @type {Error[]} */ ([]);
    const pauses = /** @type {number[]} */ ([]);
    const options = { onFailure: (error) => failures.push(error), sleep: async (ms) => void pauses.push(ms) };
    const storage = await open(factory, options);
    fill(storage);
    await storage.committed();
    factory.beforeTransaction = () => {
      throw failure("UnknownError");
    };
    storage.setSetting("name", bytes("new"));
    await assert.rejects(storage.committed(), (error) => error instanceof StorageFailed && !error.final);
    assert.deepEqual(pauses, [0, 100, 1_000]);
    assert.equal(failures.length, 1);
    assert.equal(storage.failure, failures[0]);
    assert.throws(() => storage.setSetting("name", bytes("later")), StorageFailed);
    assert.throws(() => storage.transaction(() => 7), StorageFailed);
    assert.deepEqual(storage.setting("name"), bytes("new"), "what the person sees is still there to read");
    factory.beforeTransaction = () => {};
    await storage.retry();
    storage.setSetting("other", bytes("newer"));
    await storage.committed();
    const again = await open(factory);
    assert.deepEqual(dump(again), dump(storage));
    assert.deepEqual(again.setting("name"), bytes("new"));
  });

  test("a full disk is said in words at once", async () => {
    const factory = new SpoiltFactory();
    const storage = await open(factory);
    factory.beforeTransaction = () => {
      throw failure("QuotaExceededError");
    };
    storage.setSetting("name", bytes("value"));
    await assert.rejects(storage.committed(), /no room left/);
    assert.equal(factory.openings, 1);
  });

  test("what could not be kept is said when closing", async () => {
    const factory = new SpoiltFactory();
    const storage = await open(factory);
    factory.beforeTransaction = () => {
      throw failure("QuotaExceededError");
    };
    storage.setSetting("name", bytes("value"));
    await assert.rejects(storage.close(), StorageFailed);
  });

  test("closing waits until all is written", async () => {
    const factory = new IDBFactory();
    const storage = await open(factory);
    fill(storage);
    await storage.close();
    assert.equal(storage.pending, 0);
    assert.deepEqual(dump(await open(factory)), dump(storage));
  });

  test("a tab that wakes up late cannot write over its successor", async () => {
    const factory = new IDBFactory();
    const late = await open(factory);
    fill(late);
    await late.committed();
    const successor = await open(factory);
    assert.deepEqual(dump(successor), dump(late));
    late.setSetting("name", bytes("late"));
    successor.setSetting("name", bytes("kept"));
    await assert.rejects(late.committed(), (error) => error instanceof StorageTaken && error.final);
    await successor.committed();
    assert.throws(() => late.setSetting("name", bytes("late")), StorageTaken);
    assert.deepEqual((await open(factory)).setting("name"), bytes("kept"));
  });

  test("what a former holder wrote before it was followed is seen by its successor", async () => {
    const factory = new IDBFactory();
    const former = await open(factory);
    for (let n = 0; n < 50; n++) former.saveRecord(1, new RecordRow({ key: `${n}` }));
    const [successor] = await Promise.all([open(factory), former.committed().catch(() => {})]);
    const kept = former.failure ? 0 : 50;
    assert.equal(successor.records(1).length, kept);
  });
});

// --- any order -------------------------------------------------------------------------------

/** The promise once more, as plainly as can be: flat lists, searched from end to end. */
class PlainModel {
  constructor() {
    this.rows = /** @type {any[]} */ ([]); // outbox
    this.held = /** @type {any[]} */ ([]); // records
    this.added = /** @type {any[]} */ ([]); // deltas
    this.live = /** @type {any[]} */ ([]);
  }

  copy() {
    return Object.assign(new PlainModel(), {
      rows: [...this.rows],
      held: [...this.held],
      added: [...this.added],
      live: [...this.live],
    });
  }
}

const SAME = (a, b) => Buffer.compare(a, b) === 0;
const KEYS = ["a", "b", "a b", "é", "\u{1f600}", "\uffee"];
const BY_KEY = (a, b) => Buffer.compare(Buffer.from(a.row.key), Buffer.from(b.row.key));

/** One random write to both. */
const WRITES = {
  saveRecord(storage, model, random) {
    const [n, key] = [random.below(1, 3), random.choice(KEYS)];
    const value = random.choice([null, random.bytes(3)]);
    const row = new RecordRow({ key, value, changeId: cid(random.below(8)), seq: random.below(4) });
    storage.saveRecord(n, row);
    model.held = model.held.filter((one) => one.n !== n || one.row.key !== key);
    model.held.push({ n, row });
  },
  dropRecord(storage, model, random) {
    const [n, key] = [random.below(1, 3), random.choice(KEYS)];
    storage.dropRecord(n, key);
    model.held = model.held.filter((one) => one.n !== n || one.row.key !== key);
    model.added = model.added.filter((one) => one.n !== n || one.key !== key);
  },
  saveDelta(storage, model, random) {
    const [n, key] = [random.below(1, 3), random.choice(KEYS)];
    const delta = new DeltaRow(cid(random.below(5)), random.below(3), random.bytes(2));
    storage.saveDelta(n, key, delta);
    const other = (one) => one.n !== n || one.key !== key || !SAME(one.delta.changeId, delta.changeId);
    model.added = [...model.added.filter(other), { n, key, delta }];
  },
  dropDeltas(storage, model, random) {
    const [n, key, confirmedOnly] = [random.below(1, 3), random.choice(KEYS), random.choice([true, false])];
    storage.dropDeltas(n, key, { confirmedOnly });
    const goes = (one) => one.n === n && one.key === key && (one.delta.seq > 0 || !confirmedOnly);
    model.added = model.added.filter((one) => !goes(one));
  },
  addRow(storage, model, random) {
    const standsFor = Uint8Array.from(random.list(2, () => [...cid(random.below(6, 12))]).flat());
    const fields = { collection: random.below(1, 3), key: random.choice(KEYS), state: random.below(5) };
    model.rows.push(storage.addRow(edit(random.below(8), { ...fields, standsFor, writtenAt: random.below(9) })));
  },
  saveRow(storage, model, random) {
    if (model.rows.length === 0) return;
    const at = random.below(model.rows.length);
    model.rows[at] = replace(model.rows[at], { state: random.below(5), changeId: cid(random.below(8)) });
    storage.saveRow(model.rows[at]);
  },
  dropRow(storage, model, random) {
    if (model.rows.length === 0) return;
    const [row] = model.rows.splice(random.below(model.rows.length), 1);
    storage.dropRow(row.n);
  },
  putLive(storage, model, random) {
    const [n, recordId] = [random.below(1, 3), cid(random.below(5))];
    const entries = random.list(2, () => ({ changeId: cid(random.below(8)), seq: random.below(9), kind: Kind.DELETE }));
    storage.liveSet(n).put(recordId, entries);
    model.live = model.live.filter((one) => one.n !== n || !SAME(one.recordId, recordId));
    if (entries.length > 0) model.live.push({ n, recordId, entries });
  },
  clearLive(storage, model, random) {
    const n = random.below(1, 3);
    storage.liveSet(n).clear();
    model.live = model.live.filter((one) => one.n !== n);
  },
};

/** Every question, answered by the storage and by the model. */
function compareWithModel(storage, model) {
  for (const n of [1, 2]) {
    const records = model.held.filter((one) => one.n === n).sort(BY_KEY);
    assert.deepEqual(storage.records(n), records.map(({ row }) => row));
    for (const key of KEYS) {
      assert.deepEqual(storage.record(n, key), records.find(({ row }) => row.key === key)?.row ?? null);
      assert.deepEqual(storage.rowsOf(n, key), model.rows.filter((row) => row.collection === n && row.key === key));
      const deltas = model.added.filter((one) => one.n === n && one.key === key).map(({ delta }) => delta);
      deltas.sort((a, b) => a.seq - b.seq || Buffer.compare(a.changeId, b.changeId));
      assert.deepEqual(storage.deltas(n, key), deltas);
    }
    for (const state of Object.values(State)) {
      const rows = model.rows.filter((row) => row.collection === n && row.state === state);
      assert.deepEqual(storage.rowsIn(n, state), rows);
    }
    const live = model.live.filter((one) => one.n === n);
    assert.equal(storage.liveSet(n).count(), live.reduce((sum, { entries }) => sum + entries.length, 0));
    const graves = live.flatMap(({ entries }) => entries).filter(({ seq }) => seq <= 4);
    assert.equal(storage.liveSet(n).tombstones(4).length, graves.length);
  }
  const waiting = model.rows.filter((row) => row.state === State.WAITING);
  assert.deepEqual(storage.waiting([2, 1], 3), waiting.slice(0, 3));
  const unsynced = model.rows.filter(({ state }) => [State.WAITING, State.SEALED, State.CONFLICT].includes(state));
  const oldestAt = unsynced.length ? Math.min(...unsynced.map((row) => row.writtenAt)) : 0;
  const parked = model.rows.filter(({ state }) => state === State.PARKED).length;
  assert.deepEqual({ ...storage.backlog() }, { unsynced: unsynced.length, parked, oldestAt });
  for (let number = 0; number < 13; number++) {
    const places = model.held.filter(({ row }) => row.seq > 0 && SAME(row.changeId, cid(number)));
    const found = storage.findChange(cid(number));
    assert.equal(found !== null, places.length > 0);
    assert.ok(!found || places.some(({ n, row }) => n === found[0] && row.seq === found[1]));
    const own = model.rows.find((row) => SAME(row.changeId, cid(number)));
    const folded = model.rows.find((row) => Buffer.from(row.standsFor).includes(cid(number)));
    assert.deepEqual(storage.rowOfChange(cid(number)), own ?? folded ?? null);
  }
}

/** Random transactions, some of them taken back; `after` is called after each. */
function live(storage, random, transactions, after) {
  let model = new PlainModel();
  for (let i = 0; i < transactions; i++) {
    if (storage.failure) return;
    const next = model.copy();
    const fails = random.below(4) === 0;
    const work = () => {
      for (let n = random.below(1, 8); n > 0; n--) WRITES[random.choice(Object.keys(WRITES))](storage, next, random);
      if (fails) stop();
    };
    if (fails) assert.throws(() => storage.transaction(work), Stop);
    else storage.transaction(work);
    if (!fails) model = next;
    after(model);
  }
}

/** Hands each write-set to the test. */
class RecordingStorage extends MemoryStorage {
  /** @param {any[]} [kept] write-sets to begin with, in order */
  constructor(kept = []) {
    super();
    this.writeSets = /** @type {any[]} */ ([]);
    const rows = new Map();
    for (const { table, key, held } of kept.flat()) rows.set(JSON.stringify([table, key]), { table, held });
    for (const { table, held } of rows.values()) if (held !== null) this._load(table, structuredClone(held));
  }

  _keep(writes) {
    this.writeSets.push(writes);
  }
}

describe("in any order", () => {
  test("random transactions give what the model gives", () => {
    always(150, (random) => {
      const storage = new MemoryStorage();
      live(storage, random, 12, (model) => compareWithModel(storage, model));
    });
  });

  test("a journal cut after any write-set leaves the state after that transaction", () => {
    always(40, (random) => {
      const storage = new RecordingStorage();
      const states = [dump(storage)];
      live(storage, random, 12, () => {
        if (storage.writeSets.length === states.length) states.push(dump(storage));
        assert.ok(storage.writeSets.length < states.length, "one transaction, one write-set");
        assert.deepEqual(dump(storage), states.at(-1), "a transaction that was taken back leaves nothing");
      });
      for (const [kept, state] of states.entries()) {
        assert.deepEqual(dump(new RecordingStorage(storage.writeSets.slice(0, kept))), state);
      }
    });
  });

  for (const cut of ["before", "after"]) {
    test(`a crash ${cut} any commit leaves whole transactions and all that were promised`, async () => {
      for (let seed = 0; seed < 25; seed++) await crash(new Seeded(seed), cut);
    });
  }
});

/**
 * Write until the database dies: from that commit on nothing gets through.
 *
 * @param {Seeded} random
 * @param {string} cut whether the commit during which it dies was still done
 */
async function crash(random, cut) {
  const factory = new SpoiltFactory();
  const storage = await open(factory);
  let commits = random.below(6);
  factory.beforeTransaction = () => {
    if (commits-- <= 0 && cut === "before") throw failure("UnknownError");
  };
  factory.afterTransaction = (transaction) => {
    if (commits < 0 && cut === "after") doneButNotTold(transaction);
  };
  const states = [dump(storage)];
  let promised = 0;
  const turns = /** @type {number[]} */ (random.list(12, () => random.below(3)));
  for (const turn of [...turns, 1]) {
    live(storage, random, 1 + turn, () => states.push(dump(storage)));
    const reached = states.length - 1;
    if (turn === 0) await storage.committed().then(() => (promised = reached), () => {});
    else for (let i = 0; i < turn; i++) await null;
  }
  await storage.committed().then(() => (promised = states.length - 1), () => {});
  factory.beforeTransaction = factory.afterTransaction = () => {};
  const found = dump(await open(factory));
  const matches = states.flatMap((state, at) => (isSame(state, found) ? [at] : []));
  assert.ok(matches.length > 0, "a part of a transaction is there");
  assert.ok(/** @type {number} */ (matches.at(-1)) >= promised, `${matches} are there and ${promised} were promised`);
}

/** Makes the transaction take place, and look as if it had not. */
function doneButNotTold(transaction) {
  let told = () => {};
  Object.defineProperty(transaction, "oncomplete", { set: () => {} });
  Object.defineProperty(transaction, "onabort", { set: (listener) => (told = listener) });
  transaction.addEventListener("complete", () => told());
}

function isSame(one, other) {
  try {
    assert.deepEqual(one, other);
    return true;
  } catch {
    return false;
  }
}
