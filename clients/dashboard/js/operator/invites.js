/**
 * Invitations: made here, shown once, taken back.
 */

import { button, h, put } from "../dom.js";
import { sentence } from "../errors.js";
import { moment } from "../format.js";
import { field, form } from "../forms.js";
import { notice } from "../overlay.js";
import { part, section } from "../part.js";
import { client } from "../session.js";
import { t } from "../text.js";

export function invites() {
  const list = part(() => client.operate("invites", {}), draw);
  return [{ element: maker(list.reload), reload: async () => undefined }, list];
}

/** @param {() => Promise<any>} reload */
function maker(reload) {
  const made = h("div", { role: "status" });
  const days = field(t("invites.days"), { id: "invite-days", type: "number", min: "1", max: "365", value: "7", required: true });
  const make = async () => {
    const { token, expires_at: at } = await client.operate("invite", { days: Number(days.input.value) });
    put(made, h("p", null, t("invites.made", { when: moment(at) })), h("p", null, h("code", { class: "token text" }, token)));
    await reload();
  };
  return h("div", { class: "card narrow" }, form([days.row], t("invites.make"), make), made);
}

/** @param {{ invites: any[] }} found @param {() => Promise<any>} reload */
function draw({ invites: found }, reload) {
  const withdraw = async (/** @type {string} */ invite) => {
    await client.operate("withdraw_invite", { invite }).catch((/** @type {any} */ error) => notice(sentence(error)));
    await reload();
  };
  const rows = found.map(({ invite, expires_at: at, used_at: used }) =>
    h(
      "li",
      null,
      h("span", { class: "name mono" }, invite),
      used ? h("span") : button(t("invites.withdraw"), () => withdraw(invite), "danger-quiet small", { "aria-label": t("invites.withdraw_this", { invite }) }),
      h("span", { class: "hint" }, used ? t("invites.used", { when: moment(used) }) : t("invites.until", { when: moment(at) })),
    ),
  );
  return section(t("invites.all"), rows.length ? h("ul", { class: "rows" }, rows) : h("p", { class: "hint" }, t("invites.none")));
}
