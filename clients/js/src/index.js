/**
 * The client of sync-hub: local data first, sealed copies on the hub, the same on all of a person's devices.
 *
 *     const storage = await IndexedDbStorage.open("notes");
 *     const client = await HubClient.open({ storage, appId: "org.example.notes", hubUrl: "https://hub.example.org" });
 *     const sent = await client.requestCode("anna@example.org");
 *     await client.enrol(prompt(`The code from the mail (${sent.phrase}):`));
 *     await client.createKey();                     // or importKey, with the code of another device
 *     client.start();
 *     const notes = client.collection("notes");
 *     await notes.put("first", { text: "Hello" });  // durable here then, on the hub when it can be
 *
 * Everything works offline.  Edits are kept in the same local transaction as their place
 * in the outbox; sync can be switched on, off, and off with a wipe of the remote copies.
 * What an edit changed is seen by the next line; its promise says when it is on the disk.
 */

import { equal, fromUtf8, hex, utf8 } from "./bytes.js";
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
import {
  AccountChanged,
  Answered,
  Changed,
  Hangup,
  Moved,
  PairingCame,
  Send,
  Sign,
  SignalCame,
  Wiped,
} from "./effects.js";
import { Engine, NotConnected } from "./engine.js";
import { ANOTHER_ACCOUNT, assert, PairingFailed, Refusal } from "./errors.js";
import { keyCode, parseKeyCode, WrongKeyCode } from "./keycode.js";
import { SpaceKeys } from "./keys.js";
import { Leader } from "./leader.js";
import { report } from "./report.js";
import { DEVICES, deviceName } from "./names.js";
import { openSealed, splitRecord } from "./sealing.js";
import { SigningKey } from "./signing.js";
import { StorageFailed } from "./storage.js";
import { lastWriterWins, MISSING } from "./strategies.js";
import { ID_BYTES, Kind, ZERO_ID } from "./terms.js";
import { Bell, TimeoutError } from "./waiting.js";
import { decodeBody } from "./values.js";

export { Closed, ConnectionError, Leader, PairingFailed, Refusal, TimeoutError, WrongKeyCode };
export { MemoryStorage } from "./storage.js";
export { IndexedDbStorage } from "./storage/indexeddb.js";
export * from "./strategies.js";
export { BlobValue, readBlobs, toBlobs } from "./values.js";

/** @typedef {import("./collection.js").LocalCollection} LocalCollection */
/** @typedef {import("./collection.js").RecordChanged} RecordChanged */
/** @typedef {import("./connection.js").Surroundings} Surroundings */
/** @typedef {import("./connection.js").Tap} Tap */
/** @typedef {import("./effects.js").Effect} Effect */
/** @typedef {import("./device.js").Identity} Identity */
/** @typedef {import("./adding.js").PairingHandle} PairingHandle */
/** @typedef {import("./engine.js").Status} Status */
/** @typedef {import("./storage.js").Storage} Storage */
/** @typedef {import("./strategies.js").Conflict} Conflict */
/** @typedef {import("./strategies.js").Strategy} Strategy */
/** @typedef {import("./wire/messages.js").DeviceInfo} DeviceInfo */
/** @typedef {import("./wire/messages.js").ToHub} ToHub */
/**
 * @template {keyof import("./wire/messages.js").HubTable} N
 * @typedef {import("./wire/messages.js").Received<N>} Received
 */

/**
 * A code is on its way: the two words its mail repeats, and how long it works, in seconds.
 *
 * @typedef {{attemptId: Uint8Array, phrase: string, expiresInS: number}} CodeRequest
 */

/**
 * One kept change of a record, opened.
 *
 * @typedef {object} Version
 * @property {number} seq
 * @property {Date} appendedAt the hub's clock; for showing, it orders nothing
 * @property {number} kind of `Kind`
 * @property {any} value MISSING for a delete; what was added for a delta
 * @property {Uint8Array} deviceId
 * @property {boolean} isFirst nothing of the record was there before
 */

const RETRY_STORAGE_S = 5.0;

/** One app on one device. */
export class HubClient {
  /**
   * Use `open`.
   *
   * @param {Storage} storage @param {Identity} identity @param {SigningKey} deviceKey
   * @param {SpaceKeys | null} keys @param {Tap | null} tap @param {Surroundings} surroundings
   */
  constructor(storage, identity, deviceKey, keys, tap, surroundings) {
    this._storage = storage;
    this._deviceKey = deviceKey;
    this._surroundings = surroundings;
    this._now = surroundings.now ?? now;
    this._engine = new Engine(storage, identity, keys, fresh);
    const owner = {
      carry: (/** @type {Effect[]} */ effects) => this._carry(effects),
      wanted: () => this._wanted(),
      explain: (/** @type {unknown} */ error) => this._explain(error),
    };
    this._connection = new Connection(this._engine, owner, tap, surroundings);
    /** @type {Promise<void> | null} */
    this._running = null;
    this._stopped = false;
    /** @type {Map<string, CollectionHandle>} */
    this._handles = new Map();
    /** @type {Map<number, {done: (message: any) => void, fail: (error: Error) => void}>} */
    this._answers = new Map();
    /** @type {Set<PairingHandle>} */
    this._pairings = new Set();
    this._pairingRequest = 0; // by which one was opened on the line that is kept up
    /** @type {{effect: Send | Hangup, line: import("./connection.js").Line | null}[]} */
    this._unsent = []; // until what it stands on is durable
    /** @type {Promise<void> | null} */
    this._sending = null;
    /** @type {Error | null} */
    this._failure = null; // why storage keeps nothing at present
    this._moved = new Bell();
    this._told = "";
    this._telling = false;
    /** @type {((status: Status) => void)[]} */
    this._onStatus = [];
    /** @type {((deviceId: Uint8Array, body: Uint8Array) => void)[]} */
    this._onSignal = [];
    /** @type {(() => void)[]} */
    this._onWiped = [];
    /** @type {((notice: Received<"account_notice">) => void)[]} */
    this._onAccount = [];
  }

  /**
   * The client that keeps its data in `storage`.
   *
   * `hubUrl` is remembered; one that this device has left with `follow` is not gone back to.  `tap` is shown every message of the line, for tests and tools
   * that watch; see `connection.js`.  Throws RangeError for what is no hub's address.
   *
   * @param {{storage: Storage, appId: string, hubUrl?: string, tap?: Tap} & Surroundings} options
   * @returns {Promise<HubClient>}
   */
  static async open({ storage, appId, hubUrl, tap, ...surroundings }) {
    if (hubUrl !== undefined) setHub(storage, canonicalUrl(hubUrl));
    const { identity, deviceKey } = await identityIn(storage, appId);
    const keys = await keysIn(storage);
    await storage.committed();
    return new HubClient(storage, identity, deviceKey, keys, tap ?? null, surroundings);
  }

  // --- signing in ---

  /** This device, as the hub lists it. */
  get deviceId() {
    return this._engine.device.identity.deviceId;
  }

  /** Whether the hub has taken this device in. */
  get signedIn() {
    return this._engine.device.signedIn;
  }

  /**
   * Have a code mailed.  It is remembered, so `enrol` may come after a restart.
   *
   * A device that is signed in already, or that the hub no longer takes, becomes a
   * new one.  Throws Refusal, or ConnectionError when the hub cannot be reached.
   *
   * @param {string} address @param {{invite?: string}} [options]
   * @returns {Promise<CodeRequest>}
   */
  async requestCode(address, { invite = "" } = {}) {
    if (this.signedIn || this._engine.device.blocked) await this._becomeNewDevice();
    const devicePk = this._deviceKey.publicKey;
    const sent = await this._errand((talk) =>
      talk.ask({ type: "request_code", request: 1, address, devicePk, appId: this._appId, invite }, "code_sent"),
    );
    await this._set({ attempt: sent.attemptId });
    return { attemptId: sent.attemptId, phrase: sent.phrase, expiresInS: sent.expiresInS };
  }

  /**
   * Hand in the code from the mail.  Throws Refusal `enrol_failed` when it is not right.
   *
   * @param {string} code
   */
  async enrol(code) {
    const attemptId = this._storage.setting("attempt");
    if (attemptId === null) throw new Refusal("enrol_failed", "ask for a code first");
    const ready = await this._errand(async (talk) => {
      const devicePk = this._deviceKey.publicKey;
      const signature = await talk.proof("enrol");
      return talk.ask({ type: "enrol", request: 1, attemptId, code, devicePk, signature }, "ready");
    });
    this._engine.device.isReady(ready);
    await this._set({ attempt: null });
    this._connection.poke();
  }

  /** The account's spaces of this app, as the hub tells them now. */
  async spaces() {
    if (this._running === null || !this._wanted()) await this._sessionErrand(async () => undefined);
    return this._engine.device.knownSpaces;
  }

  /**
   * How much of the hub the account takes, and may take, in bytes: all its apps together, as the hub last told.
   *
   * @returns {Promise<{usedBytes: number, quotaBytes: number}>}
   */
  async usage() {
    if (!this._engine.device.usage) await this._sessionErrand(async () => undefined);
    return { .../** @type {import("./device.js").Usage} */ (this._engine.device.usage) };
  }

  // --- the key ---

  /** Whether this device holds the app key. */
  get hasKey() {
    return this._engine.device.keys !== null;
  }

  /** Make the app key of a new space; its key code.  Show it: nobody can bring it back. */
  async createKey() {
    await this._set({ may_create: Uint8Array.of(0x31) });
    await this._takeKey(fresh(32), 0);
    return this.keyCode();
  }

  /**
   * Take the app key of another device.  Throws WrongKeyCode with a sentence.
   *
   * @param {string} code
   */
  async importKey(code) {
    const { appKey, keyEpoch } = parseKeyCode(code);
    if (keyEpoch) throw new WrongKeyCode("This key code is of a later kind than this program understands.");
    await this._takeKey(appKey, keyEpoch);
  }

  /** The key code, to be shown, printed or scanned.  Throws when there is no key. */
  keyCode() {
    const appKey = this._storage.setting("app_key");
    if (appKey === null) throw new Error("this device has no key");
    return keyCode(appKey, 0);
  }

  // --- pairing ---

  /**
   * Add a device, or have this one added: enrolment and key in one, without mail.
   *
   * With the key and signed in this device is the one that adds, and must be running; otherwise it is the one that is
   * added, and afterwards it is signed in and has the key.  `scanned` is the other device's code; without it, show
   * `code`.  `name` is what this device is called on the other one.  It ends by itself after three minutes, or with
   * `cancel`.  Throws WrongKeyCode, Refusal, ConnectionError.
   *
   * @param {{ scanned?: string, name?: string }} [options]
   * @returns {Promise<PairingHandle>}
   */
  async pair(options = {}) {
    const { pair } = await import("./adding.js"); // with the curves, which nothing else needs
    return pair(this, options, fresh);
  }

  // --- running ---

  /** Sync in the background from now on; comes back by itself whatever happens to the line. */
  start() {
    if (this._running || this._stopped) return;
    this._running = this._connection.run().catch(report);
  }

  /** Stop and close the storage; nothing is lost, and what is unsent is sent when it is opened again. */
  async stop() {
    if (this._stopped) return;
    for (const pairing of this._pairings) pairing.cancel();
    if (this._running) {
      this._sayFarewell();
      await this._sending;
      await this._connection.flush();
      this._connection.stop();
      await this._running;
    }
    await this._sending;
    this._stopped = true;
    this._running = null;
    this._hasMoved();
    await this._storage.close();
  }

  /** Should storage fail even now, the line goes all the same. */
  _sayFarewell() {
    try {
      if (!this._failure) this._carry(this._engine.farewell(this._now()));
    } catch (error) {
      if (!(error instanceof StorageFailed)) throw error;
      this._storageFailed(error);
    }
  }

  /** Where sync stands.  @returns {Status} */
  get status() {
    const status = this._engine.status(this._now());
    return this._failure ? { ...status, phase: "blocked", error: this._failure.message } : status;
  }

  /**
   * Call back when the status looks different, soon after it does.
   *
   * @param {(status: Status) => void} callback
   */
  onStatus(callback) {
    this._onStatus.push(callback);
  }

  /**
   * Returns when everything here is on the hub and everything the hub tells of is here.
   *
   * Throws TimeoutError.
   *
   * @param {number} timeoutS
   */
  async synced(timeoutS) {
    const end = this._now().steady + timeoutS;
    for (;;) {
      await this._until(() => this.status.phase === "synced", end);
      const told = this._engine.device.confirmations;
      this._carry(this._engine.askHeads());
      await this._until(() => this._engine.device.confirmations > told || this.status.phase !== "synced", end);
      if (this.status.phase === "synced") break;
    }
    await this._storage.committed();
  }

  /**
   * Returns when this edit is durable on the hub, or was settled without needing to be.
   *
   * @param {Uint8Array} changeId
   */
  async whenAppended(changeId) {
    await this._until(() => this._engine.isAppended(changeId));
  }

  /**
   * Returns when every other device of this app has said that it holds this edit.
   *
   * Devices say so in their witnesses, some seconds after they have it.
   *
   * @param {Uint8Array} changeId
   */
  async whenEverywhere(changeId) {
    await this.whenAppended(changeId);
    const others = (await this.devices()).map((info) => info.deviceId).filter((id) => !equal(id, this.deviceId));
    await this._until(() => {
      const place = this._engine.device.placeOf(changeId);
      if (!place) return false;
      const seqs = this._engine.witnessedSeqs(place[0]);
      return others.every((deviceId) => (seqs.get(hex(deviceId)) ?? 0) >= place[1]);
    });
  }

  // --- a move ---

  /**
   * Go where the account has moved to, `status.movedTo`, with the same device, keys and outbox.
   *
   * A hub that moved an account says so and then answers no more (`blocked`); this device goes to the new one only with
   * this, once a person wants it, and stays there.  What is missing there is appended anew.  Should another account
   * answer there, nothing is sent to it.  Throws RangeError when the account has not moved.
   */
  async follow() {
    this._carry(this._engine.follow());
    this._connection.poke();
    await this._storage.committed();
  }

  // --- on, off, off with a wipe ---

  /** Sync no more; edits go on and wait in the outbox. */
  async turnOff() {
    this._carry(this._engine.turnOff());
    await this._storage.committed();
  }

  /** Sync again; what the hub has not got any more is appended anew. */
  async turnOn() {
    this._carry(this._engine.turnOn(this._now()));
    this._connection.poke();
    await this._storage.committed();
  }

  /**
   * Drop the remote copies, then sync no more.  Local data stays.
   *
   * Returns when the hub has dropped them; needs a running client and a hub that can be reached.
   */
  async turnOffAndWipe() {
    this._carry(this._engine.startWipe(this._now()));
    this._connection.poke();
    await this._until(() => this._engine.wipingDone);
    await this.turnOff();
  }

  /**
   * Another device dropped the remote copies: sync is off here, local data is kept; ask the person.
   *
   * @param {() => void} callback
   */
  onWiped(callback) {
    this._onWiped.push(callback);
  }

  /** A person has seen the alarms and wants to go on: what was stopped is read anew and compared. */
  async forgetAlarms() {
    this._carry(this._engine.forgetAlarms());
    this._connection.poke();
    await this._storage.committed();
  }

  // --- data ---

  /**
   * The collection of this name.  Conflicts in it are settled by `strategy` from now on.
   *
   * Without one they are settled as they were, at first by `lastWriterWins`.
   *
   * @param {string} name @param {{strategy?: Strategy}} [options]
   */
  collection(name, { strategy } = {}) {
    const known = this._handles.get(name);
    if (known && !strategy) return known;
    const [local, effects] = this._engine.openCollection(name, strategy ?? lastWriterWins, this._now());
    const handle = known ?? new CollectionHandle(this, local);
    this._handles.set(name, handle);
    this._carry(effects);
    return handle;
  }

  /**
   * Hand a sealed ephemeral message to the other devices that are connected.  Throws ConnectionError, also when so
   * much waits to be sent that it would come late.
   *
   * @param {Uint8Array} body @param {Uint8Array | null} [to]
   */
  async sendSignal(body, to = null) {
    if (this._connection.congested) throw new ConnectionError("too much waits to be sent");
    this._carry(this._ifConnected(() => this._engine.sendSignal(body, to)));
  }

  /**
   * Call back with each signal.
   *
   * @param {(deviceId: Uint8Array, body: Uint8Array) => void} callback
   */
  onSignal(callback) {
    this._onSignal.push(callback);
  }

  // --- names ---

  /**
   * Call this device so, for the person's other devices to see, 1 to 64 characters; sealed, so the hub does not know.
   * Durable here when it resolves.  Throws RangeError.
   *
   * @param {string} text
   */
  async nameDevice(text) {
    const since = Math.floor(this._now().wall);
    await this.collection(DEVICES).put(hex(this.deviceId), { name: deviceName(text), since });
  }

  /** What the devices of this app are called, by device id in hex.  @returns {Map<string, string>} */
  deviceNames() {
    return new Map(this.collection(DEVICES).items().map(([id, value]) => [id, String(value?.name ?? "")]));
  }

  // --- account ---

  /**
   * Call back when something happens on the account.
   *
   * @param {(notice: Received<"account_notice">) => void} callback
   */
  onAccount(callback) {
    this._onAccount.push(callback);
  }

  /** The devices of this app on the account.  @returns {Promise<DeviceInfo[]>} */
  async devices() {
    return (await this._ask((request) => ({ type: "list_devices", request }), "device_list")).devices;
  }

  /**
   * Take devices off the account.  This device may always take itself off.
   *
   * @param {Iterable<Uint8Array>} deviceIds
   */
  async revoke(deviceIds) {
    await this._ask((request) => ({ type: "revoke_devices", request, deviceIds: [...deviceIds] }), "done");
  }

  /**
   * End another device's probation.
   *
   * @param {Uint8Array} deviceId
   */
  async approve(deviceId) {
    await this._ask((request) => ({ type: "approve_device", request, deviceId }), "done");
  }

  /** Remove the space from the hub; when it will be gone, null = it is. */
  async deleteSpace() {
    const { spaceId } = this._engine.device;
    return dateOf(await this._ask((request) => ({ type: "delete_space", request, spaceId }), "deleted"));
  }

  // --- inside ---

  get _appId() {
    return this._engine.device.identity.appId;
  }

  get _inSession() {
    return ["catching-up", "sending", "synced"].includes(this.status.phase);
  }

  _wanted() {
    const { device } = this._engine;
    const may = device.signedIn && device.keys !== null && !device.blocked && !this._failure;
    return may && device.mode !== "off" && Boolean(device.identity.hubUrl);
  }

  /** @param {Record<string, Uint8Array | null>} settings */
  async _set(settings) {
    setAll(this._storage, settings);
    await this._storage.committed();
  }

  /** @param {Uint8Array} appKey @param {number} keyEpoch */
  async _takeKey(appKey, keyEpoch) {
    await this._keepKey(appKey, await SpaceKeys.derive(appKey, keyEpoch));
  }

  /** @param {Uint8Array} appKey @param {SpaceKeys} keys */
  async _keepKey(appKey, keys) {
    setAll(this._storage, { app_key: appKey, blocked: null, space_known: null });
    this._engine.device.setKeys(keys);
    this._connection.poke();
    await this._storage.committed();
  }

  async _becomeNewDevice() {
    const { identity, deviceKey } = await newIdentity(this._storage, this._appId);
    setAll(this._storage, { account_id: null, blocked: null, spaces: null, attempt: null, moved_to: null });
    this._deviceKey = deviceKey;
    this._engine.device.setIdentity(identity);
    // On the line that stands it is still the former one, in whose name nothing may be sent any more.
    this._connection.carryOut(new Hangup("this device has become a new one"), this._connection.line);
    await this._storage.committed();
  }

  /**
   * @param {() => boolean} holds
   * @param {number} [end] steady time
   */
  async _until(holds, end = Infinity) {
    for (;;) {
      if (this._stopped) throw new ConnectionError("the client was stopped");
      if (holds()) return;
      const left = end - this._now().steady;
      if (left <= 0) throw new TimeoutError("it did not come about in time");
      await this._moved.wait(end === Infinity ? undefined : left);
    }
  }

  /**
   * @template T
   * @param {(talk: import("./connection.js").Errand) => Promise<T>} work
   */
  async _errand(work) {
    const { identity } = this._engine.device;
    if (!identity.hubUrl) throw new RangeError("no hub is known; open the client with hubUrl");
    return errand(identity, this._deviceKey, (talk) => this._unlessMoved(talk, work), fresh, this._surroundings);
  }

  /**
   * @template T
   * @param {import("./connection.js").Errand} talk
   * @param {(talk: import("./connection.js").Errand) => Promise<T>} work
   */
  async _unlessMoved(talk, work) {
    try {
      return await work(talk);
    } catch (error) {
      this._engine.device.isMoved(talk.movedTo);
      if (talk.movedTo) await this._storage.committed();
      throw error;
    }
  }

  /**
   * A short connection on which this device has proved itself.
   *
   * @template T
   * @param {(talk: import("./connection.js").Errand) => Promise<T>} work
   */
  async _sessionErrand(work) {
    return this._errand(async (talk) => {
      const signature = await talk.proof("auth");
      const ready = await talk.ask({ type: "auth", signature }, "ready");
      if (this._engine.device.isAnothers(ready)) throw new ConnectionError(ANOTHER_ACCOUNT);
      this._engine.device.isReady(ready);
      return work(talk);
    });
  }

  /**
   * Ask the hub on the line that stands, or on one of its own.  Throws Refusal, ConnectionError.
   *
   * @template {keyof import("./wire/messages.js").HubTable} N
   * @param {(request: number) => ToHub} make @param {N} answer
   * @returns {Promise<Received<N>>}
   */
  async _ask(make, answer) {
    if (this._running === null || !this._wanted()) return this._sessionErrand((talk) => talk.ask(make(1), answer));
    // A second line of this device would replace the one that is kept up.
    const end = this._now().steady + ANSWER_WITHIN_S;
    await this._until(() => this._inSession, end);
    const [number, effects] = this._ifConnected(() => this._engine.request(make));
    const message = await this._answerTo(number, effects);
    if (message.type === "refused") throw asRefusal(message);
    assert(message.type === answer, `the hub answered ${message.type} where ${answer} was due`);
    return message;
  }

  /**
   * @param {number} number @param {Effect[]} effects
   * @returns {Promise<any>}
   */
  async _answerTo(number, effects) {
    const answer = new Promise((done, fail) => {
      const late = setTimeout(() => fail(new TimeoutError("the hub does not answer")), ANSWER_WITHIN_S * 1000);
      const settle = (/** @type {(value: any) => void} */ how) => (/** @type {any} */ value) => {
        clearTimeout(late);
        how(value);
      };
      this._answers.set(number, { done: settle(done), fail: settle(fail) });
    });
    try {
      this._carry(effects);
      return await answer;
    } finally {
      this._answers.delete(number);
    }
  }

  /**
   * @template T
   * @param {() => T} work
   */
  _ifConnected(work) {
    try {
      return work();
    } catch (error) {
      if (error instanceof NotConnected) throw new ConnectionError(error.message);
      throw error;
    }
  }

  // --- inside of a pairing ---

  /** What this device is to one that it pairs with. */
  get _me() {
    const { deviceId, appId, hubUrl } = this._engine.device.identity;
    return { deviceId, devicePk: this._deviceKey.publicKey, appId, hubUrl };
  }

  /**
   * Prove this device in that account and keep the key, unless that is not `wanted` any more; durable when it resolves.
   *
   * Throws PairingFailed, Refusal, ConnectionError.
   *
   * @param {import("./pairing.js").Grant} grant @param {Uint8Array} accountId @param {() => boolean} wanted
   */
  async _takeGrant({ appKey, keyEpoch, incarnation, heads }, accountId, wanted) {
    const mine = this._storage.setting("app_key");
    if (mine && !equal(mine, appKey)) throw new PairingFailed("other_key");
    const keys = await SpaceKeys.derive(appKey, keyEpoch);
    const ready = await this._errand(async (talk) =>
      talk.ask({ type: "auth", signature: await talk.proof("auth") }, "ready"),
    );
    if (!equal(ready.accountId, accountId)) throw new PairingFailed("other_account");
    if (!wanted()) return;
    this._engine.device.keepGranted(incarnation, heads);
    this._engine.device.isReady(ready);
    setAll(this._storage, { attempt: null });
    await this._keepKey(appKey, keys);
  }

  // --- effects ---

  /**
   * Carry out what the engine wants, in order.
   *
   * The app and whoever waits are told at once, since they see what is in memory; the hub only when what it is told
   * stands on is durable here.  Hanging up waits for nothing: then what waits is not sent any more.
   *
   * @param {Effect[]} effects
   */
  _carry(effects) {
    const { line } = this._connection;
    for (const effect of effects) {
      const waits = effect instanceof Send || (effect instanceof Hangup && effect.politely);
      if (waits) this._unsent.push({ effect, line });
      else if (effect instanceof Hangup) this._connection.carryOut(effect, line);
      else this._tell(effect);
    }
    this._connection.schedule();
    if (this._unsent.length) this._sending ??= this._send().finally(() => (this._sending = null));
  }

  async _send() {
    while (this._unsent.length) {
      const { length } = this._unsent;
      // When it fails the line is cut, and what was meant for it is not sent.
      await this._storage.committed().catch((error) => this._storageFailed(error));
      for (const { effect, line } of this._unsent.splice(0, length)) this._connection.carryOut(effect, line);
    }
  }

  /** @param {Exclude<Effect, Send | Hangup>} effect */
  _tell(effect) {
    if (effect instanceof Moved) this._hasMoved();
    else if (effect instanceof Changed) this._handles.get(effect.collection)?.tell(effect.changes);
    else if (effect instanceof Answered) this._answered(effect);
    else if (effect instanceof Sign) this._sign(effect);
    else if (effect instanceof Wiped) call(this._onWiped);
    else if (effect instanceof SignalCame) call(this._onSignal, effect.deviceId, effect.body);
    else if (effect instanceof AccountChanged) call(this._onAccount, effect.notice);
    else if (effect instanceof PairingCame) this._pairingCame(effect);
  }

  /** @param {Answered} effect */
  _answered({ number, message }) {
    const waiting = this._answers.get(number);
    if (waiting) waiting.done(message);
    else if (message.type === "refused" && number === this._pairingRequest) {
      const refusal = asRefusal(message); // the other side talks to another device
      for (const pairing of this._pairings) if (pairing.role === "giver") pairing.lost(refusal);
    }
  }

  /** @param {PairingCame} effect */
  _pairingCame({ channel, body }) {
    for (const pairing of this._pairings) if (equal(pairing.channel, channel)) pairing.came(body);
  }

  /** @param {Sign} effect */
  async _sign({ purpose, bytes, token }) {
    const key = purpose === "space" ? this._engine.device.keys?.signingKey : this._deviceKey;
    assert(key, "asked to sign for a space without its key");
    try {
      const signature = await key.sign(bytes);
      if (!this._stopped) this._carry(this._engine.signed(token, signature));
    } catch (error) {
      this._connection.failed(error);
    }
  }

  _hasMoved() {
    this._moved.ring();
    if (!this._engine.inSession || this._stopped) {
      // Their answers went with the line.
      for (const { fail } of this._answers.values()) fail(new ConnectionError("the connection was lost"));
      for (const pairing of this._pairings) {
        if (pairing.role === "giver") pairing.lost(new ConnectionError("the connection was lost"));
      }
    }
    if (this._onStatus.length && !this._telling) {
      this._telling = true;
      queueMicrotask(() => this._tellStatus());
    }
  }

  _tellStatus() {
    this._telling = false;
    if (this._running === null) return; // stopped meanwhile; the storage is closed
    const { status } = this;
    const looks = JSON.stringify(status);
    if (looks === this._told) return;
    this._told = looks;
    call(this._onStatus, status);
  }

  // --- what fails ---

  /**
   * What the engine threw, in a sentence: storage that keeps nothing, or a mistake of this program.
   *
   * @param {unknown} error
   */
  _explain(error) {
    if (error instanceof StorageFailed) this._storageFailed(error);
    else report(error);
    const said = error instanceof Error ? error.message : String(error);
    return error instanceof StorageFailed ? said : `this program made a mistake: ${said}`;
  }

  /**
   * Nothing may be sent that is not kept here: hang up, show why, and try again.
   *
   * @param {Error & {final?: boolean}} error
   */
  _storageFailed(error) {
    if (this._failure) return;
    this._failure = error;
    this._connection.carryOut(new Hangup(error.message), this._connection.line);
    this._hasMoved();
    if (!error.final) this._retryStorage();
  }

  async _retryStorage() {
    while (this._failure && !this._stopped) {
      await new Bell().wait(RETRY_STORAGE_S);
      if (this._stopped) return;
      await this._storage.retry().then(() => (this._failure = null), () => undefined);
    }
    this._hasMoved();
    this._connection.poke();
  }
}

/** One collection of the app: its records as they are here, now. */
export class CollectionHandle {
  /**
   * Use `HubClient.collection`.
   *
   * @param {HubClient} client @param {LocalCollection} local
   */
  constructor(client, local) {
    this._client = client;
    this._local = local;
    /** @type {((changes: RecordChanged[]) => void)[]} */
    this._onChange = [];
  }

  /**
   * Set a record; seen here at once, durable here when the promise resolves to the change's id.  A Blob in it is read
   * before: `put(key, await readBlobs(value))`, and comes as a `BlobValue`, of which `toBlobs` makes a Blob again.
   *
   * @param {string} key @param {any} value
   */
  async put(key, value) {
    return this._edit((local, wall) => local.put(key, value, wall));
  }

  /**
   * Set many records in one transaction.
   *
   * @param {Record<string, any> | Map<string, any>} values
   */
  async putMany(values) {
    const entries = values instanceof Map ? [...values] : Object.entries(values);
    return this._edit((local, wall) => entries.map(([key, value]) => local.put(key, value, wall)));
  }

  /**
   * Remove a record; deleting what is not there changes nothing.
   *
   * @param {string} key
   */
  async delete(key) {
    return this._edit((local, wall) => local.delete(key, wall));
  }

  /**
   * Add to a record, as a CRDT update is added; conflicts with nothing.
   *
   * @param {string} key @param {any} value
   */
  async appendDelta(key, value) {
    return this._edit((local, wall) => local.appendDelta(key, value, wall));
  }

  /**
   * Replace a record's deltas by one value that contains them.
   *
   * @param {string} key @param {any} value
   */
  async snapshot(key, value) {
    return this._edit((local, wall) => local.snapshot(key, value, wall));
  }

  /**
   * The record's value, or `otherwise`.
   *
   * @param {string} key @param {any} [otherwise]
   */
  get(key, otherwise = undefined) {
    const value = this._local.get(key);
    return value === MISSING ? otherwise : value;
  }

  /**
   * What was added to the record since its last put.
   *
   * @param {string} key
   */
  deltas(key) {
    return this._local.deltas(key);
  }

  /** The keys of all records. */
  keys() {
    return this._local.keys();
  }

  /** All records, each [key, value]. */
  items() {
    return this._local.items();
  }

  /**
   * Call back after each transaction that changed records, by whomever.
   *
   * @param {(changes: RecordChanged[]) => void} callback
   */
  onChange(callback) {
    this._onChange.push(callback);
  }

  /** The conflicts that wait for a person: both values and what they came from. */
  conflicts() {
    return this._local.conflicts();
  }

  /**
   * Settle a record's conflict with this value; MISSING deletes it.
   *
   * @param {string} key @param {any} value
   */
  async resolve(key, value) {
    return this._edit((local, wall) => local.resolve(key, value, wall));
  }

  /**
   * The record's changes that the hub still keeps, newest first.
   *
   * @param {string} key
   */
  async history(key) {
    return this._versions(key);
  }

  /**
   * The record's value at an earlier time, MISSING when it was not there.
   *
   * Of a record of deltas, the last put.  Throws when the hub does not keep the record that far back.
   *
   * @param {string} key @param {Date} when
   */
  async at(key, when) {
    const versions = await this._versions(key);
    const then = versions.find((version) => version.kind !== Kind.DELTA && version.appendedAt <= when);
    if (then) return then.value;
    if (versions.length && !versions[versions.length - 1].isFirst) {
      throw new RangeError("the hub does not keep this record that far back");
    }
    return MISSING;
  }

  /** @param {string} key @returns {Promise<Version[]>} */
  async _versions(key) {
    const { keys } = this._client._engine.device;
    const { collectionId } = this._local.row;
    assert(keys && collectionId, "asked for history without an app key");
    const about = { spaceId: keys.spaceId, collectionId, recordId: keys.recordId(collectionId, key) };
    /** @type {Version[]} */
    const versions = [];
    for (let more = true; more; ) {
      const before = versions.at(-1)?.seq ?? 0;
      const read = (/** @type {number} */ request) =>
        /** @type {const} */ ({ type: "read_history", request, ...about, before });
      const page = await this._client._ask(read, "history");
      versions.push(...page.changes.map((change) => opened(keys, collectionId, change)));
      more = page.more && page.changes.length > 0;
    }
    return versions;
  }

  /**
   * Called by the client: records look different now.
   *
   * @param {RecordChanged[]} changes
   */
  tell(changes) {
    call(this._onChange, changes);
  }

  /**
   * @template T
   * @param {(local: LocalCollection, wall: number) => T} work
   */
  async _edit(work) {
    const client = this._client;
    const moment = client._now();
    try {
      const [result, effects] = client._engine.edit(this._local, () => work(this._local, moment.wall), moment);
      client._carry(effects);
      await client._storage.committed();
      return result;
    } catch (error) {
      if (error instanceof StorageFailed) client._storageFailed(error);
      throw error;
    }
  }
}

// --- small things ----------------------------------------------------------------------------

/** @param {number} size */
function fresh(size) {
  return crypto.getRandomValues(new Uint8Array(size));
}

/** @param {Storage} storage @param {Record<string, Uint8Array | null>} settings */
function setAll(storage, settings) {
  storage.transaction(() => {
    for (const [name, value] of Object.entries(settings)) storage.setSetting(name, value);
  });
}

/** @param {Storage} storage @param {string} hubUrl canonical */
function setHub(storage, hubUrl) {
  const left = fromUtf8(storage.setting("left") ?? new Uint8Array(0)).split(" ");
  if (!left.includes(hubUrl)) setAll(storage, { hub_url: utf8(hubUrl) });
}

/** @param {Storage} storage */
async function keysIn(storage) {
  const appKey = storage.setting("app_key");
  return appKey ? SpaceKeys.derive(appKey) : null;
}

/**
 * Who this device is to the hub; made and kept when it is nobody yet.
 *
 * @param {Storage} storage @param {string} appId
 */
async function identityIn(storage, appId) {
  const deviceId = storage.setting("device_id");
  const publicKey = storage.setting("device_pk");
  /** @type {any} */
  const kept = storage.setting("device_key"); // a key that no script can read, or a seed where there are none
  if (!deviceId || !publicKey || !kept) return newIdentity(storage, appId);
  const isSeed = kept instanceof Uint8Array;
  const deviceKey = new SigningKey({ publicKey, privateKey: isSeed ? null : kept, seed: isSeed ? kept : null });
  return { identity: identityOf(storage, deviceId, appId), deviceKey };
}

/** @param {Storage} storage @param {string} appId */
async function newIdentity(storage, appId) {
  const deviceKey = await SigningKey.generate(fresh);
  const deviceId = fresh(ID_BYTES);
  const { publicKey, privateKey, seed } = deviceKey.stored();
  setAll(storage, { device_id: deviceId, device_pk: publicKey, device_key: /** @type {any} */ (privateKey ?? seed) });
  return { identity: identityOf(storage, deviceId, appId), deviceKey };
}

/** @param {Storage} storage @param {Uint8Array} deviceId @param {string} appId */
function identityOf(storage, deviceId, appId) {
  return { deviceId, appId, hubUrl: fromUtf8(storage.setting("hub_url") ?? new Uint8Array(0)) };
}

/** @param {SpaceKeys} keys @param {Uint8Array} collectionId @param {import("./wire/messages.js").ChangePart} change */
function opened(keys, collectionId, change) {
  const sealed = openSealed(keys, change.sealed, { collectionId });
  const [, body] = splitRecord(keys, sealed);
  const { kind, deviceId, base } = sealed.header;
  const value = kind === Kind.DELETE ? MISSING : decodeBody(body).value;
  const appendedAt = new Date(change.appendedAtMs);
  return { seq: change.seq, appendedAt, kind, value, deviceId, isFirst: equal(base, ZERO_ID) };
}

/** @param {Received<"deleted">} deleted */
function dateOf(deleted) {
  return deleted.deletedAt ? new Date(deleted.deletedAt * 1000) : null;
}

/**
 * Call the app back; its mistakes are its own and reach whatever watches the page, not the engine.
 *
 * @template {unknown[]} A
 * @param {((...values: A) => void)[]} callbacks @param {A} values
 */
function call(callbacks, ...values) {
  for (const callback of callbacks) {
    try {
      callback(...values);
    } catch (error) {
      report(error);
    }
  }
}
