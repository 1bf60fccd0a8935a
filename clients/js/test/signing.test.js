/** Proofs of the handshake, the keys that make them, and the keys and signatures on which verifiers differ. */

import assert from "node:assert/strict";
import test from "node:test";
import { inspect } from "node:util";
import { concat, equal, hex, unhex } from "../src/bytes.js";
import { AssertionError } from "../src/errors.js";
import { isValidPublicKey, lp, SigningKey, transcriptHash, verify, verifySignature } from "../src/signing.js";
import { always } from "./seeded.js";
import { vectors } from "./vectors.js";

const CRYPTO = vectors("crypto");
const AUTH = CRYPTO.auth;
const ED25519 = vectors("ed25519");
const SEED = unhex(AUTH.device_seed);
const DEVICE = await SigningKey.fromSeed(SEED);
const PK = DEVICE.publicKey;
const URL = AUTH.hub_url;
const HELLO = unhex(AUTH.hello);
const CHALLENGE = unhex(AUTH.challenge);
/** @type {import("../src/signing.js").Purpose[]} */
const PURPOSES = ["auth", "enrol", "space", "account"];
const L = 2n ** 252n + 27742317777372353535851937790883648493n;

const fresh = (/** @type {number} */ size) => crypto.getRandomValues(new Uint8Array(size));

/**
 * The signing room as a browser without Ed25519 in its WebCrypto has it.
 * @param {(room: typeof import("../src/signing.js")) => Promise<void>} work
 */
async function withoutEd25519(work) {
  const { importKey, generateKey } = crypto.subtle;
  crypto.subtle.importKey = crypto.subtle.generateKey = async () => {
    throw new DOMException("Unrecognized algorithm name", "NotSupportedError");
  };
  try {
    await work(await import(`../src/signing.js?without=${Math.random()}`));
  } finally {
    Object.assign(crypto.subtle, { importKey, generateKey });
  }
}

test("the proofs are the published ones", async () => {
  assert.equal(hex(PK), AUTH.device_pk);
  assert.equal(hex(transcriptHash("auth", URL, HELLO, CHALLENGE)), AUTH.transcript_hash);
  assert.equal(hex(await DEVICE.proof("auth", URL, HELLO, CHALLENGE)), AUTH.signature);
  assert.equal(hex(await DEVICE.proof("enrol", URL, HELLO, CHALLENGE)), AUTH.enrol_signature);
});

test("a browser without Ed25519 makes the same keys and proofs", async () => {
  await withoutEd25519(async (room) => {
    const key = await room.SigningKey.fromSeed(SEED);
    assert.equal(key.stored().privateKey, null);
    assert.equal(hex(key.publicKey), AUTH.device_pk);
    assert.equal(hex(await key.proof("auth", URL, HELLO, CHALLENGE)), AUTH.signature);
    const again = new room.SigningKey(structuredClone(key.stored()));
    assert.equal(hex(await again.proof("enrol", URL, HELLO, CHALLENGE)), AUTH.enrol_signature);
    const made = await room.SigningKey.generate(fresh);
    assert.ok(await verifySignature(made.publicKey, await made.sign(HELLO), HELLO));
  });
});

test("a key cannot be read by a script, and signs again after it was stored", async () => {
  const key = await SigningKey.generate(fresh);
  for (const made of [key, DEVICE]) {
    const { privateKey, seed } = made.stored();
    assert.equal(seed, null);
    assert.ok(privateKey && !privateKey.extractable);
    for (const format of /** @type {const} */ (["pkcs8", "jwk"])) {
      await assert.rejects(crypto.subtle.exportKey(/** @type {any} */ (format), privateKey), {
        name: /^InvalidAccess/,
      });
    }
    const again = new SigningKey(structuredClone(made.stored()));
    const proof = await again.proof("auth", URL, HELLO, CHALLENGE);
    assert.ok(await verify(made.publicKey, proof, "auth", URL, HELLO, CHALLENGE));
  }
  assert.ok(await isValidPublicKey(key.publicKey));
  assert.ok(!equal(key.publicKey, (await SigningKey.generate(fresh)).publicKey));
});

test("a key shows its public half only", async () => {
  await withoutEd25519(async (room) => {
    const key = await room.SigningKey.fromSeed(SEED);
    const shown = [key, JSON.stringify(key), JSON.stringify({ ...key }), inspect(key, { showHidden: true })].join(" ");
    assert.ok(shown.includes(AUTH.device_pk));
    assert.ok(!shown.includes(AUTH.device_seed) && !shown.includes(inspect(SEED)) && !shown.includes(String(SEED)));
    assert.throws(() => Object.assign(key, { publicKey: SEED }), TypeError);
  });
});

test("a key of a wrong length or of nothing is our own mistake", async () => {
  await assert.rejects(SigningKey.fromSeed(SEED.slice(1)), AssertionError);
  assert.throws(() => new SigningKey({ publicKey: PK.slice(1), privateKey: null, seed: SEED }), AssertionError);
  assert.throws(() => new SigningKey({ publicKey: PK, privateKey: null, seed: null }), AssertionError);
});

test("the space proof covers the challenge and the space", async () => {
  const spacePk = unhex(CRYPTO.space[0].space_pk);
  const proof = unhex(AUTH.space_signature);
  assert.ok(await verify(spacePk, proof, "space", URL, HELLO, concat(CHALLENGE, unhex(AUTH.space_id))));
  assert.ok(!(await verify(spacePk, proof, "space", URL, HELLO, CHALLENGE)));
});

test("a proof serves its own purpose only", async () => {
  for (const signed of PURPOSES) {
    const proof = await DEVICE.proof(signed, URL, HELLO, CHALLENGE);
    for (const asked of PURPOSES) {
      assert.equal(await verify(PK, proof, asked, URL, HELLO, CHALLENGE), signed === asked, `${signed}, ${asked}`);
    }
  }
});

test("a proof holds for its own handshake only", async () => {
  const proof = await DEVICE.proof("auth", URL, HELLO, CHALLENGE);
  /** @type {[string, Uint8Array, Uint8Array][]} */
  const others = [
    ["wss://other.example.org", HELLO, CHALLENGE],
    [`${URL}/`, HELLO, CHALLENGE],
    [URL, concat(HELLO, unhex("20")), CHALLENGE],
    [URL, HELLO, CHALLENGE.slice(0, -1)],
    [URL, CHALLENGE, HELLO],
    [URL, concat(HELLO, CHALLENGE), new Uint8Array(0)],
    [URL + String.fromCharCode(HELLO[0]), HELLO.slice(1), CHALLENGE],
  ];
  for (const [url, hello, challenge] of others) assert.ok(!(await verify(PK, proof, "auth", url, hello, challenge)));
});

test("length-prefixed parts are unambiguous", () => {
  assert.equal(hex(lp(unhex("ab"), new Uint8Array(0))), "00000001ab00000000");
  const seen = new Map();
  always(500, (random) => {
    const parts = random.list(3, () => random.bytes(random.below(3)));
    const written = hex(lp(...parts));
    const meant = parts.map(hex).join();
    assert.equal(seen.get(written) ?? meant, meant);
    seen.set(written, meant);
  });
});

test("verifying nonsense is false and never raises", async () => {
  const random = new (await import("./seeded.js")).Seeded(1);
  for (let n = 0; n < 60; n++) {
    const key = random.bytes(random.choice([0, 31, 32, 32, 40]));
    const signature = random.bytes(random.choice([0, 63, 64, 64, 70]));
    assert.equal(await verify(key, signature, "auth", URL, HELLO, CHALLENGE), false);
    assert.equal(await verify(PK, signature, "auth", URL, HELLO, CHALLENGE), false);
  }
});

for (const vector of ED25519.public_keys) {
  test(`only canonical points of prime order are device keys: ${vector.name}`, async () => {
    assert.equal(await isValidPublicKey(unhex(vector.public_key)), vector.valid);
  });
}

for (const vector of ED25519.signatures) {
  test(`a signature that verifiers could dispute is refused: ${vector.name}`, async () => {
    const [publicKey, message, signature] = [vector.public_key, vector.message, vector.signature].map(unhex);
    assert.equal(await verifySignature(publicKey, signature, message), vector.valid);
  });
}

test("a proof cannot be respelled", async () => {
  const proof = await DEVICE.proof("auth", URL, HELLO, CHALLENGE);
  const S = BigInt(`0x${hex(proof.slice(32).reverse())}`) + L;
  const respelled = concat(proof.slice(0, 32), unhex(S.toString(16).padStart(64, "0")).reverse());
  assert.ok(await verify(PK, proof, "auth", URL, HELLO, CHALLENGE));
  assert.ok(!(await verify(PK, respelled, "auth", URL, HELLO, CHALLENGE)));
});
