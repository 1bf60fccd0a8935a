/**
 * Turns an error into a sentence that says what to do next.
 */

/** @type {Record<string, string>} by the hub's codes */
const REFUSED = {
  enrol_failed: "That code is not right, or it is too old. Look at the newest mail, or ask for a new code.",
  slow_down: "Too many codes were asked for.",
  bad_address: "That does not look like an e-mail address. Please check it.",
  probation: "This device is still new here. Let an older device approve it (Sync, Devices), then try again.",
  forbidden: "This device may not do that. Try it on an older device.",
  fresh_code_needed: "For this the hub wants a new code. Sign in again first.",
  too_many: "A limit of this hub is reached. Remove a device you no longer use, then try again.",
  quota_exceeded: "The hub has no more room for you. Delete what you no longer need.",
  overloaded: "The hub is busy. Try again in a minute.",
  unavailable: "The hub cannot reach its database. Try again in a minute; your texts are safe here.",
  rate_limited: "That was a little fast. Wait a moment and try again.",
  internal: "Something went wrong in the hub. Try again in a minute.",
};

/** @param {unknown} error @returns {string} */
export function sentence(error) {
  const { name = "", code = "", message = "", retryAfterS = 0 } = /** @type {any} */ (error ?? {});
  if (code === "slow_down") return `${REFUSED.slow_down} Wait ${waiting(retryAfterS)}, then ask again.`;
  if (typeof code === "string" && REFUSED[code]) return REFUSED[code];
  if (name === "ConnectionError" || name === "Closed")
    return "The hub cannot be reached. Check the connection and try again; your texts are safe here.";
  if (name === "TimeoutError") return "The hub did not answer in time. Try again.";
  if (name === "NotAllowedError") return "The camera is not allowed here. Allow it in the browser, or type the code.";
  if (name === "NotFoundError" && /device/i.test(message))
    return "There is no camera on this device. Type the code instead.";
  if (name === "QuotaExceededError")
    return "This device has no room left. Free some space, or your last words may be lost.";
  if (message) return /[.!?]$/.test(message) ? capital(message) : `${capital(message)}.`;
  return "That did not work. Try again.";
}

/** @param {number} seconds */
function waiting(seconds) {
  if (!seconds) return "some minutes";
  if (seconds <= 90) return "a minute";
  return `${Math.ceil(seconds / 60)} minutes`;
}

/** @param {string} text */
function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
