/**
 * Sync for Dexie: name the tables, and they are the same on all of a person's devices, end-to-end encrypted.
 *
 *     const db = new Dexie("notes", { addons: [hub({ app: "org.example.notes",
 *       tables: { chapters: { conflict: manual }, days: { conflict: counterSum("words") }, tags: {} } })] });
 *     db.version(1).stores({ chapters: "id, order", days: "id", tags: "id", drafts: "++id" });
 *     await db.hub.signIn({ email, code: async ({ phrase }) => prompt(`The code from the mail (${phrase}):`) });
 *
 * The app goes on as before: it writes to its tables and watches them with `liveQuery`.  `db.hub` is described in
 * `shell.js`.  This room is all that a page loads to start; the engine comes when a tab leads and a person is signed
 * in.
 */

import { installCapture } from "./capture.js";
import { installSchema } from "./schema.js";
import { Hub } from "./shell.js";

export { Hub };
export {
  Conflict,
  MANUAL,
  MINE,
  MISSING,
  Merged,
  THEIRS,
  byField,
  counterSum,
  lastWriterWins,
  manual,
  mergeLines,
  perField,
  setUnion,
  threeWayText,
} from "../strategies.js";

/** @typedef {import("../strategies.js").Answer} Answer */
/** @typedef {import("../strategies.js").Strategy} Strategy */
/** @typedef {import("./leading.js").HubDevice} HubDevice */
/** @typedef {import("./conflicts.js").WaitingConflict} WaitingConflict */
/** @typedef {import("./shell.js").HubChannel} HubChannel */
/** @typedef {import("./shell.js").HubOptions} HubOptions */
/** @typedef {import("./shell.js").Pairing} Pairing */
/** @typedef {import("./shell.js").RowVersion} RowVersion */
/** @typedef {import("./status.js").HubStatus} HubStatus */

/**
 * The add-on: `new Dexie(name, { addons: [hub(options)] })` has a `hub`.
 *
 * Throws TypeError for options that make no sense.
 *
 * @param {HubOptions} options
 * @returns {(db: import("dexie").Dexie) => void}
 */
export function hub(options) {
  if (typeof options?.app !== "string" || !options.app) {
    throw new TypeError('hub: say which app this is, like app: "org.example.notes"');
  }
  return (db) => {
    installSchema(db, options);
    installCapture(db, options);
    /** @type {any} */ (db).hub = new Hub(db, options);
  };
}
