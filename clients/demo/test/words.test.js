/** Counting words and days. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { addDays, countWords, dayOf, lastDays, longestStreak, plural, streak } from "../js/words.js";

test("words are counted as a reader would", () => {
  assert.equal(countWords(""), 0);
  assert.equal(countWords("  \n "), 0);
  assert.equal(countWords("It’s a well-known fact: 2 boats."), 6);
  assert.equal(countWords("## Heading\n\n- *one*\n- **two**"), 3);
  assert.equal(countWords("夜です"), 3);
  assert.equal(countWords("Nächte über Łódź"), 3);
});

test("one word is not words", () => {
  assert.equal(plural(1), "1 word");
  assert.equal(plural(1240), "1,240 words");
  assert.equal(plural(2, "boy"), "2 boys");
});

test("a day is the writer's own, and clock changes skip none", () => {
  assert.equal(dayOf(new Date(2026, 4, 3, 23, 59)), "2026-05-03");
  assert.equal(addDays("2026-03-29", 1), "2026-03-30");
  assert.equal(addDays("2026-03-01", -1), "2026-02-28");
  let day = "2025-12-31";
  for (let count = 0; count < 365; count++) day = addDays(day, 1);
  assert.equal(day, "2026-12-31");
});

const days = (/** @type {Record<string, number>} */ words) => new Map(Object.entries(words));

test("days in a row that reached the goal are counted up to today", () => {
  const words = days({ "2026-05-01": 300, "2026-05-02": 300, "2026-05-03": 310 });
  assert.equal(streak(words, "2026-05-03", 300), 3);
});

test("today does not break the row while it is not over", () => {
  const words = days({ "2026-05-01": 300, "2026-05-02": 300, "2026-05-03": 10 });
  assert.equal(streak(words, "2026-05-03", 300), 2);
  assert.equal(streak(words, "2026-05-04", 300), 0);
});

test("without a goal any word counts, and less than none does not", () => {
  assert.equal(streak(days({ "2026-05-02": -5, "2026-05-03": 1 }), "2026-05-03", 0), 1);
});

test("the longest row is found wherever it was", () => {
  const words = days({ "2026-02-27": 5, "2026-02-28": 5, "2026-03-01": 5, "2026-03-03": 5, "2026-03-04": 1 });
  assert.equal(longestStreak(words, 5), 3);
  assert.equal(longestStreak(new Map(), 5), 0);
});

test("the last days are all there, oldest first, and none is below nothing", () => {
  const found = lastDays(days({ "2026-05-02": -20, "2026-05-03": 7 }), "2026-05-03", 3);
  assert.deepEqual(found, [
    { day: "2026-05-01", words: 0 },
    { day: "2026-05-02", words: 0 },
    { day: "2026-05-03", words: 7 },
  ]);
});
