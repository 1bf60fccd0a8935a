/**
 * The promise of local storage: what a device holds, and how surely.
 *
 * What a device holds: settings, its collections and how far it has each, the records as the log confirmed them
 * and as the person sees them, the outbox, and the live sets that the sync check stands on.  The promises, each
 * with a test in `test/storage_exam.js` that any keeper can sit:
 *
 * - **Together or not at all.**  What is written inside one `transaction` is kept as a whole when its work returns,
 *   and not at all when an exception leaves it.
 * - **Durable when it says so.**  What a transaction wrote survives a crash once the promise of `committed()`, asked
 *   for after it, has resolved; a crash before that leaves whole transactions, never a part of one and never a later
 *   one without an earlier one.
 * - **In order.**  Outbox rows come back in the order they were added, and keep their place.
 *
 * All calls but `committed`, `retry` and `close` are synchronous and short, so the engine needs no `await` between
 * reading and writing: rows live in memory, and each finished transaction hands its write-set to a keeper
 * (`storage/indexeddb.js`).  Whoever lets effects out into the world first awaits `committed()`.  When that rejects,
 * nothing may be sent any more: hang up, show `failure.message`, and begin a new conversation once `retry()` has
 * resolved; until then every `transaction` throws the same error, so that the engine cannot walk on without the disk.
 *
 * A storage belongs to one tab at a time: to the leader of its name (`leader.js`).  Should a former leader wake up
 * late, the keeper in the database refuses what it writes.
 */

export { MemoryStorage } from "./storage/memory.js";
export {
  Backlog,
  CollectionRow,
  DeltaRow,
  OutboxRow,
  RecordRow,
  State,
  StorageFailed,
  StorageForeign,
  StorageGone,
  StorageTaken,
  StorageTooNew,
  StoredAlarm,
  replace,
} from "./storage/rows.js";

/** @typedef {import("./storage/memory.js").MemoryStorage} Kept */
/** @typedef {Pick<Kept, keyof Kept>} Storage what every keeper offers; `MemoryStorage` says what each method means */
