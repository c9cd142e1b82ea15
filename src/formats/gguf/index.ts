export * from "./blocks.js";
export * from "./file.js";
export {
  type GgufPlace,
  checkGgufShape,
  ggufConfig,
  ggufModel,
  ggufPlace,
  rearrange,
  rearrangeRows,
  ropeScalingOfFactors,
  rotaryRows,
  tensorFormat,
} from "./model.js";
export { ggufStopIds, ggufTokenizer, ggufTokenizerMetadata } from "./tokenizer.js";
export { type GgufTensorToSave, writeGguf } from "./write.js";
