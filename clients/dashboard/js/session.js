/**
 * This page's device: the client that speaks with the hub, and what was learnt for as long as the page is open.
 */

import { AccountClient, hex } from "/client/hub-account.js";

export { hex };

/** @type {any} */
export let client = null;

/** Names of devices by hex id, opened with a key that the person gave to this page. @type {Map<string, string>} */
export const names = new Map();
/** Spaces whose key was given, as hex. @type {Set<string>} */
export const opened = new Set();

/** What notices told since the last `ready`: when the account's own deletion takes effect, 0 = none is under way. */
export const account = { deletedAt: 0 };

/** Open the database of this device; nothing is dialled before `client.start()`. */
export async function openSession() {
  client = await AccountClient.open({ name: "dashboard" });
  return client;
}

/** @param {string} text  key code, QR text or words; throws when it is none, or opens nothing of this account */
export async function useKey(text) {
  const { spaceId, appId } = await client.enterWithKey(text);
  opened.add(hex(spaceId));
  await learnNames(spaceId);
  return { spaceId, appId };
}

/** @param {Uint8Array} spaceId */
async function learnNames(spaceId) {
  for (const [id, name] of await client.names(spaceId)) names.set(id, name);
}

/** Forget every key and what it opened. */
export function forgetKeys() {
  client.forgetKeys();
  names.clear();
  opened.clear();
}

/** Whether this is the device the page runs on. @param {Uint8Array} id */
export function isThis(id) {
  return Boolean(client.deviceId) && hex(client.deviceId) === hex(id);
}

/** Now, by the clock of this device, in seconds. */
export function now() {
  return Date.now() / 1000;
}
