/**
 * Carries out a pairing on a line: frames out and in, enrolling, keeping the key, and the person's answers.
 *
 * What it means is thought in `pairing.js`; here it meets a client.  Both rooms are loaded only when two devices are
 * about to pair: `HubClient.pair`.
 */

import { equal } from "./bytes.js";
import { ConnectionError } from "./connection.js";
import { assert, PairingFailed } from "./errors.js";
import {
  Failed, Giver, Hand, HEADS_MAX, Named, Paired, parsePairingCode, Show, Take, Taker, Vouch,
} from "./pairing.js";

export const SIGN_OF_LIFE_EVERY_S = 25; // while a device waits for its pairing; proxies cut silent lines

/** @typedef {import("./connection.js").Errand} Errand */
/** @typedef {import("./index.js").HubClient} HubClient */
/** @typedef {import("./pairing.js").Effect} Effect */
/** @typedef {import("./pairing.js").Grant} Grant */

/**
 * What a pairing needs of the hub and of this device.  Each may throw Refusal or ConnectionError.
 *
 * @typedef {object} Line
 * @property {(body: Uint8Array) => void} hand hand a frame to the other device
 * @property {(deviceId: Uint8Array, devicePk: Uint8Array) => Promise<void>} vouch enrol the other device; durable when
 *   it resolves
 * @property {(grant: Grant, accountId: Uint8Array, wanted: () => boolean) => Promise<void>} take
 *   prove this device in that account and keep the key, unless it is not `wanted` any more; durable when it resolves
 */

/**
 * One pairing under way.  On the device whose code is shown:
 *
 *     const pairing = await client.pair();
 *     show(pairing.code);                           // as QR and text
 *     await pairing.confirm(await ask("The six digits that the other device shows:"));
 *     await pairing.done;
 *
 * On the one that scans it: `client.pair({ scanned })`; it shows `await pairing.digits`, and where it has the key its
 * person agrees: `pairing.agree()`.
 */
export class PairingHandle {
  /**
   * Use `HubClient.pair`.
   *
   * @param {Giver | Taker} side @param {Line} line @param {() => number} steady
   */
  constructor(side, line, steady) {
    this._side = side;
    this._line = line;
    this._over = false;
    this._digits = settled();
    this._name = settled();
    this._done = settled();
    /** @type {Promise<void>} */
    this._work = Promise.resolve();
    if (side instanceof Taker) this._name.resolve(side.name);
    this._timer = setTimeout(() => this._step(() => side.timerFired(side.endsAt)), (side.endsAt - steady()) * 1000);
  }

  /** `giver`: this device has the key and adds the other one; `taker`: it is added. */
  get role() {
    return this._side.hasKey ? "giver" : "taker";
  }

  /** Where the two meet. */
  get channel() {
    return this._side.channel;
  }

  /** `CODE/HOST`, for a QR code or to be copied; empty where the other device's code was scanned. */
  get code() {
    return this._side.shows ? this._side.code : "";
  }

  /** The six digits, once the other device is there.  Rejects as `done`. @type {Promise<string>} */
  get digits() {
    return this._digits.promise;
  }

  /**
   * What the device that is added is called, once that is sure; of any characters, so show it with care.  Rejects as
   * `done`.
   *
   * @type {Promise<string>}
   */
  get takerName() {
    return this._name.promise;
  }

  /**
   * Resolves when both devices have the key.  Rejects with PairingFailed, Refusal, ConnectionError.
   *
   * @type {Promise<void>}
   */
  get done() {
    return this._done.promise;
  }

  /**
   * The person agrees, where the code was shown: `typed` are the digits that the other device shows.  There is one try.
   *
   * Rejects as `done` when the pairing ends before the other device is there.
   *
   * @param {string} typed
   */
  async confirm(typed) {
    await this.digits;
    this._step(() => this._side.confirmed(typed));
  }

  /** The person agrees, where the other device's code was scanned; only the device that has the key waits for it. */
  async agree() {
    assert(!this._side.shows, "where the code is shown the digits are typed: confirm(digits)");
    await this.confirm("");
  }

  /** The person does not want it after all; the other device is told. */
  cancel() {
    this._abandon(new PairingFailed("cancelled"));
  }

  // --- for the client ---

  /** The channel is open. */
  begin() {
    this._step(() => this._side.begin());
  }

  /** A frame.  @param {Uint8Array} body */
  came(body) {
    this._step(() => this._side.received(body));
  }

  /** The line is gone.  @param {unknown} error */
  lost(error) {
    this._end(error);
  }

  /** When it is over, however it ended. */
  async over() {
    await this._done.promise.catch(() => undefined);
  }

  // --- inside ---

  /** One thing after the other: what comes while the hub enrols a device waits.  @param {() => Effect[]} step */
  _step(step) {
    this._work = this._work
      .then(() => (this._over ? undefined : this._carry(step())))
      .catch((error) => this._abandon(error));
  }

  /** @param {Effect[]} effects */
  async _carry(effects) {
    for (const effect of effects) {
      if (this._over) return;
      if (effect instanceof Hand) this._line.hand(effect.body);
      else if (effect instanceof Show) this._digits.resolve(effect.digits);
      else if (effect instanceof Named) this._name.resolve(effect.name);
      else if (effect instanceof Vouch) await this._vouch(effect);
      else if (effect instanceof Take) await this._take(effect);
      else if (effect instanceof Paired) this._end(null);
      else if (effect instanceof Failed) this._end(new PairingFailed(effect.fault));
    }
  }

  /** @param {Vouch} effect */
  async _vouch({ deviceId, devicePk }) {
    assert(this._side instanceof Giver, "only who has the key vouches");
    await this._line.vouch(deviceId, devicePk);
    await this._carry(this._side.vouched());
  }

  /** @param {Take} effect */
  async _take({ grant, accountId }) {
    assert(this._side instanceof Taker, "only who wants the key takes it");
    await this._line.take(grant, accountId, () => !this._over);
    await this._carry(this._side.taken());
  }

  /** It ends here; the other device is told, if it can be.  @param {unknown} error */
  _abandon(error) {
    if (this._over) return;
    for (const effect of this._side.cancel()) {
      try {
        if (effect instanceof Hand) this._line.hand(effect.body);
      } catch {
        break; // it will find out by the time
      }
    }
    this._end(error);
  }

  /** @param {unknown} error null when all went well */
  _end(error) {
    if (this._over) return;
    this._over = true;
    clearTimeout(this._timer);
    const fault = error ?? new PairingFailed("cancelled");
    this._digits.reject(fault);
    this._name.reject(fault);
    if (error === null) this._done.resolve(undefined);
    else this._done.reject(error);
  }
}

// --- with a client ---------------------------------------------------------------------------

/**
 * What `HubClient.pair` does.
 *
 * @param {HubClient} client @param {{ scanned?: string, name?: string }} options
 * @param {(size: number) => Uint8Array} fresh gives that many random bytes
 * @returns {Promise<PairingHandle>}
 */
export async function pair(client, { scanned = "", name = "" }, fresh) {
  const scan = scanned ? parsePairingCode(scanned) : null;
  if (client._pairings.size) throw new RangeError("a pairing is under way");
  const gives = client.signedIn && client.hasKey && !client._engine.device.blocked;
  const beginning = { fresh, now: client._now().steady, scanned: scan };
  return gives ? giving(client, beginning) : taking(client, name, beginning);
}

/**
 * On the line that is kept up, for the device that has the key.
 *
 * @param {HubClient} client @param {import("./pairing.js").Beginning} beginning
 */
async function giving(client, beginning) {
  const { device } = client._engine;
  const [accountId, appKey] = ["account_id", "app_key"].map((name) => client._storage.setting(name));
  assert(accountId && appKey && device.keys, "a device without a key has nothing to give");
  if (client._running === null || !client._wanted()) {
    throw new ConnectionError("start the client first, with sync switched on");
  }
  const { spaceId, keyEpoch, keyId } = device.keys;
  const { incarnation, heads } = device.heads;
  const grant = { spaceId, keyEpoch, appKey, keyId, incarnation, heads: heads.slice(0, HEADS_MAX) };
  const giver = new Giver(client._me, accountId, grant, beginning);
  const handle = kept(client, giver, new GivingLine(client, giver.channel));
  const opening = (/** @type {number} */ request) => {
    client._pairingRequest = request;
    return /** @type {const} */ ({ type: "open_pairing", request, channel: giver.channel });
  };
  await begun(handle, client._ask(opening, "done"));
  return handle;
}

/**
 * On a short connection, for the device that wants the key.
 *
 * @param {HubClient} client @param {string} name @param {import("./pairing.js").Beginning} beginning
 * @returns {Promise<PairingHandle>}
 */
async function taking(client, name, beginning) {
  if (client._engine.device.blocked) await client._becomeNewDevice();
  else if (client.hasKey) throw new RangeError("this device has a key of its own already");
  return new Promise((opened, failed) => {
    const whole = async (/** @type {Errand} */ talk) => {
      const taker = new Taker(client._me, name, beginning);
      const handle = kept(client, taker, new TakingLine(client, talk, taker.channel));
      await begun(handle, talk.ask({ type: "open_pairing", request: 1, channel: taker.channel }, "done"));
      opened(handle);
      const living = setInterval(() => talk.say({ type: "ping" }), SIGN_OF_LIFE_EVERY_S * 1000);
      hearAll(talk, handle); // until the line is closed
      await handle.over();
      clearInterval(living);
    };
    client._errand(whole).catch(failed);
  });
}

/** @param {HubClient} client @param {Giver | Taker} side @param {Line} line */
function kept(client, side, line) {
  const handle = new PairingHandle(side, line, () => client._now().steady);
  client._pairings.add(handle);
  handle.over().then(() => client._pairings.delete(handle));
  return handle;
}

/** @param {PairingHandle} handle @param {Promise<unknown>} opening */
async function begun(handle, opening) {
  try {
    await opening;
  } catch (error) {
    handle.lost(error);
    throw error;
  }
  handle.begin();
}

/** @param {Errand} talk @param {PairingHandle} handle */
async function hearAll(talk, handle) {
  try {
    for (;;) {
      const { channel, body } = await talk.hear("pairing");
      if (equal(channel, handle.channel)) handle.came(body);
    }
  } catch (error) {
    handle.lost(error);
  }
}

/** @implements {Line} */
class GivingLine {
  /** @param {HubClient} client @param {Uint8Array} channel */
  constructor(client, channel) {
    this._client = client;
    this._channel = channel;
  }

  /** @param {Uint8Array} body */
  hand(body) {
    const client = this._client;
    client._carry(client._ifConnected(() => client._engine.handPairing(this._channel, body)));
  }

  /** @param {Uint8Array} deviceId @param {Uint8Array} devicePk */
  async vouch(deviceId, devicePk) {
    await this._client._ask((request) => ({ type: "vouch", request, deviceId, devicePk }), "done");
  }

  async take() {
    assert(false, "this device has the key");
  }
}

/** @implements {Line} */
class TakingLine {
  /** @param {HubClient} client @param {Errand} talk @param {Uint8Array} channel */
  constructor(client, talk, channel) {
    this._client = client;
    this._talk = talk;
    this._channel = channel;
    this._requests = 1;
  }

  /** @param {Uint8Array} body */
  hand(body) {
    this._requests += 1;
    this._talk.say({ type: "pairing", request: this._requests, channel: this._channel, body });
  }

  async vouch() {
    assert(false, "this device has no key");
  }

  /** @param {Grant} grant @param {Uint8Array} accountId @param {() => boolean} wanted */
  async take(grant, accountId, wanted) {
    await this._client._takeGrant(grant, accountId, wanted);
  }
}

/** A promise that is settled from outside; nobody has to listen when it is rejected. */
function settled() {
  /** @type {(value: any) => void} */
  let resolve = () => undefined;
  /** @type {(error: unknown) => void} */
  let reject = () => undefined;
  const promise = new Promise((done, fail) => {
    resolve = done;
    reject = fail;
  });
  promise.catch(() => undefined);
  return { promise, resolve, reject };
}
