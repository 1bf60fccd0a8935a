/**
 * Numbers, moments and ids as people read them; no page needed. Moments are seconds since 1970, days are days since then.
 */

import { localeNow, t } from "./text.js";

const DAY_S = 86_400;
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** "0 B", "12.4 MiB": three figures at most. @param {number} count */
export function bytes(count) {
  let [amount, at] = [count, 0];
  while (Math.abs(amount) >= 1_000 && at < UNITS.length - 1) [amount, at] = [amount / 1024, at + 1];
  const digits = at && Math.abs(amount) < 100 ? 1 : 0;
  return `${amount.toLocaleString(localeNow(), { maximumFractionDigits: digits })} ${UNITS[at]}`;
}

/** @param {number} value */
export function number(value) {
  return value.toLocaleString(localeNow());
}

/** The share in percent, whole; 0 when there is nothing to share. @param {number} part @param {number} whole */
export function percent(part, whole) {
  return whole > 0 ? Math.min(100, Math.round((part / whole) * 100)) : 0;
}

/** "3 May 2026, 14:05", by the clock of this device. @param {number} seconds */
export function moment(seconds) {
  return new Date(seconds * 1000).toLocaleString(localeNow(), { dateStyle: "medium", timeStyle: "short" });
}

/** "3 May 2026", of a moment. @param {number} seconds */
export function date(seconds) {
  return new Date(seconds * 1000).toLocaleDateString(localeNow(), { dateStyle: "medium" });
}

/** "3 May 2026", of a day: days are counted in UTC. @param {number} day */
export function dayDate(day) {
  const [dateStyle, timeZone] = /** @type {const} */ (["medium", "UTC"]);
  return new Date(day * DAY_S * 1000).toLocaleDateString(localeNow(), { dateStyle, timeZone });
}

/** "today", "yesterday", "12 days ago". @param {number} day @param {number} now  seconds */
export function dayAgo(day, now) {
  const ago = Math.max(0, Math.floor(now / DAY_S) - day);
  if (ago > 60) return dayDate(day);
  return new Intl.RelativeTimeFormat(localeNow(), { numeric: "auto" }).format(-ago, "day");
}

/** "just now", "5 minutes ago", "in 3 days". @param {number} at @param {number} now  seconds */
export function ago(at, now) {
  const away = at - now;
  const format = new Intl.RelativeTimeFormat(localeNow(), { numeric: "auto" });
  const size = Math.abs(away);
  if (size < 60) return away > 0 ? format.format(1, "minute") : t("time.now");
  if (size < 3_600) return format.format(Math.round(away / 60), "minute");
  if (size < DAY_S) return format.format(Math.round(away / 3_600), "hour");
  if (size < 60 * DAY_S) return format.format(Math.round(away / DAY_S), "day");
  return date(at);
}

/** The first eight digits of an id, in two groups: enough to tell devices apart. @param {string} id  hex digits */
export function short(id) {
  return `${id.slice(0, 4)} ${id.slice(4, 8)}`;
}
