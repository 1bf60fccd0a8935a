/**
 * The app key out of whatever a person typed, pasted or scanned: a key code, the text of its QR code, or words.
 */

import { parseKeyCode } from "./keycode.js";

/**
 * The app key and its key_epoch.  Throws WrongKeyCode.
 *
 * @param {string} text
 * @returns {Promise<{ appKey: Uint8Array, keyEpoch: number }>}
 */
export async function typedKey(text) {
  if (isKeyCode(text)) return parseKeyCode(text);
  const { parseKeyWords } = await import("./words.js"); // a list of words, which few type
  return parseKeyWords(text);
}

/** @param {string} text */
function isKeyCode(text) {
  return text.replace(/[\s-]/g, "").toUpperCase().startsWith("HUBKEY") || text.trim().split(/\s+/).length < 12;
}
