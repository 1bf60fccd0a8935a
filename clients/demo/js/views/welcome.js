/**
 * What is seen while there is no chapter.
 */

import { h } from "../dom.js";

export function welcome() {
  const element = h(
    "section",
    { class: "page welcome" },
    h("h1", null, "A quiet place to write"),
    h(
      "p",
      { class: "lead" },
      "Write your chapters here. They are kept on this device as you type, with or without a network.",
    ),
    h(
      "div",
      { class: "row" },
      h("a", { href: "#/new", class: "button primary" }, "Begin a chapter"),
      h("a", { href: "#/sync", class: "button" }, "Bring my chapters here"),
    ),
    h(
      "p",
      { class: "hint" },
      "With sync on, your other devices have the same chapters. They are sealed on the way: the hub cannot read a " +
        "word.",
    ),
  );
  return { title: "", element };
}
