/**
 * HMAC-SHA256 under a key that is used again and again, without I/O.
 *
 * Half the work of a short HMAC is taking in the key.  That is done once for each key and kept for as long as the
 * key's own array lives; so a key that went in must not be altered afterwards.
 */

import { hmac } from "@noble/hashes/hmac.js";
import { sha256 } from "@noble/hashes/sha2.js";

/** @typedef {ReturnType<typeof hmac.create>} Hmac */

/** @type {WeakMap<Uint8Array, Hmac>} */
const begun = new WeakMap();
/** @type {Hmac | undefined} what the last one was worked out in */
let scratch;

/**
 * The 32 bytes of HMAC-SHA256 of all parts one after another.
 * @param {Uint8Array} key
 * @param {...Uint8Array} parts
 * @returns {Uint8Array}
 */
export function mac(key, ...parts) {
  let keyed = begun.get(key);
  if (!keyed) begun.set(key, (keyed = hmac.create(sha256, key)));
  scratch = /** @type {Hmac} */ (keyed._cloneInto(scratch));
  for (const part of parts) scratch.update(part);
  return scratch.digest();
}
