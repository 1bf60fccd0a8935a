/**
 * The account at a glance: what needs the person, what is stored, which devices, what happened lately.
 */

import { h, s } from "../dom.js";
import { deviceTitle, happening, onProbation } from "../devices.js";
import { ago, bytes, dayAgo, moment, percent, short } from "../format.js";
import { keyPanel } from "../key.js";
import { banner, part, section, tag } from "../part.js";
import { client, hex, isThis, now } from "../session.js";
import { t } from "../text.js";
import { accountDeletion, spaceDeletions } from "./deletions.js";

export function overview() {
  const key = keyPanel(() => glance.reload());
  const glance = part(load, (found, reload) => draw(found, reload, key));
  const element = h("div", null, h("h1", null, t("overview.title")), glance.element);
  return { title: t("overview.title"), element, parts: [glance] };
}

async function load() {
  const [devices, spaces] = await Promise.all([client.devices(), client.spaces()]);
  const me = devices.find((/** @type {any} */ device) => isThis(device.deviceId));
  const lately = await client.audit({ limit: 6 });
  return { devices, spaces, me, lately };
}

/** @param {any} found @param {() => any} reload @param {HTMLElement} key  its panel, the same in every drawing */
function draw({ devices, spaces, me, lately }, reload, key) {
  return [
    accountDeletion(reload),
    me && onProbation(me, now()) && probation(me, key),
    newcomers(devices),
    spaceDeletions(spaces, reload),
    room(spaces),
    h("div", { class: "columns" }, apps(spaces), deviceList(devices)),
    happened(lately.entries, devices, spaces),
  ];
}

/** @param {any} me @param {HTMLElement} key */
function probation(me, key) {
  return banner(
    "warn",
    t("probation.title"),
    h("p", null, t("probation.text", { when: moment(me.probationUntil) })),
    h(
      "ol",
      { class: "ways" },
      h("li", null, t("probation.key"), h("details", { class: "more", id: "probation-key" }, h("summary", null, t("probation.key_here")), key)),
      h("li", null, t("probation.other")),
      h("li", null, t("probation.wait", { when: moment(me.probationUntil) })),
    ),
  );
}

/** Devices that wait for this one's word. @param {any[]} devices */
function newcomers(devices) {
  const waiting = devices.filter((device) => onProbation(device, now()) && !isThis(device.deviceId));
  if (!waiting.length) return null;
  return banner(
    "note",
    t("newcomers.title", { count: waiting.length }),
    h("p", null, t("newcomers.text"), " ", h("a", { href: "#/devices" }, t("newcomers.look"))),
  );
}

/** @param {any[]} spaces */
function room(spaces) {
  const used = spaces.reduce((sum, { usedBytes }) => sum + usedBytes, 0);
  const quota = client.ready.quotaBytes;
  return section(t("room.title"), meter(used, quota));
}

/** How full the account is. @param {number} used @param {number} quota */
export function meter(used, quota) {
  const share = percent(used, quota);
  const text = t("room.used", { used: bytes(used), quota: bytes(quota), share });
  const bar = { class: share < 90 ? "bar" : "bar full", viewBox: "0 0 100 1", preserveAspectRatio: "none" };
  return h(
    "div",
    { class: "room" },
    s("svg", { ...bar, role: "meter", "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": share, "aria-label": text }, s("rect", { width: share, height: 1 })),
    h("p", { class: "figures" }, text),
  );
}

/** @param {any[]} spaces */
function apps(spaces) {
  const rows = spaces.map((space) =>
    h(
      "li",
      null,
      h("span", { class: "name text" }, space.appId),
      h("span", { class: "figure" }, bytes(space.usedBytes)),
      h("span", { class: "hint" }, space.lastChangeAt ? t("app.changed", { when: ago(space.lastChangeAt, now()) }) : t("app.never")),
    ),
  );
  return section(
    t("apps.title"),
    rows.length ? h("ul", { class: "rows" }, rows) : h("p", { class: "hint" }, t("apps.none")),
    h("p", null, h("a", { href: "#/apps" }, t("apps.all"))),
  );
}

/** @param {any[]} devices */
function deviceList(devices) {
  const rows = devices.map((device) =>
    h(
      "li",
      null,
      h("span", { class: "name text" }, deviceTitle(device)),
      isThis(device.deviceId) ? tag(t("device.this"), "good") : onProbation(device, now()) ? tag(t("device.new"), "warn") : h("span"),
      h("span", { class: "hint" }, t("device.seen", { when: dayAgo(device.lastSeenDay, now()) }), " · ", h("span", { class: "mono" }, short(hex(device.deviceId)))),
    ),
  );
  return section(t("devices.title"), h("ul", { class: "rows" }, rows), h("p", null, h("a", { href: "#/devices" }, t("devices.all"))));
}

/** @param {any[]} entries @param {any[]} devices @param {any[]} spaces */
function happened(entries, devices, spaces) {
  const rows = entries.map((entry) =>
    h("li", null, h("span", { class: "text" }, happening(entry, devices, spaces)), h("span", { class: "hint" }, ago(entry.at, now()))),
  );
  return section(
    t("lately.title"),
    rows.length ? h("ul", { class: "rows plain-rows" }, rows) : h("p", { class: "hint" }, t("history.none")),
    h("p", null, h("a", { href: "#/history" }, t("history.all"))),
  );
}
