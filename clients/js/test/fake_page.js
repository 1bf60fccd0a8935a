/** A page that does what a test says; the twin of what `src/page.js` makes of a browser's events. */

/** @implements {import("../src/page.js").PageLike} */
export class FakePage {
  visible = true;
  /** @type {Map<string, Set<() => void>>} */
  listeners = new Map();

  /** @param {import("../src/page.js").PageEvent} event @param {() => void} tell */
  on(event, tell) {
    const listeners = this.listeners.get(event) ?? new Set();
    this.listeners.set(event, listeners.add(tell));
    return () => void listeners.delete(tell);
  }

  /** @param {import("../src/page.js").PageEvent} event */
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
