/**
 * Finds what nobody wrote down: rows from before the first sync, and what an upgrade of the app's schema changed.
 *
 * What is found becomes entries of `$hub_edits`, in one transaction with the word that the table has been compared;
 * from there on it is an edit like any other.
 */

import { sameValue } from "../strategies.js";
import { needsBase } from "./capture.js";
import { idOf, rowOf } from "./rows.js";
import { keyText } from "./schema.js";

/** @typedef {import("dexie").DBCore} DBCore */
/** @typedef {import("../collection.js").LocalCollection} LocalCollection */
/** @typedef {import("./capture.js").EditsRow} EditsRow */
/** @typedef {import("./storage.js").DexieStorage} DexieStorage */
/** @typedef {import("./schema.js").TableOptions} TableOptions */

/**
 * How far this database has been compared: which tables, and at which version of the database.
 * @typedef {{name: "mirror", tables: string[], version: number}} Compared
 */

const EDITS = "$hub_edits";
const META = "$hub_meta";
const KEYS_MAX = 500; // in one entry
const PIECE = 1_000; // rows read at once
const ANY = /** @type {any} */ ({ type: 3 });

/**
 * Declare all rows of a table to be edits that nobody knows the base of, before the device's first sync of it.
 *
 * Edits that were written down meanwhile are of that kind too, where a base counts: what they were made on was
 * never on the hub.
 *
 * @param {DexieStorage} storage
 * @param {string} table
 * @param {TableOptions} options
 * @param {Compared} compared as it is from then on
 * @param {{onlyEmpty: boolean}} how leave a table alone that has rows
 * @returns {Promise<Set<string> | null>} the texts of the keys that are there; null when the table was left alone
 */
export async function declareRows(storage, table, options, compared, { onlyEmpty }) {
  return storage.write([table, EDITS], async (core, trans) => {
    const rows = core.table(table);
    const query = { index: rows.schema.primaryKey, range: ANY };
    if (onlyEmpty && (await rows.count({ trans, query }))) return null;
    const { result: keys } = await rows.query({ trans, values: false, query });
    const edits = await editsOf(core, trans, table);
    if (needsBase(options)) await forgetBases(core, trans, edits);
    await addEdits(core, trans, keys.map((key) => ({ key })), { table, first: true });
    trans.objectStore(META).put(compared);
    return new Set([...keys, ...edits.flatMap((edit) => edit.keys)].map(keyText));
  });
}

/**
 * Find the rows that are not as the engine shows them.  Where an edit speaks of one already, that one says the base.
 *
 * @param {DexieStorage} storage
 * @param {LocalCollection} local
 * @param {TableOptions} options
 * @param {(id: string) => boolean} isKnown the row is spoken of elsewhere
 * @returns {Promise<Set<string>>} the texts of the keys that are there, or spoken of
 */
export async function findEdits(storage, local, options, isKnown) {
  const table = local.name;
  return storage.write([table, EDITS], async (core, trans) => {
    const bodies = new Map(storage.records(local.n).map((record) => [record.key, record.view]));
    const edits = await editsOf(core, trans, table);
    const seen = new Set(edits.flatMap((edit) => edit.keys.map(keyText)));
    /** @type {{key: any, base?: any}[]} */
    const found = [];
    const rows = core.table(table);
    await eachRow(rows, trans, (key, row) => {
      const text = keyText(key);
      seen.add(text);
      const base = rowOf(rows, text, bodies.get(text) ?? null);
      if (base !== null && !isKnown(idOf(table, text)) && !sameValue(row, base)) found.push({ key, base });
    });
    await addEdits(core, trans, found, { table, bases: needsBase(options) });
    return seen;
  });
}

/**
 * @param {import("dexie").DBCoreTable} table
 * @param {any} trans
 * @param {(key: any, row: any) => void} look
 */
async function eachRow(table, trans, look) {
  const index = table.schema.primaryKey;
  const keyOf = /** @type {(row: any) => any} */ (index.extractKey);
  for (let range = ANY; ; ) {
    const { result } = await table.query({ trans, values: true, limit: PIECE, query: { index, range } });
    for (const row of result) look(keyOf(row), row);
    if (result.length < PIECE) return;
    range = { type: 2, lower: keyOf(result[PIECE - 1]), lowerOpen: true };
  }
}

/**
 * @param {DBCore} core
 * @param {any} trans
 * @param {string} table
 * @returns {Promise<EditsRow[]>}
 */
async function editsOf(core, trans, table) {
  const edits = core.table(EDITS);
  const { result } = await edits.query({ trans, values: true, query: { index: edits.schema.primaryKey, range: ANY } });
  return result.filter((edit) => edit.table === table);
}

/**
 * @param {DBCore} core
 * @param {any} trans
 * @param {EditsRow[]} edits
 */
async function forgetBases(core, trans, edits) {
  if (!edits.length) return;
  const values = edits.map(({ bases, ...edit }) => ({ ...edit, first: true }));
  await core.table(EDITS).mutate({ type: "put", trans, values });
}

/**
 * @param {DBCore} core
 * @param {any} trans
 * @param {{key: any, base?: any}[]} found
 * @param {{table: string, first?: boolean, bases?: boolean}} how
 */
async function addEdits(core, trans, found, { table, first, bases }) {
  const values = [];
  for (let from = 0; from < found.length; from += KEYS_MAX) {
    const some = found.slice(from, from + KEYS_MAX);
    const entry = { table, keys: some.map(({ key }) => key), at: Date.now() };
    values.push({ ...entry, ...(first && { first }), ...(bases && { bases: some.map(({ base }) => base) }) });
  }
  if (values.length) await core.table(EDITS).mutate({ type: "add", trans, values });
}
