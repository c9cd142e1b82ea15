export { type LoadModelOptions, kindOf, load } from "./load.js";
export type {
  DecoderModel,
  EncoderDecoderModel,
  EncoderModel,
  LoadedModel,
  ReplyOptions,
  StreamOptions,
  StreamReport,
  TaskModel,
  TaskPrediction,
} from "./model.js";
export { cacheFolder, modelPlace } from "./source.js";
export { finetune, finetuneChat, finetuneText, trainAdapter, trainFurther } from "./tune.js";
