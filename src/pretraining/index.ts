export * from "./pretraining.js";
export * from "./systems.js";
