/**
 * The column at the left, on a phone the first screen: the chapters, today's words, the sync badge.
 */

import { allChapters, deleteChapter, inOrder, moveChapter, titleOf } from "../chapters.js";
import { db, GOAL } from "../db.js";
import { h, icon, put, quiet } from "../dom.js";
import { saveBook } from "../export.js";
import { watch } from "../live.js";
import { menu, notice } from "../overlay.js";
import { ago, inWords } from "../status.js";
import { countWords, dayOf, plural } from "../words.js";

/** The whole column. */
export function side() {
  return [
    h(
      "header",
      { class: "brand" },
      h("a", { href: "#/", class: "brand-name" }, "Quire"),
      h(
        "a",
        { href: "#/new", class: "icon-button", "aria-label": "New chapter", title: "New chapter (Alt N)" },
        icon("plus"),
      ),
    ),
    h("nav", { class: "chapters", "aria-label": "Chapters" }, chapterList()),
    h("footer", { class: "side-foot" }, today(), badge(), tools()),
  ];
}

// --- chapters ---

function chapterList() {
  const list = h("ol", { class: "chapter-list" });
  /** @type {any[]} */
  let chapters = [];
  const draw = () => {
    const focused = /** @type {HTMLElement | null} */ (document.activeElement)
      ?.closest?.(".chapter")
      ?.getAttribute("data-id");
    const onMenu = document.activeElement?.matches?.(".chapter button");
    put(
      list,
      chapters.map((chapter, at) => row(chapter, at, chapters.length)),
    );
    if (!chapters.length) put(list, h("li", { class: "none" }, "Nothing here yet."));
    const again = focused && list.querySelector(`[data-id="${CSS.escape(focused)}"] ${onMenu ? "button" : "a"}`);
    if (again && !document.querySelector(".menu")) again.focus();
  };
  watch(allChapters, (found) => {
    chapters = inOrder(found);
    draw();
  });
  db.hub.conflicts.subscribe(draw);
  addEventListener("shown", draw);
  allowDragging(list);
  list.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => moveByKey(event, chapters));
  return list;
}

/** @param {any} chapter @param {number} at @param {number} length */
function row(chapter, at, length) {
  const here = `#/chapter/${encodeURIComponent(chapter.id)}`;
  const current = location.hash === here || location.hash === here.replace("chapter", "compare");
  const waiting = (db.hub.conflicts.value ?? []).some(
    (/** @type {any} */ one) => one.table === "chapters" && one.key === chapter.id,
  );
  const words = wordsOf(chapter);
  const entries = [
    { label: "Rename", action: () => rename(here) },
    { label: "Move up", action: () => moveChapter(chapter.id, at - 1), off: at === 0 },
    { label: "Move down", action: () => moveChapter(chapter.id, at + 1), off: at === length - 1 },
    { label: "Delete", action: () => removeChapter(chapter), danger: true },
  ];
  return h(
    "li",
    { class: "chapter", data: { id: chapter.id }, draggable: "true" },
    h(
      "a",
      { href: here, "aria-current": current ? "page" : null, draggable: "false" },
      h("span", { class: "chapter-title" }, titleOf(chapter)),
      waiting
        ? h("span", { class: "mark" }, "compare")
        : h("span", { class: "count", "aria-label": plural(words) }, words.toLocaleString("en")),
    ),
    h(
      "button",
      {
        type: "button",
        class: "icon-button more",
        "aria-label": `More for ${titleOf(chapter)}`,
        "aria-haspopup": "menu",
        "aria-expanded": "false",
        onclick: (/** @type {any} */ event) => menu(event.currentTarget, entries),
      },
      icon("more"),
    ),
  );
}

/** @type {Map<string, { text: string, words: number }>} */
const counted = new Map();

/** A book is long, and few of its chapters change. @param {{ id: string, text: string }} chapter */
function wordsOf({ id, text }) {
  if (counted.get(id)?.text !== text) counted.set(id, { text, words: countWords(text) });
  return counted.get(id)?.words ?? 0;
}

/** @param {string} address */
function rename(address) {
  const select = () => /** @type {HTMLInputElement | null} */ (document.querySelector("#main .title"))?.select();
  if (location.hash === address) return select();
  addEventListener("shown", select, { once: true });
  location.hash = address;
}

/** Delete with a way back. @param {{ id: string, title?: string }} chapter */
export async function removeChapter(chapter) {
  const undo = await deleteChapter(chapter.id);
  if (location.hash.includes(encodeURIComponent(chapter.id))) location.hash = "#/";
  notice(`Deleted “${titleOf(chapter)}”.`, { label: "Undo", action: undo });
}

/** Alt with an arrow moves the chapter that has the focus. @param {KeyboardEvent} event @param {any[]} chapters */
function moveByKey(event, chapters) {
  const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  const id = /** @type {HTMLElement} */ (event.target).closest(".chapter")?.getAttribute("data-id");
  if (!by || !id) return;
  const at = chapters.findIndex((chapter) => chapter.id === id);
  const to = at + by;
  event.preventDefault();
  if (event.altKey) {
    if (to >= 0 && to < chapters.length) moveChapter(id, to);
  } else {
    const links = [.../** @type {HTMLElement} */ (event.currentTarget).querySelectorAll(".chapter a")];
    /** @type {HTMLElement | undefined} */ (links[to])?.focus();
  }
}

/** @param {HTMLElement} list */
function allowDragging(list) {
  /** @type {string | null} */
  let dragged = null;
  const clear = () =>
    list
      .querySelectorAll(".drop-before, .drop-after")
      .forEach((one) => one.classList.remove("drop-before", "drop-after"));
  const place = (/** @type {DragEvent} */ event) => {
    const over = /** @type {HTMLElement | null} */ (/** @type {HTMLElement} */ (event.target).closest?.(".chapter"));
    if (!over) return null;
    const box = over.getBoundingClientRect();
    return { over, after: event.clientY > box.top + box.height / 2 };
  };
  list.addEventListener("dragstart", (event) => {
    dragged = /** @type {HTMLElement} */ (event.target).closest?.(".chapter")?.getAttribute("data-id") ?? null;
    event.dataTransfer?.setData("text/plain", "");
  });
  list.addEventListener("dragover", (event) => {
    const found = dragged && place(event);
    if (!found) return;
    event.preventDefault();
    clear();
    found.over.classList.add(found.after ? "drop-after" : "drop-before");
  });
  list.addEventListener("drop", (event) => {
    const found = dragged && place(event);
    if (!found || !dragged) return;
    event.preventDefault();
    const ids = [...list.querySelectorAll(".chapter")]
      .map((one) => one.getAttribute("data-id"))
      .filter((id) => id !== dragged);
    const to = ids.indexOf(found.over.getAttribute("data-id"));
    if (to >= 0) moveChapter(dragged, to + (found.after ? 1 : 0));
  });
  list.addEventListener("dragend", () => {
    dragged = null;
    clear();
  });
}

// --- today ---

function today() {
  const bar = h("span", { class: "meter-fill" });
  const text = h("span", { class: "meter-text" });
  const link = h(
    "a",
    { href: "#/progress", class: "today", title: "Words by day (Alt G)" },
    text,
    h("span", { class: "meter", "aria-hidden": "true" }, bar),
  );
  const read = async () => [(await db.days.get(dayOf()))?.words ?? 0, (await db.settings.get("goal"))?.value ?? GOAL];
  watch(read, ([words, goal]) => {
    const written = Math.max(0, words);
    bar.style.width = `${goal ? Math.min(100, (100 * written) / goal) : 100}%`;
    link.classList.toggle("reached", written >= Math.max(1, goal));
    put(
      text,
      h("span", null, "Today"),
      " ",
      h(
        "span",
        { class: "number" },
        goal ? `${written.toLocaleString("en")} of ${goal.toLocaleString("en")} words` : plural(written),
      ),
    );
  });
  return link;
}

// --- the badge ---

/** @type {any} */
let status = null;

/** Where sync stands; leads to all about it. */
export function badge() {
  const link = h("a", { href: "#/sync", class: "badge", title: "Sync (Alt Y)" });
  drawBadge(link);
  return link;
}

/** All badges of the page show the same. */
function drawBadges() {
  for (const link of document.querySelectorAll("a.badge")) drawBadge(/** @type {HTMLElement} */ (link));
}

/** @param {HTMLElement} link */
function drawBadge(link) {
  const words = inWords(status);
  const detail = words.detail || (words.text === "Synced" && status.lastAppendedAt ? ago(status.lastAppendedAt) : "");
  const now = words.tone + words.text + detail;
  if (link.dataset.drawn === now) return;
  Object.assign(link.dataset, { drawn: now, tone: words.tone, phase: status?.phase ?? "" });
  put(
    link,
    h("span", { class: "dot", "aria-hidden": "true" }),
    quiet("Sync: "),
    h("span", { class: "badge-text" }, words.text),
    detail && h("span", { class: "badge-detail" }, detail),
  );
}

db.hub.status.subscribe((/** @type {any} */ value) => {
  status = value;
  drawBadges();
});
setInterval(drawBadges, 30_000); // "2 minutes ago" grows old

// --- tools ---

function tools() {
  const theme = h("button", { type: "button", class: "icon-button" });
  const draw = () => {
    const dark = document.documentElement.dataset.theme === "dark";
    theme.setAttribute("aria-label", dark ? "Use light colours" : "Use dark colours");
    theme.title = dark ? "Light" : "Dark";
    put(theme, icon(dark ? "sun" : "moon"));
  };
  new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  theme.addEventListener("click", () => {
    const wanted = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    dispatchEvent(new CustomEvent("quire-theme", { detail: wanted === system ? null : wanted }));
  });
  draw();
  return h(
    "div",
    { class: "tools" },
    theme,
    h(
      "a",
      { href: "#/help", class: "icon-button", "aria-label": "Keyboard shortcuts", title: "Keyboard shortcuts (?)" },
      icon("keys"),
    ),
    h(
      "button",
      {
        type: "button",
        class: "icon-button",
        "aria-label": "Save all as a text file",
        title: "Save all as a text file",
        onclick: saveBook,
      },
      icon("save"),
    ),
  );
}
