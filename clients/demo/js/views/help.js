/**
 * The shortcuts, and what markdown is understood.
 */

import { h } from "../dom.js";
import { section, top } from "./page.js";

const KEYS = [
  ["Alt N", "New chapter"],
  ["Alt P", "Preview, and back to writing"],
  ["Alt L", "To the list of chapters"],
  ["Alt T", "To the text"],
  ["↑ ↓", "Go through the list"],
  ["Alt ↑ Alt ↓", "Move the chapter in the list"],
  ["Alt G", "Words by day"],
  ["Alt Y", "Sync"],
  ["?", "This page"],
];

const MARKS = [
  ["# Heading", "A heading; ## and ### are smaller"],
  ["*soft* **strong**", "Emphasis"],
  ["> He said", "A quotation"],
  ["- one", "A list; 1. for a numbered one"],
  ["[text](https://…)", "A link"],
  ["***", "A break between scenes"],
];

export function help() {
  const element = h(
    "section",
    { class: "page" },
    top(),
    h("h1", null, "Keyboard and marks"),
    section("Keyboard", list(KEYS, "kbd")),
    section("Marks in the text", list(MARKS, "code")),
    section(
      "Saving",
      h(
        "p",
        null,
        "There is nothing to save. Every word is kept on this device within half a second, and sent to your other " +
          "devices when there is a network.",
      ),
    ),
  );
  return { title: "Keyboard and marks", element };
}

/** @param {string[][]} pairs @param {string} tag */
function list(pairs, tag) {
  return h(
    "dl",
    { class: "pairs" },
    pairs.map(([one, other]) =>
      h("div", null, h("dt", null, tag === "kbd" ? keys(one) : h(tag, null, one)), h("dd", null, other)),
    ),
  );
}

/** @param {string} text */
function keys(text) {
  return text.split(" ").map((key, at) => [at ? " " : null, h("kbd", null, key)]);
}
