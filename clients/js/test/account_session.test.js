/** One device's talk with its account, as a machine: frames and the time go in, effects come out. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { AccountSession, DEAD_AFTER_S, LEAVE_WITHIN_S } from "../src/account/session.js";
import { Closed } from "../src/connection.js";
import { AccountChanged, Answered, Hangup, Moved, Send, Sign } from "../src/effects.js";
import { pack } from "../src/msgpack.js";
import { decodeFromDevice, encode } from "../src/wire/codec.js";

const id = (/** @type {number} */ byte) => new Uint8Array(16).fill(byte);
const ME = id(7);
const at = (/** @type {number} */ steady) => ({ steady, wall: 1_700_000_000 + steady });
const READY = {
  type: /** @type {const} */ ("ready"), accountId: id(1), incarnation: id(2), serverTime: 1, heartbeatS: 40,
  scope: /** @type {const} */ ("account"), appId: "a", quotaBytes: 1, usedBytes: 0, spaces: [], probationUntil: 9,
};
const CHALLENGE = /** @type {const} */ ({
  type: "challenge", v: 1, serverNonce: new Uint8Array(32), features: [], limits: {}, signUp: "open",
});

/** What is sent, by its type; other effects by their class. @param {any[]} effects */
function told(effects) {
  return effects
    .filter((effect) => !(effect instanceof Moved))
    .map((effect) => (effect instanceof Send ? decodeFromDevice(effect.frame).type : effect.constructor.name));
}

/** A session whose line has stood since 0.  @param {{ready?: boolean}} [how] */
function session({ ready = true } = {}) {
  const one = new AccountSession({ deviceId: ME, appId: "a", hubUrl: "wss://h/v1/ws" }, (size) => new Uint8Array(size));
  assert.deepEqual(told(one.connected(at(0))), ["hello"]);
  assert.deepEqual(told(one.received(encode(CHALLENGE), at(0))), ["Sign"]);
  assert.deepEqual(told(one.signed(1, new Uint8Array(64))), ["auth"]);
  if (ready) one.received(encode(READY), at(0));
  return one;
}

test("nothing is asked before the hub knows the device", () => {
  assert.equal(session({ ready: false }).mayAsk, false);
  const one = session();
  assert.equal(one.mayAsk, true);
  const [number, effects] = one.request((request) => ({ type: "list_devices", request }));
  assert.deepEqual([number, told(effects)], [1, ["list_devices"]]);
});

test("a signature of a line that is gone is not sent", () => {
  const one = session({ ready: false });
  one.disconnected();
  assert.deepEqual(one.signed(1, new Uint8Array(64)), []);
  one.connected(at(5));
  one.received(encode(CHALLENGE), at(5));
  assert.deepEqual(one.signed(1, new Uint8Array(64)), []);
  assert.deepEqual(told(one.signed(2, new Uint8Array(64))), ["auth"]);
});

test("a silent hub is asked at the pace it told, and given up ten seconds later", () => {
  const one = session();
  assert.equal(one.timer(), 40);
  assert.deepEqual(one.timerFired(at(39.9)), []);
  assert.deepEqual(told(one.timerFired(at(40))), ["ping"]);
  assert.equal(one.timer(), 40 + DEAD_AFTER_S);
});

test("any frame is a sign of life", () => {
  const one = session();
  one.timerFired(at(40));
  assert.deepEqual(told(one.received(encode({ type: "ping" }), at(45))), ["pong"]);
  assert.equal(one.timer(), 85);
  one.timerFired(at(85));
  const [hangup] = one.timerFired(at(95));
  assert.ok(hangup instanceof Hangup && hangup.retry && !hangup.politely);
  assert.equal(one.timer(), null);
  assert.deepEqual(one.received(encode(READY), at(96)), []);
});

test("a hub that does not answer hello is given up after ten seconds", () => {
  const one = session({ ready: false });
  assert.equal(one.timer(), DEAD_AFTER_S);
  assert.deepEqual(told(one.timerFired(at(DEAD_AFTER_S))), ["Hangup"]);
});

test("a hub that goes away is left when it has answered, and asked nothing new", () => {
  const one = session();
  const [number] = one.request((request) => ({ type: "list_devices", request }));
  assert.deepEqual(told(one.received(encode({ type: "going_away", retryAfterS: 3 }), at(1))), []);
  assert.deepEqual([one.mayAsk, one.inSession], [false, true]);
  const effects = one.received(encode({ type: "device_list", request: number, devices: [] }), at(2));
  assert.deepEqual(told(effects), ["Answered", "Hangup"]);
  const hangup = effects.find((effect) => effect instanceof Hangup);
  assert.deepEqual([hangup?.afterS, hangup?.politely, hangup?.retry], [3, true, true]);
  one.disconnected();
  assert.equal(one.failed, false); // it only restarts
});

test("a hub that goes away and never answers is left after ten seconds", () => {
  const one = session();
  one.request((request) => ({ type: "list_devices", request }));
  one.received(encode({ type: "going_away", retryAfterS: 3 }), at(1));
  assert.equal(one.timer(), 1 + LEAVE_WITHIN_S);
  assert.deepEqual(one.timerFired(at(LEAVE_WITHIN_S)), []);
  assert.deepEqual(told(one.timerFired(at(1 + LEAVE_WITHIN_S))), ["Hangup"]);
});

test("answers go to who asked, and those that nobody waits for to nobody", () => {
  const one = session();
  const [first] = one.request((request) => ({ type: "list_devices", request }));
  const [second] = one.request((request) => ({ type: "list_spaces", request }));
  const answers = one.received(encode({ type: "space_list", request: second, spaces: [] }), at(1));
  assert.ok(answers[0] instanceof Answered && answers[0].number === second);
  const refused = { type: /** @type {const} */ ("refused"), request: first, code: "overloaded", message: "m" };
  assert.deepEqual(told(one.received(encode(refused), at(1))), ["Answered"]);
  assert.deepEqual(told(one.received(encode(refused), at(1))), []);
  assert.deepEqual(told(one.received(encode({ ...refused, request: 99 }), at(1))), []);
});

test("a refused auth is come back for when the hub said", () => {
  const one = session({ ready: false });
  const refused = { type: /** @type {const} */ ("refused"), request: 0, code: "overloaded", message: "m", retryAfterS: 4 };
  const [hangup] = one.received(encode(refused), at(1));
  assert.ok(hangup instanceof Hangup && hangup.afterS === 4 && hangup.retry);
});

test("what a later hub says is passed over, and what is no message ends the line", () => {
  const one = session();
  assert.deepEqual(one.received(pack({ type: "of_tomorrow" }), at(1)), []);
  assert.deepEqual(told(one.received(pack({ type: "done" }), at(1))), ["Hangup"]);
});

test("notices change what ready said", () => {
  const one = session();
  const notice = (/** @type {any} */ fields) => one.received(encode({ type: "account_notice", ...fields }), at(1));
  assert.ok(notice({ what: "account_deletion_set", at: 77 })[0] instanceof AccountChanged);
  assert.equal(one.ready?.accountDeletedAt, 77);
  notice({ what: "account_deletion_cancelled" });
  assert.equal(one.ready?.accountDeletedAt, 0);
  notice({ what: "device_approved", deviceId: id(8) });
  assert.equal(one.ready?.probationUntil, 9);
  notice({ what: "device_approved", deviceId: ME });
  assert.equal(one.ready?.probationUntil, 0);
});

test("why the hub ended it and where it moved to outlive the line", () => {
  const one = session();
  one.received(encode({ type: "moved", url: "https://new.test" }), at(1));
  one.disconnected("gone", { closed: new Closed(4506, "") });
  assert.equal(one.movedTo, "wss://new.test/v1/ws");
  assert.equal(one.ended?.code, 4506);
  const next = one.next();
  assert.deepEqual([next.movedTo, next.ended?.code, next.ready], [one.movedTo, 4506, one.ready]);
  for (const url of ["javascript:alert(1)", "http://plain.test", "https://a.test/x"]) {
    const other = session();
    other.received(encode({ type: "moved", url }), at(1));
    assert.equal(other.movedTo, "", url);
  }
});
