/**
 * Randomness that can be repeated: what a failing property names is the seed that makes it fail again.
 */

/** Draws that follow from one number alone. */
export class Seeded {
  /** @param {number} seed */
  constructor(seed) {
    this._state = seed >>> 0;
    for (let i = 0; i < 4; i++) this._next(); // neighbouring seeds must not begin alike
  }

  /** A number in [0, 1). */
  random() {
    return this._next() / 2 ** 32;
  }

  /**
   * A whole number from 0 (or `from`) to below `end`.
   * @param {number} from
   * @param {number} [end]
   */
  below(from, end) {
    const [low, high] = end === undefined ? [0, from] : [from, end];
    return low + Math.floor(this.random() * (high - low));
  }

  /**
   * @template T
   * @param {readonly T[]} items
   * @returns {T}
   */
  choice(items) {
    return items[this.below(items.length)];
  }

  /**
   * Up to `most` draws.
   * @template T
   * @param {number} most
   * @param {() => T} draw
   * @returns {T[]}
   */
  list(most, draw) {
    return Array.from({ length: this.below(most + 1) }, draw);
  }

  /** @param {number} size */
  bytes(size) {
    return Uint8Array.from({ length: size }, () => this.below(256));
  }

  /** Mulberry32. */
  _next() {
    this._state = (this._state + 0x6d2b79f5) >>> 0;
    let mixed = this._state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  }
}

/**
 * Holds `property` against that many examples; a failure says which seed it was.
 * @param {number} examples
 * @param {(random: Seeded, seed: number) => void} property
 */
export function always(examples, property) {
  for (let seed = 0; seed < examples; seed++) {
    try {
      property(new Seeded(seed), seed);
    } catch (error) {
      if (error instanceof Error) error.message = `with seed ${seed}: ${error.message}`;
      throw error;
    }
  }
}
