/**
 * Every word the person reads, in the language they chose: `t("devices.title")`.
 *
 * A text may have places such as {count}; a text that depends on a number is an object by plural form.
 */

import de from "./words/de.js";
import en from "./words/en.js";

/** @typedef {Record<string, string | Record<string, string>>} Words */

/** @type {Record<string, { name: string, words: Words }>} */
export const LANGUAGES = { en: { name: "English", words: en }, de: { name: "Deutsch", words: de } };

let language = "en";
let locale = "en";

/** The language in use, as "en". */
export function languageNow() {
  return language;
}

/** How numbers and dates are written: the language in use, as spoken where the person is: "en-GB". */
export function localeNow() {
  return locale;
}

/**
 * @param {string} wanted  a key of LANGUAGES
 * @param {readonly string[]} [spoken]  as navigator.languages
 */
export function useLanguage(wanted, spoken = []) {
  language = Object.hasOwn(LANGUAGES, wanted) ? wanted : "en";
  locale = spoken.find((tag) => tag.toLowerCase().split("-")[0] === language) ?? language;
}

/**
 * The first language of the list that we speak; English when there is none.
 * @param {readonly string[]} wanted  as navigator.languages
 */
export function bestLanguage(wanted) {
  const codes = wanted.map((tag) => tag.toLowerCase().split("-")[0]);
  return codes.find((code) => Object.hasOwn(LANGUAGES, code)) ?? "en";
}

/** Whether there is such a text. @param {string} key */
export function has(key) {
  return Object.hasOwn(LANGUAGES[language].words, key);
}

/**
 * The text of this key, its places filled. Throws for a key that is in no language file: a mistake of ours.
 * @param {string} key
 * @param {Record<string, string | number>} [values]  `count` chooses the plural form
 */
export function t(key, values = {}) {
  return template(key, values).replace(/\{(\w+)\}/g, (_, name) => shown(values[name]));
}

/**
 * The same with nodes in the places: a list of texts and nodes, for `h`.
 * @param {string} key
 * @param {Record<string, any>} values
 * @returns {any[]}
 */
export function rich(key, values) {
  return template(key, values)
    .split(/\{(\w+)\}/)
    .map((part, at) => (at % 2 ? values[part] : part));
}

/** @param {string} key @param {Record<string, any>} values */
function template(key, values) {
  const found = LANGUAGES[language].words[key];
  if (found === undefined) throw new Error(`there is no text ${key}`);
  if (typeof found === "string") return found;
  return found[new Intl.PluralRules(language).select(Number(values.count))] ?? found.other;
}

/** @param {string | number | undefined} value */
function shown(value) {
  return typeof value === "number" ? value.toLocaleString(locale) : (value ?? "");
}
