/**
 * What the hub keeps of each app: how much, how it grew, and the two ways to end it.
 */

import { chart } from "../chart.js";
import { button, h } from "../dom.js";
import { deviceTitle } from "../devices.js";
import { sentence } from "../errors.js";
import { ago, bytes, date, number } from "../format.js";
import { daily } from "../growth.js";
import { keyPanel } from "../key.js";
import { ask, notice } from "../overlay.js";
import { facts, part, section } from "../part.js";
import { client, hex, isThis, names, now, opened } from "../session.js";
import { rich, t } from "../text.js";
import { deleteCopies, spaceDeletion } from "./deletions.js";

const DAY_S = 86_400;

export function apps() {
  const all = part(load, draw);
  const element = h(
    "div",
    null,
    h("h1", null, t("apps.title")),
    h("p", { class: "lead" }, t("apps.lead")),
    all.element,
    section(t("names.title"), h("p", null, t("names.text")), keyPanel(all.reload)),
  );
  return { title: t("apps.title"), element, parts: [all] };
}

async function load() {
  const [devices, spaces] = await Promise.all([client.devices(), client.spaces()]);
  return { devices, spaces };
}

/** @param {{ devices: any[], spaces: any[] }} found @param {() => any} reload */
function draw({ devices, spaces }, reload) {
  const cards = spaces.map((space) => card(space, devices.filter((device) => device.scope === "app" && device.appId === space.appId), reload));
  return cards.length ? h("ul", { class: "cards" }, cards) : h("p", { class: "empty" }, t("apps.none"));
}

/** @param {any} space @param {any[]} devices @param {() => any} reload */
function card(space, devices, reload) {
  const id = hex(space.spaceId);
  const heading = h("h2", { id: `app-${id}`, class: "text" }, space.appId);
  const points = daily(space.growth, { today: Math.floor(now() / DAY_S), now: space.usedBytes });
  return h(
    "li",
    { class: "card" },
    h(
      "article",
      { "aria-labelledby": heading.id },
      h("div", { class: "card-head" }, heading, h("span", { class: "figure" }, bytes(space.usedBytes))),
      space.deletedAt ? spaceDeletion(space, reload) : null,
      facts(
        [t("app.changes"), number(space.changes)],
        [t("app.collections"), number(space.collections)],
        [t("app.last_change"), space.lastChangeAt ? ago(space.lastChangeAt, now()) : t("app.never")],
        [t("app.since"), date(space.createdAt)],
        [t("app.devices"), number(devices.length)],
      ),
      chart(points),
      opened.has(id) && deviceNames(devices),
      h(
        "div",
        { class: "row" },
        button(t("stop.button"), () => stopHere(space, devices, reload), "", { id: `stop-${id}`, disabled: devices.length === 0, "aria-label": t("stop.this", { app: space.appId }) }),
        !space.deletedAt && button(t("delete.button"), () => deleteSafely(space, reload), "danger-quiet", { id: `delete-${id}`, "aria-label": t("delete.this", { app: space.appId }) }),
      ),
    ),
  );
}

/** @param {any[]} devices */
function deviceNames(devices) {
  const found = devices.filter(({ deviceId }) => names.has(hex(deviceId))).map(deviceTitle);
  return h("p", { class: "hint text" }, found.length ? t("names.found", { names: found.join(", ") }) : t("names.none"));
}

/** @param {any} space @param {() => any} reload */
async function deleteSafely(space, reload) {
  try {
    await deleteCopies(space, reload);
  } catch (error) {
    notice(sentence(error), { stay: true });
  }
}

/** End every device of the app; what the hub keeps stays. @param {any} space @param {any[]} devices @param {() => any} reload */
async function stopHere(space, devices, reload) {
  const ends = devices.filter(({ deviceId }) => !isThis(deviceId));
  const text = [
    h("p", null, rich("stop.text", { app: h("strong", { class: "text" }, space.appId) })),
    t("stop.count", { count: ends.length }),
    t("stop.local"),
  ];
  if (!(await ask(t("stop.title"), text, { yes: t("stop.go"), danger: true }))) return;
  try {
    await client.revoke(ends.map(({ deviceId }) => deviceId));
    notice(t("stop.done"));
  } catch (error) {
    notice(sentence(error), { stay: true });
  }
  await reload();
}
