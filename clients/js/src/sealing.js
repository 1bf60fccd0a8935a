/**
 * Sealing and opening changes, without I/O: the only code that can read a body.
 *
 * A sealed change is `header(112) ‖ nonce(24) ‖ ciphertext ‖ tag(16)`, sealed with
 * XChaCha20-Poly1305; the header is its associated data, so neither a bit of it nor the
 * place it belongs to can be changed.  What is sealed is padded, so that the size tells
 * little: `u32 length ‖ plaintext ‖ zeros`.  docs/protocol.md "Sealed change".
 *
 * The plaintext of a record's change repeats the record's key, `utf8(key) ‖ 0x00 ‖ body`;
 * whoever opens it derives the record id anew and compares.
 */

import { xchacha20poly1305 } from "@noble/ciphers/chacha.js";
import { concat, equal, fromUtf8, u32, utf8 } from "./bytes.js";
import { assert } from "./errors.js";
import { Kind } from "./terms.js";
import {
  FLAG_CONDITIONAL,
  FLAG_PADDED,
  Header,
  HEADER_BYTES,
  NONCE_BYTES,
  parseHeader,
  SUITE,
  VERSION,
} from "./wire/header.js";

/** @typedef {import("./keys.js").SpaceKeys} SpaceKeys */

export const PADDED_BYTES_MIN = 128;
export const RECORD_KEY_BYTES_MAX = 1024;

const LENGTH_BYTES = 4;
const CIPHERTEXT_AT = HEADER_BYTES + NONCE_BYTES;

/** These bytes are no change that a holder of the keys sealed for this place. */
export class Unopenable extends RangeError {
  get name() {
    return this.constructor.name;
  }
}

/** The change was sealed by a holder of the keys, but the key inside is not that of its record id. */
export class WrongRecord extends Unopenable {}

/** @typedef {{ header: Header, plaintext: Uint8Array }} Opened what was sealed, and the header it was sealed with */

/**
 * The sealed change.  `nonce` is 24 random bytes, never used before under these keys.
 * @param {SpaceKeys} keys
 * @param {object} change
 * @param {number} change.kind
 * @param {boolean} change.flagsConditional
 * @param {Uint8Array} change.collectionId
 * @param {Uint8Array} change.recordId
 * @param {Uint8Array} change.changeId
 * @param {Uint8Array} change.deviceId
 * @param {number} change.counter
 * @param {Uint8Array} change.base
 * @param {Uint8Array} change.plaintext
 * @param {Uint8Array} change.nonce
 * @returns {Uint8Array}
 */
export function seal(keys, { kind, flagsConditional, plaintext, nonce, ...fields }) {
  assert(nonce.length === NONCE_BYTES, `a nonce has ${NONCE_BYTES} bytes`);
  assert(typeof flagsConditional === "boolean", "flagsConditional is not told");
  const flags = FLAG_PADDED | (flagsConditional ? FLAG_CONDITIONAL : 0);
  const clear = { version: VERSION, suite: SUITE, kind, flags, keyEpoch: keys.keyEpoch, spaceId: keys.spaceId };
  const header = new Header({ ...clear, ...fields }).pack();
  return concat(header, nonce, cipher(keys, kind, nonce, header).encrypt(padded(plaintext)));
}

/**
 * What was sealed for this collection.  Throws `Unopenable` for everything else, and nothing but it.
 * @param {SpaceKeys} keys
 * @param {Uint8Array} sealed
 * @param {{ collectionId: Uint8Array }} place
 * @returns {Opened}
 */
export function openSealed(keys, sealed, { collectionId }) {
  const header = expectedHeader(keys, sealed, collectionId);
  const nonce = sealed.subarray(HEADER_BYTES, CIPHERTEXT_AT);
  let opened;
  try {
    opened = cipher(keys, header.kind, nonce, sealed.subarray(0, HEADER_BYTES)).decrypt(sealed.subarray(CIPHERTEXT_AT));
  } catch (cause) {
    throw new Unopenable("the seal is broken", { cause });
  }
  return { header, plaintext: header.flags & FLAG_PADDED ? unpadded(opened) : opened };
}

/**
 * What is sealed of a record.  Throws RangeError unless `key` is 1 to 1024 bytes of UTF-8 without NUL.
 * @param {string} key
 * @param {Uint8Array} body
 * @returns {Uint8Array}
 */
export function recordPlaintext(key, body) {
  const encoded = utf8(key);
  if (encoded.length < 1 || encoded.length > RECORD_KEY_BYTES_MAX || encoded.includes(0)) {
    throw new RangeError(`a record's key is 1 to ${RECORD_KEY_BYTES_MAX} bytes of UTF-8 without NUL`);
  }
  return concat(encoded, Uint8Array.of(0), body);
}

/**
 * The record's key and its body.  Throws `WrongRecord` when the key is not the one of the record id.
 * @param {SpaceKeys} keys
 * @param {Opened} opened
 * @returns {[key: string, body: Uint8Array]}
 */
export function splitRecord(keys, opened) {
  const end = opened.plaintext.indexOf(0);
  if (end < 1 || end > RECORD_KEY_BYTES_MAX) throw new WrongRecord("there is no record key inside");
  const key = keyInside(opened.plaintext.subarray(0, end));
  if (!equal(keys.recordId(opened.header.collectionId, key), opened.header.recordId)) {
    throw new WrongRecord("the record key inside is that of another record");
  }
  return [key, opened.plaintext.slice(end + 1)];
}

/**
 * How long a plaintext of that length is once padded: PADME, at least 128 bytes, at most 12 % more.
 * @param {number} plaintextBytes
 * @returns {number}
 */
export function paddedBytes(plaintextBytes) {
  const size = plaintextBytes + LENGTH_BYTES;
  const exponent = bitLength(size) - 1;
  const step = 2 ** (exponent - bitLength(exponent));
  return Math.max(PADDED_BYTES_MIN, Math.ceil(size / step) * step);
}

/** @param {Uint8Array} encoded */
function keyInside(encoded) {
  try {
    return fromUtf8(encoded);
  } catch (cause) {
    throw new WrongRecord("the record key inside is not UTF-8", { cause });
  }
}

/**
 * @param {SpaceKeys} keys
 * @param {Uint8Array} sealed
 * @param {Uint8Array} collectionId
 */
function expectedHeader(keys, sealed, collectionId) {
  let header;
  try {
    header = parseHeader(sealed);
  } catch (cause) {
    throw new Unopenable(/** @type {Error} */ (cause).message, { cause });
  }
  if (!equal(header.spaceId, keys.spaceId)) throw new Unopenable("sealed for another space");
  if (header.keyEpoch !== keys.keyEpoch) throw new Unopenable("sealed under another app key of the space");
  if (!equal(header.collectionId, collectionId)) throw new Unopenable("sealed for another collection");
  return header;
}

/**
 * @param {SpaceKeys} keys
 * @param {number} kind
 * @param {Uint8Array} nonce
 * @param {Uint8Array} associated
 */
function cipher(keys, kind, nonce, associated) {
  return xchacha20poly1305(kind === Kind.WITNESS ? keys.witnessKey : keys.contentKey, nonce, associated);
}

/** @param {Uint8Array} plaintext */
function padded(plaintext) {
  const bytes = new Uint8Array(paddedBytes(plaintext.length));
  bytes.set(u32(plaintext.length));
  bytes.set(plaintext, LENGTH_BYTES);
  return bytes;
}

/** @param {Uint8Array} bytes */
function unpadded(bytes) {
  const length = bytes.length < LENGTH_BYTES ? Infinity : new DataView(bytes.buffer, bytes.byteOffset).getUint32(0);
  const end = LENGTH_BYTES + length;
  if (end > bytes.length || bytes.subarray(end).some(Boolean)) throw new Unopenable("the padding is wrong");
  return bytes.subarray(LENGTH_BYTES, end);
}

/** @param {number} number at least 1 */
function bitLength(number) {
  return 32 - Math.clz32(number);
}
