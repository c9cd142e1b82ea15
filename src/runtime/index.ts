export type * from "./types.js";
export { createRuntime } from "./node/index.js";
