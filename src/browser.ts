/** Everything that runs in a browser, in one entry: nothing here reaches for Node. */
export { type WebRuntimeOptions, createRuntime } from "./runtime/web.js";
export type * from "./runtime/types.js";
export * as graph from "./graph/index.js";
export * from "./nn/index.js";
export * from "./models/gpt2.js";
export * from "./data/batch.js";
export * from "./training/objective.js";
export * from "./training/optimizers.js";
export * from "./training/schedules.js";
export * from "./training/step.js";
export * from "./generation/beam.js";
export { type CacheType, cacheTypes } from "./generation/cache.js";
export * from "./generation/decoder.js";
export * from "./generation/export.js";
export * from "./generation/generate.js";
export * from "./generation/sampling.js";
export * from "./generation/speculative.js";
export { stories, story } from "./data/stories/index.js";
