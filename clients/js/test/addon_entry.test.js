/** What a page loads to start: the entry of the add-on stays small, and the engine stays out of it. */

import assert from "node:assert/strict";
import { basename, dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const ENTRY = join(dirname(fileURLToPath(import.meta.url)), "../src/dexie/index.js");
const BYTES_MAX = 20 * 1024; // minified and compressed
const LAZY = [
  ...["engine.js", "conversation.js", "values.js", "check.js", "connection.js"],
  ...["leading.js", "mirror.js", "storage.js"],
];

/** The files of the entry's static imports, bundled: their inputs, and their size together. */
async function statics() {
  const options = { bundle: true, splitting: true, minify: true, metafile: true, write: false, external: ["dexie"] };
  const built = await build({ ...options, entryPoints: [ENTRY], format: "esm", target: "es2022", outdir: "out" });
  const { outputs } = /** @type {import("esbuild").Metafile} */ (built.metafile);
  const contents = new Map(built.outputFiles?.map(({ path, contents: bytes }) => [basename(path), bytes]));
  /** @type {Set<string>} */
  const seen = new Set();
  const walk = (/** @type {string} */ path) => {
    if (seen.has(path)) return;
    seen.add(path);
    for (const { kind, path: to } of outputs[path].imports) {
      if (kind === "import-statement" && outputs[to]) walk(to);
    }
  };
  const entry = Object.keys(outputs).find((path) => outputs[path].entryPoint?.endsWith("dexie/index.js"));
  walk(/** @type {string} */ (entry));
  const inputs = [...seen].flatMap((path) => Object.keys(outputs[path].inputs));
  const bytes = [...seen].reduce((sum, path) => {
    return sum + gzipSync(/** @type {Uint8Array} */ (contents.get(basename(path))), { level: 9 }).length;
  }, 0);
  return { inputs, bytes };
}

test("the entry does not reach the engine", async () => {
  const { inputs } = await statics();
  assert.ok(inputs.some((path) => path.endsWith("dexie/shell.js")));
  assert.deepEqual(inputs.filter((path) => LAZY.includes(basename(path))), []);
  assert.deepEqual(inputs.filter((path) => path.includes("node_modules")), []);
});

test("the entry has at most twenty kilobytes", async (t) => {
  const { bytes } = await statics();
  t.diagnostic(`${bytes} bytes, minified and compressed, without Dexie`);
  assert.ok(bytes <= BYTES_MAX, `${bytes} bytes`);
});
