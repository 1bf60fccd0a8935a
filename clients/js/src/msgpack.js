/**
 * MessagePack, written and read strictly, without I/O.
 *
 * Frames and bodies must be the same bytes in every client, and what a stranger sends
 * must be read exactly or refused.  So: whole numbers take their shortest form, fractions
 * eight bytes; a number that JavaScript would round is read as a BigInt; text that is not
 * UTF-8, a byte too few or too many, and nesting beyond a bound are refused; bytes that
 * were read are a copy, which does not keep the frame alive.
 */

import { fromUtf8, utf8 } from "./bytes.js";

/** How deep arrays and maps may lie in one another where the caller says nothing. */
export const DEPTH_MAX = 100;

const ASCII_AT_ONCE = 64; // below it a loop is quicker than TextEncoder and TextDecoder
const U32 = 2 ** 32;
const OWN = { enumerable: true, configurable: true, writable: true };

/** An extension: a code from -128 to 127, and bytes. */
export class Ext {
  /**
   * @param {number} code
   * @param {Uint8Array} data
   */
  constructor(code, data) {
    this.code = code;
    this.data = data;
  }
}

/** Bytes that are MessagePack already; `pack` puts them where they stand. */
export class Raw {
  /** @param {Uint8Array} bytes */
  constructor(bytes) {
    this.bytes = bytes;
  }
}

/**
 * @callback ReadExt what stands for an extension
 * @param {number} code
 * @param {Uint8Array} data
 * @param {number} depth how much deeper may be read inside it
 * @returns {unknown}
 */

/**
 * The bytes of a value: null, booleans, numbers, text, Uint8Array, arrays, plain objects, `Ext` and `Raw`.
 * Properties that are undefined are left out.  Throws TypeError for what is none of these, RangeError for text that
 * has no UTF-8.
 * @param {unknown} value
 * @returns {Uint8Array}
 */
export function pack(value) {
  const out = new Writer();
  out.any(value);
  return out.taken();
}

/**
 * The value of `bytes`, all of them.  Maps become objects, or a Map when a key is no text.  Throws RangeError.
 * @param {Uint8Array} bytes
 * @param {{ ext?: ReadExt, depth?: number }} [how] without `ext` an extension becomes an `Ext`
 * @returns {unknown}
 */
export function unpack(bytes, { ext = (code, data) => new Ext(code, data), depth = DEPTH_MAX } = {}) {
  const reader = new Reader(bytes, ext);
  const value = reader.any(depth);
  if (reader.at !== bytes.length) throw new RangeError("there are bytes behind the end");
  return value;
}

/** Bytes being written; each method adds one item, or the beginning of one. */
export class Writer {
  constructor() {
    this._bytes = new Uint8Array(256);
    this._view = new DataView(this._bytes.buffer);
    this._at = 0;
  }

  /**
   * What was written.
   * @returns {Uint8Array}
   */
  taken() {
    return this._bytes.slice(0, this._at);
  }

  /** @param {unknown} value */
  any(value) {
    if (value === null) this._byte(0xc0);
    else if (typeof value === "boolean") this.bool(value);
    else if (typeof value === "number") this.number(value);
    else if (typeof value === "string") this.str(value);
    else if (value instanceof Uint8Array) this.bin(value);
    else if (Array.isArray(value)) {
      this.array(value.length);
      for (const item of value) this.any(item);
    } else if (value instanceof Ext) this.ext(value.code, value.data);
    else if (value instanceof Raw) this.raw(value.bytes);
    else if (isPlain(value)) this._object(value);
    else throw new TypeError(`a ${typeof value} has no place in MessagePack`);
  }

  nil() {
    this._byte(0xc0);
  }

  /** @param {boolean} value */
  bool(value) {
    this._byte(value ? 0xc3 : 0xc2);
  }

  /**
   * A whole number in its shortest form, anything else as a float; minus zero is a float.
   * @param {number} value
   */
  number(value) {
    if (Number.isSafeInteger(value) && !Object.is(value, -0)) this._int(value);
    else this.float(value);
  }

  /** @param {number} value */
  float(value) {
    this._room(9);
    this._bytes[this._at] = 0xcb;
    this._view.setFloat64(this._at + 1, value);
    this._at += 9;
  }

  /** @param {string} text */
  str(text) {
    if (text.length < 32 && this._ascii(text)) return;
    const bytes = utf8(text);
    this._length(bytes.length, 0xa0, 31, 0xd9, 0xda, 0xdb);
    this.raw(bytes);
  }

  /** @param {Uint8Array} bytes */
  bin(bytes) {
    this._length(bytes.length, 0, -1, 0xc4, 0xc5, 0xc6);
    this.raw(bytes);
  }

  /** @param {number} length how many items follow */
  array(length) {
    this._length(length, 0x90, 15, 0, 0xdc, 0xdd);
  }

  /** @param {number} length how many keys follow, each with its value */
  map(length) {
    this._length(length, 0x80, 15, 0, 0xde, 0xdf);
  }

  /**
   * @param {number} code
   * @param {Uint8Array} data
   */
  ext(code, data) {
    const fixed = [1, 2, 4, 8, 16].indexOf(data.length);
    if (fixed >= 0) this._byte(0xd4 + fixed);
    else this._length(data.length, 0, -1, 0xc7, 0xc8, 0xc9);
    this._byte(code & 0xff);
    this.raw(data);
  }

  /** @param {Uint8Array} bytes */
  raw(bytes) {
    this._room(bytes.length);
    this._bytes.set(bytes, this._at);
    this._at += bytes.length;
  }

  /** @param {Record<string, unknown>} value */
  _object(value) {
    const names = Object.keys(value).filter((name) => value[name] !== undefined);
    this.map(names.length);
    for (const name of names) {
      this.str(name);
      this.any(value[name]);
    }
  }

  /** @param {number} value */
  _int(value) {
    if (value >= 0) {
      if (value < 0x80) this._byte(value);
      else if (value < 0x100) this._two(0xcc, value);
      else if (value < 0x10000) this._three(0xcd, value);
      else if (value < U32) this._five(0xce, value);
      else this._nine(0xcf, value);
    } else if (value >= -0x20) this._byte(value & 0xff);
    else if (value >= -0x80) this._two(0xd0, value);
    else if (value >= -0x8000) this._three(0xd1, value);
    else if (value >= -(2 ** 31)) this._five(0xd2, value);
    else this._nine(0xd3, value);
  }

  /**
   * Writes a short text whose characters are all ASCII, and says whether it was one.
   * @param {string} text
   */
  _ascii(text) {
    this._room(1 + text.length);
    for (let at = 0; at < text.length; at++) {
      const code = text.charCodeAt(at);
      if (code > 0x7f) return false;
      this._bytes[this._at + 1 + at] = code;
    }
    this._bytes[this._at] = 0xa0 | text.length;
    this._at += 1 + text.length;
    return true;
  }

  /**
   * The beginning of what has a length: in the first byte up to `fixMax`, else in 1 (unless `one` is 0), 2 or 4 bytes.
   * @param {number} length
   * @param {number} fix
   * @param {number} fixMax
   * @param {number} one
   * @param {number} two
   * @param {number} four
   */
  _length(length, fix, fixMax, one, two, four) {
    if (length <= fixMax) this._byte(fix | length);
    else if (one && length < 0x100) this._two(one, length);
    else if (length < 0x10000) this._three(two, length);
    else this._five(four, length);
  }

  /** @param {number} byte */
  _byte(byte) {
    this._room(1);
    this._bytes[this._at++] = byte;
  }

  /** @param {number} first @param {number} value */
  _two(first, value) {
    this._byte(first);
    this._byte(value & 0xff);
  }

  /** @param {number} first @param {number} value */
  _three(first, value) {
    this._room(3);
    this._bytes[this._at] = first;
    this._view.setUint16(this._at + 1, value & 0xffff);
    this._at += 3;
  }

  /** @param {number} first @param {number} value */
  _five(first, value) {
    this._room(5);
    this._bytes[this._at] = first;
    this._view.setUint32(this._at + 1, value >>> 0);
    this._at += 5;
  }

  /** @param {number} first @param {number} value */
  _nine(first, value) {
    this._room(9);
    this._bytes[this._at] = first;
    this._view.setInt32(this._at + 1, Math.floor(value / U32));
    this._view.setUint32(this._at + 5, value >>> 0);
    this._at += 9;
  }

  /** @param {number} bytes */
  _room(bytes) {
    if (this._at + bytes <= this._bytes.length) return;
    const larger = new Uint8Array(Math.max(2 * this._bytes.length, this._at + bytes));
    larger.set(this._bytes.subarray(0, this._at));
    this._bytes = larger;
    this._view = new DataView(larger.buffer);
  }
}

class Reader {
  /**
   * @param {Uint8Array} bytes
   * @param {ReadExt} ext
   */
  constructor(bytes, ext) {
    this.at = 0;
    this._bytes = bytes;
    this._view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this._ext = ext;
  }

  /**
   * @param {number} depth
   * @returns {unknown}
   */
  any(depth) {
    const first = this._u8();
    if (first < 0x80) return first;
    if (first < 0x90) return this._map(first & 0x0f, depth);
    if (first < 0xa0) return this._array(first & 0x0f, depth);
    if (first < 0xc0) return this._str(first & 0x1f);
    if (first >= 0xe0) return first - 0x100;
    return this._long(first, depth);
  }

  /**
   * @param {number} first
   * @param {number} depth
   * @returns {unknown}
   */
  _long(first, depth) {
    switch (first) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: return this._bin(this._u8());
      case 0xc5: return this._bin(this._u16());
      case 0xc6: return this._bin(this._u32());
      case 0xc7: return this._extension(this._u8(), depth);
      case 0xc8: return this._extension(this._u16(), depth);
      case 0xc9: return this._extension(this._u32(), depth);
      case 0xca: return this._view.getFloat32(this._take(4));
      case 0xcb: return this._view.getFloat64(this._take(8));
      case 0xcc: return this._u8();
      case 0xcd: return this._u16();
      case 0xce: return this._u32();
      case 0xcf: return narrowed(this._view.getBigUint64(this._take(8)));
      case 0xd0: return this._view.getInt8(this._take(1));
      case 0xd1: return this._view.getInt16(this._take(2));
      case 0xd2: return this._view.getInt32(this._take(4));
      case 0xd3: return narrowed(this._view.getBigInt64(this._take(8)));
      case 0xd9: return this._str(this._u8());
      case 0xda: return this._str(this._u16());
      case 0xdb: return this._str(this._u32());
      case 0xdc: return this._array(this._u16(), depth);
      case 0xdd: return this._array(this._u32(), depth);
      case 0xde: return this._map(this._u16(), depth);
      case 0xdf: return this._map(this._u32(), depth);
    }
    if (first >= 0xd4 && first <= 0xd8) return this._extension(1 << (first - 0xd4), depth);
    throw new RangeError("a byte begins nothing of MessagePack");
  }

  /**
   * @param {number} length
   * @param {number} depth
   */
  _array(length, depth) {
    inside(depth);
    const items = [];
    for (let n = 0; n < length; n++) items.push(this.any(depth - 1));
    return items;
  }

  /**
   * @param {number} length
   * @param {number} depth
   */
  _map(length, depth) {
    inside(depth);
    /** @type {[unknown, unknown][]} */
    const pairs = [];
    for (let n = 0; n < length; n++) pairs.push([this.any(depth - 1), this.any(depth - 1)]);
    return pairs.every(([key]) => typeof key === "string") ? object(pairs) : new Map(pairs);
  }

  /**
   * @param {number} length
   * @param {number} depth
   */
  _extension(length, depth) {
    const code = this._view.getInt8(this._take(1));
    return this._ext(code, this._bin(length), depth);
  }

  /** @param {number} length */
  _bin(length) {
    const at = this._take(length);
    return this._bytes.slice(at, at + length);
  }

  /** @param {number} length */
  _str(length) {
    const at = this._take(length);
    const end = at + length;
    if (length > ASCII_AT_ONCE) return fromUtf8(this._bytes.subarray(at, end));
    let text = "";
    for (let n = at; n < end; n++) {
      const byte = this._bytes[n];
      if (byte > 0x7f) return fromUtf8(this._bytes.subarray(at, end));
      text += String.fromCharCode(byte);
    }
    return text;
  }

  _u8() {
    return this._bytes[this._take(1)];
  }

  _u16() {
    return this._view.getUint16(this._take(2));
  }

  _u32() {
    return this._view.getUint32(this._take(4));
  }

  /**
   * Where the next `length` bytes begin; they are there.
   * @param {number} length
   */
  _take(length) {
    const at = this.at;
    if (length > this._bytes.length - at) throw new RangeError("the bytes end too early");
    this.at = at + length;
    return at;
  }
}

/**
 * Whether `value` is an object that was written as a literal, of whatever window.
 * @param {unknown} value
 * @returns {value is Record<string, unknown>}
 */
export function isPlain(value) {
  if (typeof value !== "object" || value === null) return false;
  const parent = Object.getPrototypeOf(value);
  if (parent === null || parent === Object.prototype) return true;
  return Object.getPrototypeOf(parent) === null && Object.hasOwn(parent, "isPrototypeOf");
}

/** @param {number} depth how many more levels there may be, this one included */
function inside(depth) {
  if (depth <= 0) throw new RangeError("nested too deeply");
}

/** @param {bigint} number */
function narrowed(number) {
  const near = Number(number);
  return Number.isSafeInteger(near) ? near : number;
}

/** @param {[unknown, unknown][]} pairs */
function object(pairs) {
  /** @type {Record<string, unknown>} */
  const made = {};
  for (const [key, value] of pairs) {
    // Assigning to this one name would set the prototype instead.
    if (key === "__proto__") Object.defineProperty(made, key, { value, ...OWN });
    else made[/** @type {string} */ (key)] = value;
  }
  return made;
}
