import { Command } from "commander";
import { z } from "zod";
import { LineageError, messageOf } from "../base/errors.js";
import { readJson } from "../base/files.js";
import {
  type CacheType,
  ConstraintCompiler,
  type ConstraintRule,
  Decoder,
  type Drafter,
  type FinishReason,
  type SamplingOptions,
  type TextReport,
  type WriteOptions,
  cacheTypes,
  generateText as continueText,
  modelDrafter,
  promptIds,
  promptLookup,
  writeText,
} from "../generation/index.js";
import { type InferenceCheckpoint, loadForInference } from "../checkpoints/index.js";
import { scaledContext } from "../nn/index.js";
import { type Device, type Runtime, createRuntime } from "../runtime/index.js";
import { controlled } from "../tokenizers/index.js";
import { TargetWriter, holdsTargetWriter } from "../tasks/index.js";
import {
  type ChoosingCommand,
  addModelOptions,
  addSamplingOptions,
  inWordsOf,
  loadToChoose,
} from "./inference.js";
import { modelFor } from "./model.js";
import {
  countOption,
  deviceOption,
  examples,
  flagOf,
  option,
  threadsOption,
  requiredOption,
} from "./options.js";
import { interruptible } from "./progress.js";
import { readInput } from "./texts.js";
import { colors, print, tell } from "./terminal.js";

export interface GenerateCommand extends SamplingOptions, ChoosingCommand {
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
  /** `column=label` of documents that the text is to be like. */
  readonly control?: readonly string[];
  readonly cache?: CacheType;
  readonly json?: boolean;
  readonly threads?: number;
  readonly device?: Device;
}

/** What drafts tokens for `--speculative`. Throws `tokenizer` for a model of another vocabulary. */
async function makeDrafter(
  runtime: Runtime,
  { model, tokenizer }: InferenceCheckpoint,
  { model: source, speculative = "lookup" }: GenerateCommand,
): Promise<Drafter> {
  if (speculative === "lookup") return promptLookup();
  const draft = await loadForInference(runtime, await modelFor(speculative));
  if (
    draft.model.config.vocabSize !== model.config.vocabSize ||
    draft.tokenizer.vocabSize !== tokenizer.vocabSize
  ) {
    throw new LineageError(
      "tokenizer",
      `the draft model ${speculative} has a vocabulary of ${draft.tokenizer.vocabSize} tokens, but ${source} has ${tokenizer.vocabSize}; --speculative needs a model with the same vocabulary`,
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
  const { speculative, jsonSchema, regex, control, quantize, stop, adapter } = command;
  const others = { speculative, jsonSchema, regex, control, quantize, stop, adapter };
  for (const [option, value] of Object.entries(others))
    if (value !== undefined)
      throw new LineageError(
        "argument",
        `${command.model} is a UniLM, which always takes the most probable token; leave out ${flagOf(option)}`,
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
    throw new LineageError(
      "argument",
      "there is no prompt: give --prompt TEXT, or pipe a text into standard input",
    );
  // Everything that can be wrong with what was typed is looked at before a model is loaded.
  const rule = await ruleOf(command);
  const place = await modelFor(command.model);
  const prompt = command.prompt === undefined || command.prompt === "-" ? await readInput() : command.prompt;
  if (await holdsTargetWriter(place)) return writeTarget({ ...command, model: place }, prompt);
  const runtime = createRuntime({ threads: command.threads, device: command.device });
  const notes: string[] = [];
  const loaded = await loadToChoose(runtime, place, command, notes);
  const { speculative } = command;
  const drafter = speculative === undefined ? undefined : await makeDrafter(runtime, loaded, command);
  await interruptible((signal) => {
    const options = { ...command, adapter: undefined, drafter, rule, signal };
    return loaded.adapters
      ? writeByEach(loaded, prompt, command, options)
      : writeAnswer(prompt, command, writeText(loaded, prompt, options));
  });
  await loaded.kept;
  for (const note of notes) tell(`${colors.dim(note)}\n`);
}

/** Prints what each adapter makes of a prompt. The texts are written side by side. */
async function writeByEach(
  loaded: InferenceCheckpoint,
  prompt: string,
  command: GenerateCommand,
  { cache, control, maxNewTokens = 200, rule, ...options }: WriteOptions,
): Promise<void> {
  const { model, weights } = loaded;
  const { vocabSize } = model.config;
  const asked = [...loaded.adapters!.keys()].map((adapter) => {
    const { tokenizer, stopIds } = inWordsOf(loaded, adapter);
    return { adapter, tokenizer, stopIds, ids: promptIds(tokenizer, controlled(tokenizer, prompt, control)) };
  });
  const longest = Math.max(...asked.map(({ ids }) => ids.length));
  using decoder = await Decoder.create({
    ...{ model, weights },
    slots: asked.length,
    capacity: Math.min(scaledContext(model.config), longest + Math.max(1, maxNewTokens)),
    cacheType: cache,
  });
  const rules: Disposable[] = [];
  try {
    const texts = [];
    for (const { adapter, tokenizer, stopIds, ids } of asked) {
      const compiler = rule && (await ConstraintCompiler.create(tokenizer, { vocabSize, stopIds }));
      if (compiler) rules.push(compiler);
      const constraint = rule && (await compiler?.compile(rule));
      if (constraint) rules.push(constraint);
      const writer = { decoder, tokenizer, stopIds };
      texts.push(continueText(writer, ids, { ...options, adapter, maxNewTokens, constraint }));
    }
    for (const [index, text] of texts.entries()) {
      const { adapter } = asked[index]!;
      if (!command.json) tell(`${index === 0 ? "" : "\n"}${colors.bold(adapter)}\n`);
      await writeAnswer(prompt, command, text, adapter);
    }
  } finally {
    for (const one of rules.reverse()) one[Symbol.dispose]();
  }
}

const endings: Readonly<Record<FinishReason, string>> = {
  stop: "end of text",
  length: "--max-new-tokens reached",
  context: "context full",
};

/** Prints a text as it comes, then a line of figures. */
async function writeAnswer(
  prompt: string,
  command: GenerateCommand,
  pieces: AsyncIterator<string, TextReport>,
  adapter?: string,
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
        const result = { ...(adapter !== undefined && { adapter }), prompt, text, ...next.value, seconds };
        print(`${JSON.stringify(result)}\n`);
        break;
      }
      print("\n");
      const rate = newTokens > 1 ? (newTokens - 1) / writeSeconds : 0;
      const guesses = speculation
        ? `, ${speculation.accepted} of ${speculation.drafted} drafted tokens accepted`
        : "";
      tell(
        `[${promptTokens} prompt tokens in ${promptSeconds.toFixed(2)} s, ${newTokens} tokens written at ${rate.toFixed(1)} tokens/s${guesses}, ${endings[finish]}]\n`,
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
    option("prompt", "<text>", "the text to continue; - reads standard input", z.string(), {
      usual: "standard input",
    }),
  )
  .addOption(option("maxNewTokens", "<n>", "most tokens to write", z.int().nonnegative().default(200)))
  .addOption(
    option("stop", "<text>", "stop before this text; may be repeated", z.string().min(1), { again: true }),
  )
  .addOption(option("jsonSchema", "<file>", "write only JSON that this JSON schema allows"))
  .addOption(option("regex", "<pattern>", "write only what this regular expression matches as a whole"))
  .addOption(
    option(
      "control",
      "<column=label>",
      "write like the documents that were marked so (train --control-column); may be repeated",
      z.string(),
      { again: true, usual: "none" },
    ),
  )
  .optionsGroup("Model:")
  .addOption(requiredOption("model", "<place>", "a folder, a .gguf file, or ORG/NAME on the hub"));
addSamplingOptions(
  addModelOptions(generateCommand, "several, each as NAME=FOLDER, write a text each")
    .addOption(
      option("cache", "<type>", "type of the cached keys and values", z.enum(cacheTypes), {
        usual: "float32",
      }),
    )
    .addOption(
      option(
        "speculative",
        "<drafter>",
        "speculative decoding; drafts come from lookup (the text so far), or from a smaller model with the same vocabulary",
        z.string(),
        { usual: "off" },
      ),
    )
    .addOption(countOption("draftLength", "tokens of a draft", undefined, { usual: "5" })),
  { temperature: 0.8 },
)
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
      [
        'lineage generate --model runs/mine --prompt "Once" --speculative lookup',
        "faster where text repeats",
      ],
      [
        'lineage generate --model chat.gguf --prompt "A cat as JSON: " --json-schema cat.json',
        "always valid JSON",
      ],
    ),
  )
  .action(generateText);
