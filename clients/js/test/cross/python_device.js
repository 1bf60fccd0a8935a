/**
 * A device of the Python client in a child process, spoken to as if it were here.
 *
 *     const device = await PythonDevice.start();
 *     await device.do("open", path, appId, hubUrl);
 *     await device.put("notes", "first", { text: "Hello" });
 */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

import { hex, unhex } from "../../src/bytes.js";
import { MISSING } from "../../src/strategies.js";
import { decodeBody, encodeBody } from "../../src/values.js";
import { HERE, PYTHON, ROOT } from "../hub_process.js";

export class PythonDevice {
  constructor() {
    this.folder = mkdtempSync(join(tmpdir(), "sync-hub-py-"));
    this._asked = 0;
    /** @type {Map<number, {done: (value: any) => void, fail: (error: Error) => void}>} */
    this._waiting = new Map();
    const env = { ...process.env, PYTHONPATH: ROOT, PYTHONUNBUFFERED: "1" };
    const words = [join(HERE, "cross/device.py")];
    this._child = spawn(PYTHON, words, { cwd: ROOT, env, stdio: ["pipe", "pipe", "inherit"] });
    this._last = () => this._child.kill("SIGKILL");
    process.once("exit", this._last);
    createInterface({ input: this._child.stdout }).on("line", (line) => this._hear(JSON.parse(line)));
    this._child.once("exit", () => {
      for (const { fail } of this._waiting.values()) fail(new Error("the Python device has died"));
    });
  }

  /**
   * Do what `device.py` knows under this name.  Throws an error whose name is that of Python's.
   *
   * @param {string} name @param {...any} values
   * @returns {Promise<any>}
   */
  do(name, ...values) {
    const n = ++this._asked;
    this._child.stdin.write(`${JSON.stringify({ n, do: name, with: values })}\n`);
    return new Promise((done, fail) => this._waiting.set(n, { done, fail }));
  }

  /** @param {string} collection @param {string} key @param {any} value */
  async put(collection, key, value) {
    return unhex(await this.do("put", collection, key, hex(encodeBody(value))));
  }

  /** The record's value, or MISSING.  @param {string} collection @param {string} key */
  async get(collection, key) {
    return valueOf(await this.do("get", collection, key));
  }

  /** @param {string} collection @returns {Promise<[string, any][]>} */
  async items(collection) {
    const items = await this.do("items", collection);
    return items.map((/** @type {[string, string]} */ [key, body]) => [key, valueOf(body)]);
  }

  /** The process ends; what it holds stays in its folder until `drop`. */
  async end() {
    this._child.stdin.end();
    if (this._child.exitCode === null && this._child.signalCode === null) await once(this._child, "exit");
    process.removeListener("exit", this._last);
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** @param {any} answer */
  _hear({ n, value, error, message }) {
    const { done, fail } = /** @type {any} */ (this._waiting.get(n));
    this._waiting.delete(n);
    if (error) fail(Object.assign(new Error(message), { name: error }));
    else done(value);
  }
}

/** @param {string | null} body */
export function valueOf(body) {
  return body === null ? MISSING : decodeBody(unhex(body)).value;
}
