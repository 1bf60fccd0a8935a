/**
 * Where a hub is: what a person types, and what is dialled and signed, without I/O.
 */

import { PATH } from "./terms.js";

/**
 * The hub's URL as it is dialled and signed, `wss://host[:port]/v1/ws`.  Throws RangeError, a sentence.
 *
 * @param {string} text
 * @returns {string}
 */
export function canonicalUrl(text) {
  /** @type {Record<string, string>} */
  const schemes = { "http:": "ws", "ws:": "ws", "https:": "wss", "wss:": "wss" };
  let url;
  try {
    url = new URL(text.includes("://") ? text : `https://${text}`);
  } catch {
    throw new RangeError(`"${text}" is no URL`);
  }
  const scheme = Object.hasOwn(schemes, url.protocol) ? schemes[url.protocol] : "";
  if (!scheme || !url.hostname || !["", "/", PATH].includes(url.pathname)) {
    throw new RangeError(`"${text}" is no address of a hub, like https://hub.example.org`);
  }
  if (scheme === "ws" && !isThisMachine(url.hostname)) {
    throw new RangeError(`"${text}": without TLS a hub is dialled on this machine only; write https://`);
  }
  return `${scheme}://${url.host}${PATH}`; // a URL leaves out the port that is its scheme's own
}

/** The address as `canonicalUrl` has it; empty for what is none: a hub may say anything.  @param {string} text */
export function addressOrNone(text) {
  try {
    return canonicalUrl(text);
  } catch {
    return "";
  }
}

/** Whether a host is the machine this runs on.  @param {string} host */
export function isThisMachine(host) {
  return host === "localhost" || host === "[::1]" || /^127(\.\d+){3}$/.test(host);
}
