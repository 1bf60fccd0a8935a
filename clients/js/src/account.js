/**
 * A person's account on a hub, seen by a device with the rights of the account: what the dashboard is built on.
 *
 *     const account = await AccountClient.open();
 *     account.status.subscribe(({ phase }) => show(phase));
 *     account.start();
 *     if (!account.signedIn) {
 *       const { phrase } = await account.requestCode("anna@example.org");
 *       await account.enrol(prompt(`The code from the mail (${phrase}):`));
 *     }
 *     for (const device of await account.devices()) list(hex(device.deviceId), device.appId);
 *
 * It is a device like any other, with a key that no script can read, but it keeps no data: no engine is loaded.  A
 * space's key, once typed, lies in the memory of this object alone; with it names are opened here, and nowhere else.
 * What is asked while the line is down waits for it, for half a minute at most.
 *
 * Ids are Uint8Array, times are Unix seconds, as in the messages of docs/protocol.md; a date that a method gives back
 * by itself is a Date.  What the hub refuses throws Refusal, with `code` and `retryAfterS`; a line that is gone throws
 * ConnectionError, and a hub that ended this device's session for good Closed.
 */

import { AccountSession } from "./account/session.js";
import { equal, hex, unhex } from "./bytes.js";
import {
  ANSWER_WITHIN_S,
  asRefusal,
  canonicalUrl,
  Closed,
  Connection,
  ConnectionError,
  errand,
  now,
} from "./connection.js";
import { AccountChanged, Answered, Hangup, Moved, Send, Sign } from "./effects.js";
import { assert, CLOSINGS, Refusal } from "./errors.js";
import { WrongKeyCode } from "./keycode.js";
import { SpaceKeys } from "./keys.js";
import { DEVICES } from "./names.js";
import { call, Observable } from "./observable.js";
import { report } from "./report.js";
import { openSealed, splitRecord, Unopenable } from "./sealing.js";
import { SigningKey } from "./signing.js";
import { drop, keep, kept } from "./storage/settings.js";
import { ID_BYTES, Kind, ZERO_ID } from "./terms.js";
import { typedKey } from "./typed_key.js";
import { decodeBody } from "./values.js";
import { Bell, TimeoutError, within } from "./waiting.js";

export { Closed, ConnectionError, hex, Refusal, TimeoutError, unhex, WrongKeyCode };

/** @typedef {import("./effects.js").Effect} Effect */
/** @typedef {import("./wire/messages.js").DeviceInfo} DeviceInfo */
/** @typedef {import("./wire/messages.js").SpaceStats} SpaceStats */
/** @typedef {import("./wire/messages.js").AuditPart} AuditEntry */
/** @typedef {import("./wire/messages.js").Ready} Ready */
/** @typedef {import("./wire/messages.js").AccountNotice} AccountNotice */
/** @typedef {import("./wire/messages.js").ToHub} ToHub */
/**
 * @template {keyof import("./wire/messages.js").HubTable} N
 * @typedef {import("./wire/messages.js").Received<N>} Received
 */

/** @typedef {"signed-out" | "connecting" | "ready" | "offline" | "ended"} AccountPhase */
/**
 * Where the line to the hub stands.  With `ended` the hub wants this device not to come back by itself; `start` tries
 * again, `requestCode` begins anew as another device.
 *
 * @typedef {object} AccountStatus
 * @property {AccountPhase} phase
 * @property {string} error a sentence for the person; empty: nothing is wrong
 * @property {{code: number, name: string, message: string}} [closing] with `ended`: how the hub closed; `name` is that
 *   of docs/protocol.md "Errors", empty when it is unknown
 * @property {string} [movedTo] where the account lives now, as `wss://host/v1/ws`
 */
/**
 * A code is on its way: the two words its mail repeats, how long it works, and how to have it sent once more.
 *
 * @typedef {{phrase: string, expiresInS: number, again: () => Promise<CodeSent>}} CodeSent
 */
/**
 * What `open` takes; all but `url` and `name` are for tests.
 *
 * @typedef {import("./connection.js").Surroundings & {url?: string, name?: string, appId?: string,
 *   indexedDB?: IDBFactory}} AccountOptions
 */
/** @typedef {{doneBytes: number, totalBytes: number}} ExportProgress sealed bytes; `totalBytes` as far as known */
/** @typedef {{upto: number, sealed: Uint8Array[]}} Reading */

export const DASHBOARD_APP = "sync-hub.dashboard";
const FORGET_WITHIN_S = 5; // a hub that cannot be reached is not waited for for long
const PIECE_TRIES = 5; // of one piece of a bundle, over lines that break

/** One device with the rights of the account.  Made by `open`. */
export class AccountClient {
  /**
   * The device whose key lies in the database `name`; a new one when there is none.
   *
   * `url` is the hub's, else where the page comes from.  Throws RangeError for what is no hub's address, StorageFailed
   * when the browser keeps nothing.
   *
   * @param {AccountOptions} [options]
   * @returns {Promise<AccountClient>}
   */
  static async open({ url, name = "dashboard", appId = DASHBOARD_APP, indexedDB, ...surroundings } = {}) {
    const hubUrl = canonicalUrl(url ?? globalThis.location?.origin ?? "");
    const settings = await kept(name, indexedDB);
    const client = new AccountClient({ hubUrl, name, appId, indexedDB, surroundings });
    if (settings.has("device_id")) client._takeIdentity(settings);
    else await client._becomeNewDevice();
    return client;
  }

  /**
   * Use `open`.
   *
   * @param {{hubUrl: string, name: string, appId: string, indexedDB: IDBFactory | undefined,
   *   surroundings: import("./connection.js").Surroundings}} options
   */
  constructor({ hubUrl, name, appId, indexedDB, surroundings }) {
    this._hubUrl = hubUrl;
    this._name = name;
    this._appId = appId;
    this._indexedDB = indexedDB;
    this._surroundings = surroundings;
    this._now = surroundings.now ?? now;
    this._signedIn = false;
    /** @type {SigningKey | null} */
    this._key = null;
    /** Of the codes that are on their way, by purpose. @type {Map<string, Uint8Array>} */
    this._attempts = new Map();
    /** By space, in hex. @type {Map<string, SpaceKeys>} */
    this._keys = new Map();
    /** Spaces entered on the line that stands. @type {Set<string>} */
    this._entered = new Set();
    /** By collection, in hex. @type {Map<string, Reading>} */
    this._readings = new Map();
    /** @type {Map<number, {done: (message: any) => void, fail: (error: Error) => void}>} */
    this._answers = new Map();
    /** @type {Set<{fn: (notice: AccountNotice) => void}>} */
    this._noticed = new Set();
    this._moved = new Bell();
    this._session = new AccountSession({ deviceId: ZERO_ID, appId, hubUrl }, fresh);
    /** @type {Connection | null} */
    this._connection = null;
    /** @type {Observable<AccountStatus>} */
    this._status = new Observable(this._seen());
  }

  // --- where it stands ---

  /** Whether the hub has taken this device in. */
  get signedIn() {
    return this._signedIn;
  }

  /** This device, as the hub lists it. */
  get deviceId() {
    return this._session.device.identity.deviceId;
  }

  /** What the hub last said of this device and its account; null before it has.  @returns {Ready | null} */
  get ready() {
    return this._session.ready;
  }

  /** Where the line stands: `value`, and `subscribe(fn)`, which calls at once and returns what ends it. */
  get status() {
    return this._status;
  }

  /**
   * Call back when something happens on the account; returns what ends that.
   *
   * @param {(notice: AccountNotice) => void} fn
   * @returns {() => void}
   */
  onNotice(fn) {
    const watcher = { fn };
    this._noticed.add(watcher);
    return () => void this._noticed.delete(watcher);
  }

  /** Keep the line to the hub up from now on, once signed in; also after `ended`. */
  start() {
    this._session.ended = null;
    if (this._connection) this._connection.poke();
    else this._connect();
    this._hasMoved();
  }

  /** Let go of the line; `start` takes it up again. */
  stop() {
    this._connection?.stop();
    this._connection = null;
    this._session = this._session.next();
    this._hasMoved();
  }

  // --- signing in ---

  /**
   * Have a code mailed that makes this a device of the address's account.  It is remembered: `enrol` may come after
   * the page was loaded anew.
   *
   * A device that is signed in already, or whose session the hub ended, becomes a new one.  Throws Refusal,
   * ConnectionError.
   *
   * @param {string} address @param {{invite?: string}} [options]
   * @returns {Promise<CodeSent>}
   */
  async requestCode(address, { invite = "" } = {}) {
    if (this._signedIn || this._session.ended) await this._becomeNewDevice();
    return this._requestCode(address, invite, null);
  }

  /**
   * @param {string} address @param {string} invite @param {Uint8Array | null} attemptId
   * @returns {Promise<CodeSent>}
   */
  async _requestCode(address, invite, attemptId) {
    const about = { address, devicePk: this._deviceKey.publicKey, appId: this._appId, invite, attemptId };
    const sent = await this._errand((talk) => talk.ask({ type: "request_code", request: 1, ...about }, "code_sent"));
    await this._keep({ attempt: sent.attemptId });
    this._attempts.set("enrol", sent.attemptId);
    const again = () => this._requestCode(address, invite, sent.attemptId);
    return { phrase: sent.phrase, expiresInS: sent.expiresInS, again };
  }

  /**
   * Hand in the code from the mail; this device is signed in when it resolves.  Throws Refusal `enrol_failed` when the
   * code is not right, ConnectionError.
   *
   * @param {string} code
   */
  async enrol(code) {
    const attemptId = this._attempt("enrol");
    const ready = await this._errand(async (talk) => {
      const about = { attemptId, code: typed(code), devicePk: this._deviceKey.publicKey };
      const signature = await talk.proof("enrol");
      return talk.ask({ type: "enrol", request: 1, ...about, signature, scope: "account" }, "ready");
    });
    await this._keep({ attempt: null, account_id: ready.accountId });
    this._attempts.delete("enrol");
    this._signedIn = true;
    this._session.ready = ready;
    this._connection?.poke();
    this._hasMoved();
  }

  /**
   * Have a code mailed to the account's address, for what needs a fresh one; `confirm` hands it in.
   *
   * @param {string} address
   * @returns {Promise<CodeSent>}
   */
  async requestConfirm(address) {
    return this._codeFor("confirm", address, null);
  }

  /**
   * For some minutes this session may do what needs a fresh code.  Throws Refusal `enrol_failed`.
   *
   * @param {string} code
   */
  async confirm(code) {
    const about = { attemptId: this._attempt("confirm"), code: typed(code) };
    await this._ask((request) => ({ type: "confirm", request, ...about }), "done");
    this._attempts.delete("confirm");
  }

  /**
   * Have a code mailed to the address that the account shall have; `changeAddress` hands it in.
   *
   * @param {string} address
   * @returns {Promise<CodeSent>}
   */
  async requestChange(address) {
    return this._codeFor("change", address, null);
  }

  /**
   * The account has the new address when it resolves.  Throws Refusal, `fresh_code_needed` among its codes: then
   * `confirm` a code of the old address first.
   *
   * @param {string} code
   */
  async changeAddress(code) {
    const about = { attemptId: this._attempt("change"), code: typed(code) };
    await this._ask((request) => ({ type: "change_address", request, ...about }), "done");
    this._attempts.delete("change");
  }

  /**
   * @param {"confirm" | "change"} purpose @param {string} address @param {Uint8Array | null} attemptId
   * @returns {Promise<CodeSent>}
   */
  async _codeFor(purpose, address, attemptId) {
    const about = { address, devicePk: this._deviceKey.publicKey, appId: this._appId, purpose, attemptId };
    const sent = await this._ask((request) => ({ type: "request_code", request, ...about }), "code_sent");
    this._attempts.set(purpose, sent.attemptId);
    const again = () => this._codeFor(purpose, address, sent.attemptId);
    return { phrase: sent.phrase, expiresInS: sent.expiresInS, again };
  }

  /** @param {string} purpose */
  _attempt(purpose) {
    const attemptId = this._attempts.get(purpose);
    if (!attemptId) throw new Refusal("enrol_failed", "ask for a code first");
    return attemptId;
  }

  // --- devices ---

  /** All devices of the account that are not revoked.  @returns {Promise<DeviceInfo[]>} */
  async devices() {
    return (await this._ask((request) => ({ type: "list_devices", request }), "device_list")).devices;
  }

  /**
   * Take devices off the account; their sockets close at once.
   *
   * @param {Iterable<Uint8Array>} deviceIds
   */
  async revoke(deviceIds) {
    await this._ask((request) => ({ type: "revoke_devices", request, deviceIds: [...deviceIds] }), "done");
  }

  /** End another device's probation.  @param {Uint8Array} deviceId */
  async approve(deviceId) {
    await this._ask((request) => ({ type: "approve_device", request, deviceId }), "done");
  }

  // --- data ---

  /** The account's spaces with what they take, oldest first.  @returns {Promise<SpaceStats[]>} */
  async spaces() {
    return (await this._ask((request) => ({ type: "list_spaces", request }), "space_list")).spaces;
  }

  /**
   * What happened on the account, newest first; `before` is the `number` of an entry, 0 for the newest.
   *
   * @param {{before?: number, limit?: number}} [page] at most 200 entries
   * @returns {Promise<{entries: AuditEntry[], more: boolean}>}
   */
  async audit({ before = 0, limit = 50 } = {}) {
    const { entries, more } = await this._ask(
      (request) => ({ type: "list_audit", request, before, limit }),
      "audit_list",
    );
    return { entries, more };
  }

  /**
   * Remove a space and all it holds; when it will be gone, null = it is.
   *
   * It is gone at once where its key was entered here, or after `confirm`; else, and with `later`, after the hub's
   * delay, in which any device can cancel.
   *
   * @param {Uint8Array} spaceId @param {{later?: boolean}} [how]
   * @returns {Promise<Date | null>}
   */
  async deleteSpace(spaceId, { later = false } = {}) {
    if (!later && this._keys.has(hex(spaceId))) await this._enter(spaceId);
    return dateOf(await this._ask((request) => ({ type: "delete_space", request, spaceId, later }), "deleted"));
  }

  /**
   * Remove the account and all it holds after the hub's delay; when that will be.  Throws Refusal, `fresh_code_needed`
   * among its codes.
   *
   * @returns {Promise<Date | null>} null = it is gone
   */
  async deleteAccount() {
    return dateOf(await this._ask((request) => ({ type: "delete_account", request }), "deleted"));
  }

  /** Keep the space, or the account, whose deletion is under way.  @param {Uint8Array | null} [spaceId] */
  async cancelDeletion(spaceId = null) {
    await this._ask((request) => ({ type: "cancel_deletion", request, spaceId }), "done");
  }

  /**
   * Everything the hub keeps for the account, or of one space, sealed as it is, as one bundle (docs/bundle.md).
   *
   * A line that breaks meanwhile is waited for.  `onProgress` is called after each piece.
   *
   * @param {{spaceId?: Uint8Array | null, onProgress?: (progress: ExportProgress) => void}} [what]
   * @returns {Promise<Blob>}
   */
  async exportBundle({ spaceId = null, onProgress = () => undefined } = {}) {
    /** @type {BlobPart[]} */
    const pieces = [];
    let cursor = new Uint8Array(0);
    do {
      const piece = await this._piece(spaceId, cursor);
      pieces.push(/** @type {BlobPart} */ (piece.bundle));
      cursor = Uint8Array.from(piece.cursor);
      call(onProgress, { doneBytes: piece.doneBytes, totalBytes: piece.totalBytes });
    } while (cursor.length);
    return new Blob(pieces, { type: "application/octet-stream" });
  }

  /**
   * @param {Uint8Array | null} spaceId @param {Uint8Array} cursor
   * @returns {Promise<Received<"exported">>}
   */
  async _piece(spaceId, cursor) {
    for (let tries = 1; ; tries += 1) {
      try {
        return await this._ask((request) => ({ type: "export", request, spaceId, cursor }), "exported");
      } catch (error) {
        const later = error instanceof Refusal ? error.retry : error instanceof ConnectionError && !isFinal(error);
        if (!later || tries === PIECE_TRIES) throw error;
        const waitS = error instanceof Refusal ? (error.retryAfterS ?? 1) : 0;
        if (waitS) await new Bell().wait(waitS);
      }
    }
  }

  // --- with a space's key ---

  /**
   * Show the hub that the key of a space is here; which space it is.
   *
   * `text` is the key code, the text of its QR code, or the words.  The key stays in the memory of this object, until
   * `forgetKeys`.  A device on probation is trusted from then on.  Throws WrongKeyCode with a sentence, Refusal
   * `not_found` when the key is none of this account's.
   *
   * @param {string} text
   * @returns {Promise<{spaceId: Uint8Array, appId: string}>}
   */
  async enterWithKey(text) {
    const { appKey, keyEpoch } = await typedKey(text);
    if (keyEpoch) throw new WrongKeyCode("This key code is of a later kind than this program understands.");
    const keys = await SpaceKeys.derive(appKey, keyEpoch);
    const { spaceId, appId } = await this._prove(keys);
    this._keys.set(hex(spaceId), keys);
    return { spaceId, appId };
  }

  /** Forget all keys of spaces that were entered here. */
  forgetKeys() {
    this._keys.clear();
    this._readings.clear();
  }

  /**
   * What the devices of a space are called, by device id in hex.  Its key must have been entered; throws Refusal
   * `no_space_proof` otherwise.
   *
   * @param {Uint8Array} spaceId
   * @returns {Promise<Map<string, string>>}
   */
  async names(spaceId) {
    const keys = await this._enter(spaceId);
    const collectionId = keys.collectionId(DEVICES);
    const reading = await this._read(spaceId, collectionId);
    /** @type {Map<string, string>} */
    const names = new Map();
    for (const sealed of reading.sealed) {
      const named = nameIn(keys, collectionId, sealed);
      if (named) names.set(...named);
    }
    return names;
  }

  /**
   * All live changes of a collection, in memory; the subscription ends with it.
   *
   * @param {Uint8Array} spaceId @param {Uint8Array} collectionId
   */
  async _read(spaceId, collectionId) {
    const id = hex(collectionId);
    /** @type {Reading} */
    const reading = { upto: 0, sealed: [] };
    this._readings.set(id, reading);
    const cursors = [{ collectionId, incarnation: ZERO_ID, seq: 0, liveOnly: true }];
    const { line } = this._standing;
    try {
      const answer = await this._ask((request) => ({ type: "subscribe", request, spaceId, cursors }), "subscribed");
      const head = answer.collections.find((part) => equal(part.collectionId, collectionId))?.head ?? 0;
      await this._until(() => {
        if (line !== this._connection?.line) throw new ConnectionError("the connection was lost");
        return reading.upto >= head;
      });
    } finally {
      if (this._readings.get(id) === reading) this._readings.delete(id);
      if (this._session.mayAsk) this._unsubscribe(spaceId, collectionId);
    }
    return reading;
  }

  /** @param {Uint8Array} spaceId @param {Uint8Array} collectionId */
  _unsubscribe(spaceId, collectionId) {
    const collectionIds = [collectionId];
    const [, effects] = this._session.request((request) => ({ type: "unsubscribe", request, spaceId, collectionIds }));
    this._carry(effects);
  }

  /** The keys of a space that is entered on the line that stands.  @param {Uint8Array} spaceId */
  async _enter(spaceId) {
    const keys = this._keys.get(hex(spaceId));
    if (!keys) throw new Refusal("no_space_proof");
    await this._inSession();
    if (!this._entered.has(hex(spaceId))) await this._prove(keys);
    return keys;
  }

  /** @param {SpaceKeys} keys */
  async _prove(keys) {
    const { spaceId, keyEpoch } = keys;
    await this._inSession();
    const { line } = this._standing;
    const signature = await keys.signingKey.sign(this._session.spaceProof(spaceId));
    if (line !== this._connection?.line) throw new ConnectionError("the connection was lost");
    const spaces = [{ spaceId, keyEpoch, signature }];
    const answer = await this._ask((request) => ({ type: "enter", request, spaces }), "entered");
    const [space] = answer.spaces;
    assert(space && equal(space.spaceId, spaceId), "the hub let this device into another space");
    this._entered.add(hex(spaceId));
    return space;
  }

  // --- operating the hub ---

  /**
   * For a quarter of an hour this session may operate the hub; each `operate` renews it.  Throws Refusal `wrong_code`.
   *
   * @param {string} code six digits of the authenticator app
   */
  async operatorCode(code) {
    await this._ask((request) => ({ type: "operator_code", request, code: typed(code) }), "done");
  }

  /**
   * What `hub admin` does, by its verbs and arguments (docs/admin.md).  Throws Refusal `operator_code_needed`.
   *
   * @param {string} verb @param {Record<string, string | number | boolean | null>} [args]
   * @returns {Promise<Record<string, any>>}
   */
  async operate(verb, args = {}) {
    const { result } = await this._ask((request) => ({ type: "operate", request, verb, arguments: args }), "operated");
    return result;
  }

  // --- leaving ---

  /**
   * Take this device off the account and wipe its database; it is nobody afterwards.
   *
   * A ConnectionError when the hub cannot be told, and then nothing is wiped; `force` does it anyway.
   *
   * @param {{force?: boolean}} [how]
   */
  async forget({ force = false } = {}) {
    if (this._signedIn && !this._session.ended && !this._connection) this.start();
    try {
      if (this._signedIn && !this._session.ended) await this._leave(force);
    } catch (error) {
      if (!force && !isFinal(error)) throw error;
    }
    this.stop();
    this.forgetKeys();
    await drop(this._name, this._indexedDB);
    await this._becomeNewDevice();
  }

  /** @param {boolean} force */
  async _leave(force) {
    const revoked = this.revoke([this.deviceId]);
    await (force ? within(FORGET_WITHIN_S, revoked, "the hub does not answer") : revoked);
  }

  // --- who this is ---

  get _deviceKey() {
    assert(this._key, "this device has no key");
    return this._key;
  }

  /** @param {Map<string, any>} settings */
  _takeIdentity(settings) {
    const deviceId = settings.get("device_id");
    const secret = settings.get("device_key"); // a key that no script can read, or a seed where there are none
    const isSeed = secret instanceof Uint8Array;
    const [privateKey, seed] = isSeed ? [null, secret] : [secret, null];
    this._key = new SigningKey({ publicKey: settings.get("device_pk"), privateKey, seed });
    this._signedIn = settings.has("account_id");
    this._attempts.clear();
    if (settings.has("attempt")) this._attempts.set("enrol", settings.get("attempt"));
    this._session = new AccountSession({ deviceId, appId: this._appId, hubUrl: this._hubUrl }, fresh);
    this._hasMoved();
  }

  async _becomeNewDevice() {
    const wasUp = this._connection !== null;
    this.stop();
    const key = await SigningKey.generate(fresh);
    const { publicKey, privateKey, seed } = key.stored();
    const settings = {
      device_id: fresh(ID_BYTES), device_pk: publicKey, device_key: privateKey ?? seed, account_id: null, attempt: null,
    };
    await this._keep(settings);
    this._takeIdentity(new Map(Object.entries(settings).filter(([, value]) => value !== null)));
    if (wasUp) this.start();
  }

  /** @param {Record<string, any>} settings */
  async _keep(settings) {
    await keep(this._name, settings, this._indexedDB);
  }

  // --- the line ---

  _connect() {
    const session = this._session;
    const owner = {
      carry: (/** @type {Effect[]} */ effects) => {
        if (session === this._session) this._carry(effects); // else a line that was let go of
      },
      wanted: () => this._signedIn && !session.ended,
      explain: (/** @type {unknown} */ error) => {
        report(error);
        return `this program made a mistake: ${error instanceof Error ? error.message : String(error)}`;
      },
    };
    this._connection = new Connection(session, owner, null, this._surroundings);
    this._connection.run().catch(report);
  }

  /**
   * A question on a line of its own, before this device is known.
   *
   * @template T
   * @param {(talk: import("./connection.js").Errand) => Promise<T>} work
   */
  async _errand(work) {
    return errand(this._session.device.identity, this._deviceKey, work, fresh, this._surroundings);
  }

  /** The connection of a session that stands. */
  get _standing() {
    assert(this._connection, "there is no connection");
    return this._connection;
  }

  async _inSession() {
    if (!this._signedIn) throw new Refusal("out_of_turn", "sign in first");
    await this._until(() => this._session.mayAsk);
  }

  /**
   * @param {() => boolean} holds
   */
  async _until(holds) {
    const end = this._now().steady + ANSWER_WITHIN_S;
    for (;;) {
      if (this._session.ended) throw this._session.ended;
      if (holds()) return;
      const left = end - this._now().steady;
      if (!this._connection) throw new ConnectionError("the line to the hub is not kept up; start it");
      if (left <= 0) throw new ConnectionError(this._session.device.error || "the hub does not answer");
      await this._moved.wait(left);
    }
  }

  /**
   * Ask the hub, as soon as there is a session.  Throws Refusal, ConnectionError, TimeoutError.
   *
   * @template {keyof import("./wire/messages.js").HubTable} N
   * @param {(request: number) => ToHub} make @param {N} answer
   * @returns {Promise<Received<N>>}
   */
  async _ask(make, answer) {
    await this._inSession();
    const [number, effects] = this._session.request(make);
    const answered = new Promise((done, fail) => this._answers.set(number, { done, fail }));
    try {
      this._carry(effects);
      const message = await within(ANSWER_WITHIN_S, answered, "the hub does not answer");
      if (message.type === "refused") throw asRefusal(message);
      assert(message.type === answer, `the hub answered ${message.type} where ${answer} was due`);
      return message;
    } finally {
      this._answers.delete(number);
    }
  }

  /** @param {Effect[]} effects */
  _carry(effects) {
    const connection = this._connection;
    if (!connection) return;
    for (const effect of effects) {
      if (effect instanceof Send || effect instanceof Hangup) connection.carryOut(effect, connection.line);
      else if (effect instanceof Sign) this._sign(effect);
      else if (effect instanceof Answered) this._heard(effect);
      else if (effect instanceof AccountChanged) {
        for (const { fn } of [...this._noticed]) call(fn, effect.notice);
      } else if (effect instanceof Moved) this._hasMoved();
    }
    connection.schedule();
  }

  /** @param {Sign} effect */
  async _sign({ bytes, token }) {
    const session = this._session;
    try {
      const signature = await this._deviceKey.sign(bytes);
      if (session === this._session) this._carry(session.signed(token, signature));
    } catch (error) {
      this._connection?.failed(error);
    }
  }

  /** @param {Answered} effect */
  _heard({ number, message }) {
    if (number) this._answers.get(number)?.done(message);
    else if (message.type === "changes") this._pageCame(message);
  }

  /** @param {Received<"changes">} message */
  _pageCame({ collectionId, upto, changes }) {
    const reading = this._readings.get(hex(collectionId));
    if (!reading) return;
    reading.sealed.push(...changes.map(({ sealed }) => sealed));
    reading.upto = Math.max(reading.upto, upto);
    this._moved.ring();
  }

  _hasMoved() {
    if (!this._session.inSession) {
      this._entered.clear();
      const lost = this._session.ended ?? new ConnectionError("the connection was lost");
      for (const { fail } of this._answers.values()) fail(lost); // their answers went with the line
    }
    this._moved.ring();
    const seen = this._seen();
    if (JSON.stringify(seen) !== JSON.stringify(this._status.value)) this._status._set(seen);
  }

  /** @returns {AccountStatus} */
  _seen() {
    const { ended, device, movedTo } = this._session;
    /** @type {AccountStatus} */
    const seen = { phase: this._phase(), error: ended?.message ?? device.error };
    if (ended) seen.closing = { code: ended.code, name: nameOf(ended.code), message: ended.message };
    if (movedTo) seen.movedTo = movedTo;
    return seen;
  }

  /** @returns {AccountPhase} */
  _phase() {
    const session = this._session;
    if (session.ended) return "ended";
    if (!this._signedIn) return "signed-out";
    if (session.inSession) return "ready";
    return session.failed || !this._connection ? "offline" : "connecting";
  }
}

// --- small things ----------------------------------------------------------------------------

/** @param {number} size */
function fresh(size) {
  return crypto.getRandomValues(new Uint8Array(size));
}

/** A code as people type it.  @param {string} code */
function typed(code) {
  return code.replace(/\s/g, "");
}

/** @param {Received<"deleted">} deleted */
function dateOf({ deletedAt }) {
  return deletedAt ? new Date(deletedAt * 1000) : null;
}

/** Whether coming back would only meet the same again.  @param {unknown} error */
function isFinal(error) {
  return error instanceof Closed && error.stop;
}

/** @param {number} code */
function nameOf(code) {
  return Object.keys(CLOSINGS).find((name) => CLOSINGS[name].code === code) ?? "";
}

/**
 * The device and its name in a live change of the names' collection; null when it cannot be opened, or says something
 * else.
 *
 * @param {SpaceKeys} keys @param {Uint8Array} collectionId @param {Uint8Array} sealed
 * @returns {[string, string] | null}
 */
function nameIn(keys, collectionId, sealed) {
  try {
    const opened = openSealed(keys, sealed, { collectionId });
    if (opened.header.kind !== Kind.PUT) return null;
    const [device, body] = splitRecord(keys, opened);
    const { name } = /** @type {any} */ (decodeBody(body).value ?? {});
    return typeof name === "string" ? [device, name] : null;
  } catch (error) {
    if (error instanceof Unopenable || error instanceof RangeError) return null;
    throw error;
  }
}
