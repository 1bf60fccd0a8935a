/**
 * The app key as 24 words, for those who write by hand: BIP-39's English list, with its checksum.
 *
 * The same key as the key code carries, said differently; either brings it back.  Reading forgives capitals, numbers
 * before the words and whatever stands between them, and says in a sentence what is wrong.  The list is large: import
 * this room only when words are asked for.
 */

import { entropyToMnemonic, mnemonicToEntropy } from "@scure/bip39";
import { wordlist } from "@scure/bip39/wordlists/english.js";

import { assert } from "./errors.js";
import { WrongKeyCode } from "./keycode.js";
import { APP_KEY_BYTES } from "./keys.js";

export const WORDS = 24;

const KNOWN = new Set(wordlist);
const TELLING_LETTERS = 4; // no two words of the list begin with the same four

/**
 * The 24 words, lower case with single spaces, that `parseKeyWords` reads back.
 *
 * Words have no room for a key_epoch, so there are none for a later key than the first: RangeError.
 *
 * @param {Uint8Array} appKey
 * @param {number} [keyEpoch]
 * @returns {string}
 */
export function keyWords(appKey, keyEpoch = 0) {
  assert(appKey.length === APP_KEY_BYTES, "an app key has 32 bytes");
  if (keyEpoch !== 0) throw new RangeError("only the first key of a space can be written as words; use its key code");
  return entropyToMnemonic(appKey, wordlist);
}

/**
 * The app key, and its key_epoch, which is 0.  Throws `WrongKeyCode`.
 *
 * @param {string} text
 * @returns {{ appKey: Uint8Array, keyEpoch: number }}
 */
export function parseKeyWords(text) {
  const words = text.normalize("NFKD").toLowerCase().match(/\p{Letter}[\p{Letter}\p{Mark}]*/gu) ?? [];
  if (!words.length) throw new WrongKeyCode("There are no words here.");
  words.forEach(mustBeKnown);
  if (words.length !== WORDS) {
    const counted = words.length === 1 ? "is 1 word" : `are ${words.length} words`;
    throw new WrongKeyCode(`There ${counted} instead of ${WORDS}.`);
  }
  return { appKey: checked(words), keyEpoch: 0 };
}

/** @param {string} word @param {number} at */
function mustBeKnown(word, at) {
  if (KNOWN.has(word)) return;
  const start = word.slice(0, TELLING_LETTERS);
  const near = wordlist.find((other) => other.slice(0, TELLING_LETTERS) === start);
  const hint = near ? `; perhaps it is '${near}'` : "";
  const named = `Word ${at + 1}, '${word.normalize("NFC")}'`;
  throw new WrongKeyCode(`${named}, is none of the words that keys are written in${hint}.`);
}

/** @param {string[]} words */
function checked(words) {
  try {
    return mnemonicToEntropy(words.join(" "), wordlist);
  } catch {
    throw new WrongKeyCode("A word is wrong, or two have changed places; please compare them with the original.");
  }
}
