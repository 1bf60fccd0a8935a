/**
 * The real hub as a child process, as `hub serve` runs it: a fresh folder, any free port, codes read from its terminal,
 * as many as a test wants.
 *
 *     const hub = await HubProcess.start();
 *     client.requestCode("anna@example.org"); const code = await hub.nextCode();
 *     await hub.kill(); await hub.restart(); await hub.end();
 *
 * Whoever runs the tests without Python has no hub: `whyNoHub` says so, and tests pass it on as their reason to skip.
 */

import { spawn, spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { WebSocket } from "ws";

export const HERE = dirname(fileURLToPath(import.meta.url));
export const ROOT = resolve(HERE, "../../..");
export const PYTHON = process.env.HUB_PYTHON || join(ROOT, ".venv/bin/python");

const START_WITHIN_MS = 30_000;
const END_WITHIN_MS = 15_000;
const UP = /is up on http:\/\/[^\s:]+:(\d+)/;
const MAIL = /To: (\S+)\nSubject: .*\n\n[^]*?the words: {2}(.+)\n[^]*?Your code: {2}(\d{4}) (\d{4})\n/g;

/** Why the real hub cannot be run here, as a sentence; false when it can. */
export const whyNoHub = findWhyNoHub();

function findWhyNoHub() {
  const tried = spawnSync(PYTHON, ["-c", "import hub.running, hub.client"], { cwd: ROOT, encoding: "utf8" });
  if (tried.error) return `no Python to run the hub with: ${PYTHON} (set HUB_PYTHON)`;
  if (tried.status !== 0) return `${PYTHON} cannot run the hub: ${tried.stderr.trim().split("\n").at(-1)}`;
  return false;
}

/**
 * A mail as the hub printed it.
 *
 * @typedef {{address: string, phrase: string, code: string}} Mail
 */

export class HubProcess {
  /** @param {string} dataDir @param {Record<string, string>} settings */
  constructor(dataDir, settings) {
    this.dataDir = dataDir;
    this.port = 0;
    this.WebSocket = WebSocket;
    this._settings = settings;
    this._said = "";
    /** @type {Mail[]} */
    this._mails = [];
    /** @type {(() => void)[]} */
    this._listening = [];
    /** @type {import("node:child_process").ChildProcess | null} */
    this._child = null;
    /** @type {Promise<void>} */
    this._gone = Promise.resolve();
  }

  /**
   * A hub on a fresh folder, when it is up.
   *
   * @param {Record<string, string>} [settings] as environment variables without their prefix, like `sign_up`
   */
  static async start(settings = {}) {
    const hub = new HubProcess(mkdtempSync(join(tmpdir(), "sync-hub-js-")), settings);
    await hub.restart();
    return hub;
  }

  /** What a person types to reach it. */
  get url() {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Run it again on the same folder and port. */
  async restart() {
    const settings = { log_level: "error", sign_up: "open", ...this._settings };
    const named = Object.entries(settings).map(([name, value]) => [`HUB_${name.toUpperCase()}`, value]);
    const words = [join(HERE, "cross/serve.py"), "serve", "--port", String(this.port), "--data-dir", this.dataDir];
    const env = { ...process.env, ...Object.fromEntries(named), PYTHONPATH: ROOT, PYTHONUNBUFFERED: "1" };
    this._said = "";
    const child = spawn(PYTHON, words, { cwd: ROOT, env, stdio: ["ignore", "pipe", "pipe"] });
    this._child = child;
    const last = () => child.kill("SIGKILL"); // no test run leaves a hub behind, however it ends
    process.once("exit", last);
    child.stdout.setEncoding("utf8").on("data", (text) => this._hear(text));
    child.stderr.setEncoding("utf8").on("data", (text) => this._hear(text));
    let gone = false;
    this._gone = new Promise((done) => child.once("exit", () => done())).then(() => {
      gone = true;
      process.removeListener("exit", last);
      this._hear("");
    });
    await this._until(() => UP.test(this._said) || gone, START_WITHIN_MS, "the hub did not start");
    const up = UP.exec(this._said);
    if (!up) throw new Error(`the hub did not start:\n${this._said}`);
    this.port = Number(up[1]);
  }

  /**
   * The next mail that nobody has asked for yet.
   *
   * @returns {Promise<Mail>}
   */
  async nextMail() {
    await this._until(() => this._mails.length > 0, 10_000, "no mail came");
    return /** @type {Mail} */ (this._mails.shift());
  }

  /** The code of the next mail. */
  async nextCode() {
    return (await this.nextMail()).code;
  }

  /** Stop it in order, as an operator does. */
  async stop() {
    await this._signal("SIGTERM");
  }

  /** The process dies at once; what it had not committed is lost. */
  async kill() {
    await this._signal("SIGKILL");
  }

  /** The process stands still, its sockets stay open; `thaw` lets it go on. */
  freeze() {
    this._child?.kill("SIGSTOP");
  }

  thaw() {
    this._child?.kill("SIGCONT");
  }

  /** Its disk is lost while it is down. */
  async empty() {
    await this.stop();
    for (const each of readdirSync(this.dataDir)) rmSync(join(this.dataDir, each), { recursive: true });
    await this.restart();
  }

  /** What `restore` takes: the hub's folder as it is now. */
  async backup() {
    await this.stop();
    const backup = mkdtempSync(join(tmpdir(), "sync-hub-backup-"));
    cpSync(this.dataDir, backup, { recursive: true });
    await this.restart();
    return backup;
  }

  /** An operator puts the backup back, and says so.  @param {string} backup */
  async restore(backup) {
    await this.stop();
    rmSync(this.dataDir, { recursive: true });
    cpSync(backup, this.dataDir, { recursive: true });
    rmSync(backup, { recursive: true });
    const env = { ...process.env, HUB_DATA_DIR: this.dataDir };
    const marked = spawnSync(PYTHON, ["-m", "hub", "mark-restored"], { cwd: ROOT, env, encoding: "utf8" });
    if (marked.status !== 0) throw new Error(marked.stderr);
    await this.restart();
  }

  /** Stop it for good and drop its folder. */
  async end() {
    this.thaw();
    await this.stop();
    rmSync(this.dataDir, { recursive: true, force: true });
  }

  /** @param {NodeJS.Signals} signal */
  async _signal(signal) {
    const child = this._child;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    child.kill(signal);
    const late = setTimeout(() => child.kill("SIGKILL"), END_WITHIN_MS);
    await this._gone;
    clearTimeout(late);
  }

  /** @param {string} text */
  _hear(text) {
    this._said += text;
    let read = 0;
    for (const found of this._said.matchAll(MAIL)) {
      this._mails.push({ address: found[1], phrase: found[2].trim(), code: found[3] + found[4] });
      read = found.index + found[0].length;
    }
    this._said = this._said.slice(read);
    for (const tell of this._listening) tell();
  }

  /** @param {() => boolean} holds @param {number} withinMs @param {string} otherwise */
  async _until(holds, withinMs, otherwise) {
    if (holds()) return;
    await new Promise((done, fail) => {
      const late = setTimeout(() => fail(new Error(`${otherwise}:\n${this._said}`)), withinMs);
      const tell = () => {
        if (!holds()) return;
        clearTimeout(late);
        this._listening = this._listening.filter((other) => other !== tell);
        done(undefined);
      };
      this._listening.push(tell);
    });
  }
}
