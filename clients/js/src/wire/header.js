/**
 * The clear header of a sealed change: the only part of it the hub reads.
 *
 * A sealed change is `header(112) ‖ nonce(24) ‖ ciphertext ‖ tag(16)`; the header is the
 * AEAD's associated data, so nobody without the app key can alter it.  Layout
 * (docs/protocol.md "Sealed change"), big-endian:
 *
 *       0  u8  version = 1     1  u8 suite = 1
 *       2  u8  kind            3  u8 flags (bit 0 padded, bit 1 conditional)
 *       4  u32 key_epoch       8  space_id(16)       24 collection_id(16)
 *      40  record_id(16)      56  change_id(16)      72 device_id(16)
 *      88  u64 counter        96  base(16)
 */

import { equal } from "../bytes.js";
import { assert } from "../errors.js";
import { COLLECTION_KINDS, ID_BYTES, Kind, ZERO_ID } from "../terms.js";

export const VERSION = 1;
export const SUITE = 1; // XChaCha20-Poly1305, HKDF/HMAC-SHA256, Ed25519
export const FLAG_PADDED = 0x01;
export const FLAG_CONDITIONAL = 0x02;

export const HEADER_BYTES = 112;
export const NONCE_BYTES = 24;
export const TAG_BYTES = 16;
export const SEALED_BYTES_MIN = HEADER_BYTES + NONCE_BYTES + TAG_BYTES;

const ZERO_8 = new Uint8Array(8);
/** @type {ReadonlySet<number>} */
const KINDS = new Set(Object.values(Kind));

/**
 * @typedef {object} HeaderFields
 * @property {number} version
 * @property {number} suite
 * @property {number} kind
 * @property {number} flags
 * @property {number} keyEpoch
 * @property {Uint8Array} spaceId
 * @property {Uint8Array} collectionId
 * @property {Uint8Array} recordId
 * @property {Uint8Array} changeId
 * @property {Uint8Array} deviceId
 * @property {number} counter below 2^53
 * @property {Uint8Array} base
 */

/** The header's fields, in their order on the wire. */
export class Header {
  /** @param {HeaderFields} fields */
  constructor(fields) {
    this.version = fields.version;
    this.suite = fields.suite;
    this.kind = fields.kind;
    this.flags = fields.flags;
    this.keyEpoch = fields.keyEpoch;
    this.spaceId = fields.spaceId;
    this.collectionId = fields.collectionId;
    this.recordId = fields.recordId;
    this.changeId = fields.changeId;
    this.deviceId = fields.deviceId;
    this.counter = fields.counter;
    this.base = fields.base;
  }

  /** Whether the hub must refuse this draft when the record's newest change is not `base`. */
  get conditional() {
    return Boolean(this.flags & FLAG_CONDITIONAL);
  }

  /**
   * The seq up to which a purge drops tombstones: its base is eight zero bytes and a u64.  Beyond 2^53 it is rounded,
   * which is beyond every seq all the same.
   */
  get upto() {
    return Number(view(this.base).getBigUint64(8));
  }

  /**
   * The 112 bytes of this header.
   * @returns {Uint8Array}
   */
  pack() {
    const bytes = new Uint8Array(HEADER_BYTES);
    bytes.set([this.version, this.suite, this.kind, this.flags]);
    const ids = [this.spaceId, this.collectionId, this.recordId, this.changeId, this.deviceId];
    ids.forEach((id, n) => bytes.set(ofLength(id), 8 + n * ID_BYTES));
    assert(Number.isSafeInteger(this.counter) && this.counter >= 0, "a counter is a number below 2^53");
    view(bytes).setUint32(4, this.keyEpoch);
    view(bytes).setBigUint64(88, BigInt(this.counter));
    bytes.set(ofLength(this.base), 96);
    return bytes;
  }
}

/**
 * The header of `sealed`, checked as far as it can be without a session or a key.
 *
 * Throws RangeError with a sentence naming the first fault.
 * @param {Uint8Array} sealed
 * @returns {Header}
 */
export function parseHeader(sealed) {
  if (sealed.length < SEALED_BYTES_MIN) throw new RangeError(`a sealed change has at least ${SEALED_BYTES_MIN} bytes`);
  const [version, suite, kind, flags] = sealed;
  if (version !== VERSION || suite !== SUITE) throw new RangeError("unknown version or suite");
  if (!KINDS.has(kind)) throw new RangeError("unknown kind");
  if (flags & ~(FLAG_PADDED | FLAG_CONDITIONAL)) throw new RangeError("unknown flag");
  const counter = Number(view(sealed).getBigUint64(88));
  if (counter === 0) throw new RangeError("counters start at 1");
  if (!Number.isSafeInteger(counter)) throw new RangeError("a counter of 2^53 or beyond");
  const id = (/** @type {number} */ at) => sealed.slice(at, at + ID_BYTES);
  const header = new Header({
    version, suite, kind, flags, keyEpoch: view(sealed).getUint32(4), spaceId: id(8), collectionId: id(24),
    recordId: id(40), changeId: id(56), deviceId: id(72), counter, base: id(96),
  });
  checkKind(header);
  return header;
}

/** @param {Header} header */
function checkKind(header) {
  const { kind, base, conditional } = header;
  if (COLLECTION_KINDS.has(kind) && (!equal(header.recordId, ZERO_ID) || conditional)) {
    throw new RangeError("this kind speaks about the collection: record id zero, not conditional");
  }
  if (kind === Kind.PURGE && !equal(base.subarray(0, 8), ZERO_8)) {
    throw new RangeError("a purge's base is eight zero bytes and a u64 seq");
  }
  if (kind === Kind.DELTA && (!equal(base, ZERO_ID) || conditional)) throw new RangeError("a delta carries no base");
}

/** @param {Uint8Array} id */
function ofLength(id) {
  assert(id.length === ID_BYTES, `an id has ${ID_BYTES} bytes`);
  return id;
}

/** @param {Uint8Array} bytes */
function view(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
