/**
 * Pairing: one scan adds a device, and nobody in between learns or changes anything.
 *
 * The hub between the two devices is played by the test: it may read, hold back, double, replay and put in what it
 * likes.  What pairing asks of the real hub is in pairing_hub.test.js.
 */

import assert from "node:assert/strict";
import { createHash, hkdfSync } from "node:crypto";
import { test } from "node:test";

import { x25519 } from "@noble/curves/ed25519.js";

import { concat, equal, hex, u32, unhex, utf8 } from "../src/bytes.js";
import { PAIRING_FAULTS, PairingFailed } from "../src/errors.js";
import { keyCode, WrongKeyCode } from "../src/keycode.js";
import { SpaceKeys } from "../src/keys.js";
import { pack, Raw } from "../src/msgpack.js";
import {
  channelOf, Failed, Giver, Hand, HEADS_MAX, Named, packedGrant, packedTranscript, Paired, PAIRING_CODE, pairingCode,
  pairingKeys, parsePairingCode, Show, Take, Taker, unpackedGrant, Vouch, WITHIN_S,
} from "../src/pairing.js";
import { paddedBytes } from "../src/sealing.js";
import { LIMITS } from "../src/terms.js";
import { always } from "./seeded.js";
import { vectors } from "./vectors.js";

/** @typedef {import("../src/pairing.js").Effect} Effect */
/** @typedef {"giver" | "taker"} Who */

const VECTORS = vectors("crypto").pair;
const URL_ = "wss://hub.example.org/v1/ws";
const APP = "org.example.notes";
const ACCOUNT = new Uint8Array(16).fill(0xac);
const OLD = device(0xd1);
const NEW = device(0xd2);
const APP_KEY = Uint8Array.from({ length: 32 }, (_, n) => n);
const KEYS = await SpaceKeys.derive(APP_KEY);
const GRANT = {
  spaceId: KEYS.spaceId,
  keyEpoch: 0,
  appKey: APP_KEY,
  keyId: KEYS.keyId,
  incarnation: new Uint8Array(16).fill(0x1c),
  heads: /** @type {[Uint8Array, number][]} */ ([[new Uint8Array(16).fill(0x63), 7]]),
};
/** @type {Record<string, number>} */
const HEAD = { "giver offer": 1, "taker offer": 2, name: 3, grant: 4, taken: 5, cancel: 6 };
const SEALED = ["giver offer", "taker offer", "name", "grant", "taken"];
const BOTH = /** @type {Who[]} */ (["giver", "taker"]);

/** @param {number} byte */
function device(byte, more = {}) {
  return { deviceId: filled(16, byte), devicePk: filled(32, byte - 0xc4), appId: APP, hubUrl: URL_, ...more };
}

/** @param {number} length @param {number} byte */
function filled(length, byte) {
  return new Uint8Array(length).fill(byte);
}

/** @param {number} size */
function fresh(size) {
  return crypto.getRandomValues(new Uint8Array(size));
}

/** @param {Who} who */
function other(who) {
  return who === "giver" ? "taker" : "giver";
}

/**
 * What the hub makes of a frame of "giver" or "taker"; an empty array holds it back.
 * @typedef {(who: Who, body: Uint8Array) => Uint8Array[]} Between
 */

/** Two devices, a person who looks at both, and a hub that does what the test says. */
class Couple {
  /** @param {Who} shownBy @param {Between} [between] */
  constructor(shownBy, between = (_, body) => [body], more = {}) {
    const { old, neu, grant, random, name } = {
      old: OLD, neu: NEW, grant: GRANT, random: fresh, name: "Anna's phone", ...more,
    };
    this.between = between;
    this.shownBy = shownBy;
    this.scannedBy = other(shownBy);
    /** @type {[Who, Uint8Array][]} */
    this.frames = [];
    /** @type {Record<Who, Effect[]>} */
    this.told = { giver: [], taker: [] };
    const make = {
      giver: (/** @type {any} */ scanned) => new Giver(old, ACCOUNT, grant, { fresh: random, now: 0, scanned }),
      taker: (/** @type {any} */ scanned) => new Taker(neu, name, { fresh: random, now: 0, scanned }),
    };
    const shown = make[shownBy](null);
    const scanned = make[this.scannedBy](parsePairingCode(shown.code));
    /** @type {{ giver: Giver, taker: Taker }} */
    this.sides = /** @type {any} */ ({ [shownBy]: shown, [this.scannedBy]: scanned });
  }

  get giver() {
    return this.sides.giver;
  }

  get taker() {
    return this.sides.taker;
  }

  /** @param {Who} who @param {Effect[]} effects */
  carry(who, effects) {
    for (const effect of effects) {
      this.told[who].push(effect);
      if (effect instanceof Hand) this.handed(who, effect.body);
      else if (effect instanceof Vouch) this.carry("giver", this.giver.vouched());
      else if (effect instanceof Take) this.carry("taker", this.taker.taken());
    }
  }

  /** @param {Who} who @param {Uint8Array} body */
  handed(who, body) {
    this.frames.push([who, body]);
    for (const arrived of this.between(who, body)) {
      this.carry(other(who), this.sides[other(who)].received(arrived));
    }
  }

  begin() {
    for (const who of BOTH) this.carry(who, this.sides[who].begin());
    return this;
  }

  /** What this device shows, or empty. @param {Who} who */
  digits(who) {
    const shown = this.told[who].find((effect) => effect instanceof Show);
    return shown instanceof Show ? shown.digits : "";
  }

  /** The person reads the digits where the code was scanned, and types them where it was shown. */
  agree() {
    const read = this.digits(this.scannedBy);
    for (const [who, digits] of /** @type {[Who, string][]} */ ([[this.scannedBy, ""], [this.shownBy, read]])) {
      if (this.digits(who)) this.carry(who, this.sides[who].confirmed(digits));
    }
    return this;
  }

  /** @param {Who} who @param {any} kind @returns {any} */
  found(who, kind) {
    return this.told[who].find((effect) => effect instanceof kind);
  }

  /** @param {Who} who */
  fault(who) {
    return this.found(who, Failed)?.fault ?? "";
  }

  get nothingWasGiven() {
    return !this.found("giver", Vouch) && !this.found("taker", Take) && !this.frame("grant").length;
  }

  get bothPaired() {
    return BOTH.every((who) => this.told[who].at(-1) instanceof Paired);
  }

  /** @param {string} name */
  frame(name) {
    return this.frames.find(([, body]) => body[0] === HEAD[name])?.[1] ?? new Uint8Array(0);
  }
}

/** The same sentence for either way round. @param {string} sentence @param {(shownBy: Who) => void} work */
function both(sentence, work) {
  for (const shownBy of BOTH) test(`${sentence}: shown by the ${shownBy}`, () => work(shownBy));
}

// --- the code that is shown ------------------------------------------------------------------

both("what is shown is what is scanned", (shownBy) => {
  const couple = new Couple(shownBy);
  const shown = couple.sides[shownBy];
  assert.equal(shown.code.length, 136);
  assert.equal(shown.code, shown.code.toUpperCase());
  const scan = parsePairingCode(shown.code.toLowerCase().replace("hubpair1", "HUBPAIR 1-"));
  assert.deepEqual([scan.hasKey, scan.publicKey], [shownBy === "giver", shown.publicKey]);
  assert.equal(scan.host, "hub.example.org");
  assert.deepEqual(channelOf(scan.secret), shown.channel);
  assert.deepEqual(couple.sides[couple.scannedBy].channel, shown.channel);
});

test("a code that was typed without the host works too", () => {
  const [publicKey, secret] = [filled(32, 1), filled(32, 2)];
  const code = pairingCode(publicKey, secret, URL_, { hasKey: true });
  assert.deepEqual(parsePairingCode(code.split("/")[0]), { hasKey: true, publicKey, secret, host: "" });
});

test("every mistyped character is found", () => {
  const [code] = pairingCode(filled(32, 1), filled(32, 2), URL_, { hasKey: true }).split("/");
  for (let place = "HUBPAIR1".length; place < code.length; place++) {
    const wrong = code.slice(0, place) + (code[place] === "Q" ? "P" : "Q") + code.slice(place + 1);
    assert.throws(() => parsePairingCode(wrong), /is wrong; please compare/);
  }
});

test("what is no pairing code is refused with a sentence", () => {
  assert.ok(Object.keys(VECTORS.refused).length >= 6);
  for (const [what, text] of Object.entries(VECTORS.refused)) {
    const sentence = (/** @type {any} */ error) => error instanceof WrongKeyCode && /(\.|else\.)$/.test(error.message);
    assert.throws(() => parsePairingCode(/** @type {string} */ (text)), sentence, what);
  }
  assert.throws(() => parsePairingCode(keyCode(APP_KEY, 0)), /A pairing code begins with HUBPAIR1/);
  assert.throws(() => parsePairingCode(""), /There is no pairing code here/);
});

test("two devices with the key or two without it have nothing to give", () => {
  const [giver, taker] = [new Couple("giver").giver, new Couple("taker").taker];
  const scanned = (/** @type {any} */ side) => ({ fresh, now: 0, scanned: parsePairingCode(side.code) });
  assert.throws(() => new Giver(OLD, ACCOUNT, GRANT, scanned(giver)), /Both devices/);
  assert.throws(() => new Taker(NEW, "", scanned(taker)), /Neither device/);
});

test("a code of another hub is refused before anything is said", () => {
  const neu = device(0xd2, { hubUrl: "wss://other.example.org/v1/ws" });
  assert.throws(() => new Couple("giver", undefined, { neu }), /another hub: hub\.example\.org/);
});

// --- the vectors -----------------------------------------------------------------------------

const BYTES = Object.fromEntries(
  ["s", "giver_sk", "taker_sk", "account_id", "giver_id", "giver_device_pk", "taker_id", "taker_device_pk"].map(
    (name) => [name, unhex(VECTORS[name])],
  ),
);

test("the published keys follow from the protocol's own words", () => {
  const [giverPk, takerPk] = [x25519.getPublicKey(BYTES.giver_sk), x25519.getPublicKey(BYTES.taker_sk)];
  /** @param {Uint8Array} key @param {Uint8Array} salt @param {string} info @param {number} length */
  const expand = (key, salt, info, length) => new Uint8Array(hkdfSync("sha256", key, salt, info, length));
  assert.equal(VECTORS.directions.length, 2);
  for (const direction of VECTORS.directions) {
    const parts = [
      utf8("hub/v1/pair"), utf8(VECTORS.hub_url), Uint8Array.of(direction.shown_by === "giver" ? 1 : 2), giverPk,
      takerPk, BYTES.account_id, BYTES.giver_id, BYTES.giver_device_pk, BYTES.taker_id, BYTES.taker_device_pk,
      utf8(VECTORS.app_id),
    ];
    const transcript = concat(...parts.flatMap((part) => [u32(part.length), part]));
    assert.equal(hex(transcript), direction.transcript);
    const shared = x25519.getSharedSecret(BYTES.taker_sk, giverPk);
    assert.equal(hex(shared), direction.shared);
    const salt = new Uint8Array(createHash("sha256").update(transcript).digest());
    const keys = expand(concat(shared, BYTES.s), salt, "hub/v1/pair", 102);
    const named = [keys.slice(0, 32), keys.slice(32, 64), keys.slice(70)].map(hex);
    assert.deepEqual(named, [direction.to_taker, direction.to_giver, direction.name_key]);
    const digits = String(BigInt(`0x${hex(keys.slice(64, 70))}`) % 1_000_000n).padStart(6, "0");
    assert.equal(digits, direction.digits);
    assert.equal(hex(expand(BYTES.s, new Uint8Array(0), "hub/v1/pair-chan", 16)), VECTORS.channel);
  }
});

for (const direction of VECTORS.directions) {
  test(`both sides make exactly the published frames: shown by the ${direction.shown_by}`, () => {
    const [sk, otherSk] = direction.shown_by === "giver" ? ["giver_sk", "taker_sk"] : ["taker_sk", "giver_sk"];
    const given = [BYTES[sk], BYTES.s, BYTES[otherSk]];
    const random = () => /** @type {Uint8Array} */ (given.shift());
    const common = { appId: VECTORS.app_id, hubUrl: VECTORS.hub_url };
    const couple = new Couple(direction.shown_by, undefined, {
      old: { deviceId: BYTES.giver_id, devicePk: BYTES.giver_device_pk, ...common },
      neu: { deviceId: BYTES.taker_id, devicePk: BYTES.taker_device_pk, ...common },
      grant: unpackedGrant(unhex(VECTORS.grant)),
      random,
      name: VECTORS.taker_name,
    });
    assert.equal(couple.sides[/** @type {Who} */ (direction.shown_by)].code, direction.code);
    couple.begin().agree();
    assert.deepEqual([couple.digits("giver"), couple.digits("taker")], [direction.digits, direction.digits]);
    assert.deepEqual(couple.frames.map(([who, body]) => ({ from: who, body: hex(body) })), direction.frames);
    assert.ok(couple.bothPaired);
  });
}

test("a grant is written as it was published", () => {
  assert.equal(hex(packedGrant(unpackedGrant(unhex(VECTORS.grant)))), VECTORS.grant);
});

// --- as it should go -------------------------------------------------------------------------

both("one scan hands over the key and both know", (shownBy) => {
  const couple = new Couple(shownBy).begin();
  assert.equal(couple.digits("giver"), couple.digits("taker"));
  assert.match(couple.digits("giver"), /^\d{6}$/);
  assert.ok(couple.nothingWasGiven);
  couple.agree();
  assert.equal(couple.found("giver", Named).name, "Anna's phone");
  assert.deepEqual(couple.found("giver", Vouch), new Vouch(NEW.deviceId, NEW.devicePk));
  assert.deepEqual(couple.found("taker", Take), new Take(GRANT, ACCOUNT));
  assert.ok(couple.bothPaired);
});

both("the hub sees neither key nor name nor digits nor secret", (shownBy) => {
  const couple = new Couple(shownBy).begin().agree();
  const seen = hex(concat(...couple.frames.map(([, body]) => body), couple.giver.channel));
  const { secret } = parsePairingCode(couple.sides[shownBy].code);
  for (const hidden of [APP_KEY, utf8("Anna"), utf8(couple.digits("giver")), secret, KEYS.contentKey]) {
    assert.ok(!seen.includes(hex(hidden)));
  }
  assert.ok(seen.includes(hex(OLD.devicePk)));
});

both("the name is padded so that its length tells nothing", (shownBy) => {
  const sizes = ["", "x".repeat(64), "🦦".repeat(20)].map(
    (name) => new Couple(shownBy, undefined, { name }).begin().agree().frame("name").length,
  );
  assert.deepEqual([...new Set(sizes)], [1 + 128 + 16]);
});

test("a name has 64 characters and is cut after them on both sides", () => {
  for (const said of ["🦦".repeat(64), "🦦".repeat(65)]) {
    assert.equal(new Taker(NEW, said, { fresh, now: 0 }).name, "🦦".repeat(64));
  }
  const couple = new Couple("giver");
  couple.taker.name = "x".repeat(65); // a device that does not keep to it
  couple.begin();
  assert.equal(couple.found("giver", Named).name, "x".repeat(64));
});

test("half a character in a name is replaced, as it has no place in UTF-8", () => {
  const couple = new Couple("giver", undefined, { name: "a\ud800b" }).begin();
  assert.equal(couple.found("giver", Named).name, "a\ufffdb");
});

both("every frame fits also with the longest name and the most heads", (shownBy) => {
  const heads = Array.from({ length: HEADS_MAX }, () => /** @type {[Uint8Array, number]} */ ([fresh(16), 2 ** 53 - 1]));
  const couple = new Couple(shownBy, undefined, { grant: { ...GRANT, heads }, name: "🦦".repeat(64) }).begin().agree();
  assert.ok(couple.bothPaired);
  assert.deepEqual(couple.found("taker", Take).grant.heads, heads);
  assert.ok(Math.max(...couple.frames.map(([, body]) => body.length)) <= LIMITS.pairingBytesMax);
  assert.ok(couple.frames.length < LIMITS.pairingFramesMax);
});

both("a frame that comes twice changes nothing", (shownBy) => {
  const couple = new Couple(shownBy, (_, body) => [body, body]).begin().agree();
  assert.ok(couple.bothPaired);
  assert.equal(couple.told.giver.filter((effect) => effect instanceof Vouch).length, 1);
  assert.equal(couple.told.taker.filter((effect) => effect instanceof Take).length, 1);
});

test("digits may be typed as they are read aloud", () => {
  const couple = new Couple("giver").begin();
  const digits = couple.digits("taker");
  couple.carry("giver", couple.giver.confirmed(` ${digits.slice(0, 3)} -\u00a0${digits.slice(3)} `));
  assert.ok(couple.bothPaired);
});

// --- the six digits --------------------------------------------------------------------------

both("wrong digits end it at once and nothing was handed over", (shownBy) => {
  for (const typed of ["", "wrong", "12345", "right and more", "Arabic"]) {
    const couple = new Couple(shownBy).begin();
    const right = couple.digits("giver");
    const entered = { wrong: right === "000000" ? "000001" : "000000", "right and more": `${right}0`,
      Arabic: [...right].map((digit) => String.fromCodePoint(0x660 + Number(digit))).join("") }[typed] ?? typed;
    couple.carry(shownBy, couple.sides[shownBy].confirmed(entered));
    assert.deepEqual([couple.fault(shownBy), couple.fault(couple.scannedBy)], ["wrong_digits", "cancelled"], typed);
    couple.carry(shownBy, couple.sides[shownBy].confirmed(right)); // there is no second try
    assert.ok(couple.nothingWasGiven);
  }
});

test("the giver enrols nobody before the digits were compared where the code was shown", () => {
  const couple = new Couple("taker").begin();
  couple.carry("giver", couple.giver.confirmed(""));
  assert.ok(couple.nothingWasGiven && !couple.found("giver", Named));
  couple.carry("taker", couple.taker.confirmed(couple.digits("giver")));
  assert.ok(couple.bothPaired);
});

test("the device that showed the code takes no key before the digits were compared", () => {
  const couple = new Couple("taker").begin();
  couple.giver._named = true; // a giver that does not wait for that
  couple.carry("giver", couple.giver.confirmed(""));
  assert.ok(couple.frame("grant").length && !couple.found("taker", Take));
  assert.equal(couple.fault("taker"), "interfered");
});

test("the giver gives nothing before its person agrees even where it scanned", () => {
  const couple = new Couple("taker").begin();
  couple.carry("taker", couple.taker.confirmed(couple.digits("giver")));
  assert.ok(couple.nothingWasGiven && couple.found("giver", Named));
  couple.carry("giver", couple.giver.cancel());
  assert.ok(couple.fault("taker") === "cancelled" && couple.nothingWasGiven);
});

// --- the hub in the middle -------------------------------------------------------------------

both("no byte of any frame can be changed", (shownBy) => {
  for (const name of SEALED) {
    const { length } = new Couple(shownBy).begin().agree().frame(name);
    assert.ok(length > 60);
    // Each byte of what is not sealed; of what is, the first ones, the last ones, and some between.
    const some = (/** @type {number} */ at) => at < 4 || at % 16 === 5 || at > length - 3;
    const places = Array.from({ length }, (_, at) => at).filter((at) => length < 130 || some(at));
    for (const place of places) {
      const flip = (/** @type {Who} */ _, /** @type {Uint8Array} */ body) =>
        body[0] === HEAD[name] ? [body.map((byte, at) => (at === place ? byte ^ 0x20 : byte))] : [body];
      const couple = new Couple(shownBy, flip).begin().agree();
      assert.ok(!couple.found("giver", Paired), `${name} ${place}`);
      if (!["grant", "taken"].includes(name)) assert.ok(couple.nothingWasGiven, `${name} ${place}`);
      if (name !== "taken") assert.ok(!couple.found("taker", Take), `${name} ${place}`);
    }
  }
});

both("a frame cut short ends the pairing", (shownBy) => {
  for (const name of SEALED) {
    for (const cut of [1, 2, 16, -1, -16, -17]) {
      const between = (/** @type {Who} */ _, /** @type {Uint8Array} */ body) =>
        [body[0] === HEAD[name] ? body.slice(0, cut) : body];
      const couple = new Couple(shownBy, between).begin().agree();
      assert.ok(!couple.found("giver", Paired), `${name} ${cut}`);
      const faults = BOTH.map((who) => couple.fault(who));
      assert.ok(faults.includes("interfered") || faults[1] === "other_app", `${name} ${cut}`);
    }
  }
});

test("every key depends on everything that both must agree on", () => {
  const good = {
    hubUrl: URL_, shownByGiver: true, giverPublicKey: filled(32, 1), takerPublicKey: filled(32, 2), accountId: ACCOUNT,
    giverId: OLD.deviceId, giverPk: OLD.devicePk, takerId: NEW.deviceId, takerPk: NEW.devicePk, appId: APP,
  };
  const changed = {
    hubUrl: "wss://hub.example.com/v1/ws", shownByGiver: false, giverPublicKey: filled(32, 9),
    takerPublicKey: filled(32, 9), accountId: filled(16, 9), giverId: filled(16, 9), giverPk: filled(32, 9),
    takerId: filled(16, 9), takerPk: filled(32, 9), appId: "org.example.other",
  };
  assert.deepEqual(Object.keys(changed), Object.keys(good));
  const [shared, secret] = [filled(32, 3), filled(32, 4)];
  const seen = [pairingKeys(shared, secret, good), pairingKeys(filled(32, 5), secret, good)];
  seen.push(pairingKeys(shared, filled(32, 6), good));
  for (const [name, value] of Object.entries(changed)) {
    seen.push(pairingKeys(shared, secret, { ...good, [name]: value }));
  }
  const all = new Set(seen.flatMap(({ toTaker, toGiver, name }) => [toTaker, toGiver, name].map(hex)));
  assert.equal(all.size, 3 * seen.length);
  assert.equal(packedTranscript(good).length, packedTranscript({ ...good, shownByGiver: false }).length);
});

test("there are six digits also when they begin with zero", () => {
  const transcript = {
    hubUrl: URL_, shownByGiver: true, giverPublicKey: filled(32, 1), takerPublicKey: filled(32, 2), accountId: ACCOUNT,
    giverId: OLD.deviceId, giverPk: OLD.devicePk, takerId: NEW.deviceId, takerPk: NEW.devicePk, appId: APP,
  };
  const drawn = Array.from({ length: 100 }, (_, n) => pairingKeys(filled(32, n), filled(32, 4), transcript).digits);
  for (const digits of drawn) assert.match(digits, /^\d{6}$/);
  assert.ok(drawn.some((digits) => digits.startsWith("0")));
});

/** Somebody who works with the hub, plays one side towards each device, and may have seen the code. */
class Thief {
  /** @param {Couple} couple @param {boolean} sawTheCode */
  constructor(couple, sawTheCode) {
    const scan = parsePairingCode(couple.sides[couple.shownBy].code);
    if (!sawTheCode) scan.secret = fresh(32);
    const me = { ...NEW, deviceId: filled(16, 0xee) };
    this.taker = new Taker(me, "Anna's phone", { fresh, now: 0 });
    this.giver = new Giver(me, filled(16, 0xee), GRANT, { fresh, now: 0 });
    for (const side of [this.taker, this.giver]) side._secret = scan.secret;
    const mine = couple.shownBy === "giver" ? this.taker : this.giver; // which plays the one that has scanned
    mine._scanned = scan;
    this.couple = couple;
    couple.between = (who, body) => this.between(who, body);
  }

  /** Answer each device oneself; nothing of the one reaches the other. @param {Who} who @param {Uint8Array} body */
  between(who, body) {
    for (const effect of (who === "giver" ? this.taker : this.giver).received(body)) {
      // A thief does not warn.
      if (effect instanceof Hand && effect.body[0] !== HEAD.cancel) {
        this.couple.carry(who, this.couple.sides[who].received(effect.body));
      }
    }
    return [];
  }

  /** The first frame, in the name of the device that scanned. */
  begin() {
    const { couple } = this;
    const opening = couple.shownBy === "giver" ? this.taker._offer() : this.giver._offer();
    couple.carry(couple.shownBy, couple.sides[couple.shownBy].received(opening));
  }
}

both("a thief between the two is caught by the digits even with a photo of the code", (shownBy) => {
  for (const sawTheCode of [false, true]) {
    const couple = new Couple(shownBy);
    new Thief(couple, sawTheCode).begin();
    couple.carry(couple.scannedBy, couple.sides[couple.scannedBy].begin());
    // The giver that scanned talks to nobody but the device whose code it scanned.
    if (couple.scannedBy === "giver") assert.equal(couple.digits("giver"), "");
    if (couple.digits(shownBy)) {
      const read = couple.digits(couple.scannedBy) || "000000";
      assert.notEqual(read, couple.digits(shownBy));
      couple.carry(shownBy, couple.sides[shownBy].confirmed(read));
      assert.equal(couple.fault(shownBy), "wrong_digits");
    } else assert.equal(couple.fault(shownBy), "interfered");
    assert.ok(couple.nothingWasGiven);
  }
});

test("a thief with a photo would need the digits and one try is all there is", () => {
  const couple = new Couple("giver");
  new Thief(couple, true).begin();
  const digits = couple.digits("giver");
  assert.ok(digits); // so far the giver cannot tell
  const guess = String((Number(digits) + 1) % 1_000_000).padStart(6, "0");
  couple.carry("giver", couple.giver.confirmed(guess));
  couple.carry("giver", couple.giver.confirmed(digits));
  assert.ok(couple.nothingWasGiven);
});

both("frames of an earlier pairing of the same devices are worth nothing", (shownBy) => {
  const earlier = new Couple(shownBy).begin().agree();
  for (const name of SEALED) {
    const replayed = earlier.frame(name);
    const couple = new Couple(shownBy, (_, body) => [body[0] === replayed[0] ? replayed : body]).begin().agree();
    assert.ok(!couple.found("giver", Paired), name);
    assert.ok(name === "taken" || !couple.found("taker", Take), name);
  }
});

both("a device does not talk to its own echo", (shownBy) => {
  const couple = new Couple(shownBy, () => []);
  const who = couple.scannedBy;
  const [hand] = couple.sides[who].begin();
  assert.ok(hand instanceof Hand);
  couple.carry(who, couple.sides[who].received(hand.body));
  assert.equal(couple.fault(who), "interfered");
  assert.ok(couple.nothingWasGiven);
});

both("a key of low order is refused wherever it stands", (shownBy) => {
  assert.ok(VECTORS.low_order.length >= 7);
  for (const point of VECTORS.low_order.map(unhex)) {
    for (const name of ["giver offer", "taker offer"]) {
      const swap = (/** @type {Who} */ _, /** @type {Uint8Array} */ body) =>
        [body[0] === HEAD[name] ? concat(body.slice(0, 1), point, body.slice(33)) : body];
      const couple = new Couple(shownBy, swap).begin().agree();
      assert.ok(BOTH.some((who) => couple.fault(who) === "interfered") && couple.nothingWasGiven);
    }
    const scanned = { hasKey: shownBy === "giver", publicKey: point, secret: filled(32, 1), host: "" };
    const beginning = { fresh, now: 0, scanned };
    const [side, offer] = shownBy === "giver"
      ? [new Taker(NEW, "", beginning), concat(Uint8Array.of(1), point, ACCOUNT, OLD.deviceId, OLD.devicePk, utf8(APP))]
      : [new Giver(OLD, ACCOUNT, GRANT, beginning), concat(Uint8Array.of(2), point, NEW.deviceId, NEW.devicePk)];
    assert.deepEqual(side.received(offer).at(-1), new Failed("interfered"));
  }
});

both("a second device at the same code ends it for all", (shownBy) => {
  for (const when of ["before", "after"]) {
    const couple = new Couple(shownBy).begin();
    const beginning = { fresh, now: 0, scanned: parsePairingCode(couple.sides[shownBy].code) };
    const me = device(0xd2, { deviceId: filled(16, 0xee) });
    const second = shownBy === "giver" ? new Taker(me, "", beginning) : new Giver(me, ACCOUNT, GRANT, beginning);
    if (when === "after") {
      couple.between = () => []; // the answers are still under way
      if (shownBy === "taker") couple.carry("taker", couple.taker.confirmed(couple.digits("giver")));
    }
    const [hello] = second.begin();
    assert.ok(hello instanceof Hand);
    couple.carry(shownBy, couple.sides[shownBy].received(hello.body));
    assert.ok(couple.fault(shownBy) === "two_devices" && couple.nothingWasGiven, when);
  }
});

/** @type {Record<string, any>} */
const BAD_GRANTS = {
  "another space": { spaceId: filled(16, 9) },
  "another key": { appKey: filled(32, 9) },
  "a short key": { appKey: filled(31, 9) },
  "another key id": { keyId: filled(16, 9) },
  "a later key_epoch": { keyEpoch: 1 },
  "a short collection id": { heads: [[filled(1, 9), 1]] },
  "a head below zero": { heads: [[filled(16, 9), -1]] },
  "a head that is no number": { heads: [[filled(16, 9), "1"]] },
  "a head that JavaScript would round": { heads: [[filled(16, 9), new Raw(unhex("cf0020000000000000"))]] },
  "heads that are no pairs": { heads: [[filled(16, 9), 1, 2]] },
  "heads that are no array": { heads: filled(16, 9) },
  "an incarnation that is text": { incarnation: "x" },
  "a key that is text": { appKey: "x".repeat(32) },
};

both("a grant that contradicts itself is not taken", (shownBy) => {
  for (const [what, wrong] of Object.entries(BAD_GRANTS)) {
    const couple = new Couple(shownBy, undefined, { grant: { ...GRANT, ...wrong } }).begin().agree();
    assert.ok(couple.fault("taker") === "interfered" && !couple.found("taker", Take), what);
  }
});

test("a grant of a later program may hold more and one of an earlier program less", () => {
  const map = { space_id: KEYS.spaceId, key_epoch: 0, app_key: APP_KEY, key_id: KEYS.keyId };
  const empty = { incarnation: new Uint8Array(0), heads: [] };
  assert.deepEqual(unpackedGrant(pack({ ...map, roster: utf8("hash") })), { ...GRANT, ...empty });
});

test("a grant that is none is not taken", () => {
  for (const digits of ["", "c0", "80", "93010203", "c1".repeat(40), "81a173"]) {
    assert.throws(() => unpackedGrant(unhex(digits)), (error) => error instanceof PairingFailed, digits);
  }
  for (const name of ["space_id", "key_epoch", "app_key", "key_id"]) {
    const map = { space_id: KEYS.spaceId, key_epoch: 0, app_key: APP_KEY, key_id: KEYS.keyId, [name]: undefined };
    assert.throws(() => unpackedGrant(pack(map)), (error) => error instanceof PairingFailed, name);
  }
});

test("a device of another app is told so", () => {
  const couple = new Couple("giver", undefined, { neu: device(0xd2, { appId: "org.example.other" }) }).begin();
  assert.deepEqual(BOTH.map((who) => couple.fault(who)), ["cancelled", "other_app"]);
});

test("two names of one hub are two hubs", () => {
  // The host in the code is compared; where it was left out, the transcript finds it.
  const { giver } = new Couple("giver");
  const scanned = parsePairingCode(giver.code.split("/")[0]);
  const elsewhere = device(0xd2, { hubUrl: "wss://alias.example.org/v1/ws" });
  const taker = new Taker(elsewhere, "", { fresh, now: 0, scanned });
  const body = (/** @type {Effect[]} */ [hand]) => (assert.ok(hand instanceof Hand), hand.body);
  const name = body(taker.received(body(giver.received(body(taker.begin())))));
  assert.ok(giver.received(name).some((effect) => effect instanceof Failed && effect.fault === "interfered"));
});

// --- time, and giving up ---------------------------------------------------------------------

both("after three minutes it is over and not a moment before", (shownBy) => {
  for (const who of BOTH) {
    const couple = new Couple(shownBy).begin();
    const side = couple.sides[who];
    assert.deepEqual([side.endsAt, WITHIN_S], [180, 180]);
    couple.carry(who, side.timerFired(179.999));
    assert.equal(couple.fault(who), "");
    couple.carry(who, side.timerFired(180));
    assert.equal(couple.fault(who), "expired");
    assert.ok(couple.agree().nothingWasGiven);
  }
});

both("either may cancel and the other is told", (shownBy) => {
  for (const who of BOTH) {
    const couple = new Couple(shownBy).begin();
    couple.carry(who, couple.sides[who].cancel());
    assert.deepEqual(BOTH.map((one) => couple.fault(one)), ["cancelled", "cancelled"]);
    assert.ok(couple.agree().nothingWasGiven);
    assert.deepEqual(couple.sides[who].cancel(), []);
  }
});

both("after the end nothing more comes", (shownBy) => {
  const couple = new Couple(shownBy).begin().agree();
  for (const side of Object.values(couple.sides)) {
    const more = [side.received(Uint8Array.of(6)), side.received(utf8("x")), side.confirmed("1"), side.timerFired(1e9)];
    assert.deepEqual(more, [[], [], [], []]);
  }
  assert.deepEqual([couple.giver.vouched(), couple.taker.taken()], [[], []]);
});

test("every fault has a sentence", () => {
  for (const sentence of Object.values(PAIRING_FAULTS)) assert.match(sentence, /^[A-Z].*\.$/);
});

test("no bytes throw anything or get the key", () => {
  always(200, (random) => {
    const couple = new Couple(random.choice(BOTH));
    if (random.below(2)) couple.begin();
    for (const body of random.list(5, () => random.bytes(random.below(300)))) {
      if (random.below(2) && body.length) body[0] = random.below(7);
      for (const who of BOTH) couple.carry(who, couple.sides[who].received(body));
    }
    assert.ok(couple.nothingWasGiven);
  });
});

test("the grant is padded like a change", () => {
  const { length } = new Couple("giver").begin().agree().frame("grant");
  assert.equal(length, 1 + paddedBytes(packedGrant(GRANT).length) + 16);
});

test("a code fits a QR code in alphanumeric mode", () => {
  assert.equal(PAIRING_CODE.chars, 120);
  assert.match(new Couple("giver").giver.code, /^[0-9A-Z $%*+\-./:]+$/);
  assert.ok(equal(parsePairingCode(` ${VECTORS.directions[0].code.toLowerCase()}\n`).secret, BYTES.s));
});
