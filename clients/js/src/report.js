/**
 * Tell the developer of a mistake that nobody called for: a callback of the app that threw, work that died.
 *
 * It reaches what watches the page (`window.onerror`) and stops nothing.
 *
 * @param {unknown} error
 */
export function report(error) {
  if (typeof globalThis.reportError === "function") globalThis.reportError(error);
  else console.error(error);
}
