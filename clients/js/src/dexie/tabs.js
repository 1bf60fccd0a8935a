/**
 * What the tabs of one origin tell each other about one database: the leader's report, and signals.
 *
 * Nothing is asked of the leader that only it could do: a tab whose person acts takes the lead itself (`Leader.claim`).
 * Each message may be lost, and none has to arrive.
 */

/** @typedef {import("./status.js").Report} Report */

/**
 * `ask`: what is the status?  `status`: this, says the leader.  `signal`: hand that to the other devices.
 * `came`: another device handed us that.  `sync` and `synced`: say so when all is on the hub, and here.
 *
 * @typedef {{kind: "ask"} | {kind: "status", report: Report} | {kind: "signal", name: string, value: any}
 *   | {kind: "came", name: string, value: any, deviceId: string} | {kind: "sync", token: string, withinS: number}
 *   | {kind: "synced", token: string} | {kind: "notice", notice: import("./leading.js").AccountNotice}} TabMessage
 */

export class Tabs {
  /**
   * @param {string} name of the database
   * @param {(message: TabMessage) => void} hear called with what other tabs say
   */
  constructor(name, hear) {
    this._channel = typeof BroadcastChannel === "undefined" ? null : new BroadcastChannel(`sync-hub:${name}`);
    if (this._channel) this._channel.onmessage = (event) => hear(event.data);
  }

  /**
   * To all other tabs.  Throws DataCloneError for what cannot be handed from tab to tab.
   *
   * @param {TabMessage} message
   */
  say(message) {
    this._channel?.postMessage(message);
  }

  /** Neither say nor hear anything more. */
  close() {
    if (this._channel) this._channel.onmessage = null;
    this._channel?.close();
    this._channel = null;
  }
}
