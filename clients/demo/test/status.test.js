/** The badge says what is so, and errors say what to do. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { niceTop, summary } from "../js/chart.js";
import { sentence } from "../js/errors.js";
import { ago, inWords } from "../js/status.js";

test("it says synced only when nothing waits", () => {
  assert.equal(inWords({ phase: "synced", pending: 0 }).text, "Synced");
  assert.equal(inWords({ phase: "synced", pending: 2 }).text, "Sending");
  assert.equal(inWords({ phase: "offline", pending: 2 }).detail, "2 changes waiting");
});

test("every phase has words", () => {
  for (const phase of [
    "off",
    "signed-out",
    "needs-key",
    "offline",
    "connecting",
    "catching-up",
    "sending",
    "synced",
    "alarm",
    "blocked",
  ]) {
    assert.notEqual(inWords({ phase }).text, "Starting", phase);
  }
  assert.equal(inWords(null).text, "Starting");
});

test("what passes in a moment is not read aloud", () => {
  assert.equal(inWords({ phase: "sending", pending: 1 }).idle, false);
  assert.equal(inWords({ phase: "offline" }).idle, true);
});

test("times are told from now", () => {
  const now = new Date(2026, 4, 3, 14, 0).getTime();
  assert.equal(ago(0, now), "never");
  assert.equal(ago(now - 5_000, now), "just now");
  assert.equal(ago((now - 120_000) / 1000, now), "2 minutes ago");
  assert.equal(ago(new Date(2026, 4, 3, 9, 5), now), "today at 09:05");
  assert.equal(ago(new Date(2026, 4, 2, 9, 5), now), "yesterday at 09:05");
  assert.equal(ago(new Date(2026, 3, 2, 9, 5), now), "2 April at 09:05");
});

test("errors say what to do", () => {
  assert.match(sentence({ code: "enrol_failed" }), /ask for a new code/);
  assert.match(sentence({ code: "slow_down", retryAfterS: 600 }), /Wait 10 minutes/);
  assert.match(sentence({ name: "ConnectionError", message: "no" }), /Check the connection/);
  assert.equal(sentence(new Error("the key is too short")), "The key is too short.");
  assert.equal(sentence(undefined), "That did not work. Try again.");
});

test("the chart can be told in a sentence", () => {
  const days = [
    { day: "2026-05-02", words: 400 },
    { day: "2026-05-03", words: 100 },
  ];
  assert.equal(
    summary(days, 300),
    "Words of the last 2 days: 500 in all, the goal reached on 1 day, most on Saturday 2 May with 400.",
  );
  assert.equal(niceTop(0), 10);
  assert.equal(niceTop(512), 600);
  assert.equal(niceTop(1001), 2000);
});
