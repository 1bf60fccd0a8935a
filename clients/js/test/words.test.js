/** The app key as words: what is read, what is forgiven, and what is refused with which sentence. */

import assert from "node:assert/strict";
import test from "node:test";

import { hex, unhex } from "../src/bytes.js";
import { WrongKeyCode } from "../src/keycode.js";
import { keyWords, parseKeyWords, WORDS } from "../src/words.js";
import { always } from "./seeded.js";
import { vectors } from "./vectors.js";

/** @type {{ keys: { app_key: string, words: string }[], wrong: Record<string, string> }} */
const VECTORS = vectors("words");
const [{ app_key: KEY, words: TEXT }] = VECTORS.keys.slice(4);

test("the words are the published ones, and bring the key back", () => {
  assert.ok(VECTORS.keys.length >= 10);
  for (const { app_key: key, words } of VECTORS.keys) {
    assert.equal(keyWords(unhex(key)), words);
    const { appKey, keyEpoch } = parseKeyWords(words);
    assert.deepEqual([hex(appKey), keyEpoch], [key, 0]);
  }
});

test("every key comes back", () => {
  always(50, (random) => {
    const appKey = random.bytes(32);
    const words = keyWords(appKey);
    assert.equal(words.split(" ").length, WORDS);
    assert.deepEqual(parseKeyWords(words).appKey, appKey);
  });
});

test("capitals, numbers, commas and line breaks are forgiven", () => {
  const words = TEXT.split(" ");
  const written = [
    TEXT.toUpperCase(),
    words.join(", "),
    words.join("\n"),
    words.map((word, at) => `${at + 1}. ${word}`).join("\u00a0\u2014 "),
    `\ufeff  ${words.map((word, at) => `${at + 1}) ${word[0].toUpperCase()}${word.slice(1)}`).join("\r\n")}\n`,
  ];
  for (const text of written) assert.equal(hex(parseKeyWords(text).appKey), KEY, JSON.stringify(text));
});

for (const [name, text] of Object.entries(VECTORS.wrong)) {
  test(`wrong words are refused with a sentence: ${name}`, () => {
    assert.throws(
      () => parseKeyWords(text),
      (/** @type {any} */ error) => error instanceof WrongKeyCode && /^[A-Z].*\.$/.test(error.message),
    );
  });
}

test("the sentence names the word that is unknown", () => {
  const words = TEXT.split(" ");
  const said = (/** @type {number} */ at, /** @type {string} */ word) => () =>
    parseKeyWords(words.with(at, word).join(" "));
  assert.throws(said(6, "abandan"), /^WrongKeyCode: Word 7, 'abandan', is none of .*; perhaps it is 'abandon'\.$/);
  assert.throws(said(23, "xylophone"), /Word 24, 'xylophone', is none of the words that keys are written in\.$/);
  assert.throws(said(0, "café"), /Word 1, 'café'/);
  assert.throws(said(0, "zoo"), /A word is wrong, or two have changed places/);
  assert.throws(() => parseKeyWords(""), /There are no words here/);
  assert.throws(() => parseKeyWords("zoo"), /There is 1 word instead of 24/);
  assert.throws(() => parseKeyWords(`${TEXT} zoo`), /There are 25 words instead of 24/);
});

test("a later key than the first has no words", () => {
  assert.throws(() => keyWords(unhex(KEY), 1), RangeError);
});
