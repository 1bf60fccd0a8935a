/**
 * The app key as text, without I/O.
 *
 * A key code is what a person prints, keeps, types and scans: `HUBKEY1` and 67 letters,
 * bech32m (BIP-350) over `u8 version ‖ u8 type ‖ u32 key_epoch ‖ app_key(32)`.  Its checksum
 * finds every mistyped letter and every swap of neighbours; reading forgives spaces, dashes,
 * line breaks and lower case, and says in a sentence what is wrong.
 * docs/protocol.md "Key code".
 */

import { concat, u32 } from "./bytes.js";
import { assert } from "./errors.js";
import { APP_KEY_BYTES, KEY_EPOCH_MAX } from "./keys.js";

export const GROUP_CHARS = 5;

const PAYLOAD_BYTES = 6 + APP_KEY_BYTES;
const VERSION = 1;
const APP_KEY = 0; // the only type so far
const LETTERS = "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L";
const CHECKSUM_LETTERS = 6;
const BECH32M = 0x2bc830a3;
const GENERATORS = [0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3];
// What people and printers put between groups: blanks of all kinds, hyphens, dashes, the minus sign.
const BETWEEN_GROUPS = /[\s\x1c-\x1f\x85\-\u00ad\u2010-\u2015\u2212\u200b\ufeff]+/g;

/** The text is no code of the kind asked for; the message is a sentence for the person who typed it. */
export class WrongKeyCode extends RangeError {
  get name() {
    return "WrongKeyCode";
  }
}

/** One kind of code: how it begins, what people call it, and how many bytes it carries. */
export class CodeKind {
  /**
   * @param {string} prefix
   * @param {string} name
   * @param {number} payloadBytes
   */
  constructor(prefix, name, payloadBytes) {
    this.prefix = prefix;
    this.name = name;
    this.chars = prefix.length + 1 + Math.ceil((8 * payloadBytes) / 5) + CHECKSUM_LETTERS;
    this._payloadBytes = payloadBytes;
  }

  /**
   * The code, upper case, that `read` reads back.
   * @param {Uint8Array} payload
   * @returns {string}
   */
  write(payload) {
    assert(payload.length === this._payloadBytes, `a ${this.name} carries ${this._payloadBytes} bytes`);
    const values = toFives(payload);
    const checksum = polymod([...this._expandedPrefix(), ...values, ...Array(CHECKSUM_LETTERS).fill(0)]) ^ BECH32M;
    for (let place = CHECKSUM_LETTERS - 1; place >= 0; place--) values.push((checksum >>> (5 * place)) & 31);
    return `${this.prefix}1${values.map((value) => LETTERS[value]).join("")}`;
  }

  /**
   * The payload; a `/HOST` behind the code is left out.  Throws `WrongKeyCode`.
   * @param {string} text
   * @returns {Uint8Array}
   */
  read(text) {
    const payload = toBytes(this._checkedValues(this._tidy(text)).slice(0, -CHECKSUM_LETTERS));
    if (payload) return payload;
    throw new WrongKeyCode(`The ${this.name} is not in the form that apps write; please compare it with the original.`);
  }

  /** @param {string} text */
  _tidy(text) {
    const code = text.split("/")[0].replace(BETWEEN_GROUPS, "").toUpperCase();
    if (!code) throw new WrongKeyCode(`There is no ${this.name} here.`);
    if (!code.startsWith(`${this.prefix}1`)) {
      throw new WrongKeyCode(`A ${this.name} begins with ${this.prefix}1; this is something else.`);
    }
    return code;
  }

  /** @param {string} code */
  _checkedValues(code) {
    const letters = [...code];
    const values = letters.slice(this.prefix.length + 1).map((letter, at) => {
      if (LETTERS.includes(letter)) return LETTERS.indexOf(letter);
      const place = at + this.prefix.length + 2;
      throw new WrongKeyCode(`Character ${place} of the ${this.name} is '${letter}', which no ${this.name} contains.`);
    });
    if (letters.length !== this.chars) {
      const many = letters.length < this.chars ? "few" : "many";
      const counted = `${letters.length} instead of ${this.chars}`;
      throw new WrongKeyCode(`The ${this.name} has too ${many} characters: ${counted}.`);
    }
    if (polymod([...this._expandedPrefix(), ...values]) !== BECH32M) {
      throw new WrongKeyCode(`A character of the ${this.name} is wrong; please compare it with the original.`);
    }
    return values;
  }

  _expandedPrefix() {
    const codes = [...this.prefix.toLowerCase()].map((letter) => letter.charCodeAt(0));
    return [...codes.map((code) => code >> 5), 0, ...codes.map((code) => code & 31)];
  }
}

export const KEY_CODE = new CodeKind("HUBKEY", "key code", PAYLOAD_BYTES);
export const { prefix: PREFIX, chars: CODE_CHARS } = KEY_CODE;

/**
 * The 74 characters, upper case, that `parseKeyCode` reads back.
 * @param {Uint8Array} appKey
 * @param {number} keyEpoch
 * @returns {string}
 */
export function keyCode(appKey, keyEpoch) {
  assert(appKey.length === APP_KEY_BYTES, "an app key has 32 bytes");
  assert(Number.isInteger(keyEpoch) && keyEpoch >= 0 && keyEpoch <= KEY_EPOCH_MAX, "key_epoch is a u32");
  return KEY_CODE.write(concat(Uint8Array.of(VERSION, APP_KEY), u32(keyEpoch), appKey));
}

/**
 * The app key and its key_epoch; a `/HOST` behind the code is left out.  Throws `WrongKeyCode`.
 * @param {string} text
 * @returns {{ appKey: Uint8Array, keyEpoch: number }}
 */
export function parseKeyCode(text) {
  const payload = KEY_CODE.read(text);
  if (payload[0] !== VERSION || payload[1] !== APP_KEY) {
    throw new WrongKeyCode("This key code was made by a newer app; please update this one.");
  }
  return { appKey: payload.slice(6), keyEpoch: new DataView(payload.buffer).getUint32(2) };
}

/**
 * The code in groups of five, as it is printed and read aloud.
 * @param {string} code
 * @returns {string}
 */
export function printable(code) {
  return (code.match(/.{1,5}/g) ?? []).join(" ");
}

/**
 * `CODE/HOST`: what a QR code carries, so that one scan tells the key and where the hub is.
 *
 * All upper case: then the QR is in alphanumeric mode, which is smaller and which scanners do not mangle.  HOST has
 * its port when `hubUrl` has one.
 * @param {string} code
 * @param {string} hubUrl
 * @returns {string}
 */
export function qrText(code, hubUrl) {
  return `${code}/${new URL(hubUrl).host}`.toUpperCase();
}

/**
 * The checksum of BIP-173, whose last constant BIP-350 replaced.
 * @param {number[]} values
 */
function polymod(values) {
  let state = 1;
  for (const value of values) {
    const top = state >>> 25;
    state = ((state & 0x1ffffff) << 5) ^ value;
    GENERATORS.forEach((generator, bit) => {
      if ((top >>> bit) & 1) state ^= generator;
    });
  }
  return state;
}

/** @param {Uint8Array} payload */
function toFives(payload) {
  const values = [];
  let waiting = 0;
  let bits = 0;
  for (const byte of payload) {
    waiting = (waiting << 8) | byte;
    for (bits += 8; bits >= 5; ) {
      bits -= 5;
      values.push((waiting >>> bits) & 31);
    }
    waiting &= (1 << bits) - 1;
  }
  if (bits) values.push((waiting << (5 - bits)) & 31);
  return values;
}

/** The bytes; null when bits are set behind them.  @param {number[]} values */
function toBytes(values) {
  const bytes = [];
  let waiting = 0;
  let bits = 0;
  for (const value of values) {
    waiting = (waiting << 5) | value;
    bits += 5;
    if (bits >= 8) {
      bits -= 8;
      bytes.push(waiting >>> bits);
      waiting &= (1 << bits) - 1;
    }
  }
  return waiting ? null : Uint8Array.from(bytes);
}
