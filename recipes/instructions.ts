/** What recipes on instructions share: a base to tune, files of conversations, and answers of what came out. */
import { rmSync } from "node:fs";
import path from "node:path";
import { writeAtomically } from "../src/base/files.js";
import { loadForInference } from "../src/checkpoints/index.js";
import type { Conversation, Message } from "../src/data/index.js";
import { Decoder, type TextOptions, endOfText, generateText } from "../src/generation/index.js";
import type { Runtime } from "../src/runtime/types.js";
import { type FinetuneChatRequest, finetuneChat, train } from "../src/tasks/index.js";
import { ChatTemplate, withChatTemplate } from "../src/tokenizers/index.js";
import type { Curve } from "../src/training/index.js";
import type { RecipeOptions } from "./recipe.js";

/** A folder of the recipe's for a run, without what an earlier one left in it. */
export function freshFolder(out: string, name: string): string {
  const folder = path.join(out, name);
  rmSync(folder, { recursive: true, force: true });
  return folder;
}

/** The model that was given, or a small LLaMA that is trained on the embedded stories. */
export async function baseModel(
  { out, smoke, scale }: RecipeOptions,
  given: string | undefined,
  runtime: Runtime,
): Promise<string> {
  if (given !== undefined) return given;
  const folder = freshFolder(out, "base");
  const steps = smoke ? 4 : Math.round(400 * scale);
  console.log(`base: a LLaMA of 4 layers, 128 wide, ${steps} steps on the embedded stories`);
  const { best = NaN } = await train(
    {
      system: "llama",
      data: "stories",
      sizes: { contextLength: 256, ...(smoke && { hiddenSize: 32, numLayers: 1 }) },
      vocabSize: 1500,
      batch: 8,
      steps,
      evalEvery: steps,
      learningRate: 2e-3,
      out: folder,
    },
    { runtime },
  );
  console.log(`base: held-out loss ${best.toFixed(3)}`);
  return folder;
}

/** Writes conversations as JSONL. */
export async function writeConversations(
  file: string,
  rows: readonly Pick<Conversation, "messages">[],
): Promise<string> {
  await writeAtomically(file, [rows.map(({ messages }) => `${JSON.stringify({ messages })}\n`).join("")]);
  return file;
}

/** Tunes a model on conversations, and keeps the best held-out loss and those of `evaluations` on the way. */
export async function tune(
  runtime: Runtime,
  name: string,
  request: FinetuneChatRequest & { readonly steps: number },
  evaluations: number,
): Promise<{ readonly best: number; readonly curve: Curve }> {
  const points: Curve["points"][number][] = [];
  const { best = NaN } = await finetuneChat(
    { ...request, evalEvery: Math.max(1, Math.ceil(request.steps / evaluations)), samples: 0 },
    { runtime, observer: { evaluated: (step, { loss }) => void points.push({ step, loss: loss! }) } },
  );
  return { best, curve: { label: name, points } };
}

export interface AnswerOptions extends Omit<TextOptions, "constraint"> {
  /** Folder of an adapter beside the model. */
  readonly adapter?: string | undefined;
  /** Tokens of a prompt and its answer. Default 512. */
  readonly capacity?: number;
}

/** The answers of a model to conversations that end with the user, several at a time. */
export async function answersOf(
  runtime: Runtime,
  model: string,
  conversations: readonly (readonly Message[])[],
  { adapter, capacity = 512, ...options }: AnswerOptions,
): Promise<string[]> {
  const loaded = await loadForInference(runtime, model, { adapter });
  try {
    const { tokenizer } = withChatTemplate(loaded.tokenizer, { mayAdd: false });
    const template = new ChatTemplate(tokenizer);
    const room = Math.min(capacity, loaded.model.config.contextLength);
    using decoder = await Decoder.create({
      model: loaded.model,
      weights: loaded.weights,
      slots: 8,
      capacity: room,
    });
    const writer = { decoder, tokenizer, stopIds: loaded.stopIds ?? endOfText(tokenizer) };
    const texts = conversations.map((messages, stream) =>
      generateText(writer, template.encode(messages).slice(-(room - 1)), { ...options, stream }).all(),
    );
    return (await Promise.all(texts)).map(({ text }) => text);
  } finally {
    loaded.weights.dispose();
  }
}
