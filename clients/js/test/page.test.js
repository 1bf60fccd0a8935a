/** What a page goes through, from the many events that browsers tell of it. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Page } from "../src/page.js";

const WORDS = /** @type {const} */ (["shown", "hidden", "leaving", "back", "online"]);

/** A window with a document, as far as a page looks at them. */
function aWindow() {
  const document = Object.assign(new EventTarget(), { visibilityState: "visible" });
  return Object.assign(new EventTarget(), { document });
}

/** @param {Page} page */
function heardBy(page) {
  /** @type {string[]} */
  const heard = [];
  const undo = WORDS.map((word) => page.on(word, () => heard.push(word)));
  return { heard, undo };
}

test("each event of a browser becomes the one word that counts", () => {
  const window = aWindow();
  const { document } = window;
  const { heard } = heardBy(new Page(window));
  document.visibilityState = "hidden";
  document.dispatchEvent(new Event("visibilitychange"));
  document.visibilityState = "visible";
  document.dispatchEvent(new Event("visibilitychange"));
  document.dispatchEvent(new Event("freeze"));
  document.dispatchEvent(new Event("resume"));
  window.dispatchEvent(new Event("pagehide"));
  window.dispatchEvent(Object.assign(new Event("pageshow"), { persisted: true }));
  window.dispatchEvent(new Event("online"));
  assert.deepEqual(heard, ["hidden", "shown", "leaving", "back", "leaving", "back", "online"]);
});

test("a page that is loaded and not restored is not back", () => {
  const window = aWindow();
  const { heard } = heardBy(new Page(window));
  window.dispatchEvent(Object.assign(new Event("pageshow"), { persisted: false }));
  assert.deepEqual(heard, []);
});

test("what was undone is heard no more", () => {
  const window = aWindow();
  const { heard, undo } = heardBy(new Page(window));
  undo.forEach((each) => each());
  window.dispatchEvent(new Event("online"));
  window.document.dispatchEvent(new Event("freeze"));
  assert.deepEqual(heard, []);
});

test("it is seen as its document is, and where there is none for ever", () => {
  const window = aWindow();
  const page = new Page(window);
  assert.equal(page.visible, true);
  window.document.visibilityState = "hidden";
  assert.equal(page.visible, false);
  const none = new Page({});
  assert.equal(none.visible, true);
  none.on("shown", () => assert.fail("nothing happens to it"))();
});
