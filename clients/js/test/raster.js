/**
 * Pictures of QR codes without a browser: paints what `qrSvg` draws, turns it, blurs it, and reads segno's PNG.
 *
 * @typedef {{ data: Uint8ClampedArray, width: number, height: number }} Pixels
 */

import { inflateSync } from "node:zlib";

/**
 * The SVG as pixels, each module `scale` of them wide.
 *
 * @param {string} svg @param {number} [scale]
 * @returns {Pixels}
 */
export function painted(svg, scale = 6) {
  const size = Number(/viewBox="0 0 (\d+) \1"/.exec(svg)?.[1]);
  const dark = new Set();
  for (const [, x, y, wide] of svg.matchAll(/M(\d+) (\d+)h(\d+)v1H\1z/g)) {
    for (let n = 0; n < Number(wide); n++) dark.add(Number(y) * size + Number(x) + n);
  }
  const at = (/** @type {number} */ pixel) => Math.floor(pixel / scale);
  return made(size * scale, (x, y) => (dark.has(at(y) * size + at(x)) ? 0 : 255));
}

/**
 * Turned about its middle, on a white ground of the same size.
 *
 * @param {Pixels} pixels @param {number} degrees
 */
export function turned(pixels, degrees) {
  const { width } = pixels;
  const [sin, cos] = [Math.sin((degrees * Math.PI) / 180), Math.cos((degrees * Math.PI) / 180)];
  const wide = Math.ceil(width * (Math.abs(sin) + Math.abs(cos)));
  return made(wide, (x, y) => {
    const [dx, dy] = [x - wide / 2, y - wide / 2];
    const [fromX, fromY] = [Math.round(dx * cos + dy * sin + width / 2), Math.round(dy * cos - dx * sin + width / 2)];
    const isInside = fromX >= 0 && fromY >= 0 && fromX < width && fromY < width;
    return isInside ? pixels.data[4 * (fromY * width + fromX)] : 255;
  });
}

/**
 * Each pixel the mean of those up to `radius` around it.
 *
 * @param {Pixels} pixels @param {number} radius
 */
export function blurred({ data, width }, radius) {
  return made(width, (x, y) => {
    let [sum, count] = [0, 0];
    for (let dy = -radius; dy <= radius; dy++) {
      for (let dx = -radius; dx <= radius; dx++) {
        const [px, py] = [Math.min(width - 1, Math.max(0, x + dx)), Math.min(width - 1, Math.max(0, y + dy))];
        sum += data[4 * (py * width + px)];
        count += 1;
      }
    }
    return sum / count;
  });
}

/**
 * A grey PNG of 1 bit a pixel, as segno writes it: its rows bare, or as what differs from the row above.
 *
 * @param {Buffer} png
 * @returns {Pixels}
 */
export function readPng(png) {
  let [width, depth, colour] = [0, 0, 0];
  const packed = [];
  for (let at = 8; at < png.length; ) {
    const length = png.readUInt32BE(at);
    const name = png.toString("latin1", at + 4, at + 8);
    const body = png.subarray(at + 8, at + 8 + length);
    if (name === "IHDR") [width, depth, colour] = [body.readUInt32BE(0), body[8], body[9]];
    if (name === "IDAT") packed.push(body);
    at += 12 + length;
  }
  if (depth !== 1 || colour !== 0) throw new Error(`this PNG has ${depth} bits of colour type ${colour}`);
  const rows = inflateSync(Buffer.concat(packed));
  const rowBytes = 1 + Math.ceil(width / 8);
  for (let at = 0; at < rows.length; at += rowBytes) {
    if (rows[at] === 2) for (let n = 1; n < rowBytes; n++) rows[at + n] += rows[at + n - rowBytes];
    else if (rows[at] !== 0) throw new Error(`this PNG has rows of filter ${rows[at]}`);
  }
  return made(width, (x, y) => ((rows[y * rowBytes + 1 + (x >> 3)] >> (7 - (x & 7))) & 1 ? 255 : 0));
}

/** @param {number} width @param {(x: number, y: number) => number} grey @returns {Pixels} */
function made(width, grey) {
  const data = new Uint8ClampedArray(4 * width * width).fill(255);
  for (let y = 0; y < width; y++) {
    for (let x = 0; x < width; x++) data.fill(grey(x, y), 4 * (y * width + x), 4 * (y * width + x) + 3);
  }
  return { data, width, height: width };
}
