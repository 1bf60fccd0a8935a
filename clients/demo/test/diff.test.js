/** Comparing and merging texts word by word. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { changes, compare, EDITS_MAX, merge, parts } from "../js/diff.js";

const only = (/** @type {any[]} */ pieces, /** @type {string} */ kind) =>
  pieces.filter((piece) => piece.kind === kind).map((piece) => piece.text);
const side = (/** @type {any[]} */ pieces, /** @type {string} */ kind) =>
  pieces
    .filter((piece) => piece.kind === "same" || piece.kind === kind)
    .map((piece) => piece.text)
    .join("");

test("the parts of a text are the text", () => {
  const text = "“It’s late,” said Ines — the 2nd time.\r\n\n\tNächte; 夜です 👩‍👩‍👧";
  assert.equal(parts(text).join(""), text);
  assert.ok(parts(text).includes("It’s"));
  assert.ok(parts(text).includes(" said"));
});

test("what differs is marked in both texts, by whole words", () => {
  const pieces = compare("The lamps drew short roads.", "The lamps drew long roads.");
  assert.deepEqual(only(pieces, "mine"), [" short"]);
  assert.deepEqual(only(pieces, "theirs"), [" long"]);
});

test("a word stays the same when words are put in before it and after it", () => {
  const pieces = compare("down the steps, singing. Nobody", "running down the wet steps. Nobody");
  assert.deepEqual(
    only(pieces, "mine").map((text) => text.trim()),
    ["down", ", singing"],
  );
  assert.deepEqual(
    only(pieces, "theirs").map((text) => text.trim()),
    ["running down", "wet"],
  );
});

test("changes with nothing but a blank between them are one", () => {
  const pieces = compare("a short, yellow road", "a long, golden road");
  assert.deepEqual(only(pieces, "mine"), [" short, yellow"]);
  assert.deepEqual(only(pieces, "theirs"), [" long, golden"]);
});

test("a new sentence is marked as one sentence", () => {
  assert.deepEqual(
    only(compare("He left. She slept.", "He left. Nobody spoke. She slept."), "theirs").map((text) => text.trim()),
    ["Nobody spoke."],
  );
});

test("both texts can be read off the comparison, whatever they are", () => {
  let seed = 7;
  const random = (/** @type {number} */ below) => (seed = (seed * 48271) % 2147483647) % below;
  const text = () => Array.from({ length: random(30) }, () => ["a", "b", " ", "\n", "c.", "dd "][random(6)]).join("");
  for (let round = 0; round < 500; round++) {
    const [mine, theirs] = [text(), text()];
    const pieces = compare(mine, theirs);
    assert.equal(side(pieces, "mine"), mine);
    assert.equal(side(pieces, "theirs"), theirs);
  }
});

test("equal texts have no difference, and a text has none to itself but from nothing", () => {
  assert.deepEqual(compare("same", "same"), [{ kind: "same", text: "same" }]);
  assert.deepEqual(compare("", "new"), [{ kind: "theirs", text: "new" }]);
  assert.deepEqual(compare("", ""), []);
});

test("texts that have nothing in common are different as a whole, in bounded time", () => {
  const words = (/** @type {string} */ stem) => Array.from({ length: 40_000 }, (_, at) => stem + at).join(" ");
  const [mine, theirs] = [`Once. ${words("x")} End.`, `Once. ${words("y")} End.`];
  const began = performance.now();
  const pieces = compare(mine, theirs);
  assert.ok(performance.now() - began < 5_000);
  assert.equal(only(pieces, "mine").length, 1);
  assert.equal(side(pieces, "mine"), mine);
  assert.ok(parts(mine).length > EDITS_MAX);
});

test("the walk finds the fewest changes", () => {
  const found = changes([..."abcabba"], [..."cbabac"]);
  const edits = found.reduce((sum, one) => sum + one.end - one.at + one.otherEnd - one.otherAt, 0);
  assert.equal(edits, 5);
});

test("changes of different words are merged", () => {
  const merged = merge("One two three four.", "One TWO three four.", "One two three FOUR!");
  assert.deepEqual(merged, { text: "One TWO three FOUR!", clean: true, places: 0 });
});

test("the same change on both sides is made once", () => {
  assert.deepEqual(merge("a b c", "a x c", "a x c"), { text: "a x c", clean: true, places: 0 });
});

test("where both changed the same words both stand, mine first, and the merge is not clean", () => {
  assert.deepEqual(merge("a b c", "a mine c", "a theirs c"), { text: "a mine theirs c", clean: false, places: 1 });
});

test("two sentences at the same end both stand, and read well", () => {
  const base = "She read it.";
  const merged = merge(base, `${base} Then she burned it.`, `${base} Then she folded it.`);
  assert.equal(merged.text, "She read it. Then she burned it. Then she folded it.");
  assert.equal(merged.clean, false);
});

test("other changes nearby do not tear a new sentence apart", () => {
  const base = "The lamps drew short roads.\n\nShe knew it by heart.";
  const mine = "The lamps drew wet roads.\n\nShe knew it by heart. Then she burned it.";
  assert.equal(merge(base, mine, base.replace("lamps", "lights")).text, mine.replace("lamps", "lights"));
});

test("a deletion on one side and a change elsewhere are both made", () => {
  assert.equal(merge("a b c d e f", "a c d e f", "a b c d e F").text, "a c d e F");
});

test("merging is the same from both sides when it is clean, and never invents words", () => {
  let seed = 11;
  const random = (/** @type {number} */ below) => (seed = (seed * 48271) % 2147483647) % below;
  const edited = (/** @type {string[]} */ words) =>
    words.flatMap((word) => [[word], [word], [word], [word], [word], [], [`${word}!`], [word, "new"]][random(8)]);
  for (let round = 0; round < 500; round++) {
    const base = Array.from({ length: 12 }, (_, at) => `w${at}`);
    const [root, mine, theirs] = [base, edited(base), edited(base)].map((words) => words.join(" "));
    const [one, other] = [merge(root, mine, theirs), merge(root, theirs, mine)];
    assert.equal(one.clean, other.clean);
    if (one.clean) assert.equal(one.text, other.text);
    const known = new Set([root, mine, theirs].flatMap(parts).map((part) => part.trim()));
    assert.ok(parts(one.text).every((part) => known.has(part.trim())));
    assert.equal(merge(root, mine, root).text, mine);
    assert.equal(merge(root, root, theirs).text, theirs);
  }
});

test("of several places where the same words could have been put in, it is always the last", () => {
  let seed = 3;
  const random = (/** @type {number} */ below) => (seed = (seed * 48271) % 2147483647) % below;
  const words = () => Array.from({ length: 3 + random(12) }, () => ["the", "sea", "was", "calm", "."][random(5)]);
  for (let round = 0; round < 500; round++) {
    const [one, other] = [words(), words()];
    const found = changes(one, other);
    found.forEach((change, place) => {
      if (change.at !== change.end || change.end >= (found[place + 1]?.at ?? one.length)) return;
      assert.notEqual(other[change.otherAt], other[change.otherEnd], JSON.stringify([one, other]));
    });
  }
});
