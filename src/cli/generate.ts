import { Command } from "commander";
import { z } from "zod";
import { LineageError, messageOf } from "../base/errors.js";
import { readJson } from "../base/files.js";
import {
  type CacheType,
  type ConstraintRule,
  Decoder,
  type Drafter,
  type SamplingOptions,
  cacheTypes,
  modelDrafter,
  promptLookup,
  writeText,
} from "../generation/index.js";
import { type InferenceCheckpoint, loadForInference } from "../checkpoints/index.js";
import { scaledContext } from "../nn/index.js";
import { type Device, type Runtime, createRuntime } from "../runtime/index.js";
import { TargetWriter, holdsTargetWriter } from "../tasks/index.js";
import { modelFor } from "./model.js";
import {
  countOption,
  deviceOption,
  examples,
  option,
  preparedOption,
  preparedWeights,
  threadsOption,
} from "./options.js";
import { interruptible } from "./progress.js";
import { readInput } from "./texts.js";
import { colors, print, tell } from "./terminal.js";
import { type QuantizedBits, fastPromptsHelp, schemeOf } from "./quantize.js";

export interface GenerateCommand extends SamplingOptions {
  readonly model: string;
  /** Without one, or where it is `-`, standard input is read. */
  readonly prompt?: string;
  readonly maxNewTokens: number;
  readonly seed: number;
  readonly stop?: readonly string[];
  /** `lookup`, or the folder of a smaller model of the same vocabulary. */
  readonly speculative?: string;
  readonly draftLength?: number;
  /** A file with the JSON schema that the answer must satisfy. */
  readonly jsonSchema?: string;
  /** What the whole answer must match. */
  readonly regex?: string;
  readonly quantize?: QuantizedBits;
  readonly fastPrompts?: boolean;
  readonly prepared?: boolean;
  readonly cache?: CacheType;
  readonly json?: boolean;
  readonly threads?: number;
  readonly device?: Device;
}

/** Who guesses the next tokens for `--speculative`. Throws `tokenizer` for a model of another vocabulary. */
async function makeDrafter(
  runtime: Runtime,
  { model, tokenizer }: InferenceCheckpoint,
  speculative: string,
): Promise<Drafter> {
  if (speculative === "lookup") return promptLookup();
  const draft = await loadForInference(runtime, await modelFor(speculative));
  if (
    draft.model.config.vocabSize !== model.config.vocabSize ||
    draft.tokenizer.vocabSize !== tokenizer.vocabSize
  ) {
    throw new LineageError(
      "tokenizer",
      `the draft model ${speculative} has ${draft.tokenizer.vocabSize} tokens, but the model has ${tokenizer.vocabSize}: they must share one vocabulary`,
    );
  }
  const capacity = Math.min(scaledContext(draft.model.config), scaledContext(model.config));
  return modelDrafter(await Decoder.create({ ...draft, capacity }));
}

/** What `--json-schema` or `--regex` asks for. */
async function ruleOf({ jsonSchema, regex }: GenerateCommand): Promise<ConstraintRule | undefined> {
  if (jsonSchema === undefined && regex === undefined) return undefined;
  if (jsonSchema !== undefined && regex !== undefined)
    throw new LineageError("argument", "give --json-schema or --regex, not both");
  if (jsonSchema !== undefined) return { jsonSchema: await readJson(jsonSchema) };
  try {
    new RegExp(regex!, "u");
  } catch (error) {
    throw new LineageError("argument", `--regex: ${messageOf(error)}`, { cause: error });
  }
  return { regex: regex! };
}

/** Writes the text that a UniLM makes of a prompt. Throws `argument` for options that its way of writing does not have. */
async function writeTarget(command: GenerateCommand, prompt: string): Promise<void> {
  const { speculative, jsonSchema, regex, quantize, stop } = command;
  for (const [option, value] of Object.entries({ speculative, jsonSchema, regex, quantize, stop }))
    if (value !== undefined)
      throw new LineageError(
        "argument",
        `${command.model} is a UniLM, which writes the likeliest word each time; leave ${option} out`,
      );
  using writer = await TargetWriter.load(command.model, {
    runtime: createRuntime({ threads: command.threads }),
  });
  const text = await writer.write(prompt, command);
  print(command.json ? `${JSON.stringify({ prompt, text })}\n` : `${text}\n`);
}

/** Writes a prompt and its continuation to standard output as it comes. */
export async function generateText(command: GenerateCommand): Promise<void> {
  if (command.prompt === undefined && process.stdin.isTTY)
    throw new LineageError("argument", "there is no text: give --prompt TEXT, or send it to standard input");
  // Everything that can be wrong with what was typed is looked at before a model is loaded.
  const rule = await ruleOf(command);
  const place = await modelFor(command.model);
  const prompt = command.prompt === undefined || command.prompt === "-" ? await readInput() : command.prompt;
  if (await holdsTargetWriter(place)) return writeTarget({ ...command, model: place }, prompt);
  const runtime = createRuntime({ threads: command.threads, device: command.device });
  const notes: string[] = [];
  const loaded = await loadForInference(runtime, place, {
    quantize: schemeOf(command.quantize),
    fastPrompts: command.fastPrompts,
    prepared: preparedWeights(command.prepared, notes),
  });
  const { speculative } = command;
  const drafter = speculative === undefined ? undefined : await makeDrafter(runtime, loaded, speculative);
  await interruptible((signal) =>
    writeAnswer(prompt, command, writeText(loaded, prompt, { ...command, drafter, rule, signal })),
  );
  await loaded.kept;
  for (const note of notes) tell(`${colors.dim(note)}\n`);
}

/** Prints a text as it comes, then how it came about. */
async function writeAnswer(
  prompt: string,
  command: GenerateCommand,
  pieces: ReturnType<typeof writeText>,
): Promise<void> {
  const started = performance.now();
  let text = "";
  if (!command.json) print(prompt);
  for (;;) {
    const next = await pieces.next();
    if (next.done) {
      const { finish, promptTokens, newTokens, promptSeconds, writeSeconds, speculation } = next.value;
      if (command.json) {
        const seconds = (performance.now() - started) / 1000;
        const result = { prompt, text, ...next.value, seconds };
        print(`${JSON.stringify(result)}\n`);
        break;
      }
      print("\n");
      const rate = newTokens > 1 ? (newTokens - 1) / writeSeconds : 0;
      const guesses = speculation ? `, ${speculation.accepted} of ${speculation.drafted} guesses taken` : "";
      tell(
        `[${promptTokens} prompt tokens in ${promptSeconds.toFixed(2)} s, ${newTokens} written at ${rate.toFixed(1)} tokens/s${guesses}, ended by ${finish}]\n`,
      );
      break;
    }
    text += next.value;
    if (!command.json) print(next.value);
  }
}

export const generateCommand = new Command("generate")
  .description("continue a prompt")
  .optionsGroup("Text:")
  .addOption(
    option("prompt", "<text>", "what to continue; - reads standard input", z.string(), {
      usual: "standard input",
    }),
  )
  .addOption(option("maxNewTokens", "<n>", "tokens to write at most", z.int().nonnegative().default(200)))
  .addOption(
    option("stop", "<text>", "end before this text; may be given again", z.string().min(1), { again: true }),
  )
  .addOption(option("jsonSchema", "<file>", "write JSON that this schema describes"))
  .addOption(option("regex", "<pattern>", "write what this expression matches from first to last character"))
  .optionsGroup("Sampling:")
  .addOption(
    option(
      "temperature",
      "<x>",
      "0 takes the most probable token every time",
      z.number().nonnegative().default(0.8),
    ),
  )
  .addOption(countOption("topK", "keep the n most probable tokens", undefined, { usual: "all" }))
  .addOption(
    option(
      "topP",
      "<p>",
      "keep the most probable tokens up to this probability",
      z.number().positive().max(1),
      {
        usual: "1",
      },
    ),
  )
  .addOption(
    option(
      "minP",
      "<p>",
      "keep tokens at least this probable beside the most probable",
      z.number().min(0).max(1),
      {
        usual: "0",
      },
    ),
  )
  .addOption(
    option("repetitionPenalty", "<x>", "above 1 avoids tokens seen before", z.number().positive(), {
      usual: "1",
    }),
  )
  .addOption(
    option("frequencyPenalty", "<x>", "subtracted for every time that a token was written", z.number(), {
      usual: "0",
    }),
  )
  .addOption(
    option("presencePenalty", "<x>", "subtracted from tokens that were written", z.number(), { usual: "0" }),
  )
  .addOption(option("seed", "<n>", "the same seed writes the same text", z.int().nonnegative().default(0)))
  .optionsGroup("Model:")
  .requiredOption(
    "--model <place>",
    "what train wrote, a folder of Hugging Face, a .gguf, or a hub's ORG/NAME",
  )
  .addOption(
    option("quantize", "<bits>", "keep matrices in fewer bits", z.enum(["4", "8", "nf4"]), {
      usual: "as they are",
    }),
  )
  .option("--fast-prompts", fastPromptsHelp)
  .addOption(preparedOption())
  .addOption(
    option("cache", "<type>", "what keys and values are kept as", z.enum(cacheTypes), { usual: "float32" }),
  )
  .addOption(
    option("speculative", "<drafter>", "lookup, or the folder of a smaller model of the same vocabulary"),
  )
  .addOption(countOption("draftLength", "tokens that a drafter guesses at once"))
  .optionsGroup("Run:")
  .addOption(deviceOption())
  .addOption(threadsOption())
  .option("--json", "one JSON object with the text and its counts")
  .addHelpText(
    "after",
    examples(
      ['lineage generate --model runs/mine --prompt "Once"', "write, streaming"],
      ['lineage generate --model runs/mine --prompt "Once" --temperature 0', "the most probable text"],
      ['lineage generate --model runs/mine --prompt "Q: why?" --stop "Q:" --json', "for a program"],
      ['echo "Once" | lineage generate --model runs/mine', "a prompt from standard input"],
      ['lineage generate --model runs/mine --prompt "Once" --speculative lookup', "faster where it repeats"],
      [
        'lineage generate --model chat.gguf --prompt "A cat as JSON: " --json-schema cat.json',
        "valid always",
      ],
    ),
  )
  .action(generateText);
