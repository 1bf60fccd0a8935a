import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { sentence } from "../js/errors.js";
import { ago, bytes, dayAgo, dayDate, percent, short } from "../js/format.js";
import { useLanguage } from "../js/text.js";

const DAY_S = 86_400;

afterEach(() => useLanguage("en"));

test("bytes have three figures at most, and the next unit at a thousand", () => {
  const seen = [0, 999, 1000, 1024, 102_349, 102_400, 1_048_576, 5_368_709_120].map(bytes);
  assert.deepEqual(seen, ["0 B", "999 B", "1 KiB", "1 KiB", "100 KiB", "100 KiB", "1 MiB", "5 GiB"]);
  useLanguage("de");
  assert.equal(bytes(1_572_864), "1,5 MiB");
});

test("a share is whole, between 0 and 100", () => {
  assert.deepEqual([percent(1, 3), percent(5, 0), percent(7, 5), percent(0, 5)], [33, 0, 100, 0]);
});

test("days are told from today, and by their date when they are long ago", () => {
  const now = 20_000 * DAY_S + 5;
  assert.deepEqual([20_000, 19_999, 19_988].map((day) => dayAgo(day, now)), ["today", "yesterday", "12 days ago"]);
  assert.equal(dayAgo(20_001, now), "today"); // the hub's day may be ahead of this clock
  assert.equal(dayAgo(19_939, now), dayDate(19_939));
});

test("a moment is told in the largest unit that fits, both ways", () => {
  const seen = [-5, -59, -60, -7_200, -3 * DAY_S, 30, 3 * DAY_S].map((away) => ago(1e9 + away, 1e9));
  assert.deepEqual(seen, ["just now", "just now", "1 minute ago", "2 hours ago", "3 days ago", "in 1 minute", "in 3 days"]);
});

test("an id is shown by its start", () => {
  assert.equal(short("0123456789abcdef0123456789abcdef"), "0123 4567");
});

test("what the hub refuses becomes a sentence that says what to do", () => {
  assert.match(sentence({ code: "enrol_failed" }), /ask for a new code/);
  assert.match(sentence({ code: "slow_down", retryAfterS: 600 }), /10 minutes/);
  assert.match(sentence({ code: "slow_down", retryAfterS: 5 }), /a minute/);
  assert.equal(sentence({ code: "bad_request", message: "the plan is too long" }), "The plan is too long.");
  assert.match(sentence({ name: "ConnectionError", message: "x" }), /does not answer/);
  assert.equal(sentence({ code: "of_a_newer_hub", message: "no" }), "No.");
  assert.equal(sentence(null), "That did not work. Try again.");
});
