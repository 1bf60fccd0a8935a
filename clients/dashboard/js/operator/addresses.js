/**
 * Who may sign up and who may not, by addresses that the hub keeps as fingerprints only.
 */

import { h } from "../dom.js";
import { number } from "../format.js";
import { field, form } from "../forms.js";
import { notice } from "../overlay.js";
import { facts, part } from "../part.js";
import { client } from "../session.js";
import { t } from "../text.js";

export function addresses() {
  const counts = part(() => client.operate("stats", {}), (found) =>
    h("div", { class: "card" }, facts([t("stats.allowed"), number(found.allowed)], [t("stats.blocked"), number(found.blocked)])),
  );
  return [counts, { element: lists(counts.reload), reload: async () => undefined }];
}

/** @param {() => Promise<any>} reload */
function lists(reload) {
  const address = field(t("accounts.address"), { id: "listed-address", type: "email", autocomplete: "off", required: true });
  const what = field(t("addresses.what"), { tag: "select", id: "listed-what" });
  what.input.append(...["allow", "block", "unlist"].map((verb) => h("option", { value: verb }, t(`addresses.${verb}`))));
  const go = async () => {
    await client.operate(what.input.value, { address: address.input.value.trim() });
    address.input.value = "";
    notice(t("operator.done"));
    await reload();
  };
  return h("div", { class: "narrow" }, h("p", null, t("addresses.text")), h("div", { class: "card" }, form([address.row, what.row], t("addresses.go"), go)));
}
