/**
 * The pages that stand where no account can be shown: no connection yet, or none any more.
 */

import { button, h } from "../dom.js";
import { client } from "../session.js";
import { has, t } from "../text.js";

export function connecting() {
  const element = h("div", { class: "narrow" }, h("h1", null, t("connecting.title")), h("p", { class: "lead" }, t("connecting.text")));
  return { title: t("connecting.title"), element, parts: [] };
}

/** The hub ended it for good, and said why. @param {any} status */
export function ended({ closing, movedTo }) {
  const name = closing?.name && has(`ended.${closing.name}`) ? closing.name : "other";
  const element = h(
    "div",
    { class: "narrow" },
    h("h1", null, t("ended.title")),
    h("p", { class: "lead" }, t(`ended.${name}`)),
    movedTo && h("p", null, t("ended.moved_to"), " ", h("code", { class: "text" }, movedTo)),
    h("div", { class: "row" }, wayOn(name)),
  );
  return { title: t("ended.title"), element, parts: [] };
}

/** Another tab took over: this one may take it back. Else it begins anew. @param {string} name */
function wayOn(name) {
  if (name === "replaced") return button(t("ended.here"), () => client.start(), "primary");
  return button(t("ended.sign_in"), () => client.forget(), "primary");
}
