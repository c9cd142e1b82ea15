export * from "./embedder.js";
export * from "./search.js";
