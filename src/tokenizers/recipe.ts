import type { Tokenizer } from "./tokenizer.js";
import { trainByteLevelBpe } from "./train-byte-level-bpe.js";
import { type EncoderBpeStyle, trainEncoderBpe } from "./train-encoder-bpe.js";
import { type UnigramStyle, trainUnigram } from "./train-unigram.js";
import { trainWordBpe } from "./train-word-bpe.js";
import { trainWordPiece } from "./train-wordpiece.js";

/** Which tokenizer a system has, and how it is learned from text. */
export type TokenizerRecipe =
  | { readonly kind: "byte-level BPE" }
  | { readonly kind: "word BPE" }
  | { readonly kind: "WordPiece" }
  | { readonly kind: "encoder BPE"; readonly style: EncoderBpeStyle }
  | {
      readonly kind: "unigram";
      readonly style: UnigramStyle;
      readonly lowercase?: boolean;
      /** Tokens that stand for hidden spans. Default none. */
      readonly sentinels?: number;
    };

/** Learns the tokenizer of a recipe. */
export function trainTokenizer(
  recipe: TokenizerRecipe,
  texts: Iterable<string>,
  vocabSize: number,
): Tokenizer {
  switch (recipe.kind) {
    case "byte-level BPE":
      return trainByteLevelBpe(texts, { vocabSize });
    case "word BPE":
      return trainWordBpe(texts, { vocabSize });
    case "WordPiece":
      return trainWordPiece(texts, { vocabSize });
    case "encoder BPE":
      return trainEncoderBpe(texts, { vocabSize, style: recipe.style });
    case "unigram":
      return trainUnigram(texts, {
        vocabSize,
        style: recipe.style,
        ...(recipe.lowercase !== undefined && { lowercase: recipe.lowercase }),
        ...(recipe.sentinels !== undefined && { sentinels: recipe.sentinels }),
      });
  }
}
