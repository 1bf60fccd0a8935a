/**
 * One account as the operator may see it: numbers, dates, terms; nothing that is in it.
 */

import { button, h } from "../dom.js";
import { sentence } from "../errors.js";
import { ago, bytes, date, dayAgo, dayDate, moment, number, short } from "../format.js";
import { field, form } from "../forms.js";
import { ask, dialog, notice } from "../overlay.js";
import { facts, part, section } from "../part.js";
import { client, now } from "../session.js";
import { t } from "../text.js";
import { states } from "./accounts.js";

const MIB = 1_048_576;

/** @param {string} id  32 hex digits */
export function accountDetail(id) {
  return [part(() => client.operate("account", { account_id: id }), draw)];
}

/** @param {any} a @param {() => any} reload */
function draw(a, reload) {
  return [
    h("p", { class: "mono text" }, a.account_id, " ", states(a)),
    h("div", { class: "card" }, facts(
      [t("accounts.used"), t("room.short", { used: bytes(a.used_bytes), quota: bytes(a.quota_bytes) })],
      [t("account.plan"), a.plan && h("span", { class: "text" }, a.plan)],
      [t("terms.billing_ref"), a.billing_ref && h("span", { class: "text" }, a.billing_ref)],
      [t("account.paid_until"), a.paid_until ? date(a.paid_until) : null],
      [t("accounts.created"), dayDate(a.created_day)],
      [t("accounts.seen"), a.last_seen_day ? dayAgo(a.last_seen_day, now()) : null],
      [t("state.suspended"), a.suspended_at ? moment(a.suspended_at) : null],
      [t("state.deleting"), a.deleted_at ? moment(a.deleted_at) : null],
      [t("state.moving"), a.moving_to && h("span", { class: "text" }, a.moving_to)],
    )),
    section(t("terms.title"), terms(a, reload)),
    section(t("devices.title"), deviceTable(a, reload)),
    section(t("apps.title"), spaceTable(a.space_list)),
    section(t("accounts.acts"), acts(a, reload)),
  ];
}

/** @param {any} a @param {() => any} reload */
function terms(a, reload) {
  const own = a.own_quota_bytes === null ? "" : String(Math.round(a.own_quota_bytes / MIB));
  const quota = field(t("terms.quota"), { id: "quota", inputmode: "numeric", pattern: "[0-9]*", value: own }, t("terms.quota_hint"));
  const plan = field(t("account.plan"), { id: "plan", maxlength: "64", value: a.plan });
  const ref = field(t("terms.billing_ref"), { id: "billing-ref", maxlength: "128", value: a.billing_ref ?? "" }, t("terms.billing_hint"));
  const paid = field(t("account.paid_until"), { id: "paid-until", type: "date", value: a.paid_until ? new Date(a.paid_until * 1000).toISOString().slice(0, 10) : "" });
  const save = async () => {
    await client.operate("set_terms", {
      account_id: a.account_id,
      quota_mib: quota.input.value ? Number(quota.input.value) : null,
      plan: plan.input.value,
      billing_ref: ref.input.value || null,
      paid_until: paid.input.value ? Date.parse(`${paid.input.value}T23:59:59Z`) / 1000 : null,
    });
    notice(t("terms.saved"));
    await reload();
  };
  return form([h("div", { class: "two" }, quota.row, plan.row, ref.row, paid.row)], t("terms.save"), save);
}

/** @param {string[]} columns @param {any[]} rows @param {string} label */
function table(columns, rows, label) {
  const head = h("tr", null, columns.map((name) => h("th", { scope: "col" }, name)));
  return h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": label }, h("table", { class: "list" }, h("thead", null, head), h("tbody", null, rows)));
}

/** @param {any} a @param {() => any} reload */
function deviceTable(a, reload) {
  const revoke = (/** @type {any} */ device) =>
    act("revoke", { account_id: a.account_id, device_id: device.device_id }, t("operator.revoke_sure"), t("device.revoke"), reload);
  const rows = a.device_list.map((/** @type {any} */ device) =>
    h(
      "tr",
      null,
      h("td", { class: "mono" }, short(device.device_id)),
      h("td", { class: "text" }, device.scope === "account" ? t("device.dashboard") : device.app_id),
      h("td", null, date(device.enrolled_at)),
      h("td", null, dayAgo(device.last_seen_day, now())),
      h("td", null, button(t("device.revoke"), () => revoke(device), "danger-quiet small", { "aria-label": t("device.revoke_this", { device: short(device.device_id) }) })),
    ),
  );
  return table([t("device.id"), t("device.app"), t("device.enrolled"), t("device.last_seen"), t("accounts.act")], rows, t("devices.title"));
}

/** @param {any[]} spaces */
function spaceTable(spaces) {
  const rows = spaces.map((space) =>
    h(
      "tr",
      null,
      h("td", { class: "text" }, space.app_id),
      h("td", { class: "num" }, bytes(space.used_bytes)),
      h("td", { class: "num" }, number(space.changes)),
      h("td", null, space.last_change_at ? ago(space.last_change_at, now()) : "–"),
      h("td", null, space.deleted_at ? moment(space.deleted_at) : ""),
    ),
  );
  return table([t("device.app"), t("accounts.used"), t("app.changes"), t("app.last_change"), t("state.deleting")], rows, t("apps.title"));
}

/** @param {any} a @param {() => any} reload */
function acts(a, reload) {
  const named = { account_id: a.account_id };
  return h(
    "div",
    { class: "row" },
    a.suspended_at
      ? button(t("operator.resume"), () => act("resume", named, t("operator.resume_sure"), t("operator.resume"), reload))
      : button(t("operator.suspend"), () => act("suspend", named, t("operator.suspend_sure"), t("operator.suspend"), reload), "danger-quiet"),
    a.deleted_at
      ? button(t("operator.keep"), () => act("keep", named, t("operator.keep_sure"), t("operator.keep"), reload))
      : button(t("operator.delete"), () => remove(a, reload), "danger-quiet"),
  );
}

/** @param {string} verb @param {any} words @param {string} text @param {string} yes @param {() => any} reload */
async function act(verb, words, text, yes, reload) {
  if (!(await ask(yes, text, { yes, danger: true }))) return;
  try {
    await client.operate(verb, words);
    notice(t("operator.done"));
  } catch (error) {
    notice(sentence(error), { stay: true });
  }
  await reload();
}

/** Delete the account: after the delay, or at once when its id is typed. @param {any} a @param {() => any} reload */
async function remove(a, reload) {
  const start = a.account_id.slice(0, 8);
  const answer = await dialog(t("operator.delete"), (close) => {
    const { row, input } = field(t("operator.delete_type", { id: start }), { id: "delete-id", autocomplete: "off" });
    const go = async () => close(await client.operate("delete", { account_id: a.account_id, now: input.value.trim() === start }));
    return [h("p", null, t("operator.delete_sure")), form([row], t("operator.delete"), go, { kind: "danger", more: button(t("cancel"), () => close(), "quiet") })];
  });
  if (!answer) return;
  const { deleted_at: at } = /** @type {any} */ (answer);
  notice(at ? t("delete.set", { when: moment(at) }) : t("operator.deleted"), { stay: true });
  if (at) await reload();
  else location.hash = "#/operator/accounts";
}
