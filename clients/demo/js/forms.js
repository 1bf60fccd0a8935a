/**
 * Small forms: fields, one button, and under it what went wrong.
 */

import { h, put } from "./dom.js";
import { sentence } from "./errors.js";

/**
 * Fields with a button; while it works the button waits, and what went wrong stands under it.
 * @param {any[]} fields @param {string} label @param {() => Promise<any>} work @param {any} [more]
 */
export function form(fields, label, work, more) {
  const fault = h("p", { class: "fault", role: "alert" });
  const go = h("button", { class: "button primary" }, label);
  const submit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    if (go.getAttribute("aria-disabled")) return;
    go.setAttribute("aria-disabled", "true");
    put(fault);
    try {
      await work();
    } catch (error) {
      put(fault, sentence(error));
    } finally {
      go.removeAttribute("aria-disabled");
    }
  };
  return h("form", { onsubmit: submit }, fields, h("div", { class: "row" }, go, more), fault);
}

/** @param {Record<string, any>} attributes */
export function field(attributes) {
  return h("input", { type: "text", class: "field", ...attributes });
}
