/**
 * Compares two texts word by word, and merges three, at a bounded cost.
 *
 * Comparing is Myers' O(ND) walk over words and marks. What both texts share at their ends is
 * cut off first, and the walk gives up beyond `EDITS_MAX` differences: the middle then counts as
 * rewritten as a whole, which is also how a person would see it.
 */

/** So many words may differ before two texts are called different as a whole; memory and time grow with its square. */
export const EDITS_MAX = 1_500;

// A word has the blank before it, so that a blank alone is never what two texts share.
const PARTS = /\r\n|\n|[^\S\r\n]*[\p{L}\p{N}\p{M}]+(?:['’][\p{L}\p{N}\p{M}]+)*|[^\S\r\n]*[^\s]|[^\S\r\n]+|./gsu;

/** @typedef {{ kind: "same" | "mine" | "theirs", text: string }} Piece */
/** @typedef {{ at: number, end: number, otherAt: number, otherEnd: number }} Change  where one text became another */

/** Words and marks with the blanks before them, and line ends. @param {string} text @returns {string[]} */
export function parts(text) {
  return text.match(PARTS) ?? [];
}

/**
 * What is the same in both texts, only in mine, only in theirs, in reading order.
 * @param {string} mine
 * @param {string} theirs
 * @returns {Piece[]}
 */
export function compare(mine, theirs) {
  const [one, other] = [parts(mine), parts(theirs)];
  /** @type {Piece[]} */
  const pieces = [];
  let at = 0;
  for (const change of joined(changes(one, other), one)) {
    add(pieces, "same", one.slice(at, change.at));
    add(pieces, "mine", one.slice(change.at, change.end));
    add(pieces, "theirs", other.slice(change.otherAt, change.otherEnd));
    at = change.end;
  }
  add(pieces, "same", one.slice(at));
  return pieces;
}

/**
 * What both made of the base, together; where both changed the same words differently, mine and then theirs.
 *
 * `clean` says that there was no such place.
 * @param {string} base
 * @param {string} mine
 * @param {string} theirs
 * @returns {{ text: string, clean: boolean, places: number }}
 */
export function merge(base, mine, theirs) {
  const [root, one, other] = [parts(base), parts(mine), parts(theirs)];
  const regions = overlapping(changes(root, one), changes(root, other));
  let [text, at, places] = ["", 0, 0];
  for (const region of regions) {
    const before = root.slice(region.at, region.end).join("");
    const [left, right] = [region.side(one, 0), region.side(other, 1)];
    text += root.slice(at, region.at).join("");
    at = region.end;
    if (left === right || right === before) text += left;
    else if (left === before) text += right;
    else {
      text += both(left, right);
      places++;
    }
  }
  return { text: text + root.slice(at).join(""), clean: places === 0, places };
}

/**
 * Where `one` must be changed to become `other`, first to last.
 * @param {string[]} one
 * @param {string[]} other
 * @returns {Change[]}
 */
export function changes(one, other) {
  const most = Math.min(one.length, other.length);
  let head = 0;
  while (head < most && one[head] === other[head]) head++;
  let tail = 0;
  while (tail < most - head && one[one.length - 1 - tail] === other[other.length - 1 - tail]) tail++;
  const [end, otherEnd] = [one.length - tail, other.length - tail];
  if (head === end && head === otherEnd) return [];
  if (head === end || head === otherEnd) return [{ at: head, end, otherAt: head, otherEnd }];
  const found = walk(one.slice(head, end), other.slice(head, otherEnd));
  if (!found) return [{ at: head, end, otherAt: head, otherEnd }];
  for (const change of found) {
    change.at += head;
    change.end += head;
    change.otherAt += head;
    change.otherEnd += head;
  }
  return settled(found, one, other);
}

/**
 * What was only put in, or only taken out, moved as far down as it can be: of "a. b." then " b." is new, not ". b".
 * @param {Change[]} found
 * @param {string[]} one
 * @param {string[]} other
 */
function settled(found, one, other) {
  for (const [place, change] of found.entries()) {
    const limit = found[place + 1]?.at ?? one.length;
    const [list, from, to] =
      change.at === change.end ? [other, change.otherAt, change.otherEnd] : [one, change.at, change.end];
    if (change.at !== change.end && change.otherAt !== change.otherEnd) continue;
    let by = 0;
    while (change.end + by < limit && list[from + by] === list[to + by]) by++;
    change.at += by;
    change.end += by;
    change.otherAt += by;
    change.otherEnd += by;
  }
  return found;
}

/**
 * Myers' walk; null when there are more than EDITS_MAX differences.
 * @param {string[]} one
 * @param {string[]} other
 * @returns {Change[] | null}
 */
function walk(one, other) {
  const most = Math.min(one.length + other.length, EDITS_MAX);
  const middle = most + 1;
  const reach = new Int32Array(2 * middle + 1);
  const history = [];
  for (let edits = 0; edits <= most; edits++) {
    history.push(reach.slice(middle - edits - 1, middle + edits + 2));
    for (let k = -edits; k <= edits; k += 2) {
      const down = k === -edits || (k !== edits && reach[middle + k - 1] < reach[middle + k + 1]);
      let x = down ? reach[middle + k + 1] : reach[middle + k - 1] + 1;
      while (x < one.length && x - k < other.length && one[x] === other[x - k]) x++;
      reach[middle + k] = x;
      if (x >= one.length && x - k >= other.length) return traced(history, one.length, other.length);
    }
  }
  return null;
}

/**
 * The walk read backwards.
 * @param {Int32Array[]} history  before each step, the reach of the diagonals -edits - 1 to edits + 1
 * @param {number} x
 * @param {number} y
 * @returns {Change[]}
 */
function traced(history, x, y) {
  /** @type {Change[]} */
  const found = [];
  for (let edits = history.length - 1; edits > 0; edits--) {
    const reach = (/** @type {number} */ diagonal) => history[edits][diagonal + edits + 1];
    const k = x - y;
    const down = k === -edits || (k !== edits && reach(k - 1) < reach(k + 1));
    const [fromX, from] = down ? [reach(k + 1), k + 1] : [reach(k - 1), k - 1];
    const fromY = fromX - from;
    const [toX, toY] = down ? [fromX, fromY + 1] : [fromX + 1, fromY];
    const next = found[0];
    if (next && next.at === toX && next.otherAt === toY) [next.at, next.otherAt] = [fromX, fromY];
    else found.unshift({ at: fromX, end: toX, otherAt: fromY, otherEnd: toY });
    [x, y] = [fromX, fromY];
  }
  return found;
}

/**
 * Changes with nothing but a blank or a mark between them read as one.
 * @param {Change[]} found
 * @param {string[]} one
 */
function joined(found, one) {
  /** @type {Change[]} */
  const kept = [];
  for (const change of found) {
    const last = kept.at(-1);
    const between = last ? one.slice(last.end, change.at).join("") : "";
    const small = last && between.length < 4 && !/[\p{L}\p{N}\n]/u.test(between);
    if (last && small) [last.end, last.otherEnd] = [change.end, change.otherEnd];
    else kept.push({ ...change });
  }
  return kept;
}

/**
 * Regions of the base that either side changed; changes that touch are one region.
 * @param {Change[]} mine
 * @param {Change[]} theirs
 */
function overlapping(mine, theirs) {
  const all = [...mine.map((change) => ({ ...change, by: 0 })), ...theirs.map((change) => ({ ...change, by: 1 }))];
  all.sort((a, b) => a.at - b.at || a.end - b.end);
  /** @type {Region[]} */
  const regions = [];
  for (const change of all) {
    const last = regions.at(-1);
    if (last && change.at <= last.end) last.take(change);
    else regions.push(new Region(change, regions.at(-1)));
  }
  return regions;
}

/** A stretch of the base, and what each side put in its place. */
class Region {
  /** @type {number[]} */
  shiftAfter = [0, 0];

  /** @param {Change & { by: number }} first @param {Region | undefined} before */
  constructor(first, before) {
    this.at = first.at;
    this.end = first.end;
    /** @type {number[]} how far each side's text is ahead of the base in front of this region */
    this.shift = [...(before?.shiftAfter ?? [0, 0])];
    this.shiftAfter = [...this.shift]; // and behind it
    this.take(first);
  }

  /** @param {Change & { by: number }} change */
  take(change) {
    this.end = Math.max(this.end, change.end);
    this.shiftAfter[change.by] = change.otherEnd - change.end;
  }

  /** What this side has here. @param {string[]} list @param {number} by */
  side(list, by) {
    return list.slice(this.at + this.shift[by], this.end + this.shiftAfter[by]).join("");
  }
}

/**
 * Both texts of one place, mine first, apart from each other.
 * @param {string} left
 * @param {string} right
 */
function both(left, right) {
  if (!left || !right || /\s$/.test(left) || /^\s/.test(right)) return left + right;
  return `${left} ${right}`;
}

/** @param {Piece[]} pieces @param {Piece["kind"]} kind @param {string[]} list */
function add(pieces, kind, list) {
  if (list.length) pieces.push({ kind, text: list.join("") });
}
