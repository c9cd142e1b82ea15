import { Command } from "commander";
import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { kindIn } from "../checkpoints/index.js";
import { type SamplingOptions, Decoder, gapPrompt, infillText } from "../generation/index.js";
import { scaledContext } from "../nn/index.js";
import { createRuntime } from "../runtime/index.js";
import {
  type ModelCommand,
  addModelOptions,
  addSamplingOptions,
  loadToTransform,
  loadToWrite,
} from "./inference.js";
import { modelFor } from "./model.js";
import { countOption, examples, option, requiredOption, threadsOption } from "./options.js";
import { colors, print, tell } from "./terminal.js";
import { readInput } from "./texts.js";

interface InfillCommand extends SamplingOptions, ModelCommand {
  readonly model: string;
  readonly mode: "regular" | "extreme";
  readonly maxGapTokens: number;
  readonly seed: number;
  readonly json?: boolean;
  readonly threads?: number;
}

async function infill(given: string | undefined, command: InfillCommand): Promise<void> {
  if (given === undefined && process.stdin.isTTY)
    throw new LineageError("argument", "there is no text: name it, or pipe one into standard input");
  const place = await modelFor(command.model);
  const text = given === undefined || given === "-" ? await readInput() : given;
  const runtime = createRuntime({ threads: command.threads });
  const notes: string[] = [];
  const hasEncoder = (await kindIn(place)) === "encoder-decoder";
  const { kept, ...loaded } = await (hasEncoder ? loadToTransform : loadToWrite)(
    runtime,
    place,
    command,
    notes,
  );
  const { ids, maxNewTokens } = gapPrompt(loaded.tokenizer, text, command, hasEncoder);
  const capacity = Math.min(scaledContext(loaded.model.config), (hasEncoder ? 1 : ids.length) + maxNewTokens);
  using decoder = await Decoder.create({ ...loaded, capacity });
  const filled = await infillText({ ...loaded, decoder }, text, command);
  print(command.json ? `${JSON.stringify({ given: text, ...filled })}\n` : `${filled.text}\n`);
  await kept;
  for (const note of notes) tell(`${colors.dim(note)}\n`);
}

export const infillCommand = new Command("infill")
  .description("write what is missing in a text")
  .argument("[text]", "text with <gap> where something is missing; - or none reads standard input")
  .optionsGroup("Text:")
  .addOption(countOption("maxGapTokens", "most tokens of a gap", 32))
  .addOption(
    option(
      "mode",
      "<name>",
      "how a model that learned several modes fills a gap, with a few words or with much text",
      z.enum(["regular", "extreme"]).default("regular"),
    ),
  )
  .optionsGroup("Model:")
  .addOption(
    requiredOption(
      "model",
      "<place>",
      "a model that learned hidden spans, a decoder (train --objective ul2r) or T5: folder, or ORG/NAME on the hub",
    ),
  );
addSamplingOptions(addModelOptions(infillCommand), { temperature: 0 })
  .optionsGroup("Run:")
  .addOption(threadsOption())
  .option("--json", "one JSON object with the text and what was written in each gap")
  .addHelpText(
    "after",
    examples(
      [
        'lineage infill --model runs/u-palm "Once upon a time <gap>. They lived <gap> ever after."',
        "the most probable words in both gaps",
      ],
      [
        'lineage infill --model runs/u-palm "Once <gap> The end." --mode extreme --temperature 0.8',
        "a longer gap, sampled",
      ],
    ),
  )
  .action(infill);
