/**
 * Draws the growth of a space as a line: an SVG with a name, and the same numbers as a table.
 */

import { h, s } from "./dom.js";
import { bytes, dayDate } from "./format.js";
import { moves, paths } from "./growth.js";
import { t } from "./text.js";

const WIDTH = 320;
const HEIGHT = 64;

/** @param {import("./growth.js").Point[]} points */
export function chart(points) {
  const { line, area } = paths(points, WIDTH, HEIGHT - 4);
  const [first, last] = [points[0], /** @type {import("./growth.js").Point} */ (points.at(-1))];
  const label = t("chart.label", {
    from: dayDate(first.day),
    start: bytes(first.bytes),
    to: dayDate(last.day),
    end: bytes(last.bytes),
  });
  const drawing = s(
    "svg",
    { class: "chart", viewBox: `0 -2 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label },
    s("path", { class: "area", d: area }),
    s("path", { class: "line", d: line }),
  );
  const feet = h("div", { class: "chart-feet", "aria-hidden": "true" }, [
    h("span", null, dayDate(first.day)),
    h("span", null, t("chart.today")),
  ]);
  return h("div", { class: "growth" }, drawing, feet, table(points));
}

/** @param {import("./growth.js").Point[]} points */
function table(points) {
  const rows = moves(points).map(({ day, bytes: count }) =>
    h("tr", null, h("th", { scope: "row" }, dayDate(day)), h("td", null, bytes(count))),
  );
  const head = h("tr", null, h("th", { scope: "col" }, t("chart.day")), h("th", { scope: "col" }, t("chart.stored")));
  return h(
    "details",
    { class: "more" },
    h("summary", null, t("chart.table")),
    h("table", { class: "numbers" }, h("thead", null, head), h("tbody", null, rows)),
  );
}
