import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";

import { DIST, build, chunkOf, differences, parts, together, weight } from "../build.mjs";

const KB = 1_024;
/** What a page loads at each moment, at most, in KB after gzip, beyond what it has already; `npm run sizes` shows it. */
const BUDGETS = {
  dexie: 31,
  start: 20, // the app's first load, besides Dexie
  lead: 66, // the engine, in the tab that leads, once a person is signed in
  core: 62, // HubClient alone, for apps without Dexie
  account: 36, // AccountClient alone: the dashboard, besides its pages
  pair: 15,
  curves: 11,
  qr: 6,
  scan: 17,
  words: 8,
};
/** Rooms that only a leading tab needs. */
const NOT_AT_START = /@noble|src\/(engine|connection|values|check|device|conversation|index|outbox|sealing|keys)\.js$/;

/** @type {import("../build.mjs").Built} */
let built;
/** @type {string} */
let folder;

before(async () => {
  built = await build();
  folder = await mkdtemp(join(tmpdir(), "hub-build-"));
  for (const [name, contents] of built.files) await writeFile(join(folder, name), contents);
  await writeFile(join(folder, "package.json"), '{"type":"module"}');
});

after(() => rm(folder, { recursive: true }));

/** @param {string} name */
const load = (name) => import(pathToFileURL(join(folder, name)).href);

test("dist holds what the sources give", async () => {
  assert.deepEqual(await differences(built), [], "run `make client`");
});

test("two builds are equal byte for byte", async () => {
  const again = await build();
  assert.deepEqual([...again.files.keys()], [...built.files.keys()]);
  for (const [name, contents] of again.files) assert.deepEqual(contents, built.files.get(name), name);
});

for (const [part, most] of Object.entries(BUDGETS)) {
  test(`what loads for "${part}" has at most ${most} KB after gzip`, () => {
    const names = parts(built)[part];
    const bytes = weight(built, names);
    assert.ok(bytes > 0 && bytes <= most * KB, `${bytes} bytes: ${[...names].join(" ")}; see npm run sizes`);
  });
}

test("every part has a budget", () => {
  assert.deepEqual(Object.keys(parts(built)).sort(), Object.keys(BUDGETS).sort());
});

test("no part of the engine comes with what a page loads to start", () => {
  const start = [...parts(built).start].flatMap((name) => Object.keys(built.outputs[name].inputs));
  assert.ok(start.includes("src/dexie/index.js"));
  assert.deepEqual(start.filter((path) => NOT_AT_START.test(path)), []);
  const lead = [...parts(built).lead].flatMap((name) => Object.keys(built.outputs[name].inputs));
  assert.ok(lead.filter((path) => NOT_AT_START.test(path)).length > 8);
});

test("of the curves only what is used comes along, and later", () => {
  const curves = [...parts(built).curves].flatMap((name) => Object.keys(built.outputs[name].inputs));
  assert.ok(curves.some((path) => path.endsWith("curves/ed25519.js")));
  const unused = ["abstract/frost.js", "abstract/oprf.js", "abstract/hash-to-curve.js"];
  for (const output of Object.values(built.outputs)) {
    for (const [path, { bytesInOutput }] of Object.entries(output.inputs)) {
      assert.ok(!bytesInOutput || !unused.some((name) => path.endsWith(name)), path);
    }
  }
});

test("scripts import only one another, and Dexie stands in one file", () => {
  for (const [name, output] of Object.entries(built.outputs)) {
    for (const one of output.imports) assert.ok(built.files.has(one.path.split("/").at(-1) ?? ""), `${name}: ${one.path}`);
    if (name !== "dexie.js") assert.ok(!Object.keys(output.inputs).some((path) => path.includes("/dexie/dist/")), name);
  }
  assert.ok(together(built, "hub-dexie.js").has("dexie.js"));
  assert.ok(!together(built, "hub-client.js").has("dexie.js"));
});

test("what has no stable name has its hash in it", () => {
  const stable = ["dexie.js", "hub-account.js", "hub-client.js", "hub-dexie.js", "qr.js", "words.js"];
  const others = Object.keys(built.outputs).filter((name) => !stable.includes(name));
  assert.ok(others.includes(chunkOf(built, "src/dexie/leading.js")));
  for (const name of others) assert.match(name, /^[a-z]+-[0-9A-Z]{8}\.js$/);
});

test("nothing in the scripts needs a policy looser than the hub's", () => {
  for (const name of Object.keys(built.outputs)) {
    const text = new TextDecoder().decode(built.files.get(name));
    assert.doesNotMatch(text, /\beval\(|new Function\(|\.wasm\b/, name);
    assert.doesNotMatch(text, /sourceMappingURL/, name);
  }
});

test("the list of files says what each script needs", () => {
  const list = JSON.parse(new TextDecoder().decode(built.files.get("files.json")));
  assert.deepEqual(Object.keys(list), Object.keys(built.outputs).sort());
  assert.ok(list["hub-dexie.js"].imports.includes("dexie.js"));
  assert.ok(list["hub-dexie.js"].later.includes(chunkOf(built, "src/dexie/leading.js")));
});

test("the licence of everything that is bundled stands beside it", () => {
  const text = new TextDecoder().decode(built.files.get("LICENSES.txt"));
  const inputs = Object.values(built.outputs).flatMap((output) => Object.keys(output.inputs));
  const bundled = new Set(inputs.flatMap((path) => /^node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1] ?? []));
  assert.ok(bundled.size >= 7);
  for (const name of [...bundled, "sync-hub-client"]) assert.match(text, new RegExp(`^${name}( |$)`, "m"));
  assert.ok(text.split("-".repeat(100)).every((part) => part.length > 900));
});

test("the bundle works as the sources do, and its errors keep their names", async () => {
  const client = await load("hub-client.js");
  const words = await load("words.js");
  const key = new Uint8Array(32).fill(7);
  assert.deepEqual(words.parseKeyWords(words.keyWords(key)).appKey, key);
  assert.throws(() => words.parseKeyWords("abandon"), { name: "WrongKeyCode" });
  assert.throws(() => words.parseKeyWords("abandon"), client.WrongKeyCode);
  assert.equal(new client.PairingFailed("interfered").constructor.name, "PairingFailed");
  assert.equal(new client.Refusal("bad_request").name, "Refusal");
  const opened = await client.HubClient.open({ storage: new client.MemoryStorage(), appId: "org.example.notes" });
  assert.equal(opened.signedIn, false);
});

test("the add-on of the bundle adds itself to the Dexie of the bundle", async () => {
  const { default: Dexie, liveQuery } = await load("dexie.js");
  const { hub } = await load("hub-dexie.js");
  assert.equal(typeof liveQuery, "function");
  const db = new Dexie("bundled", { addons: [hub({ app: "org.example.notes", tables: { notes: {} } })] });
  db.version(1).stores({ notes: "id" });
  assert.equal(db.hub.status.value.leader, false);
  assert.ok(db.tables.some(({ name }) => name === "notes"));
});
