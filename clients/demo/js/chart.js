/**
 * Draws words by day as bars with the goal as a line: an SVG with a name, and a table for who cannot see it.
 */

import { h, s } from "./dom.js";
import { plural } from "./words.js";

const HEIGHT = 180;
const TOP = 14;
const BOTTOM = 24;
const LEFT = 36;

/**
 * @param {{ day: string, words: number }[]} days  oldest first; the last one is today
 * @param {number} goal
 * @param {number} width  in CSS pixels
 */
export function chart(days, goal, width) {
  const top = niceTop(Math.max(goal, ...days.map((day) => day.words)));
  const height = HEIGHT - TOP - BOTTOM;
  const y = (/** @type {number} */ words) => TOP + height - (words / top) * height;
  const step = (width - LEFT) / days.length;
  const bar = Math.min(22, step * 0.62);
  const drawing = s("svg", {
    class: "chart",
    viewBox: `0 0 ${width} ${HEIGHT}`,
    width,
    height: HEIGHT,
    role: "img",
    "aria-label": summary(days, goal),
  });
  for (const words of [top, top / 2]) {
    drawing.append(s("line", { class: "grid", x1: LEFT, x2: width, y1: y(words), y2: y(words) }));
    drawing.append(
      s("text", { class: "tick", x: LEFT - 8, y: y(words) + 4, "text-anchor": "end" }, words.toLocaleString("en")),
    );
  }
  drawing.append(s("line", { class: "floor", x1: LEFT, x2: width, y1: y(0), y2: y(0) }));
  days.forEach(({ day, words }, at) => {
    const [x, last] = [LEFT + at * step + (step - bar) / 2, at === days.length - 1];
    const tall = words ? Math.max(2, y(0) - y(words)) : 0;
    const kind = `bar${words >= Math.max(1, goal) ? " reached" : ""}${last ? " today" : ""}`;
    if (tall)
      drawing.append(
        s(
          "path",
          { class: kind, d: rounded(x, y(0) - tall, bar, tall) },
          s("title", null, `${longDay(day)}: ${plural(words)}`),
        ),
      );
    const label = labelOf(day, at, days.length);
    if (label)
      drawing.append(
        s(
          "text",
          {
            class: "tick",
            x: x + bar / 2,
            y: HEIGHT - 6,
            "text-anchor": last ? "end" : "middle",
            dx: last ? bar / 2 : 0,
          },
          label,
        ),
      );
  });
  if (goal) drawing.append(s("line", { class: "goal", x1: LEFT, x2: width, y1: y(goal), y2: y(goal) }));
  return drawing;
}

/** The same numbers as a table. @param {{ day: string, words: number }[]} days @param {number} goal */
export function table(days, goal) {
  const rows = [...days]
    .reverse()
    .map(({ day, words }) =>
      h(
        "tr",
        null,
        h("th", { scope: "row" }, longDay(day)),
        h("td", null, words.toLocaleString("en")),
        h("td", null, words >= Math.max(1, goal) ? "reached" : ""),
      ),
    );
  const head = h(
    "tr",
    null,
    ["Day", "Words", "Goal"].map((name) => h("th", { scope: "col" }, name)),
  );
  return h(
    "table",
    { class: "numbers" },
    h("caption", { class: "sr-only" }, "Words written by day"),
    h("thead", null, head),
    h("tbody", null, rows),
  );
}

/** One sentence with what the picture shows. @param {{ day: string, words: number }[]} days @param {number} goal */
export function summary(days, goal) {
  const reached = days.filter((day) => day.words >= Math.max(1, goal)).length;
  const best = days.reduce((one, other) => (other.words > one.words ? other : one), days[0]);
  const total = days.reduce((sum, day) => sum + day.words, 0);
  if (!total) return `Words of the last ${days.length} days: none yet.`;
  const [all, most] = [total, best.words].map((words) => words.toLocaleString("en"));
  const goals = `the goal reached on ${plural(reached, "day")}`;
  return `Words of the last ${days.length} days: ${all} in all, ${goals}, most on ${longDay(best.day)} with ${most}.`;
}

/** A round number at or above the highest bar. @param {number} most */
export function niceTop(most) {
  const size = 10 ** Math.floor(Math.log10(Math.max(10, most)));
  return [1, 2, 3, 4, 5, 6, 8, 10].map((part) => part * size).find((top) => top >= most) ?? 10 * size;
}

/** @param {string} day */
function longDay(day) {
  return dateOf(day).toLocaleDateString("en-GB", { weekday: "long", day: "numeric", month: "long" });
}

/** Mondays have their date, the last day is today. @param {string} day @param {number} at @param {number} length */
function labelOf(day, at, length) {
  if (at === length - 1) return "today";
  const date = dateOf(day);
  const near = at > length - 4;
  return date.getDay() === 1 && !near ? date.toLocaleDateString("en-GB", { day: "numeric", month: "short" }) : "";
}

/** @param {string} day */
function dateOf(day) {
  const [year, month, date] = day.split("-").map(Number);
  return new Date(year, month - 1, date, 12);
}

/** A bar that is round at its top. @param {number} x @param {number} y @param {number} width @param {number} height */
function rounded(x, y, width, height) {
  const r = Math.min(4, width / 2, height);
  return `M${x} ${y + height}V${y + r}q0-${r} ${r}-${r}h${width - 2 * r}q${r} 0 ${r} ${r}V${y + height}z`;
}
