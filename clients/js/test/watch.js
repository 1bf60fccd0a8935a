/** A clock that a test can put forward, for what takes minutes. */

import { now } from "../src/connection.js";
import { LIMITS } from "../src/terms.js";

export const HEARTBEAT_S = LIMITS.heartbeatS;

export class Watch {
  constructor() {
    this.ahead = 0;
    this.now = () => {
      const { steady, wall } = now();
      return { steady: steady + this.ahead, wall: wall + this.ahead };
    };
  }

  /** @param {number} seconds */
  pass(seconds) {
    this.ahead += seconds;
  }
}
