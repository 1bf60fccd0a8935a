/**
 * What a hub refuses and closes for, each with its code on the wire.
 *
 *     HubError
 *     ├── Refusal            answers one request; the session lives
 *     └── Closing            ends the connection
 *                            4000-4499: come back with backoff
 *                            4500-4999: stop and tell the person
 *
 * Every code is in docs/protocol.md "Errors"; a test compares the two lists.  What
 * Python raises as ValueError is a RangeError here, TypeError stays TypeError, and an
 * AssertionError is a mistake of our own.
 */

/** Base of everything the hub refuses or closes for. */
export class HubError extends Error {
  get name() {
    return this.constructor.name;
  }
}

/** Answers one request.  `code` is protocol, `message` is for people and may change. */
export class Refusal extends HubError {
  /**
   * @param {string} code one of `REFUSALS`, or one that a newer hub knows
   * @param {string} [message]
   * @param {{ retry?: boolean, retryAfterS?: number | null }} [more]
   */
  constructor(code, message = "", { retry, retryAfterS = null } = {}) {
    const kind = Object.hasOwn(REFUSALS, code) ? REFUSALS[code] : { retry: false, message: code };
    super(message || kind.message);
    this.code = code;
    this.retry = retry ?? kind.retry;
    this.retryAfterS = retryAfterS;
  }
}

/** Ends the connection with a close code; nothing that was pending is answered. */
export class Closing extends HubError {
  /**
   * @param {string} closing a name of `CLOSINGS`
   * @param {string} [reason]
   */
  constructor(closing, reason = "") {
    assert(Object.hasOwn(CLOSINGS, closing), `no closing is named ${closing}`);
    super(`${CLOSINGS[closing].code} ${reason || closing}`);
    this.code = CLOSINGS[closing].code;
    this.closing = closing;
    this.reason = reason || closing;
  }
}

/** A pairing came to nothing; `fault` is one of `PAIRING_FAULTS`, the message a sentence for the person. */
export class PairingFailed extends Error {
  /** @param {keyof typeof PAIRING_FAULTS} fault */
  constructor(fault) {
    super(PAIRING_FAULTS[fault]);
    this.fault = fault;
  }

  get name() {
    return "PairingFailed";
  }
}

/** What a device says when the hub knows it as another account's. */
export const ANOTHER_ACCOUNT = "the hub took this device into another account";

/** A mistake of our own, found where it was made; never thrown for what came from outside. */
export class AssertionError extends Error {
  get name() {
    return "AssertionError";
  }
}

/**
 * Throws AssertionError unless `condition` holds.
 * @param {unknown} condition
 * @param {string} sentence
 * @returns {asserts condition}
 */
export function assert(condition, sentence) {
  if (!condition) throw new AssertionError(sentence);
}

/**
 * Whether a device should come back after this close code, known or not.  1009, a frame too large for this point of
 * the connection, is a fault of the client.
 * @param {number} code
 * @returns {boolean}
 */
export function comesBack(code) {
  return code !== 1009 && code < 4500;
}

/** @typedef {{ retry: boolean, message: string }} RefusalKind can the same request succeed later, and what helps */
/** @typedef {{ code: number, message: string }} ClosingKind the band of `code` tells whether to come back */

/** @type {Readonly<Record<string, RefusalKind>>} */
export const REFUSALS = Object.freeze({
  // the request itself
  bad_request: { retry: false, message: "a field is missing, of the wrong type, or out of bounds" },
  unknown_message: { retry: false, message: "this hub does not know that message" },
  out_of_turn: { retry: false, message: "that message has no place at this point of the connection" },
  rate_limited: { retry: true, message: "too many messages; wait and send again" },
  overloaded: { retry: true, message: "the hub is busy; wait and send again" },
  internal: { retry: true, message: "something went wrong in the hub; nothing was answered" },
  unavailable: { retry: true, message: "the store did not answer; sending again is safe" },
  too_many: { retry: false, message: "a limit of this hub is reached; see the message" },
  // signing in
  enrol_failed: { retry: false, message: "the code is wrong, expired or used up" },
  bad_device_key: { retry: false, message: "the device key is not a valid Ed25519 public key" },
  device_exists: { retry: false, message: "this device id or key is enrolled already" },
  bad_address: { retry: false, message: "that is not one e-mail address this hub can use" },
  slow_down: { retry: true, message: "too many codes were asked for; wait and ask again" },
  // rights
  not_found: { retry: false, message: "there is no such thing on this account" },
  no_space_proof: { retry: false, message: "enter the space first: prove that you hold its key" },
  bad_space_proof: { retry: false, message: "the signature does not prove that you hold the space's key" },
  stale_key_epoch: { retry: false, message: "the space has a newer app key; learn it first" },
  forbidden: { retry: false, message: "this device's scope does not allow that" },
  probation: { retry: false, message: "this device is on probation; an older device can approve it" },
  fresh_code_needed: { retry: false, message: "type a new code from the e-mail first" },
  operator_code_needed: { retry: false, message: "enter the code of the authenticator app first" },
  wrong_code: { retry: false, message: "that code is wrong, or was used already; wait for the next one" },
  // one draft of an append
  bad_draft: { retry: false, message: "the sealed header does not fit this session, space or collection" },
  too_large: { retry: false, message: "the draft is larger than this hub takes" },
  conflict: { retry: false, message: "the record's newest change is not the base of this draft" },
  out_of_order: { retry: false, message: "an earlier draft is missing; seal anew and send in order" },
  device_cloned: { retry: false, message: "this counter was used for other bytes; take a new device identity" },
  wiped: { retry: false, message: "this draft was appended and has since been wiped" },
  quota_exceeded: { retry: false, message: "the account is full; deleting data or a larger quota helps" },
  atomic_refused: { retry: false, message: "another draft of the same all-or-nothing append was refused" },
});

/** @type {Readonly<Record<string, ClosingKind>>} */
export const CLOSINGS = Object.freeze({
  going_away: { code: 4000, message: "the hub is restarting; come back" },
  too_slow: { code: 4001, message: "hello or auth did not arrive in time" },
  heartbeat_lost: { code: 4002, message: "no answer to the hub's ping" },
  slow_consumer: { code: 4008, message: "the device reads too slowly" },
  internal: { code: 4011, message: "something went wrong in the hub" },
  overloaded: { code: 4013, message: "the hub has too many sessions" },
  moving: { code: 4014, message: "the account is being moved to another hub; come back" },
  rate_limited: { code: 4029, message: "too many messages after being asked to slow down" },
  malformed: { code: 4500, message: "a frame was not a message of this protocol" },
  auth_failed: { code: 4501, message: "unknown device, wrong signature or wrong hub address" },
  revoked: { code: 4503, message: "this device was revoked" },
  account_deleted: { code: 4504, message: "the account was deleted" },
  suspended: { code: 4505, message: "the operator has suspended the account" },
  moved: { code: 4506, message: "the account lives at another hub now" },
  replaced: { code: 4509, message: "the same device connected elsewhere" },
  version: { code: 4510, message: "no protocol version in common" },
});

/** Why a pairing comes to nothing; found on the devices, unknown to the hub. */
export const PAIRING_FAULTS = Object.freeze({
  cancelled: "Pairing was cancelled.",
  expired: "Pairing took too long; please start again with a new code.",
  wrong_digits: "These are not the six digits of the other device. Nothing was handed over.",
  interfered: "What came over the hub was not made by the device with this code. Nothing was handed over.",
  two_devices: "Two devices have used the same pairing code. Nothing was handed over; please make a new code.",
  other_app: "That device belongs to another app.",
  other_key: "That device's key opens other data than this device has.",
  other_account: "The hub took this device into another account than the one it was added to.",
});
