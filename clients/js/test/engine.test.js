/**
 * The client engine, one named example for each rule: what is sent, what is kept, and what the person is told.
 */

import assert from "node:assert/strict";
import { test } from "node:test";

import { IDBFactory } from "fake-indexeddb";

import { concat, equal, hex, u64, utf8 } from "../src/bytes.js";
import { Hangup, Send, Wiped } from "../src/effects.js";
import { NotConnected } from "../src/engine.js";
import { REFUSALS } from "../src/errors.js";
import { pack } from "../src/msgpack.js";
import { seal } from "../src/sealing.js";
import { MemoryStorage, State } from "../src/storage.js";
import { IndexedDbStorage } from "../src/storage/indexeddb.js";
import { Conflict, MISSING, Merged, THEIRS, counterSum, lastWriterWins, manual, perField } from "../src/strategies.js";
import { Kind, ZERO_ID } from "../src/terms.js";
import { decodeFromDevice, decodeFromHub, encode } from "../src/wire/codec.js";
import { parseHeader } from "../src/wire/header.js";
import { Line } from "../src/testing/line.js";
import { APP_ID, KEYS, Peer, World } from "./engine_hub.js";

/** A world in which these devices have connected and nothing is under way. */
function synced(strategy = lastWriterWins, names = "x") {
  const world = new World();
  const peers = [...names].map((name) => world.peer(name, strategy));
  world.settle();
  return [world, ...peers];
}

const logOf = (peer) => peer.world.hub.log(peer.collections.notes.row.collectionId);
const rows = (peer, key) => peer.storage.rowsOf(peer.collections.notes.n, key);
const statesOf = (peer, key) => rows(peer, key).map((row) => row.state);
const draftsIn = (messages) => messages.filter(({ type }) => type === "append").flatMap(({ drafts }) => drafts);

/** The drafts on their way from the device to the hub. */
const underWay = (peer) => draftsIn(peer.toHub.map(decodeFromDevice));

/** The drafts of the device that reached the hub. */
function heardDrafts(peer) {
  const { heard } = peer.world.hub;
  return draftsIn(heard.filter(({ deviceId }) => equal(deviceId, peer.deviceId)).map(({ message }) => message));
}

const heardTypes = (world) => world.hub.heard.map(({ message }) => message.type);
const onItsWayTo = (peer, type) => peer.line.out.map(decodeFromHub).filter((message) => message.type === type);
const keptIn = (peer) => [...logOf(peer).kept.values()];
const keptKinds = (peer) => keptIn(peer).map((sealed) => parseHeader(sealed).kind);
const appendedIds = (world) => world.hub.appended.map((header) => hex(header.changeId));

/** A strategy of an app that takes whatever the log has. */
const theirs = () => THEIRS;

const NAMED = { lastWriterWins, perField, manual, theirs };

/** The device begins to drop the remote copies; nothing of that has left it. */
const wipeOf = (peer) => peer.carryOut(peer.engine.startWipe(peer.world.now));

/** Everything the device has to say reaches the hub, and no answer comes back yet. */
function push(peer) {
  while (peer.stepOut());
}

/** What this device and the hub have to say to one another is said. */
function talk(peer) {
  while (peer.stepOut() || peer.stepIn());
}

/** The hub's answers reach the device, and nothing leaves it. */
function hear(peer) {
  while (peer.stepIn());
}

function turnOn(peer) {
  peer.carryOut(peer.engine.turnOn(peer.world.now));
}

function turnOff(peer) {
  peer.carryOut(peer.engine.turnOff());
}

function where(peer) {
  const { phase, unsynced, parked } = peer.status();
  return [phase, unsynced, parked];
}

// --- edits and their drafts ---

test("a second edit of a waiting record coalesces", () => {
  const [world, x] = synced();
  x.cut();
  const first = x.put("a", 1);
  const second = x.put("a", 2);
  assert.deepEqual(first, second);
  assert.equal(x.status().unsynced, 1);
  world.settle();
  assert.deepEqual(appendedIds(world), [hex(first)]);
  assert.deepEqual(x.items(), { a: 2 });
});

test("a record that never left the device is taken back without a tombstone", () => {
  const [world, x] = synced();
  x.cut();
  x.put("a", 1);
  x.delete("a");
  assert.equal(x.status().unsynced, 0);
  world.settle();
  assert.deepEqual(world.hub.appended, []);
  assert.equal(x.get("a"), MISSING);
});

for (const strategy of [lastWriterWins, perField]) {
  test(`an edit behind a sealed one has it as its base: ${strategy.name}`, () => {
    const [world, x] = synced(strategy);
    const first = x.put("a", { n: 1 });
    const second = x.put("a", { n: 2 });
    assert.notDeepEqual(first, second);
    world.quiesce();
    assert.deepEqual(appendedIds(world), [hex(first), hex(second)]);
    assert.deepEqual(world.hub.appended.map(({ counter }) => counter), [1, 2]);
    assert.deepEqual(world.hub.appended[1].base, first);
    assert.deepEqual(where(x), ["synced", 0, 0]);
  });
}

for (const end of ["cut", "crash"]) {
  for (const arrived of [false, true]) {
    test(`a sealed draft is sent again byte for byte and is in the log once: ${end}, arrived ${arrived}`, () => {
      const [world, x] = synced();
      const changeId = x.put("a", 1);
      const sealed = underWay(x);
      if (arrived) push(x);
      x[end]();
      world.hub.heard.length = 0;
      world.settle();
      assert.equal(sealed.length, 1);
      assert.deepEqual(heardDrafts(x), sealed);
      assert.deepEqual(appendedIds(world), [hex(changeId)]);
      assert.deepEqual(keptIn(x), sealed);
      assert.deepEqual(where(x), ["synced", 0, 0]);
    });
  }
}

test("after a transaction that failed memory is what storage is", () => {
  const [, x] = synced();
  x.put("a", 1);
  const { device } = x.engine;
  const { notes } = x.collections;
  const { row } = notes;
  const work = () => {
    notes.put("a", 2, 0);
    notes.save({ seq: 99 });
    device.add("more", null);
    device.intake(notes.n).check.state.seq = 99;
    throw new TypeError("a fault");
  };
  assert.throws(() => x.edit("notes", work), TypeError);
  assert.equal(x.get("a"), 1);
  assert.deepEqual(notes.row, row);
  assert.equal(device.intake(notes.n).check.state.seq, row.seq);
  assert.equal(device.collections.size, 1);
  assert.deepEqual(device.takeEffects(), []);
});

test("a device seals nothing before it has read the log once", () => {
  const [world, x] = synced();
  const first = x.put("a", 1);
  world.quiesce();
  const y = world.peer("y");
  y.put("a", 2);
  world.settle();
  assert.deepEqual(world.hub.appended.at(-1).base, first);
  assert.deepEqual([x.items(), y.items()], [{ a: 2 }, { a: 2 }]);
});

test("an edit and its outbox row survive a crash", () => {
  const [world, x] = synced();
  x.cut();
  const changeId = x.put("a", 1);
  x.crash();
  assert.deepEqual(x.items(), { a: 1 });
  assert.deepEqual(rows(x, "a").map((row) => [row.changeId, row.state]), [[changeId, State.WAITING]]);
  assert.deepEqual(where(x), ["offline", 1, 0]);
  world.settle();
  assert.deepEqual(appendedIds(world), [hex(changeId)]);
});

test("an edit survives in the file when it is opened anew", async () => {
  const indexedDB = new IDBFactory();
  const world = new World();
  const x = world.peer("x", lastWriterWins, await IndexedDbStorage.open("x", { indexedDB }));
  x.put("a", 1);
  await x.storage.close();
  x.storage = await IndexedDbStorage.open("x", { indexedDB });
  x.crash();
  assert.deepEqual(x.items(), { a: 1 });
  world.settle();
  assert.deepEqual(where(x), ["synced", 0, 0]);
  await x.storage.close();
});

test("own drafts come back without bytes and are recognised", () => {
  const [world, x] = synced();
  const changeId = x.put("a", 1);
  push(x);
  const [frame, ...more] = onItsWayTo(x, "changes");
  assert.deepEqual(frame.changes.map(({ sealed }) => sealed.length), [0]);
  assert.deepEqual(more, []);
  x.changed.length = 0;
  world.quiesce();
  assert.deepEqual(rows(x, "a"), []);
  assert.deepEqual(x.storage.record(x.collections.notes.n, "a").changeId, changeId);
  assert.deepEqual(x.changed, []);
  assert.deepEqual(where(x), ["synced", 0, 0]);
});

test("an edit that comes back without the one before it stays what the person sees", () => {
  const [world, x] = synced();
  x.put("a", 1);
  x.put("a", 2);
  push(x);
  x.cut();
  world.hub.compact(); // of the two the log shows the second alone
  x.changed.length = 0;
  world.hub.refuseNext = ["unavailable"];
  x.connect();
  while (x.stepOut() || x.stepIn()) assert.equal(x.get("a"), 2);
  world.passTime(10);
  assert.deepEqual(where(x), ["synced", 0, 0]);
  assert.equal(x.get("a"), 2);
  assert.deepEqual(x.changed, []);
});

test("own drafts whose answer was lost are recognised when they come whole", () => {
  const [world, x] = synced();
  x.put("a", 1);
  const sealed = underWay(x);
  push(x);
  x.cut();
  x.changed.length = 0;
  assert.equal(x.status().unsynced, 1);
  world.hub.refuseNext = ["unavailable"]; // so that the answer to the second sending says nothing
  const came = new Set();
  x.connect();
  while (x.stepOut() || x.line.out.length) {
    for (const { changes } of onItsWayTo(x, "changes")) for (const change of changes) came.add(hex(change.sealed));
    x.stepIn();
  }
  assert.deepEqual([...came], sealed.map(hex));
  assert.deepEqual(rows(x, "a"), []);
  assert.deepEqual(x.changed, []);
  world.passTime(70);
  assert.equal(world.hub.appended.length, 1);
  assert.deepEqual(where(x), ["synced", 0, 0]);
});

// --- conflicts ---

test("a manual conflict parks and blocks no other record until it is resolved", () => {
  const [world, x, y] = synced(manual, "xy");
  x.cut();
  y.put("a", "theirs");
  world.quiesce();
  x.put("a", "mine");
  x.put("b", 1);
  world.settle();
  assert.deepEqual(where(x), ["synced", 0, 1]);
  assert.deepEqual(x.collections.notes.conflicts(), [new Conflict("a", MISSING, "mine", "theirs")]);
  assert.deepEqual([x.items(), y.items()], [{ a: "mine", b: 1 }, { a: "theirs", b: 1 }]);
  x.resolve("a", "both");
  world.quiesce();
  assert.deepEqual(where(x), ["synced", 0, 0]);
  assert.deepEqual([x.get("a"), y.get("a")], ["both", "both"]);
});

test("only a parked conflict can be resolved", () => {
  const [, x] = synced(manual);
  x.put("a", 1);
  assert.throws(() => x.resolve("a", 2), RangeError);
});

test("a remote change of a waiting record is merged at once", () => {
  const [world, x, y] = synced(perField, "xy");
  y.put("a", { n: 1, m: 1 });
  world.quiesce();
  world.hub.refuseNext = ["unavailable"];
  x.put("b", {}); // refused: x holds back what it has for a second
  world.quiesce();
  x.put("a", { n: 5, m: 1 });
  assert.equal(rows(x, "a")[0].state, State.WAITING);
  const other = y.put("a", { n: 1, m: 7 });
  world.quiesce();
  assert.equal(rows(x, "a")[0].state, State.WAITING);
  assert.deepEqual(x.get("a"), { n: 5, m: 7 });
  world.passTime(2);
  assert.deepEqual(y.get("a"), { n: 5, m: 7 });
  assert.equal(heardDrafts(x).filter((sealed) => equal(parseHeader(sealed).base, other)).length, 1);
});

for (const [strategy, conditional] of [[lastWriterWins, false], [perField, true], [manual, true]]) {
  test(`only last writer wins appends unconditionally: ${strategy.name}`, () => {
    const [world, x] = synced(strategy);
    x.put("a", {});
    world.quiesce();
    x.delete("a");
    world.quiesce();
    assert.deepEqual(world.hub.appended.map((header) => header.conditional), [conditional, conditional]);
  });
}

test("the last writer wins though it had not seen the other", () => {
  const [world, x, y] = synced(lastWriterWins, "xy");
  y.put("a", "first");
  push(y);
  x.put("a", "last");
  world.quiesce();
  assert.deepEqual([x.items(), y.items()], [{ a: "last" }, { a: "last" }]);
  assert.equal(world.hub.appended.length, 2);
});

test("a strategy that throws costs no edit and holds up no other record", () => {
  const [world, x, y] = synced(() => {
    throw new TypeError("a fault of the app");
  }, "xy");
  x.cut();
  y.put("a", "theirs");
  world.quiesce();
  x.put("a", "mine");
  x.put("b", 1);
  world.settle();
  assert.deepEqual(where(x), ["synced", 0, 1]);
  assert.deepEqual(rows(x, "a").map((row) => row.reason), ["conflict: the strategy raised TypeError"]);
  assert.deepEqual([x.get("a"), y.get("b")], ["mine", 1]);
});

test("equal edits are no conflict and nobody is asked", () => {
  const [strategy, asked] = asking();
  const [world, x, y] = synced(strategy, "xy");
  x.cut();
  y.put("a", { n: 1 });
  world.quiesce();
  x.put("a", { n: 1 });
  world.settle();
  assert.deepEqual(asked, []);
  assert.equal(world.hub.appended.length, 1);
  assert.deepEqual(where(x), ["synced", 0, 0]);
});

test("a device that does not know yet what there is does not say that it is synced", () => {
  const [world, x] = synced(lastWriterWins, "x");
  x.put("a", 1);
  world.quiesce();
  const bare = new Peer(world, "z", new MemoryStorage(), {});
  world.peers.push(bare);
  bare.connect();
  while (bare.stepOut() || bare.stepIn()) if (bare.status().phase === "synced") break;
  const [known] = bare.engine.device.collections.values();
  assert.deepEqual([known.row.seq, x.collections.notes.row.seq], [1, 1]);
});

test("the same count from two changes heals a hub without counting twice", () => {
  const [world, x, y] = synced(counterSum("n"), "xy");
  const backup = world.hub.backup();
  x.put("a", { n: 5 });
  world.quiesce();
  x.cut();
  for (const n of [6, 5]) {
    y.put("a", { n });
    world.quiesce();
  }
  y.cut();
  world.hub.restore(backup, utf8("J".repeat(16)));
  for (const peer of [y, x]) {
    peer.connect();
    world.quiesce();
  }
  assert.deepEqual([x.items(), y.items()], [{ a: { n: 5 } }, { a: { n: 5 } }]);
  assert.deepEqual([where(x), where(y)], [["synced", 0, 0], ["synced", 0, 0]]);
});

test("two equal counts add up, also of a counter that both have made", () => {
  const [world, x, y] = synced(counterSum("n"), "xy");
  for (const total of [2, 4]) {
    x.cut();
    y.put("a", { n: total - 1 });
    world.quiesce();
    x.put("a", { n: total - 1 });
    world.settle();
    assert.deepEqual([x.items(), y.items()], [{ a: { n: total } }, { a: { n: total } }]);
  }
  assert.deepEqual(where(x), ["synced", 0, 0]);
});

test("a merge that is what the log has already is not sent", () => {
  const [world, x, y] = synced((conflict) => new Merged(conflict.theirs), "xy");
  x.cut();
  y.put("a", { n: 1 });
  world.quiesce();
  x.put("a", { n: 2 });
  world.settle();
  assert.equal(world.hub.appended.length, 1);
  assert.deepEqual([x.items(), where(x)], [{ a: { n: 1 } }, ["synced", 0, 0]]);
});

for (const kind of ["an object", "a Map"]) {
  test(`a merge puts further records beside it: ${kind}`, () => {
    const also = (mine) => (kind === "a Map" ? new Map([["a copy", mine]]) : { "a copy": mine });
    const [world, x, y] = synced(({ theirs, mine }) => new Merged(theirs, also(mine)), "xy");
    x.cut();
    y.put("a", 1);
    world.quiesce();
    x.put("a", 2);
    world.settle();
    assert.deepEqual([x.items(), y.items()], [{ a: 1, "a copy": 2 }, { a: 1, "a copy": 2 }]);
  });
}

test("a merge that cannot be sent parks with a sentence and keeps both", () => {
  const [world, x, y] = synced(({ theirs }) => new Merged(theirs, { copy: () => "a function" }), "xy");
  x.cut();
  y.put("a", 1);
  world.quiesce();
  x.put("a", 2);
  world.settle();
  assert.deepEqual(rows(x, "a").map((row) => row.reason), ["conflict: the strategy raised TypeError"]);
  assert.deepEqual([x.items(), y.items()], [{ a: 2 }, { a: 1 }]);
});

test("a sealed draft that collides keeps its bytes until the hub has refused it", () => {
  const [world, x, y] = synced(perField, "xy");
  x.put("a", { n: 1 });
  const [sealed] = underWay(x);
  y.put("a", { m: 1 });
  push(y);
  hear(x); // the other's change is here, and the draft is still on its way
  assert.deepEqual(rows(x, "a").map((row) => [row.state, hex(row.sealed)]), [[State.SEALED, hex(sealed)]]);
  world.quiesce();
  assert.deepEqual([x.get("a"), y.get("a")], [{ n: 1, m: 1 }, { n: 1, m: 1 }]);
  assert.deepEqual(where(x), ["synced", 0, 0]);
});

test("an acknowledged edit that a later change hid is done", () => {
  const [world, x, y] = synced(lastWriterWins, "xy");
  x.put("a", 1);
  push(x);
  x.overtake();
  x.stepIn(); // acknowledged, and not read yet
  assert.deepEqual(statesOf(x, "a"), [State.ACKED]);
  x.cut();
  hear(y);
  y.put("a", 2);
  world.quiesce();
  world.hub.compact();
  world.settle();
  assert.deepEqual(rows(x, "a"), []);
  assert.equal(x.get("a"), 2);
});

test("a snapshot that conflicts is dropped and nothing is lost", () => {
  const [strategy, asked] = asking();
  const [world, x, y] = synced(strategy, "xy");
  x.delta("doc", "one");
  world.quiesce();
  x.cut();
  y.delta("doc", "two");
  world.quiesce();
  x.snapshot("doc", ["one"]);
  world.settle();
  assert.deepEqual(asked, []);
  assert.deepEqual([x.get("doc"), y.get("doc")], [MISSING, MISSING]);
  assert.deepEqual(x.collections.notes.deltas("doc"), ["one", "two"]);
  assert.deepEqual(where(x), ["synced", 0, 0]);
});

// --- refusals ---

test("what was out of order behind a refused draft is sealed anew", () => {
  const [world, x, y] = synced(manual, "xy");
  y.put("a", "theirs");
  push(y);
  x.put("a", "mine");
  const behind = x.put("b", 1);
  const first = underWay(x)[1];
  assert.deepEqual([parseHeader(first).changeId, parseHeader(first).counter], [behind, 2]);
  push(x);
  const codes = onItsWayTo(x, "appended").flatMap(({ answers }) => answers.map(({ code }) => code));
  assert.deepEqual(codes, ["conflict", "out_of_order"]);
  world.quiesce();
  const again = world.hub.appended.filter((header) => equal(header.changeId, behind));
  assert.deepEqual(again.map(({ counter }) => counter), [1]);
  assert.ok(!keptIn(x).some((sealed) => equal(sealed, first)));
  assert.deepEqual(where(x), ["synced", 0, 1]);
  assert.equal(y.get("b"), 1);
});

test("an edit over quota is kept and shown and goes out by itself when there is room", () => {
  const [world, x] = synced();
  x.put("old", 1);
  world.quiesce();
  world.hub.full = true;
  x.put("a", 1);
  world.quiesce();
  const { error, phase, unsynced } = x.status();
  assert.deepEqual([error, phase, unsynced], [REFUSALS.quota_exceeded.message, "sending", 1]);
  assert.equal(x.get("a"), 1);
  x.delete("old"); // frees room, so it does not wait
  world.quiesce();
  assert.deepEqual(world.hub.appended.map(({ kind }) => kind), [Kind.PUT, Kind.DELETE]);
  world.hub.full = false;
  world.passTime(70);
  assert.deepEqual(where(x), ["synced", 0, 0]);
  assert.equal(x.status().error, "");
});

test("an edit too large for the hub is parked and goes out once it is smaller", () => {
  const [world, x] = synced();
  x.cut();
  world.hub.limits.draft_bytes_max = 500;
  x.put("a", "long ".repeat(200));
  x.put("b", 1);
  world.settle();
  assert.deepEqual(where(x), ["synced", 0, 1]);
  assert.deepEqual(rows(x, "a").map((row) => row.reason), ["too_large"]);
  assert.deepEqual(x.collections.notes.conflicts(), []);
  x.put("a", "short");
  world.quiesce();
  assert.deepEqual(where(x), ["synced", 0, 0]);
  assert.equal(world.hub.appended.length, 2);
});

test("an edit over quota goes out at once when the account has less in it than when it was full", () => {
  const [world, x] = synced();
  x.put("old", 1);
  world.quiesce();
  Object.assign(world.hub, { full: true, used: 100 });
  x.put("a", 1);
  world.quiesce();
  assert.deepEqual(where(x), ["sending", 1, 0]);
  Object.assign(world.hub, { full: false, used: 50 });
  x.delete("old");
  world.quiesce();
  assert.deepEqual(where(x), ["synced", 0, 0]);
});

test("a refusal that says later is tried again later", () => {
  const [world, x] = synced();
  world.hub.refuseNext = ["unavailable"];
  x.put("a", 1);
  world.quiesce();
  assert.deepEqual(where(x), ["sending", 1, 0]);
  assert.deepEqual(world.hub.appended, []);
  world.passTime(1.5);
  const [first, second, ...more] = heardDrafts(x);
  assert.deepEqual(first, second);
  assert.deepEqual(more, []);
  assert.deepEqual(where(x), ["synced", 0, 0]);
});

for (const code of ["unavailable", "overloaded"]) {
  test(`requests that the hub cannot serve go again byte for byte in order and ever later: ${code}`, (t) => {
    const [world, x] = synced();
    const sent = [];
    const take = Line.prototype.take;
    t.mock.method(Line.prototype, "take", function noteAndTake(frame) {
      const message = decodeFromDevice(frame);
      if (message.type === "append") sent.push({ at: world.now.steady, drafts: message.drafts });
      take.call(this, frame);
    });
    world.hub.refuseNext = Array(12).fill(code);
    for (let n = 0; n < 5; n += 1) x.put(`k${n}`, n);
    world.quiesce();
    const first = sent.flatMap(({ drafts }) => drafts);
    // Two requests in flight, three edits wait.
    assert.deepEqual(first.map((draft) => parseHeader(draft).counter), [1, 2]);
    world.passTime(200);
    assert.deepEqual(where(x), ["synced", 0, 0]);
    assert.deepEqual(world.hub.appended.map(({ counter }) => counter), [1, 2, 3, 4, 5]);
    const again = sent.slice(2, -1);
    assert.ok(again.length > 5);
    for (const { drafts } of again) assert.deepEqual(drafts.slice(0, 2), first);
    const times = [...new Set(sent.map(({ at }) => at))];
    const waits = times.slice(1).map((at, before) => at - times[before]);
    assert.ok(Math.min(...waits) >= 1, "as long as the hub asked for");
    assert.ok(waits[0] < 2);
    assert.ok(Math.max(...waits) > 4, "and more each time");
  });
}

for (const what of ["auth", "enter", "collections", "subscribe"]) {
  test(`a handshake that the hub cannot serve is begun anew after a while: ${what}`, () => {
    const [world, x] = synced();
    x.put("a", 1);
    world.quiesce();
    x.cut();
    x.crash();
    world.hub.refuseOnce.set(what, "unavailable");
    x.connect();
    world.quiesce();
    assert.equal(world.hub.refuseOnce.size, 0);
    assert.deepEqual(x.hangups.map(({ retry, afterS }) => [retry, afterS]), [[true, 1]]);
    world.settle();
    assert.deepEqual(where(x), ["synced", 0, 0]);
    assert.equal(x.status().error, "");
  });
}

// --- who this device is ---

test("edits made before the app key is known are sealed once it is", () => {
  const [world, x, y] = synced(lastWriterWins, "xy");
  x.strategies.more = lastWriterWins;
  x.keys = null;
  x.cut();
  x.crash();
  x.put("a", 1, "more");
  x.connect();
  world.quiesce();
  assert.deepEqual(where(x), ["needs-key", 1, 0]);
  x.cut();
  x.engine.device.setKeys(KEYS);
  world.settle();
  assert.deepEqual(where(x), ["synced", 0, 0]);
  y.strategies.more = lastWriterWins;
  y.crash();
  world.settle();
  assert.deepEqual(y.items("more"), { a: 1 });
});

test("a device that has become another seals anew what was sealed", () => {
  const [world, x, y] = synced(lastWriterWins, "xy");
  x.put("before", 1);
  world.quiesce();
  world.passTime(30);
  const changeId = x.put("a", 1);
  const [sealed] = underWay(x);
  x.cut();
  const other = world.peer("other");
  x.deviceId = other.deviceId;
  x.signingKey = other.signingKey;
  world.peers.splice(world.peers.indexOf(other), 1);
  x.engine.device.setIdentity({ ...x.engine.device.identity, deviceId: x.deviceId });
  assert.deepEqual(statesOf(x, "a"), [State.WAITING]);
  world.settle();
  world.passTime(30);
  assert.deepEqual(where(x), ["synced", 0, 0]);
  const last = world.hub.appended.at(-1);
  assert.deepEqual([last.changeId, last.deviceId, last.counter], [changeId, x.deviceId, 1]);
  assert.ok(!equal(keptIn(x).at(-1), sealed));
  assert.deepEqual([x.alarms(), y.alarms(), y.get("a")], [[], [], 1]);
});

test("a key that belongs to none of the spaces of the app makes no further one by itself", () => {
  const [world, x] = synced();
  const y = world.peer("y");
  y.storage.setSetting("may_create", null);
  const { logs } = world.hub.spaces.get(hex(KEYS.spaceId));
  const elsewhere = utf8("S".repeat(16));
  world.hub.spaces = new Map([[hex(elsewhere), { spaceId: elsewhere, appId: APP_ID, spacePk: KEYS.spacePk, logs }]]);
  y.connect();
  world.quiesce();
  assert.equal(y.status().phase, "blocked");
  assert.deepEqual(y.hangups.map(({ reason, retry }) => [reason, retry]), [["wrong key", false]]);
  assert.ok(!heardTypes(world).slice(heardTypes(world).lastIndexOf("auth")).includes("create_space"));
  assert.equal(where(x)[0], "synced");
});

test("a hub that tells of collections no app has opened has them received all the same", () => {
  const [world, x, y] = synced(lastWriterWins, "xy");
  y.strategies.more = lastWriterWins;
  y.cut();
  y.crash();
  y.put("a", 1, "more");
  world.settle();
  x.cut();
  world.settle();
  assert.equal(x.engine.device.collections.size, 2);
  const [more, effects] = x.engine.openCollection("more", lastWriterWins, world.now);
  assert.deepEqual(effects.filter((effect) => effect instanceof Send), []);
  assert.deepEqual(more.items(), [["a", 1]]);
});

test("a wipe reaches collections that only the hub tells of", () => {
  const [world, x] = synced();
  x.put("a", 1);
  world.quiesce();
  const y = world.peer("y", lastWriterWins);
  y.strategies = {};
  y.storage = new MemoryStorage();
  y.storage.setSetting("account_id", utf8("A".repeat(16)));
  y.crash();
  wipeOf(y);
  y.connect();
  talk(y);
  assert.ok(y.engine.wipingDone);
  assert.deepEqual(keptKinds(x), [Kind.WIPE]);
});

// --- signatures ---

test("whatever comes while a signature is being made, the device enters once", () => {
  const [world, x] = synced();
  x.cut();
  x.signsLate = true;
  x.connect();
  push(x);
  x.stepIn();
  assert.deepEqual(x.toHub, []); // the challenge is here, and the proof is not
  assert.ok(x.stepSign());
  while (x.toHub.length) x.stepOut();
  hear(x);
  assert.ok(x.engine.inSession); // the hub has answered auth before the space's proof is there
  turnOn(x);
  assert.equal(x.toSign.length, 1);
  world.settle();
  assert.deepEqual(where(x), ["synced", 0, 0]);
  const types = heardTypes(world);
  assert.deepEqual(types.slice(types.lastIndexOf("hello")), ["hello", "auth", "enter", "collections", "subscribe"]);
});

test("a signature for a line that is gone is passed over", () => {
  const [world, x] = synced();
  for (const stale of ["auth", "space"]) {
    x.cut();
    x.signsLate = true;
    x.connect();
    while (x.toHub.length || x.line.out.length) while (x.toHub.length ? x.stepOut() : x.stepIn());
    if (stale === "space") {
      x.stepSign();
      while (x.toHub.length || x.line.out.length) while (x.toHub.length ? x.stepOut() : x.stepIn());
    }
    assert.deepEqual(x.toSign.map(({ purpose }) => purpose), [stale]);
    const [late] = x.toSign.splice(0);
    x.cut();
    x.connect();
    const before = x.toHub.length;
    assert.deepEqual(x.engine.signed(late.token, new Uint8Array(64)), []);
    assert.equal(x.toHub.length, before);
    x.signsLate = false;
    world.settle();
    assert.deepEqual(where(x), ["synced", 0, 0]);
  }
});

test("a signature that comes after the decision to hang up is not sent", () => {
  const [world, x] = synced();
  x.cut();
  x.signsLate = true;
  x.connect();
  push(x);
  x.stepIn();
  const [{ token }] = x.toSign;
  x.engine.received(utf8("nonsense"), world.now);
  assert.deepEqual(x.engine.signed(token, new Uint8Array(64)), []);
});

// --- hanging up ---

function refused(code) {
  return (world, peer) => {
    peer.put("first", 1);
    const [{ request }, ...more] = peer.toHub.map(decodeFromDevice);
    assert.deepEqual(more, []);
    const answer = { type: "appended", request, spaceId: peer.engine.device.spaceId, answers: [{ code }] };
    return () => peer.engine.received(encode(answer), world.now);
  };
}

/** Ways to decide that the line goes, each with the effects of the call that decides it. */
const HANG_UPS = {
  device_cloned: refused("device_cloned"),
  stale_key_epoch: refused("stale_key_epoch"),
  "turned off": (world, peer) => () => peer.engine.turnOff(),
  "alarms forgotten": (world, peer) => () => peer.engine.forgetAlarms(),
  nonsense: (world, peer) => () => peer.engine.received(utf8("nonsense"), world.now),
  silence(world, peer) {
    world.setTime(world.now.steady + 25);
    peer.engine.timerFired(world.now);
    world.setTime(world.now.steady + 10);
    return () => peer.engine.timerFired(world.now);
  },
};

for (const [way, prepare] of Object.entries(HANG_UPS)) {
  test(`after the decision to hang up nothing is sealed or sent: ${way}`, () => {
    const [world, x, y] = synced(lastWriterWins, "xy");
    y.put("theirs", 1);
    push(y);
    world.hub.refuseNext = ["unavailable"];
    const decide = prepare(world, x);
    x.toHub.length = 0;
    x.engine._talk._holdUntil = world.now.steady + 0.5;
    for (let n = 0; n < 3; n += 1) x.put(`k${n}`, n); // they wait
    assert.deepEqual(x.toHub, []);
    x.engine._talk._holdUntil = 0;
    const goesOut = (effect) => effect instanceof Send || effect instanceof Hangup;
    assert.ok(decide().filter(goesOut).at(-1) instanceof Hangup);
    const { notes } = x.collections;
    const after = [
      x.engine.edit(notes, () => notes.put("k9", 9, 0), world.now)[1],
      x.line.out.flatMap((frame) => x.engine.received(frame, world.now)),
      x.engine.timerFired(world.now),
      x.engine.farewell(world.now),
      x.engine.askHeads(),
      x.engine.openCollection("more", lastWriterWins, world.now)[1],
    ];
    assert.ok(x.line.out.length);
    assert.deepEqual(after.flat().filter(goesOut), []);
    assert.throws(() => x.engine.request((request) => ({ type: "list_devices", request })), NotConnected);
    assert.throws(() => x.engine.sendSignal(utf8("body"), null), NotConnected);
    assert.equal(x.engine.timer(), null);
    for (const key of ["k0", "k1", "k2", "k9"]) assert.deepEqual(statesOf(x, key), [State.WAITING]);
  });
}

// --- a hub that goes away ---

test("a hub that goes away is asked nothing new and left when it has answered", () => {
  const [world, x] = synced();
  const first = x.put("a", 1);
  x.line.say({ type: "going_away", retryAfterS: 2.5 });
  x.line.say({ type: "ping" });
  assert.ok(x.stepIn() && x.stepIn());
  x.put("b", 2);
  assert.deepEqual(statesOf(x, "b"), [State.WAITING]);
  assert.deepEqual(x.toHub.map((frame) => decodeFromDevice(frame).type), ["append", "pong"]);
  assert.deepEqual([x.status().phase, x.status().error], ["connecting", ""]);
  assert.deepEqual(x.hangups, []);
  world.quiesce();
  assert.deepEqual(x.hangups.map(({ retry, afterS, politely }) => [retry, afterS, politely]), [[true, 2.5, true]]);
  assert.deepEqual(appendedIds(world), [hex(first)]);
  const { phase, error, unsynced } = x.status();
  assert.deepEqual([phase, error, unsynced], ["connecting", "", 1]);
  world.settle();
  assert.deepEqual(where(x), ["synced", 0, 0]);
  assert.equal(world.hub.appended.length, 2);
});

test("a hub that goes away and owes no answer is left at once", () => {
  const [, x] = synced();
  x.line.say({ type: "going_away", retryAfterS: 0 });
  x.stepIn();
  assert.deepEqual(x.hangups.map(({ politely }) => politely), [true]);
});

test("a hub that goes away in the middle of entering is not asked for more", () => {
  const [world, x] = synced();
  x.cut();
  x.connect();
  while (!x.engine.inSession) assert.ok(x.stepOut() || x.stepIn());
  x.line.out.unshift(encode({ type: "going_away", retryAfterS: 1 }));
  x.stepIn();
  assert.deepEqual(x.hangups, []);
  x.put("a", 1);
  world.quiesce();
  assert.deepEqual(x.hangups.map(({ afterS }) => afterS), [1]);
  assert.deepEqual(world.hub.appended, []);
  world.settle();
  assert.deepEqual(where(x), ["synced", 0, 0]);
});

test("what the app asked a hub that goes away is still answered", () => {
  const [world, x] = synced();
  const listDevices = (request) => ({ type: "list_devices", request });
  const [number, effects] = x.engine.request(listDevices);
  x.carryOut(effects);
  x.line.say({ type: "going_away", retryAfterS: 1 });
  x.stepIn();
  assert.ok(x.engine.inSession);
  assert.deepEqual(x.hangups, []);
  assert.throws(() => x.engine.request(listDevices), NotConnected);
  x.line.say({ type: "device_list", request: number, devices: [] });
  x.stepIn();
  assert.deepEqual(x.effects.map((effect) => effect.number), [number]);
  assert.equal(x.hangups.length, 1);
  world.settle();
});

test("a hub that goes away without its answers is left after ten seconds", () => {
  const [world, x] = synced();
  x.put("a", 1);
  const sealed = underWay(x);
  x.toHub.length = 0;
  x.line.say({ type: "going_away", retryAfterS: 1 });
  x.stepIn();
  world.passTime(9.9);
  assert.deepEqual(x.hangups, []);
  world.passTime(0.2);
  assert.equal(x.hangups.length, 1);
  world.settle();
  assert.deepEqual(keptIn(x), sealed);
});

test("the person is told offline once no other hub could be reached", () => {
  const [, x] = synced();
  x.line.say({ type: "going_away", retryAfterS: 1 });
  x.stepIn();
  assert.equal(x.status().phase, "connecting");
  x.carryOut(x.engine.disconnected());
  assert.equal(x.status().phase, "offline");
  x.connect();
  x.carryOut(x.engine.disconnected("", { restarting: true }));
  assert.equal(x.status().phase, "connecting");
});

test("a message of a later hub is passed over", () => {
  const [world, x] = synced();
  x.line.out.push(pack({ type: "something_later", n: 1 }));
  x.put("a", 1);
  world.quiesce();
  assert.deepEqual(where(x), ["synced", 0, 0]);
  assert.deepEqual(x.hangups, []);
});

// --- coming back ---

test("coming back costs an idle device one round trip however many collections it has", () => {
  const world = new World();
  const names = Array.from({ length: 9 }, (_, n) => `c${n}`);
  const x = world.peer("x", lastWriterWins, undefined, Object.fromEntries(names.map((name) => [name, lastWriterWins])));
  for (const name of ["notes", ...names]) x.put("k", 1, name);
  world.settle();
  world.passTime(60); // whatever it has to state is stated
  x.cut();
  const { heard } = world.hub;
  heard.length = 0;
  x.connect();
  push(x);
  assert.deepEqual(heardTypes(world), ["hello"]);
  x.stepIn();
  assert.equal(x.toHub.length, 4); // and these wait for nothing
  const answers = [];
  while (x.stepOut() || x.line.out.length) {
    answers.push(...x.line.out.map((frame) => decodeFromHub(frame).type));
    hear(x);
  }
  world.passTime(20);
  assert.deepEqual(heardTypes(world), ["hello", "auth", "enter", "collections", "subscribe"]);
  assert.equal(heard.at(-1).message.cursors.length, 10);
  assert.deepEqual(answers, ["ready", "entered", "collection_list", "subscribed"]);
  assert.deepEqual(where(x), ["synced", 0, 0]);
});

test("turning sync on enters the space on a line that came up without", () => {
  const [world, x] = synced();
  turnOff(x);
  x.connect();
  world.quiesce();
  assert.equal(x.status().phase, "off");
  turnOn(x);
  x.put("a", 1);
  world.quiesce();
  assert.deepEqual(where(x), ["synced", 0, 0]);
});

for (const lost of ["cut", "refused"]) {
  test(`a witness that was lost is stated again on the next line: ${lost}`, () => {
    const [world, x, y] = synced(lastWriterWins, "xy");
    y.put("a", 1);
    world.quiesce();
    if (lost === "refused") {
      world.hub.refuseOnce.set("witness", "unavailable");
      world.passTime(20);
    } else {
      x.carryOut(x.engine.farewell(world.now));
      x.cut();
      world.settle();
      world.passTime(6);
    }
    for (const peer of [x, y]) assert.ok(logOf(x).witnesses.has(hex(peer.deviceId)));
  });
}

// --- reading ---

test("deltas of several devices merge", () => {
  const [world, x, y] = synced(manual, "xy");
  x.cut();
  y.cut();
  x.delta("doc", "from x");
  y.delta("doc", "from y");
  world.settle();
  assert.deepEqual(x.collections.notes.deltas("doc"), y.collections.notes.deltas("doc"));
  assert.deepEqual(new Set(x.collections.notes.deltas("doc")), new Set(["from x", "from y"]));
  x.snapshot("doc", ["from x", "from y"]);
  world.quiesce();
  assert.deepEqual(y.get("doc"), ["from x", "from y"]);
  assert.deepEqual(y.collections.notes.deltas("doc"), []);
  assert.deepEqual([where(x), where(y)], [["synced", 0, 0], ["synced", 0, 0]]);
});

test("the first subscribe is live only and a compacted log arrives whole", () => {
  const [world, x] = synced();
  for (let value = 0; value < 4; value += 1) {
    for (const key of "abcde") x.put(key, value);
    world.quiesce();
  }
  x.delete("e");
  x.delta("doc", 1);
  world.quiesce();
  world.hub.compact();
  const y = world.peer("y");
  for (let n = 0; n < 2; n += 1) {
    world.settle();
    y.cut();
  }
  world.settle();
  const ofY = world.hub.heard.filter(({ deviceId }) => equal(deviceId, y.deviceId)).map(({ message }) => message);
  const cursors = ofY.filter(({ type }) => type === "subscribe").flatMap((message) => message.cursors);
  assert.deepEqual([cursors[0].liveOnly, cursors[0].seq], [true, 0]);
  assert.deepEqual([cursors.at(-1).liveOnly, cursors.at(-1).seq], [false, logOf(x).head]);
  assert.deepEqual(y.items(), { a: 3, b: 3, c: 3, d: 3, doc: MISSING });
  assert.deepEqual(y.items(), x.items());
  assert.deepEqual(y.collections.notes.deltas("doc"), [1]);
  assert.deepEqual(y.alarms(), []);
});

test("a hub restored from an older backup is healed and nothing local goes away", () => {
  const [world, x, y] = synced(lastWriterWins, "xy");
  x.put("a", 1);
  world.quiesce();
  const backup = world.hub.backup();
  const later = [x.put("a", 2), y.put("b", 1)];
  world.quiesce();
  for (const peer of world.peers) peer.cut();
  world.hub.restore(backup, utf8("J".repeat(16)));
  world.settle();
  assert.deepEqual([x.items(), y.items()], [{ a: 2, b: 1 }, { a: 2, b: 1 }]);
  assert.deepEqual([where(x), where(y)], [["synced", 0, 0], ["synced", 0, 0]]);
  assert.deepEqual([x.alarms(), y.alarms()], [[], []]);
  const kept = keptIn(x).map((sealed) => hex(parseHeader(sealed).changeId));
  for (const changeId of later) assert.ok(kept.includes(hex(changeId)));
  const z = world.peer("z");
  world.settle();
  assert.deepEqual(z.items(), x.items());
});

/** Every line is cut, and the hub begins another life with this backup. */
function restore(world, backup) {
  for (const peer of world.peers) peer.cut();
  world.hub.restore(backup, utf8("J".repeat(16)));
}

test("deltas that a restored hub lacks are appended again", () => {
  const [world, x] = synced();
  const changeId = x.delta("doc", "added");
  world.quiesce();
  restore(world, new Map());
  world.settle();
  assert.deepEqual(appendedIds(world), [hex(changeId), hex(changeId)]);
  const z = world.peer("z");
  world.settle();
  assert.deepEqual(z.collections.notes.deltas("doc"), ["added"]);
});

test("deltas that a snapshot in the restored log contains are not appended again", () => {
  const [world, x, y] = synced(lastWriterWins, "xy");
  x.delta("doc", "added");
  world.quiesce();
  x.cut();
  y.snapshot("doc", ["added"]);
  world.quiesce();
  world.hub.compact(); // the log shows the snapshot alone
  restore(world, world.hub.backup());
  const before = world.hub.appended.length;
  world.settle();
  assert.equal(world.hub.appended.length, before);
  assert.deepEqual([x.get("doc"), x.collections.notes.deltas("doc")], [["added"], []]);
});

test("an edit that waits brings all of its record to a restored hub and is appended once", () => {
  const [world, x] = synced();
  x.put("a", 1);
  world.quiesce();
  x.cut();
  const changeId = x.put("a", 2);
  restore(world, new Map());
  const before = world.hub.appended.length;
  world.settle();
  assert.deepEqual(appendedIds(world).slice(before), [hex(changeId)]);
  assert.deepEqual([x.items(), where(x)], [{ a: 2 }, ["synced", 0, 0]]);
});

test("a device that missed purged tombstones reads anew from the start and lets go of what was deleted", () => {
  const [world, x, y] = synced(lastWriterWins, "xy");
  for (const key of ["a", "b", "c"]) x.put(key, 1);
  world.quiesce();
  y.cut();
  x.delete("a");
  x.put("b", 2);
  world.quiesce();
  const upto = logOf(x).head;
  x.cut();
  const { collectionId } = x.collections.notes.row;
  const purge = seal(KEYS, {
    kind: Kind.PURGE, flagsConditional: false, collectionId, recordId: ZERO_ID, changeId: utf8("p".repeat(16)),
    deviceId: utf8("another device__"), counter: 1, base: concat(new Uint8Array(8), u64(upto)),
    plaintext: new Uint8Array(0), nonce: new Uint8Array(24),
  });
  logOf(x).append(purge);
  world.hub.compact();
  world.settle();
  assert.deepEqual([x.items(), y.items()], [{ b: 2, c: 1 }, { b: 2, c: 1 }]);
  assert.deepEqual([x.alarms(), y.alarms(), where(y)], [[], [], ["synced", 0, 0]]);
  const asked = world.hub.heard.filter(({ message }) => message.type === "subscribe").map(({ message }) => message);
  assert.deepEqual(asked.at(-1).cursors.map(({ seq, liveOnly }) => [seq, liveOnly]), [[0, true]]);
});

// --- off, on, and wiped ---

test("a wipe by another device keeps local data and turns sync off", () => {
  const [world, x, y] = synced(lastWriterWins, "xy");
  x.put("a", 1);
  world.quiesce();
  wipeOf(y);
  world.quiesce();
  assert.ok(y.engine.wipingDone);
  assert.deepEqual(x.effects, [new Wiped()]);
  assert.deepEqual([x.line, x.status().phase], [null, "off"]);
  assert.equal(x.hangups.at(-1).retry, false);
  assert.deepEqual([x.items(), y.items()], [{ a: 1 }, { a: 1 }]);
  assert.deepEqual(keptKinds(x), [Kind.WIPE]);
  x.crash();
  assert.equal(x.status().phase, "off");
  turnOn(x);
  x.connect();
  world.quiesce();
  assert.deepEqual(where(x), ["synced", 0, 0]);
  assert.equal(logOf(x).live.size, 1);
});

test("while the remote copies are dropped no other edit is sent", () => {
  const [world, x] = synced();
  x.put("a", 1);
  world.quiesce();
  wipeOf(x);
  x.put("a", 2);
  x.put("b", 1);
  world.quiesce();
  assert.ok(x.engine.wipingDone);
  assert.deepEqual(keptKinds(x), [Kind.WIPE]);
  assert.deepEqual(x.items(), { a: 2, b: 1 });
});

for (const [name, strategy, value] of [["lastWriterWins", lastWriterWins, 1], ["theirs", theirs, 2]]) {
  test(`what comes behind a wipe is not shown before the person goes on: ${name}`, () => {
    const [world, x, y] = synced(strategy, "xy");
    world.hub.pageChanges = 100;
    x.put("a", 1);
    world.quiesce();
    x.cut();
    wipedBy(y);
    turnOn(y);
    y.connect();
    y.put("a", 2);
    talk(y);
    x.connect();
    talk(x);
    assert.deepEqual([x.status().phase, x.get("a")], ["off", 1]);
    goOn(x);
    assert.deepEqual([x.get("a"), where(x)], [value, ["synced", 0, 0]]);
  });
}

/** The device drops the remote copies; every frame of that has arrived, at it and at the hub. */
function wipedBy(peer) {
  wipeOf(peer);
  talk(peer);
  assert.ok(peer.engine.wipingDone);
  turnOff(peer);
}

function severalEdits(peer) {
  const { notes } = peer.collections;
  const { wall } = peer.world.now;
  peer.edit("notes", () => {
    notes.put("old", { n: 2 }, wall);
    notes.put("new", { n: 4 }, wall);
    notes.delete("gone", wall);
    notes.appendDelta("doc", "added", wall);
  });
}

const DELTAS = new Set(["seen", "added"]);
const deltasOf = (peer) => new Set(peer.collections.notes.deltas("doc"));

for (const first of ["answer", "wipe"]) {
  for (const [name, strategy] of Object.entries(NAMED)) {
    for (const end of ["cut", "crash"]) {
      const how = `${first} first, ${name}, ${end}`;
      test(`a draft whose answer was lost before a wipe stays on its device and the person is asked: ${how}`, () => {
        const [world, x, y] = synced(strategy, "xy");
        x.put("old", { n: 1 });
        x.put("gone", { n: 1 });
        x.delta("doc", "seen");
        world.quiesce();
        x.put("new", { n: 3 });
        severalEdits(x); // one on top of the first, which is sealed already
        push(x);
        x[end]();
        wipedBy(y);
        x.connect();
        const local = { old: { n: 2 }, new: { n: 4 }, doc: MISSING };
        while (x.stepOut() || x.stepIn()) {
          if (first === "answer") x.overtake();
          assert.deepEqual(x.items(), local);
          assert.deepEqual(deltasOf(x), DELTAS);
        }
        assert.deepEqual(x.effects, [new Wiped()]);
        assert.equal(x.status().phase, "off");
        assert.ok(x.status().unsynced > 0);
        assert.deepEqual(keptKinds(x), [Kind.WIPE]);
        turnOn(x);
        const z = world.peer("z", strategy);
        for (const peer of [x, z]) peer.connect();
        world.quiesce();
        assert.deepEqual(where(x), ["synced", 0, 0]);
        assert.deepEqual([x.items(), z.items()], [local, local]);
        assert.deepEqual(deltasOf(z), DELTAS);
      });
    }
  }
}

for (const [name, strategy] of Object.entries(NAMED)) {
  test(`a draft that was wiped is appended anew when the wipe was read before its answer: ${name}`, () => {
    const [world, x, y] = synced(strategy, "xy");
    x.put("a", { n: 1 });
    x.delta("doc", "added");
    push(x);
    x.cut();
    hear(y);
    wipedBy(y);
    world.hub.refuseNext = ["unavailable"]; // so that the drafts have no answer when the wipe is read
    x.connect();
    talk(x);
    assert.equal(x.status().phase, "off");
    assert.deepEqual(x.get("a"), { n: 1 });
    turnOn(x);
    x.connect();
    world.quiesce();
    assert.deepEqual(where(x), ["synced", 0, 0]);
    assert.deepEqual(x.get("a"), { n: 1 });
    assert.deepEqual(x.collections.notes.deltas("doc"), ["added"]);
    assert.equal(logOf(x).live.size, 2);
  });

  for (const first of ["answer", "wipe"]) {
    test(`an edit that was wiped does not come after the next of its record: ${first} first, ${name}`, () => {
      const [world, x, y] = synced(strategy, "xy");
      x.put("a", { n: 1 });
      push(x);
      x.cut();
      hear(y);
      wipedBy(y);
      x.put("a", { n: 2 });
      x.connect();
      while (x.stepOut() || x.stepIn()) {
        if (first === "answer") x.overtake();
        assert.deepEqual(x.get("a"), { n: 2 });
      }
      assert.equal(x.status().phase, "off");
      goOn(x);
      const z = world.peer("z", strategy);
      z.connect();
      world.quiesce();
      assert.deepEqual(where(x), ["synced", 0, 0]);
      assert.deepEqual([x.get("a"), z.get("a")], [{ n: 2 }, { n: 2 }]);
    });
  }
}

/** A strategy that takes what the log has, and what it was asked. */
function asking() {
  const asked = [];
  const strategy = (conflict) => {
    asked.push(conflict);
    return THEIRS;
  };
  return [strategy, asked];
}

// Refused because the log has not got its base: asked again before that is read, it would be refused again.
test("an edit whose base is wiped waits until the wipe is read", () => {
  const [strategy, asked] = asking();
  const [world, x, y] = synced(strategy, "xy");
  x.put("a", { n: 1 });
  push(x);
  x.overtake();
  x.stepIn(); // acknowledged, and not read yet
  assert.deepEqual(statesOf(x, "a"), [State.ACKED]);
  hear(y);
  wipeOf(y);
  push(y);
  x.put("a", { n: 2 });
  push(x);
  x.overtake();
  x.stepIn();
  assert.deepEqual(x.toHub, []);
  assert.deepEqual(asked, []);
  world.quiesce();
  assert.deepEqual(x.get("a"), { n: 2 });
  turnOn(x);
  x.connect();
  world.quiesce();
  assert.deepEqual(where(x), ["synced", 0, 0]);
  assert.deepEqual(x.get("a"), { n: 2 });
});

/** The person switches sync on again; the device and the hub say all they have to say. */
function goOn(peer) {
  turnOn(peer);
  for (let n = 0; n < 3; n += 1) { // a line that ends in between is followed by another
    peer.connect();
    talk(peer);
  }
  assert.equal(peer.status().phase, "synced");
}

/**
 * Two devices; of one the log has change 1 and lacks the `lost` behind it, and it holds none of those any more.
 *
 * They were deltas that both devices appended again after a wipe, and it met the other's.
 */
function withAUsedCounter(lost) {
  const [world, x, y] = synced(perField, "xy");
  const byX = () => world.hub.appended.filter((header) => equal(header.deviceId, x.deviceId));
  world.hub.limits.drafts_per_append_max = 1;
  for (let n = 0; n <= lost; n += 1) {
    y.delta("doc", n);
    world.quiesce();
  }
  wipedBy(y);
  world.quiesce();
  turnOn(x);
  x.connect();
  while (!underWay(x).length) assert.ok(x.stepOut() || x.stepIn());
  while (!byX().length) x.stepOut();
  x.cut();
  goOn(y);
  wipedBy(y);
  goOn(y);
  for (let n = 0; n < 2; n += 1) {
    world.hub.refuseNext = Array(1 + lost).fill("unavailable");
    turnOn(x);
    x.connect();
    world.quiesce();
  }
  world.hub.refuseNext = [];
  assert.deepEqual(rows(x, "doc"), []);
  assert.deepEqual(byX().map(({ counter }) => counter), [1]);
  assert.equal(x.collections.notes.row.counter, 1 + lost);
  return [world, x, y, byX];
}

for (const lost of [0, 1]) {
  test(`counters that are used are not used again when their rows are gone: ${lost} lost`, () => {
    const [world, x, y, byX] = withAUsedCounter(lost);
    y.put("a", { n: 1 });
    push(y);
    x.put("a", { m: 1 });
    world.passTime(30);
    assert.deepEqual(where(x), ["synced", 0, 0]);
    assert.deepEqual([x.get("a"), y.get("a")], [{ n: 1, m: 1 }, { n: 1, m: 1 }]);
    assert.deepEqual(byX().map(({ counter }) => counter), [1, 2]);
  });
}

for (const readFirst of [false, true]) {
  test(`an edit of a record that was wiped meanwhile is no edit of a deleted one: read first ${readFirst}`, () => {
    const [strategy, asked] = asking();
    const [world, x, y] = synced(strategy, "xy");
    x.put("a", { n: 1 });
    world.quiesce();
    wipeOf(y);
    if (readFirst) {
      x.put("a", { n: 2 });
      x.toHub.length = 0; // sealed, and lost on the way
      push(y);
    } else {
      push(y);
      x.put("a", { n: 2 }); // the wipe is in the log, and not read here
    }
    for (let n = 0; n < 3; n += 1) {
      world.quiesce();
      assert.deepEqual(x.get("a"), { n: 2 });
    }
    turnOn(x);
    x.connect();
    world.quiesce();
    assert.deepEqual(where(x), ["synced", 0, 0]);
    assert.deepEqual(x.get("a"), { n: 2 });
    assert.equal(logOf(x).live.size, 1);
    assert.deepEqual(asked, []);
  });
}

for (const strategy of [lastWriterWins, perField, theirs]) {
  const how = strategy.name;
  test(`a wipe that is read after the person went on is settled with what came after it: ${how}`, () => {
    const world = new World();
    const [x, y] = [..."xy"].map((name) => world.peer(name, strategy, undefined, { other: strategy }));
    world.settle();
    for (const collection of ["notes", "other"]) x.put("k", { n: 1 }, collection);
    world.quiesce();
    x.cut();
    wipedBy(y);
    turnOn(y);
    y.connect();
    for (const collection of ["notes", "other"]) y.put("k", { n: 2 }, collection);
    talk(y);
    x.connect();
    while (x.line && (x.stepOut() || x.stepIn()));
    assert.equal(x.status().phase, "off"); // asked at the first of the two wipes; the other is not read
    goOn(x);
    world.quiesce();
    world.passTime(30);
    assert.deepEqual([where(x), where(y)], [["synced", 0, 0], ["synced", 0, 0]]);
    assert.deepEqual(x.items("notes"), y.items("notes"));
    assert.deepEqual(x.items("other"), y.items("other"));
  });
}

test("edits made while sync is off go out when it is turned on", () => {
  const [world, x] = synced();
  turnOff(x);
  assert.equal(x.hangups.at(-1).retry, false);
  x.put("a", 1);
  x.connect();
  world.quiesce();
  assert.deepEqual(where(x), ["off", 1, 0]);
  assert.deepEqual(world.hub.appended, []);
  x.cut();
  turnOn(x);
  assert.deepEqual(where(x), ["offline", 1, 0]);
  world.settle();
  assert.deepEqual(where(x), ["synced", 0, 0]);
  assert.equal(world.hub.appended.length, 1);
});

// --- time ---

test("witnesses are sent soon after acks", () => {
  const [world, x, y] = synced(lastWriterWins, "xy");
  world.passTime(10);
  logOf(x).witnesses.clear();
  x.put("a", 1);
  world.quiesce();
  assert.equal(logOf(x).witnesses.size, 0);
  world.passTime(2.5);
  assert.deepEqual([...logOf(x).witnesses.keys()], [hex(x.deviceId)]);
  assert.deepEqual(y.engine.witnessedSeqs(y.collections.notes.n), new Map([[hex(x.deviceId), logOf(x).head]]));
  world.passTime(3);
  assert.deepEqual(new Set(logOf(x).witnesses.keys()), new Set([hex(x.deviceId), hex(y.deviceId)]));
  assert.deepEqual(x.engine.farewell(world.now), []); // there is nothing new to state
});

test("a connection with work on which nothing moves is aborted", () => {
  const [world, x] = synced();
  x.put("a", 1);
  x.toHub.length = 0; // the hub never hears of it, and goes on answering pings
  world.passTime(59);
  assert.deepEqual(x.hangups, []);
  assert.ok(heardTypes(world).includes("ping"));
  world.passTime(2);
  assert.deepEqual(x.hangups.map(({ reason, retry }) => [reason, retry]), [["there is work and nothing moves", true]]);
  world.settle();
  assert.deepEqual(where(x), ["synced", 0, 0]);
});

test("a connection on which the hub is silent is aborted", () => {
  const [world, x] = synced();
  x.line.take = () => {};
  world.passTime(34);
  assert.deepEqual(x.hangups, []);
  world.passTime(2);
  assert.deepEqual(x.hangups.map(({ reason }) => reason), ["the hub does not answer"]);
});

test("a hub that tells a higher head and sends nothing is asked again", () => {
  const [world, x, y] = synced(lastWriterWins, "xy");
  y.put("a", 1);
  push(y);
  x.line.out.length = 0; // the change is lost on its way
  x.carryOut(x.engine.askHeads());
  world.quiesce();
  assert.equal(x.status().phase, "catching-up");
  world.passTime(16);
  assert.deepEqual([x.items(), where(x)], [{ a: 1 }, ["synced", 0, 0]]);
});

// --- the status ---

test("the status says where an edit is and how long it has waited", () => {
  const world = new World();
  const x = world.peer("x");
  let status = x.status();
  assert.deepEqual([status.phase, status.unsynced, status.oldestUnsyncedAgeS], ["offline", 0, 0]);
  assert.deepEqual([status.lastAppendedAt, status.headSeenAt, status.alarms, status.error], [0, 0, [], ""]);
  const changeId = x.put("a", 1);
  world.passTime(30);
  x.put("b", 1);
  world.passTime(12);
  status = x.status();
  assert.deepEqual([status.unsynced, status.oldestUnsyncedAgeS, status.progress.remaining], [2, 42, 2]);
  assert.ok(!x.engine.isAppended(changeId));
  x.connect();
  assert.equal(x.status().phase, "connecting");
  const seen = new Set();
  while (x.stepOut() || x.stepIn()) seen.add(x.status().phase);
  assert.deepEqual([...seen], ["connecting", "catching-up", "sending", "synced"]);
  status = x.status();
  assert.deepEqual([status.unsynced, status.oldestUnsyncedAgeS, status.progress.remaining], [0, 0, 0]);
  assert.deepEqual([status.lastAppendedAt, status.headSeenAt], [world.now.wall, world.now.wall]);
  assert.ok(x.engine.isAppended(changeId));
  x.cut();
  assert.deepEqual(where(x), ["offline", 0, 0]);
});

test("turning on after a wipe of many collections is said once", () => {
  const world = new World(7);
  const [x, y] = [..."xy"].map((name) => world.peer(name, lastWriterWins, undefined, { other: lastWriterWins }));
  const both = (peer) => [peer.items(), peer.items("other")];
  const all = [{ k: 1 }, { k: 2 }];
  x.put("k", 1);
  x.put("k", 2, "other");
  world.settle();
  assert.deepEqual(both(y), all);
  wipeOf(x);
  talk(x);
  assert.ok(x.engine.wipingDone);
  turnOff(x);
  while (y.storage.setting("wiped") === null) assert.ok(y.stepOut() || y.stepIn());
  turnOn(y); // with the wipe of the second collection still unread
  world.settle();
  world.passTime(30);
  world.settle();
  assert.deepEqual([y.engine.device.mode, y.status().phase], ["on", "synced"]);
  assert.deepEqual(both(y), all);
  const fresh = world.peer("z", lastWriterWins, undefined, { other: lastWriterWins });
  world.settle();
  assert.deepEqual(both(fresh), all);
  wipeOf(fresh);
  world.quiesce();
  assert.equal(y.engine.device.mode, "off"); // a later wipe is asked about anew
});

// --- healing together ---

/** The hub loses everything while nobody is connected. */
function emptied(world, ...peers) {
  for (const peer of peers) peer.cut();
  world.hub.restore(new Map(), utf8("J".repeat(16)));
}

/** All of them read the log to its head before any of them appends to it. */
function readAll(...peers) {
  for (const peer of peers) {
    peer.connect();
    while (!underWay(peer).length && (peer.stepOut() || peer.stepIn()));
  }
}

for (const first of ["x", "y"]) {
  test(`an edit that waits is not undone by a device that brings back what was before (${first} first)`, () => {
    const [world, x, y] = synced(lastWriterWins, "xy");
    x.put("a", "old");
    x.put("gone", "old");
    world.settle();
    emptied(world, x, y);
    x.put("a", "new");
    x.delete("gone");
    readAll(x, y);
    for (const peer of first === "x" ? [x, y] : [y, x]) push(peer);
    world.settle();
    assert.deepEqual(x.items(), y.items());
    assert.equal(x.items().a, "new");
    for (const peer of [x, y]) assert.equal(peer.status().phase, "synced");
  });
}

test("an older copy that was brought back first gives way to the newer one", () => {
  const [world, x, y] = synced(lastWriterWins, "xy");
  x.put("a", 1);
  world.settle();
  y.cut();
  x.put("a", 2);
  world.quiesce();
  emptied(world, x, y);
  readAll(x, y);
  push(y);
  world.settle();
  assert.deepEqual(x.items(), { a: 2 });
  assert.deepEqual(y.items(), { a: 2 });
});

test("a person may say follow before the hub has hung up", () => {
  const [, x] = synced();
  x.engine.received(encode({ type: "moved", url: "wss://new.test/v1/ws" }), x.world.now);
  assert.equal(x.status().movedTo, "wss://new.test/v1/ws");
  x.engine.follow();
  x.engine.disconnected("the account lives at another hub now");
  assert.deepEqual([x.status().phase, x.status().error, x.status().movedTo], ["offline", "", ""]);
});
