/** The client's line over real sockets: it comes back from every way to lose it, and no sooner than it was asked to. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test as nodeTest } from "node:test";

import { Backoff, STABLE_AFTER_S } from "../src/backoff.js";
import {
  AWAY_S,
  canonicalUrl,
  Closed,
  ConnectionError,
  dial,
  FRAME_BYTES_MAX,
  LATE_S,
  now,
  SHOW_LIFE_WITHIN_S,
} from "../src/connection.js";
import { DEAD_AFTER_S } from "../src/conversation.js";
import { HEARTBEAT_S, Watch } from "./watch.js";
import { Door, until } from "./door.js";
import { FakePage } from "../src/testing/index.js";
import { Line } from "../src/testing/line.js";
import { ACCOUNT, APP_ID } from "./engine_hub.js";
import { pack } from "../src/msgpack.js";
import { StorageFailed } from "../src/storage.js";

/** @param {string} name @param {() => any} work */
const test = (name, work) => nodeTest(name, { timeout: 20_000 }, work);

/** @type {Door} */
let door;
/** @type {any[]} */
let clients = [];

beforeEach(async () => {
  door = await new Door().open();
});

afterEach(async () => {
  mock.restoreAll();
  for (const client of clients) await client.stop();
  clients = [];
  await door.close();
});

/** @param {any} [more] */
async function clientOf(more) {
  const client = await door.client(more);
  clients.push(client);
  return client;
}

/** What makes a device write. */
const readyAgain = {
  type: "ready", accountId: ACCOUNT, incarnation: ACCOUNT, serverTime: 0, heartbeatS: 25, scope: "app", appId: APP_ID,
  quotaBytes: 0, usedBytes: 0, spaces: [],
};

/** What a tap was shown. */
class Seen {
  /** @type {[string, any][]} */
  all = [];
  tap = (/** @type {string} */ what, /** @type {any} */ message) => this.all.push([what, message]);

  /** @param {string} type */
  of(type) {
    return this.all.map(([, message]) => message).filter((message) => message.type === type);
  }

  get closings() {
    return this.all.filter(([what]) => what === "closed").map(([, closed]) => closed);
  }
}

// --- ways to be met at the door

const busy = (/** @type {any} */ socket) => {
  socket.end("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n");
};
const silent = () => undefined;
const reset = (/** @type {any} */ socket) => void socket.resetAndDestroy();

for (const [name, greeting] of Object.entries({ busy, silent, reset })) {
  test(`it comes back from a handshake that fails: ${name}`, async () => {
    door.greetings = [greeting, greeting];
    const client = await clientOf();
    await client.synced(5);
    assert.equal(door.dialledAt.length, 3);
    assert.equal(client.status.error, "");
  });
}

test("it says why a handshake failed as far as it is told", async () => {
  /** @param {any} greeting */
  const why = async (greeting) => {
    door.greetings = [greeting];
    const options = { WebSocket: door.WebSocket, connectWithinS: 0.1 };
    const error = await dial("ws://hub.test/v1/ws", options).catch((/** @type {any} */ failed) => failed);
    assert.ok(error instanceof ConnectionError);
    return error.message;
  };
  assert.equal(await why(busy), "the hub answered 503");
  assert.equal(await why(silent), "the hub does not answer");
  assert.equal(await why(reset), "the hub cannot be reached");
  class Forbidding {
    constructor() {
      throw new DOMException("insecure", "SecurityError");
    }
  }
  await assert.rejects(dial("ws://hub.test/v1/ws", { WebSocket: Forbidding }), /does not dial .* insecure/);
});

test("what answers without the hub's subprotocol is no hub", async () => {
  class Silent extends EventTarget {
    protocol = "";
    closed = 0;
    constructor() {
      super();
      queueMicrotask(() => /** @type {any} */ (this).onopen());
    }
    close() {
      this.closed += 1;
    }
  }
  await assert.rejects(dial("ws://hub.test/v1/ws", { WebSocket: Silent }), /no hub/);
});

test("it comes back when nobody listened", async () => {
  const { port } = door;
  await door.close();
  const client = await clientOf();
  await until(() => client.status.error === "the hub cannot be reached");
  assert.equal(client.status.phase, "offline");
  await door.open(port);
  await client.synced(5);
});

for (const way of ["close 4000", "close 4011", "reset"]) {
  test(`it comes back when the line is lost and sends what had no answer: ${way}`, async () => {
    const seen = new Seen();
    const client = await clientOf({ tap: seen.tap });
    /** @type {any[]} */
    const told = [];
    client.onStatus((/** @type {any} */ status) => told.push(status));
    const notes = client.collection("notes");
    await client.synced(5);
    const [line] = door.hub.lines;
    const before = told.length;
    line.take = () => undefined; // it takes the draft and answers no more
    const changeId = await notes.put("a", 1);
    await until(() => seen.of("append").length);
    if (way === "reset") line.socket._socket.resetAndDestroy();
    else line.socket.close(Number(way.split(" ")[1]));
    await client.whenAppended(changeId);
    const drafts = seen.of("append").map((message) => message.drafts);
    assert.equal(drafts.length, 2);
    assert.deepEqual(drafts[0], drafts[1]);
    assert.deepEqual(door.hub.appended.map((header) => header.changeId), [changeId]);
    const [closed] = seen.closings;
    assert.equal(closed.code, { "close 4000": 4000, "close 4011": 4011, reset: 0 }[way]);
    const lost = told.slice(before).map((status) => status.phase);
    const first = lost.find((phase) => ["offline", "connecting"].includes(phase));
    assert.equal(first, way === "close 4000" ? "connecting" : "offline");
    await client.synced(5);
    assert.equal(client.status.error, "");
  });
}

test("a closing that only a person can help is not met again", async () => {
  const client = await clientOf();
  await client.synced(5);
  door.hub.lines[0].socket.close(4503);
  await until(() => client.status.phase === "blocked");
  assert.equal(client.status.error, "this device was revoked");
  await new Promise((done) => setTimeout(done, 100));
  assert.equal(door.dialledAt.length, 1);
});

test("a line that was hung up for good is not dialled again before somebody wants it", async () => {
  const client = await clientOf();
  await client.synced(5);
  door.hub.spaces.clear(); // and the incarnation stays: no honest hub does that
  door.hub.lines[0].socket.close(4011);
  await until(() => client.status.phase === "alarm" && !door.hub.lines.length);
  await new Promise((done) => setTimeout(done, 100));
  assert.equal(door.dialledAt.length, 2);
  await client.forgetAlarms();
  await client.synced(5);
  assert.equal(door.dialledAt.length, 3);
});

test("what waits to be sent when it hangs up is not sent", async () => {
  const seen = new Seen();
  const client = await clientOf({ tap: seen.tap });
  const notes = client.collection("notes");
  await client.synced(5);
  const put = notes.put("a", 1);
  await client.turnOff();
  await until(() => !door.hub.lines.length);
  assert.deepEqual(seen.of("append"), []);
  assert.deepEqual(door.hub.appended, []);
  await client.turnOn();
  await client.whenAppended(await put);
});

test("nothing is sent before what it stands on is kept", async () => {
  const client = await clientOf();
  await client.synced(5);
  /** @type {(() => void)[]} */
  const keep = [];
  mock.method(client._storage, "committed", () => new Promise((done) => keep.push(() => done(undefined))));
  const notes = client.collection("notes");
  notes.put("a", 1);
  await new Promise((done) => setTimeout(done, 50));
  assert.equal(notes.get("a"), 1);
  assert.deepEqual(door.hub.appended, []);
  mock.restoreAll();
  keep.forEach((done) => done());
  await until(() => door.hub.appended.length === 1);
});

test("while storage keeps nothing nothing is sent and the status says why", async () => {
  const client = await clientOf();
  await client.synced(5);
  const full = new StorageFailed("the disk is full");
  const failing = mock.method(client._storage, "committed", () => Promise.reject(full));
  mock.method(client._storage, "retry", () => Promise.reject(full));
  const notes = client.collection("notes");
  door.say({ type: "ping" });
  await until(() => client.status.phase === "blocked" && !door.hub.lines.length);
  assert.equal(client.status.error, "the disk is full");
  assert.ok(!door.lines[0].heardTypes.includes("pong"));
  await assert.rejects(notes.put("a", 1), /the disk is full/);
  assert.deepEqual(door.hub.appended, []);
  failing.mock.restore();
  mock.method(client._storage, "retry", () => Promise.resolve());
  await until(() => door.hub.appended.length === 1, 10_000);
  await client.synced(5);
});

test("storage that another tab has taken ends the line for good and says so", async () => {
  const client = await clientOf();
  await client.synced(5);
  const notes = client.collection("notes");
  const taken = new StorageFailed("another tab has taken over", { final: true });
  mock.method(client._storage, "transaction", () => {
    throw taken;
  });
  door.say(readyAgain);
  await until(() => client.status.phase === "blocked" && !door.hub.lines.length);
  assert.equal(client.status.error, "another tab has taken over");
  await assert.rejects(notes.put("a", 1), /another tab/);
  await new Promise((done) => setTimeout(done, 100));
  assert.equal(door.dialledAt.length, 1);
});

test("an edit that cannot be kept is refused and the status says why", async () => {
  const client = await clientOf();
  await client.synced(5);
  const notes = client.collection("notes");
  mock.method(client._storage, "transaction", () => {
    throw new StorageFailed("the disk is gone", { final: true });
  });
  await assert.rejects(notes.put("a", 1), /the disk is gone/);
  assert.deepEqual([client.status.phase, client.status.error], ["blocked", "the disk is gone"]);
});

test("a question is answered, refused, or lost with its line", async () => {
  const client = await clientOf();
  await client.synced(5);
  const [line] = door.hub.lines;
  line.on_list_devices = (/** @type {any} */ { request }) => line.say({ type: "device_list", request, devices: [] });
  assert.deepEqual(await client.devices(), []);
  line.on_list_devices = (/** @type {any} */ message) => line.refuse(message, "rate_limited", true, 3);
  await assert.rejects(client.devices(), { name: "Refusal", code: "rate_limited", retryAfterS: 3 });
  line.on_list_devices = (/** @type {any} */ message) => line.refuse(message, "of a later hub");
  await assert.rejects(client.devices(), { name: "Refusal", code: "internal", message: "of a later hub" });
  line.on_list_devices = () => setTimeout(() => line.socket.close(4011), 20);
  const askedAt = performance.now();
  await assert.rejects(client.devices(), ConnectionError);
  assert.ok(performance.now() - askedAt < 5_000);
  assert.equal(client._answers.size, 0);
});

test("without a line a signal is refused, and an app's mistake in a callback stops nothing", async () => {
  /** @type {any[]} */
  const reported = [];
  mock.method(console, "error", (/** @type {any} */ error) => reported.push(error.message));
  const client = await clientOf();
  client.onStatus(() => {
    throw new Error("the app's own");
  });
  await client.synced(5);
  assert.ok(reported.length && reported.every((message) => message === "the app's own"));
  await client.turnOff();
  await assert.rejects(client.sendSignal(new Uint8Array(1)), ConnectionError);
});

test("what was meant for one line is not said on the next", async () => {
  const client = await clientOf();
  await client.synced(5);
  /** @type {(() => void)[]} */
  const keep = [];
  const kept = () => new Promise((done) => keep.push(() => done(undefined)));
  const waiting = mock.method(client._storage, "committed", kept);
  const [line] = door.hub.lines;
  client.collection("notes").put("a", 1);
  line.socket.close(4011);
  await until(() => door.lines.length === 2);
  waiting.mock.restore();
  keep.forEach((done) => done());
  await client.synced(5);
  const heard = door.lines[1].heardTypes;
  assert.equal(heard[0], "hello");
  assert.equal(heard.filter((/** @type {string} */ type) => type === "append").length, 1);
});

test("it leaves a hub that goes away and is back when it was told to be", async () => {
  const seen = new Seen();
  const client = await clientOf({ tap: seen.tap });
  /** @type {any[]} */
  const told = [];
  client.onStatus((/** @type {any} */ status) => told.push(status));
  await client.synced(5);
  told.length = 0;
  door.say({ type: "going_away", retryAfterS: 0.5 });
  await until(() => seen.closings.length);
  const leftAt = performance.now() / 1000;
  const changeId = await client.collection("notes").put("a", 1);
  await client.whenAppended(changeId);
  await client.synced(5);
  assert.equal(door.dialledAt.length, 2);
  const awayS = door.dialledAt[1] - leftAt;
  assert.ok(0.4 < awayS && awayS < 1.5, `${awayS}`);
  const [closed] = seen.closings;
  assert.deepEqual([closed.code, closed.message], [0, "the hub is restarting"]);
  for (const { phase, error } of told) {
    assert.ok(["connecting", "catching-up", "sending", "synced"].includes(phase), phase);
    assert.equal(error, "");
  }
  // Closed as one hangs up, not cut: what was said before has arrived.
  assert.equal(door.lines[0].closeCode, 1000);
});

test("a hub that takes the line and says nothing counts as a failure", async () => {
  const watch = new Watch();
  /** @type {number[]} */
  const waits = [];
  const { lost } = Backoff.prototype;
  mock.method(Backoff.prototype, "lost", function (/** @type {[any, any, any]} */ ...values) {
    waits.push(lost.apply(this, values));
    return waits.at(-1);
  });
  mock.method(Line.prototype, "on_hello", () => undefined);
  const client = await clientOf({ now: watch.now });
  for (let n = 1; n <= 4; n++) {
    await until(() => door.lines.length === n);
    await until(() => client._connection.line);
    watch.pass(DEAD_AFTER_S);
    client._connection.schedule();
    await until(() => waits.length === n);
  }
  assert.deepEqual(waits.map((wait) => wait.toFixed(3)), ["0.010", "0.020", "0.040", "0.080"]);
});

test("only a connection that stayed makes it wait no longer than at first", async () => {
  const watch = new Watch();
  /** @type {string[]} */
  const waits = [];
  const { lost } = Backoff.prototype;
  mock.method(Backoff.prototype, "lost", function (/** @type {[any, any, any]} */ ...values) {
    const wait = lost.apply(this, values);
    waits.push(wait.toFixed(3));
    return wait;
  });
  door.greetings = [busy, busy];
  const client = await clientOf({ now: watch.now });
  for (const stayedS of [STABLE_AFTER_S - 2, STABLE_AFTER_S + 1]) {
    await client.synced(5);
    watch.pass(stayedS);
    const before = door.lines.length;
    door.hub.lines[0].socket.close(4011);
    await until(() => door.lines.length > before);
  }
  assert.deepEqual(waits, ["0.010", "0.020", "0.040", "0.010"]);
});

test("sync that is turned off while the hub is dialled stays off", async () => {
  /** @type {(letIn: boolean) => void} */
  let decide = () => undefined;
  door.greetings = [() => new Promise((done) => (decide = done))];
  const client = await clientOf({ connectWithinS: 5 });
  await until(() => door.dialledAt.length);
  await client.turnOff();
  decide(true);
  await until(() => door.lines.length && !door.hub.lines.length);
  assert.equal(client._connection.line, null);
  assert.equal(client.status.phase, "off");
  await client.turnOn();
  await client.synced(5);
  assert.equal(door.dialledAt.length, 2);
});

test("the tap is shown both directions in order", async () => {
  const seen = new Seen();
  const client = await clientOf({ tap: seen.tap });
  await client.whenAppended(await client.collection("notes").put("a", 1));
  clients = [];
  await client.stop();
  const first = seen.all.slice(0, 3).map(([what, message]) => `${what} ${message.type}`);
  assert.deepEqual(first, ["sent hello", "received challenge", "sent auth"]);
  const [[sent], [answer]] = [seen.of("append"), seen.of("appended")];
  assert.equal(answer.request, sent.request);
  assert.equal(answer.answers[0].seq, 1);
  const [what, last] = seen.all.at(-1) ?? [];
  assert.ok(what === "closed" && last instanceof Closed);
});

// --- a line that is dead without a word ------------------------------------------------------

test("a line that is silent for too long is asked and then left", async () => {
  const watch = new Watch();
  const seen = new Seen();
  const client = await clientOf({ now: watch.now, tap: seen.tap });
  await client.synced(5);
  const [line] = door.hub.lines;
  line.take = () => undefined;
  const pings = seen.of("ping").length;
  watch.pass(HEARTBEAT_S);
  client._connection.schedule();
  await until(() => seen.of("ping").length > pings);
  assert.equal(seen.closings.length, 0);
  watch.pass(DEAD_AFTER_S);
  client._connection.schedule();
  await until(() => seen.closings.length === 1);
  assert.equal(seen.closings[0].message, "the hub does not answer");
  await client.synced(5);
});

test("a timer that comes late lets the messages that waited in first", async () => {
  const watch = new Watch();
  const seen = new Seen();
  const client = await clientOf({ now: watch.now, tap: seen.tap });
  await client.synced(5);
  const [line] = door.hub.lines;
  const { take } = line;
  line.take = (/** @type {Uint8Array} */ frame) => {
    take.call(line, frame);
    // The page is held up from here on: the answer lies in the socket when the time is long over.
    watch.pass(DEAD_AFTER_S + LATE_S + 1);
    queueMicrotask(() => {
      client._connection.schedule();
      for (const end = performance.now() + 5; performance.now() < end; );
    });
  };
  const pongs = seen.of("pong").length;
  watch.pass(HEARTBEAT_S);
  client._connection.schedule();
  await until(() => seen.of("pong").length > pongs);
  line.take = take;
  await client.synced(5);
  assert.deepEqual(seen.closings, []);
});

test("a frame larger than any honest one ends the line", async () => {
  const seen = new Seen();
  const client = await clientOf({ tap: seen.tap });
  await client.synced(5);
  /** @param {number} size */
  const pong = (size) => {
    const frame = pack({ type: "pong", heads: [], later: new Uint8Array(size) });
    return frame.length < size + 30 ? frame : assert.fail("the frame is not as large as it should be");
  };
  door.hub.lines[0].socket.send(pong(FRAME_BYTES_MAX - 30));
  await client.synced(5);
  assert.equal(seen.closings.length, 0);
  door.hub.lines[0].socket.send(pong(FRAME_BYTES_MAX));
  await until(() => seen.closings.length === 1);
  await client.synced(5);
});

test("a text frame is nothing", async () => {
  const client = await clientOf();
  await client.synced(5);
  door.hub.lines[0].socket.send("hello");
  await client.whenAppended(await client.collection("notes").put("a", 1));
  assert.equal(door.dialledAt.length, 1);
});

test("a mistake of this program is reported and shown, and ends the line only", async () => {
  /** @type {any[]} */
  const reported = [];
  mock.method(console, "error", (/** @type {any} */ error) => reported.push(error));
  const client = await clientOf();
  await client.synced(5);
  /** @type {any[]} */
  const errors = [];
  client.onStatus((/** @type {any} */ status) => errors.push(status.error));
  const received = mock.method(client._engine, "received", () => {
    received.mock.restore();
    throw new TypeError("x is not a function");
  });
  door.say({ type: "ping" });
  await until(() => door.lines.length === 2);
  await client.synced(5);
  assert.equal(reported[0].message, "x is not a function");
  assert.ok(errors.includes("this program made a mistake: x is not a function"));
  assert.equal(client.status.error, "");
  errors.length = 0;
  door.hub.lines[0].socket.close(4011);
  await until(() => door.lines.length === 3);
  await client.synced(5);
  assert.deepEqual(new Set(errors), new Set([""]));
});

// --- the page --------------------------------------------------------------------------------

test("a page that is about to stand still hangs up and dials again when it is back", async () => {
  const page = new FakePage();
  const client = await clientOf({ page });
  await client.synced(5);
  page.tell("leaving");
  await until(() => !door.hub.lines.length);
  assert.equal(client.status.phase, "offline");
  await client.collection("notes").put("a", 1);
  await new Promise((done) => setTimeout(done, 100));
  assert.equal(door.dialledAt.length, 1);
  page.tell("back");
  await client.synced(5);
  assert.equal(door.hub.appended.length, 1);
});

test("a page that is shown does not stand still, whatever else it was told", async () => {
  const page = new FakePage();
  const client = await clientOf({ page });
  await client.synced(5);
  page.tell("leaving");
  await until(() => !door.hub.lines.length);
  page.tell("shown");
  await client.synced(5);
  assert.equal(door.dialledAt.length, 2);
});

for (const event of /** @type {const} */ (["shown", "online", "back"])) {
  test(`it tries at once when the page is ${event}`, async () => {
    const page = new FakePage();
    const { port } = door;
    await door.close();
    const client = await clientOf({ page, random: () => 0.999 });
    const waits = mock.method(Backoff.prototype, "lost", () => 60);
    await until(() => waits.mock.callCount() === 1 || client.status.error);
    await door.open(port);
    await until(() => waits.mock.callCount() === 1);
    await new Promise((done) => setTimeout(done, 20));
    page.tell(event);
    await client.synced(5);
    assert.equal(waits.mock.callCount(), 1);
  });
}

test("a socket that a person comes back to must show that it lives", async () => {
  const page = new FakePage();
  const watch = new Watch();
  const seen = new Seen();
  const client = await clientOf({ page, now: watch.now, tap: seen.tap, random: () => 0.999 });
  await client.synced(5);
  mock.method(Backoff.prototype, "lost", () => 60);
  page.tell("hidden");
  watch.pass(AWAY_S + 1);
  door.hub.lines[0].take = () => undefined; // it looks open, and is not
  page.tell("shown");
  await until(() => seen.closings.length === 1, SHOW_LIFE_WITHIN_S * 1000 + 1000);
  assert.equal(seen.closings[0].message, "the hub does not answer");
  await client.synced(5); // at once, not after a minute
});

test("a socket that lives is kept when a person comes back to it", async () => {
  const page = new FakePage();
  const watch = new Watch();
  const client = await clientOf({ page, now: watch.now });
  await client.synced(5);
  page.tell("hidden");
  watch.pass(AWAY_S + 1);
  page.tell("shown");
  page.tell("online");
  await new Promise((done) => setTimeout(done, SHOW_LIFE_WITHIN_S * 1000 + 200));
  assert.equal(door.dialledAt.length, 1);
  assert.equal(client.status.phase, "synced");
});

test("a page that is hidden for a moment asks nothing", async () => {
  const page = new FakePage();
  const seen = new Seen();
  const client = await clientOf({ page, tap: seen.tap });
  await client.synced(5);
  const pings = seen.of("ping").length;
  page.tell("hidden");
  page.tell("shown");
  await new Promise((done) => setTimeout(done, 50));
  assert.equal(seen.of("ping").length, pings);
});

test("a client that was stopped listens to the page no more", async () => {
  const page = new FakePage();
  const client = await clientOf({ page });
  await client.synced(5);
  assert.ok(page.count > 0);
  await client.stop();
  assert.equal(page.count, 0);
});

// --- addresses -------------------------------------------------------------------------------

test("a hub's address is dialled and signed in one form", () => {
  const same = "wss://hub.example.org/v1/ws";
  for (const text of ["hub.example.org", "https://HUB.example.org:443/", "wss://hub.example.org/v1/ws", same]) {
    assert.equal(canonicalUrl(text), same);
  }
  assert.equal(canonicalUrl("https://hub.example.org:8443"), "wss://hub.example.org:8443/v1/ws");
  assert.equal(canonicalUrl("https://bücher.example"), "wss://xn--bcher-kva.example/v1/ws");
  assert.equal(canonicalUrl("http://localhost:8080"), "ws://localhost:8080/v1/ws");
  assert.equal(canonicalUrl("http://127.0.0.1:80"), "ws://127.0.0.1/v1/ws");
  assert.equal(canonicalUrl("http://[::1]:8080"), "ws://[::1]:8080/v1/ws");
});

for (const text of ["", "https://", "ftp://hub.example.org", "https://hub.example.org/elsewhere", "https://a b"]) {
  test(`what is no address of a hub is refused with a sentence: ${JSON.stringify(text)}`, () => {
    assert.throws(() => canonicalUrl(text), RangeError);
  });
}

const NOT_HERE = ["hub.example.org", "192.168.1.2", "127.evil.example", "localhost.evil.example"];
for (const text of NOT_HERE.map((host) => `http://${host}`)) {
  test(`without TLS only this machine is dialled: ${text}`, () => {
    assert.throws(() => canonicalUrl(text), /write https/);
  });
}

test("the time is told twice, in seconds", () => {
  const moment = now();
  assert.ok(Math.abs(moment.wall - Date.now() / 1000) < 1);
  assert.ok(Math.abs(moment.steady - performance.now() / 1000) < 1);
});
