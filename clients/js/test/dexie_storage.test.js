/** A device's storage in the app's own Dexie database sits the exam of all keepers, and answers for what is its own. */

import "fake-indexeddb/auto";

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { Dexie } from "dexie";
import { IDBFactory, IDBKeyRange } from "fake-indexeddb";

import { installCapture } from "../src/dexie/capture.js";
import { installSchema } from "../src/dexie/schema.js";
import { DexieStorage, FORMAT } from "../src/dexie/storage.js";
import {
  RecordRow,
  StorageFailed,
  StorageForeign,
  StorageGone,
  StorageTaken,
  StorageTooNew,
} from "../src/storage.js";
import { Seeded } from "./seeded.js";
import { bytes, changeEverything, edit, examineStorage, fill } from "./storage_exam.js";

console.warn = () => {}; // Dexie says there what the tests bring about

/** @type {Dexie[]} */
let opened = [];

/** @param {any} [factory] */
function database(factory = new IDBFactory(), { version = 1, tables = { notes: {} }, stores = { notes: "id" } } = {}) {
  const db = new Dexie("notes", { indexedDB: factory, IDBKeyRange, addons: [] });
  installSchema(db, { tables });
  installCapture(db, { tables });
  db.version(version).stores(stores);
  opened.push(db);
  return db;
}

async function open(factory, options = {}) {
  return DexieStorage.open(database(factory), options);
}

function closeAll() {
  for (const db of opened) db.close();
  opened = [];
}

/** All that is held, table by table, in any order made one. */
function dump(storage) {
  const own = new Set(["holder", "format", "mirror", "capturing"]);
  const tables = Object.entries(storage._tables).map(([name, { rows }]) => {
    return [name, [...rows].filter(([id]) => !own.has(id)).sort(([a], [b]) => (a < b ? -1 : 1))];
  });
  return Object.fromEntries(tables);
}

/** @param {string} name */
function failure(name) {
  return Object.assign(new Error(name), { name });
}

/** The transaction is given up when something has been written. @param {any} transaction */
function abortedAtTheEnd(transaction, error = null) {
  const open = transaction.objectStore.bind(transaction);
  transaction.objectStore = (name) => {
    const store = open(name);
    const put = store.put.bind(store);
    store.put = (value) => {
      const request = put(value);
      request.addEventListener("success", () => {
        if (error) Object.defineProperty(transaction, "error", { value: error });
        try {
          transaction.abort();
        } catch {
          // by an earlier request
        }
      });
      return request;
    };
    return store;
  };
}

/** A database whose transactions do what the test wants. */
class SpoiltFactory extends IDBFactory {
  constructor() {
    super();
    this.openings = 0;
    this.beforeTransaction = (/** @type {string[]} */ _tables) => {};
    this.afterTransaction = (/** @type {any} */ _transaction) => {};
    /** @type {any[]} */
    this.connections = [];
  }

  open(...args) {
    const request = super.open(...args);
    this.openings += 1;
    request.addEventListener("success", () => {
      const connection = request.result;
      this.connections.push(connection);
      const begin = connection.transaction.bind(connection);
      connection.transaction = (tables, mode, options) => {
        const engine = [tables].flat().includes("$hub_settings") && mode === "readwrite";
        if (engine) this.beforeTransaction(tables);
        const transaction = begin(tables, mode, options);
        if (engine) this.afterTransaction(transaction, options);
        return transaction;
      };
    });
    return request;
  }
}

describe("DexieStorage", () => {
  const finish = async (storage) => {
    if (storage._closed || storage.failure) return;
    await storage.committed();
    const factory = storage._db._deps.indexedDB;
    const again = await DexieStorage.open(database(factory));
    assert.deepEqual(dump(again), dump(storage), "what is in memory is in the database");
    await again.close();
    storage.close = async () => closeAll(); // the other one has taken over
  };
  examineStorage({ make: async () => open(new IDBFactory()), finish });
});

describe("a Dexie database that misbehaves", () => {
  test("what was kept is there again", async () => {
    const factory = new IDBFactory();
    const storage = await open(factory);
    fill(storage);
    storage.transaction(() => changeEverything(storage));
    await storage.committed();
    assert.deepEqual(dump(await open(factory)), dump(storage));
    closeAll();
  });

  test("rows are loaded in pieces and the progress is told", async () => {
    const factory = new IDBFactory();
    const storage = await open(factory);
    storage.transaction(() => {
      for (let n = 0; n < 2_500; n++) storage.saveRecord(1 + (n % 2), new RecordRow({ key: `k${n}`, seq: n }));
    });
    await storage.close();
    const told = [];
    const again = await open(factory, { onProgress: (progress) => told.push(progress) });
    assert.equal(again.records(1).length, 1_250);
    assert.deepEqual(dump(again), dump(storage));
    assert.ok(told.length > 2);
    assert.equal(told.at(-1).done, told.at(-1).total);
    closeAll();
  });

  test("what is committed is asked to be on the disk", async () => {
    const factory = new SpoiltFactory();
    const storage = await open(factory);
    const asked = [];
    factory.afterTransaction = (_transaction, options) => asked.push(options?.durability);
    storage.setSetting("name", bytes("value"));
    await storage.committed();
    assert.deepEqual(asked, ["strict"]);
    closeAll();
  });

  for (const how of ["closed under way", "fails to begin", "fails to commit"]) {
    test(`a connection that is lost is opened again and nothing is lost (${how})`, async () => {
      const factory = new SpoiltFactory();
      const storage = await open(factory, { sleep: async () => {} });
      fill(storage);
      await storage.committed();
      let times = 2;
      if (how.includes("closed")) {
        factory.connections[0].close();
      } else if (how.includes("begin")) {
        factory.beforeTransaction = () => {
          if (times-- > 0) throw failure("UnknownError");
        };
      } else {
        factory.afterTransaction = (transaction) => {
          if (times-- > 0) abortedAtTheEnd(transaction);
        };
      }
      storage.transaction(() => changeEverything(storage));
      await storage.committed();
      assert.equal(storage.failure, null);
      assert.deepEqual(dump(await open(factory)), dump(storage));
      closeAll();
    });
  }

  test("a database that stays away is a failure and trying again later loses nothing", async () => {
    const factory = new SpoiltFactory();
    const failures = [];
    const pauses = [];
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
    assert.throws(() => storage.setSetting("name", bytes("later")), StorageFailed);
    assert.deepEqual(storage.setting("name"), bytes("new"), "what the person sees is still there to read");
    factory.beforeTransaction = () => {};
    await storage.retry();
    storage.setSetting("other", bytes("newer"));
    await storage.committed();
    assert.deepEqual(dump(await open(factory)), dump(storage));
    closeAll();
  });

  test("a database the app closed is a failure until the app opens it again", async () => {
    const storage = await open(new IDBFactory(), { sleep: async () => {} });
    storage._db.close();
    storage.setSetting("name", bytes("kept"));
    await assert.rejects(storage.committed(), (error) => error instanceof StorageFailed && !error.final);
    await storage._db.open();
    await storage.retry();
    assert.deepEqual((await open(storage._db._deps.indexedDB)).setting("name"), bytes("kept"));
    closeAll();
  });

  test("a full disk is said in words at once", async () => {
    const factory = new SpoiltFactory();
    const storage = await open(factory);
    factory.beforeTransaction = () => {
      throw failure("QuotaExceededError");
    };
    storage.setSetting("name", bytes("value"));
    await assert.rejects(storage.committed(), /no room left/);
    await assert.rejects(storage.close(), StorageFailed, "and again when it is closed");
    closeAll();
  });

  test("a full disk is said in words also when the transaction finds out in the end", async () => {
    const factory = new SpoiltFactory();
    const storage = await open(factory);
    factory.afterTransaction = (transaction) => {
      abortedAtTheEnd(transaction, new DOMException("full", "QuotaExceededError"));
    };
    storage.setSetting("name", bytes("value"));
    await assert.rejects(storage.committed(), /no room left/);
    closeAll();
  });

  test("closing waits until all is written and leaves the app's connection open", async () => {
    const factory = new IDBFactory();
    const storage = await open(factory);
    fill(storage);
    await storage.close();
    assert.equal(storage.pending, 0);
    assert.equal(storage._db.isOpen(), true);
    assert.deepEqual(dump(await open(factory)), dump(storage));
    closeAll();
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
    closeAll();
  });

  test("a newer version of the app takes the database and the old one stops", async () => {
    const factory = new IDBFactory();
    const failures = [];
    const storage = await open(factory, { onFailure: (error) => failures.push(error) });
    fill(storage);
    await storage.committed();
    const newer = await DexieStorage.open(database(factory, { version: 2 }));
    assert.ok(storage.failure instanceof StorageTooNew && storage.failure.final);
    assert.equal(failures.length, 1);
    assert.throws(() => storage.setSetting("name", bytes("late")), StorageTooNew);
    assert.deepEqual(dump(newer), dump(storage));
    closeAll();
  });

  test("a database that was deleted is not made anew from half a memory", async () => {
    const factory = new IDBFactory();
    const storage = await open(factory, { sleep: async () => {} });
    fill(storage);
    await storage.committed();
    await database(factory).delete();
    assert.ok(storage.failure instanceof StorageGone);
    assert.throws(() => storage.setSetting("name", bytes("late")), StorageGone);
    const again = await open(factory);
    assert.equal(again.setting("name"), null);
    closeAll();
  });

  test("a database whose hidden tables were emptied is gone", async () => {
    const storage = await open(new IDBFactory(), { sleep: async () => {} });
    await storage._db.table("$hub_meta").clear();
    storage.setSetting("name", bytes("late"));
    await assert.rejects(storage.committed(), StorageGone);
    closeAll();
  });

  test("hidden tables of a newer program are not touched", async () => {
    const factory = new IDBFactory();
    const storage = await open(factory);
    await storage.close();
    await storage._db.table("$hub_meta").put({ name: "format", value: FORMAT + 1 });
    await assert.rejects(open(factory), StorageTooNew);
    closeAll();
  });

  test("a database without the hidden tables is not ours", async () => {
    const db = new Dexie("plain", { indexedDB: new IDBFactory(), IDBKeyRange, addons: [] });
    db.version(1).stores({ notes: "id" });
    await assert.rejects(DexieStorage.open(db), StorageForeign);
    db.close();
  });

  test("a crash between commits leaves whole transactions and all that were promised", async () => {
    for (let seed = 0; seed < 15; seed++) {
      const random = new Seeded(seed);
      const factory = new SpoiltFactory();
      const storage = await open(factory, { sleep: async () => {} });
      let commits = random.below(5);
      factory.beforeTransaction = () => {
        if (commits-- <= 0) throw failure("UnknownError");
      };
      const states = [dump(storage)];
      let promised = 0;
      for (let turn = 0; turn < 12 && !storage.failure; turn++) {
        storage.transaction(() => {
          for (let n = random.below(1, 6); n > 0; n--) {
            storage.saveRecord(1, new RecordRow({ key: `k${random.below(6)}`, value: random.bytes(3) }));
            storage.addRow(edit(random.below(9), { key: `k${random.below(6)}` }));
          }
        });
        states.push(dump(storage));
        const reached = states.length - 1;
        if (random.below(3) === 0) await storage.committed().then(() => (promised = reached), () => {});
      }
      await storage.committed().then(() => (promised = states.length - 1), () => {});
      factory.beforeTransaction = () => {};
      const found = JSON.stringify(dump(await open(factory)));
      const matches = states.flatMap((state, at) => (JSON.stringify(state) === found ? [at] : []));
      assert.ok(matches.length > 0, `with seed ${seed}: a part of a transaction is there`);
      assert.ok(matches.at(-1) >= promised, `with seed ${seed}: ${matches} are there, ${promised} were promised`);
      closeAll();
    }
  });
});
