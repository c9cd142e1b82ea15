import { Command } from "commander";
import { LineageError } from "../base/errors.js";
import {
  Decoder,
  type FinishReason,
  type SamplingOptions,
  StopStrings,
  generate,
} from "../generation/index.js";
import { StreamDecoder, Tokenizer } from "../io/index.js";
import { type LoadedModel, loadModel } from "../models/index.js";
import { createRuntime } from "../runtime/index.js";
import { examples, list, number } from "./options.js";

export interface GenerateCommand extends SamplingOptions {
  readonly checkpoint: string;
  readonly prompt: string;
  readonly maxNewTokens: number;
  readonly seed: number;
  readonly stop?: readonly string[];
  readonly json?: boolean;
  readonly threads?: number;
}

/** Prompt ids; an empty prompt starts like a document, after the end of the one before it. */
function promptIds(tokenizer: Tokenizer, prompt: string, contextLength: number): number[] {
  const ids = tokenizer.encode(prompt);
  const end = tokenizer.endOfTextId;
  if (ids.length === 0) {
    if (end === undefined)
      throw new LineageError(
        "argument",
        "the prompt is empty, and this tokenizer has no token to start with",
      );
    ids.push(end);
  }
  if (ids.length >= contextLength) {
    throw new LineageError(
      "length",
      `the prompt has ${ids.length} tokens, but the model's context holds ${contextLength} and needs room for the answer; shorten the prompt`,
    );
  }
  return ids;
}

/** Text as it is written: pieces of whole characters, none of them part of a stop string. */
export async function* writeText(
  { model, weights, tokenizer }: LoadedModel,
  options: Omit<GenerateCommand, "checkpoint" | "json" | "threads"> & { signal?: AbortSignal },
): AsyncGenerator<string, { finish: FinishReason; promptTokens: number; newTokens: number }> {
  const { contextLength } = model.config;
  const ids = promptIds(tokenizer, options.prompt, contextLength);
  using decoder = await Decoder.create(model, weights, { batch: 1, capacity: contextLength });
  const characters = new StreamDecoder(tokenizer);
  const stops = new StopStrings(options.stop ?? []);
  const end = tokenizer.endOfTextId;
  let newTokens = 0;
  let finish: FinishReason = "length";
  for await (const token of generate(decoder, [ids], {
    ...options,
    stopIds: end === undefined ? [] : [end],
  })) {
    if (token.finish) finish = token.finish;
    if (token.id === undefined) continue;
    newTokens++;
    const piece = stops.push(characters.push(token.id));
    if (piece !== "") yield piece;
    if (stops.stopped) return { finish: "stop", promptTokens: ids.length, newTokens };
  }
  const rest = stops.push(characters.flush()) + stops.flush();
  if (rest !== "") yield rest;
  return { finish, promptTokens: ids.length, newTokens };
}

/** Writes a prompt and its continuation to standard output as it comes. */
export async function generateText(command: GenerateCommand): Promise<void> {
  const loaded = await loadModel(createRuntime({ threads: command.threads }), command.checkpoint);
  const controller = new AbortController();
  process.once("SIGINT", () => {
    controller.abort();
  });
  const started = performance.now();
  const pieces = writeText(loaded, { ...command, signal: controller.signal });
  let text = "";
  if (!command.json) process.stdout.write(command.prompt);
  for (;;) {
    const next = await pieces.next();
    if (next.done) {
      const { finish, promptTokens, newTokens } = next.value;
      const seconds = (performance.now() - started) / 1000;
      if (command.json)
        process.stdout.write(
          `${JSON.stringify({ prompt: command.prompt, text, finish, promptTokens, newTokens, seconds })}\n`,
        );
      else process.stdout.write(`\n`);
      if (!command.json)
        process.stderr.write(
          `[${promptTokens} prompt tokens, ${newTokens} written, ${Math.round(newTokens / seconds)} tokens/s, ended by ${finish}]\n`,
        );
      return;
    }
    text += next.value;
    if (!command.json) process.stdout.write(next.value);
  }
}

export const generateCommand = new Command("generate")
  .description("continue a prompt")
  .requiredOption("--checkpoint <folder>", "what train wrote, or a GPT-2 of Hugging Face")
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
  .option("--seed <n>", "the same seed writes the same text", number, 0)
  .option("--threads <n>", "threads of the engine", number)
  .option("--json", "one JSON object with the text and its counts")
  .addHelpText(
    "after",
    examples(
      ['lineage generate --checkpoint runs/mine --prompt "Once"', "write, streaming"],
      ['lineage generate --checkpoint runs/mine --prompt "Once" --temperature 0', "the most probable text"],
      ['lineage generate --checkpoint runs/mine --prompt "Q: why?" --stop "Q:" --json', "for a program"],
    ),
  )
  .action(generateText);
