export { type AnswerOptions } from "./answers.js";
export * from "./finetune.js";
export { confusionPicture } from "./picture.js";
export * from "./predictor.js";
export type { Measured, PredictOptions, Prediction } from "./tasks.js";
export * from "./encoder-program.js";
export * from "./fill-mask.js";
