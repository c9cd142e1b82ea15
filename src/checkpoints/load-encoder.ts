import { existsSync } from "node:fs";
import path from "node:path";
import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { readJson, writeJson } from "../base/files.js";
import { settleFolder } from "../base/folders.js";
import {
  modelPlace,
  loadTokenizer,
  loadWeights,
  writeTokenizer,
  openWeightFiles,
  type SafetensorsFile,
  saveWeights,
} from "../formats/index.js";
import { Tokenizer } from "../tokenizers/index.js";
import {
  type Encoder,
  type EncoderConfig,
  EncoderWithHead,
  type HeadName,
  type Weights,
  namedParameters,
} from "../nn/index.js";
import type { Runtime } from "../runtime/types.js";
import { emitWarning } from "../base/warnings.js";
import { replaceModel } from "./folder.js";
import {
  type EncoderSystem,
  encoderConfigJson,
  encoderOf,
  headOfConfig,
  systemsOfKind,
} from "../models/index.js";
import { requireLayers } from "./counts.js";
import type { LoadOptions } from "./loaded.js";

/** How each head is called in messages. */
const headWords: Readonly<Record<HeadName, string>> = {
  "fill-mask": "filling masks",
  classify: "answers about whole sequences",
  tag: "labels of tokens",
  span: "answers as spans",
  choice: "multiple choice",
};

/** Whether a head has an output for each class. */
const countsClasses = (head: HeadName): boolean => head === "classify" || head === "tag";

/** `model_type`s that `loadEncoder` knows. */
export const encoderModelTypes: readonly string[] = [
  ...new Set(systemsOfKind("encoder").map(({ type }) => type)),
];

/** The encoder that a `config.json` describes with a head, without weights. Throws `config` where an entry is wrong. */
export const encoderForTask = (json: unknown, head: HeadName, numLabels = 2): EncoderWithHead => {
  const system = encoderOf(json);
  return system.heads[head].create(system.config.read(json), countsClasses(head) ? numLabels : 2);
};

export interface LoadedEncoder {
  readonly system: EncoderSystem;
  readonly encoder: Encoder;
  readonly weights: Weights;
  readonly tokenizer: Tokenizer;
}

export interface LoadedTask {
  readonly system: EncoderSystem;
  readonly model: EncoderWithHead;
  readonly weights: Weights;
  readonly tokenizer: Tokenizer;
  readonly head: HeadName;
  /** Names of the classes, where the checkpoint has names for them. */
  readonly labels: readonly string[] | undefined;
  /** Parameters that the checkpoint does not have, which begin at random. */
  readonly fresh: readonly string[];
  /** What is new, as a sentence for a person; undefined where nothing is. */
  readonly statement: string | undefined;
}

export interface TaskOptions extends LoadOptions {
  /** Classes to tell apart; 1 for a number. Default: as many as the checkpoint's head has, else two. */
  readonly numLabels?: number;
  /** Whether the head begins at random: where the checkpoint has none of the kind (default), always, or never. */
  readonly newHead?: "if missing" | "always" | "never";
  /** Of a new head's first values. Default 0. */
  readonly seed?: number;
}

const labelled = z.object({
  id2label: z.record(z.string(), z.string()).nullish(),
});

/** Names of the classes in a `config.json`, in the order of their ids. */
function classNamesOf(json: unknown): string[] | undefined {
  const entries = Object.entries(labelled.safeParse(json).data?.id2label ?? {});
  const labels: string[] = [];
  for (const [id, label] of entries) labels[Number(id)] = label;
  const complete = labels.length === entries.length && labels.every((label) => label !== undefined);
  // LABEL_0, LABEL_1 are what transformers writes where nobody named the classes.
  return entries.length > 0 && complete && !labels.every((label, id) => label === `LABEL_${id}`)
    ? labels
    : undefined;
}

async function readConfig(folder: string): Promise<unknown> {
  if ((await modelPlace(folder)) === "gguf")
    throw new LineageError(
      "unsupported",
      `${folder} is a GGUF file; encoders are loaded from checkpoint folders, in which they can be fine-tuned, too`,
    );
  await settleFolder(folder);
  const file = path.join(folder, "config.json");
  if (!existsSync(file))
    throw new LineageError("checkpoint", `${folder} is not a checkpoint: it has no config.json`);
  return readJson(file);
}

async function readTokenizer(folder: string, config: EncoderConfig): Promise<Tokenizer> {
  const tokenizer = await loadTokenizer(folder);
  for (const warning of tokenizer.warnings) emitWarning(warning);
  if (tokenizer.vocabSize > config.vocabSize)
    throw new LineageError(
      "tokenizer",
      `the tokenizer of ${folder} has ${tokenizer.vocabSize} tokens, but the model has embeddings for ${config.vocabSize}`,
    );
  return tokenizer;
}

/** Names under which published files may hold a parameter of an encoder, besides its own. */
function aliases(prefix: string, name: string): readonly string[] {
  const start = `${prefix}.`;
  const places = name.startsWith(start) ? [name, name.slice(start.length)] : [name, start + name];
  // TensorFlow's names of norms, which old conversions kept; and a bias that is tied to its decoder's.
  const old = places.map((place) =>
    place.replace(/LayerNorm\.weight$/, "LayerNorm.gamma").replace(/LayerNorm\.bias$/, "LayerNorm.beta"),
  );
  const tied = name.replace(/^(cls\.predictions|predictions|lm_head)\.bias$/, "$1.decoder.bias");
  return [...new Set([...places, ...old, tied])];
}

const stored = (files: readonly SafetensorsFile[], names: readonly string[]) =>
  names
    .map((name) => files.map(({ header }) => header.tensors.get(name)).find((entry) => entry !== undefined))
    .find((entry) => entry !== undefined);

/**
 * Reads an encoder's folder without any head: `config.json`, `model.safetensors` (names with or without the family's
 * prefix) and the tokenizer. It has a pooler where the checkpoint has one. Throws where a file is missing or they do not fit.
 */
export async function loadEncoder(
  runtime: Runtime,
  folder: string,
  { warn = emitWarning, systems = [] }: LoadOptions = {},
): Promise<LoadedEncoder> {
  const json = await readConfig(folder);
  const system = encoderOf(json, systems);
  const { prefix } = system;
  const config = system.config.read(json, warn);
  const files = await openWeightFiles(folder);
  requireLayers(path.join(folder, "config.json"), system, config, countTensors(files));
  const full = system.create(config, { pooler: true });
  const pooler = [...namedParameters(full).keys()]
    .filter((name) => name.startsWith("pooler."))
    .every((name) => stored(files, aliases(prefix, name)));
  const encoder = pooler ? full : system.create(config, { pooler: false });
  const tokenizer = await readTokenizer(folder, encoder.config);
  const weights = await loadWeights(runtime, encoder, folder, { aliases: (name) => aliases(prefix, name) });
  return { system, encoder, weights, tokenizer };
}

/**
 * Reads an encoder's folder for a task, with the task's head from the checkpoint where it has one; `fresh` and `statement`
 * say what begins anew. Throws `checkpoint` where the head there is for other classes, or where there is none and
 * `newHead` is "never".
 */
export async function loadEncoderForTask(
  runtime: Runtime,
  folder: string,
  head: HeadName,
  { numLabels, newHead = "if missing", seed = 0, warn = emitWarning, systems = [] }: TaskOptions = {},
): Promise<LoadedTask> {
  const json = await readConfig(folder);
  const system = encoderOf(json, systems);
  const { prefix } = system;
  const config = system.config.read(json, warn);
  const files = await openWeightFiles(folder);
  requireLayers(path.join(folder, "config.json"), system, config, countTensors(files));
  const authors = head === "fill-mask" ? system.authorsMaskedLm?.(config) : undefined;
  const build = (classes: number): EncoderWithHead =>
    authors && storesAll(files, authors, prefix)
      ? authors
      : system.heads[head].create(config, countsClasses(head) ? classes : 2);
  const held = headOfConfig(system, json);
  // Heads of different tasks share the name `classifier`; the configuration says whose this one is.
  const usable = newHead !== "always" && (held === undefined || held === head);
  const classes = usable ? classesStored(files, system, head) : undefined;
  const wanted = numLabels ?? classes ?? 2;
  if (countsClasses(head) && classes !== undefined && wanted !== classes) {
    throw new LineageError(
      "checkpoint",
      `the head of ${folder} tells ${classes} classes apart, but the task has ${wanted}: take a checkpoint that fits, or begin with a new head`,
    );
  }
  const model = build(wanted);
  const fresh = [...namedParameters(model).keys()].filter((name) =>
    name.startsWith(`${prefix}.`)
      ? name.startsWith(`${prefix}.pooler.`) && !stored(files, aliases(prefix, name))
      : !usable || !stored(files, aliases(prefix, name)),
  );
  const none = `has no head for ${headWords[head]}${held && held !== head ? `, but one for ${headWords[held]}` : ""}`;
  if (newHead === "never" && fresh.length > 0)
    throw new LineageError(
      "checkpoint",
      `${folder} ${none}; fine-tune it first (it lacks ${fresh.join(", ")})`,
    );
  const tokenizer = await readTokenizer(folder, model.encoder.config);
  const begins = new Set(fresh);
  const weights = await loadWeights(runtime, model, folder, {
    aliases: (name) => (begins.has(name) ? [] : aliases(prefix, name)),
    optional: (name) => begins.has(name),
    seed,
  });
  return {
    system,
    model,
    weights,
    tokenizer,
    head,
    labels: classes === undefined ? undefined : classNamesOf(json),
    fresh,
    statement:
      fresh.length === 0
        ? undefined
        : `${newHead === "always" ? "a new head was asked for" : `the checkpoint ${none}`}: ${fresh.join(", ")} begin at random and must be trained`,
  };
}

/** Whether the files have every parameter of a model. */
const storesAll = (files: readonly SafetensorsFile[], model: EncoderWithHead, prefix: string): boolean =>
  [...namedParameters(model).keys()].every((name) => stored(files, aliases(prefix, name)));

const countTensors = (files: readonly SafetensorsFile[]): number =>
  files.reduce((count, { header }) => count + header.tensors.size, 0);

/** How many classes the checkpoint's head tells apart; undefined where it has none of the kind. */
function classesStored(
  files: readonly SafetensorsFile[],
  { heads, prefix }: EncoderSystem,
  head: HeadName,
): number | undefined {
  const { output } = heads[head];
  return output === undefined ? undefined : stored(files, aliases(prefix, `${output}.weight`))?.shape[0];
}

/** Writes what `loadEncoder`, `loadEncoderForTask` and Hugging Face transformers read. */
export async function saveEncoder(
  folder: string,
  saved: LoadedEncoder | Pick<LoadedTask, "system" | "model" | "weights" | "tokenizer" | "head" | "labels">,
): Promise<void> {
  const json =
    "encoder" in saved
      ? encoderConfigJson(saved.system, saved.encoder)
      : encoderConfigJson(saved.system, saved.model.encoder, saved.head, saved.labels);
  await replaceModel(folder, async (staging) => {
    await writeJson(path.join(staging, "config.json"), json);
    await writeTokenizer(saved.tokenizer, staging);
    await saveWeights(path.join(staging, "model.safetensors"), saved.weights);
  });
}
