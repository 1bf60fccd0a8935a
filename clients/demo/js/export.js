/**
 * Gives the person's texts back as a markdown file. Nothing is needed to read it again but an editor.
 */

import { allChapters, asMarkdown, titleOf } from "./chapters.js";
import { h } from "./dom.js";
import { notice } from "./overlay.js";
import { dayOf } from "./words.js";

/** All chapters in one file. */
export async function saveBook() {
  const chapters = await allChapters();
  if (!chapters.length) return notice("There is nothing to save yet.");
  save(`quire-${dayOf()}.md`, asMarkdown(chapters));
}

/** One chapter. @param {import("./chapters.js").Chapter} chapter */
export function saveChapter(chapter) {
  const name = titleOf(chapter)
    .normalize("NFKD")
    .replace(/[^\p{L}\p{N}]+/gu, "-")
    .replace(/^-|-$/g, "")
    .toLowerCase();
  save(`${name || "chapter"}.md`, asMarkdown([chapter]));
}

/** @param {string} name @param {string} text */
function save(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/markdown;charset=utf-8" }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
  notice(`Saved as ${name}.`);
}
