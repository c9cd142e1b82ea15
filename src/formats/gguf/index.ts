export * from "./blocks.js";
export * from "./file.js";
export {
  type GgufPlace,
  checkGgufShape,
  decimal,
  isRearranged,
  rearrange,
  rearrangeRows,
  rotaryRows,
  tensorFormat,
} from "./model.js";
export { type GgufRope, ropeScalingOfGguf, ropeScalingToGguf } from "./rope.js";
export { ggufStopIds, ggufTokenizer, ggufTokenizerMetadata } from "./tokenizer.js";
export { type GgufTensorToSave, writeGguf } from "./write.js";
export { checkMetadata, ropeKeys } from "./metadata.js";
