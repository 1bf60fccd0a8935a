/**
 * What the thinking side of a connection wants done, in order; the shell around it (`connection.js`) does it.
 */

/** Put this frame on the line. */
export class Send {
  /** @param {Uint8Array} frame */
  constructor(frame) {
    this.frame = frame;
  }
}

/**
 * Sign these bytes, with the device's key (`purpose` "auth") or the space's ("space"); answered by `Engine.signed`.
 * Signatures are asynchronous where keys cannot be read.
 */
export class Sign {
  /**
   * @param {"auth" | "space"} purpose
   * @param {Uint8Array} bytes
   * @param {number} token
   */
  constructor(purpose, bytes, token) {
    this.purpose = purpose;
    this.bytes = bytes;
    this.token = token;
  }
}

/**
 * Close the connection; come back later, or (`retry` false) only when asked to.
 *
 * `politely` lets what was sent before arrive; otherwise the line may be dead, and is cut.
 */
export class Hangup {
  /**
   * @param {string} reason
   * @param {{ retry?: boolean, afterS?: number, politely?: boolean }} [more]
   */
  constructor(reason, { retry = true, afterS = 0, politely = false } = {}) {
    this.reason = reason;
    this.retry = retry;
    this.afterS = afterS;
    this.politely = politely;
  }
}

/** Records of a collection look different now. */
export class Changed {
  /**
   * @param {string} collection
   * @param {import("./collection.js").RecordChanged[]} changes
   */
  constructor(collection, changes) {
    this.collection = collection;
    this.changes = changes;
  }
}

/** The answer to a `request`: a message, `refused` among them. */
export class Answered {
  /**
   * @param {number} number
   * @param {import("./wire/messages.js").FromHub} message
   */
  constructor(number, message) {
    this.number = number;
    this.message = message;
  }
}

/** Another device dropped the remote copies; local data is kept and sync is off. */
export class Wiped {}

/** An ephemeral message of another device of the space. */
export class SignalCame {
  /**
   * @param {Uint8Array} deviceId
   * @param {Uint8Array} body
   */
  constructor(deviceId, body) {
    this.deviceId = deviceId;
    this.body = body;
  }
}

/** A frame of the device this one pairs with, or of somebody who says so. */
export class PairingCame {
  /**
   * @param {Uint8Array} channel
   * @param {Uint8Array} body
   */
  constructor(channel, body) {
    this.channel = channel;
    this.body = body;
  }
}

/** Something happened on the account. */
export class AccountChanged {
  /** @param {import("./wire/messages.js").Received<"account_notice">} notice */
  constructor(notice) {
    this.notice = notice;
  }
}

/** Something that a status, or somebody who waits, may depend on has moved. */
export class Moved {}

/**
 * @typedef {Send | Sign | Hangup | Changed | Answered | Wiped | SignalCame | PairingCame | AccountChanged
 *   | Moved} Effect
 */
