/**
 * Adding a device by one scan, without I/O: the app key goes from one device to another through a hub that cannot.
 *
 * One device shows a code, the other scans it; either may be the one that has the key.
 * The code carries a secret and an X25519 key that the hub never sees.  Both devices
 * derive their keys from these and from everything that names them (the *transcript*:
 * the hub's address, the account, both devices), so whoever stands between can neither
 * read what is handed over nor put anything else in its place.  Six digits, which follow
 * from the same secrets, are compared by the person: they catch whoever has
 * photographed the code.  docs/protocol.md "Pairing".
 *
 * `Giver` has the key, `Taker` wants it.  What happens goes in, effects come out.
 * After `Failed` or `Paired` nothing more comes.
 *
 * This room brings the curves along: import it only when two devices are about to pair.
 */

import { xchacha20poly1305 } from "@noble/ciphers/chacha.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { concat, equal, fromUtf8, u32, utf8 } from "./bytes.js";
import { ed25519, x25519 } from "./curves.js";
import { assert, PairingFailed } from "./errors.js";
import { CodeKind, qrText, WrongKeyCode } from "./keycode.js";
import { APP_KEY_BYTES, hkdf, keyIdOf, signingSeedOf, spaceIdOf } from "./keys.js";
import { isPlain, pack, unpack } from "./msgpack.js";
import { paddedBytes } from "./sealing.js";
import { LABEL, lp } from "./signing.js";
import { ID_BYTES } from "./terms.js";
import { NONCE_BYTES, TAG_BYTES } from "./wire/header.js";

export const WITHIN_S = 180;
export const LABEL_CHARS_MAX = 64;
export const HEADS_MAX = 32; // of a grant, so that it fits into one frame
export const SECRET_BYTES = 32;
export const PUBLIC_KEY_BYTES = 32;

const VERSION = 1;
const HAS_KEY = 1;
const WANTS_KEY = 2;
export const PAIRING_CODE = new CodeKind("HUBPAIR", "pairing code", 2 + PUBLIC_KEY_BYTES + SECRET_BYTES);

// The first byte of each frame.
const GIVER_OFFER = 1;
const TAKER_OFFER = 2;
const NAME = 3;
const GRANT = 4;
const TAKEN = 5;
const CANCEL = 6;
const GIVER_BYTES = 1 + PUBLIC_KEY_BYTES + 2 * ID_BYTES + 32; // then the app id as UTF-8
const TAKER_BYTES = 1 + PUBLIC_KEY_BYTES + ID_BYTES + 32;

const LENGTH_BYTES = 4;
const NO_SALT = new Uint8Array(0);
const NONCE = new Uint8Array(NONCE_BYTES); // each key seals one thing, ever
const LONE_SURROGATES = /[\ud800-\udfff]/gu;

/** @typedef {keyof typeof import("./errors.js").PAIRING_FAULTS} Fault */

// --- the code that is shown ------------------------------------------------------------------

/**
 * What a pairing code says: whether the device that shows it has the key; `host` of the hub, with its port if it has
 * one, and empty when the code was typed without it.
 * @typedef {{ hasKey: boolean, publicKey: Uint8Array, secret: Uint8Array, host: string }} Scan
 */

/**
 * `CODE/HOST`, upper case: what the QR code shows.  Both byte strings have 32 bytes.
 * @param {Uint8Array} publicKey
 * @param {Uint8Array} secret
 * @param {string} hubUrl
 * @param {{ hasKey: boolean }} role of the device that shows it
 * @returns {string}
 */
export function pairingCode(publicKey, secret, hubUrl, { hasKey }) {
  const payload = concat(Uint8Array.of(VERSION, hasKey ? HAS_KEY : WANTS_KEY), publicKey, secret);
  return qrText(PAIRING_CODE.write(payload), hubUrl);
}

/**
 * What the code says.  Throws `WrongKeyCode` with a sentence.
 * @param {string} text
 * @returns {Scan}
 */
export function parsePairingCode(text) {
  const { parts, rest: secret } = split(PAIRING_CODE.read(text), 1, 1, PUBLIC_KEY_BYTES);
  const [[version], [role], publicKey] = parts;
  if (version !== VERSION || (role !== HAS_KEY && role !== WANTS_KEY)) {
    throw new WrongKeyCode("This pairing code was made by a newer app; please update this one.");
  }
  const host = text.includes("/") ? text.slice(text.indexOf("/") + 1).trim().toLowerCase() : "";
  return { hasKey: role === HAS_KEY, publicKey, secret, host };
}

/**
 * Where the two devices meet; it tells the hub nothing of the secret.
 * @param {Uint8Array} secret
 * @returns {Uint8Array}
 */
export function channelOf(secret) {
  return hkdf(secret, NO_SALT, concat(LABEL, utf8("pair-chan")), ID_BYTES);
}

// --- the keys --------------------------------------------------------------------------------

/**
 * Everything that both devices must agree on, the giver always first.
 * @typedef {object} Transcript
 * @property {string} hubUrl
 * @property {boolean} shownByGiver
 * @property {Uint8Array} giverPublicKey
 * @property {Uint8Array} takerPublicKey
 * @property {Uint8Array} accountId
 * @property {Uint8Array} giverId
 * @property {Uint8Array} giverPk
 * @property {Uint8Array} takerId
 * @property {Uint8Array} takerPk
 * @property {string} appId
 */

/**
 * The bytes that are hashed.
 * @param {Transcript} t
 * @returns {Uint8Array}
 */
export function packedTranscript(t) {
  return lp(
    concat(LABEL, utf8("pair")),
    utf8(t.hubUrl),
    Uint8Array.of(t.shownByGiver ? HAS_KEY : WANTS_KEY),
    t.giverPublicKey,
    t.takerPublicKey,
    t.accountId,
    t.giverId,
    t.giverPk,
    t.takerId,
    t.takerPk,
    utf8(t.appId),
  );
}

/**
 * One key for each thing that is sealed, each used once; and what the person compares.
 * @typedef {{ toTaker: Uint8Array, toGiver: Uint8Array, digits: string, name: Uint8Array }} PairingKeys
 */

/**
 * @param {Uint8Array} shared the X25519 of the two
 * @param {Uint8Array} secret
 * @param {Transcript} transcript
 * @returns {PairingKeys}
 */
export function pairingKeys(shared, secret, transcript) {
  const salt = sha256(packedTranscript(transcript));
  const keys = hkdf(concat(shared, secret), salt, concat(LABEL, utf8("pair")), 102);
  const number = new DataView(keys.buffer, keys.byteOffset + 62, 8).getBigUint64(0) & 0xffff_ffff_ffffn; // 64 to 70
  const digits = String(number % 1_000_000n).padStart(6, "0");
  return { toTaker: keys.slice(0, 32), toGiver: keys.slice(32, 64), digits, name: keys.slice(70) };
}

/**
 * @param {Uint8Array} key used for nothing else, ever
 * @param {Uint8Array} plaintext
 */
function seal(key, plaintext) {
  const padded = new Uint8Array(paddedBytes(plaintext.length));
  padded.set(u32(plaintext.length));
  padded.set(plaintext, LENGTH_BYTES);
  return xchacha20poly1305(key, NONCE).encrypt(padded);
}

/**
 * Throws `PairingFailed`.
 * @param {Uint8Array} key
 * @param {Uint8Array} sealed
 */
function open(key, sealed) {
  if (sealed.length < TAG_BYTES + LENGTH_BYTES) throw new PairingFailed("interfered");
  const padded = opened(key, sealed);
  const end = LENGTH_BYTES + new DataView(padded.buffer, padded.byteOffset).getUint32(0);
  if (end > padded.length || padded.subarray(end).some((byte) => byte !== 0)) throw new PairingFailed("interfered");
  return padded.slice(LENGTH_BYTES, end);
}

/**
 * @param {Uint8Array} key
 * @param {Uint8Array} sealed
 */
function opened(key, sealed) {
  try {
    return xchacha20poly1305(key, NONCE).decrypt(sealed);
  } catch {
    throw new PairingFailed("interfered"); // all that it throws for keys and nonces of these lengths
  }
}

// --- what is handed over ---------------------------------------------------------------------

/**
 * The app key and what goes with it; `heads` says how far the giver was, in this life of the log.
 * @typedef {object} Grant
 * @property {Uint8Array} spaceId
 * @property {number} keyEpoch
 * @property {Uint8Array} appKey
 * @property {Uint8Array} keyId
 * @property {Uint8Array} incarnation
 * @property {[Uint8Array, number][]} heads collection id and seq
 */

/**
 * The grant as it is sealed.
 * @param {Grant} grant
 * @returns {Uint8Array}
 */
export function packedGrant({ spaceId, keyEpoch, appKey, keyId, incarnation, heads }) {
  return pack({ space_id: spaceId, key_epoch: keyEpoch, app_key: appKey, key_id: keyId, incarnation, heads });
}

/**
 * The grant in these bytes; unknown keys of the map are ignored.  Throws `PairingFailed`.
 * @param {Uint8Array} packed
 * @returns {Grant}
 */
export function unpackedGrant(packed) {
  let map;
  try {
    map = unpack(packed);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new PairingFailed("interfered");
  }
  const grant = isPlain(map) ? grantOf(map) : null;
  if (!grant || !fits(grant)) throw new PairingFailed("interfered");
  return grant;
}

/**
 * @param {Record<string, unknown>} map
 * @returns {Grant | null} null when a field is missing or of another type
 */
function grantOf(map) {
  const { space_id: spaceId, key_epoch: keyEpoch, app_key: appKey, key_id: keyId } = map;
  const { incarnation = NO_SALT, heads = [] } = map;
  const typed = [spaceId, appKey, keyId, incarnation].every((one) => one instanceof Uint8Array);
  if (!typed || typeof keyEpoch !== "number" || !Array.isArray(heads) || !heads.every(isHead)) return null;
  return /** @type {Grant} */ ({ spaceId, keyEpoch, appKey, keyId, incarnation, heads });
}

/** @param {unknown} head */
function isHead(head) {
  if (!Array.isArray(head) || head.length !== 2) return false;
  const [collectionId, seq] = head;
  if (!(collectionId instanceof Uint8Array) || collectionId.length !== ID_BYTES) return false;
  return Number.isSafeInteger(seq) && seq >= 0;
}

/** Whether all of it follows from the app key, and this program understands it.  @param {Grant} grant */
function fits({ spaceId, keyEpoch, appKey, keyId }) {
  if (appKey.length !== APP_KEY_BYTES || keyEpoch !== 0) return false;
  const itsSpace = spaceIdOf(ed25519.getPublicKey(signingSeedOf(appKey)));
  return equal(spaceId, itsSpace) && equal(keyId, keyIdOf(appKey, keyEpoch, itsSpace));
}

/**
 * What this device is to the other one; `hubUrl` is canonical, as dialled.
 * @typedef {{ deviceId: Uint8Array, devicePk: Uint8Array, appId: string, hubUrl: string }} Me
 */

// --- effects ---------------------------------------------------------------------------------

/** Hand this frame to the other device. */
export class Hand {
  /** @param {Uint8Array} body */
  constructor(body) {
    this.body = body;
  }
}

/** The other device is there: show these six digits. */
export class Show {
  /** @param {string} digits */
  constructor(digits) {
    this.digits = digits;
  }
}

/**
 * To the giver: what the other device calls itself, of any characters, so show it with care.
 *
 * Where the other device showed the code, this says too that the digits were right there.
 */
export class Named {
  /** @param {string} name */
  constructor(name) {
    this.name = name;
  }
}

/** Enrol this device on the hub, then call `vouched`. */
export class Vouch {
  /**
   * @param {Uint8Array} deviceId
   * @param {Uint8Array} devicePk
   */
  constructor(deviceId, devicePk) {
    this.deviceId = deviceId;
    this.devicePk = devicePk;
  }
}

/** Prove this device to the hub, make sure of the account, keep the key; then call `taken`. */
export class Take {
  /**
   * @param {Grant} grant
   * @param {Uint8Array} accountId
   */
  constructor(grant, accountId) {
    this.grant = grant;
    this.accountId = accountId;
  }
}

/** Both devices have the key. */
export class Paired {}

/** It came to nothing. */
export class Failed {
  /** @param {Fault} fault */
  constructor(fault) {
    this.fault = fault;
  }
}

/** @typedef {Hand | Show | Named | Vouch | Take | Paired | Failed} Effect */

// --- the two sides ---------------------------------------------------------------------------

/**
 * What a side begins with.
 * @typedef {object} Beginning
 * @property {(size: number) => Uint8Array} fresh gives that many random bytes
 * @property {number} now steady time, in seconds
 * @property {Scan | null} [scanned] the other device's code, if this one did not show its own
 */

/** What both sides do alike. */
class Side {
  /**
   * Throws `WrongKeyCode` for a code of another hub, or of a device that has the key when this one has it too.
   * @param {Me} me
   * @param {boolean} hasKey
   * @param {Beginning} beginning
   */
  constructor(me, hasKey, { fresh, now, scanned = null }) {
    if (scanned) checkScan(scanned, me, hasKey);
    this.hasKey = hasKey;
    this._me = me;
    this._scanned = scanned;
    this._privateKey = fresh(32);
    this._secret = scanned ? scanned.secret : fresh(SECRET_BYTES);
    /** @type {PairingKeys | null} */
    this._keys = null;
    /** @type {Uint8Array[]} */
    this._heard = [];
    this._confirmed = false;
    this._ended = false;
    this.endsAt = now + WITHIN_S;
    this.publicKey = x25519.getPublicKey(this._privateKey);
    this.channel = channelOf(this._secret);
  }

  /** Whether this device shows its code. */
  get shows() {
    return this._scanned === null;
  }

  /** What to show when nothing was scanned. */
  get code() {
    assert(this.shows, "this device has scanned the other one's code");
    return pairingCode(this.publicKey, this._secret, this._me.hubUrl, { hasKey: this.hasKey });
  }

  /**
   * The channel is open.
   * @returns {Effect[]}
   */
  begin() {
    return this.shows ? [] : [new Hand(this._offer())];
  }

  /**
   * A frame of the other device, or of somebody who says so.
   * @param {Uint8Array} body
   * @returns {Effect[]}
   */
  received(body) {
    if (this._ended || this._heard.some((earlier) => equal(earlier, body))) return []; // a frame may come twice
    this._heard.push(body);
    if (body[0] === CANCEL) return this._fail("cancelled", { tell: false });
    try {
      return this._onFrame(body[0] ?? 0, body);
    } catch (error) {
      if (!(error instanceof PairingFailed)) throw error;
      return this._fail(error.fault);
    }
  }

  /**
   * The person agrees, after `Show`, and has typed the digits that the other device shows.
   *
   * The device that scanned knows whom it talks to; there `digits` may be empty.
   * @param {string} digits
   * @returns {Effect[]}
   */
  confirmed(digits) {
    if (this._ended || this._confirmed) return [];
    assert(this._keys !== null, "there are no digits yet");
    const given = digits.replace(/[ \-\u00a0]/g, "");
    // There is one try, made by a person: the time it takes tells nobody anything.
    if ((given || this.shows) && given !== this._keys.digits) return this._fail("wrong_digits");
    this._confirmed = true;
    return this._goOn();
  }

  /**
   * The person does not agree, or something else came in between.
   * @returns {Effect[]}
   */
  cancel() {
    return this._ended ? [] : this._fail("cancelled");
  }

  /**
   * It may be `endsAt`.
   * @param {number} now
   * @returns {Effect[]}
   */
  timerFired(now) {
    return now >= this.endsAt && !this._ended ? this._fail("expired") : [];
  }

  /** @returns {Uint8Array} */
  _offer() {
    throw new Error("each side has its own");
  }

  /**
   * @param {number} _kind
   * @param {Uint8Array} _body
   * @returns {Effect[]}
   */
  _onFrame(_kind, _body) {
    throw new Error("each side has its own");
  }

  /** @returns {Effect[]} */
  _goOn() {
    throw new Error("each side has its own");
  }

  /**
   * The other device's offer has come.  Throws `PairingFailed`.
   * @param {Uint8Array} publicKey
   * @param {Omit<Transcript, "hubUrl" | "shownByGiver" | "appId">} names
   * @returns {PairingKeys}
   */
  _meet(publicKey, names) {
    if (this._keys !== null) throw new PairingFailed("two_devices");
    if (this._scanned && !equal(publicKey, this._scanned.publicKey)) throw new PairingFailed("interfered");
    const { hubUrl, appId } = this._me;
    const transcript = { ...names, hubUrl, appId, shownByGiver: this.hasKey === this.shows };
    this._keys = pairingKeys(sharedSecret(this._privateKey, publicKey), this._secret, transcript);
    return this._keys;
  }

  /** @returns {Effect[]} */
  _end() {
    this._ended = true;
    return [new Paired()];
  }

  /**
   * @param {Fault} fault
   * @param {{ tell?: boolean }} [how]
   * @returns {Effect[]}
   */
  _fail(fault, { tell = true } = {}) {
    this._ended = true;
    return [...(tell ? [new Hand(Uint8Array.of(CANCEL))] : []), new Failed(fault)];
  }
}

/** The device that has the key, on an account it belongs to. */
export class Giver extends Side {
  /**
   * @param {Me} me
   * @param {Uint8Array} accountId
   * @param {Grant} grant
   * @param {Beginning} beginning
   */
  constructor(me, accountId, grant, beginning) {
    super(me, true, beginning);
    this._accountId = accountId;
    this._grant = grant;
    /** @type {{ deviceId: Uint8Array, devicePk: Uint8Array } | null} */
    this._other = null;
    this._named = false;
    this._given = false;
  }

  /**
   * The hub has enrolled the other device, durably.
   * @returns {Effect[]}
   */
  vouched() {
    if (this._ended) return [];
    assert(this._keys !== null && this._confirmed, "nobody was to be vouched for");
    this._given = true;
    return [new Hand(framed(GRANT, seal(this._keys.toTaker, packedGrant(this._grant))))];
  }

  _offer() {
    const { deviceId, devicePk, appId } = this._me;
    return framed(GIVER_OFFER, this.publicKey, this._accountId, deviceId, devicePk, utf8(appId));
  }

  /**
   * @param {number} kind
   * @param {Uint8Array} body
   * @returns {Effect[]}
   */
  _onFrame(kind, body) {
    if (kind === TAKER_OFFER) return this._onOffer(body);
    if (kind === NAME && this._keys && !this._named) return this._onName(open(this._keys.name, body.subarray(1)));
    if (kind === TAKEN && this._keys && this._given && this._other) {
      if (equal(open(this._keys.toGiver, body.subarray(1)), this._other.devicePk)) return this._end();
    }
    throw new PairingFailed("interfered");
  }

  /**
   * @param {Uint8Array} body
   * @returns {Effect[]}
   */
  _onOffer(body) {
    if (body.length !== TAKER_BYTES) throw new PairingFailed("interfered");
    const { parts, rest: devicePk } = split(body, 1, PUBLIC_KEY_BYTES, ID_BYTES);
    const [, publicKey, deviceId] = parts;
    const { digits } = this._meet(publicKey, {
      giverPublicKey: this.publicKey,
      takerPublicKey: publicKey,
      accountId: this._accountId,
      giverId: this._me.deviceId,
      giverPk: this._me.devicePk,
      takerId: deviceId,
      takerPk: devicePk,
    });
    this._other = { deviceId, devicePk };
    return this.shows ? [new Hand(this._offer())] : [new Show(digits)];
  }

  /**
   * @param {Uint8Array} name
   * @returns {Effect[]}
   */
  _onName(name) {
    assert(this._keys !== null, "a name came before the keys");
    this._named = true;
    const named = new Named(cut(new TextDecoder("utf-8", { ignoreBOM: true }).decode(name)));
    // Only now is it sure that the digits mean anything to the device that scanned this one's code.
    const shown = this.shows ? [new Show(this._keys.digits)] : [];
    return [...shown, named, ...(this._confirmed ? this._goOn() : [])];
  }

  /** @returns {Effect[]} */
  _goOn() {
    return this._named && this._other ? [new Vouch(this._other.deviceId, this._other.devicePk)] : [];
  }
}

/** The device that wants the key.  `name` is what its person calls it; the hub does not learn it. */
export class Taker extends Side {
  /**
   * @param {Me} me
   * @param {string} name
   * @param {Beginning} beginning
   */
  constructor(me, name, beginning) {
    super(me, false, beginning);
    this.name = cut(name.replace(LONE_SURROGATES, "\ufffd"));
    this._accountId = new Uint8Array(0);
    /** @type {Grant | null} */
    this._held = null;
    this._confirmed = !this.shows; // the code it scanned says who gives the key
  }

  /**
   * The hub knows this device, in the right account, and the key is kept.
   * @returns {Effect[]}
   */
  taken() {
    if (this._ended) return [];
    assert(this._keys !== null && this._held !== null, "nothing was to be taken");
    return [new Hand(framed(TAKEN, seal(this._keys.toGiver, this._me.devicePk))), ...this._end()];
  }

  _offer() {
    return framed(TAKER_OFFER, this.publicKey, this._me.deviceId, this._me.devicePk);
  }

  /**
   * @param {number} kind
   * @param {Uint8Array} body
   * @returns {Effect[]}
   */
  _onFrame(kind, body) {
    if (kind === GIVER_OFFER) return this._onOffer(body);
    if (kind === GRANT && this._keys && this._confirmed && !this._held) {
      this._held = unpackedGrant(open(this._keys.toTaker, body.subarray(1)));
      return [new Take(this._held, this._accountId)];
    }
    throw new PairingFailed("interfered");
  }

  /**
   * @param {Uint8Array} body
   * @returns {Effect[]}
   */
  _onOffer(body) {
    if (body.length <= GIVER_BYTES) throw new PairingFailed("interfered");
    const { parts, rest: appId } = split(body, 1, PUBLIC_KEY_BYTES, ID_BYTES, ID_BYTES, 32);
    const [, publicKey, accountId, deviceId, devicePk] = parts;
    if (this._keys === null && !equal(appId, utf8(this._me.appId))) throw new PairingFailed("other_app");
    const { digits } = this._meet(publicKey, {
      giverPublicKey: publicKey,
      takerPublicKey: this.publicKey,
      accountId,
      giverId: deviceId,
      giverPk: devicePk,
      takerId: this._me.deviceId,
      takerPk: this._me.devicePk,
    });
    this._accountId = accountId;
    return [this.shows ? new Hand(this._offer()) : this._sayName(), new Show(digits)];
  }

  _sayName() {
    assert(this._keys !== null, "there is nobody to say a name to");
    return new Hand(framed(NAME, seal(this._keys.name, utf8(this.name))));
  }

  /**
   * The digits were compared: only now may the giver know, and enrol this device.
   * @returns {Effect[]}
   */
  _goOn() {
    return [this._sayName()];
  }
}

// --- small things ----------------------------------------------------------------------------

/**
 * @param {Scan} scanned
 * @param {Me} me
 * @param {boolean} hasKey
 */
function checkScan(scanned, me, hasKey) {
  if (scanned.hasKey && hasKey) {
    throw new WrongKeyCode("Both devices have a key already; there is nothing to hand over.");
  }
  if (!scanned.hasKey && !hasKey) {
    throw new WrongKeyCode("Neither device has the key; scan the code of one that is signed in.");
  }
  if (scanned.host && scanned.host !== new URL(me.hubUrl).host) {
    throw new WrongKeyCode(`That device uses another hub: ${scanned.host}`);
  }
}

/**
 * The X25519 of the two.  Throws `PairingFailed`.
 * @param {Uint8Array} privateKey
 * @param {Uint8Array} publicKey
 */
function sharedSecret(privateKey, publicKey) {
  try {
    return x25519.getSharedSecret(privateKey, publicKey);
  } catch {
    throw new PairingFailed("interfered"); // a point of low order: all would come out the same
  }
}

/**
 * @param {number} kind
 * @param {...Uint8Array} parts
 */
function framed(kind, ...parts) {
  return concat(Uint8Array.of(kind), ...parts);
}

/**
 * Parts of these lengths from the beginning, each a copy, and what is left.
 * @param {Uint8Array} bytes
 * @param {...number} lengths
 */
function split(bytes, ...lengths) {
  let at = 0;
  const parts = lengths.map((length) => bytes.slice(at, (at += length)));
  return { parts, rest: bytes.slice(at) };
}

/** @param {string} name */
function cut(name) {
  return [...name].slice(0, LABEL_CHARS_MAX).join("");
}
