/**
 * Keeps an app's tables and the engine's records alike: what the app edits goes in, what the engine shows comes out.
 *
 * Out is the smaller half: `rows.js` does it inside each commit of the storage.  In, the mirror takes the entries of
 * `$hub_edits` in their order: it reads what the rows look like now, waits for the bytes of Blobs outside of any
 * transaction, and hands all of it to the engine in one transaction; its commit drops the entries.  Killed between
 * any two steps, it finds the entries again.
 *
 * An edit says what it was made on, where the table's strategy wants to know.  When the engine shows another value by
 * then, because a change of another device came while the person typed, that is a conflict like any other, and the
 * strategy decides with the true base.
 *
 * All entries that speak of a record are taken together: the value read is the one after the last of them, the base
 * the one of the first.
 */

import { Dexie } from "dexie";

import { report } from "../report.js";
import { State, StorageFailed } from "../storage/rows.js";
import { MISSING, lastWriterWins } from "../strategies.js";
import { readBlobs } from "../values.js";
import { beneath, needsBase } from "./capture.js";
import { declareRows, findEdits } from "./compare.js";
import { AppRows, emptyNote, idOf, sameBody } from "./rows.js";
import { keyText } from "./schema.js";

export { readConflicts, resolveConflict } from "./conflicts.js";

/** @typedef {import("../collection.js").LocalCollection} LocalCollection */
/** @typedef {import("../collection.js").Taken} Taken */
/** @typedef {import("../index.js").HubClient} HubClient */
/** @typedef {import("./capture.js").EditsRow} EditsRow */
/** @typedef {import("./rows.js").Show} Show */
/** @typedef {import("./compare.js").Compared} Compared */
/** @typedef {import("./rows.js").Note} Note */
/** @typedef {import("./schema.js").SyncedTables} SyncedTables */
/** @typedef {import("./storage.js").DexieStorage} DexieStorage */

/**
 * What the entries say of one record: the base or decision of the first, and the value that is there now.
 *
 * @typedef {object} Edit
 * @property {string} id
 * @property {string} table
 * @property {string} text
 * @property {any} key
 * @property {any} base undefined for nothing, or when nobody knows
 * @property {boolean} first only from before the first sync
 * @property {boolean} unknown nobody knows what the first of them was made on
 * @property {{theirs: any} | undefined} resolve
 * @property {number} at
 * @property {any} value undefined for nothing
 * @property {string} unread why its Blobs could not be read
 */

/** @typedef {{rows: EditsRow[], edits: Edit[]}} Portion entries that are taken together, and what they say */
/** @typedef {{groups: EditsRow[][], edits: Edit[]}} Batch all that was read; no record is spoken of in two groups */

const AT_ONCE = 500; // records given to the engine in one transaction
const READ_AT_ONCE = 5_000; // records read in one transaction
const AGAIN_MS = 1_000; // after the database failed
const EDITS = "$hub_edits";

export class Mirror {
  /**
   * @param {Dexie} db
   * @param {SyncedTables} tables
   * @param {HubClient} client not started yet
   * @param {DexieStorage} storage the client's
   */
  constructor(db, tables, client, storage) {
    this._db = db;
    this._tables = new Map(Object.entries(tables));
    this._client = client;
    this._storage = storage;
    this._rows = new AppRows(this._tables.keys(), (n) => client._engine.device.collections.get(n));
    this._rows.compared = (table) => this._compared.tables.includes(table);
    this._rows.onCommitted = (notes) => this._committed(notes);
    /** @type {Compared} */
    this._compared = { name: "mirror", tables: [], version: 0 };
    this._pending = 0;
    /** @type {Set<number>} entries the engine has heard, until that is durable */
    this._taken = new Set();
    /** @type {((count: number) => void)[]} */
    this._onConflicts = [];
    this._conflicts = -1;
    this._later = false; // some edits wait until what the engine shows has reached the log
    this._due = false;
    this._stopped = false;
    /** @type {Promise<void> | null} */
    this._running = null;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this._again = undefined;
    this._heard = (/** @type {any} */ parts) => {
      if (parts.all || `idb://${db.name}/${EDITS}/` in parts) this._wake();
    };
  }

  /** How many edits the engine has not taken yet, as far as the mirror knows; a row counts for each time it changed. */
  get pending() {
    return this._pending;
  }

  /**
   * Compare both sides where that is due, and keep them alike from then on.
   *
   * To be called before the client is started, so that nothing comes in while the rows of a new version of the app
   * are compared.  Throws StorageFailed, or what Dexie throws when the database cannot be read.
   */
  async start() {
    this._storage.accompany(this._rows);
    await this._load();
    for (const [table, { conflict }] of this._tables) {
      const strategy = conflict ?? lastWriterWins;
      this._rows.locals.set(table, this._client.collection(table, { strategy })._local);
    }
    await this._storage.committed();
    await this._compareAgain();
    await this._compareFirst([...this._tables.keys()], { onlyEmpty: true });
    this._refreshConflicts();
    Dexie.on("storagemutated", this._heard);
    this._wake();
  }

  /** Let go; what was not taken waits in the database. */
  async stop() {
    this._stopped = true;
    clearTimeout(this._again);
    Dexie.on("storagemutated").unsubscribe(this._heard);
    await this._running;
  }

  /**
   * Called with how many conflicts wait for a person: soon, and each time that or one of them changes.
   *
   * @param {(count: number) => void} callback
   */
  onConflicts(callback) {
    this._onConflicts.push(callback);
    if (this._conflicts >= 0) callback(this._conflicts);
  }

  // --- both sides compared ---

  async _load() {
    const { state, conflicts } = await this._db.transaction("r!", ["$hub_meta", "$hub_conflicts"], async (tx) => {
      const { idbtrans: trans } = /** @type {any} */ (tx);
      const core = beneath(this._db);
      const table = core.table("$hub_conflicts");
      const query = { index: table.schema.primaryKey, range: /** @type {any} */ ({ type: 3 }) };
      const kept = await core.table("$hub_meta").get({ trans, key: "mirror" });
      return { state: kept, conflicts: (await table.query({ trans, values: true, query })).result };
    });
    const named = (/** @type {string} */ table) => this._tables.has(table);
    if (state) this._compared = { ...state, tables: state.tables.filter(named) };
    for (const row of conflicts) this._rows.recall(row);
  }

  /** After another version of the database was opened: upgrades, and tabs without the add-on, write nothing down. */
  async _compareAgain() {
    const version = this._db.backendDB().version;
    if (version === this._compared.version) return;
    const compared = { ...this._compared, version };
    for (const table of this._compared.tables) {
      const local = this._local(table);
      const isKnown = (/** @type {string} */ id) => this._rows.refused.has(id) || this._rows.unkept.has(id);
      const there = await findEdits(this._storage, local, this._options(table), isKnown);
      this._showMissing(table, there);
    }
    await this._storage.write([], async (_core, trans) => trans.objectStore("$hub_meta").put(compared));
    this._compared = compared;
  }

  /** The tables that were not compared yet, and whose collection has been read once. */
  _mayCompare() {
    return [...this._tables.keys()].filter((table) => {
      const { row } = this._local(table);
      return !this._compared.tables.includes(table) && row.caughtUp && !row.healing;
    });
  }

  /**
   * Compare for the first time.
   *
   * Before a collection has been read, only a table without rows can be: there is nothing to compare.
   * @param {string[]} tables @param {{onlyEmpty: boolean}} how
   */
  async _compareFirst(tables, { onlyEmpty }) {
    for (const table of tables) {
      if (this._compared.tables.includes(table)) continue;
      const compared = { ...this._compared, tables: [...this._compared.tables, table] };
      const there = await declareRows(this._storage, table, this._options(table), compared, { onlyEmpty });
      if (there === null) continue;
      this._compared = compared;
      this._showMissing(table, there);
    }
  }

  /**
   * Make the rows which the engine has and the app lacks.
   *
   * @param {string} table @param {Set<string>} there
   */
  _showMissing(table, there) {
    const records = this._storage.records(this._local(table).n);
    const shows = records
      .filter(({ key, view }) => view !== null && !there.has(key))
      .map(({ key, view }) => ({ table, text: key, body: view, done: false }));
    if (shows.length) this._storage.transaction(() => this._storage.beside({ ...emptyNote(), shows }));
  }

  /** What `$hub_conflicts` says may be older than what the engine knows. */
  _refreshConflicts() {
    const parked = [...this._rows.locals].flatMap(([table, local]) => {
      return this._storage.rowsIn(local.n, State.PARKED).map((row) => idOf(table, row.key));
    });
    const conflicts = [...new Set([...this._rows.waiting, ...parked])];
    const shows = [...this._rows.unkept.values()].map(({ table, id }) => this._show(table, id));
    const note = { ...emptyNote(), conflicts, shows };
    if (conflicts.length) this._storage.transaction(() => this._storage.beside(note));
    else this._tellConflicts();
  }

  /** @param {string} table @param {string} text @returns {Show} */
  _show(table, text) {
    const record = this._storage.record(this._local(table).n, text);
    return { table, text, body: record?.view ?? null, done: false };
  }

  // --- edits ---

  _wake() {
    this._due = true;
    if (this._running || this._stopped) return;
    this._running = this._run().finally(() => {
      this._running = null;
      if (this._due) this._wake();
    });
  }

  async _run() {
    await null; // not in the zone of the transaction that told of its edits
    while (this._due && !this._stopped) {
      this._due = false;
      try {
        await this._compareFirst(this._mayCompare(), { onlyEmpty: false });
        while (!this._stopped && (await this._take()));
      } catch (error) {
        this._failed(error);
      }
    }
  }

  /** @param {any} error */
  _failed(error) {
    if (error instanceof StorageFailed) this._client._storageFailed(error);
    else if (error?.name !== "DatabaseClosedError") report(error);
    clearTimeout(this._again);
    if (!this._storage.failure?.final) this._again = setTimeout(() => this._wake(), AGAIN_MS);
  }

  /**
   * Take some of the entries; whether more may be there.
   *
   * While one portion is being written to the disk, the next one is encoded.
   *
   * @returns {Promise<boolean>}
   */
  async _take() {
    const batch = await this._read();
    if (!batch) return false;
    await readAllBlobs(batch.edits);
    let moved = false;
    let before = Promise.resolve();
    for (const portion of portions(batch)) {
      if (this._stopped) break;
      moved = this._hand(portion) || moved;
      const now = this._storage.committed();
      now.catch(() => {}); // it is waited for below, or the next portion says the same
      await before;
      before = now;
    }
    await before;
    return moved;
  }

  /**
   * The next entries, with the rows they speak of.
   *
   * @returns {Promise<Batch | null>}
   */
  async _read() {
    return this._db.transaction("r!", [EDITS, ...this._tables.keys()], async (tx) => {
      const { idbtrans: trans } = /** @type {any} */ (tx);
      const core = beneath(this._db);
      const table = core.table(EDITS);
      const query = { index: table.schema.primaryKey, range: /** @type {any} */ ({ type: 3 }) };
      const { result } = await table.query({ trans, values: true, query });
      const open = result.filter((row) => !this._taken.has(row.n));
      this._pending = open.reduce((sum, row) => sum + row.keys.length, 0);
      const groups = together(open.filter(({ table }) => this._compared.tables.includes(table)), READ_AT_ONCE);
      const strays = open.filter(({ table }) => !this._tables.has(table)); // of a table that syncs no more
      if (!groups.length && !strays.length) return null;
      const edits = folded(groups.flat());
      for (const [name, some] of byTable(edits)) {
        const values = await core.table(name).getMany({ trans, keys: some.map(({ key }) => key) });
        some.forEach((edit, at) => (edit.value = values[at]));
      }
      return { groups: strays.length ? [strays, ...groups] : groups, edits };
    });
  }

  /**
   * Give the edits to the engine; whether it took any.
   *
   * @param {Portion} portion
   */
  _hand({ rows, edits }) {
    const client = this._client;
    const moment = client._now();
    const locals = new Set(edits.map(({ table }) => this._local(table)));
    /** @type {{edit: Edit, outcome: Outcome}[]} */
    const done = [];
    const note = emptyNote();
    const work = () => {
      for (const edit of edits) done.push({ edit, outcome: this._handOne(edit, moment.wall) });
    };
    const settled = () => {
      this._conclude(note, rows, done);
      if (note.drops.length || note.leaves.length) this._storage.beside(note);
    };
    const [, effects] = client._engine.editAll([...locals], work, moment, settled);
    for (const { edit, outcome } of done) this._noteRefused(edit, outcome);
    for (const n of [...note.drops, ...note.leaves.map((row) => Number(row.n))]) this._taken.add(n);
    this._later = done.some(({ outcome }) => outcome.later);
    client._carry(effects);
    return note.drops.length > 0 || note.leaves.length > 0;
  }

  /**
   * @param {Edit} edit
   * @param {number} wall
   * @returns {Outcome}
   */
  _handOne(edit, wall) {
    const { id, table, text, first, unknown, resolve } = edit;
    const local = this._local(table);
    const value = edit.value === undefined ? MISSING : edit.value;
    const base = (this._rows.refused.get(id) ?? edit).base;
    if (edit.unread) return { later: false, refused: edit.unread };
    try {
      if (resolve && local.waiting(text)) {
        local.resolveOn(text, value, resolve.theirs === undefined ? MISSING : resolve.theirs, wall);
        return { later: false, shown: this._show(table, text).body };
      }
      const known = this._storage.record(local.n, text) !== null;
      if (first && known && local.strategy === lastWriterWins) return { later: false };
      return local.putOn(text, value, unknown ? undefined : base === undefined ? MISSING : base, wall);
    } catch (error) {
      // It cannot travel. The row stays as it is here, and the person is told.
      if (error instanceof RangeError || error instanceof TypeError) return { later: false, refused: error.message };
      throw error;
    }
  }

  /**
   * What the commit must do besides the engine's rows.
   *
   * @param {Note} note
   * @param {EditsRow[]} rows
   * @param {{edit: Edit, outcome: Outcome}[]} done
   */
  _conclude(note, rows, done) {
    const later = new Set();
    for (const { edit, outcome } of done) {
      if (outcome.later) later.add(edit.id);
      else if (outcome.refused === undefined) note.shows.push(this._shownFor(edit, outcome));
      if (outcome.refused !== undefined || this._rows.waiting.has(edit.id)) note.conflicts.push(edit.id);
    }
    for (const row of rows) {
      const left = leftOf(row, later);
      if (left === null) note.drops.push(Number(row.n));
      else if (left !== row) note.leaves.push(left);
    }
  }

  /**
   * @param {Edit} edit
   * @param {Outcome} outcome
   */
  _shownFor({ table, text }, { shown }) {
    const show = this._show(table, text);
    return { ...show, done: shown !== undefined && sameBody(show.body, shown) };
  }

  /**
   * @param {Edit} edit
   * @param {Outcome} outcome
   */
  _noteRefused({ id, table, text, key, base }, { later, refused }) {
    const { refused: all } = this._rows;
    if (refused !== undefined) all.set(id, { table, text, key, base: (all.get(id) ?? { base }).base, reason: refused });
    else if (!later) all.delete(id);
  }

  /** @param {Note[]} notes */
  _committed(notes) {
    for (const { drops, leaves } of notes) {
      for (const n of drops) this._taken.delete(n);
      for (const { n } of leaves) this._taken.delete(Number(n));
    }
    if (notes.some(({ conflicts }) => conflicts.length)) this._tellConflicts();
    if (this._later || this._mayCompare().length) this._wake();
  }

  _tellConflicts() {
    this._conflicts = this._rows.waiting.size;
    for (const callback of this._onConflicts) callback(this._conflicts);
  }

  // --- small things ---

  /** @param {string} table */
  _local(table) {
    return /** @type {LocalCollection} */ (this._rows.locals.get(table));
  }

  /** @param {string} table */
  _options(table) {
    return this._tables.get(table) ?? {};
  }
}

/** @typedef {Taken & {refused?: string}} Outcome what became of an edit; `refused` says why it cannot travel */

/**
 * The entries in groups, up to `most` records or a little more: those that speak of the same records are in one.
 *
 * @param {EditsRow[]} rows
 * @param {number} most
 * @returns {EditsRow[][]}
 */
function together(rows, most) {
  /** @type {Map<string, number[]>} */
  const places = new Map();
  const ids = rows.map((row) => row.keys.map((key) => idOf(row.table, keyText(key))));
  ids.forEach((some, place) => {
    for (const id of some) {
      const others = places.get(id);
      if (others) others.push(place);
      else places.set(id, [place]);
    }
  });
  /** @type {Set<number>} */
  const chosen = new Set();
  const groups = [];
  let count = 0;
  for (let first = 0; first < rows.length && count < most; first += 1) {
    /** @type {number[]} */
    const group = [];
    const queue = [first];
    for (let place = queue.pop(); place !== undefined; place = queue.pop()) {
      if (chosen.has(place)) continue;
      chosen.add(place);
      group.push(place);
      count += ids[place].length;
      for (const id of ids[place]) for (const other of places.get(id) ?? []) if (!chosen.has(other)) queue.push(other);
    }
    if (group.length) groups.push(group.sort((one, other) => one - other).map((place) => rows[place]));
  }
  return groups;
}

/**
 * What is given to the engine at once: whole groups, of not many records.
 *
 * @param {Batch} batch
 * @returns {Portion[]}
 */
function portions({ groups, edits }) {
  const byId = new Map(edits.map((edit) => [edit.id, edit]));
  /** @type {Portion[]} */
  const all = [];
  let count = Infinity;
  for (const rows of groups) {
    const ids = new Set(rows.flatMap((row) => row.keys.map((key) => idOf(row.table, keyText(key)))));
    if (count + ids.size > AT_ONCE) {
      all.push({ rows: [], edits: [] });
      count = 0;
    }
    const portion = all[all.length - 1];
    portion.rows.push(...rows);
    for (const id of ids) {
      const edit = byId.get(id);
      if (edit) portion.edits.push(edit);
    }
    count += ids.size;
  }
  return all;
}

/**
 * One edit for each record that these entries speak of, without its value.
 *
 * @param {EditsRow[]} rows
 * @returns {Edit[]}
 */
function folded(rows) {
  /** @type {Map<string, Edit>} */
  const edits = new Map();
  for (const { table, keys, bases, at, first = false, resolve } of rows) {
    keys.forEach((key, place) => {
      const text = keyText(key);
      const id = idOf(table, text);
      const known = edits.get(id);
      if (!known) {
        const base = bases?.[place]; // a decision is never behind an edit: see `conflicts.js`
        edits.set(id, { id, table, text, key, base, first, unknown: first, resolve, at, value: undefined, unread: "" });
        return;
      }
      known.first &&= first;
    });
  }
  return [...edits.values()];
}

/**
 * What is left of an entry when only these records wait; null for nothing, the entry itself for all of it.
 * A record is left in one entry alone, the first.
 *
 * @param {EditsRow} row
 * @param {Set<string>} later
 * @returns {EditsRow | null}
 */
function leftOf(row, later) {
  if (!later.size) return null;
  const places = [...row.keys.keys()].filter((place) => later.delete(idOf(row.table, keyText(row.keys[place]))));
  if (places.length === row.keys.length) return row;
  if (!places.length) return null;
  const left = { ...row, keys: places.map((place) => row.keys[place]) };
  return row.bases ? { ...left, bases: places.map((place) => row.bases?.[place]) } : left;
}

/**
 * @param {Edit[]} edits
 * @returns {Map<string, Edit[]>}
 */
function byTable(edits) {
  const groups = new Map();
  for (const edit of edits) {
    const group = groups.get(edit.table);
    if (group) group.push(edit);
    else groups.set(edit.table, [edit]);
  }
  return groups;
}

/**
 * Put the bytes of Blobs in their place.  One that cannot be read any more (a File that has gone) refuses its edit.
 *
 * @param {Edit[]} edits
 */
async function readAllBlobs(edits) {
  const partsOf = (/** @type {Edit} */ edit) => [edit.value, edit.base, edit.resolve?.theirs];
  const all = edits.map(partsOf);
  const read = await readBlobs(all).catch(() => null);
  if (read === all) return;
  for (const [at, edit] of edits.entries()) {
    try {
      const [value, base, theirs] = read ? read[at] : await readBlobs(partsOf(edit));
      Object.assign(edit, { value, base, resolve: edit.resolve && { theirs } });
    } catch (error) {
      edit.unread = `a file in it cannot be read: ${/** @type {any} */ (error)?.message ?? error}`;
    }
  }
}
