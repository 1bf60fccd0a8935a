/**
 * What lies over the page for a moment: questions and short notices.
 *
 * Dialogs are the browser's own, so focus, Escape and screen readers work as everywhere.
 */

import { button, h, put } from "./dom.js";
import { t } from "./text.js";

/**
 * Show a dialog; what `close(value)` was given, undefined when it was left with Escape.
 *
 * @template T
 * @param {string} title
 * @param {(close: (value?: T) => void) => any} content  gives the nodes below the title
 * @returns {Promise<T | undefined>}
 */
export function dialog(title, content) {
  return new Promise((done) => {
    /** @type {any} */
    let answer;
    const heading = h("h2", { id: `dialog-${++numbers}`, tabindex: "-1" }, title);
    const box = h("dialog", { class: "dialog", "aria-labelledby": heading.id });
    const close = (/** @type {any} */ value) => {
      answer = value;
      box.close();
    };
    box.append(h("div", { class: "dialog-inner" }, heading, content(close)));
    box.addEventListener("close", () => {
      box.remove();
      done(answer);
    });
    document.body.append(box);
    box.showModal();
    (box.querySelector("[autofocus]") ?? heading).focus();
  });
}
let numbers = 0;

/**
 * A question with two answers; true for yes.
 * @param {string} title
 * @param {any} text  a text, a node, or a list of them
 * @param {{ yes: string, danger?: boolean }} words
 * @returns {Promise<boolean>}
 */
export async function ask(title, text, { yes, danger = false }) {
  const answer = await dialog(title, (close) => [
    ...[text].flat().map((one) => (typeof one === "string" ? h("p", null, one) : one)),
    h(
      "div",
      { class: "row end" },
      button(t("cancel"), () => close(false), "", danger ? { autofocus: true } : {}),
      button(yes, () => close(true), danger ? "danger" : "primary", danger ? {} : { autofocus: true }),
    ),
  ]);
  return answer === true;
}

const NOTICE_MS = 8_000;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let fading;

/**
 * A short notice at the foot of the page, read aloud; with `stay` until it is closed.
 * @param {string} text
 * @param {{ stay?: boolean }} [options]
 */
export function notice(text, { stay = false } = {}) {
  const place = /** @type {HTMLElement} */ (document.getElementById("notice"));
  const gone = () => put(place);
  const box = h(
    "div",
    { class: "notice" },
    h("span", null, text),
    h("button", { type: "button", class: "close", "aria-label": t("notice.close"), onclick: gone }, "×"),
  );
  put(place, box);
  const fade = () => {
    clearTimeout(fading);
    if (!stay) fading = setTimeout(() => (box.matches(":focus-within, :hover") ? fade() : gone()), NOTICE_MS);
  };
  fade();
}

/** Tell screen readers something that is seen elsewhere. @param {string} text */
export function tell(text) {
  const place = /** @type {HTMLElement} */ (document.getElementById("live"));
  if (place.textContent !== text) place.textContent = text;
}
