/** Sealing: the published changes, every lie about them, and bytes at random. */

import assert from "node:assert/strict";
import test from "node:test";
import { xchacha20poly1305 } from "@noble/ciphers/chacha.js";
import { concat, hex, unhex, utf8 } from "../src/bytes.js";
import { AssertionError } from "../src/errors.js";
import {
  openSealed,
  paddedBytes,
  recordPlaintext,
  seal,
  splitRecord,
  Unopenable,
  WrongRecord,
} from "../src/sealing.js";
import { Kind, ZERO_ID } from "../src/terms.js";
import { DERIVED } from "./derived.js";
import { always } from "./seeded.js";
import { vectors } from "./vectors.js";

const CRYPTO = vectors("crypto");
const [KEYS] = DERIVED;
const CID = KEYS.collectionId("notes");
const RECORD = KEYS.recordId(CID, "note-1");
const PUT = unhex(CRYPTO.change.sealed);
const PLACE = { collectionId: CID };

const GIVEN = {
  kind: Kind.PUT,
  flagsConditional: false,
  collectionId: CID,
  recordId: RECORD,
  changeId: new Uint8Array(16).fill(0x63),
  deviceId: new Uint8Array(16).fill(0x64),
  counter: 1,
  base: ZERO_ID,
  plaintext: new Uint8Array(0),
  nonce: new Uint8Array(24).fill(0x6e),
};

/** @param {Partial<Parameters<typeof seal>[1]>} [fields] */
const sealedPut = (fields) => seal(KEYS, { ...GIVEN, ...fields });

/** @param {string} name */
const unopenable = (name) => CRYPTO.unopenable.find((/** @type {any} */ vector) => vector.name === name);

for (const vector of [CRYPTO.change, ...CRYPTO.sealed]) {
  test(`sealing gives the published bytes and opening gives them back: ${vector.name}`, () => {
    const keys = DERIVED[vector.space];
    const bytes = (/** @type {string} */ name) => unhex(vector[name]);
    const sealed = seal(keys, {
      kind: vector.kind,
      flagsConditional: vector.conditional,
      collectionId: bytes("collection_id"),
      recordId: bytes("record_id"),
      changeId: bytes("change_id"),
      deviceId: bytes("device_id"),
      counter: vector.counter,
      base: bytes("base"),
      plaintext: bytes("plaintext"),
      nonce: bytes("nonce"),
    });
    assert.equal(hex(sealed), vector.sealed);
    const opened = openSealed(keys, sealed, { collectionId: bytes("collection_id") });
    assert.equal(hex(opened.plaintext), vector.plaintext);
    assert.deepEqual(opened.header.pack(), sealed.slice(0, 112));
    assert.deepEqual([opened.header.kind, opened.header.conditional], [vector.kind, vector.conditional]);
  });
}

for (const vector of CRYPTO.unopenable) {
  test(`what must not open does not: ${vector.name}`, () => {
    assert.throws(
      () => openSealed(KEYS, unhex(vector.sealed), { collectionId: unhex(vector.collection_id) }),
      Unopenable,
    );
  });
}

test("a change from elsewhere is refused before its seal is tried", () => {
  const reasons = {
    "of another space": /for another space/,
    "of another key_epoch": /under another app key/,
    "of another collection": /for another collection/,
  };
  for (const [name, reason] of Object.entries(reasons)) {
    assert.throws(() => openSealed(KEYS, unhex(unopenable(name).sealed), PLACE), reason);
  }
});

for (const vector of CRYPTO.wrong_record) {
  test(`a key inside that is not the record's is refused: ${vector.name}`, () => {
    const opened = openSealed(KEYS, unhex(vector.sealed), { collectionId: unhex(vector.collection_id) });
    assert.throws(() => splitRecord(KEYS, opened), WrongRecord);
  });
}

test("turning any bit breaks the seal", () => {
  for (let bit = 0; bit < PUT.length * 8; bit++) {
    const altered = PUT.slice();
    altered[bit >> 3] ^= 1 << (bit % 8);
    assert.throws(() => openSealed(KEYS, altered, PLACE), Unopenable);
  }
});

test("cutting anywhere breaks the seal", () => {
  for (let end = 0; end < PUT.length; end++)
    assert.throws(() => openSealed(KEYS, PUT.slice(0, end), PLACE), Unopenable);
});

test("any bytes raise Unopenable and nothing else", () => {
  always(500, (random) => {
    const bytes = random.bytes(random.below(400));
    const sealed = random.random() < 0.5 ? bytes : concat(PUT.slice(0, 112), bytes);
    assert.throws(() => openSealed(KEYS, sealed, PLACE), Unopenable);
  });
});

test("whatever is sealed opens to the same", () => {
  always(200, (random) => {
    const plaintext = random.bytes(random.below(600));
    const sealed = sealedPut({ plaintext });
    assert.deepEqual(openSealed(KEYS, sealed, PLACE).plaintext, plaintext);
    assert.equal(sealed.length, 112 + 24 + paddedBytes(plaintext.length) + 16);
  });
});

test("what is opened shares no memory with what was sealed", () => {
  const sealed = sealedPut({ plaintext: recordPlaintext("note-1", utf8("body")) });
  const opened = openSealed(KEYS, sealed, PLACE);
  sealed.fill(0);
  assert.deepEqual(splitRecord(KEYS, opened), ["note-1", utf8("body")]);
  assert.deepEqual(opened.header.recordId, RECORD);
});

test("bytes that lie inside a larger buffer open", () => {
  const larger = concat(new Uint8Array(5), PUT, new Uint8Array(3));
  const [key, body] = splitRecord(KEYS, openSealed(KEYS, larger.subarray(5, 5 + PUT.length), PLACE));
  assert.deepEqual([key, body], ["note-1", utf8("hello")]);
});

test("padding has the published sizes", () => {
  assert.ok(Object.keys(CRYPTO.padme).length >= 11);
  for (const [size, padded] of Object.entries(CRYPTO.padme)) assert.equal(paddedBytes(Number(size)), padded);
});

test("padding never shrinks and costs at most an eighth", () => {
  let before = 0;
  for (let size = 0; size < 20_000; size++) {
    const padded = paddedBytes(size);
    assert.ok(padded >= before && padded >= size + 4 && padded <= Math.max(128, (size + 4) * 1.12), `${size}`);
    before = padded;
  }
});

test("an unpadded change of another client opens", () => {
  const header = PUT.slice(0, 112);
  header[3] = 0;
  const sealed = concat(
    header,
    GIVEN.nonce,
    xchacha20poly1305(KEYS.contentKey, GIVEN.nonce, header).encrypt(utf8("bare")),
  );
  assert.deepEqual(openSealed(KEYS, sealed, PLACE).plaintext, utf8("bare"));
});

test("a padded change that ends before its length is refused", () => {
  for (const size of [0, 1, 3]) {
    const header = PUT.slice(0, 112);
    const sealed = concat(
      header,
      GIVEN.nonce,
      xchacha20poly1305(KEYS.contentKey, GIVEN.nonce, header).encrypt(new Uint8Array(size)),
    );
    assert.throws(() => openSealed(KEYS, sealed, PLACE), /padding is wrong/);
  }
});

test("a record key travels inside", () => {
  for (const key of ["n", "n".repeat(1024), "ü".repeat(512), "a/b c", "\x01", "\ufeffx"]) {
    const body = utf8("a\0body\0");
    const sealed = sealedPut({ recordId: KEYS.recordId(CID, key), plaintext: recordPlaintext(key, body) });
    assert.deepEqual(splitRecord(KEYS, openSealed(KEYS, sealed, PLACE)), [key, body]);
  }
});

test("a key of a wrong length is refused even under its own record id", () => {
  for (const key of ["", "n".repeat(1025)]) {
    const sealed = sealedPut({ recordId: KEYS.recordId(CID, key), plaintext: utf8(`${key}\0`) });
    assert.throws(() => splitRecord(KEYS, openSealed(KEYS, sealed, PLACE)), /no record key/);
  }
});

test("a record key that cannot travel is refused before sealing", () => {
  for (const key of ["", "n".repeat(1025), "ü".repeat(513), "a\0b", "\0"]) {
    assert.throws(() => recordPlaintext(key, new Uint8Array(0)), /record's key/);
  }
});

test("a lone surrogate in a record key is refused before sealing", () => {
  assert.throws(() => recordPlaintext("\ud800", new Uint8Array(0)), RangeError);
});

test("an id of a wrong length is our own mistake", () => {
  for (const name of /** @type {const} */ (["collectionId", "recordId", "changeId", "deviceId", "base", "nonce"])) {
    assert.throws(() => sealedPut({ [name]: GIVEN[name].slice(1) }), AssertionError, name);
    assert.throws(() => sealedPut({ [name]: concat(GIVEN[name], unhex("00")) }), AssertionError, name);
  }
});

test("not telling whether a change is conditional is our own mistake", () => {
  const { flagsConditional: _, ...rest } = GIVEN;
  assert.throws(() => seal(KEYS, /** @type {any} */ ({ ...rest, conditional: true })), AssertionError);
});
