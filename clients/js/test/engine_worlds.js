/**
 * Worlds of three devices in which anything may happen next; every draw follows from one seed.
 */

import { MemoryStorage } from "../src/storage.js";
import { MINE, MISSING, Merged, THEIRS, counterSum, lastWriterWins, perField, setUnion } from "../src/strategies.js";
import { World } from "./engine_hub.js";

export const KEYS_USED = ["a", "b", "c"];

const theirs = () => THEIRS;
const mine = () => MINE;

/** Keeps theirs and puts mine beside it, as an app does that wants to lose nothing. */
function beside(conflict) {
  if (conflict.mine === MISSING) return THEIRS;
  return new Merged(conflict.theirs, { [`${conflict.key} copy`]: conflict.mine });
}

export const plain = (world) => world.random.below(100);

function fields(world) {
  const [one, other] = shuffled(world.random, ["n", "m", "o"]);
  return { [one]: world.random.below(9), [other]: world.random.below(9) };
}

const sets = (world) => new Set([0, 0, 0].map(() => world.random.below(6)));

export const STRATEGIES = [
  [lastWriterWins, plain], [theirs, plain], [mine, plain], [beside, plain],
  [perField, fields], [counterSum("n"), fields], [setUnion, sets],
];

/** The items in any order. */
export function shuffled(random, items) {
  const draws = items.map((item) => ({ item, place: random.random() }));
  return draws.sort((one, other) => one.place - other.place).map(({ item }) => item);
}

/** What a record of deltas holds, its snapshot and what was added since, in order of size. */
export function everything(peer, key) {
  const { notes } = peer.collections;
  const base = notes.get(key);
  return [...(base === MISSING ? [] : base), ...notes.deltas(key)].sort((one, other) => one - other);
}

/** Three devices; with every other seed their signatures take their time. */
export function makeWorld(seed, strategy, storage = () => new MemoryStorage(), strategies = {}) {
  const world = new World(seed);
  world.hub.pageChanges = world.random.choice([1, 2, 7]);
  for (const name of "xyz") {
    world.peer(name, strategy, storage(name), strategies).signsLate = Boolean(seed % 2);
  }
  return world;
}

/**
 * Random steps; the ids of every edit made.  With `everything`, which says what a record of deltas holds, deltas and
 * snapshots are among them.
 */
export function play(world, value, steps, { everything = null, compact = true, watch = () => {} } = {}) {
  const { random } = world;
  const edits = [];
  for (let n = 0; n < steps; n += 1) {
    const peer = random.choice(world.peers);
    const dice = random.below(16);
    if (dice <= 2) edits.push(peer.put(random.choice(KEYS_USED), value(world)));
    else if (dice === 3) peer.delete(random.choice(KEYS_USED));
    else if (dice === 4 && everything) edits.push(peer.delta("doc", value(world)));
    else if (dice === 5 && everything) peer.snapshot("doc", everything(peer, "doc"));
    else if (dice <= 5) peer.connect();
    else if (dice === 6) peer.cut();
    else if (dice === 7) peer.crash();
    else if (dice === 8 && compact && random.random() < 0.3) world.hub.compact();
    else if (dice === 8) world.passTime(random.choice([1, 3, 20, 70]));
    else if (dice === 9 && random.random() < 0.3) world.hub.refuseNext = ["unavailable"];
    else stepSome(peer, random);
    watch();
  }
  return edits;
}

/** Some frames reach the hub or the device. */
export function stepSome(peer, random) {
  for (let left = random.below(1, 6); left; left -= 1) {
    if (random.random() < 0.5) peer.stepOut();
    else peer.stepIn();
  }
}

export function finish(world) {
  for (let n = 0; n < 3; n += 1) {
    world.settle();
    world.passTime(70);
  }
  world.settle();
}
