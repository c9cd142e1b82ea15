import { plainFastTokenizer, template } from "./definitions.js";
import { byteLevelTokenizer } from "./from-vocabulary.js";
import type { Tokenizer } from "./tokenizer.js";
import { learnByteLevelBpe } from "./train-byte-level-bpe.js";

/** Whose special tokens a byte-level BPE has, and where it puts them. */
export type EncoderBpeStyle = "roberta" | "deberta" | "xlm" | "mass" | "transformer";

export interface EncoderBpeOptions {
  /** Tokens of the vocabulary, the 256 bytes and the special ones included. */
  readonly vocabSize: number;
  readonly style: EncoderBpeStyle;
}

interface Style {
  /** In the order of their ids, from 0. */
  readonly special: readonly string[];
  readonly first?: string;
  readonly separator: string;
  /** Separators between two texts. */
  readonly between: 1 | 2;
  readonly padding: string;
  readonly unknown: string;
  readonly mask?: string;
}

const styles: Readonly<Record<EncoderBpeStyle, Style>> = {
  roberta: {
    special: ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    first: "<s>",
    separator: "</s>",
    between: 2,
    padding: "<pad>",
    unknown: "<unk>",
    mask: "<mask>",
  },
  deberta: {
    special: ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"],
    first: "[CLS]",
    separator: "[SEP]",
    between: 1,
    padding: "[PAD]",
    unknown: "[UNK]",
    mask: "[MASK]",
  },
  xlm: {
    special: ["<s>", "</s>", "<pad>", "<unk>", "<special0>", "<special1>"],
    first: "</s>",
    separator: "</s>",
    between: 2,
    padding: "<pad>",
    unknown: "<unk>",
    mask: "<special1>",
  },
  mass: {
    special: ["<s>", "</s>", "<pad>", "<unk>", "<special0>", "<special1>"],
    separator: "</s>",
    between: 1,
    padding: "<pad>",
    unknown: "<unk>",
    mask: "<special1>",
  },
  transformer: {
    special: ["<pad>", "</s>", "<unk>"],
    separator: "</s>",
    between: 1,
    padding: "<pad>",
    unknown: "<unk>",
  },
};

/**
 * Trains a byte-level BPE with a system's special tokens first: `<s> a </s></s> b </s>` as RoBERTa has them, `[CLS] a
 * [SEP] b [SEP]` as DeBERTa, `</s> a </s></s> b </s>` as XLM, whose languages share one vocabulary, `a </s>` as the
 * Transformer and MASS, whose two sides do. Throws `data` for an empty text.
 */
export function trainEncoderBpe(
  documents: Iterable<string>,
  { vocabSize, style }: EncoderBpeOptions,
): Tokenizer {
  const { special, first, separator, between, padding, unknown, mask } = styles[style];
  const { tokens, merges } = learnByteLevelBpe(documents, vocabSize - special.length);
  const vocabulary = new Map([...new Set([...special, ...tokens])].map((token, id) => [token, id]));
  const named = (token: string) => [token, vocabulary.get(token)!] as const;
  const separators = Array.from({ length: between }, () => separator);
  const opening = first === undefined ? [] : [first];
  const typeOfPair = style === "deberta" ? 1 : 0;
  return byteLevelTokenizer({
    vocabulary,
    merges,
    special,
    postProcessor: template(
      [...opening, "A", separator],
      [...opening, "A", ...separators, ["B", typeOfPair], [separator, typeOfPair]],
      [...new Set([...opening, separator])].map(named),
    ),
    config: {
      ...plainFastTokenizer,
      ...(style === "deberta" && { model_input_names: ["input_ids", "token_type_ids", "attention_mask"] }),
      ...(first !== undefined && { bos_token: first, cls_token: first, sep_token: separator }),
      eos_token: separator,
      pad_token: padding,
      unk_token: unknown,
      ...(mask !== undefined && { mask_token: mask }),
    },
  });
}
