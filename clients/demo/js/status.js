/**
 * Says in plain words where sync stands. It says "synced" only when nothing waits.
 */

import { plural } from "./words.js";

/** @typedef {{ text: string, tone: "calm" | "busy" | "quiet" | "warn", detail: string, idle: boolean }} Words */

/**
 * @param {any} status  the value of `db.hub.status`
 * @returns {Words}  `idle`: it will not change by itself in a moment, so it may be read aloud
 */
export function inWords(status) {
  const { phase, pending = 0, conflicts = 0, progress } = status ?? {};
  const waiting = pending ? `${plural(pending, "change")} waiting` : "";
  const left = progress?.remaining ? `${progress.remaining.toLocaleString("en")} to go` : "";
  const say = (/** @type {Words["tone"]} */ tone, /** @type {string} */ text, detail = waiting, idle = true) => ({
    tone,
    text,
    detail,
    idle,
  });
  switch (phase) {
    case "synced":
      if (conflicts) return say("warn", "Synced", `${plural(conflicts, "chapter")} to compare`);
      return pending ? say("busy", "Sending", waiting, false) : say("calm", "Synced");
    case "sending":
      return say("busy", "Sending", waiting, false);
    case "catching-up":
      return say("busy", "Catching up", left || waiting, false);
    case "connecting":
      return say("busy", "Connecting", waiting, false);
    case "offline":
      return say("quiet", "Offline", waiting || "all is kept here");
    case "off":
      return say("quiet", "Sync is off", waiting);
    case "needs-key":
      return say("warn", "Key needed", "one step is left");
    case "alarm":
      return say("warn", "Sync stopped", "please look");
    case "blocked":
      return say("warn", "Sync stopped", "please look");
    case "signed-out":
      return say("quiet", "Only on this device", "");
  }
  return say("quiet", "Starting", "", false);
}

/**
 * "just now", "5 minutes ago", "yesterday at 14:05", "3 May at 14:05".
 * @param {number | Date | null | undefined} moment  in seconds or milliseconds since 1970, or a date
 * @param {number} [now]  in milliseconds
 */
export function ago(moment, now = Date.now()) {
  if (!moment) return "never";
  const ms = moment instanceof Date ? moment.getTime() : moment < 1e11 ? moment * 1000 : moment;
  const seconds = Math.max(0, (now - ms) / 1000);
  if (seconds < 45) return "just now";
  if (seconds < 3_600) return `${plural(Math.max(1, Math.round(seconds / 60)), "minute")} ago`;
  const [date, today] = [new Date(ms), new Date(now)];
  const time = date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  if (date.toDateString() === today.toDateString()) return `today at ${time}`;
  if (date.toDateString() === new Date(now - 86_400_000).toDateString()) return `yesterday at ${time}`;
  return `${date.toLocaleDateString("en-GB", { day: "numeric", month: "long" })} at ${time}`;
}

/** What an alarm means for the person. @param {any} alarm */
export function alarmInWords(alarm) {
  const what = ALARMS[alarm?.name] ?? "The hub answered in a way it must not.";
  return `${what} Your texts on this device are untouched.`;
}

/** @type {Record<string, string>} */
const ALARMS = {
  rollback: "The hub went back to an earlier state.",
  gap: "The hub left out a change.",
  omission: "The hub left out what another device wrote.",
  clone: "Another device uses a copy of this device's identity.",
  forged: "The hub showed something that none of your devices wrote.",
  emptied: "The hub lost its data without a word.",
};
