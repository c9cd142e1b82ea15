export * from "./albert.js";
export {
  type CausalLanguageModel,
  type LoadedModel,
  causalModel,
  causalModelConfig,
  causalModelTypes,
} from "./architectures.js";
export * from "./bert.js";
export * from "./deberta-v2.js";
export * from "./deberta.js";
export * from "./electra.js";
export * from "./gpt2.js";
export * from "./llama.js";
export * from "./mistral.js";
export * from "./roberta.js";
export * from "./unilm.js";
export * from "./xlm.js";
export * from "./xlnet.js";
