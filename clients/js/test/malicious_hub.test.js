/**
 * A hub that lies, against the real client engine: each lie raises its named alarm and touches no local data.
 *
 * The lies are those of docs/threat-model.md "Malicious operator".  The last part is the other half of the promise: a
 * thousand honest schedules raise none.
 */

import assert from "node:assert/strict";
import { test } from "node:test";

import { equal, hex, utf8 } from "../src/bytes.js";
import { ALARMS } from "../src/check.js";
import { SpaceKeys } from "../src/keys.js";
import { recordPlaintext, seal } from "../src/sealing.js";
import { Kind, ZERO_ID } from "../src/terms.js";
import { encodeBody } from "../src/values.js";
import { parseHeader } from "../src/wire/header.js";
import { Log } from "../src/testing/log.js";
import { KEYS, World } from "./engine_hub.js";
import { everything, finish, makeWorld, plain, play } from "./engine_worlds.js";

const COLLECTION = KEYS.collectionId("notes");
const STRANGERS_KEYS = await SpaceKeys.derive(utf8("?".repeat(32)));
const MANY = 5;

/** Two devices in step; then the laptop goes away, the phone writes on, and the hub begins to lie. */
class Lie {
  constructor(seed) {
    this.world = new World(seed);
    this.world.hub.pageChanges = 100;
    this.phone = this.world.peer("phone");
    this.laptop = this.world.peer("laptop");
    for (let number = 0; number < 6; number += 1) this.phone.put(`old${number}`, number);
    this.world.settle();
    this.laptop.put("from laptop", 1);
    this.pass();
    assert.deepEqual(this.phone.items(), this.laptop.items());
    assert.equal(Object.keys(this.phone.items()).length, 7);
    this.laptop.cut();
    this.known = this.log.head;
    for (let number = 0; number < 4; number += 1) this.phone.put(`new${number}`, number);
    this.phone.delete("old1");
    this.pass(); // and the phone has stated what it holds
  }

  get log() {
    return this.world.hub.log(COLLECTION);
  }

  set log(log) {
    this.world.hub.setLog(COLLECTION, log);
  }

  /** Everything arrives, and whoever has something to state has stated it. */
  pass() {
    this.world.quiesce();
    this.world.passTime(30);
  }

  fresh() {
    return this.world.peer("tablet");
  }

  /** A change by a device of the space, or by a stranger, sealed as `keys` allow. */
  forge(keys = KEYS, { key = "x", recordKey = "x", collection = "notes" } = {}) {
    const collectionId = keys.collectionId(collection);
    return seal(keys, {
      kind: Kind.PUT,
      flagsConditional: false,
      collectionId,
      recordId: keys.recordId(collectionId, recordKey),
      changeId: this.world.random.bytes(16),
      deviceId: utf8("stranger________"),
      counter: 1,
      base: ZERO_ID,
      plaintext: recordPlaintext(key, encodeBody("evil")),
      nonce: this.world.random.bytes(24),
    });
  }

  /** Put bytes at the end of the log as if they had been appended. */
  add(sealed) {
    this.log.head += 1;
    this.log.kept.set(this.log.head, sealed);
    this.log.live.set(hex(this.world.random.bytes(16)), [this.log.head]);
  }

  /** Leave a change out, for readers of the live set too. */
  hide(seq) {
    this.log.kept.delete(seq);
    for (const [id, seqs] of this.log.live) this.log.live.set(id, seqs.filter((one) => this.log.kept.has(one)));
  }

  /** Forget everything above `seq`. */
  rollBack(seq) {
    for (const one of [...this.log.kept.keys()]) if (one > seq) this.hide(one);
    this.log.head = seq;
  }

  /** Let the listeners hear the hub for a while; the alarms they raise. */
  tell(...listeners) {
    for (const peer of listeners) peer.connect();
    this.world.quiesce();
    for (let n = 0; n < 3; n += 1) {
      this.world.passTime(40);
      for (const peer of listeners) peer.connect();
      this.world.quiesce();
    }
    return new Set(listeners.flatMap((peer) => peer.alarms()));
  }
}

/** The lie raises one of the alarms it must, and what was on the device is still there. */
function caught(lie, expected, listener) {
  const before = listener.items();
  delete before.old1; // the phone did delete that one
  const alarms = [...lie.tell(listener)];
  assert.ok(alarms.length > 0 && alarms.every((name) => expected.includes(name)), `alarms: ${alarms}`);
  const after = listener.items();
  for (const [key, value] of Object.entries(before)) assert.deepEqual(after[key], value, "local data was touched");
  listener.put("after the alarm", "still works");
  assert.equal(listener.get("after the alarm"), "still works");
  assert.equal(listener.status().phase, "alarm");
  nothingIsSent(lie, listener);
}

/** What is in doubt gets nothing from this device, on a new line neither. */
function nothingIsSent(lie, listener) {
  const { heard } = lie.world.hub;
  listener.cut();
  heard.length = 0;
  lie.tell(listener);
  const byListener = heard.filter(({ deviceId }) => equal(deviceId, listener.deviceId));
  assert.ok(byListener.length > 0);
  assert.ok(!byListener.some(({ message }) => message.type === "append"));
}

function lies(name, work) {
  test(name, () => {
    for (let seed = 0; seed < MANY; seed += 1) work(new Lie(seed));
  });
}

const sortedSeqs = (log) => [...log.kept.keys()].sort((one, other) => one - other);
const LEFT_OUT = ["digest_mismatch", "omission", "gap"];

lies("a change left out for a device that lags", (lie) => {
  lie.log.kept.delete(lie.world.random.below(lie.known + 1, lie.log.head));
  caught(lie, LEFT_OUT, lie.laptop);
});

lies("a live change left out for a fresh device after compaction", (lie) => {
  lie.world.hub.compact();
  lie.hide(lie.world.random.choice(sortedSeqs(lie.log).slice(0, -1)));
  caught(lie, LEFT_OUT, lie.fresh());
});

lies("a log rolled back under a device that remembers", (lie) => {
  lie.rollBack(lie.known - 2);
  caught(lie, ["rollback"], lie.laptop);
});

lies("a log rolled back for a fresh device while witnesses are kept", (lie) => {
  lie.rollBack(lie.log.head - 2);
  caught(lie, ["withheld", "digest_mismatch"], lie.fresh());
});

function swap(lie, one, other) {
  const { kept } = lie.log;
  const [first, second] = [kept.get(one), kept.get(other)];
  kept.set(one, second);
  kept.set(other, first);
}

lies("a head that goes back on a line that stands", (lie) => {
  lie.laptop.connect();
  lie.pass();
  const { head } = lie.log;
  const tell = (type, told) => {
    lie.laptop.line.say({ type, heads: [{ spaceId: KEYS.spaceId, collectionId: COLLECTION, head: told }] });
    lie.world.quiesce();
    return lie.laptop.alarms();
  };
  // A head may have been looked up before what has come since; not before what was here at the last ping.
  assert.deepEqual(tell("pong", head), []);
  assert.deepEqual(tell("pong", head - 2), []);
  assert.deepEqual(tell("ping", head - 2), []);
  assert.deepEqual(tell("ping", head - 2), ["rollback"]);
});

lies("two changes of one author swapped", (lie) => {
  swap(lie, lie.log.head - 1, lie.log.head - 2);
  caught(lie, ["gap", "replay"], lie.laptop);
});

lies("two changes of different authors swapped", (lie) => {
  const tablet = lie.fresh();
  lie.phone.put("p", 1);
  lie.world.quiesce();
  lie.laptop.connect();
  lie.world.quiesce();
  lie.laptop.put("q", 2);
  lie.pass();
  swap(lie, lie.log.head, lie.log.head - 1);
  caught(lie, ["digest_mismatch"], tablet);
});

lies("a change of another collection", (lie) => {
  lie.add(lie.forge(KEYS, { collection: "other" }));
  caught(lie, ["forged"], lie.laptop);
});

function flipped(offset) {
  const lie = new Lie(offset);
  const sealed = lie.log.kept.get(lie.log.head).slice();
  sealed[offset] ^= 1 << lie.world.random.below(8);
  lie.log.kept.set(lie.log.head, sealed);
  caught(lie, ["forged"], lie.laptop);
}

test("a flipped bit of the header", () => {
  for (let offset = 0; offset < 112; offset += 3) flipped(offset);
});

test("a flipped bit of nonce ciphertext or tag", () => {
  for (let offset = 112; offset < 270; offset += 13) flipped(offset);
});

lies("an old change shown again under a new seq", (lie) => {
  lie.add(lie.log.kept.get(lie.world.random.choice(sortedSeqs(lie.log))));
  caught(lie, ["replay"], lie.laptop);
});

lies("a change of another space", (lie) => {
  lie.add(lie.forge(STRANGERS_KEYS));
  caught(lie, ["forged"], lie.laptop);
});

lies("a body under another records id", (lie) => {
  lie.add(lie.forge(KEYS, { key: "x", recordKey: "y" }));
  caught(lie, ["record_mismatch"], lie.laptop);
});

lies("an old version of a record for a fresh device", (lie) => {
  lie.phone.put("old0", "newer");
  lie.phone.put("another", 1);
  lie.pass();
  const { kept, live } = lie.log;
  const recordId = KEYS.recordId(COLLECTION, "old0");
  const isIts = (seq) => equal(parseHeader(kept.get(seq)).recordId, recordId);
  const [first, last, ...more] = sortedSeqs(lie.log).filter(isIts);
  assert.deepEqual(more, []);
  kept.delete(last);
  live.set(hex(recordId), [first]);
  caught(lie, LEFT_OUT, lie.fresh());
});

lies("a delete that is held back", (lie) => {
  lie.phone.put("after the delete", 1);
  lie.pass();
  const { kept } = lie.log;
  const deletes = sortedSeqs(lie.log).filter((seq) => parseHeader(kept.get(seq)).kind === Kind.DELETE);
  assert.equal(deletes.length, 1);
  kept.delete(deletes[0]);
  caught(lie, LEFT_OUT, lie.laptop);
});

lies("a fork as soon as one witness crosses it", (lie) => {
  const phonesLog = lie.log.copy();
  lie.phone.cut();
  lie.laptop.connect();
  lie.world.quiesce();
  lie.laptop.put("only here", 1);
  lie.pass();
  const laptop = hex(lie.laptop.deviceId);
  const laptopsWitness = lie.log.witnesses.get(laptop);
  lie.laptop.cut();
  lie.log = phonesLog;
  lie.phone.connect();
  lie.world.quiesce();
  lie.phone.put("only there", 1);
  lie.pass();
  assert.deepEqual(lie.phone.alarms(), []);
  phonesLog.witnesses.set(laptop, laptopsWitness);
  lie.phone.cut();
  caught(lie, ["digest_mismatch", "omission"], lie.phone);
});

lies("an emptied collection without a wipe", (lie) => {
  lie.log = new Log();
  caught(lie, ["rollback"], lie.laptop);
});

lies("a space that is gone without a wipe", (lie) => {
  lie.phone.cut();
  lie.world.hub.spaces.clear();
  caught(lie, ["emptied"], lie.laptop);
});

// --- what is noticed of one's own identity ---

lies("the phones identity used by a copy of it", (lie) => {
  const copy = lie.forge();
  lie.phone.cut();
  lie.add(resealed(lie, copy));
  caught(lie, ["clone"], lie.phone);
});

/** The next change of the phone, by somebody who has its keys. */
function resealed(lie, sealed) {
  const { recordId, changeId } = parseHeader(sealed);
  return seal(KEYS, {
    kind: Kind.PUT,
    flagsConditional: false,
    collectionId: COLLECTION,
    recordId,
    changeId,
    deviceId: lie.phone.deviceId,
    counter: lie.phone.collections.notes.row.counter + 1,
    base: ZERO_ID,
    plaintext: recordPlaintext("x", encodeBody("by the copy")),
    nonce: lie.world.random.bytes(24),
  });
}

lies("a witness that has seen a change by a copy of this device", (lie) => {
  const phonesLog = lie.log.copy();
  lie.phone.cut();
  lie.add(resealed(lie, lie.forge()));
  lie.laptop.connect();
  lie.pass();
  const laptop = hex(lie.laptop.deviceId);
  phonesLog.witnesses.set(laptop, lie.log.witnesses.get(laptop));
  lie.laptop.cut();
  lie.log = phonesLog;
  caught(lie, ["clone"], lie.phone);
});

for (const [what, by, name] of [["fewer", -1, "rollback"], ["more", 1, "clone"]]) {
  lies(`a hub that knows ${what} changes of a device than there are`, (lie) => {
    lie.phone.cut();
    const phone = hex(lie.phone.deviceId);
    lie.log.counters.set(phone, lie.log.counters.get(phone) + by);
    caught(lie, [name], lie.phone);
  });
}

// --- going on ---

lies("a person who goes on when the hub is honest again has everything", (lie) => {
  const honest = lie.log.copy();
  lie.rollBack(lie.known - 2);
  caught(lie, ["rollback"], lie.laptop);
  lie.laptop.cut();
  lie.log = honest;
  lie.laptop.carryOut(lie.laptop.engine.forgetAlarms());
  lie.world.hub.heard.length = 0;
  lie.tell(lie.laptop, lie.phone);
  assert.deepEqual(lie.laptop.alarms(), []);
  assert.equal(lie.laptop.status().phase, "synced");
  assert.equal(lie.phone.get("after the alarm"), "still works");
  assert.deepEqual(lie.laptop.items(), lie.phone.items());
  const asked = lie.world.hub.heard.find(({ message }) => message.type === "subscribe").message;
  assert.deepEqual(asked.cursors.map(({ seq }) => seq), [0]); // what was in doubt is read from its beginning
});

// --- what cannot be noticed, and is said so ---

lies("a fork that is never joined is not noticed", (lie) => {
  const phonesLog = lie.log.copy();
  lie.phone.cut();
  lie.laptop.connect();
  lie.world.quiesce();
  lie.laptop.put("only here", 1);
  lie.world.quiesce();
  lie.laptop.cut();
  lie.log = phonesLog;
  assert.deepEqual(lie.tell(lie.phone), new Set());
});

lies("a whole old state for a device without memory is not noticed", (lie) => {
  const old = lie.log.copy();
  lie.phone.put("later", 1);
  lie.world.quiesce();
  lie.phone.cut();
  lie.log = old;
  assert.deepEqual(lie.tell(lie.fresh()), new Set());
});

test("every alarm has a sentence", () => {
  const names = ["rollback", "replay", "gap", "omission", "digest_mismatch", "withheld", "emptied"];
  for (const name of names) assert.match(ALARMS[name], /^[A-Z].*\.$/);
});

// --- honest hubs ---

test("a thousand honest schedules raise no alarm", () => {
  for (let seed = 10_000; seed < 11_000; seed += 1) {
    const world = makeWorld(seed, () => "mine");
    play(world, plain, 30, { everything: seed % 4 > 1 ? everything : null });
    finish(world);
    assert.deepEqual(world.peers.map((peer) => peer.alarms()), [[], [], []], `seed ${seed}`);
  }
});
