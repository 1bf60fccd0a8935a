/**
 * App values ⇄ the bytes of a body, without I/O.
 *
 * A body is a MessagePack map `{"v": value, "s": schema, "t": at_ms}`, the last two left out
 * when 0.  Values are what JSON has, and bytes.  What Python and JavaScript have beyond that
 * travels in MessagePack extensions.  This table is frozen; both clients read and write the
 * same bytes:
 *
 *     -1  timestamp (of MessagePack itself)   Date
 *      1  set                                 Set: array of the elements
 *      2  map with keys that are not strings  Map: array of [key, value] pairs
 *      3  blob                                BlobValue: [type, bytes, name]
 *      4  typed array                         Int8Array ... : [kind, bytes], little-endian
 *      5  whole number of 2^53 or beyond      BigInt: decimal digits in ASCII
 *
 * Uint8Array is bytes, a Map is extension 2 whatever its keys, and a BigInt is extension 5
 * whatever its size, so that each comes back as what it was.  What has no place in the
 * table is refused where it is written, never bent to fit; what Python could not hold (two
 * elements of a set that are equal there, an object as an element) is refused likewise.
 *
 * The bytes of a Blob can only be waited for: `readBlobs` does so before writing, `toBlobs`
 * gives Blobs and Files back after reading.
 */

import { compare, concat, hasLoneSurrogate, hex, u32, u64 } from "./bytes.js";
import { assert } from "./errors.js";
import { Ext, isPlain, pack, Raw, unpack, Writer } from "./msgpack.js";

export const SET = 1;
export const MAP = 2;
export const BLOB = 3;
export const TYPED_ARRAY = 4;
export const BIG_INT = 5;
const TIMESTAMP = -1;

export const DEPTH_MAX = 64;
export const BIG_INT_DIGITS_MAX = 4096; // below the 4300 that Python reads and writes at most
const READ_DEPTH_MAX = 3 * DEPTH_MAX + 2; // a Map is an extension of an array of arrays: three levels for one
const BIG_INT_END = 10n ** BigInt(BIG_INT_DIGITS_MAX);
const YEAR_1_MS = Date.parse("0001-01-01T00:00:00Z"); // what Python's datetime can hold
const YEAR_10000_MS = Date.parse("+010000-01-01T00:00:00Z");
const NS_PER_S = 1_000_000_000;

/**
 * By what `kind` says in extension 4: JavaScript's class name without "Array".
 * @type {Readonly<Record<string, { new (buffer: ArrayBuffer): ArrayBufferView, BYTES_PER_ELEMENT: number }>>}
 */
const TYPED_ARRAYS = Object.freeze({
  Int8: Int8Array, Uint8: Uint8Array, Uint8Clamped: Uint8ClampedArray, Int16: Int16Array, Uint16: Uint16Array,
  Int32: Int32Array, Uint32: Uint32Array, Float32: Float32Array, Float64: Float64Array, BigInt64: BigInt64Array,
  BigUint64: BigUint64Array,
});

/**
 * An app's value, its schema's version and the writer's clock in ms (which orders nothing); 0 = none.
 * @typedef {{ value: unknown, schema: number, atMs: number }} Body
 */

/** A file-like value: MIME type, bytes, and a name or nothing; what of a Blob or File can be written at once. */
export class BlobValue {
  /**
   * @param {string} type
   * @param {Uint8Array} data
   * @param {string} [name]
   */
  constructor(type, data, name = "") {
    /** @readonly */
    this.type = type;
    /** @readonly */
    this.data = data;
    /** @readonly */
    this.name = name;
  }

  /**
   * The browser's own: a File when there is a name, else a Blob.
   * @returns {Blob}
   */
  toBlob() {
    const parts = [Uint8Array.from(this.data)];
    return this.name ? new File(parts, this.name, { type: this.type }) : new Blob(parts, { type: this.type });
  }
}

/**
 * The body's bytes.  Throws TypeError or RangeError with a sentence that names the place in the value.
 * @param {unknown} value
 * @param {{ schema?: number, atMs?: number }} [more]
 * @returns {Uint8Array}
 */
export function encodeBody(value, { schema = 0, atMs = 0 } = {}) {
  assert(isNumber(schema) && isNumber(atMs), "schema and atMs are whole numbers from 0");
  const out = new Writer();
  out.map(1 + (schema ? 1 : 0) + (atMs ? 1 : 0));
  out.str("v");
  write(out, value, "value", 0);
  if (schema) {
    out.str("s");
    out.number(schema);
  }
  if (atMs) {
    out.str("t");
    out.number(atMs);
  }
  return out.taken();
}

/**
 * The body.  Throws RangeError.
 * @param {Uint8Array} body
 * @returns {Body}
 */
export function decodeBody(body) {
  try {
    const wire = unpack(body, { ext: readExt, depth: READ_DEPTH_MAX });
    if (!isPlain(wire) || !Object.hasOwn(wire, "v")) throw new RangeError("there is no value");
    const { v: value, s: schema = 0, t: atMs = 0 } = wire;
    if (!isNumber(schema) || !isNumber(atMs)) throw new RangeError("schema and time are whole numbers from 0");
    return { value, schema, atMs };
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause;
    throw new RangeError(`not a body of this format: ${cause.message}`, { cause });
  }
}

/**
 * The value with every Blob and File in it read; the value itself when there is none.
 * @template T
 * @param {T} value
 * @returns {Promise<T>}
 */
export async function readBlobs(value) {
  /** @type {Map<unknown, BlobValue>} */
  const read = new Map();
  for (const blob of blobsIn(value)) {
    const name = "name" in blob && typeof blob.name === "string" ? blob.name : "";
    read.set(blob, new BlobValue(blob.type, new Uint8Array(await blob.arrayBuffer()), name));
  }
  return read.size ? /** @type {T} */ (mapped(value, (item) => read.get(item))) : value;
}

/**
 * The value with a Blob or File for every `BlobValue` in it; the value itself when there is none.
 * @template T
 * @param {T} value
 * @returns {T}
 */
export function toBlobs(value) {
  return /** @type {T} */ (mapped(value, (item) => (item instanceof BlobValue ? item.toBlob() : undefined)));
}

// --- from JavaScript -------------------------------------------------------------------------

/**
 * @param {Writer} out
 * @param {unknown} value
 * @param {string} place
 * @param {number} depth
 */
function write(out, value, place, depth) {
  if (depth > DEPTH_MAX) throw new RangeError(`${place}: nested deeper than ${DEPTH_MAX}`);
  switch (typeof value) {
    case "boolean": return out.bool(value);
    case "number": return out.number(value);
    case "string": return out.str(whole(value, place));
    case "bigint": return writeBigInt(out, value, place);
    case "object": return value === null ? out.nil() : writeObject(out, value, place, depth);
    case "undefined": throw new TypeError(`${place}: undefined cannot be synced; null can`);
    default: throw new TypeError(`${place}: a ${typeof value} cannot be synced`);
  }
}

/**
 * By the tag, which is right for what another window made too.
 * @param {Writer} out
 * @param {object} value
 * @param {string} place
 * @param {number} depth
 */
function writeObject(out, value, place, depth) {
  if (Array.isArray(value)) return writeArray(out, value, place, depth);
  if (value instanceof BlobValue) return writeBlob(out, value, place);
  const tag = Object.prototype.toString.call(value).slice(8, -1);
  const known = /** @type {any} */ (value);
  if (tag === "Date") return writeDate(out, known, place);
  if (tag === "Set") return writeSet(out, known, place, depth);
  if (tag === "Map") return writeMap(out, known, place, depth);
  if (tag === "Blob" || tag === "File") throw new TypeError(`${place}: a ${tag} must be read first, by readBlobs`);
  if (ArrayBuffer.isView(value)) return writeView(out, value, tag, place);
  if (tag === "Object" && isPlain(value)) return writePlain(out, value, place, depth);
  throw new TypeError(`${place}: a ${value.constructor?.name || tag} cannot be synced`);
}

/**
 * @param {Writer} out
 * @param {unknown[]} items
 * @param {string} place
 * @param {number} depth
 */
function writeArray(out, items, place, depth) {
  out.array(items.length);
  for (let at = 0; at < items.length; at++) write(out, items[at], `${place}[${at}]`, depth + 1);
}

/**
 * @param {Writer} out
 * @param {Record<string, unknown>} value
 * @param {string} place
 * @param {number} depth
 */
function writePlain(out, value, place, depth) {
  // As in JSON, a property that is undefined is none.
  const entries = Object.entries(value).filter(([, item]) => item !== undefined);
  out.map(entries.length);
  for (const [name, item] of entries) {
    out.str(whole(name, place));
    write(out, item, `${place}[${JSON.stringify(name)}]`, depth + 1);
  }
}

/**
 * @param {Writer} out
 * @param {bigint} value
 * @param {string} place
 */
function writeBigInt(out, value, place) {
  if (value >= BIG_INT_END || value <= -BIG_INT_END) {
    throw new RangeError(`${place}: a whole number of more than ${BIG_INT_DIGITS_MAX} digits cannot be synced`);
  }
  out.ext(BIG_INT, ascii(String(value)));
}

/**
 * In the shortest of MessagePack's three forms.
 * @param {Writer} out
 * @param {Date} date
 * @param {string} place
 */
function writeDate(out, date, place) {
  const ms = date.getTime();
  if (Number.isNaN(ms)) throw new RangeError(`${place}: an invalid Date is no point in time`);
  if (ms < YEAR_1_MS || ms >= YEAR_10000_MS) {
    throw new RangeError(`${place}: a Date before the year 1 or after 9999 in UTC cannot be synced`);
  }
  const s = Math.floor(ms / 1000);
  out.ext(TIMESTAMP, timestamp(s, (ms - s * 1000) * 1_000_000));
}

/**
 * @param {number} s
 * @param {number} ns
 */
function timestamp(s, ns) {
  if (s < 0 || s >= 2 ** 34) return concat(u32(ns), u64(s));
  return ns || s >= 2 ** 32 ? u64((BigInt(ns) << 34n) | BigInt(s)) : u32(s);
}

/**
 * A set has no order that matters; the elements' bytes give it one, so equal sets are equal bytes.
 * @param {Writer} out
 * @param {Set<unknown>} value
 * @param {string} place
 * @param {number} depth
 */
function writeSet(out, value, place, depth) {
  const items = [...value];
  const written = items.map((item) => bytesOf(item, `an element of ${place}`, depth + 1)).sort(compare);
  checkDistinct(items, (why) => new RangeError(`${place}: a set with ${why} cannot be synced`));
  out.ext(SET, pack(written.map((bytes) => new Raw(bytes))));
}

/**
 * @param {Writer} out
 * @param {Map<unknown, unknown>} value
 * @param {string} place
 * @param {number} depth
 */
function writeMap(out, value, place, depth) {
  const pairs = new Writer();
  pairs.array(value.size);
  for (const [key, item] of value) {
    pairs.array(2);
    write(pairs, key, `a key of ${place}`, depth + 1);
    write(pairs, item, `${place}[${shown(key)}]`, depth + 1);
  }
  checkDistinct([...value.keys()], (why) => new RangeError(`${place}: a map with ${why} as keys cannot be synced`));
  out.ext(MAP, pairs.taken());
}

/**
 * @param {Writer} out
 * @param {BlobValue} value
 * @param {string} place
 */
function writeBlob(out, { type, data, name }, place) {
  if (!(data instanceof Uint8Array)) throw new TypeError(`${place}: its data is no Uint8Array`);
  out.ext(BLOB, pack([whole(type, place), data, whole(name, place)]));
}

/**
 * @param {Writer} out
 * @param {ArrayBufferView} value
 * @param {string} tag
 * @param {string} place
 */
function writeView(out, value, tag, place) {
  // Little-endian as it lies in memory: no platform with a browser or Node is big-endian any more.
  const bytes = new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  if (tag === "Uint8Array") return out.bin(bytes);
  const kind = tag.replace(/Array$/, "");
  if (!Object.hasOwn(TYPED_ARRAYS, kind)) throw new TypeError(`${place}: a ${tag} cannot be synced`);
  out.ext(TYPED_ARRAY, pack([kind, bytes]));
}

/**
 * @param {unknown} value
 * @param {string} place
 * @param {number} depth
 */
function bytesOf(value, place, depth) {
  const out = new Writer();
  write(out, value, place, depth);
  return out.taken();
}

/**
 * @param {string} text
 * @param {string} place
 */
function whole(text, place) {
  if (typeof text !== "string") throw new TypeError(`${place}: a ${typeof text} where text belongs`);
  if (hasLoneSurrogate(text)) throw new RangeError(`${place}: half a character (a lone surrogate) cannot be synced`);
  return text;
}

/** @param {unknown} key */
function shown(key) {
  return typeof key === "string" ? JSON.stringify(key) : typeof key === "object" && key ? "…" : String(key);
}

// --- to JavaScript ---------------------------------------------------------------------------

/** @type {import("./msgpack.js").ReadExt} */
function readExt(code, data, depth) {
  const inner = () => unpack(data, { ext: readExt, depth: depth - 1 });
  switch (code) {
    case TIMESTAMP: return readDate(data);
    case SET: return readSet(inner());
    case MAP: return readMap(inner());
    case BLOB: return readBlob(unpack(data));
    case TYPED_ARRAY: return readTypedArray(unpack(data));
    case BIG_INT: return readBigInt(data);
  }
  throw new RangeError(`extension ${code} is not in the table`);
}

/** @param {Uint8Array} data */
function readDate(data) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const { s, ns } = secondsIn(view);
  // A Date ends at milliseconds; what is finer is cut off.
  const ms = s * 1000 + Math.floor(ns / 1_000_000);
  if (ns >= NS_PER_S || !(ms >= YEAR_1_MS && ms < YEAR_10000_MS)) throw new RangeError("a timestamp is out of bounds");
  return new Date(ms);
}

/** @param {DataView} view */
function secondsIn(view) {
  if (view.byteLength === 4) return { s: view.getUint32(0), ns: 0 };
  if (view.byteLength === 12) return { s: Number(view.getBigInt64(4)), ns: view.getUint32(0) };
  if (view.byteLength !== 8) throw new RangeError("a timestamp has 4, 8 or 12 bytes");
  const both = view.getBigUint64(0);
  return { s: Number(both & ((1n << 34n) - 1n)), ns: Number(both >> 34n) };
}

/** @param {unknown} items */
function readSet(items) {
  if (!Array.isArray(items)) throw new RangeError("a set is no array");
  checkDistinct(items, (why) => new RangeError(`a set holds ${why}`));
  return new Set(items);
}

/** @param {unknown} pairs */
function readMap(pairs) {
  if (!Array.isArray(pairs) || !pairs.every((pair) => Array.isArray(pair) && pair.length === 2)) {
    throw new RangeError("a map is no array of pairs");
  }
  checkDistinct(pairs.map(([key]) => key), (why) => new RangeError(`a map holds ${why} as keys`));
  return new Map(pairs);
}

/** @param {unknown} parts */
function readBlob(parts) {
  const [type, data, name] = Array.isArray(parts) && parts.length === 3 ? parts : [];
  if (typeof type !== "string" || !(data instanceof Uint8Array) || typeof name !== "string") {
    throw new RangeError("a blob is not [type, bytes, name]");
  }
  return new BlobValue(type, data, name);
}

/** @param {unknown} parts */
function readTypedArray(parts) {
  const [kind, data] = Array.isArray(parts) && parts.length === 2 ? parts : [];
  if (typeof kind !== "string" || !(data instanceof Uint8Array)) {
    throw new RangeError("a typed array is not [kind, bytes]");
  }
  const Made = Object.hasOwn(TYPED_ARRAYS, kind) ? TYPED_ARRAYS[kind] : null;
  if (!Made || data.length % Made.BYTES_PER_ELEMENT) {
    throw new RangeError(`${data.length} bytes are no typed array of kind ${JSON.stringify(kind)}`);
  }
  return new Made(Uint8Array.from(data).buffer);
}

/** @param {Uint8Array} data */
function readBigInt(data) {
  if (data.length > 1 + BIG_INT_DIGITS_MAX) {
    throw new RangeError(`a whole number has more than ${BIG_INT_DIGITS_MAX} digits`);
  }
  const text = String.fromCharCode(...data);
  // BigInt() also takes spaces, hex, nothing at all and leading zeros, which no client writes.
  if (!/^(?:0|-?[1-9][0-9]*)$/.test(text)) throw new RangeError("a whole number is not written in plain digits");
  return BigInt(text);
}

// --- what is equal in Python -----------------------------------------------------------------

/**
 * Throws what `fault` makes of the reason unless Python can hold all `items` in one set.
 * @param {unknown[]} items
 * @param {(why: string) => Error} fault
 */
function checkDistinct(items, fault) {
  const seen = new Set();
  for (const item of items) {
    if (!isHashable(item)) throw fault("objects or maps");
    const same = identity(item);
    if (seen.has(same)) throw fault("elements that are equal in Python");
    seen.add(same);
  }
}

/**
 * Whether Python can have it in a set: all but dicts, also inside arrays.
 * @param {unknown} value
 * @returns {boolean}
 */
function isHashable(value) {
  if (Array.isArray(value)) return value.every(isHashable);
  return !(value instanceof Map) && !isPlain(value);
}

/**
 * A text that is the same for what Python holds equal: 1, true and 1n; 0 and -0; arrays, bytes, dates by what is in
 * them.
 * @param {unknown} value
 * @returns {string}
 */
function identity(value) {
  if (typeof value === "boolean") return `n${Number(value)}`;
  if (typeof value === "number") return `n${Number.isInteger(value) ? BigInt(value) : value}`;
  if (typeof value === "bigint") return `n${value}`;
  if (typeof value === "string") return `s${value.length}:${value}`;
  if (Array.isArray(value)) return `a${value.length}[${value.map(identity).join()}]`;
  if (value instanceof Set) return `e${value.size}{${[...value].map(identity).sort().join()}}`;
  return `x${hex(bytesOf(value, "", 0))}`;
}

// --- blobs -----------------------------------------------------------------------------------

/**
 * The Blobs and Files in a value, as deep as values may be.
 * @param {unknown} value
 * @returns {Blob[]}
 */
function blobsIn(value) {
  /** @type {Blob[]} */
  const found = [];
  mapped(value, (item) => {
    if (typeof Blob === "function" && item instanceof Blob) found.push(item);
    return undefined;
  });
  return found;
}

/**
 * The value with each part for which `change` has something replaced by it; what has none inside stays the same.
 * @param {unknown} value
 * @param {(item: unknown) => unknown} change
 * @param {number} [depth]
 * @returns {unknown}
 */
function mapped(value, change, depth = 0) {
  if (typeof value !== "object" || value === null || depth > DEPTH_MAX) return value;
  const changed = change(value);
  if (changed !== undefined) return changed;
  const inner = (/** @type {unknown} */ item) => mapped(item, change, depth + 1);
  if (Array.isArray(value)) return anew(value, [...value], [...value].map(inner), (items) => items);
  if (value instanceof Set) return anew(value, [...value], [...value].map(inner), (items) => new Set(items));
  if (value instanceof Map) {
    const items = [...value].flat();
    return anew(value, items, items.map(inner), (all) => new Map(pairs(all)));
  }
  if (!isPlain(value)) return value;
  const names = Object.keys(value);
  const items = names.map((name) => value[name]);
  return anew(value, items, items.map(inner), (all) => Object.fromEntries(names.map((name, at) => [name, all[at]])));
}

/**
 * @param {unknown} value
 * @param {unknown[]} before
 * @param {unknown[]} after
 * @param {(items: unknown[]) => unknown} make
 */
function anew(value, before, after, make) {
  return before.every((item, at) => Object.is(item, after[at])) ? value : make(after);
}

/**
 * @param {unknown[]} items
 * @returns {[unknown, unknown][]}
 */
function pairs(items) {
  return Array.from({ length: items.length / 2 }, (_, at) => [items[2 * at], items[2 * at + 1]]);
}

/**
 * @param {unknown} value
 * @returns {value is number}
 */
function isNumber(value) {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

/** @param {string} text */
function ascii(text) {
  return Uint8Array.from(text, (letter) => letter.charCodeAt(0));
}
