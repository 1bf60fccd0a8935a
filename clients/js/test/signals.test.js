/** Signals: opened by the devices of the space, and as nobody's but their sender's. */

import assert from "node:assert/strict";
import test from "node:test";
import { unhex, utf8 } from "../src/bytes.js";
import { AssertionError } from "../src/errors.js";
import { openSignal, sealSignal } from "../src/signals.js";
import { DERIVED } from "./derived.js";
import { always } from "./seeded.js";

const [KEYS, LATER_KEYS] = DERIVED;
const ME = new Uint8Array(16).fill(1);
const OTHER = new Uint8Array(16).fill(2);
const NONCE = new Uint8Array(24).fill(3);
const SEALED = sealSignal(KEYS, ME, utf8("hello"), NONCE);

test("a signal of the Python client opens, and is sealed to the same bytes", () => {
  // hub.client.signals.seal_signal with the first space of vectors/crypto.json, device 01…, nonce 03…
  const published = unhex("030303030303030303030303030303030303030303030303e342a0a2f1cb79e1fbef7f1673f0620ac45631d37b");
  assert.deepEqual(SEALED, published);
  assert.deepEqual(openSignal(KEYS, ME, published), utf8("hello"));
});

test("a signal under another sender's name does not open", () => {
  assert.equal(openSignal(KEYS, OTHER, SEALED), null);
});

test("a signal under another app key does not open", () => {
  assert.equal(openSignal(LATER_KEYS, ME, SEALED), null);
});

test("turning any bit or cutting anywhere breaks the seal", () => {
  for (let bit = 0; bit < SEALED.length * 8; bit++) {
    const altered = SEALED.slice();
    altered[bit >> 3] ^= 1 << (bit % 8);
    assert.equal(openSignal(KEYS, ME, altered), null);
  }
  for (let end = 0; end < SEALED.length; end++) assert.equal(openSignal(KEYS, ME, SEALED.slice(0, end)), null);
});

test("whatever is sealed opens to the same, and any bytes to nothing", () => {
  always(100, (random) => {
    const body = random.bytes(random.below(300));
    assert.deepEqual(openSignal(KEYS, ME, sealSignal(KEYS, ME, body, random.bytes(24))), body);
    assert.equal(openSignal(KEYS, ME, body), null);
  });
});

test("a nonce of a wrong length is our own mistake", () => {
  assert.throws(() => sealSignal(KEYS, ME, utf8("x"), NONCE.slice(1)), AssertionError);
});
