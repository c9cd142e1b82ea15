export * from "./safetensors.js";
export * from "./tokenizer.js";
export * from "./weights.js";
export * from "./onnx.js";
