export * from "./embedder.js";
export * from "./search.js";
export { type Pooling, poolings } from "./pooling.js";
