/** Key codes: what is read, what is forgiven, and what is refused with which sentence. */

import assert from "node:assert/strict";
import test from "node:test";
import { hex, unhex } from "../src/bytes.js";
import { CODE_CHARS, keyCode, parseKeyCode, printable, qrText, WrongKeyCode } from "../src/keycode.js";
import { always } from "./seeded.js";
import { vectors } from "./vectors.js";

const VECTORS = vectors("crypto").key_code;
const KEY = Uint8Array.from({ length: 32 }, (_, n) => n);
const CODE = keyCode(KEY, 0);
const LETTERS = "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L";
const PLACES = Array.from({ length: CODE_CHARS - "HUBKEY1".length }, (_, n) => n + "HUBKEY1".length);

test("the code is the published one", () => {
  assert.equal(CODE, VECTORS.code);
  assert.equal(CODE.length, CODE_CHARS);
  assert.equal(keyCode(unhex(VECTORS.second.app_key), VECTORS.second.key_epoch), VECTORS.second.code);
});

test("every key comes back", () => {
  always(50, (random) => {
    const appKey = random.bytes(32);
    const keyEpoch = random.choice([0, 1, 2 ** 31, 2 ** 32 - 1, random.below(2 ** 32)]);
    assert.deepEqual(parseKeyCode(keyCode(appKey, keyEpoch)), { appKey, keyEpoch });
  });
});

test("spaces, dashes, line breaks, case and a host are forgiven", () => {
  assert.ok(VECTORS.tolerated.length >= 9);
  const more = [
    `\u00a0${CODE}\u2009`,
    CODE.replace("Q", "Q\u00ad\u2212\u200b"),
    `\ufeff${CODE}`,
    CODE.replace("Q", "Q\x1c\x85"),
  ];
  for (const text of [...VECTORS.tolerated, ...more]) {
    assert.deepEqual(parseKeyCode(text), { appKey: KEY, keyEpoch: 0 }, JSON.stringify(text));
  }
});

for (const [name, text] of Object.entries(VECTORS.wrong)) {
  test(`wrong codes are refused with a sentence: ${name}`, () => {
    assert.throws(
      () => parseKeyCode(/** @type {string} */ (text)),
      (error) => error instanceof WrongKeyCode && error.message.endsWith("."),
    );
  });
}

test("the sentence names the fault", () => {
  const faults = {
    empty: /no key code/,
    "something else": /begins with HUBKEY1/,
    "a pairing code": /begins with HUBKEY1/,
    "a letter that does not occur": /'B'/,
    "a digit 1 inside": /Character 21 /,
    "the last character missing": /too few characters: 73/,
    "one character too many": /too many characters: 75/,
    "one character changed": /A character of the key code is wrong/,
    "two neighbours swapped": /A character of the key code is wrong/,
    "bech32 instead of bech32m": /A character of the key code is wrong/,
    "version 2": /newer app/,
    "type 1": /newer app/,
    "bits after the payload": /not in the form/,
  };
  for (const [name, words] of Object.entries(faults))
    assert.throws(() => parseKeyCode(VECTORS.wrong[name]), words, name);
});

test("every single wrong character is found", () => {
  for (const place of PLACES) {
    for (const letter of LETTERS.replace(CODE[place], "")) {
      assert.throws(() => parseKeyCode(CODE.slice(0, place) + letter + CODE.slice(place + 1)), WrongKeyCode);
    }
  }
});

test("every swap of neighbours is found", () => {
  for (const place of PLACES.slice(0, -1)) {
    const [one, other] = CODE.slice(place, place + 2);
    if (one !== other) {
      assert.throws(() => parseKeyCode(CODE.slice(0, place) + other + one + CODE.slice(place + 2)), WrongKeyCode);
    }
  }
});

test("any text is read or refused and nothing else happens", () => {
  const alphabets = [LETTERS + "1/ -", "aZ09 é🦦ßŉ\ud800\0'\"", CODE];
  always(500, (random) => {
    const letters = random.list(90, () => random.choice([...random.choice(alphabets)])).join("");
    const text = random.choice(["", "HUBKEY1", CODE]) + letters;
    try {
      assert.equal(hex(parseKeyCode(text).appKey), hex(KEY));
    } catch (error) {
      if (!(error instanceof WrongKeyCode)) throw error;
    }
  });
});

test("the printed form is in groups of five", () => {
  assert.equal(printable(CODE), VECTORS.printable);
  assert.deepEqual(
    [
      ...new Set(
        printable(CODE)
          .split(" ")
          .slice(0, -1)
          .map((group) => group.length),
      ),
    ],
    [5],
  );
});

test("the QR text tells key and hub", () => {
  const hosts = {
    "wss://hub.example.org": "HUB.EXAMPLE.ORG",
    "wss://hub.example.org:8443/v1/ws": "HUB.EXAMPLE.ORG:8443",
    "https://hub.example.org:8443/v1/ws": "HUB.EXAMPLE.ORG:8443",
    "http://127.0.0.1:8080": "127.0.0.1:8080",
    "wss://somebody:secret@hub.example.org/": "HUB.EXAMPLE.ORG",
  };
  for (const [hubUrl, host] of Object.entries(hosts)) {
    assert.equal(qrText(CODE, hubUrl), `${CODE}/${host}`);
    assert.deepEqual(parseKeyCode(qrText(CODE, hubUrl)).appKey, KEY);
  }
  assert.equal(qrText(CODE, "wss://hub.example.org:8443/v1/ws"), VECTORS.qr);
});

test("the QR text fits a small alphanumeric code", () => {
  const text = qrText(CODE, "wss://hub.example.org");
  assert.match(text, /^[0-9A-Z $%*+\-./:]+$/);
  assert.ok(text.length <= 90); // version 4 at level M
});
