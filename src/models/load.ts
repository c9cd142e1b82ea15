import { existsSync } from "node:fs";
import path from "node:path";
import { z } from "zod";
import { FormatError, LineageError } from "../base/errors.js";
import { readJson, writeJson } from "../base/files.js";
import type { CausalModel } from "../generation/index.js";
import type { Tensor } from "../graph/index.js";
import { type SaveWeightsOptions, Tokenizer, loadWeights, saveWeightFiles } from "../io/index.js";
import type { ForwardContext, WeightSet, Weights } from "../nn/index.js";
import type { Runtime } from "../runtime/types.js";
import type { LanguageModel } from "../training/index.js";
import { loadGguf } from "./gguf.js";
import { Gpt2, gpt2FromHuggingFace, gpt2ToHuggingFace } from "./gpt2.js";
import { Llama, llamaFromHuggingFace, llamaToHuggingFace } from "./llama.js";
import { Mistral, mistralFromHuggingFace, mistralToHuggingFace } from "./mistral.js";

/** A model of next tokens: it trains, and it continues sequences. */
export interface CausalLanguageModel extends CausalModel, LanguageModel {
  /** Logits `[batch, sequence, vocabSize]` of token ids `[batch, sequence]`. */
  forward(inputIds: Tensor, positionIds?: Tensor, context?: ForwardContext): Tensor;
}

/** How one architecture meets the files that the field keeps it in. */
interface Architecture {
  /** The model that a `config.json` describes. */
  readonly create: (json: unknown) => CausalLanguageModel;
  /** The `config.json` of a model of this architecture; undefined for any other model. */
  readonly describe: (model: CausalLanguageModel) => Record<string, unknown> | undefined;
  /** Tensors that published files hold besides the parameters: buffers, copies of tied weights. */
  readonly unused: RegExp;
}

function architecture<C, M extends CausalLanguageModel & { readonly config: C }>(
  Model: new (config: C) => M,
  fromHuggingFace: (json: unknown) => C,
  toHuggingFace: (config: C) => Record<string, unknown>,
  unused: RegExp,
): Architecture {
  return {
    create: (json) => new Model(fromHuggingFace(json)),
    describe: (model) => (model instanceof Model ? toHuggingFace(model.config) : undefined),
    unused,
  };
}

/** The causal models that there are, by the `model_type` of Hugging Face's `config.json`. */
const architectures: Readonly<Record<string, Architecture>> = {
  gpt2: architecture(
    Gpt2,
    gpt2FromHuggingFace,
    gpt2ToHuggingFace,
    /\.attn\.(masked_)?bias$|^lm_head\.weight$/,
  ),
  llama: architecture(
    Llama,
    llamaFromHuggingFace,
    llamaToHuggingFace,
    /\.rotary_emb\.inv_freq$|^lm_head\.weight$/,
  ),
  mistral: architecture(Mistral, mistralFromHuggingFace, mistralToHuggingFace, /\.rotary_emb\.inv_freq$/),
};

/** `model_type`s that `loadModel` knows. */
export const causalModelTypes: readonly string[] = Object.keys(architectures);

function architectureOf(json: unknown): Architecture {
  const type = (json as { model_type?: unknown } | null)?.model_type;
  const found =
    typeof type === "string" && Object.hasOwn(architectures, type) ? architectures[type] : undefined;
  if (!found)
    throw new LineageError(
      "config",
      `model_type is ${JSON.stringify(type)}, but the causal models here are ${causalModelTypes.join(", ")}`,
    );
  return found;
}

/** The model that a `config.json` describes, without weights. Throws `config` where there is none such or an entry is wrong. */
export const causalModel = (json: unknown): CausalLanguageModel => architectureOf(json).create(json);

/** The `config.json` that describes a model to Hugging Face transformers. */
export function causalModelConfig(model: CausalLanguageModel): Record<string, unknown> {
  for (const { describe } of Object.values(architectures)) {
    const json = describe(model);
    if (json) return json;
  }
  throw new LineageError("argument", `no published layout is known for a ${model.constructor.name}`);
}

/** A model with what it needs; its weights train unless another kind of set is named. */
export interface LoadedModel<W extends WeightSet = Weights> {
  readonly model: CausalLanguageModel;
  readonly weights: W;
  readonly tokenizer: Tokenizer;
  /** Ids that end what the model writes, as it was trained; never the padding's unless it is one of them. Default: the tokenizer's EOS. */
  readonly stopIds?: readonly number[] | undefined;
}

/**
 * Reads a `.gguf` file, or a checkpoint folder: `config.json`, `model.safetensors` or its shards, and the tokenizer. Throws
 * where one is missing or they do not fit, and `memory` before it begins what will not fit into what is free.
 */
export async function loadModel(runtime: Runtime, folder: string): Promise<LoadedModel> {
  if (folder.endsWith(".gguf")) return loadGguf(runtime, folder);
  const { json, model, tokenizer, stopIds, unused } = await readCheckpoint(folder);
  if ((json as { quantization_config?: unknown }).quantization_config)
    throw new LineageError(
      "checkpoint",
      `${folder} is quantised: it generates and chats, but training, evaluation and export need the original`,
    );
  return { model, tokenizer, stopIds, weights: await loadWeights(runtime, model, folder, { unused }) };
}

/** A checkpoint folder without its weights. */
export async function readCheckpoint(folder: string): Promise<{
  readonly json: unknown;
  readonly model: CausalLanguageModel;
  readonly tokenizer: Tokenizer;
  readonly stopIds: readonly number[] | undefined;
  /** Tensors that the files may hold besides the parameters. */
  readonly unused: RegExp;
}> {
  const configFile = path.join(folder, "config.json");
  if (!existsSync(configFile)) {
    throw new LineageError("checkpoint", `${folder} is not a checkpoint: it has no config.json`);
  }
  const json = await readJson(configFile);
  const { create, unused } = architectureOf(json);
  const model = create(json);
  const tokenizer = await Tokenizer.load(folder);
  if (tokenizer.vocabSize > model.config.vocabSize) {
    throw new LineageError(
      "tokenizer",
      `the tokenizer of ${folder} has ${tokenizer.vocabSize} tokens, but the model has embeddings for ${model.config.vocabSize}`,
    );
  }
  return { json, model, tokenizer, unused, stopIds: await readStopIds(folder, json) };
}

const endIds = z.looseObject({ eos_token_id: z.union([z.int(), z.array(z.int())]).nullish() });

/** What `generation_config.json`, or else `config.json`, names as the ends of a text. */
async function readStopIds(folder: string, config: unknown): Promise<readonly number[] | undefined> {
  const file = path.join(folder, "generation_config.json");
  for (const [source, json] of [
    [file, existsSync(file) ? await readJson(file) : {}],
    [path.join(folder, "config.json"), config],
  ] as const) {
    const parsed = endIds.safeParse(json);
    if (!parsed.success) throw new FormatError(source, z.prettifyError(parsed.error));
    const ids = parsed.data.eos_token_id;
    if (ids !== undefined && ids !== null) return typeof ids === "number" ? [ids] : ids;
  }
  return undefined;
}

/** Writes what `loadModel`, and Hugging Face transformers, read. */
export async function saveModel(
  folder: string,
  { model, weights, tokenizer, stopIds }: LoadedModel,
  options: SaveWeightsOptions = {},
): Promise<void> {
  await writeJson(path.join(folder, "config.json"), {
    ...causalModelConfig(model),
    torch_dtype: options.dtype ?? "float32",
  });
  await saveTokenizer(folder, tokenizer, stopIds);
  await saveWeightFiles(folder, weights, options);
}

/** Writes a tokenizer and the ends of a text beside a model. */
export async function saveTokenizer(
  folder: string,
  tokenizer: Tokenizer,
  stopIds: readonly number[] | undefined,
): Promise<void> {
  await tokenizer.save(folder);
  if (stopIds)
    await writeJson(path.join(folder, "generation_config.json"), {
      bos_token_id: tokenizer.bosId,
      eos_token_id: stopIds.length === 1 ? stopIds[0] : stopIds,
      pad_token_id: tokenizer.padId,
    });
}
