/**
 * Signing in: an e-mail address, then the code from the mail. Or no mail at all: another device adds this one.
 */

import { db, remember } from "../db.js";
import { button, h, put } from "../dom.js";
import { field, form } from "../forms.js";
import { notice } from "../overlay.js";
import { plural } from "../words.js";
import { keySheet } from "./key.js";
import { addThisDevice } from "./pair.js";
import { section } from "./page.js";

export function signIn() {
  const place = h("div");
  firstStep(place, "");
  return [
    h(
      "p",
      { class: "lead" },
      "Have the same chapters on all your devices. They are sealed before they leave this one: the hub keeps them " +
        "and cannot read them.",
    ),
    section("With your e-mail", place),
    section(
      "From a device that has your chapters",
      h("p", null, "No e-mail needed: one device shows a code, the other one scans it."),
      h(
        "div",
        { class: "row" },
        button("Add this device", () => addThisDevice()),
      ),
    ),
  ];
}

/** @param {HTMLElement} place @param {string} address */
function firstStep(place, address) {
  const email = field({
    id: "email",
    type: "email",
    autocomplete: "email",
    required: true,
    placeholder: "you@example.org",
    value: address,
  });
  const invite = field({ id: "invite", type: "text", autocomplete: "off" });
  const inviteRow = h("div", { hidden: true }, h("label", { for: "invite" }, "Invitation, if you have one"), invite);
  wantsInvite().then((wanted) => (inviteRow.hidden = !wanted));
  const ask = async () => {
    const sent = await db.hub.requestCode({ email: email.value.trim(), invite: invite.value.trim() || undefined });
    secondStep(place, email.value.trim(), sent);
  };
  put(place, form([h("label", { for: "email" }, "E-mail address"), email, inviteRow], "Send me a code", ask));
}

/** @param {HTMLElement} place @param {string} address @param {{ phrase: string, expiresInS: number }} sent */
function secondStep(place, address, sent) {
  const code = field({
    id: "code",
    inputmode: "numeric",
    autocomplete: "one-time-code",
    required: true,
    class: "field code",
    placeholder: "0000 0000",
    maxlength: "12",
  });
  const enter = async () => {
    const { newKey } = await db.hub.enrol(code.value.replace(/\D/g, ""));
    if (navigator.storage?.persist) navigator.storage.persist(); // the browser should not clear it away
    if (!newKey) return;
    await remember("key-kept", false);
    await keySheet({ must: true });
    notice("All set. Your chapters are on their way to the hub.");
  };
  put(
    place,
    h(
      "p",
      null,
      "A mail is on its way to ",
      h("strong", null, address),
      ". Use its code only if the mail shows these two words:",
    ),
    h("p", { class: "phrase" }, sent.phrase),
    form(
      [h("label", { for: "code" }, "Code from the mail"), code],
      "Sign in",
      enter,
      button("Use another address", () => firstStep(place, address), "quiet"),
    ),
    h(
      "p",
      { class: "hint" },
      `The code works for ${plural(Math.max(1, Math.round(sent.expiresInS / 60)), "minute")}, on this device only.`,
    ),
  );
  code.focus();
}

/** Whether this hub takes new people by invitation. */
async function wantsInvite() {
  try {
    return (await (await fetch("/.well-known/sync-hub")).json()).sign_up === "invite";
  } catch {
    return false; // offline: asking for a code will say so
  }
}
