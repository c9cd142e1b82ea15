export * from "./adapter-bank.js";
export * from "./adapter.js";
export * from "./checkpoint.js";
export * from "./compare.js";
export * from "./compare-encoders.js";
export * from "./encoder-onnx.js";
export * from "./held-encoder.js";
export { readConfig, replaceModel } from "./folder.js";
export { type SaveGgufOptions, loadGguf, saveGguf } from "./gguf.js";
export { type SaveGgufAdapterOptions, isGgufAdapter, saveGgufAdapter } from "./gguf-adapter.js";
export { type GenerationDefaults, writeGenerationConfig } from "./generation-config.js";
export * from "./inference.js";
export { encoderModelTypes, loadEncoderForInference } from "./load-encoder.js";
export * from "./load.js";
export {
  type TaskForInference,
  type TaskInferenceOptions,
  type TaskOptions,
  loadForTask,
  loadTaskForInference,
  networkForTask,
} from "./load-task.js";
export * from "./onnx.js";
export type { PreparedOptions } from "./prepared.js";
export * from "./save-pretrained.js";
export * from "./save.js";
export * from "./widen.js";
export * from "./words.js";
