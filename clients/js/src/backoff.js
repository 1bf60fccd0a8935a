/**
 * How long to wait before the next try, without I/O.
 *
 * Full jitter: a uniform draw below a ceiling that doubles from half a second to thirty seconds. Devices that lost the
 * same hub therefore come back spread out. It never gives up, and it starts over only after a connection that stayed
 * for ten seconds: one that is taken and dropped at once counts as a failure.
 */

export const FIRST_S = 0.5;
export const CEILING_S = 30.0;
export const STABLE_AFTER_S = 10.0;
/** A hub, or whoever answers in its place, may ask for longer, and is not obeyed. */
export const ASKED_MAX_S = 3_600.0;

const DOUBLINGS_MAX = 6; // 0.5 s doubled six times is above the ceiling

/** The waiting times of one device towards one hub. Times are monotonic seconds. */
export class Backoff {
  constructor() {
    this._failures = 0;
    /** @type {number | null} */
    this._since = null;
  }

  /**
   * A session began.
   * @param {number} now
   */
  connected(now) {
    this._since = now;
  }

  /**
   * The session ended, or there was none: seconds to wait.
   *
   * With `retryAfterS` the hub asked for that long at least, an hour at most; the jitter comes on top, so that all do
   * not come back at once.
   * @param {number} now
   * @param {number} draw  uniform in [0, 1)
   * @param {number} [retryAfterS]
   * @returns {number}
   */
  lost(now, draw, retryAfterS = 0) {
    if (this._since !== null && now - this._since >= STABLE_AFTER_S) this._failures = 0;
    this._since = null;
    const ceiling = Math.min(CEILING_S, FIRST_S * 2 ** this._failures);
    this._failures = Math.min(this._failures + 1, DOUBLINGS_MAX);
    const asked = retryAfterS > 0 ? Math.min(retryAfterS, ASKED_MAX_S) : 0; // what is no number asks for nothing
    return asked + draw * ceiling;
  }
}
