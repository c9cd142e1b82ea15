import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { loadWeights } from "../formats/index.js";
import { type HeadSystem, type SystemConfig, headOf, headOfConfig, headSystemOf } from "../models/index.js";
import {
  DecoderBody,
  type EncoderConfig,
  type EncoderWithHead,
  type HeadName,
  namedParameters,
} from "../nn/index.js";
import type { ModelWeights } from "../quantization/index.js";
import type { Runtime } from "../runtime/types.js";
import type { Tokenizer } from "../tokenizers/index.js";
import type { HeadCheckpoint, LoadOptions } from "./checkpoint.js";
import { requireOriginal } from "./folder.js";
import { folderWeights } from "./inference.js";
import {
  type NamesOf,
  type NetworkFolder,
  encoderNames,
  headNetworkNames,
  holds,
  holdsAll,
  isBelowHead,
  openNetwork,
  storedAs,
} from "./network-folder.js";

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

/** The network that a `config.json` describes with a head, without weights. Throws `config` where an entry is wrong. */
export const networkForTask = (json: unknown, head: HeadName, numLabels = 2): EncoderWithHead => {
  const system = headSystemOf(json);
  return headOf(system, head).create(system.config.read(json), countsClasses(head) ? numLabels : 2);
};

export interface TaskOptions extends LoadOptions {
  /** Classes to tell apart; 1 for a number. Default: as many as the checkpoint's head has, else two. */
  readonly numLabels?: number | undefined;
  /** Whether the head begins at random: where the checkpoint has none of the kind (default), always, or never. */
  readonly newHead?: "if missing" | "always" | "never";
  /** Of the first values of a new head and of new tokens. Default 0. */
  readonly seed?: number;
  /** Whether a decoder's words are learned beside the task, so that it keeps its output embeddings. Default: they are not. */
  readonly language?: (system: HeadSystem) => boolean;
  /** Makes the tokenizer of the task. Tokens that it adds get embeddings that begin at random. Default: the folder's. */
  readonly tokenizer?: (own: Tokenizer, system: HeadSystem) => Tokenizer;
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

/** Opens a folder with the task's tokenizer; the configuration has an embedding for each of its tokens. */
async function openForTask(
  folder: string,
  { tokenizer: make, ...options }: LoadOptions & Pick<TaskOptions, "tokenizer">,
): Promise<NetworkFolder> {
  const opened = await openNetwork(folder, (json) => headSystemOf(json, options.systems), options);
  if (!make) return opened;
  const tokenizer = make(opened.tokenizer, opened.system);
  const vocabSize = Math.max(opened.config.vocabSize, tokenizer.vocabSize);
  return { ...opened, tokenizer, config: { ...opened.config, vocabSize } };
}

/** A network for a task, and what of it the folder does not have. */
interface TaskNetwork {
  readonly model: EncoderWithHead;
  readonly names: NamesOf;
  readonly fresh: readonly string[];
  readonly classes: number | undefined;
  /** The folder has no head for the task, in words. */
  readonly none: string;
}

function taskNetwork(
  opened: NetworkFolder,
  head: HeadName,
  { numLabels, newHead = "if missing", language }: Pick<TaskOptions, "numLabels" | "newHead" | "language">,
): TaskNetwork {
  const { folder, json, system, config } = opened;
  const authors = head === "fill-mask" ? authorsMaskedLm(system, config) : undefined;
  const held = headOfConfig(system, json);
  // Heads of different tasks share a name; the configuration says whose this one is.
  const usable = newHead !== "always" && (held === undefined || held === head);
  const classes = usable ? classesStored(opened, head) : undefined;
  const wanted = numLabels ?? classes ?? 2;
  if (countsClasses(head) && classes !== undefined && wanted !== classes) {
    throw new LineageError(
      "checkpoint",
      `the head of ${folder} has ${classes} classes, but the task has ${wanted}; use another model, or start with a new head`,
    );
  }
  const usual = headOf(system, head).create(config, countsClasses(head) ? wanted : 2, {
    ...(language && { language: language(system) }),
  });
  const model = authors && holdsAll(opened, authors, headNetworkNames(system, authors)) ? authors : usual;
  const names = headNetworkNames(system, model);
  const below = isBelowHead(system, model);
  const isPooler = (name: string): boolean =>
    system.kind === "encoder" && name.startsWith(`${system.prefix}.pooler.`);
  const fresh = [...namedParameters(model).keys()].filter((name) =>
    below(name) ? isPooler(name) && !holds(opened, names(name)) : !usable || !holds(opened, names(name)),
  );
  const none = `has no head for ${headWords[head]}${held && held !== head ? `, but one for ${headWords[held]}` : ""}`;
  if (newHead === "never" && fresh.length > 0)
    throw new LineageError(
      "checkpoint",
      `${folder} ${none}; fine-tune it first (it lacks ${fresh.join(", ")})`,
    );
  return { model, names, fresh, classes, none };
}

/** The masked language model under its authors' names, where the system knows some. */
const authorsMaskedLm = (system: HeadSystem, config: SystemConfig): EncoderWithHead | undefined =>
  system.kind === "encoder" ? system.authorsMaskedLm?.(config as SystemConfig & EncoderConfig) : undefined;

/** Names of the embeddings that have a row for each token. */
function vocabularyRows({ encoder }: EncoderWithHead, parameters: ReturnType<typeof namedParameters>) {
  if (!(encoder instanceof DecoderBody)) return new Set<string>();
  const tables = [encoder.transformer.tokenEmbedding.weight, encoder.head?.weight];
  return new Set([...parameters].flatMap(([name, parameter]) => (tables.includes(parameter) ? [name] : [])));
}

/**
 * Reads the folder of an encoder or a decoder for a task, with the task's head from the checkpoint where it has one; `fresh`
 * and `statement` say what begins anew. Throws `checkpoint` where the head there is for other classes, or where there is
 * none and `newHead` is "never".
 */
export async function loadForTask(
  runtime: Runtime,
  folder: string,
  head: HeadName,
  { seed = 0, ...options }: TaskOptions = {},
): Promise<HeadCheckpoint> {
  const opened = await openForTask(folder, options);
  const { json, system, tokenizer } = opened;
  requireOriginal(folder, json);
  const { model, names, fresh, classes, none } = taskNetwork(opened, head, options);
  const begins = new Set(fresh);
  const grown = vocabularyRows(model, namedParameters(model));
  const weights = await loadWeights(runtime, model, folder, {
    aliases: (name) => (begins.has(name) ? [] : names(name)),
    optional: (name) => begins.has(name) || (system.optional?.(name) ?? false),
    grows: (name) => grown.has(name),
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
        : `${options.newHead === "always" ? "a new head was asked for" : `the checkpoint ${none}`}: ${fresh.join(", ")} are random and must be trained`,
  };
}

/**
 * As `loadForTask`, for a network that is only run: its weights are mapped from their file, or quantised. Throws
 * `checkpoint` where the folder has no head for the task.
 */
export async function loadTaskForInference(
  runtime: Runtime,
  folder: string,
  head: HeadName,
  { numLabels, ...options }: LoadOptions & Pick<TaskOptions, "numLabels"> = {},
): Promise<HeadCheckpoint<ModelWeights>> {
  const opened = await openForTask(folder, options);
  const { json, system, tokenizer } = opened;
  const { model, names, classes } = taskNetwork(opened, head, { numLabels, newHead: "never" });
  const layout = {
    aliases: names,
    ...(system.optional && { optional: system.optional.bind(system) }),
  };
  const { weights } = await folderWeights(runtime, model, opened, layout, options);
  const labels = classes === undefined ? undefined : classNamesOf(json);
  return { system, model, weights, tokenizer, head, labels, fresh: [], statement: undefined };
}

/** The head that a folder names and holds; undefined where it is a network without one. */
export async function headIn(folder: string, options: LoadOptions = {}): Promise<HeadName | undefined> {
  const opened = await openForTask(folder, { ...options, warn: () => undefined });
  const { system, json, config } = opened;
  const head = headOfConfig(system, json);
  if (head === undefined) return undefined;
  const authors = head === "fill-mask" ? authorsMaskedLm(system, config) : undefined;
  const classes = classesStored(opened, head) ?? 2;
  const models = [authors, headOf(system, head).create(config, countsClasses(head) ? classes : 2)];
  return models.some((model) => model && holdsAll(opened, model, headNetworkNames(system, model)))
    ? head
    : undefined;
}

/** How many classes the checkpoint's head tells apart; undefined where it has none of the kind. */
function classesStored({ files, system }: NetworkFolder, head: HeadName): number | undefined {
  const { output } = headOf(system, head);
  if (output === undefined) return undefined;
  const name = `${output}.weight`;
  const names = system.kind === "encoder" ? encoderNames(system.prefix)(name) : [name];
  return storedAs(files, names)?.shape[0];
}
