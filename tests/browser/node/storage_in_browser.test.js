/** The keeper in IndexedDB sits the exam of all keepers in a real database. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { RecordRow, StorageGone, StorageTaken } from "../../../clients/js/src/storage.js";
import { IndexedDbStorage } from "../../../clients/js/src/storage/indexeddb.js";
import { bytes, changeEverything, everything, examineStorage, fill } from "../../../clients/js/test/storage_exam.js";

let number = 0;
let name = "";

async function fresh(options) {
  name = `exam-${(number += 1)}`;
  return IndexedDbStorage.open(name, options);
}

/** All that is held, table by table, in one order. */
function dump(storage) {
  const tables = Object.entries(storage._tables).map(([table, { rows }]) => {
    const kept = [...rows].filter(([id]) => id !== "holder").sort(([a], [b]) => (a < b ? -1 : 1));
    return [table, kept];
  });
  return Object.fromEntries(tables);
}

async function deleted(database) {
  await new Promise((done, fail) => {
    const request = indexedDB.deleteDatabase(database);
    request.onsuccess = done;
    request.onerror = () => fail(request.error);
  });
}

describe("IndexedDbStorage in a browser", () => {
  examineStorage({
    make: () => fresh(),
    finish: async (storage) => {
      await storage.committed();
      const again = await IndexedDbStorage.open(name);
      assert.deepEqual(dump(again), dump(storage), "after opening it again all is as it was");
      await again.close();
      await storage.close();
      await deleted(name);
    },
  });
});

describe("IndexedDbStorage in a browser, beyond the exam", () => {
  test("a crowd of rows is loaded as it was left", async () => {
    const storage = await fresh();
    storage.transaction(() => {
      for (let n = 0; n < 2_500; n += 1) storage.saveRecord(1, new RecordRow({ key: `${n}`, value: bytes(`${n}`) }));
    });
    await storage.close();
    const seen = [];
    const again = await IndexedDbStorage.open(name, { onProgress: ({ done, total }) => seen.push([done, total]) });
    assert.deepEqual(dump(again), dump(storage));
    assert.ok(seen.length >= 3 && seen.at(-1)[0] === seen.at(-1)[1], JSON.stringify(seen));
    await again.close();
  });

  test("a tab that wakes up late cannot write over its successor", async () => {
    const late = await fresh();
    fill(late);
    await late.committed();
    const successor = await IndexedDbStorage.open(name);
    late.setSetting("name", bytes("late"));
    successor.setSetting("name", bytes("kept"));
    await assert.rejects(late.committed(), (error) => error instanceof StorageTaken && error.final);
    await successor.close();
    const again = await IndexedDbStorage.open(name);
    assert.deepEqual(again.setting("name"), bytes("kept"));
    await again.close();
  });

  test("what was kept is there after many transactions at once", async () => {
    const storage = await fresh();
    fill(storage);
    await Promise.all([storage.committed(), Promise.resolve().then(() => storage.transaction(() => changeEverything(storage)))]);
    await storage.committed();
    const again = await IndexedDbStorage.open(name);
    assert.deepEqual(everything(again), everything(storage));
    await again.close();
  });

  test("a database that was deleted is not made anew from half a memory", async () => {
    const failures = [];
    const storage = await fresh({ onFailure: (failure) => failures.push(failure) });
    fill(storage);
    await storage.committed();
    await deleted(name);
    assert.throws(() => storage.setSetting("name", bytes("later")), StorageGone);
    assert.equal((await indexedDB.databases()).filter((one) => one.name === name).length, 0);
    assert.ok(failures[0] instanceof StorageGone);
  });
});
