/**
 * From one app key to every key of a space, without I/O.
 *
 * A person's app key is 32 random bytes that never leave their devices.  Everything else
 * is derived from it: the signing key that proves to the hub that a device holds the app
 * key, the id of the space (a hash of the first signing key, so that nobody can claim
 * another's space), the keys that seal, and the keys that turn names into the ids the hub
 * sees.  docs/protocol.md "Keys".
 *
 * A new app key (a higher key_epoch) changes what signs and seals.  Names and the digest
 * keep the keys of the first one, so ids stay what they were.
 */

import { hkdf as hkdfSha256 } from "@noble/hashes/hkdf.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { concat, equal, hex, u32, utf8 } from "./bytes.js";
import { assert } from "./errors.js";
import { mac } from "./mac.js";
import { LABEL, SigningKey } from "./signing.js";
import { ID_BYTES } from "./terms.js";

export const APP_KEY_BYTES = 32;
export const KEY_EPOCH_MAX = 2 ** 32 - 1;
const HASH_BYTES = 32;

const NO_SALT = new Uint8Array(0);
const COLLECTION = utf8("c\0");
const RECORD = utf8("r\0");

/** The keys of one space under one app key.  Its text shows ids only. */
export class SpaceKeys {
  /** @type {Readonly<{ contentKey: Uint8Array, witnessKey: Uint8Array, nameKey: Uint8Array, setKey: Uint8Array }>} */
  #secrets;

  /**
   * @param {{ keyEpoch: number, spaceId: Uint8Array, signingKey: SigningKey, keyId: Uint8Array }} known
   * @param {{ contentKey: Uint8Array, witnessKey: Uint8Array, nameKey: Uint8Array, setKey: Uint8Array }} secrets
   */
  constructor({ keyEpoch, spaceId, signingKey, keyId }, secrets) {
    /** @readonly */
    this.keyEpoch = keyEpoch;
    /** @readonly */
    this.spaceId = spaceId;
    /** @readonly */
    this.signingKey = signingKey;
    /** @readonly */
    this.spacePk = signingKey.publicKey;
    /** @readonly */
    this.keyId = keyId;
    this.#secrets = secrets;
    Object.freeze(this);
  }

  /**
   * All keys that follow from `appKey`; both keys are 32 bytes.
   *
   * `firstKey` is the app key of key_epoch 0.  It is needed from key_epoch 1 on, since the space id and the names
   * stand on it.  Throws RangeError.  It waits for WebCrypto, which alone makes signing keys.
   * @param {Uint8Array} appKey
   * @param {number} [keyEpoch]
   * @param {Uint8Array | null} [firstKey]
   * @returns {Promise<SpaceKeys>}
   */
  static async derive(appKey, keyEpoch = 0, firstKey = null) {
    const first = checkedFirstKey(appKey, keyEpoch, firstKey);
    const signingKey = await signingKeyOf(appKey);
    const firstSigningKey = keyEpoch === 0 ? signingKey : await signingKeyOf(first);
    const spaceId = spaceIdOf(firstSigningKey.publicKey);
    const derived = (/** @type {Uint8Array} */ key, /** @type {string} */ name, numbered = true) =>
      hkdf(key, spaceId, concat(LABEL, utf8(name), numbered ? u32(keyEpoch) : NO_SALT));
    return new SpaceKeys(
      { keyEpoch, spaceId, signingKey, keyId: keyIdOf(appKey, keyEpoch, spaceId) },
      {
        contentKey: derived(appKey, "enc"),
        witnessKey: derived(appKey, "head"),
        nameKey: derived(first, "name", false),
        setKey: derived(first, "set", false),
      },
    );
  }

  get contentKey() {
    return this.#secrets.contentKey;
  }

  get witnessKey() {
    return this.#secrets.witnessKey;
  }

  get nameKey() {
    return this.#secrets.nameKey;
  }

  get setKey() {
    return this.#secrets.setKey;
  }

  /**
   * The id the hub sees instead of `name`; the same on every device of the space.
   * @param {string} name
   * @returns {Uint8Array}
   */
  collectionId(name) {
    return mac(this.nameKey, COLLECTION, utf8(name)).slice(0, ID_BYTES);
  }

  /**
   * The id the hub sees instead of the record's `key`; another in each collection.
   * @param {Uint8Array} collectionId
   * @param {string} key
   * @returns {Uint8Array}
   */
  recordId(collectionId, key) {
    return mac(this.nameKey, RECORD, collectionId, utf8(key)).slice(0, ID_BYTES);
  }

  toString() {
    return `SpaceKeys(space ${hex(this.spaceId)}, key_epoch ${this.keyEpoch}, key_id ${hex(this.keyId)})`;
  }
}

/**
 * The space whose first public key this is.
 * @param {Uint8Array} firstSpacePk
 * @returns {Uint8Array}
 */
export function spaceIdOf(firstSpacePk) {
  return sha256(concat(LABEL, utf8("space-id\0"), firstSpacePk)).slice(0, ID_BYTES);
}

/**
 * What an app key of a space is called.
 * @param {Uint8Array} appKey
 * @param {number} keyEpoch
 * @param {Uint8Array} spaceId
 * @returns {Uint8Array}
 */
export function keyIdOf(appKey, keyEpoch, spaceId) {
  return hkdf(appKey, spaceId, concat(LABEL, utf8("key-id"), u32(keyEpoch)), ID_BYTES);
}

/**
 * The Ed25519 seed of an app key.  No space id goes in: a device must find the space of a typed key by its public key.
 * @param {Uint8Array} appKey
 * @returns {Uint8Array}
 */
export function signingSeedOf(appKey) {
  return hkdf(appKey, NO_SALT, concat(LABEL, utf8("space-auth")));
}

/**
 * HKDF-SHA256 (RFC 5869): `length` bytes, at most 8160.  An empty salt is that of the RFC, 32 zero bytes.
 * @param {Uint8Array} inputKey
 * @param {Uint8Array} salt
 * @param {Uint8Array} info
 * @param {number} [length]
 * @returns {Uint8Array}
 */
export function hkdf(inputKey, salt, info, length = HASH_BYTES) {
  assert(length > 0 && length <= 255 * HASH_BYTES, "HKDF gives 1 to 8160 bytes");
  return hkdfSha256(sha256, inputKey, salt, info, length);
}

/**
 * @param {Uint8Array} appKey
 * @param {number} keyEpoch
 * @param {Uint8Array | null} firstKey
 */
function checkedFirstKey(appKey, keyEpoch, firstKey) {
  if (!Number.isInteger(keyEpoch) || keyEpoch < 0 || keyEpoch > KEY_EPOCH_MAX) {
    throw new RangeError("a key_epoch is a number from 0 to 2^32 - 1");
  }
  if (keyEpoch === 0 && firstKey && !equal(firstKey, appKey)) {
    throw new RangeError("the app key of key_epoch 0 is the first key itself");
  }
  const first = keyEpoch === 0 ? appKey : firstKey;
  if (!first) throw new RangeError("from key_epoch 1 on the first app key is needed as well");
  if ([appKey, first].some((key) => key.length !== APP_KEY_BYTES)) throw new RangeError("an app key has 32 bytes");
  return first;
}

/** @param {Uint8Array} appKey */
function signingKeyOf(appKey) {
  return SigningKey.fromSeed(signingSeedOf(appKey));
}
