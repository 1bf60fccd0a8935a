/** One leader among tabs: it is followed when it goes, and replaced when it stands still, and only then. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { AGAIN_AFTER_MS, ANSWER_WITHIN_MS, ASK_EVERY_MS, Leader, QUESTIONS } from "../src/leader.js";
import { FakePage, Locks } from "../src/testing/index.js";

const DECIDED_MS = QUESTIONS * ANSWER_WITHIN_MS;

/** Tabs of one origin, which can stand still: a frozen tab hears messages, and storage answers it no more. */
class Tabs {
  locks = new Locks();
  /** @type {Tab[]} */
  all = [];

  /** @param {(signal: AbortSignal) => Promise<void> | void} [lead] */
  open(lead) {
    const tab = new Tab(this, lead);
    tab.leader.start();
    return tab;
  }

  get leading() {
    return this.all.filter((tab) => tab.leader.leading).map((tab) => tab.name);
  }
}

class Tab {
  page = new FakePage();
  frozen = false;
  storageDead = false;
  asked = 0;
  /** @type {AbortSignal[]} */
  signals = [];
  /** @type {unknown[]} */
  failures = [];

  /** @param {Tabs} tabs @param {(signal: AbortSignal) => Promise<void> | void} [lead] */
  constructor(tabs, lead) {
    this.name = "abc"[tabs.all.push(this) - 1];
    let closed = false;
    const channel = {
      /** @type {((event: any) => void) | null} */
      onmessage: null,
      postMessage: (/** @type {unknown} */ data) => {
        if (closed) throw new DOMException("the channel is closed", "InvalidStateError");
        if (data === "ask") this.asked += 1;
        for (const other of tabs.all) if (other !== this) queueMicrotask(() => other.channel.onmessage?.({ data }));
      },
      close: () => {
        closed = true;
        channel.onmessage = null;
      },
    };
    this.channel = channel;
    this.leader = new Leader("notes", (signal) => (this.signals.push(signal), lead?.(signal)), {
      locks: tabs.locks,
      channel,
      page: this.page,
      roundTrip: () => (this.frozen || this.storageDead ? new Promise(() => {}) : Promise.resolve()),
      failed: (error) => this.failures.push(error),
    });
  }
}

/** @param {number} ms */
async function pass(ms) {
  for (let step = 0; step < ms; step += 100) {
    mock.timers.tick(100);
    await quiet();
  }
}

async function quiet() {
  await new Promise((done) => setImmediate(done));
}

beforeEach(() => mock.timers.enable({ apis: ["setTimeout", "setInterval"] }));
afterEach(() => mock.timers.reset());

test("one tab leads and the next follows at once when it is gone", async () => {
  const tabs = new Tabs();
  const [a, b, c] = [tabs.open(), tabs.open(), tabs.open()];
  await quiet();
  assert.deepEqual(tabs.leading, ["a"]);
  await a.leader.stop();
  await quiet();
  assert.deepEqual(tabs.leading, ["b"]);
  assert.ok(a.signals[0].aborted && !b.signals[0].aborted);
  assert.deepEqual(c.signals, []);
});

test("a leader that stops gives the lock back only when its work has ended", async () => {
  const tabs = new Tabs();
  /** @type {() => void} */
  let end = () => undefined;
  const a = tabs.open((signal) => new Promise((done) => (end = () => signal.aborted && done())));
  const b = tabs.open();
  await quiet();
  const stopped = a.leader.stop();
  await quiet();
  assert.ok(a.signals[0].aborted);
  assert.deepEqual(b.signals, []);
  end();
  await stopped;
  await quiet();
  assert.deepEqual(tabs.leading, ["b"]);
});

test("a page that is about to stand still gives the lock back and stands again when it is back", async () => {
  const tabs = new Tabs();
  const [a, b] = [tabs.open(), tabs.open()];
  await quiet();
  a.page.tell("leaving");
  await quiet();
  assert.ok(a.signals[0].aborted);
  assert.deepEqual(tabs.leading, ["b"]);
  a.page.tell("back");
  await quiet();
  assert.deepEqual(tabs.leading, ["b"]);
  await b.leader.stop();
  await quiet();
  assert.deepEqual(tabs.leading, ["a"]);
  assert.equal(a.signals.length, 2);
});

test("a tab that stood still does not come back before the page does", async () => {
  const tabs = new Tabs();
  const a = tabs.open();
  await quiet();
  a.page.tell("leaving");
  await pass(2 * ASK_EVERY_MS);
  assert.deepEqual(tabs.leading, []);
  a.page.tell("back");
  await quiet();
  assert.deepEqual(tabs.leading, ["a"]);
});

test("a leader that stands still without notice is replaced by a tab that is seen, and told", async () => {
  const tabs = new Tabs();
  const a = tabs.open();
  await quiet();
  const b = tabs.open();
  await pass(ASK_EVERY_MS - 200);
  a.frozen = true;
  a.page.visible = false;
  await pass(DECIDED_MS);
  assert.deepEqual(tabs.leading, ["a"]);
  await pass(400);
  assert.deepEqual(tabs.leading, ["b"]);
  assert.ok(a.signals[0].aborted);
  a.frozen = false;
  await pass(2 * ASK_EVERY_MS);
  assert.deepEqual(tabs.leading, ["b"]);
  await b.leader.stop();
  await quiet();
  assert.deepEqual(tabs.leading, ["a"]);
});

test("a leader that answers is never replaced however often it is asked", async () => {
  const tabs = new Tabs();
  const [a, b] = [tabs.open(), tabs.open()];
  await pass(10 * ASK_EVERY_MS);
  assert.ok(b.asked >= 9, `asked ${b.asked} times`);
  assert.deepEqual(tabs.leading, ["a"]);
  assert.equal(a.signals.length, 1);
});

test("a leader that is busy for one question keeps the lock", async () => {
  const tabs = new Tabs();
  const a = tabs.open();
  await quiet();
  const b = tabs.open();
  await pass(ASK_EVERY_MS - 200);
  a.frozen = true;
  await pass(ANSWER_WITHIN_MS);
  a.frozen = false;
  await pass(ASK_EVERY_MS);
  assert.deepEqual(tabs.leading, ["a"]);
  assert.ok(b.asked >= 3);
});

test("a tab that is not seen asks nobody and takes nothing until it is seen", async () => {
  const tabs = new Tabs();
  const a = tabs.open();
  await quiet();
  const b = new Tab(tabs);
  b.page.visible = false;
  b.leader.start();
  a.frozen = true;
  await pass(3 * ASK_EVERY_MS);
  assert.equal(b.asked, 0);
  assert.deepEqual(tabs.leading, ["a"]);
  b.page.visible = true;
  b.page.tell("shown");
  await pass(DECIDED_MS + 200);
  assert.deepEqual(tabs.leading, ["b"]);
});

test("a tab that is hidden while it asks takes nothing", async () => {
  const tabs = new Tabs();
  const a = tabs.open();
  await quiet();
  a.frozen = true;
  const b = tabs.open();
  await pass(DECIDED_MS - 200);
  b.page.visible = false;
  await pass(ASK_EVERY_MS);
  assert.deepEqual(tabs.leading, ["a"]);
});

test("a tab whose own storage is silent takes nothing", async () => {
  const tabs = new Tabs();
  const a = tabs.open();
  await quiet();
  const b = tabs.open();
  a.storageDead = b.storageDead = true;
  await pass(3 * ASK_EVERY_MS);
  assert.ok(b.asked >= 2);
  assert.deepEqual(tabs.leading, ["a"]);
  b.storageDead = false;
  await pass(ASK_EVERY_MS + DECIDED_MS);
  assert.deepEqual(tabs.leading, ["b"]);
});

test("a leader whose work fails lets another lead and is there again later", async () => {
  const tabs = new Tabs();
  const a = tabs.open(() => Promise.reject(new Error("no storage")));
  const b = tabs.open();
  await quiet();
  await quiet();
  assert.deepEqual(tabs.leading, ["b"]);
  assert.equal(/** @type {Error} */ (a.failures[0]).message, "no storage");
  await b.leader.stop();
  await quiet();
  assert.deepEqual(tabs.leading, []);
  await pass(AGAIN_AFTER_MS + 100);
  assert.equal(a.failures.length, 2);
});

test("a lock that the browser refuses is asked for again", async () => {
  const tabs = new Tabs();
  const refuse = mock.method(tabs.locks, "request", () => Promise.reject(new DOMException("no", "InvalidStateError")));
  const a = new Tab(tabs);
  a.page.visible = false;
  a.leader.start();
  await quiet();
  assert.deepEqual(tabs.leading, []);
  refuse.mock.restore();
  await pass(AGAIN_AFTER_MS + 100);
  assert.deepEqual(tabs.leading, ["a"]);
});

test("a tab that follows and stops wants the lock no more", async () => {
  const tabs = new Tabs();
  tabs.open();
  const b = tabs.open();
  await quiet();
  assert.equal(tabs.locks.queue.length, 1);
  await b.leader.stop();
  assert.equal(tabs.locks.queue.length, 0);
});

test("a lock that is granted when it is wanted no more is given back at once", async () => {
  /** @type {any[]} */
  const given = [];
  const locks = {
    request: (/** @type {string} */ name, /** @type {any} */ options, /** @type {() => any} */ callback) =>
      new Promise((done) => setTimeout(() => done(given.push(callback())), 100)),
  };
  const page = new FakePage();
  let led = 0;
  const leader = new Leader("notes", () => void (led += 1), { locks: /** @type {any} */ (locks), channel: null, page });
  leader.start();
  page.tell("leaving");
  await pass(200);
  assert.deepEqual(given, [undefined]);
  assert.equal(led, 0);
  await leader.stop();
});

test("where there is nobody to share with this tab leads", async () => {
  const begun = [];
  const leader = new Leader("notes", () => void begun.push(1), { locks: null, channel: null, page: new FakePage() });
  leader.start();
  await quiet();
  assert.ok(leader.leading && begun.length === 1);
  await leader.stop();
  assert.ok(!leader.leading);
});

test("after it has stopped nothing makes it lead again", async () => {
  const tabs = new Tabs();
  const a = tabs.open();
  await quiet();
  await a.leader.stop();
  a.page.tell("back");
  a.page.tell("shown");
  await pass(2 * ASK_EVERY_MS);
  assert.deepEqual(tabs.leading, []);
  assert.equal(tabs.locks.queue.length, 0);
});

test("a tab that claims the lead leads when the claim resolves and the former leader stands behind", async () => {
  const tabs = new Tabs();
  const [a, b] = [tabs.open(), tabs.open()];
  await quiet();
  let begun = -1;
  b.leader.claim().then(() => (begun = b.signals.length));
  await quiet();
  assert.equal(begun, 1); // its work has begun by then
  assert.deepEqual(tabs.leading, ["b"]);
  assert.ok(a.signals[0].aborted && !b.signals[0].aborted);
  await b.leader.stop();
  await quiet();
  assert.deepEqual(tabs.leading, ["a"]);
});

test("a leader that claims the lead goes on as it is", async () => {
  const tabs = new Tabs();
  const a = tabs.open();
  await quiet();
  await a.leader.claim();
  assert.equal(a.signals.length, 1);
  assert.ok(!a.signals[0].aborted);
});

test("tabs that claim the lead at once have all led and one leads on", async () => {
  const tabs = new Tabs();
  tabs.open();
  const [b, c] = [tabs.open(), tabs.open()];
  await quiet();
  await Promise.all([b.leader.claim(), c.leader.claim(), b.leader.claim()]);
  await quiet();
  assert.equal(tabs.leading.length, 1);
  assert.ok(b.signals.length > 0 && c.signals.length > 0);
});

test("a tab that is closed while it waits for an answer asks no more", async () => {
  const tabs = new Tabs();
  const a = tabs.open();
  const b = tabs.open();
  await quiet();
  a.frozen = true;
  await b.leader.stop();
  const { asked } = b;
  await pass(DECIDED_MS);
  assert.equal(b.asked, asked);
});

test("a claim in a tab that does not stand for election is refused", async () => {
  const tabs = new Tabs();
  const a = tabs.open();
  const b = new Tab(tabs);
  await assert.rejects(b.leader.claim(), /does not stand/);
  b.leader.start();
  await quiet();
  b.page.tell("leaving");
  const claimed = assert.rejects(b.leader.claim(), /does not stand/);
  await quiet();
  assert.ok(a.leader.leading); // a tab that is about to stand still takes nothing
  await b.leader.stop();
  await claimed;
});

test("a tab whose work fails while it stops does not stand again", async () => {
  const tabs = new Tabs();
  const a = tabs.open((signal) => new Promise((_, fail) => signal.addEventListener("abort", fail)));
  await quiet();
  await a.leader.stop();
  await pass(2 * AGAIN_AFTER_MS);
  assert.deepEqual(tabs.leading, []);
  assert.equal(tabs.locks.queue.length, 0);
});

test("a tab that stops while the former end of its work is awaited does not begin once more", async () => {
  const tabs = new Tabs();
  /** @type {() => void} */
  let end = () => undefined;
  const a = tabs.open(() => new Promise((done) => (end = () => done())));
  const b = tabs.open();
  await quiet();
  await b.leader.claim(); // what a did has not ended yet
  const stopped = a.leader.stop();
  await b.leader.stop();
  await quiet();
  assert.equal(a.signals.length, 1);
  end();
  await stopped;
  assert.equal(a.signals.length, 1);
});
