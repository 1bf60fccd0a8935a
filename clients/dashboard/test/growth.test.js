import assert from "node:assert/strict";
import { test } from "node:test";

import { daily, moves, paths } from "../js/growth.js";

const growth = (...pairs) => pairs.map(([day, usedBytes]) => ({ day, usedBytes }));

test("a day on which nothing moved is as the day before, and today is as it is now", () => {
  const points = daily(growth([100, 10], [103, 30]), { today: 105, now: 50 });
  assert.deepEqual(points.map(({ day }) => day), [100, 101, 102, 103, 104, 105]);
  assert.deepEqual(points.map(({ bytes }) => bytes), [10, 10, 10, 30, 30, 50]);
});

test("what was before the first day shown is where the line begins", () => {
  const points = daily(growth([1, 10], [50, 20]), { today: 52, now: 20, length: 4 });
  assert.deepEqual(points.map(({ bytes }) => bytes), [10, 20, 20, 20]);
});

test("a space without a past has two points", () => {
  assert.deepEqual(daily([], { today: 7, now: 5 }), [{ day: 6, bytes: 0 }, { day: 7, bytes: 5 }]);
  assert.equal(daily(growth([7, 5]), { today: 7, now: 5 }).length, 2);
});

test("the line fills its box, also when nothing is stored", () => {
  const points = daily(growth([6, 5]), { today: 7, now: 10 });
  assert.equal(paths(points, 100, 40).line, "M0 20L100 0");
  assert.equal(paths(points, 100, 40).area, "M0 20L100 0L100 40L0 40z");
  assert.equal(paths(daily([], { today: 7, now: 0 }), 100, 40).line, "M0 40L100 40");
});

test("the table has the days on which something moved, newest first", () => {
  const points = daily(growth([100, 10], [103, 30]), { today: 105, now: 30 });
  assert.deepEqual(moves(points).map(({ day }) => day), [103, 100]);
  assert.deepEqual(moves(points, 1).map(({ day }) => day), [103]);
});
