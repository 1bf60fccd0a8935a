/** An edit that was made outside of the engine, on a value that is perhaps no longer what the engine shows. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { LocalCollection } from "../src/collection.js";
import { Engine } from "../src/engine.js";
import { MemoryStorage, State } from "../src/storage.js";
import { MANUAL, MINE, MISSING, Merged, THEIRS, counterSum, lastWriterWins, manual } from "../src/strategies.js";
import { Kind, ZERO_ID } from "../src/terms.js";
import { encodeBody } from "../src/values.js";

let made = 0;

/** A fresh id. @param {number} size */
function fresh(size) {
  const bytes = new Uint8Array(size);
  new DataView(bytes.buffer).setUint32(0, (made += 1));
  return bytes;
}

/** A collection in which the record `a` has come from the hub with this value. */
function showing(value, strategy = manual) {
  const storage = new MemoryStorage();
  const local = new LocalCollection(storage, storage.addCollection("notes", fresh(16)), fresh);
  local.strategy = strategy;
  if (value !== MISSING) remote(local, value);
  return local;
}

/** @param {LocalCollection} local */
function remote(local, value) {
  const seq = local.row.seq + 1;
  const [changeId, base] = [fresh(16), local.storage.record(local.n, "a")?.changeId ?? ZERO_ID];
  const kind = value === MISSING ? Kind.DELETE : Kind.PUT;
  const body = value === MISSING ? null : encodeBody(value);
  local.change(seq, /** @type {any} */ ({ kind, changeId, base }), "a", body, false);
  local.save({ seq });
  local.settle(1);
}

/** @param {LocalCollection} local */
const rows = (local) => local.storage.rowsOf(local.n, "a");

test("an edit on what is shown is an edit as any other", () => {
  const local = showing(1);
  assert.equal(local.putOn("a", 2, 1, 5).later, false);
  assert.equal(local.get("a"), 2);
  assert.deepEqual(rows(local).map(({ state, writtenAt }) => [state, writtenAt]), [[State.WAITING, 5]]);
  local.putOn("a", MISSING, 2, 6);
  assert.equal(local.get("a"), MISSING);
  assert.equal(rows(local)[0].kind, Kind.DELETE);
});

test("what is shown already changes nothing whatever it was made on", () => {
  const local = showing({ n: 1 });
  for (const base of [MISSING, 7, { n: 1 }]) local.putOn("a", { n: 1 }, base, 5);
  assert.deepEqual(rows(local), []);
  const gone = showing(MISSING);
  gone.putOn("a", MISSING, 7, 5);
  assert.deepEqual([rows(gone), gone.storage.record(gone.n, "a")], [[], null]);
});

for (const [answer, expected, sent] of /** @type {[any, any, any][]} */ ([
  [MINE, "mine", "mine"],
  [THEIRS, "theirs", null],
  [new Merged("both"), "both", "both"],
  [new Merged("theirs"), "theirs", null],
  [new Merged(MISSING), MISSING, MISSING],
])) {
  test(`the strategy judges an edit on another value (${String(answer.value ?? answer.description)})`, () => {
    const asked = [];
    const local = showing("theirs", (conflict) => {
      asked.push({ ...conflict });
      return answer;
    });
    const { later, shown } = local.putOn("a", "mine", "base", 5);
    assert.deepEqual(asked, [{ key: "a", base: "base", mine: "mine", theirs: "theirs" }]);
    assert.equal(local.get("a"), expected);
    assert.equal(rows(local).length, sent === null ? 0 : 1);
    assert.equal(later, false);
    assert.equal(shown !== undefined, expected === "mine", "whether the edit's value is shown");
  });
}

test("no one is asked when nothing else changed or when the last writer wins", () => {
  const never = () => assert.fail("asked");
  const local = showing("theirs", never);
  local.putOn("a", "base", "base", 5); // put again as it was
  assert.equal(local.get("a"), "theirs");
  const last = showing("theirs", lastWriterWins);
  last.putOn("a", "mine", MISSING, 5);
  assert.equal(last.get("a"), "mine");
});

test("two equal counts on one base are two and the same count appended again is one", () => {
  const local = showing({ n: 15 }, counterSum("n"));
  local.putOn("a", { n: 15 }, { n: 10 }, 5);
  assert.deepEqual(local.get("a"), { n: 20 });
  const made = showing({ n: 1 }, counterSum("n"));
  made.putOn("a", { n: 1 }, MISSING, 5);
  assert.deepEqual(made.get("a"), { n: 2 }, "both devices began to count");
  const unknown = showing({ n: 1 }, counterSum("n"));
  unknown.putOn("a", { n: 1 }, undefined, 5);
  assert.deepEqual(unknown.get("a"), { n: 1 });
  const typed = showing({ n: 15 }, counterSum("n"));
  typed.putOn("a", { n: 15 }, { n: 15 }, 5);
  assert.deepEqual([typed.get("a"), rows(typed)], [{ n: 15 }, []]);
  const engine = showing(MISSING, counterSum("n"));
  engine.put("a", { n: 1 }, 5);
  remote(engine, { n: 1 });
  assert.deepEqual(engine.get("a"), { n: 2 });
});

test("what devices append again after a wipe is not counted twice", () => {
  const local = showing({ n: 15 }, counterSum("n"));
  local.wipe(2);
  local.requeueUnsent(5);
  remote(local, { n: 15 }); // the other device was faster
  assert.deepEqual([local.get("a"), rows(local)], [{ n: 15 }, []]);
});

test("an edit that a person must judge is kept with its base and the hub's value", () => {
  const local = showing("theirs");
  local.putOn("a", "mine", "base", 5);
  const [row] = rows(local);
  assert.deepEqual([row.state, row.reason, local.get("a")], [State.PARKED, "conflict", "mine"]);
  const waiting = local.waiting("a");
  assert.deepEqual({ ...waiting?.conflict }, { key: "a", base: "base", mine: "mine", theirs: "theirs" });
  assert.deepEqual(waiting?.body, row.value);
  local.putOn("a", "mine, typed on", "mine", 6);
  assert.deepEqual([rows(local).length, local.get("a")], [1, "mine, typed on"]);
  assert.equal(local.waiting("a")?.conflict.base, "base");
  local.resolve("a", "decided", 7);
  assert.deepEqual([rows(local)[0].state, local.waiting("a")], [State.WAITING, null]);
});

test("a deleted record and one that was not there can be in conflict", () => {
  const local = showing(MISSING);
  local.putOn("a", "mine", "base", 5);
  assert.deepEqual({ ...local.waiting("a")?.conflict }, { key: "a", base: "base", mine: "mine", theirs: MISSING });
  const other = showing("theirs");
  other.putOn("a", MISSING, "base", 5);
  assert.deepEqual({ ...other.waiting("a")?.conflict }, { key: "a", base: "base", mine: MISSING, theirs: "theirs" });
  assert.equal(other.get("a"), MISSING);
});

test("an edit on what an unsent merge has replaced is judged against the merge", () => {
  const local = showing(10, counterSum());
  local.putOn("a", 15, 10, 5);
  remote(local, 110); // 115 is shown, and waits
  assert.equal(local.get("a"), 115);
  local.putOn("a", 16, 15, 6);
  assert.equal(local.get("a"), 116);
  assert.equal(rows(local).length, 1);
});

test("an edit that a person must judge waits until what it was not made on is in the log", () => {
  const answers = [new Merged("merged"), MANUAL, MANUAL];
  const local = showing("base", () => answers.shift() ?? MANUAL);
  local.putOn("a", "mine", "base", 5);
  remote(local, "theirs");
  assert.equal(local.get("a"), "merged");
  assert.deepEqual(local.putOn("a", "mine, typed on", "mine", 6), { later: true });
  assert.equal(local.get("a"), "merged");
  const [row] = rows(local);
  local.doneWith(row);
  remote(local, "merged");
  assert.equal(local.putOn("a", "mine, typed on", "mine", 6).later, false);
  const { base, mine, theirs } = local.waiting("a")?.conflict ?? {};
  assert.deepEqual([base, mine, theirs], ["mine", "mine, typed on", "merged"]);
});

test("an edit that a person must judge takes the place of one that waits for them", () => {
  const local = showing("theirs");
  local.putOn("a", "mine", "base", 5);
  local.putOn("a", "other", "another base", 6);
  assert.equal(rows(local).length, 1);
  const { base, mine, theirs } = local.waiting("a")?.conflict ?? {};
  assert.deepEqual([base, mine, theirs], ["another base", "other", "theirs"]);
});

test("a decision about what the log has is sent and one about what it had is a conflict anew", () => {
  const local = showing("theirs");
  local.putOn("a", "mine", "base", 5);
  local.resolveOn("a", "decided", "theirs", 6);
  local.settle(6);
  assert.deepEqual([rows(local)[0].state, local.get("a")], [State.WAITING, "decided"]);
  const other = showing("theirs");
  other.putOn("a", "mine", "base", 5);
  other.resolveOn("a", "decided", "theirs before", 6);
  other.settle(6);
  const { base, mine, theirs } = other.waiting("a")?.conflict ?? {};
  assert.deepEqual([base, mine, theirs], ["theirs before", "decided", "theirs"]);
  assert.throws(() => showing("x").resolveOn("a", "decided", "x", 6), RangeError);
});

test("what cannot travel is refused before anything is written and no base does harm", () => {
  const local = showing("theirs");
  const before = local.storage.record(local.n, "a");
  assert.throws(() => local.putOn("a", { f: () => {} }, "base", 5), TypeError);
  assert.throws(() => local.putOn("", "mine", "base", 5), RangeError);
  assert.deepEqual([rows(local), local.storage.record(local.n, "a")], [[], before]);
  local.putOn("a", "mine", { f: () => {} }, 5);
  assert.equal(local.waiting("a")?.conflict.base, MISSING);
});

test("the further records of a merge are put beside it", () => {
  const local = showing("theirs", () => new Merged("theirs", { copy: "mine" }));
  local.putOn("a", "mine", "base", 5);
  assert.deepEqual(local.items(), [["a", "theirs"], ["copy", "mine"]]);
});

test("edits of several collections are one transaction that knows when all is settled", () => {
  const storage = new MemoryStorage();
  const identity = { deviceId: fresh(16), appId: "org.example", hubUrl: "" };
  const engine = new Engine(storage, identity, null, fresh);
  const now = { wall: 5, steady: 5 };
  const locals = ["one", "two"].map((name) => engine.openCollection(name, manual, now)[0]);
  const [result, effects] = engine.editAll(locals, () => locals.map((local) => local.put("a", 1, 5).length), now);
  assert.deepEqual(result, [16, 16]);
  assert.equal(effects.length, 3, "two collections have changed, and the status");
  const stop = () => {
    throw new Error("stop");
  };
  assert.throws(() => engine.editAll(locals, () => locals[0].put("a", 2, 5), now, stop), /stop/);
  assert.equal(locals[0].get("a"), 1, "and is taken back as a whole");
});
