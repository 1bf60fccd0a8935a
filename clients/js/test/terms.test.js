/** The tables of docs/protocol.md are those of the code: limits, refusals, closings. */

import assert from "node:assert/strict";
import test from "node:test";
import {
  assert as must,
  AssertionError,
  Closing,
  CLOSINGS,
  comesBack,
  HubError,
  Refusal,
  REFUSALS,
} from "../src/errors.js";
import { COLLECTION_KINDS, FREEING_KINDS, Kind, LIMITS, limitsTold, LOG_KINDS, wireName } from "../src/terms.js";
import { DOCUMENT, tableOf } from "./vectors.js";

test("the refusals are those of the document", () => {
  const documented = tableOf("refusals: ").map(([code, retry, message]) => [
    code.slice(1, -1),
    { retry: retry === "yes", message },
  ]);
  assert.ok(documented.length >= 28);
  assert.deepEqual(Object.entries(REFUSALS), documented);
});

test("the closings are those of the document, and their band says whether to come back", () => {
  const documented = tableOf("closings: ");
  assert.ok(documented.length >= 13);
  assert.deepEqual(
    Object.entries(CLOSINGS).map(([name, { code, message }]) => [
      `${code}`,
      `\`${name}\``,
      comesBack(code) ? "yes" : "no",
      message,
    ]),
    documented,
  );
});

test("a close code that is not known is judged by its band, and a frame too large is our fault", () => {
  assert.deepEqual([4499, 4500, 1006, 1009].map(comesBack), [true, false, true, false]);
});

test("the limits are those of the document", () => {
  const documented = tableOf("limits: ").map(([name, value]) => [name.slice(1, -1), Number(value.replaceAll(",", ""))]);
  assert.ok(documented.length >= 27);
  assert.deepEqual(
    Object.entries(LIMITS).map(([name, value]) => [wireName(name), value]),
    documented,
  );
});

test("the kinds are those of the document", () => {
  const documented = [...DOCUMENT.matchAll(/^\| (\d) (\w+) \| /gm)].map(([, number, name]) => [
    name.toUpperCase(),
    Number(number),
  ]);
  assert.equal(documented.length, 7);
  assert.deepEqual(Object.fromEntries(documented), { ...Kind });
  assert.deepEqual([...LOG_KINDS].sort(), [1, 2, 3, 4, 6, 8]);
  assert.deepEqual([...FREEING_KINDS].sort(), [2, 3, 4]);
  assert.deepEqual([...COLLECTION_KINDS].sort(), [3, 4, 5]);
});

test("the limits a hub tells replace the defaults, and what it does not tell or tells as nothing does not", () => {
  const told = limitsTold({ draft_bytes_max: 7, page_changes: 0, of_tomorrow: 3, draftBytesMax: 9 });
  assert.deepEqual(told, { ...LIMITS, draftBytesMax: 7 });
  assert.equal(limitsTold(JSON.parse('{"__proto__": {"page_bytes": 1}}')).pageBytes, LIMITS.pageBytes);
});

test("a refusal says its code, its sentence and whether it may succeed later", () => {
  const refusal = new Refusal("rate_limited", "", { retryAfterS: 3 });
  assert.deepEqual(
    [refusal.code, refusal.message, refusal.retry, refusal.retryAfterS, refusal.name],
    ["rate_limited", "too many messages; wait and send again", true, 3, "Refusal"],
  );
  assert.ok(refusal instanceof HubError);
  assert.equal(new Refusal("too_many", "60 devices").message, "60 devices");
});

test("a refusal of a newer hub is read by what the hub says of it", () => {
  const refusal = new Refusal("of_tomorrow", "wait", { retry: true });
  assert.deepEqual([refusal.code, refusal.message, refusal.retry], ["of_tomorrow", "wait", true]);
  assert.equal(new Refusal("constructor").retry, false);
});

test("a closing has its code and its name", () => {
  const closing = new Closing("revoked");
  assert.deepEqual([closing.code, closing.closing, closing.message], [4503, "revoked", "4503 revoked"]);
  assert.throws(() => new Closing("of_tomorrow"), AssertionError);
});

test("a mistake of our own is told with its sentence", () => {
  assert.throws(() => must(false, "the sentence"), { name: "AssertionError", message: "the sentence" });
  must(1, "not thrown");
});
