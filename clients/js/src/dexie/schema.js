/**
 * What the add-on asks of an app's schema: hidden tables beside the app's own, and primary keys that every device can
 * make by itself.
 *
 * The hidden tables join every version the app declares; the app neither declares nor sees them.  Should it have
 * opened its database without the add-on before, Dexie adds them at the next opening.
 *
 * A record is known to the other devices by its primary key as text.  A string is its own text, so that a program in
 * another language finds record "first" under "first"; what is no such string is "=" and JSON.
 */

import { Dexie } from "dexie";

import { hex } from "../bytes.js";
import { DEVICES } from "../names.js";

/** @typedef {string | number | Date | ArrayBuffer | ArrayBufferView | any[]} RowKey a key as IndexedDB takes it */
/** @typedef {{conflict?: import("../strategies.js").Strategy}} TableOptions */
/** @typedef {Record<string, TableOptions>} SyncedTables the tables that sync, by name */

/**
 * The tables of the add-on: the engine's, named and keyed as `storage/tables.js` has them; the edits the engine has
 * not taken yet; and the conflicts that wait for a person.
 */
export const HIDDEN = Object.freeze({
  $hub_meta: "name",
  $hub_settings: "name",
  $hub_collections: "n",
  $hub_records: "[collection+row.key]",
  $hub_deltas: "[collection+key+delta.changeId]",
  $hub_outbox: "n",
  $hub_live: "[collection+recordId]",
  $hub_alarms: "n",
  $hub_edits: "++n",
  $hub_conflicts: "[table+id]",
});

const PREFIX = "$hub_";

/**
 * Join the hidden tables to every version the app declares, and refuse what cannot be synced: an unknown option at
 * once, a table that is not fit for it when the database is opened.  Throws Dexie.SchemaError.
 *
 * @param {Dexie} db
 * @param {{tables: SyncedTables}} options
 */
export function installSchema(db, { tables }) {
  checkOptions(tables);
  joinHidden(db);
  hideHidden(db);
  // Sticky, and before any other: an app must not go on with a table that it believes to be synced.
  db.on("ready", () => Object.keys(tables).forEach((name) => checkTable(db, name)), true);
}

/** @param {string} name */
export function isHidden(name) {
  return name.startsWith(PREFIX);
}

/** @param {Dexie} db */
function joinHidden(db) {
  const prototype = /** @type {any} */ (db).Version.prototype;
  prototype.stores = Dexie.override(prototype.stores, (original) => {
    return /** @this {any} @param {Record<string, string | null>} stores */ function (stores) {
      const taken = Object.keys(stores).find(isHidden);
      if (taken) throw schemaError(`the name "${taken}" is taken: "${PREFIX}..." is where sync keeps its own data`);
      return original.call(this, { ...stores, ...HIDDEN });
    };
  });
}

/**
 * What an app does with all its tables (clear, export, one transaction over all) it does not mean to do with these.
 * @param {Dexie} db
 */
function hideHidden(db) {
  const all = () => /** @type {any} */ (db)._allTables;
  const get = () => Object.keys(all()).filter((name) => !isHidden(name)).map((name) => all()[name]);
  Object.defineProperty(db, "tables", { get, configurable: true });
}

// --- what cannot be synced -------------------------------------------------------------------

/** @param {SyncedTables} tables */
function checkOptions(tables) {
  if (typeof tables !== "object" || tables === null) {
    throw schemaError('name the tables that sync: hub({ app, tables: { notes: {} } })');
  }
  for (const [name, options] of Object.entries(tables)) {
    const of = `of table "${name}"`;
    if (isHidden(name) || name === DEVICES) throw schemaError(`the name "${name}" is taken by sync itself`);
    if (typeof options !== "object" || options === null) throw schemaError(`the options ${of} are an object, or {}`);
    const unknown = Object.keys(options).find((option) => option !== "conflict");
    if (unknown) throw schemaError(`there is no option "${unknown}" ${of}; there is "conflict"`);
    const { conflict } = options;
    if (conflict !== undefined && typeof conflict !== "function") {
      throw schemaError(`"conflict" ${of} is a function: manual, perField, counterSum("field"), or one of your own`);
    }
  }
}

/** @param {Dexie} db @param {string} name */
function checkTable(db, name) {
  const found = /** @type {any} */ (db)._allTables[name];
  if (!found) throw schemaError(`table "${name}" is to sync, but no version of database "${db.name}" declares it`);
  const { auto, keyPath } = found.schema.primKey;
  const advice =
    `declare it with a key that every device can make by itself, as in { ${name}: "id, ..." }; ` +
    "a row without an id is given one. Since IndexedDB cannot change a table's primary key, move existing rows to a " +
    "new table in version().upgrade().";
  if (auto) {
    throw schemaError(`table "${name}" counts its keys up (++), and two devices would count to the same: ${advice}`);
  }
  if (!keyPath) throw schemaError(`the rows of table "${name}" do not contain their key: ${advice}`);
}

/** @param {string} message */
function schemaError(message) {
  return new /** @type {any} */ (Dexie).SchemaError(`sync-hub: ${message}`);
}

// --- key text --------------------------------------------------------------------------------

/**
 * The text of a primary key: another for another key, the same on every device.  Throws TypeError for what is no key.
 *
 * @param {RowKey} key
 * @returns {string}
 */
export function keyText(key) {
  return typeof key === "string" && isPlainText(key) ? key : `=${JSON.stringify(told(key))}`;
}

/**
 * The key of a text, binary as Uint8Array.  Throws RangeError for what is no key's text.
 *
 * @param {string} text
 * @returns {RowKey}
 */
export function keyOfText(text) {
  if (!text.startsWith("=")) return text;
  try {
    return heard(JSON.parse(text.slice(1)));
  } catch (cause) {
    throw new RangeError(`no primary key has the text ${JSON.stringify(text)}`, { cause });
  }
}

/**
 * Whether it can be a record's key as it is: not empty, without NUL, without half a surrogate pair.
 * @param {string} text
 */
function isPlainText(text) {
  return text !== "" && !text.startsWith("=") && !/[\0]|\p{Surrogate}/u.test(text);
}

/**
 * As JSON, which writes every string in ASCII escapes where it must.
 * @param {any} key
 * @returns {any}
 */
function told(key) {
  if (typeof key === "string") return key;
  if (typeof key === "number" && !Number.isNaN(key)) return Number.isFinite(key) ? key : { number: String(key) };
  if (Array.isArray(key)) return Array.from(key, told);
  const tag = Object.prototype.toString.call(key);
  if (tag === "[object Date]" && !Number.isNaN(key.getTime())) return { date: key.getTime() };
  if (tag === "[object ArrayBuffer]") return { bytes: hex(new Uint8Array(key)) };
  if (ArrayBuffer.isView(key)) return { bytes: hex(new Uint8Array(key.buffer, key.byteOffset, key.byteLength)) };
  throw new TypeError("a primary key is a string, a number, a Date, bytes, or an array of these");
}

/**
 * @param {any} json
 * @returns {RowKey}
 */
function heard(json) {
  if (typeof json === "string" || typeof json === "number") return json;
  if (Array.isArray(json)) return json.map(heard);
  const { number, date, bytes } = json;
  if (number === "Infinity" || number === "-Infinity") return Number(number);
  if (Number.isFinite(date)) return new Date(date);
  if (typeof bytes === "string" && /^([0-9a-f]{2})*$/.test(bytes)) return unhex(bytes);
  throw new RangeError("neither a number, a date nor bytes");
}

/** @param {string} text */
function unhex(text) {
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

// --- ids -------------------------------------------------------------------------------------

let lastMs = 0;
let lastOfMs = 0;

/**
 * An id for a new row, a UUIDv7: ids made later by this page sort later, and no two devices make the same.
 * @returns {string}
 */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const now = Date.now();
  // Within a millisecond, and while the clock goes back, the twelve bits behind the time count up.
  lastOfMs = now > lastMs ? ((bytes[6] & 7) << 8) | bytes[7] : lastOfMs + 1;
  if (now > lastMs) lastMs = now;
  if (lastOfMs > 0xfff) [lastMs, lastOfMs] = [lastMs + 1, 0];
  const view = new DataView(bytes.buffer);
  view.setUint32(0, Math.floor(lastMs / 0x10000));
  view.setUint16(4, lastMs % 0x10000);
  view.setUint16(6, 0x7000 | lastOfMs);
  bytes[8] = 0x80 | (bytes[8] & 0x3f);
  return hex(bytes).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
