/**
 * The account itself: its terms, its address, and the ways out.
 */

import { button, h, put } from "../dom.js";
import { sentence } from "../errors.js";
import { date, moment } from "../format.js";
import { field, form } from "../forms.js";
import { codeStep, freshCode } from "../mailcode.js";
import { ask, notice } from "../overlay.js";
import { facts, part, section } from "../part.js";
import { account, client } from "../session.js";
import { t } from "../text.js";
import { accountDeletion, seconds } from "./deletions.js";
import { meter } from "./overview.js";

export function accountPage() {
  const terms = part(() => client.spaces(), draw);
  const element = h(
    "div",
    { class: "narrow" },
    h("h1", null, t("account.title")),
    terms.element,
    section(t("address.title"), address()),
    section(t("signout.title"), h("p", null, t("signout.text")), h("div", { class: "row" }, button(t("signout.go"), signOut))),
    h("div", { class: "danger-zone" }, section(t("leave.title"), h("p", null, t("leave.text")), h("div", { class: "row" }, button(t("leave.go"), () => leave(terms.reload), "danger-quiet")))),
  );
  return { title: t("account.title"), element, parts: [terms] };
}

/** @param {any[]} spaces @param {() => any} reload */
function draw(spaces, reload) {
  const used = spaces.reduce((sum, { usedBytes }) => sum + usedBytes, 0);
  const { plan, paidUntil, quotaBytes } = client.ready;
  return [
    accountDeletion(reload),
    h(
      "div",
      { class: "card" },
      meter(used, quotaBytes),
      facts([t("account.plan"), h("span", { class: "text" }, plan || t("account.no_plan"))], [t("account.paid_until"), paidUntil ? date(paidUntil) : null], [t("account.hub"), location.host]),
    ),
  ];
}

function address() {
  const place = h("div");
  const start = () => {
    const known = client.ready.addressKnown !== false;
    put(place, h("p", null, t(known ? "address.text" : "address.unknown")), h("div", { class: "row" }, button(t("address.change"), () => begin(known))));
  };
  const begin = async (/** @type {boolean} */ known) => {
    if (known && !(await freshCode(t("address.why_code")))) return;
    const { row, input } = field(t("address.new"), { id: "new-address", type: "email", autocomplete: "email", required: true });
    const second = async () => {
      const to = input.value.trim();
      const sent = await client.requestChange(to);
      const use = async (/** @type {string} */ code) => {
        await client.changeAddress(code);
        notice(t("address.changed"));
        start();
      };
      const step = codeStep({ address: to, sent, label: t("address.change"), use, more: button(t("cancel"), start, "quiet") });
      put(place, step.element);
      step.input.focus();
    };
    put(place, form([row], t("signin.send"), second, { more: button(t("cancel"), start, "quiet") }));
    input.focus();
  };
  start();
  return place;
}

async function signOut() {
  if (!(await ask(t("signout.title"), t("signout.sure"), { yes: t("signout.go") }))) return;
  try {
    await client.forget();
    location.hash = "#/"; // whoever signs in next begins at the beginning
  } catch (error) {
    notice(sentence(error), { stay: true });
  }
}

/** @param {() => any} reload */
async function leave(reload) {
  const text = [t("leave.sure"), t("delete.local")];
  if (!(await ask(t("leave.title"), text, { yes: t("go_on"), danger: true }))) return;
  if (!(await freshCode(t("leave.why_code")))) return;
  try {
    account.deletedAt = seconds(await client.deleteAccount());
    notice(t("leave.set", { when: moment(account.deletedAt) }), { stay: true });
  } catch (error) {
    notice(sentence(error), { stay: true });
  }
  await reload();
}
