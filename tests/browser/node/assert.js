/**
 * What the client's tests use of `node:assert/strict`, for a page.
 */

export class AssertionError extends Error {}

function fail(message, given) {
  if (given instanceof Error) throw given;
  throw new AssertionError(given ? `${given} (${message})` : message);
}

function assert(holds, message) {
  if (!holds) fail("it does not hold", message);
}
export default assert;

const typeOf = (value) => Object.prototype.toString.call(value);

/** Whether two values are the same through and through, their prototypes included. */
function same(one, other, seen = new Map()) {
  if (Object.is(one, other)) return true;
  if (typeof one !== "object" || typeof other !== "object" || !one || !other) return false;
  if (Object.getPrototypeOf(one) !== Object.getPrototypeOf(other) || typeOf(one) !== typeOf(other)) return false;
  if (seen.get(one) === other) return true;
  seen.set(one, other);
  if (one instanceof Date && !Object.is(one.getTime(), other.getTime())) return false;
  if (one instanceof RegExp && String(one) !== String(other)) return false;
  if (one instanceof Error && (one.message !== other.message || one.name !== other.name)) return false;
  if (ArrayBuffer.isView(one) && !(one instanceof DataView)) return sameBytes(one, other);
  if (one instanceof ArrayBuffer) return same(new Uint8Array(one), new Uint8Array(other), seen);
  if (one instanceof Map || one instanceof Set) return sameEntries(one, other, seen);
  const [mine, theirs] = [one, other].map((value) => Reflect.ownKeys(value).filter((key) => enumerable(value, key)));
  return mine.length === theirs.length && mine.every((key) => enumerable(other, key) && same(one[key], other[key], seen));
}

function sameBytes(one, other) {
  return one.length === other.length && one.every((item, at) => Object.is(item, other[at]));
}

const enumerable = (value, key) => Object.prototype.propertyIsEnumerable.call(value, key);

function sameEntries(one, other, seen) {
  if (one.size !== other.size) return false;
  const left = [...other];
  return [...one].every((entry) => {
    const at = left.findIndex((candidate) => same(entry, candidate, seen));
    if (at >= 0) left.splice(at, 1);
    return at >= 0;
  });
}

function shown(value) {
  const plain = (_, inner) => {
    if (typeof inner === "bigint") return `${inner}n`;
    return inner instanceof Map || inner instanceof Set ? [...inner] : inner;
  };
  return `${typeOf(value)} ${JSON.stringify(value, plain)?.slice(0, 600)}`;
}

/** Whether an error is the one that was expected: a class, a pattern, a function, or some of its fields. */
function meets(error, expected) {
  if (expected === undefined) return true;
  if (expected instanceof RegExp) return expected.test(String(error));
  if (typeof expected === "object") return Object.keys(expected).every((key) => fits(error[key], expected[key]));
  if (expected === Error || expected.prototype instanceof Error || expected === DOMException) return error instanceof expected;
  return expected(error) === true;
}

const fits = (value, wanted) => (wanted instanceof RegExp ? wanted.test(value) : same(value, wanted));

Object.assign(assert, {
  AssertionError,
  ok: assert,
  fail: (message) => fail("failed", message),
  equal: (one, other, message) => Object.is(one, other) || fail(`${shown(one)} is not ${shown(other)}`, message),
  notEqual: (one, other, message) => !Object.is(one, other) || fail(`both are ${shown(one)}`, message),
  deepEqual: (one, other, message) => same(one, other) || fail(`${shown(one)} is not ${shown(other)}`, message),
  notDeepEqual: (one, other, message) => !same(one, other) || fail(`both are ${shown(one)}`, message),
  match: (text, pattern, message) => pattern.test(text) || fail(`${text} does not match ${pattern}`, message),
  doesNotThrow: (work) => work(),
  throws(work, expected, message) {
    try {
      work();
    } catch (error) {
      if (!meets(error, expected)) throw new AssertionError(`the wrong error: ${error?.stack ?? error}`);
      return;
    }
    fail("it threw nothing", typeof expected === "string" ? expected : message);
  },
  async rejects(work, expected, message) {
    try {
      await (typeof work === "function" ? work() : work);
    } catch (error) {
      if (!meets(error, expected)) throw new AssertionError(`the wrong error: ${error?.stack ?? error}`);
      return;
    }
    fail("it was not rejected", message);
  },
});
assert.strictEqual = assert.equal;
assert.deepStrictEqual = assert.deepEqual;
