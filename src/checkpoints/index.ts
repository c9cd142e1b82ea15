export * from "./compare.js";
export { replaceModel } from "./folder.js";
export { type SaveGgufOptions, loadGguf, saveGguf } from "./gguf.js";
export * from "./inference.js";
export * from "./load-encoder.js";
export * from "./load.js";
export * from "./loaded.js";
export * from "./onnx.js";
export type { PreparedOptions } from "./prepared.js";
