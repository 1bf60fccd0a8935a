/**
 * What a device, a space and an entry of the audit list are called.
 */

import { short } from "./format.js";
import { hex, names } from "./session.js";
import { has, t } from "./text.js";

/** The name its person gave it, if a key opened it; else what it is. @param {any} device */
export function deviceTitle(device) {
  return names.get(hex(device.deviceId)) ?? (device.scope === "account" ? t("device.dashboard") : device.appId);
}

/** How it came to the account. @param {any} device */
export function enrolledHow(device) {
  const key = `device.via.${device.enrolledVia}`;
  return has(key) ? t(key) : device.enrolledVia;
}

/** Whether it still waits for an older device's word. @param {any} device @param {number} now */
export function onProbation(device, now) {
  return device.probationUntil > now;
}

/**
 * An entry of the audit list as a sentence.
 * @param {any} entry @param {any[]} devices @param {any[]} spaces
 */
export function happening(entry, devices, spaces) {
  const subject = entry.subjectId?.length ? called(entry.subjectId, devices, spaces) : "";
  const key = has(`audit.${entry.what}`) ? `audit.${entry.what}` : "audit.other";
  return t(key, { subject, what: entry.what, count: entry.count ?? 1 });
}

/** Who did it. @param {any} entry @param {any[]} devices */
export function actor(entry, devices) {
  if (entry.actor !== "device") return has(`actor.${entry.actor}`) ? t(`actor.${entry.actor}`) : entry.actor;
  return entry.deviceId?.length ? called(entry.deviceId, devices, []) : t("actor.device");
}

/** @param {Uint8Array} id @param {any[]} devices @param {any[]} spaces */
function called(id, devices, spaces) {
  const wanted = hex(id);
  const device = devices.find(({ deviceId }) => hex(deviceId) === wanted);
  const space = spaces.find(({ spaceId }) => hex(spaceId) === wanted);
  if (device) return `${deviceTitle(device)} (${short(wanted)})`;
  return space ? space.appId : (names.get(wanted) ?? short(wanted));
}
