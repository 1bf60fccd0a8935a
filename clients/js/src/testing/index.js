/**
 * A hub in the test's own process, for the tests of apps: no server, no Python, no network, nothing on a disk.
 *
 *     import { MemoryHub } from "sync-hub-client/testing";
 *     const memory = new MemoryHub();
 *     const { url, surroundings } = memory;
 *     const db = new Dexie("notes", { addons: [hub({ app, tables, url, surroundings })] });
 *     await db.hub.signIn({ email: "anna@example.org", code: () => memory.lastCode("anna@example.org") });
 *     memory.cut();                                  // offline, for everybody
 *     memory.mend();
 *
 * It is a hub, not a mock: it checks signatures, orders drafts, refuses conflicts, counts quotas, and cannot read what
 * it keeps.  The tests of this package run against it and against the real one.  Two devices are two databases of two
 * names; two tabs are two Dexie instances of one name with the same `surroundings`.
 */

import { canonicalUrl } from "../connection.js";
import { utf8 } from "../bytes.js";
import { FakePage } from "./fake_page.js";
import { Hub, tidy } from "./hub.js";
import { Line } from "./line.js";
import { Locks } from "./locks.js";
import { socketClass } from "./socket.js";

export { FakePage, Locks };

/** @typedef {import("./hub.js").Mail} Mail */

const URL_OF_HUB = "https://hub.test";

/** A hub that lives as long as this object. */
export class MemoryHub extends Hub {
  /** @param {{ url?: string }} [options] what devices dial; it need not exist */
  constructor({ url = URL_OF_HUB } = {}) {
    super(canonicalUrl(url));
    this.url = url;
    this._isCut = false;
    /** Where it was before it moved. @type {Set<string>} */
    this._left = new Set();
    /** @type {Set<import("./socket.js").Socket>} */
    this._sockets = new Set();
    /** The class that leads here. */
    this.WebSocket = socketClass({
      dial: (url) => this._dial(url),
      flush: () => this.flush(),
      sockets: this._sockets,
    });
    /** The page all devices of this hub are on; `mend` tells it that the network is back. */
    this.page = new FakePage();
    /** What to give to the client or the add-on, so that it finds this hub and no browser is needed. */
    this.surroundings = { WebSocket: this.WebSocket, page: this.page, locks: new Locks() };
  }

  // --- mail ---

  /** The code last mailed to this address.  Throws when there is none.  @param {string} address */
  lastCode(address) {
    return this.lastMail(address).code;
  }

  /** @param {string} address @returns {Mail} */
  lastMail(address) {
    const mail = this.mails.findLast((one) => one.address === tidy(address));
    if (!mail) throw new Error(`no code was mailed to ${address}`);
    return mail;
  }

  // --- the network ---

  /** From now on nobody reaches the hub; what was under way is lost. */
  cut() {
    this._isCut = true;
    for (const socket of [...this._sockets]) socket.lose();
  }

  /** The network is back, and every device is told so. */
  mend() {
    this._isCut = false;
    this.page.tell("online");
    globalThis.dispatchEvent?.(new Event("online")); // and those that have not been given this page
  }

  /**
   * An operator moves everything to another hub, at this address: whoever dials the former one is told so.
   *
   * @param {string} url
   */
  move(url) {
    this._left.add(this.dialled);
    this._left.delete(canonicalUrl(url));
    this.url = url;
    this.liveAt(canonicalUrl(url));
  }

  // --- what the hub has ---

  /**
   * Whether these letters or bytes ever came to the hub in the clear, from any device, in whatever message.
   *
   * @param {string | Uint8Array} what
   */
  hasSeen(what) {
    const sought = typeof what === "string" ? utf8(what) : what;
    return this.heard.some(({ frame }) => includes(frame, sought));
  }

  /** The hub's disk is lost: it knows nobody and nothing, and begins another life. */
  empty() {
    this.restore(new Map());
  }

  // --- inside ---

  /** Hand out what lies in the lines. */
  flush() {
    for (const socket of this._sockets) socket.flush();
  }

  /** @param {string} url */
  _dial(url) {
    if (this._isCut || (url !== this.dialled && !this._left.has(url))) return null;
    const line = new Line(this, url);
    this.lines.push(line);
    return line;
  }
}

/** @param {Uint8Array} bytes @param {Uint8Array} sought */
function includes(bytes, sought) {
  for (let at = bytes.indexOf(sought[0]); at >= 0; at = bytes.indexOf(sought[0], at + 1)) {
    if (sought.every((byte, n) => bytes[at + n] === byte)) return true;
  }
  return false;
}
