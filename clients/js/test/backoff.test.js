/**
 * Waiting before the next try: full jitter below a doubling ceiling, and never an end to it.
 */

import assert from "node:assert/strict";
import { test } from "node:test";

import { ASKED_MAX_S, Backoff, CEILING_S, FIRST_S, STABLE_AFTER_S } from "../src/backoff.js";
import { Seeded, always } from "./seeded.js";

const ALMOST_ONE = 1 - 2 ** -53;

/** @param {number} times */
function failed(times) {
  const backoff = new Backoff();
  for (let i = 0; i < times; i++) backoff.lost(0, 0.5);
  return backoff;
}

test("the ceiling doubles from half a second to thirty", () => {
  const backoff = new Backoff();
  const waits = Array.from({ length: 9 }, () => 2 * backoff.lost(0, 0.5));
  assert.deepEqual(waits, [0.5, 1, 2, 4, 8, 16, 30, 30, 30]);
});

test("the wait is the drawn share of the ceiling", () => {
  always(200, (random) => {
    const [failures, draw] = [random.below(13), random.choice([0, ALMOST_ONE, random.random()])];
    const ceiling = Math.min(30, 0.5 * 2 ** failures);
    const wait = failed(failures).lost(0, draw);
    assert.equal(wait, draw * ceiling);
    assert.ok(wait >= 0 && wait < ceiling);
  });
});

test("the smallest draw waits not at all", () => {
  assert.equal(failed(20).lost(0, 0), 0);
});

test("it never gives up", () => {
  const backoff = failed(10_000);
  assert.ok(Math.abs(backoff.lost(0, ALMOST_ONE) - CEILING_S) < 1e-6);
  assert.equal(backoff.lost(1e12, 0.5), CEILING_S / 2);
});

test("it starts over after a connection that stayed for ten seconds", () => {
  for (const stayed of [STABLE_AFTER_S, STABLE_AFTER_S + 0.5, 86_400]) {
    const backoff = failed(20);
    backoff.connected(100);
    assert.equal(backoff.lost(100 + stayed, 0.5), FIRST_S / 2);
    assert.equal(backoff.lost(100 + stayed, 0.5), FIRST_S);
  }
});

test("a connection that is dropped sooner counts as a failure", () => {
  for (const stayed of [0, 1, 9.75]) {
    const backoff = failed(2);
    backoff.connected(100);
    assert.equal(backoff.lost(100 + stayed, 0.5), 1);
    backoff.connected(200);
    assert.equal(backoff.lost(200 + stayed, 0.5), 2);
  }
});

test("time without a connection does not start it over", () => {
  assert.equal(failed(3).lost(1_000_000, 0.5), 2);
});

test("one stable connection starts it over only once", () => {
  const backoff = new Backoff();
  backoff.connected(0);
  assert.deepEqual([10, 20, 30].map((now) => backoff.lost(now, 0.5)), [0.25, 0.5, 1]);
});

test("a new session is measured from its own beginning", () => {
  const backoff = failed(4);
  backoff.connected(0);
  backoff.lost(1, 0.5);
  backoff.connected(8);
  assert.equal(backoff.lost(12, 0.5), 8);
});

test("what the hub asked for is waited and the jitter comes on top", () => {
  always(200, (random) => {
    const [failures, draw, asked] = [random.below(13), random.random(), random.random() * 3_600];
    const wait = failed(failures).lost(0, draw, asked);
    assert.equal(wait, asked + failed(failures).lost(0, draw));
    assert.ok(wait >= asked);
  });
});

test("what the hub asked for is not held against the next try", () => {
  const backoff = new Backoff();
  assert.equal(backoff.lost(0, 0.5, 600), 600.25);
  assert.equal(backoff.lost(0, 0.5), 0.5);
});

test("a negative request shortens nothing", () => {
  assert.equal(new Backoff().lost(0, 0.5, -5), 0.25);
});

test("nobody is sent away for longer than an hour", () => {
  for (const [asked, waited] of [[1e9, ASKED_MAX_S], [Infinity, ASKED_MAX_S], [NaN, 0]]) {
    assert.equal(new Backoff().lost(0, 0.5, asked), waited + 0.25);
  }
});

// --- many devices ----------------------------------------------------------------------------

/**
 * The most of these moments that lie within one window.
 * @param {number[]} times
 * @param {number} windowS
 */
function mostIn(times, windowS) {
  const sorted = times.toSorted((one, other) => one - other);
  let [most, end] = [0, 0];
  sorted.forEach((time, at) => {
    while (end < sorted.length && sorted[end] < time + windowS) end++;
    most = Math.max(most, end - at);
  });
  return most;
}

test("a thousand devices that are cut at once come back spread over the first half second", () => {
  const random = new Seeded(1);
  const waits = Array.from({ length: 1_000 }, () => new Backoff().lost(0, random.random()));
  assert.ok(Math.max(...waits) < FIRST_S);
  assert.ok(mostIn(waits, 0.05) < 150); // a hundred, were it even
  assert.ok(Math.min(...waits) < 0.01);
});

test("a thousand devices that find no hub for a minute come back spread over half a minute", () => {
  const random = new Seeded(2);
  /** @type {number[]} */
  const tries = [];
  for (let n = 0; n < 1_000; n++) {
    const backoff = new Backoff();
    for (let at = 0; at < 60; ) {
      at += backoff.lost(at, random.random());
      tries.push(at);
    }
  }
  const back = tries.filter((at) => at >= 60);
  assert.equal(back.length, 1_000);
  assert.ok(Math.max(...back) < 60 + CEILING_S);
  assert.ok(mostIn(back, 1) < 120); // of a thousand
  assert.ok(mostIn(tries.filter((at) => at >= 10), 1) < 220); // what the hub must bear meanwhile
});

test("a hub that takes a part of those who come has them all soon", () => {
  // Five hundred a second come in, the others are turned away: the last is in before the ceiling is reached twice.
  const random = new Seeded(3);
  const waiting = Array.from({ length: 1_000 }, () => {
    const backoff = new Backoff();
    return { at: backoff.lost(0, random.random()), backoff };
  });
  /** @type {Map<number, number>} */
  const taken = new Map();
  while (waiting.length) {
    const first = waiting.reduce((best, one, n) => (one.at < waiting[best].at ? n : best), 0);
    const { at, backoff } = waiting[first];
    const tenth = Math.floor(at * 10);
    const already = taken.get(tenth) ?? 0;
    if (already < 50) {
      taken.set(tenth, already + 1);
      waiting.splice(first, 1);
    } else {
      waiting[first].at = at + backoff.lost(at, random.random());
    }
  }
  assert.equal([...taken.values()].reduce((sum, n) => sum + n), 1_000);
  assert.ok(Math.max(...taken.keys()) / 10 < 2 * CEILING_S);
});
