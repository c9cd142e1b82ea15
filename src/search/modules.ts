import { existsSync } from "node:fs";
import { copyFile, cp } from "node:fs/promises";
import path from "node:path";
import { z } from "zod";
import { validated } from "../base/check.js";
import { FormatError, LineageError } from "../base/errors.js";
import { readJson, writeJson } from "../base/files.js";
import type { Warn } from "../base/warnings.js";
import { SafetensorsFile } from "../formats/index.js";
import { type Pooling, poolings } from "./pooling.js";

/** A linear layer behind the pooling, with what it computes of its sums. */
export interface DenseModule {
  readonly kind: "dense";
  readonly inputs: number;
  readonly outputs: number;
  readonly activation: "identity" | "tanh" | "relu" | "gelu" | "sigmoid";
  /** `[outputs, inputs]`. */
  readonly weight: Float32Array;
  readonly bias: Float32Array | undefined;
}

export type VectorModule = DenseModule | { readonly kind: "normalize" };

/** What sentence-transformers' files say of a folder. */
export interface SentenceModules {
  /** Folder of the encoder. */
  readonly encoder: string;
  readonly poolings: readonly Pooling[];
  /** Numbers of a state, where the pooling says it. */
  readonly width: number | undefined;
  /** What is done with the pooled vector, in this order. */
  readonly modules: readonly VectorModule[];
  /** Tokens of a text, where the files say it. */
  readonly maxLength: number | undefined;
  /** Whether texts are put into lower case first. */
  readonly lowercase: boolean;
  /** What is put before a text, by the name of its use. */
  readonly prompts: ReadonlyMap<string, string>;
  /** The prompt of a text of which no use is told. */
  readonly defaultPrompt: string | undefined;
}

const unsupported = (file: string, what: string): LineageError =>
  new LineageError("unsupported", `${file} asks for ${what}`);

async function parse<T>(schema: z.ZodType<T>, file: string): Promise<T> {
  return validated(schema, await readJson(file), (problem) => new FormatError(file, problem));
}

/** Warns of entries of a file that are none of those known. */
function warnOfOthers(file: string, json: object, known: readonly string[], warn: Warn): void {
  for (const name of Object.keys(json))
    if (!known.includes(name))
      warn(`${file}: lineage does not know the entry ${JSON.stringify(name)} and ignores it`);
}

const moduleList = z.array(z.looseObject({ path: z.string(), type: z.string() }));

/** Names under which versions of sentence-transformers keep an encoder. */
const encoderKinds = ["Transformer", "BERT", "RoBERTa", "ALBERT", "XLNet", "DistilBERT", "XLMRoBERTa"];

/**
 * What `modules.json` and the files that it names say; a folder without it is an encoder whose vectors are the mean of its
 * states, of length 1. Throws `unsupported` for what is not computed here.
 */
export async function readModules(folder: string, warn: Warn): Promise<SentenceModules> {
  const settings = await readSettings(folder, warn);
  const file = path.join(folder, "modules.json");
  if (!existsSync(file))
    return {
      encoder: folder,
      poolings: ["mean"],
      width: undefined,
      modules: [{ kind: "normalize" }],
      ...(await readEncoderSettings(folder, warn)),
      ...settings,
    };
  let encoder: string | undefined;
  let pooling: { poolings: readonly Pooling[]; width: number | undefined } | undefined;
  const modules: VectorModule[] = [];
  for (const { path: place, type } of await parse(moduleList, file)) {
    const kind = type.split(".").at(-1)!;
    const at = place === "" ? folder : path.join(folder, path.basename(place));
    if (encoderKinds.includes(kind) && encoder === undefined && pooling === undefined) encoder = at;
    else if (kind === "Pooling" && encoder !== undefined && pooling === undefined)
      pooling = await readPooling(path.join(at, "config.json"), settings.defaultPrompt !== undefined, warn);
    else if (kind === "Normalize" && pooling !== undefined) modules.push({ kind: "normalize" });
    else if (kind === "Dense" && pooling !== undefined) modules.push(await readDense(at, warn));
    // Dropout is for training.
    else if (kind !== "Dropout")
      throw unsupported(
        file,
        `a module of the type ${type} in place ${place || "."}; a Transformer, then a Pooling, then Dense and Normalize are known`,
      );
  }
  if (encoder === undefined || pooling === undefined)
    throw unsupported(
      file,
      `no ${encoder === undefined ? "Transformer" : "Pooling"}, without which there are no vectors`,
    );
  return { encoder, ...pooling, modules, ...(await readEncoderSettings(encoder, warn)), ...settings };
}

/**
 * Copies what sentence-transformers' files say beside an encoder that is written anew into `to`: the modules, with the
 * encoder at the top of the folder, and the settings. Nothing is copied of a folder without modules.
 */
export async function copyModules(from: string, to: string): Promise<void> {
  const file = path.join(from, "modules.json");
  if (!existsSync(file)) return;
  const modules = await parse(moduleList, file);
  const encoder = modules.findIndex(({ type }) => encoderKinds.includes(type.split(".").at(-1)!));
  const place = path.basename(modules[encoder]?.path ?? "");
  const settings = [path.join(from, "config_sentence_transformers.json")].concat(
    encoderSettingsNames.map((name) => path.join(from, place, name)),
  );
  for (const setting of settings)
    if (existsSync(setting)) await copyFile(setting, path.join(to, path.basename(setting)));
  for (const [index, { path: folder }] of modules.entries())
    if (index !== encoder && folder !== "" && existsSync(path.join(from, path.basename(folder))))
      await cp(path.join(from, path.basename(folder)), path.join(to, path.basename(folder)), {
        recursive: true,
      });
  await writeJson(
    path.join(to, "modules.json"),
    modules.map((module, index) => (index === encoder ? { ...module, path: "" } : module)),
  );
}

// ---- Beside the modules -------------------------------------------------------------------------------------------

const settingsSchema = z.looseObject({
  prompts: z.record(z.string(), z.string()).nullish(),
  default_prompt_name: z.string().nullish(),
  similarity_fn_name: z.string().nullish(),
});

/** `config_sentence_transformers.json`. */
async function readSettings(
  folder: string,
  warn: Warn,
): Promise<Pick<SentenceModules, "prompts" | "defaultPrompt">> {
  const file = path.join(folder, "config_sentence_transformers.json");
  if (!existsSync(file)) return { prompts: new Map(), defaultPrompt: undefined };
  const json = await parse(settingsSchema, file);
  warnOfOthers(
    file,
    json,
    ["prompts", "default_prompt_name", "similarity_fn_name", "__version__", "model_type"],
    warn,
  );
  const prompts = new Map(Object.entries(json.prompts ?? {}));
  const name = json.default_prompt_name ?? undefined;
  if (name !== undefined && !prompts.has(name))
    throw new FormatError(
      file,
      `default_prompt_name is ${JSON.stringify(name)}, but there is no such prompt`,
    );
  if (json.similarity_fn_name && json.similarity_fn_name !== "cosine")
    warn(
      `${file}: vectors are meant to be compared by ${json.similarity_fn_name}; lineage search compares them by the cosine`,
    );
  return { prompts, defaultPrompt: name === undefined ? undefined : prompts.get(name)! };
}

const encoderSettingsSchema = z.looseObject({
  max_seq_length: z.int().positive().nullish(),
  do_lower_case: z.boolean().nullish(),
});
/** `sentence_bert_config.json`, and what it was called for other encoders. */
const encoderSettingsNames = [
  "bert",
  "roberta",
  "distilbert",
  "camembert",
  "albert",
  "xlm-roberta",
  "xlnet",
].map((name) => `sentence_${name}_config.json`);

async function readEncoderSettings(
  folder: string,
  warn: Warn,
): Promise<Pick<SentenceModules, "maxLength" | "lowercase">> {
  const file = encoderSettingsNames.map((name) => path.join(folder, name)).find((name) => existsSync(name));
  if (file === undefined) return { maxLength: undefined, lowercase: false };
  const json = await parse(encoderSettingsSchema, file);
  warnOfOthers(file, json, ["max_seq_length", "do_lower_case"], warn);
  return { maxLength: json.max_seq_length ?? undefined, lowercase: json.do_lower_case ?? false };
}

// ---- Modules ------------------------------------------------------------------------------------------------------

const modes: ReadonlyMap<string, Pooling> = new Map(
  poolings.map((pooling) => {
    const long = ["cls", "max", "mean"].includes(pooling)
      ? `${pooling}_token${pooling === "cls" ? "" : "s"}`
      : pooling;
    return [`pooling_mode_${long === "weightedmean" ? "weightedmean_tokens" : long}`, pooling];
  }),
);
const poolingSchema = z.looseObject({
  word_embedding_dimension: z.int().positive().optional(),
  embedding_dimension: z.int().positive().optional(),
  pooling_mode: z.union([z.string(), z.array(z.string())]).nullish(),
  include_prompt: z.boolean().nullish(),
});

async function readPooling(
  file: string,
  prompted: boolean,
  warn: Warn,
): Promise<{ poolings: readonly Pooling[]; width: number | undefined }> {
  const json = await parse(poolingSchema, file);
  const known = ["word_embedding_dimension", "embedding_dimension", "pooling_mode", "include_prompt"];
  const others = Object.keys(json).filter((name) => !name.startsWith("pooling_mode_"));
  warnOfOthers(file, Object.fromEntries(others.map((name) => [name, true])), known, warn);
  if (json.include_prompt === false && prompted)
    throw unsupported(file, "vectors without the prompt's tokens (include_prompt)");
  const flags = Object.entries(json).filter(([name, on]) => name.startsWith("pooling_mode_") && on === true);
  const listed =
    json.pooling_mode === null || json.pooling_mode === undefined ? [] : [json.pooling_mode].flat();
  const asked = [...flags.map(([name]) => name), ...listed];
  const chosen = asked.map((name): Pooling => {
    const pooling = modes.get(name) ?? poolings.find((one) => one === name);
    if (!pooling) throw unsupported(file, `${name}; the poolings that are known are ${poolings.join(", ")}`);
    return pooling;
  });
  if (chosen.length === 0) throw unsupported(file, "no pooling");
  const width = json.word_embedding_dimension ?? json.embedding_dimension;
  return { poolings: poolings.filter((pooling) => chosen.includes(pooling)), width };
}

const activations: ReadonlyMap<string, DenseModule["activation"]> = new Map([
  ["torch.nn.modules.linear.Identity", "identity"],
  ["torch.nn.modules.activation.Tanh", "tanh"],
  ["torch.nn.modules.activation.ReLU", "relu"],
  ["torch.nn.modules.activation.GELU", "gelu"],
  ["torch.nn.modules.activation.Sigmoid", "sigmoid"],
]);
const denseSchema = z.looseObject({
  in_features: z.int().positive(),
  out_features: z.int().positive(),
  bias: z.boolean().default(true),
  activation_function: z.string().default("torch.nn.modules.activation.Tanh"),
});

async function readDense(folder: string, warn: Warn): Promise<DenseModule> {
  const file = path.join(folder, "config.json");
  const json = await parse(denseSchema, file);
  warnOfOthers(file, json, ["in_features", "out_features", "bias", "activation_function"], warn);
  const { in_features: inputs, out_features: outputs } = json;
  const activation = activations.get(json.activation_function);
  if (!activation)
    throw unsupported(
      file,
      `the activation ${json.activation_function}; ${[...activations.keys()].join(", ")} are known`,
    );
  const place = path.join(folder, "model.safetensors");
  if (!existsSync(place))
    throw new LineageError(
      "unsupported",
      `${folder} has no model.safetensors: the weights of its linear layer are read from there alone; save the model with a current sentence-transformers`,
    );
  const weights = await SafetensorsFile.open(place);
  const read = async (name: string, shape: readonly number[]): Promise<Float32Array> => {
    const entry = weights.header.tensors.get(name);
    if (entry?.dtype !== "float32" || entry.shape.join() !== shape.join())
      throw new FormatError(
        place,
        `it has no float32 tensor ${name} of the shape [${shape.join(", ")}]${entry ? `, but ${entry.dtype} [${entry.shape.join(", ")}]` : ""}`,
      );
    const bytes = new Uint8Array(entry.byteLength);
    await weights.readInto(name, bytes);
    return new Float32Array(bytes.buffer);
  };
  return {
    kind: "dense",
    inputs,
    outputs,
    activation,
    weight: await read("linear.weight", [outputs, inputs]),
    bias: json.bias ? await read("linear.bias", [outputs]) : undefined,
  };
}
