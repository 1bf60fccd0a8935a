/**
 * Makes dist/: the files that browsers load, from src/ and the libraries of the lock file, always the same bytes.
 *
 *     node build.mjs             writes dist/
 *     node build.mjs --check     fails when dist/ is not what would be written
 *     node build.mjs --sizes     prints what each part and each module weighs
 *     node build.mjs --types     mends the declarations that the compiler wrote into types/
 *
 * Entries keep their names; what is loaded later or shared has its hash in its name, so that a browser may keep it for
 * ever.  Dexie is a file of its own, because the app imports it too.  dist/files.json lists every file with what it
 * imports, for service workers that fetch everything beforehand.
 *
 * Private members keep their names: shortening them would save one hundredth after gzip, and cost every reader of a
 * stack trace more.
 */

import { mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { argv, exit, stdout } from "node:process";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

import { build as esbuild } from "esbuild";

const HERE = dirname(fileURLToPath(import.meta.url));
export const DIST = join(HERE, "dist");

const ENTRIES = {
  "hub-client": "src/index.js",
  "hub-dexie": "src/dexie/index.js",
  qr: "src/qr/index.js",
  words: "src/words.js",
};
const ACCOUNT = { "hub-account": "src/account.js" };
const DEXIE = "node_modules/dexie/dist/modern/dexie.mjs"; // for browsers of the last years, as everything here
const TARGET = "es2022";

/**
 * @typedef {object} Built
 * @property {Map<string, Uint8Array>} files name -> contents, all that dist/ has
 * @property {Record<string, import("esbuild").Metafile["outputs"][string]>} outputs name of a script -> what is in it
 */

/**
 * Everything that belongs into dist/.
 * @returns {Promise<Built>}
 */
export async function build() {
  const { version } = JSON.parse(await readFile(join(HERE, "package.json"), "utf8"));
  /** @type {import("esbuild").BuildOptions} */
  const common = {
    absWorkingDir: HERE,
    bundle: true,
    format: "esm",
    target: TARGET,
    minify: true,
    legalComments: "none", // they are in LICENSES.txt, whole
    charset: "utf8",
    outdir: "dist",
    write: false,
    metafile: true,
    logLevel: "error",
  };
  const dexie = await esbuild({ ...common, entryPoints: { dexie: DEXIE } });
  /** @type {import("esbuild").BuildOptions} */
  const ours = {
    ...common,
    splitting: true,
    chunkNames: "[name]-[hash]",
    banner: { js: `/*! sync-hub-client ${version}, Apache-2.0; LICENSES.txt */` },
    plugins: [dexieBeside, namesOfErrors],
  };
  const clients = await esbuild({ ...ours, entryPoints: ENTRIES });
  // By itself: no page loads it beside the others, and what they would share is cut into more and larger pieces.
  const account = await esbuild({ ...ours, entryPoints: ACCOUNT });
  const files = new Map();
  const outputs = /** @type {Built["outputs"]} */ ({});
  for (const { outputFiles, metafile } of [dexie, clients, account]) {
    for (const file of outputFiles ?? []) files.set(nameOf(file.path), file.contents);
    for (const [path, output] of Object.entries(metafile?.outputs ?? {})) outputs[nameOf(path)] = output;
  }
  files.set("files.json", bytes(`${JSON.stringify(listOf(outputs), null, 1)}\n`));
  files.set("LICENSES.txt", bytes(await licences(outputs)));
  return { files: new Map([...files].sort(([a], [b]) => (a < b ? -1 : 1))), outputs };
}

/** The add-on and the app must have the same Dexie: both import the file beside them. */
const dexieBeside = /** @type {import("esbuild").Plugin} */ ({
  name: "dexie-beside",
  setup(building) {
    building.onResolve({ filter: /^dexie$/ }, () => ({ path: "./dexie.js", external: true, sideEffects: true }));
  },
});

/**
 * Errors tell their class by its name, which minifying takes away: give it to them as a static field.
 * `class WrongKeyCode extends RangeError {` gets `static name = "WrongKeyCode";`.
 */
const namesOfErrors = /** @type {import("esbuild").Plugin} */ ({
  name: "names-of-errors",
  setup(building) {
    building.onLoad({ filter: /\.js$/ }, async ({ path }) => {
      if (!path.startsWith(join(HERE, "src"))) return null;
      const errors = await errorClasses();
      const text = await readFile(path, "utf8");
      const contents = text.replace(CLASS, (head, name) => (errors.has(name) ? `${head} static name = "${name}";` : head));
      return { contents, loader: "js" };
    });
  },
});

const CLASS = /^(?:export )?class (\w+) extends (\w+) \{/gm;

/** @type {Promise<Set<string>> | null} */
let found = null;

/** The classes of src/ that stand under Error. */
function errorClasses() {
  found ??= (async () => {
    const known = new Set(["Error", "RangeError", "TypeError"]);
    const pairs = [];
    for (const path of await readdir(join(HERE, "src"), { recursive: true })) {
      if (!path.endsWith(".js")) continue;
      const text = await readFile(join(HERE, "src", path), "utf8");
      pairs.push(...[...text.matchAll(CLASS)].map(([, name, parent]) => ({ name, parent })));
    }
    for (let before = -1; before < known.size; ) {
      before = known.size;
      for (const { name, parent } of pairs) if (known.has(parent)) known.add(name);
    }
    return known;
  })();
  return found;
}

/**
 * What files.json says: each script with what it needs at once and what it may load later.
 * @param {Built["outputs"]} outputs
 */
function listOf(outputs) {
  const names = Object.keys(outputs).sort();
  return Object.fromEntries(
    names.map((name) => {
      const { imports } = outputs[name];
      /** @param {string} kind */
      const of = (kind) => [...new Set(imports.filter((one) => one.kind === kind).map((one) => nameOf(one.path)))].sort();
      return [name, { imports: of("import-statement"), later: of("dynamic-import") }];
    }),
  );
}

/**
 * Our own licence and those of every package that is in `outputs`, whole.  Throws when one has none.
 * @param {Built["outputs"]} outputs
 */
async function licences(outputs) {
  const inputs = Object.values(outputs).flatMap((output) => Object.keys(output.inputs));
  const packages = new Set(inputs.map((path) => /^node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1]).filter((name) => name));
  const own = await readFile(join(HERE, "..", "..", "LICENSE"), "utf8");
  const parts = [`sync-hub-client\n\n${own.trim()}`];
  for (const name of [...packages].sort()) {
    const folder = join(HERE, "node_modules", /** @type {string} */ (name));
    const { version, license } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
    const texts = (await readdir(folder)).filter((file) => /^(licen[cs]e|notice)([.-]|$)/i.test(file)).sort();
    if (!texts.some((file) => /^licen/i.test(file))) throw new Error(`${name} has no licence text`);
    const bodies = await Promise.all(texts.map((file) => readFile(join(folder, file), "utf8")));
    parts.push([`${name} ${version} (${license})`, ...bodies.map((body) => body.trim())].join("\n\n"));
  }
  return `${parts.join(`\n\n${"-".repeat(100)}\n\n`)}\n`;
}

// --- what it weighs ---

/**
 * The scripts that load together: `entry` and all it imports, without what `without` has brought already.
 * @param {Built} built @param {string} entry @param {Iterable<string>} [without]
 * @returns {Set<string>}
 */
export function together({ outputs }, entry, without = []) {
  const had = new Set(without);
  const all = new Set([entry]);
  for (const name of all) {
    for (const one of outputs[name].imports) {
      if (one.kind === "import-statement" && !had.has(nameOf(one.path))) all.add(nameOf(one.path));
    }
  }
  return all;
}

/**
 * Bytes as they cross the line, each file gzipped by itself.
 * @param {Built} built @param {Iterable<string>} names
 */
export function weight({ files }, names) {
  return [...names].reduce((sum, name) => sum + gzipSync(/** @type {Uint8Array} */ (files.get(name)), { level: 9 }).length, 0);
}

/**
 * The name of the lazy chunk that `module` became.
 * @param {Built} built @param {string} module as src/dexie/leading.js
 */
export function chunkOf({ outputs }, module) {
  const name = Object.keys(outputs).find((one) => outputs[one].entryPoint === module);
  if (!name) throw new Error(`${module} is in no chunk of its own`);
  return name;
}

/** What loads together, by the moment it is wanted. @param {Built} built @returns {Record<string, Set<string>>} */
export function parts(built) {
  const start = together(built, "hub-dexie.js", ["dexie.js"]);
  const lead = together(built, chunkOf(built, "src/dexie/leading.js"), ["dexie.js", ...start]);
  const core = together(built, "hub-client.js");
  const leading = ["dexie.js", ...start, ...lead];
  return {
    dexie: new Set(["dexie.js"]),
    start,
    lead,
    core,
    account: together(built, "hub-account.js"),
    pair: together(built, chunkOf(built, "src/adding.js"), leading),
    curves: together(built, chunkOf(built, "src/curves.js"), leading),
    qr: together(built, "qr.js", leading),
    scan: together(built, chunkOf(built, "node_modules/qr/decode.js"), leading),
    words: together(built, "words.js", leading),
  };
}

/** @param {Built} built */
function sizes(built) {
  const lines = Object.entries(parts(built)).map(
    ([part, names]) => `${part.padEnd(8)} ${String(weight(built, names)).padStart(7)}  ${[...names].join(" ")}`,
  );
  const modules = new Map();
  for (const output of Object.values(built.outputs)) {
    for (const [path, { bytesInOutput }] of Object.entries(output.inputs)) {
      modules.set(path, (modules.get(path) ?? 0) + bytesInOutput);
    }
  }
  const heavy = [...modules].filter(([, size]) => size).sort(([, a], [, b]) => b - a);
  const table = heavy.map(([path, size]) => `${String(size).padStart(7)}  ${path}`);
  return ["bytes after gzip, by the moment they are wanted:", ...lines, "", "bytes minified, by module:", ...table, ""].join("\n");
}

// --- dist/ ---

/** What in dist/ differs from `built`, a sentence each. @param {Built} built @returns {Promise<string[]>} */
export async function differences({ files }) {
  const there = await readdir(DIST).catch(() => /** @type {string[]} */ ([]));
  const faults = there.filter((name) => !files.has(name)).map((name) => `${name} is of an earlier build`);
  for (const [name, contents] of files) {
    if (!there.includes(name)) faults.push(`${name} is missing`);
    else if (!(await readFile(join(DIST, name))).equals(contents)) faults.push(`${name} is of an earlier build`);
  }
  return faults;
}

/** @param {Built} built */
async function write({ files }) {
  await mkdir(DIST, { recursive: true });
  for (const name of await readdir(DIST)) if (!files.has(name)) await rm(join(DIST, name), { recursive: true });
  for (const [name, contents] of files) await writeFile(join(DIST, name), contents);
}

/** TypeScript 7.0 leaves `private` out of what it writes of a JavaScript class, and then finds `_x;` untyped. */
async function mendTypes() {
  const folder = join(HERE, "types");
  for (const path of await readdir(folder, { recursive: true })) {
    if (!path.endsWith(".d.ts")) continue;
    const text = await readFile(join(folder, path), "utf8");
    const mended = text.replace(/^( +)(static )?(_\w+);$/gm, "$1private $2$3;");
    if (mended !== text) await writeFile(join(folder, path), mended);
  }
}

/** @param {string} path */
function nameOf(path) {
  return path.replaceAll("\\", "/").split("/").at(-1) ?? "";
}

/** @param {string} text */
function bytes(text) {
  return new TextEncoder().encode(text);
}

if (argv[1] === fileURLToPath(import.meta.url)) {
  if (argv.includes("--types")) await mendTypes();
  else if (argv.includes("--sizes")) stdout.write(sizes(await build()));
  else if (argv.includes("--check")) {
    const faults = await differences(await build());
    if (faults.length) stdout.write(`dist/ is not what src/ gives: run make client\n${faults.join("\n")}\n`);
    exit(faults.length ? 1 : 0);
  } else await write(await build());
}
