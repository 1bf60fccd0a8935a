/**
 * A small hub on a real socket.  Whoever dials is met by the next of `greetings`, without any is let in.
 *
 * Devices dial `ws://hub.test/v1/ws`, which `WebSocket` leads to the door's port, so that proofs name one hub.
 */

import { once } from "node:events";
import { createServer } from "node:http";
import { WebSocket, WebSocketServer } from "ws";

import { utf8 } from "../src/bytes.js";
import { HubClient, MemoryStorage } from "../src/index.js";
import { SUBPROTOCOL } from "../src/terms.js";
import { decodeFromDevice } from "../src/wire/codec.js";
import { Line } from "../src/testing/line.js";
import { ACCOUNT, APP_ID, HUB_URL, TestHub } from "./engine_hub.js";

export class Door {
  constructor() {
    this.hub = new TestHub();
    /** @type {((socket: import("node:stream").Duplex) => unknown)[]} what to do instead of letting in; true: let in */
    this.greetings = [];
    /** @type {number[]} in seconds */
    this.dialledAt = [];
    /** @type {any[]} every line there ever was */
    this.lines = [];
    this.port = 0;
    const door = this;
    /** Leads to this door. */
    this.WebSocket = class extends WebSocket {
      /** @param {string} url @param {string[]} protocols */
      constructor(url, protocols) {
        super(url.replace("hub.test", `127.0.0.1:${door.port}`), protocols, { perMessageDeflate: false });
      }
    };
  }

  async open(port = 0) {
    this._server = createServer();
    this._sockets = new Set();
    this._server.on("connection", (socket) => {
      this._sockets.add(socket);
      socket.on("error", () => undefined).on("close", () => this._sockets.delete(socket));
    });
    const server = new WebSocketServer({ noServer: true, handleProtocols: () => SUBPROTOCOL });
    this._server.on("upgrade", async (request, socket, head) => {
      this.dialledAt.push(performance.now() / 1000);
      const greet = this.greetings.shift();
      if (greet && !(await greet(socket))) return;
      server.handleUpgrade(request, socket, head, (peer) => this._talk(peer));
    });
    this._server.listen(port, "127.0.0.1");
    await once(this._server, "listening");
    this.port = /** @type {import("node:net").AddressInfo} */ (this._server.address()).port;
    return this;
  }

  async close() {
    for (const socket of this._sockets) socket.destroy();
    this._server.close();
    await once(this._server, "close");
  }

  /** @param {WebSocket} peer */
  _talk(peer) {
    const line = Object.assign(new Line(this.hub), {
      socket: peer,
      closeCode: 0,
      /** @type {string[]} */
      heardTypes: [],
    });
    line.onEnd = (code) => peer.close(code);
    this.hub.lines.push(line);
    this.lines.push(line);
    peer.on("message", (data) => {
      const frame = new Uint8Array(/** @type {Buffer} */ (data));
      line.heardTypes.push(decodeFromDevice(frame).type);
      line.take(frame);
      this.handOut();
    });
    peer.on("error", () => undefined);
    peer.on("close", (code) => {
      line.closeCode = code;
      line.gone();
    });
  }

  handOut() {
    for (const line of this.hub.lines) for (const frame of line.out.splice(0)) line.socket.send(frame);
  }

  /** @param {any} message */
  say(message) {
    this.hub.lines[0].say(message);
    this.handOut();
  }

  /**
   * A running client that this hub knows, with the app key of the test hub's space.
   *
   * @param {Partial<Parameters<typeof HubClient.open>[0]>} [more]
   */
  async client(more = {}) {
    const storage = new MemoryStorage();
    const appKey = utf8("k".repeat(32));
    const settings = { account_id: ACCOUNT, may_create: utf8("1"), app_key: appKey, hub_url: utf8(HUB_URL) };
    for (const [name, value] of Object.entries(settings)) storage.transaction(() => storage.setSetting(name, value));
    const client = await HubClient.open({
      storage, appId: APP_ID, WebSocket: this.WebSocket, random: () => 0.02, connectWithinS: 0.05, ...more,
    });
    this.hub.knows(client.deviceId, client._deviceKey.publicKey);
    client.start();
    return client;
  }
}

/** @param {() => unknown} holds */
export async function until(holds, withinMs = 5_000) {
  const end = performance.now() + withinMs;
  while (!holds()) {
    if (performance.now() > end) throw new Error(`it did not come about: ${holds}`);
    await new Promise((done) => setTimeout(done, 5));
  }
}
