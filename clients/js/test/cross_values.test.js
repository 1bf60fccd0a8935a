/** Every type of the codec table between a Python device and one of ours, on a real hub: written, edited, undone. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { WebSocket } from "ws";

import { hex } from "../src/bytes.js";
import { HubClient, MemoryStorage, readBlobs, toBlobs } from "../src/index.js";
import { BlobValue, encodeBody } from "../src/values.js";
import { NATIVES } from "./cross/natives.js";
import { PythonDevice, valueOf } from "./cross/python_device.js";
import { HubProcess, whyNoHub } from "./hub_process.js";

const APP = "org.example.notes";
const ANNA = "anna@example.org";
const options = { skip: whyNoHub, timeout: 180_000 };
const [WRITTEN, EDITED] = [0, 1];

/** @type {HubProcess} */
let hub;
/** @type {HubClient} */
let ours;
/** @type {PythonDevice} */
let python;

beforeEach(async () => {
  if (whyNoHub) return;
  hub = await HubProcess.start();
  ours = await HubClient.open({ storage: new MemoryStorage(), appId: APP, hubUrl: hub.url, WebSocket });
  await ours.requestCode(ANNA);
  await ours.enrol(await hub.nextCode());
  const key = await ours.createKey();
  ours.start();
  python = new PythonDevice();
  await python.do("open", join(python.folder, "db"), APP, hub.url);
  await python.do("request_code", ANNA);
  await python.do("enrol", await hub.nextCode());
  await python.do("import_key", key);
  await python.do("start");
});

afterEach(async () => {
  if (whyNoHub) return;
  await ours.stop();
  await python.end();
  await hub.end();
});

/** Both have all, and the hub's clock has moved on, so that times tell the versions apart. */
async function bothSynced() {
  await ours.synced(30);
  await python.do("synced", 30);
  await ours.synced(30);
  const end = Date.now() + 1;
  while (Date.now() <= end) await new Promise((done) => setTimeout(done, 1));
}

/** @param {string} name @param {number} edited */
async function bothHave(name, edited) {
  await bothSynced();
  assert.deepEqual(await python.do("unlike_natives", name, edited), {});
  const collection = ours.collection(name);
  for (const [key, pair] of Object.entries(NATIVES)) assert.deepStrictEqual(collection.get(key), pair[edited], key);
}

/** @param {string} name @param {number} edited */
async function putAll(name, edited) {
  const pairs = Object.entries(NATIVES).map(([key, pair]) => /** @type {const} */ ([key, pair[edited]]));
  await ours.collection(name).putMany(new Map(pairs));
}

/** What both are called before anything is in them: a device settles conflicts of what it has opened.  @param {string} name */
async function opened(name) {
  ours.collection(name);
  await python.do("collection", name, "last_writer_wins");
  await bothSynced();
}

test("what Python writes is ours, what we edit is Python's, and Python takes the edit back", options, async () => {
  await opened("from python");
  await python.do("put_natives", "from python", WRITTEN);
  await bothHave("from python", WRITTEN);
  await putAll("from python", EDITED);
  await bothHave("from python", EDITED);
  for (const key of Object.keys(NATIVES)) {
    assert.deepEqual(await python.do("undo", "from python", key), [true, true], key);
  }
  await bothHave("from python", WRITTEN);
});

test("what we write is Python's, what Python edits is ours, and we take the edit back", options, async () => {
  await opened("from js");
  await putAll("from js", WRITTEN);
  await bothHave("from js", WRITTEN);
  await python.do("put_natives", "from js", EDITED);
  await bothHave("from js", EDITED);
  const collection = ours.collection("from js");
  for (const [key, [written, edited]] of Object.entries(NATIVES)) {
    const versions = await collection.history(key);
    assert.deepStrictEqual(versions.map(({ value }) => value), [edited, written], key);
    assert.equal(hex(versions[1].deviceId), hex(ours.deviceId));
    assert.deepStrictEqual(await collection.at(key, versions[1].appendedAt), written, key);
    assert.deepStrictEqual(await collection.at(key, new Date()), edited, key);
    await collection.put(key, versions[1].value);
  }
  await bothHave("from js", WRITTEN);
});

test("a Blob and a File of a browser are Python's, and come back as Blob and File", options, async () => {
  await opened("files");
  const files = ours.collection("files");
  const blob = new Blob(["Hello"], { type: "text/plain" });
  const file = new File([Uint8Array.of(0, 255)], "ü.bin", { type: "application/x" });
  await files.put("both", await readBlobs({ blob, list: [file] }));
  await bothSynced();
  const read = await python.get("files", "both");
  assert.deepStrictEqual(read.blob, new BlobValue("text/plain", new TextEncoder().encode("Hello")));
  await python.put("files", "back", read);
  await bothSynced();
  const back = toBlobs(files.get("back"));
  assert.ok(back.blob instanceof Blob && !(back.blob instanceof File) && back.list[0] instanceof File);
  assert.deepEqual([back.blob.type, await back.blob.text()], ["text/plain", "Hello"]);
  assert.deepEqual([back.list[0].type, back.list[0].name], ["application/x", "ü.bin"]);
  assert.deepEqual(new Uint8Array(await back.list[0].arrayBuffer()), Uint8Array.of(0, 255));
});

test("a record that one deletes is brought back by the other as it was", options, async () => {
  await opened("deleted");
  const deleted = ours.collection("deleted");
  const value = { when: new Date(5), tags: new Set(["a"]), large: 2n ** 60n };
  await deleted.put("by python", value);
  await bothSynced();
  await python.put("deleted", "by us", value);
  await bothSynced();
  await python.do("delete", "deleted", "by python");
  await deleted.delete("by us");
  await bothSynced();
  assert.deepEqual(deleted.keys(), []);
  assert.deepEqual(await python.items("deleted"), []);
  await python.do("undo", "deleted", "by us");
  await deleted.put("by python", (await deleted.history("by python"))[1].value);
  await bothSynced();
  for (const key of ["by us", "by python"]) {
    assert.deepStrictEqual(deleted.get(key), value, key);
    assert.deepStrictEqual(await python.get("deleted", key), value, key);
  }
});

test("what only JavaScript tells apart comes back from Python as it was", options, async () => {
  await opened("apart");
  const apart = ours.collection("apart");
  const values = [5n, -5n, 0n, new Map([["text", 1]]), new Map(), [new Map([["in", [1n]]])]];
  for (const [at, value] of values.entries()) await apart.put(String(at), value);
  await bothSynced();
  for (const [at, value] of values.entries()) {
    assert.deepStrictEqual(valueOf(await python.do("get", "apart", String(at))), value); // read and written by Python
  }
});
