/**
 * Giving this page the key of an app: pasted, or scanned with the camera.
 */

import { button, h, put } from "./dom.js";
import { sentence } from "./errors.js";
import { field, form } from "./forms.js";
import { dialog, notice, tell } from "./overlay.js";
import { forgetKeys, opened, useKey } from "./session.js";
import { t } from "./text.js";

/**
 * A field for the key, with the camera beside it. It is made once for a page and stands beside the parts that are
 * drawn again, so that nothing the hub tells takes a half-typed key away.
 * @param {() => any} after  when a key was taken or forgotten
 */
export function keyPanel(after) {
  const fault = h("p", { class: "fault", role: "alert" });
  const { row, input } = field(
    t("key.label"),
    { id: "key", autocomplete: "off", autocapitalize: "characters", spellcheck: "false", required: true, class: "mono" },
    t("key.stays"),
  );
  const take = async (/** @type {string} */ text) => {
    const { appId } = await useKey(text);
    input.value = "";
    forget.hidden = false;
    await after();
    notice(t("key.taken", { app: appId }));
  };
  const scan = button(t("key.scan"), async () => {
    const text = await scanCode();
    if (text) await take(text).catch((error) => put(fault, sentence(error)));
  });
  const forget = button(t("key.forget"), () => {
    forgetKeys();
    forget.hidden = true;
    tell(t("key.forgotten"));
    after();
  }, "quiet");
  forget.hidden = opened.size === 0;
  return h("div", { class: "key-panel" }, form([row], t("key.use"), () => take(input.value), { more: [scan, forget] }), fault);
}

/** What the camera sees, undefined when the person gave up. @returns {Promise<string | undefined>} */
async function scanCode() {
  const video = h("video", { class: "camera", playsinline: true, muted: true, "aria-label": t("key.camera") });
  const fault = h("p", { class: "fault", role: "alert" });
  const end = new AbortController();
  const text = await dialog(t("key.scan"), (close) => {
    look(video, end.signal).then(close, (error) => {
      if (!end.signal.aborted) put(fault, sentence(error));
    });
    return [video, fault, h("p", { class: "hint" }, t("key.hold")), h("div", { class: "row end" }, button(t("cancel"), () => close()))];
  });
  end.abort();
  return text;
}

/** @param {HTMLVideoElement} video @param {AbortSignal} signal @returns {Promise<any>} */
async function look(video, signal) {
  const { scanCamera } = await import("/client/qr.js");
  return scanCamera(video, { signal });
}
