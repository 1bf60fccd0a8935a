/** Bytes: hex, order, UTF-8 without loss, numbers. */

import assert from "node:assert/strict";
import test from "node:test";
import { compare, concat, equal, fromUtf8, hex, u32, u64, unhex, utf8 } from "../src/bytes.js";
import { always } from "./seeded.js";

test("hex goes both ways", () => {
  assert.equal(hex(Uint8Array.of(0, 1, 0xab, 0xff)), "0001abff");
  always(100, (random) => {
    const bytes = random.bytes(random.below(40));
    assert.deepEqual(unhex(hex(bytes)), bytes);
    assert.equal(hex(bytes), Buffer.from(bytes).toString("hex"));
  });
  assert.deepEqual(unhex("AB"), Uint8Array.of(0xab));
});

test("what is no hex is refused", () => {
  for (const text of ["0", "0g", "0x00", " 00", "00 11"]) assert.throws(() => unhex(text), RangeError);
});

test("bytes are equal when they are the same", () => {
  assert.ok(equal(Uint8Array.of(1, 2), Uint8Array.of(1, 2)));
  assert.ok(equal(new Uint8Array(0), new Uint8Array(0)));
  assert.ok(!equal(Uint8Array.of(1, 2), Uint8Array.of(1, 3)));
  assert.ok(!equal(Uint8Array.of(1, 2), Uint8Array.of(1, 2, 0)));
});

test("the order is that of the bytes, and what ends first comes first", () => {
  const sorted = ["", "00", "0000", "00ff", "01", "7f", "80", "ff", "ff00"];
  const shuffled = [...sorted].reverse().map(unhex).sort(compare);
  assert.deepEqual(shuffled.map(hex), sorted);
  assert.equal(compare(unhex("0102"), unhex("0102")), 0);
});

test("parts are put one after another into memory of their own", () => {
  const part = Uint8Array.of(1, 2);
  const whole = concat(part, new Uint8Array(0), Uint8Array.of(3));
  part[0] = 9;
  assert.deepEqual(whole, Uint8Array.of(1, 2, 3));
});

test("text in UTF-8 comes back, byte order mark and all", () => {
  for (const text of ["", "Grüße", "日記🦦", "\ufeffa", "a\0b"]) assert.equal(fromUtf8(utf8(text)), text);
});

test("a lone surrogate and bytes that are not UTF-8 are refused, not replaced", () => {
  for (const text of ["\ud800", "a\udfffb", "x\ud83d"]) assert.throws(() => utf8(text), RangeError);
  for (const text of ["ff", "c3", "eda080", "c080", "f4908080"]) assert.throws(() => fromUtf8(unhex(text)), RangeError);
});

test("numbers are written big-endian", () => {
  assert.equal(hex(u32(0x01020304)), "01020304");
  assert.equal(hex(u32(2 ** 32 - 1)), "ffffffff");
  assert.equal(hex(u64(2 ** 53 - 1)), "001fffffffffffff");
  assert.equal(hex(u64(258)), "0000000000000102");
});
