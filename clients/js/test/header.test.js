/** The header: where each field lies, and what is refused without a key. */

import assert from "node:assert/strict";
import test from "node:test";
import { concat, hex, u64, unhex } from "../src/bytes.js";
import { AssertionError } from "../src/errors.js";
import { Kind, ZERO_ID } from "../src/terms.js";
import { Header, HEADER_BYTES, parseHeader, SEALED_BYTES_MIN } from "../src/wire/header.js";
import { always } from "./seeded.js";
import { vectors } from "./vectors.js";

const id = (/** @type {number} */ byte) => new Uint8Array(16).fill(byte);
const REST = new Uint8Array(SEALED_BYTES_MIN - HEADER_BYTES);
const PUT = {
  version: 1,
  suite: 1,
  kind: Kind.PUT,
  flags: 1,
  keyEpoch: 0x01020304,
  spaceId: id(1),
  collectionId: id(2),
  recordId: id(3),
  changeId: id(4),
  deviceId: id(5),
  counter: 0x0a020304050607,
  base: id(0x62),
};

/** A put; `fields` replace what it has. @param {Partial<typeof PUT>} [fields] */
const header = (fields) => new Header({ ...PUT, ...fields });
/** @param {number} kind @param {Partial<typeof PUT>} [fields] */
const aboutAll = (kind, fields) => header({ kind, recordId: ZERO_ID, ...fields });
/** @param {Header} given */
const sealed = (given) => concat(given.pack(), REST);

test("every field lies where the protocol says", () => {
  const packed = header().pack();
  assert.equal(hex(packed.slice(0, 8)), "0101010101020304");
  [8, 24, 40, 56, 72].forEach((at, n) => assert.deepEqual(packed.slice(at, at + 16), id(n + 1)));
  assert.equal(hex(packed.slice(88, 96)), "000a020304050607");
  assert.deepEqual(packed.slice(96), id(0x62));
  assert.deepEqual([packed.length, HEADER_BYTES], [112, 112]);
});

test("the smallest sealed change is read and one byte less is not", () => {
  assert.deepEqual(parseHeader(sealed(header())), header());
  assert.throws(() => parseHeader(sealed(header()).slice(0, -1)), /at least 152 bytes/);
});

test("every kind is read back", () => {
  for (const kind of Object.values(Kind)) {
    const bare = [Kind.PURGE, Kind.WIPE, Kind.WITNESS].includes(/** @type {any} */ (kind));
    const given = bare ? aboutAll(kind, { base: ZERO_ID }) : header({ kind, base: ZERO_ID });
    assert.deepEqual(parseHeader(sealed(given)), given);
  }
});

test("the known flags are read", () => {
  for (const flags of [0, 1, 2, 3]) assert.equal(parseHeader(sealed(header({ flags }))).conditional, flags >= 2);
});

test("a purge says up to which seq", () => {
  const base = concat(new Uint8Array(8), u64(2 ** 53 - 1));
  assert.equal(parseHeader(sealed(aboutAll(Kind.PURGE, { base }))).upto, 2 ** 53 - 1);
});

test("a header against the rules is refused with its fault", () => {
  /** @type {[Header, RegExp][]} */
  const faults = [
    [header({ version: 0 }), /version or suite/],
    [header({ version: 2 }), /version or suite/],
    [header({ suite: 0 }), /version or suite/],
    [header({ suite: 2 }), /version or suite/],
    [header({ kind: 0 }), /unknown kind/],
    [header({ kind: 7 }), /unknown kind/],
    [header({ kind: 9 }), /unknown kind/],
    [header({ kind: 255 }), /unknown kind/],
    [header({ flags: 4 }), /unknown flag/],
    [header({ flags: 0x81 }), /unknown flag/],
    [header({ counter: 0 }), /counters start at 1/],
    [header({ kind: Kind.WIPE }), /record id zero/],
    [header({ kind: Kind.PURGE, base: ZERO_ID }), /record id zero/],
    [header({ kind: Kind.WITNESS }), /record id zero/],
    [aboutAll(Kind.WIPE, { flags: 3 }), /not conditional/],
    [aboutAll(Kind.PURGE, { flags: 3, base: ZERO_ID }), /not conditional/],
    [aboutAll(Kind.WITNESS, { flags: 2 }), /not conditional/],
    [aboutAll(Kind.PURGE, { base: concat(unhex("0000000000000001"), new Uint8Array(8)) }), /eight zero bytes/],
    [header({ kind: Kind.DELTA }), /no base/],
    [header({ kind: Kind.DELTA, flags: 3, base: ZERO_ID }), /no base/],
  ];
  for (const [given, fault] of faults) assert.throws(() => parseHeader(sealed(given)), fault);
});

test("a counter that JavaScript would round is refused, and the last it does not is read", () => {
  const last = header({ counter: 2 ** 53 - 1 });
  assert.equal(parseHeader(sealed(last)).counter, 2 ** 53 - 1);
  const beyond = sealed(last);
  beyond.set(unhex("0020000000000000"), 88);
  assert.throws(() => parseHeader(beyond), /2\^53/);
  assert.throws(() => header({ counter: 2 ** 53 }).pack(), AssertionError);
});

test("any bytes are read back exactly or refused", () => {
  let read = 0;
  always(500, (random) => {
    const begun = concat(unhex("010101"), Uint8Array.of(random.below(4)), random.bytes(84), u64(1), random.bytes(56));
    const bytes = random.random() < 0.5 ? begun : random.bytes(random.below(200));
    try {
      assert.deepEqual(parseHeader(bytes).pack(), bytes.slice(0, HEADER_BYTES));
      read++;
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
    }
  });
  assert.ok(read > 100);
});

test("the published headers are read", () => {
  for (const vector of vectors("crypto").sealed) {
    const read = /** @type {any} */ (parseHeader(unhex(vector.sealed)));
    for (const [name, wire] of [
      ["collectionId", "collection_id"],
      ["recordId", "record_id"],
      ["changeId", "change_id"],
      ["deviceId", "device_id"],
      ["base", "base"],
    ]) {
      assert.equal(hex(read[name]), vector[wire], vector.name);
    }
    assert.deepEqual([read.kind, read.counter, read.conditional], [vector.kind, vector.counter, vector.conditional]);
  }
});
