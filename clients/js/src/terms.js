/**
 * The nouns of the hub: ids, positions, kinds, limits.
 *
 * Everything here is plain data.  Ids are Uint8Array of 16 bytes; a seq is a number
 * from 1 (0 means "none"); times are numbers in seconds since the Unix epoch unless a
 * name says otherwise.  The words are those of docs/vocabulary.md.
 */

/** @typedef {Uint8Array} AccountId 16 random bytes, given by the hub */
/** @typedef {Uint8Array} DeviceId 16 random bytes, chosen by the device */
/** @typedef {Uint8Array} SpaceId 16 bytes, derived from the app key, self-certifying */
/** @typedef {Uint8Array} CollectionId 16 bytes, keyed name; only devices know the name */
/** @typedef {Uint8Array} RecordId 16 bytes, keyed name; only devices know the key */
/** @typedef {Uint8Array} ChangeId 16 random bytes, chosen by the device */
/** @typedef {Uint8Array} Incarnation 16 random bytes, names one life of the hub's log */
/** @typedef {number} Seq 1, 2, 3 ... without gaps within a collection and incarnation; 0 = none */

/** @typedef {{ incarnation: Incarnation, seq: Seq }} Cursor how far a device has a collection */
/**
 * A draft that has its place in the log; never altered.  `appendedAtMs` is the hub's clock, for undo only; it orders
 * nothing.  `sealed` are the bytes exactly as the device sent them.
 * @typedef {{ seq: Seq, appendedAtMs: number, sealed: Uint8Array }} Change
 */
/** @typedef {{ steady: number, wall: number }} Now seconds: a clock that never jumps, and the Unix time */

export const ID_BYTES = 16;
/** Never written to. */
export const ZERO_ID = new Uint8Array(ID_BYTES);
export const SUBPROTOCOL = "hub.v1";
export const PROTOCOL_VERSION = 1;
export const PATH = "/v1/ws";

/** What a change does to its record, or to the whole collection. */
export const Kind = Object.freeze({
  PUT: 1, // replaces the record
  DELETE: 2, // empties the record; stays as a tombstone until purged
  PURGE: 3, // drops the tombstones up to a seq
  WIPE: 4, // drops every earlier change of the collection
  WITNESS: 5, // a device's statement about the collection; never in the log
  KEYRING: 6, // older app keys, sealed under a newer one
  DELTA: 8, // adds to the record (CRDT updates)
});
/** @typedef {number} Kind one of the numbers of `Kind`; 7 is reserved for chunks of large bodies */

/** @type {ReadonlySet<number>} */
export const LOG_KINDS = new Set([Kind.PUT, Kind.DELETE, Kind.PURGE, Kind.WIPE, Kind.KEYRING, Kind.DELTA]);
/**
 * These free room or mark it free, so they pass even when the quota is full.
 * @type {ReadonlySet<number>}
 */
export const FREEING_KINDS = new Set([Kind.DELETE, Kind.PURGE, Kind.WIPE]);
/**
 * These speak about the whole collection; their record id is zero.
 * @type {ReadonlySet<number>}
 */
export const COLLECTION_KINDS = new Set([Kind.PURGE, Kind.WIPE, Kind.WITNESS]);

/** Every number the protocol bounds, by default; a hub tells its own in the challenge. */
export const LIMITS = Object.freeze({
  frameBytesMax: 262_144, // one WebSocket message, device to hub, after auth
  frameBytesBeforeAuthMax: 4_096,
  helloBytesMax: 2_048,
  draftBytesMax: 196_608, // one sealed change, header included
  draftsPerAppendMax: 256,
  appendsInFlightMax: 4, // append requests without an answer, per session
  collectionsPerSubscribeMax: 256,
  subscriptionsPerSessionMax: 1_000,
  spacesPerEnterMax: 50,
  spacesPerAccountMax: 50,
  collectionsPerSpaceMax: 1_000,
  devicesPerAccountMax: 60,
  devicesPerAppMax: 20,
  sessionsPerAccountMax: 32,
  signalBytesMax: 4_096,
  witnessBytesMax: 4_096,
  pairingBytesMax: 2_048, // one frame between two devices that pair; fits before auth
  pairingFramesMax: 8, // both ways together, in one pairing
  pageBytes: 131_072, // a changes frame stops growing beyond this
  pageChanges: 500,
  queuedBytesMax: 1_048_576, // to one session; beyond it the session is sent heads only
  historyChangesMax: 200, // in one answer to `read_history`
  messagesPerS: 50,
  messagesBurst: 200,
  bytesPerS: 1_048_576,
  bytesBurst: 8_388_608,
  heartbeatSMin: 15,
  heartbeatSMax: 300,
  heartbeatS: 25,
});
/** @typedef {{ readonly [name in keyof typeof LIMITS]: number }} Limits */

/**
 * The limits a challenge tells, the default for each it does not tell or tells as 0; names unknown here are left out.
 * @param {Record<string, number>} told by their names on the wire, as `challenge.limits` has them
 * @returns {Limits}
 */
export function limitsTold(told) {
  /** @type {Record<string, number>} */
  const known = { ...LIMITS };
  for (const name of Object.keys(LIMITS)) {
    const value = Object.hasOwn(told, wireName(name)) ? told[wireName(name)] : 0;
    if (value > 0) known[name] = value;
  }
  return /** @type {Limits} */ (Object.freeze(known));
}

/**
 * The name on the wire of a name here: `deviceId` is `device_id` there.
 * @param {string} name
 * @returns {string}
 */
export function wireName(name) {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
