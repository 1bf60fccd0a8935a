/**
 * The sync check: every rule by a named example, every lie by its named alarm.
 */

import assert from "node:assert/strict";
import { test } from "node:test";

import { concat, hex, u32, u64, unhex, utf8 } from "../src/bytes.js";
import {
  ALARMS, CheckFailed, MemoryLiveSet, RING_POINTS, SyncCheck, WITNESS_DEVICES_MAX, addTerm, emptyState, packState,
  subtractTerm, term, unpackState,
} from "../src/check.js";
import { SpaceKeys } from "../src/keys.js";
import { openSealed, seal } from "../src/sealing.js";
import { Kind, LIMITS, ZERO_ID } from "../src/terms.js";
import { FLAG_PADDED, Header, SUITE, VERSION } from "../src/wire/header.js";
import { LyingHub, ModelDevice } from "./model_hub.js";
import { Seeded, always } from "./seeded.js";
import { vectors } from "./vectors.js";

/** @typedef {[number, Header]} Entry */

const KEYS = await SpaceKeys.derive(Uint8Array.from({ length: 32 }, (_, n) => n));
const STRANGERS = await SpaceKeys.derive(new Uint8Array(32).fill(9));
const CID = KEYS.collectionId("notes");
const [ME, ANNA, BERT] = [1, 2, 3].map((n) => new Uint8Array(16).fill(n));
const LIFE = new Uint8Array(16).fill(0x4c);
const OTHER_LIFE = new Uint8Array(16).fill(0x4d);
const CHANGE_ID = new Uint8Array(16).fill(0x77);
const NONCE = new Uint8Array(24).fill(0x6e);
const OTHER_DIGEST = new Uint8Array(32).fill(0x78);
/** @type {number[]} */
const ABOUT_ALL = [Kind.PURGE, Kind.WIPE, Kind.WITNESS];

/** @param {{ by?: Uint8Array, counter?: number, kind?: number, record?: string, upto?: number }} [facts] */
function header({ by = ANNA, counter = 1, kind = Kind.PUT, record = "r", upto = 0 } = {}) {
  return new Header({
    version: VERSION, suite: SUITE, kind, flags: FLAG_PADDED, keyEpoch: 0, spaceId: KEYS.spaceId, collectionId: CID,
    recordId: ABOUT_ALL.includes(kind) ? ZERO_ID : KEYS.recordId(CID, record),
    changeId: concat(by.slice(0, 8), u64(counter)), deviceId: by, counter, base: concat(u64(0), u64(upto)),
  });
}

/** @param {Header[]} headers @returns {Entry[]} */
const numbered = (headers, from = 1) => headers.map((one, n) => [from + n, one]);

/** A check in its first life that has taken these over as seqs 1, 2, 3 ... in one frame. @param {...Header} headers */
function checking(...headers) {
  const check = new SyncCheck(KEYS, CID, ME, emptyState(), new MemoryLiveSet());
  check.newLife(LIFE);
  if (headers.length) check.page(0, headers.length, headers.length, numbered(headers));
  return check;
}

/**
 * A witness of `by` who agrees with `check`, but for the given facts.
 * @param {number} seq
 * @param {SyncCheck | null} [check]
 * @param {{ by?: Uint8Array, number?: number, digest?: Uint8Array, nLive?: number, life?: Uint8Array, kind?: number,
 *   counters?: [Uint8Array, number][] }} [facts]
 */
function witness(seq, check = null, facts = {}) {
  const { digest, nLive } = check ? check.state : emptyState();
  const said = { by: ANNA, number: 1, digest, nLive, life: LIFE, kind: Kind.WITNESS, counters: [], ...facts };
  const counters = said.counters.flatMap(([deviceId, last]) => [deviceId, u64(last)]);
  const plaintext = concat(u64(seq), said.digest, u32(said.nLive), ...counters, u64(0));
  return seal(KEYS, {
    kind: said.kind, flagsConditional: false, collectionId: CID, recordId: ZERO_ID, changeId: CHANGE_ID,
    deviceId: said.by, counter: said.number, base: said.life, plaintext, nonce: NONCE,
  });
}

/** The name of the alarm that the call raises. @param {() => unknown} call */
function alarmOf(call) {
  try {
    call();
  } catch (error) {
    if (error instanceof CheckFailed) return error.alarm.name;
    throw error;
  }
  return assert.fail("no alarm was raised");
}

/** @param {SyncCheck} check @param {number} seq @param {Header} one @param {number} [head] */
const next = (check, seq, one, head = seq) => check.page(check.state.seq, seq, head, [[seq, one]]);

/** @param {...[Header, number]} changes */
function sumOf(...changes) {
  const total = changes.reduce((sum, [{ recordId, changeId }, seq]) => {
    return sum + BigInt(`0x${hex(term(KEYS.setKey, CID, recordId, changeId, seq))}`);
  }, 0n);
  return unhex((total % 2n ** 256n).toString(16).padStart(64, "0"));
}

/** @param {SyncCheck} check */
const seen = (check) => Object.fromEntries(check.state.counters);

// --- the vectors -----------------------------------------------------------------------------

test("the digest is that of the vectors", () => {
  const { digest: vector, space } = vectors("crypto");
  const [setKey, place] = [unhex(space[0].set_key), [unhex(vector.collection_id), unhex(vector.record_id)]];
  const [collectionId, recordId] = place;
  const first = term(setKey, collectionId, recordId, unhex(vector.change_id), vector.seq);
  assert.equal(hex(first), vector.term);
  addTerm(first, term(setKey, collectionId, recordId, unhex(vector.second_change_id), vector.second_seq));
  assert.equal(hex(first), vector.sum);
});

test("the witness is that of the vectors and is read as what it says", () => {
  const { witness: vector } = vectors("crypto");
  const [incarnation, digest] = [unhex(vector.incarnation), unhex(vector.digest)];
  const counters = new Map(vector.counters.map((/** @type {any} */ [id, last]) => [id, { last, strict: true }]));
  const { seq, n_live: nLive } = vector;
  const state = emptyState({ incarnation, seq, reached: seq, digest, nLive, counters });
  const check = new SyncCheck(KEYS, unhex(vector.collection_id), unhex(vector.device_id), state, new MemoryLiveSet());
  const sealed = check.makeWitness(vector.counter, unhex(vector.change_id), unhex(vector.nonce), vector.at_ms);
  assert.equal(hex(sealed ?? new Uint8Array(0)), vector.sealed);
  assert.deepEqual(check._openWitness(unhex(vector.sealed)).statement, {
    seq, digest, nLive, counters: new Map(vector.counters), atMs: vector.at_ms, told: 0,
  });
});

test("terms are added and taken away modulo 2 to the 256", () => {
  always(200, (random) => {
    const [digest, added] = [random.bytes(32), random.choice([random.bytes(32), new Uint8Array(32).fill(255)])];
    const [before, sum] = [digest.slice(), BigInt(`0x${hex(digest)}`) + BigInt(`0x${hex(added)}`)];
    addTerm(digest, added);
    assert.equal(BigInt(`0x${hex(digest)}`), sum % 2n ** 256n);
    subtractTerm(digest, added);
    assert.deepEqual(digest, before);
  });
});

// --- frames ----------------------------------------------------------------------------------

test("a frame moves the state to its upto", () => {
  const { state } = checking(header({ counter: 1 }), header({ counter: 2 }));
  assert.deepEqual([state.seq, state.exact, state.whole], [2, true, true]);
});

test("a frame that begins further on is a gap", () => {
  assert.equal(alarmOf(() => checking(header()).page(2, 3, 3, [[3, header({ counter: 2 })]])), "gap");
});

test("a frame that begins further back is a replay", () => {
  assert.equal(alarmOf(() => checking(header()).page(0, 1, 1, [[1, header()]])), "replay");
  assert.equal(alarmOf(() => checking(header()).page(0, 1, 1, [])), "replay");
});

test("seqs that do not rise are a replay", () => {
  for (const [one, other] of [[2, 2], [3, 2], [1, 2]]) {
    /** @type {Entry[]} */
    const entries = [[one, header({ counter: 2 })], [other, header({ counter: 3 })]];
    assert.equal(alarmOf(() => checking(header()).page(1, 3, 3, entries)), "replay");
  }
});

test("a seq beyond the frame is a gap", () => {
  assert.equal(alarmOf(() => checking().page(0, 1, 9, [[2, header()]])), "gap");
});

test("a head below the frame is a rollback", () => {
  assert.equal(alarmOf(() => checking().page(0, 1, 0, [[1, header()]])), "rollback");
});

test("a head below what was held is a rollback and an equal one is not", () => {
  const check = checking(header({ counter: 1 }), header({ counter: 2 }));
  check.headSeen(2);
  assert.equal(alarmOf(() => check.headSeen(1)), "rollback");
});

test("a frame at the head without the newest change is an omission", () => {
  assert.equal(alarmOf(() => checking(header()).page(1, 3, 3, [[2, header({ counter: 2 })]])), "omission");
  assert.equal(alarmOf(() => checking(header()).page(1, 3, 3, [])), "omission");
});

test("an empty frame at the place reached is fine", () => {
  const check = checking(header());
  check.page(1, 1, 1, []);
  assert.ok(check.state.exact);
});

test("a witness in the log is forged", () => {
  const check = checking();
  assert.equal(alarmOf(() => next(check, 1, header({ kind: Kind.WITNESS }))), "forged");
  assert.equal(check.state.alarms[0].detail, "a witness has no place in the log");
});

// --- counters --------------------------------------------------------------------------------

test("a counter that does not rise is a replay", () => {
  for (const counter of [1, 2]) {
    const check = checking(header({ counter: 1 }), header({ counter: 2 }));
    assert.equal(alarmOf(() => next(check, 3, header({ counter }))), "replay");
  }
});

test("a counter that jumps where nothing is missing is a gap", () => {
  assert.equal(alarmOf(() => next(checking(header()), 2, header({ counter: 3 }))), "gap");
});

test("a counter may jump where seqs are missing", () => {
  const check = checking(header());
  next(check, 3, header({ counter: 3 }));
  assert.deepEqual(check.state.counters.get(hex(ANNA)), { last: 3, strict: false });
});

test("after a hole a counter may jump once more and is strict from there", () => {
  const check = checking(header());
  next(check, 3, header({ counter: 2 }));
  next(check, 4, header({ counter: 5 }));
  assert.equal(alarmOf(() => next(check, 5, header({ counter: 7 }))), "gap");
});

test("a hole loosens the counters of all devices", () => {
  const check = checking(header({ by: ANNA }), header({ by: BERT }));
  next(check, 4, header({ by: ANNA, counter: 2 }));
  const loose = { [hex(ANNA)]: { last: 2, strict: false }, [hex(BERT)]: { last: 1, strict: false } };
  assert.deepEqual(seen(check), loose);
});

test("a replay is seen across a hole", () => {
  const check = checking(header({ counter: 1 }), header({ counter: 2 }));
  assert.equal(alarmOf(() => next(check, 9, header({ counter: 2 }))), "replay");
});

test("an unknown device begins at 1 when everything was seen", () => {
  assert.equal(alarmOf(() => next(checking(header()), 2, header({ by: BERT, counter: 2 }))), "gap");
});

test("an unknown device may begin anywhere when something was not seen", () => {
  const check = checking();
  next(check, 2, header());
  next(check, 3, header({ by: BERT, counter: 8 }));
  assert.deepEqual(check.state.counters.get(hex(BERT)), { last: 8, strict: true });
});

// --- the live set and the digest -------------------------------------------------------------

test("the digest is the sum over the live changes", () => {
  const [one, two] = [header({ counter: 1, record: "a" }), header({ counter: 2, record: "b" })];
  const { state } = checking(one, two);
  assert.deepEqual(state.digest, sumOf([one, 1], [two, 2]));
  assert.equal(state.nLive, 2);
});

test("a put replaces a put and its deltas", () => {
  const last = header({ counter: 3 });
  const { state } = checking(header({ counter: 1 }), header({ counter: 2, kind: Kind.DELTA }), last);
  assert.deepEqual([state.digest, state.nLive], [sumOf([last, 3]), 1]);
});

test("a delta adds and replaces nothing", () => {
  const [put, delta] = [header({ counter: 1 }), header({ counter: 2, kind: Kind.DELTA })];
  const check = checking(put, delta);
  assert.deepEqual(check.state.digest, sumOf([put, 1], [delta, 2]));
  assert.deepEqual(check._live.get(put.recordId), [
    { changeId: put.changeId, seq: 1, kind: Kind.PUT }, { changeId: delta.changeId, seq: 2, kind: Kind.DELTA },
  ]);
});

test("a tombstone is live", () => {
  const tombstone = header({ counter: 2, kind: Kind.DELETE });
  assert.deepEqual(checking(header(), tombstone).state.digest, sumOf([tombstone, 2]));
});

test("a keyring replaces a keyring alone", () => {
  const [put, ring] = [header({ counter: 1 }), header({ counter: 3, kind: Kind.KEYRING })];
  const { state } = checking(put, header({ counter: 2, kind: Kind.KEYRING }), ring);
  assert.deepEqual(state.digest, sumOf([put, 1], [ring, 3]));
});

test("a put leaves a keyring live", () => {
  const [ring, put] = [header({ counter: 1, kind: Kind.KEYRING }), header({ counter: 2 })];
  assert.deepEqual(checking(ring, put).state.digest, sumOf([ring, 1], [put, 2]));
});

test("a purge drops tombstones up to its seq and nothing else", () => {
  const [stays, put] = [header({ counter: 2, kind: Kind.DELETE, record: "b" }), header({ counter: 3, record: "c" })];
  const purge = header({ counter: 4, kind: Kind.PURGE, upto: 1 });
  const { state } = checking(header({ counter: 1, kind: Kind.DELETE, record: "a" }), stays, put, purge);
  assert.deepEqual([state.digest, state.nLive], [sumOf([stays, 2], [put, 3]), 2]);
});

test("a purge drops tombstones of earlier pages too", () => {
  const check = checking(header({ counter: 1, kind: Kind.DELETE }));
  next(check, 2, header({ counter: 2, kind: Kind.PURGE, upto: 1 }));
  assert.deepEqual([check.state.nLive, check._live.count()], [0, 0]);
});

test("a purge leaves a tombstone that was replaced before it in the same frame", () => {
  const check = checking(header({ kind: Kind.DELETE }));
  const put = header({ counter: 2 });
  check.page(1, 3, 3, numbered([put, header({ counter: 3, kind: Kind.PURGE, upto: 1 })], 2));
  assert.deepEqual(check.state.digest, sumOf([put, 2]));
});

test("a purge leaves a tombstone that comes after it", () => {
  const tombstone = header({ counter: 2, kind: Kind.DELETE });
  const { state } = checking(header({ kind: Kind.PURGE, upto: 9 }), tombstone);
  assert.deepEqual(state.digest, sumOf([tombstone, 2]));
});

test("a wipe empties the live set", () => {
  const check = checking(header({ counter: 1 }));
  next(check, 2, header({ counter: 2, kind: Kind.WIPE }));
  const { digest, nLive } = check.state;
  assert.deepEqual([digest, nLive, check._live.count()], [new Uint8Array(32), 0, 0]);
});

test("changes after a wipe in the same frame are live", () => {
  const put = header({ counter: 3 });
  const check = checking(header(), header({ counter: 2, kind: Kind.WIPE }), put);
  assert.deepEqual(check.state.digest, sumOf([put, 3]));
  assert.equal(check._live.count(), 1);
});

test("a change after a wipe replaces nothing of a page before", () => {
  const [check, put] = [checking(header()), header({ counter: 3 })];
  check.page(1, 3, 3, numbered([header({ counter: 2, kind: Kind.WIPE }), put], 2));
  assert.deepEqual([check.state.digest, check.state.nLive], [sumOf([put, 3]), 1]);
});

// --- exactness -------------------------------------------------------------------------------

/** @param {SyncCheck} check */
const ringSeqs = (check) => check.state.ring.map((point) => point.seq);

test("a frame with a hole that ends before the head is not exact", () => {
  const check = checking();
  next(check, 2, header(), 3);
  assert.ok(!check.state.exact && !check.state.ring.length);
});

test("a frame that reaches the head is exact again", () => {
  const check = checking();
  next(check, 2, header(), 4);
  next(check, 4, header({ counter: 2 }));
  assert.deepEqual(ringSeqs(check), [4]);
});

test("without a hole every seq is exact", () => {
  const check = checking(header({ counter: 1 }), header({ counter: 2 }));
  next(check, 3, header({ counter: 3 }), 9);
  assert.deepEqual(ringSeqs(check), [1, 2, 3]);
});

test("a contiguous frame does not make an inexact state exact", () => {
  const check = checking();
  next(check, 2, header(), 9);
  next(check, 3, header({ counter: 2 }), 9);
  assert.ok(!check.state.exact);
});

test("the ring keeps the last points only", () => {
  const check = checking(...Array.from({ length: RING_POINTS + 1 }, (_, n) => header({ counter: n + 1 })));
  assert.deepEqual([ringSeqs(check)[0], check.state.ring.length], [2, RING_POINTS]);
});

// --- purges that were missed -----------------------------------------------------------------

/** A device that slept while a record it holds was deleted and the tombstone purged. */
function behindAPurge() {
  const check = checking(header({ record: "gone" }), header({ counter: 2, record: "kept" }));
  next(check, 4, header({ counter: 4, kind: Kind.PURGE, upto: 3 }));
  return check;
}

/** @param {SyncCheck} check */
const made = (check) => check.makeWitness(1, CHANGE_ID, NONCE, 0);

test("a purge behind a hole makes the device start over", () => {
  const { state } = behindAPurge();
  assert.ok(state.mustStartOver && !state.exact);
});

test("until it starts over it states nothing and compares no digest", () => {
  const check = behindAPurge();
  assert.equal(made(check), null);
  next(check, 5, header({ counter: 5 }));
  check.witnessSeen(witness(5, null, { digest: OTHER_DIGEST }));
  assert.ok(!check.state.exact);
});

test("starting over reads the live set and is exact", () => {
  const [check, kept] = [behindAPurge(), header({ counter: 2, record: "kept" })];
  check.startOver();
  check.page(0, 4, 4, [[2, kept], [4, header({ counter: 4, kind: Kind.PURGE, upto: 3 })]]);
  assert.ok(check.state.exact && !check.state.mustStartOver);
  assert.deepEqual(check.state.digest, sumOf([kept, 2]));
});

test("starting over does not forget how high the head was", () => {
  const check = behindAPurge();
  check.startOver();
  assert.equal(alarmOf(() => check.page(0, 3, 3, [[3, header()]])), "rollback");
});

test("while it reads once more it states nothing below what it reached", () => {
  const check = behindAPurge();
  check.startOver();
  next(check, 1, header({ record: "gone" }), 4);
  assert.ok(check.state.exact);
  assert.equal(made(check), null);
});

test("a purge that was there when a cold reading began is harmless", () => {
  const check = checking();
  next(check, 2, header(), 6);
  check.page(2, 6, 6, [[5, header({ counter: 3, kind: Kind.PURGE, upto: 4 })], [6, header({ counter: 4 })]]);
  assert.ok(check.state.exact);
});

test("a purge that came during a cold reading is not", () => {
  const check = checking();
  next(check, 2, header(), 4);
  next(check, 6, header({ counter: 5, kind: Kind.PURGE, upto: 5 }));
  assert.ok(check.state.mustStartOver);
});

test("an empty collection is the beginning of a reading too", () => {
  const check = checking();
  check.page(0, 0, 0, []);
  check.page(0, 3, 3, [[1, header()], [3, header({ counter: 3, kind: Kind.PURGE, upto: 2 })]]);
  assert.ok(check.state.mustStartOver);
});

test("a purge without a hole is harmless", () => {
  const check = checking(header({ kind: Kind.DELETE }));
  next(check, 2, header({ counter: 2, kind: Kind.PURGE, upto: 1 }));
  assert.ok(check.state.exact && !check.state.mustStartOver);
});

test("a wipe makes starting over needless", () => {
  const check = behindAPurge();
  next(check, 5, header({ counter: 5, kind: Kind.WIPE }));
  assert.ok(check.state.exact && !check.state.mustStartOver);
});

// --- witnesses -------------------------------------------------------------------------------

test("an agreeing witness passes and is remembered", () => {
  const check = checking(header());
  check.witnessSeen(witness(1, check, { number: 4, counters: [[ANNA, 1]] }), 0);
  assert.deepEqual(check.state.witnesses, new Map([[hex(ANNA), { counter: 4, seq: 1 }]]));
  assert.equal(check.state.pending.size, 0);
});

test("another digest at the same seq is a mismatch", () => {
  const check = checking(header());
  assert.equal(alarmOf(() => check.witnessSeen(witness(1, check, { digest: OTHER_DIGEST }))), "digest_mismatch");
});

test("another number of live changes at the same seq is a mismatch", () => {
  const check = checking(header());
  assert.equal(alarmOf(() => check.witnessSeen(witness(1, check, { nLive: 2 }))), "digest_mismatch");
});

test("a witness is compared at every seq of an exact stretch", () => {
  const check = checking(header({ counter: 1 }), header({ counter: 2 }), header({ counter: 3 }));
  assert.equal(alarmOf(() => check.witnessSeen(witness(2, check))), "digest_mismatch");
});

test("a witness of a seq that was not exact here is not compared", () => {
  const check = checking();
  check.page(0, 3, 3, [[1, header()], [3, header({ counter: 3 })]]);
  check.witnessSeen(witness(2, null, { digest: OTHER_DIGEST }));
  assert.equal(check.state.witnesses.get(hex(ANNA))?.seq, 2);
});

test("a witness ahead waits and is compared on arrival", () => {
  const check = checking(header());
  check.witnessSeen(witness(2, null, { digest: OTHER_DIGEST }));
  assert.equal(alarmOf(() => next(check, 2, header({ counter: 2 }))), "digest_mismatch");
});

test("a witness ahead that agrees is settled on arrival", () => {
  const [ahead, check] = [checking(header(), header({ counter: 2 })), checking(header())];
  check.witnessSeen(witness(2, ahead, { counters: [[ANNA, 2]] }));
  next(check, 2, header({ counter: 2 }));
  assert.equal(check.state.pending.size, 0);
});

test("a counter known elsewhere and strictly lower here is an omission", () => {
  const check = checking(header({ by: ANNA }), header({ by: BERT }));
  assert.equal(alarmOf(() => check.witnessSeen(witness(2, check, { counters: [[BERT, 2]] }))), "omission");
});

test("a device unknown here is an omission only when everything was seen", () => {
  const check = checking(header());
  assert.equal(alarmOf(() => check.witnessSeen(witness(1, check, { counters: [[BERT, 1]] }))), "omission");
  const cold = checking();
  next(cold, 2, header());
  cold.witnessSeen(witness(2, cold, { counters: [[BERT, 1]] }));
  assert.equal(cold.state.alarms.length, 0);
});

test("a counter that may have been compacted away is no omission", () => {
  const check = checking(header({ by: BERT }));
  next(check, 4, header({ by: ANNA }));
  check.witnessSeen(witness(4, check, { counters: [[BERT, 3]] }));
  assert.equal(check.state.alarms.length, 0);
});

test("a counter of a later seq is no omission yet", () => {
  const check = checking(header({ by: BERT }));
  check.witnessSeen(witness(3, null, { counters: [[BERT, 2]] }));
  assert.ok(check.state.pending.has(hex(ANNA)));
});

test("more changes of mine than i sealed are a clone", () => {
  const check = checking(header({ by: ME }));
  check.witnessSeen(witness(5, null, { counters: [[ME, 3]] }), 3);
  const more = witness(6, null, { number: 2, counters: [[ME, 4]] });
  assert.equal(alarmOf(() => check.witnessSeen(more, 3)), "clone");
});

test("without my counter a clone is seen once its place is reached", () => {
  const check = checking(header({ by: ME }));
  check.witnessSeen(witness(2, null, { counters: [[ME, 2]] }));
  assert.equal(alarmOf(() => next(check, 2, header({ by: ANNA }))), "clone");
});

test("a witness must not regress", () => {
  for (const [number, seq] of [[4, 1], [5, 2], [6, 0]]) {
    const check = checking(header(), header({ counter: 2 }));
    check.witnessSeen(witness(1, null, { digest: check.state.ring[0].digest, nLive: 1, number: 5 }));
    assert.equal(alarmOf(() => check.witnessSeen(witness(seq, check, { number }))), "witness_regressed");
  }
});

test("the same witness may come again", () => {
  const check = checking(header());
  for (let time = 0; time < 2; time++) {
    check.witnessSeen(witness(1, check));
    check.witnessSeen(witness(9, null, { by: BERT }));
  }
  assert.equal(check.state.alarms.length, 0);
});

test("a witness of another life is passed over", () => {
  const check = checking(header());
  check.witnessSeen(witness(1, null, { digest: OTHER_DIGEST, life: OTHER_LIFE }));
  assert.equal(check.state.witnesses.size, 0);
});

test("my own witness is passed over", () => {
  const check = checking(header());
  check.witnessSeen(witness(1, null, { by: ME, digest: OTHER_DIGEST }));
  assert.equal(check.state.witnesses.size, 0);
});

test("an altered witness is forged", () => {
  for (const byte of [0, 2, 4, 8, 24, 40, 56, 72, 88, 96, 112, 140, -1]) {
    const check = checking(header());
    const altered = witness(1, check);
    altered[byte < 0 ? altered.length + byte : byte] ^= 1;
    assert.equal(alarmOf(() => check.witnessSeen(altered)), "forged", `byte ${byte}`);
  }
});

test("a change shown as a witness is forged", () => {
  assert.equal(alarmOf(() => checking(header()).witnessSeen(witness(1, null, { kind: Kind.WIPE }))), "forged");
});

test("a witness of a wrong length is forged", () => {
  for (const length of [0, 4, 28, 51, 53, 52 + 23]) {
    const sealed = seal(KEYS, {
      kind: Kind.WITNESS, flagsConditional: false, collectionId: CID, recordId: ZERO_ID, changeId: CHANGE_ID,
      deviceId: ANNA, counter: 1, base: LIFE, plaintext: new Uint8Array(length), nonce: NONCE,
    });
    const check = checking(header());
    assert.equal(alarmOf(() => check.witnessSeen(sealed)), "forged", `${length} bytes`);
    assert.equal(check.state.alarms[0].detail, "a witness: its length is wrong");
  }
});

test("a witness with numbers that are not exact here is forged", () => {
  const [most, over] = [witness(Number.MAX_SAFE_INTEGER), new Uint8Array(52)];
  const check = checking(header());
  check.witnessSeen(most);
  assert.equal(check.state.witnesses.get(hex(ANNA))?.seq, Number.MAX_SAFE_INTEGER);
  over.set([0, 0x20]);
  const sealed = seal(KEYS, {
    kind: Kind.WITNESS, flagsConditional: false, collectionId: CID, recordId: ZERO_ID, changeId: CHANGE_ID,
    deviceId: ANNA, counter: 2, base: LIFE, plaintext: over, nonce: NONCE,
  });
  assert.equal(alarmOf(() => check.witnessSeen(sealed)), "forged");
});

test("a witness says what the state is", () => {
  const check = checking(header({ by: ANNA }), header({ by: BERT }));
  const sealed = check.makeWitness(7, CHANGE_ID, NONCE, 1_700_000_000_000);
  assert.ok(sealed);
  const opened = openSealed(KEYS, sealed, { collectionId: CID });
  assert.deepEqual([opened.header.kind, opened.header.counter, opened.header.base], [Kind.WITNESS, 7, LIFE]);
  const expected = concat(
    u64(2), check.state.digest, u32(1), ANNA, u64(1), BERT, u64(1), u64(1_700_000_000_000),
  );
  assert.deepEqual(opened.plaintext, expected);
});

test("a witness is only made where the state is exact", () => {
  const check = checking();
  assert.equal(made(check), null); // nothing to state
  next(check, 2, header(), 3);
  assert.equal(made(check), null);
});

test("no witness is made before the life is known", () => {
  const check = new SyncCheck(KEYS, CID, ME, emptyState(), new MemoryLiveSet());
  next(check, 1, header());
  assert.equal(made(check), null);
});

test("a witness names the devices seen last and stays within the limit", () => {
  for (const devices of [WITNESS_DEVICES_MAX, WITNESS_DEVICES_MAX + 1]) {
    const ids = Array.from({ length: devices }, (_, n) => concat(u64(0), u64(n + 1)));
    const check = checking(...ids.map((by) => header({ by })));
    next(check, devices + 1, header({ by: ids[0], counter: 2 }));
    const sealed = made(check);
    assert.ok(sealed && sealed.length <= LIMITS.witnessBytesMax);
    const { counters } = check._openWitness(sealed).statement;
    assert.equal(counters.size, WITNESS_DEVICES_MAX);
    assert.equal(counters.get(hex(ids[0])), 2); // seen last, though it came first
    assert.equal(counters.has(hex(ids[1])), devices === WITNESS_DEVICES_MAX);
  }
});

// --- what the hub calls the end --------------------------------------------------------------

test("a witness that stays ahead of the head is withheld", () => {
  const check = checking(header());
  check.witnessSeen(witness(2));
  check.caughtUp(1);
  assert.equal(alarmOf(() => check.caughtUp(1)), "withheld");
});

test("one telling is not enough since the head may have been looked up before", () => {
  const check = checking(header());
  check.witnessSeen(witness(2, checking(header(), header({ counter: 2 }))));
  check.caughtUp(1);
  next(check, 2, header({ counter: 2 }));
  check.caughtUp(2);
  assert.equal(check.state.alarms.length, 0);
});

test("newer witnesses do not put off the alarm", () => {
  const check = checking(header());
  check.witnessSeen(witness(2));
  check.caughtUp(1);
  check.witnessSeen(witness(3, null, { number: 2 }));
  assert.equal(alarmOf(() => check.caughtUp(1)), "withheld");
});

test("a newer witness is not doubted by what was told before it", () => {
  const check = checking(header());
  check.witnessSeen(witness(3));
  check.caughtUp(1);
  check.witnessSeen(witness(5, null, { number: 2 }));
  check.page(1, 3, 3, [[2, header({ counter: 2 })], [3, header({ counter: 3 })]]);
  check.caughtUp(3);
  assert.equal(check.state.alarms.length, 0);
});

test("the head told is held against what was reached", () => {
  assert.equal(alarmOf(() => checking(header()).caughtUp(0)), "rollback");
});

// --- lives, failures, saving -----------------------------------------------------------------

test("a new life forgets all but the alarms", () => {
  const check = checking(header());
  check.witnessSeen(witness(1, check));
  alarmOf(() => check.headSeen(0));
  check.newLife(OTHER_LIFE);
  const alarm = { name: "rollback", collectionId: CID, detail: "the head is 0 and was 1", seq: 0 };
  assert.deepEqual(check.state, emptyState({ incarnation: OTHER_LIFE, alarms: [alarm] }));
  assert.equal(check._live.count(), 0);
  next(check, 1, header()); // the same counter is no replay in another life
});

test("a failed page changes nothing but the alarms", () => {
  const live = new MemoryLiveSet();
  const check = new SyncCheck(KEYS, CID, ME, emptyState({ incarnation: LIFE }), live);
  check.page(0, 2, 2, numbered([header({ record: "a" }), header({ counter: 2, kind: Kind.DELETE, record: "b" })]));
  const purge = header({ counter: 3, kind: Kind.PURGE, upto: 2 });
  const ahead = checking(header({ record: "a" }), header({ counter: 2, kind: Kind.DELETE, record: "b" }), purge);
  check.witnessSeen(witness(3, ahead, { by: BERT })); // this one agrees
  check.witnessSeen(witness(6, null, { digest: OTHER_DIGEST }));
  const [before, liveBefore] = [packState(check.state), structuredClone([...live._entries])];
  const late = [purge, header({ counter: 4, kind: Kind.WIPE }), header({ counter: 5 }), header({ counter: 6 })];
  assert.equal(alarmOf(() => check.page(2, 6, 6, numbered(late, 3))), "digest_mismatch");
  assert.deepEqual(check.state.alarms.map((alarm) => alarm.name), ["digest_mismatch"]);
  check.state.alarms.pop();
  assert.deepEqual(packState(check.state), before);
  assert.deepEqual([...live._entries], liveBefore);
});

test("an alarm is noted once", () => {
  const check = checking(header());
  for (let time = 0; time < 3; time++) assert.equal(alarmOf(() => check.headSeen(0)), "rollback");
  const alarm = { name: "rollback", collectionId: CID, detail: "the head is 0 and was 1", seq: 0 };
  assert.deepEqual(check.state.alarms, [alarm]);
});

test("the state survives being saved", () => {
  const check = checking(header({ by: ANNA }), header({ by: BERT }));
  check.witnessSeen(witness(2, check));
  check.witnessSeen(witness(9, null, { by: BERT, counters: [[ANNA, 4]] }));
  check.caughtUp(2);
  alarmOf(() => check.headSeen(0));
  const again = unpackState(packState(check.state));
  assert.deepEqual(again, check.state);
  assert.deepEqual([...again.counters.keys()], [...check.state.counters.keys()]); // in the same order
  assert.deepEqual(unpackState(packState(emptyState())), emptyState());
});

test("every alarm has a sentence", () => {
  assert.deepEqual(Object.keys(ALARMS), [
    "rollback", "replay", "gap", "omission", "digest_mismatch", "clone", "witness_regressed", "forged",
    "record_mismatch", "withheld", "emptied",
  ]);
  assert.ok(Object.values(ALARMS).every((sentence) => sentence.endsWith(".")));
});

// --- the lies, each against three devices that live with the hub -------------------------------

/** A lying hub, three devices with some history, and Anna three changes ahead with a witness of them. */
class World {
  /** @param {number} seed */
  constructor(seed) {
    this.random = new Seeded(seed);
    this.hub = new LyingHub(LIFE);
    this.anna = this.device();
    this.bert = this.device();
    this.carl = this.device();
    this.devices = [this.anna, this.bert, this.carl];
    for (let times = this.random.below(20, 40); times > 0; times--) this.live(this.random.choice(this.devices));
    for (const device of this.devices) device.sync(this.hub);
    this.seqs = ["x", "y", "z"].map((key) => this.anna.write(this.hub, Kind.PUT, key));
    this.annaTestifies();
  }

  device(keys = KEYS, collection = "notes") {
    return new ModelDevice(keys, collection, this.random);
  }

  /** @param {ModelDevice} device */
  live(device) {
    for (let times = this.random.below(4); times > 0; times--) {
      const kind = this.random.choice([Kind.PUT, Kind.PUT, Kind.PUT, Kind.DELTA, Kind.DELETE]);
      device.draft(kind, `record ${this.random.below(8)}`, this.random.bytes(20));
    }
    device.sync(this.hub);
    device.testify(this.hub);
    if (this.random.random() < 0.2) this.hub.compact();
  }

  annaTestifies() {
    this.anna.sync(this.hub);
    this.anna.testify(this.hub);
  }
}

/**
 * Each lie is told to the world; what it gives back is where the alarm must be raised, and no sooner. The fourteen of
 * docs/threat-model.md "A lying hub", and some more.
 * @type {Record<string, { tell: (world: World) => () => void, raises: string[] }>}
 */
const LIES = {
  "omit from one that lags": {
    raises: ["digest_mismatch", "omission"],
    tell: ({ hub, bert, random, seqs }) => {
      hub.omit(random.choice(seqs));
      return () => bert.sync(hub);
    },
  },
  "omit from a newcomer after compaction": {
    raises: ["digest_mismatch"],
    tell: (world) => {
      const { hub, random } = world;
      hub.compact();
      hub.omit(random.choice([...hub.kept.keys()].filter((seq) => seq !== hub.head)));
      const newcomer = world.device();
      return () => newcomer.sync(hub);
    },
  },
  "roll back one with memory": {
    raises: ["rollback"],
    tell: ({ hub, bert }) => {
      bert.sync(hub);
      hub.rollBack(hub.head - 2);
      return () => bert.sync(hub);
    },
  },
  "roll back a newcomer": {
    raises: ["withheld"],
    tell: (world) => {
      const { hub } = world;
      hub.rollBack(hub.head - 2);
      const newcomer = world.device();
      newcomer.sync(hub);
      newcomer.check.caughtUp(hub.head); // the next ping
      return () => newcomer.check.caughtUp(hub.head); // and the one after
    },
  },
  "swap two of one author": {
    raises: ["gap"],
    tell: ({ hub, bert, seqs }) => {
      hub.swap(seqs[1], seqs[2]);
      return () => bert.sync(hub);
    },
  },
  "swap two of different authors": {
    raises: ["digest_mismatch"],
    tell: (world) => {
      const { hub, anna, bert, carl, devices } = world;
      for (const device of devices) device.sync(hub);
      const [one, other] = [anna.write(hub, Kind.PUT, "p"), bert.write(hub, Kind.PUT, "q")];
      world.annaTestifies();
      hub.swap(one, other);
      return () => carl.sync(hub);
    },
  },
  "show a change of another collection": {
    raises: ["forged"],
    tell: (world) => {
      world.hub.insert(world.device(KEYS, "other").draft(Kind.PUT, "x", utf8("elsewhere")));
      return () => world.bert.sync(world.hub);
    },
  },
  "alter the header": {
    raises: ["forged"],
    tell: ({ hub, bert, random }) => {
      hub.flip(hub.head, random.below(112 * 8));
      return () => bert.sync(hub);
    },
  },
  "alter what is sealed": {
    raises: ["forged"],
    tell: ({ hub, bert, random }) => {
      hub.flip(hub.head, random.below(112 * 8, hub.shown(hub.head).length * 8));
      return () => bert.sync(hub);
    },
  },
  replay: {
    raises: ["replay"],
    tell: ({ hub, bert, random }) => {
      bert.sync(hub);
      hub.replay(random.choice([...hub.kept.keys()]));
      return () => bert.sync(hub);
    },
  },
  "show a change of another space": {
    raises: ["forged"],
    tell: (world) => {
      world.hub.insert(world.device(STRANGERS).draft(Kind.PUT, "x", utf8("evil")));
      return () => world.bert.sync(world.hub);
    },
  },
  "show an old version": {
    raises: ["digest_mismatch"],
    tell: (world) => {
      const { hub, anna } = world;
      const [first] = [1, 2, 3].map(() => anna.write(hub, Kind.PUT, "k"));
      anna.write(hub, Kind.PUT, "another");
      world.annaTestifies();
      hub.serveOld(first);
      const newcomer = world.device();
      return () => newcomer.sync(hub);
    },
  },
  "drop a delete": {
    raises: ["digest_mismatch"],
    tell: (world) => {
      const { hub, anna, bert } = world;
      const tombstone = anna.write(hub, Kind.DELETE, "x");
      anna.write(hub, Kind.PUT, "w");
      world.annaTestifies();
      hub.omit(tombstone);
      return () => bert.sync(hub);
    },
  },
  "fork until one witness leaks": {
    raises: ["digest_mismatch", "omission"],
    tell: ({ hub, anna, bert }) => {
      bert.sync(hub);
      const other = hub.fork();
      for (const [device, shown] of /** @type {[ModelDevice, LyingHub][]} */ ([[anna, hub], [bert, other]])) {
        device.write(shown, Kind.PUT, "same");
        device.sync(shown);
        device.testify(shown);
      }
      hub.showWitness(other.witnessOf(bert));
      return () => anna.sync(hub);
    },
  },
  "omit and renumber": {
    raises: ["gap"],
    tell: ({ hub, bert, seqs }) => {
      hub.omitAndCloseUp(seqs[1]);
      return () => bert.sync(hub);
    },
  },
  "keep the newest back": {
    raises: ["omission"],
    tell: ({ hub, bert }) => {
      hub.omit(hub.head);
      return () => bert.sync(hub);
    },
  },
  "show an older witness": {
    raises: ["witness_regressed"],
    tell: (world) => {
      const { hub, anna, bert } = world;
      const old = hub.witnessOf(anna);
      anna.write(hub, Kind.PUT, "later");
      world.annaTestifies();
      bert.sync(hub);
      hub.showWitness(old);
      return () => bert.sync(hub);
    },
  },
  "hold the head down and pass the witness": {
    raises: ["withheld"],
    tell: (world) => {
      const { hub, anna, bert } = world;
      bert.sync(hub);
      const stale = hub.fork();
      anna.write(hub, Kind.PUT, "later");
      world.annaTestifies();
      stale.showWitness(hub.witnessOf(anna));
      bert.sync(stale);
      bert.sync(stale);
      return () => bert.sync(stale);
    },
  },
  "play me to the others": { // a copy of Bert's disk writes elsewhere; the hub hides that from Bert
    raises: ["clone"],
    tell: (world) => {
      const { hub, anna, bert, devices } = world;
      for (const device of devices) device.sync(hub);
      const [shown, copied] = [hub.fork(), world.device()];
      Object.assign(copied, { deviceId: bert.deviceId, counter: bert.counter });
      copied.write(hub, Kind.PUT, "stolen");
      world.annaTestifies();
      shown.showWitness(hub.witnessOf(anna));
      return () => bert.sync(shown);
    },
  },
};

for (const [name, { tell, raises }] of Object.entries(LIES)) {
  test(`a lie raises its alarm whatever went before: ${name}`, () => {
    const raised = new Set(Array.from({ length: 12 }, (_, seed) => alarmOf(tell(new World(seed)))));
    assert.deepEqual([...raised].sort(), raises);
  });
}

test("a record under anothers id raises its alarm", () => {
  const { hub, bert, carl } = new World(1);
  bert.sync(hub);
  hub.insert(seal(KEYS, {
    kind: Kind.PUT, flagsConditional: false, collectionId: CID, recordId: KEYS.recordId(CID, "x"), changeId: CHANGE_ID,
    deviceId: carl.deviceId, counter: 99, base: ZERO_ID, plaintext: utf8("y\0body"), nonce: NONCE,
  }));
  assert.equal(alarmOf(() => bert.sync(hub)), "record_mismatch");
});

test("a fork that is never joined stays unnoticed", () => {
  // The known limit of any check with one hub: until a witness crosses, both stories are consistent.
  always(12, (_, seed) => {
    const { hub, anna, bert } = new World(seed);
    bert.sync(hub);
    const other = hub.fork();
    for (let time = 0; time < 3; time++) {
      for (const [device, shown] of /** @type {[ModelDevice, LyingHub][]} */ ([[anna, hub], [bert, other]])) {
        device.write(shown, Kind.PUT, "own");
        device.sync(shown);
        device.testify(shown);
        device.check.caughtUp(shown.head);
      }
    }
    assert.ok(!anna.state.alarms.length && !bert.state.alarms.length);
  });
});

test("a consistent old snapshot deceives a device without memory", () => {
  always(12, (_, seed) => {
    const world = new World(seed);
    const old = world.hub.fork();
    for (let time = 0; time < 10; time++) world.live(world.random.choice(world.devices));
    const newcomer = world.device();
    for (let time = 0; time < 3; time++) newcomer.sync(old);
    assert.equal(newcomer.state.alarms.length, 0);
  });
});

test("an old witness with the full log is harmless to a newcomer", () => {
  const world = new World(3);
  const old = world.hub.witnessOf(world.anna);
  world.anna.write(world.hub, Kind.PUT, "later");
  world.annaTestifies();
  world.hub.showWitness(old);
  const newcomer = world.device();
  newcomer.sync(world.hub);
  assert.equal(newcomer.state.alarms.length, 0);
});
