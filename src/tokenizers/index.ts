export * from "./chat-template.js";
export type { Encoding, PairOptions } from "./encoding.js";
export { type TokenizerRecipe, trainTokenizer } from "./recipe.js";
export * from "./sentencepiece.js";
export * from "./tokenizer.js";
export { type TokenizerConfig, type TokenizerDefinition, checkConfig } from "./tokenizer-definition.js";
export { type EncoderBpeOptions, type EncoderBpeStyle, trainEncoderBpe } from "./train-encoder-bpe.js";
export { type UnigramOptions, type UnigramStyle, trainUnigram } from "./train-unigram.js";
export { type WordPieceOptions, trainWordPiece } from "./train-wordpiece.js";
