import {
  type AdapterRequest,
  type FinetuneChatRequest,
  type FinetuneChatResult,
  type FinetuneRequest,
  type FinetuneResult,
  type FinetuneTextRequest,
  type FurtherRequest,
  type RunControl,
  type TextResult,
  type TrainControl,
  type TrainResult,
  finetune as finetuneFolder,
  finetuneChat as finetuneChatOf,
  finetuneText as finetuneTextFolder,
  trainAdapter as trainAdapterOf,
  trainFurther as trainFurtherOf,
} from "../tasks/index.js";
import { modelPlace } from "./source.js";

// What begins with a finished model takes ORG/NAME of the hub, too, as `load` does.

/** Fine-tunes an encoder or a decoder on a labelled table. `model` is a folder, or ORG/NAME of the hub. */
export const finetune = async (request: FinetuneRequest, control: RunControl = {}): Promise<FinetuneResult> =>
  finetuneFolder(
    { ...request, model: await modelPlace(request.model, { foldersOnly: "fine-tuned" }) },
    control,
  );

/** Fine-tunes a decoder on conversations. `model` is a folder, a `.gguf` file, or ORG/NAME of the hub. */
export const finetuneChat = async (
  request: FinetuneChatRequest,
  control: RunControl = {},
): Promise<FinetuneChatResult> =>
  finetuneChatOf({ ...request, model: await modelPlace(request.model) }, control);

/** Fine-tunes an encoder-decoder on pairs of texts. `model` is a folder, or ORG/NAME of the hub. */
export const finetuneText = async (
  request: FinetuneTextRequest,
  control: RunControl = {},
): Promise<TextResult> =>
  finetuneTextFolder(
    { ...request, model: await modelPlace(request.model, { foldersOnly: "fine-tuned" }) },
    control,
  );

/** Trains all weights of a decoder further. `base` is a folder, a `.gguf` file, or ORG/NAME of the hub. */
export const trainFurther = async (
  request: FurtherRequest,
  control: TrainControl = {},
): Promise<TrainResult> => trainFurtherOf({ ...request, base: await modelPlace(request.base) }, control);

/** Trains an adapter beside a decoder. `base` is a folder, a `.gguf` file, or ORG/NAME of the hub. */
export const trainAdapter = async (
  request: AdapterRequest,
  control: TrainControl = {},
): Promise<TrainResult> => trainAdapterOf({ ...request, base: await modelPlace(request.base) }, control);
