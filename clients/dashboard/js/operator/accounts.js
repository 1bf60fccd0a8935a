/**
 * All accounts, a page at a time; found by what the hub knows of them, or by an address that is typed here.
 */

import { button, h, put } from "../dom.js";
import { sentence } from "../errors.js";
import { bytes, dayAgo, number, percent } from "../format.js";
import { field, form } from "../forms.js";
import { notice } from "../overlay.js";
import { part, tag } from "../part.js";
import { client, now } from "../session.js";
import { t } from "../text.js";

const AT_ONCE = 50;

export function accounts() {
  let matching = "";
  const list = part(() => client.operate("accounts", { limit: AT_ONCE, ...(matching ? { matching } : {}) }), (found) => draw(found, matching));
  const search = (/** @type {string} */ text) => {
    matching = text;
    return list.reload();
  };
  return [{ element: searches(search), reload: async () => undefined }, list];
}

/** @param {(text: string) => Promise<any>} search */
function searches(search) {
  const text = field(t("accounts.matching"), { id: "matching", type: "search", autocomplete: "off" }, t("accounts.matching_hint"));
  const address = field(t("accounts.address"), { id: "find-address", type: "email", autocomplete: "off", required: true }, t("accounts.address_hint"));
  const find = async () => {
    const { account_id: id } = await client.operate("find_account", { address: address.input.value.trim() });
    if (id) location.hash = `#/operator/accounts/${id}`;
    else notice(t("accounts.nobody"));
  };
  return h(
    "div",
    { class: "two card" },
    form([text.row], t("accounts.search"), () => search(text.input.value.trim()), { kind: "" }),
    form([address.row], t("accounts.find"), find, { kind: "" }),
  );
}

/** @param {any} found @param {string} matching */
function draw(found, matching) {
  if (!found.accounts.length) return h("p", { class: "empty" }, t("accounts.none"));
  const body = h("tbody");
  const foot = h("div", { class: "row" });
  const add = (/** @type {any} */ { accounts: more, more: older }) => {
    body.append(...more.map(row));
    const after = more.at(-1)?.account_id;
    const next = () =>
      client.operate("accounts", { limit: AT_ONCE, after, ...(matching ? { matching } : {}) }).then(add, (/** @type {any} */ error) => notice(sentence(error)));
    put(foot, older && button(t("more"), next));
  };
  add(found);
  const head = ["account", "used", "devices", "plan", "seen"].map((name) => h("th", { scope: "col" }, t(`accounts.${name}`)));
  return [
    h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": t("operator.accounts") }, h("table", { class: "list" }, h("thead", null, h("tr", null, head)), body)),
    foot,
  ];
}

/** @param {any} a */
function row(a) {
  return h(
    "tr",
    null,
    h("td", null, h("a", { class: "mono", href: `#/operator/accounts/${a.account_id}` }, a.account_id.slice(0, 8)), " ", states(a)),
    h("td", { class: "num" }, `${bytes(a.used_bytes)} (${percent(a.used_bytes, a.quota_bytes)} %)`),
    h("td", { class: "num" }, number(a.devices)),
    h("td", { class: "text" }, a.plan),
    h("td", null, a.last_seen_day ? dayAgo(a.last_seen_day, now()) : "–"),
  );
}

/** What is out of the ordinary about an account, as tags. @param {any} a */
export function states(a) {
  return [
    a.operator && tag(t("state.operator"), "good"),
    a.suspended_at && tag(t("state.suspended"), "bad"),
    a.deleted_at && tag(t("state.deleting"), "bad"),
    a.moving_to && tag(t("state.moving"), "warn"),
    !a.address_known && tag(t("state.no_address"), "warn"),
  ];
}
