/**
 * What the hidden tables tell by themselves, without the engine: enough for a tab that opens, and to decide whether
 * the engine is wanted at all.
 */

import { fromUtf8, hex } from "../bytes.js";

/** @typedef {import("dexie").Dexie} Dexie */
/** @typedef {import("./status.js").Report} Report */

const [ACKED, PARKED] = [2, 4]; // of `State`: rows of the outbox that wait for nothing, or for a person

/**
 * Whether the hub has taken this device in.
 *
 * @param {Dexie} db
 * @returns {Promise<boolean>}
 */
export async function isSignedIn(db) {
  return Boolean(await db.table("$hub_settings").get("account_id"));
}

/**
 * The report of a leader that has no engine, or that has not told anything yet.
 *
 * @param {Dexie} db
 * @returns {Promise<Report>}
 */
export async function readReport(db) {
  return db.transaction("r", ["$hub_settings", "$hub_outbox", "$hub_alarms"], async () => {
    /** @type {{name: string, value: any}[]} */
    const rows = await db.table("$hub_settings").bulkGet(SETTINGS);
    const set = new Map(rows.filter(Boolean).map(({ name, value }) => [name, value]));
    const outbox = await db.table("$hub_outbox").filter(({ state }) => state !== ACKED && state !== PARKED).toArray();
    const alarms = (await db.table("$hub_alarms").toArray()).map(({ alarm }) => ({ ...alarm }));
    return {
      phase: phaseOf(set, alarms.length > 0),
      unsynced: outbox.length,
      oldestAt: outbox.length ? outbox.reduce((oldest, row) => Math.min(oldest, row.writtenAt), Infinity) : 0,
      progress: { done: 0, remaining: outbox.length },
      lastAppendedAt: 0,
      headSeenAt: 0,
      alarms,
      error: textOf(set.get("blocked")),
      movedTo: textOf(set.get("moved_to")),
      wiped: set.has("wiped"),
      deviceId: set.has("account_id") ? hex(set.get("device_id")) : "",
    };
  });
}

const SETTINGS = ["mode", "blocked", "account_id", "app_key", "wiped", "device_id", "moved_to"];

/**
 * As `Engine` has it, as far as that can be known without a line.
 *
 * @param {Map<string, any>} set @param {boolean} alarmed
 * @returns {import("../engine.js").Phase}
 */
function phaseOf(set, alarmed) {
  if (textOf(set.get("mode")) === "off") return "off";
  if (set.has("blocked")) return "blocked";
  if (!set.has("account_id")) return "signed-out";
  if (!set.has("app_key")) return "needs-key";
  return alarmed ? "alarm" : "connecting";
}

/** @param {Uint8Array | undefined} bytes */
function textOf(bytes) {
  return bytes ? fromUtf8(bytes) : "";
}
