import { LineageError } from "../base/errors.js";
import { namedToken } from "./added-tokens.js";
import { type SentencePieceModel, sentencePieceDefinition } from "./sentencepiece.js";
import { addedToken, template } from "./definitions.js";
import { Tokenizer, type EncodeOptions } from "./tokenizer.js";
import type { TokenizerConfig, TokenizerDefinition } from "./tokenizer-definition.js";

export interface MarianTokenizerOptions {
  /** What cuts texts that are read, and those that are written. */
  readonly source: SentencePieceModel;
  readonly target: SentencePieceModel;
  /** Ids by piece, the same for both. */
  readonly vocabulary: ReadonlyMap<string, number>;
  readonly config?: TokenizerConfig;
  /** The files that all of it was read from, by name. */
  readonly files: ReadonlyMap<string, Uint8Array>;
}

const names = { eos_token: "</s>", unk_token: "<unk>", pad_token: "<pad>" } as const;
const entries = ["eos_token", "unk_token", "pad_token"] as const;

/**
 * The tokenizer of Marian's translation models: a SentencePiece model for each side over one vocabulary of ids, which may lack
 * pieces of either. A text may begin with the code of the language that it is to be translated to, `>>de<<`. Throws `tokenizer`
 * for a vocabulary without one of the special tokens.
 */
export function marianTokenizer({
  source,
  target,
  vocabulary,
  config = {},
  files,
}: MarianTokenizerOptions): Tokenizer {
  const whole = { ...names, ...config, tokenizer_class: "MarianTokenizer", lineage_cut: "sentencepiece" };
  for (const entry of entries) {
    const token = namedToken(whole, entry);
    if (token === undefined || !vocabulary.has(token))
      throw new LineageError(
        "tokenizer",
        `the vocabulary lacks ${String(token)}, the ${entry} of a MarianTokenizer`,
      );
  }
  const side = (model: SentencePieceModel, other?: Tokenizer) =>
    new MarianTokenizer(model, whole, vocabulary, { files, ...(other && { target: other }) });
  return side(source, side(target));
}

/** The language that a text is to be translated to. */
const languageCode = /^>>[^]*?<</;

/** How much less likely than any piece of a side is one of the other side alone. */
const ofOtherSide = 1000;

class MarianTokenizer extends Tokenizer {
  constructor(
    private readonly model: SentencePieceModel,
    config: TokenizerConfig,
    vocabulary: ReadonlyMap<string, number>,
    parts: { readonly files: ReadonlyMap<string, Uint8Array>; readonly target?: Tokenizer },
  ) {
    const { definition } = sentencePieceDefinition(model);
    const special = entries.map((entry) => namedToken(config, entry)!);
    const [end] = special as [string, string, string];
    super(
      {
        ...definition,
        added_tokens: special
          .filter((token) => vocabulary.has(token))
          .map((content) => addedToken(vocabulary.get(content)!, content)),
        post_processor: template(["A", end], ["A", "B", end], [[end, vocabulary.get(end)!]]),
      },
      config,
      "source.spm",
      { ...parts, vocabulary },
    );
  }

  override encode(text: string, options?: EncodeOptions): number[] {
    const code = languageCode.exec(text)?.[0];
    if (code === undefined) return super.encode(text, options);
    return [this.tokenToId(code) ?? this.unkId!, ...super.encode(text.slice(code.length), options)];
  }

  /** The pieces in the order of the vocabulary. Those of the other side alone are there to be written. */
  override get standalone(): TokenizerDefinition {
    const scores = new Map(this.model.pieces.map(({ piece, score }) => [piece, score]));
    const least = Math.min(...scores.values()) - ofOtherSide;
    const vocab = Array.from({ length: this.vocabSize }, (_, id): [string, number] => {
      const piece = this.idToToken(id);
      return piece === undefined ? [`<gap ${id}>`, least] : [piece, scores.get(piece) ?? least];
    });
    const model = { type: "Unigram", unk_id: this.unkId, vocab, byte_fallback: false };
    const codes = vocab.flatMap(([piece], id) =>
      languageCode.exec(piece)?.[0] === piece ? [{ ...addedToken(id, piece), special: false }] : [],
    );
    return { ...this.definition, model, added_tokens: [...this.definition.added_tokens, ...codes] };
  }
}
