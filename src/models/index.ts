export * from "./albert.js";
export * from "./bert.js";
export * from "./electra.js";
export * from "./gpt2.js";
export * from "./llama.js";
export * from "./load.js";
export * from "./mistral.js";
export * from "./roberta.js";
