/**
 * The client's WebSocket shell: dials, pumps frames between the socket and the engine, and comes back.
 *
 * It decides nothing but when to dial: the engine says what to send and when to hang
 * up, the backoff how long to wait.  A half-dead socket is dropped, never waited for:
 * a browser cannot cut one, so its handlers are taken off and it is forgotten.
 *
 * A page is not a process.  Timers come up to a minute late in a hidden tab, so one
 * that is late lets the messages that wait behind it in first; a page that is about to
 * stand still hangs up by itself; and a socket that a person comes back to must show
 * that it lives before it is believed.
 */

import { Backoff } from "./backoff.js";
import { Hangup, Send } from "./effects.js";
import { CLOSINGS, comesBack, REFUSALS, Refusal } from "./errors.js";
import { addressOrNone, isThisMachine } from "./hub_url.js";
import { Page } from "./page.js";
import { PROTOCOL_VERSION, SUBPROTOCOL } from "./terms.js";
import { Bell, within } from "./waiting.js";
import { decodeFromDevice, decodeFromHub, encode, UnknownMessage } from "./wire/codec.js";

export { canonicalUrl } from "./hub_url.js";

export const CONNECT_WITHIN_S = 8.0;
export const ANSWER_WITHIN_S = 30.0; // a hub may hash an address slowly before it answers
export const CLOSE_WITHIN_S = 2.0;
export const FRAME_BYTES_MAX = 2 * 1_048_576; // a changes frame is far smaller; bounds what a hub can make us hold
export const UNSENT_BYTES_MAX = 1_048_576; // in the browser's own queue: beyond it no signal is added
export const AWAY_S = 5.0; // hidden for longer, a socket must show that it lives
export const SHOW_LIFE_WITHIN_S = 2.0;
export const LATE_S = 1.0; // a timer that fires so late has been held up, and messages with it
const CATCH_UP_S = 0.05; // what they get before the time counts; a turn of the loop is too little on a busy machine

const CLEAN = 1000;
const NO_CODE = new Set([1005, 1006, 1015]); // what a browser makes up when nothing was said

/** @typedef {import("./wire/messages.js").ToHub | import("./wire/messages.js").ToDevice} Message */
/** @typedef {import("./effects.js").Effect} Effect */
/** @typedef {import("./device.js").Identity} Identity */
/** @typedef {import("./engine.js").Engine} Engine */
/** @typedef {import("./terms.js").Now} Now */
/**
 * Who thinks behind a connection: the engine, or an account's session.
 *
 * @typedef {object} Thinker
 * @property {{identity: Identity, error: string}} device
 * @property {boolean} inSession
 * @property {Engine["connected"]} connected
 * @property {(blocked?: string, how?: {restarting?: boolean, closed?: Closed | null}) => Effect[]} disconnected
 * @property {Engine["received"]} received
 * @property {Engine["timer"]} timer
 * @property {Engine["timerFired"]} timerFired
 * @property {Engine["askHeads"]} askHeads
 */

/**
 * Called with everything that passes, in order, over all connections of one `Connection`.
 *
 * `("sent", message)` just before its frame is given to the socket, so it may not have
 * arrived; `("received", message)` before the engine acts on it; `("closed", Closed)`
 * when a connection that stood has ended, code 0 when it was lost or when this device
 * hung up, and then its text says why.
 * Each connection begins with `("sent", hello)`.  It must not throw, and must not call the client.
 *
 * @typedef {(what: "sent" | "received" | "closed", message: Message | Closed) => void} Tap
 */

/**
 * What a connection needs of its surroundings; each has the browser's as its default.
 *
 * @typedef {object} Surroundings
 * @property {new (url: string, protocols: string[]) => any} [WebSocket]
 * @property {import("./page.js").PageLike} [page]
 * @property {() => number} [random] uniform in [0, 1)
 * @property {() => Now} [now]
 * @property {number} [connectWithinS]
 */

/** The hub cannot be reached, or the line to it is gone. */
export class ConnectionError extends Error {
  get name() {
    return this.constructor.name;
  }
}

/** The hub closed the connection; the text says why, `code` is the closing's number (0: none). */
export class Closed extends ConnectionError {
  /** @param {number} code @param {string} reason */
  constructor(code, reason) {
    const known = Object.values(CLOSINGS).find((kind) => kind.code === code);
    super(known?.message || reason || "the connection was lost");
    this.code = code;
  }

  /** Whether coming back by itself would only meet the same again. */
  get stop() {
    return !comesBack(this.code);
  }
}

/** The time, as the engine wants it.  @returns {Now} */
export function now() {
  return { steady: performance.now() / 1000, wall: Date.now() / 1000 };
}

// --- one socket ------------------------------------------------------------------------------

/** A socket that tells what happens to it, and can be forgotten at any moment. */
export class Line {
  /** @param {any} socket */
  constructor(socket) {
    this._socket = socket;
    this.open = true;
    /** @type {(frame: Uint8Array) => void} */
    this.onFrame = () => undefined;
    /** @type {(closed: Closed) => void} */
    this._end = () => undefined;
    /** How it ended. @type {Promise<Closed>} */
    this.ended = new Promise((done) => (this._end = done));
    socket.onmessage = (/** @type {any} */ event) => this._hear(event.data);
    socket.onerror = () => undefined; // its close follows
    socket.onclose = (/** @type {any} */ event) => this._closed(event.code, event.reason);
  }

  /** How much the browser holds that has not left for the network. */
  get unsentBytes() {
    return this.open ? this._socket.bufferedAmount : 0;
  }

  /** @param {Uint8Array} frame */
  send(frame) {
    if (this.open) this._socket.send(frame);
  }

  /** Close it when what was sent before has left; not later than `CLOSE_WITHIN_S` it has ended. */
  close() {
    if (!this.open) return;
    this._socket.close(CLEAN);
    const late = setTimeout(() => this.drop(), CLOSE_WITHIN_S * 1000);
    this.ended.then(() => clearTimeout(late));
  }

  /** Forget it: nothing is heard of it any more, dead or not. */
  drop() {
    if (!this.open) return;
    forget(this._socket);
    this._closed(0, "");
  }

  /** @param {unknown} data */
  _hear(data) {
    if (!this.open || !(data instanceof ArrayBuffer)) return;
    if (data.byteLength > FRAME_BYTES_MAX) this.drop();
    else this.onFrame(new Uint8Array(data));
  }

  /** @param {number} code @param {string} reason */
  _closed(code, reason) {
    if (!this.open) return;
    this.open = false;
    this.onFrame = () => undefined;
    this._end(NO_CODE.has(code) ? new Closed(0, "") : new Closed(code, reason));
  }
}

/**
 * An open line.  Throws ConnectionError.
 *
 * @param {string} url @param {Surroundings} [surroundings]
 * @returns {Promise<Line>}
 */
export async function dial(url, { WebSocket = globalThis.WebSocket, connectWithinS = CONNECT_WITHIN_S } = {}) {
  if (!WebSocket) throw new ConnectionError("there is no WebSocket here; pass one in");
  const socket = begun(WebSocket, url);
  socket.binaryType = "arraybuffer";
  return new Promise((done, fail) => {
    const end = (/** @type {string} */ sentence) => {
      clearTimeout(late);
      forget(socket);
      fail(new ConnectionError(sentence));
    };
    const late = setTimeout(() => end("the hub does not answer"), connectWithinS * 1000);
    socket.onerror = (/** @type {any} */ event) => end(unreachable(url, event.message));
    socket.onclose = () => end(unreachable(url));
    socket.onopen = () => {
      clearTimeout(late);
      if (socket.protocol === SUBPROTOCOL) done(new Line(socket));
      else end("what answered there is no hub");
    };
  });
}

/** @param {NonNullable<Surroundings["WebSocket"]>} WebSocket @param {string} url */
function begun(WebSocket, url) {
  try {
    return new WebSocket(url, [SUBPROTOCOL]);
  } catch (error) {
    // A page that came over https may not dial without TLS.
    throw new ConnectionError(`the browser does not dial ${url}: ${/** @type {Error} */ (error).message}`);
  }
}

/** A browser cannot cut a socket, and a dead one closes late or never; so it is only let go of.  @param {any} socket */
function forget(socket) {
  socket.onopen = socket.onmessage = socket.onerror = socket.onclose = () => undefined;
  if (socket.terminate) socket.terminate();
  else socket.close();
}

/** @param {string} url @param {string} [message] what a browser never tells, and Node does */
function unreachable(url, message = "") {
  const status = /server response: (\d+)/.exec(message);
  if (status) return `the hub answered ${status[1]}`;
  const page = globalThis.location?.hostname;
  if (page && !isNear(page) && isNear(new URL(url).hostname)) {
    return "the hub cannot be reached; a browser asks before a page may reach the local network";
  }
  return "the hub cannot be reached";
}

/** Whether a host is of this machine or a network at home.  @param {string} host */
function isNear(host) {
  if (isThisMachine(host) || host.endsWith(".local")) return true;
  return /^(10\.|192\.168\.|172\.(1[6-9]|2\d|3[01])\.|169\.254\.|\[f[cd]|\[fe80)/.test(host);
}

// --- one question on a connection of its own -------------------------------------------------

/** A short connection: hello, challenge, and a question or two.  For signing in, and while sync is stopped. */
export class Errand {
  /**
   * Use `errand`.
   *
   * @param {Line} line @param {Identity} identity @param {Signer} signer
   * @param {Uint8Array} hello
   */
  constructor(line, identity, signer, hello) {
    this._line = line;
    this._identity = identity;
    this._signer = signer;
    this.hello = hello;
    /** @type {Uint8Array} */
    this.challenge = new Uint8Array(0);
    /** @type {Uint8Array[]} */
    this._frames = [];
    this._bell = new Bell();
    /** @type {Closed | null} */
    this._closed = null;
    this.movedTo = ""; // where the account lives now, when the hub said so
    line.onFrame = (frame) => {
      this._frames.push(frame);
      this._bell.ring();
    };
    line.ended.then((closed) => {
      this._closed = closed;
      this._bell.ring();
    });
  }

  /** Say hello, and take the challenge. */
  async greet() {
    this._line.send(this.hello);
    this.challenge = await within(ANSWER_WITHIN_S, this._next(), "the hub does not answer");
  }

  /**
   * This device's proof on this connection.
   *
   * @param {import("./signing.js").Purpose} purpose
   */
  proof(purpose) {
    return this._signer.proof(purpose, this._identity.hubUrl, this.hello, this.challenge);
  }

  /**
   * Send, and wait for an answer of this type.  Throws Refusal, Closed, TimeoutError.
   *
   * @template {keyof import("./wire/messages.js").HubTable} N
   * @param {Message} message @param {N} answer
   * @returns {Promise<import("./wire/messages.js").Received<N>>}
   */
  async ask(message, answer) {
    this.say(message);
    return within(ANSWER_WITHIN_S, this.hear(answer), "the hub does not answer");
  }

  /**
   * Send.  Throws Closed.
   *
   * @param {Message} message
   */
  say(message) {
    if (this._closed) throw this._closed;
    this._line.send(encode(message));
  }

  /**
   * Wait for the next message of this type, however long.  Throws Refusal, Closed.
   *
   * @template {keyof import("./wire/messages.js").HubTable} N
   * @param {N} type
   * @returns {Promise<import("./wire/messages.js").Received<N>>}
   */
  async hear(type) {
    for (;;) {
      const message = readable(await this._next());
      if (message?.type === type) return message;
      if (message?.type === "moved") this.movedTo = addressOrNone(message.url);
      if (message?.type === "refused") throw asRefusal(message);
    }
  }

  /** @returns {Promise<Uint8Array>} */
  async _next() {
    for (;;) {
      const frame = this._frames.shift();
      if (frame) return frame;
      if (this._closed) throw this._closed;
      await this._bell.wait();
    }
  }
}

/**
 * Who proves this device: its key, which may be one that cannot be read.
 *
 * @typedef {object} Signer
 * @property {(purpose: import("./signing.js").Purpose, hubUrl: string, hello: Uint8Array, challenge: Uint8Array)
 *   => Promise<Uint8Array>} proof
 */

/**
 * Do `work` on a short connection up to the challenge.  Throws ConnectionError, Closed among them.
 *
 * @template T
 * @param {Identity} identity @param {Signer} signer @param {(talk: Errand) => Promise<T>} work
 * @param {(size: number) => Uint8Array} fresh @param {Surroundings} [surroundings]
 * @returns {Promise<T>}
 */
export async function errand(identity, signer, work, fresh, surroundings) {
  const line = await dial(identity.hubUrl, surroundings);
  try {
    const { deviceId } = identity;
    const hello = encode({ type: "hello", v: [PROTOCOL_VERSION], deviceId, clientNonce: fresh(32) });
    const talk = new Errand(line, identity, signer, hello);
    await talk.greet();
    return await work(talk);
  } finally {
    line.close();
  }
}

/**
 * What the hub refused, as the error an app sees; a code of a later hub counts as `internal`.
 *
 * @param {any} message
 */
export function asRefusal(message) {
  const code = Object.hasOwn(REFUSALS, message.code) ? message.code : "internal";
  return new Refusal(code, message.message, { retryAfterS: message.retryAfterS || null });
}

/** The message in a frame; null for what a later hub may say.  @param {Uint8Array} frame @returns {any} */
function readable(frame) {
  try {
    return decodeFromHub(frame);
  } catch (error) {
    if (error instanceof UnknownMessage) return null;
    throw error;
  }
}

// --- the engine's connection -----------------------------------------------------------------

/** Keeps an engine, or what stands in its place, connected while `wanted` says so. */
export class Connection {
  /**
   * `carry` carries out what the engine wants; `explain` is told what the engine threw, and says it in a sentence;
   * `tap` is for tests and tools that watch, see `Tap`.
   *
   * @param {Thinker} engine
   * @param {{carry: (effects: Effect[]) => void, wanted: () => boolean, explain: (error: unknown) => string}} owner
   * @param {Tap | null} [tap]
   * @param {Surroundings} [surroundings]
   */
  constructor(engine, { carry, wanted, explain }, tap = null, surroundings = {}) {
    this._explain = explain;
    this._engine = engine;
    this._carry = carry;
    this._wanted = wanted;
    this._tap = tap;
    this._surroundings = surroundings;
    this._page = surroundings.page ?? new Page();
    this._random = surroundings.random ?? Math.random;
    this._now = surroundings.now ?? now;
    this._backoff = new Backoff();
    this._bell = new Bell();
    this._stopped = false;
    this._halted = false; // the engine hung up for good; a poke takes it back
    this._asleep = false; // the page stands still, or is about to
    this._hurry = false; // come back at once: it was this device that lost patience
    /** @type {Hangup | null} */
    this._hangup = null;
    /** The line that stands. @type {Line | null} */
    this.line = null;
    /** The line that has become a session. @type {Line | null} */
    this._sessionOf = null;
    this._mistake = "";
    this._framesHeard = 0;
    this._hiddenAt = -Infinity;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this._timer = undefined;
    this._due = 0;
  }

  /** Something changed: try at once. */
  poke() {
    this._halted = false;
    this._bell.ring();
  }

  /**
   * Send a frame, or hang up.
   *
   * @param {Send | Hangup} effect @param {Line | null} line the one it was meant for: nothing is said on a later one
   */
  carryOut(effect, line) {
    if (effect instanceof Hangup) this._hangUp(effect, line);
    else if (line && line === this.line && !this._hangup) {
      this._show("sent", effect.frame);
      line.send(effect.frame);
    }
  }

  /** Whether so much waits to be sent that what is not needed should not be added. */
  get congested() {
    return (this.line?.unsentBytes ?? 0) > UNSENT_BYTES_MAX;
  }

  /** Returns when the frames so far have left for the network, or after `withinS`. */
  async flush(withinS = CLOSE_WITHIN_S) {
    const end = this._now().steady + withinS;
    while (this.line?.unsentBytes && this._now().steady < end) await new Bell().wait(0.01);
  }

  /** Connect again and again until `stop`. */
  async run() {
    const undo = this._watchPage();
    try {
      while (!this._stopped) {
        if (!this._mayDial()) {
          await this._bell.wait();
          continue;
        }
        const afterS = await this._oneConnection();
        if (this._mayDial()) await this._pause(afterS);
      }
    } finally {
      undo.forEach((each) => each());
    }
  }

  /** Hang up and make `run` return. */
  stop() {
    this._stopped = true;
    this.line?.close();
    this._bell.ring();
  }

  _mayDial() {
    return !this._stopped && !this._halted && !this._asleep && this._wanted();
  }

  /** @param {number} afterS */
  async _pause(afterS) {
    const seconds = this._backoff.lost(this._now().steady, this._random(), afterS);
    const hurry = this._hurry;
    this._hurry = false;
    if (!hurry) await this._bell.wait(seconds);
  }

  /** Dial, and stay until the line is gone; how long the hub asks to stay away, in seconds. */
  async _oneConnection() {
    let line;
    try {
      line = await dial(this._engine.device.identity.hubUrl, this._surroundings);
    } catch (error) {
      if (!(error instanceof ConnectionError)) throw error;
      this._engine.device.error = error.message;
      this._guard(() => this._carry(this._engine.disconnected()));
      return 0;
    }
    this._hangup = null;
    if (this._mayDial()) await this._stay(line);
    else line.close(); // it is not wanted any more since the dialling began
    return this._askedToWaitS();
  }

  _askedToWaitS() {
    return this._hangup ? this._hangup.afterS : 0;
  }

  /** @param {Line} line */
  async _stay(line) {
    this.line = line;
    this._mistake = this._engine.device.error = "";
    line.onFrame = (frame) => this._received(frame);
    this._guard(() => this._tell(this._engine.connected(this._now())));
    const closed = this._why(await line.ended);
    clearTimeout(this._timer);
    this.line = null;
    this._tap?.("closed", closed);
    const restarting = closed.code === CLOSINGS.going_away.code;
    if (closed.code === CLOSINGS.moving.code) this._engine.device.error = closed.message;
    if (this._mistake) this._engine.device.error = this._mistake;
    const blocked = closed.stop ? closed.message : "";
    this._guard(() => this._carry(this._engine.disconnected(blocked, { restarting, closed })));
  }

  /** @param {Closed} closed */
  _why(closed) {
    // What the hub says then only answers us.
    return this._hangup && closed.code < 4000 ? new Closed(0, this._hangup.reason) : closed;
  }

  /** @param {Uint8Array} frame */
  _received(frame) {
    this._framesHeard += 1;
    this._show("received", frame);
    this._guard(() => this._tell(this._engine.received(frame, this._now())));
    if (this._engine.inSession) this._inSession();
  }

  _inSession() {
    if (this._sessionOf === this.line) return;
    this._sessionOf = this.line;
    this._backoff.connected(this._now().steady);
  }

  /**
   * @param {() => void} work
   */
  _guard(work) {
    try {
      work();
    } catch (error) {
      this.failed(error);
    }
  }

  /**
   * What was thrown on the way ends the line and not the program: it is shown in the status, and tried again.
   *
   * @param {unknown} error
   */
  failed(error) {
    this._mistake = this._explain(error);
    this.line?.drop();
  }

  /** @param {Hangup} effect @param {Line | null} line */
  _hangUp(effect, line) {
    this._halted ||= !effect.retry;
    if (line !== this.line) return; // a line that has ended since
    this._hangup = effect;
    if (effect.politely) this.line?.close();
    else this.line?.drop(); // not closed politely: a line that is hung up on may be dead
  }

  /** @param {"sent" | "received"} what @param {Uint8Array} frame */
  _show(what, frame) {
    if (!this._tap) return;
    let message;
    try {
      message = what === "sent" ? decodeFromDevice(frame) : decodeFromHub(frame);
    } catch {
      return; // the engine cannot read it either
    }
    this._tap(what, message);
  }

  // --- time ---

  /** @param {Effect[]} effects */
  _tell(effects) {
    this._carry(effects);
    this.schedule();
  }

  /** Set the timer anew; call after anything that may have moved it. */
  schedule() {
    clearTimeout(this._timer);
    this._timer = undefined;
    const due = this._engine.timer();
    if (due === null || !this.line) return;
    this._due = due;
    this._timer = setTimeout(() => this._fire(), Math.max(0, due - this._now().steady) * 1000);
  }

  _fire() {
    if (this._now().steady - this._due > LATE_S) {
      // Whatever held this up held messages up too, and what they say counts for more than the time.
      this._timer = setTimeout(() => this._fireNow(), CATCH_UP_S * 1000);
    } else this._fireNow();
  }

  _fireNow() {
    this._timer = undefined;
    if (this.line) this._guard(() => this._tell(this._engine.timerFired(this._now())));
  }

  // --- the page ---

  _watchPage() {
    return [
      this._page.on("hidden", () => (this._hiddenAt = this._now().steady)),
      this._page.on("shown", () => this._shown()),
      this._page.on("online", () => this._look()),
      this._page.on("leaving", () => this._sleep()),
      this._page.on("back", () => this._wake()),
    ];
  }

  _shown() {
    if (this._asleep) this._wake();
    else if (this._now().steady - this._hiddenAt > AWAY_S) this._look();
  }

  /** The line may be dead without a word: it has a moment to show life; without a line, try at once. */
  _look() {
    const { line } = this;
    this._bell.ring();
    if (!line) return;
    const heard = this._framesHeard;
    this._guard(() => this._tell(this._engine.askHeads()));
    setTimeout(() => {
      if (line !== this.line || this._framesHeard > heard) return;
      this._hurry = true;
      this._hangUp(new Hangup("the hub does not answer"), line);
    }, SHOW_LIFE_WITHIN_S * 1000);
  }

  /** The page is about to stand still: no socket outlives that, and a half-dead one would keep this device's place. */
  _sleep() {
    this._asleep = true;
    this._hangUp(new Hangup("the page stands still"), this.line);
  }

  _wake() {
    this._asleep = false;
    this._hurry = false;
    this._bell.ring();
  }
}
