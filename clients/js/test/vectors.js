/**
 * The published vectors and the protocol's document, read for the tests.
 */

import { readFileSync } from "node:fs";

const ROOT = new URL("../../../", import.meta.url);

/**
 * One file of vectors/, read.
 * @param {"crypto" | "values" | "ed25519" | "words"} name
 */
export function vectors(name) {
  return JSON.parse(readFileSync(new URL(`vectors/${name}.json`, ROOT), "utf8"));
}

/** docs/protocol.md. */
export const DOCUMENT = readFileSync(new URL("docs/protocol.md", ROOT), "utf8");

/**
 * The rows of a marked table of the document, each a list of its cells.
 * @param {string} mark what stands behind `<!-- `
 * @returns {string[][]}
 */
export function tableOf(mark) {
  const [, rest] = DOCUMENT.split(`<!-- ${mark} -->\n`);
  if (rest === undefined) throw new Error(`the document has no table ${mark}`);
  const rows = rest.split("\n<!-- end -->")[0].split("\n").slice(2);
  return rows.map((row) =>
    row
      .slice(2, -2)
      .split(" | ")
      .map((cell) => cell.trim()),
  );
}

/** Every frame of the document: from the device?, its stated meaning, its bytes. */
export function framesInDocument() {
  const frames = DOCUMENT.matchAll(/```frame\n(→|←) (.*?)\n((?:[0-9a-f ]+\n)+)```/gs);
  return [...frames].map(([, arrow, stated, digits]) => ({
    fromDevice: arrow === "→",
    stated,
    frame: Uint8Array.from(digits.trim().split(/\s+/), (pair) => parseInt(pair, 16)),
  }));
}
