/**
 * Small forms: fields, one button, and under it what went wrong.
 */

import { h, put } from "./dom.js";
import { sentence } from "./errors.js";

/**
 * Fields with a button; while it works the button waits, and what went wrong stands under it.
 * @param {any[]} fields @param {string} label @param {() => Promise<any>} work
 * @param {{ more?: any, kind?: string }} [options]  `more`: further buttons
 */
export function form(fields, label, work, { more, kind = "primary" } = {}) {
  const fault = h("p", { class: "fault", role: "alert" });
  const go = h("button", { class: `button ${kind}` }, label);
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

/**
 * A label over its field; `hint` stands under it.
 * @param {string} label @param {Record<string, any>} attributes  with an id @param {string} [hint]
 * @returns {{ row: HTMLElement, input: HTMLInputElement }}
 */
export function field(label, attributes, hint) {
  const { tag = "input", ...more } = attributes;
  const about = hint ? { "aria-describedby": `${attributes.id}-hint` } : {};
  const input = h(tag, { ...(tag === "input" ? { type: "text" } : {}), ...about, ...more, class: `field ${more.class ?? ""}`.trim() });
  const row = h(
    "div",
    { class: "field-row" },
    h("label", { for: attributes.id }, label),
    input,
    hint && h("p", { class: "hint", id: `${attributes.id}-hint` }, hint),
  );
  return { row, input };
}

/** A field for the eight digits from a mail. @param {string} label @param {string} id */
export function codeField(label, id) {
  return field(label, {
    id,
    class: "code",
    inputmode: "numeric",
    autocomplete: "one-time-code",
    required: true,
    placeholder: "0000 0000",
    maxlength: "12",
  });
}

/** @param {HTMLInputElement} input */
export function digits(input) {
  return input.value.replace(/\D/g, "");
}
