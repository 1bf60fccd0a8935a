/**
 * Counts words and days: pure arithmetic, no page and no database.
 *
 * A day is the writer's own day, by the clock of the device, as "2026-05-03".
 */

const WORD = /[\p{L}\p{N}]+(?:['’_-][\p{L}\p{N}]+)*/gu;
// Scripts written without spaces: each sign counts as a word, as word processors do.
const DENSE = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Khmer}\p{Script=Lao}]/gu;

/**
 * How many words the text has.
 * @param {string} text
 */
export function countWords(text) {
  const dense = text.match(DENSE)?.length ?? 0;
  return dense + (text.replace(DENSE, " ").match(WORD)?.length ?? 0);
}

/** "1 word", "1,240 words". @param {number} count @param {string} [one] @param {string} [many] */
export function plural(count, one = "word", many = `${one}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}

/** The day of this moment. @param {Date} [moment] */
export function dayOf(moment = new Date()) {
  const [year, month, day] = [moment.getFullYear(), moment.getMonth() + 1, moment.getDate()];
  return `${year}-${String(month).padStart(2, "0")}-${String(day).padStart(2, "0")}`;
}

/** The day so many days later; negative is earlier. @param {string} day @param {number} by */
export function addDays(day, by) {
  const [year, month, date] = day.split("-").map(Number);
  return dayOf(new Date(year, month - 1, date + by, 12)); // noon: no clock change moves it to another day
}

/**
 * The last days up to today, oldest first, with what was written on each; less than nothing counts as nothing.
 * @param {Map<string, number>} wordsByDay
 * @param {string} today
 * @param {number} length
 */
export function lastDays(wordsByDay, today, length) {
  return Array.from({ length }, (_, at) => {
    const day = addDays(today, at - length + 1);
    return { day, words: Math.max(0, wordsByDay.get(day) ?? 0) };
  });
}

/**
 * How many days in a row reached the goal, up to today. Today does not break the row while it is not over.
 * @param {Map<string, number>} wordsByDay
 * @param {string} today
 * @param {number} goal  words a day; 0 means that any word counts
 */
export function streak(wordsByDay, today, goal) {
  const reached = (/** @type {string} */ day) => (wordsByDay.get(day) ?? 0) >= Math.max(1, goal);
  let day = reached(today) ? today : addDays(today, -1);
  let days = 0;
  for (; reached(day); day = addDays(day, -1)) days++;
  return days;
}

/**
 * The longest row of such days there ever was.
 * @param {Map<string, number>} wordsByDay
 * @param {number} goal
 */
export function longestStreak(wordsByDay, goal) {
  let [best, row, before] = [0, 0, ""];
  for (const day of [...wordsByDay.keys()].sort()) {
    if ((wordsByDay.get(day) ?? 0) < Math.max(1, goal)) continue;
    row = before && addDays(before, 1) === day ? row + 1 : 1;
    best = Math.max(best, row);
    before = day;
  }
  return best;
}
