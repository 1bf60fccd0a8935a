/**
 * One connection with the hub from hello until the line is cut, without I/O.
 *
 * It goes: hello, challenge, then at once auth, enter and subscribe without waiting
 * for the answers; then changes come in and drafts go out, both at the same time.
 * Nothing here outlives the connection; what must is the `Device`'s.
 *
 * Signing is the only step that somebody else takes: `Sign` goes out, and what has to
 * wait for the signature goes on in `signed`.
 */

import { Backoff } from "./backoff.js";
import { concat, equal, hex } from "./bytes.js";
import { ALARMS } from "./check.js";
import { AccountChanged, Answered, Moved, PairingCame, Send, Sign, SignalCame, Wiped } from "./effects.js";
import { ANOTHER_ACCOUNT, REFUSALS, assert } from "./errors.js";
import { addressOrNone } from "./hub_url.js";
import { openSignal } from "./signals.js";
import { proofMessage } from "./signing.js";
import { ID_BYTES, LIMITS, PROTOCOL_VERSION, limitsTold } from "./terms.js";
import { encode } from "./wire/codec.js";
import { NONCE_BYTES } from "./wire/header.js";

/** @typedef {import("./collection.js").LocalCollection} LocalCollection */
/** @typedef {import("./device.js").Device} Device */
/** @typedef {import("./intake.js").Intake} Intake */
/** @typedef {import("./outbox.js").InFlight} InFlight */
/** @typedef {import("./terms.js").Now} Now */
/** @typedef {import("./wire/messages.js").FromHub} Message */
/** @typedef {(number: number) => import("./wire/messages.js").ToHub} Make gives the request of this number */
/** @typedef {(answer: Message, now: Now) => void} Handler what to do with the answer, which may be `refused` */

export const APPENDS_IN_FLIGHT_MAX = 2; // one being committed, one on the way; more only fills queues
export const DEAD_AFTER_S = 10.0; // a ping of ours, or hello, without any frame in answer
export const STALLED_AFTER_S = 60.0; // work to do, and none done
export const LAGGING_AFTER_S = 15.0; // the hub told a higher head and sends nothing: ask again
export const WITNESS_AFTER_ACKS_S = 2.0;
export const WITNESS_AFTER_CHANGES_S = 5.0; // later than the writer's own, so that a burst costs each device one
export const HOLD_S = 2.0; // after a refusal that says "later" without saying when
export const HOLD_LONG_S = 60.0; // after a refusal that only time or a person can help
export const LEAVE_WITHIN_S = 10.0; // what a hub that goes away has not answered by then is sent again to another

/** What is known of one connection and forgotten with it. */
export class Conversation {
  /**
   * @param {Device} device
   * @param {Now} now
   * @param {number} heartbeatS
   */
  constructor(device, now, heartbeatS) {
    this.entered = false;
    this.done = 0; // changes received and appended since there was nothing to do
    /** @type {Set<number>} */
    this.following = new Set();
    this._device = device;
    const { deviceId, hubUrl } = device.identity;
    this.hubUrl = hubUrl; // that of this line: the device may have gone elsewhere since
    this._hello = encode({ type: "hello", v: [PROTOCOL_VERSION], deviceId, clientNonce: device.fresh(32), heartbeatS });
    /** @type {Uint8Array} */
    this._challenge = new Uint8Array(0);
    /** @type {import("./terms.js").Limits} */
    this._limits = LIMITS;
    /** @type {import("./wire/messages.js").Received<"ready"> | null} */
    this._ready = null;
    this._entering = false; // enter or create_space is being signed, or sent and not answered
    this._requests = 0;
    /** @type {Map<number, Handler>} */
    this._waiting = new Map();
    /** @type {Map<number, (signature: Uint8Array) => void>} what goes on with a signature, by its token */
    this._signing = new Map();
    this._appends = 0;
    /** @type {Set<number>} collections with a subscribe on the way */
    this._asked = new Set();
    this._listing = false; // the hub has been asked what there is
    /** @type {Map<number, number>} */
    this._heads = new Map();
    /** @type {Map<number, number>} heads to be confirmed once reached */
    this._told = new Map();
    /** @type {Map<number, number>} our cursors at the hub's last ping */
    this._floors = new Map();
    this._heartbeatS = heartbeatS || LIMITS.heartbeatS;
    this._lastReceived = now.steady;
    this._lastProgress = now.steady;
    /** @type {number | null} */
    this._pingSentAt = null;
    /** @type {number | null} */
    this._laggingSince = null;
    this._holdUntil = 0; // nothing is appended before
    this._quotaUntil = 0; // what was over quota is not tried again before
    this._usedBytes = 0; // of the account, when it was full
    /** @type {Set<number>} collections with a witness on the way */
    this._witnessing = new Set();
    this._refusals = new Backoff(); // of append requests in a row
    /** @type {number | null} the hub goes away: nothing new is asked, and this is the end */
    this._leaveBy = null;
    this._comeBackAfterS = 0;
    this._send(this._hello);
  }

  /** Whether the hub knows the device and answers it. */
  get ready() {
    return this._ready !== null && !this._device.hungUp;
  }

  /** Whether anything new may be asked: not of a hub that goes away. */
  get mayAsk() {
    return this._leaveBy === null && !this._device.hungUp;
  }

  /** Whether there is more in the log than here, or may be. */
  get isCatchingUp() {
    return this._listing || this._asked.size > 0 || [...this.following].some((n) => this._isBehind(n));
  }

  /** How many changes are still to come, at most. */
  get remaining() {
    let sum = 0;
    for (const [n, head] of this._heads) sum += Math.max(0, head - this._row(n).seq);
    return sum;
  }

  /**
   * A message has come, in this frame.
   * @param {Message} message
   * @param {Uint8Array} frame
   * @param {Now} now
   */
  received(message, frame, now) {
    this._lastReceived = now.steady;
    this._pingSentAt = null;
    if (!this._hasWork()) {
      this._lastProgress = now.steady;
      this.done = 0;
    }
    this._dispatch(message, frame, now);
    this.flush(now);
    this._leaveWhenAnswered();
  }

  /**
   * The signature that was asked for is there.
   * @param {number} token
   * @param {Uint8Array} signature
   */
  signed(token, signature) {
    const goOn = this._signing.get(token);
    this._signing.delete(token);
    if (goOn && !this._device.hungUp) goOn(signature);
  }

  /** Sync is wanted, perhaps on a line that came up without. */
  begin() {
    if (this.ready && this.mayAsk && !this.entered && !this._entering && this._wantsToSync()) this._enterOrCreate();
  }

  /**
   * Send a request; its number.  Without `handle` its answer becomes the effect `Answered`.
   *
   * Nothing is sent while `mayAsk` is false: the line is about to end, and the next one asks anew.
   * @param {Make} make
   * @param {Handler} [handle]
   * @returns {number}
   */
  ask(make, handle) {
    this._requests += 1;
    const number = this._requests;
    if (this.mayAsk) {
      this._waiting.set(number, handle ?? ((answer) => this._handToApp(number, answer)));
      this._send(encode(make(number)));
    }
    return number;
  }

  /**
   * Send what is answered only when it is refused.
   * @param {Make} make
   */
  say(make) {
    this._requests += 1;
    if (this.mayAsk) this._send(encode(make(this._requests)));
  }

  /** Have the hub tell its heads. */
  askHeads() {
    this._send(encode({ type: "ping" }));
  }

  // --- time ---

  /**
   * When `timerFired` wants to be called, in steady time.
   * @returns {number}
   */
  timer() {
    const times = [this._silenceEnds()];
    if (this._leaveBy !== null) {
      times.push(this._leaveBy);
    } else if (this.entered) {
      times.push(...this._device.witnessDue.values());
      times.push(...[this._holdUntil, this._quotaUntil].filter((due) => due));
      if (this._hasWork()) times.push(this._lastProgress + STALLED_AFTER_S);
      if (this._laggingSince !== null) times.push(this._laggingSince + LAGGING_AFTER_S);
    }
    return Math.min(...times);
  }

  /**
   * Something is due.
   * @param {Now} now
   */
  timerFired(now) {
    if (this._silenceEnds() <= now.steady) {
      if (this._pingSentAt !== null || this._ready === null) {
        this._device.hangUp("the hub does not answer");
        return;
      }
      this._pingSentAt = now.steady;
      this.askHeads();
    }
    if (this._leaveBy !== null && this._leaveBy <= now.steady) this._leave();
    if (!this.entered || !this.mayAsk) return;
    if (this._hasWork() && this._lastProgress + STALLED_AFTER_S <= now.steady) {
      this._device.hangUp("there is work and nothing moves");
      return;
    }
    this._endWaits(now);
    const due = [...this._device.witnessDue].filter(([, at]) => at <= now.steady);
    for (const [n] of due) this.witness(n, now);
    this.flush(now);
  }

  /** @param {Now} now */
  _endWaits(now) {
    if (this._holdUntil <= now.steady) this._holdUntil = 0;
    if (this._quotaUntil && this._quotaUntil <= now.steady) this._roomAgain();
    if (this._laggingSince !== null && this._laggingSince + LAGGING_AFTER_S <= now.steady) {
      const behind = inOrder(this.following).filter((n) => this._isBehind(n));
      this._laggingSince = behind.length ? now.steady : null;
      this._subscribe(behind.map((n) => this._device.collection(n)));
    }
  }

  _silenceEnds() {
    if (this._pingSentAt !== null) return this._pingSentAt + DEAD_AFTER_S;
    return this._lastReceived + (this._ready ? this._heartbeatS : DEAD_AFTER_S);
  }

  _leaveWhenAnswered() {
    if (this._leaveBy !== null && !this._waiting.size && !this._device.hungUp) this._leave();
  }

  _leave() {
    this._device.hangUp("the hub is restarting", { afterS: this._comeBackAfterS, politely: true });
  }

  _hasWork() {
    return this._appends > 0 || this.isCatchingUp;
  }

  // --- messages ---

  /**
   * @param {Message} message
   * @param {Uint8Array} frame
   * @param {Now} now
   */
  _dispatch(message, frame, now) {
    switch (message.type) {
      case "challenge":
        this._onChallenge(message, frame);
        break;
      case "ready":
        this._onReady(message);
        break;
      case "changes":
        this._onChanges(message, now);
        break;
      case "ping":
        this._send(encode({ type: "pong" }));
        this._onHeads(message.heads, now, { paced: true });
        break;
      case "pong":
      case "heads":
        this._onHeads(message.heads, now);
        break;
      case "witnesses":
        this._onWitnesses(message, now);
        break;
      case "signal":
        this._onSignal(message);
        break;
      case "pairing":
        this._device.effects.push(new PairingCame(message.channel, message.body));
        break;
      case "account_notice":
        this._device.effects.push(new AccountChanged(message));
        break;
      case "moved":
        this._device.isMoved(addressOrNone(message.url));
        break;
      case "going_away":
        this._onGoingAway(message, now);
        break;
      default:
        this._onAnswer(message, now);
    }
  }

  /**
   * @param {Message} message
   * @param {Now} now
   */
  _onAnswer(message, now) {
    const number = "request" in message ? message.request : 0;
    const handle = this._waiting.get(number);
    this._waiting.delete(number);
    if (handle) {
      handle(message, now);
    } else if (message.type === "refused" && this._ready === null) {
      // Auth has no number.
      this._device.hangUp(message.message, { afterS: message.retryAfterS });
    } else if (message.type === "refused") {
      // Of a request that was answered before, or needed no answer: a pairing may end so.
      this._handToApp(number, message);
    }
  }

  /**
   * @param {number} number
   * @param {Message} answer
   */
  _handToApp(number, answer) {
    this._device.effects.push(new Answered(number, answer));
  }

  /**
   * @param {import("./wire/messages.js").Received<"going_away">} message
   * @param {Now} now
   */
  _onGoingAway(message, now) {
    if (this._leaveBy !== null) return;
    this._leaveBy = now.steady + LEAVE_WITHIN_S;
    this._comeBackAfterS = message.retryAfterS;
    this._device.leaving = true;
    this._device.effects.push(new Moved());
  }

  // --- handshake ---

  /**
   * @param {import("./wire/messages.js").Received<"challenge">} message
   * @param {Uint8Array} frame
   */
  _onChallenge(message, frame) {
    this._challenge = frame;
    this._limits = limitsTold(message.limits);
    this._sign("auth", frame, (signature) => {
      this._send(encode({ type: "auth", signature }));
      if (this._wantsToSync() && this._device.storage.setting("space_known") !== null) this._enter();
    });
  }

  /**
   * Have this connection's proof made, and go on with it.
   * @param {"auth" | "space"} purpose
   * @param {Uint8Array} challenge
   * @param {(signature: Uint8Array) => void} goOn
   */
  _sign(purpose, challenge, goOn) {
    const device = this._device;
    const token = device.nextToken();
    this._signing.set(token, goOn);
    const proof = proofMessage(purpose, device.identity.hubUrl, this._hello, challenge);
    device.effects.push(new Sign(purpose, proof, token));
  }

  _wantsToSync() {
    return this._device.keys !== null && this._device.mode !== "off";
  }

  /** @param {import("./wire/messages.js").Received<"ready">} message */
  _onReady(message) {
    if (this._device.isAnothers(message)) {
      this._device.block(ANOTHER_ACCOUNT);
      this._device.hangUp(ANOTHER_ACCOUNT, { retry: false });
      return;
    }
    this._ready = message;
    this._heartbeatS = message.heartbeatS || this._heartbeatS;
    this._device.isReady(message);
    this.begin();
  }

  _enterOrCreate() {
    const device = this._device;
    const spaces = this._ready ? this._ready.spaces : [];
    const others = spaces.some((space) => space.appId === device.identity.appId);
    if (spaces.some((space) => equal(space.spaceId, device.spaceId))) {
      this._enter();
    } else if (others && device.storage.setting("may_create") === null) {
      device.block("this key belongs to none of the account's spaces of this app");
      device.hangUp("wrong key", { retry: false });
    } else {
      this._create();
    }
  }

  _enter() {
    this._proveSpace((keys, signature) => {
      const proof = { spaceId: keys.spaceId, keyEpoch: keys.keyEpoch, signature };
      this.ask((request) => ({ type: "enter", request, spaces: [proof] }), this._onEntered.bind(this));
      // Without waiting for the answer: coming back costs one round trip, however many collections there are.
      this._askWhatThereIs();
      this._subscribe([...this._device.collections.values()]);
    });
  }

  _create() {
    this._proveSpace(({ spaceId, spacePk }, signature) => {
      const { appId } = this._device.identity;
      this.ask(
        (request) => ({ type: "create_space", request, spaceId, appId, spacePk, signature }),
        this._onEntered.bind(this),
      );
    });
  }

  /** @param {(keys: import("./keys.js").SpaceKeys, proof: Uint8Array) => void} goOn */
  _proveSpace(goOn) {
    const { keys } = this._device;
    assert(keys !== null, "a space is entered with its key");
    this._entering = true;
    this._sign("space", concat(this._challenge, keys.spaceId), (signature) => goOn(keys, signature));
  }

  /**
   * @param {Message} answer
   * @param {Now} now
   */
  _onEntered(answer, now) {
    const device = this._device;
    const ready = this._ready;
    assert(ready !== null, "the hub let in whom it does not know");
    this._entering = false;
    if (answer.type === "refused") {
      this._notEntered(answer, now);
      return;
    }
    this.entered = true;
    this._lastProgress = now.steady;
    device.error = "";
    device.transaction(() => {
      device.storage.setSetting("space_known", YES);
      device.storage.setSetting("incarnation", ready.incarnation);
      if (answer.type === "entered") device.knowSpaces(answer.spaces);
    });
    // Those that were asked for before the space was there.
    this.follow([...device.collections.values()]);
    device.effects.push(new Moved());
  }

  /**
   * @param {import("./wire/messages.js").Received<"refused">} refused
   * @param {Now} now
   */
  _notEntered(refused, now) {
    const device = this._device;
    const gone = refused.code === "not_found";
    const known = device.storage.setting("incarnation");
    if (gone && known !== null && this._ready && equal(known, this._ready.incarnation)) {
      device.raiseAlarm("emptied", null, ALARMS.emptied, 0, now);
      device.hangUp("the space is gone", { retry: false });
    } else if (gone) {
      // The log was lost, or restored to a time before the space: begin it anew and heal it.
      this._asked.clear();
      this._create();
    } else if (refused.retry) {
      device.hangUp(refused.message, { afterS: refused.retryAfterS });
    } else {
      device.block(`${refused.code}: ${refused.message}`);
      device.hangUp(refused.code, { retry: false });
    }
  }

  // --- following ---

  /**
   * Subscribe to those of these collections that are not followed yet.
   * @param {LocalCollection[]} locals
   */
  follow(locals) {
    if (this.entered) this._subscribe(locals.filter(({ n }) => !this.following.has(n) && !this._asked.has(n)));
  }

  _askWhatThereIs() {
    const { spaceId } = this._device;
    this._listing = true;
    this.ask((request) => ({ type: "collections", request, spaceId }), this._onListed.bind(this));
  }

  /**
   * @param {Message} answer
   * @param {Now} now
   */
  _onListed(answer, now) {
    this._listing = false;
    this._device.effects.push(new Moved());
    if (answer.type !== "collection_list") {
      this._notSubscribed(answer);
      return;
    }
    const device = this._device;
    const known = new Set([...device.collections.values()].map(({ row }) => row.collectionId && hex(row.collectionId)));
    const unknown = answer.collections.filter(({ collectionId }) => !known.has(hex(collectionId)));
    const added = device.transaction(() => {
      const locals = unknown.map(({ collectionId }) => device.add(null, collectionId));
      if (device.mode === "wiping") for (const local of locals) local.addWipe(now.wall);
      return locals;
    });
    for (const local of added) device.admit(local);
    this.follow(added);
  }

  /** @param {LocalCollection[]} locals */
  _subscribe(locals) {
    const wanted = locals.filter((local) => this._device.intakes.has(local.n) && !local.row.alarm);
    const size = this._limits.collectionsPerSubscribeMax;
    for (let at = 0; at < wanted.length; at += size) this._subscribePart(wanted.slice(at, at + size));
  }

  /** @param {LocalCollection[]} locals */
  _subscribePart(locals) {
    const cursors = locals.map(cursorOf);
    /** @type {Map<string, { n: number, answered: number }>} by collection id */
    const asked = new Map();
    locals.forEach(({ n, row }, at) => asked.set(hex(cursors[at].collectionId), { n, answered: row.answered }));
    // Until the answer is here, frames of an earlier subscription do not count.
    for (const { n } of locals) {
      this._asked.add(n);
      this.following.delete(n);
    }
    const { spaceId } = this._device;
    this.ask(
      (request) => ({ type: "subscribe", request, spaceId, cursors }),
      (answer, now) => this._onSubscribed(asked, answer, now),
    );
  }

  /**
   * @param {Map<string, { n: number, answered: number }>} asked
   * @param {Message} answer
   * @param {Now} now
   */
  _onSubscribed(asked, answer, now) {
    for (const { n } of asked.values()) this._asked.delete(n);
    if (answer.type !== "subscribed") {
      this._notSubscribed(answer);
      return;
    }
    this._device.headSeenAt = now.wall;
    this._lastProgress = now.steady;
    for (const part of answer.collections) {
      const question = asked.get(hex(part.collectionId));
      if (question) this._begin(answer.incarnation, part, question, now);
    }
    this._confirmed();
  }

  /**
   * @param {Uint8Array} incarnation
   * @param {import("./wire/messages.js").SubscribedPart} part
   * @param {{ n: number, answered: number }} question
   * @param {Now} now
   */
  _begin(incarnation, part, { n, answered }, now) {
    // What was answered since the question was asked may be missing in the hub's number; it is not lost.
    const counter = part.counter >= answered ? Math.max(part.counter, this._row(n).answered) : part.counter;
    const granted = this._device.grantedSeq(incarnation, part.collectionId);
    if (this._device.guarded(n, now, (intake) => intake.subscribed(incarnation, part.head, counter, granted))) {
      this.following.add(n);
      this._heads.set(n, part.head);
      this._told.set(n, part.head);
      this._arrived(n, now);
    }
  }

  /** @param {Message} answer */
  _notSubscribed(answer) {
    // Before the space is entered it was refused along with the enter, and is asked for again after it.
    if (this.entered && answer.type === "refused") {
      this._device.error = answer.message;
      this._device.hangUp(answer.message, { afterS: answer.retryAfterS || HOLD_S });
    }
  }

  /**
   * @param {import("./wire/messages.js").Received<"changes">} frame
   * @param {Now} now
   */
  _onChanges(frame, now) {
    const device = this._device;
    const n = device.number(frame.spaceId, frame.collectionId);
    if (n === null || !this.following.has(n)) return;
    if (!device.guarded(n, now, (intake) => this._takeOver(intake, frame, now))) {
      this.following.delete(n);
      return;
    }
    this._lastProgress = this._laggingSince = now.steady;
    this.done += frame.changes.length;
    const head = Math.max(this._heads.get(n) ?? 0, frame.head);
    this._heads.set(n, head);
    device.witnessSoon(n, now.steady + WITNESS_AFTER_CHANGES_S);
    if (device.mode === "off") {
      device.effects.push(new Wiped());
      device.hangUp("another device dropped the remote copies", { retry: false });
    } else if (this._row(n).seq >= head) {
      this._arrived(n, now);
    }
    device.effects.push(new Moved());
  }

  /**
   * @param {Intake} intake
   * @param {import("./wire/messages.js").Received<"changes">} frame
   * @param {Now} now
   */
  _takeOver(intake, frame, now) {
    const wipers = intake.page(frame, now.wall);
    const { storage, mode, identity } = this._device;
    if (!wipers.length || mode !== "on") return;
    const byAnother = wipers.some((deviceId) => !equal(deviceId, identity.deviceId));
    if (byAnother && storage.setting("resuming") === null) {
      // In the same transaction: whoever has seen the wipe does not write again before a person says so.
      storage.setSetting("mode", OFF);
      storage.setSetting("wiped", YES);
    } else {
      // The person knows of this wipe, and has switched sync on again since.
      intake.local.requeueUnsent(now.wall);
      intake.local.settle(now.wall);
    }
  }

  /**
   * The cursor may have reached the head that was told.
   * @param {number} n
   * @param {Now} now
   */
  _arrived(n, now) {
    const local = this._device.collection(n);
    if (local.row.seq < (this._heads.get(n) ?? 0) || this._startsOver(n, now)) return;
    const told = this._told.get(n);
    this._told.delete(n);
    const first = !local.row.caughtUp || local.row.healing;
    const arrived = this._device.guarded(n, now, (intake) => {
      if (told === local.row.seq) intake.caughtUp(told);
      local.save({ caughtUp: true });
      if (first) intake.finish(now.wall);
    });
    if (!arrived) {
      this.following.delete(n);
    } else if (local.row.seq !== local.row.witnessSeq) {
      // Whoever waits for this device to say so must not wait for the next change.
      this._device.witnessSoon(n, now.steady + WITNESS_AFTER_CHANGES_S);
    }
    if (![...this.following].some((other) => this._isBehind(other))) this._laggingSince = null;
  }

  /**
   * @param {number} n
   * @param {Now} now
   */
  _startsOver(n, now) {
    let again = false;
    this._device.guarded(n, now, (intake) => {
      again = intake.startOver();
    });
    if (again) this._subscribe([this._device.collection(n)]);
    return again;
  }

  /** @param {number} n */
  _isBehind(n) {
    const row = this._row(n);
    return !row.alarm && (row.seq < (this._heads.get(n) ?? 0) || !row.caughtUp);
  }

  /**
   * @param {import("./wire/messages.js").HeadPart[]} heads
   * @param {Now} now
   * @param {{ paced?: boolean }} [how]
   */
  _onHeads(heads, now, { paced = false } = {}) {
    for (const part of heads) {
      const n = this._device.number(part.spaceId, part.collectionId);
      if (n !== null && this.following.has(n)) this._onHead(n, part.head, now, paced);
    }
    this._device.headSeenAt = now.wall;
    this._confirmed();
  }

  /**
   * @param {number} n
   * @param {number} head
   * @param {Now} now
   * @param {boolean} paced
   */
  _onHead(n, head, now, paced) {
    const { seq } = this._row(n);
    // The hub looked the head up a while ago; only what we had at its last ping is surely older than that.
    if (paced && head < (this._floors.get(n) ?? 0)) {
      if (!this._device.guarded(n, now, (intake) => intake.check.headSeen(head))) this.following.delete(n);
      return;
    }
    if (paced) this._floors.set(n, seq);
    this._heads.set(n, Math.max(this._heads.get(n) ?? 0, head));
    if (head === seq) {
      this._told.set(n, head);
      this._arrived(n, now);
    } else if (head > seq && this._laggingSince === null) {
      this._laggingSince = now.steady;
    }
  }

  _confirmed() {
    const device = this._device;
    if (!this._asked.size) device.confirmations += 1;
    if (!this.isCatchingUp && device.storage.setting("resuming") !== null) {
      device.transaction(() => device.storage.setSetting("resuming", null));
    }
    device.effects.push(new Moved());
  }

  // --- sending ---

  /**
   * Keep the window of append requests full.
   * @param {Now} now
   */
  flush(now) {
    const device = this._device;
    const { outbox } = device;
    if (!this.entered || !this.mayAsk || outbox === null || device.mode === "off") return;
    if (this._holdUntil > now.steady) return;
    while (this._appends < APPENDS_IN_FLIGHT_MAX) {
      const eligible = [...device.collections.keys()].filter((n) => this._maySend(n));
      const batch = eligible.length ? device.transaction(() => outbox.nextBatch(eligible, this._limits)) : null;
      if (batch === null) return;
      if (!this._hasWork()) this._lastProgress = now.steady;
      this._appends += 1;
      this._append(batch.drafts, batch.flights);
    }
  }

  /**
   * @param {Uint8Array[]} drafts
   * @param {InFlight[]} flights
   */
  _append(drafts, flights) {
    const { spaceId } = this._device;
    this.ask(
      (request) => ({ type: "append", request, spaceId, drafts }),
      (answer, now) => this._onAppended(flights, answer, now),
    );
  }

  /**
   * Whether a collection's edits may go out: the log is known, so that conflicts are met here and not there.
   * @param {number} n
   */
  _maySend(n) {
    const row = this._row(n);
    if (row.alarm || !this._device.intakes.has(n) || !row.caughtUp || row.healing) return false;
    // In the life of the log we know, nothing that subscribe answers can change what is sent.
    const sameLife = this._ready !== null && equal(this._ready.incarnation, row.incarnation);
    return this.following.has(n) || (this._asked.has(n) && sameLife);
  }

  /**
   * @param {InFlight[]} flights
   * @param {Message} answer
   * @param {Now} now
   */
  _onAppended(flights, answer, now) {
    const device = this._device;
    const { outbox } = device;
    assert(outbox !== null, "drafts were sent without an outbox");
    this._appends -= 1;
    this._lastProgress = now.steady;
    if (answer.type !== "appended" || answer.answers.length !== flights.length) {
      outbox.unanswered(flights);
      this._appendRefused(answer, now);
      return;
    }
    this._refusals = new Backoff();
    this._noteAcks(flights, answer, now);
    const codes = device.transaction(() => {
      const heard = outbox.answered(flights, answer.answers);
      for (const n of new Set(flights.map((flight) => flight.collection))) device.collection(n).settle(now.wall);
      return heard;
    });
    if (device.usage) device.usage.usedBytes = Number(answer.usedBytes);
    if (outbox.overQuota && answer.usedBytes < this._usedBytes) this._roomAgain();
    for (const code of new Set(codes)) this._draftRefused(code, answer, now);
    device.effects.push(new Moved());
  }

  /**
   * @param {InFlight[]} flights
   * @param {import("./wire/messages.js").Received<"appended">} answer
   * @param {Now} now
   */
  _noteAcks(flights, answer, now) {
    const device = this._device;
    flights.forEach((flight, at) => {
      const { seq } = answer.answers[at];
      if (!seq) return;
      this.done += 1;
      device.lastAppendedAt = now.wall;
      device.witnessSoon(flight.collection, now.steady + WITNESS_AFTER_ACKS_S);
      const row = device.storage.row(flight.n);
      if (row) device.rememberAck(row.changeId, flight.collection, seq);
    });
  }

  /**
   * @param {Message} answer
   * @param {Now} now
   */
  _appendRefused(answer, now) {
    const device = this._device;
    if (answer.type !== "refused") {
      device.hangUp("the hub answered something else than was asked");
      return;
    }
    let waitS = HOLD_LONG_S;
    if (answer.retry) {
      // Many devices were refused at the same moment; they should not all be back at the next.
      waitS = this._refusals.lost(now.steady, device.draw(), answer.retryAfterS || HOLD_S);
    }
    device.error = answer.retry ? "" : answer.message;
    this._holdUntil = Math.max(this._holdUntil, now.steady + waitS);
  }

  /**
   * @param {string} code
   * @param {import("./wire/messages.js").Received<"appended">} answer
   * @param {Now} now
   */
  _draftRefused(code, answer, now) {
    const device = this._device;
    if (code === "quota_exceeded") {
      this._quotaUntil = now.steady + HOLD_LONG_S;
      this._usedBytes = answer.usedBytes;
      return;
    }
    device.error = Object.hasOwn(REFUSALS, code) ? REFUSALS[code].message : code;
    if (code === "device_cloned" || code === "stale_key_epoch") {
      device.block(`${code}: ${device.error}`);
      device.hangUp(code, { retry: false });
    } else if (code !== "too_large" && code !== "bad_draft") {
      this._holdUntil = now.steady + HOLD_LONG_S;
    }
  }

  _roomAgain() {
    this._quotaUntil = 0;
    this._device.outbox?.roomAgain();
  }

  // --- witnesses and signals ---

  /**
   * State what this device has of a collection, when there is something new to state.
   * @param {number} n
   * @param {Now} now
   */
  witness(n, now) {
    const device = this._device;
    device.witnessDue.delete(n);
    const intake = device.intake(n);
    const { alarm, seq, witnessSeq } = intake.local.row;
    if (!this.mayAsk || alarm || !this.following.has(n) || this._witnessing.has(n)) return;
    if (seq === witnessSeq) return;
    const random = device.fresh(ID_BYTES + NONCE_BYTES);
    const sealed = device.transaction(() => intake.makeWitness(random, Math.trunc(now.wall * 1000)));
    if (sealed === null) return;
    this._witnessing.add(n);
    const { spaceId } = device;
    const { collectionId } = intake;
    this.ask(
      (request) => ({ type: "witness", request, spaceId, collectionId, witness: sealed }),
      (answer, then) => this._onHandedIn(n, seq, answer, then),
    );
  }

  /**
   * @param {number} n
   * @param {number} seq
   * @param {Message} answer
   * @param {Now} now
   */
  _onHandedIn(n, seq, answer, now) {
    this._witnessing.delete(n);
    const local = this._device.collection(n);
    if (answer.type === "done") this._device.transaction(() => local.save({ witnessSeq: seq }));
    else if (answer.type === "refused" && !answer.retry) return;
    if (local.row.seq > seq || answer.type !== "done") {
      // Moved on meanwhile, or not kept: another one, in a moment.
      this._device.witnessSoon(n, now.steady + WITNESS_AFTER_CHANGES_S);
    }
  }

  /**
   * @param {import("./wire/messages.js").Received<"witnesses">} message
   * @param {Now} now
   */
  _onWitnesses(message, now) {
    const n = this._device.number(message.spaceId, message.collectionId);
    if (n === null || !this.following.has(n)) return;
    if (!this._device.guarded(n, now, (intake) => intake.witnesses(message.witnesses))) this.following.delete(n);
    this._device.effects.push(new Moved());
  }

  /** @param {import("./wire/messages.js").Received<"signal">} message */
  _onSignal(message) {
    const { keys } = this._device;
    if (keys === null || message.deviceId === null || !equal(message.spaceId, keys.spaceId)) return;
    const body = openSignal(keys, message.deviceId, message.body);
    if (body !== null) this._device.effects.push(new SignalCame(message.deviceId, body));
  }

  // --- small things ---

  /** @param {number} n */
  _row(n) {
    return this._device.collection(n).row;
  }

  /** @param {Uint8Array} frame */
  _send(frame) {
    if (!this._device.hungUp) this._device.effects.push(new Send(frame));
  }
}

const YES = new Uint8Array([0x31]); // "1"
const OFF = new TextEncoder().encode("off");

/** @param {LocalCollection} local */
function cursorOf({ row }) {
  const { collectionId, incarnation, seq, caughtUp } = row;
  assert(collectionId !== null, "a collection without an id was let in");
  // Whoever has not reached the head yet needs what counts now, and none of what it has replaced.
  return { collectionId, incarnation, seq, liveOnly: !caughtUp };
}

/** @param {Iterable<number>} numbers */
export function inOrder(numbers) {
  return [...numbers].sort((one, other) => one - other);
}
