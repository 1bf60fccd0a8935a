/**
 * Words by day: today, the goal, the row of days that reached it, a chart.
 */

import { chart, table } from "../chart.js";
import { db, GOAL } from "../db.js";
import { h, put } from "../dom.js";
import { watch } from "../live.js";
import { dayOf, lastDays, longestStreak, streak } from "../words.js";
import { top } from "./page.js";

export function progress() {
  const figures = h("div", { class: "figures" });
  const place = h("div", { class: "chart-place" });
  const numbers = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Words by day as a table" });
  const goal = h("input", {
    id: "goal",
    type: "number",
    min: "0",
    max: "100000",
    step: "50",
    inputmode: "numeric",
    class: "field short",
  });
  goal.addEventListener("change", () => {
    const value = Math.max(0, Math.min(100_000, Math.round(Number(goal.value) || 0)));
    goal.value = String(value);
    db.settings.put({ id: "goal", value });
  });
  const element = h(
    "section",
    { class: "page" },
    top(),
    h("h1", null, "Words by day"),
    figures,
    place,
    h("div", { class: "row" }, h("label", { for: "goal" }, "Daily goal"), goal, h("span", { class: "hint" }, "words")),
    h("details", null, h("summary", null, "The same as a table"), numbers),
    h(
      "p",
      { class: "hint" },
      "Words you add count, words you take out are taken off, by the calendar of the device you write on. What " +
        "several devices count on the same day is added up.",
    ),
  );

  /** @type {{ words: Map<string, number>, goal: number } | null} */
  let known = null;
  const draw = () => {
    if (!known) return;
    const { words, goal: wanted } = known;
    const today = dayOf();
    const days = lastDays(words, today, place.clientWidth < 480 ? 14 : 30);
    const row = streak(words, today, wanted);
    put(
      figures,
      figure(days[days.length - 1].words, "today", wanted ? `of ${wanted.toLocaleString("en")}` : ""),
      figure(row, row === 1 ? "day in a row" : "days in a row", `longest ${longestStreak(words, wanted)}`),
      figure(
        days.slice(-7).reduce((sum, day) => sum + day.words, 0),
        "in seven days",
        "",
      ),
    );
    put(place, chart(days, wanted, Math.max(280, place.clientWidth)));
    put(numbers, table(days, wanted));
    if (document.activeElement !== goal) goal.value = String(wanted);
  };
  const stop = watch(
    async () => ({
      words: new Map((await db.days.toArray()).map((/** @type {any} */ day) => [day.id, day.words])),
      goal: (await db.settings.get("goal"))?.value ?? GOAL,
    }),
    (found) => {
      known = found;
      draw();
    },
  );
  const wide = new ResizeObserver(draw);
  wide.observe(place);
  return {
    title: "Words by day",
    element,
    leave: () => {
      stop();
      wide.disconnect();
    },
  };
}

/** @param {number} number @param {string} what @param {string} more */
function figure(number, what, more) {
  return h(
    "p",
    { class: "figure" },
    h("span", { class: "big" }, number.toLocaleString("en")),
    h("span", { class: "what" }, what),
    more && h("span", { class: "hint" }, more),
  );
}
