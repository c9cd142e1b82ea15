import { LineageError } from "../base/errors.js";
import { bytePattern, byteToken } from "./bytes.js";
import { addedToken, plainFastTokenizer, template } from "./definitions.js";
import { Tokenizer } from "./tokenizer.js";
import { countWords } from "./train-bpe.js";

/** Whose special tokens a Unigram tokenizer has, and where it puts them. */
export type UnigramStyle = "albert" | "xlnet" | "t5" | "mbart" | "lossless";

export interface UnigramOptions {
  /** Tokens of the vocabulary, the special ones and the characters included. */
  readonly vocabSize: number;
  /** Default `albert`: `[CLS] a [SEP] b [SEP]`. `xlnet` ends with `<sep> <cls>`, `t5` and `mbart` with `</s>`.
   * `lossless` is PaLM's, Chowdhery et al. 2022, section 2.2: all spaces stay, every digit is a token, and a character without
   * a piece becomes the bytes of its UTF-8. */
  readonly style?: UnigramStyle;
  /** Tokens `<extra_id_0>` and so on that stand for hidden spans; they come last, the first of them at the end. Default none. */
  readonly sentinels?: number;
  /** Default: as the style was published: ALBERT's is lower case, the others keep case. */
  readonly lowercase?: boolean;
  /** Share of all characters that get a piece; words with a rarer one teach nothing. Default 0.9995, as SentencePiece. */
  readonly characterCoverage?: number;
  /** Characters of the longest piece. Default 16. */
  readonly maxPieceLength?: number;
}

/** SentencePiece's sign for a space, which starts a word. */
const space = "\u2581";
const maxSeeds = 1_000_000;
/** Pieces that stay after each round of pruning, and passes of expectation-maximisation before it. */
const shrinkingFactor = 0.75;
const passesPerRound = 2;

/**
 * Trains a Unigram tokenizer as SentencePiece does, Kudo 2018, section 3.2: from all frequent substrings of words, a
 * unigram language model is fitted by expectation-maximisation, and the pieces whose loss costs the likelihood least are
 * dropped until `vocabSize` are left. Pieces never cross words, scripts, or the border of numbers and letters. Throws
 * `data` for an empty text, `argument` when the vocabulary cannot hold the characters.
 */
export function trainUnigram(documents: Iterable<string>, options: UnigramOptions): Tokenizer {
  const {
    vocabSize,
    style = "albert",
    sentinels = 0,
    lowercase = style === "albert",
    characterCoverage = 0.9995,
    maxPieceLength = 16,
  } = options;
  const { special, unknown, postProcessor, config } = styles[style];
  const lossless = style === "lossless";
  const counts = countWords(documents, (document) =>
    lossless ? losslessSegmentsOf(document) : segmentsOf(document, lowercase),
  );
  if (counts.size === 0) throw new LineageError("data", "there is no text to train a tokenizer on");
  const characters = coveredCharacters(counts, characterCoverage);
  const spans = Array.from({ length: sentinels }, (_, index) => `<extra_id_${sentinels - 1 - index}>`);
  const wanted = vocabSize - special.length - sentinels;
  if (wanted < characters.size) {
    throw new LineageError(
      "argument",
      `a vocabulary of ${vocabSize} tokens cannot hold ${special.length + sentinels} special tokens and the ${characters.size} characters of this text; ` +
        `make it larger, or characterCoverage smaller`,
    );
  }
  const words = Array.from(counts, ([text, count]) => ({ characters: [...text], count })).filter((word) =>
    word.characters.every((character) => characters.has(character)),
  );
  const model = new UnigramModel(words, seedPieces(words, maxPieceLength), maxPieceLength);
  // A tenth above the target: the characters that must stay are only sorted out at the end.
  const desired = Math.floor(wanted * 1.1);
  for (;;) {
    for (let pass = 0; pass < passesPerRound; pass++) model.maximize(model.expect());
    if (model.alive <= desired || !model.prune(desired)) break;
  }
  const pieces = model.finalPieces(wanted, characters);
  const withoutScore = (token: string): [string, number] => [token, 0];
  const vocab = [...special.map(withoutScore), ...pieces, ...spans.map(withoutScore)];
  const idOf = (token: string) => special.indexOf(token);
  return new Tokenizer(
    {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: [
        ...special.filter((token) => !bytePattern.test(token)).map((token) => addedToken(idOf(token), token)),
        ...spans.map((token, index) => addedToken(vocab.length - sentinels + index, token)),
      ],
      ...(lossless ? losslessParts : wordParts(lowercase)),
      post_processor: postProcessor(idOf),
      model: { type: "Unigram", unk_id: idOf(unknown), vocab, byte_fallback: lossless },
    },
    {
      ...config,
      ...(style === "t5" && { extra_ids: sentinels, additional_special_tokens: [...spans].reverse() }),
      do_lower_case: lowercase,
      model_max_length: 512,
    },
  );
}

/** How text is written, cut and joined where every word is marked by the space before it. */
const wordParts = (lowercase: boolean) => ({
  normalizer: {
    type: "Sequence",
    normalizers: [
      { type: "NFKC" },
      ...(lowercase ? [{ type: "Lowercase" }] : []),
      { type: "Replace", pattern: { Regex: "\\s+" }, content: " " },
      { type: "Strip", strip_left: true, strip_right: true },
    ],
  },
  pre_tokenizer: { type: "Metaspace", replacement: space, prepend_scheme: "always", split: true },
  decoder: { type: "Metaspace", replacement: space, prepend_scheme: "always", split: true },
});

/** Spaces before the last of several, a word with the space before it, a space, a digit, another blank: none is lost. */
const losslessCut = `${space}+(?=${space})|${space}?[^${space}\\s\\p{N}]+|${space}|\\p{N}|\\s`;
const losslessPattern = new RegExp(losslessCut, "gu");

/** How text is written, cut and joined where nothing of it may be lost. */
const losslessParts = {
  normalizer: { type: "Replace", pattern: { String: " " }, content: space },
  pre_tokenizer: { type: "Split", pattern: { Regex: losslessCut }, behavior: "Isolated", invert: false },
  decoder: {
    type: "Sequence",
    decoders: [
      { type: "Replace", pattern: { String: space }, content: " " },
      { type: "ByteFallback" },
      { type: "Fuse" },
    ],
  },
};

interface Style {
  readonly special: readonly string[];
  readonly unknown: string;
  readonly postProcessor: (idOf: (token: string) => number) => ReturnType<typeof template> | null;
  readonly config: Readonly<Record<string, unknown>>;
}

const styles: Readonly<Record<UnigramStyle, Style>> = {
  albert: {
    special: ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"],
    unknown: "<unk>",
    postProcessor: (idOf) =>
      template(
        ["[CLS]", "A", "[SEP]"],
        ["[CLS]", "A", "[SEP]", ["B", 1], ["[SEP]", 1]],
        ["[CLS]", "[SEP]"].map((token) => [token, idOf(token)]),
      ),
    config: {
      tokenizer_class: "AlbertTokenizer",
      pad_token: "<pad>",
      unk_token: "<unk>",
      cls_token: "[CLS]",
      sep_token: "[SEP]",
      mask_token: "[MASK]",
    },
  },
  xlnet: {
    special: ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>"],
    unknown: "<unk>",
    postProcessor: (idOf) =>
      template(
        ["A", "<sep>", ["<cls>", 2]],
        ["A", "<sep>", ["B", 1], ["<sep>", 1], ["<cls>", 2]],
        ["<sep>", "<cls>"].map((token) => [token, idOf(token)]),
      ),
    config: {
      tokenizer_class: "XLNetTokenizer",
      bos_token: "<s>",
      eos_token: "</s>",
      pad_token: "<pad>",
      unk_token: "<unk>",
      cls_token: "<cls>",
      sep_token: "<sep>",
      mask_token: "<mask>",
      padding_side: "left",
    },
  },
  t5: {
    special: ["<pad>", "</s>", "<unk>"],
    unknown: "<unk>",
    postProcessor: (idOf) => template(["A", "</s>"], ["A", "</s>", "B", "</s>"], [["</s>", idOf("</s>")]]),
    config: { tokenizer_class: "T5Tokenizer", eos_token: "</s>", pad_token: "<pad>", unk_token: "<unk>" },
  },
  lossless: {
    special: ["<pad>", "</s>", "<unk>", ...Array.from({ length: 256 }, (_, byte) => byteToken(byte))],
    unknown: "<unk>",
    postProcessor: () => null,
    config: {
      ...plainFastTokenizer,
      eos_token: "</s>",
      pad_token: "<pad>",
      unk_token: "<unk>",
    },
  },
  mbart: {
    special: ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    unknown: "<unk>",
    postProcessor: (idOf) => template(["A", "</s>"], ["A", "B", "</s>"], [["</s>", idOf("</s>")]]),
    config: {
      ...plainFastTokenizer,
      bos_token: "<s>",
      eos_token: "</s>",
      cls_token: "<s>",
      sep_token: "</s>",
      pad_token: "<pad>",
      unk_token: "<unk>",
      mask_token: "<mask>",
    },
  },
};

// ---- Words --------------------------------------------------------------------------------------------------------

/** Words as SentencePiece writes them: no blank but the sign of the space before each. */
const segmentsOf = (document: string, lowercase: boolean): string[] => {
  const text = document.normalize("NFKC");
  return (lowercase ? text.toLowerCase() : text)
    .split(/\s+/u)
    .filter((word) => word !== "")
    .flatMap((word) => runsOfScript(space + word.replaceAll(space, "")));
};

/** All of a text, as the tokenizer will cut it. */
const losslessSegmentsOf = (document: string): string[] =>
  (document.replaceAll(" ", space).match(losslessPattern) ?? []).flatMap(runsOfScript);

/**
 * Runs of one script within a word, which may begin with the sign of the space before it: pieces cross neither, so the
 * segmentation of a run does not depend on what is around it.
 */
function runsOfScript(word: string): string[] {
  const segments: string[] = [];
  let run = "";
  let kind: string | undefined;
  for (const character of word) {
    const next = (character === space ? undefined : scriptOf(character)) ?? kind;
    if (kind !== undefined && next !== kind) {
      segments.push(run);
      run = "";
    }
    run += character;
    kind = next;
  }
  return [...segments, run];
}

const scripts: readonly (readonly [string, RegExp])[] = [
  ["number", /\p{N}/u],
  ["latin", /\p{Script=Latin}/u],
  // Japanese words mix its three scripts.
  ["han", /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\u30fc]/u],
  ["hangul", /\p{Script=Hangul}/u],
  ["cyrillic", /\p{Script=Cyrillic}/u],
  ["greek", /\p{Script=Greek}/u],
  ["arabic", /\p{Script=Arabic}/u],
  ["hebrew", /\p{Script=Hebrew}/u],
  ["devanagari", /\p{Script=Devanagari}/u],
  ["thai", /\p{Script=Thai}/u],
  ["letter", /\p{L}/u],
];
const scriptCache = new Map<string, string | undefined>();

/** Which script a character belongs to; undefined for a mark, which belongs to whatever it is on. */
function scriptOf(character: string): string | undefined {
  if (scriptCache.has(character)) return scriptCache.get(character);
  const script = /\p{M}/u.test(character)
    ? undefined
    : (scripts.find(([, pattern]) => pattern.test(character))?.[0] ?? "other");
  scriptCache.set(character, script);
  return script;
}

function coveredCharacters(counts: ReadonlyMap<string, number>, coverage: number): Map<string, number> {
  const frequency = new Map<string, number>();
  let total = 0;
  for (const [segment, count] of counts) {
    for (const character of segment) {
      frequency.set(character, (frequency.get(character) ?? 0) + count);
      total += count;
    }
  }
  const covered = new Map<string, number>();
  let sum = 0;
  for (const [character, count] of [...frequency].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1))) {
    if (sum >= total * coverage) break;
    covered.set(character, count);
    sum += count;
  }
  return covered;
}

// ---- Model --------------------------------------------------------------------------------------------------------

interface Word {
  readonly characters: readonly string[];
  readonly count: number;
}

/**
 * All characters, and the substrings that occur twice or more with the highest frequency times length: where to start.
 * Longer substrings are only looked for where their shorter beginning was frequent.
 */
function seedPieces(words: readonly Word[], maxPieceLength: number): Map<string, number> {
  const seeds = new Map<string, number>();
  let level = new Map<string, number>();
  for (const { characters, count } of words)
    for (const character of characters) level.set(character, (level.get(character) ?? 0) + count);
  for (const [character, count] of level) seeds.set(character, count);
  const longer: [piece: string, score: number][] = [];
  for (let length = 2; length <= maxPieceLength && level.size > 0; length++) {
    const next = new Map<string, number>();
    for (const { characters, count } of words) {
      for (let start = 0; start + length <= characters.length; start++) {
        const beginning = characters.slice(start, start + length - 1).join("");
        if (!level.has(beginning)) continue;
        const piece = beginning + characters[start + length - 1]!;
        next.set(piece, (next.get(piece) ?? 0) + count);
      }
    }
    for (const [piece, count] of next) {
      if (count < 2) next.delete(piece);
      else longer.push([piece, count * length]);
    }
    level = next;
  }
  longer.sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1));
  for (const [piece, score] of longer.slice(0, maxSeeds - seeds.size)) seeds.set(piece, score);
  return seeds;
}

/** A lattice of one word: which piece spans which characters. Edges of one end lie together, ends ascending. */
interface Lattice {
  readonly length: number;
  readonly count: number;
  readonly starts: Uint8Array | Uint32Array;
  readonly ends: Uint8Array | Uint32Array;
  readonly pieces: Int32Array;
}

/** The unigram language model: pieces, their log-probabilities and the words that it is fitted to. */
class UnigramModel {
  private readonly names: readonly string[];
  private readonly ids: ReadonlyMap<string, number>;
  private readonly lengths: Uint8Array;
  private readonly scores: Float64Array;
  private readonly dead: Uint8Array;
  private readonly lattices: readonly Lattice[];
  alive: number;

  constructor(
    words: readonly Word[],
    seeds: ReadonlyMap<string, number>,
    private readonly maxPieceLength: number,
  ) {
    this.names = [...seeds.keys()];
    this.ids = new Map(this.names.map((name, id) => [name, id]));
    this.lengths = Uint8Array.from(this.names, (name) => [...name].length);
    let total = 0;
    for (const score of seeds.values()) total += score;
    this.scores = Float64Array.from(seeds.values(), (score) => Math.log(score / total));
    this.dead = new Uint8Array(this.names.length);
    this.alive = this.names.length;
    this.lattices = words.map((word) => this.latticeOf(word.characters, word.count));
  }

  private latticeOf(characters: readonly string[], count: number): Lattice {
    const starts: number[] = [];
    const ends: number[] = [];
    const pieces: number[] = [];
    for (let end = 1; end <= characters.length; end++) {
      let piece = "";
      for (let start = end - 1; start >= 0 && end - start <= this.maxPieceLength; start--) {
        piece = characters[start]! + piece;
        const id = this.ids.get(piece);
        if (id === undefined) continue;
        starts.push(start);
        ends.push(end);
        pieces.push(id);
      }
    }
    const Places = characters.length < 256 ? Uint8Array : Uint32Array;
    return {
      length: characters.length,
      count,
      starts: Places.from(starts),
      ends: Places.from(ends),
      pieces: Int32Array.from(pieces),
    };
  }

  /** Expected number of times that each piece occurs, over all segmentations of all words. */
  expect(): Float64Array {
    const expected = new Float64Array(this.names.length);
    const longest = Math.max(...this.lattices.map(({ length }) => length), 0) + 1;
    const alpha = new Float64Array(longest);
    const beta = new Float64Array(longest);
    for (const { length, count, starts, ends, pieces } of this.lattices) {
      alpha.fill(-Infinity, 1, length + 1);
      alpha[0] = 0;
      for (let edge = 0; edge < pieces.length; edge++) {
        const piece = pieces[edge]!;
        if (this.dead[piece]) continue;
        const end = ends[edge]!;
        alpha[end] = logAdd(alpha[end]!, alpha[starts[edge]!]! + this.scores[piece]!);
      }
      beta.fill(-Infinity, 0, length);
      beta[length] = 0;
      for (let edge = pieces.length - 1; edge >= 0; edge--) {
        const piece = pieces[edge]!;
        if (this.dead[piece]) continue;
        const start = starts[edge]!;
        beta[start] = logAdd(beta[start]!, beta[ends[edge]!]! + this.scores[piece]!);
      }
      const total = alpha[length]!;
      for (let edge = 0; edge < pieces.length; edge++) {
        const piece = pieces[edge]!;
        if (this.dead[piece]) continue;
        expected[piece]! +=
          count * Math.exp(alpha[starts[edge]!]! + this.scores[piece]! + beta[ends[edge]!]! - total);
      }
    }
    return expected;
  }

  /** New probabilities from expected counts, with the variational form of them that favours fewer pieces. */
  maximize(expected: Float64Array): void {
    let total = 0;
    for (let piece = 0; piece < expected.length; piece++) {
      if (this.dead[piece]) continue;
      // Characters stay, so that every word keeps a segmentation.
      if (expected[piece]! < 0.5 && this.lengths[piece]! > 1) this.kill(piece);
      else total += Math.max(expected[piece]!, 0.5);
    }
    const normalizer = digamma(total);
    for (let piece = 0; piece < expected.length; piece++)
      if (!this.dead[piece]) this.scores[piece] = digamma(Math.max(expected[piece]!, 0.5)) - normalizer;
  }

  private kill(piece: number): void {
    this.dead[piece] = 1;
    this.alive--;
  }

  /** The most probable segmentation, as pieces; `without` is left out of it. */
  private best({ length, starts, ends, pieces }: Lattice, without = -1): number[] {
    const score = new Float64Array(length + 1).fill(-Infinity);
    const from = new Int32Array(length + 1);
    score[0] = 0;
    for (let edge = 0; edge < pieces.length; edge++) {
      const piece = pieces[edge]!;
      if (this.dead[piece] || piece === without) continue;
      const end = ends[edge]!;
      const candidate = score[starts[edge]!]! + this.scores[piece]!;
      if (candidate > score[end]!) {
        score[end] = candidate;
        from[end] = edge;
      }
    }
    const path: number[] = [];
    for (let end = length; end > 0; end = starts[from[end]!]!) path.push(pieces[from[end]!]!);
    return path.reverse();
  }

  /**
   * Drops the pieces that the likelihood of the text misses least, down to `desired` or to the shrinking factor.
   * Returns whether any piece went.
   */
  prune(desired: number): boolean {
    const frequency = new Float64Array(this.names.length);
    let total = 0;
    for (const lattice of this.lattices) {
      for (const piece of this.best(lattice)) {
        frequency[piece]! += lattice.count;
        total += lattice.count;
      }
    }
    const before = this.alive;
    const candidates: { piece: number; loss: number }[] = [];
    const logTotal = Math.log(total);
    let kept = 0;
    for (let piece = 0; piece < this.names.length; piece++) {
      if (this.dead[piece]) continue;
      if (this.lengths[piece]! === 1) {
        kept++;
        continue;
      }
      const lattice = this.latticeOf([...this.names[piece]!], 1);
      const alternative = this.best(lattice, piece);
      const isBest = this.best(lattice).length === 1;
      const count = frequency[piece]!;
      if (count === 0 || !isBest) {
        this.kill(piece);
        continue;
      }
      const logAlternativeTotal = Math.log(total + count * (alternative.length - 1));
      let logAlternative = 0;
      for (const part of alternative)
        logAlternative += Math.log(frequency[part]! + count) - logAlternativeTotal;
      candidates.push({ piece, loss: count * (Math.log(count) - logTotal - logAlternative) });
    }
    const target = Math.max(desired, Math.floor(before * shrinkingFactor));
    candidates.sort((a, b) => b.loss - a.loss || a.piece - b.piece);
    for (const { piece } of candidates.slice(Math.max(0, target - kept))) this.kill(piece);
    return this.alive < before;
  }

  /** The `wanted` best pieces with their log-probabilities, every character among them. */
  finalPieces(wanted: number, characters: ReadonlyMap<string, number>): [string, number][] {
    const rank = (pieces: number[]) => pieces.sort((a, b) => this.scores[b]! - this.scores[a]! || a - b);
    const living = this.names.map((_, id) => id).filter((id) => !this.dead[id]);
    const single = living.filter((id) => characters.has(this.names[id]!));
    const longer = rank(living.filter((id) => !characters.has(this.names[id]!)));
    const chosen = rank([...single, ...longer.slice(0, wanted - characters.size)]);
    const lowest = Math.min(...chosen.map((id) => this.scores[id]!));
    const missing = [...characters.keys()].filter((character) => !this.ids.has(character));
    return [
      ...chosen.map((id): [string, number] => [this.names[id]!, this.scores[id]!]),
      ...missing.map((character, place): [string, number] => [character, lowest - 1e-4 * (place + 1)]),
    ];
  }
}

function logAdd(a: number, b: number): number {
  if (a === -Infinity) return b;
  if (b === -Infinity) return a;
  return a > b ? a + Math.log1p(Math.exp(b - a)) : b + Math.log1p(Math.exp(a - b));
}

/** Derivative of the logarithm of the gamma function, for positive `x`: recurrence, then its asymptotic series. */
function digamma(x: number): number {
  let result = 0;
  for (; x < 7; x++) result -= 1 / x;
  const y = x - 0.5;
  const square = 1 / (y * y);
  return (
    result +
    Math.log(y) +
    square * (1 / 24 - square * (7 / 960 - square * (31 / 8064 - square * (127 / 30720))))
  );
}
