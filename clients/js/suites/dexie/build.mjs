/**
 * Makes the pages on which Dexie's own unit tests run with the Dexie that this package is built for.
 *
 *     node suites/dexie/build.mjs <folder to write to>
 *
 * The tests are those of the last release of Dexie whose package contains them.  They come from the registry, are
 * bundled where they are, and are no part of this repository.  `tests/browser/test_dexie_suite.py` runs them.
 */

import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";

const HERE = dirname(fileURLToPath(import.meta.url));
const PACKAGE = resolve(HERE, "../..");
const INSTALLED = join(HERE, "node_modules");
const STAMP = join(INSTALLED, ".package-lock.json"); // npm writes it last
export const NOT_TO_BE_HAD = 3; // how this program ends when the registry does not give the tests

const PAGE = `<!doctype html>
<meta charset="utf-8">
<title>Dexie's unit tests</title>
<div id="qunit"></div><div id="qunit-fixture"></div>
<script src="qunit.js"></script>
<script src="begin.js"></script>
<script src="bundle.js"></script>
`;

// Dexie's tests find their worker, and the worker its Dexie, by these names.
const BEGIN = `
window.failures = [];
window.finished = null;
QUnit.config.autostart = false;
QUnit.config.reorder = false;
QUnit.config.testTimeout = 20000;
window.workerImports = ["dexie.js"];
window.workerSource = "worker.js";
let said = [];
QUnit.testStart(() => { said = []; });
QUnit.log((check) => { if (!check.result) said.push(String(check.message || "") + " " + (check.source || "")); });
QUnit.testDone((test) => {
  if (test.failed) window.failures.push({ test: test.module + ": " + test.name, said: said.join("\\n") });
});
QUnit.done((all) => { window.finished = { checks: all.total, failed: all.failed }; });
let tests = 0;
QUnit.testDone(() => { tests += 1; window.tests = tests; });
`;

/**
 * The pages of the tests in this folder.
 *
 * @param {string} tests
 * @param {string} out
 */
export async function bundle(tests, out) {
  mkdirSync(out, { recursive: true });
  await build({
    stdin: {
      contents: `import ${JSON.stringify(join(HERE, "entry.js"))};
        import(${JSON.stringify(join(tests, "tests-all.js"))}).then(() => QUnit.start());`,
      resolveDir: PACKAGE,
    },
    bundle: true,
    format: "iife",
    target: "es2022",
    outfile: join(out, "bundle.js"),
    alias: { QUnit: join(HERE, "qunit.cjs"), dexie: join(PACKAGE, "node_modules/dexie") },
    nodePaths: [join(PACKAGE, "node_modules"), INSTALLED],
    define: { global: "globalThis" },
    plugins: [strict(tests)],
    logLevel: "error",
  });
  writeFileSync(join(out, "index.html"), PAGE);
  writeFileSync(join(out, "begin.js"), BEGIN);
  cpSync(join(INSTALLED, "qunitjs/qunit/qunit.js"), join(out, "qunit.js"));
  cpSync(join(tests, "worker.js"), join(out, "worker.js"));
  cpSync(join(PACKAGE, "node_modules/dexie/dist/dexie.js"), join(out, "dexie.js"));
}

/**
 * Some tests assign to what they declared constant, which their own build let pass.
 *
 * @param {string} tests
 * @returns {import("esbuild").Plugin}
 */
function strict(tests) {
  return {
    name: "dexie-tests",
    setup: ({ onLoad }) => {
      onLoad({ filter: /\.js$/ }, ({ path }) => {
        if (!path.startsWith(tests)) return undefined;
        const contents = readFileSync(path, "utf8").replaceAll(/(?<![\w$.'"])const(?= )/g, "let");
        return { contents, loader: "js" };
      });
    },
  };
}

/** Install the tests; false when the registry does not give them. */
function installed() {
  const lock = join(HERE, "package-lock.json");
  if (existsSync(STAMP) && statSync(STAMP).mtimeMs >= statSync(lock).mtimeMs) return true;
  const words = ["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"];
  const done = spawnSync("npm", words, { cwd: HERE, encoding: "utf8" });
  if (done.status !== 0) {
    console.error(`npm ci: ${(done.stderr || String(done.error ?? "")).trim().split("\n")[0]}`);
    return false;
  }
  utimesSync(STAMP, new Date(), new Date());
  return true;
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  if (installed()) await bundle(join(INSTALLED, "dexie-tests/test"), resolve(process.argv[2]));
  else process.exitCode = NOT_TO_BE_HAD;
}
