import { Command } from "commander";
import { MaskFiller } from "../tasks/index.js";
import { createRuntime } from "../runtime/index.js";
import { examples, number } from "./options.js";

interface FillMaskCommand {
  readonly model: string;
  readonly topK: number;
  readonly threads?: number;
  readonly json?: boolean;
}

async function fillMasks(text: string, { model, topK, threads, json }: FillMaskCommand): Promise<void> {
  using filler = await MaskFiller.load(model, { runtime: createRuntime({ threads }) });
  const masks = await filler.fill(text, { topK });
  if (json) {
    process.stdout.write(`${JSON.stringify({ text, masks })}\n`);
    return;
  }
  for (const [place, fillings] of masks.entries()) {
    if (masks.length > 1) process.stdout.write(`mask ${place + 1}:\n`);
    for (const { token, probability } of fillings)
      process.stdout.write(`${(100 * probability).toFixed(1).padStart(5)} %  ${token.trim()}\n`);
  }
}

export const fillMaskCommand = new Command("fill-mask")
  .description("the most probable words behind the masks of a text")
  .argument("<text>", "text with [MASK] for each missing word")
  .requiredOption("--model <folder>", "an encoder with its masked language model's head")
  .option("--top-k <n>", "words for each mask", number, 5)
  .option("--threads <n>", "threads of the engine", number)
  .option("--json", "one JSON object")
  .addHelpText(
    "after",
    examples(['lineage fill-mask --model bert-base-uncased "Paris is the [MASK] of France."', "five words"]),
  )
  .action(fillMasks);
