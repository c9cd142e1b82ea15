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
import { adapterShapes } from "./adapter.js";
import type { HeadCheckpoint, LoadOptions } from "./checkpoint.js";
import { requireOriginal } from "./folder.js";
import { type InferenceOptions, checkMerge, folderWeights, withSavedAdapter } from "./inference.js";
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
  /** Whether a parameter is the head's, or not in the folder. */
  readonly learns: (name: string) => boolean;
}

function taskNetwork(
  opened: NetworkFolder,
  head: HeadName,
  {
    numLabels,
    newHead = "if missing",
    language,
    elsewhere,
  }: Pick<TaskOptions, "numLabels" | "newHead" | "language"> & {
    /** Shapes of parameters whose values do not come from the folder, by name: an adapter's. Default: there are none. */
    readonly elsewhere?: ReadonlyMap<string, readonly number[]> | undefined;
  },
): TaskNetwork {
  const { folder, json, system, config } = opened;
  const authors = head === "fill-mask" ? authorsMaskedLm(system, config) : undefined;
  const held = headOfConfig(system, json);
  // Heads of different tasks share a name; the configuration says whose this one is.
  const usable = newHead !== "always" && (held === undefined || held === head);
  const { output } = headOf(system, head);
  const supplied = output === undefined ? undefined : elsewhere?.get(`${output}.weight`)?.[0];
  const classes = supplied ?? (usable ? classesStored(opened, head) : undefined);
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
  const fresh = [...namedParameters(model).keys()].filter((name) => {
    if (elsewhere?.has(name)) return true;
    return below(name)
      ? isPooler(name) && !holds(opened, names(name))
      : !usable || !holds(opened, names(name));
  });
  const lacking = fresh.filter((name) => !elsewhere?.has(name));
  const none = `has no head for ${headWords[head]}${held && held !== head ? `, but one for ${headWords[held]}` : ""}`;
  if (newHead === "never" && lacking.length > 0)
    throw new LineageError(
      "checkpoint",
      elsewhere
        ? `${folder} ${none}, and neither has the adapter (it lacks ${lacking.join(", ")})`
        : `${folder} ${none}; fine-tune it first (it lacks ${lacking.join(", ")})`,
    );
  const begins = new Set(fresh);
  return { model, names, fresh, classes, none, learns: (name) => !below(name) || begins.has(name) };
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
    statement: freshWords(fresh, none, options),
  };
}

/** What begins at random, as a sentence for a person; undefined where nothing does. */
const freshWords = (
  fresh: readonly string[],
  none: string,
  { newHead }: Pick<TaskOptions, "newHead">,
): string | undefined =>
  fresh.length === 0
    ? undefined
    : `${newHead === "always" ? "a new head was asked for" : `the checkpoint ${none}`}: ${fresh.join(", ")} are random and must be trained`;

/** How a network with a head is loaded whose own weights do not learn. */
export interface TaskInferenceOptions
  extends TaskOptions, Pick<InferenceOptions, "quantize" | "adapter" | "mergeAdapter"> {
  /** Default here: never. */
  readonly newHead?: TaskOptions["newHead"];
}

/** A network with a head whose own weights do not learn. */
export interface TaskForInference extends HeadCheckpoint<ModelWeights> {
  /** The parameters of the head, and those that the folder does not have; they are in float32. */
  readonly headParameters: readonly string[];
}

/**
 * As `loadForTask`, for a network that is only run or learns beside its weights: they are mapped from their file, or
 * quantised. An adapter may bring the head. Throws `checkpoint` where neither has one for the task, unless a new head is asked
 * for.
 */
export async function loadTaskForInference(
  runtime: Runtime,
  folder: string,
  head: HeadName,
  { adapter, mergeAdapter, quantize, seed, newHead = "never", ...options }: TaskInferenceOptions = {},
): Promise<TaskForInference> {
  checkMerge({ adapter, mergeAdapter });
  const elsewhere = adapter === undefined ? undefined : await adapterShapes(adapter);
  const opened = await openForTask(folder, options);
  const { json, system, tokenizer } = opened;
  const { model, names, fresh, classes, none, learns } = taskNetwork(opened, head, {
    ...options,
    newHead,
    elsewhere,
  });
  const begins = new Set(fresh);
  const layout = {
    aliases: (name: string) => (begins.has(name) ? [] : names(name)),
    optional: (name: string) => begins.has(name) || (system.optional?.(name) ?? false),
    ...(seed !== undefined && { seed }),
  };
  const loaded = await folderWeights(runtime, model, opened, layout, {
    ...options,
    quantize,
    ...((quantize !== undefined || newHead !== "never") && { inFull: learns }),
  });
  const named = classes === undefined ? undefined : classNamesOf(json);
  const found = {
    system,
    model,
    weights: loaded.weights,
    tokenizer,
    head,
    // An adapter's classes are the base's only where they are as many.
    labels: named?.length === classes ? named : undefined,
    fresh,
    statement: freshWords(fresh, none, { newHead }),
    headParameters: [...namedParameters(model).keys()].filter(learns),
  };
  if (adapter === undefined) return found;
  try {
    return { ...found, ...(await withSavedAdapter(found, adapter, mergeAdapter, options.warn)) };
  } catch (error) {
    loaded.weights.dispose();
    throw error;
  }
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
