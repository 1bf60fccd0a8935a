/**
 * A code by mail: the two words to compare, and the field for the code.
 */

import { button, h, put } from "./dom.js";
import { codeField, digits, field, form } from "./forms.js";
import { dialog, notice } from "./overlay.js";
import { client } from "./session.js";
import { rich, t } from "./text.js";

/**
 * The second step of every code: compare the words, type the code.
 * @param {{ address: string, sent: any, label: string, use: (code: string) => Promise<any>, more?: any }} step
 */
export function codeStep({ address, sent, label, use, more }) {
  const { row, input } = codeField(t("code.label"), "code");
  const minutes = Math.max(1, Math.round(sent.expiresInS / 60));
  const resend = async () => {
    await sent.again();
    notice(t("code.again_sent"));
  };
  const element = h(
    "div",
    null,
    h("p", null, rich("code.sent", { address: h("strong", { class: "text" }, address) })),
    h("p", { class: "phrase" }, sent.phrase),
    h("p", { class: "hint" }, t("code.compare")),
    form([row], label, () => use(digits(input)), { more }),
    h("p", { class: "hint" }, t("code.valid", { count: minutes })),
    h("div", { class: "row" }, button(t("code.again"), resend, "quiet")),
  );
  return { element, input };
}

/**
 * Have the person prove the account's address afresh; whether they did.
 * @param {string} why  what it is needed for, a sentence
 * @returns {Promise<boolean>}
 */
export async function freshCode(why) {
  const answer = await dialog(t("fresh.title"), (close) => {
    const place = h("div");
    const { row, input } = field(t("signin.address"), { id: "fresh-address", type: "email", autocomplete: "email", required: true });
    const leave = () => button(t("cancel"), () => close(false), "quiet");
    const second = async () => {
      const address = input.value.trim();
      const sent = await client.requestConfirm(address);
      const use = async (/** @type {string} */ code) => {
        await client.confirm(code);
        close(true);
      };
      const step = codeStep({ address, sent, label: t("fresh.go"), use, more: leave() });
      put(place, step.element);
      step.input.focus();
    };
    put(place, h("p", null, why), form([row], t("signin.send"), second, { more: leave() }));
    return place;
  });
  return answer === true;
}
