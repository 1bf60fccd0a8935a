/**
 * What an app is told: one value that many may watch, and the status, put together from what three sides know.
 *
 * The leading tab knows the engine, and reports; every tab sees by itself how many edits wait in the database, and
 * since when.  So a leader that has died unseen shows in every tab: what it last reported stands still, and the age
 * of the oldest edit grows.
 */

import { call, Observable } from "../observable.js";

export { call, Observable };

/** @typedef {import("../engine.js").Phase} Phase */
/** @typedef {import("../engine.js").Progress} Progress */

/**
 * An alarm: what this device has noticed about the hub.  `raisedAt` is this device's clock, in seconds.
 *
 * @typedef {{name: string, collection: string, detail: string, seq: number, raisedAt: number}} Alarm
 */

/**
 * What the tab that leads knows, as it tells the others.
 *
 * @typedef {object} Report
 * @property {Phase} phase
 * @property {number} unsynced edits that the engine has and the log has not
 * @property {number} oldestAt when the oldest of them was made, in seconds of this device's clock; 0: there is none
 * @property {Progress} progress
 * @property {number} lastAppendedAt
 * @property {number} headSeenAt
 * @property {Alarm[]} alarms
 * @property {string} error
 * @property {string} movedTo
 * @property {boolean} wiped
 * @property {string} deviceId in hex; empty: this device is nobody yet
 */

/**
 * Where sync stands, the same in every tab but for `leader`.  Times are this device's clock in seconds, 0 for never.
 *
 * @typedef {object} HubStatus
 * @property {Phase} phase `off` also when another device dropped the remote copies, see `wiped`; with `blocked` the
 *   `error` says why, and a person must act; with `alarm` see `alarms`
 * @property {boolean} leader whether this tab keeps the line to the hub
 * @property {number} pending edits that are not on the hub
 * @property {number} oldestPendingAgeS how long the oldest of them has waited
 * @property {number} conflicts how many wait for a person
 * @property {Progress} progress of catching up or sending, in changes; `remaining` is an upper bound
 * @property {number} lastAppendedAt
 * @property {number} headSeenAt when the hub last said how far it is
 * @property {Alarm[]} alarms
 * @property {string} error a sentence for the person; empty: nothing is wrong
 * @property {string} movedTo where the account lives now, as `wss://host/v1/ws`; empty: where this device dials.  A
 *   person says whether to go there, see `Hub.follow`
 * @property {boolean} wiped another device dropped the remote copies; what is here is kept until `enable` sends it anew
 */

/** @type {Report} what is known before anything is known */
const NOTHING_TOLD = {
  phase: "connecting",
  unsynced: 0,
  oldestAt: 0,
  progress: { done: 0, remaining: 0 },
  lastAppendedAt: 0,
  headSeenAt: 0,
  alarms: [],
  error: "",
  movedTo: "",
  wiped: false,
  deviceId: "",
};

/**
 * The status, from the leader's report and from what this tab sees.
 *
 * @extends {Observable<HubStatus>}
 */
export class StatusBoard extends Observable {
  /** @param {() => number} [now] this device's clock, in seconds */
  constructor(now = () => Date.now() / 1000) {
    super(/** @type {any} */ (null));
    this._now = now;
    this._report = NOTHING_TOLD;
    this._seen = { leads: false, edits: 0, oldestEditAt: 0, conflicts: 0, error: "" };
    this._value = this.value;
    this._looked = "";
  }

  /** The leader's last report. */
  get report() {
    return this._report;
  }

  /** Whether the leader has said anything since this tab watches. */
  get told() {
    return this._report !== NOTHING_TOLD;
  }

  /** @returns {HubStatus} */
  get value() {
    const { unsynced, oldestAt, phase, deviceId, ...report } = this._report;
    const { leads, edits, oldestEditAt, conflicts, error } = this._seen;
    const oldest = Math.min(...[edits && oldestEditAt, unsynced && oldestAt].filter(Boolean));
    return {
      ...report,
      // What waits in this tab's own sight is not synced, whatever the leader says of what it has.
      phase: phase === "synced" && edits ? "sending" : phase,
      leader: leads,
      pending: edits + unsynced,
      oldestPendingAgeS: Number.isFinite(oldest) ? Math.max(0, this._now() - oldest) : 0,
      conflicts,
      error: report.error || error,
    };
  }

  /** The leader has told this.  @param {Report} told */
  hear(told) {
    this._report = told;
    this.look();
  }

  /**
   * This tab sees this; what is left out is as it was.
   *
   * @param {Partial<{leads: boolean, edits: number, oldestEditAt: number, conflicts: number, error: string}>} seen
   */
  see(seen) {
    Object.assign(this._seen, seen);
    this.look();
  }

  /** Nothing is known any more: another hub, or the database was closed. */
  forget() {
    this._report = NOTHING_TOLD;
    this.see({ leads: false, edits: 0, oldestEditAt: 0, conflicts: 0, error: "" });
  }

  /** Tell whoever watches, if the status looks different; ages count in whole seconds. */
  look() {
    const { value } = this;
    const looks = JSON.stringify({ ...value, oldestPendingAgeS: Math.floor(value.oldestPendingAgeS) });
    if (looks === this._looked) return;
    this._looked = looks;
    this._set(value);
  }
}
