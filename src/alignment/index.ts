export * from "./forward.js";
export * from "./pairs.js";
