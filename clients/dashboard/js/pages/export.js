/**
 * Everything the hub keeps, as one sealed file.
 */

import { h, put } from "../dom.js";
import { bytes, percent } from "../format.js";
import { field, form } from "../forms.js";
import { tell } from "../overlay.js";
import { part } from "../part.js";
import { client, hex } from "../session.js";
import { t } from "../text.js";

export function exportPage() {
  const choice = part(() => client.spaces(), draw);
  const element = h(
    "div",
    { class: "narrow" },
    h("h1", null, t("export.title")),
    h("p", { class: "lead" }, t("export.lead")),
    choice.element,
    h("p", { class: "hint" }, t("export.format")),
  );
  // The list of apps is not worth losing a running export for: it is loaded once.
  return { title: t("export.title"), element, parts: [{ element: choice.element, reload: once(choice.reload) }] };
}

/** @param {() => Promise<void>} reload */
function once(reload) {
  let done = false;
  return async () => {
    if (!done) await reload();
    done = true;
  };
}

/** @param {any[]} spaces */
function draw(spaces) {
  const what = field(t("export.what"), { tag: "select", id: "export-what" });
  put(what.input, h("option", { value: "" }, t("export.all")), spaces.map((space) => h("option", { value: hex(space.spaceId) }, space.appId)));
  const place = h("div");
  const go = async () => {
    const space = spaces.find(({ spaceId }) => hex(spaceId) === what.input.value);
    await run(place, space);
  };
  return h("div", { class: "card" }, form([what.row], t("export.go"), go), place);
}

/** @param {HTMLElement} place @param {any} space */
async function run(place, space) {
  const bar = h("progress", { max: "100", value: "0", "aria-label": t("export.progress") });
  const text = h("p", { class: "figures" });
  put(place, bar, text);
  const onProgress = ({ doneBytes = 0, totalBytes = 0 }) => {
    bar.value = percent(doneBytes, totalBytes);
    put(text, t("export.so_far", { done: bytes(doneBytes), total: bytes(totalBytes) }));
  };
  try {
    const blob = await client.exportBundle({ spaceId: space?.spaceId, onProgress });
    offer(place, blob);
  } catch (error) {
    put(place);
    throw error;
  }
}

/** @param {HTMLElement} place @param {Blob} blob */
function offer(place, blob) {
  const name = `sync-hub-${new Date().toISOString().slice(0, 10)}.bundle`;
  const link = h("a", { class: "button primary", href: URL.createObjectURL(blob), download: name }, t("export.save", { size: bytes(blob.size) }));
  put(place, h("p", null, t("export.ready")), h("div", { class: "row" }, link));
  tell(t("export.ready"));
  link.focus();
}
