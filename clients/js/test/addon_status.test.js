/** The status of the add-on: one value from what the leader reports and what a tab sees by itself. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Observable, StatusBoard } from "../src/dexie/status.js";

/** @param {any} [more] */
function report(more) {
  const progress = { done: 0, remaining: 0 };
  const none = { unsynced: 0, oldestAt: 0, lastAppendedAt: 0, headSeenAt: 0, alarms: [], error: "", movedTo: "", wiped: false };
  return { phase: "synced", progress, deviceId: "", ...none, ...more };
}

/** A board and what it told. */
function watched() {
  const clock = { now: 1_000 };
  const board = new StatusBoard(() => clock.now);
  /** @type {any[]} */
  const told = [];
  board.subscribe((status) => told.push(status));
  return { board, clock, told };
}

test("whoever subscribes is told at once and until it is enough", () => {
  const store = new Observable(1);
  /** @type {number[]} */
  const seen = [];
  const [end, other] = [store.subscribe((n) => seen.push(n)), store.subscribe((n) => seen.push(10 * n))];
  store._set(2);
  end();
  end();
  store._set(3);
  other();
  assert.deepEqual(seen, [1, 10, 2, 20, 30]);
  assert.equal(store.value, 3);
});

test("a watcher that throws keeps nothing from the others", (t) => {
  const reported = t.mock.method(console, "error", () => undefined);
  const store = new Observable(1);
  store.subscribe(() => {
    throw new Error("of the app");
  });
  /** @type {number[]} */
  const seen = [];
  store.subscribe((n) => seen.push(n));
  store._set(2);
  assert.deepEqual(seen, [1, 2]);
  assert.equal(reported.mock.callCount(), 2);
});

test("what waits in the database and in the engine counts together and the oldest of both is the age", () => {
  const { board, clock } = watched();
  board.hear(report({ phase: "sending", unsynced: 2, oldestAt: 940 }));
  assert.deepEqual([board.value.pending, board.value.oldestPendingAgeS], [2, 60]);
  board.see({ edits: 3, oldestEditAt: 900 });
  assert.deepEqual([board.value.pending, board.value.oldestPendingAgeS], [5, 100]);
  clock.now += 7;
  assert.equal(board.value.oldestPendingAgeS, 107);
  board.see({ edits: 0, oldestEditAt: 0 });
  board.hear(report());
  assert.deepEqual([board.value.pending, board.value.oldestPendingAgeS], [0, 0]);
});

test("what this tab still sees waiting is not synced whatever the leader says", () => {
  const { board } = watched();
  board.hear(report());
  assert.equal(board.value.phase, "synced");
  board.see({ edits: 1, oldestEditAt: 1 });
  assert.equal(board.value.phase, "sending");
  board.hear(report({ phase: "offline" }));
  assert.equal(board.value.phase, "offline");
});

test("watchers are told when it looks different and not when nothing has changed", () => {
  const { board, clock, told } = watched();
  board.hear(report());
  const { length } = told;
  board.hear(report());
  board.look();
  clock.now += 100; // nothing waits, so no age grows
  board.look();
  assert.equal(told.length, length);
  board.see({ edits: 1, oldestEditAt: clock.now });
  clock.now += 0.5;
  board.look();
  assert.equal(told.length, length + 1);
  clock.now += 1;
  board.look();
  assert.equal(told.length, length + 2);
});

test("the leader's own error goes before what a tab thinks of it", () => {
  const { board } = watched();
  board.see({ error: "edits have waited" });
  assert.equal(board.value.error, "edits have waited");
  board.hear(report({ error: "the account is full" }));
  assert.equal(board.value.error, "the account is full");
});

test("when the database is closed nothing is known any more", () => {
  const { board } = watched();
  board.hear(report({ unsynced: 1, deviceId: "ab" }));
  board.see({ leads: true, edits: 1, oldestEditAt: 1, conflicts: 1, error: "x" });
  board.forget();
  const { phase, leader, pending, conflicts, error } = board.value;
  assert.deepEqual([phase, leader, pending, conflicts, error], ["connecting", false, 0, 0, ""]);
  assert.ok(!board.told && board.report.deviceId === "");
});
