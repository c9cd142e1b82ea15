export { type AnswerOptions } from "./answers.js";
export * from "./cross-validation.js";
export * from "./encoder-program.js";
export * from "./fill-mask.js";
export { readExamples } from "./finetune-data.js";
export * from "./finetune-options.js";
export { type FinetuneResult, finetune, resumeFinetuning } from "./finetune.js";
export { confusionPicture } from "./picture.js";
export * from "./predictor.js";
export type { Measured, PredictOptions, Prediction } from "./task.js";
export {
  type TrainControl,
  type TrainOptions,
  type TrainRequest,
  type TrainResult,
  type TrainSizes,
  resumeTraining,
  train,
  trainObjective,
  trainOptions,
  smallSizes,
} from "./train.js";
export * from "./unilm-generator.js";
export * from "./target-writer.js";
