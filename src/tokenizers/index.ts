export type { AddedToken } from "./added-tokens.js";
export { bytePattern } from "./bytes.js";
export * from "./chat-template.js";
export * from "./default-template.js";
export type { ChatTurns } from "./chat-turns.js";
export { template } from "./definitions.js";
export type { Encoding, PairOptions } from "./encoding.js";
export { type TokenizerRecipe, trainTokenizer } from "./recipe.js";
export * from "./from-vocabulary.js";
export * from "./languages.js";
export * from "./marian.js";
export {
  controlToken,
  controlled,
  controlsOf,
  modeTokens,
  sentinelToken,
  sentinelsOf,
  withTokens,
} from "./more-tokens.js";
export * from "./sentencepiece.js";
export { type SentencePieceRules, sentencePieceRules } from "./sentencepiece-rules.js";
export * from "./target.js";
export { templateOf } from "./text-template.js";
export * from "./tokenizer.js";
export { type TokenizerConfig, type TokenizerDefinition, checkConfig } from "./tokenizer-definition.js";
export { trainByteLevelBpe } from "./train-byte-level-bpe.js";
export { type EncoderBpeOptions, type EncoderBpeStyle, trainEncoderBpe } from "./train-encoder-bpe.js";
export { type UnigramOptions, type UnigramStyle, trainUnigram } from "./train-unigram.js";
export { type WordBpeOptions, trainWordBpe } from "./train-word-bpe.js";
export { type WordPieceOptions, trainWordPiece } from "./train-wordpiece.js";
