/**
 * Transformer language models: load one and write, chat, translate, embed or predict with it; train your own; fine-tune.
 *
 *     import { load } from "lineage";
 *     using model = await load("HuggingFaceTB/SmolLM2-135M-Instruct", { quantize: 4 });
 *     console.log(await model.chat([{ role: "user", content: "Why is the sky blue?" }]));
 */
export { LineageError } from "./base/errors.js";
export {
  type DecoderModel,
  type EncoderDecoderModel,
  type EncoderModel,
  type LoadModelOptions,
  type LoadedModel,
  type ReplyOptions,
  type StreamOptions,
  type StreamReport,
  type TaskModel,
  type TaskPrediction,
  finetune,
  finetuneChat,
  finetuneText,
  load,
  trainAdapter,
  trainFurther,
} from "./library/index.js";
export type { AttentionMap, LookOptions, Looked, LookedText, LookedToken } from "./look/index.js";
export { type SystemName, systems } from "./models/index.js";
export { createRuntime } from "./runtime/index.js";
export { cosineSimilarity } from "./search/index.js";
export {
  type AdapterRequest,
  type FinetuneChatRequest,
  type FinetuneChatResult,
  type FinetuneRequest,
  type FinetuneResult,
  type FinetuneTextRequest,
  type FurtherRequest,
  type PretrainRequest,
  type PretrainResult,
  type RunControl,
  type TextResult,
  type TrainControl,
  type TrainRequest,
  type TrainResult,
  type TrainTextRequest,
  pretrain,
  resumeChat,
  resumeFinetuning,
  resumePretraining,
  resumeText,
  resumeTraining,
  train,
  trainText,
} from "./tasks/index.js";
export type { ChatMessage } from "./tokenizers/index.js";
export type { TextReport, TransformOptions, Transformation, WriteOptions } from "./generation/index.js";
