/**
 * Ephemeral messages between the devices of a space, sealed, without I/O.
 *
 * `nonce(24) ‖ ciphertext ‖ tag(16)`, XChaCha20-Poly1305 under a key of its own; the space
 * and the sending device are associated data, so the hub can neither read a signal nor put
 * another sender's name on it.  docs/protocol.md "Signals".
 */

import { xchacha20poly1305 } from "@noble/ciphers/chacha.js";
import { concat, utf8 } from "./bytes.js";
import { assert } from "./errors.js";
import { hkdf } from "./keys.js";
import { LABEL } from "./signing.js";
import { NONCE_BYTES } from "./wire/header.js";

/** @typedef {import("./keys.js").SpaceKeys} SpaceKeys */

/**
 * The sealed signal of this device.  `nonce` is 24 random bytes, never used before.
 * @param {SpaceKeys} keys
 * @param {Uint8Array} deviceId
 * @param {Uint8Array} body
 * @param {Uint8Array} nonce
 * @returns {Uint8Array}
 */
export function sealSignal(keys, deviceId, body, nonce) {
  assert(nonce.length === NONCE_BYTES, `a nonce has ${NONCE_BYTES} bytes`);
  return concat(nonce, cipher(keys, deviceId, nonce).encrypt(body));
}

/**
 * What `deviceId` sealed; null when it did not.
 * @param {SpaceKeys} keys
 * @param {Uint8Array} deviceId
 * @param {Uint8Array} sealed
 * @returns {Uint8Array | null}
 */
export function openSignal(keys, deviceId, sealed) {
  try {
    return cipher(keys, deviceId, sealed.slice(0, NONCE_BYTES)).decrypt(sealed.slice(NONCE_BYTES));
  } catch {
    // Too short, or not sealed by this device with this key.
    return null;
  }
}

/**
 * @param {SpaceKeys} keys
 * @param {Uint8Array} deviceId
 * @param {Uint8Array} nonce
 */
function cipher(keys, deviceId, nonce) {
  const key = hkdf(keys.contentKey, keys.spaceId, concat(LABEL, utf8("signal")));
  return xchacha20poly1305(key, nonce, concat(LABEL, utf8("signal\0"), keys.spaceId, deviceId));
}
