/**
 * All about sync: where it stands, sign in, devices, the key, off and on, and the ways out.
 */

import { titleOf } from "../chapters.js";
import { db, recall } from "../db.js";
import { nameRow } from "../devices.js";
import { button, h, put } from "../dom.js";
import { sentence } from "../errors.js";
import { saveBook } from "../export.js";
import { watch } from "../live.js";
import { ask, dialog, notice } from "../overlay.js";
import { ago, alarmInWords, inWords } from "../status.js";
import { plural } from "../words.js";
import { keySheet, needsKey } from "./key.js";
import { addDevice } from "./pair.js";
import { section, top } from "./page.js";
import { signIn } from "./signin.js";

export function sync() {
  const place = h("div");
  const element = h("section", { class: "page" }, top(), h("h1", null, "Sync"), place);
  /** @type {(() => void)[]} */
  let stops = [];
  let mode = "";
  const leave = () => {
    for (const stop of stops) stop?.();
    stops = [];
  };
  const end = db.hub.status.subscribe((/** @type {any} */ status) => {
    const now = modeOf(status);
    if (now === mode) return;
    mode = now;
    leave();
    put(
      place,
      now === "in"
        ? account(stops)
        : now === "signed-out"
          ? signIn()
          : now === "needs-key"
            ? needsKey()
            : h("p", { class: "hint" }, "One moment…"),
    );
  });
  return {
    title: "Sync",
    element,
    leave: () => {
      end?.();
      leave();
    },
  };
}

/** Which of the four pages this is. @param {any} status */
function modeOf(status) {
  if (!status?.phase) return "starting";
  if (status.phase === "signed-out" || status.phase === "needs-key") return status.phase;
  return "in";
}

// --- signed in ---

/** @param {(() => void)[]} stops */
function account(stops) {
  return [state(stops), conflictList(stops), devices(stops), key(), ways(stops)];
}

/** @param {(() => void)[]} stops */
function state(stops) {
  const line = h("p", { class: "state" });
  const more = h("div", { class: "state-more" });
  const onOff = h("input", { type: "checkbox", role: "switch", id: "sync-on", class: "switch" });
  onOff.addEventListener("change", () => attempt(() => (onOff.checked ? db.hub.enable() : db.hub.disable())));
  const switching = h("div", { class: "row" }, onOff, h("label", { for: "sync-on" }, "Sync this device"));
  let drawn = "";
  const draw = () => {
    const status = db.hub.status.value;
    const words = inWords(status);
    onOff.checked = status.phase !== "off";
    switching.hidden = status.phase === "blocked"; // there is nothing to switch any more
    const progress = status.progress ?? { done: 0, remaining: 0 };
    const facts = [
      ["Waiting to be sent", status.pending ? plural(status.pending, "change") : "nothing"],
      ["Last change on the hub", status.lastAppendedAt ? ago(status.lastAppendedAt) : "none since Quire was opened"],
      ["Last word from the hub", status.headSeenAt ? ago(status.headSeenAt) : "none since Quire was opened"],
    ];
    const notes = [
      status.wiped &&
        "Another device deleted the copies on the hub and switched sync off. Your chapters are still here. Switch " +
          "sync on to send them again.",
      status.error && sentence({ message: status.error }),
      ...(status.alarms ?? []).map(alarmInWords),
      status.phase === "offline" && "Write on: all is kept here, and goes out when there is a connection.",
      status.phase === "off" && !status.wiped && "Nothing is sent and nothing comes in. What you write waits here.",
    ].filter(Boolean);
    const now = JSON.stringify([words, facts, notes, progress.remaining]);
    if (now === drawn) return;
    drawn = now;
    line.dataset.tone = words.tone;
    put(
      line,
      h("span", { class: "dot", "aria-hidden": "true" }),
      words.text,
      words.detail && h("span", { class: "hint" }, ` · ${words.detail}`),
    );
    put(
      more,
      notes.map((text) => h("p", null, text)),
      progress.remaining > 20 &&
        h("progress", { max: progress.done + progress.remaining, value: progress.done, "aria-label": "Catching up" }),
      h(
        "dl",
        { class: "facts" },
        facts.map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))),
      ),
      status.phase === "alarm" &&
        h(
          "div",
          { class: "row" },
          button("I have seen it, go on", () => attempt(() => db.hub.forgetAlarms())),
        ),
      status.phase === "blocked" &&
        h(
          "div",
          { class: "row" },
          button("Sign in again", () => attempt(() => leaveAccount(true)), "primary"),
        ),
    );
  };
  stops.push(db.hub.status.subscribe(draw));
  const timer = setInterval(draw, 15_000);
  stops.push(() => clearInterval(timer));
  return section("Now", line, more, switching);
}

/** @param {(() => void)[]} stops */
function conflictList(stops) {
  const place = h("div");
  stops.push(
    db.hub.conflicts.subscribe((/** @type {any[]} */ all = []) => {
      const links = all
        .filter((one) => one.table === "chapters")
        .map((one) =>
          h(
            "li",
            null,
            h("a", { href: `#/compare/${encodeURIComponent(one.key)}` }, titleOf(one.mine ?? one.theirs ?? {})),
          ),
        );
      put(
        place,
        links.length
          ? section(
              "To compare",
              h("p", null, "Changed on two devices at the same time. Both texts are safe."),
              h("ul", { class: "plain" }, links),
            )
          : null,
      );
    }),
  );
  return place;
}

// --- devices ---

/** @param {(() => void)[]} stops */
function devices(stops) {
  const list = h("ul", { class: "devices", "aria-label": "Devices" });
  const hint = h("p", { class: "hint" });
  /** @type {any[] | null} */
  let known = null;
  let names = new Map();
  const draw = () => {
    if (known)
      put(
        list,
        known.map((device) => row(device, names, refresh)),
      );
  };
  const refresh = async () => {
    try {
      known = await db.hub.devices();
      put(hint);
      draw();
    } catch (error) {
      put(hint, known ? "" : `The list is on the hub. ${sentence(error)}`);
    }
  };
  stops.push(
    watch(
      () => db.settings.where("id").startsWith("device ").toArray(),
      (rows) => {
        names = new Map(rows.map((/** @type {any} */ one) => [one.id, one.value]));
        draw();
      },
    ),
  );
  const part = section(
    "Devices",
    list,
    hint,
    h(
      "div",
      { class: "row" },
      button("Add a device", () => addDevice().then(refresh), "primary"),
    ),
  );
  let before = "";
  stops.push(
    db.hub.status.subscribe((/** @type {any} */ { phase }) => {
      part.hidden = phase === "blocked";
      const away = ["offline", "connecting", "blocked"].includes(phase);
      if (away && !known) put(hint, "The list is on the hub. It is shown when there is a connection.");
      if (phase !== before && (phase === "synced" || (!before && !away))) refresh();
      before = phase;
    }),
  );
  return part;
}

/** @param {any} device @param {Map<string, string>} names @param {() => any} refresh */
function row(device, names, refresh) {
  const { id, current, enrolledAt, enrolledVia, lastSeen, probationUntil } = device;
  const named = names.get(nameRow(id));
  const name = named ?? (current ? "This device" : `Device ${id.slice(0, 6)}`);
  const fresh = probationUntil && probationUntil > new Date();
  const facts = [
    current && named && "this device",
    `added ${dayWords(enrolledAt)} ${HOW[enrolledVia] ?? ""}`.trim(),
    !current && `seen ${dayWords(lastSeen)}`,
    fresh && "on probation",
  ].filter(Boolean);
  return h(
    "li",
    { class: current ? "here" : null, data: { id } },
    h("div", null, h("span", { class: "device-name" }, name), h("span", { class: "hint" }, facts.join(" · "))),
    h(
      "span",
      { class: "row tight" },
      fresh &&
        !current &&
        button("Approve", () => attempt(() => db.hub.approve(id).then(refresh)), "quiet", {
          "aria-label": `Approve ${name}`,
        }),
      button("Rename", () => rename(id, name), "quiet", { "aria-label": `Rename ${name}` }),
      !current && button("Remove", () => revoke(id, name, refresh), "quiet danger", { "aria-label": `Remove ${name}` }),
    ),
  );
}

/** @type {Record<string, string>} */
const HOW = { first: "as the first", mail: "by e-mail", pairing: "by code" };

/** @param {Date} date */
function dayWords(date) {
  const [day, today] = [date, new Date()].map((one) => Math.floor(one.getTime() / 86_400_000));
  if (day >= today) return "today";
  if (day === today - 1) return "yesterday";
  return `on ${date.toLocaleDateString("en-GB", { day: "numeric", month: "long" })}`;
}

/** @param {string} id @param {string} name */
async function rename(id, name) {
  const input = h("input", {
    type: "text",
    class: "field",
    id: "device-name",
    maxlength: "60",
    value: name,
    autocomplete: "off",
    autofocus: true,
  });
  const value = await dialog("Name of the device", (close) =>
    h(
      "form",
      { onsubmit: (/** @type {Event} */ event) => (event.preventDefault(), close(input.value.trim())) },
      h("label", { for: "device-name" }, "Only your own devices see it."),
      input,
      h(
        "div",
        { class: "row end" },
        button("Cancel", () => close()),
        h("button", { class: "button primary" }, "Keep"),
      ),
    ),
  );
  if (value) await db.settings.put({ id: nameRow(id), value });
}

/** @param {string} id @param {string} name @param {() => any} refresh */
async function revoke(id, name, refresh) {
  const text = [
    "It can no longer sync from this moment on. What is on it already stays on it.",
    "If it was lost with its screen unlocked, whoever has it can read what is there.",
  ];
  if (!(await ask(`Remove “${name}”?`, text, { yes: "Remove", danger: true }))) return;
  await attempt(async () => {
    await db.hub.revoke(id);
    await db.settings.delete(nameRow(id));
    await refresh();
    notice(`“${name}” is removed.`);
  });
}

// --- the key, and the ways out ---

function key() {
  return section(
    "Your key",
    h(
      "p",
      null,
      "Your chapters are sealed with it before they leave this device. The hub does not have it, and nobody can " +
        "make it again.",
    ),
    h(
      "div",
      { class: "row" },
      button("Show the key sheet", () => keySheet()),
    ),
  );
}

/** @param {(() => void)[]} stops */
function ways(stops) {
  const used = h("p", { class: "hint" });
  let asked = false;
  stops.push(
    db.hub.status.subscribe(async (/** @type {any} */ { phase }) => {
      if (phase === "off") {
        asked = false;
        put(used);
      }
      if (asked || phase !== "synced") return;
      asked = true;
      const usage = await db.hub.usage().catch(() => null);
      if (usage) put(used, `On the hub: ${bytes(usage.usedBytes)} of ${bytes(usage.quotaBytes)}, sealed.`);
    }),
  );
  return section(
    "Your data",
    h("p", null, "All your texts are on this device. Take them with you whenever you like."),
    used,
    h(
      "div",
      { class: "row" },
      button("Save all as a text file", saveBook),
      button("Delete the copies on the hub", () => deleteRemote(), "danger"),
      button("Sign out", () => attempt(() => leaveAccount(false)), ""),
    ),
  );
}

async function deleteRemote() {
  const text = [
    "The sealed copies of your chapters are deleted from the hub for good, and sync is switched off.",
    "Your chapters stay on this device and on your other devices.",
  ];
  if (!(await ask("Delete the copies on the hub?", text, { yes: "Delete the copies", danger: true }))) return;
  await attempt(async () => {
    await db.hub.deleteRemote();
    notice("The copies on the hub are deleted. Sync is off.");
  });
}

/** @param {boolean} blocked  this device has lost its place already, so nothing can be sent any more */
async function leaveAccount(blocked) {
  const { pending } = db.hub.status.value;
  const wipe = h("input", { type: "checkbox", id: "wipe" });
  const keyKept = (await recall("key-kept")) !== false;
  const answer = await dialog(blocked ? "Sign in again" : "Sign out?", (close) => [
    h(
      "p",
      null,
      "Your chapters stay on this device. To sync again you need a new code from your e-mail, and your key.",
    ),
    !keyKept && h("p", null, h("strong", null, "You have not said yet that you kept your key.")),
    pending > 0 &&
      h(
        "p",
        null,
        h("strong", null, `${plural(pending, "change")} ${pending === 1 ? "is" : "are"} not on the hub yet.`),
      ),
    !blocked &&
      h("p", { class: "check" }, wipe, h("label", { for: "wipe" }, "Remove my chapters from this device too")),
    h(
      "div",
      { class: "row end" },
      button("Cancel", () => close(false), "", { autofocus: true }),
      button(
        blocked ? "Go on" : pending ? "Sign out anyway" : "Sign out",
        () => close(true),
        blocked ? "primary" : "danger",
      ),
    ),
  ]);
  if (!answer) return;
  await db.hub.signOut({ wipeLocal: wipe.checked, force: blocked || pending > 0 });
  notice(blocked ? "Sign in as a new device, with your e-mail or from another device." : "You are signed out.");
}

/** Do it, or say why not. @param {() => any} work */
async function attempt(work) {
  try {
    await work();
  } catch (error) {
    notice(sentence(error), { stay: true });
  }
}

/** @param {number} count */
function bytes(count) {
  if (count < 1_000_000) return `${Math.ceil(count / 1000).toLocaleString("en")} KB`;
  if (count < 1_000_000_000) return `${(count / 1_000_000).toFixed(1)} MB`;
  return `${(count / 1_000_000_000).toFixed(1)} GB`;
}
