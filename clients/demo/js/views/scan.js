/**
 * Reads a QR code with the camera. The reader is loaded when it is first wanted.
 */

import { button, h, put } from "../dom.js";
import { sentence } from "../errors.js";
import { dialog } from "../overlay.js";

/** A button that opens the camera. @param {string} label @param {(text: string) => any} then */
export function scanButton(label, then) {
  return button(label, async () => {
    const text = await scanCode(label);
    if (text) await then(text);
  });
}

/**
 * What the camera sees, undefined when the person gave up.
 * @param {string} title
 * @returns {Promise<string | undefined>}
 */
export async function scanCode(title) {
  const video = h("video", { class: "camera", playsinline: true, muted: true, "aria-label": "What the camera sees" });
  const fault = h("p", { class: "fault", role: "alert" });
  const end = new AbortController();
  const text = await dialog(title, (close) => {
    look(video, end.signal).then(close, (error) => {
      if (!end.signal.aborted) put(fault, sentence(error));
    });
    return [
      video,
      fault,
      h("p", { class: "hint" }, "Hold the code before the camera."),
      h(
        "div",
        { class: "row end" },
        button("Cancel", () => close()),
      ),
    ];
  });
  end.abort();
  return text;
}

/** @param {HTMLVideoElement} video @param {AbortSignal} signal @returns {Promise<any>} */
async function look(video, signal) {
  const { scanCamera } = await import("/client/qr.js");
  return scanCamera(video, { signal });
}
