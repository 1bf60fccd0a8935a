/**
 * The operator's pages, behind the code of the authenticator app.
 */

import { h, put } from "../dom.js";
import { field, form } from "../forms.js";
import { client } from "../session.js";
import { t } from "../text.js";
import { accountDetail } from "./account.js";
import { accounts } from "./accounts.js";
import { addresses } from "./addresses.js";
import { invites } from "./invites.js";
import { stats } from "./stats.js";

/** @typedef {import("../part.js").Part} Part */

/**
 * The page that this address names; the code is asked for first, when the hub wants it.
 * @param {string[]} path  what follows "operator" in the address
 */
export function operatorPages([name = "", id = ""]) {
  const { title, build } = chosen(name, id);
  const place = h("div");
  const lead = h("h1", { class: "text" }, title);
  const element = h("div", null, lead, place);
  /** @type {Part[]} */
  let parts = [];
  const enter = async () => {
    try {
      await client.operate("stats", {});
    } catch (error) {
      if (/** @type {any} */ (error).code !== "operator_code_needed") throw error;
      parts = [];
      return gate(place, enter);
    }
    if (!parts.length) {
      parts = build();
      put(place, parts.map((part) => part.element));
    }
    await Promise.all(parts.map((part) => part.reload()));
  };
  return { title, element, parts: [{ reload: enter }] };
}

/** @param {string} name @param {string} id @returns {{ title: string, build: () => Part[] }} */
function chosen(name, id) {
  if (name === "accounts" && id) return { title: t("operator.account", { id: id.slice(0, 8) }), build: () => accountDetail(id) };
  if (name === "accounts") return { title: t("operator.accounts"), build: accounts };
  if (name === "invites") return { title: t("operator.invites"), build: invites };
  if (name === "addresses") return { title: t("operator.addresses"), build: addresses };
  return { title: t("operator.stats"), build: stats };
}

/** The six digits. @param {HTMLElement} place @param {() => Promise<any>} enter */
function gate(place, enter) {
  if (document.getElementById("totp")) return; // it is being typed
  const { row, input } = field(t("operator.code"), {
    id: "totp",
    class: "code",
    inputmode: "numeric",
    autocomplete: "one-time-code",
    required: true,
    placeholder: "000 000",
    maxlength: "7",
  }, t("operator.code_hint"));
  const go = async () => {
    await client.operatorCode(input.value.replace(/\D/g, ""));
    await enter();
  };
  put(place, h("div", { class: "card narrow" }, form([row], t("operator.enter"), go)));
  input.focus();
}
