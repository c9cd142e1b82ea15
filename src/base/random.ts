import { LineageError } from "./errors.js";

/**
 * One block of Philox4x32-10: four random words from a 128-bit counter and a 64-bit key. Salmon et al. 2011, "Parallel
 * random numbers: as easy as 1, 2, 3", section 4.4. Writes the four words to `out` from `offset`.
 */
export function philox4x32(
  counter: readonly [number, number, number, number],
  key: readonly [number, number],
  out: Uint32Array = new Uint32Array(4),
  offset = 0,
): Uint32Array {
  block(counter[0], counter[1], counter[2], counter[3], key[0], key[1], out, offset);
  return out;
}

const multiplier0 = 0xd2511f53;
const multiplier1 = 0xcd9e8d57;
/** Weyl constants: the golden ratio and the square root of three minus one. */
const weyl0 = 0x9e3779b9;
const weyl1 = 0xbb67ae85;

/** Upper 32 bits of a product of two 32-bit words, in 16-bit halves: no intermediate leaves 32 bits. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = (Math.imul(aHigh, bLow) + (Math.imul(aLow, bLow) >>> 16)) | 0;
  const carry = ((middle & 0xffff) + Math.imul(aLow, bHigh)) | 0;
  return (Math.imul(aHigh, bHigh) + (middle >>> 16) + (carry >>> 16)) | 0;
}

function block(
  c0: number,
  c1: number,
  c2: number,
  c3: number,
  k0: number,
  k1: number,
  out: Uint32Array,
  offset: number,
): void {
  for (let round = 0; round < 10; round++) {
    const high0 = multiplyHigh(multiplier0, c0);
    const high1 = multiplyHigh(multiplier1, c2);
    const low0 = Math.imul(multiplier0, c0);
    const low1 = Math.imul(multiplier1, c2);
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 = (k0 + weyl0) | 0;
    k1 = (k1 + weyl1) | 0;
  }
  out[offset] = c0;
  out[offset + 1] = c1;
  out[offset + 2] = c2;
  out[offset + 3] = c3;
}

const word = 2 ** 32;
/** Fourth counter word of an ordinary draw and of a fork's key: the two never meet. */
const drawDomain = 0;
const forkDomain = 0xffffffff;

/** A place in a random sequence, as plain JSON. */
export interface RandomState {
  readonly algorithm: "philox4x32-10";
  /** The 64-bit key, low word first. */
  readonly key: readonly [number, number];
  readonly stream: number;
  /** 32-bit words drawn so far. */
  readonly position: number;
}

type Shuffleable =
  unknown[] | Uint8Array | Uint16Array | Uint32Array | Int32Array | Float32Array | Float64Array;

/**
 * Seeded, counter-based random numbers: the same seed, stream and position give the same numbers on every machine, and
 * any position is reached at once. Words, uniforms, integers and permutations are exact everywhere; normals go through
 * `Math.log`, `Math.cos` and `Math.sin`, whose last bit is the JavaScript engine's own.
 */
export class Random {
  #key0: number;
  #key1: number;
  #stream: number;
  /** Number of the next block of four words; exact up to 2^53. */
  #nextBlock = 0;
  #index = 4;
  readonly #words = new Uint32Array(4);

  /**
   * @param seed a safe integer, or a bigint that is taken modulo 2^64
   * @param stream which of 2^32 independent sequences of the seed
   * @throws LineageError `argument` for a seed or a stream out of range
   */
  constructor(seed: number | bigint, stream = 0) {
    if (typeof seed === "number" && !Number.isSafeInteger(seed))
      throw new LineageError("argument", `a random seed is a safe integer or a bigint, not ${seed}`);
    requireWord(stream, "a random stream");
    const bits = BigInt.asUintN(64, BigInt(seed));
    this.#key0 = Number(bits & 0xffffffffn);
    this.#key1 = Number(bits >> 32n);
    this.#stream = stream;
  }

  /** The generator that gives what the one with this `state` would have given next. */
  static from(state: RandomState): Random {
    const random = new Random(0);
    random.state = state;
    return random;
  }

  get state(): RandomState {
    return {
      algorithm: "philox4x32-10",
      key: [this.#key0, this.#key1],
      stream: this.#stream,
      position: this.#nextBlock * 4 - (4 - this.#index),
    };
  }

  /** Moves to a saved place. Throws `argument` for a state that is not one. */
  set state(state: RandomState) {
    if (state.algorithm !== "philox4x32-10")
      throw new LineageError(
        "argument",
        `a random state of algorithm ${JSON.stringify(state.algorithm)} cannot be continued: expected "philox4x32-10"`,
      );
    if (!Array.isArray(state.key) || state.key.length !== 2)
      throw new LineageError("argument", "a random state's key is two 32-bit words");
    requireWord(state.key[0], "a random state's key word");
    requireWord(state.key[1], "a random state's key word");
    requireWord(state.stream, "a random state's stream");
    if (!Number.isSafeInteger(state.position) || state.position < 0)
      throw new LineageError(
        "argument",
        `a random state's position is a whole number, not ${state.position}`,
      );
    this.#key0 = state.key[0];
    this.#key1 = state.key[1];
    this.#stream = state.stream;
    this.#nextBlock = Math.floor(state.position / 4);
    this.#index = 4;
    const drawn = state.position % 4;
    if (drawn > 0) {
      this.#refill();
      this.#index = drawn;
    }
  }

  /**
   * A generator that is independent of this one and of its forks under other labels. It depends on this one's seed and
   * stream only, not on how much has been drawn; drawing from it does not move this one.
   */
  fork(label: string | number): Random {
    const [low, high] = hash64(typeof label === "number" ? `#${label}` : label);
    const key = philox4x32([low, high, this.#stream, forkDomain], [this.#key0, this.#key1]);
    return new Random((BigInt(key[1]!) << 32n) | BigInt(key[0]!));
  }

  /** A whole number in [0, 2^32). */
  nextUint32(): number {
    if (this.#index === 4) this.#refill();
    return this.#words[this.#index++]!;
  }

  /** A double in [0, 1) with 53 random bits. */
  uniform(): number {
    return this.#next53() / 2 ** 53;
  }

  /** A draw from the standard normal distribution (Box and Muller 1958). */
  normal(): number {
    const radius = Math.sqrt(-2 * Math.log((this.nextUint32() + 1) / word));
    return radius * Math.cos((2 * Math.PI * this.nextUint32()) / word);
  }

  /** A whole number in [0, bound), every one equally likely. Throws `argument` unless 1 <= bound <= 2^53. */
  integer(bound: number): number {
    if (!Number.isInteger(bound) || bound < 1 || bound > 2 ** 53)
      throw new LineageError("argument", `integer: the bound is a whole number from 1 to 2^53, not ${bound}`);
    // Draws past the last whole multiple of the bound would favour small results.
    if (bound <= word) {
      const limit = word - (word % bound);
      for (;;) {
        const draw = this.nextUint32();
        if (draw < limit) return draw % bound;
      }
    }
    const limit = 2 ** 53 - (2 ** 53 % bound);
    for (;;) {
      const draw = this.#next53();
      if (draw < limit) return draw % bound;
    }
  }

  /** Puts the elements in random order, in place, and returns the array (Fisher and Yates; Durstenfeld 1964). */
  shuffle<A extends Shuffleable>(array: A): A {
    for (let last = array.length - 1; last > 0; last--) {
      const other = this.integer(last + 1);
      const kept = array[last];
      array[last] = array[other]!;
      array[other] = kept!;
    }
    return array;
  }

  /** The numbers 0 to count - 1 in random order. */
  permutation(count: number): Uint32Array {
    requireWord(count, "the length of a permutation");
    const order = new Uint32Array(count);
    for (let index = 0; index < count; index++) order[index] = index;
    return this.shuffle(order);
  }

  /** Fills with uniform values, low <= value < high before rounding to float32. */
  fillUniform(out: Float32Array, low = 0, high = 1): Float32Array {
    const scale = (high - low) / 2 ** 24;
    for (let index = 0; index < out.length; index++) out[index] = low + scale * (this.nextUint32() >>> 8);
    return out;
  }

  /** Fills with draws from a normal distribution; one pair of words gives two values. */
  fillNormal(out: Float32Array, mean = 0, std = 1): Float32Array {
    for (let index = 0; index < out.length; index += 2) {
      const radius = std * Math.sqrt(-2 * Math.log((this.nextUint32() + 1) / word));
      const angle = (2 * Math.PI * this.nextUint32()) / word;
      out[index] = mean + radius * Math.cos(angle);
      if (index + 1 < out.length) out[index + 1] = mean + radius * Math.sin(angle);
    }
    return out;
  }

  #next53(): number {
    const high = this.nextUint32() >>> 5;
    return high * 2 ** 26 + (this.nextUint32() >>> 6);
  }

  #refill(): void {
    const low = this.#nextBlock % word;
    const high = Math.floor(this.#nextBlock / word);
    block(low, high, this.#stream, drawDomain, this.#key0, this.#key1, this.#words, 0);
    this.#nextBlock++;
    this.#index = 0;
  }
}

function requireWord(value: number, what: string): void {
  if (!Number.isInteger(value) || value < 0 || value >= word)
    throw new LineageError("argument", `${what} is a whole number from 0 to 2^32 - 1, not ${value}`);
}

/** FNV-1a of a label's UTF-16 units in 64 bits, as two words. */
function hash64(label: string): [low: number, high: number] {
  let hash = 0xcbf29ce484222325n;
  for (let index = 0; index < label.length; index++)
    hash = BigInt.asUintN(64, (hash ^ BigInt(label.charCodeAt(index))) * 0x100000001b3n);
  return [Number(hash & 0xffffffffn), Number(hash >> 32n)];
}

/** An index drawn in proportion to the weights. */
export function drawIndex(weights: readonly number[], random: Random): number {
  if (weights.length === 1) return 0;
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  let rest = random.uniform() * total;
  for (const [index, weight] of weights.entries()) {
    rest -= weight;
    if (rest < 0) return index;
  }
  return weights.length - 1;
}
