/**
 * The frame: which page is shown, the way between pages, and what the hub says in between.
 *
 * A page is a function that gives `{ title, element, parts }`; the address decides which one. Its parts are
 * loaded after it is shown, and again whenever something happened on the account.
 */

import { h, put } from "./dom.js";
import { sentence } from "./errors.js";
import { notice, tell } from "./overlay.js";
import { account, client, openSession } from "./session.js";
import { LANGUAGES, bestLanguage, languageNow, t, useLanguage } from "./text.js";
import { operatorPages } from "./operator/index.js";
import { accountPage } from "./pages/account.js";
import { apps } from "./pages/apps.js";
import { devices } from "./pages/devices.js";
import { connecting, ended } from "./pages/ended.js";
import { exportPage } from "./pages/export.js";
import { history } from "./pages/history.js";
import { overview } from "./pages/overview.js";
import { signIn } from "./pages/signin.js";
import { draw } from "./part.js";

/** @typedef {{ title: string, element: HTMLElement, parts: { reload: () => any }[] }} Page */

const [top, nav, main] = ["top", "nav", "main"].map((id) => /** @type {HTMLElement} */ (document.getElementById(id)));

/** @type {[string, () => Page][]} */
const PAGES = [
  ["overview", overview],
  ["devices", devices],
  ["apps", apps],
  ["export", exportPage],
  ["account", accountPage],
  ["history", history],
];

/** @type {Page} */
let shown = { title: "", element: main, parts: [] };
let kind = ""; // which of the pages below is shown, when it is none of the account's
let mayOperate = false;

function show() {
  const { phase } = client.status.value;
  const before = shown.title;
  kind = kindOf(phase);
  shown = kind === "pages" ? pageOf(location.hash || "#/") : alone(kind);
  document.title = `${shown.title} – sync-hub`;
  drawTop();
  drawNav();
  put(main, shown.element);
  scrollTo(0, 0);
  for (const { reload } of shown.parts) reload();
  if (before && !main.contains(document.activeElement)) main.focus({ preventScroll: true });
}

/** @param {string} phase */
function kindOf(phase) {
  if (phase === "signed-out" || phase === "ended") return phase;
  return client.ready ? "pages" : "connecting";
}

/** @param {string} which @returns {Page} */
function alone(which) {
  if (which === "signed-out") return signIn();
  return which === "ended" ? ended(client.status.value) : connecting();
}

/** @param {string} hash @returns {Page} */
function pageOf(hash) {
  const [name, ...rest] = hash.slice(2).split("/");
  if (name === "operator" && client.ready.operator) return operatorPages(rest);
  return (PAGES.find(([known]) => known === name)?.[1] ?? overview)();
}

// --- the head of the page ---

function drawTop() {
  const languages = Object.entries(LANGUAGES).map(([code, { name }]) =>
    h("option", { value: code, selected: code === languageNow(), lang: code }, name),
  );
  const choose = (/** @type {any} */ event) => {
    localStorage.setItem("hub-language", event.target.value);
    speak(event.target.value);
    show();
    document.getElementById("language")?.focus();
  };
  const theme = h("button", { type: "button", class: "button quiet", id: "theme", onclick: turnTheme }, t(`theme.${otherTheme()}`));
  draw(top, () => [
    h("a", { class: "brand", id: "brand", href: "#/" }, "sync-hub"),
    h("span", { class: "host" }, location.host),
    h("span", { class: `line-state ${client.status.value.phase}` }, client.signedIn ? t(`phase.${client.status.value.phase}`) : ""),
    h("div", { class: "tools" }, [
      h("label", { class: "sr-only", for: "language" }, t("language")),
      h("select", { id: "language", class: "field small", onchange: choose }, languages),
      theme,
    ]),
  ]);
  put(/** @type {HTMLElement} */ (document.getElementById("skip")), t("skip"));
}

function otherTheme() {
  return document.documentElement.dataset.theme === "dark" ? "light" : "dark";
}

function turnTheme() {
  dispatchEvent(new CustomEvent("hub-theme", { detail: otherTheme() }));
}

/** However the theme came to change. */
function watchTheme() {
  const named = () => put(/** @type {HTMLElement} */ (document.getElementById("theme")), t(`theme.${otherTheme()}`));
  new MutationObserver(named).observe(document.documentElement, { attributeFilter: ["data-theme"] });
}

function drawNav() {
  nav.hidden = kind !== "pages";
  nav.setAttribute("aria-label", t("nav"));
  if (nav.hidden) return draw(nav, () => []);
  const here = (location.hash || "#/").slice(2).split("/");
  const operator = here[0] === "operator" && mayOperate;
  const names = PAGES.map(([name]) => ({ name: `nav.${name}`, href: name === "overview" ? "#/" : `#/${name}` }));
  const at = operator ? "" : (names.find(({ href }) => href === `#/${here[0]}`) ?? names[0]).href;
  const links = names.map(({ name, href }) => link(t(name), href, href === at));
  const more = mayOperate
    ? ["", "accounts", "invites", "addresses"].map((name) =>
        link(t(`nav.operator.${name || "stats"}`), `#/operator${name && `/${name}`}`, operator && (here[1] ?? "") === name),
      )
    : [];
  draw(nav, () => [
    h("ul", null, links),
    more.length > 0 && [h("p", { class: "nav-title", id: "nav-operator" }, t("nav.operator")), h("ul", { "aria-labelledby": "nav-operator" }, more)],
  ]);
  nav.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
}

/** @param {string} text @param {string} href @param {boolean} here */
function link(text, href, here) {
  return h("li", null, h("a", { href, id: `nav${href}`, "aria-current": here ? "page" : null }, text));
}

/** @param {string} language */
function speak(language) {
  useLanguage(language, navigator.languages);
  document.documentElement.lang = languageNow();
}

// --- what the hub says ---

/** @param {any} status */
function statusChanged(status) {
  if (status.phase === "ready") {
    account.deletedAt = client.ready.accountDeletedAt;
    mayOperate = Boolean(client.ready.operator);
  }
  if (kindOf(status.phase) !== kind || kind === "ended") return show();
  drawTop();
  if (kind === "pages") tell(t(`phase.${status.phase}`));
  if (status.phase === "ready") {
    drawNav();
    again();
  }
}

function again() {
  for (const { reload } of shown.parts) reload();
}

/** @type {ReturnType<typeof setTimeout> | undefined} */
let soon;

/** Several notices of one act make one look. @param {any} told */
function noticed(told) {
  if (told.what === "account_deletion_set") account.deletedAt = told.at;
  if (told.what === "account_deletion_cancelled") account.deletedAt = 0;
  clearTimeout(soon);
  soon = setTimeout(again, 50);
}

async function start() {
  speak(localStorage.getItem("hub-language") ?? bestLanguage(navigator.languages));
  await openSession();
  addEventListener("hashchange", show);
  addEventListener("unhandledrejection", (event) => notice(sentence(event.reason), { stay: true }));
  document.getElementById("skip")?.addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
  });
  client.onNotice(noticed);
  client.status.subscribe(statusChanged); // it is called at once, and shows the first page
  watchTheme();
  if (client.signedIn) client.start();
}

start().catch((error) => {
  put(main, h("div", { class: "narrow" }, h("h1", null, t("broken.title")), h("p", null, sentence(error)), h("p", null, t("broken.text"))));
});
