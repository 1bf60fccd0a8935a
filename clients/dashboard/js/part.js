/**
 * A piece of a page that is loaded, drawn, and loaded again when something happened on the account.
 *
 * Drawing again keeps what the person was at: what looks as before is left alone, and else the focus comes back
 * to the control of the same id, what was typed there stands, and what was unfolded stays so.
 */

import { button, h, put } from "./dom.js";
import { sentence } from "./errors.js";
import { t } from "./text.js";

/** @typedef {{ element: HTMLElement, reload: () => Promise<void> }} Part */

/**
 * @template T
 * @param {() => Promise<T>} load
 * @param {(found: T, reload: () => Promise<void>) => any} look  what is found, as elements
 * @returns {Part}
 */
export function part(load, look) {
  const element = h("div", { class: "part" }, h("p", { class: "hint loading" }, t("loading")));
  let turn = 0;
  let drawn = false;
  async function reload() {
    const mine = ++turn;
    element.setAttribute("aria-busy", "true");
    try {
      const found = await load();
      if (mine !== turn) return;
      draw(element, () => look(found, reload));
      drawn = true;
    } catch (error) {
      if (mine === turn && !drawn) put(element, fault(error));
    } finally {
      if (mine === turn) element.removeAttribute("aria-busy");
    }
  }
  const fault = (/** @type {unknown} */ error) => [
    h("p", { class: "fault", role: "alert" }, sentence(error)),
    h("div", { class: "row" }, button(t("again"), reload)),
  ];
  return { element, reload };
}

/**
 * Put what `make` gives into the element as `put` does, and keep what the person was at.
 * @param {HTMLElement} element
 * @param {() => any} make  may give again elements that are in it
 */
export function draw(element, make) {
  const at = element.contains(document.activeElement) ? document.activeElement?.id : "";
  const unfolded = [...element.querySelectorAll("details[open][id]")].map(({ id }) => id);
  const typed = [...element.querySelectorAll("input[id]")].filter((/** @type {any} */ { value, defaultValue }) => value !== defaultValue);
  const next = put(/** @type {HTMLElement} */ (element.cloneNode()), make());
  if (element.isEqualNode(next)) return; // with its button a click that is half done would be lost
  element.replaceChildren(...next.childNodes);
  for (const id of unfolded) document.getElementById(id)?.setAttribute("open", "");
  for (const { id, value } of /** @type {HTMLInputElement[]} */ (typed)) restore(id, value);
  if (at === "") return;
  const again = at && document.getElementById(at);
  /** @type {HTMLElement} */ (again || document.getElementById("main"))?.focus({ preventScroll: true });
}

/** @param {string} id @param {string} value */
function restore(id, value) {
  const input = document.getElementById(id);
  if (input instanceof HTMLInputElement) input.value = value;
}

/** A section with its heading; `id` makes the heading's. @param {string} title @param {...any} children */
export function section(title, ...children) {
  const heading = h("h2", { id: `section-${++sections}` }, title);
  return h("section", { "aria-labelledby": heading.id }, heading, children);
}
let sections = 0;

/** Names and values. @param {...([any, any] | null | false | undefined)} pairs  a pair without a value is left out */
export function facts(...pairs) {
  const kept = pairs.filter((pair) => pair && pair[1] !== "" && pair[1] !== null && pair[1] !== undefined);
  return h(
    "dl",
    { class: "facts" },
    kept.map((pair) => pair && h("div", null, h("dt", null, pair[0]), h("dd", null, pair[1]))),
  );
}

/** A short word beside a name. @param {string} text @param {string} [kind]  "good", "warn" or "bad" */
export function tag(text, kind = "") {
  return h("span", { class: `tag ${kind}`.trim() }, text);
}

/**
 * Something the person should know before anything else.
 * @param {"warn" | "bad" | "note"} kind @param {string} title @param {...any} children
 */
export function banner(kind, title, ...children) {
  const heading = h("h2", { id: `section-${++sections}` }, title);
  return h("section", { class: `banner ${kind}`, "aria-labelledby": heading.id }, heading, children);
}
