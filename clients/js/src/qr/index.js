/**
 * Codes for the camera: draws a text as a QR code, and reads one from a picture or from the camera.
 *
 *     import { qrSvg, scanCamera } from "sync-hub-client/qr";
 *     page.innerHTML = qrSvg(pairing.code, { title: "Scan this with the other device" });
 *     const text = await scanCamera(video, { signal });
 *
 * Not part of what a page loads to start: import it when a person asks for a code.
 */

import { encode } from "uqr";

export { CameraError, scan, scanCamera } from "./scan.js";

export const QUIET_ZONE = 4; // light modules around the code, ISO/IEC 18004 §5.3.8; printers and dark pages need them
const CORRECTS = "M"; // a seventh of the code may be unreadable, as in the Python client

/**
 * The QR code of `text` as an SVG picture, black on white also on a dark page, as large as its place.
 *
 * Upper-case texts such as key codes and pairing codes are written in alphanumeric mode: a key code with its host is
 * of version 4 or 5, a pairing code of version 6.  It has no style and no id, so a strict Content-Security-Policy
 * lets it pass, in the page or as an image.  `title` is what a screen reader says; never put the text itself into it.
 *
 * @param {string} text
 * @param {{ title?: string }} [options]
 * @returns {string}
 */
export function qrSvg(text, { title = "QR code" } = {}) {
  const { data, size } = encode(text, { ecc: CORRECTS, border: QUIET_ZONE });
  const named = escaped(title);
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${size} ${size}" role="img" aria-label="${named}"`,
    ` shape-rendering="crispEdges"><title>${named}</title>`,
    `<path fill="#fff" d="M0 0h${size}v${size}H0z"/><path fill="#000" d="${data.map(bars).join("")}"/></svg>`,
  ].join("");
}

/**
 * The dark modules of one row, as bars of one module's height.
 *
 * @param {boolean[]} row @param {number} y
 */
function bars(row, y) {
  let path = "";
  for (let x = 0; x < row.length; x++) {
    if (!row[x]) continue;
    const start = x;
    while (row[x + 1]) x += 1;
    path += `M${start} ${y}h${x + 1 - start}v1H${start}z`;
  }
  return path;
}

/** @param {string} text */
function escaped(text) {
  return text.replace(/[&<>"]/g, (letter) => `&#${letter.charCodeAt(0)};`);
}
