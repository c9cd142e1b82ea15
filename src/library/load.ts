import { existsSync } from "node:fs";
import path from "node:path";
import { LineageError } from "../base/errors.js";
import {
  type InferenceEncoderDecoder,
  type InferenceOptions,
  type LoadOptions,
  adapterHead,
  holdsReader,
  kindIn,
  loadForInference,
  readConfig,
} from "../checkpoints/index.js";
import type { TaskName } from "../data/index.js";
import { modelForm } from "../formats/index.js";
import { type SystemKind, headOfConfig, kindWords, systemOf } from "../models/index.js";
import { type Device, type Runtime, createRuntime } from "../runtime/index.js";
import { Embedder } from "../search/index.js";
import { Predictor } from "../tasks/index.js";
import {
  type DecoderModel,
  type EncoderDecoderModel,
  type EncoderModel,
  LoadedDecoder,
  LoadedEmbedder,
  LoadedEncoderDecoder,
  type LoadedModel,
  LoadedPredictor,
  type TaskModel,
} from "./model.js";
import { type Languages, inLanguages, languagePlace } from "../tokenizers/index.js";
import { type SourceOptions, modelPlace } from "./source.js";

export interface LoadModelOptions extends SourceOptions, LoadOptions {
  /**
   * Keeps the matrices of a model that writes in 4 bits, 8 bits or 4-bit NormalFloat, or by a whole scheme. Default: as the
   * files have them.
   */
  readonly quantize?: 4 | 8 | "nf4" | InferenceOptions["quantize"];
  /**
   * Texts that are written side by side, each beam counted; others wait. Default 1 for a decoder, and 32 sources of an
   * encoder-decoder.
   */
  readonly slots?: number;
  /** Keeps a decoder's converted weights for the next load. Default: nothing is kept. */
  readonly prepared?: InferenceOptions["prepared"];
  /** Folder of an adapter in peft's layout, which is computed beside the matrices; it may bring a task's head. Default: none. */
  readonly adapter?: string | undefined;
  /** Adds the adapter to the matrices, in float32, instead. */
  readonly mergeAdapter?: boolean | undefined;
  /**
   * Folders of several LoRA adapters, by the names that a text chooses by: `generate(prompt, { adapter: "sql" })`. A text that
   * names none is the base's. Texts of different adapters are written side by side.
   */
  readonly adapters?: Readonly<Record<string, string>>;
  /** The languages of sources and of what is written, by mBART's codes (`de_DE`), for a model that has some. Default: its files'. */
  readonly languages?: Languages;
  readonly runtime?: Runtime;
  /** Threads of the engine, where no `runtime` is given. */
  readonly threads?: number;
  /** Where the engine runs, where no `runtime` is given. */
  readonly device?: Device;
  /** What the model must be; the type then has what it can do, and another model is refused. */
  readonly kind?: SystemKind;
  /** The task of a model with a head. Default: as its files say. */
  readonly task?: TaskName;
}

/**
 * Loads a model for use: a folder, a `.gguf` file, or ORG/NAME of the hub.
 *
 *     using model = await load("SmolLM2-135M-Instruct.Q4_1.gguf", { quantize: 4 });
 *     for await (const piece of model.generate("Once upon a time", { temperature: 0.7 })) process.stdout.write(piece);
 *
 * What it can do follows from its files: a decoder generates and chats, an encoder-decoder transforms (translates,
 * summarises), an encoder embeds, an encoder with a task's head predicts. With `kind` or `task` the type says it too.
 */
export async function load<T extends TaskName>(
  source: string,
  options: LoadModelOptions & { readonly task: T },
): Promise<TaskModel<T>>;
export async function load(
  source: string,
  options: LoadModelOptions & { readonly kind: "decoder" },
): Promise<DecoderModel>;
export async function load(
  source: string,
  options: LoadModelOptions & { readonly kind: "encoder" },
): Promise<EncoderModel>;
export async function load(
  source: string,
  options: LoadModelOptions & { readonly kind: "encoder-decoder" },
): Promise<EncoderDecoderModel>;
export async function load(source: string, options?: LoadModelOptions): Promise<LoadedModel>;
export async function load(
  source: string,
  options: LoadModelOptions = {},
): Promise<LoadedModel | TaskModel | DecoderModel | EncoderModel | EncoderDecoderModel> {
  const {
    runtime = createRuntime({ threads: options.threads, device: options.device }),
    kind,
    task,
  } = options;
  const place = await modelPlace(source, options);
  const own = await kindOf(place, options);
  const { adapter, mergeAdapter } = options;
  const forTask = adapter !== undefined && (await isForTask(place, adapter));
  const found = forTask
    ? { ...own, hasHead: true, description: `${kindWords[own.kind]} with a task's adapter` }
    : own;
  if (kind !== undefined && found.kind !== kind)
    throw new LineageError(
      "checkpoint",
      `${source} holds ${found.description}, not ${kind === "decoder" ? "a decoder" : `an ${kind}`}`,
    );
  if (task !== undefined && found.kind !== "encoder" && !found.hasHead)
    throw new LineageError(
      "checkpoint",
      `${source} holds ${found.description}, which has no head for ${task}; take a model that finetune has trained to it`,
    );
  const { quantize, slots } = options;
  const packed = {
    ...options,
    quantize: typeof quantize === "object" || quantize === undefined ? quantize : { bits: quantize },
  };
  if (found.kind === "decoder" && !found.hasHead)
    return new LoadedDecoder(
      source,
      await loadForInference(runtime, place, { ...packed, kind: "decoder" }),
      slots ?? 1,
    );
  if (found.kind === "encoder-decoder") {
    const loaded = await loadForInference(runtime, place, { ...packed, kind: "encoder-decoder" });
    return new LoadedEncoderDecoder(source, inTheirLanguages(loaded, options.languages), slots);
  }
  if (options.languages !== undefined)
    throw new LineageError(
      "unsupported",
      `${source} holds ${found.description}; languages are chosen of encoder-decoders`,
    );
  if ((adapter !== undefined && !forTask) || options.adapters !== undefined)
    throw new LineageError(
      "unsupported",
      `${source} holds ${found.description}; adapters are loaded with models that write or that answer for a task`,
    );
  if (quantize !== undefined && !forTask)
    throw new LineageError(
      "unsupported",
      `${source} holds ${found.description}, which is not quantised as it is loaded: lineage quantize writes a folder that load opens`,
    );
  if (found.kind === "decoder" && kind !== undefined)
    throw new LineageError(
      "checkpoint",
      `${source} holds ${found.description}, which writes no texts; load it without kind to predict`,
    );
  if (task !== undefined || (found.hasHead && kind === undefined)) {
    // The overloads promise the answers of the task that was asked for, which the predictor has checked.
    return new LoadedPredictor(
      source,
      await Predictor.load(place, {
        runtime,
        ...(task && { task }),
        ...(forTask && { adapter, mergeAdapter, quantize: packed.quantize }),
      }),
    ) as LoadedModel | TaskModel;
  }
  return new LoadedEmbedder(source, await Embedder.load(place, { runtime }));
}

/** Whether an adapter answers for a task with a base, and does not write. */
export const isForTask = async (base: string, adapter: string): Promise<boolean> =>
  (await modelForm(adapter)) !== "gguf" &&
  (existsSync(path.join(adapter, "task.json")) ||
    (await adapterHead(adapter)) !== undefined ||
    (await holdsReader(base)));

/** A model that reads and writes the languages that were chosen. Throws `tokenizer` where it has not got them. */
function inTheirLanguages(
  loaded: InferenceEncoderDecoder,
  languages: Languages | undefined,
): InferenceEncoderDecoder {
  if (languages === undefined) return loaded;
  try {
    const tokenizer = inLanguages(loaded.tokenizer, languages);
    const id = languages.target === undefined ? undefined : tokenizer.tokenToId(languages.target);
    if (id === undefined) return { ...loaded, tokenizer };
    // mBART of 25 languages begins with the code of the language; the one of 50 writes it first.
    const begins = languagePlace(tokenizer.config["tokenizer_class"]) === "last";
    return {
      ...loaded,
      tokenizer,
      generation: { ...loaded.generation, ...(begins ? { startId: id } : { forcedBosId: id }) },
    };
  } catch (error) {
    loaded.weights.dispose();
    throw error;
  }
}

/** What the files of a model say that it is. */
export async function kindOf(
  place: string,
  { systems = [] }: LoadOptions = {},
): Promise<{
  readonly kind: SystemKind;
  readonly hasHead: boolean;
  readonly description: string;
}> {
  const decoder = { kind: "decoder", hasHead: false, description: "a decoder" } as const;
  if ((await modelForm(place)) === "gguf")
    return (await kindIn(place, { systems })) === "decoder"
      ? decoder
      : { kind: "encoder-decoder", hasHead: false, description: "an encoder-decoder" };
  const json = await readConfig(place);
  const system = systemOf(json, systems);
  if (system.kind === "encoder-decoder")
    return { kind: system.kind, hasHead: false, description: `${system.title}, an encoder-decoder` };
  const head = headOfConfig(system, json);
  const hasHead = existsSync(path.join(place, "task.json")) || (head !== undefined && head !== "fill-mask");
  const what = kindWords[system.kind];
  return { kind: system.kind, hasHead, description: hasHead ? `${what} with a task's head` : what };
}
