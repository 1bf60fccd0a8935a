/**
 * Keeps the app for when there is no network.
 *
 * It follows the links: from the page to its styles and scripts, from scripts to what they import, from the
 * manifest to its icons. So there is no list of files to keep up to date, and hashed names are found too.
 * One cache is one whole version. On "look" it fetches everything again (unchanged files cost a 304); if anything
 * differs, the new version is put beside the old one and the pages that show the old one are told. They go on
 * with theirs; whatever is opened or reloaded from then on has the new one.
 */

const NAME = "quire-";
const SCOPE = new URL("./", self.location.href);
const LIBRARY = new URL("/client/", SCOPE);
const PAGE = SCOPE.href;
const LINKS = {
  html: /\b(?:src|href)="([^"#]+)"/g,
  javascript: /(?:\bfrom|\bimport)\s*\(?\s*["']((?:\.{0,2}\/)[^"'\n]+)["']/g,
  manifest: /"src"\s*:\s*"([^"]+)"/g,
};

self.addEventListener("install", (event) => {
  // A later script of this worker goes on with the version that is there.
  event.waitUntil(Promise.all([newest().then((name) => name ?? keep(NAME + "1")), self.skipWaiting()]));
});

self.addEventListener("activate", (event) => {
  event.waitUntil(self.clients.claim());
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  const ours = url.href.startsWith(SCOPE.href) || url.href.startsWith(LIBRARY.href);
  if (request.method === "GET" && url.origin === SCOPE.origin && ours) event.respondWith(answer(event));
});

self.addEventListener("message", (event) => {
  if (event.data?.type === "look") event.waitUntil(look(event.source));
});

const versionByPage = new Map(); // while the worker lives; a page that is not in it is thought to be new

/** From the page's own version; what is not part of it from another one, or from the network. */
async function answer({ request, clientId, resultingClientId }) {
  const opens = request.mode === "navigate";
  const name = (!opens && versionByPage.get(clientId)) || (await newest());
  if (opens) versionByPage.set(resultingClientId, name);
  for (const one of [name, ...(await versions())]) {
    const cache = one && (await caches.has(one)) && (await caches.open(one));
    const kept = cache && (await cache.match(opens ? PAGE : request, { ignoreSearch: true }));
    if (kept) return kept;
  }
  return fetch(request);
}

/** The newest version that is whole; null when there is none. */
async function newest() {
  for (const name of await versions()) {
    if (await (await caches.open(name)).match(PAGE)) return name; // the page is put last
  }
  return null;
}

/** Newest first. */
async function versions() {
  const names = (await caches.keys()).filter((name) => name.startsWith(NAME));
  return names.sort((one, other) => numberOf(other) - numberOf(one));
}

function numberOf(name) {
  return Number(name.slice(NAME.length));
}

let looking = null;

/** Is there a newer version? Then keep it whole, and tell the pages that have an older one. */
async function look(asker) {
  looking ??= refresh().finally(() => (looking = null));
  await looking;
  const now = await newest();
  for (const page of await self.clients.matchAll()) {
    if ((versionByPage.get(page.id) ?? now) !== now) page.postMessage({ type: "new-version" });
  }
  asker?.postMessage({ type: "looked" });
}

async function refresh() {
  const files = await gather().catch(() => null); // no network: no news
  const now = await newest();
  if (!files || (now && (await same(await caches.open(now), files)))) return;
  // Pages that were opened before this one was kept have it.
  for (const page of await self.clients.matchAll()) if (!versionByPage.has(page.id)) versionByPage.set(page.id, now);
  const [last, before] = await versions();
  for (const name of await versions()) if (name !== last && name !== before) await caches.delete(name);
  await store(NAME + (last ? numberOf(last) + 1 : 1), files);
}

async function keep(name) {
  await store(name, await gather());
}

/** All files the page needs: every address with its answer. Throws when one cannot be had. */
async function gather() {
  const files = new Map();
  const wanted = [PAGE];
  for (let url = wanted.pop(); url; url = wanted.pop()) {
    if (files.has(url)) continue;
    const answered = await fetch(url, { cache: "no-cache", credentials: "omit" });
    if (answered.status === 404 && url !== PAGE) continue; // only looked like a link
    if (!answered.ok || answered.redirected) throw new TypeError(`${url}: ${answered.status}`);
    files.set(url, answered);
    wanted.push(...(await linksOf(url, answered.clone())));
  }
  return files;
}

async function linksOf(url, answered) {
  const type = answered.headers.get("Content-Type") ?? "";
  const kind = Object.keys(LINKS).find((name) => type.includes(name));
  if (!kind) return [];
  const text = await answered.text();
  const found = [...text.matchAll(LINKS[kind])].map((match) => new URL(match[1], url).href.split("#")[0]);
  return found.filter((href) => href.startsWith(SCOPE.href) || href.startsWith(LIBRARY.href));
}

async function store(name, files) {
  const cache = await caches.open(name);
  for (const [url, answered] of files) if (url !== PAGE) await cache.put(url, answered);
  await cache.put(PAGE, files.get(PAGE));
}

/** Whether the cache holds these very bytes. */
async function same(cache, files) {
  if ((await cache.keys()).length !== files.size) return false;
  for (const [url, answered] of files) {
    const kept = await cache.match(url);
    if (!kept || !equal(await kept.arrayBuffer(), await answered.clone().arrayBuffer())) return false;
  }
  return true;
}

function equal(one, other) {
  if (one.byteLength !== other.byteLength) return false;
  const [a, b] = [new Uint8Array(one), new Uint8Array(other)];
  return a.every((byte, at) => byte === b[at]);
}
