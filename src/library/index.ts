export { type LoadModelOptions, load } from "./load.js";
export type {
  DecoderModel,
  EncoderModel,
  LoadedModel,
  ReplyOptions,
  TaskModel,
  TaskPrediction,
} from "./model.js";
export { cacheFolder, modelPlace } from "./source.js";
