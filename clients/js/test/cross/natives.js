/**
 * What JavaScript calls its own of every type of the codec table: each name with a value and an edit of it.
 *
 * `natives.py` has the same names with what Python calls its own.
 */

import { BlobValue } from "../../src/values.js";

const whole = [0, 1, 127, 128, 255, 256, 65_535, 65_536, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 53 - 1];
const below = [-1, -32, -33, -128, -129, -32_768, -32_769, -(2 ** 31), -(2 ** 31) - 1, -(2 ** 53) + 1];
const planes =
  "\0 a \x7f ü ß € \ufeff \ufffd ｆ 𝄞 🦦 𠀋 𰀀 \u{e0041} \u{f0000} \u{10ffff}";
const joined = "e\u0301 👩\u200d👩\u200d👧 שלום \u202e";
const everyByte = Uint8Array.from({ length: 256 }, (_, byte) => byte);
const day = (/** @type {number} */ ms) => new Date(ms);
const arrays = () => [
  Int8Array.of(-128, 0, 127),
  Uint8ClampedArray.of(0, 128, 255),
  Int16Array.of(-(2 ** 15), 0, 2 ** 15 - 1),
  Uint16Array.of(0, 2 ** 16 - 1),
  Int32Array.of(-(2 ** 31), 2 ** 31 - 1),
  Uint32Array.of(0, 2 ** 32 - 1),
  Float32Array.of(0.5, -0, Infinity, NaN),
  Float64Array.of(0.1, -0, -Infinity, NaN),
  BigInt64Array.of(-(2n ** 63n), 2n ** 63n - 1n),
  BigUint64Array.of(0n, 2n ** 64n - 1n),
];

/** @type {Record<string, [any, any]>} */
export const NATIVES = {
  "null": [null, "no more"],
  "a bool": [true, false],
  "whole numbers": [whole, whole.toReversed()],
  "whole numbers below zero": [below, below.toReversed()],
  "the first large number": [2n ** 53n, -(2n ** 53n)],
  "large numbers": [[2n ** 63n, 2n ** 64n, 10n ** 30n], [-(2n ** 63n), -(2n ** 64n), -(10n ** 30n)]],
  "the largest number": [10n ** 4096n - 1n, -(10n ** 4096n) + 1n],
  "fractions": [[0.1, -2.5, 1e-300, 5e-324], [1.7976931348623157e308, 0.1 + 0.2]],
  "not a number": [NaN, 0.5],
  "infinite": [Infinity, -Infinity],
  "minus zero": [-0, [-0, 0]],
  "no text": ["", " "],
  "text of every plane": [planes, [...planes].toReversed().join("")],
  "joined text": [joined, joined.repeat(2)],
  "long text": ["ü".repeat(40_000), "€".repeat(30_000)],
  "no bytes": [new Uint8Array(0), Uint8Array.of(0)],
  "every byte": [everyByte, everyByte.toReversed()],
  "many bytes": [repeated(everyByte, 300), repeated(everyByte.toReversed(), 300)],
  "a date": [day(1_700_000_000_123), day(1_700_000_000_000)],
  "dates far away": [[day(0), day(-1), day(-62_135_596_800_000)], [day(2 ** 32 * 1000), day(253_402_300_799_999)]],
  "an empty set": [new Set(), new Set([""])],
  "a set": [new Set(["a", 2, 1.5, null, false, Uint8Array.of(0x78), 2n ** 70n]), new Set(["b", "ü🎉"])],
  "a set of more": [new Set([day(5), [1, "two", [null]], new Set([1, 2])]), new Set([[1], [1, 1]])],
  "a map": [
    new Map(/** @type {any} */ ([[1, "one"], [null, []], [Uint8Array.of(0x6b), { a: 1 }], [2n ** 60n, 0.5]])),
    new Map(/** @type {any} */ ([[1, "uno"], ["1", "text"]])),
  ],
  "a map of more": [
    new Map(/** @type {any} */ ([
      [[1, "a"], new Map([[2, 3]])], [day(7), new Set()], [new Set(["x"]), new Uint8Array(0)],
    ])),
    new Map([[[], []]]),
  ],
  "a blob": [new BlobValue("text/plain", Uint8Array.of(72, 101, 108, 108, 111)), new BlobValue("", new Uint8Array(0))],
  "a file": [new BlobValue("image/png", everyByte, "ü.png"), new BlobValue("image/png", everyByte, "🦦.png")],
  "typed arrays": [arrays(), arrays().toReversed()],
  "an empty typed array": [new Float64Array(0), new Uint8ClampedArray(0)],
  "an empty list": [[], [[]]],
  "an empty object": [{}, { a: {} }],
  "odd names": [
    { "": 0, ["__proto__"]: { a: 1 }, constructor: 2, "ü🎉": 3, 1: 4 },
    { ["__proto__"]: null },
  ],
  "all at once": [
    {
      list: [1, 2.5, null, true, "ü", day(9), { s: new Set([1, [2, 3]]) }],
      blob: [new BlobValue("a/b", Uint8Array.of(0))],
      map: new Map([[1, new Map([[2, 3]])]]),
    },
    { list: [], deep: [{ a: [{ b: [Int8Array.of(-1), Uint8Array.of(255)] }] }] },
  ],
  "as deep as it goes": [deep(64, 7), deep(64, "seven")],
  "ten thousand items": [Array.from({ length: 10_000 }, (_, at) => at), Array(10_000).fill(null)],
};

/** @param {Uint8Array} bytes @param {number} times */
function repeated(bytes, times) {
  const all = new Uint8Array(bytes.length * times);
  for (let at = 0; at < times; at++) all.set(bytes, at * bytes.length);
  return all;
}

/** @param {number} levels @param {any} inside @returns {any} */
function deep(levels, inside) {
  return levels ? [deep(levels - 1, inside)] : inside;
}
