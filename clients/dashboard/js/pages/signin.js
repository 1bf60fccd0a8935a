/**
 * Signing in: an address, the two words to compare, the code from the mail.
 */

import { button, h, put } from "../dom.js";
import { field, form } from "../forms.js";
import { codeStep } from "../mailcode.js";
import { section } from "../part.js";
import { client } from "../session.js";
import { t } from "../text.js";

export function signIn() {
  const place = h("div");
  firstStep(place, "");
  const element = h(
    "div",
    { class: "narrow" },
    h("h1", null, t("signin.title")),
    h("p", { class: "lead" }, t("signin.lead")),
    h("div", { class: "card" }, place),
    section(
      t("signin.knows"),
      h("div", { class: "two" }, [
        h("div", null, h("h3", null, t("signin.sees")), list("signin.sees.", 4)),
        h("div", null, h("h3", null, t("signin.blind")), list("signin.blind.", 4)),
      ]),
    ),
  );
  return { title: t("signin.title"), element, parts: [] };
}

/** @param {string} key @param {number} length */
function list(key, length) {
  return h("ul", { class: "plain" }, Array.from({ length }, (_, at) => h("li", null, t(`${key}${at + 1}`))));
}

/** @param {HTMLElement} place @param {string} address */
function firstStep(place, address) {
  const email = field(t("signin.address"), {
    id: "email",
    type: "email",
    autocomplete: "email",
    required: true,
    placeholder: "you@example.org",
    value: address,
  });
  const invite = field(t("signin.invite"), { id: "invite", autocomplete: "off" });
  invite.row.hidden = true;
  signUp().then((way) => (invite.row.hidden = way !== "invite"));
  const ask = async () => {
    const to = email.input.value.trim();
    const sent = await client.requestCode(to, { invite: invite.input.value.trim() || undefined });
    const back = button(t("signin.other"), () => firstStep(place, to), "quiet");
    const enter = async (/** @type {string} */ code) => {
      await client.enrol(code);
      client.start();
    };
    const step = codeStep({ address: to, sent, label: t("signin.go"), use: enter, more: back });
    put(place, step.element);
    step.input.focus();
  };
  put(place, form([email.row, invite.row], t("signin.send"), ask));
}

/** Whom this hub takes: "open", "invite" or "closed". @returns {Promise<string>} */
async function signUp() {
  try {
    return (await (await fetch("/.well-known/sync-hub")).json()).sign_up;
  } catch {
    return ""; // offline: asking for a code will say so
  }
}
