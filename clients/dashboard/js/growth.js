/**
 * What a space took, day by day: numbers for the chart and its table; no page needed.
 */

/** @typedef {{ day: number, bytes: number }} Point  days since 1970 */

/**
 * One point a day up to today. The hub leaves out days on which nothing moved: they are as the day before.
 * @param {readonly { day: number, usedBytes: number }[]} growth  oldest first
 * @param {{ today: number, now: number, length?: number }} options  `now`: bytes as they are; `length`: days at most
 * @returns {Point[]}  at least two, oldest first
 */
export function daily(growth, { today, now, length = 90 }) {
  const oldest = Math.max(growth[0]?.day ?? today, today - length + 1);
  const from = Math.min(oldest, today - 1);
  const known = new Map(growth.map(({ day, usedBytes }) => [day, usedBytes]));
  let bytes = growth.filter(({ day }) => day < from).at(-1)?.usedBytes ?? 0;
  return Array.from({ length: today - from + 1 }, (_, at) => {
    bytes = known.get(from + at) ?? bytes;
    return { day: from + at, bytes: from + at === today ? now : bytes };
  });
}

/**
 * The line of the chart and the area under it, as SVG paths in a box of this size.
 * @param {Point[]} points @param {number} width @param {number} height
 */
export function paths(points, width, height) {
  const top = Math.max(1, ...points.map(({ bytes }) => bytes));
  const at = points.map(({ bytes }, index) => {
    const x = (index / Math.max(1, points.length - 1)) * width;
    return `${round(x)} ${round(height - (bytes / top) * height)}`;
  });
  const line = `M${at.join("L")}`;
  return { line, area: `${line}L${width} ${height}L0 ${height}z`, top };
}

/** The days on which something changed, newest first: for the table. @param {Point[]} points @param {number} [most] */
export function moves(points, most = 30) {
  return points.filter(({ bytes }, at) => at === 0 || bytes !== points[at - 1].bytes).reverse().slice(0, most);
}

/** @param {number} value */
function round(value) {
  return Math.round(value * 10) / 10;
}
