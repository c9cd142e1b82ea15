import path from "node:path";
import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { type SafetensorsFile, loadWeights } from "../formats/index.js";
import {
  type EncoderSystem,
  type SystemConfig,
  encoderOf,
  headOfConfig,
  systemsOfKind,
} from "../models/index.js";
import {
  type Encoder,
  type EncoderConfig,
  type EncoderWithHead,
  type HeadName,
  type Module,
  namedParameters,
} from "../nn/index.js";
import type { ModelWeights } from "../quantization/index.js";
import type { Runtime } from "../runtime/types.js";
import type { EncoderCheckpoint, HeadCheckpoint, LoadOptions } from "./checkpoint.js";
import { type ModelFolder, readFolder, requireOriginal } from "./folder.js";
import { type FolderFiles, folderWeights, packedEntries } from "./inference.js";

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

/** `model_type`s of encoders. */
export const encoderModelTypes: readonly string[] = [
  ...new Set(systemsOfKind("encoder").map(({ type }) => type)),
];

/** The encoder that a `config.json` describes with a head, without weights. Throws `config` where an entry is wrong. */
export const encoderForTask = (json: unknown, head: HeadName, numLabels = 2): EncoderWithHead => {
  const system = encoderOf(json);
  return system.heads[head].create(system.config.read(json), countsClasses(head) ? numLabels : 2);
};

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

/** What a folder holds a parameter as, under any of its names; undefined where it does not. */
const stored = (files: readonly SafetensorsFile[], names: readonly string[]) =>
  names
    .map((name) => files.map(({ header }) => header.tensors.get(name)).find((entry) => entry !== undefined))
    .find((entry) => entry !== undefined);

/** What an encoder's folder says of itself, and its weight files. */
interface EncoderFolder extends ModelFolder<EncoderSystem, SystemConfig & EncoderConfig>, FolderFiles {}

async function openEncoder(folder: string, options: LoadOptions): Promise<EncoderFolder> {
  const found = await readFolder(folder, (json) => encoderOf(json, options.systems), options);
  return { ...found, folder, entries: packedEntries(path.join(folder, "config.json"), found.json) };
}

/** Whether a folder holds a parameter, in whatever form. */
const holds = ({ system, files, entries }: EncoderFolder, name: string): boolean => {
  const names = aliases(system.prefix, name);
  return stored(files, names) !== undefined || names.some((one) => Object.hasOwn(entries, one));
};

/** Whether a folder has every parameter of a model. */
const holdsAll = (opened: EncoderFolder, model: Module): boolean =>
  [...namedParameters(model).keys()].every((name) => holds(opened, name));

/** The encoder of a folder, with a pooler where the folder has one. */
function bareEncoder(opened: EncoderFolder): Encoder {
  const { system, config } = opened;
  const full = system.create(config, { pooler: true });
  const pooler = [...namedParameters(full).keys()]
    .filter((name) => name.startsWith("pooler."))
    .every((name) => holds(opened, name));
  return pooler ? full : system.create(config, { pooler: false });
}

/**
 * Reads an encoder's folder without any head. Its tensors' names may have the family's prefix or not; it has a pooler where
 * the checkpoint has one.
 */
export async function loadEncoder(
  runtime: Runtime,
  folder: string,
  options: LoadOptions = {},
): Promise<EncoderCheckpoint> {
  const opened = await openEncoder(folder, options);
  const { json, system, tokenizer } = opened;
  requireOriginal(folder, json);
  const model = bareEncoder(opened);
  const weights = await loadWeights(runtime, model, folder, {
    aliases: (name) => aliases(system.prefix, name),
  });
  return { system, model, weights, tokenizer };
}

/** As `loadEncoder`, for an encoder that is only run: its weights are mapped from their file, or quantised. */
export async function loadEncoderForInference(
  runtime: Runtime,
  folder: string,
  options: LoadOptions = {},
): Promise<EncoderCheckpoint<ModelWeights>> {
  const opened = await openEncoder(folder, options);
  const { system, tokenizer } = opened;
  const model = bareEncoder(opened);
  const layout = { aliases: (name: string) => aliases(system.prefix, name) };
  const { weights } = await folderWeights(runtime, model, opened, layout, options);
  return { system, model, weights, tokenizer };
}

/** A network for a task, and what of it the folder does not have. */
interface TaskNetwork {
  readonly model: EncoderWithHead;
  readonly fresh: readonly string[];
  readonly classes: number | undefined;
  /** The folder has no head for the task, in words. */
  readonly none: string;
}

function taskNetwork(
  opened: EncoderFolder,
  head: HeadName,
  { numLabels, newHead = "if missing" }: Pick<TaskOptions, "numLabels" | "newHead">,
): TaskNetwork {
  const { folder, json, system, config, files } = opened;
  const { prefix } = system;
  const authors = head === "fill-mask" ? system.authorsMaskedLm?.(config) : undefined;
  const held = headOfConfig(system, json);
  // Heads of different tasks share the name `classifier`; the configuration says whose this one is.
  const usable = newHead !== "always" && (held === undefined || held === head);
  const classes = usable ? classesStored(files, system, head) : undefined;
  const wanted = numLabels ?? classes ?? 2;
  if (countsClasses(head) && classes !== undefined && wanted !== classes) {
    throw new LineageError(
      "checkpoint",
      `the head of ${folder} has ${classes} classes, but the task has ${wanted}; use another model, or start with a new head`,
    );
  }
  const model =
    authors && holdsAll(opened, authors)
      ? authors
      : system.heads[head].create(config, countsClasses(head) ? wanted : 2);
  const fresh = [...namedParameters(model).keys()].filter((name) =>
    name.startsWith(`${prefix}.`)
      ? name.startsWith(`${prefix}.pooler.`) && !holds(opened, name)
      : !usable || !holds(opened, name),
  );
  const none = `has no head for ${headWords[head]}${held && held !== head ? `, but one for ${headWords[held]}` : ""}`;
  if (newHead === "never" && fresh.length > 0)
    throw new LineageError(
      "checkpoint",
      `${folder} ${none}; fine-tune it first (it lacks ${fresh.join(", ")})`,
    );
  return { model, fresh, classes, none };
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
  { seed = 0, ...options }: TaskOptions = {},
): Promise<HeadCheckpoint> {
  const opened = await openEncoder(folder, options);
  const { json, system, tokenizer } = opened;
  requireOriginal(folder, json);
  const { model, fresh, classes, none } = taskNetwork(opened, head, options);
  const begins = new Set(fresh);
  const weights = await loadWeights(runtime, model, folder, {
    aliases: (name) => (begins.has(name) ? [] : aliases(system.prefix, name)),
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
        : `${options.newHead === "always" ? "a new head was asked for" : `the checkpoint ${none}`}: ${fresh.join(", ")} are random and must be trained`,
  };
}

/**
 * As `loadEncoderForTask`, for an encoder that is only run: its weights are mapped from their file, or quantised. Throws
 * `checkpoint` where the folder has no head for the task.
 */
export async function loadTaskForInference(
  runtime: Runtime,
  folder: string,
  head: HeadName,
  { numLabels, ...options }: LoadOptions & Pick<TaskOptions, "numLabels"> = {},
): Promise<HeadCheckpoint<ModelWeights>> {
  const opened = await openEncoder(folder, options);
  const { json, system, tokenizer } = opened;
  const { model, classes } = taskNetwork(opened, head, { numLabels, newHead: "never" });
  const layout = { aliases: (name: string) => aliases(system.prefix, name) };
  const { weights } = await folderWeights(runtime, model, opened, layout, options);
  const labels = classes === undefined ? undefined : classNamesOf(json);
  return { system, model, weights, tokenizer, head, labels, fresh: [], statement: undefined };
}

/** The head that an encoder's folder names and holds; undefined where it is an encoder alone. */
export async function headIn(folder: string, options: LoadOptions = {}): Promise<HeadName | undefined> {
  const opened = await openEncoder(folder, { ...options, warn: () => undefined });
  const { system, json, config, files } = opened;
  const head = headOfConfig(system, json);
  if (head === undefined) return undefined;
  const authors = head === "fill-mask" ? system.authorsMaskedLm?.(config) : undefined;
  const classes = classesStored(files, system, head) ?? 2;
  const models = [authors, system.heads[head].create(config, countsClasses(head) ? classes : 2)];
  return models.some((model) => model && holdsAll(opened, model)) ? head : undefined;
}

/** How many classes the checkpoint's head tells apart; undefined where it has none of the kind. */
function classesStored(
  files: readonly SafetensorsFile[],
  { heads, prefix }: EncoderSystem,
  head: HeadName,
): number | undefined {
  const { output } = heads[head];
  return output === undefined ? undefined : stored(files, aliases(prefix, `${output}.weight`))?.shape[0];
}
