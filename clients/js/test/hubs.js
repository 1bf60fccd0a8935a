/**
 * The hubs that a device's tests run against, each with the same ways to treat it: the real one, and the memory hub
 * that apps test with.  A test that passes on one alone has found a lie of the memory hub's, or a fault of the real one.
 */

import { test } from "node:test";

import { MemoryHub } from "../src/testing/index.js";
import { HubProcess, whyNoHub } from "./hub_process.js";

/** The memory hub, treated as `HubProcess` is. */
export class MemoryProcess extends MemoryHub {
  static async start() {
    return new MemoryProcess();
  }

  /** @type {number} */
  read = 0;

  async nextMail() {
    if (this.read >= this.mails.length) throw new Error("no mail came");
    return this.mails[this.read++];
  }

  async nextCode() {
    return (await this.nextMail()).code;
  }

  async stop() {
    this.cut();
  }

  async kill() {
    this.cut();
  }

  async restart() {
    this.mend();
  }

  async end() {
    this.cut();
  }
}

/**
 * @typedef {object} Kind
 * @property {string} name
 * @property {string | false} skip
 * @property {() => Promise<any>} start
 */

/** @type {Kind[]} */
export const HUBS = [
  { name: "the real hub", skip: whyNoHub, start: () => HubProcess.start() },
  { name: "the memory hub", skip: false, start: () => MemoryProcess.start() },
];

/**
 * A `test` that runs each test once on every hub, which it starts and hands over before; whoever calls ends it.
 *
 * @param {(hub: any) => void} started
 * @param {Kind[]} [kinds]
 */
export function onEachHub(started, kinds = HUBS) {
  return (/** @type {string} */ name, /** @type {any[]} */ ...more) => {
    const work = /** @type {(context: any) => unknown} */ (more.pop());
    for (const { name: where, skip, start } of kinds) {
      test(`${name} (${where})`, { timeout: 120_000, ...more[0], skip }, async (context) => {
        started(await start());
        await work(context);
      });
    }
  };
}
