/** What happens when one chapter was changed on two devices. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { MANUAL, Merged, MINE, MISSING, THEIRS } from "../../js/src/strategies.js";
import { chapterConflict } from "../js/strategy.js";

const row = (/** @type {object} */ fields = {}) => ({
  id: "a",
  order: 1,
  title: "One",
  text: "First.\n\nSecond.\n\nThird.\n",
  ...fields,
});
const settle = (/** @type {any} */ mine, /** @type {any} */ theirs, /** @type {any} */ base = row()) =>
  /** @type {any} */ (chapterConflict({ key: "a", base, mine, theirs }));

test("changes to different paragraphs are put together", () => {
  const answer = settle(row({ text: "FIRST.\n\nSecond.\n\nThird.\n" }), row({ text: "First.\n\nSecond.\n\nTHIRD.\n" }));
  assert.ok(answer instanceof Merged);
  assert.deepEqual(answer.value, row({ text: "FIRST.\n\nSecond.\n\nTHIRD.\n" }));
});

test("changes to the same paragraph wait for the writer", () => {
  assert.equal(settle(row({ text: "Mine.\n" }), row({ text: "Theirs.\n" })), MANUAL);
});

test("a new title here and new text there are both kept", () => {
  const answer = settle(row({ title: "New" }), row({ text: "Other.\n", order: 5 }));
  assert.deepEqual(answer.value, row({ title: "New", text: "Other.\n", order: 5 }));
});

test("two different titles wait for the writer, two equal ones do not", () => {
  assert.equal(settle(row({ title: "New" }), row({ title: "Newer" })), MANUAL);
  assert.equal(settle(row({ title: "New", order: 2 }), row({ title: "New" })).value.title, "New");
});

test("moved on both devices: the text is untouched, and the place is this device's", () => {
  assert.deepEqual(settle(row({ order: 2 }), row({ order: 3 })).value, row({ order: 2 }));
});

test("an edit beats a deletion", () => {
  assert.equal(settle(MISSING, row()), THEIRS);
  assert.equal(settle(row(), MISSING), MINE);
});

test("two new chapters under one id: both texts are kept for the writer, unless they are equal", () => {
  assert.equal(settle(row({ text: "a" }), row({ text: "b" }), MISSING), MANUAL);
  assert.ok(settle(row({ order: 2 }), row(), MISSING) instanceof Merged);
});
