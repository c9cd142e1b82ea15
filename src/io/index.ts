export type { Encoding, PairOptions } from "./encoding.js";
export * from "./safetensors.js";
export * from "./sentencepiece.js";
export * from "./tokenizer.js";
export type { TokenizerConfig, TokenizerDefinition } from "./tokenizer-definition.js";
export { type UnigramOptions, type UnigramStyle, trainUnigram } from "./unigram.js";
export * from "./weights.js";
export * from "./onnx.js";
export { type WordPieceOptions, trainWordPiece } from "./wordpiece.js";
