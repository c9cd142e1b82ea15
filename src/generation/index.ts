export * from "./beam.js";
export { type CacheType, cacheTypes } from "./cache.js";
export * from "./chat.js";
export * from "./constraint.js";
export * from "./decoder.js";
export * from "./export.js";
export * from "./generate.js";
export * from "./sampling.js";
export * from "./speculative.js";
