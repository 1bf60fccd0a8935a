/**
 * The conflicts that wait for a person, as any tab can read and settle them: the tab that leads carries it out.
 */

import { beneath } from "./capture.js";
import { keyText } from "./schema.js";

/** @typedef {import("dexie").Dexie} Dexie */

/**
 * Two edits of one row, of which a person must choose or make one; a value that is undefined is not there.
 *
 * @typedef {object} WaitingConflict
 * @property {string} table
 * @property {any} key
 * @property {any} base what both were made on, undefined also when nobody knows
 * @property {any} mine the row as it is here
 * @property {any} theirs the row as it is on the hub
 * @property {string} reason "conflict", or why the row could not be synced
 * @property {string} [stamp] another one for another `mine`
 */

const CONFLICTS = "$hub_conflicts";
const EDITS = "$hub_edits";

/**
 * All of them, by table and key.
 *
 * @param {Dexie} db
 * @returns {Promise<WaitingConflict[]>}
 */
export async function readConflicts(db) {
  const rows = await db.table(CONFLICTS).toArray();
  return rows.map(({ table, key, base, mine, theirs, reason, stamp }) => {
    return { table, key, base, mine, theirs, reason, stamp };
  });
}

/**
 * Settle a conflict with this value, undefined to delete the row.  Seen in the table at once and durable here when it
 * resolves; the other devices get it when the tab that leads has told the hub.
 *
 * `seen` is the conflict as the person saw it, by default as it is now.  When the hub's value is another than they saw,
 * theirs is a conflict with that one again, or merged with it.  Throws RangeError when no conflict of this row waits,
 * when the value is of another key, and when the row here is another than they saw, or was edited a moment ago.
 *
 * @param {Dexie} db
 * @param {string} table
 * @param {any} key
 * @param {any} value
 * @param {{theirs?: any, stamp?: string} | null} [seen]
 * @returns {Promise<void>}
 */
export async function resolveConflict(db, table, key, value, seen = null) {
  const text = keyText(key);
  await db.transaction("rw!", [table, EDITS, CONFLICTS], async (tx) => {
    const trans = /** @type {any} */ (tx).idbtrans;
    const core = beneath(db);
    const rows = core.table(table);
    const extract = /** @type {(value: any) => any} */ (rows.schema.primaryKey.extractKey);
    if (value !== undefined && keyText(extract(value)) !== text) {
      throw new RangeError(`the value is not of row ${JSON.stringify(text)}`);
    }
    const waits = await core.table(CONFLICTS).get({ trans, key: [table, text] });
    if (!waits) throw new RangeError(`no conflict of ${JSON.stringify(text)} in "${table}" waits for a person`);
    if ((seen && seen.stamp !== waits.stamp) || (await isEdited(core.table(EDITS), trans, table, text))) {
      throw new RangeError(`row ${JSON.stringify(text)} in "${table}" was edited just now; look at the conflict again`);
    }
    const before = await rows.get({ trans, key });
    if (value === undefined) await rows.mutate({ type: "delete", trans, keys: [key] });
    else await rows.mutate({ type: "put", trans, values: [value] });
    const edit = { table, keys: [key], bases: [before], at: Date.now(), resolve: { theirs: (seen ?? waits).theirs } };
    await core.table(EDITS).mutate({ type: "add", trans, values: [edit] });
    await core.table(CONFLICTS).mutate({ type: "delete", trans, keys: [[table, text]] });
  });
}

/**
 * Whether the conflict does not show yet what the row is like.
 *
 * @param {import("dexie").DBCoreTable} edits
 * @param {any} trans
 * @param {string} table
 * @param {string} text
 */
async function isEdited(edits, trans, table, text) {
  const query = { index: edits.schema.primaryKey, range: /** @type {any} */ ({ type: 3 }) };
  const { result } = await edits.query({ trans, values: true, query });
  return result.some((edit) => edit.table === table && edit.keys.map(keyText).includes(text));
}
