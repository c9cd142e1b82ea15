export * from "./gpt2.js";
