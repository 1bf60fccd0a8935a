/**
 * What happens when one chapter was changed on two devices before they heard of each other.
 *
 * Of the text, changes to different paragraphs are put together; where both changed the same paragraph, or
 * gave the chapter two titles, nothing is decided: both are kept, and the writer compares them
 * (views/compare.js). Its place is merged as any other field. An edit beats a deletion, so no text is lost.
 */

import { byField, manual, threeWayText } from "/client/hub-dexie.js";

export const chapterConflict = byField({ text: threeWayText, title: manual });
