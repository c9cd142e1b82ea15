import { existsSync } from "node:fs";
import path from "node:path";
import { LineageError } from "../base/errors.js";
import { readJson } from "../base/files.js";
import { type HeadCheckpoint, loadTaskForInference } from "../checkpoints/index.js";
import { unilm } from "../models/index.js";
import { vocabularyOf, wordPieceTokens } from "../objectives/index.js";
import type { ModelWeights } from "../quantization/index.js";
import { createRuntime } from "../runtime/index.js";
import type { Runtime } from "../runtime/types.js";
import { UnilmGenerator } from "./unilm-generator.js";

/** Whether a folder's `config.json` is a UniLM's: an encoder that writes the text that follows from another. */
export async function holdsTargetWriter(folder: string): Promise<boolean> {
  const file = path.join(folder, "config.json");
  if (!existsSync(file)) return false;
  const json = await readJson(file);
  if (typeof json !== "object" || json === null) return false;
  const entries = json as Readonly<Record<string, unknown>>;
  return entries["model_type"] === unilm.type && (unilm.holds?.(entries) ?? false);
}

/** Writes the text that follows from another, word after word the likeliest, with a UniLM. */
export class TargetWriter implements Disposable {
  private constructor(
    private readonly loaded: HeadCheckpoint<ModelWeights>,
    private readonly generator: UnilmGenerator,
  ) {}

  /** Throws `checkpoint` where the folder has no head for words. */
  static async load(folder: string, { runtime }: { runtime?: Runtime } = {}): Promise<TargetWriter> {
    const loaded = await loadTaskForInference(runtime ?? createRuntime(), folder, "fill-mask");
    const { model, weights, tokenizer } = loaded;
    const generator = await UnilmGenerator.create(
      { encoder: model.encoder, logits: (hidden) => model.head.forward(hidden, {}) },
      weights,
      vocabularyOf(tokenizer, wordPieceTokens),
    );
    return new TargetWriter(loaded, generator);
  }

  /** The target of a source. Throws `length` for a source that leaves no room for one. */
  async write(source: string, { maxNewTokens }: { readonly maxNewTokens: number }): Promise<string> {
    const { tokenizer, model } = this.loaded;
    const ids = tokenizer.encode(source);
    const { contextLength } = model.encoder.config;
    if (ids.length + 3 > contextLength)
      throw new LineageError(
        "length",
        `the text has ${ids.length} tokens, but the model reads at most ${contextLength - 3}; shorten it`,
      );
    const [target] = await this.generator.generate([ids], { maxNewTokens });
    return tokenizer.decode(target!);
  }

  dispose(): void {
    this.generator.dispose();
    this.loaded.weights.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
