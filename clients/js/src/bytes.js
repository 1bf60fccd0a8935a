/**
 * Bytes: what every room does with them, without I/O.
 *
 * Ids and sealed bytes are Uint8Array.  A Uint8Array is no key of a Map, so tables
 * keyed by an id use its `hex`.  Random bytes are never made here but handed in.
 */

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));
const ASCII_AT_ONCE = 64; // up to there a loop is several times quicker than TextEncoder
const UTF8 = new TextEncoder();
const FROM_UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
// With the flag u a pair is one character, so this finds only halves that stand alone.
const LONE_SURROGATE = /[\ud800-\udfff]/u;

/**
 * The bytes as lower-case hex digits; the form in which an id is the key of a Map.
 * @param {Uint8Array} bytes
 * @returns {string}
 */
export function hex(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at++) text += HEX[bytes[at]];
  return text;
}

/**
 * The bytes of hex digits.  Throws RangeError for anything else.
 * @param {string} text
 * @returns {Uint8Array}
 */
export function unhex(text) {
  if (!/^(?:[0-9a-f]{2})*$/i.test(text)) throw new RangeError("these are no hex digits in pairs");
  return Uint8Array.from({ length: text.length / 2 }, (_, at) => parseInt(text.slice(2 * at, 2 * at + 2), 16));
}

/**
 * Whether both hold the same bytes.  Not for secrets: it stops at the first difference.
 * @param {Uint8Array} one
 * @param {Uint8Array} other
 * @returns {boolean}
 */
export function equal(one, other) {
  if (one.length !== other.length) return false;
  for (let at = 0; at < one.length; at++) if (one[at] !== other[at]) return false;
  return true;
}

/**
 * The order of the bytes as Python's `<` has it: below zero, zero or above zero; what ends first comes first.
 * @param {Uint8Array} one
 * @param {Uint8Array} other
 * @returns {number}
 */
export function compare(one, other) {
  const end = Math.min(one.length, other.length);
  for (let at = 0; at < end; at++) if (one[at] !== other[at]) return one[at] - other[at];
  return one.length - other.length;
}

/**
 * All parts one after another, in a new array.
 * @param {...Uint8Array} parts
 * @returns {Uint8Array}
 */
export function concat(...parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/**
 * Whether the text has a half character, which UTF-8 cannot write.
 * @param {string} text
 * @returns {boolean}
 */
export function hasLoneSurrogate(text) {
  return LONE_SURROGATE.test(text);
}

/**
 * The text in UTF-8.  Throws RangeError for a lone surrogate, which TextEncoder alone would replace without a word.
 * @param {string} text
 * @returns {Uint8Array}
 */
export function utf8(text) {
  if (text.length <= ASCII_AT_ONCE) {
    const bytes = new Uint8Array(text.length);
    let at = 0;
    for (let code; at < text.length && (code = text.charCodeAt(at)) < 0x80; at++) bytes[at] = code;
    if (at === text.length) return bytes;
  }
  if (hasLoneSurrogate(text)) throw new RangeError("half a character (a lone surrogate) has no place in UTF-8");
  return UTF8.encode(text);
}

/**
 * The text of UTF-8 bytes, a byte order mark kept.  Throws RangeError when they are not UTF-8.
 * @param {Uint8Array} bytes
 * @returns {string}
 */
export function fromUtf8(bytes) {
  try {
    return FROM_UTF8.decode(bytes);
  } catch (cause) {
    throw new RangeError("the bytes are not UTF-8", { cause });
  }
}

/**
 * A u32 in four bytes, big-endian.
 * @param {number} number
 * @returns {Uint8Array}
 */
export function u32(number) {
  const bytes = new Uint8Array(4);
  putU32(bytes, 0, number);
  return bytes;
}

/**
 * A u64 in eight bytes, big-endian, or a negative number as an i64; as a number it is safe, as a BigInt it fits.
 * @param {number | bigint} number
 * @returns {Uint8Array}
 */
export function u64(number) {
  const bytes = new Uint8Array(8);
  if (typeof number === "bigint") new DataView(bytes.buffer).setBigUint64(0, number);
  else {
    putU32(bytes, 0, Math.floor(number / 2 ** 32));
    putU32(bytes, 4, number);
  }
  return bytes;
}

/**
 * Without a DataView: asking a short array for its buffer costs more than all of this.
 * @param {Uint8Array} bytes
 * @param {number} at
 * @param {number} number
 */
function putU32(bytes, at, number) {
  bytes[at] = number >>> 24;
  bytes[at + 1] = number >>> 16;
  bytes[at + 2] = number >>> 8;
  bytes[at + 3] = number;
}
