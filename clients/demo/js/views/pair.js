/**
 * Adding a device by one scan: one shows a code, the other scans or types it, and six digits are compared.
 *
 * Either side may show. The digits appear where the code was scanned and are typed where it was shown, so
 * that a stranger who has photographed the code gets nothing.
 */

import { db, remember } from "../db.js";
import { guessName } from "../devices.js";
import { button, h, picture, put } from "../dom.js";
import { sentence } from "../errors.js";
import { field, form } from "../forms.js";
import { dialog, notice } from "../overlay.js";
import { scanCode } from "./scan.js";

/** This device has the key; another one is added. */
export async function addDevice() {
  const added = await pairing("Add a device", {
    intro: [
      "On the other device, open ",
      h("strong", null, location.host + location.pathname),
      ", go to Sync and choose “Add this device”. Then show a code on one of the two, and scan it with the other.",
    ],
    giver: true,
  });
  if (added) notice("The device is added.");
}

/** This device has no key; another one adds it. */
export async function addThisDevice() {
  const added = await pairing("Add this device", {
    intro: [
      "On a device that has your chapters, go to Sync and choose “Add a device”. Then show a code on one of the " +
        "two, and scan it with the other.",
    ],
    giver: false,
  });
  if (!added) return;
  await remember("key-kept", true); // whoever made it was asked
  notice("This device is added. Your chapters are on their way.");
}

/** @param {string} title @param {{ intro: any[], giver: boolean }} options @returns {Promise<boolean>} */
async function pairing(title, { intro, giver }) {
  /** @type {any} */
  let handle = null;
  let left = false;
  const place = h("div", { class: "pairing", "aria-live": "polite" });

  const done = await dialog(
    title,
    (close) => {
      const begin = async (/** @type {string} */ scanned) => {
        put(place, h("p", { class: "hint" }, "One moment…"));
        try {
          handle = await db.hub.pair({ scanned: scanned || undefined, name: guessName() });
          if (left) return handle.cancel();
          await (scanned ? scannedSide() : shownSide());
          await handle.done;
          if (!left) close(true);
        } catch (error) {
          if (!left) failed(error);
        }
      };
      const choose = () =>
        put(
          place,
          h("p", null, intro),
          h(
            "div",
            { class: "choices" },
            button("Show a code here", () => begin(""), "primary"),
            button("Scan the other’s code", scan),
            button("Type the other’s code", type),
          ),
        );
      const scan = async () => {
        const text = await scanCode("Scan the other device’s code");
        if (text) await begin(text);
      };
      const type = () => {
        const code = h("textarea", {
          class: "field code",
          id: "pair-code",
          rows: "4",
          required: true,
          spellcheck: "false",
          autocapitalize: "off",
          autocomplete: "off",
        });
        put(
          place,
          form(
            [h("label", { for: "pair-code" }, "The code under the other device’s picture"), code],
            "Go on",
            () => begin(code.value.trim()),
            button("Back", choose, "quiet"),
          ),
        );
        code.focus();
      };
      const failed = (/** @type {unknown} */ error) =>
        put(
          place,
          h("p", { class: "fault", role: "alert" }, sentence(error)),
          h("div", { class: "row" }, button("Start again", choose, "primary")),
        );

      async function shownSide() {
        const { qrSvg } = await import("/client/qr.js");
        const svg = qrSvg(handle.code, { title: "Pairing code" });
        put(
          place,
          h("img", { class: "qr", alt: "QR code to be scanned with the other device", src: picture(svg) }),
          h("p", null, "Scan this with the other device. It works once, for three minutes. Show it to nobody else."),
          h(
            "details",
            null,
            h("summary", null, "No camera? Type this code there"),
            h("p", { class: "key-code", id: "shown-code" }, handle.code),
          ),
        );
        await handle.digits;
        const digits = field({
          id: "digits",
          inputmode: "numeric",
          autocomplete: "off",
          required: true,
          class: "field code digits-in",
          maxlength: "9",
          placeholder: "000 000",
        });
        const name = h("p");
        if (giver)
          handle.name.then(
            (/** @type {string} */ text) =>
              text && put(name, "It calls itself “", h("strong", null, plain(text)), "”."),
            () => undefined,
          );
        put(
          place,
          h("p", null, "The other device is there, and shows six digits. Type them here, to be sure that it is yours."),
          name,
          form(
            [h("label", { for: "digits" }, "Six digits from the other device"), digits],
            giver ? "Add it" : "Go on",
            () => handle.confirm(digits.value.replace(/\D/g, "")),
          ),
        );
        digits.focus();
      }

      async function scannedSide() {
        put(place, h("p", { class: "hint" }, "Looking for the other device…"));
        const digits = await handle.digits;
        const shown = [
          h("p", null, "Type these six digits on the other device:"),
          h("p", { class: "digits", id: "shown-digits" }, `${digits.slice(0, 3)} ${digits.slice(3)}`),
        ];
        if (!giver)
          return put(place, shown, h("p", { class: "hint" }, "This device is added as soon as they are typed there."));
        put(place, shown, h("p", { class: "hint" }, "Waiting for the other device…"));
        const name = plain(await handle.name);
        put(
          place,
          h(
            "p",
            null,
            "The digits were typed there, and they are right. Add ",
            h("strong", null, name ? `“${name}”` : "the other device"),
            "? It will have all your chapters.",
          ),
          h(
            "div",
            { class: "row" },
            button("Add it", (event) => agree(event), "primary"),
          ),
        );
      }

      const agree = (/** @type {Event} */ event) => {
        /** @type {HTMLElement} */ (event.currentTarget).remove();
        handle.agree().catch(failed);
      };

      choose();
      return [
        place,
        h(
          "div",
          { class: "row end" },
          button("Cancel", () => close(false), "quiet"),
        ),
      ];
    },
    { kind: "pair" },
  );
  left = true;
  if (!done) handle?.cancel();
  return done === true;
}

/** A name from elsewhere, without signs that turn the line around or are not seen. @param {string} text */
function plain(text) {
  return text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, "").slice(0, 64);
}
