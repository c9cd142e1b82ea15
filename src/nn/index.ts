export * from "./attention.js";
export * from "./context.js";
export * from "./initializers.js";
export * from "./layers.js";
export * from "./module.js";
export * from "./rotary.js";
export * from "./weights.js";
