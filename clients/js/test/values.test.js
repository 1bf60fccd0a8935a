/** Values: every type of the table both ways, and a clear no to the rest. */

import assert from "node:assert/strict";
import test from "node:test";
import { runInNewContext } from "node:vm";
import { hex, unhex } from "../src/bytes.js";
import { AssertionError } from "../src/errors.js";
import { Ext, pack } from "../src/msgpack.js";
import { BlobValue, decodeBody, DEPTH_MAX, encodeBody, readBlobs, toBlobs } from "../src/values.js";
import { always } from "./seeded.js";
import { vectors } from "./vectors.js";

/** @typedef {import("./seeded.js").Seeded} Seeded */

const VALUES = vectors("values");
/** @type {Record<string, any>} */
const ARRAYS = { Int16: Int16Array, Float64: Float64Array };

/** A value from the tagged notation of vectors/values.json. @param {any} value @returns {any} */
function untagged(value) {
  if (Array.isArray(value)) return value.map(untagged);
  if (typeof value !== "object" || value === null) return value;
  const { $: tag, of } = value;
  switch (tag) {
    case "float":
      return Number(of.replace("inf", "Infinity"));
    case "int":
      return BigInt(of);
    case "bytes":
      return unhex(of);
    case "time":
      return new Date(of);
    case "set":
      return new Set(of.map(untagged));
    case "map":
      return new Map(of.map((/** @type {any} */ pair) => pair.map(untagged)));
    case "blob":
      return new BlobValue(value.type, unhex(of), value.name);
    case "array":
      return new ARRAYS[value.kind](unhex(of).buffer);
  }
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, untagged(item)]));
}

/** What comes back of a value. @param {unknown} value */
const back = (value) => decodeBody(encodeBody(value)).value;
/** @param {Uint8Array} packed */
const bodyOf = (packed) => unhex(`81a176${hex(packed)}`);

for (const vector of VALUES.bodies) {
  test(`a body is the published bytes both ways: ${vector.name}`, () => {
    const value = untagged(vector.value);
    const body = encodeBody(value, { schema: vector.schema, atMs: vector.at_ms });
    assert.equal(hex(body), vector.body);
    const read = decodeBody(unhex(vector.body));
    assert.deepEqual(read, { value, schema: vector.schema, atMs: vector.at_ms });
    assert.equal(hex(encodeBody(read.value, read)), vector.body);
  });
}

for (const vector of VALUES.refused) {
  test(`what is no body is refused: ${vector.name}`, () => {
    assert.throws(
      () => decodeBody(unhex(vector.body)),
      (error) => error instanceof RangeError && /not a body/.test(error.message),
    );
  });
}

/** @param {Seeded} random @param {number} depth @returns {unknown} */
function anyValue(random, depth) {
  const whole = random.below(2 ** 32);
  const text = random.list(5, () => random.choice(["a", "ü", "🦦", "\0", "__proto__"])).join("");
  const plain = [
    () => null,
    () => random.random() < 0.5,
    () => whole - 2 ** 31,
    () => whole * 2 ** 20,
    () => random.random() - 0.5,
    () => random.choice([-0, NaN, Infinity, 1e300, 2 ** 53, Number.MIN_VALUE]),
    () => text,
    () => random.bytes(random.below(20)),
    () => BigInt(whole) ** BigInt(random.below(9)) * random.choice([1n, -1n]),
    () => new Date(whole * random.choice([1, 1000]) - 1e12),
    () => new BlobValue(text, random.bytes(3), text),
    () => new Float32Array([random.random()]),
    () => new Uint16Array([whole, 1]),
  ];
  if (!depth) return random.choice(plain)();
  const inner = () => anyValue(random, depth - 1);
  return random.choice([
    ...plain,
    () => random.list(4, inner),
    () => Object.fromEntries(random.list(4, () => [text + random.below(9), inner()])),
    () => new Map(random.list(1, () => [text, inner()])),
    () => new Set([text, whole, [whole]]),
    () => new Map([[whole, inner()]]),
  ])();
}

test("any value comes back as it went", () => {
  always(500, (random) => {
    const value = anyValue(random, 4);
    assert.deepEqual(back(value), value);
  });
});

test("any bytes are read or refused and nothing else happens", () => {
  always(5000, (random) => {
    const bytes = random.bytes(random.below(40));
    const known = unhex(random.choice(VALUES.bodies).body);
    known[random.below(known.length)] = random.below(256);
    for (const body of [bytes, bodyOf(bytes), known]) {
      try {
        decodeBody(body);
      } catch (error) {
        assert.ok(error instanceof RangeError && !/call stack|array length/i.test(error.message), String(error));
      }
    }
  });
});

test("a type without a place in the table is refused by name and place", () => {
  class Account {}
  /** @type {[any, RegExp][]} */
  const refused = [
    [undefined, /value: undefined cannot/],
    [[1, undefined], /value\[1\]: undefined/],
    [Array(1), /value\[0\]: undefined/],
    [new Map([[1, undefined]]), /value\[1\]: undefined/],
    [() => 1, /a function cannot/],
    [Symbol("s"), /a symbol cannot/],
    [{ a: [1, /x/] }, /value\["a"\]\[1\]: a RegExp/],
    [new Account(), /a Account cannot/],
    [Object.create({ inherited: 1 }), /cannot be synced/],
    [new Error("e"), /a Error cannot/],
    [new ArrayBuffer(1), /a ArrayBuffer cannot/],
    [new DataView(new ArrayBuffer(1)), /a DataView cannot/],
    [Promise.resolve(1), /a Promise cannot/],
    [new WeakMap(), /a WeakMap cannot/],
    [Object(1), /a Number cannot/],
    [Object("x"), /a String cannot/],
    [new Map([[1, /x/]]), /value\[1\]: a RegExp/],
    [new Map([[/x/, 1]]), /a key of value: a RegExp/],
    [new Set([/x/]), /an element of value: a RegExp/],
    [[new Blob(["x"])], /value\[0\]: a Blob must be read first, by readBlobs/],
    [new File(["x"], "n"), /a File must be read first/],
    [new BlobValue("a/b", /** @type {any} */ ("text")), /no Uint8Array/],
    [new BlobValue("a/b", new Uint8Array(0), /** @type {any} */ (1)), /a number where text belongs/],
  ];
  for (const [value, words] of refused)
    assert.throws(
      () => encodeBody(value),
      (error) => error instanceof TypeError && words.test(error.message),
      String(words),
    );
});

test("an array of a kind that the table does not have is refused", () => {
  class Float16 extends Uint16Array {
    get [Symbol.toStringTag]() {
      return "Float16Array";
    }
  }
  assert.throws(() => encodeBody(new Float16(1)), /a Float16Array cannot be synced/);
  for (const kind of ["Float16", "constructor", "toString", ""]) {
    assert.throws(() => decodeBody(bodyOf(pack(new Ext(4, pack([kind, unhex("0000")]))))), /no typed array of kind/);
  }
  assert.throws(() => decodeBody(bodyOf(pack(new Ext(4, pack(["Int16", unhex("000000")]))))), /3 bytes are no typed/);
});

test("an extension with a part too many is refused", () => {
  assert.throws(() => decodeBody(bodyOf(pack(new Ext(3, pack(["a/b", unhex("00"), "n", 1]))))), /a blob is not/);
  assert.throws(() => decodeBody(bodyOf(pack(new Ext(4, pack(["Int8", unhex("00"), 1]))))), /a typed array is not/);
});

test("a value that would not come back is refused", () => {
  /** @type {[any, RegExp][]} */
  const refused = [
    ["\ud800", /lone surrogate/],
    [{ "\udfff": 1 }, /lone surrogate/],
    [[{ a: "x\ud83d" }], /value\[0\]\["a"\]: half a character/],
    [new BlobValue("a/b", new Uint8Array(0), "\ud800"), /lone surrogate/],
    [new Map([["\ud800", 1]]), /lone surrogate/],
    [[new Date(NaN)], /value\[0\]: an invalid Date/],
    [new Date("0000-12-31T23:59:59.999Z"), /before the year 1/],
    [new Date("+010000-01-01T00:00:00Z"), /after 9999/],
    [10n ** 4096n, /more than 4096 digits/],
    [-(10n ** 4096n), /more than 4096 digits/],
  ];
  for (const [value, words] of refused)
    assert.throws(
      () => encodeBody(value),
      (error) => error instanceof RangeError && words.test(error.message),
      String(words),
    );
});

test("what Python could not hold is refused where it is written", () => {
  /** @type {[any, RegExp][]} */
  const refused = [
    [new Set([1, true]), /a set with elements that are equal in Python/],
    [new Set([1, 1n]), /equal in Python/],
    [new Set([[1], [1]]), /equal in Python/],
    [new Set([[1], [true]]), /equal in Python/],
    [new Set([2 ** 53, 2n ** 53n]), /equal in Python/],
    [new Set([1e21, 10n ** 21n]), /equal in Python/],
    [new Set([new Date(5), new Date(5)]), /equal in Python/],
    [new Set([unhex("01"), unhex("01")]), /equal in Python/],
    [new Set([new Set([1, 2]), new Set([2, true])]), /equal in Python/],
    [
      new Map([
        [0, "a"],
        [false, "b"],
      ]),
      /a map with elements that are equal in Python as keys/,
    ],
    [{ a: new Set([{}]) }, /value\["a"\]: a set with objects or maps/],
    [new Set([new Map()]), /objects or maps/],
    [new Set([[{}]]), /objects or maps/],
    [new Map([[{}, 1]]), /a map with objects or maps as keys/],
  ];
  for (const [value, words] of refused)
    assert.throws(
      () => encodeBody(value),
      (error) => error instanceof RangeError && words.test(error.message),
      String(words),
    );
  const held = [
    new Set([1, "1", [1], 1.5, null, unhex("31"), new Date(1)]),
    new Set([1, "n1", "s1:1"]),
    new Set([
      ["a,b", "c"],
      ["a", "b,c"],
    ]),
    new Set([["a,b"], ["a", "b"]]),
    new Set([["a"], new Set(["a"])]),
  ];
  for (const value of held) assert.equal(/** @type {Set<unknown>} */ (back(value)).size, value.size);
});

test("elements that are equal in Python are refused rather than lost", () => {
  assert.throws(() => decodeBody(bodyOf(pack(new Ext(1, pack([1, true]))))), /equal in Python/);
  assert.throws(
    () =>
      decodeBody(
        bodyOf(
          pack(
            new Ext(
              2,
              pack([
                [0, "zero"],
                [false, "no"],
              ]),
            ),
          ),
        ),
      ),
    /equal in Python/,
  );
  assert.throws(() => decodeBody(bodyOf(pack(new Ext(1, pack([[1], [1]]))))), /equal in Python/);
});

test("a map as an element of a set is refused", () => {
  assert.throws(() => decodeBody(bodyOf(pack(new Ext(1, pack([{ a: 1 }]))))), /objects or maps/);
});

test("each type of JavaScript comes back as itself", () => {
  const values = [
    new Map([["a", 1]]),
    new Map(),
    new Set(),
    5n,
    0n,
    -0,
    new Uint8Array(0),
    new Uint8ClampedArray([1]),
    new Int8Array([-1]),
    new Uint16Array([1]),
    new Int32Array([-1]),
    new Uint32Array([1]),
    new Float32Array([1.5]),
    new BigInt64Array([-1n]),
    new BigUint64Array([2n ** 64n - 1n]),
    new Date(0),
    new Date(-1),
    new Date("0001-01-01T00:00:00Z"),
    new Date("9999-12-31T23:59:59.999Z"),
    JSON.parse('{"__proto__": {"a": 1}}'),
    Object.assign(Object.create(null), { a: 1 }),
  ];
  for (const value of values) {
    const read = back(value);
    if (Object.getPrototypeOf(value) === null) assert.deepEqual(read, { a: 1 });
    else assert.deepEqual(read, value);
  }
  assert.deepEqual(back(Buffer.from("ab")), unhex("6162"));
});

test("what another window made is taken for what it is", () => {
  const [date, set, map, plain, list, bytes, regexp] = runInNewContext(
    "[new Date(5), new Set([1]), new Map([[1, 2]]), { a: 1 }, [1], new Uint8Array([1]), /x/]",
  );
  assert.deepEqual(back([date, set, map, plain, list, bytes]), [
    new Date(5),
    new Set([1]),
    new Map([[1, 2]]),
    { a: 1 },
    [1],
    unhex("01"),
  ]);
  assert.throws(() => encodeBody(regexp), /RegExp/);
});

test("a property that is undefined is none", () => {
  assert.equal(hex(encodeBody({ a: undefined, b: 1 })), hex(encodeBody({ b: 1 })));
});

test("a view of a part of a buffer is that part", () => {
  const floats = new Float64Array([1, 2, 3]).subarray(1, 2);
  assert.deepEqual(back({ floats, bytes: unhex("00010203").subarray(1, 3) }), {
    floats: new Float64Array([2]),
    bytes: unhex("0102"),
  });
});

test("what was read keeps no body alive", () => {
  const body = encodeBody({ bytes: unhex("0102"), blob: new BlobValue("a/b", unhex("03")), n: new Int8Array([4]) });
  const { bytes, blob, n } = /** @type {any} */ (decodeBody(body).value);
  body.fill(0);
  assert.deepEqual([bytes, blob.data, n], [unhex("0102"), unhex("03"), new Int8Array([4])]);
  for (const part of [bytes, blob.data, n]) assert.equal(part.buffer.byteLength, part.byteLength);
});

test("the largest whole number comes back", () => {
  for (const number of [10n ** 4096n - 1n, 1n - 10n ** 4096n]) assert.equal(back(number), number);
});

test("a whole number of more digits than any client writes is refused before it is made", () => {
  const digits = (/** @type {number} */ count) => bodyOf(pack(new Ext(5, new Uint8Array(count).fill(0x31))));
  assert.equal(String(decodeBody(digits(4097)).value).length, 4097);
  assert.throws(() => decodeBody(digits(4098)), /more than 4096 digits/);
});

test("a moment finer than a millisecond is cut off, not rounded, also before 1970", () => {
  const moment = (/** @type {string} */ digits) =>
    /** @type {Date} */ (decodeBody(unhex(`81a176${digits}`)).value).getTime();
  assert.equal(moment("c70cff3b9ac9ff0000000000000001"), 1999);
  assert.equal(moment("c70cff3b9ac9ffffffffffffffffff"), -1);
});

test("a moment that Python could not hold is refused", () => {
  for (const digits of [
    "c70cff3b9aca000000000000000000",
    "c70cff000000007fffffffffffffff",
    "c70cff00000000fffffff1886e08ff",
  ]) {
    assert.throws(() => decodeBody(unhex(`81a176${digits}`)), /timestamp is out of bounds/);
  }
});

/** @param {number} depth */
function nested(depth) {
  /** @type {unknown[]} */
  let value = [];
  for (let n = 0; n < depth; n++) value = [value];
  return value;
}

test("nesting is bounded", () => {
  assert.deepEqual(back(nested(DEPTH_MAX)), nested(DEPTH_MAX));
  assert.throws(() => encodeBody(nested(DEPTH_MAX + 1)), /nested deeper/);
});

test("maps and sets as deep as may be come back", () => {
  /** @type {any} */
  let maps = 1;
  /** @type {any} */
  let sets = 1;
  for (let n = 0; n < DEPTH_MAX; n++) [maps, sets] = [new Map([["m", maps]]), new Set([sets])];
  assert.deepEqual(back(maps), maps);
  assert.deepEqual(back(sets), sets);
});

test("a value that holds itself is refused", () => {
  /** @type {unknown[]} */
  const ring = [];
  ring.push(ring);
  assert.throws(() => encodeBody(ring), /nested deeper/);
  const set = new Set();
  set.add([set]);
  assert.throws(() => encodeBody(set), RangeError);
});

test("hostile nesting is refused", () => {
  for (const wrapped of ["91", "c7050191", "81a176"]) {
    assert.throws(() => decodeBody(unhex(`81a176${wrapped.repeat(50_000)}`)), /not a body/);
  }
});

test("hostile extensions inside extensions are refused", () => {
  let data = pack([]);
  for (let n = 0; n < 3000; n++) data = pack([new Ext(1, data)]);
  assert.throws(() => decodeBody(bodyOf(data)), /not a body.*nested/);
});

test("equal sets are equal bytes", () => {
  assert.equal(hex(encodeBody(new Set([0, 8, "b", "a"]))), hex(encodeBody(new Set(["a", 8, "b", 0]))));
});

test("unknown keys beside the value are ignored", () => {
  assert.deepEqual(decodeBody(pack({ v: 1, later: [1] })), { value: 1, schema: 0, atMs: 0 });
});

test("a schema or time that cannot be is our own mistake", () => {
  for (const more of [{ schema: -1 }, { schema: 1.5 }, { atMs: 2 ** 53 }, { atMs: NaN }]) {
    assert.throws(() => encodeBody(1, more), AssertionError);
  }
});

test("blobs are read before writing and given back after reading", async () => {
  const value = {
    a: [new Blob(["hi"], { type: "text/plain" })],
    m: new Map([[1, new File(["x"], "n.txt", { type: "a/b" })]]),
    s: new Set([new Blob([])]),
  };
  const read = await readBlobs(value);
  assert.deepEqual(read, {
    a: [new BlobValue("text/plain", unhex("6869"))],
    m: new Map([[1, new BlobValue("a/b", unhex("78"), "n.txt")]]),
    s: new Set([new BlobValue("", new Uint8Array(0))]),
  });
  assert.ok(value.a[0] instanceof Blob);
  const given = /** @type {any} */ (toBlobs(back(read)));
  assert.ok(given.a[0] instanceof Blob && !(given.a[0] instanceof File));
  assert.deepEqual([given.a[0].type, await given.a[0].text()], ["text/plain", "hi"]);
  const file = given.m.get(1);
  assert.ok(file instanceof File);
  assert.deepEqual([file.name, file.type, await file.text()], ["n.txt", "a/b", "x"]);
  assert.equal([...given.s][0].size, 0);
});

test("a value without blobs is left as it is, also one that holds itself", async () => {
  const value = { a: [1, new Map([[1, new Set()]])], d: new Date(0) };
  assert.equal(await readBlobs(value), value);
  assert.equal(toBlobs(value), value);
  /** @type {unknown[]} */
  const ring = [];
  ring.push(ring);
  assert.equal(toBlobs(ring), ring);
});
