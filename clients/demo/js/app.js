/**
 * The frame: which view is shown, the shortcuts, and what must be running from the start.
 *
 * A view is a function that gives `{ title, element, leave? }`; the address decides which one. Every view
 * reads from the database and writes to it; none knows whether the app is online.
 */

import { allChapters, addChapter } from "./chapters.js";
import { db, recall } from "./db.js";
import { nameThisDevice } from "./devices.js";
import { workOffline } from "./offline.js";
import { notice, tell } from "./overlay.js";
import { sentence } from "./errors.js";
import { inWords } from "./status.js";
import { editor } from "./views/editor.js";
import { help } from "./views/help.js";
import { compare } from "./views/compare.js";
import { keySheet } from "./views/key.js";
import { progress } from "./views/progress.js";
import { side } from "./views/side.js";
import { sync } from "./views/sync.js";
import { welcome } from "./views/welcome.js";
import { h, put } from "./dom.js";

const main = /** @type {HTMLElement} */ (document.getElementById("main"));
/** @type {{ title: string, element: HTMLElement, leave?: () => any, keys?: Record<string, () => any> }} */
let shown = { title: "", element: main };
let turn = 0;

/** @type {[RegExp, (...found: string[]) => any][]} */
const ROUTES = [
  [/^#\/chapter\/(.+)$/, (id) => editor(decodeURIComponent(id))],
  [/^#\/compare\/(.+)$/, (id) => compare(decodeURIComponent(id))],
  [/^#\/progress$/, () => progress()],
  [/^#\/sync$/, () => sync()],
  [/^#\/help$/, () => help()],
];

async function show() {
  const mine = ++turn;
  const hash = location.hash || "#/";
  if (hash === "#/new") return startChapter();
  await shown.leave?.();
  const [route, make] = ROUTES.find(([pattern]) => pattern.test(hash)) ?? [null, null];
  const view = route ? await make(...(route.exec(hash) ?? []).slice(1)) : await home();
  if (mine !== turn) return view.leave?.(); // the person was faster
  const first = !shown.title;
  shown = view;
  document.title = view.title ? `${view.title} – Quire` : "Quire";
  document.body.dataset.view = make ? "page" : "list";
  put(main, view.element);
  scrollTo(0, 0);
  dispatchEvent(new CustomEvent("shown", { detail: hash }));
  if (!first && !main.contains(document.activeElement)) main.focus({ preventScroll: true });
}

/** On a wide screen the chapter that was open last; on a narrow one the list has the screen for itself. */
async function home() {
  const [chapters, last] = [await allChapters(), await recall("open")];
  const chapter = chapters.find(({ id }) => id === last) ?? chapters[0];
  const wide = matchMedia("(min-width: 760px)").matches;
  if (!chapter) return welcome();
  if (!wide) return { title: "", element: h("div") };
  history.replaceState(null, "", `#/chapter/${encodeURIComponent(chapter.id)}`);
  return editor(chapter.id);
}

async function startChapter() {
  const id = await addChapter();
  location.replace(`#/chapter/${id}`);
}

/** @type {Record<string, () => any>} by the key that is pressed together with Alt */
const SHORTCUTS = {
  KeyN: () => (location.hash = "#/new"),
  KeyG: () => (location.hash = "#/progress"),
  KeyY: () => (location.hash = "#/sync"),
  KeyL: () =>
    /** @type {HTMLElement | null} */ (
      document.querySelector("#side [aria-current], #side .chapter a, #side a")
    )?.focus(),
  KeyT: () => /** @type {HTMLElement | null} */ (document.querySelector("#main textarea, #main input, #main"))?.focus(),
};

addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  if ((event.ctrlKey || event.metaKey) && event.code === "KeyS") {
    event.preventDefault(); // nothing to do: every word is kept as it is typed
    return notice("Everything is kept already.");
  }
  const typing = event.target instanceof HTMLElement && event.target.matches("input, textarea, select");
  if (event.key === "?" && !typing) location.hash = "#/help";
  if (!event.altKey || event.ctrlKey || event.metaKey) return;
  const action = shown.keys?.[event.code] ?? SHORTCUTS[event.code];
  if (!action) return;
  event.preventDefault();
  action();
});

/** What has come to rest is told to screen readers; what passes in a moment is not. */
function announce() {
  let before = "";
  db.hub.status.subscribe((/** @type {any} */ status) => {
    const words = inWords(status);
    const text = [words.text, words.detail].filter(Boolean).join(", ");
    if (!words.idle || text === before) return;
    if (before) tell(text);
    before = text;
  });
}

/** Whoever made a key and has not kept it yet is asked again, also after a reload. */
async function remind() {
  if ((await recall("key-kept")) === false) await keySheet({ must: true });
}

async function start() {
  await db.open();
  put(/** @type {HTMLElement} */ (document.getElementById("side")), side());
  document.getElementById("skip")?.addEventListener("click", (event) => {
    event.preventDefault();
    SHORTCUTS.KeyT();
  });
  addEventListener("hashchange", () => show().catch(complain));
  matchMedia("(min-width: 760px)").addEventListener("change", () => location.hash.length < 3 && show().catch(complain));
  addEventListener("unhandledrejection", (event) => complain(event.reason));
  await show();
  announce();
  nameThisDevice();
  await remind();
  await workOffline();
}

/** @param {unknown} error */
function complain(error) {
  console.error(error);
  notice(sentence(error), { stay: true });
}

start().catch((error) => {
  console.error(error);
  put(
    main,
    h(
      "div",
      { class: "page" },
      h("h1", null, "Quire could not start"),
      h("p", null, sentence(error)),
      h("p", null, "Close the other tabs of Quire, then reload this one."),
    ),
  );
  document.body.dataset.view = "page";
});
