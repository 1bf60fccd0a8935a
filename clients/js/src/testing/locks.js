/** Web Locks as far as a leader needs them: exclusive names, a queue for each, withdrawal by signal, and stealing. */

/** @typedef {{ callback: () => any, options: any, done: (value?: any) => void, fail: (error: any) => void }} Asked */

export class Locks {
  constructor() {
    /** Who waits for what, first come first. @type {(Asked & { name: string })[]} */
    this.queue = [];
    /** @type {Map<string, Asked>} */
    this._holders = new Map();
  }

  /** @param {string} name @param {any} options @param {() => any} callback @returns {Promise<any>} */
  request(name, options, callback) {
    return new Promise((done, fail) => {
      const asked = { name, callback, options, done, fail };
      if (options.steal) return queueMicrotask(() => this._steal(asked));
      this.queue.push(asked);
      options.signal?.addEventListener("abort", () => this._withdraw(asked));
      queueMicrotask(() => this._next(name));
    });
  }

  /** @param {Asked & { name: string }} asked */
  _steal(asked) {
    this._holders.get(asked.name)?.fail(new DOMException("stolen", "AbortError"));
    this._grant(asked);
  }

  /** @param {Asked & { name: string }} asked */
  _withdraw(asked) {
    if (!this.queue.includes(asked)) return; // granted already: the signal means nothing any more
    this.queue.splice(this.queue.indexOf(asked), 1);
    asked.fail(asked.options.signal.reason);
  }

  /** @param {string} name */
  _next(name) {
    const asked = this.queue.find((one) => one.name === name);
    if (!asked || this._holders.has(name)) return;
    this.queue.splice(this.queue.indexOf(asked), 1);
    this._grant(asked);
  }

  /** @param {Asked & { name: string }} asked */
  async _grant(asked) {
    this._holders.set(asked.name, asked);
    const result = await asked.callback();
    if (this._holders.get(asked.name) !== asked) return; // stolen meanwhile
    this._holders.delete(asked.name);
    asked.done(result);
    this._next(asked.name);
  }
}
