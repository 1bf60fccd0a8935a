/**
 * One collection on this device, without I/O: what the person edits, and what the log says.
 *
 * A record has two layers.  *Confirmed* is what the log says up to the cursor.  On top
 * lie the record's outbox rows, the person's own edits on their way into the log; the
 * person sees the last of them.  Everything here is one of four moves:
 *
 * * an **edit** puts a row on top, or replaces the top one while it is not sealed;
 * * a **change** from the log renews the confirmed layer, and takes away the row it
 *   is the arrival of; when it is another's, conditional rows on top are in *conflict*;
 * * a conflict is **settled** by the strategy, once the cursor covers the change it
 *   lost against: the rows become one that is based on the confirmed layer, or none;
 * * a **new life** of the log (restored, lost, wiped) empties the confirmed layer and
 *   keeps what the person sees; when the new life has been read, what it lacks is
 *   put on top again.  Nothing a person sees goes away because a hub is empty.
 *
 * The caller wraps every call in a storage transaction and afterwards takes the
 * `RecordChanged` with `takeChanged` or, when it was rolled back, `forgetChanged`.
 */

import { concat, equal } from "./bytes.js";
import { assert } from "./errors.js";
import { recordPlaintext } from "./sealing.js";
import { DeltaRow, OutboxRow, RecordRow, State, replace } from "./storage.js";
import { Conflict, MANUAL, MINE, MISSING, Merged, THEIRS, lastWriterWins } from "./strategies.js";
import { ID_BYTES, Kind, ZERO_ID } from "./terms.js";
import { decodeBody, encodeBody } from "./values.js";

/** @typedef {import("./storage.js").CollectionRow} CollectionRow */
/** @typedef {import("./storage.js").Storage} Storage */
/** @typedef {import("./strategies.js").Strategy} Strategy */
/** @typedef {import("./strategies.js").Answer} Answer */
/** @typedef {import("./wire/header.js").Header} Header */

export const ANCESTORS_KEPT = 32; // how many changes back a restored hub is recognised as merely older
const SEEN_KEPT = 64;
export const PARKED_BY_CONFLICT = "conflict";
const NOTHING = new Uint8Array(0);

/**
 * As the base of an edit: the person made the record.  Null says that nobody knows, as after a wipe, when devices
 * append again what all of them have: two such edits of one value are one.
 */
const WAS_NOT_THERE = NOTHING;

/** A record looks different now: its value (MISSING when it is gone), who changed it, and the values of new deltas. */
export class RecordChanged {
  /**
   * @param {string} key
   * @param {any} value
   * @param {boolean} byMe
   * @param {any[]} [deltas]
   */
  constructor(key, value, byMe, deltas = []) {
    this.key = key;
    this.value = value;
    this.byMe = byMe;
    this.deltas = deltas;
  }
}

/** @typedef {{ body: Uint8Array | null, byMe: boolean, deltas: Uint8Array[] }} Noted */

/**
 * What became of an edit made elsewhere: it is to be tried again `later`, or the body that is `shown` for it now, which
 * is not there when another value than the edit's is shown.
 * @typedef {{ later: boolean, shown?: Uint8Array | null }} Taken
 */

/** The records of one collection and their rows in the outbox. */
export class LocalCollection {
  /**
   * @param {Storage} storage
   * @param {CollectionRow} row
   * @param {(size: number) => Uint8Array} fresh gives random bytes, for change ids
   */
  constructor(storage, row, fresh) {
    this.storage = storage;
    this.row = row;
    /** @type {Strategy | null} null: no app has opened it in this run; conflicts wait */
    this.strategy = null;
    this._fresh = fresh;
    /** @type {Map<string, Noted>} */
    this._changed = new Map();
  }

  /** Its number in local storage. */
  get n() {
    return this.row.n;
  }

  /** The app's name for it; empty when only the hub has told of it. */
  get name() {
    return this.row.name ?? "";
  }

  /**
   * Keep these fields of the collection's own row.
   * @param {Partial<CollectionRow>} fields
   */
  save(fields) {
    this.row = replace(this.row, fields);
    this.storage.saveCollection(this.row);
  }

  /**
   * What changed since the last call, each record once.  A value this device cannot read is left out.
   * @returns {RecordChanged[]}
   */
  takeChanged() {
    const noted = this._changed;
    this._changed = new Map();
    return [...readable(noted)];
  }

  /** The transaction was rolled back. */
  forgetChanged() {
    this._changed = new Map();
  }

  // --- what the person sees ---

  /**
   * The record's value, or MISSING.  Throws `RangeError` for a value this device cannot read.
   * @param {string} key
   * @returns {any}
   */
  get(key) {
    const record = this.storage.record(this.n, key);
    return record ? valueOf(record.view) : MISSING;
  }

  /**
   * The keys of all records that are there.
   * @returns {string[]}
   */
  keys() {
    return this._there().map((record) => record.key);
  }

  /**
   * All records that are there, with their values; MISSING for one of deltas alone.
   * @returns {[string, any][]}
   */
  items() {
    return this._there().map((record) => [record.key, valueOf(record.view)]);
  }

  /**
   * The values added to the record since its last put: those of the log in its order, then this device's.
   * @param {string} key
   * @returns {any[]}
   */
  deltas(key) {
    const rows = this.storage.rowsOf(this.n, key);
    const top = rows.findLastIndex(isWhole);
    const bodies = top >= 0 ? [] : this.storage.deltas(this.n, key).map((delta) => delta.body);
    for (const row of rows.slice(top + 1)) {
      if (row.value !== null) bodies.push(row.value);
    }
    return bodies.map(valueOf);
  }

  /**
   * The conflicts that wait for a person.
   * @returns {Conflict[]}
   */
  conflicts() {
    const parked = this.storage.rowsIn(this.n, State.PARKED);
    return parked.filter((row) => row.reason.startsWith(PARKED_BY_CONFLICT)).map((row) => this._conflict(row));
  }

  // --- edits ---

  /**
   * Replace the record; the change's id.  Throws `RangeError` or `TypeError` for a key or value that cannot travel.
   * @param {string} key
   * @param {any} value
   * @param {number} wall
   * @returns {Uint8Array}
   */
  put(key, value, wall) {
    recordPlaintext(key, NOTHING);
    return this._edit(key, Kind.PUT, bodyOf(value, wall), wall);
  }

  /**
   * Empty the record; the zero id when there is nothing to delete.
   * @param {string} key
   * @param {number} wall
   * @returns {Uint8Array}
   */
  delete(key, wall) {
    const record = this.storage.record(this.n, key);
    if (record === null || !this._isThere(record)) return ZERO_ID;
    return this._edit(key, Kind.DELETE, null, wall);
  }

  /**
   * Replace the record and its deltas by a value that contains them.
   *
   * Only saves room: when another delta came first it is dropped, and nothing is lost.
   * @param {string} key
   * @param {any} value
   * @param {number} wall
   * @returns {Uint8Array}
   */
  snapshot(key, value, wall) {
    recordPlaintext(key, NOTHING);
    return this._edit(key, Kind.PUT, bodyOf(value, wall), wall, true);
  }

  /**
   * Add to the record; a delta never conflicts.
   * @param {string} key
   * @param {any} value
   * @param {number} wall
   * @returns {Uint8Array}
   */
  appendDelta(key, value, wall) {
    recordPlaintext(key, NOTHING);
    const body = bodyOf(value, wall);
    const record = this._record(key);
    this.storage.saveRecord(this.n, record);
    const row = this._addRow(key, Kind.DELTA, body, wall, { conditional: false });
    this._note(key, record.view, true, body);
    return row.changeId;
  }

  /**
   * A person settles a parked conflict with this value or MISSING.  Throws a `RangeError` when none is parked.
   * @param {string} key
   * @param {any} value
   * @param {number} wall
   * @returns {Uint8Array}
   */
  resolve(key, value, wall) {
    const top = this.storage.rowsOf(this.n, key).findLast((row) => row.state === State.PARKED && isWhole(row));
    if (!top) throw new RangeError(`no conflict of ${JSON.stringify(key)} waits for a person`);
    const record = this._record(key);
    const body = value === MISSING ? null : bodyOf(value, wall);
    const kind = body === null ? Kind.DELETE : Kind.PUT;
    const resolved = { kind, value: body, baseValue: record.value, reason: "" };
    this.storage.saveRow(replace(top, { ...resolved, state: State.WAITING }));
    this._layer(record, true);
    return top.changeId;
  }

  /**
   * Replace or (MISSING) empty the record by an edit that was made on `base`, outside of here: where another database
   * is the one the person edits, they may not have seen yet what is shown here.
   *
   * When `base` is what is shown, this is `put` or `delete`; otherwise the strategy decides between the edit and what
   * is shown.  What equals what is shown changes nothing, unless the strategy counts.  Throws as `put`.
   * @param {string} key
   * @param {any} value
   * @param {any} base MISSING: the record was not there; undefined: nobody knows
   * @param {number} wall
   * @returns {Taken}
   */
  putOn(key, value, base, wall) {
    recordPlaintext(key, NOTHING);
    const body = value === MISSING ? null : bodyOf(value, wall);
    const { view } = this._record(key);
    const was = baseOf(base, wall);
    // When the edit was made on another value, an equal one is a second edit to a strategy that counts.
    const counted = this.strategy?.counts && was !== null && !sameValue(was, view);
    if (sameValue(body, view) && !counted) return { later: false, shown: view };
    const answer = this.strategy === lastWriterWins ? MINE : this._judge(key, was, body, view);
    if (answer === THEIRS) return { later: false };
    if (answer === MINE) return this._shown(key, body, wall);
    if (answer instanceof Merged) return this._takeMerged(key, answer, body, wall);
    return this._hold(key, body, was, parkedFor(answer), wall);
  }

  /**
   * @param {string} key
   * @param {Uint8Array | null} body
   * @param {number} wall
   * @returns {Taken}
   */
  _shown(key, body, wall) {
    this._edit(key, body === null ? Kind.DELETE : Kind.PUT, body, wall);
    return { later: false, shown: body };
  }

  /**
   * @param {string} key
   * @param {Merged} merged
   * @param {Uint8Array | null} mine
   * @param {number} wall
   * @returns {Taken}
   */
  _takeMerged(key, merged, mine, wall) {
    const body = merged.value === MISSING ? null : bodyOf(merged.value, wall);
    if (!sameValue(body, this._record(key).view)) this._shown(key, body, wall);
    for (const [other, value] of alsoOf(merged)) this.put(other, value, wall);
    return sameValue(body, mine) ? { later: false, shown: this._record(key).view } : { later: false };
  }

  /**
   * Keep the edit for a person to decide about; later, while an edit that it was not made on is on its way.
   * @param {string} key
   * @param {Uint8Array | null} body
   * @param {Uint8Array | null} base
   * @param {string} reason
   * @param {number} wall
   * @returns {Taken}
   */
  _hold(key, body, base, reason, wall) {
    const top = this.storage.rowsOf(this.n, key).findLast(isWhole);
    if (top && top.state !== State.PARKED) return { later: true };
    const kind = body === null ? Kind.DELETE : Kind.PUT;
    const row = top ?? this._addRow(key, kind, body, wall);
    const held = { kind, value: body, baseValue: base, conditional: true, snapshot: false };
    this.storage.saveRow(replace(row, { ...held, state: State.PARKED, reason, needSeq: 0 }));
    this._layer(this._record(key), true);
    return { later: false, shown: body };
  }

  /**
   * As `resolve`, by a person who saw `seen` as the log's value.  When that is another now, the strategy decides
   * between theirs and this.
   * @param {string} key
   * @param {any} value
   * @param {any} seen
   * @param {number} wall
   */
  resolveOn(key, value, seen, wall) {
    this.resolve(key, value, wall);
    const record = this._record(key);
    const was = baseOf(seen, wall);
    const row = this.storage.rowsOf(this.n, key).findLast(isWhole);
    if (!row || sameValue(was, record.value)) return;
    this.storage.saveRow(replace(row, { state: State.CONFLICT, baseValue: was, conditional: true }));
  }

  /**
   * The edit of this record that waits for a person, with its body, and why; null when none does.
   * @param {string} key
   * @returns {{conflict: Conflict, body: Uint8Array | null, reason: string} | null}
   */
  waiting(key) {
    const row = this.storage.rowsOf(this.n, key).findLast((one) => one.state === State.PARKED && isWhole(one));
    return row ? { conflict: this._conflict(row), body: row.value, reason: row.reason } : null;
  }

  /**
   * Have the remote copies dropped, unless the log never had any.
   * @param {number} wall
   */
  addWipe(wall) {
    if (!this.storage.rowsOf(this.n, "").length && (this.row.seq || !this.row.caughtUp)) {
      this._addRow("", Kind.WIPE, null, wall, { conditional: false });
    }
  }

  /**
   * @param {string} key
   * @param {number} kind
   * @param {Uint8Array | null} body
   * @param {number} wall
   * @param {boolean} [snapshot]
   */
  _edit(key, kind, body, wall, snapshot = false) {
    const record = this._record(key);
    const rows = this.storage.rowsOf(this.n, key);
    const top = rows.at(-1);
    let row;
    if (top && isOpen(top) && isWhole(top)) {
      if (body === null && rows.length === 1 && isUnheardOf(record, top)) return this._takeBack(record, top);
      row = this._replaceTop(top, kind, body, snapshot);
    } else {
      const conditional = snapshot || this.strategy !== lastWriterWins;
      row = this._addRow(key, kind, body, wall, { base: record.view ?? WAS_NOT_THERE, conditional, snapshot });
    }
    this._save(replace(record, { local: body, dirty: true }));
    this._note(key, body, true);
    return row.changeId;
  }

  /**
   * @param {OutboxRow} top
   * @param {number} kind
   * @param {Uint8Array | null} body
   * @param {boolean} snapshot
   * @returns {OutboxRow}
   */
  _replaceTop(top, kind, body, snapshot) {
    let row = replace(top, { kind, value: body, snapshot: top.snapshot && snapshot });
    if (top.state === State.PARKED && !top.reason.startsWith(PARKED_BY_CONFLICT)) {
      // It was refused for what it was, and is another now. The log may have moved on meanwhile.
      row = replace(row, { state: State.CONFLICT, reason: "" });
    }
    this.storage.saveRow(row);
    return row;
  }

  /**
   * What never left this device needs no tombstone.
   * @param {RecordRow} record
   * @param {OutboxRow} top
   */
  _takeBack(record, top) {
    this.storage.dropRow(top.n);
    this.storage.dropRecord(this.n, record.key);
    this._note(record.key, null, true);
    return top.changeId;
  }

  // --- what the log says ---

  /**
   * A put, delete or delta of the log, in seq order.
   * @param {number} seq
   * @param {Header} header
   * @param {string} key
   * @param {Uint8Array | null} body
   * @param {boolean} byMe
   */
  change(seq, header, key, body, byMe) {
    let record = this._record(key);
    if (seq <= record.seq) return; // read a second time after `startOver`
    let rows = this.storage.rowsOf(this.n, key);
    const held = has(record.former) || (record.dirty && !rows.length); // what the person sees stays as it is
    const arrived = rows.find((row) => equal(row.changeId, header.changeId));
    if (arrived) rows = this._withoutArrived(rows, arrived);
    record = this._confirm(record, seq, header, body);
    if (!arrived && !has(record.former)) this._collide(rows, seq);
    if (held) this._save(record);
    else this._layer(record, byMe, header.kind === Kind.DELTA && !arrived ? body : null);
  }

  /**
   * What is left on top: neither the edit that came back nor what it had replaced when it was made.
   * @param {OutboxRow[]} rows
   * @param {OutboxRow} arrived
   * @returns {OutboxRow[]}
   */
  _withoutArrived(rows, arrived) {
    const gone = new Set([arrived.n]);
    if (isWhole(arrived)) {
      for (const row of rows) if (row.n < arrived.n && isWhole(row)) gone.add(row.n);
    }
    for (const n of gone) this.storage.dropRow(n);
    return rows.filter((row) => !gone.has(row.n));
  }

  /**
   * The log dropped everything before `seq`: it has no record now, and the person keeps them all.
   * @param {number} seq
   */
  wipe(seq) {
    for (const row of this.storage.rowsIn(this.n, State.ACKED)) {
      if (row.seq >= seq) continue;
      if (row.kind === Kind.DELTA && row.value !== null) {
        this.storage.saveDelta(this.n, row.key, new DeltaRow(row.changeId, 0, row.value));
      }
      this.storage.dropRow(row.n);
    }
    this._unbaseRows(seq);
    for (const record of this.storage.records(this.n)) {
      this._unconfirmDeltas(record.key);
      const empty = replace(record, { value: null, changeId: ZERO_ID, seq: 0 });
      const bare = replace(empty, { ancestors: NOTHING, former: NOTHING, seen: NOTHING });
      this._save(replace(bare, { local: record.view, dirty: true }));
    }
  }

  /**
   * The log had this draft and dropped it in a wipe: the edit stays, and goes out again when the person says so.
   *
   * When the wipe has not been read yet it waits for that, since only then is the person asked.
   * @param {OutboxRow} row
   */
  wipedAway(row) {
    const unread = row.seq ? 0 : this.row.seq + 1;
    const next = this.storage.rowsOf(this.n, row.key).find((other) => other.n > row.n && isWhole(other));
    if (row.kind === Kind.WIPE) {
      this.storage.dropRow(row.n);
    } else if (isWhole(row) && next) {
      // The next edit says all of the record. This one, sent again, would come after it and undo it.
      this.storage.dropRow(row.n);
      this.storage.saveRow(delayed(folded([row, next]), row.baseValue, unread));
    } else {
      this.storage.saveRow(delayed(loosened(row), row.baseValue, unread));
    }
  }

  /**
   * A wipe at `seq` took what these edits were made on: they are edits of nothing now, no conflicts.
   * @param {number} seq
   */
  _unbaseRows(seq) {
    for (const row of this.storage.rowsIn(this.n, State.CONFLICT)) {
      this.storage.saveRow(replace(row, { state: State.WAITING, needSeq: 0, baseValue: null }));
    }
    for (const row of this.storage.rowsIn(this.n, State.SEALED)) {
      this.storage.saveRow(replace(row, { seq, needSeq: 0, baseValue: null }));
    }
    for (const state of [State.WAITING, State.PARKED]) {
      for (const row of this.storage.rowsIn(this.n, state)) this.storage.saveRow(replace(row, { baseValue: null }));
    }
  }

  /**
   * The log forgot its tombstones up to there.
   * @param {number} upto
   */
  purge(upto) {
    for (const record of this.storage.tombstones(this.n, upto)) {
      if (!this.storage.deltas(this.n, record.key).length) this._save(replace(record, { changeId: ZERO_ID, seq: 0 }));
    }
  }

  /** The cursor has moved: rows it covers are done, also when a later change hid their arrival. */
  covered() {
    for (const row of this.storage.rowsIn(this.n, State.ACKED)) {
      if (row.seq <= this.row.seq) this.doneWith(row);
    }
  }

  /**
   * The log has, or never will have, this edit; what the person sees follows the log again.
   * @param {OutboxRow} row
   */
  doneWith(row) {
    this.storage.dropRow(row.n);
    if (row.kind !== Kind.WIPE) this._layer(this._record(row.key), false);
  }

  /**
   * Everything was read once more from 0: a confirmed record that did not come back was deleted.
   * @param {(key: string) => boolean} isLive
   */
  sweep(isLive) {
    for (const record of this.storage.records(this.n)) {
      if (isZero(record.changeId) || isLive(record.key)) continue;
      this.storage.dropDeltas(this.n, record.key, { confirmedOnly: true });
      this._collide(this.storage.rowsOf(this.n, record.key), this.row.seq);
      this._layer(replace(record, { value: null, changeId: ZERO_ID, seq: 0 }), false);
    }
  }

  /**
   * @param {RecordRow} record
   * @param {number} seq
   * @param {Header} header
   * @param {Uint8Array | null} body
   * @returns {RecordRow}
   */
  _confirm(record, seq, header, body) {
    if (header.kind === Kind.DELTA) {
      assert(body !== null, "a delta has a body");
      this.storage.saveDelta(this.n, record.key, new DeltaRow(header.changeId, seq, body));
    } else {
      this.storage.dropDeltas(this.n, record.key, { confirmedOnly: true });
      record = replace(record, { value: body });
    }
    if (has(record.former)) {
      const seen = concat(record.seen, header.base, header.changeId).slice(-SEEN_KEPT * ID_BYTES);
      return replace(record, { changeId: header.changeId, seq, seen });
    }
    const known = isZero(header.base) || equal(record.ancestors.slice(-ID_BYTES), header.base);
    const ids = known ? header.changeId : concat(header.base, header.changeId);
    return replace(record, { changeId: header.changeId, seq, ancestors: withAncestors(record.ancestors, ids) });
  }

  /**
   * Another's change came between the base of these rows and their arrival.
   * @param {OutboxRow[]} rows
   * @param {number} seq
   */
  _collide(rows, seq) {
    const first = rows.find((row) => isWhole(row) && row.state !== State.ACKED);
    if (!first || !first.conditional || first.state === State.PARKED) return;
    // A sealed row may be at the hub already, which will refuse it; what for is kept here, since the hub
    // says so only when no other refusal came first.
    const state = first.state === State.SEALED ? State.SEALED : State.CONFLICT;
    this.storage.saveRow(replace(first, { state, needSeq: seq }));
  }

  // --- conflicts ---

  /**
   * Settle every conflict that can be settled now.
   * @param {number} wall
   */
  settle(wall) {
    const rows = this.storage.rowsIn(this.n, State.CONFLICT);
    for (const row of rows) {
      // A delta only waited for the log to be read.
      if (row.kind === Kind.DELTA && row.needSeq <= this.row.seq) this.storage.saveRow(loosened(row));
    }
    for (const key of new Set(rows.filter(isWhole).map((row) => row.key))) this._settle(key, wall);
  }

  /**
   * @param {string} key
   * @param {number} wall
   */
  _settle(key, wall) {
    const rows = this.storage.rowsOf(this.n, key).filter((row) => isWhole(row) && row.state !== State.ACKED);
    const waits = rows.some((row) => row.state === State.SEALED || row.needSeq > this.row.seq);
    const onlySnapshots = rows.every((row) => row.snapshot);
    if (waits || (this.strategy === null && !onlySnapshots)) return;
    const record = this._record(key);
    const top = loosened(folded(rows));
    for (const row of rows.slice(0, -1)) this.storage.dropRow(row.n);
    const base = rows[0].baseValue;
    const isOlder = sameValue(top.value, base) && isKnownAgain(record);
    const judged = () => (isOlder ? MINE : this._judge(key, base, top.value, record.value));
    const answer = onlySnapshots ? THEIRS : judged();
    this._carryOut(answer, replace(top, { baseValue: base }), record, wall);
    this._layer(this._record(key), false);
  }

  /**
   * @param {Answer | string} answer
   * @param {OutboxRow} top
   * @param {RecordRow} record
   * @param {number} wall
   */
  _carryOut(answer, top, record, wall) {
    const rebased = replace(top, { state: State.WAITING, baseValue: record.value, needSeq: 0 });
    if (answer === THEIRS) {
      this.storage.dropRow(top.n);
    } else if (answer === MINE) {
      this.storage.saveRow(rebased);
    } else if (answer instanceof Merged) {
      this._carryOutMerged(answer, rebased, record, wall);
    } else {
      this.storage.saveRow(replace(top, { state: State.PARKED, reason: parkedFor(answer), needSeq: 0 }));
    }
  }

  /**
   * @param {Merged} merged
   * @param {OutboxRow} rebased
   * @param {RecordRow} record
   * @param {number} wall
   */
  _carryOutMerged(merged, rebased, record, wall) {
    const body = merged.value === MISSING ? null : bodyOf(merged.value, wall);
    if (sameValue(body, record.value)) this.storage.dropRow(rebased.n);
    else this.storage.saveRow(replace(rebased, { value: body, kind: body === null ? Kind.DELETE : Kind.PUT }));
    for (const [key, other] of alsoOf(merged)) this.put(key, other, wall);
  }

  /**
   * The strategy's answer, or a sentence why there is none; asked only about a real conflict.
   * @param {string} key
   * @param {Uint8Array | null} base
   * @param {Uint8Array | null} mine
   * @param {Uint8Array | null} theirs
   * @returns {Answer | string}
   */
  _judge(key, base, mine, theirs) {
    const equals = sameValue(mine, theirs);
    const counts = this.strategy?.counts && base !== null;
    if (sameValue(mine, base) || (equals && !counts)) return THEIRS;
    if ((!equals && sameValue(theirs, base)) || this.strategy === lastWriterWins) return MINE;
    try {
      const strategy = /** @type {Strategy} */ (this.strategy);
      const answer = strategy(new Conflict(key, valueOf(base), valueOf(mine), valueOf(theirs)));
      return answer instanceof Merged ? sendable(answer) : answer;
    } catch (error) {
      // The app's own code. Its fault must cost neither edit, nor hold up the other records.
      return `the strategy raised ${error instanceof Error ? error.name : typeof error}`;
    }
  }

  /**
   * @param {OutboxRow} row
   * @returns {Conflict}
   */
  _conflict(row) {
    const theirs = this._record(row.key).value;
    return new Conflict(row.key, valueOf(row.baseValue), valueOf(row.value), valueOf(theirs));
  }

  // --- a new life of the log ---

  /**
   * The log begins anew: nothing is confirmed, every row waits again, and what the person sees is held.
   * @param {Uint8Array} incarnation
   */
  newLife(incarnation) {
    for (const state of [State.SEALED, State.ACKED, State.CONFLICT]) {
      for (const row of this.storage.rowsIn(this.n, state)) this.storage.saveRow(loosened(row));
    }
    for (const record of this.storage.records(this.n)) {
      this._unconfirmDeltas(record.key);
      const last = isZero(record.changeId) ? NOTHING : record.changeId;
      const former = has(record.former) ? record.former : last;
      const dirty = record.dirty || has(former);
      const held = replace(record, { local: record.view, dirty, former, seen: NOTHING });
      this.storage.saveRecord(this.n, replace(held, { value: null, changeId: ZERO_ID, seq: 0 }));
    }
    this.save({ incarnation, seq: 0, caughtUp: false, healing: true });
  }

  /**
   * The new life has been read to its head: put on top what it lacks of what the person sees.
   * @param {number} wall
   */
  heal(wall) {
    for (const record of this.storage.formers(this.n)) this._healRecord(record, wall);
    this.save({ healing: false });
  }

  /**
   * @param {RecordRow} before
   * @param {number} wall
   */
  _healRecord(before, wall) {
    const rows = this.storage.rowsOf(this.n, before.key).filter(isWhole);
    const relation = relationOf(before);
    const ancestors = withAncestors(before.ancestors, before.seen);
    const record = replace(before, { former: NOTHING, seen: NOTHING, ancestors });
    this._save(record);
    if (relation === "lacking") {
      this._requeue(record, rows, before.former, wall);
    } else if (relation === "ahead" || (relation === "apart" && !rows.length && this.strategy === lastWriterWins)) {
      // Without an edit of its own a device does not overrule what others have written since.
      this._collide(rows, record.seq);
    } else if (relation === "apart") {
      this._oppose(record, rows, wall);
    }
    this._healDeltas(record.key, wall, relation !== "ahead");
    const current = this.storage.record(this.n, record.key);
    if (current) this._layer(current, false);
  }

  /**
   * Put on top every record the log has not got and no row brings there: after a wipe, when sync goes on.
   * @param {number} wall
   */
  requeueUnsent(wall) {
    for (const record of this.storage.records(this.n)) {
      const rows = this.storage.rowsOf(this.n, record.key).filter(isWhole);
      if (record.dirty && !rows.length) {
        if (isZero(record.changeId)) this._requeue(record, rows, NOTHING, wall);
        else this._oppose(record, rows, wall);
      }
      this._healDeltas(record.key, wall, true);
    }
  }

  /**
   * What the person sees goes onto what the log has, which is older or nothing.
   * @param {RecordRow} record
   * @param {OutboxRow[]} rows
   * @param {Uint8Array} changeId
   * @param {number} wall
   */
  _requeue(record, rows, changeId, wall) {
    if (rows.length) return; // the edit that waits brings all of the record along
    const view = record.view;
    if (view === null && isZero(record.changeId)) {
      this._save(replace(record, { local: null, dirty: false }));
      return;
    }
    // With an id it brings back what the log had, and edits nothing: whatever somebody wrote meanwhile stands.
    const base = changeId.length ? (view ?? WAS_NOT_THERE) : record.value;
    this._addRow(record.key, view === null ? Kind.DELETE : Kind.PUT, view, wall, { base, changeId });
  }

  /**
   * What the person sees and what the log has share no known base: the strategy decides, unless they are equal.
   * @param {RecordRow} record
   * @param {OutboxRow[]} rows
   * @param {number} wall
   */
  _oppose(record, rows, wall) {
    const lost = { state: State.CONFLICT, needSeq: record.seq };
    const top = rows.at(-1);
    if (sameValue(top ? top.value : record.view, record.value)) {
      for (const row of rows) this.storage.dropRow(row.n);
      this._layer(record, false);
    } else if (rows.length) {
      this.storage.saveRow(replace(rows[0], { ...lost, baseValue: null, conditional: true }));
    } else {
      const view = record.view;
      const row = this._addRow(record.key, view === null ? Kind.DELETE : Kind.PUT, view, wall);
      this.storage.saveRow(replace(row, lost));
    }
  }

  /**
   * Deltas the new life did not show are appended again, under their own ids.
   * @param {string} key
   * @param {number} wall
   * @param {boolean} keep
   */
  _healDeltas(key, wall, keep) {
    const deltas = this.storage.deltas(this.n, key);
    for (const delta of deltas) {
      if (delta.seq || !keep) continue;
      this._addRow(key, Kind.DELTA, delta.body, wall, { conditional: false, changeId: delta.changeId });
    }
    this.storage.dropDeltas(this.n, key, { confirmedOnly: false });
    for (const delta of deltas) if (delta.seq) this.storage.saveDelta(this.n, key, delta);
  }

  /** @param {string} key */
  _unconfirmDeltas(key) {
    const deltas = this.storage.deltas(this.n, key);
    for (const delta of deltas) this.storage.saveDelta(this.n, key, replace(delta, { seq: 0 }));
  }

  // --- small things ---

  /**
   * @param {string} key
   * @returns {RecordRow}
   */
  _record(key) {
    return this.storage.record(this.n, key) ?? new RecordRow({ key });
  }

  /** @returns {RecordRow[]} */
  _there() {
    return this.storage.records(this.n).filter((record) => this._isThere(record));
  }

  /** @param {RecordRow} record */
  _isThere(record) {
    return record.view !== null || this.deltas(record.key).length > 0;
  }

  /**
   * Keep the record with what the person sees now; note it when that is new.
   * @param {RecordRow} record
   * @param {boolean} byMe
   * @param {Uint8Array | null} [delta]
   */
  _layer(record, byMe, delta = null) {
    const before = this.storage.record(this.n, record.key);
    const top = this.storage.rowsOf(this.n, record.key).findLast(isWhole);
    const layered = replace(record, { local: top ? top.value : null, dirty: Boolean(top) });
    this._save(layered);
    const seen = before ? before.view : null;
    if (delta !== null || !sameBytes(seen, layered.view)) this._note(record.key, layered.view, byMe, delta);
  }

  /**
   * Keep the record, or forget it when neither the log nor the person knows anything of it.
   * @param {RecordRow} record
   */
  _save(record) {
    const empty = isZero(record.changeId) && record.view === null && !has(record.former);
    const bare = empty && !this.storage.rowsOf(this.n, record.key).length;
    if (bare && !this.storage.deltas(this.n, record.key).length) this.storage.dropRecord(this.n, record.key);
    else this.storage.saveRecord(this.n, record);
  }

  /**
   * @param {string} key
   * @param {number} kind
   * @param {Uint8Array | null} body
   * @param {number} wall
   * @param {{ base?: Uint8Array | null, conditional?: boolean, snapshot?: boolean, changeId?: Uint8Array }} [more]
   * @returns {OutboxRow}
   */
  _addRow(key, kind, body, wall, { base = null, conditional = true, snapshot = false, changeId = NOTHING } = {}) {
    return this.storage.addRow(
      new OutboxRow({
        collection: this.n,
        key,
        changeId: has(changeId) ? changeId : this._fresh(ID_BYTES),
        kind,
        value: body,
        baseValue: base,
        conditional,
        snapshot,
        writtenAt: wall,
      }),
    );
  }

  /**
   * @param {string} key
   * @param {Uint8Array | null} body
   * @param {boolean} byMe
   * @param {Uint8Array | null} [delta]
   */
  _note(key, body, byMe, delta = null) {
    const before = this._changed.get(key)?.deltas ?? [];
    this._changed.set(key, { body, byMe, deltas: delta === null ? before : [...before, delta] });
  }
}

/**
 * Whether the row says all of a record; a delta says only what is added.
 * @param {OutboxRow} row
 */
export function isWhole(row) {
  return row.kind === Kind.PUT || row.kind === Kind.DELETE;
}

/**
 * Whether the row's value may still change.
 * @param {OutboxRow} row
 */
function isOpen(row) {
  return row.state === State.WAITING || row.state === State.CONFLICT || row.state === State.PARKED;
}

/**
 * @param {RecordRow} record
 * @param {OutboxRow} top
 */
function isUnheardOf(record, top) {
  return isZero(record.changeId) && !has(record.former) && top.state === State.WAITING;
}

/**
 * How the new life's newest change of a record stands to the one this device had.
 * @param {RecordRow} record
 * @returns {"same" | "lacking" | "ahead" | "apart"}
 */
function relationOf(record) {
  if (equal(record.changeId, record.former)) return "same";
  if (isZero(record.changeId) || holds(record.ancestors, record.changeId)) return "lacking";
  return holds(record.seen, record.former) ? "ahead" : "apart";
}

/**
 * The last row, standing for all of them.
 * @param {OutboxRow[]} rows
 * @returns {OutboxRow}
 */
function folded(rows) {
  const last = rows[rows.length - 1];
  const ids = rows.slice(0, -1).flatMap((row) => [row.changeId, row.standsFor]);
  return replace(last, { standsFor: concat(last.standsFor, ...ids) });
}

/**
 * The edit, made on this value, not to be sent before the cursor covers `needSeq`.
 * @param {OutboxRow} row
 * @param {Uint8Array | null} baseValue
 * @param {number} needSeq
 * @returns {OutboxRow}
 */
function delayed(row, baseValue, needSeq) {
  const state = needSeq && row.state === State.WAITING ? State.CONFLICT : row.state;
  return replace(row, { state, baseValue, needSeq: Math.max(row.needSeq, needSeq) });
}

/**
 * @param {OutboxRow} row
 * @returns {OutboxRow}
 */
function loosened(row) {
  return replace(row, { state: State.WAITING, sealed: NOTHING, counter: 0, seq: 0, needSeq: 0 });
}

/**
 * @param {Uint8Array} ancestors
 * @param {Uint8Array} ids
 */
function withAncestors(ancestors, ids) {
  return concat(ancestors, ids).slice(-ANCESTORS_KEPT * ID_BYTES);
}

/**
 * Whether one of the joined ids is this one.
 * @param {Uint8Array} joined
 * @param {Uint8Array} id
 */
function holds(joined, id) {
  for (let at = 0; at < joined.length; at += ID_BYTES) {
    if (equal(joined.subarray(at, at + ID_BYTES), id)) return true;
  }
  return false;
}

/** @param {Uint8Array} id */
function isZero(id) {
  return equal(id, ZERO_ID);
}

/** @param {Uint8Array} bytes */
function has(bytes) {
  return bytes.length > 0;
}

/**
 * @param {any} value
 * @param {number} wall
 */
function bodyOf(value, wall) {
  return encodeBody(value, { atMs: Math.trunc(wall * 1000) });
}

/**
 * What an edit was made on; what cannot travel was never shown, so nobody knows.
 * @param {any} base
 * @param {number} wall
 */
function baseOf(base, wall) {
  if (base === undefined) return null;
  try {
    return base === MISSING ? WAS_NOT_THERE : bodyOf(base, wall);
  } catch (error) {
    if (error instanceof RangeError || error instanceof TypeError) return null;
    throw error;
  }
}

/**
 * Why a conflict waits for a person.
 * @param {Answer | string} answer
 */
function parkedFor(answer) {
  return answer === MANUAL ? PARKED_BY_CONFLICT : `${PARKED_BY_CONFLICT}: ${String(answer)}`;
}

/** @param {Uint8Array | null} body */
function valueOf(body) {
  return isNone(body) ? MISSING : decodeBody(/** @type {Uint8Array} */ (body)).value;
}

/** @param {Uint8Array | null} body */
function isNone(body) {
  return body === null || body.length === 0;
}

/**
 * Throws what `put` would throw, while nothing is written yet.
 * @param {Merged} merged
 */
function sendable(merged) {
  for (const [key, value] of alsoOf(merged)) recordPlaintext(key, encodeBody(value));
  if (merged.value !== MISSING) encodeBody(merged.value);
  return merged;
}

/**
 * The further records of a merge, by their keys; an app gives an object or a Map.
 * @param {Merged} merged
 * @returns {Iterable<[string, any]>}
 */
function alsoOf(merged) {
  return merged.also instanceof Map ? merged.also : Object.entries(merged.also);
}

/**
 * @param {Uint8Array | null} one
 * @param {Uint8Array | null} other
 */
function sameBytes(one, other) {
  return one === null || other === null ? one === other : equal(one, other);
}

/**
 * Whether two bodies hold the same value; the writing device's clock does not count.
 * @param {Uint8Array | null} one
 * @param {Uint8Array | null} other
 */
function sameValue(one, other) {
  if (one === null || other === null || isNone(one) || isNone(other)) return isNone(one) && isNone(other);
  if (equal(one, other)) return true;
  try {
    return equal(encodeBody(decodeBody(one).value), encodeBody(decodeBody(other).value));
  } catch (error) {
    if (error instanceof RangeError || error instanceof TypeError) return false;
    throw error;
  }
}

/**
 * @param {Map<string, Noted>} noted
 * @returns {Generator<RecordChanged>}
 */
function* readable(noted) {
  for (const [key, { body, byMe, deltas }] of noted) {
    let changed;
    try {
      changed = new RecordChanged(key, valueOf(body), byMe, deltas.map(valueOf));
    } catch (error) {
      if (error instanceof RangeError) continue;
      throw error;
    }
    yield changed;
  }
}

/**
 * Whether the log's newest change of a record is one that was replaced in a former life of it: another device that had
 * heard of nothing newer brought it back.
 * @param {RecordRow} record
 */
function isKnownAgain({ ancestors, changeId }) {
  let times = 0;
  for (let at = 0; at < ancestors.length; at += ID_BYTES) {
    if (equal(ancestors.subarray(at, at + ID_BYTES), changeId)) times += 1;
  }
  return times > 1;
}
