export * from "./pretraining.js";
export * from "./systems.js";
export * from "./text.js";
