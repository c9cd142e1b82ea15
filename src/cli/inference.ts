import type { Command } from "commander";
import { z } from "zod";
import { type InferenceCheckpoint, loadForInference } from "../checkpoints/index.js";
import type { SamplingOptions } from "../generation/index.js";
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
}

/**
 * Loads a model to write with, and the adapter that was asked for.
 * @param notes gets what is to be said of prepared weights at the end
 */
export const loadToWrite = (
  runtime: Runtime,
  place: string,
  { quantize, fastPrompts, prepared, adapter, mergeAdapter }: ModelCommand,
  notes: string[],
): Promise<InferenceCheckpoint> =>
  loadForInference(runtime, place, {
    quantize: schemeOf(quantize),
    fastPrompts,
    prepared: preparedWeights(prepared, notes),
    adapter,
    mergeAdapter,
  });

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

/** Adds the options of how a model is loaded. */
export const addModelOptions = (command: Command): Command =>
  command
    .addOption(
      option("quantize", "<bits>", "load matrices in fewer bits", quantizedBits, {
        usual: "as stored",
      }),
    )
    .option("--fast-prompts", fastPromptsHelp)
    .addOption(
      option(
        "adapter",
        "<folder>",
        "an adapter for this model, in peft's layout: LoRA, a soft prompt or a prefix",
        z.string(),
        {
          usual: "none",
        },
      ),
    )
    .option(
      "--merge-adapter",
      "add the adapter to the matrices while loading, in float32 (default: it is computed beside them)",
    )
    .addOption(preparedOption());
