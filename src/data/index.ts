export * from "./batch.js";
export * from "./buckets.js";
export * from "./corpus.js";
export * from "./examples.js";
export * from "./loader.js";
export * from "./packing.js";
export { stories, story } from "./stories/index.js";
export * from "./table.js";
export * from "./tokens.js";
