/**
 * Makes elements: `h("p", { class: "note" }, "text", child)`, and nothing else.
 *
 * Text is always text: there is no way to hand in HTML, so nothing that a person, an app or another
 * device wrote can become markup. Listeners are `onclick: fn`; `aria` takes an object.
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
  else element.setAttribute(name, value === true ? "" : value);
}

/** @param {any[]} children @returns {any[]} */
function flat(children) {
  const kept = children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
  return kept.map((child) => (typeof child === "object" ? child : String(child)));
}
