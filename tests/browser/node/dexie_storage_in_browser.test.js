/** The keeper in an app's own Dexie database sits the exam of all keepers in a real one. */

import assert from "node:assert/strict";
import { describe } from "node:test";

import { Dexie } from "dexie";

import { installCapture } from "../../../clients/js/src/dexie/capture.js";
import { installSchema } from "../../../clients/js/src/dexie/schema.js";
import { DexieStorage } from "../../../clients/js/src/dexie/storage.js";
import { examineStorage } from "../../../clients/js/test/storage_exam.js";

let number = 0;
let opened = [];

function database() {
  const tables = { notes: {} };
  const db = new Dexie(`dexie-exam-${number}`, { addons: [] });
  installSchema(db, { tables });
  installCapture(db, { tables });
  db.version(1).stores({ notes: "id" });
  opened.push(db);
  return db;
}

/** All that is held, table by table, in one order; without what each opening writes anew. */
function dump(storage) {
  const own = new Set(["holder", "format", "mirror", "capturing"]);
  const tables = Object.entries(storage._tables).map(([table, { rows }]) => {
    return [table, [...rows].filter(([id]) => !own.has(id)).sort(([a], [b]) => (a < b ? -1 : 1))];
  });
  return Object.fromEntries(tables);
}

describe("DexieStorage in a browser", () => {
  examineStorage({
    make: () => {
      number += 1;
      return DexieStorage.open(database());
    },
    finish: async (storage) => {
      await storage.committed();
      const again = await DexieStorage.open(database());
      assert.deepEqual(dump(again), dump(storage), "after opening it again all is as it was");
      for (const db of opened.splice(0)) db.close();
      await Dexie.delete(`dexie-exam-${number}`);
    },
  });
});
