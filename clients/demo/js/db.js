/**
 * The database: one Dexie database, three synced tables, one that stays on this device.
 *
 * This is all it takes to sync: name the tables and say how conflicts in them are settled. Everything
 * else in this app is plain Dexie and would work without a hub.
 */

import Dexie from "/client/dexie.js";
import { counterSum, hub } from "/client/hub-dexie.js";
import { chapterConflict } from "./strategy.js";

export const APP = "org.example.quire"; // your own name here: it separates the apps of one account

export const db = new Dexie("quire", {
  addons: [
    hub({
      app: APP,
      tables: {
        chapters: { conflict: chapterConflict }, // { id, order, title, text }
        days: { conflict: counterSum("words") }, // { id: "2026-05-03", words }: both devices' words add up
        settings: {}, // { id, value }: the goal, and what each device is called; the last edit stands
      },
    }),
  ],
});

db.version(1).stores({
  chapters: "id, order",
  days: "id",
  settings: "id",
  device: "id", // { id, value }: not named above, so it never leaves this device
});

/** What this device remembers for itself. @param {string} id @returns {Promise<any>} */
export async function recall(id) {
  return (await db.device.get(id))?.value;
}

/** @param {string} id @param {any} value */
export async function remember(id, value) {
  await db.device.put({ id, value });
}

export const GOAL = 300; // words a day, until the writer says otherwise
