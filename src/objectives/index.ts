export * from "./adapter.js";
export {
  type NextTokenOptions,
  nextTokenObjective,
  packedAnswersObjective,
  packedObjective,
} from "./causal.js";
export * from "./completions.js";
export * from "./denoisers.js";
export * from "./denoising.js";
export * from "./masked-lm.js";
export * from "./masking.js";
export * from "./mass.js";
export * from "./permutation.js";
export * from "./policy.js";
export * from "./preference.js";
export * from "./prefix-lm.js";
export * from "./pretraining.js";
export * from "./replaced-tokens.js";
export * from "./reward.js";
export * from "./rows.js";
export * from "./sentences.js";
export * from "./sequence-pretraining.js";
export * from "./sequence-to-sequence.js";
export * from "./span-corruption.js";
export * from "./translation.js";
export * from "./unilm.js";
export * from "./vocabulary.js";
