import { type Command, Option } from "commander";
import { z } from "zod";
import { existsSync } from "node:fs";
import path from "node:path";
import { LineageError } from "../base/errors.js";
import {
  type AdapterWords,
  type InferenceCheckpoint,
  type InferenceEncoderDecoder,
  type InferenceOptions,
  kindIn,
  loadForInference,
} from "../checkpoints/index.js";
import { type SamplingOptions, type TextModel, endOfText } from "../generation/index.js";
import type { Runtime } from "../runtime/types.js";
import { countOption, option, preparedOption, preparedWeights } from "./options.js";
import { type QuantizedBits, quantizedBits, fastPromptsHelp, schemeOf } from "./quantize.js";

// What the commands that write text have in common.

/** How a command that writes text loads its model. */
export interface ModelCommand {
  readonly quantize?: QuantizedBits;
  readonly fastPrompts?: boolean;
  readonly prepared?: boolean;
  readonly adapter?: string;
  readonly mergeAdapter?: boolean;
  readonly adapters?: Readonly<Record<string, string>>;
}

/** How a command loads a model whose texts choose from several adapters. */
export interface ChoosingCommand extends Omit<ModelCommand, "adapter"> {
  readonly adapter?: readonly string[];
}

/**
 * Loads a model to write with, and the adapters that were asked for: one as a folder, or several, each with a name of its own.
 * @param notes gets what is to be said of prepared weights at the end
 */
export async function loadToChoose(
  runtime: Runtime,
  place: string,
  { adapter: typed = [], ...command }: ChoosingCommand,
  notes: string[],
): Promise<InferenceCheckpoint> {
  const named = typed.map(namedAdapter);
  const [first] = named;
  if (named.length <= 1 && !first?.name)
    return loadToWrite(runtime, place, { ...command, adapter: first?.folder }, notes);
  if (command.mergeAdapter)
    throw new LineageError(
      "argument",
      "--merge-adapter adds one adapter to the matrices: give one --adapter, and its folder alone",
    );
  const adapters = new Map<string, string>();
  for (const { name, folder } of named) {
    const called = name ?? path.basename(path.resolve(folder));
    if (adapters.has(called))
      throw new LineageError(
        "argument",
        `two adapters are called ${called}; name them: --adapter first=${adapters.get(called)} --adapter second=${folder}`,
      );
    if (called === "none")
      throw new LineageError("argument", "none is the base without an adapter; call the adapter otherwise");
    adapters.set(called, folder);
  }
  return loadToWrite(runtime, place, { ...command, adapters: Object.fromEntries(adapters) }, notes);
}

/** `NAME=FOLDER`, or a folder, whose own name may have the sign. */
function namedAdapter(typed: string): { readonly name?: string; readonly folder: string } {
  const sign = typed.indexOf("=");
  if (sign < 0 || existsSync(typed)) return { folder: typed };
  const [name, folder] = [typed.slice(0, sign), typed.slice(sign + 1)];
  if (name === "" || folder === "")
    throw new LineageError("argument", `--adapter must be FOLDER or NAME=FOLDER, not ${typed}`);
  return { name, folder };
}

/** The same for a command that takes encoder-decoders, too, whose texts do not choose. */
export async function loadAnyToChoose(
  runtime: Runtime,
  place: string,
  command: ChoosingCommand,
  notes: string[],
): Promise<InferenceCheckpoint | InferenceEncoderDecoder> {
  if ((await kindIn(place)) !== "encoder-decoder") return loadToChoose(runtime, place, command, notes);
  const named = (command.adapter ?? []).map(namedAdapter);
  if (named.length > 1)
    throw new LineageError("unsupported", "an encoder-decoder takes one adapter; give --adapter once");
  return loadAnyToWrite(runtime, place, { ...command, adapter: named[0]?.folder }, notes);
}

/** The words of a model, or of one of its adapters, which may have been trained with a chat template of its own. */
export function wordsOf(
  loaded: InferenceCheckpoint | InferenceEncoderDecoder,
  adapter: string | undefined,
): Required<AdapterWords> {
  const adapters = "adapters" in loaded ? loaded.adapters : undefined;
  const own: AdapterWords = (adapter === undefined ? undefined : adapters?.get(adapter)) ?? {};
  const tokenizer = own.tokenizer ?? loaded.tokenizer;
  return { tokenizer, stopIds: own.stopIds ?? loaded.stopIds ?? endOfText(tokenizer.target) };
}

/** A model in the words of one of its adapters. */
export const inWordsOf = (loaded: InferenceCheckpoint, adapter: string | undefined): Required<TextModel> => ({
  model: loaded.model,
  weights: loaded.weights,
  ...wordsOf(loaded, adapter),
});

/**
 * Loads a model to write with, and the adapter that was asked for.
 * @param notes gets what is to be said of prepared weights at the end
 */
export const loadToWrite = (
  runtime: Runtime,
  place: string,
  command: ModelCommand,
  notes: string[],
): Promise<InferenceCheckpoint> => loadForInference(runtime, place, loadingOf(command, notes));

/** The same for an encoder-decoder. */
export const loadToTransform = (
  runtime: Runtime,
  place: string,
  command: ModelCommand,
  notes: string[],
): Promise<InferenceEncoderDecoder> =>
  loadForInference(runtime, place, { ...loadingOf(command, notes), kind: "encoder-decoder" });

const loadingOf = (
  { quantize, fastPrompts, prepared, adapter, adapters, mergeAdapter }: ModelCommand,
  notes: string[],
): InferenceOptions => ({
  quantize: schemeOf(quantize),
  fastPrompts,
  prepared: preparedWeights(prepared, notes),
  adapter,
  adapters,
  mergeAdapter,
});

/** The same for a command that takes encoder-decoders, too. */
export const loadAnyToWrite = async (
  runtime: Runtime,
  place: string,
  command: ModelCommand,
  notes: string[],
): Promise<InferenceCheckpoint | InferenceEncoderDecoder> =>
  (await kindIn(place)) === "encoder-decoder"
    ? loadToTransform(runtime, place, command, notes)
    : loadToWrite(runtime, place, command, notes);

/** Adds the options of sampling. */
export const addSamplingOptions = (
  command: Command,
  { temperature, topP = 1 }: Required<Pick<SamplingOptions, "temperature">> & Pick<SamplingOptions, "topP">,
): Command =>
  command
    .optionsGroup("Sampling:")
    .addOption(
      option(
        "temperature",
        "<x>",
        "lower is more predictable; 0 always takes the most probable token",
        z.number().nonnegative().default(temperature),
      ),
    )
    .addOption(countOption("topK", "sample from the n most probable tokens", undefined, { usual: "all" }))
    .addOption(
      option(
        "topP",
        "<p>",
        "sample from the most probable tokens that together reach this probability",
        z.number().positive().max(1).default(topP),
      ),
    )
    .addOption(
      option(
        "minP",
        "<p>",
        "drop tokens less probable than this fraction of the most probable one",
        z.number().min(0).lt(1).default(0),
      ),
    )
    .addOption(
      option(
        "repetitionPenalty",
        "<x>",
        "above 1 makes tokens of the prompt and the text less probable",
        z.number().positive().default(1),
      ),
    )
    .addOption(
      option(
        "frequencyPenalty",
        "<x>",
        "subtracted from a token's logit each time that the token was written",
        z.number().default(0),
      ),
    )
    .addOption(
      option(
        "presencePenalty",
        "<x>",
        "subtracted once from the logit of a token that was written",
        z.number().default(0),
      ),
    )
    .addOption(option("seed", "<n>", "the same seed gives the same text", z.int().nonnegative().default(0)));

/** Names an adapter for a model. @param again whether more than one may be named */
export function adapterOption(help: string, again = false): Option {
  const made = option("adapter", "<place>", help, z.string(), { usual: "none", again });
  if (again) return made;
  return made.argParser((folder: string, before: string | undefined) => {
    // The last one would else count alone, and nothing would say so.
    if (before !== undefined)
      throw new LineageError("argument", `this command takes one adapter, not ${before} and ${folder}`);
    return folder;
  });
}

export const mergeOption = (): Option =>
  new Option(
    "--merge-adapter",
    "add the adapter to the matrices while loading, in float32 (default: it is computed beside them)",
  );

const adapterHelp = "an adapter for this model, in peft's layout: LoRA, a soft prompt or a prefix";

/**
 * Adds the options of how a model is loaded.
 * @param several what the command does with more than one adapter, where it takes them
 */
export const addModelOptions = (command: Command, several?: string): Command =>
  command
    .addOption(
      option("quantize", "<bits>", "load matrices in fewer bits", quantizedBits, {
        usual: "as stored",
      }),
    )
    .option("--fast-prompts", fastPromptsHelp)
    .addOption(
      several === undefined ? adapterOption(adapterHelp) : adapterOption(`${adapterHelp}; ${several}`, true),
    )
    .addOption(mergeOption())
    .addOption(preparedOption());
