/**
 * What each strategy answers when two devices edited one record, by name and by property.
 */

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  COMPARISONS_MAX, Conflict, MANUAL, MINE, MISSING, Merged, THEIRS, byField, counterSum, lastWriterWins, manual,
  mergeLines, perField, sameValue, setUnion, threeWayText,
} from "../src/strategies.js";
import { always } from "./seeded.js";

/** @typedef {import("../src/strategies.js").Strategy} Strategy */
/** @typedef {import("./seeded.js").Seeded} Seeded */

/** @type {Record<string, [Strategy, any]>} */
const MERGING = {
  perField: [perField, { a: 1 }],
  "counterSum of a field": [counterSum("a"), { a: 1 }],
  "counterSum of a number": [counterSum(), 3],
  "setUnion of sets": [setUnion, new Set("a")],
  "setUnion of lists": [setUnion, ["a"]],
  threeWayText: [threeWayText, "a\n"],
  byField: [byField({ a: counterSum() }), { a: 1 }],
};
const TEXT = "one\ntwo\nthree\nfour\nfive\n";

/** @param {Seeded} random */
const number = (random) => random.below(-1_000, 1_001);
/** @param {Seeded} random */
const mapping = (random) => Object.fromEntries(random.list(5, () => [random.choice([..."abcde"]), number(random)]));
/** @param {Seeded} random */
const counters = (random) => ({ n: number(random), m: number(random) });
/** @param {Seeded} random */
const digits = (random) => new Set(random.list(8, () => random.below(10)));
/** @param {Seeded} random */
const text = (random) => random.list(8, () => random.choice(["a", "b", "c", "d", ""])).join("\n");

/**
 * @param {Strategy} strategy
 * @param {any} base
 * @param {any} mine
 * @param {any} theirs
 */
function asked(strategy, base, mine, theirs) {
  return strategy(new Conflict("key", base, mine, theirs));
}

/** The value of a merge. @param {import("../src/strategies.js").Answer} answer */
function merged(answer) {
  assert.ok(answer instanceof Merged);
  return answer.value;
}

/** @param {string} of */
const lines = (of) => of.match(/[^\n]*\n|[^\n]+$/g) ?? [];

// --- the plain ones, and deletes -------------------------------------------------------------

const PLAIN = [[1, 2], [{ a: 1 }, "text"], [MISSING, 2], [1, MISSING]];

test("manual leaves everything to a person", () => {
  for (const [mine, theirs] of PLAIN) assert.equal(asked(manual, 0, mine, theirs), MANUAL);
});

test("last writer wins lets mine stand because it reaches the log last", () => {
  for (const [mine, theirs] of PLAIN) assert.equal(asked(lastWriterWins, 0, mine, theirs), MINE);
});

test("an edit beats a delete on either side", () => {
  for (const [name, [strategy, value]] of Object.entries(MERGING)) {
    assert.equal(asked(strategy, value, MISSING, value), THEIRS, name);
    assert.equal(asked(strategy, value, value, MISSING), MINE, name);
  }
});

test("values that do not fit the strategy fall to the last writer", () => {
  const misfits = [["x", "y", "z"], [MISSING, "y", 3], [null, { a: 1 }, null]];
  for (const strategy of [perField, counterSum("a"), counterSum(), setUnion]) {
    for (const [base, mine, theirs] of misfits) assert.equal(asked(strategy, base, mine, theirs), MINE);
  }
});

test("missing is no value of an app and says its name", () => {
  for (const value of [undefined, null, false, 0, ""]) assert.notEqual(MISSING, value);
  assert.equal(MISSING.description, "MISSING");
});

test("a merge puts nothing beside the record unless told", () => {
  assert.deepEqual(new Merged(1).also, {});
});

// --- perField --------------------------------------------------------------------------------

test("fields changed on different sides are both kept", () => {
  assert.deepEqual(asked(perField, { a: 1, b: 1 }, { a: 2, b: 1 }, { a: 1, b: 3 }), new Merged({ a: 2, b: 3 }));
});

test("a field both changed is taken from mine", () => {
  assert.deepEqual(asked(perField, { a: 1 }, { a: 2 }, { a: 3 }), new Merged({ a: 2 }));
});

test("a field only one side removed is gone", () => {
  assert.deepEqual(asked(perField, { a: 1, b: 1 }, { b: 1 }, { a: 1, b: 2 }), new Merged({ b: 2 }));
  assert.deepEqual(asked(perField, { a: 1, b: 1 }, { a: 1, b: 2 }, { b: 1 }), new Merged({ b: 2 }));
});

test("a field mine removed and theirs changed is gone as mine has it", () => {
  assert.deepEqual(asked(perField, { a: 1 }, {}, { a: 2 }), new Merged({}));
});

test("two new records are merged by field too", () => {
  assert.deepEqual(asked(perField, MISSING, { a: 1, c: 1 }, { b: 2, c: 2 }), new Merged({ a: 1, b: 2, c: 1 }));
});

test("per field keeps an edit when the other side changed nothing", () => {
  always(300, (random) => {
    const [base, edit] = [mapping(random), mapping(random)];
    assert.deepEqual(asked(perField, base, edit, base), new Merged(edit));
    assert.deepEqual(asked(perField, base, base, edit), new Merged(edit));
  });
});

test("per field of the same edit on both sides is that edit", () => {
  always(300, (random) => {
    const [base, edit] = [mapping(random), mapping(random)];
    assert.deepEqual(asked(perField, base, edit, edit), new Merged(edit));
  });
});

test("a field that is undefined is not there", () => {
  assert.deepEqual(asked(perField, { a: 1, b: 1 }, { a: undefined, b: 1 }, { a: 1, b: 2 }), new Merged({ b: 2 }));
});

test("fields named like what every object has are fields like others", () => {
  const [base, mine] = [JSON.parse('{"a":1}'), JSON.parse('{"a":1,"__proto__":{"x":1},"constructor":2}')];
  const value = merged(asked(perField, base, mine, { a: 2 }));
  assert.deepEqual(Object.entries(value), [["a", 2], ["__proto__", { x: 1 }], ["constructor", 2]]);
  assert.equal(Object.getPrototypeOf(value), Object.prototype);
});

test("maps are mappings and their keys are compared by what they hold", () => {
  const day = (/** @type {number} */ n) => [2_024, n]; // another list each time
  const [base, mine] = [new Map([[day(1), 1], [day(2), 1]]), new Map([[day(1), 5], [day(2), 1]])];
  const theirs = new Map([[day(1), 1], [day(2), 7]]);
  assert.deepEqual(asked(perField, base, mine, theirs), new Merged(new Map([[day(1), 5], [day(2), 7]])));
  assert.deepEqual(asked(perField, { a: 1 }, new Map([["a", 2]]), { a: 1 }), new Merged(new Map([["a", 2]])));
});

test("fields are compared by what they hold", () => {
  const made = () => ({ at: new Date(7), of: new Set([1, "b"]), by: Uint8Array.of(1), in: [{ x: NaN }], n: 2n ** 60n });
  const others = { at: new Date(8), of: new Set([1]), by: Uint8Array.of(2), in: [], n: 1 };
  for (const [field, other] of Object.entries(others)) {
    const edit = { ...made(), [field]: other };
    assert.deepEqual(asked(perField, made(), made(), edit), new Merged(edit), field);
    assert.deepEqual(asked(perField, made(), edit, made()), new Merged(edit), field);
  }
});

// --- counterSum ------------------------------------------------------------------------------

test("what both sides counted is added up", () => {
  assert.deepEqual(asked(counterSum(), 10, 13, 8), new Merged(11));
  assert.deepEqual(asked(counterSum("n"), { n: 10 }, { n: 13 }, { n: 8 }), new Merged({ n: 11 }));
});

test("counters begin at zero", () => {
  assert.deepEqual(asked(counterSum(), MISSING, 2, 3), new Merged(5));
  assert.deepEqual(asked(counterSum("n"), MISSING, { n: 2 }, { n: 3 }), new Merged({ n: 5 }));
  assert.deepEqual(asked(counterSum("n"), {}, { n: 2 }, {}), new Merged({ n: 2 }));
});

test("fields that are no counters are merged by field", () => {
  const [base, mine, theirs] = [{ n: 1, a: 0, b: 0 }, { n: 2, a: 1, b: 1 }, { n: 3, a: 0, b: 2 }];
  assert.deepEqual(asked(counterSum("n"), base, mine, theirs), new Merged({ n: 4, a: 1, b: 1 }));
});

test("a counter that was removed is a field that was removed", () => {
  // A removal counts nothing: it must not bring back what the other side left alone, or removed too.
  const strategy = counterSum("n");
  assert.deepEqual(asked(strategy, { n: 5, a: 1 }, { a: 1 }, { n: 5, a: 2 }), new Merged({ a: 2 }));
  assert.deepEqual(asked(strategy, { n: 5, a: 1 }, { n: 5, a: 2 }, { a: 1 }), new Merged({ a: 2 }));
  assert.deepEqual(asked(strategy, { n: 5, a: 1 }, { a: 2 }, { a: 3 }), new Merged({ a: 2 }));
  assert.deepEqual(asked(strategy, { n: 5 }, {}, { n: 7 }), new Merged({})); // as any field both changed: from mine
  assert.deepEqual(asked(strategy, { n: 5 }, { n: 7 }, {}), new Merged({ n: 7 }));
});

test("several fields may count", () => {
  const answer = asked(counterSum("n", "m"), { n: 0, m: 5 }, { n: 1, m: 4 }, { n: 1, m: 4 });
  assert.deepEqual(answer, new Merged({ n: 2, m: 3 }));
});

test("a counter that is no number is merged as any field", () => {
  for (const [mine, theirs] of [["many", 3], [true, 3]]) {
    assert.deepEqual(asked(counterSum("n"), { n: 0 }, { n: mine }, { n: theirs }), new Merged({ n: mine }));
    assert.equal(asked(counterSum(), 0, mine, theirs), MINE);
  }
});

test("the sum does not ask whose edit came first", () => {
  always(300, (random) => {
    const [base, one, other] = [number(random), number(random), number(random)];
    assert.deepEqual(asked(counterSum(), base, one, other), asked(counterSum(), base, other, one));
    assert.deepEqual(asked(counterSum(), base, one, base), new Merged(one));
  });
});

test("counted fields do not ask whose edit came first", () => {
  always(300, (random) => {
    const [base, one, other, strategy] = [counters(random), counters(random), counters(random), counterSum("n", "m")];
    assert.deepEqual(asked(strategy, base, one, other), asked(strategy, base, other, one));
    assert.deepEqual(asked(strategy, base, one, base), new Merged(one));
  });
});

test("whole numbers are added up exactly however large and fractions as fractions", () => {
  const largest = Number.MAX_SAFE_INTEGER;
  assert.deepEqual(asked(counterSum(), largest, largest, largest), new Merged(largest));
  assert.deepEqual(asked(counterSum(), 0, largest, 2), new Merged(2n ** 53n + 1n));
  assert.deepEqual(asked(counterSum(), 2n ** 60n, 2n ** 60n + 1n, 5), new Merged(6));
  assert.deepEqual(asked(counterSum(), 0.5, 1.5, 0.75), new Merged(1.75));
  assert.deepEqual(asked(counterSum(), 0, 1e300, 5), new Merged(1e300)); // too large to be exact: a fraction too
});

// --- setUnion --------------------------------------------------------------------------------

test("what either added stays and what either removed goes", () => {
  assert.deepEqual(asked(setUnion, new Set("abc"), new Set("bcx"), new Set("aby")), new Merged(new Set("bxy")));
});

test("two new sets are united", () => {
  assert.deepEqual(asked(setUnion, MISSING, new Set([1, 2]), new Set([2, 3])), new Merged(new Set([1, 2, 3])));
  assert.deepEqual(asked(setUnion, MISSING, [1, 2], [2, 3]), new Merged([2, 3, 1]));
});

test("a list keeps the order of theirs with what mine added behind", () => {
  const answer = asked(setUnion, ["a", "b", "c"], ["new", "c", "a"], ["c", "b", "x", "a"]);
  assert.deepEqual(answer, new Merged(["c", "x", "a", "new"]));
});

test("elements of a list need not be hashable", () => {
  const [one, two, three] = [() => ({ id: 1 }), () => ({ id: 2 }), () => ({ id: 3 })];
  const answer = asked(setUnion, [one()], [one(), two()], [one(), three()]);
  assert.deepEqual(answer, new Merged([one(), three(), two()]));
});

test("elements of a set are compared by what they hold", () => {
  const [one, two, three] = [() => ["a", 1], () => new Date(2), () => Uint8Array.of(3)];
  const answer = asked(setUnion, new Set([one(), two()]), new Set([one(), two(), three()]), new Set([two()]));
  assert.deepEqual(answer, new Merged(new Set([two(), three()])));
});

test("the union of sets does not ask whose edit came first", () => {
  always(300, (random) => {
    const [base, one, other] = [digits(random), digits(random), digits(random)];
    const union = asked(setUnion, base, one, other);
    assert.deepEqual(union, asked(setUnion, base, other, one));
    assert.deepEqual(asked(setUnion, base, one, base), new Merged(one));
    const stays = (/** @type {number} */ n) => (base.has(n) ? one.has(n) && other.has(n) : one.has(n) || other.has(n));
    assert.deepEqual(union, new Merged(new Set([...Array(10).keys()].filter(stays))));
  });
});

test("lists hold what sets would", () => {
  always(300, (random) => {
    const [base, one, other] = [digits(random), digits(random), digits(random)];
    const list = merged(asked(setUnion, [...base], [...one], [...other]));
    assert.equal(list.length, new Set(list).size);
    assert.deepEqual(new Set(list), merged(asked(setUnion, base, one, other)));
    assert.deepEqual(asked(setUnion, [...base], [...base], [...other]), new Merged([...other]));
  });
});

// --- threeWayText ----------------------------------------------------------------------------

test("lines changed in different places are both kept", () => {
  const [mine, theirs] = [TEXT.replace("one", "ONE"), TEXT.replace("five", "FIVE")];
  assert.deepEqual(asked(threeWayText, TEXT, mine, theirs), new Merged("ONE\ntwo\nthree\nfour\nFIVE\n"));
});

test("a removed line and an added one elsewhere are both kept", () => {
  const [mine, theirs] = [TEXT.replace("two\n", ""), `${TEXT}six\n`];
  assert.deepEqual(asked(threeWayText, TEXT, mine, theirs), new Merged("one\nthree\nfour\nfive\nsix\n"));
});

test("changes on both sides of a line that was kept are both kept", () => {
  const [mine, theirs] = [TEXT.replace("two", "TWO"), `zero\n${TEXT}`];
  assert.deepEqual(asked(threeWayText, TEXT, mine, theirs), new Merged(`zero\n${mine}`));
});

test("the same change on both sides is made once", () => {
  const mine = TEXT.replace("two", "TWO").replace("five", "FIVE");
  assert.deepEqual(asked(threeWayText, TEXT, mine, TEXT.replace("two", "TWO")), new Merged(mine));
});

/** @type {Record<string, [any, any, any]>} */
const OVERLAPS = {
  "one line changed differently": [TEXT, TEXT.replace("two", "2"), TEXT.replace("two", "zwei")],
  "a line changed and removed": [TEXT, TEXT.replace("two", "2"), TEXT.replace("two\n", "")],
  "two insertions at one place": [TEXT, `${TEXT}mine\n`, `${TEXT}theirs\n`],
  "nothing to stand on": [MISSING, "mine\n", "theirs\n"],
  "no text": ["a", "b", 3],
};

test("where texts overlap a person decides unless a fallback does", () => {
  for (const [name, sides] of Object.entries(OVERLAPS)) {
    /** @type {Conflict[]} */
    const seen = [];
    const conflict = new Conflict("key", ...sides);
    const fallback = (/** @type {Conflict} */ met) => (seen.push(met), new Merged("decided"));
    assert.equal(asked(threeWayText, ...sides), MANUAL, name);
    assert.equal(threeWayText(conflict, lastWriterWins), MINE, name);
    assert.deepEqual(threeWayText(conflict, fallback), new Merged("decided"), name);
    assert.deepEqual(seen, [conflict], name);
  }
});

test("the fallback is not asked when the merge is clean or one side deleted", () => {
  const fallback = () => assert.fail("asked");
  assert.deepEqual(threeWayText(new Conflict("key", "a\n", "a\nb\n", "a\n"), fallback), new Merged("a\nb\n"));
  assert.equal(threeWayText(new Conflict("key", "a\n", MISSING, "b\n"), fallback), THEIRS);
  assert.equal(threeWayText(new Conflict("key", "a\n", "b\n", MISSING), fallback), MINE);
});

test("a missing newline at the end is kept missing", () => {
  assert.equal(mergeLines("a\nb\nc", "A\nb\nc", "a\nb\nc"), "A\nb\nc");
  assert.equal(mergeLines("a\nb\nc\n", "A\nb\nc\n", "a\nb\nc"), "A\nb\nc");
});

test("a text only one side changed is that sides text", () => {
  always(500, (random) => {
    const [base, edit] = [text(random), text(random)];
    assert.equal(mergeLines(base, edit, base), edit);
    assert.equal(mergeLines(base, base, edit), edit);
    assert.equal(mergeLines(base, edit, edit), edit);
  });
});

test("the merge of texts does not ask whose edit came first", () => {
  let clean = 0;
  always(500, (random) => {
    const [base, one, other] = [text(random), text(random), text(random)];
    assert.equal(mergeLines(base, one, other), mergeLines(base, other, one));
    clean += Number(mergeLines(base, one, other) !== null);
  });
  assert.ok(clean > 20 && clean < 480, `${clean} of 500 merged`);
});

test("a merged text has no line that nobody wrote", () => {
  always(500, (random) => {
    const [base, one, other] = [text(random), text(random), text(random)];
    const written = new Set([...lines(one), ...lines(other)]);
    for (const line of lines(mergeLines(base, one, other) ?? "")) assert.ok(written.has(line));
  });
});

test("what ends a line is what does in python", () => {
  for (const end of ["\n", "\r\n", "\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]) {
    const [base, mine, theirs] = [`a${end}b${end}c`, `A${end}b${end}c`, `a${end}b${end}C`];
    assert.equal(mergeLines(base, mine, theirs), `A${end}b${end}C`);
  }
  assert.equal(mergeLines("a\x1fb\x1fc", "A\x1fb\x1fc", "a\x1fb\x1fC"), null);
  assert.equal(mergeLines("a\x1fb\nc\nd", "a\x1fB\nc\nd", "a\x1fb\nc\nD"), "a\x1fB\nc\nD");
});

test("texts that take too long to compare are left to the fallback", () => {
  const side = Math.sqrt(COMPARISONS_MAX / 2);
  /**
   * Changed at both ends, in between one line again and again.
   * @param {number} times
   * @param {string} first
   * @param {string} last
   */
  const repeated = (times, first, last) => `${first}\n${"same\n".repeat(times)}${last}\n`;
  const conflict = (/** @type {number} */ times) =>
    asked(threeWayText, repeated(times, "a", "z"), repeated(times, "A", "z"), repeated(times, "a", "Z"));
  const times = Math.floor(side);
  assert.deepEqual(conflict(times), new Merged(repeated(times, "A", "Z")));
  assert.equal(conflict(times + 1), MANUAL);
});

test("what all texts have in common at both ends is not compared", () => {
  const around = "same\n".repeat(COMPARISONS_MAX);
  const whole = (/** @type {string} */ middle) => `${around}${middle}${around}`;
  const answer = asked(threeWayText, whole("a\nb\nc\n"), whole("A\nb\nc\n"), whole("a\nb\nC\n"));
  assert.equal(merged(answer), whole("A\nb\nC\n"));
});

// --- equality --------------------------------------------------------------------------------

test("values are the same by what they hold", () => {
  /** Each call makes them anew; no two of them are the same. */
  const kinds = () => [
    MISSING, null, true, 1, "1", 2n ** 64n, NaN, new Date(1), new Date(2), [], [1], [[1]], {}, { a: 1 }, { a: 2 },
    { b: 1 }, { a: 1, b: 2 }, new Map([[1, 2]]), new Map([[{ k: 1 }, 2]]), new Set(), new Set([1]), new Set([[1]]),
    Uint8Array.of(1), Uint8Array.of(2), Int8Array.of(1), Float64Array.of(NaN),
    Uint8Array.of(7, 7).buffer, Uint8Array.of(7, 8).buffer,
    new File(["x"], "x"),
  ];
  const [ones, others] = [kinds(), kinds()];
  ones.forEach((one, i) => {
    const equals = (/** @type {number} */ j) => i === j && !(one instanceof Blob);
    others.forEach((other, j) => assert.equal(sameValue(one, other), equals(j), `${i} and ${j}`));
    assert.ok(sameValue(one, one));
  });
  assert.ok(sameValue({ a: 1, b: undefined }, { a: 1 }));
  assert.ok(sameValue(5, 5n) && !sameValue(1, true));
});

// --- fields, each in its own way -------------------------------------------------------------

const chapter = byField({ text: threeWayText, tags: setUnion, words: counterSum() });

test("each field is merged by its own strategy, and the others by whose changed", () => {
  const base = { text: TEXT, tags: new Set("ab"), words: 10, title: "old", order: 1 };
  const mine = { ...base, text: TEXT.replace("one", "ONE"), tags: new Set("abc"), words: 12, title: "mine" };
  const theirs = { ...base, text: TEXT.replace("five", "FIVE"), tags: new Set("b"), words: 15, order: 2 };
  assert.deepEqual(merged(asked(chapter, base, mine, theirs)), {
    text: "ONE\ntwo\nthree\nfour\nFIVE\n", tags: new Set("bc"), words: 17, title: "mine", order: 2,
  });
});

test("a field that counts counts two equal edits", () => {
  assert.ok(chapter.counts);
  assert.ok(!byField({ text: threeWayText }).counts);
  const edit = { text: "same\n", words: 12 };
  assert.deepEqual(merged(asked(chapter, { text: "old\n", words: 10 }, edit, { ...edit })), { text: "same\n", words: 14 });
});

test("one field that waits for a person makes the whole wait", () => {
  const base = { text: "one\n", words: 10 };
  const [mine, theirs] = [{ text: "mine\n", words: 11 }, { text: "theirs\n", words: 12 }];
  assert.equal(asked(chapter, base, mine, theirs), MANUAL);
  const sure = byField({ text: (conflict) => threeWayText(conflict, lastWriterWins), words: counterSum() });
  assert.deepEqual(merged(asked(sure, base, mine, theirs)), { text: "mine\n", words: 13 });
  const yielding = byField({ text: () => THEIRS });
  assert.deepEqual(merged(asked(yielding, base, mine, theirs)), { text: "theirs\n", words: 11 });
});

test("a field's strategy is asked only about what both changed differently", () => {
  /** @type {any[]} */
  const seen = [];
  const asking = byField({ a: (conflict) => (seen.push({ ...conflict }), MINE), b: () => assert.fail("not asked") });
  const answer = asked(asking, { a: 1, b: 1 }, { a: 2, b: 2, c: 2 }, { a: 3, b: 2 });
  assert.deepEqual(merged(answer), { a: 2, b: 2, c: 2 });
  assert.deepEqual(seen, [{ key: "key", base: 1, mine: 2, theirs: 3 }]);
  const removed = asked(asking, { b: 1 }, { b: 1, c: 1 }, {});
  assert.deepEqual(merged(removed), { c: 1 });
});
