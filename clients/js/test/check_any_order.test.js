/**
 * Honest schedules of all kinds raise no alarm, and every device ends with the same digest.
 */

import assert from "node:assert/strict";
import { test } from "node:test";

import { equal } from "../src/bytes.js";
import { SpaceKeys } from "../src/keys.js";
import { Kind } from "../src/terms.js";
import { ModelDevice, ModelHub } from "./model_hub.js";
import { Seeded, always } from "./seeded.js";

const KEYS = await SpaceKeys.derive(Uint8Array.from({ length: 32 }, (_, n) => n));
const DEVICES_MAX = 5;
/** @type {Record<string, number>} */
const WRITES = { put: Kind.PUT, delete: Kind.DELETE, delta: Kind.DELTA, keyring: Kind.KEYRING };

/** How often each step is drawn, roughly as in life. */
const OFTEN = {
  put: 4, delete: 2, delta: 1, keyring: 1, purge: 1, wipe: 1, push: 3, lookUp: 2, deliver: 2,
  hear: 2, sync: 3, testify: 3, compact: 1, backup: 1, restore: 1, join: 1, restart: 1,
};
const NAMES = Object.entries(OFTEN).flatMap(([name, times]) => Array(times).fill(name));

/** Some devices, one honest hub, and its backups. */
class World {
  /** @param {Seeded} random */
  constructor(random) {
    this.random = random;
    this.hub = new ModelHub(random.bytes(16));
    this.backups = [this.hub.snapshot()];
    this.devices = [this.device(), this.device()];
  }

  device() {
    return new ModelDevice(KEYS, "notes", this.random);
  }

  /**
   * One thing happens; `number` picks a record, a page size, a backup.
   * @param {string} name
   * @param {number} who
   * @param {number} number
   */
  step(name, who, number) {
    const device = this.devices[who % this.devices.length];
    if (name in WRITES) device.draft(WRITES[name], `record ${number % 4}`, Uint8Array.of(1, 2, 3));
    else if (name === "purge" || name === "wipe") this._cleanUp(device, name, number);
    else if (name === "lookUp") device.lookUp(this.hub, 1 + number);
    else if (name === "sync") device.sync(this.hub, 1 + number);
    else if (name === "push") device.push(this.hub);
    else if (name === "hear") device.hear(this.hub);
    else if (name === "testify") device.testify(this.hub);
    else if (name === "deliver") device.deliver();
    else if (name === "restart") device.restart();
    else this._happen(name, number);
  }

  /**
   * @param {ModelDevice} device
   * @param {string} name
   * @param {number} number
   */
  _cleanUp(device, name, number) {
    // Up to what it has seen, or beyond it: both are legal.
    if (name === "purge") device.draft(Kind.PURGE, "", undefined, { upto: Math.max(0, device.state.seq + number - 4) });
    else if (number === 0) device.draft(Kind.WIPE);
  }

  /**
   * @param {string} name
   * @param {number} number
   */
  _happen(name, number) {
    if (name === "compact") {
      this.hub.compact();
    } else if (name === "backup") {
      this.backups.push(this.hub.snapshot());
    } else if (name === "restore" && number < 3) {
      const { length } = this.backups;
      this.hub.restore(this.backups[length - 1 - (number % length)], this.random.bytes(16));
    } else if (name === "join" && this.devices.length < DEVICES_MAX) {
      this.devices.push(this.device());
    }
  }
}

/**
 * Everybody syncs, a newcomer too; all stand at the head with the digest of the hub's live rows.
 * @param {World} world
 */
function agreeInTheEnd(world) {
  const { hub, devices } = world;
  devices.push(world.device());
  for (let round = 0; round < 2; round++) { // the second round hears the witnesses of the first
    for (const device of devices) {
      device.sync(hub);
      device.testify(hub);
    }
  }
  for (const device of devices) {
    device.sync(hub);
    device.check.caughtUp(hub.head);
    const { exact, seq, digest, nLive, alarms, pending } = device.state;
    assert.ok(exact && seq === hub.head);
    assert.deepEqual(digest, hub.liveDigest(KEYS));
    assert.equal(nLive, device.live.count());
    assert.ok(!alarms.length && !pending.size);
  }
}

test("an honest hub raises no alarm", () => {
  always(500, (random) => {
    const world = new World(random);
    const steps = random.below(5, 81);
    // CheckFailed would end the example.
    for (let n = 0; n < steps; n++) world.step(random.choice(NAMES), random.below(DEVICES_MAX), random.below(8));
    agreeInTheEnd(world);
  });
});

test("a long honest life raises no alarm and every exact digest is true", () => {
  always(60, (random) => {
    const world = new World(random);
    const names = NAMES.filter(() => random.random() < 0.8);
    for (let n = 0; n < 300; n++) {
      world.step(random.choice(names), random.below(DEVICES_MAX), random.below(8));
      const expected = world.hub.liveDigest(KEYS);
      for (const { state } of world.devices) {
        if (!state.exact || state.seq !== world.hub.head) continue;
        if (equal(state.incarnation, world.hub.incarnation)) assert.deepEqual(state.digest, expected);
      }
    }
    agreeInTheEnd(world);
  });
});

test("the schedules compare witnesses rather than pass them by", () => {
  // Guards the property above against being empty.
  const random = new Seeded(7);
  const world = new World(random);
  let compared = 0;
  for (let n = 0; n < 1_000; n++) {
    world.step(random.choice(["put", "delete", "delta", "sync", "testify", "compact"]), random.below(2), 3);
    for (const { state } of world.devices) {
      const exact = new Set(state.ring.map((point) => point.seq));
      for (const { seq } of state.witnesses.values()) compared += Number(exact.has(seq));
    }
  }
  assert.ok(compared > 500, `${compared}`);
});
