/**
 * Deletions that are under way, each with the way back; and the two steps that set one.
 */

import { button, h, put } from "../dom.js";
import { sentence } from "../errors.js";
import { moment } from "../format.js";
import { field, form } from "../forms.js";
import { freshCode } from "../mailcode.js";
import { dialog, notice } from "../overlay.js";
import { banner } from "../part.js";
import { account, client, hex, opened } from "../session.js";
import { rich, t } from "../text.js";

/** The banner of the account's own deletion; null when none is under way. @param {() => any} reload */
export function accountDeletion(reload) {
  const at = account.deletedAt;
  if (!at) return null;
  const keep = async () => {
    await client.cancelDeletion();
    account.deletedAt = 0;
    notice(t("deletion.account_kept"));
    await reload();
  };
  return banner("bad", t("deletion.account_title"), h("p", null, t("deletion.account_text", { when: moment(at) })), undo(keep, "keep-account"));
}

/** The banners of spaces that are to be deleted. @param {any[]} spaces @param {() => any} reload */
export function spaceDeletions(spaces, reload) {
  return spaces.filter(({ deletedAt }) => deletedAt).map((space) => spaceDeletion(space, reload));
}

/** @param {any} space @param {() => any} reload */
export function spaceDeletion(space, reload) {
  const keep = async () => {
    await client.cancelDeletion(space.spaceId);
    notice(t("deletion.space_kept"));
    await reload();
  };
  return banner(
    "bad",
    t("deletion.space_title"),
    h("p", null, rich("deletion.space_text", { app: h("strong", { class: "text" }, space.appId), when: moment(space.deletedAt) })),
    undo(keep, `keep-${hex(space.spaceId)}`),
  );
}

/** @param {() => Promise<any>} keep @param {string} id */
function undo(keep, id) {
  const work = () => keep().catch((error) => notice(sentence(error), { stay: true }));
  return h("div", { class: "row" }, button(t("deletion.undo"), work, "", { id }));
}

/**
 * Delete what the hub keeps of an app, in two steps: when, then once more.
 * @param {any} space @param {() => any} reload
 */
export async function deleteCopies(space, reload) {
  const when = await chooseWhen(space);
  if (!when) return;
  if (when === "now" && !opened.has(hex(space.spaceId)) && !(await freshCode(t("delete.why_code")))) return;
  const done = await confirmDeletion(space, when);
  if (done === undefined) return;
  notice(done ? t("delete.set", { when: moment(done) }) : t("delete.done"), { stay: !done });
  await reload();
}

/** @param {any} space @returns {Promise<"later" | "now" | undefined>} */
function chooseWhen(space) {
  return dialog(t("delete.title"), (close) => {
    const choice = (/** @type {string} */ value, /** @type {boolean} */ checked) =>
      h(
        "label",
        { class: "choice" },
        h("input", { type: "radio", name: "when", value, checked }),
        h("span", null, h("strong", null, t(`delete.${value}`)), h("span", { class: "hint" }, t(`delete.${value}_text`))),
      );
    const choices = h("fieldset", null, h("legend", null, t("delete.when")), choice("later", true), choice("now", false));
    const go = async () => close(choices.querySelector("input:checked").value);
    return [
      h("p", null, rich("delete.text", { app: h("strong", { class: "text" }, space.appId) })),
      h("p", null, t("delete.local")),
      form([choices], t("go_on"), go, { more: button(t("cancel"), () => close(), "quiet") }),
    ];
  });
}

/** The last question; when the deletion takes effect (0 = it has), undefined when the person stepped back.
 * @param {any} space @param {"later" | "now"} when @returns {Promise<number | undefined>} */
function confirmDeletion(space, when) {
  return dialog(t(`delete.sure_${when}`), (close) => {
    const word = t("delete.word");
    const { row, input } = field(t("delete.type", { word }), { id: "delete-word", autocomplete: "off", autocapitalize: "off", required: true });
    const fault = h("p", { class: "fault", role: "alert" });
    const go = async () => {
      if (when === "now" && input.value.trim().toLowerCase() !== word) return put(fault, t("delete.type", { word }));
      close(seconds(await client.deleteSpace(space.spaceId, { later: when === "later" })));
    };
    return [
      h("p", null, rich(`delete.sure_${when}_text`, { app: h("strong", { class: "text" }, space.appId) })),
      form(when === "now" ? [row, fault] : [], t(`delete.go_${when}`), go, { kind: "danger", more: button(t("cancel"), () => close(), "quiet") }),
    ];
  });
}

/** A date as the hub has it; 0 = it has taken effect. @param {Date | null} when */
export function seconds(when) {
  return when ? when.getTime() / 1000 : 0;
}
