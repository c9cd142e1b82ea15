import { Command } from "commander";
import { LineageError } from "../base/errors.js";
import { count } from "../base/numbers.js";
import { encodeCorpus, textCorpus } from "../data/index.js";
import { loadModel } from "../checkpoints/index.js";
import { createRuntime } from "../runtime/index.js";
import { evaluatePerplexity } from "../training/index.js";
import { modelFor } from "./model.js";
import { countOption, examples, threadsOption, requiredOption } from "./options.js";
import { Reporter } from "./terminal.js";

interface EvaluateCommand {
  readonly model: string;
  readonly data: string;
  readonly batch: number;
  readonly json?: boolean;
  readonly threads?: number;
}

/** Perplexity of a checkpoint on a text. */
async function evaluateModel({ model: folder, data, batch, json, threads }: EvaluateCommand): Promise<void> {
  const report = await Reporter.create(json ?? false);
  const { model, weights, tokenizer } = await loadModel(createRuntime({ threads }), await modelFor(folder), {
    kind: "decoder",
  });
  const tokens = Int32Array.from(encodeCorpus(textCorpus(data), (text) => tokenizer.encode(text)));
  if (tokens.length < 2)
    throw new LineageError("data", `${data} has ${tokens.length} tokens; a loss needs at least two`);
  const result = await evaluatePerplexity(model, weights, tokens, {
    batchSize: batch,
    // A text shorter than the context needs no wider rows.
    sequenceLength: Math.min(model.config.contextLength, tokens.length - 1),
  });
  if (result.tokens < 100)
    report.say(`${data} has only ${result.tokens} tokens: its perplexity says little`, {
      warning: "few tokens",
    });
  report.say(
    `loss ${result.loss.toFixed(4)}, perplexity ${result.perplexity.toFixed(2)} over ${count(result.tokens)} tokens of ${data}`,
    { ...result },
  );
}

export const evalCommand = new Command("eval")
  .description("measure loss and perplexity of a model on a text")
  .addOption(requiredOption("model", "<place>", "a decoder: folder, .gguf file, or ORG/NAME on the hub"))
  .addOption(requiredOption("data", "<file>", "UTF-8 text"))
  .addOption(countOption("batch", "rows in a batch", 8))
  .addOption(threadsOption())
  .option("--json", "one JSON object")
  .addHelpText(
    "after",
    examples(["lineage eval --model runs/mine --data held-out.txt", "perplexity of a text"]),
  )
  .action(evaluateModel);
