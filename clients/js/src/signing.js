/**
 * Ed25519 challenge and proof, both sides of the handshake, and the keys that sign.
 *
 * What is signed is a hash over the exact bytes of the hello and the challenge and over
 * the hub's URL as the device dialled it, so nothing can be stripped, replayed on another
 * connection or relayed through another hub.  docs/protocol.md "Handshake".
 *
 * A device's key is made by WebCrypto and cannot be read by any script, so signing is
 * asynchronous.  Where a browser has no Ed25519, and to check signatures by the strict
 * rules of libsodium that the hub uses, @noble/curves is loaded when it is needed first.
 */

import { sha256 } from "@noble/hashes/sha2.js";
import { concat, equal, hex, u32, unhex, utf8 } from "./bytes.js";
import { assert } from "./errors.js";

export const LABEL = utf8("hub/v1/");
export const SEED_BYTES = 32;
export const PUBLIC_KEY_BYTES = 32;
export const SIGNATURE_BYTES = 64;

/** @typedef {"auth" | "enrol" | "space" | "account"} Purpose */

const ED25519 = { name: "Ed25519" };
/** What precedes the seed in PKCS #8 (RFC 8410 §7). */
const PKCS8 = Uint8Array.of(0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20);
/** The public key of RFC 8032 §7.1, test 1. */
const KNOWN_KEY = plain(unhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"));

/**
 * Length-prefixed concatenation: u32be length ‖ bytes, for each part; unambiguous.
 * @param {...Uint8Array} parts
 * @returns {Uint8Array}
 */
export function lp(...parts) {
  return concat(...parts.flatMap((part) => [u32(part.length), part]));
}

/**
 * SHA-256 over the label, the purpose and the raw handshake; 32 bytes.
 *
 * For a space proof `challenge` is the raw challenge followed by the space id.
 * @param {Purpose} purpose
 * @param {string} hubUrl
 * @param {Uint8Array} hello
 * @param {Uint8Array} challenge
 * @returns {Uint8Array}
 */
export function transcriptHash(purpose, hubUrl, hello, challenge) {
  return sha256(concat(LABEL, utf8(`${purpose}\0`), lp(utf8(hubUrl), hello, challenge)));
}

/**
 * The bytes that a proof signs.
 * @param {Purpose} purpose
 * @param {string} hubUrl
 * @param {Uint8Array} hello
 * @param {Uint8Array} challenge
 * @returns {Uint8Array}
 */
export function proofMessage(purpose, hubUrl, hello, challenge) {
  return concat(LABEL, utf8(`${purpose}-sig\0`), transcriptHash(purpose, hubUrl, hello, challenge));
}

/**
 * What storage keeps of a key.  A CryptoKey can be stored in IndexedDB and read by no script; a seed is kept only
 * where the browser has no Ed25519.
 * @typedef {{ publicKey: Uint8Array, privateKey: CryptoKey | null, seed: Uint8Array | null }} StoredKey
 */

/** A key that signs.  Its text shows the public key only. */
export class SigningKey {
  /** @type {CryptoKey | null} */
  #privateKey;
  /** @type {Uint8Array | null} */
  #seed;

  /** @param {StoredKey} stored as `stored()` gave it */
  constructor(stored) {
    assert(stored.publicKey.length === PUBLIC_KEY_BYTES, "a public key has 32 bytes");
    assert(stored.privateKey || stored.seed, "there is nothing to sign with");
    /** @readonly */
    this.publicKey = stored.publicKey;
    this.#privateKey = stored.privateKey;
    this.#seed = stored.seed;
    Object.freeze(this);
  }

  /**
   * A new key that no script can read, where the browser can make one.
   * @param {(size: number) => Uint8Array} fresh random bytes, for browsers that cannot
   * @returns {Promise<SigningKey>}
   */
  static async generate(fresh) {
    if (!(await hasEd25519())) return SigningKey.fromSeed(fresh(SEED_BYTES));
    const pair = /** @type {CryptoKeyPair} */ (await subtle().generateKey(ED25519, false, ["sign", "verify"]));
    const publicKey = new Uint8Array(await subtle().exportKey("raw", pair.publicKey));
    return new SigningKey({ publicKey, privateKey: pair.privateKey, seed: null });
  }

  /**
   * The key of a 32-byte seed.
   * @param {Uint8Array} seed
   * @returns {Promise<SigningKey>}
   */
  static async fromSeed(seed) {
    assert(seed.length === SEED_BYTES, "a seed has 32 bytes");
    if (!(await hasEd25519())) {
      const { ed25519 } = await curves();
      return new SigningKey({ publicKey: ed25519.getPublicKey(seed), privateKey: null, seed: seed.slice() });
    }
    const pkcs8 = plain(concat(PKCS8, seed));
    // WebCrypto tells the public key of a private one only through an export.
    const readable = await subtle().importKey("pkcs8", pkcs8, ED25519, true, ["sign"]);
    const { x } = await subtle().exportKey("jwk", readable);
    const privateKey = await subtle().importKey("pkcs8", pkcs8, ED25519, false, ["sign"]);
    return new SigningKey({ publicKey: fromBase64Url(/** @type {string} */ (x)), privateKey, seed: null });
  }

  /**
   * What to keep of this key; the constructor takes it back.
   * @returns {StoredKey}
   */
  stored() {
    return { publicKey: this.publicKey, privateKey: this.#privateKey, seed: this.#seed };
  }

  /**
   * The 64-byte signature of `message`.
   * @param {Uint8Array} message
   * @returns {Promise<Uint8Array>}
   */
  async sign(message) {
    if (this.#privateKey) return new Uint8Array(await subtle().sign(ED25519, this.#privateKey, plain(message)));
    const { ed25519 } = await curves();
    return ed25519.sign(message, /** @type {Uint8Array} */ (this.#seed));
  }

  /**
   * The 64-byte proof for `purpose` on this connection.
   * @param {Purpose} purpose
   * @param {string} hubUrl
   * @param {Uint8Array} hello
   * @param {Uint8Array} challenge
   * @returns {Promise<Uint8Array>}
   */
  proof(purpose, hubUrl, hello, challenge) {
    return this.sign(proofMessage(purpose, hubUrl, hello, challenge));
  }

  toString() {
    return `SigningKey(public key ${hex(this.publicKey)})`;
  }
}

/**
 * Whether `signature` proves `purpose` on this connection.  Never throws for bad input.
 * @param {Uint8Array} publicKey
 * @param {Uint8Array} signature
 * @param {Purpose} purpose
 * @param {string} hubUrl
 * @param {Uint8Array} hello
 * @param {Uint8Array} challenge
 * @returns {Promise<boolean>}
 */
export function verify(publicKey, signature, purpose, hubUrl, hello, challenge) {
  return verifySignature(publicKey, signature, proofMessage(purpose, hubUrl, hello, challenge));
}

/**
 * Whether the signature is one that libsodium accepts: RFC 8032 §5.1.7 without the cofactor, S below the group order,
 * and neither R nor the key a point of small order or written in another than its one way.
 * @param {Uint8Array} publicKey
 * @param {Uint8Array} signature
 * @param {Uint8Array} message
 * @returns {Promise<boolean>}
 */
export async function verifySignature(publicKey, signature, message) {
  if (signature.length !== SIGNATURE_BYTES || publicKey.length !== PUBLIC_KEY_BYTES) return false;
  const { ed25519, sha512 } = await curves();
  const { Point } = ed25519;
  const R = signature.slice(0, 32);
  const key = pointOf(Point, publicKey);
  const S = littleEndian(signature.subarray(32));
  if (!key || !pointOf(Point, R) || S >= Point.Fn.ORDER) return false;
  const k = littleEndian(sha512(concat(R, publicKey, message))) % Point.Fn.ORDER;
  return equal(Point.BASE.multiplyUnsafe(S).subtract(key.multiplyUnsafe(k)).toBytes(), R);
}

/**
 * Whether `publicKey` is a canonical point of prime order, so that all verifiers agree on it.
 * @param {Uint8Array} publicKey
 * @returns {Promise<boolean>}
 */
export async function isValidPublicKey(publicKey) {
  if (publicKey.length !== PUBLIC_KEY_BYTES) return false;
  const { ed25519 } = await curves();
  return pointOf(ed25519.Point, publicKey)?.isTorsionFree() ?? false;
}

/** @typedef {typeof import("@noble/curves/ed25519.js").ed25519.Point} PointClass */

/**
 * The point, unless it is of small order, off the curve, or not written in its one way, which noble sees to.
 * @param {PointClass} Point
 * @param {Uint8Array} bytes
 */
function pointOf(Point, bytes) {
  try {
    const point = Point.fromBytes(bytes, false);
    return point.isSmallOrder() ? null : point;
  } catch {
    return null;
  }
}

/** @param {Uint8Array} bytes */
function littleEndian(bytes) {
  return BigInt(`0x${hex(bytes.slice().reverse())}`);
}

function subtle() {
  const found = globalThis.crypto?.subtle;
  assert(found, "there is no WebCrypto: the page must come over https or from localhost");
  return found;
}

/** @type {Promise<boolean> | null} */
let ed25519Found = null;

/** Whether this browser's WebCrypto has Ed25519 (Chrome 137, Firefox 129, Safari 17, Node 20). */
function hasEd25519() {
  ed25519Found ??= subtle()
    .importKey("raw", KNOWN_KEY, ED25519, true, ["verify"])
    // Browsers differ in how they say no; whatever it is, the fallback works.
    .then(() => true, () => false);
  return ed25519Found;
}

function curves() {
  return import("./curves.js");
}

/** @param {string} text */
function fromBase64Url(text) {
  const letters = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(letters, (letter) => letter.charCodeAt(0));
}

/**
 * The same bytes in memory of their own, as WebCrypto's types want them.
 * @param {Uint8Array} bytes
 */
function plain(bytes) {
  return Uint8Array.from(bytes);
}
