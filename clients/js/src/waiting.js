/**
 * Waiting with an end: a promise that is not awaited for ever, and a bell that wakes whoever waits.
 */

/** Something did not happen in time. */
export class TimeoutError extends Error {
  get name() {
    return "TimeoutError";
  }
}

/**
 * What `promise` comes to, or TimeoutError with `sentence` after so many seconds.
 *
 * @template T
 * @param {number} seconds @param {Promise<T>} promise @param {string} sentence
 * @returns {Promise<T>}
 */
export async function within(seconds, promise, sentence) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  const late = new Promise((_, fail) => {
    timer = setTimeout(() => fail(new TimeoutError(sentence)), seconds * 1000);
  });
  try {
    return /** @type {T} */ (await Promise.race([promise, late]));
  } finally {
    clearTimeout(timer);
  }
}

/** Wakes everybody who waits at the moment it rings; nobody who comes later. */
export class Bell {
  constructor() {
    /** @type {Set<() => void>} */
    this._waiting = new Set();
  }

  ring() {
    const waiting = [...this._waiting];
    this._waiting.clear();
    for (const wake of waiting) wake();
  }

  /**
   * Returns when it rings, or after so many seconds.
   *
   * @param {number} [seconds]
   * @returns {Promise<void>}
   */
  wait(seconds) {
    return new Promise((done) => {
      const wake = () => {
        clearTimeout(timer);
        this._waiting.delete(wake);
        done();
      };
      const timer = seconds === undefined ? undefined : setTimeout(wake, seconds * 1000);
      this._waiting.add(wake);
    });
  }
}
