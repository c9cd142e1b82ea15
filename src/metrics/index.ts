export * from "./bleu.js";
export * from "./chrf.js";
export * from "./rouge.js";
