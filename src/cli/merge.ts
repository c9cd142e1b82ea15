import { Command } from "commander";
import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { count } from "../base/numbers.js";
import {
  compareModels,
  dequantizeWeights,
  kindIn,
  loadForInference,
  saveModel,
} from "../checkpoints/index.js";
import { mergeTask } from "../library/leave.js";
import { isForTask } from "../library/load.js";
import { createRuntime } from "../runtime/index.js";
import type { Runtime } from "../runtime/types.js";
import { describeEncoders, encoderProblems, refuseProblems } from "./comparison.js";
import { modelFor } from "./model.js";
import { examples, option, requiredOption, threadsOption } from "./options.js";
import { type QuantizedBits, quantizedBits, schemeOf } from "./quantize.js";
import { print } from "./terminal.js";

interface MergeCommand {
  readonly model: string;
  readonly adapter: string;
  readonly out: string;
  readonly quantize?: QuantizedBits;
  readonly dtype: "float32" | "float16" | "bfloat16";
  readonly threads?: number;
  readonly json?: boolean;
}

/** Nats of mean divergence that rounding explains: of halves, and of products with whole numbers, which round their input. */
const tolerance = 0.05;

/** Writes a base with an adapter as one model, and compares it with the two. */
async function merge(command: MergeCommand): Promise<void> {
  const { model, adapter, out, dtype, threads } = command;
  const runtime = createRuntime({ threads });
  const place = await modelFor(model);
  const quantize = schemeOf(command.quantize);
  if (await isForTask(place, adapter)) {
    const comparison = await mergeTask(runtime, place, adapter, out, { quantize, dtype });
    const problems = encoderProblems(comparison, dtype);
    print(
      command.json
        ? `${JSON.stringify({ model, adapter, out, ...comparison })}\n`
        : `${describeEncoders(comparison, `${adapter} beside ${model}`, out)}\n`,
    );
    refuseProblems(problems, `${model} with ${adapter}`, out);
    return;
  }
  const kind = await kindIn(place);
  if (kind === "encoder")
    throw new LineageError(
      "unsupported",
      `${model} holds an encoder, and ${adapter} has no head of a task; lineage merges adapters of models that write or that answer for a task`,
    );
  await mergeWriter(runtime, place, kind, command);
}

async function mergeWriter(
  runtime: Runtime,
  place: string,
  kind: "decoder" | "encoder-decoder",
  { model, adapter, out, json, ...how }: MergeCommand,
): Promise<void> {
  const options = { quantize: schemeOf(how.quantize), adapter, kind };
  const merged = await loadForInference(runtime, place, { ...options, mergeAdapter: true });
  using weights = dequantizeWeights(merged.weights);
  await saveModel(out, { ...merged, weights }, { dtype: how.dtype });
  const source = await loadForInference(runtime, place, options);
  const result = await loadForInference(runtime, out, { kind });
  const comparison = await compareModels(source, result);
  source.weights.dispose();
  result.weights.dispose();
  const { tokens, meanDivergence, largestDivergence, sameFirst } = comparison;
  print(
    json
      ? `${JSON.stringify({ model, adapter, out, ...comparison })}\n`
      : `${out}, compared with ${adapter} beside ${model}: next-token distributions diverge by ${meanDivergence.toExponential(1)} nats on average, ${largestDivergence.toExponential(1)} at most, over ${count(tokens)} tokens; the most probable token is the same after ${sameFirst} of ${tokens}\n`,
  );
  if (!(meanDivergence <= tolerance))
    throw new LineageError(
      "checkpoint",
      `${out} diverges from ${model} with ${adapter} by ${meanDivergence.toExponential(1)} nats, more than rounding can explain`,
    );
}

export const mergeCommand = new Command("merge")
  .description("write a model and its LoRA adapter as one")
  .addOption(requiredOption("model", "<place>", "the base: a folder, a .gguf file, or ORG/NAME on the hub"))
  .addOption(requiredOption("adapter", "<folder>", "a LoRA adapter for it, in peft's layout"))
  .addOption(requiredOption("out", "<folder>", "folder of the result"))
  .addOption(
    option(
      "quantize",
      "<bits>",
      "the bits of the base that the adapter was trained on, which is dequantised",
      quantizedBits,
      { usual: "as stored" },
    ),
  )
  .addOption(
    option(
      "dtype",
      "<type>",
      "type of the result",
      z.enum(["float32", "float16", "bfloat16"]).default("float32"),
    ),
  )
  .addOption(threadsOption())
  .option("--json", "one JSON object")
  .addHelpText(
    "after",
    examples(
      ["lineage merge --model big --adapter runs/lora --out big-tuned", "one model, for every program"],
      [
        "lineage merge --model all-MiniLM-L6-v2 --adapter runs/sentiment --out sentiment",
        "with a task's head",
      ],
      ["lineage merge --model big --adapter runs/qlora --quantize nf4 --out big-tuned", "of a QLoRA"],
    ),
  )
  .action(merge);
