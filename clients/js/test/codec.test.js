/** Messages: what is sent is read, the three faults are told apart, and every bound holds at n and n + 1. */

import assert from "node:assert/strict";
import test from "node:test";
import { hex, unhex } from "../src/bytes.js";
import { AssertionError } from "../src/errors.js";
import { Ext, pack, unpack } from "../src/msgpack.js";
import { BadMessage, decodeFromDevice, decodeFromHub, encode, NotAMessage, UnknownMessage } from "../src/wire/codec.js";
import { FROM_DEVICE, FROM_HUB, listed } from "../src/wire/messages.js";
import { always } from "./seeded.js";

const id = (/** @type {number} */ byte) => new Uint8Array(16).fill(byte);
const bin = (/** @type {number} */ length) => new Uint8Array(length);
const text = (/** @type {number} */ length) => "x".repeat(length);
const many = (/** @type {number} */ length, /** @type {any} */ item) => Array(length).fill(item);

const PROOF = { space_id: id(1), key_epoch: 0, signature: bin(64) };
const CURSOR = { collection_id: id(2), incarnation: id(3), seq: 0 };

/** One message of each type with what is required, as on the wire. @type {Record<string, any>} */
const DEVICE = {
  hello: { v: [1], device_id: id(1), client_nonce: bin(32) },
  auth: { signature: bin(64) },
  request_code: { request: 1, address: "a@b", device_pk: bin(32), app_id: "a" },
  enrol: { request: 1, attempt_id: id(1), code: "1", device_pk: bin(32), signature: bin(64) },
  confirm: { request: 1, attempt_id: id(1), code: "1" },
  open_pairing: { request: 1, channel: id(1) },
  pairing: { request: 1, channel: id(1), body: bin(1) },
  vouch: { request: 1, device_id: id(1), device_pk: bin(32) },
  create_space: { request: 1, space_id: id(1), app_id: "a", space_pk: bin(32), signature: bin(64) },
  enter: { request: 1, spaces: [PROOF] },
  collections: { request: 1, space_id: id(1) },
  subscribe: { request: 1, space_id: id(1), cursors: [CURSOR] },
  unsubscribe: { request: 1, space_id: id(1), collection_ids: [id(2)] },
  append: { request: 1, space_id: id(1), drafts: [bin(3)] },
  witness: { request: 1, space_id: id(1), collection_id: id(2), witness: bin(3) },
  read_history: { request: 1, space_id: id(1), collection_id: id(2), record_id: id(3) },
  signal: { request: 1, space_id: id(1), body: bin(1) },
  list_devices: { request: 1 },
  revoke_devices: { request: 1, device_ids: [id(1)] },
  approve_device: { request: 1, device_id: id(1) },
  list_spaces: { request: 1 },
  list_audit: { request: 1 },
  export: { request: 1 },
  change_address: { request: 1, attempt_id: id(1), code: "1" },
  delete_space: { request: 1, space_id: id(1) },
  delete_account: { request: 1 },
  cancel_deletion: { request: 1 },
  operator_code: { request: 1, code: "1" },
  operate: { request: 1, verb: "stats" },
  ping: {},
  pong: {},
};
const INFO = { space_id: id(1), app_id: "a", key_epoch: 0, used_bytes: 5 };
const DEVICE_INFO = {
  device_id: id(1),
  device_pk: bin(32),
  scope: "app",
  app_id: "a",
  enrolled_via: "mail",
  enrolled_at: 1.5,
  last_seen_day: 2,
};
const STATS = {
  space_id: id(1),
  app_id: "a",
  key_epoch: 0,
  used_bytes: 5,
  created_at: 1.5,
  collections: 2,
  changes: 3,
};
/** @type {Record<string, any>} */
const HUB = {
  challenge: { v: 1, server_nonce: bin(32), features: [], limits: { page_bytes: 3 }, sign_up: "open" },
  ready: {
    account_id: id(1),
    incarnation: id(2),
    server_time: 1.5,
    heartbeat_s: 25,
    scope: "app",
    app_id: "a",
    quota_bytes: 1,
    used_bytes: 0,
    spaces: [INFO],
  },
  code_sent: { request: 1, attempt_id: id(1), expires_in_s: 1.5, phrase: "two words" },
  pairing: { request: 0, channel: id(1), body: bin(1) },
  entered: { request: 1, spaces: [INFO] },
  collection_list: { request: 1, space_id: id(1), collections: [{ collection_id: id(2), head: 3 }] },
  subscribed: {
    request: 1,
    space_id: id(1),
    incarnation: id(2),
    collections: [{ collection_id: id(2), head: 3, after: 0 }],
  },
  changes: {
    space_id: id(1),
    collection_id: id(2),
    after: 0,
    upto: 1,
    head: 1,
    changes: [[1, 1_700_000_000_000, bin(3)]],
  },
  heads: { heads: [[id(1), id(2), 3]] },
  appended: {
    request: 1,
    space_id: id(1),
    answers: [{ seq: 1 }, { code: "conflict", newest_seq: 3, newest_id: id(1) }, {}],
  },
  witnesses: { space_id: id(1), collection_id: id(2), witnesses: [bin(3)] },
  history: { request: 1, changes: [[1, 2, bin(3)]] },
  signal: { request: 0, space_id: id(1), body: bin(1), device_id: id(2) },
  device_list: { request: 1, devices: [DEVICE_INFO] },
  space_list: { request: 1, spaces: [STATS, { ...STATS, growth: [[19_000, 5]] }] },
  audit_list: { request: 1, entries: [{ number: 1, at: 1.5, what: "exported", actor: "device" }] },
  exported: { request: 1, bundle: bin(3) },
  deleted: { request: 1 },
  account_notice: { what: "device_enrolled" },
  moved: { url: "wss://hub.example.org/v1/ws" },
  operated: { request: 1, result: { accounts: [{ used_bytes: 5, billing_ref: null, after: 1.5 }] } },
  ping: {},
  pong: { heads: [[id(1), id(2), 3]] },
  going_away: { retry_after_s: 2.5 },
  done: { request: 1 },
  refused: { request: 1, code: "too_many", message: "m" },
};
const SIDES = /** @type {const} */ ([
  [DEVICE, decodeFromDevice, FROM_DEVICE],
  [HUB, decodeFromHub, FROM_HUB],
]);

/** @param {string} type @param {any} fields */
const frame = (type, fields) => pack({ type, ...fields });

test("every message with what is required is read, completed, and written as the same bytes", () => {
  for (const [samples, decode, table] of SIDES) {
    assert.deepEqual(Object.keys(samples), Object.keys(table));
    for (const [type, fields] of Object.entries(samples)) {
      const bytes = frame(type, fields);
      const message = decode(bytes);
      assert.deepEqual(Object.keys(message), ["type", ...Object.keys(/** @type {any} */ (table)[type])]);
      assert.equal(hex(encode(message)), hex(bytes), type);
    }
  }
});

test("a message without any one required field is bad, and its request number is known", () => {
  for (const [samples, decode] of SIDES) {
    for (const [type, fields] of Object.entries(samples)) {
      for (const name of Object.keys(fields)) {
        if (["heads", "device_id"].includes(name) && ["pong", "signal"].includes(type)) continue;
        const { [name]: _, ...rest } = fields;
        const request = rest.request ?? null;
        assert.throws(
          () => decode(frame(type, rest)),
          (/** @type {any} */ error) => {
            assert.deepEqual([error.constructor, error.request], [BadMessage, request], `${type}.${name}`);
            return error.message === `${name} is missing`;
          },
        );
      }
    }
  }
});

test("a field of another type is bad", () => {
  for (const [samples, decode] of SIDES) {
    for (const [type, fields] of Object.entries(samples)) {
      for (const [name, value] of Object.entries(fields)) {
        for (const wrong of [null, true, "x", -1, 1.25, bin(5), [null], { a: null }, new Ext(1, bin(1))]) {
          if (wrong === null && name === "device_id" && type === "signal") continue;
          if (
            typeof wrong === typeof value &&
            !(typeof value === "object" && (wrong === null || wrong.constructor !== value.constructor))
          )
            continue;
          assert.throws(
            () => decode(frame(type, { ...fields, [name]: wrong })),
            BadMessage,
            `${type}.${name}: ${String(wrong)}`,
          );
        }
      }
    }
  }
});

test("a field that may be left out is bad when it is of another type", () => {
  /** @type {Record<string, any[]>} */
  const wrong = {
    bool: [1, "x"],
    str: [1, null],
    int: ["1", 1.5, true, null],
    float: ["1", true, null],
    bin: ["x", 1],
  };
  for (const [samples, decode, table] of SIDES) {
    for (const [type, fields] of Object.entries(table)) {
      for (const { wire, field } of listed(fields)) {
        for (const value of wrong[field.shown] ?? [1, "x", true]) {
          assert.throws(() => decode(frame(type, { ...samples[type], [wire]: value })), BadMessage, `${type}.${wire}`);
        }
      }
    }
  }
});

test("a limit that is no whole number is bad", () => {
  for (const limit of ["3", 1.5, null]) {
    const bytes = frame("challenge", { ...HUB.challenge, limits: { page_bytes: 3, page_changes: limit } });
    assert.throws(() => decodeFromHub(bytes), /limits.page_changes is no int/);
  }
});

test("every bound holds at n and not at n + 1", () => {
  /** @type {[string, string, any[], any[]][]} the message, the field, what is within, what is beyond */
  const bounds = [
    ["hello", "v", [many(1, 1), many(8, 1)], [[], many(9, 1)]],
    ["hello", "device_id", [bin(16)], [bin(15), bin(17)]],
    ["hello", "client_nonce", [bin(32)], [bin(31), bin(33)]],
    ["hello", "features", [[], many(16, text(32))], [many(17, ""), [text(33)]]],
    ["hello", "heartbeat_s", [0, 86_400], [-1, 86_401]],
    ["auth", "signature", [bin(64)], [bin(63), bin(65)]],
    ["request_code", "request", [0, 2 ** 53 - 1], [-1]],
    ["request_code", "address", [text(3), text(320), "🦦".repeat(320)], [text(2), text(321)]],
    ["request_code", "app_id", [text(1), text(128)], ["", text(129)]],
    ["request_code", "purpose", ["enrol", "confirm", "change"], ["", "Enrol"]],
    ["request_code", "attempt_id", [null, bin(16)], [bin(0), bin(17)]],
    ["request_code", "invite", ["", text(128)], [text(129)]],
    ["enrol", "code", [text(1), text(32)], ["", text(33)]],
    ["enrol", "scope", ["app", "account"], ["", "all"]],
    ["enter", "spaces", [many(1, PROOF), many(50, PROOF)], [[], many(51, PROOF)]],
    ["enter", "spaces", [[{ ...PROOF, key_epoch: 2 ** 32 - 1 }]], [[{ ...PROOF, key_epoch: 2 ** 32 }]]],
    ["subscribe", "cursors", [many(256, CURSOR)], [[], many(257, CURSOR)]],
    ["unsubscribe", "collection_ids", [many(256, id(1))], [[], many(257, id(1)), [bin(15)]]],
    ["append", "drafts", [many(256, bin(0)), [bin(262_144)]], [[], many(257, bin(0)), [bin(262_145)]]],
    ["read_history", "limit", [1, 200], [0, 201]],
    ["list_audit", "limit", [1, 200], [0, 201]],
    ["export", "cursor", [bin(0), bin(128)], [bin(129)]],
    ["operator_code", "code", [text(1), text(32)], ["", text(33)]],
    ["operate", "verb", [text(1), text(32)], ["", text(33)]],
    ["operate", "arguments", [{}, { a: 1, b: "x", c: null, d: true, e: 1.5 }], [[], "x"]],
    ["signal", "body", [bin(1), bin(262_144)], [bin(0), bin(262_145)]],
    ["revoke_devices", "device_ids", [many(60, id(1))], [[], many(61, id(1))]],
  ];
  for (const [type, name, within, beyond] of bounds) {
    for (const value of within)
      assert.doesNotThrow(() => decodeFromDevice(frame(type, { ...DEVICE[type], [name]: value })), `${type}.${name}`);
    for (const value of beyond)
      assert.throws(
        () => decodeFromDevice(frame(type, { ...DEVICE[type], [name]: value })),
        BadMessage,
        `${type}.${name}`,
      );
  }
});

test("a seq of 2^53 is bad rather than rounded", () => {
  const bytes = unhex(hex(frame("done", { request: 2 ** 53 - 1 })).replace("cf001fffffffffffff", "cf0020000000000000"));
  assert.throws(() => decodeFromHub(bytes), BadMessage);
});

test("bytes that are no map with a type are no message", () => {
  const bytes = ["", "c0", "90", "80", "81a474797065", "81a47479706501", "81a1610102", "c1", "8101a0", "a568656c6c6f"];
  for (const digits of bytes) {
    assert.throws(() => decodeFromHub(unhex(digits)), NotAMessage, digits);
    assert.throws(() => decodeFromDevice(unhex(digits)), NotAMessage, digits);
  }
});

test("a message of an unknown type is told by its name and request", () => {
  const unknown = (/** @type {any} */ fields) => {
    try {
      return decodeFromHub(pack(fields));
    } catch (error) {
      assert.ok(error instanceof UnknownMessage);
      return [error.message, error.request];
    }
  };
  assert.deepEqual(unknown({ type: "of_tomorrow", request: 7 }), ["of_tomorrow", 7]);
  assert.deepEqual(unknown({ type: "of_tomorrow", request: -1 }), ["of_tomorrow", null]);
  assert.deepEqual(unknown({ type: "of_tomorrow", request: true }), ["of_tomorrow", null]);
  assert.deepEqual(unknown({ type: "x".repeat(1000) }), ["x".repeat(64), null]);
  assert.deepEqual(unknown({ type: "hello", request: 1 }), ["hello", 1]);
  for (const name of ["constructor", "__proto__", "toString"]) assert.deepEqual(unknown({ type: name }), [name, null]);
});

test("keys that are not known are ignored, whatever they hold", () => {
  const later = { later: [new Ext(9, bin(3)), { a: null }], "": 1, __proto: 2 };
  assert.deepEqual(decodeFromHub(frame("done", { request: 3, ...later })), { type: "done", request: 3 });
  assert.deepEqual(
    decodeFromHub(
      frame("subscribed", { ...HUB.subscribed, collections: [{ ...HUB.subscribed.collections[0], ...later }] }),
    ),
    decodeFromHub(frame("subscribed", HUB.subscribed)),
  );
  const withMap = unhex(`82${hex(pack("type"))}${hex(pack("ping"))}a16c8101a161`);
  assert.deepEqual(decodeFromHub(withMap), { type: "ping", heads: [] });
});

test("places that are not known at the end of an array are ignored", () => {
  const bytes = frame("heads", { heads: [[id(1), id(2), 3, "later"]] });
  assert.deepEqual(decodeFromHub(bytes), { type: "heads", heads: [{ spaceId: id(1), collectionId: id(2), head: 3 }] });
});

test("what was received holds no part of the frame and shares no default", () => {
  const bytes = frame("changes", HUB.changes);
  const changes = /** @type {any} */ (decodeFromHub(bytes));
  bytes.fill(0);
  assert.deepEqual(changes.changes[0], { seq: 1, appendedAtMs: 1_700_000_000_000, sealed: bin(3) });
  const one = /** @type {any} */ (decodeFromHub(frame("ping", {})));
  one.heads.push(1);
  assert.deepEqual(decodeFromHub(frame("ping", {})), { type: "ping", heads: [] });
});

test("a whole number does for a float", () => {
  const message = /** @type {any} */ (decodeFromHub(frame("going_away", { retry_after_s: 2 })));
  assert.equal(message.retryAfterS, 2);
  assert.equal(hex(encode({ type: "going_away", retryAfterS: 2 })).slice(-18), "cb4000000000000000");
});

test("defaults are left out, and so is what is undefined", () => {
  const bare = { type: /** @type {const} */ ("append"), request: 1, spaceId: id(1), drafts: [bin(1)] };
  assert.equal(hex(encode({ ...bare, atomic: false })), hex(encode(bare)));
  assert.equal(hex(encode({ ...bare, atomic: undefined })), hex(encode(bare)));
  assert.deepEqual(Object.keys(/** @type {any} */ (unpack(encode({ ...bare, atomic: true })))), [
    "type",
    "request",
    "space_id",
    "drafts",
    "atomic",
  ]);
});

test("sending what is no message is our own mistake", () => {
  /** @type {any[]} */
  const mistakes = [
    { type: "of_tomorrow" },
    { type: "toString" },
    {},
    { type: "auth" },
    { type: "auth", signature: "text" },
    { type: "append", request: 1, spaceId: id(1), drafts: "x" },
    { type: "done", request: 1.5 },
    { type: "done", request: "1" },
    { type: "going_away", retryAfterS: "1" },
    { type: "enrol", ...camel(DEVICE.enrol), scope: "all" },
    { type: "hello", ...camel(DEVICE.hello), headsOnly: 1 },
    { type: "challenge", ...camel(HUB.challenge), limits: [1] },
    { type: "enter", request: 1, spaces: [{ spaceId: id(1), keyEpoch: 0 }] },
    { type: "done", request: 2 ** 53 },
  ];
  for (const mistake of mistakes) assert.throws(() => encode(mistake), AssertionError, JSON.stringify(mistake));
});

/** @param {Record<string, any>} fields */
function camel(fields) {
  const named = (/** @type {string} */ name) => name.replace(/_[a-z]/g, (pair) => pair[1].toUpperCase());
  return Object.fromEntries(Object.entries(fields).map(([name, value]) => [named(name), value]));
}

test("any bytes raise one of the three faults and nothing else", () => {
  const known = SIDES.flatMap(([samples]) => Object.entries(samples).map(([type, fields]) => frame(type, fields)));
  always(3000, (random) => {
    const bytes = random.random() < 0.3 ? random.bytes(random.below(80)) : random.choice(known).slice();
    if (bytes.length) bytes[random.below(bytes.length)] = random.below(256);
    for (const decode of [decodeFromHub, decodeFromDevice]) {
      try {
        decode(bytes);
      } catch (error) {
        const kinds = [NotAMessage, UnknownMessage, BadMessage];
        assert.ok(
          kinds.some((kind) => error instanceof kind),
          String(error),
        );
      }
    }
  });
});
