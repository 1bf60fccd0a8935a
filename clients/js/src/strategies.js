/**
 * What to do when two devices edited the same record, without I/O.
 *
 * A strategy is a function of one `Conflict`: the opened value both edits were made on, this device's value, and the
 * one that is in the log already. It answers `MINE`, `THEIRS`, `new Merged(value)` or `MANUAL` (keep both; a person
 * decides). It runs inside a local transaction, so it must be quick and synchronous, and on every device that meets the
 * conflict, so it should depend on nothing but its argument.
 *
 * The engine settles what is no real conflict (equal values, or only one side changed) before it asks, so a strategy
 * never sees those. Except one that counts (`counts` is true of it, as of `counterSum`): to it two equal edits are two.
 *
 * A mapping is a plain object or a `Map`; a field that is `undefined` is not there, as it is when a value is sealed.
 */

/** Stands for no value: the record was deleted, or did not exist. */
export const MISSING = Symbol("MISSING");

/** This device's value stands. */
export const MINE = Symbol("MINE");
/** The value in the log stands. */
export const THEIRS = Symbol("THEIRS");
/** Both are kept until a person decides. */
export const MANUAL = Symbol("MANUAL");

/**
 * Comparing texts in which one line is repeated many times takes quadratic time, once for every place they differ, and
 * a merge must hold up neither the transaction nor the page. It is how many pairs of equal lines may be compared.
 */
export const COMPARISONS_MAX = 100_000;

/** @typedef {typeof MINE | typeof THEIRS | typeof MANUAL} Verdict  the answers that need no new value */
/** @typedef {Merged | Verdict} Answer */
/** @typedef {((conflict: Conflict) => Answer) & { counts?: boolean }} Strategy  `counts`: two equal edits are two */
/** @typedef {(base: any, mine: any, theirs: any) => any} FieldMerge  the value of one field; each may be `MISSING` */

/** Two edits of one record; each value may be `MISSING`. */
export class Conflict {
  /**
   * @param {string} key
   * @param {any} base
   * @param {any} mine
   * @param {any} theirs
   */
  constructor(key, base, mine, theirs) {
    this.key = key;
    this.base = base;
    this.mine = mine;
    this.theirs = theirs;
  }
}

/** The value that replaces both, and further records to put beside it (by their keys). */
export class Merged {
  /**
   * @param {any} value
   * @param {Record<string, any> | Map<string, any>} [also]
   */
  constructor(value, also = {}) {
    this.value = value;
    this.also = also;
  }
}

/**
 * Keep both until a person resolves it.
 * @param {Conflict} conflict
 * @returns {Verdict}
 */
export function manual(conflict) {
  return MANUAL;
}

/**
 * The edit that reaches the log last stands; the engine does not even ask the hub to compare.
 * @param {Conflict} conflict
 * @returns {Verdict}
 */
export function lastWriterWins(conflict) {
  return MINE;
}

/**
 * Merge mappings field by field; a field both changed is taken from mine.
 *
 * An edit beats a delete. Values that are not mappings fall to `lastWriterWins`.
 * @param {Conflict} conflict
 * @returns {Answer}
 */
export function perField(conflict) {
  return mergeMappings(conflict, new Map());
}

/**
 * Add up what both sides counted: of these fields of a mapping, or without fields of a plain number.
 *
 * Other fields are merged as `perField` does.
 * @param {...string} fields
 * @returns {Strategy}
 */
export function counterSum(...fields) {
  const adders = new Map(fields.map((field) => [field, sum]));
  const strategy = (/** @type {Conflict} */ conflict) =>
    fields.length ? mergeMappings(conflict, adders) : sumPlain(conflict);
  return Object.assign(strategy, { counts: true });
}

/**
 * Keep what either side added, drop what either side removed; for sets and lists.
 *
 * A list keeps the order of theirs, with what mine added behind it.
 * @param {Conflict} conflict
 * @returns {Answer}
 */
export function setUnion(conflict) {
  const lone = editBeatsDelete(conflict);
  if (lone !== null) return lone;
  const { base, mine, theirs } = conflict;
  if (all(conflict, isSet)) return new Merged(new Set(mergeItems(base === MISSING ? new Set() : base, mine, theirs)));
  if (all(conflict, Array.isArray)) return new Merged(mergeItems(base === MISSING ? [] : base, mine, theirs));
  return lastWriterWins(conflict);
}

/**
 * Merge texts line by line; where both changed the same lines, `fallback` decides about the whole.
 *
 * It decides too about texts that would take too long to compare, see `COMPARISONS_MAX`.
 * @param {Conflict} conflict
 * @param {Strategy} [fallback]
 * @returns {Answer}
 */
export function threeWayText(conflict, fallback = manual) {
  const lone = editBeatsDelete(conflict);
  if (lone !== null) return lone;
  if (conflict.base === MISSING || !all(conflict, isText)) return fallback(conflict);
  const merged = mergeInTime(conflict.base, conflict.mine, conflict.theirs);
  return merged === null ? fallback(conflict) : new Merged(merged);
}

/**
 * Merge mappings field by field, each field by its own strategy; fields that are not named as `perField` does.
 *
 *     byField({ text: threeWayText, tags: setUnion, words: counterSum() })
 *
 * A strategy of a field sees the field's values, and only when both sides changed it; differently, unless it counts.
 * When it leaves its field to a person, the whole is left to a person.
 * @param {Record<string, Strategy>} strategies
 * @returns {Strategy}
 */
export function byField(strategies) {
  const counts = Object.values(strategies).some((strategy) => strategy.counts);
  const merged = (/** @type {Conflict} */ conflict) => {
    const merges = Object.entries(strategies).map(([field, strategy]) => [field, ofField(conflict.key, strategy)]);
    const answer = mergeMappings(conflict, new Map(/** @type {[string, FieldMerge][]} */ (merges)));
    const isOpen = answer instanceof Merged && [...fieldsOf(answer.value).values()].includes(MANUAL);
    return isOpen ? MANUAL : answer;
  };
  return Object.assign(merged, { counts });
}

/**
 * The diff3 merge of three texts by lines; null when both changed the same place differently.
 *
 * Two insertions at one place are such a case: no order of them is right.
 * @param {string} base
 * @param {string} mine
 * @param {string} theirs
 * @returns {string | null}
 */
export function mergeLines(base, mine, theirs) {
  const merged = mergeSplit(splitLines(base), splitLines(mine), splitLines(theirs));
  return merged && merged.join("");
}

/**
 * Whether two values of an app are the same value: by what they hold, not by what they are.
 * @param {any} one
 * @param {any} other
 * @returns {boolean}
 */
export function sameValue(one, other) {
  if (one === other || (Number.isNaN(one) && Number.isNaN(other))) return true;
  if (isNumber(one) && isNumber(other)) return one == other; // a whole number may be a BigInt on one side
  if (!isObject(one) || !isObject(other)) return false;
  if (isMapping(one) && isMapping(other)) return sameFields(fieldsOf(one), fieldsOf(other));
  if (Object.getPrototypeOf(one) !== Object.getPrototypeOf(other)) return false;
  if (one instanceof Date) return sameValue(one.getTime(), other.getTime());
  if (isSet(one)) return one.size === other.size && [...one].every((item) => holds(other, item));
  if (Array.isArray(one) || isTypedArray(one)) return sameItems(one, other);
  if (one instanceof ArrayBuffer) return sameItems(new Uint8Array(one), new Uint8Array(other));
  return !isFile(one) && sameFields(new Map(Object.entries(one)), new Map(Object.entries(other)));
}

// --- mappings and counters -------------------------------------------------------------------

/**
 * @param {Conflict} conflict
 * @param {ReadonlyMap<any, FieldMerge>} special  how to merge these fields, if not by whose changed
 * @returns {Answer}
 */
function mergeMappings(conflict, special) {
  const lone = editBeatsDelete(conflict);
  if (lone !== null) return lone;
  if (!all(conflict, isMapping)) return lastWriterWins(conflict);
  const merged = mergeFields(conflict, special);
  const asMap = conflict.mine instanceof Map || conflict.theirs instanceof Map;
  // An assignment to a field called __proto__ would not make a field.
  return new Merged(asMap ? new Map(merged) : Object.fromEntries(merged));
}

/**
 * @param {Conflict} conflict
 * @param {ReadonlyMap<any, FieldMerge>} special
 * @returns {[any, any][]}
 */
function mergeFields(conflict, special) {
  const base = conflict.base === MISSING ? new Map() : fieldsOf(conflict.base);
  const [mine, theirs] = [fieldsOf(conflict.mine), fieldsOf(conflict.theirs)];
  /** @type {[any, any][]} */
  const merged = [];
  for (const field of [...theirs.keys(), ...[...mine.keys()].filter((name) => look(theirs, name) === MISSING)]) {
    const merge = special.get(field) ?? pick;
    const value = merge(look(base, field), look(mine, field), look(theirs, field));
    if (value !== MISSING) merged.push([field, value]);
  }
  return merged;
}

/**
 * The field's value as the strategy has it, or MANUAL.
 * @param {string} key
 * @param {Strategy} strategy
 * @returns {FieldMerge}
 */
function ofField(key, strategy) {
  return (base, mine, theirs) => {
    if (sameValue(mine, base)) return theirs;
    if (sameValue(theirs, base) || (sameValue(mine, theirs) && !strategy.counts)) return mine;
    const answer = strategy(new Conflict(key, base, mine, theirs));
    if (answer instanceof Merged) return answer.value;
    return answer === MINE ? mine : answer === THEIRS ? theirs : MANUAL;
  };
}

/** @type {FieldMerge} */
function pick(base, mine, theirs) {
  return sameValue(mine, base) ? theirs : mine;
}

/** @type {FieldMerge} */
function sum(base, mine, theirs) {
  const sides = [base, mine, theirs];
  if (!sides.every((value) => value === MISSING || isNumber(value))) return pick(base, mine, theirs);
  // Removed: that counts nothing.
  if (base !== MISSING && (mine === MISSING || theirs === MISSING)) return pick(base, mine, theirs);
  const start = base === MISSING ? 0 : base;
  const [one, other] = [mine, theirs].map((value) => (value === MISSING ? start : value));
  if ([start, one, other].every(isWhole)) return plainest(BigInt(one) + BigInt(other) - BigInt(start));
  return Number(start) + (Number(one) - Number(start) + (Number(other) - Number(start)));
}

/** @param {Conflict} conflict @returns {Answer} */
function sumPlain(conflict) {
  const lone = editBeatsDelete(conflict);
  if (lone !== null) return lone;
  const { base, mine, theirs } = conflict;
  if (!isNumber(mine) || !isNumber(theirs)) return lastWriterWins(conflict);
  return new Merged(sum(base, mine, theirs));
}

/**
 * A whole number as values have it: a BigInt only where a number would not be exact.
 * @param {bigint} whole
 */
function plainest(whole) {
  const number = Number(whole);
  return Number.isSafeInteger(number) ? number : whole;
}

// --- texts -----------------------------------------------------------------------------------

/**
 * `mergeLines`, unless comparing takes too long even without what all three have in common at both ends.
 * @param {string} base
 * @param {string} mine
 * @param {string} theirs
 * @returns {string | null}
 */
function mergeInTime(base, mine, theirs) {
  const whole = [base, mine, theirs].map(splitLines);
  const head = sameLines(whole);
  const tail = sameLines(whole.map((lines) => lines.slice(head).reverse()));
  const middle = whole.map((lines) => lines.slice(head, lines.length - tail));
  if (inTime(whole)) return mergeSplit(whole[0], whole[1], whole[2])?.join("") ?? null;
  const merged = inTime(middle) ? mergeSplit(middle[0], middle[1], middle[2]) : null;
  return merged && [...whole[0].slice(0, head), ...merged, ...whole[0].slice(whole[0].length - tail)].join("");
}

/** @param {string[][]} sides  base, mine, theirs */
function inTime([base, mine, theirs]) {
  return comparisons(base, mine) + comparisons(base, theirs) <= COMPARISONS_MAX;
}

/**
 * How many pairs of equal lines there are: what comparing them line by line costs.
 * @param {string[]} one
 * @param {string[]} other
 */
function comparisons(one, other) {
  const places = placesOf(one);
  return other.reduce((count, line) => count + (places.get(line)?.length ?? 0), 0);
}

/**
 * How many lines at the start are the same in all of them.
 * @param {string[][]} sides
 */
function sameLines(sides) {
  const most = Math.min(...sides.map((lines) => lines.length));
  for (let count = 0; count < most; count++) {
    if (sides.some((lines) => lines[count] !== sides[0][count])) return count;
  }
  return most;
}

/**
 * The lines with their ends; what ends a line is what does in Python, so that both clients merge alike.
 * @param {string} text
 * @returns {string[]}
 */
function splitLines(text) {
  return text.match(/[^\n\r\v\f\x1c-\x1e\x85\u2028\u2029]*(?:\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029])|[^]+$/gu) ?? [];
}

/**
 * @param {string[]} lines
 * @param {string[]} ours
 * @param {string[]} others
 * @returns {string[] | null}
 */
function mergeSplit(lines, ours, others) {
  /** @type {string[]} */
  const merged = [];
  let [b, m, t] = [0, 0, 0]; // where the next region begins in base, mine and theirs
  const ends = [...common(kept(lines, ours), kept(lines, others)), [lines.length, ours.length, others.length]];
  for (const [bEnd, mEnd, tEnd] of ends) {
    const region = mergeRegion(lines.slice(b, bEnd), ours.slice(m, mEnd), others.slice(t, tEnd));
    if (region === null) return null;
    for (const line of region) merged.push(line);
    if (bEnd < lines.length) merged.push(lines[bEnd]);
    [b, m, t] = [bEnd + 1, mEnd + 1, tEnd + 1];
  }
  return merged;
}

/**
 * @param {string[]} base
 * @param {string[]} mine
 * @param {string[]} theirs
 */
function mergeRegion(base, mine, theirs) {
  if (sameItems(mine, base) || sameItems(mine, theirs)) return theirs;
  return sameItems(theirs, base) ? mine : null;
}

/**
 * The lines both sides kept, as [base, mine, theirs], rising in all three.
 * @param {Map<number, number>} mine
 * @param {Map<number, number>} theirs
 */
function common(mine, theirs) {
  const lines = [...mine.keys()].filter((line) => theirs.has(line)).sort((one, other) => one - other);
  return lines.map((line) => [line, /** @type {number} */ (mine.get(line)), /** @type {number} */ (theirs.get(line))]);
}

/**
 * Which line of `base` stands at which line of `other`: the longest run they share, and so on to both sides of it, as
 * Ratcliff and Obershelp compare.
 * @param {string[]} base
 * @param {string[]} other
 * @returns {Map<number, number>}
 */
function kept(base, other) {
  const places = placesOf(other);
  /** @type {Map<number, number>} */
  const found = new Map();
  const open = [[0, base.length, 0, other.length]];
  for (let next = open.pop(); next; next = open.pop()) {
    const [from, to, otherFrom, otherTo] = next;
    const { at, otherAt, size } = longestRun(base, places, from, to, otherFrom, otherTo);
    for (let i = 0; i < size; i++) found.set(at + i, otherAt + i);
    if (size) open.push([from, at, otherFrom, otherAt], [at + size, to, otherAt + size, otherTo]);
  }
  return found;
}

/**
 * The longest run of equal lines within these bounds; of several the first in base, then the first in the other.
 * @param {string[]} base
 * @param {Map<string, number[]>} places  where each line stands in the other
 * @param {number} from
 * @param {number} to
 * @param {number} otherFrom
 * @param {number} otherTo
 */
function longestRun(base, places, from, to, otherFrom, otherTo) {
  let best = { at: from, otherAt: otherFrom, size: 0 };
  // How long the run is that ends with the last line of base and each line of the other, one place further on.
  let [ending, next] = [new Int32Array(otherTo - otherFrom + 1), new Int32Array(otherTo - otherFrom + 1)];
  /** @type {number[]} */
  let last = []; // the lines of the other at which a run ends
  for (let i = from; i < to; i++) {
    const here = (places.get(base[i]) ?? []).filter((j) => j >= otherFrom && j < otherTo);
    for (const j of here) {
      const size = ending[j - otherFrom] + 1;
      next[j - otherFrom + 1] = size;
      if (size > best.size) best = { at: i - size + 1, otherAt: j - size + 1, size };
    }
    for (const j of last) ending[j - otherFrom + 1] = 0;
    [ending, next, last] = [next, ending, here];
  }
  return best;
}

/**
 * @param {string[]} lines
 * @returns {Map<string, number[]>}
 */
function placesOf(lines) {
  /** @type {Map<string, number[]>} */
  const places = new Map();
  lines.forEach((line, at) => {
    const known = places.get(line);
    if (known) known.push(at);
    else places.set(line, [at]);
  });
  return places;
}

// --- helpers ---------------------------------------------------------------------------------

/**
 * @param {Conflict} conflict
 * @returns {Verdict | null}
 */
function editBeatsDelete(conflict) {
  if (conflict.mine === MISSING) return THEIRS;
  return conflict.theirs === MISSING ? MINE : null;
}

/**
 * Whether the present values are all of this kind; the base may be missing.
 * @param {Conflict} conflict
 * @param {(value: any) => boolean} isKind
 */
function all({ base, mine, theirs }, isKind) {
  return (base === MISSING || isKind(base)) && isKind(mine) && isKind(theirs);
}

/**
 * What either added, without what either removed; in the order of theirs, with what mine added behind.
 * @template T
 * @param {Iterable<T>} base
 * @param {Iterable<T>} mine
 * @param {Iterable<T>} theirs
 * @returns {T[]}
 */
function mergeItems(base, mine, theirs) {
  const kept = [...theirs].filter((item) => holds(mine, item) || !holds(base, item));
  return [...kept, ...[...mine].filter((item) => !holds(base, item) && !holds(theirs, item))];
}

/**
 * @param {Iterable<any>} items
 * @param {any} item
 */
function holds(items, item) {
  if (isSet(items) && (!isObject(item) || items.has(item))) return items.has(item);
  for (const other of items) if (sameValue(other, item)) return true;
  return false;
}

/**
 * The field's value, or MISSING; a key may be a list, which no Map finds.
 * @param {Map<any, any>} fields
 * @param {any} key
 */
function look(fields, key) {
  if (fields.has(key)) return fields.get(key);
  if (isObject(key)) for (const [other, value] of fields) if (sameValue(other, key)) return value;
  return MISSING;
}

/**
 * @param {Record<string, any> | Map<any, any>} mapping
 * @returns {Map<any, any>}
 */
function fieldsOf(mapping) {
  const entries = mapping instanceof Map ? [...mapping] : Object.entries(mapping);
  return new Map(entries.filter(([, value]) => value !== undefined));
}

/**
 * @param {Map<any, any>} one
 * @param {Map<any, any>} other
 */
function sameFields(one, other) {
  return one.size === other.size && [...one].every(([key, value]) => sameValue(look(other, key), value));
}

/**
 * @param {ArrayLike<any>} one
 * @param {ArrayLike<any>} other
 */
function sameItems(one, other) {
  if (one.length !== other.length) return false;
  for (let i = 0; i < one.length; i++) if (!sameValue(one[i], other[i])) return false;
  return true;
}

/** @param {any} value */
function isObject(value) {
  return typeof value === "object" && value !== null;
}

/** @param {any} value */
function isMapping(value) {
  if (!isObject(value)) return false;
  const prototype = Object.getPrototypeOf(value);
  return value instanceof Map || prototype === Object.prototype || prototype === null;
}

/**
 * @param {any} value
 * @returns {value is Set<any>}
 */
function isSet(value) {
  return value instanceof Set;
}

/** @param {any} value */
function isText(value) {
  return typeof value === "string";
}

/** @param {any} value */
function isNumber(value) {
  return typeof value === "number" || typeof value === "bigint";
}

/** @param {any} value */
function isWhole(value) {
  return typeof value === "bigint" || Number.isSafeInteger(value);
}

/** @param {any} value */
function isTypedArray(value) {
  return ArrayBuffer.isView(value) && !(value instanceof DataView);
}

/**
 * A browser's own Blob: what it holds cannot be read at once, so it equals nothing but itself.
 * @param {any} value
 */
function isFile(value) {
  return typeof Blob !== "undefined" && value instanceof Blob;
}
