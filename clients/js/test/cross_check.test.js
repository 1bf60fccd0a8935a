/**
 * The sync check and the strategies against Python's: the same calls, the same verdicts, the same state after each.
 */

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { before, test } from "node:test";

import { hex, unhex } from "../src/bytes.js";
import { CheckFailed, MemoryLiveSet, SyncCheck, emptyState, packState, unpackState } from "../src/check.js";
import { SpaceKeys } from "../src/keys.js";
import {
  Conflict, MISSING, Merged, counterSum, perField, setUnion, threeWayText,
} from "../src/strategies.js";
import { HEADER_BYTES, SEALED_BYTES_MIN, Header, parseHeader } from "../src/wire/header.js";
import { HERE, PYTHON, ROOT, whyNoHub } from "./hub_process.js";

const SEED = process.env.CROSS_SEED ?? "1";
const [SCHEDULES, CONFLICTS] = [200, 2_000];

/** @type {Record<string, import("../src/strategies.js").Strategy>} */
const STRATEGIES = {
  perField, "counterSum a b": counterSum("a", "b"), counterSum: counterSum(), setUnion, threeWayText,
};

/** @type {any} */
let python;

before(() => {
  if (whyNoHub) return;
  const script = join(HERE, "cross/check_schedules.py");
  const run = spawnSync(PYTHON, [script, SEED, `${SCHEDULES}`, `${CONFLICTS}`], {
    cwd: ROOT, encoding: "utf8", maxBuffer: 256 * 2 ** 20,
  });
  assert.equal(run.status, 0, run.stderr);
  python = JSON.parse(run.stdout);
});

/** The header of its 112 bytes, with a kind that may be out of place. @param {string} packed */
function headerOf(packed) {
  const sealed = new Uint8Array(SEALED_BYTES_MIN);
  sealed.set(unhex(packed));
  assert.equal(packed.length, 2 * HEADER_BYTES);
  try {
    return parseHeader(sealed);
  } catch {
    const [kind, one] = [sealed[2], sealed.slice()];
    one[2] = 1; // what no sealed change may be; the check must have an answer all the same
    one.fill(0, 96, 112);
    return new Header({ ...parseHeader(one), kind, base: sealed.slice(96, 112) });
  }
}

/** What Python's `summary` says. @param {SyncCheck} check */
function summary({ state, _live }) {
  return {
    incarnation: hex(state.incarnation),
    place: [state.seq, state.reached, state.coldHead],
    flags: [state.exact, state.whole, state.mustStartOver],
    digest: hex(state.digest),
    live: [state.nLive, _live.count()],
    counters: [...state.counters].map(([device, { last, strict }]) => [device, last, strict]),
    ring: [state.ring.length, state.ring.slice(-2).map((point) => [point.seq, hex(point.digest), point.nLive])],
    witnesses: [...state.witnesses].map(([device, { counter, seq }]) => [device, counter, seq]),
    pending: [...state.pending].map(([device, { seq, told }]) => [device, seq, told]),
    alarms: state.alarms.map(({ name, detail, seq }) => [name, detail, seq]),
  };
}

/**
 * @param {SyncCheck} check
 * @param {string} call
 * @param {any[]} told
 */
function answerOf(check, call, told) {
  switch (call) {
    case "page": {
      const entries = told[3].map((/** @type {[number, string]} */ [seq, packed]) => [seq, headerOf(packed)]);
      return check.page(told[0], told[1], told[2], entries);
    }
    case "headSeen": return check.headSeen(told[0]);
    case "caughtUp": return check.caughtUp(told[0]);
    case "witnessSeen": return check.witnessSeen(unhex(told[0]), told[1]);
    case "makeWitness": return check.makeWitness(told[0], unhex(told[1]), unhex(told[2]), told[3]);
    case "newLife": return check.newLife(unhex(told[0]));
    case "startOver": return check.startOver();
    case "restart": return void (check.state = unpackState(packState(check.state)));
    default: return assert.fail(`unknown call ${call}`);
  }
}

/**
 * @param {SyncCheck} check
 * @param {any} said  what was called, and what Python said
 */
function compare(check, said) {
  /** @type {any} */
  let sealed = null;
  /** @type {any} */
  let alarm = null;
  try {
    sealed = answerOf(check, said.call, said.arguments);
  } catch (error) {
    if (!(error instanceof CheckFailed)) throw error;
    alarm = [error.alarm.name, error.alarm.detail, error.alarm.seq];
  }
  assert.deepEqual(alarm, said.alarm);
  assert.deepEqual(summary(check), said.state);
  assert.equal(sealed ? hex(sealed) : null, said.sealed ?? null);
}

test("the check says what pythons says on random schedules", { skip: whyNoHub }, async () => {
  const keys = await SpaceKeys.derive(unhex(python.app_key));
  const raised = new Set();
  assert.equal(python.schedules.length, SCHEDULES);
  for (const [n, schedule] of python.schedules.entries()) {
    for (const { device_id: deviceId, log } of schedule) {
      const collectionId = keys.collectionId(python.collection);
      const check = new SyncCheck(keys, collectionId, unhex(deviceId), emptyState(), new MemoryLiveSet());
      for (const [at, said] of log.entries()) {
        try {
          compare(check, said);
        } catch (error) {
          const place = `schedule ${n}, device ${deviceId}, ${said.call} ${at}`;
          if (error instanceof Error) error.message = `${place}: ${error.message}`;
          throw error;
        }
        raised.add(said.alarm?.[0]);
      }
    }
  }
  const all = [
    "rollback", "replay", "gap", "omission", "digest_mismatch", "clone", "witness_regressed", "forged", "withheld",
  ];
  assert.deepEqual(all.filter((name) => !raised.has(name)), [], "alarms that no schedule raised");
});

test("the strategies answer what pythons answer on random conflicts", { skip: whyNoHub }, () => {
  const merged = new Set();
  assert.equal(python.conflicts.length, CONFLICTS);
  for (const { sides, answers } of python.conflicts) {
    const { base = MISSING, mine = MISSING, theirs = MISSING } = sides;
    const conflict = new Conflict("key", base, mine, theirs);
    for (const [name, strategy] of Object.entries(STRATEGIES)) {
      const answer = strategy(conflict);
      const given = answer instanceof Merged ? { merged: answer.value } : answer.description;
      assert.deepEqual(given, answers[name], `${name} of ${JSON.stringify(sides)}`);
      if (answer instanceof Merged) merged.add(name);
    }
  }
  assert.deepEqual([...merged].sort(), Object.keys(STRATEGIES).sort());
});
