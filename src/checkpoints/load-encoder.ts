import { existsSync } from "node:fs";
import path from "node:path";
import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { readJson, writeJson } from "../base/files.js";
import { settleFolder } from "../base/folders.js";
import {
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
  headNames,
  namedParameters,
} from "../nn/index.js";
import type { Runtime } from "../runtime/types.js";
import { replaceModel } from "./folder.js";
import {
  Albert,
  albertForMaskedLm,
  albertForMultipleChoice,
  albertForQuestionAnswering,
  albertForSequenceClassification,
  albertForTokenClassification,
  albertFromHuggingFace,
  albertToHuggingFace,
  Bert,
  bertForMaskedLm,
  bertForMultipleChoice,
  bertForQuestionAnswering,
  bertForSequenceClassification,
  bertForTokenClassification,
  bertFromHuggingFace,
  bertToHuggingFace,
  DebertaV2,
  DebertaV2Generator,
  debertaV2ForMaskedLm,
  debertaV2ForMultipleChoice,
  debertaV2ForQuestionAnswering,
  debertaV2ForSequenceClassification,
  debertaV2ForTokenClassification,
  debertaV2FromHuggingFace,
  debertaV2ToHuggingFace,
  Deberta,
  DebertaPretraining,
  debertaForMaskedLm,
  debertaForMultipleChoice,
  debertaForQuestionAnswering,
  debertaForSequenceClassification,
  debertaForTokenClassification,
  debertaFromHuggingFace,
  debertaToHuggingFace,
  Electra,
  electraForMaskedLm,
  electraForMultipleChoice,
  electraForQuestionAnswering,
  electraForSequenceClassification,
  electraForTokenClassification,
  electraFromHuggingFace,
  electraToHuggingFace,
  Roberta,
  robertaForMaskedLm,
  robertaForMultipleChoice,
  robertaForQuestionAnswering,
  robertaForSequenceClassification,
  robertaForTokenClassification,
  robertaFromHuggingFace,
  robertaToHuggingFace,
  Xlm,
  xlmForMaskedLm,
  xlmForMultipleChoice,
  xlmForQuestionAnswering,
  xlmForSequenceClassification,
  xlmForTokenClassification,
  xlmFromHuggingFace,
  xlmToHuggingFace,
  Xlnet,
  xlnetForMultipleChoice,
  xlnetForPretraining,
  xlnetForQuestionAnswering,
  xlnetForSequenceClassification,
  xlnetForTokenClassification,
  xlnetFromHuggingFace,
  xlnetToHuggingFace,
} from "../models/index.js";
/** How each head is called in messages, and in the names of transformers' classes. */
const headWords: Readonly<Record<HeadName, { readonly words: string; readonly suffix: string }>> = {
  "fill-mask": { words: "filling masks", suffix: "ForMaskedLM" },
  classify: { words: "answers about whole sequences", suffix: "ForSequenceClassification" },
  tag: { words: "labels of tokens", suffix: "ForTokenClassification" },
  span: { words: "answers as spans", suffix: "ForQuestionAnswering" },
  choice: { words: "multiple choice", suffix: "ForMultipleChoice" },
};

/** The head of a class of transformers: `BertForTokenClassification`, `XLMForQuestionAnsweringSimple`. */
export const headOfClass = (name: string): HeadName | undefined =>
  headNames.find((head) => name.includes(headWords[head].suffix));

/** Whether a head has an output for each class. */
const countsClasses = (head: HeadName): boolean => head === "classify" || head === "tag";

/** How one family of encoders meets the files that the field keeps it in. */
interface Family {
  /** What transformers' classes begin with: `Bert`. */
  readonly className: string;
  /** First part of the encoder's names in a checkpoint with a head: `bert`. */
  readonly prefix: string;
  /** The configuration that a `config.json` describes, and everything that can be built from it. */
  readonly read: (json: unknown) => {
    readonly encoder: (options: { readonly pooler: boolean }) => Encoder;
    readonly heads: Readonly<Record<HeadName, (numLabels: number) => EncoderWithHead>>;
    /** The masked language model under its authors' names, where transformers has another. */
    readonly authorsMaskedLm: (() => EncoderWithHead) | undefined;
  };
  /** The `config.json` of an encoder of this family; undefined for any other. */
  readonly describe: (encoder: Encoder) => Record<string, unknown> | undefined;
}

function family<C extends EncoderConfig>(definition: {
  readonly className: string;
  readonly prefix: string;
  readonly Model: new (config: C, ...options: never[]) => Encoder & { readonly config: C };
  readonly fromHuggingFace: (json: unknown) => C;
  readonly toHuggingFace: (config: C) => Record<string, unknown>;
  readonly encoder: (config: C, options: { readonly pooler: boolean }) => Encoder;
  readonly heads: Readonly<Record<HeadName, (config: C, numLabels: number) => EncoderWithHead>>;
  readonly authorsMaskedLm?: (config: C) => EncoderWithHead;
}): Family {
  const { className, prefix, Model, fromHuggingFace, toHuggingFace, encoder, heads, authorsMaskedLm } =
    definition;
  return {
    className,
    prefix,
    read: (json) => {
      const config = fromHuggingFace(json);
      return {
        encoder: (options) => encoder(config, options),
        // The others have one published shape.
        heads: Object.fromEntries(
          headNames.map((head) => [
            head,
            (numLabels: number) => heads[head](config, countsClasses(head) ? numLabels : 2),
          ]),
        ) as Record<HeadName, (numLabels: number) => EncoderWithHead>,
        authorsMaskedLm: authorsMaskedLm && (() => authorsMaskedLm(config)),
      };
    },
    describe: (model) => (model instanceof Model ? toHuggingFace(model.config) : undefined),
  };
}

/** The encoders that there are, by the `model_type` of Hugging Face's `config.json`. */
const families: Readonly<Record<string, Family>> = {
  albert: family({
    className: "Albert",
    prefix: "albert",
    Model: Albert,
    fromHuggingFace: albertFromHuggingFace,
    toHuggingFace: albertToHuggingFace,
    encoder: (config, options) => new Albert(config, options),
    heads: {
      "fill-mask": albertForMaskedLm,
      classify: albertForSequenceClassification,
      tag: albertForTokenClassification,
      span: albertForQuestionAnswering,
      choice: albertForMultipleChoice,
    },
  }),
  bert: family({
    className: "Bert",
    prefix: "bert",
    Model: Bert,
    fromHuggingFace: bertFromHuggingFace,
    toHuggingFace: bertToHuggingFace,
    encoder: (config, options) => new Bert(config, options),
    heads: {
      "fill-mask": bertForMaskedLm,
      classify: bertForSequenceClassification,
      tag: bertForTokenClassification,
      span: bertForQuestionAnswering,
      choice: bertForMultipleChoice,
    },
  }),
  deberta: family({
    className: "Deberta",
    prefix: "deberta",
    Model: Deberta,
    fromHuggingFace: debertaFromHuggingFace,
    toHuggingFace: debertaToHuggingFace,
    encoder: (config) => new Deberta(config),
    heads: {
      "fill-mask": debertaForMaskedLm,
      classify: debertaForSequenceClassification,
      tag: debertaForTokenClassification,
      span: debertaForQuestionAnswering,
      choice: debertaForMultipleChoice,
    },
    authorsMaskedLm: (config) => new DebertaPretraining(config),
  }),
  "deberta-v2": family({
    className: "DebertaV2",
    prefix: "deberta",
    Model: DebertaV2,
    fromHuggingFace: debertaV2FromHuggingFace,
    toHuggingFace: debertaV2ToHuggingFace,
    encoder: (config) => new DebertaV2(config),
    heads: {
      "fill-mask": debertaV2ForMaskedLm,
      classify: debertaV2ForSequenceClassification,
      tag: debertaV2ForTokenClassification,
      span: debertaV2ForQuestionAnswering,
      choice: debertaV2ForMultipleChoice,
    },
    authorsMaskedLm: (config) => new DebertaV2Generator(config),
  }),
  electra: family({
    className: "Electra",
    prefix: "electra",
    Model: Electra,
    fromHuggingFace: electraFromHuggingFace,
    toHuggingFace: electraToHuggingFace,
    encoder: (config) => new Electra(config),
    heads: {
      "fill-mask": (config) => electraForMaskedLm(config),
      classify: electraForSequenceClassification,
      tag: electraForTokenClassification,
      span: electraForQuestionAnswering,
      choice: electraForMultipleChoice,
    },
  }),
  roberta: family({
    className: "Roberta",
    prefix: "roberta",
    Model: Roberta,
    fromHuggingFace: robertaFromHuggingFace,
    toHuggingFace: robertaToHuggingFace,
    encoder: (config, options) => new Roberta(config, options),
    heads: {
      "fill-mask": robertaForMaskedLm,
      classify: robertaForSequenceClassification,
      tag: robertaForTokenClassification,
      span: robertaForQuestionAnswering,
      choice: robertaForMultipleChoice,
    },
  }),
  xlm: family({
    className: "XLM",
    prefix: "transformer",
    Model: Xlm,
    fromHuggingFace: xlmFromHuggingFace,
    toHuggingFace: xlmToHuggingFace,
    encoder: (config) => new Xlm(config),
    heads: {
      "fill-mask": xlmForMaskedLm,
      classify: xlmForSequenceClassification,
      tag: xlmForTokenClassification,
      span: xlmForQuestionAnswering,
      choice: (config, numLabels) => xlmForMultipleChoice(config, numLabels),
    },
  }),
  xlnet: family({
    className: "XLNet",
    prefix: "transformer",
    Model: Xlnet,
    fromHuggingFace: xlnetFromHuggingFace,
    toHuggingFace: xlnetToHuggingFace,
    encoder: (config) => new Xlnet(config),
    heads: {
      "fill-mask": xlnetForPretraining,
      classify: xlnetForSequenceClassification,
      tag: xlnetForTokenClassification,
      span: xlnetForQuestionAnswering,
      choice: xlnetForMultipleChoice,
    },
  }),
};

/** `model_type`s that `loadEncoder` knows. */
export const encoderModelTypes: readonly string[] = Object.keys(families);

function familyOf(json: unknown): Family {
  const type = (json as { model_type?: unknown } | null)?.model_type;
  const found = typeof type === "string" && Object.hasOwn(families, type) ? families[type] : undefined;
  if (!found)
    throw new LineageError(
      "config",
      `model_type is ${JSON.stringify(type)}, but the encoders here are ${encoderModelTypes.join(", ")}`,
    );
  return found;
}

/** The encoder that a `config.json` describes with a head, without weights. Throws `config` where an entry is wrong. */
export const encoderForTask = (json: unknown, head: HeadName, numLabels = 2): EncoderWithHead =>
  familyOf(json).read(json).heads[head](numLabels);

export interface LoadedEncoder {
  readonly encoder: Encoder;
  readonly weights: Weights;
  readonly tokenizer: Tokenizer;
}

export interface LoadedTask {
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

export interface TaskOptions {
  /** Classes to tell apart; 1 for a number. Default: as many as the checkpoint's head has, else two. */
  readonly numLabels?: number;
  /** Whether the head begins at random: where the checkpoint has none of the kind (default), always, or never. */
  readonly newHead?: "if missing" | "always" | "never";
  /** Of a new head's first values. Default 0. */
  readonly seed?: number;
}

const labelled = z.object({
  architectures: z.array(z.string()).nullish(),
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
  await settleFolder(folder);
  const file = path.join(folder, "config.json");
  if (!existsSync(file))
    throw new LineageError("checkpoint", `${folder} is not a checkpoint: it has no config.json`);
  return readJson(file);
}

async function readTokenizer(folder: string, config: EncoderConfig): Promise<Tokenizer> {
  const tokenizer = await loadTokenizer(folder);
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
export async function loadEncoder(runtime: Runtime, folder: string): Promise<LoadedEncoder> {
  const json = await readConfig(folder);
  const { prefix, read } = familyOf(json);
  const files = await openWeightFiles(folder);
  const build = read(json);
  const full = build.encoder({ pooler: true });
  const pooler = [...namedParameters(full).keys()]
    .filter((name) => name.startsWith("pooler."))
    .every((name) => stored(files, aliases(prefix, name)));
  const encoder = pooler ? full : build.encoder({ pooler: false });
  const tokenizer = await readTokenizer(folder, encoder.config);
  const weights = await loadWeights(runtime, encoder, folder, { aliases: (name) => aliases(prefix, name) });
  return { encoder, weights, tokenizer };
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
  { numLabels, newHead = "if missing", seed = 0 }: TaskOptions = {},
): Promise<LoadedTask> {
  const json = await readConfig(folder);
  const { prefix, read } = familyOf(json);
  const files = await openWeightFiles(folder);
  const { heads, authorsMaskedLm } = read(json);
  const authors = head === "fill-mask" ? authorsMaskedLm?.() : undefined;
  const build = authors && storesAll(files, authors, prefix) ? () => authors : heads[head];
  const held = headOf(json);
  // Heads of different tasks share the name `classifier`; the configuration says whose this one is.
  const usable = newHead !== "always" && (held === undefined || held === head);
  const classes = usable ? classesStored(files, build(2), prefix) : undefined;
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
  const { words } = headWords[head];
  const none = `has no head for ${words}${held && held !== head ? `, but one for ${headWords[held].words}` : ""}`;
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

/** The head that a checkpoint was saved with, by its configuration. */
function headOf(json: unknown): HeadName | undefined {
  const architectures = labelled.safeParse(json).data?.architectures ?? [];
  return architectures.map(headOfClass).find((head) => head !== undefined);
}

/** How many classes the checkpoint's head tells apart; undefined where it has none of the task's. */
function classesStored(
  files: readonly SafetensorsFile[],
  model: EncoderWithHead,
  prefix: string,
): number | undefined {
  const last = [...namedParameters(model).keys()].filter((name) => !name.startsWith(`${prefix}.`)).at(-1)!;
  return stored(files, aliases(prefix, last))?.shape[0];
}

/** The `config.json` that describes an encoder, or one with a task's head, to Hugging Face transformers. */
export function encoderConfigJson(
  encoder: Encoder,
  head?: HeadName,
  labels?: readonly string[],
): Record<string, unknown> {
  for (const { describe, className } of Object.values(families)) {
    const json = describe(encoder);
    if (!json) continue;
    return {
      architectures: [className + (head ? headWords[head].suffix : "Model")],
      ...json,
      ...(labels && {
        id2label: Object.fromEntries(labels.map((label, id) => [id, label])),
        label2id: Object.fromEntries(labels.map((label, id) => [label, id])),
      }),
    };
  }
  throw new LineageError("argument", `no published layout is known for a ${encoder.constructor.name}`);
}

/** Writes what `loadEncoder`, `loadEncoderForTask` and Hugging Face transformers read. */
export async function saveEncoder(
  folder: string,
  saved: LoadedEncoder | Pick<LoadedTask, "model" | "weights" | "tokenizer" | "head" | "labels">,
): Promise<void> {
  const json =
    "encoder" in saved
      ? encoderConfigJson(saved.encoder)
      : encoderConfigJson(saved.model.encoder, saved.head, saved.labels);
  await replaceModel(folder, async (staging) => {
    await writeJson(path.join(staging, "config.json"), json);
    await writeTokenizer(saved.tokenizer, staging);
    await saveWeights(path.join(staging, "model.safetensors"), saved.weights);
  });
}
