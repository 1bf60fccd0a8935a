/**
 * What a page goes through, in five words: shown, hidden, leaving, back, online.
 *
 * Browsers tell of it in many events with gaps between them; `Page` makes few words of
 * them, and where there is no document (Node, a worker) it is shown for ever.  Tests
 * give a page of their own.
 *
 *   shown    the person sees it again
 *   hidden   the person does not see it; timers become slow, messages do not
 *   leaving  it is about to stand still, or to go: what is not done now may never be
 *   back     it stood still and goes on; no socket has outlived that
 *   online   the network is said to be back
 */

/** @typedef {"shown" | "hidden" | "leaving" | "back" | "online"} PageEvent */

/**
 * @typedef {object} PageLike
 * @property {boolean} visible whether the person sees it
 * @property {(event: PageEvent, tell: () => void) => () => void} on calls `tell` at each; returns what undoes it
 */

/**
 * Where each word comes from: whose event, and when it counts.
 *
 * @type {Record<PageEvent, ["document" | "window", string, ((event: any, document: any) => boolean)?][]>}
 */
const SOURCES = {
  shown: [["document", "visibilitychange", (_, document) => document.visibilityState === "visible"]],
  hidden: [["document", "visibilitychange", (_, document) => document.visibilityState !== "visible"]],
  leaving: [["document", "freeze"], ["window", "pagehide"]],
  back: [["document", "resume"], ["window", "pageshow", (event) => event.persisted]],
  online: [["window", "online"]],
};

/** @implements {PageLike} */
export class Page {
  /** @param {any} window the window, or anything without a document */
  constructor(window = globalThis) {
    this._window = window;
  }

  get visible() {
    const document = this._window.document;
    return !document || document.visibilityState === "visible";
  }

  /** @param {PageEvent} event @param {() => void} tell */
  on(event, tell) {
    const undo = SOURCES[event].map(([whose, name, counts]) => this._listen(whose, name, counts, tell));
    return () => undo.forEach((each) => each());
  }

  /**
   * @param {"document" | "window"} whose @param {string} name
   * @param {((event: any, document: any) => boolean) | undefined} counts @param {() => void} tell
   */
  _listen(whose, name, counts, tell) {
    const document = this._window.document;
    const target = whose === "document" ? document : this._window;
    if (!document || !target?.addEventListener) return () => {};
    const heard = (/** @type {unknown} */ event) => {
      if (!counts || counts(event, document)) tell();
    };
    target.addEventListener(name, heard);
    return () => target.removeEventListener(name, heard);
  }
}
