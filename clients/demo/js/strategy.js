/**
 * What happens when one chapter was changed on two devices before they heard of each other.
 *
 * Title and place are merged field by field. Of the text, changes to different paragraphs are put
 * together; where both changed the same paragraph nothing is decided: both texts are kept, and the
 * writer compares them (views/conflict.js). An edit beats a deletion, so no text is lost.
 */

import { MANUAL, Merged, MINE, MISSING, perField, THEIRS, threeWayText } from "/client/hub-dexie.js";

/**
 * @param {{ key: string, base: any, mine: any, theirs: any }} conflict  rows, or MISSING
 * @returns {any}
 */
export function chapterConflict(conflict) {
  const { key, base, mine, theirs } = conflict;
  if (mine === MISSING) return THEIRS;
  if (theirs === MISSING) return MINE;
  const text = textOf(key, base, mine, theirs);
  if (text === null) return MANUAL;
  const bothRenamed = base !== MISSING && mine.title !== base.title && theirs.title !== base.title;
  if (bothRenamed && mine.title !== theirs.title) return MANUAL;
  const fields = perField(conflict);
  return fields instanceof Merged ? new Merged({ ...fields.value, text }) : fields;
}

/**
 * The merged text; null when a person must look.
 * @param {string} key
 * @param {any} base
 * @param {any} mine
 * @param {any} theirs
 */
function textOf(key, base, mine, theirs) {
  if (mine.text === theirs.text) return mine.text;
  if (base === MISSING) return null;
  if (mine.text === base.text) return theirs.text;
  if (theirs.text === base.text) return mine.text;
  const answer = threeWayText({ key, base: base.text, mine: mine.text, theirs: theirs.text });
  return answer instanceof Merged ? answer.value : null;
}
