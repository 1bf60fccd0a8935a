/**
 * The hub's end of one connection, without I/O: frames go in by `take`, frames for the device lie in `out`.
 *
 * A method for each message the protocol knows; what is refused is refused by its codes.  `end` closes it, and tells
 * whoever carries the frames by `onEnd`.
 */

import { concat, equal, hex } from "../bytes.js";
import { CLOSINGS, Refusal, REFUSALS } from "../errors.js";
import { proofMessage } from "../signing.js";
import { Kind, LOG_KINDS, PROTOCOL_VERSION } from "../terms.js";
import { BadMessage, decodeFromDevice, encode, NotAMessage, UnknownMessage } from "../wire/codec.js";
import { parseHeader } from "../wire/header.js";
import { copiedLogs, DELETION_DELAY_S, deviceInfo, FRESH_CODE_S, spaceBytes } from "./hub.js";

/** @typedef {import("./hub.js").Account} Account */
/** @typedef {import("./hub.js").Device} Device */
/** @typedef {import("./hub.js").Hub} Hub */
/** @typedef {import("./hub.js").Space} Space */
/** @typedef {import("./log.js").Answer} Answer */
/** @typedef {import("../wire/messages.js").DeviceTable} DeviceTable */
/**
 * A message of a device by its name.
 * @template {keyof DeviceTable} N
 * @typedef {{ type: N } & import("../wire/messages.js").Whole<DeviceTable[N]>} From
 */
/** @typedef {{ spaceId: Uint8Array, collectionId: Uint8Array, sent: number, liveOnly: boolean }} Subscription */
/** @typedef {{ channel: string, request: number, other: Line | null, framesLeft: number }} Meeting */

const NO_BYTES = new Uint8Array(0);
/** What may come at each stage; at the last one everything that is not here. @type {Record<string, Set<string>>} */
const STAGES = {
  new: new Set(["hello"]),
  greeted: new Set(["auth", "enrol", "request_code", "open_pairing", "pairing", "ping"]),
};
const PAIRING_FRAMES_MAX = 8; // both ways together
const PAIRING_BYTES_MAX = 2_048;

export class Line {
  /** @param {Hub} hub @param {string} [dialled] the address that the device dialled, and signs */
  constructor(hub, dialled = hub.dialled) {
    this.hub = hub;
    this.dialled = dialled;
    /** @type {Uint8Array[]} */
    this.out = [];
    /** @type {"new" | "greeted" | "ready" | "closed"} */
    this.stage = "new";
    /** @type {Uint8Array | null} */
    this.deviceId = null;
    /** @type {Account | null} */
    this.account = null;
    /** @type {Uint8Array} */
    this.hello = NO_BYTES;
    /** @type {Uint8Array} */
    this.challenge = NO_BYTES;
    /** @type {Set<string>} */
    this.entered = new Set();
    /** By collection. @type {Map<string, Subscription>} */
    this.subscriptions = new Map();
    /** Seqs this session appended itself, whose bytes its device still has. @type {Set<string>} */
    this.own = new Set();
    /** @type {Meeting | null} */
    this.meeting = null;
    this.freshCodeUntil = 0;
    this._isDeaf = false;
    /** @type {(code: number, reason: string) => void} */
    this.onEnd = () => undefined;
  }

  /** Whether it is this device's session.  @param {Uint8Array} deviceId */
  isOf(deviceId) {
    return this.stage === "ready" && this.deviceId !== null && equal(this.deviceId, deviceId);
  }

  /** @param {any} message */
  say(message) {
    if (this.stage !== "closed") this.out.push(encode(message));
  }

  /** Close it for a reason of `CLOSINGS`.  @param {string} closing */
  end(closing) {
    if (this.stage === "closed") return;
    this.gone();
    this.onEnd(CLOSINGS[closing].code, CLOSINGS[closing].message);
  }

  /** It is closed, by whomever. */
  gone() {
    this.stage = "closed";
    this.meeting = null;
    const at = this.hub.lines.indexOf(this);
    if (at >= 0) this.hub.lines.splice(at, 1);
  }

  /** A frame of the device has come.  @param {Uint8Array} frame */
  take(frame) {
    if (this.stage === "closed" || this._isDeaf) return;
    const message = this._decoded(frame);
    if (!message) return;
    this.hub.heard.push({ deviceId: this.deviceId ?? message.deviceId ?? null, message, frame });
    const code = this.hub.refuseOnce.get(message.type);
    if (code) {
      this.hub.refuseOnce.delete(message.type);
      this.refuse(message, code, true, 1.0);
      this._isDeaf = this.stage !== "ready"; // it waits for the device to come back
      return;
    }
    if (STAGES[this.stage] && !STAGES[this.stage].has(message.type)) return this.end("malformed");
    try {
      const work = /** @type {any} */ (this)[`on_${message.type}`];
      if (!work) throw new Refusal("out_of_turn");
      work.call(this, message, frame);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      this.refuse(message, error.code, error.retry, error.retryAfterS ?? 0, error.message);
    }
  }

  /**
   * @param {any} message @param {string} code @param {boolean} [retry] @param {number} [retryAfterS]
   * @param {string} [said]
   */
  refuse(message, code, retry = false, retryAfterS = 0, said = REFUSALS[code]?.message ?? code) {
    this.say({ type: "refused", request: message.request ?? 0, code, message: said, retry, retryAfterS });
  }

  /** @param {Uint8Array} frame @returns {any} */
  _decoded(frame) {
    try {
      return decodeFromDevice(frame);
    } catch (error) {
      const isKnown = error instanceof BadMessage || error instanceof UnknownMessage;
      if (!isKnown && !(error instanceof NotAMessage)) throw error;
      if (!isKnown || this.stage !== "ready") this.end("malformed");
      else if (error instanceof BadMessage) this.refuse(error, "bad_request", false, 0, error.message);
      else this.refuse(error, "unknown_message");
      return null;
    }
  }

  // --- the handshake ---

  /** @param {From<"hello">} message @param {Uint8Array} frame */
  on_hello(message, frame) {
    if (this.stage !== "new") throw new Refusal("out_of_turn");
    if (!message.v.includes(PROTOCOL_VERSION)) return this.end("version");
    const { limits } = this.hub;
    this.deviceId = message.deviceId;
    this.hello = frame;
    this.stage = "greeted";
    const serverNonce = this.hub.fresh(32);
    const told = { v: PROTOCOL_VERSION, serverNonce, features: [], limits, signUp: "open" };
    this.challenge = encode({ type: "challenge", ...told });
    this.out.push(this.challenge);
  }

  /** @param {From<"auth">} message */
  on_auth({ signature }) {
    if (this.stage !== "greeted") throw new Refusal("out_of_turn");
    const known = this.hub.known(/** @type {Uint8Array} */ (this.deviceId));
    if (!known || !this.proves("auth", known.device.devicePk, signature)) return this.end("auth_failed");
    if (this.dialled !== this.hub.dialled) {
      this.say({ type: "moved", url: this.hub.dialled });
      return this.end("moved");
    }
    this.begin(known.account, known.device);
  }

  /** @param {From<"request_code">} message */
  on_request_code(message) {
    const { request, purpose } = message;
    const isKnown = this.stage === "ready";
    if (isKnown !== (purpose === "confirm")) throw new Refusal("out_of_turn");
    const again = message.attemptId && this.hub.attempts.get(hex(message.attemptId));
    if (message.attemptId && !again) throw new Refusal("slow_down");
    const attempt = again || this.hub.sendCode(message);
    if (again) this.hub.mails.push(again);
    const { attemptId, phrase, until } = attempt;
    this.say({ type: "code_sent", request, attemptId, phrase, expiresInS: until - this.hub.now() });
  }

  /** @param {From<"enrol">} message */
  on_enrol({ attemptId, code, devicePk, signature, scope }) {
    if (this.stage !== "greeted") throw new Refusal("out_of_turn");
    const proved = this.proves("enrol", devicePk, signature);
    const attempt = this.hub.codeUsed(attemptId, code, devicePk, "enrol", proved);
    const deviceId = /** @type {Uint8Array} */ (this.deviceId);
    const { account, device } = this.hub.enrol(attempt, deviceId, scope === "account" ? "account" : "app");
    this.begin(account, device);
  }

  /**
   * @param {import("../signing.js").Purpose} purpose @param {Uint8Array} publicKey @param {Uint8Array} signature
   * @param {Uint8Array} [about]
   */
  proves(purpose, publicKey, signature, about = NO_BYTES) {
    const message = proofMessage(purpose, this.dialled, this.hello, concat(this.challenge, about));
    return this.hub.verifies(publicKey, signature, message);
  }

  /** @param {Account} account @param {Device} device */
  begin(account, device) {
    for (const other of [...this.hub.lines]) if (other !== this && other.isOf(device.deviceId)) other.end("replaced");
    this.stage = "ready";
    this.account = account;
    this.hub.deleteDue(account);
    const seen = [...account.spaces.values()].filter((space) => this.sees(space));
    this.say({
      type: "ready", accountId: account.accountId, incarnation: this.hub.incarnation, serverTime: this.hub.now(),
      heartbeatS: this.hub.limits.heartbeat_s, scope: device.scope, appId: device.appId,
      quotaBytes: this.hub.quotaBytes, usedBytes: this.hub.usedBytes(account), spaces: seen.map(spaceInfo),
      probationUntil: device.probationUntil,
    });
  }

  // --- who this is, once it is ready ---

  /** @returns {Account} */
  get _account() {
    return /** @type {Account} */ (this.account);
  }

  /** This session's device as it is now. @returns {Device} */
  get _me() {
    const device = this._account.devices.get(hex(/** @type {Uint8Array} */ (this.deviceId)));
    if (!device) throw new Refusal("forbidden");
    return device;
  }

  /** @param {Space} space */
  sees(space) {
    const { scope, appId } = this._me;
    return scope === "account" || space.appId === appId;
  }

  _mustBeTrusted() {
    if (this._me.probationUntil > this.hub.now()) throw new Refusal("probation");
  }

  // --- spaces ---

  /** @param {From<"create_space">} message */
  on_create_space(message) {
    const { request, spaceId, spacePk, signature, appId } = message;
    if (this._me.scope !== "account" && appId !== this._me.appId) throw new Refusal("forbidden");
    if (!this.proves("space", spacePk, signature, spaceId)) throw new Refusal("bad_space_proof");
    const space = this.hub.createSpace(this._account, message);
    if (!this.sees(space)) throw new Refusal("forbidden");
    this._enters(request, [space]);
  }

  /** @param {From<"enter">} message */
  on_enter({ request, spaces }) {
    const found = spaces.map(({ spaceId, keyEpoch, signature }) => {
      const space = this._account.spaces.get(hex(spaceId));
      if (!space || !this.sees(space)) throw new Refusal("not_found");
      if (keyEpoch !== 0 || !this.proves("space", space.spacePk, signature, spaceId)) {
        throw new Refusal("bad_space_proof");
      }
      return space;
    });
    this._enters(request, found);
  }

  /** @param {number} request @param {Space[]} spaces */
  _enters(request, spaces) {
    for (const { spaceId } of spaces) this.entered.add(hex(spaceId));
    this.say({ type: "entered", request, spaces: spaces.map(spaceInfo) });
  }

  /** The space, which this session has entered.  @param {Uint8Array} spaceId */
  space(spaceId) {
    const space = this._account.spaces.get(hex(spaceId));
    if (!space || !this.sees(space)) throw new Refusal("not_found");
    if (!this.entered.has(hex(spaceId))) throw new Refusal("no_space_proof");
    return space;
  }

  /** @param {From<"collections">} message */
  on_collections({ request, spaceId }) {
    const logs = [...this.space(spaceId).logs.values()].filter(({ log }) => log.head);
    const collections = logs.map(({ collectionId, log }) => {
      return { collectionId, head: log.head, counter: this._counterIn(log) };
    });
    this.say({ type: "collection_list", request, spaceId, collections });
  }

  /** @param {import("./log.js").Log} log */
  _counterIn(log) {
    return log.counters.get(hex(/** @type {Uint8Array} */ (this.deviceId))) ?? 0;
  }

  // --- following ---

  /** @param {From<"subscribe">} message */
  on_subscribe({ request, spaceId, cursors }) {
    const space = this.space(spaceId);
    const { incarnation } = this.hub;
    const collections = cursors.map(({ collectionId, incarnation: life, seq, liveOnly }) => {
      const log = this.hub.logIn(space, collectionId);
      const after = equal(life, incarnation) ? seq : 0;
      this.subscriptions.set(hex(collectionId), { spaceId, collectionId, sent: after, liveOnly });
      return { collectionId, head: log.head, after, counter: this._counterIn(log) };
    });
    this.say({ type: "subscribed", request, spaceId, incarnation, collections });
    for (const { collectionId } of cursors) {
      this.feed(collectionId);
      this.handOnWitnesses(space, collectionId);
    }
  }

  /** @param {From<"unsubscribe">} message */
  on_unsubscribe({ request, spaceId, collectionIds }) {
    this.space(spaceId);
    for (const collectionId of collectionIds) this.subscriptions.delete(hex(collectionId));
    this.say({ type: "done", request });
  }

  /** @param {Space} space @param {Uint8Array} collectionId */
  handOnWitnesses(space, collectionId) {
    const { witnesses } = this.hub.logIn(space, collectionId);
    const me = hex(/** @type {Uint8Array} */ (this.deviceId));
    const others = [...witnesses].filter(([deviceId]) => deviceId !== me).map(([, sealed]) => sealed);
    if (others.length) this.say({ type: "witnesses", spaceId: space.spaceId, collectionId, witnesses: others });
  }

  /** Read on while less than the head has been sent.  @param {Uint8Array} collectionId */
  feed(collectionId) {
    const subscription = this.subscriptions.get(hex(collectionId));
    const space = subscription && this.account?.spaces.get(hex(subscription.spaceId));
    if (!space) return;
    const log = this.hub.logIn(space, collectionId);
    while (subscription.sent < log.head) {
      const { sent: after, liveOnly, spaceId } = subscription;
      const page = this._page(log, after, liveOnly ? log.liveSeqs() : null);
      const changes = page.seqs.map((seq) => changePart(log, seq, this.own.has(`${hex(collectionId)} ${seq}`)));
      this.say({ type: "changes", spaceId, collectionId, after, upto: page.upto, head: log.head, changes });
      subscription.sent = page.upto;
      subscription.liveOnly = liveOnly && page.upto < log.head;
    }
  }

  /**
   * What one frame takes of the seqs after `after`.
   *
   * @param {import("./log.js").Log} log @param {number} after @param {Set<number> | null} live
   */
  _page(log, after, live) {
    const found = [...log.kept.keys()].filter((seq) => seq > after && (!live || live.has(seq))).sort((a, b) => a - b);
    let bytes = 0;
    const fits = (/** @type {number} */ seq, /** @type {number} */ at) => {
      bytes += log.kept.get(seq)?.length ?? 0;
      return at < this.hub.pageChanges && (at === 0 || bytes <= this.hub.limits.page_bytes);
    };
    const end = found.findIndex((seq, at) => !fits(seq, at));
    const seqs = end < 0 ? found : found.slice(0, end);
    return { seqs, upto: end < 0 ? log.head : seqs[seqs.length - 1] };
  }

  /** @param {From<"read_history">} message */
  on_read_history({ request, spaceId, collectionId, recordId, before, limit }) {
    const log = this.hub.logIn(this.space(spaceId), collectionId);
    const seqs = log.history(recordId).filter((seq) => !before || seq < before);
    const changes = seqs.slice(0, limit).map((seq) => changePart(log, seq));
    this.say({ type: "history", request, changes, more: seqs.length > limit });
  }

  // --- writing ---

  /** @param {From<"append">} message */
  on_append({ request, spaceId, drafts, atomic }) {
    const space = this.space(spaceId);
    const code = this.hub.refuseNext.pop();
    if (code) throw new Refusal(code, code, { retry: true, retryAfterS: 1.0 });
    if (drafts.length > this.hub.limits.drafts_per_append_max) throw new Refusal("too_many");
    const { answers, touched } = atomic ? this._allOrNothing(space, drafts) : this._each(space, drafts);
    this.say({ type: "appended", request, spaceId, answers, usedBytes: this.hub.usedBytes(this._account) });
    for (const line of [...this.hub.lines]) {
      if (line.account === this.account) for (const collectionId of touched.values()) line.feed(collectionId);
    }
  }

  /** @param {Space} space @param {Uint8Array[]} drafts */
  _each(space, drafts) {
    /** @type {Map<string, Uint8Array>} */
    const touched = new Map();
    const answers = drafts.map((sealed) => {
      const refused = this._judged(space, sealed);
      if (refused) return { code: refused };
      const [answer, fresh] = this.hub.append(this._account, space, sealed);
      const { collectionId } = parseHeader(sealed);
      if (fresh) touched.set(hex(collectionId), collectionId);
      if (fresh && this.subscriptions.has(hex(collectionId))) this.own.add(`${hex(collectionId)} ${answer.seq}`);
      return answer;
    });
    return { answers, touched };
  }

  /** @param {Space} space @param {Uint8Array[]} drafts */
  _allOrNothing(space, drafts) {
    const before = copiedLogs(space);
    const [own, appended] = [new Set(this.own), this.hub.appended.length];
    const done = this._each(space, drafts);
    if (!done.answers.some(({ code }) => code)) return done;
    space.logs = before;
    this.own = own;
    this.hub.appended.length = appended;
    const answers = done.answers.map((answer) => (answer.code ? answer : { code: "atomic_refused" }));
    return { answers, touched: new Map() };
  }

  /**
   * Why a draft does not fit this session, as a code; empty when it does.
   *
   * @param {Space} space @param {Uint8Array} sealed
   */
  _judged(space, sealed) {
    if (sealed.length > this.hub.limits.draft_bytes_max) return "too_large";
    let header;
    try {
      header = parseHeader(sealed);
    } catch {
      return "bad_draft";
    }
    const fits = equal(header.spaceId, space.spaceId) && this.isOf(header.deviceId) && LOG_KINDS.has(header.kind);
    return fits && header.keyEpoch === 0 ? "" : "bad_draft";
  }

  /** @param {From<"witness">} message */
  on_witness({ request, spaceId, collectionId, witness }) {
    const space = this.space(spaceId);
    if (witness.length > this.hub.limits.witness_bytes_max) throw new Refusal("too_large");
    const header = parseHeader(witness);
    const fits = header.kind === Kind.WITNESS && equal(header.collectionId, collectionId) && this.isOf(header.deviceId);
    if (!fits || !equal(header.spaceId, spaceId)) throw new Refusal("bad_draft");
    const { witnesses } = this.hub.logIn(space, collectionId);
    const device = hex(header.deviceId);
    const known = witnesses.get(device);
    this.say({ type: "done", request });
    if (known && parseHeader(known).counter >= header.counter) return;
    witnesses.set(device, witness);
    for (const line of this.hub.lines) {
      const follows = line.account === this.account && line.subscriptions.has(hex(collectionId));
      if (line !== this && follows) line.say({ type: "witnesses", spaceId, collectionId, witnesses: [witness] });
    }
  }

  /** @param {From<"signal">} message */
  on_signal({ spaceId, body, to }) {
    this.space(spaceId);
    if (body.length > this.hub.limits.signal_bytes_max) throw new Refusal("too_large");
    for (const line of this.hub.lines) {
      const isIn = line.account === this.account && line.entered.has(hex(spaceId));
      if (line !== this && isIn && (to === null || line.isOf(to))) {
        line.say({ type: "signal", request: 0, spaceId, body, to, deviceId: this.deviceId });
      }
    }
  }

  on_ping() {
    this.say({ type: "pong", heads: this.heads() });
  }

  on_pong() {}

  heads() {
    return [...this.subscriptions.values()].flatMap(({ spaceId, collectionId }) => {
      const space = this.account?.spaces.get(hex(spaceId));
      return space ? [{ spaceId, collectionId, head: this.hub.logIn(space, collectionId).head }] : [];
    });
  }

  // --- pairing ---

  /** @param {{ request: number, channel: Uint8Array }} message */
  on_open_pairing({ request, channel }) {
    if (this.stage === "ready") this._mustBeTrusted();
    this.meeting = { channel: hex(channel), request, other: null, framesLeft: PAIRING_FRAMES_MAX };
    this.say({ type: "done", request });
  }

  /** @param {{ request: number, channel: Uint8Array, body: Uint8Array }} message */
  on_pairing({ channel, body }) {
    const { meeting } = this;
    if (!meeting || meeting.channel !== hex(channel)) throw new Refusal("not_found", "open the pairing first");
    if (body.length > PAIRING_BYTES_MAX) throw new Refusal("too_large");
    if (!meeting.framesLeft) throw new Refusal("too_many");
    meeting.framesLeft -= 1;
    const isOther = (/** @type {Line} */ line) =>
      line.meeting?.channel === meeting.channel && (line.stage === "ready") !== (this.stage === "ready");
    for (const line of this.hub.lines) if (isOther(line)) line._hears(this, channel, body);
  }

  /** @param {Line} sender @param {Uint8Array} channel @param {Uint8Array} body */
  _hears(sender, channel, body) {
    const meeting = /** @type {Meeting} */ (this.meeting);
    if (meeting.other && meeting.other !== sender) {
      sender._isOneTooMany(this);
      return;
    }
    meeting.other = sender;
    if (!meeting.framesLeft) return;
    meeting.framesLeft -= 1;
    this.say({ type: "pairing", request: 0, channel, body });
  }

  /** Who spoke talks to another already; told by the number of `open_pairing`.  @param {Line} whom */
  _isOneTooMany(whom) {
    if (!this.meeting || (this.meeting.other && this.meeting.other !== whom)) return;
    this.refuse(this.meeting, "too_many", false, 0, "another device uses this pairing code");
    this.meeting = null;
  }

  /** @param {{ request: number, deviceId: Uint8Array, devicePk: Uint8Array }} message */
  on_vouch({ request, deviceId, devicePk }) {
    this._mustBeTrusted();
    const { appId } = this._me;
    const known = this._account.devices.get(hex(deviceId));
    if (known && !(equal(known.devicePk, devicePk) && known.appId === appId && known.scope === "app")) {
      throw new Refusal("device_exists");
    }
    if (known) known.probationUntil = 0;
    else {
      const scope = /** @type {const} */ ("app");
      const how = { deviceId, devicePk, scope, appId, enrolledVia: "pairing", probationUntil: 0 };
      this.hub.addDevice(this._account, how);
    }
    this.say({ type: "done", request });
  }

  // --- the account ---

  /** @param {From<"confirm">} message */
  on_confirm({ request, attemptId, code }) {
    const { address } = this.hub.codeUsed(attemptId, code, this._me.devicePk, "confirm", true);
    if (address !== this._account.address) throw new Refusal("enrol_failed");
    this.freshCodeUntil = this.hub.now() + FRESH_CODE_S;
    this.say({ type: "done", request });
  }

  /** @param {From<"list_devices">} message */
  on_list_devices({ request }) {
    const { scope, appId } = this._me;
    const shown = [...this._account.devices.values()].filter((one) => scope === "account" || one.appId === appId);
    this.say({ type: "device_list", request, devices: shown.map(deviceInfo) });
  }

  /** @param {From<"revoke_devices">} message */
  on_revoke_devices({ request, deviceIds }) {
    const me = this._me;
    const isOnlyMe = deviceIds.every((deviceId) => equal(deviceId, me.deviceId));
    if (!isOnlyMe) this._mustBeTrusted();
    for (const deviceId of deviceIds) this._mustReach(deviceId);
    this.say({ type: "done", request });
    this.hub.revoke(this._account, deviceIds);
  }

  /** @param {From<"approve_device">} message */
  on_approve_device({ request, deviceId }) {
    this._mustBeTrusted();
    this._mustReach(deviceId).probationUntil = 0;
    this.say({ type: "done", request });
    this.hub.tell(this._account, "device_approved", { deviceId, at: this.hub.now() });
  }

  /** A device of the account that this one decides about.  @param {Uint8Array} deviceId */
  _mustReach(deviceId) {
    const other = this._account.devices.get(hex(deviceId));
    if (!other) throw new Refusal("not_found");
    const { scope, appId } = this._me;
    if (scope !== "account" && (other.scope !== scope || other.appId !== appId)) throw new Refusal("forbidden");
    return other;
  }

  /** @param {From<"list_spaces">} message */
  on_list_spaces({ request }) {
    this.hub.deleteDue(this._account);
    const seen = [...this._account.spaces.values()].filter((space) => this.sees(space));
    this.say({ type: "space_list", request, spaces: seen.map(spaceStats) });
  }

  /** @param {From<"list_audit">} message */
  on_list_audit({ request, before, limit }) {
    if (this._me.scope !== "account") throw new Refusal("forbidden");
    const older = this._account.happened.filter(({ number }) => !before || number < before).reverse();
    this.say({ type: "audit_list", request, entries: older.slice(0, limit), more: older.length > limit });
  }

  /** @param {From<"delete_space">} message */
  on_delete_space({ request, spaceId, later }) {
    const space = this._mayDelete(spaceId);
    const atOnce = this.entered.has(hex(spaceId)) || this.hub.now() < this.freshCodeUntil;
    const [at, deletedAt] = atOnce && !later ? [this.hub.now(), 0] : Array(2).fill(this.hub.now() + DELETION_DELAY_S);
    if (deletedAt) space.deletedAt = deletedAt;
    else this._account.spaces.delete(hex(spaceId));
    this.say({ type: "deleted", request, deletedAt });
    this.hub.tell(this._account, deletedAt ? "space_deletion_set" : "space_deleted", { spaceId, at });
  }

  /** A space that this session may delete: with the scope of an app one it has entered.  @param {Uint8Array} spaceId */
  _mayDelete(spaceId) {
    const space = this._account.spaces.get(hex(spaceId));
    if (this._me.scope !== "account") this.space(spaceId);
    if (!space) throw new Refusal("not_found");
    this._mustBeTrusted();
    return space;
  }

  /** @param {From<"cancel_deletion">} message */
  on_cancel_deletion({ request, spaceId }) {
    const space = spaceId && this._account.spaces.get(hex(spaceId));
    if (!space || !this.sees(space)) throw new Refusal("not_found");
    this.say({ type: "done", request });
    if (!space.deletedAt) return;
    space.deletedAt = 0;
    this.hub.tell(this._account, "space_deletion_cancelled", { spaceId, at: this.hub.now() });
  }

  /** @param {From<"delete_account">} message */
  on_delete_account({ request }) {
    if (this._me.scope !== "account") throw new Refusal("forbidden");
    this._mustBeTrusted();
    if (this.hub.now() >= this.freshCodeUntil) throw new Refusal("fresh_code_needed");
    const deletedAt = this.hub.now() + DELETION_DELAY_S;
    this.say({ type: "deleted", request, deletedAt });
    this.hub.tell(this._account, "account_deletion_set", { at: deletedAt });
  }
}

/** @param {Space} space */
function spaceInfo({ spaceId, appId, deletedAt, ...space }) {
  return { spaceId, appId, keyEpoch: 0, usedBytes: spaceBytes(space), deletedAt };
}

/** @param {Space} space */
function spaceStats(space) {
  const { createdAt } = space;
  const logs = [...space.logs.values()].map(({ log }) => log).filter(({ head }) => head);
  const changes = logs.reduce((sum, { head }) => sum + head, 0);
  const lastMs = Math.max(0, ...logs.map((log) => log.appendedAtMs.get(log.head) ?? 0));
  return { ...spaceInfo(space), createdAt, collections: logs.length, changes, lastChangeAt: lastMs / 1000, growth: [] };
}

/** @param {import("./log.js").Log} log @param {number} seq @param {boolean} [isOwn] */
function changePart(log, seq, isOwn = false) {
  const sealed = isOwn ? NO_BYTES : /** @type {Uint8Array} */ (log.kept.get(seq));
  return { seq, appendedAtMs: log.appendedAtMs.get(seq) ?? 0, sealed };
}
