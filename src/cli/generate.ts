import { Command, Option } from "commander";
import { LineageError } from "../base/errors.js";
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
import { type InferenceModel, loadForInference } from "../checkpoints/index.js";
import { type Device, type Runtime, createRuntime } from "../runtime/index.js";
import { TargetWriter, holdsTargetWriter } from "../tasks/index.js";
import { deviceOption, examples, list, number, preparedOption, preparedWeights } from "./options.js";
import { colors } from "./terminal.js";
import { type QuantizedBits, fastPromptsHelp, schemeOf } from "./quantize.js";

export interface GenerateCommand extends SamplingOptions {
  readonly model: string;
  readonly prompt: string;
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
  { model, tokenizer }: InferenceModel,
  speculative: string,
): Promise<Drafter> {
  if (speculative === "lookup") return promptLookup();
  const draft = await loadForInference(runtime, speculative);
  if (
    draft.model.config.vocabSize !== model.config.vocabSize ||
    draft.tokenizer.vocabSize !== tokenizer.vocabSize
  ) {
    throw new LineageError(
      "tokenizer",
      `the draft model ${speculative} has ${draft.tokenizer.vocabSize} tokens, but the model has ${tokenizer.vocabSize}: they must share one vocabulary`,
    );
  }
  const capacity = Math.min(draft.model.config.contextLength, model.config.contextLength);
  return modelDrafter(await Decoder.create({ ...draft, capacity }));
}

/** What `--json-schema` or `--regex` asks for. */
async function ruleOf({ jsonSchema, regex }: GenerateCommand): Promise<ConstraintRule | undefined> {
  if (jsonSchema === undefined && regex === undefined) return undefined;
  if (jsonSchema !== undefined && regex !== undefined)
    throw new LineageError("argument", "give --json-schema or --regex, not both");
  return jsonSchema !== undefined ? { jsonSchema: await readJson(jsonSchema) } : { regex: regex! };
}

/** Writes the text that a UniLM makes of a prompt. Throws `argument` for options that its way of writing does not have. */
async function writeTarget(command: GenerateCommand): Promise<void> {
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
  const text = await writer.write(command.prompt, command);
  process.stdout.write(command.json ? `${JSON.stringify({ prompt: command.prompt, text })}\n` : `${text}\n`);
}

/** Writes a prompt and its continuation to standard output as it comes. */
export async function generateText(command: GenerateCommand): Promise<void> {
  if (await holdsTargetWriter(command.model)) return writeTarget(command);
  const runtime = createRuntime({ threads: command.threads, device: command.device });
  const notes: string[] = [];
  const loaded = await loadForInference(runtime, command.model, {
    quantize: schemeOf(command.quantize),
    fastPrompts: command.fastPrompts,
    prepared: preparedWeights(command.prepared, notes),
  });
  const { speculative } = command;
  const drafter = speculative === undefined ? undefined : await makeDrafter(runtime, loaded, speculative);
  const rule = await ruleOf(command);
  const controller = new AbortController();
  process.once("SIGINT", () => {
    controller.abort();
  });
  const started = performance.now();
  const pieces = writeText(loaded, command.prompt, {
    ...command,
    drafter,
    rule,
    signal: controller.signal,
  });
  let text = "";
  if (!command.json) process.stdout.write(command.prompt);
  for (;;) {
    const next = await pieces.next();
    if (next.done) {
      const { finish, promptTokens, newTokens, promptSeconds, writeSeconds, speculation } = next.value;
      if (command.json) {
        const seconds = (performance.now() - started) / 1000;
        const result = { prompt: command.prompt, text, ...next.value, seconds };
        process.stdout.write(`${JSON.stringify(result)}\n`);
        break;
      }
      process.stdout.write("\n");
      const rate = newTokens > 1 ? (newTokens - 1) / writeSeconds : 0;
      const guesses = speculation ? `, ${speculation.accepted} of ${speculation.drafted} guesses taken` : "";
      process.stderr.write(
        `[${promptTokens} prompt tokens in ${promptSeconds.toFixed(2)} s, ${newTokens} written at ${rate.toFixed(1)} tokens/s${guesses}, ended by ${finish}]\n`,
      );
      break;
    }
    text += next.value;
    if (!command.json) process.stdout.write(next.value);
  }
  await loaded.kept;
  for (const note of notes) process.stderr.write(`${colors.dim(note)}\n`);
}

export const generateCommand = new Command("generate")
  .description("continue a prompt")
  .option(
    "--model <folder>",
    "what train wrote, a folder of Hugging Face (GPT-2, LLaMA, Mistral), a UniLM or a .gguf",
  )
  .option("--checkpoint <folder>", "the same as --model")
  .option("--prompt <text>", "what to continue", "")
  .option("--max-new-tokens <n>", "tokens to write at most", number, 200)
  .option("--temperature <x>", "0 takes the most probable token every time", number, 0.8)
  .option("--top-k <n>", "keep the k most probable tokens", number)
  .option("--top-p <p>", "keep the most probable tokens up to this probability", number)
  .option("--min-p <p>", "keep tokens this probable beside the first", number)
  .option("--repetition-penalty <x>", "above 1 avoids tokens seen before", number)
  .option("--frequency-penalty <x>", "subtracted for every time that a token was written", number)
  .option("--presence-penalty <x>", "subtracted from tokens that were written", number)
  .option("--stop <text>", "end before this text; may be given again", list)
  .addOption(new Option("--quantize <bits>", "keep matrices in fewer bits").choices(["4", "8", "nf4"]))
  .option("--fast-prompts", fastPromptsHelp)
  .addOption(preparedOption())
  .option("--speculative <drafter>", "lookup, or the folder of a smaller model of the same vocabulary")
  .option("--json-schema <file>", "write JSON that this schema describes")
  .option("--regex <pattern>", "write what this expression matches from first to last character")
  .option("--draft-length <n>", "tokens that a drafter guesses at once", number)
  .addOption(new Option("--cache <type>", "what keys and values are kept as").choices(cacheTypes))
  .option("--seed <n>", "the same seed writes the same text", number, 0)
  .addOption(deviceOption())
  .option("--threads <n>", "threads of the engine", number)
  .option("--json", "one JSON object with the text and its counts")
  .addHelpText(
    "after",
    examples(
      ['lineage generate --model runs/mine --prompt "Once"', "write, streaming"],
      ['lineage generate --model runs/mine --prompt "Once" --temperature 0', "the most probable text"],
      ['lineage generate --model runs/mine --prompt "Q: why?" --stop "Q:" --json', "for a program"],
      ['lineage generate --model runs/mine --prompt "Once" --speculative lookup', "faster where it repeats"],
      [
        'lineage generate --model chat.gguf --prompt "A cat as JSON: " --json-schema cat.json',
        "valid always",
      ],
    ),
  )
  .action(async ({ checkpoint, model, ...options }: CommandOptions) => {
    const place = model ?? checkpoint;
    if (place === undefined)
      throw new LineageError(
        "argument",
        "generate needs --model FOLDER: what train wrote, or a published model",
      );
    await generateText({ ...options, model: place });
  });

type CommandOptions = Omit<GenerateCommand, "model"> & {
  readonly model?: string;
  readonly checkpoint?: string;
};
