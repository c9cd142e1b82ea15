export * from "./gpt2.js";
export * from "./load.js";
