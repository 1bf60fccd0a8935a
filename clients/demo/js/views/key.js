/**
 * The key: the sheet to print, and the ways to bring it to a device that has none.
 */

import { db, remember } from "../db.js";
import { button, h, picture, put } from "../dom.js";
import { sentence } from "../errors.js";
import { form } from "../forms.js";
import { dialog, notice } from "../overlay.js";
import { addThisDevice } from "./pair.js";
import { section } from "./page.js";
import { scanButton } from "./scan.js";

/**
 * Show the key as code, QR code and words, to be printed or written down.
 *
 * With `must` it cannot be left before the person says that it is kept: without it all is lost with the last device.
 * @param {{ must?: boolean }} [options]
 */
export async function keySheet({ must = false } = {}) {
  const [code, words, svg] = await Promise.all(["code", "words", "svg"].map((form) => db.hub.exportKey(form)));
  const kept = h("input", { type: "checkbox", id: "kept" });
  const done = h(
    "button",
    { type: "button", class: "button primary", "aria-disabled": must ? "true" : null },
    must ? "Go on" : "Close",
  );
  const fault = h("p", { class: "fault", role: "alert" });
  kept.addEventListener("change", () => {
    if (kept.checked) done.removeAttribute("aria-disabled");
    else done.setAttribute("aria-disabled", "true");
    put(fault);
  });
  await dialog(
    "Your key",
    (close) => {
      done.addEventListener("click", () => {
        if (must && !kept.checked) {
          put(fault, "Print it or write it down first, then say so above.");
          return kept.focus();
        }
        close();
      });
      return [
        h(
          "p",
          null,
          must ? "Your chapters are now sealed with this key. " : "",
          "Nobody can make it again, not even the hub. Keep it on paper or in a password manager: with it you get " +
            "your chapters back when all your devices are gone.",
        ),
        sheet(code, words, svg),
        h(
          "div",
          { class: "row" },
          button("Print", () => print(sheet(code, words, svg))),
          button("Copy the code", async () => {
            await navigator.clipboard.writeText(code);
            notice("Copied. Paste it into your password manager.");
          }),
        ),
        must &&
          h(
            "p",
            { class: "check" },
            kept,
            h("label", { for: "kept" }, "I have kept it, on paper or in a password manager"),
          ),
        fault,
        h("div", { class: "row end" }, done),
      ];
    },
    { kind: "broad", must },
  );
  if (must) await remember("key-kept", true);
}

/** @param {string} code @param {string} words @param {string} svg */
function sheet(code, words, svg) {
  return h(
    "div",
    { class: "key-sheet" },
    h("p", { class: "only-print sheet-title" }, "Quire: the key to my chapters"),
    h("img", { class: "qr", alt: "QR code of the key", src: picture(svg) }),
    h(
      "div",
      { class: "key-texts" },
      h("h3", null, "As a code"),
      h(
        "p",
        { class: "key-code" },
        (code.match(/.{1,5}/g) ?? []).map((group) => h("span", null, group, " ")),
      ),
      h("h3", null, "The same in words"),
      h(
        "ol",
        { class: "key-words" },
        words
          .trim()
          .split(/\s+/)
          .map((word) => h("li", null, word)),
      ),
    ),
    h(
      "p",
      { class: "only-print" },
      `Printed on ${longDate(new Date())}, for ${location.host}. `,
      "Whoever has this sheet and your e-mail can read your chapters: keep it as you keep a passport.",
    ),
  );
}

/** @param {Date} date */
function longDate(date) {
  return date.toLocaleDateString("en-GB", { day: "numeric", month: "long", year: "numeric" });
}

/** Print this and nothing else. @param {HTMLElement} what */
function print(what) {
  const place = /** @type {HTMLElement} */ (document.getElementById("print"));
  put(place, what);
  const image = /** @type {HTMLImageElement | null} */ (place.querySelector("img"));
  const ready = image?.decode?.() ?? Promise.resolve();
  ready
    .catch(() => undefined)
    .then(() => {
      window.print();
      put(place); // the key does not stay in the page
    });
}

/** This account has a key already; bring it here. */
export function needsKey() {
  const key = h("textarea", {
    class: "field code",
    id: "key",
    rows: "3",
    autocomplete: "off",
    spellcheck: "false",
    autocapitalize: "off",
    required: true,
  });
  const take = async () => {
    await db.hub.importKey(key.value.trim());
    await remember("key-kept", true);
    notice("The key fits. Your chapters are on their way.");
  };
  const scanned = async (/** @type {string} */ text) => {
    key.value = text;
    try {
      await take();
    } catch (error) {
      notice(sentence(error), { stay: true });
    }
  };
  return [
    h(
      "p",
      { class: "lead" },
      "You are signed in. Your chapters are sealed, and this device still needs the key to open them.",
    ),
    section(
      "Type or scan it",
      form(
        [h("label", { for: "key" }, "Key code, or the 24 words, from your key sheet"), key],
        "Use this key",
        take,
        scanButton("Scan the sheet", scanned),
      ),
    ),
    section(
      "From a device that has your chapters",
      h("p", null, "There, open Sync and choose “Add a device”."),
      h(
        "div",
        { class: "row" },
        button("Add this device", () => addThisDevice()),
      ),
    ),
    h("p", { class: "hint after" }, "What you wrote on this device stays, and is added to the rest."),
  ];
}
