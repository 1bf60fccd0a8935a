/**
 * Reads QR codes: from a picture, and from the camera until one is seen.
 *
 * Where the browser has a reader of its own it is used; elsewhere ours is loaded when it is first needed.
 */

const PIXELS_MAX = 2_000_000; // a photograph is made smaller; a code that fills a tenth of it can still be read
const STILL_MS = 250; // how long a picture may be looked at again when the first look finds nothing
const LOOK_EVERY_MS = 100; // at the camera; each look takes 1 to 30 ms

/** @typedef {"insecure" | "none" | "refused" | "busy" | "ended"} CameraFault */

/** @type {Record<CameraFault, string>} */
const SENTENCES = {
  insecure: "The camera can be used on pages that came over https:// only.",
  none: "There is no camera here; type the code instead.",
  refused: "This page may not use the camera. Allow it in the browser's settings, or type the code instead.",
  busy: "The camera is in use by another program.",
  ended: "The camera was switched off.",
};

/** The names browsers give. @type {Record<string, CameraFault>} */
const FAULTS = {
  NotAllowedError: "refused",
  SecurityError: "refused",
  NotFoundError: "none",
  OverconstrainedError: "none",
  NotReadableError: "busy",
  AbortError: "busy",
};

/** The camera cannot be used; `fault` says why in a word, the text in a sentence for the person. */
export class CameraError extends Error {
  /** @param {CameraFault} fault @param {unknown} [cause] */
  constructor(fault, cause) {
    super(SENTENCES[fault], { cause });
    this.fault = fault;
  }

  get name() {
    return "CameraError";
  }
}

/**
 * What can be looked at: a file, a picture or video of the page, a canvas, or bare RGBA pixels.
 *
 * @typedef {Blob | ImageBitmap | HTMLImageElement | HTMLVideoElement | HTMLCanvasElement | OffscreenCanvas | Pixels}
 *   Source
 */

/** @typedef {{ data: Uint8Array | Uint8ClampedArray, width: number, height: number }} Pixels */

/**
 * The text of the QR code in `source`, null when none is found.
 *
 * Throws what the browser throws for a file that is no picture.
 *
 * @param {Source} source
 * @returns {Promise<string | null>}
 */
export async function scan(source) {
  if (isPixels(source)) return looked(source, STILL_MS);
  const isFile = source instanceof Blob;
  const picture = isFile ? await createImageBitmap(source) : source;
  try {
    return (await asked(picture)) ?? (await looked(pixelsOf(picture), STILL_MS));
  } finally {
    if (isFile) /** @type {ImageBitmap} */ (picture).close();
  }
}

/**
 * Show the camera in `video` until a QR code is seen; its text.  The camera is off again afterwards, however it ends.
 *
 * Throws `CameraError`, and the signal's reason when `signal` is aborted.
 *
 * @param {HTMLVideoElement} video
 * @param {{ signal?: AbortSignal, facing?: "environment" | "user" }} [options] `facing`: away from the person, or not
 * @returns {Promise<string>}
 */
export async function scanCamera(video, { signal, facing = "environment" } = {}) {
  signal?.throwIfAborted();
  const stream = await camera(facing);
  try {
    signal?.throwIfAborted();
    await show(video, stream);
    return await firstSeen(video, stream, signal);
  } finally {
    for (const track of stream.getTracks()) track.stop();
    video.srcObject = null;
  }
}

// --- the camera ------------------------------------------------------------------------------

/** @param {string} facing */
async function camera(facing) {
  if (globalThis.isSecureContext === false) throw new CameraError("insecure");
  if (!navigator.mediaDevices?.getUserMedia) throw new CameraError("none");
  const wanted = { facingMode: { ideal: facing }, width: { ideal: 1280 }, height: { ideal: 720 } };
  try {
    return await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
  } catch (error) {
    const name = /** @type {Error} */ (error).name;
    throw Object.hasOwn(FAULTS, name) ? new CameraError(FAULTS[name], error) : error;
  }
}

/** @param {HTMLVideoElement} video @param {MediaStream} stream */
async function show(video, stream) {
  video.muted = true;
  video.playsInline = true; // an iPhone shows it full screen otherwise
  video.srcObject = stream;
  await video.play();
}

/** @param {HTMLVideoElement} video @param {MediaStream} stream @param {AbortSignal} [signal] */
async function firstSeen(video, stream, signal) {
  for (;;) {
    signal?.throwIfAborted();
    if (stream.getTracks().every((track) => track.readyState === "ended")) throw new CameraError("ended");
    const text = video.videoWidth ? await glance(video) : null;
    if (text) return text;
    await new Promise((done) => setTimeout(done, LOOK_EVERY_MS));
  }
}

/** One look; where the browser reads, ours does not look at every frame once more. @param {HTMLVideoElement} video */
async function glance(video) {
  const text = await asked(video);
  return text === undefined ? looked(pixelsOf(video), 0) : text;
}

// --- the browser's reader --------------------------------------------------------------------

/** @type {Promise<any> | null} */
let detector = null;

/**
 * What the browser's own reader finds; undefined when it has none.
 *
 * @param {any} picture @returns {Promise<string | null | undefined>}
 */
async function asked(picture) {
  detector ??= detectorHere();
  const found = await detector;
  try {
    return found ? (await found.detect(picture))[0]?.rawValue || null : undefined;
  } catch {
    detector = Promise.resolve(null); // some have the name and nothing behind it
    return undefined;
  }
}

async function detectorHere() {
  const Detector = /** @type {any} */ (globalThis).BarcodeDetector;
  const formats = await Detector?.getSupportedFormats().catch(() => []);
  return formats?.includes("qr_code") ? new Detector({ formats: ["qr_code"] }) : null;
}

// --- ours ------------------------------------------------------------------------------------

/** @param {Pixels} pixels @param {number} timeLimit for second looks, in milliseconds */
async function looked({ data, width, height }, timeLimit) {
  const { decodeQR } = await import("qr/decode.js");
  if (data.length !== 4 * width * height) throw new RangeError("pixels are four bytes each, RGBA");
  try {
    return decodeQR({ data, width, height }, { format: "RGBA", ...(timeLimit ? { timeLimit } : {}) });
  } catch {
    return null; // it throws a different error for each way of finding nothing
  }
}

/** @param {any} source @returns {source is Pixels} */
function isPixels(source) {
  return ArrayBuffer.isView(source.data);
}

/** @param {any} picture @returns {Pixels} */
function pixelsOf(picture) {
  const wide = picture.videoWidth || picture.naturalWidth || picture.width;
  const high = picture.videoHeight || picture.naturalHeight || picture.height;
  const scale = Math.min(1, Math.sqrt(PIXELS_MAX / (wide * high)));
  const [width, height] = [Math.max(1, Math.round(wide * scale)), Math.max(1, Math.round(high * scale))];
  const context = blank(width, height);
  context.drawImage(picture, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

/** @param {number} width @param {number} height @returns {any} */
function blank(width, height) {
  const canvas = globalThis.OffscreenCanvas
    ? new OffscreenCanvas(width, height)
    : Object.assign(document.createElement("canvas"), { width, height });
  return canvas.getContext("2d", { willReadFrequently: true });
}
