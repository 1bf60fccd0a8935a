/** Web Locks as far as one exclusive name needs them: a queue, withdrawal by signal, and stealing. */
export class Locks {
  /** @type {{callback: () => any, options: any, done: (v?: any) => void, fail: (e: any) => void}[]} */
  queue = [];
  /** @type {any} */
  holder = null;

  /** @param {string} name @param {any} options @param {() => any} callback */
  request(name, options, callback) {
    return new Promise((done, fail) => {
      const asked = { callback, options, done, fail };
      if (options.steal) {
        this.holder?.fail(new DOMException("stolen", "AbortError"));
        this.holder = null;
        this.queue.unshift(asked);
      } else {
        this.queue.push(asked);
        options.signal.addEventListener("abort", () => this.withdraw(asked));
      }
      queueMicrotask(() => this.next());
    });
  }

  /** @param {any} asked */
  withdraw(asked) {
    if (!this.queue.includes(asked)) return; // granted already: the signal means nothing any more
    this.queue.splice(this.queue.indexOf(asked), 1);
    asked.fail(asked.options.signal.reason);
  }

  async next() {
    if (this.holder || !this.queue.length) return;
    const asked = /** @type {any} */ (this.queue.shift());
    this.holder = asked;
    const result = await asked.callback();
    if (this.holder !== asked) return;
    this.holder = null;
    asked.done(result);
    this.next();
  }
}
