/**
 * Bytes ⇄ messages, without I/O.
 *
 * One frame is one MessagePack map.  The decoder takes apart what a stranger sent: it
 * never nests deeper than its bound, and it tells three faults apart: not a message at
 * all, a message of an unknown type, and a known message with a bad field.
 */

import { assert } from "../errors.js";
import { isPlain, unpack, Writer } from "../msgpack.js";
import { FROM_DEVICE, FROM_HUB, isDefault, listed, readFields, writeFields } from "./messages.js";

/** @typedef {import("./messages.js").Row} Row */
/** @typedef {import("./messages.js").FromDevice} FromDevice */
/** @typedef {import("./messages.js").FromHub} FromHub */
/** @typedef {import("./messages.js").ToHub} ToHub */
/** @typedef {import("./messages.js").ToDevice} ToDevice */

/** The bytes are no MessagePack map with a text `type`. */
export class NotAMessage extends RangeError {}

/** The map's `type` is none of this direction's; `request` is its number, or null. */
export class UnknownMessage extends RangeError {
  /**
   * @param {string} type
   * @param {number | null} request
   */
  constructor(type, request) {
    super(type);
    this.request = request;
  }
}

/** A field is missing, of the wrong type or out of bounds; `request` is its number, or null. */
export class BadMessage extends RangeError {
  /**
   * @param {string} detail
   * @param {number | null} request
   */
  constructor(detail, request) {
    super(detail);
    this.request = request;
  }
}

const DEVICE_ROWS = rowsOf(FROM_DEVICE);
const HUB_ROWS = rowsOf(FROM_HUB);

/**
 * The frame of one message.  Fields that are their default are left out, so every client writes the same bytes.
 * Throws AssertionError for a field that is missing or of another type; bounds are the receiver's business.
 * @param {ToHub | ToDevice} message
 * @returns {Uint8Array}
 */
export function encode(message) {
  const { type, ...fields } = message;
  const rows = DEVICE_ROWS.get(type) ?? HUB_ROWS.get(type);
  assert(rows, `no message is named ${type}`);
  const told = rows.filter((row) => !isDefault(row, /** @type {any} */ (fields)[row.name]));
  const out = new Writer();
  out.map(1 + told.length);
  out.str("type");
  out.str(type);
  writeFields(out, told, fields, "");
  return out.taken();
}

/**
 * What a device sent.  Throws `NotAMessage`, `UnknownMessage` or `BadMessage`.
 * @param {Uint8Array} frame
 * @returns {FromDevice}
 */
export function decodeFromDevice(frame) {
  return /** @type {FromDevice} */ (decoded(frame, DEVICE_ROWS));
}

/**
 * What a hub sent.  Throws `NotAMessage`, `UnknownMessage` or `BadMessage`.
 * @param {Uint8Array} frame
 * @returns {FromHub}
 */
export function decodeFromHub(frame) {
  return /** @type {FromHub} */ (decoded(frame, HUB_ROWS));
}

/**
 * @param {Uint8Array} frame
 * @param {ReadonlyMap<string, Row[]>} known
 */
function decoded(frame, known) {
  const map = opened(frame);
  const rows = known.get(map.type);
  if (!rows) throw new UnknownMessage([...map.type].slice(0, 64).join(""), requestOf(map));
  try {
    return { type: map.type, ...readFields(rows, map, "") };
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause;
    throw new BadMessage(cause.message, requestOf(map));
  }
}

/**
 * @param {Uint8Array} frame
 * @returns {Record<string, unknown> & { type: string }}
 */
function opened(frame) {
  let map;
  try {
    map = unpack(frame);
  } catch (cause) {
    throw new NotAMessage("not MessagePack", { cause });
  }
  if (!isPlain(map) || !Object.hasOwn(map, "type") || typeof map.type !== "string") {
    throw new NotAMessage("not a MessagePack map with a type");
  }
  return /** @type {Record<string, unknown> & { type: string }} */ (map);
}

/** @param {Record<string, unknown>} map */
function requestOf(map) {
  const number = Object.hasOwn(map, "request") ? map.request : null;
  return typeof number === "number" && Number.isSafeInteger(number) && number >= 0 ? number : null;
}

/**
 * @param {Readonly<Record<string, import("./messages.js").Fields>>} table
 * @returns {ReadonlyMap<string, Row[]>}
 */
function rowsOf(table) {
  return new Map(Object.entries(table).map(([type, fields]) => [type, listed(fields)]));
}
