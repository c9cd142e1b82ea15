export * from "./beam.js";
export * from "./decoder.js";
export * from "./generate.js";
export * from "./sampling.js";
