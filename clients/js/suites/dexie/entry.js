/**
 * What a page of the suite loads before Dexie's tests: with `?with=hub` every database they make has the add-on, and
 * every table of theirs that it can sync is captured.
 */

import { Dexie } from "dexie";

import { setCapturing } from "../../src/dexie/capture.js";
import { hub } from "../../src/dexie/index.js";

/** What the add-on did; the runner looks whether it was anything. */
const seen = { databases: new Set(), tables: new Set(), edits: 0 };
/** @type {any} */ (globalThis).captured = () => ({ ...seen, databases: seen.databases.size, tables: seen.tables.size });

if (new URLSearchParams(location.search).get("with") === "hub") Dexie.addons.push(captured);

/** @param {any} db */
function captured(db) {
  /** @type {Record<string, {}>} */
  const tables = {};
  hub({ app: "org.example.suite", tables })(db);
  follow(db, tables);
  // As the database is made, so that no opening waits for it; some tests stop the making.
  db.on("populate", () => void setCapturing(db, true).catch(() => undefined));
  db.on("ready", () => opened(db, tables), true);
  db.use({ stack: "dbcore", name: "counted", level: -1, create: counted });
}

/**
 * Each version may add tables, drop them, or give them other keys.
 *
 * @param {any} db @param {Record<string, {}>} tables
 */
function follow(db, tables) {
  const { prototype } = db.Version;
  const { stores } = prototype;
  prototype.stores = function (/** @type {Record<string, string | null>} */ declared) {
    const version = stores.call(this, declared);
    for (const [name, schema] of Object.entries(declared)) {
      if (schema !== null && canSync(schema)) tables[name] = {};
      else delete tables[name];
    }
    return version;
  };
}

/** Whether a table's rows contain their key, and do not count it up.  @param {string} schema */
function canSync(schema) {
  const [key] = schema.split(",");
  return key.trim() !== "" && !key.includes("++");
}

/** @param {any} db @param {Record<string, {}>} tables */
function opened(db, tables) {
  seen.databases.add(db.name);
  for (const name of Object.keys(tables)) seen.tables.add(`${db.name} ${name}`);
}

/** @param {any} core */
function counted(core) {
  const table = (/** @type {string} */ name) => {
    const below = core.table(name);
    if (name !== "$hub_edits") return below;
    const mutate = (/** @type {any} */ request) => {
      if (request.type === "add") for (const row of request.values) seen.edits += row.keys.length;
      return below.mutate(request);
    };
    return { ...below, mutate };
  };
  return { ...core, table };
}
