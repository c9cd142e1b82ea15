export * from "./gguf/index.js";
export * from "./npy.js";
export * from "./onnx.js";
export * from "./place.js";
export * from "./safetensors.js";
export * from "./tokenizer-files.js";
export * from "./weight-files.js";
