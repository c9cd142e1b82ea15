export * from "./advantages.js";
export * from "./forward.js";
export * from "./online.js";
export * from "./pairs.js";
export * from "./policy.js";
export * from "./rollouts.js";
export * from "./watch.js";
