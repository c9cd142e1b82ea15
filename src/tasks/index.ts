export { loraOptions } from "./adapter-options.js";
export { type AnswerOptions } from "./answers.js";
export * from "./chat-options.js";
export {
  type ChatSample,
  type FinetuneChatRequest,
  type FinetuneChatResult,
  finetuneChat,
  resumeChat,
} from "./chat.js";
export * from "./cross-validation.js";
export * from "./encoder-program.js";
export * from "./fill-mask.js";
export { readExamples } from "./finetune-data.js";
export * from "./grow.js";
export * from "./finetune-options.js";
export { type FinetuneRequest, type FinetuneResult, finetune, resumeFinetuning } from "./finetune.js";
export * from "./predictor.js";
export * from "./show-conversations.js";
export type { Measured, PredictOptions, Prediction } from "./task.js";
export * from "./pretrain.js";
export { type RunControl, smallSizes } from "./run.js";
export * from "./train-options.js";
export { resumeTraining, train, trainAdapter, trainFurther, trainObjective } from "./train.js";
export * from "./unilm-generator.js";
export * from "./target-writer.js";
export * from "./text-options.js";
export {
  type FinetuneTextRequest,
  type TextResult,
  type TextSample,
  type TrainTextRequest,
  finetuneText,
  holdsChatRun,
  holdsTextRun,
  resumeText,
  trainText,
} from "./text.js";
