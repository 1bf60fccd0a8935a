/**
 * What lies over the page for a moment: questions, sheets, short notices with an undo, menus.
 *
 * Dialogs are the browser's own, so focus, Escape and screen readers work as everywhere.
 */

import { button, h, put } from "./dom.js";

/**
 * Show a dialog; what `close(value)` was given, undefined when it was left with Escape.
 *
 * @template T
 * @param {string} title
 * @param {(close: (value?: T) => void) => any} content  gives the nodes below the title
 * @param {{ kind?: string, must?: boolean }} [options]  `must`: it can be left only through its own buttons
 * @returns {Promise<T | undefined>}
 */
export function dialog(title, content, { kind = "", must = false } = {}) {
  return new Promise((done) => {
    /** @type {any} */
    let answer;
    const heading = h("h2", { id: `dialog-${++numbers}`, tabindex: "-1" }, title);
    const box = h("dialog", { class: `dialog ${kind}`, "aria-labelledby": heading.id });
    const close = (/** @type {any} */ value) => {
      answer = value;
      box.close();
    };
    box.append(h("div", { class: "dialog-inner" }, heading, content(close)));
    box.addEventListener("cancel", (/** @type {Event} */ event) => must && event.preventDefault());
    box.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (must && event.key === "Escape") event.preventDefault(); // a second Escape would close it anyway
    });
    box.addEventListener("click", (/** @type {MouseEvent} */ event) => {
      if (event.target === box && !must) box.close();
    });
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
 * @param {any} text
 * @param {{ yes: string, no?: string, danger?: boolean }} words
 * @returns {Promise<boolean>}
 */
export async function ask(title, text, { yes, no = "Cancel", danger = false }) {
  const answer = await dialog(title, (close) => [
    ...[text].flat().map((one) => (typeof one === "string" ? h("p", null, one) : one)),
    h(
      "div",
      { class: "row end" },
      button(no, () => close(false), "", danger ? { autofocus: true } : {}),
      button(yes, () => close(true), danger ? "danger" : "primary", danger ? {} : { autofocus: true }),
    ),
  ]);
  return answer === true;
}

const NOTICE_MS = 8_000;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let fading;

/**
 * A short notice at the foot of the page, read aloud; with an action it stays longer, with `stay` until it is answered.
 * @param {string} text
 * @param {{ label?: string, action?: () => any, stay?: boolean }} [options]
 */
export function notice(text, { label = "", action, stay = false } = {}) {
  const place = /** @type {HTMLElement} */ (document.getElementById("notice"));
  clearTimeout(fading);
  const gone = () => put(place);
  const act = () => {
    gone();
    action?.();
  };
  const box = h(
    "div",
    { class: "notice" },
    h("span", null, text),
    action && button(label, act, "quiet"),
    h("button", { type: "button", class: "icon-button", "aria-label": "Close this notice", onclick: gone }, "×"),
  );
  put(place, box);
  const fade = () => {
    clearTimeout(fading);
    if (!stay) fading = setTimeout(() => (box.matches(":focus-within, :hover") ? fade() : gone()), NOTICE_MS);
  };
  fade();
}

/**
 * A menu under its button; arrow keys move, Escape closes, focus comes back.
 * @param {HTMLElement} anchor
 * @param {{ label: string, action: () => any, danger?: boolean, off?: boolean }[]} entries
 */
export function menu(anchor, entries) {
  const items = entries
    .filter((entry) => !entry.off)
    .map((entry) =>
      h(
        "button",
        {
          type: "button",
          role: "menuitem",
          tabindex: "-1",
          class: entry.danger ? "danger" : null,
          onclick: () => leave(entry.action),
        },
        entry.label,
      ),
    );
  const list = h(
    "div",
    { class: "menu", role: "menu", "aria-label": anchor.getAttribute("aria-label") ?? "Menu" },
    items,
  );
  const leave = (/** @type {() => any} */ action = () => undefined) => {
    document.removeEventListener("pointerdown", outside, true);
    list.remove();
    anchor.setAttribute("aria-expanded", "false");
    anchor.focus();
    action();
  };
  const outside = (/** @type {Event} */ event) => !list.contains(/** @type {Node} */ (event.target)) && leave();
  list.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    const at = items.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[event.key];
    if (to !== undefined) items[(to + items.length) % items.length].focus();
    else if (event.key === "Escape" || event.key === "Tab") leave();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  document.body.append(list);
  const { bottom, right, top } = anchor.getBoundingClientRect();
  const below = bottom + list.offsetHeight + 8 < innerHeight;
  list.style.top = `${below ? bottom + 4 : Math.max(8, top - list.offsetHeight - 4)}px`;
  list.style.left = `${Math.max(8, Math.min(right - list.offsetWidth, innerWidth - list.offsetWidth - 8))}px`;
  anchor.setAttribute("aria-expanded", "true");
  document.addEventListener("pointerdown", outside, true);
  items[0]?.focus();
}

/**
 * Tell screen readers something that is seen elsewhere.
 * @param {string} text
 */
export function tell(text) {
  const place = /** @type {HTMLElement} */ (document.getElementById("live"));
  if (place.textContent !== text) place.textContent = text;
}
