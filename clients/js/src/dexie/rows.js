/**
 * Brings the app's rows to what the engine's records show, in the very transaction that makes the engine's state
 * durable.
 *
 * The rule: a row that no entry of `$hub_edits` speaks of is as the engine shows its record.  A row that one speaks of
 * is the app's newest word, which the engine has not heard yet; it is left alone, and the mirror sees to it.  What is
 * written here passes below the capture, so it is no edit.
 *
 * The conflicts that wait for a person are kept in `$hub_conflicts` along with it, so that every tab can show them.
 */

import { equal } from "../bytes.js";
import { report } from "../report.js";
import { State } from "../storage/rows.js";
import { MISSING } from "../strategies.js";
import { isWhole } from "../collection.js";
import { decodeBody, toBlobs } from "../values.js";
import { Dexie } from "dexie";
import { keyOfText, keyText, newId } from "./schema.js";

/** @typedef {import("dexie").DBCore} DBCore */
/** @typedef {import("../collection.js").LocalCollection} LocalCollection */
/** @typedef {import("../storage/tables.js").WriteSet} WriteSet */
/** @typedef {import("./capture.js").EditsRow} EditsRow */

/**
 * A record shows this body, null for nothing; with `done` the app's row is like that already.
 * @typedef {{table: string, text: string, body: Uint8Array | null, done: boolean}} Show
 */

/**
 * What one transaction of the engine means for the rest of the database.
 *
 * @typedef {object} Note
 * @property {Show[]} shows
 * @property {number[]} drops edits that the engine has heard
 * @property {EditsRow[]} leaves what is left of them
 * @property {string[]} conflicts records whose conflict has changed perhaps, by `idOf`
 */

/**
 * An edit the engine cannot take.
 * @typedef {{table: string, text: string, key: any, base: any, reason: string}} Refused
 */

/** A conflict or a refused edit, as `$hub_conflicts` has it; a value that is missing is not there. */
/** @typedef {{table: string, id: string, key: any, base?: any, mine?: any, theirs?: any, reason: string,
 *   stamp?: string, refused?: boolean, unkept?: boolean}} ConflictRow `stamp` is another one for another `mine` */

const EDITS = "$hub_edits";
const CONFLICTS = "$hub_conflicts";
const ANY = /** @type {any} */ ({ type: 3 });
const UNKEPT = "this device cannot keep the row";

/** The app's side of the storage's commits. */
export class AppRows {
  /**
   * @param {Iterable<string>} tables
   * @param {(collection: number) => LocalCollection | undefined} localOf
   */
  constructor(tables, localOf) {
    this._tables = new Set(tables);
    this._localOf = localOf;
    /** @type {Map<string, LocalCollection>} by table, as they are opened */
    this.locals = new Map();
    /** @type {Map<string, Refused>} edits that cannot travel; their rows are left alone too */
    this.refused = new Map();
    /** @type {Map<string, ConflictRow>} rows the database refused, by `idOf` */
    this.unkept = new Map();
    /** @type {Set<string>} what `$hub_conflicts` speaks of */
    this.waiting = new Set();
    /** @type {Map<string, {body: Uint8Array | null, stamp: string}>} of the conflicts, by `idOf` */
    this._stamps = new Map();
    /** @type {(table: string) => boolean} whether all rows of the table have been compared with the engine's */
    this.compared = () => true;
    /** @type {(notes: Note[]) => void} */
    this.onCommitted = () => {};
  }

  /**
   * Take over a conflict as the database has it, before anything else.
   * @param {ConflictRow} row
   */
  recall(row) {
    const { table, id: text, key, base, reason } = row;
    const id = idOf(table, text);
    this.waiting.add(id);
    if (row.refused) this.refused.set(id, { table, text, key, base, reason });
    else if (row.unkept) this.unkept.set(id, row);
  }

  // --- as the storage's companion ---

  /**
   * @param {WriteSet} writes
   * @returns {Note[]}
   */
  follow(writes) {
    const note = emptyNote();
    for (const { table, held, before } of writes) {
      if (table === "records") this._followRecord(note, held, before);
      else if (table === "outbox") this._followRow(note, held, before);
    }
    return note.shows.length || note.conflicts.length ? [note] : [];
  }

  /** @param {Note[]} notes */
  tables(notes) {
    const shown = notes.flatMap((note) => note.shows.filter((show) => !show.done).map((show) => show.table));
    const told = notes.flatMap((note) => note.conflicts.map((id) => placeOf(id)[0]));
    return [EDITS, CONFLICTS, ...shown, ...told];
  }

  /**
   * @param {Note[]} notes
   * @param {DBCore} core
   * @param {any} trans
   */
  async commit(notes, core, trans) {
    const drops = notes.flatMap((note) => note.drops);
    const leaves = notes.flatMap((note) => note.leaves);
    /** @type {Map<string, Show>} */
    const shows = new Map(); // of several the last counts
    for (const note of notes) for (const show of note.shows) shows.set(idOf(show.table, show.text), show);
    const stale = [...shows].filter(([, show]) => !show.done);
    const conflicts = new Set(notes.flatMap((note) => note.conflicts));
    if (stale.length) await this._bring(new Map(stale), new Set(drops), conflicts, core, trans);
    if (drops.length) await core.table(EDITS).mutate({ type: "delete", trans, keys: drops });
    if (leaves.length) await core.table(EDITS).mutate({ type: "put", trans, values: leaves });
    if (conflicts.size) await this._writeConflicts(conflicts, core, trans);
  }

  /** @param {Note[]} notes */
  committed(notes) {
    this.onCommitted(notes);
  }

  // --- what follows from a write ---

  /**
   * @param {Note} note
   * @param {any} held
   * @param {any} before
   */
  _followRecord(note, held, before) {
    const { collection, row } = held ?? before;
    const table = this._tableOf(collection);
    if (!table) return;
    const [now, then] = [held ? held.row.view : null, before ? before.row.view : null];
    if (!sameBody(now, then)) note.shows.push({ table, text: row.key, body: now, done: false });
    const id = idOf(table, row.key);
    if (this.waiting.has(id)) note.conflicts.push(id);
  }

  /**
   * @param {Note} note
   * @param {any} held
   * @param {any} before
   */
  _followRow(note, held, before) {
    if (held?.state !== State.PARKED && before?.state !== State.PARKED) return;
    const { collection, key } = held ?? before;
    const table = this._tableOf(collection);
    if (table && isWhole(held ?? before)) note.conflicts.push(idOf(table, key));
  }

  /** @param {number} collection */
  _tableOf(collection) {
    const name = this._localOf(collection)?.name ?? "";
    return this._tables.has(name) ? name : "";
  }

  // --- app rows ---

  /**
   * @param {Map<string, Show>} shows
   * @param {Set<number>} drops
   * @param {Set<string>} conflicts is added to where the database refuses a row
   * @param {DBCore} core
   * @param {any} trans
   */
  async _bring(shows, drops, conflicts, core, trans) {
    for (const id of await editedIds(core, trans, drops)) shows.delete(id);
    for (const id of this.refused.keys()) shows.delete(id);
    for (const [table, some] of grouped(shows.values())) {
      const wanted = this.compared(table) ? some : await missing(core.table(table), trans, some);
      const failed = await bringTable(core.table(table), trans, wanted);
      for (const { text } of wanted) {
        const id = idOf(table, text);
        const conflict = failed.get(id);
        if (conflict || this.unkept.has(id)) conflicts.add(id);
        if (conflict) this.unkept.set(id, conflict);
        else this.unkept.delete(id);
      }
    }
  }

  // --- conflicts ---

  /**
   * @param {Set<string>} ids
   * @param {DBCore} core
   * @param {any} trans
   */
  async _writeConflicts(ids, core, trans) {
    /** @type {ConflictRow[]} */
    const values = [];
    const keys = [];
    for (const id of ids) {
      const row = await this._conflict(id, core, trans);
      if (row) {
        values.push(row);
        this.waiting.add(id);
      } else {
        keys.push(placeOf(id));
        this.waiting.delete(id);
        this._stamps.delete(id);
      }
    }
    if (values.length) await core.table(CONFLICTS).mutate({ type: "put", trans, values });
    if (keys.length) await core.table(CONFLICTS).mutate({ type: "delete", trans, keys });
  }

  /**
   * @param {string} id
   * @param {DBCore} core
   * @param {any} trans
   * @returns {Promise<ConflictRow | null>}
   */
  async _conflict(id, core, trans) {
    const [table, text] = placeOf(id);
    const refused = this.refused.get(id);
    const at = { table, id: text, key: keyOfText(text) };
    if (refused) {
      const mine = await mineOf(core, trans, refused);
      const theirs = present("theirs", this._seen(table, text));
      return { ...at, ...present("base", refused.base), ...mine, ...theirs, reason: refused.reason, refused: true };
    }
    const waiting = this.locals.get(table)?.waiting(text);
    if (!waiting) return this.unkept.get(id) ?? null;
    const { base, mine, theirs } = waiting.conflict;
    const values = { ...present("base", base), ...present("mine", mine), ...present("theirs", theirs) };
    return { ...at, ...values, reason: waiting.reason, stamp: this._stamp(id, waiting.body) };
  }

  /** @param {string} id @param {Uint8Array | null} body */
  _stamp(id, body) {
    const known = this._stamps.get(id);
    if (known && sameBody(known.body, body)) return known.stamp;
    const stamp = newId();
    this._stamps.set(id, { body, stamp });
    return stamp;
  }

  /**
   * What the engine shows, MISSING also for what this device cannot read.
   * @param {string} table
   * @param {string} text
   */
  _seen(table, text) {
    try {
      return this.locals.get(table)?.get(text) ?? MISSING;
    } catch {
      return MISSING;
    }
  }
}

/** @returns {Note} */
export function emptyNote() {
  return { shows: [], drops: [], leaves: [], conflicts: [] };
}

/**
 * One text for a row of any table.
 * @param {string} table
 * @param {string} text
 */
export function idOf(table, text) {
  return `${table}\0${text}`;
}

/**
 * The table and the key's text; no name of a table holds a NUL, nor does a key's text.
 * @param {string} id
 * @returns {[table: string, text: string]}
 */
function placeOf(id) {
  const at = id.indexOf("\0");
  return [id.slice(0, at), id.slice(at + 1)];
}

/**
 * The row for a record's body, undefined for none; null for what cannot be a row of this table under this key.
 *
 * A program without this add-on may have left the key out of the value.
 *
 * @param {import("dexie").DBCoreTable} table
 * @param {string} text
 * @param {Uint8Array | null} body
 * @returns {any}
 */
export function rowOf(table, text, body) {
  if (body === null) return undefined;
  const { primaryKey } = table.schema;
  try {
    const row = /** @type {any} */ (toBlobs(decodeBody(body).value));
    if (Object.prototype.toString.call(row) !== "[object Object]") return null;
    const keyPath = primaryKey.keyPath;
    if (typeof keyPath === "string" && Dexie.getByKeyPath(row, keyPath) === undefined) {
      Dexie.setByKeyPath(row, keyPath, keyOfText(text));
    }
    return keyText(/** @type {any} */ (primaryKey.extractKey)(row)) === text ? row : null;
  } catch (error) {
    if (error instanceof RangeError || error instanceof TypeError) return null;
    throw error;
  }
}

/**
 * The ids of all rows that edits speak of, but for those edits.
 *
 * @param {DBCore} core
 * @param {any} trans
 * @param {Set<number>} but
 */
async function editedIds(core, trans, but) {
  const edits = core.table(EDITS);
  const query = { index: edits.schema.primaryKey, range: ANY };
  /** @type {Set<string>} */
  const ids = new Set();
  if ((await edits.count({ trans, query })) <= but.size) return ids;
  for (const row of (await edits.query({ trans, values: true, query })).result) {
    if (!but.has(row.n)) for (const key of row.keys) ids.add(idOf(row.table, keyText(key)));
  }
  return ids;
}

/**
 * Those whose row is not there.
 *
 * @param {import("dexie").DBCoreTable} table
 * @param {any} trans
 * @param {Show[]} shows
 */
async function missing(table, trans, shows) {
  const rows = await table.getMany({ trans, keys: shows.map((show) => keyOfText(show.text)) });
  return shows.filter((_, at) => rows[at] === undefined);
}

/**
 * Write the rows of one table; those the database refuses, by `idOf`.
 *
 * @param {import("dexie").DBCoreTable} table
 * @param {any} trans
 * @param {Show[]} shows
 */
async function bringTable(table, trans, shows) {
  /** @type {any[]} */
  const keys = [];
  /** @type {any[]} */
  const values = [];
  /** @type {string[]} */
  const texts = [];
  for (const { text, body } of shows) {
    const row = rowOf(table, text, body);
    if (row === null) report(new RangeError(`record ${JSON.stringify(text)} is no row of table "${table.name}"`));
    else if (row === undefined) keys.push(keyOfText(text));
    else {
      values.push(row);
      texts.push(text);
    }
  }
  if (keys.length) await table.mutate({ type: "delete", trans, keys });
  const { failures } = values.length ? await table.mutate({ type: "put", trans, values }) : { failures: {} };
  const failed = Object.entries(/** @type {Record<number, any>} */ (failures));
  return new Map(failed.map(([at, error]) => unkept(table.name, texts[Number(at)], values[Number(at)], error)));
}

/**
 * @param {string} table
 * @param {string} text
 * @param {any} theirs
 * @param {any} error
 * @returns {[id: string, conflict: ConflictRow]}
 */
function unkept(table, text, theirs, error) {
  const reason = `${UNKEPT}: ${error?.message ?? error}`;
  return [idOf(table, text), { table, id: text, key: keyOfText(text), theirs, reason, unkept: true }];
}

/**
 * @param {DBCore} core
 * @param {any} trans
 * @param {Refused} refused
 */
async function mineOf(core, trans, { table, key }) {
  const mine = await core.table(table).get({ trans, key });
  return mine === undefined ? {} : { mine };
}

/**
 * @param {string} name
 * @param {any} value
 */
function present(name, value) {
  return value === MISSING || value === undefined ? {} : { [name]: toBlobs(value) };
}

/**
 * @param {Iterable<Show>} shows
 * @returns {Map<string, Show[]>}
 */
function grouped(shows) {
  const groups = new Map();
  for (const show of shows) {
    const group = groups.get(show.table);
    if (group) group.push(show);
    else groups.set(show.table, [show]);
  }
  return groups;
}

/**
 * @param {Uint8Array | null} one
 * @param {Uint8Array | null} other
 */
export function sameBody(one, other) {
  return one === null || other === null ? one === other : one === other || equal(one, other);
}
