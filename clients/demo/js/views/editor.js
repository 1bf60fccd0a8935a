/**
 * One chapter: its title, its text, how many words; a calm preview.
 *
 * Every word is kept within half a second. What another device wrote meanwhile comes in while one writes;
 * the place of the cursor is kept.
 */

import { inOrder, moveChapter, renameChapter, titleOf, writeChapter } from "../chapters.js";
import { db, remember } from "../db.js";
import { merge } from "../diff.js";
import { h, icon, put } from "../dom.js";
import { sentence } from "../errors.js";
import { saveChapter } from "../export.js";
import { watch } from "../live.js";
import { render } from "../markdown.js";
import { menu, notice } from "../overlay.js";
import { badge, removeChapter } from "./side.js";
import { countWords, plural } from "../words.js";

const KEEP_AFTER_MS = 400;
const KEEP_WITHIN_MS = 2_000;

/** @param {string} id */
export async function editor(id) {
  const chapter = await db.chapters.get(id);
  if (!chapter) return gone();
  await remember("open", id);
  return new Editor(chapter).view();
}

class Editor {
  /** @param {import("../chapters.js").Chapter} chapter */
  constructor(chapter) {
    this.id = chapter.id;
    this.known = chapter; // as the database has it
    this.keeping = Promise.resolve();
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    this.dirtySince = 0;
    this.composing = false;
    this.fit = () => fit(this.text);
    this.title = h("input", {
      class: "title",
      type: "text",
      value: chapter.title,
      placeholder: "Untitled",
      "aria-label": "Title",
      autocomplete: "off",
      maxlength: "200",
      oninput: () => this.typed(),
      onkeydown: (/** @type {KeyboardEvent} */ event) => {
        if (event.key === "Enter" && !event.isComposing) {
          event.preventDefault();
          this.text.focus();
        }
      },
    });
    this.text = h("textarea", {
      class: "prose",
      "aria-label": "Text",
      placeholder: "Write here…",
      spellcheck: "true",
      value: chapter.text,
      rows: "1",
      oninput: () => this.typed(),
      oncompositionstart: () => (this.composing = true),
      oncompositionend: () => {
        this.composing = false;
        this.typed();
      },
    });
    this.count = h("span", { class: "words" });
    this.banner = h("div");
    this.paper = h("article", { class: "prose preview", "aria-label": "Preview", tabindex: "-1", hidden: true });
    this.eye = h(
      "button",
      {
        type: "button",
        class: "icon-button",
        "aria-label": "Preview",
        "aria-pressed": "false",
        title: "Preview (Alt P)",
        onclick: () => this.preview(),
      },
      icon("eye"),
    );
  }

  view() {
    const more = h(
      "button",
      {
        type: "button",
        class: "icon-button",
        "aria-label": "More for this chapter",
        "aria-haspopup": "menu",
        "aria-expanded": "false",
        onclick: (/** @type {any} */ event) => this.more(event.currentTarget),
      },
      icon("more"),
    );
    const element = h(
      "section",
      { class: "editor", "aria-label": "Chapter" },
      h(
        "header",
        { class: "bar" },
        h("a", { href: "#/", class: "icon-button back", "aria-label": "All chapters" }, icon("back")),
        h("span", { class: "only-narrow" }, badge()),
        h("span", { class: "spring" }),
        this.count,
        this.eye,
        more,
      ),
      this.banner,
      h("div", { class: "sheet" }, this.title, this.text, this.paper),
    );
    const stops = [
      watch(
        () => db.chapters.get(this.id),
        (row) => this.changed(row),
      ),
      db.hub.conflicts.subscribe((/** @type {any[]} */ all) => this.showConflict(all)),
    ];
    const flush = () => document.visibilityState === "hidden" && this.keep();
    const hide = () => this.keep();
    document.addEventListener("visibilitychange", flush);
    addEventListener("pagehide", hide);
    this.text.addEventListener("blur", hide);
    this.title.addEventListener("blur", hide);
    addEventListener("resize", this.fit);
    this.drawn();
    requestAnimationFrame(() => {
      this.fit();
      if (!this.known.title && !this.known.text) this.title.focus();
    });
    return {
      title: titleOf(this.known),
      element,
      keys: { KeyP: () => this.preview() },
      leave: () => {
        document.removeEventListener("visibilitychange", flush);
        removeEventListener("pagehide", hide);
        removeEventListener("resize", this.fit);
        for (const stop of stops) stop?.();
        return this.keep();
      },
    };
  }

  // --- keeping ---

  get dirty() {
    return this.text.value !== this.known.text || this.title.value !== this.known.title;
  }

  typed() {
    this.drawn();
    this.dirtySince ||= Date.now();
    clearTimeout(this.timer);
    const left = this.dirtySince + KEEP_WITHIN_MS - Date.now();
    this.timer = setTimeout(() => this.keep(), Math.max(0, Math.min(KEEP_AFTER_MS, left)));
  }

  /** One after another; the last one knows all that was typed. */
  keep() {
    clearTimeout(this.timer);
    this.dirtySince = 0;
    this.keeping = this.keeping.then(() => this.keepNow()).catch((error) => notice(sentence(error), { stay: true }));
    return this.keeping;
  }

  async keepNow() {
    if (!this.dirty) return;
    const [title, text, before] = [this.title.value, this.text.value, this.known.text];
    if (title !== this.known.title) await renameChapter(this.id, title);
    this.known = { ...this.known, title };
    if (text === before) return;
    const kept = await writeChapter(this.id, before, text, title);
    this.known = { ...this.known, text: kept };
    if (kept !== text) this.setText(merge(text, this.text.value, kept).text);
  }

  // --- what comes in ---

  /** @param {import("../chapters.js").Chapter | undefined} row */
  changed(row) {
    if (!row) {
      if (!this.dirty)
        put(
          this.banner,
          note("This chapter was deleted.", h("a", { href: "#/", class: "button quiet" }, "All chapters")),
        );
      return;
    }
    if (
      this.title.value === this.known.title &&
      row.title !== this.title.value &&
      document.activeElement !== this.title
    ) {
      this.title.value = row.title;
    }
    if (this.title.value === row.title) this.known = { ...this.known, title: row.title };
    // While something waits to be kept, that brings both together.
    if (this.text.value !== this.known.text || this.composing) return;
    this.known = { ...row, title: this.known.title };
    if (row.text !== this.text.value) this.setText(row.text);
  }

  /** New text from elsewhere; the cursor stays where it was in the sentence. @param {string} text */
  setText(text) {
    const { value: before, selectionStart, selectionEnd, scrollTop } = this.text;
    this.text.value = text;
    this.text.setSelectionRange(moved(selectionStart, before, text), moved(selectionEnd, before, text));
    this.text.scrollTop = scrollTop;
    this.drawn();
  }

  /** @param {any[]} conflicts */
  showConflict(conflicts = []) {
    const mine = conflicts.some((one) => one.table === "chapters" && one.key === this.id);
    put(
      this.banner,
      mine &&
        note(
          "Two versions of this chapter are waiting for you.",
          h("a", { href: `#/compare/${encodeURIComponent(this.id)}`, class: "button quiet" }, "Compare them"),
        ),
    );
  }

  // --- showing ---

  drawn() {
    this.count.textContent = plural(countWords(this.text.value));
    fit(this.text);
    if (!this.paper.hidden) this.drawPaper();
  }

  drawPaper() {
    put(
      this.paper,
      this.text.value.trim() ? render(this.text.value) : h("p", { class: "hint" }, "Nothing written yet."),
    );
  }

  preview() {
    const on = this.paper.hidden;
    this.paper.hidden = !on;
    this.text.hidden = on;
    this.eye.setAttribute("aria-pressed", String(on));
    put(this.eye, icon(on ? "pen" : "eye"));
    if (on) {
      this.drawPaper();
      this.paper.focus({ preventScroll: true });
    } else {
      fit(this.text);
      this.text.focus({ preventScroll: true });
    }
  }

  /** @param {HTMLElement} anchor */
  async more(anchor) {
    await this.keep();
    const ids = inOrder(await db.chapters.toArray()).map((/** @type {any} */ chapter) => chapter.id);
    const at = ids.indexOf(this.id);
    menu(anchor, [
      { label: this.paper.hidden ? "Preview" : "Write", action: () => this.preview() },
      { label: "Move up", action: () => moveChapter(this.id, at - 1), off: at <= 0 },
      { label: "Move down", action: () => moveChapter(this.id, at + 1), off: at === ids.length - 1 },
      { label: "Save as a text file", action: () => saveChapter({ ...this.known }) },
      { label: "Delete", action: () => removeChapter(this.known), danger: true },
    ]);
  }
}

/** As tall as its text, where the browser does not see to that itself. @param {HTMLTextAreaElement} area */
function fit(area) {
  if (CSS.supports("field-sizing", "content")) return;
  const y = scrollY;
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight}px`;
  scrollTo(scrollX, y);
}

/**
 * Where a place in the old text is in the new one.
 * @param {number} place @param {string} before @param {string} after
 */
export function moved(place, before, after) {
  let head = 0;
  while (head < before.length && head < after.length && before[head] === after[head]) head++;
  if (place <= head) return place;
  let tail = 0;
  const most = Math.min(before.length, after.length) - head;
  while (tail < most && before[before.length - 1 - tail] === after[after.length - 1 - tail]) tail++;
  return place >= before.length - tail ? after.length - (before.length - place) : Math.min(place, after.length - tail);
}

/** @param {string} text @param {any} action */
function note(text, action) {
  return h("div", { class: "banner", role: "note" }, h("span", null, text), action);
}

function gone() {
  const element = h(
    "section",
    { class: "page" },
    h("h1", null, "This chapter is not here"),
    h("p", null, "It was deleted, or it has not come to this device yet."),
    h("div", { class: "row" }, h("a", { href: "#/", class: "button primary" }, "All chapters")),
  );
  return { title: "Not here", element };
}
