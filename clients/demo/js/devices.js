/**
 * What the devices are called. The hub knows no names: they are rows of the app, sealed as all others.
 */

import { db, recall, remember } from "./db.js";

/** A guess from what the browser tells of itself, such as "Firefox on Android". */
export function guessName() {
  const agent = navigator.userAgent;
  const first = (/** @type {[RegExp, string][]} */ list) => list.find(([pattern]) => pattern.test(agent))?.[1];
  const browser = first([
    [/Edg\//, "Edge"],
    [/OPR\//, "Opera"],
    [/Firefox\//, "Firefox"],
    [/Chrom(e|ium)\//, "Chrome"],
    [/Safari\//, "Safari"],
  ]);
  const system = first([
    [/Android/, "Android"],
    [/iPhone/, "iPhone"],
    [/iPad/, "iPad"],
    [/Windows/, "Windows"],
    [/Mac OS/, "Mac"],
    [/CrOS/, "ChromeOS"],
    [/Linux/, "Linux"],
  ]);
  return [browser ?? "A browser", system].filter(Boolean).join(" on ");
}

/** The row that holds a device's name. @param {string} id  as `db.hub.devices()` has it */
export function nameRow(id) {
  return `device ${id}`;
}

/** Give this device its name, once it is in step and has none. */
export function nameThisDevice() {
  db.hub.status.subscribe(async (/** @type {any} */ status) => {
    if (status.phase !== "synced" || !status.leader || !db.hub.deviceId) return;
    const id = nameRow(db.hub.deviceId);
    if ((await recall("named")) === id) return;
    await db.transaction("rw", db.settings, db.device, async () => {
      if (!(await db.settings.get(id))) await db.settings.put({ id, value: guessName() });
      await remember("named", id);
    });
  });
}
