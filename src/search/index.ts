export { cosineSimilarity } from "../base/numbers.js";
export * from "./embedder.js";
export * from "./search.js";
export { type Pooling, poolings } from "./pooling.js";
export { type SentenceModules, copyModules, readModules } from "./modules.js";
export * from "./vector.js";
