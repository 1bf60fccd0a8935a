/**
 * What happened on the account, newest first.
 */

import { button, h, put } from "../dom.js";
import { actor, happening } from "../devices.js";
import { sentence } from "../errors.js";
import { moment } from "../format.js";
import { notice } from "../overlay.js";
import { part } from "../part.js";
import { client } from "../session.js";
import { t } from "../text.js";

const AT_ONCE = 50;

export function history() {
  const list = part(load, draw);
  const element = h("div", null, h("h1", null, t("history.title")), h("p", { class: "lead" }, t("history.lead")), list.element);
  return { title: t("history.title"), element, parts: [list] };
}

async function load() {
  const [devices, spaces] = await Promise.all([client.devices(), client.spaces()]);
  return { devices, spaces, page: await client.audit({ limit: AT_ONCE }) };
}

/** @param {any} found */
function draw({ devices, spaces, page }) {
  if (!page.entries.length) return h("p", { class: "empty" }, t("history.none"));
  const body = h("tbody");
  const foot = h("div", { class: "row" });
  const add = ({ entries, more }) => {
    body.append(...entries.map((/** @type {any} */ entry) => row(entry, devices, spaces)));
    const before = entries.at(-1)?.number;
    const older = () => client.audit({ before, limit: AT_ONCE }).then(add, (error) => notice(sentence(error)));
    put(foot, more && button(t("more"), older));
  };
  add(page);
  const head = h("tr", null, ["when", "what", "who"].map((name) => h("th", { scope: "col" }, t(`history.${name}`))));
  return [h("table", { class: "list" }, h("caption", { class: "sr-only" }, t("history.title")), h("thead", null, head), body), foot];
}

/** @param {any} entry @param {any[]} devices @param {any[]} spaces */
function row(entry, devices, spaces) {
  return h(
    "tr",
    null,
    h("td", { class: "when" }, h("time", { datetime: new Date(entry.at * 1000).toISOString() }, moment(entry.at))),
    h("td", { class: "text" }, happening(entry, devices, spaces)),
    h("td", { class: "text who" }, actor(entry, devices)),
  );
}
