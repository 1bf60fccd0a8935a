/** QR codes: drawn, read back from every kind of picture, and the camera with all that can go wrong. */

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { afterEach, test } from "node:test";

import { keyCode, qrText } from "../src/keycode.js";
import { CameraError, QUIET_ZONE, qrSvg, scan, scanCamera } from "../src/qr/index.js";
import { PYTHON, ROOT, whyNoHub } from "./hub_process.js";
import { blurred, painted, readPng, turned } from "./raster.js";
import { vectors } from "./vectors.js";

const KEY = Uint8Array.from({ length: 32 }, (_, n) => n);
const TEXTS = {
  "a key code": keyCode(KEY, 0),
  "a key code with its host": qrText(keyCode(KEY, 0), "wss://hub.example.org/v1/ws"),
  "a key code with host and port": qrText(keyCode(KEY, 7), "ws://127.0.0.1:8787/v1/ws"),
  "a pairing code": vectors("crypto").pair.directions[0].code,
  "an address": "https://hub.example.org/?a=1&b=<2>",
};

const here = ["navigator", "BarcodeDetector", "isSecureContext", "OffscreenCanvas"];
const before = here.map((name) => [name, Object.getOwnPropertyDescriptor(globalThis, name)]);

afterEach(() => {
  for (const [name, was] of /** @type {[string, PropertyDescriptor | undefined][]} */ (before)) {
    if (was) Object.defineProperty(globalThis, name, was);
    else delete (/** @type {any} */ (globalThis)[name]);
  }
});

/** @param {Record<string, unknown>} things */
function surround(things) {
  for (const [name, value] of Object.entries(things)) {
    Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
  }
}

// --- drawing and reading ---------------------------------------------------------------------

for (const [name, text] of Object.entries(TEXTS)) {
  test(`${name} is read back, upright, turned and blurred`, async () => {
    const picture = painted(qrSvg(text));
    assert.equal(await scan(picture), text);
    for (const degrees of [90, 180, 25]) assert.equal(await scan(turned(picture, degrees)), text, `${degrees} degrees`);
    assert.equal(await scan(blurred(picture, 2)), text, "blurred");
    assert.equal(await scan(blurred(turned(painted(qrSvg(text), 8), 10), 2)), text, "turned and blurred");
  });
}

test("codes are as small as their letters allow, with a quiet zone", () => {
  const sizeOf = (/** @type {string} */ text) => Number(/viewBox="0 0 (\d+)/.exec(qrSvg(text))?.[1]) - 2 * QUIET_ZONE;
  const version = (/** @type {number} */ number) => 17 + 4 * number;
  assert.equal(QUIET_ZONE, 4);
  assert.equal(sizeOf(TEXTS["a key code with its host"]), version(4));
  assert.equal(sizeOf(TEXTS["a pairing code"]), version(6));
  assert.ok(sizeOf(TEXTS["a pairing code"].toLowerCase()) > version(6)); // lower case costs a byte a letter
  const { data, width } = painted(qrSvg("A"), 1);
  for (let n = 0; n < width * QUIET_ZONE; n++) assert.equal(data[4 * n], 255);
});

test("the picture passes a strict Content-Security-Policy and says what it is", () => {
  const svg = qrSvg(TEXTS["a key code"], { title: `Anna's "key" <b>&` });
  assert.doesNotMatch(svg, /style|<script|on\w+=|url\(|href| id=/);
  assert.match(svg, /role="img"/);
  const named = "Anna's &#34;key&#34; &#60;b&#62;&#38;";
  assert.ok(svg.includes(`aria-label="${named}"`) && svg.includes(`<title>${named}</title>`));
  assert.ok(!svg.includes("HUBKEY1"), "the key itself is not in it as text");
});

test("a code drawn by Python is read", { skip: whyNoHub }, async () => {
  for (const text of Object.values(TEXTS)) {
    const make = "segno.make(sys.argv[1], error='m', micro=False)";
    const draw = `import segno, sys; ${make}.save(sys.stdout.buffer, kind='png', scale=4)`;
    const drawn = spawnSync(PYTHON, ["-c", draw, text], { cwd: ROOT });
    assert.equal(drawn.status, 0, drawn.stderr.toString());
    assert.equal(await scan(readPng(drawn.stdout)), text);
  }
});

test("where there is no code, null comes back", async () => {
  const white = painted('<svg viewBox="0 0 40 40"></svg>');
  assert.equal(await scan(white), null);
  const { data, width, height } = painted(qrSvg("half of it"));
  data.fill(255, 0, data.length / 2);
  assert.equal(await scan({ data, width, height }), null);
});

test("pixels of another form are refused", async () => {
  await assert.rejects(scan({ data: new Uint8Array(300), width: 10, height: 10 }), RangeError);
});

// --- the browser's reader, and its canvas ----------------------------------------------------

/** A canvas that shows what is drawn on it. */
class Canvas {
  /** @param {number} width @param {number} height */
  constructor(width, height) {
    this.width = width;
    this.height = height;
  }

  getContext() {
    /** @type {any} */
    let drawn;
    return {
      drawImage: (/** @type {any} */ picture) => (drawn = picture),
      getImageData: () => drawn.shows,
    };
  }
}

/** @param {string} text */
function pictureOf(text) {
  const shows = painted(qrSvg(text));
  return /** @type {any} */ ({ width: shows.width, height: shows.height, shows });
}

/** @param {(picture: any) => any} detect @param {string[]} [formats] */
function detector(detect, formats = ["qr_code"]) {
  return class {
    static async getSupportedFormats() {
      return formats;
    }

    /** @param {any} picture */
    async detect(picture) {
      return detect(picture);
    }
  };
}

/** `scan.js` anew: it remembers what reader the browser has. */
async function fresh() {
  fresh.count = (fresh.count ?? 0) + 1;
  return import(`../src/qr/scan.js?${fresh.count}`);
}
/** @type {number | undefined} */
fresh.count = 0;

test("the browser's own reader is asked where there is one", async () => {
  surround({ BarcodeDetector: detector(() => [{ rawValue: "by the browser" }]), OffscreenCanvas: Canvas });
  const { scan } = await fresh();
  assert.equal(await scan(pictureOf("ours")), "by the browser");
});

test("ours reads where the browser's finds nothing, cannot, or has only the name", async () => {
  const broken = () => {
    throw new Error("Barcode detection service unavailable.");
  };
  for (const Detector of [detector(() => []), detector(broken), detector(() => [{ rawValue: "no" }], ["ean_13"])]) {
    surround({ BarcodeDetector: Detector, OffscreenCanvas: Canvas });
    const { scan } = await fresh();
    assert.equal(await scan(pictureOf("ours")), "ours");
  }
});

// --- the camera ------------------------------------------------------------------------------

function cameraOf(/** @type {{ readyState: string }} */ track = { readyState: "live" }) {
  /** @type {any} */
  const camera = { asked: [], stopped: 0 };
  const tracks = [Object.assign(track, { stop: () => (camera.stopped += 1) })];
  camera.getUserMedia = async (/** @type {any} */ wanted) => {
    camera.asked.push(wanted);
    return { getTracks: () => tracks };
  };
  return camera;
}

/** A video that shows each picture for one look, then the last for ever.  @param {string[]} texts */
function videoOf(...texts) {
  const frames = texts.map((text) => (text ? painted(qrSvg(text)) : painted('<svg viewBox="0 0 40 40"></svg>')));
  return /** @type {any} */ ({
    looks: 0,
    videoWidth: 240,
    videoHeight: 240,
    async play() {},
    get shows() {
      this.looks += 1;
      return frames.length > 1 ? frames.shift() : frames[0];
    },
  });
}

test("the camera is looked at until a code is seen, and is off again", async () => {
  const mediaDevices = cameraOf();
  surround({ navigator: { mediaDevices }, OffscreenCanvas: Canvas });
  const video = videoOf("", "", "seen");
  assert.equal(await scanCamera(video), "seen");
  assert.equal(video.looks, 3);
  assert.deepEqual([video.srcObject, video.muted, video.playsInline], [null, true, true]);
  assert.equal(mediaDevices.stopped, 1);
  assert.equal(mediaDevices.asked[0].video.facingMode.ideal, "environment");
  assert.equal(mediaDevices.asked[0].audio, false);
});

test("where the browser reads, ours does not look at every frame once more", async () => {
  const seen = [[], [], [{ rawValue: "by the browser" }]];
  surround({ navigator: { mediaDevices: cameraOf() }, BarcodeDetector: detector(() => seen.shift()) });
  const { scanCamera } = await fresh();
  const video = videoOf("ours");
  assert.equal(await scanCamera(video), "by the browser");
  assert.equal(video.looks, 0);
});

test("a scan that is called off says so and leaves the camera off", async () => {
  const mediaDevices = cameraOf();
  surround({ navigator: { mediaDevices }, OffscreenCanvas: Canvas });
  const control = new AbortController();
  const scanning = scanCamera(videoOf(""), { signal: control.signal, facing: "user" });
  control.abort();
  await assert.rejects(scanning, { name: "AbortError" });
  assert.equal(mediaDevices.stopped, 1);
  await assert.rejects(scanCamera(videoOf(""), { signal: control.signal }), { name: "AbortError" });
  assert.equal(mediaDevices.asked.length, 1, "an aborted scan does not ask for the camera");
});

test("a camera that is switched off meanwhile is told", async () => {
  const mediaDevices = cameraOf({ readyState: "ended" });
  surround({ navigator: { mediaDevices }, OffscreenCanvas: Canvas });
  await assert.rejects(scanCamera(videoOf("")), { name: "CameraError", fault: "ended" });
});

for (const [name, fault] of Object.entries({
  NotAllowedError: "refused", SecurityError: "refused", NotFoundError: "none", OverconstrainedError: "none",
  NotReadableError: "busy",
})) {
  test(`a person reads a sentence when the browser says ${name}`, async () => {
    const getUserMedia = async () => {
      throw new DOMException("", name);
    };
    surround({ navigator: { mediaDevices: { getUserMedia } } });
    await assert.rejects(scanCamera(videoOf("")), (/** @type {any} */ error) => {
      assert.ok(error instanceof CameraError && error.cause instanceof DOMException);
      assert.equal(error.fault, fault);
      return /^[A-Z].*\.$/.test(error.message);
    });
  });
}

test("without https or without any camera the sentence says that", async () => {
  surround({ isSecureContext: false, navigator: {} });
  await assert.rejects(scanCamera(videoOf("")), { fault: "insecure", message: /https/ });
  surround({ isSecureContext: true });
  await assert.rejects(scanCamera(videoOf("")), { fault: "none" });
});
