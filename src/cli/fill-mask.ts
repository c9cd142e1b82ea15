import { Command } from "commander";
import { MaskFiller } from "../tasks/index.js";
import { createRuntime } from "../runtime/index.js";
import { modelFor } from "./model.js";
import { countOption, examples, threadsOption, requiredOption } from "./options.js";
import { print } from "./terminal.js";

interface FillMaskCommand {
  readonly model: string;
  readonly topK: number;
  readonly threads?: number;
  readonly json?: boolean;
}

async function fillMasks(text: string, { model, topK, threads, json }: FillMaskCommand): Promise<void> {
  using filler = await MaskFiller.load(await modelFor(model, "asked for masked words"), {
    runtime: createRuntime({ threads }),
  });
  const masks = await filler.fill(text, { topK });
  if (json) {
    print(`${JSON.stringify({ text, masks })}\n`);
    return;
  }
  for (const [place, fillings] of masks.entries()) {
    if (masks.length > 1) print(`mask ${place + 1}:\n`);
    for (const { token, probability } of fillings)
      print(`${(100 * probability).toFixed(1).padStart(5)} %  ${token.trim()}\n`);
  }
}

export const fillMaskCommand = new Command("fill-mask")
  .description("predict the masked words of a text")
  .argument("<text>", "text with the mask token, such as [MASK], for each missing word")
  .addOption(
    requiredOption("model", "<place>", "an encoder with a masked-LM head: folder, or ORG/NAME on the hub"),
  )
  .addOption(countOption("topK", "words for each mask", 5))
  .addOption(threadsOption())
  .option("--json", "one JSON object")
  .addHelpText(
    "after",
    examples(['lineage fill-mask --model bert-base-uncased "Paris is the [MASK] of France."', "five words"]),
  )
  .action(fillMasks);
