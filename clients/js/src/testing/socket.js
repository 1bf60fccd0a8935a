/**
 * A WebSocket that leads to a hub in the same process: as much of the browser's as the client uses.
 *
 * What is sent arrives a turn of the event loop later, in order, as on a real line.
 */

import { SUBPROTOCOL } from "../terms.js";

const [CONNECTING, OPEN, CLOSING, CLOSED] = [0, 1, 2, 3];
const LOST = 1006; // what a browser says of a line that is gone without a word

/** As the process has it now: a test that replaces the timers later does not hold the line up. */
const later = /** @type {(work: () => void) => void} */ (
  /** @type {any} */ (globalThis).setImmediate ?? globalThis.setTimeout.bind(globalThis)
);

/** @typedef {import("./line.js").Line} Line */

/**
 * Who answers at the other end.
 *
 * @typedef {object} Exchange
 * @property {(url: string) => Line | null} dial null: nobody is there
 * @property {() => void} flush hand out what lies in the lines
 * @property {Set<Socket>} sockets all that stand
 */

/**
 * The class to give to the client as its `WebSocket`.
 *
 * @param {Exchange} exchange
 * @returns {new (url: string, protocols: string[]) => any}
 */
export function socketClass(exchange) {
  return class extends Socket {
    /** @param {string} url @param {string[]} protocols */
    constructor(url, protocols) {
      super(url, protocols, exchange);
    }
  };
}

export class Socket {
  /** @param {string} url @param {string[]} protocols @param {Exchange} exchange */
  constructor(url, protocols, exchange) {
    this.url = url;
    this.protocol = "";
    this.readyState = CONNECTING;
    this.binaryType = "arraybuffer";
    this.bufferedAmount = 0;
    /** @type {((event?: any) => void) | null} */
    this.onopen = null;
    /** @type {((event: any) => void) | null} */
    this.onmessage = null;
    /** @type {((event: any) => void) | null} */
    this.onclose = null;
    /** @type {((event: any) => void) | null} */
    this.onerror = null;
    this._exchange = exchange;
    /** @type {Line | null} */
    this._line = null;
    later(() => this._begin(protocols));
  }

  /** @param {Uint8Array} frame */
  send(frame) {
    const { _line: line } = this;
    if (this.readyState !== OPEN || !line) return;
    const copy = frame.slice();
    later(() => {
      line.take(copy);
      this._exchange.flush();
    });
  }

  /** @param {number} [code] */
  close(code = 1000) {
    if (this.readyState >= CLOSING) return;
    this.readyState = CLOSING;
    later(() => this._end(code, "")); // behind what was sent before
  }

  /** Hand out what lies in the line. */
  flush() {
    for (const frame of this._line?.out.splice(0) ?? []) {
      later(() => {
        if (this.readyState === OPEN) this.onmessage?.({ data: frame.slice().buffer });
      });
    }
  }

  /** The line is gone without a word. */
  lose() {
    if (this.readyState !== CLOSED) this._end(LOST, "");
  }

  /** @param {string[]} protocols */
  _begin(protocols) {
    if (this.readyState !== CONNECTING) return;
    const line = protocols.includes(SUBPROTOCOL) ? this._exchange.dial(this.url) : null;
    if (!line) {
      this.onerror?.({});
      this._end(LOST, "");
      return;
    }
    this._line = line;
    this._exchange.sockets.add(this);
    line.onEnd = (code, reason) => {
      this.flush();
      later(() => this._end(code, reason));
    };
    this.protocol = SUBPROTOCOL;
    this.readyState = OPEN;
    this.onopen?.();
  }

  /** @param {number} code @param {string} reason */
  _end(code, reason) {
    if (this.readyState === CLOSED) return;
    this.readyState = CLOSED;
    this._exchange.sockets.delete(this);
    this._line?.gone();
    this.onclose?.({ code, reason, wasClean: code !== LOST });
  }
}
