/**
 * What can be done with chapters: make, move, write, delete, bring back. Each is one transaction.
 *
 * `order` is a number between its neighbours', so that moving one chapter writes one row, and two
 * devices that move different chapters never disagree.
 */

import { merge } from "./diff.js";
import { db } from "./db.js";
import { countWords, dayOf } from "./words.js";

/** @typedef {{ id: string, order: number, title: string, text: string }} Chapter */

/** All chapters as they stand in the book. @returns {Promise<Chapter[]>} */
export async function allChapters() {
  return inOrder(await db.chapters.toArray());
}

/** @param {Chapter[]} chapters */
export function inOrder(chapters) {
  return chapters.sort((one, other) => one.order - other.order || (one.id < other.id ? -1 : 1));
}

/** A new chapter at the end; its id. @param {string} [title] @param {string} [text] */
export async function addChapter(title = "", text = "") {
  const id = db.hub.newId();
  await db.transaction("rw", db.chapters, async () => {
    const last = await db.chapters.orderBy("order").last();
    await db.chapters.add({ id, order: (last?.order ?? 0) + 1, title, text });
  });
  return id;
}

/** @param {string} id @param {string} title */
export async function renameChapter(id, title) {
  await db.chapters.update(id, { title });
}

/**
 * Keep what was typed, and count its words for today, in one transaction.
 *
 * The chapter may have changed below the writer's hands, from another device or tab. What fits together is put
 * together; what does not becomes a chapter of its own, so that nothing is lost.
 * @param {string} id
 * @param {string} before  the text the writer began with
 * @param {string} text  the text as it is now
 * @param {string} title  for the case that the chapter was deleted meanwhile; then it comes back
 * @returns {Promise<string>}  what is kept in the chapter now
 */
export async function writeChapter(id, before, text, title) {
  const written = countWords(text) - countWords(before);
  return db.transaction("rw", db.chapters, db.days, async () => {
    const chapter = await db.chapters.get(id);
    const theirs = chapter?.text ?? before;
    const merged = theirs === before || theirs === text ? { text, clean: true } : merge(before, text, theirs);
    const kept = merged.clean ? merged.text : text;
    if (!merged.clean) await addCopy(chapter);
    if (chapter) await db.chapters.update(id, { text: kept });
    else await db.chapters.put({ id, order: await lastOrder(), title, text: kept });
    if (written) await countToday(written);
    return kept;
  });
}

/**
 * Bring a chapter to another place in the list.
 * @param {string} id
 * @param {number} to  its place, from 0
 */
export async function moveChapter(id, to) {
  await db.transaction("rw", db.chapters, async () => {
    const others = (await allChapters()).filter((chapter) => chapter.id !== id);
    const order = orderBetween(others[to - 1]?.order, others[to]?.order);
    if (order !== null) return db.chapters.update(id, { order });
    // No number is left between the two: number them all anew.
    const ids = others.map((chapter) => chapter.id);
    ids.splice(to, 0, id);
    for (const [at, one] of ids.entries()) await db.chapters.update(one, { order: at + 1 });
  });
}

/**
 * A number between two, or beyond the only one; null when there is none.
 * @param {number} [low]
 * @param {number} [high]
 */
export function orderBetween(low, high) {
  if (low === undefined && high === undefined) return 1;
  if (low === undefined) return /** @type {number} */ (high) - 1;
  if (high === undefined) return low + 1;
  const middle = (low + high) / 2;
  return low < middle && middle < high ? middle : null;
}

/** Delete it; what is returned brings it back. @param {string} id @returns {Promise<() => Promise<void>>} */
export async function deleteChapter(id) {
  const chapter = await db.chapters.get(id);
  await db.chapters.delete(id);
  return async () => {
    if (chapter) await db.chapters.put(chapter);
  };
}

/** What a chapter is called, also without a title. @param {{ title?: string }} chapter */
export function titleOf(chapter) {
  return chapter.title?.trim() || "Untitled";
}

/** The whole book as markdown. @param {Chapter[]} chapters */
export function asMarkdown(chapters) {
  return chapters.map((chapter) => `# ${titleOf(chapter)}\n\n${chapter.text.trim()}\n`).join("\n");
}

/** @param {number} words */
async function countToday(words) {
  const id = dayOf();
  const today = await db.days.get(id);
  await db.days.put({ id, words: (today?.words ?? 0) + words });
}

/** @param {Chapter} chapter */
async function addCopy(chapter) {
  const id = db.hub.newId();
  await db.chapters.add({ ...chapter, id, order: chapter.order + 1e-6, title: `${titleOf(chapter)} (other version)` });
}

async function lastOrder() {
  return ((await db.chapters.orderBy("order").last())?.order ?? 0) + 1;
}
