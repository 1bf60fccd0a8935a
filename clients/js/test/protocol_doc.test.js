/** docs/protocol.md says what the code does: the fields of every message, and the frames. */

import assert from "node:assert/strict";
import test from "node:test";
import { concat, equal, hex, unhex, utf8 } from "../src/bytes.js";
import { lp, transcriptHash, verifySignature } from "../src/signing.js";
import { decodeFromDevice, decodeFromHub, encode } from "../src/wire/codec.js";
import * as messages from "../src/wire/messages.js";
import { DOCUMENT, framesInDocument, tableOf } from "./vectors.js";

const { FROM_DEVICE, FROM_HUB, listed } = messages;
const PARTS = { ...messages };
const URL = "wss://hub.example.org/v1/ws";

/** @type {Record<string, any>} */
const TABLES = { ...FROM_HUB, ...FROM_DEVICE };
for (const [name, part] of Object.entries(PARTS))
  if (/** @type {any} */ (part).fields) TABLES[name] = /** @type {any} */ (part).fields;

/** How a default reads in the document. @param {any} field */
function shownDefault(field) {
  if (!field.fallback) return "required";
  const value = field.fallback();
  if (value === null) return "`nil`";
  if (value instanceof Uint8Array) return "`empty`";
  if (Array.isArray(value)) return "`[]`";
  if (typeof value === "object") return "`{}`";
  return value === "" ? '`""`' : `\`${value || false}\``;
}

test("the fields of every message and part are those of the document", () => {
  for (const [name, fields] of Object.entries(TABLES)) {
    const rows = listed(fields).map(({ wire, field }) => [
      `\`${wire}\``,
      field.shown,
      field.bounds,
      shownDefault(field),
    ]);
    assert.deepEqual(rows, tableOf(`fields: ${name}`), name);
  }
});

test("every message of the document has its place here", () => {
  const documented = [...DOCUMENT.matchAll(/<!-- fields: (\w+) -->/g)].map(([, name]) => name);
  assert.ok(documented.length > 45);
  assert.deepEqual(documented.sort(), Object.keys(TABLES).sort());
});

test("every message goes in the direction that the document's arrow says", () => {
  for (const name of Object.keys(TABLES)) {
    if (!(name in FROM_DEVICE) && !(name in FROM_HUB)) continue;
    const [, section] = DOCUMENT.split(`### \`${name}\`\n`);
    const arrows = /^(→←|→|←)/m.exec(section)?.[1] ?? "";
    assert.equal(name in FROM_DEVICE, arrows.includes("→"), name);
    assert.equal(name in FROM_HUB, arrows.includes("←"), name);
  }
});

/** A value in the words of the document's frames. @param {any} value @param {any} [field] @returns {string} */
function shown(value, field) {
  if (value instanceof Uint8Array) return value.length > 8 ? `${hex(value.slice(0, 4))}…(${value.length})` : hex(value);
  if (Array.isArray(value)) return `[${value.map((item) => shown(item)).join(", ")}]`;
  if (field?.shown === "float") return Number.isInteger(value) ? `${value}.0` : `${value}`;
  if (field?.shown.startsWith("map")) return `{${Object.keys(value).length} numbers}`;
  if (typeof value === "object") return `{${fieldsShown(value, fieldsOf(value))}}`;
  return value === true ? "True" : String(value);
}

/** The table of a part, by its fields' names. @param {any} value */
function fieldsOf(value) {
  const names = Object.keys(value).join();
  return Object.values(TABLES).find((fields) => Object.keys(fields).join() === names);
}

/** @param {any} message @param {any} fields */
function fieldsShown(message, fields) {
  return listed(fields)
    .filter(({ name }) => message[name] && message[name].length !== 0)
    .map(({ name, wire, field }) => `${wire}=${shown(message[name], field)}`)
    .join(" ");
}

test("every frame decodes to what is said of it", () => {
  const frames = framesInDocument();
  assert.ok(frames.length >= 12);
  for (const { fromDevice, stated, frame } of frames) {
    const message = fromDevice ? decodeFromDevice(frame) : decodeFromHub(frame);
    assert.equal(`${message.type} ${fieldsShown(message, TABLES[message.type])}`.trim(), stated);
  }
});

test("every frame is written again as the same bytes", () => {
  for (const { fromDevice, stated, frame } of framesInDocument()) {
    const message = fromDevice ? decodeFromDevice(frame) : decodeFromHub(frame);
    const again = encode(message);
    if (["ready", "entered"].includes(message.type)) {
      // msgspec writes a float out even when it is the default; here it is left out, which means the same.
      assert.deepEqual(decodeFromHub(again), message, stated);
    } else assert.equal(hex(again), hex(frame), stated);
  }
});

/** The message of that type in the document's walk, and its frame. @param {string} type */
function walked(type) {
  for (const { fromDevice, frame } of framesInDocument()) {
    const message = /** @type {any} */ (fromDevice ? decodeFromDevice(frame) : decodeFromHub(frame));
    if (message.type === type) return { message, frame };
  }
  throw new Error(`no ${type} in the document`);
}

test("the frames of the walk are a real handshake", async () => {
  const hello = walked("hello").frame;
  const challenge = walked("challenge").frame;
  const [proof] = walked("enter").message.spaces;
  /** @type {["auth" | "space", string, Uint8Array, Uint8Array][]} */
  const proofs = [
    ["auth", "device", walked("auth").message.signature, challenge],
    ["space", "space", proof.signature, concat(challenge, proof.spaceId)],
  ];
  for (const [purpose, whose, signature, last] of proofs) {
    const [, digits] = DOCUMENT.split(`${whose} public key \``);
    const publicKey = unhex(digits.split("`")[0]);
    // From the document's own words, with no help of proofMessage.
    const text = concat(utf8(`hub/v1/${purpose}\0`), lp(utf8(URL), hello, last));
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", Uint8Array.from(text)));
    assert.deepEqual(transcriptHash(purpose, URL, hello, last), digest);
    assert.ok(await verifySignature(publicKey, signature, concat(utf8(`hub/v1/${purpose}-sig\0`), digest)));
  }
});

test("the change that comes out is the draft that went in", () => {
  const [draft] = walked("append").message.drafts;
  const [change] = walked("changes").message.changes;
  assert.ok(equal(draft, change.sealed));
});
