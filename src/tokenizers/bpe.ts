import TinyQueue from "tinyqueue";
import { byteToken, utf8, utf8Length } from "./bytes.js";
import { type Model, type ModelContext, noToken } from "./model.js";
import { literal } from "./unicode.js";

/** The two neighbours that a merge joins. */
export type Merge = readonly [left: string, right: string];

export interface BpeOptions {
  readonly merges: readonly Merge[];
  /** Stands for what the vocabulary does not know. */
  readonly unknownToken?: string;
  /** Whether unknown characters next to each other make one token. */
  readonly fuseUnknown: boolean;
  /** Whether the bytes of an unknown character have tokens. */
  readonly byteFallback: boolean;
  /** Whether a word of the vocabulary is its own token, however merges would cut it. */
  readonly ignoreMerges: boolean;
  /** Before every character of a word but the first. */
  readonly continuingPrefix: string;
  /** After the last character of a word. */
  readonly endSuffix: string;
}

/** Byte-pair encoding, Sennrich et al. 2016, as the reference library runs it: an unknown character is replaced before merging. */
export function createBpe(
  { vocabulary, hidden }: ModelContext,
  { merges, unknownToken, fuseUnknown, byteFallback, ignoreMerges, continuingPrefix, endSuffix }: BpeOptions,
): Model {
  const pairs = new PairTable(merges.length);
  merges.forEach(([left, right], rank) => {
    const joined = left + right.slice(continuingPrefix.length);
    pairs.set(idOf(vocabulary, left), idOf(vocabulary, right), rank, idOf(vocabulary, joined));
  });
  const boundary = independentBoundary(vocabulary, merges, continuingPrefix + endSuffix);
  const unknown = unknownToken === undefined ? undefined : vocabulary.get(unknownToken);

  const symbolsOf = (word: string): Symbols => {
    const symbols = new Symbols();
    // Bytes of an unknown part that is not written yet. The reference writes it before the next known character, and so
    // after the bytes of those that fall back.
    let pending = 0;
    const settle = () => {
      if (pending > 0) symbols.add(unknown!, pending);
      pending = 0;
    };
    for (let unit = 0; unit < word.length;) {
      const code = word.codePointAt(unit)!;
      const size = code > 0xffff ? 2 : 1;
      const bytes = utf8Length(code);
      let piece = size === 1 ? word[unit]! : word.slice(unit, unit + 2);
      if (unit > 0 && continuingPrefix !== "") piece = continuingPrefix + piece;
      unit += size;
      if (unit === word.length && endSuffix !== "") piece += endSuffix;
      const id = vocabulary.get(piece);
      if (id !== undefined) {
        if (pending > 0) settle();
        symbols.add(id, bytes);
        continue;
      }
      const fallback = byteFallback ? bytesOf(piece, vocabulary) : undefined;
      if (fallback) {
        for (const byte of fallback) symbols.add(byte, 1);
        continue;
      }
      if (unknown === undefined) throw noToken(piece);
      if (!fuseUnknown) settle();
      pending += bytes;
    }
    settle();
    return symbols;
  };

  return {
    encode(word, spans) {
      if (ignoreMerges && !hidden.has(word)) {
        const id = vocabulary.get(word);
        if (id !== undefined) {
          spans?.push(0, utf8(word).length);
          return [id];
        }
      }
      if (!spans && boundary && word.length > longWord) {
        const ids: number[] = [];
        for (const part of word.split(boundary)) for (const id of symbolsOf(part).merge(pairs)) ids.push(id);
        return ids;
      }
      return symbolsOf(word).merge(pairs, spans);
    },
  };
}

function idOf(vocabulary: ReadonlyMap<string, number>, token: string): number {
  const id = vocabulary.get(token);
  if (id === undefined)
    throw new RangeError(`the merges need the token ${JSON.stringify(token)}, which the vocabulary has not`);
  return id;
}

/** The tokens of a text's bytes; undefined where one of them has none. */
export function bytesOf(text: string, vocabulary: ReadonlyMap<string, number>): number[] | undefined {
  const ids: number[] = [];
  for (const byte of utf8(text)) {
    const id = vocabulary.get(byteToken(byte));
    if (id === undefined) return undefined;
    ids.push(id);
  }
  return ids;
}

const longWord = 64;
const mark = "\u2581";

/**
 * Where a long text can be cut without a change: before SentencePiece's sign for a space, if no token goes on past one.
 * The parts are words, whose tokens can be remembered.
 */
function independentBoundary(
  vocabulary: ReadonlyMap<string, number>,
  merges: readonly Merge[],
  affixes: string,
): RegExp | undefined {
  if (affixes !== "" || !vocabulary.has(mark)) return undefined;
  const crosses = new RegExp(`[^${mark}]${mark}`);
  return merges.some(([left, right]) => crosses.test(left + right))
    ? undefined
    : new RegExp(`(?<=[^${mark}])(?=${mark})`, "u");
}

// ---- SentencePiece --------------------------------------------------------------------------------------------------

/**
 * Byte-pair encoding as SentencePiece runs it: a rank belongs to the piece that a pair makes, however it is made; characters
 * that are no piece may still be merged into one, and what stays unknown is replaced at the end. Pieces of `userDefined`
 * stand for themselves.
 */
export function createSentencePieceBpe(
  { vocabulary, hidden }: ModelContext,
  options: Pick<BpeOptions, "merges" | "unknownToken" | "byteFallback"> & {
    readonly userDefined: readonly string[];
  },
): Model {
  const { merges, unknownToken, byteFallback, userDefined } = options;
  const unknown = unknownToken === undefined ? undefined : vocabulary.get(unknownToken);
  const ranks = new Map<string, number>();
  merges.forEach(([left, right], rank) => {
    if (!ranks.has(left + right)) ranks.set(left + right, rank);
  });
  const pairs = new PairTable(merges.length);
  for (const [left, right] of merges)
    pairs.set(
      idOf(vocabulary, left),
      idOf(vocabulary, right),
      ranks.get(left + right)!,
      idOf(vocabulary, left + right),
    );
  const frozen = new Set(userDefined);
  const symbols =
    frozen.size === 0
      ? undefined
      : new RegExp(
          `${[...userDefined]
            .sort((a, b) => b.length - a.length)
            .map(literal)
            .join("|")}|[\\s\\S]`,
          "gu",
        );
  const plain = (symbol: string) => vocabulary.has(symbol) && !hidden.has(symbol);
  const boundary = userDefined.some((piece) => piece.includes(mark))
    ? undefined
    : independentBoundary(vocabulary, merges, "");

  const encodeWhole = (word: string, spans?: number[]): readonly number[] => {
    const parts = symbols ? (word.match(symbols) ?? []) : Array.from(word);
    if (parts.every((part) => plain(part) && !frozen.has(part))) {
      const list = new Symbols();
      for (const part of parts) list.add(vocabulary.get(part)!, spans ? utf8(part).length : 1);
      return list.merge(pairs, spans);
    }
    const tokens = mergeByRank(parts, (left, right) =>
      frozen.has(left) || frozen.has(right) ? undefined : ranks.get(left + right),
    );
    const ids: number[] = [];
    let place = 0;
    let lastUnknown = false;
    for (const token of tokens) {
      const bytes = spans ? utf8(token).length : 0;
      const id = plain(token) || frozen.has(token) ? vocabulary.get(token) : undefined;
      const fallback = id === undefined && byteFallback ? bytesOf(token, vocabulary) : undefined;
      if (id !== undefined || fallback) {
        for (const piece of fallback ?? [id!]) {
          ids.push(piece);
          spans?.push(place, place + bytes);
        }
        lastUnknown = false;
      } else if (unknown === undefined) throw noToken(token);
      else {
        if (!lastUnknown) {
          ids.push(unknown);
          spans?.push(place, place + bytes);
        } else if (spans) spans[spans.length - 1]! += bytes;
        lastUnknown = true;
      }
      place += bytes;
    }
    return ids;
  };
  const words = new Map<string, readonly number[]>();
  return {
    encode(word, spans) {
      if (spans || !boundary || word.length <= longWord) return encodeWhole(word, spans);
      const ids: number[] = [];
      for (const part of word.split(boundary)) {
        let known = words.get(part);
        if (!known) {
          known = encodeWhole(part);
          if (words.size >= 2 ** 15) words.clear();
          if (part.length <= longWord) words.set(part, known);
        }
        for (const id of known) ids.push(id);
      }
      return ids;
    },
  };
}

/**
 * Joins neighbours, the pair of lowest rank first and the leftmost of equals, until no pair has a rank.
 * @param rankOf below 2^20 for a pair that may be joined
 */
function mergeByRank(
  symbols: readonly string[],
  rankOf: (left: string, right: string) => number | undefined,
): string[] {
  const count = symbols.length;
  if (count < 2) return [...symbols];
  const tokens: (string | undefined)[] = [...symbols];
  const next = Int32Array.from(symbols, (_, index) => index + 1);
  const previous = Int32Array.from(symbols, (_, index) => index - 1);
  const queue = new TinyQueue<number>();
  // One number orders by rank, then by place; what it promised is looked up again when it comes, so none is ever removed.
  const offer = (place: number): void => {
    const after = next[place]!;
    if (after >= count) return;
    const rank = rankOf(tokens[place]!, tokens[after]!);
    if (rank !== undefined) queue.push(rank * placeFactor + place);
  };
  for (let place = 0; place + 1 < count; place++) offer(place);
  for (let entry = queue.pop(); entry !== undefined; entry = queue.pop()) {
    const place = entry % placeFactor;
    const rank = (entry - place) / placeFactor;
    const after = next[place]!;
    const [left, right] = [tokens[place], tokens[after]];
    if (left === undefined || right === undefined || rankOf(left, right) !== rank) continue;
    tokens[place] = left + right;
    tokens[after] = undefined;
    const beyond = next[after]!;
    next[place] = beyond;
    if (beyond < count) previous[beyond] = place;
    if (previous[place]! >= 0) offer(previous[place]!);
    offer(place);
  }
  return tokens.filter((token) => token !== undefined);
}

const placeFactor = 2 ** 33;

// ---- Pairs and symbols ----------------------------------------------------------------------------------------------

/** The rank and the result of each pair of ids that may be joined; the last of equals holds. */
class PairTable {
  private readonly mask: number;
  private readonly lefts: Int32Array;
  private readonly rights: Int32Array;
  readonly ranks: Int32Array;
  readonly results: Int32Array;

  constructor(count: number) {
    const size = 2 ** Math.ceil(Math.log2(Math.max(8, 2 * count)));
    this.mask = size - 1;
    this.lefts = new Int32Array(size).fill(-1);
    this.rights = new Int32Array(size);
    this.ranks = new Int32Array(size);
    this.results = new Int32Array(size);
  }

  private slot(left: number, right: number): number {
    const { mask, lefts, rights } = this;
    let slot = (Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b)) >>> 0;
    slot = (slot ^ (slot >>> 15)) & mask;
    while (lefts[slot] !== -1 && (lefts[slot] !== left || rights[slot] !== right)) slot = (slot + 1) & mask;
    return slot;
  }

  set(left: number, right: number, rank: number, result: number): void {
    const slot = this.slot(left, right);
    this.lefts[slot] = left;
    this.rights[slot] = right;
    this.ranks[slot] = rank;
    this.results[slot] = result;
  }

  /** Where the pair's rank and result stand; -1 for a pair that is not joined. */
  find(left: number, right: number): number {
    const slot = this.slot(left, right);
    return this.lefts[slot] === -1 ? -1 : slot;
  }
}

/** Symbols beyond which a queue finds the next pair faster than a look at all of them. */
const fewSymbols = 48;

/** The symbols of a word, each with its length in bytes. */
class Symbols {
  private readonly ids: number[] = [];
  private readonly lengths: number[] = [];

  add(id: number, bytes: number): void {
    this.ids.push(id);
    this.lengths.push(bytes);
  }

  /** Joins neighbours, the pair of lowest rank first and the leftmost of equals, until no pair has a rank. */
  merge(pairs: PairTable, spans?: number[]): number[] {
    if (this.ids.length <= fewSymbols) this.mergeFew(pairs);
    else this.mergeMany(pairs);
    if (spans) {
      let place = 0;
      for (const length of this.lengths) spans.push(place, (place += length));
    }
    return this.ids;
  }

  private mergeFew(pairs: PairTable): void {
    const { ids, lengths } = this;
    // The slot of each symbol and its neighbour.
    const slots: number[] = [];
    for (let at = 0; at + 1 < ids.length; at++) slots.push(pairs.find(ids[at]!, ids[at + 1]!));
    for (;;) {
      let best = -1;
      let lowest = Infinity;
      for (let at = 0; at < slots.length; at++) {
        const slot = slots[at]!;
        if (slot < 0) continue;
        const rank = pairs.ranks[slot]!;
        if (rank < lowest) {
          lowest = rank;
          best = at;
        }
      }
      if (best < 0) return;
      ids[best] = pairs.results[slots[best]!]!;
      lengths[best]! += lengths[best + 1]!;
      ids.splice(best + 1, 1);
      lengths.splice(best + 1, 1);
      slots.splice(best, 1);
      if (best > 0) slots[best - 1] = pairs.find(ids[best - 1]!, ids[best]!);
      if (best < slots.length) slots[best] = pairs.find(ids[best]!, ids[best + 1]!);
    }
  }

  /** In time that grows with the number of symbols by little more than its first power: a text without cuts may have millions. */
  private mergeMany(pairs: PairTable): void {
    const { ids, lengths } = this;
    const count = ids.length;
    const next = Int32Array.from(ids, (_, index) => index + 1);
    const previous = Int32Array.from(ids, (_, index) => index - 1);
    const queue = new MinHeap(count);
    const offer = (place: number): void => {
      const after = next[place]!;
      if (after >= count) return;
      const slot = pairs.find(ids[place]!, ids[after]!);
      if (slot >= 0) queue.push(pairs.ranks[slot]! * placeFactor + place);
    };
    for (let place = 0; place + 1 < count; place++) offer(place);
    for (let entry = queue.pop(); entry >= 0; entry = queue.pop()) {
      const place = entry % placeFactor;
      const rank = (entry - place) / placeFactor;
      const after = next[place]!;
      if (ids[place]! < 0 || after >= count) continue;
      const slot = pairs.find(ids[place]!, ids[after]!);
      if (slot < 0 || pairs.ranks[slot] !== rank) continue;
      ids[place] = pairs.results[slot]!;
      lengths[place]! += lengths[after]!;
      ids[after] = -1;
      const beyond = next[after]!;
      next[place] = beyond;
      if (beyond < count) previous[beyond] = place;
      if (previous[place]! >= 0) offer(previous[place]!);
      offer(place);
    }
    let kept = 0;
    for (let place = 0; place < count; place = next[place]!) {
      ids[kept] = ids[place]!;
      lengths[kept++] = lengths[place]!;
    }
    ids.length = lengths.length = kept;
  }
}

/** Numbers of at least 0, the smallest first. */
class MinHeap {
  private values: Float64Array;
  private size = 0;

  constructor(expected: number) {
    this.values = new Float64Array(Math.max(16, expected));
  }

  push(value: number): void {
    if (this.size === this.values.length) {
      const larger = new Float64Array(2 * this.size);
      larger.set(this.values);
      this.values = larger;
    }
    const { values } = this;
    let place = this.size++;
    while (place > 0) {
      const parent = (place - 1) >> 1;
      if (values[parent]! <= value) break;
      values[place] = values[parent]!;
      place = parent;
    }
    values[place] = value;
  }

  /** The smallest; -1 where none is left. */
  pop(): number {
    if (this.size === 0) return -1;
    const { values } = this;
    const top = values[0]!;
    const value = values[--this.size]!;
    const { size } = this;
    let place = 0;
    for (let child = 1; child < size; child = 2 * place + 1) {
      if (child + 1 < size && values[child + 1]! < values[child]!) child++;
      if (values[child]! >= value) break;
      values[place] = values[child]!;
      place = child;
    }
    values[place] = value;
    return top;
  }
}
