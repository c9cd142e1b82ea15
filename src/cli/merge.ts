import { Command } from "commander";
import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { count } from "../base/numbers.js";
import { compareModels, dequantizeWeights, loadForInference, saveModel } from "../checkpoints/index.js";
import { createRuntime } from "../runtime/index.js";
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
async function merge({ model, adapter, out, threads, json, ...how }: MergeCommand): Promise<void> {
  const runtime = createRuntime({ threads });
  const place = await modelFor(model);
  const options = { quantize: schemeOf(how.quantize), adapter };
  const merged = await loadForInference(runtime, place, { ...options, mergeAdapter: true });
  using weights = dequantizeWeights(merged.weights);
  await saveModel(out, { ...merged, weights }, { dtype: how.dtype });
  const source = await loadForInference(runtime, place, options);
  const result = await loadForInference(runtime, out);
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
  .description("write a decoder and its LoRA adapter as one model")
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
      ["lineage merge --model big --adapter runs/qlora --quantize nf4 --out big-tuned", "of a QLoRA"],
    ),
  )
  .action(merge);
