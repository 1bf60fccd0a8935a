import assert from "node:assert/strict";
import { readFile, readdir } from "node:fs/promises";
import { afterEach, test } from "node:test";

import { LANGUAGES, bestLanguage, has, languageNow, localeNow, rich, t, useLanguage } from "../js/text.js";

const JS = new URL("../js/", import.meta.url);
const { en, ...others } = Object.fromEntries(Object.entries(LANGUAGES).map(([code, { words }]) => [code, words]));
const forms = (text) => (typeof text === "string" ? [text] : Object.values(text));
const places = (text) => [...new Set(forms(text).flatMap((form) => form.match(/\{\w+\}/g) ?? []))].sort();

afterEach(() => useLanguage("en"));

for (const [code, words] of Object.entries(others)) {
  test(`${code} has the texts of English, no more and no fewer`, () => {
    assert.deepEqual(Object.keys(words).sort(), Object.keys(en).sort());
  });

  test(`every text of ${code} has the same places and forms as in English`, () => {
    for (const [key, text] of Object.entries(en)) {
      assert.deepEqual(places(words[key]), places(text), key);
      assert.equal(typeof words[key], typeof text, key);
    }
  });
}

test("every text that the pages name is there, and every text is named", async () => {
  const files = (await readdir(JS, { recursive: true })).filter((name) => name.endsWith(".js") && !name.startsWith("words"));
  const source = (await Promise.all(files.map((name) => readFile(new URL(name, JS), "utf8")))).join("\n");
  const named = [...source.matchAll(/\b(?:t|rich|has)\(\s*"([^"]+)"/g)].map(([, key]) => key);
  assert.deepEqual(named.filter((key) => !Object.hasOwn(en, key)), []);
  const begun = [...source.matchAll(/`([a-z_.]+)\$\{/g)].map(([, start]) => start);
  const quoted = new Set([...source.matchAll(/"([a-z_.]+)"/g)].map(([, key]) => key));
  const unused = Object.keys(en).filter((key) => !quoted.has(key) && !begun.some((start) => key.startsWith(start)) && !/\.\d$/.test(key));
  assert.deepEqual(unused, []);
});

test("no text is empty or has markup", () => {
  for (const words of [en, ...Object.values(others)]) {
    for (const [key, text] of Object.entries(words)) for (const form of forms(text)) assert.match(form, /^[^<>]+$/, key);
  }
});

test("the first language of the browser that we speak is taken, else English", () => {
  assert.equal(bestLanguage(["de-AT", "en"]), "de");
  assert.equal(bestLanguage(["fr", "DE"]), "de");
  assert.equal(bestLanguage(["fr", "en-GB", "de"]), "en");
  assert.equal(bestLanguage([]), "en");
  useLanguage("tlh");
  assert.equal(languageNow(), "en");
});

test("numbers and dates are written as where the person is", () => {
  useLanguage("de", ["en-GB", "de-CH"]);
  assert.equal(localeNow(), "de-CH");
  useLanguage("de", ["en-GB"]);
  assert.equal(localeNow(), "de");
});

test("places are filled, numbers as the language writes them, and plural forms chosen", () => {
  assert.equal(t("stop.count", { count: 1 }), "1 device is cut off.");
  assert.equal(t("stop.count", { count: 1200 }), "1,200 devices are cut off.");
  useLanguage("de");
  assert.equal(t("stop.count", { count: 1200 }), "1.200 Geräte werden getrennt.");
});

test("what fills a place is not looked at for places again", () => {
  assert.equal(t("insight.look", { id: "{count}" }), "Account {count}");
});

test("nodes stand where the places were", () => {
  const node = { tag: "strong" };
  assert.deepEqual(rich("delete.text", { app: node }), ["This removes everything the hub keeps of ", node, "."]);
});

test("a text that is nowhere is a mistake", () => {
  assert.throws(() => t("no.such.text"), /no\.such\.text/);
  assert.equal(has("no.such.text"), false);
  assert.equal(has("constructor"), false);
});
