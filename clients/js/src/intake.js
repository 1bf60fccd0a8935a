/**
 * What the hub shows of one collection, without I/O: opened, checked, and only then taken over.
 *
 * A page is taken over as a whole or not at all: the records, the cursor and the state
 * of the sync check change in one transaction of the caller.  Whatever cannot be true
 * throws `CheckFailed`; the caller rolls back, keeps the alarm, and shows it.
 */

import { equal } from "./bytes.js";
import { CheckFailed, SyncCheck, emptyState, packState, unpackState } from "./check.js";
import { assert } from "./errors.js";
import { Unopenable, WrongRecord, openSealed, splitRecord } from "./sealing.js";
import { State, replace } from "./storage.js";
import { ID_BYTES, Kind, ZERO_ID } from "./terms.js";

/** @typedef {import("./collection.js").LocalCollection} LocalCollection */
/** @typedef {import("./keys.js").SpaceKeys} SpaceKeys */
/** @typedef {import("./storage.js").CollectionRow} CollectionRow */
/** @typedef {import("./wire/header.js").Header} Header */
/** @typedef {import("./wire/messages.js").ChangePart} ChangePart */
/** @typedef {import("./wire/messages.js").Received<"changes">} Changes */

/** @typedef {{ seq: number, header: Header, key: string, body: Uint8Array | null }} Entry */

/** The hub left out the bytes of a change that this device does not hold; a new connection brings them. */
export class DraftMissing extends Error {}

/** The receiving side of one collection, with its sync check. */
export class Intake {
  /**
   * @param {LocalCollection} local
   * @param {SpaceKeys} keys
   * @param {Uint8Array} deviceId
   */
  constructor(local, keys, deviceId) {
    this.local = local;
    this._keys = keys;
    this._deviceId = deviceId;
    assert(local.row.collectionId !== null, "a collection without an id was let in");
    this.collectionId = local.row.collectionId;
    this._live = local.storage.liveSet(local.n);
    this.check = this._kept();
  }

  /** Take the check's state from storage: after a start, or after a transaction was rolled back. */
  reload() {
    this.check = this._kept();
  }

  _kept() {
    const packed = this.local.row.check;
    const state = packed.length ? unpackState(packed) : emptyState();
    return new SyncCheck(this._keys, this.collectionId, this._deviceId, state, this._live);
  }

  // --- where the log begins ---

  /**
   * The hub's log is this one, reaches `head`, and holds this device's changes up to `counter`.
   *
   * `granted` is how far the device that added this one had it.  Throws `CheckFailed` when a log this device knows
   * went back, or knows more of this device than it did itself.
   * @param {Uint8Array} incarnation
   * @param {number} head
   * @param {number} counter
   * @param {number} [granted]
   */
  subscribed(incarnation, head, counter, granted = 0) {
    const row = this.local.row;
    if (head < granted) {
      throw this._alarm("rollback", `the head is ${head} and was ${granted} for the device that added this one`);
    }
    if (!equal(row.incarnation, incarnation)) {
      this._beginLife(incarnation, counter);
      return;
    }
    this.check.headSeen(head);
    if (counter < row.answered) {
      throw this._alarm("rollback", `the hub has ${counter} of ${row.answered} changes of this device`);
    }
    if (counter > row.counter) {
      throw this._alarm("clone", `the hub has ${counter} changes of this device, which made ${row.counter}`);
    }
    // Also of drafts whose answer was lost, and whose rows went when another device's copy arrived.
    if (counter > row.answered) this._save({ answered: counter });
  }

  /**
   * The hub says that its head is where this device stands.  Throws `CheckFailed`.
   * @param {number} head
   */
  caughtUp(head) {
    this.check.caughtUp(head);
    this._save({ caughtUp: true });
  }

  /**
   * @param {Uint8Array} incarnation
   * @param {number} counter
   */
  _beginLife(incarnation, counter) {
    if (!equal(this.local.row.incarnation, ZERO_ID)) this.local.newLife(incarnation);
    this.check.newLife(incarnation);
    // A log that was restored to an earlier state knows fewer of this device's changes.
    this._save({ incarnation, counter, answered: counter, witnessSeq: 0 });
  }

  // --- pages ---

  /**
   * Take over one frame; the devices that wiped in it what was here, in order.
   *
   * Throws `CheckFailed` or `DraftMissing`; the caller rolls back.
   * @param {Changes} frame
   * @param {number} wall
   * @returns {Uint8Array[]}
   */
  page(frame, wall) {
    const own = this._ownDrafts(frame.changes);
    const entries = frame.changes.map((change) => this._entry(change, own));
    const headers = entries.map(({ seq, header }) => /** @type {[number, Header]} */ ([seq, header]));
    this.check.page(frame.after, frame.upto, frame.head, headers);
    const wipers = entries.filter(({ header }) => header.kind === Kind.WIPE).map(({ header }) => header.deviceId);
    const hadIt = wipers.length > 0 && this._hasBeenRead();
    for (const entry of entries) this._takeOver(entry);
    this._save({ seq: frame.upto });
    this.local.covered();
    this.local.settle(wall);
    return hadIt ? wipers : [];
  }

  /**
   * Whether the collection must be read again from 0, and if so, be ready for it.
   * @returns {boolean}
   */
  startOver() {
    if (!this.check.state.mustStartOver) return false;
    this.check.startOver();
    this._save({ seq: 0, caughtUp: false });
    return true;
  }

  /**
   * The head is reached for the first time since 0: what did not come back is settled.
   * @param {number} wall
   */
  finish(wall) {
    const local = this.local;
    if (local.row.healing) local.heal(wall);
    else local.sweep((key) => this._live.get(this._keys.recordId(this.collectionId, key)).length > 0);
    local.settle(wall);
  }

  /** A device that never had the collection has nothing to be asked about, and nothing to append again. */
  _hasBeenRead() {
    const { n, caughtUp, healing } = this.local.row;
    return caughtUp || healing || this.local.storage.records(n).some((record) => !equal(record.changeId, ZERO_ID));
  }

  /**
   * @param {ChangePart} change
   * @param {Map<number, Uint8Array>} own
   * @returns {Entry}
   */
  _entry(change, own) {
    const sealed = change.sealed.length ? change.sealed : /** @type {Uint8Array} */ (own.get(change.seq));
    const entry = this._opened(change.seq, sealed);
    const { header } = entry;
    const made = this.local.row.counter;
    if (isAboutRecord(header) && equal(header.deviceId, this._deviceId) && header.counter > made) {
      const detail = `this device made ${made} changes, the hub shows number ${header.counter}`;
      throw this._alarm("clone", detail, change.seq);
    }
    return entry;
  }

  /**
   * @param {number} seq
   * @param {Uint8Array} sealed
   * @returns {Entry}
   */
  _opened(seq, sealed) {
    try {
      const opened = openSealed(this._keys, sealed, { collectionId: this.collectionId });
      const { header } = opened;
      if (!isAboutRecord(header)) return { seq, header, key: "", body: null };
      const [key, body] = splitRecord(this._keys, opened);
      return { seq, header, key, body: header.kind === Kind.DELETE ? null : body };
    } catch (error) {
      if (error instanceof WrongRecord) throw this._alarm("record_mismatch", error.message, seq);
      if (error instanceof Unopenable) throw this._alarm("forged", error.message, seq);
      throw error;
    }
  }

  /**
   * The drafts of this very connection among them, by seq: the hub does not send their bytes back.
   * @param {ChangePart[]} changes
   * @returns {Map<number, Uint8Array>}
   */
  _ownDrafts(changes) {
    const wanted = new Set(changes.filter((change) => !change.sealed.length).map((change) => change.seq));
    /** @type {Map<number, Uint8Array>} */
    const found = new Map();
    if (!wanted.size) return found;
    for (const row of this.local.storage.rowsIn(this.local.n, State.ACKED)) {
      if (wanted.has(row.seq)) found.set(row.seq, row.sealed);
    }
    for (const seq of wanted) if (!found.has(seq)) throw new DraftMissing(`seq ${seq}`);
    return found;
  }

  /** @param {Entry} entry */
  _takeOver({ seq, header, key, body }) {
    const local = this.local;
    const byMe = equal(header.deviceId, this._deviceId);
    // Kept with the cursor, when the page is through.
    if (byMe && header.counter > local.row.answered) local.row = replace(local.row, { answered: header.counter });
    if (header.kind === Kind.WIPE) {
      local.wipe(seq);
      this._dropRow(header.changeId);
    } else if (header.kind === Kind.PURGE) {
      local.purge(header.upto);
    } else if (isAboutRecord(header)) {
      local.change(seq, header, key, body, byMe);
    } // a keyring speaks to whoever changes app keys; the check has counted it
  }

  /** @param {Uint8Array} changeId */
  _dropRow(changeId) {
    const row = this.local.storage.rowOfChange(changeId);
    if (row) this.local.storage.dropRow(row.n);
  }

  // --- witnesses ---

  /**
   * What other devices state about this collection.  Throws `CheckFailed`.
   * @param {Uint8Array[]} sealed
   */
  witnesses(sealed) {
    for (const witness of sealed) this.check.witnessSeen(witness, this.local.row.counter);
    this._save();
  }

  /**
   * This device's next witness, or null when it has nothing exact to state; the counter is kept before.
   * @param {Uint8Array} random
   * @param {number} nowMs
   * @returns {Uint8Array | null}
   */
  makeWitness(random, nowMs) {
    const witnessCounter = this.local.row.witnessCounter + 1;
    const [changeId, nonce] = [random.slice(0, ID_BYTES), random.slice(ID_BYTES)];
    const sealed = this.check.makeWitness(witnessCounter, changeId, nonce, nowMs);
    if (sealed !== null) this._save({ witnessCounter });
    return sealed;
  }

  /**
   * How far each other device has said that it is, by the device id in hex.
   * @returns {Map<string, number>}
   */
  witnessedSeqs() {
    return new Map([...this.check.state.witnesses].map(([deviceId, witnessed]) => [deviceId, witnessed.seq]));
  }

  // --- small things ---

  /**
   * @param {string} name
   * @param {string} detail
   * @param {number} [seq]
   */
  _alarm(name, detail, seq = 0) {
    return new CheckFailed({ name, collectionId: this.collectionId, detail, seq });
  }

  /** @param {Partial<CollectionRow>} [fields] */
  _save(fields = {}) {
    this.local.save({ ...fields, check: packState(this.check.state) });
  }
}

/** @param {Header} header */
function isAboutRecord({ kind }) {
  return kind === Kind.PUT || kind === Kind.DELETE || kind === Kind.DELTA;
}
