/**
 * What the client's tests use of `node:test`, for a page: they say themselves here, and run when they are asked to.
 */

/** @typedef {{name: string, work: Function, around: Group[]}} Case */

class Group {
  constructor(name) {
    this.name = name;
    this.hooks = { before: [], beforeEach: [], afterEach: [] };
  }
}

let file = "";
let around = [];
/** @type {Case[]} */
const cases = [];

/** The tests that say themselves from now on are of this file. */
export function begin(name) {
  file = name;
  around = [new Group(name)];
}

export function test(name, ...rest) {
  cases.push({ name: [file, ...around.slice(1).map((group) => group.name), name].join(" > "), work: rest.at(-1), around });
}
export default test;
export { test as it };

export function describe(name, work) {
  const outer = around;
  around = [...around, new Group(name)];
  work();
  around = outer;
}

export const before = (work) => around.at(-1).hooks.before.push(work);
export const beforeEach = (work) => around.at(-1).hooks.beforeEach.push(work);
export const afterEach = (work) => around.at(-1).hooks.afterEach.push(work);
export const mock = {};

/**
 * Run them all, one after the other: what failed, how many ran, which were left out, and which took longest.
 *
 * @param {string[]} except names of tests that are none for a page
 */
export async function run(except = []) {
  const failures = [];
  const slow = [];
  const left = [];
  for (const { name, work, around: groups } of cases) {
    if (except.some((one) => name.endsWith(one))) {
      left.push(name);
      continue;
    }
    const began = performance.now();
    try {
      for (const group of groups) for (const hook of group.hooks.before.splice(0)) await hook();
      for (const group of groups) for (const hook of group.hooks.beforeEach) await hook();
      await work({ mock });
      for (const group of [...groups].reverse()) for (const hook of group.hooks.afterEach) await hook();
    } catch (error) {
      failures.push(`${name}: ${error?.stack ?? error}`);
    }
    slow.push([Math.round(performance.now() - began), name]);
  }
  slow.sort(([one], [other]) => other - one);
  return { count: cases.length - left.length, left, failures, slow: slow.slice(0, 10) };
}
