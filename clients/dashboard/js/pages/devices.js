/**
 * Every device of the account: what it is, how it came, and the way to end it.
 */

import { button, h } from "../dom.js";
import { deviceTitle, enrolledHow, onProbation } from "../devices.js";
import { sentence } from "../errors.js";
import { date, dayAgo, moment, short } from "../format.js";
import { keyPanel } from "../key.js";
import { ask, notice } from "../overlay.js";
import { facts, part, section, tag } from "../part.js";
import { client, hex, isThis, names, now } from "../session.js";
import { rich, t } from "../text.js";

export function devices() {
  const all = part(() => client.devices(), draw);
  const element = h(
    "div",
    null,
    h("h1", null, t("devices.title")),
    h("p", { class: "lead" }, t("devices.lead")),
    all.element,
    section(t("names.title"), h("p", null, t("names.text")), keyPanel(all.reload)),
  );
  return { title: t("devices.title"), element, parts: [all] };
}

/** @param {any[]} found @param {() => any} reload */
function draw(found, reload) {
  const order = [...found].sort((a, b) => rank(a) - rank(b) || b.lastSeenDay - a.lastSeenDay);
  const rows = order.map((device) => card(device, reload));
  return h("ul", { class: "cards" }, rows);
}

/** Who waits for a word comes first, then this device. @param {any} device */
function rank(device) {
  if (isThis(device.deviceId)) return 1;
  return onProbation(device, now()) ? 0 : 2;
}

/** @param {any} device @param {() => any} reload */
function card(device, reload) {
  const id = hex(device.deviceId);
  const waits = onProbation(device, now());
  const heading = h("h2", { id: `device-${id}`, class: "text" }, deviceTitle(device));
  return h(
    "li",
    { class: "card" },
    h(
      "article",
      { "aria-labelledby": heading.id },
      h("div", { class: "card-head" }, heading, isThis(device.deviceId) && tag(t("device.this"), "good"), waits && tag(t("device.on_probation"), "warn")),
      facts(
        [t("device.app"), names.has(id) || device.scope === "account" ? h("span", { class: "text" }, device.appId) : null],
        [t("device.last_seen"), dayAgo(device.lastSeenDay, now())],
        [t("device.enrolled"), t("device.enrolled_at", { when: date(device.enrolledAt), how: enrolledHow(device) })],
        [t("device.probation"), waits ? moment(device.probationUntil) : null],
        [t("device.id"), h("span", { class: "mono" }, short(id))],
      ),
      actions(device, waits, reload),
    ),
  );
}

/** @param {any} device @param {boolean} waits @param {() => any} reload */
function actions(device, waits, reload) {
  const [id, title] = [hex(device.deviceId), deviceTitle(device)];
  const named = (/** @type {string} */ key) => ({ "aria-label": t(key, { device: `${title} ${short(id)}` }) });
  if (isThis(device.deviceId)) return h("p", { class: "row" }, h("a", { class: "button", href: "#/account" }, t("device.sign_out")));
  const approve = () => work(async () => {
    await client.approve(device.deviceId);
    notice(t("device.approved", { device: title }));
  }, reload);
  const revoke = async () => {
    const name = h("strong", { class: "text" }, title);
    const text = [h("p", null, rich("revoke.text", { device: name })), t("revoke.local")];
    if (!(await ask(t(waits ? "reject.title" : "revoke.title"), text, { yes: t(waits ? "device.reject" : "device.revoke"), danger: true }))) return;
    await work(async () => {
      await client.revoke([device.deviceId]);
      notice(t("device.revoked", { device: title }));
    }, reload);
  };
  return h(
    "div",
    { class: "row" },
    waits && button(t("device.approve"), approve, "primary", { id: `approve-${id}`, ...named("device.approve_this") }),
    button(t(waits ? "device.reject" : "device.revoke"), revoke, "danger-quiet", { id: `revoke-${id}`, ...named(waits ? "device.reject_this" : "device.revoke_this") }),
  );
}

/** @param {() => Promise<any>} what @param {() => any} reload */
async function work(what, reload) {
  try {
    await what();
  } catch (error) {
    notice(sentence(error), { stay: true });
  }
  await reload();
}
