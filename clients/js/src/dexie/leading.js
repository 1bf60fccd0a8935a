/**
 * What only the leading tab does: the engine, its line to the hub, and the mirror between it and the app's tables.
 *
 * This room is the way to the whole engine, so it is imported when a tab leads and a person is signed in, or acts.
 * `shell.js` says what each method means to the app.
 */

import { liveQuery } from "dexie";
import { hex } from "../bytes.js";
import { canonicalUrl, Closed, ConnectionError } from "../connection.js";
import { CLOSINGS, Refusal } from "../errors.js";
import { HubClient, readBlobs, toBlobs } from "../index.js";
import { keyCode, parseKeyCode, qrText } from "../keycode.js";
import { MISSING } from "../strategies.js";
import { typedKey } from "../typed_key.js";
import { decodeBody, encodeBody } from "../values.js";
import { TimeoutError, within } from "../waiting.js";
import { setCapturing } from "./capture.js";
import { Mirror } from "./mirror.js";
import { HIDDEN, keyText } from "./schema.js";
import { DexieStorage } from "./storage.js";
import { call } from "./status.js";

/** @typedef {import("dexie").Dexie} Dexie */
/** @typedef {import("../index.js").DeviceInfo} DeviceInfo */
/** @typedef {import("./shell.js").HubOptions} HubOptions */
/** @typedef {import("./status.js").Report} Report */

const REPLACED_TRIES = 5; // how often a line that another tab's late one has replaced is taken up again
const REPLACED_PAUSE_MS = 1_000; // doubled each time
const WIPED_WITHIN_S = 60;
const FORCED_WITHIN_S = 5; // a hub that cannot be reached is not waited for for long
const DAY_MS = 86_400_000;

/**
 * What a `Leading` tells.
 *
 * @typedef {object} Listener
 * @property {(report: Report) => void} report where sync stands, each time it looks different
 * @property {(name: string, value: any, deviceId: string) => void} signal another device sent this on a channel
 * @property {(notice: AccountNotice) => void} notice something happened on the account
 */

/**
 * Something happened on the account: a device was added, above all.
 *
 * @typedef {{what: string, deviceId: string, at: Date}} AccountNotice
 */

/** The engine of one database, open.  Made by `open`. */
export class Leading {
  /**
   * Take the database over and, when this device is signed in and has the key, begin to sync.
   *
   * Throws StorageFailed, and RangeError for what is no hub's address.
   *
   * @param {Dexie} db @param {HubOptions} options @param {string} url of the hub; empty: the one that is remembered
   * @param {Listener} listener
   */
  static async open(db, options, url, listener) {
    const storage = await DexieStorage.open(db);
    try {
      const dealt = ["account_id", "attempt"].some((name) => storage.setting(name) !== null);
      const known = dealt && storage.setting("hub_url") !== null;
      const hubUrl = url || (known ? undefined : (options.url ?? globalThis.location?.origin));
      // Who asks for a hub by name means that one, even if this device has left it for another.
      if (url) storage.transaction(() => storage.setSetting("left", null));
      const { app: appId, surroundings } = options;
      const client = await HubClient.open({ storage, appId, hubUrl, ...surroundings });
      const leading = new Leading(db, options, storage, client, listener);
      await leading.begin();
      return leading;
    } catch (error) {
      await storage.close().catch(() => undefined);
      throw error;
    }
  }

  /**
   * Use `open`.
   *
   * @param {Dexie} db @param {HubOptions} options @param {DexieStorage} storage @param {HubClient} client
   * @param {Listener} listener
   */
  constructor(db, options, storage, client, listener) {
    this._db = db;
    this._options = options;
    this._storage = storage;
    this.client = client;
    this._listener = listener;
    this._mirror = new Mirror(db, options.tables, client, storage);
    /** @type {Promise<void> | null} */
    this._begun = null;
    /** @type {Promise<void> | null} */
    this._closing = null;
    /** @type {import("../adding.js").PairingHandle | null} */
    this._pairing = null;
    this._replaced = 0;
    client.onStatus((status) => {
      this._replacedPerhaps(status);
      this.tell();
    });
    client.onWiped(() => this.tell());
    client.onSignal((deviceId, body) => this._signalCame(deviceId, body));
    client.onAccount((notice) => call(listener.notice, noticeOf(notice)));
  }

  /** Write edits down once signed in; sync once there is a key.  May be called again after either. */
  async begin() {
    const { client } = this;
    if (!client.signedIn) return;
    await setCapturing(this._db, true);
    if (client.hasKey) await (this._begun ??= this._sync());
    this.tell();
  }

  async _sync() {
    await this._mirror.start();
    this.client.start();
    if (this._mode() === "wiping") this._wipe().catch(() => undefined); // the tab that began it has gone
  }

  /** @returns {Report} */
  report() {
    const { phase, unsynced, oldestUnsyncedAgeS, progress, lastAppendedAt, headSeenAt, alarms, error, movedTo } =
      this.client.status;
    const oldestAt = unsynced ? Date.now() / 1000 - oldestUnsyncedAgeS : 0;
    const wiped = this._storage.setting("wiped") !== null;
    const deviceId = this.client.signedIn ? hex(this.client.deviceId) : "";
    const plain = alarms.map((alarm) => ({ ...alarm }));
    const told = { progress, lastAppendedAt, headSeenAt, alarms: plain, error, movedTo };
    return { phase, unsynced, oldestAt, ...told, wiped, deviceId };
  }

  /** Report how things stand now. */
  tell() {
    if (!this._closing) this._listener.report(this.report());
  }

  /** Whether it was closed. */
  get closed() {
    return this._closing !== null;
  }

  /** Stop, and let go of the database; what it has not got yet is taken up again from there. */
  async close() {
    this._closing ??= this._close();
    await this._closing;
  }

  async _close() {
    this._pairing?.cancel();
    await this._mirror.stop().catch(() => undefined);
    await this.client.stop().catch(() => undefined); // another tab has the database, or it is closed
  }

  // --- signing in ---

  /** @param {string} email @param {string} invite */
  async requestCode(email, invite) {
    const { phrase, expiresInS } = await this.client.requestCode(email, { invite });
    return { phrase, expiresInS };
  }

  /** @param {string} code */
  async enrol(code) {
    const { client } = this;
    await client.enrol(code.replace(/\s/g, ""));
    if (this._mode() === "off") await client.turnOn();
    let newKey = false;
    if (!client.hasKey && !(await this._spaces()).length) {
      await client.createKey();
      newKey = true;
    }
    await this.begin();
    return { needsKey: !client.hasKey, newKey };
  }

  async _spaces() {
    return (await this.client.spaces()).filter((space) => space.appId === this._options.app && !space.deletedAt);
  }

  // --- the key ---

  async createKey() {
    const code = await this.client.createKey();
    await this.begin();
    return code;
  }

  /** @param {string} text */
  async importKey(text) {
    const { appKey, keyEpoch } = await typedKey(text);
    await this.client.importKey(keyCode(appKey, keyEpoch));
    await this.begin();
  }

  /** @param {"code" | "words" | "svg"} form */
  async exportKey(form) {
    const code = this.client.keyCode();
    if (form === "code") return code;
    if (form === "words") {
      const { keyWords } = await import("../words.js");
      const { appKey, keyEpoch } = parseKeyCode(code);
      return keyWords(appKey, keyEpoch);
    }
    if (form !== "svg") throw new TypeError(`a key is exported as "code", "words" or "svg", not as "${form}"`);
    return svgOf(qrText(code, this._hubUrl), "Key code of this app");
  }

  /**
   * @param {string} scanned @param {string} name
   * @returns {Promise<import("./shell.js").Pairing>}
   */
  async pair(scanned, name) {
    const handle = await this.client.pair({ scanned, name });
    this._pairing = handle;
    const done = handle.done.then(() => this.begin());
    done.catch(() => undefined); // nobody has to listen
    return {
      role: handle.role,
      code: handle.code,
      svg: () => svgOf(handle.code, "Pairing code"),
      digits: handle.digits,
      name: handle.takerName,
      confirm: (digits) => handle.confirm(digits.replace(/\s/g, "")),
      agree: () => handle.agree(),
      done,
      cancel: () => handle.cancel(),
    };
  }

  // --- on, off ---

  async turnOn() {
    if (this._mode() === "wiping") {
      throw new Refusal("wiping", "the hub is still to delete the remote copies; switch sync on again afterwards");
    }
    await this.client.turnOn();
    await this.begin();
  }

  async turnOff() {
    if (this._mode() === "wiping") return; // it is off after that
    await this.client.turnOff();
  }

  async follow() {
    await this.client.follow();
  }

  async forgetAlarms() {
    await this.client.forgetAlarms();
  }

  async deleteRemote() {
    await within(
      WIPED_WITHIN_S,
      this._wipe(),
      "the hub cannot be reached; it is told to delete the remote copies as soon as it can be",
    );
  }

  async _wipe() {
    await this.client.turnOffAndWipe();
    this.tell();
  }

  /**
   * Leave the hub, and forget everything that was for it.  This `Leading` is closed afterwards.
   *
   * @param {{wipeLocal: boolean, force: boolean}} how
   */
  async signOut({ wipeLocal, force }) {
    if (!force) await this._refuseUnsynced();
    await this._leave(force);
    await this.close();
    const tables = [...Object.keys(HIDDEN), ...(wipeLocal ? Object.keys(this._options.tables) : [])];
    await this._db.transaction("rw", tables, async () => {
      // The app's own first: that they are cleared is written down, and goes with the rest.
      for (const table of tables.reverse()) await this._db.table(table).clear();
    });
  }

  async _refuseUnsynced() {
    const { unsynced, parked } = this.client.status;
    const waiting = unsynced + parked + (await this._db.table("$hub_edits").count());
    if (!waiting) return;
    const [edits, are] = waiting === 1 ? ["edit", "is"] : ["edits", "are"];
    const parkedToo = parked ? `, ${parked} of them in conflicts that wait for a decision` : "";
    const message = `${waiting} ${edits} of this device ${are} not on the hub yet${parkedToo}`;
    throw new Refusal("unsynced", `${message}; signing out would lose what nobody else has`);
  }

  /** @param {boolean} force leave also without the hub's knowing */
  async _leave(force) {
    if (!this.client.signedIn) return;
    const revoked = this._answer(this.client.revoke([this.client.deviceId]));
    try {
      await (force ? within(FORCED_WITHIN_S, revoked, "") : revoked);
    } catch (error) {
      // A hub that closes the line for it knows already, and so does one that knows this device no more.
      if (!force && !(error instanceof Closed && error.stop) && this.client.status.phase !== "blocked") throw error;
    }
  }

  // --- the account ---

  async devices() {
    this._signedIn();
    const devices = await this._answer(this.client.devices());
    return devices.map((info) => deviceOf(info, hex(this.client.deviceId)));
  }

  /** @param {Uint8Array[]} ids */
  async revoke(ids) {
    this._signedIn();
    await this._answer(this.client.revoke(ids));
  }

  /** @param {Uint8Array} id */
  async approve(id) {
    this._signedIn();
    await this._answer(this.client.approve(id));
  }

  /** @param {string} text */
  async nameDevice(text) {
    this._mayRead();
    await this.client.nameDevice(text);
  }

  async deviceNames() {
    this._mayRead();
    return this.client.deviceNames();
  }

  async usage() {
    this._signedIn();
    return this._answer(this.client.usage());
  }

  // --- data ---

  /** @param {string} table @param {any} key */
  async history(table, key) {
    const versions = await this._answer(this._collection(table).history(keyText(key)));
    return versions.map(({ value, deviceId, ...rest }) => {
      return { ...rest, value: value === MISSING ? MISSING : toBlobs(value), deviceId: hex(deviceId) };
    });
  }

  /** @param {string} table @param {any} key @param {Date} when */
  async at(table, key, when) {
    const value = await this._answer(this._collection(table).at(keyText(key), when));
    return value === MISSING ? MISSING : toBlobs(value);
  }

  /**
   * Returns when everything here is on the hub, and everything the hub tells of is here.
   *
   * @param {number} timeoutS
   */
  async whenSynced(timeoutS) {
    const end = performance.now() + timeoutS * 1000;
    const left = () => (end - performance.now()) / 1000;
    do {
      await this._taken(left);
      await this.client.synced(Math.max(0, left()));
    } while (await this._db.table("$hub_edits").count());
  }

  /**
   * The engine has all edits.
   *
   * @param {() => number} left seconds
   */
  async _taken(left) {
    /** @type {{unsubscribe: () => void} | null} */
    let watching = null;
    const empty = new Promise((done, fail) => {
      const next = (/** @type {number} */ count) => void (count || done(undefined));
      watching = liveQuery(() => this._db.table("$hub_edits").count()).subscribe({ next, error: fail });
    });
    try {
      await within(Math.max(0, left()), empty, "it did not come about in time: edits wait for the engine");
    } finally {
      /** @type {any} */ (watching)?.unsubscribe();
    }
  }

  // --- signals ---

  /**
   * Hand a value to the other devices that are connected.  Throws ConnectionError.
   *
   * @param {string} name of the channel @param {any} value
   */
  async sendSignal(name, value) {
    await this.client.sendSignal(encodeBody([name, await readBlobs(value)]));
  }

  /** @param {Uint8Array} deviceId @param {Uint8Array} body */
  _signalCame(deviceId, body) {
    const said = signalIn(body);
    if (said) call(this._listener.signal, said[0], toBlobs(said[1]), hex(deviceId));
  }

  // --- inside ---

  _signedIn() {
    if (!this.client.signedIn) throw new Refusal("signed_out", "this device is signed out; sign in first");
  }

  _mayRead() {
    this._signedIn();
    if (!this.client.hasKey) throw new Refusal("needs_key", "this device has no key yet; take that of another device");
  }

  /** @param {string} table */
  _collection(table) {
    this._mayRead();
    if (!Object.hasOwn(this._options.tables, table)) throw new RangeError(`table "${table}" is not synced`);
    return this.client.collection(table);
  }

  /**
   * What the hub answers; ConnectionError when it does not.
   *
   * @template T
   * @param {Promise<T>} asked
   */
  async _answer(asked) {
    try {
      return await asked;
    } catch (error) {
      if (error instanceof TimeoutError) throw new ConnectionError("the hub cannot be reached");
      throw error;
    }
  }

  /**
   * Whether this is the address of the hub that is remembered.  Throws RangeError for what is none.
   *
   * @param {string} url
   */
  isAt(url) {
    return canonicalUrl(url) === this._hubUrl;
  }

  /** `on`, `off` or `wiping`. */
  _mode() {
    const mode = this._storage.setting("mode");
    return mode ? new TextDecoder().decode(mode) : "on";
  }

  get _hubUrl() {
    return new TextDecoder().decode(this._storage.setting("hub_url") ?? undefined);
  }

  /**
   * A former leader that dialled late took this device's place on the hub, which then wants nobody to come back by
   * itself.  But this tab leads, and the former one is gone: come back, unless that happens again and again.
   *
   * @param {import("../engine.js").Status} status
   */
  _replacedPerhaps({ phase, error }) {
    if (phase !== "blocked" || error !== CLOSINGS.replaced.message || this._replaced >= REPLACED_TRIES) return;
    const pause = REPLACED_PAUSE_MS * 2 ** this._replaced * (1 + Math.random());
    this._replaced += 1;
    setTimeout(() => {
      if (!this._closing) this.client.turnOn().catch(() => undefined);
    }, pause);
  }
}

/** @param {string} text @param {string} title */
export async function svgOf(text, title) {
  const { qrSvg } = await import("../qr/index.js");
  return qrSvg(text, { title });
}

/**
 * @param {{what: string, deviceId: Uint8Array, at: number}} notice
 * @returns {AccountNotice}
 */
function noticeOf({ what, deviceId, at }) {
  return { what, deviceId: hex(deviceId), at: new Date(at * 1000) };
}

/**
 * The name and value of a signal; null for what another kind of program has sent.
 *
 * @param {Uint8Array} body
 * @returns {[string, any] | null}
 */
function signalIn(body) {
  try {
    const { value } = decodeBody(body);
    return Array.isArray(value) && typeof value[0] === "string" ? [value[0], value[1]] : null;
  } catch (error) {
    if (error instanceof RangeError) return null;
    throw error;
  }
}

/**
 * A device of this app on the account.
 *
 * @typedef {object} HubDevice
 * @property {string} id in hex
 * @property {boolean} current whether it is this one
 * @property {string} scope
 * @property {string} enrolledVia
 * @property {Date} enrolledAt
 * @property {Date} lastSeen to the day
 * @property {Date | null} probationUntil an older device can approve it before
 */

/**
 * @param {DeviceInfo} info @param {string} current
 * @returns {HubDevice}
 */
function deviceOf(info, current) {
  const id = hex(info.deviceId);
  return {
    id,
    current: id === current,
    scope: info.scope,
    enrolledVia: info.enrolledVia,
    enrolledAt: new Date(info.enrolledAt * 1000),
    lastSeen: new Date(Number(info.lastSeenDay) * DAY_MS),
    probationUntil: info.probationUntil ? new Date(info.probationUntil * 1000) : null,
  };
}
