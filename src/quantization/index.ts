export * from "./blocks.js";
export * from "./dynamic.js";
export * from "./ggml.js";
export * from "./normal-float.js";
export * from "./rows.js";
export * from "./verify.js";
export * from "./weights.js";
