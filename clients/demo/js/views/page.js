/**
 * What the quiet pages have in common: the way back, and sections.
 */

import { h, icon } from "../dom.js";
import { badge } from "./side.js";

/** The bar above a page; on a wide screen there is nothing to go back to. */
export function top() {
  return h(
    "header",
    { class: "bar only-narrow" },
    h("a", { href: "#/", class: "icon-button back", "aria-label": "All chapters" }, icon("back")),
    badge(),
  );
}

/** @param {string} title @param {...any} content */
export function section(title, ...content) {
  const id = `section-${++numbers}`;
  return h("section", { class: "part", "aria-labelledby": id }, h("h2", { id }, title), ...content);
}
let numbers = 0;
