/**
 * Makes elements: `h("p", { class: "note" }, "text", child)`, and nothing else.
 *
 * Text is always text: there is no way to hand in HTML, so nothing that a person or another device
 * wrote can become markup. Listeners are `onclick: fn`; `aria` and `data` take objects.
 */

const SVG = "http://www.w3.org/2000/svg";

/**
 * An HTML element with these attributes, listeners and children.
 * @param {string} tag
 * @param {Record<string, any> | null} [attributes]  null, undefined and false leave one out; true sets it empty
 * @param {...any} children  nodes, texts, numbers, lists of them; null and false are left out
 * @returns {any}
 */
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/**
 * The same for SVG.
 * @param {string} tag
 * @param {Record<string, any> | null} [attributes]
 * @param {...any} children
 * @returns {any}
 */
export function s(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/**
 * Put these children into the element, in place of what it held.
 * @param {Element} element
 * @param {...any} children
 */
export function put(element, ...children) {
  element.replaceChildren(...flat(children));
  return element;
}

/** Words for screen readers alone. @param {string} text */
export function quiet(text) {
  return h("span", { class: "sr-only" }, text);
}

/**
 * A small drawing from `icons` below; never the only name of a control.
 * @param {keyof typeof ICONS} name
 */
export function icon(name) {
  const drawing = s("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true", focusable: "false" });
  for (const path of ICONS[name]) drawing.append(s("path", { d: path }));
  return drawing;
}

/**
 * A button. `kind` is "", "primary", "quiet" or "danger".
 * @param {string} text
 * @param {(event: Event) => any} onclick
 * @param {string} [kind]
 * @param {Record<string, any>} [more]
 * @returns {HTMLButtonElement}
 */
export function button(text, onclick, kind = "", more = {}) {
  return h("button", { type: "button", class: `button ${kind}`.trim(), onclick, ...more }, text);
}

/** An SVG as the address of a picture, so that nothing of it becomes part of the page. @param {string} svg */
export function picture(svg) {
  return `data:image/svg+xml,${encodeURIComponent(svg)}`;
}

const ICONS = {
  plus: ["M12 5v14", "M5 12h14"],
  back: ["M15 5l-7 7 7 7"],
  more: [
    "M5 11.2a.8.8 0 1 0 0 1.6.8.8 0 0 0 0-1.6z",
    "M12 11.2a.8.8 0 1 0 0 1.6.8.8 0 0 0 0-1.6z",
    "M19 11.2a.8.8 0 1 0 0 1.6.8.8 0 0 0 0-1.6z",
  ],
  eye: [
    "M2.5 12S6 5.5 12 5.5 21.5 12 21.5 12 18 18.5 12 18.5 2.5 12 2.5 12z",
    "M12 9.2a2.8 2.8 0 1 0 0 5.6 2.8 2.8 0 0 0 0-5.6z",
  ],
  pen: ["M4 20l1-4L16 5l3 3L8 19z", "M14 7l3 3"],
  chart: ["M5 20v-6", "M12 20V5", "M19 20V10"],
  keys: ["M3 7h18v11H3z", "M7 11h.01", "M11 11h.01", "M15 11h.01", "M8 14.5h8"],
  sun: [
    "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8z",
    "M12 2.5v2",
    "M12 19.5v2",
    "M2.5 12h2",
    "M19.5 12h2",
    "M5.3 5.3l1.4 1.4",
    "M17.3 17.3l1.4 1.4",
    "M5.3 18.7l1.4-1.4",
    "M17.3 6.7l1.4-1.4",
  ],
  moon: ["M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z"],
  save: ["M12 4v11", "M7.5 11l4.5 4.5L16.5 11", "M5 20h14"],
};

/** @param {any} element @param {Record<string, any> | null | undefined} attributes @param {any[]} children */
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) set(element, name, value);
  element.append(...flat(children));
  return element;
}

/** @param {any} element @param {string} name @param {any} value */
function set(element, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
  else if (name === "aria") for (const [key, word] of Object.entries(value)) element.setAttribute(`aria-${key}`, word);
  else if (name === "data") Object.assign(element.dataset, value);
  else if (name === "value") element.value = value;
  else element.setAttribute(name, value === true ? "" : value);
}

/** @param {any[]} children @returns {any[]} */
function flat(children) {
  const kept = children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
  return kept.map((child) => (typeof child === "object" ? child : String(child)));
}
