/** A page that does what a test says; the twin of what `src/page.js` makes of a browser's events. */

/** @typedef {import("../page.js").PageEvent} PageEvent */
/** @typedef {import("../page.js").PageLike} PageLike */

/** @implements {PageLike} */
export class FakePage {
  constructor() {
    this.visible = true;
    /** @type {Map<string, Set<() => void>>} */
    this.listeners = new Map();
  }

  /** @param {PageEvent} event @param {() => void} tell */
  on(event, tell) {
    const listeners = this.listeners.get(event) ?? new Set();
    this.listeners.set(event, listeners.add(tell));
    return () => void listeners.delete(tell);
  }

  /** Everybody who listens for this event hears it.  @param {PageEvent} event */
  tell(event) {
    if (event === "shown") this.visible = true;
    if (event === "hidden") this.visible = false;
    for (const tell of [...(this.listeners.get(event) ?? [])]) tell();
  }

  /** How many listen; none when everything was undone. */
  get count() {
    return [...this.listeners.values()].reduce((sum, each) => sum + each.size, 0);
  }
}
