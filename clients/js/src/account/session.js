/**
 * One device's talk with its account, without I/O: from hello over ready to the end of the line, and the next one.
 *
 * It is what `connection.js` keeps connected where there is no engine: it proves the
 * device, asks what it is told to ask and hands the answers out.  It keeps no data and
 * seals nothing; what it is sent of a collection goes out as it came.
 */

import { concat, equal } from "../bytes.js";
import { AccountChanged, Answered, Hangup, Moved, Send, Sign } from "../effects.js";
import { assert } from "../errors.js";
import { addressOrNone } from "../hub_url.js";
import { proofMessage } from "../signing.js";
import { LIMITS, PROTOCOL_VERSION } from "../terms.js";
import { decodeFromHub, encode, UnknownMessage } from "../wire/codec.js";

/** @typedef {import("../connection.js").Closed} Closed */
/** @typedef {import("../effects.js").Effect} Effect */
/** @typedef {import("../device.js").Identity} Identity */
/** @typedef {import("../terms.js").Now} Now */
/** @typedef {import("../wire/messages.js").FromHub} Message */
/** @typedef {import("../wire/messages.js").Ready} Ready */
/** @typedef {(number: number) => import("../wire/messages.js").ToHub} Make gives the request of this number */

export const DEAD_AFTER_S = 10.0; // a ping of ours, or hello, without any frame in answer
export const LEAVE_WITHIN_S = 10.0; // what a hub that goes away has not answered by then is asked again of another

const NOTHING = /** @type {Uint8Array} */ (new Uint8Array(0));

/** What of the account's state a notice changes in what `ready` said; the rest is asked for. */
const NOTED = /** @type {Record<string, (ready: Ready, at: number) => void>} */ ({
  account_deletion_set: (ready, at) => void (ready.accountDeletedAt = at),
  account_deletion_cancelled: (ready) => void (ready.accountDeletedAt = 0),
  address_changed: (ready) => void (ready.addressKnown = true),
});

/** The connections of one device, one after the other.  Calls that end in effects return those to carry out. */
export class AccountSession {
  /** @param {Identity} identity @param {(size: number) => Uint8Array} fresh gives that many random bytes */
  constructor(identity, fresh) {
    /** What `Connection` knows of a device: whom to dial, and where to say what went wrong. */
    this.device = { identity, error: "" };
    /** What the hub last said of this device and its account; kept over a lost line. @type {Ready | null} */
    this.ready = null;
    /** Why the hub wants this device not to come back by itself. @type {Closed | null} */
    this.ended = null;
    /** Where the account lives now, as the hub said, canonical; empty: here. */
    this.movedTo = "";
    this.onLine = false;
    this.failed = false; // no line came about, or the last one was lost; not when the hub only restarts
    this._fresh = fresh;
    this._tokens = 0;
    this._requests = 0;
    /** Asked on the line that stands, and not answered. @type {Set<number>} */
    this.waiting = new Set();
    this._line = lineAt(0);
  }

  /** Whether the hub knows this device on the line that stands. */
  get inSession() {
    return this._line.isReady && !this._line.hungUp;
  }

  /** Whether something new may be asked now. */
  get mayAsk() {
    return this.inSession && this._line.leaveBy === null;
  }

  /** The same device before its next line: what the hub said of it is kept, the line that stands is not its own. */
  next() {
    const next = new AccountSession(this.device.identity, this._fresh);
    return Object.assign(next, { ready: this.ready, ended: this.ended, movedTo: this.movedTo });
  }

  /**
   * The bytes whose signature proves on this line that the device holds a space's key.
   *
   * @param {Uint8Array} spaceId
   */
  spaceProof(spaceId) {
    return this._proof("space", concat(this._line.challenge, spaceId));
  }

  /**
   * Ask the hub something while `mayAsk`; the answer comes as `Answered`.
   *
   * @param {Make} make
   * @returns {[number, Effect[]]}
   */
  request(make) {
    assert(this.mayAsk, "asked without a session");
    this._requests += 1;
    this.waiting.add(this._requests);
    return [this._requests, [new Send(encode(make(this._requests)))]];
  }

  // --- what the connection calls ---

  /** The line stands.  @param {Now} now @returns {Effect[]} */
  connected(now) {
    this._begin(now.steady);
    this.onLine = true;
    this.failed = false;
    const { deviceId } = this.device.identity;
    this._line.hello = encode({ type: "hello", v: [PROTOCOL_VERSION], deviceId, clientNonce: this._fresh(32) });
    return [new Send(this._line.hello), new Moved()];
  }

  /**
   * The line is gone, or there was none; nothing that was asked is answered any more.
   *
   * @param {string} [blocked] @param {{ restarting?: boolean, closed?: Closed | null }} [how]
   * @returns {Effect[]}
   */
  disconnected(blocked = "", { restarting = false, closed = null } = {}) {
    this.failed = !this.onLine || !(restarting || this._line.leaveBy !== null);
    this._begin(0);
    if (blocked) this.ended = closed;
    return [new Moved()];
  }

  /** The signature that `Sign` asked for.  @param {number} token @param {Uint8Array} signature @returns {Effect[]} */
  signed(token, signature) {
    return token === this._tokens && this.onLine && !this._line.hungUp ? [new Send(encode({ type: "auth", signature }))] : [];
  }

  /** A frame has come.  @param {Uint8Array} frame @param {Now} now @returns {Effect[]} */
  received(frame, now) {
    if (this._line.hungUp) return [];
    this._line.lastReceived = now.steady;
    this._line.pingSentAt = null;
    let message;
    try {
      message = decodeFromHub(frame);
    } catch (error) {
      if (error instanceof UnknownMessage) return []; // a later hub may say more than this program understands
      if (!(error instanceof RangeError)) throw error;
      return this._hangUp(`the hub sent what is no message: ${error.message}`);
    }
    return [...this._dispatch(message, frame, now), ...this._leaveWhenAnswered()];
  }

  /** When `timerFired` wants to be called, in steady time; null without a line. */
  timer() {
    if (!this.onLine || this._line.hungUp) return null;
    return Math.min(this._silenceEnds(), this._line.leaveBy ?? Infinity);
  }

  /** Something is due.  @param {Now} now @returns {Effect[]} */
  timerFired(now) {
    if (!this.onLine || this._line.hungUp) return [];
    if (this._line.leaveBy !== null && this._line.leaveBy <= now.steady) return this._leave();
    if (this._silenceEnds() > now.steady) return [];
    if (this._line.pingSentAt !== null || !this._line.isReady) return this._hangUp("the hub does not answer");
    this._line.pingSentAt = now.steady;
    return this.askHeads();
  }

  /** Have the hub show that it is there.  @returns {Effect[]} */
  askHeads() {
    return this.inSession ? [new Send(encode({ type: "ping" }))] : [];
  }

  // --- inside ---

  /** Nothing of the last line is left.  @param {number} steady */
  _begin(steady) {
    this.onLine = false;
    this._line = lineAt(steady);
    this.waiting.clear();
  }

  _silenceEnds() {
    if (this._line.pingSentAt !== null) return this._line.pingSentAt + DEAD_AFTER_S;
    return this._line.lastReceived + (this._line.isReady ? this._line.heartbeatS : DEAD_AFTER_S);
  }

  _leaveWhenAnswered() {
    return this._line.leaveBy !== null && !this.waiting.size && !this._line.hungUp ? this._leave() : [];
  }

  _leave() {
    return this._hangUp("the hub is restarting", { afterS: this._line.comeBackAfterS, politely: true });
  }

  /**
   * @param {string} reason @param {{ afterS?: number, politely?: boolean }} [more]
   * @returns {Effect[]}
   */
  _hangUp(reason, more = {}) {
    this._line.hungUp = true;
    return [new Hangup(reason, more), new Moved()];
  }

  /** @param {"auth" | "space"} purpose @param {Uint8Array} challenge */
  _proof(purpose, challenge) {
    return proofMessage(purpose, this.device.identity.hubUrl, this._line.hello, challenge);
  }

  /** @param {Message} message @param {Uint8Array} frame @param {Now} now @returns {Effect[]} */
  _dispatch(message, frame, now) {
    switch (message.type) {
      case "challenge":
        this._line.challenge = frame;
        this._tokens += 1;
        return [new Sign("auth", this._proof("auth", frame), this._tokens)];
      case "ready":
        this._line.isReady = true;
        this._line.heartbeatS = message.heartbeatS || this._line.heartbeatS;
        this.ready = message;
        return [new Moved()];
      case "ping":
        return [new Send(encode({ type: "pong" }))];
      case "account_notice":
        return this._noticed(message);
      case "moved":
        this.movedTo = addressOrNone(message.url);
        return [new Moved()];
      case "going_away":
        this._line.leaveBy ??= now.steady + LEAVE_WITHIN_S;
        this._line.comeBackAfterS = message.retryAfterS;
        return [new Moved()];
      default:
        return this._answered(message);
    }
  }

  /** @param {import("../wire/messages.js").AccountNotice} notice @returns {Effect[]} */
  _noticed(notice) {
    if (this.ready) {
      NOTED[notice.what]?.(this.ready, notice.at);
      const isMe = equal(notice.deviceId, this.device.identity.deviceId);
      if (isMe && notice.what === "device_approved") this.ready.probationUntil = 0;
    }
    return [new AccountChanged(notice), new Moved()];
  }

  /** What is no answer to a request goes out with number 0: a page of changes.  @param {Message} message */
  _answered(message) {
    const number = "request" in message ? message.request : 0;
    if (number && this.waiting.delete(number)) return [new Answered(number, message)];
    if (message.type === "refused" && !this._line.isReady) {
      return this._hangUp(message.message, { afterS: message.retryAfterS }); // auth has no number
    }
    return number ? [] : [new Answered(0, message)];
  }
}

/** What is known of one line and forgotten with it.  @param {number} steady when it came up */
function lineAt(steady) {
  return {
    isReady: false,
    hungUp: false,
    hello: NOTHING,
    challenge: NOTHING,
    heartbeatS: /** @type {number} */ (LIMITS.heartbeatS),
    lastReceived: steady,
    pingSentAt: /** @type {number | null} */ (null),
    leaveBy: /** @type {number | null} */ (null), // the hub goes away: nothing new is asked, and this is the end
    comeBackAfterS: 0,
  };
}
