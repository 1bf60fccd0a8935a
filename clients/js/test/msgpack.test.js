/** MessagePack: against another implementation, byte for byte, and against hostile bytes. */

import assert from "node:assert/strict";
import test from "node:test";
import { decode, encode, ExtData } from "@msgpack/msgpack";
import { hex, unhex } from "../src/bytes.js";
import { Ext, isPlain, pack, Raw, unpack, Writer } from "../src/msgpack.js";
import { always } from "./seeded.js";

/** @typedef {import("./seeded.js").Seeded} Seeded */

/** @param {Seeded} random */
function anyNumber(random) {
  const size = random.choice([2 ** 4, 2 ** 7, 2 ** 8, 2 ** 16, 2 ** 31, 2 ** 32, 2 ** 40, 2 ** 53 - 1]);
  return random.choice([1, -1]) * Math.max(0, size - random.below(3)) || 0;
}

/**
 * @param {Seeded} random
 * @param {number} depth
 * @returns {unknown}
 */
function anyValue(random, depth) {
  const length = random.choice([0, 1, 3, 15, 16, 31, 32, 65]);
  const kinds = [
    () => null,
    () => random.random() < 0.5,
    () => anyNumber(random),
    () => random.random() * 1e6,
    () => random.choice(["a", "ü", "🦦"]).repeat(random.choice([length, 0x100, 0x10000])),
    () => random.bytes(random.choice([length, 0xff, 0x100, 0x10000])),
  ];
  const nested = [
    () => Array.from({ length }, () => anyValue(random, depth - 1)),
    () => Object.fromEntries(Array.from({ length }, (_, n) => [`k${n}`, anyValue(random, depth - 1)])),
  ];
  return random.choice(depth ? [...kinds, ...nested] : kinds)();
}

test("any value is written as another implementation writes it, and read as it was", () => {
  always(300, (random) => {
    const value = anyValue(random, 2);
    const bytes = pack(value);
    assert.ok(Buffer.from(encode(value)).equals(bytes));
    assert.deepEqual(unpack(bytes), value);
  });
});

test("every size of every form is the shortest, one below and at each bound", () => {
  const text = (/** @type {number} */ length) => "x".repeat(length);
  const sizes = [0, 1, 15, 16, 31, 32, 255, 256, 65_535, 65_536];
  const numbers = sizes
    .concat([127, 128, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 53 - 1])
    .flatMap((n) => [n, -n || 0, -n - 1]);
  const values = [
    ...numbers.filter(Number.isSafeInteger),
    ...sizes.flatMap((size) => [text(size), new Uint8Array(size), Array(size).fill(0)]),
    ...sizes.map((size) => Object.fromEntries(Array.from({ length: size }, (_, n) => [`${n}x`, n]))),
  ];
  for (const value of values) {
    const bytes = pack(value);
    assert.ok(Buffer.from(encode(value)).equals(bytes));
    assert.deepEqual(unpack(bytes), value);
  }
});

test("extensions of every size go both ways", () => {
  for (const size of [0, 1, 2, 3, 4, 5, 8, 9, 16, 17, 255, 256, 65_536]) {
    const data = new Uint8Array(size).fill(7);
    const bytes = pack(new Ext(-5, data));
    assert.deepEqual(unpack(bytes), new Ext(-5, data));
    assert.deepEqual(decode(bytes), new ExtData(-5, data));
  }
});

test("a number that JavaScript would round is read as a BigInt", () => {
  assert.equal(unpack(unhex("cf0020000000000000")), 2n ** 53n);
  assert.equal(unpack(unhex("cfffffffffffffffff")), 2n ** 64n - 1n);
  assert.equal(unpack(unhex("d38000000000000000")), -(2n ** 63n));
  assert.equal(unpack(unhex("cf001fffffffffffff")), 2 ** 53 - 1);
});

test("floats are eight bytes, also where they have no fraction when asked so, and minus zero is one", () => {
  const out = new Writer();
  out.float(1);
  assert.equal(hex(out.taken()), "cb3ff0000000000000");
  assert.equal(hex(pack(1e300)), "cb7e37e43c8800759c");
  assert.equal(hex(pack(2 ** 53)), "cb4340000000000000");
  assert.ok(Object.is(unpack(pack(-0)), -0));
  assert.equal(unpack(unhex("ca3fc00000")), 1.5);
});

test("what was read is a copy that does not hold the frame", () => {
  const frame = pack([Uint8Array.of(1, 2, 3), new Ext(1, Uint8Array.of(4))]);
  const [bin, ext] = /** @type {[Uint8Array, Ext]} */ (unpack(frame));
  frame.fill(0);
  assert.deepEqual(bin, Uint8Array.of(1, 2, 3));
  assert.equal(bin.buffer.byteLength, 3);
  assert.deepEqual(ext.data, Uint8Array.of(4));
});

test("bytes that begin inside a larger buffer are read", () => {
  const frame = pack({ n: 70_000, f: 1.5 });
  const larger = new Uint8Array(frame.length + 7);
  larger.set(frame, 5);
  assert.deepEqual(unpack(larger.subarray(5, 5 + frame.length)), { n: 70_000, f: 1.5 });
});

test("a byte too few or too many is refused", () => {
  for (const value of [
    1.5,
    300,
    "hello",
    "x".repeat(100),
    Uint8Array.of(1, 2),
    [1, [2]],
    { a: 1 },
    new Ext(1, unhex("0102")),
  ]) {
    const bytes = pack(value);
    for (let end = 0; end < bytes.length; end++) assert.throws(() => unpack(bytes.slice(0, end)), RangeError);
    assert.throws(() => unpack(Uint8Array.of(...bytes, 0)), /behind the end/);
  }
});

test("any bytes are read or refused and nothing else happens", () => {
  always(3000, (random) => {
    const bytes = random.bytes(random.below(60));
    try {
      unpack(bytes);
    } catch (error) {
      assert.ok(error instanceof RangeError && !/call stack/i.test(error.message), String(error));
    }
  });
});

test("lengths that lie cost no memory", () => {
  for (const digits of ["ddffffffff", "dfffffffff", "c6ffffffff", "dbffffffff", "c9ffffffff01", "dcffff", "deffff"]) {
    assert.throws(() => unpack(unhex(digits)), RangeError);
  }
});

test("hostile nesting is refused at the bound", () => {
  const nested = (/** @type {number} */ depth) => unhex("91".repeat(depth) + "90");
  assert.doesNotThrow(() => unpack(nested(4), { depth: 5 }));
  assert.throws(() => unpack(nested(5), { depth: 5 }), /nested too deeply/);
  for (const begin of ["91", "81a161", "8191"]) {
    assert.throws(() => unpack(unhex(begin.repeat(100_000))), /nested too deeply/);
  }
});

test("text that is not UTF-8 is refused, short or long", () => {
  for (const digits of ["a1ff", "a2c328", `d950${"61".repeat(79)}ff`])
    assert.throws(() => unpack(unhex(digits)), /UTF-8/);
  assert.throws(() => pack("\ud800"), RangeError);
  assert.throws(() => pack(`${"x".repeat(100)}\udc00`), RangeError);
});

test("a key named __proto__ is a key like others", () => {
  const read = /** @type {any} */ (unpack(unhex("81a95f5f70726f746f5f5f81a16101")));
  assert.deepEqual(Object.keys(read), ["__proto__"]);
  assert.equal(read.a, undefined);
  assert.equal(hex(pack(read)), "81a95f5f70726f746f5f5f81a16101");
});

test("a map with keys that are no text is read as a Map", () => {
  assert.deepEqual(
    unpack(unhex("8201a1610203")),
    new Map(
      /** @type {[any, any][]} */ ([
        [1, "a"],
        [2, 3],
      ]),
    ),
  );
});

test("undefined properties are left out, and what has no place is refused by its type", () => {
  assert.equal(hex(pack({ a: undefined, b: 1 })), "81a16201");
  assert.equal(hex(pack([new Raw(unhex("c0"))])), "91c0");
  for (const value of [
    undefined,
    [undefined],
    () => 1,
    Symbol("s"),
    1n,
    new Date(0),
    new Set(),
    new ArrayBuffer(1),
    /x/,
  ]) {
    assert.throws(() => pack(value), TypeError);
  }
});

test("only what was written as a literal is plain", () => {
  for (const value of [{}, { a: 1 }, Object.create(null)]) assert.ok(isPlain(value));
  for (const value of [null, 1, [], new Map(), new Date(), new (class A {})(), Object.create({})])
    assert.ok(!isPlain(value));
});
