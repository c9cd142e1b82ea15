import { existsSync } from "node:fs";
import path from "node:path";
import { LineageError } from "../base/errors.js";
import { readJson, writeJson } from "../base/files.js";
import { Tokenizer, loadWeights, saveWeights } from "../io/index.js";
import type { Weights } from "../nn/index.js";
import type { Runtime } from "../runtime/types.js";
import { Gpt2, gpt2FromHuggingFace, gpt2ToHuggingFace } from "./gpt2.js";

export interface LoadedModel {
  readonly model: Gpt2;
  readonly weights: Weights;
  readonly tokenizer: Tokenizer;
}

/** Reads a checkpoint folder: `config.json`, `model.safetensors` and the tokenizer. Throws where one is missing or they do not fit. */
export async function loadModel(runtime: Runtime, folder: string): Promise<LoadedModel> {
  const configFile = path.join(folder, "config.json");
  if (!existsSync(configFile)) {
    throw new LineageError("checkpoint", `${folder} is not a checkpoint: it has no config.json`);
  }
  const model = new Gpt2(gpt2FromHuggingFace(await readJson(configFile)));
  const tokenizer = await Tokenizer.load(folder);
  if (tokenizer.vocabSize > model.config.vocabSize) {
    throw new LineageError(
      "tokenizer",
      `the tokenizer of ${folder} has ${tokenizer.vocabSize} tokens, but the model has embeddings for ${model.config.vocabSize}`,
    );
  }
  return {
    model,
    tokenizer,
    weights: await loadWeights(runtime, model, folder),
  };
}

/** Writes what `loadModel`, and Hugging Face transformers, read. */
export async function saveModel(folder: string, { model, weights, tokenizer }: LoadedModel): Promise<void> {
  await writeJson(path.join(folder, "config.json"), gpt2ToHuggingFace(model.config));
  await tokenizer.save(folder);
  await saveWeights(path.join(folder, "model.safetensors"), weights);
}
