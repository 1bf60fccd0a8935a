/** Keys: the published vectors, RFC 5869, and what must not happen. */

import assert from "node:assert/strict";
import test from "node:test";
import { inspect } from "node:util";
import { equal, hex, unhex } from "../src/bytes.js";
import { AssertionError } from "../src/errors.js";
import { hkdf, SpaceKeys } from "../src/keys.js";
import { verifySignature } from "../src/signing.js";
import { DERIVED, FIRST, SECOND } from "./derived.js";
import { vectors } from "./vectors.js";

const CRYPTO = vectors("crypto");
const SECRETS = /** @type {const} */ (["contentKey", "witnessKey", "nameKey", "setKey"]);

for (const index of [0, 1]) {
  test(`every key is the published one (${index})`, async () => {
    const keys = DERIVED[index];
    const vector = CRYPTO.space[index];
    const { spacePk, spaceId, contentKey, witnessKey, nameKey, setKey, keyId } = keys;
    const found = {
      space_pk: spacePk,
      space_id: spaceId,
      content_key: contentKey,
      witness_key: witnessKey,
      name_key: nameKey,
      set_key: setKey,
      key_id: keyId,
    };
    for (const [name, value] of Object.entries(found)) assert.equal(hex(value), vector[name], name);
    assert.equal(keys.keyEpoch, vector.key_epoch);
    assert.deepEqual(keys.signingKey.publicKey, keys.spacePk);
    assert.ok(await verifySignature(keys.spacePk, await keys.signingKey.sign(FIRST), FIRST));
  });
}

test("names have the published ids under every app key", () => {
  for (const keys of DERIVED) {
    for (const vector of [CRYPTO.names, ...CRYPTO.names.more]) {
      const collectionId = keys.collectionId(vector.collection);
      assert.equal(hex(collectionId), vector.collection_id);
      assert.equal(hex(keys.recordId(collectionId, vector.record)), vector.record_id);
    }
  }
});

test("names are not normalised", () => {
  const composed = "Gr\u00f6\u00dfe";
  assert.notEqual(composed, composed.normalize("NFD"));
  assert.ok(!equal(DERIVED[0].collectionId(composed), DERIVED[0].collectionId(composed.normalize("NFD"))));
});

test("a name with half a character is refused rather than made equal to another", () => {
  assert.throws(() => DERIVED[0].collectionId("\ud800"), RangeError);
  assert.throws(() => DERIVED[0].recordId(DERIVED[0].collectionId("a"), "\udfff"), RangeError);
});

test("the same record key has another id in another collection", () => {
  const [keys] = DERIVED;
  assert.ok(!equal(keys.recordId(keys.collectionId("a"), "x"), keys.recordId(keys.collectionId("b"), "x")));
});

test("what is shown of the keys are ids and no key", () => {
  const keys = DERIVED[1];
  const shown = `${keys} ${JSON.stringify(keys)} ${JSON.stringify({ ...keys })} ${inspect(keys, { depth: 9 })}`;
  assert.ok(String(keys).includes(hex(keys.spaceId)));
  for (const secret of [...SECRETS.map((name) => keys[name]), SECOND, FIRST]) {
    assert.ok(
      ![hex(secret), inspect(secret), String(secret), JSON.stringify(secret)].some((text) => shown.includes(text)),
    );
  }
});

test("keys that cannot be are refused", async () => {
  /** @type {[Uint8Array, number, Uint8Array | null, RegExp][]} */
  const refused = [
    [FIRST.slice(1), 0, null, /32 bytes/],
    [Uint8Array.of(...FIRST, 0), 0, null, /32 bytes/],
    [SECOND, 1, null, /first app key is needed/], // ids stand on the first key
    [SECOND, 1, FIRST.slice(1), /32 bytes/],
    [FIRST, 0, SECOND, /first key itself/],
    [FIRST, -1, null, /key_epoch/],
    [FIRST, 2 ** 32, FIRST, /key_epoch/],
    [FIRST, 0.5, FIRST, /key_epoch/],
  ];
  for (const [appKey, keyEpoch, firstKey, why] of refused) {
    await assert.rejects(SpaceKeys.derive(appKey, keyEpoch, firstKey), (/** @type {any} */ error) => {
      return error instanceof RangeError && why.test(error.message);
    });
  }
});

test("the last key_epoch is usable", async () => {
  const last = await SpaceKeys.derive(SECOND, 2 ** 32 - 1, FIRST);
  assert.deepEqual(last.spaceId, DERIVED[0].spaceId);
  assert.ok(!equal(last.contentKey, DERIVED[1].contentKey));
});

test("keys cannot be altered", () => {
  for (const name of ["signingKey", "contentKey", "spaceId"]) {
    assert.throws(() => Object.assign(DERIVED[0], { [name]: FIRST }), TypeError);
  }
});

test("HKDF is that of RFC 5869", () => {
  const range = (/** @type {number} */ from, /** @type {number} */ end) =>
    Uint8Array.from({ length: end - from }, (_, n) => from + n);
  const none = new Uint8Array(0);
  // Appendix A.1 to A.3.
  /** @type {[Uint8Array, Uint8Array, Uint8Array, number, string][]} */
  const cases = [
    [
      new Uint8Array(22).fill(0x0b),
      range(0, 13),
      range(0xf0, 0xfa),
      42,
      "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ],
    [
      range(0, 80),
      range(0x60, 0xb0),
      range(0xb0, 0x100),
      82,
      "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09" +
        "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ],
    [
      new Uint8Array(22).fill(0x0b),
      none,
      none,
      42,
      "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ],
  ];
  for (const [inputKey, salt, info, length, output] of cases)
    assert.equal(hex(hkdf(inputKey, salt, info, length)), output);
  for (const length of [0, 255 * 32 + 1]) assert.throws(() => hkdf(unhex("00"), none, none, length), AssertionError);
});
