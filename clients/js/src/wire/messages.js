/**
 * Every message of the protocol, both directions, as a table of fields.
 *
 * A message is a plain object whose `type` names it; its fields have the protocol's names
 * in camelCase (`space_id` is `spaceId`).  Requests carry the device's own `request` number,
 * and their answer repeats it.  A field with a default may be left out when sending, is
 * left out on the wire when it is the default, and is always there in what was received.
 * docs/protocol.md describes each with its rights, bounds and answers; the bounds here are
 * those of its tables, which a test compares.
 */

import { assert } from "../errors.js";
import { isPlain } from "../msgpack.js";
import { wireName } from "../terms.js";

/** @typedef {import("../msgpack.js").Writer} Writer */

/**
 * What one field may hold: how it is read, written, and shown in docs/protocol.md.
 * @template T
 * @typedef {object} Field
 * @property {(value: unknown, place: string) => T} read throws RangeError with a sentence that names the place
 * @property {(out: Writer, value: any, place: string) => void} write throws AssertionError for another type
 * @property {string} shown
 * @property {string} bounds
 */
/**
 * A field that may be left out.
 * @template T
 * @typedef {Field<T> & { fallback: () => T }} Optional
 */
/** @typedef {Readonly<Record<string, Field<any> | Optional<any>>>} Fields */

/**
 * What is received: every field is there.
 * @template {Fields} F
 * @typedef {{ [K in keyof F]: F[K] extends Field<infer T> ? T : never }} Whole
 */
/**
 * What is sent: fields with a default may be missing.
 * @template {Fields} F
 * @typedef {{ [K in keyof F as F[K] extends Optional<any> ? never : K]: F[K] extends Field<infer T> ? T : never }
 *   & { [K in keyof F as F[K] extends Optional<any> ? K : never]?: F[K] extends Field<infer T> ? T : never }} Given
 */

const SAFE = Number.MAX_SAFE_INTEGER;
const POWERS = new Map([[SAFE, "2^53-1"], [2 ** 32 - 1, "2^32-1"]]);

// --- kinds of fields -------------------------------------------------------------------------

/**
 * @param {number} [min]
 * @param {number} [max] without it any length will do
 * @returns {Field<Uint8Array>}
 */
function bin(min = 0, max) {
  return {
    shown: "bin",
    bounds: lengths(min, max),
    read(value, place) {
      if (!(value instanceof Uint8Array)) throw new RangeError(`${place} is no bin`);
      return within(value, value.length, min, max, place);
    },
    write(out, value, place) {
      assert(value instanceof Uint8Array, `${place} is no Uint8Array`);
      out.bin(value);
    },
  };
}

/**
 * @param {number} [min] characters
 * @param {number} [max]
 * @returns {Field<string>}
 */
function str(min = 0, max) {
  return {
    shown: "str",
    bounds: lengths(min, max),
    read(value, place) {
      if (typeof value !== "string") throw new RangeError(`${place} is no str`);
      return max === undefined ? value : within(value, [...value].length, min, max, place);
    },
    write(out, value, place) {
      assert(typeof value === "string", `${place} is no string`);
      out.str(value);
    },
  };
}

/**
 * @template {string} W
 * @param {...W} words
 * @returns {Field<W>}
 */
function word(...words) {
  return {
    shown: "str",
    bounds: words.map((one) => `\`${one}\``).join(" or "),
    read(value, place) {
      if (!words.includes(/** @type {W} */ (value))) throw new RangeError(`${place} is none of ${words.join(", ")}`);
      return /** @type {W} */ (value);
    },
    write(out, value, place) {
      assert(words.includes(value), `${place} is none of ${words.join(", ")}`);
      out.str(value);
    },
  };
}

/**
 * @param {number} [min]
 * @param {number} [max] without it any number will do that JavaScript does not round
 * @returns {Field<number>}
 */
function int(min = -SAFE, max) {
  return {
    shown: "int",
    bounds: max === undefined ? "" : `${min} to ${POWERS.get(max) ?? max}`,
    read(value, place) {
      if (typeof value !== "number" || !Number.isSafeInteger(value)) throw new RangeError(`${place} is no int`);
      return within(value, value, min, max, place);
    },
    write(out, value, place) {
      assert(Number.isSafeInteger(value), `${place} is no whole number`);
      out.number(value);
    },
  };
}

/** @type {Field<number>} */
const float = {
  shown: "float",
  bounds: "",
  read(value, place) {
    if (typeof value !== "number") throw new RangeError(`${place} is no float`);
    return value;
  },
  write(out, value, place) {
    assert(typeof value === "number", `${place} is no number`);
    out.float(value);
  },
};

/** @type {Field<boolean>} */
const bool = {
  shown: "bool",
  bounds: "",
  read(value, place) {
    if (typeof value !== "boolean") throw new RangeError(`${place} is no bool`);
    return value;
  },
  write(out, value, place) {
    assert(typeof value === "boolean", `${place} is no boolean`);
    out.bool(value);
  },
};

/**
 * @template T
 * @param {Field<T>} of
 * @param {number} [min]
 * @param {number} [max]
 * @returns {Field<T[]>}
 */
function array(of, min = 0, max) {
  return {
    shown: `array of ${of.shown}`,
    bounds: [of.bounds && `each ${of.bounds}`, lengths(min, max)].filter(Boolean).join("; "),
    read(value, place) {
      if (!Array.isArray(value)) throw new RangeError(`${place} is no array`);
      return within(value, value.length, min, max, place).map((item) => of.read(item, `an item of ${place}`));
    },
    write(out, value, place) {
      assert(Array.isArray(value), `${place} is no array`);
      out.array(value.length);
      for (const item of value) of.write(out, item, `an item of ${place}`);
    },
  };
}

/** @type {Field<Record<string, number>>} */
const numbers = {
  shown: "map of int by str",
  bounds: "",
  read(value, place) {
    if (!isPlain(value)) throw new RangeError(`${place} is no map`);
    for (const name of Object.keys(value)) any.read(value[name], `${place}.${name}`);
    return /** @type {Record<string, number>} */ (value);
  },
  write(out, value, place) {
    assert(isPlain(value), `${place} is no plain object`);
    const names = Object.keys(value);
    out.map(names.length);
    for (const name of names) {
      out.str(name);
      any.write(out, value[name], `${place}.${name}`);
    }
  },
};

/**
 * A map of what the two sides agree on elsewhere: the arguments and the result of a verb.
 * @type {Field<Record<string, any>>}
 */
const open = {
  shown: "map by str",
  bounds: "",
  read(value, place) {
    if (!isPlain(value)) throw new RangeError(`${place} is no map`);
    return /** @type {Record<string, any>} */ (value);
  },
  write(out, value, place) {
    assert(isPlain(value), `${place} is no plain object`);
    out.any(value);
  },
};

/**
 * A map inside a message.
 * @template {Fields} F
 * @param {string} name
 * @param {F} fields
 * @returns {Field<Whole<F>> & { fields: F }}
 */
function part(name, fields) {
  const rows = listed(fields);
  return {
    fields,
    shown: `[${name}](#${name.toLowerCase()})`,
    bounds: "",
    read(value, place) {
      if (!isPlain(value)) throw new RangeError(`${place} is no map`);
      return /** @type {Whole<F>} */ (readFields(rows, value, `${place}.`));
    },
    write(out, value, place) {
      const told = rows.filter((row) => !isDefault(row, value[row.name]));
      out.map(told.length);
      writeFields(out, told, value, `${place}.`);
    },
  };
}

/**
 * An array inside a message whose places have names.
 * @template {Fields} F
 * @param {string} name
 * @param {F} fields
 * @returns {Field<Whole<F>> & { fields: F }}
 */
function row(name, fields) {
  const rows = listed(fields);
  return {
    fields,
    shown: `[${name}](#${name.toLowerCase()})`,
    bounds: "",
    read(value, place) {
      if (!Array.isArray(value) || value.length < rows.length) throw new RangeError(`${place} is no ${name}`);
      /** @type {Record<string, unknown>} */
      const made = {};
      rows.forEach((one, at) => (made[one.name] = one.field.read(value[at], `${place}.${one.wire}`)));
      return /** @type {Whole<F>} */ (made);
    },
    write(out, value, place) {
      out.array(rows.length);
      for (const one of rows) one.field.write(out, value[one.name], `${place}.${one.name}`);
    },
  };
}

/**
 * @template T
 * @param {Field<T>} field
 * @param {() => T} fallback
 * @returns {Optional<T>}
 */
function optional(field, fallback) {
  return { ...field, fallback };
}

/**
 * @template T
 * @param {Field<T>} field
 * @returns {Optional<T | null>}
 */
function nullable(field) {
  return {
    ...field,
    read: (value, place) => (value === null ? null : field.read(value, place)),
    fallback: () => null,
  };
}

// Bounds that are part of a field's type.  Those that a hub may set are in terms.LIMITS.
const any = int();
const id = bin(16, 16);
const key32 = bin(32, 32);
const signature = bin(64, 64);
const seq = int(0, SAFE);
const request = int(0, SAFE);
const epoch = int(0, 2 ** 32 - 1);
const appId = str(1, 128);
const code = str(1, 32);
const bytes = bin(0, 262_144);
const scope = word("app", "account");
const zero = () => 0;
const no = () => false;
const yes = () => true;
const empty = () => "";
const nothing = () => new Uint8Array(0);

// --- parts -----------------------------------------------------------------------------------

export const SpaceInfo = part("SpaceInfo", {
  spaceId: id,
  appId: str(),
  keyEpoch: any,
  usedBytes: any,
  deletedAt: optional(float, zero), // when a delayed deletion takes effect; 0 = none is under way
});
/** @typedef {Whole<typeof SpaceInfo.fields>} SpaceInfo what the hub knows of one space */

export const SpaceProof = part("SpaceProof", { spaceId: id, keyEpoch: epoch, signature });
/** @typedef {Whole<typeof SpaceProof.fields>} SpaceProof one space to enter, signed by its own key */

export const CollectionInfo = part("CollectionInfo", { collectionId: id, head: seq, counter: optional(seq, zero) });
/** @typedef {Whole<typeof CollectionInfo.fields>} CollectionInfo one collection: its head, our last counter in it */

export const CursorPart = part("CursorPart", {
  collectionId: id,
  incarnation: id,
  seq,
  liveOnly: optional(bool, no),
});
/** @typedef {Whole<typeof CursorPart.fields>} CursorPart how far the device has one collection */

export const SubscribedPart = part("SubscribedPart", {
  collectionId: id,
  head: seq,
  after: seq,
  counter: optional(seq, zero), // the hub's last counter of this device in this collection
});
/** @typedef {Whole<typeof SubscribedPart.fields>} SubscribedPart where a subscription starts */

export const DraftAnswer = part("DraftAnswer", {
  seq: optional(seq, zero),
  code: optional(str(), empty),
  newestSeq: optional(seq, zero),
  newestId: optional(bin(), nothing),
});
/** @typedef {Whole<typeof DraftAnswer.fields>} DraftAnswer a seq, or a code; with `conflict` the newest change */

export const DeviceInfo = part("DeviceInfo", {
  deviceId: id,
  devicePk: key32,
  scope: str(),
  appId: str(),
  enrolledVia: str(),
  enrolledAt: float,
  lastSeenDay: any, // days since the Unix epoch
  probationUntil: optional(float, zero),
});
/** @typedef {Whole<typeof DeviceInfo.fields>} DeviceInfo what the hub knows of one device */

export const GrowthPart = row("GrowthPart", { day: any, usedBytes: any }); // days since the Unix epoch
/** @typedef {Whole<typeof GrowthPart.fields>} GrowthPart what a space took at the end of a day */

export const SpaceStats = part("SpaceStats", {
  spaceId: id,
  appId: str(),
  keyEpoch: any,
  usedBytes: any,
  createdAt: float,
  collections: any,
  changes: any, // ever appended: the sum of the heads
  lastChangeAt: optional(float, zero), // 0 = none
  deletedAt: optional(float, zero), // when a delayed deletion takes effect; 0 = none is under way
  growth: optional(array(GrowthPart), () => []), // oldest first; days on which nothing moved are left out
});
/** @typedef {Whole<typeof SpaceStats.fields>} SpaceStats what the hub knows of one space, for the person to see */

export const AuditPart = part("AuditPart", {
  number: seq,
  at: float,
  what: str(),
  actor: str(), // "device", "operator" or "hub"
  deviceId: optional(bin(), nothing), // the device that did it
  subjectId: optional(bin(), nothing), // the device or space it was done to
  count: optional(any, () => 1), // how often, on that day
});
/** @typedef {Whole<typeof AuditPart.fields>} AuditPart one thing that happened; `number` names where to go on from */

export const ChangePart = row("ChangePart", { seq, appendedAtMs: any, sealed: bytes });
/** @typedef {Whole<typeof ChangePart.fields>} ChangePart `sealed` is empty for the session's own draft */

export const HeadPart = row("HeadPart", { spaceId: id, collectionId: id, head: seq });
/** @typedef {Whole<typeof HeadPart.fields>} HeadPart */

const heads = optional(array(HeadPart), () => []);
const signal = { request, spaceId: id, body: bin(1, 262_144), to: nullable(id), deviceId: nullable(id) };
const pairing = { request, channel: id, body: bin(1, 262_144) };

// --- messages --------------------------------------------------------------------------------

/** What a device may send. */
export const FROM_DEVICE = Object.freeze({
  hello: {
    v: array(any, 1, 8),
    deviceId: id,
    clientNonce: key32,
    features: optional(array(str(0, 32), 0, 16), () => []),
    heartbeatS: optional(int(0, 86_400), zero),
    headsOnly: optional(bool, no),
  },
  auth: { signature },
  request_code: {
    request,
    address: str(3, 320),
    devicePk: key32,
    appId,
    purpose: optional(word("enrol", "confirm", "change"), () => "enrol"),
    attemptId: nullable(id), // given again to have the same code sent once more
    invite: optional(str(0, 128), empty),
  },
  enrol: { request, attemptId: id, code, devicePk: key32, signature, scope: optional(scope, () => "app") },
  confirm: { request, attemptId: id, code },
  open_pairing: { request, channel: id },
  pairing,
  vouch: { request, deviceId: id, devicePk: key32 },
  create_space: { request, spaceId: id, appId, spacePk: key32, signature },
  enter: { request, spaces: array(SpaceProof, 1, 50) },
  collections: { request, spaceId: id },
  subscribe: { request, spaceId: id, cursors: array(CursorPart, 1, 256) },
  unsubscribe: { request, spaceId: id, collectionIds: array(id, 1, 256) },
  append: { request, spaceId: id, drafts: array(bytes, 1, 256), atomic: optional(bool, no) },
  witness: { request, spaceId: id, collectionId: id, witness: bytes },
  read_history: {
    request,
    spaceId: id,
    collectionId: id,
    recordId: id,
    before: optional(seq, zero), // 0 = from the newest
    limit: optional(int(1, 200), () => 200),
  },
  signal,
  list_devices: { request },
  revoke_devices: { request, deviceIds: array(id, 1, 60) },
  approve_device: { request, deviceId: id },
  list_spaces: { request },
  list_audit: { request, before: optional(seq, zero), limit: optional(int(1, 200), () => 50) }, // 0 = from the newest
  export: { request, spaceId: nullable(id), cursor: optional(bin(0, 128), nothing) }, // empty = from the start
  change_address: { request, attemptId: id, code },
  delete_space: { request, spaceId: id, later: optional(bool, no) },
  delete_account: { request },
  cancel_deletion: { request, spaceId: nullable(id) },
  operator_code: { request, code },
  operate: { request, verb: str(1, 32), arguments: optional(open, () => ({})) },
  ping: { heads },
  pong: { heads },
});

/** What a hub may send. */
export const FROM_HUB = Object.freeze({
  challenge: { v: any, serverNonce: key32, features: array(str()), limits: numbers, signUp: str() },
  ready: {
    accountId: id,
    incarnation: id,
    serverTime: float,
    heartbeatS: any,
    scope,
    appId: str(),
    quotaBytes: any,
    usedBytes: any,
    spaces: array(SpaceInfo),
    probationUntil: optional(float, zero),
    accountDeletedAt: optional(float, zero),
    addressKnown: optional(bool, yes), // false after a move: nobody can sign in by mail until an address is given
    plan: optional(str(), empty),
    paidUntil: optional(float, zero),
    operator: optional(bool, no), // the account may operate this hub, after `operator_code`
  },
  code_sent: { request, attemptId: id, expiresInS: float, phrase: str() },
  pairing,
  entered: { request, spaces: array(SpaceInfo) },
  collection_list: { request, spaceId: id, collections: array(CollectionInfo) },
  subscribed: { request, spaceId: id, incarnation: id, collections: array(SubscribedPart) },
  changes: { spaceId: id, collectionId: id, after: seq, upto: seq, head: seq, changes: array(ChangePart) },
  heads: { heads: array(HeadPart) },
  appended: { request, spaceId: id, answers: array(DraftAnswer), usedBytes: optional(any, zero) },
  witnesses: { spaceId: id, collectionId: id, witnesses: array(bytes) },
  history: { request, changes: array(ChangePart), more: optional(bool, no) },
  signal,
  device_list: { request, devices: array(DeviceInfo) },
  space_list: { request, spaces: array(SpaceStats) },
  audit_list: { request, entries: array(AuditPart), more: optional(bool, no) },
  exported: {
    request,
    bundle: bin(),
    cursor: optional(bin(), nothing), // empty: this piece is the last
    doneBytes: optional(any, zero),
    totalBytes: optional(any, zero),
  },
  deleted: { request, deletedAt: optional(float, zero) }, // 0 = it has taken effect, and no row is left
  account_notice: {
    what: str(),
    deviceId: optional(bin(), nothing),
    spaceId: optional(bin(), nothing),
    at: optional(float, zero),
  },
  moved: { url: str() }, // where devices dial
  operated: { request, result: open },
  ping: { heads },
  pong: { heads },
  going_away: { retryAfterS: float },
  done: { request },
  refused: {
    request,
    code: str(),
    message: str(),
    retry: optional(bool, no),
    retryAfterS: optional(float, zero),
  },
});

/** @typedef {typeof FROM_DEVICE} DeviceTable */
/** @typedef {typeof FROM_HUB} HubTable */
/** @typedef {{ [N in keyof DeviceTable]: { type: N } & Whole<DeviceTable[N]> }[keyof DeviceTable]} FromDevice */
/** @typedef {{ [N in keyof HubTable]: { type: N } & Whole<HubTable[N]> }[keyof HubTable]} FromHub */
/** @typedef {{ [N in keyof DeviceTable]: { type: N } & Given<DeviceTable[N]> }[keyof DeviceTable]} ToHub */
/** @typedef {{ [N in keyof HubTable]: { type: N } & Given<HubTable[N]> }[keyof HubTable]} ToDevice */
/** @typedef {FromDevice | FromHub} Message what was received, from either side */
/**
 * One message of a hub by its name: `Received<"ready">`.
 * @template {keyof HubTable} N
 * @typedef {{ type: N } & Whole<HubTable[N]>} Received
 */

/** @typedef {Received<"challenge">} Challenge */
/** @typedef {Received<"ready">} Ready */
/** @typedef {Received<"code_sent">} CodeSent */
/** @typedef {Received<"pairing">} Pairing */
/** @typedef {Received<"entered">} Entered */
/** @typedef {Received<"collection_list">} CollectionList */
/** @typedef {Received<"subscribed">} Subscribed */
/** @typedef {Received<"changes">} Changes */
/** @typedef {Received<"heads">} Heads */
/** @typedef {Received<"appended">} Appended */
/** @typedef {Received<"witnesses">} Witnesses */
/** @typedef {Received<"history">} History */
/** @typedef {Received<"signal">} Signal */
/** @typedef {Received<"device_list">} DeviceList */
/** @typedef {Received<"space_list">} SpaceList */
/** @typedef {Received<"audit_list">} AuditList */
/** @typedef {Received<"exported">} Exported */
/** @typedef {Received<"deleted">} Deleted */
/** @typedef {Received<"account_notice">} AccountNotice */
/** @typedef {Received<"going_away">} GoingAway */
/** @typedef {Received<"done">} Done */
/** @typedef {Received<"refused">} Refused */

/**
 * @typedef {object} Row a field with its names
 * @property {string} name
 * @property {string} wire
 * @property {Field<any> & { fallback?: () => any }} field
 */

/**
 * The fields in their order, each with its name on the wire.
 * @param {Fields} fields
 * @returns {Row[]}
 */
export function listed(fields) {
  return Object.entries(fields).map(([name, field]) => ({ name, wire: wireName(name), field }));
}

/**
 * The fields out of a map of the wire.  Throws RangeError with a sentence that names the first fault.
 * @param {Row[]} rows
 * @param {Record<string, unknown>} map
 * @param {string} place
 * @returns {Record<string, unknown>}
 */
export function readFields(rows, map, place) {
  /** @type {Record<string, unknown>} */
  const made = {};
  for (const { name, wire, field } of rows) {
    if (Object.hasOwn(map, wire)) made[name] = field.read(map[wire], place + wire);
    else if (field.fallback) made[name] = field.fallback();
    else throw new RangeError(`${place}${wire} is missing`);
  }
  return made;
}

/**
 * The fields as keys and values of a map whose beginning is written.
 * @param {Writer} out
 * @param {Row[]} rows
 * @param {Record<string, any>} value
 * @param {string} place
 */
export function writeFields(out, rows, value, place) {
  for (const { name, wire, field } of rows) {
    out.str(wire);
    field.write(out, value[name], place + name);
  }
}

/**
 * Whether a field may be left out on the wire, since `value` is its default.
 * @param {Row} row
 * @param {any} value
 * @returns {boolean}
 */
export function isDefault({ field }, value) {
  if (!field.fallback) return false;
  if (value === undefined) return true;
  const fallback = field.fallback();
  if (isPlain(fallback)) return isPlain(value) && Object.keys(value).length === 0; // the only default of a map
  return value === fallback || (fallback?.length === 0 && value?.length === 0);
}

/**
 * @template T
 * @param {T} value
 * @param {number} size
 * @param {number} min
 * @param {number | undefined} max
 * @param {string} place
 * @returns {T}
 */
function within(value, size, min, max, place) {
  if (size < min || (max !== undefined && size > max)) throw new RangeError(`${place} is out of bounds`);
  return value;
}

/**
 * @param {number} min
 * @param {number | undefined} max
 */
function lengths(min, max) {
  if (max === undefined) return "";
  return min === max ? `length ${min}` : `length ${min} to ${max}`;
}
