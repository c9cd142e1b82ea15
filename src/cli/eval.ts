import { Command } from "commander";
import { LineageError } from "../base/errors.js";
import { readText } from "../base/files.js";
import { loadModel } from "../models/index.js";
import { createRuntime } from "../runtime/index.js";
import { evaluatePerplexity } from "../training/index.js";
import { examples, number } from "./options.js";
import { Reporter, count } from "./terminal.js";

interface EvaluateCommand {
  readonly checkpoint: string;
  readonly data: string;
  readonly batch: number;
  readonly json?: boolean;
  readonly threads?: number;
}

/** Perplexity of a checkpoint on a text. */
async function evaluateCheckpoint({
  checkpoint,
  data,
  batch,
  json,
  threads,
}: EvaluateCommand): Promise<void> {
  const report = new Reporter(json ?? false);
  const { model, weights, tokenizer } = await loadModel(createRuntime({ threads }), checkpoint);
  const text = await readText(data);
  const tokens = Int32Array.from(tokenizer.encode(text));
  if (tokens.length < 2)
    throw new LineageError("data", `${data} has ${tokens.length} tokens; a loss needs two or more`);
  const result = await evaluatePerplexity(model, weights, tokens, {
    batchSize: batch,
    sequenceLength: model.config.contextLength,
  });
  report.say(
    `loss ${result.loss.toFixed(4)}, perplexity ${result.perplexity.toFixed(2)} over ${count(result.tokens)} tokens of ${data}`,
    { ...result },
  );
}

export const evalCommand = new Command("eval")
  .description("loss and perplexity of a checkpoint on a text")
  .requiredOption("--checkpoint <folder>", "what train wrote")
  .requiredOption("--data <file>", "UTF-8 text")
  .option("--batch <n>", "rows evaluated at once", number, 8)
  .option("--threads <n>", "threads of the engine", number)
  .option("--json", "one JSON object")
  .addHelpText(
    "after",
    examples(["lineage eval --checkpoint runs/mine --data held-out.txt", "perplexity of a text"]),
  )
  .action(evaluateCheckpoint);
