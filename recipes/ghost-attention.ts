/** Ghost attention, Touvron et al. 2023 ("Llama 2"), section 3.3: an instruction of the first turn that holds for a whole conversation. */
import path from "node:path";
import { Random } from "../src/base/random.js";
import { saveModel } from "../src/checkpoints/index.js";
import { type Conversation, type Message, ghostConversation, ghostPrompt } from "../src/data/index.js";
import { systems } from "../src/models/index.js";
import { Weights } from "../src/nn/index.js";
import type { Runtime } from "../src/runtime/types.js";
import { trainByteLevelBpe } from "../src/tokenizers/index.js";
import type { Curve } from "../src/training/index.js";
import { answersOf, freshFolder, tune, writeConversations } from "./instructions.js";
import type { RecipeOptions } from "./recipe.js";

const things = "ball boat book bread bridge cake chair clock cloud coat cup door drum egg fish flag".split(
  " ",
);
const looks = "red blue green small big old new round soft warm cold bright".split(" ");
const names = "captain doctor teacher baker farmer sailor painter miller".split(" ");

/** The instruction: what every answer is to end with. */
const instructionOf = (name: string): string => `Always call me ${name}.`;
const question = (thing: string): Message => ({ role: "user", content: `How is the ${thing}?` });
const answer = (thing: string, look: string, name?: string): Message => ({
  role: "assistant",
  content: `The ${thing} is ${look}${name === undefined ? "" : `, ${name}`}.`,
});

export interface GhostResult {
  /** Share of answers that keep the instruction, by turn from 1; the first entry is that of the base. */
  readonly curves: readonly Curve[];
  readonly table: readonly (readonly string[])[];
}

/**
 * A LLaMA that has seen long conversations, none of them under an instruction, and instructions, each before one question. Then
 * the model answers in conversations with the instruction before every question, and learns its last answers with the instruction
 * before the first question alone. Beside it, the same number of steps on answers that it gave with the instruction in the first turn alone.
 */
export async function ghostAttention(
  runtime: Runtime,
  { out, smoke, scale }: RecipeOptions,
): Promise<GhostResult> {
  const plan = {
    conversations: smoke ? 24 : 1600,
    turns: smoke ? 3 : 12,
    baseSteps: smoke ? 4 : Math.round(400 * scale),
    sampled: smoke ? 8 : 192,
    steps: smoke ? 4 : Math.round(100 * scale),
    asked: smoke ? 4 : 64,
  };
  const random = new Random(9);
  const one = (words: readonly string[]): string => words[random.integer(words.length)]!;
  const talk = (turns: number, name?: string): Message[] =>
    Array.from({ length: turns }, () => one(things)).flatMap((thing) => [
      question(thing),
      answer(thing, one(looks), name),
    ]);

  // ---- The base ------------------------------------------------------------------------------------------------------

  const rows = Array.from({ length: plan.conversations }, (_, index): { messages: Message[] } => {
    if (index % 2 === 0) return { messages: talk(1 + random.integer(plan.turns)) };
    const name = one(names);
    return { messages: ghostPrompt(instructionOf(name), talk(1, name)) };
  });
  const tokenizer = trainByteLevelBpe(
    rows.flatMap(({ messages }) => messages.map(({ content }) => content)),
    { vocabSize: 400 },
  );
  const sizes = smoke
    ? { hiddenSize: 32, numLayers: 1, numHeads: 2 }
    : { hiddenSize: 128, numLayers: 3, numHeads: 4 };
  const config = systems.llama.config.create({
    ...sizes,
    vocabSize: tokenizer.vocabSize,
    contextLength: 512,
  });
  const model = systems.llama.create(config);
  const raw = freshFolder(out, "ghost-raw");
  {
    using weights = Weights.initialize(runtime, model, 1);
    await saveModel(raw, { system: systems.llama, model, weights, tokenizer });
  }
  const shared = { adapter: "none" as const, maxTokens: 2048, maxLength: 512, validation: 0.05 };
  const learn = async (
    name: string,
    from: string,
    data: readonly { messages: readonly Message[] }[],
    steps: number,
    learningRate: number,
  ) => {
    const folder = freshFolder(out, `ghost-${name}`);
    const file = await writeConversations(path.join(out, `ghost-${name}.jsonl`), data);
    const { best } = await tune(
      runtime,
      name,
      { ...shared, model: from, data: file, out: folder, steps, learningRate },
      2,
    );
    console.log(`ghost attention, ${name}: held-out loss ${best.toFixed(3)}`);
    return folder;
  };
  const base = await learn("base", raw, rows, plan.baseSteps, 2e-3);

  // ---- Answers of the base -------------------------------------------------------------------------------------------

  /** Conversations that a model has, turn after turn; `told` says how it reads them. */
  const converse = async (
    from: string,
    starts: readonly { readonly name: string; readonly things: readonly string[] }[],
    told: (instruction: string, messages: readonly Message[]) => Message[],
    temperature: number,
  ): Promise<Message[][]> => {
    const held: Message[][] = starts.map(() => []);
    for (let turn = 0; turn < plan.turns; turn++) {
      starts.forEach(({ things: asked }, row) => held[row]!.push(question(asked[turn]!)));
      const said = await answersOf(
        runtime,
        from,
        held.map((messages, row) => told(instructionOf(starts[row]!.name), messages)),
        { temperature, seed: turn, maxNewTokens: 24 },
      );
      said.forEach((content, row) => held[row]!.push({ role: "assistant", content }));
    }
    return held;
  };
  const inFirst = (instruction: string, messages: readonly Message[]): Message[] =>
    messages.map((message, place) => (place === 0 ? ghostPrompt(instruction, [message])[0]! : message));
  const startsOf = (count: number) =>
    Array.from({ length: count }, () => ({
      name: one(names),
      things: Array.from({ length: plan.turns }, () => one(things)),
    }));
  const starts = startsOf(plan.sampled);
  /** Of each conversation every length, so that each turn is the last one of some row. */
  const lessons = (held: readonly Message[][]): Conversation[] =>
    held.flatMap((messages, row) => {
      const turns = 1 + (row % plan.turns);
      return [
        ghostConversation(instructionOf(starts[row]!.name), { row, messages: messages.slice(0, 2 * turns) }),
        ghostConversation(instructionOf(starts[row]!.name), { row, messages }),
      ];
    });
  const ghosts = await converse(base, starts, ghostPrompt, 0.7);
  const plain = await converse(base, starts, inFirst, 0.7);

  // ---- Learning from them, and ten turns later ------------------------------------------------------------------------

  const withGhosts = await learn("with", base, lessons(ghosts), plan.steps, 5e-4);
  const without = await learn("without", base, lessons(plain), plan.steps, 5e-4);
  const asked = startsOf(plan.asked);
  const curves: Curve[] = [];
  for (const [label, folder] of [
    ["base", base],
    ["tuned without ghost attention", without],
    ["with ghost attention", withGhosts],
  ] as const) {
    const held = await converse(folder, asked, inFirst, 0);
    curves.push({
      label,
      points: Array.from({ length: plan.turns }, (_, turn) => ({
        step: turn + 1,
        loss:
          held.filter((messages, row) => messages[2 * turn + 1]!.content.includes(asked[row]!.name)).length /
          asked.length,
      })),
    });
    console.log(
      `${label}: ${held[0]!
        .filter(({ role }) => role === "assistant")
        .map(({ content }) => content)
        .join(" | ")}`,
    );
  }
  const shown = [1, 2, 5, plan.turns].filter((turn) => turn <= plan.turns);
  return {
    curves,
    table: [
      ["keeps the instruction", ...shown.map((turn) => `turn ${turn}`)],
      ...curves.map(({ label, points }) => [
        label,
        ...shown.map((turn) => `${(100 * points[turn - 1]!.loss!).toFixed(0)}%`),
      ]),
    ],
  };
}
