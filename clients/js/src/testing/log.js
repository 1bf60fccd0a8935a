/**
 * One collection's log as an honest hub keeps it, in memory, without I/O: seqs, receipts, what is live, what is kept.
 */

import { equal, hex } from "../bytes.js";
import { COLLECTION_KINDS, Kind, ZERO_ID } from "../terms.js";
import { parseHeader } from "../wire/header.js";

/** @typedef {import("../wire/header.js").Header} Header */
/** @typedef {{ seq?: number, code?: string, newestSeq?: number, newestId?: Uint8Array }} Answer as in `appended` */

export class Log {
  constructor() {
    this.head = 0;
    /** Sealed changes by seq. @type {Map<number, Uint8Array>} */
    this.kept = new Map();
    /** When each came, in milliseconds. @type {Map<number, number>} */
    this.appendedAtMs = new Map();
    /** The live seqs of each record. @type {Map<string, number[]>} */
    this.live = new Map();
    /** The last of each device. @type {Map<string, number>} */
    this.counters = new Map();
    /** By device and counter; none of what was wiped. @type {Map<string, { seq: number, sealed: Uint8Array }>} */
    this.receipts = new Map();
    /** The newest of each device. @type {Map<string, Uint8Array>} */
    this.witnesses = new Map();
    this.usedBytes = 0;
  }

  /** The same log once more, going its own way from here. */
  copy() {
    const twin = new Log();
    twin.head = this.head;
    twin.usedBytes = this.usedBytes;
    twin.kept = new Map(this.kept);
    twin.appendedAtMs = new Map(this.appendedAtMs);
    twin.live = new Map([...this.live].map(([recordId, seqs]) => [recordId, [...seqs]]));
    twin.counters = new Map(this.counters);
    twin.receipts = new Map(this.receipts);
    twin.witnesses = new Map(this.witnesses);
    return twin;
  }

  /**
   * The newest live change of a record, its seq and id; 0 and the zero id when there is none.
   *
   * @param {Uint8Array} recordId
   * @returns {[number, Uint8Array]}
   */
  newest(recordId) {
    const seq = this.live.get(hex(recordId))?.at(-1);
    return seq ? [seq, this._header(seq).changeId] : [0, ZERO_ID];
  }

  /**
   * The answer to this draft, the same each time it comes, and whether it got its place only now.
   *
   * @param {Uint8Array} sealed @param {number} [nowMs]
   * @returns {[Answer, boolean]}
   */
  append(sealed, nowMs = 0) {
    const header = parseHeader(sealed);
    const device = hex(header.deviceId);
    const receipt = `${device} ${header.counter}`;
    const last = this.counters.get(device) ?? 0;
    if (header.counter <= last) return [this._again(this.receipts.get(receipt), sealed), false];
    if (header.counter !== last + 1) return [{ code: "out_of_order" }, false];
    const [newestSeq, newestId] = this.newest(header.recordId);
    if (header.conditional && !equal(header.base, newestId)) return [{ code: "conflict", newestSeq, newestId }, false];
    this.head += 1;
    this._makeLive(header);
    this.kept.set(this.head, sealed);
    this.usedBytes += sealed.length;
    this.appendedAtMs.set(this.head, nowMs);
    this.counters.set(device, header.counter);
    this.receipts.set(receipt, { seq: this.head, sealed });
    return [{ seq: this.head }, true];
  }

  /** What a cold device is sent. */
  liveSeqs() {
    const seqs = new Set([...this.live.values()].flat());
    for (const seq of this.kept.keys()) if (COLLECTION_KINDS.has(this._header(seq).kind)) seqs.add(seq);
    return seqs;
  }

  /**
   * The seqs of a record's kept changes, newest first.
   *
   * @param {Uint8Array} recordId
   */
  history(recordId) {
    return [...this.kept.keys()].filter((seq) => equal(this._header(seq).recordId, recordId)).reverse();
  }

  /** Drop what was replaced: the history window has passed. */
  compact() {
    const live = this.liveSeqs();
    for (const seq of [...this.kept.keys()]) if (!live.has(seq)) this._drop(seq);
  }

  /**
   * @param {{ seq: number, sealed: Uint8Array } | undefined} first @param {Uint8Array} sealed
   * @returns {Answer}
   */
  _again(first, sealed) {
    if (!first) return { code: "wiped" };
    return equal(first.sealed, sealed) ? { seq: first.seq } : { code: "device_cloned" };
  }

  /** @param {Header} header */
  _makeLive(header) {
    const record = hex(header.recordId);
    if (header.kind === Kind.WIPE) {
      for (const gone of [this.kept, this.appendedAtMs, this.live, this.receipts, this.witnesses]) gone.clear();
      this.usedBytes = 0;
    } else if (header.kind === Kind.PURGE) {
      this._purge(header.upto);
    } else if (header.kind === Kind.DELTA) {
      this.live.set(record, [...(this.live.get(record) ?? []), this.head]);
    } else {
      this.live.set(record, [this.head]);
    }
  }

  /** @param {number} upto */
  _purge(upto) {
    for (const [recordId, seqs] of this.live) {
      const gone = seqs.filter((seq) => seq <= upto && this._header(seq).kind === Kind.DELETE);
      this.live.set(recordId, seqs.filter((seq) => !gone.includes(seq)));
      for (const seq of gone) this._drop(seq);
    }
  }

  /** @param {number} seq */
  _drop(seq) {
    this.usedBytes -= this.kept.get(seq)?.length ?? 0;
    this.kept.delete(seq);
    this.appendedAtMs.delete(seq);
  }

  /** @param {number} seq */
  _header(seq) {
    return parseHeader(/** @type {Uint8Array} */ (this.kept.get(seq)));
  }
}
