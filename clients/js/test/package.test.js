import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { access, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);
const HERE = dirname(dirname(fileURLToPath(import.meta.url)));
const TSC = join(HERE, "node_modules", ".bin", "tsc");
const OPTIONS = {
  compilerOptions: {
    strict: true,
    noEmit: true,
    module: "esnext",
    moduleResolution: "bundler",
    target: "es2023",
    lib: ["es2023", "dom", "dom.iterable"],
    types: [],
  },
  include: ["*.ts"],
};

const APP = `
import Dexie, { type EntityTable } from "dexie";
import { HubClient, IndexedDbStorage, PairingFailed } from "sync-hub-client";
import { counterSum, hub, manual, type HubStatus, type Strategy } from "sync-hub-client/dexie";
import { qrSvg, scan } from "sync-hub-client/qr";
import { MemoryHub } from "sync-hub-client/testing";
import { keyWords, parseKeyWords } from "sync-hub-client/words";

interface Chapter { id: string; order: number; text: string }

const mine: Strategy = (conflict) => (conflict.key === "first" ? manual(conflict) : counterSum("words")(conflict));
const memory = new MemoryHub({ url: "https://hub.test" });
const db = new Dexie("notes", {
  addons: [hub({ app: "org.example.notes", tables: { chapters: { conflict: mine }, tags: {} }, surroundings: memory.surroundings })],
}) as Dexie & { chapters: EntityTable<Chapter, "id"> };

export async function main(): Promise<void> {
  const { needsKey } = await db.hub.signIn({ email: "anna@example.org", code: async ({ phrase }) => phrase });
  const yes: boolean = needsKey;
  const stop: () => void = db.hub.status.subscribe((status: HubStatus) => console.log(status.phase, status.pending, yes));
  const pairing = await db.hub.pair({ name: "phone" });
  const digits: string = await pairing.digits;
  await pairing.confirm(digits);
  for (const { table, key, mine, theirs } of db.hub.conflicts.value) await db.hub.resolve(table, key, theirs ?? mine);
  const code: string = await db.hub.exportKey("words");
  const svg: string = qrSvg(code, { title: "Key" });
  const words: string = keyWords(parseKeyWords(svg).appKey);
  const client: HubClient = await HubClient.open({ storage: await IndexedDbStorage.open(words), appId: "org.example.notes" });
  await client.collection("notes").put("first", { text: "Hello" });
  await db.hub.signOut({ wipeLocal: true });
  stop();
}
export const isOurs = (error: unknown): boolean => error instanceof PairingFailed;
export { scan };

// @ts-expect-error an e-mail address is needed
db.hub.signIn({ code: () => "123456" });
// @ts-expect-error there is no such form
db.hub.exportKey("song");
// @ts-expect-error the app has to be named
hub({ tables: {} });
// @ts-expect-error a status is no number
db.hub.status.value.phase.toFixed();
// @ts-expect-error a QR code is made of text
qrSvg(7);
`;

/** @type {string} */
let folder;

before(async () => {
  // The declarations are written also when the sources have a fault of type; that is another test's matter.
  await run(TSC, ["-p", HERE]).catch(() => {});
  await run(process.execPath, ["build.mjs", "--types"], { cwd: HERE });
  folder = await mkdtemp(join(tmpdir(), "hub-types-"));
  await mkdir(join(folder, "node_modules"));
  await symlink(HERE, join(folder, "node_modules", "sync-hub-client"));
  await symlink(join(HERE, "node_modules", "dexie"), join(folder, "node_modules", "dexie"));
  await writeFile(join(folder, "package.json"), '{"type":"module"}');
  await writeFile(join(folder, "tsconfig.json"), JSON.stringify(OPTIONS));
});

after(() => rm(folder, { recursive: true }));

/** What the compiler has against a program; empty when nothing. @param {string} program */
async function faultsOf(program) {
  await writeFile(join(folder, "app.ts"), program);
  return run(TSC, ["-p", folder], { cwd: folder }).then(() => "", (error) => error.stdout || String(error));
}

test("an app in TypeScript compiles strictly against the declarations", async () => {
  assert.equal(await faultsOf(APP), "");
});

test("the declarations notice a wrong use", async () => {
  assert.match(await faultsOf(APP.replace("await pairing.confirm(digits)", "await pairing.confirm(7)")), /app\.ts.*TS2345/s);
});

test("the README's example compiles, and has ten lines", async () => {
  const readme = await readFile(join(HERE, "README.md"), "utf8");
  const example = /```js\n([\s\S]*?)```/.exec(readme)?.[1] ?? "";
  assert.ok(example.trim().split("\n").length <= 10, example);
  const around = "declare function badge(phase: string, pending: number): void; declare const email: string;\n";
  assert.equal(await faultsOf(`${around}${example}\nexport {};`), "");
});

test("every sub-path of the package leads to a room and to its types", async () => {
  const { exports, files } = JSON.parse(await readFile(join(HERE, "package.json"), "utf8"));
  assert.deepEqual(Object.keys(exports), [".", "./dexie", "./account", "./qr", "./words", "./testing"]);
  for (const [path, { types, default: room }] of Object.entries(exports)) {
    for (const file of [types, room]) {
      await access(join(HERE, file));
      assert.ok(files.includes(file.split("/")[1]), `${file} is not packed`);
    }
    assert.ok(Object.keys(await import(`sync-hub-client${path.slice(1)}`)).length > 0, path);
  }
});

test("what is packed are the sources, their types and the bundle", async () => {
  const { stdout } = await run("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], { cwd: HERE });
  const [{ files }] = JSON.parse(stdout);
  const paths = files.map((/** @type {{ path: string }} */ file) => file.path);
  for (const path of ["README.md", "src/index.js", "types/index.d.ts", "dexie.d.ts", "dist/hub-dexie.js", "dist/LICENSES.txt"]) {
    assert.ok(paths.includes(path), path);
  }
  assert.deepEqual(paths.filter((/** @type {string} */ path) => /^(test|suites|node_modules)\//.test(path)), []);
});
