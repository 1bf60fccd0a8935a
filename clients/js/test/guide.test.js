/**
 * Every example of docs/app-authors.md, run in order against the memory hub; what it prints is what the guide says.
 *
 * A section is one program: its `js` blocks, and between them what `<!-- run ... -->` hides from the reader. A line
 * `// → text` says what was printed; `…` in it stands for anything. The hub of the examples is the memory hub, which
 * answers at the address they name; `memory`, `device`, `newDevice` and `settled` are there for the hidden lines.
 */

import "fake-indexeddb/auto";
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { pathToFileURL } from "node:url";
import { inspect } from "node:util";

import { IDBFactory } from "fake-indexeddb";
import Dexie from "dexie";

import { hub } from "../src/dexie/index.js";
import { MemoryHub } from "../src/testing/index.js";

const HERE = new URL("..", import.meta.url);
const PACKAGE = JSON.parse(readFileSync(new URL("package.json", HERE), "utf8"));
const GUIDE = readFileSync(new URL("../../docs/app-authors.md", HERE), "utf8");
const FOLDER = mkdtempSync(join(tmpdir(), "sync-hub-guide-"));
const ANNA = "anna@example.org";
const URL_OF_HUB = "https://hub.example.org";
const APP = "org.example.notes";

after(() => rmSync(FOLDER, { recursive: true }));

/**
 * One section: its title, its program, and what it prints.
 *
 * @param {string} text
 */
function section(text) {
  const blocks = [...text.matchAll(/```js\n([^]*?)```|<!-- run\n([^]*?)-->/g)];
  const program = blocks.map(([, shown, hidden]) => shown ?? hidden).join("\n");
  const prints = [...program.matchAll(/^\s*\/\/ → (.*)$/gm)].map(([, line]) => line);
  return { title: text.slice(0, text.indexOf("\n")), program, prints };
}

const SECTIONS = GUIDE.split(/^## /m).slice(1).map(section);

/** A program whose imports are found from anywhere.  @param {string} program */
function located(program) {
  return program.replace(/(from |import |import\()"([^".][^"]*)"/g, (_, before, name) => `${before}"${place(name)}"`);
}

/** @param {string} name as an app imports it */
function place(name) {
  if (!name.startsWith(PACKAGE.name)) return import.meta.resolve(name);
  const path = PACKAGE.exports[`.${name.slice(PACKAGE.name.length)}`];
  assert.ok(path, `the package has no ${name}`);
  return new URL(path.default, HERE).href;
}

/** What the examples find around them: a browser's few words, and the hidden lines' helpers.  @param {string} title */
function surroundings(title) {
  const memory = new MemoryHub({ url: URL_OF_HUB });
  /** @type {any[]} */
  const opened = [];
  /** @type {string[]} */
  const printed = [];
  let devices = 0;
  const newDevice = (/** @type {any} */ { tables, stores, name = `${title} ${(devices += 1)}` }) => {
    const db = new Dexie(name, { addons: [hub({ app: APP, url: URL_OF_HUB, tables })] });
    db.version(1).stores(stores);
    opened.push(db);
    return /** @type {any} */ (db);
  };
  const device = async (/** @type {any} */ setup) => {
    const db = newDevice(setup);
    await db.hub.signIn({ email: ANNA, code: () => memory.lastCode(ANNA) });
    if (setup.key) await db.hub.importKey(setup.key);
    return { db };
  };
  const settled = async (/** @type {() => unknown} */ holds) => {
    for (const end = Date.now() + 10_000; !(await holds()); await new Promise((done) => setTimeout(done, 10))) {
      if (Date.now() > end) throw new Error(`it did not come about: ${holds}`);
    }
  };
  const prompt = () => memory.lastCode(ANNA);
  const screen = { show: (/** @type {unknown} */ what) => assert.notEqual(what, undefined) };
  const words = { memory, device, newDevice, settled, printed, prompt, screen, assert };
  return { words, printed, memory, opened };
}

/** @param {unknown[]} values */
function line(values) {
  const shown = (/** @type {unknown} */ value) => inspect(value, { breakLength: Infinity });
  return values.map((value) => (typeof value === "string" ? value : shown(value))).join(" ");
}

/** @param {string} said */
function pattern(said) {
  return new RegExp(`^${said.split("…").map((part) => part.replace(/[^\w\s]/g, "\\$&")).join(".*")}$`, "s");
}

/** @param {string} title @param {string} program @param {any} around */
async function run(title, program, { words, printed, memory, opened }) {
  const scope = /** @type {any} */ (globalThis);
  scope.indexedDB = new IDBFactory();
  Dexie.dependencies.indexedDB = scope.indexedDB;
  Object.assign(scope, words, { WebSocket: memory.WebSocket });
  const events = new EventTarget(); // as a window is, so that pages hear that the network is back
  for (const name of ["addEventListener", "removeEventListener", "dispatchEvent"]) {
    scope[name] = /** @type {any} */ (events)[name].bind(events);
  }
  Object.defineProperty(scope, "navigator", { value: { locks: memory.surroundings.locks }, configurable: true });
  const file = join(FOLDER, `${title.replace(/\W+/g, "-")}.mjs`);
  writeFileSync(file, located(program));
  const { log } = console;
  console.log = (...values) => void printed.push(line(values));
  try {
    await import(pathToFileURL(file).href);
    await new Promise((done) => setTimeout(done, 20));
  } finally {
    console.log = log;
    for (const db of [...opened, ...Dexie.connections]) db.close();
    memory.cut();
  }
}

for (const { title, program, prints } of SECTIONS.filter((one) => one.program)) {
  test(`the examples of "${title}" do what the guide says`, { timeout: 60_000 }, async () => {
    const around = surroundings(title);
    await run(title, program, around);
    const { printed } = around;
    for (const [at, said] of prints.entries()) assert.match(printed[at] ?? "(nothing was printed)", pattern(said));
    assert.deepEqual(printed.slice(prints.length), [], "the guide says all that is printed");
    assert.ok(prints.length > 0, "a section with examples says what they print");
  });
}

test("every block of the guide is run, and every link within it leads somewhere", () => {
  const languages = [...GUIDE.matchAll(/^```(\w*)$/gm)].map(([, language]) => language).filter(Boolean);
  assert.ok(languages.filter((language) => language === "js").length > 30);
  assert.deepEqual(new Set(languages), new Set(["js", "sh"]));
  const titles = new Set(SECTIONS.map(({ title }) => title.toLowerCase().replace(/[^\w ]/g, "").replaceAll(" ", "-")));
  for (const [, anchor] of GUIDE.matchAll(/\]\(#([^)]*)\)/g)) assert.ok(titles.has(anchor), `#${anchor} is no section`);
  for (const [, path] of GUIDE.matchAll(/\]\((?!#|https?:)([^)]*)\)/g)) {
    readFileSync(new URL(`../../docs/${path}`, HERE));
  }
});

test("the limits of the guide are those of the protocol", async () => {
  const { LIMITS } = await import("../src/terms.js");
  assert.match(GUIDE, new RegExp(`one row, sealed \\| ${LIMITS.draftBytesMax / 1024} KiB`));
  assert.match(GUIDE, new RegExp(`devices of one app \\| ${LIMITS.devicesPerAppMax} `));
});
