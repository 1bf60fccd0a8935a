/**
 * Turns an error into a sentence that says what to do next.
 */

import { has, t } from "./text.js";

/** @param {unknown} error @returns {string} */
export function sentence(error) {
  const { name = "", code = "", message = "", retryAfterS = 0 } = /** @type {any} */ (error ?? {});
  if (code === "slow_down" && retryAfterS > 90) return t("error.slow_down_for", { count: Math.ceil(retryAfterS / 60) });
  if (code === "bad_request" && message) return told(message);
  if (typeof code === "string" && code && has(`error.${code}`)) return t(`error.${code}`);
  if (["ConnectionError", "Closed", "Offline", "TimeoutError"].includes(name)) return t("error.offline");
  return message ? told(message) : t("error.unknown");
}

/** @param {string} message */
function told(message) {
  const text = message.charAt(0).toUpperCase() + message.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
