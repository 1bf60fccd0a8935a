/**
 * An honest hub in memory, without I/O: accounts, codes, devices, spaces, logs, and the rules that the protocol sets.
 *
 * It is no mock: every proof is checked, every draft gets its seq once, and what it refuses it refuses by the codes of
 * docs/protocol.md.  Left out is what takes time or a disk: rate limits, mail on its way, fsync, compaction by itself.
 * `Line` (line.js) is the hub's end of one connection.
 */

import { ed25519 } from "@noble/curves/ed25519.js";
import { sha256 } from "@noble/hashes/sha2.js";

import { concat, equal, hex, utf8 } from "../bytes.js";
import { Refusal } from "../errors.js";
import { LABEL } from "../signing.js";
import { FREEING_KINDS, ID_BYTES, LIMITS, wireName } from "../terms.js";
import { parseHeader } from "../wire/header.js";
import { Log } from "./log.js";

/** @typedef {import("../wire/header.js").Header} Header */
/** @typedef {import("./line.js").Line} Line */
/** @typedef {import("./log.js").Answer} Answer */

/**
 * @typedef {object} Device
 * @property {Uint8Array} deviceId
 * @property {Uint8Array} devicePk
 * @property {"app" | "account"} scope
 * @property {string} appId
 * @property {string} enrolledVia
 * @property {number} enrolledAt Unix seconds
 * @property {number} probationUntil 0: trusted
 */
/**
 * @typedef {object} Space
 * @property {Uint8Array} spaceId
 * @property {string} appId
 * @property {Uint8Array} spacePk
 * @property {Map<string, { collectionId: Uint8Array, log: Log }>} logs
 * @property {number} createdAt
 * @property {number} deletedAt when a delayed deletion takes effect; 0 = none is under way
 */
/**
 * @typedef {object} Account
 * @property {Uint8Array} accountId
 * @property {string} address
 * @property {Map<string, Device>} devices
 * @property {Map<string, Space>} spaces
 * @property {import("../wire/messages.js").AuditPart[]} happened oldest first
 */
/**
 * A code that was mailed.
 *
 * @typedef {object} Mail
 * @property {string} address
 * @property {string} code eight digits
 * @property {string} phrase the two words that the asking device shows too
 * @property {string} appId
 */
/**
 * @typedef {Mail & { attemptId: Uint8Array, devicePk: Uint8Array, purpose: string, until: number, tries: number }}
 *   Attempt `until` in Unix seconds
 */

const CODE_LIVES_S = 600;
const CODE_TRIES = 5;
const PROBATION_S = 72 * 3600;
export const DELETION_DELAY_S = 7 * 86_400;
export const FRESH_CODE_S = 600;
const DAY_S = 86_400;
const NOBODY = new Uint8Array(0);

const FIRST = ["amber", "birch", "coral", "dawn", "ember", "fern", "golden", "hazel"];
const SECOND = ["badger", "crane", "dove", "finch", "hare", "lark", "otter", "wren"];

/** The state of a hub, and what it does with it. */
export class Hub {
  /** @param {string} dialled its URL as devices dial and sign it, `wss://host/v1/ws` */
  constructor(dialled) {
    this.dialled = dialled;
    /** @type {Uint8Array} */
    this.incarnation = this.fresh(ID_BYTES);
    /** By address. @type {Map<string, Account>} */
    this.accounts = new Map();
    /** By id. @type {Map<string, Attempt>} */
    this.attempts = new Map();
    /** Every code mailed so far, the last one last. @type {Mail[]} */
    this.mails = [];
    /** Every connection that stands. @type {Line[]} */
    this.lines = [];
    /** What the challenge tells, by the names on the wire. @type {Record<string, number>} */
    this.limits = Object.fromEntries(Object.entries(LIMITS).map(([name, value]) => [wireName(name), value]));
    this.quotaBytes = 2 ** 30; // of each account
    this.pageChanges = LIMITS.pageChanges;
    /** Headers of everything that ever got a seq, in order. @type {Header[]} */
    this.appended = [];
    /**
     * Everything any device ever said here, with its name once it has told one.
     * @type {{ deviceId: Uint8Array | null, message: any, frame: Uint8Array }[]}
     */
    this.heard = [];
    /** Codes for the next append requests as a whole. @type {string[]} */
    this.refuseNext = [];
    /** A code that says "later", by the message's type. @type {Map<string, string>} */
    this.refuseOnce = new Map();
  }

  // --- what tests give it of their own ---

  /** Unix seconds. */
  now() {
    return Date.now() / 1000;
  }

  /** @param {number} size @returns {Uint8Array} */
  fresh(size) {
    return crypto.getRandomValues(new Uint8Array(size));
  }

  /**
   * Whether an Ed25519 signature is right.  @param {Uint8Array} publicKey @param {Uint8Array} signature
   * @param {Uint8Array} message
   */
  verifies(publicKey, signature, message) {
    try {
      return ed25519.verify(signature, message, publicKey, { zip215: false });
    } catch {
      return false; // not even a signature
    }
  }

  // --- signing in ---

  /** @param {{ address: string, devicePk: Uint8Array, appId: string, purpose: string }} asked @returns {Attempt} */
  sendCode({ address, devicePk, appId, purpose }) {
    if (!isPublicKey(devicePk)) throw new Refusal("bad_device_key");
    const [user, host, ...more] = tidy(address).split("@");
    if (!user || !host || more.length) throw new Refusal("bad_address");
    const [digits, words] = [this.fresh(8), this.fresh(2)];
    const mail = {
      address: tidy(address),
      code: [...digits].map((byte) => byte % 10).join(""),
      phrase: `${FIRST[words[0] % FIRST.length]} ${SECOND[words[1] % SECOND.length]}`,
      appId,
    };
    const attemptId = this.fresh(ID_BYTES);
    const attempt = { ...mail, attemptId, devicePk, purpose, until: this.now() + CODE_LIVES_S, tries: 0 };
    this.attempts.set(hex(attemptId), attempt);
    this.mails.push(mail);
    return attempt;
  }

  /**
   * The attempt that this code proves; it is used up.  Throws Refusal.
   *
   * @param {Uint8Array} attemptId @param {string} code @param {Uint8Array} devicePk @param {string} purpose
   * @param {boolean} proved whether the device has proved its key
   */
  codeUsed(attemptId, code, devicePk, purpose, proved) {
    const attempt = this.attempts.get(hex(attemptId));
    if (!attempt || attempt.tries >= CODE_TRIES || this.now() > attempt.until) throw new Refusal("enrol_failed");
    attempt.tries += 1;
    const right = attempt.code === code.replace(/[\s-]/g, "") && attempt.purpose === purpose;
    if (!right || !proved || !equal(attempt.devicePk, devicePk)) throw new Refusal("enrol_failed");
    this.attempts.delete(hex(attemptId));
    return attempt;
  }

  /**
   * Take a device in on the word of a mailbox.
   *
   * @param {Attempt} attempt @param {Uint8Array} deviceId @param {"app" | "account"} scope
   */
  enrol({ address, devicePk, appId }, deviceId, scope) {
    const account = this.accounts.get(address) ?? this.addAccount(address);
    const isFirst = account.devices.size === 0;
    const enrolledVia = isFirst ? "first" : "mail";
    const probationUntil = isFirst ? 0 : this.now() + PROBATION_S;
    return this.addDevice(account, { deviceId, devicePk, scope, appId, enrolledVia, probationUntil });
  }

  /** @param {string} address @param {Uint8Array} [accountId] @returns {Account} */
  addAccount(address, accountId = this.fresh(ID_BYTES)) {
    const account = { accountId, address, devices: new Map(), spaces: new Map(), happened: [] };
    this.accounts.set(address, account);
    return account;
  }

  /**
   * @param {Account} account
   * @param {Omit<Device, "enrolledAt">} known
   */
  addDevice(account, known) {
    const { deviceId, devicePk, appId } = known;
    if (!isPublicKey(devicePk)) throw new Refusal("bad_device_key");
    const all = [...this.accounts.values()].flatMap(({ devices }) => [...devices.values()]);
    const isTaken = (/** @type {Device} */ other) => equal(other.deviceId, deviceId) || equal(other.devicePk, devicePk);
    if (all.some(isTaken)) throw new Refusal("device_exists");
    const ofApp = [...account.devices.values()].filter((other) => other.appId === appId);
    const { devices_per_account_max: most, devices_per_app_max: mostOfApp } = this.limits;
    if (account.devices.size >= most || ofApp.length >= mostOfApp) throw new Refusal("too_many");
    const device = { ...known, enrolledAt: this.now() };
    account.devices.set(hex(deviceId), device);
    this.tell(account, "device_enrolled", { deviceId, at: device.enrolledAt });
    return { account, device };
  }

  /** Whom this id belongs to; null when to nobody (any more).  @param {Uint8Array} deviceId */
  known(deviceId) {
    for (const account of this.accounts.values()) {
      const device = account.devices.get(hex(deviceId));
      if (device) return { account, device };
    }
    return null;
  }

  /** @param {Account} account @param {Uint8Array[]} deviceIds */
  revoke(account, deviceIds) {
    for (const deviceId of deviceIds) {
      account.devices.delete(hex(deviceId));
      for (const line of [...this.lines]) if (line.isOf(deviceId)) line.end("revoked");
      this.tell(account, "device_revoked", { deviceId, at: this.now() });
    }
  }

  /**
   * Every session of the account hears of it.
   *
   * @param {Account} account @param {string} what
   * @param {{ deviceId?: Uint8Array, spaceId?: Uint8Array, at?: number }} more
   */
  tell(account, what, more) {
    const { deviceId: subject, spaceId: space, at = this.now() } = more;
    const noted = { at, what, actor: "device", deviceId: NOBODY, subjectId: subject ?? space ?? NOBODY, count: 1 };
    account.happened.push({ number: account.happened.length + 1, ...noted });
    for (const line of this.lines) if (line.account === account) line.say({ type: "account_notice", what, ...more });
  }

  // --- spaces and logs ---

  /** @param {Account} account @param {{ spaceId: Uint8Array, appId: string, spacePk: Uint8Array }} wanted */
  createSpace(account, { spaceId, appId, spacePk }) {
    const named = sha256(concat(LABEL, utf8("space-id\0"), spacePk)).slice(0, ID_BYTES);
    if (!equal(named, spaceId) || !isPublicKey(spacePk)) throw new Refusal("bad_space_proof");
    const known = account.spaces.get(hex(spaceId));
    if (known) return known;
    if (account.spaces.size >= this.limits.spaces_per_account_max) throw new Refusal("too_many");
    const space = { spaceId, appId, spacePk, logs: new Map(), createdAt: this.now(), deletedAt: 0 };
    account.spaces.set(hex(spaceId), space);
    return space;
  }

  /** Drop what was to be deleted by now.  @param {Account} account */
  deleteDue(account) {
    for (const [id, { spaceId, deletedAt }] of [...account.spaces]) {
      if (!deletedAt || deletedAt > this.now()) continue;
      account.spaces.delete(id);
      this.tell(account, "space_deleted", { spaceId, at: this.now() });
    }
  }

  /** The log of a collection, empty when there is none yet.  @param {Space} space @param {Uint8Array} collectionId */
  logIn(space, collectionId) {
    const there = space.logs.get(hex(collectionId)) ?? { collectionId, log: new Log() };
    space.logs.set(hex(collectionId), there);
    return there.log;
  }

  /** @param {Account} account */
  usedBytes(account) {
    return [...account.spaces.values()].reduce((sum, space) => sum + spaceBytes(space), 0);
  }

  /** @param {Account} account @param {number} moreBytes */
  isFull(account, moreBytes) {
    return this.usedBytes(account) + moreBytes > this.quotaBytes;
  }

  /**
   * The answer to one draft, and whether it got its place only now.
   *
   * @param {Account} account @param {Space} space @param {Uint8Array} sealed
   * @returns {[Answer, boolean]}
   */
  append(account, space, sealed) {
    const header = parseHeader(sealed);
    const log = this.logIn(space, header.collectionId);
    if (log.head === 0 && space.logs.size > this.limits.collections_per_space_max) return [{ code: "too_many" }, false];
    const isNew = header.counter > (log.counters.get(hex(header.deviceId)) ?? 0);
    if (isNew && !FREEING_KINDS.has(header.kind) && this.isFull(account, sealed.length)) {
      return [{ code: "quota_exceeded" }, false];
    }
    const [answer, fresh] = log.append(sealed, Math.floor(this.now() * 1000));
    if (fresh) this.appended.push(header);
    return [answer, fresh];
  }

  /** The history window has passed: what was replaced is dropped. */
  compact() {
    for (const { spaces } of this.accounts.values()) {
      for (const { logs } of spaces.values()) for (const { log } of logs.values()) log.compact();
    }
  }

  // --- another life ---

  /** From now on devices dial this address; the log begins another life there.  @param {string} dialled */
  liveAt(dialled) {
    this.dialled = dialled;
    this.restore(this.backup());
  }

  /** What `restore` takes: everything as it is now. */
  backup() {
    return new Map([...this.accounts].map(([address, account]) => [address, copied(account)]));
  }

  /**
   * An operator puts a backup back, and says so by the incarnation; every connection is cut.
   *
   * @param {Map<string, Account>} backup @param {Uint8Array} [incarnation]
   */
  restore(backup, incarnation = this.fresh(ID_BYTES)) {
    this.accounts = new Map([...backup].map(([address, account]) => [address, copied(account)]));
    this.incarnation = incarnation;
    for (const line of [...this.lines]) line.end("internal");
  }
}

/** @param {Pick<Space, "logs">} space */
export function spaceBytes({ logs }) {
  return [...logs.values()].reduce((sum, { log }) => sum + log.usedBytes, 0);
}

/** @param {Device} device */
export function deviceInfo(device) {
  return { ...device, lastSeenDay: Math.floor(Date.now() / 1000 / DAY_S) };
}

/** The logs as they are now.  @param {Space} space @returns {Space["logs"]} */
export function copiedLogs({ logs }) {
  return new Map([...logs].map(([id, { collectionId, log }]) => [id, { collectionId, log: log.copy() }]));
}

/** An address, as two ways of typing it are one.  @param {string} address */
export function tidy(address) {
  return address.trim().toLowerCase();
}

/** @param {Uint8Array} bytes */
function isPublicKey(bytes) {
  try {
    const point = ed25519.Point.fromBytes(bytes, false);
    return !point.isSmallOrder() && point.isTorsionFree();
  } catch {
    return false;
  }
}

/** @param {Account} account @returns {Account} */
function copied(account) {
  const spaces = new Map([...account.spaces].map(([id, space]) => [id, { ...space, logs: copiedLogs(space) }]));
  return { ...account, devices: new Map(account.devices), spaces, happened: [...account.happened] };
}
