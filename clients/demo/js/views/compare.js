/**
 * Two versions of one chapter: both texts side by side, what differs is marked, and three ways out.
 *
 * Take one, take the merge when all changes fit together, or write the text that shall stand by hand.
 */

import { titleOf } from "../chapters.js";
import { db } from "../db.js";
import { compare as differences, merge } from "../diff.js";
import { button, h, put, quiet } from "../dom.js";
import { sentence } from "../errors.js";
import { notice, tell } from "../overlay.js";
import { countWords, plural } from "../words.js";
import { section, top } from "./page.js";

/** @param {string} id */
export function compare(id) {
  const element = h("section", { class: "page wide" });
  let drawn = "";
  let solved = false;
  const stop = db.hub.conflicts.subscribe((/** @type {any[]} */ all = []) => {
    const conflict = all.find((one) => one.table === "chapters" && one.key === id);
    const now = conflict ? JSON.stringify([conflict.base, conflict.mine, conflict.theirs]) : "";
    if (solved || (drawn && drawn === now)) return;
    drawn = now;
    put(element, top(), conflict ? choices(conflict, finish) : nothing(id));
  });
  /** @param {any} conflict @param {any} value @param {string} words */
  async function finish(conflict, value, words) {
    solved = true;
    try {
      await db.hub.resolve(conflict.table, conflict.key, value, conflict); // as the writer saw it
      tell(words);
      notice(words);
      location.hash = value ? `#/chapter/${encodeURIComponent(id)}` : "#/";
    } catch (error) {
      solved = false;
      notice(sentence(error), { stay: true });
    }
  }
  return { title: "Compare", element, leave: () => stop?.() };
}

/** @param {any} conflict @param {(conflict: any, value: any, words: string) => any} finish */
function choices(conflict, finish) {
  const { mine, theirs } = conflict;
  const row = mine ?? theirs;
  const pieces = differences(mine?.text ?? "", theirs?.text ?? "");
  const marked = pieces.filter(({ kind }, at) => kind !== "same" && (pieces[at - 1]?.kind ?? "same") === "same").length;
  const together = mine && theirs ? merge(baseText(conflict), mine.text, theirs.text) : null;
  const title = h("input", {
    type: "text",
    class: "field",
    id: "merged-title",
    value: mergedTitle(conflict),
    maxlength: "200",
    autocomplete: "off",
  });
  const hand = h("textarea", {
    class: "field prose",
    id: "merged-text",
    rows: "12",
    spellcheck: "true",
    value: together?.text ?? row.text,
  });
  const take = (/** @type {any} */ value, /** @type {string} */ words) => finish(conflict, value, words);
  const merged = (/** @type {string} */ text) => ({ ...row, order: mergedOrder(conflict), title: title.value, text });
  const use = () => take(merged(hand.value), "Your merged text is kept.");
  return [
    h("h1", null, "Two versions of “", titleOf(row), "”"),
    h(
      "p",
      { class: "lead" },
      "This chapter was changed on two devices at the same time. Both texts are safe. Choose one, or bring them " +
        "together.",
    ),
    h(
      "p",
      { class: "hint" },
      `${plural(marked, "place")} ${marked === 1 ? "differs" : "differ"}. What only one version has is marked.`,
    ),
    h(
      "div",
      { class: "versions" },
      version("On this device", mine, pieces, "mine", () =>
        take(mine ?? undefined, "The version of this device is kept."),
      ),
      version("On the other device", theirs, pieces, "theirs", () =>
        take(theirs ?? undefined, "The version of the other device is kept."),
      ),
    ),
    together?.clean &&
      section(
        "They fit together",
        h("p", null, "The two devices changed different words. Both changes in one text:"),
        h("div", { class: "merged prose" }, paragraphs([{ kind: "same", text: together.text }])),
        h(
          "div",
          { class: "row" },
          button("Use both changes", () => take(merged(together.text), "Both changes are kept."), "primary"),
        ),
      ),
    section(
      "Bring them together by hand",
      together &&
        !together.clean &&
        h(
          "p",
          null,
          `At ${plural(together.places, "place")} both changed the same words; `,
          "there both stand one after the other. Keep what you like.",
        ),
      h("label", { for: "merged-title" }, "Title"),
      title,
      h("label", { for: "merged-text" }, "Text"),
      hand,
      h("div", { class: "row" }, button("Keep this text", use, together?.clean ? "" : "primary")),
    ),
  ];
}

/**
 * @param {string} name
 * @param {any} row
 * @param {any[]} pieces
 * @param {"mine" | "theirs"} kind
 * @param {() => any} take
 */
function version(name, row, pieces, kind, take) {
  const shown = pieces.filter((piece) => piece.kind === "same" || piece.kind === kind);
  const id = `version-${kind}`;
  const text = row ? paragraphs(shown) : h("p", { class: "hint" }, "Deleted there.");
  return h(
    "article",
    { class: `version ${kind}`, "aria-labelledby": id },
    h("h2", { id }, name, row && h("span", { class: "hint" }, plural(countWords(row.text)))),
    row && h("p", { class: "version-title" }, titleOf(row)),
    h(
      "div",
      { class: "prose version-text", tabindex: "0", role: "region", "aria-label": `Text, ${name.toLowerCase()}` },
      text,
    ),
    h(
      "div",
      { class: "row" },
      button(row ? "Take this one" : "Delete it here too", take, "", { "aria-describedby": id }),
    ),
  );
}

/** Text as paragraphs, with what only this version has in marks. @param {{ kind: string, text: string }[]} pieces */
function paragraphs(pieces) {
  const found = [h("p")];
  for (const { kind, text } of pieces) {
    text.split(/\n{2,}/).forEach((part, at) => {
      if (at) found.push(h("p"));
      if (!part) return;
      const last = found[found.length - 1];
      if (kind === "same" || !part.trim()) return last.append(...broken(part));
      const [, before, words, after] = /** @type {string[]} */ (/^(\s*)([^]*?)(\s*)$/.exec(part));
      last.append(
        ...broken(before),
        h("mark", null, quiet(" [only here: "), broken(words), quiet("] ")),
        ...broken(after),
      );
    });
  }
  return found.filter((one) => one.hasChildNodes());
}

/** Lines with breaks between them. @param {string} text */
function broken(text) {
  return text.split("\n").flatMap((line, place) => (place ? [h("br"), line] : [line]));
}

/**
 * What both began with; without it nothing counts as old, and the texts stand one after the other.
 * @param {any} conflict
 */
function baseText({ base }) {
  return base?.text ?? "";
}

/** @param {any} conflict */
function mergedTitle({ base, mine, theirs }) {
  if (!mine || !theirs) return (mine ?? theirs).title;
  return mine.title === base?.title ? theirs.title : mine.title;
}

/** @param {any} conflict */
function mergedOrder({ base, mine, theirs }) {
  if (!mine || !theirs) return (mine ?? theirs).order;
  return mine.order === base?.order ? theirs.order : mine.order;
}

/** @param {string} id */
function nothing(id) {
  return [
    h("h1", null, "Nothing to compare"),
    h("p", null, "The two versions have been brought together, here or on another device."),
    h(
      "div",
      { class: "row" },
      h("a", { href: `#/chapter/${encodeURIComponent(id)}`, class: "button primary" }, "To the chapter"),
    ),
  ];
}
