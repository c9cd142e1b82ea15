export * from "./embedder.js";
export * from "./fill-mask.js";
export * from "./search.js";
